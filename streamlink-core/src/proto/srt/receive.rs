//! Receiving half of a connection (draft-sharabayko-srt-01, sections 4.4–4.8). It orders packets and holds them until
//! their delivery time (TSBPD), reports losses at once and periodically, sends acknowledgements, and gives up packets
//! that are too late.
//!
//! A packet waits for at most the latency and [`MAX_LEAD`](super::peer_clock::MAX_LEAD), whatever timestamp it carries. A
//! timestamp further ahead comes from a clock that has jumped, or is forged. Memory: at most `capacity` packets, each of
//! up to [`super::packet::MAX_PAYLOAD`] bytes and 150 bytes of overhead.

use super::{
    loss_list::{GivenUp, LossList, LossRange},
    peer_clock::PeerClock,
    sequence::Sequence,
};
use crate::packet_filter::FilterArq;
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of acknowledgements that wait for their ACKACK.
const MAX_PENDING_ACKS: usize = 64;

/// Counters of the receiving half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiveCounts {
    /// Delivered in order.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Missing when a later packet arrived.
    pub(crate) missed: u64,
    /// Missed, and arrived in time after all, or were rebuilt.
    pub(crate) recovered: u64,
    /// Never arrived, or too late.
    pub(crate) lost: u64,
    /// Arrived again after they had arrived.
    pub(crate) duplicates: u64,
    /// Delivered by another member of the group before.
    pub(crate) redundant: u64,
    /// Arrived for the first time after they had been given up, far outside the window, or not wanted.
    pub(crate) discarded: u64,
    /// Arrived with a timestamp too far ahead, and were timed by their arrival.
    pub(crate) mistimed: u64,
    /// Repair packets of the packet filter that arrived.
    pub(crate) repairs: u64,
    /// Rebuilt by the packet filter.
    pub(crate) rebuilt: u64,
    /// Missed, and could not be rebuilt by the packet filter.
    pub(crate) unrepaired: u64,
    /// Repair packets that were wrong.
    pub(crate) wrong_repairs: u64,
}

/// Next packet of a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: Sequence,
    pub(crate) is_due: bool,
}

#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    /// Packets from `base` on, with their delivery times. The last slot is never empty.
    slots: VecDeque<Option<(Bytes, Instant)>>,
    /// Sequence number of the next packet to deliver.
    base: Sequence,
    losses: LossList,
    given_up: GivenUp,
    capacity: usize,
    clock: PeerClock,
    latency: Duration,
    drop_late: bool,
    /// Set for a member of a group, which delivers the packets of all members.
    is_member: bool,
    /// Of a member: number of the next packet that the group delivers.
    floor: Option<Sequence>,
    /// Of a member: set while it sends keep-alive packets instead of media.
    stands_by: bool,
    acked: Sequence,
    ack_number: u32,
    pending_acks: VecDeque<(u32, Instant)>,
    since_ack: u32,
    last_ack: Option<Instant>,
    confirmed: bool,
    pub(crate) counts: ReceiveCounts,
}

impl ReceiveHalf {
    /// Creates the half. `timestamp` is that of the handshake packet that arrived at `now`.
    pub(crate) fn new(
        first: Sequence,
        capacity: usize,
        latency: Duration,
        drop_late: bool,
        timestamp: u32,
        now: Instant,
    ) -> Self {
        Self {
            slots: VecDeque::new(),
            base: first,
            losses: LossList::new(latency, now),
            given_up: GivenUp::default(),
            capacity,
            clock: PeerClock::new(timestamp, now),
            latency,
            drop_late,
            is_member: false,
            floor: None,
            stands_by: false,
            acked: first,
            ack_number: 0,
            pending_acks: VecDeque::new(),
            since_ack: 0,
            last_ack: None,
            confirmed: true,
            counts: ReceiveCounts::default(),
        }
    }

    /// Leaves it to a packet filter to rebuild what is missing, with this use of retransmissions beside it.
    pub(crate) fn set_filter(&mut self, arq: FilterArq) {
        self.losses.set_filter(arq);
    }

    /// Raises the capacity. It never shrinks, because the window that was announced to the peer still holds.
    pub(crate) fn grow(&mut self, capacity: usize) {
        self.capacity = self.capacity.max(capacity);
    }

    /// Returns the sequence number after the highest one received.
    fn end(&self) -> Sequence {
        self.base.after(self.slots.len() as u32) // at most the capacity
    }

    /// Returns the first missing sequence number.
    pub(crate) fn next_missing(&self) -> Sequence {
        self.losses.first().unwrap_or(self.end())
    }

    /// Returns the free buffer space, in packets.
    pub(crate) fn window(&self) -> u32 {
        self.capacity.saturating_sub(self.slots.len()).max(2) as u32
    }

    /// Returns whether a packet of this number is needed. Others are counted as duplicates or as discarded.
    pub(crate) fn wants(&mut self, sequence: Sequence) -> bool {
        self.catch_up(sequence);
        match usize::try_from(self.base.distance(sequence)) {
            Ok(ahead) if ahead >= self.capacity => self.counts.discarded += 1,
            Ok(ahead) if matches!(self.slots.get(ahead), Some(Some(_))) => self.counts.duplicates += 1,
            Ok(_) => return true,
            Err(_) if self.given_up.remove(sequence) => self.counts.discarded += 1,
            Err(_) if self.is_member => self.counts.redundant += 1,
            Err(_) => self.counts.duplicates += 1,
        }
        false
    }

    /// Returns whether a member brings media, and does not stand by.
    pub(super) fn is_active(&self) -> bool {
        !self.stands_by && self.counts != ReceiveCounts::default()
    }

    /// Handles a keep-alive packet, which a member sends when it sends no media.
    pub(super) fn stand_by(&mut self) {
        self.stands_by = self.is_member;
    }

    /// Passes over the numbers that other members of the group have brought while this one stood by, or its path was dead
    /// for longer than the buffer holds, when it sends again. Nothing is acknowledged, and nothing reported, that has not
    /// been sent over this member.
    fn catch_up(&mut self, sequence: Sequence) {
        let stood_by = std::mem::replace(&mut self.stands_by, false);
        let is_beyond = usize::try_from(self.base.distance(sequence)).is_ok_and(|ahead| ahead >= self.capacity);
        let Some(floor) = self.floor.filter(|_| (stood_by || is_beyond) && self.slots.is_empty()) else { return };
        let target = if floor.distance(sequence) > 0 { floor } else { sequence };
        let Ok(passed @ 1..) = u64::try_from(self.base.distance(target)) else { return };
        self.counts.missed += if stood_by { 0 } else { passed };
        self.losses.remove(self.base, target.before(1));
        self.base = target;
    }

    /// Returns whether a rebuilt packet of this number is needed.
    pub(crate) fn lacks(&self, sequence: Sequence) -> bool {
        let ahead = usize::try_from(self.base.distance(sequence));
        ahead.is_ok_and(|ahead| ahead < self.capacity && !matches!(self.slots.get(ahead), Some(Some(_))))
    }

    /// Returns whether a packet of this number lies in the window of numbers that the buffer may hold.
    pub(crate) fn is_near(&self, sequence: Sequence) -> bool {
        (self.base.distance(sequence).unsigned_abs() as usize) < self.capacity
    }

    /// Stores a needed packet. Returns the gap that it has opened before it, which is to be reported at once.
    pub(crate) fn store(
        &mut self,
        sequence: Sequence,
        (timestamp, is_repeat): (u32, bool),
        payload: Bytes,
        now: Instant,
    ) -> Option<LossRange> {
        let ahead = usize::try_from(self.base.distance(sequence)).ok().filter(|n| *n < self.capacity)?;
        let due = self.due(timestamp, now);
        self.since_ack += 1;
        if ahead < self.slots.len() {
            self.slots[ahead] = Some((payload, due));
            self.counts.recovered += 1;
            if !is_repeat {
                self.losses.observe_reordering(sequence, now);
            }
            self.losses.remove(sequence, sequence);
            return None;
        }
        self.losses.relax_reordering(now);
        let mut report = None;
        if ahead > self.slots.len() {
            let gap = (self.end(), sequence.before(1));
            self.counts.missed += (ahead - self.slots.len()) as u64;
            report = self.losses.add(gap, now).then_some(gap);
        }
        self.slots.resize(ahead, None);
        self.slots.push_back(Some((payload, due)));
        report
    }

    #[cfg(test)]
    pub(super) fn reports_without_delay(&self) -> bool {
        self.losses.reports_without_delay()
    }

    /// Counts the losses before `horizon`, which the packet filter cannot rebuild any more. Returns those that are to be
    /// reported now.
    pub(crate) fn give_up_repair(&mut self, horizon: Sequence, now: Instant) -> Vec<LossRange> {
        let (unrepaired, due) = self.losses.give_up_repair(horizon, now);
        self.counts.unrepaired += unrepaired;
        due
    }

    /// Handles a drop request: the sender has given up this range.
    pub(crate) fn drop_range(&mut self, first: Sequence, last: Sequence) {
        if first.distance(last) >= 0 {
            self.losses.remove(first, last);
        }
    }

    /// Returns the losses that were last reported at least `interval` ago, as many as fit into one packet.
    pub(crate) fn overdue_losses(&mut self, now: Instant, interval: Duration) -> Vec<LossRange> {
        let (unrepaired, due) = self.losses.overdue(now, interval);
        self.counts.unrepaired += unrepaired;
        due
    }

    /// Returns the time at which losses are to be reported again.
    pub(crate) fn next_report(&self, interval: Duration) -> Option<Instant> {
        self.losses.next_report(interval)
    }

    /// Returns the delivery time of a packet that arrived at `now`.
    fn due(&mut self, timestamp: u32, now: Instant) -> Instant {
        let sent = self.clock.sent_at(timestamp, now);
        self.counts.mistimed += u64::from(sent.is_none());
        sent.unwrap_or(now).checked_add(self.latency).unwrap_or(now)
    }

    /// Takes over the clock of another member of a group, so that both deliver a packet at the same time. From now on the
    /// group delivers, from the number `next` on.
    pub(super) fn join(&mut self, first: Option<&Self>, next: Option<Sequence>) {
        self.is_member = true;
        if let Some(first) = first {
            self.clock.follow(&first.clock);
        }
        // A caller that receives announces a number of its own, which the group has left behind long ago.
        if let Some(next) = next {
            let ahead = usize::try_from(next.distance(self.base));
            if ahead.is_err() || ahead.is_ok_and(|ahead| ahead > self.capacity) {
                self.base = next;
                self.acked = next;
            }
        }
    }

    /// Follows the clock of another member of the group, so that both deliver a packet at the same time, whatever the paths
    /// do.
    pub(super) fn follow(&mut self, first: &PeerClock) {
        self.clock.follow(first);
    }

    /// Returns the clock of the peer.
    pub(super) fn clock(&self) -> PeerClock {
        self.clock
    }

    /// Returns the next packet, if nothing has to be waited for before it.
    pub(super) fn head(&self, now: Instant) -> Option<Head> {
        let (gap, due) = self.next_available().filter(|(gap, _)| self.may_pass_over(*gap))?;
        Some(Head { number: self.base.after(gap as u32), is_due: due <= now }) // at most the capacity
    }

    /// Returns whether the next packet may be delivered though as many are missing before it: if late packets are given up,
    /// or the sender has given these up.
    fn may_pass_over(&self, gap: usize) -> bool {
        let is_waited_for = |first: Sequence| usize::try_from(self.base.distance(first)).is_ok_and(|at| at < gap);
        gap == 0 || self.drop_late || !self.losses.first().is_some_and(is_waited_for)
    }

    /// Takes the next packet out, and gives up those that are missing before it.
    pub(super) fn take_head(&mut self) -> Option<(Bytes, Instant)> {
        let (gap, _) = self.next_available()?;
        self.skip(gap);
        self.take_first()
    }

    /// Takes the packet out that is next, and is there.
    fn take_first(&mut self) -> Option<(Bytes, Instant)> {
        let (payload, due) = self.slots.pop_front().flatten()?;
        self.base = self.base.after(1);
        self.counts.packets += 1;
        self.counts.bytes += payload.len() as u64;
        Some((payload, due))
    }

    /// Drops the packets before `next`, which another member of the group has delivered. Packets that have not arrived yet
    /// are not acknowledged before they do.
    pub(super) fn skip_to(&mut self, next: Sequence) {
        self.floor = Some(next);
        let count = usize::try_from(self.base.distance(next)).unwrap_or(0).min(self.slots.len());
        self.counts.redundant += self.slots.iter().take(count).flatten().count() as u64;
        self.skip(count);
    }

    /// Removes the first `count` slots.
    fn skip(&mut self, count: usize) {
        let Some(last) = (count as u32).checked_sub(1).map(|steps| self.base.after(steps)) else { return };
        self.slots.drain(..count);
        self.losses.remove(self.base, last);
        self.base = last.after(1);
    }

    /// Stops waiting for missing packets, because none will come any more.
    pub(crate) fn stop_waiting(&mut self) {
        self.drop_late = true;
    }

    /// Returns the next packet that is due, and since when.
    pub(crate) fn deliver(&mut self, now: Instant) -> Option<(Bytes, Instant)> {
        let (gap, due) = self.next_available()?;
        if due > now || !self.may_pass_over(gap) {
            return None;
        }
        if gap > 0 {
            // The packets missing before it are too late, and are given up.
            self.slots.drain(..gap);
            let last = self.base.after(gap as u32 - 1);
            // The packet filter has not rebuilt them in time.
            self.counts.unrepaired += self.losses.repairable_until(last);
            self.losses.remove(self.base, last);
            self.given_up.add((self.base, last), now);
            self.base = last.after(1);
            self.counts.lost += gap as u64;
        }
        self.take_first()
    }

    /// Returns the number of packets missing before the first available one, and the delivery time of that.
    fn next_available(&self) -> Option<(usize, Instant)> {
        // The first loss range gives the position, so that a wide gap is not walked for every packet.
        let skip = self.losses.missing_from(self.base);
        let at = skip + self.slots.iter().skip(skip).position(Option::is_some)?;
        let (_, due) = self.slots.get(at)?.as_ref()?;
        Some((at, *due))
    }

    /// Returns the delivery time of the next packet.
    pub(crate) fn next_delivery(&self) -> Option<Instant> {
        let (gap, due) = self.next_available()?;
        self.may_pass_over(gap).then_some(due)
    }

    /// Returns the time between the oldest and the newest packet held.
    pub(crate) fn buffered(&self) -> Duration {
        let first = self.slots.iter().flatten().next().map(|(_, due)| *due);
        let last = self.slots.back().and_then(Option::as_ref).map(|(_, due)| *due);
        last.zip(first).map_or(Duration::ZERO, |(last, first)| last.saturating_duration_since(first))
    }

    /// Returns whether enough packets have arrived for a light acknowledgement.
    pub(crate) fn light_ack_due(&mut self) -> bool {
        let due = self.since_ack >= 64;
        if due {
            self.since_ack = 0;
        }
        due
    }

    /// Returns the number of a full acknowledgement that is due now, and the sequence number that it acknowledges.
    pub(crate) fn ack_due(&mut self, now: Instant, repeat: Duration) -> Option<(u32, Sequence)> {
        let next = self.next_missing();
        let news = next != self.acked;
        let again = !self.confirmed && self.last_ack.is_some_and(|at| now.saturating_duration_since(at) >= repeat);
        if !news && !again {
            return None;
        }
        self.acked = next;
        self.since_ack = 0;
        self.confirmed = false;
        self.last_ack = Some(now);
        self.ack_number = if self.ack_number >= 0x7fff_ffff { 1 } else { self.ack_number + 1 };
        if self.pending_acks.len() == MAX_PENDING_ACKS {
            self.pending_acks.pop_front();
        }
        self.pending_acks.push_back((self.ack_number, now));
        Some((self.ack_number, next))
    }

    /// Returns whether an acknowledgement will be due even if no more packets arrive.
    pub(crate) fn needs_ack(&self) -> bool {
        self.next_missing() != self.acked || !self.confirmed
    }

    /// Handles the ACKACK of an acknowledgement. Returns the round-trip time.
    pub(crate) fn confirm(&mut self, number: u32, timestamp: u32, now: Instant) -> Option<Duration> {
        let at = self.pending_acks.iter().position(|(n, _)| *n == number)?;
        let (_, sent) = self.pending_acks.get(at).copied()?;
        self.pending_acks.drain(..=at);
        self.confirmed |= number == self.ack_number;
        let rtt = now.saturating_duration_since(sent);
        self.clock.observe(timestamp, now, rtt);
        Some(rtt)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::peer_clock::LEAPS, *};

    const LATENCY: Duration = Duration::from_millis(120);
    const FIRST: u32 = u32::MAX - 2_000_000;

    fn half(now: Instant) -> ReceiveHalf {
        ReceiveHalf::new(Sequence::new(7), 8192, LATENCY, true, FIRST, now)
    }

    /// Stores packets, given as pairs of arrival time and timestamp in microseconds since the start. Returns the time
    /// for which each waits.
    fn waits(half: &mut ReceiveHalf, start: Instant, packets: &[(u64, i64)]) -> Vec<Duration> {
        let mut waits = Vec::new();
        for (arrival, time) in packets {
            let now = start + Duration::from_micros(*arrival);
            let timestamp = FIRST.wrapping_add(*time as u32); // modulo 2^32, as on the wire
            let next = half.end();
            assert!(half.wants(next));
            half.store(next, (timestamp, false), Bytes::from_static(b"x"), now);
            let due = half.next_delivery().unwrap();
            waits.push(due.saturating_duration_since(now));
            assert!(half.deliver(due).is_some());
        }
        waits
    }

    #[test]
    fn srt_packets_wait_by_their_time_over_the_wrap() {
        let start = Instant::now();
        let mut half = half(start);
        // Timestamps wrap two seconds after the start.
        let waits = waits(&mut half, start, &[(20_000, 10_000), (2_500_000, 2_500_000), (2_600_000, 2_700_000)]);
        assert_eq!(waits, [110, 120, 220].map(Duration::from_millis));
        assert_eq!(half.counts.mistimed, 0);
    }

    #[test]
    fn srt_receiver_that_waits_passes_over_what_its_sender_gives_up() {
        let start = Instant::now();
        let mut half = ReceiveHalf::new(Sequence::new(7), 8192, LATENCY, false, FIRST, start);
        for number in [7, 10, 14] {
            assert!(half.wants(Sequence::new(number)));
            half.store(Sequence::new(number), (FIRST, false), Bytes::from_static(b"x"), start);
        }
        let due = start + LATENCY;
        assert!(half.deliver(due).is_some());
        assert_eq!((half.deliver(due), half.next_delivery()), (None, None));
        half.drop_range(Sequence::new(8), Sequence::new(8));
        assert_eq!(half.deliver(due), None, "number 9 may still come");
        half.drop_range(Sequence::new(8), Sequence::new(12));
        assert_eq!(half.next_delivery(), Some(due));
        assert!(half.deliver(due).is_some());
        assert_eq!((half.counts.lost, half.deliver(due)), (2, None), "number 13 may still come");
        half.drop_range(Sequence::new(13), Sequence::new(13));
        assert!(half.deliver(due).is_some());
        assert_eq!((half.counts.lost, half.counts.packets), (5, 3));
    }

    #[test]
    fn srt_receiver_tells_duplicates_from_late_packets() {
        let start = Instant::now();
        let mut half = half(start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let arrive = |half: &mut ReceiveHalf, number: u32, now: Instant| {
            let wanted = half.wants(Sequence::new(number));
            if wanted {
                half.store(Sequence::new(number), (FIRST, false), Bytes::from_static(b"x"), now);
            }
            wanted
        };
        for number in [7, 8, 8, 12, 7] {
            arrive(&mut half, number, at(0));
        }
        assert_eq!((half.counts.duplicates, half.counts.discarded), (2, 0));
        // Numbers 9 to 11 are given up when 12 is due.
        while half.deliver(at(1000)).is_some() {}
        assert_eq!((half.counts.packets, half.counts.lost), (3, 3));
        for number in [10, 7, 12, 10, 8] {
            assert!(!arrive(&mut half, number, at(1001)));
        }
        // Only the first arrival of number 10 brought anything new.
        assert_eq!((half.counts.duplicates, half.counts.discarded), (2 + 4, 1));
        assert!(!arrive(&mut half, 9000, at(1002)), "beyond the window");
        assert_eq!((half.counts.duplicates, half.counts.discarded, half.counts.lost), (6, 2, 3));
    }

    #[test]
    fn srt_packet_with_a_time_far_ahead_waits_for_the_latency() {
        let start = Instant::now();
        let mut half = half(start);
        let ahead = 1_700_000_000;
        let got = waits(&mut half, start, &[(0, 0), (10_000, ahead), (20_000, 2 * ahead - 5), (30_000, 30_000)]);
        // The third timestamp is half an hour ahead, or behind. Behind is nearer, so the packet passes at once.
        assert_eq!(got, [120, 120, 0, 120].map(Duration::from_millis));
        assert_eq!(half.counts.mistimed, 1);
        // A small lead is accepted, since the handshake may have been slow.
        let got = waits(&mut half, start, &[(40_000, 4_040_000)]);
        assert_eq!(got, [Duration::from_millis(4120)]);
    }

    #[test]
    fn srt_sender_whose_clock_leaps_keeps_its_spacing() {
        let start = Instant::now();
        let mut half = half(start);
        let leap = 60_000_000;
        let packets: Vec<(u64, i64)> = (0..=i64::from(LEAPS)).map(|n| (n as u64 * 10_000, leap + n * 10_000)).collect();
        assert!(waits(&mut half, start, &packets).iter().all(|wait| *wait == LATENCY));
        assert_eq!(half.counts.mistimed, u64::from(LEAPS));
        // The clock is known by now, so a packet that is 5 ms late is delivered on time.
        let at = 1_000_000;
        assert_eq!(waits(&mut half, start, &[(at + 5000, leap + at as i64)]), [Duration::from_millis(115)]);
    }

    #[test]
    fn srt_sender_may_be_silent_for_hours() {
        let start = Instant::now();
        let mut half = half(start);
        let hour = 3_600_000_000u64;
        let packets: Vec<(u64, i64)> = (0..10).map(|n| (n * hour, (n * hour) as i64)).collect();
        assert!(waits(&mut half, start, &packets).iter().all(|wait| *wait == LATENCY));
        assert_eq!(half.counts.mistimed, 0);
    }
}
