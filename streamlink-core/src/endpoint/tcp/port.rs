//! A port that publishers and players connect to, for any number of sources and outputs, which the protocol tells
//! apart. A task accepts; each connection has a task of its own until it has said what it wants, and shares one then.
//!
//! Memory: [`MAX_CONNECTIONS`] connections, of which [`MAX_PENDING`] may not have said yet what they want; those hold
//! at most some 256 KiB each, and are cut off after [`HANDSHAKE_TIMEOUT`].

use super::{
    super::{
        RefusalReason,
        listener::{PeerRegistry, PeerSlot},
    },
    Service,
    executor::{ConnectionExecutor, Kind},
    route::{OpenRoute, Route, RouteId},
};
use crate::{
    flow::{Allowlist, PeerLimits},
    lock::lock,
    net::{self, EpollGroup, Stream, TlsServer},
    random::Random,
};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// Connections of one port at most.
const MAX_CONNECTIONS: usize = 10_000;
/// Connections that may not have said yet what they want.
const MAX_PENDING: usize = 1_024;
/// How long a peer has to say what it wants.
pub(in crate::endpoint) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often statistics are brought up to date.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after the system had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A handle to a port. The port closes when its last handle goes.
#[derive(Debug)]
pub(crate) struct Port<S: Service> {
    local: SocketAddr,
    shared: Arc<Shared<S>>,
    stop: CancellationToken,
    closed: CancellationToken,
}

/// What a port and its connections share.
#[derive(Debug)]
pub(in crate::endpoint) struct Shared<S: Service> {
    routes: Mutex<HashMap<RouteId, Arc<OpenRoute<S>>>>,
    next_route: AtomicU64,
    pub(in crate::endpoint) tls: Option<TlsServer>,
    pub(in crate::endpoint) random: Random,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    pub(in crate::endpoint) peers: Arc<PeerRegistry>,
    players: ConnectionExecutor,
    publishers: ConnectionExecutor,
}

impl<S: Service> Drop for Port<S> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<S: Service> Port<S> {
    /// Opens a port. Must be called within the runtime.
    ///
    /// `tls`: the port speaks TLS.
    pub(crate) fn open(
        address: SocketAddr,
        tls: Option<TlsServer>,
        limits: PeerLimits,
        random: Random,
    ) -> io::Result<Arc<Self>> {
        let listener = net::listen(address)?;
        let local = listener.local_addr()?;
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            routes: Mutex::default(),
            next_route: AtomicU64::new(1),
            tls,
            random,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            peers: PeerRegistry::new(limits),
            players: ConnectionExecutor::new(Kind::Players, stop.clone()),
            publishers: ConnectionExecutor::new(Kind::Publishers, stop.clone()),
        });
        let port = Arc::new(Self { local, shared: shared.clone(), stop: stop.clone(), closed: closed.clone() });
        tokio::spawn(async move {
            shared.run(listener, &stop).await; // the socket goes with it
            closed.cancel();
        });
        Ok(port)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.shared.tls.is_some()
    }

    pub(crate) fn add(&self, route: Route<S>) -> RouteId {
        let id = self.shared.next_route.fetch_add(1, Relaxed);
        lock(&self.shared.routes).insert(id, OpenRoute::new(route, Instant::now()));
        id
    }

    pub(crate) fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        if let Some(open) = lock(&self.shared.routes).get(&route) {
            open.edit(allow, max_peers);
        }
    }

    /// Cuts off the players of a route at an address; returns whether there are any.
    pub(crate) fn kick(&self, route: RouteId, peer: SocketAddr) -> bool {
        lock(&self.shared.routes).get(&route).is_some_and(|open| open.kick(peer))
    }

    /// Removes a route, and waits until its connections have ended.
    pub(crate) async fn remove(&self, route: RouteId) {
        let Some(open) = lock(&self.shared.routes).remove(&route) else { return };
        open.stop.cancel();
        open.connections.close();
        open.connections.wait().await;
    }

    /// Gives back a handle; waits for the socket to close if it was the last.
    pub(crate) async fn release(self: Arc<Self>) {
        let closed = self.closed.clone();
        if Arc::into_inner(self).is_some() {
            closed.cancelled().await;
        }
    }
}

impl<S: Service> Shared<S> {
    async fn run(self: Arc<Self>, listener: TcpListener, stop: &CancellationToken) {
        let mut stats = tokio::time::interval(STATS_INTERVAL);
        let mut stopped = pin!(stop.cancelled());
        loop {
            tokio::select! {
                () = &mut stopped => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.accepted(Stream::accepted(socket), peer, stop),
                    Err(error) => {
                        log::warn!("{} port: {error}", S::NAME); // too many open files, most likely
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = stats.tick() => {
                    let now = Instant::now();
                    self.all().iter().for_each(|route| route.settle(now));
                }
            }
        }
    }

    pub(in crate::endpoint) fn all(&self) -> Vec<Arc<OpenRoute<S>>> {
        lock(&self.routes).values().cloned().collect()
    }

    /// A connection: who is not admitted anywhere is closed before a byte is exchanged.
    fn accepted(self: &Arc<Self>, stream: Stream, peer: SocketAddr, stop: &CancellationToken) {
        let peer = canonical(peer);
        let now = Instant::now();
        let routes = self.all();
        if !routes.iter().any(|route| route.admits(peer.ip())) {
            return routes.iter().for_each(|route| route.refuse(peer, RefusalReason::NotAllowed, now));
        }
        let permits = (self.connections.clone().try_acquire_owned(), self.pending.clone().try_acquire_owned());
        let shares = (self.peers.take_connection(peer.ip(), now), self.peers.take_pending(peer.ip(), now));
        let ((Ok(connection), Ok(pending)), (Some(connection_share), Some(pending_share))) = (permits, shares) else {
            return routes.iter().for_each(|route| route.refuse(peer, RefusalReason::TooManyPeers, now));
        };
        let (connection, pending) = ((connection, connection_share), (pending, pending_share));
        let (shared, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let visit = Visit { stream, peer, connection, pending };
            tokio::select! {
                () = stop.cancelled() => {}
                () = S::connection(shared, visit) => {}
            }
        });
    }

    /// Runs a connection that has said what it wants, to its end, or until the port closes.
    pub(in crate::endpoint) fn take_on(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.players.run(|_| connection);
    }

    /// The same for one that brings media, and may do so together with others of its task.
    pub(in crate::endpoint) fn take_on_publisher<F>(&self, connection: impl FnOnce(Option<Arc<EpollGroup>>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.publishers.run(connection);
    }
}

/// An IPv4 peer of an IPv6 socket is an IPv4 peer.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&peer.ip()), peer.port())
}

/// A connection that was accepted, and has not said yet what it is for.
pub(in crate::endpoint) struct Visit {
    pub(in crate::endpoint) stream: Stream,
    pub(in crate::endpoint) peer: SocketAddr,
    /// To be kept for as long as it is there.
    pub(in crate::endpoint) connection: (OwnedSemaphorePermit, PeerSlot),
    /// To be dropped when the peer has said what it wants.
    pub(in crate::endpoint) pending: (OwnedSemaphorePermit, PeerSlot),
}
