//! The wire: the tracks of a flow's broadcast, their objects, and how groups are cut and numbered. See
//! `docs/moq-wire.md`.

mod catalog;
mod cut;
mod framing;
mod headers;
mod media;
mod number;
mod ts;

pub use catalog::{Catalog, MediaTrack};
pub(crate) use cut::{Cut, Cutter};
pub(crate) use framing::{DecodedObject, Kind, MAX_OBJECT, MediaPacket, ObjectBuilder, decode};
pub use framing::{FrameError, decode_object};
pub(crate) use headers::Headers;
pub(crate) use media::{Carriage, is_transport_stream};
pub(crate) use number::sequence as rtp_sequence;
pub(crate) use ts::programs;

/// Name of the track that describes the broadcast.
pub const CATALOG_TRACK: &str = "catalog";
/// Name of the track that carries the media.
pub const MEDIA_TRACK: &str = "media";
/// Name of the track on which the node of the source tells its state.
pub const STATUS_TRACK: &str = "status";

/// Returns the name of the track with the outputs for a region: `outputs/<region>`.
pub fn outputs_track(region: &str) -> String {
    format!("outputs/{region}")
}
