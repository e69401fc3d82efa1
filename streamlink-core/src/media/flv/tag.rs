//! The first bytes of audio and video messages (Adobe's FLV specification 10.1, annex E; Enhanced RTMP v2,
//! "Enhanced Audio" and "Enhanced Video").

use crate::media::RtmpKind;

/// The codec of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Codec {
    /// The SoundFormat of a legacy audio tag.
    LegacyAudio(u8),
    /// The CodecID of a legacy video tag.
    LegacyVideo(u8),
    /// The FourCC of an enhanced tag.
    FourCc([u8; 4]),
    /// Several tracks, each with a codec of its own.
    Several,
}

impl Codec {
    /// Returns its common name.
    pub(crate) fn name(self) -> String {
        match (self, self.known_name()) {
            (_, Some(name)) => name.to_owned(),
            (Self::FourCc(code), None) => {
                code.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
            }
            _ => "other".to_owned(),
        }
    }

    /// Returns its common name, if it has one.
    pub(crate) fn known_name(self) -> Option<&'static str> {
        Some(match self {
            Self::LegacyAudio(format) => match format {
                2 | 14 => "MP3",
                7 => "G.711 A-law",
                8 => "G.711 µ-law",
                10 => "AAC",
                11 => "Speex",
                _ => "other audio",
            },
            Self::LegacyVideo(id) => match id {
                2 => "Sorenson H.263",
                4 | 5 => "VP6",
                7 => "H.264",
                12 => "HEVC",
                _ => "other video",
            },
            Self::FourCc(code) => match &code {
                b"avc1" => "H.264",
                b"hvc1" => "HEVC",
                b"vvc1" => "VVC",
                b"av01" => "AV1",
                b"vp08" => "VP8",
                b"vp09" => "VP9",
                b"mp4a" => "AAC",
                b".mp3" => "MP3",
                b"Opus" => "Opus",
                b"ac-3" => "AC-3",
                b"ec-3" => "E-AC-3",
                b"fLaC" => "FLAC",
                _ => return None,
            },
            Self::Several => "several tracks",
        })
    }
}

/// The role of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A header that a decoder needs before the first sample: a sequence header, colour information, channel layout.
    /// Headers of one track and number replace each other.
    Header { track: u8, number: u8 },
    /// A video sample from which decoding can start.
    Key,
    /// Any other sample.
    Sample,
    /// An end of sequence, or a command frame: nothing to decode.
    Other,
}

/// The parsed beginning of an audio or video message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) codec: Codec,
    pub(crate) role: Role,
    /// Number of the track, or of the first one in the message; `None` for messages that name no track, which are those
    /// of the main one.
    pub(crate) track: Option<u8>,
    /// Position of the coded data.
    pub(crate) data_at: usize,
    /// Presentation minus decoding time in milliseconds. 0 where a message has none, as with AV1, or has several tracks.
    pub(crate) composition: i32,
}

/// Maximum number of modifiers before the real packet type (Enhanced RTMP v2, "ModEx").
const MAX_MODIFIERS: usize = 8;

impl Tag {
    /// Parses the beginning of a message; `None` when it is too short.
    pub(crate) fn parse(kind: RtmpKind, body: &[u8]) -> Option<Self> {
        match kind {
            RtmpKind::Video => Self::video(body),
            RtmpKind::Audio => Self::audio(body),
            RtmpKind::Data => None,
        }
    }

    fn video(body: &[u8]) -> Option<Self> {
        let (&first, rest) = body.split_first()?;
        if first & 0x80 != 0 {
            let sample = match (first >> 4) & 0x07 {
                1 | 4 => Role::Key,
                5 => Role::Other, // a command
                _ => Role::Sample,
            };
            return enhanced(first & 0x0f, body, |packet_type| match packet_type {
                0 | 5 => Header(0), // sequence start, or that of MPEG-2 TS
                1 | 3 => Is(sample),
                4 => Header(1), // metadata, such as colour information
                _ => Is(Role::Other),
            });
        }
        let codec = Codec::LegacyVideo(first & 0x0f);
        let sample = match first >> 4 {
            1 | 4 => Role::Key,
            5 => Role::Other,
            _ => Role::Sample,
        };
        let has_nals = matches!(first & 0x0f, 7 | 12);
        let composition = if has_nals && rest.first() == Some(&1) { signed_24(body, 2) } else { 0 };
        let role = match (first & 0x0f, rest.first()) {
            (7 | 12, Some(0)) => Role::Header { track: 0, number: 0 },
            (7 | 12, Some(1)) => sample,
            (7 | 12, _) => Role::Other,
            _ => sample,
        };
        Some(Self { codec, role, track: None, data_at: if has_nals { 5 } else { 1 }, composition })
    }

    fn audio(body: &[u8]) -> Option<Self> {
        let (&first, rest) = body.split_first()?;
        if first >> 4 == 9 {
            return enhanced(first & 0x0f, body, |packet_type| match packet_type {
                0 => Header(0),
                1 => Is(Role::Sample),
                4 => Header(1), // channel layout
                _ => Is(Role::Other),
            });
        }
        let role = match (first >> 4, rest.first()) {
            (10, Some(0)) => Role::Header { track: 0, number: 0 },
            _ => Role::Sample,
        };
        Some(Self { codec: Codec::LegacyAudio(first >> 4), role, track: None, data_at: 1, composition: 0 })
    }
}

/// The role of a packet type of Enhanced RTMP.
enum Meaning {
    Header(u8),
    Is(Role),
}
use Meaning::{Header, Is};

const MULTITRACK_VIDEO: u8 = 6;
const MULTITRACK_AUDIO: u8 = 5;
const MODIFIER: u8 = 7;

fn enhanced(mut packet_type: u8, body: &[u8], meaning: impl Fn(u8) -> Meaning) -> Option<Tag> {
    let is_video = matches!(meaning(3), Is(Role::Key | Role::Sample));
    let mut rest = body.get(1..)?;
    // Modifiers: a size (a byte, less one; 255: two more bytes), data, and the next packet type.
    for _ in 0..MAX_MODIFIERS {
        if packet_type != MODIFIER {
            break;
        }
        let (&size, after) = rest.split_first()?;
        let (size, after) = match (size, after) {
            (255, [a, b, after @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])) + 1, after),
            (255, _) => return None,
            _ => (usize::from(size) + 1, after),
        };
        let (&next, after) = after.get(size..)?.split_first()?;
        packet_type = next & 0x0f;
        rest = after;
    }
    let multitrack = packet_type == if is_video { MULTITRACK_VIDEO } else { MULTITRACK_AUDIO };
    // 0: one track, 1: several of one codec, 2: several codecs.
    let mut several = false;
    if multitrack {
        let (&kind, after) = rest.split_first()?;
        packet_type = kind & 0x0f;
        several = kind >> 4 != 0;
        rest = after;
        if kind >> 4 > 1 {
            let role = role(meaning(packet_type), *rest.get(4)?);
            let track = rest.get(4).copied();
            return Some(Tag { codec: Codec::Several, role, track, data_at: body.len(), composition: 0 });
        }
    }
    let (code, mut rest) = rest.split_first_chunk::<4>()?;
    let mut track = None;
    if multitrack {
        let (&number, after) = rest.split_first()?;
        track = Some(number);
        rest = after;
    }
    // CodedFrames of these codecs have a composition time; CodedFramesX has none.
    let has_composition = is_video && !several && packet_type == 1 && matches!(code, b"avc1" | b"hvc1" | b"vvc1");
    let at = body.len() - rest.len(); // it is a part of it
    let composition = if has_composition { signed_24(body, at) } else { 0 };
    let data_at = match (several, has_composition) {
        (true, _) => body.len(),
        (_, true) => at + 3,
        _ => at,
    };
    let role = role(meaning(packet_type), track.unwrap_or_default());
    Some(Tag { codec: Codec::FourCc(*code), role, track, data_at, composition })
}

/// Reads a signed number of 24 bits; 0 if the body is too short.
fn signed_24(body: &[u8], at: usize) -> i32 {
    let field = body.get(at..).and_then(<[u8]>::first_chunk::<3>);
    field.map_or(0, |[a, b, c]| i32::from_be_bytes([*a, *b, *c, 0]) >> 8)
}

fn role(meaning: Meaning, track: u8) -> Role {
    match meaning {
        Header(number) => Role::Header { track, number },
        Is(role) => role,
    }
}

/// `@setDataFrame` as AMF0: sent by publishers to the server; not passed on to players.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
/// `onMetaData` as AMF0.
const ON_METADATA: &[u8] = b"\x02\x00\x0aonMetaData";

/// Returns the length of the `@setDataFrame` at the start of a publisher's data message, or 0.
pub(crate) fn set_data_frame(body: &[u8]) -> usize {
    if body.starts_with(SET_DATA_FRAME) { SET_DATA_FRAME.len() } else { 0 }
}

/// Returns whether a data message is `onMetaData`.
pub(crate) fn is_metadata(body: &[u8]) -> bool {
    body.starts_with(ON_METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(bytes: &[u8]) -> (Codec, Role) {
        let tag = Tag::parse(RtmpKind::Video, bytes).unwrap();
        (tag.codec, tag.role)
    }

    fn audio(bytes: &[u8]) -> (Codec, Role) {
        let tag = Tag::parse(RtmpKind::Audio, bytes).unwrap();
        (tag.codec, tag.role)
    }

    const HEADER: Role = Role::Header { track: 0, number: 0 };

    #[test]
    fn flv_legacy_tags_parse() {
        assert_eq!(video(&[0x17, 0, 0, 0, 0]), (Codec::LegacyVideo(7), HEADER));
        assert_eq!(video(&[0x17, 1, 0, 0, 0]).1, Role::Key);
        assert_eq!(video(&[0x27, 1, 0, 0, 0]).1, Role::Sample);
        assert_eq!(video(&[0x17, 2]).1, Role::Other);
        assert_eq!(video(&[0x1c, 1]), (Codec::LegacyVideo(12), Role::Key));
        assert_eq!(video(&[0x12, 1]).1, Role::Key);
        assert_eq!(video(&[0x57, 0]).1, HEADER);
        assert_eq!(audio(&[0xaf, 0, 0x12, 0x10]), (Codec::LegacyAudio(10), HEADER));
        assert_eq!(audio(&[0xaf, 1, 0]).1, Role::Sample);
        assert_eq!(audio(&[0x2f]).1, Role::Sample);
        assert_eq!(Tag::parse(RtmpKind::Audio, &[]), None);
    }

    #[test]
    fn flv_enhanced_tags_parse() {
        assert_eq!(video(b"\x90hvc1"), (Codec::FourCc(*b"hvc1"), HEADER));
        assert_eq!(video(b"\x91hvc1\0\0\0").1, Role::Key);
        assert_eq!(video(b"\xa3av01").1, Role::Sample);
        assert_eq!(video(b"\x94hvc1").1, Role::Header { track: 0, number: 1 });
        assert_eq!(video(b"\x92hvc1").1, Role::Other);
        assert_eq!(audio(b"\x90Opus"), (Codec::FourCc(*b"Opus"), HEADER));
        assert_eq!(audio(b"\x91Opus").1, Role::Sample);
        // One track (number 3) of several; a nanosecond offset before the packet type.
        assert_eq!(video(b"\x96\x00avc1\x03"), (Codec::FourCc(*b"avc1"), Role::Header { track: 3, number: 0 }));
        assert_eq!(video(b"\x96\x21avc1\x01"), (Codec::Several, Role::Key));
        assert_eq!(video(b"\x97\x02abc\x01vp09").1, Role::Key);
        assert_eq!(audio(b"\x95\x01Opus\x02"), (Codec::FourCc(*b"Opus"), Role::Sample));
        assert_eq!(Tag::parse(RtmpKind::Video, b"\x97\xff\xff\xff").map(|t| t.role), None);
        assert_eq!(Codec::FourCc(*b"av01").name(), "AV1");
    }

    #[test]
    fn flv_composition_times_are_signed() {
        let composition_time = |body: &[u8]| Tag::parse(RtmpKind::Video, body).map_or(0, |tag| tag.composition);
        assert_eq!(composition_time(&[0x27, 1, 0, 0, 80, 9]), 80);
        assert_eq!(composition_time(&[0x27, 1, 0xff, 0xff, 0xfe]), -2);
        assert_eq!(composition_time(b"\x91hvc1\0\x01\x00"), 256);
        assert_eq!(composition_time(b"\x91av01\0\x01\x00"), 0);
        assert_eq!(composition_time(b"\x93hvc1\0\x01\x00"), 0);
        assert_eq!(composition_time(b"\x96\x01avc1\x01\0\0\x28"), 40);
        assert_eq!(composition_time(b"\xa7\x02abc\x01hvc1\0\0\x50"), 80);
        assert_eq!(composition_time(&[0x27, 0, 0, 0, 80]) + composition_time(&[]), 0);
    }

    #[test]
    fn flv_tags_tell_track_and_place_of_data() {
        let place = |body: &[u8]| Tag::parse(RtmpKind::Video, body).map(|tag| (tag.track, tag.data_at)).unwrap();
        assert_eq!(place(&[0x17, 1, 0, 0, 0, 9]), (None, 5));
        assert_eq!(place(b"\x91hvc1\0\0\0D"), (None, 8));
        assert_eq!(place(b"\x93hvc1D"), (None, 5));
        assert_eq!(place(b"\x96\x01avc1\x02\0\0\0D"), (Some(2), 10));
        assert_eq!(place(b"\x96\x03avc1\x02D"), (Some(2), 7));
        assert_eq!(place(b"\x96\x11avc1\x02\0\0\x01D").0, Some(2));
    }

    #[test]
    fn flv_metadata_recognised_with_and_without_set_data_frame() {
        let body = b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08";
        let bare = &body[set_data_frame(body)..];
        assert!(is_metadata(bare));
        assert_eq!(set_data_frame(bare), 0);
    }

    proptest::proptest! {
        #[test]
        fn flv_tag_parser_survives_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..30)) {
            Tag::parse(RtmpKind::Video, &bytes);
            Tag::parse(RtmpKind::Audio, &bytes);
        }
    }
}
