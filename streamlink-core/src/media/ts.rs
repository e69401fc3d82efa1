//! Monitoring of MPEG-TS (ISO/IEC 13818-1): the PIDs with their stream types and continuity errors, and the
//! first-priority checks of ETSI TR 101 290 (section 5.2.1). Nothing is altered, and errors are counted, never refused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const NULL_PID: u16 = 0x1fff;
/// First PID that is not reserved for tables (ETSI EN 300 468 section 5.1.3).
const FIRST_STREAM_PID: u16 = 0x20;
/// Maximum number of PIDs that are followed; a hostile stream could name all 8192.
const MAX_PIDS: usize = 256;
/// Maximum number of programs that are followed.
const MAX_PROGRAMS: usize = 64;
/// Maximum length of a PSI section, in bytes (ISO/IEC 13818-1 section 2.4.4: PAT and PMT).
const MAX_SECTION: usize = 1024;

/// Maximum time between two PATs, and between two PMTs of a program (TR 101 290, 1.3 and 1.5).
const TABLE_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time between two packets of a PID that a PMT names (1.6; the period is the user's).
const PID_INTERVAL: Duration = Duration::from_secs(5);
/// Number of wrong sync bytes in a row that are a sync loss, and of right ones that end it (1.1).
const SYNC_LOST: u8 = 2;
const SYNC_FOUND: u8 = 5;
/// Time between two checks for missing tables and PIDs.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A first-priority check of ETSI TR 101 290 (section 5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportCheck {
    /// 1.1: two sync bytes in a row are wrong.
    SyncLoss,
    /// 1.2: a sync byte is wrong, or a datagram is not a whole number of packets.
    SyncByte,
    /// 1.3: there is no PAT for half a second, PID 0 holds another table, or it is scrambled.
    Pat,
    /// 1.4: a continuity counter does not follow the one before.
    Continuity,
    /// 1.5: there is no PMT of a program for half a second, or it is scrambled.
    Pmt,
    /// 1.6: a PID that a PMT names does not occur for five seconds.
    Pid,
}

impl TransportCheck {
    /// All checks, in order.
    pub const ALL: [Self; 6] = [Self::SyncLoss, Self::SyncByte, Self::Pat, Self::Continuity, Self::Pmt, Self::Pid];
}

impl std::fmt::Display for TransportCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SyncLoss => "sync loss",
            Self::SyncByte => "sync byte error",
            Self::Pat => "PAT error",
            Self::Continuity => "continuity count error",
            Self::Pmt => "PMT error",
            Self::Pid => "PID error",
        })
    }
}

/// Number of failures of each first-priority check of ETSI TR 101 290.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportErrors {
    /// Failures of check 1.1.
    pub sync_losses: u64,
    /// Failures of check 1.2.
    pub sync_byte: u64,
    /// Failures of check 1.3.
    pub pat: u64,
    /// Failures of check 1.4.
    pub continuity: u64,
    /// Failures of check 1.5.
    pub pmt: u64,
    /// Failures of check 1.6.
    pub pid: u64,
}

impl TransportErrors {
    /// Returns the number of failures of one check.
    pub const fn of(&self, check: TransportCheck) -> u64 {
        match check {
            TransportCheck::SyncLoss => self.sync_losses,
            TransportCheck::SyncByte => self.sync_byte,
            TransportCheck::Pat => self.pat,
            TransportCheck::Continuity => self.continuity,
            TransportCheck::Pmt => self.pmt,
            TransportCheck::Pid => self.pid,
        }
    }
}

/// Statistics of one PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidStats {
    /// The packet identifier, 0–8191.
    pub pid: u16,
    /// The stream type from the PMT (ISO/IEC 13818-1 table 2-34): 0x1b H.264, 0x24 HEVC, 0x0f AAC, …
    pub stream_type: Option<u8>,
    /// Number of transport packets.
    pub packets: u64,
    /// Number of continuity counters that did not follow the one before.
    pub continuity_errors: u64,
}

/// Returns the common name of a stream type.
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

/// Returns whether a stream type is video.
fn is_video(stream_type: u8) -> bool {
    matches!(stream_type, 0x01 | 0x02 | 0x10 | 0x1b | 0x21 | 0x24 | 0x33)
}

#[derive(Debug, Default)]
struct Pid {
    stats: PidStats,
    continuity: Option<u8>,
    repeated: bool,
    /// Time of its last arrival, or of its last absence that was counted.
    last: Option<Instant>,
    /// PID of the PMT that names it.
    program: Option<u16>,
}

/// Collects the sections of one PSI PID.
#[derive(Debug, Default)]
struct Section {
    bytes: Vec<u8>,
    /// Time of its table's last arrival, or of its last absence that was counted.
    last: Option<Instant>,
}

/// Monitors a transport stream.
#[derive(Debug, Default)]
pub(crate) struct TsMonitor {
    pids: BTreeMap<u16, Pid>,
    /// PIDs of PMTs, with the sections in progress; PID 0 is the PAT.
    sections: BTreeMap<u16, Section>,
    errors: TransportErrors,
    /// Number of sync bytes in a row that were wrong while in sync, or right while out of sync.
    doubts: u8,
    out_of_sync: bool,
    checked: Option<Instant>,
    changed: bool,
    /// Set when a packet of an elementary stream was observed, or something that is not MPEG-TS.
    media: bool,
}

impl TsMonitor {
    pub(crate) fn new() -> Self {
        let mut monitor = Self::default();
        monitor.sections.insert(0, Section::default());
        monitor
    }

    /// Observes the payload of one datagram: whole transport packets, or errors that are counted. Returns whether a
    /// picture begins in it from which decoding can start.
    pub(crate) fn observe(&mut self, payload: &[u8], now: Instant) -> bool {
        let mut random_access = false;
        let packets = payload.chunks_exact(PACKET);
        if !packets.remainder().is_empty() {
            self.errors.sync_byte = self.errors.sync_byte.saturating_add(1);
        }
        for packet in packets {
            self.sync(packet[0] == SYNC);
            if packet[0] == SYNC {
                random_access |= self.packet(packet, now);
            } else {
                self.media = true;
            }
        }
        self.media |= payload.len() < PACKET;
        if self.checked.is_none_or(|last| now.saturating_duration_since(last) >= CHECK_INTERVAL) {
            self.checked = Some(now);
            self.check(now);
        }
        random_access
    }

    /// Returns whether media was observed since the last call: packets with a payload that are no tables (PAT, CAT, PMT
    /// and the other PIDs up to 0x1f) and no null packets. Of a payload that is not MPEG-TS, everything is media.
    pub(crate) fn take_media(&mut self) -> bool {
        std::mem::take(&mut self.media)
    }

    /// Begins the stream again: what was missing meanwhile is not an error.
    pub(crate) fn begin(&mut self) {
        for pid in self.pids.values_mut() {
            pid.last = None;
        }
        for section in self.sections.values_mut() {
            section.last = None;
        }
        self.doubts = 0;
        self.out_of_sync = false;
    }

    fn sync(&mut self, good: bool) {
        if !good {
            self.errors.sync_byte = self.errors.sync_byte.saturating_add(1);
        }
        if good != self.out_of_sync {
            self.doubts = 0;
            return;
        }
        self.doubts += 1; // at most 5
        let limit = if self.out_of_sync { SYNC_FOUND } else { SYNC_LOST };
        if self.doubts >= limit {
            self.errors.sync_losses = self.errors.sync_losses.saturating_add(u64::from(!self.out_of_sync));
            self.out_of_sync = !self.out_of_sync;
            self.doubts = 0;
        }
    }

    /// Counts tables and PIDs that are overdue. A stream that is not MPEG-TS at all has no PIDs, and misses none.
    fn check(&mut self, now: Instant) {
        if self.pids.is_empty() {
            return;
        }
        let missing = |last: &mut Option<Instant>, interval| {
            let since = *last.get_or_insert(now);
            let missing = now.saturating_duration_since(since) > interval;
            if missing {
                *last = Some(now);
            }
            u64::from(missing)
        };
        for (pid, section) in &mut self.sections {
            let counter = if *pid == 0 { &mut self.errors.pat } else { &mut self.errors.pmt };
            *counter = counter.saturating_add(missing(&mut section.last, TABLE_INTERVAL));
        }
        for pid in self.pids.values_mut().filter(|pid| pid.stats.stream_type.is_some()) {
            self.errors.pid = self.errors.pid.saturating_add(missing(&mut pid.last, PID_INTERVAL));
        }
    }

    /// Returns the PIDs, in order.
    pub(crate) fn pids(&self) -> Vec<PidStats> {
        self.pids.values().map(|pid| pid.stats).collect()
    }

    /// Returns the number of failures of each check.
    pub(crate) fn errors(&self) -> TransportErrors {
        let continuity = self.pids.values().fold(0, |sum: u64, pid| sum.saturating_add(pid.stats.continuity_errors));
        TransportErrors { continuity, ..self.errors }
    }

    /// Returns the streams of the programs, once when they are first known and after each change.
    pub(crate) fn description(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let streams = self.pids.values().filter_map(|pid| pid.stats.stream_type.map(|t| (pid.stats.pid, t)));
        let names: Vec<String> = streams.map(|(pid, t)| format!("{} (PID {pid})", stream_type_name(t))).collect();
        Some(format!("MPEG-TS: {}", names.join(", ")))
    }

    /// Observes one transport packet; returns whether it is a random access point of a video stream (section 2.4.3.5).
    fn packet(&mut self, packet: &[u8], now: Instant) -> bool {
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        if pid == NULL_PID {
            return false;
        }
        if !self.pids.contains_key(&pid) && self.pids.len() >= MAX_PIDS {
            return false;
        }
        let has_adaptation = packet[3] & 0x20 != 0;
        let has_payload = packet[3] & 0x10 != 0;
        let adaptation = if has_adaptation { usize::from(packet[4]) } else { 0 };
        // discontinuity_indicator (section 2.4.3.5): the counter may start anew
        let discontinuity = has_adaptation && adaptation > 0 && packet[5] & 0x80 != 0;
        let entry = self.pids.entry(pid).or_default();
        entry.stats.pid = pid;
        entry.stats.packets = entry.stats.packets.saturating_add(1);
        entry.last = Some(now);
        entry.follow(packet[3] & 0x0f, has_payload, discontinuity);
        self.media = self.media || has_payload && pid >= FIRST_STREAM_PID && !self.sections.contains_key(&pid);
        let start = if has_adaptation { 5 + adaptation } else { 4 };
        if has_payload && let Some(payload) = packet.get(start..) {
            self.section(pid, packet[1] & 0x40 != 0, payload, now);
        }
        let scrambled = packet[3] & 0xc0 != 0;
        if scrambled && self.sections.contains_key(&pid) {
            let counter = if pid == 0 { &mut self.errors.pat } else { &mut self.errors.pmt };
            *counter = counter.saturating_add(1);
        }
        let video = self.pids.get(&pid).and_then(|pid| pid.stats.stream_type).is_some_and(is_video);
        video && has_adaptation && adaptation > 0 && packet[5] & 0x40 != 0
    }

    /// Reassembles the sections of the PAT and the PMTs (section 2.4.4).
    fn section(&mut self, pid: u16, starts: bool, payload: &[u8], now: Instant) {
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
            0x00 if pid == 0 => self.pat(body, whole.get(7) == Some(&0)),
            0x02 if pid != 0 => self.pmt(pid, body),
            _ if pid == 0 => {
                self.errors.pat = self.errors.pat.saturating_add(1);
                return;
            }
            _ => return, // other tables may share the PID of a PMT
        }
        if let Some(section) = self.sections.get_mut(&pid) {
            section.last = Some(now);
        }
    }

    /// Takes a section of the PAT. `whole`: the table has no other section.
    fn pat(&mut self, body: &[u8], whole: bool) {
        if whole {
            // Programs that have ended are not missing.
            let named = |pid: u16| body.chunks_exact(4).any(|p| u16::from_be_bytes([p[2] & 0x1f, p[3]]) == pid);
            self.sections.retain(|pid, _| *pid == 0 || named(*pid));
        }
        for program in body.chunks_exact(4) {
            let number = u16::from_be_bytes([program[0], program[1]]);
            let pid = u16::from_be_bytes([program[2] & 0x1f, program[3]]);
            if number != 0 && pid != 0 && self.sections.len() <= MAX_PROGRAMS {
                self.sections.entry(pid).or_default();
            }
        }
    }

    fn pmt(&mut self, program: u16, body: &[u8]) {
        let [_, _, high, low, ..] = body else { return };
        let info = usize::from(u16::from_be_bytes([high & 0x0f, *low]));
        let mut streams = body.get(4 + info..).unwrap_or(&[]);
        let mut ended: Vec<u16> =
            self.pids.iter().filter(|(_, p)| p.program == Some(program)).map(|(pid, _)| *pid).collect();
        while let [stream_type, p1, p2, l1, l2, ..] = *streams {
            let pid = u16::from_be_bytes([p1 & 0x1f, p2]);
            ended.retain(|other| *other != pid);
            if self.pids.contains_key(&pid) || self.pids.len() < MAX_PIDS {
                let entry = self.pids.entry(pid).or_default();
                entry.stats.pid = pid;
                entry.program = Some(program);
                self.changed |= entry.stats.stream_type != Some(stream_type);
                entry.stats.stream_type = Some(stream_type);
            }
            let skip = 5 + usize::from(u16::from_be_bytes([l1 & 0x0f, l2]));
            streams = streams.get(skip..).unwrap_or(&[]);
        }
        for pid in ended {
            if let Some(entry) = self.pids.get_mut(&pid) {
                entry.program = None;
                entry.stats.stream_type = None;
                self.changed = true;
            }
        }
    }
}

impl Pid {
    /// Checks the continuity counter (section 2.4.3.3): it increases with each packet that has a payload; one
    /// repetition is allowed.
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
    fn ts_monitor_describes_programs_and_counts_gaps() {
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        monitor.observe(&packet(0, 0, true, &section(0, &[0, 1, 0xf0, 0x00])), now); // program 1: PMT on PID 0x1000
        let streams = [0xe1, 0x00, 0xf0, 0x00, 0x1b, 0xe1, 0x00, 0xf0, 0x00, 0x0f, 0xe1, 0x01, 0xf0, 0x00];
        monitor.observe(&packet(0x1000, 0, true, &section(2, &streams)), now);
        assert_eq!(monitor.description().unwrap(), "MPEG-TS: H.264 (PID 256), AAC (PID 257)");
        assert_eq!(monitor.description(), None);
        for counter in [0, 1, 2, 2, 3, 5, 6, 6, 6] {
            monitor.observe(&packet(0x100, counter, false, &[]), now);
        }
        let video = monitor.pids().into_iter().find(|p| p.pid == 0x100).unwrap();
        assert_eq!((video.stream_type, video.packets, video.continuity_errors), (Some(0x1b), 9, 2));
    }

    #[test]
    fn ts_monitor_reassembles_sections() {
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        let mut body = vec![0xe1, 0x00, 0xf0, 190];
        body.extend([0; 190]); // program descriptors that fill the first packet
        body.extend([0x24, 0xe1, 0x00, 0xf0, 0x00]);
        monitor.observe(&packet(0, 0, true, &section(0, &[0, 1, 0xf0, 0x00])), now);
        let pmt = section(2, &body);
        monitor.observe(&packet(0x1000, 0, true, &pmt[..184]), now);
        monitor.observe(&packet(0x1000, 1, false, &pmt[184..]), now);
        assert_eq!(monitor.description().unwrap(), "MPEG-TS: HEVC (PID 256)");
    }

    #[test]
    fn ts_monitor_first_priority_checks_of_tr_101_290() {
        let mut monitor = TsMonitor::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pat = |counter| packet(0, counter, true, &section(0, &[0, 1, 0xf0, 0x00]));
        let streams = [0xe1, 0x00, 0xf0, 0x00, 0x1b, 0xe1, 0x00, 0xf0, 0x00];
        let pmt = |counter| packet(0x1000, counter, true, &section(2, &streams));
        for i in 0..60 {
            let counter = i as u8 & 15;
            let good = [pat(counter), pmt(counter), packet(0x100, counter, false, &[])].concat();
            monitor.observe(&good, at(100 * i));
        }
        assert_eq!(monitor.errors(), TransportErrors::default());
        // A second without PAT, then one without PMT.
        for i in 60..70 {
            monitor.observe(&[pmt(i as u8 & 15), packet(0x100, i as u8 & 15, false, &[])].concat(), at(100 * i));
        }
        assert_eq!((monitor.errors().pat, monitor.errors().pmt), (1, 0));
        for i in 70..80 {
            monitor.observe(&[pat((i - 10) as u8 & 15), packet(0x100, i as u8 & 15, false, &[])].concat(), at(100 * i));
        }
        assert_eq!((monitor.errors().pat, monitor.errors().pmt, monitor.errors().pid), (1, 1, 0));
        // Six seconds without pictures.
        for i in 80..140 {
            monitor.observe(&[pat((i - 10) as u8 & 15), pmt((i - 10) as u8 & 15)].concat(), at(100 * i));
        }
        assert_eq!((monitor.errors().pmt, monitor.errors().pid, monitor.errors().continuity), (1, 1, 0));
        // Sync bytes: a single wrong one, then three in a row, then five right ones.
        let wrong = vec![0; PACKET];
        monitor.observe(&wrong, at(14_000));
        monitor.observe(&packet(0x100, 0, false, &[]), at(14_000));
        assert_eq!((monitor.errors().sync_byte, monitor.errors().sync_losses), (1, 0));
        monitor.observe(&[wrong.clone(), wrong.clone(), wrong.clone()].concat(), at(14_001));
        assert_eq!((monitor.errors().sync_byte, monitor.errors().sync_losses), (4, 1));
        for i in 1..6 {
            monitor.observe(&packet(0x100, i, false, &[]), at(14_002));
        }
        monitor.observe(&[wrong.clone(), wrong].concat(), at(14_003));
        assert_eq!(monitor.errors().sync_losses, 2);
        // Another table on PID 0, and a scrambled PAT.
        monitor.observe(&packet(0, 3, true, &section(0x42, &[0; 8])), at(14_004));
        let mut scrambled = pat(4);
        scrambled[3] |= 0x80;
        let before = monitor.errors().pat;
        monitor.observe(&scrambled, at(14_005));
        assert_eq!((before, monitor.errors().pat), (2, 3));
        // A program that has ended is not missing.
        monitor.observe(&packet(0, 5, true, &section(0, &[0, 1, 0xf1, 0x00])), at(14_006));
        let pmt_errors = monitor.errors().pmt;
        monitor.begin();
        monitor.observe(&packet(0, 6, true, &section(0, &[0, 1, 0xf1, 0x00])), at(20_000));
        assert_eq!(monitor.errors().pmt, pmt_errors, "what did not come while it was away is not missing");
    }

    proptest::proptest! {
        #[test]
        fn ts_monitor_survives_any_bytes_in_bounded_memory(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..2000)) {
            let mut monitor = TsMonitor::new();
            for chunk in bytes.chunks_mut(PACKET) {
                chunk[0] = SYNC;
            }
            for _ in 0..4 {
                monitor.observe(&bytes, Instant::now());
                bytes.rotate_left(1);
            }
            assert!(monitor.pids.len() <= MAX_PIDS + 1 && monitor.sections.len() <= MAX_PROGRAMS + 1);
        }
    }
}
