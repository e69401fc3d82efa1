//! The RTP source: a task that reads datagrams in batches, checks and reorders them, and publishes them to the flow.

use crate::{
    endpoint::{
        Bandwidth, Event, LossReason, RefusalReason, SourceContext,
        ingest::{Ingest, Verdict},
        sleep_until,
    },
    flow::RtpInput,
    media::{
        Packet,
        rtp::{Header, NotRtp},
        ts::Framing,
    },
    net::{Multicast, Received, Receiver as SocketReceiver, TimerFd, UdpOptions, UdpSocket},
    proto::rtp::Receiver,
    text::PeerText,
    time::Throttle,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Number of datagrams after which a batch is published and the task yields.
const MAX_BATCH: usize = 512;
/// With the policy `Disconnect`, time for which datagrams are dropped after the bandwidth was exceeded.
const DISCONNECTED: Duration = Duration::from_secs(5);

/// An RTP source with an open socket.
pub(crate) struct RtpSource {
    settings: RtpInput,
    socket: UdpSocket,
    memory: SocketReceiver,
    alarm: TimerFd,
}

impl RtpSource {
    /// Opens the socket. `bandwidth` sets the initial size of its buffers.
    pub(crate) fn open(settings: &RtpInput, bandwidth: Bandwidth) -> io::Result<Self> {
        let bind = settings.listen.bind;
        let multicast = bind.ip().is_multicast().then(|| Multicast {
            source: settings.multicast_source,
            interface: settings.interface.as_ref().map(ToString::to_string),
        });
        let receive_buffer = Some(bandwidth.rtp_receive_buffer());
        let options = UdpOptions { multicast, receive_buffer, ..UdpOptions::default() };
        let socket = UdpSocket::receiving(bind, &options)?;
        let memory = SocketReceiver::new(bandwidth.bytes_per_second());
        Ok(Self { settings: settings.clone(), socket, memory, alarm: TimerFd::new()? })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Receives until the source is stopped.
    pub(crate) async fn run(self, context: SourceContext) {
        let Self { settings, socket, mut memory, alarm } = self;
        let coalesce = context.coalesce;
        let (stop, mut live) = (context.stop.clone(), context.live.clone());
        let mut applied = live.borrow().bandwidth;
        let mut reception = Reception::new(settings, context);
        loop {
            let deadline = reception.next_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled() => return reception.stop(),
                _ = live.changed() => {
                    reception.refresh();
                    let bandwidth = reception.ingest.live().bandwidth;
                    if std::mem::replace(&mut applied, bandwidth) != bandwidth {
                        socket.set_receive_buffer(bandwidth.rtp_receive_buffer());
                        memory.set_rate(bandwidth.bytes_per_second());
                    }
                }
                ready = socket.readable() => {
                    if ready.is_ok() && !coalesce.is_zero() {
                        // Datagrams that arrive during this pause leave in the same batch.
                        tokio::select! {
                            () = stop.cancelled() => return reception.stop(),
                            () = alarm.wait(coalesce) => {}
                        }
                    }
                    let result = socket.drain(&mut memory, MAX_BATCH, |datagram| reception.datagram(datagram)).await;
                    if let Err(error) = result {
                        log::warn!("source `{}`: {error}", reception.ingest.context.status.name());
                    }
                    reception.overflows(memory.take_overflows());
                    reception.publish(Instant::now());
                }
                () = sleep_until(deadline) => reception.timeout(Instant::now()),
            }
            if reception.ingest.last_media().is_none() {
                memory.rest();
            }
        }
    }
}

/// Checks, counting and reordering of datagrams before they enter the flow.
struct Reception {
    settings: RtpInput,
    ingest: Ingest,
    receiver: Receiver,
    /// Address of the last allowlist lookup, and its result.
    last_peer: Option<(IpAddr, bool)>,
    sender: Option<SocketAddr>,
    /// End of the pause after the bandwidth was exceeded. Datagrams that arrive earlier are dropped.
    disconnected_until: Option<Instant>,
    /// Late, duplicate and foreign packets that the counter of dropped packets includes already.
    unwanted: u64,
    /// Counts of the current batch.
    tally: Tally,
    refused: Throttle,
    last_refused: Option<SocketAddr>,
    /// Reports of senders of MPEG-TS without RTP headers, and the one that was reported last.
    raw: Throttle,
    last_raw: Option<SocketAddr>,
    /// Number of collisions of senders before this connection, and whether one of this connection was told.
    collisions: (u64, bool),
}

#[derive(Default)]
struct Tally {
    malformed: u64,
    dropped: u64,
    refused: u64,
    refused_peer: Option<SocketAddr>,
    /// Datagrams with MPEG-TS and no RTP header, which count as malformed, and the sender of the last one.
    raw: u64,
    raw_peer: Option<SocketAddr>,
    disconnect: bool,
}

impl Reception {
    fn new(settings: RtpInput, context: SourceContext) -> Self {
        Self {
            receiver: Receiver::new(settings.reorder_window),
            ingest: Ingest::new(context, Instant::now()),
            last_peer: None,
            sender: None,
            disconnected_until: None,
            unwanted: 0,
            tally: Tally::default(),
            refused: Throttle::new(Duration::from_secs(1)),
            last_refused: None,
            raw: Throttle::new(Duration::from_secs(1)),
            last_raw: None,
            collisions: (0, false),
            settings,
        }
    }

    /// Applies changed settings. Ends the stream of a sender that is no longer on the allowlist.
    fn refresh(&mut self) {
        if self.ingest.refresh() {
            self.last_peer = None;
            if self.sender.is_some_and(|peer| !self.ingest.live().allow.admits(peer.ip())) {
                self.lose(LossReason::NoLongerAllowed);
            }
        }
    }

    /// Checks a received datagram and passes it on for reordering.
    fn datagram(&mut self, datagram: Received) {
        let Received { data, peer, arrival } = datagram;
        if !self.admits(peer) {
            self.tally.refused += 1;
            self.tally.refused_peer = Some(peer);
            return;
        }
        if self.disconnected_until.is_some_and(|until| arrival < until) {
            self.tally.dropped += 1;
            return;
        }
        let header = match Header::parse(&data) {
            Ok(header) => header,
            Err(NotRtp::Rtcp) => return, // RTCP has no use in a flow, and is no error
            Err(NotRtp::Malformed) => {
                self.tally.malformed += 1;
                if Framing::detect(&data).is_some() {
                    self.tally.raw += 1;
                    self.tally.raw_peer = Some(peer);
                }
                return;
            }
        };
        if !self.settings.payload_types.admits(header.payload_type) {
            self.tally.dropped += 1;
            return;
        }
        match self.ingest.admit(arrival, data.len()) {
            Verdict::Pass => {
                self.sender = Some(peer);
                self.receiver.handle(&header, Packet::rtp(data, arrival), &mut self.ingest.out.packets);
            }
            Verdict::Drop => {}
            Verdict::Disconnect => self.tally.disconnect = true,
        }
    }

    fn admits(&mut self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        match self.last_peer {
            Some((last, verdict)) if last == ip => verdict,
            _ => {
                let verdict = self.ingest.live().allow.admits(ip);
                self.last_peer = Some((ip, verdict));
                verdict
            }
        }
    }

    fn overflows(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.tally.dropped += datagrams;
            let name = self.ingest.context.status.name();
            log::warn!("source `{name}`: {datagrams} datagrams lost in a full socket buffer");
        }
    }

    /// Publishes the packets that are in order, and updates the counters.
    fn publish(&mut self, now: Instant) {
        self.receiver.handle_timeout(now, &mut self.ingest.out.packets);
        let counters = &self.ingest.context.status.counters;
        let tally = std::mem::take(&mut self.tally);
        let quality = self.receiver.quality();
        counters.malformed.add(tally.malformed);
        counters.refused.add(tally.refused);
        counters.lost.set(quality.lost);
        counters.recovered.set(quality.recovered);
        counters.jitter_us.set(u64::try_from(quality.jitter.as_micros()).unwrap_or(u64::MAX));
        counters.duplicates.set(quality.duplicates);
        let unwanted = quality.late.saturating_add(quality.foreign);
        counters.dropped.add(tally.dropped + unwanted.saturating_sub(self.unwanted));
        self.unwanted = unwanted;
        self.last_refused = tally.refused_peer.or(self.last_refused);
        if let Some(peer) = self.last_refused
            && let Some(count) = self.refused.admit(now, tally.refused)
        {
            self.refuse(RefusalReason::NotAllowed, peer, count, now);
        }
        // Once for each sender, as it goes on until somebody corrects it.
        if let Some(peer) = tally.raw_peer
            && self.last_raw != Some(peer)
            && let Some(count) = self.raw.admit(now, tally.raw)
        {
            self.last_raw = Some(peer);
            self.refuse(RefusalReason::RawTransportStream, peer, count, now);
        }
        if quality.collisions > self.collisions.0 && !std::mem::replace(&mut self.collisions.1, true) {
            let source = self.ingest.context.status.name();
            self.ingest.context.events.emit(Event::SendersCollide { source, peer: self.sender });
        }
        self.ingest.publish(now, self.sender);
        if tally.disconnect {
            self.disconnected_until = now.checked_add(DISCONNECTED);
            self.lose(LossReason::BandwidthExceeded);
        }
    }

    /// Tells that datagrams of a peer are refused.
    fn refuse(&self, reason: RefusalReason, peer: SocketAddr, count: u64, now: Instant) {
        let context = &self.ingest.context;
        context.status.record_refusal(reason, peer, now);
        let detail = PeerText::default();
        context.events.emit(Event::PeerRefused { endpoint: context.status.name(), peer, reason, detail, count });
    }

    /// Returns the time of the next call of [`Reception::timeout`], if one is due.
    fn next_timeout(&self) -> Option<Instant> {
        let idle = self.ingest.last_media().and_then(|last| last.checked_add(self.settings.idle_timeout));
        self.receiver.next_timeout().into_iter().chain(idle).min()
    }

    fn timeout(&mut self, now: Instant) {
        self.publish(now);
        let silent = self.ingest.last_media().map(|last| now.saturating_duration_since(last));
        if silent.is_some_and(|silent| silent >= self.settings.idle_timeout) {
            self.lose(LossReason::Idle);
        }
    }

    fn lose(&mut self, reason: LossReason) {
        self.receiver.reset(&mut self.ingest.out.packets);
        self.ingest.lose(Instant::now(), reason);
        self.sender = None;
        self.collisions = (self.receiver.quality().collisions, false);
    }

    /// Publishes the packets held for reordering when the flow stops.
    fn stop(mut self) {
        self.receiver.reset(&mut self.ingest.out.packets);
        self.publish(Instant::now());
    }
}
