//! Exponential backoff with jitter between a caller's attempts to connect.

use super::{Event, EventSink, LossReason, Status};
use crate::{flow::Reconnect, random::Random};
use std::time::Duration;

/// Counts attempts, and computes the delay before the next one.
#[derive(Debug)]
pub(super) struct Backoff {
    reconnect: Reconnect,
    delay: Duration,
    attempts: u32,
    random: Random,
}

impl Backoff {
    pub(super) fn new(reconnect: Reconnect, random: Random) -> Self {
        Self { reconnect, delay: reconnect.start, attempts: 0, random }
    }

    /// Returns the number of failures since the last connection, including its loss.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Records a connection that lasted for this long. A healthy one resets the delay.
    pub(super) fn connected(&mut self, lasted: Duration) {
        self.attempts = 0;
        if lasted >= Reconnect::HEALTHY_AFTER {
            self.delay = self.reconnect.start;
        }
    }

    /// Records the loss of a connection, or a failed attempt. Returns the delay before the next attempt.
    pub(super) fn failed(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        // Up to a quarter more, so that callers lost together do not reconnect together.
        let [jitter] = self.random.bytes();
        let wait = self.delay + self.delay * u32::from(jitter) / 1024;
        self.delay = (self.delay * 2).min(self.reconnect.cap);
        wait
    }
}

/// Emits an event about the loss of an output, or of a source that could not connect.
pub(super) fn report_loss(events: &EventSink, status: &Status, is_source: bool, reason: LossReason) {
    let name = status.name();
    events.emit(if is_source {
        Event::SourceLost { source: name, reason }
    } else {
        Event::OutputLost { output: name, peer: None, reason }
    });
}
