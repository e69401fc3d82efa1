//! Decoder: recovers packets that a stream has lost.

use super::{MAX_MATRIX, Parity, Protected, read, split};
use crate::{
    media::{Packet, rtp::Header},
    proto::rtp::unwrap,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Number of packets that are kept to recover others. More than two of the largest matrices.
const HISTORY: usize = 1024;
/// Maximum number of FEC packets that wait for packets.
const MAX_WAITING: usize = 256;
/// Largest step of a sequence number that is no restart of the stream.
const MAX_STEP: i16 = 3000;
/// Extended sequence numbers begin well above zero, so that packets before the first one have a number as well.
const FIRST: u64 = 1 << 32;
/// Largest difference of the timestamp of a recovered packet from its neighbours, in units of 90 kHz: ten seconds.
const MAX_TIME: u32 = 900_000;
/// Range of the time that a gap is held open for FEC packets.
const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Time that a gap is held open while little is known of the stream.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Time without FEC packets after which a stream has none.
const STALE: Duration = Duration::from_secs(10);

/// Counts of a decoder, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FecCounts {
    /// FEC packets that were read.
    pub(crate) received: u64,
    /// FEC packets that could not be read, or belong to no packets of the stream.
    pub(crate) malformed: u64,
}

/// Wait for FEC packets at a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FecWait {
    /// Number of packets behind the gap with which all FEC packets have come.
    pub(crate) packets: usize,
    /// Longest time, for a stream that stalls or ends.
    pub(crate) time: Duration,
}

/// Decoder of one stream.
#[derive(Debug)]
pub(crate) struct FecDecoder {
    stream: Option<Stream>,
    /// SSRC and number of the last packet of another stream, which may be a new one.
    candidate: Option<(u32, u16)>,
    /// Number of packets of the last matrix, by its columns, and of the last row.
    matrix: u64,
    row: u64,
    /// Arrival of the last FEC packet.
    last: Option<Instant>,
    counts: FecCounts,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    payload_type: u8,
    timestamp: u32,
    /// Arrival of the first packet.
    begun: Instant,
    /// Next extended sequence number.
    next: u64,
    /// Packets, each in the place of its sequence number.
    history: Box<[Option<(u64, Packet)>]>,
    waiting: VecDeque<Group>,
}

/// Packets that one FEC packet protects, of which several are missing.
#[derive(Debug)]
struct Group {
    first: u64,
    offset: u64,
    count: u64,
    parity: Parity,
    /// Set if the only missing packet is the newest, which may be on its way.
    is_ahead: bool,
}

impl Group {
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let first = self.first;
        let offset = self.offset;
        (0..self.count).map(move |at| first + at * offset)
    }

    fn last(&self) -> u64 {
        self.first + self.count.saturating_sub(1) * self.offset
    }

    fn holds(&self, number: u64) -> bool {
        (self.first..=self.last()).contains(&number) && (number - self.first).is_multiple_of(self.offset)
    }
}

impl FecDecoder {
    pub(crate) fn new() -> Self {
        Self { stream: None, candidate: None, matrix: 0, row: 0, last: None, counts: FecCounts::default() }
    }

    pub(crate) fn counts(&self) -> FecCounts {
        self.counts
    }

    /// Returns whether the stream has FEC packets.
    pub(crate) fn is_active(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < STALE)
    }

    /// Takes a packet that has arrived. Appends packets that it made it possible to recover, and their headers.
    pub(crate) fn media(&mut self, header: &Header, packet: &Packet, out: &mut Vec<(Header, Packet)>) {
        let ssrc = header.ssrc;
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.follows(header)) else {
            // Another stream replaces this one with two packets in a row.
            let before = self.candidate.replace((ssrc, header.sequence));
            if self.stream.is_none() || before == Some((ssrc, header.sequence.wrapping_sub(1))) {
                let mut stream = Stream::new(header, packet.arrival());
                stream.put(FIRST + u64::from(header.sequence), packet.clone());
                self.stream = Some(stream);
                self.candidate = None;
            }
            return;
        };
        stream.payload_type = header.payload_type;
        stream.timestamp = header.timestamp;
        if let Some(number) = stream.extend(header.sequence)
            && stream.put(number, packet.clone())
        {
            stream.settle(number, packet.arrival(), out);
        }
    }

    /// Takes an FEC packet that has arrived. Appends packets that it made it possible to recover, and their headers.
    pub(crate) fn fec(&mut self, datagram: &[u8], arrival: Instant, out: &mut Vec<(Header, Packet)>) {
        let Some((protected, parity)) = read(datagram) else {
            self.counts.malformed = self.counts.malformed.saturating_add(1);
            return;
        };
        let Some(stream) = &mut self.stream else { return };
        let Protected { base, offset, count, is_row } = protected;
        let Some(first) = stream.extend(base) else {
            self.counts.malformed = self.counts.malformed.saturating_add(1);
            return;
        };
        self.counts.received = self.counts.received.saturating_add(1);
        self.last = Some(arrival);
        let size = u64::from(offset) * u64::from(count);
        *if is_row { &mut self.row } else { &mut self.matrix } = size.clamp(1, MAX_MATRIX);
        let group = Group { first, offset: offset.into(), count: count.into(), parity, is_ahead: false };
        // It is late, or of a matrix that has not begun for long.
        if group.last() + HISTORY as u64 <= stream.next || first > stream.next + MAX_MATRIX {
            return;
        }
        stream.take(group, arrival, out);
    }

    /// Returns how long a gap is to be held open, so that the FEC packets can fill it: those of a matrix come during the
    /// next one. `None` if the stream has no FEC packets.
    pub(crate) fn wait(&self, now: Instant) -> Option<FecWait> {
        let stream = self.stream.as_ref()?;
        let is_new = now.saturating_duration_since(stream.begun) < STALE;
        // The parity of columns follows that of the first rows.
        let size = if self.matrix > 0 || is_new { self.matrix } else { self.row };
        if size == 0 {
            return is_new.then_some(FecWait { packets: HISTORY, time: FIRST_WAIT });
        }
        if !self.is_active(now) {
            return None;
        }
        let packets = 2 * size + size / 2 + 8;
        // The packet itself may be missing; one of those before it is there.
        let at = stream.next.saturating_sub(packets);
        let oldest = (0..size).find_map(|back| stream.get(at.saturating_sub(back)));
        let time = stream.newest().zip(oldest).map_or(FIRST_WAIT, |(newest, oldest)| {
            // A stream may stall. It is the number of packets behind the gap that counts.
            let span = newest.arrival().saturating_duration_since(oldest.arrival());
            (span * 4).clamp(MIN_WAIT, MAX_WAIT)
        });
        Some(FecWait { packets: packets as usize, time }) // less than HISTORY
    }

    /// Forgets the stream, which has ended.
    pub(crate) fn reset(&mut self) {
        self.stream = None;
        self.candidate = None;
        self.last = None;
        self.matrix = 0;
        self.row = 0;
    }
}

impl Stream {
    fn new(first: &Header, arrival: Instant) -> Self {
        Self {
            ssrc: first.ssrc,
            payload_type: first.payload_type,
            timestamp: first.timestamp,
            begun: arrival,
            next: FIRST + u64::from(first.sequence),
            history: vec![None; HISTORY].into_boxed_slice(),
            waiting: VecDeque::new(),
        }
    }

    /// Returns whether a packet is one of this stream.
    fn follows(&self, header: &Header) -> bool {
        self.ssrc == header.ssrc && self.extend(header.sequence).is_some()
    }

    /// Returns the extended sequence number closest to the next one; `None` if it is out of range.
    fn extend(&self, sequence: u16) -> Option<u64> {
        let step = sequence.wrapping_sub(self.next as u16) as i16; // modulo 2^16
        (-MAX_STEP..=MAX_STEP).contains(&step).then(|| self.next.checked_add_signed(step.into()))?
    }

    fn get(&self, number: u64) -> Option<&Packet> {
        let (known, packet) = self.history.get(number as usize % HISTORY)?.as_ref()?;
        (*known == number).then_some(packet)
    }

    fn newest(&self) -> Option<&Packet> {
        self.get(self.next.checked_sub(1)?)
    }

    /// Keeps a packet. Returns false if it is known, or too old.
    fn put(&mut self, number: u64, packet: Packet) -> bool {
        if number + HISTORY as u64 <= self.next || self.get(number).is_some() {
            return false;
        }
        if let Some(slot) = self.history.get_mut(number as usize % HISTORY) {
            *slot = Some((number, packet));
        }
        self.next = self.next.max(number + 1);
        true
    }

    /// Returns the only missing packet of a group; `Err` if there are more, or it is the newest, and `Ok(None)` if there is
    /// none. `Err(true)`: it is the newest.
    fn only_missing(&self, group: &Group) -> Result<Option<u64>, bool> {
        let mut missing = group.numbers().filter(|number| self.get(*number).is_none());
        match (missing.next(), missing.next()) {
            (Some(number), None) if number >= self.next => Err(true),
            (only, None) => Ok(only),
            _ => Err(false),
        }
    }

    /// Uses an FEC packet now, or keeps it until no more than one of its packets is missing.
    fn take(&mut self, mut group: Group, now: Instant, out: &mut Vec<(Header, Packet)>) {
        match self.only_missing(&group) {
            Ok(None) => {}
            Ok(Some(number)) => {
                if self.recover(&group, number, now, out) {
                    self.settle(number, now, out);
                }
            }
            Err(is_ahead) => {
                group.is_ahead = is_ahead;
                if self.waiting.len() >= MAX_WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(group);
            }
        }
    }

    /// Uses the FEC packets that waited for a packet which has come, and those that wait for packets so recovered.
    fn settle(&mut self, number: u64, now: Instant, out: &mut Vec<(Header, Packet)>) {
        let mut come = vec![number];
        while let Some(number) = come.pop() {
            let oldest = self.next.saturating_sub(HISTORY as u64);
            let mut at = 0;
            while let Some(group) = self.waiting.get(at) {
                let is_old = group.last() < oldest;
                let is_concerned = group.is_ahead || group.holds(number);
                let missing = if is_concerned { self.only_missing(group) } else { Err(false) };
                if let (Err(is_ahead), false) = (missing, is_old) {
                    if let Some(group) = self.waiting.get_mut(at).filter(|_| is_concerned) {
                        group.is_ahead = is_ahead;
                    }
                    at += 1;
                    continue;
                }
                let Some(group) = self.waiting.remove(at) else { break };
                if let Ok(Some(missing)) = missing
                    && !is_old
                    && self.recover(&group, missing, now, out)
                {
                    come.push(missing);
                    at = 0;
                }
            }
        }
    }

    /// Recovers the missing packet of a group, and keeps it. Returns false if the result is no packet of this stream, as
    /// that of a forged FEC packet.
    fn recover(&mut self, group: &Group, number: u64, now: Instant, out: &mut Vec<(Header, Packet)>) -> bool {
        let mut parity = group.parity.clone();
        for other in group.numbers().filter(|other| *other != number) {
            let Some((header, payload)) = self.get(other).and_then(|packet| split(packet.data())) else { return false };
            if !parity.add(header, payload) {
                return false;
            }
        }
        let Some(payload) = parity.payload.get(..parity.length.into()) else { return false };
        let mut bytes = Vec::with_capacity(super::RTP + payload.len());
        bytes.extend([0x80 | parity.flags[0], parity.flags[1]]);
        bytes.extend((number as u16).to_be_bytes()); // modulo 2^16
        bytes.extend(parity.timestamp);
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(payload);
        let Ok(header) = Header::parse(&bytes) else { return false };
        let off = header.timestamp.wrapping_sub(self.timestamp);
        let is_plausible = header.payload_type == self.payload_type
            && off.min(off.wrapping_neg()) <= MAX_TIME
            && (!header.is_mpeg_ts() || unwrap(&bytes).is_ok());
        let packet = Packet::rtp(Bytes::from(bytes), now);
        if !is_plausible || !self.put(number, packet.clone()) {
            return false;
        }
        out.push((header, packet));
        true
    }
}

#[cfg(test)]
impl FecDecoder {
    /// Returns the number of FEC packets that wait for packets.
    pub(super) fn waiting(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.waiting.len())
    }
}
