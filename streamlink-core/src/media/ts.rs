//! MPEG-TS (ISO/IEC 13818-1) as a monitor sees it: which PIDs there are, what they carry, and whether their
//! continuity counters hold. Nothing is altered, and whatever is broken is counted, never refused.

use std::collections::BTreeMap;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const NULL_PID: u16 = 0x1fff;
/// PIDs that are followed at most; a hostile stream could name all 8192.
const MAX_PIDS: usize = 256;
/// Programs that are followed at most.
const MAX_PROGRAMS: usize = 64;
/// The longest PSI section (ISO/IEC 13818-1 section 2.4.4: PAT and PMT).
const MAX_SECTION: usize = 1024;

/// What was seen of one PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidStats {
    /// The packet identifier, 0–8191.
    pub pid: u16,
    /// The stream type from the PMT (ISO/IEC 13818-1 table 2-34): 0x1b H.264, 0x24 HEVC, 0x0f AAC, …
    pub stream_type: Option<u8>,
    /// Transport packets.
    pub packets: u64,
    /// Continuity counters that did not follow the one before.
    pub continuity_errors: u64,
}

/// The common name of a stream type.
pub(crate) fn stream_type_name(stream_type: u8) -> &'static str {
    match stream_type {
        0x01 => "MPEG-1 video",
        0x02 => "MPEG-2 video",
        0x03 | 0x04 => "MPEG audio",
        0x06 => "private data",
        0x0f => "AAC",
        0x11 => "AAC (LATM)",
        0x1b => "H.264",
        0x21 => "JPEG 2000",
        0x24 => "HEVC",
        0x33 => "VVC",
        0x81 => "AC-3",
        0x86 => "SCTE 35",
        0x87 => "E-AC-3",
        _ => "other",
    }
}

/// Whether a stream type is one of pictures.
fn is_video(stream_type: u8) -> bool {
    matches!(stream_type, 0x01 | 0x02 | 0x10 | 0x1b | 0x21 | 0x24 | 0x33)
}

#[derive(Debug, Default)]
struct Pid {
    stats: PidStats,
    continuity: Option<u8>,
    repeated: bool,
}

/// Collects the sections of one PSI PID.
#[derive(Debug, Default)]
struct Section {
    bytes: Vec<u8>,
}

/// Watches a transport stream go by.
#[derive(Debug, Default)]
pub(crate) struct TsMonitor {
    pids: BTreeMap<u16, Pid>,
    /// PMT PIDs, with the sections in progress; PID 0 is the PAT.
    sections: BTreeMap<u16, Section>,
    sync_errors: u64,
    changed: bool,
}

impl TsMonitor {
    pub(crate) fn new() -> Self {
        let mut monitor = Self::default();
        monitor.sections.insert(0, Section::default());
        monitor
    }

    /// Looks at the payload of one datagram: whole transport packets, or something else that is counted. Returns
    /// whether a picture begins in it from which decoding can start.
    pub(crate) fn observe(&mut self, payload: &[u8]) -> bool {
        let mut random_access = false;
        let packets = payload.chunks_exact(PACKET);
        if !packets.remainder().is_empty() {
            self.sync_errors = self.sync_errors.saturating_add(1);
        }
        for packet in packets {
            match packet[0] == SYNC {
                true => random_access |= self.packet(packet),
                false => self.sync_errors = self.sync_errors.saturating_add(1),
            }
        }
        random_access
    }

    /// The PIDs, in order.
    pub(crate) fn pids(&self) -> Vec<PidStats> {
        self.pids.values().map(|pid| pid.stats).collect()
    }

    /// Datagrams and packets without the sync byte where it belongs.
    pub(crate) fn sync_errors(&self) -> u64 {
        self.sync_errors
    }

    /// What the programs consist of, once, when that is first known and whenever it changes.
    pub(crate) fn description(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let streams = self.pids.values().filter_map(|pid| pid.stats.stream_type.map(|t| (pid.stats.pid, t)));
        let names: Vec<String> = streams.map(|(pid, t)| format!("{} (PID {pid})", stream_type_name(t))).collect();
        Some(format!("MPEG-TS: {}", names.join(", ")))
    }

    /// One transport packet; returns whether it is a random access point of a video stream (section 2.4.3.5).
    fn packet(&mut self, packet: &[u8]) -> bool {
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        if pid == NULL_PID {
            return false;
        }
        if !self.pids.contains_key(&pid) && self.pids.len() >= MAX_PIDS {
            return false;
        }
        let (has_adaptation, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        let adaptation = if has_adaptation { usize::from(packet[4]) } else { 0 };
        // discontinuity_indicator (section 2.4.3.5): the counter may start anew
        let discontinuity = has_adaptation && adaptation > 0 && packet[5] & 0x80 != 0;
        let entry = self.pids.entry(pid).or_default();
        entry.stats.pid = pid;
        entry.stats.packets = entry.stats.packets.saturating_add(1);
        entry.follow(packet[3] & 0x0f, has_payload, discontinuity);
        let start = if has_adaptation { 5 + adaptation } else { 4 };
        if has_payload && let Some(payload) = packet.get(start..) {
            self.section(pid, packet[1] & 0x40 != 0, payload);
        }
        let video = self.pids.get(&pid).and_then(|pid| pid.stats.stream_type).is_some_and(is_video);
        video && has_adaptation && adaptation > 0 && packet[5] & 0x40 != 0
    }

    /// Puts the sections of the PAT and the PMTs together (section 2.4.4).
    fn section(&mut self, pid: u16, starts: bool, payload: &[u8]) {
        let Some(section) = self.sections.get_mut(&pid) else { return };
        if starts {
            let Some((&pointer, rest)) = payload.split_first() else { return };
            section.bytes.clear();
            section.bytes.extend_from_slice(rest.get(usize::from(pointer)..).unwrap_or(&[]));
        } else if !section.bytes.is_empty() {
            section.bytes.extend_from_slice(payload);
        }
        section.bytes.truncate(MAX_SECTION);
        let [table, high, low, ..] = section.bytes[..] else { return };
        let length = 3 + usize::from(u16::from_be_bytes([high & 0x0f, low]));
        if section.bytes.len() < length.min(MAX_SECTION) {
            return; // more to come
        }
        let whole = std::mem::take(&mut section.bytes);
        // Eight bytes of header, four of CRC.
        let Some(body) = whole.get(8..length.saturating_sub(4)) else { return };
        match table {
            0x00 if pid == 0 => self.pat(body),
            0x02 => self.pmt(body),
            _ => {}
        }
    }

    fn pat(&mut self, body: &[u8]) {
        for program in body.chunks_exact(4) {
            let number = u16::from_be_bytes([program[0], program[1]]);
            let pid = u16::from_be_bytes([program[2] & 0x1f, program[3]]);
            if number != 0 && pid != 0 && self.sections.len() <= MAX_PROGRAMS {
                self.sections.entry(pid).or_default();
            }
        }
    }

    fn pmt(&mut self, body: &[u8]) {
        let [_, _, high, low, ..] = body else { return };
        let info = usize::from(u16::from_be_bytes([high & 0x0f, *low]));
        let mut streams = body.get(4 + info..).unwrap_or(&[]);
        while let [stream_type, p1, p2, l1, l2, ..] = *streams {
            let pid = u16::from_be_bytes([p1 & 0x1f, p2]);
            if self.pids.contains_key(&pid) || self.pids.len() < MAX_PIDS {
                let entry = self.pids.entry(pid).or_default();
                entry.stats.pid = pid;
                self.changed |= entry.stats.stream_type != Some(stream_type);
                entry.stats.stream_type = Some(stream_type);
            }
            let skip = 5 + usize::from(u16::from_be_bytes([l1 & 0x0f, l2]));
            streams = streams.get(skip..).unwrap_or(&[]);
        }
    }
}

impl Pid {
    /// Section 2.4.3.3: the counter goes up with each packet that has a payload; one repeat is allowed.
    fn follow(&mut self, counter: u8, has_payload: bool, discontinuity: bool) {
        if let Some(last) = self.continuity
            && !discontinuity
        {
            let expected = if has_payload { (last + 1) & 0x0f } else { last };
            let repeat = has_payload && counter == last && !self.repeated;
            if counter != expected && !repeat {
                self.stats.continuity_errors = self.stats.continuity_errors.saturating_add(1);
            }
            self.repeated = repeat;
        }
        self.continuity = Some(counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, counter: u8, starts: bool, payload: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut bytes = vec![SYNC, high | if starts { 0x40 } else { 0 }, low, 0x10 | counter];
        bytes.extend_from_slice(payload);
        bytes.resize(PACKET, 0xff);
        bytes
    }

    fn section(table: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, table, 0xb0, (5 + body.len() + 4) as u8, 0, 1, 0xc1, 0, 0];
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    #[test]
    fn programs_are_described_and_gaps_counted() {
        let mut monitor = TsMonitor::new();
        monitor.observe(&packet(0, 0, true, &section(0, &[0, 1, 0xf0, 0x00]))); // program 1: PMT on PID 0x1000
        let streams = [0xe1, 0x00, 0xf0, 0x00, 0x1b, 0xe1, 0x00, 0xf0, 0x00, 0x0f, 0xe1, 0x01, 0xf0, 0x00];
        monitor.observe(&packet(0x1000, 0, true, &section(2, &streams)));
        assert_eq!(monitor.description().unwrap(), "MPEG-TS: H.264 (PID 256), AAC (PID 257)");
        assert_eq!(monitor.description(), None);
        for counter in [0, 1, 2, 2, 3, 5, 6, 6, 6] {
            monitor.observe(&packet(0x100, counter, false, &[]));
        }
        let video = monitor.pids().into_iter().find(|p| p.pid == 0x100).unwrap();
        assert_eq!((video.stream_type, video.packets, video.continuity_errors), (Some(0x1b), 9, 2));
    }

    #[test]
    fn a_section_over_several_packets_is_put_together() {
        let mut monitor = TsMonitor::new();
        let mut body = vec![0xe1, 0x00, 0xf0, 190];
        body.extend([0; 190]); // program descriptors that fill the first packet
        body.extend([0x24, 0xe1, 0x00, 0xf0, 0x00]);
        monitor.observe(&packet(0, 0, true, &section(0, &[0, 1, 0xf0, 0x00])));
        let pmt = section(2, &body);
        monitor.observe(&packet(0x1000, 0, true, &pmt[..184]));
        monitor.observe(&packet(0x1000, 1, false, &pmt[184..]));
        assert_eq!(monitor.description().unwrap(), "MPEG-TS: HEVC (PID 256)");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_arrives_makes_it_panic_or_grow(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..2000)) {
            let mut monitor = TsMonitor::new();
            for chunk in bytes.chunks_mut(PACKET) {
                chunk[0] = SYNC;
            }
            for _ in 0..4 {
                monitor.observe(&bytes);
                bytes.rotate_left(1);
            }
            assert!(monitor.pids.len() <= MAX_PIDS + 1 && monitor.sections.len() <= MAX_PROGRAMS + 1);
        }
    }
}
