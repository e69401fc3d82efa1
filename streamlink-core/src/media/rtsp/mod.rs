//! RTSP media: what a presentation consists of, and where a player may start in it.

mod presentation;
mod start;

pub(crate) use presentation::Presentation;
pub(crate) use start::{RtspStarts, is_rtcp};
