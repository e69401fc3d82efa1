//! Tracks over UDP, each with a pair of ports for RTP and RTCP on both sides. Datagrams from other addresses are
//! dropped and counted.

use super::multicast::MulticastGroup;
use crate::{
    media::{Packet, rtsp::is_rtcp},
    net::{
        Datagram, DescriptorPermit, Egress, Peer, Received, Receiver, Sender, UdpOptions, UdpSocket,
        is_out_of_descriptors,
    },
    proto::rtp::Reports,
    random::Random,
    router::{Batch, Totals},
};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Maximum number of attempts to find two adjacent free ports.
const ATTEMPTS: usize = 50;
/// Range in which pairs of ports are opened.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// Requested size of the socket buffers, in bytes.
const SOCKET_BUFFER: usize = 1 << 20;
/// Number of datagrams from one socket after which reading yields.
const MAX_BATCH: usize = 256;
/// Time from the first datagram of another port of the server to the acceptance of that port.
///
/// Servers behind address translation, and some that name a fixed port, send from another port than they say, and other
/// clients accept that. The address is that of the RTSP connection in any case, and the ports named come first: whoever
/// is to bring false media has to send from the server's address, to a port of ours that is chosen at random, while the
/// server itself sends nothing.
const NAMED_PORT_PATIENCE: Duration = Duration::from_millis(500);
/// Maximum number of datagrams per send call.
const CHUNK: usize = 64;

/// Sockets and addresses of one track.
struct Pair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    /// Receive memory, if the peer sends media.
    memory: Option<Receiver>,
    sender: Sender,
    control: Sender,
    peer: Option<(SocketAddr, SocketAddr)>,
    /// Address that the peer says to send from, if it is not that of the connection.
    source: Option<IpAddr>,
    /// For RTP and RTCP: true once the first datagram has settled the address.
    heard: (bool, bool),
    /// Address to which the RTP socket is connected, which saves a route lookup per send.
    connected: Option<SocketAddr>,
    /// Share of the descriptor budget of peers.
    _descriptors: Option<DescriptorPermit>,
}

impl Pair {
    /// Returns the destination to name when media is sent, or `None` once the socket is connected to it. The socket is
    /// not connected to a symmetric peer before a datagram of that peer was received.
    fn destination(&mut self, to: SocketAddr, symmetric: bool) -> Option<Peer> {
        if self.connected == Some(to) {
            return None;
        }
        let peer = Peer::new(to, self.rtp.local_addr());
        if (!symmetric || self.heard.0) && self.rtp.connect(&peer).is_ok() {
            self.connected = Some(to);
            return None;
        }
        Some(peer)
    }
}

/// Returns whether a datagram comes from the peer. `hosts` are the address of the connection and the one that the peer
/// says to send from, and `expected` is its address, if it has named ports. The first datagram from one of the hosts,
/// and from the port named if the peer is not symmetric, replaces `expected`.
fn admits(
    expected: Option<&mut SocketAddr>,
    heard: &mut bool,
    symmetric: bool,
    hosts: (IpAddr, Option<IpAddr>),
    sender: SocketAddr,
) -> bool {
    let is_of_host = sender.ip() == hosts.0 || Some(sender.ip()) == hosts.1;
    match expected {
        None => is_of_host,
        Some(expected) if !*heard && is_of_host && (symmetric || sender.port() == expected.port()) => {
            *expected = sender;
            *heard = true;
            true
        }
        Some(expected) => sender == *expected,
    }
}

/// All tracks of one session. Tracks that do not use UDP are `None`.
#[derive(Default)]
pub(super) struct UdpTracks {
    pairs: Vec<Option<Pair>>,
    /// Uses the ports that the peer sends from instead of those that it names.
    symmetric: bool,
    /// Uses other ports of the peer's address once nothing has come from those that it has named for
    /// [`NAMED_PORT_PATIENCE`].
    is_lenient: bool,
    /// Differentiated services code point (RFC 2474) of what is sent to the peer.
    dscp: Option<u8>,
    /// Time of the first datagram that came from another port.
    other_port_since: Option<Instant>,
    /// Number of datagrams that did not come from the peer, and the sender of the last one.
    pub(super) strangers: (u64, Option<SocketAddr>),
}

fn random_port(random: &Random) -> u16 {
    // RTP uses an even port (RFC 3550 section 11).
    (PORTS.start + u16::from_be_bytes(random.bytes()) % (PORTS.end - PORTS.start)) & !1
}

impl UdpTracks {
    /// Tracks of a caller, whose server may send from other ports than it has named.
    pub(super) fn of_caller(symmetric: bool) -> Self {
        Self { symmetric, is_lenient: true, ..Self::default() }
    }

    /// Opens the sockets that send to a multicast group.
    pub(super) fn to_group(group: &MulticastGroup, egress: Egress, tracks: usize) -> io::Result<Self> {
        let send_buffer = Some(SOCKET_BUFFER);
        let ttl = Some(group.ttl);
        let options = UdpOptions { send_buffer, ttl, egress, send_only: true, ..UdpOptions::default() };
        let pair = |track| {
            let (to_rtp, to_rtcp) = group.ports(track).ok_or(io::ErrorKind::InvalidInput)?;
            let to_rtp = SocketAddr::new(group.ip(), to_rtp);
            let to_rtcp = SocketAddr::new(group.ip(), to_rtcp);
            let rtp = UdpSocket::sending(to_rtp, &options)?;
            let rtcp = UdpSocket::sending(to_rtcp, &options)?;
            let sender = Sender::new(&rtp);
            let control = Sender::new(&rtcp);
            let peer = Some((to_rtp, to_rtcp));
            Ok(Some(Pair {
                rtp,
                rtcp,
                memory: None,
                sender,
                control,
                peer,
                source: None,
                heard: (false, false),
                connected: Some(to_rtp),
                _descriptors: None,
            }))
        };
        let pairs = (0..tracks).map(pair).collect::<io::Result<_>>()?;
        Ok(Self { pairs, ..Self::default() })
    }

    /// Sets whether the ports that the peer sends from are used instead of those that it names.
    pub(super) fn set_symmetric(&mut self, symmetric: bool) {
        self.symmetric = symmetric;
    }

    /// Sets the differentiated services code point (RFC 2474) of what is sent to peers that are set afterwards.
    pub(super) fn set_dscp(&mut self, dscp: Option<u8>) {
        self.dscp = dscp;
    }

    /// Opens a pair of ports for a track and returns their numbers. `brings`: the peer sends media, not only reports.
    /// `permit`: share of the descriptor budget that the pair uses.
    pub(super) fn open(
        &mut self,
        random: &Random,
        track: usize,
        local: IpAddr,
        brings: bool,
        permit: Option<DescriptorPermit>,
    ) -> io::Result<(u16, u16)> {
        // The RTP port of a peer that receives media is read only to learn the address of a symmetric peer.
        let send_only = !brings && !self.symmetric;
        let open = |port, send_only| {
            let receive_buffer = Some(SOCKET_BUFFER);
            let send_buffer = Some(SOCKET_BUFFER);
            let options = UdpOptions { receive_buffer, send_buffer, send_only, ..UdpOptions::default() };
            UdpSocket::receiving(SocketAddr::new(local, port), &options)
        };
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..ATTEMPTS {
            let port = random_port(random);
            match open(port, send_only).and_then(|rtp| Ok((rtp, open(port + 1, false)?))) {
                Ok((rtp, rtcp)) => {
                    let sender = Sender::new(&rtp);
                    let control = Sender::new(&rtcp);
                    let memory = brings.then(|| Receiver::new(SOCKET_BUFFER as u64));
                    let peer = None;
                    let source = None;
                    let heard = (false, false);
                    let connected = None;
                    let _descriptors = permit;
                    let pair =
                        Pair { rtp, rtcp, memory, sender, control, peer, source, heard, connected, _descriptors };
                    if self.pairs.len() <= track {
                        self.pairs.resize_with(track + 1, || None);
                    }
                    self.pairs[track] = Some(pair);
                    return Ok((port, port + 1));
                }
                // Another port would fail as well.
                Err(error) if is_out_of_descriptors(&error) => return Err(error),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Sets the address of the peer for a track. RTP port 0: the peer has named no ports. `source`: the address that it
    /// says to send from, which is admitted beside that of the connection.
    pub(super) fn set_peer(&mut self, track: usize, ip: IpAddr, ports: (u16, u16), source: Option<IpAddr>) {
        let Some(Some(pair)) = self.pairs.get_mut(track) else { return };
        pair.source = source;
        pair.sender.mark(self.dscp, ip);
        pair.control.mark(self.dscp, ip);
        if ports.0 != 0 {
            let ip = source.unwrap_or(ip);
            pair.peer = Some((SocketAddr::new(ip, ports.0), SocketAddr::new(ip, ports.1)));
        }
    }

    /// Closes the ports of a track, which uses another transport.
    pub(super) fn close(&mut self, track: usize) {
        if let Some(pair) = self.pairs.get_mut(track) {
            *pair = None;
        }
    }

    /// Closes the ports of tracks from this number on, which were left out.
    pub(super) fn truncate(&mut self, tracks: usize) {
        self.pairs.truncate(tracks);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.iter().all(Option::is_none)
    }

    /// Receives media and reports of peers that send media. `take` gets the track and the datagram.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        from: IpAddr,
        now: Instant,
        mut take: impl FnMut(usize, Received),
    ) -> Poll<()> {
        let Self { pairs, symmetric, is_lenient, other_port_since, strangers, .. } = self;
        let waited = other_port_since.is_some_and(|since| now.saturating_duration_since(since) >= NAMED_PORT_PATIENCE);
        let any_port = *symmetric || (*is_lenient && waited);
        let mut some = false;
        for (track, pair) in pairs.iter_mut().enumerate() {
            let Some(Pair { rtp, rtcp, memory: Some(memory), peer, source, heard, .. }) = pair else { continue };
            let hosts = (from, *source);
            let (to_rtp, to_rtcp) = peer.as_mut().map(|(rtp, rtcp)| (rtp, rtcp)).unzip();
            for (socket, mut expected, heard) in [(&*rtp, to_rtp, &mut heard.0), (&*rtcp, to_rtcp, &mut heard.1)] {
                let mut each = |datagram: Received| {
                    let sender = SocketAddr::new(datagram.peer.ip().to_canonical(), datagram.peer.port());
                    if admits(expected.as_deref_mut(), heard, any_port, hosts, sender) {
                        take(track, datagram);
                    } else {
                        if !*heard && (sender.ip() == hosts.0 || Some(sender.ip()) == hosts.1) {
                            other_port_since.get_or_insert(now);
                        }
                        *strangers = (strangers.0 + 1, Some(sender));
                    }
                };
                // Socket errors, such as an unreachable port, are ignored. The idle timeout ends the session.
                some |= socket.poll_drain(cx, memory, MAX_BATCH, &mut each).is_ready();
            }
        }
        if some { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Receives reports of peers that are sent media, and packets that open a path through address translation.
    /// Datagrams from other addresses are ignored.
    pub(super) fn poll_reports(&mut self, cx: &mut Context<'_>, from: IpAddr, mut take: impl FnMut(&[u8])) {
        for Pair { rtp, rtcp, peer, source, heard, .. } in self.pairs.iter_mut().flatten() {
            let (to_rtp, to_rtcp) = peer.as_mut().map(|(rtp, rtcp)| (rtp, rtcp)).unzip();
            for (socket, mut expected, heard) in [(rtp, to_rtp, &mut heard.0), (rtcp, to_rtcp, &mut heard.1)] {
                socket.poll_each(cx, |bytes, sender| {
                    if admits(expected.as_deref_mut(), heard, self.symmetric, (from, *source), sender) {
                        take(bytes);
                    }
                });
            }
        }
    }

    /// Receives reports until the future is dropped.
    pub(super) async fn hear(&mut self, from: IpAddr, reports: &mut Reports) {
        poll_fn(|cx| {
            self.poll_reports(cx, from, |bytes| reports.take(bytes));
            Poll::Pending
        })
        .await
    }

    /// Sends the packets of a window. Packets that the kernel does not accept at once are lost. Returns the totals
    /// sent, and the number of packets lost.
    pub(super) fn send(&mut self, window: &[Arc<Batch>], preamble: Option<&[Packet]>) -> (Totals, u64) {
        let mut done = Totals::default();
        let mut lost = 0;
        let packets = || preamble.into_iter().flatten().chain(window.iter().flat_map(|batch| batch.packets()));
        for (track, pair) in self.pairs.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            let Some((to_rtp, to_rtcp)) = pair.peer else { continue };
            let destination = pair.destination(to_rtp, self.symmetric);
            let Pair { rtp, rtcp, sender, control, .. } = pair;
            let rtcp_peer = Peer::new(to_rtcp, rtcp.local_addr());
            let own = |packet: &&Packet| packet.rtsp_track().map(usize::from) == Some(track);
            let mut chunk = [Datagram { head: &[], body: &[] }; CHUNK];
            let mut count = 0;
            let mut flush = |chunk: &[Datagram<'_>]| {
                let bytes: u64 = chunk.iter().map(|d| d.body.len() as u64).sum();
                let sent = sender.send_to(rtp, destination.as_ref(), chunk);
                let refused = (chunk.len() - sent.done + sent.refused) as u64;
                done.packets += chunk.len() as u64 - refused;
                done.bytes += if refused == 0 { bytes } else { 0 };
                lost += refused;
            };
            for packet in packets().filter(own) {
                let datagram = Datagram { head: &[], body: packet.data() };
                if is_rtcp(packet.data()) {
                    control.send_to(rtcp, Some(&rtcp_peer), &[datagram]);
                    continue;
                }
                chunk[count] = datagram;
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

    /// Sends a report on each track. `open_the_way`: also sends an empty packet to the media port, which opens a path
    /// through address translation.
    pub(super) fn greet(&mut self, mut report: impl FnMut(usize) -> Vec<u8>, open_the_way: bool) {
        for (track, pair) in self.pairs.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            let Some((to_rtp, to_rtcp)) = pair.peer else { continue };
            let report = report(track);
            let datagram = [Datagram { head: &[], body: &report }];
            pair.control.send_to(&pair.rtcp, Some(&Peer::new(to_rtcp, pair.rtcp.local_addr())), &datagram);
            if open_the_way {
                // An RTP packet without payload, with an unused payload type.
                let empty = [0x80, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let datagram = [Datagram { head: &[], body: &empty }];
                pair.sender.send_to(&pair.rtp, Some(&Peer::new(to_rtp, pair.rtp.local_addr())), &datagram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which of some datagrams are taken, sent from another port than named at these times (ms).
    async fn taken(mut tracks: UdpTracks, times: [u64; 4]) -> [bool; 4] {
        let host = IpAddr::from([127, 0, 0, 1]);
        let random = Random::seeded_by(crate::random::system).unwrap();
        let (port, _) = tracks.open(&random, 0, host, true, None).unwrap();
        tracks.set_peer(0, host, (6970, 6971), None);
        let sender = tokio::net::UdpSocket::bind((host, 0)).await.unwrap();
        let start = Instant::now();
        let mut result = [false; 4];
        for (taken, millis) in result.iter_mut().zip(times) {
            sender.send_to(b"media", (host, port)).await.unwrap();
            let now = start + Duration::from_millis(millis);
            let before = tracks.strangers.0;
            poll_fn(|cx| {
                let _ = tracks.poll_receive(cx, host, now, |_, _| *taken = true);
                if *taken || tracks.strangers.0 > before { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        result
    }

    #[tokio::test]
    async fn rtsp_caller_takes_other_ports_of_the_server_when_the_named_one_is_silent() {
        let times = [0, 100, 600, 601];
        assert_eq!(taken(UdpTracks::of_caller(false), times).await, [false, false, true, true]);
        assert_eq!(taken(UdpTracks::of_caller(true), times).await, [true; 4]);
        assert_eq!(taken(UdpTracks::default(), times).await, [false; 4]);
    }
}
