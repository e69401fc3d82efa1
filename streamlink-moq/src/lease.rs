//! Leases of the host for exclusive outputs, from a store such as etcd, NATS or Kubernetes.

use crate::placement::OutputId;
use std::time::Instant;

/// Leases that a host keeps in a store of its own. When a node has one, it runs an exclusive output only while it holds the
/// output's lease, and nodes take over from one another without asking which relays are left.
///
/// The methods are called often, on a task of the library: they return at once, and talk to the store elsewhere.
pub trait Lease: Send + Sync + 'static {
    /// Asks for the lease of an output of this region, which this node is to run. It is called again every 100 ms until
    /// [`Lease::release`].
    fn request(&self, output: &OutputId);

    /// Returns until when the lease of an output is held, or `None`. The time lies before the end that the store has
    /// noted, by as much as clocks and messages may be late.
    fn held_until(&self, output: &OutputId) -> Option<Instant>;

    /// Gives the lease of an output back, after the output has stopped.
    fn release(&self, output: &OutputId);
}
