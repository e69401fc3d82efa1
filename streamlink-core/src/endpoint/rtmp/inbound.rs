//! The way of a publisher's messages into a flow.

use super::super::{
    SourceContext,
    intake::{Intake, Verdict},
    tcp::End,
};
use crate::{
    endpoint::LossReason,
    lock::{Guard, lock},
    media::{RtmpKind, flv::set_data_frame},
    proto::rtmp::Message,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Instant,
};

/// The way into a flow, for one at a time. On a cache line of its own, as all that is found cold.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Entrance(Mutex<Inbound>);

impl Entrance {
    pub(super) fn new(context: SourceContext, now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inbound { intake: Intake::new(context, now) })))
    }

    pub(super) fn lock(&self) -> Guard<'_, Inbound> {
        lock(&self.0)
    }
}

/// What one source keeps from connection to connection.
#[derive(Debug)]
pub(super) struct Inbound {
    intake: Intake,
}

impl Inbound {
    /// Another connection begins.
    pub(super) fn begin(&mut self) {
        self.intake.begin_messages();
    }

    /// Takes a message that is media; others are not the flow's business.
    pub(super) fn take(&mut self, message: Message<'_>, now: Instant) -> Result<(), End> {
        let Some(kind) = message.media() else { return Ok(()) };
        let before = if kind == RtmpKind::Data { set_data_frame(&message.body) } else { 0 };
        match self.intake.flv(now, kind, message.timestamp, message.body.without(before)) {
            Verdict::Pass | Verdict::Drop => Ok(()),
            Verdict::Disconnect => Err(End::Lost(LossReason::BandwidthExceeded)),
        }
    }

    /// Hands over what has come; an error when an edit of the allowlist has put the peer out.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        self.intake.publish(now, Some(peer));
        match self.intake.refresh_at_times(now) && !self.admits(peer.ip()) {
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
