//! A flow's way in: the legs over the relays, merged into an app source.

mod feeder;
mod leg;
mod path;
pub(crate) mod sink;

use crate::{
    Error,
    address::checked_path,
    event::{EventSink, MoqEvents},
    merge::MAX_LEGS,
    publish::RelayStats,
    transport::{RelayLink, Relays},
    watch::RelayWatch,
    wire::Catalog,
};
use feeder::Feeder;
use leg::Leg;
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use streamlink_core::{AppSource, PeerText};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Number of reports of the legs that may wait for the merge.
const REPORTS: usize = 256;

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

    /// Sets the time for which the flow waits for media that no leg has brought yet. Default 1 s; at most 10 s. A leg
    /// that has just subscribed has 3 s for what was missed before. It adds no latency while nothing is missing.
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

/// State that the tasks of an incoming flow share.
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
        let feeder = Feeder::new(shared.clone(), settings.wait, source, catalogs, resume);
        tasks.push(tokio::spawn(feeder.run(received)));
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
