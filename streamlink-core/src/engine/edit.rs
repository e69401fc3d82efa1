//! Changes of a running flow's sources and outputs that need no reconnection.

use super::running::{Running, config, not_found};
use crate::{
    error::{ConfigErrorKind, Error},
    flow::{Allowlist, Name, check_description},
};

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
}

impl OutputEdit {
    /// Creates an edit without changes.
    pub fn new() -> Self {
        Self::default()
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
}

/// Changes of a source that need no reconnection. Settings that are not named stay as they are.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SourceEdit {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) allow: Option<Allowlist>,
}

impl SourceEdit {
    /// Creates an edit without changes.
    pub fn new() -> Self {
        Self::default()
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
        let found = self.sources().iter().find(|s| s.status.is_named(name)).map(|s| {
            let listens = s.source.clone().allow_mut().is_some();
            (s.status.clone(), s.live.clone(), listens)
        });
        let (status, live, listens) = found.ok_or_else(|| not_found("source", name))?;
        if edit.allow.is_some() && !listens {
            return Err(config("allow", ConfigErrorKind::UnknownField));
        }
        if let Some(new) = &edit.name {
            Name::new(new).map_err(|problem| config("name", problem))?;
            self.check_free(&outputs, new, Some(&status))?;
        }
        status.edit(edit.name.as_deref(), edit.description);
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
