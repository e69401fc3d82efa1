//! Exponential backoff with jitter between a caller's attempts to connect.

use super::LossReason;
use crate::{flow::Reconnect, random::Random};
use std::time::Duration;

/// Minimum delay after a refused password. Cameras and servers lock an account after a few wrong ones.
const AFTER_REFUSED_PASSWORD: Duration = Duration::from_secs(30);

/// Counts attempts, and computes the delay before the next one.
#[derive(Debug)]
pub(crate) struct Backoff {
    reconnect: Reconnect,
    delay: Duration,
    attempts: u32,
    random: Random,
}

impl Backoff {
    pub(crate) fn new(reconnect: Reconnect, random: Random) -> Self {
        Self { reconnect, delay: reconnect.start, attempts: 0, random }
    }

    /// Returns the number of failures since the last connection, including its loss.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Records a connection that lasted for this long. A healthy one resets the delay.
    pub(crate) fn connected(&mut self, lasted: Duration) {
        self.attempts = 0;
        if lasted >= Reconnect::HEALTHY_AFTER {
            self.delay = self.reconnect.start;
        }
    }

    /// Records a failed attempt that is followed by a different one at once.
    pub(crate) fn count(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Records the loss of a connection, or a failed attempt, and its reason. Returns the delay before the next attempt.
    pub(crate) fn failed(&mut self, reason: Option<&LossReason>) -> Duration {
        self.count();
        // Up to a quarter more, so that callers lost together do not reconnect together.
        let [jitter] = self.random.bytes();
        let with_jitter = |delay: Duration| delay + delay * u32::from(jitter) / 1024;
        let wait = with_jitter(self.delay);
        self.delay = (self.delay * 2).min(self.reconnect.cap);
        match reason {
            Some(LossReason::Unauthorized(_)) => wait.max(with_jitter(AFTER_REFUSED_PASSWORD)),
            _ => wait,
        }
    }
}
