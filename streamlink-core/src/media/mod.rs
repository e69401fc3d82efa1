//! Media: packets, and parsers of their contents.

#[allow(dead_code)] // the entry points of RTMP and RTSP use all of it
pub(crate) mod entry_point;
pub(crate) mod flv;
mod packet;
mod program;
mod remux;
pub(crate) mod rtp;
pub(crate) mod rtsp;
mod track;
pub(crate) mod ts;

pub(crate) use packet::compact;
pub use packet::{MediaFamily, Packet, RtmpKind};
pub use program::ProgramChoice;
pub(crate) use remux::Remuxer;
pub use track::{LeftOut, MediaTrack};
#[allow(unused_imports)] // loss detection uses it
pub(crate) use ts::MediaPresence;
pub(crate) use ts::TsMonitor;
pub use ts::{PidStats, TransportCheck, TransportErrors};
