//! Sources of a flow, which are opened first and then run. Cold sources connect only when they are needed.

use super::{EngineState, running::Running};
use crate::{
    endpoint::{
        AppSource, Bandwidth, SourceContext, SourceTunables, Status,
        driver::{EndpointLabel, ListenerEntry, OpenSource, SourceDrive, SourceOpening, StartedSource, Task},
    },
    error::Error,
    flow::{self, Allowlist, Claim, Failover, FailoverPolicy, PeerUrl, Source},
    lock,
    router::{self, FailoverConfig, SourceGroup, State, SwitchPolicy},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Interval at which a merge checks for packets that have waited long enough while no media arrives.
const MERGE_TICK: Duration = Duration::from_millis(20);

/// Interval of the check whether a cold backup is needed.
const COLD_TICK: Duration = Duration::from_millis(50);

// `build()` must not admit more merged sources than `Merge` has path bits.
const _: () = assert!(flow::MAX_PATHS <= router::MAX_PATHS);

/// Returns the switching policy and loss threshold of a flow's sources.
pub(super) fn group_terms(failover: Failover) -> FailoverConfig {
    let turns = match failover.policy {
        FailoverPolicy::Stay => SwitchPolicy::Stay,
        FailoverPolicy::Prefer(hold) => SwitchPolicy::Prefer(hold),
        FailoverPolicy::Merge(window) => SwitchPolicy::Merge(window),
    };
    FailoverConfig { turns, loss_threshold: failover.loss_threshold }
}

/// Source of a running flow.
#[derive(Debug)]
pub(super) struct RunningSource {
    pub(super) source: Source,
    pub(super) status: Arc<Status>,
    pub(super) live: watch::Sender<SourceTunables>,
    /// Driver of the source; `None` while it is disabled.
    pub(super) run: Option<SourceRun>,
}

/// Driver of a source, with the token that ends it.
#[derive(Debug)]
pub(super) struct SourceRun {
    /// Number of the source in the group.
    pub(super) number: usize,
    pub(super) stop: CancellationToken,
    pub(super) task: Option<JoinHandle<()>>,
    /// Route on a shared port, if the source has one.
    pub(super) entry: Option<ListenerEntry>,
    pub(super) input_address: Option<PeerUrl>,
    pub(super) app: Option<AppSource>,
    /// Exclusive claim on an address and key.
    pub(super) claim: Option<Claim>,
}

impl RunningSource {
    /// Creates a source that does not run yet.
    pub(super) fn new(mut source: Source, bandwidth: Bandwidth) -> Self {
        let status = Status::new(source.name(), source.common.description.clone());
        let allow = source.allow_mut().map(|allow| allow.clone()).unwrap_or_else(Allowlist::everyone);
        let members = source.members();
        let live = watch::Sender::new(SourceTunables { allow, bandwidth, members });
        Self { source, status, live, run: None }
    }
}

/// Opens the sockets of a source.
pub(super) fn open_source(
    shared: &EngineState,
    flow: &str,
    source: &Source,
    bandwidth: Bandwidth,
    failover: Failover,
) -> Result<Box<dyn OpenSource>, Error> {
    let opening = SourceOpening {
        resources: &shared.resources,
        label: EndpointLabel::source(flow, source.name()),
        bandwidth,
        is_merged: matches!(failover.policy, FailoverPolicy::Merge(_)),
    };
    (shared.drivers.source)(&source.kind).open(&opening)
}

impl Running {
    /// Runs an opened source under its number in the group. A `cold` source connects only when it is needed.
    pub(super) fn run_source(
        &self,
        shared: &EngineState,
        source: &RunningSource,
        opened: Box<dyn OpenSource>,
        number: usize,
        cold: bool,
    ) -> SourceRun {
        let status = source.status.clone();
        status.counters.set_state(State::Waiting, Instant::now());
        self.source_list.add(number, status.clone(), source.source.program());
        let stop = self.stop.child_token();
        let context = SourceContext {
            status,
            number,
            sources: self.source_list.clone(),
            group: self.group.clone(),
            events: self.media.events.clone(),
            idle_timeout: source.source.idle_timeout(),
            takeover: source.source.takeover(),
            live: source.live.subscribe(),
            coalesce: lock::lock(&self.settings).coalesce,
            random: shared.resources.random.clone(),
            stop: stop.clone(),
        };
        let started = opened.start(&shared.resources, &self.media, context.clone());
        let StartedSource { input_address, drive } = started;
        let mut app = None;
        let mut entry = None;
        let mut task = None;
        match drive {
            SourceDrive::Task(run) => task = Some(self.spawn_source(run)),
            SourceDrive::Caller(call) if cold => task = Some(self.spawn_source(call_when_needed(context, call))),
            SourceDrive::Caller(call) => task = Some(self.spawn_source(call(context))),
            SourceDrive::Listener(listener) => entry = Some(listener),
            SourceDrive::App(source) => app = Some(source),
        }
        SourceRun { number, stop, task, entry, input_address, app, claim: source.source.claim() }
    }

    fn spawn_source(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.source_tasks.spawn_on(lock::task(task), &self.tasks.runtime)
    }

    /// Runs the clock of a merge, which expires windows while no media arrives.
    pub(super) fn run_merge_clock(&self, group: Arc<SourceGroup>) {
        let stop = self.stop.clone();
        let clock = async move {
            while !stop.is_cancelled() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(MERGE_TICK) => group.handle_timeout(Instant::now()),
                }
            }
        };
        self.spawn_source(clock);
    }
}

/// Runs a caller while the flow needs it.
async fn call_when_needed(context: SourceContext, call: Box<dyn Fn(SourceContext) -> Task + Send>) {
    let started = Instant::now();
    let look = || tokio::time::sleep(COLD_TICK);
    let is_needed = || context.group.is_needed(context.number, Instant::now(), started);
    loop {
        context.status.counters.set_state(State::Idle, Instant::now());
        while !is_needed() {
            tokio::select! {
                () = context.stop.cancelled() => return,
                () = look() => {}
            }
        }
        let stop = context.stop.child_token();
        let mut running = call(SourceContext { stop: stop.clone(), ..context.clone() });
        loop {
            tokio::select! {
                () = &mut running => break,
                () = look() => if !is_needed() { stop.cancel() },
            }
        }
        context.lose(Instant::now());
        if context.stop.is_cancelled() {
            return;
        }
    }
}
