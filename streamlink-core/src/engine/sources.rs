//! Sources of a flow, which are opened first and then run. Cold sources connect only when they are needed.

use super::{
    Shared,
    drivers::{
        advertise, route_key, rtmp_call, rtmp_url, rtsp_call, rtsp_place, rtsp_url, srt_call, srt_route, srt_url,
    },
    handle::Running,
    start::{Place, PortRoute, trust},
};
use crate::{
    endpoint::{
        AppSource, Bandwidth, SourceContext, SourceTunables, Status,
        rtmp::{self, Rtmp},
        rtp,
        rtsp::{self, Rtsp},
        srt,
        tcp::{Port, Route, RouteEnd},
    },
    error::Error,
    flow::{
        self, Failover, FailoverPolicy, PeerUrl, RtmpPublishServer, RtmpPull, RtspCaller, RtspListener, Source,
        SourceKind, SrtCaller, SrtListener,
    },
    net::{Egress, TlsClient},
    router::{self, FailoverConfig, SourceGroup, State, SwitchPolicy},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Interval at which a merge checks for packets that have waited long enough while no media arrives.
const MERGE_TICK: Duration = Duration::from_millis(20);

/// Interval of the check whether a cold backup is needed.
const COLD_TICK: Duration = Duration::from_millis(50);

// `build()` must not admit more merged sources than `Merge` has path bits.
const _: () = assert!(flow::MAX_PATHS <= router::MAX_PATHS);

/// Returns the switching policy and loss threshold of a flow's sources.
pub(super) fn group_terms(failover: Failover) -> FailoverConfig {
    let turns = match failover.policy {
        FailoverPolicy::Stay => SwitchPolicy::Stay,
        FailoverPolicy::Prefer(hold) => SwitchPolicy::Prefer(hold),
        FailoverPolicy::Merge(window) => SwitchPolicy::Merge(window),
    };
    FailoverConfig { turns, loss_threshold: failover.loss_threshold }
}

/// Source of a running flow.
#[derive(Debug)]
pub(super) struct RunningSource {
    pub(super) source: Source,
    pub(super) status: Arc<Status>,
    pub(super) live: watch::Sender<SourceTunables>,
    /// Route on a shared port, if the source has one.
    pub(super) route: Option<PortRoute>,
    pub(super) input_address: Option<PeerUrl>,
    pub(super) app: Option<AppSource>,
}

/// Source with its sockets open.
pub(super) enum OpenSource {
    Rtp(Box<rtp::RtpSource>),
    SrtListener(Arc<srt::Port>, Box<SrtListener>),
    SrtCaller(Box<SrtCaller>),
    RtmpListener(Arc<Port<Rtmp>>, Box<RtmpPublishServer>),
    RtmpPull(Box<RtmpPull>, Option<TlsClient>),
    RtspListener(Arc<Port<Rtsp>>, Box<RtspListener>),
    RtspCaller(Box<RtspCaller>, Option<TlsClient>),
    App(crate::media::MediaFamily),
}

pub(super) fn open_source(
    shared: &Shared,
    flow: &str,
    source: &Source,
    bandwidth: Bandwidth,
    failover: Failover,
) -> Result<OpenSource, Error> {
    let place = Place::source(flow, source.name());
    match &source.kind {
        SourceKind::Rtp(settings) => {
            let mut settings = settings.clone();
            if let FailoverPolicy::Merge(_) = failover.policy {
                settings.reorder_window = Duration::ZERO; // the merge has its own window
            }
            rtp::RtpSource::open(&settings, bandwidth)
                .map(|source| OpenSource::Rtp(Box::new(source)))
                .map_err(|cause| place.bind(settings.listen.bind, cause))
        }
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

impl Running {
    /// Runs an opened source. A `cold` source connects only when it is needed.
    pub(super) fn run_source(
        &self,
        shared: &Shared,
        source: Source,
        opened: OpenSource,
        (context, live): (SourceContext, watch::Sender<SourceTunables>),
        cold: bool,
    ) {
        let (mut input_address, mut app, mut route) = (None, None, None);
        let (status, events) = (context.status.clone(), context.events.clone());
        let way = (shared.resolver.clone(), Egress::default());
        match opened {
            OpenSource::Rtp(rtp) => {
                input_address = Some(format!("rtp://{}", advertise(shared, rtp.local_addr())).into());
                self.source_tasks.spawn_on(rtp.run(context), &shared.runtime);
            }
            OpenSource::SrtListener(port, settings) => {
                input_address = Some(srt_url(shared, port.local_addr(), settings.srt.stream_id.as_deref()).into());
                let end = srt::RouteEnd::Source(context);
                let id = port.add(srt_route(&settings, &status, &events, self.bandwidth.view(), end));
                route = Some(PortRoute::Srt(port, id));
            }
            OpenSource::SrtCaller(settings) => {
                let bandwidth = self.bandwidth.view();
                self.run_caller(context, cold, move |context| {
                    let (status, events, stop) = (context.status.clone(), context.events.clone(), context.stop.clone());
                    let random = context.random.clone();
                    let direction = srt::Direction::Receive(context);
                    let bandwidth = bandwidth.clone();
                    srt_call(&settings, random, way.clone(), &status, &events, bandwidth, stop, direction).run()
                });
            }
            OpenSource::RtmpListener(port, settings) => {
                input_address = Some(rtmp_url(shared, &port, &settings.app, settings.key.as_ref()).into());
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
            OpenSource::RtmpPull(settings, tls) => self.run_caller(context, cold, move |context| {
                let (status, events, stop) = (context.status.clone(), context.events.clone(), context.stop.clone());
                let random = context.random.clone();
                let direction = rtmp::Direction::Play(context);
                let key = settings.key.as_ref();
                let call =
                    rtmp_call(&settings.address, key, tls.clone(), &settings.call, random, way.clone(), direction);
                call(status, events, stop).run()
            }),
            OpenSource::RtspListener(port, settings) => {
                input_address = Some(rtsp_url(shared, &port, &settings.rtsp.path).into());
                let id = port.add(Route {
                    place: rtsp_place(&settings.rtsp, &self.stage),
                    allow: settings.listen.allow,
                    max_peers: None,
                    status: status.clone(),
                    events: events.clone(),
                    end: RouteEnd::Source(context),
                });
                route = Some(PortRoute::Rtsp(port, id));
            }
            OpenSource::RtspCaller(settings, tls) => {
                let shared = self.shared.clone();
                self.run_caller(context, cold, move |context| {
                    let (status, events, stop) = (context.status.clone(), context.events.clone(), context.stop.clone());
                    let random = context.random.clone();
                    let direction = rtsp::Direction::Play(context);
                    rtsp_call(&settings, tls.clone(), &shared, random, way.clone(), direction)(status, events, stop)
                        .run()
                });
            }
            OpenSource::App(family) => app = Some(AppSource::new(family, context)),
        }
        let entry = RunningSource { source, status, live, route, input_address, app };
        self.sources().push(entry);
    }

    /// Runs a source that is a caller.
    fn run_caller<F>(&self, context: SourceContext, cold: bool, call: impl Fn(SourceContext) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = &self.tasks.runtime;
        match cold {
            true => self.source_tasks.spawn_on(call_when_needed(context, call), runtime),
            false => self.source_tasks.spawn_on(call(context), runtime),
        };
    }

    /// Runs the clock of a merge, which expires windows while no media arrives.
    pub(super) fn run_merge_clock(&self, group: Arc<SourceGroup>) {
        let stop = self.stop.clone();
        let clock = async move {
            while !stop.is_cancelled() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(MERGE_TICK) => group.handle_timeout(Instant::now()),
                }
            }
        };
        self.source_tasks.spawn_on(clock, &self.tasks.runtime);
    }
}

/// Runs a caller while the flow needs it.
async fn call_when_needed<F: Future<Output = ()>>(context: SourceContext, call: impl Fn(SourceContext) -> F) {
    let started = Instant::now();
    let look = || tokio::time::sleep(COLD_TICK);
    let is_needed = || context.group.is_needed(context.number, Instant::now(), started);
    loop {
        context.status.counters.set_state(State::Idle, Instant::now());
        while !is_needed() {
            tokio::select! {
                () = context.stop.cancelled() => return,
                () = look() => {}
            }
        }
        let stop = context.stop.child_token();
        let mut running = std::pin::pin!(call(SourceContext { stop: stop.clone(), ..context.clone() }));
        loop {
            tokio::select! {
                () = &mut running => break,
                () = look() => if !is_needed() { stop.cancel() },
            }
        }
        context.lose(Instant::now());
        if context.stop.is_cancelled() {
            return;
        }
    }
}
