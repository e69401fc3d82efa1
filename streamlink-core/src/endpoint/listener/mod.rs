//! The listening side of all protocols: a port that sources and outputs share, its routes, and the admission of peers.
//!
//! A peer is admitted in this order. A step that fails counts a refusal at the routes that the peer may have meant, and
//! the steps after it are not taken.
//!
//! | step | asks | reason of a refusal |
//! |---|---|---|
//! | address | [`RouteTable::admits`]: a route whose allowlist holds the address | `NotAllowed` |
//! | attempts | [`PeerRegistry::may_attempt`]: refusals that the address has left | `TooManyAttempts` |
//! | connection | [`Places::take_connection`]: a place of the address and of the port, and for TCP a descriptor | `TooManyFromAddress`, `TooManyPeers`, `OutOfDescriptors` |
//! | pending | [`Places::take_pending`]: the same until the request is decided | as above; SRT: `TooManyAttempts` |
//! | route | the protocol: a route that the request names, in its direction | `NoSuchStream`, `Incompatible` |
//! | allowlist | [`Admission::admits`]: that of the route | `NotAllowed` |
//! | host | [`AccessGate`]: the access hook, if the engine has one | `ByHost`, `TooManyAttempts` |
//! | room | [`Admission::max_peers`], [`Admission::may_take_over`]: a source has one publisher, an output a maximum of players | `InUse`, `TooManyPeers` |
//!
//! A TCP connection takes its places when it is accepted. An SRT caller takes them with its request, after it has proved
//! its address, because until then its address may be forged and no state is kept for it. For the same reason its
//! route, allowlist and room come before its places.

mod access_gate;
mod admission;
mod peers;
mod places;
mod port;
mod refusals;
mod routes;

pub(in crate::endpoint) use access_gate::AccessGate;
pub(in crate::endpoint) use admission::Admission;
use peers::PeerRegistry;
pub(in crate::endpoint) use places::{ConnectionPlace, PendingPlace, Places};
pub(in crate::endpoint) use port::{Port, PortProtocol};
pub(in crate::endpoint) use refusals::RefusalLog;
pub(crate) use routes::RouteId;
pub(in crate::endpoint) use routes::{HasAdmission, RouteTable};
