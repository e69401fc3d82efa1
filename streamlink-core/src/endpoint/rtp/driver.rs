//! Drivers of RTP sources and outputs.

use super::{
    output::{OpenOutput as OpenSinks, open_output},
    source::RtpSource,
};
use crate::{
    endpoint::{
        EngineResources, FlowMedia, SourceContext, Status,
        driver::{
            OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening, SourceDrive, SourceDriver,
            SourceOpening, StartedOutput, StartedSource,
        },
    },
    error::Error,
    flow::{RtpInput, RtpOutput},
};
use std::{sync::Arc, time::Duration};

impl SourceDriver for RtpInput {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        let mut settings = self.clone();
        if opening.is_merged {
            settings.reorder_window = Duration::ZERO; // the merge has its own window
        }
        match RtpSource::open(&settings, opening.bandwidth) {
            Ok(source) => Ok(Box::new(source)),
            Err(cause) => Err(opening.label.bind(self.listen.bind, cause)),
        }
    }
}

impl OpenSource for RtpSource {
    fn start(self: Box<Self>, resources: &EngineResources, _: &FlowMedia, context: SourceContext) -> StartedSource {
        let url = format!("rtp://{}", resources.advertise(self.local_addr()));
        StartedSource { input_address: Some(url.into()), drive: SourceDrive::Task(Box::pin(self.run(context))) }
    }
}

impl OutputDriver for RtpOutput {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(async move {
            let OutputOpening { resources, label, egress, bandwidth, status } = opening;
            let opened = open_output(self, &resources.resolver, &egress, &bandwidth, &status, &resources.random).await;
            match opened {
                Ok(sinks) => Ok(Box::new(sinks) as _),
                Err((what, cause)) => Err(label.io(what, cause)),
            }
        })
    }
}

impl OpenOutput for OpenSinks {
    fn start(self: Box<Self>, _: &EngineResources, _: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        let Self { sinks, peers } = *self;
        StartedOutput { peers, ..StartedOutput::new(OutputDrive::Sinks(sinks)) }
    }
}
