//! Input of RTP and RTCP packets into a flow, with reordering of packets over UDP.

use super::super::{
    SourceContext,
    ingest::{Ingest, Verdict},
    tcp::End,
};
use crate::{
    endpoint::{LossReason, RefusalReason, listener::RefusalLog},
    media::{
        Packet,
        rtp::Header,
        rtsp::{Presentation, is_rtcp},
    },
    proto::rtp::{Receiver, Reception},
};
use bytes::Bytes;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// Maximum time for which packets over UDP wait for a missing one before them.
const REORDER_WINDOW: Duration = Duration::from_millis(50);

/// Maximum time for which packets are collected into one batch: the packets of a picture come within it.
const MAX_GATHERING: Duration = Duration::from_millis(1);

/// State that one source keeps from one connection to the next.
#[derive(Debug)]
pub(crate) struct SourceSession {
    ingest: Ingest,
    /// Presentation of the last connection.
    presentation: Option<Arc<Presentation>>,
    /// Reorder buffer of each track over UDP; `None` over TCP.
    receivers: Vec<Option<Receiver>>,
    ordered: Vec<Packet>,
    /// Reception statistics of each track, for the receiver reports over UDP.
    receptions: Vec<Reception>,
    /// Our SSRC in receiver reports.
    own: u32,
    /// Lost packets of this connection that the counters include already.
    lost: u64,
    /// Datagrams of others.
    refusals: RefusalLog,
}

impl SourceSession {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        Self {
            ingest: Ingest::new(context, now),
            presentation: None,
            receivers: Vec::new(),
            ordered: Vec::new(),
            receptions: Vec::new(),
            own: 1,
            lost: 0,
            refusals: RefusalLog::new(),
        }
    }

    /// Prepares for the packets of a new connection. `udp`: packets may arrive out of order.
    pub(super) fn begin(&mut self, presentation: &Arc<Presentation>, udp: bool) {
        self.ingest.await_media(Instant::now());
        let changed = self.presentation.as_ref() != Some(presentation);
        self.ingest.begin_presentation(presentation);
        self.receivers = presentation.tracks().iter().map(|_| udp.then(|| Receiver::new(REORDER_WINDOW))).collect();
        self.receptions = presentation.tracks().iter().map(|track| Reception::new(track.clock_rate)).collect();
        self.own = u32::from_be_bytes(self.ingest.context.random.bytes());
        self.lost = 0;
        if changed {
            self.ingest.context.describe(presentation.description());
            self.presentation = Some(presentation.clone());
        }
    }

    /// Adds an RTP or RTCP packet of a track.
    pub(super) fn take(&mut self, track: usize, data: Bytes, arrival: Instant, now: Instant) -> Result<(), End> {
        let (Some(receiver), Ok(number)) = (self.receivers.get_mut(track), u8::try_from(track)) else { return Ok(()) };
        let packet = Packet::rtsp(number, data, arrival);
        if is_rtcp(packet.data()) {
            if let Some(reception) = self.receptions.get_mut(track) {
                reception.heard(packet.data(), now);
            }
            return self.hand_on(packet, now);
        }
        let Ok(header) = Header::parse(packet.data()) else {
            self.ingest.context.status.counters.malformed.add(1);
            return Ok(());
        };
        let Some(receiver) = receiver else { return self.hand_on(packet, now) };
        if let Some(reception) = self.receptions.get_mut(track) {
            reception.packet(&header, arrival);
        }
        receiver.handle(&header, packet, &mut self.ordered);
        self.hand_on_ordered(now)
    }

    fn hand_on_ordered(&mut self, now: Instant) -> Result<(), End> {
        let mut ordered = std::mem::take(&mut self.ordered);
        let mut result = Ok(());
        for packet in ordered.drain(..) {
            result = result.and(self.hand_on(packet, now));
        }
        self.ordered = ordered;
        result
    }

    fn hand_on(&mut self, packet: Packet, now: Instant) -> Result<(), End> {
        match self.ingest.message(now, packet) {
            Verdict::Pass | Verdict::Drop => Ok(()),
            Verdict::Disconnect => Err(End::Lost(LossReason::BandwidthExceeded)),
        }
    }

    /// Returns the RTCP receiver report of a track; empty if there is no such track.
    pub(super) fn report(&mut self, track: usize, now: Instant) -> Vec<u8> {
        let own = self.own;
        self.receptions.get_mut(track).map(|reception| reception.report(own, now)).unwrap_or_default()
    }

    /// Returns the maximum time for which packets are collected into one batch.
    pub(super) fn coalesce(&self) -> Duration {
        self.ingest.context.coalesce.min(MAX_GATHERING)
    }

    /// Returns the earliest time at which a reorder buffer gives up a missing packet, or refusals are to be reported.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let packets = self.receivers.iter().filter_map(|receiver| receiver.as_ref()?.next_timeout());
        packets.chain(self.refusals.next_report()).min()
    }

    /// Publishes the packets received so far. Returns an error if the peer is no longer on the allowlist.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        for receiver in self.receivers.iter_mut().flatten() {
            receiver.handle_timeout(now, &mut self.ordered);
        }
        let handed = self.hand_on_ordered(now);
        let lost = self.receivers.iter().flatten().map(|receiver| receiver.quality().lost).sum::<u64>();
        self.ingest.context.status.counters.lost.add(lost.saturating_sub(self.lost));
        self.lost = lost;
        self.report_refusals(now);
        self.ingest.publish(now, Some(peer));
        handed?;
        if self.ingest.refresh_at_times(now) && !self.admits(peer.ip()) {
            Err(End::Lost(LossReason::NoLongerAllowed))
        } else {
            Ok(())
        }
    }

    /// Counts runs of bytes between messages and frames, and frames before the session, that belonged to nothing.
    pub(super) fn malformed(&self, count: u64) {
        if count > 0 {
            self.ingest.context.status.counters.malformed.add(count);
        }
    }

    /// Counts frames on channels that were not agreed on, and reports them at most once a second. `frames`: their number,
    /// and the channel of the last one.
    pub(super) fn unknown_channel(&mut self, frames: (u64, u8), peer: SocketAddr, now: Instant) {
        let (count, channel) = frames;
        if count == 0 {
            return;
        }
        let reason = RefusalReason::OtherAddress;
        self.ingest.context.status.count_refusals(reason, count);
        let detail = format!("frames on channel {channel}, on which no track was set up");
        self.refusals.record(peer, reason, &detail, count);
        self.report_refusals(now);
    }

    /// Counts datagrams that did not come from the peer, and reports them at most once a second. `sender`: the last one.
    pub(super) fn strangers(&mut self, count: u64, sender: Option<SocketAddr>, now: Instant) {
        if count == 0 {
            return;
        }
        let reason = RefusalReason::OtherAddress;
        self.ingest.context.status.count_refusals(reason, count);
        let Some(peer) = sender else { return };
        self.refusals.record(peer, reason, "`symmetric` accepts every port of its address", count);
        self.report_refusals(now);
    }

    /// Reports refused datagrams when it is time.
    fn report_refusals(&mut self, now: Instant) {
        let context = &self.ingest.context;
        if let Some(report) = self.refusals.held_back(now) {
            report.emit(&context.status, &context.events, now);
        }
    }

    fn admits(&self, peer: IpAddr) -> bool {
        self.ingest.live().allow.admits(peer)
    }

    /// Returns the time at which the connection ends if no media comes until then.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        self.ingest.idle_deadline()
    }

    /// Returns whether media was received on this connection.
    pub(super) fn is_live(&self) -> bool {
        self.ingest.last_media().is_some()
    }

    /// Ends the connection: publishes the packets held for reordering, or reports the loss.
    pub(super) fn end(&mut self, end: &End, now: Instant) {
        for receiver in self.receivers.iter_mut().flatten() {
            receiver.reset(&mut self.ordered);
        }
        // The connection ends anyway, so a bandwidth verdict changes nothing.
        let _ = self.hand_on_ordered(now);
        match end {
            End::Stopped => self.ingest.publish(now, None),
            End::Lost(reason) => self.ingest.lose(now, reason.clone()),
        }
    }
}
