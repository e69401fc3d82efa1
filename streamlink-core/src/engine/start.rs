//! Starting a flow: everything is opened first; only when all of it is open does anything run.

use super::{
    FlowHandle, Shared,
    handle::Running,
    outputs::open_output,
    sources::{group_terms, open_source},
};
use crate::{
    endpoint::{
        Event, EventSink, Live, SourceContext, Status, Tasks,
        fanout::Fanout,
        rtmp::Rtmp,
        rtsp::Rtsp,
        srt,
        tcp::{Port, RouteId},
    },
    error::{ConfigError, ConfigErrors, Error, Problem},
    flow::{Allowlist, Bitrate, Claim, Flow, Output},
    net::{Egress, TlsClient},
    router::{CurrentPresentation, Group, Limits, Ring, State, Turns},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the ring holds packets for outputs that lag.
pub(super) const QUEUE_TIME: Duration = Duration::from_secs(1);
/// The ring's smallest bound in bytes: some datagrams of any size.
const MIN_QUEUE: u64 = 256 * 1024;

/// What the ring may hold for a flow of this bandwidth: a second of it.
pub(super) fn queue_limits(max_bandwidth: Bitrate) -> Limits {
    Limits { bytes: max_bandwidth.bytes_in(QUEUE_TIME).max(MIN_QUEUE), time: QUEUE_TIME }
}

/// A place on a shared port.
#[derive(Clone, Debug)]
pub(super) enum PortRoute {
    Srt(Arc<srt::Port>, srt::RouteId),
    Rtmp(Arc<Port<Rtmp>>, RouteId),
    Rtsp(Arc<Port<Rtsp>>, RouteId),
}

impl PortRoute {
    pub(super) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        match self {
            PortRoute::Srt(port, id) => port.edit(*id, allow, max_peers),
            PortRoute::Rtmp(port, id) => port.edit(*id, allow, max_peers),
            PortRoute::Rtsp(port, id) => port.edit(*id, allow, max_peers),
        }
    }

    /// Cuts off the players at an address; returns whether there were any.
    pub(super) async fn kick(&self, peer: SocketAddr) -> bool {
        match self {
            PortRoute::Srt(port, id) => port.kick(*id, peer).await,
            PortRoute::Rtmp(port, id) => port.kick(*id, peer),
            PortRoute::Rtsp(port, id) => port.kick(*id, peer),
        }
    }

    /// Gives up the place, and waits until its connections have ended.
    pub(super) async fn remove(&self) {
        match self {
            PortRoute::Srt(port, id) => port.remove(*id).await,
            PortRoute::Rtmp(port, id) => port.remove(*id).await,
            PortRoute::Rtsp(port, id) => port.remove(*id).await,
        }
    }

    /// Gives back the handle; waits for the socket to close if it was the last.
    pub(super) async fn release(self) {
        match self {
            PortRoute::Srt(port, _) => port.release().await,
            PortRoute::Rtmp(port, _) => port.release().await,
            PortRoute::Rtsp(port, _) => port.release().await,
        }
    }
}

/// Names an endpoint in errors.
pub(super) struct Place<'a> {
    flow: &'a str,
    endpoint: String,
}

impl Place<'_> {
    pub(super) fn source<'a>(flow: &'a str, name: &str) -> Place<'a> {
        Place { flow, endpoint: format!("source `{name}`") }
    }

    pub(super) fn output<'a>(flow: &'a str, name: &str) -> Place<'a> {
        Place { flow, endpoint: format!("output `{name}`") }
    }

    pub(super) fn bind(&self, address: SocketAddr, cause: io::Error) -> Error {
        Error::Bind { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), address, cause }
    }

    pub(super) fn io(&self, what: String, cause: io::Error) -> Error {
        Error::Io { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), what, cause }
    }
}

/// The addresses that a flow has taken, given back if the flow does not start.
struct Reservation<'a> {
    shared: &'a Shared,
    id: u64,
    kept: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.release(self.id);
        }
    }
}

/// Takes what a flow claims for itself alone.
fn reserve<'a>(
    shared: &'a Shared,
    id: u64,
    flow: &str,
    claims: Vec<(String, Claim)>,
) -> Result<Reservation<'a>, ConfigErrors> {
    let mut taken = shared.claims();
    let conflicts = claims.iter().filter_map(|(path, claim)| {
        let (_, owner) = taken.get(claim)?;
        let problem = format!("flow `{owner}` already listens on {claim} with the same key");
        Some(ConfigError::new(format!("{path}.bind"), Problem::Duplicate(problem)))
    });
    match ConfigErrors::collect(conflicts.collect()) {
        Some(errors) => Err(errors),
        None => {
            taken.extend(claims.into_iter().map(|(_, claim)| (claim, (id, flow.to_owned()))));
            Ok(Reservation { shared, id, kept: false })
        }
    }
}

pub(super) async fn start(shared: Arc<Shared>, flow: Flow) -> Result<FlowHandle, Error> {
    let name = flow.name().to_owned();
    check_regions(&shared, &flow.outputs)?;
    if shared.flows().contains_key(&name) {
        return Err(Error::AlreadyExists { what: "a flow", name });
    }
    let sources = flow.sources.iter().enumerate().filter_map(|(i, s)| Some((format!("sources[{i}]"), s.claim()?)));
    let (family, input) = (flow.family(), flow.input());
    let outputs = flow.outputs.iter().enumerate().filter_map(|(i, o)| Some((format!("outputs[{i}]"), o.claim()?)));
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let mut reservation = reserve(&shared, id, &name, sources.chain(outputs).collect())?;

    // Open everything.
    let events = EventSink::new(&name);
    let ring = Ring::new(queue_limits(flow.max_bandwidth));
    let tasks = Tasks { runtime: shared.runtime.clone(), tracker: TaskTracker::new() };
    let stop = CancellationToken::new();
    let mut sources = Vec::new();
    for source in flow.sources {
        let opened = open_source(&shared, &name, &source, flow.max_bandwidth, flow.failover)?;
        let status = Status::new(source.name(), source.common.description.clone());
        sources.push((source, status, opened));
    }
    let mut outputs = Vec::new();
    for output in flow.outputs {
        let status = Status::new(output.name(), output.common.description.clone());
        let opened = open_output(&shared, &name, &output, flow.max_bandwidth, &status).await?;
        outputs.push((output, status, opened));
    }

    // Run it: nothing fails from here on, but for a flow of the same name that was quicker.
    let stage = Arc::<CurrentPresentation>::default();
    let terms = group_terms(flow.failover);
    let group = Group::new(ring.clone(), stage.clone(), terms, family, sources.len());
    let fanout = Fanout::new(ring.clone(), events.clone(), tasks.clone(), shared.workers);
    let own_events = events.subscribe();
    let running = Running {
        id,
        random: shared.random.clone(),
        name: name.clone(),
        shared: Arc::downgrade(&shared),
        input,
        group: group.clone(),
        max_bandwidth: Mutex::new(flow.max_bandwidth),
        ring,
        events: events.clone(),
        tasks,
        source_tasks: TaskTracker::new(),
        stop: stop.clone(),
        stopped: AtomicBool::new(false),
        fanout,
        sources: Mutex::default(),
        outputs: Mutex::default(),
        stage,
        remux: OnceLock::new(),
        editing: tokio::sync::Mutex::new(()),
    };
    let running = Arc::new(running);
    match shared.flows().entry(name.clone()) {
        std::collections::hash_map::Entry::Occupied(_) => return Err(Error::AlreadyExists { what: "a flow", name }),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(running.clone()),
    };
    reservation.kept = true;
    for (output, status, opened) in outputs {
        running.run_output(output, status, opened);
    }
    events.emit(Event::FlowStarted);
    if let Turns::Merge(_) = terms.turns {
        running.run_merge_clock(group.clone());
    }
    let statuses: Arc<[Arc<Status>]> = sources.iter().map(|(_, status, _)| status.clone()).collect();
    for (number, (source, status, opened)) in sources.into_iter().enumerate() {
        status.counters.set_state(State::Waiting, Instant::now());
        let (live, live_reader) = watch::channel(Live {
            allow: source.clone().allow_mut().map(std::mem::take).unwrap_or_else(Allowlist::everyone),
            max_bandwidth: flow.max_bandwidth,
            policy: flow.policy,
        });
        let context = SourceContext {
            status,
            number,
            sources: statuses.clone(),
            group: group.clone(),
            events: events.clone(),
            live: live_reader,
            coalesce: flow.coalesce,
            random: shared.random.clone(),
            stop: stop.child_token(),
        };
        let cold = flow.failover.cold && number > 0;
        running.run_source(&shared, source, opened, (context, live), cold);
    }
    Ok(FlowHandle::new(running.clone(), own_events))
}

fn check_regions(shared: &Shared, outputs: &[Output]) -> Result<(), ConfigErrors> {
    let errors = outputs.iter().enumerate().filter_map(|(i, output)| {
        let problem = region(shared, output).err()?;
        Some(ConfigError::new(format!("outputs[{i}].region"), problem))
    });
    ConfigErrors::collect(errors.collect()).map_or(Ok(()), Err)
}

/// Where an output leaves from.
pub(super) fn region(shared: &Shared, output: &Output) -> Result<Egress, Problem> {
    let Some(name) = &output.common.region else { return Ok(Egress::default()) };
    shared.regions.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = shared.regions.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Problem::UnknownRegion { name: name.clone(), known }
    })
}

/// Whom a caller trusts, if it speaks TLS.
pub(super) fn trust(shared: &Shared, tls: bool, place: &Place<'_>) -> Result<Option<TlsClient>, Error> {
    match tls {
        false => Ok(None),
        true => shared.tls_client().map(Some).map_err(|what| place.io("TLS".into(), io::Error::other(what))),
    }
}
