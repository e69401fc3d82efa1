//! Brings a running flow in line with its changed document, with as few reconnections as possible.

use crate::document::{Direction, endpoints, name_of};
use serde::Serialize;
use serde_json::{Map, Value};
use streamlink_core::{
    Allowlist, Applied, BandwidthPolicy, Error, Flow, FlowHandle, Output, OutputEdit, Source, SourceEdit,
};
use utoipa::ToSchema;

/// Way in which a change took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// The change is stored; the flow is stopped.
    Stored,
    /// In place: connections go on.
    InPlace,
    /// The changed endpoint alone reconnects.
    Reconnect,
    /// The flow was started.
    Started,
    /// The flow was stopped.
    Stopped,
    /// The flow was started anew: all its endpoints reconnect.
    Restart,
}

impl From<Applied> for Effect {
    fn from(applied: Applied) -> Self {
        match applied {
            Applied::InPlace => Self::InPlace,
            _ => Self::Reconnect,
        }
    }
}

/// Members of a flow that cannot change while it runs.
const FIXED: &[&str] = &["name", "coalesce", "entry_wait"];
/// Members of an endpoint that change without a reconnection.
const EDITABLE: &[&str] = &["name", "description", "allow", "max_players"];

/// Documents of a flow before and after a change, and the flow after it.
pub(crate) struct Difference<'a> {
    pub(crate) old: &'a Value,
    pub(crate) old_flow: &'a Flow,
    pub(crate) new: &'a Value,
    pub(crate) new_flow: &'a Flow,
}

impl Difference<'_> {
    /// Applies the difference to the running flow. Returns `None`, with nothing changed, if it needs a new start.
    pub(crate) async fn apply(&self, handle: &FlowHandle) -> Result<Option<Effect>, Error> {
        let differs = |member: &str| self.old.get(member) != self.new.get(member);
        if FIXED.iter().any(|member| differs(member)) || self.old_flow.family() != self.new_flow.family() {
            return Ok(None);
        }
        // A merge begins and ends, and backups become cold or hot, at a new start only.
        if differs("failover") && handle.set_failover(self.new_flow.failover()).is_err() {
            return Ok(None);
        }
        if differs("max_bandwidth") {
            handle.set_max_bandwidth(self.new_flow.max_bandwidth())?;
        }
        if differs("bandwidth_policy") {
            let name = self.new.get("bandwidth_policy").and_then(Value::as_str).unwrap_or_default();
            let policy = BandwidthPolicy::ALL.iter().find(|policy| policy.name() == name);
            handle.set_bandwidth_policy(policy.copied().unwrap_or_default())?;
        }
        let mut effect = Effect::InPlace;
        for direction in [Direction::Source, Direction::Output] {
            effect = effect.max(self.apply_endpoints(direction, handle).await?);
        }
        Ok(Some(effect))
    }

    async fn apply_endpoints(&self, direction: Direction, handle: &FlowHandle) -> Result<Effect, Error> {
        let old = endpoints(self.old, direction);
        let new = endpoints(self.new, direction);
        let mut effect = Effect::InPlace;
        if old.len() == new.len() {
            for (at, (before, after)) in old.iter().zip(new).enumerate() {
                if before != after {
                    effect = effect.max(self.edit(direction, handle, at, before, after).await?);
                }
            }
            return Ok(effect);
        }
        let is_in = |list: &[Value], name: &str| list.iter().any(|endpoint| name_of(endpoint) == name);
        for name in old.iter().map(name_of).filter(|name| !is_in(new, name)) {
            match direction {
                Direction::Source => handle.remove_source(name).await?,
                Direction::Output => handle.remove_output(name).await?,
            }
            effect = Effect::Reconnect;
        }
        for source in self.new_flow.sources().iter().filter(|_| direction == Direction::Source) {
            if !is_in(old, source.name()) {
                handle.add_source(source.clone()).await?;
                effect = Effect::Reconnect;
            }
        }
        for output in self.new_flow.outputs().iter().filter(|_| direction == Direction::Output) {
            if !is_in(old, output.name()) {
                handle.add_output(output.clone()).await?;
                effect = Effect::Reconnect;
            }
        }
        Ok(effect)
    }

    /// Changes one endpoint: in place, or by opening or closing its sockets, or as a whole.
    async fn edit(
        &self,
        direction: Direction,
        handle: &FlowHandle,
        at: usize,
        before: &Value,
        after: &Value,
    ) -> Result<Effect, Error> {
        let name = name_of(before);
        if without(before, &["enabled"]) == without(after, &["enabled"]) {
            let enabled = after.get("enabled").and_then(Value::as_bool).unwrap_or(true);
            let applied = match direction {
                Direction::Source => handle.set_source_enabled(name, enabled).await?,
                Direction::Output => handle.set_output_enabled(name, enabled).await?,
            };
            return Ok(applied.into());
        }
        match direction {
            Direction::Source => {
                // A source of a merge or with a limit of its own is opened anew for another limit.
                let limit = before.get("max_players") == after.get("max_players");
                if limit && without(before, EDITABLE) == without(after, EDITABLE) {
                    let edit = SourceEdit::new().rename(name_of(after)).description(text(after, "description"));
                    let edit = if changes(before, after, "allow") { edit.allow(allowlist(after)) } else { edit };
                    return Ok(handle.edit_source(name, edit)?.into());
                }
                let new: Option<&Source> = self.new_flow.sources().get(at);
                let old = self.old_flow.sources().get(at);
                // Members of a group come and go without a reconnection.
                if let Some(edit) = old.zip(new).and_then(|(old, new)| SourceEdit::between(old, new)) {
                    return Ok(handle.edit_source(name, edit)?.into());
                }
                if let Some(new) = new {
                    return Ok(handle.replace_source(name, new.clone()).await?.into());
                }
            }
            Direction::Output => {
                let limit =
                    after.get("max_players").and_then(Value::as_u64).and_then(|limit| u32::try_from(limit).ok());
                let keeps_limit = limit.is_some() || before.get("max_players") == after.get("max_players");
                if keeps_limit && without(before, EDITABLE) == without(after, EDITABLE) {
                    let edit = OutputEdit::new().rename(name_of(after)).description(text(after, "description"));
                    let edit = if changes(before, after, "allow") { edit.allow(allowlist(after)) } else { edit };
                    let limit = limit.filter(|_| changes(before, after, "max_players"));
                    let edit = limit.into_iter().fold(edit, |edit, limit| edit.max_players(limit));
                    return Ok(handle.edit_output(name, edit)?.into());
                }
                let new: Option<&Output> = self.new_flow.outputs().get(at);
                let old = self.old_flow.outputs().get(at);
                // Members of a group come and go without a reconnection.
                if let Some(edit) = old.zip(new).and_then(|(old, new)| OutputEdit::between(old, new)) {
                    return Ok(handle.edit_output(name, edit)?.into());
                }
                if let Some(new) = new {
                    handle.replace_output(name, new.clone()).await?;
                }
            }
        }
        Ok(Effect::Reconnect)
    }
}

fn changes(before: &Value, after: &Value, member: &str) -> bool {
    before.get(member) != after.get(member)
}

fn text<'a>(endpoint: &'a Value, member: &str) -> &'a str {
    endpoint.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the allowlist of an endpoint whose document was checked.
fn allowlist(endpoint: &Value) -> Allowlist {
    text(endpoint, "allow").parse().unwrap_or_default()
}

/// Returns an endpoint without some of its members.
fn without(endpoint: &Value, members: &[&str]) -> Map<String, Value> {
    let mut map = endpoint.as_object().cloned().unwrap_or_default();
    for member in members {
        map.remove(*member);
    }
    map
}
