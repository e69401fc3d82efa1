//! Refused peers of a source or an output: counted, logged, and reported at most once a second.

use crate::{
    endpoint::{Event, EventSink, RefusalReason, Status},
    text::PeerText,
    time::Throttle,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Minimum interval between two reports of one endpoint.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals for one reason that no event has reported yet, and the last of them.
#[derive(Debug)]
struct Unreported {
    reason: RefusalReason,
    count: u64,
    peer: SocketAddr,
    detail: PeerText,
}

/// Refused peers that no event has reported yet.
#[derive(Debug)]
pub(in crate::endpoint) struct RefusalLog {
    throttle: Throttle,
    /// One entry for each reason, in the order in which they occurred.
    unreported: Vec<Unreported>,
}

/// Report of one or more refusals for one reason, to be emitted without a lock.
#[derive(Debug)]
pub(in crate::endpoint) struct RefusalReport {
    count: u64,
    peer: SocketAddr,
    reason: RefusalReason,
    detail: PeerText,
}

impl RefusalLog {
    pub(in crate::endpoint) fn new() -> Self {
        Self { throttle: Throttle::new(REPORT_INTERVAL), unreported: Vec::new() }
    }

    /// Records a refused peer. Returns a report if one is due.
    #[must_use]
    pub(in crate::endpoint) fn refuse(
        &mut self,
        peer: SocketAddr,
        reason: RefusalReason,
        detail: &str,
        now: Instant,
    ) -> Option<RefusalReport> {
        self.record(peer, reason, detail, 1);
        self.held_back(now)
    }

    /// Records refusals for one reason, the last of them that of `peer`, which [`RefusalLog::held_back`] reports.
    pub(in crate::endpoint) fn record(&mut self, peer: SocketAddr, reason: RefusalReason, detail: &str, count: u64) {
        let detail = detail.into();
        match self.unreported.iter_mut().find(|known| known.reason == reason) {
            Some(known) => {
                let count = known.count.saturating_add(count);
                *known = Unreported { reason, count, peer, detail };
            }
            None => self.unreported.push(Unreported { reason, count, peer, detail }),
        }
    }

    /// Returns a report of the reason that has waited longest, if one is due.
    #[must_use]
    pub(in crate::endpoint) fn held_back(&mut self, now: Instant) -> Option<RefusalReport> {
        if self.unreported.is_empty() {
            return None;
        }
        self.throttle.admit(now, 1)?;
        let Unreported { reason, count, peer, detail } = self.unreported.remove(0);
        Some(RefusalReport { count, peer, reason, detail })
    }

    /// Returns the time at which [`RefusalLog::held_back`] has a report, if one is held back.
    pub(in crate::endpoint) fn next_report(&self) -> Option<Instant> {
        if self.unreported.is_empty() { None } else { self.throttle.next() }
    }
}

impl RefusalReport {
    /// Records the refusal as the last error of the endpoint, and emits its event, which is also logged.
    pub(in crate::endpoint) fn emit(self, status: &Status, events: &EventSink, now: Instant) {
        let Self { count, peer, reason, detail } = self;
        status.record_refusal(reason, peer, now);
        events.emit(Event::PeerRefused { endpoint: status.name(), peer, reason, detail, count });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_log_reports_one_reason_a_second_and_counts_each() {
        let now = Instant::now();
        let mut log = RefusalLog::new();
        let peer = SocketAddr::from(([192, 0, 2, 1], 9));
        let first = log.refuse(peer, RefusalReason::NotAllowed, "", now).expect("a report");
        assert_eq!((first.count, first.reason), (1, RefusalReason::NotAllowed));
        assert!(log.refuse(peer, RefusalReason::NotAllowed, "", now).is_none());
        assert!(log.refuse(peer, RefusalReason::InUse, "the last", now).is_none());
        assert!(log.refuse(peer, RefusalReason::NotAllowed, "", now).is_none());
        assert!(log.held_back(now).is_none());
        let rest = log.held_back(now + REPORT_INTERVAL).expect("a report");
        assert_eq!((rest.count, rest.reason), (2, RefusalReason::NotAllowed));
        assert!(log.held_back(now + REPORT_INTERVAL).is_none());
        let rest = log.held_back(now + 2 * REPORT_INTERVAL).expect("a report");
        assert_eq!((rest.count, rest.reason, rest.detail.as_str()), (1, RefusalReason::InUse, "the last"));
        assert!(log.held_back(now + 3 * REPORT_INTERVAL).is_none(), "each refusal is reported once");
    }

    #[test]
    fn refusal_log_tells_when_a_report_is_due_that_was_held_back() {
        let now = Instant::now();
        let mut log = RefusalLog::new();
        let peer = SocketAddr::from(([192, 0, 2, 1], 9));
        assert_eq!(log.next_report(), None);
        log.record(peer, RefusalReason::NotAllowed, "", 3);
        log.record(peer, RefusalReason::InUse, "", 2);
        let first = log.held_back(now).expect("a report");
        assert_eq!((first.count, first.reason), (3, RefusalReason::NotAllowed));
        assert_eq!(log.next_report(), Some(now + REPORT_INTERVAL));
        let second = log.held_back(now + REPORT_INTERVAL).expect("a report");
        assert_eq!((second.count, second.reason), (2, RefusalReason::InUse));
        assert_eq!(log.next_report(), None, "nothing is held back");
    }
}
