//! Network interfaces by name or address.

use if_addrs::IfAddr;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

/// An interface as socket options name it.
#[derive(Clone, Debug)]
pub(crate) struct InterfaceId {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// First IPv4 address of the interface, by which IPv4 multicast options name it.
    pub(crate) ipv4: Option<Ipv4Addr>,
}

/// Finds an interface by its name or one of its addresses.
pub(crate) fn find(wanted: &str) -> io::Result<InterfaceId> {
    let address = wanted.parse::<IpAddr>().ok();
    let all = if_addrs::get_if_addrs()?;
    let hit = all.iter().find(|i| i.name == wanted || address.is_some_and(|a| i.ip() == a));
    let hit = hit.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface `{wanted}`")))?;
    let ipv4 = all.iter().filter(|i| i.name == hit.name).find_map(|i| match (&i.addr, address) {
        (IfAddr::V4(v4), Some(IpAddr::V4(wanted))) => (v4.ip == wanted).then_some(v4.ip),
        (IfAddr::V4(v4), _) => Some(v4.ip),
        _ => None,
    });
    Ok(InterfaceId { name: hit.name.clone(), index: hit.index.unwrap_or(0), ipv4 })
}

/// Checks that the kernel has a congestion control of TCP that this process may use.
pub(crate) fn check_congestion(name: &str) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_tcp_congestion(name.as_bytes())
}

/// Returns true if an address is one of this machine.
pub(crate) fn is_local_ip(ip: IpAddr) -> bool {
    ip.is_loopback() || if_addrs::get_if_addrs().unwrap_or_default().iter().any(|interface| interface.ip() == ip)
}

/// Returns the address to advertise for a socket bound to `bound`: for a wildcard, the first address of this machine of
/// the same family that is neither loopback nor link-local.
pub(crate) fn advertised_ip(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let fallback = match bound {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let good = |i: &&if_addrs::Interface| !i.is_loopback() && !i.is_link_local() && i.ip().is_ipv4() == bound.is_ipv4();
    all.iter().find(good).map_or(fallback, |i| i.ip())
}
