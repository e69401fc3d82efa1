//! Media of a flow at a node: from the relays into the app source, past the fence.

use crate::{Error, Incoming, Relays, SubscribeSettings};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use streamlink_core::AppSource;

/// Fence of a node: while its lease is over, flows with exclusive outputs receive nothing, so that a process that was
/// suspended sends nothing before it has stopped them.
#[derive(Debug)]
pub(crate) struct Fence {
    node: String,
    state: Mutex<FenceState>,
}

#[derive(Debug)]
struct FenceState {
    until: Option<Instant>,
    /// Flows with exclusive outputs.
    exclusive: BTreeSet<String>,
}

impl Fence {
    pub(crate) fn new(node: &str) -> Self {
        let state = FenceState { until: None, exclusive: BTreeSet::new() };
        Self { node: node.to_owned(), state: Mutex::new(state) }
    }

    /// Returns the name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time until which the lease is held.
    pub(crate) fn set(&self, until: Option<Instant>) {
        self.state().until = until;
    }

    /// Notes whether a flow has exclusive outputs.
    pub(crate) fn note(&self, flow: &str, has_exclusive: bool) {
        let mut state = self.state();
        if has_exclusive {
            state.exclusive.insert(flow.to_owned());
        } else {
            state.exclusive.remove(flow);
        }
    }

    /// Returns `true` if a flow may pass media on at `now`.
    pub(crate) fn is_open(&self, flow: &str, now: Instant) -> bool {
        let state = self.state();
        state.until.is_some_and(|until| now < until) || !state.exclusive.contains(flow)
    }
}

/// Receives a flow's media into a source, over all relays, until the result is dropped.
///
/// # Errors
/// [`Error::Address`] for a path that cannot name a broadcast.
pub(crate) fn receive(
    relays: &Arc<Relays>,
    path: &str,
    source: AppSource,
    flow: String,
    fence: Arc<Fence>,
) -> Result<Incoming, Error> {
    let incoming = Incoming::open(relays, path, SubscribeSettings::new())?;
    incoming.gate(move || fence.is_open(&flow, Instant::now()));
    incoming.feed(source)?;
    Ok(incoming)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fence_closes_flows_with_exclusive_outputs_only() {
        let now = Instant::now();
        let fence = Fence::new("n1");
        fence.note("push", true);
        assert!(!fence.is_open("push", now));
        assert!(fence.is_open("listener", now));
        fence.set(Some(now + Duration::from_millis(10)));
        assert!(fence.is_open("push", now));
        assert!(!fence.is_open("push", now + Duration::from_millis(10)));
        fence.note("push", false);
        assert!(fence.is_open("push", now + Duration::from_secs(1)));
    }
}
