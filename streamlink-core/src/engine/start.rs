//! Start of a flow. All sources and outputs are opened first, and run only when all of them are open.

use super::{
    EngineState, FlowHandle,
    outputs::open_output,
    region::Region,
    running::Running,
    sources::{RunningSource, group_terms, open_source},
};
use crate::{
    endpoint::{
        Bandwidth, BandwidthSetting, FlowMedia, MessageRing, PacedFanout, SourceList, Status, Tasks, WantedPrograms,
        fanout::Fanout,
    },
    error::{ConfigError, ConfigErrorKind, ConfigErrors, Error},
    event::{Event, EventSink},
    flow::{Claim, Flow, Output},
    lock,
    net::{self, Egress, is_local_ip},
    router::{CurrentPresentation, Ring, SourceGroup, SwitchPolicy},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Claims of a flow, which are given back if the flow does not start.
struct Reservation<'a> {
    shared: &'a EngineState,
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

/// Takes the exclusive claims of a flow.
fn reserve<'a>(
    shared: &'a EngineState,
    id: u64,
    flow: &str,
    claims: Vec<(String, Claim)>,
) -> Result<Reservation<'a>, Error> {
    let mut taken = shared.claims();
    let mut own: HashMap<&Claim, &str> = HashMap::new();
    let conflicts = claims.iter().filter_map(|(path, claim)| {
        let other = taken.get(claim).map(|(_, owner)| format!("flow `{owner}`"));
        // Outputs of different regions may be those of one machine.
        let other = other.or_else(|| own.insert(claim, path).map(str::to_owned))?;
        let problem = format!("{other} already listens on {claim} with the same key");
        Some(ConfigError::new(format!("{path}.bind"), ConfigErrorKind::Duplicate(problem)))
    });
    match ConfigErrors::collect(conflicts.collect()) {
        Some(errors) => Err(Error::Claimed(errors)),
        None => {
            taken.extend(claims.into_iter().map(|(_, claim)| (claim, (id, flow.to_owned()))));
            Ok(Reservation { shared, id, kept: false })
        }
    }
}

pub(super) async fn start(shared: Arc<EngineState>, mut flow: Flow) -> Result<FlowHandle, Error> {
    let name = flow.name().to_owned();
    if shared.is_shut_down.load(Ordering::SeqCst) {
        return Err(Error::Stopped("engine"));
    }
    check_regions(&shared, &flow.outputs)?;
    check_kernel(&shared, &flow)?;
    let remarks = remarks(&shared, &flow);
    if shared.flows().contains_key(&name) {
        return Err(Error::AlreadyExists { what: "a flow", name });
    }
    let sources = flow.sources.iter().enumerate().filter_map(|(i, s)| Some((format!("sources[{i}]"), s.claim()?)));
    let family = flow.family();
    let input = flow.input;
    let outputs = flow.outputs.iter().enumerate();
    let outputs = outputs.filter_map(|(i, o)| Some((format!("outputs[{i}]"), local_claim(&shared, o)?)));
    let failover = flow.failover;
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let mut reservation = reserve(&shared, id, &name, sources.chain(outputs).collect())?;

    // Open all sources and outputs.
    let events = EventSink::new(&name, shared.events.clone());
    let bandwidth = Bandwidth { max: flow.max_bandwidth, policy: flow.policy };
    let setting = BandwidthSetting::new(bandwidth);
    let ring = Ring::new(bandwidth.queue_limits());
    ring.set_entry_wait(flow.entry_wait);
    let tasks = Tasks { runtime: shared.runtime.clone(), tracker: TaskTracker::new() };
    let stop = CancellationToken::new();
    let mut sources = Vec::new();
    for source in std::mem::take(&mut flow.sources) {
        let opened = if source.common.enabled {
            Some(open_source(&shared, &name, &source, bandwidth, flow.failover)?)
        } else {
            None
        };
        sources.push((RunningSource::new(source, bandwidth), opened));
    }
    let mut outputs = Vec::new();
    for output in std::mem::take(&mut flow.outputs) {
        let status = Status::new(output.name(), output.common.description.clone());
        let opened = open_output(&shared, &name, &output, &setting.view(), &status).await?;
        outputs.push((output, status, opened));
    }

    // Run the flow. No step can fail from here on, except when another flow of the same name has started meanwhile.
    let presentation = Arc::<CurrentPresentation>::default();
    let terms = group_terms(flow.failover);
    let enabled = sources.iter().filter(|(_, opened)| opened.is_some()).count();
    let group = SourceGroup::new(ring.clone(), presentation.clone(), terms, family, enabled);
    let fanout = Fanout::new(ring.clone(), events.clone(), tasks.clone(), shared.workers);
    let own_events = events.subscribe();
    let source_list = Arc::<SourceList>::default();
    let wanted = WantedPrograms { group: group.clone(), sources: source_list.clone() };
    let messages = MessageRing::new(ring.clone(), family, wanted, events.clone(), tasks.clone());
    let paced = PacedFanout::new(ring.clone(), events.clone(), tasks.clone());
    let running = Running {
        id,
        name: name.clone(),
        shared: Arc::downgrade(&shared),
        input,
        group: group.clone(),
        media: FlowMedia { ring, messages, presentation, paced, bandwidth: setting, events: events.clone() },
        tasks,
        source_tasks: TaskTracker::new(),
        stop: stop.clone(),
        stopped: AtomicBool::new(false),
        fanout,
        settings: Mutex::new(flow),
        source_list,
        sources: Mutex::default(),
        outputs: Mutex::default(),
        regions: Mutex::default(),
        changes: TaskTracker::new(),
        stopping: tokio::sync::Mutex::new(()),
        handle: OnceLock::new(),
    };
    let running = Arc::new(running);
    {
        let mut flows = shared.flows();
        // A shutdown sets the flag before it takes the list, so that it misses no flow.
        if shared.is_shut_down.load(Ordering::SeqCst) {
            return Err(Error::Stopped("engine"));
        }
        match flows.entry(name.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(Error::AlreadyExists { what: "a flow", name });
            }
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(running.clone()),
        };
    }
    reservation.kept = true;
    for (output, status, opened) in outputs {
        running.put_output(&shared, output, status, opened)?;
    }
    events.emit(Event::FlowStarted);
    for remark in remarks {
        report_remark(&events, remark);
    }
    if let SwitchPolicy::Merge(_) = terms.turns {
        running.run_merge_clock(group.clone());
    }
    let mut number = 0;
    for (mut source, opened) in sources {
        if let Some(opened) = opened {
            source.run = Some(running.run_source(&shared, &source, opened, number, failover.cold && number > 0));
            number += 1;
        }
        running.sources().push(source);
    }
    events.flow_started();
    Ok(FlowHandle::new(running.clone(), own_events))
}

/// Returns what is valid in a flow and may have been meant otherwise.
fn remarks(shared: &EngineState, flow: &Flow) -> Vec<Event> {
    let sources = flow.sources.iter().map(|source| (source.name(), source.called_own_address(is_local_ip)));
    let outputs = flow.outputs.iter().filter(|output| !is_remote(shared, output));
    let outputs = outputs.map(|output| (output.name(), output.called_own_address(is_local_ip)));
    let calls = sources.chain(outputs).filter_map(|(name, address)| Some((name, address?)));
    calls.map(|(name, address)| Event::CallsOwnAddress { endpoint: name.to_owned(), address }).collect()
}

/// Reports settings that may have been meant otherwise, also as a warning in the log.
pub(super) fn report_remark(events: &EventSink, remark: Event) {
    let flow = events.flow().to_owned();
    let text = remark.to_string();
    lock::log_unlocked(move || log::warn!("flow `{flow}`: {text}"));
    events.emit(remark);
}

/// Checks that the kernel has the congestion control that an endpoint asks for.
pub(super) fn check_congestion(name: Option<String>) -> Result<(), ConfigErrorKind> {
    let Some(name) = name else { return Ok(()) };
    net::check_congestion(&name).map_err(|error| {
        ConfigErrorKind::Conflict(format!("this system has no congestion control `{name}` for this process: {error}"))
    })
}

/// Checks the congestion controls of all endpoints of this machine.
fn check_kernel(shared: &EngineState, flow: &Flow) -> Result<(), ConfigErrors> {
    let sources = flow.sources.iter().enumerate().map(|(i, s)| (format!("sources[{i}]"), s.congestion()));
    let outputs = flow.outputs.iter().enumerate().filter(|(_, output)| !is_remote(shared, output));
    let outputs = outputs.map(|(i, o)| (format!("outputs[{i}]"), o.congestion()));
    let errors = sources.chain(outputs).filter_map(|(path, name)| {
        let problem = check_congestion(name).err()?;
        Some(ConfigError::new(format!("{path}.congestion"), problem))
    });
    ConfigErrors::collect(errors.collect()).map_or(Ok(()), Err)
}

fn check_regions(shared: &EngineState, outputs: &[Output]) -> Result<(), ConfigErrors> {
    let errors = outputs.iter().enumerate().filter_map(|(i, output)| {
        let problem = region(shared, output).err()?;
        Some(ConfigError::new(format!("outputs[{i}].region"), problem))
    });
    ConfigErrors::collect(errors.collect()).map_or(Ok(()), Err)
}

/// Returns the region of an output.
pub(super) fn region(shared: &EngineState, output: &Output) -> Result<Region, ConfigErrorKind> {
    let Some(name) = &output.common.region else { return Ok(Region::Local(Egress::default())) };
    let regions = shared.regions();
    match regions.get(name) {
        Some(Region::Remote(_)) if output.is_tap() => {
            let problem = format!("a tap hands packets to this process, and region `{name}` is on other machines");
            Err(ConfigErrorKind::Conflict(problem))
        }
        Some(region) => Ok(region.clone()),
        None => {
            let known: Vec<&str> = regions.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(ConfigErrorKind::UnknownRegion { name: name.clone(), known })
        }
    }
}

/// Returns true if an output runs on other machines.
fn is_remote(shared: &EngineState, output: &Output) -> bool {
    region(shared, output).is_ok_and(|region| region.is_remote())
}

/// Returns what an output claims on this machine.
pub(super) fn local_claim(shared: &EngineState, output: &Output) -> Option<Claim> {
    output.claim().filter(|_| !is_remote(shared, output))
}
