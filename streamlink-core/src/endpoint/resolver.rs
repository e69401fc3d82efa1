//! Resolution of host names, by the system's resolver, or by a function in tests, and the order in which the addresses
//! of a host are tried (RFC 8305).

use super::tcp::End;
use crate::{
    endpoint::LossReason,
    flow::HostPort,
    net::{Egress, Stream},
};
use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Instant};

/// Maximum number of addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Replacement for the system's resolver.
type Lookup = dyn Fn(&str, u16) -> Answer + Send + Sync;

/// Resolver of host names.
#[derive(Clone, Default)]
pub(crate) struct Resolver(Option<Arc<Lookup>>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// Returns the addresses of a host in the order in which they are to be tried, at least one.
    pub(crate) async fn addresses(&self, target: &HostPort, egress: &Egress) -> io::Result<Vec<SocketAddr>> {
        let found = match &self.0 {
            Some(lookup) => lookup(target.host(), target.port()).await?,
            None => tokio::net::lookup_host((target.host(), target.port())).await?.collect(),
        };
        let found = in_order(found, egress);
        if found.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(found) }
    }
}

/// Returns the addresses of a host with the families alternating, the first of the resolver first (RFC 8305 section 4).
/// Only those of the family of the local address are of use, if there is one and any fit.
fn in_order(found: Vec<SocketAddr>, egress: &Egress) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    if let Some(local) = egress.address
        && unique.iter().any(|address| address.is_ipv4() == local.is_ipv4())
    {
        unique.retain(|address| address.is_ipv4() == local.is_ipv4());
    }
    let first_is_ipv4 = unique.first().is_some_and(SocketAddr::is_ipv4);
    let (mut own, mut other): (Vec<_>, Vec<_>) = unique.into_iter().partition(|a| a.is_ipv4() == first_is_ipv4);
    let mut ordered = Vec::new();
    own.reverse();
    other.reverse();
    while ordered.len() < MAX_ADDRESSES && !(own.is_empty() && other.is_empty()) {
        ordered.extend(own.pop());
        ordered.extend(other.pop());
    }
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

/// Host that a caller connects to.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) resolver: &'a Resolver,
    pub(super) host: &'a HostPort,
    pub(super) egress: &'a Egress,
    /// Address that has led to nothing last, and is tried last.
    pub(super) avoid: Option<SocketAddr>,
    pub(super) deadline: Instant,
}

impl Target<'_> {
    /// Returns the addresses to try.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, LossReason> {
        let lookup = self.resolver.addresses(self.host, self.egress);
        let found = tokio::time::timeout_at(self.deadline.into(), lookup).await;
        let failed = |why: String| LossReason::Io(format!("cannot resolve `{}`: {why}", self.host.host()).into());
        let mut found = found.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        if let Some(at) = found.iter().position(|address| Some(*address) == self.avoid) {
            let avoided = found.remove(at);
            found.push(avoided);
        }
        Ok(found)
    }

    /// Connects over TCP to the first address that answers.
    pub(super) async fn connect(&self) -> Result<(Stream, SocketAddr), End> {
        let addresses = self.addresses().await.map_err(End::Lost)?;
        let connected = Stream::connect_first(&addresses, self.egress, self.deadline).await;
        connected.map_err(|failures| End::Lost(unreachable(&failures)))
    }
}

/// Returns the reason when no address of a peer could be reached, with all that were tried.
pub(super) fn unreachable(failures: &[(SocketAddr, io::Error)]) -> LossReason {
    let each: Vec<String> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    LossReason::Unreachable(each.join("; ").into())
}

#[cfg(test)]
impl Resolver {
    /// Creates a resolver that calls a function.
    pub(crate) fn asking(lookup: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn resolver_alternates_families_from_the_first_on() {
        let any = Egress::default();
        let found = addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]);
        let expected = addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "127.0.0.3:1"]);
        assert_eq!(in_order(found.clone(), &any), expected);
        let ipv4 = Egress { address: Some([127, 0, 0, 1].into()), interface: None };
        assert_eq!(in_order(found, &ipv4), addresses(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]));
        assert_eq!(in_order(addresses(&["[::1]:1"]), &ipv4), addresses(&["[::1]:1"]), "the error names it");
        let many = (1..200).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        assert_eq!(in_order(many, &any).len(), MAX_ADDRESSES);
    }
}
