//! A connection of a port: whose it is, and what is counted of it.

use super::{
    super::listener::PeerSlot,
    link::Link,
    route::{OpenRoute, RouteId, settle},
};
use crate::proto::srt::ConnectionStats;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How often the answer to a conclusion is repeated at most. Callers ask for it every 250 ms.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Linked {
    pub(super) link: Link,
    pub(super) peer: SocketAddr,
    /// The peer's own id, which names its handshake.
    pub(super) peer_id: u32,
    /// The answer to its conclusion, which it may ask for again.
    pub(super) answer: Vec<u8>,
    /// When it may have that again.
    pub(super) next_answer: Instant,
    pub(super) route: RouteId,
    pub(super) since: Instant,
    pub(super) scheduled: Option<Instant>,
    pub(super) settled: ConnectionStats,
    /// Its place among the connections of its address.
    pub(super) _slot: PeerSlot,
}

impl Linked {
    /// Adds what the connection has counted since the last time to the counters of its source or output.
    pub(super) fn settle(&mut self, open: &mut OpenRoute, now: Instant) {
        let stats = self.link.connection.stats();
        let before = std::mem::replace(&mut self.settled, stats);
        let dropped = settle(&open.route.status, &open.route.events, open.intake.is_some(), &stats, &before, now);
        open.dropped(dropped, now);
    }

    /// The answer to a conclusion that was repeated, with the time of now: the peer sets its clock by it. `None`: it
    /// was given a moment ago.
    pub(super) fn answer_again(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next_answer {
            return None;
        }
        self.next_answer = now + ANSWER_INTERVAL;
        let mut answer = self.answer.clone();
        if let Some(place) = answer.get_mut(8..12) {
            place.copy_from_slice(&self.link.connection.timestamp(now).to_be_bytes());
        }
        Some(answer)
    }

    /// When the answer that was given now may be repeated.
    pub(super) fn next_answer_after(now: Instant) -> Instant {
        now + ANSWER_INTERVAL
    }
}
