//! The adapter to MoQ: the only files that name moq-net and moq-tokio. All else of the crate uses these types.

mod in_order;
mod lane;
mod relay;
mod settings;
mod tracks;

pub use relay::{LinkState, LinkStats, LinkStatus, RelayLink, Relays};
pub use settings::LinkSettings;
pub(crate) use tracks::{AnnouncedPaths, MAX_GROUP, MAX_GROUP_OBJECTS};
pub use tracks::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, Object, SubscribeOptions, TrackOptions,
    TrackReader, TrackWriter, unix_micros,
};
