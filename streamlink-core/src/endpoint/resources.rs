//! Resources that endpoints borrow: those of the engine, shared by all flows, and the media of their flow.

use super::{
    AccessHook, BandwidthSetting, EventSink, PacedFanout, Resolver, driver::EndpointLabel, message_ring::MessageRing,
};
use crate::{
    error::Error,
    flow::{Fingerprints, PeerLimits, PeerUrl},
    lock::lock,
    net::{TlsClient, TlsServer, advertised_ip},
    random::Random,
    router::{CurrentPresentation, Ring},
};
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    /// Returns the URL at which peers reach a listener, written with its address; of one that is reached over both families,
    /// with the IPv4 address, too.
    pub(super) fn peer_url(&self, bound: SocketAddr, write: impl Fn(&str) -> String) -> PeerUrl {
        let (address, ipv4) = advertised(bound, self.public_host.as_deref(), advertised_ip);
        PeerUrl::from(write(&address)).with_ipv4(ipv4.map(|address| write(&address)))
    }
}

/// Returns the address at which peers reach a listener, and, if it is reached over both families, that over IPv4.
/// `public_host` stands for the unspecified address; without it, `local` returns an address of this machine.
fn advertised(
    bound: SocketAddr,
    public_host: Option<&str>,
    local: impl Fn(IpAddr) -> IpAddr,
) -> (String, Option<String>) {
    let with_port = |ip| SocketAddr::new(ip, bound.port()).to_string();
    let is_unspecified = bound.ip().is_unspecified();
    if let Some(host) = public_host.filter(|_| is_unspecified) {
        return match host.parse::<IpAddr>() {
            Ok(ip) => (with_port(ip), None),
            Err(_) => (format!("{host}:{}", bound.port()), None),
        };
    }
    let is_dual = is_unspecified && bound.is_ipv6();
    let ipv4 = is_dual.then(|| local(Ipv4Addr::UNSPECIFIED.into())).filter(|ip| !ip.is_loopback());
    (with_port(local(bound.ip())), ipv4.map(with_port))
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
    /// Outputs that are paced by the clock of the media.
    pub(crate) paced: PacedFanout,
    pub(crate) bandwidth: BandwidthSetting,
    pub(crate) events: EventSink,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_on_both_families_are_advertised_over_each() {
        let local = |bound: IpAddr| -> IpAddr {
            match bound {
                _ if !bound.is_unspecified() => bound,
                IpAddr::V4(_) => [192, 0, 2, 7].into(),
                IpAddr::V6(_) => "2001:db8::7".parse().unwrap(),
            }
        };
        let of = |bound: &str, host: Option<&str>| advertised(bound.parse().unwrap(), host, local);
        let both = ("[2001:db8::7]:9000".to_owned(), Some("192.0.2.7:9000".to_owned()));
        assert_eq!(of("[::]:9000", None), both);
        for (bound, host, address) in [
            ("0.0.0.0:9000", None, "192.0.2.7:9000"),
            ("[::1]:9000", None, "[::1]:9000"),
            ("127.0.0.1:9000", Some("media.example.com"), "127.0.0.1:9000"),
            ("[::]:9000", Some("media.example.com"), "media.example.com:9000"),
            ("[::]:9000", Some("198.51.100.1"), "198.51.100.1:9000"),
            ("[::]:9000", Some("2001:db8::1"), "[2001:db8::1]:9000"),
        ] {
            assert_eq!(of(bound, host), (address.to_owned(), None), "{bound} {host:?}");
        }
        // A machine without another address over IPv4.
        let alone = |_: IpAddr| -> IpAddr { Ipv4Addr::LOCALHOST.into() };
        assert_eq!(advertised("[::]:9".parse().unwrap(), None, alone).1, None);
    }
}
