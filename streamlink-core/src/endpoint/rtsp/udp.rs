//! Tracks over UDP: a pair of ports each, for RTP and RTCP, and the peer's pair. What comes from elsewhere is dropped
//! and counted.

use crate::{
    media::{Packet, rtsp::is_rtcp},
    net::{Datagram, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket},
    router::{Batch, Totals},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

/// Attempts to find two free ports side by side.
const ATTEMPTS: usize = 50;
/// Where pairs of ports are looked for.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// The buffers that are asked for, in bytes.
const SOCKET_BUFFER: usize = 1 << 20;
/// Datagrams that are handled before others get their turn.
const MAX_BATCH: usize = 256;
/// Datagrams that are handed to the kernel at once.
const CHUNK: usize = 64;

/// One track.
struct Pair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    memory: Receiver,
    sender: Sender,
    control: Sender,
    peer: Option<(SocketAddr, SocketAddr)>,
}

/// All tracks of one session; those that do not travel over UDP are `None`.
#[derive(Default)]
pub(super) struct UdpTracks {
    pairs: Vec<Option<Pair>>,
    /// Datagrams from others than the peer.
    pub(super) strangers: u64,
}

fn random_port() -> u16 {
    let mut bytes = [0; 2];
    super::super::random(&mut bytes);
    // Even, as RFC 3550 section 11 wants.
    (PORTS.start + u16::from_be_bytes(bytes) % (PORTS.end - PORTS.start)) & !1
}

impl UdpTracks {
    /// Opens a pair of ports for a track; returns their numbers.
    pub(super) fn open(&mut self, track: usize, local: IpAddr) -> io::Result<(u16, u16)> {
        let options = UdpOptions {
            receive_buffer: Some(SOCKET_BUFFER),
            send_buffer: Some(SOCKET_BUFFER),
            ..UdpOptions::default()
        };
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..ATTEMPTS {
            let port = random_port();
            let open = |port| UdpSocket::receiving(SocketAddr::new(local, port), &options);
            match open(port).and_then(|rtp| Ok((rtp, open(port + 1)?))) {
                Ok((rtp, rtcp)) => {
                    let (sender, control) = (Sender::new(&rtp), Sender::new(&rtcp));
                    let pair =
                        Pair { rtp, rtcp, memory: Receiver::new(SOCKET_BUFFER as u64), sender, control, peer: None };
                    if self.pairs.len() <= track {
                        self.pairs.resize_with(track + 1, || None);
                    }
                    self.pairs[track] = Some(pair);
                    return Ok((port, port + 1));
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Who sends and receives at the other end of a track.
    pub(super) fn set_peer(&mut self, track: usize, ip: IpAddr, ports: (u16, u16)) {
        if let Some(Some(pair)) = self.pairs.get_mut(track)
            && ports.0 != 0
        {
            pair.peer = Some((SocketAddr::new(ip, ports.0), SocketAddr::new(ip, ports.1)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.iter().all(Option::is_none)
    }

    /// Takes what has come: the track and the datagram.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        from: IpAddr,
        mut take: impl FnMut(usize, Received),
    ) -> Poll<()> {
        let Self { pairs, strangers } = self;
        let mut some = false;
        for (track, pair) in pairs.iter_mut().enumerate() {
            let Some(Pair { rtp, rtcp, memory, peer, .. }) = pair else { continue };
            for (socket, expected) in [(&*rtp, peer.map(|p| p.0)), (&*rtcp, peer.map(|p| p.1))] {
                let mut each = |datagram: Received| {
                    let sender = SocketAddr::new(datagram.peer.ip().to_canonical(), datagram.peer.port());
                    match expected.map_or(sender.ip() == from, |expected| sender == expected) {
                        true => take(track, datagram),
                        false => *strangers += 1,
                    }
                };
                // An error of a socket, such as a peer that does not listen, is told by its silence.
                some |= socket.poll_drain(cx, memory, MAX_BATCH, &mut each).is_ready();
            }
        }
        if some { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends what is in a window; what the kernel does not take at once is lost. Returns what was sent, and how many
    /// packets were not.
    pub(super) fn send(&mut self, window: &[Arc<Batch>], preamble: Option<&[Packet]>) -> (Totals, u64) {
        let (mut done, mut lost) = (Totals::default(), 0);
        let packets = || preamble.into_iter().flatten().chain(window.iter().flat_map(|batch| batch.packets()));
        for (track, pair) in self.pairs.iter_mut().enumerate() {
            let Some(Pair { rtp, rtcp, sender, control, peer: Some((to_rtp, to_rtcp)), .. }) = pair else { continue };
            let (rtp_peer, rtcp_peer) = (Peer::new(*to_rtp, rtp.local_addr()), Peer::new(*to_rtcp, rtcp.local_addr()));
            let own = |packet: &&Packet| packet.rtsp_track().map(usize::from) == Some(track);
            let mut chunk = [Datagram { head: &[], body: &[] }; CHUNK];
            let mut count = 0;
            let mut flush = |chunk: &[Datagram<'_>]| {
                let bytes: u64 = chunk.iter().map(|d| d.body.len() as u64).sum();
                let sent = sender.send_to(rtp, Some(&rtp_peer), chunk);
                let refused = (chunk.len() - sent.done + sent.refused) as u64;
                done.packets += chunk.len() as u64 - refused;
                done.bytes += if refused == 0 { bytes } else { 0 };
                lost += refused;
            };
            for packet in packets().filter(own) {
                if is_rtcp(packet.data()) {
                    control.send_to(rtcp, Some(&rtcp_peer), &[Datagram { head: &[], body: packet.data() }]);
                    continue;
                }
                chunk[count] = Datagram { head: &[], body: packet.data() };
                count += 1;
                if count == CHUNK {
                    flush(&chunk);
                    count = 0;
                }
            }
            flush(&chunk[..count]);
        }
        (done, lost)
    }

    /// Sends a packet of RTCP, and one to the media port that opens the way through address translation.
    pub(super) fn greet(&mut self, report: &[u8], open_the_way: bool) {
        for pair in self.pairs.iter_mut().flatten() {
            let Some((to_rtp, to_rtcp)) = pair.peer else { continue };
            let datagram = [Datagram { head: &[], body: report }];
            pair.control.send_to(&pair.rtcp, Some(&Peer::new(to_rtcp, pair.rtcp.local_addr())), &datagram);
            if open_the_way {
                // An RTP packet without payload, of a payload type that is not used.
                let empty = [0x80, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let datagram = [Datagram { head: &[], body: &empty }];
                pair.sender.send_to(&pair.rtp, Some(&Peer::new(to_rtp, pair.rtp.local_addr())), &datagram);
            }
        }
    }
}
