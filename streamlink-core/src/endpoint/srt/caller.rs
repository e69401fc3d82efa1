//! SRT caller: a task with its own socket, which connects, sends or receives, and reconnects after a loss.

use super::{
    super::{
        EventSink, LossReason, Resolver, SourceContext, Status,
        ingest::{Ingest, Verdict},
        lagging::{LagReport, Unsent},
        reconnect::{Caller, ConnectionAttempt, ConnectionCount, Outcome, ReconnectLoop},
        resolver::{Target, unreachable},
        sleep_until,
    },
    call_handshake::{CallHandshake, Parting, shake_hands},
    connection_io::ConnectionIo,
    group_caller,
    group_members::MemberList,
    rates::FlowRates,
    route::settle,
};
use crate::{
    flow::{GroupType, HostPort, Reconnect, StreamId},
    lock::log_handshake,
    media::Packet as MediaPacket,
    net::{Egress, Receiver, UdpOptions, UdpSocket},
    proto::srt::{self, ConnectionStats, Control, Delivered, Local, Packet, Rejection, SendBatch, Terms, destination},
    random::Random,
    router::{Batch, Reader},
};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Requested size of the socket buffers, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// Maximum number of datagrams handled in one turn of the task.
pub(super) const MAX_BATCH: usize = 512;
/// Duration of an attempt at a rendezvous in connect timeouts, as in libsrt: the peer may begin later.
const RENDEZVOUS_TIMEOUTS: u32 = 10;
/// Interval of the statistics.
pub(super) const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Direction of the media.
#[derive(Debug)]
pub(crate) enum Direction {
    Receive(SourceContext),
    Send(Reader),
}

/// Caller that is ready to run.
#[derive(Debug)]
pub(crate) struct SrtClient {
    pub(crate) remote: HostPort,
    /// Members of the group that the caller is; empty if it is none.
    pub(crate) members: MemberList,
    pub(crate) group_type: GroupType,
    /// Set if the peer calls, too.
    pub(crate) rendezvous: bool,
    pub(crate) resolver: Resolver,
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

impl SrtClient {
    /// Runs until the caller is stopped.
    pub(crate) async fn run(self) {
        let ingest = match &self.direction {
            Direction::Receive(context) => Some(Ingest::new(context.clone(), Instant::now())),
            Direction::Send(_) => None,
        };
        let reconnecting = ReconnectLoop {
            is_source: ingest.is_some(),
            reconnect: self.reconnect,
            random: self.random.clone(),
            status: self.status.clone(),
            events: self.events.clone(),
            stop: self.stop.clone(),
            connections: ConnectionCount::default(),
        };
        reconnecting.run(RunningCaller { caller: self, ingest, lag: LagReport::new() }).await;
    }

    /// Discards the media that came while there was no connection. The peer gets only media from now on.
    pub(super) fn skip_to_now(&mut self) {
        if let Direction::Send(reader) = &mut self.direction {
            let mut window = Vec::new();
            let lost = reader.read(&mut window);
            let stale = Batch::totals(&window);
            self.status.counters.dropped.add(lost.packets + stale.packets);
        }
    }

    /// Counts packets that the peer has missed, and reports them. A call with 0 packets may report earlier ones that
    /// were held back.
    pub(super) fn dropped(&self, packets: u64, lag: &mut LagReport, now: Instant) {
        self.status.counters.dropped.add(packets);
        lag.note(packets, &self.status, &self.events, now);
    }

    /// Returns a random socket id. It is never 0, which is the destination of handshakes.
    pub(super) fn fresh_id(&self) -> u32 {
        (u32::from_be_bytes(self.random.bytes()) & 0x3fff_ffff).max(1)
    }

    /// Makes one attempt to connect. The addresses of the host are tried one after the other, and share the connect
    /// timeout: two handshakes at once could leave a connection behind that keeps the stream occupied.
    async fn call(&self, connection: &mut ConnectionAttempt<'_>) -> Result<ConnectedClient, Outcome> {
        let deadline = Instant::now() + self.connect_timeout;
        let target = Target {
            resolver: &self.resolver,
            host: &self.remote,
            egress: &self.egress,
            avoid: connection.avoid,
            deadline,
        };
        let addresses = target.addresses().await.map_err(Outcome::Lost)?;
        let mut failures = Vec::new();
        for (tried, peer) in addresses.iter().copied().enumerate() {
            let others = addresses.len() - tried - 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let share = u32::try_from(others + 1).map_or(left, |count| left / count);
            match self.call_address(peer, share, others > 0).await {
                Ok(client) => return Ok(client),
                Err(Failed::Rejected(rejection)) => {
                    connection.reached(peer);
                    return Err(Outcome::Lost(refused(rejection, self.stream_id.as_deref())));
                }
                Err(Failed::Io(error)) => failures.push((peer, error)),
            }
        }
        Err(Outcome::Lost(unreachable(&failures)))
    }

    async fn call_address(
        &self,
        peer: SocketAddr,
        timeout: Duration,
        has_others: bool,
    ) -> Result<ConnectedClient, Failed> {
        let socket = UdpSocket::sending(peer, &socket_options(&self.egress))?;
        let id = self.fresh_id();
        let local = Local { id, start: Instant::now(), random: self.random.clone() };
        log_handshake(|| {
            let name = self.status.name();
            let asked = shown_stream_id(self.stream_id.as_deref());
            format!("`{name}` asks {peer} for an SRT connection as socket {id}: {asked}")
        });
        let handshake = if self.rendezvous {
            let timeout = timeout.saturating_mul(RENDEZVOUS_TIMEOUTS);
            CallHandshake::Rendezvous(Box::new(srt::Rendezvous::new(self.terms.clone(), local, timeout)))
        } else {
            let caller = srt::Caller::new(self.terms.clone(), local, self.stream_id.clone(), timeout);
            CallHandshake::Caller(Box::new(caller))
        };
        let mut client = shake_hands(handshake, socket, id, self.terms.bytes_per_second, has_others).await?;
        client.peer = peer;
        let rates = self.rates.now();
        client.io.connection.set_rates(rates.buffer, rates.pacing);
        Ok(client)
    }
}

/// Returns the options of a caller's socket.
pub(super) fn socket_options(egress: &Egress) -> UdpOptions {
    UdpOptions {
        receive_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        egress: egress.clone(),
        bidirectional: true,
        ..UdpOptions::default()
    }
}

/// Returns a stream id as it may be logged: its resource and mode, and no password.
fn shown_stream_id(id: Option<&str>) -> String {
    match id.map(StreamId::parse) {
        None => "no stream id".into(),
        Some(Ok(id)) => id.to_string(),
        Some(Err(error)) => format!("a stream id of another form ({error})"),
    }
}

/// Reason for which an address could not be called.
pub(super) enum Failed {
    Rejected(Rejection),
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A running caller, with the state that it keeps from one connection to the next.
struct RunningCaller {
    caller: SrtClient,
    /// Path of the media into the flow; `None` for an output.
    ingest: Option<Ingest>,
    lag: LagReport,
}

impl Caller for RunningCaller {
    async fn connect_and_run(&mut self, connection: &mut ConnectionAttempt<'_>) -> Outcome {
        let Self { caller, ingest, lag } = self;
        if let Some(rates) = caller.rates.changed() {
            rates.apply(&mut caller.terms);
        }
        if caller.members.is_group() {
            return group_caller::run(caller, ingest.as_mut(), lag, connection).await;
        }
        let called = tokio::select! {
            () = caller.stop.cancelled() => return Outcome::Stopped,
            called = caller.call(connection) => called,
        };
        let mut client = match called {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        if ingest.is_none() {
            client.io.connection.send_only(); // the peer of an output sends no media
        }
        caller.skip_to_now();
        let is_encrypted = client.io.connection.stats().encrypted;
        caller.status.counters.encrypted.set(u64::from(is_encrypted));
        connection.up(client.peer);
        if let Some(ingest) = ingest {
            ingest.await_media(Instant::now() + client.io.connection.stats().latency);
        }
        client.run(caller, ingest.as_mut(), lag).await
    }

    async fn reconfigured(&mut self) {
        self.caller.members.differ().await;
    }

    fn end(&mut self, reason: Option<&LossReason>, now: Instant) -> bool {
        let Some(ingest) = &mut self.ingest else { return false };
        let is_live = ingest.last_media().is_some();
        match reason {
            Some(reason) => ingest.lose(now, reason.clone()),
            None => ingest.publish(now, None),
        }
        is_live
    }
}

/// Returns the reason for a rejection by the listener: its code and, if that is about the stream, which one was asked
/// for.
pub(super) fn refused(rejection: Rejection, stream_id: Option<&str>) -> LossReason {
    let id = stream_id.unwrap_or_default();
    let what = match StreamId::parse(id).unwrap_or_else(|_| StreamId::plain(id)) {
        id if rejection.is_about_stream() => format!("{rejection}; {id} was asked for"),
        _ => rejection.to_string(),
    };
    match rejection {
        Rejection::BAD_SECRET | Rejection(1401) => LossReason::Unauthorized(what.into()),
        _ => LossReason::Rejected(what.into()),
    }
}

/// Established connection with its socket.
pub(super) struct ConnectedClient {
    pub(super) io: ConnectionIo,
    pub(super) socket: UdpSocket,
    pub(super) memory: Receiver,
    pub(super) peer: SocketAddr,
    /// Last packet of a rendezvous, which is sent again to a peer that goes on with the handshake.
    pub(super) parting: Option<Parting>,
}

impl ConnectedClient {
    async fn run(&mut self, call: &mut SrtClient, mut ingest: Option<&mut Ingest>, lag: &mut LagReport) -> Outcome {
        let mut batch = SendBatch::default();
        let mut window: Vec<Arc<Batch>> = Vec::new();
        let mut inbox = Vec::new();
        let mut settled = ConnectionStats::default();
        let mut next_stats = Instant::now() + STATS_INTERVAL;
        loop {
            let idle = ingest.as_ref().and_then(|ingest| ingest.idle_deadline());
            let due = [self.io.connection.next_timeout(), idle].into_iter().flatten().fold(next_stats, Instant::min);
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
                self.io.connection.set_rates(rates.buffer, rates.pacing);
                self.memory.set_rate(rates.pacing.bytes_per_second);
            }
            if let Direction::Send(reader) = &mut call.direction {
                let lost = reader.read(&mut window);
                call.dropped(lost.packets, lag, now);
                for packet in window.iter().flat_map(|batch| batch.packets()) {
                    self.io.connection.push_arrived(packet.data(), packet.arrival(), now);
                }
                window.clear();
            }
            for datagram in inbox.drain(..) {
                if destination(&datagram.data) == Some(self.io.connection.local_id())
                    && let Some(packet) = Packet::parse(&datagram.data)
                {
                    if let (Some(parting), Packet::Control { control: Control::Handshake(_), .. }) =
                        (&mut self.parting, &packet)
                    {
                        parting.repeat(&self.socket, now);
                    }
                    self.io.connection.handle(&packet, &datagram.data, datagram.arrival.min(now));
                }
            }
            let reason = self.attend(ingest.as_deref_mut(), now);
            if ended {
                self.io.connection.shut_down(now);
            }
            self.io.flush(&self.socket, &mut batch, now);
            if now >= next_stats || ended || reason.is_some() {
                next_stats = now + STATS_INTERVAL;
                let unsent = self.statistics(&call.status, &call.events, ingest.is_some(), &mut settled, now);
                call.dropped(unsent.dropped, lag, now);
                call.status.counters.dropped.add(unsent.oversized);
                let limit = self.io.connection.max_payload();
                lag.note_oversized(unsent.oversized, limit, &call.status, &call.events, now);
            }
            if ended {
                return Outcome::Stopped;
            }
            if let Some(reason) = reason {
                return Outcome::Lost(reason);
            }
        }
    }

    /// Runs the timers of the connection and hands received payloads to the flow. Returns `Some` when the connection
    /// has ended.
    fn attend(&mut self, ingest: Option<&mut Ingest>, now: Instant) -> Option<LossReason> {
        let connection: &mut srt::Connection = &mut self.io.connection;
        connection.handle_timeout(now);
        if let Some(ingest) = ingest {
            ingest.refresh();
            while let Some(Delivered { payload, due }) = connection.poll_delivery(now) {
                match ingest.admit(now, payload.len()) {
                    Verdict::Pass => ingest.out.packets.push(MediaPacket::datagram(payload, due.min(now))),
                    Verdict::Drop => {}
                    Verdict::Disconnect => {
                        connection.shut_down(now);
                        return Some(LossReason::BandwidthExceeded);
                    }
                }
            }
            ingest.publish(now, Some(self.peer));
            let is_idle = ingest.is_idle(now);
            if is_idle && self.io.loss().is_none() {
                self.io.connection.shut_down(now);
                return Some(LossReason::Idle);
            }
        } else {
            while connection.poll_delivery(now).is_some() {} // no payloads, only detects the end
        }
        self.io.loss()
    }

    /// Updates the counters. Returns the packets that an output has not sent, which are still to be counted.
    fn statistics(
        &self,
        status: &Status,
        events: &EventSink,
        is_source: bool,
        settled: &mut ConnectionStats,
        now: Instant,
    ) -> Unsent {
        let stats = self.io.connection.stats();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        status.counters.rtt_us.set(micros(stats.rtt));
        status.counters.latency_us.set(micros(stats.latency));
        status.counters.buffered_us.set(micros(stats.buffered));
        let unsent = settle(status, events, is_source, &stats, settled, now);
        *settled = stats;
        unsent
    }
}

/// Waits for media to send. For a source, which sends none, it never completes.
pub(super) async fn ready(direction: &mut Direction) -> Result<(), crate::router::Closed> {
    match direction {
        Direction::Send(reader) => reader.ready().await,
        Direction::Receive(_) => std::future::pending().await,
    }
}
