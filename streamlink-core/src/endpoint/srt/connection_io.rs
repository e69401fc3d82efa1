//! SRT connection on a socket. Its packets are sent in batches.

use super::super::LossReason;
use crate::{
    net::{Datagram, Peer, Sender, UdpSocket},
    proto::srt::{CloseReason, Connection, SendBatch},
};
use std::{net::IpAddr, time::Instant};

/// Maximum number of packets handed to the socket at once.
const CHUNK: usize = 64;

/// Connection with the address of its peer.
#[derive(Debug)]
pub(super) struct ConnectionIo {
    pub(super) connection: Connection,
    sender: Sender,
    to: Option<Peer>,
}

impl ConnectionIo {
    /// Wraps a connection. `to` is `None` on a connected socket.
    pub(super) fn new(connection: Connection, socket: &UdpSocket, to: Option<Peer>) -> Self {
        Self { connection, sender: Sender::new(socket), to }
    }

    /// Sets the differentiated services code point (RFC 2474) of the packets to the peer.
    pub(super) fn mark(&mut self, dscp: Option<u8>, peer: IpAddr) {
        self.sender.mark(dscp, peer);
    }

    /// Changes the address of the peer.
    pub(super) fn redirect(&mut self, to: Peer) {
        self.to = Some(to);
    }

    /// Returns the reason why the connection has ended, if it has.
    pub(super) fn loss(&self) -> Option<LossReason> {
        self.connection.closed().map(|reason| match reason {
            CloseReason::Shutdown => LossReason::Closed,
            CloseReason::Idle => LossReason::Idle,
            CloseReason::Unacknowledged => LossReason::Unacknowledged,
            CloseReason::Protocol(how) => LossReason::Protocol(format!("SRT: {how}").into()),
        })
    }

    /// Sends all packets that are due. Packets that the socket does not take count as lost on the network, and are
    /// retransmitted.
    pub(super) fn flush(&mut self, socket: &UdpSocket, batch: &mut SendBatch, now: Instant) {
        loop {
            self.connection.fill(batch, CHUNK, now);
            if batch.is_empty() {
                return;
            }
            let mut datagrams = [Datagram { head: &[], body: &[] }; CHUNK];
            for (datagram, (head, body)) in datagrams.iter_mut().zip(self.connection.parts(batch)) {
                *datagram = Datagram { head, body };
            }
            self.sender.send_to(socket, self.to.as_ref(), &datagrams[..batch.len()]);
        }
    }
}
