//! The routes of a port: which source or output a peer is for, who may come, and what is counted of it.

use super::{
    super::{Event, EventSink, FlowBandwidth, Live, LossReason, PlayerStats, RefusalReason, SourceContext, Status},
    End, Service,
};
use crate::{
    flow::Allowlist,
    lock::{Guard, lock},
    router::{Ring, State, Totals},
    time::Throttle,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Names a route of a port.
pub(crate) type RouteId = u64;

/// A source or an output that peers of a port are for.
#[derive(Debug)]
pub(crate) struct Route<S: Service> {
    pub(crate) place: S::Place,
    pub(crate) allow: Allowlist,
    pub(crate) max_peers: Option<u32>,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) end: RouteEnd,
}

/// Where the media of a route comes from or goes to.
#[derive(Debug)]
pub(crate) enum RouteEnd {
    Source(SourceContext),
    Output(Arc<Ring>, PlayerLimits),
}

/// How players are served.
#[derive(Clone, Debug)]
pub(crate) struct PlayerLimits {
    /// Bytes of the last group of pictures that a new player gets at most; above, it waits for the next.
    pub(crate) gop_cache: u64,
    /// How long messages may wait for more, so that they are written together.
    pub(crate) coalesce: Duration,
    /// How long a player may be behind before it is cut off.
    pub(crate) slow: Duration,
    /// Sizes what the kernel may hold for a player.
    pub(crate) bandwidth: FlowBandwidth,
}

/// A route of an open port.
#[derive(Debug)]
pub(in crate::endpoint) struct OpenRoute<S: Service> {
    pub(in crate::endpoint) place: S::Place,
    pub(in crate::endpoint) status: Arc<Status>,
    pub(in crate::endpoint) events: EventSink,
    pub(in crate::endpoint) end: OpenEnd<S::Inbound>,
    admission: Mutex<Admission>,
    players: Mutex<Players>,
    refused: Mutex<Refused>,
    /// Ends all its connections.
    pub(in crate::endpoint) stop: CancellationToken,
    /// Knows when they have ended.
    pub(in crate::endpoint) connections: TaskTracker,
}

#[derive(Debug)]
pub(in crate::endpoint) enum OpenEnd<I> {
    /// The publisher that is connected has taken what is in there. Who may be one, the settings of the source say.
    Source(Mutex<Option<Box<I>>>, watch::Receiver<Live>),
    Output(Arc<Ring>, PlayerLimits),
}

/// Peers that were turned away, the last of them, and when that was told.
#[derive(Debug)]
struct Refused {
    throttle: Throttle,
    last: Option<(SocketAddr, RefusalReason)>,
}

#[derive(Debug)]
struct Admission {
    allow: Allowlist,
    max_peers: Option<u32>,
}

#[derive(Debug, Default)]
struct Players {
    list: HashMap<u64, Arc<Player>>,
    next: u64,
    /// Places of players to come.
    reserved: usize,
}

/// The place of a player that has not asked for media yet, but for which descriptors are to be opened.
#[derive(Debug)]
pub(in crate::endpoint) struct PlayerPlace<S: Service>(Arc<OpenRoute<S>>);

impl<S: Service> Drop for PlayerPlace<S> {
    fn drop(&mut self) {
        let mut players = lock(&self.0.players);
        players.reserved = players.reserved.saturating_sub(1);
    }
}

/// One peer that is sent media, as others see it.
#[derive(Debug)]
pub(in crate::endpoint) struct Player {
    pub(in crate::endpoint) peer: SocketAddr,
    since: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    /// What it has reported lost.
    lost: AtomicU64,
    /// What was added to the output's counters already: sent, dropped, lost.
    settled: Mutex<(Totals, u64, u64)>,
    /// Ends the connection.
    expelled: CancellationToken,
    /// Why.
    kicked: AtomicBool,
}

impl Player {
    pub(in crate::endpoint) fn new(peer: SocketAddr, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            peer,
            since: now,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            settled: Mutex::default(),
            expelled: CancellationToken::new(),
            kicked: AtomicBool::new(false),
        })
    }

    /// Why the connection was ended by us.
    fn expulsion(&self) -> LossReason {
        if self.kicked.load(Relaxed) { LossReason::Kicked } else { LossReason::NoLongerAllowed }
    }

    /// Waits until we end its connection.
    pub(in crate::endpoint) async fn ended(&self, stop: &CancellationToken) -> End {
        tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = self.expelled.cancelled() => End::Lost(self.expulsion()),
        }
    }

    /// So much was sent, or left out. Called by its own task alone.
    pub(in crate::endpoint) fn count(&self, sent: Totals, dropped: u64) {
        for (counter, more) in [(&self.packets, sent.packets), (&self.bytes, sent.bytes), (&self.dropped, dropped)] {
            if more > 0 {
                counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
            }
        }
    }

    /// So much it has reported lost in all. Called by its own task alone.
    pub(in crate::endpoint) fn reported(&self, lost: u64) {
        if lost > self.lost.load(Relaxed) {
            self.lost.store(lost, Relaxed);
        }
    }

    /// Adds what is new to the counters of its output, and returns what is to be told of it. Called by one task at a
    /// time for an output.
    #[must_use]
    pub(in crate::endpoint) fn settle(&self, status: &Status, now: Instant) -> Option<Event> {
        let sent = Totals { packets: self.packets.load(Relaxed), bytes: self.bytes.load(Relaxed) };
        let dropped = self.dropped.load(Relaxed);
        let mut settled = lock(&self.settled);
        let lost = self.lost.load(Relaxed);
        let (before, dropped_before, lost_before) = std::mem::replace(&mut *settled, (sent, dropped, lost));
        status.counters.lost.add(lost.saturating_sub(lost_before));
        status.counters.passed(now, sent.packets - before.packets, sent.bytes - before.bytes);
        status.counters.dropped.add(dropped - dropped_before);
        if dropped == dropped_before {
            return None;
        }
        Some(Event::OutputLagging { output: status.name(), dropped: status.counters.dropped.get() })
    }

    pub(in crate::endpoint) fn stats(&self, now: Instant) -> PlayerStats {
        PlayerStats {
            peer: self.peer,
            connected_for: now.saturating_duration_since(self.since),
            bytes: self.bytes.load(Relaxed),
            packets: self.packets.load(Relaxed),
            retransmitted: 0,
            lost: self.lost.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            round_trip: Duration::ZERO,
        }
    }
}

impl<S: Service> OpenRoute<S> {
    pub(in crate::endpoint) fn new(route: Route<S>, now: Instant) -> Arc<Self> {
        let end = match route.end {
            RouteEnd::Source(context) => {
                let live = context.live.clone();
                OpenEnd::Source(Mutex::new(Some(Box::new(S::inbound(context, now)))), live)
            }
            RouteEnd::Output(ring, terms) => OpenEnd::Output(ring, terms),
        };
        Arc::new(Self {
            place: route.place,
            status: route.status,
            events: route.events,
            end,
            admission: Mutex::new(Admission { allow: route.allow, max_peers: route.max_peers }),
            players: Mutex::default(),
            refused: Mutex::new(Refused { throttle: Throttle::new(Duration::from_secs(1)), last: None }),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    pub(in crate::endpoint) fn is_source(&self) -> bool {
        matches!(self.end, OpenEnd::Source(..))
    }

    pub(in crate::endpoint) fn admits(&self, peer: IpAddr) -> bool {
        match &self.end {
            OpenEnd::Source(_, live) => live.borrow().allow.admits(peer),
            OpenEnd::Output(..) => lock(&self.admission).allow.admits(peer),
        }
    }

    /// Changes who may come; who may not any more is cut off.
    pub(in crate::endpoint) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        for player in lock(&self.players).list.values().filter(|player| !allow.admits(player.peer.ip())) {
            player.expelled.cancel();
        }
        *lock(&self.admission) = Admission { allow, max_peers };
    }

    /// Cuts off the players at an address; returns whether there are any.
    pub(in crate::endpoint) fn kick(&self, peer: SocketAddr) -> bool {
        let players = lock(&self.players);
        // A multicast group is there as long as its players are.
        let found = players.list.values().filter(|player| player.peer == peer && !peer.ip().is_multicast());
        found.fold(false, |_, player| {
            player.kicked.store(true, Relaxed);
            player.expelled.cancel();
            true
        })
    }

    /// Takes in a player, if there is room.
    pub(in crate::endpoint) fn enter(&self, peer: SocketAddr, now: Instant) -> Option<(u64, Arc<Player>)> {
        let players = lock(&self.players);
        self.has_room(&players).then(|| self.take_in(players, peer, now))
    }

    /// Takes in a player for whom a place was kept.
    pub(in crate::endpoint) fn enter_reserved(
        &self,
        place: PlayerPlace<S>,
        peer: SocketAddr,
        now: Instant,
    ) -> (u64, Arc<Player>) {
        let entered = self.take_in(lock(&self.players), peer, now);
        drop(place); // not before: nobody else may take it
        entered
    }

    /// Keeps a place for a player, if there is room.
    pub(in crate::endpoint) fn reserve(self: &Arc<Self>) -> Option<PlayerPlace<S>> {
        let mut players = lock(&self.players);
        if !self.has_room(&players) {
            return None;
        }
        players.reserved += 1;
        Some(PlayerPlace(self.clone()))
    }

    /// Takes in a multicast group, of which there is no bound.
    pub(in crate::endpoint) fn enter_group(&self, group: SocketAddr, now: Instant) -> (u64, Arc<Player>) {
        self.take_in(lock(&self.players), group, now)
    }

    fn has_room(&self, players: &Players) -> bool {
        let most = lock(&self.admission).max_peers.map_or(usize::MAX, |n| n as usize);
        let unicast = players.list.values().filter(|player| !player.peer.ip().is_multicast()).count();
        unicast + players.reserved < most
    }

    fn take_in(&self, mut players: Guard<'_, Players>, peer: SocketAddr, now: Instant) -> (u64, Arc<Player>) {
        let player = Player::new(peer, now);
        let id = players.next;
        players.next += 1;
        players.list.insert(id, player.clone());
        self.status.counters.set_state(State::Connected, now);
        drop(players); // an event is told without a lock
        self.events.emit(Event::OutputConnected { output: self.status.name(), peer: Some(peer) });
        (id, player)
    }

    /// Lets a player go.
    pub(in crate::endpoint) fn leave(&self, id: u64, reason: LossReason, now: Instant) {
        let (player, lagging) = {
            let mut players = lock(&self.players);
            let Some(player) = players.list.remove(&id) else { return };
            let lagging = player.settle(&self.status, now);
            if players.list.is_empty() {
                self.status.counters.set_state(State::Waiting, now);
            }
            self.status.set_players(players.list.values().map(|p| p.stats(now)).collect());
            (player, lagging)
        };
        if let Some(event) = lagging {
            self.events.emit(event);
        }
        self.events.emit(Event::OutputLost { output: self.status.name(), peer: Some(player.peer), reason });
    }

    /// Brings the statistics up to date.
    pub(in crate::endpoint) fn settle(&self, now: Instant) {
        self.report_refusals(now, 0);
        if self.is_source() {
            return;
        }
        let mut lagging = None;
        let players = lock(&self.players);
        for player in players.list.values() {
            // The figure is that of the output: the last one is the whole.
            lagging = player.settle(&self.status, now).or(lagging);
        }
        let mut list: Vec<PlayerStats> = players.list.values().map(|player| player.stats(now)).collect();
        list.sort_by_key(|player| std::cmp::Reverse(player.connected_for));
        self.status.set_players(list);
        drop(players);
        if let Some(event) = lagging {
            self.events.emit(event);
        }
    }

    /// Counts a peer that was turned away, and tells of it.
    pub(in crate::endpoint) fn refuse(&self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        self.status.counters.refused.add(1);
        lock(&self.refused).last = Some((peer, reason));
        self.report_refusals(now, 1);
    }

    /// Tells of refusals, unless that was done less than a second ago.
    fn report_refusals(&self, now: Instant, new: u64) {
        let told = {
            let mut refused = lock(&self.refused);
            let count = refused.throttle.admit(now, new);
            count.zip(refused.last)
        };
        if let Some((count, (peer, reason))) = told {
            self.events.emit(Event::PeerRefused { endpoint: self.status.name(), peer, reason, count });
        }
    }
}
