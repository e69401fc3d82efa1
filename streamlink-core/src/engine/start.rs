//! Starting a flow: everything is opened first; only when all of it is open does anything run.

use super::{
    FlowHandle, Shared,
    drivers::{
        advertise, route_key, rtmp_call, rtmp_url, rtsp_call, rtsp_place, rtsp_url, send_buffer, srt_call, srt_route,
        srt_url,
    },
    handle::Running,
};
use crate::{
    endpoint::{
        AppSource, Event, EventSink, Live, SourceContext, Status, Tasks,
        fanout::{Fanout, SinkId},
        rtmp::{self, Rtmp},
        rtp,
        rtsp::{self, Rtsp},
        srt,
        tcp::{PlayTerms, Port, Route, RouteEnd, RouteId},
    },
    error::{ConfigError, ConfigErrors, Error, Problem},
    flow::{
        Allowlist, Bitrate, Claim, DEFAULT_GOP_CACHE, Flow, Output, OutputKind, RtmpPlayServer, RtmpPublishServer,
        RtmpPull, RtmpPush, RtspCaller, RtspListener, Source, SourceKind, SrtCaller, SrtListener,
    },
    net::{Egress, TlsClient},
    router::{Closer, Limits, Reader, Ring, State},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the ring holds packets for outputs that lag.
pub(super) const QUEUE_TIME: Duration = Duration::from_secs(1);
/// How long an RTSP player over TCP may be behind before it is cut off.
const RTSP_SLOW: Duration = Duration::from_secs(10);
/// The ring's smallest bound in bytes: some datagrams of any size.
const MIN_QUEUE: u64 = 256 * 1024;

/// What the ring may hold for a flow of this bandwidth: a second of it.
pub(super) fn queue_limits(max_bandwidth: Bitrate) -> Limits {
    Limits { bytes: max_bandwidth.bytes_in(QUEUE_TIME).max(MIN_QUEUE), time: QUEUE_TIME }
}

/// A source of a running flow.
#[derive(Debug)]
pub(super) struct RunningSource {
    pub(super) source: Source,
    pub(super) status: Arc<Status>,
    pub(super) live: watch::Sender<Live>,
    /// Its place on a shared port, if it has one.
    pub(super) route: Option<PortRoute>,
    pub(super) input_address: Option<String>,
    pub(super) app: Option<AppSource>,
}

/// An output of a running flow.
#[derive(Debug)]
pub(super) struct RunningOutput {
    pub(super) output: Output,
    pub(super) status: Arc<Status>,
    pub(super) end: OutputEnd,
    /// What it claims for itself alone.
    pub(super) claim: Option<Claim>,
    /// Where players fetch from.
    pub(super) url: Option<String>,
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

/// A place on a shared port.
#[derive(Clone, Debug)]
pub(super) enum PortRoute {
    Srt(Arc<srt::Port>, srt::RouteId),
    Rtmp(Arc<Port<Rtmp>>, RouteId),
    Rtsp(Arc<Port<Rtsp>>, RouteId),
}

impl PortRoute {
    pub(super) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        match self {
            PortRoute::Srt(port, id) => port.edit(*id, allow, max_peers),
            PortRoute::Rtmp(port, id) => port.edit(*id, allow, max_peers),
            PortRoute::Rtsp(port, id) => port.edit(*id, allow, max_peers),
        }
    }

    /// Gives up the place, and waits until its connections have ended.
    pub(super) async fn remove(&self) {
        match self {
            PortRoute::Srt(port, id) => port.remove(*id).await,
            PortRoute::Rtmp(port, id) => port.remove(*id).await,
            PortRoute::Rtsp(port, id) => port.remove(*id).await,
        }
    }

    /// Gives back the handle; waits for the socket to close if it was the last.
    pub(super) async fn release(self) {
        match self {
            PortRoute::Srt(port, _) => port.release().await,
            PortRoute::Rtmp(port, _) => port.release().await,
            PortRoute::Rtsp(port, _) => port.release().await,
        }
    }
}

/// The engine's end of a tap: its reader until the host takes it, and what ends it.
#[derive(Debug)]
pub(super) struct TapEnd {
    pub(super) reader: Option<Reader>,
    pub(super) closer: Closer,
}

/// Names an endpoint in errors.
struct Place<'a> {
    flow: &'a str,
    endpoint: String,
}

impl Place<'_> {
    fn source<'a>(flow: &'a str, name: &str) -> Place<'a> {
        Place { flow, endpoint: format!("source `{name}`") }
    }

    fn output<'a>(flow: &'a str, name: &str) -> Place<'a> {
        Place { flow, endpoint: format!("output `{name}`") }
    }

    fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), what: what.into() }
    }

    fn bind(&self, address: SocketAddr, cause: io::Error) -> Error {
        Error::Bind { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), address, cause }
    }

    fn io(&self, what: String, cause: io::Error) -> Error {
        Error::Io { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), what, cause }
    }
}

/// The addresses that a flow has taken, given back if the flow does not start.
struct Reservation<'a> {
    shared: &'a Shared,
    id: u64,
    kept: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.release(self.id);
        }
    }
}

/// Takes what a flow claims for itself alone.
fn reserve<'a>(
    shared: &'a Shared,
    id: u64,
    flow: &str,
    claims: Vec<(String, Claim)>,
) -> Result<Reservation<'a>, ConfigErrors> {
    let mut taken = shared.claims();
    let conflicts = claims.iter().filter_map(|(path, claim)| {
        let (_, owner) = taken.get(claim)?;
        let problem = format!("flow `{owner}` already listens on {claim} with the same key");
        Some(ConfigError::new(format!("{path}.bind"), Problem::Duplicate(problem)))
    });
    match ConfigErrors::collect(conflicts.collect()) {
        Some(errors) => Err(errors),
        None => {
            taken.extend(claims.into_iter().map(|(_, claim)| (claim, (id, flow.to_owned()))));
            Ok(Reservation { shared, id, kept: false })
        }
    }
}

pub(super) async fn start(shared: Arc<Shared>, flow: Flow) -> Result<FlowHandle, Error> {
    let name = flow.name().to_owned();
    check_regions(&shared, &flow.outputs)?;
    let Some(source) = flow.sources.first().cloned() else { return Err(Error::Stopped("flow")) }; // never: valid
    if flow.sources.len() > 1 {
        return Err(Place::source(&name, flow.sources[1].name()).unsupported("a backup source"));
    }
    if shared.flows().contains_key(&name) {
        return Err(Error::AlreadyExists { what: "a flow", name });
    }
    let sources = flow.sources.iter().enumerate().filter_map(|(i, s)| Some((format!("sources[{i}]"), s.claim()?)));
    let outputs = flow.outputs.iter().enumerate().filter_map(|(i, o)| Some((format!("outputs[{i}]"), o.claim()?)));
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let mut reservation = reserve(&shared, id, &name, sources.chain(outputs).collect())?;

    // Open everything.
    let events = EventSink::new(&name);
    let ring = Ring::new(queue_limits(flow.max_bandwidth));
    let tasks = Tasks { runtime: shared.runtime.clone(), tracker: TaskTracker::new() };
    let stop = CancellationToken::new();
    let open = open_source(&shared, &name, &source, flow.max_bandwidth)?;
    let mut outputs = Vec::new();
    for output in flow.outputs {
        let status = Status::new(output.name(), output.common.description.clone());
        let opened = open_output(&shared, &name, &output, flow.max_bandwidth, &status).await?;
        outputs.push((output, status, opened));
    }

    // Run it: nothing fails from here on, but for a flow of the same name that was quicker.
    let live = Live {
        allow: source.clone().allow_mut().map(std::mem::take).unwrap_or_else(Allowlist::everyone),
        max_bandwidth: flow.max_bandwidth,
        policy: flow.policy,
    };
    let (live, live_reader) = watch::channel(live);
    let status = Status::new(source.name(), source.common.description.clone());
    status.counters.set_state(State::Waiting, Instant::now());
    let context = SourceContext {
        status: status.clone(),
        ring: ring.clone(),
        events: events.clone(),
        live: live_reader,
        stop: stop.child_token(),
        stage: Arc::default(),
    };
    let stage = context.stage.clone();
    let fanout = Fanout::new(ring.clone(), events.clone(), tasks.clone(), shared.workers);
    let own_events = events.subscribe();
    let running = Running {
        id,
        name: name.clone(),
        shared: Arc::downgrade(&shared),
        input: source.protocol(),
        max_bandwidth: Mutex::new(flow.max_bandwidth),
        ring,
        events: events.clone(),
        tasks,
        source_tasks: TaskTracker::new(),
        stop,
        stopped: AtomicBool::new(false),
        fanout,
        sources: Mutex::default(),
        outputs: Mutex::default(),
        stage: stage.clone(),
        remux: OnceLock::new(),
        editing: tokio::sync::Mutex::new(()),
    };
    let running = Arc::new(running);
    match shared.flows().entry(name.clone()) {
        std::collections::hash_map::Entry::Occupied(_) => return Err(Error::AlreadyExists { what: "a flow", name }),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(running.clone()),
    };
    reservation.kept = true;
    for (output, status, opened) in outputs {
        running.run_output(output, status, opened);
    }
    events.emit(Event::FlowStarted);
    let (mut input_address, mut app, mut route) = (None, None, None);
    match open {
        OpenSource::Rtp(rtp) => {
            input_address = Some(format!("rtp://{}", advertise(&shared, rtp.local_addr())));
            running.source_tasks.spawn_on(rtp.run(context, flow.coalesce), &shared.runtime);
        }
        OpenSource::SrtListener(port, settings) => {
            input_address = Some(srt_url(&shared, port.local_addr(), settings.srt.stream_id.as_deref()));
            let end = srt::RouteEnd::Source(context);
            let id = port.add(srt_route(&settings, &status, &events, flow.max_bandwidth, end));
            route = Some(PortRoute::Srt(port, id));
        }
        OpenSource::SrtCaller(settings) => {
            let stop = context.stop.clone();
            let direction = srt::Direction::Receive(context);
            let call = srt_call(&settings, Egress::default(), &status, &events, flow.max_bandwidth, stop, direction);
            running.source_tasks.spawn_on(call.run(), &shared.runtime);
        }
        OpenSource::RtmpListener(port, settings) => {
            input_address = Some(rtmp_url(&shared, &port, &settings.app, settings.key.as_ref()));
            let key = route_key(settings.key);
            let id = port.add(Route {
                place: rtmp::Place { app: settings.app, key },
                allow: settings.listen.allow,
                max_peers: None,
                status: status.clone(),
                events: events.clone(),
                end: RouteEnd::Source(context),
            });
            route = Some(PortRoute::Rtmp(port, id));
        }
        OpenSource::RtmpPull(settings, tls) => {
            let stop = context.stop.clone();
            let direction = rtmp::Direction::Play(context);
            let call = rtmp_call(
                &settings.address,
                settings.key.as_ref(),
                tls.clone(),
                &settings.call,
                Egress::default(),
                direction,
            );
            running.source_tasks.spawn_on(call(status.clone(), events.clone(), stop).run(), &shared.runtime);
        }
        OpenSource::RtspListener(port, settings) => {
            input_address = Some(rtsp_url(&shared, &port, &settings.rtsp.path));
            let id = port.add(Route {
                place: rtsp_place(&settings.rtsp, &stage),
                allow: settings.listen.allow,
                max_peers: None,
                status: status.clone(),
                events: events.clone(),
                end: RouteEnd::Source(context),
            });
            route = Some(PortRoute::Rtsp(port, id));
        }
        OpenSource::RtspCaller(settings, tls) => {
            let stop = context.stop.clone();
            let direction = rtsp::Direction::Play(context);
            let call = rtsp_call(&settings, tls, Egress::default(), direction);
            running.source_tasks.spawn_on(call(status.clone(), events.clone(), stop).run(), &shared.runtime);
        }
        OpenSource::App(family) => app = Some(AppSource::new(family, context)),
    }
    let entry = RunningSource { source, status, live, route, input_address, app };
    running.sources().push(entry);
    Ok(FlowHandle::new(running.clone(), own_events))
}

fn check_regions(shared: &Shared, outputs: &[Output]) -> Result<(), ConfigErrors> {
    let errors = outputs.iter().enumerate().filter_map(|(i, output)| {
        let problem = region(shared, output).err()?;
        Some(ConfigError::new(format!("outputs[{i}].region"), problem))
    });
    ConfigErrors::collect(errors.collect()).map_or(Ok(()), Err)
}

/// Where an output leaves from.
pub(super) fn region(shared: &Shared, output: &Output) -> Result<Egress, Problem> {
    let Some(name) = &output.common.region else { return Ok(Egress::default()) };
    shared.regions.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = shared.regions.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Problem::UnknownRegion { name: name.clone(), known }
    })
}

enum OpenSource {
    Rtp(Box<rtp::RtpSource>),
    SrtListener(Arc<srt::Port>, Box<SrtListener>),
    SrtCaller(Box<SrtCaller>),
    RtmpListener(Arc<Port<Rtmp>>, Box<RtmpPublishServer>),
    RtmpPull(Box<RtmpPull>, Option<TlsClient>),
    RtspListener(Arc<Port<Rtsp>>, Box<RtspListener>),
    RtspCaller(Box<RtspCaller>, Option<TlsClient>),
    App(crate::media::MediaFamily),
}

/// Whom a caller trusts, if it speaks TLS.
fn trust(shared: &Shared, tls: bool, place: &Place<'_>) -> Result<Option<TlsClient>, Error> {
    match tls {
        false => Ok(None),
        true => shared.tls_client().map(Some).map_err(|what| place.io("TLS".into(), io::Error::other(what))),
    }
}

fn open_source(shared: &Shared, flow: &str, source: &Source, rate: Bitrate) -> Result<OpenSource, Error> {
    let place = Place::source(flow, source.name());
    let bytes_per_second = rate.bytes_in(Duration::from_secs(1));
    match &source.kind {
        SourceKind::Rtp(settings) => rtp::RtpSource::open(settings, bytes_per_second)
            .map(|source| OpenSource::Rtp(Box::new(source)))
            .map_err(|cause| place.bind(settings.listen.bind, cause)),
        SourceKind::SrtListener(settings) => {
            let port = shared.srt_port(settings.listen.bind);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenSource::SrtListener(port, Box::new(settings.clone())))
        }
        SourceKind::Rtmp(settings) => {
            let port = shared.tcp_port(&shared.rtmp_ports, settings.listen.bind, settings.tls);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenSource::RtmpListener(port, Box::new(settings.clone())))
        }
        SourceKind::RtmpPull(settings) => {
            let tls = trust(shared, settings.address.tls, &place)?;
            Ok(OpenSource::RtmpPull(Box::new(settings.clone()), tls))
        }
        SourceKind::SrtCaller(settings) => Ok(OpenSource::SrtCaller(Box::new(settings.clone()))),
        SourceKind::RtspListener(settings) => {
            let port = shared.tcp_port(&shared.rtsp_ports, settings.listen.bind, settings.rtsp.tls);
            let port = port.map_err(|e| place.bind(settings.listen.bind, e))?;
            Ok(OpenSource::RtspListener(port, Box::new(settings.clone())))
        }
        SourceKind::RtspCaller(settings) => {
            let tls = trust(shared, settings.rtsp.tls, &place)?;
            Ok(OpenSource::RtspCaller(Box::new(settings.clone()), tls))
        }
        SourceKind::App(family) => Ok(OpenSource::App(*family)),
    }
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
            let opened = rtp::open_output(settings, &egress, rate.bytes_in(Duration::from_secs(1)), status).await;
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
                    url = Some(srt_url(&shared, port.local_addr(), settings.srt.stream_id.as_deref()));
                }
                let end = srt::RouteEnd::Output(self.ring.reader());
                let id = port.add(srt_route(&settings, &status, &self.events, self.rate(), end));
                OutputEnd::Route(PortRoute::Srt(port, id))
            }
            OpenOutput::RtmpPlay(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtmp_url(&shared, &port, &settings.app, settings.key.as_ref()));
                }
                self.ring.keep_from_start(u64::from(settings.gop_cache));
                let terms = PlayTerms {
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
                let call = srt_call(&settings, egress, &status, &self.events, self.rate(), stop.clone(), direction);
                OutputEnd::Task { stop, task: self.tasks.spawn(call.run()) }
            }
            OpenOutput::RtspListener(port, settings) => {
                status.counters.set_state(State::Waiting, now);
                if let Some(shared) = self.shared.upgrade() {
                    url = Some(rtsp_url(&shared, &port, &settings.rtsp.path));
                }
                let gop_cache = if settings.rtsp.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 };
                self.ring.keep_from_start(gop_cache);
                let terms = PlayTerms {
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
                let call = rtsp_call(&settings, tls, egress, direction);
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
