//! Members of a group that are added and removed while it runs. The connections of the others, and the numbers of the
//! group's packets, go on as they are.
//!
//! A removed member that is connected stays until another one has carried the media for the time that a packet takes to
//! its delivery ([`Departure`]). Then its peer is sent a shutdown packet. What a source has received over it by then is
//! delivered.

use super::{
    super::{Event, LossReason, backoff::Backoff},
    caller::{Direction, SrtClient},
    group_caller::GroupSession,
    group_members::{Member, MemberState, Up},
};
use crate::{
    flow::{GroupNode, GroupType},
    proto::srt::Departure,
};
use std::time::Instant;

impl SrtClient {
    /// Reports the members that were added and removed since the list was `before`, while there was no connection.
    pub(super) fn report_members(&self, before: Option<&[GroupNode]>) {
        let Some(before) = before else { return };
        let is_in = |list: &[GroupNode], node: &GroupNode| list.iter().any(|other| other.host == node.host);
        for node in self.members.list().iter().filter(|node| !is_in(before, node)) {
            self.events.emit(Event::MemberAdded { endpoint: self.status.name(), address: node.host.to_string() });
        }
        for node in before.iter().filter(|node| !is_in(self.members.list(), node)) {
            self.events.emit(Event::MemberRemoved { endpoint: self.status.name(), address: node.host.to_string() });
        }
    }
}

impl GroupSession {
    /// Returns a member that is called at `now`.
    pub(super) fn new_member(&mut self, node: &GroupNode, call: &SrtClient, now: Instant) -> Member {
        let key = self.next_key;
        self.next_key += 1;
        Member {
            key,
            host: node.host.clone(),
            weight: node.weight,
            backoff: Backoff::new(call.reconnect, call.random.clone()),
            attempts: 0,
            state: MemberState::Waiting(now),
            told: None,
            is_leaving: false,
        }
    }

    /// Adds the members that have come to the configuration, and begins the departure of those that have gone.
    pub(super) fn edit_members(&mut self, call: &SrtClient, now: Instant) {
        // The peer that sends to a main/backup group knows the weights from the handshakes.
        let is_source = matches!(call.direction, Direction::Receive(_));
        let is_called_anew = is_source && self.group_type == GroupType::Backup;
        let mut before = std::mem::take(&mut self.members);
        for node in call.members.list() {
            let is_same = |member: &Member| {
                member.host == node.host && (member.weight == node.weight || !is_called_anew) && !member.has_left()
            };
            let member = match before.iter().position(is_same) {
                Some(at) => {
                    let mut member = before.remove(at);
                    member.stay(node.weight);
                    member
                }
                None => {
                    let name = call.status.name();
                    log::info!("`{name}`: group member {} is added", node.host);
                    call.events.emit(Event::MemberAdded { endpoint: name, address: node.host.to_string() });
                    self.new_member(node, call, now)
                }
            };
            self.members.push(member);
        }
        for mut member in before {
            member.begin_departure(call, now);
            self.members.push(member);
        }
    }

    /// Returns the times since which the members that stay have carried the media.
    fn carrying(&self) -> impl Iterator<Item = Instant> {
        let staying = self.members.iter().filter(|member| !member.is_leaving);
        staying.filter_map(|member| match &member.state {
            MemberState::Up(up) if up.io.connection.closed().is_none() => match &up.backup {
                Some(backup) => backup.stable_since(),
                None => Some(up.since),
            },
            _ => None,
        })
    }

    /// Returns the time at which a member goes, if it is connected and leaves.
    fn departure_of(&self, member: &Member) -> Option<Instant> {
        let MemberState::Up(up) = &member.state else { return None };
        let departure = up.departure.filter(|_| !up.has_left)?;
        Some(departure.due(&up.io.connection, self.carrying()))
    }

    /// Returns the time of the next departure.
    pub(super) fn next_departure(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| self.departure_of(member)).min()
    }

    /// Shuts down the members whose departure is due.
    pub(super) fn let_depart(&mut self, call: &SrtClient, now: Instant) {
        let is_source = matches!(call.direction, Direction::Receive(_));
        for at in 0..self.members.len() {
            let is_due = |member: &Member| self.departure_of(member).is_some_and(|due| due <= now);
            if !self.members.get(at).is_some_and(is_due) {
                continue;
            }
            let Some(up) = self.members.get_mut(at).and_then(Member::up) else { continue };
            up.has_left = true;
            if is_source {
                up.io.connection.leave(now);
            } else {
                up.io.connection.shut_down(now);
            }
        }
    }

    /// Removes the members that have ended.
    pub(super) fn remove_gone(&mut self, call: &SrtClient, now: Instant) {
        let mut at = 0;
        let mut has_removed = false;
        while let Some(member) = self.members.get(at) {
            if !member.is_gone() {
                at += 1;
                continue;
            }
            self.settle_member(at, call, now);
            let member = self.members.remove(at);
            let name = call.status.name();
            log::info!("`{name}`: group member {} is removed", member.host);
            call.events.emit(Event::MemberRemoved { endpoint: name, address: member.host.to_string() });
            has_removed = true;
        }
        if !has_removed || !self.was_up {
            return;
        }
        let first = self.members.iter_mut().find_map(|member| member.up().map(|up| up.peer));
        call.status.set_peer(first);
        if first.is_none() {
            let reason = || LossReason::Unreachable("no other member of the group is connected".into());
            self.last_failure.get_or_insert_with(reason);
        }
    }
}

impl Member {
    /// Returns whether the connection was shut down because the member was removed.
    fn has_left(&self) -> bool {
        matches!(&self.state, MemberState::Up(up) if up.has_left)
    }

    /// Makes the member one that stays, with this weight.
    fn stay(&mut self, weight: u16) {
        self.weight = weight;
        self.is_leaving = false;
        if let Some(up) = self.up() {
            up.departure = None;
            up.set_role(weight, false);
        }
    }

    fn begin_departure(&mut self, call: &SrtClient, now: Instant) {
        if std::mem::replace(&mut self.is_leaving, true) {
            return;
        }
        let weight = self.weight;
        if let Some(up) = self.up() {
            up.departure = Some(Departure::begin(&up.io.connection, call.connect_timeout, now));
            up.set_role(weight, true);
        }
    }
}

impl Up {
    fn set_role(&mut self, weight: u16, is_leaving: bool) {
        if let Some(backup) = &mut self.backup {
            backup.set(weight, is_leaving);
        }
    }
}
