//! One flow at a node: the media from the relays, and the outputs that run here.

use super::{
    NodeEvent,
    desired::{Desired, DesiredKick, DesiredOutput},
};
use crate::{
    Broadcast, Relays, TrackOptions, TrackWriter,
    media::{Fence, Media, Receivers},
    status::{OutputStatus, StatusWriter},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, EndpointStats, Engine, Error as FlowError, Event, Events, Flow, FlowHandle, MediaFamily, Output,
    OutputEdit, PeerText, Source, State,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

/// Name of the source that receives from the relays.
const SOURCE: &str = "relays";
/// Pause before an output or a flow that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Interval in which the runner looks whether a report is due, and what is to be tried again.
const TICK: Duration = Duration::from_millis(100);

/// Hash of an output of which it is not known whether it runs, and as what.
const UNKNOWN: [u8; 32] = [0; 32];

/// Report of a runner to the agent.
#[derive(Debug)]
pub(super) enum Report {
    /// All outputs have stopped that were not to run in a generation.
    Stopped {
        flow: String,
        generation: u64,
        round: u64,
    },
    Event(NodeEvent),
}

/// State that all runners of a node share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    /// Links over which media is received.
    pub(super) subscribe: Arc<Relays>,
    /// Links over which reports are published.
    pub(super) publish: Arc<Relays>,
    pub(super) fence: Arc<Fence>,
    pub(super) reports: mpsc::Sender<Report>,
}

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) flow: String,
    /// Path of the media.
    pub(super) media_path: String,
    pub(super) status_path: String,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) status: StatusWriter,
    /// Faults of the media that were told.
    pub(super) media_faults: Vec<PeerText>,
    /// Number of the last request of each publisher to disconnect a player.
    pub(super) kicked: BTreeMap<u64, u64>,
}

/// Reason why the local flow cannot run.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error(transparent)]
    Relays(#[from] crate::Error),
    #[error(transparent)]
    Config(#[from] streamlink_core::ConfigErrors),
}

/// Flow on the node's engine.
struct Local {
    handle: FlowHandle,
    events: Events,
    media: Media,
    family: MediaFamily,
    max_bandwidth: Bitrate,
    outputs: BTreeMap<String, DesiredOutput>,
}

/// Published track of reports; both end together.
struct StatusTrack {
    track: TrackWriter,
    _broadcast: Broadcast,
}

impl Runner {
    /// Runs the flow until the agent drops its end.
    pub(super) async fn run(mut self) {
        let mut local = None;
        let mut faults: BTreeMap<String, PeerText> = BTreeMap::new();
        let track = self.publish_status();
        let mut retry_at: Option<Instant> = None;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    retry_at = self.apply(&mut local, &mut faults).await;
                }
                event = next_event(&mut local) => self.take_event(local.as_ref(), &event),
                _ = ticks.tick() => {
                    if retry_at.is_some_and(|at| Instant::now() >= at) {
                        retry_at = self.apply(&mut local, &mut faults).await;
                    }
                    self.take_media_state(local.as_mut()).await;
                    self.report(local.as_ref(), &faults, track.as_ref());
                }
            }
        }
        if let Some(local) = local {
            self.stop(local).await;
        }
    }

    fn publish_status(&self) -> Option<StatusTrack> {
        let published = self.shared.publish.publish(&self.status_path).and_then(|broadcast| {
            let track = broadcast.track("status", TrackOptions::default())?;
            broadcast.announce()?;
            Ok(StatusTrack { track, _broadcast: broadcast })
        });
        published.inspect_err(|error| log::warn!("flow `{}`: no reports: {error}", PeerText::new(&self.flow))).ok()
    }

    /// Makes the flow what it is to be. Returns when to try again, if something failed.
    async fn apply(&mut self, local: &mut Option<Local>, faults: &mut BTreeMap<String, PeerText>) -> Option<Instant> {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            self.status.changed();
            let is_same = |known: &Local| desired.family == Some(known.family);
            if let Some(known) = local.take_if(|known| !is_same(known)) {
                self.stop(known).await;
            }
            if let Some(known) = local.as_mut() {
                self.stop_outputs(known, &desired).await;
            }
            let generation = desired.generation;
            let round = desired.round;
            self.tell(Report::Stopped { flow: self.flow.clone(), generation, round }).await;
            faults.retain(|name, _| desired.outputs.contains_key(name));
            let Some(family) = desired.family.filter(|_| desired.is_warm || !desired.outputs.is_empty()) else {
                if let Some(known) = local.take() {
                    self.stop(known).await;
                }
                return None;
            };
            if local.is_none() {
                match self.start(family, &desired).await {
                    Ok(started) => *local = Some(started),
                    Err(error) => {
                        let reason = PeerText::new(error.to_string());
                        self.fail(faults, String::new(), &reason).await;
                        return Some(Instant::now() + RETRY);
                    }
                }
            }
            let known = local.as_mut()?;
            follow(known, &desired);
            if let Err(error) = self.follow_media(known, &desired) {
                let reason = PeerText::new(error.to_string());
                self.fail(faults, String::new(), &reason).await;
                return Some(Instant::now() + RETRY);
            }
            if self.start_outputs(known, &desired, faults).await {
                self.kick(known, &desired);
                return (!faults.is_empty()).then(|| Instant::now() + RETRY);
            }
        }
    }

    /// Starts the local flow, and the reception of its media.
    async fn start(&self, family: MediaFamily, desired: &Desired) -> Result<Local, Fault> {
        let flow = Flow::builder(self.flow.as_str(), desired.max_bandwidth);
        let flow = match family {
            MediaFamily::Rtp => flow.source(Source::app_rtp(SOURCE)).build(),
            MediaFamily::Rtmp => flow.source(Source::app_rtmp(SOURCE)).build(),
            MediaFamily::Rtsp => flow.source(Source::app_rtsp(SOURCE)).build(),
            _ => flow.source(Source::app_datagrams(SOURCE)).build(),
        };
        let handle = self.shared.engine.start(flow?).await?;
        let media = self.receive(&handle, desired)?;
        Ok(Local {
            events: handle.events(),
            handle,
            media,
            family,
            max_bandwidth: desired.max_bandwidth,
            outputs: BTreeMap::new(),
        })
    }

    /// Receives the media into the source of a flow.
    fn receive(&self, handle: &FlowHandle, desired: &Desired) -> Result<Media, Fault> {
        let source = handle.app_source(SOURCE)?;
        let Shared { engine, subscribe, fence, .. } = &*self.shared;
        let node = Receivers { engine, relays: subscribe, fence };
        Ok(Media::receive(&node, &self.flow, &self.media_path, desired.srt.as_ref(), source)?)
    }

    /// Follows a change of where the media comes from.
    fn follow_media(&self, local: &mut Local, desired: &Desired) -> Result<(), Fault> {
        if !local.media.follow(desired.srt.as_ref()) {
            local.media = self.receive(&local.handle, desired)?;
        }
        Ok(())
    }

    /// Reports the losses of the media, and tells its faults that are new.
    async fn take_media_state(&mut self, mut local: Option<&mut Local>) {
        self.status.losses(local.as_mut().map(|local| local.media.losses()).unwrap_or_default());
        let faults = local.map(|local| local.media.faults()).unwrap_or_default();
        if faults == self.media_faults {
            return;
        }
        let before = std::mem::replace(&mut self.media_faults, faults);
        self.status.changed();
        for reason in self.media_faults.iter().filter(|fault| !before.contains(fault)) {
            let event = NodeEvent::Failed { flow: self.flow.clone(), reason: reason.clone() };
            self.tell(Report::Event(event)).await;
        }
    }

    /// Stops the outputs that are not to run, all at once, and waits until they have stopped.
    async fn stop_outputs(&mut self, local: &mut Local, desired: &Desired) {
        let stale = |(name, _): &(&String, &DesiredOutput)| !desired.outputs.contains_key(*name);
        let names: Vec<String> = local.outputs.iter().filter(stale).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let mut stops = JoinSet::new();
        for name in &names {
            let handle = local.handle.clone();
            let name = name.clone();
            stops.spawn(async move {
                let _ = handle.remove_output(&name).await; // there is none if its start was interrupted
            });
        }
        while stops.join_next().await.is_some() {}
        for output in names {
            local.outputs.remove(&output);
            self.tell(Report::Event(NodeEvent::OutputStopped { flow: self.flow.clone(), output })).await;
        }
        self.shared.fence.note(&self.flow, local.outputs.values().any(|output| output.is_exclusive));
    }

    /// Starts and replaces outputs. Returns `false` if something else is wanted meanwhile.
    async fn start_outputs(
        &mut self,
        local: &mut Local,
        desired: &Desired,
        faults: &mut BTreeMap<String, PeerText>,
    ) -> bool {
        for (name, wanted) in &desired.outputs {
            let known = local.outputs.get(name);
            if known.is_some_and(|known| known.json_hash == wanted.json_hash) {
                // Numbers and rank may differ, which only reports show.
                local.outputs.insert(name.clone(), wanted.clone());
                continue;
            }
            let handle = local.handle.clone();
            // What was interrupted, or has failed, may be anything.
            let known_well = known.filter(|known| known.json_hash != UNKNOWN);
            if let Some(edit) = known_well.and_then(|known| edit_between(&known.output, &wanted.output))
                && handle.edit_output(name, edit).is_ok()
            {
                local.outputs.insert(name.clone(), wanted.clone());
                continue;
            }
            let is_new = known.is_none();
            // Known from before it starts, so that an interrupted start is undone.
            local.outputs.insert(name.clone(), wanted.clone());
            self.shared.fence.note(&self.flow, local.outputs.values().any(|output| output.is_exclusive));
            let started = put(&handle, name, &wanted.output, is_new);
            let result = tokio::select! {
                biased;
                result = started => result,
                _ = self.desired.changed() => {
                    // What was changed is marked as not known, so that it is applied again.
                    if let Some(output) = local.outputs.get_mut(name) {
                        output.json_hash = UNKNOWN;
                    }
                    self.desired.mark_changed();
                    return false;
                }
            };
            match result {
                Ok(()) => {
                    faults.remove(name);
                    let event = NodeEvent::OutputStarted { flow: self.flow.clone(), output: name.clone() };
                    self.tell(Report::Event(event)).await;
                }
                Err(error) => {
                    if is_new {
                        local.outputs.remove(name);
                    } else if let Some(output) = local.outputs.get_mut(name) {
                        output.json_hash = UNKNOWN;
                    }
                    self.fail(faults, name.clone(), &PeerText::new(error.to_string())).await;
                }
            }
        }
        true
    }

    /// Disconnects players, each one once.
    fn kick(&mut self, local: &Local, desired: &Desired) {
        self.kicked.retain(|publisher, _| desired.seen.iter().any(|seen| seen.publisher == *publisher));
        for kick in desired.kicks.iter().filter(|kick| local.outputs.contains_key(&kick.output)) {
            let last = self.kicked.entry(kick.publisher).or_default();
            if kick.number <= *last {
                continue;
            }
            *last = kick.number;
            let handle = local.handle.clone();
            let DesiredKick { output, peer, .. } = kick.clone();
            tokio::spawn(async move {
                let _ = handle.kick_player(&output, peer).await; // it may have gone, or be one of another node
            });
        }
    }

    /// Notes a fault, and tells it when it is another than before.
    async fn fail(&mut self, faults: &mut BTreeMap<String, PeerText>, output: String, reason: &PeerText) {
        if faults.insert(output.clone(), reason.clone()).as_ref() == Some(reason) {
            return;
        }
        let reason = if output.is_empty() {
            reason.clone()
        } else {
            PeerText::new(format!("output `{}`: {reason}", PeerText::new(&output)))
        };
        self.status.changed();
        self.tell(Report::Event(NodeEvent::Failed { flow: self.flow.clone(), reason })).await;
    }

    async fn stop(&mut self, local: Local) {
        local.handle.stop().await;
        for (output, _) in local.outputs {
            self.tell(Report::Event(NodeEvent::OutputStopped { flow: self.flow.clone(), output })).await;
        }
        self.shared.fence.note(&self.flow, false);
    }

    fn take_event(&mut self, local: Option<&Local>, event: &Event) {
        let Some(name) = output_of(event) else { return };
        if let Some(output) = local.and_then(|local| local.outputs.get(name)) {
            self.status.event(Instant::now(), output.ids.clone(), event.clone());
        }
    }

    /// Publishes a report if one is due.
    fn report(&mut self, local: Option<&Local>, faults: &BTreeMap<String, PeerText>, track: Option<&StatusTrack>) {
        let now = Instant::now();
        let Some(track) = track.filter(|_| self.status.is_due(now)) else { return };
        let stats = local.map(|local| local.handle.stats().outputs).unwrap_or_default();
        let mut outputs: Vec<OutputStatus> = Vec::new();
        for stats in stats {
            if let Some(output) = local.and_then(|local| local.outputs.get(&stats.name)) {
                outputs.push(OutputStatus { ids: output.ids.clone(), is_primary: output.is_primary, stats });
            }
        }
        let desired = self.desired.borrow();
        let mut notices = Vec::new();
        for (name, reason) in faults {
            let Some(output) = desired.outputs.get(name) else {
                notices.push(PeerText::new(format!("node {}: {reason}", self.shared.fence.node())));
                continue;
            };
            notices.push(PeerText::new(format!("node {}: output `{name}`: {reason}", self.shared.fence.node())));
            let mut failed = EndpointStats::default();
            failed.name.clone_from(name);
            failed.enabled = true;
            failed.state = State::Failed;
            if !outputs.iter().any(|status| status.stats.name == *name) {
                outputs.push(OutputStatus { ids: output.ids.clone(), is_primary: output.is_primary, stats: failed });
            }
        }
        let node = self.shared.fence.node();
        notices.extend(self.media_faults.iter().map(|fault| PeerText::new(format!("node {node}: {fault}"))));
        let seen = desired.seen.clone();
        drop(desired);
        let message = self.status.message(now, seen, outputs, notices);
        if let Err(error) = track.track.write_object(message.to_bytes()) {
            log::debug!("flow `{}`: report not published: {error}", PeerText::new(&self.flow));
        }
    }

    async fn tell(&self, report: Report) {
        let _ = self.shared.reports.send(report).await; // the agent may have ended
    }
}

/// Adds an output, or replaces it. Whether it is there is not known for sure, if a start was interrupted.
async fn put(handle: &FlowHandle, name: &str, output: &Output, is_new: bool) -> Result<(), FlowError> {
    if is_new {
        match handle.add_output(output.clone()).await {
            Err(FlowError::AlreadyExists { .. }) => handle.replace_output(name, output.clone()).await,
            result => result,
        }
    } else {
        match handle.replace_output(name, output.clone()).await {
            Err(FlowError::NotFound { .. }) => handle.add_output(output.clone()).await,
            result => result,
        }
    }
}

/// Returns the edit that makes one output of another of the same name without a reconnection.
fn edit_between(from: &Output, to: &Output) -> Option<OutputEdit> {
    OutputEdit::between(from, to).filter(|_| from.name() == to.name())
}

/// Follows changes of the flow itself.
fn follow(local: &mut Local, desired: &Desired) {
    if local.max_bandwidth != desired.max_bandwidth && local.handle.set_max_bandwidth(desired.max_bandwidth).is_ok() {
        local.max_bandwidth = desired.max_bandwidth;
    }
}

/// Waits for the next event of the flow; for ever, if there is none.
async fn next_event(local: &mut Option<Local>) -> Event {
    if let Some(local) = local
        && let Some(event) = local.events.next().await
    {
        return event;
    }
    std::future::pending().await
}

/// Returns the name of the output that an event is about, if it is one that a region reports.
fn output_of(event: &Event) -> Option<&str> {
    match event {
        Event::OutputConnected { output, .. }
        | Event::OutputLost { output, .. }
        | Event::OutputRetrying { output, .. }
        | Event::OutputLagging { output, .. }
        | Event::OutputOversized { output, .. } => Some(output),
        Event::PeerRefused { endpoint, .. } | Event::UnexpectedPayload { endpoint, .. } => Some(endpoint),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_edited_in_place_where_that_is_possible() {
        let output = |url: &str| Output::from_url("p", url);
        let base = output("srt://:9001?max_players=4&latency=200");
        for same in ["srt://:9001?max_players=5&latency=200", "srt://:9001?max_players=4&latency=200&allow=10.0.0.0/8"]
        {
            assert!(edit_between(&base, &output(same)).is_some(), "{same}");
        }
        let group = output("srt://a:1?nodes=b:2&latency=200");
        assert!(edit_between(&group, &output("srt://b:2?nodes=c:3&latency=200")).is_some());
        for other in [
            "srt://:9002?max_players=4&latency=200",
            "srt://:9001?max_players=4&latency=300",
            "srt://:9001?latency=200",
        ] {
            assert!(edit_between(&base, &output(other)).is_none(), "{other}");
        }
    }
}
