//! One RTP stream as it arrives: its sequence (RFC 3550 appendix A.1), its quality (A.3, A.8), and packets put
//! back in order within a window.
//!
//! Packets that come in order pass at once. Behind a gap they are held until it is filled, or the window is
//! over. A stream that starts anew, with another SSRC or a leap in its sequence, is believed when two of its
//! packets follow each other; neither of them is lost.

use crate::media::{Packet, rtp::Header};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A step forward up to which the sequence counts as continued (RFC 3550 appendix A.1).
const MAX_DROPOUT: u64 = 3000;
/// Packets that are held behind gaps at most.
const MAX_HELD: usize = 2048;
/// A step back up to which a packet counts as an old one of the stream.
const MAX_MISORDER: u64 = 1000;
/// Gaps that are remembered after they have been given up.
const MAX_GIVEN_UP: usize = 64;
/// How long the stream must be silent before another SSRC may take its place.
const TAKEOVER: Duration = Duration::from_millis(100);

/// What the receiver knows of the stream so far. All are packets, except the jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quality {
    /// Given up: the window was over before they came.
    pub(crate) lost: u64,
    /// Came out of order and were put in order.
    pub(crate) recovered: u64,
    /// Came after they had been given up, and were dropped.
    pub(crate) late: u64,
    /// Came twice, and were dropped.
    pub(crate) duplicates: u64,
    /// Of another SSRC, or far outside the sequence, and dropped.
    pub(crate) foreign: u64,
    /// How often the stream has started anew.
    pub(crate) restarts: u64,
    /// The interarrival jitter (RFC 3550 section 6.4.1).
    pub(crate) jitter: Duration,
}

/// Follows one stream.
#[derive(Debug)]
pub(crate) struct Receiver {
    window: Duration,
    stream: Option<Stream>,
    /// The first packet of what may be a new stream.
    candidate: Option<(Header, Packet)>,
    quality: Quality,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    /// The extended sequence number that comes next.
    next: u64,
    /// What is held, from `next` on; the first slot is a gap.
    held: VecDeque<Option<Packet>>,
    /// When the packet behind the first gap came.
    gap_since: Option<Instant>,
    last_arrival: Instant,
    /// What was given up of late, so that a packet that comes after all is told from one that comes twice.
    given_up: VecDeque<std::ops::Range<u64>>,
    /// Arrival and timestamp of the packet before, for the jitter.
    previous: Option<(Instant, u32)>,
    /// In timestamp units, times 16 (appendix A.8).
    jitter: u64,
    clock_rate: u32,
}

impl Receiver {
    /// `window`: how long a gap is held open. Zero: packets pass in the order of their arrival.
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, stream: None, candidate: None, quality: Quality::default() }
    }

    pub(crate) fn quality(&self) -> Quality {
        self.quality
    }

    /// Takes one packet; what may pass now is appended to `out`, in order.
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

    /// When [`Receiver::handle_timeout`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let since = self.stream.as_ref()?.gap_since?;
        since.checked_add(self.window)
    }

    /// Gives up the gaps whose window is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            if let Some(stream) = &mut self.stream {
                stream.skip_gap(&mut self.quality, out);
            }
        }
    }

    /// The stream is gone: what is held passes, and the next packet starts a new one.
    pub(crate) fn reset(&mut self, out: &mut Vec<Packet>) {
        while let Some(stream) = &mut self.stream
            && !stream.held.is_empty()
        {
            stream.skip_gap(&mut self.quality, out);
        }
        self.stream = None;
        self.drop_candidate();
    }

    /// A packet of what may be a new stream: believed when it follows the one before.
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
            // Well above zero, so that packets from before the first one have a number too.
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
            // More than can be held: what is held passes early, then the gap up to here is given up.
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

    /// Without a window, only the counters follow the sequence.
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

    /// Lets pass what now follows without a gap.
    fn release(&mut self, out: &mut Vec<Packet>) {
        let mut moved = false;
        while let Some(Some(_)) = self.held.front() {
            out.extend(self.held.pop_front().flatten());
            self.next += 1;
            moved = true;
        }
        if moved {
            // The next gap has been open since the packet behind it came.
            self.gap_since = self.held.iter().flatten().map(Packet::arrival).min();
        }
    }

    /// Gives up the first gap, and lets pass what is behind it.
    fn skip_gap(&mut self, quality: &mut Quality, out: &mut Vec<Packet>) {
        let gap = self.held.iter().take_while(|slot| slot.is_none()).count();
        self.held.drain(..gap);
        self.give_up(self.next + gap as u64, quality);
        self.release(out);
        if self.held.is_empty() {
            self.gap_since = None;
        }
    }

    /// Everything before `sequence` that has not come is lost.
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

    /// RFC 3550 appendix A.8.
    fn measure_jitter(&mut self, header: &Header, arrival: Instant) {
        let Some((before, timestamp)) = self.previous.replace((arrival, header.timestamp)) else { return };
        // A pause of minutes is no jitter: steps are capped at a minute.
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
        self.jitter = self.jitter + d - ((self.jitter + 8) >> 4); // d is below 2^33: it settles below 2^37
    }

    fn jitter(&self) -> Duration {
        Duration::from_micros((self.jitter >> 4).saturating_mul(1_000_000) / u64::from(self.clock_rate.max(1)))
    }
}

/// The extended sequence number that is closest to `next`; `None` if it is too far away to belong.
fn extend(next: u64, sequence: u16) -> Option<u64> {
    let step = sequence.wrapping_sub(next as u16) as i16; // modulo 2^16
    let extended = next.checked_add_signed(step.into())?;
    let near = extended.saturating_sub(next) <= MAX_DROPOUT && next.saturating_sub(extended) <= MAX_MISORDER;
    near.then_some(extended)
}

#[cfg(test)]
mod tests;
