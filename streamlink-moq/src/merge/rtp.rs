//! The merge by RTP sequence number, for broadcasts of several ingest nodes that see the same stream.

use super::{
    LegObject, MAX_WAITING, MAX_WAITING_BYTES, Output,
    history::{History, bit},
    overdue::Arrivals,
};
use crate::wire::{MediaPacket, rtp_sequence};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Distance of a sequence number from the next one from which it belongs to another stream.
const MAX_DISTANCE: u64 = 4096;
/// Number of packets in sequence at another place after which the stream goes on there.
const MIN_SEQUENTIAL: usize = 3;
/// Time for which packets of the old place are ignored after that.
const SETTLE: Duration = Duration::from_secs(2);
/// Extended number of the first packet, which leaves room below.
const START: u64 = 1 << 32;
/// Maximum number of missing packets whose absence is noted.
const MAX_ABSENT: usize = 4096;

#[derive(Debug)]
struct Waiting {
    packet: MediaPacket,
    legs: u32,
}

/// Packets at a place far from the next one, which may be where the stream goes on.
#[derive(Debug, Default)]
struct Strays {
    next: u16,
    packets: Vec<(usize, MediaPacket)>,
}

/// Merge by RTP sequence number.
#[derive(Debug)]
pub(crate) struct RtpMerge {
    pub(super) history: History,
    wait: Duration,
    /// Extended sequence number that comes next.
    next: Option<u64>,
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Missing packets, with the legs whose publisher does not have them.
    absent: BTreeMap<u64, u32>,
    arrivals: Arrivals<u64>,
    strays: Strays,
    /// Place that the stream has left, and until when its packets are ignored.
    left: Option<(u16, Instant)>,
    /// Newest group of a packet in its place.
    group: Option<u64>,
}

impl RtpMerge {
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            history: History::default(),
            wait,
            next: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            absent: BTreeMap::new(),
            arrivals: Arrivals::default(),
            strays: Strays::default(),
            left: None,
            group: None,
        }
    }

    pub(super) fn insert(&mut self, object: &LegObject, now: Instant, out: &mut Output) {
        let mut before = object.object.follows;
        for packet in &object.object.packets {
            let Some(sequence) = rtp_sequence(&packet.data) else { continue };
            if let Some(before) = before {
                self.note_absence(object.leg, before, sequence);
            }
            before = Some(sequence);
            if self.insert_packet(object.leg, sequence, packet, now, out) {
                self.group = Some(object.group);
            }
        }
        self.drain(now, out);
        while self.waiting_bytes > MAX_WAITING_BYTES || self.waiting.len() > MAX_WAITING {
            self.skip(out);
            self.drain(now, out);
        }
    }

    /// Takes in a packet. Returns whether it lies in the present stream.
    fn insert_packet(
        &mut self,
        leg: usize,
        sequence: u16,
        packet: &MediaPacket,
        now: Instant,
        out: &mut Output,
    ) -> bool {
        let next = *self.next.get_or_insert(START | u64::from(sequence));
        let number = extend(next, sequence);
        if number.abs_diff(next) > MAX_DISTANCE {
            self.take_stray(leg, sequence, packet, now, out);
            return false;
        }
        if number < next {
            self.history.count_old(leg, (0, number));
            return true;
        }
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.legs |= bit(leg);
            self.history.count_duplicate(leg);
            return true;
        }
        self.history.count_first(leg);
        self.waiting_bytes += packet.data.len();
        self.waiting.insert(number, Waiting { packet: packet.clone(), legs: bit(leg) });
        self.arrivals.push(number, now);
        if self.next == Some(number) {
            self.drain(now, out);
        }
        true
    }

    /// Notes that the publisher of a leg has nothing between two packets.
    fn note_absence(&mut self, leg: usize, before: u16, sequence: u16) {
        let gap = sequence.wrapping_sub(before).wrapping_sub(1);
        let Some(next) = self.next else { return };
        if gap == 0 || u64::from(gap) > MAX_DISTANCE {
            return;
        }
        let end = extend(next, sequence);
        if end.abs_diff(next) > MAX_DISTANCE {
            return;
        }
        for number in (end - u64::from(gap)).max(next)..end {
            if self.absent.len() < MAX_ABSENT || self.absent.contains_key(&number) {
                *self.absent.entry(number).or_default() |= bit(leg);
            }
        }
    }

    /// Takes in a packet far from the next one. The stream goes on there when three come in sequence.
    fn take_stray(&mut self, leg: usize, sequence: u16, packet: &MediaPacket, now: Instant, out: &mut Output) {
        let is_of_old = self.left.is_some_and(|(place, until)| {
            now < until && u64::from(sequence.wrapping_sub(place).min(place.wrapping_sub(sequence))) <= MAX_DISTANCE
        });
        let key = (u64::MAX, u64::MAX); // never found: counts as late
        self.history.count_old(leg, key);
        if is_of_old {
            return;
        }
        if self.strays.packets.is_empty() || self.strays.next != sequence {
            self.strays.packets.clear();
        }
        self.strays.next = sequence.wrapping_add(1);
        self.strays.packets.push((leg, packet.clone()));
        if self.strays.packets.len() < MIN_SEQUENTIAL {
            return;
        }
        // What waits for a gap goes on first.
        while !self.waiting.is_empty() {
            self.skip(out);
            self.drain(now, out);
        }
        let Some(next) = self.next else { return };
        self.left = Some((low(next), now + SETTLE));
        self.absent.clear();
        out.restarts += 1;
        let strays = std::mem::take(&mut self.strays.packets);
        let begin = strays.first().and_then(|(_, packet)| rtp_sequence(&packet.data)).unwrap_or(sequence);
        // Extended numbers grow, so that the history stays in order.
        let cycle = (next & !0xffff) + (2 << 16);
        self.next = Some(cycle | u64::from(begin));
        for (leg, packet) in strays {
            let sequence = rtp_sequence(&packet.data).unwrap_or(begin);
            self.insert_packet(leg, sequence, &packet, now, out);
        }
    }

    pub(super) fn poll(&mut self, now: Instant, out: &mut Output) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.skip(out);
            self.drain(now, out);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = self.arrivals.oldest()? + self.wait;
        Some(self.history.catching_up().map_or(deadline, |until| until.max(deadline)))
    }

    pub(super) fn resume_from(&self) -> Option<u64> {
        self.group
    }

    fn drain(&mut self, now: Instant, out: &mut Output) {
        let Some(mut next) = self.next else { return };
        let live = self.history.live();
        while !self.waiting.is_empty() {
            if let Some(waiting) = self.waiting.remove(&next) {
                self.waiting_bytes -= waiting.packet.data.len();
                out.packets.push(waiting.packet);
                self.history.passed((0, next), waiting.legs, now);
            } else if live != 0 && self.absent.get(&next).is_some_and(|legs| legs & live == live) {
                // No publisher has it: it was lost before.
            } else {
                break;
            }
            self.absent.remove(&next);
            next += 1;
        }
        self.next = Some(next);
        self.arrivals.settle(|number| self.waiting.contains_key(number));
        while self.absent.first_key_value().is_some_and(|(number, _)| *number < next) {
            self.absent.pop_first();
        }
    }

    /// Goes on with the first packet that is there.
    fn skip(&mut self, out: &mut Output) {
        let (Some(next), Some((first, _))) = (self.next, self.waiting.first_key_value()) else { return };
        out.lost += first - next;
        self.next = Some(*first);
    }
}

fn low(number: u64) -> u16 {
    (number & 0xffff).try_into().unwrap_or_default()
}

/// Extends a sequence number to the number nearest to another. Numbers begin at 2³², so that there is room below.
fn extend(near: u64, sequence: u16) -> u64 {
    let ahead = sequence.wrapping_sub(low(near));
    if ahead < 0x8000 { near + u64::from(ahead) } else { near - (0x1_0000 - u64::from(ahead)) }
}
