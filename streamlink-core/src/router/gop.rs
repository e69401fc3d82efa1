//! Groups of pictures: among FLV messages and RTP packets of RTSP tracks, the places where a player may start. A late
//! player begins with the last of them, and one that has lost something goes on with the next.

use super::MediaBatch;
use crate::media::{
    MediaFamily, Packet, RtmpKind,
    flv::{FlvRandomAccessTracker, MessageRole},
    rtsp::{Presentation, RtspRandomAccessTracker},
};

/// Finds the places in a stream. In this order: what every message touches lies together.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct GopSegmenter {
    /// Pictures are of no use before the next start.
    waits: bool,
    flv: FlvRandomAccessTracker,
    /// The same for RTSP.
    rtsp: RtspRandomAccessTracker,
}

impl GopSegmenter {
    /// A stream begins: nothing that depends on what came before is of use.
    pub(crate) fn begin(&mut self) {
        self.flv.reset();
        self.waits = true;
    }

    /// A presentation of RTSP begins.
    pub(crate) fn begin_presentation(&mut self, presentation: &Presentation) {
        self.rtsp.begin(presentation);
    }

    /// A message is missing: pictures are of no use until the next start.
    pub(crate) fn wait_for_start(&mut self) {
        self.waits |= self.flv.has_video() || self.rtsp.has_video();
    }

    /// What a message is; `None` when it is of no use.
    pub(crate) fn observe(&mut self, packet: &Packet) -> Option<MessageRole> {
        let role = match packet.family() {
            MediaFamily::Rtsp => self.rtsp.observe(packet),
            _ => self.flv.observe(packet),
        };
        self.filter_undecodable(role)
    }

    /// What an FLV message is of which there may be no packet; `packet` makes one, if it is to be kept.
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

    /// A message that was observed passes, and is not handed over.
    pub(crate) fn pass_over(&mut self, role: MessageRole) {
        self.waits &= role != MessageRole::RandomAccess;
    }

    /// Adds a message that was observed to what is to be handed over.
    pub(crate) fn push(&mut self, out: &mut MediaBatch, packet: Packet, role: MessageRole) {
        if role == MessageRole::RandomAccess {
            out.mark_entry_point(match packet.family() {
                MediaFamily::Rtsp => self.rtsp.preamble(),
                _ => self.flv.preamble(),
            });
        }
        self.pass_over(role);
        out.packets.push(packet);
    }

    /// What the stream consists of, once, when that is first known and whenever it changes.
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
        ring.keep_from_start(1 << 20);
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
