//! Helpers for code that is given the time instead of reading a clock.

use std::time::{Duration, Instant};

/// Rate limiter of reports: admits at most one report in each interval, and counts the occurrences held back.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    last: Option<Instant>,
    held: u64,
}

impl Throttle {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, last: None, held: 0 }
    }

    /// Adds `occurrences`. Returns `Some(n)` if a report is due, which stands for all `n` occurrences since the last
    /// one.
    pub(crate) fn admit(&mut self, now: Instant, occurrences: u64) -> Option<u64> {
        self.held = self.held.saturating_add(occurrences);
        if self.held == 0 {
            return None; // nothing was held back since the last report
        }
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held))
    }

    /// Returns the time from which the next report is admitted. `None`: it is admitted at once.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.last?.checked_add(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_reports_once_an_interval_and_counts_the_rest() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        assert_eq!(throttle.admit(start, 1), Some(1));
        for ms in [1, 500, 999] {
            assert_eq!(throttle.admit(start + Duration::from_millis(ms), 1), None);
        }
        assert_eq!(throttle.admit(start + Duration::from_secs(1), 2), Some(5));
        assert_eq!(throttle.admit(start + Duration::from_secs(3), 0), None);
        assert_eq!(throttle.admit(start + Duration::from_secs(3), 1), Some(1));
        assert_eq!(throttle.admit(start + Duration::from_millis(3500), 1), None);
        assert_eq!(throttle.admit(start + Duration::from_secs(4), 0), Some(1));
    }
}
