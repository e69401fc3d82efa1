//! Ring of FLV messages of a flow, from which outputs that send messages read. It is the flow's own ring if its sources
//! bring messages, and that of a remultiplexer otherwise.

use super::{Bandwidth, BandwidthSetting, EventSink, Tasks, WantedPrograms, remux};
use crate::{media::MediaFamily, router::Ring};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

pub(crate) use remux::RemuxStatus;

/// Ring of the messages of a flow.
#[derive(Debug)]
pub(crate) struct MessageRing {
    /// Ring of the flow.
    flow: Arc<Ring>,
    carries_messages: bool,
    events: EventSink,
    tasks: Tasks,
    wanted: WantedPrograms,
    /// Remultiplexer, which starts with its first reader.
    remux: OnceLock<Remux>,
}

/// Remultiplexer of a flow: the FLV messages found in its MPEG-TS.
#[derive(Debug)]
struct Remux {
    ring: Arc<Ring>,
    status: Arc<RemuxStatus>,
    /// Token that is cancelled when all messages are in the ring.
    done: CancellationToken,
}

impl MessageRing {
    /// `ring`: ring of a flow whose sources are of `family`.
    pub(crate) fn new(
        ring: Arc<Ring>,
        family: MediaFamily,
        wanted: WantedPrograms,
        events: EventSink,
        tasks: Tasks,
    ) -> Self {
        let carries_messages = family == MediaFamily::Rtmp;
        Self { flow: ring, carries_messages, events, tasks, wanted, remux: OnceLock::new() }
    }

    /// Returns the ring, and the status of the remultiplexer if that fills it.
    pub(super) fn ring(&self, bandwidth: &BandwidthSetting) -> (Arc<Ring>, Option<Arc<RemuxStatus>>) {
        if self.carries_messages {
            return (self.flow.clone(), None);
        }
        let remux = self.remux.get_or_init(|| {
            let ring = Ring::new(bandwidth.now().queue_limits());
            ring.set_entry_wait(self.flow.entry_wait());
            let status = Arc::<RemuxStatus>::default();
            let done = CancellationToken::new();
            let run =
                remux::run(self.flow.reader(), ring.clone(), self.events.clone(), status.clone(), self.wanted.clone());
            let end = done.clone().drop_guard();
            self.tasks.spawn(async move {
                run.await;
                drop(end);
            });
            Remux { ring, status, done }
        });
        // A concurrent change of the bandwidth may have run before the remultiplexer existed.
        bandwidth.change(|_| {}, |bandwidth| remux.ring.set_limits(bandwidth.queue_limits()));
        (remux.ring.clone(), Some(remux.status.clone()))
    }

    /// Applies a changed bandwidth.
    pub(crate) fn set_bandwidth(&self, bandwidth: Bandwidth) {
        if let Some(remux) = self.remux.get() {
            remux.ring.set_limits(bandwidth.queue_limits());
        }
    }

    /// Waits until all messages are in the ring, after the ring of the flow was closed.
    pub(crate) async fn finished(&self) {
        if let Some(remux) = self.remux.get() {
            remux.done.cancelled().await;
        }
    }
}
