//! A caller: a task that connects to a server, publishes to it or plays from it, and comes back after a loss.

use super::{
    super::{
        Event, EventSink, LossReason, PlayerStats, SourceContext, Status,
        backoff::{Backoff, report_loss, report_retry},
        tcp::{End, Player, SendQueue, WritePacing, close_with, send, write_all},
    },
    inbound::Entrance,
    receive::receive,
    wire::RtmpWire,
};
use crate::{
    flow::{HostPort, Reconnect, StreamKey},
    lock::lock,
    net::{Egress, Stream, TlsClient},
    proto::rtmp::{ClientEvent, ClientRole, ClientSession, Message},
    random::Random,
    router::{Reader, Ring, State},
};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often statistics are brought up to date.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// What a call is for.
#[derive(Debug)]
pub(crate) enum Direction {
    Play(SourceContext),
    Publish {
        ring: Arc<Ring>,
        chunk_size: usize,
        /// Bytes of the last group of pictures that the server gets at most when a connection is up.
        gop_cache: u64,
        /// Bytes that the kernel may hold for the server.
        send_buffer: usize,
        /// Its place among the destinations of its output.
        leg: usize,
        legs: Arc<Legs>,
    },
}

/// The destinations of one output: which are connected, and what they were sent.
#[derive(Debug)]
pub(crate) struct Legs(Mutex<Vec<Option<PlayerStats>>>);

impl Legs {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![None; count])))
    }

    /// What a destination was sent; `None`: it is not connected.
    fn set(&self, leg: usize, stats: Option<PlayerStats>, status: &Status, now: Instant) {
        let mut legs = lock(&self.0);
        let before = legs.iter().flatten().count();
        if let Some(place) = legs.get_mut(leg) {
            *place = stats;
        }
        let connected: Vec<PlayerStats> = legs.iter().flatten().cloned().collect();
        if (before > 0) == connected.is_empty() {
            status.counters.set_state(if connected.is_empty() { State::Waiting } else { State::Connected }, now);
        }
        status.set_players(connected);
    }
}

/// Runs the calls of one output, all in one task.
pub(crate) async fn run_all(calls: Vec<Call>) {
    let mut running: Vec<_> = calls.into_iter().map(|call| Box::pin(call.run())).collect();
    poll_fn(|cx| {
        running.retain_mut(|call| call.as_mut().poll(cx).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A caller, ready to run.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) remote: HostPort,
    /// RTMPS, and whom to trust.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) app: String,
    /// The address of the application, without the key.
    pub(crate) url: String,
    pub(crate) key: Option<StreamKey>,
    pub(crate) reconnect: Reconnect,
    pub(crate) random: Random,
    pub(crate) connect_timeout: Duration,
    pub(crate) egress: Egress,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) stop: CancellationToken,
    pub(crate) direction: Direction,
}

/// How long a server may not take what it is sent before it is called again.
const SLOW: Duration = Duration::from_secs(10);

impl Call {
    /// Runs until it is stopped.
    pub(crate) async fn run(self) {
        let now = Instant::now();
        self.status.counters.set_state(State::Waiting, now);
        let mut side = match &self.direction {
            Direction::Play(context) => Side::Play(Entrance::new(context.clone(), now)),
            Direction::Publish { ring, .. } => Side::Publish(ring.reader()),
        };
        let mut redial = Backoff::new(self.reconnect, self.random.clone());
        let mut connected_before = false;
        loop {
            let started = Instant::now();
            let end = match self.call().await {
                Ok(mut up) => {
                    redial.connected();
                    match &mut side {
                        Side::Play(inbound) => self.play(up, inbound).await,
                        Side::Publish(reader) => {
                            self.status.counters.reconnections.add(u64::from(connected_before));
                            connected_before = true;
                            let output = self.status.name();
                            self.events.emit(Event::OutputConnected { output, peer: Some(up.peer) });
                            self.publish(&mut up, reader).await
                        }
                    }
                }
                Err(end) => end,
            };
            let now = Instant::now();
            let told = match &mut side {
                Side::Play(inbound) => {
                    let mut inbound = inbound.lock();
                    let live = inbound.is_live();
                    inbound.end(&end, now);
                    live
                }
                Side::Publish(_) => {
                    self.show(None, now);
                    false
                }
            };
            let End::Lost(reason) = end else { return };
            let is_source = matches!(side, Side::Play(_));
            if !told && !redial.repeats() {
                report_loss(&self.events, &self.status, is_source, reason);
            }
            let (attempt, wait) = redial.failed(started, now);
            report_retry(&self.events, &self.status, is_source, attempt, wait);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One attempt.
    async fn call(&self) -> Result<Up, End> {
        let attempt = async {
            let found = tokio::net::lookup_host((self.remote.host(), self.remote.port())).await?.next();
            let peer = found.ok_or_else(|| End::from(io::Error::from(io::ErrorKind::NotFound)))?;
            let stream = Stream::connect(peer, &self.egress).await?;
            let stream = stream.secure_connected(self.remote.host(), self.tls.as_ref()).await?;
            let purpose = match self.direction {
                Direction::Play(_) => ClientRole::Play,
                Direction::Publish { chunk_size, .. } => ClientRole::Publish { chunk_size },
            };
            let session = ClientSession::new(
                purpose,
                &self.app,
                &self.url,
                self.key.as_ref().map(|key| key.secret().clone()).unwrap_or_default(),
                &self.random,
            );
            let mut up = Up { stream, session, peer, early: Vec::new() };
            up.greet().await?;
            Ok(up)
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(End::Stopped),
            result = tokio::time::timeout(self.connect_timeout, attempt) => {
                result.unwrap_or(Err(End::Lost(LossReason::TimedOut)))
            }
        }
    }

    async fn publish(&self, up: &mut Up, reader: &mut Reader) -> End {
        let Direction::Publish { ring, gop_cache, send_buffer, .. } = &self.direction else { return End::Stopped };
        up.stream.limit_send_buffer(*send_buffer);
        // From the last key frame on, if nothing from there was sent before; otherwise from the next.
        let from_start = ring.reader_from_start(*gop_cache);
        let fresh = if from_start.position() >= reader.position() { from_start } else { ring.reader() };
        self.status.counters.dropped.add(fresh.missed_since(reader));
        *reader = fresh;
        let player = Player::new(up.peer, Instant::now());
        let outbox = SendQueue::new(RtmpWire { framing: up.session.link().framing(), publishes: true });
        let pace = WritePacing { coalesce: Duration::ZERO, slow: SLOW };
        let end = {
            let mut sending =
                pin!(send(&mut up.stream, &mut up.session, reader, outbox, &player, pace, player.ended(&self.stop)));
            let mut stats = tokio::time::interval(STATS_INTERVAL);
            loop {
                tokio::select! {
                    end = &mut sending => break end,
                    _ = stats.tick() => self.settle(&player),
                }
            }
        };
        self.settle(&player);
        if matches!(end, End::Stopped) {
            close_with(&mut up.stream, &[]).await;
        }
        end
    }

    fn settle(&self, player: &Player) {
        let now = Instant::now();
        player.settle(&self.status, &self.events, now);
        self.show(Some(player.stats(now)), now);
    }

    /// Shows how a destination is doing.
    fn show(&self, stats: Option<PlayerStats>, now: Instant) {
        if let Direction::Publish { leg, legs, .. } = &self.direction {
            legs.set(*leg, stats, &self.status, now);
        }
    }

    async fn play(&self, up: Up, inbound: &Arc<Entrance>) -> End {
        let Up { mut stream, session, peer, early } = up;
        let taken = {
            let (mut inbound, now) = (inbound.lock(), Instant::now());
            inbound.begin();
            early.into_iter().try_for_each(|message| inbound.take(message, now))
        };
        match taken {
            Ok(()) => receive(&mut stream, session, inbound.clone(), peer, &self.stop).await,
            Err(end) => end,
        }
    }
}

/// What a call keeps from connection to connection.
enum Side {
    Play(Arc<Entrance>),
    Publish(Reader),
}

/// A connection on which the server has agreed.
struct Up {
    stream: Stream,
    session: ClientSession,
    peer: SocketAddr,
    /// Media that came before the server had agreed.
    early: Vec<Message<'static>>,
}

/// Media messages that a server may send before it says that it will, at most.
const MAX_EARLY: usize = 64;

impl Up {
    /// Talks until the server has agreed.
    async fn greet(&mut self) -> Result<(), End> {
        loop {
            self.answer().await?;
            let (mut ready, mut fault) = (false, None);
            let Self { stream, session, early, .. } = self;
            let count = poll_fn(|cx| {
                stream.poll_read(cx, |mut bytes| {
                    session.link().received(bytes.len());
                    loop {
                        match session.read(&mut bytes) {
                            Ok(None) => break,
                            Ok(Some(ClientEvent::Ready)) => ready = true,
                            Ok(Some(ClientEvent::Media(message))) if early.len() < MAX_EARLY => {
                                early.push(message.into_owned());
                            }
                            Ok(Some(ClientEvent::Media(_))) => {}
                            Ok(Some(ClientEvent::Rejected(what))) => fault = Some(LossReason::Rejected(what.into())),
                            Ok(Some(ClientEvent::End)) => fault = Some(LossReason::Closed),
                            Err(error) => {
                                fault = Some(LossReason::Protocol(error.to_string().into()));
                                break;
                            }
                        }
                    }
                })
            })
            .await?;
            match fault {
                Some(reason) => return Err(End::Lost(reason)),
                None if count == 0 => return Err(End::Lost(LossReason::Closed)),
                None if ready => return self.answer().await,
                None => {}
            }
        }
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.link().take_output();
        Ok(write_all(&mut self.stream, &bytes).await?)
    }
}
