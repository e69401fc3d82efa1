//! Routes of a port: selection by stream id, admission settings and counters of each source and output.

use super::{
    super::{
        Event, EventSink, LossReason, RefusalReason, SourceContext, Status, ingest::Ingest, lagging::LagReport,
        reconnect::lost,
    },
    rates::{FlowRates, Rates},
};
use crate::{
    flow::{Allowlist, Takeover},
    proto::srt::{ConnectionStats, Terms},
    router::{Reader, State},
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
    /// Last refused caller, with the reason.
    pub(super) last_refused: Option<(SocketAddr, RefusalReason)>,
}

impl OpenRoute {
    pub(super) fn new(route: Route, now: Instant) -> Self {
        let ingest = match &route.end {
            RouteEnd::Source(context) => Some(Ingest::new(context.clone(), now)),
            RouteEnd::Output(_) => None,
        };
        let refused = Throttle::new(Duration::from_secs(1));
        Self { route, ingest, links: Vec::new(), sender: None, lag: LagReport::new(), refused, last_refused: None }
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

    /// Returns whether a source admits another caller while it has one: the one before is closed then.
    pub(super) fn may_take_over(&self, now: Instant) -> bool {
        let RouteEnd::Source(context) = &self.route.end else { return false };
        match context.takeover {
            Takeover::Always => true,
            Takeover::Idle => self.route.status.counters.silent_for(now) >= context.loss_threshold,
            _ => false,
        }
    }

    /// Counts a refused caller, and reports it.
    pub(super) fn refuse(&mut self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        self.route.status.counters.refused.add(1);
        self.last_refused = Some((peer, reason));
        self.report_refusals(now, 1);
    }

    /// Reports refusals, at most once a second.
    pub(super) fn report_refusals(&mut self, now: Instant, new: u64) {
        if let Some(count) = self.refused.admit(now, new)
            && let Some((peer, reason)) = self.last_refused
        {
            let endpoint = self.route.status.name();
            self.route.status.record_refusal(reason, peer, now);
            self.route.events.emit(Event::PeerRefused { endpoint, peer, reason, count });
        }
    }
}

/// Adds the difference between two statistics of a connection to the counters of its source or output, and reports
/// packets whose timestamps were too far ahead. Returns the number of packets that an output has dropped, which the
/// caller of this function counts and reports.
pub(super) fn settle(
    status: &Status,
    events: &EventSink,
    is_source: bool,
    stats: &ConnectionStats,
    before: &ConnectionStats,
    now: Instant,
) -> u64 {
    let counters = &status.counters;
    if is_source {
        counters.lost.add(stats.received.lost - before.received.lost);
        counters.recovered.add(stats.received.recovered - before.received.recovered);
        counters.dropped.add(stats.received.discarded - before.received.discarded);
        counters.malformed.add(stats.undecrypted - before.undecrypted);
        let packets = stats.received.mistimed - before.received.mistimed;
        if packets > 0 {
            events.emit(Event::TimestampsAhead { source: status.name(), packets });
        }
        0
    } else {
        let (packets, bytes) = (stats.sent.packets - before.sent.packets, stats.sent.bytes - before.sent.bytes);
        counters.passed(now, packets, bytes);
        counters.lost.add(stats.sent.lost - before.sent.lost);
        counters.retransmitted.add(stats.sent.retransmitted - before.sent.retransmitted);
        stats.sent.dropped - before.sent.dropped
    }
}

/// Parsed stream id of a caller: a plain one, or the form of libsrt's access control
/// (`#!::r=RESOURCE,m=publish|request,u=USER`).
pub(super) struct Asked {
    resource: Option<String>,
    /// `Some(true)` to publish, `Some(false)` to play, `None` if not given.
    publish: Option<bool>,
}

impl Asked {
    pub(super) fn parse(stream_id: Option<&str>) -> Self {
        let Some(id) = stream_id.filter(|id| !id.is_empty()) else { return Self { resource: None, publish: None } };
        let Some(fields) = id.strip_prefix("#!::") else {
            return Self { resource: Some(id.to_owned()), publish: None };
        };
        let mut asked = Self { resource: None, publish: None };
        for (key, value) in fields.split(',').filter_map(|field| field.split_once('=')) {
            match (key, value) {
                ("r", name) => asked.resource = Some(name.to_owned()),
                ("m", "publish") => asked.publish = Some(true),
                ("m", "request") => asked.publish = Some(false),
                _ => {}
            }
        }
        asked
    }

    /// Returns whether a route matches. A route without a stream id takes every caller of its direction.
    pub(super) fn is_for(&self, route: &Route) -> bool {
        let is_source = matches!(route.end, RouteEnd::Source(_));
        let name = match (&route.stream_id, &self.resource) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(_), None) => false,
        };
        name && self.publish.is_none_or(|publish| publish == is_source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srt_stream_ids_are_plain_or_access_control() {
        let asked = Asked::parse(Some("#!::r=cam1,m=publish,u=me"));
        assert_eq!((asked.resource.as_deref(), asked.publish), (Some("cam1"), Some(true)));
        let asked = Asked::parse(Some("#!::h=host,r=cam/2,m=request,,=,x"));
        assert_eq!((asked.resource.as_deref(), asked.publish), (Some("cam/2"), Some(false)));
        let asked = Asked::parse(Some("cam1"));
        assert_eq!((asked.resource.as_deref(), asked.publish), (Some("cam1"), None));
        assert_eq!(Asked::parse(None).resource, None);
    }
}
