//! Common parts of the protocols over TCP: ports with their routes, and sending from the ring to one connection.

mod executor;
mod io;
mod player;
mod port;
mod route;
mod send;
mod send_queue;
mod sub_waker;

pub(in crate::endpoint) use executor::yield_periodically;
pub(in crate::endpoint) use io::{CLOSE_TIMEOUT, answer, close_with, write_all};
pub(in crate::endpoint) use player::Player;
pub(in crate::endpoint) use port::{HANDSHAKE_TIMEOUT, PendingConnection, Port, PortState, open_port};
pub(in crate::endpoint) use route::{
    OpenMedia, OpenRoute, PlayerLimits, PlayerPlace, Route, RouteMedia, wrong_direction,
};
pub(in crate::endpoint) use send::{SendSession, WritePacing, send};
pub(in crate::endpoint) use send_queue::{SendQueue, Wire};
pub(in crate::endpoint) use sub_waker::SubWaker;

use super::{LossReason, SourceContext};
use crate::net::{TlsError, TlsErrorKind};
use std::{fmt::Debug, sync::Arc, time::Instant};

/// A protocol whose peers connect to a port.
pub(in crate::endpoint) trait Service: Debug + Sized + Send + Sync + 'static {
    /// Name of a route, with the settings that the protocol needs for it.
    type Mount: Debug + Send + Sync;
    /// State that a source keeps from one publisher to the next.
    type SourceSession: Debug + Send;
    /// Name of the protocol in logs.
    const NAME: &'static str;

    /// Creates the state of a source before its first publisher.
    fn inbound(context: SourceContext, now: Instant) -> Self::SourceSession;

    /// Reads the request of a peer, and serves the peer by [`PortState::run_connection`]. Dropped when the port closes.
    fn connection(port: Arc<PortState<Self>>, pending: PendingConnection) -> impl Future<Output = ()> + Send;
}

/// Reason for the end of a connection.
#[derive(Debug)]
pub(in crate::endpoint) enum End {
    /// We have ended the connection.
    Stopped,
    Lost(LossReason),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        if let Some(TlsError { kind, words }) = TlsError::of(&error) {
            return Self::Lost(match kind {
                TlsErrorKind::Untrusted => LossReason::Untrusted(words.as_str().into()),
                TlsErrorKind::Plain | TlsErrorKind::Handshake => LossReason::Protocol(words.as_str().into()),
            });
        }
        Self::Lost(match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => LossReason::Closed,
            _ => LossReason::Io(error.to_string().into()),
        })
    }
}
