//! One flow in one region on other machines: its outputs there, what is reported about them, and what the link is told.

use super::{
    RegionUpdate, RemoteRegion,
    entry::{Entry, Leaving},
    kick::{Kicks, PendingKick},
    report::{REPORT_TIMEOUT, Report, sanitized},
    run,
};
use crate::{
    endpoint::{FlowBandwidth, MemberStats, Status, Tasks},
    engine::stats::{EndpointStats, RegionStats},
    event::{Event, EventSink, LossReason},
    flow::{Bitrate, InputProtocol, Output, PeerUrl},
    lock::{Guard, lock},
    media::MediaFamily,
    random::Random,
    router::{CurrentPresentation, Ring, State},
    text::PeerText,
    time::Throttle,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Time that a removal waits until the node reports that the output has ended.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of events that a link reports in one second for a flow.
const MAX_EVENTS: u32 = 64;
/// Maximum number of legs of a link.
const MAX_LEGS: usize = 64;

/// Parts of a flow that its regions need.
#[derive(Clone, Debug)]
pub(in crate::engine) struct FlowParts {
    pub(in crate::engine) flow: String,
    pub(in crate::engine) input: InputProtocol,
    pub(in crate::engine) family: MediaFamily,
    pub(in crate::engine) ring: Arc<Ring>,
    pub(in crate::engine) presentation: Arc<CurrentPresentation>,
    pub(in crate::engine) bandwidth: FlowBandwidth,
    pub(in crate::engine) events: EventSink,
    pub(in crate::engine) tasks: Tasks,
    pub(in crate::engine) random: Random,
}

/// Flow in a region.
#[derive(Debug)]
pub(in crate::engine) struct Attachment {
    pub(super) region: Arc<RemoteRegion>,
    pub(super) parts: FlowParts,
    /// Counters of the taps of all runs of the link.
    pub(super) tap: Arc<Status>,
    state: Mutex<AttachmentState>,
    /// Wakes the task that runs the link, after a change. It passes the change on to the link, so that no waker of the
    /// link is called under a lock.
    pub(super) changed: Notify,
    /// Wakes those who wait for a report.
    pub(super) reported: Notify,
    pub(super) version: watch::Sender<u64>,
    /// Cancelled when the flow leaves the region.
    pub(super) stop: CancellationToken,
    /// Cancelled when the link has ended after that.
    pub(super) ended: CancellationToken,
}

#[derive(Debug)]
struct AttachmentState {
    entries: Vec<Entry>,
    /// Removed outputs whose end the node has not reported.
    leaving: Vec<Leaving>,
    /// Players to be disconnected.
    kicks: Kicks,
    /// Set when the last output has gone. A new one needs another attachment.
    is_closed: bool,
    /// Number of the present run of the link; reports of others do not count.
    run: u64,
    is_running: bool,
    /// Number of runs that have failed.
    failures: u64,
    /// Reason for which the last run has failed, until the present one reports.
    failure: Option<LossReason>,
    /// Reason that the link reports.
    waiting: Option<LossReason>,
    legs: Vec<MemberStats>,
    legs_at: Instant,
    /// Reason that was told last while outputs wait.
    told: Option<LossReason>,
    budget: EventBudget,
    lag: Throttle,
    lag_seen: u64,
}

/// Bound of the events that a link reports.
#[derive(Debug)]
struct EventBudget {
    since: Instant,
    passed: u32,
    left_out: u64,
}

impl EventBudget {
    fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.passed = 0;
        }
        if self.passed < MAX_EVENTS {
            self.passed += 1;
            return true;
        }
        self.left_out += 1;
        false
    }
}

/// Output of a flow in a region, as the engine holds it.
#[derive(Debug)]
pub(in crate::engine) struct RemoteEnd {
    attachment: Arc<Attachment>,
    id: u64,
}

/// Removal of an output from a region. The remaining step is to wait.
#[derive(Debug)]
pub(in crate::engine) struct Removal {
    attachment: Arc<Attachment>,
    id: u64,
    /// Cancelled when the node has ended the output; `None` if no node runs it.
    removed: Option<CancellationToken>,
}

impl RemoteEnd {
    pub(in crate::engine) fn shown(&self, local: EndpointStats, now: Instant) -> EndpointStats {
        self.attachment.shown(self.id, local, now)
    }

    /// Returns the URL from which players fetch the output at its node, while it is reported.
    pub(in crate::engine) fn url(&self) -> Option<PeerUrl> {
        let state = self.attachment.lock();
        state.entries.iter().find(|entry| entry.id == self.id)?.url(Instant::now())
    }

    /// Passes on a change of the configuration, the name or the description.
    pub(in crate::engine) fn edit(&self, output: &Output) {
        self.attachment.change(self.id, |entry| entry.edit(output.clone()));
    }

    /// Asks for the disconnection of a player. `None` if no such player is reported.
    pub(in crate::engine) fn kick(&self, peer: SocketAddr) -> Option<PendingKick> {
        self.attachment.kick(self.id, peer)
    }

    /// Lets the output begin, when the one that it replaces has ended.
    pub(in crate::engine) fn begin(&self) -> impl FnOnce() + Send + use<> {
        let attachment = self.attachment.clone();
        let id = self.id;
        move || attachment.change(id, |entry| entry.is_held = false)
    }

    /// Removes the output, without waiting.
    pub(in crate::engine) fn remove(self) -> Removal {
        self.attachment.remove(self.id)
    }

    pub(in crate::engine) fn region(&self) -> &str {
        &self.attachment.region.name
    }
}

impl Removal {
    /// Waits until the node has ended the output, or the link has left the region with the last one.
    pub(in crate::engine) async fn finished(self) {
        if self.attachment.close_if_empty() {
            self.attachment.ended.cancelled().await;
            return;
        }
        let Some(removed) = self.removed else { return };
        tokio::select! {
            () = removed.cancelled() => {}
            () = self.attachment.ended.cancelled() => {}
            () = tokio::time::sleep(REMOVAL_TIMEOUT) => self.attachment.give_up_leaving(self.id),
        }
    }
}

impl Attachment {
    /// Brings a flow into a region, with its first output, and starts the link.
    pub(in crate::engine) fn start(
        region: Arc<RemoteRegion>,
        parts: FlowParts,
        id: u64,
        output: Output,
        status: Arc<Status>,
        is_held: bool,
    ) -> (Arc<Self>, RemoteEnd) {
        let now = Instant::now();
        let state = AttachmentState {
            entries: vec![Entry::new(id, output, status, is_held)],
            leaving: Vec::new(),
            kicks: Kicks::default(),
            is_closed: false,
            run: 0,
            is_running: false,
            failures: 0,
            failure: None,
            waiting: None,
            legs: Vec::new(),
            legs_at: now,
            told: None,
            budget: EventBudget { since: now, passed: 0, left_out: 0 },
            lag: Throttle::new(Duration::from_secs(1)),
            lag_seen: 0,
        };
        let tap = Status::new(&region.name, None);
        let attachment = Arc::new(Self {
            region,
            parts,
            tap,
            state: Mutex::new(state),
            changed: Notify::new(),
            reported: Notify::new(),
            version: watch::Sender::new(0),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let reader = attachment.parts.ring.reader();
        attachment.parts.tasks.spawn(run::drive(attachment.clone(), reader));
        let end = RemoteEnd { attachment: attachment.clone(), id };
        (attachment, end)
    }

    fn lock(&self) -> Guard<'_, AttachmentState> {
        lock(&self.state)
    }

    /// Adds an output. Returns `None` if the flow is leaving the region.
    pub(in crate::engine) fn add(
        self: &Arc<Self>,
        id: u64,
        output: &Output,
        status: &Arc<Status>,
        is_held: bool,
    ) -> Option<RemoteEnd> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.entries.push(Entry::new(id, output.clone(), status.clone(), is_held));
        drop(state);
        self.changed.notify_one();
        Some(RemoteEnd { attachment: self.clone(), id })
    }

    pub(in crate::engine) fn is_of(&self, region: &Arc<RemoteRegion>) -> bool {
        Arc::ptr_eq(&self.region, region)
    }

    pub(in crate::engine) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Tells the link that the flow leaves the region, without waiting.
    pub(in crate::engine) fn cancel(&self) {
        self.lock().is_closed = true;
        self.stop.cancel();
    }

    /// Tells the link that the settings of the flow have changed.
    pub(in crate::engine) fn flow_changed(&self) {
        self.changed.notify_one();
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        let mut state = self.lock();
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == id) else { return };
        change(entry);
        drop(state);
        self.changed.notify_one();
    }

    fn kick(self: &Arc<Self>, id: u64, peer: SocketAddr) -> Option<PendingKick> {
        if !self.has_player(id, peer) {
            return None;
        }
        self.lock().kicks.push(id, peer, Instant::now());
        self.changed.notify_one();
        Some(PendingKick { attachment: self.clone(), id, peer })
    }

    /// Returns true if a player of an output is reported.
    pub(super) fn has_player(&self, id: u64, peer: SocketAddr) -> bool {
        let now = Instant::now();
        let state = self.lock();
        state.entries.iter().any(|entry| entry.id == id && entry.has_player(peer, now))
    }

    fn remove(self: &Arc<Self>, id: u64) -> Removal {
        let mut state = self.lock();
        let place = state.entries.iter().position(|entry| entry.id == id);
        let removed = place.and_then(|place| {
            let entry = state.entries.remove(place);
            let is_there = entry.is_announced && state.is_running;
            let leaving = entry.end();
            let removed = leaving.removed.clone();
            if is_there {
                state.leaving.push(leaving);
            }
            is_there.then_some(removed)
        });
        drop(state);
        self.changed.notify_one();
        Removal { attachment: self.clone(), id, removed }
    }

    /// Forgets a removed output whose end was not reported in time, and tells of it.
    fn give_up_leaving(&self, id: u64) {
        let mut state = self.lock();
        let Some(place) = state.leaving.iter().position(|leaving| leaving.id == id) else { return };
        let name = state.leaving.remove(place).status.name();
        drop(state);
        let text =
            format!("the end of the removed output `{name}` was not reported within {} s", REMOVAL_TIMEOUT.as_secs());
        self.emit([Event::RegionNotice { region: self.region.name.clone(), text: text.into() }]);
    }

    /// Leaves the region if no output is left there. Returns true if the flow has left it.
    fn close_if_empty(&self) -> bool {
        let mut state = self.lock();
        if !state.entries.is_empty() && !state.is_closed {
            return false;
        }
        state.is_closed = true;
        drop(state);
        self.stop.cancel();
        true
    }

    /// Returns the present state for the link.
    pub(super) fn update(&self, version: &mut watch::Receiver<u64>) -> RegionUpdate {
        version.borrow_and_update();
        let max_bandwidth: Bitrate = self.parts.bandwidth.now().max;
        let sdp = self.parts.presentation.current().map(|presentation| presentation.to_sdp());
        let mut state = self.lock();
        let kicks = state.kicks.recent(Instant::now());
        let outputs = state.entries.iter_mut().filter(|entry| !entry.is_held).map(Entry::announce).collect();
        RegionUpdate { max_bandwidth, sdp, outputs, kicks }
    }

    /// Begins a run of the link. Returns its number.
    pub(super) fn begin_run(&self) -> u64 {
        let mut state = self.lock();
        state.run += 1;
        state.is_running = true;
        for entry in &mut state.entries {
            entry.is_announced = false;
        }
        state.run
    }

    /// Ends a run of the link, for a reason if it has failed.
    pub(super) fn end_run(&self, failure: Option<LossReason>) {
        let now = Instant::now();
        let mut events = Vec::new();
        let mut state = self.lock();
        state.run += 1;
        state.is_running = false;
        state.waiting = None;
        state.legs.clear();
        for leaving in state.leaving.drain(..) {
            leaving.removed.cancel();
        }
        if let Some(reason) = failure {
            let waits = self.waits_for_reason(&reason);
            events.extend(state.entries.iter_mut().filter_map(|entry| entry.lose(waits.clone(), now)));
            state.failures += 1;
            state.failure = Some(reason);
        }
        drop(state);
        self.emit(events);
    }

    pub(super) fn emit(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.parts.events.emit(event);
        }
    }

    /// Returns the reason with the name of the region.
    fn waits_for_reason(&self, reason: &LossReason) -> LossReason {
        match reason {
            LossReason::WaitingForRegion(text) => LossReason::WaitingForRegion(text.clone()),
            reason => self.waits_for(reason),
        }
    }

    fn waits_for(&self, reason: impl std::fmt::Display) -> LossReason {
        LossReason::waiting_for_region(&self.region.name, reason)
    }

    /// Looks for outputs that have not been reported for too long, and tells what was held back.
    pub(super) fn check(&self, now: Instant) {
        let mut events = Vec::new();
        let region = || self.region.name.clone();
        let mut guard = self.lock();
        let state = &mut *guard;
        let why = state.known_reason();
        for entry in &mut state.entries {
            if !entry.is_fresh(now) {
                let reason = match &why {
                    Some(reason) => self.waits_for_reason(reason),
                    None => self.waits_for(entry.silence(now)),
                };
                events.extend(entry.lose(reason, now));
            }
        }
        // A reason that the link gives is told at once, silence when it has lasted.
        let waits = |entry: &&Entry| if why.is_some() { !entry.is_fresh(now) } else { entry.is_overdue(now) };
        let waiting = state.entries.iter().filter(|entry| !entry.is_held).filter(waits).count();
        if waiting == 0 {
            state.told = None;
        } else {
            let reason = why.unwrap_or(LossReason::TimedOut);
            if state.told.as_ref() != Some(&reason) {
                state.told = Some(reason.clone());
                let outputs = u32::try_from(waiting).unwrap_or(u32::MAX);
                events.push(Event::RegionWaiting { region: region(), outputs, reason });
            }
        }
        let dropped = self.tap.counters.dropped.get();
        let new = dropped.saturating_sub(state.lag_seen);
        state.lag_seen = dropped;
        if state.lag.admit(now, new).is_some() {
            events.push(Event::RegionLagging { region: region(), dropped });
        }
        if now.saturating_duration_since(state.budget.since) >= Duration::from_secs(1) {
            let left_out = std::mem::take(&mut state.budget.left_out);
            if left_out > 0 {
                let text = format!("{left_out} events of its outputs were left out, above {MAX_EVENTS} a second");
                events.push(Event::RegionNotice { region: region(), text: text.into() });
            }
        }
        drop(guard);
        self.emit(events);
    }

    // Reports of the link.

    pub(super) fn report(&self, run: u64, id: u64, node: PeerText, stats: EndpointStats) -> bool {
        let report = Report::new(node, stats, Instant::now());
        let mut state = self.lock();
        if !state.is_present(run) {
            return false;
        }
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == id) else {
            // Its last counters.
            if let Some(leaving) = state.leaving.iter_mut().find(|leaving| leaving.id == id) {
                leaving.take_report(report);
            }
            return false;
        };
        let event = entry.take_report(report);
        state.failure = None;
        drop(state);
        self.reported.notify_waiters();
        self.emit(event);
        true
    }

    pub(super) fn report_event(&self, run: u64, id: u64, event: Event) -> bool {
        let mut state = self.lock();
        if !state.is_present(run) {
            return false;
        }
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == id) else { return false };
        let Some(event) = renamed(event, entry.name()) else { return false };
        entry.take_event(&event);
        let admitted = state.budget.admit(Instant::now());
        drop(state);
        self.emit(Some(event).filter(|_| admitted));
        true
    }

    pub(super) fn report_removed(&self, run: u64, id: u64) {
        let mut state = self.lock();
        if state.is_present(run)
            && let Some(place) = state.leaving.iter().position(|leaving| leaving.id == id)
        {
            state.leaving.swap_remove(place).removed.cancel();
        }
    }

    pub(super) fn report_waiting(&self, run: u64, reason: Option<LossReason>) {
        let mut state = self.lock();
        if state.is_present(run) {
            state.waiting = reason.map(|reason| sanitized(reason).of_region_link(&self.region.name));
            state.failure = None;
        }
    }

    pub(super) fn report_legs(&self, run: u64, mut legs: Vec<MemberStats>) {
        legs.truncate(MAX_LEGS);
        for leg in &mut legs {
            leg.address = PeerText::new(&leg.address).into();
        }
        let mut state = self.lock();
        if state.is_present(run) {
            state.legs = legs;
            state.legs_at = Instant::now();
        }
    }

    pub(super) fn tell(&self, run: u64, event: impl FnOnce(String) -> Event) {
        let mut state = self.lock();
        let admitted = state.is_present(run) && state.budget.admit(Instant::now());
        drop(state);
        if admitted {
            self.emit([event(self.region.name.clone())]);
        }
    }

    // Statistics.

    fn shown(&self, id: u64, local: EndpointStats, now: Instant) -> EndpointStats {
        let state = self.lock();
        let Some(entry) = state.entries.iter().find(|entry| entry.id == id) else { return local };
        let reason = || match state.known_reason() {
            Some(reason) => self.waits_for_reason(&reason),
            None => self.waits_for(entry.silence(now)),
        };
        entry.shown(local, reason, now)
    }

    /// Returns the statistics of the link; `None` if the flow is leaving the region.
    pub(in crate::engine) fn stats(&self, now: Instant) -> Option<RegionStats> {
        let state = self.lock();
        if state.is_closed {
            return None;
        }
        let age = now.saturating_duration_since(state.legs_at);
        let mut legs = state.legs.clone();
        for leg in &mut legs {
            let connected = leg.connected_for.filter(|_| age < REPORT_TIMEOUT);
            leg.connected_for = connected.map(|time| time.saturating_add(age));
        }
        let is_reported = state.entries.iter().any(|entry| entry.is_fresh(now));
        let is_connected = is_reported || legs.iter().any(|leg| leg.connected_for.is_some());
        let counters = &self.tap.counters;
        Some(RegionStats {
            name: self.region.name.clone(),
            state: if is_connected { State::Connected } else { State::Waiting },
            waiting: state.known_reason().map(|reason| reason.text_within_region(&self.region.name).into()),
            outputs: u32::try_from(state.entries.len()).unwrap_or(u32::MAX),
            restarts: state.failures,
            bytes: counters.bytes.get(),
            packets: counters.packets.get(),
            bit_rate: Bitrate::bps(counters.bits_per_second(now)),
            dropped: counters.dropped.get(),
            legs,
        })
    }
}

impl AttachmentState {
    fn is_present(&self, run: u64) -> bool {
        self.is_running && self.run == run
    }

    /// Returns why the outputs of the region wait, as far as the link has said or shown it.
    fn known_reason(&self) -> Option<LossReason> {
        self.waiting.clone().or_else(|| self.failure.clone())
    }
}

/// Returns an event of an output under its name here; `None` if it is none of an output.
fn renamed(event: Event, name: String) -> Option<Event> {
    Some(match event {
        Event::OutputConnected { peer, .. } => Event::OutputConnected { output: name, peer },
        Event::OutputLost { peer, reason, .. } => Event::OutputLost { output: name, peer, reason: sanitized(reason) },
        Event::OutputRetrying { attempt, delay, reason, .. } => {
            Event::OutputRetrying { output: name, attempt, delay, reason: sanitized(reason) }
        }
        Event::OutputLagging { dropped, .. } => Event::OutputLagging { output: name, dropped },
        Event::OutputOversized { packets, limit, .. } => Event::OutputOversized { output: name, packets, limit },
        Event::PeerRefused { peer, reason, detail, count, .. } => {
            Event::PeerRefused { endpoint: name, peer, reason, detail, count }
        }
        Event::UnexpectedPayload { problem, packets, .. } => {
            Event::UnexpectedPayload { endpoint: name, problem, packets }
        }
        event @ Event::Remuxed { .. } => event,
        _ => return None,
    })
}
