//! AAC in LATM (ISO/IEC 14496-3 section 1.7): access units at any bit offset, and the configuration between them.

use super::audio::Sound;
use h264_reader::rbsp::{BitRead, BitReader};

/// The sampling frequencies of an AudioSpecificConfig, by index (ISO/IEC 14496-3 table 1.18).
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// The audio object types whose configuration is read: AAC Main, LC, SSR and LTP.
const PLAIN: std::ops::RangeInclusive<u8> = 1..=4;

/// The configuration of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    sound: Sound,
}

/// Parses an AudioMuxElement; `None` if it cannot be read, or has no configuration yet.
///
/// Only elements of one program, one layer and one access unit are read, as broadcasts carry them.
pub(super) fn element(bytes: &[u8], config: &mut Option<Config>) -> Option<(Sound, Vec<u8>)> {
    let mut bits = BitReader::new(bytes);
    if !bits.read_bit("useSameStreamMux").ok()? {
        *config = Some(stream_mux_config(&mut bits)?);
    }
    let known = (*config)?;
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
    Some((known.sound, data))
}

fn stream_mux_config(bits: &mut impl BitRead) -> Option<Config> {
    if bits.read_bit("audioMuxVersion").ok()? || !bits.read_bit("allStreamsSameTimeFraming").ok()? {
        return None;
    }
    let sub_frames: u8 = bits.read::<6, u8>("numSubFrames").ok()?;
    let programs: u8 = bits.read::<4, u8>("numProgram").ok()?;
    let layers: u8 = bits.read::<3, u8>("numLayer").ok()?;
    if (sub_frames, programs, layers) != (0, 0, 0) {
        return None;
    }
    let object_type: u8 = bits.read::<5, u8>("audioObjectType").ok()?;
    let index: u8 = bits.read::<4, u8>("samplingFrequencyIndex").ok()?;
    let sample_rate = *RATES.get(usize::from(index))?;
    let channels: u8 = bits.read::<4, u8>("channelConfiguration").ok()?;
    if !PLAIN.contains(&object_type) || channels == 0 {
        return None;
    }
    // GASpecificConfig
    bits.read_bit("frameLengthFlag").ok()?;
    if bits.read_bit("dependsOnCoreCoder").ok()? {
        bits.skip(14, "coreCoderDelay").ok()?;
    }
    bits.read_bit("extensionFlag").ok()?;
    if bits.read::<3, u8>("frameLengthType").ok()? != 0 {
        return None;
    }
    bits.skip(8, "latmBufferFullness").ok()?;
    // Other data behind an access unit is ignored.
    if bits.read_bit("otherDataPresent").ok()? {
        loop {
            let more = bits.read_bit("otherDataLenEsc").ok()?;
            bits.skip(8, "otherDataLenTmp").ok()?;
            if !more {
                break;
            }
        }
    }
    if bits.read_bit("crcCheckPresent").ok()? {
        bits.skip(8, "crcCheckSum").ok()?;
    }
    Some(Config { sound: Sound::aac(sample_rate, channels, object_type - 1) })
}
