//! What the listening ports of all protocols share.

mod peers;

pub(in crate::endpoint) use peers::{PeerRegistry, PeerSlot};
