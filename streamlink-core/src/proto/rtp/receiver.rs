//! Receiver of one RTP stream: sequence validation (RFC 3550 appendix A.1), quality (A.3, A.8), and reordering within
//! a window.
//!
//! Packets in order pass at once. Packets behind a gap are held until the gap is filled or the window is over. A
//! restart of the stream, with another SSRC or a jump of the sequence number, is accepted when two of its packets are
//! consecutive. Neither of them is lost.

use crate::media::{Packet, rtp::Header};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum step forward within one sequence, in packets (RFC 3550 appendix A.1).
const MAX_DROPOUT: u64 = 3000;
/// Maximum number of packets held behind gaps.
const MAX_HELD: usize = 2048;
/// Maximum step back within one sequence, in packets (RFC 3550 appendix A.1).
const MAX_MISORDER: u64 = 1000;
/// Maximum number of given-up gaps that are remembered.
const MAX_GIVEN_UP: usize = 64;
/// Minimum silence of the stream before another SSRC may replace it.
const TAKEOVER: Duration = Duration::from_millis(100);

/// Quality of the stream so far, counted in packets if not stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quality {
    /// Packets that did not arrive within the window.
    pub(crate) lost: u64,
    /// Packets that arrived out of order and were put in order.
    pub(crate) recovered: u64,
    /// Packets that were dropped because they arrived after they had been given up.
    pub(crate) late: u64,
    /// Packets that were dropped because they had arrived before.
    pub(crate) duplicates: u64,
    /// Packets that were dropped because of another SSRC or a sequence number out of range.
    pub(crate) foreign: u64,
    /// Number of restarts of the stream.
    pub(crate) restarts: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub(crate) jitter: Duration,
}

/// Receiver of one RTP stream.
#[derive(Debug)]
pub(crate) struct Receiver {
    window: Duration,
    stream: Option<Stream>,
    /// First packet of a possible new stream.
    candidate: Option<(Header, Packet)>,
    quality: Quality,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    /// Next extended sequence number.
    next: u64,
    /// Held packets from `next` on. The first slot is a gap.
    held: VecDeque<Option<Packet>>,
    /// Arrival of the packet behind the first gap.
    gap_since: Option<Instant>,
    last_arrival: Instant,
    /// Recently given-up gaps, to distinguish late packets from duplicates.
    given_up: VecDeque<std::ops::Range<u64>>,
    /// Arrival and timestamp of the previous packet, for the jitter.
    previous: Option<(Instant, u32)>,
    /// Jitter in timestamp units, times 16 (RFC 3550 appendix A.8).
    jitter: u64,
    clock_rate: u32,
}

impl Receiver {
    /// Creates a receiver. `window`: maximum wait for a missing packet. Zero: packets pass in the order of arrival.
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, stream: None, candidate: None, quality: Quality::default() }
    }

    pub(crate) fn quality(&self) -> Quality {
        self.quality
    }

    /// Handles a packet. Appends the packets that pass now to `out`, in order.
    pub(crate) fn handle(&mut self, header: &Header, packet: Packet, out: &mut Vec<Packet>) {
        let arrival = packet.arrival();
        let Some(stream) = &mut self.stream else { return self.audition(header, packet, out) };
        let extended = extend(stream.next, header.sequence);
        let belongs = stream.ssrc == header.ssrc && extended.is_some();
        if !belongs {
            let silent = arrival.saturating_duration_since(stream.last_arrival);
            match stream.ssrc == header.ssrc || silent >= TAKEOVER {
                true => self.audition(header, packet, out),
                false => self.quality.foreign = self.quality.foreign.saturating_add(1),
            }
            return;
        }
        let sequence = extended.unwrap_or(stream.next); // checked just above
        stream.last_arrival = stream.last_arrival.max(arrival);
        stream.measure_jitter(header, arrival);
        self.quality.jitter = stream.jitter();
        stream.place(sequence, packet, self.window, &mut self.quality, out);
        self.drop_candidate();
    }

    /// Returns the time of the next call of [`Receiver::handle_timeout`], if there is a gap.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let since = self.stream.as_ref()?.gap_since?;
        since.checked_add(self.window)
    }

    /// Gives up gaps whose window is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            if let Some(stream) = &mut self.stream {
                stream.skip_gap(&mut self.quality, out);
            }
        }
    }

    /// Ends the stream. Appends the held packets to `out`; the next packet may start a new stream.
    pub(crate) fn reset(&mut self, out: &mut Vec<Packet>) {
        while let Some(stream) = &mut self.stream
            && !stream.held.is_empty()
        {
            stream.skip_gap(&mut self.quality, out);
        }
        self.stream = None;
        self.drop_candidate();
    }

    /// Handles a packet of a possible new stream. The stream is accepted when the packet follows the candidate.
    fn audition(&mut self, header: &Header, packet: Packet, out: &mut Vec<Packet>) {
        let follows = |first: &Header| first.ssrc == header.ssrc && first.sequence.wrapping_add(1) == header.sequence;
        match self.candidate.take() {
            Some((first, held)) if follows(&first) => {
                if let Some(old) = &mut self.stream {
                    self.quality.restarts = self.quality.restarts.saturating_add(1);
                    while !old.held.is_empty() {
                        old.skip_gap(&mut self.quality, out);
                    }
                }
                let mut stream = Stream::new(&first, held.arrival());
                stream.measure_jitter(&first, held.arrival());
                stream.measure_jitter(header, packet.arrival());
                stream.next += 2;
                stream.last_arrival = packet.arrival();
                out.extend([held, packet]);
                self.stream = Some(stream);
            }
            other => {
                self.candidate = other;
                self.drop_candidate();
                self.candidate = Some((*header, packet));
            }
        }
    }

    fn drop_candidate(&mut self) {
        if self.candidate.take().is_some() {
            self.quality.foreign = self.quality.foreign.saturating_add(1);
        }
    }
}

impl Stream {
    fn new(first: &Header, arrival: Instant) -> Self {
        Self {
            ssrc: first.ssrc,
            // Well above zero, so that packets before the first one have a number as well.
            next: (1 << 32) + u64::from(first.sequence),
            held: VecDeque::new(),
            gap_since: None,
            last_arrival: arrival,
            given_up: VecDeque::new(),
            previous: None,
            jitter: 0,
            clock_rate: first.clock_rate(),
        }
    }

    fn place(&mut self, sequence: u64, packet: Packet, window: Duration, quality: &mut Quality, out: &mut Vec<Packet>) {
        if window.is_zero() {
            return self.pass_unordered(sequence, packet, quality, out);
        }
        let Some(ahead) = sequence.checked_sub(self.next) else {
            let counter = match self.given_up.iter().any(|range| range.contains(&sequence)) {
                true => &mut quality.late,
                false => &mut quality.duplicates,
            };
            *counter = counter.saturating_add(1);
            return;
        };
        let ahead = ahead as usize; // at most MAX_DROPOUT
        if ahead == 0 && self.held.is_empty() {
            self.next += 1;
            return out.push(packet);
        }
        if ahead >= MAX_HELD {
            // More than can be held: release all held packets, and give up the gap up to this packet.
            while !self.held.is_empty() {
                self.skip_gap(quality, out);
            }
            self.give_up(sequence, quality);
            self.next = sequence + 1;
            return out.push(packet);
        }
        let arrival = packet.arrival();
        if self.held.len() <= ahead {
            self.held.resize(ahead + 1, None);
        } else if self.held[ahead].is_none() {
            quality.recovered = quality.recovered.saturating_add(1);
        }
        match &mut self.held[ahead] {
            Some(_) => quality.duplicates = quality.duplicates.saturating_add(1),
            slot => *slot = Some(packet),
        }
        self.gap_since.get_or_insert(arrival);
        self.release(out);
    }

    /// Passes a packet on at once and updates the counters, for a window of zero.
    fn pass_unordered(&mut self, sequence: u64, packet: Packet, quality: &mut Quality, out: &mut Vec<Packet>) {
        match sequence.checked_sub(self.next) {
            Some(gap) => {
                quality.lost = quality.lost.saturating_add(gap);
                self.next = sequence + 1;
            }
            None => {
                quality.recovered = quality.recovered.saturating_add(1);
                quality.lost = quality.lost.saturating_sub(1);
            }
        }
        out.push(packet);
    }

    /// Releases the held packets up to the next gap.
    fn release(&mut self, out: &mut Vec<Packet>) {
        let mut moved = false;
        while let Some(Some(_)) = self.held.front() {
            out.extend(self.held.pop_front().flatten());
            self.next += 1;
            moved = true;
        }
        if moved {
            // The next gap is open since the arrival of the packet behind it.
            self.gap_since = self.held.iter().flatten().map(Packet::arrival).min();
        }
    }

    /// Gives up the first gap, and releases the packets behind it.
    fn skip_gap(&mut self, quality: &mut Quality, out: &mut Vec<Packet>) {
        let gap = self.held.iter().take_while(|slot| slot.is_none()).count();
        self.held.drain(..gap);
        self.give_up(self.next + gap as u64, quality);
        self.release(out);
        if self.held.is_empty() {
            self.gap_since = None;
        }
    }

    /// Counts all missing packets before `sequence` as lost.
    fn give_up(&mut self, sequence: u64, quality: &mut Quality) {
        if sequence > self.next {
            quality.lost = quality.lost.saturating_add(sequence - self.next);
            if self.given_up.len() == MAX_GIVEN_UP {
                self.given_up.pop_front();
            }
            self.given_up.push_back(self.next..sequence);
            self.next = sequence;
        }
    }

    /// Updates the interarrival jitter (RFC 3550 appendix A.8).
    fn measure_jitter(&mut self, header: &Header, arrival: Instant) {
        let Some((before, timestamp)) = self.previous.replace((arrival, header.timestamp)) else { return };
        // A pause of minutes is no jitter, so steps are capped at one minute.
        let units = |d: Duration| {
            let micros = d.min(Duration::from_secs(60)).as_micros() as i64; // at most 6e7
            micros * i64::from(self.clock_rate) / 1_000_000
        };
        let step = match arrival.checked_duration_since(before) {
            Some(forward) => units(forward),
            None => -units(before.saturating_duration_since(arrival)),
        };
        let media = i64::from(header.timestamp.wrapping_sub(timestamp) as i32); // modulo 2^32
        let d = (step - media).unsigned_abs();
        self.jitter = self.jitter + d - ((self.jitter + 8) >> 4); // d is below 2^33, so the jitter stays below 2^37
    }

    fn jitter(&self) -> Duration {
        Duration::from_micros((self.jitter >> 4).saturating_mul(1_000_000) / u64::from(self.clock_rate.max(1)))
    }
}

/// Returns the extended sequence number closest to `next`, or `None` if it is out of range.
fn extend(next: u64, sequence: u16) -> Option<u64> {
    let step = sequence.wrapping_sub(next as u16) as i16; // modulo 2^16
    let extended = next.checked_add_signed(step.into())?;
    let near = extended.saturating_sub(next) <= MAX_DROPOUT && next.saturating_sub(extended) <= MAX_MISORDER;
    near.then_some(extended)
}

#[cfg(test)]
mod tests;
