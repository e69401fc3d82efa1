//! First- and second-priority checks of ETSI TR 101 290 (sections 5.2.1 and 5.2.2), over a byte stream that need not be
//! cut at datagrams. Nothing is altered, and errors are counted, never refused.

use super::ts::{
    PACKET, PacketSync, PidMap,
    sections::{AssociationSection, Checksum, MapSection, SectionReader},
    transport::TransportPacket,
};
use std::time::{Duration, Instant};

const NULL_PID: u16 = 0x1fff;
const PAT_PID: u16 = 0;
const CAT_PID: u16 = 1;
/// Maximum number of PIDs that are followed; a hostile stream could name all 8192.
const MAX_PIDS: usize = 256;
/// Maximum number of programs that are followed.
const MAX_PROGRAMS: usize = 64;

/// Maximum time between two PATs, and between two PMTs of a program (1.3 and 1.5).
const TABLE_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time between two packets of a PID that a PMT names (1.6; the period is the user's).
const PID_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum time between two PCRs, and maximum step of the PCR (2.3).
const PCR_INTERVAL: Duration = Duration::from_millis(100);
/// Frequency and modulus of the PCR.
const PCR_RATE: u64 = 27_000_000;
const PCR_MODULUS: u64 = (1 << 33) * 300;
/// Maximum time between two PTS of an elementary stream (2.5).
const PTS_INTERVAL: Duration = Duration::from_millis(700);

/// A first- or second-priority check of ETSI TR 101 290 (sections 5.2.1 and 5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TransportCheck {
    /// 1.1: two sync bytes in a row are wrong.
    SyncLoss,
    /// 1.2: a sync byte is wrong, or a packet is truncated.
    SyncByte,
    /// 1.3: there is no PAT for half a second, PID 0 holds another table, or it is scrambled.
    Pat,
    /// 1.4: a continuity counter does not follow the one before.
    Continuity,
    /// 1.5: there is no PMT of a program for half a second, or it is scrambled.
    Pmt,
    /// 1.6: a PID that a PMT names does not occur for five seconds.
    Pid,
    /// 2.1: a packet has the transport error indicator.
    Transport,
    /// 2.2: the checksum of a table is wrong.
    Crc,
    /// 2.3a: two PCRs are more than 100 ms apart.
    PcrRepetition,
    /// 2.3b: a PCR steps by more than 100 ms without a discontinuity indicator.
    PcrDiscontinuity,
    /// 2.5: two PTS of an elementary stream are more than 700 ms apart.
    Pts,
    /// 2.6: packets are scrambled and there is no CAT, or PID 1 holds another table.
    Cat,
}

impl TransportCheck {
    /// All checks, in order.
    pub const ALL: [Self; 12] = [
        Self::SyncLoss,
        Self::SyncByte,
        Self::Pat,
        Self::Continuity,
        Self::Pmt,
        Self::Pid,
        Self::Transport,
        Self::Crc,
        Self::PcrRepetition,
        Self::PcrDiscontinuity,
        Self::Pts,
        Self::Cat,
    ];
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
            Self::Transport => "transport error",
            Self::Crc => "CRC error",
            Self::PcrRepetition => "PCR repetition error",
            Self::PcrDiscontinuity => "PCR discontinuity indicator error",
            Self::Pts => "PTS error",
            Self::Cat => "CAT error",
        })
    }
}

/// Number of failures of each check of ETSI TR 101 290.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// Failures of check 2.1.
    pub transport: u64,
    /// Failures of check 2.2.
    pub crc: u64,
    /// Failures of check 2.3a.
    pub pcr_repetition: u64,
    /// Failures of check 2.3b.
    pub pcr_discontinuity: u64,
    /// Failures of check 2.5.
    pub pts: u64,
    /// Failures of check 2.6.
    pub cat: u64,
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
            TransportCheck::Transport => self.transport,
            TransportCheck::Crc => self.crc,
            TransportCheck::PcrRepetition => self.pcr_repetition,
            TransportCheck::PcrDiscontinuity => self.pcr_discontinuity,
            TransportCheck::Pts => self.pts,
            TransportCheck::Cat => self.cat,
        }
    }

    fn add(counter: &mut u64, failed: bool) {
        *counter = counter.saturating_add(u64::from(failed));
    }
}

/// Timer of something that must occur again and again. Its absence is counted once.
#[derive(Debug, Default)]
struct Presence {
    last: Option<Instant>,
    reported: bool,
}

impl Presence {
    fn occurred(&mut self, now: Instant) {
        *self = Self { last: Some(now), reported: false };
    }

    /// Returns true once it has been absent for longer than `interval`. `deadline` is moved to the next time of a
    /// check.
    fn is_absent(&mut self, now: Instant, interval: Duration, deadline: &mut Option<Instant>) -> bool {
        let due = self.last.get_or_insert(now).checked_add(interval);
        if self.reported {
            return false;
        }
        self.reported = due.is_some_and(|due| now > due);
        if !self.reported {
            *deadline = deadline.iter().copied().chain(due).min();
        }
        self.reported
    }
}

/// State of one PID.
#[derive(Debug, Default)]
struct PidCheck {
    continuity: Option<u8>,
    errors: u64,
    /// The last packet, to tell a repetition from a wrong counter.
    last_packet: Option<Box<[u8; PACKET]>>,
    repeated: bool,
    pcr: Option<(u64, Instant)>,
    pts: Option<Instant>,
    /// PID of the PMT that names it.
    program: Option<u16>,
    presence: Presence,
}

/// Sections of one PID with tables.
#[derive(Debug, Default)]
struct Table {
    reader: SectionReader,
    presence: Presence,
    /// True if the PAT names this PID as that of a PMT.
    is_pmt: bool,
}

/// Checks a transport stream.
#[derive(Debug, Default)]
pub(crate) struct TransportChecker {
    sync: PacketSync,
    checks: PacketChecks,
}

/// The checks of packets, wherever they were cut out of the stream.
#[derive(Debug, Default)]
struct PacketChecks {
    errors: TransportErrors,
    pids: PidMap<PidCheck>,
    tables: PidMap<Table>,
    has_cat: bool,
    /// The lack of a CAT has been counted.
    lacks_cat: bool,
    /// Time of the next check for absences, or earlier.
    deadline: Option<Instant>,
}

impl TransportChecker {
    /// Takes the payload of one datagram. Hands each transport packet with a right sync byte to `each`.
    pub(crate) fn observe(&mut self, payload: &[u8], now: Instant, mut each: impl FnMut(&[u8; PACKET])) {
        let Self { sync, checks } = self;
        sync.feed(payload, |packet, in_sync| {
            each(packet);
            if in_sync {
                checks.packet(packet, now);
            }
        });
    }

    /// Begins the stream again: what was missing meanwhile is not an error.
    pub(crate) fn begin(&mut self) {
        self.sync.begin();
        self.checks.begin();
    }
    /// Returns true while the stream is MPEG-TS in synchronisation.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.sync.is_in_sync()
    }

    /// Returns the number of failures of each check.
    pub(crate) fn errors(&self) -> TransportErrors {
        let Self { sync, checks } = self;
        TransportErrors { sync_losses: sync.losses(), sync_byte: sync.wrong_sync_bytes(), ..checks.errors }
    }

    /// Returns the number of continuity counters of a PID that did not follow the one before.
    pub(crate) fn continuity_errors(&self, pid: u16) -> u64 {
        self.checks.pids.get(pid).map_or(0, |pid| pid.errors)
    }
}

impl PacketChecks {
    fn begin(&mut self) {
        for pid in self.pids.values_mut() {
            pid.pcr = None;
            pid.pts = None;
            pid.presence = Presence::default();
        }
        for table in self.tables.values_mut() {
            table.reader.restart();
            table.presence = Presence::default();
        }
        self.deadline = None;
    }

    fn packet(&mut self, packet: &[u8; PACKET], now: Instant) {
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        let starts = packet[1] & 0x40 != 0;
        let is_scrambled = packet[3] & 0xc0 != 0;
        let has_adaptation = packet[3] & 0x20 != 0;
        let has_payload = packet[3] & 0x10 != 0;
        TransportErrors::add(&mut self.errors.transport, packet[1] & 0x80 != 0);
        let length = if has_adaptation { usize::from(packet[4]) } else { 0 };
        let adaptation = packet.get(5..5 + length).filter(|_| has_adaptation).unwrap_or_default();
        let payload_at = if has_adaptation { 5 + length } else { 4 };
        let payload = packet.get(payload_at..).filter(|payload| has_payload && !payload.is_empty());
        let discontinuity = adaptation.first().is_some_and(|flags| flags & 0x80 != 0);
        if pid != NULL_PID
            && let Some(entry) = self.pids.get_or_insert(pid, MAX_PIDS)
        {
            let failed = entry.follows_not(packet, has_payload, discontinuity);
            TransportErrors::add(&mut entry.errors, failed);
            TransportErrors::add(&mut self.errors.continuity, failed);
            if let Some(pcr) = pcr(adaptation) {
                let (late, steps) = entry.pcr_fails(pcr, discontinuity, now);
                TransportErrors::add(&mut self.errors.pcr_repetition, late);
                TransportErrors::add(&mut self.errors.pcr_discontinuity, steps);
            }
        }
        let is_pmt = self.tables.get(pid).is_some_and(|table| table.is_pmt);
        if is_scrambled {
            TransportErrors::add(&mut self.errors.pat, pid == PAT_PID);
            TransportErrors::add(&mut self.errors.pmt, is_pmt);
            TransportErrors::add(&mut self.errors.cat, !self.has_cat && !self.lacks_cat);
            self.lacks_cat |= !self.has_cat;
        }
        // PAT and CAT, and NIT to TOT of DVB (EN 300 468 section 5.1.3), have checksums, too.
        if payload.is_some() && (is_pmt || matches!(pid, PAT_PID | CAT_PID | 0x10..=0x14)) {
            self.table(packet, pid, now);
        }
        if let Some(entry) = self.pids.get_mut(pid).filter(|entry| entry.program.is_some()) {
            entry.presence.occurred(now);
            if starts && !is_scrambled && payload.is_some_and(has_pts) {
                let late = |last| now.saturating_duration_since(last) > PTS_INTERVAL;
                TransportErrors::add(&mut self.errors.pts, entry.pts.replace(now).is_some_and(late));
            }
        }
        if self.deadline.is_none_or(|deadline| now > deadline) {
            self.check_absences(now);
        }
    }

    /// Counts tables and PIDs that are overdue.
    fn check_absences(&mut self, now: Instant) {
        let mut deadline = None;
        self.tables.get_or_insert(PAT_PID, usize::MAX);
        for (pid, table) in self.tables.iter_mut() {
            if pid == PAT_PID || table.is_pmt {
                let absent = table.presence.is_absent(now, TABLE_INTERVAL, &mut deadline);
                let counter = if pid == PAT_PID { &mut self.errors.pat } else { &mut self.errors.pmt };
                TransportErrors::add(counter, absent);
            }
        }
        for pid in self.pids.values_mut().filter(|pid| pid.program.is_some()) {
            let absent = pid.presence.is_absent(now, PID_INTERVAL, &mut deadline);
            TransportErrors::add(&mut self.errors.pid, absent);
        }
        // Something absent that comes back is due half a second later at the earliest.
        self.deadline = deadline.into_iter().chain(now.checked_add(TABLE_INTERVAL)).min();
    }

    fn table(&mut self, packet: &[u8; PACKET], pid: u16, now: Instant) {
        let Some(packet) = TransportPacket::parse(packet) else { return };
        let Some(table) = self.tables.get_or_insert(pid, usize::MAX) else { return };
        let mut reader = std::mem::take(&mut table.reader);
        reader.push_any(&packet, |section, checksum| self.section(pid, section, checksum, now));
        if let Some(table) = self.tables.get_mut(pid) {
            table.reader = reader;
        }
    }

    fn section(&mut self, pid: u16, section: &[u8], checksum: Checksum, now: Instant) {
        if checksum != Checksum::Absent && section.len() < 12 {
            return;
        }
        TransportErrors::add(&mut self.errors.crc, checksum == Checksum::Wrong);
        let table_id = section.first().copied().unwrap_or_default();
        let valid = Some(section).filter(|_| checksum == Checksum::Right);
        match (pid, table_id) {
            (PAT_PID, 0x00) => {
                if let Some(section) = valid.and_then(AssociationSection::parse) {
                    self.table_occurred(pid, now);
                    self.associate(section, now);
                }
            }
            (PAT_PID, _) => TransportErrors::add(&mut self.errors.pat, true),
            (CAT_PID, 0x01) => (self.has_cat, self.lacks_cat) = (true, false),
            (CAT_PID, _) => TransportErrors::add(&mut self.errors.cat, true),
            (_, 0x02) => {
                if let Some(section) = valid.and_then(MapSection::parse) {
                    self.table_occurred(pid, now);
                    self.map(pid, section, now);
                }
            }
            _ => {} // other tables may share the PID of a PMT
        }
    }

    fn table_occurred(&mut self, pid: u16, now: Instant) {
        if let Some(table) = self.tables.get_mut(pid) {
            table.presence.occurred(now);
        }
    }

    fn associate(&mut self, section: AssociationSection<'_>, now: Instant) {
        if section.is_whole {
            // Programs that have ended are not missing.
            self.tables.retain(|pid, table| !table.is_pmt || section.names(pid));
            for pid in self.pids.values_mut() {
                pid.program = pid.program.filter(|program| self.tables.contains(*program));
            }
        }
        for pid in section.pids() {
            if self.tables.len() > MAX_PROGRAMS {
                break;
            }
            let Some(table) = self.tables.get_or_insert(pid, usize::MAX) else { break };
            if !table.is_pmt {
                table.is_pmt = true;
                table.presence.occurred(now);
                self.deadline = None;
            }
        }
    }

    fn map(&mut self, program: u16, section: MapSection<'_>, now: Instant) {
        let named = || section.streams().map(|(_, pid, _)| pid).chain([section.clock_pid]);
        for (pid, entry) in self.pids.iter_mut().filter(|(_, entry)| entry.program == Some(program)) {
            entry.program = entry.program.filter(|_| named().any(|named| named == pid));
        }
        for pid in named().filter(|pid| *pid != NULL_PID) {
            if let Some(entry) = self.pids.get_or_insert(pid, MAX_PIDS)
                && entry.program.replace(program).is_none()
            {
                entry.presence.occurred(now);
            }
        }
    }
}

impl PidCheck {
    /// Returns true if the continuity counter does not follow (ISO/IEC 13818-1 section 2.4.3.3): it increases with each
    /// packet that has a payload, and one repetition of a packet is allowed.
    fn follows_not(&mut self, packet: &[u8; PACKET], has_payload: bool, discontinuity: bool) -> bool {
        let counter = packet[3] & 0x0f;
        let Some(last) = self.continuity.filter(|_| !discontinuity) else {
            self.keep(packet, counter);
            return false;
        };
        if has_payload && counter == last && self.last_packet.as_ref().is_some_and(|last| repeats(last, packet)) {
            return std::mem::replace(&mut self.repeated, true);
        }
        let expected = if has_payload { (last + 1) & 0x0f } else { last };
        self.keep(packet, counter);
        counter != expected
    }

    fn keep(&mut self, packet: &[u8; PACKET], counter: u8) {
        self.repeated = false;
        self.continuity = Some(counter);
        match &mut self.last_packet {
            Some(last) => **last = *packet,
            None => self.last_packet = Some(Box::new(*packet)),
        }
    }

    /// Returns whether a PCR is late, and whether it steps.
    fn pcr_fails(&mut self, pcr: u64, discontinuity: bool, now: Instant) -> (bool, bool) {
        let Some((last, at)) = self.pcr.replace((pcr, now)) else { return (false, false) };
        let step = (pcr + PCR_MODULUS - last) % PCR_MODULUS; // both are below the modulus
        let steps = step * 1000 / PCR_RATE > PCR_INTERVAL.as_millis() as u64;
        (now.saturating_duration_since(at) > PCR_INTERVAL, steps && !discontinuity)
    }
}

/// Returns true if two packets are the same but for their PCR.
fn repeats(a: &[u8; PACKET], b: &[u8; PACKET]) -> bool {
    let has_pcr = b[3] & 0x20 != 0 && b[4] >= 7 && b[5] & 0x10 != 0;
    if has_pcr { a[..6] == b[..6] && a[12..] == b[12..] } else { a == b }
}

/// Returns the PCR of an adaptation field, in units of 27 MHz (ISO/IEC 13818-1 section 2.4.3.5).
fn pcr(adaptation: &[u8]) -> Option<u64> {
    let &[flags, a, b, c, d, e, f] = adaptation.first_chunk()?;
    let base = u64::from(u32::from_be_bytes([a, b, c, d])) << 1 | u64::from(e >> 7);
    let extension = u64::from(u16::from_be_bytes([e & 1, f]));
    (flags & 0x10 != 0).then_some((base * 300 + extension) % PCR_MODULUS)
}

/// Returns true if a PES packet begins with a PTS (ISO/IEC 13818-1 section 2.4.3.6).
fn has_pts(payload: &[u8]) -> bool {
    payload.first_chunk::<8>().is_some_and(|head| head[..3] == [0, 0, 1] && head[6] >> 6 == 2 && head[7] & 0x80 != 0)
}

#[cfg(test)]
mod tests;
