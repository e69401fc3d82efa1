//! Drivers of SRT sources and outputs, as listeners and callers.

use super::{
    caller::{Direction, SrtClient},
    group_members::MemberList,
    port::Port,
    rates::FlowRates,
    route::{Route, RouteMedia},
    terms::terms,
};
use crate::{
    endpoint::{
        EngineResources, FlowBandwidth, FlowMedia, SourceContext, Status,
        driver::{
            CallerParts, ListenerEntry, OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening,
            SourceDrive, SourceDriver, SourceOpening, StartedOutput, StartedSource, Task,
        },
        listener::Admission,
        local_egress,
    },
    error::Error,
    flow::{PeerUrl, SrtCaller, SrtListener, srt_url},
    net::Egress,
    proto::srt::{Groups, Terms},
};
use std::{future::ready, io, sync::Arc};
use tokio::sync::watch;

/// Listener with its port open.
struct OpenListener {
    port: Arc<Port>,
    settings: SrtListener,
}

impl OpenListener {
    fn open(settings: &SrtListener, resources: &EngineResources) -> io::Result<Self> {
        let port = resources.ports.at(settings.listen.bind, None, |address| Port::open(address, resources))?;
        Ok(Self { port, settings: settings.clone() })
    }

    /// Returns the URL for callers. It holds no secret.
    fn url(&self, resources: &EngineResources) -> PeerUrl {
        let id = self.settings.srt.stream_id.as_deref();
        resources.peer_url(self.port.local_addr(), |address| srt_url(address, id))
    }

    fn add(self, flow: &FlowMedia, admission: Admission, media: RouteMedia) -> ListenerEntry {
        let Self { port, settings } = self;
        let rates = FlowRates::new(&settings.srt, flow.bandwidth.view());
        let groups = if settings.srt.group_connect { Groups::All } else { Groups::None };
        let terms = Terms { groups, ..terms(&settings.srt, &rates) };
        port.add(Route {
            stream_id: settings.srt.stream_id,
            admission,
            terms,
            rates,
            dscp: settings.listen.dscp,
            media,
        })
    }
}

impl SourceDriver for SrtListener {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        match OpenListener::open(self, opening.resources) {
            Ok(listener) => Ok(Box::new(listener)),
            Err(cause) => Err(opening.label.bind(self.listen.bind, cause)),
        }
    }
}

impl OpenSource for OpenListener {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, context: SourceContext) -> StartedSource {
        let input_address = Some(self.url(resources));
        let entry = self.add(flow, Admission::of_source(&context), RouteMedia::Source(context));
        StartedSource { input_address, drive: SourceDrive::Listener(entry) }
    }
}

impl OutputDriver for SrtListener {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let opened = match OpenListener::open(self, opening.resources) {
            Ok(listener) => Ok(Box::new(listener) as _),
            Err(cause) => Err(opening.label.bind(self.listen.bind, cause)),
        };
        Box::pin(ready(opened))
    }
}

impl OpenOutput for OpenListener {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let url = Some(self.url(resources));
        let admission = Admission::of_output(&self.settings.listen, status, &flow.events);
        let entry = self.add(flow, admission, RouteMedia::Output(flow.ring.reader()));
        StartedOutput { url, ..StartedOutput::new(OutputDrive::Listener(entry)) }
    }
}

/// Caller that is not running yet.
struct OpenCaller {
    settings: SrtCaller,
    egress: Egress,
}

impl OpenCaller {
    fn client(
        &self,
        parts: CallerParts,
        bandwidth: FlowBandwidth,
        members: MemberList,
        direction: Direction,
    ) -> SrtClient {
        let CallerParts { random, resolver, status, events, stop } = parts;
        let SrtCaller { call, srt } = &self.settings;
        let rates = FlowRates::new(srt, bandwidth);
        let mut egress = local_egress(&call.local, self.egress.clone());
        if srt.rendezvous {
            // The peer calls this port.
            egress.port = egress.port.or(Some(call.remote.port()));
        }
        SrtClient {
            remote: call.remote.clone(),
            members,
            group_type: srt.group_type.unwrap_or_default(),
            rendezvous: srt.rendezvous,
            resolver,
            reconnect: call.reconnect,
            random,
            connect_timeout: call.connect_timeout,
            stream_id: srt.stream_id.clone(),
            terms: terms(srt, &rates),
            rates,
            egress,
            status,
            events,
            stop,
            direction,
        }
    }
}

impl SourceDriver for SrtCaller {
    fn open(&self, _: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        Ok(Box::new(OpenCaller { settings: self.clone(), egress: Egress::default() }))
    }
}

impl OpenSource for OpenCaller {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, _: SourceContext) -> StartedSource {
        let resolver = resources.resolver.clone();
        let bandwidth = flow.bandwidth.view();
        let call = move |context: SourceContext| -> Task {
            let parts = CallerParts::of_source(&resolver, &context);
            let members = MemberList::of_source(context.live.clone());
            Box::pin(self.client(parts, bandwidth.clone(), members, Direction::Receive(context)).run())
        };
        StartedSource { input_address: None, drive: SourceDrive::Caller(Box::new(call)) }
    }
}

impl OutputDriver for SrtCaller {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let caller = OpenCaller { settings: self.clone(), egress: opening.egress };
        Box::pin(ready(Ok(Box::new(caller) as _)))
    }
}

impl OpenOutput for OpenCaller {
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let parts = CallerParts::of_output(resources, flow, status);
        let stop = parts.stop.clone();
        let members = watch::Sender::new(self.settings.group());
        let list = MemberList::of_output(members.subscribe());
        let caller = self.client(parts, flow.bandwidth.view(), list, Direction::Send(flow.ring.reader()));
        let drive = OutputDrive::Task { stop, task: Box::pin(caller.run()) };
        StartedOutput { members: Some(members), ..StartedOutput::new(drive) }
    }
}
