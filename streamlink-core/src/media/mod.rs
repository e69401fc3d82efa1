//! Media: packets, and parsers of their contents.

pub(crate) mod flv;
mod packet;
mod remux;
pub(crate) mod rtp;
pub(crate) mod rtsp;
mod ts;

pub(crate) use packet::compact;
pub use packet::{MediaFamily, Packet, RtmpKind};
pub(crate) use remux::Remuxer;
pub(crate) use ts::TsMonitor;
pub use ts::{PidStats, TransportCheck, TransportErrors};
