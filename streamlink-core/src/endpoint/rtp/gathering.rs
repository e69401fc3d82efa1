//! The time for which a source lets datagrams gather in its socket before it reads them, so that they leave together.
//!
//! Media after a pause is read at once: while the first datagrams of a burst are sent, the others come, and leave
//! together. To wait for them would cost a wake-up, and save nothing. Encoders that pace come without pauses, one datagram
//! at a time, each of which costs every output a call. With many outputs these are read at intervals, in which [`RUN`] of
//! them come, up to the limit of the flow. While it is so, the socket is not watched either: the arrival of a datagram
//! wakes nobody.

use std::time::{Duration, Instant};

/// Shortest interval between two reads.
const SHORTEST: Duration = Duration::from_millis(1);
/// Number of datagrams after which waiting for more gains little.
const RUN: u32 = 16;
/// Number of outputs from which on datagrams are held for more than [`SHORTEST`].
const MANY_OUTPUTS: usize = 8;
/// Number of reads without a pause between them after which the media counts as steady.
const STEADY: u32 = 8;

/// The decision about one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    limit: Duration,
    last: Option<Instant>,
    /// Number of reads without a pause.
    reads: u32,
    /// The interval of a steady source.
    interval: Option<Duration>,
}

impl Gathering {
    /// `limit`: maximum time for which datagrams may be held.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, last: None, reads: 0, interval: None }
    }

    /// Holds nothing for longer than the shortest interval.
    pub(super) fn short(limit: Duration) -> Self {
        Self::new(limit.min(SHORTEST))
    }

    /// Returns the time from one read to the next, while the media is steady.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Notes that some datagrams were read.
    pub(super) fn read(&mut self, datagrams: usize, outputs: usize, now: Instant) {
        let since = self.last.replace(now).map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        let shortest = self.limit.min(SHORTEST);
        let limit = if outputs < MANY_OUTPUTS { shortest } else { self.limit };
        // Fewer than two datagrams in an interval are not worth it.
        let is_pause = if self.interval.is_some() { datagrams == 0 } else { since > limit / 2 };
        if is_pause || limit.is_zero() {
            self.reads = 0;
            self.interval = None;
            return;
        }
        self.reads = self.reads.saturating_add(1);
        if self.reads < STEADY {
            return;
        }
        let datagrams = u32::try_from(datagrams).unwrap_or(u32::MAX).max(1);
        let wanted = (since / datagrams).saturating_mul(RUN).min(limit).max(shortest);
        // One read tells little of the rate, so that the interval follows slowly.
        self.interval = Some(self.interval.map_or(wanted, |interval| ((interval * 3 + wanted) / 4).min(limit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(5);

    /// Plays datagrams at their times, in microseconds. Returns the number of each read, and the longest time that one
    /// was held.
    fn play(gathering: &mut Gathering, outputs: usize, arrivals: &[u64]) -> (Vec<usize>, Duration) {
        let start = Instant::now();
        let at = |micros: u64| start + Duration::from_micros(micros);
        let mut reads = Vec::new();
        let mut longest = Duration::ZERO;
        let mut next = 0;
        let mut now = start;
        while next < arrivals.len() {
            now = match gathering.interval() {
                Some(interval) => now + interval,
                None => now.max(at(arrivals[next])),
            };
            let count = arrivals[next..].iter().filter(|arrival| at(**arrival) <= now).count();
            if count > 0 {
                longest = longest.max(now - at(arrivals[next]));
            }
            gathering.read(count, outputs, now);
            next += count;
            reads.push(count);
        }
        (reads, longest)
    }

    fn every(micros: u64, count: u64) -> Vec<u64> {
        (1..=count).map(|n| n * micros).collect()
    }

    #[test]
    fn gathering_holds_paced_datagrams_up_to_limit() {
        let mut gathering = Gathering::new(LIMIT);
        let (reads, longest) = play(&mut gathering, 50, &every(1755, 1000));
        assert!(longest <= LIMIT, "{longest:?}");
        let settled = &reads[30..];
        assert!(settled.iter().all(|count| (2..=3).contains(count)), "{settled:?}");
        assert_eq!(gathering.interval(), Some(LIMIT));
    }

    #[test]
    fn gathering_interval_follows_rate() {
        // 60 Mb/s: sixteen come in 2.8 ms.
        let mut gathering = Gathering::new(LIMIT);
        let (reads, longest) = play(&mut gathering, 50, &every(175, 5000));
        assert!(longest <= LIMIT);
        let settled = &reads[50..reads.len() - 1];
        assert!(settled.iter().all(|count| (15..=18).contains(count)), "{settled:?}");
        // At ten times that no interval is shorter than the shortest.
        play(&mut gathering, 50, &every(17, 20_000));
        assert_eq!(gathering.interval().unwrap().as_micros() / 100, 10);
    }

    #[test]
    fn gathering_of_few_outputs_or_slow_media_holds_nothing() {
        for (outputs, every_micros) in [(MANY_OUTPUTS - 1, 1755), (50, 2600), (50, 20_000)] {
            let mut gathering = Gathering::new(LIMIT);
            let (reads, longest) = play(&mut gathering, outputs, &every(every_micros, 200));
            assert!(longest.is_zero() && reads.iter().all(|count| *count == 1), "{outputs} {every_micros}");
            assert_eq!(gathering.interval(), None);
        }
    }

    #[test]
    fn gathering_reads_bursts_at_once() {
        let mut gathering = Gathering::new(LIMIT);
        let bursts: Vec<u64> = (1..100).flat_map(|burst| (0..23).map(move |n| burst * 40_000 + n * 10)).collect();
        let (reads, longest) = play(&mut gathering, 50, &bursts);
        // A read takes no time here, so that each datagram is read by itself until the media counts as steady.
        assert!(longest <= SHORTEST && reads.len() <= 100 * (usize::try_from(STEADY).unwrap() + 3), "{}", reads.len());
    }

    #[test]
    fn gathering_ends_with_a_pause() {
        let mut gathering = Gathering::new(LIMIT);
        play(&mut gathering, 50, &every(1755, 100));
        assert!(gathering.interval().is_some());
        gathering.read(0, 50, Instant::now());
        assert_eq!(gathering.interval(), None);
        let (reads, longest) = play(&mut gathering, 50, &every(10_000, 10));
        assert!(longest.is_zero() && reads.iter().all(|count| *count == 1));
    }

    #[test]
    fn gathering_of_zero_never_holds() {
        let mut gathering = Gathering::new(Duration::ZERO);
        let (_, longest) = play(&mut gathering, 50, &every(100, 1000));
        assert_eq!(longest, Duration::ZERO);
        assert_eq!(gathering.interval(), None);
    }

    #[test]
    fn gathering_of_one_millisecond_stays_one() {
        let mut gathering = Gathering::new(SHORTEST);
        let (_, longest) = play(&mut gathering, 50, &every(100, 1000));
        assert!(longest <= SHORTEST, "{longest:?}");
    }

    /// Outputs that are removed leave few.
    #[test]
    fn gathering_shortens_when_outputs_leave() {
        let mut gathering = Gathering::new(LIMIT);
        play(&mut gathering, 50, &every(100, 1000));
        let start = Instant::now();
        gathering.read(16, 50, start);
        for read in 1..3 {
            gathering.read(16, 1, start + SHORTEST * read);
            assert!(gathering.interval().is_none_or(|interval| interval <= SHORTEST));
        }
    }
}
