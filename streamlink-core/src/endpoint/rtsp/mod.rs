//! RTSP: clients that record or play come to a port, which sources and outputs share; callers play from a server, or
//! record to one. Packets are handed on as they came; only their envelope differs: a channel of the connection, or a
//! pair of UDP ports.

mod caller;
mod cast;
mod inbound;
mod receive;
mod service;
mod talk;
mod udp;
mod wire;

pub(crate) use crate::proto::rtsp::User;
pub(crate) use caller::{Call, Direction};
pub(crate) use cast::{Cast, MulticastGroup};
pub(crate) use service::{Place, Rtsp};

use super::{LossReason, tcp::End};
use crate::proto::rtsp::ProtocolError;

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        End::Lost(LossReason::Protocol(fault.to_string().into()))
    }
}
