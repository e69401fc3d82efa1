//! Addresses, interfaces, and the settings that all listeners and all callers share.

use super::{
    allowlist::Allowlist,
    settings::{Entries, Settings, millis, number, store},
};
use crate::error::Problem;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// Returns the part of an address that an error may quote. Text behind a colon that is not a port may be a password.
pub(crate) fn quotable(text: &str) -> &str {
    let is_v6 = text.bytes().all(|b| b.is_ascii_hexdigit() || b"[]:.".contains(&b));
    match text.split_once(':') {
        Some((_, port)) if is_v6 || port.bytes().all(|b| b.is_ascii_digit()) => text,
        Some(_) => "the address",
        None => text,
    }
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Returns a host and a port after checking them.
    ///
    /// # Errors
    /// When the host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, Problem> {
        let v6 = |h: &str| h.parse::<std::net::Ipv6Addr>().is_ok();
        let name = |h: &str| {
            (1..=253).contains(&h.len()) && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        let (bare, good) = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(bare) => (bare, v6(bare)),
            None => (host, name(host) || v6(host)),
        };
        if !good {
            return Err(Problem::malformed(quotable(host), "a host name or address"));
        }
        if port == 0 {
            return Err(Problem::out_of_range("port 0", "1 to 65535"));
        }
        Ok(Self { host: bare.to_owned(), port })
    }

    /// Returns the host name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the socket address if the host is an IP address; `None` for a name, which needs a look-up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Returns a stand-in for a remote that could not be parsed. The recorded error keeps it out of every valid flow.
    pub(crate) fn placeholder() -> Self {
        Self { host: "invalid".into(), port: 1 }
    }

    /// Reads `host`, `host:port` or `[v6]:port`.
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Result<Self, Problem> {
        let bad = || Problem::malformed(quotable(text), "a host and port such as `example.com:9000`");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().map_err(|_| bad())?)),
            _ => (text, None),
        };
        Self::new(host, port.or(default_port).ok_or_else(bad)?)
    }
}

impl FromStr for HostPort {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        Self::parse(s, None)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads a local address: `0.0.0.0:9000`, `[::]:9000`, `localhost:9000`, or `:9000` for every IPv4 address.
pub(crate) fn parse_bind(text: &str, default_port: Option<u16>) -> Result<SocketAddr, Problem> {
    let bad = || Problem::malformed(quotable(text), "a local address such as `0.0.0.0:9000`, `[::]:9000` or `:9000`");
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().map_err(|_| bad())?),
        _ => (text, default_port.ok_or_else(bad)?),
    };
    let ip = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().map_err(|_| bad())?),
        None if host.is_empty() || host == "*" => Ipv4Addr::UNSPECIFIED.into(),
        None if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        None => IpAddr::V4(host.parse().map_err(|_| bad())?),
    };
    Ok(SocketAddr::new(ip, port))
}

/// A network interface, given by name (`eth1`) or by one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interface {
    /// Name of the interface, 1–15 bytes.
    Name(String),
    /// IP address of the interface.
    Address(IpAddr),
}

impl FromStr for Interface {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        if let Ok(address) = s.parse() {
            return Ok(Interface::Address(address));
        }
        let good = (1..=15).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !good {
            return Err(Problem::malformed(s, "an interface name or address"));
        }
        Ok(Interface::Name(s.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interface::Name(name) => f.write_str(name),
            Interface::Address(address) => address.fmt(f),
        }
    }
}

/// Settings that all listeners share.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) bind: SocketAddr,
    pub(crate) allow: Allowlist,
    /// Maximum number of peers; `None` leaves the protocol's own bound.
    pub(crate) max_peers: Option<u32>,
}

impl Listen {
    pub(crate) fn new(bind: SocketAddr) -> Self {
        Self { bind, allow: Allowlist::everyone(), max_peers: None }
    }

    pub(crate) fn placeholder() -> Self {
        Self::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
    }
}

impl Settings for Listen {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        match key {
            "allow" => store(&mut self.allow, value.parse()),
            "max_players" | "max_peers" => store(&mut self.max_peers, number(value, 1..=1_000_000, "peers").map(Some)),
            _ => None,
        }
    }

    fn list(&self, out: &mut Entries) {
        if !self.allow.is_empty() {
            out.push("allow", &self.allow);
        }
        out.push_some("max_players", self.max_peers);
    }
}

/// Delays before a caller connects again after a loss: exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reconnect {
    /// First delay (500 ms; 100–30 000).
    pub(crate) start: Duration,
    /// Maximum delay (30 s; 1–300 s).
    pub(crate) cap: Duration,
}

impl Reconnect {
    /// Duration of a connection after which the next loss starts with the first delay again.
    pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(10);
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { start: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
}

/// Settings that all callers share.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) remote: HostPort,
    pub(crate) reconnect: Reconnect,
    pub(crate) connect_timeout: Duration,
}

impl Call {
    /// Range of the connect timeout, in milliseconds.
    pub(crate) const CONNECT_TIMEOUT: std::ops::RangeInclusive<u64> = 100..=60_000;
    const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(3000);

    pub(crate) fn new(remote: HostPort) -> Self {
        Self { remote, reconnect: Reconnect::default(), connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT }
    }
}

impl Settings for Call {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        match key {
            "connect_timeout" => store(&mut self.connect_timeout, millis(value, Self::CONNECT_TIMEOUT)),
            "reconnect_min" => store(&mut self.reconnect.start, millis(value, 100..=30_000)),
            "reconnect_max" => store(&mut self.reconnect.cap, millis(value, 1_000..=300_000)),
            _ => None,
        }
    }

    fn list(&self, out: &mut Entries) {
        let default = Reconnect::default();
        out.push_unless("connect_timeout", self.connect_timeout.as_millis(), Self::DEFAULT_CONNECT_TIMEOUT.as_millis());
        out.push_unless("reconnect_min", self.reconnect.start.as_millis(), default.start.as_millis());
        out.push_unless("reconnect_max", self.reconnect.cap.as_millis(), default.cap.as_millis());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_parsing_accepts_and_rejects() {
        assert_eq!(parse_bind(":9000", None).unwrap().to_string(), "0.0.0.0:9000");
        assert_eq!(parse_bind("[::]:1", None).unwrap().to_string(), "[::]:1");
        assert_eq!(parse_bind("*:0", None).unwrap().to_string(), "0.0.0.0:0");
        assert_eq!(parse_bind("127.0.0.1", Some(554)).unwrap().to_string(), "127.0.0.1:554");
        for bad in ["", "9000", "host:1", "1.2.3.4:99999", "[::1]", "::1:"] {
            assert!(parse_bind(bad, None).is_err(), "{bad}");
        }
        let v6: HostPort = "[2001:db8::1]:5004".parse().unwrap();
        assert_eq!((v6.host(), v6.port(), v6.to_string().as_str()), ("2001:db8::1", 5004, "[2001:db8::1]:5004"));
        for bad in ["", ":1", "a b:1", "host", "host:0", "host:x", "[::1]", "[zz]:1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
