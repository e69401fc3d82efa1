//! The handle of a running flow: its addresses, events, statistics, and everything that can be changed.

use super::{
    Events, OutputEdit, Shared, SourceEdit,
    outputs::{self, OutputEnd, RunningOutput},
    sources::RunningSource,
    start::{self, PortRoute},
    stats::{EndpointStats, FlowStats},
};
use crate::{
    endpoint::{
        AppSource, Event, EventSink, Live, Mailbox, Status, Tap, Tasks,
        fanout::Fanout,
        remux::{self, RemuxStatus},
    },
    error::{ConfigError, ConfigErrors, Error, Problem},
    flow::{
        Allowlist, BandwidthPolicy, Bitrate, Claim, InputProtocol, Name, Output, OutputKind, OutputProtocol,
        check_output,
    },
    lock::lock,
    media::MediaFamily,
    random::Random,
    router::{CurrentPresentation, Group, Ring, State},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
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
    pub(super) max_bandwidth: Mutex<Bitrate>,
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
    /// One change of the outputs at a time.
    pub(super) editing: tokio::sync::Mutex<()>,
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
            let ring = Ring::new(start::queue_limits(self.rate()));
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
        remux.ring.clone()
    }

    pub(super) fn sources(&self) -> MutexGuard<'_, Vec<RunningSource>> {
        lock(&self.sources)
    }

    pub(super) fn outputs(&self) -> MutexGuard<'_, Vec<RunningOutput>> {
        lock(&self.outputs)
    }

    pub(super) fn rate(&self) -> Bitrate {
        *lock(&self.max_bandwidth)
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

    /// Ends the sources, then, when all they brought has been handed on, the outputs.
    pub(super) async fn stop(&self) {
        self.retire();
        self.source_tasks.wait().await;
        let _no_more_changes = self.editing.lock().await;
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
        FlowStats { name: self.name.clone(), max_bandwidth: self.rate(), merge_lost, sources, outputs }
    }

    fn taken(&self, name: &str) -> bool {
        self.sources().iter().any(|s| s.status.is_named(name)) || self.outputs().iter().any(|o| o.status.is_named(name))
    }

    fn check_name(&self, old: &str, new: &str) -> Result<(), Error> {
        Name::new(new).map_err(|problem| config("name", problem))?;
        match old != new && self.taken(new) {
            true => Err(Error::AlreadyExists { what: "an endpoint", name: new.to_owned() }),
            false => Ok(()),
        }
    }

    fn alive(&self) -> Result<Arc<Shared>, Error> {
        match self.shared.upgrade() {
            Some(shared) if !self.stop.is_cancelled() => Ok(shared),
            _ => Err(Error::Stopped("flow")),
        }
    }

    async fn add_output(&self, output: Output) -> Result<(), Error> {
        let _one_at_a_time = self.editing.lock().await;
        let shared = self.alive()?;
        let path = "output";
        let output = check_output(path, self.input, output)?;
        start::region(&shared, &output).map_err(|problem| config("output.region", problem))?;
        if self.taken(output.name()) {
            return Err(Error::AlreadyExists { what: "an endpoint", name: output.name().to_owned() });
        }
        let status = Status::new(output.name(), output.common.description.clone());
        let claim = output.claim();
        if let Some(claim) = &claim {
            shared.claim(self.id, &self.name, claim).map_err(|problem| config("output.bind", problem))?;
        }
        match outputs::open_output(&shared, &self.name, &output, self.rate(), &status).await {
            Ok(opened) => {
                self.run_output(output, status, opened);
                Ok(())
            }
            Err(error) => {
                claim.iter().for_each(|claim| shared.unclaim(claim));
                Err(error)
            }
        }
    }

    /// Puts an output in the place of another, which may have the same name and claim the same address and key.
    async fn replace_output(&self, name: &str, output: Output) -> Result<(), Error> {
        let shared = self.alive()?;
        // The old one steps aside under a name that no one else can have: names hold no control characters.
        let aside = format!("{name}\u{0}");
        let step_aside = |from: &str, to: &str, claim: Option<Claim>| {
            let mut outputs = self.outputs();
            let old = outputs.iter_mut().find(|o| o.status.is_named(from))?;
            old.status.rename(to);
            Some(std::mem::replace(&mut old.claim, claim))
        };
        let claim = step_aside(name, &aside, None).ok_or_else(|| not_found("output", name))?;
        claim.iter().for_each(|claim| shared.unclaim(claim));
        match self.add_output(output).await {
            Ok(()) => self.remove_output(&aside).await,
            Err(error) => {
                if let Some(claim) = &claim {
                    // It was free until just now; should another flow have been quicker, the old output stays all the same.
                    let _ = shared.claim(self.id, &self.name, claim);
                }
                step_aside(&aside, name, claim);
                Err(error)
            }
        }
    }

    async fn remove_output(&self, name: &str) -> Result<(), Error> {
        let _one_at_a_time = self.editing.lock().await;
        self.alive()?;
        let output = {
            let mut outputs = self.outputs();
            let at = outputs.iter().position(|o| o.status.is_named(name)).ok_or_else(|| not_found("output", name))?;
            outputs.remove(at)
        };
        if let (Some(shared), Some(claim)) = (self.shared.upgrade(), &output.claim) {
            shared.unclaim(claim);
        }
        match output.end {
            OutputEnd::Tap(tap) => tap.closer.close(),
            OutputEnd::Sinks(sinks) => {
                for sink in sinks {
                    self.fanout.remove(sink).await;
                }
            }
            OutputEnd::Task { stop, task } => {
                stop.cancel();
                let _ = task.await; // a task that failed has ended too
            }
            OutputEnd::Route(route) => {
                route.remove().await;
                route.release().await;
            }
        }
        output.status.counters.set_state(State::Idle, Instant::now());
        Ok(())
    }
}

fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

fn config(path: &str, problem: Problem) -> Error {
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
    /// # Errors
    /// When it is not valid for this flow, its name is taken, or its sockets cannot be opened.
    pub async fn add_output(&self, output: impl Into<Output>) -> Result<(), Error> {
        let (running, output) = (self.running.clone(), output.into());
        self.on_runtime(async move { running.add_output(output).await }).await
    }

    /// Removes an output, and waits until its sockets are closed. No other output notices.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name.
    pub async fn remove_output(&self, name: &str) -> Result<(), Error> {
        let (running, name) = (self.running.clone(), name.to_owned());
        self.on_runtime(async move { running.remove_output(&name).await }).await
    }

    /// Puts another output in the place of one, under a name of its own choice. It is checked and opened first: when
    /// that fails, the old one stays.
    ///
    /// # Errors
    /// As [`FlowHandle::add_output`] and [`FlowHandle::remove_output`].
    pub async fn replace_output(&self, name: &str, output: impl Into<Output>) -> Result<(), Error> {
        let (running, name, output) = (self.running.clone(), name.to_owned(), output.into());
        self.on_runtime(async move { running.replace_output(&name, output).await }).await
    }

    /// Changes an output in place.
    ///
    /// # Errors
    /// When there is no such output, or a new value is wrong; nothing is then changed.
    pub fn edit_output(&self, name: &str, edit: OutputEdit) -> Result<(), Error> {
        self.running.alive()?;
        let found = self.running.outputs().iter().find(|o| o.status.is_named(name)).map(|o| o.status.clone());
        let status = found.ok_or_else(|| not_found("output", name))?;
        if edit.allow.is_some() || edit.max_players.is_some() {
            self.edit_listener(name, edit.allow, edit.max_players)?;
        }
        self.edit_status(&status, name, edit.name, edit.description)
    }

    /// The settings that only an output that listens has.
    fn edit_listener(&self, name: &str, allow: Option<Allowlist>, max_players: Option<u32>) -> Result<(), Error> {
        if max_players.is_some_and(|n| !(1..=1_000_000).contains(&n)) {
            let problem = Problem::out_of_range(max_players.unwrap_or(0), "1 to 1000000 peers");
            return Err(config("max_players", problem));
        }
        let mut outputs = self.running.outputs();
        let found = outputs.iter_mut().find(|o| o.status.is_named(name));
        let output = found.ok_or_else(|| not_found("output", name))?;
        let listen = match &mut output.output.kind {
            OutputKind::SrtListener(settings) => &mut settings.listen,
            OutputKind::RtmpPlay(settings) => &mut settings.listen,
            OutputKind::RtspListener(settings) => &mut settings.listen,
            _ => return Err(config("allow", Problem::UnknownField)),
        };
        listen.allow = allow.unwrap_or_else(|| listen.allow.clone());
        listen.max_peers = max_players.or(listen.max_peers);
        if let OutputEnd::Route(route) = &output.end {
            route.edit(listen.allow.clone(), listen.max_peers);
        }
        Ok(())
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
        self.running.alive()?;
        let sources = self.running.sources();
        let found = sources.iter().find(|s| s.status.is_named(name)).map(|s| (s.status.clone(), s.live.clone()));
        drop(sources);
        let (status, live) = found.ok_or_else(|| not_found("source", name))?;
        self.edit_status(&status, name, edit.name, edit.description)?;
        if let Some(allow) = edit.allow {
            live.send_modify(|live| live.allow = allow);
        }
        Ok(())
    }

    fn edit_status(
        &self,
        status: &Status,
        old: &str,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<(), Error> {
        if let Some(name) = &name {
            self.running.check_name(old, name)?;
        }
        if let Some(text) = description {
            crate::flow::check_description(&text).map_err(|problem| config("description", problem))?;
            status.describe(Some(text));
        }
        if let Some(name) = name {
            status.rename(&name);
        }
        Ok(())
    }

    /// Changes the maximum bandwidth, from the next packet on.
    ///
    /// # Errors
    /// When it is 0, or the flow has stopped.
    pub fn set_max_bandwidth(&self, rate: Bitrate) -> Result<(), Error> {
        self.running.alive()?;
        if rate.as_bps() == 0 {
            return Err(config("max_bandwidth", Problem::out_of_range("0", "1 bit per second and more")));
        }
        *lock(&self.running.max_bandwidth) = rate;
        self.running.ring.set_limits(start::queue_limits(rate));
        if let Some(remux) = self.running.remux.get() {
            remux.ring.set_limits(start::queue_limits(rate));
        }
        self.change_live(|live| live.max_bandwidth = rate);
        Ok(())
    }

    /// Changes what happens above the maximum bandwidth.
    ///
    /// # Errors
    /// When the flow has stopped.
    pub fn set_bandwidth_policy(&self, policy: BandwidthPolicy) -> Result<(), Error> {
        self.running.alive()?;
        self.change_live(|live| live.policy = policy);
        Ok(())
    }

    fn change_live(&self, change: impl Fn(&mut Live)) {
        self.running.sources().iter().for_each(|source| source.live.send_modify(&change));
    }

    /// Stops the flow: what the source has brought is handed on, then all tasks end and all sockets close.
    pub async fn stop(&self) {
        self.running.stop().await;
    }

    /// Runs a change on the engine's runtime, to which sockets belong, whoever awaits it.
    async fn on_runtime(&self, change: impl Future<Output = Result<(), Error>> + Send + 'static) -> Result<(), Error> {
        let done = self.running.tasks.runtime.spawn(change).await;
        done.unwrap_or(Err(Error::Stopped("engine")))
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        self.running.cancel();
    }
}
