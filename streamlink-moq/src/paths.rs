//! Paths of a region's broadcasts, below the prefix of the cluster's address:
//!
//! | path | published by | track |
//! |---|---|---|
//! | `flows/<flow>` | ingest engines, see the media tracks | |
//! | `outputs/<region>/<flow>/<publisher>` | ingest engines | `outputs`, sealed |
//! | `nodes/<region>/<node>/<instance>` | nodes of the region | `heartbeat` |
//! | `status/<region>/<flow>/<node>/<instance>` | nodes of the region | `status` |
//!
//! A relay's rules name them by region: a node of `eu` reads `flows/**`, `outputs/eu/**` and `nodes/eu/**`, and publishes
//! `nodes/eu/**` and `status/eu/**`; an ingest engine publishes `flows/**` and `outputs/**`, and reads `status/**`.

use crate::{Error, membership::NodeKey};

/// Maximum length of a decoded name, in bytes.
const MAX_NAME: usize = 128;

/// Name as a segment of a path: letters, digits, `-` and `_` stay, and `~` with two hexadecimal digits stands for any
/// other byte.
pub fn encode(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            segment.push(byte.into());
        } else {
            segment.push_str(&format!("~{byte:02x}"));
        }
    }
    segment
}

/// Returns the name of which a segment was made, or `None` if it was made of none.
pub fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'~' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    // Each name has one segment only.
    (is_name && encode(&name) == segment).then_some(name)
}

/// Paths below one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    prefix: String,
}

impl Paths {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_matches('/').to_owned() }
    }

    /// Media of a flow.
    pub(crate) fn media(&self, flow: &str) -> String {
        format!("{}/flows/{}", self.prefix, encode(flow))
    }

    /// All descriptions of outputs for a region.
    pub(crate) fn all_outputs(&self, region: &str) -> String {
        format!("{}/outputs/{}", self.prefix, encode(region))
    }

    /// Outputs of a flow in a region, as one publisher describes them.
    pub(crate) fn outputs(&self, region: &str, flow: &str, publisher: u64) -> String {
        format!("{}/{}/{publisher:016x}", self.all_outputs(region), encode(flow))
    }

    /// Flow and publisher of a path of [`Paths::outputs`].
    pub(crate) fn read_outputs(&self, region: &str, path: &str) -> Option<(String, u64)> {
        let (flow, publisher) = below(path, &self.all_outputs(region))?.split_once('/')?;
        Some((decode(flow)?, read_number(publisher)?))
    }

    /// All nodes of a region.
    pub(crate) fn all_nodes(&self, region: &str) -> String {
        format!("{}/nodes/{}", self.prefix, encode(region))
    }

    /// Heartbeats of a node.
    pub(crate) fn node(&self, region: &str, key: &NodeKey) -> String {
        format!("{}/{}/{:016x}", self.all_nodes(region), encode(&key.id), key.instance)
    }

    /// Node of a path of [`Paths::node`].
    pub(crate) fn read_node(&self, region: &str, path: &str) -> Option<NodeKey> {
        read_key(below(path, &self.all_nodes(region))?)
    }

    /// All reports about a flow's outputs in a region.
    pub(crate) fn all_status(&self, region: &str, flow: &str) -> String {
        format!("{}/status/{}/{}", self.prefix, encode(region), encode(flow))
    }

    /// Reports of a node about a flow's outputs.
    pub(crate) fn status(&self, region: &str, flow: &str, key: &NodeKey) -> String {
        format!("{}/{}/{:016x}", self.all_status(region, flow), encode(&key.id), key.instance)
    }

    /// Node of a path of [`Paths::status`].
    pub(crate) fn read_status(&self, region: &str, flow: &str, path: &str) -> Option<NodeKey> {
        read_key(below(path, &self.all_status(region, flow))?)
    }
}

fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)?.strip_prefix('/')
}

fn read_number(text: &str) -> Option<u64> {
    if text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None }
}

fn read_key(rest: &str) -> Option<NodeKey> {
    let (id, instance) = rest.split_once('/')?;
    Some(NodeKey { id: decode(id)?, instance: read_number(instance)? })
}

/// Checks a name that becomes part of a path.
///
/// # Errors
/// [`Error::Path`] if it is empty, longer than 128 bytes, or holds control characters.
pub(crate) fn checked_name(what: &str, name: &str) -> Result<(), Error> {
    if decode(&encode(name)).is_some() {
        return Ok(());
    }
    Err(Error::Path(format!("{what} of 1 to {MAX_NAME} bytes without control characters is expected").into()))
}

/// Path patterns, in the words of moq-relay, that a node of a region needs: to publish, and to subscribe to.
pub fn node_patterns(prefix: &str, region: &str) -> (Vec<String>, Vec<String>) {
    let prefix = prefix.trim_matches('/');
    let region = encode(region);
    let publish = [format!("{prefix}/nodes/{region}/**"), format!("{prefix}/status/{region}/**")];
    let subscribe =
        [format!("{prefix}/flows/**"), format!("{prefix}/outputs/{region}/**"), format!("{prefix}/nodes/{region}/**")];
    (publish.into(), subscribe.into())
}

/// Path patterns, in the words of moq-relay, that an ingest engine needs: to publish, and to subscribe to.
pub fn ingest_patterns(prefix: &str) -> (Vec<String>, Vec<String>) {
    let prefix = prefix.trim_matches('/');
    (vec![format!("{prefix}/flows/**"), format!("{prefix}/outputs/**")], vec![format!("{prefix}/status/**")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_read_back() {
        let paths = Paths::new("/live/");
        let key = NodeKey { id: "node.1/a".into(), instance: 0xabc };
        assert_eq!(paths.outputs("eu", "Match Day", 1), "live/outputs/eu/Match~20Day/0000000000000001");
        let outputs = paths.outputs("eu", "../*", u64::MAX);
        assert_eq!(paths.read_outputs("eu", &outputs), Some(("../*".into(), u64::MAX)));
        assert_eq!(paths.read_outputs("us", &outputs), None);
        assert_eq!(paths.read_node("eu", &paths.node("eu", &key)), Some(key.clone()));
        assert_eq!(paths.read_status("eu", "f", &paths.status("eu", "f", &key)), Some(key));
        for path in
            ["live/outputs/eu", "live/outputs/eu/f", "live/outputs/eu/f/1", "live/outputs/eu/~0a/0000000000000001"]
        {
            assert_eq!(paths.read_outputs("eu", path), None, "{path}");
        }
    }

    #[test]
    fn path_names_have_one_form() {
        for segment in ["~41", "~4", "~", "a.b", "~0A", "~zz", "~c3", ""] {
            assert_eq!(decode(segment), None, "{segment}");
        }
        assert!(checked_name("a flow name", &"x".repeat(129)).is_err());
    }

    proptest! {
        #[test]
        fn path_names_are_read_back(name in "[^\\p{Cc}]{1,32}") {
            let segment = encode(&name);
            prop_assert!(crate::address::checked_path(&segment).is_ok());
            prop_assert_eq!(decode(&segment), Some(name));
        }
    }
}
