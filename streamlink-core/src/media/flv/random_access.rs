//! Random access in a stream of FLV messages: where a player may start, and the headers that it needs first.
//!
//! A player starts with the main video track. Key frames are those that the message calls so, and pictures of H.264 and
//! HEVC from which decoding can start whatever the message says. Pictures with which decoders recover only after a while
//! are entry points of streams that have no better ones.

use super::{Codec, Role, Tag, is_metadata};
use crate::media::{
    LeftOut, MediaTrack, Packet, RtmpKind,
    entry_point::{EntryPoint, LengthPrefixedNals, NalCodec, entry_point},
    remux::{describe_aac, describe_video_record},
    track::bits_per_second,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Time without a clean entry point after which a stream is taken for one that has none.
const CLEAN_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of tracks that are described.
const MAX_TRACKS: usize = 16;

/// Maximum number of headers kept (metadata, sequence headers of all tracks).
const MAX_HEADERS: usize = 32;
/// Maximum length of a header that is kept, in bytes.
const MAX_HEADER: usize = 64 << 10;

/// The role of a message for a player that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageRole {
    /// Describes what follows.
    Header,
    /// A player may start with it.
    RandomAccess,
    /// Needed only by a player that has the samples before. `video`: part of a picture.
    Sample { video: bool },
}

/// Identifies a header: a later one with the same id replaces it. (Kind, track, number.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HeaderId(u8, u8, u8);

/// A track of the stream.
#[derive(Clone, Copy, Debug)]
struct FlvTrack {
    kind: RtmpKind,
    number: u8,
    codec: Codec,
    /// Bytes of its messages since the last measurement.
    bytes: u64,
}

/// Follows a stream. Holds at most [`MAX_HEADERS`] headers of [`MAX_HEADER`] bytes.
#[derive(Debug, Default)]
pub(crate) struct FlvRandomAccessTracker {
    /// The main video track, once there is one.
    main: Option<u8>,
    /// Length of the sizes before NAL units in the main video track.
    nal_prefix: usize,
    /// Time of the last clean entry point.
    clean: Option<Instant>,
    /// Timestamp of the last entry point: all messages of its picture have it.
    entry: Option<u32>,
    described: bool,
    /// A sample has arrived: the headers of all tracks come before it.
    has_samples: bool,
    /// Tracks: video before audio, by number.
    tracks: Vec<FlvTrack>,
    /// The headers in order, made on demand after they have changed.
    preamble: Option<Arc<[Packet]>>,
    headers: Vec<(HeaderId, Packet)>,
}

impl FlvRandomAccessTracker {
    /// Records a message, and returns its role.
    pub(crate) fn observe(&mut self, packet: &Packet) -> MessageRole {
        match packet.rtmp_message() {
            Some(message) => self.observe_body(message, packet.data(), packet.arrival(), || packet.clone()),
            None => MessageRole::Sample { video: false },
        }
    }

    /// Records a message that need not exist as a packet; `packet` makes one, if it is to be kept.
    pub(crate) fn observe_body(
        &mut self,
        (kind, timestamp): (RtmpKind, u32),
        body: &[u8],
        now: Instant,
        packet: impl FnOnce() -> Packet,
    ) -> MessageRole {
        if kind == RtmpKind::Data {
            if is_metadata(body) {
                self.keep(HeaderId(0, 0, 0), body, packet);
                return MessageRole::Header;
            }
            return MessageRole::Sample { video: false };
        }
        let Some(tag) = Tag::parse(kind, body) else { return MessageRole::Sample { video: false } };
        let is_video = kind == RtmpKind::Video;
        let track = tag.track.unwrap_or_default();
        if tag.role != Role::Other {
            self.note_track(kind, track, tag.codec, body.len());
        }
        let is_main = is_video && *self.main.get_or_insert(track) == track;
        self.has_samples |= matches!(tag.role, Role::Key | Role::Sample);
        match tag.role {
            Role::Header { track, number } => {
                if is_main
                    && number == 0
                    && let Some(prefix) = nal_prefix(&tag, body)
                {
                    self.nal_prefix = prefix;
                }
                self.keep(HeaderId(if is_video { 1 } else { 2 }, track, number), body, packet);
                MessageRole::Header
            }
            Role::Key | Role::Sample if is_main && self.entry != Some(timestamp) && self.is_entry(&tag, body, now) => {
                self.entry = Some(timestamp);
                MessageRole::RandomAccess
            }
            // Without video, a player may start at any audio message.
            Role::Sample if !is_video && self.main.is_none() => MessageRole::RandomAccess,
            _ => {
                if is_main && tag.role == Role::Sample {
                    self.entry = None; // another picture, even if the clock stands still
                }
                MessageRole::Sample { video: is_video }
            }
        }
    }

    /// Returns true if decoding can start with a picture, which the message may call a key frame or not.
    fn is_entry(&mut self, tag: &Tag, body: &[u8], now: Instant) -> bool {
        if tag.role == Role::Key {
            self.clean = Some(now);
            return true;
        }
        let (Some(codec), Some(data)) = (nal_codec(tag.codec), body.get(tag.data_at..)) else { return false };
        let prefix = if self.nal_prefix == 0 { 4 } else { self.nal_prefix };
        let nals = || LengthPrefixedNals::new(data, prefix);
        let length: usize = nals().map(|nal| prefix + nal.len()).sum();
        if length != data.len() || nals().any(|nal| nal.first().is_some_and(|header| header & 0x80 != 0)) {
            return false; // damaged, or not what its header says
        }
        match entry_point(codec, nals()) {
            None | Some(EntryPoint::None) => false,
            Some(point) if point.is_clean() => {
                self.clean = Some(now);
                true
            }
            Some(_) => self.clean.is_none_or(|clean| now.saturating_duration_since(clean) > CLEAN_INTERVAL),
        }
    }

    /// Records the codec of a track, and so many bytes of it.
    fn note_track(&mut self, kind: RtmpKind, number: u8, codec: Codec, bytes: usize) {
        if kind == RtmpKind::Video && self.main.is_none_or(|main| number < main) {
            self.main = Some(number);
        }
        let full = self.tracks.len() >= MAX_TRACKS;
        let bytes = bytes as u64;
        match self.tracks.iter_mut().find(|track| track.kind == kind && track.number == number) {
            Some(track) => {
                track.bytes = track.bytes.saturating_add(bytes);
                // Legacy and enhanced messages name the same codec in different ways.
                if track.codec == codec || track.codec.name() == codec.name() {
                    return;
                }
                track.codec = codec;
            }
            None if full => return,
            None => {
                self.tracks.push(FlvTrack { kind, number, codec, bytes });
                self.tracks.sort_by_key(|track| (track.kind != RtmpKind::Video, track.number));
            }
        }
        self.described = false;
    }

    fn keep(&mut self, slot: HeaderId, body: &[u8], packet: impl FnOnce() -> Packet) {
        if body.len() > MAX_HEADER {
            return;
        }
        let full = self.headers.len() >= MAX_HEADERS;
        match self.headers.iter_mut().find(|(other, _)| *other == slot) {
            Some((_, old)) if old.data() == body => return,
            Some((_, old)) => *old = packet(),
            None if full => return,
            None => {
                self.headers.push((slot, packet()));
                self.headers.sort_by_key(|(slot, _)| *slot);
            }
        }
        self.preamble = None;
    }

    /// Returns the headers that a player needs first. The same allocation as long as none has changed.
    pub(crate) fn preamble(&mut self) -> Arc<[Packet]> {
        let Self { headers, preamble, .. } = self;
        preamble.get_or_insert_with(|| headers.iter().map(|(_, packet)| packet.clone()).collect()).clone()
    }

    /// Returns whether the stream has video.
    pub(crate) fn has_video(&self) -> bool {
        self.main.is_some()
    }

    /// Returns the codecs of the stream, once when they are first known and after each change.
    pub(crate) fn description(&mut self) -> Option<String> {
        if self.described || !self.has_samples {
            return None;
        }
        self.described = true;
        let name = |track: &FlvTrack| match track.number {
            0 => track.codec.name(),
            number => format!("{} (track {number})", track.codec.name()),
        };
        let names: Vec<String> = self.tracks.iter().map(name).collect();
        Some(names.join(", "))
    }

    /// Returns the tracks, with their bit rates since the last call, which was so long ago. `drops`: pictures are dropped
    /// for want of a key frame.
    pub(crate) fn tracks(&mut self, since: Duration, drops: bool) -> Vec<MediaTrack> {
        let Self { tracks, headers, .. } = self;
        let mut described = Vec::new();
        for track in tracks {
            let mut media = MediaTrack {
                track: Some(u16::from(track.number)),
                codec: track.codec.known_name().unwrap_or("other"),
                bit_rate: bits_per_second(std::mem::take(&mut track.bytes), since),
                left_out: Some(LeftOut::NotDecodable).filter(|_| drops && track.kind == RtmpKind::Video),
                ..MediaTrack::default()
            };
            let slot = HeaderId(if track.kind == RtmpKind::Video { 1 } else { 2 }, track.number, 0);
            if let Some((_, header)) = headers.iter().find(|(other, _)| *other == slot) {
                describe(&mut media, track.kind, header.data());
            }
            described.push(media);
        }
        described
    }

    /// Begins another stream: forgets the old one.
    pub(crate) fn reset(&mut self) {
        *self = Self { described: false, ..Self::default() };
    }
}

/// Describes a track by its sequence header.
fn describe(media: &mut MediaTrack, kind: RtmpKind, header: &[u8]) {
    let Some(tag) = Tag::parse(kind, header) else { return };
    if let (Some(codec), Some(record)) = (nal_codec(tag.codec), header.get(tag.data_at..)) {
        describe_video_record(media, codec, record);
        return;
    }
    // Legacy headers have a byte for the type of the message before the configuration.
    let start = match tag.codec {
        Codec::LegacyAudio(10) => tag.data_at + 1,
        Codec::FourCc([b'm', b'p', b'4', b'a']) => tag.data_at,
        _ => return,
    };
    describe_aac(media, header.get(start..).unwrap_or_default());
}

/// Returns the codec of NAL units that a track consists of.
fn nal_codec(codec: Codec) -> Option<NalCodec> {
    match codec {
        Codec::LegacyVideo(7) | Codec::FourCc([b'a', b'v', b'c', b'1']) => Some(NalCodec::H264),
        Codec::LegacyVideo(12) | Codec::FourCc([b'h', b'v', b'c', b'1']) => Some(NalCodec::Hevc),
        _ => None,
    }
}

/// Returns the length of the sizes before NAL units, from a sequence header (ISO/IEC 14496-15 sections 5.3.3 and 8.3.3).
fn nal_prefix(tag: &Tag, body: &[u8]) -> Option<usize> {
    let at = if nal_codec(tag.codec)? == NalCodec::H264 { 4 } else { 21 };
    Some(usize::from(body.get(tag.data_at + at)? & 3) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn packet(kind: RtmpKind, body: &'static [u8]) -> Packet {
        Packet::rtmp(kind, 0, body, Instant::now())
    }

    #[test]
    fn flv_random_access_at_key_frames_with_newest_headers() {
        let mut points = FlvRandomAccessTracker::default();
        let observe = |points: &mut FlvRandomAccessTracker, kind, body| points.observe(&packet(kind, body));
        assert_eq!(observe(&mut points, RtmpKind::Audio, &[0xaf, 0, 1]), MessageRole::Header);
        assert_eq!(observe(&mut points, RtmpKind::Video, &[0x17, 0, 1]), MessageRole::Header);
        assert_eq!(observe(&mut points, RtmpKind::Data, b"\x02\x00\x0aonMetaData"), MessageRole::Header);
        assert_eq!(points.description(), None, "there may be other tracks");
        assert_eq!(observe(&mut points, RtmpKind::Audio, &[0xaf, 1]), MessageRole::Sample { video: false });
        assert_eq!(observe(&mut points, RtmpKind::Video, &[0x27, 1]), MessageRole::Sample { video: true });
        assert_eq!(observe(&mut points, RtmpKind::Video, &[0x17, 1]), MessageRole::RandomAccess);
        assert_eq!(points.description().unwrap(), "H.264, AAC");
        assert_eq!(points.description(), None);
        let preamble = points.preamble();
        let kinds: Vec<RtmpKind> = preamble.iter().filter_map(|p| p.rtmp_message()).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [RtmpKind::Data, RtmpKind::Video, RtmpKind::Audio]);
        observe(&mut points, RtmpKind::Video, &[0x17, 0, 1]);
        assert!(Arc::ptr_eq(&preamble, &points.preamble()), "the same header again changes nothing");
        observe(&mut points, RtmpKind::Video, &[0x17, 0, 2]);
        assert_eq!(points.preamble()[1].data()[2], 2);
        assert_eq!(points.preamble().len(), 3);
    }

    #[test]
    fn flv_random_access_of_several_tracks_is_at_the_main_one() {
        let mut points = FlvRandomAccessTracker::default();
        let video = |points: &mut FlvRandomAccessTracker, body| points.observe(&packet(RtmpKind::Video, body));
        assert_eq!(video(&mut points, b"\x96\x00avc1\x01"), MessageRole::Header);
        assert_eq!(video(&mut points, &[0x17, 0, 0, 0, 0, 1]), MessageRole::Header);
        assert_eq!(points.observe(&packet(RtmpKind::Audio, &[0xaf, 0, 1])), MessageRole::Header);
        let sample = MessageRole::Sample { video: true };
        let mut descriptions = Vec::new();
        for time in 0..10 {
            let mut video = |body: &'static [u8]| {
                let role = points.observe(&Packet::rtmp(RtmpKind::Video, time, body, Instant::now()));
                descriptions.extend(points.description());
                role
            };
            assert_eq!(video(&[0x17, 1, 0, 0, 0]), MessageRole::RandomAccess);
            assert_eq!(video(b"\x96\x01avc1\x01\0\0\0"), sample);
            assert_eq!(video(b"\x97\x02abc\x01avc1\0\0\0"), sample, "the same picture");
            assert_eq!(video(&[0x27, 1, 0, 0, 0]), sample);
            assert_eq!(video(b"\xa6\x01avc1\x01\0\0\0"), sample);
        }
        assert_eq!(descriptions, ["H.264, H.264 (track 1), AAC"], "one for all tracks");
        // All tracks are numbered.
        points.reset();
        assert_eq!(video(&mut points, b"\x96\x01hvc1\x00\0\0\0"), MessageRole::RandomAccess);
        assert_eq!(video(&mut points, b"\x96\x01hvc1\x02\0\0\0"), sample);
        assert_eq!(points.description().unwrap(), "HEVC, HEVC (track 2)");
    }

    #[test]
    fn flv_random_access_at_recovery_points_that_are_called_inter() {
        let start = Instant::now();
        let mut points = FlvRandomAccessTracker::default();
        let mut at = |body: &'static [u8], seconds| {
            let at = start + Duration::from_secs(seconds);
            points.observe(&Packet::rtmp(RtmpKind::Video, 1000 * seconds as u32, body, at))
        };
        let sample = MessageRole::Sample { video: true };
        assert_eq!(at(&[0x17, 0, 0, 0, 0, 1, 66, 0, 10, 0xfd], 0), MessageRole::Header); // sizes of two bytes
        // A predicted picture; one behind a recovery point after 0 pictures, and after 24.
        let predicted: &[u8] = &[0x27, 1, 0, 0, 0, 0, 2, 0x41, 0b1001_1000];
        let here: &[u8] = &[0x27, 1, 0, 0, 0, 0, 5, 6, 6, 1, 0xc4, 0x80, 0, 2, 0x41, 0b1001_1000];
        let later: &[u8] = &[0x27, 1, 0, 0, 0, 0, 6, 6, 6, 2, 0b1100, 0b1110_0000, 0x80, 0, 2, 0x41, 0b1001_1000];
        assert_eq!(at(predicted, 1), sample);
        assert_eq!(at(later, 2), MessageRole::RandomAccess, "there is nothing better");
        assert_eq!(at(here, 3), MessageRole::RandomAccess);
        assert_eq!(at(later, 4), sample, "there is");
        assert_eq!(at(later, 20), MessageRole::RandomAccess, "but no more");
        let hevc: &[u8] = &[0x2c, 1, 0, 0, 0, 0, 3, 42, 1, 0xd0];
        assert_eq!(at(hevc, 21), MessageRole::RandomAccess, "a CRA picture of HEVC");
        assert_eq!(at(&[0x2c, 1, 0, 0, 0, 0, 3, 42, 1, 0xd0, 9], 22), sample, "not a whole number of NAL units");
    }

    #[test]
    fn flv_random_access_anywhere_in_audio_only_stream() {
        let mut points = FlvRandomAccessTracker::default();
        assert_eq!(points.observe(&packet(RtmpKind::Audio, &[0xaf, 0, 1])), MessageRole::Header);
        assert_eq!(points.observe(&packet(RtmpKind::Audio, &[0xaf, 1])), MessageRole::RandomAccess);
        assert_eq!(points.description().unwrap(), "AAC");
        points.reset();
        assert!(points.preamble().is_empty() && !points.has_video());
    }
}
