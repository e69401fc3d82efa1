//! A TCP port for publishers and players. Any number of sources and outputs share it; the protocol names the route of
//! each connection. One task accepts connections. A connection has a task of its own until its request is complete,
//! and shares a task with others from then on.
//!
//! Limits: [`MAX_CONNECTIONS`] connections, of which at most [`MAX_PENDING`] are pending, that is, have not completed
//! their request. A pending connection holds at most about 512 KiB, and is closed [`HANDSHAKE_TIMEOUT`] after it was
//! accepted, whatever it has sent. One address has a share of both ([`PeerLimits`]), and all ports of the process share
//! a budget of file descriptors.

use super::{
    super::{
        AccessHook, LossReason, RefusalReason,
        listener::{PeerRegistry, PeerSlot},
    },
    End, Service,
    access::AccessGate,
    executor::{ConnectionExecutor, Kind},
    route::{OpenRoute, Route, RouteId},
};
use crate::{
    flow::{Allowlist, PeerLimits},
    lock::{self, lock},
    net::{self, DescriptorPermit, EpollGroup, SpareDescriptor, Stream, TlsError, TlsErrorKind, TlsServer},
    random::Random,
};
use futures_util::FutureExt;
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

/// Maximum number of connections of one port.
const MAX_CONNECTIONS: usize = 10_000;
/// Maximum number of connections of one port that have not completed their request.
const MAX_PENDING: usize = 1_024;
/// Maximum time from the acceptance of a connection to its request.
pub(in crate::endpoint) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between updates of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time without a failure after which the next one is logged as a new shortage.
const SHORTAGE_END: Duration = Duration::from_secs(10);

/// Handle to a port. The port closes when its last handle is dropped.
#[derive(Debug)]
pub(crate) struct Port<S: Service> {
    local: SocketAddr,
    shared: Arc<Shared<S>>,
    stop: CancellationToken,
    closed: CancellationToken,
}

/// State shared by a port and its connections.
#[derive(Debug)]
pub(in crate::endpoint) struct Shared<S: Service> {
    routes: Mutex<HashMap<RouteId, Arc<OpenRoute<S>>>>,
    next_route: AtomicU64,
    pub(in crate::endpoint) tls: Option<TlsServer>,
    pub(in crate::endpoint) random: Random,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    pub(in crate::endpoint) peers: Arc<PeerRegistry>,
    pub(super) access: Option<AccessGate>,
    shortage: Shortage,
    players: ConnectionExecutor,
    publishers: ConnectionExecutor,
}

/// Time of the last shortage of descriptors, so that each shortage is logged once.
#[derive(Debug, Default)]
struct Shortage(Mutex<Option<Instant>>);

impl Shortage {
    /// Records a failure. Returns whether it begins a new shortage.
    fn begins(&self, now: Instant) -> bool {
        let last = lock(&self.0).replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= SHORTAGE_END)
    }
}

impl<S: Service> Drop for Port<S> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<S: Service> Port<S> {
    /// Opens a port, with TLS if `tls` is given. Must be called within the runtime.
    pub(crate) fn open(
        address: SocketAddr,
        tls: Option<TlsServer>,
        access_hook: Option<AccessHook>,
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
            access: access_hook.map(AccessGate::new),
            shortage: Shortage::default(),
            players: ConnectionExecutor::new(Kind::Players, stop.clone()),
            publishers: ConnectionExecutor::new(Kind::Publishers, stop.clone()),
        });
        let port = Arc::new(Self { local, shared: shared.clone(), stop: stop.clone(), closed: closed.clone() });
        tokio::spawn(lock::task(async move {
            shared.run(listener, &stop).await; // closes the socket
            closed.cancel();
        }));
        Ok(port)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns whether the port speaks TLS.
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

    /// Disconnects the players of a route at an address. Returns whether there were any.
    pub(crate) fn kick(&self, route: RouteId, peer: SocketAddr) -> bool {
        lock(&self.shared.routes).get(&route).is_some_and(|open| open.kick(peer))
    }

    /// Removes a route at once. The future waits until its connections have ended.
    pub(crate) fn remove(&self, route: RouteId) -> impl Future<Output = ()> + Send + use<S> {
        let open = lock(&self.shared.routes).remove(&route);
        if let Some(open) = &open {
            open.stop.cancel();
            open.connections.close();
        }
        async move {
            if let Some(open) = open {
                open.connections.wait().await;
            }
        }
    }

    /// Drops a handle. Waits until the socket is closed if it was the last handle.
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
        let mut spare = SpareDescriptor::new();
        loop {
            tokio::select! {
                () = &mut stopped => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.accepted(Stream::accepted(socket), peer, stop),
                    Err(error) if net::is_out_of_descriptors(&error) => {
                        if !self.refuse_without_descriptors(&listener, &mut spare, &error) {
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                    // Most likely this connection was closed already. Go on with the next one.
                    Err(error) => log::debug!("{} port {:?}: {error}", S::NAME, listener.local_addr()),
                },
                _ = stats.tick() => {
                    spare.restore();
                    let now = Instant::now();
                    for route in self.all() {
                        route.settle(now);
                    }
                }
            }
        }
    }

    /// Accepts a connection with the spare descriptor and closes it. Returns `false` if that failed and the connection
    /// still waits.
    fn refuse_without_descriptors(
        &self,
        listener: &TcpListener,
        spare: &mut SpareDescriptor,
        error: &io::Error,
    ) -> bool {
        self.note_shortage(&error.to_string());
        let lent = spare.lend();
        let accepted = listener.accept().now_or_never();
        let refused = match accepted {
            Some(Ok((socket, peer))) => {
                drop(socket);
                self.refuse_everywhere(canonical(peer), RefusalReason::OutOfDescriptors, Instant::now());
                true
            }
            _ => false,
        };
        spare.restore();
        lent && refused
    }

    /// Logs a shortage of descriptors, once per shortage.
    pub(in crate::endpoint) fn note_shortage(&self, error: &str) {
        if self.shortage.begins(Instant::now()) {
            log::warn!("{} port: peers are refused: {error}", S::NAME);
        }
    }

    /// Counts the refusal of a peer whose route is unknown, at every route.
    pub(in crate::endpoint) fn refuse_everywhere(&self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        for route in self.all() {
            route.refuse(peer, reason, now);
        }
    }

    /// Performs the TLS handshake with a peer, if the port has TLS. One that fails is an attempt that was refused.
    pub(in crate::endpoint) async fn secure(&self, stream: Stream, peer: SocketAddr) -> Result<Stream, End> {
        match stream.secure_accepted(self.tls.as_ref()).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let now = Instant::now();
                self.peers.refused(peer.ip(), now);
                if let Some(TlsError { kind, words }) = TlsError::of(&error) {
                    let reason = match kind {
                        TlsErrorKind::Plain => RefusalReason::EncryptionMismatch,
                        TlsErrorKind::Untrusted | TlsErrorKind::Handshake => RefusalReason::Incompatible,
                    };
                    for route in self.all() {
                        route.refuse_with(peer, reason, words, now);
                    }
                    log::debug!("{} peer {peer}: {words}", S::NAME);
                    return Err(End::Stopped);
                }
                Err(error.into())
            }
        }
    }

    /// Counts a connection that has ended before its request, unless the peer closed it. `end`: `None` after a timeout.
    pub(in crate::endpoint) fn refuse_unasked(&self, peer: SocketAddr, end: Option<&End>) {
        let now = Instant::now();
        if self.tls.is_some() && matches!(end, Some(End::Lost(_))) {
            // The handshakes of peers that ask for nothing cost more than their connections.
            self.peers.refused(peer.ip(), now);
        }
        match end {
            None => self.refuse_everywhere(peer, RefusalReason::TimedOut, now),
            Some(End::Lost(LossReason::Protocol(what))) => {
                for route in self.all() {
                    route.refuse_with(peer, RefusalReason::Incompatible, what, now);
                }
            }
            Some(_) => {}
        }
    }

    pub(in crate::endpoint) fn all(&self) -> Vec<Arc<OpenRoute<S>>> {
        lock(&self.routes).values().cloned().collect()
    }

    /// Starts the task of an accepted connection. A peer that no route admits is closed before any byte is exchanged.
    fn accepted(self: &Arc<Self>, stream: Stream, peer: SocketAddr, stop: &CancellationToken) {
        let peer = canonical(peer);
        let now = Instant::now();
        let (connection, pending) = match self.admit(peer, now) {
            Ok(places) => places,
            Err(reason) => return self.refuse_everywhere(peer, reason, now),
        };
        let (shared, stop) = (self.clone(), stop.clone());
        tokio::spawn(lock::task(async move {
            let visit = PendingConnection { stream, peer, connection, pending };
            tokio::select! {
                () = stop.cancelled() => {}
                () = S::connection(shared, visit) => {}
            }
        }));
    }

    /// Takes the places that a connection needs, or returns the reason for a refusal.
    fn admit(&self, peer: SocketAddr, now: Instant) -> Result<(ConnectionPlace, PendingPlace), RefusalReason> {
        if !self.all().iter().any(|route| route.admits(peer.ip())) {
            return Err(RefusalReason::NotAllowed);
        }
        if !self.peers.may_attempt(peer.ip(), now) {
            return Err(RefusalReason::TooManyAttempts);
        }
        let from_address = RefusalReason::TooManyFromAddress;
        let share = self.peers.take_connection(peer.ip(), now).ok_or(from_address)?;
        let pending_share = self.peers.take_pending(peer.ip(), now).ok_or(from_address)?;
        let too_many = |_| RefusalReason::TooManyPeers;
        let permit = self.connections.clone().try_acquire_owned().map_err(too_many)?;
        let pending_permit = self.pending.clone().try_acquire_owned().map_err(too_many)?;
        let Some(descriptor) = self.peers.take_descriptors(peer.ip(), 1) else {
            self.note_shortage("the budget of file descriptors is used up");
            return Err(RefusalReason::OutOfDescriptors);
        };
        let connection = ConnectionPlace { _permit: permit, _share: share, _descriptor: descriptor };
        Ok((connection, PendingPlace { _permit: pending_permit, _share: pending_share }))
    }

    /// Runs a connection after its request, until it ends or the port closes.
    pub(in crate::endpoint) fn take_on(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.players.run(|_| connection);
    }

    /// Runs the connection of a publisher in the same way. `connection` gets the epoll group of its task, if there is
    /// one.
    pub(in crate::endpoint) fn take_on_publisher<F>(&self, connection: impl FnOnce(Option<Arc<EpollGroup>>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.publishers.run(connection);
    }
}

/// Returns the address with an IPv4-mapped IPv6 address converted to IPv4.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&peer.ip()), peer.port())
}

/// An accepted connection before its request.
pub(in crate::endpoint) struct PendingConnection {
    pub(in crate::endpoint) stream: Stream,
    pub(in crate::endpoint) peer: SocketAddr,
    /// Place to be held until the connection ends.
    pub(in crate::endpoint) connection: ConnectionPlace,
    /// Place to be dropped when the request is complete.
    pub(in crate::endpoint) pending: PendingPlace,
}

/// Share of a connection in the limits of the port, of its address and of the process, held until it ends.
pub(in crate::endpoint) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
    _share: PeerSlot,
    _descriptor: DescriptorPermit,
}

/// Share of a pending connection in the limits of the port and of its address, held until its request is complete.
pub(in crate::endpoint) struct PendingPlace {
    _permit: OwnedSemaphorePermit,
    _share: PeerSlot,
}
