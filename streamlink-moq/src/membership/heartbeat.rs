//! Heartbeats: the messages by which the nodes of a region know of each other, as JSON.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};
use streamlink_core::PeerText;

/// Version of the message. Messages of another version are refused.
const VERSION: u32 = 1;
/// Maximum length of a heartbeat, in bytes.
pub const MAX_HEARTBEAT: usize = 64 * 1024;
/// Maximum number of nodes of a region.
pub const MAX_NODES: usize = 64;
/// Maximum number of relays of a node.
pub const MAX_RELAYS: usize = 8;
/// Maximum length of the name of a node or a relay, in bytes.
pub const MAX_NAME: usize = 128;

/// Running process of a node. A node that is started again is another one, with the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey {
    /// Name of the node, unique within its region.
    pub id: String,
    /// Random number of the process.
    pub instance: u64,
}

impl AsRef<str> for NodeKey {
    fn as_ref(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:08x})", PeerText::new(&self.id), self.instance >> 32)
    }
}

/// Part that a node takes in its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Stops its exclusive outputs, as its lease is over or it leaves.
    Stopping,
    /// Runs no exclusive output, and does not know the other nodes yet.
    Joining,
    /// Runs no exclusive output, and waits for the others to release those that are due to it.
    Ready,
    /// Runs the exclusive outputs that are due to it.
    Settled,
    /// Has left for good.
    Left,
}

/// Message of a node, sent over each relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    version: u32,
    /// Sender.
    pub node: NodeKey,
    /// Number of the lease. It grows each time the sender has lost its lease.
    pub epoch: u64,
    /// Number of the message within the epoch, from 1.
    pub sequence: u64,
    /// Part that the sender takes.
    pub phase: Phase,
    /// Relays by which the sender may keep its lease.
    pub relays: BTreeSet<String>,
    /// Nodes that the sender knows.
    pub peers: Vec<PeerReport>,
}

/// Knowledge of a node about another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The other node.
    pub node: NodeKey,
    /// Its epoch in the last message received from it.
    pub epoch: u64,
    /// Number of that message.
    pub sequence: u64,
    /// True once the sender has stopped all exclusive outputs that are due to that node in this epoch, and starts none.
    pub admitted: bool,
}

/// Reason why a heartbeat is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// More bytes than [`MAX_HEARTBEAT`].
    #[error("a heartbeat of {0} bytes; at most {MAX_HEARTBEAT} are read")]
    TooLong(usize),
    /// Not JSON of the expected form.
    #[error("not a heartbeat: {0}")]
    Malformed(PeerText),
    /// Version of another release.
    #[error("a heartbeat of version {0}; version {VERSION} is read")]
    Version(u32),
    /// A list or a name is longer than its bound.
    #[error("a heartbeat with {0}")]
    OutOfBounds(&'static str),
}

impl Heartbeat {
    pub(super) fn new(node: NodeKey, epoch: u64, sequence: u64, phase: Phase) -> Self {
        Self { version: VERSION, node, epoch, sequence, phase, relays: BTreeSet::new(), peers: Vec::new() }
    }

    /// Writes the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and lists of them are always written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is not a heartbeat of this version, or not within the bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeartbeatError> {
        if bytes.len() > MAX_HEARTBEAT {
            return Err(HeartbeatError::TooLong(bytes.len()));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |error: serde_json::Error| HeartbeatError::Malformed(PeerText::new(error.to_string()));
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(HeartbeatError::Version(version));
        }
        let heartbeat: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        heartbeat.check()?;
        Ok(heartbeat)
    }

    fn check(&self) -> Result<(), HeartbeatError> {
        let names = self.peers.iter().map(|peer| &peer.node.id).chain(&self.relays).chain([&self.node.id]);
        for name in names {
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                return Err(HeartbeatError::OutOfBounds("a name that is empty, too long or holds control characters"));
            }
        }
        if self.peers.len() > MAX_NODES {
            return Err(HeartbeatError::OutOfBounds("more nodes than a region may have"));
        }
        if self.relays.len() > MAX_RELAYS {
            return Err(HeartbeatError::OutOfBounds("more relays than a node may have"));
        }
        if self.sequence == 0 {
            return Err(HeartbeatError::OutOfBounds("the sequence number 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat() -> Heartbeat {
        let mut heartbeat = Heartbeat::new(NodeKey { id: "n1".into(), instance: 7 }, 0, 1, Phase::Joining);
        heartbeat.relays.insert("relay-a:443".into());
        let node = NodeKey { id: "n2".into(), instance: u64::MAX };
        heartbeat.peers.push(PeerReport { node, epoch: 3, sequence: 4, admitted: true });
        heartbeat
    }

    #[test]
    fn heartbeat_is_read_back() {
        let heartbeat = heartbeat();
        assert_eq!(Heartbeat::from_bytes(&heartbeat.to_bytes()), Ok(heartbeat));
    }

    #[test]
    fn heartbeat_refuses_hostile_input() {
        assert!(matches!(Heartbeat::from_bytes(&vec![b' '; MAX_HEARTBEAT + 1]), Err(HeartbeatError::TooLong(_))));
        assert!(matches!(Heartbeat::from_bytes(b"{"), Err(HeartbeatError::Malformed(_))));
        assert!(matches!(Heartbeat::from_bytes(br#"{"version":2}"#), Err(HeartbeatError::Version(2))));
        assert!(matches!(Heartbeat::from_bytes("[".repeat(60_000).as_bytes()), Err(HeartbeatError::Malformed(_))));
        let refused = |change: fn(&mut Heartbeat)| {
            let mut heartbeat = heartbeat();
            change(&mut heartbeat);
            assert!(matches!(Heartbeat::from_bytes(&heartbeat.to_bytes()), Err(HeartbeatError::OutOfBounds(_))));
        };
        refused(|h| h.node.id.clear());
        refused(|h| h.node.id = "x".repeat(MAX_NAME + 1));
        refused(|h| h.peers[0].node.id = "a\nb".into());
        refused(|h| h.sequence = 0);
        refused(|h| h.peers = vec![h.peers[0].clone(); MAX_NODES + 1]);
        refused(|h| h.relays = (0..=MAX_RELAYS).map(|n| n.to_string()).collect());
    }
}
