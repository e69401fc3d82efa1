//! RTP and UDP outputs. Each destination has a connected socket of its own, and is a sink of the fan-out; a paced output
//! is a task.

use super::{fec::FecSender, payload_report::PayloadReport};
use crate::{
    endpoint::{
        EventSink, FlowBandwidth, FlowMedia, Resolver, Status,
        driver::{OutputDrive, StartedOutput},
        fanout::Sink,
        local_egress,
        paced_fanout::PacedSink,
    },
    flow::{Pace, Rewrite, UdpOutput},
    media::{Packet, PayloadProblem},
    net::{Datagram, Egress, Sender, TimerFd, UdpOptions, UdpSocket},
    proto::rtp::{FecEncoder, REWRITTEN, Rewriter, unwrap},
    random::Random,
    router::{Batch, State},
};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Maximum number of packets per send call.
const CHUNK: usize = 64;
/// Number of packets up to which a call has room for no more: clearing the rest would take longer than filling it.
const SMALL_CHUNK: usize = 4;

/// Form in which the packets of a flow are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As they are, or with other numbers.
    Rtp(Option<Rewriter>),
    /// With an even SSRC: in RIST, odd ones mark retransmissions.
    EvenSsrc,
    /// The MPEG-TS in them.
    TransportStream,
}

impl Form {
    pub(super) fn rtp(rewrite: Rewrite, random: &Random) -> Self {
        let [a, b, c, d, first @ ..] = random.bytes::<6>();
        let first = u16::from_be_bytes(first);
        Self::Rtp(match rewrite {
            Rewrite::Preserve => None,
            Rewrite::Random => Some(Rewriter::new(u32::from_be_bytes([a, b, c, d]), first)),
            Rewrite::Ssrc(ssrc) => Some(Rewriter::new(ssrc, first)),
        })
    }

    /// Returns the datagram of the flow's packet number `place`; `None` if there is nothing to send.
    fn datagram<'a>(
        &self,
        packet: &'a Packet,
        place: u64,
        head: &'a mut [u8; REWRITTEN],
    ) -> Result<Option<Datagram<'a>>, PayloadProblem> {
        let data = packet.data();
        Ok(match self {
            Self::Rtp(Some(rewriter)) if data.len() >= REWRITTEN => {
                *head = rewriter.header(data, place);
                Some(Datagram { head, body: data.get(REWRITTEN..).unwrap_or_default() })
            }
            Self::Rtp(_) => Some(Datagram { head: &[], body: data }),
            Self::EvenSsrc => {
                let Some((header, body)) = data.split_first_chunk() else { return Ok(None) };
                *head = *header;
                head[REWRITTEN - 1] &= !1;
                Some(Datagram { head, body })
            }
            Self::TransportStream => {
                let body = unwrap(data)?;
                (!body.is_empty()).then_some(Datagram { head: &[], body })
            }
        })
    }
}

/// An output with open sockets, one per destination.
pub(super) struct OpenOutput {
    legs: Vec<OpenLeg>,
    form: Form,
    /// Timer of a paced output.
    pace: Option<TimerFd>,
    status: Arc<Status>,
    bandwidth: FlowBandwidth,
}

struct OpenLeg {
    socket: UdpSocket,
    fec: Option<Box<FecSender>>,
    peer: SocketAddr,
}

impl OpenOutput {
    /// Opens the sockets of an output. Their send buffers follow the bandwidth of the flow.
    pub(super) async fn open(
        settings: &UdpOutput,
        form: Form,
        fec: Option<FecEncoder>,
        resolver: &Resolver,
        egress: &Egress,
        bandwidth: &FlowBandwidth,
        status: &Arc<Status>,
    ) -> Result<Self, (String, io::Error)> {
        let options = options(settings, egress, bandwidth);
        let mut legs = Vec::with_capacity(settings.destinations().count());
        for destination in settings.destinations() {
            let what = format!("cannot resolve `{destination}`");
            let peers = resolver.addresses(destination, egress).await.map_err(|e| (what, e))?;
            let (peer, socket) = open_first(&peers, &options)?;
            let fec = fec.clone().map(|encoder| FecSender::open(encoder, peer, &options).map(Box::new));
            let what = format!("cannot send forward error correction to {peer}");
            let fec = fec.transpose().map_err(|error| (what, error))?;
            legs.push(OpenLeg { socket, fec, peer });
        }
        let pace = match settings.pace {
            Pace::None => None,
            Pace::Pcr => Some(TimerFd::new().map_err(|error| ("cannot create a timer".to_owned(), error))?),
        };
        Ok(Self { legs, form, pace, status: status.clone(), bandwidth: bandwidth.clone() })
    }

    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        self.legs.iter().map(|leg| leg.peer).collect()
    }

    pub(super) fn start(mut self, flow: &FlowMedia) -> StartedOutput {
        let peers = self.peers();
        let pace = self.pace.take();
        let status = self.status.clone();
        let legs = self.into_legs(flow);
        let drive = match pace {
            None => OutputDrive::Sinks(legs.into_iter().map(|leg| Box::new(leg) as Box<dyn Sink>).collect()),
            Some(timer) => {
                let stop = CancellationToken::new();
                status.counters.set_state(State::Connected, Instant::now());
                let sinks = legs.into_iter().map(|leg| Box::new(leg) as Box<dyn PacedSink>).collect();
                let task = flow.paced.add(sinks, status, timer, stop.clone());
                OutputDrive::Task { stop, task: Box::pin(task) }
            }
        };
        StartedOutput { peers, ..StartedOutput::new(drive) }
    }

    /// Returns the first destination, and its address.
    pub(super) fn into_leg(self, flow: &FlowMedia) -> Option<(Leg, SocketAddr)> {
        let peer = *self.peers().first()?;
        Some((self.into_legs(flow).into_iter().next()?, peer))
    }

    fn into_legs(self, flow: &FlowMedia) -> Vec<Leg> {
        let Self { legs, form, status, bandwidth, .. } = self;
        let legs = legs.into_iter().enumerate().map(|(number, OpenLeg { socket, fec, .. })| Leg {
            sender: Sender::new(&socket),
            socket,
            fec,
            form,
            status: status.clone(),
            bandwidth: bandwidth.clone(),
            // All destinations get the same media, so only the first one counts it.
            counts: number == 0,
            report: PayloadReport::default(),
            events: flow.events.clone(),
        });
        legs.collect()
    }
}

/// Returns the options of the sockets of an output.
pub(super) fn options(settings: &UdpOutput, egress: &Egress, bandwidth: &FlowBandwidth) -> UdpOptions {
    let interface = settings.interface.as_ref().map(ToString::to_string).or_else(|| egress.interface.clone());
    UdpOptions {
        ttl: Some(settings.ttl),
        send_buffer: Some(bandwidth.now().rtp_send_buffer()),
        egress: Egress { interface, ..local_egress(&settings.local, egress.clone()) },
        send_only: true,
        ..UdpOptions::default()
    }
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

/// One destination.
pub(super) struct Leg {
    socket: UdpSocket,
    sender: Sender,
    fec: Option<Box<FecSender>>,
    form: Form,
    status: Arc<Status>,
    bandwidth: FlowBandwidth,
    counts: bool,
    report: PayloadReport,
    events: EventSink,
}

/// Result of one send call.
#[derive(Default)]
struct Progress {
    /// Number of packets sent or given up.
    done: usize,
    passed: usize,
    bytes: u64,
    refused: usize,
    blocked: bool,
}

impl Leg {
    /// Sends packets, the first of which is the flow's packet number `first`. Returns the number of packets sent or given
    /// up.
    pub(super) fn send_packets(&mut self, packets: &[Packet], first: u64, now: Instant) -> usize {
        if let Some(bandwidth) = self.bandwidth.changed() {
            self.socket.set_send_buffer(bandwidth.rtp_send_buffer());
        }
        let mut all = Progress::default();
        while let Some(rest) = packets.get(all.done..).filter(|rest| !rest.is_empty()) {
            let first = first + all.done as u64;
            let sent = if rest.len() <= SMALL_CHUNK {
                self.send_chunk::<SMALL_CHUNK>(rest, first)
            } else {
                self.send_chunk::<CHUNK>(&rest[..rest.len().min(CHUNK)], first)
            };
            all.done += sent.done;
            all.passed += sent.passed;
            all.bytes += sent.bytes;
            all.refused += sent.refused;
            if sent.blocked {
                break;
            }
        }
        if self.counts {
            let counters = &self.status.counters;
            counters.passed(now, all.passed as u64, all.bytes);
            counters.dropped.add(all.refused as u64);
            self.report.publish(now, || self.status.name(), &self.events);
        }
        all.done
    }

    /// Sends a packet again, as it is.
    pub(super) fn send_again(&mut self, bytes: &[u8]) {
        // One that is lost is asked for again.
        self.sender.send(&self.socket, &[Datagram { head: &[], body: bytes }]);
    }

    /// Sends at most `N` packets.
    fn send_chunk<const N: usize>(&mut self, chunk: &[Packet], first: u64) -> Progress {
        let mut heads = [[0; REWRITTEN]; N];
        let mut datagrams = [Datagram { head: &[], body: &[] }; N];
        // Number of packets up to and including that of each datagram.
        let mut ends = [0; N];
        // One bit for each packet that is left out because of its payload.
        let mut count = 0;
        let mut problem = None;
        let mut left_out = 0u64;
        for (i, (packet, head)) in chunk.iter().zip(&mut heads).enumerate() {
            match self.form.datagram(packet, first + i as u64, head) {
                Ok(Some(datagram)) => {
                    datagrams[count] = datagram;
                    ends[count] = i + 1;
                    count += 1;
                }
                Ok(None) => {}
                Err(found) => {
                    problem = Some(found);
                    left_out |= 1 << i; // less than CHUNK
                }
            }
        }
        let sent = self.sender.send(&self.socket, &datagrams[..count]);
        if let Some(fec) = &mut self.fec {
            for datagram in &datagrams[..sent.done] {
                fec.push(datagram);
            }
            fec.flush(&self.status, self.counts);
        }
        let done = if sent.done == count { chunk.len() } else { ends[..sent.done].last().copied().unwrap_or(0) };
        let bytes = datagrams[..sent.done].iter().map(|datagram| (datagram.head.len() + datagram.body.len()) as u64);
        let mut progress = Progress {
            done,
            passed: sent.done - sent.refused,
            bytes: bytes.sum(),
            refused: sent.refused,
            blocked: sent.blocked,
        };
        if let Some(problem) = problem {
            let count = (0..done).filter(|at| left_out >> at & 1 == 1).count();
            progress.refused += count;
            self.report.note(problem, count as u64);
        }
        progress
    }
}

impl PacedSink for Leg {
    fn send_packets(&mut self, packets: &[Packet], first: u64, now: Instant) -> usize {
        Self::send_packets(self, packets, first, now)
    }
}

impl Sink for Leg {
    fn send(&mut self, batch: &Batch, from: usize, now: Instant) -> usize {
        let packets = batch.packets().get(from..).unwrap_or_default();
        self.send_packets(packets, batch.first_packet() + from as u64, now)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }
}
