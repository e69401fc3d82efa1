//! Division of a region's outputs between its nodes, by rendezvous hashing (highest random weight).
//!
//! Each node computes the division by itself, from the names of the nodes alone. A node that comes or goes moves only the
//! outputs that it gains or loses.

use sha2::{Digest, Sha256};
use std::{cmp::Reverse, collections::BTreeMap, fmt};
use streamlink_core::SettingScope;

/// Output of a flow, as the nodes of a region name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputId {
    /// Name of the flow.
    pub flow: String,
    /// Name of the output within the flow.
    pub output: String,
}

impl OutputId {
    /// Returns the identity of an output.
    pub fn new(flow: impl Into<String>, output: impl Into<String>) -> Self {
        Self { flow: flow.into(), output: output.into() }
    }
}

impl fmt::Display for OutputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.flow, self.output)
    }
}

/// Number of nodes that may run an output at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusivity {
    /// One node: the output goes to a destination that must not see two senders, such as an RTMP server.
    Exclusive,
    /// Primary and standby: the output listens, and its players choose.
    Shared,
}

impl Exclusivity {
    /// Returns the exclusivity of an output, from its protocol and role: what calls or sends is exclusive, what listens
    /// is not.
    pub fn of(scope: SettingScope) -> Self {
        match scope {
            SettingScope::SrtListenerOutput | SettingScope::RtspListenerOutput | SettingScope::RtmpPullOutput => {
                Self::Shared
            }
            // All that is not known to listen is exclusive.
            _ => Self::Exclusive,
        }
    }
}

/// Weight of a node for an output. The node with the highest weight is the output's primary, the next one its standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u64);

impl Weight {
    /// Returns the weight: the same on every machine, for the same names.
    pub fn new(output: &OutputId, node: &str) -> Self {
        let mut hash = Sha256::new();
        // Lengths keep the fields apart, whatever characters names hold.
        for field in [output.flow.as_str(), output.output.as_str(), node] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        let digest = hash.finalize();
        let mut bytes = [0; 8];
        for (byte, digit) in bytes.iter_mut().zip(digest) {
            *byte = digit;
        }
        Self(u64::from_be_bytes(bytes))
    }
}

/// Returns the nodes in their order of preference for an output: primary, standby, and the rest. Equal names and weights
/// are ordered by the node's key.
pub fn ranking<'a, N: Ord + AsRef<str>>(output: &OutputId, nodes: impl IntoIterator<Item = &'a N>) -> Vec<&'a N> {
    let mut ranked: Vec<(Reverse<Weight>, &N)> =
        nodes.into_iter().map(|node| (Reverse(Weight::new(output, node.as_ref())), node)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// Number of outputs of each node as primary, for a report.
pub fn load<'a>(outputs: impl IntoIterator<Item = &'a OutputId>, nodes: &'a [String]) -> BTreeMap<&'a str, usize> {
    let mut load: BTreeMap<&str, usize> = nodes.iter().map(|node| (node.as_str(), 0)).collect();
    for output in outputs {
        if let Some(primary) = ranking(output, nodes).first() {
            *load.entry(primary.as_str()).or_default() += 1;
        }
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(count: usize) -> Vec<OutputId> {
        (0..count).map(|n| OutputId::new(format!("flow-{n}"), "platform")).collect()
    }

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn placement_moves_only_outputs_of_the_node_that_goes() {
        let all = nodes(&["a", "b", "c"]);
        let rest = nodes(&["a", "c"]);
        for output in outputs(500) {
            let before = ranking(&output, &all);
            let after = ranking(&output, &rest);
            let expected: Vec<_> = before.iter().filter(|node| node.as_str() != "b").map(|n| n.as_str()).collect();
            assert_eq!(after.iter().map(|n| n.as_str()).collect::<Vec<_>>(), expected, "{output}");
        }
    }

    #[test]
    fn placement_moves_outputs_to_a_joining_node_only() {
        let before = nodes(&["a", "b", "c"]);
        let after = nodes(&["a", "b", "c", "d"]);
        let mut moved = 0;
        for output in outputs(500) {
            let old = ranking(&output, &before)[0];
            let new = ranking(&output, &after)[0];
            if old != new {
                assert_eq!(new, "d", "{output}");
                moved += 1;
            }
        }
        assert!((80..=170).contains(&moved), "{moved} of 500 moved, about 125 are due");
    }

    #[test]
    fn placement_divides_evenly() {
        let nodes = nodes(&["a", "b", "c"]);
        let outputs = outputs(3000);
        for (node, count) in load(&outputs, &nodes) {
            assert!((850..=1150).contains(&count), "{node} has {count} of 3000");
        }
    }

    #[test]
    fn placement_ignores_the_order_of_nodes() {
        let forth = nodes(&["a", "b", "c"]);
        let back = nodes(&["c", "b", "a"]);
        for output in outputs(100) {
            assert_eq!(ranking(&output, &forth), ranking(&output, &back));
        }
    }

    #[test]
    fn placement_keeps_fields_of_names_apart() {
        let one = OutputId::new("ab", "c");
        let other = OutputId::new("a", "bc");
        assert_ne!(Weight::new(&one, "n"), Weight::new(&other, "n"));
    }

    #[test]
    fn placement_weight_is_the_same_in_every_build() {
        // SHA-256 of the length-prefixed names; nodes of different versions must agree.
        assert_eq!(Weight::new(&OutputId::new("match-day", "platform"), "node-1"), Weight(0xf8caa3adc0985cd1));
    }

    #[test]
    fn placement_runs_listeners_twice_and_pushes_once() {
        use streamlink_core::Output;
        let of = |url: &str| Exclusivity::of(Output::from_url("o", url).scope());
        for shared in ["srt://:9001", "rtmp://0.0.0.0:1935/live/KEY", "rtsp://0.0.0.0:8554/cam"] {
            assert_eq!(of(shared), Exclusivity::Shared, "{shared}");
        }
        for exclusive in [
            "srt://example.com:9000",
            "rtmp://example.com/live?key=KEY",
            "rtmp://example.com/live?key=KEY&relay=true",
            "rtsp://example.com/cam",
            "rtp://192.0.2.1:5004",
            "udp://239.1.1.1:1234",
            "rist://example.com:5000",
        ] {
            assert_eq!(of(exclusive), Exclusivity::Exclusive, "{exclusive}");
        }
    }
}
