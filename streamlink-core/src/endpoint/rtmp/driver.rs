//! Drivers of RTMP sources and outputs: servers that publishers and players connect to, and callers that play or
//! publish.

use super::{
    caller::{Destinations, Direction, RtmpClient, run_all},
    service::{Mount, Rtmp},
};
use crate::{
    endpoint::{
        EngineResources, FlowMedia, SourceContext, Status,
        driver::{
            CallerParts, EndpointLabel, OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening,
            SourceDrive, SourceDriver, SourceOpening, StartedOutput, StartedSource, Task,
        },
        listener::Admission,
        listener_egress, local_egress,
        tcp::{PlayerLimits, Port, Route, RouteMedia, open_port},
    },
    error::Error,
    flow::{
        Call, DEFAULT_GOP_CACHE, Listen, PeerUrl, RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPush,
        RtmpRelay, StreamKey, rtmp_url,
    },
    net::{Egress, TlsClient},
};
use std::{future::ready, io, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Returns the URL of a listener for encoders or players. It holds the stream key, which grants access.
fn listener_url(resources: &EngineResources, port: &Port<Rtmp>, app: &str, key: &StreamKey) -> PeerUrl {
    resources.peer_url(port.local_addr(), |address| rtmp_url(port.is_secure(), address, app, key.reveal()))
}

/// Server with its port open, and its stream key.
struct OpenServer<T> {
    port: Arc<Port<Rtmp>>,
    key: StreamKey,
    settings: T,
}

impl<T> OpenServer<T> {
    /// Opens the port of a server. A server without a key, which no peer could reach, is an error: `build()` generates a
    /// key if none is set.
    fn open(
        resources: &EngineResources,
        label: &EndpointLabel<'_>,
        (listen, group, tls): (&Listen, Option<u64>, bool),
        key: Option<&StreamKey>,
        settings: T,
    ) -> Result<Self, Error> {
        let key = key.cloned().ok_or_else(|| label.io("the stream key".into(), io::ErrorKind::NotFound.into()))?;
        Ok(Self { port: open_port(resources, label, listen.bind, group, tls)?, key, settings })
    }
}

impl SourceDriver for RtmpPublishServer {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        let listen = (&self.listen, self.port_group, self.tls);
        let key = self.key.as_ref();
        Ok(Box::new(OpenServer::open(opening.resources, &opening.label, listen, key, self.clone())?))
    }
}

impl OpenSource for OpenServer<RtmpPublishServer> {
    fn start(self: Box<Self>, resources: &EngineResources, _: &FlowMedia, context: SourceContext) -> StartedSource {
        let Self { port, key, settings } = *self;
        let input_address = Some(listener_url(resources, &port, &settings.app, &key));
        let route = Route {
            mount: Mount { app: settings.app, key },
            admission: Admission::of_source(&context),
            media: RouteMedia::Source(context),
        };
        StartedSource { input_address, drive: SourceDrive::Listener(port.add(route)) }
    }
}

impl OutputDriver for RtmpPlayServer {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let listen = (&self.listen, None, self.tls);
        let key = self.key.as_ref();
        let server = OpenServer::open(opening.resources, &opening.label, listen, key, self.clone());
        Box::pin(ready(server.map(|server| Box::new(server) as _)))
    }
}

impl OpenOutput for OpenServer<RtmpPlayServer> {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let Self { port, key, settings } = *self;
        let url = Some(listener_url(resources, &port, &settings.app, &key));
        let gop_cache = u64::from(settings.gop_cache);
        flow.ring.retain_gop(gop_cache);
        let limits = PlayerLimits {
            gop_cache,
            coalesce: settings.coalesce,
            slow: settings.slow_timeout,
            bandwidth: flow.bandwidth.view(),
            egress: listener_egress(&settings.listen),
        };
        let route = Route {
            mount: Mount { app: settings.app, key },
            admission: Admission::of_output(&settings.listen, status, &flow.events),
            media: RouteMedia::Output(flow.ring.clone(), limits),
        };
        StartedOutput { url, ..StartedOutput::new(OutputDrive::Listener(port.add(route))) }
    }
}

/// Caller that is not running yet.
struct OpenCaller {
    address: RtmpAddress,
    key: Option<StreamKey>,
    call: Call,
    tls: Option<TlsClient>,
    egress: Egress,
}

impl OpenCaller {
    fn client(&self, parts: CallerParts, direction: Direction) -> RtmpClient {
        let CallerParts { random, resolver, status, events, stop } = parts;
        RtmpClient {
            address: self.address.clone(),
            resolver,
            tls: self.tls.clone(),
            key: self.key.clone(),
            reconnect: self.call.reconnect,
            random,
            connect_timeout: self.call.connect_timeout,
            egress: local_egress(&self.call.local, self.egress.clone()),
            status,
            events,
            stop,
            direction,
        }
    }
}

impl SourceDriver for RtmpPull {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        Ok(Box::new(OpenCaller {
            address: self.address.clone(),
            key: self.key.clone(),
            call: self.call.clone(),
            tls: opening.resources.tls.client(self.address.tls, &self.call.tls_fingerprints, &opening.label)?,
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

/// Output that publishes to one or more servers, which are fed at the same time.
struct OpenPush(Vec<(OpenCaller, usize)>);

impl OpenPush {
    /// Prepares a caller for each destination, with the chunk size of its messages.
    fn open(destinations: Vec<RtmpPush>, opening: &OutputOpening<'_>) -> Result<Box<dyn OpenOutput>, Error> {
        let mut callers = Vec::new();
        for RtmpPush { call, address, key, chunk_size } in destinations {
            let tls = opening.resources.tls.client(address.tls, &call.tls_fingerprints, &opening.label)?;
            callers.push((OpenCaller { address, key, call, tls, egress: opening.egress.clone() }, chunk_size as usize));
        }
        Ok(Box::new(Self(callers)))
    }
}

impl OutputDriver for RtmpPush {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(ready(OpenPush::open(vec![self.clone()], &opening)))
    }
}

impl OutputDriver for RtmpRelay {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let second = self.second.as_ref().map(|(address, key)| RtmpPush {
            address: address.clone(),
            key: Some(key.clone()),
            ..self.first.clone()
        });
        let destinations = std::iter::once(self.first.clone()).chain(second).collect();
        Box::pin(ready(OpenPush::open(destinations, &opening)))
    }
}

impl OpenOutput for OpenPush {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let gop_cache = u64::from(DEFAULT_GOP_CACHE);
        let (ring, remux) = flow.messages.ring(&flow.bandwidth);
        ring.retain_gop(gop_cache);
        let stop = CancellationToken::new();
        let destinations = Destinations::new(self.0.len());
        let mut clients = Vec::new();
        for (leg, (caller, chunk_size)) in self.0.iter().enumerate() {
            let direction = Direction::Publish {
                ring: ring.clone(),
                chunk_size: *chunk_size,
                gop_cache,
                bandwidth: flow.bandwidth.view(),
                leg,
                destinations: destinations.clone(),
            };
            let mut parts = CallerParts::of_output(resources, flow, status.clone());
            parts.stop = stop.clone();
            clients.push(caller.client(parts, direction));
        }
        let task = Box::pin(run_all(clients));
        StartedOutput { remux, ..StartedOutput::new(OutputDrive::Task { stop, task }) }
    }
}
