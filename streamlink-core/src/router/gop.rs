//! Segmentation into groups of pictures: finds the random access points among FLV messages and RTP packets of RTSP
//! tracks. A late player begins at the last one, and a player that has lost packets resumes at the next one.

use super::MediaBatch;
use crate::media::{
    MediaFamily, Packet, RtmpKind,
    flv::{FlvRandomAccessTracker, MessageRole},
    rtsp::{Presentation, RtspRandomAccessTracker},
};

/// Finds the random access points of a stream. The fields are in order of use: those that every message touches are
/// adjacent.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct GopSegmenter {
    /// True if video samples cannot be decoded until the next random access point.
    waits: bool,
    flv: FlvRandomAccessTracker,
    /// Random access points of RTSP tracks.
    rtsp: RtspRandomAccessTracker,
}

impl GopSegmenter {
    /// Begins a stream. Video samples that depend on earlier ones are dropped until the first random access point.
    pub(crate) fn begin(&mut self) {
        self.flv.reset();
        self.waits = true;
    }

    /// Begins an RTSP presentation.
    pub(crate) fn begin_presentation(&mut self, presentation: &Presentation) {
        self.rtsp.begin(presentation);
    }

    /// Records a lost message: video samples are dropped until the next random access point.
    pub(crate) fn wait_for_start(&mut self) {
        self.waits |= self.flv.has_video() || self.rtsp.has_video();
    }

    /// Returns the role of a message, or `None` if it cannot be decoded.
    pub(crate) fn observe(&mut self, packet: &Packet) -> Option<MessageRole> {
        let role = match packet.family() {
            MediaFamily::Rtsp => self.rtsp.observe(packet),
            _ => self.flv.observe(packet),
        };
        self.filter_undecodable(role)
    }

    /// Returns the role of an FLV message for which no packet may exist yet. `packet` creates one if it is to be
    /// retained.
    pub(crate) fn observe_body(
        &mut self,
        kind: RtmpKind,
        body: &[u8],
        packet: impl FnOnce() -> Packet,
    ) -> Option<MessageRole> {
        let role = self.flv.observe_body(kind, body, packet);
        self.filter_undecodable(role)
    }

    fn filter_undecodable(&self, role: MessageRole) -> Option<MessageRole> {
        (!(self.waits && role == MessageRole::Sample { video: true })).then_some(role)
    }

    /// Skips an observed message without handing it over.
    pub(crate) fn skip(&mut self, role: MessageRole) {
        self.waits &= role != MessageRole::RandomAccess;
    }

    /// Appends an observed message to the batch to hand over.
    pub(crate) fn push(&mut self, out: &mut MediaBatch, packet: Packet, role: MessageRole) {
        if role == MessageRole::RandomAccess {
            out.mark_entry_point(match packet.family() {
                MediaFamily::Rtsp => self.rtsp.preamble(),
                _ => self.flv.preamble(),
            });
        }
        self.skip(role);
        out.packets.push(packet);
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
    use std::time::{Duration, Instant};

    #[test]
    fn batches_begin_at_key_frames_and_nothing_depends_on_what_is_missing() {
        let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(3600) });
        ring.retain_gop(1 << 20);
        let (mut segmenter, mut out) = (GopSegmenter::default(), MediaBatch::default());
        segmenter.begin();
        let mut give = |kind, body: &'static [u8]| {
            let packet = Packet::rtmp(kind, 0, body, Instant::now());
            let role = segmenter.observe(&packet);
            if let Some(role) = role {
                segmenter.push(&mut out, packet, role);
            }
            role.is_some()
        };
        let (header, key, sample) = (&[0x17, 0][..], &[0x17, 1][..], &[0x27, 1][..]);
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
