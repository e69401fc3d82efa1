//! The sending half of a connection: packets until they are acknowledged or too late, what was reported lost, and
//! pacing.

use super::{
    packet::{DataHeader, KeyFlag},
    sequence::Sequence,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What may leave at once, without pacing: enough for a run of GSO, in time at most [`BURST`].
const MIN_BURST: u64 = 64 * 1456;
/// The burst of the pacing in time: what the rate allows in it leaves at once.
const BURST: Duration = Duration::from_millis(10);

/// A packet that is not acknowledged yet.
#[derive(Debug)]
struct Item {
    payload: Bytes,
    key: KeyFlag,
    message: u32,
    timestamp: u32,
    queued: Instant,
    last_sent: Option<Instant>,
    /// It stands in the list of losses.
    lost: bool,
}

/// What the sending half has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendCounts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) retransmitted: u64,
    /// Given up: too late, or no room.
    pub(crate) dropped: u64,
    /// Reported lost by the peer.
    pub(crate) lost: u64,
}

/// What an acknowledgement has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// The peer has got further than it had said before.
    Progress,
    /// It says what it has said before.
    Nothing,
    /// It names what was never sent.
    Unsent,
}

#[derive(Debug)]
pub(crate) struct SendHalf {
    items: VecDeque<Item>,
    /// The number of the first item.
    first: Sequence,
    /// The furthest acknowledgement. What was given up as too late may be acknowledged after that.
    acknowledged: Sequence,
    /// Items that have been sent at least once.
    sent: usize,
    /// Reported lost, to be sent again before anything new.
    losses: VecDeque<Sequence>,
    capacity: usize,
    /// Packets that the peer has room for behind the last acknowledged one.
    window: usize,
    message: u32,
    bytes_per_second: u64,
    tokens: u64,
    refilled: Instant,
    pub(crate) counts: SendCounts,
}

impl SendHalf {
    pub(crate) fn new(first: Sequence, capacity: usize, window: usize, bytes_per_second: u64, now: Instant) -> Self {
        let mut half = Self {
            items: VecDeque::new(),
            first,
            acknowledged: first,
            sent: 0,
            losses: VecDeque::new(),
            capacity,
            window,
            message: 1,
            bytes_per_second,
            tokens: 0,
            refilled: now,
            counts: SendCounts::default(),
        };
        half.tokens = half.burst();
        half
    }

    fn burst(&self) -> u64 {
        (self.bytes_per_second.saturating_mul(BURST.as_millis() as u64) / 1000).max(MIN_BURST)
    }

    /// The number that the next pushed packet gets.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.first.after(self.items.len() as u32) // at most the capacity
    }

    pub(crate) fn has_room(&self) -> bool {
        self.items.len() < self.capacity
    }

    /// Takes a packet, encrypted already. There must be room.
    pub(crate) fn push(&mut self, payload: Bytes, key: KeyFlag, timestamp: u32, now: Instant) {
        let message = self.message;
        self.message = if message == 0x03ff_ffff { 1 } else { message + 1 };
        let item = Item { payload, key, message, timestamp, queued: now, last_sent: None, lost: false };
        self.items.push_back(item);
    }

    /// Packets that are sent and not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent
    }

    /// Whether nothing waits to be sent or acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes note that everything before `next` has come.
    pub(crate) fn acknowledge(&mut self, next: Sequence, window: Option<usize>) -> Acknowledged {
        if let Some(window) = window {
            self.window = window;
        }
        let ahead = self.first.distance(next);
        if usize::try_from(ahead).is_ok_and(|count| count > self.sent) {
            return Acknowledged::Unsent;
        }
        let is_progress = self.acknowledged.distance(next) > 0;
        if is_progress {
            self.acknowledged = next;
        }
        if let Ok(count) = usize::try_from(ahead) {
            self.items.drain(..count);
            self.sent -= count;
            self.first = next;
        } // else: what it names was given up
        if is_progress { Acknowledged::Progress } else { Acknowledged::Nothing }
    }

    /// The peer misses these. What is no longer here is returned, to be called off.
    pub(crate) fn report_lost(&mut self, ranges: &[(Sequence, Sequence)]) -> Option<(Sequence, Sequence)> {
        let mut gone = None;
        // Ranges that overlap are no honest report: what is looked at is bounded by what is there.
        let mut budget = self.sent.saturating_add(ranges.len());
        for (from, to) in ranges {
            let (start, end) = (self.first.distance(*from), self.first.distance(*to));
            if start < 0 {
                gone = Some((*from, if end < 0 { *to } else { self.first.after(0x7fff_ffff) }));
            }
            let start = usize::try_from(start).unwrap_or(0);
            let end = usize::try_from(end).map_or(0, |end| end.saturating_add(1)).min(self.sent);
            for index in start..end {
                let Some(left) = budget.checked_sub(1) else { return gone };
                budget = left;
                let sequence = self.first.after(index as u32);
                if let Some(item) = self.items.get_mut(index)
                    && !item.lost
                {
                    item.lost = true;
                    self.counts.lost += 1;
                    self.losses.push_back(sequence);
                }
            }
        }
        gone
    }

    /// Sends everything again that was sent before `before`: the peer has not said a word about it.
    pub(crate) fn resend_silent(&mut self, before: Instant) {
        for index in 0..self.sent {
            let sequence = self.first.after(index as u32);
            if let Some(item) = self.items.get_mut(index)
                && !item.lost
                && item.last_sent.is_some_and(|at| at < before)
            {
                item.lost = true;
                self.losses.push_back(sequence);
            }
        }
    }

    /// Gives up what was pushed longer ago than `age`.
    pub(crate) fn drop_late(&mut self, now: Instant, age: Duration) {
        while self.items.front().is_some_and(|item| now.saturating_duration_since(item.queued) > age) {
            self.items.pop_front();
            self.first = self.first.after(1);
            self.sent = self.sent.saturating_sub(1);
            self.counts.dropped += 1;
        }
    }

    fn refill(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.refilled).as_micros().min(1_000_000) as u64;
        let gained = self.bytes_per_second.saturating_mul(micros) / 1_000_000;
        if gained > 0 {
            self.refilled = now;
            self.tokens = self.tokens.saturating_add(gained).min(self.burst());
        }
    }

    /// The next data packet that may leave now. `again`: how long a packet must not be repeated after it was sent.
    pub(crate) fn poll(&mut self, now: Instant, destination: u32, again: Duration) -> Option<([u8; 16], Bytes)> {
        self.refill(now);
        let index = self.next_index(now, again)?;
        let sequence = self.first.after(index as u32);
        let item = self.items.get_mut(index)?;
        let bytes = item.payload.len() as u64;
        if self.tokens < bytes {
            if item.lost {
                self.losses.push_front(sequence);
            }
            return None;
        }
        self.tokens -= bytes;
        let retransmitted = item.last_sent.is_some();
        item.last_sent = Some(now);
        item.lost = false;
        let header = DataHeader {
            sequence,
            key: item.key,
            retransmitted,
            message: item.message,
            timestamp: item.timestamp,
            destination,
        };
        let payload = item.payload.clone();
        if retransmitted {
            self.counts.retransmitted += 1;
        } else {
            self.sent = index + 1;
            self.counts.packets += 1;
            self.counts.bytes += bytes;
        }
        Some((header.to_bytes(), payload))
    }

    /// Losses first; then what is new, if the peer has room for it.
    fn next_index(&mut self, now: Instant, again: Duration) -> Option<usize> {
        for _ in 0..self.losses.len() {
            let Some(sequence) = self.losses.pop_front() else { break };
            let Ok(index) = usize::try_from(self.first.distance(sequence)) else { continue }; // acknowledged by now
            let Some(item) = self.items.get_mut(index).filter(|item| item.lost) else { continue };
            if item.last_sent.is_some_and(|at| now.saturating_duration_since(at) < again) {
                item.lost = false; // the repeat is on its way; if it is lost too, the peer will say so again
                continue;
            }
            return Some(index);
        }
        (self.sent < self.items.len() && self.sent < self.window).then_some(self.sent)
    }

    /// When pacing lets the next packet out, if there is one that may leave.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        let waiting = !self.losses.is_empty() || (self.sent < self.items.len() && self.sent < self.window);
        if !waiting {
            return None;
        }
        let missing = 1456u64.saturating_sub(self.tokens);
        let micros = missing.saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        self.refilled.checked_add(Duration::from_micros(micros.min(1_000_000)))
    }
}
