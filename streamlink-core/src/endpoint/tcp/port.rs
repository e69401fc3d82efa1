//! A TCP port for publishers and players. Any number of sources and outputs share it; the protocol names the route of
//! each connection. One task accepts connections. A connection has a task of its own until its request is complete,
//! and shares a task with others from then on.
//!
//! Limits: the places of the port ([`Places`]). A connection is pending until its request is complete. A pending
//! connection holds at most about 512 KiB, and is closed [`HANDSHAKE_TIMEOUT`] after it was accepted, whatever it has
//! sent.

use super::{
    super::{
        AccessRequest, EngineResources, LossReason, RefusalReason,
        access::UNANSWERED,
        driver::{EndpointLabel, Task},
        listener::{self, AccessGate, ConnectionPlace, PendingPlace, Places, PortProtocol, RouteId, RouteTable},
    },
    End, Service,
    executor::{ConnectionExecutor, PeerRole},
    route::{OpenRoute, Route},
};
use crate::{
    error::Error,
    flow::Allowlist,
    lock::{self, lock},
    net::{self, EpollGroup, SpareDescriptor, Stream, TlsError, TlsErrorKind, TlsServer},
    random::Random,
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    future::ready,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Maximum time from the acceptance of a connection to its request.
pub(in crate::endpoint) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between updates of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time without a failure after which the next one is logged as a new shortage.
const SHORTAGE_END: Duration = Duration::from_secs(10);

/// Handle to a port. The port closes when its last handle is dropped.
pub(in crate::endpoint) type Port<S> = listener::Port<TcpPort<S>>;

/// Open port of a protocol over TCP. Its task and its connections end when it is dropped.
#[derive(Debug)]
pub(in crate::endpoint) struct TcpPort<S: Service> {
    state: Arc<PortState<S>>,
    _stop: DropGuard,
}

/// State shared by a port and its connections.
#[derive(Debug)]
pub(in crate::endpoint) struct PortState<S: Service> {
    routes: Mutex<RouteTable<Arc<OpenRoute<S>>>>,
    tls: Option<TlsServer>,
    pub(in crate::endpoint) random: Random,
    pub(in crate::endpoint) places: Places,
    access: Option<AccessGate>,
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

/// Returns the open port of a protocol at an address, or opens it. Must be called within the runtime. Listeners of one
/// group share a port that the system picks.
///
/// # Errors
/// [`Error::Bind`] if the address cannot be bound, or if the port is open with another choice of TLS.
pub(in crate::endpoint) fn open_port<S: Service>(
    resources: &EngineResources,
    label: &EndpointLabel<'_>,
    address: SocketAddr,
    group: Option<u64>,
    tls: bool,
) -> Result<Arc<Port<S>>, Error> {
    let opened = resources.tls.server(tls).and_then(|server| {
        let port = resources.ports.at(address, group, |address| Port::open(address, server, resources))?;
        if port.is_secure() == tls {
            Ok(port)
        } else {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another flow listens there, with TLS or without"))
        }
    });
    opened.map_err(|cause| label.bind(address, cause))
}

impl<S: Service> Port<S> {
    /// Opens a port, with TLS if `tls` is given. Must be called within the runtime.
    fn open(address: SocketAddr, tls: Option<TlsServer>, resources: &EngineResources) -> io::Result<Arc<Self>> {
        let listener = net::listen(address)?;
        let local = listener.local_addr()?;
        let stop = CancellationToken::new();
        let closed = CancellationToken::new();
        let state = Arc::new(PortState {
            routes: Mutex::default(),
            tls,
            random: resources.random.clone(),
            places: Places::new(resources.peer_limits),
            access: resources.access_hook.clone().map(|hook| AccessGate::new(hook, S::NAME)),
            shortage: Shortage::default(),
            players: ConnectionExecutor::new(PeerRole::Players, stop.clone()),
            publishers: ConnectionExecutor::new(PeerRole::Publishers, stop.clone()),
        });
        let protocol = TcpPort { state: state.clone(), _stop: stop.clone().drop_guard() };
        let port = Self::new(local, protocol, closed.clone());
        tokio::spawn(lock::task(async move {
            state.run(listener, &stop).await; // closes the socket
            closed.cancel();
        }));
        Ok(port)
    }

    /// Returns whether the port speaks TLS.
    pub(in crate::endpoint) fn is_secure(&self) -> bool {
        self.protocol.state.tls.is_some()
    }
}

impl<S: Service> PortProtocol for TcpPort<S> {
    type Route = Route<S>;

    fn add(&self, id: RouteId, route: Route<S>) {
        lock(&self.state.routes).insert(id, OpenRoute::new(route, Instant::now()));
    }

    fn edit(&self, id: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        if let Some(route) = lock(&self.state.routes).get(id) {
            route.edit(allow, max_peers);
        }
    }

    fn kick(&self, id: RouteId, peer: SocketAddr) -> BoxFuture<'static, bool> {
        let found = lock(&self.state.routes).get(id).is_some_and(|route| route.kick(peer));
        Box::pin(ready(found))
    }

    fn remove(&self, id: RouteId) -> Task {
        let route = lock(&self.state.routes).remove(id);
        match route {
            Some(route) => Box::pin(route.close()),
            None => Box::pin(ready(())),
        }
    }
}

impl<S: Service> PortState<S> {
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
                    for route in self.routes() {
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
        for route in self.routes() {
            route.admission.refuse(peer, reason, "", now);
        }
    }

    /// Performs the TLS handshake with a peer, if the port has TLS. One that fails is an attempt that was refused.
    pub(in crate::endpoint) async fn secure(&self, stream: Stream, peer: SocketAddr) -> Result<Stream, End> {
        match stream.secure_accepted(self.tls.as_ref()).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let now = Instant::now();
                self.places.peers.refused(peer.ip(), now);
                if let Some(TlsError { kind, words }) = TlsError::of(&error) {
                    let reason = match kind {
                        TlsErrorKind::Plain => RefusalReason::EncryptionMismatch,
                        TlsErrorKind::Untrusted | TlsErrorKind::Handshake => RefusalReason::Incompatible,
                    };
                    for route in self.routes() {
                        route.admission.refuse(peer, reason, words, now);
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
            self.places.peers.refused(peer.ip(), now);
        }
        match end {
            None => self.refuse_everywhere(peer, RefusalReason::TimedOut, now),
            Some(End::Lost(LossReason::Protocol(what))) => {
                for route in self.routes() {
                    route.admission.refuse(peer, RefusalReason::Incompatible, what, now);
                }
            }
            Some(_) => {}
        }
    }

    /// Returns the routes that a peer may have meant whose request names none: those of its direction, or all if there
    /// are none, as when an encoder publishes to the port of an output.
    pub(in crate::endpoint) fn routes_meant(&self, publish: bool) -> Vec<Arc<OpenRoute<S>>> {
        let mut routes = self.routes();
        if routes.iter().any(|route| route.is_source() == publish) {
            routes.retain(|route| route.is_source() == publish);
        }
        routes
    }

    pub(in crate::endpoint) fn routes(&self) -> Vec<Arc<OpenRoute<S>>> {
        lock(&self.routes).iter().map(|(_, route)| route.clone()).collect()
    }

    /// Starts the task of an accepted connection. A peer that no route admits is closed before any byte is exchanged.
    fn accepted(self: &Arc<Self>, stream: Stream, peer: SocketAddr, stop: &CancellationToken) {
        let peer = canonical(peer);
        let now = Instant::now();
        let (connection, pending) = match self.admit(peer, now) {
            Ok(places) => places,
            Err(reason) => return self.refuse_everywhere(peer, reason, now),
        };
        let state = self.clone();
        let stop = stop.clone();
        tokio::spawn(lock::task(async move {
            let pending = PendingConnection { stream, peer, connection, pending };
            tokio::select! {
                () = stop.cancelled() => {}
                () = S::connection(state, pending) => {}
            }
        }));
    }

    /// Takes the places that a connection needs, or returns the reason for a refusal.
    fn admit(&self, peer: SocketAddr, now: Instant) -> Result<(ConnectionPlace, PendingPlace), RefusalReason> {
        if !lock(&self.routes).admits(peer.ip()) {
            return Err(RefusalReason::NotAllowed);
        }
        if !self.places.peers.may_attempt(peer.ip(), now) {
            return Err(RefusalReason::TooManyAttempts);
        }
        let connection = self.places.take_connection(peer, now)?;
        let pending = self.places.take_pending(peer, now)?;
        let Some(descriptor) = self.places.peers.take_descriptors(peer.ip(), 1) else {
            self.note_shortage("the budget of file descriptors is used up");
            return Err(RefusalReason::OutOfDescriptors);
        };
        Ok((connection.with_descriptor(descriptor), pending))
    }

    /// Returns whether the host admits a peer to a route, if it wants to be asked. Fails with the code of the rejection,
    /// which is counted.
    pub(in crate::endpoint) async fn authorize(
        &self,
        route: &OpenRoute<S>,
        request: impl FnOnce(AccessRequest) -> AccessRequest,
        peer: SocketAddr,
    ) -> Result<(), u32> {
        let Some(gate) = &self.access else { return Ok(()) };
        let question = request(gate.question(&route.admission, peer));
        // The token holds back the removal of the route until the host's code has returned.
        let answer = gate.ask_in_time(question, route.connections.token()).await;
        let now = Instant::now();
        let Some(answer) = answer else {
            route.admission.refuse(peer, RefusalReason::TooManyAttempts, "", now);
            return Err(UNANSWERED);
        };
        let Err(code) = answer else { return Ok(()) };
        self.places.peers.refused(peer.ip(), now);
        route.admission.refuse(peer, RefusalReason::ByHost, "", now);
        Err(code)
    }

    /// Runs a connection after its request, until it ends or the port closes.
    pub(in crate::endpoint) fn run_connection(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.players.run(|_| connection);
    }

    /// Runs the connection of a publisher in the same way. `connection` gets the epoll group of its task, if there is
    /// one.
    pub(in crate::endpoint) fn run_publisher<F>(&self, connection: impl FnOnce(Option<Arc<EpollGroup>>) -> F)
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
