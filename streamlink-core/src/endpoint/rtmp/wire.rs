//! RTMP messages on the wire of one connection.

use super::super::tcp::Wire;
use crate::{
    media::{Packet, RtmpKind, flv::is_metadata},
    proto::rtmp::{ChunkHeads, Framing},
};
use bytes::Bytes;
use std::sync::Arc;

/// `@setDataFrame` as AMF0: a publisher says it before its metadata, so that a server keeps them.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";

/// How one connection wants its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct RtmpWire {
    pub(super) framing: Framing,
    /// The peer is a server, not a player.
    pub(super) publishes: bool,
}

impl Wire for RtmpWire {
    type Head = ChunkHeads;
    const EMPTY: ChunkHeads = ChunkHeads::EMPTY;

    fn head(&self, packet: &Packet, time: Option<u32>) -> ChunkHeads {
        let (kind, own) = packet.rtmp_message().unwrap_or((RtmpKind::Data, 0));
        self.framing.heads(kind.into(), time.unwrap_or(own), self.framing.stream, packet.data().len())
    }

    fn total(head: &ChunkHeads) -> usize {
        head.total()
    }

    fn slices<'a>(head: &'a ChunkHeads, body: &'a [u8], from: usize, take: impl FnMut(&'a [u8]) -> bool) -> bool {
        head.slices(body, from, take)
    }

    fn altered(&self, packets: &[Packet]) -> Option<Arc<[Packet]>> {
        if self.publishes { for_server(packets) } else { None }
    }
}

/// Messages as a server wants them, if that is any different: metadata come with a command.
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
