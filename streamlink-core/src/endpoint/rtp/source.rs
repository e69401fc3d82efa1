//! The RTP source: a task that reads a socket in batches, checks and orders what comes, and publishes it.

use crate::{
    endpoint::{Event, Live, LossReason, RefusalReason, SourceContext},
    flow::{BandwidthPolicy, RtpInput},
    media::{Packet, TsMonitor},
    net::{Alarm, Multicast, Received, Receiver as SocketReceiver, UdpOptions, UdpSocket},
    proto::rtp::{Header, NotRtp, Receiver},
    router::{Admission, Limiter, State},
    time::Throttle,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// The payload type of MPEG-TS (RFC 3551 section 6).
const MPEG_TS: u8 = 33;
/// The receive buffer that is asked for, in bytes.
const RECEIVE_BUFFER: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;
/// Packets of one batch at most: then it is published, and others get their turn.
const MAX_BATCH: usize = 512;
/// With the policy `Disconnect`, nothing is taken for so long after the bandwidth was exceeded.
const DISCONNECTED: Duration = Duration::from_secs(5);
/// How often the statistics of the transport stream are replaced.
const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// An RTP source with its socket open.
pub(crate) struct RtpSource {
    settings: RtpInput,
    socket: UdpSocket,
    memory: SocketReceiver,
    alarm: Alarm,
}

impl RtpSource {
    /// Opens the socket. `bytes_per_second` sizes its buffers.
    pub(crate) fn open(settings: &RtpInput, bytes_per_second: u64) -> io::Result<Self> {
        let bind = settings.listen.bind;
        let multicast = bind.ip().is_multicast().then(|| Multicast {
            source: settings.multicast_source,
            interface: settings.interface.as_ref().map(ToString::to_string),
        });
        let buffer = (bytes_per_second / 2).clamp(*RECEIVE_BUFFER.start(), *RECEIVE_BUFFER.end());
        let options = UdpOptions { multicast, receive_buffer: usize::try_from(buffer).ok(), ..UdpOptions::default() };
        let socket = UdpSocket::receiving(bind, &options)?;
        let memory = SocketReceiver::new(bytes_per_second);
        Ok(Self { settings: settings.clone(), socket, memory, alarm: Alarm::new()? })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(self, context: SourceContext, coalesce: Duration) {
        let Self { settings, socket, mut memory, alarm } = self;
        let stop = context.stop.clone();
        let mut live = context.live.clone();
        let mut intake = Intake::new(settings, context);
        loop {
            let deadline = intake.next_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled() => return intake.stop(),
                changed = live.changed() => {
                    if changed.is_ok() {
                        intake.apply(live.borrow_and_update().clone());
                    }
                }
                ready = socket.readable() => {
                    if ready.is_ok() && !coalesce.is_zero() {
                        // More may come while this waits, and all of it then leaves together.
                        tokio::select! {
                            () = stop.cancelled() => return intake.stop(),
                            () = alarm.wait(coalesce) => {}
                        }
                    }
                    let result = socket.drain(&mut memory, MAX_BATCH, |datagram| intake.datagram(datagram)).await;
                    if let Err(error) = result {
                        log::warn!("source `{}`: {error}", intake.context.status.name());
                    }
                    intake.overflows(memory.take_overflows());
                    intake.publish(Instant::now());
                }
                () = tokio::time::sleep_until(deadline.into()) => intake.timeout(Instant::now()),
            }
        }
    }
}

/// What happens to the datagrams.
struct Intake {
    settings: RtpInput,
    context: SourceContext,
    live: Live,
    limiter: Limiter,
    receiver: Receiver,
    monitor: TsMonitor,
    /// The last peer that was looked up in the allowlist, and the verdict.
    last_peer: Option<(IpAddr, bool)>,
    sender: Option<SocketAddr>,
    last_media: Option<Instant>,
    /// Nothing is taken until then.
    disconnected_until: Option<Instant>,
    monitored: Instant,
    /// How often media has begun to come.
    connections: u64,
    /// Late, double and foreign packets that are already counted as dropped.
    unwanted: u64,
    /// Counted in the running batch.
    tally: Tally,
    out: Vec<Packet>,
    refused: Throttle,
    above: Throttle,
}

#[derive(Default)]
struct Tally {
    malformed: u64,
    dropped: u64,
    above: u64,
    refused: u64,
    refused_peer: Option<SocketAddr>,
    disconnect: bool,
}

impl Intake {
    fn new(settings: RtpInput, context: SourceContext) -> Self {
        let now = Instant::now();
        let live = context.live.borrow().clone();
        Self {
            limiter: Limiter::new(live.max_bandwidth.as_bps(), now),
            receiver: Receiver::new(settings.reorder_window),
            monitor: TsMonitor::new(),
            last_peer: None,
            sender: None,
            last_media: None,
            disconnected_until: None,
            monitored: now,
            connections: 0,
            unwanted: 0,
            tally: Tally::default(),
            out: Vec::new(),
            refused: Throttle::new(Duration::from_secs(1)),
            above: Throttle::new(Duration::from_secs(1)),
            settings,
            context,
            live,
        }
    }

    fn apply(&mut self, live: Live) {
        self.limiter.set_rate(live.max_bandwidth.as_bps());
        self.live = live;
        self.last_peer = None;
        if self.sender.is_some_and(|peer| !self.live.allow.admits(peer.ip())) {
            self.lose(LossReason::NoLongerAllowed);
        }
    }

    /// One datagram, as it came.
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
            Err(NotRtp::Rtcp) => return, // belongs to RTP, and is for the sender's own receivers
            Err(NotRtp::Malformed) => return self.tally.malformed += 1,
        };
        if !self.settings.payload_types.admits(header.payload_type) {
            self.tally.dropped += 1;
            return;
        }
        if self.limiter.admit(arrival, data.len()) == Admission::Above {
            self.tally.above += 1;
            if self.live.policy != BandwidthPolicy::Warn {
                self.tally.dropped += 1;
                self.tally.disconnect = self.live.policy == BandwidthPolicy::Disconnect;
                return;
            }
        }
        self.sender = Some(peer);
        self.receiver.handle(&header, Packet::rtp(data, arrival), &mut self.out);
    }

    fn admits(&mut self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        match self.last_peer {
            Some((last, verdict)) if last == ip => verdict,
            _ => {
                let verdict = self.live.allow.admits(ip);
                self.last_peer = Some((ip, verdict));
                verdict
            }
        }
    }

    fn overflows(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.tally.dropped += datagrams;
            log::warn!("source `{}`: {datagrams} datagrams lost in a full socket buffer", self.context.status.name());
        }
    }

    /// Hands over what has come, and keeps the books.
    fn publish(&mut self, now: Instant) {
        self.receiver.handle_timeout(now, &mut self.out);
        let counters = &self.context.status.counters;
        let tally = std::mem::take(&mut self.tally);
        let quality = self.receiver.quality();
        counters.malformed.add(tally.malformed);
        counters.refused.add(tally.refused);
        counters.lost.set(quality.lost);
        counters.recovered.set(quality.recovered);
        counters.jitter_us.set(u64::try_from(quality.jitter.as_micros()).unwrap_or(u64::MAX));
        let unwanted = quality.late.saturating_add(quality.duplicates).saturating_add(quality.foreign);
        counters.dropped.add(tally.dropped + unwanted.saturating_sub(self.unwanted));
        self.unwanted = unwanted;
        if let Some(peer) = tally.refused_peer
            && let Some(count) = self.refused.admit(now, tally.refused)
        {
            let (endpoint, reason) = (self.context.status.name(), RefusalReason::NotAllowed);
            self.context.events.emit(Event::PeerRefused { endpoint, peer, reason, count });
        }
        if tally.above > 0
            && let Some(packets) = self.above.admit(now, tally.above)
        {
            self.context.events.emit(Event::BandwidthExceeded { source: self.context.status.name(), packets });
        }
        if !self.out.is_empty() {
            self.hand_over(now);
        }
        if tally.disconnect {
            self.disconnected_until = now.checked_add(DISCONNECTED);
            self.lose(LossReason::BandwidthExceeded);
        }
    }

    fn hand_over(&mut self, now: Instant) {
        let status = &self.context.status;
        if self.last_media.replace(now).is_none() {
            status.counters.set_state(State::Connected, now);
            status.counters.reconnections.set(self.connections);
            self.connections += 1;
            self.context.events.emit(Event::SourceConnected { source: status.name(), peer: self.sender });
        }
        let mut bytes = 0;
        for packet in &self.out {
            bytes += packet.data().len() as u64;
            if let Ok(header) = Header::parse(packet.data())
                && header.payload_type == MPEG_TS
            {
                let payload = packet.data().get(header.payload_start..header.payload_end);
                self.monitor.observe(payload.unwrap_or_default());
            }
        }
        status.counters.passed(now, self.out.len() as u64, bytes);
        self.context.ring.publish(&mut self.out);
        if let Some(description) = self.monitor.description() {
            self.context.describe(description);
        }
        if now.saturating_duration_since(self.monitored) >= MONITOR_INTERVAL {
            self.monitored = now;
            status.publish_monitor(&self.monitor);
        }
    }

    /// When [`Intake::timeout`] has something to do.
    fn next_timeout(&self) -> Instant {
        let idle = match self.last_media {
            Some(last) => last.checked_add(self.settings.idle_timeout),
            None => Instant::now().checked_add(Duration::from_secs(3600)),
        };
        let gap = self.receiver.next_timeout();
        gap.into_iter().chain(idle).min().unwrap_or_else(Instant::now)
    }

    fn timeout(&mut self, now: Instant) {
        self.publish(now);
        let silent = self.last_media.map(|last| now.saturating_duration_since(last));
        if silent.is_some_and(|silent| silent >= self.settings.idle_timeout) {
            self.lose(LossReason::Idle);
        }
    }

    fn lose(&mut self, reason: LossReason) {
        self.receiver.reset(&mut self.out);
        if !self.out.is_empty() {
            self.hand_over(Instant::now());
        }
        self.sender = None;
        if self.last_media.take().is_some() {
            let status = &self.context.status;
            status.counters.set_state(State::Waiting, Instant::now());
            self.context.events.emit(Event::SourceLost { source: status.name(), reason });
        }
    }

    /// The flow stops: what was held back still passes.
    fn stop(mut self) {
        self.receiver.reset(&mut self.out);
        if !self.out.is_empty() {
            self.hand_over(Instant::now());
        }
        self.context.status.counters.set_state(State::Idle, Instant::now());
    }
}
