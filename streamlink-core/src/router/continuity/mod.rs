//! One stream out of many: what comes over several connections, or from several sources, goes on with the numbers and
//! the times of what came before. The first connection of a flow is never altered.

mod clock;
mod flv;
mod rtp;
mod ts;

use super::MediaBatch;
use crate::media::{MediaFamily, rtsp::Presentation};
use flv::FlvTimestamps;
use rtp::{RtpContinuity, TrackRewriters};
use ts::TsContinuity;

/// What makes the streams of a flow one.
#[derive(Debug)]
pub(super) struct Continuity(Kind);

#[derive(Debug)]
enum Kind {
    /// There is one source, whose packets pass as they are.
    Plain,
    Messages(FlvTimestamps),
    Tracks(TrackRewriters),
    Rtp(RtpContinuity),
    Datagrams(TsContinuity),
}

impl Continuity {
    /// `alone`: there is one source, and no other will follow it.
    pub(super) fn new(family: MediaFamily, alone: bool) -> Self {
        Self(match family {
            MediaFamily::Rtmp => Kind::Messages(FlvTimestamps::default()),
            MediaFamily::Rtsp => Kind::Tracks(TrackRewriters::default()),
            _ if alone => Kind::Plain,
            MediaFamily::Rtp => Kind::Rtp(RtpContinuity::default()),
            MediaFamily::Datagrams => Kind::Datagrams(TsContinuity::default()),
        })
    }

    /// Another connection of the same source follows. `known`: the presentation before.
    pub(super) fn reconnect(&mut self, known: Option<&Presentation>, presentation: Option<&Presentation>) {
        match &mut self.0 {
            Kind::Messages(timestamps) => timestamps.join(false),
            Kind::Tracks(tracks) => tracks.join(known, presentation, false),
            Kind::Plain | Kind::Rtp(_) | Kind::Datagrams(_) => {}
        }
    }

    /// Another source follows.
    pub(super) fn switch(&mut self, known: Option<&Presentation>, presentation: Option<&Presentation>) {
        match &mut self.0 {
            Kind::Messages(timestamps) => timestamps.join(true),
            Kind::Tracks(tracks) => tracks.join(known, presentation, true),
            Kind::Rtp(rtp) => rtp.join(),
            Kind::Datagrams(continuity) => continuity.join(),
            Kind::Plain => {}
        }
    }

    /// Makes a delivery go on where the last one ended.
    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        match &mut self.0 {
            Kind::Plain => {}
            Kind::Messages(timestamps) => timestamps.apply(delivery),
            Kind::Tracks(tracks) => tracks.apply(delivery),
            Kind::Rtp(rtp) => rtp.apply(delivery),
            Kind::Datagrams(continuity) => continuity.apply(delivery),
        }
    }
}
