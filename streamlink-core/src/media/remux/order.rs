//! Output order of pictures (H.264 section 8.2.1, H.265 section 8.3.1): where several pictures come in one PES packet,
//! only the first has a timestamp, and the picture order counts tell when the others are shown.

use super::video::{HevcSequence, MAX_SET, MIN_SET};
use crate::media::entry_point::{NalCodec, RawBits};
use h264_reader::{
    nal::sps::{FrameMbsFlags, PicOrderCntType, SeqParameterSet},
    rbsp::{BitReader, decode_nal},
};
use std::collections::BTreeMap;

/// Maximum number of parameter sets of one type.
const MAX_SETS: usize = 64;

/// The fields of a sequence parameter set that slice headers depend on.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    frame_number_bits: u32,
    /// 0 if the slices do not count.
    count_bits: u32,
    has_planes: bool,
    has_fields: bool,
}

/// The fields of a picture parameter set.
#[derive(Clone, Copy, Debug)]
struct PictureSet {
    sequence: u32,
    has_output_flag: bool,
    extra_bits: u32,
}

/// The place of a picture in output order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) count: i32,
    /// The counts begin anew with it.
    pub(super) resets: bool,
}

/// A field of H.264 that is coded as a picture of its own (PAFF). Two of them are one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    frame_number: u32,
    is_bottom: bool,
    is_reference: bool,
    resets: bool,
}

impl Field {
    /// Returns whether this field and the one before it are one frame (H.264 sections 3.30 and 3.31: complementary
    /// field pairs).
    pub(super) fn completes(self, first: Self) -> bool {
        self.is_bottom != first.is_bottom
            && self.frame_number == first.frame_number
            && (first.is_reference || !self.is_reference)
            && (first.resets || !self.resets)
    }
}

/// Facts about a picture from the slice that begins it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SliceHead {
    /// `None` if it is not known.
    pub(super) order: Option<Order>,
    /// `None` for a frame.
    pub(super) field: Option<Field>,
}

/// Follows the picture order counts of a stream.
#[derive(Debug)]
pub(super) struct OrderReader {
    codec: NalCodec,
    sequences: BTreeMap<u32, Sequence>,
    pictures: BTreeMap<u32, PictureSet>,
    /// The count of the last picture that others count from.
    last: i32,
}

impl OrderReader {
    pub(super) fn new(codec: NalCodec) -> Self {
        Self { codec, sequences: BTreeMap::new(), pictures: BTreeMap::new(), last: 0 }
    }

    /// Takes a parameter set: 1 for sequence, 2 for picture.
    pub(super) fn set(&mut self, number: usize, nal: &[u8]) {
        if !(MIN_SET..=MAX_SET).contains(&nal.len()) {
            return;
        }
        match number {
            1 => {
                if let Some((id, sequence)) = self.sequence(nal)
                    && (self.sequences.len() < MAX_SETS || self.sequences.contains_key(&id))
                {
                    self.sequences.insert(id, sequence);
                }
            }
            2 => {
                if let Some((id, picture)) = self.picture_set(nal)
                    && (self.pictures.len() < MAX_SETS || self.pictures.contains_key(&id))
                {
                    self.pictures.insert(id, picture);
                }
            }
            _ => {}
        }
    }

    fn sequence(&self, nal: &[u8]) -> Option<(u32, Sequence)> {
        if self.codec == NalCodec::Hevc {
            let sps = HevcSequence::parse(nal)?;
            let sequence = Sequence {
                frame_number_bits: 0,
                count_bits: sps.count_bits,
                has_planes: sps.has_planes,
                has_fields: false,
            };
            return Some((sps.id, sequence));
        }
        let rbsp = decode_nal(nal).ok()?;
        let sps = SeqParameterSet::from_bits(BitReader::new(&rbsp[..])).ok()?;
        let count_bits = match sps.pic_order_cnt {
            PicOrderCntType::TypeZero { log2_max_pic_order_cnt_lsb_minus4 } => {
                u32::from(log2_max_pic_order_cnt_lsb_minus4) + 4
            }
            _ => 0,
        };
        let sequence = Sequence {
            frame_number_bits: u32::from(sps.log2_max_frame_num_minus4) + 4,
            count_bits,
            has_planes: sps.chroma_info.separate_colour_plane_flag,
            has_fields: !matches!(sps.frame_mbs_flags, FrameMbsFlags::Frames),
        };
        Some((u32::from(sps.seq_parameter_set_id.id()), sequence))
    }

    fn picture_set(&self, nal: &[u8]) -> Option<(u32, PictureSet)> {
        let header = if self.codec == NalCodec::H264 { 1 } else { 2 };
        let mut bits = RawBits::new(nal.get(header..)?);
        let id = bits.exp_golomb()?;
        let sequence = bits.exp_golomb()?;
        if self.codec == NalCodec::H264 {
            return Some((id, PictureSet { sequence, has_output_flag: false, extra_bits: 0 }));
        }
        bits.bit()?; // dependent_slice_segments_enabled_flag
        let has_output_flag = bits.bit()? == 1;
        Some((id, PictureSet { sequence, has_output_flag, extra_bits: bits.bits(3)? }))
    }

    /// Returns what the slice that begins a picture tells about it.
    pub(super) fn picture(&mut self, slice: &[u8]) -> SliceHead {
        match self.codec {
            NalCodec::H264 => self.h264(slice).unwrap_or_default(),
            NalCodec::Hevc => SliceHead { order: self.hevc(slice), field: None },
        }
    }

    fn h264(&mut self, slice: &[u8]) -> Option<SliceHead> {
        let header = *slice.first()?;
        let mut bits = RawBits::new(slice.get(1..)?);
        bits.exp_golomb()?; // first_mb_in_slice
        bits.exp_golomb()?; // slice_type
        let set = *self.pictures.get(&bits.exp_golomb()?)?;
        let sequence = *self.sequences.get(&set.sequence)?;
        if sequence.has_planes {
            bits.bits(2)?;
        }
        let frame_number = bits.bits(sequence.frame_number_bits)?;
        let is_reference = header & 0x60 != 0;
        let resets = header & 0x1f == 5;
        let is_field = sequence.has_fields && bits.bit()? == 1;
        let field = if is_field {
            let is_bottom = bits.bit()? == 1;
            Some(Field { frame_number, is_bottom, is_reference, resets })
        } else {
            None
        };
        let order = self.h264_order(&mut bits, sequence, resets, is_reference);
        Some(SliceHead { order, field })
    }

    fn h264_order(
        &mut self,
        bits: &mut RawBits<'_>,
        sequence: Sequence,
        resets: bool,
        is_reference: bool,
    ) -> Option<Order> {
        if sequence.count_bits == 0 {
            return None;
        }
        if resets {
            bits.exp_golomb()?; // idr_pic_id
            self.last = 0;
        }
        let count = self.unwrap(bits.bits(sequence.count_bits)?, sequence.count_bits);
        if is_reference {
            self.last = count; // others refer to it
        }
        Some(Order { count, resets })
    }

    fn hevc(&mut self, slice: &[u8]) -> Option<Order> {
        let &[first, second, ..] = slice else { return None };
        let kind = first >> 1 & 0x3f;
        let mut bits = RawBits::new(slice.get(2..)?);
        bits.bit()?; // first_slice_segment_in_pic_flag
        if (16..=23).contains(&kind) {
            bits.bit()?; // no_output_of_prior_pics_flag
        }
        let set = *self.pictures.get(&bits.exp_golomb()?)?;
        let sequence = *self.sequences.get(&set.sequence)?;
        bits.bits(set.extra_bits)?;
        bits.exp_golomb()?; // slice_type
        if set.has_output_flag {
            bits.bit()?;
        }
        if sequence.has_planes {
            bits.bits(2)?;
        }
        if matches!(kind, 19 | 20) {
            self.last = 0;
            return Some(Order { count: 0, resets: true });
        }
        let resets = (16..=18).contains(&kind);
        if resets {
            self.last = 0;
        }
        let count = self.unwrap(bits.bits(sequence.count_bits)?, sequence.count_bits);
        // Pictures of a higher layer, leading ones, and those that nothing refers to are not counted from.
        let is_reference = kind >= 16 || kind % 2 == 1 && !(6..=9).contains(&kind);
        if second & 7 == 1 && is_reference {
            self.last = count;
        }
        Some(Order { count, resets })
    }

    /// Returns the count with these low bits that is nearest to the last one.
    fn unwrap(&self, low: u32, bits: u32) -> i32 {
        let modulus = 1i64 << bits.clamp(4, 16);
        let apart = (i64::from(low) - i64::from(self.last)).rem_euclid(modulus);
        let apart = if apart >= modulus / 2 { apart - modulus } else { apart };
        i32::try_from(i64::from(self.last) + apart).unwrap_or(0)
    }
}

/// Times of showing, from those of a few pictures and the order of all of them.
#[derive(Debug, Default)]
pub(super) struct OrderTiming {
    /// The last picture whose time is known, and whether that is a timestamp and no estimate.
    known: Option<(i32, i64, bool)>,
    /// Duration of one count, once known.
    unit: Option<i64>,
    /// Number of pictures since the counts began anew.
    index: Option<i64>,
    /// Time from decoding to showing of pictures with which the counts begin anew, once known.
    delay: Option<i64>,
}

impl OrderTiming {
    /// Notes the times of a picture with a timestamp; `step` is the duration of a frame.
    pub(super) fn learn(&mut self, codec: NalCodec, order: Order, placed: i64, shown: i64, step: i64) {
        let index = self.advance(order);
        if let Some((count, before, true)) = self.known.filter(|_| !order.resets) {
            let apart = i64::from(order.count) - i64::from(count);
            let unit = if apart == 0 { 0 } else { (shown - before) / apart };
            if (1..=90_000).contains(&unit) {
                self.unit = Some(unit);
            }
        }
        self.known = Some((order.count, shown, true));
        // Pictures are decoded one after the other, and shown by their counts.
        if let Some(index) = index {
            self.delay = Some(shown - placed - i64::from(order.count) * self.unit(codec, step) + index * step);
        }
    }

    /// Returns the time of a picture that is decoded at `placed`; `step` is the duration of a frame, `end` the time of the
    /// last picture so far.
    pub(super) fn place(&mut self, codec: NalCodec, order: Order, placed: i64, step: i64, end: i64) -> Option<i64> {
        self.advance(order);
        if order.resets {
            // All pictures before it are shown before it.
            let shown = self.delay.map_or(end + step, |delay| placed + delay);
            self.known = Some((order.count, shown, false));
            return Some(shown);
        }
        let (count, shown, _) = self.known?;
        let apart = i64::from(order.count) - i64::from(count);
        Some(shown + apart.clamp(-1000, 1000) * self.unit(codec, step))
    }

    /// Returns the number of pictures since the counts began anew, with this one counted.
    fn advance(&mut self, order: Order) -> Option<i64> {
        self.index = if order.resets { Some(0) } else { self.index.map(|index| index.saturating_add(1).min(100_000)) };
        self.index
    }

    fn unit(&self, codec: NalCodec, step: i64) -> i64 {
        // Most encoders of H.264 count fields.
        self.unit.unwrap_or(if codec == NalCodec::H264 { step / 2 } else { step })
    }

    /// Forgets the pictures before a break.
    pub(super) fn forget(&mut self) {
        self.known = None;
        self.index = None;
        self.delay = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts_unwrap_around_the_last_one() {
        let mut reader = OrderReader::new(NalCodec::H264);
        for (low, wanted) in [(0, 0), (6, 6), (4, 4), (11, 11), (15, 15), (2, 18), (14, 14)] {
            let count = reader.unwrap(low, 4);
            assert_eq!(count, wanted);
            reader.last = count;
        }
    }

    #[test]
    fn order_timing_places_pictures_between_timestamps() {
        let mut timing = OrderTiming::default();
        let codec = NalCodec::H264;
        timing.learn(codec, Order { count: 0, resets: true }, 0, 7200, 3600);
        let at =
            |timing: &mut OrderTiming, count| timing.place(codec, Order { count, resets: false }, 0, 3600, 0).unwrap();
        assert_eq!(at(&mut timing, 6), 7200 + 3 * 3600);
        timing.learn(codec, Order { count: 4, resets: false }, 2 * 3600, 7200 + 4 * 3600, 3600);
        assert_eq!(at(&mut timing, 6), 7200 + 6 * 3600, "counts of frames");
    }

    #[test]
    fn order_timing_places_a_new_count_as_far_from_its_decoding_as_the_last_one() {
        let mut timing = OrderTiming::default();
        let codec = NalCodec::H264;
        let first = Order { count: 0, resets: true };
        assert_eq!(timing.place(codec, first, 0, 3600, 50_000), Some(53_600), "nothing is known yet");
        // The second picture is the fifth to be shown; the first one is shown two frames after its decoding.
        timing.learn(codec, Order { count: 8, resets: false }, 3600, 3600 * 6, 3600);
        assert_eq!(timing.place(codec, first, 90_000, 3600, 900_000), Some(97_200));
    }

    proptest::proptest! {
        #[test]
        fn order_reader_survives_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            for codec in [NalCodec::H264, NalCodec::Hevc] {
                let mut reader = OrderReader::new(codec);
                reader.sequences.insert(0, Sequence { frame_number_bits: 16, count_bits: 16, has_planes: true, has_fields: true });
                reader.set(1, &data);
                reader.set(2, &data);
                reader.picture(&data);
                reader.picture(&data);
            }
        }
    }
}
