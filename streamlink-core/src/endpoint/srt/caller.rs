//! SRT caller: a task with its own socket, which connects, sends or receives, and reconnects after a loss.

use super::{
    super::{
        Event, EventSink, LossReason, SourceContext, Status,
        backoff::{Backoff, report_loss, report_retry},
        ingest::{Ingest, Verdict},
        lagging::LagReport,
        sleep_until,
    },
    link::Link,
    rates::FlowRates,
    route::settle,
};
use crate::{
    flow::{HostPort, Reconnect},
    media::Packet as MediaPacket,
    net::{Datagram, Egress, Receiver, Sender, UdpOptions, UdpSocket},
    proto::srt::{Caller, Connection, ConnectionStats, Control, Local, Packet, Progress, Terms, destination},
    random::Random,
    router::{Batch, Reader, State},
};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Requested size of the socket buffers, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// Maximum number of datagrams handled in one turn of the task.
const MAX_BATCH: usize = 512;
/// Interval of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Direction of the media.
#[derive(Debug)]
pub(crate) enum Direction {
    Receive(SourceContext),
    Send(Reader),
}

/// Caller that is ready to run.
#[derive(Debug)]
pub(crate) struct SrtCaller {
    pub(crate) remote: HostPort,
    pub(crate) reconnect: Reconnect,
    pub(crate) random: Random,
    pub(crate) connect_timeout: Duration,
    pub(crate) stream_id: Option<String>,
    pub(crate) terms: Terms,
    /// Rates of the flow, from which buffer and pacing in `terms` are updated.
    pub(crate) rates: FlowRates,
    pub(crate) egress: Egress,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) stop: CancellationToken,
    pub(crate) direction: Direction,
}

/// Reason why a connection, or an attempt at one, has ended.
enum End {
    Stopped,
    Lost(LossReason),
}

impl SrtCaller {
    /// Runs until the caller is stopped.
    pub(crate) async fn run(mut self) {
        let now = Instant::now();
        self.status.counters.set_state(State::Waiting, now);
        let mut ingest = match &self.direction {
            Direction::Receive(context) => Some(Ingest::new(context.clone(), now)),
            Direction::Send(_) => None,
        };
        let mut redial = Backoff::new(self.reconnect, self.random.clone());
        let mut lag = LagReport::new();
        let mut connections = 0u64;
        loop {
            let started = Instant::now();
            if let Some(rates) = self.rates.changed() {
                rates.apply(&mut self.terms);
            }
            let end = match self.call().await {
                Ok(mut session) => {
                    redial.connected();
                    if ingest.is_none() {
                        session.link.connection.send_only(); // the peer of an output sends no media
                    }
                    self.skip_to_now();
                    self.connected(&session, ingest.is_some(), &mut connections);
                    session.run(&mut self, ingest.as_mut(), &mut lag).await
                }
                Err(end) => end,
            };
            let now = Instant::now();
            self.status.counters.set_state(State::Waiting, now);
            let reason = match end {
                End::Stopped => return ingest.iter_mut().for_each(|ingest| ingest.publish(now, None)),
                End::Lost(reason) => reason,
            };
            self.lost(reason, redial.repeats(), ingest.as_mut(), now);
            let (attempt, wait) = redial.failed(started, now);
            report_retry(&self.events, &self.status, ingest.is_some(), attempt, wait);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Discards the media that came while there was no connection. The peer gets only media from now on.
    fn skip_to_now(&mut self) {
        if let Direction::Send(reader) = &mut self.direction {
            let mut window = Vec::new();
            let lost = reader.read(&mut window);
            let stale = Batch::totals(&window);
            self.status.counters.dropped.add(lost.packets + stale.packets);
        }
    }

    /// Counts packets that the peer has missed, and reports them. A call with 0 packets may report earlier ones that
    /// were held back.
    fn dropped(&self, packets: u64, lag: &mut LagReport, now: Instant) {
        self.status.counters.dropped.add(packets);
        lag.note(packets, &self.status, &self.events, now);
    }

    fn connected(&self, session: &Session, is_source: bool, connections: &mut u64) {
        let stats = session.link.connection.stats();
        self.status.counters.encrypted.set(u64::from(stats.encrypted));
        if !is_source {
            self.status.counters.set_state(State::Connected, Instant::now());
            self.status.counters.reconnections.set(*connections);
            let output = self.status.name();
            self.events.emit(Event::OutputConnected { output, peer: Some(session.peer) });
        }
        *connections += 1;
    }

    fn lost(&self, reason: LossReason, repeats: bool, ingest: Option<&mut Ingest>, now: Instant) {
        match ingest {
            Some(ingest) if ingest.last_media().is_some() => ingest.lose(now, reason),
            // If each attempt fails for the same reason, that reason is reported once. The retries are reported every
            // time.
            _ if repeats => {}
            ingest => report_loss(&self.events, &self.status, ingest.is_some(), reason),
        }
    }

    /// Makes one attempt to connect.
    async fn call(&self) -> Result<Session, End> {
        let attempt = async {
            let io = |e: io::Error| End::Lost(LossReason::Io(e.to_string().into()));
            let mut found = tokio::net::lookup_host((self.remote.host(), self.remote.port())).await.map_err(io)?;
            let peer = found.next().ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
            let options = UdpOptions {
                receive_buffer: Some(SOCKET_BUFFER),
                send_buffer: Some(SOCKET_BUFFER),
                egress: self.egress.clone(),
                bidirectional: true,
                ..UdpOptions::default()
            };
            let socket = UdpSocket::sending(peer, &options).map_err(io)?;
            let id = (u32::from_be_bytes(self.random.bytes()) & 0x3fff_ffff).max(1);
            let local = Local { id, start: Instant::now(), random: self.random.clone() };
            let caller = Caller::new(self.terms.clone(), local, self.stream_id.clone(), self.connect_timeout);
            let mut session = shake_hands(caller, socket, id, self.terms.bytes_per_second).await?;
            session.peer = peer;
            let rates = self.rates.now();
            session.link.connection.set_rates(rates.buffer, rates.pacing);
            Ok(session)
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(End::Stopped),
            result = attempt => result,
        }
    }
}

/// Runs the handshake until the listener has accepted or rejected the call, or the time is up.
async fn shake_hands(mut caller: Caller, socket: UdpSocket, id: u32, rate: u64) -> Result<Session, End> {
    let mut memory = Receiver::new(rate);
    let mut sender = Sender::new(&socket);
    let mut inbox = Vec::new();
    loop {
        let now = Instant::now();
        if let Some(packet) = caller.poll_transmit(now) {
            sender.send(&socket, &[Datagram { head: &[], body: &packet }]);
        }
        let deadline = caller.next_timeout();
        tokio::select! {
            result = socket.drain(&mut memory, 1, |datagram| inbox.push(datagram)) => {
                if let Err(error) = result {
                    log::debug!("SRT caller: {error}"); // e.g. nobody listens yet: the handshake is repeated
                }
            }
            () = sleep_until(Some(deadline)) => {}
        }
        let now = Instant::now();
        let mut progress = caller.handle_timeout(now);
        for datagram in inbox.drain(..) {
            if destination(&datagram.data) != Some(id) {
                continue;
            }
            if let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) =
                Packet::parse(&datagram.data)
            {
                progress = caller.handle(body, timestamp, now);
            }
        }
        match progress {
            Progress::Calling => {}
            Progress::Connected(connection) => {
                let peer = socket.local_addr(); // placeholder, replaced by `SrtCaller::call`
                let link = Link::new(*connection, &socket, None);
                return Ok(Session { link, socket, memory, peer });
            }
            Progress::Rejected(reason) => return Err(End::Lost(LossReason::Rejected(reason.to_string().into()))),
            Progress::TimedOut => return Err(End::Lost(LossReason::TimedOut)),
        }
    }
}

/// Established connection with its socket.
struct Session {
    link: Link,
    socket: UdpSocket,
    memory: Receiver,
    peer: std::net::SocketAddr,
}

impl Session {
    async fn run(&mut self, call: &mut SrtCaller, mut ingest: Option<&mut Ingest>, lag: &mut LagReport) -> End {
        let mut scratch = Vec::new();
        let mut window: Vec<Arc<Batch>> = Vec::new();
        let mut inbox = Vec::new();
        let mut settled = ConnectionStats::default();
        let mut next_stats = Instant::now() + STATS_INTERVAL;
        loop {
            let due = self.link.connection.next_timeout().map_or(next_stats, |at| at.min(next_stats));
            let mut ended = false;
            tokio::select! {
                biased;
                () = call.stop.cancelled() => ended = true,
                ready = ready(&mut call.direction) => ended = ready.is_err(),
                result = self.socket.drain(&mut self.memory, MAX_BATCH, |datagram| inbox.push(datagram)) => {
                    if let Err(error) = result {
                        log::debug!("SRT caller: {error}"); // a peer that is gone is found by the idle timeout
                    }
                }
                () = sleep_until(Some(due)) => {}
            }
            let now = Instant::now();
            if let Some(rates) = call.rates.changed() {
                rates.apply(&mut call.terms);
                self.link.connection.set_rates(rates.buffer, rates.pacing);
                self.memory.set_rate(rates.pacing.bytes_per_second);
            }
            if let Direction::Send(reader) = &mut call.direction {
                let lost = reader.read(&mut window);
                call.dropped(lost.packets, lag, now);
                for packet in window.iter().flat_map(|batch| batch.packets()) {
                    self.link.connection.push(packet.data(), now);
                }
                window.clear();
            }
            for datagram in inbox.drain(..) {
                if destination(&datagram.data) == Some(self.link.connection.local_id())
                    && let Some(packet) = Packet::parse(&datagram.data)
                {
                    self.link.connection.handle(&packet, &datagram.data, datagram.arrival.min(now));
                }
            }
            let reason = self.attend(ingest.as_deref_mut(), now);
            if ended {
                self.link.connection.shut_down(now);
            }
            self.link.flush(&self.socket, &mut scratch, now);
            if now >= next_stats || ended || reason.is_some() {
                next_stats = now + STATS_INTERVAL;
                let dropped = self.statistics(&call.status, &call.events, ingest.is_some(), &mut settled, now);
                call.dropped(dropped, lag, now);
            }
            if ended {
                return End::Stopped;
            }
            if let Some(reason) = reason {
                return End::Lost(reason);
            }
        }
    }

    /// Runs the timers of the connection and hands received payloads to the flow. Returns `Some` when the connection
    /// has ended.
    fn attend(&mut self, ingest: Option<&mut Ingest>, now: Instant) -> Option<LossReason> {
        let connection: &mut Connection = &mut self.link.connection;
        connection.handle_timeout(now);
        if let Some(ingest) = ingest {
            ingest.refresh();
            while let Some(payload) = connection.poll_payload(now) {
                match ingest.admit(now, payload.len()) {
                    Verdict::Pass => ingest.out.packets.push(MediaPacket::datagram(payload, now)),
                    Verdict::Drop => {}
                    Verdict::Disconnect => {
                        connection.shut_down(now);
                        return Some(LossReason::BandwidthExceeded);
                    }
                }
            }
            ingest.publish(now, Some(self.peer));
        } else {
            while connection.poll_payload(now).is_some() {} // no payloads, only detects the end
        }
        self.link.loss()
    }

    /// Updates the counters. Returns the number of packets that an output has given up, which are still to be counted.
    fn statistics(
        &self,
        status: &Status,
        events: &EventSink,
        is_source: bool,
        settled: &mut ConnectionStats,
        now: Instant,
    ) -> u64 {
        let stats = self.link.connection.stats();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        status.counters.rtt_us.set(micros(stats.rtt));
        status.counters.latency_us.set(micros(stats.latency));
        status.counters.buffered_us.set(micros(stats.buffered));
        let dropped = settle(status, events, is_source, &stats, settled, now);
        *settled = stats;
        dropped
    }
}

/// Waits for media to send. For a source, which sends none, it never completes.
async fn ready(direction: &mut Direction) -> Result<(), crate::router::Closed> {
    match direction {
        Direction::Send(reader) => reader.ready().await,
        Direction::Receive(_) => std::future::pending().await,
    }
}
