//! Simulated region in virtual time: nodes, relays, and links that delay, break and come back.

use super::{FENCE, Heartbeat, Membership, MembershipEvent, NodeKey};
use crate::placement::{Exclusivity, OutputId};
use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

/// Pseudo-random numbers (xorshift), the same for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(2);
        random
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// Node with its agent, which starts outputs at once and needs some time to stop them.
pub(super) struct Node {
    pub(super) membership: Membership,
    /// Exclusive outputs that are open, and when they will have stopped.
    pub(super) open: BTreeMap<usize, Option<Instant>>,
    pub(super) shared: BTreeSet<usize>,
    pub(super) suspended_until: Option<Instant>,
    /// True while the node closes what was open when it was suspended for longer than its lease: it sends nothing.
    silenced: bool,
    inbox: Vec<(usize, Heartbeat)>,
    reconciled: Option<u64>,
    pub(super) events: Vec<MembershipEvent>,
}

#[derive(PartialEq, Eq)]
struct Delivery {
    at: Instant,
    order: u64,
    to: Target,
}

#[derive(PartialEq, Eq)]
enum Target {
    Relay(usize, u64, Box<Heartbeat>),
    Node(u64, usize, Box<Heartbeat>),
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub(super) struct Region {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) outputs: Vec<OutputId>,
    pub(super) relays_up: Vec<bool>,
    /// Links that are down, of a node and a relay.
    pub(super) cut: BTreeSet<(u64, usize)>,
    last_delivery: BTreeMap<(u64, usize, bool), Instant>,
    in_flight: BinaryHeap<Delivery>,
    order: u64,
    next_instance: u64,
    /// Longest time that a stop takes.
    pub(super) stop_ms: u64,
    pub(super) delay_ms: u64,
    pub(super) host_lease: bool,
}

impl Region {
    pub(super) fn new(seed: u64, outputs: usize, relays: usize) -> Self {
        Self {
            now: Instant::now(),
            random: Random::new(seed),
            nodes: BTreeMap::new(),
            outputs: (0..outputs).map(|n| OutputId::new(format!("flow-{n}"), "platform")).collect(),
            relays_up: vec![true; relays],
            cut: BTreeSet::new(),
            last_delivery: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            next_instance: 1,
            stop_ms: 80,
            delay_ms: 60,
            host_lease: false,
        }
    }

    /// Starts a node, and returns its number.
    pub(super) fn start(&mut self, id: &str) -> u64 {
        let instance = self.next_instance;
        self.next_instance += 1;
        let key = NodeKey { id: id.to_owned(), instance };
        let relays = (0..self.relays_up.len()).map(|n| format!("relay-{n}"));
        let mut membership = Membership::new(key, relays, self.host_lease, self.now);
        membership.prepare(self.now);
        let node = Node {
            membership,
            open: BTreeMap::new(),
            shared: BTreeSet::new(),
            suspended_until: None,
            silenced: false,
            inbox: Vec::new(),
            reconciled: None,
            events: Vec::new(),
        };
        self.nodes.insert(instance, node);
        instance
    }

    pub(super) fn kill(&mut self, node: u64) {
        self.nodes.remove(&node);
    }

    /// Advances the time by a millisecond, and checks that no destination sees two senders.
    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(1);
        self.deliver();
        let numbers: Vec<u64> = self.nodes.keys().copied().collect();
        for number in numbers {
            self.run(number);
        }
        self.check();
    }

    pub(super) fn steps(&mut self, millis: u64) {
        for _ in 0..millis {
            self.step();
        }
    }

    /// Advances the time until a condition holds, and returns the milliseconds that passed, or `None` after `limit`.
    pub(super) fn until(&mut self, limit: u64, condition: impl Fn(&Self) -> bool) -> Option<u64> {
        for passed in 0..=limit {
            if condition(self) {
                return Some(passed);
            }
            self.step();
        }
        None
    }

    /// Returns `true` if each exclusive output is open on one node, and each shared one on two if there are two.
    pub(super) fn is_placed(&self) -> bool {
        let exclusive = |n: usize| self.nodes.values().filter(|node| node.open.get(&n) == Some(&None)).count();
        let shared = |n: usize| self.nodes.values().filter(|node| node.shared.contains(&n)).count();
        (0..self.outputs.len()).all(|n| exclusive(n) == 1 && shared(n) >= self.nodes.len().min(2))
    }

    fn is_up(&self, node: u64, relay: usize) -> bool {
        self.relays_up[relay] && !self.cut.contains(&(node, relay))
    }

    /// Sends in order on each link, as a stream does.
    fn send(&mut self, link: (u64, usize, bool), to: Target) {
        let delay = Duration::from_millis(1 + self.random.below(self.delay_ms));
        let after = self.last_delivery.get(&link).copied().unwrap_or(self.now);
        let at = (self.now + delay).max(after);
        self.last_delivery.insert(link, at);
        self.order += 1;
        self.in_flight.push(Delivery { at, order: self.order, to });
    }

    fn deliver(&mut self) {
        while self.in_flight.peek().is_some_and(|delivery| delivery.at <= self.now) {
            let Some(delivery) = self.in_flight.pop() else { return };
            match delivery.to {
                Target::Relay(relay, from, heartbeat) if self.is_up(from, relay) => {
                    for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                        if self.is_up(node, relay) {
                            self.send((node, relay, true), Target::Node(node, relay, heartbeat.clone()));
                        }
                    }
                }
                Target::Node(node, relay, heartbeat) if self.is_up(node, relay) => {
                    if let Some(node) = self.nodes.get_mut(&node) {
                        node.inbox.push((relay, *heartbeat));
                    }
                }
                Target::Relay(..) | Target::Node(..) => {} // the link is down: lost
            }
        }
    }

    fn run(&mut self, number: u64) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&number) else { return };
        if node.suspended_until.is_some_and(|until| now < until) {
            return;
        }
        let woke_up = node.suspended_until.take().is_some();
        for (relay, heartbeat) in std::mem::take(&mut node.inbox) {
            let bytes = heartbeat.to_bytes();
            if let Ok(heartbeat) = Heartbeat::from_bytes(&bytes) {
                node.membership.receive(now, &format!("relay-{relay}"), &heartbeat);
            }
        }
        let heartbeat = if now >= node.membership.next_timeout() { node.membership.poll_heartbeat(now) } else { None };
        let generation = node.membership.generation();
        node.silenced = !node.open.is_empty() && (node.silenced || woke_up && node.membership.fence().is_none());
        if node.reconciled != Some(generation) {
            node.reconciled = Some(generation);
            for (n, output) in self.outputs.iter().enumerate() {
                if node.membership.runs(output, Exclusivity::Shared) {
                    node.shared.insert(n);
                } else {
                    node.shared.remove(&n);
                }
                if node.membership.runs(output, Exclusivity::Exclusive) {
                    node.open.insert(n, None);
                } else if node.open.get(&n) == Some(&None) {
                    let stop = Duration::from_millis(self.random.below(self.stop_ms + 1));
                    node.open.insert(n, Some(now + stop));
                }
            }
        }
        node.open.retain(|_, stops| stops.is_none_or(|at| at > now));
        if node.open.values().all(Option::is_none) {
            node.membership.confirm(now, generation);
        }
        while let Some(event) = node.membership.poll_event() {
            node.events.push(event);
        }
        if let Some(heartbeat) = heartbeat {
            for relay in 0..self.relays_up.len() {
                self.send((number, relay, false), Target::Relay(relay, number, Box::new(heartbeat.clone())));
            }
        }
    }

    fn check(&self) {
        let mut owners: BTreeMap<usize, u64> = BTreeMap::new();
        for (number, node) in &self.nodes {
            // A suspended process keeps its connections, and sends nothing. When it wakes up, its fence is closed before it
            // sends again, or its outputs are still its own.
            if node.silenced || node.suspended_until.is_some_and(|until| self.now < until) {
                continue;
            }
            for output in node.open.keys() {
                if let Some(other) = owners.insert(*output, *number) {
                    panic!("nodes {other} and {number} both send output {output}");
                }
            }
            if let Some(fence) = node.membership.fence() {
                assert!(fence <= self.now + FENCE);
            }
        }
    }
}
