//! UDP sockets that receive and send in batches.

mod receive;
mod send;
mod socket;

pub(crate) use receive::{Received, Receiver};
pub(crate) use send::{Datagram, Peer, Sender};
pub(crate) use socket::{Egress, Multicast, UdpOptions, UdpSocket};
