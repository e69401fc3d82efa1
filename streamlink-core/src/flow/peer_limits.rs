//! Limits of one peer address at a listening port.

/// Limits of one peer address at a listening port, which keep one host from locking out the others.
///
/// The addresses of an IPv6 /64 network count as one, as one host usually has all of them. The defaults leave room for
/// a site behind NAT; a load generator that plays hundreds of clients from one address needs higher ones.
///
/// ```
/// use streamlink_core::{Engine, PeerLimits};
///
/// let limits = PeerLimits::new().connections(5000).refusals_per_second(100);
/// let engine = Engine::builder().peer_limits(limits).build()?;
/// # Ok::<(), streamlink_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct PeerLimits {
    pub(crate) pending: u32,
    pub(crate) connections: u32,
    pub(crate) refusals_per_second: u32,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self { pending: 128, connections: 1000, refusals_per_second: 20 }
    }
}

impl PeerLimits {
    /// Returns the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum number of open connections of one address that have not yet named a stream (128; 1–1 000 000).
    pub fn pending(mut self, connections: u32) -> Self {
        self.pending = connections.clamp(1, 1_000_000);
        self
    }

    /// Sets the maximum number of open connections of one address (1000; 1–1 000 000). The maximum of players of an
    /// output (`max_players`) applies as well.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.clamp(1, 1_000_000);
        self
    }

    /// Sets the maximum number of refused attempts of one address per second, such as wrong passwords (20;
    /// 1–1 000 000). Further attempts of the address are rejected without being examined.
    pub fn refusals_per_second(mut self, attempts: u32) -> Self {
        self.refusals_per_second = attempts.clamp(1, 1_000_000);
        self
    }
}
