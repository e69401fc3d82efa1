//! What peers of an RTMP port want, and how they get it.

use super::{
    super::{
        LossReason, RefusalReason, SourceContext,
        tcp::{
            End, HANDSHAKE_TIMEOUT, OpenEnd, Player, PlayerLimits, SendQueue, SendSession, Service, Shared, Visit,
            WritePacing, close_with, send, write_all,
        },
    },
    inbound::Entrance,
    receive::{Bring, drain_until_closed, receive},
    wire::RtmpWire,
};
use crate::{
    flow::StreamKey,
    lock::lock,
    net::{EpollGroup, Stream},
    proto::rtmp::{Refusal, Request, ServerSession},
    router::Ring,
};
use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

/// RTMP, as a port speaks it.
#[derive(Debug)]
pub(crate) enum Rtmp {}

/// Application and key.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) app: String,
    pub(crate) key: StreamKey,
}

impl Place {
    /// Some put parameters behind the key.
    fn is(&self, app: &str, key: &str) -> bool {
        let bare = key.split_once('?').map_or(key, |(bare, _)| bare);
        let ours = self.key.reveal();
        self.app == app && (same(ours, key) | same(ours, bare))
    }
}

/// Compares keys in a time that tells nothing of where they differ.
fn same(ours: &str, theirs: &str) -> bool {
    let difference = ours.bytes().zip(theirs.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    ours.len() == theirs.len() && difference == 0
}

impl Service for Rtmp {
    type Place = Place;
    /// Shared with whoever takes what is read.
    type Inbound = Arc<Entrance>;
    const NAME: &'static str = "RTMP";

    fn inbound(context: SourceContext, now: Instant) -> Self::Inbound {
        Entrance::new(context, now)
    }

    #[allow(private_interfaces)]
    async fn connection(shared: Arc<Shared<Self>>, visit: Visit) {
        let Visit { stream, peer, connection, pending } = visit;
        let greeting = async {
            let stream = stream.secure_accepted(shared.tls.as_ref()).await?;
            // Boxed, as every future that it is handed to would have room for it once more.
            let mut greeted =
                Box::new(Greeted { stream, session: ServerSession::new(&shared.random), rest: Vec::new() });
            let request = greeted.ask().await?;
            Ok::<_, End>((greeted, request))
        };
        let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)).await;
        drop(pending);
        match asked {
            Ok(Ok((greeted, request @ Request::Publish { .. }))) => {
                shared.clone().take_on_publisher(|epoll_group| async move {
                    match greeted.grouped(epoll_group) {
                        Ok(greeted) => serve(&shared, greeted, peer, request).await,
                        Err(error) => log::warn!("RTMP peer {peer}: {error}"), // the system has no memory, most likely
                    }
                    drop(connection);
                })
            }
            Ok(Ok((greeted, request))) => shared.clone().take_on(async move {
                serve(&shared, greeted, peer, request).await;
                drop(connection);
            }),
            Ok(Err(end)) => log::debug!("RTMP peer {peer}: {end:?}"),
            Err(_) => log::debug!("RTMP peer {peer} did not say what it wants"),
        }
    }
}

/// Finds out what a peer came for, and lets it have that.
async fn serve(shared: &Shared<Rtmp>, mut greeted: Box<Greeted>, peer: SocketAddr, request: Request<'_>) {
    let (publish, app, key) = match request {
        Request::Publish { app, key } => (true, app, key),
        Request::Play { app, key } => (false, app, key),
        Request::Media(_) | Request::End => return, // never before it was let in
    };
    let now = Instant::now();
    let routes = shared.all();
    let found = routes.iter().find(|route| route.is_source() == publish && route.place.is(&app, key.reveal()));
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
        OpenEnd::Source(inbound, _) => {
            let Some(taken) = lock(inbound).take() else {
                route.refuse(peer, RefusalReason::InUse, now);
                return greeted.turn_away(Refusal::InUse).await;
            };
            let (mut stream, end) = greeted.receive(&taken, peer, &route.stop).await;
            taken.lock().end(&end, Instant::now());
            *lock(inbound) = Some(taken);
            drop(counted);
            drain_until_closed(&mut stream).await;
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

/// A connection, its session, and what has come behind what was read of it.
struct Greeted {
    stream: Stream,
    session: ServerSession,
    rest: Vec<u8>,
}

impl Greeted {
    /// Talks until the peer says what it wants.
    async fn ask(&mut self) -> Result<Request<'static>, End> {
        loop {
            let (mut found, mut rest) = (Ok(None), Vec::new());
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

    /// Has the connection read together with others of its task.
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

    /// Says no, and closes.
    async fn turn_away(&mut self, refusal: Refusal) {
        self.session.refuse(refusal);
        let answer = self.session.link().take_output();
        close_with(&mut self.stream, &answer).await;
    }

    /// Takes what a publisher brings.
    async fn receive(
        self: Box<Self>,
        inbound: &Arc<Entrance>,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) -> (Stream, End) {
        let Self { mut stream, mut session, rest } = *self;
        session.accept();
        let early = {
            let mut inbound = inbound.lock();
            inbound.begin();
            session.bring(&rest, &mut inbound, Instant::now())
        };
        let end = match early {
            Ok(()) => receive(&mut stream, session, inbound.clone(), peer, stop).await,
            Err(end) => end,
        };
        (stream, end)
    }

    /// Gives a player what the flow brings.
    async fn play(&mut self, ring: &Arc<Ring>, terms: PlayerLimits, player: &Player, stop: &CancellationToken) -> End {
        self.stream.limit_send_buffer(terms.send_buffer);
        self.session.accept();
        let early = std::mem::take(&mut self.rest);
        match self.session.on_bytes(&early) {
            Ok(false) => {}
            Ok(true) => return End::Lost(LossReason::Closed),
            Err(end) => return end,
        }
        let wire = RtmpWire { framing: self.session.link().framing(), publishes: false };
        let _interest = wire.layout().map(|layout| ring.layout_interest(layout));
        let mut outbox = SendQueue::new(wire);
        outbox.push_control(self.session.link().take_output());
        let mut reader = ring.reader_from_start(terms.gop_cache);
        let pace = WritePacing { coalesce: terms.coalesce, slow: terms.slow };
        let end =
            send(&mut self.stream, &mut self.session, &mut reader, outbox, player, pace, player.ended(stop)).await;
        drop(reader);
        if matches!(end, End::Stopped) {
            close_with(&mut self.stream, &[]).await;
        }
        end
    }
}
