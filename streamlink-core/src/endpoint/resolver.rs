//! Resolution of host names, by the system's resolver, or by a function in tests.

use crate::flow::HostPort;
use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

type Answer = Pin<Box<dyn Future<Output = io::Result<SocketAddr>> + Send>>;

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
    /// Returns the first address of a host.
    pub(crate) async fn first(&self, target: &HostPort) -> io::Result<SocketAddr> {
        match &self.0 {
            Some(lookup) => lookup(target.host(), target.port()).await,
            None => {
                let mut found = tokio::net::lookup_host((target.host(), target.port())).await?;
                found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }
}

#[cfg(test)]
impl Resolver {
    /// Creates a resolver that calls a function.
    pub(crate) fn asking(lookup: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }
}
