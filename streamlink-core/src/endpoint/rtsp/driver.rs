//! Drivers of RTSP sources and outputs: servers that clients record to and play from, and callers that play or record.

use super::{
    caller::{Direction, RtspClient},
    multicast::{MulticastGroup, MulticastSender},
    service::{Mount, Rtsp},
};
use crate::{
    endpoint::{
        EngineResources, FlowMedia, SourceContext, Status, TlsIdentity,
        driver::{
            CallerParts, OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening, SourceDrive,
            SourceDriver, SourceOpening, StartedOutput, StartedSource, Task,
        },
        listener::Admission,
        listener_egress, local_egress,
        tcp::{PlayerLimits, Port, Route, RouteMedia, open_port},
    },
    error::Error,
    flow::{DEFAULT_GOP_CACHE, PeerUrl, RtspCaller, RtspListener, RtspOptions, rtsp_url},
    net::{Egress, TlsClient},
    proto::rtsp::User,
    router::CurrentPresentation,
};
use std::{future::ready, sync::Arc, time::Duration};

/// Maximum lag of a player over TCP before it is disconnected.
const SLOW: Duration = Duration::from_secs(10);

fn user(options: &RtspOptions) -> Option<User> {
    let credentials = options.credentials.as_ref()?;
    Some(User { name: credentials.user().to_owned(), password: credentials.password.clone() })
}

/// Returns the maximum number of bytes of the last group of pictures that a new player is sent.
fn gop_cache(options: &RtspOptions) -> u64 {
    if options.gop_cache { u64::from(DEFAULT_GOP_CACHE) } else { 0 }
}

/// Server with its port open.
struct OpenServer {
    port: Arc<Port<Rtsp>>,
    settings: RtspListener,
}

impl OpenServer {
    /// Returns the URL for clients. It holds no password.
    fn url(&self, resources: &EngineResources) -> PeerUrl {
        let write = |address: &str| rtsp_url(self.port.is_secure(), address, &self.settings.rtsp.path);
        resources.peer_url(self.port.local_addr(), write)
    }

    fn mount(&self, presentation: &Arc<CurrentPresentation>) -> Mount {
        let options = &self.settings.rtsp;
        let dscp = self.settings.listen.dscp;
        let multicast = options.multicast.map(|address| {
            let interface = options.interface.as_ref().map(ToString::to_string);
            MulticastSender::new(MulticastGroup { address, ttl: options.ttl, interface }, dscp)
        });
        Mount {
            path: options.path.trim_matches('/').to_owned(),
            user: user(options),
            transport: options.transport,
            symmetric: options.symmetric,
            dscp,
            presentation: presentation.clone(),
            multicast,
        }
    }
}

impl SourceDriver for RtspListener {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        let port = open_port(opening.resources, &opening.label, self.listen.bind, None, self.rtsp.tls)?;
        Ok(Box::new(OpenServer { port, settings: self.clone() }))
    }
}

impl OpenSource for OpenServer {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, context: SourceContext) -> StartedSource {
        let input_address = Some(self.url(resources));
        let route = Route {
            mount: self.mount(&flow.presentation),
            admission: Admission::of_source(&context),
            media: RouteMedia::Source(context),
        };
        StartedSource { input_address, drive: SourceDrive::Listener(self.port.add(route)) }
    }
}

impl OutputDriver for RtspListener {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let port = open_port(opening.resources, &opening.label, self.listen.bind, None, self.rtsp.tls);
        Box::pin(ready(port.map(|port| Box::new(OpenServer { port, settings: self.clone() }) as _)))
    }
}

impl OpenOutput for OpenServer {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let url = Some(self.url(resources));
        let gop_cache = gop_cache(&self.settings.rtsp);
        flow.ring.retain_gop(gop_cache);
        let bandwidth = flow.bandwidth.view();
        let limits = PlayerLimits {
            gop_cache,
            coalesce: Duration::ZERO,
            slow: SLOW,
            bandwidth,
            egress: listener_egress(&self.settings.listen),
        };
        let route = Route {
            mount: self.mount(&flow.presentation),
            admission: Admission::of_output(&self.settings.listen, status, &flow.events),
            media: RouteMedia::Output(flow.ring.clone(), limits),
        };
        StartedOutput { url, ..StartedOutput::new(OutputDrive::Listener(self.port.add(route))) }
    }
}

/// Caller that is not running yet.
struct OpenCaller {
    settings: RtspCaller,
    tls: Option<TlsClient>,
    identity: Arc<TlsIdentity>,
    egress: Egress,
}

impl OpenCaller {
    fn client(&self, parts: CallerParts, direction: Direction) -> RtspClient {
        let CallerParts { random, resolver, status, events, stop } = parts;
        let RtspCaller { call, rtsp } = &self.settings;
        RtspClient {
            remote: call.remote.clone(),
            resolver,
            tls: self.tls.clone(),
            url: self.settings.request_url(),
            user: user(rtsp),
            transport: rtsp.transport,
            symmetric: rtsp.symmetric,
            back_channel: rtsp.back_channel,
            identity: self.identity.clone(),
            reconnect: call.reconnect,
            random,
            connect_timeout: call.connect_timeout,
            egress: local_egress(&call.local, self.egress.clone()),
            status,
            events,
            stop,
            direction,
        }
    }
}

impl SourceDriver for RtspCaller {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        let tls = opening.resources.tls.client(self.rtsp.tls, &self.call.tls_fingerprints, &opening.label)?;
        Ok(Box::new(OpenCaller {
            settings: self.clone(),
            tls,
            identity: opening.resources.tls.clone(),
            egress: Egress::default(),
        }))
    }
}

impl OpenSource for OpenCaller {
    fn start(self: Box<Self>, resources: &EngineResources, _: &FlowMedia, _: SourceContext) -> StartedSource {
        let resolver = resources.resolver.clone();
        let call = move |context: SourceContext| -> Task {
            let parts = CallerParts::of_source(&resolver, &context);
            Box::pin(self.client(parts, Direction::Play(context)).run())
        };
        StartedSource { input_address: None, drive: SourceDrive::Caller(Box::new(call)) }
    }
}

impl OutputDriver for RtspCaller {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let tls = opening.resources.tls.client(self.rtsp.tls, &self.call.tls_fingerprints, &opening.label);
        let identity = opening.resources.tls.clone();
        let egress = opening.egress;
        let opened = tls.map(|tls| Box::new(OpenCaller { settings: self.clone(), tls, identity, egress }) as _);
        Box::pin(ready(opened))
    }
}

impl OpenOutput for OpenCaller {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let gop_cache = gop_cache(&self.settings.rtsp);
        flow.ring.retain_gop(gop_cache);
        let direction = Direction::Record {
            ring: flow.ring.clone(),
            presentation: flow.presentation.clone(),
            gop_cache,
            bandwidth: flow.bandwidth.view(),
        };
        let parts = CallerParts::of_output(resources, flow, status);
        let stop = parts.stop.clone();
        let client = self.client(parts, direction);
        StartedOutput::new(OutputDrive::Task { stop, task: Box::pin(client.run()) })
    }
}
