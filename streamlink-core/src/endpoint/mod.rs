//! Drivers, which connect sockets, protocols and the router for one source or output. There is one folder for each
//! protocol.
//!
//! A driver is opened first, which may fail and starts nothing, and then run. A source publishes into the flow's ring,
//! and an output reads from it. Datagram outputs are served by the shards of [`fanout`], paced
//! ones by those of [`paced_fanout`], callers by a task of their
//! own, and the peers of a port by the tasks of that port.

mod access;
mod app;
mod app_driver;
mod backoff;
mod bandwidth;
pub(crate) mod driver;
mod egress;
pub(crate) mod fanout;
mod ingest;
mod kinds;
mod lagging;
mod listener;
mod message_ring;
mod paced_fanout;
mod reconnect;
mod remux;
mod resolver;
mod resources;
mod rtmp;
mod rtp;
mod rtsp;
mod source_list;
mod srt;
mod status;
mod tcp;
mod transport_reports;

pub(crate) use access::AccessHook;
pub use access::{Access, AccessRequest};
pub(crate) use app::Tasks;
pub use app::{AppSource, PacketBatch, PushError, Tap, TapCallback};
pub(crate) use backoff::Backoff;
pub(crate) use bandwidth::{Bandwidth, BandwidthSetting, FlowBandwidth};
pub(crate) use egress::{listener_egress, local_egress};
pub(crate) use kinds::Drivers;
pub(crate) use message_ring::{MessageRing, RemuxStatus};
pub(crate) use paced_fanout::PacedFanout;
pub(crate) use resolver::Resolver;
pub(crate) use resources::{EngineResources, FlowMedia, Ports, TlsIdentity};
pub(crate) use source_list::{SourceList, WantedPrograms};
pub use status::{LastError, MemberStats, PlayerStats};
pub(crate) use status::{SourceTunables, Status, StatusSnapshot};

pub(crate) use crate::event::{Event, EventSink, LossReason, RefusalCount, RefusalReason};
#[cfg(test)]
pub(crate) use crate::proto::srt::HeldDerivations;
use crate::{
    flow::Takeover,
    random::Random,
    router::{SourceGroup, Switch},
    text::PeerText,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Parts of a flow that the driver of a source needs.
#[derive(Clone, Debug)]
pub(crate) struct SourceContext {
    pub(crate) status: Arc<Status>,
    /// Number of this source in the group.
    pub(crate) number: usize,
    /// All sources of the flow.
    pub(crate) sources: Arc<SourceList>,
    pub(crate) group: Arc<SourceGroup>,
    pub(crate) events: EventSink,
    /// Time without media after which the source is lost.
    pub(crate) idle_timeout: Duration,
    /// Admission of another publisher to a source that listens and has one.
    pub(crate) takeover: Takeover,
    /// Settings that can change at run time.
    pub(crate) live: watch::Receiver<SourceTunables>,
    /// Maximum time for which packets may wait for more, so that they are sent together.
    pub(crate) coalesce: Duration,
    pub(crate) random: Random,
    pub(crate) stop: CancellationToken,
}

impl SourceContext {
    /// Reports the description of the media to the host.
    fn describe(&self, description: impl Into<PeerText>) {
        let description = description.into();
        self.status.set_media(description.clone());
        self.events.emit(Event::MediaDescribed { source: self.status.name(), description });
    }

    /// Tells the flow that this source is lost.
    pub(crate) fn lose(&self, now: std::time::Instant) {
        self.switched(self.group.lose(self.number, now));
    }

    /// Reports to the host that another source feeds the flow.
    fn switched(&self, switch: Option<Switch>) {
        self.sources.report(switch, &self.events);
    }
}

/// Waits until the deadline, or for ever if there is none.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
