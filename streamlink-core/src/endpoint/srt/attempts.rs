//! Connection attempts whose decision takes time: the host is asked (`listener::AccessGate`), and the key is derived
//! from the passphrase. This work runs in other tasks and threads, so that the media of other connections does not
//! wait for it. Its outcomes come back to the task of the port.
//!
//! Bounds: the number of attempts (their pending places), the number of threads ([`MAX_DERIVING`], and that of the hook)
//! and the time ([`DECISION_TIME`]).

use super::super::{
    access::{DECISION_TIME, HookAnswer},
    listener::{ConnectionPlace, PendingPlace, RouteId},
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
use tokio_util::task::AbortOnDropHandle;

/// Maximum number of concurrent key derivations of one port.
const MAX_DERIVING: usize = 2;

/// Result of a piece of work.
pub(super) enum WorkOutcome {
    /// HookAnswer of the host.
    Asked(HookAnswer),
    Derived(WrappingKey),
    /// The work panicked.
    Failed,
}

/// Piece of work.
pub(super) enum Work {
    /// Question to the host, which runs as a task.
    Ask(BoxFuture<'static, HookAnswer>),
    /// Derivation of a key, which runs on a blocking thread.
    Derive(Derive),
}

type Derive = Box<dyn FnOnce() -> WorkOutcome + Send>;

impl Work {
    fn kind(&self) -> WorkKind {
        match self {
            Self::Ask(_) => WorkKind::Ask,
            Self::Derive(_) => WorkKind::Derive,
        }
    }
}

/// WorkKind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkKind {
    Ask,
    Derive,
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
    pub(super) place: ConnectionPlace,
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
    kind: WorkKind,
    deadline: Instant,
    /// Question to the host. It is withdrawn when the attempt is given up.
    question: Option<AbortOnDropHandle<()>>,
    _place: PendingPlace,
}

/// Sends the outcome of a piece of work when dropped. If the work panicked, it sends [`WorkOutcome::Failed`].
struct OutcomeSender {
    id: u64,
    kind: WorkKind,
    outcome: Option<WorkOutcome>,
    to: mpsc::UnboundedSender<(u64, WorkKind, WorkOutcome)>,
}

impl OutcomeSender {
    fn send(mut self, outcome: WorkOutcome) {
        self.outcome = Some(outcome); // sent when `self` is dropped
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(WorkOutcome::Failed);
        let _ = self.to.send((self.id, self.kind, outcome)); // fails if the port has closed, which needs no outcome
    }
}

/// Undecided attempts of one port.
pub(super) struct Attempts {
    pending: HashMap<u64, Pending>,
    by_caller: HashMap<(SocketAddr, u32), u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    /// Number of running derivations, including those of attempts that were given up meanwhile.
    deriving: usize,
    /// Derivations that wait for a thread.
    waiting: VecDeque<(u64, Derive)>,
    /// At most one outcome for each running piece of work.
    outcomes: mpsc::UnboundedReceiver<(u64, WorkKind, WorkOutcome)>,
    outcome_sender: mpsc::UnboundedSender<(u64, WorkKind, WorkOutcome)>,
}

impl Attempts {
    pub(super) fn new() -> Self {
        let (outcome_sender, outcomes) = mpsc::unbounded_channel();
        Self {
            pending: HashMap::new(),
            by_caller: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 0,
            deriving: 0,
            waiting: VecDeque::new(),
            outcomes,
            outcome_sender,
        }
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
        pending.attempt.timestamp = timestamp;
        pending.attempt.heard = now;
        true
    }

    /// Begins an attempt with its first piece of work.
    pub(super) fn begin(&mut self, attempt: Attempt, place: PendingPlace, work: Work, now: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        let kind = work.kind();
        let deadline = now + DECISION_TIME;
        self.queue(id, Pending { attempt, kind, deadline, question: None, _place: place }, work);
    }

    fn queue(&mut self, id: u64, mut pending: Pending, work: Work) {
        pending.kind = work.kind();
        match work {
            Work::Ask(question) => {
                let sender = self.sender(id, WorkKind::Ask);
                let asking = async move { sender.send(WorkOutcome::Asked(question.await)) };
                pending.question = Some(AbortOnDropHandle::new(tokio::spawn(lock::task(asking))));
            }
            Work::Derive(derive) => {
                pending.question = None;
                self.waiting.push_back((id, derive));
            }
        }
        self.by_caller.insert((pending.attempt.peer, pending.attempt.request.socket_id), id);
        self.deadlines.insert((pending.deadline, id));
        self.pending.insert(id, pending);
        self.start_deriving();
    }

    fn sender(&self, id: u64, kind: WorkKind) -> OutcomeSender {
        OutcomeSender { id, kind, outcome: None, to: self.outcome_sender.clone() }
    }

    /// Starts waiting derivations while threads are free.
    fn start_deriving(&mut self) {
        while self.deriving < MAX_DERIVING
            && let Some((id, derive)) = self.waiting.pop_front()
        {
            self.deriving += 1;
            let sender = self.sender(id, WorkKind::Derive);
            tokio::task::spawn_blocking(move || sender.send(lock::on_task(derive)));
        }
    }

    /// Waits for the next outcome.
    pub(super) async fn next(&mut self) -> (u64, WorkKind, WorkOutcome) {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await, // unreachable: `self` holds a sender
        }
    }

    /// Records that a piece of work is done. Returns the attempt, to be continued with [`Attempts::resume`], or `None`
    /// if it was given up meanwhile.
    pub(super) fn done(&mut self, id: u64, kind: WorkKind) -> Option<Resumable> {
        if kind == WorkKind::Derive {
            self.deriving = self.deriving.saturating_sub(1);
            self.start_deriving();
        }
        self.forget(id).map(|pending| Resumable { id, pending })
    }

    /// Queues another piece of work for an attempt. The deadline stays the same.
    pub(super) fn resume(&mut self, resumable: Resumable, work: Work) {
        let Resumable { id, pending } = resumable;
        self.queue(id, pending, work);
    }

    fn forget(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.by_caller.remove(&(pending.attempt.peer, pending.attempt.request.socket_id));
        self.deadlines.remove(&(pending.deadline, id));
        Some(pending)
    }

    /// Gives up an attempt. The result of its running work is ignored.
    fn give_up(&mut self, id: u64) -> Option<(Attempt, WorkKind)> {
        let pending = self.forget(id)?;
        self.waiting.retain(|(waiting, _)| *waiting != id);
        Some((pending.attempt, pending.kind))
    }

    /// Returns the earliest deadline of an attempt.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Gives up an attempt that has passed its deadline. Returns it with the kind of work it waited for.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<(Attempt, WorkKind)> {
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
