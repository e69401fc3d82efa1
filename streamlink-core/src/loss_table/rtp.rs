//! RTP, RIST and UDP in the table: one path or two that are merged, with and without forward error correction and
//! retransmission.

use super::{
    JUDGED, Mechanism,
    network::{Arrival, Channel, Network},
};
use crate::{
    media::{Packet, TransportChecker, rtp::Header},
    proto::{
        rist::{RistReceiver, RistSender},
        rtp::{FecDecoder, FecEncoder, Receiver, Wrapper},
    },
    router::Merge,
};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Time for which RIST asks for what is missing.
const RIST_LATENCY: Duration = Duration::from_millis(2500);
/// Recovery window of a merge, at its maximum. RIST widens it to its latency.
const MERGE: Duration = Duration::from_millis(500);
/// Window of a receiver alone, by default.
const REORDER: Duration = Duration::from_millis(50);
const HEADER: usize = 12;
const SSRC: u32 = 0x5eed_5eee;
const COLUMNS: u8 = 10;
const ROWS: u8 = 5;

/// A datagram of seven transport packets: one with the number and a continuity counter, and null packets.
fn transport_packets(number: u32) -> Vec<u8> {
    let mut bytes = vec![0x47, 0x01, 0x00, 0x10 | (number % 16) as u8];
    bytes.extend(number.to_be_bytes());
    bytes.resize(188, 0xff);
    for _ in 1..7 {
        bytes.extend([0x47, 0x1f, 0xff, 0x10]);
        bytes.resize(bytes.len() + 184, 0xff);
    }
    bytes
}

fn rtp(number: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 33];
    bytes.extend((number as u16).wrapping_add(u16::MAX - 500).to_be_bytes()); // the numbers wrap
    bytes.extend((number * 180).to_be_bytes());
    bytes.extend(SSRC.to_be_bytes());
    bytes.extend(transport_packets(number));
    bytes
}

/// Returns the number in an RTP packet.
fn number(packet: &[u8]) -> u32 {
    packet.get(HEADER + 4..).and_then(|rest| rest.first_chunk()).copied().map_or(u32::MAX, u32::from_be_bytes)
}

/// Protection of each path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protection {
    None,
    Fec { with_rows: bool },
    Rist,
}

/// Both ends of one path.
struct Path {
    encoder: Option<FecEncoder>,
    decoder: Option<FecDecoder>,
    sender: Option<RistSender>,
    rist: Option<RistReceiver>,
    receiver: Receiver,
    recovered: Vec<(Header, Packet)>,
    /// FEC packets that have arrived, as the numbers that each protects.
    groups: Vec<Vec<u32>>,
}

impl Path {
    fn new(protection: Protection, is_merged: bool, now: Instant) -> Self {
        let window = match protection {
            _ if is_merged => Duration::ZERO, // the merge has its own
            Protection::Rist => RIST_LATENCY,
            _ => REORDER,
        };
        let (fec, with_rows) = match protection {
            Protection::Fec { with_rows } => (true, with_rows),
            _ => (false, false),
        };
        let is_rist = protection == Protection::Rist;
        Self {
            encoder: fec.then(|| FecEncoder::new(COLUMNS, ROWS, with_rows, [5, 6])),
            decoder: fec.then(FecDecoder::new),
            sender: is_rist.then(|| RistSender::new(RIST_LATENCY, 0, now)),
            rist: is_rist.then(|| RistReceiver::new(9, RIST_LATENCY, now)),
            receiver: Receiver::new(window),
            recovered: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn media(&mut self, bytes: Bytes, now: Instant, out: &mut Vec<Packet>) {
        let Ok(mut header) = Header::parse(&bytes) else { panic!("a packet of ours cannot be read") };
        let mut bytes = bytes.to_vec();
        let repeated = self.rist.as_mut().and_then(|rist| rist.media(&header, now));
        if let Some(ssrc) = repeated {
            header.ssrc = ssrc;
            bytes[8..12].copy_from_slice(&ssrc.to_be_bytes());
        }
        let packet = Packet::rtp(bytes, now);
        if let Some(decoder) = &mut self.decoder {
            decoder.media(&header, &packet, &mut self.recovered);
        }
        if repeated.is_some() {
            self.receiver.handle_known(&header, packet, out);
        } else {
            self.receiver.handle(&header, packet, out);
        }
        self.place_recovered(out);
    }

    fn place_recovered(&mut self, out: &mut Vec<Packet>) {
        for (header, packet) in self.recovered.drain(..) {
            if self.receiver.awaits(&header) {
                self.receiver.handle_known(&header, packet, out);
            }
        }
    }

    /// Handles FEC packets and RTCP. Returns what the sender sends again.
    fn side(&mut self, forward: bool, bytes: &[u8], now: Instant, out: &mut Vec<Packet>) -> Vec<Vec<u8>> {
        if let Some(decoder) = &mut self.decoder {
            let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            // The base, and the fields of offset and number (ST 2022-1 section 8.2).
            let base = word(12);
            let offset = u32::from(bytes[25]);
            let count = u32::from(bytes[26]);
            let base = u32::from(base.wrapping_sub(u16::MAX - 500));
            self.groups.push((0..count).map(|i| base + i * offset).collect());
            decoder.fec(bytes, now, &mut self.recovered);
            self.place_recovered(out);
        } else if let (true, Some(rist)) = (forward, &mut self.rist) {
            rist.rtcp(bytes, now);
        } else if let (false, Some(sender)) = (forward, &mut self.sender) {
            return sender.rtcp(bytes, now).repeats;
        }
        Vec::new()
    }

    /// Returns the RTCP that is due, of the sender and of the receiver.
    fn reports(&mut self, now: Instant) -> Vec<(bool, Vec<u8>)> {
        let mut due = Vec::new();
        if let Some(sender) = self.sender.as_mut().filter(|sender| sender.next_timeout() <= now) {
            due.extend(sender.poll(now).into_iter().map(|bytes| (true, bytes)));
        }
        if let Some(rist) = self.rist.as_mut().filter(|rist| rist.next_timeout().is_some_and(|at| at <= now)) {
            due.extend(rist.poll(now).into_iter().map(|bytes| (false, bytes)));
        }
        due
    }

    fn timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        self.receiver.handle_timeout(now, out);
        let wait = self.decoder.as_ref().map(|decoder| decoder.wait(now));
        match wait {
            Some(Some(wait)) => self.receiver.set_window(wait.time.max(REORDER), wait.packets),
            Some(None) => self.receiver.set_window(REORDER, usize::MAX),
            None => {}
        }
    }

    /// Returns the packets that can be had from what has come over this path: any that is alone missing in a column or row
    /// is rebuilt, until there is none.
    fn possible(&self, passed: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut known = passed.clone();
        loop {
            let before = known.len();
            for group in &self.groups {
                let mut missing = group.iter().filter(|number| !known.contains(number));
                if let (Some(one), None) = (missing.next().copied(), missing.next()) {
                    known.insert(one);
                }
            }
            if known.len() == before {
                return known;
            }
        }
    }
}

struct Rtp {
    protection: Protection,
    merge: Option<Merge>,
    paths: Vec<Path>,
    delivered: Vec<u32>,
}

impl Rtp {
    fn new(protection: Protection, paths: usize) -> Self {
        let mut merge = (paths > 1).then(|| Merge::new(MERGE, paths));
        if let Some(merge) = merge.as_mut().filter(|_| protection == Protection::Rist) {
            merge.widen(RIST_LATENCY);
        }
        Self { protection, merge, paths: Vec::new(), delivered: Vec::new() }
    }

    /// Passes on what a path has brought.
    fn pass(&mut self, path: usize, packets: Vec<Packet>, now: Instant) {
        let mut out = Vec::new();
        match &mut self.merge {
            Some(merge) => {
                for packet in packets {
                    merge.handle(path, packet, now, &mut out);
                }
                merge.handle_timeout(now, &mut out);
            }
            None => out = packets,
        }
        self.delivered.extend(out.iter().map(|packet| number(packet.data())));
    }
}

impl Mechanism for Rtp {
    fn send(&mut self, number: u32, network: &mut Network) {
        let now = network.now;
        let is_merged = self.merge.is_some();
        let protection = self.protection;
        if self.paths.is_empty() {
            self.paths.extend((0..network.paths()).map(|_| Path::new(protection, is_merged, now)));
        }
        for (at, path) in self.paths.iter_mut().enumerate() {
            let bytes = rtp(number);
            if let Some(sender) = &mut path.sender {
                sender.sent(&Packet::rtp(bytes.clone(), now), now);
            }
            let mut fec = Vec::new();
            if let (Some(encoder), Some((header, payload))) = (&mut path.encoder, bytes.split_first_chunk()) {
                encoder.push(header, payload, &mut fec);
            }
            if network.send(at, true, Channel::Media, bytes.into()) {
                network.passed[at].insert(number);
            }
            for packet in fec {
                network.send(at, true, Channel::Side, packet.bytes.into());
            }
        }
    }

    fn turn(&mut self, network: &mut Network) {
        let now = network.now;
        while let Some(Arrival { path: at, forward, channel, bytes }) = network.receive() {
            let mut out = Vec::new();
            let path = &mut self.paths[at];
            if channel == Channel::Media {
                path.media(bytes, now, &mut out);
            } else {
                for repeat in path.side(forward, &bytes, now, &mut out) {
                    let media = number(&repeat);
                    if network.send(at, true, Channel::Media, repeat.into()) {
                        network.passed[at].insert(media);
                    }
                }
            }
            self.pass(at, out, now);
        }
        for at in 0..self.paths.len() {
            let mut out = Vec::new();
            self.paths[at].timeout(now, &mut out);
            self.pass(at, out, now);
            for (forward, bytes) in self.paths[at].reports(now) {
                network.send(at, forward, Channel::Side, bytes.into());
            }
        }
    }

    fn delivered(&self) -> &[u32] {
        &self.delivered
    }

    fn check_counted(&self, lost: u64, _: u64, cell: &str) {
        let counted = self.merge.as_ref().map_or(self.paths[0].receiver.quality().lost, Merge::lost);
        assert_eq!(counted, lost, "{cell}: lost packets are counted");
    }

    fn possible(&self, network: &Network) -> Option<BTreeSet<u32>> {
        let all = self.paths.iter().zip(&network.passed).flat_map(|(path, passed)| path.possible(passed));
        Some(all.filter(|number| *number < JUDGED).collect())
    }
}

/// MPEG-TS without RTP, whose losses show in the continuity counters alone.
struct Udp {
    wrapper: Wrapper,
    checker: TransportChecker,
    delivered: Vec<u32>,
}

impl Mechanism for Udp {
    fn send(&mut self, number: u32, network: &mut Network) {
        if network.send(0, true, Channel::Media, transport_packets(number).into()) {
            network.passed[0].insert(number);
        }
    }

    fn turn(&mut self, network: &mut Network) {
        let now = network.now;
        while let Some(Arrival { bytes, .. }) = network.receive() {
            let mut out = Vec::new();
            assert_eq!(self.wrapper.push(&bytes, now, &mut out), None);
            for packet in out {
                self.checker.observe(&packet.data()[HEADER..], now, |_| {});
                self.delivered.push(number(packet.data()));
            }
        }
    }

    fn delivered(&self) -> &[u32] {
        &self.delivered
    }

    fn check_counted(&self, _: u64, gaps: u64, cell: &str) {
        assert_eq!(self.checker.errors().continuity, gaps, "{cell}: gaps are counted as continuity errors");
    }

    fn possible(&self, network: &Network) -> Option<BTreeSet<u32>> {
        Some(network.passed[0].iter().copied().filter(|number| *number < JUDGED).collect())
    }
}

pub(super) fn plain() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::None, 1))
}

pub(super) fn merged() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::None, 2))
}

pub(super) fn columns() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::Fec { with_rows: false }, 1))
}

pub(super) fn columns_and_rows() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::Fec { with_rows: true }, 1))
}

pub(super) fn columns_and_rows_merged() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::Fec { with_rows: true }, 2))
}

pub(super) fn rist() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::Rist, 1))
}

pub(super) fn rist_merged() -> Box<dyn Mechanism> {
    Box::new(Rtp::new(Protection::Rist, 2))
}

pub(super) fn udp() -> Box<dyn Mechanism> {
    let wrapper = Wrapper::new(7, 1, 0);
    Box::new(Udp { wrapper, checker: TransportChecker::default(), delivered: Vec::new() })
}
