//! RTMP: publishers and players come to a port, which sources and outputs share; callers publish to a server or
//! play from one. A connection has no buffer of its own while nothing is in progress.
//!
//! Media goes from a connection's [`inbound::Inbound`] into the flow's ring, and from the ring through an
//! [`super::tcp::SendQueue`] to a connection: the message's bytes are those that came in, and only chunk headers are made
//! anew.

mod caller;
mod inbound;
mod receive;
mod service;
mod talk;
mod wire;

pub(crate) use caller::{Call, Direction, Legs, run_all};
pub(crate) use service::{Place, Rtmp};

use super::{LossReason, tcp::End};
use crate::proto::rtmp::ProtocolError;

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        End::Lost(LossReason::Protocol(fault.to_string().into()))
    }
}
