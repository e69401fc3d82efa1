//! Handshakes of callers with a port: checks that cost nothing, and attempts that the host or a key derivation decides.
//! The order of admission stands in [`listener`](super::super::listener).
//!
//! Only requests of callers are answered, each once. Until a caller has proved its address with its cookie, no state is
//! kept for it and no answer is longer than its request.

use super::{
    super::{
        Event, LossReason, RefusalReason,
        listener::{HasAdmission, RouteId},
    },
    attempts::{Attempt, Resumable, Work, WorkKind, WorkOutcome},
    connected_caller::ConnectedCaller,
    connection_io::ConnectionIo,
    route::OpenRoute,
    task::PortTask,
    terms::reason,
};
use crate::{
    flow::{StreamId, StreamIdError},
    lock::log_handshake,
    net::{Datagram, Peer},
    proto::srt::{
        Connection, ConnectionStats, Control, Greeting, Handshake, KeyDerivation, Local, Rejection, Terms, WrappingKey,
        acceptable, write_control,
    },
    random::Random,
    router::State,
};
use std::{collections::HashMap, net::SocketAddr, time::Instant};

/// Next step of an attempt before it can be admitted.
enum Step {
    Ready,
    Derive(KeyDerivation),
}

impl PortTask {
    pub(super) fn reply(&mut self, peer: SocketAddr, packet: &[u8]) {
        let to = Peer::new(peer, self.socket.local_addr());
        self.sender.send_to(&self.socket, Some(&to), &[Datagram { head: &[], body: packet }]);
    }

    /// Handles a handshake packet with destination 0, which belongs to no connection yet.
    pub(super) fn handshake(&mut self, body: &[u8], timestamp: u32, peer: SocketAddr, now: Instant) {
        let is_stranger = !self.routes.admits(peer.ip());
        match self.listener.greet(body, peer, now) {
            Greeting::Induction(asked) | Greeting::Request(asked) if is_stranger => {
                // No cookie is sent and no attempt is counted, because the address may be forged.
                self.routes.refuse(&[], peer, reason(Rejection::FORBIDDEN), "", now);
                let reply = self.listener.reject(&asked, Rejection::FORBIDDEN, now);
                self.reply(peer, &reply);
            }
            Greeting::Induction(asked) => {
                log_handshake(|| format!("SRT {peer} asks for a cookie, version {}", asked.version));
                let reply = self.listener.welcome(&asked, peer, now);
                self.reply(peer, &reply);
            }
            Greeting::Request(request) => self.request(request, timestamp, peer, now),
            Greeting::Ignore => {}
        }
    }

    /// Handles a handshake packet for an established connection. It is answered again, as the caller may have missed
    /// the first answer.
    pub(super) fn handshake_of(&mut self, id: u32, body: &[u8], peer: SocketAddr, now: Instant) {
        if let Greeting::Request(request) = self.listener.greet(body, peer, now)
            && self.callers.get(&id).is_some_and(|caller| caller.peer_id == request.socket_id)
        {
            self.answer_again(id, now);
        }
    }

    fn answer_again(&mut self, id: u32, now: Instant) {
        if let Some(caller) = self.callers.get_mut(&id)
            && let Some(answer) = caller.answer_again(now)
        {
            let peer = caller.peer;
            self.reply(peer, &answer);
        }
    }

    /// Handles a connection request of a caller that has proved its address.
    fn request(&mut self, request: Box<Handshake>, timestamp: u32, peer: SocketAddr, now: Instant) {
        if let Some(id) = self.by_peer.get(&(peer, request.socket_id)).copied() {
            if self.callers.get(&id).is_some_and(|caller| caller.initial_sequence == request.initial_sequence) {
                return self.answer_again(id, now);
            }
            // The peer has restarted, with the same port and socket id, and knows nothing of the connection before.
            self.forget(id, LossReason::Closed, now);
        }
        if self.attempts.is_repeated(peer, &request, timestamp, now) {
            return;
        }
        let asked = StreamId::parse(request.extensions.stream_id.as_deref().unwrap_or_default());
        log_handshake(|| {
            let id = match &asked {
                Ok(_) if request.extensions.stream_id.is_none() => "no stream id".to_owned(),
                Ok(id) => id.to_string(),
                Err(error) => error.to_string(),
            };
            let key = if request.extensions.key_material.is_some() { "encrypted" } else { "not encrypted" };
            format!("SRT {peer} asks for a connection, version {}: {id}, {key}", request.version)
        });
        let known = asked.clone().unwrap_or_default();
        let route = self.find_route(&known);
        let meant = route.map_or_else(|| self.meant_by(&known), |route| vec![route]);
        if !self.places.peers.may_attempt(peer.ip(), now) {
            // No answer is sent. A rejection would be final for other callers at that address, which repeat their
            // request every 250 ms and may find an attempt free by then.
            return self.routes.refuse(&meant, peer, RefusalReason::TooManyAttempts, "", now);
        }
        let checked = acceptable(&request).map(|_| ());
        let (rejection, detail) = match (checked, asked, route) {
            (Err(rejection), ..) => (rejection, rejection_detail(rejection, &request)),
            (Ok(()), Err(error), _) => {
                let is_mode = error == StreamIdError::Mode;
                (if is_mode { Rejection::BAD_MODE } else { Rejection::BAD_REQUEST }, error.to_string())
            }
            (Ok(()), Ok(asked), None) => {
                // The name may be right, and the mode that of the other direction.
                let purpose = match asked.publish() {
                    Some(true) => ", to publish",
                    Some(false) => ", to play",
                    None => "",
                };
                (Rejection::NOT_FOUND, format!("{asked} was asked for{purpose}"))
            }
            (Ok(()), Ok(_), Some(route)) => {
                let rejected = request.clone();
                if let Err(rejection) = self.attempt(route, request, timestamp, peer, now) {
                    self.refuse(&meant, &rejected, peer, rejection, now);
                }
                return;
            }
        };
        self.refuse_with(&meant, &request, peer, rejection, (reason(rejection), &detail), now);
    }

    /// Returns the route that a caller asks for. One with the same stream id is preferred to one without.
    fn find_route(&self, asked: &StreamId) -> Option<RouteId> {
        let fits = self.routes.iter().filter_map(|(id, open)| Some((open.fit(asked)?, id)));
        fits.min().map(|(_, id)| id)
    }

    /// Returns the routes that a caller may have meant: those that it names, or all of its direction.
    fn meant_by(&self, asked: &StreamId) -> Vec<RouteId> {
        let of = |fits: &dyn Fn(&OpenRoute) -> bool| -> Vec<RouteId> {
            self.routes.iter().filter(|(_, open)| fits(open)).map(|(id, _)| id).collect()
        };
        let named = of(&|open| open.is_named_by(asked));
        if named.is_empty() { of(&|open| open.has_direction_of(asked)) } else { named }
    }

    /// Refuses a caller and sends it the reason.
    fn refuse(
        &mut self,
        routes: &[RouteId],
        request: &Handshake,
        peer: SocketAddr,
        rejection: Rejection,
        now: Instant,
    ) {
        let detail = rejection_detail(rejection, request);
        self.refuse_with(routes, request, peer, rejection, (reason(rejection), &detail), now);
    }

    /// Does the same as [`PortTask::refuse`], with a reason and details for the event that the code does not tell.
    fn refuse_with(
        &mut self,
        routes: &[RouteId],
        request: &Handshake,
        peer: SocketAddr,
        rejection: Rejection,
        (reason, detail): (RefusalReason, &str),
        now: Instant,
    ) {
        log_handshake(|| format!("SRT {peer} is answered {rejection}"));
        self.routes.refuse(routes, peer, reason, detail, now);
        // A lack of room is not the peer's fault, so it does not count against its address.
        if !matches!(rejection, Rejection::BACKLOG | Rejection::RESOURCE | Rejection::CONFLICT) {
            self.places.peers.refused(peer.ip(), now);
        }
        let reply = self.listener.reject(request, rejection, now);
        self.reply(peer, &reply);
    }

    /// Checks whether a route can take one more connection.
    fn has_room(&self, route: RouteId, request: &Handshake, peer: SocketAddr, now: Instant) -> Result<(), Rejection> {
        let open = self.routes.get(route).ok_or(Rejection::NOT_FOUND)?;
        let admission = open.admission();
        if !admission.admits(peer.ip()) {
            return Err(Rejection::FORBIDDEN);
        }
        // The members of a group bring one stream.
        if self.groups.is_joined(route, request)? && admission.is_source() {
            return Ok(());
        }
        if open.callers.len() >= admission.max_peers() && !admission.may_take_over(now) {
            return Err(if admission.is_source() { Rejection::CONFLICT } else { Rejection::BACKLOG });
        }
        Ok(())
    }

    /// Forgets the connection of a source to the same address and port. A caller that asks for the same source again from
    /// there has restarted, unless it is one more member of the same group.
    fn replace_restarted(&mut self, route: RouteId, request: &Handshake, peer: SocketAddr, now: Instant) {
        let Some(open) = self.routes.get(route).filter(|open| open.ingest.is_some()) else { return };
        let group = request.extensions.group.map(|group| (route, group.id));
        let is_restarted = |caller: &ConnectedCaller| caller.peer == peer && (group.is_none() || caller.group != group);
        let of_peer = |id: &&u32| self.callers.get(id).is_some_and(is_restarted);
        if let Some(id) = open.callers.iter().find(of_peer).copied() {
            self.forget(id, LossReason::Closed, now);
        }
    }

    /// Admits a caller at once if neither the host nor a key derivation has to decide. Begins its attempt otherwise.
    fn attempt(
        &mut self,
        id: RouteId,
        request: Box<Handshake>,
        timestamp: u32,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Rejection> {
        self.replace_restarted(id, &request, peer, now);
        self.has_room(id, &request, peer, now)?;
        let place = match self.places.take_connection(peer, now) {
            Ok(place) => place,
            // The port is full, or many callers share the address, as behind a NAT router.
            Err(reason) => {
                let is_full = reason == RefusalReason::TooManyPeers;
                let rejection = if is_full { Rejection::RESOURCE } else { Rejection::BACKLOG };
                self.refuse_with(&[id], &request, peer, rejection, (reason, ""), now);
                return Ok(());
            }
        };
        let attempt = Attempt { route: id, peer, request, timestamp, heard: now, passphrase: None, place };
        let work = match &self.access {
            None => match self.next_step(&attempt)? {
                Step::Ready => return self.admit(attempt, None, now),
                Step::Derive(derivation) => derive(derivation),
            },
            Some(gate) => {
                let open = self.routes.get(id).ok_or(Rejection::NOT_FOUND)?;
                let mut question = gate.question(open.admission(), peer);
                question.stream_id = attempt.request.extensions.stream_id.clone();
                let asked = StreamId::parse(question.stream_id.as_deref().unwrap_or_default());
                question.user = asked.ok().and_then(|asked| asked.user().map(str::to_owned));
                // The token holds back the removal of the route until the host's code has returned.
                Work::Ask(Box::pin(gate.ask(question, open.questions.token())))
            }
        };
        match self.places.take_pending(peer, now) {
            Ok(place) => self.attempts.begin(attempt, place, work, now),
            // No answer is sent. The caller repeats its request every 250 ms, when there may be room, but would take a
            // rejection as final.
            Err(_) => self.routes.refuse(&[id], peer, RefusalReason::TooManyAttempts, "", now),
        }
        Ok(())
    }

    /// Terms of a route, with the passphrase that the host has chosen for a caller.
    fn terms(&self, attempt: &Attempt) -> Result<Terms, Rejection> {
        let terms = &self.routes.get(attempt.route).ok_or(Rejection::NOT_FOUND)?.route.terms;
        let chosen = attempt.passphrase.as_ref().map(|passphrase| passphrase.secret().clone());
        Ok(Terms { passphrase: chosen.or_else(|| terms.passphrase.clone()), ..terms.clone() })
    }

    fn next_step(&self, attempt: &Attempt) -> Result<Step, Rejection> {
        let derivation = self.terms(attempt)?.prepare(&attempt.request)?;
        Ok(derivation.map_or(Step::Ready, Step::Derive))
    }

    /// Continues an attempt after one piece of its work is done.
    pub(super) fn decide(&mut self, (id, kind, outcome): (u64, WorkKind, WorkOutcome), now: Instant) {
        let Some(mut resumable) = self.attempts.done(id, kind) else { return };
        let attempt = resumable.attempt();
        let route = attempt.route;
        let peer = attempt.peer;
        let request = attempt.request.clone();
        let result = match outcome {
            WorkOutcome::Failed => Err(Rejection::INTERNAL),
            WorkOutcome::Asked(Err(code)) => {
                return self.refuse_with(
                    &[route],
                    &request,
                    peer,
                    Rejection(code),
                    (RefusalReason::ByHost, &format!("code {code}")),
                    now,
                );
            }
            WorkOutcome::Asked(Ok(passphrase)) => {
                attempt.passphrase = passphrase;
                self.after_asking(resumable, now)
            }
            WorkOutcome::Derived(wrapping) => self.admit(resumable.decided(), Some(wrapping), now),
        };
        if let Err(rejection) = result {
            self.refuse(&[route], &request, peer, rejection, now);
        }
    }

    fn after_asking(&mut self, mut resumable: Resumable, now: Instant) -> Result<(), Rejection> {
        match self.next_step(resumable.attempt())? {
            Step::Ready => self.admit(resumable.decided(), None, now),
            Step::Derive(derivation) => {
                self.attempts.resume(resumable, derive(derivation));
                Ok(())
            }
        }
    }

    /// Refuses the attempts that have passed their deadline.
    pub(super) fn give_up_overdue(&mut self, now: Instant) {
        while let Some((attempt, kind)) = self.attempts.take_overdue(now) {
            let rejection = match kind {
                WorkKind::Ask => {
                    if let Some(gate) = &self.access {
                        gate.log_unanswered(now);
                    }
                    Rejection::INTERNAL
                }
                WorkKind::Derive => Rejection::RESOURCE,
            };
            self.refuse(&[attempt.route], &attempt.request, attempt.peer, rejection, now);
        }
    }

    /// Admits a caller whose attempt is decided, if its passphrase is right and the route still has room.
    fn admit(&mut self, attempt: Attempt, wrapping: Option<WrappingKey>, now: Instant) -> Result<(), Rejection> {
        self.has_room(attempt.route, &attempt.request, attempt.peer, now)?;
        self.refresh_rates(attempt.route);
        let group = attempt.request.extensions.group.map(|group| (attempt.route, group.id));
        let joined = group.and_then(|key| self.groups.get(key));
        let is_joining = joined.is_some();
        let start = joined.map_or(now, |group| group.start);
        let local = Local { id: fresh_id(&self.random, &self.callers), start, random: self.random.clone() };
        let timestamp = attempt.timestamp_at(now);
        let (agreement, mut answer) = self.terms(&attempt)?.accept(&attempt.request, timestamp, &local, wrapping)?;
        let Attempt { route, peer, request, place, .. } = attempt;
        let peer_id = request.socket_id;
        let initial_sequence = request.initial_sequence;
        let to = Peer::new(peer, self.socket.local_addr());
        // The publisher before leaves first, so that the media of both never mixes.
        let open = self.routes.get(route).ok_or(Rejection::NOT_FOUND)?;
        let is_replacing = open.ingest.is_some() && !is_joining;
        let taken_over = if is_replacing { open.callers.clone() } else { Vec::new() };
        for id in taken_over {
            self.close(id, LossReason::TakenOver, now);
        }
        let open = self.routes.get_mut(route).ok_or(Rejection::NOT_FOUND)?;
        if let Some(ingest) = open.ingest.as_mut().filter(|_| !is_joining) {
            ingest.await_media(now + agreement.receive_latency);
        }
        let mut connection = Connection::new(agreement, now);
        let mut backup = None;
        if let Some(asked) = &request.extensions.group {
            let is_output = open.ingest.is_none();
            let group = self.groups.of_caller(route, asked, is_output, initial_sequence, &self.random, now);
            group.join(local.id, &mut connection, &self.callers);
            backup = group.backup_member(asked.weight);
            answer.extensions.group = Some(group.id.extension(asked.kind));
        }
        // The timestamp is that of the answer, which sets the peer's clock.
        let answer = write_control(&Control::Handshake(&answer.write()), connection.timestamp(now), peer_id);
        if open.ingest.is_none() {
            connection.send_only(); // players send no media
        }
        let rates = open.route.rates.now();
        connection.set_rates(rates.buffer, rates.pacing);
        let mut io = ConnectionIo::new(connection, &self.socket, Some(to));
        io.mark(open.route.dscp, peer.ip());
        open.callers.push(local.id);
        open.sender = open.sender.filter(|_| is_joining).or(Some(peer));
        open.status().counters.encrypted.set(u64::from(io.connection.stats().encrypted));
        log_handshake(|| {
            let name = open.status().name();
            let stats = io.connection.stats();
            let key = if stats.encrypted { "encrypted" } else { "not encrypted" };
            format!("SRT {peer} is connected to `{name}`, {key}")
        });
        if open.ingest.is_none() {
            open.status().counters.set_state(State::Connected, now);
            let output = open.status().name();
            open.events().emit(Event::OutputConnected { output, peer: Some(peer) });
        } else if is_joining {
            let source = open.status().name();
            open.events().emit(Event::MemberConnected { source, peer });
        }
        let is_source = open.ingest.is_some();
        let caller = ConnectedCaller {
            io,
            peer,
            peer_id,
            initial_sequence,
            answer: answer.clone(),
            next_answer: ConnectedCaller::next_answer_after(now),
            route,
            group,
            backup,
            since: now,
            scheduled: None,
            settled: ConnectionStats::default(),
            _place: place,
        };
        self.turns.add_leeway(caller.io.connection.leeway(), is_source);
        self.callers.insert(local.id, caller);
        self.by_peer.insert((peer, peer_id), local.id);
        self.reply(peer, &answer);
        self.attend(local.id, now);
        Ok(())
    }
}

/// Returns what an event says about a rejection beside its reason: the exact one, where several share a reason.
fn rejection_detail(rejection: Rejection, request: &Handshake) -> String {
    match rejection {
        Rejection::VERSION if request.version < 5 => {
            format!("{rejection}: the caller speaks version {}, as libsrt before 1.3", request.version)
        }
        _ if reason(rejection) == RefusalReason::Incompatible => rejection.to_string(),
        Rejection(code) if reason(rejection) == RefusalReason::ByHost => format!("code {code}"),
        _ => String::new(),
    }
}

fn derive(derivation: KeyDerivation) -> Work {
    Work::Derive(Box::new(move || WorkOutcome::Derived(derivation.run())))
}

/// Generates an unused socket id. It is never 0, which is the destination of handshakes.
fn fresh_id(random: &Random, callers: &HashMap<u32, ConnectedCaller>) -> u32 {
    loop {
        let id = u32::from_be_bytes(random.bytes()) & 0x3fff_ffff;
        if id != 0 && !callers.contains_key(&id) {
            return id;
        }
    }
}
