//! A port that publishers and players connect to, for any number of sources and outputs, which the protocol tells
//! apart. A task accepts; each connection has a task of its own until it has said what it wants, and shares one then.
//!
//! Memory: [`MAX_CONNECTIONS`] connections, of which [`MAX_PENDING`] may not have said yet what they want; those hold
//! at most some 512 KiB each, and are cut off [`HANDSHAKE_TIMEOUT`] after they were accepted, whatever they have sent.
//! One address has a share of both ([`PeerLimits`]), and all ports of the process together have a budget of descriptors.

use super::{
    super::{
        LossReason, RefusalReason,
        listener::{PeerRegistry, PeerSlot},
    },
    End, Service,
    executor::{ConnectionExecutor, Kind},
    route::{OpenRoute, Route, RouteId},
};
use crate::{
    flow::{Allowlist, PeerLimits},
    lock::lock,
    net::{self, DescriptorPermit, EpollGroup, SpareDescriptor, Stream, TlsServer},
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
/// A shortage that pauses for less than this is logged as one.
const SHORTAGE_END: Duration = Duration::from_secs(10);

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
    shortage: Shortage,
    players: ConnectionExecutor,
    publishers: ConnectionExecutor,
}

/// When descriptors were last short, so that a log has one line about it.
#[derive(Debug, Default)]
struct Shortage(Mutex<Option<Instant>>);

impl Shortage {
    /// Returns whether a shortage begins, rather than goes on.
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
            shortage: Shortage::default(),
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

    /// Removes a route at once; the future waits until its connections have ended.
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
                    // The connection has ended already, most likely; others wait.
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

    /// Accepts a connection with the descriptor that is kept for this, and closes it. Returns whether that was done:
    /// otherwise the connection goes on waiting.
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

    /// Logs that peers find no descriptors; once until there were some for a while.
    pub(in crate::endpoint) fn note_shortage(&self, error: &str) {
        if self.shortage.begins(Instant::now()) {
            log::warn!("{} port: peers are refused: {error}", S::NAME);
        }
    }

    /// Counts a peer of which it is not known what it wanted, wherever it could have gone.
    pub(in crate::endpoint) fn refuse_everywhere(&self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        for route in self.all() {
            route.refuse(peer, reason, now);
        }
    }

    /// Counts a connection that has ended before its peer has said what it wants, if that was not the peer's own will.
    pub(in crate::endpoint) fn refuse_unasked(&self, peer: SocketAddr, end: Option<&End>) {
        let reason = match end {
            None => RefusalReason::TimedOut,
            Some(End::Lost(LossReason::Protocol(_))) => RefusalReason::Incompatible,
            Some(_) => return,
        };
        self.refuse_everywhere(peer, reason, Instant::now());
    }

    pub(in crate::endpoint) fn all(&self) -> Vec<Arc<OpenRoute<S>>> {
        lock(&self.routes).values().cloned().collect()
    }

    /// A connection: who is not admitted anywhere is closed before a byte is exchanged.
    fn accepted(self: &Arc<Self>, stream: Stream, peer: SocketAddr, stop: &CancellationToken) {
        let peer = canonical(peer);
        let now = Instant::now();
        let (connection, pending) = match self.admit(peer, now) {
            Ok(places) => places,
            Err(reason) => return self.refuse_everywhere(peer, reason, now),
        };
        let (shared, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let visit = Visit { stream, peer, connection, pending };
            tokio::select! {
                () = stop.cancelled() => {}
                () = S::connection(shared, visit) => {}
            }
        });
    }

    /// Takes the places that a connection needs.
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
    pub(in crate::endpoint) connection: ConnectionPlace,
    /// To be dropped when the peer has said what it wants.
    pub(in crate::endpoint) pending: PendingPlace,
}

/// What a connection takes of the port, of its address's share, and of the process, for as long as it is there.
pub(in crate::endpoint) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
    _share: PeerSlot,
    _descriptor: DescriptorPermit,
}

/// What a connection takes beside until it has said what it wants.
pub(in crate::endpoint) struct PendingPlace {
    _permit: OwnedSemaphorePermit,
    _share: PeerSlot,
}
