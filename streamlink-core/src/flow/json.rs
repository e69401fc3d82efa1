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
//! Settings are given in the query of the URL, or as members beside it under the same names.

use super::{
    bitrate::Bitrate,
    build::{BandwidthPolicy, Failover, FailoverPolicy, Flow, FlowDraft},
    builder::Common,
    output::Output,
    source::Source,
    url,
};
use crate::{
    error::{ConfigError, ConfigErrors, Problem},
    secret::Secret,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value};
use std::time::Duration;

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
    /// One error without a path if the text is not JSON; otherwise every error, each with the path of its field.
    pub fn from_json(json: &str) -> Result<Flow, ConfigErrors> {
        let value = serde_json::from_str(json).map_err(|e| ConfigError::new("", no_json(&e)))?;
        read_flow(value)
    }

    /// Returns the flow as JSON that [`Flow::from_json`] reads back. The text contains the secrets.
    pub fn to_json(&self) -> String {
        format!("{:#}", write_flow(self))
    }
}

impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = write_flow(self);
        value.serialize(serializer).map_err(ser::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Flow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_flow(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Returns the error for text that is not JSON. The text is not quoted, as it may be a secret.
fn no_json(error: &serde_json::Error) -> Problem {
    let place = format!("the text at line {}, column {}", error.line(), error.column());
    Problem::malformed(place, "a flow in JSON")
}

/// A JSON object whose members are removed as they are read; the remaining ones are reported as unknown.
struct Members<'a> {
    path: String,
    map: Map<String, Value>,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Members<'a> {
    fn new(path: impl Into<String>, value: Value, errors: &'a mut Vec<ConfigError>) -> Self {
        let path = path.into();
        let map = match value {
            Value::Object(map) => map,
            other => {
                errors.push(ConfigError::new(path.as_str(), Problem::malformed(short(&other), "an object")));
                Map::new()
            }
        };
        Self { path, map, errors }
    }

    fn fail(&mut self, key: &str, problem: Problem) {
        let error = ConfigError::new(key, problem);
        self.errors.push(if self.path.is_empty() { error } else { error.within(&self.path) });
    }

    /// Removes a member and returns it as text. Numbers and booleans become text, so that `"latency": 200` reads as in
    /// the URL.
    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.map.remove(key)?;
        let text = scalar(&value);
        if text.is_none() && !value.is_null() {
            self.fail(key, Problem::malformed(short(&value), "a string, a number or a boolean"));
        }
        text
    }

    fn required(&mut self, key: &str) -> String {
        if !self.map.contains_key(key) {
            self.fail(key, Problem::Missing);
        }
        self.text(key).unwrap_or_default()
    }

    fn millis(&mut self, key: &str, default: Duration) -> Duration {
        let Some(text) = self.text(key) else { return default };
        match text.parse::<u32>() {
            Ok(ms) => Duration::from_millis(ms.into()),
            Err(_) => {
                self.fail(key, Problem::malformed(text, "a number of milliseconds"));
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
                self.fail(key, Problem::malformed(text, names.join(", ")));
                default
            }
        }
    }

    fn list(&mut self, key: &str) -> Vec<Value> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.fail(key, Problem::malformed(short(&other), "a list"));
                Vec::new()
            }
        }
    }

    fn finish(mut self) {
        for key in std::mem::take(&mut self.map).keys() {
            self.fail(key, Problem::UnknownField);
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn short(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn read_flow(value: Value) -> Result<Flow, ConfigErrors> {
    let mut errors = Vec::new();
    let mut m = Members::new("", value, &mut errors);
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
    let failover = m.map.remove("failover");
    m.finish();
    let failover = failover.map_or_else(Failover::default, |value| read_failover(value, &mut errors));
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

/// Reads the name, the URL, and the members beside it, which are applied like settings in the query.
fn read_endpoint(path: String, value: Value, errors: &mut Vec<ConfigError>) -> (Common, Secret, url::Pairs) {
    let mut m = Members::new(path, value, errors);
    let name = m.required("name");
    let url = m.required("url").into();
    let keys: Vec<String> = m.map.keys().cloned().collect();
    let more = keys.into_iter().filter_map(|key| m.text(&key).map(|value| (key, value.into()))).collect();
    m.finish();
    (Common::new(name), url, more)
}

fn read_failover(value: Value, errors: &mut Vec<ConfigError>) -> Failover {
    let mut m = Members::new("failover", value, errors);
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
    m.finish();
    failover
}

fn write_flow(flow: &Flow) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), flow.name().into());
    map.insert("max_bandwidth".into(), flow.max_bandwidth.to_string().into());
    map.insert("bandwidth_policy".into(), flow.policy.name().into());
    map.insert("coalesce".into(), millis(flow.coalesce));
    map.insert("entry_wait".into(), millis(flow.entry_wait));
    map.insert("failover".into(), write_failover(&flow.failover));
    let sources = flow.sources.iter().map(|s| write_endpoint(&s.common, url::source_parts(&s.kind)));
    map.insert("sources".into(), sources.collect());
    let outputs = flow.outputs.iter().map(|o| write_endpoint(&o.common, url::output_parts(&o.kind)));
    map.insert("outputs".into(), outputs.collect());
    Value::Object(map)
}

fn write_endpoint(common: &Common, url: url::UrlParts) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), common.name.as_str().into());
    map.insert("url".into(), url.base.into());
    for (key, text) in [("description", &common.description), ("region", &common.region)] {
        if let Some(text) = text {
            map.insert(key.into(), text.as_str().into());
        }
    }
    for (key, value) in url.query.0 {
        // Only text that a number reads back unchanged becomes one: a passphrase such as `0123456789` stays text.
        let number = value.parse::<u32>().ok().filter(|n| n.to_string() == value);
        map.insert(key.into(), number.map_or(Value::String(value), Value::from));
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
}
