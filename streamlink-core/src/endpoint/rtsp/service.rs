//! What clients of an RTSP port want, and how they get it.

use super::{
    super::{
        LossReason, RefusalReason, SourceContext,
        tcp::{
            CLOSE_TIMEOUT, End, HANDSHAKE_TIMEOUT, OpenEnd, OpenRoute, Player, PlayerLimits, SendQueue, Service,
            Shared, SubWaker, Visit, WritePacing, close_with, send, write_all,
        },
    },
    cast::{Cast, MulticastGroup, Seat},
    inbound::Inbound,
    receive::Receiving,
    talk::Nowhere,
    udp::UdpTracks,
    wire::Interleaved,
};
use crate::{
    flow::RtspTransport,
    lock::lock,
    media::{rtp::Header, rtsp::Presentation},
    net::Stream,
    proto::rtsp::{Directory, Found, Request, ServerSession, SetUp, Status, User},
    router::{Batch, BatchLayout, CurrentPresentation, Preamble, Ring},
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

/// After so long without a request or a report, a player over UDP is gone: what clients are told, and a little more.
const SESSION_TIMEOUT: Duration = Duration::from_secs(70);
/// Bytes that a player is sent before it is heard again.
const AT_FIRST: u64 = 256 << 10;
/// Windows that a player over UDP is sent in a row.
const ROUNDS: usize = 8;

/// RTSP, as a port speaks it.
#[derive(Debug)]
pub(crate) enum Rtsp {}

/// A path, who may use it, and what is there.
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) user: Option<User>,
    pub(crate) transport: RtspTransport,
    /// Over UDP, the ports of clients are those that they send from.
    pub(crate) symmetric: bool,
    pub(crate) stage: Arc<CurrentPresentation>,
    /// Where players may hear what is sent to all of them.
    pub(crate) cast: Option<Cast>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Service for Rtsp {
    type Place = Place;
    type Inbound = Inbound;
    const NAME: &'static str = "RTSP";

    fn inbound(context: SourceContext, now: Instant) -> Inbound {
        Inbound::new(context, now)
    }

    #[allow(private_interfaces)]
    async fn connection(shared: Arc<Shared<Self>>, visit: Visit) {
        let Visit { stream, peer, connection, pending } = visit;
        let greeting = async {
            let local = stream.local_addr()?.ip();
            let stream = stream.secure_accepted(shared.tls.as_ref()).await?;
            let (session, udp) = (ServerSession::new(&shared.random), UdpTracks::default());
            // Boxed, as every future that it is handed to would have room for it once more.
            let mut client = Box::new(Client { stream, session, udp, peer, local });
            let request = client.ask(&shared).await?;
            Ok::<_, End>((client, request))
        };
        let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)).await;
        drop(pending);
        match asked {
            Ok(Ok((client, request))) => shared.clone().take_on(async move {
                serve(&shared, client, request).await;
                drop(connection);
            }),
            Ok(Err(end)) => log::debug!("RTSP peer {peer}: {end:?}"),
            Err(_) => log::debug!("RTSP peer {peer} did not say what it wants"),
        }
    }
}

/// What a session may see of its port.
struct House<'a> {
    shared: &'a Shared<Rtsp>,
    udp: &'a mut UdpTracks,
    peer: SocketAddr,
    local: IpAddr,
}

impl Directory for House<'_> {
    fn find(&mut self, publish: bool, path: &str) -> Result<Found, Status> {
        let (routes, now) = (self.shared.all(), Instant::now());
        let Some(route) = routes.iter().find(|r| r.is_source() == publish && r.place.path == path) else {
            for route in routes.iter().filter(|r| r.is_source() == publish) {
                route.refuse(self.peer, RefusalReason::NoSuchStream, now);
            }
            return Err(Status::NOT_FOUND);
        };
        if !route.admits(self.peer.ip()) {
            route.refuse(self.peer, RefusalReason::NotAllowed, now);
            return Err(Status::FORBIDDEN);
        }
        self.udp.set_symmetric(route.place.symmetric);
        let presentation = if publish { None } else { route.place.stage.current() };
        let group = route.place.cast.as_ref().map(|cast| &cast.group);
        let ports = |group: &MulticastGroup, track| Some((group.ip(), group.ports(track)?, group.ttl));
        let tracks = 0..presentation.as_ref().map_or(0, |presentation| presentation.tracks().len());
        Ok(Found {
            groups: group.into_iter().flat_map(|group| tracks.clone().map_while(|track| ports(group, track))).collect(),
            user: route.place.user.clone(),
            presentation,
            tcp: route.place.transport != RtspTransport::Udp,
            udp: route.place.transport != RtspTransport::Tcp,
        })
    }

    fn open_udp(&mut self, publish: bool, track: usize, client: (u16, u16)) -> Option<(u16, u16)> {
        let ports = self.udp.open(&self.shared.random, track, self.local, publish).ok()?;
        self.udp.set_peer(track, self.peer.ip(), client);
        Some(ports)
    }
}

/// A connection, its session, and its tracks over UDP.
struct Client {
    stream: Stream,
    session: ServerSession,
    udp: UdpTracks,
    peer: SocketAddr,
    local: IpAddr,
}

impl Client {
    /// Talks until the client wants to play or record.
    async fn ask(&mut self, shared: &Shared<Rtsp>) -> Result<Request, End> {
        loop {
            let Self { stream, session, .. } = self;
            let count = poll_fn(|cx| stream.poll_read(cx, |bytes| session.push(bytes))).await?;
            if count == 0 {
                return Err(End::Lost(LossReason::Closed));
            }
            let mut house = House { shared, udp: &mut self.udp, peer: self.peer, local: self.local };
            let request = self.session.next(&mut house);
            match request {
                Ok(Some(Request::End)) => {
                    self.answer().await?;
                    return Err(End::Lost(LossReason::Closed));
                }
                Ok(Some(request)) => return Ok(request),
                Ok(None) => self.answer().await?,
                Err(fault) => {
                    let _ = self.answer().await; // what could be answered before
                    return Err(fault.into());
                }
            }
        }
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.take_output();
        Ok(write_all(&mut self.stream, &bytes).await?)
    }

    /// Says no, and closes.
    async fn turn_away(&mut self, status: Status) {
        self.session.refuse(status);
        let answer = self.session.take_output();
        close_with(&mut self.stream, &answer).await;
    }

    /// Takes what a client brings.
    async fn receive(
        &mut self,
        inbound: &mut Inbound,
        presentation: &Arc<Presentation>,
        stop: &CancellationToken,
    ) -> End {
        inbound.begin(presentation, !self.udp.is_empty());
        self.session.accept(&[]);
        let wire = Interleaved::new(self.session.tracks());
        let Self { stream, session, udp, peer, .. } = self;
        Receiving { stream, session, wire, udp, inbound, peer: *peer, first: None }.run(stop).await
    }

    /// Gives a player what the flow brings. `known`: the presentation that it was told of.
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
                // It was told of another presentation: it is to ask again.
                () = route.place.stage.changed_from(known.as_ref()) => End::Lost(LossReason::Closed),
            }
        };
        if self.is_multicast() {
            let tracks = self.session.tracks().len();
            let seat = route.place.cast.as_ref().map(|cast| cast.join(route, ring, tracks));
            return match seat {
                Some(Ok(seat)) => self.listen(seat, ended).await,
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
            self.stream.limit_send_buffer(terms.send_buffer);
            let wire = Interleaved::new(self.session.tracks());
            let _interest = wire.layout().map(|layout| ring.layout_interest(layout));
            let mut outbox = SendQueue::new(wire);
            outbox.push_media(lost, &mut window);
            let pace = WritePacing { coalesce: terms.coalesce, slow: terms.slow };
            let end = send(&mut self.stream, &mut self.session, &mut reader, outbox, player, pace, ended).await;
            close_with(&mut self.stream, &[]).await;
            return end;
        }
        let _interest = ring.layout_interest(BatchLayout::Contiguous);
        let mut gate = Gate::default();
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
                    // Reports of the receiver, and what opens its way through address translation.
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
                // A few times in a row, so that a flow that never rests lets others go on.
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

    /// Answers what was heard, if the session goes on.
    async fn converse(&mut self, heard: Result<(), End>) -> Result<(), End> {
        let said = heard.and_then(|()| {
            // Frames are nothing to those who do not play over the connection, and must not pile up.
            while let Some(request) = self.session.next(&mut Nowhere)? {
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

    /// Keeps a player's session that hears what is sent to a group.
    async fn listen(&mut self, _seat: Arc<Seat>, ended: impl Future<Output = End>) -> End {
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

/// Whether clients that are silent for too long are gone.
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

/// Of each track, the sequence number and the timestamp of the first packet from the first start on.
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

/// Lets a player over UDP begin, and go on after a loss, at a key frame.
#[derive(Default)]
pub(super) struct Gate {
    begun: bool,
    lost: bool,
}

impl Gate {
    /// Sends a window, which comes back empty.
    pub(super) fn give(&mut self, udp: &mut UdpTracks, lost: u64, window: &mut Vec<Arc<Batch>>, player: &Player) {
        let (preamble, skipped) = self.pass(lost, window);
        let (sent, refused) = udp.send(window, preamble.as_deref());
        player.count(sent, refused + lost + skipped);
        window.clear();
    }

    /// Takes out of a window what is of no use; returns what goes before the rest, and how many packets were taken
    /// out of what was already under way.
    fn pass(&mut self, lost: u64, window: &mut Vec<Arc<Batch>>) -> (Option<Preamble>, u64) {
        self.lost |= lost > 0;
        if self.begun && !self.lost {
            return (None, 0);
        }
        let start = window.iter().position(|batch| batch.start().is_some());
        let skip = start.unwrap_or(window.len());
        let skipped: usize = window.drain(..skip).map(|batch| batch.packets().len()).sum();
        let counts = if self.begun { skipped as u64 } else { 0 };
        let preamble = window.first().and_then(|batch| batch.start()).cloned();
        if start.is_some() {
            (self.begun, self.lost) = (true, false);
        }
        (preamble, counts)
    }
}

/// Lets a client have what it wants.
async fn serve(shared: &Shared<Rtsp>, mut client: Box<Client>, request: Request) {
    let (path, presentation) = match request {
        Request::Publish { path, presentation } => (path, Some(presentation)),
        Request::Play { path } => (path, None),
        Request::Frame { .. } | Request::End => return, // never before it was let in
    };
    let (now, peer, publish) = (Instant::now(), client.peer, presentation.is_some());
    let tcp = client.session.tracks().iter().any(|t| matches!(t, Some(SetUp::Tcp { .. })));
    let ways = [tcp, !client.udp.is_empty(), client.is_multicast()];
    let mixed = ways.iter().filter(|way| **way).count() > 1;
    let found = shared.all().into_iter().find(|r| r.is_source() == publish && r.place.path == path);
    let Some(route) = found else { return client.turn_away(Status::NOT_FOUND).await };
    if mixed {
        return client.turn_away(Status::UNSUPPORTED_TRANSPORT).await;
    }
    let counted = route.connections.token();
    match (&route.end, presentation) {
        (OpenEnd::Source(inbound, _), Some(presentation)) => {
            let Some(mut taken) = lock(inbound).take() else {
                route.refuse(peer, RefusalReason::InUse, now);
                return client.turn_away(Status::FORBIDDEN).await;
            };
            // An edit of the allowlist since the announcement is seen with the first packet.
            let end = client.receive(&mut taken, &presentation, &route.stop).await;
            taken.end(&end, Instant::now());
            *lock(inbound) = Some(taken);
        }
        (OpenEnd::Output(ring, terms), None) => {
            let known = route.place.stage.current();
            let Some((id, player)) = route.enter(peer, now) else {
                route.refuse(peer, RefusalReason::TooManyPeers, now);
                return client.turn_away(Status::NOT_ENOUGH_BANDWIDTH).await;
            };
            let end = client.play(ring, *terms, known, &player, &route).await;
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
