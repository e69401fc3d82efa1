//! Receiver: knows which packets are missing, and asks for them until they are too late.

use super::{
    FIRST_ROUND_TRIP, MAX_ROUND_TRIP, REPORT_INTERVAL, REPORTS_PER_ECHO, RETRANSMISSION,
    rtcp::{self, Message},
    smoothed,
};
use crate::{media::rtp::Header, proto::rtp::Reception};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Maximum number of missing packets that are asked for.
const MAX_MISSING: usize = 4096;
/// Maximum number of packets that one request asks for.
const MAX_ASKED: usize = 256;
/// Packets that may be asked for in the beginning, for each packet that has come, and at most. A forged packet thus makes
/// few requests, which may go to a forged address.
const FIRST_CREDIT: usize = 64;
const CREDIT: usize = 4;
const MAX_CREDIT: usize = 4096;
/// Time without media after which nothing is reported.
const SILENCE: Duration = Duration::from_secs(5);
/// Largest step of the sequence that is no restart of the stream.
const MAX_STEP: i16 = 3000;
/// Time for which a packet may be late because others have overtaken it.
const REORDERED: Duration = Duration::from_millis(10);
/// Shortest time between two requests for one packet.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two looks at the missing packets.
const TICK: Duration = Duration::from_millis(5);
/// Extended sequence numbers begin well above zero.
const FIRST: u64 = 1 << 32;

/// Receiver of one stream.
#[derive(Debug)]
pub(crate) struct RistReceiver {
    /// Our SSRC in reports.
    own: u32,
    /// Time after which a missing packet is given up.
    latency: Duration,
    stream: Option<Stream>,
    missing: BTreeMap<u64, Missing>,
    reception: Reception,
    round_trip: Option<Duration>,
    /// Time of the first packet, from which echoes count.
    epoch: Instant,
    /// Next report; none before the sender has been heard.
    report: Option<Instant>,
    reports: u32,
    /// Next look at the missing packets.
    tick: Option<Instant>,
    answers: Vec<Vec<u8>>,
    retransmitted: u64,
    /// Number of packets that may be asked for.
    credit: usize,
    last_media: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    ssrc: u32,
    /// Next extended sequence number.
    next: u64,
}

/// A missing packet.
#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Instant,
    /// Next request for it.
    due: Instant,
}

impl RistReceiver {
    /// Creates a receiver with an SSRC of its own.
    pub(crate) fn new(own: u32, latency: Duration, now: Instant) -> Self {
        Self {
            own,
            latency,
            stream: None,
            missing: BTreeMap::new(),
            reception: Reception::new(90_000),
            round_trip: None,
            epoch: now,
            report: None,
            reports: 0,
            tick: None,
            answers: Vec::new(),
            retransmitted: 0,
            credit: FIRST_CREDIT,
            last_media: None,
        }
    }

    /// Returns the round trip, once it has been measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Returns the number of packets that came as retransmissions.
    pub(crate) fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// Takes a packet of the media into account. Returns the SSRC of its stream if the packet is a retransmission, which
    /// is to be put in its place there.
    pub(crate) fn media(&mut self, header: &Header, now: Instant) -> Option<u32> {
        self.credit = (self.credit + CREDIT).min(MAX_CREDIT);
        self.last_media = Some(now);
        let ssrc = header.ssrc & !RETRANSMISSION;
        let is_repeat = header.ssrc & RETRANSMISSION != 0;
        if is_repeat {
            self.retransmitted = self.retransmitted.saturating_add(1);
        } else {
            self.reception.packet(header, now);
        }
        self.follow(ssrc, header.sequence, is_repeat, now);
        is_repeat.then_some(ssrc)
    }

    fn follow(&mut self, ssrc: u32, sequence: u16, is_repeat: bool, now: Instant) {
        let step = |stream: &Stream| sequence.wrapping_sub(stream.next as u16) as i16; // modulo 2^16
        let known = self.stream.filter(|stream| stream.ssrc == ssrc && step(stream).abs() <= MAX_STEP);
        let Some(stream) = known else {
            if !is_repeat {
                self.missing.clear();
                self.stream = Some(Stream { ssrc, next: FIRST + u64::from(sequence) + 1 });
            }
            return;
        };
        let Some(number) = stream.next.checked_add_signed(step(&stream).into()) else { return };
        if number < stream.next || is_repeat {
            self.missing.remove(&number);
            return;
        }
        for number in stream.next..number {
            self.missing.insert(number, Missing { since: now, due: now + REORDERED });
        }
        while self.missing.len() > MAX_MISSING {
            self.missing.pop_first();
        }
        if !self.missing.is_empty() {
            self.tick.get_or_insert(now + REORDERED);
        }
        self.stream = Some(Stream { next: number + 1, ..stream });
    }

    /// Takes RTCP of the sender.
    pub(crate) fn rtcp(&mut self, compound: &[u8], now: Instant) {
        if !self.is_live(now) {
            return;
        }
        self.reception.heard(compound, now);
        self.report.get_or_insert(now);
        for message in rtcp::messages(compound) {
            match message {
                Message::EchoRequest { time } if self.answers.len() < 4 => {
                    let ssrc = self.stream.map_or(0, |stream| stream.ssrc);
                    self.answers.push(rtcp::echo_response(ssrc, time));
                }
                Message::EchoResponse { time, delay } => {
                    let sent = Duration::from_micros(u64::from_be_bytes(time));
                    let elapsed = now.saturating_duration_since(self.epoch).checked_sub(sent);
                    let trip = elapsed.and_then(|time| time.checked_sub(Duration::from_micros(delay.into())));
                    if let Some(trip) = trip.filter(|trip| *trip <= MAX_ROUND_TRIP) {
                        self.round_trip = Some(smoothed(self.round_trip, trip));
                    }
                }
                _ => {}
            }
        }
    }

    fn is_live(&self, now: Instant) -> bool {
        self.last_media.is_some_and(|last| now.saturating_duration_since(last) < SILENCE)
    }

    /// Returns the time of the next call of [`RistReceiver::poll`].
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.report.into_iter().chain(self.tick).min()
    }

    /// Returns the RTCP packets that are to be sent to the sender now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = std::mem::take(&mut self.answers);
        if !self.is_live(now) {
            self.report = None;
            self.tick = None;
            return Vec::new();
        }
        let is_due = self.report.is_some_and(|at| at <= now);
        let asked = self.requests(now);
        // Every packet is a compound that begins with a report (RFC 3550 section 6.1).
        if is_due || !asked.is_empty() || !out.is_empty() {
            let mut compound = self.reception.report(self.own, now);
            if is_due {
                self.report = Some(now + REPORT_INTERVAL);
                if self.reports.is_multiple_of(REPORTS_PER_ECHO) {
                    let time = now.saturating_duration_since(self.epoch).as_micros();
                    let ssrc = self.stream.map_or(0, |stream| stream.ssrc);
                    out.push(rtcp::echo_request(ssrc, u64::try_from(time).unwrap_or(0)));
                }
                self.reports = self.reports.wrapping_add(1);
            }
            for packet in out.drain(..) {
                compound.extend(packet);
            }
            compound.extend(asked);
            out.push(compound);
        }
        out
    }

    /// Returns the request for the packets that are missing and due.
    fn requests(&mut self, now: Instant) -> Vec<u8> {
        let Some(stream) = self.stream.filter(|_| self.tick.is_some_and(|at| at <= now)) else { return Vec::new() };
        let latency = self.latency;
        self.missing.retain(|_, missing| now.saturating_duration_since(missing.since) < latency);
        self.tick = (!self.missing.is_empty()).then(|| now + TICK);
        // Without the sender's port there is nobody to ask.
        if self.report.is_none() {
            return Vec::new();
        }
        let interval = self.round_trip.unwrap_or(FIRST_ROUND_TRIP).mul_f32(1.2).max(MIN_INTERVAL);
        let most = MAX_ASKED.min(self.credit);
        let due = self.missing.iter_mut().filter(|(_, missing)| missing.due <= now).take(most);
        let numbers: Vec<u16> = due
            .map(|(number, missing)| {
                missing.due = now + interval;
                *number as u16 // modulo 2^16
            })
            .collect();
        self.credit -= numbers.len(); // at most as many
        if numbers.is_empty() { Vec::new() } else { rtcp::request(self.own, stream.ssrc, &numbers) }
    }

    /// Forgets the stream, which has ended.
    pub(crate) fn reset(&mut self) {
        self.stream = None;
        self.missing.clear();
        self.reception = Reception::new(90_000);
        self.report = None;
        self.tick = None;
        self.round_trip = None;
        self.last_media = None;
        self.credit = FIRST_CREDIT;
    }
}
