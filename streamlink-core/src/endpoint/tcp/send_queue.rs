//! The queue of one connection: media from the ring, and control messages between its messages.
//!
//! Media is not copied: a vectored write names the protocol's headers and the pieces of the packets, or the framed
//! bytes that the ring has made of a batch for many outputs. A peer that stops reading holds a few batches at most; the
//! rest stays in the ring, within its bounds.

use crate::{
    media::Packet,
    net::Stream,
    router::{Batch, Preamble, Totals},
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// Maximum number of messages in one write.
const MAX_MESSAGES: usize = 32;
/// Maximum number of slices in one write.
const MAX_SLICES: usize = 128;

/// The wire format of one protocol.
pub(in crate::endpoint) trait Wire {
    /// The protocol's header of a packet.
    type Head: Copy;
    /// The header of no packet.
    const EMPTY: Self::Head;
    /// Returns the header of a packet. `time`: the timestamp to use instead of the packet's own, in milliseconds.
    fn head(&self, packet: &Packet, time: Option<u32>) -> Self::Head;
    /// Number of bytes on the wire; 0 for a packet that this peer does not get.
    fn total(head: &Self::Head) -> usize;
    /// Calls `take` with the slices of a message from byte `from` on, in order, until it returns false.
    fn slices<'a>(head: &'a Self::Head, body: &'a [u8], from: usize, take: impl FnMut(&'a [u8]) -> bool) -> bool;
    /// Returns the framed bytes of a batch, if it has any and this peer gets all of it in that form.
    fn framed_bytes<'a>(&self, _: &'a Batch) -> Option<&'a Bytes> {
        None
    }
    /// Returns the packets as this peer gets them, if that differs from `packets`.
    fn altered(&self, packets: &[Packet]) -> Option<Arc<[Packet]>>;
}

/// A run of messages.
#[derive(Debug)]
enum Segment {
    Batch(Arc<Batch>),
    /// The preamble of the batch that follows, at the time of that batch, or messages altered for this peer.
    Rewritten(Arc<[Packet]>, Option<u32>),
}

impl Segment {
    fn packets(&self) -> &[Packet] {
        match self {
            Self::Batch(batch) => batch.packets(),
            Self::Rewritten(packets, _) => packets,
        }
    }

    /// The timestamp of all its packets, instead of their own.
    fn time(&self) -> Option<u32> {
        match self {
            Self::Rewritten(_, time) => *time,
            Self::Batch(_) => None,
        }
    }
}

/// Messages to be written to one connection.
#[derive(Debug)]
pub(in crate::endpoint) struct SendQueue<W> {
    wire: W,
    /// Control messages, which are written between two media messages.
    control: Vec<u8>,
    control_sent: usize,
    segments: VecDeque<Segment>,
    /// The next message: its index in the first segment, and the number of its bytes already written.
    at: usize,
    sent: usize,
    /// Media is dropped up to the next entry point.
    waits_for_start: bool,
    /// The peer has paused, so that nothing is meant for it before the next entry point.
    is_held_back: bool,
    /// Arrival of the first batch that was dropped for want of an entry point.
    waits_since: Option<Instant>,
    preamble: Option<Preamble>,
    /// Media written since the last [`SendQueue::take_counts`].
    done: Totals,
    dropped: u64,
}

impl<W: Wire> SendQueue<W> {
    pub(in crate::endpoint) fn new(wire: W) -> Self {
        Self {
            wire,
            control: Vec::new(),
            control_sent: 0,
            segments: VecDeque::new(),
            at: 0,
            sent: 0,
            waits_for_start: true,
            is_held_back: false,
            waits_since: None,
            preamble: None,
            done: Totals::default(),
            dropped: 0,
        }
    }

    /// Adds control messages, to be written between two media messages.
    pub(in crate::endpoint) fn push_control(&mut self, bytes: Vec<u8>) {
        if self.control.is_empty() {
            self.control = bytes;
        } else {
            self.control.extend(bytes);
        }
    }

    /// Number of pending bytes of control messages.
    pub(in crate::endpoint) fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Adds batches from the ring. After `lost` packets, media is dropped up to the next entry point.
    pub(in crate::endpoint) fn push_media(&mut self, lost: u64, window: &mut Vec<Arc<Batch>>) {
        self.dropped += if self.is_held_back { 0 } else { lost };
        self.waits_for_start |= lost > 0;
        for batch in window.drain(..) {
            let start = if self.waits_for_start { batch.start_after(self.waits_since) } else { batch.start() };
            match start {
                Some(preamble) => {
                    self.waits_since = None;
                    self.is_held_back = false;
                    // A peer that missed nothing has received changed headers as part of the media.
                    let missed = std::mem::take(&mut self.waits_for_start) || self.preamble.is_none();
                    if missed && !self.preamble.as_ref().is_some_and(|known| Arc::ptr_eq(known, preamble)) {
                        let first = batch.packets().first().and_then(Packet::rtmp_message);
                        let headers = self.wire.altered(preamble).unwrap_or_else(|| preamble.clone());
                        if !headers.is_empty() {
                            self.segments.push_back(Segment::Rewritten(headers, first.map(|(_, time)| time)));
                        }
                    }
                    self.preamble = Some(preamble.clone());
                }
                None if self.waits_for_start => {
                    // Media before the first entry point is not meant for this peer, and not counted as dropped.
                    self.waits_since = self.waits_since.or(batch.arrival());
                    let started = self.preamble.is_some() && !self.is_held_back;
                    self.dropped += if started { batch.packets().len() as u64 } else { 0 };
                    continue;
                }
                None => {}
            }
            let altered = self.wire.altered(batch.packets());
            self.segments.push_back(altered.map_or(Segment::Batch(batch), |packets| Segment::Rewritten(packets, None)));
        }
    }

    /// Leaves media out up to the next entry point, as for a peer that has paused. It is not counted as dropped.
    pub(in crate::endpoint) fn wait_for_start(&mut self) {
        self.waits_for_start = true;
        self.is_held_back = true;
    }

    /// Drops all media but the rest of a message that was begun.
    pub(in crate::endpoint) fn drop_unbegun(&mut self) {
        let begun =
            if self.sent > 0 { self.messages().next().map(|(packet, time)| (packet.clone(), time)) } else { None };
        self.segments.clear();
        self.at = 0;
        if let Some((packet, time)) = begun {
            self.segments.push_back(Segment::Rewritten(Arc::from([packet]), time));
        }
    }

    /// Takes the media written and the number of packets dropped since the last call.
    pub(in crate::endpoint) fn take_counts(&mut self) -> (Totals, u64) {
        (std::mem::take(&mut self.done), std::mem::take(&mut self.dropped))
    }

    pub(in crate::endpoint) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.segments.is_empty()
    }

    /// Writes until the queue is empty, or the socket is full.
    pub(in crate::endpoint) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.skip();
            if self.is_empty() {
                return stream.poll_flush(cx);
            }
            let written = {
                let mut heads = [W::EMPTY; MAX_MESSAGES];
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = self.gather(&mut heads, &mut slices);
                ready!(stream.poll_write(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    /// Skips packets that this peer does not get.
    fn skip(&mut self) {
        while self.sent == 0 && self.next_total() == Some(0) {
            self.next_message();
        }
    }

    /// Number of bytes of the next packet on the wire.
    fn next_total(&self) -> Option<usize> {
        let (packet, time) = self.messages().next()?;
        Some(W::total(&self.wire.head(packet, time)))
    }

    /// Fills `slices` with the bytes to be written next; returns their number.
    fn gather<'a>(&'a self, heads: &'a mut [W::Head; MAX_MESSAGES], slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        if self.control.is_empty() {
            let count = self.gather_framed(slices);
            if count > 0 {
                return count;
            }
        }
        let mut messages = self.messages();
        for (head, (packet, time)) in heads.iter_mut().zip(&mut messages) {
            *head = self.wire.head(packet, time);
        }
        let heads = &*heads;
        let mut count = 0;
        let mut take = |slice: &'a [u8]| {
            slices[count] = IoSlice::new(slice);
            count += 1;
            count < MAX_SLICES
        };
        let control = self.control.get(self.control_sent..).unwrap_or_default();
        let mut first = true;
        if self.sent == 0 && !control.is_empty() && !take(control) {
            return count;
        }
        for (head, (packet, _)) in heads.iter().zip(self.messages()) {
            let from = if first { self.sent } else { 0 };
            if !W::slices(head, packet.data(), from, &mut take) {
                break;
            }
            if first && self.sent > 0 && !control.is_empty() && !take(control) {
                break;
            }
            first = false;
        }
        count
    }

    /// Fills `slices` with the framed bytes of the next batches; returns 0 if the next segment has none.
    fn gather_framed<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let whole = self.segments.iter().map_while(|segment| self.framed_bytes(segment));
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(whole) {
            let from = if count == 0 { self.sent_of_first() } else { 0 };
            *slice = IoSlice::new(bytes.get(from..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// The framed bytes of a whole segment.
    fn framed_bytes<'a>(&self, segment: &'a Segment) -> Option<&'a Bytes> {
        match segment {
            Segment::Batch(batch) => self.wire.framed_bytes(batch),
            Segment::Rewritten(..) => None,
        }
    }

    /// Number of bytes of the first segment already written.
    fn sent_of_first(&self) -> usize {
        let Some(segment) = self.segments.front() else { return 0 };
        let before = segment.packets().iter().take(self.at);
        self.sent + before.map(|packet| W::total(&self.wire.head(packet, segment.time()))).sum::<usize>()
    }

    /// The messages to be written, with the timestamps to use instead of their own.
    fn messages(&self) -> impl Iterator<Item = (&Packet, Option<u32>)> {
        let whole = self.segments.iter().flat_map(|s| s.packets().iter().map(move |p| (p, s.time())));
        whole.skip(self.at)
    }

    /// Removes `written` bytes, in the order of [`SendQueue::gather`].
    fn advance(&mut self, mut written: usize) {
        if self.sent > 0 {
            written = self.advance_message(written);
        }
        if self.sent == 0 {
            let control = (self.control.len() - self.control_sent).min(written);
            self.control_sent += control;
            written -= control;
            if self.control_sent == self.control.len() {
                self.control = Vec::new();
                self.control_sent = 0;
            }
        }
        while written > 0
            && let Some(segment) = self.segments.front()
        {
            // A segment written as a whole is counted as a whole.
            let whole =
                self.framed_bytes(segment).filter(|bytes| self.at == 0 && self.sent == 0 && bytes.len() <= written);
            match (whole.map(Bytes::len), segment) {
                (Some(length), Segment::Batch(batch)) => {
                    let total = batch.total();
                    self.done.packets += total.packets;
                    self.done.bytes += total.bytes;
                    self.segments.pop_front();
                    written -= length;
                }
                _ => written = self.advance_message(written),
            }
        }
    }

    /// Removes bytes of the first message; returns how many are left over.
    fn advance_message(&mut self, written: usize) -> usize {
        let Some((packet, time)) = self.messages().next() else { return 0 };
        let length = packet.data().len();
        let total = W::total(&self.wire.head(packet, time));
        let left = total.saturating_sub(self.sent);
        if written < left {
            self.sent += written;
            return 0;
        }
        self.sent = 0;
        if total > 0 {
            self.done.packets += 1;
            self.done.bytes += length as u64;
        }
        self.next_message();
        written - left
    }

    /// Removes the first message.
    fn next_message(&mut self) {
        self.at += 1;
        if self.segments.front().is_some_and(|segment| self.at >= segment.packets().len()) {
            self.segments.pop_front();
            self.at = 0;
        }
    }
}
