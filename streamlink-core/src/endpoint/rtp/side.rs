//! Sockets of a source beside that of the media: of forward error correction, and of RTCP.

use crate::net::{Datagram, Peer, Sender, UdpOptions, UdpSocket};
use std::{future::poll_fn, io, net::SocketAddr, task::Poll};

/// Number of attempts to find ports for all, where the system picks the first.
const ATTEMPTS: usize = 64;

/// Returns an address with another port.
pub(super) fn beside(address: SocketAddr, distance: u16) -> io::Result<SocketAddr> {
    let port = address.port().checked_add(distance).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(SocketAddr::new(address.ip(), port))
}

/// Sockets on ports behind that of the media.
pub(super) struct SideSockets(Vec<(UdpSocket, Sender)>);

impl SideSockets {
    /// Opens the socket of the media, and those at the distances from its port. `even`: the port of the media is even.
    pub(super) fn open(
        bind: SocketAddr,
        distances: &[u16],
        even: bool,
        options: &UdpOptions,
    ) -> io::Result<(UdpSocket, Self)> {
        let mut result = Err(io::Error::other("no ports"));
        for _ in 0..if bind.port() == 0 { ATTEMPTS } else { 1 } {
            let media = UdpSocket::receiving(bind, options)?;
            let address = SocketAddr::new(bind.ip(), media.local_addr().port());
            if even && !address.port().is_multiple_of(2) {
                continue;
            }
            let sockets: io::Result<Vec<_>> = distances
                .iter()
                .map(|distance| {
                    let socket = UdpSocket::receiving(beside(address, *distance)?, options)?;
                    let sender = Sender::new(&socket);
                    Ok((socket, sender))
                })
                .collect();
            result = sockets.map(|sockets| (media, Self(sockets)));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Waits for datagrams, and appends them with their senders.
    pub(super) async fn receive(&self, out: &mut Vec<(Vec<u8>, SocketAddr)>) {
        poll_fn(|cx| {
            for (socket, _) in &self.0 {
                socket.poll_each(cx, |bytes, peer| out.push((bytes.to_vec(), peer)));
            }
            if out.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Sends a datagram from the first socket.
    pub(super) fn send(&mut self, peer: SocketAddr, bytes: &[u8]) {
        if let Some((socket, sender)) = self.0.first_mut() {
            let to = Peer::new(peer, socket.local_addr());
            // A report that is lost is followed by the next.
            sender.send_to(socket, Some(&to), &[Datagram { head: &[], body: bytes }]);
        }
    }
}
