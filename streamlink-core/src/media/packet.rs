//! Packets: one unit of media of one family, shared without copying.

use crate::lock;
use bytes::Bytes;
use std::{fmt, time::Instant};

/// Family of media that a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MediaFamily {
    /// Datagrams with any payload, most often MPEG-TS: the family of SRT.
    Datagrams,
    /// RTP packets.
    Rtp,
    /// FLV audio, video and data messages.
    Rtmp,
    /// RTP packets of the tracks of an RTSP presentation.
    Rtsp,
}

impl MediaFamily {
    /// All families.
    pub const ALL: &'static [Self] = &[Self::Datagrams, Self::Rtp, Self::Rtmp, Self::Rtsp];
}

/// Maximum ratio of a buffer to the packet that keeps it in memory.
const SHARE: usize = 8;

/// Takes a packet that may be kept out of the buffer of so many bytes in which it lies, by copying it, if it is small
/// against it. One that takes up an eighth is left there.
pub(crate) fn compact(data: Bytes, buffer: usize) -> Bytes {
    if data.len() < buffer / SHARE { Bytes::copy_from_slice(&data) } else { data }
}

impl fmt::Display for MediaFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Datagrams => "Datagrams",
            Self::Rtp => "RTP",
            Self::Rtmp => "RTMP",
            Self::Rtsp => "RTSP",
        })
    }
}

/// The kind of an RTMP media message, by its message type id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RtmpKind {
    /// Message type 8: an FLV audio tag.
    Audio,
    /// Message type 9: an FLV video tag.
    Video,
    /// Message type 18: an AMF0 data message, such as `onMetaData`.
    Data,
}

/// One unit of media: a datagram, an RTP packet, an FLV message, or an RTP packet of an RTSP track.
///
/// Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Packet {
    data: Bytes,
    arrival: Instant,
    kind: PacketKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PacketKind {
    Datagram,
    Rtp,
    Rtmp { kind: RtmpKind, timestamp: u32 },
    Rtsp { track: u8 },
}

impl Drop for Packet {
    /// Releases the bytes, which may run code of the host: not while this thread holds a lock.
    fn drop(&mut self) {
        if lock::is_held() {
            lock::release(std::mem::take(&mut self.data));
        }
    }
}

impl Packet {
    /// Makes a datagram with any payload.
    pub fn datagram(payload: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: payload.into(), arrival, kind: PacketKind::Datagram }
    }

    /// Makes an RTP packet, header included (RFC 3550 section 5.1). The header is checked when it enters a flow.
    pub fn rtp(packet: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: packet.into(), arrival, kind: PacketKind::Rtp }
    }

    /// Makes an RTMP media message of its body, and its timestamp in milliseconds.
    pub fn rtmp(kind: RtmpKind, timestamp: u32, body: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: body.into(), arrival, kind: PacketKind::Rtmp { kind, timestamp } }
    }

    /// Makes an RTP or RTCP packet of one track of an RTSP presentation; tracks are numbered as in the SDP, from 0.
    pub fn rtsp(track: u8, packet: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: packet.into(), arrival, kind: PacketKind::Rtsp { track } }
    }

    /// Returns the same packet with other bytes.
    pub(crate) fn with_data(&self, data: Bytes) -> Self {
        Self { data, arrival: self.arrival, kind: self.kind }
    }

    /// Returns the bytes: the datagram, the whole RTP packet, or the body of the message.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns the same packet in memory of its own, as long as its bytes are.
    ///
    /// For a host that keeps packets. As it comes from a flow, a packet may lie in memory that it shares with those that
    /// came with it, up to 128 KiB, which stays for as long as any of them does.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.with_data(Bytes::copy_from_slice(&self.data))
    }

    /// Returns the time of arrival: for a socket, when the kernel received the packet.
    pub fn arrival(&self) -> Instant {
        self.arrival
    }

    /// Returns the family that this packet belongs to.
    pub fn family(&self) -> MediaFamily {
        match self.kind {
            PacketKind::Datagram => MediaFamily::Datagrams,
            PacketKind::Rtp => MediaFamily::Rtp,
            PacketKind::Rtmp { .. } => MediaFamily::Rtmp,
            PacketKind::Rtsp { .. } => MediaFamily::Rtsp,
        }
    }

    /// Returns the kind and the timestamp in milliseconds of an RTMP message; `None` for other families.
    pub fn rtmp_message(&self) -> Option<(RtmpKind, u32)> {
        match self.kind {
            PacketKind::Rtmp { kind, timestamp } => Some((kind, timestamp)),
            _ => None,
        }
    }

    /// Returns the track of an RTP packet of an RTSP presentation; `None` for other families.
    pub fn rtsp_track(&self) -> Option<u8> {
        match self.kind {
            PacketKind::Rtsp { track } => Some(track),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_detached_from_its_buffer_is_the_same() {
        let buffer = Bytes::from(vec![5; 1000]);
        let packet = Packet::rtsp(3, buffer.slice(100..200), Instant::now());
        let detached = packet.detached();
        assert_eq!((detached.data(), detached.arrival()), (packet.data(), packet.arrival()));
        assert_eq!(detached.rtsp_track(), Some(3));
        assert_ne!(detached.data().as_ptr(), packet.data().as_ptr());
    }

    #[test]
    fn packet_is_copied_when_small_against_its_buffer() {
        let buffer = Bytes::from(vec![5; 1000]);
        let copied = |length: usize| compact(buffer.slice(..length), buffer.len()).as_ptr() != buffer.as_ptr();
        assert_eq!((copied(124), copied(125), copied(1000)), (true, false, false));
    }
}
