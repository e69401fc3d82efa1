//! Configuration of AAC (ISO/IEC 14496-3): AudioSpecificConfig from ADTS headers, with the program configuration of
//! streams that have no channel configuration, and from LATM (section 1.7), with the access units at any bit offset.

use h264_reader::rbsp::{BitRead, BitReader};
use std::sync::Arc;

/// The sampling frequencies, by index (table 1.18).
pub(super) const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Number of channels of each channel configuration (table 1.19).
const CHANNELS: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 8, 0, 0, 0, 7, 8, 24, 8];
/// Maximum number of bits of a configuration.
const MAX_BITS: usize = 4096;

/// An AudioSpecificConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AudioConfig {
    pub(super) sample_rate: u32,
    pub(super) channels: u8,
    pub(super) profile: Option<&'static str>,
    /// Number of samples of a frame, at the sample rate.
    pub(super) samples: u32,
    pub(super) bytes: Arc<[u8]>,
}

/// Reads bits, and keeps them.
struct Tape<'a, R> {
    bits: &'a mut R,
    kept: Vec<bool>,
}

impl<R: BitRead> Tape<'_, R> {
    fn bit(&mut self) -> Option<bool> {
        let bit = self.bits.read_bit("bit").ok()?;
        if self.kept.len() >= MAX_BITS {
            return None;
        }
        self.kept.push(bit);
        Some(bit)
    }

    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }
}

fn pack(bits: &[bool]) -> Arc<[u8]> {
    let pack = |byte: &[bool]| {
        let mut value = 0;
        for (at, bit) in byte.iter().enumerate() {
            value |= u8::from(*bit) << (7 - at);
        }
        value
    };
    bits.chunks(8).map(pack).collect()
}

fn profile(object_type: u32) -> Option<&'static str> {
    Some(match object_type {
        1 => "Main",
        2 => "LC",
        3 => "SSR",
        4 => "LTP",
        5 => "HE",
        29 => "HE v2",
        _ => return None,
    })
}

/// Makes the configuration of an ADTS stream; `program` is needed if it has no channel configuration.
pub(super) fn config_of_adts(
    profile_bits: u8,
    rate: u8,
    channels: u8,
    program: Option<&[bool]>,
) -> Option<AudioConfig> {
    let object_type = u32::from(profile_bits) + 1;
    let mut bits = Vec::new();
    let mut push = |value: u32, count: u32| bits.extend((0..count).rev().map(|at| value >> at & 1 != 0));
    push(object_type, 5);
    push(u32::from(rate), 4);
    push(u32::from(channels), 4);
    push(0, 3); // frames of 1024 samples, no core coder, no extension
    let channels = match program {
        Some(program) => {
            let (elements, comment) = split_program(program)?;
            bits.extend_from_slice(elements);
            // Aligned anew, to the beginning of the configuration.
            bits.resize(bits.len().next_multiple_of(8), false);
            bits.extend_from_slice(comment);
            channels_of(program)?
        }
        None => *CHANNELS.get(usize::from(channels))?,
    };
    let sample_rate = *RATES.get(usize::from(rate))?;
    Some(AudioConfig { sample_rate, channels, profile: profile(object_type), samples: 1024, bytes: pack(&bits) })
}

/// Returns the bits of the program configuration that a frame begins with, behind the id of the element.
pub(super) fn program_config(frame: &[u8]) -> Option<Vec<bool>> {
    let mut bits = BitReader::new(frame);
    let mut tape = Tape { bits: &mut bits, kept: Vec::new() };
    if tape.bits(3)? != 5 {
        return None;
    }
    program(&mut tape)?;
    tape.kept.drain(..3);
    Some(tape.kept)
}

/// Reads a program_config_element (table 4.2), which is aligned to where the tape begins.
fn program<R: BitRead>(tape: &mut Tape<'_, R>) -> Option<u8> {
    tape.bits(4 + 2 + 4)?;
    let [front, side, back] = [tape.bits(4)?, tape.bits(4)?, tape.bits(4)?];
    let [low, associated, coupling] = [tape.bits(2)?, tape.bits(3)?, tape.bits(4)?];
    for length in [4, 4, 3] {
        if tape.bit()? {
            tape.bits(length)?; // mixdown
        }
    }
    let mut channels = low;
    for _ in 0..front + side + back {
        channels += if tape.bit()? { 2 } else { 1 };
        tape.bits(4)?;
    }
    tape.bits(4 * (low + associated) + 5 * coupling)?;
    while !tape.kept.len().is_multiple_of(8) {
        tape.bit()?;
    }
    let comment = tape.bits(8)?;
    for _ in 0..comment {
        tape.bits(8)?;
    }
    u8::try_from(channels).ok()
}

/// Splits the bits of a program configuration behind the id of its element: up to the alignment, and behind it.
fn split_program(bits: &[bool]) -> Option<(&[bool], &[bool])> {
    let bit = |at: usize| bits.get(at).copied().map(u32::from);
    let number = |from: usize, count: usize| (from..from + count).try_fold(0, |sum, at| Some(sum << 1 | bit(at)?));
    let [front, side, back] = [number(10, 4)?, number(14, 4)?, number(18, 4)?];
    let [low, associated, coupling] = [number(22, 2)?, number(24, 3)?, number(27, 4)?];
    let mut at = 31;
    for length in [4, 4, 3] {
        at += if bit(at)? == 1 { 1 + length } else { 1 };
    }
    at += (5 * (front + side + back) + 4 * (low + associated) + 5 * coupling) as usize;
    // Three bits of the id stood before.
    let aligned = (at + 3).next_multiple_of(8) - 3;
    Some((bits.get(..at)?, bits.get(aligned..)?))
}

fn channels_of(bits: &[bool]) -> Option<u8> {
    let bytes = pack(&[&[true, false, true], bits].concat());
    let mut bits = BitReader::new(&bytes[..]);
    let mut tape = Tape { bits: &mut bits, kept: Vec::new() };
    tape.bits(3)?;
    program(&mut tape)
}

/// Parses an AudioMuxElement; `None` if it cannot be read, or has no configuration yet.
///
/// Only elements of one program, one layer and one access unit are read, as broadcasts carry them.
pub(super) fn latm_element(bytes: &[u8], config: &mut Option<AudioConfig>) -> Option<(AudioConfig, Vec<u8>)> {
    let mut bits = BitReader::new(bytes);
    if !bits.read_bit("useSameStreamMux").ok()? {
        let read = stream_mux_config(&mut bits)?;
        if config.as_ref() != Some(&read) {
            *config = Some(read);
        }
    }
    let known = config.clone()?;
    let mut length = 0usize;
    loop {
        let more: u8 = bits.read::<8, u8>("MuxSlotLengthBytes").ok()?;
        length += usize::from(more);
        if more != u8::MAX {
            break;
        }
    }
    if length > bytes.len() {
        return None;
    }
    let mut data = Vec::with_capacity(length);
    for _ in 0..length {
        data.push(bits.read::<8, u8>("payload").ok()?);
    }
    Some((known, data))
}

fn stream_mux_config(bits: &mut impl BitRead) -> Option<AudioConfig> {
    let is_second_version = bits.read_bit("audioMuxVersion").ok()?;
    if is_second_version {
        if bits.read_bit("audioMuxVersionA").ok()? {
            return None;
        }
        latm_value(bits)?; // taraBufferFullness
    }
    if !bits.read_bit("allStreamsSameTimeFraming").ok()? {
        return None;
    }
    let sub_frames: u8 = bits.read::<6, u8>("numSubFrames").ok()?;
    let programs: u8 = bits.read::<4, u8>("numProgram").ok()?;
    let layers: u8 = bits.read::<3, u8>("numLayer").ok()?;
    if (sub_frames, programs, layers) != (0, 0, 0) {
        return None;
    }
    let length = if is_second_version { Some(latm_value(bits)?) } else { None };
    let mut tape = Tape { bits, kept: Vec::new() };
    let mut config = audio_specific_config(&mut tape)?;
    if let Some(length) = length {
        // What is behind the part that was read belongs to it too.
        let read = u32::try_from(tape.kept.len()).ok()?;
        tape.bits(length.checked_sub(read)?.min(MAX_BITS as u32))?;
        config.bytes = pack(&tape.kept);
    }
    let bits = tape.bits;
    if bits.read::<3, u8>("frameLengthType").ok()? != 0 {
        return None;
    }
    bits.skip(8, "latmBufferFullness").ok()?;
    // Other data behind an access unit is ignored.
    if bits.read_bit("otherDataPresent").ok()? {
        if is_second_version {
            latm_value(bits)?;
        } else {
            loop {
                let more = bits.read_bit("otherDataLenEsc").ok()?;
                bits.skip(8, "otherDataLenTmp").ok()?;
                if !more {
                    break;
                }
            }
        }
    }
    if bits.read_bit("crcCheckPresent").ok()? {
        bits.skip(8, "crcCheckSum").ok()?;
    }
    Some(config)
}

/// Reads a LatmGetValue.
fn latm_value(bits: &mut impl BitRead) -> Option<u32> {
    let more: u8 = bits.read::<2, u8>("bytesForValue").ok()?;
    let mut value = 0u32;
    for _ in 0..=more {
        value = value << 8 | u32::from(bits.read::<8, u8>("valueTmp").ok()?);
    }
    Some(value)
}

/// Returns the configuration in an AudioSpecificConfig.
pub(super) fn config_of(bytes: &[u8]) -> Option<AudioConfig> {
    let mut bits = BitReader::new(bytes.get(..bytes.len().min(MAX_BITS / 8))?);
    audio_specific_config(&mut Tape { bits: &mut bits, kept: Vec::new() })
}

/// Reads an AudioSpecificConfig of AAC (section 1.6.2.1).
fn audio_specific_config<R: BitRead>(tape: &mut Tape<'_, R>) -> Option<AudioConfig> {
    let mut object_type = tape.bits(5)?;
    let shown = object_type;
    let core_rate = sampling_frequency(tape)?;
    let channel_configuration = tape.bits(4)?;
    if matches!(object_type, 5 | 29) {
        sampling_frequency(tape)?; // of the extension
        object_type = tape.bits(5)?;
    }
    if !(1..=4).contains(&object_type) {
        return None;
    }
    // GASpecificConfig
    let is_short = tape.bit()?;
    if tape.bit()? {
        tape.bits(14)?; // coreCoderDelay
    }
    tape.bit()?; // extensionFlag
    let channels = if channel_configuration == 0 {
        program(tape)?
    } else {
        *CHANNELS.get(usize::try_from(channel_configuration).ok()?).filter(|channels| **channels > 0)?
    };
    let samples = if is_short { 960 } else { 1024 };
    Some(AudioConfig { sample_rate: core_rate, channels, profile: profile(shown), samples, bytes: pack(&tape.kept) })
}

fn sampling_frequency<R: BitRead>(tape: &mut Tape<'_, R>) -> Option<u32> {
    match tape.bits(4)? {
        15 => tape.bits(24),
        index => RATES.get(usize::try_from(index).ok()?).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes numbers of so many bits.
    fn bits(fields: &[(u32, u32)]) -> Vec<bool> {
        let mut out = Vec::new();
        for (value, count) in fields {
            out.extend((0..*count).rev().map(|at| value >> at & 1 != 0));
        }
        out
    }

    /// Four channels: one in front, a pair in front, one in the back.
    fn quad() -> Vec<(u32, u32)> {
        let mut fields = vec![(0, 4), (1, 2), (3, 4), (2, 4), (0, 4), (1, 4), (0, 2), (0, 3), (0, 4), (0, 3)];
        fields.extend([(0, 1), (0, 4), (1, 1), (0, 4), (0, 1), (1, 4)]);
        fields
    }

    #[test]
    fn aac_program_configuration_goes_into_the_configuration() {
        let mut frame = bits(&[&[(5, 3)], &quad()[..]].concat());
        frame.resize(frame.len().next_multiple_of(8), false);
        frame.extend(bits(&[(2, 8), (0x41, 8), (0x42, 8), (0x1234, 16)]));
        let program = program_config(&pack(&frame)).unwrap();
        let config = config_of_adts(1, 3, 0, Some(&program)).unwrap();
        let mut wanted = bits(&[&[(2, 5), (3, 4), (0, 4), (0, 3)], &quad()[..]].concat());
        wanted.resize(wanted.len().next_multiple_of(8), false);
        wanted.extend(bits(&[(2, 8), (0x41, 8), (0x42, 8)]));
        assert_eq!(config.bytes, pack(&wanted));
        assert_eq!((config.channels, config.sample_rate, config.profile), (4, 48_000, Some("LC")));
        assert_eq!(program_config(&[0x21, 0x22]), None);
    }

    #[test]
    fn aac_configuration_of_adts_is_two_bytes() {
        let config = config_of_adts(1, 3, 2, None).unwrap();
        assert_eq!(config.bytes[..], [0x11, 0x90]);
    }

    #[test]
    fn latm_element_with_explicit_sbr_is_read() {
        // Version 0; HE-AAC at 24 kHz, extended to 48 kHz, stereo; three bytes.
        let fields = [
            (0, 1),
            (0, 1),
            (1, 1),
            (0, 6),
            (0, 4),
            (0, 3), // mux
            (5, 5),
            (6, 4),
            (2, 4),
            (3, 4),
            (2, 5),
            (0, 3), // configuration
            (0, 3),
            (0xff, 8),
            (0, 1),
            (0, 1), // lengths
            (3, 8),
            (0xaa, 8),
            (0xbb, 8),
            (0xcc, 8),
        ];
        let (config, data) = latm_element(&pack(&bits(&fields)), &mut None).unwrap();
        assert_eq!(data, [0xaa, 0xbb, 0xcc]);
        assert_eq!((config.sample_rate, config.channels, config.profile), (24_000, 2, Some("HE")));
        assert_eq!(config.bytes, pack(&bits(&fields[6..12])));
    }

    proptest::proptest! {
        #[test]
        fn aac_configuration_survives_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            latm_element(&data, &mut None);
            if let Some(program) = program_config(&data) {
                config_of_adts(1, 3, 0, Some(&program));
            }
            let with_id = [&[0xa0][..], &data].concat();
            if let Some(program) = program_config(&with_id) {
                proptest::prop_assert!(config_of_adts(1, 3, 0, Some(&program)).is_some());
            }
        }
    }
}
