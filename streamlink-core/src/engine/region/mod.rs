//! Regions on other machines. An engine hands the outputs of such a region to a [`RegionLink`], together with the
//! packets of their flow, and shows what the link reports about them as if they were its own.
//!
//! The engine knows nothing of how a link reaches its region. Code of a link runs in a task of its own for each flow and
//! region, never under a lock, and all that it is told waits for it as one value that holds the latest state. A link that
//! blocks, fails or panics therefore affects its own outputs alone.

mod attachment;
mod entry;
mod kick;
mod report;
mod reporter;
mod run;
mod update;

pub use reporter::RegionReporter;
pub use update::{RegionKick, RegionOutput, RegionUpdate, RegionUpdates};

pub(super) use attachment::{Attachment, FlowParts, RemoteEnd, Removal};

use crate::{endpoint::Tap, event::LossReason, flow::InputProtocol, media::MediaFamily, net::Egress};
use std::{fmt, pin::Pin, sync::Arc};
use tokio::sync::Semaphore;

/// Maximum number of concurrent calls of [`RegionLink::run`] of one region.
const MAX_CALLS: usize = 16;

/// Link to a region on other machines. The outputs of flows that name the region are run there.
///
/// An engine knows it by [`EngineBuilder::remote_region`](crate::EngineBuilder::remote_region) or
/// [`Engine::add_remote_region`](crate::Engine::add_remote_region). Outputs then need their
/// [`region`](crate::Output::region) only.
///
/// ```
/// use std::sync::Arc;
/// use streamlink_core::{Engine, RegionFlow, RegionLink, RegionTask};
///
/// struct Cluster;
///
/// impl RegionLink for Cluster {
///     fn run(&self, mut flow: RegionFlow) -> RegionTask {
///         Box::pin(async move {
///             loop {
///                 tokio::select! {
///                     batch = flow.tap.next_batch() => match batch {
///                         Some(packets) => println!("{} packets to send", packets.len()),
///                         None => return Ok(()), // the flow has stopped
///                     },
///                     update = flow.updates.next() => match update {
///                         Some(update) => println!("{} outputs to run there", update.outputs.len()),
///                         None => return Ok(()), // the last output has gone
///                     },
///                 }
///             }
///         })
///     }
/// }
///
/// # fn main() -> Result<(), streamlink_core::Error> {
/// let engine = Engine::builder().remote_region("eu", Arc::new(Cluster)).build()?;
/// # Ok(())
/// # }
/// ```
pub trait RegionLink: Send + Sync + 'static {
    /// Makes the task that carries a flow to the region until the flow has left it.
    ///
    /// Called once for each flow and region, when the first output of the region comes, and again after the task has
    /// failed: 1 s later at first, then with delays that double up to 30 s. The call runs on a thread for blocking work,
    /// at most 16 of them at a time for each region.
    ///
    /// The task runs on the engine's tokio runtime and must not block. It ends when [`RegionUpdates::next`] returns
    /// `None`: the last output has gone, or the flow has stopped. It then has 3 s in which to end the outputs, and is
    /// dropped after that. A task that ends before is a failure, as is a panic: the outputs wait for the region, and
    /// statistics and events say why.
    fn run(&self, flow: RegionFlow) -> RegionTask;
}

/// Task of a [`RegionLink`] for one flow. The reason of an error must hold no secret.
pub type RegionTask = Pin<Box<dyn Future<Output = Result<(), LossReason>> + Send>>;

/// One flow in one region, as it is handed to a [`RegionLink`].
#[derive(Debug)]
#[non_exhaustive]
pub struct RegionFlow {
    /// Name of the flow, unique within the engine.
    pub name: String,
    /// Name of the region.
    pub region: String,
    /// Protocol of the flow's first source. The outputs are those that it can feed.
    pub input: InputProtocol,
    /// Media family of the packets.
    pub family: MediaFamily,
    /// Packets of the flow, without copying; the only tap of this flow in this region. A link that does not keep up loses
    /// the oldest, which are counted and told.
    pub tap: Tap,
    /// Outputs to run in the region, now and after each change.
    pub updates: RegionUpdates,
    /// Receiver of what happens to the outputs there.
    pub reporter: RegionReporter,
}

/// Region of an engine.
#[derive(Clone, Debug)]
pub(super) enum Region {
    /// Egress of this machine.
    Local(Egress),
    /// Other machines.
    Remote(Arc<RemoteRegion>),
}

impl Region {
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Region on other machines, with the link to it.
pub(super) struct RemoteRegion {
    name: String,
    link: Arc<dyn RegionLink>,
    /// Permits of concurrent calls of the link.
    calls: Arc<Semaphore>,
}

impl RemoteRegion {
    pub(super) fn new(name: String, link: Arc<dyn RegionLink>) -> Arc<Self> {
        Arc::new(Self { name, link, calls: Arc::new(Semaphore::new(MAX_CALLS)) })
    }
}

impl fmt::Debug for RemoteRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRegion").field("name", &self.name).finish_non_exhaustive()
    }
}
