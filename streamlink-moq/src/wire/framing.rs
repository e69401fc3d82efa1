//! Objects of packets that are no MPEG-TS: a header, and packets with their kind, time and length.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::time::Instant;
use streamlink_core::{MediaFamily, Packet, RtmpKind};

/// First byte of a framed object. An object of MPEG-TS begins with 0x47.
const VERSION: u8 = 1;
/// Flag of the header: the sequence number before the first packet is known.
const FOLLOWS: u8 = 1;
/// Length of the header of an object: version, flags, sequence number before.
const OBJECT_HEADER: usize = 4;
/// Length of the header of a packet: kind, time or track, length.
const PACKET_HEADER: usize = 9;
/// Bit of a packet's kind: a header that was published before, for those who join here.
const REPEATED: u8 = 0x80;
/// Maximum number of packets of an object.
const MAX_PACKETS: usize = 4096;
/// Maximum size of a packet, in bytes: that of an app source.
const MAX_PACKET: usize = 16 << 20;
/// Maximum size of an object, in bytes.
pub(crate) const MAX_OBJECT: usize = MAX_PACKET + (1 << 20);
/// Size from which an object takes no more packets, in bytes.
const FULL_OBJECT: usize = 32 << 10;

/// Reason why an object from a relay is not one of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The object is empty.
    #[error("the object is empty")]
    Empty,
    /// The object is of a version that is not known.
    #[error("the object is of version {0}")]
    Version(u8),
    /// The object ends within a header or a packet.
    #[error("the object is cut short")]
    Truncated,
    /// A packet is of a kind that is not known.
    #[error("a packet is of kind {0}")]
    Kind(u8),
    /// A packet is of another family than the broadcast.
    #[error("a packet of family {found} in a broadcast of family {expected}")]
    Family {
        /// Family of the packet.
        found: MediaFamily,
        /// Family in the catalog.
        expected: MediaFamily,
    },
    /// The object has more than 4096 packets, or one of more than 16 MiB.
    #[error("the object is larger than permitted")]
    TooLarge,
    /// An MPEG-TS object is not a row of whole packets of 188 bytes that begin with 0x47.
    #[error("the object is not a row of whole MPEG-TS packets")]
    TransportStream,
    /// An RTP packet is shorter than its header, or of another version than 2.
    #[error("an RTP packet is malformed")]
    Rtp,
}

/// A packet of media from an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaPacket {
    pub(crate) kind: Kind,
    /// Set if this is a header that was published before.
    pub(crate) is_repeated: bool,
    pub(crate) data: Bytes,
}

/// Kind of a packet, with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Datagram,
    Rtp,
    Rtmp(RtmpKind, u32),
    Rtsp(u8),
}

impl Kind {
    fn of(packet: &Packet) -> Option<Self> {
        Some(match packet.family() {
            MediaFamily::Datagrams => Self::Datagram,
            MediaFamily::Rtp => Self::Rtp,
            MediaFamily::Rtmp => {
                let (kind, time) = packet.rtmp_message()?;
                Self::Rtmp(kind, time)
            }
            MediaFamily::Rtsp => Self::Rtsp(packet.rtsp_track()?),
            _ => return None,
        })
    }

    fn family(self) -> MediaFamily {
        match self {
            Self::Datagram => MediaFamily::Datagrams,
            Self::Rtp => MediaFamily::Rtp,
            Self::Rtmp(..) => MediaFamily::Rtmp,
            Self::Rtsp(_) => MediaFamily::Rtsp,
        }
    }

    /// Returns the number of the kind, and the time or the track. `None` for a kind that this version cannot carry.
    fn encode(self) -> Option<(u8, u32)> {
        Some(match self {
            Self::Datagram => (0, 0),
            Self::Rtp => (1, 0),
            Self::Rtmp(RtmpKind::Audio, time) => (2, time),
            Self::Rtmp(RtmpKind::Video, time) => (3, time),
            Self::Rtmp(RtmpKind::Data, time) => (4, time),
            Self::Rtmp(..) => return None,
            Self::Rtsp(track) => (5, u32::from(track)),
        })
    }

    fn decode(number: u8, meta: u32) -> Result<Self, FrameError> {
        Ok(match number {
            0 => Self::Datagram,
            1 => Self::Rtp,
            2 => Self::Rtmp(RtmpKind::Audio, meta),
            3 => Self::Rtmp(RtmpKind::Video, meta),
            4 => Self::Rtmp(RtmpKind::Data, meta),
            5 => Self::Rtsp(u8::try_from(meta).map_err(|_| FrameError::Kind(number))?),
            other => return Err(FrameError::Kind(other)),
        })
    }
}

impl MediaPacket {
    /// Makes a packet for an app source.
    pub(crate) fn into_packet(self, now: Instant) -> Packet {
        match self.kind {
            Kind::Datagram => Packet::datagram(self.data, now),
            Kind::Rtp => Packet::rtp(self.data, now),
            Kind::Rtmp(kind, time) => Packet::rtmp(kind, time, self.data, now),
            Kind::Rtsp(track) => Packet::rtsp(track, self.data, now),
        }
    }
}

/// Puts packets into an object.
#[derive(Debug, Default)]
pub(crate) struct ObjectBuilder {
    bytes: BytesMut,
    packets: usize,
}

impl ObjectBuilder {
    /// Adds a packet. `false` if it cannot be carried.
    pub(crate) fn push(&mut self, packet: &Packet, is_repeated: bool, follows: Option<u16>) -> bool {
        let Some((kind, meta)) = Kind::of(packet).and_then(Kind::encode) else { return false };
        let Ok(length) = u32::try_from(packet.data().len()) else { return false };
        if packet.data().len() > MAX_PACKET {
            return false;
        }
        if self.packets == 0 {
            self.bytes.put_u8(VERSION);
            self.bytes.put_u8(if follows.is_some() { FOLLOWS } else { 0 });
            self.bytes.put_u16(follows.unwrap_or_default());
        }
        self.bytes.reserve(PACKET_HEADER + packet.data().len());
        self.bytes.put_u8(if is_repeated { kind | REPEATED } else { kind });
        self.bytes.put_u32(meta);
        self.bytes.put_u32(length);
        self.bytes.put_slice(packet.data());
        self.packets += 1;
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Returns the length of the object with a packet of so many bytes added.
    pub(crate) fn len_with(&self, packet: usize) -> usize {
        self.bytes.len().max(OBJECT_HEADER).saturating_add(PACKET_HEADER).saturating_add(packet)
    }

    /// Returns whether the object should be published before more packets are added.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_OBJECT || self.packets >= MAX_PACKETS
    }

    /// Returns the object, and begins another.
    pub(crate) fn take(&mut self) -> Bytes {
        self.packets = 0;
        self.bytes.split().freeze()
    }
}

/// Packets of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DecodedObject {
    /// Sequence number of the RTP packet before the first one, at its publisher.
    pub(crate) follows: Option<u16>,
    pub(crate) packets: Vec<MediaPacket>,
}

/// Reads an object of media from a relay.
pub(crate) fn decode(object: &Bytes, family: MediaFamily) -> Result<DecodedObject, FrameError> {
    let Some(first) = object.first() else { return Err(FrameError::Empty) };
    if object.len() > MAX_OBJECT {
        return Err(FrameError::TooLarge);
    }
    if *first == super::ts::SYNC {
        if family != MediaFamily::Datagrams {
            return Err(FrameError::Family { found: MediaFamily::Datagrams, expected: family });
        }
        if !super::is_transport_stream(object) {
            return Err(FrameError::TransportStream);
        }
        let packet = MediaPacket { kind: Kind::Datagram, is_repeated: false, data: object.clone() };
        return Ok(DecodedObject { follows: None, packets: vec![packet] });
    }
    let mut rest = object.clone();
    if rest.len() < OBJECT_HEADER {
        return Err(if *first == VERSION { FrameError::Truncated } else { FrameError::Version(*first) });
    }
    let version = rest.get_u8();
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let flags = rest.get_u8();
    let before = rest.get_u16();
    let mut decoded = DecodedObject { follows: (flags & FOLLOWS != 0).then_some(before), packets: Vec::new() };
    while !rest.is_empty() {
        if rest.len() < PACKET_HEADER {
            return Err(FrameError::Truncated);
        }
        let number = rest.get_u8();
        let meta = rest.get_u32();
        let length = usize::try_from(rest.get_u32()).unwrap_or(usize::MAX);
        if length > MAX_PACKET || decoded.packets.len() >= MAX_PACKETS {
            return Err(FrameError::TooLarge);
        }
        if length > rest.len() {
            return Err(FrameError::Truncated);
        }
        let kind = Kind::decode(number & !REPEATED, meta)?;
        if kind.family() != family {
            return Err(FrameError::Family { found: kind.family(), expected: family });
        }
        let data = rest.split_to(length);
        if kind == Kind::Rtp && !super::number::is_rtp(&data) {
            return Err(FrameError::Rtp);
        }
        decoded.packets.push(MediaPacket { kind, is_repeated: number & REPEATED != 0, data });
    }
    if decoded.packets.is_empty() { Err(FrameError::Empty) } else { Ok(decoded) }
}

/// Reads an object of the track `media` and returns the payloads of its packets: the entry point for tests and fuzzers.
///
/// # Errors
/// [`FrameError`] for bytes that are no such object. Never panics, and allocates no more than the object's own length
/// warrants.
pub fn decode_object(object: &Bytes, family: MediaFamily) -> Result<Vec<Bytes>, FrameError> {
    Ok(decode(object, family)?.packets.into_iter().map(|packet| packet.data).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(seq: u16) -> Packet {
        let mut data = vec![0x80, 96];
        data.extend(seq.to_be_bytes());
        data.extend([0; 8]);
        Packet::rtp(data, Instant::now())
    }

    #[test]
    fn framed_object_keeps_packets_kinds_and_times() {
        let now = Instant::now();
        let packets = [
            Packet::rtmp(RtmpKind::Data, 0, &b"meta"[..], now),
            Packet::rtmp(RtmpKind::Video, u32::MAX, &b"v"[..], now),
            Packet::rtmp(RtmpKind::Audio, 7, Bytes::new(), now),
        ];
        let mut builder = ObjectBuilder::default();
        for (index, packet) in packets.iter().enumerate() {
            assert!(builder.push(packet, index == 0, None));
        }
        let decoded = decode(&builder.take(), MediaFamily::Rtmp).unwrap();
        assert!(builder.is_empty());
        for (packet, sent) in decoded.packets.iter().zip(&packets) {
            let packet = packet.clone().into_packet(now);
            assert_eq!((packet.rtmp_message(), packet.data()), (sent.rtmp_message(), sent.data()));
        }
        assert_eq!(decoded.packets.iter().map(|p| p.is_repeated).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn framed_object_tells_the_sequence_number_before() {
        let mut builder = ObjectBuilder::default();
        assert!(builder.push(&rtp(7), false, Some(5)) && builder.push(&rtp(8), false, Some(7)));
        let decoded = decode(&builder.take(), MediaFamily::Rtp).unwrap();
        assert_eq!((decoded.follows, decoded.packets.len()), (Some(5), 2));
    }

    #[test]
    fn decode_refuses_what_is_no_object() {
        let decode = |bytes: &'static [u8], family| decode_object(&Bytes::from_static(bytes), family);
        let datagrams = MediaFamily::Datagrams;
        assert_eq!(decode(&[], datagrams), Err(FrameError::Empty));
        assert_eq!(decode(&[1, 0], datagrams), Err(FrameError::Truncated));
        assert_eq!(decode(&[1, 0, 0, 0], datagrams), Err(FrameError::Empty));
        assert_eq!(decode(&[9, 9, 9, 9, 9], datagrams), Err(FrameError::Version(9)));
        assert_eq!(decode(&[0x47; 187], datagrams), Err(FrameError::TransportStream));
        assert_eq!(decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1], datagrams), Err(FrameError::Truncated));
        assert_eq!(decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], datagrams), Err(FrameError::TooLarge));
        assert_eq!(decode(&[1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0], datagrams), Err(FrameError::Kind(6)));
        assert_eq!(decode(&[1, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0], MediaFamily::Rtsp), Err(FrameError::Kind(5)));
        assert_eq!(decode(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], MediaFamily::Rtp), Err(FrameError::Rtp));
        let family = FrameError::Family { found: MediaFamily::Rtp, expected: datagrams };
        assert_eq!(decode(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], datagrams), Err(family));
    }
}
