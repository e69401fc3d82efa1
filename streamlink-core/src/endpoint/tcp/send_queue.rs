//! What one connection is still to be sent: media from the ring, and answers between its messages.
//!
//! Nothing is copied for it: a vectored write names the protocol's headers and the pieces of the packets, or the one piece
//! in which the ring has laid a batch out for many. A peer that does not take what it is sent holds a few batches at most;
//! the rest stays in the ring, and goes by its bounds.

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
};

/// Messages in one write at most.
const MAX_MESSAGES: usize = 32;
/// Slices in one write at most.
const MAX_SLICES: usize = 128;

/// How packets look on the wire of one protocol.
pub(in crate::endpoint) trait Wire {
    /// What goes before the pieces of a packet.
    type Head: Copy;
    /// The head of no packet.
    const EMPTY: Self::Head;
    /// The head of a packet. `time`: a time other than the packet's own, in milliseconds.
    fn head(&self, packet: &Packet, time: Option<u32>) -> Self::Head;
    /// The bytes on the wire; 0: the packet is not for this peer.
    fn total(head: &Self::Head) -> usize;
    /// Names the slices from a position on, in order, until `take` wants no more.
    fn slices<'a>(head: &'a Self::Head, body: &'a [u8], from: usize, take: impl FnMut(&'a [u8]) -> bool) -> bool;
    /// A batch in one piece as this peer wants all of it, where it is laid out so.
    fn framed_bytes<'a>(&self, _: &'a Batch) -> Option<&'a Bytes> {
        None
    }
    /// Packets as this peer wants them, if that is any different.
    fn altered(&self, packets: &[Packet]) -> Option<Arc<[Packet]>>;
}

/// Messages that go one after the other.
#[derive(Debug)]
enum Segment {
    Batch(Arc<Batch>),
    /// What a peer needs before the batch that follows, at the time of that batch; or messages that were altered.
    Rewritten(Arc<[Packet]>, Option<u32>),
}

impl Segment {
    fn packets(&self) -> &[Packet] {
        match self {
            Segment::Batch(batch) => batch.packets(),
            Segment::Rewritten(packets, _) => packets,
        }
    }

    /// A time for its packets other than their own.
    fn time(&self) -> Option<u32> {
        match self {
            Segment::Rewritten(_, time) => *time,
            Segment::Batch(_) => None,
        }
    }
}

/// What one connection is still to be sent.
#[derive(Debug)]
pub(in crate::endpoint) struct SendQueue<W> {
    wire: W,
    /// Answers, which go between two messages.
    control: Vec<u8>,
    control_sent: usize,
    segments: VecDeque<Segment>,
    /// The next message: its place in the first segment, and how much of it was sent.
    at: usize,
    sent: usize,
    /// Nothing is of use before the next start.
    waits_for_start: bool,
    preamble: Option<Preamble>,
    /// Media that was sent since this was last looked at.
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
            preamble: None,
            done: Totals::default(),
            dropped: 0,
        }
    }

    /// Answers that are to go between two messages.
    pub(in crate::endpoint) fn push_control(&mut self, bytes: Vec<u8>) {
        if self.control.is_empty() {
            self.control = bytes;
        } else {
            self.control.extend(bytes);
        }
    }

    /// Bytes of answers that wait.
    pub(in crate::endpoint) fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Batches from the ring, and how many packets before them are lost: then pictures wait for the next start.
    pub(in crate::endpoint) fn push_media(&mut self, lost: u64, window: &mut Vec<Arc<Batch>>) {
        self.dropped += lost;
        self.waits_for_start |= lost > 0;
        for batch in window.drain(..) {
            match batch.start() {
                Some(preamble) => {
                    // Who has got all since the last start has also got what has changed of it, among the media.
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
                    // What came before the first start was never meant for it.
                    let started = self.preamble.is_some();
                    self.dropped += if started { batch.packets().len() as u64 } else { 0 };
                    continue;
                }
                None => {}
            }
            let altered = self.wire.altered(batch.packets());
            self.segments.push_back(altered.map_or(Segment::Batch(batch), |packets| Segment::Rewritten(packets, None)));
        }
    }

    /// What comes next is of no use before the next start.
    pub(in crate::endpoint) fn wait_for_start(&mut self) {
        self.waits_for_start = true;
    }

    /// Media that was sent since the last call, and packets that were left out.
    pub(in crate::endpoint) fn take_counts(&mut self) -> (Totals, u64) {
        (std::mem::take(&mut self.done), std::mem::take(&mut self.dropped))
    }

    pub(in crate::endpoint) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.segments.is_empty()
    }

    /// Writes until all is written, or the peer takes no more for now.
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

    /// Passes over what is not for this peer.
    fn skip(&mut self) {
        while self.sent == 0 && self.next_total() == Some(0) {
            self.next_message();
        }
    }

    /// The bytes of the next packet on the wire.
    fn next_total(&self) -> Option<usize> {
        let (packet, time) = self.messages().next()?;
        Some(W::total(&self.wire.head(packet, time)))
    }

    /// Names what is to be written next.
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

    /// The same where all that comes next are whole batches in one piece; 0 where it is not.
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

    /// A segment in one piece.
    fn framed_bytes<'a>(&self, segment: &'a Segment) -> Option<&'a Bytes> {
        match segment {
            Segment::Batch(batch) => self.wire.framed_bytes(batch),
            Segment::Rewritten(..) => None,
        }
    }

    /// Bytes of the first segment that were sent.
    fn sent_of_first(&self) -> usize {
        let Some(segment) = self.segments.front() else { return 0 };
        let before = segment.packets().iter().take(self.at);
        self.sent + before.map(|packet| W::total(&self.wire.head(packet, segment.time()))).sum::<usize>()
    }

    /// The messages that are to be sent, with their times.
    fn messages(&self) -> impl Iterator<Item = (&Packet, Option<u32>)> {
        let whole = self.segments.iter().flat_map(|s| s.packets().iter().map(move |p| (p, s.time())));
        whole.skip(self.at)
    }

    /// So much was written, in the order of [`SendQueue::gather`].
    fn advance(&mut self, mut written: usize) {
        if self.sent > 0 {
            written = self.advance_message(written);
        }
        if self.sent == 0 {
            let control = (self.control.len() - self.control_sent).min(written);
            self.control_sent += control;
            written -= control;
            if self.control_sent == self.control.len() {
                (self.control, self.control_sent) = (Vec::new(), 0);
            }
        }
        while written > 0
            && let Some(segment) = self.segments.front()
        {
            // A segment that was written as a whole is counted as a whole.
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

    /// Counts bytes off the first message; returns what is left of them.
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

    /// Goes on to the message after the first one.
    fn next_message(&mut self) {
        self.at += 1;
        if self.segments.front().is_some_and(|segment| self.at >= segment.packets().len()) {
            self.segments.pop_front();
            self.at = 0;
        }
    }
}
