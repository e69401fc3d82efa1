//! Exponential backoff with jitter between a caller's attempts to connect, and the events about them.

use super::{Event, EventSink, LossReason, Status};
use crate::{flow::Reconnect, random::Random};
use std::time::{Duration, Instant};

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

    /// Returns whether the attempt before failed, too, so that its loss was reported already.
    pub(super) fn repeats(&self) -> bool {
        self.attempts > 0
    }

    /// Resets the count of attempts after a successful one.
    pub(super) fn connected(&mut self) {
        self.attempts = 0;
    }

    /// Records the failure of a connection, or of an attempt, that began at `started`; returns the number of failures
    /// in a row and the delay before the next attempt.
    pub(super) fn failed(&mut self, started: Instant, now: Instant) -> (u32, Duration) {
        if now.saturating_duration_since(started) >= Reconnect::HEALTHY_AFTER {
            self.delay = self.reconnect.start;
        }
        self.attempts = self.attempts.saturating_add(1);
        // Up to a quarter more, so that callers lost together do not reconnect together.
        let [jitter] = self.random.bytes();
        let wait = self.delay + self.delay * u32::from(jitter) / 1024;
        self.delay = (self.delay * 2).min(self.reconnect.cap);
        (self.attempts, wait)
    }
}

/// Emits an event about the next attempt.
pub(super) fn report_retry(events: &EventSink, status: &Status, is_source: bool, attempt: u32, delay: Duration) {
    let name = status.name();
    events.emit(if is_source {
        Event::SourceRetrying { source: name, attempt, delay }
    } else {
        Event::OutputRetrying { output: name, attempt, delay }
    });
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
