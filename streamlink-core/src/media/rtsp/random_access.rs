//! Random access among the RTP packets of a presentation: where decoding of H.264 (RFC 6184) or HEVC (RFC 7798) can
//! start, and anywhere in a presentation without such a track.
//!
//! Pictures with which decoders recover only after a while are entry points of streams that have no better ones.

use super::Presentation;
use crate::media::{
    LeftOut, MediaTrack, Packet,
    entry_point::{EntryPoint, EntryPointScan, NalCodec, NalRole, break_link, nal_role},
    flv::MessageRole,
    track::bits_per_second,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Time without a clean entry point after which a stream is taken for one that has none.
const CLEAN_INTERVAL: Duration = Duration::from_secs(10);
/// Number of bytes of a fragment that are read.
const FRAGMENT: usize = 64;

/// Follows the packets of a presentation.
#[derive(Debug, Default)]
pub(crate) struct RtspRandomAccessTracker {
    /// Codecs of the tracks, as far as they consist of NAL units.
    codecs: Vec<Option<NalCodec>>,
    /// The timestamp of the key frame in progress.
    key: Option<u32>,
    /// Time of the last clean entry point.
    clean: Option<Instant>,
    /// The last sender report of each track, by which players synchronise the tracks.
    reports: Vec<Option<Packet>>,
    /// The reports, made on demand after they have changed.
    preamble: Option<Arc<[Packet]>>,
    /// Bytes of the packets of each track since the last measurement.
    bytes: Vec<u64>,
    /// Description of the tracks, and of those that were left out.
    described: Vec<MediaTrack>,
}

impl RtspRandomAccessTracker {
    /// Begins another presentation.
    pub(crate) fn begin(&mut self, presentation: &Presentation) {
        let codec = |encoding: &str| match encoding {
            "H264" => Some(NalCodec::H264),
            "H265" => Some(NalCodec::Hevc),
            _ => None,
        };
        self.codecs = presentation.tracks().iter().map(|track| codec(&track.encoding)).collect();
        self.reports = vec![None; self.codecs.len()];
        self.bytes = vec![0; self.codecs.len()];
        self.described = presentation.media_tracks();
        self.key = None;
        self.clean = None;
        self.preamble = None;
    }

    /// Returns whether there is a track that a player can start only with a key frame of.
    pub(crate) fn has_video(&self) -> bool {
        self.main().is_some()
    }

    /// Returns the track that players start with.
    fn main(&self) -> Option<usize> {
        self.codecs.iter().position(Option::is_some)
    }

    /// Records a packet, and returns its role.
    pub(crate) fn observe(&mut self, packet: &Packet) -> MessageRole {
        let track = usize::from(packet.rtsp_track().unwrap_or(0));
        if let Some(bytes) = self.bytes.get_mut(track) {
            *bytes = bytes.saturating_add(packet.data().len() as u64);
        }
        if is_rtcp(packet.data()) {
            if let Some(report) = self.reports.get_mut(track)
                && packet.data().get(1) == Some(&SENDER_REPORT)
            {
                *report = Some(packet.clone());
                self.preamble = None;
            }
            return MessageRole::Header;
        }
        let Some(codec) = self.codecs.get(track).copied().flatten() else {
            return if self.has_video() { MessageRole::Sample { video: false } } else { MessageRole::RandomAccess };
        };
        let sample = MessageRole::Sample { video: true };
        let Some((time, payload)) = time_and_payload(packet.data()) else { return sample };
        // All packets of a picture have one timestamp: it starts with the first that is part of a key frame.
        if self.main() != Some(track) || self.key == Some(time) {
            return sample;
        }
        let point = announced(codec, payload);
        let is_entry = point.is_clean()
            || point != EntryPoint::None
                && self.clean.is_none_or(|clean| packet.arrival().saturating_duration_since(clean) > CLEAN_INTERVAL);
        if !is_entry {
            return sample;
        }
        if point.is_clean() {
            self.clean = Some(packet.arrival());
        }
        self.key = Some(time);
        MessageRole::RandomAccess
    }

    /// Returns the tracks, with their bit rates since the last call, which was so long ago, and those left out. `drops`:
    /// pictures are dropped for want of a key frame.
    pub(crate) fn tracks(&mut self, since: Duration, drops: bool) -> Vec<MediaTrack> {
        let measured = self.described.iter_mut().zip(&mut self.bytes).zip(&self.codecs);
        for ((track, bytes), codec) in measured {
            track.bit_rate = bits_per_second(std::mem::take(bytes), since);
            track.left_out = Some(LeftOut::NotDecodable).filter(|_| drops && codec.is_some());
        }
        self.described.clone()
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

/// Returns the best entry point that a packet announces. Parameter sets of video and sequence come before key frames.
fn announced(codec: NalCodec, payload: &[u8]) -> EntryPoint {
    let mut scan = EntryPointScan::new(codec);
    let mut has_parameters = false;
    let mut add = |nal: &[u8]| {
        has_parameters |= matches!(nal_role(codec, nal), NalRole::ParameterSet(0 | 1));
        scan.add(nal);
    };
    match (codec, payload) {
        // Aggregation packets (STAP-A, STAP-B, AP), and first fragments.
        (NalCodec::H264, [first, rest @ ..]) => match first & 0x1f {
            24 => each_aggregated(rest, add),
            25 => each_aggregated(rest.get(2..).unwrap_or_default(), add),
            28 | 29 => {
                if let [head, data @ ..] = rest
                    && head & 0x80 != 0
                {
                    let data = if first & 0x1f == 29 { data.get(2..).unwrap_or_default() } else { data };
                    add(&fragment(&[first & 0xe0 | head & 0x1f], data));
                }
            }
            _ => add(payload),
        },
        (NalCodec::Hevc, [first, second, rest @ ..]) => match (first >> 1) & 0x3f {
            48 => each_aggregated(rest, add),
            49 => {
                if let [head, data @ ..] = rest
                    && head & 0x80 != 0
                {
                    add(&fragment(&[first & 0x81 | (head & 0x3f) << 1, *second], data));
                }
            }
            _ => add(payload),
        },
        _ => {}
    }
    if has_parameters {
        return EntryPoint::Idr;
    }
    scan.entry_point().unwrap_or(EntryPoint::None).max(scan.announced())
}

/// Breaks the links of the parts of pictures of HEVC in a payload (RFC 7798 section 4.4). Returns whether there were any.
pub(crate) fn break_links_of_payload(payload: &mut [u8]) -> bool {
    let [first, _, rest @ ..] = payload else { return false };
    let broken = match *first >> 1 & 0x3f {
        48 => {
            let mut breaks = false;
            let mut rest = rest;
            while let [high, low, after @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if let Some(header) = after.first_mut() {
                    let broken = break_link(*header >> 1) << 1 | *header & 1;
                    breaks |= broken != *header;
                    *header = broken;
                }
                rest = after.get_mut(length..).unwrap_or_default();
            }
            return breaks;
        }
        49 => rest.first_mut().map(|head| (break_link(*head), head)),
        _ => Some((break_link(*first >> 1) << 1 | *first & 1, first)),
    };
    let Some((broken, header)) = broken else { return false };
    let breaks = broken != *header;
    *header = broken;
    breaks
}

/// Calls `add` with the NAL units of an aggregation packet, each behind its length of two bytes.
fn each_aggregated(mut rest: &[u8], mut add: impl FnMut(&[u8])) {
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        add(after.get(..length).unwrap_or(after));
        rest = after.get(length..).unwrap_or_default();
    }
}

/// Returns the beginning of a NAL unit of which this is the first fragment.
fn fragment(header: &[u8], data: &[u8]) -> Vec<u8> {
    [header, data.get(..FRAGMENT).unwrap_or(data)].concat()
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
        // Behind other NAL units of an aggregation packet.
        assert_eq!(starts.observe(&rtp(0, 5, &[0x18, 0, 2, 0x09, 0x10, 0, 2, 0x67, 0])), MessageRole::RandomAccess);
        starts.begin(&presentation(&["H265"]));
        assert_eq!(starts.observe(&rtp(0, 1, &[0x40, 1])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 2, &[0x62, 1, 0x93])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 3, &[0x02, 1])), video);
        // A fragment of a CRA picture, and a delimiter before one in an aggregation packet.
        assert_eq!(starts.observe(&rtp(0, 4, &[0x62, 1, 0x95, 0xd0])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 5, &[0x60, 1, 0, 2, 0x46, 1, 0, 2, 0x2a, 1])), MessageRole::RandomAccess);
        starts.begin(&presentation(&["PCMU"]));
        assert_eq!(starts.observe(&rtp(0, 1, &[1])), MessageRole::RandomAccess);
    }

    #[test]
    fn rtsp_random_access_at_recovery_points() {
        let mut starts = RtspRandomAccessTracker::default();
        starts.begin(&presentation(&["H264"]));
        let video = MessageRole::Sample { video: true };
        // Recovery after 0 pictures, after 24, and a predicted picture.
        let here = &[6, 6, 1, 0xc4, 0x80][..];
        let later = &[6, 6, 2, 0b1100, 0b1110_0000, 0x80][..];
        let predicted = &[0x41, 0b1001_1000][..];
        assert_eq!(starts.observe(&rtp(0, 1, predicted)), video);
        assert_eq!(starts.observe(&rtp(0, 2, later)), MessageRole::RandomAccess, "there is nothing better");
        assert_eq!(starts.observe(&rtp(0, 2, predicted)), video, "the same picture");
        assert_eq!(starts.observe(&rtp(0, 3, here)), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(0, 4, later)), video, "there is");
        let together = [&[0x18, 0, 5][..], here, &[0, 2], predicted].concat();
        assert_eq!(starts.observe(&rtp(0, 5, &together)), MessageRole::RandomAccess);
    }

    #[test]
    fn rtsp_links_of_hevc_are_broken_in_all_payloads() {
        let breaks = |payload: &[u8]| {
            let mut payload = payload.to_vec();
            break_links_of_payload(&mut payload).then_some(payload)
        };
        assert_eq!(breaks(&[0x2a, 1, 0xd0]), Some(vec![0x20, 1, 0xd0]));
        assert_eq!(breaks(&[0x62, 1, 0x95, 0xd0]), Some(vec![0x62, 1, 0x90, 0xd0]), "a fragment");
        assert_eq!(breaks(&[0x62, 1, 0x55, 7]), Some(vec![0x62, 1, 0x50, 7]), "the last one");
        let together = breaks(&[0x60, 1, 0, 2, 0x46, 1, 0, 3, 0x2a, 1, 9, 0, 9, 0x2a]);
        assert_eq!(together, Some(vec![0x60, 1, 0, 2, 0x46, 1, 0, 3, 0x20, 1, 9, 0, 9, 0x20]));
        for other in [&[0x02, 1, 0x2a][..], &[0x62, 1, 0x81, 0x2a], &[0x60, 1, 0, 2, 0x46, 1], &[0x62, 1], &[1]] {
            assert_eq!(breaks(other), None, "{other:?}");
        }
    }

    #[test]
    fn rtsp_random_access_is_at_the_first_video_track() {
        let mut starts = RtspRandomAccessTracker::default();
        starts.begin(&presentation(&["H264", "H264"]));
        assert_eq!(starts.observe(&rtp(0, 1, &[0x65, 0x88])), MessageRole::RandomAccess);
        assert_eq!(starts.observe(&rtp(1, 2, &[0x65, 0x88])), MessageRole::Sample { video: true });
    }

    proptest::proptest! {
        #[test]
        fn rtsp_random_access_survives_any_bytes(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            announced(NalCodec::H264, &payload);
            announced(NalCodec::Hevc, &payload);
            break_links_of_payload(&mut payload.clone());
        }
    }
}
