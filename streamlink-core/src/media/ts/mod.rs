//! Monitoring of MPEG-TS (ISO/IEC 13818-1): the PIDs with their stream types and continuity errors, and the
//! checks of ETSI TR 101 290. Nothing is altered, and errors are counted, never refused.

pub(crate) mod codec;
mod framing;
mod pid_map;
mod presence;
pub(crate) mod sections;
pub(crate) mod sync;
pub(crate) mod transport;

pub(crate) use framing::Framing;
pub(crate) use pid_map::PidMap;
use presence::MediaPresence;
use sections::{AssociationSection, MapSection, SectionReader};
pub(crate) use sync::{PACKET, PacketSync, SYNC};
use transport::TransportPacket;

use super::{
    track::{MediaTrack, bits_per_second},
    transport_check::{TransportChecker, TransportErrors},
};
use std::time::{Duration, Instant};

const NULL_PID: u16 = 0x1fff;
/// Maximum number of PIDs that are followed; a hostile stream could name all 8192.
const MAX_PIDS: usize = 256;
/// Maximum number of programs that are followed.
const MAX_PROGRAMS: usize = 64;

/// Statistics of one PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

/// Returns whether a stream type is video.
fn is_video(stream_type: u8) -> bool {
    matches!(stream_type, 0x01 | 0x02 | 0x10 | 0x1b | 0x21 | 0x24 | 0x33)
}

#[derive(Debug, Default)]
struct Pid {
    stats: PidStats,
    /// PID of the PMT that names it.
    program: Option<u16>,
    /// Number of that program.
    number: u16,
    codec: &'static str,
    /// Bytes of payload, and how many of them have been measured.
    bytes: u64,
    measured: u64,
}

/// Findings about the payload of one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// A picture begins from which decoding can start.
    pub(crate) random_access: bool,
    /// There is media; see [`MediaPresence`]. True for everything that is no MPEG-TS.
    pub(crate) media: bool,
}

/// Monitors a transport stream.
#[derive(Debug, Default)]
pub(crate) struct TsMonitor {
    checker: TransportChecker,
    presence: MediaPresence,
    programs: Programs,
}

/// The programs of a transport stream.
#[derive(Debug, Default)]
struct Programs {
    pids: PidMap<Pid>,
    /// PIDs of PMTs, with the sections in progress; PID 0 is the PAT.
    sections: PidMap<SectionReader>,
    changed: bool,
}

impl TsMonitor {
    pub(crate) fn new() -> Self {
        let mut monitor = Self::default();
        monitor.programs.sections.get_or_insert(0, MAX_PROGRAMS);
        monitor
    }

    /// Observes the payload of one datagram. Transport packets may be split over datagrams.
    pub(crate) fn observe(&mut self, payload: &[u8], now: Instant) -> Observed {
        let Self { checker, presence, programs } = self;
        let mut observed = Observed::default();
        checker.observe(payload, now, |packet| {
            observed.random_access |= programs.packet(packet);
            observed.media |= presence.packet(packet);
        });
        // The first datagrams of a transport stream come before it is known to be one. Other payloads may look like one
        // for a moment.
        let is_whole =
            || payload.len().is_multiple_of(PACKET) && payload.chunks(PACKET).all(|packet| packet[0] == SYNC);
        observed.media |= !checker.is_in_sync() && !is_whole();
        observed
    }

    /// Begins the stream again: what was missing meanwhile is not an error.
    pub(crate) fn begin(&mut self) {
        self.checker.begin();
    }

    /// Returns the PIDs, in order.
    pub(crate) fn pids(&self) -> Vec<PidStats> {
        let errors = |pid| self.checker.continuity_errors(pid);
        let stats = self.programs.pids.values().map(|pid| pid.stats);
        stats.map(|stats| PidStats { continuity_errors: errors(stats.pid), ..stats }).collect()
    }

    /// Returns the number of failures of each check.
    pub(crate) fn errors(&self) -> TransportErrors {
        self.checker.errors()
    }

    /// Returns the streams of the programs, once when they are first known and after each change.
    pub(crate) fn description(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.programs.changed) {
            return None;
        }
        let streams = self.programs.pids.values().filter(|pid| pid.stats.stream_type.is_some());
        let names: Vec<String> = streams.map(|pid| format!("{} (PID {})", pid.codec, pid.stats.pid)).collect();
        Some(format!("MPEG-TS: {}", names.join(", ")))
    }

    /// Returns the elementary streams that the programs name, with their bit rates since the last call, which was so long
    /// ago.
    pub(crate) fn tracks(&mut self, since: Duration) -> Vec<MediaTrack> {
        let mut tracks = Vec::new();
        for pid in self.programs.pids.values_mut().filter(|pid| pid.stats.stream_type.is_some()) {
            let bytes = pid.bytes.saturating_sub(std::mem::replace(&mut pid.measured, pid.bytes));
            tracks.push(MediaTrack {
                pid: pid.stats.pid,
                program: pid.number,
                codec: pid.codec,
                bit_rate: bits_per_second(bytes, since),
                ..MediaTrack::default()
            });
        }
        tracks
    }
}

impl Programs {
    /// Observes one transport packet; returns whether it is a random access point of a video stream (section 2.4.3.5).
    fn packet(&mut self, packet: &[u8; PACKET]) -> bool {
        let &[_, p1, p2, control, length, flags, ..] = packet;
        let pid = u16::from_be_bytes([p1 & 0x1f, p2]);
        if pid == NULL_PID {
            return false;
        }
        let Some(entry) = self.pids.get_or_insert(pid, MAX_PIDS) else { return false };
        let has_adaptation = control & 0x20 != 0;
        entry.stats.pid = pid;
        entry.stats.packets = entry.stats.packets.saturating_add(1);
        let is_video = entry.stats.stream_type.is_some_and(is_video);
        let start = if has_adaptation { 5 + usize::from(length) } else { 4 };
        if control & 0x10 != 0 {
            entry.bytes = entry.bytes.saturating_add(packet.len().saturating_sub(start) as u64);
        }
        if self.sections.contains(pid)
            && let Some(packet) = TransportPacket::parse(packet)
        {
            self.table(&packet);
        }
        is_video && has_adaptation && length > 0 && flags & 0x40 != 0
    }

    /// Takes a packet of the PAT or of a PMT. Their checksums are the checker's concern: programs that a damaged table
    /// names for a moment are shown, rather than none where an encoder computes them wrongly.
    fn table(&mut self, packet: &TransportPacket<'_>) {
        let Some(mut reader) = self.sections.remove(packet.pid) else { return };
        reader.push_any(packet, |section, _| {
            if packet.pid != 0 {
                self.map(packet.pid, section); // other tables may share the PID of a PMT
            } else if let Some(section) = AssociationSection::parse(section) {
                self.associate(section);
            }
        });
        if let Some(place) = self.sections.get_or_insert(packet.pid, usize::MAX) {
            *place = reader;
        }
    }

    fn associate(&mut self, section: AssociationSection<'_>) {
        if section.is_whole {
            // Programs that have ended are not missing.
            self.sections.retain(|pid, _| section.names(pid));
            for pid in self.pids.values_mut() {
                if pid.program.is_some_and(|program| !section.names(program)) {
                    pid.program = None;
                    pid.stats.stream_type = None;
                    self.changed = true;
                }
            }
        }
        for pid in section.pids() {
            self.sections.get_or_insert(pid, MAX_PROGRAMS);
        }
    }

    fn map(&mut self, program: u16, section: &[u8]) {
        let Some(section) = MapSection::parse(section) else { return };
        for (stream_type, pid, descriptors) in section.streams() {
            if let Some(entry) = self.pids.get_or_insert(pid, MAX_PIDS) {
                entry.stats.pid = pid;
                entry.program = Some(program);
                entry.number = section.number;
                let codec = codec::name(section.descriptors, stream_type, descriptors);
                self.changed |= entry.stats.stream_type != Some(stream_type) || entry.codec != codec;
                entry.codec = codec;
                entry.stats.stream_type = Some(stream_type);
            }
        }
        for (pid, entry) in self.pids.iter_mut() {
            if entry.program == Some(program) && !section.streams().any(|(_, named, _)| named == pid) {
                entry.program = None;
                entry.stats.stream_type = None;
                self.changed = true;
            }
        }
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
    fn ts_monitor_goes_on_finding_media_in_what_looked_like_packets() {
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        assert!(monitor.observe(&[0x46; 1316], now).media);
        monitor.observe(&[0x47; 1317], now);
        monitor.observe(&[0x48; 1316], now);
        assert!((0..20).all(|number| monitor.observe(&[number; 1316], now).media));
    }

    #[test]
    fn ts_monitor_finds_no_media_in_null_packets_alone() {
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        let null = packet(0x1fff, 0, false, &[]);
        assert!((0..20).all(|_| !monitor.observe(&null, now).media));
        let mut other = TsMonitor::new();
        assert!(other.observe(b"no MPEG-TS", now).media && !other.observe(b"", now).media);
    }

    #[test]
    fn ts_monitor_forgets_streams_of_ended_programs() {
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        let streams = |pid: u8| [0xe1, pid, 0xf0, 0x00, 0x1b, 0xe1, pid, 0xf0, 0x00];
        monitor.observe(&packet(0, 0, true, &section(0, &[0, 1, 0xf0, 0x00])), now);
        monitor.observe(&packet(0x1000, 0, true, &section(2, &streams(0))), now);
        monitor.description().unwrap();
        monitor.observe(&packet(0, 1, true, &section(0, &[0, 7, 0xf1, 0x00])), now);
        monitor.observe(&packet(0x1100, 0, true, &section(2, &streams(1))), now);
        assert_eq!(monitor.description().unwrap(), "MPEG-TS: H.264 (PID 257)");
    }

    #[test]
    fn ts_monitor_reads_packets_with_parity() {
        let mut monitor = TsMonitor::new();
        let mut stream = Vec::new();
        for counter in 0..140u8 {
            stream.extend(packet(0x100, counter & 15, false, &[]));
            stream.extend([0xaa; 16]);
        }
        for chunk in stream.chunks(1316) {
            monitor.observe(chunk, Instant::now());
        }
        // The first datagram tells the size.
        assert!(monitor.errors().sync_byte < 8, "{:?}", monitor.errors());
        let pid = monitor.pids().into_iter().find(|pid| pid.pid == 0x100).unwrap();
        assert!(pid.packets > 130, "{pid:?}");
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
            assert!(monitor.programs.pids.len() <= MAX_PIDS + 1 && monitor.programs.sections.len() <= MAX_PROGRAMS + 1);
        }
    }
}
