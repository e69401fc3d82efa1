//! How a caller comes back: exponential backoff with jitter, and what is told of it.

use super::{Event, EventSink, LossReason, Status};
use crate::{flow::Reconnect, random::Random};
use std::time::{Duration, Instant};

/// Counts attempts, and says how long to wait for the next.
#[derive(Debug)]
pub(super) struct Redial {
    reconnect: Reconnect,
    delay: Duration,
    attempts: u32,
    random: Random,
}

impl Redial {
    pub(super) fn new(reconnect: Reconnect, random: Random) -> Self {
        Self { reconnect, delay: reconnect.start, attempts: 0, random }
    }

    /// Whether the last attempt failed, too: its reason was told already.
    pub(super) fn repeats(&self) -> bool {
        self.attempts > 0
    }

    /// A connection is up.
    pub(super) fn connected(&mut self) {
        self.attempts = 0;
    }

    /// A connection, or an attempt that began at `started`, has failed: how many have, and how long to wait.
    pub(super) fn failed(&mut self, started: Instant, now: Instant) -> (u32, Duration) {
        if now.saturating_duration_since(started) >= Reconnect::HEALTHY_AFTER {
            self.delay = self.reconnect.start;
        }
        self.attempts = self.attempts.saturating_add(1);
        // Up to a quarter more, so that callers that were lost together do not come back together.
        let [dice] = self.random.bytes();
        let wait = self.delay + self.delay * u32::from(dice) / 1024;
        self.delay = (self.delay * 2).min(self.reconnect.cap);
        (self.attempts, wait)
    }
}

/// Tells of a loss and of the next attempt.
pub(super) fn report_retry(events: &EventSink, status: &Status, is_source: bool, attempt: u32, delay: Duration) {
    let name = status.name();
    events.emit(match is_source {
        true => Event::SourceRetrying { source: name, attempt, delay },
        false => Event::OutputRetrying { output: name, attempt, delay },
    });
}

/// Tells that an output, or an attempt to connect a source, has failed.
pub(super) fn report_loss(events: &EventSink, status: &Status, is_source: bool, reason: LossReason) {
    let name = status.name();
    events.emit(match is_source {
        true => Event::SourceLost { source: name, reason },
        false => Event::OutputLost { output: name, peer: None, reason },
    });
}
