//! Demultiplexing of MPEG-TS (ISO/IEC 13818-1): finds the elementary streams, and reassembles their PES packets.

use super::Kind;
use mpeg2ts_reader::{
    StreamType,
    demultiplex::{
        Demultiplex, DemuxContext, FilterChangeset, FilterRequest, NullPacketFilter, PacketFilter, PatPacketFilter,
        PmtPacketFilter,
    },
    descriptor::UnknownDescriptor,
    descriptor_enum,
    packet::Packet,
    pes::{PesContents, PesHeader, PesLength, PtsDts, Timestamp},
    psi::{pat::PAT_PID, pmt::StreamInfo},
};

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
/// Maximum length of a PES packet, in bytes: longer ones are truncated.
const MAX_PES: usize = 8 << 20;
/// Maximum number of elementary streams that are considered.
const MAX_STREAMS: usize = 64;

/// An elementary stream listed in a PMT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pid: u16,
    pub(super) program: u16,
    /// Its codec, or the number of an unknown stream type.
    pub(super) kind: Result<Kind, u8>,
}

/// A PES packet, perhaps incomplete. Video of unknown length ends where the next one begins.
#[derive(Debug, Default)]
pub(super) struct Pes {
    pub(super) pid: u16,
    /// In units of 90 kHz, 33 bits.
    pub(super) pts: Option<u64>,
    pub(super) dts: Option<u64>,
    pub(super) data: Vec<u8>,
    /// Some of it was lost.
    pub(super) damaged: bool,
}

/// An item found in the transport stream.
#[derive(Debug)]
pub(super) enum Item {
    Stream(Found),
    Pes(Pes),
}

/// Demultiplexes a transport stream.
pub(super) struct Demux {
    demultiplex: Demultiplex<Context>,
    context: Context,
    /// Bytes of an incomplete transport packet.
    rest: Vec<u8>,
}

impl std::fmt::Debug for Demux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Demux").finish_non_exhaustive()
    }
}

impl Demux {
    pub(super) fn new() -> Self {
        let mut context = Context {
            changeset: FilterChangeset::default(),
            streams: Vec::new(),
            assemblies: Vec::new(),
            items: Vec::new(),
        };
        Self { demultiplex: Demultiplex::new(&mut context), context, rest: Vec::new() }
    }

    /// Takes the payload of a datagram; the items found are appended to `items`.
    pub(super) fn push(&mut self, payload: &[u8], items: &mut Vec<Item>) {
        if self.rest.is_empty() && payload.len().is_multiple_of(PACKET) {
            self.packets(payload);
        } else {
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(payload);
            let mut from = 0;
            while let Some(at) = bytes.get(from..).and_then(next_packet) {
                let start = from + at;
                let Some(packet) = bytes.get(start..start + PACKET) else {
                    from = start;
                    break;
                };
                self.packets(packet);
                from = start + PACKET;
            }
            bytes.drain(..from.min(bytes.len()));
            bytes.truncate(PACKET); // never more than one incomplete packet
            self.rest = bytes;
        }
        items.append(&mut self.context.items);
    }

    /// Appends the incomplete PES packets to `items`.
    pub(super) fn finish(&mut self, items: &mut Vec<Item>) {
        for assembly in &mut self.context.assemblies {
            assembly.finish(items);
        }
    }

    fn packets(&mut self, bytes: &[u8]) {
        for packet in bytes.chunks_exact(PACKET) {
            let damaged = packet[1] & 0x80 != 0;
            let scrambled = packet[3] & 0xc0 != 0;
            if packet[0] == SYNC && !damaged && !scrambled {
                self.demultiplex.push(&mut self.context, packet);
            }
        }
    }
}

/// Returns the start of the next packet: a sync byte followed by another one, or by the end.
fn next_packet(bytes: &[u8]) -> Option<usize> {
    let follows = |at: usize| bytes.get(at + PACKET).is_none_or(|byte| *byte == SYNC);
    (0..bytes.len()).find(|at| bytes[*at] == SYNC && follows(*at))
}

/// The crate's macros make public items.
#[allow(unreachable_pub, missing_docs)]
mod filters {
    use super::{
        Assembler, Context, NullPacketFilter, PatPacketFilter, PmtPacketFilter, UnknownDescriptor, descriptor_enum,
    };
    mpeg2ts_reader::packet_filter_switch! {
        Switch<Context> {
            Pes: Assembler,
            Pat: PatPacketFilter<Context>,
            Pmt: PmtPacketFilter<Context>,
            Null: NullPacketFilter<Context>,
        }
    }
    descriptor_enum! {
        AnyDescriptor {
            Any 0..=255 => UnknownDescriptor,
        }
    }
}
use filters::{AnyDescriptor, Switch};

/// The state shared by the filters.
#[allow(unreachable_pub)] // the macro makes public what mentions it
pub struct Context {
    changeset: FilterChangeset<Switch>,
    streams: Vec<Found>,
    assemblies: Vec<Assembly>,
    items: Vec<Item>,
}

impl DemuxContext for Context {
    type F = Switch;

    fn filter_changeset(&mut self) -> &mut FilterChangeset<Switch> {
        &mut self.changeset
    }

    fn construct(&mut self, request: FilterRequest<'_, '_>) -> Switch {
        match request {
            FilterRequest::ByPid(PAT_PID) => Switch::Pat(PatPacketFilter::default()),
            FilterRequest::Pmt { pid, program_number } => Switch::Pmt(PmtPacketFilter::new(pid, program_number)),
            FilterRequest::ByStream { program_pid, stream_type, stream_info, .. } => {
                let pid = u16::from(stream_info.elementary_pid());
                let kind = kind(stream_type, stream_info).ok_or(u8::from(stream_type));
                let found = Found { pid, program: u16::from(program_pid), kind };
                let known = self.streams.contains(&found);
                if !known && self.streams.len() >= MAX_STREAMS {
                    return Switch::Null(NullPacketFilter::default());
                }
                if !known {
                    self.streams.push(found.clone());
                    self.items.push(Item::Stream(found.clone()));
                }
                let Ok(kind) = found.kind else { return Switch::Null(NullPacketFilter::default()) };
                Switch::Pes(Assembler { assembly: self.assembly(pid, kind) })
            }
            FilterRequest::ByPid(_) | FilterRequest::Nit { .. } => Switch::Null(NullPacketFilter::default()),
        }
    }
}

impl Context {
    /// Returns a new assembly of a PID. There are no more of them than known streams.
    fn assembly(&mut self, pid: u16, kind: Kind) -> usize {
        let is_video = matches!(kind, Kind::H264 | Kind::Hevc);
        let pes = Pes { pid, ..Pes::default() };
        let fresh = Assembly { pes, is_video, length: None, open: false, counter: None };
        match self.assemblies.iter().position(|assembly| assembly.pes.pid == pid) {
            Some(at) => {
                self.assemblies[at] = fresh;
                at
            }
            None => {
                self.assemblies.push(fresh);
                self.assemblies.len() - 1
            }
        }
    }
}

/// Returns the codec of a stream type and its descriptors.
fn kind(stream_type: StreamType, info: &StreamInfo<'_>) -> Option<Kind> {
    Some(match u8::from(stream_type) {
        0x03 | 0x04 => Kind::MpegAudio,
        0x0f => Kind::Aac,
        0x11 => Kind::AacLatm,
        0x1b => Kind::H264,
        0x24 => Kind::Hevc,
        0x81 => Kind::Ac3,
        0x87 => Kind::Eac3,
        0x06 => {
            let descriptors = info.descriptors::<AnyDescriptor<'_>>().filter_map(Result::ok);
            let mut opus_channels = None;
            let mut named = None;
            for AnyDescriptor::Any(descriptor) in descriptors {
                match (descriptor.tag, descriptor.payload) {
                    (0x05, b"Opus") => named = Some(Kind::Opus { channels: 2 }),
                    (0x05, b"AC-3") | (0x6a, _) => named = Some(Kind::Ac3),
                    (0x05, b"EAC3") | (0x7a, _) => named = Some(Kind::Eac3),
                    (0x05, b"HEVC") => named = Some(Kind::Hevc),
                    (0x7f, [0x80, config, ..]) => opus_channels = Some(*config), // how many channels, as FFmpeg writes it
                    _ => {}
                }
            }
            match (named?, opus_channels) {
                (Kind::Opus { .. }, Some(channels @ 1..=2)) => Kind::Opus { channels },
                (Kind::Opus { .. }, Some(_)) => return None, // surround needs a mapping that is not in the stream
                (kind, _) => kind,
            }
        }
        _ => return None,
    })
}

/// Passes the packets of one PID to its assembly.
#[allow(unreachable_pub)] // the macro makes public what mentions it
pub struct Assembler {
    /// Index in the context's list.
    assembly: usize,
}

impl PacketFilter for Assembler {
    type Ctx = Context;

    fn consume(&mut self, context: &mut Context, packet: &Packet<'_>) {
        let Context { assemblies, items, .. } = context;
        if let Some(assembly) = assemblies.get_mut(self.assembly) {
            assembly.consume(packet, items);
        }
    }
}

/// Reassembles the PES packets of one PID.
struct Assembly {
    pes: Pes,
    /// A picture may come in several PES packets, of which only the first has a timestamp.
    is_video: bool,
    /// The length in its header, if not 0.
    length: Option<usize>,
    open: bool,
    /// The continuity counter of the last packet.
    counter: Option<u8>,
}

impl Assembly {
    fn consume(&mut self, packet: &Packet<'_>, items: &mut Vec<Item>) {
        let counter = packet.continuity_counter().count();
        let Some(payload) = packet.payload().filter(|_| packet.adaptation_control().has_payload()) else { return };
        let announced = packet.adaptation_field().is_some_and(|field| field.discontinuity_indicator());
        match self.counter.replace(counter) {
            Some(last) if last == counter && !announced => return, // sent twice (section 2.4.3.3)
            Some(last) if (last + 1) & 0x0f != counter && !announced => {
                self.pes.damaged = true;
                self.finish(items);
                self.pes.damaged = true; // the following data lacks its beginning
            }
            _ => {}
        }
        if packet.payload_unit_start_indicator() {
            self.begin(payload, items);
        } else {
            self.append(payload, items);
        }
    }

    fn begin(&mut self, payload: &[u8], items: &mut Vec<Item>) {
        let parsed = PesHeader::from_bytes(payload).and_then(|header| match header.contents() {
            PesContents::Parsed(Some(parsed)) => Some((header, parsed)),
            _ => None,
        });
        let Some((header, parsed)) = parsed else { return self.finish(items) };
        let time = |timestamp: Result<Timestamp, _>| timestamp.ok().map(Timestamp::value);
        let (pts, dts) = match parsed.pts_dts() {
            Ok(PtsDts::PtsOnly(pts)) => (time(pts), None),
            Ok(PtsDts::Both { pts, dts }) => (time(pts), time(dts)),
            _ => (None, None),
        };
        let data = parsed.payload();
        let goes_on = self.is_video && self.open && pts.is_none();
        if !goes_on {
            self.finish(items);
            self.pes.pts = pts;
            self.pes.dts = dts;
        }
        self.length = match header.pes_packet_length() {
            PesLength::Bounded(length) if !self.is_video => {
                // The length counts from behind itself, after six bytes of header.
                Some((usize::from(length.get()) + 6).saturating_sub(payload.len() - data.len()))
            }
            _ => None,
        };
        self.open = true;
        self.append(data, items);
    }

    fn append(&mut self, data: &[u8], items: &mut Vec<Item>) {
        if !self.open {
            return;
        }
        let limit = self.length.unwrap_or(MAX_PES).min(MAX_PES);
        let room = limit.saturating_sub(self.pes.data.len());
        self.pes.data.extend_from_slice(data.get(..room).unwrap_or(data));
        // With a known length there is no need to wait for the next one.
        if self.length.is_some_and(|length| self.pes.data.len() >= length) {
            self.finish(items);
        }
    }

    fn finish(&mut self, items: &mut Vec<Item>) {
        if std::mem::take(&mut self.open) {
            let next = Pes { pid: self.pes.pid, ..Pes::default() };
            items.push(Item::Pes(std::mem::replace(&mut self.pes, next)));
        }
    }
}
