//! RTSP endpoints. Clients that record or play connect to a port, which sources and outputs share. Callers play from a
//! server or record to one. Packets are passed on unchanged; only the transport differs, an interleaved channel of the
//! connection or a pair of UDP ports.

mod caller;
mod driver;
mod inbound;
mod multicast;
mod receive;
mod redirect;
mod service;
mod talk;
mod udp;
mod wire;

use super::{LossReason, tcp::End};
use crate::{
    flow::shown_url,
    proto::rtsp::{ClientEvent, ProtocolError},
};

/// Returns the reason for a refusal by a server, whose text begins with the status.
fn refused(what: String) -> LossReason {
    if what.starts_with("401") || what.starts_with("403") {
        LossReason::Unauthorized(what.into())
    } else {
        LossReason::Rejected(what.into())
    }
}

/// Returns the reason for which an event of a running session ends it, if it does.
fn end_of(event: &ClientEvent) -> Option<LossReason> {
    match event {
        ClientEvent::Rejected(what) => Some(refused(what.clone())),
        ClientEvent::Redirect(url) => {
            Some(LossReason::Rejected(format!("moved to {}", shown_url(url.reveal())).into()))
        }
        _ => None,
    }
}

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        match fault {
            // Each refusal was counted already, with its reason.
            ProtocolError::TooManyAttempts => End::Stopped,
            _ => End::Lost(LossReason::Protocol(fault.to_string().into())),
        }
    }
}
