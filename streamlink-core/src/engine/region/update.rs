//! Outputs of a region as configuration for its link.

use super::attachment::Attachment;
use crate::flow::{Bitrate, EndpointConfiguration, Output, OutputProtocol};
use std::{fmt, net::SocketAddr, sync::Weak};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Receiver of the outputs of one flow in one region. A slow receiver gets the latest state only.
#[derive(Debug)]
pub struct RegionUpdates {
    attachment: Weak<Attachment>,
    version: watch::Receiver<u64>,
    /// Cancelled when this run of the link is over.
    over: CancellationToken,
    is_first: bool,
}

impl RegionUpdates {
    pub(super) fn new(attachment: Weak<Attachment>, version: watch::Receiver<u64>, over: CancellationToken) -> Self {
        Self { attachment, version, over, is_first: true }
    }

    /// Waits for the next state: the present one at first, then the latest one after each change. `None`: the flow has
    /// left the region, and all its outputs end there.
    ///
    /// If the future is dropped before it is ready, nothing is lost.
    pub async fn next(&mut self) -> Option<RegionUpdate> {
        if !self.is_first {
            tokio::select! {
                biased;
                () = self.over.cancelled() => return None,
                changed = self.version.changed() => changed.ok()?,
            }
        }
        if self.over.is_cancelled() {
            return None;
        }
        let update = self.attachment.upgrade()?.update(&mut self.version);
        self.is_first = false;
        Some(update)
    }
}

/// State of one flow in one region: it replaces the state before.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegionUpdate {
    /// Maximum bandwidth of the flow.
    pub max_bandwidth: Bitrate,
    /// SDP of the source, once it is known, of the media family whose packets need one; see
    /// [`AppSource::set_sdp`](crate::AppSource::set_sdp).
    pub sdp: Option<String>,
    /// Outputs to run in the region, in the order in which they came. Those that are missing end.
    pub outputs: Vec<RegionOutput>,
    /// Players to be disconnected once, of the last 10 s, oldest first: at most 64.
    pub kicks: Vec<RegionKick>,
}

/// Player of an output of a region that is to be disconnected once. It may reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegionKick {
    /// Number of the request, which grows, and by which one that was met is known.
    pub number: u64,
    /// Number of the output, as in [`RegionOutput::id`].
    pub output: u64,
    /// Address of the player, as its node has reported it.
    pub peer: SocketAddr,
}

/// Output to run in a region. `Debug` and `Serialize` show its configuration with the secrets hidden.
#[derive(Clone)]
pub struct RegionOutput {
    id: u64,
    output: Output,
}

impl RegionOutput {
    pub(super) fn new(id: u64, output: Output) -> Self {
        Self { id, output }
    }

    /// Returns the number by which the output is reported. No other output of the engine ever has it. It stays when the
    /// output is edited in place: its name, its description, its allowlist, its maximum number of players or the members
    /// of its group. Everything else makes another output.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the name of the output, which is unique within the flow.
    pub fn name(&self) -> &str {
        self.output.name()
    }

    /// Returns the protocol of the output.
    pub fn protocol(&self) -> OutputProtocol {
        self.output.protocol()
    }

    /// Returns the output with its secrets and without its region, ready to be added to a flow at a node of the region.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Returns the configuration of the output, with its secrets hidden.
    pub fn configuration(&self) -> EndpointConfiguration {
        EndpointConfiguration::of_output(&self.output, true)
    }
}

impl fmt::Debug for RegionOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionOutput").field("id", &self.id).field("output", &self.configuration()).finish()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for RegionOutput {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut shown = serializer.serialize_struct("RegionOutput", 2)?;
        shown.serialize_field("id", &self.id)?;
        shown.serialize_field("output", &self.configuration())?;
        shown.end()
    }
}
