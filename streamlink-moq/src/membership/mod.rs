//! Membership of a region: which of its nodes may run which exclusive output, so that a destination never sees two
//! senders.
//!
//! Every node sends a heartbeat over each relay, and hears those of all nodes, its own included. From them alone it
//! decides:
//!
//! - **Lease.** A node may run exclusive outputs for 1 s ([`FENCE`]) from the moment at which it sent the newest heartbeat
//!   that a relay has returned to it. After that it stops them by itself.
//! - **Takeover.** A node takes over from another one that it has not heard for 1.5 s ([`TAKEOVER`]), if it has heard
//!   itself all that time through every relay by which the other one may keep its lease. The other one's lease is then
//!   over. If such a relay is gone at the same moment, nobody can tell a dead node from one that is cut off, and its
//!   exclusive outputs wait for the relay.
//! - **Joining.** A node that starts, or that has lost its lease, runs nothing before it knows that nobody else does: it
//!   has listened for 1.5 s through all relays, or a settled node has named all others; and each node that it hears has
//!   stopped the outputs that are due to it, and says so.
//!
//! Between two settled nodes that know each other, the one with the higher weight ([`Weight`]) runs an output. Time is
//! monotonic, and a node that was suspended finds its lease over at the next call.
//!
//! What is assumed: a relay that returns a heartbeat to its sender delivers it to the other nodes that hear themselves
//! through it less than 0.5 s earlier or later; all nodes of a region name the same relays; clocks run at the same rate
//! within a few percent. A host that wants less to be assumed gives a [`Lease`](crate::Lease).
//!
//! No I/O and no clock: the state machine is given heartbeats and the time.

mod event;
mod heartbeat;
mod peer;
mod relays;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use event::MembershipEvent;
pub use heartbeat::{
    Heartbeat, HeartbeatError, MAX_HEARTBEAT, MAX_NAME, MAX_NODES, MAX_RELAYS, NodeKey, PeerReport, Phase,
};

use crate::placement::{Exclusivity, OutputId, Weight};
use peer::Peer;
use relays::{GAP, Relays};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// Interval of heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// Duration of the lease, from the sending of a heartbeat that came back.
pub const FENCE: Duration = Duration::from_secs(1);
/// Silence after which a node's outputs are taken over.
pub const TAKEOVER: Duration = Duration::from_millis(1500);
/// Minimum interval of heartbeats that report a change.
const URGENT: Duration = Duration::from_millis(20);
/// Number of own heartbeats whose time of sending is remembered: as many as a lease can need.
const SENT: usize = 128;
/// Maximum number of events that wait to be taken.
const MAX_EVENTS: usize = 256;

/// State machine of a node's membership in its region.
#[derive(Debug)]
pub struct Membership {
    key: NodeKey,
    relays: Relays,
    host_lease: bool,
    epoch: u64,
    sequence: u64,
    /// Beginning of the epoch.
    began: Instant,
    sent: VecDeque<(u64, Instant)>,
    last_sent: Option<Instant>,
    next_heartbeat: Instant,
    has_lease: bool,
    ready: bool,
    /// Number of the first heartbeat that says so.
    ready_from: u64,
    settled: bool,
    leaving: bool,
    /// True once the host can run outputs: until then, others keep theirs.
    prepared: bool,
    /// True once this node has listened long enough to run outputs that may run twice.
    listened: bool,
    /// Nodes that shared the outputs with this one before it lost its lease.
    remembered: BTreeSet<NodeKey>,
    generation: u64,
    confirmed: u64,
    /// Generation up to which outputs must have stopped before this node joins, or has left.
    must_stop: u64,
    peers: BTreeMap<NodeKey, Peer>,
    /// Last epoch and message of nodes that are gone, as relays may deliver old messages again.
    departed: VecDeque<(NodeKey, u64, u64)>,
    told_same_name: BTreeSet<NodeKey>,
    events: VecDeque<MembershipEvent>,
}

impl Membership {
    /// Returns the membership of a node that starts at `now`, and that is connected over the relays named.
    ///
    /// With `host_lease`, a lease of the host's guards each exclusive output: nodes that are silent count as gone, even if
    /// a relay is gone with them.
    pub fn new(key: NodeKey, relays: impl IntoIterator<Item = String>, host_lease: bool, now: Instant) -> Self {
        Self {
            key,
            relays: Relays::new(relays),
            host_lease,
            epoch: 0,
            sequence: 0,
            began: now,
            sent: VecDeque::new(),
            last_sent: None,
            next_heartbeat: now,
            has_lease: false,
            ready: false,
            ready_from: 0,
            settled: false,
            leaving: false,
            prepared: false,
            listened: false,
            remembered: BTreeSet::new(),
            generation: 0,
            confirmed: 0,
            must_stop: 0,
            peers: BTreeMap::new(),
            departed: VecDeque::new(),
            told_same_name: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Returns the key of this node.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// Takes a heartbeat that a relay has delivered, of this node or of another one.
    pub fn receive(&mut self, now: Instant, relay: &str, heartbeat: &Heartbeat) {
        // A lease that was over before the heartbeat came stays over.
        self.advance(now);
        if heartbeat.node == self.key {
            self.take_own(now, relay, heartbeat);
        } else {
            self.take_other(now, heartbeat);
        }
        self.advance(now);
    }

    /// Returns the heartbeat that is due, to be sent over all relays at once.
    pub fn poll_heartbeat(&mut self, now: Instant) -> Option<Heartbeat> {
        self.advance(now);
        if now < self.next_heartbeat {
            return None;
        }
        self.sequence += 1;
        self.last_sent = Some(now);
        self.next_heartbeat = now + HEARTBEAT;
        if self.sent.len() == SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        let mut heartbeat = Heartbeat::new(self.key.clone(), self.epoch, self.sequence, self.phase());
        heartbeat.relays = self.relays.declared();
        for (key, peer) in &mut self.peers {
            peer.admitted = peer.blocks && self.confirmed >= peer.blocked_in;
            heartbeat.peers.push(PeerReport {
                node: key.clone(),
                epoch: peer.epoch,
                sequence: peer.sequence,
                admitted: peer.admitted,
            });
        }
        Some(heartbeat)
    }

    /// Returns the time at which [`Membership::poll_heartbeat`] is to be called next, at the latest.
    pub fn next_timeout(&self) -> Instant {
        let lease = if self.has_lease { self.relays.lease_end() } else { None };
        lease.map_or(self.next_heartbeat, |end| end.min(self.next_heartbeat))
    }

    /// Returns the time at which the lease ends unless it is extended, or `None` while this node may run no exclusive
    /// output. Nothing may be sent to an exclusive destination from then on.
    pub fn fence(&self) -> Option<Instant> {
        if self.settled && self.has_lease { self.relays.lease_end() } else { None }
    }

    /// Returns `true` if this node is to run an output now: an exclusive one as its only runner, a shared one as its
    /// primary or standby.
    pub fn runs(&self, output: &OutputId, exclusivity: Exclusivity) -> bool {
        match exclusivity {
            Exclusivity::Exclusive => self.runs_exclusive(output),
            Exclusivity::Shared => self.listened && !self.leaving && self.rank(output) < 2,
        }
    }

    fn runs_exclusive(&self, output: &OutputId) -> bool {
        if !self.settled || !self.has_lease || self.leaving {
            return false;
        }
        let ours = self.preference(output, &self.key);
        self.peers.iter().all(|(key, peer)| !peer.blocks || self.preference(output, key) > ours)
    }

    /// Returns how many nodes are preferred to this one for an output. While it is not settled, those that it knew before
    /// count as well: a node that is cut off does not start the outputs of all others.
    pub(crate) fn rank(&self, output: &OutputId) -> usize {
        let ours = self.preference(output, &self.key);
        let known = self.peers.iter().filter(|(_, peer)| peer.blocks).map(|(key, _)| key);
        let others: BTreeSet<&NodeKey> = known.chain(&self.remembered).collect();
        others.into_iter().filter(|key| self.preference(output, key) < ours).count()
    }

    fn preference<'a>(&self, output: &OutputId, key: &'a NodeKey) -> (Reverse<Weight>, &'a NodeKey) {
        (Reverse(Weight::new(output, &key.id)), key)
    }

    /// Returns a number that changes whenever [`Membership::runs`] may have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Reports that every output has stopped that this node was not to run in a generation.
    pub fn confirm(&mut self, now: Instant, generation: u64) {
        if generation <= self.confirmed {
            return;
        }
        let waits = self.peers.values().any(|peer| peer.blocks && peer.blocked_in > self.confirmed);
        self.confirmed = generation.min(self.generation);
        if waits || self.must_stop > 0 {
            self.hurry(now);
        }
    }

    /// Reports that the host is able to run outputs. Until then this node joins without running any.
    pub fn prepare(&mut self, now: Instant) {
        self.prepared = true;
        self.advance(now);
    }

    /// Begins to leave the region: all outputs stop, and the other nodes take over without waiting.
    pub fn leave(&mut self, now: Instant) {
        if !self.leaving {
            self.leaving = true;
            self.change();
            self.must_stop = self.generation;
            self.hurry(now);
        }
    }

    /// Returns the part that this node takes.
    pub fn phase(&self) -> Phase {
        if self.confirmed < self.must_stop {
            Phase::Stopping
        } else if self.leaving {
            Phase::Left
        } else if self.settled {
            Phase::Settled
        } else if self.ready {
            Phase::Ready
        } else {
            Phase::Joining
        }
    }

    /// Returns the next event. The oldest ones are lost if they are not taken.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    /// Returns the nodes that this node knows, with their phases.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeKey, Phase)> {
        self.peers.iter().map(|(key, peer)| (key, peer.phase))
    }

    fn tell(&mut self, event: MembershipEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn change(&mut self) {
        self.generation += 1;
    }

    /// Brings the next heartbeat forward, as it reports a change.
    fn hurry(&mut self, now: Instant) {
        let soonest = self.last_sent.map_or(now, |last| (last + URGENT).max(now));
        self.next_heartbeat = self.next_heartbeat.min(soonest);
    }

    /// Takes an own heartbeat that came back.
    fn take_own(&mut self, now: Instant, relay: &str, heartbeat: &Heartbeat) {
        if heartbeat.epoch != self.epoch {
            return;
        }
        let Some(&(_, sent)) = self.sent.iter().find(|(sequence, _)| *sequence == heartbeat.sequence) else { return };
        self.relays.returned(relay, sent, now);
    }

    /// Takes a heartbeat of another node.
    fn take_other(&mut self, now: Instant, heartbeat: &Heartbeat) {
        let key = &heartbeat.node;
        let age = (heartbeat.epoch, heartbeat.sequence);
        if self.departed.iter().any(|(gone, epoch, sequence)| gone == key && age <= (*epoch, *sequence)) {
            return;
        }
        if heartbeat.phase == Phase::Left {
            if self.peers.contains_key(key) {
                self.remove(key, age, now);
                self.tell(MembershipEvent::Left(key.clone()));
            }
            return;
        }
        if !self.peers.contains_key(key) {
            if self.peers.len() + 1 >= MAX_NODES {
                if self.told_same_name.len() < MAX_NODES && self.told_same_name.insert(key.clone()) {
                    self.tell(MembershipEvent::TooMany(key.clone()));
                }
                return;
            }
            self.tell(MembershipEvent::Heard(key.clone()));
            self.hurry(now);
        }
        let peer = self.peers.entry(key.clone()).or_insert_with(|| Peer::new(heartbeat.epoch, now));
        if age <= (peer.epoch, peer.sequence) {
            return;
        }
        let goes_on = peer.sequence > 0;
        let blocks = peer.update(heartbeat, &self.key, self.epoch, now);
        if blocks != peer.blocks {
            self.generation += 1;
            peer.blocks = blocks;
            peer.blocked_in = self.generation;
            peer.admitted = false;
            self.hurry(now);
        }
        if goes_on
            && key.id == self.key.id
            && self.told_same_name.len() < MAX_NODES
            && self.told_same_name.insert(key.clone())
        {
            self.tell(MembershipEvent::SameName(key.clone()));
        }
    }

    fn remove(&mut self, key: &NodeKey, age: (u64, u64), now: Instant) {
        if self.peers.remove(key).is_none() {
            return;
        }
        self.departed.retain(|(gone, ..)| gone != key);
        if self.departed.len() == MAX_NODES {
            self.departed.pop_front();
        }
        self.departed.push_back((key.clone(), age.0, age.1));
        self.told_same_name.remove(key);
        self.change();
        self.hurry(now);
    }

    /// Draws conclusions from the time and from all that was received.
    fn advance(&mut self, now: Instant) {
        if self.has_lease && self.relays.lease_end().is_none_or(|end| now >= end) {
            self.lose_lease(now);
        }
        let acknowledged = self.peers.values().map(|peer| peer.acknowledged).min();
        self.relays.declare(self.sequence, acknowledged, now);
        self.has_lease = self.has_lease || self.relays.lease_end().is_some_and(|end| now < end);
        self.expel_silent(now);
        self.settle(now);
    }

    /// Forgets everything, as it may have become wrong unnoticed, and joins anew.
    fn lose_lease(&mut self, now: Instant) {
        if self.settled {
            self.tell(MembershipEvent::LeaseLost);
        }
        self.epoch += 1;
        self.sequence = 0;
        self.began = now;
        self.sent.clear();
        self.has_lease = false;
        self.ready = false;
        self.settled = false;
        self.change();
        self.must_stop = self.generation;
        let peers = std::mem::take(&mut self.peers);
        self.remembered.extend(peers.into_iter().filter(|(_, peer)| peer.blocks).map(|(key, _)| key));
        self.relays.reset();
        self.hurry(now);
    }

    /// Removes nodes that are silent, and whose leases are over.
    fn expel_silent(&mut self, now: Instant) {
        let silent = |peer: &Peer| now.saturating_duration_since(peer.heard) >= TAKEOVER;
        if !self.peers.values().any(silent) {
            return;
        }
        let mut gone = Vec::new();
        let mut unresolved = Vec::new();
        for (key, peer) in self.peers.iter().filter(|(_, peer)| silent(peer)) {
            let may_run = peer.blocks || peer.admitted;
            let hidden: Vec<String> = if may_run && !self.host_lease {
                peer.relays.iter().filter(|relay| self.relays.may_hide(relay, now)).cloned().collect()
            } else {
                Vec::new()
            };
            if hidden.is_empty() {
                gone.push((key.clone(), (peer.epoch, peer.sequence)));
            } else if !peer.unresolved {
                unresolved.push((key.clone(), hidden));
            }
        }
        for (key, age) in gone {
            self.remove(&key, age, now);
            self.tell(MembershipEvent::Gone(key));
        }
        for (key, relays) in unresolved {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.unresolved = true;
            }
            self.tell(MembershipEvent::Unresolved { node: key, relays });
        }
    }

    /// Becomes ready, and then settled, when nobody else can be running what is due to this node.
    fn settle(&mut self, now: Instant) {
        if !self.listened && self.has_lease && now.saturating_duration_since(self.began) >= TAKEOVER {
            self.listened = true;
            self.change();
        }
        if self.settled {
            return;
        }
        let may = self.has_lease && self.prepared && !self.leaving && self.confirmed >= self.must_stop;
        if !may || !(self.has_listened(now) || self.is_vouched_for(now)) {
            // The others run again what they had released.
            if std::mem::take(&mut self.ready) {
                self.hurry(now);
            }
            return;
        }
        if !self.ready {
            self.ready = true;
            self.ready_from = self.sequence + 1;
            self.hurry(now);
        }
        let admits = |peer: &Peer| peer.admits_us.is_some_and(|sequence| sequence >= self.ready_from);
        if self.peers.values().all(admits) {
            self.settled = true;
            self.listened = true;
            self.remembered.clear();
            self.change();
            self.tell(MembershipEvent::Settled);
            self.hurry(now);
        }
    }

    /// Returns `true` if any node that holds a lease must have been heard.
    fn has_listened(&self, now: Instant) -> bool {
        if self.host_lease {
            return now.saturating_duration_since(self.began) >= TAKEOVER;
        }
        self.relays.are_observed(now)
    }

    /// Returns `true` if a settled node names this one, and this one hears all that settled nodes name. Of two nodes that
    /// join and do not hear each other, a settled node names both to the second one.
    fn is_vouched_for(&self, now: Instant) -> bool {
        let recent = |peer: &Peer| now.saturating_duration_since(peer.heard) <= GAP;
        let is_heard = |known: &NodeKey| *known == self.key || self.peers.contains_key(known);
        let mut settled = self.peers.values().filter(|peer| peer.phase == Phase::Settled).peekable();
        settled.peek().is_some() && settled.all(|peer| peer.names_us && recent(peer) && peer.knows.iter().all(is_heard))
    }
}
