//! Player of a route: its counters, and the end of its connection.

use super::End;
use crate::{
    endpoint::{Event, LossReason, PlayerStats, Status},
    lock::lock,
    router::Totals,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// State of one player that its connection shares with the route.
#[derive(Debug)]
pub(in crate::endpoint) struct Player {
    pub(in crate::endpoint) peer: SocketAddr,
    since: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    /// Number of lost packets that the player has reported.
    lost: AtomicU64,
    /// Amounts that the counters of the output include already: sent, dropped, lost.
    settled: Mutex<(Totals, u64, u64)>,
    /// Ends the connection of the player.
    expelled: CancellationToken,
    /// Reason for the end: kicked, rather than no longer allowed.
    kicked: AtomicBool,
}

impl Player {
    pub(in crate::endpoint) fn new(peer: SocketAddr, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            peer,
            since: now,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            settled: Mutex::default(),
            expelled: CancellationToken::new(),
            kicked: AtomicBool::new(false),
        })
    }

    /// Returns the reason for which we have ended the connection.
    fn expulsion(&self) -> LossReason {
        if self.kicked.load(Relaxed) { LossReason::Kicked } else { LossReason::NoLongerAllowed }
    }

    /// Ends the connection, as one that is no longer allowed.
    pub(super) fn expel(&self) {
        self.expelled.cancel();
    }

    /// Ends the connection, as one that the host has kicked.
    pub(super) fn kick(&self) {
        self.kicked.store(true, Relaxed);
        self.expelled.cancel();
    }

    /// Waits until the player's connection is to end.
    pub(in crate::endpoint) async fn ended(&self, stop: &CancellationToken) -> End {
        tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = self.expelled.cancelled() => End::Lost(self.expulsion()),
        }
    }

    /// Adds to the amounts sent and dropped. Called only by the task of the player's connection.
    pub(in crate::endpoint) fn count(&self, sent: Totals, dropped: u64) {
        for (counter, more) in [(&self.packets, sent.packets), (&self.bytes, sent.bytes), (&self.dropped, dropped)] {
            if more > 0 {
                counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
            }
        }
    }

    /// Sets the total of lost packets that the player has reported. Called only by the task of the player's connection.
    pub(in crate::endpoint) fn reported(&self, lost: u64) {
        if lost > self.lost.load(Relaxed) {
            self.lost.store(lost, Relaxed);
        }
    }

    /// Adds the amounts since the last call to the counters of the output. Returns an event if packets were dropped.
    /// Not called concurrently for one output.
    #[must_use]
    pub(in crate::endpoint) fn settle(&self, status: &Status, now: Instant) -> Option<Event> {
        let sent = Totals { packets: self.packets.load(Relaxed), bytes: self.bytes.load(Relaxed) };
        let dropped = self.dropped.load(Relaxed);
        let mut settled = lock(&self.settled);
        let lost = self.lost.load(Relaxed);
        let (before, dropped_before, lost_before) = std::mem::replace(&mut *settled, (sent, dropped, lost));
        status.counters.lost.add(lost.saturating_sub(lost_before));
        status.counters.passed(now, sent.packets - before.packets, sent.bytes - before.bytes);
        status.counters.dropped.add(dropped - dropped_before);
        if dropped == dropped_before {
            return None;
        }
        Some(Event::OutputLagging { output: status.name(), dropped: status.counters.dropped.get() })
    }

    pub(in crate::endpoint) fn stats(&self, now: Instant) -> PlayerStats {
        PlayerStats {
            peer: self.peer,
            connected_for: now.saturating_duration_since(self.since),
            bytes: self.bytes.load(Relaxed),
            packets: self.packets.load(Relaxed),
            retransmitted: 0,
            lost: self.lost.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            round_trip: Duration::ZERO,
        }
    }
}
