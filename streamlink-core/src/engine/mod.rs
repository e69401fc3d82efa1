//! The [`Engine`] that runs flows, the handle of a running flow, statistics, and metrics.

mod changes;
#[cfg(test)]
mod changes_tests;
mod drivers;
mod edit;
mod events;
mod handle;
mod metrics;
mod outputs;
mod sources;
mod start;
mod stats;

pub use edit::{OutputEdit, SourceEdit};
pub use events::Events;
pub use handle::FlowHandle;
pub use stats::{EndpointStats, FlowStats};

use crate::{
    endpoint::{
        Resolver, SrtAccess, SrtRequest,
        rtmp::Rtmp,
        rtsp::Rtsp,
        srt,
        tcp::{Port, Service},
    },
    error::{ConfigError, ConfigErrors, Error, Problem},
    flow::{Claim, Flow, PeerLimits},
    lock::{self, Guard, lock},
    net::{Egress, TlsClient, TlsServer},
    random::{self, Random},
};
use handle::Running;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Engine that runs flows, on a runtime of its own or on the host's. It also holds the regions and settings that all
/// its flows share.
///
/// Dropping the engine stops its flows without waiting. [`Engine::shutdown`] waits.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    /// Runtime of the engine's own, if it has one. Dropped in the background.
    runtime: Option<Runtime>,
}

/// State of an engine that the handles of its running flows share.
#[derive(Debug)]
pub(crate) struct Shared {
    runtime: Handle,
    /// Generator that was seeded when the engine was built.
    random: Random,
    workers: usize,
    regions: BTreeMap<String, Egress>,
    public_host: Option<String>,
    flows: Mutex<HashMap<String, Arc<Running>>>,
    /// Claimed local addresses and keys, each with the id and name of its flow.
    claims: Mutex<HashMap<Claim, (u64, String)>>,
    /// Open SRT ports. Several flows may share a port of SRT, RTMP or RTSP.
    srt_ports: Ports<srt::Port>,
    rtmp_ports: Ports<Port<Rtmp>>,
    rtsp_ports: Ports<Port<Rtsp>>,
    srt_access_hook: Option<srt::AccessHook>,
    peer_limits: PeerLimits,
    resolver: Resolver,
    tls_server: Option<TlsServer>,
    tls_roots: Vec<u8>,
    /// TLS client, created for the first caller that needs it.
    tls_client: OnceLock<Result<TlsClient, String>>,
    next_id: AtomicU64,
    /// Set by a shutdown, after which no flow starts.
    is_shut_down: AtomicBool,
}

impl Shared {
    fn flows(&self) -> Guard<'_, HashMap<String, Arc<Running>>> {
        lock(&self.flows)
    }

    fn claims(&self) -> Guard<'_, HashMap<Claim, (u64, String)>> {
        lock(&self.claims)
    }

    /// Returns the SRT port at an address. Must be called within the runtime.
    fn srt_port(&self, address: SocketAddr) -> io::Result<Arc<srt::Port>> {
        self.srt_ports.at(address, |address| {
            srt::Port::open(address, self.srt_access_hook.clone(), self.peer_limits, self.random.clone())
        })
    }

    /// Returns the RTMP or RTSP port at an address. Must be called within the runtime.
    fn tcp_port<S: Service>(&self, ports: &Ports<Port<S>>, address: SocketAddr, tls: bool) -> io::Result<Arc<Port<S>>> {
        let server = match (tls, &self.tls_server) {
            (false, _) => None,
            (true, Some(server)) => Some(server.clone()),
            (true, None) => return Err(io::Error::other("the engine has no certificate (`tls_identity`)")),
        };
        let port = ports.at(address, |address| Port::open(address, server, self.peer_limits, self.random.clone()))?;
        match port.is_secure() == tls {
            true => Ok(port),
            false => Err(io::Error::new(io::ErrorKind::AddrInUse, "another flow listens there, with TLS or without")),
        }
    }

    /// Returns the TLS client of callers, with its trusted roots.
    fn tls_client(&self) -> Result<TlsClient, String> {
        self.tls_client.get_or_init(|| TlsClient::new(&self.tls_roots)).clone()
    }

    /// Claims an address and key for a running flow.
    fn claim(&self, id: u64, flow: &str, claim: &Claim) -> Result<(), Problem> {
        let mut claims = self.claims();
        if let Some((_, owner)) = claims.get(claim) {
            return Err(Problem::Duplicate(format!("flow `{owner}` already listens on {claim} with the same key")));
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

/// Open ports of one protocol, by the requested address.
#[derive(Debug)]
struct Ports<P>(Mutex<HashMap<SocketAddr, Weak<P>>>);

impl<P> Default for Ports<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> Ports<P> {
    /// Returns the open port at an address, or opens one. Must be called within the runtime.
    fn at(&self, address: SocketAddr, open: impl FnOnce(SocketAddr) -> io::Result<Arc<P>>) -> io::Result<Arc<P>> {
        let mut ports = lock(&self.0);
        ports.retain(|_, port| port.strong_count() > 0);
        if let Some(port) = ports.get(&address).and_then(Weak::upgrade) {
            return Ok(port);
        }
        let port = open(address)?;
        if address.port() != 0 {
            ports.insert(address, Arc::downgrade(&port));
        }
        Ok(port)
    }
}

/// Returns the generator of an engine. It is seeded by the system once, so that keys, nonces and cookies cannot fail
/// later.
fn seed(entropy: fn(&mut [u8]) -> io::Result<()>) -> Result<Random, Error> {
    Random::seeded_by(entropy).map_err(Error::Randomness)
}

fn tls_error(field: &str, what: String) -> Error {
    ConfigErrors::from(ConfigError::new(field, Problem::Conflict(what))).into()
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
    regions: BTreeMap<String, Egress>,
    public_host: Option<String>,
    srt_access_hook: Option<srt::AccessHook>,
    peer_limits: PeerLimits,
    resolver: Resolver,
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
    pub fn region(mut self, name: impl Into<String>, egress: RegionEgress) -> Self {
        let egress = match egress {
            RegionEgress::Address(address) => Egress { address: Some(address), interface: None },
            RegionEgress::Interface(name) => Egress { address: None, interface: Some(name) },
        };
        self.regions.insert(name.into(), egress);
        self
    }

    /// Sets the host name that input addresses and playback URLs show for listeners on the unspecified address. The
    /// default is the first address of this machine that is not a loopback one.
    pub fn public_host(mut self, host: impl Into<String>) -> Self {
        self.public_host = Some(host.into());
        self
    }

    /// Sets the access callback for every caller of an SRT listener that the allowlist admits. The callback may admit
    /// the caller, choose its passphrase (for example by the stream id), or refuse it with a code.
    ///
    /// The callback runs on threads for blocking work, which do not delay media, with at most 16 concurrent calls for
    /// each port. If it panics or does not answer within 2 seconds, the caller is refused. Stopping a flow waits until
    /// the calls about its callers have returned.
    pub fn srt_access(mut self, ask: impl Fn(&SrtRequest<'_>) -> SrtAccess + Send + Sync + 'static) -> Self {
        let ask = move |request: &SrtRequest<'_>| {
            lock::assert_unlocked();
            ask(request)
        };
        self.srt_access_hook = Some(srt::AccessHook(Arc::new(ask)));
        self
    }

    /// Sets the limits of one peer address on a listening SRT, RTMP or RTSP port.
    pub fn peer_limits(mut self, limits: PeerLimits) -> Self {
        self.peer_limits = limits;
        self
    }

    /// Sets the certificate chain, the server's own certificate first, and the private key of listeners that speak TLS
    /// (`rtmps`, `rtsps`), as PEM.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together, or this build has no TLS (the feature `tls`).
    pub fn tls_identity(mut self, certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        self.tls_server = Some(TlsServer::new(certificates, key).map_err(|what| tls_error("tls_identity", what))?);
        Ok(self)
    }

    /// Sets certificates, as PEM, that callers with TLS trust beside those of the system.
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
        let shared = Shared {
            workers: handle.metrics().num_workers(),
            runtime: handle,
            random,
            regions: self.regions,
            public_host: self.public_host,
            flows: Mutex::default(),
            claims: Mutex::default(),
            srt_ports: Ports::default(),
            rtmp_ports: Ports::default(),
            rtsp_ports: Ports::default(),
            srt_access_hook: self.srt_access_hook,
            peer_limits: self.peer_limits,
            resolver: self.resolver,
            tls_server: self.tls_server,
            tls_roots: self.tls_roots,
            tls_client: OnceLock::new(),
            next_id: AtomicU64::new(1),
            is_shut_down: AtomicBool::new(false),
        };
        Engine { shared: Arc::new(shared), runtime }
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

    /// Starts a flow: opens all its sockets, then runs it. May be awaited on any executor. If the future is dropped
    /// before it is ready, the flow is not started and its open sockets are closed.
    ///
    /// # Errors
    /// When an address cannot be bound, a region is unknown, or a name or an address is taken by another flow. Nothing
    /// is then started.
    pub async fn start(&self, flow: Flow) -> Result<FlowHandle, Error> {
        let shared = self.shared.clone();
        // Sockets belong to the engine's runtime, on whichever executor this is awaited.
        let started = AbortOnDropHandle::new(self.shared.runtime.spawn(start::start(shared, flow))).await;
        started.unwrap_or(Err(Error::Stopped("engine")))
    }

    /// Runs a future to completion, for hosts without an executor of their own. Must not be called from within one.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.runtime.block_on(future)
    }

    /// Returns the statistics of all flows, in the order of their names.
    pub fn stats(&self) -> Vec<FlowStats> {
        let flows: BTreeMap<String, Arc<Running>> =
            self.shared.flows().iter().map(|(name, flow)| (name.clone(), flow.clone())).collect();
        flows.values().map(|flow| flow.stats()).collect()
    }

    /// Returns the statistics of all flows as OpenMetrics text, for a scraper.
    pub fn metrics(&self) -> String {
        metrics::text(&self.stats())
    }

    /// Stops all flows, and waits until their tasks have ended and their sockets are closed. No flow can be started
    /// after that: [`Engine::start`] fails with [`Error::Stopped`].
    pub async fn shutdown(&self) {
        self.shared.is_shut_down.store(true, Ordering::SeqCst);
        let flows: Vec<Arc<Running>> = self.shared.flows().values().cloned().collect();
        for flow in flows {
            lock::hold_back(flow.stop()).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let flows: Vec<Arc<Running>> = self.shared.flows().values().cloned().collect();
        flows.iter().for_each(|flow| flow.cancel());
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
