//! Forms in which the packets of a flow are carried.

pub(crate) use super::ts::is_transport_stream;
use streamlink_core::{MediaFamily, Packet};

/// Form in which a packet is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carriage {
    /// As an object of MPEG-TS, byte for byte.
    TransportStream,
    /// In an object of packets with their boundaries.
    Framed,
}

impl Carriage {
    /// Returns how a packet is carried.
    pub(crate) fn of(packet: &Packet) -> Self {
        if packet.family() == MediaFamily::Datagrams && is_transport_stream(packet.data()) {
            Self::TransportStream
        } else {
            Self::Framed
        }
    }
}
