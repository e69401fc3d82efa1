//! Groups of connections (bonding), as libsrt has them: every packet has the same number and the same time on each
//! connection of a group. The sender of a broadcast group sends each packet over all of them, and that of a main/backup
//! group over one ([`super::backup`]); the receiver delivers each number once, from whichever connection has it first.
//!
//! Retransmissions and acknowledgements stay matters of each connection.

use super::{
    backup::PROBATION,
    connection::Connection,
    handshake::{BACKUP, BROADCAST, GROUP_MARK, GroupExtension},
    peer_clock::PeerClock,
    receive::Head,
    sequence::Sequence,
};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Maximum distance of a new member's first packet from the next packet of its group: as many as a buffer holds.
const MAX_DISTANCE: u32 = 131_072;

/// Identifier of a group of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupId(u32);

impl GroupId {
    /// Creates an identifier from random bits.
    pub(crate) fn new(random: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(random) & (GROUP_MARK - 1) | GROUP_MARK)
    }

    /// Returns the extension of a member, with the type of the group.
    pub(crate) fn extension(self, kind: u8) -> GroupExtension {
        GroupExtension { id: self.0, kind, weight: 0 }
    }

    /// Returns the extension of a member of a broadcast group.
    pub(crate) fn broadcast(self) -> GroupExtension {
        self.extension(BROADCAST)
    }

    /// Returns the extension of a member of a main/backup group.
    pub(crate) fn backup(self, weight: u16) -> GroupExtension {
        GroupExtension { weight, ..self.extension(BACKUP) }
    }
}

/// Receiving side of a group.
#[derive(Debug, Default)]
pub(crate) struct GroupInput {
    /// Number after the last delivered packet.
    next: Option<Sequence>,
    /// Packets that no member has brought in time.
    pub(crate) lost: u64,
}

impl GroupInput {
    /// Returns whether a sender may join whose first packet has this number: one that is far away would make all others
    /// late.
    pub(crate) fn admits(&self, first: Sequence) -> bool {
        self.next.is_none_or(|next| next.distance(first).unsigned_abs() < MAX_DISTANCE)
    }

    /// Makes a connection a member. It delivers at the times of `first`, another member.
    pub(crate) fn join(&self, member: &mut Connection, first: Option<&Connection>) {
        member.receiver.join(first.map(|first| &first.receiver), self.next);
        if let Some(decoder) = &mut member.decoder {
            decoder.find_matrix();
        }
    }

    /// Chooses the member whose next packet comes first, once the packet of any member is due: what comes before that is
    /// due as well, though the member that has it may be later by a little.
    pub(crate) fn choose<K>(&self, heads: impl Iterator<Item = (K, Head)>) -> Option<K> {
        let mut is_due = false;
        let heads = heads.inspect(|(_, head)| is_due |= head.is_due);
        let first = heads.reduce(|best, other| if other.1.number.distance(best.1.number) > 0 { other } else { best });
        first.filter(|_| is_due).map(|(member, _)| member)
    }

    /// Takes the next packet of a member out, which is `head`. Returns it if it is to be delivered: no other member has
    /// brought it before.
    pub(crate) fn take(&mut self, head: Head, member: &mut Connection) -> Option<(Bytes, Instant)> {
        let payload = member.receiver.take_head();
        let gap = self.next.map_or(0, |next| next.distance(head.number));
        if gap < 0 {
            member.receiver.counts.redundant += 1;
            return None;
        }
        self.lost += u64::from(gap.unsigned_abs());
        self.next = Some(head.number.after(1));
        payload
    }

    /// Drops packets of a member that were delivered from another, and has it follow the clock of the first one. `clock`:
    /// that clock, which the first one gives.
    pub(crate) fn skip(&self, member: &mut Connection, clock: &mut Option<PeerClock>) {
        match clock {
            Some(clock) => member.receiver.follow(clock),
            None => *clock = Some(member.receiver.clock()),
        }
        if let Some(next) = self.next {
            member.receiver.skip_to(next);
        }
        member.end_if_delivered();
    }
}

/// Departure of a member that was removed from a group. The member stays until another one has carried the media for as
/// long as a packet takes to its delivery, so that no packet is on the way over the departing member alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    /// Time at which the member goes in any case.
    latest: Instant,
}

impl Departure {
    /// Begins a departure. `patience`: time that another member is given to connect.
    pub(crate) fn begin(member: &Connection, patience: Duration, now: Instant) -> Self {
        let wait = patience.saturating_add(time_to_prove(member) * 2);
        Self { latest: now.checked_add(wait).unwrap_or(now) }
    }

    /// Returns the time at which the member goes. `carrying`: times since which the members that stay have carried the
    /// media.
    pub(crate) fn due(&self, member: &Connection, carrying: impl Iterator<Item = Instant>) -> Instant {
        let proven = carrying.filter_map(|since| since.checked_add(time_to_prove(member)));
        proven.fold(self.latest, Instant::min)
    }
}

/// Returns the time for which another member has to carry the media before this one may go.
fn time_to_prove(member: &Connection) -> Duration {
    member.transit().max(PROBATION)
}

/// Numbers of the packets that a group sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupNumbers {
    next: Sequence,
    /// Set once a packet was sent.
    is_used: bool,
}

impl GroupNumbers {
    pub(crate) fn starting_at(first: Sequence) -> Self {
        Self { next: first, is_used: false }
    }

    /// Returns the number of the next packet.
    pub(crate) fn next(self) -> Sequence {
        self.next
    }

    /// Returns whether a packet was sent.
    pub(crate) fn is_used(self) -> bool {
        self.is_used
    }

    /// Passes over the numbers of packets that were pushed to all members.
    pub(crate) fn advance(&mut self, packets: usize) {
        self.next = self.next.after(packets as u32); // numbers wrap
        self.is_used = true;
    }
}

impl Connection {
    /// Returns the next packet to deliver, and whether it is due.
    pub(crate) fn head(&self, now: Instant) -> Option<Head> {
        self.receiver.head(now)
    }

    /// Sends no repair packets of a packet filter, as a member that joins while the group sends. libsrt counts the packets of
    /// such a member from the number that another member has received then, which its sender cannot know, and so would
    /// rebuild packets from the repair packets of other rows and columns.
    pub(crate) fn leave_out_repairs(&mut self) {
        self.sender.leave_out_repairs();
    }

    /// Counts a packet that no member of the group sends, because it is too long for one of them.
    pub(crate) fn leave_out(&mut self) {
        self.sender.counts.oversized += 1;
    }

    /// Queues a packet that has this number in the group, and has just arrived.
    #[cfg(test)]
    pub(crate) fn push_numbered(&mut self, payload: &Bytes, number: Sequence, now: Instant) {
        self.push_queued(payload, number, now, now);
    }

    /// Queues a packet that has this number in the group, and this time. A member that does not keep up gives up its oldest
    /// packets, as the numbers must go up without gaps.
    pub(crate) fn push_queued(&mut self, payload: &Bytes, number: Sequence, queued: Instant, now: Instant) {
        self.sender.start_at(number);
        if self.sender.next_sequence() != number {
            return; // from before the connection, whose numbers begin behind it
        }
        if !self.sender.has_room() {
            self.sender.drop_oldest();
        }
        self.push_at(payload, queued, now);
    }

    /// Stops sending media, which other members send, and tells the peer so by a keep-alive packet.
    pub(super) fn fall_silent(&mut self, now: Instant) {
        self.sender.clear();
        self.keep_alive(now);
    }
}
