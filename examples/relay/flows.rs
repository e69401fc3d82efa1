//! The flows of this process: started, changed by commands, and brought in line with the file when it is read again.

mod reload;

use crate::{
    Failure,
    arguments::{COMMANDS, Configured, split_output},
    screen::Screen,
};
use reload::Refusal;
use serde_json::{Map, Value};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};
use streamlink_core::{
    Allowlist, BandwidthPolicy, Bitrate, Engine, Flow, FlowHandle, Output, OutputEdit, Source, SourceEdit,
};
use tokio::task::JoinHandle;

/// Members of an endpoint that can change while it runs.
const EDITABLE: &[&str] = &["allow", "description", "max_players"];

/// A running flow.
struct RunningFlow {
    handle: FlowHandle,
    /// The flow as the file has it; endpoints that commands have changed are absent.
    written: Value,
    /// The flow as it runs, with generated stream keys.
    now: Value,
    /// Task that prints its events.
    events: JoinHandle<()>,
}

/// The flows of this process.
pub(crate) struct Flows {
    engine: Engine,
    screen: Screen,
    config: Option<PathBuf>,
    running: Vec<RunningFlow>,
}

impl Flows {
    pub(crate) fn new(engine: Engine, screen: Screen, config: Option<PathBuf>) -> Self {
        Self { engine, screen, config, running: Vec::new() }
    }

    pub(crate) fn stats(&self) -> Vec<streamlink_core::FlowStats> {
        self.engine.stats()
    }

    /// Starts a flow, and prints its addresses and its events.
    pub(crate) async fn start(&mut self, Configured { flow, written }: Configured) -> Result<(), Failure> {
        let now = value_of(&flow);
        let name = flow.name().to_owned();
        let handle = self.engine.start(flow).await?;
        let stats = handle.stats();
        for source in stats.sources {
            for address in source.url.iter().chain(&source.url_ipv4) {
                self.screen.line(&format!("{name}: input address: {address}"));
                if let Some((server, key)) = address.server_and_key() {
                    self.screen.line(&format!("{name}: input address, as server and stream key: {server} {key}"));
                }
            }
        }
        for output in stats.outputs {
            for url in output.url.iter().chain(&output.url_ipv4) {
                self.tell_playback(&name, &output.name, url);
            }
        }
        let mut events = handle.events();
        let screen = self.screen.clone();
        let events = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                screen.line(&format!("{name}: {event}"));
            }
        });
        self.running.push(RunningFlow { handle, written, now, events });
        Ok(())
    }

    fn tell_playback(&self, flow: &str, output: &str, url: &str) {
        self.screen.line(&format!("{flow}: playback URL of {output}: {url}"));
    }

    /// Stops all flows, once their last events are printed.
    pub(crate) async fn stop(&mut self) {
        for flow in std::mem::take(&mut self.running) {
            flow.stop().await;
        }
    }

    /// Carries out a command.
    pub(crate) async fn obey(&mut self, command: &str) -> Result<(), Failure> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match verb {
            "add" | "replace" => {
                let (name, url) = split_output(rest)?;
                let (at, name) = self.find(name)?;
                let output = Output::from_url(name, url);
                let flow = self.running.get_mut(at).ok_or("no flow runs")?;
                if verb == "add" {
                    flow.handle.add_output(output.clone()).await?;
                } else {
                    flow.handle.replace_output(name, output.clone()).await?;
                }
                flow.forget_written(name);
                flow.set_output(name, Some(output_value(name, &output)));
                let urls = flow.handle.playback_urls();
                let flow = flow.handle.name().to_owned();
                for (output, url) in urls.iter().filter(|(output, _)| output == name) {
                    self.tell_playback(&flow, output, url);
                }
            }
            "remove" => {
                let (at, name) = self.find(rest)?;
                let flow = self.running.get_mut(at).ok_or("no flow runs")?;
                flow.handle.remove_output(name).await?;
                flow.forget_written(name);
                flow.set_output(name, None);
            }
            "kick" => {
                let (name, peer) = rest.rsplit_once(' ').ok_or("kick NAME ADDRESS")?;
                let peer: SocketAddr = peer.parse().map_err(|_| "an address is of the form HOST:PORT")?;
                let (at, name) = self.find(name)?;
                self.running.get(at).ok_or("no flow runs")?.handle.kick_player(name, peer).await?;
            }
            "allow" => {
                let (at, rest) = self.find(rest)?;
                self.running.get_mut(at).ok_or("no flow runs")?.allow(rest)?;
            }
            "bandwidth" => {
                let (flow, rate) = rest.rsplit_once(' ').unwrap_or(("", rest));
                let rate: Bitrate = rate.parse()?;
                let flow = if flow.is_empty() { String::new() } else { format!("{flow}/") };
                let (at, _) = self.find(&flow)?;
                let flow = self.running.get_mut(at).ok_or("no flow runs")?;
                flow.handle.set_max_bandwidth(rate)?;
                flow.set("max_bandwidth", rate.to_string().into());
            }
            "reload" => self.reload().await?,
            _ => {
                let verbs: Vec<&str> = COMMANDS
                    .lines()
                    .filter(|line| line.starts_with("  "))
                    .filter_map(|l| l.split("  ").nth(1))
                    .collect();
                return Err(format!("commands: {}", verbs.join(", ")).into());
            }
        }
        Ok(())
    }

    /// Returns the flow that a command is about, and what stands behind its name. With several flows, that is
    /// `FLOW/NAME`.
    fn find<'a>(&self, text: &'a str) -> Result<(usize, &'a str), Failure> {
        let named = self.running.iter().enumerate().filter_map(|(at, flow)| {
            let rest = text.strip_prefix(flow.handle.name())?.strip_prefix('/')?;
            Some((at, rest))
        });
        match (named.min_by_key(|(_, rest)| rest.len()), self.running.len()) {
            (Some((at, rest)), _) => Ok((at, rest)),
            (None, 1) => Ok((0, text)),
            (None, 0) => Err("no flow runs".into()),
            (None, _) => Err("several flows run: the name is to be FLOW/NAME, and the rate follows the name".into()),
        }
    }
}

impl RunningFlow {
    async fn stop(self) {
        self.handle.stop().await;
        // Fails if the task has panicked, whose message is on the screen.
        let _ = self.events.await;
    }

    fn set(&mut self, member: &str, value: Value) {
        if let Value::Object(map) = &mut self.now {
            map.insert(member.to_owned(), value);
        }
    }

    /// Records an output as it runs, or that it is gone.
    fn set_output(&mut self, name: &str, value: Option<Value>) {
        let Some(list) = self.now.get_mut("outputs").and_then(Value::as_array_mut) else { return };
        list.retain(|output| name_of(output) != name);
        list.extend(value);
    }

    /// Records that an endpoint is not any more what the file has.
    fn forget_written(&mut self, name: &str) {
        for part in ["sources", "outputs"] {
            if let Some(list) = self.written.get_mut(part).and_then(Value::as_array_mut) {
                list.retain(|endpoint| name_of(endpoint) != name);
            }
        }
    }

    /// Changes the allowlist of the source or output whose name is at the start of `text`.
    fn allow(&mut self, text: &str) -> Result<(), Failure> {
        let names = ["sources", "outputs"].into_iter().flat_map(|part| {
            endpoints(&self.now, part).iter().map(move |endpoint| (part, name_of(endpoint).to_owned()))
        });
        let found = names.filter_map(|(part, name)| {
            let list = text.strip_prefix(name.as_str())?;
            (list.is_empty() || list.starts_with(' ')).then(|| (part, name.clone(), list.trim().to_owned()))
        });
        let Some((part, name, list)) = found.max_by_key(|(_, name, _)| name.len()) else {
            let name = text.split(' ').next().unwrap_or_default();
            // The library says that there is none of that name.
            self.handle.edit_source(name, SourceEdit::new())?;
            return Ok(());
        };
        let allow: Allowlist = list.parse()?;
        let shown = allow.to_string();
        if part == "sources" {
            self.handle.edit_source(&name, SourceEdit::new().allow(allow))?;
        } else {
            self.handle.edit_output(&name, OutputEdit::new().allow(allow))?;
        }
        if let Some(Value::Object(endpoint)) = endpoint_mut(&mut self.now, part, &name) {
            if shown.is_empty() {
                endpoint.remove("allow");
            } else {
                endpoint.insert("allow".into(), shown.into());
            }
        }
        Ok(())
    }

    /// Returns the flow of a file with the stream keys that were generated for its RTMP listeners when they started.
    fn with_generated_keys(&self, new: Configured) -> Result<Configured, Failure> {
        let mut value = value_of(&new.flow);
        for part in ["sources", "outputs"] {
            for written in endpoints(&new.written, part) {
                let name = name_of(written);
                let before = find_endpoint(&self.written, part, name);
                if !before.is_some_and(|before| asks_for_same_key(before, written)) {
                    continue;
                }
                let url = find_endpoint(&self.now, part, name).and_then(|now| now.get("url"));
                if let (Some(url), Some(Value::Object(endpoint))) = (url, endpoint_mut(&mut value, part, name)) {
                    endpoint.insert("url".into(), url.clone());
                }
            }
        }
        // No file names the second address of a source with failover.
        let is_made = |written: &Value, name: &str| find_endpoint(written, "sources", name).is_none();
        let sources: Vec<String> = endpoints(&value, "sources").iter().map(|s| name_of(s).to_owned()).collect();
        for name in sources.iter().filter(|name| is_made(&new.written, name) && is_made(&self.written, name)) {
            let before = find_endpoint(&self.now, "sources", name).and_then(|now| now.get("url"));
            if let (Some(before), Some(Value::Object(endpoint))) = (before, endpoint_mut(&mut value, "sources", name))
                && without_key(before) == endpoint.get("url").and_then(without_key)
            {
                endpoint.insert("url".into(), before.clone());
            }
        }
        Ok(Configured { flow: Flow::from_json(&value.to_string())?, written: new.written })
    }

    /// Returns a member that differs and cannot change while the flow runs.
    fn needs_restart(&self, flow: &Flow) -> Option<String> {
        let wanted = &value_of(flow);
        let members = ["coalesce", "entry_wait", "failover"];
        if let Some(member) = members.into_iter().find(|member| self.now.get(member) != wanted.get(member)) {
            return Some(member.to_owned());
        }
        let fixed = |flow: &Value| endpoints(flow, "sources").iter().map(without_editable).collect::<Vec<_>>();
        if fixed(&self.now) == fixed(wanted) {
            return None;
        }
        let now = self.handle.configuration_with_secrets();
        let is_edit =
            |(old, new): (&Source, &Source)| old.name() == new.name() && SourceEdit::between(old, new).is_some();
        let are_edits = now.sources().len() == flow.sources().len();
        let are_edits = are_edits && now.sources().iter().zip(flow.sources()).all(is_edit);
        (!are_edits).then(|| "sources".to_owned())
    }

    /// Removes the outputs that are not in the file any more.
    async fn remove_outputs(&mut self, wanted: &Flow, screen: &Screen, failures: &mut Vec<String>) {
        let stay: BTreeSet<&str> = wanted.outputs().iter().map(Output::name).collect();
        let all: Vec<String> = endpoints(&self.now, "outputs").iter().map(|o| name_of(o).to_owned()).collect();
        for name in all.iter().filter(|name| !stay.contains(name.as_str())) {
            match self.handle.remove_output(name).await {
                Ok(()) => {
                    screen.line(&format!("{}: output `{name}` removed", self.handle.name()));
                    self.set_output(name, None);
                }
                Err(error) => failures.push(format!("{}: output `{name}`: {error}", self.handle.name())),
            }
        }
    }

    /// Returns true for an output that is not disabled.
    fn is_enabled(&self, output: &str) -> bool {
        let now = find_endpoint(&self.now, "outputs", output);
        now.is_some_and(|output| output.get("enabled").and_then(Value::as_bool).unwrap_or(true))
    }

    /// Applies the differences of the flow and its sources that need no restart.
    fn change(&mut self, wanted: &Configured, screen: &Screen, failures: &mut Vec<String>) {
        let flow = self.handle.name().to_owned();
        let value = value_of(&wanted.flow);
        for member in ["max_bandwidth", "bandwidth_policy"] {
            if let Some(new) = value.get(member).filter(|new| self.now.get(member) != Some(*new)).cloned() {
                match self.change_bandwidth(member, &new) {
                    Ok(()) => {
                        screen.line(&format!("{flow}: `{member}` changed"));
                        self.set(member, new);
                    }
                    Err(error) => failures.push(format!("{flow}: {member}: {error}")),
                }
            }
        }
        for new in endpoints(&value, "sources") {
            let name = name_of(new);
            let old = endpoint_mut(&mut self.now, "sources", name).cloned().unwrap_or_default();
            if old == *new {
                continue;
            }
            let before = self.handle.configuration_with_secrets();
            let before = before.sources().iter().find(|source| source.name() == name);
            let after = wanted.flow.sources().iter().find(|source| source.name() == name);
            let edit = before.zip(after).and_then(|(before, after)| SourceEdit::between(before, after));
            let edit = edit.ok_or_else(|| Failure::from("it has to be started anew"));
            match edit.and_then(|edit| Ok(self.handle.edit_source(name, edit)?)) {
                Ok(_) => {
                    screen.line(&format!("{flow}: source `{name}` changed"));
                    if let Some(old) = endpoint_mut(&mut self.now, "sources", name) {
                        *old = new.clone();
                    }
                }
                Err(error) => failures.push(format!("{flow}: source `{name}`: {error}")),
            }
        }
        self.written = wanted.written.clone();
    }

    /// Adds and changes outputs.
    async fn change_outputs(&mut self, wanted: &Flow, screen: &Screen, refused: &mut Vec<Refusal>) {
        let flow = self.handle.name().to_owned();
        let value = value_of(wanted);
        for (output, new) in wanted.outputs().iter().zip(endpoints(&value, "outputs")) {
            let name = output.name();
            let old = endpoint_mut(&mut self.now, "outputs", name).cloned();
            if old.as_ref() == Some(new) {
                continue;
            }
            match self.change_output(old.is_none(), output).await {
                Ok(verb) => {
                    screen.line(&format!("{flow}: output `{name}` {verb}"));
                    self.set_output(name, Some(new.clone()));
                    if verb != "changed" {
                        for (_, url) in self.handle.playback_urls().iter().filter(|(output, _)| output == name) {
                            screen.line(&format!("{flow}: playback URL of {name}: {url}"));
                        }
                    }
                }
                Err(error) => refused.push(Refusal::new(&flow, Some(name), &error)),
            }
        }
    }

    fn change_bandwidth(&self, member: &str, new: &Value) -> Result<(), Failure> {
        let text = new.as_str().unwrap_or_default();
        if member == "max_bandwidth" {
            self.handle.set_max_bandwidth(text.parse()?)?;
            return Ok(());
        }
        let policy = BandwidthPolicy::ALL.iter().find(|policy| policy.name() == text).ok_or("an unknown policy")?;
        Ok(self.handle.set_bandwidth_policy(*policy)?)
    }

    /// Adds, edits or replaces an output, and returns which.
    async fn change_output(&self, is_new: bool, output: &Output) -> Result<&'static str, Failure> {
        if is_new {
            self.handle.add_output(output.clone()).await?;
            return Ok("added");
        }
        let before = self.handle.configuration_with_secrets();
        let before = before.outputs().iter().find(|before| before.name() == output.name());
        let Some(edit) = before.and_then(|before| OutputEdit::between(before, output)) else {
            self.handle.replace_output(output.name(), output.clone()).await?;
            return Ok("replaced");
        };
        self.handle.edit_output(output.name(), edit)?;
        Ok("changed")
    }
}

/// Returns a flow as JSON.
fn value_of(flow: &Flow) -> Value {
    serde_json::to_value(flow).unwrap_or_default()
}

/// Returns an output of a command as JSON. It is compared with that of the file, and never equal to it by accident.
fn output_value(name: &str, output: &Output) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), name.into());
    map.insert("url".into(), output.to_url().into());
    Value::Object(map)
}

/// Returns the sources or outputs of a flow.
fn endpoints<'a>(flow: &'a Value, part: &str) -> &'a [Value] {
    flow.get(part).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn find_endpoint<'a>(flow: &'a Value, part: &str, name: &str) -> Option<&'a Value> {
    endpoints(flow, part).iter().find(|endpoint| name_of(endpoint) == name)
}

/// Returns the address of an RTMP listener without its stream key.
fn without_key(url: &Value) -> Option<&str> {
    Some(url.as_str()?.rsplit_once('/')?.0)
}

/// Returns true if two endpoints, as a file has them, are one RTMP listener that leaves its stream key to be generated.
fn asks_for_same_key(before: &Value, now: &Value) -> bool {
    let old = text_of(before, "url");
    let new = text_of(now, "url");
    let base = |url: &str| url.split('?').next().unwrap_or_default().to_owned();
    let listens = |endpoint: &Value| {
        let url = text_of(endpoint, "url");
        let is_bare = url.contains("://:") || url.contains("://0.0.0.0") || url.contains("://[::]");
        is_bare || url.contains("mode=listener") || text_of(endpoint, "mode") == "listener"
    };
    let has_key = |endpoint: &Value| endpoint.get("key").is_some() || text_of(endpoint, "url").contains("key=");
    new.starts_with("rtmp") && base(old) == base(new) && [before, now].into_iter().all(|e| listens(e) && !has_key(e))
}

fn endpoint_mut<'a>(flow: &'a mut Value, part: &str, name: &str) -> Option<&'a mut Value> {
    flow.get_mut(part)?.as_array_mut()?.iter_mut().find(|endpoint| name_of(endpoint) == name)
}

fn name_of(endpoint: &Value) -> &str {
    endpoint.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn text_of<'a>(endpoint: &'a Value, member: &str) -> &'a str {
    endpoint.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// Returns an endpoint without the members that can change while it runs.
fn without_editable(endpoint: &Value) -> Value {
    let mut endpoint = endpoint.clone();
    if let Value::Object(map) = &mut endpoint {
        map.retain(|name, _| !EDITABLE.contains(&name.as_str()));
    }
    endpoint
}
