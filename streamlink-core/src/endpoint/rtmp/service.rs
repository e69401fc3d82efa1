//! The RTMP service of a port: handshake and request of a peer, its route, and the session of a publisher or player.

use super::{
    super::{
        AccessRequest, LossReason, RefusalReason, SourceContext,
        tcp::{
            End, HANDSHAKE_TIMEOUT, OpenMedia, OpenRoute, PendingConnection, Player, PlayerLimits, PortState,
            SendQueue, SendSession, Service, WritePacing, close_with, send, write_all,
        },
    },
    inbound::SourceSlot,
    receive::{ReceiveSession, drain_until_closed, receive},
    wire::RtmpWire,
};
use crate::{
    flow::StreamKey,
    lock::log_handshake,
    net::{EpollGroup, Stream},
    proto::rtmp::{Refusal, Request, ServerSession, StreamPath},
    router::Ring,
    secret::Secret,
};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Maximum time from the end of a peer's stream to its next request on the same connection.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Protocol marker for RTMP ports.
#[derive(Debug)]
pub(crate) enum Rtmp {}

/// Application and stream key of a route.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) app: String,
    pub(crate) key: StreamKey,
}

impl Mount {
    /// Returns whether this is the stream that a peer has asked for.
    fn is(&self, asked: &StreamPath) -> bool {
        asked.is(Secret::from(format!("{}/{}", self.app, self.key.reveal())).reveal())
    }
}

impl Service for Rtmp {
    type Mount = Mount;
    /// Shared with the sink of the connection's reads.
    type SourceSession = Arc<SourceSlot>;
    const NAME: &'static str = "RTMP";

    fn inbound(context: SourceContext, now: Instant) -> Self::SourceSession {
        SourceSlot::new(context, now)
    }

    async fn connection(port: Arc<PortState<Self>>, pending: PendingConnection) {
        let PendingConnection { stream, peer, connection, pending } = pending;
        let greeting = async {
            let stream = port.secure(stream, peer).await?;
            // Boxed to keep the enclosing futures small.
            let mut client =
                Box::new(RequestedConnection { stream, session: ServerSession::new(&port.random), rest: Vec::new() });
            let request = client.ask().await?;
            Ok::<_, End>((client, request))
        };
        let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)).await;
        drop(pending);
        match asked {
            Ok(Ok((client, request @ Request::Publish { .. }))) => {
                port.clone().run_publisher(|epoll_group| async move {
                    match client.grouped(epoll_group) {
                        Ok(client) => serve(&port, client, peer, request).await,
                        Err(error) => log::warn!("RTMP peer {peer}: {error}"), // most likely out of memory
                    }
                    drop(connection);
                })
            }
            Ok(Ok((client, request))) => port.clone().run_connection(async move {
                serve(&port, client, peer, request).await;
                drop(connection);
            }),
            Ok(Err(end)) => {
                log::debug!("RTMP peer {peer}: {end:?}");
                port.refuse_unasked(peer, Some(&end));
            }
            Err(_) => {
                log::debug!("RTMP peer {peer} did not say what it wants");
                port.refuse_unasked(peer, None);
            }
        }
    }
}

/// Serves the streams that a peer asks for, one after the other.
async fn serve(port: &PortState<Rtmp>, client: Box<RequestedConnection>, peer: SocketAddr, request: Request<'_>) {
    let mut next = Some((client, request.into_owned()));
    while let Some((client, request)) = next {
        let Some(mut client) = serve_stream(port, client, peer, request).await else { return };
        // Most peers close the connection now. Some report an error if we close it first.
        let asked = tokio::time::timeout(NEXT_REQUEST_TIMEOUT, client.ask()).await;
        next = match asked {
            Ok(Ok(request)) => Some((client, request)),
            Ok(Err(end)) => {
                log::debug!("RTMP peer {peer}, after a stream: {end:?}");
                None
            }
            Err(_) => None,
        };
    }
}

/// Finds the route of a request and serves the peer, or refuses it. Returns the connection if the peer has ended the
/// stream and may ask for another.
async fn serve_stream(
    port: &PortState<Rtmp>,
    mut client: Box<RequestedConnection>,
    peer: SocketAddr,
    request: Request<'_>,
) -> Option<Box<RequestedConnection>> {
    let (publish, asked) = match request {
        Request::Publish(asked) => (true, asked),
        Request::Play(asked) => (false, asked),
        Request::Media(_) | Request::End => return None, // impossible before the session is accepted
    };
    log_handshake(|| format!("RTMP {peer} asks to {} {asked}", if publish { "publish to" } else { "play" }));
    let now = Instant::now();
    let routes = port.routes();
    // An unknown application or key may be a guess. The attempts of an address per second are limited.
    if !port.places.peers.may_attempt(peer.ip(), now) {
        for route in routes.iter().filter(|route| route.is_source() == publish) {
            route.admission.refuse(peer, RefusalReason::TooManyAttempts, "", now);
        }
        client.turn_away(peer, Refusal::Denied).await;
        return None;
    }
    let found = routes.iter().find(|route| route.is_source() == publish && route.mount.is(&asked));
    let Some(route) = found.cloned() else {
        port.places.peers.refused(peer.ip(), now);
        let detail = format!("asked to {} {asked}", if publish { "publish to" } else { "play" });
        // The intended route is unknown: it is one of the same application, or else any of this direction.
        let meant = port.routes_meant(publish);
        let has_app = |route: &Arc<OpenRoute<Rtmp>>| asked.is_of_app(&route.mount.app);
        let any = meant.iter().any(has_app);
        for route in meant.iter().filter(|route| !any || has_app(route)) {
            let other = match (route.is_source() == publish, publish) {
                (true, _) => "",
                (false, true) => ", and this port has no source",
                (false, false) => ", and this port has no output",
            };
            route.admission.refuse(peer, RefusalReason::NoSuchStream, &format!("{detail}{other}"), now);
        }
        client.turn_away(peer, Refusal::NotFound).await;
        return None;
    };
    drop(routes);
    let counted = route.connections.token();
    if !route.admission.admits(peer.ip()) {
        route.admission.refuse(peer, RefusalReason::NotAllowed, "", now);
        client.turn_away(peer, Refusal::Denied).await;
        return None;
    }
    let with_stream = |request: AccessRequest| {
        let (app, key) = asked.with_parameters(&route.mount.app, route.mount.key.reveal());
        AccessRequest { app: Some(app), key: Some(key), ..request }
    };
    if port.authorize(&route, with_stream, peer).await.is_err() {
        client.turn_away(peer, Refusal::Denied).await;
        return None;
    }
    log_handshake(|| format!("RTMP {peer} is let in to `{}`", route.status().name()));
    let next = match &route.media {
        OpenMedia::Source(_) => {
            if route.may_publish(now) {
                route.wait_until_source_is_free().await;
            }
            let Some((taken, stop)) = route.take_source(Instant::now()) else {
                route.admission.refuse(peer, RefusalReason::InUse, "", now);
                client.turn_away(peer, Refusal::InUse).await;
                return None;
            };
            let (mut stream, session, end) = client.receive(&taken, peer, &stop).await;
            let end = route.publisher_end(end);
            let now = Instant::now();
            let was_live = {
                let mut inbound = taken.lock();
                let was_live = inbound.is_live();
                inbound.end(&end, now);
                was_live
            };
            if !was_live && let End::Lost(reason) = &end {
                route.admission.report_silent_publisher(reason, peer, now);
            }
            route.give_back_source(taken);
            match session {
                Some(session) if matches!(end, End::Lost(LossReason::Closed)) && session.is_between_streams() => {
                    Some(Box::new(RequestedConnection { stream, session, rest: Vec::new() }))
                }
                _ => {
                    drop(counted);
                    drain_until_closed(&mut stream).await;
                    return None;
                }
            }
        }
        OpenMedia::Output(ring, terms) => {
            let Some((id, player)) = route.enter(peer, now) else {
                route.admission.refuse(peer, RefusalReason::TooManyPeers, "", now);
                client.turn_away(peer, Refusal::Denied).await;
                return None;
            };
            let end = client.play(ring, terms.clone(), &player, &route.stop).await;
            let goes_on = matches!(end, End::Lost(LossReason::Closed)) && client.session.is_between_streams();
            let reason = match end {
                End::Stopped => LossReason::Closed,
                End::Lost(reason) => reason,
            };
            route.leave(id, reason, Instant::now());
            goes_on.then_some(client)
        }
    };
    drop(counted);
    next
}

/// A connection, its session, and the bytes received after the request.
struct RequestedConnection {
    stream: Stream,
    session: ServerSession,
    rest: Vec<u8>,
}

impl RequestedConnection {
    /// Exchanges messages until the peer asks to publish or play.
    async fn ask(&mut self) -> Result<Request<'static>, End> {
        // A request may have come with the end of the stream before it.
        let before = self.session.take_rest();
        let mut bytes = &before[..];
        if let Some(request) = self.session.read(&mut bytes)?.map(Request::into_owned) {
            self.rest = bytes.to_vec();
            return Ok(request);
        }
        self.answer().await?;
        loop {
            let mut found = Ok(None);
            let mut rest = Vec::new();
            let Self { stream, session, .. } = self;
            let count = poll_fn(|cx| {
                stream.poll_read(cx, |mut bytes| {
                    session.link().received(bytes.len());
                    found = session.read(&mut bytes).map(|found| found.map(Request::into_owned));
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
            self.stream.request_more();
            self.answer().await?;
        }
    }

    /// Moves the connection into an epoll group, so that it is polled together with others of its task.
    fn grouped(self: Box<Self>, epoll_group: Option<Arc<EpollGroup>>) -> io::Result<Box<Self>> {
        let Self { stream, session, rest } = *self;
        let stream = match epoll_group {
            Some(epoll_group) => stream.grouped(&epoll_group)?,
            None => stream,
        };
        Ok(Box::new(Self { stream, session, rest }))
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.link().take_output();
        Ok(write_all(&mut self.stream, &bytes).await?)
    }

    /// Refuses the request and closes the connection.
    async fn turn_away(&mut self, peer: SocketAddr, refusal: Refusal) {
        log_handshake(|| format!("RTMP {peer} is answered {refusal:?}"));
        self.session.refuse(refusal);
        let answer = self.session.link().take_output();
        close_with(&mut self.stream, &answer).await;
    }

    /// Accepts a publisher and receives its media. Returns the session if it is still good.
    async fn receive(
        self: Box<Self>,
        inbound: &Arc<SourceSlot>,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) -> (Stream, Option<ServerSession>, End) {
        let Self { mut stream, mut session, rest } = *self;
        session.accept();
        let early = {
            let mut inbound = inbound.lock();
            let now = Instant::now();
            inbound.begin(now);
            session.bring(&rest, &mut inbound, now)
        };
        let (end, session) = match early {
            Ok(()) => receive(&mut stream, session, inbound.clone(), peer, stop).await,
            Err(end) => (end, Some(session)),
        };
        (stream, session, end)
    }

    /// Accepts a player and sends it the media of the flow.
    async fn play(&mut self, ring: &Arc<Ring>, terms: PlayerLimits, player: &Player, stop: &CancellationToken) -> End {
        terms.apply_egress(&self.stream, player.peer);
        self.session.accept();
        let early = std::mem::take(&mut self.rest);
        match self.session.on_bytes(&early) {
            Ok(false) => {}
            Ok(true) => {
                return match self.answer().await {
                    Ok(()) => End::Lost(LossReason::Closed),
                    Err(end) => end,
                };
            }
            Err(end) => return end,
        }
        let wire = RtmpWire { framing: self.session.link().framing(), publishes: false };
        let _interest = wire.layout().map(|layout| ring.layout_interest(layout));
        let mut queue = SendQueue::new(wire);
        queue.push_control(self.session.link().take_output());
        let mut reader = ring.reader_from_start(terms.gop_cache);
        let pace = WritePacing { coalesce: terms.coalesce, slow: terms.slow, bandwidth: terms.bandwidth };
        let end = send(&mut self.stream, &mut self.session, &mut reader, queue, player, pace, player.ended(stop)).await;
        drop(reader);
        if matches!(end, End::Stopped) {
            close_with(&mut self.stream, &[]).await;
        }
        end
    }
}
