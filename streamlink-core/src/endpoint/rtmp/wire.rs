//! Framing of RTMP messages on one connection.

use super::super::tcp::Wire;
use crate::{
    media::{Packet, RtmpKind, flv::is_metadata},
    proto::rtmp::{ChunkHeads, Framing},
    router::{Batch, BatchLayout, WriteOutcome},
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// `@setDataFrame` as AMF0. A publisher sends it before its metadata, so that the server stores them.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";

/// Format of the messages on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RtmpWire {
    pub(super) framing: Framing,
    /// The peer is a server, not a player.
    pub(super) publishes: bool,
}

/// Format of all player connections.
const USUAL: RtmpWire = RtmpWire { framing: Framing::PLAYERS, publishes: false };

/// Writes a message in the format of [`USUAL`].
fn write_usual(packet: &Packet, out: &mut BytesMut) -> WriteOutcome {
    USUAL.head(packet, None).slices(packet.data(), 0, |slice| {
        out.extend_from_slice(slice);
        true
    });
    if packet.data().len() <= USUAL.framing.chunk_size { WriteOutcome::Whole } else { WriteOutcome::InPieces }
}

impl RtmpWire {
    /// Returns the batch layout that connections of this format share, if there is one.
    pub(super) fn layout(&self) -> Option<BatchLayout> {
        (*self == USUAL).then_some(BatchLayout::Framed(write_usual))
    }
}

impl Wire for RtmpWire {
    type Head = ChunkHeads;
    const EMPTY: ChunkHeads = ChunkHeads::EMPTY;

    fn head(&self, packet: &Packet, time: Option<u32>) -> ChunkHeads {
        let (kind, own) = packet.rtmp_message().unwrap_or((RtmpKind::Data, 0));
        let time = match time {
            // ffmpeg takes metadata with another time than 0 for a text track of their own.
            Some(_) if kind == RtmpKind::Data && is_metadata(packet.data()) => 0,
            time => time.unwrap_or(own),
        };
        self.framing.heads(kind.into(), time, self.framing.stream, packet.data().len())
    }

    fn total(head: &ChunkHeads) -> usize {
        head.total()
    }

    fn slices<'a>(head: &'a ChunkHeads, body: &'a [u8], from: usize, take: impl FnMut(&'a [u8]) -> bool) -> bool {
        head.slices(body, from, take)
    }

    fn framed_bytes<'a>(&self, batch: &'a Batch) -> Option<&'a Bytes> {
        batch.framed_bytes().filter(|_| *self == USUAL)
    }

    fn altered(&self, packets: &[Packet]) -> Option<Arc<[Packet]>> {
        if self.publishes { for_server(packets) } else { None }
    }
}

/// Puts `@setDataFrame` before metadata, as a server expects. Returns `None` if there are no metadata in `packets`.
fn for_server(packets: &[Packet]) -> Option<Arc<[Packet]>> {
    let metadata = |packet: &Packet| {
        packet.rtmp_message().filter(|(kind, _)| *kind == RtmpKind::Data && is_metadata(packet.data()))
    };
    packets.iter().any(|packet| metadata(packet).is_some()).then(|| {
        let altered = packets.iter().map(|packet| match metadata(packet) {
            Some((kind, time)) => {
                let body = Bytes::from([SET_DATA_FRAME, packet.data()].concat());
                Packet::rtmp(kind, time, body, packet.arrival())
            }
            None => packet.clone(),
        });
        altered.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn rtmp_shared_layout_matches_individual_chunks() {
        assert!(USUAL.layout().is_some());
        for length in [0, 1, 59_999, 60_000, 60_001, 180_001] {
            let packet = Packet::rtmp(RtmpKind::Video, 0x0100_0000, vec![7; length], Instant::now());
            let head = USUAL.head(&packet, None);
            let mut alone = BytesMut::new();
            let mut laid_out = BytesMut::new();
            head.slices(packet.data(), 0, |slice| {
                alone.extend_from_slice(slice);
                true
            });
            assert_eq!(write_usual(&packet, &mut laid_out) == WriteOutcome::Whole, length <= 60_000);
            assert_eq!(laid_out, alone);
            assert_eq!(head.total(), alone.len());
        }
        let server = RtmpWire { publishes: true, ..USUAL };
        assert!(server.layout().is_none());
    }

    #[test]
    fn rtmp_metadata_of_a_late_player_have_time_zero() {
        let metadata = [&b"\x02\x00\x0aonMetaData"[..], b"\x08\0\0\0\0\0\0\x09"].concat();
        let time = |kind, body: &[u8], time| {
            let packet = Packet::rtmp(kind, 7, body.to_vec(), Instant::now());
            let mut out = Vec::new();
            USUAL.head(&packet, time).slices(packet.data(), 0, |slice| {
                out.extend_from_slice(slice);
                true
            });
            u32::from_be_bytes([0, out[1], out[2], out[3]])
        };
        assert_eq!(time(RtmpKind::Data, &metadata, Some(1021)), 0);
        assert_eq!(time(RtmpKind::Data, &metadata, None), 7);
        assert_eq!(time(RtmpKind::Data, b"\x02\x00\x06onText", Some(1021)), 1021);
        assert_eq!(time(RtmpKind::Video, b"\x17\0\0\0\0", Some(1021)), 1021);
    }
}
