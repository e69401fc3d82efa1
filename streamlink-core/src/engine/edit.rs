//! Changes of a running flow's sources and outputs that need no reconnect.

use crate::flow::Allowlist;

/// Changes of an output that need no reconnect. What is not named stays as it is.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct OutputEdit {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) allow: Option<Allowlist>,
    pub(super) max_players: Option<u32>,
}

impl OutputEdit {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new name, unique within the flow.
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A new description.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// A new allowlist, of an output that listens; players that it does not admit are cut off.
    pub fn allow(mut self, list: Allowlist) -> Self {
        self.allow = Some(list);
        self
    }

    /// How many players may be connected, of an output that listens (1–1 000 000). Those that are stay.
    pub fn max_players(mut self, players: u32) -> Self {
        self.max_players = Some(players);
        self
    }
}

/// Changes of a source that need no reconnect. What is not named stays as it is.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SourceEdit {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) allow: Option<Allowlist>,
}

impl SourceEdit {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new name, unique within the flow.
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A new description.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// A new allowlist, of a source that listens; a sender that it does not admit is cut off.
    pub fn allow(mut self, list: Allowlist) -> Self {
        self.allow = Some(list);
        self
    }
}
