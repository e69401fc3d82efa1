//! Pacing of MPEG-TS by its program clock references (PCR, ISO/IEC 13818-1 section 2.4.2): each packet leaves at the time
//! that the references give it, with an even rate between them.
//!
//! The rate up to a reference is known when the reference has come, so the packets before it are held until then. Packets
//! leave [`DELAY`] later than the first reference came. The clock of the encoder differs from ours: the delay is kept by
//! stretching time by no more than [`MAX_DRIFT`]. A stream that stalls, or whose clock jumps, is paced anew.

use crate::media::{
    Packet,
    ts::{Framing, transport::TransportPacket},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Delay of a packet with a clock reference, at the beginning.
const DELAY: Duration = Duration::from_millis(100);
/// Time from the arrival of a reference to the departure of the first packet that waited for it, which is aimed at.
const MARGIN: Duration = Duration::from_millis(50);
/// Longest delay. A stream that comes faster than its clock is sent faster, too.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// Longest time that packets wait for the next reference.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Largest step of the clock that is no jump, in units of 27 MHz: one second.
const MAX_STEP: u64 = 27_000_000;
/// Modulus of the clock in units of 27 MHz.
const MODULUS: u64 = (1 << 33) * 300;
/// Time over which the delay is observed before time is stretched.
const WINDOW: Duration = Duration::from_secs(5);
/// Largest stretch of time, in millionths.
const MAX_DRIFT: i64 = 100;
/// Maximum number of packets that are held.
const MAX_HELD: usize = 16_384;

/// A packet with its place in the flow.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) packet: Packet,
    pub(crate) place: u64,
}

/// Pacer of one stream.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    reference: Option<Reference>,
    /// Packets behind the last reference, each with the number of bytes between both.
    segment: VecDeque<(u64, Placed)>,
    /// Packets in the order of their departure.
    due: VecDeque<(Instant, Placed)>,
    /// Departure of the last packet of `due`.
    last: Option<Instant>,
    /// Bytes since the packet that carries the reference.
    bytes: u64,
    window: Option<Window>,
    /// Stretch of time, in millionths.
    drift: i64,
    /// Number of times that the stream was paced anew.
    restarts: u64,
}

/// The last clock reference.
#[derive(Clone, Copy, Debug)]
struct Reference {
    pid: u16,
    clock: u64,
    arrival: Instant,
    /// Departure of its packet.
    departure: Instant,
    /// Time and bytes from the reference before.
    rate: Option<(Duration, u64)>,
}

/// Least margin since a time.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    least: Duration,
}

impl Pacer {
    /// Returns the number of times that the stream was paced anew: it stalled, its clock jumped, or it came too fast.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Takes a packet. `payload`: its MPEG-TS, empty if it has none.
    pub(crate) fn push(&mut self, packet: Placed, payload: &[u8], now: Instant) {
        self.handle_timeout(now);
        let found = self.find_clock(payload);
        let Some((before, pid, clock)) = found else {
            if self.reference.is_none() {
                self.depart(packet, now);
            } else {
                self.segment.push_back((self.bytes, packet));
                self.bytes = self.bytes.saturating_add(payload.len() as u64);
            }
            return self.bound(now);
        };
        let length = payload.len() as u64;
        match self.reference {
            None => {
                let departure = self.last.unwrap_or(now).max(add(now, DELAY));
                self.reference = Some(Reference { pid, clock, arrival: now, departure, rate: None });
                self.depart(packet, departure);
            }
            Some(last) => {
                self.segment.push_back((self.bytes, packet));
                self.refer(last, (pid, clock), self.bytes.saturating_add(before), now);
            }
        }
        self.bytes = length.saturating_sub(before);
        self.bound(now);
    }

    /// Returns the time of the next call of [`Pacer::handle_timeout`] or [`Pacer::pop`].
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let due = self.due.front().map(|(at, _)| *at);
        let overdue = self.reference.filter(|_| !self.segment.is_empty()).map(|r| add(r.arrival, MAX_WAIT));
        due.into_iter().chain(overdue).min()
    }

    /// Releases packets that have waited too long for a reference.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.reference.is_some_and(|reference| now.saturating_duration_since(reference.arrival) >= MAX_WAIT) {
            self.release(now);
        }
    }

    /// Returns the next packet that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Placed> {
        self.due.front().filter(|(at, _)| *at <= now)?;
        self.due.pop_front().map(|(_, packet)| packet)
    }

    /// Makes all packets due at once, as at the end of the flow.
    pub(crate) fn flush(&mut self, now: Instant) {
        if !self.segment.is_empty() {
            self.release(now);
        }
        for (at, _) in &mut self.due {
            *at = (*at).min(now);
        }
        self.last = None;
    }

    /// Returns the first clock reference in a payload: the number of bytes before its packet, its PID and its value.
    fn find_clock(&self, payload: &[u8]) -> Option<(u64, u16, u64)> {
        let pid = self.reference.map(|reference| reference.pid);
        let framing = Framing { offset: 0, stride: 188 };
        let framing = if framing.fits(payload) { framing } else { Framing::detect(payload)? };
        framing.packets(payload).enumerate().find_map(|(at, packet)| {
            let packet = TransportPacket::parse(packet)?;
            let base = packet.clock.filter(|_| pid.is_none_or(|pid| pid == packet.pid))?;
            let clock = base * 300 + u64::from(packet.clock_extension); // the base has 33 bits
            let before = framing.offset.saturating_add(at.saturating_mul(framing.stride));
            Some((before as u64, packet.pid, clock))
        })
    }

    /// Gives the packets up to a reference their departures. `bytes`: number of bytes from the last reference to this.
    fn refer(&mut self, last: Reference, (pid, clock): (u16, u64), bytes: u64, now: Instant) {
        let ticks = (clock + MODULUS - last.clock) % MODULUS; // both are below the modulus
        let is_step = (1..=MAX_STEP).contains(&ticks) && bytes > 0;
        let (length, rate) = if is_step {
            let length = stretch(Duration::from_nanos(ticks.saturating_mul(1000) / 27), self.drift);
            (length, Some((length, bytes)))
        } else {
            // Behind a jump of the clock the rate before is the best guess.
            self.restarts = self.restarts.saturating_add(1);
            let length = last.rate.map_or(Duration::ZERO, |rate| share(rate, bytes)).min(MAX_DELAY);
            (length, last.rate)
        };
        let first = self.segment.front().map_or(0, |(at, _)| *at);
        let mut start = last.departure;
        let early = add(start, share((length, bytes), first));
        let margin = early.checked_duration_since(now);
        if margin.is_none() || margin.is_some_and(|margin| margin > MAX_DELAY) {
            // It stalled, or came faster than its clock for long: it is paced anew, behind what is due already.
            self.restarts = self.restarts.saturating_add(1);
            let earliest = self.last.unwrap_or(now).max(now);
            start = if margin.is_none() { earliest.max(add(now, MARGIN)) } else { earliest.min(add(now, DELAY)) };
            self.window = None;
            self.drift = 0;
        }
        for (at, packet) in std::mem::take(&mut self.segment) {
            self.depart(packet, add(start, share((length, bytes), at)));
        }
        let departure = add(start, length);
        self.reference = Some(Reference { pid, clock, arrival: now, departure, rate });
        self.observe(add(start, share((length, bytes), first)).saturating_duration_since(now), now);
    }

    /// Observes the margin of a reference, and stretches time to keep it at [`MARGIN`].
    fn observe(&mut self, margin: Duration, now: Instant) {
        let window = self.window.get_or_insert(Window { since: now, least: margin });
        window.least = window.least.min(margin);
        if now.saturating_duration_since(window.since) < WINDOW {
            return;
        }
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let missing = micros(MARGIN).saturating_sub(micros(window.least));
        self.drift = missing.saturating_div(WINDOW.as_secs() as i64).clamp(-MAX_DRIFT, MAX_DRIFT);
        self.window = None;
    }

    /// Sends the segment as it came, and waits for another reference.
    fn release(&mut self, now: Instant) {
        let Some(last) = self.reference.take() else { return };
        if !self.segment.is_empty() {
            self.restarts = self.restarts.saturating_add(1);
        }
        for (at, packet) in std::mem::take(&mut self.segment) {
            let departure = last.rate.map_or(now, |rate| add(last.departure, share(rate, at)));
            self.depart(packet, departure.min(add(now, MAX_DELAY)));
        }
        self.bytes = 0;
        self.window = None;
        self.drift = 0;
    }

    /// Appends a packet. None leaves before the one before it.
    fn depart(&mut self, packet: Placed, at: Instant) {
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        self.due.push_back((at, packet));
    }

    /// Sends the oldest packets at once where too many are held.
    fn bound(&mut self, now: Instant) {
        if self.segment.len() > MAX_HELD {
            self.release(now);
        }
        if let Some(excess) = self.due.len().checked_sub(MAX_HELD).filter(|excess| *excess > 0) {
            self.restarts = self.restarts.saturating_add(1);
            for (at, _) in self.due.iter_mut().take(excess) {
                *at = (*at).min(now);
            }
        }
    }
}

/// Returns a time later by a duration.
fn add(time: Instant, duration: Duration) -> Instant {
    time.checked_add(duration).unwrap_or(time)
}

/// Returns the time of a number of bytes at a rate.
fn share((length, bytes): (Duration, u64), at: u64) -> Duration {
    let nanos = length.as_nanos().saturating_mul(at.into()) / u128::from(bytes.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Returns a duration that is longer by so many millionths.
fn stretch(length: Duration, millionths: i64) -> Duration {
    let more = length.mul_f64(millionths.unsigned_abs() as f64 / 1e6);
    if millionths < 0 { length.saturating_sub(more) } else { length.saturating_add(more) }
}

#[cfg(test)]
mod tests;
