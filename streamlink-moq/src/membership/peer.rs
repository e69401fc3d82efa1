//! Another node of a region, as its heartbeats show it.

use super::{Heartbeat, NodeKey, Phase};
use std::{collections::BTreeSet, time::Instant};

/// Another node as this node sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) heard: Instant,
    pub(super) phase: Phase,
    pub(super) relays: BTreeSet<String>,
    pub(super) knows: Vec<NodeKey>,
    /// Number of the newest heartbeat of this node's epoch that the peer has received.
    pub(super) acknowledged: u64,
    /// True if the peer's last heartbeat names this node, in its epoch.
    pub(super) names_us: bool,
    /// Number of this node's heartbeat upon which the peer has stopped what is due to this node, if it has.
    pub(super) admits_us: Option<u64>,
    /// True if outputs that are due to the peer are not this node's.
    pub(super) blocks: bool,
    /// Generation in which the peer began to block.
    pub(super) blocked_in: u64,
    /// True once this node has told the peer that it runs nothing that is due to it.
    pub(super) admitted: bool,
    pub(super) unresolved: bool,
}

impl Peer {
    /// Creates a node of which nothing is known beside the epoch of its first heartbeat.
    pub(super) fn new(epoch: u64, now: Instant) -> Self {
        Self {
            epoch,
            sequence: 0,
            heard: now,
            phase: Phase::Joining,
            relays: BTreeSet::new(),
            knows: Vec::new(),
            acknowledged: 0,
            names_us: false,
            admits_us: None,
            blocks: false,
            blocked_in: 0,
            admitted: false,
            unresolved: false,
        }
    }

    /// Takes over what a heartbeat says. `key` and `own_epoch` are those of this node. Returns `true` if outputs that are due
    /// to the peer are not this node's from then on.
    pub(super) fn update(&mut self, heartbeat: &Heartbeat, key: &NodeKey, own_epoch: u64, now: Instant) -> bool {
        self.epoch = heartbeat.epoch;
        self.sequence = heartbeat.sequence;
        self.heard = now;
        self.unresolved = false;
        self.phase = heartbeat.phase;
        self.relays.clone_from(&heartbeat.relays);
        self.knows.clear();
        self.knows.extend(heartbeat.peers.iter().map(|report| report.node.clone()));
        let ours = heartbeat.peers.iter().find(|report| report.node == *key && report.epoch == own_epoch);
        if let Some(report) = ours {
            self.acknowledged = self.acknowledged.max(report.sequence);
        }
        self.names_us = ours.is_some();
        self.admits_us = ours.filter(|report| report.admitted).map(|report| report.sequence);
        match heartbeat.phase {
            Phase::Ready | Phase::Settled => true,
            // It may still run what it ran, if it ran anything.
            Phase::Stopping => self.blocks,
            Phase::Joining | Phase::Left => false,
        }
    }
}
