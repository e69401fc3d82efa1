//! What is known of a running endpoint: its name, its counters, and what it carries.

use crate::{
    flow::{Allowlist, BandwidthPolicy, Bitrate},
    media::{PidStats, TsMonitor},
    router::Counters,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// A running endpoint, as the engine, its statistics and its driver share it.
#[derive(Debug)]
pub(crate) struct Status {
    name: ArcSwap<String>,
    description: ArcSwapOption<String>,
    pub(crate) counters: Counters,
    /// MPEG-TS sources: replaced about once a second.
    pub(crate) pids: ArcSwap<Vec<PidStats>>,
    /// The players of a listener, replaced about once a second.
    pub(crate) players: ArcSwap<Vec<PlayerStats>>,
    /// What the media consists of.
    pub(crate) media: ArcSwapOption<String>,
}

impl Status {
    pub(crate) fn new(name: &str, description: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            name: ArcSwap::from_pointee(name.to_owned()),
            description: ArcSwapOption::new(description.map(Arc::new)),
            counters: Counters::new(Instant::now()),
            pids: ArcSwap::default(),
            players: ArcSwap::default(),
            media: ArcSwapOption::empty(),
        })
    }

    /// Shows what a transport stream was found to be.
    pub(super) fn publish_monitor(&self, monitor: &TsMonitor) {
        self.counters.sync_errors.set(monitor.sync_errors());
        self.pids.store(Arc::new(monitor.pids()));
    }

    pub(crate) fn name(&self) -> String {
        self.name.load().as_ref().clone()
    }

    pub(crate) fn rename(&self, name: &str) {
        self.name.store(Arc::new(name.to_owned()));
    }

    pub(crate) fn description(&self) -> Option<String> {
        self.description.load_full().map(|text| text.as_ref().clone())
    }

    pub(crate) fn describe(&self, text: Option<String>) {
        self.description.store(text.map(Arc::new));
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
    pub(crate) max_bandwidth: Bitrate,
    pub(crate) policy: BandwidthPolicy,
}
