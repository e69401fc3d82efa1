//! Arrival times of what waits, by which it is found that something has waited for long enough.

use std::{collections::VecDeque, time::Instant};

/// Keys that wait, in the order in which they came.
#[derive(Debug)]
pub(super) struct Arrivals<K>(VecDeque<(K, Instant)>);

impl<K> Default for Arrivals<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K: Copy> Arrivals<K> {
    /// Notes what begins to wait.
    pub(super) fn push(&mut self, key: K, now: Instant) {
        self.0.push_back((key, now));
    }

    /// Forgets from the front what no longer waits.
    pub(super) fn settle(&mut self, is_waiting: impl Fn(&K) -> bool) {
        while self.0.front().is_some_and(|(key, _)| !is_waiting(key)) {
            self.0.pop_front();
        }
    }

    /// Returns since when the one has waited that came first.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.front().map(|(_, at)| *at)
    }
}
