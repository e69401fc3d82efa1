//! The outputs of a flow: opened first, then put to work.

use super::{
    Shared,
    drivers::{
        route_key, rtmp_call, rtmp_url, rtsp_call, rtsp_place, rtsp_url, send_buffer, srt_call, srt_route, srt_url,
    },
    handle::Running,
    start::{Place, PortRoute, region, trust},
};
use crate::{
    endpoint::{
        Event, Status,
        fanout::SinkId,
        rtmp::{self, Rtmp},
        rtp,
        rtsp::{self, Rtsp},
        srt,
        tcp::{PlayerLimits, Port, Route, RouteEnd},
    },
    error::{ConfigError, ConfigErrors, Error},
    flow::{
        Bitrate, Claim, DEFAULT_GOP_CACHE, Output, OutputKind, PeerUrl, RtmpPlayServer, RtmpPush, RtspCaller,
        RtspListener, SrtCaller, SrtListener,
    },
    net::{Egress, TlsClient},
    router::{Closer, Reader, State},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long an RTSP player over TCP may be behind before it is cut off.
const RTSP_SLOW: Duration = Duration::from_secs(10);

/// An output of a running flow.
#[derive(Debug)]
pub(super) struct RunningOutput {
    pub(super) output: Output,
    pub(super) status: Arc<Status>,
    pub(super) end: OutputEnd,
    /// What it claims for itself alone.
    pub(super) claim: Option<Claim>,
    /// Where players fetch from.
    pub(super) url: Option<PeerUrl>,
}

/// What drives an output, and what ends it.
#[derive(Debug)]
pub(super) enum OutputEnd {
    Sinks(Vec<SinkId>),
    Tap(TapEnd),
    /// A task of its own.
    Task {
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    },
    Route(PortRoute),
}

/// The engine's end of a tap: its reader until the host takes it, and what ends it.
#[derive(Debug)]
pub(super) struct TapEnd {
    pub(super) reader: Option<Reader>,
    pub(super) closer: Closer,
}

/// An output with its sockets open.
pub(super) enum OpenOutput {
    Rtp(rtp::OpenOutput),
    SrtListener(Arc<srt::Port>, Box<SrtListener>),
    SrtCaller(Box<SrtCaller>, Egress),
    RtmpPlay(Arc<Port<Rtmp>>, Box<RtmpPlayServer>),
    /// To one destination or more.
    RtmpPush(Vec<(RtmpPush, Option<TlsClient>)>, Egress),
    RtspListener(Arc<Port<Rtsp>>, Box<RtspListener>),
    RtspCaller(Box<RtspCaller>, Option<TlsClient>, Egress),
    Tap,
}

pub(super) async fn open_output(
    shared: &Shared,
    flow: &str,
    output: &Output,
    rate: Bitrate,
    status: &Arc<Status>,
) -> Result<OpenOutput, Error> {
    let place = Place::output(flow, output.name());
    let egress = region(shared, output)
        .map_err(|problem| Error::from(ConfigErrors::from(ConfigError::new("region", problem))))?;
    match &output.kind {
        OutputKind::SrtListener(settings) => {
            let port = shared.srt_port(settings.listen.bind);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenOutput::SrtListener(port, Box::new(settings.clone())))
        }
        OutputKind::RtmpPlay(settings) => {
            let port = shared.tcp_port(&shared.rtmp_ports, settings.listen.bind, settings.tls);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenOutput::RtmpPlay(port, Box::new(settings.clone())))
        }
        OutputKind::RtmpPush(settings) => {
            let tls = trust(shared, settings.address.tls, &place)?;
            Ok(OpenOutput::RtmpPush(vec![(settings.clone(), tls)], egress))
        }
        OutputKind::RtmpRelay(settings) => {
            let second = settings.second.as_ref().map(|(address, key)| {
                let mut second = settings.first.clone();
                (second.address, second.key) = (address.clone(), Some(key.clone()));
                second
            });
            let destinations = std::iter::once(settings.first.clone()).chain(second);
            let trusting = |push: RtmpPush| Ok((push.clone(), trust(shared, push.address.tls, &place)?));
            Ok(OpenOutput::RtmpPush(destinations.map(trusting).collect::<Result<_, Error>>()?, egress))
        }
        OutputKind::SrtCaller(settings) => Ok(OpenOutput::SrtCaller(Box::new(settings.clone()), egress)),
        OutputKind::Rtp(settings) => {
            let opened =
                rtp::open_output(settings, &egress, rate.bytes_in(Duration::from_secs(1)), status, &shared.random)
                    .await;
            opened.map(OpenOutput::Rtp).map_err(|(what, cause)| place.io(what, cause))
        }
        OutputKind::RtspListener(settings) => {
            let port = shared.tcp_port(&shared.rtsp_ports, settings.listen.bind, settings.rtsp.tls);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenOutput::RtspListener(port, Box::new(settings.clone())))
        }
        OutputKind::RtspCaller(settings) => {
            let tls = trust(shared, settings.rtsp.tls, &place)?;
            Ok(OpenOutput::RtspCaller(Box::new(settings.clone()), tls, egress))
        }
        OutputKind::Tap(_) => Ok(OpenOutput::Tap),
    }
}

impl Running {
    /// Puts an opened output to work.
    pub(super) fn run_output(&self, output: Output, status: Arc<Status>, opened: OpenOutput) {
        let now = Instant::now();
        let mut url = None;
        let end = match opened {
            OpenOutput::Rtp(rtp) => {
                status.counters.set_state(State::Connected, now);
                let sinks = rtp.sinks.into_iter().map(|sink| self.fanout.add(sink, status.clone())).collect();
                for peer in rtp.peers {
                    self.events.emit(Event::OutputConnected { output: status.name(), peer: Some(peer) });
                }
                OutputEnd::Sinks(sinks)
            }
            OpenOutput::SrtListener(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(srt_url(&shared, port.local_addr(), settings.srt.stream_id.as_deref()).into());
                }
                let end = srt::RouteEnd::Output(self.ring.reader());
                let id = port.add(srt_route(&settings, &status, &self.events, self.rate(), end));
                OutputEnd::Route(PortRoute::Srt(port, id))
            }
            OpenOutput::RtmpPlay(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtmp_url(&shared, &port, &settings.app, settings.key.as_ref()).into());
                }
                self.ring.keep_from_start(u64::from(settings.gop_cache));
                let terms = PlayerLimits {
                    gop_cache: u64::from(settings.gop_cache),
                    coalesce: settings.coalesce,
                    slow: settings.slow_timeout,
                    send_buffer: send_buffer(self.rate()),
                };
                let id = port.add(Route {
                    place: rtmp::Place { app: settings.app, key: route_key(settings.key) },
                    allow: settings.listen.allow,
                    max_peers: settings.listen.max_peers,
                    status: status.clone(),
                    events: self.events.clone(),
                    end: RouteEnd::Output(self.ring.clone(), terms),
                });
                OutputEnd::Route(PortRoute::Rtmp(port, id))
            }
            OpenOutput::RtmpPush(destinations, egress) => {
                let ring = self.rtmp_ring();
                ring.keep_from_start(u64::from(DEFAULT_GOP_CACHE));
                let stop = CancellationToken::new();
                let legs = rtmp::Legs::new(destinations.len());
                let calls: Vec<_> = destinations
                    .iter()
                    .enumerate()
                    .map(|(leg, (settings, tls))| {
                        let direction = rtmp::Direction::Publish {
                            ring: ring.clone(),
                            chunk_size: settings.chunk_size as usize,
                            gop_cache: u64::from(DEFAULT_GOP_CACHE),
                            send_buffer: send_buffer(self.rate()),
                            leg,
                            legs: legs.clone(),
                        };
                        let call = rtmp_call(
                            &settings.address,
                            settings.key.as_ref(),
                            tls.clone(),
                            &settings.call,
                            self.random.clone(),
                            egress.clone(),
                            direction,
                        );
                        call(status.clone(), self.events.clone(), stop.clone())
                    })
                    .collect();
                OutputEnd::Task { stop, task: self.tasks.spawn(rtmp::run_all(calls)) }
            }
            OpenOutput::SrtCaller(settings, egress) => {
                let stop = CancellationToken::new();
                let direction = srt::Direction::Send(self.ring.reader());
                let call = srt_call(
                    &settings,
                    self.random.clone(),
                    egress,
                    &status,
                    &self.events,
                    self.rate(),
                    stop.clone(),
                    direction,
                );
                OutputEnd::Task { stop, task: self.tasks.spawn(call.run()) }
            }
            OpenOutput::RtspListener(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtsp_url(&shared, &port, &settings.rtsp.path).into());
                }
                let gop_cache = if settings.rtsp.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 };
                self.ring.keep_from_start(gop_cache);
                let terms = PlayerLimits {
                    gop_cache,
                    coalesce: Duration::ZERO,
                    slow: RTSP_SLOW,
                    send_buffer: send_buffer(self.rate()),
                };
                let id = port.add(Route {
                    place: rtsp_place(&settings.rtsp, &self.stage),
                    allow: settings.listen.allow,
                    max_peers: settings.listen.max_peers,
                    status: status.clone(),
                    events: self.events.clone(),
                    end: RouteEnd::Output(self.ring.clone(), terms),
                });
                OutputEnd::Route(PortRoute::Rtsp(port, id))
            }
            OpenOutput::RtspCaller(settings, tls, egress) => {
                let gop_cache = if settings.rtsp.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 };
                self.ring.keep_from_start(gop_cache);
                let stop = CancellationToken::new();
                let direction = rtsp::Direction::Record {
                    ring: self.ring.clone(),
                    stage: self.stage.clone(),
                    gop_cache,
                    send_buffer: send_buffer(self.rate()),
                };
                let call = rtsp_call(&settings, tls, self.random.clone(), egress, direction);
                let call = call(status.clone(), self.events.clone(), stop.clone());
                OutputEnd::Task { stop, task: self.tasks.spawn(call.run()) }
            }
            OpenOutput::Tap => {
                status.counters.set_state(State::Connected, now);
                let reader = self.ring.reader();
                let closer = reader.closer();
                OutputEnd::Tap(TapEnd { reader: Some(reader), closer })
            }
        };
        let claim = output.claim();
        self.outputs().push(RunningOutput { output, status, end, claim, url });
    }
}
