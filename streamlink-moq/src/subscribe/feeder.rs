//! The task that merges the reports of the legs and feeds the app source.

use super::{LegStats, REPORTS, Shared, leg::LegReport, lock, sink::Sink};
use crate::{
    Error,
    address::RelayAddress,
    event::{LossWatch, MoqEvent, Throttle},
    merge::{LegCounts, LegObject, Merger, Output},
    publish::RelayStats,
    transport::RelayLink,
    wire::{Catalog, DecodedObject, FrameError},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, MediaFamily, PeerText};
use tokio::sync::{mpsc, watch};

/// Interval at which the loss of the legs is looked at.
const CHECK: Duration = Duration::from_millis(500);

/// Merges the reports of the legs, and feeds the app source.
pub(super) struct Feeder {
    shared: Arc<Shared>,
    wait: Duration,
    source: watch::Receiver<Option<AppSource>>,
    catalogs: watch::Sender<Option<Catalog>>,
    resume: watch::Sender<Option<u64>>,
    merger: Option<(MediaFamily, Merger)>,
    sink: Sink,
    legs: Vec<LegState>,
}

#[derive(Debug)]
struct LegState {
    relay: RelayAddress,
    stats: LegStats,
    is_up: bool,
    /// Objects that the leg should have brought so far.
    expected: u64,
    malformed: Throttle,
    loss: LossWatch,
}

impl Feeder {
    pub(super) fn new(
        shared: Arc<Shared>,
        wait: Duration,
        source: watch::Receiver<Option<AppSource>>,
        catalogs: watch::Sender<Option<Catalog>>,
        resume: watch::Sender<Option<u64>>,
    ) -> Self {
        let legs: Vec<LegState> = shared.links.iter().map(LegState::new).collect();
        lock(&shared.stats).legs = legs.iter().map(|leg| leg.stats.clone()).collect();
        Self { shared, wait, source, catalogs, resume, merger: None, sink: Sink::default(), legs }
    }

    pub(super) async fn run(mut self, mut reports: mpsc::Receiver<LegReport>) {
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(REPORTS);
        loop {
            let deadline = self.merger.as_ref().and_then(|(_, merger)| merger.deadline());
            let overdue = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = reports.recv_many(&mut batch, REPORTS) => {
                    if count == 0 {
                        return;
                    }
                }
                () = overdue => {}
                _ = check.tick() => self.check_losses(),
            }
            let now = Instant::now();
            let mut out = Output::default();
            for report in batch.drain(..) {
                self.take(report, now, &mut out);
            }
            if let Some((_, merger)) = &mut self.merger {
                merger.poll(now, &mut out);
            }
            if !self.pass_on(out, now) {
                return;
            }
        }
    }

    fn take(&mut self, report: LegReport, now: Instant, out: &mut Output) {
        match report {
            LegReport::Catalog { leg, catalog } => self.take_catalog(leg, catalog),
            LegReport::Refused { leg, reason } => {
                let Some(relay) = self.legs.get(leg).map(|leg| leg.relay.to_string()) else { return };
                self.shared.events.send(MoqEvent::CatalogRefused { relay, reason });
            }
            LegReport::Up { leg, path } => self.set_leg(leg, Some(path), None, now),
            LegReport::Down { leg, reason } => self.set_leg(leg, None, Some(reason), now),
            LegReport::Object { leg, group, index, size, object } => {
                self.take_object(leg, group, index, size, object, now, out);
            }
            LegReport::EndOfGroup { group, objects } => {
                if let Some((_, merger)) = &mut self.merger {
                    merger.end_group(group, objects, now, out);
                }
            }
        }
    }

    fn take_catalog(&mut self, leg: usize, catalog: Catalog) {
        let source = self.source.borrow().as_ref().map(AppSource::family);
        if let Some(source_family) = source.filter(|family| *family != catalog.media.family()) {
            let broadcast = catalog.media.family();
            let reason = PeerText::new(Error::Family { broadcast, source_family }.to_string());
            let Some(relay) = self.legs.get(leg).map(|leg| leg.relay.to_string()) else { return };
            self.shared.events.send(MoqEvent::CatalogRefused { relay, reason });
            return;
        }
        if let Some(sdp) = &catalog.media.sdp {
            self.sink.set_sdp(sdp);
        }
        self.catalogs.send_if_modified(|known| {
            let is_other = known.as_ref() != Some(&catalog);
            *known = Some(catalog);
            is_other
        });
    }

    fn set_leg(&mut self, leg: usize, path: Option<PeerText>, reason: Option<PeerText>, now: Instant) {
        let family = self.source.borrow().as_ref().map(AppSource::family);
        if let (Some(family), None) = (family, &self.merger) {
            self.merger = Some((family, Merger::new(family, self.wait)));
        }
        if let Some((_, merger)) = &mut self.merger {
            merger.set_leg(leg, path.is_some(), now);
        }
        let Some(state) = self.legs.get_mut(leg) else { return };
        let relay = state.relay.to_string();
        state.stats.path = path.clone();
        let mut event = None;
        if let Some(path) = path {
            state.stats.subscriptions += 1;
            state.is_up = true;
            event = Some(MoqEvent::LegUp { relay, path });
        } else if let Some(reason) = reason {
            let is_repeat = !state.is_up && state.stats.last_error.as_ref() == Some(&reason);
            state.is_up = false;
            state.stats.last_error = Some(reason.clone());
            event = (!is_repeat).then_some(MoqEvent::LegDown { relay, reason });
        }
        let shown = state.stats.clone();
        if let Some(leg) = lock(&self.shared.stats).legs.get_mut(leg) {
            *leg = shown;
        }
        // Whoever reads the statistics after the event sees what it tells.
        if let Some(event) = event {
            self.shared.events.send(event);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one report")]
    fn take_object(
        &mut self,
        leg: usize,
        group: u64,
        index: u64,
        size: usize,
        object: Result<DecodedObject, FrameError>,
        now: Instant,
        out: &mut Output,
    ) {
        let Some(state) = self.legs.get_mut(leg) else { return };
        state.stats.objects += 1;
        state.stats.bytes += u64::try_from(size).unwrap_or_default();
        match object {
            Ok(object) => {
                if let Some((_, merger)) = &mut self.merger {
                    merger.insert(LegObject { leg, group, index, object }, now, out);
                }
            }
            Err(error) => {
                state.stats.malformed += 1;
                if let Some(objects) = state.malformed.count(now) {
                    let relay = state.relay.to_string();
                    let reason = error.to_string().into();
                    self.shared.events.send(MoqEvent::Malformed { relay, reason, objects });
                }
            }
        }
    }

    /// Passes the result of the merge to the source. `false` when the source takes no more.
    fn pass_on(&mut self, mut out: Output, now: Instant) -> bool {
        if !out.packets.is_empty() && self.shared.gate.get().is_some_and(|gate| !(gate.0)()) {
            out.packets.clear();
        }
        if out.lost != 0 || out.lost_groups != 0 {
            self.shared.events.send(MoqEvent::Lost { objects: out.lost, groups: out.lost_groups });
        }
        if out.restarts != 0 {
            self.shared.events.send(MoqEvent::Restarted);
        }
        let source = self.source.borrow().clone();
        let is_open = self.sink.push(source.as_ref(), out.packets, now);
        if let Some((_, merger)) = &self.merger {
            let resume = merger.resume_from();
            self.resume.send_if_modified(|known| std::mem::replace(known, resume) != resume);
            for (index, leg) in self.legs.iter_mut().enumerate() {
                leg.take_counts(merger.counts(index));
            }
        }
        {
            let mut stats = lock(&self.shared.stats);
            stats.lost += out.lost;
            stats.lost_groups += out.lost_groups;
            stats.restarts += out.restarts;
        }
        self.publish_stats();
        if !is_open {
            self.shared.events.send(MoqEvent::Ended { reason: "the flow takes no more packets".into() });
        }
        is_open
    }

    fn publish_stats(&self) {
        let mut stats = lock(&self.shared.stats);
        stats.packets = self.sink.packets;
        stats.bytes = self.sink.bytes;
        stats.refusals = self.sink.refusals;
        for (shown, leg) in stats.legs.iter_mut().zip(&self.legs) {
            shown.take_counts(&leg.stats);
        }
    }

    fn check_losses(&mut self) {
        let now = Instant::now();
        for leg in &mut self.legs {
            if let Some(event) = leg.loss.observe(now, leg.expected, leg.stats.lost, &leg.relay) {
                self.shared.events.send(event);
            }
            leg.stats.relay.is_loss_high = leg.loss.is_high();
        }
    }
}

impl LegState {
    fn new(link: &RelayLink) -> Self {
        let stats = LegStats {
            relay: RelayStats::of(link, false),
            path: None,
            subscriptions: 0,
            bytes: 0,
            objects: 0,
            first: 0,
            duplicates: 0,
            late: 0,
            lost: 0,
            malformed: 0,
            last_error: None,
        };
        let relay = link.address().clone();
        Self { relay, stats, is_up: false, expected: 0, malformed: Throttle::default(), loss: LossWatch::default() }
    }

    fn take_counts(&mut self, counts: LegCounts) {
        self.stats.first = counts.first;
        self.stats.duplicates = counts.duplicates;
        self.stats.late = counts.late;
        self.stats.lost = counts.lost;
        self.expected = counts.expected;
    }
}

impl LegStats {
    /// Takes in the counts of a leg whose state is the same.
    fn take_counts(&mut self, leg: &Self) {
        self.bytes = leg.bytes;
        self.objects = leg.objects;
        self.first = leg.first;
        self.duplicates = leg.duplicates;
        self.late = leg.late;
        self.lost = leg.lost;
        self.malformed = leg.malformed;
        self.relay.is_loss_high = leg.relay.is_loss_high;
    }
}
