//! Events of a node's membership.

use super::{MAX_NODES, NodeKey};
use std::fmt;
use streamlink_core::PeerText;

/// Change in the membership of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipEvent {
    /// A node is heard for the first time.
    Heard(NodeKey),
    /// A node has left in order.
    Left(NodeKey),
    /// A node is gone: it was silent for [`TAKEOVER`](super::TAKEOVER), and its lease is over.
    Gone(NodeKey),
    /// A node is silent, and so is a relay by which it may live on. Its exclusive outputs are not taken over.
    Unresolved {
        /// The silent node.
        node: NodeKey,
        /// Relays that cannot be observed.
        relays: Vec<String>,
    },
    /// This node runs the exclusive outputs that are due to it.
    Settled,
    /// No relay has returned a heartbeat of this node in time: it stops its exclusive outputs.
    LeaseLost,
    /// Another process uses the name of this node. The two divide the outputs as two nodes do.
    SameName(NodeKey),
    /// A node is not considered, as the region has [`MAX_NODES`] nodes.
    TooMany(NodeKey),
}

impl fmt::Display for MembershipEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heard(node) => write!(f, "node {node} heard"),
            Self::Left(node) => write!(f, "node {node} has left"),
            Self::Gone(node) => write!(f, "node {node} is gone"),
            Self::Unresolved { node, relays } => {
                let relays = relays.join(", ");
                write!(f, "node {node} is silent, and so is {}: its pushes wait", PeerText::new(relays))
            }
            Self::Settled => f.write_str("settled"),
            Self::LeaseLost => f.write_str("lease lost: no relay answers in time, and all pushes stop"),
            Self::SameName(node) => write!(f, "another process has the name of node {node}"),
            Self::TooMany(node) => write!(f, "node {node} is not considered: more than {MAX_NODES} nodes"),
        }
    }
}
