//! Sockets: UDP in batches (GSO, GRO, recvmmsg, gathered sends). The only module where `unsafe` may stand.

mod interface;
mod udp;

pub(crate) use interface::advertised_ip;
pub(crate) use udp::{Datagram, Egress, Multicast, Received, Receiver, Sender, UdpOptions, UdpSocket};
