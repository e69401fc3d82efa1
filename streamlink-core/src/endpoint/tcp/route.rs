//! Routes of a port: the source or output of each route, its access rules, its players and their statistics.

use super::{
    super::{
        Event, EventSink, FlowBandwidth, LossReason, PlayerStats, RefusalReason, SourceContext, Status,
        listener::{Admission, HasAdmission},
    },
    End, Player, Service,
};
use crate::{
    flow::Allowlist,
    lock::{Guard, lock},
    net::{Egress, Stream},
    router::{Ring, State},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A source or an output that peers reach through a port.
#[derive(Debug)]
pub(in crate::endpoint) struct Route<S: Service> {
    pub(in crate::endpoint) mount: S::Mount,
    pub(in crate::endpoint) admission: Admission,
    pub(in crate::endpoint) media: RouteMedia,
}

/// Direction of a route: publishers feed a source, players read from an output.
#[derive(Debug)]
pub(in crate::endpoint) enum RouteMedia {
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
    /// Code point and congestion control of the connections.
    pub(crate) egress: Arc<Egress>,
}

impl PlayerLimits {
    /// Applies code point and congestion control to the connection of a player.
    pub(in crate::endpoint) fn apply_egress(&self, stream: &Stream, peer: SocketAddr) {
        if let Err(error) = stream.apply(&self.egress, peer.ip()) {
            // The congestion control was checked when the flow was started, so that this is the system's choice.
            log::warn!("player {peer}: cannot set code point or congestion control: {error}");
        }
    }
}

/// A route of an open port.
#[derive(Debug)]
pub(in crate::endpoint) struct OpenRoute<S: Service> {
    pub(in crate::endpoint) mount: S::Mount,
    pub(in crate::endpoint) admission: Admission,
    pub(in crate::endpoint) media: OpenMedia<S::SourceSession>,
    players: Mutex<Players>,
    /// Ends all connections of the route.
    pub(in crate::endpoint) stop: CancellationToken,
    publisher: Publisher,
    /// Tracks the connections of the route until they have ended.
    pub(in crate::endpoint) connections: TaskTracker,
}

#[derive(Debug)]
pub(in crate::endpoint) enum OpenMedia<I> {
    /// State of the source, taken by the connected publisher.
    Source(Mutex<Option<Box<I>>>),
    Output(Arc<Ring>, PlayerLimits),
}

/// Publisher of a source, for those that take its place.
#[derive(Debug, Default)]
struct Publisher {
    /// Ends the connection of the current publisher.
    stop: Mutex<CancellationToken>,
    /// Notified when the state of the source was given back.
    left: Notify,
}

/// Maximum time for which a publisher that takes over waits until the one before has left.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(3);

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

impl<S: Service> OpenRoute<S> {
    pub(in crate::endpoint) fn new(route: Route<S>, now: Instant) -> Arc<Self> {
        let Route { mount, admission, media } = route;
        let media = match media {
            RouteMedia::Source(context) => OpenMedia::Source(Mutex::new(Some(Box::new(S::inbound(context, now))))),
            RouteMedia::Output(ring, limits) => OpenMedia::Output(ring, limits),
        };
        Arc::new(Self {
            mount,
            admission,
            media,
            players: Mutex::default(),
            stop: CancellationToken::new(),
            publisher: Publisher::default(),
            connections: TaskTracker::new(),
        })
    }

    pub(in crate::endpoint) fn status(&self) -> &Arc<Status> {
        self.admission.status()
    }

    fn events(&self) -> &EventSink {
        self.admission.events()
    }

    /// Takes the state of the source for a publisher, with the token that ends its connection. `None` if another one
    /// has it.
    pub(in crate::endpoint) fn take_source(&self, now: Instant) -> Option<(Box<S::SourceSession>, CancellationToken)> {
        let OpenMedia::Source(session) = &self.media else { return None };
        let taken = lock(session).take()?;
        let stop = self.stop.child_token();
        *lock(&self.publisher.stop) = stop.clone();
        self.status().counters.heard(now);
        Some((taken, stop))
    }

    /// Gives back the state of the source after its publisher has gone.
    pub(in crate::endpoint) fn give_back_source(&self, session: Box<S::SourceSession>) {
        if let OpenMedia::Source(place) = &self.media {
            *lock(place) = Some(session);
            self.publisher.left.notify_waiters();
        }
    }

    /// Returns whether a publisher may come in: there is none, or it may be replaced, in which case its connection is
    /// told to end. [`OpenRoute::wait_until_source_is_free`] waits for that.
    pub(in crate::endpoint) fn may_publish(&self, now: Instant) -> bool {
        let OpenMedia::Source(session) = &self.media else { return false };
        if lock(session).is_some() {
            return true;
        }
        let is_replaced = self.admission.may_take_over(now);
        if is_replaced {
            lock(&self.publisher.stop).cancel();
        }
        is_replaced
    }

    /// Waits until there is no publisher, for [`TAKEOVER_TIMEOUT`] at most.
    pub(in crate::endpoint) async fn wait_until_source_is_free(&self) {
        let OpenMedia::Source(session) = &self.media else { return };
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

    pub(in crate::endpoint) fn is_source(&self) -> bool {
        self.admission.is_source()
    }

    /// Changes the allowlist and the maximum number of players. Disconnects players that are no longer on the
    /// allowlist.
    pub(in crate::endpoint) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        for player in lock(&self.players).list.values().filter(|player| !allow.admits(player.peer.ip())) {
            player.expel();
        }
        self.admission.edit(allow, max_peers);
    }

    /// Disconnects the players at an address. Returns whether there were any.
    pub(in crate::endpoint) fn kick(&self, peer: SocketAddr) -> bool {
        let players = lock(&self.players);
        let mut found = false;
        // A multicast group is no peer; it ends with its players.
        for player in players.list.values().filter(|player| player.peer == peer && !peer.ip().is_multicast()) {
            player.kick();
            found = true;
        }
        found
    }

    /// Ends all connections. The future waits until they have ended and no code of the host runs for them.
    pub(super) fn close(&self) -> impl Future<Output = ()> + Send + use<S> {
        self.stop.cancel();
        self.connections.close();
        let connections = self.connections.clone();
        async move { connections.wait().await }
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
        let unicast = players.list.values().filter(|player| !player.peer.ip().is_multicast()).count();
        unicast + players.reserved < self.admission.max_peers()
    }

    fn take_in(&self, mut players: Guard<'_, Players>, peer: SocketAddr, now: Instant) -> (u64, Arc<Player>) {
        let player = Player::new(peer, now);
        let id = players.next;
        players.next += 1;
        players.list.insert(id, player.clone());
        self.status().counters.set_state(State::Connected, now);
        drop(players); // events are emitted without a lock
        self.events().emit(Event::OutputConnected { output: self.status().name(), peer: Some(peer) });
        (id, player)
    }

    /// Removes a player.
    pub(in crate::endpoint) fn leave(&self, id: u64, reason: LossReason, now: Instant) {
        let (player, lagging) = {
            let mut players = lock(&self.players);
            let Some(player) = players.list.remove(&id) else { return };
            let lagging = player.settle(self.status(), now);
            if players.list.is_empty() {
                self.status().counters.set_state(State::Waiting, now);
            }
            self.status().set_players(players.list.values().map(|p| p.stats(now)).collect());
            (player, lagging)
        };
        if let Some(event) = lagging {
            self.events().emit(event);
        }
        self.status().record_loss(&reason, Some(player.peer), now);
        self.events().emit(Event::OutputLost { output: self.status().name(), peer: Some(player.peer), reason });
    }

    /// Updates the statistics.
    pub(in crate::endpoint) fn settle(&self, now: Instant) {
        self.admission.report_refusals(now);
        if self.is_source() {
            return;
        }
        let mut lagging = None;
        let players = lock(&self.players);
        for player in players.list.values() {
            // The event holds the total of the output, so the last one is sufficient.
            lagging = player.settle(self.status(), now).or(lagging);
        }
        let mut list: Vec<PlayerStats> = players.list.values().map(|player| player.stats(now)).collect();
        list.sort_by_key(|player| std::cmp::Reverse(player.connected_for));
        self.status().set_players(list);
        drop(players);
        if let Some(event) = lagging {
            self.events().emit(event);
        }
    }

    /// Counts a refused peer and reports it. `wanted`: the path that it has asked for, shown without its parameters,
    /// which may be secret. `more`: what is to be said besides, or nothing.
    pub(in crate::endpoint) fn refuse_request(
        &self,
        peer: SocketAddr,
        wanted: &str,
        more: &str,
        reason: RefusalReason,
        now: Instant,
    ) {
        let wanted = wanted.split(['?', '#']).next().unwrap_or_default();
        let detail = format!("{wanted} was asked for{more}");
        self.admission.refuse(peer, reason, &detail, now);
    }
}

/// Returns what is to be said of a peer that publishes to a port of outputs, or plays from one of sources.
pub(in crate::endpoint) fn wrong_direction(publish: bool) -> &'static str {
    if publish { " to publish, and this port has no source" } else { " to play, and this port has no output" }
}

impl<S: Service> HasAdmission for OpenRoute<S> {
    fn admission(&self) -> &Admission {
        &self.admission
    }
}
