//! Sockets: UDP in batches (GSO, GRO, recvmmsg, gathered sends), vectored TCP, and a precise timer. The only module where `unsafe` may stand.

mod alarm;
mod interface;
mod tcp;
mod udp;

pub(crate) use alarm::Alarm;
pub(crate) use interface::advertised_ip;
pub(crate) use tcp::{Stream, listen};
pub(crate) use udp::{Datagram, Egress, Multicast, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket};
