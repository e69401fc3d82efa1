//! Flows between machines, over a cluster of MoQ relays.

mod address;
mod error;
mod lease;
mod media;
pub mod membership;
mod node;
pub mod outputs;
pub mod paths;
pub mod placement;
pub mod seal;
pub mod status;
mod transport;
mod watch;

pub use address::{AddressError, DEFAULT_PORT, MAX_PATH, MAX_RELAYS, MoqAddress, RelayAddress, Token};
pub use error::Error;
pub use lease::Lease;
pub use node::{Node, NodeEvent, NodeOptions, NodeState};
pub use transport::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, LinkSettings, LinkState, LinkStats, LinkStatus,
    Object, RelayLink, Relays, SubscribeOptions, TrackOptions, TrackReader, TrackWriter, unix_micros,
};
