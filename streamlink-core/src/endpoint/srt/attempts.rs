//! Attempts to connect that are being decided: by the host ([`Gate`](super::Gate)), and by the passphrase. Both take
//! time that the media of others must not wait for: they run on the runtime's threads for blocking work, and come back
//! to the port's task as outcomes.
//!
//! Bounded: so many attempts at once ([`MAX_ATTEMPTS`], and a share of them for each address), so many threads
//! ([`MAX_ASKING`], [`MAX_DERIVING`]), and so much time ([`DECISION_TIME`]).

use super::{super::listener::PeerSlot, route::RouteId};
use crate::{
    flow::Passphrase,
    proto::srt::{Handshake, Rejection, WrappingKey},
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Attempts of one port that are decided at once at most.
const MAX_ATTEMPTS: usize = 1024;
/// Questions of one port that the host is asked at once at most.
const MAX_ASKING: usize = 16;
/// Keys of one port that are derived at once at most.
const MAX_DERIVING: usize = 2;
/// How long an attempt may wait for its decision. A caller of libsrt waits 3 s.
const DECISION_TIME: Duration = Duration::from_secs(2);

/// What has come of a piece of work.
pub(super) enum Outcome {
    /// The host lets the caller in, with this passphrase if it has chosen one, or does not.
    Asked(Result<Option<Passphrase>, Rejection>),
    Derived(WrappingKey),
    /// The work has panicked.
    Failed,
}

/// Work for another thread.
pub(super) type Work = Box<dyn FnOnce() -> Outcome + Send>;

/// The two kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ask,
    Derive,
}

/// Work of one kind.
struct Lane {
    most: usize,
    /// The attempts for which it runs, also those that were given up meanwhile, and their routes.
    running: HashMap<u64, RouteId>,
    waiting: VecDeque<(u64, RouteId, Work)>,
}

impl Lane {
    fn new(most: usize) -> Self {
        Self { most, running: HashMap::new(), waiting: VecDeque::new() }
    }
}

/// A caller that has shown its address and waits for a decision.
pub(super) struct Attempt {
    pub(super) route: RouteId,
    pub(super) peer: SocketAddr,
    pub(super) request: Box<Handshake>,
    /// The timestamp of the last copy of the request, and when that came: the peer's clock.
    pub(super) timestamp: u32,
    pub(super) heard: Instant,
    /// The passphrase that the host has chosen.
    pub(super) passphrase: Option<Passphrase>,
    /// Its place among the connections of its address.
    pub(super) connection: PeerSlot,
}

impl Attempt {
    /// The peer's timestamp of now.
    pub(super) fn timestamp_at(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.heard).as_micros();
        self.timestamp.wrapping_add(elapsed as u32) // wraps, as timestamps do
    }
}

/// An attempt that is kept until its outcome comes.
struct Pending {
    attempt: Attempt,
    kind: Kind,
    deadline: Instant,
    /// Its place among those of its address that are not decided.
    _slot: PeerSlot,
}

/// Reports an outcome, that of a panic if the work comes to no end.
struct Report {
    id: u64,
    kind: Kind,
    outcome: Option<Outcome>,
    to: mpsc::UnboundedSender<(u64, Kind, Outcome)>,
}

impl Report {
    fn report(mut self, outcome: Outcome) {
        self.outcome = Some(outcome); // sent as this is dropped
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Outcome::Failed);
        let _ = self.to.send((self.id, self.kind, outcome)); // a port that has closed decides nothing
    }
}

/// The attempts of one port.
pub(super) struct Attempts {
    pending: HashMap<u64, Pending>,
    by_caller: HashMap<(SocketAddr, u32), u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    asking: Lane,
    deriving: Lane,
    /// Holds one outcome for each running piece of work at most.
    outcomes: mpsc::UnboundedReceiver<(u64, Kind, Outcome)>,
    report_to: mpsc::UnboundedSender<(u64, Kind, Outcome)>,
}

impl Attempts {
    pub(super) fn new() -> Self {
        let (report_to, outcomes) = mpsc::unbounded_channel();
        Self {
            pending: HashMap::new(),
            by_caller: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 0,
            asking: Lane::new(MAX_ASKING),
            deriving: Lane::new(MAX_DERIVING),
            outcomes,
            report_to,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < MAX_ATTEMPTS
    }

    /// Returns whether a caller's attempt is being decided already; then this is its request once more, which tells
    /// its clock and is otherwise not looked at.
    pub(super) fn is_repeated(&mut self, peer: SocketAddr, id: u32, timestamp: u32, now: Instant) -> bool {
        let Some(pending) = self.by_caller.get(&(peer, id)).and_then(|id| self.pending.get_mut(id)) else {
            return false;
        };
        (pending.attempt.timestamp, pending.attempt.heard) = (timestamp, now);
        true
    }

    /// Takes an attempt and its first piece of work. There must be room.
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

    /// Starts what waits, as far as threads may be used.
    fn start(&mut self, kind: Kind) {
        let to = self.report_to.clone();
        let lane = self.lane(kind);
        while lane.running.len() < lane.most
            && let Some((id, route, work)) = lane.waiting.pop_front()
        {
            lane.running.insert(id, route);
            let report = Report { id, kind, outcome: None, to: to.clone() };
            tokio::task::spawn_blocking(move || {
                let outcome = work();
                report.report(outcome);
            });
        }
    }

    /// Waits for the next outcome.
    pub(super) async fn next(&mut self) -> (u64, Kind, Outcome) {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await, // never: a sender is ours
        }
    }

    /// Takes note that a piece of work is done. `Some`: the attempt, unless it was given up meanwhile. It goes on
    /// with [`Attempts::resume`].
    pub(super) fn done(&mut self, id: u64, kind: Kind) -> Option<Resumable> {
        self.lane(kind).running.remove(&id);
        self.start(kind);
        self.forget(id).map(|pending| Resumable { id, pending })
    }

    /// Puts an attempt back, to wait for another piece of work within the same time.
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

    /// Gives up an attempt. Work for it that runs comes to nothing.
    fn give_up(&mut self, id: u64) -> Option<(Attempt, Kind)> {
        let pending = self.forget(id)?;
        self.lane(pending.kind).waiting.retain(|(waiting, ..)| *waiting != id);
        Some((pending.attempt, pending.kind))
    }

    /// When an attempt has waited for too long.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Gives up an attempt that has waited for too long; returns for what.
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

/// An attempt with one piece of work done.
pub(super) struct Resumable {
    id: u64,
    pending: Pending,
}

impl Resumable {
    pub(super) fn attempt(&mut self) -> &mut Attempt {
        &mut self.pending.attempt
    }

    /// The attempt, which is decided.
    pub(super) fn decided(self) -> Attempt {
        self.pending.attempt
    }
}
