//! RTMP endpoints. Publishers and players connect to a port, which sources and outputs share. Callers publish to a
//! server or play from one. An idle connection has no buffer of its own.
//!
//! Media goes from a connection's [`inbound::SourceSession`] into the flow's ring, and from the ring through a
//! [`super::tcp::SendQueue`] to a connection. The bytes of a message are passed on unchanged; only the chunk headers
//! are written anew.

mod caller;
mod connect;
mod driver;
mod inbound;
mod receive;
mod send_session;
mod service;
mod wire;

use super::{LossReason, tcp::End};
use crate::proto::rtmp::ProtocolError;

/// Returns the reason for a refusal by a server. The forms of a refused user or password are those of Adobe's
/// authentication (`authmod=adobe`, `reason=authfailed`, `code=403`), and the words of servers that ask a back end.
fn refused(what: String) -> LossReason {
    let lower = what.to_ascii_lowercase();
    let words = ["authmod=", "reason=authfailed", "code=403", "authentication", "unauthorized", "wrong password"];
    if words.iter().any(|word| lower.contains(word)) {
        LossReason::Unauthorized(what.into())
    } else {
        LossReason::Rejected(what.into())
    }
}

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        Self::Lost(LossReason::Protocol(fault.to_string().into()))
    }
}
