//! Tells the host of an output that loses packets, once a second at most.

use super::{Event, EventSink, Status};
use crate::time::Throttle;
use std::time::{Duration, Instant};

/// Packets that an output has lost, and that no event has told of yet.
#[derive(Debug)]
pub(super) struct LagReport(Throttle);

impl LagReport {
    pub(super) fn new() -> Self {
        Self(Throttle::new(Duration::from_secs(1)))
    }

    /// Takes note of packets that were counted as dropped just now. None: a look whether what was held back may be
    /// told by now.
    pub(super) fn note(&mut self, packets: u64, status: &Status, events: &EventSink, now: Instant) {
        if self.0.admit(now, packets).is_some() {
            let dropped = status.counters.dropped.get();
            events.emit(Event::OutputLagging { output: status.name(), dropped });
        }
    }
}
