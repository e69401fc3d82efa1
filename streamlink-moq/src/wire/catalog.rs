//! The catalog of a flow's broadcast: MSF (draft-ietf-moq-msf-01, Catalog), with the fields of MPEG-TS
//! (draft-gregoire-moq-msfts-02, Catalog) and one of this library.

use super::MEDIA_TRACK;
use serde::{Deserialize, Serialize};
use streamlink_core::{InputProtocol, MediaFamily, PeerText};

/// Version of MSF that catalogs are written for.
const MSF_VERSION: &str = "draft-01";
/// Version of this library's own field.
const OWN_VERSION: u32 = 1;
/// Packaging of MPEG-TS (draft-gregoire-moq-msfts-02, Media Packaging).
const MPEG2TS: &str = "mpeg2ts";
/// Packaging of the same in the draft's first version.
const M2TS: &str = "m2ts";
/// Packaging of packets with their boundaries.
const FRAMED: &str = "streamlink-packets";
/// Maximum size of a catalog that is read, in bytes.
const MAX_CATALOG: usize = 256 << 10;
/// Maximum number of tracks of a catalog that is read.
const MAX_TRACKS: usize = 64;
/// Maximum length of an SDP, in bytes.
const MAX_SDP: usize = 64 << 10;

/// Description of a flow's broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Catalog {
    /// The track that carries the media.
    pub media: MediaTrack,
}

/// Description of the track that carries the media.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MediaTrack {
    /// Name of the track.
    pub name: String,
    /// Protocol of the flow's source. `Datagrams app` for the MPEG-TS of a publisher that is not of this library.
    pub input: InputProtocol,
    /// `true` if the packets are MPEG-TS, carried byte for byte.
    pub is_transport_stream: bool,
    /// `true` if the MPEG-TS has more than one program.
    pub has_several_programs: bool,
    /// SDP (RFC 8866) of a source of family RTSP.
    pub sdp: Option<String>,
}

impl MediaTrack {
    /// Returns the family of the packets.
    pub fn family(&self) -> MediaFamily {
        self.input.family()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    version: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generated_at: Option<u64>,
    #[serde(default)]
    tracks: Vec<Track>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Track {
    name: String,
    packaging: String,
    #[serde(default)]
    is_live: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mime_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "mpeg2tsPacketSize")]
    packet_size: Option<u64>,
    #[serde(default, skip_serializing, rename = "m2tsPacketSize")]
    old_packet_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "mpeg2tsMode")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    streamlink: Option<Own>,
}

/// The field of this library.
#[derive(Serialize, Deserialize)]
struct Own {
    version: u32,
    input: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sdp: Option<String>,
}

impl Catalog {
    /// Describes the broadcast of a flow with a source of a protocol.
    pub(crate) fn new(input: InputProtocol, is_transport_stream: bool) -> Self {
        let media = MediaTrack {
            name: MEDIA_TRACK.to_owned(),
            input,
            is_transport_stream,
            has_several_programs: false,
            sdp: None,
        };
        Self { media }
    }

    /// Writes the catalog, with the time at which it was made in milliseconds since 1970.
    pub(crate) fn to_json(&self, generated_at: u64) -> Vec<u8> {
        let own = Own { version: OWN_VERSION, input: self.media.input.to_string(), sdp: self.media.sdp.clone() };
        let mut track =
            Track { name: self.media.name.clone(), is_live: true, streamlink: Some(own), ..Track::default() };
        if self.media.is_transport_stream {
            let mode = if self.media.has_several_programs { "unmodified-multiplex" } else { "unmodified-program" };
            track.packaging = MPEG2TS.to_owned();
            track.mime_type = Some("video/mp2t".to_owned());
            track.packet_size = Some(188);
            track.mode = Some(mode.to_owned());
        } else {
            track.packaging = FRAMED.to_owned();
        }
        let document = Document { version: MSF_VERSION.into(), generated_at: Some(generated_at), tracks: vec![track] };
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads a catalog from a relay: the first track of media that this library can carry on.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn parse(json: &[u8]) -> Result<Self, PeerText> {
        if json.len() > MAX_CATALOG {
            return Err("the catalog is larger than 256 KiB".into());
        }
        let document: Document = serde_json::from_slice(json).map_err(|error| PeerText::new(error.to_string()))?;
        // Version 1 is that of MSF's first drafts.
        let is_known = match &document.version {
            serde_json::Value::String(text) => text.starts_with("draft-") || text == "1",
            serde_json::Value::Number(number) => number.as_u64() == Some(1),
            _ => false,
        };
        if !is_known {
            return Err(PeerText::new(format!("MSF version {} is not known", document.version)));
        }
        let tracks = document.tracks.into_iter().take(MAX_TRACKS);
        let mut reason = PeerText::new("the catalog names no track that can be carried on");
        for track in tracks {
            match track.media() {
                Ok(media) => return Ok(Self { media }),
                Err(Some(why)) => reason = why,
                Err(None) => {}
            }
        }
        Err(reason)
    }
}

impl Track {
    /// Returns what the track carries; an error without text is a track of another kind.
    fn media(self) -> Result<MediaTrack, Option<PeerText>> {
        let is_transport_stream = self.packaging == MPEG2TS || self.packaging == M2TS;
        if !is_transport_stream && self.packaging != FRAMED {
            return Err(None);
        }
        if self.name.is_empty() || self.name.len() > 256 {
            return Err(Some("a track has no name, or one of more than 256 bytes".into()));
        }
        if is_transport_stream && self.packet_size.or(self.old_packet_size).is_some_and(|size| size != 188) {
            return Err(Some("MPEG-TS with a prefix before each packet is not supported".into()));
        }
        let mode = self.mode.as_deref();
        if mode == Some("es-packets") {
            return Err(Some("MPEG-TS in one track for each stream is not supported".into()));
        }
        let (input, sdp) = match self.streamlink {
            Some(own) if own.version == OWN_VERSION => {
                let input: InputProtocol =
                    own.input.parse().map_err(|_| Some("the protocol of the source is not known".into()))?;
                (input, own.sdp)
            }
            Some(_) => return Err(Some("the broadcast is of a newer version of this library".into())),
            None if is_transport_stream => (InputProtocol::App(MediaFamily::Datagrams), None),
            None => return Err(None),
        };
        if is_transport_stream && input.family() != MediaFamily::Datagrams {
            return Err(Some("MPEG-TS of a source that does not carry datagrams".into()));
        }
        if sdp.as_ref().is_some_and(|sdp| sdp.len() > MAX_SDP) {
            return Err(Some("the SDP is longer than 64 KiB".into()));
        }
        Ok(MediaTrack {
            name: self.name,
            input,
            is_transport_stream,
            has_several_programs: mode == Some("unmodified-multiplex"),
            sdp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_is_read_as_written() {
        for input in InputProtocol::ALL {
            let is_ts = input.family() == MediaFamily::Datagrams;
            let mut catalog = Catalog::new(*input, is_ts);
            catalog.media.has_several_programs = is_ts;
            catalog.media.sdp = (input.family() == MediaFamily::Rtsp).then(|| "v=0\r\n".to_owned());
            assert_eq!(Catalog::parse(&catalog.to_json(1)), Ok(catalog));
        }
    }

    #[test]
    fn catalog_of_another_publisher_is_read() {
        let other = br#"{"version":1,"tracks":[{"name":"a","packaging":"loc","isLive":true},
            {"name":"p","packaging":"m2ts","m2tsPacketSize":188,"isLive":true,"role":"video"}]}"#;
        let catalog = Catalog::parse(other).unwrap();
        assert_eq!((catalog.media.name.as_str(), catalog.media.family()), ("p", MediaFamily::Datagrams));
    }

    #[test]
    fn catalog_refuses_what_cannot_be_carried_on() {
        for json in [
            &b""[..],
            b"[]",
            br#"{"version":"2","tracks":[]}"#,
            br#"{"tracks":[]}"#,
            br#"{"version":"draft-01","tracks":[]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"p","packaging":"mpeg2ts","mpeg2tsPacketSize":192}]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"p","packaging":"mpeg2ts","mpeg2tsMode":"es-packets"}]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"m","packaging":"streamlink-packets"}]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"m","packaging":"streamlink-packets",
                "streamlink":{"version":2,"input":"RTP"}}]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"m","packaging":"streamlink-packets",
                "streamlink":{"version":1,"input":"WHIP"}}]}"#,
            br#"{"version":"draft-01","tracks":[{"name":"m","packaging":"mpeg2ts",
                "streamlink":{"version":1,"input":"RTMP"}}]}"#,
        ] {
            assert!(Catalog::parse(json).is_err(), "{}", String::from_utf8_lossy(json));
        }
        let huge = [&br#"{"version":"draft-01","x":""#[..], &vec![b'x'; MAX_CATALOG]].concat();
        assert!(Catalog::parse(&huge).is_err());
    }
}
