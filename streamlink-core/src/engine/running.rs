//! State of a running flow, shared by its handle, the engine and its changes; its statistics, and its end.

use super::{
    EngineState,
    handle::{FlowHandle, Owner},
    outputs::{OutputEnd, RunningOutput},
    region::Attachment,
    sources::RunningSource,
    stats::{EndpointStats, FlowStats},
};
use crate::{
    endpoint::{Bandwidth, FlowMedia, SourceList, Status, Tasks, driver::ListenerEntry, fanout::Fanout},
    error::{ConfigError, ConfigErrorKind, ConfigErrors, Error},
    event::Event,
    flow::{Flow, InputProtocol},
    lock::{self, Guard, lock},
    router::{SourceGroup, State},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Running flow, shared by its handle and the engine.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) shared: Weak<EngineState>,
    pub(super) input: InputProtocol,
    pub(super) media: FlowMedia,
    /// Source group, which publishes the media of the sources into the ring.
    pub(super) group: Arc<SourceGroup>,
    pub(super) tasks: Tasks,
    pub(super) source_tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) stopped: AtomicBool,
    pub(super) fanout: Fanout,
    /// Settings of the flow; its sources and outputs stand below.
    pub(super) settings: Mutex<Flow>,
    /// Names and programs of the sources that run.
    pub(super) source_list: Arc<SourceList>,
    pub(super) sources: Mutex<Vec<RunningSource>>,
    pub(super) outputs: Mutex<Vec<RunningOutput>>,
    /// Regions on other machines where the flow has outputs. Locked after the outputs.
    pub(super) regions: Mutex<Vec<Arc<Attachment>>>,
    /// Tracker of output changes that are being applied.
    pub(super) changes: TaskTracker,
    /// Lock that allows one stop at a time.
    pub(super) stopping: tokio::sync::Mutex<()>,
    /// Owner that the clones of the handle share, once the flow has started.
    pub(super) handle: OnceLock<Weak<Owner>>,
}

impl Running {
    pub(super) fn sources(&self) -> Guard<'_, Vec<RunningSource>> {
        lock(&self.sources)
    }

    pub(super) fn outputs(&self) -> Guard<'_, Vec<RunningOutput>> {
        lock(&self.outputs)
    }

    pub(super) fn regions(&self) -> Guard<'_, Vec<Arc<Attachment>>> {
        lock(&self.regions)
    }

    /// Changes the bandwidth and updates everything derived from it: queues and sources here, and endpoints by their
    /// view of the bandwidth.
    pub(super) fn change_bandwidth(&self, change: impl FnOnce(&mut Bandwidth)) {
        self.media.bandwidth.change(change, |bandwidth| {
            self.media.ring.set_limits(bandwidth.queue_limits());
            self.media.messages.set_bandwidth(bandwidth);
            for source in self.sources().iter() {
                source.live.send_modify(|live| live.bandwidth = bandwidth);
            }
        });
        for attachment in self.regions().iter() {
            attachment.flow_changed();
        }
    }

    /// Gives back the name and addresses of the flow, and tells its tasks to end.
    pub(super) fn cancel(&self) {
        self.retire();
        self.media.ring.close();
        for entry in self.take_entries() {
            // The removal runs in a task, because this function must not wait.
            self.tasks.runtime.spawn(lock::task(async move { entry.remove().await }));
        }
        self.stop_output_tasks();
        self.report_stop();
    }

    /// Takes the entries on shared ports, which must be released.
    fn take_entries(&self) -> Vec<ListenerEntry> {
        let sources: Vec<ListenerEntry> =
            self.sources().iter_mut().filter_map(|s| s.run.as_mut()?.entry.take()).collect();
        let outputs = self.outputs();
        let entries = outputs.iter().filter_map(|output| match &output.end {
            OutputEnd::Listener(entry) => Some(entry.clone()),
            _ => None,
        });
        sources.into_iter().chain(entries).collect()
    }

    fn stop_output_tasks(&self) {
        for output in self.outputs().iter() {
            if let OutputEnd::Task { stop, .. } = &output.end {
                stop.cancel();
            }
        }
        for attachment in self.regions().iter() {
            attachment.cancel();
        }
    }

    fn retire(&self) {
        self.stop.cancel();
        self.source_tasks.close();
        self.tasks.tracker.close();
        if let Some(shared) = self.shared.upgrade() {
            shared.release(self.id);
            let mut flows = shared.flows();
            if flows.get(&self.name).is_some_and(|flow| flow.id == self.id) {
                flows.remove(&self.name);
            }
        }
    }

    /// Ends the sources and then, when all their media has been passed on, the outputs. Once begun, it runs to
    /// completion even if the caller stops waiting.
    ///
    /// Host code that the library runs does not wait, because the flow's tasks may wait for that code.
    pub(super) async fn stop(self: &Arc<Self>) {
        let running = self.clone();
        let stopped = self.tasks.runtime.spawn(lock::task(async move { running.wind_down().await }));
        if lock::is_on_task() {
            return;
        }
        if stopped.await.is_err() {
            self.cancel(); // the runtime has shut down, with all tasks
        }
    }

    async fn wind_down(&self) {
        self.retire();
        let _one_at_a_time = self.stopping.lock().await;
        self.source_tasks.wait().await;
        // Changes in preparation see that the flow stops. Changes that are being applied run to completion.
        self.changes.close();
        self.changes.wait().await;
        let entries = self.take_entries();
        for entry in &entries {
            entry.remove().await;
        }
        self.group.finish(Instant::now());
        self.media.ring.close();
        self.media.messages.finished().await;
        self.stop_output_tasks();
        self.tasks.tracker.wait().await;
        for output in self.outputs().iter_mut() {
            if matches!(output.end, OutputEnd::Listener(_)) {
                output.end = OutputEnd::Sinks(Vec::new()); // `entries` holds the port
            }
        }
        for entry in entries {
            entry.release().await;
        }
        for status in self.statuses() {
            status.counters.set_state(State::Idle, Instant::now());
        }
        self.report_stop();
    }

    fn report_stop(&self) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            self.media.events.emit(Event::FlowStopped);
        }
    }

    fn statuses(&self) -> Vec<Arc<Status>> {
        let sources: Vec<_> = self.sources().iter().map(|s| s.status.clone()).collect();
        sources.into_iter().chain(self.outputs().iter().map(|o| o.status.clone())).collect()
    }

    pub(super) fn stats(&self) -> FlowStats {
        let now = Instant::now();
        let source = |s: &RunningSource| {
            let protocol = s.source.protocol().name();
            let url = s.run.as_ref().and_then(|run| run.input_address.clone());
            let mut stats = EndpointStats::new(&s.status, protocol, url, now);
            stats.enabled = s.source.common.enabled;
            let Some(number) = s.run.as_ref().map(|run| run.number) else { return stats };
            stats.active = self.group.is_active(number);
            if let Some((counts, _)) = self.group.merged(number) {
                stats.lost = counts.lost;
                stats.unique_packets = counts.unique_packets;
                stats.late = counts.late;
            }
            stats
        };
        let output = |o: &RunningOutput| {
            let mut stats = EndpointStats::new(&o.status, o.output.protocol().name(), o.url.clone(), now);
            stats.enabled = o.output.common.enabled;
            stats.region.clone_from(&o.output.common.region);
            if let OutputEnd::Remote(remote) = &o.end {
                // Returned from one place, the statistics, of about a kilobyte, are not copied once more.
                stats = remote.shown(stats, now);
            } else if let Some(remux) = &o.remux {
                stats.media = remux.selection().map(Into::into);
                stats.tracks = remux.tracks();
                if remux.has_nothing() && stats.state != State::Idle {
                    stats.state = State::Failed;
                }
            }
            stats
        };
        let sources = self.sources().iter().map(source).collect();
        let merge_lost = self.group.merged(0).map_or(0, |(_, lost)| lost);
        let outputs = self.outputs().iter().map(output).collect();
        let regions = self.regions().iter().filter_map(|attachment| attachment.stats(now)).collect();
        FlowStats {
            name: self.name.clone(),
            max_bandwidth: self.media.bandwidth.now().max,
            merge_lost,
            sources,
            outputs,
            regions,
        }
    }

    /// Returns a handle, unless the flow is still starting, or its last handle is gone.
    pub(super) fn handle(&self) -> Option<FlowHandle> {
        self.handle.get()?.upgrade().map(FlowHandle)
    }

    pub(super) fn has_player(&self, output: &str, peer: SocketAddr) -> bool {
        let outputs = self.outputs();
        let found = outputs.iter().find(|o| o.status.is_named(output));
        found.is_some_and(|output| output.status.snapshot().players.iter().any(|player| player.peer == peer))
    }

    pub(super) fn alive(&self) -> Result<Arc<EngineState>, Error> {
        match self.shared.upgrade() {
            Some(shared) if !self.stop.is_cancelled() => Ok(shared),
            _ => Err(Error::Stopped("flow")),
        }
    }
}

pub(super) fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

pub(super) fn config(path: &str, problem: ConfigErrorKind) -> Error {
    Error::Config(ConfigErrors::from(ConfigError::new(path, problem)))
}
