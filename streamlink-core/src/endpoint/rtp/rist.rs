//! RIST outputs: a task that sends the media of the flow, and sends again what the receiver asks for.

use super::{
    output::{Leg, OpenOutput},
    side::beside,
};
use crate::{
    endpoint::{Event, EventSink, FlowMedia, LossReason, Status, driver::OutputDrive, lagging::LagReport, sleep_until},
    net::{Datagram, Sender, UdpOptions, UdpSocket},
    proto::rist::RistSender,
    router::{Batch, Reader, State},
};
use futures_util::FutureExt;
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// Time without RTCP after which the receiver is lost. It reports each 100 ms.
const SILENCE: Duration = Duration::from_secs(5);
/// Seconds from 1900 to 1970 (RFC 3550 section 4).
const NTP_EPOCH: u64 = 2_208_988_800;

/// A RIST output with its sockets open.
pub(super) struct OpenRist {
    pub(super) media: OpenOutput,
    rtcp: UdpSocket,
    latency: Duration,
}

impl OpenRist {
    /// Opens the socket of RTCP beside that of the media.
    pub(super) fn open(media: OpenOutput, options: &UdpOptions, latency: Duration) -> io::Result<Self> {
        let peer = *media.peers().first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut options = UdpOptions { send_only: false, ..options.clone() };
        options.egress.port = options.egress.port.and_then(|port| port.checked_add(1));
        Ok(Self { rtcp: UdpSocket::sending(beside(peer, 1)?, &options)?, media, latency })
    }

    pub(super) fn drive(self, flow: &FlowMedia, status: &Arc<Status>) -> OutputDrive {
        let Self { media, rtcp, latency } = self;
        let Some((leg, peer)) = media.into_leg(flow) else { return OutputDrive::Sinks(Vec::new()) };
        let now = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ntp = wall.as_secs().wrapping_add(NTP_EPOCH) << 32;
        let output = RistOutput {
            leg,
            peer,
            sender: RistSender::new(latency, ntp, now),
            rtcp_sender: Sender::new(&rtcp),
            rtcp,
            reader: flow.ring.reader(),
            status: status.clone(),
            events: flow.events.clone(),
            lag: LagReport::new(),
            heard: None,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        OutputDrive::Task { stop, task: Box::pin(output.run(stopped)) }
    }
}

/// A RIST output that runs.
struct RistOutput {
    leg: Leg,
    peer: SocketAddr,
    sender: RistSender,
    rtcp: UdpSocket,
    rtcp_sender: Sender,
    reader: Reader,
    status: Arc<Status>,
    events: EventSink,
    lag: LagReport,
    /// Arrival of the last RTCP packet, while the receiver is there.
    heard: Option<Instant>,
}

impl RistOutput {
    async fn run(mut self, stop: CancellationToken) {
        let mut window = Vec::new();
        let mut compounds = Vec::new();
        loop {
            let deadline = self.sender.next_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ready = self.reader.ready() => {
                    if ready.is_err() {
                        return;
                    }
                    self.read(&mut window);
                    // Much media does not keep requests waiting.
                    let _ = receive(&self.rtcp, &mut compounds).now_or_never();
                }
                () = receive(&self.rtcp, &mut compounds) => {}
                () = sleep_until(Some(deadline)) => {}
            }
            let now = Instant::now();
            for compound in compounds.drain(..) {
                self.feedback(&compound, now);
            }
            self.report(now);
        }
    }

    /// Sends new packets, and keeps them.
    fn read(&mut self, window: &mut Vec<Arc<Batch>>) {
        let lost = self.reader.read(window);
        let now = Instant::now();
        let mut dropped = lost.packets;
        for batch in window.drain(..) {
            let done = self.leg.send_packets(batch.packets(), batch.first_packet(), now);
            dropped += (batch.packets().len() - done) as u64;
            for packet in batch.packets() {
                self.sender.sent(packet, now);
            }
        }
        self.status.counters.dropped.add(dropped);
        self.lag.note(dropped, &self.status, &self.events, now);
    }

    /// Handles RTCP of the receiver, which the connected socket takes from nobody else.
    fn feedback(&mut self, compound: &[u8], now: Instant) {
        if self.heard.replace(now).is_none() {
            self.status.counters.set_state(State::Connected, now);
            self.status.set_peer(Some(self.peer));
            self.events.emit(Event::OutputConnected { output: self.status.name(), peer: Some(self.peer) });
        }
        let feedback = self.sender.rtcp(compound, now);
        for bytes in &feedback.repeats {
            self.leg.send_again(bytes);
        }
        if feedback.denied > 0 {
            let name = self.status.name();
            log::debug!(
                "output `{name}`: {} of {} requests came too late or too often",
                feedback.denied,
                feedback.asked
            );
        }
        let counters = &self.status.counters;
        counters.retransmitted.add(feedback.repeats.len() as u64);
        counters.lost.add(feedback.lost);
        counters.rtt_us.set(micros(self.sender.round_trip()));
    }

    /// Sends the reports that are due, and notices the silence of the receiver.
    fn report(&mut self, now: Instant) {
        for compound in self.sender.poll(now) {
            // A report that is lost is followed by the next.
            self.rtcp_sender.send(&self.rtcp, &[Datagram { head: &[], body: &compound }]);
        }
        if self.heard.is_some_and(|last| now.saturating_duration_since(last) >= SILENCE) {
            self.heard = None;
            self.status.counters.set_state(State::Waiting, now);
            let reason = LossReason::TimedOut;
            let peer = Some(self.peer);
            self.status.record_loss(&reason, peer, now);
            self.status.set_peer(None);
            self.events.emit(Event::OutputLost { output: self.status.name(), peer, reason });
        }
    }
}

/// Returns a round trip in microseconds; 0 before it is measured.
pub(super) fn micros(round_trip: Option<Duration>) -> u64 {
    u64::try_from(round_trip.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Waits for RTCP packets, and appends them.
async fn receive(socket: &UdpSocket, out: &mut Vec<Vec<u8>>) {
    poll_fn(|cx| {
        socket.poll_each(cx, |bytes, _| out.push(bytes.to_vec()));
        if out.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
