//! Sending half of a connection. It holds packets until they are acknowledged or too late, retransmits packets that are
//! reported lost, and paces the output.

use super::{
    fec::FecEncoder,
    packet::{DataHeader, HEADER, KeyFlag},
    round_trip::RoundTrip,
    sequence::Sequence,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Minimum burst in bytes, which may leave without pacing: enough for one GSO send. Larger bursts are limited by
/// [`BURST`].
const MIN_BURST: u64 = 64 * 1456;
/// Burst of the pacing in time. The bytes that the rate allows in this time leave at once.
const BURST: Duration = Duration::from_millis(10);

/// Window over which the input rate is measured, where the pacing follows it.
const INPUT_WINDOW: Duration = Duration::from_millis(50);
/// Maximum number of packets in the buffer, however high the input rate is.
const MAX_CAPACITY: usize = 131_072;

/// Send rate of a connection, including retransmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pacing {
    /// Bytes of payload per second.
    pub(crate) bytes_per_second: u64,
    /// Percentage by which the rate may exceed that of the input; `None` for a fixed rate.
    pub(crate) over_input: Option<u64>,
    /// Set if the rate is a limit of the host. Otherwise repair packets of a packet filter come on top of it.
    pub(crate) is_limit: bool,
}

/// Packet that is not acknowledged yet.
#[derive(Debug)]
struct Item {
    /// Not encrypted.
    payload: Bytes,
    key: KeyFlag,
    message: u32,
    timestamp: u32,
    queued: Instant,
    last_sent: Option<Instant>,
    /// Last retransmission, if there was one.
    repeat: Option<Repeat>,
    /// Set while it is in the list of losses.
    lost: bool,
}

/// Retransmission of a packet.
#[derive(Clone, Copy, Debug)]
struct Repeat {
    at: Instant,
    /// Sequence number of the first new packet that was sent after it.
    before: Sequence,
}

impl Repeat {
    /// Returns whether the retransmission is lost, if the peer still reports the packet at `now`.
    ///
    /// A report that was on its way while the retransmission was is no news. That is certain to be over after the
    /// round-trip time with its variance. It is over earlier if the peer has received a packet that was sent after the
    /// retransmission (`overtaken`), unless the network reorders packets by more than the variance.
    fn is_lost(self, round_trip: RoundTrip, overtaken: bool, now: Instant) -> bool {
        let RoundTrip { smoothed, variance, .. } = round_trip;
        let least = if overtaken { smoothed.saturating_sub(variance) } else { smoothed + variance };
        now.saturating_duration_since(self.at) >= least
    }
}

/// Measured rate of the input.
#[derive(Debug)]
struct Input {
    /// Start of the running window.
    since: Instant,
    /// Bytes received in the running window.
    bytes: u64,
    /// Rate in bytes per second. It rises at once, and falls by an eighth in each window.
    rate: u64,
}

impl Input {
    /// Counts input bytes. Returns whether the rate has changed.
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
        // The rate is at least what this window alone amounts to already.
        let windows = 1_000 / INPUT_WINDOW.as_millis() as u64;
        self.rate = self.rate.max(self.bytes.saturating_mul(windows));
        self.rate != before
    }
}

/// Counters of the sending half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendCounts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) retransmitted: u64,
    /// Given up because they were too late, or there was no room.
    pub(crate) dropped: u64,
    /// Too long for one packet, and not sent.
    pub(crate) oversized: u64,
    /// Reported lost by the peer.
    pub(crate) lost: u64,
    /// Repair packets of the packet filter.
    pub(crate) repairs: u64,
}

/// Packet that may leave.
#[derive(Debug)]
pub(crate) enum Selected {
    /// Data packet, with the index of its payload, which holds until the sender is used again.
    Data {
        header: DataHeader,
        index: usize,
    },
    Repair([u8; HEADER], Bytes),
}

/// Effect of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// Progress: it acknowledges more than before.
    Progress,
    /// No news: it repeats an earlier acknowledgement.
    Nothing,
    /// Protocol error: it acknowledges packets that were never sent.
    Unsent,
}

#[derive(Debug)]
pub(crate) struct SendHalf {
    items: VecDeque<Item>,
    /// Sequence number of the first item.
    first: Sequence,
    /// Highest acknowledgement. Packets dropped as too late may still be acknowledged later.
    acknowledged: Sequence,
    /// Number of items that have been sent at least once.
    sent: usize,
    /// Packets reported lost, which are sent again before new ones.
    losses: VecDeque<Sequence>,
    capacity: usize,
    /// Packets for which the peer has room after the last acknowledged one.
    window: usize,
    message: u32,
    /// Number of bytes by which encryption lengthens a payload.
    overhead: u64,
    /// Encoder of the packet filter, if there is one.
    fec: Option<FecEncoder>,
    /// Configured pacing.
    pacing: Pacing,
    buffer: usize,
    input: Input,
    /// Current rate of the pacing.
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
            overhead: 0,
            fec: None,
            pacing: Pacing { bytes_per_second, over_input: None, is_limit: false },
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

    /// Sets the number of bytes by which encryption lengthens a payload.
    pub(crate) fn set_overhead(&mut self, bytes: usize) {
        self.overhead = bytes as u64;
    }

    /// Makes repair packets from now on.
    pub(crate) fn set_filter(&mut self, encoder: FecEncoder) {
        self.fec = Some(encoder);
        self.follow_input();
    }

    /// Makes no repair packets from now on.
    pub(super) fn leave_out_repairs(&mut self) {
        self.fec = None;
        self.follow_input();
    }

    /// Changes the pacing and the buffer size, in packets. Packets already held stay.
    pub(crate) fn set_rates(&mut self, buffer: usize, pacing: Pacing) {
        self.buffer = buffer;
        self.pacing = pacing;
        if pacing.over_input.is_none() {
            self.input.rate = 0;
        }
        self.follow_input();
    }

    /// Updates the rate and the capacity, which depend on the input.
    fn follow_input(&mut self) {
        let Pacing { bytes_per_second, over_input, is_limit } = self.pacing;
        let asked = bytes_per_second.max(1);
        let wanted = over_input.map_or(0, |overhead| self.input.rate.saturating_mul(100 + overhead) / 100);
        self.bytes_per_second = asked.max(wanted);
        if let Some(fec) = self.fec.as_ref().filter(|_| !is_limit) {
            let repairs = u128::from(self.bytes_per_second) * u128::from(fec.share()) / 1_000_000;
            let repairs = u64::try_from(repairs).unwrap_or(u64::MAX);
            self.bytes_per_second = self.bytes_per_second.saturating_add(repairs);
        }
        // The buffer covers as many seconds as it does at the configured rate.
        let scaled = (self.buffer as u128) * u128::from(self.bytes_per_second) / u128::from(asked);
        let most = self.buffer.max(MAX_CAPACITY);
        self.capacity = usize::try_from(scaled).map_or(most, |packets| packets.min(most));
    }

    fn burst(&self) -> u64 {
        (self.bytes_per_second.saturating_mul(BURST.as_millis() as u64) / 1000).max(MIN_BURST)
    }

    /// Returns the sequence number of the next pushed packet.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.first.after(self.items.len() as u32) // at most the capacity
    }

    /// Returns the payload at an index, as it was pushed.
    pub(crate) fn payload(&self, index: usize) -> Option<&Bytes> {
        self.items.get(index).map(|item| &item.payload)
    }

    /// Returns whether packets wait that were pushed with this key before those with another.
    pub(crate) fn holds(&self, key: KeyFlag) -> bool {
        self.items.front().is_some_and(|item| item.key == key)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.items.len() < self.capacity
    }

    /// Continues with this number, if no packet is held. Earlier packets of a group are not sent on this connection.
    pub(super) fn start_at(&mut self, next: Sequence) {
        if self.items.is_empty() && self.first.distance(next) > 0 {
            self.first = next;
            self.acknowledged = next;
        }
    }

    /// Forgets all packets, which other connections of the group send.
    pub(super) fn clear(&mut self) {
        self.first = self.next_sequence();
        self.items.clear();
        self.losses.clear();
        self.sent = 0;
    }

    /// Returns the number before which the peer has acknowledged everything.
    pub(super) fn acknowledged(&self) -> Sequence {
        self.acknowledged
    }

    /// Gives up the oldest packet.
    pub(super) fn drop_oldest(&mut self) {
        if self.items.pop_front().is_some() {
            self.first = self.first.after(1);
            self.sent = self.sent.saturating_sub(1);
            self.counts.dropped += 1;
        }
    }

    /// Queues a packet, which is encrypted with this key when it leaves, and was queued first at `queued`. The caller has
    /// checked [`SendHalf::has_room`].
    pub(crate) fn push(&mut self, payload: Bytes, key: KeyFlag, timestamp: u32, (queued, now): (Instant, Instant)) {
        if self.pacing.over_input.is_some() && self.input.count(payload.len() as u64 + self.overhead, now) {
            self.follow_input();
        }
        let message = self.message;
        self.message = if message == 0x03ff_ffff { 1 } else { message + 1 };
        let item = Item { payload, key, message, timestamp, queued, last_sent: None, repeat: None, lost: false };
        self.items.push_back(item);
    }

    /// Returns the number of packets that are sent and not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent
    }

    /// Returns whether no packet waits to be sent or acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Handles an acknowledgement of everything before `next`.
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
        } // else: the acknowledged packets were dropped before
        if is_progress { Acknowledged::Progress } else { Acknowledged::Nothing }
    }

    /// Handles a loss report. Returns a reported range that is no longer held, for a drop request.
    ///
    /// A packet is sent again at its first report. After that it is sent again only when the retransmission is lost,
    /// because a peer repeats its reports more often than once in a round trip.
    pub(crate) fn report_lost(
        &mut self,
        ranges: &[(Sequence, Sequence)],
        round_trip: RoundTrip,
        now: Instant,
    ) -> Option<(Sequence, Sequence)> {
        let mut gone = None;
        // A gap is known because the packet behind it has arrived.
        let received = ranges.iter().map(|(_, last)| self.first.distance(last.after(1))).max().unwrap_or(0);
        // Overlapping ranges are not an honest report. The work is bounded by the number of packets held.
        let mut budget = self.sent.saturating_add(ranges.len());
        for (from, to) in ranges {
            let start = self.first.distance(*from);
            let end = self.first.distance(*to);
            if start < 0 {
                gone = Some((*from, if end < 0 { *to } else { self.first.after(0x7fff_ffff) }));
            }
            let start = usize::try_from(start).unwrap_or(0);
            let end = usize::try_from(end).map_or(0, |end| end.saturating_add(1)).min(self.sent);
            for index in start..end {
                let Some(left) = budget.checked_sub(1) else { return gone };
                budget = left;
                let sequence = self.first.after(index as u32);
                let first = self.first;
                let Some(item) = self.items.get_mut(index).filter(|item| !item.lost) else { continue };
                let is_lost = item.repeat.is_none_or(|repeat| {
                    let overtaken = received >= first.distance(repeat.before);
                    repeat.is_lost(round_trip, overtaken, now)
                });
                if is_lost {
                    item.lost = true;
                    self.counts.lost += 1;
                    self.losses.push_back(sequence);
                }
            }
        }
        gone
    }

    /// Marks all packets as lost if the last of them was sent before `before`, because the peer has neither acknowledged
    /// nor reported them. While newer packets follow, they make the peer report what is missing.
    pub(crate) fn resend_silent(&mut self, before: Instant) {
        let newest = self.sent.checked_sub(1).and_then(|last| self.items.get(last));
        if newest.and_then(|item| item.last_sent).is_none_or(|at| at >= before) {
            return;
        }
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

    /// Drops packets that were pushed longer ago than `age`.
    pub(crate) fn drop_late(&mut self, now: Instant, age: Duration) {
        while self.items.front().is_some_and(|item| now.saturating_duration_since(item.queued) > age) {
            self.items.pop_front();
            self.first = self.first.after(1);
            self.sent = self.sent.saturating_sub(1);
            self.counts.dropped += 1;
        }
    }

    fn refill(&mut self, now: Instant) {
        if now <= self.refilled {
            return;
        }
        let micros = now.saturating_duration_since(self.refilled).as_micros().min(1_000_000) as u64;
        let gained = self.bytes_per_second.saturating_mul(micros) / 1_000_000;
        if gained > 0 {
            self.refilled = now;
            self.tokens = self.tokens.saturating_add(gained).min(self.burst());
        }
    }

    /// Returns the next packet that may leave now.
    pub(crate) fn poll(&mut self, now: Instant, destination: u32) -> Option<Selected> {
        self.refill(now);
        let index = match self.next_lost() {
            Some(index) => index,
            // A repair packet leaves before the packets behind its group.
            None if self.fec.as_ref().is_some_and(|fec| fec.peek().is_some()) => return self.poll_repair(),
            None => self.next_new()?,
        };
        let sequence = self.first.after(index as u32);
        let before = self.first.after(self.sent as u32);
        let item = self.items.get_mut(index)?;
        let bytes = item.payload.len() as u64 + self.overhead;
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
        if retransmitted {
            item.repeat = Some(Repeat { at: now, before });
            self.counts.retransmitted += 1;
        } else {
            self.sent = index + 1;
            self.counts.packets += 1;
            self.counts.bytes += bytes;
        }
        Some(Selected::Data { header, index })
    }

    /// Adds a packet that leaves to the packet filter, as it is on the wire. `sealed`: its encrypted payload.
    pub(crate) fn protect(&mut self, header: &DataHeader, index: usize, sealed: Option<&[u8]>) {
        let Some(fec) = self.fec.as_mut().filter(|_| !header.retransmitted) else { return };
        if let Some(payload) = sealed.or(self.items.get(index).map(|item| &item.payload[..])) {
            fec.add(header, payload);
        }
    }

    /// Returns the next repair packet, if pacing lets it leave.
    fn poll_repair(&mut self) -> Option<Selected> {
        let fec = self.fec.as_mut()?;
        let bytes = fec.peek()?.1.len() as u64;
        self.tokens = self.tokens.checked_sub(bytes)?;
        self.counts.repairs += 1;
        fec.pop().map(|(header, body)| Selected::Repair(header, body))
    }

    /// Returns the index of the next packet that was reported lost.
    fn next_lost(&mut self) -> Option<usize> {
        for _ in 0..self.losses.len() {
            let Some(sequence) = self.losses.pop_front() else { break };
            let Ok(index) = usize::try_from(self.first.distance(sequence)) else { continue }; // acknowledged meanwhile
            if self.items.get(index).is_some_and(|item| item.lost) {
                return Some(index);
            }
        }
        None
    }

    /// Returns the index of the next new packet, if the peer has room for it.
    fn next_new(&self) -> Option<usize> {
        (self.sent < self.items.len() && self.sent < self.window).then_some(self.sent)
    }

    /// Returns the time at which pacing lets the next packet leave, if one is waiting.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        let repairs = self.fec.as_ref().is_some_and(|fec| fec.peek().is_some());
        let waiting = repairs || !self.losses.is_empty() || self.next_new().is_some();
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

    /// Pushes packets at a rate for some time, while all sent packets are acknowledged. Returns the number of packets
    /// that wait at the end.
    fn backlog(half: &mut SendHalf, now: &mut Instant, bytes_per_second: u64, time: Duration) -> u64 {
        const PAYLOAD: u64 = 1316;
        let interval = Duration::from_nanos(PAYLOAD * 1_000_000_000 / bytes_per_second);
        let end = *now + time;
        while *now < end {
            *now += interval;
            if half.has_room() {
                half.push(Bytes::from_static(&[0; PAYLOAD as usize]), KeyFlag::Clear, 0, (*now, *now));
            } else {
                half.counts.dropped += 1;
            }
            while half.poll(*now, 1).is_some() {}
            let next = Sequence::new(
                half.next_sequence().number().wrapping_sub((half.items.len() - half.sent) as u32) & 0x7fff_ffff,
            );
            assert_ne!(half.acknowledge(next, None), Acknowledged::Unsent);
        }
        (half.items.len() - half.sent) as u64
    }

    #[test]
    fn srt_sender_takes_a_new_rate_in_the_middle_of_a_connection() {
        let mut now = Instant::now();
        let low = 312_500;
        let mut half = SendHalf::new(Sequence::new(1), 8192, 8192, low, now);
        // At 20 Mb/s with pacing of 2.5 Mb/s most packets wait, or find no room.
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) > 2000);
        half.set_rates(8192, Pacing { bytes_per_second: 6_250_000, over_input: None, is_limit: false });
        backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)); // sends the backlog
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) < 100);
        // With the old rate set again, the old pacing applies.
        half.set_rates(8192, Pacing { bytes_per_second: low, over_input: None, is_limit: false });
        assert!(backlog(&mut half, &mut now, 2_500_000, Duration::from_millis(2000)) > 2000);
    }

    #[test]
    fn srt_sender_follows_its_input_where_more_may_pass() {
        let mut now = Instant::now();
        let mut half = SendHalf::new(Sequence::new(1), 8192, 1 << 20, 1_562_500, now);
        half.set_rates(8192, Pacing { bytes_per_second: 1_562_500, over_input: Some(25), is_limit: false });
        // The input is 121 Mb/s with a maximum of 10 Mb/s. At no time may more than 20 ms of it wait.
        for _ in 0..20 {
            let behind = backlog(&mut half, &mut now, 15_125_000, Duration::from_millis(100));
            assert!(behind < 230, "{behind}");
        }
        assert_eq!(half.counts.dropped, 0);
        // When the input falls, the pacing follows it down.
        backlog(&mut half, &mut now, 150_000, Duration::from_millis(5000));
        assert!(half.bytes_per_second < 2_000_000, "{}", half.bytes_per_second);
    }
}
