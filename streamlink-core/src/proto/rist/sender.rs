//! Sender: keeps what it has sent, and sends it again on request.

use super::{
    FIRST_ROUND_TRIP, MAX_ROUND_TRIP, REPORT_INTERVAL, REPORTS_PER_ECHO, RETRANSMISSION,
    rtcp::{self, Message},
    smoothed,
};
use crate::media::{Packet, rtp::Header};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of packets that are kept.
const MAX_KEPT: usize = 32_768;
/// Maximum number of packets that one RTCP packet may ask for.
const MAX_ASKED: usize = 1024;
/// Shortest time between two retransmissions of one packet.
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes of retransmissions that may be saved up. Beyond them, retransmissions take no more than the media itself, so that
/// forged requests cannot make a flood of it.
const MAX_BUDGET: u64 = 4 << 20;

/// Content of the receiver's RTCP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feedback {
    /// Packets to be sent again, as they are to be sent.
    pub(crate) repeats: Vec<Vec<u8>>,
    /// Number of packets that were asked for.
    pub(crate) asked: u64,
    /// Number of packets asked for for the first time.
    pub(crate) lost: u64,
    /// Number of packets that were asked for in vain: too old, or beyond the budget.
    pub(crate) denied: u64,
}

/// Sender of one stream.
#[derive(Debug)]
pub(crate) struct RistSender {
    latency: Duration,
    kept: VecDeque<Kept>,
    budget: u64,
    round_trip: Option<Duration>,
    epoch: Instant,
    /// Time of the epoch in NTP format (RFC 3550 section 4).
    ntp: u64,
    report: Instant,
    reports: u32,
    answers: Vec<Vec<u8>>,
    packets: u32,
    bytes: u32,
}

/// A packet that was sent.
#[derive(Debug)]
struct Kept {
    sequence: u16,
    sent: Instant,
    repeated: Option<Instant>,
    packet: Packet,
}

impl RistSender {
    /// Creates a sender that keeps packets for `latency`. `ntp`: time of day in NTP format.
    pub(crate) fn new(latency: Duration, ntp: u64, now: Instant) -> Self {
        Self {
            latency,
            kept: VecDeque::new(),
            budget: MAX_BUDGET,
            round_trip: None,
            epoch: now,
            ntp,
            report: now,
            reports: 0,
            answers: Vec::new(),
            packets: 0,
            bytes: 0,
        }
    }

    /// Returns the round trip, once it has been measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Keeps a packet that is sent.
    pub(crate) fn sent(&mut self, packet: &Packet, now: Instant) {
        let Ok(header) = Header::parse(packet.data()) else { return };
        let length = packet.data().len() as u64;
        self.budget = self.budget.saturating_add(length).min(MAX_BUDGET);
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length as u32); // modulo 2^32, as reports count
        let is_old = |kept: &Kept| now.saturating_duration_since(kept.sent) > self.latency;
        while self.kept.len() >= MAX_KEPT || self.kept.front().is_some_and(is_old) {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { sequence: header.sequence, sent: now, repeated: None, packet: packet.clone() });
    }

    /// Takes RTCP of the receiver.
    pub(crate) fn rtcp(&mut self, compound: &[u8], now: Instant) -> Feedback {
        let mut feedback = Feedback::default();
        for message in rtcp::messages(compound) {
            match message {
                Message::EchoRequest { time } if self.answers.len() < 4 => {
                    self.answers.push(rtcp::echo_response(self.ssrc(), time));
                }
                Message::EchoResponse { time, delay } => {
                    let sent = Duration::from_micros(u64::from_be_bytes(time));
                    let elapsed = now.saturating_duration_since(self.epoch).checked_sub(sent);
                    let trip = elapsed.and_then(|time| time.checked_sub(Duration::from_micros(delay.into())));
                    if let Some(trip) = trip.filter(|trip| *trip <= MAX_ROUND_TRIP) {
                        self.round_trip = Some(smoothed(self.round_trip, trip));
                    }
                }
                _ => {
                    let most = MAX_ASKED.saturating_sub(feedback.asked as usize);
                    for sequence in rtcp::requested(message, most) {
                        self.repeat(sequence, now, &mut feedback);
                    }
                }
            }
        }
        feedback
    }

    /// Sends a packet again, if there is one, and it was not sent again just now.
    fn repeat(&mut self, sequence: u16, now: Instant, feedback: &mut Feedback) {
        feedback.asked += 1;
        let interval = (self.round_trip.unwrap_or(FIRST_ROUND_TRIP) / 2).max(MIN_INTERVAL);
        let found = self.find(sequence).and_then(|at| self.kept.get_mut(at));
        let Some(kept) = found else {
            feedback.denied += 1;
            return;
        };
        if kept.repeated.is_none() {
            feedback.lost += 1;
        }
        if kept.repeated.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            return;
        }
        let mut bytes = kept.packet.data().to_vec();
        let Some(budget) = self.budget.checked_sub(bytes.len() as u64) else {
            feedback.denied += 1;
            return;
        };
        self.budget = budget;
        kept.repeated = Some(now);
        if let Some(byte) = bytes.get_mut(11) {
            *byte |= RETRANSMISSION as u8;
        }
        feedback.repeats.push(bytes);
    }

    /// Returns the place of a packet: by its number, as nearly all follow each other, or else by a search.
    fn find(&self, sequence: u16) -> Option<usize> {
        let newest = self.kept.back()?.sequence;
        let guess = self.kept.len().checked_sub(1 + usize::from(newest.wrapping_sub(sequence)));
        let is_it = |at: &usize| self.kept.get(*at).is_some_and(|kept| kept.sequence == sequence);
        guess.filter(is_it).or_else(|| self.kept.iter().rposition(|kept| kept.sequence == sequence))
    }

    /// SSRC of the stream.
    fn ssrc(&self) -> u32 {
        let header = self.kept.back().and_then(|kept| Header::parse(kept.packet.data()).ok());
        header.map_or(0, |header| header.ssrc & !RETRANSMISSION)
    }

    /// Returns the time of the next call of [`RistSender::poll`].
    pub(crate) fn next_timeout(&self) -> Instant {
        self.report
    }

    /// Returns the RTCP packets that are to be sent to the receiver now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let is_due = self.report <= now;
        if !is_due && self.answers.is_empty() {
            return Vec::new();
        }
        let elapsed = now.saturating_duration_since(self.epoch);
        // Seconds in the upper half, and their fraction in the lower.
        let fraction = (u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000;
        let ntp = self.ntp.wrapping_add(elapsed.as_secs() << 32).wrapping_add(fraction);
        let header = self.kept.back().and_then(|kept| Header::parse(kept.packet.data()).ok());
        let timestamp = header.map_or(0, |header| header.timestamp);
        let mut compound = rtcp::sender_report(self.ssrc(), ntp, timestamp, self.packets, self.bytes);
        for answer in self.answers.drain(..) {
            compound.extend(answer);
        }
        if is_due {
            self.report = now + REPORT_INTERVAL;
            if self.reports.is_multiple_of(REPORTS_PER_ECHO) {
                let time = u64::try_from(elapsed.as_micros()).unwrap_or(0);
                compound.extend(rtcp::echo_request(self.ssrc(), time));
            }
            self.reports = self.reports.wrapping_add(1);
        }
        vec![compound]
    }
}
