//! Flows between machines, over a cluster of MoQ relays.

pub mod membership;
pub mod placement;
