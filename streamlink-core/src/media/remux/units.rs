//! Access units of H.264 and HEVC in a byte stream (Annex B). PES packets need not begin with a picture, nor hold one:
//! what separates pictures are the NAL units.

use super::{
    order::{Field, Order, OrderReader, SliceHead},
    pes::Stamp,
    video::{ParameterSets, Picture},
};
use crate::media::entry_point::{EntryPoint, EntryPointScan, NalCodec, NalRole, RawBits, nal_role, trim_zeros};
use memchr::memmem;
use std::collections::VecDeque;

/// Maximum length of a picture, in bytes: what is longer is dropped.
const MAX_UNIT: usize = 8 << 20;
/// Maximum number of timestamps that wait for their picture.
const MAX_STAMPS: usize = 32;
/// Maximum length of the parameter sets that come with a picture, in bytes.
const MAX_SETS: usize = 16 << 10;
/// Number of bytes of a NAL unit that tell whether a picture begins with it.
const PEEK: usize = 16;
static START: [u8; 3] = [0, 0, 1];

/// Reason to think that a part of a picture is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// There is none.
    #[default]
    None,
    /// The last PES packet fills its last transport packet, as few do.
    Unended,
    /// Transport packets are missing.
    Lost,
}

/// One picture, ready for a message.
#[derive(Debug)]
pub(super) struct AccessUnit {
    pub(super) entry: EntryPoint,
    pub(super) stamp: Option<Stamp>,
    pub(super) order: Option<Order>,
    pub(super) doubt: Doubt,
    /// NAL units without parameter sets, each behind its length in four bytes, after the free bytes.
    pub(super) data: Vec<u8>,
    /// The parameter sets that came with the picture, each behind its length.
    pub(super) sets: Vec<u8>,
    /// The decoder configuration record from this picture on, if it has changed.
    pub(super) configuration: Option<(Vec<u8>, Picture)>,
    /// The sequence before it has ended, as the stream says: decoding starts anew with it.
    pub(super) begins_sequence: bool,
}

/// The picture in progress.
#[derive(Debug)]
struct Unit {
    /// Position of its first byte in the stream.
    position: Option<u64>,
    /// Set if that first byte is a zero before the start code.
    leading_zero: bool,
    data: Vec<u8>,
    sets: Vec<u8>,
    scan: EntryPointScan,
    head: SliceHead,
    has_slice: bool,
    doubt: Doubt,
    /// Address of its last slice of H.264.
    address: u32,
    begins_sequence: bool,
}

/// Splits a byte stream into access units; two fields of one frame are one. Holds at most two of them, and a NAL unit.
#[derive(Debug)]
pub(super) struct UnitReader {
    codec: NalCodec,
    /// Number of bytes left free before each picture.
    head: usize,
    sets: ParameterSets,
    orders: OrderReader,
    /// Finds start codes.
    start_finder: memmem::Finder<'static>,
    buffer: Vec<u8>,
    /// Position of the buffer in the stream.
    base: u64,
    /// Number of bytes of the buffer that were searched for a start code.
    searched: usize,
    /// Position in the buffer of the NAL unit in progress, and in the stream of its start code, with a zero before that.
    nal: Option<(usize, u64)>,
    /// There is such a zero.
    leading_zero: bool,
    /// The NAL unit in progress has been looked at.
    peeked: bool,
    stamps: VecDeque<(u64, Stamp)>,
    /// The last picture began where a PES packet with a timestamp did.
    aligned: bool,
    /// A picture that did so began with a zero before its start code: a zero at the end of a PES packet is then that of the
    /// next picture, and no padding.
    has_leading_zeros: bool,
    unit: Unit,
    /// The stream has said that a sequence ended behind the last picture.
    sequence_ended: bool,
    /// The first field of a frame, until the next picture tells whether it is the second one.
    first_field: Option<(AccessUnit, Field)>,
    done: Vec<AccessUnit>,
}

impl UnitReader {
    /// Begins a stream; `head` bytes are left free before each picture.
    pub(super) fn new(codec: NalCodec, head: usize) -> Self {
        Self {
            codec,
            head,
            sets: ParameterSets::new(codec),
            orders: OrderReader::new(codec),
            start_finder: memmem::Finder::new(&START),
            buffer: Vec::new(),
            base: 0,
            searched: 0,
            nal: None,
            leading_zero: false,
            peeked: false,
            stamps: VecDeque::new(),
            aligned: false,
            has_leading_zeros: false,
            unit: Unit::new(codec, head),
            sequence_ended: false,
            first_field: None,
            done: Vec::new(),
        }
    }

    /// Returns the completed pictures.
    pub(super) fn take(&mut self) -> Vec<AccessUnit> {
        std::mem::take(&mut self.done)
    }

    /// Returns whether PES packets begin with a picture, as far as is known.
    pub(super) fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// Returns the number of bytes left free before each picture.
    pub(super) fn head(&self) -> usize {
        self.head
    }

    /// Returns the parameter sets.
    pub(super) fn sets(&mut self) -> &mut ParameterSets {
        &mut self.sets
    }

    /// Notes a timestamp, which belongs to the first picture that begins in the following data.
    pub(super) fn stamp(&mut self, stamp: Stamp) {
        if self.stamps.len() >= MAX_STAMPS {
            self.stamps.pop_front();
        }
        self.stamps.push_back((self.base + self.buffer.len() as u64, stamp));
    }

    /// Notes that data is missing here: the NAL unit in progress ends. `within`: perhaps a part of the picture.
    pub(super) fn lost(&mut self, within: bool) {
        let begun = self.nal.and_then(|(start, _)| self.buffer.get(start..));
        if within && begun.is_some_and(|nal| matches!(nal_role(self.codec, nal), NalRole::ParameterSet(_))) {
            self.nal = None; // half a parameter set is worse than none: the last one is known
        }
        self.end_nal();
        if within {
            self.unit.doubt = Doubt::Lost;
        }
    }

    /// Notes that the stream may have been cut here.
    pub(super) fn unended(&mut self) {
        self.unit.doubt = self.unit.doubt.max(Doubt::Unended);
    }

    fn end_nal(&mut self) {
        self.finish_nal(self.buffer.len());
        self.drop_before(self.buffer.len());
    }

    /// Ends the picture in progress.
    pub(super) fn finish(&mut self) {
        self.end_nal();
        self.finish_unit();
        self.finish_field();
    }

    /// Takes data.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        loop {
            let begin = self.nal.map_or(0, |(start, _)| start).max(self.searched.saturating_sub(2));
            let Some(found) = self.buffer.get(begin..).and_then(|rest| self.start_finder.find(rest)) else { break };
            let at = begin + found;
            self.finish_nal(at);
            let zero = at.checked_sub(1).is_some_and(|before| self.buffer.get(before) == Some(&0));
            self.nal = Some((at + 3, self.base + (at - usize::from(zero)) as u64));
            self.leading_zero = zero;
            self.peeked = false;
            self.searched = at + 3;
        }
        self.searched = self.buffer.len();
        match self.nal {
            Some((start, _)) if self.buffer.len() - start > MAX_UNIT => self.lost(true),
            Some((start, position)) => {
                if !self.peeked
                    && let Some(head) = self.buffer.get(start..start + PEEK)
                {
                    self.peeked = true;
                    let mut copy = [0; PEEK];
                    copy.copy_from_slice(head);
                    self.begin_nal(&copy, position);
                }
                // One byte more, which may belong to the next start code.
                self.drop_before(start.saturating_sub(1));
            }
            None => self.drop_before(self.buffer.len().saturating_sub(3)),
        }
    }

    fn drop_before(&mut self, at: usize) {
        if at == 0 {
            return;
        }
        self.buffer.drain(..at);
        self.base += at as u64;
        self.searched = self.searched.saturating_sub(at);
        self.nal = self.nal.and_then(|(start, position)| Some((start.checked_sub(at)?, position)));
    }

    /// Takes the NAL unit in progress, which ends here.
    fn finish_nal(&mut self, end: usize) {
        let Some((start, position)) = self.nal.take() else { return };
        let buffer = std::mem::take(&mut self.buffer);
        let nal = buffer.get(start..end).map(trim_zeros).unwrap_or_default();
        if !nal.is_empty() {
            if !self.peeked {
                let whole = buffer.get(start..end).unwrap_or_default();
                self.begin_nal(whole.get(..PEEK).unwrap_or(whole), position);
            }
            self.add(nal);
        }
        self.buffer = buffer;
    }

    /// Ends the picture before this NAL unit, if another one begins with it.
    fn begin_nal(&mut self, nal: &[u8], position: u64) {
        if self.unit.has_slice && self.begins_unit(nal) {
            self.finish_unit();
        }
        if self.unit.position.is_none() {
            self.unit.position = Some(position);
            self.unit.leading_zero = self.leading_zero;
        }
        if nal_role(self.codec, nal) == NalRole::Slice
            && let Some(address) = self.address(nal)
        {
            self.unit.address = address;
        }
    }

    /// Returns whether a NAL unit behind the slices of a picture belongs to the next one (H.264 section 7.4.1.2.3, H.265
    /// section 7.4.2.4.4).
    fn begins_unit(&self, nal: &[u8]) -> bool {
        match nal_role(self.codec, nal) {
            NalRole::Delimiter | NalRole::ParameterSet(_) | NalRole::Information => true,
            // The first slice of a picture; after a loss, one that lies before the last one.
            NalRole::Slice => self.address(nal).is_some_and(|address| address <= self.unit.address),
            NalRole::Filler => false,
            NalRole::Other => match (self.codec, nal) {
                (NalCodec::H264, [header, ..]) => matches!(header & 0x1f, 14..=18),
                (NalCodec::Hevc, [header, ..]) => matches!((header >> 1) & 0x3f, 41..=44 | 48..=55),
                _ => false,
            },
        }
    }

    /// Returns the address of a slice: 0 for the first one of a picture. Of HEVC, whose addresses have a length that only
    /// the parameter sets tell, other slices have none.
    fn address(&self, nal: &[u8]) -> Option<u32> {
        match self.codec {
            NalCodec::H264 if matches!(nal.first()? & 0x1f, 3 | 4) => None,
            NalCodec::H264 => RawBits::new(nal.get(1..)?).exp_golomb(),
            NalCodec::Hevc if nal.first()? & 1 != 0 || nal.get(1)? >> 3 != 0 => None, // another layer
            NalCodec::Hevc => (RawBits::new(nal.get(2..)?).bit()? == 1).then_some(0),
        }
    }

    fn add(&mut self, nal: &[u8]) {
        match nal_role(self.codec, nal) {
            NalRole::Delimiter => return,
            NalRole::Filler => {
                self.sequence_ended |= ends_sequence(self.codec, nal);
                return;
            }
            NalRole::ParameterSet(number) => {
                self.orders.set(number, nal);
                if self.unit.sets.len() + nal.len() <= MAX_SETS {
                    append_nal(&mut self.unit.sets, nal);
                }
                return self.sets.keep(number, nal);
            }
            NalRole::Slice => {
                if !self.unit.has_slice {
                    self.unit.head = self.orders.picture(nal);
                    self.unit.begins_sequence = std::mem::take(&mut self.sequence_ended);
                }
                self.unit.has_slice = true;
            }
            NalRole::Information | NalRole::Other => {}
        }
        self.unit.scan.add(nal);
        if self.unit.data.len() + nal.len() > MAX_UNIT {
            return;
        }
        append_nal(&mut self.unit.data, nal);
    }

    fn finish_unit(&mut self) {
        if !self.unit.has_slice {
            return;
        }
        let unit = std::mem::replace(&mut self.unit, Unit::new(self.codec, self.head));
        let first_aligned = self.aligned;
        let mut stamp = None;
        while let Some((position, next)) = self.stamps.front()
            && unit.position.is_some_and(|begin| *position <= begin)
        {
            stamp = Some(*next);
            self.aligned = unit.position == Some(*position);
            self.has_leading_zeros |= self.aligned && unit.leading_zero;
            self.stamps.pop_front();
        }
        if stamp.is_none() && self.has_leading_zeros {
            self.aligned = false;
        } else if stamp.is_none() {
            // A zero that ends the packet before looks like a part of the start code.
            let next = self.stamps.front().filter(|(position, _)| unit.position == position.checked_sub(1));
            self.aligned = next.is_some();
            if let Some((_, next)) = next {
                stamp = Some(*next);
                self.stamps.pop_front();
            }
        }
        let SliceHead { order, field } = unit.head;
        let picture = AccessUnit {
            entry: unit.scan.entry_point().unwrap_or(EntryPoint::None),
            stamp,
            order,
            doubt: unit.doubt,
            data: unit.data,
            sets: unit.sets,
            configuration: self.sets.configuration(),
            begins_sequence: unit.begins_sequence,
        };
        match (self.first_field.take(), field) {
            (Some((first, first_field)), Some(field)) if field.completes(first_field) => {
                // The PES packet began with the first field.
                self.aligned = first_aligned;
                self.done.push(first.with_second_field(picture, self.head));
            }
            (first, field) => {
                self.done.extend(first.map(|(first, _)| first));
                match field {
                    Some(field) => self.first_field = Some((picture, field)),
                    None => self.done.push(picture),
                }
            }
        }
    }

    /// Hands on a first field whose second one does not come.
    fn finish_field(&mut self) {
        self.done.extend(self.first_field.take().map(|(first, _)| first));
    }
}

impl AccessUnit {
    /// Returns the frame of two fields. Like its decoding, its time and whether decoding can start with it are those of
    /// the first one. `head`: number of free bytes before the data.
    fn with_second_field(self, second: Self, head: usize) -> Self {
        let mut data = self.data;
        data.extend_from_slice(second.data.get(head..).unwrap_or_default());
        let mut sets = self.sets;
        sets.extend_from_slice(&second.sets);
        Self {
            data,
            sets,
            stamp: self.stamp.or(second.stamp),
            doubt: self.doubt.max(second.doubt),
            configuration: second.configuration.or(self.configuration),
            ..self
        }
    }
}

/// Returns whether a NAL unit ends a sequence, or the stream (H.264 section 7.4.2.5, H.265 section 7.4.3.6).
fn ends_sequence(codec: NalCodec, nal: &[u8]) -> bool {
    match (codec, nal) {
        (NalCodec::H264, [header, ..]) => matches!(header & 0x1f, 10 | 11),
        (NalCodec::Hevc, [header, ..]) => matches!(header >> 1 & 0x3f, 36 | 37),
        _ => false,
    }
}

/// Appends a NAL unit behind its length.
pub(super) fn append_nal(data: &mut Vec<u8>, nal: &[u8]) {
    if let Ok(length) = u32::try_from(nal.len()) {
        data.extend(length.to_be_bytes());
        data.extend_from_slice(nal);
    }
}

impl Unit {
    fn new(codec: NalCodec, head: usize) -> Self {
        let data = vec![0; head];
        Self {
            position: None,
            leading_zero: false,
            data,
            sets: Vec::new(),
            scan: EntryPointScan::new(codec),
            head: SliceHead::default(),
            has_slice: false,
            doubt: Doubt::None,
            address: 0,
            begins_sequence: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIMITER: &[u8] = &[0, 0, 0, 1, 9, 0x10];
    const IDR: &[u8] = &[0, 0, 1, 0x65, 0x88, 1];
    const IDR_REST: &[u8] = &[0, 0, 1, 0x65, 0x48, 2];
    const P: &[u8] = &[0, 0, 1, 0x41, 0x9a, 3];

    fn stamp(pts: u64) -> Stamp {
        Stamp { pts, dts: None }
    }

    fn units(parts: &[(Option<u64>, &[u8])], chunk: usize) -> Vec<(bool, Option<u64>, Vec<u8>)> {
        let mut reader = UnitReader::new(NalCodec::H264, 1);
        for (pts, data) in parts {
            if let Some(pts) = pts {
                reader.stamp(stamp(*pts));
            }
            for chunk in data.chunks(chunk) {
                reader.push(chunk);
            }
        }
        reader.finish();
        let all = reader.take().into_iter();
        all.map(|unit| (unit.entry == EntryPoint::Idr, unit.stamp.map(|s| s.pts), unit.data)).collect()
    }

    #[test]
    fn units_are_split_with_and_without_delimiters() {
        let first = vec![0, 0, 0, 0, 3, 0x65, 0x88, 1, 0, 0, 0, 3, 0x65, 0x48, 2];
        let second = vec![0, 0, 0, 0, 3, 0x41, 0x9a, 3];
        let wanted = [(true, Some(7), first), (false, None, second)];
        for chunk in 1..8 {
            assert_eq!(units(&[(Some(7), &[DELIMITER, IDR, IDR_REST, DELIMITER, P].concat())], chunk), wanted);
            assert_eq!(units(&[(Some(7), &[IDR, IDR_REST, P].concat())], chunk), wanted);
        }
    }

    #[test]
    fn units_take_the_timestamp_of_the_packet_that_they_begin_in() {
        let stream = [IDR, P, P, P].concat();
        // The second packet begins within the first picture; the third picture begins in none with a timestamp.
        for chunk in 1..8 {
            let (a, rest) = stream.split_at(4);
            let (b, rest) = rest.split_at(8);
            let (c, d) = rest.split_at(5);
            let got = units(&[(Some(1), a), (Some(2), b), (None, c), (Some(4), d)], chunk);
            assert_eq!(got.iter().map(|unit| unit.1).collect::<Vec<_>>(), [Some(1), Some(2), None, Some(4)], "{chunk}");
        }
    }

    #[test]
    fn units_keep_their_timestamp_behind_padding() {
        let padded = [IDR, &[0, 0, 0]].concat();
        let got = units(&[(Some(1), &padded), (Some(2), P), (Some(3), P)], 100);
        assert_eq!(got.iter().map(|unit| unit.1).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn units_go_on_after_a_loss() {
        let mut reader = UnitReader::new(NalCodec::H264, 0);
        reader.push(&[IDR, &[5; 40]].concat());
        reader.lost(true);
        reader.push(&[&[7; 9][..], IDR_REST, P, P].concat());
        reader.finish();
        let got = reader.take();
        assert_eq!(got.len(), 3);
        assert!(got[0].data.ends_with(&[0x65, 0x48, 2]));
    }

    #[test]
    fn units_keep_no_half_parameter_set_after_a_loss() {
        const SET: &[u8] = &[0, 0, 1, 0x67, 66, 0xc0, 30, 0x88, 0x68, 0x2c];
        let mut reader = UnitReader::new(NalCodec::H264, 0);
        reader.push(&[SET, IDR, P, &SET[..8]].concat());
        reader.lost(true);
        reader.push(&[IDR, P].concat());
        reader.finish();
        assert_eq!(reader.sets().all(), [&[0, 0, 0, 7][..], &SET[3..]].concat());
    }

    #[test]
    fn units_with_leading_zeros_take_them_over_packets() {
        let with_zero = |nal: &[u8]| [&[0][..], nal].concat();
        let stream = [with_zero(IDR), with_zero(P), with_zero(P)].concat();
        // The second packet begins within the start code of the second picture: its time is that of the third one.
        let (a, b) = stream.split_at(IDR.len() + 2);
        let got = units(&[(Some(1), a), (Some(3), b)], 100);
        assert_eq!(got.iter().map(|unit| unit.1).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
    }

    #[test]
    fn units_after_the_end_of_a_sequence_begin_another() {
        const CRA: u8 = 21;
        const CRA_SLICE: &[u8] = &[0, 0, 1, CRA << 1, 1, 0xd0, 7];
        const TRAIL: &[u8] = &[0, 0, 1, 1 << 1, 1, 0xd0, 9];
        const END: &[u8] = &[0, 0, 1, 36 << 1, 1];
        let mut reader = UnitReader::new(NalCodec::Hevc, 3);
        reader.push(&[CRA_SLICE, TRAIL, END, CRA_SLICE, TRAIL].concat());
        reader.finish();
        let got = reader.take();
        let begins: Vec<bool> = got.iter().map(|unit| unit.begins_sequence).collect();
        assert_eq!(begins, [false, false, true, false]);
    }

    proptest::proptest! {
        #[test]
        fn units_survive_any_bytes_in_any_chunks(data in proptest::collection::vec(0u8..8, 0..400), chunk in 1usize..50, hevc in proptest::bool::ANY) {
            let codec = if hevc { NalCodec::Hevc } else { NalCodec::H264 };
            let read = |chunk: usize| {
                let mut reader = UnitReader::new(codec, 2);
                for chunk in data.chunks(chunk) {
                    reader.push(chunk);
                }
                reader.finish();
                reader.take().into_iter().map(|unit| unit.data).collect::<Vec<_>>()
            };
            proptest::prop_assert_eq!(read(chunk), read(400));
        }
    }
}
