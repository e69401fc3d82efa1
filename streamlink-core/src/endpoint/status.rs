//! What is known of a running endpoint: its name, its counters, and what it carries.

use super::Bandwidth;
use crate::{
    flow::Allowlist,
    lock::lock,
    media::{PidStats, TransportErrors, TsMonitor},
    router::Counters,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A running endpoint, as the engine, its statistics and its driver share it.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) counters: Counters,
    /// What changes once a second or less.
    shown: Mutex<Shown>,
}

/// What is known of an endpoint beside its counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// MPEG-TS sources: replaced about once a second.
    pub(crate) pids: Vec<PidStats>,
    /// The same, for the whole of it.
    pub(crate) transport: TransportErrors,
    /// The players of a listener, replaced about once a second.
    pub(crate) players: Vec<PlayerStats>,
    /// What the media consists of.
    pub(crate) media: Option<String>,
}

impl Status {
    pub(crate) fn new(name: &str, description: Option<String>) -> Arc<Self> {
        let shown = Shown { name: name.to_owned(), description, ..Shown::default() };
        Arc::new(Self { counters: Counters::new(Instant::now()), shown: Mutex::new(shown) })
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        // Invariant: nothing panics while the lock is held; if it did, each field is still whole.
        lock(&self.shown)
    }

    /// All of it, at one moment.
    pub(crate) fn shown(&self) -> Shown {
        self.lock().clone()
    }

    /// Shows what a transport stream was found to be.
    pub(super) fn publish_monitor(&self, monitor: &TsMonitor) {
        let mut shown = self.lock();
        (shown.pids, shown.transport) = (monitor.pids(), monitor.errors());
    }

    /// Shows who is connected.
    pub(super) fn publish_players(&self, players: Vec<PlayerStats>) {
        self.lock().players = players;
    }

    /// Shows what the media consists of.
    pub(super) fn publish_media(&self, media: String) {
        self.lock().media = Some(media);
    }

    pub(crate) fn name(&self) -> String {
        self.lock().name.clone()
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.lock().name == name
    }

    /// Changes the name, the description, or both at once.
    pub(crate) fn edit(&self, name: Option<&str>, description: Option<String>) {
        let mut shown = self.lock();
        if let Some(name) = name {
            name.clone_into(&mut shown.name);
        }
        if description.is_some() {
            shown.description = description;
        }
    }
}

/// One player of an output, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlayerStats {
    /// Its address.
    pub peer: SocketAddr,
    /// For how long it has been connected.
    pub connected_for: Duration,
    /// Bytes sent to it, repeats not counted.
    pub bytes: u64,
    /// Packets sent to it, repeats not counted.
    pub packets: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Packets that it reported lost.
    pub lost: u64,
    /// Packets given up for it.
    pub dropped: u64,
    /// The round trip.
    pub round_trip: Duration,
}

/// The settings of a source that can change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) allow: Allowlist,
    pub(crate) bandwidth: Bandwidth,
}
