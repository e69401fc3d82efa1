//! RTSP media: what a presentation consists of, and where a player may start in it.

mod presentation;
mod random_access;

pub(crate) use presentation::Presentation;
pub(crate) use random_access::{RtspRandomAccessTracker, is_rtcp};
