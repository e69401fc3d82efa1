//! Resources that endpoints borrow: those of the engine, shared by all flows, and the media of their flow.

use super::{AccessHook, BandwidthSetting, EventSink, Resolver, driver::EndpointLabel, message_ring::MessageRing};
use crate::{
    error::Error,
    flow::{Fingerprints, PeerLimits},
    lock::lock,
    net::{TlsClient, TlsServer, advertised_ip},
    random::Random,
    router::{CurrentPresentation, Ring},
};
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, Weak},
};

/// Resources of an engine that its endpoints share.
#[derive(Debug)]
pub(crate) struct EngineResources {
    /// Generator that was seeded when the engine was built.
    pub(crate) random: Random,
    pub(crate) resolver: Resolver,
    pub(crate) peer_limits: PeerLimits,
    pub(crate) access_hook: Option<AccessHook>,
    /// Host name that stands for the unspecified address in URLs.
    pub(crate) public_host: Option<String>,
    pub(crate) tls: Arc<TlsIdentity>,
    pub(crate) ports: Ports,
}

impl EngineResources {
    /// Returns the address at which peers reach a listener.
    pub(super) fn advertise(&self, bound: SocketAddr) -> String {
        match &self.public_host {
            Some(host) if bound.ip().is_unspecified() => match host.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
                Err(_) => format!("{host}:{}", bound.port()),
            },
            _ => SocketAddr::new(advertised_ip(bound.ip()), bound.port()).to_string(),
        }
    }
}

/// Certificates of an engine: its own, and those that it trusts.
#[derive(Debug, Default)]
pub(crate) struct TlsIdentity {
    server: Mutex<Option<TlsServer>>,
    roots: Vec<u8>,
    /// TLS client, created for the first caller that needs it.
    client: OnceLock<Result<TlsClient, String>>,
}

impl TlsIdentity {
    /// `roots`: certificates as PEM that callers trust beside those of the system.
    pub(crate) fn new(server: Option<TlsServer>, roots: Vec<u8>) -> Self {
        Self { server: Mutex::new(server), roots, client: OnceLock::new() }
    }

    /// Sets or replaces the certificate chain and the key of listeners, as PEM. Open ports use them from their next
    /// handshake on.
    pub(crate) fn set_server(&self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let mut server = lock(&self.server);
        match &*server {
            Some(server) => server.replace(chain, key),
            None => {
                *server = Some(TlsServer::new(chain, key)?);
                Ok(())
            }
        }
    }

    /// Returns the TLS server of a listener, if it uses TLS.
    pub(super) fn server(&self, wanted: bool) -> io::Result<Option<TlsServer>> {
        if !wanted {
            return Ok(None);
        }
        let server = lock(&self.server).clone();
        server.map(Some).ok_or_else(|| io::Error::other("the engine has no certificate (`tls_identity`)"))
    }

    /// Returns the TLS client of a caller, if it uses TLS. `pins`: the only certificates that it accepts, if there are
    /// any.
    pub(super) fn client(
        &self,
        wanted: bool,
        pins: &Fingerprints,
        label: &EndpointLabel<'_>,
    ) -> Result<Option<TlsClient>, Error> {
        if !wanted {
            return Ok(None);
        }
        let client = self.any_client().map(|client| Some(client.pinned(pins.as_slice())));
        client.map_err(|what| label.io("TLS".into(), io::Error::other(what)))
    }

    /// Returns the TLS client of a caller that may need it later, as after a redirection.
    pub(super) fn any_client(&self) -> Result<TlsClient, String> {
        self.client.get_or_init(|| TlsClient::new(&self.roots)).clone()
    }
}

/// Open ports that flows share, by their type, requested address and group. Each protocol has a type of its own.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<HashMap<PortKey, Weak<dyn Any + Send + Sync>>>);

type PortKey = (TypeId, SocketAddr, Option<u64>);

impl Ports {
    /// Returns the open port at an address, or opens one. Must be called within the runtime. Port 0 is shared within a
    /// group only.
    pub(super) fn at<P: Send + Sync + 'static>(
        &self,
        address: SocketAddr,
        group: Option<u64>,
        open: impl FnOnce(SocketAddr) -> io::Result<Arc<P>>,
    ) -> io::Result<Arc<P>> {
        let group = group.filter(|_| address.port() == 0);
        let key = (TypeId::of::<P>(), address, group);
        let mut ports = lock(&self.0);
        ports.retain(|_, port| port.strong_count() > 0);
        let known = ports.get(&key).and_then(Weak::upgrade).and_then(|port| port.downcast().ok());
        if let Some(port) = known {
            return Ok(port);
        }
        let port = open(address)?;
        if address.port() != 0 || group.is_some() {
            let shared: Arc<dyn Any + Send + Sync> = port.clone();
            ports.insert(key, Arc::downgrade(&shared));
        }
        Ok(port)
    }
}

/// Media of a running flow, which its sources publish and its outputs read.
#[derive(Debug)]
pub(crate) struct FlowMedia {
    pub(crate) ring: Arc<Ring>,
    /// Messages of the flow, for outputs that cannot send its packets.
    pub(crate) messages: MessageRing,
    /// Presentation of the active source, for protocols that describe the media before they send it.
    pub(crate) presentation: Arc<CurrentPresentation>,
    pub(crate) bandwidth: BandwidthSetting,
    pub(crate) events: EventSink,
}
