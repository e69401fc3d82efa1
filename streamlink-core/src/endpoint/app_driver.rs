//! Drivers of the media in the host's own process: app sources and taps.

use super::{
    AppSource, EngineResources, FlowMedia, SourceContext, Status,
    driver::{
        OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening, SourceDrive, SourceDriver,
        SourceOpening, StartedOutput, StartedSource,
    },
};
use crate::{error::Error, flow::TapOutput, media::MediaFamily};
use std::{future::ready, sync::Arc};

/// An app source has no settings beside its family.
impl SourceDriver for MediaFamily {
    fn open(&self, _: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        Ok(Box::new(OpenApp(*self)))
    }
}

struct OpenApp(MediaFamily);

impl OpenSource for OpenApp {
    fn start(self: Box<Self>, _: &EngineResources, _: &FlowMedia, context: SourceContext) -> StartedSource {
        StartedSource { input_address: None, drive: SourceDrive::App(AppSource::new(self.0, context)) }
    }
}

impl OutputDriver for TapOutput {
    fn open<'a>(&'a self, _: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(ready(Ok(Box::new(OpenTap) as _)))
    }
}

struct OpenTap;

impl OpenOutput for OpenTap {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, _: Arc<Status>) -> StartedOutput {
        StartedOutput::new(OutputDrive::Tap(flow.ring.reader()))
    }
}
