//! H.264 and HEVC: the parameter sets of a stream, and the decoder configuration records of ISO/IEC 14496-15.

use super::units::append_nal;
use crate::media::entry_point::NalCodec;
use bytes::Bytes;
use h264_reader::{
    nal::sps::SeqParameterSet,
    rbsp::{BitRead, BitReader, decode_nal},
};

/// Maximum number of parameter sets of one type that are kept.
const MAX_SETS: usize = 16;
/// Minimum length of a parameter set, in bytes.
pub(super) const MIN_SET: usize = 3;
/// Maximum length of a parameter set, in bytes.
pub(super) const MAX_SET: usize = 4096;

/// The video parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate: Option<f64>,
    pub(super) profile: Option<&'static str>,
}

/// The parameter sets of a stream.
#[derive(Debug)]
pub(super) struct ParameterSets {
    codec: NalCodec,
    /// Video, sequence and picture parameter sets (H.264 has no video parameter sets).
    sets: [Vec<Bytes>; 3],
    changed: bool,
    /// The next sequence parameter set is that of another encoder: those known are of no use.
    renewed: bool,
}

impl ParameterSets {
    pub(super) fn new(codec: NalCodec) -> Self {
        Self { codec, sets: Default::default(), changed: false, renewed: false }
    }

    /// Drops the known parameter sets when others come, as another encoder may have taken over.
    pub(super) fn renew(&mut self) {
        self.renewed = true;
    }

    /// Keeps a parameter set in place of the one with its number.
    pub(super) fn keep(&mut self, number: usize, nal: &[u8]) {
        let first = if self.codec == NalCodec::H264 { 1 } else { 0 };
        if number == first && std::mem::take(&mut self.renewed) {
            // The same set again keeps the others, so that a stream that only repeats it stays as it is.
            let is_known = self.sets.get(number).is_some_and(|sets| sets.iter().any(|known| known == nal));
            if !is_known {
                self.sets = Default::default();
            }
        }
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

    /// Returns all parameter sets, each behind its length.
    pub(super) fn all(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for set in self.sets.iter().flatten() {
            append_nal(&mut all, set);
        }
        all
    }

    /// Returns the decoder configuration record and the parameters, when they are first known and when they change.
    pub(super) fn configuration(&mut self) -> Option<(Vec<u8>, Picture)> {
        if !self.changed {
            return None;
        }
        let record = match self.codec {
            NalCodec::H264 => self.avc(),
            NalCodec::Hevc => self.hevc(),
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
        Some((record, avc_picture(profile, compatibility, parsed.as_ref())))
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
        Some((record, sps.picture()))
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
fn set_id(codec: NalCodec, number: usize, nal: &[u8]) -> u32 {
    let read = || -> Option<u32> {
        // The number is near the beginning: there is no need to unescape all of it.
        let rbsp = decode_nal(nal.get(..nal.len().min(64))?).ok()?;
        match (codec, number) {
            (NalCodec::H264, 1) => BitReader::new(rbsp.get(3..)?).read_ue("id").ok(),
            (NalCodec::H264, _) => BitReader::new(&rbsp[..]).read_ue("id").ok(),
            // decode_nal removes one byte of the header; HEVC has two.
            (NalCodec::Hevc, 0) => Some(u32::from(rbsp.get(1)? >> 4)),
            (NalCodec::Hevc, 1) => HevcSequence::parse(nal).map(|sps| sps.id),
            (NalCodec::Hevc, _) => BitReader::new(rbsp.get(1..)?).read_ue("id").ok(),
        }
    };
    read().unwrap_or(0)
}

/// The fields of a sequence parameter set in the configuration record (ITU-T H.265 section 7.3.2.2).
pub(super) struct HevcSequence {
    pub(super) id: u32,
    /// Number of bits of picture order counts.
    pub(super) count_bits: u32,
    pub(super) has_planes: bool,
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
    fn picture(&self) -> Picture {
        let profile = hevc_profile(self.profile_tier_level[0]);
        Picture { width: self.width, height: self.height, frame_rate: None, profile }
    }

    pub(super) fn parse(nal: &[u8]) -> Option<Self> {
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
        let has_planes = chroma_format == 3 && bits.read_bit("separate_colour_plane_flag").ok()?;
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
        let count_bits = bits.read_ue("log2_max_pic_order_cnt_lsb_minus4").ok()?.min(12) + 4;
        let nested = first & 1 != 0;
        Some(Self {
            id,
            count_bits,
            has_planes,
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

fn avc_picture(profile: u8, constraints: u8, sps: Option<&SeqParameterSet>) -> Picture {
    let (width, height) = sps.and_then(|sps| sps.pixel_dimensions().ok()).unwrap_or_default();
    let frame_rate = sps.and_then(SeqParameterSet::fps).filter(|rate| (0.1..=1000.0).contains(rate));
    Picture { width, height, frame_rate, profile: avc_profile(profile, constraints) }
}

/// Returns the video parameters in a sequence parameter set.
pub(super) fn picture_of(codec: NalCodec, set: &[u8]) -> Option<Picture> {
    if !(MIN_SET..=MAX_SET).contains(&set.len()) {
        return None;
    }
    match codec {
        NalCodec::H264 => {
            let &[_, profile, constraints, ..] = set else { return None };
            let sps = decode_nal(set).ok().and_then(|rbsp| SeqParameterSet::from_bits(BitReader::new(&rbsp[..])).ok());
            Some(avc_picture(profile, constraints, Some(&sps?)))
        }
        NalCodec::Hevc => Some(HevcSequence::parse(set)?.picture()),
    }
}

/// Returns the name of a profile of H.264 (ITU-T H.264 annex A).
fn avc_profile(profile: u8, constraints: u8) -> Option<&'static str> {
    Some(match profile {
        66 if constraints & 0x40 != 0 => "Constrained Baseline",
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High 10",
        122 => "High 4:2:2",
        244 => "High 4:4:4 Predictive",
        _ => return None,
    })
}

/// Returns the name of a profile of HEVC (ITU-T H.265 annex A).
fn hevc_profile(profile: u8) -> Option<&'static str> {
    Some(match profile & 0x1f {
        1 => "Main",
        2 => "Main 10",
        3 => "Main Still Picture",
        4 => "Range Extensions",
        9 => "Screen Content Coding",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn video_survives_any_parameter_sets(data in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            for codec in [NalCodec::H264, NalCodec::Hevc] {
                let mut sets = ParameterSets::new(codec);
                for number in 0..3 {
                    sets.keep(number, &data);
                }
                sets.configuration();
                sets.renew();
                sets.keep(0, &data);
                sets.keep(1, &data);
                sets.configuration();
            }
        }
    }
}
