//! The way of a publisher's messages into a flow: one timeline over all connections, then the intake.

use super::super::{
    SourceContext,
    intake::{Intake, Verdict},
    tcp::End,
};
use crate::{
    endpoint::LossReason,
    media::{
        Packet, RtmpKind,
        flv::{Role, Tag, without_set_data_frame},
    },
    proto::rtmp::Message,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// What one source keeps from connection to connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    intake: Intake,
    timeline: Timeline,
}

impl Inbound {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        Self { intake: Intake::new(context, now), timeline: Timeline::default() }
    }

    /// Another connection begins.
    pub(super) fn begin(&mut self) {
        self.intake.begin_messages();
        self.timeline.begin();
    }

    /// Takes a message that is media; others are not the flow's business.
    pub(super) fn take(&mut self, message: Message, now: Instant) -> Result<(), End> {
        let Some(kind) = message.media() else { return Ok(()) };
        let body = if kind == RtmpKind::Data { without_set_data_frame(message.body) } else { message.body };
        let sample = kind != RtmpKind::Data
            && Tag::parse(kind, &body).is_some_and(|tag| !matches!(tag.role, Role::Header { .. }));
        let timestamp = self.timeline.place(message.timestamp, sample, now);
        match self.intake.message(now, Packet::rtmp(kind, timestamp, body, now)) {
            Verdict::Pass | Verdict::Drop => Ok(()),
            Verdict::Disconnect => Err(End::Lost(LossReason::BandwidthExceeded)),
        }
    }

    /// Hands over what has come; an error when an edit of the allowlist has put the peer out.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        self.intake.publish(now, Some(peer));
        match self.intake.refresh() && !self.admits(peer.ip()) {
            true => Err(End::Lost(LossReason::NoLongerAllowed)),
            false => Ok(()),
        }
    }

    fn admits(&self, peer: IpAddr) -> bool {
        self.intake.live().allow.admits(peer)
    }

    /// Whether the source has brought media on this connection.
    pub(super) fn is_live(&self) -> bool {
        self.intake.last_media().is_some()
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, end: &End, now: Instant) {
        match end {
            End::Stopped => self.intake.publish(now, None),
            End::Lost(reason) => self.intake.lose(now, reason.clone()),
        }
    }
}

/// Timestamps that go on over reconnections: players see one stream.
#[derive(Debug, Default)]
struct Timeline {
    /// What is added to the timestamps of this connection.
    offset: u32,
    /// The latest timestamp that was handed on, and when.
    last: Option<(u32, Instant)>,
    /// No sample has come on this connection.
    fresh: bool,
}

impl Timeline {
    fn begin(&mut self) {
        self.fresh = true;
    }

    /// The timestamp under which a message is handed on. A stream that comes back goes on where it would be had it
    /// not been away.
    fn place(&mut self, timestamp: u32, sample: bool, now: Instant) -> u32 {
        if self.fresh {
            match self.last {
                None => self.fresh = !sample,
                // Headers come with any time, often 0.
                Some((last, _)) if !sample => return last,
                Some((last, at)) => {
                    let gap = u32::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u32::MAX).max(1);
                    self.offset = last.wrapping_add(gap).wrapping_sub(timestamp);
                    self.fresh = false;
                }
            }
        }
        let placed = timestamp.wrapping_add(self.offset);
        let later = |last: u32| placed.wrapping_sub(last) < 1 << 31;
        if sample && self.last.is_none_or(|(last, _)| later(last)) {
            self.last = Some((placed, now));
        }
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_go_on_over_reconnections_and_the_wrap() {
        let (mut timeline, start) = (Timeline::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        timeline.begin();
        assert_eq!(timeline.place(0, false, at(0)), 0);
        assert_eq!(timeline.place(u32::MAX - 9, true, at(0)), u32::MAX - 9);
        assert_eq!(timeline.place(30, true, at(40)), 30, "the first connection is not altered, and wraps");
        assert_eq!(timeline.place(20, true, at(40)), 20);
        timeline.begin();
        assert_eq!(timeline.place(0, false, at(500)), 30);
        assert_eq!(timeline.place(7000, true, at(540)), 530);
        assert_eq!(timeline.place(7040, true, at(580)), 570);
        timeline.begin();
        assert_eq!(timeline.place(0, true, at(580)), 571);
    }
}
