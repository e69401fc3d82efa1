//! Task of an SRT port: reads the socket, drives the connections by their timers, and moves media between them and the
//! routes, all in one turn ([`super::turns`]). Handshakes are handled in [`super::handshake`].

use super::{
    super::{
        Event, LossReason, MemberStats, PlayerStats,
        ingest::Verdict,
        listener::{AccessGate, HasAdmission, Places, RouteId, RouteTable},
        sleep_until,
    },
    attempts::Attempts,
    connected_caller::ConnectedCaller,
    groups::{Group, GroupKey, Groups, member_stats},
    port::Command,
    route::{OpenRoute, Route, RouteMedia},
    turn_schedule::TurnSchedule,
};
use crate::{
    media::Packet as MediaPacket,
    net::{Peer, Received, Receiver, Sender, UdpSocket},
    proto::srt::{Control, Delivered, Listener, Packet, SendBatch, destination},
    random::Random,
    router::{Batch, State},
};
use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Maximum number of datagrams handled in one turn of the task.
const MAX_BATCH: usize = 512;
/// Time without a packet of a peer after which it may go on from another port of its address. Peers send something at
/// least once a second.
const REBIND_SILENCE: Duration = Duration::from_millis(1500);
/// Interval of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// State of the task.
pub(super) struct PortTask {
    pub(super) socket: UdpSocket,
    memory: Receiver,
    pub(super) listener: Listener,
    pub(super) random: Random,
    pub(super) sender: Sender,
    pub(super) access: Option<AccessGate>,
    pub(super) places: Places,
    pub(super) routes: RouteTable<OpenRoute>,
    pub(super) callers: HashMap<u32, ConnectedCaller>,
    pub(super) groups: Groups,
    /// Local socket id for each peer address and peer socket id. It finds the connection of a repeated handshake.
    pub(super) by_peer: HashMap<(SocketAddr, u32), u32>,
    pub(super) attempts: Attempts,
    timers: BTreeSet<(Instant, u32)>,
    batch: SendBatch,
    window: Vec<Arc<Batch>>,
    inbox: Vec<Received>,
    /// Outputs that have media to send.
    ready: Vec<RouteId>,
    /// Connections that have something to do in this turn.
    touched: Vec<u32>,
    next_stats: Instant,
    pub(super) turns: TurnSchedule,
}

impl PortTask {
    pub(super) fn new(socket: UdpSocket, random: Random, access: Option<AccessGate>, places: Places) -> Self {
        let now = Instant::now();
        Self {
            sender: Sender::new(&socket),
            memory: Receiver::new(u64::MAX),
            listener: Listener::new(random.bytes(), now),
            random,
            attempts: Attempts::new(),
            access,
            places,
            routes: RouteTable::default(),
            callers: HashMap::new(),
            groups: Groups::default(),
            by_peer: HashMap::new(),
            timers: BTreeSet::new(),
            batch: SendBatch::default(),
            window: Vec::new(),
            inbox: Vec::new(),
            ready: Vec::new(),
            touched: Vec::new(),
            next_stats: now + STATS_INTERVAL,
            turns: TurnSchedule::new(now),
            socket,
        }
    }

    /// Fails all sources and outputs after a panic.
    pub(super) fn fail(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>, panic: &(dyn Any + Send)) {
        let texts = (panic.downcast_ref::<&str>().copied(), panic.downcast_ref::<String>().map(String::as_str));
        let why = format!("the task of an SRT port panicked: {}", texts.0.or(texts.1).unwrap_or("for no reason given"));
        log::error!("SRT port {}: {why}", self.socket.local_addr());
        commands.close();
        let mut routes: Vec<Route> = self.routes.take_all().map(|open| open.route).collect();
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

    pub(super) async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        loop {
            let first = self.timers.first().map(|(at, _)| *at);
            let overdue = self.attempts.next_timeout();
            let deadline = first.into_iter().chain(overdue).fold(self.next_stats, Instant::min);
            // While packets come all the time, neither arrivals nor media wake the task. A socket that is watched then would
            // be waited for, and commands would wait with it.
            if self.turns.is_steady() {
                self.socket.unwatch();
            } else {
                self.watch_socket();
            }
            let is_steady = self.turns.is_steady() || !self.socket.is_watched();
            let is_turn = !is_steady && Instant::now() >= self.turns.next();
            let deadline = if is_turn { deadline } else { self.turns.next() };
            let may_send = is_turn || self.turns.is_prompt();
            let Self { socket, memory, inbox, routes, ready, .. } = self;
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                outcome = self.attempts.next() => self.decide(outcome, Instant::now()),
                () = poll_fn(|cx| {
                    let reads = is_turn && poll_socket(socket, memory, inbox, cx);
                    let sends = may_send && poll_outputs(routes, ready, cx);
                    if reads || sends { Poll::Ready(()) } else { Poll::Pending }
                }), if !is_steady => self.turn(Instant::now()),
                () = sleep_until(Some(deadline)) => {
                    if is_steady {
                        let read = self.socket.drain(&mut self.memory, MAX_BATCH, |datagram| self.inbox.push(datagram));
                        log_read_error(read.await, &self.socket);
                        self.ready.extend(self.routes.iter().filter(|(_, open)| open.has_media()).map(|(id, _)| id));
                    }
                    // Else, in the middle of a pause, it was only its end that was waited for.
                    if is_steady || is_turn {
                        self.turn(Instant::now());
                    }
                }
            }
        }
    }

    /// Has the system report arrivals, if it does not already. Where it cannot, the socket is read in turns.
    fn watch_socket(&mut self) {
        if let Err(error) = self.socket.watch() {
            log::debug!("SRT port {}: {error}", self.socket.local_addr());
        }
    }

    /// Handles the datagrams that were read, the media of the outputs that are ready, and the timers that are due.
    fn turn(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut handled = inbox.len();
        for datagram in inbox.drain(..) {
            if let Some(id) = self.datagram(datagram, now)
                && touched.last() != Some(&id)
            {
                touched.push(id);
            }
        }
        self.inbox = inbox;
        while let Some(route) = self.ready.pop() {
            handled = handled.max(self.queue_media(route, &mut touched, now));
        }
        touched.sort_unstable();
        touched.dedup();
        for id in touched.drain(..) {
            self.attend(id, now);
        }
        self.touched = touched;
        self.turns.end(handled, now);
        self.timeouts(now);
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add(id, route) => self.routes.insert(id, OpenRoute::new(*route, now)),
            Command::Remove(id, done) => {
                // Sends the rest of an output's media first.
                self.fan_out(id);
                for caller in self.callers_of(id) {
                    self.close(caller, LossReason::Closed, now);
                }
                self.attempts.remove_route(id);
                if let Some(open) = self.routes.remove(id) {
                    open.questions.close();
                    let _ = done.send(open.questions); // nobody waits if this fails
                }
            }
            Command::Edit(id, allow, max_peers) => {
                if let Some(open) = self.routes.get(id) {
                    open.admission().edit(allow, max_peers);
                }
                self.expel(id, now);
            }
            Command::Kick(id, peer, done) => {
                let mut gone = self.callers_of(id);
                gone.retain(|id| self.callers.get(id).is_some_and(|caller| caller.peer == peer));
                let _ = done.send(!gone.is_empty());
                for caller in gone {
                    self.close(caller, LossReason::Kicked, now);
                }
            }
            #[cfg(test)]
            Command::Panic => std::panic::resume_unwind(Box::new("a test wants it")),
        }
    }

    fn callers_of(&self, route: RouteId) -> Vec<u32> {
        self.routes.get(route).map(|open| open.callers.clone()).unwrap_or_default()
    }

    /// Closes the connections that the allowlist no longer admits.
    fn expel(&mut self, route: RouteId, now: Instant) {
        let Some(open) = self.routes.get(route) else { return };
        let admitted = |id: &u32| self.callers.get(id).is_some_and(|caller| open.admission().admits(caller.peer.ip()));
        let gone: Vec<u32> = open.callers.iter().filter(|id| !admitted(id)).copied().collect();
        for id in gone {
            self.close(id, LossReason::NoLongerAllowed, now);
        }
    }

    /// Applies the bandwidth of a route's flow to its connections, if it has changed.
    pub(super) fn refresh_rates(&mut self, route: RouteId) {
        let Some(open) = self.routes.get_mut(route) else { return };
        let Some(rates) = open.refresh_rates() else { return };
        for id in &open.callers {
            if let Some(caller) = self.callers.get_mut(id) {
                caller.io.connection.set_rates(rates.buffer, rates.pacing);
            }
        }
    }

    /// Sends the new media of an output on all its connections.
    fn fan_out(&mut self, route: RouteId) {
        let now = Instant::now();
        let mut touched = Vec::new();
        self.queue_media(route, &mut touched, now);
        for id in touched {
            self.attend(id, now);
        }
    }

    /// Queues the new media of an output on all its connections, which are added to `touched`. Returns the number of packets.
    fn queue_media(&mut self, route: RouteId, touched: &mut Vec<u32>, now: Instant) -> usize {
        self.refresh_rates(route);
        let Some(open) = self.routes.get_mut(route) else { return 0 };
        let RouteMedia::Output(reader) = &mut open.route.media else { return 0 };
        self.window.clear();
        let lost = reader.read(&mut self.window);
        if lost.packets > 0 && !open.callers.is_empty() {
            open.dropped(lost.packets, now);
        }
        let first = touched.len();
        touched.extend_from_slice(&open.callers);
        let mut groups = Vec::new();
        for id in touched.iter().skip(first) {
            let Some(caller) = self.callers.get_mut(id) else { continue };
            if let Some(key) = caller.group {
                if !groups.contains(&key) {
                    groups.push(key);
                    self.push_to_group(key, now);
                }
            } else {
                for packet in self.window.iter().flat_map(|batch| batch.packets()) {
                    caller.io.connection.push_arrived(packet.data(), packet.arrival(), now);
                }
            }
        }
        let packets = self.window.iter().map(|batch| batch.packets().len()).sum();
        self.window.clear();
        packets
    }

    /// Queues the new media of an output on all members of a group, with the same numbers.
    fn push_to_group(&mut self, key: GroupKey, now: Instant) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let limit = group.max_payload(&self.callers);
        for packet in self.window.iter().flat_map(|batch| batch.packets()) {
            if packet.data().len() <= limit {
                group.push(packet, &mut self.callers, now);
                continue;
            }
            for id in &group.members {
                if let Some(caller) = self.callers.get_mut(id) {
                    caller.io.connection.leave_out(); // too long for one of them
                }
            }
        }
    }

    /// Handles one datagram. Returns the id of its connection, if that has to be attended to.
    fn datagram(&mut self, datagram: Received, now: Instant) -> Option<u32> {
        let Received { data, peer, arrival } = datagram;
        let id = destination(&data)?;
        if id != 0 {
            let packet = Packet::parse(&data)?;
            if self.callers.get(&id)?.peer != peer && !self.follow(id, peer, now) {
                return None; // forged, or from an old connection
            }
            let caller = self.callers.get_mut(&id)?;
            if let Packet::Control { control: Control::Handshake(body), .. } = packet {
                self.handshake_of(id, body, peer, now);
                return None;
            }
            caller.io.connection.handle(&packet, &data, arrival.min(now));
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
        let Some(caller) = self.callers.get_mut(&id) else { return false };
        if caller.peer.ip() != peer.ip() || caller.io.connection.unheard_for(now) < REBIND_SILENCE {
            return false;
        }
        log::info!("SRT port {}: {} has become {peer}", self.socket.local_addr(), caller.peer);
        self.by_peer.remove(&(caller.peer, caller.peer_id));
        self.by_peer.insert((peer, caller.peer_id), id);
        caller.peer = peer;
        caller.io.redirect(Peer::new(peer, self.socket.local_addr()));
        true
    }

    /// Runs the timers of a connection, hands its payloads to the flow, sends its packets and schedules its next
    /// timeout.
    pub(super) fn attend(&mut self, id: u32, now: Instant) {
        let Some(caller) = self.callers.get_mut(&id) else { return };
        caller.io.connection.handle_timeout(now);
        let group = caller.group;
        let route = caller.route;
        if let Some(ingest) = self.routes.get_mut(route).and_then(|open| open.ingest.as_mut()) {
            while let Some(Delivered { payload, due }) = match group {
                Some(key) => self.groups.poll_delivery(key, &mut self.callers, now),
                None => self.callers.get_mut(&id).and_then(|caller| caller.io.connection.poll_delivery(now)),
            } {
                match ingest.admit(now, payload.len()) {
                    Verdict::Pass => ingest.out.packets.push(MediaPacket::datagram(payload, due.min(now))),
                    Verdict::Drop => {}
                    Verdict::Disconnect => return self.close(id, LossReason::BandwidthExceeded, now),
                }
            }
        } else {
            while caller.io.connection.poll_delivery(now).is_some() {} // no payloads, only detects the end
            if let Some(group) = group.and_then(|key| self.groups.get_mut(key)) {
                group.attend(&mut self.callers, now);
                for other in group.members.iter().filter(|other| **other != id) {
                    if let Some(caller) = self.callers.get_mut(other) {
                        caller.io.flush(&self.socket, &mut self.batch, now);
                    }
                }
            }
        }
        let Some(caller) = self.callers.get_mut(&id) else { return };
        caller.io.flush(&self.socket, &mut self.batch, now);
        if let Some(reason) = caller.io.loss() {
            return self.close(id, reason, now);
        }
        let next = caller.io.connection.next_timeout();
        if next != caller.scheduled {
            if let Some(old) = caller.scheduled {
                self.timers.remove(&(old, id));
            }
            self.timers.extend(next.map(|at| (at, id)));
            caller.scheduled = next;
        }
    }

    pub(super) fn close(&mut self, id: u32, reason: LossReason, now: Instant) {
        if let Some(caller) = self.callers.get_mut(&id) {
            caller.io.connection.shut_down(now);
            caller.io.flush(&self.socket, &mut self.batch, now);
        }
        self.forget(id, reason, now);
    }

    /// Ends a connection without telling the peer.
    pub(super) fn forget(&mut self, id: u32, reason: LossReason, now: Instant) {
        let Some(mut caller) = self.callers.remove(&id) else { return };
        self.by_peer.remove(&(caller.peer, caller.peer_id));
        if self.callers.is_empty() {
            self.memory.release_idle();
        }
        if let Some(at) = caller.scheduled {
            self.timers.remove(&(at, id));
        }
        let mut group = caller.group.and_then(|key| self.groups.leave(key, id));
        let is_alone = caller.group.is_none() || group.is_some();
        let Some(open) = self.routes.get_mut(caller.route) else { return };
        open.callers.retain(|io| *io != id);
        caller.settle(open, now);
        if let Some(group) = &mut group {
            open.status().counters.lost.add(group.take_lost());
        }
        if open.ingest.is_some() && !is_alone {
            // The other members of its group go on.
            log::warn!("source `{}`: group member {} is lost: {reason}", open.status().name(), caller.peer);
            open.status().record_loss(&reason, Some(caller.peer), now);
            let source = open.status().name();
            open.events().emit(Event::MemberLost { source, peer: caller.peer, reason });
            let left = open.callers.first().and_then(|id| self.callers.get(id)).map(|caller| caller.peer);
            open.sender = open.sender.filter(|sender| *sender != caller.peer).or(left);
            return;
        }
        match &mut open.ingest {
            Some(ingest) => {
                if ingest.last_media().is_none() {
                    open.route.admission.report_silent_publisher(&reason, caller.peer, now);
                }
                ingest.lose(now, reason);
                open.sender = None;
            }
            None => {
                let status = open.status();
                let is_last = open.callers.is_empty();
                if is_last {
                    status.counters.set_state(State::Waiting, now);
                }
                status.record_loss(&reason, Some(caller.peer), now);
                open.events().emit(Event::OutputLost { output: status.name(), peer: Some(caller.peer), reason });
            }
        }
    }

    fn timeouts(&mut self, now: Instant) {
        self.give_up_overdue(now);
        let mut due = std::mem::take(&mut self.touched);
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(caller) = self.callers.get_mut(&id) {
                caller.scheduled = None;
            }
            due.push(id);
        }
        for id in due.drain(..) {
            self.attend(id, now);
        }
        self.touched = due;
        if now >= self.next_stats {
            self.next_stats = now + STATS_INTERVAL;
            self.statistics(now);
        }
        self.publish(now);
    }

    /// Publishes what the sources have received, and applies changed settings.
    fn publish(&mut self, now: Instant) {
        let mut expel = Vec::new();
        let mut resize = Vec::new();
        let mut idle = Vec::new();
        for (id, open) in self.routes.iter_mut() {
            if let Some(ingest) = &mut open.ingest {
                if open.route.rates.has_changed() {
                    resize.push(id);
                }
                if ingest.refresh() {
                    expel.push(id);
                }
                ingest.publish(now, open.sender);
                if ingest.is_idle(now) {
                    idle.extend(&open.callers);
                }
            }
        }
        for id in idle {
            self.close(id, LossReason::Idle, now);
        }
        for id in expel {
            self.expel(id, now);
        }
        for id in resize {
            self.refresh_rates(id);
        }
    }

    fn statistics(&mut self, now: Instant) {
        let leeways = self.callers.values().map(|caller| caller.io.connection.leeway());
        let has_sources = self.routes.iter().any(|(_, open)| open.ingest.is_some() && !open.callers.is_empty());
        self.turns.set_leeway(leeways.min().unwrap_or_default(), has_sources);
        let mut players: HashMap<RouteId, Vec<PlayerStats>> = HashMap::new();
        let mut members: HashMap<RouteId, Vec<MemberStats>> = HashMap::new();
        for caller in self.callers.values_mut() {
            let Some(open) = self.routes.get_mut(caller.route) else { continue };
            let stats = caller.io.connection.stats();
            let counters = &open.status().counters;
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            counters.rtt_us.set(micros(stats.rtt));
            counters.latency_us.set(micros(stats.latency));
            counters.buffered_us.set(micros(stats.buffered));
            caller.settle(open, now);
            if let Some(key) = caller.group {
                let lost = self.groups.get_mut(key).map_or(0, Group::take_lost);
                open.status().counters.lost.add(if open.ingest.is_some() { lost } else { 0 });
                let connected = Some(now.saturating_duration_since(caller.since));
                let is_source = open.ingest.is_some();
                let is_active = if is_source { caller.io.connection.is_receiving() } else { caller.carries_media() };
                let stats = member_stats(caller.peer.to_string(), connected, is_active, &stats, is_source);
                members.entry(caller.route).or_default().push(stats);
            }
            if open.ingest.is_none() {
                players.entry(caller.route).or_default().push(PlayerStats {
                    peer: caller.peer,
                    connected_for: now.saturating_duration_since(caller.since),
                    bytes: stats.sent.bytes,
                    packets: stats.sent.packets,
                    retransmitted: stats.sent.retransmitted,
                    lost: stats.sent.lost,
                    dropped: stats.sent.dropped,
                    round_trip: stats.rtt,
                });
            }
        }
        for (id, open) in self.routes.iter_mut() {
            open.admission().report_refusals(now);
            open.dropped(0, now);
            open.status().set_players(players.remove(&id).unwrap_or_default());
            open.status().set_members(members.remove(&id).unwrap_or_default());
        }
    }
}

/// Reads the socket. Returns whether anything has come.
fn poll_socket(socket: &UdpSocket, memory: &mut Receiver, inbox: &mut Vec<Received>, cx: &mut Context<'_>) -> bool {
    match socket.poll_drain(cx, memory, MAX_BATCH, |datagram| inbox.push(datagram)) {
        Poll::Ready(read) => {
            log_read_error(read, socket);
            true
        }
        Poll::Pending => !inbox.is_empty(),
    }
}

fn log_read_error(read: io::Result<()>, socket: &UdpSocket) {
    if let Err(error) = read {
        log::debug!("SRT port {}: {error}", socket.local_addr());
    }
}

/// Collects the outputs whose rings hold new media. Outputs that have ended are skipped. Returns whether there are any.
fn poll_outputs(routes: &mut RouteTable<OpenRoute>, ready: &mut Vec<RouteId>, cx: &mut Context<'_>) -> bool {
    ready.clear();
    for (id, open) in routes.iter_mut() {
        if let RouteMedia::Output(reader) = &mut open.route.media
            && let Poll::Ready(Ok(())) = reader.poll_ready(cx)
        {
            ready.push(id);
        }
    }
    !ready.is_empty()
}
