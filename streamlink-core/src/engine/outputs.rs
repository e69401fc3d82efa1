//! Outputs of a flow, which are opened first and then run.

use super::{
    Shared,
    drivers::{route_key, rtmp_call, rtmp_url, rtsp_call, rtsp_place, rtsp_url, srt_call, srt_route, srt_url},
    handle::Running,
    start::{Place, PortRoute, Removal, region, trust},
};
use crate::{
    endpoint::{
        FlowBandwidth, Status,
        fanout::SinkId,
        rtmp::{self, Rtmp},
        rtp,
        rtsp::{self, Rtsp},
        srt,
        tcp::{PlayerLimits, Port, Route, RouteEnd},
    },
    error::{ConfigError, ConfigErrors, Error},
    flow::{
        Allowlist, Claim, DEFAULT_GOP_CACHE, Output, OutputKind, PeerUrl, RtmpPlayServer, RtmpPush, RtspCaller,
        RtspListener, SrtCaller, SrtListener,
    },
    net::{Egress, TlsClient},
    router::{Closer, Reader, State},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Maximum lag of an RTSP player over TCP before it is disconnected.
const RTSP_SLOW: Duration = Duration::from_secs(10);

/// Output of a running flow.
#[derive(Debug)]
pub(super) struct RunningOutput {
    pub(super) output: Output,
    pub(super) status: Arc<Status>,
    pub(super) end: OutputEnd,
    /// Exclusive claim on an address and key.
    pub(super) claim: Option<Claim>,
    /// URL from which players fetch.
    pub(super) url: Option<PeerUrl>,
}

/// Driver of an output, with the handle that ends it.
#[derive(Debug)]
pub(super) enum OutputEnd {
    Sinks(Vec<SinkId>),
    Tap(TapEnd),
    /// Task of the output's own.
    Task {
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    },
    Route(PortRoute),
}

/// Output that has been told to end. The remaining step is to wait.
pub(super) enum Ending {
    Sinks(Vec<SinkId>),
    Tap(Closer),
    Task(tokio::task::JoinHandle<()>),
    Route(PortRoute, Removal),
}

impl OutputEnd {
    /// Tells the output to end, without waiting. Sinks are removed in the later wait, so that a replacement misses no
    /// packets. A tap is closed there, too, because closing it wakes the host.
    pub(super) fn begin(self) -> Ending {
        match self {
            OutputEnd::Sinks(sinks) => Ending::Sinks(sinks),
            OutputEnd::Tap(tap) => Ending::Tap(tap.closer),
            OutputEnd::Task { stop, task } => {
                stop.cancel();
                Ending::Task(task)
            }
            OutputEnd::Route(route) => {
                let removal = route.remove();
                Ending::Route(route, removal)
            }
        }
    }
}

impl RunningOutput {
    /// Changes the allowlist and the maximum number of peers of an output that listens.
    pub(super) fn edit_listener(&self, allow: Allowlist, max_peers: Option<u32>) {
        if let OutputEnd::Route(route) = &self.end {
            route.edit(allow, max_peers);
        }
    }
}

/// Engine side of a tap: the reader, until the host takes it, and the handle that closes it.
#[derive(Debug)]
pub(super) struct TapEnd {
    pub(super) reader: Option<Reader>,
    pub(super) closer: Closer,
}

/// Output with its sockets open.
pub(super) enum OpenOutput {
    Rtp(rtp::OpenOutput),
    SrtListener(Arc<srt::Port>, Box<SrtListener>),
    SrtCaller(Box<SrtCaller>, Egress),
    RtmpPlay(Arc<Port<Rtmp>>, Box<RtmpPlayServer>),
    /// RTMP push to one or more destinations.
    RtmpPush(Vec<(RtmpPush, Option<TlsClient>)>, Egress),
    RtspListener(Arc<Port<Rtsp>>, Box<RtspListener>),
    RtspCaller(Box<RtspCaller>, Option<TlsClient>, Egress),
    Tap,
}

pub(super) async fn open_output(
    shared: &Shared,
    flow: &str,
    output: &Output,
    bandwidth: &FlowBandwidth,
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
            let opened = rtp::open_output(settings, &shared.resolver, &egress, bandwidth, status, &shared.random).await;
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
    /// Runs an initial output of a flow.
    pub(super) fn put_output(&self, output: Output, status: Arc<Status>, opened: OpenOutput) -> Result<(), Error> {
        let name = status.name();
        let peers = {
            let mut outputs = self.outputs();
            if self.stop.is_cancelled() {
                return Err(Error::Stopped("flow"));
            }
            let (running, peers) = self.run_output(output, status, opened, None);
            outputs.push(running);
            peers
        };
        self.tell_connected(&name, peers);
        Ok(())
    }

    /// Runs an opened output. Returns it with the peers to which it is connected from the beginning, which are reported
    /// to the host. A caller connects only after `after` is cancelled.
    pub(super) fn run_output(
        &self,
        output: Output,
        status: Arc<Status>,
        opened: OpenOutput,
        after: Option<CancellationToken>,
    ) -> (RunningOutput, Vec<SocketAddr>) {
        let now = Instant::now();
        let (mut url, mut peers) = (None, Vec::new());
        let turn = async move {
            if let Some(after) = after {
                after.cancelled().await;
            }
        };
        let end = match opened {
            OpenOutput::Rtp(rtp) => {
                status.counters.set_state(State::Connected, now);
                let sinks = rtp.sinks.into_iter().map(|sink| self.fanout.add(sink, status.clone())).collect();
                peers = rtp.peers;
                OutputEnd::Sinks(sinks)
            }
            OpenOutput::SrtListener(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(srt_url(&shared, port.local_addr(), settings.srt.stream_id.as_deref()).into());
                }
                let end = srt::RouteEnd::Output(self.ring.reader());
                let id = port.add(srt_route(&settings, &status, &self.events, self.bandwidth.view(), end));
                OutputEnd::Route(PortRoute::Srt(port, id))
            }
            OpenOutput::RtmpPlay(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtmp_url(&shared, &port, &settings.app, settings.key.as_ref()).into());
                }
                self.ring.retain_gop(u64::from(settings.gop_cache));
                let terms = PlayerLimits {
                    gop_cache: u64::from(settings.gop_cache),
                    coalesce: settings.coalesce,
                    slow: settings.slow_timeout,
                    bandwidth: self.bandwidth.view(),
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
                status.counters.set_state(State::Waiting, now);
                let ring = self.rtmp_ring();
                ring.retain_gop(u64::from(DEFAULT_GOP_CACHE));
                let stop = CancellationToken::new();
                let legs = rtmp::Destinations::new(destinations.len());
                let calls: Vec<_> = destinations
                    .iter()
                    .enumerate()
                    .map(|(leg, (settings, tls))| {
                        let direction = rtmp::Direction::Publish {
                            ring: ring.clone(),
                            chunk_size: settings.chunk_size as usize,
                            gop_cache: u64::from(DEFAULT_GOP_CACHE),
                            bandwidth: self.bandwidth.view(),
                            leg,
                            destinations: legs.clone(),
                        };
                        let call = rtmp_call(
                            &settings.address,
                            settings.key.as_ref(),
                            tls.clone(),
                            &settings.call,
                            self.random.clone(),
                            (self.resolver.clone(), egress.clone()),
                            direction,
                        );
                        call(status.clone(), self.events.clone(), stop.clone())
                    })
                    .collect();
                let task = self.tasks.spawn(async move {
                    turn.await;
                    rtmp::run_all(calls).await;
                });
                OutputEnd::Task { stop, task }
            }
            OpenOutput::SrtCaller(settings, egress) => {
                status.counters.set_state(State::Waiting, now);
                let stop = CancellationToken::new();
                let direction = srt::Direction::Send(self.ring.reader());
                let bandwidth = self.bandwidth.view();
                let random = self.random.clone();
                let (way, events) = ((self.resolver.clone(), egress), &self.events);
                let call = srt_call(&settings, random, way, &status, events, bandwidth, stop.clone(), direction);
                let task = self.tasks.spawn(async move {
                    turn.await;
                    call.run().await;
                });
                OutputEnd::Task { stop, task }
            }
            OpenOutput::RtspListener(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtsp_url(&shared, &port, &settings.rtsp.path).into());
                }
                let gop_cache = if settings.rtsp.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 };
                self.ring.retain_gop(gop_cache);
                let terms = PlayerLimits {
                    gop_cache,
                    coalesce: Duration::ZERO,
                    slow: RTSP_SLOW,
                    bandwidth: self.bandwidth.view(),
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
                status.counters.set_state(State::Waiting, now);
                let gop_cache = if settings.rtsp.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 };
                self.ring.retain_gop(gop_cache);
                let stop = CancellationToken::new();
                let direction = rtsp::Direction::Record {
                    ring: self.ring.clone(),
                    stage: self.stage.clone(),
                    gop_cache,
                    bandwidth: self.bandwidth.view(),
                };
                let way = (self.resolver.clone(), egress);
                let call = rtsp_call(&settings, tls, &self.shared, self.random.clone(), way, direction);
                let call = call(status.clone(), self.events.clone(), stop.clone());
                let task = self.tasks.spawn(async move {
                    turn.await;
                    call.run().await;
                });
                OutputEnd::Task { stop, task }
            }
            OpenOutput::Tap => {
                status.counters.set_state(State::Connected, now);
                let reader = self.ring.reader();
                let closer = reader.closer();
                OutputEnd::Tap(TapEnd { reader: Some(reader), closer })
            }
        };
        let claim = output.claim();
        (RunningOutput { output, status, end, claim, url }, peers)
    }
}
