//! The way of a publisher's packets into a flow: in order, with one numbering over all connections.

use super::super::{
    SourceContext,
    intake::{Intake, Verdict},
    tcp::End,
};
use crate::{
    endpoint::LossReason,
    media::{
        Packet,
        rtsp::{Presentation, is_rtcp},
    },
    proto::rtp::{Header, Receiver},
};
use bytes::{Bytes, BytesMut};
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
    tracks: Vec<InboundTrack>,
    ordered: Vec<Packet>,
    /// What the receivers of this connection have reported as lost already.
    lost: u64,
}

#[derive(Debug)]
struct InboundTrack {
    /// Over UDP: brings packets in order.
    receiver: Option<Receiver>,
    numbering: Numbering,
}

impl Inbound {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        Self { intake: Intake::new(context, now), tracks: Vec::new(), ordered: Vec::new(), lost: 0 }
    }

    /// Another connection begins. `udp`: packets may come out of order.
    pub(super) fn begin(&mut self, presentation: &Arc<Presentation>, udp: bool) {
        let same = self.intake.context.stage.current().as_ref() == Some(presentation);
        self.intake.begin_presentation(presentation);
        let mut old: Vec<Option<InboundTrack>> = self.tracks.drain(..).map(Some).collect();
        for (number, track) in presentation.tracks().iter().enumerate() {
            let known = old.get_mut(number).and_then(Option::take).filter(|_| same);
            let mut numbering = known.map_or_else(|| Numbering::new(track.clock_rate), |known| known.numbering);
            numbering.begin();
            self.tracks.push(InboundTrack { receiver: udp.then(|| Receiver::new(REORDER_WINDOW)), numbering });
        }
        self.lost = 0;
        if !same {
            self.intake.context.describe(presentation.description());
            self.intake.context.stage.set(presentation);
        }
    }

    /// Takes a packet of RTP or RTCP of a track.
    pub(super) fn take(&mut self, track: usize, data: Bytes, arrival: Instant, now: Instant) -> Result<(), End> {
        let (Some(state), Ok(number)) = (self.tracks.get_mut(track), u8::try_from(track)) else { return Ok(()) };
        if is_rtcp(&data) {
            let report = state.numbering.report(data);
            return self.hand_on(Packet::rtsp(number, report, arrival), now);
        }
        let Ok(header) = Header::parse(&data) else {
            self.intake.context.status.counters.malformed.add(1);
            return Ok(());
        };
        let packet = Packet::rtsp(number, data, arrival);
        let Some(receiver) = &mut state.receiver else {
            let packet = state.numbering.packet(packet, &header);
            return self.hand_on(packet, now);
        };
        receiver.handle(&header, packet, &mut self.ordered);
        self.hand_on_ordered(now)
    }

    fn hand_on_ordered(&mut self, now: Instant) -> Result<(), End> {
        let mut ordered = std::mem::take(&mut self.ordered);
        let mut result = Ok(());
        for packet in ordered.drain(..) {
            let track = packet.rtsp_track().map(usize::from).and_then(|track| self.tracks.get_mut(track));
            if let (Some(track), Ok(header)) = (track, Header::parse(packet.data())) {
                let packet = track.numbering.packet(packet, &header);
                result = result.and(self.hand_on(packet, now));
            }
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

    /// When packets are to be let go that wait for one before them.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.tracks.iter().filter_map(|track| track.receiver.as_ref()?.next_timeout()).min()
    }

    /// Hands over what has come; an error when an edit of the allowlist has put the peer out.
    pub(super) fn publish(&mut self, peer: SocketAddr, now: Instant) -> Result<(), End> {
        for receiver in self.tracks.iter_mut().filter_map(|track| track.receiver.as_mut()) {
            receiver.handle_timeout(now, &mut self.ordered);
        }
        let handed = self.hand_on_ordered(now);
        let lost = self.tracks.iter().filter_map(|t| t.receiver.as_ref()).map(|r| r.quality().lost).sum::<u64>();
        self.intake.context.status.counters.lost.add(lost.saturating_sub(self.lost));
        self.lost = lost;
        self.intake.publish(now, Some(peer));
        handed?;
        match self.intake.refresh() && !self.admits(peer.ip()) {
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
        for receiver in self.tracks.iter_mut().filter_map(|track| track.receiver.as_mut()) {
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

/// Sequence numbers, timestamps and the synchronisation source that go on over reconnections: players see one stream.
/// The first connection is not altered.
#[derive(Debug)]
struct Numbering {
    clock_rate: u32,
    ssrc: Option<u32>,
    sequence: u16,
    timestamp: u32,
    last: Option<(u16, u32, Instant)>,
    fresh: bool,
    /// Packets are to be altered.
    alters: bool,
}

impl Numbering {
    fn new(clock_rate: u32) -> Self {
        Self { clock_rate, ssrc: None, sequence: 0, timestamp: 0, last: None, fresh: true, alters: false }
    }

    fn begin(&mut self) {
        self.fresh = true;
    }

    fn packet(&mut self, packet: Packet, header: &Header) -> Packet {
        if std::mem::take(&mut self.fresh)
            && let Some((sequence, timestamp, at)) = self.last
        {
            // On where it would be had it not been away.
            let gap =
                packet.arrival().saturating_duration_since(at).as_micros() * u128::from(self.clock_rate) / 1_000_000;
            let gap = u32::try_from(gap).unwrap_or(u32::MAX).max(1);
            self.sequence = sequence.wrapping_add(1).wrapping_sub(header.sequence);
            self.timestamp = timestamp.wrapping_add(gap).wrapping_sub(header.timestamp);
            self.alters = true;
        }
        let ssrc = *self.ssrc.get_or_insert(header.ssrc);
        let (sequence, timestamp) =
            (header.sequence.wrapping_add(self.sequence), header.timestamp.wrapping_add(self.timestamp));
        let later = |last: u16| sequence.wrapping_sub(last) < 1 << 15;
        if self.last.is_none_or(|(last, ..)| later(last)) {
            self.last = Some((sequence, timestamp, packet.arrival()));
        }
        if !self.alters {
            return packet;
        }
        let mut data = BytesMut::from(&packet.data()[..]);
        // Invariant: a header has been read from these bytes.
        data[2..4].copy_from_slice(&sequence.to_be_bytes());
        data[4..8].copy_from_slice(&timestamp.to_be_bytes());
        data[8..12].copy_from_slice(&ssrc.to_be_bytes());
        Packet::rtsp(packet.rtsp_track().unwrap_or(0), data.freeze(), packet.arrival())
    }

    /// A sender report speaks of the same source and timestamps (RFC 3550 section 6.4.1).
    fn report(&self, data: Bytes) -> Bytes {
        if !self.alters || data.len() < 20 || data[1] != 200 {
            return data;
        }
        let mut report = BytesMut::from(&data[..]);
        if let Some(ssrc) = self.ssrc {
            report[4..8].copy_from_slice(&ssrc.to_be_bytes());
        }
        let time = u32::from_be_bytes([data[16], data[17], data[18], data[19]]).wrapping_add(self.timestamp);
        report[16..20].copy_from_slice(&time.to_be_bytes());
        report.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(sequence: u16, timestamp: u32, ssrc: u32, at: Instant) -> Packet {
        let mut data = vec![0x80, 96];
        data.extend(sequence.to_be_bytes());
        data.extend(timestamp.to_be_bytes());
        data.extend(ssrc.to_be_bytes());
        data.push(1);
        Packet::rtsp(0, data, at)
    }

    #[test]
    fn numbers_go_on_over_reconnections() {
        let (mut numbering, start) = (Numbering::new(90_000), Instant::now());
        let pass = |numbering: &mut Numbering, packet: Packet| {
            let header = Header::parse(packet.data()).unwrap();
            let packet = numbering.packet(packet, &header);
            let header = Header::parse(packet.data()).unwrap();
            (header.sequence, header.timestamp, header.ssrc)
        };
        numbering.begin();
        assert_eq!(pass(&mut numbering, rtp(u16::MAX, u32::MAX, 7, start)), (u16::MAX, u32::MAX, 7));
        let report: Bytes = [&[0x80, 200, 0, 6, 0, 0, 0, 9][..], &[0; 8], &[0, 0, 0, 5], &[0; 8]].concat().into();
        assert_eq!(numbering.report(report.clone()), report);
        numbering.begin();
        let later = start + Duration::from_millis(100);
        assert_eq!(pass(&mut numbering, rtp(500, 1000, 8, later)), (0, 8999, 7));
        assert_eq!(pass(&mut numbering, rtp(501, 1900, 8, later)), (1, 9899, 7));
        let report = numbering.report(report);
        assert_eq!((&report[4..8], &report[16..20]), (&[0, 0, 0, 7][..], &8004u32.to_be_bytes()[..]));
    }
}
