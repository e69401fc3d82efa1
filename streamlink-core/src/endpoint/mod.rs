//! The drivers: what joins sockets, protocol and router for one source or output. One folder a protocol.
//!
//! A driver is opened first, which may fail and starts nothing, and then run. A source publishes into the flow's
//! ring; an output reads from it: datagram outputs by the shards of the [`fanout`], the others by a task of
//! their own.

mod app;
mod event;
pub(crate) mod fanout;
mod intake;
mod redial;
pub(crate) mod remux;
pub(crate) mod rtmp;
pub(crate) mod rtp;
pub(crate) mod rtsp;
pub(crate) mod srt;
mod status;
pub(crate) mod tcp;

pub(crate) use app::Tasks;
pub use app::{AppSource, PacketBatch, PushError, Tap, TapCallback};
pub(crate) use event::EventSink;
pub use event::{Event, LossReason, RefusalReason};
pub use srt::{SrtAccess, SrtRequest};
pub use status::PlayerStats;
pub(crate) use status::{Live, Status};

use crate::{media::rtsp::Presentation, router::Ring};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a source's driver needs of its flow.
#[derive(Clone, Debug)]
pub(crate) struct SourceContext {
    pub(crate) status: Arc<Status>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) events: EventSink,
    /// The settings that can change while it runs.
    pub(crate) live: watch::Receiver<Live>,
    pub(crate) stop: CancellationToken,
    /// What an RTSP source brings, for those who play it.
    pub(crate) stage: Arc<Stage>,
}

/// The presentation of a flow's RTSP source, once there is one; the last one stays when the source is lost.
#[derive(Debug, Default)]
pub(crate) struct Stage(watch::Sender<Option<Arc<Presentation>>>);

impl Stage {
    /// What there is to play.
    pub(crate) fn current(&self) -> Option<Arc<Presentation>> {
        self.0.borrow().clone()
    }

    /// Another presentation, or the same again, which nobody notices.
    pub(crate) fn set(&self, presentation: &Arc<Presentation>) {
        self.0.send_if_modified(|current| {
            let changed = current.as_ref() != Some(presentation);
            if changed {
                *current = Some(presentation.clone());
            }
            changed
        });
    }

    /// Waits for a presentation other than this.
    async fn other_than(&self, known: Option<&Arc<Presentation>>) {
        // The sender is here: it does not go away.
        let _ = self.0.subscribe().wait_for(|current| current.is_some() && current.as_ref() != known).await;
    }
}

impl SourceContext {
    /// Tells the host what the media consists of.
    fn describe(&self, description: String) {
        self.status.media.store(Some(Arc::new(description.clone())));
        self.events.emit(Event::MediaDescribed { source: self.status.name(), description });
    }
}

/// Waits for a moment; for ever, if there is none.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Fills a buffer with the system's randomness.
fn random(bytes: &mut [u8]) {
    // Without it no engine and no port would have started.
    let _ = getrandom::fill(bytes);
}
