//! Entry points of H.264 and HEVC: where decoding can start, told from the NAL units of an access unit. Not every
//! encoder makes IDR pictures: some refresh the picture step by step, and say so by a recovery point, or not at all.

use memchr::memmem;

/// Number of bytes at the beginning of a slice that hold the fields that are read.
const SLICE_HEADER: usize = 16;

/// A video codec whose pictures consist of NAL units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NalCodec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    Hevc,
}

/// The way into a stream that an access unit offers, from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EntryPoint {
    /// Picture that refers to others.
    None,
    /// Picture of intra slices only. Pictures after it may refer to pictures before it.
    IntraOnly,
    /// A recovery point (H.264 D.2.8, H.265 D.3.8): the picture is whole after this number of pictures, which is 0
    /// where an open GOP begins.
    Recovery {
        /// Number of pictures until the picture is whole.
        pictures: std::cmp::Reverse<u16>,
    },
    /// A clean random access picture of HEVC: pictures after it that are shown before it may lack references.
    Cra,
    /// A broken link picture of HEVC: the same, and they do.
    Bla,
    /// An instantaneous decoding refresh: nothing refers to what was before.
    Idr,
}

impl EntryPoint {
    /// Returns whether the picture itself, and all pictures shown after it, decode without error.
    pub(crate) fn is_clean(self) -> bool {
        self >= Self::Recovery { pictures: std::cmp::Reverse(0) }
    }
}

/// The role of a NAL unit in its access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NalRole {
    /// Begins an access unit.
    Delimiter,
    /// A parameter set: 0 for video, 1 for sequence, 2 for picture.
    ParameterSet(usize),
    /// Supplemental information before the picture.
    Information,
    /// Part of a picture.
    Slice,
    /// Padding, or the end of a sequence or of a stream.
    Filler,
    /// Anything else.
    Other,
}

/// Returns the role of a NAL unit.
pub(crate) fn nal_role(codec: NalCodec, nal: &[u8]) -> NalRole {
    match (codec, nal) {
        (NalCodec::H264, [header, ..]) => match header & 0x1f {
            1..=5 => NalRole::Slice,
            6 => NalRole::Information,
            7 => NalRole::ParameterSet(1),
            8 => NalRole::ParameterSet(2),
            9 => NalRole::Delimiter,
            10..=12 => NalRole::Filler,
            _ => NalRole::Other,
        },
        (NalCodec::Hevc, [header, _, ..]) => match (header >> 1) & 0x3f {
            0..=31 => NalRole::Slice,
            number @ 32..=34 => NalRole::ParameterSet(usize::from(number - 32)),
            35 => NalRole::Delimiter,
            36..=38 => NalRole::Filler,
            39 => NalRole::Information,
            _ => NalRole::Other,
        },
        _ => NalRole::Filler,
    }
}

/// Classifies one access unit from its NAL units, as they come. The first 64 bytes of each are enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryPointScan {
    codec: NalCodec,
    best: EntryPoint,
    has_slice: bool,
    /// All slices so far are intra slices.
    intra: bool,
}

impl EntryPointScan {
    /// Begins an access unit.
    pub(crate) fn new(codec: NalCodec) -> Self {
        Self { codec, best: EntryPoint::None, has_slice: false, intra: true }
    }

    /// Adds a NAL unit without its start code or length.
    pub(crate) fn add(&mut self, nal: &[u8]) {
        match nal_role(self.codec, nal) {
            NalRole::Information => {
                let header = if self.codec == NalCodec::H264 { 1 } else { 2 };
                if let Some(pictures) = recovery_point(self.codec, nal.get(header..).unwrap_or_default()) {
                    let point = EntryPoint::Recovery { pictures: std::cmp::Reverse(pictures) };
                    self.best = self.best.max(point);
                }
            }
            NalRole::Slice => {
                self.has_slice = true;
                match slice(self.codec, nal) {
                    Slice::Entry(point) => self.best = self.best.max(point),
                    Slice::Intra => {}
                    Slice::Predicted => self.intra = false,
                }
            }
            _ => {}
        }
    }

    /// Returns the best entry point that the NAL units so far announce, parts of a picture or not.
    pub(crate) fn announced(&self) -> EntryPoint {
        self.best
    }

    /// Returns the entry point, or `None` if there was no part of a picture.
    pub(crate) fn entry_point(&self) -> Option<EntryPoint> {
        let least = if self.intra { EntryPoint::IntraOnly } else { EntryPoint::None };
        self.has_slice.then(|| self.best.max(least))
    }
}

/// Returns the entry point of the access unit that consists of these NAL units, or `None` if it holds no picture.
pub(crate) fn entry_point<'a>(codec: NalCodec, nals: impl IntoIterator<Item = &'a [u8]>) -> Option<EntryPoint> {
    let mut scan = EntryPointScan::new(codec);
    for nal in nals {
        scan.add(nal);
    }
    scan.entry_point()
}

/// Types of NAL units of HEVC: `CRA_NUT` and `BLA_W_LP`, whose slices have the same syntax.
const CRA: u8 = 21;
const BLA: u8 = 16;

/// Makes the type of a clean random access picture of HEVC, in the low six bits, that of one with a broken link (H.265
/// section 8.1.3): pictures behind it that are shown before it refer to ones of another stream, and its order count is
/// not to be compared with theirs.
pub(crate) fn break_link(kind: u8) -> u8 {
    if kind & 0x3f == CRA { kind & !0x3f | BLA } else { kind }
}

/// Breaks the links of NAL units of HEVC, each behind its length in four bytes. Returns whether there were any.
pub(crate) fn break_links(data: &mut [u8]) -> bool {
    let mut at = 0usize;
    let mut breaks = false;
    while let Some(&[a, b, c, d, header]) = data.get(at..).and_then(<[u8]>::first_chunk) {
        let broken = break_link(header >> 1) << 1 | header & 1;
        if broken != header
            && let Some(header) = data.get_mut(at + 4)
        {
            *header = broken;
            breaks = true;
        }
        at = at.saturating_add(4).saturating_add(u32::from_be_bytes([a, b, c, d]) as usize);
    }
    breaks
}

enum Slice {
    Entry(EntryPoint),
    Intra,
    Predicted,
}

fn slice(codec: NalCodec, nal: &[u8]) -> Slice {
    match codec {
        NalCodec::H264 => match nal.first().map(|header| header & 0x1f) {
            Some(5) => Slice::Entry(EntryPoint::Idr),
            Some(3 | 4) => Slice::Intra, // partitions B and C: partition A tells
            _ => {
                let mut bits = RawBits::new(nal.get(1..).unwrap_or_default());
                let _first_macroblock = bits.exp_golomb();
                match bits.exp_golomb() {
                    Some(2 | 4 | 7 | 9) => Slice::Intra,
                    _ => Slice::Predicted,
                }
            }
        },
        NalCodec::Hevc => match nal.first().map(|header| (header >> 1) & 0x3f) {
            Some(16..=18) => Slice::Entry(EntryPoint::Bla),
            Some(19 | 20) => Slice::Entry(EntryPoint::Idr),
            Some(21..=23) => Slice::Entry(EntryPoint::Cra),
            _ => {
                let mut bits = RawBits::new(nal.get(2..).unwrap_or_default());
                // The address of later segments has a length that only the parameter sets tell.
                let is_first = bits.bit() == Some(1);
                let _picture_set = bits.exp_golomb();
                match bits.exp_golomb() {
                    Some(2) if is_first => Slice::Intra,
                    _ => Slice::Predicted,
                }
            }
        },
    }
}

/// Returns the number of pictures until the recovery point that supplemental information announces.
fn recovery_point(codec: NalCodec, sei: &[u8]) -> Option<u16> {
    let mut bytes = RawBits::new(sei.get(..sei.len().min(1024))?);
    loop {
        let mut number = || {
            let mut sum = 0usize;
            loop {
                let byte = bytes.byte()?;
                sum += usize::from(byte);
                if byte != 0xff {
                    return Some(sum);
                }
            }
        };
        let kind = number()?;
        let length = number()?;
        if kind == 6 {
            let pictures = match codec {
                NalCodec::H264 => bytes.exp_golomb()?,
                NalCodec::Hevc => {
                    // A signed difference of picture order counts: 1, -1, 2, -2, … are coded as 1, 2, 3, 4, …
                    let code = bytes.exp_golomb()?;
                    if code % 2 == 0 { 0 } else { code.div_ceil(2) }
                }
            };
            return Some(u16::try_from(pictures).unwrap_or(u16::MAX));
        }
        for _ in 0..length {
            bytes.byte()?;
        }
        if bytes.is_at_end() {
            return None;
        }
    }
}

/// Reads bits of a NAL unit, without the bytes that prevent the emulation of start codes.
#[derive(Clone, Debug)]
pub(crate) struct RawBits<'a> {
    bytes: &'a [u8],
    zeros: u8,
    current: u8,
    /// Number of bits of `current` that are unread.
    left: u8,
}

impl<'a> RawBits<'a> {
    /// Reads from behind the header of a NAL unit.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, zeros: 0, current: 0, left: 0 }
    }

    fn next_byte(&mut self) -> Option<u8> {
        loop {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            if self.zeros >= 2 && byte == 3 {
                self.zeros = 0;
                continue;
            }
            self.zeros = if byte == 0 { self.zeros.saturating_add(1) } else { 0 };
            return Some(byte);
        }
    }

    /// Returns whether nothing but the trailing bits is left.
    fn is_at_end(&self) -> bool {
        self.left == 0 && matches!(self.bytes, [] | [0x80, ..] | [0])
    }

    /// Reads one bit.
    pub(crate) fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            self.current = self.next_byte()?;
            self.left = 8;
        }
        self.left -= 1;
        Some(u32::from(self.current >> self.left & 1))
    }

    /// Reads a number of this many bits, at most 32.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count.min(32) {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    /// Reads one byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        u8::try_from(self.bits(8)?).ok()
    }

    /// Reads an Exp-Golomb code, ue(v).
    pub(crate) fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }
}

/// The NAL units of a byte stream (ITU-T H.264 annex B), without their start codes.
#[derive(Clone, Debug)]
pub(crate) struct ByteStreamNals<'a> {
    rest: &'a [u8],
}

const START: [u8; 3] = [0, 0, 1];

impl<'a> ByteStreamNals<'a> {
    /// Reads from the first start code on.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        let rest = memmem::find(data, &START).and_then(|at| data.get(at + 3..)).unwrap_or_default();
        Self { rest }
    }
}

impl<'a> Iterator for ByteStreamNals<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = memmem::find(self.rest, &START);
            let (nal, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            self.rest = rest.get(3..).unwrap_or_default();
            let nal = trim_zeros(nal);
            if !nal.is_empty() {
                return Some(nal);
            }
        }
        None
    }
}

/// Returns a NAL unit without the zeros before the next start code.
pub(crate) fn trim_zeros(nal: &[u8]) -> &[u8] {
    let length = nal.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    nal.get(..length).unwrap_or_default()
}

/// The NAL units of a sample, each behind its length in this many bytes, 1–4 (ISO/IEC 14496-15). Ends at the first
/// that is not whole.
#[derive(Clone, Debug)]
pub(crate) struct LengthPrefixedNals<'a> {
    rest: &'a [u8],
    prefix: usize,
}

impl<'a> LengthPrefixedNals<'a> {
    /// Reads from the first length on.
    pub(crate) fn new(data: &'a [u8], prefix: usize) -> Self {
        Self { rest: data, prefix: prefix.clamp(1, 4) }
    }
}

impl<'a> Iterator for LengthPrefixedNals<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (prefix, rest) = self.rest.split_at_checked(self.prefix)?;
        let mut length = 0usize;
        for byte in prefix {
            length = length << 8 | usize::from(*byte);
        }
        let (nal, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(nal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;

    fn h264(nals: &[&[u8]]) -> Option<EntryPoint> {
        entry_point(NalCodec::H264, nals.iter().copied())
    }

    fn hevc(nals: &[&[u8]]) -> Option<EntryPoint> {
        entry_point(NalCodec::Hevc, nals.iter().copied())
    }

    #[test]
    fn entry_point_of_h264_access_units() {
        let predicted: &[u8] = &[0x41, 0b1001_1000]; // first_mb 0, slice_type 5
        let intra: &[u8] = &[0x41, 0b1000_1000, 0x80]; // first_mb 0, slice_type 7
        assert_eq!(h264(&[&[0x09, 0x10]]), None);
        assert_eq!(h264(&[&[0x67, 1, 2], &[0x68, 1], &[0x65, 0x88]]), Some(EntryPoint::Idr));
        assert_eq!(h264(&[predicted]), Some(EntryPoint::None));
        assert_eq!(h264(&[intra, intra]), Some(EntryPoint::IntraOnly));
        assert_eq!(h264(&[intra, predicted]), Some(EntryPoint::None));
        // Recovery after 0 and after 24 pictures (ue(24) is 0000 11001), behind another message.
        let here: &[u8] = &[6, 5, 2, 1, 1, 6, 1, 0xc4, 0x80];
        let later: &[u8] = &[6, 6, 2, 0b0000_1100, 0b1110_0000, 0x80];
        assert_eq!(h264(&[here, predicted]), Some(EntryPoint::Recovery { pictures: Reverse(0) }));
        assert_eq!(h264(&[later, predicted]), Some(EntryPoint::Recovery { pictures: Reverse(24) }));
        assert!(h264(&[here, predicted]) > h264(&[later, predicted]));
        assert!(h264(&[here, predicted]).unwrap().is_clean() && !h264(&[later, predicted]).unwrap().is_clean());
        assert_eq!(h264(&[&[6, 5, 2, 1, 1, 0x80], predicted]), Some(EntryPoint::None));
        assert_eq!(h264(&[&[6, 6]]), None, "truncated");
    }

    #[test]
    fn entry_point_of_hevc_access_units() {
        let of = |kind: u8| -> Vec<u8> { vec![kind << 1, 1, 0xd0] };
        let predicted: &[u8] = &[1 << 1, 1, 0b1101_0000]; // first segment, picture set 0, slice_type 1
        let intra: &[u8] = &[1 << 1, 1, 0b1101_1000];
        assert_eq!(hevc(&[&of(19)]), Some(EntryPoint::Idr));
        assert_eq!(hevc(&[&of(20)]), Some(EntryPoint::Idr));
        assert_eq!(hevc(&[&of(21)]), Some(EntryPoint::Cra));
        assert_eq!(hevc(&[&of(16)]), Some(EntryPoint::Bla));
        assert_eq!(hevc(&[predicted]), Some(EntryPoint::None));
        assert_eq!(hevc(&[intra]), Some(EntryPoint::IntraOnly));
        // recovery_poc_cnt 12: se(v) code 23 is 0000 11000.
        let later: &[u8] = &[39 << 1, 1, 6, 2, 0b0000_1100, 0b0110_0000, 0x80];
        assert_eq!(hevc(&[later, predicted]), Some(EntryPoint::Recovery { pictures: Reverse(12) }));
        assert_eq!(hevc(&[&[32 << 1, 1, 1], &[33 << 1, 1, 1]]), None);
    }

    #[test]
    fn links_of_clean_random_access_pictures_are_broken() {
        let mut data = [0, 0, 0, 3, CRA << 1, 1, 0xd0, 0, 0, 0, 3, 39 << 1, 1, 42, 0, 0, 0, 3, CRA << 1, 1, 0x20];
        assert!(break_links(&mut data));
        assert_eq!(data, [0, 0, 0, 3, BLA << 1, 1, 0xd0, 0, 0, 0, 3, 39 << 1, 1, 42, 0, 0, 0, 3, BLA << 1, 1, 0x20]);
        assert!(!break_links(&mut data));
        assert_eq!(entry_point(NalCodec::Hevc, LengthPrefixedNals::new(&data, 4)), Some(EntryPoint::Bla));
    }

    #[test]
    fn nal_units_of_both_framings_are_found() {
        let stream = [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1, 2, 0, 0, 0, 1, 0x41];
        let found: Vec<_> = ByteStreamNals::new(&stream).collect();
        assert_eq!(found, [&[9, 0x10][..], &[0x65, 1, 2], &[0x41]]);
        assert_eq!(ByteStreamNals::new(&[1, 2, 3]).count(), 0);
        let sample = [0, 0, 0, 2, 9, 0x10, 0, 0, 0, 3, 0x65, 1, 2, 0, 0, 0, 9, 1];
        let found: Vec<_> = LengthPrefixedNals::new(&sample, 4).collect();
        assert_eq!(found, [&[9, 0x10][..], &[0x65, 1, 2]]);
    }

    proptest::proptest! {
        #[test]
        fn entry_point_survives_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            for codec in [NalCodec::H264, NalCodec::Hevc] {
                entry_point(codec, [&data[..]]);
                entry_point(codec, ByteStreamNals::new(&data));
                entry_point(codec, LengthPrefixedNals::new(&data, 4));
            }
            break_links(&mut data.clone());
            recovery_point(NalCodec::H264, &data);
        }
    }
}
