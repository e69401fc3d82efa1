//! Last report of an output of a region, and the statistics that it makes.

use crate::{
    endpoint::Status,
    engine::stats::EndpointStats,
    event::{LossReason, RefusalCount},
    router::{Counter, Counters, State},
    text::PeerText,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Time after which a report says nothing about the present any more.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of entries in each list of a report, which comes from another machine.
const MAX_LISTED: usize = 4096;
/// Maximum number of members or refusal reasons of a report.
const MAX_PARTS: usize = 64;

/// Counter of statistics, and the one of a status that holds it.
type Total = (fn(&mut EndpointStats) -> &mut u64, fn(&Counters) -> &Counter);

const TOTALS: &[Total] = &[
    (|s| &mut s.bytes, |c| &c.bytes),
    (|s| &mut s.packets, |c| &c.packets),
    (|s| &mut s.lost, |c| &c.lost),
    (|s| &mut s.recovered, |c| &c.recovered),
    (|s| &mut s.retransmitted, |c| &c.retransmitted),
    (|s| &mut s.dropped, |c| &c.dropped),
    (|s| &mut s.duplicates, |c| &c.duplicates),
    (|s| &mut s.malformed, |c| &c.malformed),
    (|s| &mut s.repairs, |c| &c.repairs),
    (|s| &mut s.rebuilt, |c| &c.rebuilt),
    (|s| &mut s.unrepaired, |c| &c.unrepaired),
    (|s| &mut s.undecrypted, |c| &c.undecrypted),
    (|s| &mut s.refused, |c| &c.refused),
    (|s| &mut s.reconnections, |c| &c.reconnections),
];

/// Last report of an output.
#[derive(Clone, Debug)]
pub(super) struct Report {
    at: Instant,
    node: PeerText,
    stats: EndpointStats,
}

impl Report {
    pub(super) fn new(node: PeerText, mut stats: EndpointStats, now: Instant) -> Self {
        stats.players.truncate(MAX_LISTED);
        stats.pids.truncate(MAX_LISTED);
        stats.tracks.truncate(MAX_LISTED);
        stats.members.truncate(MAX_PARTS);
        stats.refusals.truncate(MAX_PARTS);
        for member in &mut stats.members {
            member.address = PeerText::new(&member.address).into();
        }
        for rate in [&mut stats.video_frame_rate, &mut stats.audio_frame_rate] {
            *rate = if rate.is_finite() { *rate } else { 0.0 };
        }
        for track in &mut stats.tracks {
            track.frame_rate = track.frame_rate.filter(|rate| rate.is_finite());
        }
        Self { at: now, node, stats }
    }

    pub(super) fn has_player(&self, peer: SocketAddr) -> bool {
        self.stats.players.iter().any(|player| player.peer == peer)
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REPORT_TIMEOUT
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stats.state == State::Connected
    }

    /// Returns true if the counters of `next` do not go on from those of this report: another node runs the output, or the
    /// same one has started it again.
    pub(super) fn is_before_restart(&self, next: &Self) -> bool {
        let mut before = self.stats.clone();
        let mut after = next.stats.clone();
        self.node != next.node || TOTALS.iter().any(|(field, _)| *field(&mut after) < *field(&mut before))
    }

    /// Adds the counters of this report, the last one of its node, to those of the status.
    pub(super) fn fold_into(mut self, status: &Status) {
        for (field, counter) in TOTALS {
            let counter = counter(&status.counters);
            // Only the link of the region writes to this status, under its lock.
            counter.set(counter.get().saturating_add(*field(&mut self.stats)));
        }
        status.add_refusals(&self.stats.refusals);
    }

    /// Adds what the counters have grown by since an earlier report of the same node.
    pub(super) fn fold_since(mut self, mut before: Self, status: &Status) {
        if before.is_before_restart(&self) {
            return;
        }
        for (field, _) in TOTALS {
            let more = field(&mut self.stats).saturating_sub(*field(&mut before.stats));
            *field(&mut self.stats) = more;
        }
        self.stats.refusals.clear(); // their sum has grown
        self.fold_into(status);
    }

    /// Returns the statistics of the output. `local`: what is known of it here.
    pub(super) fn shown(&self, local: EndpointStats, now: Instant) -> EndpointStats {
        let age = now.saturating_duration_since(self.at);
        let mut shown = self.with_totals(local.clone());
        let reported = self.stats.last_error.clone().map(|mut error| {
            error.age = error.age.saturating_add(age);
            error
        });
        let errors = [local.last_error, reported];
        shown.last_error = errors.into_iter().flatten().min_by_key(|error| error.age);
        shown.state = self.stats.state;
        let connected = self.stats.connected_for.filter(|_| self.is_connected());
        shown.connected_for = connected.map(|time| time.saturating_add(age));
        shown
    }

    /// Returns the statistics of an output about which nothing is known at present, except its counters.
    pub(super) fn shown_past(&self, mut local: EndpointStats) -> EndpointStats {
        local.node = Some(self.node.clone());
        let mut sums = self.with_totals(local.clone());
        for (field, _) in TOTALS {
            *field(&mut local) = *field(&mut sums);
        }
        local.refusals = sums.refusals;
        local
    }

    /// Returns the reported statistics with the identity of `local`, and the sums of the counters of both.
    fn with_totals(&self, mut local: EndpointStats) -> EndpointStats {
        let mut shown = self.stats.clone();
        for (field, _) in TOTALS {
            let sum = field(&mut shown).saturating_add(*field(&mut local));
            *field(&mut shown) = sum;
        }
        for refusals in std::mem::take(&mut shown.refusals) {
            RefusalCount::add(&mut local.refusals, refusals.reason, refusals.count);
        }
        EndpointStats {
            name: local.name,
            description: local.description,
            protocol: local.protocol,
            enabled: local.enabled,
            active: false,
            region: local.region,
            node: Some(self.node.clone()),
            refusals: local.refusals,
            ..shown
        }
    }

    /// Returns the URL from which players fetch the output at its node.
    pub(super) fn url(&self) -> Option<&str> {
        self.stats.url.as_deref()
    }
}

/// Returns a reason that may come from another machine, with its text sanitized.
pub(super) fn sanitized(reason: LossReason) -> LossReason {
    match reason {
        LossReason::Internal(text) => LossReason::Internal(PeerText::from(text).into()),
        reason => reason,
    }
}
