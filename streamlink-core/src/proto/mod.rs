//! The protocols as state machines: given bytes and time, without sockets, clocks or randomness of their own.

mod foreign;
pub(crate) mod rist;
pub(crate) mod rtmp;
pub(crate) mod rtp;
pub(crate) mod rtsp;
pub(crate) mod srt;
