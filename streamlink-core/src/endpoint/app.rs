//! Media in the host's own process: a source into which the host pushes packets, and a tap that hands it every packet.

use super::{
    LossReason, SourceContext, Status,
    ingest::{Ingest, Verdict},
};
use crate::{
    lock::{self, lock},
    media::{
        MediaFamily, Packet,
        rtp::{Header, NotRtp},
        rtsp::Presentation,
    },
    router::{Batch, Reader, ReaderCloser, State},
};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::Instant,
};
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// Maximum size of a pushed packet, in bytes. Longer RTMP messages are refused from the network too.
const MAX_PACKET: usize = 16 * 1024 * 1024;

/// Maximum number of bytes that a tap takes out of the flow's ring at once, or one batch if that is larger. The tap
/// holds them in addition to the ring.
const WINDOW: u64 = 1 << 20;
/// Maximum number of packets of one [`AppSource::push_all`] that enter the flow together.
const MAX_STAGED: usize = 1024;

/// Pushes packets into a flow. Cheap to clone; may be used from any thread, and from within everything that this
/// library calls: wakers, a logger, and release functions that run when the bytes of a packet are dropped.
/// ```
/// use std::time::Instant;
/// use streamlink_core::{Bitrate, Engine, Flow, Output, Packet, Source};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new()?;
/// let flow = Flow::builder("generated", Bitrate::mbps(20))
///     .source(Source::app_datagrams("generator"))
///     .output(Output::tap("monitor"))
///     .build()?;
/// engine.block_on(async {
///     let running = engine.start(flow).await?;
///     let source = running.app_source("generator")?;
///     let mut tap = running.tap("monitor")?;
///     source.push(Packet::datagram(vec![0x47; 1316], Instant::now()))?;
///     let packet = tap.next().await.ok_or("the flow runs")?;
///     assert_eq!(packet.data().len(), 1316);
///     running.stop().await;
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AppSource {
    family: MediaFamily,
    context: SourceContext,
    ingest: Arc<Mutex<Ingest>>,
    /// Buffer for packets taken from the host's iterator, reused between calls.
    staging: Arc<Mutex<Vec<Packet>>>,
}

/// Reason why a packet was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The flow is at its maximum bandwidth (policy `Drop`), and this packet was counted as dropped. Later packets may
    /// pass.
    #[error("the flow is at its maximum bandwidth")]
    Full,
    /// The flow has stopped, or its policy `Disconnect` has ended this source.
    #[error("the flow takes no more packets")]
    Closed,
    /// The packet is of another family than the source.
    #[error("a packet of family {found} was pushed into a source of family {expected}")]
    Family {
        /// Family of the packet.
        found: MediaFamily,
        /// Family of the source.
        expected: MediaFamily,
    },
    /// The packet is not a valid RTP packet, or is larger than 16 MiB.
    #[error("the packet is malformed")]
    Malformed,
}

impl AppSource {
    pub(crate) fn new(family: MediaFamily, context: SourceContext) -> Self {
        let ingest = Ingest::new(context.clone(), Instant::now());
        Self { family, context, ingest: Arc::new(Mutex::new(ingest)), staging: Arc::default() }
    }

    /// Returns the family of the packets that this source accepts.
    pub fn family(&self) -> MediaFamily {
        self.family
    }

    /// Sets the SDP (RFC 8866) of a source of family RTSP, whose media sections number the tracks. Players can connect
    /// from then on. A different SDP ends the sessions of connected players.
    ///
    /// # Errors
    /// [`PushError::Family`] for a source of another family, [`PushError::Malformed`] for an SDP that cannot be read.
    pub fn set_sdp(&self, sdp: &str) -> Result<(), PushError> {
        if self.family != MediaFamily::Rtsp {
            return Err(PushError::Family { found: MediaFamily::Rtsp, expected: self.family });
        }
        let presentation = Presentation::parse(sdp.as_bytes()).map_err(|_| PushError::Malformed)?;
        let presentation = Arc::new(presentation);
        lock(&self.ingest).begin_presentation(&presentation);
        self.context.describe(presentation.description());
        Ok(())
    }

    /// Pushes one packet into the flow, and so to all its outputs. Never blocks.
    ///
    /// # Errors
    /// See [`PushError`]; the packet is then gone, and the flow goes on.
    pub fn push(&self, packet: Packet) -> Result<(), PushError> {
        self.check(&packet)?;
        self.take_in(std::iter::once(packet))
    }

    /// Pushes several packets into the flow at once, which costs less than pushing them one by one. Refused packets are
    /// left out. Packets that other threads push meanwhile may come in between if there are more than 1024.
    ///
    /// # Errors
    /// The first refusal, after all packets were offered.
    pub fn push_all(&self, packets: impl IntoIterator<Item = Packet>) -> Result<(), PushError> {
        lock::assert_unlocked();
        // The iterator is the host's code, and so is the release function of a refused packet. No lock is held while
        // they run.
        let mut staged = std::mem::take(&mut *lock(&self.staging));
        let mut packets = packets.into_iter();
        let mut result = Ok(());
        loop {
            let mut is_end = true;
            for packet in packets.by_ref() {
                match self.check(&packet) {
                    Ok(()) => staged.push(packet),
                    Err(error) => result = result.and(Err(error)),
                }
                if staged.len() >= MAX_STAGED {
                    is_end = false;
                    break;
                }
            }
            if !staged.is_empty() {
                result = result.and(self.take_in(staged.drain(..)));
            }
            if is_end {
                break;
            }
        }
        *lock(&self.staging) = staged;
        result
    }

    /// Validates one packet, before any lock is taken.
    fn check(&self, packet: &Packet) -> Result<(), PushError> {
        let counters = &self.context.status.counters;
        if self.context.stop.is_cancelled() || counters.state() == State::Failed {
            return Err(PushError::Closed);
        }
        if packet.family() != self.family {
            return Err(PushError::Family { found: packet.family(), expected: self.family });
        }
        let good = match (self.family, Header::parse(packet.data())) {
            (MediaFamily::Rtp, result) => result.is_ok(),
            (MediaFamily::Rtsp, result) => result != Err(NotRtp::Malformed),
            _ => true,
        };
        if packet.data().len() > MAX_PACKET || !good {
            counters.malformed.add(1);
            return Err(PushError::Malformed);
        }
        Ok(())
    }

    /// Admits validated packets to the flow.
    fn take_in(&self, packets: impl Iterator<Item = Packet>) -> Result<(), PushError> {
        let mut ingest = lock(&self.ingest);
        ingest.refresh();
        let now = Instant::now();
        let mut result = Ok(());
        for packet in packets {
            result = result.and(self.admit(&mut ingest, packet, now));
        }
        ingest.publish(now, None);
        if result == Err(PushError::Closed) && ingest.last_media().is_some() && !self.context.stop.is_cancelled() {
            ingest.lose(now, LossReason::BandwidthExceeded);
            self.context.status.counters.set_state(State::Failed, now);
        }
        result
    }

    fn admit(&self, ingest: &mut Ingest, packet: Packet, now: Instant) -> Result<(), PushError> {
        if self.context.stop.is_cancelled() || self.context.status.counters.state() == State::Failed {
            return Err(PushError::Closed);
        }
        let verdict = match self.family {
            MediaFamily::Rtmp | MediaFamily::Rtsp => ingest.message(now, packet),
            _ => match ingest.admit(now, packet.data().len()) {
                Verdict::Pass => {
                    ingest.out.packets.push(packet);
                    Verdict::Pass
                }
                refused => refused,
            },
        };
        match verdict {
            Verdict::Pass => Ok(()),
            Verdict::Drop => Err(PushError::Full),
            Verdict::Disconnect => Err(PushError::Closed),
        }
    }
}

/// Receives every packet of a flow, sharing the bytes with all outputs.
///
/// A tap starts at the start of the flow, or at the point where it was added. A host that is slower than the source
/// loses the oldest packets, and the output's `dropped` counts them. A tap is also a [`futures_core::Stream`].
///
/// A tap holds 1 MiB of packets, or one batch, in addition to what the flow holds. A host that keeps packets for longer
/// than a moment should keep them [`detached`](Packet::detached), since one packet may keep up to 128 KiB of memory
/// shared with other packets alive.
/// See [`AppSource`] for an example. [`Tap::for_each`] calls the host instead:
///
/// ```
/// use std::sync::mpsc;
/// use streamlink_core::{Bitrate, Engine, Flow, Output, Source};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new()?;
/// let flow = Flow::builder("match-day", Bitrate::mbps(20))
///     .source(Source::rtp("venue", "127.0.0.1:0"))
///     .output(Output::tap("recorder"))
///     .build()?;
/// let running = engine.block_on(engine.start(flow))?;
/// let (packets, recorder) = mpsc::channel();
/// let callback = running.tap("recorder")?.for_each(move |packet| {
///     let _ = packets.send(packet.detached()); // the recorder has ended
/// });
/// # drop(recorder);
/// engine.block_on(callback.stop());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tap {
    reader: Reader,
    status: Arc<Status>,
    tasks: Tasks,
    /// Batches read from the ring, the oldest last.
    window: Vec<Arc<Batch>>,
    /// Batch from which packets are taken one by one.
    current: Option<PacketBatch>,
}

/// Packets of a tap that arrived together, shared with all outputs.
#[derive(Clone, Debug)]
pub struct PacketBatch {
    batch: Arc<Batch>,
    first: usize,
}

impl PacketBatch {
    /// Returns the packets that a receiver which begins with this batch needs before it, such as codec headers, if it can
    /// begin here: media of the families `Rtmp` and `Rtsp` that begins with a key frame. `None` anywhere else, and when
    /// packets of the batch were taken one by one.
    pub fn preamble(&self) -> Option<&[Packet]> {
        self.batch.start().filter(|_| self.first == 0).map(|preamble| &**preamble)
    }

    fn take_first(&mut self) -> Option<Packet> {
        let packet = self.first().cloned();
        self.first += usize::from(packet.is_some());
        packet
    }
}

impl std::ops::Deref for PacketBatch {
    type Target = [Packet];

    fn deref(&self) -> &[Packet] {
        self.batch.packets().get(self.first..).unwrap_or_default()
    }
}

/// Runtime of the tasks of a flow, with the tracker that waits for their end.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    pub(crate) runtime: Handle,
    pub(crate) tracker: TaskTracker,
}

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tracker.spawn_on(lock::task(task), &self.runtime)
    }
}

impl Tap {
    pub(crate) fn new(reader: Reader, status: Arc<Status>, tasks: Tasks) -> Self {
        Self { reader, status, tasks, window: Vec::new(), current: None }
    }

    /// Returns the next packet. `None` when the flow has stopped or the tap was removed, and all packets before that
    /// have been handed over.
    pub async fn next(&mut self) -> Option<Packet> {
        poll_fn(|cx| self.poll_packet(cx)).await
    }

    /// Returns the next packet, if there is one now.
    pub fn try_next(&mut self) -> Option<Packet> {
        match self.poll_packet(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(packet) => packet,
            Poll::Pending => None,
        }
    }

    /// Returns the next packets that arrived together, which costs less than one by one. `None` as for [`Tap::next`].
    pub async fn next_batch(&mut self) -> Option<PacketBatch> {
        poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// Returns the next packets that arrived together, if there are any now.
    pub fn try_next_batch(&mut self) -> Option<PacketBatch> {
        match self.poll_batch(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(batch) => batch,
            Poll::Pending => None,
        }
    }

    /// Returns whether the flow has stopped or the tap was removed. Earlier packets can still be read.
    pub fn is_closed(&self) -> bool {
        self.reader.is_closed()
    }

    /// Calls `callback` with every packet, on the engine's runtime, until the flow stops or the result is dropped.
    ///
    /// The callback should return soon. It runs on a thread that other tasks need too, and while it runs, packets queue
    /// up and may be lost to this tap. Stopping the flow waits for it.
    pub fn for_each(mut self, mut callback: impl FnMut(Packet) + Send + 'static) -> TapCallback {
        let tasks = self.tasks.clone();
        let closer = self.reader.closer();
        let task = tasks.spawn(async move {
            while let Some(packet) = self.next().await {
                lock::assert_unlocked();
                callback(packet);
            }
        });
        TapCallback { closer, task: Some(task) }
    }

    fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        loop {
            if let Some(packet) = self.current.as_mut().and_then(PacketBatch::take_first) {
                return Poll::Ready(Some(packet));
            }
            self.current = None;
            match ready!(self.poll_batch(cx)) {
                Some(batch) => self.current = Some(batch),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<PacketBatch>> {
        if let Some(rest) = self.current.take().filter(|batch| !batch.is_empty()) {
            return Poll::Ready(Some(rest));
        }
        if self.window.is_empty() {
            if ready!(self.reader.poll_ready(cx)).is_err() {
                return Poll::Ready(None);
            }
            let lost = self.reader.read_some(WINDOW, &mut self.window);
            self.window.reverse(); // packets are taken from the end
            let read = Batch::totals(&self.window);
            self.status.counters.dropped.add(lost.packets);
            let now = self.window.first().and_then(|newest| newest.arrival());
            self.status.counters.passed(now.unwrap_or_else(Instant::now), read.packets, read.bytes);
        }
        Poll::Ready(self.window.pop().map(|batch| PacketBatch { batch, first: 0 }))
    }
}

impl futures_core::Stream for Tap {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        self.poll_packet(cx)
    }
}

/// Callback of a tap, see [`Tap::for_each`]. Dropping it ends the calls, after the one that may be running.
#[derive(Debug)]
pub struct TapCallback {
    closer: ReaderCloser,
    task: Option<JoinHandle<()>>,
}

impl TapCallback {
    /// Ends the calls, and waits until the last one has returned. It does not wait if the library runs the caller, for
    /// example if that is this callback.
    pub async fn stop(mut self) {
        self.closer.close();
        if let Some(task) = self.task.take()
            && !lock::is_on_task()
        {
            let _ = task.await; // a callback that panicked has ended too
        }
    }
}

impl Drop for TapCallback {
    fn drop(&mut self) {
        self.closer.close();
    }
}
