//! Round-trip time of a connection, smoothed as TCP does it (draft-sharabayko-srt-01, section 4.10).

use std::time::Duration;

/// Time assumed until one was measured.
const INITIAL: Duration = Duration::from_millis(100);
/// Maximum time that is taken from a peer, in microseconds.
const MAX_REPORTED: u32 = 10_000_000;
/// Minimum interval at which a loss is reported.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// Round-trip time of a connection, by which it judges whether a packet was lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrip {
    pub(crate) smoothed: Duration,
    pub(crate) variance: Duration,
    is_measured: bool,
}

impl RoundTrip {
    /// Creates the time that is assumed at first.
    pub(super) fn new() -> Self {
        Self { smoothed: INITIAL, variance: INITIAL / 2, is_measured: false }
    }

    /// Returns the smoothed time, if it was measured here or by the peer.
    pub(super) fn known(self) -> Option<Duration> {
        (self.smoothed != INITIAL).then_some(self.smoothed)
    }

    /// Updates the time with a measured one.
    pub(super) fn measure(&mut self, time: Duration) {
        if !std::mem::replace(&mut self.is_measured, true) {
            self.smoothed = time;
            self.variance = time / 2;
            return;
        }
        let difference = self.smoothed.abs_diff(time);
        self.variance = (self.variance * 3 + difference) / 4;
        self.smoothed = (self.smoothed * 7 + time) / 8;
    }

    /// Takes over the time that the peer reports, in microseconds, until one was measured here.
    pub(super) fn accept(&mut self, smoothed: u32, variance: u32) {
        if !self.is_measured && smoothed > 0 {
            self.smoothed = Duration::from_micros(smoothed.min(MAX_REPORTED).into());
            self.variance = Duration::from_micros(variance.min(MAX_REPORTED).into());
        }
    }

    /// Returns the time after which an answer is overdue.
    pub(super) fn timeout(self) -> Duration {
        self.smoothed + self.variance * 4
    }

    /// Returns the interval at which a loss is reported (section 4.8.2).
    pub(super) fn report_interval(self) -> Duration {
        (self.timeout() / 2).max(MIN_REPORT_INTERVAL)
    }
}
