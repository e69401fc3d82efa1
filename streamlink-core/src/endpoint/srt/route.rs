//! Routes of a port: selection by stream id, admission settings and counters of each source and output.

use super::{
    super::{
        Event, EventSink, LossReason, SourceContext, Status,
        ingest::Ingest,
        lagging::{LagReport, Unsent},
        listener::{Admission, HasAdmission},
        reconnect::lost,
    },
    rates::{FlowRates, Rates},
};
use crate::{
    flow::StreamId,
    proto::srt::{ConnectionStats, Terms},
    router::{Reader, State},
};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio_util::task::TaskTracker;

/// Source or output that serves callers of a port.
#[derive(Debug)]
pub(in crate::endpoint) struct Route {
    pub(in crate::endpoint) stream_id: Option<String>,
    pub(in crate::endpoint) admission: Admission,
    pub(in crate::endpoint) terms: Terms,
    /// Rates of the flow, from which buffer and pacing in `terms` are updated.
    pub(in crate::endpoint) rates: FlowRates,
    /// Differentiated services code point (RFC 2474) of the packets to players.
    pub(in crate::endpoint) dscp: Option<u8>,
    pub(in crate::endpoint) media: RouteMedia,
}

/// Origin or destination of the media of a route.
#[derive(Debug)]
pub(in crate::endpoint) enum RouteMedia {
    Source(SourceContext),
    Output(Reader),
}

impl Route {
    /// Marks the source or output as failed, because its port no longer serves it.
    pub(super) fn fail(&self, why: &str, now: Instant) {
        let status = self.admission.status();
        let events = self.admission.events();
        if let RouteMedia::Source(context) = &self.media {
            context.lose(now);
        }
        status.counters.set_state(State::Failed, now);
        let reason = LossReason::Internal(why.to_owned());
        status.record_loss(&reason, None, now);
        events.emit(lost(status, self.admission.is_source(), None, reason));
    }
}

/// Route of an open port, with its state.
pub(super) struct OpenRoute {
    pub(super) route: Route,
    pub(super) ingest: Option<Ingest>,
    /// Socket ids of its connections.
    pub(super) callers: Vec<u32>,
    /// Sender of a source.
    pub(super) sender: Option<SocketAddr>,
    /// Report of packets that its players have missed.
    pub(super) lag: LagReport,
    /// Open questions to the host about callers of the route.
    pub(super) questions: TaskTracker,
    /// Stream id that callers have to name. `None`: they name none, or one that no other route wants.
    wanted: Option<StreamId>,
}

impl OpenRoute {
    pub(super) fn new(route: Route, now: Instant) -> Self {
        let ingest = match &route.media {
            RouteMedia::Source(context) => Some(Ingest::new(context.clone(), now)),
            RouteMedia::Output(_) => None,
        };
        // A listener with an id that cannot be read is asked for by no caller, which is told so.
        let wanted = route.stream_id.as_deref().map(|id| StreamId::parse(id).unwrap_or_else(|_| StreamId::plain(id)));
        Self {
            route,
            ingest,
            callers: Vec::new(),
            sender: None,
            lag: LagReport::new(),
            questions: TaskTracker::new(),
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
        let admission = &self.route.admission;
        admission.status().counters.dropped.add(packets);
        self.lag.note(packets, admission.status(), admission.events(), now);
    }

    /// Counts packets that a connection of the route has not sent, and reports them.
    pub(super) fn unsent(&mut self, unsent: Unsent, limit: usize, now: Instant) {
        self.dropped(unsent.dropped, now);
        let admission = &self.route.admission;
        admission.status().counters.dropped.add(unsent.oversized);
        self.lag.note_oversized(unsent.oversized, limit, admission.status(), admission.events(), now);
    }

    /// Returns whether media of an output waits to be sent.
    pub(super) fn has_media(&self) -> bool {
        matches!(&self.route.media, RouteMedia::Output(reader) if reader.has_more())
    }

    pub(super) fn status(&self) -> &Arc<Status> {
        self.route.admission.status()
    }

    pub(super) fn events(&self) -> &EventSink {
        self.route.admission.events()
    }
}

impl HasAdmission for OpenRoute {
    fn admission(&self) -> &Admission {
        &self.route.admission
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
        let packets = stats.sent.packets - before.sent.packets;
        let bytes = stats.sent.bytes - before.sent.bytes;
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
