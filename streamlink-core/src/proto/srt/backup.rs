//! Sender of a main/backup group (libsrt's type `backup`): the media goes over one member, and over the next one as soon
//! as that shows signs of trouble.
//!
//! - A member that is active and has not answered for its patience is unstable. The group goes on to send over it, and
//!   activates the heaviest member that stands by.
//! - A member that is activated gets the packets that no member has had acknowledged, with their original numbers and
//!   times, so that the receiver misses nothing that is still in time.
//! - When the heaviest member that is connected has been active and stable for [`PROBATION`], all others stand by. They
//!   send keep-alive packets only.
//! - A member that leaves the group counts as unstable, and as lighter than all that stay.

use super::{connection::Connection, sequence::Sequence};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Shortest time without an answer after which a member is unstable (libsrt's `SRTO_GROUPMINSTABLETIMEO`). A receiver
/// acknowledges every 10 ms.
const MIN_PATIENCE: Duration = Duration::from_millis(60);
/// Time for which a member is active and stable before it is trusted alone.
pub(super) const PROBATION: Duration = Duration::from_secs(1);
/// Maximum number of packets that are kept for a member that is activated.
const MAX_KEPT: usize = 131_072;

/// Role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Sends keep-alive packets only.
    Standby,
    /// Sends the media, and has been stable since this time. `None`: it is unstable.
    Active(Option<Instant>),
}

/// State of a member in the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackupMember {
    weight: u16,
    role: Role,
    /// Number that the peer has acknowledged, and the time since which it has not acknowledged more while packets wait.
    progress: Option<(Sequence, Instant)>,
    /// Set once the member is to leave the group.
    is_leaving: bool,
}

impl BackupMember {
    /// Creates a member that stands by. The heaviest member is used as long as it is stable.
    pub(crate) fn new(weight: u16) -> Self {
        Self { weight, role: Role::Standby, progress: None, is_leaving: false }
    }

    /// Changes the weight, and whether the member is to leave the group: it is used then only as long as no other can be.
    pub(crate) fn set(&mut self, weight: u16, is_leaving: bool) {
        self.weight = weight;
        self.is_leaving = is_leaving;
    }

    /// Returns the rank among the members, of which the highest is used.
    fn rank(&self) -> u32 {
        if self.is_leaving { 0 } else { u32::from(self.weight) + 1 }
    }

    /// Returns the time since which the member has sent the media and been stable.
    pub(crate) fn stable_since(&self) -> Option<Instant> {
        match self.role {
            Role::Active(since) => since,
            Role::Standby => None,
        }
    }

    /// Returns whether the member sends the media.
    pub(crate) fn is_active(&self) -> bool {
        self.role != Role::Standby
    }

    fn is_trusted(&self, now: Instant) -> bool {
        self.stable_since().is_some_and(|since| now.saturating_duration_since(since) >= PROBATION)
    }

    /// Follows the answers of the peer.
    fn observe(&mut self, connection: &Connection, now: Instant) {
        let Role::Active(stable_since) = self.role else {
            self.progress = None;
            return;
        };
        let acknowledged = connection.sender.acknowledged();
        let is_waiting = connection.sender.in_flight() > 0;
        match self.progress {
            Some((before, _)) if is_waiting && before == acknowledged => {}
            _ => self.progress = Some((acknowledged, now)),
        }
        let stalled = self.progress.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since));
        let silent = if is_waiting { connection.unheard_for(now).min(stalled) } else { Duration::ZERO };
        let (patience, most) = patience(connection);
        // A retransmission that is lost stalls the acknowledgements for a round trip or two, which is no silence.
        let is_unstable = silent >= patience || stalled >= most || self.is_leaving;
        self.role = Role::Active(if is_unstable { None } else { stable_since.or(Some(now)) });
    }
}

/// Returns the times without a packet of the peer, and without progress, after which a member is unstable. What waits for
/// them still arrives in time over another member.
fn patience(connection: &Connection) -> (Duration, Duration) {
    let stats = connection.stats();
    let most = (connection.send_latency() / 2).max(MIN_PATIENCE);
    ((stats.rtt * 2).clamp(MIN_PATIENCE, most), most)
}

/// A member with its connection.
pub(crate) struct BackupLeg<'a> {
    pub(crate) member: &'a mut BackupMember,
    pub(crate) connection: &'a mut Connection,
}

/// Packet that no member has had acknowledged yet.
#[derive(Debug)]
struct Kept {
    number: Sequence,
    payload: Bytes,
    queued: Instant,
}

/// Sending side of a main/backup group.
#[derive(Debug, Default)]
pub(crate) struct BackupSender {
    kept: VecDeque<Kept>,
}

impl BackupSender {
    /// Keeps a packet that was queued on the members that are active.
    pub(crate) fn keep(&mut self, payload: &Bytes, number: Sequence, now: Instant) {
        if self.kept.len() >= MAX_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { number, payload: payload.clone(), queued: now });
    }

    /// Judges the members, and activates or silences them. To be called about every 10 ms while packets wait for an answer,
    /// at which the timers of the members run then.
    pub(crate) fn attend(&mut self, legs: &mut [BackupLeg<'_>], now: Instant) {
        for leg in &mut *legs {
            leg.member.observe(leg.connection, now);
        }
        self.forget(legs, now);
        let stable = legs.iter().filter(|leg| leg.member.stable_since().is_some()).map(|leg| leg.member.rank()).max();
        let waiting = legs.iter_mut().filter(|leg| !leg.member.is_active());
        // The first of the heaviest. One that is heavier than the member in use is tried beside that.
        let heaviest = waiting.reduce(|best, leg| if leg.member.rank() > best.member.rank() { leg } else { best });
        if let Some(leg) = heaviest.filter(|leg| stable.is_none_or(|rank| leg.member.rank() > rank)) {
            self.activate(leg, now);
        }
        let trusted = legs.iter().enumerate().filter(|(_, leg)| leg.member.is_trusted(now));
        let best = trusted.reduce(|best, leg| if leg.1.member.rank() > best.1.member.rank() { leg } else { best });
        let Some((best, rank)) = best.map(|(at, leg)| (at, leg.member.rank())) else { return };
        for (at, leg) in legs.iter_mut().enumerate() {
            // A heavier one that is unstable, or on probation, goes on beside it.
            if at != best && leg.member.is_active() && leg.member.rank() <= rank {
                leg.member.role = Role::Standby;
                leg.connection.fall_silent(now);
            }
        }
    }

    /// Makes a member send, from the oldest packet that may still be missing on.
    fn activate(&mut self, leg: &mut BackupLeg<'_>, now: Instant) {
        leg.member.role = Role::Active(Some(now));
        for kept in &self.kept {
            leg.connection.push_queued(&kept.payload, kept.number, kept.queued, now);
        }
    }

    /// Drops the packets that one of the members has had acknowledged, or that are too late.
    fn forget(&mut self, legs: &[BackupLeg<'_>], now: Instant) {
        let active = legs.iter().filter(|leg| leg.member.is_active());
        let acknowledged = active.map(|leg| leg.connection.sender.acknowledged());
        let acknowledged = acknowledged.reduce(|one, other| if one.distance(other) > 0 { other } else { one });
        let latency = legs.iter().map(|leg| leg.connection.send_latency()).max().unwrap_or_default();
        let is_done = |kept: &Kept| {
            acknowledged.is_some_and(|number| kept.number.distance(number) > 0)
                || now.saturating_duration_since(kept.queued) > latency
        };
        while self.kept.front().is_some_and(is_done) {
            self.kept.pop_front();
        }
    }
}
