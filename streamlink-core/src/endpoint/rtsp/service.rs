//! The RTSP service of a port: requests of a client, its route, its UDP ports, and its session while it records or
//! plays.

use super::{
    super::{
        AccessRequest, LossReason, RefusalReason, SourceContext,
        tcp::{
            CLOSE_TIMEOUT, End, HANDSHAKE_TIMEOUT, OpenEnd, OpenRoute, PendingConnection, Player, PlayerLimits,
            PlayerPlace, PortState, SendQueue, Service, SubWaker, WritePacing, close_with, send, write_all,
        },
    },
    inbound::SourceSession,
    multicast::{MulticastGroup, MulticastMembership, MulticastSender},
    receive::Receiving,
    start_lines,
    talk::NoStreams,
    udp::UdpTracks,
    wire::Interleaved,
};
use crate::{
    flow::RtspTransport,
    lock::log_handshake,
    media::{rtp::Header, rtsp::Presentation},
    net::Stream,
    proto::rtsp::{Request, ResolvedStream, ServerSession, SetUp, Status, StreamDirectory, User},
    router::{Batch, BatchLayout, CurrentPresentation, Preamble, Ring},
    text::PeerText,
};
use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// Maximum time without a request or a report from a player over UDP. Exceeds the timeout announced to clients.
const SESSION_TIMEOUT: Duration = Duration::from_secs(70);
/// Approximate size of the first read from the ring for a new player, in bytes.
const AT_FIRST: u64 = 256 << 10;
/// Maximum number of reads from the ring in a row for a player over UDP.
const ROUNDS: usize = 8;

/// Protocol marker for RTSP ports.
#[derive(Debug)]
pub(crate) enum Rtsp {}

/// Path of a route, with its credentials, transports and presentation.
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) user: Option<User>,
    pub(crate) transport: RtspTransport,
    /// Over UDP, uses the ports that clients send from instead of those that they name.
    pub(crate) symmetric: bool,
    pub(crate) presentation: Arc<CurrentPresentation>,
    /// Multicast sender, if the output offers multicast.
    pub(crate) multicast: Option<MulticastSender>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Service for Rtsp {
    type Mount = Mount;
    type SourceSession = SourceSession;
    const NAME: &'static str = "RTSP";

    fn inbound(context: SourceContext, now: Instant) -> SourceSession {
        SourceSession::new(context, now)
    }

    async fn connection(port: Arc<PortState<Self>>, pending: PendingConnection) {
        let PendingConnection { stream, peer, connection, pending } = pending;
        let greeting = async {
            let local = stream.local_addr()?.ip();
            let stream = port.secure(stream, peer).await?;
            let (session, udp) = (ServerSession::new(&port.random), UdpTracks::default());
            // Boxed to keep the enclosing futures small.
            let mut client = Box::new(Client { stream, session, udp, place: None, peer, local });
            let request = client.ask(&port).await?;
            Ok::<_, End>((client, request))
        };
        let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)).await;
        drop(pending);
        match asked {
            Ok(Ok((client, request))) => port.clone().take_on(async move {
                serve(&port, client, request).await;
                drop(connection);
            }),
            Ok(Err(end)) => {
                log::debug!("RTSP peer {peer}: {end:?}");
                port.refuse_unasked(peer, Some(&end));
            }
            Err(_) => {
                log::debug!("RTSP peer {peer} did not say what it wants");
                port.refuse_unasked(peer, None);
            }
        }
    }
}

/// Mount reserved at a route for a client with open UDP ports, until the client records or plays.
enum ReservedPlace {
    Publisher(PublisherPlace),
    Player(Arc<OpenRoute<Rtsp>>, PlayerPlace<Rtsp>),
}

impl ReservedPlace {
    /// Reserves the place of a publisher or a player. Returns the reason if none is free.
    fn take(route: &Arc<OpenRoute<Rtsp>>) -> Result<Self, RefusalReason> {
        match &route.end {
            OpenEnd::Source(_) => PublisherPlace::take(route).map(Self::Publisher).ok_or(RefusalReason::InUse),
            OpenEnd::Output(..) => {
                let place = route.reserve().ok_or(RefusalReason::TooManyPeers)?;
                Ok(Self::Player(route.clone(), place))
            }
        }
    }

    /// Returns the token that ends the connection of the client.
    fn stop(&self) -> &CancellationToken {
        match self {
            Self::Publisher(place) => &place.stop,
            Self::Player(route, _) => &route.stop,
        }
    }

    fn route(&self) -> &Arc<OpenRoute<Rtsp>> {
        match self {
            Self::Publisher(place) => &place.route,
            Self::Player(route, _) => route,
        }
    }
}

/// Mount of the only publisher of a source, given back when dropped.
struct PublisherPlace {
    route: Arc<OpenRoute<Rtsp>>,
    inbound: Option<Box<SourceSession>>,
    /// Ends the connection of the publisher.
    stop: CancellationToken,
}

impl PublisherPlace {
    fn take(route: &Arc<OpenRoute<Rtsp>>) -> Option<Self> {
        let (inbound, stop) = route.take_source(Instant::now())?;
        Some(Self { route: route.clone(), inbound: Some(inbound), stop })
    }
}

impl Drop for PublisherPlace {
    fn drop(&mut self) {
        if let Some(taken) = self.inbound.take() {
            self.route.give_back_source(taken);
        }
    }
}

/// Returns the RTSP status of a refusal.
fn status_of(reason: RefusalReason) -> Status {
    match reason {
        RefusalReason::TooManyAttempts => Status::SERVICE_UNAVAILABLE,
        RefusalReason::TooManyPeers | RefusalReason::OutOfDescriptors => Status::NOT_ENOUGH_BANDWIDTH,
        RefusalReason::NoSuchStream => Status::NOT_FOUND,
        _ => Status::FORBIDDEN,
    }
}

/// Returns the RTSP status of a rejection by the host, whose code is an HTTP status plus 1000.
fn status_of_code(code: u32) -> Status {
    match code {
        1401 => Status::UNAUTHORIZED,
        1404 => Status::NOT_FOUND,
        1453 => Status::NOT_ENOUGH_BANDWIDTH,
        1500..=1599 => Status::SERVICE_UNAVAILABLE,
        _ => Status::FORBIDDEN,
    }
}

/// StreamDirectory of a port for the session of one client.
struct PortDirectory<'a> {
    port: &'a PortState<Rtsp>,
    udp: &'a mut UdpTracks,
    place: &'a mut Option<ReservedPlace>,
    /// Route whose publisher was told to leave.
    taken_over: Option<Arc<OpenRoute<Rtsp>>>,
    peer: SocketAddr,
    local: IpAddr,
}

impl PortDirectory<'_> {
    fn route(&self, publish: bool, path: &str) -> Option<Arc<OpenRoute<Rtsp>>> {
        self.port.routes().into_iter().find(|route| route.is_source() == publish && route.mount.path == path)
    }

    /// Reserves a place at a route for the client. UDP ports are opened only for clients with a place.
    fn keep_place(&mut self, route: &Arc<OpenRoute<Rtsp>>) -> Result<(), RefusalReason> {
        if self.place.as_ref().is_some_and(|place| Arc::ptr_eq(place.route(), route)) {
            return Ok(());
        }
        // The reserved place belongs to another route, for example one of the same path that was removed since.
        *self.place = None;
        *self.place = Some(ReservedPlace::take(route)?);
        Ok(())
    }

    fn open_ports(
        &mut self,
        route: &Arc<OpenRoute<Rtsp>>,
        publish: bool,
        track: usize,
        client: (u16, u16),
    ) -> Result<(u16, u16), RefusalReason> {
        self.keep_place(route)?;
        let out = RefusalReason::OutOfDescriptors;
        let permit = self.port.places.peers.take_descriptors(self.peer.ip(), 2).ok_or(out);
        let opened = permit.and_then(|permit| {
            let opened = self.udp.open(&self.port.random, track, self.local, publish, Some(permit));
            opened.map_err(|error| {
                log::debug!("RTSP peer {}: no ports: {error}", self.peer);
                out
            })
        });
        if opened.is_err() {
            self.port.note_shortage("no file descriptors or ports for tracks over UDP");
        }
        let ports = opened?;
        self.udp.set_peer(track, self.peer.ip(), client, None);
        Ok(ports)
    }
}

impl StreamDirectory for PortDirectory<'_> {
    fn find(&mut self, publish: bool, path: &str) -> Result<ResolvedStream, Status> {
        let now = Instant::now();
        let route = self.route(publish, path);
        // A refused request may be a guess. The attempts of an address per second are limited.
        if !self.port.places.peers.may_attempt(self.peer.ip(), now) {
            let reason = RefusalReason::TooManyAttempts;
            match &route {
                Some(route) => route.admission.refuse(self.peer, reason, "", now),
                None => self.port.refuse_everywhere(self.peer, reason, now),
            }
            return Err(status_of(reason));
        }
        let Some(route) = route else {
            self.port.places.peers.refused(self.peer.ip(), now);
            for route in self.port.routes().iter().filter(|route| route.is_source() == publish) {
                route.refuse_request(self.peer, path, RefusalReason::NoSuchStream, now);
            }
            return Err(Status::NOT_FOUND);
        };
        if !route.admission.admits(self.peer.ip()) {
            route.refuse_request(self.peer, path, RefusalReason::NotAllowed, now);
            return Err(Status::FORBIDDEN);
        }
        self.udp.set_symmetric(route.mount.symmetric);
        let presentation = if publish { None } else { route.mount.presentation.current() };
        let group = route.mount.multicast.as_ref().map(|multicast| &multicast.group);
        let ports = |group: &MulticastGroup, track| Some((group.ip(), group.ports(track)?, group.ttl));
        let tracks = 0..presentation.as_ref().map_or(0, |presentation| presentation.tracks().len());
        Ok(ResolvedStream {
            groups: group.into_iter().flat_map(|group| tracks.clone().map_while(|track| ports(group, track))).collect(),
            user: route.mount.user.clone(),
            presentation,
            tcp: route.mount.transport != RtspTransport::Udp,
            udp: route.mount.transport != RtspTransport::Tcp,
        })
    }

    fn not_published(&mut self, path: &str) {
        if let Some(route) = self.route(false, path) {
            route.refuse_request(self.peer, path, RefusalReason::NotPublished, Instant::now());
        }
    }

    fn wrong_password(&mut self, publish: bool, path: &str) {
        let now = Instant::now();
        self.port.places.peers.refused(self.peer.ip(), now);
        if let Some(route) = self.route(publish, path) {
            route.refuse_request(self.peer, path, RefusalReason::WrongPassword, now);
        }
    }

    fn bad_description(&mut self, path: &str, reason: &str) {
        if let Some(route) = self.route(true, path) {
            log::warn!("RTSP publisher {} of `{}`: we refuse its SDP: {reason}", self.peer, PeerText::new(path));
            route.admission.refuse(self.peer, RefusalReason::Incompatible, "", Instant::now());
        }
    }

    fn may_announce(&mut self, path: &str) -> Result<(), Status> {
        let route = self.route(true, path).ok_or(Status::NOT_FOUND)?;
        if !route.is_source() {
            return Err(Status::NOT_FOUND);
        }
        if route.may_publish(Instant::now()) {
            self.taken_over = Some(route);
            return Ok(());
        }
        route.refuse_request(self.peer, path, RefusalReason::InUse, Instant::now());
        Err(status_of(RefusalReason::InUse))
    }

    fn open_udp(&mut self, publish: bool, path: &str, track: usize, client: (u16, u16)) -> Result<(u16, u16), Status> {
        let route = self.route(publish, path).ok_or(Status::NOT_FOUND)?;
        self.open_ports(&route, publish, track, client).map_err(|reason| {
            route.admission.refuse(self.peer, reason, "", Instant::now());
            status_of(reason)
        })
    }
}

/// A connection, its session, and its tracks over UDP.
struct Client {
    stream: Stream,
    session: ServerSession,
    udp: UdpTracks,
    /// Reserved once UDP ports are open.
    place: Option<ReservedPlace>,
    peer: SocketAddr,
    local: IpAddr,
}

impl Client {
    /// Exchanges messages until the client asks to play or record.
    async fn ask(&mut self, port: &PortState<Rtsp>) -> Result<Request, End> {
        loop {
            let peer = self.peer;
            let Self { stream, session, udp, place, .. } = self;
            // UDP ports must not outlive the route for which they were opened.
            let stop = place.as_ref().map(|place| place.stop().clone()).unwrap_or_default();
            let count = tokio::select! {
                () = stop.cancelled() => return Err(End::Stopped),
                count = poll_fn(|cx| stream.poll_read(cx, |bytes| {
                    log_handshake(|| format!("RTSP {peer} says {}", start_lines(bytes)));
                    session.push(bytes);
                })) => count?,
            };
            if count == 0 {
                return Err(End::Lost(LossReason::Closed));
            }
            let (peer, local) = (self.peer, self.local);
            let mut directory = PortDirectory { port, udp, place, taken_over: None, peer, local };
            let request = self.session.next(&mut directory);
            if let Some(route) = directory.taken_over {
                // The response to ANNOUNCE waits until the publisher before has left.
                route.source_is_free().await;
            }
            match request {
                Ok(Some(Request::End)) => {
                    self.answer().await?;
                    return Err(End::Lost(LossReason::Closed));
                }
                Ok(Some(request)) => return Ok(request),
                Ok(None) => self.answer().await?,
                Err(fault) => {
                    let _ = self.answer().await; // sends the responses to earlier requests
                    return Err(fault.into());
                }
            }
        }
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.take_output();
        log_handshake(|| format!("RTSP {} is answered {}", self.peer, start_lines(&bytes)));
        Ok(write_all(&mut self.stream, &bytes).await?)
    }

    /// Refuses the request and closes the connection.
    async fn turn_away(&mut self, status: Status) {
        self.session.refuse(status);
        let answer = self.session.take_output();
        log_handshake(|| format!("RTSP {} is answered {}", self.peer, start_lines(&answer)));
        close_with(&mut self.stream, &answer).await;
    }

    /// Accepts a publisher and receives its media.
    async fn receive(
        &mut self,
        inbound: &mut SourceSession,
        presentation: &Arc<Presentation>,
        stop: &CancellationToken,
    ) -> End {
        inbound.begin(presentation, !self.udp.is_empty());
        self.session.accept(&[]);
        let wire = Interleaved::new(self.session.tracks());
        let Self { stream, session, udp, peer, .. } = self;
        Receiving { stream, session, wire, udp, inbound, peer: *peer, first: None }.run(stop).await
    }

    /// Accepts a player and sends it the media of the flow. `known`: the presentation described to the player.
    async fn play(
        &mut self,
        ring: &Arc<Ring>,
        terms: PlayerLimits,
        known: Option<Arc<Presentation>>,
        player: &Player,
        route: &Arc<OpenRoute<Rtsp>>,
    ) -> End {
        let ended = async {
            tokio::select! {
                biased;
                end = player.ended(&route.stop) => end,
                // The player knows an outdated presentation and has to reconnect.
                () = route.mount.presentation.changed_from(known.as_ref()) => End::Lost(LossReason::Closed),
            }
        };
        if self.is_multicast() {
            let tracks = self.session.tracks().len();
            let membership = route.mount.multicast.as_ref().map(|multicast| multicast.join(route, ring, tracks));
            return match membership {
                Some(Ok(membership)) => self.listen(membership, ended).await,
                Some(Err(error)) => error.into(),
                None => End::Lost(LossReason::Closed),
            };
        }
        let (mut reader, mut window) = (ring.reader_from_start(terms.gop_cache), Vec::new());
        let lost = reader.read_some(AT_FIRST, &mut window).packets;
        self.session.accept(&first_packets(&window, self.session.tracks().len()));
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.answer()).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Lost(LossReason::TooSlow),
        }
        if self.udp.is_empty() {
            let wire = Interleaved::new(self.session.tracks());
            let _interest = wire.layout().map(|layout| ring.layout_interest(layout));
            let mut outbox = SendQueue::new(wire);
            outbox.push_media(lost, &mut window);
            let pace = WritePacing { coalesce: terms.coalesce, slow: terms.slow, bandwidth: terms.bandwidth };
            let end = send(&mut self.stream, &mut self.session, &mut reader, outbox, player, pace, ended).await;
            close_with(&mut self.stream, &[]).await;
            return end;
        }
        let _interest = ring.layout_interest(BatchLayout::Contiguous);
        let mut gate = KeyFrameGate::default();
        gate.give(&mut self.udp, lost, &mut window, player);
        let mut ended = pin!(ended);
        let timer = pin!(tokio::time::sleep(SESSION_TIMEOUT));
        let mut patience = Patience { heard: Instant::now(), timer };
        let mut sub_waker = SubWaker::new();
        let end = loop {
            let Self { stream, session, udp, peer, .. } = self;
            let result = poll_fn(|cx| {
                let rare = sub_waker.poll_if_woken(cx, |cx| {
                    let now = Instant::now();
                    if let Poll::Ready(end) = ended.as_mut().poll(cx) {
                        return Poll::Ready(Err(end));
                    }
                    match stream.poll_read(cx, |bytes| session.push(bytes)) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Lost(LossReason::Closed))),
                        Poll::Ready(Ok(_)) => {
                            patience.heard = now;
                            return Poll::Ready(Ok(()));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                        Poll::Pending => {}
                    }
                    // Receiver reports, and packets that open a path through address translation.
                    udp.poll_reports(cx, peer.ip(), |bytes| {
                        patience.heard = now;
                        session.report(bytes);
                    });
                    player.reported(session.reported_lost());
                    patience.poll_over(cx, now).map(Err)
                });
                if rare.is_ready() {
                    return rare;
                }
                // Limited, so that a flow with constant traffic lets other tasks run.
                for _ in 0..ROUNDS {
                    match ready!(reader.poll_ready(cx)) {
                        Ok(()) => {
                            let lost = reader.read_some(u64::MAX, &mut window).packets;
                            if session.is_paused() {
                                window.clear();
                                gate.lost = true;
                            }
                            gate.give(udp, lost, &mut window, player);
                        }
                        Err(_) => return Poll::Ready(Err(End::Stopped)),
                    }
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            if let Err(end) = self.converse(result).await {
                break end;
            }
        };
        close_with(&mut self.stream, &[]).await;
        end
    }

    /// Handles and answers the client's requests after a read. Returns an error when the session ends.
    async fn converse(&mut self, heard: Result<(), End>) -> Result<(), End> {
        let said = heard.and_then(|()| {
            // Discard interleaved frames, which have no meaning here and must not accumulate.
            while let Some(request) = self.session.next(&mut NoStreams)? {
                if request == Request::End {
                    return Err(End::Lost(LossReason::Closed));
                }
            }
            Ok(())
        });
        let answered = tokio::time::timeout(CLOSE_TIMEOUT, self.answer()).await;
        said?;
        answered.unwrap_or(Err(End::Lost(LossReason::TooSlow)))
    }

    fn is_multicast(&self) -> bool {
        self.session.tracks().contains(&Some(SetUp::Multicast))
    }

    /// Serves the session of a multicast player until it ends.
    async fn listen(&mut self, _seat: Arc<MulticastMembership>, ended: impl Future<Output = End>) -> End {
        self.session.accept(&[]);
        let mut ended = pin!(ended);
        let timer = pin!(tokio::time::sleep(SESSION_TIMEOUT));
        let mut patience = Patience { heard: Instant::now(), timer };
        let mut heard = Ok(());
        let end = loop {
            if let Err(end) = self.converse(heard).await {
                break end;
            }
            let Self { stream, session, .. } = self;
            heard = poll_fn(|cx| {
                if let Poll::Ready(end) = ended.as_mut().poll(cx) {
                    return Poll::Ready(Err(end));
                }
                let now = Instant::now();
                match stream.poll_read(cx, |bytes| session.push(bytes)) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(End::Lost(LossReason::Closed))),
                    Poll::Ready(Ok(_)) => {
                        patience.heard = now;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                    Poll::Pending => patience.poll_over(cx, now).map(Err),
                }
            })
            .await;
        };
        close_with(&mut self.stream, &[]).await;
        end
    }
}

/// Idle timeout of a client.
struct Patience<'a> {
    heard: Instant,
    timer: Pin<&'a mut Sleep>,
}

impl Patience<'_> {
    fn poll_over(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if now.saturating_duration_since(self.heard) >= SESSION_TIMEOUT {
                return Poll::Ready(End::Lost(LossReason::Idle));
            }
            self.timer.as_mut().reset((self.heard + SESSION_TIMEOUT).into());
        }
        Poll::Pending
    }
}

/// Returns the sequence number and timestamp of the first packet of each track, from the first random access point.
fn first_packets(window: &[Arc<Batch>], tracks: usize) -> Vec<Option<(u16, u32)>> {
    let mut first = vec![None; tracks];
    let from_start = window.iter().skip_while(|batch| batch.start().is_none());
    for packet in from_start.flat_map(|batch| batch.packets()) {
        let place = packet.rtsp_track().and_then(|track| first.get_mut(usize::from(track)));
        if let (Some(place @ None), Ok(header)) = (place, Header::parse(packet.data())) {
            *place = Some((header.sequence, header.timestamp));
        }
    }
    first
}

/// Starts a player over UDP at a key frame, and resumes at the next one after a loss.
#[derive(Default)]
pub(super) struct KeyFrameGate {
    begun: bool,
    lost: bool,
    /// Arrival of the first batch that was dropped for want of a key frame.
    waits_since: Option<Instant>,
}

impl KeyFrameGate {
    /// Sends the batches of a window and clears it.
    pub(super) fn give(&mut self, udp: &mut UdpTracks, lost: u64, window: &mut Vec<Arc<Batch>>, player: &Player) {
        let (preamble, skipped) = self.pass(lost, window);
        let (sent, refused) = udp.send(window, preamble.as_deref());
        player.count(sent, refused + lost + skipped);
        window.clear();
    }

    /// Removes batches before the next key frame from a window, if the player has to start or resume. Returns the
    /// preamble for the rest, and the number of packets removed from a player that had started before.
    fn pass(&mut self, lost: u64, window: &mut Vec<Arc<Batch>>) -> (Option<Preamble>, u64) {
        self.lost |= lost > 0;
        if self.begun && !self.lost {
            return (None, 0);
        }
        let mut preamble = None;
        let start = window.iter().position(|batch| {
            preamble = batch.start_after(self.waits_since).cloned();
            self.waits_since = self.waits_since.or(batch.arrival());
            preamble.is_some()
        });
        let skip = start.unwrap_or(window.len());
        let skipped: usize = window.drain(..skip).map(|batch| batch.packets().len()).sum();
        let counts = if self.begun { skipped as u64 } else { 0 };
        if start.is_some() {
            (self.begun, self.lost, self.waits_since) = (true, false, None);
        }
        (preamble, counts)
    }
}

/// Finds the route of a request and serves the client, or refuses it.
async fn serve(port: &PortState<Rtsp>, mut client: Box<Client>, request: Request) {
    let (path, presentation) = match request {
        Request::Publish { path, presentation } => (path, Some(presentation)),
        Request::Play { path } => (path, None),
        Request::Frame { .. } | Request::End => return, // impossible before the session is accepted
    };
    let (now, peer, publish) = (Instant::now(), client.peer, presentation.is_some());
    let tcp = client.session.tracks().iter().any(|t| matches!(t, Some(SetUp::Tcp { .. })));
    let ways = [tcp, !client.udp.is_empty(), client.is_multicast()];
    let mixed = ways.iter().filter(|way| **way).count() > 1;
    let found = port.routes().into_iter().find(|r| r.is_source() == publish && r.mount.path == path);
    let Some(route) = found else { return client.turn_away(Status::NOT_FOUND).await };
    if mixed {
        return client.turn_away(Status::UNSUPPORTED_TRANSPORT).await;
    }
    let counted = route.connections.token();
    let user = route.mount.user.as_ref().map(|user| user.name.clone());
    let with_path = |request: AccessRequest| AccessRequest { path: Some(path), user, ..request };
    if let Err(code) = port.authorize(&route, with_path, peer).await {
        return client.turn_away(status_of_code(code)).await;
    }
    let place = client.place.take().filter(|place| Arc::ptr_eq(place.route(), &route));
    match (&route.end, presentation) {
        (OpenEnd::Source(_), Some(presentation)) => {
            let place = match place {
                Some(ReservedPlace::Publisher(place)) => Some(place),
                _ => PublisherPlace::take(&route),
            };
            let Some(mut place) = place else {
                route.admission.refuse(peer, RefusalReason::InUse, "", now);
                return client.turn_away(Status::FORBIDDEN).await;
            };
            // A change of the allowlist since ANNOUNCE takes effect with the first packet.
            if let Some(inbound) = &mut place.inbound {
                let end = client.receive(inbound, &presentation, &place.stop).await;
                let (end, now, was_live) = (route.publisher_end(end), Instant::now(), inbound.is_live());
                inbound.end(&end, now);
                if !was_live && let End::Lost(reason) = &end {
                    route.admission.report_silent_publisher(reason, peer, now);
                }
            }
        }
        (OpenEnd::Output(ring, terms), None) => {
            let known = route.mount.presentation.current();
            let entered = match place {
                Some(ReservedPlace::Player(_, place)) => Some(route.enter_reserved(place, peer, now)),
                _ => route.enter(peer, now),
            };
            let Some((id, player)) = entered else {
                route.admission.refuse(peer, RefusalReason::TooManyPeers, "", now);
                return client.turn_away(Status::NOT_ENOUGH_BANDWIDTH).await;
            };
            let end = client.play(ring, terms.clone(), known, &player, &route).await;
            let reason = match end {
                End::Stopped => LossReason::Closed,
                End::Lost(reason) => reason,
            };
            route.leave(id, reason, Instant::now());
        }
        _ => {}
    }
    drop(counted);
}
