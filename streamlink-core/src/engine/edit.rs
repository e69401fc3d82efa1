//! Changes of a running flow's sources and outputs that need no reconnection.

use crate::flow::Allowlist;

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
