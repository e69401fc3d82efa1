//! Forward error correction of RTP (SMPTE ST 2022-1): the sockets beside that of the media, at its port plus two and plus
//! four.

use super::side::beside;
use crate::{
    endpoint::Status,
    net::{Datagram, Sender, UdpOptions, UdpSocket},
    proto::rtp::{FecEncoder, FecPacket},
};
use std::{io, net::SocketAddr};

/// Distances of the ports of columns and rows from the port of the media.
pub(super) const PORTS: [u16; 2] = [2, 4];
/// Sender of the FEC packets of one destination.
pub(super) struct FecSender {
    encoder: FecEncoder,
    /// Sockets of columns and rows.
    sockets: [(UdpSocket, Sender); 2],
    queue: Vec<FecPacket>,
}

impl FecSender {
    /// Opens the sockets to a destination, whose media goes to `peer`.
    pub(super) fn open(encoder: FecEncoder, peer: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let open = |distance| {
            let socket = UdpSocket::sending(beside(peer, distance)?, options)?;
            let sender = Sender::new(&socket);
            io::Result::Ok((socket, sender))
        };
        let [columns, rows] = PORTS.map(open);
        Ok(Self { encoder, sockets: [columns?, rows?], queue: Vec::new() })
    }

    /// Takes a datagram of the media that was sent.
    pub(super) fn push(&mut self, datagram: &Datagram<'_>) {
        if let Some(header) = datagram.head.first_chunk() {
            self.encoder.push(header, datagram.body, &mut self.queue);
        } else if let Some((header, payload)) = datagram.body.split_first_chunk() {
            self.encoder.push(header, payload, &mut self.queue);
        }
    }

    /// Sends the FEC packets that have come to be. `counts`: whether they count in the statistics.
    pub(super) fn flush(&mut self, status: &Status, counts: bool) {
        for FecPacket { is_row, bytes } in self.queue.drain(..) {
            let (socket, sender) = &mut self.sockets[usize::from(is_row)];
            let sent = sender.send(socket, &[Datagram { head: &[], body: &bytes }]);
            if counts {
                let passed = sent.done.saturating_sub(sent.refused) as u64;
                status.counters.repairs.add(passed);
                status.counters.dropped.add(1u64.saturating_sub(passed));
            }
        }
    }
}
