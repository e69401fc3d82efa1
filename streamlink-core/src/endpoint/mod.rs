//! The drivers: what joins sockets, protocol and router for one source or output. One folder a protocol.
//!
//! A driver is opened first, which may fail and starts nothing, and then run. A source publishes into the flow's
//! ring; an output reads from it: datagram outputs by the shards of the [`fanout`], callers by a task of
//! their own, and the peers of a port by the tasks of that port.

mod app;
mod backoff;
mod event;
pub(crate) mod fanout;
mod intake;
mod listener;
mod mailbox;
pub(crate) mod remux;
pub(crate) mod rtmp;
pub(crate) mod rtp;
pub(crate) mod rtsp;
pub(crate) mod srt;
mod status;
pub(crate) mod tcp;

pub(crate) use app::Tasks;
pub use app::{AppSource, PacketBatch, PushError, Tap, TapCallback};
pub use event::{Event, LossReason, RefusalReason};
pub(crate) use mailbox::{EventSink, Mailbox};
pub use srt::{SrtAccess, SrtRequest};
pub use status::PlayerStats;
pub(crate) use status::{Live, Status, StatusSnapshot};

use crate::{
    random::Random,
    router::{Group, Switch},
    text::PeerText,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a source's driver needs of its flow.
#[derive(Clone, Debug)]
pub(crate) struct SourceContext {
    pub(crate) status: Arc<Status>,
    /// Its place among the sources.
    pub(crate) number: usize,
    /// All sources of the flow, in order.
    pub(crate) sources: Arc<[Arc<Status>]>,
    pub(crate) group: Arc<Group>,
    pub(crate) events: EventSink,
    /// The settings that can change while it runs.
    pub(crate) live: watch::Receiver<Live>,
    /// How long packets may wait for more, so that they leave together.
    pub(crate) coalesce: Duration,
    pub(crate) random: Random,
    pub(crate) stop: CancellationToken,
}

impl SourceContext {
    /// Tells the host what the media consists of.
    fn describe(&self, description: impl Into<PeerText>) {
        let description = description.into();
        self.status.set_media(description.clone());
        self.events.emit(Event::MediaDescribed { source: self.status.name(), description });
    }

    /// The source is lost to its flow.
    pub(crate) fn lose(&self, now: std::time::Instant) {
        self.switched(self.group.lose(self.number, now));
    }

    /// Tells the host that another source feeds the flow.
    fn switched(&self, switch: Option<Switch>) {
        let Some(Switch { from, to, gap }) = switch else { return };
        let name = |number: usize| self.sources.get(number).map(|status| status.name()).unwrap_or_default();
        self.events.emit(Event::Switched { from: name(from), to: name(to), gap });
    }
}

/// Waits for a moment; for ever, if there is none.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
