//! Groups of callers of a port (bonding): several connections of one peer that carry the same packets.
//!
//! A group exists as long as it has a member, and has at most [`MAX_MEMBERS`]. Its identifier comes from the peer, and so
//! counts within one source or output only; every member passes the admission of its own.

use super::{
    super::{MemberStats, listener::RouteId},
    connected_caller::ConnectedCaller,
};
use crate::{
    media::Packet,
    proto::srt::{
        BACKUP, BackupLeg, BackupMember, BackupSender, Connection, ConnectionStats, Delivered, GroupExtension, GroupId,
        GroupInput, GroupNumbers, Handshake, Rejection, Sequence, arrival_within,
    },
    random::Random,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Maximum number of members of a group.
pub(in crate::endpoint) const MAX_MEMBERS: usize = 8;

/// Interval at which the members of a main/backup group are judged.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Route of a group, and its identifier at the peer.
pub(super) type GroupKey = (RouteId, u32);

/// Callers of one group.
pub(super) struct Group {
    /// Our identifier, with which we answer.
    pub(super) id: GroupId,
    kind: u8,
    /// Start of the timestamps that we send to all members.
    pub(super) start: Instant,
    /// Socket ids of the members.
    pub(super) members: Vec<u32>,
    /// Receiving side, for a source.
    pub(super) input: GroupInput,
    /// Lost packets that are counted with the source.
    settled: u64,
    /// Numbers of the packets that are sent, for an output.
    pub(super) numbers: GroupNumbers,
    /// Sender of a main/backup group, for an output.
    backup: Option<BackupSender>,
    /// Time from which its members are to be judged again.
    next_check: Instant,
}

impl Group {
    /// Returns the packets that were lost since the last call: those that no member has brought in time.
    pub(super) fn take_lost(&mut self) -> u64 {
        self.input.lost - std::mem::replace(&mut self.settled, self.input.lost)
    }
}

/// Groups of a port.
#[derive(Default)]
pub(super) struct Groups(HashMap<GroupKey, Group>);

impl Groups {
    pub(super) fn get(&self, key: GroupKey) -> Option<&Group> {
        self.0.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        self.0.get_mut(&key)
    }

    /// Returns whether a caller asks to be one more member of a group of this route.
    pub(super) fn is_joined(&self, route: RouteId, request: &Handshake) -> Result<bool, Rejection> {
        let Some(asked) = request.extensions.group else { return Ok(false) };
        match self.0.get(&(route, asked.id)) {
            None => Ok(false),
            Some(group) if group.kind != asked.kind || !group.input.admits(request.initial_sequence) => {
                Err(Rejection::GROUP)
            }
            Some(group) if group.members.len() >= MAX_MEMBERS => Err(Rejection::BACKLOG),
            Some(_) => Ok(true),
        }
    }

    /// Returns the group of a caller, which is made if it is the first. `first` is the number of its first packet.
    pub(super) fn of_caller(
        &mut self,
        route: RouteId,
        asked: &GroupExtension,
        is_output: bool,
        first: Sequence,
        random: &Random,
        now: Instant,
    ) -> &mut Group {
        self.0.entry((route, asked.id)).or_insert_with(|| Group {
            id: GroupId::new(random.bytes()),
            kind: asked.kind,
            start: now,
            members: Vec::new(),
            input: GroupInput::default(),
            settled: 0,
            numbers: GroupNumbers::starting_at(first),
            backup: (is_output && asked.kind == BACKUP).then(BackupSender::default),
            next_check: now,
        })
    }

    /// Removes a member. Returns the group if it was the last one.
    pub(super) fn leave(&mut self, key: GroupKey, member: u32) -> Option<Group> {
        let group = self.0.get_mut(&key)?;
        group.members.retain(|other| *other != member);
        if group.members.is_empty() { self.0.remove(&key) } else { None }
    }

    /// Returns the next payload that a group delivers at `now`.
    pub(super) fn poll_delivery(
        &mut self,
        key: GroupKey,
        callers: &mut HashMap<u32, ConnectedCaller>,
        now: Instant,
    ) -> Option<Delivered> {
        let group = self.0.get_mut(&key)?;
        loop {
            let head = |callers: &HashMap<u32, ConnectedCaller>, id: &u32| {
                callers.get(id).and_then(|caller| caller.io.connection.head(now))
            };
            let heads = group.members.iter().filter_map(|id| Some((*id, head(callers, id)?)));
            let Some(id) = group.input.choose(heads) else { break };
            let Some(member) = callers.get_mut(&id).map(|caller| &mut caller.io.connection) else { break };
            let Some(head) = member.head(now) else { break };
            let delivered = group.input.take(head, member);
            group.skip_delivered(callers);
            if delivered.is_some() {
                return delivered.map(|(payload, due)| Delivered { payload, due });
            }
        }
        group.skip_delivered(callers);
        None
    }
}

impl Group {
    /// Returns the role of a new member, in a main/backup group that sends.
    pub(super) fn backup_member(&self, weight: u16) -> Option<BackupMember> {
        self.backup.as_ref().map(|_| BackupMember::new(weight))
    }

    /// Queues a packet on the members that send.
    pub(super) fn push(&mut self, packet: &Packet, callers: &mut HashMap<u32, ConnectedCaller>, now: Instant) {
        let payload = packet.data();
        let number = self.numbers.next();
        let queued = arrival_within(Duration::MAX, packet.arrival(), now);
        for id in &self.members {
            if let Some(caller) = callers.get_mut(id).filter(|caller| caller.carries_media()) {
                caller.io.connection.push_queued(payload, number, queued, now);
            }
        }
        if let Some(backup) = &mut self.backup {
            backup.keep(payload, number, queued);
        }
        self.numbers.advance(1);
    }

    /// Chooses the members that send, of a main/backup group.
    pub(super) fn attend(&mut self, callers: &mut HashMap<u32, ConnectedCaller>, now: Instant) {
        let Some(backup) = self.backup.as_mut().filter(|_| now >= self.next_check) else { return };
        self.next_check = now + CHECK_INTERVAL;
        // A port may have many callers, so that only the members are looked at. No connection has the id 0.
        let mut ids = [0; MAX_MEMBERS];
        for (place, id) in ids.iter_mut().zip(&self.members) {
            *place = *id;
        }
        let mut legs = Vec::with_capacity(self.members.len());
        for caller in callers.get_disjoint_mut(ids.each_ref()).into_iter().flatten() {
            let ConnectedCaller { io, backup, .. } = caller;
            if let Some(member) = backup.as_mut().filter(|_| io.connection.closed().is_none()) {
                legs.push(BackupLeg { member, connection: &mut io.connection });
            }
        }
        backup.attend(&mut legs, now);
    }

    fn skip_delivered(&self, callers: &mut HashMap<u32, ConnectedCaller>) {
        let mut clock = None;
        for id in &self.members {
            if let Some(caller) = callers.get_mut(id) {
                self.input.skip(&mut caller.io.connection, &mut clock);
            }
        }
    }

    /// Makes a connection a member.
    pub(super) fn join(&mut self, id: u32, connection: &mut Connection, callers: &HashMap<u32, ConnectedCaller>) {
        let first = self.members.first().and_then(|id| callers.get(id));
        self.input.join(connection, first.map(|caller| &caller.io.connection));
        // The group may send before the peer has the answer to its handshake.
        if first.is_some() {
            connection.leave_out_repairs();
        }
        self.members.push(id);
    }

    /// Returns the largest payload that all members take, in bytes.
    pub(super) fn max_payload(&self, callers: &HashMap<u32, ConnectedCaller>) -> usize {
        let of = |id: &u32| callers.get(id).map(|caller| caller.io.connection.max_payload());
        self.members.iter().filter_map(of).min().unwrap_or(usize::MAX)
    }
}

/// Returns the statistics of a member of a group.
pub(super) fn member_stats(
    address: String,
    connected_for: Option<Duration>,
    is_active: bool,
    stats: &ConnectionStats,
    is_source: bool,
) -> MemberStats {
    let ConnectionStats { sent, received, rtt, .. } = stats;
    let (packets, bytes, lost) = if is_source {
        (received.packets + received.redundant, received.bytes, received.missed)
    } else {
        (sent.packets, sent.bytes, sent.lost)
    };
    MemberStats {
        address,
        connected_for,
        is_active,
        packets,
        bytes,
        redundant: received.redundant,
        lost,
        retransmitted: sent.retransmitted,
        dropped: sent.dropped,
        round_trip: *rtt,
        recent_loss: 0,
    }
}
