//! Connection attempts whose decision takes time: the host is asked ([`AccessHook`]), and the key is derived
//! from the passphrase. This work runs in other tasks and threads, so that the media of other connections does not
//! wait for it. Its outcomes come back to the task of the port.
//!
//! Bounds: the number of attempts ([`MAX_ATTEMPTS`], and a share of them for each address), the number of threads
//! ([`MAX_DERIVING`], and that of the hook) and the time ([`DECISION_TIME`]).

use super::{
    super::{
        access::{AccessHook, Answer, DECISION_TIME},
        listener::PeerSlot,
    },
    route::RouteId,
};
use crate::{
    flow::Passphrase,
    lock,
    proto::srt::{Handshake, WrappingKey},
};
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};
use tokio::sync::mpsc;

/// Maximum number of undecided attempts of one port.
const MAX_ATTEMPTS: usize = 1024;
/// Maximum number of concurrent key derivations of one port.
const MAX_DERIVING: usize = 2;

/// Result of a piece of work.
pub(super) enum Outcome {
    /// Answer of the host.
    Asked(Answer),
    Derived(WrappingKey),
    /// The work panicked.
    Failed,
}

/// Piece of work.
pub(super) enum Work {
    /// Question to the host, which runs as a task.
    Ask(BoxFuture<'static, Answer>),
    /// Derivation of a key, which runs on a blocking thread.
    Derive(Box<dyn FnOnce() -> Outcome + Send>),
}

/// Kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ask,
    Derive,
}

/// Queue of the work of one kind.
struct Lane {
    most: usize,
    /// Attempts whose work is running, including those given up meanwhile, and their routes.
    running: HashMap<u64, RouteId>,
    waiting: VecDeque<(u64, RouteId, Work)>,
}

impl Lane {
    fn new(most: usize) -> Self {
        Self { most, running: HashMap::new(), waiting: VecDeque::new() }
    }
}

/// Attempt of a caller that has proved its address and waits for a decision.
pub(super) struct Attempt {
    pub(super) route: RouteId,
    pub(super) peer: SocketAddr,
    pub(super) request: Box<Handshake>,
    /// Timestamp of the last copy of the request. Together with `heard` it gives the peer's clock.
    pub(super) timestamp: u32,
    pub(super) heard: Instant,
    /// Passphrase that the host has chosen.
    pub(super) passphrase: Option<Passphrase>,
    /// Share of the connections allowed for its address.
    pub(super) connection: PeerSlot,
}

impl Attempt {
    /// Returns the peer's timestamp at `now`.
    pub(super) fn timestamp_at(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.heard).as_micros();
        self.timestamp.wrapping_add(elapsed as u32) // timestamps wrap
    }
}

/// Attempt that waits for the outcome of its work.
struct Pending {
    attempt: Attempt,
    kind: Kind,
    deadline: Instant,
    /// Share of the undecided attempts allowed for its address.
    _slot: PeerSlot,
}

/// Sends the outcome of a piece of work when dropped. If the work panicked, it sends [`Outcome::Failed`].
struct Report {
    id: u64,
    kind: Kind,
    outcome: Option<Outcome>,
    to: mpsc::UnboundedSender<(u64, Kind, Outcome)>,
}

impl Report {
    fn report(mut self, outcome: Outcome) {
        self.outcome = Some(outcome); // sent when `self` is dropped
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Outcome::Failed);
        let _ = self.to.send((self.id, self.kind, outcome)); // fails if the port has closed, which needs no outcome
    }
}

/// Undecided attempts of one port.
pub(super) struct Attempts {
    pending: HashMap<u64, Pending>,
    by_caller: HashMap<(SocketAddr, u32), u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    asking: Lane,
    deriving: Lane,
    /// At most one outcome for each running piece of work.
    outcomes: mpsc::UnboundedReceiver<(u64, Kind, Outcome)>,
    report_to: mpsc::UnboundedSender<(u64, Kind, Outcome)>,
}

impl Attempts {
    pub(super) fn new(access_hook: Option<&AccessHook>) -> Self {
        let (report_to, outcomes) = mpsc::unbounded_channel();
        Self {
            pending: HashMap::new(),
            by_caller: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 0,
            asking: Lane::new(access_hook.map_or(0, AccessHook::concurrency)),
            deriving: Lane::new(MAX_DERIVING),
            outcomes,
            report_to,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < MAX_ATTEMPTS
    }

    /// Returns whether an attempt of this caller is undecided already. Its repeated request then only updates the
    /// peer's clock. An attempt with another sequence number is of a caller that has restarted since, and is given up.
    pub(super) fn is_repeated(&mut self, peer: SocketAddr, request: &Handshake, timestamp: u32, now: Instant) -> bool {
        let Some(id) = self.by_caller.get(&(peer, request.socket_id)).copied() else { return false };
        let Some(pending) = self.pending.get_mut(&id) else { return false };
        if pending.attempt.request.initial_sequence != request.initial_sequence {
            self.give_up(id);
            return false;
        }
        (pending.attempt.timestamp, pending.attempt.heard) = (timestamp, now);
        true
    }

    /// Begins an attempt with its first piece of work. The caller has checked [`Attempts::has_room`].
    pub(super) fn begin(&mut self, attempt: Attempt, slot: PeerSlot, kind: Kind, work: Work, now: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        let pending = Pending { attempt, kind, deadline: now + DECISION_TIME, _slot: slot };
        self.queue(id, pending, work);
    }

    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Ask => &mut self.asking,
            Kind::Derive => &mut self.deriving,
        }
    }

    fn queue(&mut self, id: u64, pending: Pending, work: Work) {
        let (kind, route) = (pending.kind, pending.attempt.route);
        self.by_caller.insert((pending.attempt.peer, pending.attempt.request.socket_id), id);
        self.deadlines.insert((pending.deadline, id));
        self.pending.insert(id, pending);
        self.lane(kind).waiting.push_back((id, route, work));
        self.start(kind);
    }

    /// Starts waiting work while threads are free.
    fn start(&mut self, kind: Kind) {
        let to = self.report_to.clone();
        let lane = self.lane(kind);
        while lane.running.len() < lane.most
            && let Some((id, route, work)) = lane.waiting.pop_front()
        {
            lane.running.insert(id, route);
            let report = Report { id, kind, outcome: None, to: to.clone() };
            match work {
                Work::Ask(question) => {
                    tokio::spawn(lock::task(async move { report.report(Outcome::Asked(question.await)) }));
                }
                Work::Derive(derive) => {
                    tokio::task::spawn_blocking(move || report.report(lock::on_task(derive)));
                }
            }
        }
    }

    /// Waits for the next outcome.
    pub(super) async fn next(&mut self) -> (u64, Kind, Outcome) {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await, // unreachable: `self` holds a sender
        }
    }

    /// Records that a piece of work is done. Returns the attempt, to be continued with [`Attempts::resume`], or `None`
    /// if it was given up meanwhile.
    pub(super) fn done(&mut self, id: u64, kind: Kind) -> Option<Resumable> {
        self.lane(kind).running.remove(&id);
        self.start(kind);
        self.forget(id).map(|pending| Resumable { id, pending })
    }

    /// Queues another piece of work for an attempt. The deadline stays the same.
    pub(super) fn resume(&mut self, resumable: Resumable, kind: Kind, work: Work) {
        let Resumable { id, mut pending } = resumable;
        pending.kind = kind;
        self.queue(id, pending, work);
    }

    /// Returns whether the host is being asked about a caller of a route.
    pub(super) fn is_asking(&self, route: RouteId) -> bool {
        self.asking.running.values().any(|of| *of == route)
    }

    fn forget(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.by_caller.remove(&(pending.attempt.peer, pending.attempt.request.socket_id));
        self.deadlines.remove(&(pending.deadline, id));
        Some(pending)
    }

    /// Gives up an attempt. The result of its running work is ignored.
    fn give_up(&mut self, id: u64) -> Option<(Attempt, Kind)> {
        let pending = self.forget(id)?;
        self.lane(pending.kind).waiting.retain(|(waiting, ..)| *waiting != id);
        Some((pending.attempt, pending.kind))
    }

    /// Returns the earliest deadline of an attempt.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Gives up an attempt that has passed its deadline. Returns it with the kind of work it waited for.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<(Attempt, Kind)> {
        let (at, id) = self.deadlines.first().copied()?;
        if at <= now { self.give_up(id) } else { None }
    }

    /// Gives up the attempts at a route.
    pub(super) fn remove_route(&mut self, route: RouteId) {
        let of_route = |(id, pending): (&u64, &Pending)| (pending.attempt.route == route).then_some(*id);
        let gone: Vec<u64> = self.pending.iter().filter_map(of_route).collect();
        for id in gone {
            self.give_up(id);
        }
    }
}

/// Attempt with one piece of work done.
pub(super) struct Resumable {
    id: u64,
    pending: Pending,
}

impl Resumable {
    pub(super) fn attempt(&mut self) -> &mut Attempt {
        &mut self.pending.attempt
    }

    /// Returns the decided attempt.
    pub(super) fn decided(self) -> Attempt {
        self.pending.attempt
    }
}
