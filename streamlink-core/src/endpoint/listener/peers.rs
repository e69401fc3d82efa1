//! Registry of the peer addresses of a port: the usage of each address, held against [`PeerLimits`].
//!
//! Memory: [`MAX_ADDRESSES`] entries of some 64 bytes, and one for each address that has a connection.

use crate::{
    flow::PeerLimits,
    lock::lock,
    net::{DescriptorBudget, DescriptorPermit},
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Instant,
};

/// Maximum number of addresses without a connection that are kept for their refused attempts.
const MAX_ADDRESSES: usize = 4096;

/// Peer addresses of one port, with their usage.
#[derive(Debug)]
pub(in crate::endpoint) struct PeerRegistry {
    limits: PeerLimits,
    peers: Mutex<HashMap<IpAddr, Usage>>,
}

/// Usage of one address.
#[derive(Debug)]
struct Usage {
    pending: u32,
    connections: u32,
    /// Refused attempts that are left, and the time of the last top-up. Attempts that are decided together may be more
    /// than are left: then it is negative, and later ones wait for longer.
    attempts: f64,
    topped_up: Instant,
}

impl Usage {
    fn top_up(&mut self, per_second: u32, now: Instant) {
        let elapsed = now.saturating_duration_since(self.topped_up).as_secs_f64();
        self.attempts = (self.attempts + elapsed * f64::from(per_second)).min(f64::from(per_second));
        self.topped_up = self.topped_up.max(now);
    }

    /// Returns whether the entry can be dropped without losing information.
    fn is_idle(&mut self, per_second: u32, now: Instant) -> bool {
        self.top_up(per_second, now);
        self.pending == 0 && self.connections == 0 && self.attempts >= f64::from(per_second)
    }
}

/// Resource of which each address has a limited share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Pending,
    Connection,
}

/// One unit of an address's share, released when dropped.
#[derive(Debug)]
pub(in crate::endpoint) struct PeerSlot {
    registry: Arc<PeerRegistry>,
    address: IpAddr,
    share: Share,
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut peers = lock(&self.registry.peers);
        if let Some(usage) = peers.get_mut(&self.address) {
            match self.share {
                Share::Pending => usage.pending = usage.pending.saturating_sub(1),
                Share::Connection => usage.connections = usage.connections.saturating_sub(1),
            }
        }
    }
}

/// Returns the address by which shares are counted. An IPv6 /64 network counts as one address.
fn share_address(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

impl PeerRegistry {
    pub(in crate::endpoint) fn new(limits: PeerLimits) -> Arc<Self> {
        Arc::new(Self { limits, peers: Mutex::default() })
    }

    fn with<T>(&self, address: IpAddr, now: Instant, act: impl FnOnce(&mut Usage) -> T) -> T {
        let mut peers = lock(&self.peers);
        let per_second = self.limits.refusals_per_second;
        if peers.len() >= MAX_ADDRESSES && !peers.contains_key(&address) {
            peers.retain(|_, usage| !usage.is_idle(per_second, now));
            if peers.len() >= MAX_ADDRESSES {
                // Under a flood from many addresses, the refusals of those without a connection are forgotten.
                peers.retain(|_, usage| usage.pending > 0 || usage.connections > 0);
            }
        }
        let attempts = f64::from(per_second);
        let fresh = || Usage { pending: 0, connections: 0, attempts, topped_up: now };
        act(peers.entry(address).or_insert_with(fresh))
    }

    fn take(self: &Arc<Self>, peer: IpAddr, now: Instant, share: Share) -> Option<PeerSlot> {
        let address = share_address(peer);
        let taken = self.with(address, now, |usage| {
            let (used, most) = match share {
                Share::Pending => (&mut usage.pending, self.limits.pending),
                Share::Connection => (&mut usage.connections, self.limits.connections),
            };
            let free = *used < most;
            *used += u32::from(free);
            free
        });
        taken.then(|| PeerSlot { registry: self.clone(), address, share })
    }

    /// Takes a unit for a connection that has not sent its request yet. `None` when its address has used up its share.
    pub(in crate::endpoint) fn take_pending(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Option<PeerSlot> {
        self.take(peer, now, Share::Pending)
    }

    /// Takes a unit for a connection. `None` when its address has used up its share.
    pub(in crate::endpoint) fn take_connection(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Option<PeerSlot> {
        self.take(peer, now, Share::Connection)
    }

    /// Takes file descriptors of the process on behalf of a peer. `None` when none are left for its address.
    pub(in crate::endpoint) fn take_descriptors(&self, peer: IpAddr, count: usize) -> Option<DescriptorPermit> {
        DescriptorBudget::of_process().take(share_address(peer), count)
    }

    /// Counts a refused attempt of an address that the peer has proved to be its own.
    pub(in crate::endpoint) fn refused(&self, peer: IpAddr, now: Instant) {
        let per_second = self.limits.refusals_per_second;
        // No more than the pending ones are decided together.
        let most_owed = f64::from(self.limits.pending.max(1));
        self.with(share_address(peer), now, |usage| {
            usage.top_up(per_second, now);
            usage.attempts = (usage.attempts - 1.0).max(-most_owed);
        });
    }

    /// Returns whether an address has refusals left, so that it may make another attempt.
    pub(in crate::endpoint) fn may_attempt(&self, peer: IpAddr, now: Instant) -> bool {
        let mut peers = lock(&self.peers);
        let Some(usage) = peers.get_mut(&share_address(peer)) else { return true };
        usage.top_up(self.limits.refusals_per_second, now);
        usage.attempts >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn peer_registry_bounds_each_address_by_itself() {
        let now = Instant::now();
        let registry = PeerRegistry::new(PeerLimits::new().pending(2).connections(1));
        let one = address("192.0.2.1");
        let other = address("192.0.2.2");
        let first = registry.take_pending(one, now).expect("a place");
        let _second = registry.take_pending(one, now).expect("a place");
        assert!(registry.take_pending(one, now).is_none());
        assert!(registry.take_pending(other, now).is_some());
        drop(first);
        assert!(registry.take_pending(one, now).is_some());
        let _connection = registry.take_connection(one, now).expect("a place");
        assert!(registry.take_connection(one, now).is_none());
    }

    #[test]
    fn peer_registry_counts_an_ipv6_network_as_one_address() {
        let now = Instant::now();
        let registry = PeerRegistry::new(PeerLimits::new().connections(1));
        let _one = registry.take_connection(address("2001:db8:0:1::1"), now).expect("a place");
        assert!(registry.take_connection(address("2001:db8:0:1:ffff::2"), now).is_none());
        assert!(registry.take_connection(address("2001:db8:0:2::1"), now).is_some());
        let _mapped = registry.take_connection(address("::ffff:192.0.2.1"), now).expect("a place");
        assert!(registry.take_connection(address("192.0.2.1"), now).is_none());
    }

    #[test]
    fn peer_registry_gives_refused_attempts_back_with_time() {
        let now = Instant::now();
        let registry = PeerRegistry::new(PeerLimits::new().refusals_per_second(2));
        let peer = address("192.0.2.1");
        for _ in 0..2 {
            assert!(registry.may_attempt(peer, now));
            registry.refused(peer, now);
        }
        assert!(!registry.may_attempt(peer, now));
        assert!(registry.may_attempt(address("192.0.2.2"), now));
        assert!(!registry.may_attempt(peer, now + Duration::from_millis(400)));
        assert!(registry.may_attempt(peer, now + Duration::from_millis(600)));
    }

    #[test]
    fn peer_registry_counts_attempts_that_are_decided_together() {
        let now = Instant::now();
        let registry = PeerRegistry::new(PeerLimits::new().refusals_per_second(2));
        let peer = address("192.0.2.1");
        for _ in 0..5 {
            assert!(registry.may_attempt(peer, now));
        }
        for _ in 0..5 {
            registry.refused(peer, now);
        }
        // Two were left, and two come back each second.
        assert!(!registry.may_attempt(peer, now + Duration::from_millis(1900)));
        assert!(registry.may_attempt(peer, now + Duration::from_millis(2100)));
        for _ in 0..10_000 {
            registry.refused(peer, now + Duration::from_secs(3));
        }
        let pending = PeerLimits::new().pending;
        assert!(
            registry.may_attempt(peer, now + Duration::from_secs(u64::from(pending) / 2 + 5)),
            "the debt is bounded"
        );
    }

    #[test]
    fn peer_registry_is_bounded_under_a_flood_of_addresses() {
        let now = Instant::now();
        let registry = PeerRegistry::new(PeerLimits::new());
        let kept = registry.take_connection(address("192.0.2.1"), now).expect("a place");
        for n in 0..3 * MAX_ADDRESSES as u32 {
            registry.refused(IpAddr::V4((0x0a00_0000 + n).into()), now);
            assert!(lock(&registry.peers).len() <= MAX_ADDRESSES);
        }
        drop(kept);
    }
}
