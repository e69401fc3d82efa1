//! An established connection: what comes in is sorted to its two halves, and what they have to say goes out.
//!
//! Given packets and the time; asked for packets to send ([`Connection::poll_transmit`]), payloads to hand over
//! ([`Connection::poll_payload`]) and the next moment at which something happens ([`Connection::next_timeout`]).

use super::{
    crypto::{Keys, STATUS_BAD_SECRET, STATUS_NO_SECRET},
    packet::{Ack, Control, KeyFlag, MAX_PAYLOAD, Packet, write_control},
    receive::{ReceiveCounts, ReceiveHalf},
    send::{SendCounts, SendHalf},
    sequence::Sequence,
};
use crate::{random::Random, secret::Secret};
use bytes::{Bytes, BytesMut};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How often acknowledgements are looked after (section 4.8.1).
const ACK_INTERVAL: Duration = Duration::from_millis(10);
/// A connection without traffic says so often that it is alive (section 3.2.3).
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The round trip until one was measured (section 4.10).
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Control packets that wait to be sent at most; beyond that the oldest are dropped, as a network would.
const MAX_CONTROL: usize = 1024;
/// The memory for encryption grows by so many bytes.
const ARENA: usize = 24 * 1456;
/// The sender gives packets up when they are so much older than the latency, and a second at least.
const DROP_MARGIN: Duration = Duration::from_millis(20);
const MIN_DROP_AGE: Duration = Duration::from_millis(1000);

/// What a connection is set up with, after both ends have agreed.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    pub(crate) local_id: u32,
    pub(crate) peer_id: u32,
    pub(crate) initial_sequence: Sequence,
    /// How long we hold what we receive.
    pub(crate) receive_latency: Duration,
    /// How long the peer holds what we send.
    pub(crate) send_latency: Duration,
    pub(crate) drop_late: bool,
    /// The timestamp of the peer's last handshake packet.
    pub(crate) peer_timestamp: u32,
    /// When our own timestamps started.
    pub(crate) start: Instant,
    pub(crate) keys: Option<Keys>,
    pub(crate) passphrase: Option<Secret>,
    /// Packets that each side's buffer holds.
    pub(crate) buffer: usize,
    /// Packets that the peer's buffer holds.
    pub(crate) peer_window: usize,
    /// The most that is sent, repeats included.
    pub(crate) bytes_per_second: u64,
    pub(crate) peer_idle: Duration,
    /// Packets after which the key changes, and how many before that the next one is announced.
    pub(crate) key_refresh: u64,
    pub(crate) key_announce: u64,
    pub(crate) random: Random,
}

/// A packet to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Transmit {
    /// Of a data packet; a control packet is all in its body.
    pub(crate) header: Option<[u8; 16]>,
    pub(crate) body: Bytes,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer has said so.
    Shutdown,
    /// Nothing came for too long.
    Idle,
    /// The peer has broken the protocol.
    Protocol,
}

/// A connection at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionStats {
    pub(crate) sent: SendCounts,
    pub(crate) received: ReceiveCounts,
    pub(crate) rtt: Duration,
    pub(crate) latency: Duration,
    pub(crate) buffered: Duration,
    pub(crate) encrypted: bool,
    /// Packets that could not be decrypted.
    pub(crate) undecrypted: u64,
}

#[derive(Debug)]
pub(crate) struct Connection {
    agreement: Agreement,
    /// What the peer sends is of no use.
    sends_only: bool,
    sender: SendHalf,
    receiver: ReceiveHalf,
    control: VecDeque<Bytes>,
    rtt: Duration,
    rtt_variance: Duration,
    measured: bool,
    last_heard: Instant,
    last_said: Instant,
    next_ack: Instant,
    closed: Option<CloseReason>,
    /// The peer has said goodbye: what has come is still handed over, each packet at its time.
    ending: bool,
    /// The key that we send with, and how many packets were sent with it.
    key: KeyFlag,
    key_used: u64,
    sending_keys: Option<Keys>,
    /// Key material that the peer has not confirmed, and when it was last sent.
    unconfirmed: Option<(Vec<u8>, Option<Instant>)>,
    undecrypted: u64,
    last_progress: Instant,
    /// Memory for what is encrypted or decrypted, packet behind packet.
    arena: BytesMut,
}

/// A copy of a payload, in memory that is used again when the packets in it are gone.
fn stage(arena: &mut BytesMut, payload: &[u8]) -> BytesMut {
    if arena.capacity() < payload.len() {
        arena.reserve(ARENA);
    }
    arena.extend_from_slice(payload);
    arena.split()
}

/// Gives back what was staged last: what is of no use must not take the place of what is kept.
fn unstage(arena: &mut BytesMut, mut staged: BytesMut) {
    staged.unsplit(std::mem::take(arena));
    staged.clear();
    *arena = staged;
}

impl Connection {
    pub(crate) fn new(agreement: Agreement, now: Instant) -> Self {
        let a = &agreement;
        let sender = SendHalf::new(a.initial_sequence, a.buffer, a.peer_window, a.bytes_per_second, now);
        let receiver =
            ReceiveHalf::new(a.initial_sequence, a.buffer, a.receive_latency, a.drop_late, a.peer_timestamp, now);
        Self {
            sender,
            receiver,
            control: VecDeque::new(),
            rtt: INITIAL_RTT,
            rtt_variance: INITIAL_RTT / 2,
            measured: false,
            last_heard: now,
            last_said: now,
            next_ack: now,
            closed: None,
            ending: false,
            key: if a.keys.is_some() { KeyFlag::Even } else { KeyFlag::Clear },
            key_used: 0,
            sending_keys: a.keys.clone(),
            unconfirmed: None,
            undecrypted: 0,
            last_progress: now,
            arena: BytesMut::new(),
            sends_only: false,
            agreement,
        }
    }

    /// Takes no payloads from now on: those that come are dropped, and no memory is held for them.
    pub(crate) fn send_only(&mut self) {
        self.sends_only = true;
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    pub(crate) fn local_id(&self) -> u32 {
        self.agreement.local_id
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            sent: self.sender.counts,
            received: self.receiver.counts,
            rtt: self.rtt,
            latency: self.agreement.receive_latency,
            buffered: self.receiver.buffered(),
            encrypted: self.agreement.keys.is_some(),
            undecrypted: self.undecrypted,
        }
    }

    /// Our time, as packets carry it.
    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.agreement.start).as_micros() as u32 // wraps, as timestamps do
    }

    fn say(&mut self, control: &Control<'_>, now: Instant) {
        let bytes = write_control(control, self.timestamp(now), self.agreement.peer_id);
        if self.control.len() == MAX_CONTROL {
            self.control.pop_front();
        }
        self.control.push_back(bytes.into());
        self.last_said = now;
    }

    /// Takes a payload to be sent. `false`: there is no room, or it is too long; it is counted as dropped.
    pub(crate) fn push(&mut self, payload: &Bytes, now: Instant) -> bool {
        if self.closed.is_some() || payload.is_empty() || payload.len() > MAX_PAYLOAD || !self.sender.has_room() {
            self.sender.counts.dropped += 1;
            return false;
        }
        self.turn_keys();
        let timestamp = self.timestamp(now);
        let payload = match &self.sending_keys {
            None => payload.clone(),
            Some(keys) => {
                let mut encrypted = stage(&mut self.arena, payload);
                keys.apply(self.key, self.sender.next_sequence(), &mut encrypted);
                encrypted.freeze()
            }
        };
        self.sender.push(payload, self.key, timestamp, now);
        true
    }

    /// Section 6.1.6: the next key is announced in time, taken into use, and the old one forgotten.
    fn turn_keys(&mut self) {
        let (Some(keys), Some(passphrase)) = (&mut self.sending_keys, &self.agreement.passphrase) else { return };
        self.key_used += 1;
        let next = if self.key == KeyFlag::Even { KeyFlag::Odd } else { KeyFlag::Even };
        let (refresh, announce) = (self.agreement.key_refresh, self.agreement.key_announce);
        if self.key_used == refresh.saturating_sub(announce).max(1) {
            let random = Zeroizing::new(self.agreement.random.bytes());
            keys.refresh(next, &random);
            self.unconfirmed = keys.material(passphrase.reveal()).map(|material| (material, None));
        } else if self.key_used >= refresh && self.unconfirmed.is_none() {
            // Confirmed by the peer: from here on.
            self.key = next;
            self.key_used = 0;
        } else if self.key_used == announce {
            keys.retire(next);
        }
    }

    /// One packet of the peer, which has been checked to be from its address.
    pub(crate) fn handle(&mut self, packet: &Packet<'_>, datagram: &Bytes, now: Instant) {
        if self.closed.is_some() || self.ending {
            return;
        }
        self.last_heard = now;
        match packet {
            // Of what nobody wants, nothing is kept. The peer gives it up, as what comes too late.
            Packet::Data(_) if self.sends_only => self.receiver.counts.discarded += 1,
            Packet::Data(header) => {
                if !self.receiver.wants(header.sequence) {
                    return;
                }
                let payload = datagram.slice(super::packet::HEADER..);
                let payload = match (header.key, &self.agreement.keys) {
                    (KeyFlag::Clear, None) => payload,
                    (KeyFlag::Clear, Some(_)) | (_, None) => {
                        self.undecrypted += 1;
                        return;
                    }
                    (flag, Some(keys)) => {
                        let mut clear = stage(&mut self.arena, &payload);
                        if !keys.apply(flag, header.sequence, &mut clear) {
                            unstage(&mut self.arena, clear);
                            self.undecrypted += 1;
                            return;
                        }
                        clear.freeze()
                    }
                };
                if let Some(gap) = self.receiver.store(header.sequence, header.timestamp, payload, now) {
                    self.say(&Control::Nak(vec![gap]), now);
                }
                if self.receiver.light_ack_due() {
                    let next = self.receiver.next_missing().number();
                    self.say(&Control::Ack(Ack { next, ..Ack::default() }), now);
                }
            }
            Packet::Control { timestamp, control, .. } => self.handle_control(*timestamp, control, now),
        }
    }

    fn handle_control(&mut self, timestamp: u32, control: &Control<'_>, now: Instant) {
        match control {
            Control::Ack(ack) => {
                let window = ack.full.then_some(ack.window as usize);
                if !self.sender.acknowledge(Sequence::new(ack.next), window) {
                    self.closed = Some(CloseReason::Protocol); // what was never sent cannot have come
                    return;
                }
                self.last_progress = now;
                if ack.full {
                    self.say(&Control::AckAck(ack.number), now);
                    if !self.measured && ack.rtt > 0 {
                        self.rtt = Duration::from_micros(ack.rtt.min(10_000_000).into());
                        self.rtt_variance = Duration::from_micros(ack.rtt_variance.min(10_000_000).into());
                    }
                }
            }
            Control::AckAck(number) => {
                if let Some(rtt) = self.receiver.confirm(*number, timestamp, now) {
                    self.measure(rtt);
                }
            }
            Control::Nak(ranges) => {
                if let Some((first, last)) = self.sender.report_lost(ranges) {
                    self.say(&Control::DropRequest { first, last }, now);
                }
            }
            Control::DropRequest { first, last } => self.receiver.call_off(*first, *last),
            Control::Shutdown => {
                self.ending = true;
                self.receiver.stop_waiting();
            }
            Control::PeerError => self.closed = Some(CloseReason::Protocol),
            Control::KeyRequest(material) => self.take_keys(material, now),
            Control::KeyResponse(material) => {
                if self.unconfirmed.as_ref().is_some_and(|(ours, _)| ours == material) {
                    self.unconfirmed = None;
                }
            }
            Control::KeepAlive | Control::Handshake(_) | Control::Other => {}
        }
    }

    /// The peer announces its next key.
    fn take_keys(&mut self, material: &[u8], now: Instant) {
        let status = match (&mut self.agreement.keys, &self.agreement.passphrase) {
            (Some(keys), Some(passphrase)) => match Keys::from_material(material, passphrase.reveal()) {
                Ok(newer) => {
                    keys.update(newer);
                    None
                }
                Err(_) => Some(STATUS_BAD_SECRET),
            },
            _ => Some(STATUS_NO_SECRET),
        };
        match status {
            None => self.say(&Control::KeyResponse(material), now),
            Some(status) => self.say(&Control::KeyResponse(&status.to_be_bytes()), now),
        }
    }

    /// Section 4.10: smoothed, as TCP does.
    fn measure(&mut self, rtt: Duration) {
        if !std::mem::replace(&mut self.measured, true) {
            (self.rtt, self.rtt_variance) = (rtt, rtt / 2);
            return;
        }
        let difference = self.rtt.abs_diff(rtt);
        self.rtt_variance = (self.rtt_variance * 3 + difference) / 4;
        self.rtt = (self.rtt * 7 + rtt) / 8;
    }

    /// Section 4.8.2: how often a loss is reported.
    fn report_interval(&self) -> Duration {
        ((self.rtt + self.rtt_variance * 4) / 2).max(Duration::from_millis(20))
    }

    /// How long the peer may be silent about what was sent before it is sent again.
    fn silence(&self) -> Duration {
        self.rtt + self.rtt_variance * 4 + ACK_INTERVAL * 2
    }

    /// How old a packet may get before the sender gives it up.
    fn drop_age(&self) -> Duration {
        (self.agreement.send_latency + DROP_MARGIN).max(MIN_DROP_AGE)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() || self.ending {
            return;
        }
        if now.saturating_duration_since(self.last_heard) >= self.agreement.peer_idle {
            self.closed = Some(CloseReason::Idle);
            return;
        }
        if now >= self.next_ack {
            self.next_ack = now + ACK_INTERVAL;
            let repeat = self.rtt + self.rtt_variance * 4;
            if let Some((number, next)) = self.receiver.ack_due(now, repeat) {
                let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
                let ack = Ack {
                    number,
                    next: next.number(),
                    rtt: micros(self.rtt),
                    rtt_variance: micros(self.rtt_variance),
                    window: self.receiver.window(),
                    full: true,
                    ..Ack::default()
                };
                self.say(&Control::Ack(ack), now);
            }
            if self.agreement.drop_late {
                self.sender.drop_late(now, self.drop_age());
            }
            if self.sender.in_flight() > 0 && now.saturating_duration_since(self.last_progress) >= self.silence() {
                self.last_progress = now;
                let before = now.checked_sub(self.silence()).unwrap_or(now);
                self.sender.resend_silent(before);
            }
            self.repeat_keys(now);
        }
        let interval = self.report_interval();
        let losses = self.receiver.overdue_losses(now, interval);
        if !losses.is_empty() {
            self.say(&Control::Nak(losses), now);
        }
        if now.saturating_duration_since(self.last_said) >= KEEP_ALIVE {
            self.say(&Control::KeepAlive, now);
        }
    }

    fn repeat_keys(&mut self, now: Instant) {
        let wait = self.rtt * 3 / 2;
        let due = |at: &Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= wait);
        if let Some((material, at)) = self.unconfirmed.take_if(|(_, at)| due(at)) {
            let _ = at;
            self.say(&Control::KeyRequest(&material), now);
            self.unconfirmed = Some((material, Some(now)));
        }
    }

    /// When [`Connection::handle_timeout`], [`Connection::poll_payload`] or [`Connection::poll_transmit`] has
    /// something to do.
    /// `None`: it has ended.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        if self.ending {
            return self.receiver.next_delivery().or(Some(self.last_heard));
        }
        let idle = self.last_heard + self.agreement.peer_idle;
        let alive = self.last_said + KEEP_ALIVE;
        let busy = self.receiver.needs_ack() || self.sender.in_flight() > 0 || self.unconfirmed.is_some();
        let others = [
            busy.then_some(self.next_ack),
            self.receiver.next_report(self.report_interval()),
            self.receiver.next_delivery(),
            self.sender.next_release(),
        ];
        Some(others.into_iter().flatten().fold(idle.min(alive), Instant::min))
    }

    /// The next packet to be sent.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(body) = self.control.pop_front() {
            return Some(Transmit { header: None, body });
        }
        if self.closed.is_some() || self.ending {
            return None;
        }
        // A repeat that is on its way is not repeated; a margin, as the round trip varies.
        let again = self.rtt + self.rtt_variance;
        let (header, body) = self.sender.poll(now, self.agreement.peer_id, again)?;
        self.last_said = now;
        if self.sender.in_flight() == 1 {
            self.last_progress = now;
        }
        Some(Transmit { header: Some(header), body })
    }

    /// The next payload whose time has come.
    pub(crate) fn poll_payload(&mut self, now: Instant) -> Option<Bytes> {
        let payload = self.receiver.deliver(now);
        if payload.is_none() && self.ending && self.receiver.next_delivery().is_none() {
            self.closed = Some(CloseReason::Shutdown);
        }
        payload
    }

    /// Says goodbye; [`Connection::poll_transmit`] has the packet.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        if self.closed.is_none() {
            self.say(&Control::Shutdown, now);
            self.closed = Some(CloseReason::Shutdown);
        }
    }
}
