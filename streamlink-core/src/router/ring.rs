//! The ring: what a flow's source has brought of late, read by every output at its own pace.
//!
//! A source publishes batches; an output has a [`Reader`], which is a position in the ring. So handing a packet
//! to a thousand outputs is one entry in one ring: no queue a output, no copy, and no memory for an output that
//! keeps up. A batch goes when every reader has passed it, or when the ring's bound in bytes or time is reached:
//! then the readers that are still before it have lost it, oldest packets first, and are told how much.
//! The source never waits.

use super::{
    MediaBatch,
    layout::{BatchLayout, LayoutInterests},
};
use crate::{lock::lock, media::Packet};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Batches that are kept for later use when they have been read.
const MAX_SPARE: usize = 64;
/// Packets for which these have room at most, all together: 56 bytes each.
const MAX_SPARE_ROOM: usize = 2048;
/// Readers that are woken between two locks.
const WAKE_AT_ONCE: usize = 32;

/// What a packet that is held costs beside its bytes, about: its place, its share of a batch, and how its memory is kept.
const PACKET_COST: u64 = 256;
/// Packets that any bound in bytes leaves room for.
const MIN_PACKETS: u64 = 1024;

/// The packets that go with a bound in bytes: so many short ones, or empty ones, cost as much again.
pub(super) fn most_packets(bytes: u64) -> u64 {
    (bytes / PACKET_COST).max(MIN_PACKETS)
}

/// How much the ring holds for readers that lag. Both bounds hold, and [`most_packets`] of the bytes; the newest batch is
/// always there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// What a reader that starts at a batch must be given first.
pub(crate) type Preamble = Arc<[Packet]>;

/// A count of packets and of their bytes.
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
    /// What was published before this batch.
    before: Totals,
    /// A reader may start here.
    start: Option<Preamble>,
    /// All of it, as it goes over a connection.
    framed_bytes: Option<Bytes>,
}

impl Batch {
    /// What several batches hold together.
    pub(crate) fn totals(batches: &[Arc<Batch>]) -> Totals {
        batches.iter().fold(Totals::default(), |sum, batch| Totals {
            packets: sum.packets + batch.packets.len() as u64,
            bytes: sum.bytes + batch.bytes,
        })
    }

    pub(crate) fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// All packets in one piece, as they go over a connection, if there are enough who want that.
    pub(crate) fn framed_bytes(&self) -> Option<&Bytes> {
        self.framed_bytes.as_ref()
    }

    /// What it holds.
    pub(crate) fn total(&self) -> Totals {
        Totals { packets: self.packets.len() as u64, bytes: self.bytes }
    }

    /// What a reader needs before it starts with this batch; `None`: it cannot start here.
    pub(crate) fn start(&self) -> Option<&Preamble> {
        self.start.as_ref()
    }

    /// When its last packet came in: what readers take for the time, which saves them a look at the clock.
    pub(crate) fn arrival(&self) -> Option<Instant> {
        self.packets.last().map(Packet::arrival)
    }

    /// The number of this batch in its ring.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of the first packet in its ring.
    pub(crate) fn first_packet(&self) -> u64 {
        self.before.packets
    }
}

/// What a flow's source has brought of late. In this order, here and below: where there are many flows, each is found
/// cold, and what every batch touches lies together.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Ring {
    /// The number of the batch that comes next; also readable without the lock.
    head: AtomicU64,
    closed: AtomicBool,
    /// Those who read; and one more, if something is kept for those who are still to come.
    audience: AtomicUsize,
    interests: LayoutInterests,
    state: Mutex<Inner>,
}

#[derive(Debug)]
#[repr(C)]
struct Inner {
    /// The number of the oldest batch that is kept.
    first: u64,
    totals: Totals,
    /// Bytes from the last start on that are kept for readers that are still to come, at most.
    keep: u64,
    batches: VecDeque<Arc<Batch>>,
    readers: Vec<Slot>,
    /// The last batch where a reader may start, and what was published before it.
    start: Option<(u64, Totals)>,
    bytes: u64,
    limits: Limits,
    spare: Vec<Arc<Batch>>,
    /// Packets for which the spare batches have room.
    spare_room: usize,
}

/// One reader, as the ring sees it.
#[derive(Debug)]
struct Slot {
    /// The next batch that it will read; `u64::MAX` when the slot is free.
    position: u64,
    waker: Option<Waker>,
}

const FREE: u64 = u64::MAX;

impl Ring {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            audience: AtomicUsize::new(0),
            interests: LayoutInterests::default(),
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Invariant: nothing panics while the lock is held; if it did, the ring would still be whole.
        lock(&self.state)
    }

    /// An output wants packets to be laid out so.
    pub(crate) fn layout_interest(self: &Arc<Self>, layout: BatchLayout) -> LayoutInterest {
        self.interests.add(layout);
        LayoutInterest(self.clone(), layout)
    }

    /// Changes the bounds; they hold from the next batch on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Keeps what has come since the last start, for readers that are still to come, if it is no more than so many
    /// bytes. What was asked for before still holds.
    pub(crate) fn keep_from_start(&self, bytes: u64) {
        let mut inner = self.lock();
        if inner.keep == 0 && bytes > 0 {
            self.audience.fetch_add(1, Ordering::Release);
        }
        inner.keep = inner.keep.max(bytes);
    }

    /// Whether what comes now is of use to anybody.
    pub(crate) fn is_heard(&self) -> bool {
        self.audience.load(Ordering::Acquire) > 0
    }

    /// Hands over what a source has brought, in batches that begin where readers may start. It comes back empty.
    pub(crate) fn deliver(&self, delivery: &mut MediaBatch) {
        let (mut done, mut start) = (0, None);
        for (at, preamble) in delivery.starts.drain(..) {
            if at > done {
                let rest = delivery.packets.split_off(at - done);
                self.publish_batch(&mut delivery.packets, start.take());
                delivery.packets = rest;
                done = at;
            }
            start = Some(preamble);
        }
        self.publish_batch(&mut delivery.packets, start);
    }

    /// Hands over packets as one batch, at which a reader may start that was given the preamble. `packets` comes back
    /// empty, with room from an earlier batch.
    fn publish_batch(&self, packets: &mut Vec<Packet>, start: Option<Preamble>) {
        let Some(newest) = packets.last().map(Packet::arrival) else { return };
        let bytes = packets.iter().map(|p| p.data().len() as u64).sum();
        let framed_bytes = self.interests.lay_out(packets);
        let mut inner = self.lock();
        if inner.pass_over(packets.len() as u64, bytes) {
            self.head.store(inner.first, Ordering::Release);
            // Memory that was used just now is sooner at hand than what was kept of the last batch.
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
        let batch = inner.fill(packets, Batch { sequence, bytes, before, start, framed_bytes, ..Batch::default() });
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

    /// No more will come: readers end when they have read what is there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes all that wait, outside the lock, a handful at a time.
    fn wake(&self) {
        let mut from = 0;
        loop {
            let mut wakers = [const { None }; WAKE_AT_ONCE];
            let mut found = 0;
            let mut inner = self.lock();
            while found < WAKE_AT_ONCE && from < inner.readers.len() {
                if let Some(waker) = inner.readers[from].waker.take() {
                    wakers[found] = Some(waker);
                    found += 1;
                }
                from += 1;
            }
            drop(inner);
            wakers.into_iter().flatten().for_each(Waker::wake);
            if found < WAKE_AT_ONCE {
                return;
            }
        }
    }

    /// A reader of what comes from now on.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        let mut inner = self.lock();
        let (position, seen) = (inner.first + inner.batches.len() as u64, inner.totals);
        self.reader_at(&mut inner, position, seen)
    }

    /// A reader that starts at the last start, if no more than so many bytes have come since; otherwise a reader of
    /// what comes from now on.
    pub(crate) fn reader_from_start(self: &Arc<Self>, bytes: u64) -> Reader {
        let mut inner = self.lock();
        let (next, totals) = (inner.first + inner.batches.len() as u64, inner.totals);
        let start = inner.start.filter(|(_, before)| totals.since(*before).bytes <= bytes);
        let (position, seen) = start.unwrap_or((next, totals));
        self.reader_at(&mut inner, position, seen)
    }

    fn reader_at(self: &Arc<Self>, inner: &mut Inner, position: u64, seen: Totals) -> Reader {
        let fresh = Slot { position, waker: None };
        self.audience.fetch_add(1, Ordering::Release);
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
    /// When nobody reads, and nothing is kept for those who may come, a batch is only counted.
    fn pass_over(&mut self, packets: u64, bytes: u64) -> bool {
        let nobody = self.keep == 0 && self.batches.is_empty() && self.readers.iter().all(|s| s.position == FREE);
        if nobody {
            self.totals.packets += packets;
            self.totals.bytes += bytes;
            self.first += 1;
            self.start = None;
        }
        nobody
    }

    /// Puts a batch together, in the memory of an old one where there is one.
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
        // A batch that a reader still holds is freed by that reader.
        let room = self.spare_room + oldest.packets.capacity();
        if self.spare.len() < MAX_SPARE
            && room <= MAX_SPARE_ROOM
            && let Some(batch) = Arc::get_mut(&mut oldest)
        {
            self.spare_room = room;
            batch.packets.clear();
            batch.start = None;
            batch.framed_bytes = None;
            self.spare.push(oldest);
        }
    }
}

/// An output's wish, for as long as this is kept.
#[derive(Debug)]
pub(crate) struct LayoutInterest(Arc<Ring>, BatchLayout);

impl Drop for LayoutInterest {
    fn drop(&mut self) {
        self.0.interests.remove(self.1);
    }
}

/// A position in a ring.
#[derive(Debug)]
pub(crate) struct Reader {
    ring: Arc<Ring>,
    slot: usize,
    position: u64,
    seen: Totals,
    closed: Arc<AtomicBool>,
}

/// Closes one reader from outside.
#[derive(Debug)]
pub(crate) struct Closer {
    ring: Arc<Ring>,
    slot: usize,
    closed: Arc<AtomicBool>,
}

impl Closer {
    /// The reader ends when it has read what is there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // If the reader is gone and its slot is another's by now, that one wakes once in vain.
        let waker = self.ring.lock().readers[self.slot].waker.take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Reader {
    pub(crate) fn closer(&self) -> Closer {
        Closer { ring: self.ring.clone(), slot: self.slot, closed: self.closed.clone() }
    }

    /// See [`Ring::layout_interest`].
    pub(crate) fn layout_interest(&self, layout: BatchLayout) -> LayoutInterest {
        self.ring.layout_interest(layout)
    }

    /// Whether nothing will come beside what is there.
    pub(crate) fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }

    /// Whether there is something to read; `Err` when there will never be again.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if self.has_more() {
            return Poll::Ready(Ok(()));
        }
        let mut inner = self.ring.lock();
        if self.has_more() {
            return Poll::Ready(Ok(()));
        }
        if self.is_closed() {
            return Poll::Ready(Err(Closed));
        }
        let slot = &mut inner.readers[self.slot];
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether there is something to read at this moment.
    pub(crate) fn has_more(&self) -> bool {
        self.ring.head.load(Ordering::Acquire) > self.position
    }

    /// Waits for something to read.
    pub(crate) async fn ready(&mut self) -> Result<(), Closed> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Appends all new batches to `window`; returns what was lost before the first of them.
    pub(crate) fn read(&mut self, window: &mut Vec<Arc<Batch>>) -> Totals {
        self.read_up_to(usize::MAX, u64::MAX, window)
    }

    /// Appends new batches to `window`, up to about so many bytes, but at least one.
    pub(crate) fn read_some(&mut self, bytes: u64, window: &mut Vec<Arc<Batch>>) -> Totals {
        self.read_up_to(usize::MAX, bytes, window)
    }

    /// The next batch, and what was lost before it. For a reader that cannot say when it will be done with it.
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

    /// A reader that starts at a batch that is still at hand, for an output that falls behind the others.
    pub(crate) fn fork(&self, from: &Batch) -> Reader {
        self.ring.reader_at(&mut self.ring.lock(), from.sequence, from.before)
    }

    /// Packets between the position of an earlier reader and this one's.
    pub(crate) fn missed_since(&self, earlier: &Reader) -> u64 {
        self.seen.since(earlier.seen).packets
    }

    /// The number of the batch that comes next.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ring.lock().readers[self.slot] = Slot { position: FREE, waker: None };
        self.ring.audience.fetch_sub(1, Ordering::Release);
    }
}

/// The ring is closed, and all of it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[cfg(test)]
mod tests;
