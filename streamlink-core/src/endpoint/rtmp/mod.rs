//! RTMP: publishers and players come to a port, which sources and outputs share; callers publish to a server or
//! play from one. Each connection has a task, and no buffer of its own while nothing is in progress.
//!
//! Media goes from a connection's [`Inbound`] into the flow's ring, and from the ring through an [`Outbox`] to a
//! connection: the message's bytes are those that came in, and only chunk headers are made anew.

mod caller;
mod inbound;
mod outbox;
mod port;
mod receive;
mod route;
mod send;

pub(crate) use caller::{Call, Direction, Legs, run_all};
pub(crate) use port::Port;
pub(crate) use route::{PlayTerms, Route, RouteEnd, RouteId};

use super::LossReason;
use crate::proto::rtmp::Fault;
use std::io;

/// How a connection has ended.
#[derive(Debug)]
enum End {
    /// We have ended it.
    Stopped,
    Lost(LossReason),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        End::Lost(LossReason::Protocol(fault.to_string()))
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        End::Lost(match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => LossReason::Closed,
            _ => LossReason::Io(error.to_string()),
        })
    }
}
