//! Established connection. It passes received packets to its sending and receiving halves, and sends what they produce.
//!
//! Sans-IO: driven by packets and the time. It returns packets to send ([`Connection::fill`]), payloads to deliver
//! ([`Connection::poll_delivery`]) and the time of its next action ([`Connection::next_timeout`]).

use super::{
    agreement::Agreement,
    arena::Arena,
    fec::{FecDecoder, FecEncoder, Rebuilt},
    key_exchange::KeyExchange,
    packet::{Ack, Control, DataHeader, HEADER, KeyFlag, Packet, write_control},
    receive::{ReceiveCounts, ReceiveHalf},
    round_trip::RoundTrip,
    send::{Acknowledged, Pacing, Selected, SendCounts, SendHalf},
    send_batch::{Body, SendBatch},
    sequence::Sequence,
};
use crate::packet_filter::FilterArq;
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Interval at which acknowledgements are considered (section 4.8.1).
const ACK_INTERVAL: Duration = Duration::from_millis(10);
/// Idle time after which a keep-alive packet is sent (section 3.2.3).
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Maximum number of queued control packets. Beyond that the oldest are dropped, as a network would.
const MAX_CONTROL: usize = 1024;
/// Maximum time by which the timestamp of a packet may lie before the moment at which it was pushed, and the maximum share
/// of the latency of the peer, which has less time for retransmissions by it.
const MAX_HELD: Duration = Duration::from_millis(16);
const MAX_HELD_SHARE: u32 = 8;
/// Margin above the latency at which the sender drops packets. Their age is at least [`MIN_DROP_AGE`].
const DROP_MARGIN: Duration = Duration::from_millis(20);
/// Minimum age at which the sender drops packets.
const MIN_DROP_AGE: Duration = Duration::from_millis(1000);

/// Payload that is due for delivery.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) payload: Bytes,
    /// Time from which it was due: evenly spaced as it was sent, however late the connection is asked.
    pub(crate) due: Instant,
}

/// Reason why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer has sent a shutdown packet.
    Shutdown,
    /// Nothing was received for too long.
    Idle,
    /// No sent packet was acknowledged for too long, though the peer is alive.
    Unacknowledged,
    /// The peer has broken the protocol, in the given way.
    Protocol(&'static str),
}

/// Statistics of a connection at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionStats {
    pub(crate) sent: SendCounts,
    pub(crate) received: ReceiveCounts,
    pub(crate) rtt: Duration,
    pub(crate) latency: Duration,
    pub(crate) buffered: Duration,
    pub(crate) encrypted: bool,
    /// Number of packets that could not be decrypted.
    pub(crate) undecrypted: u64,
}

#[derive(Debug)]
pub(crate) struct Connection {
    agreement: Agreement,
    /// Set if payloads of the peer are dropped.
    sends_only: bool,
    pub(super) sender: SendHalf,
    pub(super) receiver: ReceiveHalf,
    /// Decoder of the packet filter, if there is one, and the packets that it has rebuilt.
    pub(super) decoder: Option<Box<FecDecoder>>,
    rebuilt: Vec<Rebuilt>,
    control: VecDeque<Bytes>,
    round_trip: RoundTrip,
    last_heard: Instant,
    last_said: Instant,
    next_ack: Instant,
    closed: Option<CloseReason>,
    /// Set after a shutdown of the peer, or one of ours that delivers what was received. Received packets are still
    /// delivered, each at its time.
    ending: bool,
    keys: KeyExchange,
    undecrypted: u64,
    last_progress: Instant,
    /// Start of the time in which packets wait to be acknowledged and the peer shows no sign of reading.
    unread_since: Option<Instant>,
    arena: Arena,
}

/// Returns the time of a packet that arrived at `arrival` and is queued at `now`: that of its arrival, unless it was held
/// for longer than packets are held to leave together, or than `most`.
pub(crate) fn arrival_within(most: Duration, arrival: Instant, now: Instant) -> Instant {
    let held = now.saturating_duration_since(arrival).min(most).min(MAX_HELD);
    now.checked_sub(held).unwrap_or(now)
}

impl Connection {
    pub(crate) fn new(mut agreement: Agreement, now: Instant) -> Self {
        let keys = KeyExchange::new(&mut agreement, now);
        let a = &agreement;
        let mut sender = SendHalf::new(a.initial_sequence, a.buffer, a.peer_window, a.bytes_per_second, now);
        let mut receiver =
            ReceiveHalf::new(a.peer_sequence, a.buffer, a.receive_latency, a.drop_late, a.peer_timestamp, now);
        sender.set_overhead(keys.overhead());
        if let Some(filter) = a.filter {
            sender.set_filter(FecEncoder::new(filter, a.initial_sequence));
            receiver.set_filter(filter.arq);
        }
        Self {
            sender,
            receiver,
            decoder: a.filter.map(|filter| Box::new(FecDecoder::new(filter, a.peer_sequence))),
            rebuilt: Vec::new(),
            control: VecDeque::new(),
            round_trip: RoundTrip::new(),
            last_heard: now,
            last_said: now,
            next_ack: now,
            closed: None,
            ending: false,
            keys,
            undecrypted: 0,
            last_progress: now,
            unread_since: None,
            arena: Arena::default(),
            sends_only: false,
            agreement,
        }
    }

    /// Drops all payloads received from now on, and holds no memory for them.
    pub(crate) fn send_only(&mut self) {
        self.sends_only = true;
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// Returns the group of the peer of which the connection is a member.
    pub(crate) fn peer_group(&self) -> Option<u32> {
        self.agreement.peer_group
    }

    /// Returns the largest payload that is sent in one packet, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.agreement.max_payload
    }

    pub(crate) fn local_id(&self) -> u32 {
        self.agreement.local_id
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            sent: self.sender.counts,
            received: self.receiver.counts,
            rtt: self.round_trip.smoothed,
            latency: self.agreement.receive_latency,
            buffered: self.receiver.buffered(),
            encrypted: self.keys.is_encrypted(),
            undecrypted: self.undecrypted,
        }
    }

    /// Returns the time by which packets may be held up, so that they leave or are handled together: one part in twelve of
    /// what the latency leaves beside three round trips, in which losses are made good.
    pub(crate) fn leeway(&self) -> Duration {
        let a = &self.agreement;
        let latency = if self.sends_only { a.send_latency } else { a.send_latency.min(a.receive_latency) };
        let round_trip = self.round_trip.known().unwrap_or(latency / 6);
        latency.saturating_sub(round_trip * 3) / 12
    }

    /// Returns the time for which the peer holds packets.
    pub(super) fn send_latency(&self) -> Duration {
        self.agreement.send_latency
    }

    /// Returns the time from the sending of a packet to its delivery, in the slower direction.
    pub(super) fn transit(&self) -> Duration {
        self.agreement.send_latency.max(self.agreement.receive_latency).saturating_add(self.round_trip.smoothed)
    }

    /// Returns whether a member of a group receives media, and does not stand by.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiver.is_active()
    }

    /// Tells the peer that the connection lives.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        self.say(&Control::KeepAlive, now);
    }

    /// Returns the time since the last packet of the peer.
    pub(crate) fn unheard_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_heard)
    }

    /// Changes the pacing, and the maximum number of packets that each half holds.
    pub(crate) fn set_rates(&mut self, buffer: usize, pacing: Pacing) {
        self.sender.set_rates(buffer, pacing);
        self.receiver.grow(buffer);
    }

    /// Returns our timestamp at `now`, as packets carry it.
    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.agreement.start).as_micros() as u32 // timestamps wrap
    }

    fn say(&mut self, control: &Control<'_>, now: Instant) {
        let bytes = write_control(control, self.timestamp(now), self.agreement.peer_id);
        if self.control.len() == MAX_CONTROL {
            self.control.pop_front();
        }
        self.control.push_back(bytes.into());
        self.last_said = now;
    }

    /// Queues a payload that has just arrived.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn push(&mut self, payload: &Bytes, now: Instant) -> bool {
        self.push_at(payload, now, now)
    }

    /// Queues a payload to be sent, which may have been held since its arrival to leave with others. Its timestamp is that
    /// of the arrival, so that the peer plays it as if it had left at once. Returns `false` if there is no room or the
    /// payload is too long; it is then counted as dropped or oversized.
    pub(crate) fn push_arrived(&mut self, payload: &Bytes, arrival: Instant, now: Instant) -> bool {
        let most = self.agreement.send_latency / MAX_HELD_SHARE;
        self.push_at(payload, arrival_within(most, arrival, now), now)
    }

    /// Queues a payload as [`Connection::push_arrived`] does, with exactly this time.
    pub(super) fn push_at(&mut self, payload: &Bytes, queued: Instant, now: Instant) -> bool {
        if payload.len() > self.agreement.max_payload {
            self.sender.counts.oversized += 1;
            return false;
        }
        if self.closed.is_some() || payload.is_empty() || !self.sender.has_room() {
            self.sender.counts.dropped += 1;
            return false;
        }
        let key = self.keys.next_key(&self.sender);
        let timestamp = self.timestamp(queued);
        self.sender.push(payload.clone(), key, timestamp, (queued, now));
        true
    }

    /// Handles one packet, which has been checked to come from the address of the peer.
    pub(crate) fn handle(&mut self, packet: &Packet<'_>, datagram: &Bytes, now: Instant) {
        if self.closed.is_some() || self.ending {
            return;
        }
        self.last_heard = now;
        match packet {
            Packet::Data(header) if header.message == 0 && self.decoder.is_some() => {
                self.take_repair(header, datagram, now);
            }
            // Unwanted payloads are not kept. The peer gives them up, like packets that are too late.
            Packet::Data(_) if self.sends_only => self.receiver.counts.discarded += 1,
            Packet::Data(header) => {
                if !self.receiver.wants(header.sequence) {
                    return;
                }
                let payload = datagram.slice(HEADER..);
                let raw = datagram.first_chunk().copied().unwrap_or_default();
                if let Some(decoder) = &mut self.decoder {
                    let in_order = raw[4] & 0x20 != 0;
                    self.receiver.counts.wrong_repairs += decoder.add(header, in_order, &payload, &mut self.rebuilt);
                }
                self.take_data(header, raw, payload, now);
                self.take_rebuilt(now);
                if self.receiver.light_ack_due() {
                    let next = self.receiver.next_missing().number();
                    self.say(&Control::Ack(Ack { next, ..Ack::default() }), now);
                }
            }
            Packet::Control { timestamp, control, .. } => self.handle_control(*timestamp, control, now),
        }
    }

    /// Decrypts and stores a needed packet. Returns whether it could be decrypted.
    fn take_data(&mut self, header: &DataHeader, raw: [u8; HEADER], payload: Bytes, now: Instant) -> bool {
        let payload = match (header.key, self.keys.of_peer()) {
            (KeyFlag::Clear, None) => payload,
            (KeyFlag::Clear, Some(_)) | (_, None) => {
                self.undecrypted += 1;
                return false;
            }
            (flag, Some(keys)) => {
                let mut clear = self.arena.stage(&payload);
                if !keys.open(flag, header.sequence, raw, &mut clear) {
                    self.arena.unstage(clear);
                    self.undecrypted += 1;
                    return false;
                }
                clear.freeze()
            }
        };
        let stamp = (header.timestamp, header.retransmitted);
        if let Some(gap) = self.receiver.store(header.sequence, stamp, payload, now) {
            self.say(&Control::Nak(vec![gap]), now);
        }
        true
    }

    /// Handles a repair packet of the packet filter.
    fn take_repair(&mut self, header: &DataHeader, datagram: &Bytes, now: Instant) {
        self.receiver.counts.repairs += 1;
        let Some(decoder) = &mut self.decoder else { return };
        if self.sends_only {
            return;
        }
        if !self.receiver.is_near(header.sequence) {
            self.receiver.counts.wrong_repairs += 1;
            return;
        }
        let body = datagram.get(HEADER..).unwrap_or_default();
        self.receiver.counts.wrong_repairs += decoder.add_repair(header, body, &mut self.rebuilt);
        self.take_rebuilt(now);
    }

    /// Stores the packets that the packet filter has rebuilt, and reports those that it cannot rebuild any more.
    fn take_rebuilt(&mut self, now: Instant) {
        let Some(decoder) = &self.decoder else { return };
        let horizon = decoder.horizon();
        let mut rebuilt = std::mem::take(&mut self.rebuilt);
        for Rebuilt { mut header, raw, payload } in rebuilt.drain(..) {
            header.retransmitted = true; // it tells nothing about the order of packets on the path
            if self.receiver.lacks(header.sequence) && self.take_data(&header, raw, payload, now) {
                self.receiver.counts.rebuilt += 1;
            }
        }
        self.rebuilt = rebuilt;
        let losses = horizon.map(|horizon| self.receiver.give_up_repair(horizon, now)).unwrap_or_default();
        if !losses.is_empty() {
            self.say(&Control::Nak(losses), now);
        }
    }

    fn handle_control(&mut self, timestamp: u32, control: &Control<'_>, now: Instant) {
        match control {
            Control::Ack(ack) => {
                let window = ack.full.then_some(ack.window as usize);
                match self.sender.acknowledge(Sequence::new(ack.next), window) {
                    Acknowledged::Progress => self.unread_since = None,
                    Acknowledged::Nothing => {}
                    Acknowledged::Unsent => {
                        self.closed = Some(CloseReason::Protocol("it acknowledges what was never sent"));
                        return;
                    }
                }
                self.last_progress = now;
                if ack.full {
                    self.say(&Control::AckAck(ack.number), now);
                    self.round_trip.accept(ack.rtt, ack.rtt_variance);
                }
            }
            Control::AckAck(number) => {
                if let Some(rtt) = self.receiver.confirm(*number, timestamp, now) {
                    self.round_trip.measure(rtt);
                }
            }
            Control::Nak(ranges) => {
                // A peer that reports losses is reading, and has reported what else is missing, too.
                self.unread_since = None;
                self.last_progress = now;
                if let Some((first, last)) = self.sender.report_lost(ranges, self.round_trip, now) {
                    self.say(&Control::DropRequest { first, last }, now);
                }
            }
            Control::DropRequest { first, last } => self.receiver.drop_range(*first, *last),
            Control::Shutdown => {
                self.ending = true;
                self.receiver.stop_waiting();
            }
            Control::PeerError => self.closed = Some(CloseReason::Protocol("it reports an error of its own")),
            Control::KeyRequest(material) => {
                if let Some(answer) = self.keys.take_announcement(material, now) {
                    self.say(&Control::KeyResponse(&answer), now);
                }
            }
            Control::KeyResponse(material) => self.keys.confirm(material),
            Control::KeepAlive => self.receiver.stand_by(),
            Control::Handshake(_) | Control::Other => {}
        }
    }

    /// Returns the time without acknowledgement after which sent packets are sent again.
    fn silence(&self) -> Duration {
        self.round_trip.timeout() + ACK_INTERVAL * 2
    }

    /// Returns the idle time after which a keep-alive packet is sent. A peer whose idle timeout is as short as ours stays.
    fn keep_alive_interval(&self) -> Duration {
        KEEP_ALIVE.min(self.agreement.peer_idle / 3)
    }

    /// Returns the age at which the sender drops a packet.
    fn drop_age(&self) -> Duration {
        (self.agreement.send_latency + DROP_MARGIN).max(MIN_DROP_AGE)
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() || self.ending {
            return;
        }
        if now.saturating_duration_since(self.last_heard) >= self.agreement.peer_idle {
            self.closed = Some(CloseReason::Idle);
            return;
        }
        if self.is_unread(now) {
            self.closed = Some(CloseReason::Unacknowledged);
            return;
        }
        if now >= self.next_ack {
            self.next_ack = now + ACK_INTERVAL;
            if let Some((number, next)) = self.receiver.ack_due(now, self.round_trip.timeout()) {
                let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
                let ack = Ack {
                    number,
                    next: next.number(),
                    rtt: micros(self.round_trip.smoothed),
                    rtt_variance: micros(self.round_trip.variance),
                    window: self.receiver.window(),
                    full: true,
                    ..Ack::default()
                };
                self.say(&Control::Ack(ack), now);
            }
            if self.agreement.drop_late {
                self.sender.drop_late(now, self.drop_age());
            }
            let may_repeat = self.agreement.filter.is_none_or(|filter| filter.arq != FilterArq::Never);
            if may_repeat
                && self.sender.in_flight() > 0
                && now.saturating_duration_since(self.last_progress) >= self.silence()
            {
                self.last_progress = now;
                let before = now.checked_sub(self.silence()).unwrap_or(now);
                self.sender.resend_silent(before);
            }
            if let Some(material) = self.keys.due_announcement(self.round_trip.smoothed * 3 / 2, now) {
                self.say(&Control::KeyRequest(&material), now);
            }
        }
        let interval = self.round_trip.report_interval();
        let losses = self.receiver.overdue_losses(now, interval);
        if !losses.is_empty() {
            self.say(&Control::Nak(losses), now);
        }
        if now.saturating_duration_since(self.last_said) >= self.keep_alive_interval() {
            self.say(&Control::KeepAlive, now);
        }
    }

    /// Returns whether the peer has shown no sign of reading the packets that wait for it, for the idle timeout. A
    /// keep-alive packet is no such sign, because it could keep a useless connection open for ever.
    fn is_unread(&mut self, now: Instant) -> bool {
        if self.sender.is_empty() {
            self.unread_since = None;
            return false;
        }
        let since = *self.unread_since.get_or_insert(now);
        // A packet that is never sent again is acknowledged only once the peer has given it up.
        let patience = self.agreement.peer_idle.max(self.agreement.send_latency * 2);
        now.saturating_duration_since(since) >= patience
    }

    /// Returns the time at which [`Connection::handle_timeout`], [`Connection::poll_delivery`] or [`Connection::fill`] has
    /// something to do. `None` if the connection has ended.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        if self.ending {
            return self.receiver.next_delivery().or(Some(self.last_heard));
        }
        let idle = self.last_heard + self.agreement.peer_idle;
        let alive = self.last_said + self.keep_alive_interval();
        let busy = self.receiver.needs_ack() || self.sender.in_flight() > 0 || self.keys.is_unconfirmed();
        let others = [
            busy.then_some(self.next_ack),
            self.receiver.next_report(self.round_trip.report_interval()),
            self.receiver.next_delivery(),
            self.sender.next_release(),
        ];
        Some(others.into_iter().flatten().fold(idle.min(alive), Instant::min))
    }

    /// Fills a batch with the packets that leave now, at most `most`. Control packets come behind data packets: as the
    /// shorter last one of a run, the first of them leaves in the same system call.
    pub(crate) fn fill(&mut self, batch: &mut SendBatch, most: usize, now: Instant) {
        batch.clear();
        let sends_data = self.closed.is_none() && !self.ending;
        while sends_data
            && batch.len() < most
            && let Some(selected) = self.sender.poll(now, self.agreement.peer_id)
        {
            self.last_said = now;
            if self.sender.in_flight() == 1 {
                self.last_progress = now;
            }
            match selected {
                Selected::Data { header, index } => self.put_data(batch, &header, index),
                Selected::Repair(header, body) => batch.push(header, Body::Repair(body)),
            }
        }
        while batch.len() < most
            && let Some(packet) = self.control.pop_front()
        {
            batch.push([0; HEADER], Body::Control(packet));
        }
    }

    /// Puts a data packet into a batch, encrypted if it has to be.
    fn put_data(&mut self, batch: &mut SendBatch, header: &DataHeader, index: usize) {
        let raw = header.to_bytes();
        if header.key == KeyFlag::Clear {
            self.sender.protect(header, index, None);
            return batch.push(raw, Body::Held(index));
        }
        let start = batch.sealed.len();
        let (Some(keys), Some(payload)) = (self.keys.of_ours(), self.sender.payload(index)) else { return };
        if !keys.seal(header.key, header.sequence, raw, payload, &mut batch.sealed) {
            return; // never the case, as keys are kept for what was pushed with them; clear text is not sent
        }
        let end = batch.sealed.len();
        self.sender.protect(header, index, batch.sealed.get(start..end));
        batch.push(raw, Body::Sealed(start..end));
    }

    /// Returns header and body of each packet of a batch that this connection has filled last; the header is empty for
    /// control packets.
    pub(crate) fn parts<'a>(&'a self, batch: &'a SendBatch) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        batch.parts(&self.sender)
    }

    /// Returns the next packet to be sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        let mut batch = SendBatch::default();
        self.fill(&mut batch, 1, now);
        self.parts(&batch).map(|(header, body)| [header, body].concat().into()).next()
    }

    /// Returns the next payload that is due for delivery.
    pub(crate) fn poll_delivery(&mut self, now: Instant) -> Option<Delivered> {
        let delivered = self.receiver.deliver(now).map(|(payload, due)| Delivered { payload, due });
        if delivered.is_none() {
            self.end_if_delivered();
        }
        delivered
    }

    /// Returns the next payload that is due for delivery.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn poll_payload(&mut self, now: Instant) -> Option<Bytes> {
        self.poll_delivery(now).map(|delivered| delivered.payload)
    }

    /// Closes the connection if its peer has shut it down, and all packets are delivered.
    pub(super) fn end_if_delivered(&mut self) {
        if self.ending && self.receiver.next_delivery().is_none() {
            self.closed.get_or_insert(CloseReason::Shutdown);
        }
    }

    /// Ends the connection. [`Connection::fill`] returns the shutdown packet.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        if self.closed.is_none() {
            self.say(&Control::Shutdown, now);
            self.closed = Some(CloseReason::Shutdown);
        }
    }

    /// Ends the connection as [`Connection::shut_down`] does, but delivers what was received first, each packet at its
    /// time.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.closed.is_none() && !self.ending {
            self.say(&Control::Shutdown, now);
            self.ending = true;
            self.receiver.stop_waiting();
        }
    }
}
