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

/// What comes in is measured over so long, where the pacing follows it.
const INPUT_WINDOW: Duration = Duration::from_millis(50);
/// Packets that the buffer holds at most, however much comes in.
const MAX_CAPACITY: usize = 131_072;

/// How fast a connection sends, repeats included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pacing {
    /// Bytes of payload per second.
    pub(crate) bytes_per_second: u64,
    /// `Some`: faster than that if more comes in, by so many percent more than what comes. `None`: never faster.
    pub(crate) over_input: Option<u64>,
}

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

/// What comes in, measured.
#[derive(Debug)]
struct Input {
    /// The start of the running window.
    since: Instant,
    /// What has come in it.
    bytes: u64,
    /// Bytes per second: rises at once, and falls by an eighth a window.
    rate: u64,
}

impl Input {
    /// Counts what has come; returns whether the rate has changed.
    fn count(&mut self, bytes: u64, now: Instant) -> bool {
        let before = self.rate;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= INPUT_WINDOW {
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
            let measured = self.bytes.saturating_mul(1_000_000) / micros;
            self.rate = measured.max(self.rate - self.rate / 8);
            self.since = now;
            self.bytes = 0;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        // As much as has come already comes in this window at least.
        let windows = 1_000 / INPUT_WINDOW.as_millis() as u64;
        self.rate = self.rate.max(self.bytes.saturating_mul(windows));
        self.rate != before
    }
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
    /// What was asked for.
    pacing: Pacing,
    buffer: usize,
    input: Input,
    /// What the pacing lets out now.
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
            pacing: Pacing { bytes_per_second, over_input: None },
            buffer: capacity,
            input: Input { since: now, bytes: 0, rate: 0 },
            bytes_per_second,
            tokens: 0,
            refilled: now,
            counts: SendCounts::default(),
        };
        half.tokens = half.burst();
        half
    }

    /// Changes how fast it sends, and how many packets it holds. Those that it holds already stay.
    pub(crate) fn set_rates(&mut self, buffer: usize, pacing: Pacing) {
        self.buffer = buffer;
        self.pacing = pacing;
        if pacing.over_input.is_none() {
            self.input.rate = 0;
        }
        self.follow_input();
    }

    /// Sets what depends on what comes in.
    fn follow_input(&mut self) {
        let Pacing { bytes_per_second, over_input } = self.pacing;
        let asked = bytes_per_second.max(1);
        let wanted = over_input.map_or(0, |overhead| self.input.rate.saturating_mul(100 + overhead) / 100);
        self.bytes_per_second = asked.max(wanted);
        // Room for as many seconds as at the rate that was asked for.
        let scaled = (self.buffer as u128) * u128::from(self.bytes_per_second) / u128::from(asked);
        let most = self.buffer.max(MAX_CAPACITY);
        self.capacity = usize::try_from(scaled).map_or(most, |packets| packets.min(most));
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
        if self.pacing.over_input.is_some() && self.input.count(payload.len() as u64, now) {
            self.follow_input();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes packets at a rate for a time, while all that leaves is acknowledged; returns how many wait at the end.
    fn backlog(half: &mut SendHalf, now: &mut Instant, bytes_per_second: u64, time: Duration) -> u64 {
        const PAYLOAD: u64 = 1316;
        let interval = Duration::from_nanos(PAYLOAD * 1_000_000_000 / bytes_per_second);
        let end = *now + time;
        while *now < end {
            *now += interval;
            if half.has_room() {
                half.push(Bytes::from_static(&[0; PAYLOAD as usize]), KeyFlag::Clear, 0, *now);
            } else {
                half.counts.dropped += 1;
            }
            while half.poll(*now, 1, Duration::from_millis(100)).is_some() {}
            let next = Sequence::new(
                half.next_sequence().number().wrapping_sub((half.items.len() - half.sent) as u32) & 0x7fff_ffff,
            );
            assert_ne!(half.acknowledge(next, None), Acknowledged::Unsent);
        }
        (half.items.len() - half.sent) as u64
    }

    #[test]
    fn srt_sender_takes_a_new_rate_in_the_middle_of_a_connection() {
        let (mut now, low) = (Instant::now(), 312_500);
        let mut half = SendHalf::new(Sequence::new(1), 8192, 8192, low, now);
        // 20 Mb/s at a pace of 2.5: most of it waits, or finds no room.
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) > 2000);
        half.set_rates(8192, Pacing { bytes_per_second: 6_250_000, over_input: None });
        backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)); // what has waited leaves
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) < 100);
        // Back again: it holds to the old pace.
        half.set_rates(8192, Pacing { bytes_per_second: low, over_input: None });
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) > 2000);
    }

    #[test]
    fn srt_sender_follows_its_input_where_more_may_pass() {
        let mut now = Instant::now();
        let mut half = SendHalf::new(Sequence::new(1), 8192, 1 << 20, 1_562_500, now);
        half.set_rates(8192, Pacing { bytes_per_second: 1_562_500, over_input: Some(25) });
        // 121 Mb/s where 10 are the maximum: at no time does more wait than 20 ms of it.
        for _ in 0..20 {
            let behind = backlog(&mut half, &mut now, 15_125_000, Duration::from_millis(100));
            assert!(behind < 230, "{behind}");
        }
        assert_eq!(half.counts.dropped, 0);
        // When less comes, it paces by that again.
        backlog(&mut half, &mut now, 150_000, Duration::from_millis(5000));
        assert!(half.bytes_per_second < 2_000_000, "{}", half.bytes_per_second);
    }
}
