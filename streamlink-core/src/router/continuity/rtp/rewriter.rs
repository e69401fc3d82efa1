//! Rewriting of the numbers of one RTP stream, and of the sender reports about it.

use crate::media::{Packet, rtp::Header, rtsp::break_links_of_payload};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// Maximum step back within one timeline, in seconds: pictures come in decoding order.
const MAX_BACK: i64 = 1;
/// Maximum step forward beyond the time that has passed, in seconds, within one timeline.
const MAX_AHEAD: i64 = 3;
/// Maximum distance of a sender report from the packets of its timeline, in seconds.
const MAX_REPORTED: i64 = 10;
/// Maximum steps of the sequence number within one sequence (RFC 3550 appendix A.1).
const MAX_MISORDER: i16 = 1000;
const MAX_DROPOUT: i16 = 3000;
/// Rewrites the numbers of one RTP stream. The first connection is not altered.
#[derive(Debug)]
pub(super) struct RtpRewriter {
    pub(super) clock_rate: u32,
    pub(super) ssrc: Option<u32>,
    /// The payload type of altered packets.
    pub(super) payload_type: Option<u8>,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    /// Sequence number, timestamp and arrival time of the last packet, as passed on.
    pub(super) last: Option<(u16, u32, Instant)>,
    /// The latest timestamp: pictures come in decoding order.
    pub(super) latest: u32,
    /// The shortest step between two timestamps.
    pub(super) step: Option<u32>,
    /// Packets hold sound, of one frame or of several: of AAC, ffmpeg sends seven at a time.
    pub(super) is_audio: bool,
    /// Packets are those of HEVC as RFC 7798 has it.
    pub(super) is_hevc: bool,
    /// Timestamp of the first picture of HEVC of this connection, as it came, if the connection continues another one.
    splice: Option<u32>,
    /// The longest of the last steps between two packets of sound.
    longest: u32,
    /// The last sender report passed on: its NTP time (32.32 bits of seconds) and timestamp.
    pub(super) report: Option<(u64, u32)>,
    /// Added to the NTP times of reports; `None` until this connection has brought one.
    pub(super) clock: Option<u64>,
    /// A report of this connection had a timestamp near those of its packets. Some senders never do so.
    pub(super) reports_fit: bool,
    pub(super) fresh: bool,
    /// Packets are altered.
    pub(super) alters: bool,
    /// The last packet of this connection, as it came.
    input: Option<Input>,
}

/// Numbers of a packet as it came.
#[derive(Clone, Copy, Debug)]
struct Input {
    ssrc: u32,
    sequence: u16,
    /// The latest timestamp.
    timestamp: u32,
    arrival: Instant,
}

impl Input {
    /// Returns the distance of a timestamp from where it would be by the time that has passed, in units of the clock.
    fn deviation(&self, timestamp: u32, clock_rate: u32, arrival: Instant) -> i64 {
        i64::from(timestamp.wrapping_sub(self.timestamp) as i32) - units(self.arrival, arrival, clock_rate)
    }
}

/// Returns the time from one moment to another, in units of a clock.
fn units(from: Instant, to: Instant, clock_rate: u32) -> i64 {
    let (time, sign) = match to.checked_duration_since(from) {
        Some(later) => (later, 1),
        None => (from.saturating_duration_since(to), -1),
    };
    let units = time.as_micros() * u128::from(clock_rate) / 1_000_000;
    i64::try_from(units).map_or(i64::MAX / 2, |units| units.min(i64::MAX / 2)) * sign
}

impl RtpRewriter {
    pub(super) fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            ssrc: None,
            payload_type: None,
            sequence: 0,
            timestamp: 0,
            last: None,
            latest: 0,
            step: None,
            is_audio: false,
            is_hevc: false,
            splice: None,
            longest: 0,
            report: None,
            clock: None,
            reports_fit: false,
            fresh: true,
            alters: false,
            input: None,
        }
    }

    pub(super) fn begin(&mut self) {
        self.fresh = true;
        self.clock = None;
        self.reports_fit = false;
        self.input = None;
    }

    /// Begins another timeline if the sender has started again, or its clock has stepped, on the same connection: its
    /// packets continue those before.
    pub(super) fn follow_steps(&mut self, header: &Header, arrival: Instant) {
        let timestamp = header.timestamp;
        let next = Input { ssrc: header.ssrc, sequence: header.sequence, timestamp, arrival };
        let Some(input) = self.input.replace(next) else { return };
        let rate = i64::from(self.clock_rate);
        let step = i64::from(timestamp.wrapping_sub(input.timestamp) as i32); // modulo 2^32
        let passed = units(input.arrival, arrival, self.clock_rate);
        let is_other = input.ssrc != header.ssrc;
        let is_step = step < -MAX_BACK * rate || step - passed > MAX_AHEAD * rate;
        let distance = header.sequence.wrapping_sub(input.sequence) as i16; // modulo 2^16
        let leaps = !(-MAX_MISORDER..=MAX_DROPOUT).contains(&distance);
        if (is_other || leaps || is_step)
            && let Some((sequence, ..)) = self.last
        {
            if is_other || leaps {
                self.sequence = sequence.wrapping_add(1).wrapping_sub(header.sequence);
            }
            if is_other || is_step {
                let own = i64::from(self.duration());
                let gap = if passed > own + rate / 2 { passed } else { own };
                self.timestamp = self.latest.wrapping_add(gap as u32).wrapping_sub(timestamp); // modulo 2^32
                self.clock = None;
            }
            self.alters = true;
        } else if step < 0 {
            // A picture that is shown before the last one.
            self.input = Some(Input { timestamp: input.timestamp, ..next });
        }
    }

    /// Returns the time that the latest packet covers, as far as the steps between those before it tell, in units of the
    /// clock.
    fn duration(&self) -> u32 {
        self.step.unwrap_or(1).max(self.longest)
    }

    /// Records the step from the packet before. Packets of sound may hold frames in numbers that differ.
    fn record_step(&mut self, before: u32, timestamp: u32) {
        let step = timestamp.wrapping_sub(before) as i32; // modulo 2^32
        if step == 0 {
            return;
        }
        self.step = self.step.into_iter().chain([step.unsigned_abs()]).min();
        // A longer step is a pause, or a loss.
        if self.is_audio && step > 0 && step.unsigned_abs() <= self.clock_rate / 2 {
            self.longest = step.unsigned_abs().max(self.longest - self.longest / 8);
        }
    }

    /// Returns the timestamp of a packet at `at`, had the stream not been away.
    fn place(&self, at: Instant) -> Option<u32> {
        let (_, timestamp, last) = self.last?;
        let gap = at.saturating_duration_since(last).as_micros() * u128::from(self.clock_rate) / 1_000_000;
        Some(timestamp.wrapping_add(u32::try_from(gap).unwrap_or(u32::MAX).max(1)))
    }

    /// Returns the time that a packet at `at` must be delayed to come after all earlier ones.
    pub(super) fn wait(&self, at: Instant) -> Duration {
        let Some(place) = self.place(at) else { return Duration::ZERO };
        let missing = self.latest.wrapping_add(self.duration()).wrapping_sub(place);
        if missing < 1 << 31 {
            Duration::from_micros(u64::from(missing) * 1_000_000 / u64::from(self.clock_rate) + 1)
        } else {
            Duration::ZERO
        }
    }

    /// Rewrites a packet. `shift`: delay of a stream that takes over.
    pub(super) fn packet(&mut self, packet: Packet, header: &Header, shift: Duration) -> Packet {
        if std::mem::take(&mut self.fresh)
            && let (Some((sequence, ..)), Some(place)) = (self.last, self.place(packet.arrival() + shift))
        {
            self.sequence = sequence.wrapping_add(1).wrapping_sub(header.sequence);
            self.timestamp = place.wrapping_sub(header.timestamp);
            self.alters = true;
            self.splice = Some(header.timestamp).filter(|_| self.is_hevc);
        }
        self.splice = self.splice.filter(|splice| *splice == header.timestamp);
        let ssrc = *self.ssrc.get_or_insert(header.ssrc);
        let sequence = header.sequence.wrapping_add(self.sequence);
        let timestamp = header.timestamp.wrapping_add(self.timestamp);
        let later = |last: u16| sequence.wrapping_sub(last) < 1 << 15;
        let before = self.last.map(|(_, before, _)| before);
        if self.last.is_none_or(|(last, ..)| later(last)) {
            self.last = Some((sequence, timestamp, packet.arrival() + shift));
        }
        if let Some(before) = before {
            self.record_step(before, timestamp);
        }
        if before.is_none() || timestamp.wrapping_sub(self.latest) < 1 << 31 {
            self.latest = timestamp;
        }
        if !self.alters {
            return packet;
        }
        let mut data = BytesMut::from(&packet.data()[..]);
        // Invariant: a header has been read from these bytes.
        if let Some(payload_type) = self.payload_type {
            data[1] = data[1] & 0x80 | payload_type;
        }
        data[2..4].copy_from_slice(&sequence.to_be_bytes());
        data[4..8].copy_from_slice(&timestamp.to_be_bytes());
        data[8..12].copy_from_slice(&ssrc.to_be_bytes());
        if self.splice.is_some()
            && let Some(payload) = data.get_mut(header.payload_start..header.payload_end)
        {
            break_links_of_payload(payload);
        }
        packet.with_data(data.freeze())
    }

    /// Rewrites a sender report to the same source, timestamps and clock (RFC 3550 section 6.4.1). `clock`: added to
    /// the NTP times of all tracks, once known. `None` for a report that has no place yet.
    pub(super) fn report(&mut self, data: &Bytes, clock: &mut Option<u64>, arrival: Instant) -> Option<Bytes> {
        let Some((head, _)) = data.split_first_chunk::<20>().filter(|(head, _)| head[1] == 200) else {
            return Some(data.clone());
        };
        if self.fresh && self.last.is_some() {
            return None;
        }
        let [.., n0, n1, n2, n3, n4, n5, n6, n7, t0, t1, t2, t3] = *head;
        let ntp = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        let time = u32::from_be_bytes([t0, t1, t2, t3]);
        let rate = i64::from(self.clock_rate);
        let deviation = self.input.map(|input| input.deviation(time, self.clock_rate, arrival));
        match deviation {
            Some(deviation) if deviation.abs() <= MAX_REPORTED * rate => self.reports_fit = true,
            // Of a timeline that has not begun, or has ended.
            Some(_) if self.reports_fit => return None,
            _ => {}
        }
        let time = time.wrapping_add(self.timestamp);
        if let (Some(clock), Some((before, at))) = (self.clock, self.report) {
            // A wall clock that was set is no reason to move pictures and sound.
            let since = (i128::from(time.wrapping_sub(at) as i32) << 32) / i128::from(self.clock_rate);
            let expected = before.wrapping_add(since as u64); // modulo 2^64
            let error = ntp.wrapping_add(clock).wrapping_sub(expected) as i64;
            if error.unsigned_abs() > 1 << 32 {
                self.clock = None;
            }
        }
        if self.clock.is_none()
            && let Some((before, at)) = self.report
        {
            // The clock of each track continues as its timestamps do, whatever time the new source reports: a step
            // would set players back, or pictures that are shown out of order.
            let since = i128::from(time.wrapping_sub(at) as i32); // modulo 2^32
            let since = (since << 32) / i128::from(self.clock_rate);
            let goes_on = before.wrapping_add(since as u64).wrapping_sub(ntp); // modulo 2^64
            self.clock = Some(goes_on);
            clock.get_or_insert(goes_on);
        }
        let clock = self.clock.or(*clock)?; // a track without an earlier report uses the clock of the others
        self.clock = Some(clock);
        self.report = Some((ntp.wrapping_add(clock), time));
        if !self.alters && clock == 0 {
            return Some(data.clone());
        }
        let mut report = BytesMut::from(&data[..]);
        if let Some(ssrc) = self.ssrc {
            report[4..8].copy_from_slice(&ssrc.to_be_bytes());
        }
        report[8..16].copy_from_slice(&ntp.wrapping_add(clock).to_be_bytes());
        report[16..20].copy_from_slice(&time.to_be_bytes());
        Some(report.freeze())
    }
}
