//! H.264 and HEVC: access units in the byte stream format (Annex B) to length-prefixed NAL units, and the decoder
//! configuration records of ISO/IEC 14496-15.

use bytes::Bytes;
use h264_reader::{
    nal::sps::SeqParameterSet,
    rbsp::{BitRead, BitReader, decode_nal},
};
use memchr::memmem;

/// Maximum number of parameter sets of one type that are kept.
const MAX_SETS: usize = 16;
/// Minimum length of a parameter set, in bytes.
const MIN_SET: usize = 3;
/// Maximum length of a parameter set, in bytes.
const MAX_SET: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VideoCodec {
    H264,
    Hevc,
}

/// The video parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate: Option<f64>,
}

/// The role of one NAL unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Begins an access unit.
    Delimiter,
    /// A parameter set; the number is the index of its type.
    Set(usize),
    /// Part of a picture; `key`: decoding can start with it.
    Slice {
        key: bool,
    },
    /// Supplemental information that decoding can start here.
    Recovery,
    /// Padding.
    Filler,
    Other,
}

/// One picture, ready for a message.
#[derive(Debug)]
pub(super) struct AccessUnit {
    pub(super) key: bool,
    /// NAL units, each behind its length in four bytes.
    pub(super) data: Vec<u8>,
}

/// Extracts pictures from a byte stream, and keeps the parameter sets.
#[derive(Debug)]
pub(super) struct VideoParser {
    codec: VideoCodec,
    /// Video, sequence and picture parameter sets (H.264 has no video parameter sets).
    sets: [Vec<Bytes>; 3],
    changed: bool,
}

impl VideoParser {
    pub(super) fn new(codec: VideoCodec) -> Self {
        Self { codec, sets: Default::default(), changed: false }
    }

    /// Extracts the pictures from the data of a PES packet; `head` bytes are left free before each of them.
    pub(super) fn parse(&mut self, data: &[u8], head: usize) -> Vec<AccessUnit> {
        let mut units = Vec::new();
        let mut unit = AccessUnit { key: false, data: Vec::with_capacity(data.len() + head + 64) };
        unit.data.resize(head, 0);
        let mut has_slice = false;
        for nal in NalUnits::new(data) {
            let role = self.role(nal);
            match role {
                Role::Delimiter => {
                    if std::mem::take(&mut has_slice) {
                        let next = AccessUnit { key: false, data: vec![0; head] };
                        units.push(std::mem::replace(&mut unit, next));
                    }
                    continue;
                }
                Role::Set(number) => {
                    self.keep(number, nal);
                    continue;
                }
                Role::Filler => continue,
                Role::Slice { key } => {
                    has_slice = true;
                    unit.key |= key;
                }
                Role::Recovery => unit.key = true,
                Role::Other => {}
            }
            let Ok(length) = u32::try_from(nal.len()) else { continue };
            unit.data.extend(length.to_be_bytes());
            unit.data.extend_from_slice(nal);
        }
        if has_slice {
            units.push(unit);
        }
        units
    }

    fn role(&self, nal: &[u8]) -> Role {
        match (self.codec, nal) {
            (VideoCodec::H264, [header, ..]) => match header & 0x1f {
                1..=4 => Role::Slice { key: false },
                5 => Role::Slice { key: true },
                6 if is_recovery_point(&nal[1..]) => Role::Recovery,
                7 => Role::Set(1),
                8 => Role::Set(2),
                9 => Role::Delimiter,
                10..=12 => Role::Filler,
                _ => Role::Other,
            },
            (VideoCodec::Hevc, [header, _, ..]) => match (header >> 1) & 0x3f {
                16..=23 => Role::Slice { key: true },
                0..=31 => Role::Slice { key: false },
                32 => Role::Set(0),
                33 => Role::Set(1),
                34 => Role::Set(2),
                35 => Role::Delimiter,
                36..=38 => Role::Filler,
                _ => Role::Other,
            },
            _ => Role::Filler,
        }
    }

    /// Keeps a parameter set in place of the one with its number.
    fn keep(&mut self, number: usize, nal: &[u8]) {
        let Some(sets) = self.sets.get_mut(number) else { return };
        if !(MIN_SET..=MAX_SET).contains(&nal.len()) || sets.iter().any(|known| known == nal) {
            return;
        }
        let id = set_id(self.codec, number, nal);
        let full = sets.len() >= MAX_SETS;
        match sets.iter_mut().find(|known| set_id(self.codec, number, known) == id) {
            Some(known) => *known = Bytes::copy_from_slice(nal),
            None if full => return,
            None => sets.push(Bytes::copy_from_slice(nal)),
        }
        self.changed = true;
    }

    /// Returns the decoder configuration record and the parameters, when they are first known and when they change.
    pub(super) fn configuration(&mut self) -> Option<(Vec<u8>, Picture)> {
        if !self.changed {
            return None;
        }
        let record = match self.codec {
            VideoCodec::H264 => self.avc(),
            VideoCodec::Hevc => self.hevc(),
        }?;
        self.changed = false;
        Some(record)
    }

    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 5.3.3.1).
    fn avc(&self) -> Option<(Vec<u8>, Picture)> {
        let [_, sequence, picture] = &self.sets;
        let first = sequence.first()?;
        picture.first()?;
        let &[_, profile, compatibility, level, ..] = &first[..] else { return None };
        let mut record = vec![1, profile, compatibility, level, 0xff];
        record.push(0xe0 | u8::try_from(sequence.len()).ok()?);
        push_sets(&mut record, sequence)?;
        record.push(u8::try_from(picture.len()).ok()?);
        push_sets(&mut record, picture)?;
        let parsed = decode_nal(first).ok().and_then(|rbsp| SeqParameterSet::from_bits(BitReader::new(&rbsp[..])).ok());
        if let Some(sps) = &parsed
            && matches!(profile, 100 | 110 | 122 | 144)
        {
            let chroma = match sps.chroma_info.chroma_format {
                h264_reader::nal::sps::ChromaFormat::Monochrome => 0,
                h264_reader::nal::sps::ChromaFormat::YUV420 => 1,
                h264_reader::nal::sps::ChromaFormat::YUV422 => 2,
                _ => 3,
            };
            record.extend([
                0xfc | chroma,
                0xf8 | sps.chroma_info.bit_depth_luma_minus8,
                0xf8 | sps.chroma_info.bit_depth_chroma_minus8,
                0,
            ]);
        }
        let (width, height) = parsed.as_ref().and_then(|sps| sps.pixel_dimensions().ok()).unwrap_or_default();
        let frame_rate = parsed.and_then(|sps| sps.fps()).filter(|rate| (0.1..=1000.0).contains(rate));
        Some((record, Picture { width, height, frame_rate }))
    }

    /// HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 8.3.3.1).
    fn hevc(&self) -> Option<(Vec<u8>, Picture)> {
        let [video, sequence, picture] = &self.sets;
        video.first()?;
        let first = sequence.first()?;
        picture.first()?;
        let sps = HevcSequence::parse(first)?;
        let mut record = vec![1];
        record.extend(sps.profile_tier_level);
        record.extend([
            0xf0, // min_spatial_segmentation_idc: unknown
            0x00,
            0xfc, // parallelismType: unknown
            0xfc | sps.chroma_format,
            0xf8 | sps.luma_depth,
            0xf8 | sps.chroma_depth,
            0x00, // avgFrameRate: unknown
            0x00,
            (sps.sub_layers << 3) | (u8::from(sps.nested) << 2) | 3, // lengths of four bytes
            3,
        ]);
        for (nal_type, sets) in [(32, video), (33, sequence), (34, picture)] {
            record.push(0x80 | nal_type); // all of them are here
            record.extend(u16::try_from(sets.len()).ok()?.to_be_bytes());
            push_sets(&mut record, sets)?;
        }
        Some((record, Picture { width: sps.width, height: sps.height, frame_rate: None }))
    }
}

fn push_sets(record: &mut Vec<u8>, sets: &[Bytes]) -> Option<()> {
    for set in sets {
        record.extend(u16::try_from(set.len()).ok()?.to_be_bytes());
        record.extend_from_slice(set);
    }
    Some(())
}

/// Returns the number of a parameter set, by which others refer to it; 0 if it cannot be read.
fn set_id(codec: VideoCodec, number: usize, nal: &[u8]) -> u32 {
    let read = || -> Option<u32> {
        // The number is near the beginning: there is no need to unescape all of it.
        let rbsp = decode_nal(nal.get(..nal.len().min(64))?).ok()?;
        match (codec, number) {
            (VideoCodec::H264, 1) => BitReader::new(rbsp.get(3..)?).read_ue("id").ok(),
            (VideoCodec::H264, _) => BitReader::new(&rbsp[..]).read_ue("id").ok(),
            // decode_nal removes one byte of the header; HEVC has two.
            (VideoCodec::Hevc, 0) => Some(u32::from(rbsp.get(1)? >> 4)),
            (VideoCodec::Hevc, 1) => HevcSequence::parse(nal).map(|sps| sps.id),
            (VideoCodec::Hevc, _) => BitReader::new(rbsp.get(1..)?).read_ue("id").ok(),
        }
    };
    read().unwrap_or(0)
}

/// The fields of a sequence parameter set in the configuration record (ITU-T H.265 section 7.3.2.2).
struct HevcSequence {
    id: u32,
    profile_tier_level: [u8; 12],
    sub_layers: u8,
    nested: bool,
    chroma_format: u8,
    luma_depth: u8,
    chroma_depth: u8,
    width: u32,
    height: u32,
}

impl HevcSequence {
    fn parse(nal: &[u8]) -> Option<Self> {
        let rbsp = decode_nal(Some(nal).filter(|nal| nal.len() >= MIN_SET)?).ok()?;
        let body = rbsp.get(1..)?; // the second byte of the header
        let &first = body.first()?;
        let sub_layers = ((first >> 1) & 0x07) + 1;
        let profile_tier_level = *body.get(1..13)?.first_chunk()?;
        let mut bits = BitReader::new(body.get(13..)?);
        // profile_tier_level: the flags of the sub-layers.
        let mut present = Vec::new();
        for _ in 1..sub_layers {
            present.push((bits.read_bit("profile").ok()?, bits.read_bit("level").ok()?));
        }
        if sub_layers > 1 {
            bits.skip(2 * u32::from(9 - sub_layers), "reserved").ok()?;
        }
        for (profile, level) in present {
            bits.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 }, "sub-layer").ok()?;
        }
        let id = bits.read_ue("id").ok()?;
        let chroma_format = u8::try_from(bits.read_ue("chroma_format_idc").ok()?).ok().filter(|c| *c <= 3)?;
        if chroma_format == 3 {
            bits.read_bit("separate_colour_plane_flag").ok()?;
        }
        let mut width = bits.read_ue("width").ok()?;
        let mut height = bits.read_ue("height").ok()?;
        if bits.read_bit("conformance_window_flag").ok()? {
            let across = if matches!(chroma_format, 1 | 2) { 2 } else { 1 };
            let down = if chroma_format == 1 { 2 } else { 1 };
            let mut crop = || bits.read_ue("offset").ok();
            let left = crop()?;
            let right = crop()?;
            let top = crop()?;
            let bottom = crop()?;
            width = width.saturating_sub(left.saturating_add(right).saturating_mul(across));
            height = height.saturating_sub(top.saturating_add(bottom).saturating_mul(down));
        }
        let depth = |value: u32| u8::try_from(value).ok().filter(|d| *d <= 8);
        let luma_depth = depth(bits.read_ue("bit_depth_luma_minus8").ok()?)?;
        let chroma_depth = depth(bits.read_ue("bit_depth_chroma_minus8").ok()?)?;
        let nested = first & 1 != 0;
        Some(Self {
            id,
            profile_tier_level,
            sub_layers,
            nested,
            chroma_format,
            luma_depth,
            chroma_depth,
            width,
            height,
        })
    }
}

/// Returns whether supplemental enhancement information has a recovery point (ITU-T H.264 annex D: payload type 6).
fn is_recovery_point(mut sei: &[u8]) -> bool {
    while sei.len() > 2 {
        let mut number = || {
            let mut sum = 0usize;
            loop {
                let (&byte, rest) = sei.split_first()?;
                sei = rest;
                sum += usize::from(byte);
                if byte != 0xff {
                    return Some(sum);
                }
            }
        };
        let (Some(kind), Some(length)) = (number(), number()) else { return false };
        if kind == 6 {
            return true;
        }
        sei = sei.get(length..).unwrap_or_default();
    }
    false
}

/// The NAL units of a byte stream (ITU-T H.264 annex B), without their start codes.
struct NalUnits<'a> {
    rest: &'a [u8],
}

const START: [u8; 3] = [0, 0, 1];

impl<'a> NalUnits<'a> {
    fn new(data: &'a [u8]) -> Self {
        let rest = memmem::find(data, &START).and_then(|at| data.get(at + 3..)).unwrap_or_default();
        Self { rest }
    }
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = memmem::find(self.rest, &START);
            let (nal, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            self.rest = rest.get(3..).unwrap_or_default();
            // Zeros before the next start code are not part of it.
            let length = nal.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            if length > 0 {
                return nal.get(..length);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_byte_stream_splits_into_access_units() {
        let nals = |data| NalUnits::new(data).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(
            nals(&[0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1, 2, 0, 0, 0, 1, 0x41]),
            [vec![9, 0x10], vec![0x65, 1, 2], vec![0x41]]
        );
        assert_eq!(nals(&[1, 2, 3]), Vec::<Vec<u8>>::new());
        let mut parser = VideoParser::new(VideoCodec::H264);
        let data = [0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1, 0, 0, 1, 0x65, 2, 0, 0, 1, 9, 0x30, 0, 0, 1, 0x41, 3];
        let units = parser.parse(&data, 2);
        assert_eq!(units.len(), 2);
        assert_eq!((units[0].key, &units[0].data[..]), (true, &[0, 0, 0, 0, 0, 2, 0x65, 1, 0, 0, 0, 2, 0x65, 2][..]));
        assert_eq!((units[1].key, &units[1].data[..]), (false, &[0, 0, 0, 0, 0, 2, 0x41, 3][..]));
        assert!(is_recovery_point(&[6, 1, 0xc4, 0x80]));
        assert!(is_recovery_point(&[5, 2, 1, 1, 6, 1, 0xc4, 0x80]));
        assert!(!is_recovery_point(&[5, 2, 1, 1, 0x80]));
    }

    proptest::proptest! {
            #[test]
            fn video_parser_survives_any_bytes(data in proptest::collection::vec(0u8..8, 0..400), hevc in proptest::bool::ANY) {
                let mut parser = VideoParser::new(if hevc { VideoCodec::Hevc } else { VideoCodec::H264 });
                parser.parse(&data, 5);
                parser.configuration();
            }

            #[test]
            fn video_survives_any_parameter_sets(data in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
                for codec in [VideoCodec::H264, VideoCodec::Hevc] {
                    let mut parser = VideoParser::new(codec);
                    for number in 0..3 {
     parser.keep(number, &data);
    }
                    parser.configuration();
                }
            }
        }
}
