//! Reports of a link about its region, and about the outputs there.

use super::attachment::Attachment;
use crate::{
    endpoint::MemberStats,
    engine::stats::EndpointStats,
    event::{Event, LossReason},
    text::PeerText,
};
use std::{sync::Weak, time::Duration};

/// Receives what a link knows about a flow in its region. Cheap to clone; may be used from any thread. Never blocks.
///
/// Reports of a run of the link that is over have no effect. Nothing that is reported may hold a secret.
#[derive(Clone, Debug)]
pub struct RegionReporter {
    attachment: Weak<Attachment>,
    /// Number of the run of the link that reports.
    run: u64,
}

impl RegionReporter {
    pub(super) fn new(attachment: Weak<Attachment>, run: u64) -> Self {
        Self { attachment, run }
    }

    /// Reports the statistics of an output, as the node has them that runs it. They are to be reported every second: an
    /// output that has not been reported for 5 s waits for its region.
    ///
    /// Counters of the flow's statistics go on when another node takes over, or the same one starts again. `node` names
    /// the node for people. Name, description and protocol stay those of the configuration.
    ///
    /// Returns false if the region has no such output any more. The counters of a removed output are still taken in, until
    /// [`RegionReporter::removed`] or the end of the link.
    pub fn output(&self, id: u64, node: &str, stats: EndpointStats) -> bool {
        self.with(|attachment| attachment.report(self.run, id, PeerText::new(node), stats)).unwrap_or(false)
    }

    /// Reports an event of an output, which then is an event of the flow: an [`Event::OutputConnected`],
    /// [`Event::OutputLost`], [`Event::OutputRetrying`], [`Event::OutputLagging`], [`Event::OutputOversized`],
    /// [`Event::PeerRefused`], [`Event::UnexpectedPayload`] or [`Event::Remuxed`]. It gets the name of the output. At most
    /// 64 a second of each region pass; the number of those left out is told.
    ///
    /// Returns false if it is another event, or the region has no such output any more.
    pub fn event(&self, id: u64, event: Event) -> bool {
        self.with(|attachment| attachment.report_event(self.run, id, event)).unwrap_or(false)
    }

    /// Reports that an output has ended at its node after it was removed. Until then, and for 3 s at most, its removal
    /// waits, and so does an output that replaces it.
    pub fn removed(&self, id: u64) {
        self.with(|attachment| attachment.report_removed(self.run, id));
    }

    /// Reports why outputs of the region do not run, such as a relay that cannot be reached. It stands in the statistics of
    /// outputs for which there is no report. `None`: nothing is known to be wrong.
    pub fn waiting(&self, reason: Option<LossReason>) {
        self.with(|attachment| attachment.report_waiting(self.run, reason));
    }

    /// Reports the statistics of the connections that carry the flow to the region: its legs, each with its address.
    pub fn legs(&self, legs: Vec<MemberStats>) {
        self.with(|attachment| attachment.report_legs(self.run, legs));
    }

    /// Reports that a leg is connected, by its address.
    pub fn leg_connected(&self, leg: &str) {
        let leg = PeerText::new(leg);
        self.tell(|region| Event::RegionLegConnected { region, leg });
    }

    /// Reports that a leg is lost, or that an attempt to connect it has failed.
    pub fn leg_lost(&self, leg: &str, reason: LossReason) {
        let leg = PeerText::new(leg);
        self.tell(|region| Event::RegionLegLost { region, leg, reason });
    }

    /// Reports that a leg loses more packets than its protocol makes up for, so that another kind of link is called for:
    /// the loss of the last seconds in hundredths of a percent, and the round trip time. To be reported when that begins,
    /// and now and then while it lasts.
    pub fn leg_lossy(&self, leg: &str, basis_points: u32, round_trip: Duration) {
        let leg = PeerText::new(leg);
        self.tell(|region| Event::RegionLegLossy { region, leg, basis_points, round_trip });
    }

    /// Reports a remark for the operator.
    pub fn notice(&self, text: impl Into<PeerText>) {
        let text = text.into();
        self.tell(|region| Event::RegionNotice { region, text });
    }

    fn tell(&self, event: impl FnOnce(String) -> Event) {
        self.with(|attachment| attachment.tell(self.run, event));
    }

    fn with<T>(&self, report: impl FnOnce(&Attachment) -> T) -> Option<T> {
        self.attachment.upgrade().map(|attachment| report(&attachment))
    }
}
