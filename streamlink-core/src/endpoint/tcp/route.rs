//! Routes of a port: the source or output of each route, its access rules, its players and their statistics.

use super::{
    super::{
        Event, EventSink, FlowBandwidth, LossReason, PlayerStats, RefusalReason, SourceContext, SourceTunables, Status,
        reconnect::lost,
    },
    End, Service,
};
use crate::{
    flow::{Allowlist, Takeover},
    lock::{Guard, lock},
    router::{Ring, SourceGroup, State, Totals},
    text::PeerText,
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
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Identifier of a route within its port.
pub(crate) type RouteId = u64;

/// A source or an output that peers reach through a port.
#[derive(Debug)]
pub(crate) struct Route<S: Service> {
    pub(crate) mount: S::Mount,
    pub(crate) allow: Allowlist,
    pub(crate) max_peers: Option<u32>,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) end: RouteEnd,
}

/// Direction of a route: publishers feed a source, players read from an output.
#[derive(Debug)]
pub(crate) enum RouteEnd {
    Source(SourceContext),
    Output(Arc<Ring>, PlayerLimits),
}

/// Limits and settings for the players of an output.
#[derive(Clone, Debug)]
pub(crate) struct PlayerLimits {
    /// Maximum number of bytes of the last group of pictures sent to a new player. If the group is longer, the player
    /// waits for the next one.
    pub(crate) gop_cache: u64,
    /// Maximum time for which messages are collected into one write.
    pub(crate) coalesce: Duration,
    /// Maximum time for which a player may be behind before it is disconnected.
    pub(crate) slow: Duration,
    /// Bandwidth of the flow, from which the socket's send buffer is sized.
    pub(crate) bandwidth: FlowBandwidth,
}

/// A route of an open port.
#[derive(Debug)]
pub(in crate::endpoint) struct OpenRoute<S: Service> {
    pub(in crate::endpoint) mount: S::Mount,
    pub(in crate::endpoint) status: Arc<Status>,
    pub(in crate::endpoint) events: EventSink,
    pub(in crate::endpoint) end: OpenEnd<S::SourceSession>,
    admission: Mutex<Admission>,
    players: Mutex<Players>,
    refused: Mutex<Refused>,
    /// Ends all connections of the route.
    pub(in crate::endpoint) stop: CancellationToken,
    /// Publisher of a source, with the policy for another one.
    publisher: Publisher,
    /// Tracks the connections of the route until they have ended.
    pub(in crate::endpoint) connections: TaskTracker,
}

#[derive(Debug)]
pub(in crate::endpoint) enum OpenEnd<I> {
    /// State of the source, taken by the connected publisher, and its settings with the allowlist.
    Source(Mutex<Option<Box<I>>>, watch::Receiver<SourceTunables>),
    Output(Arc<Ring>, PlayerLimits),
}

/// Publisher of a source, for those that take its place.
#[derive(Debug)]
struct Publisher {
    takeover: Takeover,
    /// Group of the source, with the time without media after which [`Takeover::Idle`] admits another publisher.
    group: Option<Arc<SourceGroup>>,
    /// Ends the connection of the current publisher.
    stop: Mutex<CancellationToken>,
    /// Notified when the state of the source was given back.
    left: Notify,
}

/// Maximum time for which a publisher that takes over waits until the one before has left.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Refused peers that are not reported yet, and the last of them.
#[derive(Debug)]
struct Refused {
    throttle: Throttle,
    last: Option<(SocketAddr, RefusalReason, PeerText)>,
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
    /// Number of places reserved for future players.
    reserved: usize,
}

/// Place of a player that has not asked for media yet, but for which UDP ports are opened. Given back when dropped.
#[derive(Debug)]
pub(in crate::endpoint) struct PlayerPlace<S: Service>(Arc<OpenRoute<S>>);

impl<S: Service> Drop for PlayerPlace<S> {
    fn drop(&mut self) {
        let mut players = lock(&self.0.players);
        players.reserved = players.reserved.saturating_sub(1);
    }
}

/// State of one player that its connection shares with the route.
#[derive(Debug)]
pub(in crate::endpoint) struct Player {
    pub(in crate::endpoint) peer: SocketAddr,
    since: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    /// Number of lost packets that the player has reported.
    lost: AtomicU64,
    /// Amounts that the counters of the output include already: sent, dropped, lost.
    settled: Mutex<(Totals, u64, u64)>,
    /// Ends the connection of the player.
    expelled: CancellationToken,
    /// Reason for the end: kicked, rather than no longer allowed.
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

    /// Returns the reason for which we have ended the connection.
    fn expulsion(&self) -> LossReason {
        if self.kicked.load(Relaxed) { LossReason::Kicked } else { LossReason::NoLongerAllowed }
    }

    /// Waits until the player's connection is to end.
    pub(in crate::endpoint) async fn ended(&self, stop: &CancellationToken) -> End {
        tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = self.expelled.cancelled() => End::Lost(self.expulsion()),
        }
    }

    /// Adds to the amounts sent and dropped. Called only by the task of the player's connection.
    pub(in crate::endpoint) fn count(&self, sent: Totals, dropped: u64) {
        for (counter, more) in [(&self.packets, sent.packets), (&self.bytes, sent.bytes), (&self.dropped, dropped)] {
            if more > 0 {
                counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
            }
        }
    }

    /// Sets the total of lost packets that the player has reported. Called only by the task of the player's connection.
    pub(in crate::endpoint) fn reported(&self, lost: u64) {
        if lost > self.lost.load(Relaxed) {
            self.lost.store(lost, Relaxed);
        }
    }

    /// Adds the amounts since the last call to the counters of the output. Returns an event if packets were dropped.
    /// Not called concurrently for one output.
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
        let (mut takeover, mut group) = (Takeover::Never, None);
        let end = match route.end {
            RouteEnd::Source(context) => {
                takeover = context.takeover;
                group = Some(context.group.clone());
                let live = context.live.clone();
                OpenEnd::Source(Mutex::new(Some(Box::new(S::inbound(context, now)))), live)
            }
            RouteEnd::Output(ring, terms) => OpenEnd::Output(ring, terms),
        };
        Arc::new(Self {
            mount: route.mount,
            status: route.status,
            events: route.events,
            end,
            admission: Mutex::new(Admission { allow: route.allow, max_peers: route.max_peers }),
            players: Mutex::default(),
            refused: Mutex::new(Refused { throttle: Throttle::new(Duration::from_secs(1)), last: None }),
            stop: CancellationToken::new(),
            publisher: Publisher { takeover, group, stop: Mutex::default(), left: Notify::new() },
            connections: TaskTracker::new(),
        })
    }

    /// Takes the state of the source for a publisher, with the token that ends its connection. `None` if another one
    /// has it.
    pub(in crate::endpoint) fn take_source(&self, now: Instant) -> Option<(Box<S::SourceSession>, CancellationToken)> {
        let OpenEnd::Source(session, _) = &self.end else { return None };
        let taken = lock(session).take()?;
        let stop = self.stop.child_token();
        *lock(&self.publisher.stop) = stop.clone();
        self.status.counters.heard(now);
        Some((taken, stop))
    }

    /// Gives back the state of the source after its publisher has gone.
    pub(in crate::endpoint) fn give_back_source(&self, session: Box<S::SourceSession>) {
        if let OpenEnd::Source(place, _) = &self.end {
            *lock(place) = Some(session);
            self.publisher.left.notify_waiters();
        }
    }

    /// Returns whether a publisher may come in: there is none, or it may be replaced, in which case its connection is
    /// told to end. [`OpenRoute::source_is_free`] waits for that.
    pub(in crate::endpoint) fn may_publish(&self, now: Instant) -> bool {
        let OpenEnd::Source(session, _) = &self.end else { return false };
        if lock(session).is_some() {
            return true;
        }
        let Publisher { takeover, group, stop, .. } = &self.publisher;
        let threshold = group.as_ref().map(|group| group.loss_threshold()).unwrap_or_default();
        let is_replaced = match takeover {
            Takeover::Always => true,
            Takeover::Idle => self.status.counters.silent_for(now) >= threshold,
            _ => false,
        };
        if is_replaced {
            lock(stop).cancel();
        }
        is_replaced
    }

    /// Waits until there is no publisher, for [`TAKEOVER_TIMEOUT`] at most.
    pub(in crate::endpoint) async fn source_is_free(&self) {
        let OpenEnd::Source(session, _) = &self.end else { return };
        let wait = async {
            loop {
                let left = self.publisher.left.notified();
                if lock(session).is_some() {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(TAKEOVER_TIMEOUT, wait).await; // the source is then still in use
    }

    /// Returns the reason for the end of a publisher's connection: one that was told to end while its route goes on was
    /// taken over.
    pub(in crate::endpoint) fn publisher_end(&self, end: End) -> End {
        match end {
            End::Stopped if !self.stop.is_cancelled() => End::Lost(LossReason::TakenOver),
            end => end,
        }
    }

    /// Reports the end of a publisher that has brought no media: its connection was never reported.
    pub(in crate::endpoint) fn report_silent_publisher(&self, end: &End, peer: SocketAddr, now: Instant) {
        if let End::Lost(reason) = end {
            self.status.record_loss(reason, Some(peer), now);
            self.events.emit(lost(&self.status, true, Some(peer), reason.clone()));
        }
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

    /// Changes the allowlist and the maximum number of players. Disconnects players that are no longer on the
    /// allowlist.
    pub(in crate::endpoint) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        for player in lock(&self.players).list.values().filter(|player| !allow.admits(player.peer.ip())) {
            player.expelled.cancel();
        }
        *lock(&self.admission) = Admission { allow, max_peers };
    }

    /// Disconnects the players at an address. Returns whether there were any.
    pub(in crate::endpoint) fn kick(&self, peer: SocketAddr) -> bool {
        let players = lock(&self.players);
        // A multicast group is no peer; it ends with its players.
        let found = players.list.values().filter(|player| player.peer == peer && !peer.ip().is_multicast());
        found.fold(false, |_, player| {
            player.kicked.store(true, Relaxed);
            player.expelled.cancel();
            true
        })
    }

    /// Adds a player, if there is room.
    pub(in crate::endpoint) fn enter(&self, peer: SocketAddr, now: Instant) -> Option<(u64, Arc<Player>)> {
        let players = lock(&self.players);
        self.has_room(&players).then(|| self.take_in(players, peer, now))
    }

    /// Adds a player with a reserved place.
    pub(in crate::endpoint) fn enter_reserved(
        &self,
        place: PlayerPlace<S>,
        peer: SocketAddr,
        now: Instant,
    ) -> (u64, Arc<Player>) {
        let entered = self.take_in(lock(&self.players), peer, now);
        drop(place); // only now, so that no other player takes the place
        entered
    }

    /// Reserves a place for a player, if there is room.
    pub(in crate::endpoint) fn reserve(self: &Arc<Self>) -> Option<PlayerPlace<S>> {
        let mut players = lock(&self.players);
        if !self.has_room(&players) {
            return None;
        }
        players.reserved += 1;
        Some(PlayerPlace(self.clone()))
    }

    /// Adds a multicast group, which does not count towards the maximum number of players.
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
        drop(players); // events are emitted without a lock
        self.events.emit(Event::OutputConnected { output: self.status.name(), peer: Some(peer) });
        (id, player)
    }

    /// Removes a player.
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
        self.status.record_loss(&reason, Some(player.peer), now);
        self.events.emit(Event::OutputLost { output: self.status.name(), peer: Some(player.peer), reason });
    }

    /// Updates the statistics.
    pub(in crate::endpoint) fn settle(&self, now: Instant) {
        self.report_refusals(now, 0);
        if self.is_source() {
            return;
        }
        let mut lagging = None;
        let players = lock(&self.players);
        for player in players.list.values() {
            // The event holds the total of the output, so the last one is sufficient.
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

    /// Counts a refused peer and reports it.
    pub(in crate::endpoint) fn refuse(&self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        self.refuse_with(peer, reason, "", now);
    }

    /// Does the same as [`OpenRoute::refuse`] for a peer that has said what it wants: an application or a path, without
    /// its parameters, which may be secret.
    pub(in crate::endpoint) fn refuse_request(
        &self,
        peer: SocketAddr,
        wanted: Option<&str>,
        reason: RefusalReason,
        now: Instant,
    ) {
        let wanted = wanted.and_then(|wanted| wanted.split(['?', '#']).next());
        let detail = wanted.map(|wanted| format!("{wanted} was asked for")).unwrap_or_default();
        self.refuse_with(peer, reason, &detail, now);
    }

    /// Does the same as [`OpenRoute::refuse`], with details for the event.
    pub(in crate::endpoint) fn refuse_with(&self, peer: SocketAddr, reason: RefusalReason, detail: &str, now: Instant) {
        self.status.counters.refused.add(1);
        lock(&self.refused).last = Some((peer, reason, detail.into()));
        self.report_refusals(now, 1);
    }

    /// Emits an event for refusals, at most one per second.
    fn report_refusals(&self, now: Instant, new: u64) {
        let told = {
            let mut refused = lock(&self.refused);
            let count = refused.throttle.admit(now, new);
            count.zip(refused.last.clone())
        };
        if let Some((count, (peer, reason, detail))) = told {
            self.status.record_refusal(reason, peer, now);
            self.events.emit(Event::PeerRefused { endpoint: self.status.name(), peer, reason, detail, count });
        }
    }
}
