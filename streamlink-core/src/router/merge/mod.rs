//! Seamless merge of several paths (SMPTE ST 2022-7): sources that carry the same RTP packets are combined packet by
//! packet.
//!
//! The first copy of a packet is passed on, from whichever path it comes. Packets behind a missing one wait for the
//! recovery window, so that each path may lose what another delivers, and lag behind it by up to the window.
//!
//! An encoder that begins anew sends other packets, with sequence numbers before or far behind those of the old ones.
//! They are held until no path brings the old stream any more, and two of them are consecutive; then the merge goes on
//! with the first of them. Copies of packets that have passed, and packets that come too late, are not taken for such.

use crate::media::{Packet, rtp::Header};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of paths: one bit each.
pub(crate) const MAX_PATHS: usize = u16::BITS as usize;
/// Maximum distance of a sequence number from the next one, in both directions, for a packet to belong to the stream.
/// Also the maximum number of packets remembered before the next one, and held behind it.
const REACH: i16 = 16_000;
/// Number of packets whose fingerprints are remembered. At least [`REACH`].
const REMEMBERED: usize = 1 << 14;
/// Maximum number of packets of a new stream that are held while a path still brings the old one.
const MAX_PENDING: usize = 4096;
/// Minimum time without a new packet after which copies of old ones are a stream that repeats itself.
const REPEATED: Duration = Duration::from_millis(500);
/// Extended sequence numbers begin well above zero, so that earlier packets have a number, too.
const FIRST: u64 = 1 << 32;

/// Packet counters of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathCounts {
    /// Packets that other paths delivered and this one did not.
    pub(crate) lost: u64,
    /// Packets that no other path delivered.
    pub(crate) unique_packets: u64,
    /// Packets that arrived after the window.
    pub(crate) late: u64,
    /// Packets of another stream.
    pub(crate) foreign: u64,
}

#[derive(Debug)]
struct PathState {
    counts: PathCounts,
    last: Option<Instant>,
    /// True if the last packet belonged to another stream.
    foreign: bool,
    /// Extended sequence number of the first packet that counts for the path; `None` if no source has it.
    joined: Option<u64>,
}

impl PathState {
    fn new(joined: Option<u64>) -> Self {
        Self { counts: PathCounts::default(), last: None, foreign: false, joined }
    }
}

/// State of one sequence number.
#[derive(Debug, Default)]
struct Slot {
    /// Bit set of the paths that delivered the packet.
    paths: u16,
    packet: Option<Packet>,
    fingerprint: u32,
}

/// Packets that may be the beginning of another stream.
#[derive(Debug, Default)]
struct Pending {
    packets: VecDeque<(usize, Header, Packet)>,
    /// Two of them are consecutive.
    proven: bool,
}

/// Relation of a packet to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinship {
    /// A packet of the stream with this extended sequence number.
    Own(u64),
    /// A packet of the stream that was given up or passed on long ago.
    Late,
    /// A packet of another stream.
    Other,
}

/// Merges one stream from several paths. Holds at most twice [`REACH`] slots.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Recovery window, and the least that the paths need.
    window: Duration,
    least: Duration,
    paths: Vec<PathState>,
    ssrc: Option<u32>,
    /// SSRC of the stream before this one.
    before: Option<u32>,
    /// Extended sequence number of the first slot.
    first: u64,
    /// Extended sequence number of the next packet to pass on.
    next: u64,
    slots: VecDeque<Slot>,
    /// Arrival of the oldest waiting packet.
    waiting_since: Option<Instant>,
    /// Values of `next` and the times when they were reached, to know when every path had its time for them.
    passed: VecDeque<(Instant, u64)>,
    lost: u64,
    /// Sequence numbers and fingerprints of the packets before the first slot, each in the place of its number; 0 for one
    /// that no path delivered.
    seen: Vec<(u16, u32)>,
    /// Time of the last packet that no path had delivered before.
    progress: Option<Instant>,
    pending: Pending,
}

impl Merge {
    pub(crate) fn new(window: Duration, paths: usize) -> Self {
        Self {
            window,
            least: Duration::ZERO,
            paths: (0..paths.min(MAX_PATHS)).map(|_| PathState::new(Some(0))).collect(),
            ssrc: None,
            before: None,
            first: 0,
            next: 0,
            slots: VecDeque::new(),
            waiting_since: None,
            passed: VecDeque::new(),
            lost: 0,
            seen: Vec::new(),
            progress: None,
            pending: Pending::default(),
        }
    }

    /// Adds a path, and returns its index: that of a path that was removed, if there is one. `None` if there are
    /// [`MAX_PATHS`] already.
    pub(crate) fn add_path(&mut self) -> Option<usize> {
        let fresh = PathState::new(Some(self.next));
        if let Some(at) = self.paths.iter().position(|path| path.joined.is_none()) {
            self.paths[at] = fresh; // in range: just found
            return Some(at);
        }
        if self.paths.len() >= MAX_PATHS {
            return None;
        }
        self.paths.push(fresh);
        Some(self.paths.len() - 1)
    }

    /// Removes a path whose source is gone. Another one may have its index later, so nothing is left of it.
    pub(crate) fn remove_path(&mut self, path: usize, now: Instant, out: &mut Vec<Packet>) {
        self.lose(path, now, out);
        let Some(state) = self.paths.get_mut(path) else { return };
        *state = PathState::new(None);
        self.pending.packets.retain(|(from, ..)| *from != path);
    }

    /// Changes the recovery window.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window.max(self.least);
    }

    /// Widens the recovery window for a path that needs as much to get its packets again.
    pub(crate) fn widen(&mut self, least: Duration) {
        self.least = self.least.max(least);
        self.window = self.window.max(least);
    }

    pub(crate) fn counts(&self, path: usize) -> PathCounts {
        self.paths.get(path).map(|path| path.counts).unwrap_or_default()
    }

    /// Returns the number of packets that no path delivered in time.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Handles a packet of a path. Packets that can be passed on now are appended to `out` in order. Anything that is
    /// not RTP is ignored.
    pub(crate) fn handle(&mut self, path: usize, packet: Packet, now: Instant, out: &mut Vec<Packet>) {
        let Ok(header) = Header::parse(packet.data()) else { return };
        let fingerprint = header.fingerprint(packet.data());
        let Some(state) = self.paths.get_mut(path) else { return };
        state.last = Some(now);
        if self.ssrc.is_none() {
            self.restart(&header, out);
        }
        let kinship = self.kinship(&header, fingerprint, now);
        let state = &mut self.paths[path]; // it was found above
        state.foreign = kinship == Kinship::Other;
        match kinship {
            Kinship::Own(sequence) => {
                self.place(path, sequence, packet, fingerprint, now, out);
                if self.paths.iter().all(|path| !path.foreign) {
                    self.pending = Pending::default();
                }
            }
            Kinship::Late => state.counts.late = state.counts.late.saturating_add(1),
            Kinship::Other => {
                let counter =
                    if self.ssrc == Some(header.ssrc) { &mut state.counts.late } else { &mut state.counts.foreign };
                *counter = counter.saturating_add(1);
                self.hold(path, &header, packet, now);
                self.begin_pending(now, out);
            }
        }
        self.settle(now);
    }

    /// Ends the connection of a path. After that of the last one, any stream may follow.
    pub(crate) fn lose(&mut self, path: usize, now: Instant, out: &mut Vec<Packet>) {
        let Some(state) = self.paths.get_mut(path) else { return };
        state.last = None;
        state.foreign = false;
        if self.paths.iter().all(|path| path.last.is_none()) {
            self.finish(now, out);
            self.ssrc = None;
            self.pending = Pending::default();
        }
    }

    fn kinship(&self, header: &Header, fingerprint: u32, now: Instant) -> Kinship {
        let sequence = within_reach(self.next, header.sequence).filter(|_| self.ssrc == Some(header.ssrc));
        let Some(sequence) = sequence else { return Kinship::Other };
        let since = |time: Option<Instant>| time.map(|time| now.saturating_duration_since(time));
        let slot = sequence.checked_sub(self.first).and_then(|place| self.slots.get(place as usize));
        let known = match slot {
            Some(slot) => (slot.paths != 0).then_some(slot.fingerprint),
            None if sequence >= self.next => None,
            None => match self.seen.get(usize::from(header.sequence) % REMEMBERED) {
                Some((number, seen)) if *number == header.sequence => Some(*seen),
                // Before the stream began, or longer ago than anything that is remembered.
                _ => return Kinship::Other,
            },
        };
        let is_stuck = since(self.progress) > Some(self.window.saturating_mul(2).max(REPEATED));
        match known {
            None if sequence >= self.next => Kinship::Own(sequence),
            // Given up by all: late, unless nothing else has come for longer than a path may lag.
            None | Some(0) if is_stuck => Kinship::Other,
            Some(seen) if seen != 0 && (seen != fingerprint || is_stuck) => Kinship::Other,
            _ if sequence < self.first => Kinship::Late,
            _ => Kinship::Own(sequence),
        }
    }

    /// Holds a packet of another stream for the time of the window.
    fn hold(&mut self, path: usize, header: &Header, packet: Packet, now: Instant) {
        let Self { pending: Pending { packets, proven }, window, .. } = self;
        let near = |other: &Header| {
            other.ssrc == header.ssrc && (header.sequence.wrapping_sub(other.sequence) as i16).unsigned_abs() <= 1 << 12
        };
        if packets.back().is_some_and(|(_, other, _)| !near(other)) {
            packets.clear();
            *proven = false;
        }
        while let Some((_, _, oldest)) = packets.front() {
            let old = now.saturating_duration_since(oldest.arrival()) > *window;
            if !old && packets.len() < MAX_PENDING {
                break;
            }
            packets.pop_front();
        }
        let follows = |other: &Header| other.sequence.wrapping_add(1) == header.sequence;
        *proven |= packets.iter().rev().take(2 * MAX_PATHS).any(|(_, other, _)| follows(other));
        packets.push_back((path, *header, packet));
    }

    /// Goes on with the other stream, if it is certain and no path has brought the old one within the window.
    fn begin_pending(&mut self, now: Instant, out: &mut Vec<Packet>) {
        let recent =
            |path: &PathState| path.last.is_some_and(|last| now.saturating_duration_since(last) <= self.window);
        if !self.pending.proven || self.paths.iter().any(|path| recent(path) && !path.foreign) {
            return;
        }
        let packets = std::mem::take(&mut self.pending).packets;
        // The first in order: another path may have brought it later.
        let Some((_, first, _)) = packets.iter().min_by_key(|(_, header, _)| {
            let last = packets.back().map_or(header.sequence, |(_, last, _)| last.sequence);
            header.sequence.wrapping_sub(last) as i16 // modulo 2^16
        }) else {
            return;
        };
        self.restart(&{ *first }, out);
        for (path, header, packet) in packets {
            let Some(sequence) = within_reach(self.next, header.sequence) else { continue };
            let fingerprint = header.fingerprint(packet.data());
            let arrival = packet.arrival();
            if let Some(state) = self.paths.get_mut(path) {
                // It was counted as unwanted, and is none.
                let same = self.before == Some(header.ssrc);
                let counter = if same { &mut state.counts.late } else { &mut state.counts.foreign };
                *counter = counter.saturating_sub(1);
            }
            self.place(path, sequence, packet, fingerprint, arrival, out);
        }
    }

    fn place(
        &mut self,
        path: usize,
        sequence: u64,
        packet: Packet,
        fingerprint: u32,
        now: Instant,
        out: &mut Vec<Packet>,
    ) {
        let bit = 1u16 << path; // below MAX_PATHS
        let late = &mut self.paths[path].counts.late; // checked by the caller
        let Some(place) = sequence.checked_sub(self.first) else {
            *late = late.saturating_add(1);
            return;
        };
        let place = place as usize; // at most twice REACH
        while self.slots.len() <= place {
            self.slots.push_back(Slot::default());
        }
        let slot = &mut self.slots[place];
        if sequence < self.next {
            // The packet was passed on already, or given up as lost.
            *late = late.saturating_add(u64::from(slot.paths == 0));
            slot.paths |= if slot.paths == 0 { 0 } else { bit };
            return;
        }
        if slot.paths == 0 {
            slot.fingerprint = fingerprint;
            slot.packet = Some(packet);
            self.progress = Some(now);
        }
        slot.paths |= bit;
        if sequence > self.next {
            self.waiting_since.get_or_insert(now);
        }
        self.release(now, out);
    }

    /// Returns the time for which a path may lag behind another one.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// Returns the time at which [`Merge::handle_timeout`] must be called.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.waiting_since?.checked_add(self.window)
    }

    /// Gives up missing packets whose recovery window is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            self.skip_gap(now, out);
        }
        self.settle(now);
    }

    /// Passes on all waiting packets, at the end of the stream.
    pub(crate) fn finish(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while self.waiting_since.is_some() {
            self.skip_gap(now, out);
        }
    }

    fn at(&self, sequence: u64) -> usize {
        (sequence - self.first) as usize // `next` is never before `first`; at most twice REACH behind it
    }

    /// Passes on the packets that follow without a gap.
    fn release(&mut self, now: Instant, out: &mut Vec<Packet>) {
        let before = self.next;
        while let Some(packet) = self.slots.get_mut((self.next - self.first) as usize).and_then(|s| s.packet.take()) {
            out.push(packet);
            self.next += 1;
        }
        if self.next > before {
            self.passed.push_back((now, self.next));
            // Packets behind the next gap have waited since the first of them arrived.
            let next = self.at(self.next);
            let waiting = self.slots.iter().skip(next).filter_map(|slot| slot.packet.as_ref());
            self.waiting_since = waiting.map(Packet::arrival).min();
        }
    }

    fn skip_gap(&mut self, now: Instant, out: &mut Vec<Packet>) {
        let next = self.at(self.next);
        let gap = self.slots.iter().skip(next).take_while(|slot| slot.packet.is_none()).count();
        if next + gap >= self.slots.len() {
            self.waiting_since = None; // no packet waits
            return;
        }
        self.lost = self.lost.saturating_add(gap as u64);
        self.next += gap as u64;
        self.release(now, out);
    }

    /// Counts the deliveries of each path for the packets whose window is over on all paths.
    fn settle(&mut self, now: Instant) {
        let mut over = None;
        while let Some((at, sequence)) = self.passed.front() {
            // A path may lag behind the first one by the window.
            let due = now.saturating_duration_since(*at) > self.window;
            if !due && self.next - self.first <= REACH as u64 {
                break;
            }
            over = Some(*sequence);
            self.passed.pop_front();
        }
        let Some(over) = over else { return };
        while self.first < over {
            let Some(slot) = self.slots.pop_front() else { break };
            if self.seen.is_empty() {
                self.seen = vec![(0, 0); REMEMBERED];
            }
            let number = self.first as u16; // modulo 2^16
            self.seen[usize::from(number) % REMEMBERED] = (number, slot.fingerprint);
            let number_of = self.first;
            self.first += 1;
            if slot.paths == 0 {
                continue; // lost on all paths
            }
            for (number, path) in self.paths.iter_mut().enumerate() {
                let bit = 1 << number;
                // A path answers for the packets since its source was added.
                if path.joined.is_none_or(|joined| number_of < joined) {
                    continue;
                }
                let counts = &mut path.counts;
                counts.lost = counts.lost.saturating_add(u64::from(slot.paths & bit == 0));
                counts.unique_packets = counts.unique_packets.saturating_add(u64::from(slot.paths == bit));
            }
        }
    }

    fn restart(&mut self, header: &Header, out: &mut Vec<Packet>) {
        out.extend(self.slots.drain(..).filter_map(|slot| slot.packet));
        self.before = self.ssrc.replace(header.ssrc);
        self.next = FIRST + u64::from(header.sequence);
        self.first = self.next;
        self.waiting_since = None;
        self.passed.clear();
        self.seen.clear();
        for path in &mut self.paths {
            path.foreign = false;
        }
    }
}

/// Returns the extended sequence number closest to `next`, or `None` if the distance exceeds [`REACH`].
fn within_reach(next: u64, sequence: u16) -> Option<u64> {
    let step = sequence.wrapping_sub(next as u16) as i16; // modulo 2^16
    (-REACH..=REACH).contains(&step).then(|| next.checked_add_signed(step.into())).flatten()
}

#[cfg(test)]
mod tests;
