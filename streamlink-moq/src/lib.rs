//! Flows of StreamLink between machines, over a cluster of MoQ relays.
//!
//! A [`Publication`] writes the media of a flow, which it takes from a tap, into a broadcast on every relay. An
//! [`Incoming`] flow receives that broadcast over each of its relays (a *leg* each), passes on the first copy of each object,
//! and so feeds an app source: the death of a relay is not seen. MoQ is a hop, not a conversion: what goes in as SRT,
//! RTP, RTMP or RTSP comes out as packets of the same family, byte for byte.
//!
//! ```no_run
//! use std::sync::Arc;
//! use streamlink_core::{Bitrate, Engine, Flow, Output, Source};
//! use streamlink_moq::{Incoming, LinkSettings, MoqAddress, Publication, PublishSettings, Relays, SubscribeSettings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new()?;
//! let address: MoqAddress = "moq://relay-a:4443,relay-b:4443/live/cam1".parse()?;
//! let settings = LinkSettings::new().root("/etc/streamlink/relays.pem");
//! engine.block_on(async {
//!     // On the machine of the source:
//!     let flow = Flow::builder("cam1", Bitrate::mbps(20))
//!         .source(Source::srt_listener("venue", "0.0.0.0:9000"))
//!         .output(Output::tap("regions"))
//!         .build()?;
//!     let flow = engine.start(flow).await?;
//!     let relays = Arc::new(Relays::connect(address.relays(), &settings, address.token())?);
//!     let _publication =
//!         Publication::of_flow(&relays, address.path(), &flow, "regions", &PublishSettings::new())?;
//!
//!     // On a machine of the region:
//!     let relays = Arc::new(Relays::connect(address.relays(), &settings, address.token())?);
//!     let incoming = Incoming::open(&relays, address.path(), SubscribeSettings::new())?;
//!     let catalog = incoming.catalog().await.ok_or("the relays have ended")?;
//!     println!("{} comes from {}", address, catalog.media.input);
//!     let edge = Flow::builder("cam1-eu", Bitrate::mbps(20))
//!         .source(Source::app_datagrams("moq"))
//!         .output(Output::srt_listener("players", "0.0.0.0:9001"))
//!         .build()?;
//!     let edge = engine.start(edge).await?;
//!     incoming.feed(edge.app_source("moq")?)?;
//!     while let Some(event) = incoming.events().next().await {
//!         println!("{event:?}: {:?}", incoming.stats());
//!     }
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Failures
//!
//! | what fails | what is seen |
//! |---|---|
//! | one relay of two | nothing: the other leg goes on; the leg returns by itself |
//! | all relays, for less than `max_age` (5 s) | a silence; then what was sent meanwhile, whole |
//! | one of two ingest nodes of an RTP stream (ST 2022-7), see [`PublishSettings::instance`] | nothing |
//! | what no leg brings within `wait` (1 s) | it is given up, counted, and told as [`MoqEvent::Lost`] |
//!
//! Where a leg loses more than about 1 % of its packets, QUIC no longer makes up for it in time, and
//! [`MoqEvent::LossHigh`] says so: such a region is better fed by SRT, see [`SrtLink`].
//!
//! # Parts
//!
//! [`Relays`], [`RelayLink`], [`Broadcast`], [`TrackWriter`] and [`TrackReader`] are the plain parts: links that connect
//! again by themselves, announcements, and small tracks whose objects replace each other. What is on the wire stands in
//! `docs/moq-wire.md`.
//!
//! Text of relays is sanitized, no text shows a token, and whatever a relay sends is bounded and counted.

mod address;
mod error;
mod event;
mod lease;
mod link_json;
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
mod srt_link;
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
pub use srt_link::{SrtLink, SrtTarget};
pub use subscribe::{Incoming, IncomingStats, LegStats, SubscribeSettings};
pub use transport::{
    Announcement, Announcements, Broadcast, GroupReader, GroupWriter, LinkSettings, LinkState, LinkStats, LinkStatus,
    Object, RelayLink, Relays, SubscribeOptions, TrackOptions, TrackReader, TrackWriter, unix_micros,
};
pub use wire::{
    CATALOG_TRACK, Catalog, FrameError, MEDIA_TRACK, MediaTrack, STATUS_TRACK, decode_object, outputs_track,
};
