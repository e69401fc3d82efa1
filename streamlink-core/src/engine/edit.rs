//! Changes of a running flow's sources and outputs that need no reconnection.

use super::running::{Running, config, not_found};
use crate::{
    error::{ConfigErrorKind, Error},
    flow::{Allowlist, GroupNode, MemberEdit, Name, Output, Source, check_description},
};
use std::sync::Arc;

/// Range of the maximum number of players of an output.
const MAX_PLAYERS: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// Way in which a change of a running flow was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Applied {
    /// In place: connections go on.
    InPlace,
    /// The changed endpoint alone closes its sockets, or opens them; its peers connect again. No other endpoint is
    /// affected.
    Reconnect,
}

/// Changes of an output that need no reconnection. Settings that are not named stay as they are.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct OutputEdit {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) allow: Option<Allowlist>,
    pub(super) max_players: Option<u32>,
    pub(super) members: Vec<MemberEdit>,
}

impl OutputEdit {
    /// Creates an edit without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the edit that makes one output of another: of its name, its description, its allowlist, its maximum number
    /// of players and the members of its group. `None` if anything else differs, so that the output has to be replaced.
    pub fn between(from: &Output, to: &Output) -> Option<Self> {
        let mut edit = Self::new();
        let mut before = from.clone();
        let mut after = to.clone();
        if before.name() != after.name() {
            edit = edit.rename(after.name());
        }
        if before.common.description != after.common.description {
            edit = edit.description(after.common.description.clone().unwrap_or_default());
        }
        before.common.name.clone_from(&after.common.name);
        before.common.description.clone_from(&after.common.description);
        if let (Some(old), Some(new)) = (before.listen_mut(), after.listen_mut()) {
            if old.allow != new.allow {
                edit = edit.allow(new.allow.clone());
                old.allow = new.allow.clone();
            }
            if old.max_peers != new.max_peers {
                edit = edit.max_players(new.max_peers?); // the default is none that could be set
                old.max_peers = new.max_peers;
            }
        }
        let members = member_texts(&after.members());
        if !members.is_empty() {
            if member_texts(&before.members()) != members {
                edit = edit.members(members.clone());
            }
            // The same members may be written in more than one way.
            let same = [MemberEdit::Set(members)];
            before.edit_members(&same).ok()?;
            after.edit_members(&same).ok()?;
        }
        let is_same = before.common.enabled == after.common.enabled
            && before.common.region == after.common.region
            && before.to_url() == after.to_url();
        is_same.then_some(edit)
    }

    /// Sets a new name, unique within the flow.
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets a new description.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Sets the allowlist of an output that listens. Connected players that it does not admit are disconnected.
    pub fn allow(mut self, list: Allowlist) -> Self {
        self.allow = Some(list);
        self
    }

    /// Sets the maximum number of players of an output that listens (1–1 000 000). Connected players stay.
    pub fn max_players(mut self, players: u32) -> Self {
        self.max_players = Some(players);
        self
    }

    /// Sets all members of a group of connections (bonding): addresses as in [`OutputEdit::add_member`], 1 to 8 of them.
    /// Members that were there before, by host and port, go on undisturbed; see [`OutputEdit::remove_member`] for the others.
    pub fn members(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.members.push(MemberEdit::Set(addresses.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds a member to a group of connections (bonding): `host:port`, or `host:port?weight=50` for a group of the type
    /// backup. The other members go on undisturbed.
    pub fn add_member(mut self, address: impl Into<String>) -> Self {
        self.members.push(MemberEdit::Add(address.into()));
        self
    }

    /// Removes a member, by its host and port, from a group of connections (bonding). The last one stays. A member that
    /// is connected is shut down as soon as another one has carried the media for the latency, and at least a second, so
    /// that nothing is lost; where no other connects within the connect timeout, soon after that.
    pub fn remove_member(mut self, address: impl Into<String>) -> Self {
        self.members.push(MemberEdit::Remove(address.into()));
        self
    }
}

/// Changes of a source that need no reconnection. Settings that are not named stay as they are.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SourceEdit {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) allow: Option<Allowlist>,
    pub(super) members: Vec<MemberEdit>,
}

impl SourceEdit {
    /// Creates an edit without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the edit that makes one source of another: of its name, its description, its allowlist and the members of
    /// its group. `None` if anything else differs, so that the source has to be replaced.
    pub fn between(from: &Source, to: &Source) -> Option<Self> {
        let mut edit = Self::new();
        let mut before = from.clone();
        let mut after = to.clone();
        if before.name() != after.name() {
            edit = edit.rename(after.name());
        }
        if before.common.description != after.common.description {
            edit = edit.description(after.common.description.clone().unwrap_or_default());
        }
        before.common.name.clone_from(&after.common.name);
        before.common.description.clone_from(&after.common.description);
        if let (Some(old), Some(new)) = (before.allow_mut(), after.allow_mut())
            && *old != *new
        {
            edit = edit.allow(new.clone());
            *old = new.clone();
        }
        let members = member_texts(&after.members());
        if !members.is_empty() {
            if member_texts(&before.members()) != members {
                edit = edit.members(members.clone());
            }
            // The same members may be written in more than one way.
            let same = [MemberEdit::Set(members)];
            before.edit_members(&same).ok()?;
            after.edit_members(&same).ok()?;
        }
        let is_same = before.common.enabled == after.common.enabled && before.to_url() == after.to_url();
        is_same.then_some(edit)
    }

    /// Sets a new name, unique within the flow.
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets a new description.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Sets the allowlist of a source that listens. A connected sender that it does not admit is disconnected.
    pub fn allow(mut self, list: Allowlist) -> Self {
        self.allow = Some(list);
        self
    }

    /// Sets all members of a group of connections (bonding): addresses as in [`SourceEdit::add_member`], 1 to 8 of them.
    /// Members that were there before, by host and port, go on undisturbed; see [`SourceEdit::remove_member`] for the others.
    pub fn members(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.members.push(MemberEdit::Set(addresses.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds a member to a group of connections (bonding): `host:port`, or `host:port?weight=50` for a group of the type
    /// backup. The other members go on undisturbed.
    pub fn add_member(mut self, address: impl Into<String>) -> Self {
        self.members.push(MemberEdit::Add(address.into()));
        self
    }

    /// Removes a member, by its host and port, from a group of connections (bonding). The last one stays. A member that
    /// is connected is shut down as soon as another one has carried the media for the latency, and at least a second, so
    /// that nothing is lost; where no other connects within the connect timeout, soon after that.
    pub fn remove_member(mut self, address: impl Into<String>) -> Self {
        self.members.push(MemberEdit::Remove(address.into()));
        self
    }
}

impl Running {
    /// Edits an output.
    pub(super) fn edit_output(&self, name: &str, edit: OutputEdit) -> Result<Applied, Error> {
        self.alive()?;
        check_text(edit.description.as_deref())?;
        if let Some(players) = edit.max_players.filter(|players| !MAX_PLAYERS.contains(players)) {
            return Err(config("max_players", ConfigErrorKind::out_of_range(players, "1 to 1000000 peers")));
        }
        let mut outputs = self.outputs();
        let place = outputs.iter().position(|o| o.status.is_named(name));
        let place = place.ok_or_else(|| not_found("output", name))?;
        if let Some(new) = &edit.name {
            Name::new(new).map_err(|problem| config("name", problem))?;
            self.check_free(&outputs, new, Some(&outputs[place].status))?;
        }
        let output = &mut outputs[place];
        let mut edited = output.output.clone();
        let members = edit_members(&edit.members, |edits| edited.edit_members(edits))?;
        if edit.allow.is_some() || edit.max_players.is_some() {
            let field = if edit.allow.is_some() { "allow" } else { "max_players" };
            let listen = output.output.listen_mut().ok_or_else(|| config(field, ConfigErrorKind::UnknownField))?;
            // No step can fail from here on.
            listen.allow = edit.allow.unwrap_or_else(|| listen.allow.clone());
            listen.max_peers = edit.max_players.or(listen.max_peers);
            let allow = listen.allow.clone();
            let max_peers = listen.max_peers;
            output.edit_listener(allow, max_peers);
        }
        if let Some(members) = members {
            output.output = edited;
            output.set_members(members);
        }
        output.status.edit(edit.name.as_deref(), edit.description);
        output.edit_remote();
        Ok(Applied::InPlace)
    }

    /// Edits a source.
    pub(super) fn edit_source(&self, name: &str, edit: SourceEdit) -> Result<Applied, Error> {
        self.alive()?;
        check_text(edit.description.as_deref())?;
        // Names are unique among sources and outputs, so the lock of the outputs protects both.
        let outputs = self.outputs();
        let found = self
            .sources()
            .iter()
            .find(|s| s.status.is_named(name))
            .map(|s| (s.status.clone(), s.live.clone(), s.source.clone()));
        let (status, live, mut source) = found.ok_or_else(|| not_found("source", name))?;
        if edit.allow.is_some() && source.allow_mut().is_none() {
            return Err(config("allow", ConfigErrorKind::UnknownField));
        }
        let members = edit_members(&edit.members, |edits| source.edit_members(edits))?;
        if let Some(new) = &edit.name {
            Name::new(new).map_err(|problem| config("name", problem))?;
            self.check_free(&outputs, new, Some(&status))?;
        }
        status.edit(edit.name.as_deref(), edit.description);
        if let Some(members) = members {
            if let Some(running) = self.sources().iter_mut().find(|s| Arc::ptr_eq(&s.status, &status)) {
                running.source = source;
            }
            live.send_modify(|live| live.members = members);
        }
        drop(outputs);
        if let Some(allow) = edit.allow {
            live.send_modify(|live| live.allow = allow);
        }
        Ok(Applied::InPlace)
    }
}

fn check_text(description: Option<&str>) -> Result<(), Error> {
    description.map_or(Ok(()), |text| check_description(text).map_err(|problem| config("description", problem)))
}

/// Applies the changes of a group's members, if there are any. Returns its members then.
fn edit_members(
    edits: &[MemberEdit],
    apply: impl FnOnce(&[MemberEdit]) -> Result<Vec<GroupNode>, ConfigErrorKind>,
) -> Result<Option<Vec<GroupNode>>, Error> {
    if edits.is_empty() {
        return Ok(None);
    }
    apply(edits).map(Some).map_err(|problem| config("members", problem))
}

/// Returns the members of a group as an edit names them.
fn member_texts(members: &[GroupNode]) -> Vec<String> {
    members.iter().map(ToString::to_string).collect()
}
