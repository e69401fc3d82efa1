//! Routes of a port: selection by stream id, admission settings and counters of each source and output.

use super::{
    super::{
        Event, EventSink, LossReason, RefusalReason, SourceContext, Status,
        ingest::Ingest,
        lagging::{LagReport, Unsent},
        reconnect::lost,
    },
    rates::{FlowRates, Rates},
};
use crate::{
    flow::{Allowlist, StreamId, Takeover},
    proto::srt::{ConnectionStats, Terms},
    router::{Reader, State},
    text::PeerText,
    time::Throttle,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Identifies a route of a port.
pub(crate) type RouteId = u64;

/// Source or output that serves callers of a port.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) stream_id: Option<String>,
    pub(crate) allow: Allowlist,
    pub(crate) max_peers: Option<u32>,
    pub(crate) terms: Terms,
    /// Rates of the flow, from which buffer and pacing in `terms` are updated.
    pub(crate) rates: FlowRates,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) end: RouteEnd,
}

/// Origin or destination of the media of a route.
#[derive(Debug)]
pub(crate) enum RouteEnd {
    Source(SourceContext),
    Output(Reader),
}

impl Route {
    /// Marks the source or output as failed, because its port no longer serves it.
    pub(super) fn fail(&self, why: &str, now: Instant) {
        let is_source = matches!(self.end, RouteEnd::Source(_));
        if let RouteEnd::Source(context) = &self.end {
            context.lose(now);
        }
        self.status.counters.set_state(State::Failed, now);
        let reason = LossReason::Internal(why.to_owned());
        self.status.record_loss(&reason, None, now);
        self.events.emit(lost(&self.status, is_source, None, reason));
    }
}

/// Route of an open port, with its state.
pub(super) struct OpenRoute {
    pub(super) route: Route,
    pub(super) ingest: Option<Ingest>,
    /// Socket ids of its connections.
    pub(super) links: Vec<u32>,
    /// Sender of a source.
    pub(super) sender: Option<SocketAddr>,
    /// Report of packets that its players have missed.
    pub(super) lag: LagReport,
    pub(super) refused: Throttle,
    /// Last refused caller, with the reason and its details.
    pub(super) last_refused: Option<(SocketAddr, RefusalReason, PeerText)>,
    /// Stream id that callers have to name. `None`: they name none, or one that no other route wants.
    wanted: Option<StreamId>,
}

impl OpenRoute {
    pub(super) fn new(route: Route, now: Instant) -> Self {
        let ingest = match &route.end {
            RouteEnd::Source(context) => Some(Ingest::new(context.clone(), now)),
            RouteEnd::Output(_) => None,
        };
        let refused = Throttle::new(Duration::from_secs(1));
        // A listener with an id that cannot be read is asked for by no caller, which is told so.
        let wanted = route.stream_id.as_deref().map(|id| StreamId::parse(id).unwrap_or_else(|_| StreamId::plain(id)));
        Self {
            route,
            ingest,
            links: Vec::new(),
            sender: None,
            lag: LagReport::new(),
            refused,
            last_refused: None,
            wanted,
        }
    }

    /// Returns whether a caller asks for a stream in the direction of this route, or leaves the direction open.
    pub(super) fn has_direction_of(&self, asked: &StreamId) -> bool {
        asked.publish().is_none_or(|publish| publish == self.ingest.is_some())
    }

    /// Returns how well the route fits what a caller asks for; the least is the best. `None`: it does not.
    pub(super) fn fit(&self, asked: &StreamId) -> Option<(bool, bool)> {
        let fits = self.wanted.as_ref().is_none_or(|ours| asked.is_for(ours)) && self.has_direction_of(asked);
        // A caller that does not say what it wants plays (libsrt's `access-control.md`).
        fits.then_some((self.wanted.is_none(), self.ingest.is_some()))
    }

    /// Returns whether a caller names this route, apart from its direction and other fields of its id.
    pub(super) fn is_named_by(&self, asked: &StreamId) -> bool {
        self.wanted.as_ref().is_some_and(|ours| asked.is_of_name(ours))
    }

    /// Updates the terms from the bandwidth of the flow, if it has changed. Returns the new rates for the existing
    /// connections.
    pub(super) fn refresh_rates(&mut self) -> Option<Rates> {
        let rates = self.route.rates.changed()?;
        rates.apply(&mut self.route.terms);
        Some(rates)
    }

    /// Counts packets that players have missed, and reports them. A call with 0 packets may report earlier ones that
    /// were held back.
    pub(super) fn dropped(&mut self, packets: u64, now: Instant) {
        self.route.status.counters.dropped.add(packets);
        self.lag.note(packets, &self.route.status, &self.route.events, now);
    }

    /// Counts packets that a connection of the route has not sent, and reports them.
    pub(super) fn unsent(&mut self, unsent: Unsent, limit: usize, now: Instant) {
        self.dropped(unsent.dropped, now);
        self.route.status.counters.dropped.add(unsent.oversized);
        self.lag.note_oversized(unsent.oversized, limit, &self.route.status, &self.route.events, now);
    }

    /// Returns whether a source admits another caller while it has one: the one before is closed then.
    pub(super) fn may_take_over(&self, now: Instant) -> bool {
        let RouteEnd::Source(context) = &self.route.end else { return false };
        match context.takeover {
            Takeover::Always => true,
            Takeover::Idle => self.route.status.counters.silent_for(now) >= context.group.loss_threshold(),
            _ => false,
        }
    }

    /// Counts a refused caller, and reports it.
    pub(super) fn refuse(&mut self, peer: SocketAddr, reason: RefusalReason, detail: &str, now: Instant) {
        self.route.status.counters.refused.add(1);
        self.last_refused = Some((peer, reason, detail.into()));
        self.report_refusals(now, 1);
    }

    /// Reports refusals, at most once a second.
    pub(super) fn report_refusals(&mut self, now: Instant, new: u64) {
        if let Some(count) = self.refused.admit(now, new)
            && let Some((peer, reason, detail)) = self.last_refused.clone()
        {
            let endpoint = self.route.status.name();
            self.route.status.record_refusal(reason, peer, now);
            self.route.events.emit(Event::PeerRefused { endpoint, peer, reason, detail, count });
        }
    }
}

/// Adds the difference between two statistics of a connection to the counters of its source or output, and reports
/// packets whose timestamps were too far ahead. Returns the packets that an output has not sent, which the caller of this
/// function counts and reports.
pub(super) fn settle(
    status: &Status,
    events: &EventSink,
    is_source: bool,
    stats: &ConnectionStats,
    before: &ConnectionStats,
    now: Instant,
) -> Unsent {
    let counters = &status.counters;
    if is_source {
        counters.lost.add(stats.received.lost - before.received.lost);
        counters.recovered.add(stats.received.recovered - before.received.recovered);
        counters.duplicates.add(stats.received.duplicates - before.received.duplicates);
        counters.repairs.add(stats.received.repairs - before.received.repairs);
        counters.rebuilt.add(stats.received.rebuilt - before.received.rebuilt);
        counters.unrepaired.add(stats.received.unrepaired - before.received.unrepaired);
        counters.malformed.add(stats.received.wrong_repairs - before.received.wrong_repairs);
        counters.dropped.add(stats.received.discarded - before.received.discarded);
        counters.undecrypted.add(stats.undecrypted - before.undecrypted);
        let packets = stats.received.mistimed - before.received.mistimed;
        if packets > 0 {
            events.emit(Event::TimestampsAhead { source: status.name(), packets });
        }
        Unsent::default()
    } else {
        let (packets, bytes) = (stats.sent.packets - before.sent.packets, stats.sent.bytes - before.sent.bytes);
        counters.passed(now, packets, bytes);
        counters.lost.add(stats.sent.lost - before.sent.lost);
        counters.repairs.add(stats.sent.repairs - before.sent.repairs);
        counters.retransmitted.add(stats.sent.retransmitted - before.sent.retransmitted);
        Unsent {
            dropped: stats.sent.dropped - before.sent.dropped,
            oversized: stats.sent.oversized - before.sent.oversized,
        }
    }
}
