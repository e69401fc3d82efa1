//! Random access in a stream of FLV messages: where a player may start, and the headers that it needs first.

use super::{Codec, Role, Tag, is_metadata};
use crate::media::{Packet, RtmpKind};
use std::sync::Arc;

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

/// Identifies a header: a later one with the same slot replaces it. (Kind, track, number.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u8, u8, u8);

/// Follows a stream. Holds at most [`MAX_HEADERS`] headers of [`MAX_HEADER`] bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct FlvRandomAccessTracker {
    video: Option<Codec>,
    audio: Option<Codec>,
    described: bool,
    /// The headers in order, made on demand after they have changed.
    preamble: Option<Arc<[Packet]>>,
    headers: Vec<(Slot, Packet)>,
}

impl FlvRandomAccessTracker {
    /// Records a message, and returns its role.
    pub(crate) fn observe(&mut self, packet: &Packet) -> MessageRole {
        match packet.rtmp_message() {
            Some((kind, _)) => self.observe_body(kind, packet.data(), || packet.clone()),
            None => MessageRole::Sample { video: false },
        }
    }

    /// Records a message that need not exist as a packet; `packet` makes one, if it is to be kept.
    pub(crate) fn observe_body(&mut self, kind: RtmpKind, body: &[u8], packet: impl FnOnce() -> Packet) -> MessageRole {
        if kind == RtmpKind::Data {
            if is_metadata(body) {
                self.keep(Slot(0, 0, 0), body, packet);
                return MessageRole::Header;
            }
            return MessageRole::Sample { video: false };
        }
        let Some(tag) = Tag::parse(kind, body) else { return MessageRole::Sample { video: false } };
        let is_video = kind == RtmpKind::Video;
        let codec = if is_video { &mut self.video } else { &mut self.audio };
        if tag.role != Role::Other && *codec != Some(tag.codec) {
            *codec = Some(tag.codec);
            self.described = false;
        }
        match tag.role {
            Role::Header { track, number } => {
                self.keep(Slot(if is_video { 1 } else { 2 }, track, number), body, packet);
                MessageRole::Header
            }
            Role::Key if is_video => MessageRole::RandomAccess,
            // Without video, a player may start at any audio message.
            Role::Sample if !is_video && self.video.is_none() => MessageRole::RandomAccess,
            _ => MessageRole::Sample { video: is_video },
        }
    }

    fn keep(&mut self, slot: Slot, body: &[u8], packet: impl FnOnce() -> Packet) {
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
        self.video.is_some()
    }

    /// Returns the codecs of the stream, once when they are first known and after each change.
    pub(crate) fn description(&mut self) -> Option<String> {
        if self.described || (self.video.is_none() && self.audio.is_none()) {
            return None;
        }
        self.described = true;
        let names: Vec<String> = [self.video, self.audio].into_iter().flatten().map(Codec::name).collect();
        Some(names.join(", "))
    }

    /// Begins another stream: forgets the old one.
    pub(crate) fn reset(&mut self) {
        *self = Self { described: false, ..Self::default() };
    }
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
        assert_eq!(points.description().unwrap(), "H.264, AAC");
        assert_eq!(points.description(), None);
        assert_eq!(observe(&mut points, RtmpKind::Audio, &[0xaf, 1]), MessageRole::Sample { video: false });
        assert_eq!(observe(&mut points, RtmpKind::Video, &[0x27, 1]), MessageRole::Sample { video: true });
        assert_eq!(observe(&mut points, RtmpKind::Video, &[0x17, 1]), MessageRole::RandomAccess);
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
    fn flv_random_access_anywhere_in_audio_only_stream() {
        let mut points = FlvRandomAccessTracker::default();
        assert_eq!(points.observe(&packet(RtmpKind::Audio, &[0xaf, 0, 1])), MessageRole::Header);
        assert_eq!(points.observe(&packet(RtmpKind::Audio, &[0xaf, 1])), MessageRole::RandomAccess);
        assert_eq!(points.description().unwrap(), "AAC");
        points.reset();
        assert!(points.preamble().is_empty() && !points.has_video());
    }
}
