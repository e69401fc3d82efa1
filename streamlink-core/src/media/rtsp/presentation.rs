//! A presentation: the SDP (RFC 8866) of a publisher, and the tracks in it.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use sdp_types::{Media, Session};
use std::fmt::Write;

/// Tracks of one presentation at most.
const MAX_TRACKS: usize = 16;
/// Parameter sets of one track at most.
const MAX_PARAMETER_SETS: usize = 16;
/// The longest parameter set that is kept, in bytes: one that fits a packet.
const MAX_PARAMETER_SET: usize = 1400;

/// What a publisher has announced. Never without a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presentation {
    sdp: String,
    tracks: Vec<Track>,
}

/// One track: a section of media in the SDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Track {
    /// How requests name it, as the SDP has it; empty when it says nothing.
    pub(crate) control: String,
    /// `video`, `audio`, …
    pub(crate) media: String,
    /// As in `a=rtpmap`, in capitals: `H264`, `OPUS`; empty when it is not said.
    pub(crate) encoding: String,
    /// In Hz.
    pub(crate) clock_rate: u32,
    /// What a decoder needs before the first picture, where the SDP has it (RFC 6184 section 8.1, RFC 7798 section 7.1).
    pub(crate) parameter_sets: Vec<Bytes>,
    /// What a player goes by, except for that.
    terms: Vec<String>,
}

/// The parameters of `a=fmtp` that say what the parameter sets in the stream say too.
const IN_BAND: [&str; 5] = ["sprop-parameter-sets", "sprop-vps", "sprop-sps", "sprop-pps", "profile-level-id"];

fn parameters(media: &Media) -> impl Iterator<Item = (&str, &str)> {
    let lines = media.attributes.iter().filter(|a| a.attribute == "fmtp").filter_map(|a| a.value.as_deref());
    let fields = lines.filter_map(|line| line.split_once(' ')).flat_map(|(_, fields)| fields.split(';'));
    fields.map(|field| field.trim().split_once('=').unwrap_or((field.trim(), "")))
}

fn parameter_sets(media: &Media) -> Vec<Bytes> {
    let sets = parameters(media).filter(|(name, _)| name.starts_with("sprop-")).flat_map(|(_, value)| value.split(','));
    let sets = sets.filter_map(|set| BASE64_STANDARD.decode(set).ok());
    sets.filter(|set| (1..=MAX_PARAMETER_SET).contains(&set.len())).take(MAX_PARAMETER_SETS).map(Bytes::from).collect()
}

fn terms(media: &Media, is_video: bool) -> Vec<String> {
    let mut terms = vec![format!("{} {} {}", media.media, media.proto, media.fmt)];
    let maps = media.attributes.iter().filter(|a| a.attribute == "rtpmap").filter_map(|a| a.value.clone());
    terms.extend(maps);
    let kept = parameters(media).filter(|(name, _)| !(is_video && IN_BAND.contains(name)));
    terms.extend(kept.map(|(name, value)| format!("{name}={value}")));
    terms.sort_unstable();
    terms
}

/// What the payload types that need no `a=rtpmap` stand for (RFC 3551 section 6).
fn well_known(payload_type: u8) -> (&'static str, u32) {
    match payload_type {
        0 => ("PCMU", 8_000),
        8 => ("PCMA", 8_000),
        9 => ("G722", 8_000),
        10 | 11 => ("L16", 44_100),
        14 => ("MPA", 90_000),
        26 => ("JPEG", 90_000),
        32 => ("MPV", 90_000),
        33 => ("MP2T", 90_000),
        _ => ("", 90_000),
    }
}

impl Presentation {
    /// Reads an SDP.
    pub(crate) fn parse(sdp: &[u8]) -> Result<Self, &'static str> {
        let session = Session::parse(sdp).map_err(|_| "an SDP that cannot be read")?;
        if session.medias.is_empty() || session.medias.len() > MAX_TRACKS {
            return Err("an SDP without media, or with too much");
        }
        let sdp = String::from_utf8(sdp.to_vec()).map_err(|_| "an SDP that is not UTF-8")?;
        let tracks = session.medias.iter().map(|media| {
            let attribute = |name| media.get_first_attribute_value(name).flatten();
            let payload_type = media.fmt.split_whitespace().next().and_then(|t| t.parse().ok()).unwrap_or(u8::MAX);
            let (mut encoding, mut clock_rate) = well_known(payload_type);
            let map = attribute("rtpmap").and_then(|map| map.split_once(' ')).map(|(_, map)| map.trim());
            if let Some(map) = map {
                let mut parts = map.split('/');
                encoding = parts.next().unwrap_or_default();
                clock_rate = parts.next().and_then(|rate| rate.parse().ok()).unwrap_or(clock_rate);
            }
            let encoding = encoding.to_ascii_uppercase();
            let is_video = matches!(encoding.as_str(), "H264" | "H265");
            Track {
                control: attribute("control").unwrap_or_default().to_owned(),
                media: media.media.clone(),
                clock_rate: clock_rate.max(1),
                parameter_sets: if is_video { parameter_sets(media) } else { Vec::new() },
                terms: terms(media, is_video),
                encoding,
            }
        });
        let tracks = tracks.collect();
        Ok(Self { sdp, tracks })
    }

    pub(crate) fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Whether who plays one can go on with the other: the same tracks, coded alike.
    pub(crate) fn continues(&self, other: &Presentation) -> bool {
        let terms = |p: &Presentation| p.tracks.iter().map(|track| track.terms.clone()).collect::<Vec<_>>();
        self == other || terms(self) == terms(other)
    }

    /// The SDP for those who play from us, or to whom we announce it: as it came, but for the addresses, the ports and
    /// the names of the tracks.
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
                let (kind, _, rest) = (fields.next(), fields.next(), fields.next());
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

    /// The name of a track in [`Presentation::to_sdp`].
    pub(crate) fn control(track: usize) -> String {
        format!("trackID={track}")
    }

    /// What it consists of, for people.
    pub(crate) fn description(&self) -> String {
        let name = |track: &Track| match track.encoding.as_str() {
            "H264" => "H.264".to_owned(),
            "H265" => "HEVC".to_owned(),
            "MPEG4-GENERIC" | "MP4A-LATM" => "AAC".to_owned(),
            "OPUS" => "Opus".to_owned(),
            "PCMU" => "G.711 µ-law".to_owned(),
            "PCMA" => "G.711 A-law".to_owned(),
            "" => track.media.clone(),
            other => other.to_owned(),
        };
        self.tracks.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// Each part of the SDP names itself at its end.
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
    fn tracks_are_found_and_what_must_change_changes() {
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
    fn another_encoder_continues_what_is_coded_alike() {
        let with = |from: &str, to: &str| Presentation::parse(SDP.replace(from, to).as_bytes()).unwrap();
        let first = with("=1\r\na=c", "=1;sprop-parameter-sets=Z0I=,aM4=;profile-level-id=42e01f\r\na=c");
        assert_eq!(first.tracks()[0].parameter_sets, [&[0x67, 0x42][..], &[0x68, 0xce]]);
        let second = with("s=No Name", "s=Other");
        assert!(first.continues(&second) && second.continues(&first) && first != second);
        assert!(!with("RTP/AVP 97\r\nb=AS:128\r\na=rtpmap:97", "RTP/AVP 98\r\na=rtpmap:98").continues(&second));
        assert!(!with("packetization-mode=1", "packetization-mode=0").continues(&second));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(v=0|o=- 1 1 IN IP4 1.1.1.1|s=-|t=0 0|m=video 0 RTP/AVP 96|a=.{0,20}|[a-z]=.{0,10}|\r\n|\n){0,30}") {
            if let Ok(presentation) = Presentation::parse(text.as_bytes()) {
                presentation.to_sdp();
            }
        }
    }
}
