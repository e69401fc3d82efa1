//! Flows between machines, over a cluster of MoQ relays.

mod address;
mod error;
mod event;
mod lease;
mod media;
pub mod membership;
mod merge;
mod node;
pub mod outputs;
pub mod paths;
pub mod placement;
mod publish;
mod region;
pub mod seal;
pub mod status;
mod subscribe;
mod track_watch;
mod transport;
mod watch;
mod wire;

pub use address::{AddressError, DEFAULT_PORT, MAX_PATH, MAX_RELAYS, MoqAddress, RelayAddress, Token};
pub use error::Error;
pub use event::{MoqEvent, MoqEvents};
pub use lease::Lease;
pub use node::{Node, NodeEvent, NodeOptions, NodeState};
pub use publish::{Publication, PublicationStats, PublishSettings, RelayStats};
pub use region::{Cluster, RegionLinkOptions, region_link};
pub use subscribe::{Incoming, IncomingStats, LegStats, SubscribeSettings};
pub use transport::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, LinkSettings, LinkState, LinkStats, LinkStatus,
    Object, RelayLink, Relays, SubscribeOptions, TrackOptions, TrackReader, TrackWriter, unix_micros,
};
pub use wire::{
    CATALOG_TRACK, Catalog, FrameError, MEDIA_TRACK, MediaTrack, STATUS_TRACK, decode_object, outputs_track,
};
