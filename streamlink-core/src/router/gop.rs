//! Segmentation into groups of pictures: finds the random access points among FLV messages and RTP packets of RTSP
//! tracks. A late player begins at the last one, and a player that has lost packets resumes at the next one.

use super::{DEFAULT_ENTRY_WAIT, MediaBatch};
use crate::media::{
    MediaFamily, MediaTrack, Packet, RtmpKind,
    flv::{FlvRandomAccessTracker, MessageRole},
    rtsp::{Presentation, RtspRandomAccessTracker},
};
use std::time::{Duration, Instant};

/// Time between two places where players may start for want of entry points.
const FALLBACK_INTERVAL: Duration = Duration::from_millis(500);

/// Finds the random access points of a stream.
#[derive(Debug)]
pub(crate) struct GopSegmenter {
    /// True if video samples cannot be decoded until the next random access point.
    waits: bool,
    /// Arrival of the first sample that was dropped because it could not be decoded.
    waits_since: Option<Instant>,
    /// Maximum time for which such samples are dropped.
    entry_wait: Duration,
    /// Arrival of the last sample that a player may start with.
    marked: Option<Instant>,
    flv: FlvRandomAccessTracker,
    /// Random access points of RTSP tracks.
    rtsp: RtspRandomAccessTracker,
}

impl Default for GopSegmenter {
    fn default() -> Self {
        Self::new(DEFAULT_ENTRY_WAIT)
    }
}

impl GopSegmenter {
    /// `entry_wait`: maximum time for which undecodable video samples are dropped.
    pub(crate) fn new(entry_wait: Duration) -> Self {
        Self {
            waits: false,
            waits_since: None,
            entry_wait,
            marked: None,
            flv: FlvRandomAccessTracker::default(),
            rtsp: RtspRandomAccessTracker::default(),
        }
    }

    /// Begins a stream. Video samples that depend on earlier ones are dropped until the first random access point.
    pub(crate) fn begin(&mut self) {
        self.flv.reset();
        self.waits = true;
        self.waits_since = None;
        self.marked = None;
    }

    /// Begins an RTSP presentation.
    pub(crate) fn begin_presentation(&mut self, presentation: &Presentation) {
        self.rtsp.begin(presentation);
        self.waits_since = None;
        self.marked = None;
    }

    /// Records a lost message: video samples are dropped until the next random access point.
    pub(crate) fn wait_for_start(&mut self) {
        self.waits |= self.flv.has_video() || self.rtsp.has_video();
        self.waits_since = None;
    }

    /// Returns the role of a message, or `None` if it cannot be decoded.
    pub(crate) fn observe(&mut self, packet: &Packet) -> Option<MessageRole> {
        let role = match packet.family() {
            MediaFamily::Rtsp => self.rtsp.observe(packet),
            _ => self.flv.observe(packet),
        };
        self.filter_undecodable(role, packet.arrival())
    }

    /// Returns the role of an FLV message for which no packet may exist yet. `packet` creates one if it is to be
    /// retained.
    pub(crate) fn observe_body(
        &mut self,
        (kind, timestamp): (RtmpKind, u32),
        body: &[u8],
        now: Instant,
        packet: impl FnOnce() -> Packet,
    ) -> Option<MessageRole> {
        let role = self.flv.observe_body((kind, timestamp), body, now, packet);
        self.filter_undecodable(role, now)
    }

    fn filter_undecodable(&mut self, role: MessageRole, now: Instant) -> Option<MessageRole> {
        if self.waits && role == (MessageRole::Sample { video: true }) {
            let since = *self.waits_since.get_or_insert(now);
            // A stream may have no entry points at all, and decoders can do without.
            self.waits = now.saturating_duration_since(since) < self.entry_wait;
        } else {
            return Some(role);
        }
        (!self.waits).then_some(role)
    }

    /// Skips an observed message without handing it over.
    pub(crate) fn skip(&mut self, role: MessageRole) {
        self.waits &= role != MessageRole::RandomAccess;
    }

    /// Appends an observed message to the batch to hand over.
    pub(crate) fn push(&mut self, out: &mut MediaBatch, packet: Packet, role: MessageRole) {
        let arrival = packet.arrival();
        let due = |marked: Instant| arrival.saturating_duration_since(marked) >= FALLBACK_INTERVAL;
        let is_start = role == MessageRole::RandomAccess;
        if is_start || (role != MessageRole::Header && self.marked.is_none_or(due)) {
            let preamble = match packet.family() {
                MediaFamily::Rtsp => self.rtsp.preamble(),
                _ => self.flv.preamble(),
            };
            if is_start {
                out.mark_entry_point(preamble);
            } else {
                out.mark_fallback(preamble);
            }
            self.marked = Some(arrival);
        }
        self.skip(role);
        out.packets.push(packet);
    }

    /// Returns the tracks, with their bit rates since the last call, which was so long ago. Pictures that are dropped for
    /// want of a key frame are not carried.
    pub(crate) fn tracks(&mut self, since: Duration) -> Vec<MediaTrack> {
        let drops = self.waits && self.waits_since.is_some();
        let mut tracks = self.flv.tracks(since, drops);
        tracks.extend(self.rtsp.tracks(since, drops));
        tracks
    }

    /// Returns the description of the stream once, when it is first known and whenever it changes.
    pub(crate) fn description(&mut self) -> Option<String> {
        self.flv.description()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Limits, Ring};

    #[test]
    fn batches_begin_at_key_frames_and_nothing_depends_on_what_is_missing() {
        let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(3600) });
        ring.retain_gop(1 << 20);
        let mut segmenter = GopSegmenter::default();
        let mut out = MediaBatch::default();
        segmenter.begin();
        let mut give = |kind, body: &'static [u8]| {
            let packet = Packet::rtmp(kind, 0, body, Instant::now());
            let role = segmenter.observe(&packet);
            if let Some(role) = role {
                segmenter.push(&mut out, packet, role);
            }
            role.is_some()
        };
        let header = &[0x17, 0][..];
        let key = &[0x17, 1][..];
        let sample = &[0x27, 1][..];
        assert!(give(RtmpKind::Video, header));
        assert!(!give(RtmpKind::Video, sample), "it depends on a key frame that did not come");
        assert!(give(RtmpKind::Audio, &[0xaf, 1]));
        for body in [key, sample, sample, key, sample] {
            assert!(give(RtmpKind::Video, body));
        }
        ring.deliver(&mut out);
        let mut window = Vec::new();
        ring.reader_from_start(1 << 20).read(&mut window);
        assert_eq!(window.len(), 1);
        assert_eq!(window[0].packets().len(), 2);
        assert_eq!(window[0].start().unwrap()[0].data(), header);
        segmenter.wait_for_start();
        let packet = |body: &'static [u8]| Packet::rtmp(RtmpKind::Video, 0, body, Instant::now());
        assert_eq!(segmenter.observe(&packet(sample)), None);
        assert_eq!(segmenter.observe(&packet(key)), Some(MessageRole::RandomAccess));
    }
}
