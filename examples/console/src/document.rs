//! The JSON form of flows as documents that are changed: merge patches, places of endpoints, hidden values, and ports.

use crate::problem::Problem;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{TcpListener, UdpSocket},
};
use streamlink_core::{Flow, SettingScope};

/// Character that stands for a hidden secret in what is shown.
const HIDDEN: char = '…';

/// List of endpoints of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Source,
    Output,
}

impl Direction {
    /// Returns the name of one endpoint: `source` or `output`.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Output => "output",
        }
    }

    /// Returns the member of a flow that holds the endpoints.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Source => "sources",
            Self::Output => "outputs",
        }
    }
}

/// JSON object whose members are all different, as it comes in a request.
#[derive(Debug)]
pub(crate) struct Members(pub(crate) Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom("a member is given twice"));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl Members {
    /// Reads the object of a request. Hidden values, as they are shown, are refused: they would replace the secrets.
    pub(crate) fn read(body: &[u8]) -> Result<Map<String, Value>, Problem> {
        let Self(members) = serde_json::from_slice(body).map_err(|error| {
            // The text of the error is about the form, and holds nothing of what was sent.
            Problem::malformed(format!("the body is not the JSON object that is expected: {}", place(&error)))
        })?;
        for (name, value) in &members {
            check_not_hidden(name, value)?;
        }
        Ok(members)
    }
}

/// Returns where text is not JSON, without a part of it.
fn place(error: &serde_json::Error) -> String {
    format!("{:?} error in line {}, column {}", error.classify(), error.line(), error.column()).to_lowercase()
}

/// Refuses the character that stands for a hidden secret, wherever it may be meant as one.
pub(crate) fn check_not_hidden(path: &str, value: &Value) -> Result<(), Problem> {
    let is_name = path.ends_with("name") || path.ends_with("description");
    match value {
        Value::String(text) if text.contains(HIDDEN) && !is_name => {
            Err(Problem::field(path, "holds a hidden value: leave it out to keep the secret, or write it anew"))
        }
        Value::Array(list) => {
            list.iter().enumerate().try_for_each(|(at, value)| check_not_hidden(&format!("{path}[{at}]"), value))
        }
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            check_not_hidden(&path, value)
        }),
        _ => Ok(()),
    }
}

/// Applies a merge patch (RFC 7396): `null` removes a member.
pub(crate) fn merge(target: &mut Value, patch: Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                members.remove(&name);
            }
            Value::Object(inner) => merge(members.entry(name).or_insert(Value::Null), inner),
            value => {
                members.insert(name, value);
            }
        }
    }
}

/// Reads a flow from its document. The errors have paths without `prefix`.
pub(crate) fn flow_of(document: &Value, prefix: &str) -> Result<Flow, Problem> {
    Flow::from_json(&document.to_string()).map_err(|errors| Problem::config(&errors, prefix))
}

/// Returns the document of a flow, with its secrets.
pub(crate) fn document_of(flow: &Flow) -> Value {
    serde_json::to_value(flow).unwrap_or_default()
}

pub(crate) fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn endpoints(document: &Value, direction: Direction) -> &[Value] {
    document.get(direction.member()).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the place of an endpoint in its list.
pub(crate) fn position(document: &Value, direction: Direction, name: &str) -> Result<usize, Problem> {
    let found = endpoints(document, direction).iter().position(|endpoint| name_of(endpoint) == name);
    found.ok_or_else(|| Problem::not_found(direction.noun(), name))
}

pub(crate) fn endpoints_mut(document: &mut Value, direction: Direction) -> Option<&mut Vec<Value>> {
    let members = document.as_object_mut()?;
    members.entry(direction.member()).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
}

/// Returns the owners of the settings of all endpoints of a flow.
fn scopes(flow: &Flow, direction: Direction) -> Vec<SettingScope> {
    match direction {
        Direction::Source => flow.sources().iter().map(|source| source.scope()).collect(),
        Direction::Output => flow.outputs().iter().map(|output| output.scope()).collect(),
    }
}

/// Returns true for an endpoint that has a local port at which peers reach it.
fn is_listener(scope: SettingScope) -> bool {
    scope.settings().any(|setting| setting.name == "allow")
}

/// Replaces ports that the system is to pick by free ones, so that the addresses stay the same over restarts. Returns
/// whether there were any. RTMP sources share one, as they do in the engine.
pub(crate) fn pick_ports(document: &mut Value, flow: &Flow) -> Result<bool, Problem> {
    let mut has_picked = false;
    let mut shared: HashMap<String, u16> = HashMap::new();
    let mut streams = HashSet::new();
    for direction in [Direction::Source, Direction::Output] {
        let scopes = scopes(flow, direction);
        let Some(list) = endpoints_mut(document, direction) else { continue };
        for (endpoint, scope) in list.iter_mut().zip(scopes) {
            let Some(url) = endpoint.get("url").and_then(Value::as_str) else { continue };
            if !is_listener(scope) {
                continue;
            }
            let Some(at) = port_zero(url) else { continue };
            let (before, after) = url.split_at(at);
            let key = endpoint.get("key").and_then(Value::as_str).unwrap_or_default();
            let shares = scope == SettingScope::RtmpSource && streams.insert(format!("{url} {key}"));
            let known = shared.get(before).copied().filter(|_| shares);
            let port = known.map_or_else(free_port, Ok);
            let port = port.map_err(|error| Problem::internal(format!("no port is free: {error}")))?;
            if shares {
                shared.insert(before.to_owned(), port);
            }
            let url = format!("{before}{port}{}", after.strip_prefix('0').unwrap_or(after));
            endpoint["url"] = url.into();
            has_picked = true;
        }
    }
    Ok(has_picked)
}

/// Returns where the port of a URL stands, if it is 0.
fn port_zero(url: &str) -> Option<usize> {
    let start = url.find("://")? + 3;
    let rest = url.get(start..)?;
    let authority = rest.get(..rest.find(['/', '?', '#']).unwrap_or(rest.len()))?;
    let (host, port) = authority.rsplit_once(':')?;
    (port == "0" && !port.ends_with(']')).then_some(start + host.len() + 1)
}

/// Returns a port that is free over UDP and TCP. It is even, as RTP and RTCP are wont to be neighbours.
fn free_port() -> std::io::Result<u16> {
    let mut last = None;
    for _ in 0..64 {
        let udp = UdpSocket::bind(("0.0.0.0", 0))?;
        let port = udp.local_addr()?.port();
        match TcpListener::bind(("0.0.0.0", port)) {
            Ok(_) if port % 2 == 0 => return Ok(port),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::AddrInUse)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_sets_replaces_and_removes() {
        let mut target = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1] });
        let Value::Object(patch) =
            json!({ "a": null, "b": { "c": 4, "d": null }, "e": [2], "f": { "g": null, "h": 1 } })
        else {
            unreachable!()
        };
        merge(&mut target, patch);
        assert_eq!(target, json!({ "b": { "c": 4 }, "e": [2], "f": { "h": 1 } }));
    }

    #[test]
    fn request_bodies_with_doubled_members_or_hidden_values_are_refused() {
        assert_eq!(Members::read(br#"{"a":1,"b":{"c":2}}"#).unwrap().len(), 2);
        for bad in [&br#"{"a":1,"a":2}"#[..], b"[]", b"", b"{", b"1", &[0xff, 0xfe], "[".repeat(100_000).as_bytes()] {
            assert!(Members::read(bad).is_err());
        }
        for bad in [r#"{"url":"rtmp://h/live/…"}"#, r#"{"passphrase":"…"}"#, r#"{"sources":[{"key":"…"}]}"#] {
            assert!(Members::read(bad.as_bytes()).unwrap_err().has_fields(), "{bad}");
        }
        assert!(Members::read(r#"{"name":"Studio …","description":"…"}"#.as_bytes()).is_ok());
    }

    #[test]
    fn ports_of_listeners_are_picked_once() {
        let flow = Flow::from_json(
            r#"{ "name": "f", "max_bandwidth": "1M",
                "sources": [ { "name": "a", "url": "srt://127.0.0.1:0?mode=listener" }, { "name": "b", "url": "srt://:0" } ],
                "outputs": [ { "name": "c", "url": "srt://[::1]:0?mode=listener" }, { "name": "d", "url": "srt://h:90" } ] }"#,
        );
        let flow = flow.unwrap();
        let mut document = document_of(&flow);
        assert!(pick_ports(&mut document, &flow).unwrap());
        let picked = flow_of(&document, "").unwrap();
        let urls = document.to_string();
        assert!(!urls.contains(":0"), "{urls}");
        assert!(urls.contains("srt://127.0.0.1:") && urls.contains("srt://[::1]:") && urls.contains("srt://h:90"));
        assert!(!pick_ports(&mut document, &picked).unwrap());
        // Two input addresses of RTMP differ in their keys, and share a port.
        let flow = Flow::from_json(
            r#"{ "name": "f", "max_bandwidth": "1M", "sources": [
                { "name": "a", "url": "rtmp://127.0.0.1:0/live?mode=listener" },
                { "name": "b", "url": "rtmp://127.0.0.1:0/live?mode=listener" },
                { "name": "c", "url": "rtmp://[::1]:0/live?mode=listener" } ] }"#,
        );
        let mut document = document_of(&flow.unwrap());
        let flow = flow_of(&document, "").unwrap();
        assert!(pick_ports(&mut document, &flow).unwrap());
        let url = |at: usize| document["sources"][at]["url"].as_str().unwrap().to_owned();
        let server = |at: usize| url(at).rsplit_once('/').unwrap().0.to_owned();
        assert_eq!(server(0), server(1));
        assert_ne!(url(0), url(1));
        assert!(url(2).starts_with("rtmp://[::1]:") && !url(2).contains(":0/"), "{}", url(2));
        for (url, at) in
            [("srt://:0", Some(7)), ("srt://[::]:0?a", Some(11)), ("rtmp://h:10/live:0", None), ("tap:", None)]
        {
            assert_eq!(port_zero(url), at, "{url}");
        }
    }
}
