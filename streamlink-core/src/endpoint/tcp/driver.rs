//! Opening of TCP ports, which the listeners of a protocol share, and their routes as the engine sees them.

use super::{Port, Route, Service};
use crate::{
    endpoint::{
        EngineResources,
        driver::{EndpointLabel, ListenerEntry, RouteId, SharedPort, Task},
    },
    error::Error,
    flow::Allowlist,
};
use futures_util::future::BoxFuture;
use std::{future::ready, io, net::SocketAddr, sync::Arc};

impl<S: Service> SharedPort for Port<S> {
    fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        self.edit(route, allow, max_peers);
    }

    fn kick(&self, route: RouteId, peer: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(ready(self.kick(route, peer)))
    }

    fn remove(&self, route: RouteId) -> Task {
        Box::pin(self.remove(route))
    }

    fn release(self: Arc<Self>) -> Task {
        Box::pin(Port::release(self))
    }
}

/// Returns the port of a protocol at an address, or opens it. Must be called within the runtime. Listeners of one group
/// share a port that the system picks.
pub(in crate::endpoint) fn open_port<S: Service>(
    resources: &EngineResources,
    label: &EndpointLabel<'_>,
    address: SocketAddr,
    group: Option<u64>,
    tls: bool,
) -> Result<Arc<Port<S>>, Error> {
    let opened = resources.tls.server(tls).and_then(|server| {
        let port = resources.ports.at(address, group, |address| {
            let (access_hook, random) = (resources.access_hook.clone(), resources.random.clone());
            Port::open(address, server, access_hook, resources.peer_limits, random)
        })?;
        if port.is_secure() == tls {
            Ok(port)
        } else {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another flow listens there, with TLS or without"))
        }
    });
    opened.map_err(|cause| label.bind(address, cause))
}

/// Adds a route to a port.
pub(in crate::endpoint) fn add_route<S: Service>(port: Arc<Port<S>>, route: Route<S>) -> ListenerEntry {
    let id = port.add(route);
    ListenerEntry::new(port, id)
}
