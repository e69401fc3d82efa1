//! RTMP caller: connects to a server, publishes to it or plays from it, and reconnects after a loss.

use super::{
    super::{
        EventSink, FlowBandwidth, LossReason, PlayerStats, Resolver, SourceContext, Status,
        reconnect::{Caller, ConnectionAttempt, ConnectionCount, Outcome, ReconnectLoop},
        tcp::{End, Player, SendQueue, WritePacing, close_with, send},
    },
    connect::{ConnectedClient, Destination},
    inbound::SourceSlot,
    receive::receive,
    wire::RtmpWire,
};
use crate::{
    flow::{Reconnect, RtmpAddress, StreamKey},
    lock::lock,
    net::{Egress, TlsClient},
    proto::rtmp::ClientRole,
    random::Random,
    router::{Reader, Ring},
};
use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Interval between updates of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Direction of the media, with its source or destination in the flow.
#[derive(Debug)]
pub(crate) enum Direction {
    Play(SourceContext),
    Publish {
        ring: Arc<Ring>,
        chunk_size: usize,
        /// Maximum number of bytes of the last group of pictures sent to the server when a connection is up.
        gop_cache: u64,
        /// Bandwidth of the flow, from which the socket's send buffer is sized.
        bandwidth: FlowBandwidth,
        /// Index of this destination in `destinations`.
        leg: usize,
        destinations: Arc<Destinations>,
    },
}

/// Destinations of one output, with the statistics of each. `None`: the destination is not connected.
#[derive(Debug)]
pub(crate) struct Destinations {
    stats: Mutex<Vec<Option<PlayerStats>>>,
    connections: ConnectionCount,
}

impl Destinations {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { stats: Mutex::new(vec![None; count]), connections: ConnectionCount::default() })
    }

    /// Sets the statistics of a destination, or `None` if it is not connected.
    fn set(&self, leg: usize, stats: Option<PlayerStats>, status: &Status) {
        let mut destinations = lock(&self.stats);
        if let Some(place) = destinations.get_mut(leg) {
            *place = stats;
        }
        status.set_players(destinations.iter().flatten().cloned().collect());
    }
}

/// Runs the callers of one output, all in one task.
pub(crate) async fn run_all(calls: Vec<RtmpClient>) {
    let mut running: Vec<_> = calls.into_iter().map(|call| Box::pin(call.run())).collect();
    poll_fn(|cx| {
        running.retain_mut(|call| call.as_mut().poll(cx).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A caller with its settings, ready to run.
#[derive(Debug)]
pub(crate) struct RtmpClient {
    /// Address of the application, without the stream key.
    pub(crate) address: RtmpAddress,
    pub(crate) resolver: Resolver,
    /// TLS configuration with the trusted certificates. `None`: plain RTMP.
    pub(crate) tls: Option<TlsClient>,
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

/// Maximum time for which a server may stop reading before the connection is given up.
const SLOW: Duration = Duration::from_secs(10);

impl RtmpClient {
    /// Connects again and again until it is stopped.
    pub(crate) async fn run(self) {
        let (direction, connections) = match &self.direction {
            Direction::Play(context) => {
                (DirectionState::Play(SourceSlot::new(context.clone(), Instant::now())), ConnectionCount::default())
            }
            Direction::Publish { ring, destinations, .. } => {
                (DirectionState::Publish(ring.reader()), destinations.connections.clone())
            }
        };
        let reconnecting = ReconnectLoop {
            is_source: matches!(direction, DirectionState::Play(_)),
            reconnect: self.reconnect,
            random: self.random.clone(),
            status: self.status.clone(),
            events: self.events.clone(),
            stop: self.stop.clone(),
            connections,
        };
        reconnecting.run(RtmpCaller { client: self, direction }).await;
    }

    /// Makes one attempt to connect, up to the server's consent.
    async fn call(&self, connection: &mut ConnectionAttempt<'_>) -> Result<ConnectedClient, End> {
        let name = self.status.name();
        let destination = Destination {
            endpoint: &name,
            address: &self.address,
            key: self.key.as_ref(),
            resolver: &self.resolver,
            tls: self.tls.as_ref(),
            egress: &self.egress,
            random: &self.random,
            deadline: Instant::now() + self.connect_timeout,
            role: match self.direction {
                Direction::Play(_) => ClientRole::Play,
                Direction::Publish { chunk_size, .. } => ClientRole::Publish { chunk_size },
            },
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(End::Stopped),
            connected = destination.connect(connection) => connected,
        }
    }

    async fn publish(&self, up: &mut ConnectedClient, reader: &mut Reader) -> End {
        let Direction::Publish { ring, gop_cache, bandwidth, .. } = &self.direction else { return End::Stopped };
        // Start at the last key frame, unless media after it was sent on the previous connection. In that case, wait
        // for the next key frame.
        let from_start = ring.reader_from_start(*gop_cache);
        let fresh = if from_start.position() >= reader.position() { from_start } else { ring.reader() };
        self.status.counters.dropped.add(fresh.missed_since(reader));
        *reader = fresh;
        let player = Player::new(up.peer, Instant::now());
        let queue = SendQueue::new(RtmpWire { framing: up.session.link().framing(), publishes: true });
        let pace = WritePacing { coalesce: Duration::ZERO, slow: SLOW, bandwidth: bandwidth.clone() };
        let end = {
            let mut sending =
                pin!(send(&mut up.stream, &mut up.session, reader, queue, &player, pace, player.ended(&self.stop)));
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
        if let Some(event) = player.settle(&self.status, now) {
            self.events.emit(event);
        }
        self.show(Some(player.stats(now)));
    }

    /// Publishes the statistics of this destination. `None`: it is not connected.
    fn show(&self, stats: Option<PlayerStats>) {
        if let Direction::Publish { leg, destinations, .. } = &self.direction {
            destinations.set(*leg, stats, &self.status);
        }
    }

    async fn play(&self, up: ConnectedClient, inbound: &Arc<SourceSlot>) -> End {
        let ConnectedClient { mut stream, session, peer, early } = up;
        let taken = {
            let mut inbound = inbound.lock();
            let now = Instant::now();
            inbound.begin(now);
            early.into_iter().try_for_each(|message| inbound.take(message, now))
        };
        match taken {
            Ok(()) => receive(&mut stream, session, inbound.clone(), peer, &self.stop).await.0,
            Err(end) => end,
        }
    }
}

/// State that a caller keeps from one connection to the next.
enum DirectionState {
    Play(Arc<SourceSlot>),
    Publish(Reader),
}

/// A running caller.
struct RtmpCaller {
    client: RtmpClient,
    direction: DirectionState,
}

impl Caller for RtmpCaller {
    async fn connect_and_run(&mut self, connection: &mut ConnectionAttempt<'_>) -> Outcome {
        let mut up = match self.client.call(connection).await {
            Ok(up) => up,
            Err(end) => return end.into(),
        };
        connection.up(up.peer);
        match &mut self.direction {
            DirectionState::Play(inbound) => self.client.play(up, inbound).await.into(),
            DirectionState::Publish(reader) => self.client.publish(&mut up, reader).await.into(),
        }
    }

    fn end(&mut self, reason: Option<&LossReason>, now: Instant) -> bool {
        match &self.direction {
            DirectionState::Play(inbound) => {
                let mut inbound = inbound.lock();
                let is_live = inbound.is_live();
                inbound.end(&reason.cloned().map_or(End::Stopped, End::Lost), now);
                is_live
            }
            DirectionState::Publish(_) => {
                self.client.show(None);
                false
            }
        }
    }
}
