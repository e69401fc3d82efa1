//! Shared parts of the listening ports of all protocols.

mod peers;

pub(in crate::endpoint) use peers::{PeerRegistry, PeerSlot};
