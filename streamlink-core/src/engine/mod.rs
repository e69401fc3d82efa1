//! The [`Engine`] that runs flows, the handle of a running flow, statistics, and metrics.

mod changes;
#[cfg(test)]
mod changes_tests;
#[cfg(test)]
mod derivation_tests;
mod edit;
mod handle;
#[cfg(test)]
mod host_tests;
mod live_sources;
#[cfg(test)]
mod live_tests;
mod metrics;
mod outputs;
mod region;
mod running;
mod sources;
mod start;
mod stats;
#[cfg(test)]
mod unknown_protocol_tests;

pub use edit::{Applied, OutputEdit, SourceEdit};
pub use handle::FlowHandle;
pub use region::{
    RegionFlow, RegionKick, RegionLink, RegionOutput, RegionReporter, RegionTask, RegionUpdate, RegionUpdates,
};
pub use stats::{EndpointStats, FlowStats, RegionStats};

use crate::{
    endpoint::{Access, AccessHook, AccessRequest, Drivers, EngineResources, Ports, Resolver, TlsIdentity},
    error::{ConfigError, ConfigErrorKind, ConfigErrors, Error},
    event::{EngineEventSink, EngineEvents},
    flow::{Claim, Flow, PeerLimits},
    lock::{self, Guard, lock},
    net::{Egress, TlsClient, TlsServer},
    random::{self, Random},
};
use futures_util::future::join_all;
use region::{Region, RemoteRegion};
use running::Running;
use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Engine that runs flows, on a runtime of its own or on the host's. It also holds the regions and settings that all
/// its flows share.
///
/// An engine is cheap to clone. Dropping its last clone stops its flows without waiting. [`Engine::shutdown`] waits.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Owner>);

/// Owner of an engine's flows and runtime, shared by the clones of the engine.
#[derive(Debug)]
struct Owner {
    shared: Arc<EngineState>,
    /// Runtime of the engine's own, if it has one. Dropped in the background.
    runtime: Option<Runtime>,
}

/// State of an engine that the handles of its running flows share.
#[derive(Debug)]
pub(crate) struct EngineState {
    runtime: Handle,
    workers: usize,
    regions: Mutex<BTreeMap<String, Region>>,
    drivers: Drivers,
    resources: EngineResources,
    flows: Mutex<HashMap<String, Arc<Running>>>,
    /// Readers of the events of all flows.
    events: EngineEventSink,
    /// Claimed local addresses and keys, each with the id and name of its flow.
    claims: Mutex<HashMap<Claim, (u64, String)>>,
    next_id: AtomicU64,
    /// Set by a shutdown, after which no flow starts.
    is_shut_down: AtomicBool,
}

impl EngineState {
    fn flows(&self) -> Guard<'_, HashMap<String, Arc<Running>>> {
        lock(&self.flows)
    }

    fn regions(&self) -> Guard<'_, BTreeMap<String, Region>> {
        lock(&self.regions)
    }

    fn claims(&self) -> Guard<'_, HashMap<Claim, (u64, String)>> {
        lock(&self.claims)
    }

    /// Claims an address and key for a running flow.
    fn claim(&self, id: u64, flow: &str, claim: &Claim) -> Result<(), ConfigErrorKind> {
        let mut claims = self.claims();
        if let Some((_, owner)) = claims.get(claim) {
            return Err(ConfigErrorKind::Duplicate(format!(
                "flow `{owner}` already listens on {claim} with the same key"
            )));
        }
        claims.insert(claim.clone(), (id, flow.to_owned()));
        Ok(())
    }

    /// Gives back one claim of a flow, if the flow still holds it.
    fn unclaim(&self, id: u64, claim: &Claim) {
        let mut claims = self.claims();
        if claims.get(claim).is_some_and(|(owner, _)| *owner == id) {
            claims.remove(claim);
        }
    }

    /// Gives back all claims of a flow.
    fn release(&self, id: u64) {
        self.claims().retain(|_, (owner, _)| *owner != id);
    }
}

/// Returns the generator of an engine. It is seeded by the system once, so that keys, nonces and cookies cannot fail
/// later.
fn seed(entropy: fn(&mut [u8]) -> io::Result<()>) -> Result<Random, Error> {
    Random::seeded_by(entropy).map_err(Error::Randomness)
}

fn tls_error(field: &str, what: String) -> Error {
    ConfigErrors::from(ConfigError::new(field, ConfigErrorKind::Conflict(what))).into()
}

/// Local egress of the packets of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionEgress {
    /// Local address to which the sockets of the output are bound.
    Address(IpAddr),
    /// Name of an interface.
    Interface(String),
}

/// Builder of an [`Engine`], with its settings.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EngineBuilder {
    workers: Option<usize>,
    regions: BTreeMap<String, Region>,
    public_host: Option<String>,
    access_hook: Option<AccessHook>,
    peer_limits: PeerLimits,
    resolver: Resolver,
    drivers: Drivers,
    tls_server: Option<TlsServer>,
    tls_roots: Vec<u8>,
}

impl EngineBuilder {
    /// Sets the number of threads of the engine's own runtime (one for each processor core; 1–1024). Flows and
    /// connections add no threads.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads.clamp(1, 1024));
        self
    }

    /// Adds a region from which outputs can send.
    /// ```
    /// use streamlink_core::{Bitrate, Engine, Flow, Output, RegionEgress, Source};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::builder().region("local", RegionEgress::Address("127.0.0.1".parse()?)).build()?;
    /// let flow = Flow::builder("match-day", Bitrate::mbps(20))
    ///     .source(Source::rtp("venue", "127.0.0.1:0"))
    ///     .output(Output::rtp("studio", "127.0.0.1:5004").region("local"))
    ///     .build()?;
    /// engine.block_on(engine.start(flow))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn region(mut self, name: impl Into<String>, egress: RegionEgress) -> Self {
        let egress = match egress {
            RegionEgress::Address(address) => Egress { address: Some(address), ..Egress::default() },
            RegionEgress::Interface(name) => Egress { interface: Some(name), ..Egress::default() },
        };
        self.regions.insert(name.into(), Region::Local(egress));
        self
    }

    /// Adds a region on other machines, and the link to it. Outputs with this [`region`](crate::Output::region) run
    /// there; everything else about them stays as it is for a region of this machine.
    pub fn remote_region(mut self, name: impl Into<String>, link: Arc<dyn RegionLink>) -> Self {
        let name = name.into();
        self.regions.insert(name.clone(), Region::Remote(RemoteRegion::new(name, link)));
        self
    }

    /// Sets the host name that input addresses and playback URLs show for listeners on the unspecified address. The
    /// default is the first address of this machine that is not a loopback one.
    pub fn public_host(mut self, host: impl Into<String>) -> Self {
        self.public_host = Some(host.into());
        self
    }

    /// Sets the access callback, which may block. It is asked about every publisher and player of a listener that the
    /// allowlist admits, before the peer is served. It may admit the peer, choose its passphrase, or reject it with a
    /// code.
    ///
    /// The callback runs on threads for blocking work, which do not delay media, with at most 16 concurrent calls for
    /// each port. If it panics or does not answer within 2 seconds, the peer is refused. Stopping a flow waits until
    /// the calls about its peers have returned, except within such a call.
    /// ```
    /// use streamlink_core::{Access, Engine};
    ///
    /// # fn main() -> Result<(), streamlink_core::Error> {
    /// let engine = Engine::builder()
    ///     .access(|request| match (request.publishes, request.stream_id.as_deref()) {
    ///         (true, Some(id)) if !id.starts_with("press/") => Access::Reject(1403), // as HTTP 403
    ///         _ => Access::Accept,
    ///     })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn access(mut self, ask: impl Fn(&AccessRequest) -> Access + Send + Sync + 'static) -> Self {
        self.access_hook = Some(AccessHook::Blocking(Arc::new(ask)));
        self
    }

    /// Sets an access callback that answers later, in place of [`EngineBuilder::access`]: the future that it returns may
    /// wait, for example for another service, but must not block.
    ///
    /// Each future runs in a task of its own on the engine's runtime, with at most 256 at a time for each port. It is
    /// dropped, and the peer refused, if it has not answered within 2 seconds.
    pub fn access_later<F>(mut self, ask: impl Fn(AccessRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Access> + Send + 'static,
    {
        self.access_hook = Some(AccessHook::Later(Arc::new(move |request| Box::pin(ask(request)))));
        self
    }

    /// Sets the limits of one peer address on a listening port.
    pub fn peer_limits(mut self, limits: PeerLimits) -> Self {
        self.peer_limits = limits;
        self
    }

    /// Sets the certificate chain, the server's own certificate first, and the private key of listeners that speak TLS,
    /// as PEM. [`Engine::set_tls_identity`] replaces them while the engine runs.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together, or this build has no TLS (the feature `tls`).
    pub fn tls_identity(mut self, certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        self.tls_server = Some(TlsServer::new(certificates, key).map_err(|what| tls_error("tls_identity", what))?);
        Ok(self)
    }

    /// Sets certificates, as PEM, that callers with TLS trust beside those of the system: of authorities, and of servers
    /// themselves, also if they have signed them with their own key. Dates and the host name are checked in both cases.
    /// A caller may name the fingerprint of a certificate instead (`tls_fingerprint`).
    ///
    /// # Errors
    /// When they cannot be read, or this build has no TLS (the feature `tls`).
    pub fn tls_roots(mut self, certificates: &[u8]) -> Result<Self, Error> {
        TlsClient::new(certificates).map_err(|what| tls_error("tls_roots", what))?;
        self.tls_roots = certificates.to_vec();
        Ok(self)
    }

    /// Builds an engine with a runtime of its own.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the system gives no threads, [`Error::Randomness`] when it gives no randomness.
    pub fn build(self) -> Result<Engine, Error> {
        let random = seed(random::system)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.workers {
            builder.worker_threads(threads);
        }
        let runtime = builder.thread_name("streamlink").enable_all().build().map_err(Error::Runtime)?;
        let handle = runtime.handle().clone();
        Ok(self.on_handle(handle, Some(runtime), random))
    }

    /// Creates an engine on the host's tokio runtime, whose time and I/O drivers must be enabled.
    ///
    /// # Errors
    /// [`Error::Randomness`] when the system gives no randomness.
    pub fn on(self, runtime: Handle) -> Result<Engine, Error> {
        Ok(self.on_handle(runtime, None, seed(random::system)?))
    }

    fn on_handle(self, handle: Handle, runtime: Option<Runtime>, random: Random) -> Engine {
        let resources = EngineResources {
            random,
            resolver: self.resolver,
            peer_limits: self.peer_limits,
            access_hook: self.access_hook,
            public_host: self.public_host,
            tls: Arc::new(TlsIdentity::new(self.tls_server, self.tls_roots)),
            ports: Ports::default(),
        };
        let shared = EngineState {
            workers: handle.metrics().num_workers(),
            runtime: handle,
            regions: Mutex::new(self.regions),
            drivers: self.drivers,
            resources,
            flows: Mutex::default(),
            events: EngineEventSink::default(),
            claims: Mutex::default(),
            next_id: AtomicU64::new(1),
            is_shut_down: AtomicBool::new(false),
        };
        Engine(Arc::new(Owner { shared: Arc::new(shared), runtime }))
    }
}

impl Engine {
    /// Creates an engine with a runtime of its own, with one thread for each processor core.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the system gives no threads, [`Error::Randomness`] when it gives no randomness.
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Creates an engine on the host's tokio runtime, whose time and I/O drivers must be enabled.
    ///
    /// # Errors
    /// [`Error::Randomness`] when the system gives no randomness.
    pub fn on(runtime: Handle) -> Result<Self, Error> {
        Self::builder().on(runtime)
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Adds a region on other machines to a running engine, as [`EngineBuilder::remote_region`] does.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the engine has a region of that name.
    pub fn add_remote_region(&self, name: impl Into<String>, link: Arc<dyn RegionLink>) -> Result<(), Error> {
        let name = name.into();
        let region = RemoteRegion::new(name.clone(), link);
        match self.0.shared.regions().entry(name) {
            Entry::Occupied(taken) => Err(Error::AlreadyExists { what: "a region", name: taken.key().clone() }),
            Entry::Vacant(entry) => {
                entry.insert(Region::Remote(region));
                Ok(())
            }
        }
    }

    /// Returns the names of the regions that outputs may name, in order, each with true if it is on other machines.
    pub fn regions(&self) -> Vec<(String, bool)> {
        self.0.shared.regions().iter().map(|(name, region)| (name.clone(), region.is_remote())).collect()
    }

    /// Starts a flow: opens all its sockets, then runs it. May be awaited on any executor. If the future is dropped
    /// before it is ready, the flow is not started and its open sockets are closed.
    ///
    /// # Errors
    /// When an address cannot be bound, a region is unknown, or a name or an address is taken by another flow. Nothing
    /// is then started.
    pub async fn start(&self, flow: Flow) -> Result<FlowHandle, Error> {
        let shared = self.0.shared.clone();
        if lock::is_on_task() {
            return lock::within_task(start::start(shared, flow)).await;
        }
        // Sockets belong to the engine's runtime, on whichever executor this is awaited.
        let started = AbortOnDropHandle::new(self.0.shared.runtime.spawn(lock::task(start::start(shared, flow)))).await;
        started.unwrap_or(Err(Error::Stopped("engine")))
    }

    /// Sets or replaces the certificate chain, the server's own certificate first, and the private key of listeners that
    /// speak TLS, as PEM: before the certificate expires, for example. Handshakes that follow use them, also those of
    /// listeners that are running; connections stay.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together, or this build has no TLS (the feature `tls`). What was set
    /// before then stays.
    pub fn set_tls_identity(&self, certificates: &[u8], key: &[u8]) -> Result<(), Error> {
        let replaced = self.0.shared.resources.tls.set_server(certificates, key);
        replaced.map_err(|what| tls_error("tls_identity", what))
    }

    /// Runs a future to completion, for hosts without an executor of their own. May be called from code that the library
    /// runs on a runtime with several threads, or on the engine's own. Must not be called from within another executor.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        if lock::is_on_task() {
            return tokio::task::block_in_place(|| self.0.shared.runtime.block_on(future));
        }
        self.0.shared.runtime.block_on(future)
    }

    /// Returns the handles of all running flows, in the order of their names.
    pub fn flows(&self) -> Vec<FlowHandle> {
        let flows = self.running_flows();
        flows.values().filter_map(|flow| flow.handle()).collect()
    }

    /// Returns the handle of the running flow of this name, if there is one.
    pub fn flow(&self, name: &str) -> Option<FlowHandle> {
        let running = self.0.shared.flows().get(name).cloned();
        running.and_then(|running| running.handle())
    }

    /// Returns a reader of the events of all flows from now on, with their times and the names of the flows. It ends
    /// when the engine has shut down, or its last clone is dropped.
    /// ```
    /// use streamlink_core::{Bitrate, Engine, Event, Flow, Output, Source};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::new()?;
    /// let mut events = engine.events();
    /// let flow = Flow::builder("match-day", Bitrate::mbps(20))
    ///     .source(Source::rtp("venue", "127.0.0.1:0"))
    ///     .output(Output::rtp("studio", "127.0.0.1:5004"))
    ///     .build()?;
    /// engine.block_on(engine.start(flow))?;
    /// let first = engine.block_on(events.next()).ok_or("the engine runs")?;
    /// assert_eq!(first.flow, "match-day");
    /// println!("{}: {}", first.flow, first.event);
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> EngineEvents {
        EngineEvents::new(self.0.shared.events.subscribe())
    }

    fn running_flows(&self) -> BTreeMap<String, Arc<Running>> {
        self.0.shared.flows().iter().map(|(name, flow)| (name.clone(), flow.clone())).collect()
    }

    /// Returns the statistics of all flows, in the order of their names.
    pub fn stats(&self) -> Vec<FlowStats> {
        self.running_flows().values().map(|flow| flow.stats()).collect()
    }

    /// Returns the statistics of all flows as OpenMetrics text, for a scraper.
    pub fn metrics(&self) -> String {
        metrics::text(&self.stats())
    }

    /// Stops all flows, and waits until their tasks have ended and their sockets are closed. No flow can be started
    /// after that: [`Engine::start`] fails with [`Error::Stopped`]. It does not wait when it is called from code that
    /// the library runs, as in [`FlowHandle::stop`].
    pub async fn shutdown(&self) {
        self.0.shared.is_shut_down.store(true, Ordering::SeqCst);
        let flows: Vec<Arc<Running>> = self.0.shared.flows().values().cloned().collect();
        // All at once, because links of regions may take their time to end.
        lock::hold_back(join_all(flows.iter().map(|flow| flow.stop()))).await;
        // Code that the library runs does not wait, so flows are still stopping then, and their events follow.
        if !lock::is_on_task() {
            self.0.shared.events.close();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let flows: Vec<Arc<Running>> = self.shared.flows().values().cloned().collect();
        for flow in &flows {
            flow.cancel();
        }
        self.shared.events.close();
        if let Some(runtime) = self.runtime.take() {
            // A wait would panic here, because an engine may be dropped within a task.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod reentry_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn engine_without_randomness_is_an_error() {
        let error = seed(|_| Err(io::Error::other("the pool is dry"))).unwrap_err();
        assert!(matches!(error, Error::Randomness(_)));
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.to_string(), "the operating system gives no randomness: the pool is dry");
    }
}
