//! Addresses, interfaces, and the settings that all listeners and all callers share.

use super::{allowlist::Allowlist, fingerprint::Fingerprints};
use crate::error::ConfigErrorKind;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
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

/// Returns a host in its usual form: an international name in ASCII, an IPv6 address without brackets and, where it has
/// a zone, with it (`fe80::1%eth0`). In a URL the `%` of a zone may be written as `%25` (RFC 6874).
fn check_host(text: &str) -> Result<String, ConfigErrorKind> {
    let bad = || ConfigErrorKind::malformed(quotable(text), "a host name or address");
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if bare.is_some() || text.contains(':') {
        let (address, zone) = split_zone(bare.unwrap_or(text));
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        return match zone {
            None => Ok(address.to_string()),
            // With a `%` of its own, a zone could not be told from an encoded one.
            Some(zone) if !zone.contains('%') && matches!(zone.parse(), Ok(Interface::Name(_))) => {
                Ok(format!("{address}%{zone}"))
            }
            Some(_) => Err(bad()),
        };
    }
    let host = match url::Host::parse(text).map_err(|_| bad())? {
        url::Host::Domain(name) => name,
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    let is_name =
        (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if is_name { Ok(host) } else { Err(bad()) }
}

/// Splits an IPv6 address from its zone.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone.strip_prefix("25").filter(|z| !z.is_empty()).unwrap_or(zone))),
        None => (text, None),
    }
}

/// Splits the port from a host. The port is `None` if it is missing or empty.
///
/// # Errors
/// When it is not a number up to 65535. It is not quoted, as it may be the password behind a user name.
fn split_port(text: &str) -> Result<(&str, Option<u16>), ConfigErrorKind> {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            if host.contains(':') && !host.ends_with(']') {
                return Err(ConfigErrorKind::malformed(
                    "the address",
                    "clear: an IPv6 address stands in brackets, `[::1]:9000`",
                ));
            }
            if port.is_empty() {
                return Ok((host, None));
            }
            let is_number = port.bytes().all(|b| b.is_ascii_digit());
            let number = port.parse().ok().filter(|_| is_number);
            let port = number.ok_or_else(|| ConfigErrorKind::malformed("the port", "a number from 1 to 65535"))?;
            Ok((host, Some(port)))
        }
        _ => Ok((text, None)),
    }
}

impl HostPort {
    /// Returns a host and a port after checking them.
    ///
    /// # Errors
    /// When the host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, ConfigErrorKind> {
        Self::checked(check_host(host)?, port)
    }

    /// `host`: one that [`check_host`] has returned, which is not to read its zone once more.
    fn checked(host: String, port: u16) -> Result<Self, ConfigErrorKind> {
        if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
            return Err(ConfigErrorKind::malformed(host, "the address of a host: it stands for every local address"));
        }
        if port == 0 {
            return Err(ConfigErrorKind::out_of_range("port 0", "1 to 65535"));
        }
        Ok(Self { host, port })
    }

    /// Returns the host name, or the address without brackets. An IPv6 address has its zone, as in `fe80::1%eth0`.
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
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Result<Self, ConfigErrorKind> {
        let (host, port) = split_port(text)?;
        if host.is_empty() {
            return Err(ConfigErrorKind::malformed(
                "the address",
                "complete: the host is missing, as in `example.com:9000`",
            ));
        }
        let missing = || ConfigErrorKind::malformed(quotable(text), "a host and port such as `example.com:9000`");
        let host = check_host(host)?;
        Self::checked(host, port.or(default_port).ok_or_else(missing)?)
    }

    /// Returns the host and the port as they are named to the peer, without the zone, which is known to this machine
    /// only.
    pub(crate) fn without_zone(&self) -> Self {
        let host = split_zone(&self.host).0.to_owned();
        Self { host, port: self.port }
    }
}

impl FromStr for HostPort {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        Self::parse(s, None)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host.replace('%', "%25"), self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads a local address: `0.0.0.0:9000`, `[::]:9000`, `localhost:9000`, or `:9000` for every IPv4 address. The zone of
/// an IPv6 address is the number of the interface: `[fe80::1%2]:9000`.
pub(crate) fn parse_bind(text: &str, default_port: Option<u16>) -> Result<SocketAddr, ConfigErrorKind> {
    let bad =
        || ConfigErrorKind::malformed(quotable(text), "a local address such as `0.0.0.0:9000`, `[::]:9000` or `:9000`");
    let (host, port) = split_port(text)?;
    let port = port.or(default_port).ok_or_else(bad)?;
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let (address, zone) = split_zone(v6);
        let number = |zone: &str| {
            let expected = "the number of an interface, as `ip link` lists them";
            zone.parse::<u32>().map_err(|_| ConfigErrorKind::malformed("the zone of the address", expected))
        };
        let scope = zone.map(number).transpose()?.unwrap_or(0);
        return Ok(SocketAddrV6::new(address.parse().map_err(|_| bad())?, port, 0, scope).into());
    }
    let ip = match host {
        "" | "*" => Ipv4Addr::UNSPECIFIED,
        _ if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST,
        _ => host.parse().map_err(|_| bad())?,
    };
    Ok(SocketAddr::new(ip.into(), port))
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
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        if let Ok(address) = s.parse() {
            return Ok(Self::Address(address));
        }
        let good = (1..=15).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !good {
            return Err(ConfigErrorKind::malformed(s, "an interface name or address"));
        }
        Ok(Self::Name(s.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
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
    /// Differentiated services code point (RFC 2474) of the packets to players.
    pub(crate) dscp: Option<u8>,
    /// Congestion control of the TCP connections to players, as the kernel names it.
    pub(crate) congestion: Option<String>,
}

impl Listen {
    pub(crate) fn new(bind: SocketAddr) -> Self {
        Self { bind, allow: Allowlist::everyone(), max_peers: None, dscp: None, congestion: None }
    }

    pub(crate) fn placeholder() -> Self {
        Self::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
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

/// Local end of the sockets that connect to a peer, or send to one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalEnd {
    /// Local address; `None` for the region's, or the system's choice.
    pub(crate) address: Option<IpAddr>,
    /// Local port; `None` for one that the system picks.
    pub(crate) port: Option<u16>,
    pub(crate) interface: Option<Interface>,
    /// Differentiated services code point (RFC 2474) of the packets.
    pub(crate) dscp: Option<u8>,
    /// Congestion control of TCP, as the kernel names it.
    pub(crate) congestion: Option<String>,
}

impl LocalEnd {
    /// Range of the code point.
    pub(crate) const DSCP: std::ops::RangeInclusive<u8> = 0..=63;

    /// Sets the address and the port of `192.0.2.5:6000`, `192.0.2.5:0` or `:6000`.
    pub(crate) fn set_bind(&mut self, text: &str) -> Result<(), ConfigErrorKind> {
        let bind = parse_bind(text, Some(0))?;
        self.address = Some(bind.ip()).filter(|ip| !ip.is_unspecified());
        self.port = Some(bind.port()).filter(|port| *port != 0);
        Ok(())
    }

    /// Returns the address and the port as text, if there is an address.
    pub(crate) fn bind_text(&self) -> Option<String> {
        self.address.map(|address| SocketAddr::new(address, self.port.unwrap_or(0)).to_string())
    }
}

/// Checks a code point.
pub(crate) fn check_dscp(code_point: u8) -> Result<u8, ConfigErrorKind> {
    if LocalEnd::DSCP.contains(&code_point) {
        Ok(code_point)
    } else {
        Err(ConfigErrorKind::out_of_range(code_point, "0 to 63"))
    }
}

/// Checks the name of a congestion control: 1–15 bytes, as the kernel names its own.
pub(crate) fn check_congestion(name: &str) -> Result<String, ConfigErrorKind> {
    if !(1..=15).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(ConfigErrorKind::malformed(name, "a congestion control of the kernel, such as `bbr` or `cubic`"));
    }
    Ok(name.to_owned())
}

/// Settings that all callers share.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) remote: HostPort,
    pub(crate) local: LocalEnd,
    pub(crate) reconnect: Reconnect,
    pub(crate) connect_timeout: Duration,
    /// Certificates that a caller with TLS accepts, and no others.
    pub(crate) tls_fingerprints: Fingerprints,
}

impl Call {
    /// Range of the connect timeout, in milliseconds.
    pub(crate) const CONNECT_TIMEOUT: std::ops::RangeInclusive<u64> = 100..=60_000;
    const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(3000);

    pub(crate) fn new(remote: HostPort) -> Self {
        Self {
            remote,
            local: LocalEnd::default(),
            reconnect: Reconnect::default(),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            tls_fingerprints: Fingerprints::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_zones_are_read_back_as_printed() {
        for (text, host) in [
            ("[fe80::1%eth0]:1", "fe80::1%eth0"),
            ("[fe80::1%25eth0]:1", "fe80::1%eth0"),
            ("[fe80::1%25251]:1", "fe80::1%251"),
            ("[fe80::1%25]:1", "fe80::1%25"),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.host(), host, "{text}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{text}");
        }
        for bad in ["[ff02::%%%%1]:50", "[fe80::1%a%b]:1", "[fe80::1%25%]:1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

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
        for bad in ["", ":1", "a b:1", "host", "host:0", "host:x", "[::1]", "[zz]:1", "0.0.0.0:1", "[::]:1", "0:1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
