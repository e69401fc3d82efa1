//! Media: packets, and parsers of their contents.

#[allow(dead_code)] // the remux uses the rest
pub(crate) mod entry_point;
pub(crate) mod flv;
mod packet;
mod payload;
mod program;
mod remux;
pub(crate) mod rtp;
pub(crate) mod rtsp;
pub(crate) mod track;
mod transport_check;
pub(crate) mod ts;

pub(crate) use packet::compact;
pub use packet::{MediaFamily, Packet, RtmpKind};
pub use payload::PayloadProblem;
pub use program::ProgramChoice;
pub(crate) use remux::Remuxer;
pub use track::{LeftOut, MediaTrack};
#[cfg(test)]
pub(crate) use transport_check::TransportChecker;
pub use transport_check::{TransportCheck, TransportErrors};
pub use ts::PidStats;
pub(crate) use ts::TsMonitor;
