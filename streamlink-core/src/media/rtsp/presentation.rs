//! A presentation: the SDP (RFC 8866) of a publisher, and the tracks in it.

use super::sdp::{Media, Sdp};
use crate::media::{LeftOut, MediaTrack, entry_point::NalCodec, remux::describe_video};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use std::{fmt::Write, sync::Arc};

/// Maximum number of parameter sets of one track.
const MAX_PARAMETER_SETS: usize = 16;
/// Maximum length of a parameter set that is kept, in bytes: one that fits a packet.
const MAX_PARAMETER_SET: usize = 1400;

/// A publisher's announcement, with at least one track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presentation {
    sdp: String,
    tracks: Vec<Track>,
    /// The control attribute of the session; empty when the SDP has none.
    control: String,
    /// Codecs of the tracks that were left out, each with the reason, also in words.
    left_out: Vec<(&'static str, LeftOut, String)>,
}

/// One track: a media section of the SDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Track {
    /// The control attribute: the track's name in requests; empty when the SDP has none.
    pub(crate) control: String,
    /// `video`, `audio`, …
    pub(crate) media: String,
    /// The receiver of the presentation is to send this track (`a=sendonly`), as to the loudspeaker of a camera.
    pub(crate) is_back_channel: bool,
    /// As in `a=rtpmap`, in capitals: `H264`, `OPUS`; empty when unknown.
    pub(crate) encoding: String,
    /// In Hz.
    pub(crate) clock_rate: u32,
    /// Encoding, clock rate and channels, as in `a=rtpmap`: `OPUS/48000/2`.
    form: String,
    /// Parameter sets from the SDP (RFC 6184 section 8.1, RFC 7798 section 7.1), which a decoder needs before the first
    /// picture.
    pub(crate) parameter_sets: Vec<Bytes>,
    /// The payload type of its packets, if there is only one.
    pub(crate) payload_type: Option<u8>,
    /// Set if packets come with another payload type, and are rewritten to this one.
    pub(crate) is_renumbered: bool,
    /// The attributes that a player depends on, except for parameter sets and payload type.
    terms: Vec<String>,
}

/// Returns the `a=fmtp` parameters that affect the parsing of an encoding's packets; the others repeat the stream, or
/// are informative. `None` for an unknown encoding, of which all parameters count.
fn reading_terms(encoding: &str) -> Option<&'static [&'static str]> {
    match encoding {
        "H264" => Some(&["packetization-mode"]), // RFC 6184 section 8.1
        "H265" => Some(&["sprop-max-don-diff"]), // RFC 7798 section 7.1
        "MPEG4-GENERIC" => Some(&["mode", "sizelength", "indexlength", "indexdeltalength", "config"]), // RFC 3640
        "MP4A-LATM" => Some(&["cpresent", "config"]), // RFC 6416 section 7.3
        "OPUS" | "PCMU" | "PCMA" | "G722" | "L16" | "MPA" | "MPV" | "MP2T" | "AV1" | "VP8" | "VP9" => Some(&[]),
        _ => None,
    }
}

/// The end of an AudioSpecificConfig that signals the absence of SBR (ISO/IEC 14496-3 section 1.6.5.2). Some encoders
/// omit it.
const NO_SBR: &str = "56e500";

/// Base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Returns the `a=fmtp` parameters of the payload types of a media section.
fn parameters(media: &Media) -> impl Iterator<Item = (&str, &str)> {
    let lines = media.attributes("fmtp").filter_map(|line| line.split_once(' '));
    let lines = lines.filter(|(payload_type, _)| media.formats.iter().any(|format| format == payload_type));
    let fields = lines.flat_map(|(_, fields)| fields.split(';')).map(str::trim).filter(|field| !field.is_empty());
    fields.map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (name.trim(), value.trim())
    })
}

fn parameter_sets(media: &Media) -> Vec<Bytes> {
    let sets = parameters(media).filter(|(name, _)| name.to_ascii_lowercase().starts_with("sprop-"));
    let sets = sets.flat_map(|(_, value)| value.split(',')).filter_map(|set| BASE64.decode(set.trim()).ok());
    sets.filter(|set| (1..=MAX_PARAMETER_SET).contains(&set.len())).take(MAX_PARAMETER_SETS).map(Bytes::from).collect()
}

fn terms(media: &Media, encoding: &str, form: &str, payload_type: Option<u8>) -> Vec<String> {
    let mut terms = vec![format!("{} {} {form}", media.kind, media.proto)];
    if payload_type.is_none() {
        terms.push(media.formats.join(" "));
    }
    match reading_terms(encoding) {
        None => terms.extend(parameters(media).map(|(name, value)| format!("{name}={value}"))),
        Some(names) => {
            let named = parameters(media).map(|(name, value)| (name.to_lowercase(), value.trim().to_lowercase()));
            terms.extend(named.filter(|(name, _)| names.contains(&name.as_str())).map(|(name, value)| {
                let value = value.strip_suffix(NO_SBR).filter(|_| name == "config").unwrap_or(&value);
                format!("{name}={value}")
            }));
        }
    }
    terms.sort_unstable();
    terms
}

/// Returns encoding and clock rate of the payload types that need no `a=rtpmap` (RFC 3551 section 6).
fn well_known(payload_type: u8) -> (&'static str, u32) {
    match payload_type {
        0 => ("PCMU", 8_000),
        3 => ("GSM", 8_000),
        4 => ("G723", 8_000),
        5 => ("DVI4", 8_000),
        6 => ("DVI4", 16_000),
        7 => ("LPC", 8_000),
        8 => ("PCMA", 8_000),
        9 => ("G722", 8_000),
        10 | 11 => ("L16", 44_100),
        12 => ("QCELP", 8_000),
        13 => ("CN", 8_000),
        14 => ("MPA", 90_000),
        15 => ("G728", 8_000),
        16 => ("DVI4", 11_025),
        17 => ("DVI4", 22_050),
        18 => ("G729", 8_000),
        25 => ("CELB", 90_000),
        26 => ("JPEG", 90_000),
        28 => ("NV", 90_000),
        31 => ("H261", 90_000),
        32 => ("MPV", 90_000),
        33 => ("MP2T", 90_000),
        34 => ("H263", 90_000),
        _ => ("", 90_000),
    }
}

/// Returns the `a=rtpmap` of the first payload type of a media section, without the type. A map of another type counts
/// if it is the only one, and the type is dynamic.
fn map_of(media: &Media, payload_type: u8) -> Option<&str> {
    let maps = || media.attributes("rtpmap").filter_map(|map| map.split_once(' '));
    let own = maps().find(|(number, _)| number.parse() == Ok(payload_type));
    let only = || maps().next().filter(|_| (96..128).contains(&payload_type) && maps().count() == 1);
    own.or_else(only).map(|(_, map)| map)
}

impl Track {
    fn new(media: &Media) -> Self {
        let first = media.formats.first();
        let payload_type = first.and_then(|format| format.parse().ok()).unwrap_or(u8::MAX);
        let (mut encoding, mut clock_rate) = well_known(payload_type);
        let map = map_of(media, payload_type);
        if let Some(map) = map {
            let mut parts = map.split('/');
            encoding = parts.next().unwrap_or_default();
            clock_rate = parts.next().and_then(|rate| rate.parse().ok()).unwrap_or(clock_rate);
        }
        let encoding = encoding.to_ascii_uppercase();
        let two_channels = payload_type == 10; // the one static type that has them (RFC 3551 table 4)
        let channels = map.map_or(if two_channels { "2" } else { "" }, |map| map.split('/').nth(2).unwrap_or(""));
        let form = match channels {
            "" | "1" => format!("{encoding}/{clock_rate}"),
            channels => format!("{encoding}/{clock_rate}/{channels}"),
        };
        let only_type = first.filter(|_| media.formats.len() == 1 && payload_type < 128).map(|_| payload_type);
        let is_video = matches!(encoding.as_str(), "H264" | "H265");
        Self {
            control: media.attribute("control").unwrap_or_default().to_owned(),
            media: media.kind.clone(),
            is_back_channel: media.attribute("sendonly").is_some(),
            clock_rate: clock_rate.max(1),
            parameter_sets: if is_video { parameter_sets(media) } else { Vec::new() },
            terms: terms(media, &encoding, &form, only_type),
            form,
            payload_type: only_type,
            is_renumbered: false,
            encoding,
        }
    }

    /// Returns whether the track is neither picture nor sound, but for example metadata.
    pub(crate) fn is_data(&self) -> bool {
        !matches!(self.media.as_str(), "video" | "audio")
    }

    /// Returns the name of the encoding for display.
    fn name(&self) -> String {
        match (self.known_name(), self.encoding.as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, "") => self.media.clone(),
            (None, other) => other.to_owned(),
        }
    }

    /// Returns the common name of the encoding, if it has one.
    fn known_name(&self) -> Option<&'static str> {
        Some(match self.encoding.as_str() {
            "H264" => "H.264",
            "H265" => "HEVC",
            "H266" => "VVC",
            "MPEG4-GENERIC" | "MP4A-LATM" => "AAC",
            "OPUS" => "Opus",
            "PCMU" => "G.711 µ-law",
            "PCMA" => "G.711 A-law",
            "VND.ONVIF.METADATA" => "ONVIF metadata",
            "AV1" => "AV1",
            "VP8" => "VP8",
            "VP9" => "VP9",
            "JPEG" => "JPEG",
            "G722" => "G722",
            "G726-32" => "G726-32",
            "L16" => "L16",
            "MPA" => "MPA",
            "MPV" => "MPV",
            "MP2T" => "MP2T",
            "AC3" => "AC3",
            _ => return None,
        })
    }

    /// Returns what the description tells of the track, with its number.
    fn described(&self, number: u16) -> MediaTrack {
        let mut media =
            MediaTrack { track: Some(number), codec: self.known_name().unwrap_or("other"), ..MediaTrack::default() };
        let codec = match self.encoding.as_str() {
            "H264" => Some((NalCodec::H264, 0x1f, 7)),
            "H265" => Some((NalCodec::Hevc, 0x7e, 66)),
            _ => None,
        };
        if let Some((codec, mask, kind)) = codec {
            let set = self.parameter_sets.iter().find(|set| set.first().is_some_and(|head| head & mask == kind));
            describe_video(&mut media, codec, set.map(|set| &set[..]).unwrap_or_default());
        } else if self.media == "audio" {
            media.sample_rate = match self.encoding.as_str() {
                "G722" => 16_000, // its clock is half of that, by an old mistake (RFC 3551 section 4.5.2)
                "MPA" => 0,       // 90 kHz, whatever it is sampled with
                _ => self.clock_rate,
            };
            media.channels = self.form.split('/').nth(2).map_or(1, |channels| channels.parse().unwrap_or(0));
        }
        media
    }
}

impl Presentation {
    /// Parses an SDP.
    ///
    /// # Errors
    /// The reason, with the number of the line.
    pub(crate) fn parse(sdp: &[u8]) -> Result<Self, String> {
        let sdp = Sdp::parse(sdp)?;
        let tracks = sdp.media.iter().map(Track::new).collect();
        let control = sdp.attribute("control").unwrap_or_default().to_owned();
        Ok(Self { sdp: sdp.to_text(), tracks, control, left_out: Vec::new() })
    }

    /// Returns the control attribute of the session; empty when the SDP has none.
    pub(crate) fn session_control(&self) -> &str {
        &self.control
    }

    /// Returns this presentation without a track, for the reason given.
    pub(crate) fn without(&self, track: usize, why: LeftOut, reason: &str) -> Self {
        let mut section = None;
        let mut rest = self.clone();
        rest.sdp.clear();
        for line in self.sdp.lines() {
            if line.starts_with("m=") {
                section = Some(section.map_or(0, |number: usize| number + 1));
            }
            if section != Some(track) {
                rest.sdp.push_str(line);
                rest.sdp.push_str("\r\n");
            }
        }
        if track < rest.tracks.len() {
            let gone = rest.tracks.remove(track);
            let codec = gone.known_name().unwrap_or("other");
            rest.left_out.push((codec, why, format!("{} ({reason})", gone.name())));
        }
        rest
    }

    pub(crate) fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Returns whether a player of one can continue with the other: the same tracks, coded alike.
    pub(crate) fn is_compatible_with(&self, other: &Self) -> bool {
        let terms = |p: &Self| p.tracks.iter().map(|track| track.terms.clone()).collect::<Vec<_>>();
        self == other || terms(self) == terms(other)
    }

    /// Returns this presentation with the payload types of `other`, if they are compatible.
    pub(crate) fn as_continued_from(self: &Arc<Self>, other: Option<&Self>) -> Arc<Self> {
        let Some(other) = other.filter(|other| self.is_compatible_with(other)) else { return self.clone() };
        let wanted = |track: usize| {
            let known = other.tracks.get(track).and_then(|track| track.payload_type);
            known.zip(self.tracks.get(track)).filter(|(known, own)| own.payload_type != Some(*known))
        };
        if (0..self.tracks.len()).all(|track| wanted(track).is_none()) {
            return self.clone();
        }
        let mut sdp = String::with_capacity(self.sdp.len() + 64);
        let mut section = None;
        // Writing to a String does not fail.
        for line in self.sdp.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let begins = line.starts_with("m=");
            if begins {
                section = Some(section.map_or(0, |number: usize| number + 1));
            }
            let Some((known, own)) = section.and_then(wanted) else {
                let _ = write!(sdp, "{line}\r\n");
                continue;
            };
            let of_the_type = line.split_once(':').and_then(|(name, rest)| {
                let rest = rest.strip_prefix(&own.payload_type?.to_string())?;
                (matches!(name, "a=rtpmap" | "a=fmtp" | "a=rtcp-fb") && rest.starts_with(' ')).then_some((name, rest))
            });
            // A static type (RFC 3551 section 6) needs no map, but the one in its place may.
            let is_static = own.payload_type.is_some_and(|own| own < 96);
            let _ = match (begins.then(|| line.rsplit_once(' ')).flatten(), of_the_type) {
                (Some((head, _)), _) if is_static => {
                    write!(sdp, "{head} {known}\r\na=rtpmap:{known} {}\r\n", own.form)
                }
                (Some((head, _)), _) => write!(sdp, "{head} {known}\r\n"),
                (None, Some(("a=rtpmap", _))) if is_static => Ok(()),
                (None, Some((name, rest))) => write!(sdp, "{name}:{known}{rest}\r\n"),
                (None, None) => write!(sdp, "{line}\r\n"),
            };
        }
        let mut tracks = self.tracks.clone();
        for (number, track) in tracks.iter_mut().enumerate() {
            if let Some((known, _)) = wanted(number) {
                track.payload_type = Some(known);
                track.is_renumbered = true;
            }
        }
        Arc::new(Self { sdp, tracks, control: self.control.clone(), left_out: self.left_out.clone() })
    }

    /// Returns the SDP for players and servers: as it came, but for addresses, ports and track names.
    pub(crate) fn to_sdp(&self) -> String {
        let mut out = String::with_capacity(self.sdp.len() + 64);
        let mut section = None;
        // Writing to a String does not fail.
        for line in self.sdp.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if let Some(media) = line.strip_prefix("m=") {
                end_section(&mut out, section);
                section = Some(section.map_or(0, |number: usize| number + 1));
                // m=<media> <port> <proto> <fmt> …
                let mut fields = media.splitn(3, ' ');
                let kind = fields.next();
                fields.next(); // the port
                let rest = fields.next();
                let _ = write!(out, "m={} 0 {}\r\n", kind.unwrap_or_default(), rest.unwrap_or_default());
            } else if line.starts_with("o=") {
                out.push_str("o=- 0 0 IN IP4 127.0.0.1\r\n");
            } else if line.starts_with("c=") {
                out.push_str("c=IN IP4 0.0.0.0\r\n");
            } else if !line.starts_with("a=control:") {
                let _ = write!(out, "{line}\r\n");
            }
        }
        end_section(&mut out, section);
        out
    }

    /// Returns the name of a track in [`Presentation::to_sdp`].
    pub(crate) fn control(track: usize) -> String {
        format!("trackID={track}")
    }

    /// Returns the tracks, then those that were left out.
    pub(crate) fn media_tracks(&self) -> Vec<MediaTrack> {
        let carried = self.tracks.iter().zip(0..).map(|(track, number)| track.described(number));
        let left_out = self.left_out.iter();
        let left_out = left_out.map(|(codec, why, _)| MediaTrack { codec, left_out: Some(*why), ..Default::default() });
        carried.chain(left_out).collect()
    }

    /// Returns the encodings of the tracks, and those that were left out.
    pub(crate) fn description(&self) -> String {
        let mut text = self.tracks.iter().map(Track::name).collect::<Vec<_>>().join(", ");
        if !self.left_out.is_empty() {
            let names: Vec<&str> = self.left_out.iter().map(|(_, _, name)| name.as_str()).collect();
            text += &format!("; left out: {}", names.join(", "));
        }
        text
    }
}

/// Writes the control attribute at the end of a section of the SDP.
fn end_section(out: &mut String, section: Option<usize>) {
    // Writing to a String does not fail.
    let _ = match section {
        None => write!(out, "a=control:*\r\n"),
        Some(track) => write!(out, "a=control:{}\r\n", Presentation::control(track)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=No Name\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\na=tool:x\r\n\
        m=video 5000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:streamid=0\r\n\
        m=audio 0 RTP/AVP 97\r\nb=AS:128\r\na=rtpmap:97 MPEG4-GENERIC/48000/2\r\na=control:streamid=1\r\n\
        m=audio 0 RTP/AVP 0\r\n";

    #[test]
    fn sdp_tracks_parse_and_are_rewritten_for_players() {
        let presentation = Presentation::parse(SDP.as_bytes()).unwrap();
        let seen: Vec<_> = presentation.tracks().iter().map(|t| (&*t.control, &*t.encoding, t.clock_rate)).collect();
        assert_eq!(
            seen,
            [("streamid=0", "H264", 90_000), ("streamid=1", "MPEG4-GENERIC", 48_000), ("", "PCMU", 8_000)]
        );
        assert_eq!(presentation.description(), "H.264, AAC, G.711 µ-law");
        let sdp = presentation.to_sdp();
        assert!(
            !sdp.contains("192.0.2.1") && !sdp.contains("streamid") && sdp.contains("a=fmtp:96 packetization-mode=1")
        );
        assert!(sdp.contains("m=video 0 RTP/AVP 96\r\n") && sdp.contains("a=tool:x\r\na=control:*\r\nm=video"));
        let again = Presentation::parse(sdp.as_bytes()).unwrap();
        assert_eq!(again.tracks()[2].control, "trackID=2");
        assert!(Presentation::parse(b"v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\n").is_err());
    }

    #[test]
    fn sdp_of_another_encoder_is_compatible_if_coded_alike() {
        let with = |from: &str, to: &str| Presentation::parse(SDP.replace(from, to).as_bytes()).unwrap();
        let first = with("=1\r\na=c", "=1;sprop-parameter-sets=Z0I=,aM4=;profile-level-id=42e01f\r\na=c");
        assert_eq!(first.tracks()[0].parameter_sets, [&[0x67, 0x42][..], &[0x68, 0xce]]);
        let second = with("s=No Name", "s=Other");
        assert!(first.is_compatible_with(&second) && second.is_compatible_with(&first) && first != second);
        assert!(!with("packetization-mode=1", "packetization-mode=0").is_compatible_with(&second));
        assert!(!with("48000/2", "44100/2").is_compatible_with(&second));
    }

    #[test]
    fn sdp_continuation_keeps_payload_types() {
        let with = |from: &str, to: &str| Arc::new(Presentation::parse(SDP.replace(from, to).as_bytes()).unwrap());
        let known = with("s=No Name", "s=Known");
        let other = with("RTP/AVP 97\r\nb=AS:128\r\na=rtpmap:97", "RTP/AVP 98\r\nb=AS:128\r\na=rtpmap:98");
        assert!(other.is_compatible_with(&known));
        let seen = other.as_continued_from(Some(&known));
        assert_eq!(seen.sdp, SDP);
        let changed: Vec<_> = seen.tracks().iter().map(|track| (track.payload_type, track.is_renumbered)).collect();
        assert_eq!(changed, [(Some(96), false), (Some(97), true), (Some(0), false)]);
        let mapped = with("RTP/AVP 0\r\n", "RTP/AVP 100\r\na=rtpmap:100 PCMU/8000\r\n");
        let seen = other.as_continued_from(Some(&mapped));
        assert!(seen.sdp.ends_with("m=audio 0 RTP/AVP 100\r\na=rtpmap:100 PCMU/8000\r\n"), "{}", seen.sdp);
        assert!(Arc::ptr_eq(&other, &other.as_continued_from(None)));
    }

    #[test]
    fn sdp_of_gstreamer_and_ffmpeg_are_compatible() {
        let sdp = |video: &str, audio: &str| {
            let text = format!(
                "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                a=fmtp:96 {video}\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/1\r\na=fmtp:97 {audio}\r\n"
            );
            Presentation::parse(text.as_bytes()).unwrap()
        };
        let ffmpeg = sdp(
            "packetization-mode=1; sprop-parameter-sets=Z2QAHqzZ,aOl7LIs=; profile-level-id=64001E",
            "profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3; config=118856E500",
        );
        let gstreamer = sdp(
            "packetization-mode=1;sprop-parameter-sets=Z2QAHqzZ,aOl7LIs=;profile-level-id=64001e;level-asymmetry-allowed=1",
            "streamtype=5;profile-level-id=2;mode=AAC-hbr;config=1188;sizelength=13;indexlength=3;indexdeltalength=3",
        );
        assert!(gstreamer.is_compatible_with(&ffmpeg));
    }

    /// Descriptions of cameras and set-top servers, which the players of the field play.
    #[test]
    fn sdp_in_odd_forms_is_read() {
        let head = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n";
        let video = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n";
        let plain = format!("{head}{video}");
        let with = |from: &str, to: &str| plain.replace(from, to);
        for text in [
            plain.clone(),
            video.to_owned(),
            "v=0\r\no=- 1001 1 IN\r\ns=x\r\nm=video 0 RTP/AVP 96\r\nc=IN\r\na=control:track1\r\na=rtpmap:96 H264/90000\r\n".into(),
            with("s=cam", "c="),
            with("- 1 1", "- -8959200248001175080 1"),
            with("- 1 1", "[-2208991488 2208991488"),
            with("- 1 1", "- 1234567890123456789012345 0x1f"),
            with("t=0 0", "i="),
            with("t=0 0", "t=0\r\nr=\r\nb=AS 5000\r\nb=AS"),
            with("v=0\r\n", "v=0\r\ni=rtsp\r\njunk\r\n=\r\nX-Y=Z\r\n"),
            with("t=0 0", "a=control:*"),
            with("\r\n", "\n"),
            with("s=cam", "s= cam").replace("m=video", "M= Video").replace("96\r", "96 \r"),
            with("video 0", "video -1353744643"),
            with("video 0", "video 0/2"),
            with("a=rtpmap:96 H264/90000", "A=RTPMAP: 96  h264 / 90000"),
            with("a=control:track1", "a=control: track1 "),
            with("a=rtpmap:96", "a=rtpmap:97"),
            format!("\u{feff}{plain}\0"),
            format!("\r\n{plain}\r\nm=\r\n"),
            plain.trim_end().to_owned(),
        ] {
            let presentation = Presentation::parse(text.as_bytes()).unwrap();
            let [track] = presentation.tracks() else { panic!("{text}: {presentation:?}") };
            let seen = (&*track.media, &*track.encoding, track.clock_rate, &*track.control);
            assert_eq!(seen, ("video", "H264", 90_000, "track1"), "{text}");
            let written = presentation.to_sdp();
            assert!(written.starts_with("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns="), "{written}");
            assert!(written.contains("\r\nt=0 0\r\n") && written.contains("\r\nm=video 0 RTP/AVP 96\r\n"), "{written}");
            assert_eq!(Presentation::parse(written.as_bytes()).unwrap().to_sdp(), written);
        }
        let mut latin = plain.replace("s=cam", "s=@").into_bytes();
        let at = latin.iter().position(|byte| *byte == b'@').unwrap();
        latin[at] = 0xe9;
        assert!(Presentation::parse(&latin).unwrap().to_sdp().contains("s=\u{e9}\r\n"));
    }

    #[test]
    fn sdp_errors_name_the_line() {
        let no_media = Presentation::parse(b"v=0\r\ns=-\r\n").unwrap_err();
        assert_eq!(no_media, "no media section (`m=`) in 2 lines");
        let many = format!("v=0\n{}", "m=audio 0 RTP/AVP 0\n".repeat(17));
        assert_eq!(Presentation::parse(many.as_bytes()).unwrap_err(), "line 18: more than 16 media sections");
    }

    #[test]
    fn sdp_static_types_and_foreign_formats_are_known() {
        let sdp = "m=audio 0 RTP/AVP 18\nm=application/TP-LINK 0 RTP/AVP smart/1/90000\na=rtpmap:95 TP-LINK/90000\n\
            m=application 0 RTP/AVP 107\na=rtpmap:107 vnd.onvif.metadata/90000\nm=audio 0 RTP/AVP 0\na=sendonly\n\
            m=video 0 RTP/AVP 96\na=fmtp:97 sprop-parameter-sets=Z0I=\na=fmtp:96 sprop-parameter-sets = Z0I,aM4= ;x\n\
            a=rtpmap:96 H264/90000\n";
        let presentation = Presentation::parse(sdp.as_bytes()).unwrap();
        assert_eq!(presentation.description(), "G729, application/tp-link, ONVIF metadata, G.711 µ-law, H.264");
        let tracks = presentation.tracks();
        assert_eq!(tracks.iter().map(Track::is_data).collect::<Vec<_>>(), [false, true, true, false, false]);
        assert_eq!(tracks.iter().position(|track| track.is_back_channel), Some(3));
        assert_eq!((tracks[1].payload_type, tracks[4].parameter_sets.len()), (None, 2));
        let rest = presentation.without(3, LeftOut::BackChannel, "back channel").without(
            1,
            LeftOut::Refused,
            "SETUP refused: 461",
        );
        assert_eq!(rest.tracks().len(), 3);
        assert_eq!(
            rest.description(),
            "G729, ONVIF metadata, H.264; left out: G.711 µ-law (back channel), application/tp-link (SETUP refused: 461)"
        );
        let written = rest.to_sdp();
        assert!(!written.contains("sendonly") && !written.contains("smart"), "{written}");
        assert_eq!(Presentation::parse(written.as_bytes()).unwrap().tracks().len(), 3);
    }

    proptest::proptest! {
        #[test]
        fn sdp_parser_survives_any_text(text in "(v=0|o=- 1 1 IN IP4 1.1.1.1|s=-|t=0 0|m=video 0 RTP/AVP 96|a=.{0,20}|[a-z]=.{0,10}|\r\n|\n){0,30}") {
            if let Ok(presentation) = Presentation::parse(text.as_bytes()) {
                presentation.to_sdp();
            }
        }
    }
}
