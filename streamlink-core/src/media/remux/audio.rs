//! Audio: extracts frames of AAC (ADTS, LATM), MP3, AC-3, E-AC-3 and Opus from PES packets, and makes the headers that
//! decoders need first.

use super::aac::{self, AudioConfig};
use std::sync::Arc;

/// Maximum number of bytes of an incomplete frame kept from one PES packet to the next.
const MAX_REST: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AudioCodec {
    Aac,
    /// AAC in LATM instead of ADTS.
    AacLatm,
    Mp3,
    Ac3,
    Eac3,
    Opus {
        channels: u8,
    },
}

/// The audio parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    pub(super) sample_rate: u32,
    pub(super) channels: u8,
    pub(super) profile: Option<&'static str>,
    /// The AudioSpecificConfig of AAC.
    config: Option<Arc<[u8]>>,
}

impl Sound {
    fn plain(sample_rate: u32, channels: u8) -> Self {
        Self { sample_rate, channels, profile: None, config: None }
    }

    fn aac(config: &AudioConfig) -> Self {
        let &AudioConfig { sample_rate, channels, profile, ref bytes, .. } = config;
        Self { sample_rate, channels, profile, config: Some(bytes.clone()) }
    }
}

/// One audio frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The frame without its transport header.
    pub(super) data: Vec<u8>,
    pub(super) sound: Sound,
    /// In units of 90 kHz.
    pub(super) duration: i64,
    /// The frame began in an earlier PES packet: the timestamp of this one is not its own.
    pub(super) carried: bool,
}

/// Position of a frame in a buffer.
struct Extent {
    /// Number of header bytes to leave out.
    header: usize,
    length: usize,
    sound: Sound,
    samples: u32,
}

/// Extracts frames from PES packets.
#[derive(Debug)]
pub(super) struct AudioParser {
    codec: AudioCodec,
    rest: Vec<u8>,
    /// The configuration of AAC: of a LATM stream, or of the last ADTS header with its program configuration.
    config: Option<AudioConfig>,
    /// The ADTS header of the configuration.
    header: Option<[u8; 3]>,
    /// The program configuration of a stream that has no channel configuration.
    program: Option<Vec<bool>>,
    /// Number of bytes since the last frame, and of frames of another layer in a row.
    barren: usize,
    other_layer: Option<(u8, u8)>,
}

/// Number of bytes without a frame after which a stream counts as one that cannot be read.
const MAX_BARREN: usize = 32 << 10;
/// Number of frames of another layer that show that it is no mistake.
const LAYER_FRAMES: u8 = 3;

/// Reason why a stream cannot be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Another codec than the table names, as the first header shows.
    Codec(&'static str),
    /// No frame, or no configuration, can be read.
    Unreadable,
}

impl AudioParser {
    pub(super) fn new(codec: AudioCodec) -> Self {
        Self { codec, rest: Vec::new(), config: None, header: None, program: None, barren: 0, other_layer: None }
    }

    /// Returns the reason why the stream cannot be carried, once it is known.
    pub(super) fn unfit(&self) -> Option<Unfit> {
        match self.other_layer {
            Some((layer, LAYER_FRAMES..)) => Some(Unfit::Codec(match layer {
                1 => "MPEG audio Layer I",
                _ => "MPEG audio Layer II",
            })),
            _ => (self.barren >= MAX_BARREN).then_some(Unfit::Unreadable),
        }
    }

    /// Drops an incomplete frame, after a loss.
    pub(super) fn lost(&mut self) {
        self.rest.clear();
    }

    /// Extracts the frames from the data of a PES packet.
    pub(super) fn parse(&mut self, data: &[u8]) -> Vec<Frame> {
        let carried = self.rest.len();
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(data);
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.extent(rest) {
                Ok(extent) => {
                    let Some(data) = rest.get(extent.header..extent.length) else { break };
                    if let Some((sound, data, samples)) = self.frame(&extent, rest, data) {
                        let duration = i64::from(samples) * 90_000 / i64::from(sound.sample_rate.max(1));
                        frames.push(Frame { data, sound, duration, carried: at < carried });
                    }
                    at += extent.length;
                }
                Err(Unreadable::Short) => break,
                Err(Unreadable::NotHere) => at += 1, // search on for the next frame
            }
        }
        bytes.drain(..at.min(bytes.len()));
        if bytes.len() <= MAX_REST {
            self.rest = bytes;
        }
        self.barren = if frames.is_empty() { self.barren.saturating_add(data.len()) } else { 0 };
        frames
    }

    fn extent(&mut self, bytes: &[u8]) -> Result<Extent, Unreadable> {
        match self.codec {
            AudioCodec::Aac => adts(bytes),
            // LOAS: a sync word and a length before each element (section 1.7.2).
            AudioCodec::AacLatm => loas(bytes),
            AudioCodec::Mp3 => self.mpeg_audio(bytes),
            AudioCodec::Ac3 | AudioCodec::Eac3 => ac3(bytes),
            AudioCodec::Opus { channels } => opus(bytes, channels),
        }
    }

    /// Returns the parameters of a frame, its data and its number of samples; `None` if it cannot be decoded yet.
    fn frame(&mut self, extent: &Extent, whole: &[u8], data: &[u8]) -> Option<(Sound, Vec<u8>, u32)> {
        match self.codec {
            AudioCodec::Aac => {
                let &[_, _, c, d, ..] = whole else { return None };
                let configuration_is_inside = extent.sound.channels == 0;
                if configuration_is_inside
                    && let Some(program) = aac::program_config(data)
                    && self.program.as_ref() != Some(&program)
                {
                    self.program = Some(program);
                    self.header = None;
                }
                let header = [c & 0xfd, d & 0xc0, u8::from(configuration_is_inside)];
                if self.header != Some(header) {
                    let program = if configuration_is_inside { Some(self.program.as_deref()?) } else { None };
                    self.config = aac::config_of_adts(c >> 6, c >> 2 & 0x0f, extent.sound.channels, program);
                    self.header = Some(header);
                }
                Some((Sound::aac(self.config.as_ref()?), data.to_vec(), extent.samples))
            }
            AudioCodec::AacLatm => {
                let (config, data) = aac::latm_element(data, &mut self.config)?;
                Some((Sound::aac(&config), data, config.samples))
            }
            _ => Some((extent.sound.clone(), data.to_vec(), extent.samples)),
        }
    }

    /// Parses a frame of MPEG audio of layer III, and counts frames of the others.
    fn mpeg_audio(&mut self, bytes: &[u8]) -> Result<Extent, Unreadable> {
        let found = mp3(bytes);
        match found {
            Ok(_) => self.other_layer = None,
            Err(NotHere) => {
                if let Some((layer, length)) = other_layer(bytes) {
                    let next = bytes.get(length..).unwrap_or_default();
                    if next.is_empty() || next.len() >= 4 && other_layer(next).is_some_and(|(other, _)| other == layer)
                    {
                        let count = self.other_layer.filter(|(other, _)| *other == layer).map_or(0, |(_, count)| count);
                        self.other_layer = Some((layer, count.saturating_add(1)));
                    }
                }
            }
            Err(Short) => {}
        }
        found
    }
}

enum Unreadable {
    /// More bytes are needed.
    Short,
    /// No frame begins here.
    NotHere,
}
use Unreadable::{NotHere, Short};

/// Parses an ADTS frame (ISO/IEC 13818-7 section 6.2).
fn adts(bytes: &[u8]) -> Result<Extent, Unreadable> {
    let &[a, b, c, d, e, f, g] = bytes.first_chunk().ok_or(Short)?;
    if a != 0xff || b & 0xf6 != 0xf0 {
        return Err(NotHere);
    }
    let sample_rate = *aac::RATES.get(usize::from(c >> 2 & 0x0f)).ok_or(NotHere)?;
    let channels = (c & 1) << 2 | d >> 6;
    let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
    let header = if b & 1 == 0 { 9 } else { 7 };
    if length <= header {
        return Err(NotHere);
    }
    let samples = 1024 * (u32::from(g & 3) + 1);
    if bytes.len() < length {
        return Err(Short);
    }
    Ok(Extent { header, length, sound: Sound::plain(sample_rate, channels), samples })
}

/// Finds a LOAS element, which carries LATM, behind three bytes of header.
fn loas(bytes: &[u8]) -> Result<Extent, Unreadable> {
    let &[a, b, c] = bytes.first_chunk().ok_or(Short)?;
    if a != 0x56 || b & 0xe0 != 0xe0 {
        return Err(NotHere);
    }
    let length = 3 + (usize::from(b & 0x1f) << 8 | usize::from(c));
    if bytes.len() < length {
        return Err(Short);
    }
    Ok(Extent { header: 3, length, sound: Sound::plain(48_000, 0), samples: 0 })
}

/// Returns the layer, I or II, and the length of a frame of MPEG audio that is not of layer III.
fn other_layer(bytes: &[u8]) -> Option<(u8, usize)> {
    let &[a, b, c, _] = bytes.first_chunk()?;
    let layer = 4 - (b >> 1 & 3);
    if a != 0xff || b & 0xe0 != 0xe0 || !(1..=2).contains(&layer) {
        return None;
    }
    let is_first_version = b >> 3 & 3 == 3;
    let rates: [u32; 3] = match b >> 3 & 3 {
        3 => [44_100, 48_000, 32_000],
        2 => [22_050, 24_000, 16_000],
        _ => return None,
    };
    let sample_rate = *rates.get(usize::from(c >> 2 & 3))?;
    let kbps: [u32; 15] = match (layer, is_first_version) {
        (1, true) => [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        (1, false) => [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        (_, true) => [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        (_, false) => [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    };
    let rate = *kbps.get(usize::from(c >> 4)).filter(|rate| **rate > 0)?;
    let padding = u32::from(c >> 1 & 1);
    let length = if layer == 1 {
        (12 * rate * 1000 / sample_rate + padding) * 4
    } else {
        144 * rate * 1000 / sample_rate + padding
    };
    Some((layer, length as usize))
}

/// Parses a frame of MPEG audio, layer III (ISO/IEC 11172-3 section 2.4.1.3, ISO/IEC 13818-3 section 2.4.1.3).
fn mp3(bytes: &[u8]) -> Result<Extent, Unreadable> {
    let &[a, b, c, d] = bytes.first_chunk().ok_or(Short)?;
    if a != 0xff || b & 0xe6 != 0xe2 {
        return Err(NotHere); // no frame, or another layer
    }
    let version = b >> 3 & 3; // 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    let rates = match version {
        3 => [44_100, 48_000, 32_000],
        2 => [22_050, 24_000, 16_000],
        0 => [11_025, 12_000, 8_000],
        _ => return Err(NotHere),
    };
    let sample_rate: u32 = *rates.get(usize::from(c >> 2 & 3)).ok_or(NotHere)?;
    let kbps: [u32; 15] = match version {
        3 => [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        _ => [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    };
    let rate = *kbps.get(usize::from(c >> 4)).filter(|rate| **rate > 0).ok_or(NotHere)?;
    let samples = if version == 3 { 1152 } else { 576 };
    let length = (samples / 8 * rate * 1000 / sample_rate + u32::from(c >> 1 & 1)) as usize;
    if bytes.len() < length {
        return Err(Short);
    }
    let channels = if d >> 6 == 3 { 1 } else { 2 };
    Ok(Extent { header: 0, length, sound: Sound::plain(sample_rate, channels), samples })
}

/// Parses a synchronisation frame of AC-3 or E-AC-3 (ETSI TS 102 366, sections 4.3, E.1.2, E.1.3).
fn ac3(bytes: &[u8]) -> Result<Extent, Unreadable> {
    let &[a, b, c, d, e, f, g] = bytes.first_chunk().ok_or(Short)?;
    if (a, b) != (0x0b, 0x77) {
        return Err(NotHere);
    }
    const CHANNELS: [u8; 8] = [2, 1, 2, 3, 3, 4, 4, 5];
    const RATES: [u32; 3] = [48_000, 44_100, 32_000];
    let (length, sample_rate, samples, channels);
    // The `bsid`, which lies at the same place in both.
    if f >> 3 > 10 {
        length = 2 * ((usize::from(c & 7) << 8 | usize::from(d)) + 1);
        match e >> 6 {
            3 => {
                sample_rate = *RATES.get(usize::from(e >> 4 & 3)).ok_or(NotHere)? / 2;
                samples = 1536;
            }
            code => {
                sample_rate = RATES[usize::from(code)];
                samples = [256, 512, 768, 1536][usize::from(e >> 4 & 3)];
            }
        }
        channels = CHANNELS[usize::from(e >> 1 & 7)] + (e & 1);
    } else {
        const KBPS: [u32; 19] =
            [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
        sample_rate = *RATES.get(usize::from(e >> 6)).ok_or(NotHere)?;
        let kbps = *KBPS.get(usize::from(e >> 1 & 0x1f)).ok_or(NotHere)?;
        // 1536 samples at so many kilobits, in words of 16 bits; 44.1 kHz alternates.
        let words = kbps * 96_000 / sample_rate + if sample_rate == 44_100 { u32::from(e & 1) } else { 0 };
        length = 2 * words as usize;
        samples = 1536;
        channels = CHANNELS[usize::from(g >> 5)];
    }
    if bytes.len() < length {
        return Err(Short);
    }
    Ok(Extent { header: 0, length, sound: Sound::plain(sample_rate, channels), samples })
}

/// Parses an access unit of Opus behind its control header (the Opus in MPEG-TS draft, section 4).
fn opus(bytes: &[u8], channels: u8) -> Result<Extent, Unreadable> {
    let &[a, b] = bytes.first_chunk().ok_or(Short)?;
    if a != 0x7f || b & 0xe0 != 0xe0 {
        return Err(NotHere);
    }
    let mut at = 2;
    let mut size = 0usize;
    loop {
        let byte = *bytes.get(at).ok_or(Short)?;
        at += 1;
        size += usize::from(byte);
        if byte != 0xff {
            break;
        }
    }
    if b & 0x10 != 0 {
        at += 2; // samples to trim at the start
    }
    if b & 0x08 != 0 {
        at += 2; // and at the end
    }
    if b & 0x04 != 0 {
        at += 1 + usize::from(*bytes.get(at).ok_or(Short)?);
    }
    let packet = bytes.get(at..at + size).ok_or(Short)?;
    let samples = opus_samples(packet).ok_or(NotHere)?;
    Ok(Extent { header: at, length: at + size, sound: Sound::plain(48_000, channels), samples })
}

/// Returns the duration of an Opus packet in samples at 48 kHz (RFC 6716 section 3.1).
fn opus_samples(packet: &[u8]) -> Option<u32> {
    let (&toc, rest) = packet.split_first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first()? & 0x3f),
    };
    Some(frame * frames).filter(|samples| (1..=5760).contains(samples))
}

impl AudioCodec {
    /// Returns the tag bytes before each frame in a message (Adobe's FLV specification E.4.2, Enhanced RTMP v2).
    pub(super) fn tag(self, sound: &Sound) -> Vec<u8> {
        match self {
            AudioCodec::Aac | AudioCodec::AacLatm => vec![0xaf, 1],
            AudioCodec::Mp3 => {
                let rate = match sound.sample_rate {
                    0..=11_025 => 1,
                    11_026..=22_050 => 2,
                    _ => 3,
                };
                vec![0x20 | rate << 2 | 2 | u8::from(sound.channels > 1)]
            }
            AudioCodec::Ac3 => b"\x91ac-3".to_vec(),
            AudioCodec::Eac3 => b"\x91ec-3".to_vec(),
            AudioCodec::Opus { .. } => b"\x91Opus".to_vec(),
        }
    }

    /// Returns the message that a decoder needs first; `None` for codecs without one.
    pub(super) fn header(self, sound: &Sound) -> Option<Vec<u8>> {
        match self {
            AudioCodec::Aac | AudioCodec::AacLatm => Some([&[0xaf, 0][..], sound.config.as_deref()?].concat()),
            AudioCodec::Opus { channels } => {
                // The identification header of RFC 7845 section 5.1.
                let mut header = b"\x90OpusOpusHead\x01".to_vec();
                header.push(channels);
                header.extend(312u16.to_le_bytes()); // pre-skip
                header.extend(48_000u32.to_le_bytes());
                header.extend([0, 0, 0]); // gain, mapping family
                Some(header)
            }
            _ => None,
        }
    }

    /// Returns its number or code in `onMetaData`.
    pub(super) fn number(self) -> f64 {
        let code = |code: &[u8; 4]| f64::from(u32::from_be_bytes(*code));
        match self {
            AudioCodec::Aac | AudioCodec::AacLatm => 10.0,
            AudioCodec::Mp3 => 2.0,
            AudioCodec::Ac3 => code(b"ac-3"),
            AudioCodec::Eac3 => code(b"ec-3"),
            AudioCodec::Opus { .. } => code(b"Opus"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adts_frame(payload: usize) -> Vec<u8> {
        let length = 7 + payload;
        // AAC-LC, 48 kHz, stereo
        let mut frame =
            vec![0xff, 0xf1, 0x4c, 0x80 | (length >> 11) as u8, (length >> 3) as u8, (length << 5) as u8 | 0x1f, 0xfc];
        frame.extend(vec![payload as u8; payload]);
        frame
    }

    #[test]
    fn audio_frames_found_within_and_across_pes_packets() {
        let mut parser = AudioParser::new(AudioCodec::Aac);
        let bytes = [adts_frame(10), adts_frame(20), adts_frame(30)].concat();
        let (first, second) = bytes.split_at(50);
        let frames = parser.parse(first);
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].duration, frames[1].data.len(), frames[1].carried), (1920, 20, false));
        let frames = parser.parse(&[second, &adts_frame(5)].concat());
        assert_eq!(frames.iter().map(|f| (f.data.len(), f.carried)).collect::<Vec<_>>(), [(30, true), (5, false)]);
        assert_eq!(AudioCodec::Aac.header(&frames[0].sound).unwrap(), [0xaf, 0, 0x11, 0x90]);
        // Garbage before a frame is skipped.
        let frames = parser.parse(&[&[1, 2, 3][..], &adts_frame(9)].concat());
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn audio_headers_of_each_codec_parse() {
        let sound = |codec: AudioCodec, mut header: Vec<u8>| {
            header.resize(4000, 0);
            AudioParser::new(codec)
                .parse(&header)
                .first()
                .map(|f| (f.sound.sample_rate, f.sound.channels, f.data.len(), f.duration))
        };
        assert_eq!(sound(AudioCodec::Mp3, vec![0xff, 0xfb, 0x94, 0x00]), Some((48_000, 2, 384, 2160)));
        assert_eq!(sound(AudioCodec::Ac3, vec![0x0b, 0x77, 0, 0, 0x1c, 0x40, 0xe0]), Some((48_000, 5, 1536, 2880)));
        assert_eq!(sound(AudioCodec::Eac3, vec![0x0b, 0x77, 0, 0xff, 0x3e, 0x80, 0]), Some((48_000, 5, 512, 2880)));
        assert_eq!(sound(AudioCodec::Eac3, vec![0x0b, 0x77, 0, 0xff, 0xf4, 0x80, 0]), None, "reserved");
        let opus = [&[0x7f, 0xe0, 0xff, 0x05][..], &[0xfc; 260]].concat();
        assert_eq!(sound(AudioCodec::Opus { channels: 2 }, opus), Some((48_000, 2, 260, 1800)));
    }

    proptest::proptest! {
        #[test]
        fn audio_parser_survives_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..600), first in 0usize..4) {
            for codec in [AudioCodec::Aac, AudioCodec::AacLatm, AudioCodec::Mp3, AudioCodec::Ac3, AudioCodec::Eac3, AudioCodec::Opus { channels: 2 }] {
                let start: &[u8] = [&[0xff, 0xf1][..], &[0xff, 0xfb], &[0x0b, 0x77], &[0x7f, 0xe0]][first];
                let mut parser = AudioParser::new(codec);
                parser.parse(&[start, &data].concat());
                parser.parse(&data);
                proptest::prop_assert!(parser.rest.len() <= MAX_REST);
            }
        }
    }
}
