//! Groups of callers of a port (bonding): several connections of one peer that carry the same packets.
//!
//! A group exists as long as it has a member, and has at most [`MAX_MEMBERS`]. Its identifier comes from the peer, and so
//! counts within one source or output only; every member passes the admission of its own.

use super::{
    super::{MemberStats, listener::RouteId},
    connected_caller::ConnectedCaller,
};
use crate::{
    proto::srt::{
        Connection, ConnectionStats, Delivered, GroupExtension, GroupId, GroupInput, GroupNumbers, Handshake,
        Rejection, Sequence,
    },
    random::Random,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Maximum number of members of a group.
pub(in crate::endpoint) const MAX_MEMBERS: usize = 8;

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
    fn skip_delivered(&self, callers: &mut HashMap<u32, ConnectedCaller>) {
        for id in &self.members {
            if let Some(caller) = callers.get_mut(id) {
                self.input.skip(&mut caller.io.connection);
            }
        }
    }

    /// Makes a connection a member.
    pub(super) fn join(&mut self, id: u32, connection: &mut Connection, callers: &HashMap<u32, ConnectedCaller>) {
        let first = self.members.first().and_then(|id| callers.get(id));
        self.input.join(connection, first.map(|caller| &caller.io.connection));
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
        packets,
        bytes,
        redundant: received.redundant,
        lost,
        retransmitted: sent.retransmitted,
        dropped: sent.dropped,
        round_trip: *rtt,
    }
}
