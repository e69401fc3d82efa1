//! Flows as JSON, or in any other format of serde.
//!
//! ```json
//! {
//!   "name": "match-day",
//!   "max_bandwidth": "20M",
//!   "sources": [ { "name": "venue", "url": "srt://:9000?mode=listener", "latency": 200 } ],
//!   "outputs": [ { "name": "partner", "url": "srt://:9001", "max_players": 4, "allow": "203.3.3.3/28" } ]
//! }
//! ```
//!
//! Settings are given in the query of the URL, or as members beside it under the same names. A member that is given twice,
//! and a setting that the URL gives another value than the member, are refused.

mod node;
mod positions;

use super::{
    bandwidth_policy::BandwidthPolicy,
    bitrate::Bitrate,
    build::{Flow, FlowDraft},
    builder::Common,
    claim::Claim,
    configuration::{EndpointConfiguration, FlowConfiguration},
    failover::{Failover, FailoverPolicy},
    output::Output,
    setting::{SettingScope, unknown},
    source::Source,
    url,
};
use crate::{
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    secret::Secret,
};
use node::Node;
use positions::Positions;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

impl Flow {
    /// Reads a flow from JSON.
    ///
    /// ```
    /// use streamlink_core::Flow;
    ///
    /// let flow = Flow::from_json(
    ///     r#"{
    ///         "name": "match-day",
    ///         "max_bandwidth": "20M",
    ///         "sources": [ { "name": "venue", "url": "srt://:9000?mode=listener", "latency": 200 } ],
    ///         "outputs": [ { "name": "partner", "url": "srt://:9001", "max_players": 4 } ]
    ///     }"#,
    /// )?;
    /// assert_eq!(flow.outputs()[0].name(), "partner");
    /// assert_eq!(Flow::from_json(&flow.to_json())?.to_json(), flow.to_json());
    ///
    /// let errors = Flow::from_json(r#"{ "name": "f", "max_bandwidth": "fast" }"#).unwrap_err();
    /// assert!(errors.iter().any(|e| e.path() == "max_bandwidth"));
    /// # Ok::<(), streamlink_core::ConfigErrors>(())
    /// ```
    ///
    /// # Errors
    /// One error without a path if the text is not JSON; otherwise every error, each with the path of its field and its
    /// line and column. None repeats a secret.
    pub fn from_json(json: &str) -> Result<Self, ConfigErrors> {
        let node = serde_json::from_str(json).map_err(|error| no_json(&error))?;
        read_flow(node).map_err(|errors| {
            let positions = Positions::new(json);
            errors.at(|path| positions.of(path))
        })
    }

    /// Reads one flow, or a list of flows, from JSON.
    ///
    /// # Errors
    /// As [`Flow::from_json`], for all flows of the list: the paths begin with the number of the flow, as in
    /// `[1].sources[0].url`. Flows of one list differ in their names, and listen at addresses and keys of their own.
    pub fn list_from_json(json: &str) -> Result<Vec<Self>, ConfigErrors> {
        let node = serde_json::from_str(json).map_err(|error| no_json(&error))?;
        let Node::List(nodes) = node else { return Self::from_json(json).map(|flow| vec![flow]) };
        read_flows(nodes).map_err(|errors| {
            let positions = Positions::new(json);
            errors.at(|path| positions.of(path))
        })
    }

    /// Returns the flow as JSON that [`Flow::from_json`] reads back. The text contains the secrets.
    pub fn to_json(&self) -> String {
        format!("{:#}", write_flow(&FlowConfiguration::of(self, false)))
    }
}

impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = write_flow(&FlowConfiguration::of(self, false));
        value.serialize(serializer).map_err(ser::Error::custom)
    }
}

impl FlowConfiguration {
    /// Returns the configuration as JSON, with its secrets hidden.
    pub fn to_json(&self) -> String {
        format!("{:#}", write_flow(self))
    }
}

impl Serialize for FlowConfiguration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_flow(self).serialize(serializer).map_err(ser::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Flow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_flow(Node::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Output {
    /// Reads an output from JSON: a member of `outputs` in the form of [`Flow::from_json`]. Whether it is right is said by
    /// [`FlowBuilder::build`](crate::FlowBuilder::build), or when it is added to a flow.
    ///
    /// # Errors
    /// When the text is no JSON, or has a member that is none of an output.
    pub fn from_json(json: &str) -> Result<Self, ConfigErrors> {
        let node = serde_json::from_str(json).map_err(|error| no_json(&error))?;
        read_output(node).map_err(|errors| {
            let positions = Positions::new(json);
            errors.at(|path| positions.of(path))
        })
    }

    /// Returns the output as JSON that [`Output::from_json`] reads back. The text contains the secrets.
    pub fn to_json(&self) -> String {
        format!("{:#}", write_endpoint(&EndpointConfiguration::of_output(self, false)))
    }
}

impl EndpointConfiguration {
    /// Returns the configuration as JSON: a member of `sources` or `outputs` in the form of [`Flow::to_json`].
    pub fn to_json(&self) -> String {
        format!("{:#}", write_endpoint(self))
    }
}

impl Serialize for EndpointConfiguration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_endpoint(self).serialize(serializer).map_err(ser::Error::custom)
    }
}

fn read_output(node: Node) -> Result<Output, ConfigErrors> {
    let mut errors = Vec::new();
    let (common, url, more) = read_endpoint(String::new(), node, &mut errors);
    let output = url::output(common, url.reveal(), more);
    ConfigErrors::collect(errors).map_or(Ok(output), Err)
}

/// Returns the error for text that is not JSON. The text is not quoted, as it may be a secret.
fn no_json(error: &serde_json::Error) -> ConfigErrors {
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    let problem = ConfigErrorKind::malformed("the text", format!("JSON: {reason}"));
    ConfigErrors::from(ConfigError::new("", problem)).at(|_| (error.line(), error.column().max(1)))
}

/// A JSON object whose members are removed as they are read; the remaining ones are reported as unknown.
struct Members<'a> {
    path: String,
    members: Vec<(String, Node)>,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Members<'a> {
    fn new(path: impl Into<String>, node: Node, errors: &'a mut Vec<ConfigError>) -> Self {
        let path = path.into();
        let given = match node {
            Node::Object(members) => members,
            other => {
                errors.push(ConfigError::new(path.as_str(), ConfigErrorKind::malformed(other.kind(), "an object")));
                Vec::new()
            }
        };
        let mut members = Self { path, members: Vec::with_capacity(given.len()), errors };
        let mut names = HashSet::new();
        for (name, node) in given {
            if names.insert(name.clone()) {
                members.members.push((name, node));
            } else {
                members.fail(&name, ConfigErrorKind::Duplicate("is given twice".into()));
            }
        }
        members
    }

    /// Removes a member.
    fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.members.iter().position(|(name, _)| name == key)?;
        Some(self.members.remove(at).1)
    }

    fn fail(&mut self, key: &str, problem: ConfigErrorKind) {
        let error = ConfigError::new(key, problem);
        self.errors.push(if self.path.is_empty() { error } else { error.within(&self.path) });
    }

    /// Removes a member and returns it as text.
    fn text(&mut self, key: &str) -> Option<String> {
        let node = self.take(key)?;
        self.as_text(key, &node)
    }

    fn as_text(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = node.as_text().map(str::to_owned);
        if text.is_none() && !matches!(node, Node::Null) {
            self.fail(key, ConfigErrorKind::malformed(node.kind(), "a string, a number or a boolean"));
        }
        text
    }

    fn required(&mut self, key: &str) -> String {
        let is_given = self.members.iter().any(|(name, _)| name == key);
        if !is_given {
            self.fail(key, ConfigErrorKind::Missing);
        }
        self.text(key).unwrap_or_default()
    }

    fn millis(&mut self, key: &str, default: Duration) -> Duration {
        let Some(text) = self.text(key) else { return default };
        match text.parse::<u32>() {
            Ok(ms) => Duration::from_millis(ms.into()),
            Err(_) => {
                self.fail(key, ConfigErrorKind::malformed(text, "a number of milliseconds"));
                default
            }
        }
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(key) else { return default };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.fail(key, ConfigErrorKind::malformed(text, names.join(", ")));
                default
            }
        }
    }

    fn list(&mut self, key: &str) -> Vec<Node> {
        match self.take(key) {
            None | Some(Node::Null) => Vec::new(),
            Some(Node::List(list)) => list,
            Some(other) => {
                self.fail(key, ConfigErrorKind::malformed(other.kind(), "a list"));
                Vec::new()
            }
        }
    }

    /// Reports the members that are left.
    fn finish(mut self, scope: SettingScope) {
        for (key, _) in std::mem::take(&mut self.members) {
            self.fail(&key, unknown(scope, &key));
        }
    }
}

fn read_flow(node: Node) -> Result<Flow, ConfigErrors> {
    let mut errors = Vec::new();
    let mut m = Members::new("", node, &mut errors);
    let name = m.required("name");
    let rate = m.required("max_bandwidth");
    let max_bandwidth = match rate.parse::<Bitrate>() {
        Ok(rate) => rate,
        Err(problem) => {
            if !rate.is_empty() {
                m.fail("max_bandwidth", problem);
            }
            Bitrate::bps(1) // a placeholder above 0, so that the error is reported once
        }
    };
    let policies = BandwidthPolicy::ALL.iter().map(|&policy| (policy.name(), policy));
    let policies: Vec<_> = policies.collect();
    let policy = m.choice("bandwidth_policy", &policies, BandwidthPolicy::default());
    let coalesce = m.millis("coalesce", Flow::DEFAULT_COALESCE);
    let entry_wait = m.millis("entry_wait", Flow::DEFAULT_ENTRY_WAIT);
    let sources = m.list("sources");
    let outputs = m.list("outputs");
    let failover = m.take("failover");
    m.finish(SettingScope::Flow);
    let failover = failover.filter(|node| !matches!(node, Node::Null));
    let failover = failover.map_or_else(Failover::default, |node| read_failover(node, &mut errors));
    let sources = sources.into_iter().enumerate().map(|(i, value)| {
        let (common, url, more) = read_endpoint(format!("sources[{i}]"), value, &mut errors);
        url::source(common, url.reveal(), more)
    });
    let sources: Vec<Source> = sources.collect();
    let outputs = outputs.into_iter().enumerate().map(|(i, value)| {
        let (common, url, more) = read_endpoint(format!("outputs[{i}]"), value, &mut errors);
        url::output(common, url.reveal(), more)
    });
    let outputs: Vec<Output> = outputs.collect();
    FlowDraft { name, max_bandwidth, policy, coalesce, entry_wait, failover, sources, outputs, errors }.build()
}

/// Reads the flows of a list, and checks that they can run together.
fn read_flows(nodes: Vec<Node>) -> Result<Vec<Flow>, ConfigErrors> {
    let mut errors = Vec::new();
    let mut flows: Vec<Flow> = Vec::new();
    let mut names = HashSet::new();
    let mut claims: HashMap<(Option<String>, Claim), String> = HashMap::new();
    for (i, node) in nodes.into_iter().enumerate() {
        let path = format!("[{i}]");
        let flow = match read_flow(node) {
            Ok(flow) => flow,
            Err(found) => {
                errors.extend(found.iter().map(|error| error.clone().within(&path)));
                continue;
            }
        };
        if !names.insert(flow.name().to_owned()) {
            let problem = ConfigErrorKind::Duplicate("another flow has this name".into());
            errors.push(ConfigError::new("name", problem).within(&path));
        }
        let sources = flow.sources.iter().enumerate().map(|(k, s)| (format!("{path}.sources[{k}]"), None, s.claim()));
        // Outputs of different regions may be those of different machines.
        let outputs = flow.outputs.iter().enumerate();
        let outputs = outputs.map(|(k, o)| (format!("{path}.outputs[{k}]"), o.common.region.clone(), o.claim()));
        for (place, region, claim) in sources.chain(outputs) {
            let Some(claim) = claim else { continue };
            let text = claim.to_string();
            let claim = (region, claim);
            if let Some(owner) = claims.get(&claim).filter(|owner| *owner != flow.name()) {
                let problem = format!("flow `{owner}` already listens on {text} with the same key");
                errors.push(ConfigError::new(place, ConfigErrorKind::Duplicate(problem)));
            }
            claims.insert(claim, flow.name().to_owned());
        }
        flows.push(flow);
    }
    match ConfigErrors::collect(errors) {
        Some(errors) => Err(errors),
        None => Ok(flows),
    }
}

/// Reads the name, the URL, and the members beside it, which are applied like settings in the query.
fn read_endpoint(path: String, node: Node, errors: &mut Vec<ConfigError>) -> (Common, Secret, url::Pairs) {
    let mut m = Members::new(path, node, errors);
    let name = m.required("name");
    let url = m.required("url").into();
    let mut more = url::Pairs::new();
    for (key, node) in std::mem::take(&mut m.members) {
        if let Some(value) = m.as_text(&key, &node) {
            more.push((key, value.into()));
        }
    }
    (Common::new(name), url, more)
}

fn read_failover(node: Node, errors: &mut Vec<ConfigError>) -> Failover {
    let mut m = Members::new("failover", node, errors);
    let hold = m.millis("hold", FailoverPolicy::DEFAULT_HOLD);
    let window = m.millis("window", FailoverPolicy::DEFAULT_WINDOW);
    let policies = [
        ("stay", FailoverPolicy::Stay),
        ("prefer", FailoverPolicy::Prefer(hold)),
        ("merge", FailoverPolicy::Merge(window)),
    ];
    let mut failover = Failover::new(m.choice("policy", &policies, FailoverPolicy::Stay));
    failover.loss_threshold = m.millis("loss_threshold", failover.loss_threshold);
    failover.cold = m.choice("cold", &[("true", true), ("false", false)], false);
    m.finish(SettingScope::Failover);
    failover
}

fn write_flow(flow: &FlowConfiguration) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), flow.name.as_str().into());
    map.insert("max_bandwidth".into(), flow.max_bandwidth.to_string().into());
    map.insert("bandwidth_policy".into(), flow.bandwidth_policy.name().into());
    map.insert("coalesce".into(), millis(flow.coalesce));
    map.insert("entry_wait".into(), millis(flow.entry_wait));
    map.insert("failover".into(), write_failover(&flow.failover));
    map.insert("sources".into(), flow.sources.iter().map(write_endpoint).collect());
    map.insert("outputs".into(), flow.outputs.iter().map(write_endpoint).collect());
    Value::Object(map)
}

fn write_endpoint(endpoint: &EndpointConfiguration) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), endpoint.name.as_str().into());
    map.insert("url".into(), endpoint.url.as_str().into());
    for (key, text) in [("description", &endpoint.description), ("region", &endpoint.region)] {
        if let Some(text) = text {
            map.insert(key.into(), text.as_str().into());
        }
    }
    if !endpoint.enabled {
        map.insert("enabled".into(), false.into());
    }
    for (key, value) in &endpoint.settings {
        // Only text that a number reads back unchanged becomes one: a passphrase such as `0123456789` stays text.
        let number = value.parse::<u32>().ok().filter(|n| n.to_string() == *value);
        map.insert(key.clone(), number.map_or_else(|| Value::String(value.clone()), Value::from));
    }
    Value::Object(map)
}

fn write_failover(failover: &Failover) -> Value {
    let mut map = Map::new();
    let policy = match failover.policy {
        FailoverPolicy::Stay => "stay",
        FailoverPolicy::Prefer(hold) => {
            map.insert("hold".into(), millis(hold));
            "prefer"
        }
        FailoverPolicy::Merge(window) => {
            map.insert("window".into(), millis(window));
            "merge"
        }
    };
    map.insert("policy".into(), policy.into());
    map.insert("loss_threshold".into(), millis(failover.loss_threshold));
    map.insert("cold".into(), failover.cold.into());
    Value::Object(map)
}

fn millis(duration: Duration) -> Value {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: &str = r#"{
        "name": "match-day", "max_bandwidth": "20M", "bandwidth_policy": "warn", "coalesce": 0, "entry_wait": 1500,
        "failover": { "policy": "prefer", "hold": 2000, "loss_threshold": 300 },
        "sources": [
            { "name": "venue", "url": "srt://:9000?mode=listener", "latency": 200, "passphrase": "0123456789", "pbkeylen": 32 },
            { "name": "spare", "url": "srt://example.com:9000", "description": "over the sea" }
        ],
        "outputs": [
            { "name": "partner", "url": "srt://:9001", "max_players": 4, "allow": "203.3.3.3/28" },
            { "name": "platform", "url": "rtmp://live.example.com/app?key=SECRET", "region": "eu" },
            { "name": "tap", "url": "tap:" }
        ]
    }"#;

    #[test]
    fn flow_json_round_trips() {
        let flow = Flow::from_json(FLOW).unwrap();
        assert_eq!(flow.outputs()[1].to_url(), "rtmp://live.example.com:1935/app?key=SECRET");
        let again = Flow::from_json(&flow.to_json()).unwrap();
        assert_eq!(format!("{flow:?}"), format!("{again:?}"));
        let value: Value = serde_json::to_value(&flow).unwrap();
        let third: Flow = serde_json::from_value(value).unwrap();
        assert_eq!(third.to_json(), flow.to_json());
    }

    #[test]
    fn flow_json_reports_all_errors_with_paths() {
        let text = r#"{ "name": 7, "max_bandwidth": "fast", "colour": "red", "failover": { "policy": "magic" },
            "sources": [ { "name": "a", "url": "srt://:9000", "latency": 99999, "wings": 2 }, 5 ],
            "outputs": [ { "url": "rtp://h:1", "ttl": [1] } ] }"#;
        let errors = Flow::from_json(text).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(ConfigError::path).collect();
        for path in [
            "max_bandwidth",
            "colour",
            "failover.policy",
            "sources[0].latency",
            "sources[0].wings",
            "sources[1]",
            "outputs[0].name",
            "outputs[0].ttl",
            "outputs[0]",
        ] {
            assert!(paths.contains(&path), "{path} not in {paths:?}");
        }
        for bad in ["", "[]", "{", "null", "{}", &"[".repeat(10_000)] {
            assert!(Flow::from_json(bad).is_err());
        }
    }

    #[test]
    fn flow_json_has_one_field_for_rtmp_failover() {
        let json = r#"{ "name": "f", "max_bandwidth": "20M",
            "sources": [ { "name": "venue", "url": "rtmp://:1935/live/KEY", "failover": true } ] }"#;
        let flow = Flow::from_json(json).unwrap();
        assert_eq!(flow.sources()[1].name(), "venue-backup");
        // Read back, it is a flow with two sources, each with its key.
        let again = Flow::from_json(&flow.to_json()).unwrap();
        assert_eq!(again.to_json(), flow.to_json());
        assert_eq!(again.sources().len(), 2);
    }

    #[test]
    fn flow_list_reports_errors_of_all_flows_with_places() {
        let one = r#"{ "name": "a", "max_bandwidth": "5M", "sources": [ { "name": "in", "url": "srt://:9000" } ] }"#;
        assert_eq!(Flow::list_from_json(one).unwrap().len(), 1);
        assert_eq!(Flow::list_from_json(&format!("[{one}]")).unwrap()[0].name(), "a");
        assert!(Flow::list_from_json("[]").unwrap().is_empty());
        let again = one.replace("latency", "x");
        let wrong = r#"{ "name": "c", "max_bandwidth": "5M",
  "sources": [ { "name": "in", "url": "srt://:9001", "latency": -1 } ] }"#;
        let list = format!("[\n{one},\n{again},\n{wrong},\n7 ]");
        let errors = Flow::list_from_json(&list).unwrap_err().to_string();
        for expected in
            ["line 3, column 3: [1].name: ", "line 5, column 54: [2].sources[0].latency: ", "line 6, column 1: [3]: "]
        {
            assert!(errors.contains(expected), "{expected} is not in\n{errors}");
        }
        let other = one.replace("\"a\"", "\"b\"");
        let errors = Flow::list_from_json(&format!("[{one},\n{other}]")).unwrap_err().to_string();
        assert!(errors.contains("[1].sources[0]: ") && errors.contains("flow `a` already listens"), "{errors}");
    }

    fn errors(json: &str) -> Vec<String> {
        Flow::from_json(json).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flow_json_errors_have_line_and_column() {
        let text = r#"{
  "name": "f", "max_bandwith": "20M",
  "failover": { "loss_treshold": 1 },
  "sources": [
    { "name": "a", "url": "srt://:9000?latency=200", "latency": 300, "pasphrase": "hunter2hunter2" },
    { "name": "b", "url": "srt://:9001?latency=200&mode=caller", "mode": "listener" },
    { "name": "c", "name": "d", "url": "srt://:9002?passphrase=hunter2" }
  ]
}"#;
        let found = errors(text);
        for expected in [
            "line 2, column 16: max_bandwith: there is no such setting; similar: max_bandwidth",
            "line 1, column 1: max_bandwidth: is missing",
            "line 3, column 17: failover.loss_treshold: there is no such setting; similar: loss_threshold",
            "line 5, column 54: sources[0].latency: is also set in the URL, to another value",
            "line 5, column 70: sources[0].pasphrase: there is no such setting; similar: passphrase",
            "line 6, column 66: sources[1].mode: is also set in the URL, to another value",
            "line 7, column 20: sources[2].name: is given twice",
            "line 7, column 33: sources[2].passphrase: a length of 7 is outside 10 to 79 bytes",
        ] {
            assert!(found.iter().any(|error| error == expected), "{expected}\nnot in\n{}", found.join("\n"));
        }
        assert!(!found.concat().contains("hunter2"), "{found:?}");
        let lines = Flow::from_json(text).unwrap_err().to_string();
        assert_eq!(lines.lines().count(), found.len(), "one a line");
        let positions: Vec<_> = Flow::from_json(text).unwrap_err().iter().map(ConfigError::position).collect();
        assert!(positions.contains(&Some((5, 54))), "{positions:?}");
        assert_eq!(errors("{\n \"name\": hunter2 }"), ["line 2, column 10: `the text` is not JSON: expected value"]);
        let typed = Flow::builder("", Bitrate::mbps(1)).source(Source::from_url("a", "rtp://:1")).build().unwrap_err();
        assert_eq!(typed.iter().next().and_then(ConfigError::position), None);
    }

    #[test]
    fn flow_json_takes_mode_key_and_query_as_members() {
        let flow = Flow::from_json(
            r#"{ "name": "f", "max_bandwidth": "20M",
                "sources": [
                    { "name": "a", "url": "rtsp://h/cam?channel=1&subtype=0", "transport": "tcp", "query": "ttl=1" },
                    { "name": "b", "url": "rtsp://127.0.0.1:8554/cam", "mode": "listener" }
                ],
                "outputs": [ { "name": "o", "url": "rtsp://h/live?token=abc" } ] }"#,
        );
        let flow = flow.unwrap();
        assert_eq!(flow.sources()[0].to_url(), "rtsp://h:554/cam?channel=1&subtype=0&ttl=1&transport=tcp");
        assert!(!flow.sources()[1].is_caller());
        assert_eq!(flow.outputs()[0].to_url(), "rtsp://h:554/live?token=abc");
        assert_eq!(Flow::from_json(&flow.to_json()).unwrap().to_json(), flow.to_json());
        let flow = Flow::from_json(
            r#"{ "name": "f", "max_bandwidth": "20M",
                "sources": [ { "name": "a", "url": "rtmp://h/live?vhost=x&t=1", "key": "KEY", "query": "key=2" } ],
                "outputs": [ { "name": "o", "url": "rtmp://h/live/KEY?token=a%2Fb", "relay": true } ] }"#,
        );
        let flow = flow.unwrap();
        assert_eq!(flow.sources()[0].to_url(), "rtmp://h:1935/live?key=KEY?vhost=x%26t=1%26key=2");
        assert_eq!(flow.outputs()[0].to_url(), "rtmp://h:1935/live?key=KEY?token=a%252Fb&relay=true");
        assert_eq!(Flow::from_json(&flow.to_json()).unwrap().to_json(), flow.to_json());
    }
}
