//! Drivers of RTP and UDP sources and outputs.

use super::{
    output::{Form, OpenOutput as OpenDatagrams, options},
    rist::OpenRist,
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
    flow::{Fec, RistInput, RistOutput, RtpInput, RtpOutput, UdpInput, UdpOutput},
};
use crate::{proto::rtp::FecEncoder, random::Random};
use std::{sync::Arc, time::Duration};

impl SourceDriver for RtpInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        // The merge has its own window.
        let reorder_window = if opening.is_merged { Duration::ZERO } else { self.reorder_window };
        let protocol = Protocol::Rtp { reorder_window, payload_types: self.payload_types, fec: self.fec };
        open_source(&self.udp, protocol, opening)
    }
}

impl SourceDriver for UdpInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        open_source(self, Protocol::Udp, opening)
    }
}

impl SourceDriver for RistInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        let protocol = Protocol::Rist { latency: self.latency, is_merged: opening.is_merged };
        open_source(&self.udp, protocol, opening)
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
        let url = resources.peer_url(self.local_addr(), |address| format!("{}://{address}", self.scheme()));
        StartedSource { input_address: Some(url), drive: SourceDrive::Task(Box::pin(self.run(context))) }
    }
}

impl OutputDriver for RtpOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        let random = &opening.resources.random;
        let (form, fec) = (Form::rtp(self.rewrite, random), self.fec.map(|fec| encoder(fec, random)));
        Box::pin(async move { Ok(Box::new(open_output(&self.udp, form, fec, opening).await?) as _) })
    }
}

impl OpenOutput for OpenDatagrams {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        Self::start(*self, flow)
    }
}

/// A UDP output with its sockets open, which has a URL for players.
struct OpenUdp(OpenDatagrams);

impl OutputDriver for UdpOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(async move {
            let opened = open_output(self, Form::TransportStream, None, opening).await?;
            Ok(Box::new(OpenUdp(opened)) as _)
        })
    }
}

impl OpenOutput for OpenUdp {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        // With `@`, players receive at the address, and do not send to it.
        let url = self.0.peers().first().map(|peer| format!("udp://@{peer}").into());
        StartedOutput { url, ..self.0.start(flow) }
    }
}

impl OutputDriver for RistOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(async move {
            let settings = &self.udp;
            let resolver = &opening.resources.resolver;
            let OutputOpening { label, egress, bandwidth, status, .. } = &opening;
            let opened = OpenDatagrams::open(settings, Form::EvenSsrc, None, resolver, egress, bandwidth, status).await;
            let media = opened.map_err(|(what, cause)| label.io(what, cause))?;
            let opened = OpenRist::open(media, &options(settings, egress, bandwidth), self.latency);
            let opened = opened.map_err(|cause| label.io("cannot open the port of RTCP".into(), cause))?;
            Ok(Box::new(opened) as _)
        })
    }
}

impl OpenOutput for OpenRist {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        StartedOutput::new(self.drive(flow, &status))
    }
}

/// Returns the encoder of an output, which begins with random numbers.
fn encoder(fec: Fec, random: &Random) -> FecEncoder {
    let [a, b, c, d] = random.bytes();
    let first = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    FecEncoder::new(fec.columns(), fec.rows(), fec.has_rows(), first)
}

async fn open_output(
    settings: &UdpOutput,
    form: Form,
    fec: Option<FecEncoder>,
    opening: OutputOpening<'_>,
) -> Result<OpenDatagrams, Error> {
    let OutputOpening { resources, label, egress, bandwidth, status } = opening;
    let opened = OpenDatagrams::open(settings, form, fec, &resources.resolver, &egress, &bandwidth, &status).await;
    opened.map_err(|(what, cause)| label.io(what, cause))
}
