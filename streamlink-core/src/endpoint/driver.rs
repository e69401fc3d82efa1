//! Interface between the engine and the protocols. A protocol implements [`SourceDriver`] and [`OutputDriver`] for its
//! settings, and [`super::kinds`] names them. The engine knows no more of a protocol than this.
//!
//! An endpoint is opened first, which may fail and starts nothing. [`OpenSource::start`] and [`OpenOutput::start`] then
//! cannot fail. These traits are used when an endpoint is opened, started, changed and ended, never for a packet.

use super::{
    AppSource, Bandwidth, EngineResources, EventSink, FlowBandwidth, FlowMedia, Resolver, SourceContext, Status,
    fanout::Sink, message_ring::RemuxStatus,
};
use crate::{
    error::Error,
    flow::{Allowlist, GroupNode, PeerUrl},
    net::Egress,
    random::Random,
    router::Reader,
};
use futures_util::future::BoxFuture;
use std::{fmt::Debug, io, net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Future that drives an endpoint until it is stopped.
pub(crate) type Task = BoxFuture<'static, ()>;

/// Flow and endpoint named in errors.
#[derive(Debug)]
pub(crate) struct EndpointLabel<'a> {
    flow: &'a str,
    endpoint: String,
}

impl<'a> EndpointLabel<'a> {
    pub(crate) fn source(flow: &'a str, name: &str) -> Self {
        Self { flow, endpoint: format!("source `{name}`") }
    }

    pub(crate) fn output(flow: &'a str, name: &str) -> Self {
        Self { flow, endpoint: format!("output `{name}`") }
    }

    /// Returns the error of an address that cannot be bound.
    pub(crate) fn bind(&self, address: SocketAddr, cause: io::Error) -> Error {
        Error::Bind { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), address, cause }
    }

    /// Returns the error of the operating system, with what could not be done.
    pub(crate) fn io(&self, what: String, cause: io::Error) -> Error {
        Error::Io { flow: self.flow.to_owned(), endpoint: self.endpoint.clone(), what, cause }
    }
}

/// Surroundings in which a source is opened.
#[derive(Debug)]
pub(crate) struct SourceOpening<'a> {
    pub(crate) resources: &'a EngineResources,
    pub(crate) label: EndpointLabel<'a>,
    pub(crate) bandwidth: Bandwidth,
    /// True if the packets pass through a merge, which orders them within a window of its own.
    pub(crate) is_merged: bool,
}

/// Settings of a source that its protocol can open.
pub(crate) trait SourceDriver {
    /// Opens the source's sockets, within the runtime. Starts nothing.
    ///
    /// # Errors
    /// When an address cannot be bound, or a resource of the engine is missing.
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error>;
}

/// Source with its sockets open.
pub(crate) trait OpenSource: Send {
    /// Makes the source ready to receive into the flow. Called within the runtime.
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, context: SourceContext) -> StartedSource;
}

/// Source that receives, or does so as soon as the engine runs its driver.
pub(crate) struct StartedSource {
    /// URL to which encoders send, if the source listens. It may hold a key that grants access.
    pub(crate) input_address: Option<PeerUrl>,
    pub(crate) drive: SourceDrive,
}

/// Driver of a source.
pub(crate) enum SourceDrive {
    /// Task that receives until the source is stopped.
    Task(Task),
    /// Function that makes a task which connects, receives and reconnects until its context is stopped. A cold source
    /// is connected only while it is needed, and may be so several times.
    Caller(Box<dyn Fn(SourceContext) -> Task + Send>),
    /// Route on a port, which drives it.
    Listener(ListenerEntry),
    /// The host pushes the media.
    App(AppSource),
}

/// Parts of a flow and its engine that every caller needs.
pub(super) struct CallerParts {
    pub(super) random: Random,
    pub(super) resolver: Resolver,
    pub(super) status: Arc<Status>,
    pub(super) events: EventSink,
    pub(super) stop: CancellationToken,
}

impl CallerParts {
    pub(super) fn of_source(resolver: &Resolver, context: &SourceContext) -> Self {
        Self {
            random: context.random.clone(),
            resolver: resolver.clone(),
            status: context.status.clone(),
            events: context.events.clone(),
            stop: context.stop.clone(),
        }
    }

    /// Returns the parts of an output, with a stop token of its own.
    pub(super) fn of_output(resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> Self {
        let stop = CancellationToken::new();
        let random = resources.random.clone();
        let resolver = resources.resolver.clone();
        Self { random, resolver, status, events: flow.events.clone(), stop }
    }
}

/// Surroundings in which an output is opened.
#[derive(Debug)]
pub(crate) struct OutputOpening<'a> {
    pub(crate) resources: &'a EngineResources,
    pub(crate) label: EndpointLabel<'a>,
    /// Local egress of the output's region.
    pub(crate) egress: Egress,
    pub(crate) bandwidth: FlowBandwidth,
    pub(crate) status: Arc<Status>,
}

/// Result of opening an output, which may wait for name resolution.
pub(crate) type Opened<'a> = BoxFuture<'a, Result<Box<dyn OpenOutput>, Error>>;

/// Settings of an output that its protocol can open.
pub(crate) trait OutputDriver: Sync {
    /// Opens the output's sockets, within the runtime. Starts nothing; dropping the future closes them.
    ///
    /// # Errors
    /// When an address cannot be bound or resolved, or a resource of the engine is missing.
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a>;
}

/// Output with its sockets open.
pub(crate) trait OpenOutput: Send {
    /// Makes the output ready to send the media that the flow publishes from now on. Called within the runtime, under the lock of
    /// the flow's outputs, so it neither waits nor calls the host.
    fn start(self: Box<Self>, resources: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput;
}

/// Output that sends, or does so as soon as the engine runs its driver.
pub(crate) struct StartedOutput {
    /// URL from which players fetch, if the output listens.
    pub(crate) url: Option<PeerUrl>,
    /// Peers to which the output is connected from the beginning.
    pub(crate) peers: Vec<SocketAddr>,
    /// Status of the remux whose messages the output sends, if it does not send the flow's own packets.
    pub(crate) remux: Option<Arc<RemuxStatus>>,
    /// Sender of changed members, if the output is a group of connections.
    pub(crate) members: Option<watch::Sender<Vec<GroupNode>>>,
    pub(crate) drive: OutputDrive,
}

impl StartedOutput {
    /// Returns an output that neither listens nor is connected yet.
    pub(crate) fn new(drive: OutputDrive) -> Self {
        Self { url: None, peers: Vec::new(), remux: None, members: None, drive }
    }
}

/// Driver of an output.
pub(crate) enum OutputDrive {
    /// Sinks of the flow's fan-out.
    Sinks(Vec<Box<dyn Sink>>),
    /// Task of the output's own, and the token that ends it.
    Task { stop: CancellationToken, task: Task },
    /// Route on a port, which drives it.
    Listener(ListenerEntry),
    /// The host takes the media.
    Tap(Reader),
}

pub(crate) use super::listener::RouteId;

/// Port that sources and outputs share.
pub(crate) trait SharedPort: Debug + Send + Sync {
    /// Changes the allowlist and the maximum number of peers of a route. Disconnects peers that are no longer allowed.
    fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>);

    /// Disconnects the players of a route at an address. Returns true if there were any.
    fn kick(&self, route: RouteId, peer: SocketAddr) -> BoxFuture<'_, bool>;

    /// Removes a route at once. The future waits until its connections have ended.
    fn remove(&self, route: RouteId) -> Task;

    /// Drops a handle of the port. Waits until the socket is closed if it was the last one.
    fn release(self: Arc<Self>) -> Task;
}

/// Route of a source or an output on a shared port. The port stays open as long as an entry exists.
#[derive(Clone, Debug)]
pub(crate) struct ListenerEntry {
    port: Arc<dyn SharedPort>,
    route: RouteId,
}

impl ListenerEntry {
    pub(crate) fn new(port: Arc<dyn SharedPort>, route: RouteId) -> Self {
        Self { port, route }
    }

    /// See [`SharedPort::edit`].
    pub(crate) fn edit(&self, allow: Allowlist, max_peers: Option<u32>) {
        self.port.edit(self.route, allow, max_peers);
    }

    /// See [`SharedPort::kick`].
    pub(crate) async fn kick(&self, peer: SocketAddr) -> bool {
        self.port.kick(self.route, peer).await
    }

    /// See [`SharedPort::remove`].
    pub(crate) fn remove(&self) -> Task {
        self.port.remove(self.route)
    }

    /// See [`SharedPort::release`].
    pub(crate) async fn release(self) {
        self.port.release().await;
    }
}
