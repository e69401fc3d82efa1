//! Flows between machines, over a cluster of MoQ relays.
