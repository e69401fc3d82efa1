//! Groups of pictures: among FLV messages and RTP packets of RTSP tracks, the places where a player may start. A late
//! player begins with the last of them, and one that has lost something goes on with the next.

use super::MediaBatch;
use crate::media::{
    MediaFamily, Packet, RtmpKind,
    flv::{Moment, StartPoints},
    rtsp::{Presentation, RtspStarts},
};

/// Finds the places in a stream. In this order: what every message touches lies together.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct GopCutter {
    /// Pictures are of no use before the next start.
    waits: bool,
    points: StartPoints,
    /// The same for RTSP.
    starts: RtspStarts,
}

impl GopCutter {
    /// A stream begins: nothing that depends on what came before is of use.
    pub(crate) fn begin(&mut self) {
        self.points.reset();
        self.waits = true;
    }

    /// A presentation of RTSP begins.
    pub(crate) fn begin_presentation(&mut self, presentation: &Presentation) {
        self.starts.begin(presentation);
    }

    /// A message is missing: pictures are of no use until the next start.
    pub(crate) fn wait_for_start(&mut self) {
        self.waits |= self.points.has_video() || self.starts.has_video();
    }

    /// What a message is; `None` when it is of no use.
    pub(crate) fn observe(&mut self, packet: &Packet) -> Option<Moment> {
        let moment = match packet.family() {
            MediaFamily::Rtsp => self.starts.observe(packet),
            _ => self.points.observe(packet),
        };
        self.unless_useless(moment)
    }

    /// What an FLV message is of which there may be no packet; `packet` makes one, if it is to be kept.
    pub(crate) fn observe_body(
        &mut self,
        kind: RtmpKind,
        body: &[u8],
        packet: impl FnOnce() -> Packet,
    ) -> Option<Moment> {
        let moment = self.points.observe_body(kind, body, packet);
        self.unless_useless(moment)
    }

    fn unless_useless(&self, moment: Moment) -> Option<Moment> {
        (!(self.waits && moment == Moment::Sample { video: true })).then_some(moment)
    }

    /// A message that was observed passes, and is not handed over.
    pub(crate) fn pass_over(&mut self, moment: Moment) {
        self.waits &= moment != Moment::Start;
    }

    /// Adds a message that was observed to what is to be handed over.
    pub(crate) fn push(&mut self, out: &mut MediaBatch, packet: Packet, moment: Moment) {
        if moment == Moment::Start {
            out.mark_entry_point(match packet.family() {
                MediaFamily::Rtsp => self.starts.preamble(),
                _ => self.points.preamble(),
            });
        }
        self.pass_over(moment);
        out.packets.push(packet);
    }

    /// What the stream consists of, once, when that is first known and whenever it changes.
    pub(crate) fn description(&mut self) -> Option<String> {
        self.points.description()
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
        let (mut cutter, mut out) = (GopCutter::default(), MediaBatch::default());
        cutter.begin();
        let mut give = |kind, body: &'static [u8]| {
            let packet = Packet::rtmp(kind, 0, body, Instant::now());
            let moment = cutter.observe(&packet);
            if let Some(moment) = moment {
                cutter.push(&mut out, packet, moment);
            }
            moment.is_some()
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
        cutter.wait_for_start();
        let packet = |body: &'static [u8]| Packet::rtmp(RtmpKind::Video, 0, body, Instant::now());
        assert_eq!(cutter.observe(&packet(sample)), None);
        assert_eq!(cutter.observe(&packet(key)), Some(Moment::Start));
    }
}
