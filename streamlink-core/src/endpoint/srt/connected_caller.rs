//! Caller that is connected to a port, with its route and its statistics.

use super::{
    super::listener::{ConnectionPlace, RouteId},
    connection_io::ConnectionIo,
    groups::GroupKey,
    route::{OpenRoute, settle},
};
use crate::proto::srt::{BackupMember, ConnectionStats, Sequence};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Minimum interval between two answers to a repeated conclusion. Callers repeat it every 250 ms.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct ConnectedCaller {
    pub(super) io: ConnectionIo,
    pub(super) peer: SocketAddr,
    /// Socket id of the peer, which identifies its handshake.
    pub(super) peer_id: u32,
    /// First sequence number of the peer, by which a new connection of a restarted peer is told from a repeated request.
    pub(super) initial_sequence: Sequence,
    /// Answer to the peer's conclusion, kept to be sent again on request.
    pub(super) answer: Vec<u8>,
    /// Time from which the answer may be sent again.
    pub(super) next_answer: Instant,
    pub(super) route: RouteId,
    /// Group of which it is a member.
    pub(super) group: Option<GroupKey>,
    /// Role in a main/backup group that we send to.
    pub(super) backup: Option<BackupMember>,
    pub(super) since: Instant,
    pub(super) scheduled: Option<Instant>,
    pub(super) settled: ConnectionStats,
    pub(super) _place: ConnectionPlace,
}

impl ConnectedCaller {
    /// Returns whether media is sent over the connection, which may stand by in its group.
    pub(super) fn carries_media(&self) -> bool {
        self.backup.is_none_or(|backup| backup.is_active())
    }

    /// Adds the statistics since the last call to the counters of the source or output.
    pub(super) fn settle(&mut self, open: &mut OpenRoute, now: Instant) {
        let stats = self.io.connection.stats();
        let before = std::mem::replace(&mut self.settled, stats);
        let unsent = settle(open.status(), open.events(), open.ingest.is_some(), &stats, &before, now);
        open.unsent(unsent, self.io.connection.max_payload(), now);
    }

    /// Returns the answer to a repeated conclusion, with the current timestamp, by which the peer sets its clock.
    /// `None` within [`ANSWER_INTERVAL`] of the last answer.
    pub(super) fn answer_again(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next_answer {
            return None;
        }
        self.next_answer = now + ANSWER_INTERVAL;
        let mut answer = self.answer.clone();
        if let Some(place) = answer.get_mut(8..12) {
            place.copy_from_slice(&self.io.connection.timestamp(now).to_be_bytes());
        }
        Some(answer)
    }

    /// Returns the time from which an answer sent at `now` may be repeated.
    pub(super) fn next_answer_after(now: Instant) -> Instant {
        now + ANSWER_INTERVAL
    }
}
