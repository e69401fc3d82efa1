//! Audio: extracts frames of AAC (ADTS, LATM), MP3, AC-3, E-AC-3 and Opus from PES packets, and makes the headers that
//! decoders need first.

use super::aac::{self, AudioConfig};
use std::{collections::VecDeque, sync::Arc};

/// Maximum number of bytes of an incomplete frame kept from one PES packet to the next.
const MAX_REST: usize = 64 << 10;
/// Maximum number of timestamps that wait for their frame.
const MAX_STAMPS: usize = 64;

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
    /// The timestamp of the PES packet, if the frame is the first one that begins in it.
    pub(super) stamp: Option<u64>,
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
    /// Timestamps of PES packets, with the positions in `rest` where those begin, until a frame begins there.
    stamps: VecDeque<(usize, u64)>,
    /// No frame began where one should: the next one counts if another follows it.
    searches: bool,
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
        Self {
            codec,
            rest: Vec::new(),
            stamps: VecDeque::new(),
            searches: false,
            config: None,
            header: None,
            program: None,
            barren: 0,
            other_layer: None,
        }
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
        self.stamps.clear();
    }

    /// Extracts the frames from the data of a PES packet. `stamp`: its timestamp, if the packet begins here and has one.
    pub(super) fn parse(&mut self, data: &[u8], stamp: Option<u64>) -> Vec<Frame> {
        let mut bytes = std::mem::take(&mut self.rest);
        if let Some(stamp) = stamp {
            if self.stamps.len() >= MAX_STAMPS {
                self.stamps.pop_front();
            }
            self.stamps.push_back((bytes.len(), stamp));
        }
        bytes.extend_from_slice(data);
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.extent(rest, at) {
                Ok(extent) => {
                    let Some(data) = rest.get(extent.header..extent.length) else { break };
                    self.searches = false;
                    let stamp = self.stamp_of(at);
                    if let Some((sound, data, samples)) = self.frame(&extent, rest, data) {
                        let duration = i64::from(samples) * 90_000 / i64::from(sound.sample_rate.max(1));
                        frames.push(Frame { data, sound, duration, stamp });
                    }
                    at += extent.length;
                }
                Err(Short) => break,
                Err(NotHere) => {
                    self.searches = true;
                    at += 1; // search on for the next frame
                }
            }
        }
        bytes.drain(..at.min(bytes.len()));
        for (position, _) in &mut self.stamps {
            *position = position.saturating_sub(at);
        }
        if bytes.len() <= MAX_REST {
            self.rest = bytes;
        } else {
            self.stamps.clear();
        }
        self.barren = if frames.is_empty() { self.barren.saturating_add(data.len()) } else { 0 };
        frames
    }

    /// Takes the timestamp of the last PES packet that begins before this position, or there.
    fn stamp_of(&mut self, position: usize) -> Option<u64> {
        let mut found = None;
        while let Some((begin, stamp)) = self.stamps.front()
            && *begin <= position
        {
            found = Some(*stamp);
            self.stamps.pop_front();
        }
        found
    }

    /// Finds the frame that begins at this position, with these bytes.
    fn extent(&mut self, bytes: &[u8], position: usize) -> Result<Extent, Unreadable> {
        let mut found = self.codec.extent(bytes);
        // What looks like a frame in the midst of other data is one if another follows it, or the data ends with it.
        let is_stray = self.searches && self.stamps.iter().all(|(begin, _)| *begin != position);
        if is_stray
            && let Ok(extent) = &found
            && let Some(next) = bytes.get(extent.length..).filter(|next| !next.is_empty())
            && matches!(self.codec.extent(next), Err(NotHere))
        {
            found = Err(NotHere);
        }
        if self.codec == AudioCodec::Mp3 {
            self.count_other_layers(bytes, &found);
        }
        found
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

    /// Counts frames of MPEG audio that are not of layer III, where none of that layer was found.
    fn count_other_layers(&mut self, bytes: &[u8], found: &Result<Extent, Unreadable>) {
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
        // Behind the mode are two bits for each mix level, and the bit of the low frequency channel.
        let mode = g >> 5;
        let levels = u8::from(mode & 1 != 0 && mode != 1) + u8::from(mode & 4 != 0) + u8::from(mode == 2);
        channels = CHANNELS[usize::from(mode)] + (g >> (4 - 2 * levels) & 1);
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
    /// Finds the frame that begins here.
    fn extent(self, bytes: &[u8]) -> Result<Extent, Unreadable> {
        match self {
            Self::Aac => adts(bytes),
            // LOAS: a sync word and a length before each element (section 1.7.2).
            Self::AacLatm => loas(bytes),
            Self::Mp3 => mp3(bytes),
            Self::Ac3 | Self::Eac3 => ac3(bytes),
            Self::Opus { channels } => opus(bytes, channels),
        }
    }

    /// Returns the tag bytes before each frame in a message (Adobe's FLV specification E.4.2, Enhanced RTMP v2).
    pub(super) fn tag(self, sound: &Sound) -> Vec<u8> {
        match self {
            Self::Aac | Self::AacLatm => vec![0xaf, 1],
            Self::Mp3 => {
                let rate = match sound.sample_rate {
                    0..=11_025 => 1,
                    11_026..=22_050 => 2,
                    _ => 3,
                };
                vec![0x20 | rate << 2 | 2 | u8::from(sound.channels > 1)]
            }
            Self::Ac3 => b"\x91ac-3".to_vec(),
            Self::Eac3 => b"\x91ec-3".to_vec(),
            Self::Opus { .. } => b"\x91Opus".to_vec(),
        }
    }

    /// Returns the message that a decoder needs first; `None` for codecs without one.
    pub(super) fn header(self, sound: &Sound) -> Option<Vec<u8>> {
        match self {
            Self::Aac | Self::AacLatm => Some([&[0xaf, 0][..], sound.config.as_deref()?].concat()),
            Self::Opus { channels } => {
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
            Self::Aac | Self::AacLatm => 10.0,
            Self::Mp3 => 2.0,
            Self::Ac3 => code(b"ac-3"),
            Self::Eac3 => code(b"ec-3"),
            Self::Opus { .. } => code(b"Opus"),
        }
    }
}

#[cfg(test)]
mod tests;
