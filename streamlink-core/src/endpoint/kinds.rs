//! Table of the protocols: the driver for each kind of source and output. A new protocol adds its rows here.

use super::driver::{OutputDriver, SourceDriver};
use crate::flow::{OutputKind, SourceKind};

/// Functions that give the driver of a kind. Tests replace them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drivers {
    pub(crate) source: fn(&SourceKind) -> &dyn SourceDriver,
    pub(crate) output: fn(&OutputKind) -> &dyn OutputDriver,
}

impl Default for Drivers {
    fn default() -> Self {
        Self { source: source_driver, output: output_driver }
    }
}

fn source_driver(kind: &SourceKind) -> &dyn SourceDriver {
    match kind {
        SourceKind::Rtmp(settings) => settings,
        SourceKind::RtmpPull(settings) => settings,
        SourceKind::SrtListener(settings) => settings,
        SourceKind::SrtCaller(settings) => settings,
        SourceKind::Rtp(settings) => settings,
        SourceKind::Udp(settings) => settings,
        SourceKind::Rist(settings) => settings,
        SourceKind::RtspListener(settings) => settings,
        SourceKind::RtspCaller(settings) => settings,
        SourceKind::App(family) => family,
    }
}

fn output_driver(kind: &OutputKind) -> &dyn OutputDriver {
    match kind {
        OutputKind::RtmpRelay(settings) => settings,
        OutputKind::RtmpPush(settings) => settings,
        OutputKind::RtmpPlay(settings) => settings,
        OutputKind::SrtListener(settings) => settings,
        OutputKind::SrtCaller(settings) => settings,
        OutputKind::Rtp(settings) => settings,
        OutputKind::Udp(settings) => settings,
        OutputKind::Rist(settings) => settings,
        OutputKind::RtspListener(settings) => settings,
        OutputKind::RtspCaller(settings) => settings,
        OutputKind::Tap(settings) => settings,
    }
}
