//! One output of a flow in a region on other machines.

use super::{
    RegionOutput,
    report::{REPORT_TIMEOUT, Report},
};
use crate::{
    endpoint::{LastError, Status},
    engine::stats::EndpointStats,
    event::{Event, LossReason},
    flow::{Output, PeerUrl},
    router::State,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Output of a region.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// Configuration without the region.
    output: Output,
    status: Arc<Status>,
    since: Instant,
    /// True while the output that this one replaces has not ended.
    pub(super) is_held: bool,
    /// True if the present run of the link was told about the output.
    pub(super) is_announced: bool,
    report: Option<Report>,
    /// True if the report is one of the present run of the link.
    is_current: bool,
    /// True if the last event about the connection told that it is there.
    is_told_connected: bool,
    /// True if the loss of a connection was told that no node has told.
    is_loss_told: bool,
}

/// Removed output whose end its node has not reported.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) id: u64,
    pub(super) status: Arc<Status>,
    /// Report whose counters the status has.
    report: Option<Report>,
    /// Cancelled when the output has ended at its node.
    pub(super) removed: CancellationToken,
}

impl Leaving {
    /// Adds the counters since the report before.
    pub(super) fn take_report(&mut self, report: Report) {
        if let Some(before) = self.report.replace(report.clone()) {
            report.fold_since(before, &self.status);
        }
    }
}

impl Entry {
    pub(super) fn new(id: u64, output: Output, status: Arc<Status>, is_held: bool) -> Self {
        let since = Instant::now();
        status.counters.set_state(State::Waiting, since);
        Self {
            id,
            output: output.without_region(),
            status,
            since,
            is_held,
            is_announced: false,
            report: None,
            is_current: false,
            is_told_connected: false,
            is_loss_told: false,
        }
    }

    pub(super) fn name(&self) -> String {
        self.status.name()
    }

    /// Replaces the configuration by one that differs in place.
    pub(super) fn edit(&mut self, output: Output) {
        self.output = output.without_region();
    }

    /// Returns the output as the link is told.
    pub(super) fn announce(&mut self) -> RegionOutput {
        self.is_announced = true;
        let shown = self.status.snapshot();
        self.output.common.name = shown.name;
        self.output.common.description = shown.description;
        RegionOutput::new(self.id, self.output.clone())
    }

    /// Returns true if a player is reported.
    pub(super) fn has_player(&self, peer: SocketAddr, now: Instant) -> bool {
        self.is_fresh(now) && self.report.as_ref().is_some_and(|report| report.has_player(peer))
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.is_current && self.report.as_ref().is_some_and(|report| report.is_fresh(now))
    }

    /// Returns true if the output should have been reported by now, and was not.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        !self.is_held && !self.is_fresh(now) && now.saturating_duration_since(self.since) >= REPORT_TIMEOUT
    }

    /// Takes in a report. Returns the event that it makes.
    pub(super) fn take_report(&mut self, report: Report) -> Option<Event> {
        if self.report.as_ref().is_some_and(|last| last.is_before_restart(&report)) {
            let last = self.report.take();
            if let Some(last) = last {
                last.fold_into(&self.status);
            }
            self.status.counters.reconnections.add(1);
        }
        let is_connected = report.is_connected();
        self.report = Some(report);
        self.is_current = true;
        self.is_told_connected = is_connected;
        let is_back = is_connected && std::mem::take(&mut self.is_loss_told);
        is_back.then(|| Event::OutputConnected { output: self.name(), peer: None })
    }

    /// Takes in an event of the node.
    pub(super) fn take_event(&mut self, event: &Event) {
        match event {
            Event::OutputConnected { .. } => self.is_loss_told = false,
            Event::OutputLost { .. } => self.is_told_connected = false,
            _ => {}
        }
    }

    /// Gives up the report of a node that is not heard any more. Returns the event about a connection that is not known to
    /// be there.
    pub(super) fn lose(&mut self, reason: LossReason, now: Instant) -> Option<Event> {
        self.is_current = false;
        if !std::mem::take(&mut self.is_told_connected) {
            return None;
        }
        self.is_loss_told = true;
        self.status.record_loss(&reason, None, now);
        Some(Event::OutputLost { output: self.name(), peer: None, reason })
    }

    /// Ends the entry, and hands its counters to the status.
    pub(super) fn end(self) -> Leaving {
        if let Some(report) = self.report.clone() {
            report.fold_into(&self.status);
        }
        Leaving { id: self.id, status: self.status, report: self.report, removed: CancellationToken::new() }
    }

    /// Returns the statistics of the output. `local`: what is known of it here. `reason`: why it waits, if it does.
    pub(super) fn shown(
        &self,
        local: EndpointStats,
        reason: impl FnOnce() -> LossReason,
        now: Instant,
    ) -> EndpointStats {
        let is_stopped = local.state == State::Idle;
        let report = self.report.as_ref();
        if let Some(report) = report.filter(|_| !is_stopped && self.is_fresh(now)) {
            return EndpointStats { url: self.url(now), ..report.shown(local, now) };
        }
        let mut shown = match report {
            Some(report) => report.shown_past(local),
            None => local,
        };
        if !is_stopped {
            let reason = reason();
            let age = now.saturating_duration_since(report.map_or(self.since, Report::at));
            let text = reason.to_string().into();
            shown.last_error = Some(LastError { kind: reason.kind(), text, peer: None, age });
        }
        shown
    }

    /// Returns the URL from which players fetch the output at its node, while it is reported.
    pub(super) fn url(&self, now: Instant) -> Option<PeerUrl> {
        let report = self.report.as_ref().filter(|_| self.is_fresh(now))?;
        self.output.playback_url(report.url()?)
    }

    /// Returns in words that there is no report.
    pub(super) fn silence(&self, now: Instant) -> String {
        match &self.report {
            Some(report) => {
                let silent = now.saturating_duration_since(report.at());
                format!("no report from there for {} s", Duration::as_secs(&silent))
            }
            None if self.is_held => "the output before it is still ending".to_owned(),
            None => "no report from there yet".to_owned(),
        }
    }
}
