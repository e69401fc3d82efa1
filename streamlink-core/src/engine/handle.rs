//! The handle of a running flow: its addresses, events, statistics, and everything that can be changed.

use super::{
    Events, OutputEdit, Shared, SourceEdit,
    outputs::{OutputEnd, RunningOutput},
    sources::RunningSource,
    start::PortRoute,
    stats::{EndpointStats, FlowStats},
};
use crate::{
    endpoint::{
        AppSource, Bandwidth, BandwidthSetting, Event, EventSink, Mailbox, Status, Tap, Tasks,
        fanout::Fanout,
        remux::{self, RemuxStatus},
    },
    error::{ConfigError, ConfigErrors, Error, Problem},
    flow::{BandwidthPolicy, Bitrate, InputProtocol, Output, OutputProtocol},
    lock::{self, Guard, lock},
    media::MediaFamily,
    random::Random,
    router::{CurrentPresentation, Group, Ring, State},
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

/// A running flow, as its handle and the engine share it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) id: u64,
    pub(super) random: Random,
    pub(super) name: String,
    pub(super) shared: Weak<Shared>,
    pub(super) input: InputProtocol,
    pub(super) bandwidth: BandwidthSetting,
    pub(super) ring: Arc<Ring>,
    /// What the sources bring goes through it into the ring.
    pub(super) group: Arc<Group>,
    pub(super) events: EventSink,
    pub(super) tasks: Tasks,
    pub(super) source_tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) stopped: AtomicBool,
    pub(super) fanout: Fanout,
    pub(super) sources: Mutex<Vec<RunningSource>>,
    pub(super) outputs: Mutex<Vec<RunningOutput>>,
    /// What an RTSP source brings.
    pub(super) stage: Arc<CurrentPresentation>,
    /// What RTMP outputs of a flow of datagrams read from.
    pub(super) remux: OnceLock<Remux>,
    /// Changes of the outputs that are being applied.
    pub(super) changes: TaskTracker,
    /// One stops it at a time.
    pub(super) stopping: tokio::sync::Mutex<()>,
}

/// The FLV messages that were found in a flow's MPEG-TS.
#[derive(Debug)]
pub(super) struct Remux {
    ring: Arc<Ring>,
    status: Arc<RemuxStatus>,
    /// All of it is in the ring.
    done: CancellationToken,
}

impl Running {
    /// The ring that RTMP outputs read from: the flow's own, or that of its remux, which starts with its first reader.
    pub(super) fn rtmp_ring(&self) -> Arc<Ring> {
        if self.input.family() == MediaFamily::Rtmp {
            return self.ring.clone();
        }
        let remux = self.remux.get_or_init(|| {
            let ring = Ring::new(self.bandwidth.now().queue_limits());
            let status = Arc::<RemuxStatus>::default();
            let done = CancellationToken::new();
            let (run, end) = (
                remux::run(self.ring.reader(), ring.clone(), self.events.clone(), status.clone()),
                done.clone().drop_guard(),
            );
            self.tasks.spawn(async move {
                run.await;
                drop(end);
            });
            Remux { ring, status, done }
        });
        // A change may just have found no remux yet.
        self.bandwidth.change(|_| {}, |bandwidth| remux.ring.set_limits(bandwidth.queue_limits()));
        remux.ring.clone()
    }

    pub(super) fn sources(&self) -> Guard<'_, Vec<RunningSource>> {
        lock(&self.sources)
    }

    pub(super) fn outputs(&self) -> Guard<'_, Vec<RunningOutput>> {
        lock(&self.outputs)
    }

    /// Changes the bandwidth, of which everything hears that has derived something from it: the queues and the sources
    /// here, endpoints by their view of it.
    fn change_bandwidth(&self, change: impl FnOnce(&mut Bandwidth)) {
        self.bandwidth.change(change, |bandwidth| {
            self.ring.set_limits(bandwidth.queue_limits());
            if let Some(remux) = self.remux.get() {
                remux.ring.set_limits(bandwidth.queue_limits());
            }
            for source in self.sources().iter() {
                source.live.send_modify(|live| live.bandwidth = bandwidth);
            }
        });
    }

    /// Gives back the flow's name and addresses, and tells its tasks to end.
    pub(super) fn cancel(&self) {
        self.retire();
        self.ring.close();
        for route in self.take_routes() {
            // Not a wait: the port does it in its own time.
            self.tasks.runtime.spawn(async move { route.remove().await });
        }
        self.stop_output_tasks();
        self.report_stop();
    }

    /// The places on shared ports, which are to be given back.
    fn take_routes(&self) -> Vec<PortRoute> {
        let sources: Vec<PortRoute> = self.sources().iter_mut().filter_map(|source| source.route.take()).collect();
        let outputs = self.outputs();
        let routes = outputs.iter().filter_map(|output| match &output.end {
            OutputEnd::Route(route) => Some(route.clone()),
            _ => None,
        });
        sources.into_iter().chain(routes).collect()
    }

    fn stop_output_tasks(&self) {
        for output in self.outputs().iter() {
            if let OutputEnd::Task { stop, .. } = &output.end {
                stop.cancel();
            }
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

    /// Ends the sources, then, when all they brought has been handed on, the outputs. Once begun, it runs to its end,
    /// whoever waits.
    pub(super) async fn stop(self: &Arc<Self>) {
        let running = self.clone();
        let stopped = self.tasks.runtime.spawn(async move { running.wind_down().await });
        if stopped.await.is_err() {
            self.cancel(); // the runtime has ended, and all tasks with it
        }
    }

    async fn wind_down(&self) {
        self.retire();
        let _one_at_a_time = self.stopping.lock().await;
        self.source_tasks.wait().await;
        // Those that are being prepared see that the flow stops; those that are being applied run to their end.
        self.changes.close();
        self.changes.wait().await;
        let routes = self.take_routes();
        for route in &routes {
            route.remove().await;
        }
        self.group.finish(Instant::now());
        self.ring.close();
        if let Some(remux) = self.remux.get() {
            remux.done.cancelled().await;
        }
        self.stop_output_tasks();
        self.tasks.tracker.wait().await;
        self.outputs().iter_mut().for_each(|output| {
            if matches!(output.end, OutputEnd::Route(_)) {
                output.end = OutputEnd::Sinks(Vec::new()); // what held the port is in `routes`
            }
        });
        for route in routes {
            route.release().await;
        }
        for status in self.statuses() {
            status.counters.set_state(State::Idle, Instant::now());
        }
        self.report_stop();
    }

    fn report_stop(&self) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            self.events.emit(Event::FlowStopped);
        }
    }

    fn statuses(&self) -> Vec<Arc<Status>> {
        let sources: Vec<_> = self.sources().iter().map(|s| s.status.clone()).collect();
        sources.into_iter().chain(self.outputs().iter().map(|o| o.status.clone())).collect()
    }

    pub(super) fn stats(&self) -> FlowStats {
        let now = Instant::now();
        let source = |(number, s): (usize, &RunningSource)| {
            let protocol = s.source.protocol().name();
            let mut stats = EndpointStats::new(&s.status, protocol, s.input_address.clone(), now);
            stats.active = self.group.is_active(number);
            if let Some((counts, _)) = self.group.merged(number) {
                stats.lost = counts.lost;
                (stats.only_here, stats.late) = (counts.only_here, counts.late);
            }
            stats
        };
        let output = |o: &RunningOutput| {
            let mut stats = EndpointStats::new(&o.status, o.output.protocol().name(), o.url.clone(), now);
            if let Some(remux) = self.remux.get().filter(|_| o.output.protocol() == OutputProtocol::RtmpPush) {
                stats.media = remux.status.selection().map(Into::into);
                if remux.status.has_nothing() {
                    stats.state = State::Failed;
                }
            }
            stats
        };
        let sources = self.sources().iter().enumerate().map(source).collect();
        let merge_lost = self.group.merged(0).map_or(0, |(_, lost)| lost);
        let outputs = self.outputs().iter().map(output).collect();
        FlowStats { name: self.name.clone(), max_bandwidth: self.bandwidth.now().max, merge_lost, sources, outputs }
    }

    pub(super) fn alive(&self) -> Result<Arc<Shared>, Error> {
        match self.shared.upgrade() {
            Some(shared) if !self.stop.is_cancelled() => Ok(shared),
            _ => Err(Error::Stopped("flow")),
        }
    }
}

pub(super) fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

pub(super) fn config(path: &str, problem: Problem) -> Error {
    Error::Config(ConfigErrors::from(ConfigError::new(path, problem)))
}

/// A running flow. Dropping it stops the flow without waiting; [`FlowHandle::stop`] waits.
#[derive(Debug)]
pub struct FlowHandle {
    running: Arc<Running>,
    events: tokio::sync::Mutex<Events>,
}

impl FlowHandle {
    pub(super) fn new(running: Arc<Running>, events: Mailbox) -> Self {
        Self { running, events: tokio::sync::Mutex::new(Events::new(events)) }
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> &Running {
        &self.running
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.running.name
    }

    /// The URLs that encoders send to: one for each source that listens.
    pub fn input_addresses(&self) -> Vec<String> {
        self.running.sources().iter().filter_map(|s| Some(s.input_address.as_ref()?.to_string())).collect()
    }

    /// The URLs that players fetch from: the names of the outputs that listen, each with its URL.
    pub fn playback_urls(&self) -> Vec<(String, String)> {
        let outputs = self.running.outputs();
        outputs.iter().filter_map(|o| Some((o.status.name(), o.url.as_ref()?.to_string()))).collect()
    }

    /// The next event since the flow was started; `None` when the flow has stopped. For one reader; more get
    /// [`FlowHandle::events`].
    pub async fn next_event(&self) -> Option<Event> {
        self.events.lock().await.next().await
    }

    /// Another reader of events, from now on.
    pub fn events(&self) -> Events {
        Events::new(self.running.events.subscribe())
    }

    /// The counters of this moment; the data path does not stop for it.
    pub fn stats(&self) -> FlowStats {
        self.running.stats()
    }

    /// The end into which the host pushes the media of a [`Source::app_rtp`](crate::Source::app_rtp) and its kin.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such source.
    pub fn app_source(&self, name: &str) -> Result<AppSource, Error> {
        let sources = self.running.sources();
        let found = sources.iter().find(|s| s.status.is_named(name)).and_then(|s| s.app.clone());
        found.ok_or_else(|| not_found("app source", name))
    }

    /// The end from which the host takes the packets of an [`Output::tap`]. It can be taken once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such tap, or it was taken before.
    pub fn tap(&self, name: &str) -> Result<Tap, Error> {
        let mut outputs = self.running.outputs();
        let found = outputs.iter_mut().find(|o| o.status.is_named(name));
        let taken = found.and_then(|o| match &mut o.end {
            OutputEnd::Tap(tap) => tap.reader.take().map(|reader| (reader, o.status.clone())),
            _ => None,
        });
        let (reader, status) = taken.ok_or_else(|| not_found("tap", name))?;
        Ok(Tap::new(reader, status, self.running.tasks.clone()))
    }

    /// Adds an output. It gets what comes from now on; no other output notices.
    ///
    /// Its sockets are opened first, for which the name of its destination may have to be resolved. Other changes go on
    /// meanwhile, and [`FlowHandle::stop`] ends it. When the future is dropped before that is done, nothing is added;
    /// later, the output is there.
    ///
    /// # Errors
    /// When it is not valid for this flow, its name is taken, or its sockets cannot be opened.
    pub async fn add_output(&self, output: impl Into<Output>) -> Result<(), Error> {
        let (running, output) = (self.running.clone(), output.into());
        self.on_runtime(|abandoned| async move { running.add_output(output, &abandoned).await }).await
    }

    /// Removes an output, and waits until its sockets are closed. No other output notices. When the future is dropped
    /// after it was first polled, the output may be removed all the same, as a whole.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name.
    pub async fn remove_output(&self, name: &str) -> Result<(), Error> {
        let (running, name) = (self.running.clone(), name.to_owned());
        self.on_runtime(|abandoned| async move { running.remove_output(&name, &abandoned).await }).await
    }

    /// Puts another output in the place of one, under a name of its own choice, and waits until the sockets of the old
    /// one are closed. It may listen where the old one does, with the same key; no other flow can come between.
    ///
    /// It is checked and opened first: when that fails, the old one stays, as it does while the name of a destination is
    /// being resolved. Other changes go on meanwhile, and [`FlowHandle::stop`] ends it. Then the two are swapped at once.
    /// When the future is dropped before that, the old one stays; later, the new one is there.
    ///
    /// # Errors
    /// As [`FlowHandle::add_output`] and [`FlowHandle::remove_output`].
    pub async fn replace_output(&self, name: &str, output: impl Into<Output>) -> Result<(), Error> {
        let (running, name, output) = (self.running.clone(), name.to_owned(), output.into());
        self.on_runtime(|abandoned| async move { running.replace_output(&name, output, &abandoned).await }).await
    }

    /// Changes an output in place.
    ///
    /// # Errors
    /// When there is no such output, or a new value is wrong; nothing is then changed.
    pub fn edit_output(&self, name: &str, edit: OutputEdit) -> Result<(), Error> {
        self.running.edit_output(name, edit)
    }

    /// Cuts off a player of an output that listens, by its address as [`PlayerStats`](crate::PlayerStats) has it. It
    /// may come again: an allowlist keeps it out.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such output, or no such player of it.
    pub async fn kick_player(&self, output: &str, peer: SocketAddr) -> Result<(), Error> {
        self.running.alive()?;
        let route = self.running.outputs().iter().find(|o| o.status.is_named(output)).map(|o| match &o.end {
            OutputEnd::Route(route) => Some(route.clone()),
            _ => None,
        });
        let route = route.ok_or_else(|| not_found("output", output))?;
        match route {
            Some(route) if route.kick(peer).await => Ok(()),
            _ => Err(not_found("player", &peer.to_string())),
        }
    }

    /// Changes a source in place.
    ///
    /// # Errors
    /// When there is no such source, or a new value is wrong; nothing is then changed.
    pub fn edit_source(&self, name: &str, edit: SourceEdit) -> Result<(), Error> {
        self.running.edit_source(name, edit)
    }

    /// Changes the maximum bandwidth, from the next packet on. Queues, socket buffers, and the rates and windows of SRT
    /// follow, also those of connections that are up; an SRT endpoint with a maximum of its own keeps it.
    ///
    /// # Errors
    /// When it is 0, or the flow has stopped.
    pub fn set_max_bandwidth(&self, rate: Bitrate) -> Result<(), Error> {
        self.running.alive()?;
        if rate.as_bps() == 0 {
            return Err(config("max_bandwidth", Problem::out_of_range("0", "1 bit per second and more")));
        }
        self.running.change_bandwidth(|bandwidth| bandwidth.max = rate);
        Ok(())
    }

    /// Changes what happens above the maximum bandwidth.
    ///
    /// # Errors
    /// When the flow has stopped.
    pub fn set_bandwidth_policy(&self, policy: BandwidthPolicy) -> Result<(), Error> {
        self.running.alive()?;
        self.running.change_bandwidth(|bandwidth| bandwidth.policy = policy);
        Ok(())
    }

    /// Stops the flow: what the source has brought is handed on, then all tasks end and all sockets close. Changes that
    /// are being prepared end without effect. When the future is dropped after it was first polled, the flow stops all
    /// the same; dropping the handle as well does not wait for what is under way.
    pub async fn stop(&self) {
        lock::hold_back(self.running.stop()).await;
    }

    /// Runs a change on the engine's runtime, to which sockets belong, whoever awaits it. The change is told when nobody
    /// does any more.
    async fn on_runtime<F>(&self, change: impl FnOnce(CancellationToken) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let abandoned = CancellationToken::new();
        let waits = abandoned.clone().drop_guard();
        let done = self.running.tasks.runtime.spawn(lock::hold_back(change(abandoned))).await;
        waits.disarm();
        done.unwrap_or(Err(Error::Stopped("engine")))
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        self.running.cancel();
    }
}
