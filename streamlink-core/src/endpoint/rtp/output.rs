//! RTP outputs. Each destination is a sink of the fan-out, with a connected socket of its own.

use crate::{
    endpoint::{FlowBandwidth, Resolver, Status, fanout::Sink},
    flow::{Rewrite, RtpOutput},
    net::{Datagram, Egress, Sender, UdpOptions, UdpSocket},
    proto::rtp::{REWRITTEN, Rewriter},
    random::Random,
    router::Batch,
};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

/// Maximum number of packets per send call.
const CHUNK: usize = 64;

/// An output with open sockets, one per destination.
pub(crate) struct OpenOutput {
    pub(crate) sinks: Vec<Box<dyn Sink>>,
    pub(crate) peers: Vec<SocketAddr>,
}

/// Opens the sockets of an output. Their send buffers follow the bandwidth of the flow.
pub(crate) async fn open_output(
    settings: &RtpOutput,
    resolver: &Resolver,
    egress: &Egress,
    bandwidth: &FlowBandwidth,
    status: &Arc<Status>,
    random: &Random,
) -> Result<OpenOutput, (String, io::Error)> {
    let interface = settings.interface.as_ref().map(ToString::to_string).or_else(|| egress.interface.clone());
    let mut open = OpenOutput { sinks: Vec::new(), peers: Vec::new() };
    let rewriter = rewriter(settings.rewrite, random);
    for (leg, destination) in settings.destinations().enumerate() {
        let what = format!("cannot resolve `{destination}`");
        let peers = resolver.addresses(destination, egress).await.map_err(|e| (what, e))?;
        let options = UdpOptions {
            ttl: Some(settings.ttl),
            send_buffer: Some(bandwidth.now().rtp_send_buffer()),
            egress: Egress { address: egress.address, interface: interface.clone() },
            send_only: true,
            ..UdpOptions::default()
        };
        let (peer, socket) = open_first(&peers, &options)?;
        let sender = Sender::new(&socket);
        // All destinations get the same media, so only the first one counts it.
        let (status, bandwidth) = (status.clone(), bandwidth.clone());
        open.sinks.push(Box::new(RtpSink { socket, sender, rewriter, status, bandwidth, counts: leg == 0 }));
        open.peers.push(peer);
    }
    Ok(open)
}

/// Opens a socket to the first address that the system has a route to.
fn open_first(peers: &[SocketAddr], options: &UdpOptions) -> Result<(SocketAddr, UdpSocket), (String, io::Error)> {
    let mut failed = (String::from("cannot send"), io::Error::other("no address"));
    for (tried, peer) in peers.iter().enumerate() {
        match UdpSocket::sending(*peer, options) {
            Ok(socket) => return Ok((*peer, socket)),
            Err(error) => {
                let all: Vec<String> = peers[..=tried].iter().map(ToString::to_string).collect();
                failed = (format!("cannot send to {}", all.join(" or ")), error);
            }
        }
    }
    Err(failed)
}

fn rewriter(rewrite: Rewrite, random: &Random) -> Option<Rewriter> {
    let [a, b, c, d, first @ ..] = random.bytes::<6>();
    let first = u16::from_be_bytes(first);
    match rewrite {
        Rewrite::Preserve => None,
        Rewrite::Random => Some(Rewriter::new(u32::from_be_bytes([a, b, c, d]), first)),
        Rewrite::Ssrc(ssrc) => Some(Rewriter::new(ssrc, first)),
    }
}

/// Sink of one destination.
struct RtpSink {
    socket: UdpSocket,
    sender: Sender,
    rewriter: Option<Rewriter>,
    status: Arc<Status>,
    bandwidth: FlowBandwidth,
    counts: bool,
}

impl Sink for RtpSink {
    fn send(&mut self, batch: &Batch, from: usize, now: Instant) -> usize {
        if let Some(bandwidth) = self.bandwidth.changed() {
            self.socket.set_send_buffer(bandwidth.rtp_send_buffer());
        }
        let packets = batch.packets();
        let mut done = from.min(packets.len());
        let (mut passed, mut bytes, mut refused) = (0, 0, 0);
        while let Some(rest) = packets.get(done..).filter(|rest| !rest.is_empty()) {
            let chunk = &rest[..rest.len().min(CHUNK)];
            let mut heads = [[0; REWRITTEN]; CHUNK];
            let mut datagrams = [Datagram { head: &[], body: &[] }; CHUNK];
            let first = batch.first_packet() + done as u64;
            if let Some(rewriter) = &self.rewriter {
                for (i, (head, packet)) in heads.iter_mut().zip(chunk).enumerate() {
                    *head = rewriter.header(packet.data(), first + i as u64);
                }
            }
            for ((datagram, head), packet) in datagrams.iter_mut().zip(&heads).zip(chunk) {
                *datagram = match (&self.rewriter, packet.data().get(REWRITTEN..)) {
                    (Some(_), Some(body)) => Datagram { head, body },
                    _ => Datagram { head: &[], body: packet.data() },
                };
            }
            let sent = self.sender.send(&self.socket, &datagrams[..chunk.len()]);
            let lengths = chunk[..sent.done].iter().map(|p| p.data().len() as u64);
            (passed, bytes, refused) = (passed + sent.done, bytes + lengths.sum::<u64>(), refused + sent.refused);
            done += sent.done;
            if sent.blocked {
                break;
            }
        }
        if self.counts {
            let counters = &self.status.counters;
            counters.passed(now, (passed - refused) as u64, bytes);
            counters.dropped.add(refused as u64);
        }
        done - from
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }
}
