//! Headers of RTMP media, which each group repeats for those who join there: metadata and decoder configurations.

use streamlink_core::{Packet, RtmpKind};

/// Maximum size of a header that is repeated, in bytes.
const MAX_HEADER: usize = 64 << 10;

/// The last headers of a flow of family RTMP.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    metadata: Option<Packet>,
    video: Option<Packet>,
    audio: Option<Packet>,
}

impl Headers {
    /// Takes in a message, and keeps it if it is a header.
    pub(crate) fn observe(&mut self, packet: &Packet) {
        let Some((kind, _)) = packet.rtmp_message() else { return };
        let data = packet.data();
        if data.len() > MAX_HEADER {
            return;
        }
        let slot = match kind {
            RtmpKind::Data if is_metadata(data) => &mut self.metadata,
            RtmpKind::Video if is_video_header(data) => &mut self.video,
            RtmpKind::Audio if is_audio_header(data) => &mut self.audio,
            _ => return,
        };
        if slot.as_ref().is_none_or(|known| known.data() != data) {
            *slot = Some(packet.detached());
        }
    }

    /// Returns whether a message is one of these headers.
    pub(crate) fn contains(&self, packet: &Packet) -> bool {
        self.iter().any(|header| {
            header.rtmp_message().map(|(kind, _)| kind) == packet.rtmp_message().map(|(kind, _)| kind)
                && header.data() == packet.data()
        })
    }

    /// Returns the headers, metadata first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Packet> {
        [&self.metadata, &self.video, &self.audio].into_iter().flatten()
    }
}

fn is_metadata(body: &[u8]) -> bool {
    const NAME: &[u8] = b"onMetaData";
    body.get(..32).unwrap_or(body).windows(NAME.len()).any(|window| window == NAME)
}

/// Returns whether an FLV video tag holds a decoder configuration: of AVC and of HEVC with a legacy codec id, or of
/// Enhanced RTMP (packet type 0, `SequenceStart`).
fn is_video_header(body: &[u8]) -> bool {
    match body {
        [first, ..] if first & 0x80 != 0 => first & 0x0f == 0,
        [first, 0, ..] => matches!(first & 0x0f, 7 | 12),
        _ => false,
    }
}

/// Returns whether an FLV audio tag holds a decoder configuration: of AAC, or of Enhanced RTMP.
fn is_audio_header(body: &[u8]) -> bool {
    match body {
        [first, ..] if first >> 4 == 9 => first & 0x0f == 0,
        [first, 0, ..] => first >> 4 == 10,
        _ => false,
    }
}

/// Returns whether an FLV video tag begins a key frame, or is its configuration.
pub(super) fn begins_key_frame(packet: &Packet) -> bool {
    let Some((RtmpKind::Video, _)) = packet.rtmp_message() else { return false };
    packet.data().first().is_some_and(|first| (first >> 4) & 7 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn message(kind: RtmpKind, body: &'static [u8]) -> Packet {
        Packet::rtmp(kind, 0, body, Instant::now())
    }

    #[test]
    fn headers_are_told_from_media() {
        let mut headers = Headers::default();
        for packet in [
            message(RtmpKind::Video, &[0x17, 1, 0, 0, 0]),
            message(RtmpKind::Audio, &[0xaf, 1, 0]),
            message(RtmpKind::Data, b"\x02\0\x07onCuePoint"),
            message(RtmpKind::Video, &[0x91, b'h', b'v', b'c', b'1']),
        ] {
            headers.observe(&packet);
        }
        assert_eq!(headers.iter().count(), 0);
        headers.observe(&message(RtmpKind::Video, &[0x17, 0, 0, 0, 0, 1]));
        headers.observe(&message(RtmpKind::Audio, &[0xaf, 0, 0x12]));
        headers.observe(&message(RtmpKind::Data, b"\x02\0\x0aonMetaData"));
        headers.observe(&message(RtmpKind::Video, &[0x90, b'h', b'v', b'c', b'1', 7]));
        let kinds: Vec<_> = headers.iter().filter_map(Packet::rtmp_message).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [RtmpKind::Data, RtmpKind::Video, RtmpKind::Audio]);
        assert_eq!(headers.iter().nth(1).unwrap().data()[5], 7);
    }

    #[test]
    fn key_frames_of_rtmp_are_seen() {
        assert!(begins_key_frame(&message(RtmpKind::Video, &[0x17, 1])));
        assert!(begins_key_frame(&message(RtmpKind::Video, &[0x91])));
        assert!(!begins_key_frame(&message(RtmpKind::Video, &[0x27, 1])));
        assert!(!begins_key_frame(&message(RtmpKind::Audio, &[0x17, 1])));
    }
}
