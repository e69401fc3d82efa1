//! Sections of program-specific information (ISO/IEC 13818-1 section 2.4.4): reassembly, and the tables that name
//! programs and their streams. A section counts by its content, not by its version number: an encoder that replaces
//! another one may use the same.

use super::transport::TransportPacket;
use mpeg2ts_reader::mpegts_crc::sum32;

/// Maximum length of a section, in bytes: its length has 12 bits.
#[cfg(test)]
const MAX_SECTION: usize = 3 + 0xfff;
/// Maximum number of programs that are followed.
pub(crate) const MAX_PROGRAMS: usize = 64;
/// Maximum number of streams of one program that are considered.
const MAX_STREAMS: usize = 64;

/// Result of the checksum of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    Wrong,
    /// The section has none, as those of private tables may.
    Absent,
}

/// Reassembles the sections of one PID. Holds at most one section, and the payload of a packet.
#[derive(Debug, Default)]
pub(crate) struct SectionReader {
    bytes: Vec<u8>,
    collects: bool,
    counter: Option<u8>,
    damaged: u64,
}

impl SectionReader {
    /// Takes a packet; `take` is called with each section whose checksum is right.
    pub(crate) fn push(&mut self, packet: &TransportPacket<'_>, mut take: impl FnMut(&[u8])) {
        self.push_any(packet, |section, checksum| {
            if checksum == Checksum::Right {
                take(section);
            }
        });
    }

    /// Takes a packet; `take` is called with each section.
    pub(crate) fn push_any(&mut self, packet: &TransportPacket<'_>, mut take: impl FnMut(&[u8], Checksum)) {
        if packet.payload.is_empty() || packet.scrambled {
            return;
        }
        let last = self.counter.replace(packet.counter);
        if !packet.discontinuity && !packet.starts && last == Some(packet.counter) {
            return; // sent twice
        }
        if last.is_some_and(|last| (last + 1) & 0x0f != packet.counter) && !packet.starts {
            self.collects = false;
        }
        let mut rest = packet.payload;
        if packet.starts {
            let Some((&pointer, body)) = rest.split_first() else { return };
            let (end, next) = body.split_at_checked(usize::from(pointer)).unwrap_or((body, &[]));
            if self.collects && last.is_some_and(|last| (last + 1) & 0x0f == packet.counter) {
                self.bytes.extend_from_slice(end);
                self.complete(&mut take);
            }
            self.bytes.clear();
            self.collects = true;
            rest = next;
        }
        if self.collects {
            self.bytes.extend_from_slice(rest);
            self.complete(&mut take);
        }
    }

    /// Hands on the complete sections at the beginning of the buffer.
    fn complete(&mut self, take: &mut impl FnMut(&[u8], Checksum)) {
        let mut at = 0;
        while let Some(&[table, high, low]) = self.bytes.get(at..at + 3) {
            if table == 0xff {
                self.collects = false; // stuffing up to the next start
                break;
            }
            let length = 3 + usize::from(u16::from_be_bytes([high & 0x0f, low]));
            let Some(section) = self.bytes.get(at..at + length) else { break };
            at += length;
            let checksum = match high & 0x80 {
                0 => Checksum::Absent,
                _ if sum32(section) == 0 => Checksum::Right,
                _ => Checksum::Wrong,
            };
            self.damaged = self.damaged.saturating_add(u64::from(checksum == Checksum::Wrong));
            take(section, checksum);
        }
        self.bytes.drain(..at.min(self.bytes.len()));
        if !self.collects {
            self.bytes.clear();
        }
    }

    /// Drops the section in progress.
    pub(crate) fn restart(&mut self) {
        self.bytes.clear();
        self.collects = false;
        self.counter = None;
    }

    /// Returns the number of sections with a wrong CRC.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }
}

/// The header that the tables share.
#[derive(Clone, Copy, Debug)]
struct Head<'a> {
    /// Transport stream or program number.
    extension: u16,
    version: u8,
    number: u8,
    last: u8,
    body: &'a [u8],
}

/// Parses a section of a table that is in force.
fn head(section: &[u8], table: u8) -> Option<Head<'_>> {
    let &[id, _, _, e1, e2, version, number, last, ..] = section else { return None };
    let body = section.get(8..section.len().checked_sub(4)?)?;
    let in_force = version & 1 != 0;
    let extension = u16::from_be_bytes([e1, e2]);
    (id == table && in_force).then_some(Head { extension, version: version >> 1 & 0x1f, number, last, body })
}

/// A table that may come in several sections.
#[derive(Debug)]
pub(crate) struct Table<T> {
    version: u8,
    sections: Vec<Option<Vec<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { version: 0, sections: Vec::new() }
    }
}

impl<T: Clone + PartialEq> Table<T> {
    /// Keeps a section. Returns the entries of all of them if all are there and something has changed.
    fn keep(&mut self, head: &Head<'_>, entries: Vec<T>) -> Option<Vec<T>> {
        let count = usize::from(head.last) + 1;
        if self.version != head.version || self.sections.len() != count {
            self.version = head.version;
            self.sections = vec![None; count];
        }
        let slot = self.sections.get_mut(usize::from(head.number))?;
        if slot.as_ref() == Some(&entries) {
            return None;
        }
        *slot = Some(entries);
        let mut all = Vec::new();
        for section in &self.sections {
            all.extend_from_slice(section.as_ref()?);
        }
        Some(all)
    }
}

/// A program that the PAT names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramEntry {
    pub(crate) number: u16,
    /// PID of its PMT.
    pub(crate) pid: u16,
}

/// Takes a section of the PAT; returns all programs if they have changed and all sections are there.
pub(crate) fn program_association(section: &[u8], table: &mut Table<ProgramEntry>) -> Option<Vec<ProgramEntry>> {
    let head = head(section, 0x00)?;
    let mut programs = table.keep(&head, program_entries(head.body).collect())?;
    programs.truncate(MAX_PROGRAMS);
    Some(programs)
}

/// Returns the programs that the body of a section of the PAT names.
fn program_entries(body: &[u8]) -> impl Iterator<Item = ProgramEntry> {
    let entries = body.chunks_exact(4).map(|entry| ProgramEntry {
        number: u16::from_be_bytes([entry[0], entry[1]]),
        pid: u16::from_be_bytes([entry[2] & 0x1f, entry[3]]),
    });
    entries.filter(|entry| entry.number != 0 && entry.pid != 0)
}

/// One section of the PAT, for monitors, which take each section as it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AssociationSection<'a> {
    /// The table has no other section.
    pub(crate) is_whole: bool,
    body: &'a [u8],
}

impl<'a> AssociationSection<'a> {
    /// Parses a section that is in force.
    pub(crate) fn parse(section: &'a [u8]) -> Option<Self> {
        let head = head(section, 0x00)?;
        Some(Self { is_whole: head.last == 0, body: head.body })
    }

    /// Returns the PIDs of the PMTs that it names.
    pub(crate) fn pids(self) -> impl Iterator<Item = u16> + 'a {
        program_entries(self.body).map(|entry| entry.pid)
    }

    /// Returns whether it names the PID of a PMT.
    pub(crate) fn names(self, pid: u16) -> bool {
        self.pids().any(|named| named == pid)
    }
}

/// A program map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramMap {
    pub(crate) number: u16,
    pub(crate) clock_pid: u16,
    /// The descriptors of the program.
    pub(crate) descriptors: Vec<u8>,
    pub(crate) streams: Vec<StreamEntry>,
}

/// An elementary stream that a program map names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamEntry {
    pub(crate) pid: u16,
    pub(crate) stream_type: u8,
    pub(crate) descriptors: Vec<u8>,
}

/// Parses a section of a PMT.
pub(crate) fn program_map(section: &[u8]) -> Option<ProgramMap> {
    let map = MapSection::parse(section)?;
    let mut streams = Vec::new();
    for (stream_type, pid, descriptors) in map.streams().take(MAX_STREAMS) {
        streams.push(StreamEntry { pid, stream_type, descriptors: descriptors.to_vec() });
    }
    let MapSection { number, clock_pid, descriptors, .. } = map;
    Some(ProgramMap { number, clock_pid, descriptors: descriptors.to_vec(), streams })
}

/// A section of a PMT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapSection<'a> {
    pub(crate) number: u16,
    pub(crate) clock_pid: u16,
    /// The descriptors of the program.
    pub(crate) descriptors: &'a [u8],
    streams: &'a [u8],
}

impl<'a> MapSection<'a> {
    /// Parses a section that is in force.
    pub(crate) fn parse(section: &'a [u8]) -> Option<Self> {
        let head = head(section, 0x02)?;
        let &[p1, p2, l1, l2, ref rest @ ..] = head.body else { return None };
        let info = usize::from(u16::from_be_bytes([l1 & 0x0f, l2]));
        let (descriptors, streams) = rest.split_at_checked(info)?;
        let clock_pid = u16::from_be_bytes([p1 & 0x1f, p2]);
        Some(Self { number: head.extension, clock_pid, descriptors, streams })
    }

    /// Returns type, PID and descriptors of each elementary stream.
    pub(crate) fn streams(self) -> impl Iterator<Item = (u8, u16, &'a [u8])> {
        let mut rest = self.streams;
        std::iter::from_fn(move || {
            let &[stream_type, p1, p2, l1, l2, ref tail @ ..] = rest else { return None };
            let length = usize::from(u16::from_be_bytes([l1 & 0x0f, l2]));
            let (descriptors, next) = tail.split_at_checked(length).unwrap_or((tail, &[]));
            rest = next;
            Some((stream_type, u16::from_be_bytes([p1 & 0x1f, p2]), descriptors))
        })
    }
}

/// Takes a section of the SDT of this transport stream (ETSI EN 300 468 section 5.2.3); returns the names of the
/// services, by program number, if they have changed and all sections are there.
pub(crate) fn service_names(section: &[u8], table: &mut Table<(u16, String)>) -> Option<Vec<(u16, String)>> {
    let head = head(section, 0x42)?;
    let mut rest = head.body.get(3..)?;
    let mut names = Vec::new();
    while let &[s1, s2, _, l1, l2, ref tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([l1 & 0x0f, l2]));
        let (own, next) = tail.split_at_checked(length).unwrap_or((tail, &[]));
        for (tag, body) in descriptors(own) {
            if tag == 0x48
                && let Some(name) = service_name(body)
                && names.len() < MAX_PROGRAMS
            {
                names.push((u16::from_be_bytes([s1, s2]), name));
            }
        }
        rest = next;
    }
    table.keep(&head, names)
}

/// Reads the name in a service descriptor.
fn service_name(body: &[u8]) -> Option<String> {
    let provider = usize::from(*body.get(1)?);
    let length = usize::from(*body.get(2 + provider)?);
    let name = body.get(3 + provider..3 + provider + length)?;
    Some(match name {
        [0x15, text @ ..] => String::from_utf8_lossy(text).into_owned(),
        [0x01..=0x0f, text @ ..] | [0x10, _, _, text @ ..] => text.iter().map(|byte| char::from(*byte)).collect(),
        text => {
            String::from_utf8(text.to_vec()).unwrap_or_else(|_| text.iter().map(|byte| char::from(*byte)).collect())
        }
    })
}

/// Returns the descriptors of a list, as tag and body.
pub(crate) fn descriptors(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [tag, length, rest @ ..] = bytes else { return None };
        let (body, next) = rest.split_at_checked(usize::from(*length))?;
        bytes = next;
        Some((*tag, body))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::media::ts::PACKET;

    /// Makes a section with header and CRC.
    pub(crate) fn section(table: u8, extension: u16, version: u8, numbers: (u8, u8), body: &[u8]) -> Vec<u8> {
        let length = 5 + body.len() + 4;
        let mut bytes = vec![table, 0xb0 | (length >> 8) as u8, length as u8];
        bytes.extend(extension.to_be_bytes());
        bytes.extend([0xc1 | version << 1, numbers.0, numbers.1]);
        bytes.extend_from_slice(body);
        bytes.extend(sum32(&bytes).to_be_bytes());
        bytes
    }

    /// Puts sections into transport packets.
    pub(crate) fn packetize(pid: u16, counter: &mut u8, sections: &[u8]) -> Vec<u8> {
        let bytes = [&[0][..], sections].concat();
        let mut out = Vec::new();
        for (number, chunk) in bytes.chunks(184).enumerate() {
            let start = if number == 0 { 0x40 } else { 0 };
            out.extend([0x47, start | (pid >> 8) as u8, pid as u8, 0x10 | *counter]);
            *counter = (*counter + 1) & 0x0f;
            out.extend_from_slice(chunk);
            out.resize(out.len().next_multiple_of(PACKET), 0xff);
        }
        out
    }

    fn read(reader: &mut SectionReader, packets: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for packet in packets.chunks(PACKET) {
            reader.push(&TransportPacket::parse(packet).unwrap(), |section| out.push(section.to_vec()));
        }
        out
    }

    #[test]
    fn sections_split_joined_and_damaged_are_read() {
        let mut reader = SectionReader::default();
        let long = section(2, 1, 0, (0, 0), &[7; 400]);
        let short = section(2, 2, 0, (0, 0), &[8; 20]);
        let mut counter = 0;
        let packets = packetize(0x100, &mut counter, &[&long[..], &short].concat());
        assert_eq!(read(&mut reader, &packets), [long.clone(), short.clone()]);
        // A packet lost in the middle costs the section, not the next.
        let packets = packetize(0x100, &mut counter, &long);
        let next = packetize(0x100, &mut counter, &short);
        let lossy = [&packets[..PACKET], &packets[2 * PACKET..], &next].concat();
        assert_eq!(read(&mut reader, &lossy), std::slice::from_ref(&short));
        let mut wrong = short.clone();
        wrong[10] ^= 1;
        let packets = packetize(0x100, &mut counter, &wrong);
        assert_eq!(read(&mut reader, &packets), Vec::<Vec<u8>>::new());
        assert_eq!(reader.damaged(), 1);
    }

    #[test]
    fn sections_that_end_behind_a_pointer_are_read() {
        let mut reader = SectionReader::default();
        let first = section(2, 1, 0, (0, 0), &[7; 200]);
        let second = section(2, 2, 0, (0, 0), &[8; 20]);
        let (a, b) = first.split_at(183);
        let mut packets = vec![0x47, 0x41, 0, 0x10, 0];
        packets.extend_from_slice(a);
        packets.extend([0x47, 0x41, 0, 0x11, b.len() as u8]);
        packets.extend_from_slice(b);
        packets.extend_from_slice(&second);
        packets.resize(2 * PACKET, 0xff);
        assert_eq!(read(&mut reader, &packets), [first, second]);
    }

    #[test]
    fn program_tables_parse_with_the_same_version() {
        let mut table = Table::default();
        let first = section(0, 1, 3, (0, 0), &[0, 0, 0xe0, 0x10, 0, 1, 0xf0, 0x00]);
        let entry = |number, pid| ProgramEntry { number, pid };
        assert_eq!(program_association(&first, &mut table), Some(vec![entry(1, 0x1000)]));
        assert_eq!(program_association(&first, &mut table), None);
        let second = section(0, 1, 3, (0, 0), &[0, 1, 0xf0, 0x01]);
        assert_eq!(program_association(&second, &mut table), Some(vec![entry(1, 0x1001)]));
        // Two sections.
        let halves = [(0, [0, 1, 0xf0, 0x01]), (1, [0, 2, 0xf0, 0x02])].map(|(n, b)| section(0, 1, 4, (n, 1), &b));
        assert_eq!(program_association(&halves[0], &mut table), None);
        assert_eq!(program_association(&halves[1], &mut table), Some(vec![entry(1, 0x1001), entry(2, 0x1002)]));
        let map = program_map(&section(
            2,
            1,
            0,
            (0, 0),
            &[0xe1, 0, 0xf0, 2, 0x10, 0, 0x1b, 0xe1, 0, 0xf0, 0, 6, 0xe1, 1, 0xf0, 3, 0x56, 1, 9],
        ))
        .unwrap();
        assert_eq!((map.number, map.clock_pid, map.streams.len()), (1, 0x100, 2));
        assert_eq!(map.streams[1].descriptors, [0x56, 1, 9]);
        let name =
            section(0x42, 1, 0, (0, 0), &[0, 1, 0xff, 0, 7, 0xfc, 0x80, 9, 0x48, 7, 1, 1, b'p', 3, b'o', b'n', b'e']);
        assert_eq!(service_names(&name, &mut Table::default()), Some(vec![(7, "one".to_owned())]));
    }

    proptest::proptest! {
        #[test]
        fn sections_survive_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 188 * 6)) {
            let mut reader = SectionReader::default();
            for packet in bytes.chunks(PACKET) {
                let packet = TransportPacket { payload: &packet[4..], starts: packet[1] & 1 != 0, counter: packet[2] & 1, ..TransportPacket::default() };
                reader.push(&packet, |_| {});
                proptest::prop_assert!(reader.bytes.len() <= MAX_SECTION + PACKET);
            }
            let with_crc = section(bytes[0] % 3, 1, 0, (bytes[1], bytes[2]), &bytes[3..300]);
            program_association(&with_crc, &mut Table::default());
            program_map(&with_crc);
            service_names(&section(0x42, 1, 0, (0, 0), &bytes[3..300]), &mut Table::default());
        }
    }
}
