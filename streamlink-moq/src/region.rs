//! Link of an engine to regions on other machines, over a cluster of MoQ relays.

use crate::{
    Error, LinkSettings, MoqAddress, MoqEvent, Publication, PublishSettings, Relays, TrackOptions, TrackWriter,
    event::LossWatch,
    node::random_number,
    outputs::{DescribedKick, DescribedOutput, FlowOutputs, REPETITION},
    paths::{Paths, checked_name},
    seal::RegionPublicKey,
    srt_link::{Hub, SrtLink, SrtSender},
    status::{INTERVAL, StatusMessage, StatusReader},
    track_watch::{News, Watch, Watched},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Event, InputProtocol, LossReason, MediaFamily, MemberStats, PeerText, RegionFlow, RegionKick, RegionLink,
    RegionOutput, RegionReporter, RegionTask, RegionUpdate, Tap,
};
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

/// Interval in which legs are reported, and in which it is looked what is waited for.
const CHECK: Duration = Duration::from_millis(500);
/// Time for which the outputs of a flow that has left a region may take to end. The engine waits for 3 s.
const END: Duration = Duration::from_secs(2);
/// Time after which a region of which nothing is heard is reported.
const SILENCE: Duration = Duration::from_secs(3);
/// Number of messages of nodes that may wait.
const QUEUE: usize = 64;
/// Maximum number of nodes whose reports about a flow are read, over one relay.
const MAX_NODES: usize = crate::membership::MAX_NODES;
/// Interval of remarks about reports that are refused.
const REFUSALS: Duration = Duration::from_secs(10);

/// Settings of the link to one region.
#[derive(Clone, Debug)]
#[must_use]
pub struct RegionLinkOptions {
    key: RegionPublicKey,
    settings: LinkSettings,
    srt: Option<SrtLink>,
}

impl RegionLinkOptions {
    /// Returns the settings of the link to the region with a public key.
    pub fn new(key: RegionPublicKey) -> Self {
        Self { key, settings: LinkSettings::default(), srt: None }
    }

    /// Sets the settings of the links to the relays: certificates, and a token.
    pub fn settings(mut self, settings: LinkSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sends the media to the nodes of the region over SRT, instead of over the relays. All ingest engines of a flow do
    /// so, or none.
    pub fn srt(mut self, srt: SrtLink) -> Self {
        self.srt = Some(srt);
        self
    }
}

/// Returns the link to one region: `url` as in `moq://relay-a,relay-b:4443/live?token=…`, where all flows lie below the
/// path.
///
/// An engine with several regions behind the same relays makes them from one [`Cluster`], so that the media of a flow is
/// published once.
///
/// # Errors
/// When the URL is not valid.
pub fn region_link(url: &str, options: RegionLinkOptions) -> Result<Arc<dyn RegionLink>, Error> {
    let RegionLinkOptions { key, settings, srt } = options;
    let cluster = Cluster::new(url.parse()?, settings)?;
    Ok(Arc::new(MoqRegion { cluster: cluster.0, key, srt }))
}

/// Cluster of relays, which all regions behind it share. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    address: MoqAddress,
    settings: LinkSettings,
    paths: Paths,
    /// Random number of this process.
    publisher: u64,
    /// Links to the relays, while any flow is in a region.
    relays: Mutex<Weak<Relays>>,
    /// Number of the last description of outputs, of any flow.
    revision: AtomicU64,
    /// Engine of the listeners for media over SRT, while any flow has one.
    hub: Mutex<Weak<Hub>>,
    /// Locks of the flows: the region that holds it publishes the media.
    media: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("address", &self.0.address).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Returns a cluster, to which nothing is connected before a flow needs it.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(address: MoqAddress, settings: LinkSettings) -> Result<Self, Error> {
        let paths = Paths::new(address.path());
        Ok(Self(Arc::new(Shared {
            address,
            settings,
            paths,
            publisher: random_number()?,
            relays: Mutex::default(),
            revision: AtomicU64::new(0),
            hub: Mutex::default(),
            media: Mutex::default(),
        })))
    }

    /// Returns the link to the region with a public key, for
    /// [`EngineBuilder::remote_region`](streamlink_core::EngineBuilder::remote_region).
    pub fn region(&self, key: RegionPublicKey) -> Arc<dyn RegionLink> {
        Arc::new(MoqRegion { cluster: self.0.clone(), key, srt: None })
    }

    /// Returns the link to a region whose media goes over SRT. Its outputs and reports stay on the relays. All regions of
    /// the cluster whose settings name one port share it.
    pub fn srt_region(&self, key: RegionPublicKey, srt: SrtLink) -> Arc<dyn RegionLink> {
        Arc::new(MoqRegion { cluster: self.0.clone(), key, srt: Some(srt) })
    }
}

impl Shared {
    /// Returns the links to the relays, and opens them if there are none.
    fn relays(&self) -> Result<Arc<Relays>, Error> {
        let mut known = lock(&self.relays);
        if let Some(relays) = known.upgrade() {
            return Ok(relays);
        }
        let relays = Relays::connect(self.address.relays(), &self.settings, self.address.token())?;
        let relays = Arc::new(relays);
        *known = Arc::downgrade(&relays);
        Ok(relays)
    }

    /// Returns the engine of the listeners for media over SRT.
    fn hub(&self) -> Result<Arc<Hub>, Error> {
        let mut known = lock(&self.hub);
        if let Some(hub) = known.upgrade() {
            return Ok(hub);
        }
        let hub = Arc::new(Hub::new()?);
        *known = Arc::downgrade(&hub);
        Ok(hub)
    }

    fn media_lock(&self, flow: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.media);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(known) = locks.get(flow).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(flow.to_owned(), Arc::downgrade(&made));
        made
    }
}

/// One region of a cluster.
struct MoqRegion {
    cluster: Arc<Shared>,
    key: RegionPublicKey,
    srt: Option<SrtLink>,
}

impl RegionLink for MoqRegion {
    fn run(&self, flow: RegionFlow) -> RegionTask {
        let cluster = self.cluster.clone();
        let key = self.key.clone();
        let srt = self.srt.clone();
        Box::pin(async move { carry(cluster, key, srt, flow).await.map_err(failure) })
    }
}

fn failure(error: Error) -> LossReason {
    LossReason::Io(PeerText::new(error.to_string()))
}

/// Carries a flow to its region until it has left it.
async fn carry(
    cluster: Arc<Shared>,
    key: RegionPublicKey,
    srt: Option<SrtLink>,
    flow: RegionFlow,
) -> Result<(), Error> {
    let RegionFlow { name, region, input, family, tap, mut updates, reporter, .. } = flow;
    checked_name("a flow name", &name)?;
    checked_name("a region name", &region)?;
    let relays = cluster.relays()?;
    let broadcast = relays.publish(&cluster.paths.outputs(&region, &name, cluster.publisher))?;
    let track = broadcast.track("outputs", TrackOptions { priority: 220, ..TrackOptions::default() })?;
    let sdp = Arc::new(Mutex::new(None));
    // Tasks that end with this one.
    let mut tasks = JoinSet::new();
    let srt = match srt {
        Some(settings) => {
            let sender = SrtSender::start(cluster.hub()?, &settings, &name).await?;
            tasks.spawn(sender.feed(family, tap, reporter.clone())?);
            Some(sender)
        }
        None => {
            tasks.spawn(publish_media(cluster.clone(), relays.clone(), name.clone(), tap, input, sdp.clone()));
            None
        }
    };
    let (sender, mut messages) = mpsc::channel(QUEUE);
    for (relay, link) in relays.links().iter().enumerate() {
        let prefix = cluster.paths.all_status(&region, &name);
        let watch =
            Watch { link: link.clone(), relay, prefix, track: "status", limit: MAX_NODES, patience: 3 * INTERVAL };
        let status = watch.run(|watched| watched, sender.clone());
        tasks.spawn(async move {
            status.await;
            Ok(())
        });
    }
    let mut link = FlowLink {
        legs: relays.links().iter().map(|_| None).collect(),
        losses: relays.links().iter().map(|_| LossWatch::default()).collect(),
        reader: StatusReader::new(cluster.publisher),
        cluster,
        key,
        name,
        region,
        family,
        reporter,
        relays,
        srt,
        track,
        revision: 0,
        sealed: None,
        ids: BTreeSet::new(),
        removed: BTreeMap::new(),
        last_heard: Instant::now(),
        last_refusal: None,
    };
    let mut checks = tokio::time::interval(CHECK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_announced = false;
    let mut end: Option<Instant> = None;
    loop {
        tokio::select! {
            update = updates.next(), if end.is_none() => match update {
                Some(update) => {
                    lock(&sdp).clone_from(&update.sdp);
                    link.publish(Some(&update))?;
                    if !is_announced {
                        broadcast.announce()?;
                        is_announced = true;
                    }
                }
                None => {
                    link.publish(None)?;
                    end = Some(Instant::now() + END);
                }
            },
            Some(message) = messages.recv() => link.take_status(message),
            event = next_event(&mut link.srt) => link.take_srt_event(event),
            Some(result) = tasks.join_next() => {
                // Watches end with their links, and the media with its flow. Anything else is a failure.
                if end.is_none() && let Ok(Err(error)) = result {
                    return Err(error);
                }
            }
            _ = checks.tick() => link.check(),
        }
        if end.is_some_and(|end| link.removed.is_empty() || Instant::now() >= end) {
            // Dropping the broadcast withdraws it; the empty list before says that this is the end.
            return Ok(());
        }
    }
}

fn described_kick(kick: &RegionKick) -> DescribedKick {
    DescribedKick { number: kick.number, output: kick.output, peer: kick.peer }
}

/// Waits for the next event of the listener for media over SRT; for ever, if there is none.
async fn next_event(srt: &mut Option<SrtSender>) -> Event {
    match srt {
        Some(sender) => sender.next_event().await,
        None => std::future::pending().await,
    }
}

/// Publishes the media of a flow while no other region does, and passes over it otherwise.
async fn publish_media(
    cluster: Arc<Shared>,
    relays: Arc<Relays>,
    flow: String,
    mut tap: Tap,
    input: InputProtocol,
    sdp: Arc<Mutex<Option<String>>>,
) -> Result<(), Error> {
    let waiting = cluster.media_lock(&flow).lock_owned();
    tokio::pin!(waiting);
    let _lock = loop {
        tokio::select! {
            biased;
            held = &mut waiting => break held,
            batch = tap.next_batch() => if batch.is_none() {
                return Ok(());
            },
        }
    };
    let path = cluster.paths.media(&flow);
    let sdp = move || lock(&sdp).clone();
    // Engines that receive the same RTP stream (ST 2022-7) publish it side by side, and nodes merge them.
    let settings = match input.family() {
        MediaFamily::Rtp => PublishSettings::new().instance(format!("{:016x}", cluster.publisher)),
        _ => PublishSettings::new(),
    };
    let mut publication = Publication::of_tap(&relays, &path, tap, input, sdp, &settings)?;
    publication.ended().await;
    Ok(())
}

/// Change of a leg over a relay that is told at the flow's handle.
enum LegChange {
    Connected,
    Lost(LossReason),
    /// Loss in hundredths of a percent, and the round trip time.
    Lossy(u32, Duration),
}

/// One flow in one region.
struct FlowLink {
    cluster: Arc<Shared>,
    key: RegionPublicKey,
    name: String,
    region: String,
    family: MediaFamily,
    reporter: RegionReporter,
    relays: Arc<Relays>,
    /// Listener for the media, if it goes over SRT.
    srt: Option<SrtSender>,
    track: TrackWriter,
    reader: StatusReader,
    revision: u64,
    /// Present description, and when it was published last.
    sealed: Option<(Instant, Bytes)>,
    /// Present outputs.
    ids: BTreeSet<u64>,
    /// Outputs that were removed, with the revision since which they are missing.
    removed: BTreeMap<u64, u64>,
    /// Connected links, each with the time of its connection.
    legs: Vec<Option<Instant>>,
    /// Losses of the links.
    losses: Vec<LossWatch>,
    last_heard: Instant,
    last_refusal: Option<Instant>,
}

impl FlowLink {
    /// Publishes the outputs; `None`: the flow leaves the region.
    fn publish(&mut self, update: Option<&RegionUpdate>) -> Result<(), Error> {
        // Of the whole process, so that a flow that is started again goes on after what nodes remember.
        self.revision = self.cluster.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let outputs = update.map(|update| update.outputs.as_slice()).unwrap_or_default();
        let ids: BTreeSet<u64> = outputs.iter().map(|output| output.id()).collect();
        self.removed.extend(self.ids.difference(&ids).map(|id| (*id, self.revision)));
        self.ids = ids;
        if let (Some(sender), Some(update)) = (&self.srt, update) {
            sender.set_bandwidth(update.max_bandwidth);
        }
        let described = |output: &RegionOutput| DescribedOutput { id: output.id(), output: output.output().clone() };
        let description = FlowOutputs {
            region: self.region.clone(),
            flow: self.name.clone(),
            publisher: self.cluster.publisher,
            revision: self.revision,
            family: self.family,
            max_bandwidth: update.map_or(Bitrate::mbps(1), |update| update.max_bandwidth),
            outputs: outputs.iter().map(described).collect(),
            srt: self.srt.as_ref().map(|sender| sender.target().clone()),
            sdp: update.and_then(|update| update.sdp.clone()).filter(|_| self.srt.is_some()),
            kicks: update.map(|update| update.kicks.iter().map(described_kick).collect()).unwrap_or_default(),
        };
        let sealed = description.seal(&self.key).map_err(|error| Error::Settings(error.to_string().into()))?;
        let sealed = Bytes::from(sealed);
        self.sealed = Some((Instant::now(), sealed.clone()));
        self.track.write_object(sealed)
    }

    /// Publishes the present description again, if that is due: whoever waits for it in vain subscribes anew.
    fn repeat(&mut self, now: Instant) {
        let is_due = |last: Instant| now.saturating_duration_since(last) >= REPETITION;
        if let Some((last, sealed)) = self.sealed.as_mut().filter(|(last, _)| is_due(*last)) {
            *last = now;
            let _ = self.track.write_object(sealed.clone()); // a track that has ended is told when it is written next
        }
    }

    /// Takes a report of a node.
    fn take_status(&mut self, watched: Watched) {
        let now = Instant::now();
        let node = self.cluster.paths.read_status(&self.region, &self.name, &watched.path);
        let (Some(node), News::Object(bytes)) = (node, watched.news) else { return };
        let message = match StatusMessage::from_bytes(&bytes, &self.region, &self.name, &node) {
            Ok(message) => message,
            Err(error) => return self.refuse(now, &error.to_string()),
        };
        let Some(news) = self.reader.take(now, message) else { return };
        self.last_heard = now;
        for (id, stats) in news.outputs {
            self.reporter.output(id, &node.id, stats);
        }
        for (id, event) in news.events {
            self.reporter.event(id, event);
        }
        if news.missed_events > 0 {
            let missed = news.missed_events;
            self.reporter.notice(format!("node {}: {missed} events were missed", PeerText::new(&node.id)));
        }
        for notice in news.notices {
            self.reporter.notice(notice);
        }
        for loss in news.losses {
            let leg = format!("{} to node {}", loss.leg, PeerText::new(&node.id));
            self.reporter.leg_lossy(&leg, loss.basis_points, Duration::from_millis(loss.round_trip_ms.into()));
        }
        self.settle_removed(now);
    }

    /// Takes an event of the listener for media over SRT.
    fn take_srt_event(&mut self, event: Event) {
        if let Some(sender) = &mut self.srt {
            sender.tell(event, &self.reporter);
        }
    }

    fn refuse(&mut self, now: Instant, reason: &str) {
        if self.last_refusal.is_none_or(|last| now.saturating_duration_since(last) >= REFUSALS) {
            self.last_refusal = Some(now);
            self.reporter.notice(format!("report refused: {reason}"));
        }
    }

    /// Reports the outputs that have ended.
    fn settle_removed(&mut self, now: Instant) {
        for (id, _) in self.removed.extract_if(.., |id, revision| self.reader.has_ended(now, *id, *revision)) {
            self.reporter.removed(id);
        }
    }

    /// Reports the statistics of the legs, then what has changed about them: whoever reads the statistics at an event
    /// finds its figures there. Returns why a relay does not answer.
    fn report_legs(&mut self, now: Instant) -> Option<PeerText> {
        let mut reason = None;
        let (mut shown, mut changes) = (Vec::new(), Vec::new());
        let watches = self.legs.iter_mut().zip(&mut self.losses);
        for (link, (leg, loss)) in self.relays.links().iter().zip(watches) {
            let status = link.status();
            let relay = link.address().to_string();
            if status.is_connected() && leg.is_none() {
                *leg = Some(now);
                changes.push((relay.clone(), LegChange::Connected));
            } else if !status.is_connected() && leg.take().is_some() {
                let reason = status.last_error.clone().unwrap_or_default();
                changes.push((relay.clone(), LegChange::Lost(LossReason::Io(reason))));
            }
            let mut stats = MemberStats::new(relay);
            stats.connected_for = leg.map(|since| now.saturating_duration_since(since));
            if let Some(figures) = link.stats() {
                stats.packets = figures.packets_sent;
                stats.bytes = figures.bytes_sent;
                stats.lost = figures.packets_lost;
                let millis = figures.rtt_ms.filter(|rtt| rtt.is_finite() && *rtt >= 0.0).unwrap_or_default();
                stats.round_trip = Duration::from_secs_f64(millis.min(60_000.0) / 1000.0);
                // What goes over the relays of a region with media over SRT is small, and waits for nothing.
                let event = loss.observe(now, stats.packets, stats.lost, link.address()).filter(|_| self.srt.is_none());
                stats.recent_loss = loss.basis_points();
                if let Some(MoqEvent::LossHigh { .. }) = event {
                    changes.push((stats.address.clone(), LegChange::Lossy(stats.recent_loss, stats.round_trip)));
                }
            }
            shown.push(stats);
            reason = reason.or(status.last_error);
        }
        shown.extend(self.srt.iter().flat_map(SrtSender::legs));
        self.reporter.legs(shown);
        for (relay, change) in changes {
            match change {
                LegChange::Connected => self.reporter.leg_connected(&relay),
                LegChange::Lost(reason) => self.reporter.leg_lost(&relay, reason),
                LegChange::Lossy(basis_points, round_trip) => self.reporter.leg_lossy(&relay, basis_points, round_trip),
            }
        }
        reason
    }

    /// Reports the legs, and what is waited for.
    fn check(&mut self) {
        let now = Instant::now();
        let reason = self.report_legs(now);
        self.repeat(now);
        if self.legs.iter().all(Option::is_none) {
            let text = match reason {
                Some(reason) => format!("no relay answers: {reason}"),
                None => "no relay has answered yet".to_owned(),
            };
            self.reporter.waiting(Some(LossReason::WaitingForRegion(PeerText::new(text))));
        } else if self.reader.heard(now) == 0 && now.saturating_duration_since(self.last_heard) >= SILENCE {
            self.reporter.waiting(Some(LossReason::WaitingForRegion("no node answers".into())));
        } else {
            self.reporter.waiting(None);
        }
        self.settle_removed(now);
    }
}
