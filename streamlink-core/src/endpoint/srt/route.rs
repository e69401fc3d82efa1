//! The routes of a port: which source or output a caller is for, who may come, and what is counted of it.

use super::{
    super::{
        Event, EventSink, LossReason, RefusalReason, SourceContext, Status, backoff::report_loss, intake::Intake,
        lagging::LagReport,
    },
    rates::{FlowRates, Rates},
};
use crate::{
    flow::Allowlist,
    proto::srt::{ConnectionStats, Terms},
    router::{Reader, State},
    time::Throttle,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Names a route of a port.
pub(crate) type RouteId = u64;

/// A source or an output that callers of a port are for.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) stream_id: Option<String>,
    pub(crate) allow: Allowlist,
    pub(crate) max_peers: Option<u32>,
    pub(crate) terms: Terms,
    /// What the terms follow.
    pub(crate) rates: FlowRates,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) end: RouteEnd,
}

/// Where the media of a route comes from or goes to.
#[derive(Debug)]
pub(crate) enum RouteEnd {
    Source(SourceContext),
    Output(Reader),
}

impl Route {
    /// Gives up the source or output: its port serves it no longer.
    pub(super) fn fail(&self, why: &str, now: Instant) {
        let is_source = matches!(self.end, RouteEnd::Source(_));
        if let RouteEnd::Source(context) = &self.end {
            context.lose(now);
        }
        self.status.counters.set_state(State::Failed, now);
        report_loss(&self.events, &self.status, is_source, LossReason::Internal(why.to_owned()));
    }
}

/// A route of an open port.
pub(super) struct OpenRoute {
    pub(super) route: Route,
    pub(super) intake: Option<Intake>,
    /// Its connections.
    pub(super) links: Vec<u32>,
    /// Packets that its players have not got.
    pub(super) lag: LagReport,
    pub(super) refused: Throttle,
    /// The last caller that was refused, and why.
    pub(super) last_refused: Option<(SocketAddr, RefusalReason)>,
}

impl OpenRoute {
    pub(super) fn new(route: Route, now: Instant) -> Self {
        let intake = match &route.end {
            RouteEnd::Source(context) => Some(Intake::new(context.clone(), now)),
            RouteEnd::Output(_) => None,
        };
        let refused = Throttle::new(Duration::from_secs(1));
        Self { route, intake, links: Vec::new(), lag: LagReport::new(), refused, last_refused: None }
    }

    /// Takes over the bandwidth of the flow, if it has changed; returns the rates of the connections that there are.
    pub(super) fn refresh_rates(&mut self) -> Option<Rates> {
        let rates = self.route.rates.changed()?;
        rates.apply(&mut self.route.terms);
        Some(rates)
    }

    /// Counts packets that players have not got, and tells of them. None: what was not told yet may be due.
    pub(super) fn dropped(&mut self, packets: u64, now: Instant) {
        self.route.status.counters.dropped.add(packets);
        self.lag.note(packets, &self.route.status, &self.route.events, now);
    }

    /// Counts a caller that was turned away, and tells of it.
    pub(super) fn refuse(&mut self, peer: SocketAddr, reason: RefusalReason, now: Instant) {
        self.route.status.counters.refused.add(1);
        self.last_refused = Some((peer, reason));
        self.report_refusals(now, 1);
    }

    /// Tells of refusals, unless that was done less than a second ago.
    pub(super) fn report_refusals(&mut self, now: Instant, new: u64) {
        if let Some(count) = self.refused.admit(now, new)
            && let Some((peer, reason)) = self.last_refused
        {
            let endpoint = self.route.status.name();
            self.route.events.emit(Event::PeerRefused { endpoint, peer, reason, count });
        }
    }
}

/// Adds the difference between two looks at a connection to the counters of its source or output, and tells of times
/// that were not believed. Returns how many packets an output has given up, which are counted by whoever tells of them.
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

/// What a caller asks for: a plain stream id, or the form of libsrt's access control
/// (`#!::r=RESOURCE,m=publish|request,u=USER`).
pub(super) struct Asked {
    resource: Option<String>,
    /// `Some(true)`: it wants to publish.
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

    /// A route without a stream id takes every caller that goes its way.
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
