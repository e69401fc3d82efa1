//! RTSP media: presentations, and the points in them where a player may start.

mod presentation;
mod random_access;
mod sdp;

pub(crate) use presentation::Presentation;
pub(crate) use random_access::{RtspRandomAccessTracker, break_links_of_payload, is_rtcp};
