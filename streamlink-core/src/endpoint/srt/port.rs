//! SRT port: one UDP socket and one task for any number of connections to any number of sources and outputs, which are
//! told apart by their stream ids.
//!
//! Admission of callers is in `admission`. Memory: at most 10 000 connections, each bounded by its terms, and the
//! undecided attempts.

use super::{
    super::{
        AccessHook, Event, LossReason, PlayerStats, ingest::Verdict, listener::PeerRegistry, reconnect::lost,
        sleep_until,
    },
    attempts::Attempts,
    linked::Linked,
    route::{OpenRoute, Route, RouteEnd, RouteId},
};
use crate::{
    flow::{Allowlist, PeerLimits},
    lock,
    media::Packet as MediaPacket,
    net::{Peer, Received, Receiver, Sender, UdpOptions, UdpSocket},
    proto::srt::{Control, Listener, Packet, Transmit, destination},
    random::Random,
    router::{Batch, State},
    time::Throttle,
};
use futures_util::FutureExt;
use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::{
    mpsc::{self, error::SendError},
    oneshot,
};
use tokio_util::sync::CancellationToken;

/// Maximum number of datagrams handled in one turn of the task.
const MAX_BATCH: usize = 512;
/// Requested size of the socket buffers, in bytes.
const SOCKET_BUFFER: usize = 8 << 20;
/// Pause between two reads of the socket. Acknowledgements and media gather meanwhile, and cost less together.
const READ_PAUSE: Duration = Duration::from_millis(1);
/// Time without a packet of a peer after which it may go on from another port of its address. Peers send something at
/// least once a second.
const REBIND_SILENCE: Duration = Duration::from_millis(1500);
/// Interval of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

enum Command {
    Add(RouteId, Box<Route>),
    Remove(RouteId, oneshot::Sender<()>),
    Edit(RouteId, Allowlist, Option<u32>),
    Kick(RouteId, SocketAddr, oneshot::Sender<bool>),
    #[cfg(test)]
    Panic,
}

/// Handle to a port. The port closes when its last handle is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    local: SocketAddr,
    commands: mpsc::UnboundedSender<Command>,
    next_route: AtomicU64,
    ended: CancellationToken,
}

impl Port {
    /// Opens a port. Must be called within the runtime.
    pub(crate) fn open(
        address: SocketAddr,
        access_hook: Option<AccessHook>,
        limits: PeerLimits,
        random: Random,
    ) -> io::Result<Arc<Self>> {
        let options = UdpOptions {
            receive_buffer: Some(SOCKET_BUFFER),
            send_buffer: Some(SOCKET_BUFFER),
            ..UdpOptions::default()
        };
        let socket = UdpSocket::receiving(address, &options)?;
        let (commands, mut receiver) = mpsc::unbounded_channel();
        let local = socket.local_addr();
        let mut task = PortTask::new(socket, random, access_hook, PeerRegistry::new(limits));
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        tokio::spawn(lock::task(async move {
            let result = AssertUnwindSafe(task.run(&mut receiver)).catch_unwind().await;
            if let Err(panic) = result {
                task.fail(&mut receiver, &*panic);
            }
            drop(task); // closes the socket
            drop(end); // the drop guard also fires if the task is aborted
        }));
        Ok(Arc::new(Self { local, commands, next_route: AtomicU64::new(1), ended }))
    }

    /// Drops a handle. Waits until the socket is closed if it was the last one.
    pub(crate) async fn release(self: Arc<Self>) {
        let ended = self.ended.clone();
        if Arc::into_inner(self).is_some() {
            ended.cancelled().await;
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn add(&self, route: Route) -> RouteId {
        let id = self.next_route.fetch_add(1, Ordering::Relaxed);
        if let Err(SendError(Command::Add(_, route))) = self.commands.send(Command::Add(id, Box::new(route))) {
            route.fail("the SRT port has failed", Instant::now());
        }
        id
    }

    pub(crate) fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        let _ = self.commands.send(Command::Edit(route, allow, max_peers));
    }

    /// Disconnects the callers of a route at an address. Returns whether there were any.
    pub(crate) async fn kick(&self, route: RouteId, peer: SocketAddr) -> bool {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Kick(route, peer, done));
        wait.await.unwrap_or(false)
    }

    /// Removes a route, before any command that is sent later. The future completes when shutdown packets have been
    /// sent to its callers.
    pub(crate) fn remove(&self, route: RouteId) -> impl Future<Output = ()> + Send + use<> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Remove(route, done));
        async move {
            let _ = wait.await; // a port that has ended has no routes
        }
    }
}

pub(super) struct PortTask {
    pub(super) socket: UdpSocket,
    memory: Receiver,
    pub(super) listener: Listener,
    pub(super) random: Random,
    pub(super) sender: Sender,
    pub(super) access_hook: Option<AccessHook>,
    pub(super) peers: Arc<PeerRegistry>,
    pub(super) routes: HashMap<RouteId, OpenRoute>,
    pub(super) links: HashMap<u32, Linked>,
    /// Local socket id for each peer address and peer socket id. It finds the connection of a repeated handshake.
    pub(super) by_peer: HashMap<(SocketAddr, u32), u32>,
    pub(super) attempts: Attempts,
    /// Limits the log messages about calls of the access hook that took too long.
    pub(super) unanswered: Throttle,
    /// Removed routes for whose callers the access hook is still running.
    leaving: Vec<(RouteId, oneshot::Sender<()>)>,
    timers: BTreeSet<(Instant, u32)>,
    scratch: Vec<Transmit>,
    window: Vec<Arc<Batch>>,
    inbox: Vec<Received>,
    next_stats: Instant,
    next_read: Instant,
}

impl PortTask {
    fn new(socket: UdpSocket, random: Random, access_hook: Option<AccessHook>, peers: Arc<PeerRegistry>) -> Self {
        let now = Instant::now();
        Self {
            sender: Sender::new(&socket),
            memory: Receiver::new(u64::MAX),
            listener: Listener::new(random.bytes(), now),
            random,
            attempts: Attempts::new(access_hook.as_ref()),
            access_hook,
            peers,
            routes: HashMap::new(),
            links: HashMap::new(),
            by_peer: HashMap::new(),
            unanswered: Throttle::new(Duration::from_secs(1)),
            leaving: Vec::new(),
            timers: BTreeSet::new(),
            scratch: Vec::new(),
            window: Vec::new(),
            inbox: Vec::new(),
            next_stats: now + STATS_INTERVAL,
            next_read: now,
            socket,
        }
    }

    /// Fails all sources and outputs after a panic.
    fn fail(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>, panic: &(dyn Any + Send)) {
        let texts = (panic.downcast_ref::<&str>().copied(), panic.downcast_ref::<String>().map(String::as_str));
        let why = format!("the task of an SRT port panicked: {}", texts.0.or(texts.1).unwrap_or("for no reason given"));
        log::error!("SRT port {}: {why}", self.socket.local_addr());
        commands.close();
        let mut routes: Vec<Route> = self.routes.drain().map(|(_, open)| open.route).collect();
        while let Ok(command) = commands.try_recv() {
            if let Command::Add(_, route) = command {
                routes.push(*route);
            }
        }
        let now = Instant::now();
        for route in routes {
            // This may panic again for the same cause; the other routes must be failed all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| route.fail(&why, now)));
        }
    }

    async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        loop {
            let first = self.timers.first().map(|(at, _)| *at);
            let may_read = Instant::now() >= self.next_read;
            let pause = (!may_read).then_some(self.next_read);
            let overdue = self.attempts.next_timeout();
            let deadline = first.into_iter().chain(pause).chain(overdue).fold(self.next_stats, Instant::min);
            let routes = &mut self.routes;
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                route = poll_fn(|cx| poll_outputs(routes, cx)) => self.fan_out(route),
                outcome = self.attempts.next() => self.decide(outcome, Instant::now()),
                result = self.socket.drain(&mut self.memory, MAX_BATCH, |datagram| self.inbox.push(datagram)), if may_read => {
                    if let Err(error) = result {
                        log::debug!("SRT port {}: {error}", self.socket.local_addr());
                    }
                    let mut inbox = std::mem::take(&mut self.inbox);
                    let mut touched = Vec::new();
                    let now = Instant::now();
                    self.next_read = now + READ_PAUSE;
                    for datagram in inbox.drain(..) {
                        if let Some(id) = self.datagram(datagram, now)
                            && touched.last() != Some(&id)
                        {
                            touched.push(id);
                        }
                    }
                    self.inbox = inbox;
                    touched.sort_unstable();
                    touched.dedup();
                    touched.into_iter().for_each(|id| self.attend(id, now));
                    self.publish(now);
                }
                () = sleep_until(Some(deadline)) => self.timeouts(Instant::now()),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add(id, route) => {
                self.routes.insert(id, OpenRoute::new(*route, now));
            }
            Command::Remove(id, done) => {
                // Sends the rest of an output's media first.
                self.fan_out(id);
                let links = self.routes.get(&id).map(|open| open.links.clone()).unwrap_or_default();
                links.into_iter().for_each(|link| self.close(link, LossReason::Closed, now));
                self.routes.remove(&id);
                self.attempts.remove_route(id);
                self.leaving.push((id, done));
                self.let_go();
            }
            Command::Edit(id, allow, max_peers) => {
                if let Some(open) = self.routes.get_mut(&id) {
                    open.route.max_peers = max_peers;
                    open.route.allow = allow;
                }
                self.expel(id, now);
            }
            Command::Kick(id, peer, done) => {
                let links = self.routes.get(&id).map(|open| open.links.clone()).unwrap_or_default();
                let at = |id: &u32| self.links.get(id).is_some_and(|linked| linked.peer == peer);
                let gone: Vec<u32> = links.into_iter().filter(at).collect();
                let _ = done.send(!gone.is_empty());
                gone.into_iter().for_each(|id| self.close(id, LossReason::Kicked, now));
            }
            #[cfg(test)]
            Command::Panic => std::panic::resume_unwind(Box::new("a test wants it")),
        }
    }

    /// Completes the removal of routes for whose callers the access hook no longer runs. The host may free what the
    /// hook uses after a removal.
    pub(super) fn let_go(&mut self) {
        for (route, done) in std::mem::take(&mut self.leaving) {
            if self.attempts.is_asking(route) {
                self.leaving.push((route, done));
            } else {
                let _ = done.send(());
            }
        }
    }

    /// Closes the connections that the allowlist no longer admits.
    fn expel(&mut self, route: RouteId, now: Instant) {
        let Some(open) = self.routes.get(&route) else { return };
        let admitted = |id: &u32| self.links.get(id).is_some_and(|linked| open.route.allow.admits(linked.peer.ip()));
        let gone: Vec<u32> = open.links.iter().filter(|id| !admitted(id)).copied().collect();
        gone.into_iter().for_each(|id| self.close(id, LossReason::NoLongerAllowed, now));
    }

    /// Applies the bandwidth of a route's flow to its connections, if it has changed.
    pub(super) fn refresh_rates(&mut self, route: RouteId) {
        let Some(open) = self.routes.get_mut(&route) else { return };
        let Some(rates) = open.refresh_rates() else { return };
        for id in &open.links {
            if let Some(linked) = self.links.get_mut(id) {
                linked.link.connection.set_rates(rates.buffer, rates.pacing);
            }
        }
    }

    /// Queues the new media of an output on all its connections.
    fn fan_out(&mut self, route: RouteId) {
        self.refresh_rates(route);
        let Some(open) = self.routes.get_mut(&route) else { return };
        let RouteEnd::Output(reader) = &mut open.route.end else { return };
        self.window.clear();
        let lost = reader.read(&mut self.window);
        let now = Instant::now();
        if lost.packets > 0 && !open.links.is_empty() {
            open.dropped(lost.packets, now);
        }
        // `attend` may close a connection, which changes the list.
        for id in open.links.clone() {
            if let Some(linked) = self.links.get_mut(&id) {
                for packet in self.window.iter().flat_map(|batch| batch.packets()) {
                    linked.link.connection.push(packet.data(), now);
                }
            }
            self.attend(id, now);
        }
        self.window.clear();
    }

    /// Handles one datagram. Returns the id of its connection, if that has to be attended to.
    fn datagram(&mut self, datagram: Received, now: Instant) -> Option<u32> {
        let Received { data, peer, arrival } = datagram;
        let id = destination(&data)?;
        if id != 0 {
            let packet = Packet::parse(&data)?;
            if self.links.get(&id)?.peer != peer && !self.follow(id, peer, now) {
                return None; // forged, or from an old connection
            }
            let linked = self.links.get_mut(&id)?;
            if let Packet::Control { control: Control::Handshake(body), .. } = packet {
                self.handshake_of(id, body, peer, now);
                return None;
            }
            linked.link.connection.handle(&packet, &data, arrival.min(now));
            return Some(id);
        }
        let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) = Packet::parse(&data) else {
            return None;
        };
        self.handshake(body, timestamp, peer, now);
        None
    }

    /// Follows a peer to another port of its address, where a NAT router has moved it. Returns whether that is so: nothing
    /// came from the port before for some time.
    fn follow(&mut self, id: u32, peer: SocketAddr, now: Instant) -> bool {
        let Some(linked) = self.links.get_mut(&id) else { return false };
        if linked.peer.ip() != peer.ip() || linked.link.connection.unheard_for(now) < REBIND_SILENCE {
            return false;
        }
        log::info!("SRT port {}: {} has become {peer}", self.socket.local_addr(), linked.peer);
        self.by_peer.remove(&(linked.peer, linked.peer_id));
        self.by_peer.insert((peer, linked.peer_id), id);
        linked.peer = peer;
        linked.link.redirect(Peer::new(peer, self.socket.local_addr()));
        true
    }

    /// Runs the timers of a connection, hands its payloads to the flow, sends its packets and schedules its next
    /// timeout.
    pub(super) fn attend(&mut self, id: u32, now: Instant) {
        let Some(linked) = self.links.get_mut(&id) else { return };
        linked.link.connection.handle_timeout(now);
        if let Some(ingest) = self.routes.get_mut(&linked.route).and_then(|open| open.ingest.as_mut()) {
            while let Some(payload) = linked.link.connection.poll_payload(now) {
                match ingest.admit(now, payload.len()) {
                    Verdict::Pass => ingest.out.packets.push(MediaPacket::datagram(payload, now)),
                    Verdict::Drop => {}
                    Verdict::Disconnect => return self.close(id, LossReason::BandwidthExceeded, now),
                }
            }
        } else {
            while linked.link.connection.poll_payload(now).is_some() {} // no payloads, only detects the end
        }
        linked.link.flush(&self.socket, &mut self.scratch, now);
        if let Some(reason) = linked.link.loss() {
            return self.close(id, reason, now);
        }
        let next = linked.link.connection.next_timeout();
        if next != linked.scheduled {
            if let Some(old) = linked.scheduled {
                self.timers.remove(&(old, id));
            }
            self.timers.extend(next.map(|at| (at, id)));
            linked.scheduled = next;
        }
    }

    pub(super) fn close(&mut self, id: u32, reason: LossReason, now: Instant) {
        if let Some(linked) = self.links.get_mut(&id) {
            linked.link.connection.shut_down(now);
            linked.link.flush(&self.socket, &mut self.scratch, now);
        }
        self.forget(id, reason, now);
    }

    /// Ends a connection without telling the peer.
    pub(super) fn forget(&mut self, id: u32, reason: LossReason, now: Instant) {
        let Some(mut linked) = self.links.remove(&id) else { return };
        self.by_peer.remove(&(linked.peer, linked.peer_id));
        if self.links.is_empty() {
            self.memory.rest();
        }
        if let Some(at) = linked.scheduled {
            self.timers.remove(&(at, id));
        }
        let Some(open) = self.routes.get_mut(&linked.route) else { return };
        open.links.retain(|link| *link != id);
        linked.settle(open, now);
        match &mut open.ingest {
            Some(ingest) => {
                if ingest.last_media().is_none() {
                    // It has brought no media, and its connection was never reported.
                    open.route.status.record_loss(&reason, Some(linked.peer), now);
                    open.route.events.emit(lost(&open.route.status, true, Some(linked.peer), reason.clone()));
                }
                ingest.lose(now, reason);
                open.sender = None;
            }
            None => {
                let output = open.route.status.name();
                if open.links.is_empty() {
                    open.route.status.counters.set_state(State::Waiting, now);
                }
                open.route.status.record_loss(&reason, Some(linked.peer), now);
                open.route.events.emit(Event::OutputLost { output, peer: Some(linked.peer), reason });
            }
        }
    }

    fn timeouts(&mut self, now: Instant) {
        self.give_up_overdue(now);
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(linked) = self.links.get_mut(&id) {
                linked.scheduled = None;
            }
            self.attend(id, now);
            if self.links.get(&id).and_then(|linked| linked.scheduled).is_some_and(|again| again <= now) {
                break; // due again at once: serve the other connections first
            }
        }
        if now >= self.next_stats {
            self.next_stats = now + STATS_INTERVAL;
            self.statistics(now);
        }
        self.publish(now);
    }

    /// Publishes what the sources have received, and applies changed settings.
    fn publish(&mut self, now: Instant) {
        let (mut expel, mut resize, mut idle) = (Vec::new(), Vec::new(), Vec::new());
        for (id, open) in &mut self.routes {
            if let Some(ingest) = &mut open.ingest {
                if open.route.rates.has_changed() {
                    resize.push(*id);
                }
                if ingest.refresh() {
                    open.route.allow = ingest.live().allow.clone();
                    expel.push(*id);
                }
                ingest.publish(now, open.sender);
                if ingest.is_idle(now) {
                    idle.extend(&open.links);
                }
            }
        }
        idle.into_iter().for_each(|id| self.close(id, LossReason::Idle, now));
        expel.into_iter().for_each(|id| self.expel(id, now));
        resize.into_iter().for_each(|id| self.refresh_rates(id));
    }

    fn statistics(&mut self, now: Instant) {
        let mut players: HashMap<RouteId, Vec<PlayerStats>> = HashMap::new();
        for linked in self.links.values_mut() {
            let Some(open) = self.routes.get_mut(&linked.route) else { continue };
            let stats = linked.link.connection.stats();
            let counters = &open.route.status.counters;
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            counters.rtt_us.set(micros(stats.rtt));
            counters.latency_us.set(micros(stats.latency));
            counters.buffered_us.set(micros(stats.buffered));
            linked.settle(open, now);
            if open.ingest.is_none() {
                players.entry(linked.route).or_default().push(PlayerStats {
                    peer: linked.peer,
                    connected_for: now.saturating_duration_since(linked.since),
                    bytes: stats.sent.bytes,
                    packets: stats.sent.packets,
                    retransmitted: stats.sent.retransmitted,
                    lost: stats.sent.lost,
                    dropped: stats.sent.dropped,
                    round_trip: stats.rtt,
                });
            }
        }
        for (id, open) in &mut self.routes {
            open.report_refusals(now, 0);
            open.dropped(0, now);
            open.route.status.set_players(players.remove(id).unwrap_or_default());
        }
    }
}

/// Polls for an output whose ring holds new media. Outputs that have ended are skipped.
fn poll_outputs(routes: &mut HashMap<RouteId, OpenRoute>, cx: &mut Context<'_>) -> Poll<RouteId> {
    for (id, open) in routes {
        if let RouteEnd::Output(reader) = &mut open.route.end
            && let Poll::Ready(Ok(())) = reader.poll_ready(cx)
        {
            return Poll::Ready(*id);
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{EventSink, FlowBandwidth, Status},
            rates::FlowRates,
        },
        *,
    };
    use crate::{
        flow::{Bitrate, SrtOptions},
        proto::srt::Terms,
        router::{Limits, Ring},
    };

    fn output(name: &str, events: &EventSink) -> Route {
        let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
        Route {
            stream_id: Some(name.to_owned()),
            allow: Allowlist::default(),
            max_peers: None,
            terms: Terms::default(),
            rates: FlowRates::new(&SrtOptions::default(), FlowBandwidth::fixed(Bitrate::mbps(20))),
            status: Status::new(name, None),
            events: events.clone(),
            end: RouteEnd::Output(ring.reader()),
        }
    }

    #[tokio::test]
    async fn srt_port_whose_task_panics_fails_its_endpoints_and_closes() {
        let events = EventSink::alone("f");
        let mut mailbox = events.subscribe();
        let port =
            Port::open(([127, 0, 0, 1], 0).into(), None, PeerLimits::new(), Random::of(|bytes| bytes.fill(7))).unwrap();
        let (first, second) = (output("first", &events), output("second", &events));
        let statuses = [first.status.clone(), second.status.clone()];
        let id = port.add(first);
        let (done, wait) = oneshot::channel();
        port.commands.send(Command::Panic).unwrap();
        // The commands below reach a task that is about to panic, or one that already has.
        port.add(second);
        port.commands.send(Command::Remove(id, done)).unwrap();
        assert!(wait.await.is_err());
        assert!(!port.kick(id, ([127, 0, 0, 1], 1).into()).await);
        port.ended.cancelled().await;
        let third = output("third", &events);
        let late = third.status.clone();
        port.add(third);
        port.remove(id).await;
        let local = port.local_addr();
        port.release().await;
        for status in statuses.iter().chain([&late]) {
            assert_eq!(status.counters.state(), State::Failed, "{}", status.name());
            let event = mailbox.receive().await.unwrap();
            let Event::OutputLost { reason: LossReason::Internal(why), .. } = event else { panic!("{event:?}") };
            assert!(why.contains("SRT port"), "{why}");
        }
        std::net::UdpSocket::bind(local).expect("the socket is closed");
    }
}
