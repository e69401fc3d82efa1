//! Caller of an SRT group (bonding): one connection to each address of the peer. In a broadcast group every one carries all
//! packets, in a main/backup group that of the heaviest address that is stable.
//!
//! The group is connected while at least one member is. A lost member is called again, with a delay of its own. Members that
//! are added and removed while the group runs are those of [`super::group_changes`].

use super::{
    super::{
        Event, LossReason,
        ingest::{Ingest, Verdict},
        lagging::LagReport,
        reconnect::{ConnectionAttempt, Outcome},
        resolver::Target,
        sleep_until,
    },
    caller::{Direction, STATS_INTERVAL, SrtClient, ready, refused, socket_options},
    connection_io::ConnectionIo,
    group_members::{Calling, Member, MemberState, Up, poll_members},
    groups::member_stats,
    route::settle,
};
use crate::{
    flow::GroupType,
    media::Packet as MediaPacket,
    net::{Datagram, Received, Receiver, Sender, UdpSocket},
    proto::srt::{
        self, BackupLeg, BackupMember, BackupSender, Connection, ConnectionStats, Control, GroupId, GroupInput,
        GroupNumbers, Local, Packet, Progress, Rejection, SendBatch, Sequence, arrival_within, destination,
    },
    router::Batch,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Pending look-up of the addresses of a member, which has this key.
type Lookup = BoxFuture<'static, (u64, Result<Vec<SocketAddr>, LossReason>)>;

/// Group from its first attempt to the loss of its last member.
pub(super) struct GroupSession {
    id: GroupId,
    /// Group of the peer, which all members have to reach.
    peer_group: Option<u32>,
    start: Instant,
    pub(super) members: Vec<Member>,
    /// Key of the next member.
    pub(super) next_key: u64,
    lookups: FuturesUnordered<Lookup>,
    pub(super) group_type: GroupType,
    numbers: GroupNumbers,
    /// Sender of a main/backup group.
    backup: Option<BackupSender>,
    input: GroupInput,
    settled_lost: u64,
    pub(super) was_up: bool,
    pub(super) last_failure: Option<LossReason>,
    batch: SendBatch,
}

/// Makes one attempt at a group, and runs it until its last member is lost.
pub(super) async fn run(
    call: &mut SrtClient,
    mut ingest: Option<&mut Ingest>,
    lag: &mut LagReport,
    attempt: &mut ConnectionAttempt<'_>,
) -> Outcome {
    let mut session = GroupSession::new(call, Instant::now());
    let mut inbox: Vec<(usize, Received)> = Vec::new();
    let mut next_stats = Instant::now() + STATS_INTERVAL;
    loop {
        session.begin_attempts(call, Instant::now());
        let idle = ingest.as_ref().and_then(|ingest| ingest.idle_deadline()).filter(|_| session.was_up);
        let timers = session.members.iter().filter_map(Member::next_timeout);
        let due = timers.chain(idle).chain(session.next_departure()).fold(next_stats, Instant::min);
        let mut ended = false;
        let mut edited = false;
        let GroupSession { members, lookups, was_up, .. } = &mut session;
        let mut found = None;
        tokio::select! {
            biased;
            () = call.stop.cancelled() => ended = true,
            () = call.members.changed() => edited = true,
            // Media that comes before the first member is up is skipped then.
            ready = ready(&mut call.direction), if *was_up => ended = ready.is_err(),
            result = lookups.next(), if !lookups.is_empty() => found = result,
            () = poll_fn(|cx| poll_members(members, cx, &mut inbox)) => {}
            () = sleep_until(Some(due)) => {}
        }
        let now = Instant::now();
        if let Some((key, addresses)) = found {
            session.call(key, addresses, call, now);
        }
        session.apply_rates(call);
        for (at, datagram) in inbox.drain(..) {
            session.datagram(at, &datagram, call, ingest.as_deref_mut(), attempt, now);
        }
        if edited && call.members.update().is_some() {
            session.edit_members(call, now);
        }
        if session.was_up {
            session.push_media(call, lag, now);
        }
        let mut reason = session.attend(call, ingest.as_deref_mut(), now);
        session.let_depart(call, now);
        if ended || reason.is_some() {
            session.shut_down(now);
        } else if session.is_over() {
            reason = Some(session.last_failure.clone().unwrap_or(LossReason::Closed));
        }
        session.flush(now);
        session.remove_gone(call, now);
        if now >= next_stats || ended || reason.is_some() {
            next_stats = now + STATS_INTERVAL;
            session.statistics(call, ingest.is_some(), now);
            call.dropped(0, lag, now);
        }
        if ended || reason.is_some() {
            call.status.set_members(Vec::new());
            call.status.set_peer(None); // it may be that of another member than the first
            return reason.map_or(Outcome::Stopped, Outcome::Lost);
        }
    }
}

impl GroupSession {
    fn new(call: &mut SrtClient, now: Instant) -> Self {
        let before = call.members.update();
        call.report_members(before.as_deref());
        let is_sender = matches!(call.direction, Direction::Send(_));
        let mut session = Self {
            id: GroupId::new(call.random.bytes()),
            peer_group: None,
            start: now,
            members: Vec::new(),
            next_key: 0,
            lookups: FuturesUnordered::new(),
            numbers: GroupNumbers::starting_at(Sequence::new(u32::from_be_bytes(call.random.bytes()))),
            group_type: call.group_type,
            backup: (is_sender && call.group_type == GroupType::Backup).then(BackupSender::default),
            input: GroupInput::default(),
            settled_lost: 0,
            was_up: false,
            last_failure: None,
            batch: SendBatch::default(),
        };
        for node in call.members.list() {
            let member = session.new_member(node, call, now);
            session.members.push(member);
        }
        session
    }

    /// Begins to call the members that are due.
    fn begin_attempts(&mut self, call: &SrtClient, now: Instant) {
        for member in &mut self.members {
            if !matches!(member.state, MemberState::Waiting(due) if due <= now) {
                continue;
            }
            let key = member.key;
            member.state = MemberState::LookingUp;
            let resolver = call.resolver.clone();
            let host = member.host.clone();
            let egress = call.egress.clone();
            let deadline = now + call.connect_timeout;
            self.lookups.push(Box::pin(async move {
                let target = Target { resolver: &resolver, host: &host, egress: &egress, avoid: None, deadline };
                (key, target.addresses().await)
            }));
        }
    }

    /// Calls a member whose addresses are known, unless it was removed meanwhile.
    fn call(&mut self, key: u64, addresses: Result<Vec<SocketAddr>, LossReason>, call: &SrtClient, now: Instant) {
        let Some(at) = self.members.iter().position(|member| member.key == key) else { return };
        let Some(member) = self.members.get_mut(at) else { return };
        let attempt = member.attempts;
        member.attempts = attempt.wrapping_add(1);
        let next = self.numbers.next();
        let start = self.start;
        let group = match self.group_type {
            GroupType::Broadcast => self.id.broadcast(),
            GroupType::Backup => self.id.backup(member.weight),
        };
        let begun = addresses.and_then(|addresses| {
            let peer = addresses.get(attempt % addresses.len().max(1)).copied();
            let peer = peer.ok_or(LossReason::Io("the name has no address".into()))?;
            let begin = || -> io::Result<Calling> {
                let socket = UdpSocket::sending(peer, &socket_options(&call.egress))?;
                let socket_id = call.fresh_id();
                let local = Local { id: socket_id, start: now, random: call.random.clone() };
                let caller = srt::Caller::new(call.terms.clone(), local, call.stream_id.clone(), call.connect_timeout)
                    .in_group(group, next, start);
                let memory = Receiver::new(call.terms.bytes_per_second);
                Ok(Calling { caller, id: socket_id, sender: Sender::new(&socket), socket, memory, peer })
            };
            begin().map_err(|error| LossReason::Unreachable(format!("{peer}: {error}").into()))
        });
        match begun {
            Ok(calling) => member.state = MemberState::Calling(Box::new(calling)),
            Err(reason) => self.fail(at, reason, None, call, now),
        }
    }

    /// Handles a datagram that a member has received.
    fn datagram(
        &mut self,
        at: usize,
        datagram: &Received,
        call: &mut SrtClient,
        ingest: Option<&mut Ingest>,
        attempt: &mut ConnectionAttempt<'_>,
        now: Instant,
    ) {
        let Some(member) = self.members.get_mut(at) else { return };
        let Some(packet) = Packet::parse(&datagram.data) else { return };
        let id = destination(&datagram.data);
        match &mut member.state {
            MemberState::Up(up) if id == Some(up.io.connection.local_id()) => {
                up.io.connection.handle(&packet, &datagram.data, datagram.arrival.min(now));
            }
            MemberState::Calling(calling) if id == Some(calling.id) => {
                let Packet::Control { control: Control::Handshake(body), timestamp, .. } = packet else { return };
                let peer = calling.peer;
                match calling.caller.handle(body, timestamp, now) {
                    Progress::Calling | Progress::TimedOut => {}
                    Progress::Connected(connection) => self.connected(at, *connection, call, ingest, attempt, now),
                    Progress::Rejected(rejection) => {
                        let reason = refused(rejection, call.stream_id.as_deref());
                        self.fail(at, reason, Some(peer), call, now);
                    }
                }
            }
            _ => {}
        }
    }

    /// Makes a connection a member that is up.
    fn connected(
        &mut self,
        at: usize,
        mut connection: Connection,
        call: &mut SrtClient,
        ingest: Option<&mut Ingest>,
        attempt: &mut ConnectionAttempt<'_>,
        now: Instant,
    ) {
        let theirs = connection.peer_group();
        let is_same = self.peer_group.is_none() || self.peer_group == theirs;
        let first = self.members.iter().find_map(Member::connection);
        self.input.join(&mut connection, first);
        let is_first = first.is_none();
        let Some(member) = self.members.get_mut(at) else { return };
        let MemberState::Calling(calling) = std::mem::replace(&mut member.state, MemberState::LookingUp) else {
            return;
        };
        let Calling { socket, memory, peer, .. } = *calling;
        if !is_same {
            // Another server would deliver the same packets a second time.
            let reason = refused(Rejection::GROUP, call.stream_id.as_deref());
            return self.fail(at, reason, Some(peer), call, now);
        }
        self.peer_group = theirs;
        if member.is_leaving {
            // It was removed while it was called.
            connection.shut_down(now);
            let mut io = ConnectionIo::new(connection, &socket, None);
            io.flush(&socket, &mut self.batch, now);
            member.state = MemberState::Waiting(now);
            return;
        }
        if ingest.is_none() {
            connection.send_only();
            if !is_first && self.numbers.is_used() {
                connection.leave_out_repairs();
            }
        }
        let rates = call.rates.now();
        connection.set_rates(rates.buffer, rates.pacing);
        let stats = connection.stats();
        call.status.counters.encrypted.set(u64::from(stats.encrypted));
        let io = ConnectionIo::new(connection, &socket, None);
        let backup = self.backup.as_ref().map(|_| BackupMember::new(member.weight));
        member.state = MemberState::Up(Box::new(Up {
            io,
            socket,
            memory,
            peer,
            since: now,
            settled: ConnectionStats::default(),
            backup,
            departure: None,
            has_left: false,
        }));
        member.told = None;
        log::info!("`{}`: group member {} ({peer}) is connected", call.status.name(), member.host);
        if !std::mem::replace(&mut self.was_up, true) {
            call.skip_to_now();
            attempt.up(peer);
            if let Some(ingest) = ingest {
                ingest.await_media(now + stats.latency);
            }
        } else if ingest.is_none() {
            call.events.emit(Event::OutputConnected { output: call.status.name(), peer: Some(peer) });
        } else {
            call.events.emit(Event::MemberConnected { source: call.status.name(), peer });
        }
        if is_first {
            call.status.set_peer(Some(peer));
        }
    }

    /// Records the loss of a member, or a failed attempt at it. It is called again after a delay.
    fn fail(&mut self, at: usize, reason: LossReason, peer: Option<SocketAddr>, call: &SrtClient, now: Instant) {
        let others = self.members.iter().enumerate().any(|(i, member)| i != at && member.connection().is_some());
        let is_source = matches!(call.direction, Direction::Receive(_));
        let Some(member) = self.members.get_mut(at) else { return };
        if member.is_leaving {
            log::info!("`{}`: group member {} was removed, and has ended: {reason}", call.status.name(), member.host);
            member.state = MemberState::Waiting(now);
            self.last_failure = Some(reason);
            return;
        }
        let lasted = member.up().map(|up| now.saturating_duration_since(up.since));
        if let Some(lasted) = lasted {
            member.backoff.connected(lasted);
        }
        let delay = member.backoff.failed(Some(&reason));
        member.state = MemberState::Waiting(now + delay);
        let name = call.status.name();
        log::warn!("`{name}`: group member {}: {reason}; it is called again in {} ms", member.host, delay.as_millis());
        // While others are up, the group is not lost: its member alone is reported, each reason once.
        if others && member.told.as_ref() != Some(&reason) {
            call.status.record_loss(&reason, peer, now);
            if lasted.is_some() && !is_source {
                call.events.emit(Event::OutputLost { output: name.clone(), peer, reason: reason.clone() });
            } else if let Some(peer) = peer.filter(|_| lasted.is_some()) {
                call.events.emit(Event::MemberLost { source: name.clone(), peer, reason: reason.clone() });
            }
            let attempt = member.backoff.attempts();
            call.events.emit(if is_source {
                Event::SourceRetrying { source: name, attempt, delay, reason: reason.clone() }
            } else {
                Event::OutputRetrying { output: name, attempt, delay, reason: reason.clone() }
            });
            member.told = Some(reason.clone());
        }
        self.last_failure = Some(reason);
    }

    /// Returns whether no member is up, and the group was, or every member has failed.
    fn is_over(&self) -> bool {
        let none_up = self.members.iter().all(|member| member.connection().is_none());
        let all_failed = self.members.iter().all(|member| matches!(member.state, MemberState::Waiting(_)));
        none_up && self.last_failure.is_some() && (self.was_up || all_failed)
    }

    fn apply_rates(&mut self, call: &mut SrtClient) {
        let Some(rates) = call.rates.changed() else { return };
        rates.apply(&mut call.terms);
        for up in self.members.iter_mut().filter_map(Member::up) {
            up.io.connection.set_rates(rates.buffer, rates.pacing);
            up.memory.set_rate(rates.pacing.bytes_per_second);
        }
    }

    /// Queues the new media of an output on all members that are up.
    fn push_media(&mut self, call: &mut SrtClient, lag: &mut LagReport, now: Instant) {
        let Direction::Send(reader) = &mut call.direction else { return };
        let mut window: Vec<Arc<Batch>> = Vec::new();
        let lost = reader.read(&mut window);
        call.dropped(lost.packets, lag, now);
        let limit = self.members.iter().filter_map(Member::connection).map(Connection::max_payload).min();
        let Some(limit) = limit else { return };
        let mut packets = 0;
        let mut bytes = 0;
        let mut oversized = 0;
        for packet in window.iter().flat_map(|batch| batch.packets()) {
            let data = packet.data();
            if data.len() > limit {
                oversized += 1; // too long for one of them
                continue;
            }
            packets += 1;
            bytes += data.len() as u64;
            let queued = arrival_within(Duration::MAX, packet.arrival(), now);
            for up in self.members.iter_mut().filter_map(Member::up).filter(|up| up.is_active()) {
                up.io.connection.push_queued(data, self.numbers.next(), queued, now);
            }
            if let Some(backup) = &mut self.backup {
                backup.keep(data, self.numbers.next(), queued);
            }
            self.numbers.advance(1);
        }
        call.status.counters.passed(now, packets, bytes); // the same media on several paths counts once
        call.status.counters.dropped.add(oversized);
        lag.note_oversized(oversized, limit, &call.status, &call.events, now);
    }

    /// Runs the timers of all members, and hands received payloads to the flow. Returns the reason if the group has to
    /// end.
    fn attend(&mut self, call: &SrtClient, ingest: Option<&mut Ingest>, now: Instant) -> Option<LossReason> {
        for at in 0..self.members.len() {
            let Some(member) = self.members.get_mut(at) else { break };
            match &mut member.state {
                MemberState::Calling(calling) => {
                    if let Some(packet) = calling.caller.poll_transmit(now) {
                        calling.sender.send(&calling.socket, &[Datagram { head: &[], body: &packet }]);
                    }
                    if matches!(calling.caller.handle_timeout(now), Progress::TimedOut) {
                        let peer = calling.peer;
                        let reason = LossReason::Unreachable(format!("{peer}: no answer in time").into());
                        self.fail(at, reason, Some(peer), call, now);
                    }
                }
                MemberState::Up(up) => up.io.connection.handle_timeout(now),
                _ => {}
            }
        }
        let result = match ingest {
            Some(ingest) => self.deliver(ingest, now),
            None => {
                for up in self.members.iter_mut().filter_map(Member::up) {
                    while up.io.connection.poll_delivery(now).is_some() {} // no payloads, only detects the end
                }
                None
            }
        };
        self.attend_backup(now);
        for at in 0..self.members.len() {
            let member = self.members.get_mut(at).filter(|member| !member.is_leaving);
            let lost = member.and_then(Member::up).and_then(|up| Some((up.io.loss()?, up.peer)));
            if let Some((reason, peer)) = lost {
                self.settle_member(at, call, now);
                self.fail(at, reason, Some(peer), call, now);
            }
        }
        result
    }

    /// Chooses the members that send, of a main/backup group.
    fn attend_backup(&mut self, now: Instant) {
        let Some(sender) = &mut self.backup else { return };
        let mut legs = Vec::new();
        for up in self.members.iter_mut().filter_map(Member::up) {
            let Up { backup, io, .. } = up;
            if let Some(member) = backup.as_mut().filter(|_| io.connection.closed().is_none()) {
                legs.push(BackupLeg { member, connection: &mut io.connection });
            }
        }
        sender.attend(&mut legs, now);
    }

    /// Hands the payloads that are due to the flow, each once.
    fn deliver(&mut self, ingest: &mut Ingest, now: Instant) -> Option<LossReason> {
        ingest.refresh();
        let mut sender = None;
        loop {
            let heads = self.members.iter().enumerate();
            let heads = heads.filter_map(|(at, member)| Some((at, member.connection()?.head(now)?)));
            let Some(at) = self.input.choose(heads) else { break };
            let Some(up) = self.members.get_mut(at).and_then(Member::up) else { break };
            let Some(head) = up.io.connection.head(now) else { break };
            let delivered = self.input.take(head, &mut up.io.connection);
            sender = Some(up.peer);
            self.skip_delivered();
            let Some((payload, due)) = delivered else { continue };
            match ingest.admit(now, payload.len()) {
                Verdict::Pass => ingest.out.packets.push(MediaPacket::datagram(payload, due.min(now))),
                Verdict::Drop => {}
                Verdict::Disconnect => return Some(LossReason::BandwidthExceeded),
            }
        }
        self.skip_delivered();
        let first = self.members.iter_mut().find_map(|member| member.up().map(|up| up.peer));
        ingest.publish(now, first.or(sender));
        (self.was_up && ingest.is_idle(now)).then_some(LossReason::Idle)
    }

    fn skip_delivered(&mut self) {
        let mut clock = None;
        for up in self.members.iter_mut().filter_map(Member::up) {
            self.input.skip(&mut up.io.connection, &mut clock);
        }
    }

    fn shut_down(&mut self, now: Instant) {
        for up in self.members.iter_mut().filter_map(Member::up) {
            up.io.connection.shut_down(now);
        }
    }

    fn flush(&mut self, now: Instant) {
        for member in &mut self.members {
            if let MemberState::Up(up) = &mut member.state {
                let Up { io, socket, .. } = &mut **up;
                io.flush(socket, &mut self.batch, now);
            }
        }
    }

    /// Adds the statistics of a member since the last call to the counters.
    pub(super) fn settle_member(&mut self, at: usize, call: &SrtClient, now: Instant) {
        let Some(up) = self.members.get_mut(at).and_then(Member::up) else { return };
        let mut stats = up.io.connection.stats();
        let is_source = matches!(call.direction, Direction::Receive(_));
        let shown = stats;
        // What the members of an output send, and what single members drop, counts with the member alone.
        stats.sent.packets = up.settled.sent.packets;
        stats.sent.bytes = up.settled.sent.bytes;
        let _ = settle(&call.status, &call.events, is_source, &stats, &up.settled, now);
        up.settled = stats;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let counters = &call.status.counters;
        counters.rtt_us.set(micros(shown.rtt));
        counters.latency_us.set(micros(shown.latency));
        counters.buffered_us.set(micros(shown.buffered));
    }

    fn statistics(&mut self, call: &SrtClient, is_source: bool, now: Instant) {
        for at in 0..self.members.len() {
            self.settle_member(at, call, now);
        }
        let lost = self.input.lost - std::mem::replace(&mut self.settled_lost, self.input.lost);
        call.status.counters.lost.add(if is_source { lost } else { 0 });
        let mut shown = Vec::new();
        for member in &self.members {
            let since = match &member.state {
                MemberState::Up(up) => Some(now.saturating_duration_since(up.since)),
                _ => None,
            };
            let is_active = match &member.state {
                MemberState::Up(up) if is_source => up.io.connection.is_receiving(),
                MemberState::Up(up) => up.is_active(),
                _ => false,
            };
            let stats = member.connection().map(Connection::stats).unwrap_or_default();
            shown.push(member_stats(member.host.to_string(), since, is_active, &stats, is_source));
        }
        call.status.set_members(shown);
    }
}
