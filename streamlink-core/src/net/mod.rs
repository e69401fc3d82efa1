//! Sockets: UDP in batches (GSO, GRO, recvmmsg, gathered sends), vectored TCP, alone or many sockets together, TLS, and a
//! precise timer. The only module where `unsafe` may stand.

mod alarm;
mod descriptors;
mod feed;
mod interface;
mod nest;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod udp;

pub(crate) use alarm::Alarm;
pub(crate) use descriptors::{DescriptorBudget, DescriptorPermit, SpareDescriptor, is_out_of_descriptors};
pub(crate) use feed::{Fed, Next, Take};
pub(crate) use interface::advertised_ip;
pub(crate) use nest::{Keeper, Nest};
#[cfg(test)]
pub(crate) use tcp::Secured;
pub(crate) use tcp::{Stream, listen};
pub(crate) use tls::{TlsClient, TlsServer};
pub(crate) use udp::{Datagram, Egress, Multicast, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket};
