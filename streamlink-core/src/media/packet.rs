//! Packets: one unit of media of one family, shared without copying.

use crate::lock;
use bytes::Bytes;
use std::{fmt, time::Instant};

/// What kind of media a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MediaFamily {
    /// Datagrams with any payload, most often MPEG-TS: what SRT carries.
    Datagrams,
    /// RTP packets.
    Rtp,
    /// FLV audio, video and data messages.
    Rtmp,
    /// RTP packets of the tracks of an RTSP presentation.
    Rtsp,
}

impl fmt::Display for MediaFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MediaFamily::Datagrams => "Datagrams",
            MediaFamily::Rtp => "RTP",
            MediaFamily::Rtmp => "RTMP",
            MediaFamily::Rtsp => "RTSP",
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
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
    /// A datagram with any payload.
    pub fn datagram(payload: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: payload.into(), arrival, kind: Kind::Datagram }
    }

    /// An RTP packet, header included (RFC 3550 section 5.1). Whether it is one is checked where it enters a flow.
    pub fn rtp(packet: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: packet.into(), arrival, kind: Kind::Rtp }
    }

    /// The body of an RTMP media message, and its timestamp in milliseconds.
    pub fn rtmp(kind: RtmpKind, timestamp: u32, body: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: body.into(), arrival, kind: Kind::Rtmp { kind, timestamp } }
    }

    /// An RTP packet, or an RTCP packet, of one track of an RTSP presentation; tracks are numbered as in the SDP,
    /// from 0.
    pub fn rtsp(track: u8, packet: impl Into<Bytes>, arrival: Instant) -> Self {
        Self { data: packet.into(), arrival, kind: Kind::Rtsp { track } }
    }

    /// The same packet with other bytes.
    pub(crate) fn with_data(&self, data: Bytes) -> Self {
        Self { data, arrival: self.arrival, kind: self.kind }
    }

    /// The bytes: the datagram, the whole RTP packet, or the body of the message.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// When the packet came in: for a socket, when the kernel received it.
    pub fn arrival(&self) -> Instant {
        self.arrival
    }

    /// The family that this packet belongs to.
    pub fn family(&self) -> MediaFamily {
        match self.kind {
            Kind::Datagram => MediaFamily::Datagrams,
            Kind::Rtp => MediaFamily::Rtp,
            Kind::Rtmp { .. } => MediaFamily::Rtmp,
            Kind::Rtsp { .. } => MediaFamily::Rtsp,
        }
    }

    /// The kind and the timestamp in milliseconds of an RTMP message.
    pub fn rtmp_message(&self) -> Option<(RtmpKind, u32)> {
        match self.kind {
            Kind::Rtmp { kind, timestamp } => Some((kind, timestamp)),
            _ => None,
        }
    }

    /// The track of an RTP packet of an RTSP presentation.
    pub fn rtsp_track(&self) -> Option<u8> {
        match self.kind {
            Kind::Rtsp { track } => Some(track),
            _ => None,
        }
    }
}
