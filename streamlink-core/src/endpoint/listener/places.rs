//! Places of a port: for connections, and for peers whose request is not decided yet. Each address has a share of both
//! ([`PeerLimits`]), and all ports of the process share a budget of file descriptors.

use super::{PeerRegistry, peers::PeerSlot};
use crate::{endpoint::RefusalReason, flow::PeerLimits, net::DescriptorPermit};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of connections of one port.
const MAX_CONNECTIONS: usize = 10_000;
/// Maximum number of peers of one port whose request is not decided.
const MAX_PENDING: usize = 1_024;

/// Free places of a port.
#[derive(Debug)]
pub(in crate::endpoint) struct Places {
    pub(in crate::endpoint) peers: Arc<PeerRegistry>,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
}

/// Place of a connection, held until it ends.
#[derive(Debug)]
pub(in crate::endpoint) struct ConnectionPlace {
    _share: PeerSlot,
    _permit: OwnedSemaphorePermit,
    _descriptor: Option<DescriptorPermit>,
}

impl ConnectionPlace {
    /// Adds the file descriptor of the connection.
    pub(in crate::endpoint) fn with_descriptor(self, descriptor: DescriptorPermit) -> Self {
        Self { _descriptor: Some(descriptor), ..self }
    }
}

/// Place of a peer whose request is not decided, held until it is.
#[derive(Debug)]
pub(in crate::endpoint) struct PendingPlace {
    _share: PeerSlot,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(in crate::endpoint) fn new(limits: PeerLimits) -> Self {
        Self {
            peers: PeerRegistry::new(limits),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
        }
    }

    /// Takes a place for a connection. Fails with `TooManyFromAddress` when the share of the address is used up, and
    /// with `TooManyPeers` when the port is full.
    pub(in crate::endpoint) fn take_connection(
        &self,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<ConnectionPlace, RefusalReason> {
        let share = self.peers.take_connection(peer.ip(), now).ok_or(RefusalReason::TooManyFromAddress)?;
        let permit = take(&self.connections)?;
        Ok(ConnectionPlace { _share: share, _permit: permit, _descriptor: None })
    }

    /// Takes a place for a peer whose request is not decided. Fails as [`Places::take_connection`] does.
    pub(in crate::endpoint) fn take_pending(
        &self,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<PendingPlace, RefusalReason> {
        let share = self.peers.take_pending(peer.ip(), now).ok_or(RefusalReason::TooManyFromAddress)?;
        Ok(PendingPlace { _share: share, _permit: take(&self.pending)? })
    }
}

fn take(free: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, RefusalReason> {
    free.clone().try_acquire_owned().map_err(|_| RefusalReason::TooManyPeers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_port_are_bounded_beside_those_of_an_address() {
        let now = Instant::now();
        let places = Places::new(PeerLimits::new().pending(2).connections(1));
        let peer = |last: u16| SocketAddr::from(([192, 0, (last >> 8) as u8, last as u8], 9));
        let first = places.take_connection(peer(1), now).expect("a place");
        assert_eq!(places.take_connection(peer(1), now).unwrap_err(), RefusalReason::TooManyFromAddress);
        drop(first);
        assert!(places.take_connection(peer(1), now).is_ok());
        let taken: Vec<_> =
            (0..MAX_PENDING as u16).map(|n| places.take_pending(peer(n), now).expect("a place")).collect();
        assert_eq!(places.take_pending(peer(2000), now).unwrap_err(), RefusalReason::TooManyPeers);
        drop(taken);
        assert!(places.take_pending(peer(2000), now).is_ok());
    }
}
