//! Receiver of one RTP stream: sequence validation (RFC 3550 appendix A.1), quality (A.3, A.8), and reordering within
//! a window.
//!
//! Packets in order pass at once. Packets behind a gap are held until the gap is filled or the window is over. A
//! restart of the stream, with another SSRC or a jump of the sequence number in either direction, is accepted when two
//! of its packets are consecutive. Neither of them is lost. Copies of packets that have passed are no restart.
//!
//! If the stream before goes on after all, there are two senders: the receiver returns to it, and drops the packets of
//! the other for as long as it lives.

use crate::media::{Packet, rtp::Header};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum step forward within one sequence, in packets (RFC 3550 appendix A.1).
const MAX_DROPOUT: u64 = 3000;
/// Maximum number of packets held behind gaps by default.
const MAX_HELD: usize = 2048;
/// Maximum number of packets held behind gaps where more are allowed: half of what sequence numbers tell apart.
const MOST_HELD: usize = 1 << 14;
/// Maximum step back within one sequence, in packets (RFC 3550 appendix A.1).
const MAX_MISORDER: u64 = 1000;
/// Extended sequence numbers begin well above zero, so that packets before the first one have a number as well.
const FIRST: u64 = 1 << 32;
/// Maximum number of given-up gaps that are remembered.
const MAX_GIVEN_UP: usize = 64;
/// Minimum silence of the stream before another SSRC with another payload type, or a second sender, may replace it.
const TAKEOVER: Duration = Duration::from_millis(100);
/// Maximum number of possible new streams.
const MAX_CANDIDATES: usize = 2;
/// Number of packets that are remembered to tell copies from a restart. At least [`MAX_MISORDER`].
const REMEMBERED: usize = 1024;
/// Time without a new packet after which copies of old ones are a stream that repeats itself.
const REPEATED: Duration = Duration::from_millis(300);
/// Time after a restart in which the stream before may turn out to go on.
const RETURN: Duration = Duration::from_secs(1);
/// Maximum number of packets of a stream before its start that may arrive late, and the time in which they may.
const EARLY: u64 = 100;
const EARLY_TIME: Duration = Duration::from_secs(1);
/// Number of packets of a second sender that follow each other which prove that there is one.
const SECOND_SENDER: u32 = 8;

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
    /// Packets among the lost that were given up early, because there was no memory to hold those behind them.
    pub(crate) overflowed: u64,
    /// Number of restarts of the stream.
    pub(crate) restarts: u64,
    /// Number of times that a second sender with the same SSRC was found.
    pub(crate) collisions: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub(crate) jitter: Duration,
}

/// Bounds of what is held behind gaps.
#[derive(Clone, Copy, Debug)]
struct HoldLimit {
    packets: usize,
    bytes: usize,
}

impl Default for HoldLimit {
    fn default() -> Self {
        Self { packets: MAX_HELD, bytes: usize::MAX }
    }
}

/// Receiver of one RTP stream.
#[derive(Debug)]
pub(crate) struct Receiver {
    window: Duration,
    /// Maximum number of packets held behind a gap, beside that which is due to memory.
    hold: usize,
    limit: HoldLimit,
    stream: Option<Stream>,
    /// First packets of possible new streams.
    candidates: Vec<(Header, Packet)>,
    /// The stream before the last restart.
    previous: Option<Run>,
    /// Another sender, whose packets are dropped.
    second: Option<Run>,
    quality: Quality,
}

/// A run of packets that is not the stream.
#[derive(Debug)]
struct Run {
    ssrc: u32,
    /// Next sequence number.
    next: u16,
    last_arrival: Instant,
    /// Number of packets that followed each other.
    length: u32,
}

impl Run {
    /// Returns true if a packet belongs to this run, at the given time.
    fn continues(&self, header: &Header, arrival: Instant) -> bool {
        let step = header.sequence.wrapping_sub(self.next) as i16; // modulo 2^16
        let near = (-(EARLY as i16)..=EARLY as i16).contains(&step);
        self.ssrc == header.ssrc && near && arrival.saturating_duration_since(self.last_arrival) <= RETURN
    }

    fn advance(&mut self, header: &Header, arrival: Instant) {
        if header.sequence == self.next {
            self.length = self.length.saturating_add(1);
        } else if self.length < SECOND_SENDER {
            self.length = 0;
        }
        self.next = header.sequence.wrapping_add(1);
        self.last_arrival = arrival;
    }
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    payload_type: u8,
    /// The first extended sequence number, and the time of its arrival.
    first: (u64, Instant),
    /// Fingerprints of the last packets, each in the place of its sequence number.
    seen: Box<[(u16, u32); REMEMBERED]>,
    /// Arrival of the last packet that had not arrived before.
    progress: Instant,
    /// Next extended sequence number.
    next: u64,
    /// Held packets from `next` on, and their bytes. The first slot is a gap.
    held: VecDeque<Option<Packet>>,
    held_bytes: usize,
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
        Self {
            window,
            hold: MAX_HELD,
            limit: HoldLimit::default(),
            stream: None,
            candidates: Vec::new(),
            previous: None,
            second: None,
            quality: Quality::default(),
        }
    }

    /// Changes the maximum wait for a missing packet: in time, and in the number of packets behind it. One that passes
    /// packets in the order of arrival goes on so.
    pub(crate) fn set_window(&mut self, window: Duration, hold: usize) {
        if !self.window.is_zero() {
            self.window = window;
            self.hold = hold.clamp(1, self.limit.packets);
        }
    }

    /// Allows more memory for packets behind gaps: so many bytes, and the packets that go with them.
    pub(crate) fn allow_held(&mut self, bytes: usize) {
        self.limit = HoldLimit { packets: MOST_HELD, bytes };
        self.hold = self.hold.max(MOST_HELD);
    }

    /// Returns whether a packet of the stream is missing, and would pass if it came now.
    pub(crate) fn awaits(&self, header: &Header) -> bool {
        let Some(stream) = self.stream.as_ref().filter(|stream| stream.ssrc == header.ssrc) else { return false };
        let Some(number) = stream.extend(header.sequence) else { return false };
        match number.checked_sub(stream.next) {
            Some(ahead) => stream.held.get(ahead as usize).is_none_or(Option::is_none), // at most MAX_DROPOUT
            None => self.window.is_zero() && !stream.has_seen(header.sequence),
        }
    }

    pub(crate) fn quality(&self) -> Quality {
        self.quality
    }

    /// Handles a packet. Appends the packets that pass now to `out`, in order.
    pub(crate) fn handle(&mut self, header: &Header, packet: Packet, out: &mut Vec<Packet>) {
        let arrival = packet.arrival();
        let Some(stream) = &mut self.stream else { return self.audition(header, packet, out) };
        let fingerprint = header.fingerprint(packet.data());
        let sequence = stream.extend(header.sequence).filter(|_| stream.ssrc == header.ssrc);
        let Some(sequence) = sequence.filter(|at| !stream.repeats(*at, fingerprint, arrival, self.window.is_zero()))
        else {
            let is_silent = arrival.saturating_duration_since(stream.last_arrival) >= TAKEOVER;
            let is_other = stream.ssrc != header.ssrc && stream.payload_type != header.payload_type;
            if !is_silent && (is_other || self.is_of_second_sender(header, arrival)) {
                self.quality.foreign = self.quality.foreign.saturating_add(1);
                return;
            }
            return self.audition(header, packet, out);
        };
        stream.last_arrival = stream.last_arrival.max(arrival);
        if self.window.is_zero() && sequence < stream.next && stream.has_seen(header.sequence) {
            self.quality.duplicates = self.quality.duplicates.saturating_add(1);
            return;
        }
        stream.measure_jitter(header, arrival);
        stream.remember(header.sequence, fingerprint);
        if sequence >= stream.next {
            stream.progress = arrival;
        }
        self.quality.jitter = stream.jitter();
        stream.place(sequence, packet, (self.window, self.limit.packets), &mut self.quality, out);
        while let Some(stream) = self.stream.as_mut().filter(|stream| stream.held_bytes > self.limit.bytes) {
            let lost = self.quality.lost;
            stream.skip_gap(&mut self.quality, out);
            self.quality.overflowed = self.quality.overflowed.saturating_add(self.quality.lost - lost);
        }
        self.drop_candidates();
    }

    /// Handles a packet that is known to be one of the stream, because it was sent again on request or rebuilt. Where
    /// packets pass in the order of arrival, it passes however late it is.
    pub(crate) fn handle_known(&mut self, header: &Header, packet: Packet, out: &mut Vec<Packet>) {
        let stream = self.stream.as_mut().filter(|stream| stream.ssrc == header.ssrc);
        let behind = |stream: &Stream| (stream.next as u16).wrapping_sub(header.sequence) as i16; // modulo 2^16
        let Some(stream) = stream.filter(|stream| self.window.is_zero() && behind(stream) > 0) else {
            return self.handle(header, packet, out);
        };
        let is_remembered = usize::from(behind(stream).unsigned_abs()) <= REMEMBERED;
        if is_remembered && stream.seen[usize::from(header.sequence) % REMEMBERED].0 == header.sequence {
            self.quality.duplicates = self.quality.duplicates.saturating_add(1);
            return;
        }
        if is_remembered {
            stream.remember(header.sequence, header.fingerprint(packet.data()));
        }
        self.quality.recovered = self.quality.recovered.saturating_add(1);
        self.quality.lost = self.quality.lost.saturating_sub(1);
        out.push(packet);
    }

    /// Returns the time of the next call of [`Receiver::handle_timeout`], if there is a gap.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let since = self.stream.as_ref()?.gap_since?;
        since.checked_add(self.window)
    }

    /// Gives up gaps whose window is over, or behind which too many packets are held.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while let Some(stream) = self.stream.as_mut().filter(|stream| stream.held.len() > self.hold) {
            stream.skip_gap(&mut self.quality, out);
        } // forward error correction, which can recover nothing before them
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
        self.drop_candidates();
        self.previous = None;
        self.second = None;
    }

    /// Returns true if a packet is one of a sender beside the stream's.
    fn is_of_second_sender(&mut self, header: &Header, arrival: Instant) -> bool {
        let Some(second) = self.second.as_mut().filter(|second| second.continues(header, arrival)) else {
            return false;
        };
        if second.length < SECOND_SENDER {
            return false;
        }
        second.advance(header, arrival);
        true
    }

    /// Handles a packet of a possible new stream. The stream is accepted when the packet follows the candidate.
    fn audition(&mut self, header: &Header, packet: Packet, out: &mut Vec<Packet>) {
        let follows = |first: &Header| first.ssrc == header.ssrc && first.sequence.wrapping_add(1) == header.sequence;
        let found = self.candidates.iter().position(|(first, _)| follows(first));
        match found.map(|at| self.candidates.remove(at)) {
            Some((first, held)) => {
                if let Some(mut old) = self.stream.take() {
                    self.quality.restarts = self.quality.restarts.saturating_add(1);
                    while !old.held.is_empty() {
                        old.skip_gap(&mut self.quality, out);
                    }
                    let ssrc = old.ssrc;
                    let next = old.next as u16; // modulo 2^16
                    let run = Run { ssrc, next, last_arrival: old.last_arrival, length: 0 };
                    let returns = |previous: &Run| previous.continues(&first, held.arrival());
                    if self.previous.take().is_some_and(|previous| returns(&previous)) {
                        let collides = run.ssrc == first.ssrc;
                        self.quality.collisions = self.quality.collisions.saturating_add(u64::from(collides));
                        self.second = Some(Run { length: SECOND_SENDER, ..run });
                    } else {
                        self.previous = Some(run);
                        self.second = None;
                    }
                }
                let mut stream = Stream::new(&first, held.arrival());
                stream.measure_jitter(&first, held.arrival());
                stream.measure_jitter(header, packet.arrival());
                stream.remember(first.sequence, first.fingerprint(held.data()));
                stream.remember(header.sequence, header.fingerprint(packet.data()));
                stream.next += 2;
                stream.last_arrival = packet.arrival();
                stream.progress = packet.arrival();
                out.extend([held, packet]);
                self.stream = Some(stream);
                self.drop_candidates();
            }
            None => {
                if self.candidates.len() >= MAX_CANDIDATES {
                    let (dropped, packet) = self.candidates.remove(0);
                    self.drop_candidate(&dropped, packet.arrival());
                }
                self.candidates.push((*header, packet));
            }
        }
    }

    fn drop_candidates(&mut self) {
        for (header, packet) in std::mem::take(&mut self.candidates) {
            self.drop_candidate(&header, packet.arrival());
        }
    }

    /// Counts a packet that was not the first of a stream. Single ones that follow each other are those of a second
    /// sender.
    fn drop_candidate(&mut self, header: &Header, arrival: Instant) {
        self.quality.foreign = self.quality.foreign.saturating_add(1);
        let Some(second) = self.second.as_mut().filter(|second| second.continues(header, arrival)) else {
            let next = header.sequence.wrapping_add(1);
            self.second = Some(Run { ssrc: header.ssrc, next, last_arrival: arrival, length: 0 });
            return;
        };
        second.advance(header, arrival);
        let collides = self.stream.as_ref().is_some_and(|stream| stream.ssrc == header.ssrc);
        if second.length == SECOND_SENDER && collides {
            self.quality.collisions = self.quality.collisions.saturating_add(1);
        }
    }
}

impl Stream {
    fn new(first: &Header, arrival: Instant) -> Self {
        Self {
            ssrc: first.ssrc,
            payload_type: first.payload_type,
            first: (FIRST + u64::from(first.sequence), arrival),
            seen: Box::new([(0, 0); REMEMBERED]),
            progress: arrival,
            next: FIRST + u64::from(first.sequence),
            held: VecDeque::new(),
            held_bytes: 0,
            gap_since: None,
            last_arrival: arrival,
            given_up: VecDeque::new(),
            previous: None,
            jitter: 0,
            clock_rate: first.clock_rate(),
        }
    }

    /// Returns the extended sequence number closest to `next`, or `None` if it is out of range: too far behind that, or ahead
    /// of the packets that are held.
    fn extend(&self, sequence: u16) -> Option<u64> {
        let step = sequence.wrapping_sub(self.next as u16) as i16; // modulo 2^16
        let extended = self.next.checked_add_signed(step.into())?;
        let end = self.next + self.held.len() as u64;
        let near = extended.saturating_sub(end) <= MAX_DROPOUT && self.next.saturating_sub(extended) <= MAX_MISORDER;
        near.then_some(extended)
    }

    fn remember(&mut self, sequence: u16, fingerprint: u32) {
        self.seen[usize::from(sequence) % REMEMBERED] = (sequence, fingerprint);
    }

    /// Returns whether a packet with this sequence number was remembered of late.
    fn has_seen(&self, sequence: u16) -> bool {
        let (known, fingerprint) = self.seen[usize::from(sequence) % REMEMBERED];
        known == sequence && fingerprint != 0
    }

    /// Returns true if a packet behind the stream is not late and no copy, but one of a stream that begins again.
    /// `unordered`: packets pass in the order of arrival.
    fn repeats(&self, sequence: u64, fingerprint: u32, arrival: Instant, unordered: bool) -> bool {
        if sequence >= self.next {
            return false;
        }
        match self.seen[sequence as usize % REMEMBERED] {
            (known, seen) if known == sequence as u16 && seen != 0 => {
                seen != fingerprint || arrival.saturating_duration_since(self.progress) > REPEATED
            }
            _ if self.given_up.iter().any(|range| range.contains(&sequence)) => {
                arrival.saturating_duration_since(self.last_arrival) >= TAKEOVER
            }
            _ => {
                let (first, at) = self.first;
                let is_early = sequence < first
                    && first - sequence <= EARLY
                    && arrival.saturating_duration_since(at) <= EARLY_TIME;
                let is_reordered = unordered && self.next - sequence <= EARLY;
                !is_early && !is_reordered
            }
        }
    }

    fn place(
        &mut self,
        sequence: u64,
        packet: Packet,
        (window, most): (Duration, usize),
        quality: &mut Quality,
        out: &mut Vec<Packet>,
    ) {
        if window.is_zero() {
            return self.pass_unordered(sequence, packet, quality, out);
        }
        let Some(ahead) = sequence.checked_sub(self.next) else {
            let was_given_up = self.given_up.iter().any(|range| range.contains(&sequence));
            let counter = if was_given_up { &mut quality.late } else { &mut quality.duplicates };
            *counter = counter.saturating_add(1);
            return;
        };
        let ahead = ahead as usize; // at most MAX_DROPOUT
        if ahead == 0 && self.held.is_empty() {
            self.next += 1;
            return out.push(packet);
        }
        if ahead >= most {
            // More than can be held: release all held packets, and give up the gap up to this packet.
            quality.overflowed = quality.overflowed.saturating_add(self.missing(sequence));
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
            slot => {
                self.held_bytes = self.held_bytes.saturating_add(packet.data().len());
                *slot = Some(packet);
            }
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
        while let Some(Some(packet)) = self.held.front() {
            self.held_bytes = self.held_bytes.saturating_sub(packet.data().len());
            out.extend(self.held.pop_front().flatten());
            self.next += 1;
            moved = true;
        }
        if moved {
            // The next gap is open since the arrival of the packet behind it.
            self.gap_since = self.held.iter().flatten().map(Packet::arrival).min();
        }
    }

    /// Returns the number of packets that are missing before `sequence`.
    fn missing(&self, sequence: u64) -> u64 {
        sequence.saturating_sub(self.next).saturating_sub(self.held.iter().flatten().count() as u64)
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

#[cfg(test)]
mod tests;
