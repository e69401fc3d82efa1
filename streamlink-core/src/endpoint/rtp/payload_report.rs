//! Events about payload that a UDP endpoint leaves out or alters: at most one of a kind a minute, as it goes on until
//! somebody corrects the sender.

use crate::{
    endpoint::{Event, EventSink},
    media::PayloadProblem,
    time::Throttle,
};
use std::{
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(60);

/// Problems of the payload that no event has reported yet.
#[derive(Debug, Default)]
pub(super) struct PayloadReport {
    /// The last problem of each kind, the number of its packets, and the events about it.
    kinds: Vec<(Discriminant<PayloadProblem>, PayloadProblem, u64, Throttle)>,
    untold: bool,
}

impl PayloadReport {
    /// Notes a problem of so many packets.
    pub(super) fn note(&mut self, problem: PayloadProblem, packets: u64) {
        self.untold = true;
        let kind = discriminant(&problem);
        match self.kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, last, count, _)) => (*last, *count) = (problem, count.saturating_add(packets)),
            None => self.kinds.push((kind, problem, packets, Throttle::new(INTERVAL))),
        }
    }

    /// Emits the events that are due. `name` is called for the name of the endpoint.
    pub(super) fn publish(&mut self, now: Instant, name: impl Fn() -> String, events: &EventSink) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        for (_, problem, count, throttle) in &mut self.kinds {
            let count = std::mem::take(count);
            if let Some(packets) = throttle.admit(now, count).filter(|_| count > 0) {
                let endpoint = name();
                log::warn!("`{endpoint}`: {problem} ({packets} packets)");
                events.emit(Event::UnexpectedPayload { endpoint, problem: *problem, packets });
            }
        }
    }
}
