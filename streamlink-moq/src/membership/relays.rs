//! Relays of a node: through which of them it hears itself, and how long its lease lasts by them.

use super::{FENCE, MAX_RELAYS, TAKEOVER};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Maximum interval between a node's own heartbeats that a relay returns, while the relay counts as observed.
pub(super) const GAP: Duration = Duration::from_millis(400);

/// Relay as this node sees it.
#[derive(Debug)]
struct RelayView {
    name: String,
    /// Arrival of the newest own heartbeat that came back.
    returned: Option<Instant>,
    /// Sending of that heartbeat.
    sent: Option<Instant>,
    /// Time since which own heartbeats have come back without a gap.
    observed_since: Option<Instant>,
    /// Sequence number of the first heartbeat that names the relay as one by which this node may keep its lease.
    declared: Option<u64>,
    /// True once all nodes have received that heartbeat: the relay then counts for the lease.
    relied: bool,
}

impl RelayView {
    fn new(name: String) -> Self {
        Self { name, returned: None, sent: None, observed_since: None, declared: None, relied: false }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.returned.is_some_and(|returned| now.saturating_duration_since(returned) <= GAP)
    }

    /// Returns `true` if nothing that passed the relay within [`TAKEOVER`] can have escaped this node.
    fn is_observed(&self, now: Instant) -> bool {
        let long = |since| now.saturating_duration_since(since) >= TAKEOVER;
        self.is_fresh(now) && self.observed_since.is_some_and(long)
    }
}

/// Relays of a node, by which it keeps its lease.
#[derive(Debug)]
pub(super) struct Relays(Vec<RelayView>);

impl Relays {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().take(MAX_RELAYS).map(RelayView::new).collect())
    }

    /// Returns the end of the lease, if a relay extends it.
    pub(super) fn lease_end(&self) -> Option<Instant> {
        self.0.iter().filter(|r| r.relied).filter_map(|r| Some(r.sent? + FENCE)).max()
    }

    /// Handles an own heartbeat of this time that a relay has returned.
    pub(super) fn returned(&mut self, relay: &str, sent: Instant, now: Instant) {
        let Some(view) = self.0.iter_mut().find(|view| view.name == relay) else { return };
        if view.sent.is_some_and(|last| sent <= last) || now.saturating_duration_since(sent) > FENCE {
            return;
        }
        if !view.is_fresh(now) {
            view.observed_since = Some(now);
        }
        view.returned = Some(now);
        view.sent = Some(sent);
    }

    /// Names the relays by which the node may keep its lease, and finds those of which all other nodes know. `sequence`: the
    /// number of its last heartbeat; `acknowledged`: the number of the newest one that every other node has received, if
    /// there are others.
    pub(super) fn declare(&mut self, sequence: u64, acknowledged: Option<u64>, now: Instant) {
        let any_fresh = self.0.iter().any(|view| view.declared.is_some() && view.is_fresh(now));
        for view in &mut self.0 {
            if !view.is_fresh(now) {
                // The last ones stay named, as others could otherwise think that this node had none.
                if any_fresh {
                    view.declared = None;
                    view.relied = false;
                }
                continue;
            }
            view.declared = view.declared.or(Some(sequence + 1));
            let known = |declared| declared <= sequence && acknowledged.is_none_or(|least| least >= declared);
            view.relied = view.relied || view.declared.is_some_and(known);
        }
    }

    /// Returns the names of the relays by which the node may keep its lease.
    pub(super) fn declared(&self) -> BTreeSet<String> {
        self.0.iter().filter(|r| r.declared.is_some()).map(|r| r.name.clone()).collect()
    }

    /// Returns `true` if nothing that passed any relay within [`TAKEOVER`] can have escaped this node.
    pub(super) fn are_observed(&self, now: Instant) -> bool {
        self.0.iter().all(|view| view.is_observed(now))
    }

    /// Returns `true` if another node may be heard through a relay of this name, and not by this one.
    pub(super) fn may_hide(&self, name: &str, now: Instant) -> bool {
        let mut named = self.0.iter().filter(|view| view.name == name).peekable();
        named.peek().is_none() || named.any(|view| !view.is_observed(now))
    }

    /// Forgets all that was observed.
    pub(super) fn reset(&mut self) {
        for view in &mut self.0 {
            *view = RelayView::new(std::mem::take(&mut view.name));
        }
    }
}
