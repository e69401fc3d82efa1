//! RTMP endpoints. Publishers and players connect to a port, which sources and outputs share. Callers publish to a
//! server or play from one. An idle connection has no buffer of its own.
//!
//! Media goes from a connection's [`inbound::SourceSession`] into the flow's ring, and from the ring through a
//! [`super::tcp::SendQueue`] to a connection. The bytes of a message are passed on unchanged; only the chunk headers
//! are written anew.

mod caller;
mod connect;
mod inbound;
mod receive;
mod service;
mod talk;
mod wire;

pub(crate) use caller::{Destinations, Direction, RtmpClient, run_all};
pub(crate) use service::{Place, Rtmp};

use super::{LossReason, tcp::End};
use crate::proto::rtmp::ProtocolError;

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        End::Lost(LossReason::Protocol(fault.to_string().into()))
    }
}
