//! Random access among the RTP packets of a presentation: at key frames of H.264 (RFC 6184) and HEVC (RFC 7798), and
//! anywhere in a presentation without such a track.

use super::Presentation;
use crate::media::{Packet, flv::MessageRole};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    H264,
    Hevc,
    Other,
}

/// Follows the packets of a presentation.
#[derive(Debug, Default)]
pub(crate) struct RtspRandomAccessTracker {
    codecs: Vec<Codec>,
    /// The timestamp of the key frame in progress.
    key: Option<u32>,
    /// The last sender report of each track, by which players synchronise the tracks.
    reports: Vec<Option<Packet>>,
    /// The reports, made on demand after they have changed.
    preamble: Option<Arc<[Packet]>>,
}

impl RtspRandomAccessTracker {
    /// Begins another presentation.
    pub(crate) fn begin(&mut self, presentation: &Presentation) {
        let codec = |encoding: &str| match encoding {
            "H264" => Codec::H264,
            "H265" => Codec::Hevc,
            _ => Codec::Other,
        };
        self.codecs = presentation.tracks().iter().map(|track| codec(&track.encoding)).collect();
        self.reports = vec![None; self.codecs.len()];
        self.key = None;
        self.preamble = None;
    }

    /// Returns whether there is a track that a player can start only with a key frame of.
    pub(crate) fn has_video(&self) -> bool {
        self.codecs.iter().any(|codec| *codec != Codec::Other)
    }

    /// Records a packet, and returns its role.
    pub(crate) fn observe(&mut self, packet: &Packet) -> MessageRole {
        let track = usize::from(packet.rtsp_track().unwrap_or(0));
        if is_rtcp(packet.data()) {
            if let Some(report) = self.reports.get_mut(track)
                && packet.data().get(1) == Some(&SENDER_REPORT)
            {
                *report = Some(packet.clone());
                self.preamble = None;
            }
            return MessageRole::Header;
        }
        let codec = self.codecs.get(track).copied().unwrap_or(Codec::Other);
        if codec == Codec::Other {
            return if self.has_video() { MessageRole::Sample { video: false } } else { MessageRole::RandomAccess };
        }
        let Some((time, payload)) = time_and_payload(packet.data()) else { return MessageRole::Sample { video: true } };
        // All packets of a picture have one timestamp: it starts with the first that is part of a key frame.
        if self.key == Some(time) || !begins_key_frame(codec, payload) {
            return MessageRole::Sample { video: true };
        }
        self.key = Some(time);
        MessageRole::RandomAccess
    }

    /// Returns the last sender reports, which a player gets first. The same allocation as long as none has changed.
    pub(crate) fn preamble(&mut self) -> Arc<[Packet]> {
        let Self { reports, preamble, .. } = self;
        preamble.get_or_insert_with(|| reports.iter().flatten().cloned().collect()).clone()
    }
}

const SENDER_REPORT: u8 = 200;

/// Returns whether a packet is RTCP (RFC 5761 section 4).
pub(crate) fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

/// Returns the timestamp, and the payload behind the header (RFC 3550 section 5.1).
fn time_and_payload(packet: &[u8]) -> Option<(u32, &[u8])> {
    let &[first, _, _, _, a, b, c, d] = packet.first_chunk()?;
    let mut start = 12 + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let &[_, _, high, low] = packet.get(start..)?.first_chunk()?;
        start += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
    }
    Some((u32::from_be_bytes([a, b, c, d]), packet.get(start..)?))
}

fn begins_key_frame(codec: Codec, payload: &[u8]) -> bool {
    match (codec, payload) {
        (Codec::H264, [first, rest @ ..]) => match (first & 0x1f, rest) {
            (5 | 7, _) => true,                                       // IDR, or its parameter set
            (24, [_, _, nal, ..]) => matches!(nal & 0x1f, 5 | 7),     // several in one packet
            (28, [head, ..]) => head & 0x80 != 0 && head & 0x1f == 5, // the first fragment
            _ => false,
        },
        (Codec::Hevc, [first, _, rest @ ..]) => {
            let key = |kind: u8| matches!(kind, 16..=23 | 32..=33);
            match ((first >> 1) & 0x3f, rest) {
                (48, [_, _, nal, ..]) => key((nal >> 1) & 0x3f),
                (49, [head, ..]) => head & 0x80 != 0 && key(head & 0x3f),
                (kind, _) => key(kind),
            }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn rtp(track: u8, time: u32, payload: &[u8]) -> Packet {
        let mut bytes = vec![0x80, 96, 0, 0];
        bytes.extend(time.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        Packet::rtsp(track, bytes, Instant::now())
    }

    fn presentation(encodings: &[&str]) -> Presentation {
        let mut sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\n".to_owned();
        for encoding in encodings {
            sdp += &format!("m=video 0 RTP/AVP 96\r\na=rtpmap:96 {encoding}/90000\r\n");
        }
        Presentation::parse(sdp.as_bytes()).unwrap()
    }

    #[test]
    fn rtsp_random_access_at_first_packet_of_key_frame() {
        let mut starts = RtspRandomAccessTracker::default();
        starts.begin(&presentation(&["H264", "OPUS"]));
        let video = MessageRole::Sample { video: true };
        assert_eq!(starts.observe(&rtp(0, 1, &[0x67, 1])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 1, &[0x7c, 0x85])), video, "the same picture");
        assert_eq!(starts.observe(&rtp(1, 1, &[0x65])), MessageRole::Sample { video: false });
        assert_eq!(starts.observe(&rtp(0, 2, &[0x41])), video);
        assert_eq!(starts.observe(&rtp(0, 3, &[0x7c, 0x85])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 4, &[0x18, 0, 2, 0x67, 0])), MessageRole::RandomAccess);
        let report = Packet::rtsp(0, vec![0x80, 200, 0, 6], Instant::now());
        assert_eq!(starts.observe(&report), MessageRole::Header);
        assert_eq!(starts.preamble().len(), 1);
        starts.begin(&presentation(&["H265"]));
        assert_eq!(starts.observe(&rtp(0, 1, &[0x40, 1])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 2, &[0x62, 1, 0x93])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 3, &[0x02, 1])), video);
        starts.begin(&presentation(&["PCMU"]));
        assert_eq!(starts.observe(&rtp(0, 1, &[1])), MessageRole::RandomAccess);
    }
}
