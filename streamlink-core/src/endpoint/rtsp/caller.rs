//! RTSP caller: connects to a server, plays from it or records to it, and reconnects after a loss.

use super::{
    super::{
        EventSink, FlowBandwidth, LossReason, Resolver, SourceContext, Status, TlsIdentity,
        reconnect::{Caller, ConnectionAttempt, ConnectionCount, Outcome, ReconnectLoop},
        resolver::Target,
        tcp::{End, Player, SendQueue, WritePacing, answer, close_with, send, write_all},
    },
    end_of,
    inbound::SourceSession,
    receive::Receiving,
    redirect::ServerAddress,
    refused,
    send_session::RecordingClient,
    start_lines,
    udp::UdpTracks,
    wire::Interleaved,
};
use crate::{
    flow::{HostPort, Reconnect, RtspTransport, shown_url},
    lock::log_handshake,
    media::rtsp::Presentation,
    net::{Egress, Stream, TlsClient},
    proto::{
        rtp::Reports,
        rtsp::{CarriedAnswer, ClientEvent, ClientRole, ClientSession, User},
    },
    random::Random,
    router::{CurrentPresentation, Reader, Ring},
    secret::Secret,
};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Interval between updates of the statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time until the first media over UDP, after which TCP is tried.
const UDP_PATIENCE: Duration = Duration::from_secs(3);
/// Maximum time for which a server may stop reading before the connection is given up.
const SLOW: Duration = Duration::from_secs(10);

/// Direction of the media, with its source or destination in the flow.
#[derive(Debug)]
pub(crate) enum Direction {
    Play(SourceContext),
    Record {
        ring: Arc<Ring>,
        presentation: Arc<CurrentPresentation>,
        /// Maximum number of bytes of the last group of pictures sent to the server when a connection is up.
        gop_cache: u64,
        /// Bandwidth of the flow, from which the socket's send buffer is sized.
        bandwidth: FlowBandwidth,
    },
}

/// A caller with its settings, ready to run.
pub(crate) struct RtspClient {
    pub(crate) remote: HostPort,
    pub(crate) resolver: Resolver,
    /// TLS configuration with the trusted certificates. `None`: plain RTSP.
    pub(crate) tls: Option<TlsClient>,
    /// URL without a password.
    pub(crate) url: String,
    pub(crate) user: Option<User>,
    pub(crate) transport: RtspTransport,
    /// Over UDP, uses the ports that the server sends from instead of those that it names.
    pub(crate) symmetric: bool,
    /// Sets up tracks that the server is to receive, too.
    pub(crate) back_channel: bool,
    /// Certificates that are trusted after a redirection from plain RTSP.
    pub(crate) identity: Arc<TlsIdentity>,
    pub(crate) reconnect: Reconnect,
    pub(crate) random: Random,
    pub(crate) connect_timeout: Duration,
    pub(crate) egress: Egress,
    pub(crate) status: Arc<Status>,
    pub(crate) events: EventSink,
    pub(crate) stop: CancellationToken,
    pub(crate) direction: Direction,
}

/// State that a caller keeps from one connection to the next.
enum DirectionState {
    Play(Box<SourceSession>),
    Record(Reader),
}

/// A running caller.
struct RunningClient {
    client: RtspClient,
    direction: DirectionState,
    /// Media is to come over UDP.
    udp: bool,
    /// Address of the next attempt, if the server has named another than the configured one.
    redirected: Option<ServerAddress>,
    /// Credentials for the first request of the next attempt, after a server has asked for some and has closed.
    carried: Option<CarriedAnswer>,
}

impl Caller for RunningClient {
    async fn connect_and_run(&mut self, connection: &mut ConnectionAttempt<'_>) -> Outcome {
        let is_auto = self.client.transport == RtspTransport::Auto;
        // After a loss, the configured address is asked again.
        let address = self.redirected.take().unwrap_or_else(|| self.client.address());
        let carried = self.carried.take();
        let mut up = match self.client.call(&address, self.udp, carried, connection).await {
            Ok(up) => up,
            Err(Failed::NoUdp(words)) => {
                let reason = LossReason::Rejected(words.into());
                return if is_auto { self.try_tcp(reason) } else { Outcome::Lost(reason) };
            }
            Err(Failed::Redirect(url)) => return self.redirect(&url, &address, None),
            Err(Failed::Challenged(answer)) => {
                self.carried = Some(answer);
                self.redirected = Some(address);
                return Outcome::TryNext(None);
            }
            Err(Failed::Busy(reason, wait)) => return Outcome::Busy(reason, wait),
            Err(Failed::End(end)) => return end.into(),
        };
        connection.up(up.peer);
        let end = match &mut self.direction {
            DirectionState::Record(reader) => self.client.record(&mut up, reader).await,
            DirectionState::Play(inbound) => self.client.play(&mut up, inbound, self.udp).await,
        };
        match (end, &self.direction, up.session.take_moved()) {
            (End::Lost(reason), _, Some(url)) => self.redirect(&url, &address, Some(reason)),
            // No media was received over UDP: try TCP at once.
            (End::Lost(reason @ LossReason::Idle), DirectionState::Play(inbound), None)
                if self.udp && is_auto && !inbound.is_live() =>
            {
                self.try_tcp(reason)
            }
            (end, _, _) => end.into(),
        }
    }

    fn end(&mut self, reason: Option<&LossReason>, now: Instant) -> bool {
        match &mut self.direction {
            DirectionState::Play(inbound) => {
                let is_live = inbound.is_live();
                inbound.end(&reason.cloned().map_or(End::Stopped, End::Lost), now);
                is_live
            }
            DirectionState::Record(_) => false,
        }
    }
}

impl RunningClient {
    /// Makes the next attempt over TCP, at once.
    fn try_tcp(&mut self, reason: LossReason) -> Outcome {
        self.udp = false;
        let why = match &reason {
            LossReason::Idle => format!("no media in {} s", UDP_PATIENCE.as_secs()),
            reason => reason.to_string(),
        };
        Outcome::TryNext(Some(LossReason::OtherWay(format!("over UDP: {why}; TCP is tried next").into())))
    }

    /// Makes the next attempt at the address of a redirection, at once. `reason`: that of the end of a connection.
    fn redirect(&mut self, url: &Secret, from: &ServerAddress, reason: Option<LossReason>) -> Outcome {
        match from.redirected(url.reveal(), &self.client.address(), || self.client.identity.any_client()) {
            Ok(next) => {
                log::info!("`{}` is redirected to {}", self.client.status.name(), shown_url(&next.url));
                self.redirected = Some(next);
                Outcome::TryNext(reason)
            }
            Err(why) => Outcome::Lost(LossReason::Rejected(why.into())),
        }
    }
}

/// A connection on which the server has agreed to play or record.
struct ConnectedClient {
    stream: Stream,
    session: ClientSession,
    udp: UdpTracks,
    peer: SocketAddr,
}

/// Reason why an attempt has failed.
enum Failed {
    End(End),
    /// The server does not support UDP, in these words.
    NoUdp(String),
    Redirect(Secret),
    /// The server has refused, and asks not to come back before this time has passed.
    Busy(LossReason, Duration),
    /// The server has asked for credentials, and has closed the connection.
    Challenged(CarriedAnswer),
}

impl<T: Into<End>> From<T> for Failed {
    fn from(end: T) -> Self {
        Self::End(end.into())
    }
}

impl RtspClient {
    /// Connects again and again until it is stopped.
    pub(crate) async fn run(self) {
        let direction = match &self.direction {
            Direction::Play(context) => {
                DirectionState::Play(Box::new(SourceSession::new(context.clone(), Instant::now())))
            }
            Direction::Record { ring, .. } => DirectionState::Record(ring.reader()),
        };
        let is_source = matches!(direction, DirectionState::Play(_));
        // Recording over UDP has no protection against loss, so it must be asked for.
        let udp = match self.transport {
            RtspTransport::Udp => true,
            RtspTransport::Tcp => false,
            RtspTransport::Auto => is_source,
        };
        let reconnecting = ReconnectLoop {
            is_source,
            reconnect: self.reconnect,
            random: self.random.clone(),
            status: self.status.clone(),
            events: self.events.clone(),
            stop: self.stop.clone(),
            connections: ConnectionCount::default(),
        };
        reconnecting.run(RunningClient { client: self, direction, udp, redirected: None, carried: None }).await;
    }

    /// Returns the configured address.
    fn address(&self) -> ServerAddress {
        ServerAddress::new(self.remote.clone(), self.tls.clone(), self.url.clone(), self.user.clone())
    }

    /// Makes one attempt to connect, up to the server's consent.
    async fn call(
        &self,
        address: &ServerAddress,
        udp: bool,
        carried: Option<CarriedAnswer>,
        connection: &mut ConnectionAttempt<'_>,
    ) -> Result<ConnectedClient, Failed> {
        let role = match &self.direction {
            Direction::Play(_) => ClientRole::Play,
            Direction::Record { presentation, .. } => {
                // ANNOUNCE needs the presentation, so wait until the source has one.
                tokio::select! {
                    () = self.stop.cancelled() => return Err(End::Stopped.into()),
                    presentation = some_presentation(presentation) => ClientRole::Record(presentation),
                }
            }
        };
        let deadline = Instant::now() + self.connect_timeout;
        let target = Target {
            resolver: &self.resolver,
            host: &address.remote,
            egress: &self.egress,
            avoid: connection.avoid,
            deadline,
        };
        let (stream, peer) = tokio::select! {
            () = self.stop.cancelled() => return Err(End::Stopped.into()),
            connected = target.connect() => connected?,
        };
        connection.reached(peer);
        let attempt = async {
            let local = stream.local_addr()?.ip();
            let stream = stream.secure_connected(address.remote.host(), address.tls.as_ref()).await?;
            let mut session = ClientSession::new(role, &address.url, address.user.clone(), udp, &self.random);
            session.set_back_channel(self.back_channel);
            if let Some(answer) = carried {
                session.carry(answer);
            }
            let mut udp_tracks = UdpTracks::of_caller(self.symmetric);
            udp_tracks.set_dscp(self.egress.dscp);
            let mut up = ConnectedClient { stream, session, udp: udp_tracks, peer };
            up.greet(&self.random, local, matches!(self.direction, Direction::Play(_))).await?;
            Ok(up)
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(End::Stopped.into()),
            result = tokio::time::timeout_at(deadline.into(), attempt) => {
                result.unwrap_or(Err(End::Lost(LossReason::TimedOut).into()))
            }
        }
    }

    async fn play(&self, up: &mut ConnectedClient, inbound: &mut SourceSession, udp: bool) -> End {
        let Some(presentation) = up.session.presentation().cloned() else { return End::Stopped };
        up.udp.truncate(presentation.tracks().len());
        inbound.begin(&presentation, udp);
        let wire = Interleaved::new(up.session.tracks());
        let first = (udp && self.transport == RtspTransport::Auto).then_some(UDP_PATIENCE);
        let ConnectedClient { stream, session, udp, peer } = up;
        Receiving { stream, session, wire, udp, inbound, peer: *peer, first }.run(&self.stop).await
    }

    async fn record(&self, up: &mut ConnectedClient, reader: &mut Reader) -> End {
        let Direction::Record { ring, presentation, gop_cache, bandwidth } = &self.direction else {
            return End::Stopped;
        };
        // Start at the last key frame, unless media after it was sent on the previous connection. In that case, wait
        // for the next key frame.
        let from_start = ring.reader_from_start(*gop_cache);
        let fresh = if from_start.position() >= reader.position() { from_start } else { ring.reader() };
        self.status.counters.dropped.add(fresh.missed_since(reader));
        *reader = fresh;
        let player = Player::new(up.peer, Instant::now());
        let known = up.session.presentation().cloned();
        let end = {
            let mut sending = pin!(async {
                if !up.udp.is_empty() {
                    return self.record_udp(up, reader, &player).await;
                }
                let queue = SendQueue::new(Interleaved::new(up.session.tracks()));
                let pace = WritePacing { coalesce: Duration::ZERO, slow: SLOW, bandwidth: bandwidth.clone() };
                let next_keep_alive = Instant::now() + up.session.keep_alive_interval();
                let mut recorder = RecordingClient { session: &mut up.session, next_keep_alive };
                send(&mut up.stream, &mut recorder, reader, queue, &player, pace, player.ended(&self.stop)).await
            });
            let mut stats = tokio::time::interval(STATS_INTERVAL);
            loop {
                tokio::select! {
                    end = &mut sending => break end,
                    _ = stats.tick() => self.settle(&player, true),
                    // The announced presentation is out of date: reconnect to announce the new one.
                    () = presentation.changed_from(known.as_ref()) => break End::Lost(LossReason::Closed),
                }
            }
        };
        self.settle(&player, false);
        if matches!(end, End::Stopped) {
            close_with(&mut up.stream, &[]).await;
        }
        end
    }

    async fn record_udp(&self, up: &mut ConnectedClient, reader: &mut Reader, player: &Player) -> End {
        let mut window = Vec::new();
        let mut next_keep_alive = Instant::now() + up.session.keep_alive_interval();
        let mut begun = false;
        let mut reports = Reports::default();
        loop {
            let ConnectedClient { stream, session, udp, peer } = up;
            tokio::select! {
                () = self.stop.cancelled() => {
                    session.end();
                    close_with(stream, &session.take_output()).await;
                    return End::Stopped;
                }
                read = poll_fn(|cx| stream.poll_read(cx, |bytes| session.push(bytes))) => match read {
                    Ok(0) => return End::Lost(LossReason::Closed),
                    Ok(_) => while let Some(outcome) = match session.next() {
                        Ok(outcome) => outcome,
                        Err(fault) => return fault.into(),
                    } {
                        if let Some(reason) = end_of(&outcome) {
                            return End::Lost(reason);
                        }
                    },
                    Err(error) => return error.into(),
                },
                () = udp.hear(peer.ip(), &mut reports) => {} // never completes
                ready = reader.ready() => {
                    if ready.is_err() {
                        return End::Stopped;
                    }
                    player.reported(reports.lost());
                    let lost = reader.read(&mut window).packets;
                    if !begun {
                        let start = window.iter().position(|batch| batch.start().is_some());
                        window.drain(..start.unwrap_or(window.len()));
                        begun = start.is_some();
                    }
                    let preamble = window.first().and_then(|batch| batch.start()).cloned();
                    let (sent, refused) = udp.send(&window, preamble.as_deref());
                    player.count(sent, refused + lost);
                    window.clear();
                }
                () = tokio::time::sleep_until(next_keep_alive.into()) => {
                    next_keep_alive = Instant::now() + session.keep_alive_interval();
                    session.keep_alive();
                }
            }
            let answers = up.session.take_output();
            if let Err(end) = answer(&mut up.stream, &answers, &self.stop).await {
                return end;
            }
        }
    }

    fn settle(&self, player: &Player, connected: bool) {
        let now = Instant::now();
        if let Some(event) = player.settle(&self.status, now) {
            self.events.emit(event);
        }
        let list = if connected { vec![player.stats(now)] } else { Vec::new() };
        self.status.set_players(list);
    }
}

async fn some_presentation(presentation: &CurrentPresentation) -> Arc<Presentation> {
    loop {
        if let Some(presentation) = presentation.current() {
            return presentation;
        }
        presentation.changed_from(None).await;
    }
}

impl ConnectedClient {
    /// Exchanges messages until the server has agreed. `brings`: the server is to send media.
    async fn greet(&mut self, random: &Random, local: std::net::IpAddr, brings: bool) -> Result<(), Failed> {
        loop {
            let bytes = self.session.take_output();
            let peer = self.peer;
            log_handshake(|| format!("RTSP {peer} is asked {}", start_lines(&bytes)));
            if let Err(error) = write_all(&mut self.stream, &bytes).await {
                return Err(if is_closed(&error) { self.closed() } else { error.into() });
            }
            let Self { stream, session, .. } = self;
            let mut read = |bytes: &[u8]| {
                log_handshake(|| format!("RTSP {peer} answers {}", start_lines(bytes)));
                session.push(bytes);
            };
            match poll_fn(|cx| stream.poll_read(cx, &mut read)).await {
                Ok(0) => return Err(self.closed()),
                Ok(_) => {}
                Err(error) if is_closed(&error) => return Err(self.closed()),
                Err(error) => return Err(error.into()),
            }
            while let Some(outcome) = self.session.next().map_err(End::from)? {
                match outcome {
                    ClientEvent::Ready => return Ok(()),
                    ClientEvent::ServerPorts { track, ports, source } => {
                        self.udp.set_peer(track, self.peer.ip(), ports, source);
                    }
                    ClientEvent::Rejected(what) => {
                        let reason = refused(what);
                        return Err(match self.session.retry_after() {
                            Some(wait) => Failed::Busy(reason, wait),
                            None => End::Lost(reason).into(),
                        });
                    }
                    ClientEvent::NoUdp(words) => return Err(Failed::NoUdp(words)),
                    ClientEvent::Redirect(url) => return Err(Failed::Redirect(url)),
                    ClientEvent::Frame { .. } => {} // none before `Ready`
                }
            }
            if let Some(track) = self.session.wants_ports() {
                let ports = self.udp.open(random, track, local, brings, None)?;
                self.session.offer_ports(track, ports);
            }
        }
    }

    /// Returns the reason why an attempt has failed whose connection the server has closed.
    fn closed(&mut self) -> Failed {
        match self.session.closed() {
            Ok(answer) => Failed::Challenged(answer),
            Err(why) => End::Lost(refused(why)).into(),
        }
    }
}

/// Returns whether an error says that the peer has closed the connection.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
