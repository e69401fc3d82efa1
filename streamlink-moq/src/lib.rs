//! Flows between machines, over a cluster of MoQ relays.

mod address;
mod error;
mod event;
mod merge;
mod publish;
mod subscribe;
mod transport;
mod watch;
mod wire;

pub use address::{AddressError, DEFAULT_PORT, MAX_PATH, MAX_RELAYS, MoqAddress, RelayAddress, Token};
pub use error::Error;
pub use event::{MoqEvent, MoqEvents};
pub use publish::{Publication, PublicationStats, PublishSettings, RelayStats};
pub use subscribe::{Incoming, IncomingStats, LegStats, SubscribeSettings};
pub use transport::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, LinkSettings, LinkState, LinkStats, LinkStatus,
    Object, RelayLink, Relays, SubscribeOptions, TrackOptions, TrackReader, TrackWriter, unix_micros,
};
pub use wire::{
    CATALOG_TRACK, Catalog, FrameError, MEDIA_TRACK, MediaTrack, STATUS_TRACK, decode_object, outputs_track,
};
