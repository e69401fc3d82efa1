//! The way of a publisher's packets into a flow, in order.

use super::super::{
    SourceContext,
    intake::{Intake, Verdict},
    tcp::End,
};
use crate::{
    endpoint::LossReason,
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

/// How long a packet over UDP waits for one that is missing before it.
const REORDER_WINDOW: Duration = Duration::from_millis(50);

/// What one source keeps from connection to connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    intake: Intake,
    /// That of the last connection.
    presentation: Option<Arc<Presentation>>,
    /// Over UDP: what brings the packets of each track in order.
    receivers: Vec<Option<Receiver>>,
    ordered: Vec<Packet>,
    /// Over UDP: what the sender is told of each track.
    receptions: Vec<Reception>,
    /// Our own SSRC in reports.
    own: u32,
    /// What the receivers of this connection have reported as lost already.
    lost: u64,
}

impl Inbound {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        Self {
            intake: Intake::new(context, now),
            presentation: None,
            receivers: Vec::new(),
            ordered: Vec::new(),
            receptions: Vec::new(),
            own: 1,
            lost: 0,
        }
    }

    /// Another connection begins. `udp`: packets may come out of order.
    pub(super) fn begin(&mut self, presentation: &Arc<Presentation>, udp: bool) {
        let changed = self.presentation.as_ref() != Some(presentation);
        self.intake.begin_presentation(presentation);
        self.receivers = presentation.tracks().iter().map(|_| udp.then(|| Receiver::new(REORDER_WINDOW))).collect();
        self.receptions = presentation.tracks().iter().map(|track| Reception::new(track.clock_rate)).collect();
        self.own = u32::from_be_bytes(self.intake.context.random.bytes());
        self.lost = 0;
        if changed {
            self.intake.context.describe(presentation.description());
            self.presentation = Some(presentation.clone());
        }
    }

    /// Takes a packet of RTP or RTCP of a track.
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
            self.intake.context.status.counters.malformed.add(1);
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
        match self.intake.message(now, packet) {
            Verdict::Pass | Verdict::Drop => Ok(()),
            Verdict::Disconnect => Err(End::Lost(LossReason::BandwidthExceeded)),
        }
    }

    /// What the sender of a track is told of it.
    pub(super) fn report(&mut self, track: usize, now: Instant) -> Vec<u8> {
        let own = self.own;
        self.receptions.get_mut(track).map(|reception| reception.report(own, now)).unwrap_or_default()
    }

    /// How long packets may wait for more, so that they leave together.
    pub(super) fn coalesce(&self) -> Duration {
        self.intake.context.coalesce
    }

    /// When packets are to be let go that wait for one before them.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.receivers.iter().filter_map(|receiver| receiver.as_ref()?.next_timeout()).min()
    }

    /// Hands over what has come; an error when an edit of the allowlist has put the peer out.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        for receiver in self.receivers.iter_mut().flatten() {
            receiver.handle_timeout(now, &mut self.ordered);
        }
        let handed = self.hand_on_ordered(now);
        let lost = self.receivers.iter().flatten().map(|receiver| receiver.quality().lost).sum::<u64>();
        self.intake.context.status.counters.lost.add(lost.saturating_sub(self.lost));
        self.lost = lost;
        self.intake.publish(now, Some(peer));
        handed?;
        match self.intake.refresh_at_times(now) && !self.admits(peer.ip()) {
            true => Err(End::Lost(LossReason::NoLongerAllowed)),
            false => Ok(()),
        }
    }

    /// Counts datagrams from others than the peer.
    pub(super) fn strangers(&self, count: u64) {
        self.intake.context.status.counters.refused.add(count);
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
        for receiver in self.receivers.iter_mut().flatten() {
            receiver.reset(&mut self.ordered);
        }
        // Whether the flow still takes them makes no difference any more.
        let _ = self.hand_on_ordered(now);
        match end {
            End::Stopped => self.intake.publish(now, None),
            End::Lost(reason) => self.intake.lose(now, reason.clone()),
        }
    }
}
