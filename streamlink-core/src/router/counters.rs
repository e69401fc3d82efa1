//! Counters of an endpoint: plain atomics, written by the one task that drives it, read by anyone.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// Not started, or stopped.
    #[default]
    Idle,
    /// Listening, or between two attempts to connect.
    Waiting,
    /// Media flows, or can flow.
    Connected,
    /// Given up; the last event says why.
    Failed,
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    /// Adds without a read-modify-write instruction, for the only writer of this counter.
    fn add_alone(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one endpoint.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) bytes: Counter,
    pub(crate) packets: Counter,
    start: Instant,
    rate: Rate,
    /// Never arrived, or too late.
    pub(crate) lost: Counter,
    /// Arrived out of order, repeated or by another path, and were put in their place.
    pub(crate) recovered: Counter,
    pub(crate) retransmitted: Counter,
    /// Arrived, and were dropped: queue, bandwidth, filters.
    pub(crate) dropped: Counter,
    /// Arrived again after they had arrived.
    pub(crate) duplicates: Counter,
    /// Could not be parsed.
    pub(crate) malformed: Counter,
    /// Repair packets of forward error correction, received or sent.
    pub(crate) repairs: Counter,
    /// Rebuilt from repair packets.
    pub(crate) rebuilt: Counter,
    /// Lost, and could not be rebuilt.
    pub(crate) unrepaired: Counter,
    /// Could not be decrypted, or were altered.
    pub(crate) undecrypted: Counter,
    /// Arrived from peers that are not admitted.
    pub(crate) refused: Counter,
    pub(crate) reconnections: Counter,
    pub(crate) jitter_us: Counter,
    /// FLV frames, in thousandths of a frame per second.
    pub(crate) video_rate: Counter,
    pub(crate) audio_rate: Counter,
    pub(crate) rtt_us: Counter,
    pub(crate) latency_us: Counter,
    pub(crate) buffered_us: Counter,
    /// 0 or 1.
    pub(crate) encrypted: Counter,
    /// Milliseconds from the endpoint's start to its last connection, plus one; 0 while it is not connected.
    connected: Counter,
    /// Milliseconds from the endpoint's start to the last media of a source, or to the connection of its sender.
    heard: Counter,
    state: AtomicU8,
}

impl Counters {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bytes: Counter::default(),
            packets: Counter::default(),
            start: now,
            rate: Rate::default(),
            lost: Counter::default(),
            recovered: Counter::default(),
            retransmitted: Counter::default(),
            dropped: Counter::default(),
            duplicates: Counter::default(),
            malformed: Counter::default(),
            repairs: Counter::default(),
            rebuilt: Counter::default(),
            unrepaired: Counter::default(),
            undecrypted: Counter::default(),
            refused: Counter::default(),
            reconnections: Counter::default(),
            jitter_us: Counter::default(),
            video_rate: Counter::default(),
            audio_rate: Counter::default(),
            rtt_us: Counter::default(),
            latency_us: Counter::default(),
            buffered_us: Counter::default(),
            encrypted: Counter::default(),
            connected: Counter::default(),
            heard: Counter::default(),
            state: AtomicU8::new(0),
        }
    }

    /// Counts packets and bytes that have passed. Called by one task at a time.
    pub(crate) fn passed(&self, now: Instant, packets: u64, bytes: u64) {
        self.packets.add_alone(packets);
        self.bytes.add_alone(bytes);
        self.rate.add(self.age(now), bytes);
    }

    /// Returns the bit rate over the last second.
    pub(crate) fn bits_per_second(&self, now: Instant) -> u64 {
        self.rate.bytes_in_last_second(self.age(now)).saturating_mul(8)
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Waiting,
            2 => State::Connected,
            3 => State::Failed,
            _ => State::Idle,
        }
    }

    pub(crate) fn set_state(&self, state: State, now: Instant) {
        let number = match state {
            State::Idle => 0,
            State::Waiting => 1,
            State::Connected => 2,
            State::Failed => 3,
        };
        self.state.store(number, Relaxed);
        self.connected.set(if state == State::Connected { self.age(now).saturating_add(1) } else { 0 });
    }

    /// Records that a source has brought media, or that its sender has connected.
    pub(crate) fn heard(&self, now: Instant) {
        self.heard.set(self.age(now));
    }

    /// Returns the time since [`Counters::heard`] was called last.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.age(now).saturating_sub(self.heard.get()))
    }

    /// Returns the duration of the connection; `None` while there is none.
    pub(crate) fn connected_for(&self, now: Instant) -> Option<Duration> {
        let since = self.connected.get().checked_sub(1)?;
        Some(Duration::from_millis(self.age(now).saturating_sub(since)))
    }

    /// Milliseconds since the start.
    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Bytes of the last second, in tenths: each entry is the number of its tenth and its bytes.
#[derive(Debug, Default)]
struct Rate([(Counter, Counter); Self::SLOTS]);

impl Rate {
    const SLOT_MS: u64 = 100;
    /// Ten whole tenths, and the one in progress.
    const SLOTS: usize = 11;

    fn add(&self, ms: u64, bytes: u64) {
        let number = ms / Self::SLOT_MS;
        let (slot, sum) = &self.0[(number % Self::SLOTS as u64) as usize];
        if slot.get() != number {
            // One task writes: between the two stores, a reader may miss a tenth of a second, once.
            sum.set(0);
            slot.set(number);
        }
        sum.add_alone(bytes);
    }

    fn bytes_in_last_second(&self, ms: u64) -> u64 {
        let number = ms / Self::SLOT_MS;
        let recent = |slot: u64| slot < number && slot + 10 >= number;
        self.0.iter().filter(|(slot, _)| recent(slot.get())).fold(0, |sum, (_, b)| sum.saturating_add(b.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_rate_covers_last_second() {
        let start = Instant::now();
        let counters = Counters::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        for i in 0..300 {
            counters.passed(at(10 * i), 1, 1000);
        }
        assert_eq!(counters.bits_per_second(at(3000)), 800_000);
        assert_eq!(counters.bits_per_second(at(3500)), 400_000);
        assert_eq!(counters.bits_per_second(at(9000)), 0);
        assert_eq!((counters.packets.get(), counters.bytes.get()), (300, 300_000));
    }

    #[test]
    fn counters_state_has_connection_time() {
        let start = Instant::now();
        let counters = Counters::new(start);
        assert_eq!((counters.state(), counters.connected_for(start)), (State::Idle, None));
        counters.set_state(State::Connected, start);
        let later = start + Duration::from_secs(5);
        assert_eq!((counters.state(), counters.connected_for(later)), (State::Connected, Some(Duration::from_secs(5))));
        counters.set_state(State::Waiting, later);
        assert_eq!((counters.state(), counters.connected_for(later)), (State::Waiting, None));
    }
}
