//! Events about outputs that lose packets, at most once a second for each.

use super::{Event, EventSink, Status};
use crate::time::Throttle;
use std::time::{Duration, Instant};

/// Packets that an output has lost and that no event has reported yet.
#[derive(Debug)]
pub(super) struct LagReport(Throttle);

impl LagReport {
    pub(super) fn new() -> Self {
        Self(Throttle::new(Duration::from_secs(1)))
    }

    /// Reports packets that have just been counted as dropped. A call with 0 packets may report earlier ones that were
    /// held back.
    pub(super) fn note(&mut self, packets: u64, status: &Status, events: &EventSink, now: Instant) {
        if self.0.admit(now, packets).is_some() {
            let dropped = status.counters.dropped.get();
            events.emit(Event::OutputLagging { output: status.name(), dropped });
        }
    }
}
