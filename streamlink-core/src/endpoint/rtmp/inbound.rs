//! Input of RTMP messages into a flow.

use super::super::{
    SourceContext,
    ingest::{Ingest, Verdict},
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

/// Shared access to the state of one source.
#[derive(Debug)]
pub(crate) struct SourceSlot(Mutex<SourceSession>);

impl SourceSlot {
    pub(super) fn new(context: SourceContext, now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SourceSession { ingest: Ingest::new(context, now) })))
    }

    pub(super) fn lock(&self) -> Guard<'_, SourceSession> {
        lock(&self.0)
    }
}

/// State that one source keeps from one connection to the next.
#[derive(Debug)]
pub(super) struct SourceSession {
    ingest: Ingest,
}

impl SourceSession {
    /// Prepares for the messages of a new connection.
    pub(super) fn begin(&mut self, now: Instant) {
        self.ingest.begin_messages();
        self.ingest.await_media(now);
    }

    /// Returns the time at which the connection ends if no media comes until then.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        self.ingest.idle_deadline()
    }

    /// Adds a media message to the flow. Other messages are ignored.
    pub(super) fn take(&mut self, message: Message<'_>, now: Instant) -> Result<(), End> {
        let Some(kind) = message.media() else { return Ok(()) };
        let before = if kind == RtmpKind::Data { set_data_frame(&message.body) } else { 0 };
        match self.ingest.flv(now, kind, message.timestamp, message.body.without(before)) {
            Verdict::Pass | Verdict::Drop => Ok(()),
            Verdict::Disconnect => Err(End::Lost(LossReason::BandwidthExceeded)),
        }
    }

    /// Publishes the messages received so far. Returns an error if the peer is no longer on the allowlist.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        self.ingest.publish(now, Some(peer));
        if self.ingest.refresh_at_times(now) && !self.admits(peer.ip()) {
            Err(End::Lost(LossReason::NoLongerAllowed))
        } else {
            Ok(())
        }
    }

    fn admits(&self, peer: IpAddr) -> bool {
        self.ingest.live().allow.admits(peer)
    }

    /// Returns whether media was received on this connection.
    pub(super) fn is_live(&self) -> bool {
        self.ingest.last_media().is_some()
    }

    /// Ends the connection: publishes the remaining messages, or reports the loss.
    pub(super) fn end(&mut self, end: &End, now: Instant) {
        match end {
            End::Stopped => self.ingest.publish(now, None),
            End::Lost(reason) => self.ingest.lose(now, reason.clone()),
        }
    }
}
