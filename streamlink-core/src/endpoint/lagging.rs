//! Events about outputs that lose packets, at most one of a kind a second for each.

use super::{Event, EventSink, Status};
use crate::time::Throttle;
use std::time::{Duration, Instant};

/// Packets that an output has not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// Given up, because the output does not keep up.
    pub(super) dropped: u64,
    /// Larger than the payload size of the output.
    pub(super) oversized: u64,
}

/// Packets that an output has lost and that no event has reported yet.
#[derive(Debug)]
pub(super) struct LagReport {
    dropped: Throttle,
    oversized: Throttle,
}

impl LagReport {
    pub(super) fn new() -> Self {
        let interval = Duration::from_secs(1);
        Self { dropped: Throttle::new(interval), oversized: Throttle::new(interval) }
    }

    /// Reports packets that have just been counted as dropped. A call with 0 packets may report earlier ones that were
    /// held back.
    pub(super) fn note(&mut self, packets: u64, status: &Status, events: &EventSink, now: Instant) {
        if self.dropped.admit(now, packets).is_some() {
            let dropped = status.counters.dropped.get();
            events.emit(Event::OutputLagging { output: status.name(), dropped });
        }
    }

    /// Reports packets that were larger than `limit` bytes, and were not sent.
    pub(super) fn note_oversized(
        &mut self,
        packets: u64,
        limit: usize,
        status: &Status,
        events: &EventSink,
        now: Instant,
    ) {
        if let Some(packets) = self.oversized.admit(now, packets) {
            events.emit(Event::OutputOversized { output: status.name(), packets, limit });
        }
    }
}
