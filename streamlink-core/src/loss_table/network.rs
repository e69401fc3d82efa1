//! Simulated network of one or two paths, in virtual time.

use crate::test_rng::TestRng;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Delay of a path, and what a skewed one has on top of it.
const DELAY: Duration = Duration::from_millis(20);
const SKEW: Duration = Duration::from_millis(200);
/// Time in which nothing is lost yet, and that at which a path dies.
const CALM: Duration = Duration::from_millis(300);
const DEATH: Duration = Duration::from_millis(1000);
/// Length of a burst in datagrams. One begins after nine times as many, on the average.
const BURST: u64 = 10;

/// Trouble of one path, in both directions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    /// Loss of single datagrams in percent.
    pub(super) percent: u64,
    /// Set if a tenth of the datagrams is lost in bursts.
    pub(super) bursts: bool,
    pub(super) dies: bool,
    /// Set if the path is slower than the other by [`SKEW`].
    pub(super) skewed: bool,
}

impl Trouble {
    pub(super) const NONE: Self = Self { percent: 0, bursts: false, dies: false, skewed: false };
}

/// Kind of a datagram, which has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Media,
    /// RTCP, or packets of forward error correction.
    Side,
}

/// A datagram that has arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) path: usize,
    pub(super) forward: bool,
    pub(super) channel: Channel,
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
struct Path {
    trouble: Trouble,
    /// Datagrams of the burst that are still to be lost, for each direction.
    burst: [u64; 2],
}

pub(super) struct Network {
    pub(super) start: Instant,
    pub(super) now: Instant,
    paths: Vec<Path>,
    dice: TestRng,
    count: u64,
    flight: BTreeMap<(Instant, u64), Arrival>,
    lost_media: u64,
    /// Numbers of the packets of the media whose first copy came through, of each path, for mechanisms that note them.
    pub(super) passed: Vec<BTreeSet<u32>>,
}

impl Network {
    pub(super) fn new(troubles: &[Trouble], start: Instant) -> Self {
        Self {
            start,
            now: start,
            paths: troubles.iter().map(|trouble| Path { trouble: *trouble, burst: [0; 2] }).collect(),
            dice: TestRng(0x5eed_1055),
            count: 0,
            flight: BTreeMap::new(),
            lost_media: 0,
            passed: vec![BTreeSet::new(); troubles.len()],
        }
    }

    pub(super) fn paths(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn advance(&mut self, step: Duration) {
        self.now += step;
    }

    /// Returns the number of datagrams of the media, repeats included, that were lost.
    pub(super) fn lost_media(&self) -> u64 {
        self.lost_media
    }

    /// Sends a datagram. Returns whether it will arrive.
    pub(super) fn send(&mut self, path: usize, forward: bool, channel: Channel, bytes: Bytes) -> bool {
        let Self { paths, dice, now, start, .. } = self;
        let Path { trouble, burst } = &mut paths[path];
        let elapsed = *now - *start;
        let burst = &mut burst[usize::from(forward)];
        // The first datagram of a connection is not lost, so that all rows begin alike.
        let is_calm = elapsed < CALM;
        if *burst == 0 && trouble.bursts && !is_calm && dice.next_u64() % (9 * BURST) == 0 {
            *burst = BURST;
        }
        let in_burst = *burst > 0;
        *burst = burst.saturating_sub(1);
        let is_dead = trouble.dies && elapsed >= DEATH;
        if is_dead || in_burst || (!is_calm && dice.percent(trouble.percent)) {
            self.lost_media += u64::from(forward && channel == Channel::Media);
            return false;
        }
        let delay = DELAY + if trouble.skewed { SKEW } else { Duration::ZERO };
        self.count += 1;
        self.flight.insert((self.now + delay, self.count), Arrival { path, forward, channel, bytes });
        true
    }

    /// Returns the next datagram that has arrived.
    pub(super) fn receive(&mut self) -> Option<Arrival> {
        let (key, _) = self.flight.first_key_value().filter(|((at, _), _)| *at <= self.now)?;
        let key = *key;
        self.flight.remove(&key)
    }
}
