//! Ring of the most recent batches of a flow, which every output reads at its own pace.
//!
//! A source publishes batches. An output has a [`Reader`], which is a position in the ring. Handing a packet to a
//! thousand outputs is therefore one entry in one ring: there is no queue for each output, no copy, and no memory for
//! an output that keeps up. A batch is dropped when every reader has passed it, or when the ring exceeds its bound in
//! bytes or time. Readers that have not passed a dropped batch have lost it, oldest packets first, and are told how
//! many packets and bytes. The source never waits.

mod batch;
mod reader;
mod recycle;

pub(crate) use batch::{Batch, Preamble, Totals};
pub(crate) use reader::{Closed, Reader, ReaderCloser};

use super::{
    MediaBatch,
    layout::{BatchLayout, LayoutInterests},
};
use crate::{
    lock::{self, Guard, lock},
    media::Packet,
};
use recycle::SpareBatches;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

/// Default of [`Ring::set_entry_wait`].
pub(crate) const DEFAULT_ENTRY_WAIT: Duration = Duration::from_secs(3);

/// Approximate memory of a retained packet beside its bytes: its entry, its share of a batch, and the bookkeeping of
/// its allocation.
const PACKET_COST: u64 = 256;
/// Minimum packet bound, whatever the bound in bytes.
const MIN_PACKETS: u64 = 1024;

/// Returns the packet bound that goes with a bound in bytes. That many short or empty packets take about as much memory
/// again.
pub(super) fn most_packets(bytes: u64) -> u64 {
    (bytes / PACKET_COST).max(MIN_PACKETS)
}

/// Bounds of the media that the ring retains for lagging readers. Both hold, and so does the packet bound of
/// [`most_packets`]. The newest batch is always retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// Most recent batches of a flow.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Sequence number of the next batch, readable without the lock.
    head: AtomicU64,
    closed: AtomicBool,
    /// Number of readers, plus one if media is retained for future readers.
    reader_count: AtomicUsize,
    interests: LayoutInterests,
    /// Maximum time that a reader waits for an entry point, in milliseconds.
    entry_wait: AtomicU64,
    /// Sequence number of the first batch after the last end of a source's stream.
    stream_start: AtomicU64,
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Sequence number of the oldest retained batch.
    first: u64,
    totals: Totals,
    /// Maximum number of bytes since the last entry point that are retained for future readers.
    keep: u64,
    batches: VecDeque<Arc<Batch>>,
    readers: Vec<ReaderSlot>,
    /// Sequence number of the last batch where a reader may start, and the totals before it.
    start: Option<(u64, Totals)>,
    bytes: u64,
    /// Number of the retained bytes, and packets, that belong to bursts.
    burst_bytes: u64,
    burst_packets: u64,
    limits: Limits,
    spare: SpareBatches,
}

/// Circumstances of a publication.
#[derive(Clone, Copy, Debug)]
struct Published {
    /// Arrival of the newest packet.
    newest: Instant,
    /// The media has taken more than [`BURST`] to arrive.
    in_burst: bool,
}

/// State of one reader.
#[derive(Debug)]
struct ReaderSlot {
    /// Sequence number of the reader's next batch; `u64::MAX` if the slot is free.
    position: u64,
    waker: Option<Waker>,
}

const FREE: u64 = u64::MAX;

/// Maximum time that the media of a delivery has taken to arrive, unless it is a burst.
const BURST: Duration = Duration::from_millis(100);
/// Maximum number of bytes of bursts that do not count towards the size of the ring: what a backup holds at most. The
/// packets of bursts do not count either, as many as go with it.
const MAX_BURST_BYTES: u64 = 16 << 20;

impl Ring {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            reader_count: AtomicUsize::new(0),
            interests: LayoutInterests::default(),
            entry_wait: AtomicU64::new(DEFAULT_ENTRY_WAIT.as_millis() as u64),
            stream_start: AtomicU64::new(0),
            state: Mutex::new(Inner {
                first: 0,
                totals: Totals::default(),
                keep: 0,
                batches: VecDeque::new(),
                readers: Vec::new(),
                start: None,
                bytes: 0,
                burst_bytes: 0,
                burst_packets: 0,
                limits,
                spare: SpareBatches::default(),
            }),
        })
    }

    fn lock(&self) -> Guard<'_, Inner> {
        // Invariant: no code panics while it holds the lock. If it did, the ring would still be consistent.
        lock(&self.state)
    }

    /// Registers the interest of an output in a layout of the batches.
    pub(crate) fn layout_interest(self: &Arc<Self>, layout: BatchLayout) -> LayoutInterest {
        self.interests.add(layout);
        LayoutInterest(self.clone(), layout)
    }

    /// Returns the number of outputs that save something when packets are published together.
    pub(crate) fn interested_outputs(&self) -> usize {
        self.interests.outputs()
    }

    /// Changes the bounds, from the next batch on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Sets the time for which players that join, and a backup that takes over, wait for an entry point.
    pub(crate) fn set_entry_wait(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.entry_wait.store(millis, Ordering::Relaxed);
    }

    /// Returns the time set by [`Ring::set_entry_wait`].
    pub(crate) fn entry_wait(&self) -> Duration {
        Duration::from_millis(self.entry_wait.load(Ordering::Relaxed))
    }

    /// Ends the stream of a source: future readers wait for the next entry point, and get nothing that is past.
    pub(crate) fn end_gop(&self) {
        let mut inner = self.lock();
        self.stream_start.store(inner.first + inner.batches.len() as u64, Ordering::Release);
        inner.start = None;
        let slowest = inner.readers.iter().map(|slot| slot.position).min().unwrap_or(FREE);
        while inner.batches.front().is_some_and(|oldest| oldest.sequence < slowest) {
            inner.drop_oldest();
        }
    }

    /// Retains the media since the last entry point for future readers, up to `bytes`. The largest value ever requested
    /// holds.
    pub(crate) fn retain_gop(&self, bytes: u64) {
        let mut inner = self.lock();
        if inner.keep == 0 && bytes > 0 {
            self.reader_count.fetch_add(1, Ordering::Release);
        }
        inner.keep = inner.keep.max(bytes);
    }

    /// Returns true if the ring has readers, or retains media for future readers.
    pub(crate) fn has_readers(&self) -> bool {
        self.reader_count.load(Ordering::Acquire) > 0
    }

    /// Publishes the media of a source, in batches that begin where readers may start. Leaves `delivery` empty.
    ///
    /// A backup that takes over brings its last group of pictures at once, which may have begun to arrive earlier than the
    /// ring holds media, and be larger than it. It has the same time to be read as other media, counted from now on, and
    /// does not count towards the size of the ring, up to [`MAX_BURST_BYTES`].
    pub(crate) fn deliver(&self, delivery: &mut MediaBatch) {
        let mut done = 0;
        let mut start = None;
        let mut fallback = None;
        let arrivals = delivery.packets.first().map(Packet::arrival).zip(delivery.packets.last().map(Packet::arrival));
        let Some((oldest, newest)) = arrivals else { return delivery.clear() };
        let published = Published { newest, in_burst: newest.saturating_duration_since(oldest) > BURST };
        let fallbacks = std::mem::take(&mut delivery.fallbacks);
        let fallbacks = fallbacks.into_iter().map(|(at, preamble)| (at, false, preamble));
        let mut marks: Vec<_> = delivery.starts.drain(..).map(|(at, preamble)| (at, true, preamble)).collect();
        marks.extend(fallbacks);
        marks.sort_by_key(|(at, ..)| *at);
        for (at, is_start, preamble) in marks {
            if at > done {
                let rest = delivery.packets.split_off(at - done);
                self.publish_batch(&mut delivery.packets, start.take(), fallback.take(), published);
                delivery.packets = rest;
                done = at;
            }
            if is_start {
                start = Some(preamble);
            } else {
                fallback = Some((preamble, self.entry_wait()));
            }
        }
        self.publish_batch(&mut delivery.packets, start, fallback, published);
        delivery.lacks_media = false;
    }

    /// Publishes packets as one batch. With a preamble, a reader may start at it. Leaves `packets` empty, with the
    /// capacity of an earlier batch.
    fn publish_batch(
        &self,
        packets: &mut Vec<Packet>,
        start: Option<Preamble>,
        fallback: Option<(Preamble, Duration)>,
        Published { newest, in_burst }: Published,
    ) {
        if packets.is_empty() {
            return;
        }
        let bytes = packets.iter().map(|p| p.data().len() as u64).sum();
        let framed_bytes = self.interests.lay_out(packets);
        let mut inner = self.lock();
        if inner.skip(packets.len() as u64, bytes) {
            self.head.store(inner.first, Ordering::Release);
            // The memory is freed, not retained: a new allocation then gets recently freed memory, which is still in
            // the cache.
            drop(inner);
            drop(std::mem::take(packets));
            return;
        }
        let sequence = inner.first + inner.batches.len() as u64;
        let before = inner.totals;
        inner.totals.packets += packets.len() as u64;
        inner.totals.bytes += bytes;
        inner.bytes += bytes;
        if in_burst {
            inner.burst_bytes += bytes;
            inner.burst_packets += packets.len() as u64;
        }
        if start.is_some() {
            inner.start = Some((sequence, before));
        }
        let batch = Batch {
            sequence,
            bytes,
            published: Some(newest),
            in_burst,
            before,
            start,
            fallback,
            framed_bytes,
            ..Batch::default()
        };
        let batch = inner.spare.fill(packets, batch);
        inner.batches.push_back(batch);
        let keep = inner.keep;
        let totals = inner.totals;
        inner.start = inner.start.filter(|(_, before)| {
            let since = totals.since(*before);
            since.bytes <= keep && since.packets <= most_packets(keep)
        });
        let kept = inner.start.map_or(FREE, |(sequence, _)| sequence);
        self.head.store(sequence + 1, Ordering::Release);
        let slowest = inner.readers.iter().map(|slot| slot.position).min().unwrap_or(FREE);
        let most = most_packets(inner.limits.bytes);
        let exempt = most_packets(MAX_BURST_BYTES);
        while let Some(oldest) = inner.batches.front() {
            let old = oldest.published.map(|published| newest.saturating_duration_since(published));
            let read = oldest.sequence < slowest;
            let over = inner.bytes.saturating_sub(inner.burst_bytes.min(MAX_BURST_BYTES)) > inner.limits.bytes
                || totals.since(oldest.before).packets.saturating_sub(inner.burst_packets.min(exempt)) > most
                || old.is_some_and(|age| age > inner.limits.time);
            let goes = read || (over && inner.batches.len() > 1);
            if !goes || oldest.sequence >= kept {
                break;
            }
            inner.drop_oldest();
        }
        drop(inner);
        self.wake();
    }

    /// Closes the ring. Readers end when they have read the remaining batches.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes all waiting readers as soon as this thread holds no lock.
    fn wake(&self) {
        for slot in &mut self.lock().readers {
            if let Some(waker) = slot.waker.take() {
                lock::wake(waker);
            }
        }
    }

    /// Returns a reader that starts with the next batch.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        let mut inner = self.lock();
        let position = inner.first + inner.batches.len() as u64;
        let seen = inner.totals;
        self.reader_at(&mut inner, position, seen)
    }

    /// Returns a reader that starts at the last entry point if at most `bytes` have been published since; otherwise it
    /// starts with the next batch.
    pub(crate) fn reader_from_start(self: &Arc<Self>, bytes: u64) -> Reader {
        let mut inner = self.lock();
        let next = inner.first + inner.batches.len() as u64;
        let totals = inner.totals;
        let start = inner.start.filter(|(_, before)| totals.since(*before).bytes <= bytes);
        let (position, seen) = start.unwrap_or((next, totals));
        self.reader_at(&mut inner, position, seen)
    }

    fn reader_at(self: &Arc<Self>, inner: &mut Inner, position: u64, seen: Totals) -> Reader {
        let fresh = ReaderSlot { position, waker: None };
        self.reader_count.fetch_add(1, Ordering::Release);
        let slot = match inner.readers.iter().position(|slot| slot.position == FREE) {
            Some(free) => {
                inner.readers[free] = fresh;
                free
            }
            None => {
                inner.readers.push(fresh);
                inner.readers.len() - 1
            }
        };
        Reader { ring: self.clone(), slot, position, seen, closed: Arc::default() }
    }
}

impl Inner {
    /// Only counts a batch, and returns true, if there are no readers and no media is retained for future ones.
    fn skip(&mut self, packets: u64, bytes: u64) -> bool {
        let nobody = self.keep == 0 && self.batches.is_empty() && self.readers.iter().all(|s| s.position == FREE);
        if nobody {
            self.totals.packets += packets;
            self.totals.bytes += bytes;
            self.first += 1;
            self.start = None;
        }
        nobody
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.batches.pop_front() else { return };
        self.first += 1;
        self.bytes = self.bytes.saturating_sub(oldest.bytes);
        if oldest.in_burst {
            self.burst_bytes = self.burst_bytes.saturating_sub(oldest.bytes);
            self.burst_packets = self.burst_packets.saturating_sub(oldest.packets().len() as u64);
        }
        self.spare.keep(oldest);
    }
}

/// Interest of an output in a layout, for the lifetime of this value.
#[derive(Debug)]
pub(crate) struct LayoutInterest(Arc<Ring>, BatchLayout);

impl Drop for LayoutInterest {
    fn drop(&mut self) {
        self.0.interests.remove(self.1);
    }
}

#[cfg(test)]
mod tests;
