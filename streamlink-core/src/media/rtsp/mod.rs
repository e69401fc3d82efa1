//! RTSP media: what a presentation consists of, and where a player may start in it.

mod frame;
mod presentation;
mod start;

pub(crate) use frame::{frame_header, usual_channels};
pub(crate) use presentation::Presentation;
pub(crate) use start::{RtspStarts, is_rtcp};
