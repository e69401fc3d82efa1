//! Flows between machines, over a cluster of MoQ relays.

mod address;
mod error;
pub mod membership;
pub mod outputs;
pub mod paths;
pub mod placement;
pub mod seal;
pub mod status;
mod transport;

pub use address::{AddressError, DEFAULT_PORT, MAX_PATH, MAX_RELAYS, MoqAddress, RelayAddress, Token};
pub use error::Error;
pub use transport::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, LinkSettings, LinkState, LinkStats, LinkStatus,
    Object, RelayLink, Relays, SubscribeOptions, TrackOptions, TrackReader, TrackWriter, unix_micros,
};
