//! A flow's way in: the legs over the relays, merged into an app source.

mod leg;
mod path;
mod sink;

use crate::{
    Error,
    address::{RelayAddress, checked_path},
    event::{EventSink, LossWatch, MoqEvent, MoqEvents, Throttle},
    merge::{LegCounts, LegObject, MAX_LEGS, Merger, Output},
    publish::RelayStats,
    transport::{RelayLink, Relays},
    watch::RelayWatch,
    wire::{Catalog, DecodedObject, FrameError},
};
use leg::{Leg, LegReport};
use serde::Serialize;
use sink::Sink;
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, MediaFamily, PeerText};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Number of reports of the legs that may wait for the merge.
const REPORTS: usize = 256;
/// Interval at which the loss of the legs is looked at.
const CHECK: Duration = Duration::from_millis(500);

/// Settings of an incoming flow.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeSettings {
    wait: Duration,
    max_age: Duration,
}

impl Default for SubscribeSettings {
    fn default() -> Self {
        Self { wait: Duration::from_secs(1), max_age: Duration::from_secs(5) }
    }
}

impl SubscribeSettings {
    /// Longest wait for what is missing.
    const MAX_WAIT: Duration = Duration::from_secs(10);
    /// Greatest age of what publishers keep.
    const MAX_AGE: Duration = Duration::from_secs(6);

    /// Makes settings with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time for which the flow waits for media that no leg has brought yet. Default 1 s; at most 10 s. It adds
    /// no latency while nothing is missing.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.min(Self::MAX_WAIT);
        self
    }

    /// Sets the age up to which a leg that comes back asks for what it has missed. Default 5 s; at most 6 s, for which
    /// publishers keep it.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age.min(Self::MAX_AGE);
        self
    }
}

/// Counts of an incoming flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct IncomingStats {
    /// Packets passed to the source.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Objects that no leg brought within the wait; of RTP, packets.
    pub lost: u64,
    /// Whole groups beside them.
    pub lost_groups: u64,
    /// Times that the publisher began again, or its numbers jumped.
    pub restarts: u64,
    /// Times that the source refused packets, which its own statistics count: its flow is at its maximum bandwidth, or
    /// they are malformed.
    pub refusals: u64,
    /// The legs, one for each relay.
    pub legs: Vec<LegStats>,
}

/// State and counts of a leg.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LegStats {
    /// Link to the relay.
    pub relay: RelayStats,
    /// Path of the broadcast that the leg receives; `None` while it receives none.
    pub path: Option<PeerText>,
    /// Number of subscriptions made so far.
    pub subscriptions: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Objects that this leg brought first; of RTP, packets, as below.
    pub first: u64,
    /// Objects that another leg had brought before.
    pub duplicates: u64,
    /// Objects that came when they had been given up.
    pub late: u64,
    /// Objects that the leg should have brought, and did not.
    pub lost: u64,
    /// Objects that are no media.
    pub malformed: u64,
    /// Reason for which the leg last stopped receiving.
    pub last_error: Option<PeerText>,
}

/// What the tasks of an incoming flow share.
#[derive(Debug)]
struct Shared {
    links: Vec<RelayLink>,
    events: EventSink,
    stats: Mutex<IncomingStats>,
    gate: OnceLock<Gate>,
}

/// Decides whether media may pass now.
struct Gate(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// A flow that is received from relays. Dropping it ends the legs.
#[derive(Debug)]
pub struct Incoming {
    path: String,
    shared: Arc<Shared>,
    catalog: watch::Receiver<Option<Catalog>>,
    feed: watch::Sender<Option<AppSource>>,
    tasks: Vec<JoinHandle<()>>,
    _watches: Vec<RelayWatch>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Incoming {
    /// Opens a leg over each relay to the broadcasts at a path, and one segment below it. Returns at once.
    ///
    /// # Errors
    /// [`Error::Address`] for a path that cannot name a broadcast.
    pub fn open(relays: &Arc<Relays>, path: &str, settings: SubscribeSettings) -> Result<Self, Error> {
        let path = checked_path(path)?;
        let links: Vec<RelayLink> = relays.links().iter().take(MAX_LEGS).cloned().collect();
        let events = EventSink::new();
        let relay_watches = links.iter().map(|link| RelayWatch::start(link, &events)).collect();
        let shared = Arc::new(Shared { links: links.clone(), events, stats: Mutex::default(), gate: OnceLock::new() });
        let (reports, received) = mpsc::channel(REPORTS);
        let (catalogs, catalog) = watch::channel(None);
        let (feed, source) = watch::channel(None);
        let (resume, resume_from) = watch::channel(None);
        let mut tasks = Vec::new();
        for (index, link) in links.into_iter().enumerate() {
            let leg = Leg {
                index,
                link,
                path: path.clone(),
                max_age: settings.max_age,
                reports: reports.clone(),
                source: source.clone(),
                resume_from: resume_from.clone(),
            };
            tasks.push(tokio::spawn(leg.run()));
        }
        let merge = Merge::new(shared.clone(), settings.wait, source, catalogs, resume);
        tasks.push(tokio::spawn(merge.run(received)));
        Ok(Self { path, shared, catalog, feed, tasks, _watches: relay_watches })
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Waits for the description of the broadcast, which says of which family the app source has to be
    /// ([`Source::app_datagrams`](streamlink_core::Source::app_datagrams) and the like), and from which protocol the
    /// media come, which decides about the outputs.
    pub async fn catalog(&self) -> Option<Catalog> {
        let mut catalog = self.catalog.clone();
        catalog.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Passes the media to an app source from now on. The legs subscribe to the media with the first source.
    ///
    /// # Errors
    /// [`Error::Family`] if the broadcast is known to be of another family than the source.
    pub fn feed(&self, source: AppSource) -> Result<(), Error> {
        if let Some(catalog) = self.catalog.borrow().as_ref()
            && catalog.media.family() != source.family()
        {
            return Err(Error::Family { broadcast: catalog.media.family(), source_family: source.family() });
        }
        self.feed.send_replace(Some(source));
        Ok(())
    }

    /// Asks before each batch whether it may pass; one that may not is lost. Set once, before the first source.
    pub(crate) fn gate(&self, is_open: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.shared.gate.set(Gate(Box::new(is_open))); // the first one stays
    }

    /// Returns a receiver of the events from now on.
    pub fn events(&self) -> MoqEvents {
        self.shared.events.subscribe()
    }

    /// Returns the counts so far.
    pub fn stats(&self) -> IncomingStats {
        let mut stats = lock(&self.shared.stats).clone();
        for (leg, link) in stats.legs.iter_mut().zip(&self.shared.links) {
            leg.relay = RelayStats::of(link, leg.relay.is_loss_high);
        }
        stats
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The merge of the legs: takes their reports, and feeds the app source.
struct Merge {
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

impl Merge {
    fn new(
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

    async fn run(mut self, mut reports: mpsc::Receiver<LegReport>) {
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
        if let Some(path) = path {
            state.stats.subscriptions += 1;
            state.is_up = true;
            self.shared.events.send(MoqEvent::LegUp { relay, path });
        } else if let Some(reason) = reason {
            let is_repeat = !state.is_up && state.stats.last_error.as_ref() == Some(&reason);
            state.is_up = false;
            state.stats.last_error = Some(reason.clone());
            if !is_repeat {
                self.shared.events.send(MoqEvent::LegDown { relay, reason });
            }
        }
        let shown = state.stats.clone();
        if let Some(leg) = lock(&self.shared.stats).legs.get_mut(leg) {
            *leg = shown;
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
