//! Reception of a source's datagrams: allowlist, protocol, order, counters and events, up to their entry into the flow.

use super::{payload_report::PayloadReport, rist::micros, side::SideSockets, source::Protocol};
use crate::{
    endpoint::{
        Event, LossReason, RefusalReason, SourceContext,
        ingest::{Ingest, Verdict},
        listener::RefusalLog,
    },
    flow::{PayloadTypes, UdpInput},
    media::{
        Packet, PayloadProblem,
        rtp::{Header, NotRtp},
        ts::Framing,
    },
    net::Received,
    proto::{
        rist::{RistReceiver, is_tunneled},
        rtp::{Contents, FecDecoder, HEADER, Receiver, Wrapper},
    },
    time::Throttle,
};
use bytes::Bytes;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// With the policy `Disconnect`, time for which datagrams are dropped after the bandwidth was exceeded.
const DISCONNECTED: Duration = Duration::from_secs(5);
/// Silence of the sender of a UDP or RIST source after which another takes its place.
const TAKEOVER: Duration = Duration::from_millis(500);
/// Time that a UDP source which is sent RTP waits for packets that arrive out of order.
const REORDER_WINDOW: Duration = Duration::from_millis(50);

/// Bounds of the bytes that a RIST source holds behind a gap: what comes within its latency, and a quarter.
const MIN_HELD_BYTES: usize = 4 << 20;
const MAX_HELD_BYTES: usize = 64 << 20;

/// Checks, counting and reordering of datagrams before they enter the flow.
pub(super) struct Reception {
    settings: UdpInput,
    payload_types: PayloadTypes,
    pub(super) ingest: Ingest,
    receiver: Receiver,
    reorder_window: Duration,
    /// Set if the source receives forward error correction.
    fec: Option<FecDecoder>,
    /// Packets that it has recovered, until they are in their place.
    recovered: Vec<(Header, Packet)>,
    /// Packets that were given up early and are reported already.
    overflowed: (u64, Throttle),
    /// Lost packets and unreadable FEC packets that the counters include already.
    fec_told: (u64, u64),
    /// Set for a RIST source.
    rist: Option<RistReceiver>,
    rist_latency: Option<Duration>,
    /// Address that RTCP goes to.
    rtcp_peer: Option<SocketAddr>,
    /// Set if the datagrams are MPEG-TS without RTP.
    wrapper: Option<Wrapper>,
    report: PayloadReport,
    /// Arrival of the last datagram of the sender.
    heard: Option<Instant>,
    /// Address of the last allowlist lookup, and its result.
    last_peer: Option<(IpAddr, bool)>,
    sender: Option<SocketAddr>,
    /// End of the pause after the bandwidth was exceeded. Datagrams that arrive earlier are dropped.
    disconnected_until: Option<Instant>,
    /// Late, duplicate and foreign packets that the counter of dropped packets includes already.
    unwanted: u64,
    /// Counts of the current batch.
    tally: Tally,
    refusals: RefusalLog,
    /// Last sender of something else than RTP, and the reason for which it was refused.
    last_raw: Option<(SocketAddr, RefusalReason)>,
    /// Number of collisions of senders before this connection, and whether one of this connection was told.
    collisions: (u64, bool),
}

#[derive(Default)]
struct Tally {
    malformed: u64,
    dropped: u64,
    /// Refused datagrams, one entry for each reason.
    refused: Vec<Refused>,
    disconnect: bool,
}

/// Datagrams that were refused for one reason, and the sender of the last one.
struct Refused {
    reason: RefusalReason,
    count: u64,
    peer: SocketAddr,
}

/// Returns a packet with another SSRC.
fn with_ssrc(packet: &[u8], ssrc: u32) -> Bytes {
    let mut packet = packet.to_vec();
    if let Some(field) = packet.get_mut(8..12) {
        field.copy_from_slice(&ssrc.to_be_bytes());
    }
    packet.into()
}

impl Tally {
    fn refuse(&mut self, peer: SocketAddr, reason: RefusalReason) {
        match self.refused.iter_mut().find(|known| known.reason == reason) {
            Some(known) => {
                known.count += 1;
                known.peer = peer;
            }
            None => self.refused.push(Refused { reason, count: 1, peer }),
        }
    }
}

/// Returns the wrapper of a source, which begins with random numbers (RFC 3550 section 5.1).
fn wrapper(context: &SourceContext) -> Wrapper {
    let [a, b, c, d, e, f, g, h, i, j] = context.random.bytes();
    Wrapper::new(u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f]), u32::from_be_bytes([g, h, i, j]))
}

impl Reception {
    pub(super) fn new(settings: UdpInput, protocol: Protocol, context: SourceContext) -> Self {
        let (window, payload_types, fec, wrapper) = match protocol {
            Protocol::Rtp { reorder_window, payload_types, fec } => (reorder_window, payload_types, fec, None),
            Protocol::Udp => (REORDER_WINDOW, PayloadTypes::ALL, false, Some(wrapper(&context))),
            Protocol::Rist { is_merged: true, .. } => (Duration::ZERO, PayloadTypes::ALL, false, None),
            Protocol::Rist { latency, .. } => (latency, PayloadTypes::ALL, false, None),
        };
        let rist_latency = match protocol {
            Protocol::Rist { latency, .. } => Some(latency),
            _ => None,
        };
        let rist = match protocol {
            Protocol::Rist { latency, .. } => {
                context.group.allow_recovery(latency);
                let own = u32::from_be_bytes(context.random.bytes()) & !1;
                context.status.counters.latency_us.set(micros(Some(latency)));
                Some(RistReceiver::new(own, latency, Instant::now()))
            }
            _ => None,
        };
        let mut reception = Self {
            receiver: Receiver::new(window),
            reorder_window: window,
            fec: fec.then(FecDecoder::new),
            rist,
            rist_latency,
            rtcp_peer: None,
            recovered: Vec::new(),
            overflowed: (0, Throttle::new(Duration::from_secs(1))),
            fec_told: (0, 0),
            payload_types,
            wrapper,
            report: PayloadReport::default(),
            heard: None,
            ingest: Ingest::new(context, Instant::now()),
            last_peer: None,
            sender: None,
            disconnected_until: None,
            unwanted: 0,
            tally: Tally::default(),
            refusals: RefusalLog::new(),
            last_raw: None,
            collisions: (0, false),
            settings,
        };
        reception.allow_held();
        reception
    }

    /// Applies changed settings. Ends the stream of a sender that is no longer on the allowlist.
    pub(super) fn refresh(&mut self) {
        if self.ingest.refresh() {
            self.allow_held();
            self.last_peer = None;
            if self.sender.is_some_and(|peer| !self.ingest.live().allow.admits(peer.ip())) {
                self.lose(LossReason::NoLongerAllowed);
            }
        }
    }

    /// Lets a RIST source hold behind a gap what may come within its latency, within bounds.
    fn allow_held(&mut self) {
        let Some(latency) = self.rist_latency else { return };
        let rate = self.ingest.live().bandwidth.max.bytes_in(latency);
        let bytes = usize::try_from(rate.saturating_add(rate / 4)).unwrap_or(usize::MAX);
        self.receiver.allow_held(bytes.clamp(MIN_HELD_BYTES, MAX_HELD_BYTES));
    }

    /// Checks a received datagram and passes it on for reordering.
    pub(super) fn datagram(&mut self, datagram: Received) {
        let Received { data, peer, arrival } = datagram;
        if !self.admits(peer) {
            return self.tally.refuse(peer, RefusalReason::NotAllowed);
        }
        if self.disconnected_until.is_some_and(|until| arrival < until) {
            self.tally.dropped += 1;
            return;
        }
        if self.is_held_by_another(peer, arrival) {
            return self.tally.refuse(peer, RefusalReason::InUse);
        }
        if self.wrapper.is_some() {
            return self.plain(data, peer, arrival);
        }
        match Header::parse(&data) {
            Ok(header) if self.payload_types.admits(header.payload_type) => self.rtp(&header, data, peer, arrival),
            Ok(_) => self.tally.dropped += 1,
            Err(NotRtp::Rtcp) => {} // RTCP has no use in a flow, and is no error
            Err(NotRtp::Malformed) => {
                if is_tunneled(&data) {
                    self.tally.refuse(peer, RefusalReason::RistProfile);
                } else if Framing::detect(&data).is_some() {
                    self.tally.refuse(peer, RefusalReason::RawTransportStream);
                } else {
                    self.tally.malformed += 1;
                }
            }
        }
    }

    /// Returns whether another sender than `peer` is heard. Nothing in a datagram of MPEG-TS tells the streams of two senders
    /// apart, and RIST is a session of two.
    fn is_held_by_another(&self, peer: SocketAddr, arrival: Instant) -> bool {
        let is_live = || self.heard.is_some_and(|last| arrival.saturating_duration_since(last) < TAKEOVER);
        let is_exclusive = self.wrapper.is_some() || self.rist.is_some();
        is_exclusive && self.sender.is_some_and(|sender| sender != peer) && is_live()
    }

    fn rtp(&mut self, header: &Header, data: Bytes, peer: SocketAddr, arrival: Instant) {
        match self.ingest.admit(arrival, data.len()) {
            Verdict::Pass => {
                self.sender = Some(peer);
                self.heard = Some(arrival);
                let mut header = *header;
                let mut data = data;
                let repeated = self.rist.as_mut().and_then(|rist| rist.media(&header, arrival));
                if let Some(ssrc) = repeated {
                    // A retransmission is put in its place in the stream.
                    header.ssrc = ssrc;
                    data = with_ssrc(&data, ssrc);
                }
                let packet = Packet::rtp(data, arrival);
                if let Some(fec) = &mut self.fec {
                    fec.media(&header, &packet, &mut self.recovered);
                }
                if repeated.is_some() {
                    self.receiver.handle_known(&header, packet, &mut self.ingest.out.packets);
                } else {
                    self.receiver.handle(&header, packet, &mut self.ingest.out.packets);
                }
                self.place_recovered();
            }
            Verdict::Drop => {}
            Verdict::Disconnect => self.tally.disconnect = true,
        }
    }

    /// Handles FEC packets, or RTCP of RIST. They count from the sender of the media alone.
    pub(super) fn side(&mut self, packets: &mut Vec<(Vec<u8>, SocketAddr)>, now: Instant) {
        for (bytes, peer) in packets.drain(..) {
            if !self.admits(peer) {
                self.tally.refuse(peer, RefusalReason::NotAllowed);
            } else if self.sender.is_some_and(|sender| sender.ip() != peer.ip()) {
                self.tally.dropped += 1;
            } else if let Some(fec) = &mut self.fec {
                fec.fec(&bytes, now, &mut self.recovered);
                self.place_recovered();
            } else if let Some(rist) = self.rist.as_mut().filter(|_| self.sender.is_some()) {
                rist.rtcp(&bytes, now);
                self.rtcp_peer = Some(peer);
            }
        }
    }

    /// Sends the RTCP of RIST that is due.
    pub(super) fn send_rtcp(&mut self, side: &mut SideSockets, now: Instant) {
        let Some((rist, peer)) = self.rist.as_mut().zip(self.rtcp_peer) else { return };
        if rist.next_timeout().is_some_and(|at| at <= now) {
            for compound in rist.poll(now) {
                side.send(peer, &compound);
            }
        }
        let counters = &self.ingest.context.status.counters;
        counters.retransmitted.set(rist.retransmitted());
        counters.rtt_us.set(micros(rist.round_trip()));
    }

    /// Puts packets that were recovered in their place, if they are still missing there.
    fn place_recovered(&mut self) {
        for (header, packet) in self.recovered.drain(..) {
            if self.receiver.awaits(&header) {
                self.ingest.context.status.counters.rebuilt.add(1);
                self.receiver.handle_known(&header, packet, &mut self.ingest.out.packets);
            }
        }
    }

    /// Updates the counters of forward error correction, and the time that gaps are held open for it.
    fn update_fec(&mut self, now: Instant) {
        let Some(fec) = &self.fec else { return };
        let counters = &self.ingest.context.status.counters;
        let counts = fec.counts();
        let is_active = fec.is_active(now);
        let lost = self.receiver.quality().lost;
        if is_active {
            counters.unrepaired.add(lost.saturating_sub(self.fec_told.0));
        }
        counters.repairs.set(counts.received);
        counters.malformed.add(counts.malformed.saturating_sub(self.fec_told.1));
        self.fec_told = (lost, counts.malformed);
        match fec.wait(now) {
            Some(wait) => self.receiver.set_window(wait.time.max(self.reorder_window), wait.packets),
            None => self.receiver.set_window(self.reorder_window, usize::MAX),
        }
    }

    /// Handles a datagram of a source of MPEG-TS without RTP. RTP packets with MPEG-TS are handled as such.
    fn plain(&mut self, data: Bytes, peer: SocketAddr, arrival: Instant) {
        let Some(wrapper) = &self.wrapper else { return };
        let problem = match wrapper.contents(&data) {
            Contents::Rtp(header) => {
                self.rtp(&header, data, peer, arrival);
                Some(PayloadProblem::Rtp)
            }
            Contents::TransportPackets => self.transport_packets(&data, peer, arrival),
            Contents::Foreign(problem) => {
                self.tally.malformed += 1;
                Some(problem)
            }
        };
        if let Some(problem) = problem {
            self.report.note(problem, 1);
        }
    }

    /// Wraps a datagram with transport packets. Returns its problem, if it has one.
    fn transport_packets(&mut self, data: &[u8], peer: SocketAddr, arrival: Instant) -> Option<PayloadProblem> {
        match self.ingest.admit(arrival, data.len()) {
            Verdict::Pass => {}
            Verdict::Drop => return None,
            Verdict::Disconnect => {
                self.tally.disconnect = true;
                return None;
            }
        }
        let before = self.ingest.out.packets.len();
        let problem = self.wrapper.as_mut()?.push(data, arrival, &mut self.ingest.out.packets);
        if problem == Some(PayloadProblem::NotTransportStream) {
            self.tally.malformed += 1;
            return problem;
        }
        let added = self.ingest.out.packets.len() - before;
        self.ingest.added_headers += (added * HEADER) as u64;
        self.sender = Some(peer);
        self.heard = Some(arrival);
        problem
    }

    fn admits(&mut self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        match self.last_peer {
            Some((last, verdict)) if last == ip => verdict,
            _ => {
                let verdict = self.ingest.live().allow.admits(ip);
                self.last_peer = Some((ip, verdict));
                verdict
            }
        }
    }

    pub(super) fn overflows(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.tally.dropped += datagrams;
            let name = self.ingest.context.status.name();
            log::warn!("source `{name}`: {datagrams} datagrams lost in a full socket buffer");
        }
    }

    /// Publishes the packets that are in order, and updates the counters.
    pub(super) fn publish(&mut self, now: Instant) {
        self.receiver.handle_timeout(now, &mut self.ingest.out.packets);
        self.update_fec(now);
        let counters = &self.ingest.context.status.counters;
        let tally = std::mem::take(&mut self.tally);
        let quality = self.receiver.quality();
        counters.malformed.add(tally.malformed);
        counters.lost.set(quality.lost);
        counters.recovered.set(quality.recovered);
        counters.jitter_us.set(u64::try_from(quality.jitter.as_micros()).unwrap_or(u64::MAX));
        counters.duplicates.set(quality.duplicates);
        let unwanted = quality.late.saturating_add(quality.foreign);
        counters.dropped.add(tally.dropped + unwanted.saturating_sub(self.unwanted));
        self.unwanted = unwanted;
        self.report_refusals(tally.refused, now);
        if quality.collisions > self.collisions.0 && !std::mem::replace(&mut self.collisions.1, true) {
            let source = self.ingest.context.status.name();
            self.ingest.context.events.emit(Event::SendersCollide { source, peer: self.sender });
        }
        let context = &self.ingest.context;
        let overflowed =
            quality.overflowed.saturating_sub(std::mem::replace(&mut self.overflowed.0, quality.overflowed));
        if let Some(packets) = self.overflowed.1.admit(now, overflowed).filter(|packets| *packets > 0) {
            let source = context.status.name();
            log::warn!("source `{source}`: {packets} packets were given up early, for want of memory behind a gap");
            context.events.emit(Event::GapGivenUp { source, packets });
        }
        self.report.publish(now, || context.status.name(), &context.events);
        self.ingest.publish(now, self.sender);
        if tally.disconnect {
            self.disconnected_until = now.checked_add(DISCONNECTED);
            self.lose(LossReason::BandwidthExceeded);
        }
    }

    /// Counts refused datagrams, and reports them when it is time.
    fn report_refusals(&mut self, refused: Vec<Refused>, now: Instant) {
        let context = &self.ingest.context;
        for Refused { reason, count, peer } in refused {
            context.status.count_refusals(reason, count);
            // What is in another form goes on until somebody corrects the sender, so that each is reported once.
            let is_other_form = matches!(reason, RefusalReason::RawTransportStream | RefusalReason::RistProfile);
            if !is_other_form || self.last_raw.replace((peer, reason)) != Some((peer, reason)) {
                self.refusals.record(peer, reason, "", count);
            }
        }
        if let Some(report) = self.refusals.held_back(now) {
            report.emit(&context.status, &context.events, now);
        }
    }

    /// Returns the time of the next call of [`Reception::timeout`], if one is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let idle = self.ingest.last_media().and_then(|last| last.checked_add(self.settings.idle_timeout));
        let rist = self.rist.as_ref().filter(|_| self.rtcp_peer.is_some()).and_then(RistReceiver::next_timeout);
        let report = self.refusals.next_report();
        self.receiver.next_timeout().into_iter().chain(idle).chain(rist).chain(report).min()
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        self.publish(now);
        let silent = self.ingest.last_media().map(|last| now.saturating_duration_since(last));
        if silent.is_some_and(|silent| silent >= self.settings.idle_timeout) {
            self.lose(LossReason::Idle);
        }
    }

    fn lose(&mut self, reason: LossReason) {
        self.receiver.reset(&mut self.ingest.out.packets);
        self.ingest.lose(Instant::now(), reason);
        self.sender = None;
        self.heard = None;
        if let Some(wrapper) = &mut self.wrapper {
            wrapper.reset();
        }
        if let Some(fec) = &mut self.fec {
            fec.reset();
        }
        if let Some(rist) = &mut self.rist {
            rist.reset();
        }
        self.rtcp_peer = None;
        self.collisions = (self.receiver.quality().collisions, false);
    }

    /// Publishes the packets held for reordering when the flow stops.
    pub(super) fn stop(mut self) {
        self.receiver.reset(&mut self.ingest.out.packets);
        self.publish(Instant::now());
    }
}
