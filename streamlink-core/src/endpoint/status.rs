//! What is known of a running endpoint: its name, its counters, and what it carries.

use crate::{
    flow::{Allowlist, BandwidthPolicy, Bitrate},
    media::{PidStats, TsMonitor},
    router::Counters,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::{sync::Arc, time::Instant};

/// A running endpoint, as the engine, its statistics and its driver share it.
#[derive(Debug)]
pub(crate) struct Status {
    name: ArcSwap<String>,
    description: ArcSwapOption<String>,
    pub(crate) counters: Counters,
    /// MPEG-TS sources: replaced about once a second.
    pub(crate) pids: ArcSwap<Vec<PidStats>>,
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

/// The settings of a source that can change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) allow: Allowlist,
    pub(crate) max_bandwidth: Bitrate,
    pub(crate) policy: BandwidthPolicy,
}
