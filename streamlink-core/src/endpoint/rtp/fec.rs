//! Forward error correction of RTP (SMPTE ST 2022-1): the sockets beside that of the media, at its port plus two and plus
//! four.

use crate::{
    endpoint::Status,
    net::{Datagram, Sender, UdpOptions, UdpSocket},
    proto::rtp::{FecEncoder, FecPacket},
};
use std::{future::poll_fn, io, net::SocketAddr, task::Poll};

/// Distances of the ports of columns and rows from the port of the media.
const PORTS: [u16; 2] = [2, 4];
/// Number of attempts to find ports for all three, where the system picks the first.
const ATTEMPTS: usize = 16;

/// Returns an address with another port.
fn beside(address: SocketAddr, distance: u16) -> io::Result<SocketAddr> {
    let port = address.port().checked_add(distance).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(SocketAddr::new(address.ip(), port))
}

/// Sockets of a source that receives FEC packets.
pub(super) struct FecSockets([UdpSocket; 2]);

impl FecSockets {
    /// Opens the socket of the media, and those beside it.
    pub(super) fn open(bind: SocketAddr, options: &UdpOptions) -> io::Result<(UdpSocket, Self)> {
        let mut result = Err(io::Error::other("no ports"));
        for _ in 0..if bind.port() == 0 { ATTEMPTS } else { 1 } {
            let media = UdpSocket::receiving(bind, options)?;
            let address = SocketAddr::new(bind.ip(), media.local_addr().port());
            let [columns, rows] = PORTS.map(|distance| UdpSocket::receiving(beside(address, distance)?, options));
            result = columns.and_then(|columns| Ok((media, Self([columns, rows?]))));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Waits for FEC packets, and appends them with their senders.
    pub(super) async fn receive(&self, out: &mut Vec<(Vec<u8>, SocketAddr)>) {
        poll_fn(|cx| {
            for socket in &self.0 {
                socket.poll_each(cx, |bytes, peer| out.push((bytes.to_vec(), peer)));
            }
            if out.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

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
                status.counters.fec_packets.add(passed);
                status.counters.dropped.add(1u64.saturating_sub(passed));
            }
        }
    }
}
