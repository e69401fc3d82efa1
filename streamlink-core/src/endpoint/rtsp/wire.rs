//! Packets in a connection: interleaved frames (RFC 2326 section 10.12).

use super::super::tcp::Wire;
use crate::{
    media::{
        Packet,
        rtsp::{is_rtcp, usual_channels},
    },
    proto::rtsp::SetUp,
    router::Batch,
};
use bytes::Bytes;
use std::sync::Arc;

/// The channels of the tracks of one connection.
#[derive(Clone, Debug)]
pub(super) struct Interleaved {
    tracks: Vec<Option<SetUp>>,
    /// All tracks are wanted, on the channels that nearly everybody takes: those of the first are 0 and 1, and so on.
    is_usual: bool,
}

impl Interleaved {
    pub(super) fn new(tracks: &[Option<SetUp>]) -> Self {
        let is_usual = |(number, track): (usize, &Option<SetUp>)| {
            let usual = usual_channels(number).map(|(rtp, rtcp)| SetUp::Tcp { rtp, rtcp });
            usual.is_some() && *track == usual
        };
        Self { tracks: tracks.to_vec(), is_usual: tracks.iter().enumerate().all(is_usual) }
    }

    /// Whether batches can be sent as they are laid out for many.
    pub(super) fn is_usual(&self) -> bool {
        self.is_usual
    }

    /// The track of a channel, if it has one.
    pub(super) fn track(&self, channel: u8) -> Option<usize> {
        let has = |track: &Option<SetUp>| matches!(track, Some(SetUp::Tcp { rtp, rtcp }) if *rtp == channel || *rtcp == channel);
        self.tracks.iter().position(has)
    }
}

/// The four bytes before a packet; `None`: nobody asked for its track.
type Head = Option<([u8; 4], usize)>;

impl Wire for Interleaved {
    type Head = Head;
    const EMPTY: Head = None;

    fn head(&self, packet: &Packet, _: Option<u32>) -> Head {
        let Some(SetUp::Tcp { rtp, rtcp }) = self.tracks.get(usize::from(packet.rtsp_track()?))? else { return None };
        let channel = if is_rtcp(packet.data()) { *rtcp } else { *rtp };
        let [high, low] = u16::try_from(packet.data().len()).ok()?.to_be_bytes();
        Some(([b'$', channel, high, low], packet.data().len()))
    }

    fn total(head: &Head) -> usize {
        head.map_or(0, |(bytes, body)| bytes.len() + body)
    }

    fn slices<'a>(head: &'a Head, body: &'a [u8], from: usize, mut take: impl FnMut(&'a [u8]) -> bool) -> bool {
        let Some((bytes, _)) = head else { return true };
        match bytes.get(from..).filter(|rest| !rest.is_empty()) {
            Some(rest) => take(rest) && take(body),
            None => take(body.get(from.saturating_sub(bytes.len())..).unwrap_or_default()),
        }
    }

    fn image<'a>(&self, batch: &'a Batch) -> Option<&'a Bytes> {
        batch.frames().filter(|_| self.is_usual)
    }

    fn altered(&self, _: &[Packet]) -> Option<Arc<[Packet]>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn packets_go_on_the_channels_of_their_tracks_from_any_position() {
        let wire =
            Interleaved::new(&[Some(SetUp::Tcp { rtp: 0, rtcp: 1 }), None, Some(SetUp::Tcp { rtp: 6, rtcp: 9 })]);
        let packet = |track, kind| Packet::rtsp(track, vec![0x80, kind, 3, 4, 5], Instant::now());
        let bytes = |packet: &Packet, from| {
            let head = wire.head(packet, None);
            let mut out = Vec::new();
            Interleaved::slices(&head, packet.data(), from, |slice| {
                out.extend_from_slice(slice);
                true
            });
            (Interleaved::total(&head), out)
        };
        let whole = [b'$', 6, 0, 5, 0x80, 96, 3, 4, 5];
        for from in 0..whole.len() {
            assert_eq!(bytes(&packet(2, 96), from), (9, whole[from..].to_vec()));
        }
        assert_eq!(bytes(&packet(2, 200), 0).1[..4], [b'$', 9, 0, 5]);
        assert_eq!(bytes(&packet(1, 96), 0), (0, vec![]));
        assert_eq!(bytes(&packet(9, 96), 0), (0, vec![]));
        assert_eq!((wire.track(9), wire.track(2)), (Some(2), None));
    }
}
