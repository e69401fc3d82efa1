//! Ring of the most recent batches of a flow, which every output reads at its own pace.
//!
//! A source publishes batches. An output has a [`Reader`], which is a position in the ring. Handing a packet to a
//! thousand outputs is therefore one entry in one ring: there is no queue for each output, no copy, and no memory for
//! an output that keeps up. A batch is dropped when every reader has passed it, or when the ring exceeds its bound in
//! bytes or time. Readers that have not passed a dropped batch have lost it, oldest packets first, and are told how
//! many packets and bytes. The source never waits.

use super::{
    MediaBatch,
    layout::{BatchLayout, LayoutInterests},
};
use crate::{
    lock::{self, Guard, lock},
    media::Packet,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Maximum number of read batches that are retained for reuse.
const MAX_SPARE: usize = 64;
/// Maximum total capacity of the batches retained for reuse, in packets of 56 bytes.
const MAX_SPARE_ROOM: usize = 2048;

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

/// Packets that a reader must send before the batch where it starts, such as codec headers.
pub(crate) type Preamble = Arc<[Packet]>;

/// Number of packets and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    fn since(self, earlier: Totals) -> Totals {
        Totals {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// Packets that were published together. Never empty.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    packets: Vec<Packet>,
    sequence: u64,
    bytes: u64,
    /// Totals of the ring before this batch.
    before: Totals,
    /// Preamble, if a reader may start at this batch.
    start: Option<Preamble>,
    /// Preamble and maximum wait, if a reader that has found no entry point for that time may start at this batch.
    fallback: Option<(Preamble, Duration)>,
    /// All packets in one buffer, framed for a connection.
    framed_bytes: Option<Bytes>,
}

impl Batch {
    /// Returns the totals of several batches.
    pub(crate) fn totals(batches: &[Arc<Batch>]) -> Totals {
        batches.iter().fold(Totals::default(), |sum, batch| Totals {
            packets: sum.packets + batch.packets.len() as u64,
            bytes: sum.bytes + batch.bytes,
        })
    }

    pub(crate) fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Returns all packets in one buffer, framed for a connection, if enough outputs are interested in that layout.
    pub(crate) fn framed_bytes(&self) -> Option<&Bytes> {
        self.framed_bytes.as_ref()
    }

    /// Returns the totals of this batch.
    pub(crate) fn total(&self) -> Totals {
        Totals { packets: self.packets.len() as u64, bytes: self.bytes }
    }

    /// Returns the preamble of a reader that starts at this batch, or `None` if no reader can start here.
    pub(crate) fn start(&self) -> Option<&Preamble> {
        self.start.as_ref()
    }

    /// Returns the preamble of a reader that starts at this batch: one that has waited for an entry point since
    /// `waits_since`.
    pub(crate) fn start_after(&self, waits_since: Option<Instant>) -> Option<&Preamble> {
        self.start.as_ref().or_else(|| {
            let (preamble, wait) = self.fallback.as_ref()?;
            let waited = self.arrival()?.saturating_duration_since(waits_since?);
            (waited >= *wait).then_some(preamble)
        })
    }

    /// Returns the arrival time of the last packet. Readers use it as the current time, which saves a clock read.
    pub(crate) fn arrival(&self) -> Option<Instant> {
        self.packets.last().map(Packet::arrival)
    }

    /// Returns the sequence number of this batch in its ring.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the sequence number of the first packet in its ring.
    pub(crate) fn first_packet(&self) -> u64 {
        self.before.packets
    }
}

/// Most recent batches of a flow. The fields here and below are in order of use, so that each batch touches few cache
/// lines: with many flows, the ring is not in the cache.
#[derive(Debug)]
#[repr(C, align(64))]
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
#[repr(C)]
struct Inner {
    /// Sequence number of the oldest retained batch.
    first: u64,
    totals: Totals,
    /// Maximum number of bytes since the last entry point that are retained for future readers.
    keep: u64,
    batches: VecDeque<Arc<Batch>>,
    readers: Vec<Slot>,
    /// Sequence number of the last batch where a reader may start, and the totals before it.
    start: Option<(u64, Totals)>,
    bytes: u64,
    limits: Limits,
    spare: Vec<Arc<Batch>>,
    /// Total capacity of the spare batches, in packets.
    spare_room: usize,
}

/// State of one reader.
#[derive(Debug)]
struct Slot {
    /// Sequence number of the reader's next batch; `u64::MAX` if the slot is free.
    position: u64,
    waker: Option<Waker>,
}

const FREE: u64 = u64::MAX;

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
                limits,
                spare: Vec::new(),
                spare_room: 0,
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
    pub(crate) fn deliver(&self, delivery: &mut MediaBatch) {
        let (mut done, mut start, mut fallback) = (0, None, None);
        let fallbacks = std::mem::take(&mut delivery.fallbacks);
        let fallbacks = fallbacks.into_iter().map(|(at, preamble)| (at, false, preamble));
        let mut marks: Vec<_> = delivery.starts.drain(..).map(|(at, preamble)| (at, true, preamble)).collect();
        marks.extend(fallbacks);
        marks.sort_by_key(|(at, ..)| *at);
        for (at, is_start, preamble) in marks {
            if at > done {
                let rest = delivery.packets.split_off(at - done);
                self.publish_batch(&mut delivery.packets, start.take(), fallback.take());
                delivery.packets = rest;
                done = at;
            }
            if is_start {
                start = Some(preamble);
            } else {
                fallback = Some((preamble, self.entry_wait()));
            }
        }
        self.publish_batch(&mut delivery.packets, start, fallback);
        delivery.lacks_media = false;
    }

    /// Publishes packets as one batch. With a preamble, a reader may start at it. Leaves `packets` empty, with the
    /// capacity of an earlier batch.
    fn publish_batch(
        &self,
        packets: &mut Vec<Packet>,
        start: Option<Preamble>,
        fallback: Option<(Preamble, Duration)>,
    ) {
        let Some(newest) = packets.last().map(Packet::arrival) else { return };
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
        if start.is_some() {
            inner.start = Some((sequence, before));
        }
        let batch =
            inner.fill(packets, Batch { sequence, bytes, before, start, fallback, framed_bytes, ..Batch::default() });
        inner.batches.push_back(batch);
        let (keep, totals) = (inner.keep, inner.totals);
        inner.start = inner.start.filter(|(_, before)| {
            let since = totals.since(*before);
            since.bytes <= keep && since.packets <= most_packets(keep)
        });
        let kept = inner.start.map_or(FREE, |(sequence, _)| sequence);
        self.head.store(sequence + 1, Ordering::Release);
        let slowest = inner.readers.iter().map(|slot| slot.position).min().unwrap_or(FREE);
        let most = most_packets(inner.limits.bytes);
        while let Some(oldest) = inner.batches.front() {
            let old = oldest.arrival().map(|arrival| newest.saturating_duration_since(arrival));
            let read = oldest.sequence < slowest;
            let over = inner.bytes > inner.limits.bytes
                || totals.since(oldest.before).packets > most
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
        let (position, seen) = (inner.first + inner.batches.len() as u64, inner.totals);
        self.reader_at(&mut inner, position, seen)
    }

    /// Returns a reader that starts at the last entry point if at most `bytes` have been published since; otherwise it
    /// starts with the next batch.
    pub(crate) fn reader_from_start(self: &Arc<Self>, bytes: u64) -> Reader {
        let mut inner = self.lock();
        let (next, totals) = (inner.first + inner.batches.len() as u64, inner.totals);
        let start = inner.start.filter(|(_, before)| totals.since(*before).bytes <= bytes);
        let (position, seen) = start.unwrap_or((next, totals));
        self.reader_at(&mut inner, position, seen)
    }

    fn reader_at(self: &Arc<Self>, inner: &mut Inner, position: u64, seen: Totals) -> Reader {
        let fresh = Slot { position, waker: None };
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

    /// Creates a batch, in the memory of a spare one if there is one.
    fn fill(&mut self, packets: &mut Vec<Packet>, mut batch: Batch) -> Arc<Batch> {
        if let Some(mut spare) = self.spare.pop()
            && let Some(old) = Arc::get_mut(&mut spare)
        {
            self.spare_room = self.spare_room.saturating_sub(old.packets.capacity());
            std::mem::swap(&mut old.packets, packets);
            std::mem::swap(&mut old.packets, &mut batch.packets);
            *old = batch;
            return spare;
        }
        std::mem::swap(&mut batch.packets, packets);
        Arc::new(batch)
    }

    fn drop_oldest(&mut self) {
        let Some(mut oldest) = self.batches.pop_front() else { return };
        self.first += 1;
        self.bytes = self.bytes.saturating_sub(oldest.bytes);
        // The last reader that holds a batch frees it, so only an unshared batch can be reused.
        let room = self.spare_room + oldest.packets.capacity();
        if self.spare.len() < MAX_SPARE
            && room <= MAX_SPARE_ROOM
            && let Some(batch) = Arc::get_mut(&mut oldest)
        {
            self.spare_room = room;
            batch.packets.clear();
            batch.start = None;
            batch.fallback = None;
            batch.framed_bytes = None;
            self.spare.push(oldest);
        }
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

/// Reader of a ring: a position in its sequence of batches.
#[derive(Debug)]
pub(crate) struct Reader {
    ring: Arc<Ring>,
    slot: usize,
    position: u64,
    seen: Totals,
    closed: Arc<AtomicBool>,
}

/// Handle that closes one reader.
#[derive(Debug)]
pub(crate) struct ReaderCloser {
    ring: Arc<Ring>,
    slot: usize,
    closed: Arc<AtomicBool>,
}

impl ReaderCloser {
    /// Closes the reader, which ends when it has read the remaining batches.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // The slot may belong to another reader by now, which then wakes once without need.
        let waker = self.ring.lock().readers[self.slot].waker.take();
        if let Some(waker) = waker {
            lock::wake(waker);
        }
    }
}

impl Reader {
    pub(crate) fn closer(&self) -> ReaderCloser {
        ReaderCloser { ring: self.ring.clone(), slot: self.slot, closed: self.closed.clone() }
    }

    /// Registers an interest in a layout; see [`Ring::layout_interest`].
    pub(crate) fn layout_interest(&self, layout: BatchLayout) -> LayoutInterest {
        self.ring.layout_interest(layout)
    }

    /// Returns true if the ring or this reader is closed. The reader ends once it has read the remaining batches.
    pub(crate) fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }

    /// Polls for a batch to read. Returns `Err` if the ring or this reader is closed and all batches have been read.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if self.has_more() {
            return Poll::Ready(Ok(()));
        }
        let mut waker = None;
        loop {
            let mut inner = self.ring.lock();
            if self.has_more() {
                return Poll::Ready(Ok(()));
            }
            if self.is_closed() {
                return Poll::Ready(Err(Closed));
            }
            let slot = &mut inner.readers[self.slot];
            if slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if waker.is_some() {
                lock::drop_waker(std::mem::replace(&mut slot.waker, waker));
                return Poll::Pending;
            }
            // Cloning a waker may run host code, so it is done outside the lock.
            drop(inner);
            waker = Some(cx.waker().clone());
        }
    }

    /// Returns true if a batch can be read now.
    pub(crate) fn has_more(&self) -> bool {
        self.ring.head.load(Ordering::Acquire) > self.position
    }

    /// Waits for a batch to read.
    pub(crate) async fn ready(&mut self) -> Result<(), Closed> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Appends all new batches to `window`. Returns the packets lost before the first of them.
    pub(crate) fn read(&mut self, window: &mut Vec<Arc<Batch>>) -> Totals {
        self.read_up_to(usize::MAX, u64::MAX, window)
    }

    /// Returns the sequence number of the first batch of the present stream: the stream of a source ended before it. All
    /// batches before it have been read if it is not above [`Reader::position`].
    pub(crate) fn stream_start(&self) -> u64 {
        self.ring.stream_start.load(Ordering::Acquire)
    }

    /// Appends new batches to `window` until they hold at least `bytes` together or none are left. Returns the packets
    /// lost before the first of them.
    pub(crate) fn read_some(&mut self, bytes: u64, window: &mut Vec<Arc<Batch>>) -> Totals {
        self.read_up_to(usize::MAX, bytes, window)
    }

    /// Returns the next batch and the packets lost before it, for a reader that may hold the batch for long.
    pub(crate) fn read_one(&mut self) -> (Option<Arc<Batch>>, Totals) {
        let mut one = Vec::with_capacity(1);
        let lost = self.read_up_to(1, u64::MAX, &mut one);
        (one.pop(), lost)
    }

    fn read_up_to(&mut self, most: usize, bytes: u64, window: &mut Vec<Arc<Batch>>) -> Totals {
        let mut inner = self.ring.lock();
        let mut lost = Totals::default();
        if self.position < inner.first {
            let oldest = inner.batches.front().map_or(inner.totals, |batch| batch.before);
            lost = oldest.since(self.seen);
            self.position = inner.first;
        }
        let skip = (self.position - inner.first) as usize; // never more than the batches in the ring
        let mut taken = 0u64;
        for batch in inner.batches.iter().skip(skip).take(most) {
            if taken >= bytes {
                break;
            }
            taken = taken.saturating_add(batch.bytes.max(1));
            window.push(batch.clone());
            self.position += 1;
        }
        let next = self.position - inner.first;
        self.seen = inner.batches.get(next as usize).map_or(inner.totals, |batch| batch.before);
        inner.readers[self.slot].position = self.position;
        lost
    }

    /// Returns a reader that starts at a batch that is still available, for an output that falls behind the others.
    pub(crate) fn fork(&self, from: &Batch) -> Reader {
        self.ring.reader_at(&mut self.ring.lock(), from.sequence, from.before)
    }

    /// Returns the number of packets between the position of an earlier reader and this one.
    pub(crate) fn missed_since(&self, earlier: &Reader) -> u64 {
        self.seen.since(earlier.seen).packets
    }

    /// Returns the sequence number of the next batch to read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let free = Slot { position: FREE, waker: None };
        lock::drop_waker(std::mem::replace(&mut self.ring.lock().readers[self.slot], free).waker);
        self.ring.reader_count.fetch_sub(1, Ordering::Release);
    }
}

/// Error of a reader that is closed and has read all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[cfg(test)]
mod tests;
