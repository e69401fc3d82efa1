//! Readers: positions in the ring.

use super::{Batch, FREE, LayoutInterest, ReaderSlot, Ring, Totals};
use crate::{lock, router::BatchLayout};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// Reader of a ring: a position in its sequence of batches.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) ring: Arc<Ring>,
    pub(super) slot: usize,
    pub(super) position: u64,
    pub(super) seen: Totals,
    pub(super) closed: Arc<AtomicBool>,
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
    pub(crate) fn fork(&self, from: &Batch) -> Self {
        self.ring.reader_at(&mut self.ring.lock(), from.sequence, from.before)
    }

    /// Returns the number of packets between the position of an earlier reader and this one.
    pub(crate) fn missed_since(&self, earlier: &Self) -> u64 {
        self.seen.since(earlier.seen).packets
    }

    /// Returns the sequence number of the next batch to read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let free = ReaderSlot { position: FREE, waker: None };
        lock::drop_waker(std::mem::replace(&mut self.ring.lock().readers[self.slot], free).waker);
        self.ring.reader_count.fetch_sub(1, Ordering::Release);
    }
}

/// Error of a reader that is closed and has read all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;
