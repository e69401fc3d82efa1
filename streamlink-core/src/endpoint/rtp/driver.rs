//! Drivers of RTP and UDP sources and outputs.

use super::{
    output::{Form, OpenOutput as OpenDatagrams},
    source::{Protocol, UdpSource},
};
use crate::{
    endpoint::{
        EngineResources, FlowMedia, SourceContext, Status,
        driver::{
            OpenOutput, OpenSource, Opened, OutputDriver, OutputOpening, SourceDrive, SourceDriver, SourceOpening,
            StartedOutput, StartedSource,
        },
    },
    error::Error,
    flow::{RtpInput, RtpOutput, UdpInput, UdpOutput},
};
use std::{sync::Arc, time::Duration};

impl SourceDriver for RtpInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        // The merge has its own window.
        let reorder_window = if opening.is_merged { Duration::ZERO } else { self.reorder_window };
        let protocol = Protocol::Rtp { reorder_window, payload_types: self.payload_types };
        open_source(&self.udp, protocol, opening)
    }
}

impl SourceDriver for UdpInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        open_source(self, Protocol::Udp, opening)
    }
}

fn open_source(
    settings: &UdpInput,
    protocol: Protocol,
    opening: &SourceOpening<'_>,
) -> Result<Box<dyn OpenSource>, Error> {
    match UdpSource::open(settings, protocol, opening.bandwidth) {
        Ok(source) => Ok(Box::new(source)),
        Err(cause) => Err(opening.label.bind(settings.listen.bind, cause)),
    }
}

impl OpenSource for UdpSource {
    fn start(self: Box<Self>, resources: &EngineResources, _: &FlowMedia, context: SourceContext) -> StartedSource {
        let url = format!("{}://{}", self.scheme(), resources.advertise(self.local_addr()));
        StartedSource { input_address: Some(url.into()), drive: SourceDrive::Task(Box::pin(self.run(context))) }
    }
}

impl OutputDriver for RtpOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let form = Form::rtp(self.rewrite, &opening.resources.random);
        Box::pin(async move { Ok(Box::new(open_output(&self.udp, form, opening).await?) as _) })
    }
}

impl OpenOutput for OpenDatagrams {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        OpenDatagrams::start(*self, flow)
    }
}

/// A UDP output with its sockets open, which has a URL for players.
struct OpenUdp(OpenDatagrams);

impl OutputDriver for UdpOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(async move { Ok(Box::new(OpenUdp(open_output(self, Form::TransportStream, opening).await?)) as _) })
    }
}

impl OpenOutput for OpenUdp {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        // With `@`, players receive at the address, and do not send to it.
        let url = self.0.peers().first().map(|peer| format!("udp://@{peer}").into());
        StartedOutput { url, ..self.0.start(flow) }
    }
}

async fn open_output(settings: &UdpOutput, form: Form, opening: OutputOpening<'_>) -> Result<OpenDatagrams, Error> {
    let OutputOpening { resources, label, egress, bandwidth, status } = opening;
    let opened = OpenDatagrams::open(settings, form, &resources.resolver, &egress, &bandwidth, &status).await;
    opened.map_err(|(what, cause)| label.io(what, cause))
}
