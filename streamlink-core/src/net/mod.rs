//! Sockets: UDP in batches (GSO, GRO, recvmmsg, gathered sends), vectored TCP with and without TLS, groups of TCP
//! sockets that are read together, and a precise timer. The only module where `unsafe` may stand.

mod descriptors;
#[cfg(test)]
mod egress_tests;
mod epoll_group;
mod interface;
mod read_sink;
mod tcp;
mod timer_fd;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod tls_error;
#[cfg(feature = "tls")]
mod tls_trust;
mod udp;

pub(crate) use descriptors::{DescriptorBudget, DescriptorPermit, SpareDescriptor, is_out_of_descriptors};
pub(crate) use epoll_group::{EpollGroup, GroupPoller};
pub(crate) use interface::{advertised_ip, check_congestion, is_local_ip};
pub(crate) use read_sink::{ReadAction, ReadOutcome, ReadSink};
#[cfg(test)]
pub(crate) use tcp::Secured;
pub(crate) use tcp::{Stream, listen};
pub(crate) use timer_fd::TimerFd;
pub(crate) use tls::{TlsClient, TlsServer};
pub(crate) use tls_error::{TlsError, TlsErrorKind};
pub(crate) use udp::{Datagram, Egress, Multicast, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket};
