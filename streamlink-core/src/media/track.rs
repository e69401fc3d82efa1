//! Description of one track of media, for statistics.

use std::{fmt, time::Duration};

/// Name that lives for ever. A field of this type is not borrowed when it is deserialized, as one of `&str` would be.
type StaticText = &'static str;

/// One track of media: what it holds, and whether it is carried.
///
/// Fields that are not known, or that its kind does not have, are `None` or 0.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct MediaTrack {
    /// Packet identifier of an elementary stream of MPEG-TS, 0–8191.
    pub pid: u16,
    /// Program number (service id) that names the elementary stream.
    pub program: u16,
    /// Number of the track in RTMP (0 is the main one), or of its section in the SDP of RTSP (from 0).
    pub track: Option<u16>,
    /// Name of the codec, as in `H.264`.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::serial::known_text"))]
    pub codec: StaticText,
    /// Name of the profile, as in `High`.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::serial::optional_known_text"))]
    pub profile: Option<StaticText>,
    /// Width of the picture, in pixels.
    pub width: u32,
    /// Height of the picture, in pixels.
    pub height: u32,
    /// Pictures per second: measured, or as the stream says.
    pub frame_rate: Option<f64>,
    /// Sample rate of the sound, in Hz.
    pub sample_rate: u32,
    /// Number of channels of the sound.
    pub channels: u8,
    /// Bits per second of its payload, over the last second or so.
    pub bit_rate: u64,
    /// Reason why it is left out; `None` if it is carried.
    pub left_out: Option<LeftOut>,
}

/// Returns the bit rate of so many bytes over a time.
pub(crate) fn bits_per_second(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 8000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// Reason why a track is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LeftOut {
    /// RTMP has no carriage for its codec.
    NoCarriage,
    /// The packets of the stream are scrambled.
    Scrambled,
    /// Part of a program that is not chosen.
    OtherProgram,
    /// Another stream of the same kind is carried.
    OtherTrack,
    /// No frame, or no configuration of the decoder, can be read.
    Unreadable,
    /// No picture with which decoding can begin has come yet.
    NotDecodable,
    /// The server of an RTSP source refuses it.
    Refused,
    /// The sound that the receiver of an RTSP presentation is to send, as to the loudspeaker of a camera.
    BackChannel,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCarriage => "no carriage in RTMP",
            Self::Scrambled => "scrambled",
            Self::OtherProgram => "another program",
            Self::OtherTrack => "another track is carried",
            Self::Unreadable => "unreadable",
            Self::NotDecodable => "not decodable before a key frame",
            Self::Refused => "refused by the server",
            Self::BackChannel => "back channel",
        })
    }
}
