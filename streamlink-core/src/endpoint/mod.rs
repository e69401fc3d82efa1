//! Drivers, which connect sockets, protocols and the router for one source or output. There is one folder for each
//! protocol.
//!
//! A driver is opened first, which may fail and starts nothing, and then run. A source publishes into the flow's ring,
//! and an output reads from it. Datagram outputs are served by the shards of [`fanout`], callers by a task of their
//! own, and the peers of a port by the tasks of that port.

mod app;
mod backoff;
mod bandwidth;
mod event;
pub(crate) mod fanout;
mod ingest;
mod lagging;
mod listener;
mod mailbox;
mod reconnect;
pub(crate) mod remux;
mod resolver;
pub(crate) mod rtmp;
pub(crate) mod rtp;
pub(crate) mod rtsp;
pub(crate) mod srt;
mod status;
pub(crate) mod tcp;

pub(crate) use app::Tasks;
pub use app::{AppSource, PacketBatch, PushError, Tap, TapCallback};
pub(crate) use bandwidth::{Bandwidth, BandwidthSetting, FlowBandwidth};
pub use event::{Event, LossReason, RefusalReason};
pub(crate) use mailbox::{EventSink, Mailbox};
pub(crate) use resolver::Resolver;
pub use srt::{SrtAccess, SrtRequest};
pub use status::{LastError, PlayerStats};
pub(crate) use status::{SourceTunables, Status, StatusSnapshot};

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
    /// Index of this source in `sources`.
    pub(crate) number: usize,
    /// All sources of the flow, in order.
    pub(crate) sources: Arc<[Arc<Status>]>,
    pub(crate) group: Arc<SourceGroup>,
    pub(crate) events: EventSink,
    /// Time without media after which the source is lost.
    pub(crate) idle_timeout: Duration,
    /// Admission of another publisher to a source that listens and has one.
    pub(crate) takeover: Takeover,
    /// Time without media after which another publisher may take over ([`Takeover::Idle`]).
    pub(crate) loss_threshold: Duration,
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
        let Some(Switch { from, to, gap }) = switch else { return };
        let name = |number: usize| self.sources.get(number).map(|status| status.name()).unwrap_or_default();
        self.events.emit(Event::Switched { from: name(from), to: name(to), gap });
    }
}

/// Waits until the deadline, or for ever if there is none.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
