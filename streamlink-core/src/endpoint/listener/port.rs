//! Handle to a port, by which the engine adds routes, changes and removes them, and closes the port.

use super::RouteId;
use crate::{
    endpoint::driver::{ListenerEntry, SharedPort, Task},
    flow::Allowlist,
};
use futures_util::future::BoxFuture;
use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio_util::sync::CancellationToken;

/// Open port of a protocol, with its tasks and its table of routes. Its tasks end when it is dropped.
pub(in crate::endpoint) trait PortProtocol: Debug + Send + Sync + 'static {
    /// Source or output that peers reach through the port.
    type Route;

    /// Adds a route.
    fn add(&self, id: RouteId, route: Self::Route);

    /// Changes the allowlist and the maximum number of peers of a route, and disconnects peers that are no longer
    /// allowed.
    fn edit(&self, id: RouteId, allow: Allowlist, max_peers: Option<u32>);

    /// Disconnects the players of a route at an address. Returns true if there were any.
    fn kick(&self, id: RouteId, peer: SocketAddr) -> BoxFuture<'static, bool>;

    /// Removes a route at once. The future waits until its connections have ended and no code of the host runs for it.
    fn remove(&self, id: RouteId) -> Task;
}

/// Handle to a port. The port closes when its last handle is dropped.
#[derive(Debug)]
pub(in crate::endpoint) struct Port<P> {
    local: SocketAddr,
    pub(in crate::endpoint) protocol: P,
    next_route: AtomicU64,
    closed: CancellationToken,
}

impl<P: PortProtocol> Port<P> {
    /// `local`: the bound address. `closed`: cancelled when the tasks of the port have ended and its socket is closed.
    pub(in crate::endpoint) fn new(local: SocketAddr, protocol: P, closed: CancellationToken) -> Arc<Self> {
        Arc::new(Self { local, protocol, next_route: AtomicU64::new(1), closed })
    }

    pub(in crate::endpoint) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the token that is cancelled when the port has closed.
    #[cfg(test)]
    pub(in crate::endpoint) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Adds a route. Returns the handle to it.
    pub(in crate::endpoint) fn add(self: Arc<Self>, route: P::Route) -> ListenerEntry {
        let id = self.next_route.fetch_add(1, Relaxed);
        self.protocol.add(id, route);
        ListenerEntry::new(self, id)
    }
}

impl<P: PortProtocol> SharedPort for Port<P> {
    fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        self.protocol.edit(route, allow, max_peers);
    }

    fn kick(&self, route: RouteId, peer: SocketAddr) -> BoxFuture<'_, bool> {
        self.protocol.kick(route, peer)
    }

    fn remove(&self, route: RouteId) -> Task {
        self.protocol.remove(route)
    }

    fn release(self: Arc<Self>) -> Task {
        Box::pin(async move {
            let closed = self.closed.clone();
            if Arc::into_inner(self).is_some() {
                closed.cancelled().await;
            }
        })
    }
}
