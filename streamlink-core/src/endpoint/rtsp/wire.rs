//! Framing of packets on one connection as interleaved frames (RFC 2326 section 10.12).

use super::super::tcp::Wire;
use crate::{
    media::{Packet, rtsp::is_rtcp},
    proto::rtsp::SetUp,
    router::{Batch, BatchLayout, WriteOutcome},
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Channels of the tracks of one connection.
#[derive(Clone, Debug)]
pub(super) struct Interleaved {
    tracks: Vec<Option<SetUp>>,
    /// All tracks are set up on their usual channels.
    is_usual: bool,
}

/// Returns the usual channels for RTP and RTCP of a track: 0 and 1 for the first, 2 and 3 for the second.
fn usual_channels(track: usize) -> Option<(u8, u8)> {
    let rtp = u8::try_from(track.checked_mul(2)?).ok()?;
    Some((rtp, rtp.checked_add(1)?))
}

/// Writes a packet as a frame on its usual channel.
fn write_usual(packet: &Packet, out: &mut BytesMut) -> WriteOutcome {
    let channels = packet.rtsp_track().and_then(|track| usual_channels(track.into()));
    let (Some((rtp, rtcp)), Ok(length)) = (channels, u16::try_from(packet.data().len())) else {
        return WriteOutcome::Unsupported;
    };
    out.extend_from_slice(&[b'$', if is_rtcp(packet.data()) { rtcp } else { rtp }]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(packet.data());
    WriteOutcome::Whole
}

impl Interleaved {
    pub(super) fn new(tracks: &[Option<SetUp>]) -> Self {
        let is_usual = |(number, track): (usize, &Option<SetUp>)| {
            let usual = usual_channels(number).map(|(rtp, rtcp)| SetUp::Tcp { rtp, rtcp });
            usual.is_some() && *track == usual
        };
        Self { tracks: tracks.to_vec(), is_usual: tracks.iter().enumerate().all(is_usual) }
    }

    /// Returns the batch layout that connections with these channels share, if there is one.
    pub(super) fn layout(&self) -> Option<BatchLayout> {
        self.is_usual.then_some(BatchLayout::Framed(write_usual))
    }

    /// Returns the track of a channel, if there is one. Some servers agree on other channels than they were asked for,
    /// and use those that they were asked for.
    pub(super) fn track(&self, channel: u8) -> Option<usize> {
        let has = |track: &Option<SetUp>| matches!(track, Some(SetUp::Tcp { rtp, rtcp }) if *rtp == channel || *rtcp == channel);
        let usual = || {
            let track = usize::from(channel / 2);
            matches!(self.tracks.get(track), Some(Some(SetUp::Tcp { .. }))).then_some(track)
        };
        self.tracks.iter().position(has).or_else(usual)
    }
}

/// Frame header of four bytes, and the length of the packet. `None`: the track was not set up.
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

    fn framed_bytes<'a>(&self, batch: &'a Batch) -> Option<&'a Bytes> {
        batch.framed_bytes().filter(|_| self.is_usual)
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
    fn rtsp_shared_layout_matches_individual_frames() {
        let usual = [0, 1].map(|track| usual_channels(track).map(|(rtp, rtcp)| SetUp::Tcp { rtp, rtcp }));
        let wire = Interleaved::new(&usual);
        assert!(wire.layout().is_some());
        for (track, kind) in [(0, 96), (0, 200), (1, 97), (1, 201)] {
            let packet = Packet::rtsp(track, vec![0x80, kind, 3, 4, 5], Instant::now());
            let head = wire.head(&packet, None);
            let mut alone = BytesMut::new();
            let mut laid_out = BytesMut::new();
            Interleaved::slices(&head, packet.data(), 0, |slice| {
                alone.extend_from_slice(slice);
                true
            });
            assert_eq!(write_usual(&packet, &mut laid_out), WriteOutcome::Whole);
            assert_eq!(laid_out, alone);
        }
        let too_long = Packet::rtsp(0, vec![0x80; 65_536], Instant::now());
        assert_eq!(write_usual(&too_long, &mut BytesMut::new()), WriteOutcome::Unsupported);
        let unusual = Interleaved::new(&[Some(SetUp::Tcp { rtp: 2, rtcp: 3 })]);
        assert!(unusual.layout().is_none() && Interleaved::new(&[None]).layout().is_none());
    }

    #[test]
    fn rtsp_packets_use_the_channels_of_their_tracks() {
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

    #[test]
    fn rtsp_frames_on_the_channels_asked_for_belong_to_their_track() {
        let tcp = |rtp: u8| Some(SetUp::Tcp { rtp, rtcp: rtp + 1 });
        let other = Interleaved::new(&[tcp(8), tcp(10)]);
        let found = [8, 11, 0, 1, 3, 4, 12].map(|channel| other.track(channel));
        assert_eq!(found, [Some(0), Some(1), Some(0), Some(0), Some(1), None, None]);
        // The channels agreed on come first.
        let crossed = Interleaved::new(&[tcp(2), tcp(0)]);
        assert_eq!([0, 2].map(|channel| crossed.track(channel)), [Some(1), Some(0)]);
        let udp = Interleaved::new(&[Some(SetUp::Udp)]);
        assert_eq!(udp.track(0), None);
    }
}
