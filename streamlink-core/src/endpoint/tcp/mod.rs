//! What protocols over TCP share: ports with their routes, and the way of media from the ring to one connection.

mod executor;
mod io;
mod port;
mod route;
mod send;
mod send_queue;
mod sub_waker;

pub(in crate::endpoint) use executor::yield_periodically;
pub(in crate::endpoint) use io::{CLOSE_TIMEOUT, answer, close_with, write_all};
pub(crate) use port::Port;
pub(in crate::endpoint) use port::{HANDSHAKE_TIMEOUT, Shared, Visit};
pub(in crate::endpoint) use route::{OpenEnd, OpenRoute, Player};
pub(crate) use route::{PlayerLimits, Route, RouteEnd, RouteId};
pub(in crate::endpoint) use send::{SendSession, WritePacing, send};
pub(in crate::endpoint) use send_queue::{SendQueue, Wire};
pub(in crate::endpoint) use sub_waker::SubWaker;

use super::{LossReason, SourceContext};
use std::{fmt::Debug, sync::Arc, time::Instant};

/// A protocol whose peers connect to a port.
pub(crate) trait Service: Debug + Sized + Send + Sync + 'static {
    /// What names a route, and what the protocol needs to know of it.
    type Place: Debug + Send + Sync;
    /// What a source keeps from publisher to publisher.
    type Inbound: Debug + Send;
    /// Its name in logs.
    const NAME: &'static str;

    /// What a source keeps, before its first publisher.
    fn inbound(context: SourceContext, now: Instant) -> Self::Inbound;

    /// Finds out what a peer wants, and lets it have that by [`Shared::take_on`]. Dropped when the port closes.
    #[allow(private_interfaces)]
    fn connection(shared: Arc<Shared<Self>>, visit: Visit) -> impl Future<Output = ()> + Send;
}

/// How a connection has ended.
#[derive(Debug)]
pub(in crate::endpoint) enum End {
    /// We have ended it.
    Stopped,
    Lost(LossReason),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        End::Lost(match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => LossReason::Closed,
            _ => LossReason::Io(error.to_string().into()),
        })
    }
}
