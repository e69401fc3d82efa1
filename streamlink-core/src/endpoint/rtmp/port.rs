//! A port that publishers and players connect to, for any number of sources and outputs, which application and key
//! tell apart. A task accepts; each connection has a task of its own.
//!
//! Memory: [`MAX_CONNECTIONS`] connections, of which [`MAX_PENDING`] may not have said yet what they want; those hold
//! at most some 256 KiB each, and are cut off after [`HANDSHAKE_TIMEOUT`].

use super::{
    super::{LossReason, RefusalReason, random},
    End,
    inbound::Inbound,
    outbox::Outbox,
    receive::{Bring, linger, receive, write_all},
    route::{OpenEnd, OpenRoute, PlayTerms, Route, RouteId, lock},
    send::{Pace, Talk, send},
};
use crate::{
    flow::Allowlist,
    net::{self, Stream, TlsServer},
    proto::rtmp::{Refusal, Request, ServerSession},
    router::Ring,
};
use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections of one port at most.
const MAX_CONNECTIONS: usize = 10_000;
/// Connections that may not have said yet what they want.
const MAX_PENDING: usize = 1_024;
/// How long a peer has to say what it wants.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often statistics are brought up to date.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after the system had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A handle to a port. The port closes when its last handle goes.
#[derive(Debug)]
pub(crate) struct Port {
    local: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    routes: Mutex<HashMap<RouteId, Arc<OpenRoute>>>,
    next_route: AtomicU64,
    tls: Option<TlsServer>,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Port {
    /// Opens a port. Must be called within the runtime.
    ///
    /// `tls`: the port speaks RTMPS.
    pub(crate) fn open(address: SocketAddr, tls: Option<TlsServer>) -> io::Result<Arc<Self>> {
        let listener = net::listen(address)?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            routes: Mutex::default(),
            next_route: AtomicU64::new(1),
            tls,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
        });
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
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

    /// Whether it speaks RTMPS.
    pub(crate) fn is_secure(&self) -> bool {
        self.shared.tls.is_some()
    }

    pub(crate) fn add(&self, route: Route) -> RouteId {
        let id = self.shared.next_route.fetch_add(1, Relaxed);
        lock(&self.shared.routes).insert(id, OpenRoute::new(route, Instant::now()));
        id
    }

    pub(crate) fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        if let Some(open) = lock(&self.shared.routes).get(&route) {
            open.edit(allow, max_peers);
        }
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

impl Shared {
    async fn run(self: Arc<Self>, listener: TcpListener, stop: &CancellationToken) {
        let mut stats = tokio::time::interval(STATS_INTERVAL);
        let mut stopped = pin!(stop.cancelled());
        loop {
            tokio::select! {
                () = &mut stopped => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.accepted(Stream::accepted(socket), peer, stop),
                    Err(error) => {
                        log::warn!("RTMP port: {error}"); // too many open files, most likely
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

    fn all(&self) -> Vec<Arc<OpenRoute>> {
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
        let (Ok(connection), Ok(pending)) = permits else {
            return routes.iter().for_each(|route| route.refuse(peer, RefusalReason::TooManyPeers, now));
        };
        let (shared, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let greeting = async {
                let stream = stream.secure_accepted(shared.tls.as_ref()).await?;
                let mut greeted = Greeted { stream, session: ServerSession::new(random), rest: Vec::new() };
                let request = greeted.ask().await?;
                Ok::<_, End>((greeted, request))
            };
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)) => asked,
            };
            drop(pending);
            match asked {
                Ok(Ok((greeted, request))) => Box::pin(shared.serve(greeted, peer, request)).await,
                Ok(Err(end)) => log::debug!("RTMP peer {peer}: {end:?}"),
                Err(_) => log::debug!("RTMP peer {peer} did not say what it wants"),
            }
            drop(connection);
        });
    }

    /// Finds out what a peer came for, and lets it have that.
    async fn serve(&self, mut greeted: Greeted, peer: SocketAddr, request: Request) {
        let (publish, app, key) = match request {
            Request::Publish { app, key } => (true, app, key),
            Request::Play { app, key } => (false, app, key),
            Request::Media(_) | Request::End => return, // never before it was let in
        };
        let now = Instant::now();
        let routes = self.all();
        let found = routes.iter().find(|route| route.is_for(publish, &app, &key));
        let Some(route) = found.cloned() else {
            // Whose guess it was is not known: it is counted where such a peer could have gone.
            for route in routes.iter().filter(|r| r.is_source() == publish) {
                route.refuse(peer, RefusalReason::NoSuchStream, now);
            }
            return greeted.turn_away(Refusal::NotFound).await;
        };
        drop(routes);
        let counted = route.connections.token();
        if !route.admits(peer.ip()) {
            route.refuse(peer, RefusalReason::NotAllowed, now);
            return greeted.turn_away(Refusal::Denied).await;
        }
        match &route.end {
            OpenEnd::Source(inbound) => {
                let Some(mut taken) = lock(inbound).take() else {
                    route.refuse(peer, RefusalReason::InUse, now);
                    return greeted.turn_away(Refusal::InUse).await;
                };
                let end = match taken.admits(peer.ip()) {
                    true => greeted.receive(&mut taken, peer, &route.stop).await,
                    false => {
                        route.refuse(peer, RefusalReason::NotAllowed, now);
                        greeted.turn_away(Refusal::Denied).await;
                        End::Stopped
                    }
                };
                taken.end(&end, Instant::now());
                *lock(inbound) = Some(taken);
                drop(counted);
                linger(&mut greeted.stream).await;
            }
            OpenEnd::Output(ring, terms) => {
                let Some((id, player)) = route.enter(peer, now) else {
                    route.refuse(peer, RefusalReason::TooManyPeers, now);
                    return greeted.turn_away(Refusal::Denied).await;
                };
                let end = greeted.play(ring, *terms, &player, &route.stop).await;
                let reason = match end {
                    End::Stopped => LossReason::Closed,
                    End::Lost(reason) => reason,
                };
                route.leave(id, reason, Instant::now());
            }
        }
    }
}

/// An IPv4 peer of an IPv6 socket is an IPv4 peer.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&peer.ip()), peer.port())
}

/// A connection, its session, and what has come behind what was read of it.
struct Greeted {
    stream: Stream,
    session: ServerSession,
    rest: Vec<u8>,
}

impl Greeted {
    /// Talks until the peer says what it wants.
    async fn ask(&mut self) -> Result<Request, End> {
        loop {
            let (mut found, mut rest) = (Ok(None), Vec::new());
            let Self { stream, session, .. } = self;
            let count = poll_fn(|cx| {
                stream.poll_read(cx, |mut bytes| {
                    session.link().received(bytes.len());
                    found = session.read(&mut bytes);
                    rest = bytes.to_vec();
                })
            })
            .await?;
            if count == 0 {
                return Err(End::Lost(LossReason::Closed));
            }
            let found = found?;
            if let Some(request) = found {
                self.rest = rest;
                return Ok(request);
            }
            self.answer().await?;
        }
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.link().take_output();
        Ok(write_all(&mut self.stream, &bytes).await?)
    }

    /// Says no, and closes.
    async fn turn_away(&mut self, refusal: Refusal) {
        self.session.refuse(refusal);
        let farewell = async {
            let _ = self.answer().await; // it may be gone
            self.stream.shut_down().await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
    }

    /// Takes what a publisher brings.
    async fn receive(&mut self, inbound: &mut Inbound, peer: SocketAddr, stop: &CancellationToken) -> End {
        inbound.begin();
        self.session.accept();
        let early = std::mem::take(&mut self.rest);
        match self.session.bring(&early, inbound, Instant::now()) {
            Ok(()) => receive(&mut self.stream, &mut self.session, inbound, peer, stop).await,
            Err(end) => end,
        }
    }

    /// Gives a player what the flow brings.
    async fn play(
        mut self,
        ring: &Arc<Ring>,
        terms: PlayTerms,
        player: &super::route::Player,
        stop: &CancellationToken,
    ) -> End {
        self.stream.limit_send_buffer(terms.send_buffer);
        self.session.accept();
        let early = std::mem::take(&mut self.rest);
        match self.session.listen(&early) {
            Ok(false) => {}
            Ok(true) => return End::Lost(LossReason::Closed),
            Err(end) => return end,
        }
        let mut outbox = Outbox::new(self.session.link().framing(), false);
        outbox.push_control(self.session.link().take_output());
        let mut reader = ring.reader_from_start(terms.gop_cache);
        let pace = Pace { coalesce: terms.coalesce, slow: terms.slow };
        let end = send(&mut self.stream, &mut self.session, &mut reader, outbox, player, pace, stop).await;
        drop(reader);
        if matches!(end, End::Stopped) {
            self.stream.shut_down().await;
        }
        end
    }
}
