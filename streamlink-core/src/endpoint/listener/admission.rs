//! Rules of one route about the peers that it admits, and the peers that were refused there.

use super::RefusalLog;
use crate::{
    endpoint::{EventSink, LossReason, RefusalReason, SourceContext, SourceTunables, Status, reconnect::lost},
    flow::{Allowlist, Listen, Takeover},
    lock::lock,
    router::SourceGroup,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::watch;

/// Admission of peers to a source or an output.
#[derive(Debug)]
pub(in crate::endpoint) struct Admission {
    status: Arc<Status>,
    events: EventSink,
    rules: Rules,
    refused: Mutex<RefusalLog>,
}

#[derive(Debug)]
enum Rules {
    /// The allowlist of a source is one of its settings that change at run time. It has one publisher.
    Source {
        settings: watch::Receiver<SourceTunables>,
        takeover: Takeover,
        group: Arc<SourceGroup>,
    },
    Output(Mutex<PlayerRules>),
}

#[derive(Debug)]
struct PlayerRules {
    allow: Allowlist,
    max_peers: Option<u32>,
}

impl Admission {
    pub(in crate::endpoint) fn of_source(context: &SourceContext) -> Self {
        let settings = context.live.clone();
        let group = context.group.clone();
        let rules = Rules::Source { settings, takeover: context.takeover, group };
        Self::new(context.status.clone(), context.events.clone(), rules)
    }

    pub(in crate::endpoint) fn of_output(settings: &Listen, status: Arc<Status>, events: &EventSink) -> Self {
        let rules = PlayerRules { allow: settings.allow.clone(), max_peers: settings.max_peers };
        Self::new(status, events.clone(), Rules::Output(Mutex::new(rules)))
    }

    fn new(status: Arc<Status>, events: EventSink, rules: Rules) -> Self {
        Self { status, events, rules, refused: Mutex::new(RefusalLog::new()) }
    }

    pub(in crate::endpoint) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    pub(in crate::endpoint) fn events(&self) -> &EventSink {
        &self.events
    }

    pub(in crate::endpoint) fn is_source(&self) -> bool {
        matches!(self.rules, Rules::Source { .. })
    }

    /// Returns whether the allowlist holds an address.
    pub(in crate::endpoint) fn admits(&self, peer: IpAddr) -> bool {
        match &self.rules {
            Rules::Source { settings, .. } => settings.borrow().allow.admits(peer),
            Rules::Output(rules) => lock(rules).allow.admits(peer),
        }
    }

    /// Returns the maximum number of connected peers: 1 for a source.
    pub(in crate::endpoint) fn max_peers(&self) -> usize {
        match &self.rules {
            Rules::Source { .. } => 1,
            Rules::Output(rules) => lock(rules).max_peers.map_or(usize::MAX, |n| n as usize),
        }
    }

    /// Returns whether a source admits another publisher while it has one, which is disconnected then.
    pub(in crate::endpoint) fn may_take_over(&self, now: Instant) -> bool {
        let Rules::Source { takeover, group, .. } = &self.rules else { return false };
        match takeover {
            Takeover::Always => true,
            Takeover::Idle => self.status.counters.silent_for(now) >= group.loss_threshold(),
            _ => false,
        }
    }

    /// Changes the allowlist and the maximum number of players of an output. Those of a source follow its settings.
    pub(in crate::endpoint) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        if let Rules::Output(rules) = &self.rules {
            *lock(rules) = PlayerRules { allow, max_peers };
        }
    }

    /// Counts a refused peer and reports it. `detail`: text for the event beside the reason.
    pub(in crate::endpoint) fn refuse(&self, peer: SocketAddr, reason: RefusalReason, detail: &str, now: Instant) {
        self.status.count_refusals(reason, 1);
        let report = lock(&self.refused).refuse(peer, reason, detail, now);
        if let Some(report) = report {
            report.emit(&self.status, &self.events, now);
        }
    }

    /// Reports refusals that were held back, if it is time. To be called about once a second.
    pub(in crate::endpoint) fn report_refusals(&self, now: Instant) {
        let report = lock(&self.refused).held_back(now);
        if let Some(report) = report {
            report.emit(&self.status, &self.events, now);
        }
    }

    /// Reports the end of a publisher that has brought no media: its connection was never reported.
    pub(in crate::endpoint) fn report_silent_publisher(&self, reason: &LossReason, peer: SocketAddr, now: Instant) {
        self.status.record_loss(reason, Some(peer), now);
        self.events.emit(lost(&self.status, true, Some(peer), reason.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Event;
    use futures_util::FutureExt;

    fn output(allow: &str, max_peers: Option<u32>) -> (Admission, EventSink) {
        let events = EventSink::alone("f");
        let allow = allow.parse().expect("an allowlist");
        let settings = Listen { allow, max_peers, ..Listen::new(([127, 0, 0, 1], 0).into()) };
        (Admission::of_output(&settings, Status::new("door", None), &events), events)
    }

    #[test]
    fn admission_follows_edited_allowlist_and_maximum() {
        let (admission, _) = output("192.0.2.0/24", Some(2));
        let inside = [192, 0, 2, 9].into();
        let outside = [198, 51, 100, 9].into();
        assert!(admission.admits(inside) && !admission.admits(outside));
        assert_eq!(admission.max_peers(), 2);
        admission.edit("198.51.100.9".parse().expect("an allowlist"), None);
        assert!(!admission.admits(inside) && admission.admits(outside));
        assert_eq!(admission.max_peers(), usize::MAX);
        assert!(!admission.may_take_over(Instant::now()), "players replace nobody");
    }

    #[test]
    fn admission_counts_each_refusal_and_reports_once_a_second() {
        let (admission, events) = output("", None);
        let mut queue = events.subscribe();
        let peer = SocketAddr::from(([192, 0, 2, 1], 9));
        let now = Instant::now();
        for _ in 0..3 {
            admission.refuse(peer, RefusalReason::NotAllowed, "the detail", now);
        }
        assert_eq!(admission.status().counters.refused.get(), 3);
        admission.report_refusals(now + std::time::Duration::from_secs(1));
        let mut counts = Vec::new();
        while let Some(Some(event)) = queue.receive().now_or_never() {
            let Event::PeerRefused { endpoint, count, detail, .. } = event else { panic!("{event:?}") };
            assert_eq!((endpoint.as_str(), detail.as_str()), ("door", "the detail"));
            counts.push(count);
        }
        assert_eq!(counts, [1, 2]);
        let shown = admission.status().snapshot().last_error(now).expect("an error");
        assert_eq!((shown.kind, shown.peer), (RefusalReason::NotAllowed.kind(), Some(peer)));
    }
}
