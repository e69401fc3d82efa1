//! One stream out of many: media of several connections, or of several sources, continues the sequence numbers and
//! timestamps of what came before. The first connection of a flow is never altered.

mod clock;
mod flv;
mod rtp;
mod ts;

use super::MediaBatch;
use crate::media::{MediaFamily, rtsp::Presentation};
use flv::FlvTimestamps;
use rtp::{RtpContinuity, TrackRewriters};
use ts::TsContinuity;

/// Makes the streams of a flow's connections and sources one.
#[derive(Debug)]
pub(super) struct Continuity {
    kind: Kind,
    /// True while there is a single source. Its datagrams pass unaltered, and are followed for a source that may come.
    alone: bool,
}

#[derive(Debug)]
enum Kind {
    /// The packets of a merge, which pass unaltered.
    Plain,
    Messages(FlvTimestamps),
    Tracks(TrackRewriters),
    Rtp(RtpContinuity),
    Datagrams(TsContinuity),
}

impl Continuity {
    /// `alone`: there is one source. `merged`: a merge puts the packets of all sources in order.
    pub(super) fn new(family: MediaFamily, alone: bool, merged: bool) -> Self {
        let kind = match family {
            MediaFamily::Rtmp => Kind::Messages(FlvTimestamps::default()),
            MediaFamily::Rtsp => Kind::Tracks(TrackRewriters::default()),
            _ if merged => Kind::Plain,
            MediaFamily::Rtp => Kind::Rtp(RtpContinuity::default()),
            MediaFamily::Datagrams => Kind::Datagrams(TsContinuity::default()),
        };
        Self { kind, alone }
    }

    /// Prepares for other sources, whose media continues what has passed so far.
    pub(super) fn expect_others(&mut self) {
        self.alone = false;
    }

    /// Begins another connection of the same source. `known`: the presentation before.
    pub(super) fn reconnect(&mut self, known: Option<&Presentation>, presentation: Option<&Presentation>) {
        match &mut self.kind {
            Kind::Messages(timestamps) => timestamps.join(false),
            Kind::Tracks(tracks) => tracks.join(known, presentation, false),
            Kind::Plain | Kind::Rtp(_) | Kind::Datagrams(_) => {}
        }
    }

    /// Begins another source.
    pub(super) fn switch(&mut self, known: Option<&Presentation>, presentation: Option<&Presentation>) {
        self.alone = false;
        match &mut self.kind {
            Kind::Messages(timestamps) => timestamps.join(true),
            Kind::Tracks(tracks) => tracks.join(known, presentation, true),
            Kind::Rtp(rtp) => rtp.join(),
            Kind::Datagrams(continuity) => continuity.join(),
            Kind::Plain => {}
        }
    }

    /// Alters a batch so that it continues the last one.
    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Rtp(rtp) if self.alone => rtp.watch(delivery),
            Kind::Datagrams(continuity) if self.alone => {
                for packet in &delivery.packets {
                    continuity.watch(packet.data(), packet.arrival());
                }
            }
            Kind::Messages(timestamps) => timestamps.apply(delivery),
            Kind::Tracks(tracks) => tracks.apply(delivery),
            Kind::Rtp(rtp) => rtp.apply(delivery),
            Kind::Datagrams(continuity) => continuity.apply(delivery),
        }
    }
}
