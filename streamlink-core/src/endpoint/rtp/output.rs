//! RTP outputs: each destination is a sink of the fan-out, with a connected socket of its own.

use crate::{
    endpoint::{Status, fanout::Sink},
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

/// Packets that are handed to the socket at once.
const CHUNK: usize = 64;
/// The smallest send buffer that is asked for, in bytes: several runs of GSO.
const MIN_SEND_BUFFER: u64 = 512 * 1024;

/// An output with its sockets open, one a destination.
pub(crate) struct OpenOutput {
    pub(crate) sinks: Vec<Box<dyn Sink>>,
    pub(crate) peers: Vec<SocketAddr>,
}

/// Opens the sockets of an output. `bytes_per_second` sizes their buffers.
pub(crate) async fn open_output(
    settings: &RtpOutput,
    egress: &Egress,
    bytes_per_second: u64,
    status: &Arc<Status>,
    random: &Random,
) -> Result<OpenOutput, (String, io::Error)> {
    let interface = settings.interface.as_ref().map(ToString::to_string).or_else(|| egress.interface.clone());
    let mut open = OpenOutput { sinks: Vec::new(), peers: Vec::new() };
    let rewriter = rewriter(settings.rewrite, random);
    for (leg, destination) in settings.destinations().enumerate() {
        let what = format!("cannot resolve `{destination}`");
        let mut found =
            tokio::net::lookup_host((destination.host(), destination.port())).await.map_err(|e| (what.clone(), e))?;
        let peer = found.next().ok_or_else(|| (what, io::ErrorKind::NotFound.into()))?;
        let options = UdpOptions {
            ttl: Some(settings.ttl),
            send_buffer: usize::try_from((bytes_per_second / 4).clamp(MIN_SEND_BUFFER, 16 << 20)).ok(),
            egress: Egress { address: egress.address, interface: interface.clone() },
            send_only: true,
            ..UdpOptions::default()
        };
        let socket = UdpSocket::sending(peer, &options).map_err(|e| (format!("cannot send to {peer}"), e))?;
        let sender = Sender::new(&socket);
        // What the second destination gets is the same media: it is counted once.
        let status = status.clone();
        open.sinks.push(Box::new(RtpSink { socket, sender, rewriter, status, counts: leg == 0 }));
        open.peers.push(peer);
    }
    Ok(open)
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

/// One destination.
struct RtpSink {
    socket: UdpSocket,
    sender: Sender,
    rewriter: Option<Rewriter>,
    status: Arc<Status>,
    counts: bool,
}

impl Sink for RtpSink {
    fn send(&mut self, batch: &Batch, from: usize, now: Instant) -> usize {
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
