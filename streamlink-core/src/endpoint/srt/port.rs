//! A port that SRT callers connect to: one socket, one task, any number of connections, for any number of sources
//! and outputs, which their stream ids tell apart.
//!
//! Until a caller has sent back its cookie nothing of it is kept. Memory: [`MAX_LINKS`] connections at most, each
//! bounded by its terms.

use super::{
    super::{Event, LossReason, PlayerStats, intake::Verdict, listener::PeerRegistry, sleep_until},
    access::{Gate, SrtRequest},
    link::Link,
    route::{Asked, OpenRoute, Route, RouteEnd, RouteId, settle},
};
use crate::{
    flow::{Allowlist, PeerLimits},
    media::Packet as MediaPacket,
    net::{Datagram, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket},
    proto::srt::{
        CloseReason, Connection, ConnectionStats, Control, Greeting, Handshake, Listener, Local, Packet, Rejection,
        Terms, Transmit, destination, write_control,
    },
    random::Random,
    router::{Batch, State},
};
use std::{
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Connections of one port at most.
const MAX_LINKS: usize = 10_000;
/// Datagrams that are handled before others get their turn.
const MAX_BATCH: usize = 512;
/// The buffers that are asked for, in bytes.
const SOCKET_BUFFER: usize = 8 << 20;
/// After a read, the socket is left alone for so long: acknowledgements and media gather, and cost less together.
const READ_PAUSE: Duration = Duration::from_millis(1);
/// How often statistics are brought up to date.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

enum Command {
    Add(RouteId, Box<Route>),
    Remove(RouteId, oneshot::Sender<()>),
    Edit(RouteId, Allowlist, Option<u32>),
    Kick(RouteId, SocketAddr, oneshot::Sender<bool>),
}

/// A handle to a port. The port closes when its last handle goes.
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
        gate: Option<Gate>,
        limits: PeerLimits,
        random: Random,
    ) -> io::Result<Arc<Self>> {
        let options = UdpOptions {
            receive_buffer: Some(SOCKET_BUFFER),
            send_buffer: Some(SOCKET_BUFFER),
            ..UdpOptions::default()
        };
        let socket = UdpSocket::receiving(address, &options)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let local = socket.local_addr();
        let task = PortTask::new(socket, random, gate, PeerRegistry::new(limits));
        let ended = CancellationToken::new();
        let end = ended.clone();
        tokio::spawn(async move {
            task.run(receiver).await; // the socket goes with it
            end.cancel();
        });
        Ok(Arc::new(Self { local, commands, next_route: AtomicU64::new(1), ended }))
    }

    /// Gives back a handle; waits for the socket to close if it was the last.
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
        let _ = self.commands.send(Command::Add(id, Box::new(route))); // a port that has ended takes no callers
        id
    }

    pub(crate) fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        let _ = self.commands.send(Command::Edit(route, allow, max_peers));
    }

    /// Cuts off the callers of a route at an address; returns whether there were any.
    pub(crate) async fn kick(&self, route: RouteId, peer: SocketAddr) -> bool {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Kick(route, peer, done));
        wait.await.unwrap_or(false)
    }

    /// Removes a route, and waits until its callers have been told goodbye.
    pub(crate) async fn remove(&self, route: RouteId) {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Remove(route, done));
        let _ = wait.await;
    }
}

struct Linked {
    link: Link,
    peer: SocketAddr,
    /// The peer's own id, which names its handshake.
    peer_id: u32,
    /// The answer to its conclusion, which it may ask for again.
    answer: Vec<u8>,
    route: RouteId,
    since: Instant,
    scheduled: Option<Instant>,
    settled: ConnectionStats,
}

impl Linked {
    /// Adds what the connection has counted since the last time to the counters of its source or output.
    fn settle(&mut self, open: &OpenRoute, now: Instant) {
        let stats = self.link.connection.stats();
        let before = std::mem::replace(&mut self.settled, stats);
        settle(&open.route.status, &open.route.events, open.intake.is_some(), &stats, &before, now);
    }

    /// The answer to a conclusion, with the time of now: the peer sets its clock by it.
    fn answer_at(&self, now: Instant) -> Vec<u8> {
        let mut answer = self.answer.clone();
        if let Some(place) = answer.get_mut(8..12) {
            place.copy_from_slice(&self.link.connection.timestamp(now).to_be_bytes());
        }
        answer
    }
}

struct PortTask {
    socket: UdpSocket,
    memory: Receiver,
    listener: Listener,
    random: Random,
    sender: Sender,
    gate: Option<Gate>,
    peers: Arc<PeerRegistry>,
    routes: HashMap<RouteId, OpenRoute>,
    links: HashMap<u32, Linked>,
    /// Which connection a peer's handshake belongs to.
    by_peer: HashMap<(SocketAddr, u32), u32>,
    timers: BTreeSet<(Instant, u32)>,
    scratch: Vec<Transmit>,
    window: Vec<Arc<Batch>>,
    inbox: Vec<Received>,
    next_stats: Instant,
    next_read: Instant,
}

impl PortTask {
    fn new(socket: UdpSocket, random: Random, gate: Option<Gate>, peers: Arc<PeerRegistry>) -> Self {
        let now = Instant::now();
        Self {
            sender: Sender::new(&socket),
            memory: Receiver::new(u64::MAX),
            listener: Listener::new(random.bytes(), now),
            random,
            gate,
            peers,
            routes: HashMap::new(),
            links: HashMap::new(),
            by_peer: HashMap::new(),
            timers: BTreeSet::new(),
            scratch: Vec::new(),
            window: Vec::new(),
            inbox: Vec::new(),
            next_stats: now + STATS_INTERVAL,
            next_read: now,
            socket,
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let first = self.timers.first().map(|(at, _)| *at);
            let may_read = Instant::now() >= self.next_read;
            let pause = (!may_read).then_some(self.next_read);
            let deadline = first.into_iter().chain(pause).fold(self.next_stats, Instant::min);
            let routes = &mut self.routes;
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                route = poll_fn(|cx| poll_outputs(routes, cx)) => self.fan_out(route),
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
                // The last of what an output has to send.
                self.fan_out(id);
                let links = self.routes.get(&id).map(|open| open.links.clone()).unwrap_or_default();
                links.into_iter().for_each(|link| self.close(link, LossReason::Closed, now));
                self.routes.remove(&id);
                let _ = done.send(());
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
        }
    }

    /// Closes connections that the allowlist no longer admits.
    fn expel(&mut self, route: RouteId, now: Instant) {
        let Some(open) = self.routes.get(&route) else { return };
        let admitted = |id: &u32| self.links.get(id).is_some_and(|linked| open.route.allow.admits(linked.peer.ip()));
        let gone: Vec<u32> = open.links.iter().filter(|id| !admitted(id)).copied().collect();
        gone.into_iter().for_each(|id| self.close(id, LossReason::NoLongerAllowed, now));
    }

    /// Hands what is new of one output to all its players.
    fn fan_out(&mut self, route: RouteId) {
        let Some(open) = self.routes.get_mut(&route) else { return };
        let RouteEnd::Output(reader) = &mut open.route.end else { return };
        self.window.clear();
        let lost = reader.read(&mut self.window);
        if !open.links.is_empty() {
            open.route.status.counters.dropped.add(lost.packets);
        }
        let now = Instant::now();
        // Attending to a connection may close it, and so change the list.
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

    /// One datagram; returns the connection that it belongs to.
    fn datagram(&mut self, datagram: Received, now: Instant) -> Option<u32> {
        let Received { data, peer, arrival } = datagram;
        let id = destination(&data)?;
        if id != 0 {
            let linked = self.links.get_mut(&id)?;
            if linked.peer != peer {
                return None; // forged, or of an old connection
            }
            let packet = Packet::parse(&data)?;
            if let Packet::Control { control: Control::Handshake(_), .. } = packet {
                let answer = linked.answer_at(now);
                self.reply(peer, &answer);
                return None;
            }
            linked.link.connection.handle(&packet, &data, arrival.min(now));
            return Some(id);
        }
        let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) = Packet::parse(&data) else {
            return None;
        };
        if !self.routes.values().any(|open| open.route.allow.admits(peer.ip())) {
            self.refuse_stranger(body, peer, now);
            return None;
        }
        match self.listener.greet(body, peer, now) {
            Greeting::Reply(reply) => self.reply(peer, &reply),
            Greeting::Request(request) => self.request(&request, timestamp, peer, now),
            Greeting::Ignore => {}
        }
        None
    }

    fn reply(&mut self, peer: SocketAddr, packet: &[u8]) {
        let to = Peer::new(peer, self.socket.local_addr());
        self.sender.send_to(&self.socket, Some(&to), &[Datagram { head: &[], body: packet }]);
    }

    /// A peer that no route admits: a rejection, and no cookie.
    fn refuse_stranger(&mut self, body: &[u8], peer: SocketAddr, now: Instant) {
        if let Some(handshake) = Handshake::parse(body) {
            let reply = self.listener.reject(&handshake, Rejection::FORBIDDEN, now);
            self.reply(peer, &reply);
        }
        for open in self.routes.values_mut() {
            open.refuse(peer, Rejection::FORBIDDEN, now);
        }
    }

    /// A caller has shown its address and asks for a connection.
    fn request(&mut self, request: &Handshake, timestamp: u32, peer: SocketAddr, now: Instant) {
        let known = self.by_peer.get(&(peer, request.socket_id)).and_then(|id| self.links.get(id));
        if let Some(linked) = known {
            let answer = linked.answer_at(now);
            return self.reply(peer, &answer);
        }
        let asked = Asked::parse(request.extensions.stream_id.as_deref());
        let route = self.routes.iter().find(|(_, open)| asked.is_for(&open.route)).map(|(id, _)| *id);
        let result = match route {
            None => Err(Rejection::NOT_FOUND),
            Some(route) => self.admit(route, request, timestamp, peer, now),
        };
        if let Err(rejection) = result {
            match route.and_then(|route| self.routes.get_mut(&route)) {
                Some(open) => open.refuse(peer, rejection, now),
                None => self.routes.values_mut().for_each(|open| open.refuse(peer, rejection, now)),
            }
            let reply = self.listener.reject(request, rejection, now);
            self.reply(peer, &reply);
        }
    }

    fn admit(
        &mut self,
        id: RouteId,
        request: &Handshake,
        timestamp: u32,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Rejection> {
        let open = self.routes.get_mut(&id).ok_or(Rejection::NOT_FOUND)?;
        if !open.route.allow.admits(peer.ip()) {
            return Err(Rejection::FORBIDDEN);
        }
        let most = if open.intake.is_some() { 1 } else { open.route.max_peers.map_or(usize::MAX, |n| n as usize) };
        if open.links.len() >= most {
            return Err(if open.intake.is_some() { Rejection::CONFLICT } else { Rejection::BACKLOG });
        }
        if self.links.len() >= MAX_LINKS {
            return Err(Rejection::RESOURCE);
        }
        let id_here = fresh_id(&self.random, &self.links);
        let local = Local { id: id_here, start: now, random: self.random.clone() };
        let mut terms = None;
        if let Some(gate) = &self.gate {
            let name = open.route.status.name();
            let stream_id = request.extensions.stream_id.as_deref();
            let asked = SrtRequest { endpoint: &name, peer, stream_id, publishes: open.intake.is_some() };
            terms = gate.ask(&asked)?.map(|passphrase| {
                let passphrase = Some(passphrase.secret().clone());
                Terms { passphrase, ..open.route.terms.clone() }
            });
        }
        let (agreement, answer) = terms.as_ref().unwrap_or(&open.route.terms).accept(request, timestamp, &local)?;
        let body = answer.write(false);
        let answer = write_control(&Control::Handshake(&body), 0, request.socket_id);
        let to = Peer::new(peer, self.socket.local_addr());
        let mut connection = Connection::new(agreement, now);
        if open.intake.is_none() {
            connection.send_only(); // a player has nothing to say
        }
        let link = Link::new(connection, &self.socket, Some(to));
        open.links.push(local.id);
        open.route.status.counters.encrypted.set(u64::from(link.connection.stats().encrypted));
        if open.intake.is_none() {
            open.route.status.counters.set_state(State::Connected, now);
            let output = open.route.status.name();
            open.route.events.emit(Event::OutputConnected { output, peer: Some(peer) });
        }
        let linked = Linked {
            link,
            peer,
            peer_id: request.socket_id,
            answer: answer.clone(),
            route: id,
            since: now,
            scheduled: None,
            settled: ConnectionStats::default(),
        };
        self.links.insert(local.id, linked);
        self.by_peer.insert((peer, request.socket_id), local.id);
        self.reply(peer, &answer);
        self.attend(local.id, now);
        Ok(())
    }

    /// Does what a connection has to do: hands over what it has received, sends, and looks when it is due again.
    fn attend(&mut self, id: u32, now: Instant) {
        let Some(linked) = self.links.get_mut(&id) else { return };
        linked.link.connection.handle_timeout(now);
        if let Some(intake) = self.routes.get_mut(&linked.route).and_then(|open| open.intake.as_mut()) {
            while let Some(payload) = linked.link.connection.poll_payload(now) {
                match intake.admit(now, payload.len()) {
                    Verdict::Pass => intake.out.packets.push(MediaPacket::datagram(payload, now)),
                    Verdict::Drop => {}
                    Verdict::Disconnect => return self.close(id, LossReason::BandwidthExceeded, now),
                }
            }
        } else {
            while linked.link.connection.poll_payload(now).is_some() {} // none, but the end of the connection
        }
        linked.link.flush(&self.socket, &mut self.scratch, now);
        if let Some(reason) = linked.link.connection.closed() {
            let reason = match reason {
                CloseReason::Shutdown => LossReason::Closed,
                CloseReason::Idle => LossReason::Idle,
                CloseReason::Protocol => LossReason::Protocol("SRT".into()),
            };
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

    fn close(&mut self, id: u32, reason: LossReason, now: Instant) {
        let Some(mut linked) = self.links.remove(&id) else { return };
        linked.link.connection.shut_down(now);
        linked.link.flush(&self.socket, &mut self.scratch, now);
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
        match &mut open.intake {
            Some(intake) => intake.lose(now, reason),
            None => {
                let output = open.route.status.name();
                if open.links.is_empty() {
                    open.route.status.counters.set_state(State::Waiting, now);
                }
                open.route.events.emit(Event::OutputLost { output, peer: Some(linked.peer), reason });
            }
        }
    }

    fn timeouts(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(linked) = self.links.get_mut(&id) {
                linked.scheduled = None;
            }
            self.attend(id, now);
            if self.links.get(&id).and_then(|linked| linked.scheduled).is_some_and(|again| again <= now) {
                break; // due at once again: others first
            }
        }
        if now >= self.next_stats {
            self.next_stats = now + STATS_INTERVAL;
            self.statistics(now);
        }
        self.publish(now);
    }

    /// Hands over what the sources have received.
    fn publish(&mut self, now: Instant) {
        let mut expel = Vec::new();
        for (id, open) in &mut self.routes {
            if let Some(intake) = &mut open.intake {
                if intake.refresh() {
                    open.route.allow = intake.live().allow.clone();
                    expel.push(*id);
                }
                intake.publish(now, None);
            }
        }
        expel.into_iter().for_each(|id| self.expel(id, now));
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
            if open.intake.is_none() {
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
            open.route.status.set_players(players.remove(id).unwrap_or_default());
        }
    }
}

/// The first output whose ring has something new. Those that have ended are waited for no longer.
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

/// An id that no connection has; never 0, which stands for the handshake.
fn fresh_id(random: &Random, links: &HashMap<u32, Linked>) -> u32 {
    loop {
        let id = u32::from_be_bytes(random.bytes()) & 0x3fff_ffff;
        if id != 0 && !links.contains_key(&id) {
            return id;
        }
    }
}
