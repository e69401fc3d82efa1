//! RTP: sequence numbers, timestamps and the synchronisation source continue (RFC 3550 section 5.1).

use super::ts::TsContinuity;
use crate::{
    media::{
        Packet,
        rtp::Header,
        rtsp::{Presentation, is_rtcp},
    },
    router::{MediaBatch, Preamble},
};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// Maximum distance in packets between two sources of the same stream for them to be recognised as such.
const MAX_BEHIND: i16 = 4000;
/// Maximum step back within one timeline, in seconds: pictures come in decoding order.
const MAX_BACK: i64 = 1;
/// Maximum step forward beyond the time that has passed, in seconds, within one timeline.
const MAX_AHEAD: i64 = 3;
/// Maximum distance of a sender report from the packets of its timeline, in seconds.
const MAX_REPORTED: i64 = 10;
/// Maximum steps of the sequence number within one sequence (RFC 3550 appendix A.1).
const MAX_MISORDER: i16 = 1000;
const MAX_DROPOUT: i16 = 3000;
/// Clock rate of MPEG-TS and video, in Hz.
const VIDEO_CLOCK: u32 = 90_000;

/// Rewrites the numbers of one RTP stream. The first connection is not altered.
#[derive(Debug)]
struct RtpRewriter {
    clock_rate: u32,
    ssrc: Option<u32>,
    /// The payload type of altered packets.
    payload_type: Option<u8>,
    sequence: u16,
    timestamp: u32,
    /// Sequence number, timestamp and arrival time of the last packet, as passed on.
    last: Option<(u16, u32, Instant)>,
    /// The latest timestamp: pictures come in decoding order.
    latest: u32,
    /// The shortest step between two timestamps.
    step: Option<u32>,
    /// The last sender report passed on: its NTP time (32.32 bits of seconds) and timestamp.
    report: Option<(u64, u32)>,
    /// Added to the NTP times of reports; `None` until this connection has brought one.
    clock: Option<u64>,
    /// A report of this connection had a timestamp near those of its packets. Some senders never do so.
    reports_fit: bool,
    fresh: bool,
    /// Packets are altered.
    alters: bool,
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
    fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            ssrc: None,
            payload_type: None,
            sequence: 0,
            timestamp: 0,
            last: None,
            latest: 0,
            step: None,
            report: None,
            clock: None,
            reports_fit: false,
            fresh: true,
            alters: false,
            input: None,
        }
    }

    fn begin(&mut self) {
        self.fresh = true;
        self.clock = None;
        self.reports_fit = false;
        self.input = None;
    }

    /// Begins another timeline if the sender has started again, or its clock has stepped, on the same connection: its
    /// packets continue those before.
    fn follow_steps(&mut self, header: &Header, arrival: Instant) {
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
                let own = i64::from(self.step.unwrap_or(1));
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

    /// Returns the timestamp of a packet at `at`, had the stream not been away.
    fn place(&self, at: Instant) -> Option<u32> {
        let (_, timestamp, last) = self.last?;
        let gap = at.saturating_duration_since(last).as_micros() * u128::from(self.clock_rate) / 1_000_000;
        Some(timestamp.wrapping_add(u32::try_from(gap).unwrap_or(u32::MAX).max(1)))
    }

    /// Returns the time that a packet at `at` must be delayed to come after all earlier ones.
    fn wait(&self, at: Instant) -> Duration {
        let Some(place) = self.place(at) else { return Duration::ZERO };
        let missing = self.latest.wrapping_add(self.step.unwrap_or(1)).wrapping_sub(place);
        if missing < 1 << 31 {
            Duration::from_micros(u64::from(missing) * 1_000_000 / u64::from(self.clock_rate) + 1)
        } else {
            Duration::ZERO
        }
    }

    /// Rewrites a packet. `shift`: delay of a stream that takes over.
    fn packet(&mut self, packet: Packet, header: &Header, shift: Duration) -> Packet {
        if std::mem::take(&mut self.fresh)
            && let (Some((sequence, ..)), Some(place)) = (self.last, self.place(packet.arrival() + shift))
        {
            self.sequence = sequence.wrapping_add(1).wrapping_sub(header.sequence);
            self.timestamp = place.wrapping_sub(header.timestamp);
            self.alters = true;
        }
        let ssrc = *self.ssrc.get_or_insert(header.ssrc);
        let sequence = header.sequence.wrapping_add(self.sequence);
        let timestamp = header.timestamp.wrapping_add(self.timestamp);
        let later = |last: u16| sequence.wrapping_sub(last) < 1 << 15;
        let before = self.last.map(|(_, before, _)| before);
        if self.last.is_none_or(|(last, ..)| later(last)) {
            self.last = Some((sequence, timestamp, packet.arrival() + shift));
        }
        let step = before.map(|before| (timestamp.wrapping_sub(before) as i32).unsigned_abs()).filter(|step| *step > 0);
        self.step = self.step.into_iter().chain(step).min();
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
        packet.with_data(data.freeze())
    }

    /// Rewrites a sender report to the same source, timestamps and clock (RFC 3550 section 6.4.1). `clock`: added to
    /// the NTP times of all tracks, once known. `None` for a report that has no place yet.
    fn report(&mut self, data: &Bytes, clock: &mut Option<u64>, arrival: Instant) -> Option<Bytes> {
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

/// Rewrites the tracks of an RTSP presentation.
#[derive(Debug, Default)]
pub(super) struct TrackRewriters {
    tracks: Vec<RtpRewriter>,
    /// Delay of the stream that has taken over; `None` until some of it has arrived.
    shift: Option<Duration>,
    /// Added to the NTP times of sender reports; `None` until the first one.
    clock: Option<u64>,
    /// Parameter sets that the stream before did not have, and their track: they go before the next key frame.
    parameter_sets: Vec<(u8, Bytes)>,
}

impl TrackRewriters {
    /// Begins another connection: of a presentation that is compatible with the one before, or of another one.
    pub(super) fn join(&mut self, known: Option<&Presentation>, presentation: Option<&Presentation>, switched: bool) {
        self.shift = None;
        self.parameter_sets.clear();
        self.clock = None;
        let Some(presentation) = presentation else { return self.begin_tracks() };
        match known.filter(|known| presentation.is_compatible_with(known)) {
            Some(known) => {
                self.begin_tracks();
                let sets = presentation.tracks().iter().zip(known.tracks()).enumerate();
                let changed = sets.filter(|(_, (new, old))| switched && new.parameter_sets != old.parameter_sets);
                self.parameter_sets = changed
                    .filter_map(|(number, (new, _))| Some((u8::try_from(number).ok()?, new)))
                    .flat_map(|(number, new)| new.parameter_sets.iter().map(move |set| (number, set.clone())))
                    .collect();
            }
            None => {
                self.tracks = presentation.tracks().iter().map(|track| RtpRewriter::new(track.clock_rate)).collect()
            }
        }
        for (rewriter, track) in self.tracks.iter_mut().zip(presentation.tracks()) {
            rewriter.payload_type = track.payload_type;
            rewriter.alters |= track.is_renumbered;
        }
        if self.tracks.iter().all(|track| track.report.is_none()) {
            self.clock = Some(0);
        }
    }

    fn begin_tracks(&mut self) {
        for track in &mut self.tracks {
            track.begin();
        }
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        self.insert_parameter_sets(delivery);
        let Self { tracks, shift, clock, .. } = self;
        let mut stale = Vec::new();
        for (at, packet) in delivery.packets.iter_mut().enumerate() {
            if is_rtcp(packet.data()) {
                match placed_report(tracks, clock, packet) {
                    Some(report) => *packet = report,
                    None => stale.push(at),
                }
                continue;
            }
            let Ok(header) = Header::parse(packet.data()) else { continue };
            let shift = *shift.get_or_insert_with(|| {
                // The same delay for all tracks, so that none goes back and they stay in step.
                let ends = tracks.iter().filter_map(|track| track.last).map(|(.., at)| at);
                let behind = ends.map(|end| end.saturating_duration_since(packet.arrival())).max().unwrap_or_default();
                let track = packet.rtsp_track().and_then(|track| tracks.get(usize::from(track)));
                behind + track.map(|track| track.wait(packet.arrival() + behind)).unwrap_or_default()
            });
            if let Some(track) = packet.rtsp_track().and_then(|track| tracks.get_mut(usize::from(track))) {
                track.follow_steps(&header, packet.arrival());
                *packet = track.packet(packet.clone(), &header, shift);
            }
        }
        for at in stale.into_iter().rev() {
            delivery.remove(at);
        }
        for (_, preamble) in &mut delivery.starts {
            self.preamble(preamble);
        }
    }

    /// Rewrites the sender reports that a player gets first; keeps the allocation where nothing is altered.
    fn preamble(&mut self, preamble: &mut Preamble) {
        let Self { tracks, clock, .. } = self;
        if *clock != Some(0) || tracks.iter().any(|track| track.alters) {
            // The latest report of a track is valid whenever it is sent.
            *preamble = preamble.iter().filter_map(|packet| placed_report(tracks, clock, packet)).collect();
        }
    }

    /// Inserts parameter sets as single NAL unit packets (RFC 6184 section 5.6, RFC 7798 section 4.4.1) with the
    /// timestamp of the key frame.
    fn insert_parameter_sets(&mut self, delivery: &mut MediaBatch) {
        if self.parameter_sets.is_empty() {
            return;
        }
        let Some(at) = delivery.starts.first().map(|(at, _)| *at) else { return };
        let Some(key) = delivery.packets.get(at).cloned() else { return };
        let Ok(header) = Header::parse(key.data()) else { return };
        let sets: Vec<_> = std::mem::take(&mut self.parameter_sets);
        let sets: Vec<_> = sets.into_iter().filter(|(track, _)| Some(*track) == key.rtsp_track()).collect();
        let count = sets.len() as u16; // a presentation has few
        let packets: Vec<Packet> = (0..count)
            .zip(sets)
            .map(|(i, (_, set))| {
                let sequence = header.sequence.wrapping_sub(count).wrapping_add(i);
                let mut data = BytesMut::with_capacity(12 + set.len());
                data.extend_from_slice(&[0x80, header.payload_type]);
                data.extend_from_slice(&sequence.to_be_bytes());
                data.extend_from_slice(&header.timestamp.to_be_bytes());
                data.extend_from_slice(&header.ssrc.to_be_bytes());
                data.extend_from_slice(&set);
                key.with_data(data.freeze())
            })
            .collect();
        delivery.insert(at, packets);
    }
}

/// Rewrites a report with the rewriter of its track.
fn placed_report(tracks: &mut [RtpRewriter], clock: &mut Option<u64>, packet: &Packet) -> Option<Packet> {
    match packet.rtsp_track().and_then(|track| tracks.get_mut(usize::from(track))) {
        Some(track) => track.report(packet.data(), clock, packet.arrival()).map(|data| packet.with_data(data)),
        None => Some(packet.clone()),
    }
}

/// The one stream of a flow of RTP.
#[derive(Debug)]
pub(super) struct RtpContinuity {
    rewriter: RtpRewriter,
    ts: TsContinuity,
}

impl Default for RtpContinuity {
    fn default() -> Self {
        Self { rewriter: RtpRewriter::new(VIDEO_CLOCK), ts: TsContinuity::default() }
    }
}

impl RtpContinuity {
    pub(super) fn join(&mut self) {
        self.rewriter.begin();
        self.ts.join();
    }

    /// Follows packets that pass unaltered: the numbers of the last one, and the clock of MPEG-TS.
    pub(super) fn watch(&mut self, delivery: &MediaBatch) {
        let Some(last) = delivery.packets.last() else { return };
        let Ok(header) = Header::parse(last.data()) else { return };
        if self.rewriter.ssrc != Some(header.ssrc) {
            self.rewriter = RtpRewriter::new(header.clock_rate());
        }
        self.rewriter.clock_rate = header.clock_rate();
        self.rewriter.packet(last.clone(), &header, Duration::ZERO);
        if header.is_mpeg_ts() {
            for packet in &delivery.packets {
                self.ts.watch(packet.data().get(header.payload_start..).unwrap_or_default(), packet.arrival());
            }
        }
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        let mut out = Vec::with_capacity(delivery.packets.len() + 1);
        for packet in delivery.packets.drain(..) {
            let Ok(header) = Header::parse(packet.data()) else {
                out.push(packet); // never: it was read before
                continue;
            };
            if self.rewriter.fresh
                && let Some(distance) = self.distance_from_last(&header)
            {
                if distance <= 0 {
                    continue; // the other source has sent it
                }
                // The next packet of the other source's own stream: nothing is altered.
                self.rewriter.sequence = 0;
                self.rewriter.timestamp = 0;
                self.rewriter.fresh = false;
                self.rewriter.alters = false;
                self.ts.forget();
            }
            self.rewriter.clock_rate = header.clock_rate();
            let range = header.payload_start..header.payload_end;
            let payload = packet.data().get(range.clone()).filter(|_| header.is_mpeg_ts());
            if let Some(marks) = payload.and_then(|payload| self.ts.marks(payload, packet.arrival())) {
                // A packet of its own before this one; all that follow are renumbered.
                let mut data = BytesMut::with_capacity(12 + marks.len());
                data.extend_from_slice(&[0x80, header.payload_type]);
                data.extend_from_slice(&header.sequence.wrapping_sub(1).to_be_bytes());
                data.extend_from_slice(&header.timestamp.to_be_bytes());
                data.extend_from_slice(&header.ssrc.to_be_bytes());
                data.extend_from_slice(&marks);
                if !self.rewriter.fresh {
                    self.rewriter.sequence = self.rewriter.sequence.wrapping_add(1);
                    self.rewriter.alters = true;
                }
                let before = Header { sequence: header.sequence.wrapping_sub(1), ..header };
                out.push(self.rewriter.packet(packet.with_data(data.freeze()), &before, Duration::ZERO));
            }
            let altered = payload.and_then(|payload| self.ts.retime(payload, packet.arrival()));
            let packet = match altered {
                Some(payload) => {
                    let mut data = BytesMut::from(&packet.data()[..]);
                    data[range].copy_from_slice(&payload); // the length is unchanged
                    packet.with_data(data.freeze())
                }
                None => packet,
            };
            out.push(self.rewriter.packet(packet, &header, Duration::ZERO));
        }
        delivery.packets = out;
    }

    /// Returns the distance from the last packet passed on to this one in the same stream; `None` if it is another
    /// stream.
    fn distance_from_last(&self, header: &Header) -> Option<i16> {
        let (sequence, timestamp, _) = self.rewriter.last?;
        let distance = header.sequence.wrapping_sub(sequence) as i16; // modulo 2^16
        let time = i64::from(header.timestamp.wrapping_sub(timestamp) as i32).abs(); // modulo 2^32
        let near = (-MAX_BEHIND..=MAX_BEHIND).contains(&distance) && time <= 10 * i64::from(self.rewriter.clock_rate);
        (self.rewriter.ssrc == Some(header.ssrc) && near).then_some(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn bytes(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32) -> Vec<u8> {
        let mut data = vec![0x80, payload_type];
        data.extend(sequence.to_be_bytes());
        data.extend(timestamp.to_be_bytes());
        data.extend(ssrc.to_be_bytes());
        data.push(1);
        data
    }

    fn header(packet: &Packet) -> (u16, u32, u32) {
        let header = Header::parse(packet.data()).unwrap();
        (header.sequence, header.timestamp, header.ssrc)
    }

    #[test]
    fn rtp_continuity_over_reconnections() {
        let (mut rewriter, start) = (RtpRewriter::new(90_000), Instant::now());
        let rtp = |sequence, timestamp, ssrc, at| Packet::rtsp(0, bytes(96, sequence, timestamp, ssrc), at);
        let pass = |rewriter: &mut RtpRewriter, packet: Packet| {
            let read = Header::parse(packet.data()).unwrap();
            header(&rewriter.packet(packet, &read, Duration::ZERO))
        };
        rewriter.begin();
        assert_eq!(pass(&mut rewriter, rtp(u16::MAX, u32::MAX, 7, start)), (u16::MAX, u32::MAX, 7));
        let report: Bytes = [&[0x80, 200, 0, 6, 0, 0, 0, 9][..], &[0; 8], &[0, 0, 0, 5], &[0; 8]].concat().into();
        assert_eq!(rewriter.report(&report, &mut Some(0), start).unwrap(), report);
        rewriter.begin();
        assert_eq!(rewriter.report(&report, &mut None, start), None, "it has no place yet");
        let later = start + Duration::from_millis(100);
        assert_eq!(pass(&mut rewriter, rtp(500, 1000, 8, later)), (0, 8999, 7));
        assert_eq!(pass(&mut rewriter, rtp(501, 1900, 8, later)), (1, 9899, 7));
        let mut clock = None;
        let report = rewriter.report(&report, &mut clock, later).unwrap();
        assert_eq!((&report[4..8], &report[16..20]), (&[0, 0, 0, 7][..], &8004u32.to_be_bytes()[..]));
        // The first report was of timestamp 5 and NTP time 0.
        let moment = (7999u64 << 32) / 90_000;
        assert_eq!((&report[8..16], clock), (&moment.to_be_bytes()[..], Some(moment)));
    }

    #[test]
    fn rtp_continuity_passes_same_stream_unaltered_once() {
        let mut splice = RtpContinuity::default();
        let now = Instant::now();
        let give = |splice: &mut RtpContinuity, sequences: std::ops::Range<u16>, ssrc| {
            let packets = sequences.map(|s| Packet::rtp(bytes(96, s, u32::from(s), ssrc), now)).collect();
            let mut delivery = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
            splice.apply(&mut delivery);
            delivery.packets.iter().map(header).collect::<Vec<_>>()
        };
        assert_eq!(give(&mut splice, 10..20, 7).len(), 10);
        splice.join();
        assert_eq!(give(&mut splice, 15..22, 7), [(20, 20, 7), (21, 21, 7)]);
        splice.join();
        assert_eq!(give(&mut splice, 900..902, 8), [(22, 22, 7), (23, 23, 7)]);
        splice.join();
        assert_eq!(give(&mut splice, 30..31, 7), [(30, 30, 7)], "its own numbers, a few packets on");
    }

    #[test]
    fn rtsp_continuity_keeps_tracks_in_step_with_past_backup() {
        let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0I=,aM4=\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
        let old = Presentation::parse(sdp.as_bytes()).unwrap();
        let new = sdp.replace("aM4=", "aM8=").replace("AVP 97", "AVP 98").replace("map:97", "map:98");
        let new = Arc::new(Presentation::parse(new.as_bytes()).unwrap()).as_continued_from(Some(&old));
        let mut tracks = TrackRewriters::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rtp = |track, timestamp, ms| {
            Packet::rtsp(track, bytes(96 + 2 * track, 1, timestamp, 1 + u32::from(track)), at(ms))
        };
        tracks.join(None, Some(&old), false);
        let mut first = MediaBatch {
            packets: vec![rtp(0, 90_000, 1000), rtp(1, 8_000, 1000)],
            starts: Vec::new(),
            ..MediaBatch::default()
        };
        tracks.apply(&mut first);
        tracks.join(Some(&old), Some(&new), true);
        // The backup's last group of pictures began 400 ms before the loss.
        let packets = vec![rtp(0, 500, 600), rtp(1, 700, 620)];
        let mut second = MediaBatch { packets, starts: vec![(0, Preamble::from([]))], ..MediaBatch::default() };
        tracks.apply(&mut second);
        let sent: Vec<_> = second.packets.iter().map(header).collect();
        assert_eq!(sent, [(2, 90_001, 1), (3, 90_001, 1), (4, 90_001, 1), (2, 8_160, 2)]);
        assert_eq!(&second.packets[1].data()[12..], [0x68, 0xcf]);
        assert_eq!((second.packets[0].data()[1], second.packets[3].data()[1]), (96, 97), "as players know them");
        let mut third =
            MediaBatch { packets: vec![rtp(0, 500 + 900, 610)], starts: Vec::new(), ..MediaBatch::default() };
        tracks.apply(&mut third);
        assert_eq!(header(&third.packets[0]).1, 90_901);
    }

    #[test]
    fn rtsp_continuity_reports_never_move_tracks_back() {
        let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            m=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
        let sdp = Presentation::parse(sdp.as_bytes()).unwrap();
        let mut tracks = TrackRewriters::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rtp = |track, timestamp, ms| {
            Packet::rtsp(track, bytes(96 + 2 * track, 1, timestamp, 1 + u32::from(track)), at(ms))
        };
        // `moment`: the NTP time in milliseconds.
        let report = |track: u8, moment: u64, timestamp: u32, ms| {
            let mut data = vec![0x80, 200, 0, 6, 0, 0, 0, 1 + track];
            data.extend(((moment << 32) / 1000).to_be_bytes());
            data.extend(timestamp.to_be_bytes());
            data.resize(28, 0);
            Packet::rtsp(track, data, at(ms))
        };
        // Returns the presentation time of a packet by the last report of its track, in milliseconds.
        let shown = |delivery: &MediaBatch, track: u8, clock_rate: i64| {
            let data =
                delivery.packets.iter().find(|p| p.rtsp_track() == Some(track) && p.data()[1] == 200).unwrap().data();
            let moment = u64::from_be_bytes(data[8..16].try_into().unwrap());
            let time = u32::from_be_bytes(data[16..20].try_into().unwrap());
            let moment = ((u128::from(moment) * 1000) >> 32) as i64;
            move |timestamp: u32| moment + i64::from(timestamp.wrapping_sub(time) as i32) * 1000 / clock_rate
        };
        tracks.join(None, Some(&sdp), false);
        let packets =
            vec![report(0, 50_000, 90_000, 0), report(1, 50_000, 8_000, 0), rtp(0, 90_000, 0), rtp(1, 8_000, 0)];
        let mut first = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
        tracks.apply(&mut first);
        let video = shown(&first, 0, 90_000);
        let audio = shown(&first, 1, 8_000);
        // By the reports of the other source, its sound is 200 ms ahead of its arrival.
        tracks.join(Some(&sdp), Some(&sdp), true);
        let packets = vec![rtp(0, 500, 40), rtp(1, 700, 40), report(1, 7_200, 700, 50), report(0, 7_000, 500, 50)];
        let mut second = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
        tracks.apply(&mut second);
        for (track, before, clock_rate) in [(0, &video as &dyn Fn(u32) -> i64, 90_000), (1, &audio, 8_000)] {
            let after = shown(&second, track, clock_rate);
            let timestamp = header(second.packets.iter().find(|p| p.rtsp_track() == Some(track)).unwrap()).1;
            assert!(after(timestamp) >= before(timestamp) - 1, "{track}: {} {}", before(timestamp), after(timestamp));
        }
    }

    /// Two tracks whose clocks step where a group of pictures begins, with reports each second: pictures in decoding order at 90 kHz, and sound
    /// of 20 ms at 8 kHz. Returns (track, timestamp, true time in milliseconds) as passed on.
    fn run(
        clock: impl Fn(u64) -> i64,
        wall: impl Fn(u64) -> u64,
        numbers: impl Fn(u64) -> (u16, u32),
    ) -> Vec<(u8, u32, u64, Bytes)> {
        let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            m=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
        let sdp = Presentation::parse(sdp.as_bytes()).unwrap();
        let mut tracks = TrackRewriters::default();
        tracks.join(None, Some(&sdp), false);
        let start = Instant::now();
        let mut out = Vec::new();
        let mut next = [0u16; 2];
        for ms in (0..20_000).step_by(20) {
            for (track, every, rate, base) in [(0u8, 40, 90i64, u32::MAX - 270_000), (1, 20, 8, 77)] {
                if ms % every != 0 {
                    continue;
                }
                // Each fourth picture is shown 80 ms after it is decoded, the others 40 ms before.
                let order = match (track, ms / 40 % 4) {
                    (0, 1) => 80,
                    (0, 2 | 3) => -40,
                    _ => 0,
                };
                let stamp = |ms: i64| base.wrapping_add((ms * rate) as u32);
                let (jump, ssrc) = numbers(ms);
                let at = start + Duration::from_millis(ms + ms * 31 % 9);
                let mut packets = Vec::new();
                if ms % 1000 == 0 {
                    let mut data = vec![0x80, 200, 0, 6];
                    data.extend((ssrc + u32::from(track)).to_be_bytes());
                    data.extend(((wall(ms) << 32) / 1000).to_be_bytes());
                    data.extend(stamp(clock(ms)).to_be_bytes());
                    data.resize(28, 0);
                    packets.push(Packet::rtsp(track, data, at));
                }
                next[usize::from(track)] = next[usize::from(track)].wrapping_add(1);
                let sequence = next[usize::from(track)].wrapping_add(jump);
                let data = bytes(96 + track, sequence, stamp(clock(ms) + order), ssrc + u32::from(track));
                packets.push(Packet::rtsp(track, data, at));
                let mut delivery = MediaBatch { packets, ..MediaBatch::default() };
                tracks.apply(&mut delivery);
                for packet in delivery.packets {
                    let data = packet.data().clone();
                    let stamp = Header::parse(&data).map_or(0, |header| header.timestamp);
                    out.push((track, stamp, (ms as i64 + order) as u64, data));
                }
            }
        }
        out
    }

    /// Checks that times are even, tracks in step, and sequence numbers in order, by packets and by reports.
    fn assert_even(out: &[(u8, u32, u64, Bytes)], what: &str) {
        let mut offsets: [Option<i64>; 2] = [None; 2];
        for (track, rate) in [(0u8, 90i64), (1, 8)] {
            let own = || out.iter().filter(|(other, ..)| *other == track);
            let media: Vec<_> = own().filter(|(.., data)| !is_rtcp(data)).collect();
            let (_, first, start, data) = media[0];
            let ssrc = &data[8..12];
            for (_, stamp, ms, data) in &media {
                let error = i64::from(stamp.wrapping_sub(*first) as i32) - (*ms as i64 - *start as i64) * rate;
                assert!(error.abs() < 40 * rate, "{what}: track {track} at {ms} ms is off by {}", error / rate);
                assert_eq!(&data[8..12], ssrc, "{what}: the source is the same");
            }
            let sequences: Vec<u16> = media.iter().map(|(.., data)| u16::from_be_bytes([data[2], data[3]])).collect();
            assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{what}: sequence");
            for (.., data) in own().filter(|(.., data)| is_rtcp(data)) {
                let moment = u64::from_be_bytes(data[8..16].try_into().unwrap());
                let stamp = u32::from_be_bytes(data[16..20].try_into().unwrap());
                let moment = ((u128::from(moment) * 1000) >> 32) as i64;
                let offset = moment - i64::from(stamp.wrapping_sub(*first) as i32) / rate;
                let before = *offsets[usize::from(track)].get_or_insert(offset);
                assert!((offset - before).abs() < 40, "{what}: reports of track {track} step by {}", offset - before);
            }
        }
        let [Some(video), Some(audio)] = offsets else { panic!("{what}: no reports") };
        assert!((video - audio).abs() < 40, "{what}: {video} {audio}");
    }

    #[test]
    fn rtsp_timestamps_go_on_evenly_over_steps_of_the_clock() {
        let same = |_| (0, 10);
        let wall = |ms| 1_000_000 + ms;
        for step in [-9000i64, -2000, 10_000, 3_600_000, 20_000_000, -20_000_000] {
            let clock = |ms: u64| ms as i64 + if ms < 10_080 { 0 } else { step };
            assert_even(&run(clock, wall, same), &format!("step by {step}"));
        }
        let again = |ms: u64| if ms < 10_080 { (0, 10) } else { (30_000, 20) };
        assert_even(&run(|ms| ms as i64 % 10_080, wall, again), "a sender that starts again");
        assert_even(&run(|ms| ms as i64, wall, again), "another SSRC and sequence");
        let set = |ms: u64| if ms < 9_500 { 1_000_000 + ms } else { 9_000_000 + ms };
        assert_even(&run(|ms| ms as i64, set, same), "a wall clock that is set");
        assert_even(&run(|ms| ms as i64 % 4800, wall, same), "a file that loops");
        // The timestamps of pictures wrap after three seconds in all of these.
        let out = run(|ms| ms as i64, wall, same);
        assert_even(&out, "nothing");
        assert!(out.iter().any(|(track, stamp, ..)| *track == 0 && *stamp < 1 << 30 && *stamp > 0));
    }
}
