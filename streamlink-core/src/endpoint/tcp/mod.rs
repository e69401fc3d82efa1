//! What protocols over TCP share: ports with their routes, and the way of media from the ring to one connection.

mod crew;
mod outbox;
mod port;
mod rare;
mod route;
mod say;
mod send;

pub(in crate::endpoint) use crew::give_way;
pub(in crate::endpoint) use outbox::{Outbox, Wire};
pub(crate) use port::Port;
pub(in crate::endpoint) use port::{HANDSHAKE_TIMEOUT, Shared, Visit};
pub(in crate::endpoint) use rare::Door;
pub(in crate::endpoint) use route::{OpenEnd, OpenRoute, Player, PlayerPlace};
pub(crate) use route::{PlayTerms, Route, RouteEnd, RouteId};
pub(in crate::endpoint) use say::{FAREWELL, answer, farewell, write_all};
pub(in crate::endpoint) use send::{Pace, Talk, send};

use super::{LossReason, SourceContext};
use std::{fmt::Debug, io, sync::Arc, time::Instant};

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

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        End::Lost(match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => LossReason::Closed,
            _ => LossReason::Io(error.to_string()),
        })
    }
}
