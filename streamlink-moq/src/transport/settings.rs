//! Settings of the links to relays.

use crate::address::Token;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Settings of the links to relays: whom to trust, how to be trusted, and when a silent relay is given up.
///
/// Without roots and fingerprints, the certificate of a relay is checked against the roots of the system.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    pub(super) roots: Vec<PathBuf>,
    pub(super) fingerprints: Vec<String>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) server_name: Option<String>,
    pub(super) token: Option<Token>,
    pub(super) bind: Option<SocketAddr>,
    pub(super) keep_alive: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) cost: u64,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            fingerprints: Vec::new(),
            identity: None,
            server_name: None,
            token: None,
            bind: None,
            keep_alive: Duration::from_millis(200),
            idle_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(5),
            cost: 0,
        }
    }
}

impl LinkSettings {
    /// Makes settings with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the root certificates in a PEM file, instead of those of the system. May be called several times.
    #[must_use]
    pub fn root(mut self, file: impl Into<PathBuf>) -> Self {
        self.roots.push(file.into());
        self
    }

    /// Trusts a relay by the SHA-256 fingerprint of its certificate, in hexadecimal digits with or without colons. May
    /// be called several times; excludes [`root`](Self::root).
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        let fingerprint: String = fingerprint.into();
        self.fingerprints.push(fingerprint.replace(':', ""));
        self
    }

    /// Presents a client certificate (mTLS): PEM files of the certificate chain and of its key.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Checks certificates against this name, instead of the host of the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Presents a token to the relays (`jwt` parameter of moq-relay). A token in the address comes first.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sends from this local address. Default: any, IPv4 and IPv6.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Sets the interval of keep-alive packets. Default 200 ms.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// Sets the time after which a silent relay is given up. Default 1 s. QUIC takes the smaller of both ends' times.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets the maximum time of one attempt to connect. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the cost of routes over these links, by which a cluster chooses between two publishers of one path: the
    /// smaller wins. Default 0.
    #[must_use]
    pub fn cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }
}
