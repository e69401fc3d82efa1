//! FLV messages, as RTMP carries them: their types and codecs, and the points where a player may start.

pub(crate) mod amf0;
mod random_access;
mod tag;

pub(crate) use random_access::{FlvRandomAccessTracker, MessageRole};
pub(crate) use tag::{Codec, Role, Tag, is_metadata, set_data_frame};
