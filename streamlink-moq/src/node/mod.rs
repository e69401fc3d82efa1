//! A region's node: it runs outputs of flows that other machines take in.

mod agent;
mod desired;
mod runner;

use crate::{
    Error, Lease, LinkSettings, MoqAddress, RelayLink, Relays,
    membership::{MAX_NAME, MembershipEvent, NodeKey, Phase},
    paths::{Paths, checked_name},
    seal::RegionKeys,
};
use agent::Agent;
use std::{fmt, sync::Arc, time::Duration};
use streamlink_core::{Engine, PeerText};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// Maximum number of events that wait to be read; later ones are lost, and counted.
const MAX_EVENTS: usize = 1024;
/// Time that [`Node::leave`] waits for outputs to stop and for others to know.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of a node.
#[derive(Clone)]
#[must_use]
pub struct NodeOptions {
    region: String,
    id: String,
    address: MoqAddress,
    keys: RegionKeys,
    settings: LinkSettings,
    lease: Option<Arc<dyn Lease>>,
    max_flows: usize,
}

impl NodeOptions {
    /// Returns the settings of the node `id` of a region. `address` names the cluster's relays and the path below which its
    /// flows are, as in `moq://relay-a,relay-b/live`; `keys` open what is sealed for the region.
    pub fn new(region: impl Into<String>, id: impl Into<String>, address: MoqAddress, keys: RegionKeys) -> Self {
        Self {
            region: region.into(),
            id: id.into(),
            address,
            keys,
            settings: LinkSettings::default(),
            lease: None,
            max_flows: 500,
        }
    }

    /// Sets the settings of the links to the relays: certificates, and a token.
    pub fn settings(mut self, settings: LinkSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the leases that guard exclusive outputs. All nodes of a region have them, or none.
    pub fn lease(mut self, lease: Arc<dyn Lease>) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Sets the maximum number of flows of which the node takes notice (500; 1–10 000). Further ones are told in an event
    /// and left to other nodes.
    pub fn max_flows(mut self, flows: usize) -> Self {
        self.max_flows = flows.clamp(1, 10_000);
        self
    }
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions").field("region", &self.region).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Event of a node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The membership of the region has changed.
    Membership(MembershipEvent),
    /// A relay is connected.
    RelayConnected(String),
    /// A relay is lost, or cannot be reached.
    RelayLost {
        /// Address of the relay.
        relay: String,
        /// Reason.
        reason: PeerText,
    },
    /// A flow with outputs in the region has appeared.
    FlowFound(String),
    /// A flow has no outputs in the region any more, or its publishers are gone.
    FlowGone(String),
    /// An output runs here.
    OutputStarted {
        /// Name of the flow.
        flow: String,
        /// Name of the output.
        output: String,
    },
    /// An output does not run here any more.
    OutputStopped {
        /// Name of the flow.
        flow: String,
        /// Name of the output.
        output: String,
    },
    /// An output, or the whole flow, cannot run here, and is tried again.
    Failed {
        /// Name of the flow.
        flow: String,
        /// Reason, with the name of the output if it is one.
        reason: PeerText,
    },
    /// A message of a publisher or a node is refused.
    Refused {
        /// Path of the broadcast that brought it.
        path: PeerText,
        /// Reason.
        reason: PeerText,
    },
    /// Events before this one are lost, as they were not read.
    Missed(u64),
}

impl fmt::Display for NodeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Membership(event) => event.fmt(f),
            Self::RelayConnected(relay) => write!(f, "relay {relay} connected"),
            Self::RelayLost { relay, reason } => write!(f, "relay {relay} lost: {reason}"),
            Self::FlowFound(flow) => write!(f, "flow `{}` found", PeerText::new(flow)),
            Self::FlowGone(flow) => write!(f, "flow `{}` gone", PeerText::new(flow)),
            Self::OutputStarted { flow, output } => {
                write!(f, "output `{}` of flow `{}` started", PeerText::new(output), PeerText::new(flow))
            }
            Self::OutputStopped { flow, output } => {
                write!(f, "output `{}` of flow `{}` stopped", PeerText::new(output), PeerText::new(flow))
            }
            Self::Failed { flow, reason } => write!(f, "flow `{}`: {reason}", PeerText::new(flow)),
            Self::Refused { path, reason } => write!(f, "message at {path} refused: {reason}"),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// State of a node at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeState {
    /// Part that it takes in its region.
    pub phase: Phase,
    /// Other nodes of the region that it knows, with their parts.
    pub peers: Vec<(NodeKey, Phase)>,
    /// Number of flows with outputs in the region.
    pub flows: usize,
    /// Exclusive outputs that it is to run, as `flow/output`.
    pub exclusive: Vec<String>,
    /// Outputs that it is to run as primary or standby, as `flow/output`.
    pub shared: Vec<String>,
    /// Number of messages of publishers and nodes that were refused.
    pub refused: u64,
}

/// Node of a region, which runs until it leaves or is dropped. Dropping it ends its outputs at once, and the other nodes
/// take over as if it had died.
#[derive(Debug)]
pub struct Node {
    key: NodeKey,
    events: mpsc::Receiver<NodeEvent>,
    state: watch::Receiver<NodeState>,
    relays: Arc<Relays>,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Node {
    /// Starts a node, whose outputs run on an engine. Returns before the relays are connected. Must be called within the
    /// tokio runtime of the engine.
    ///
    /// # Errors
    /// When the settings of the links cannot be used, or a name is not valid.
    pub fn start(engine: &Engine, options: NodeOptions) -> Result<Self, Error> {
        checked_name("a region name", &options.region)?;
        checked_name("a node name", &options.id)?;
        if options.id.len() > MAX_NAME {
            return Err(Error::Path("a node name of 1 to 128 bytes is expected".into()));
        }
        let key = NodeKey { id: options.id.clone(), instance: random_number()? };
        let paths = Paths::new(options.address.path());
        // Heartbeats come back over connections of their own, so that a relay returns them as it does to other nodes.
        let token = options.address.token();
        let publish = Relays::connect(options.address.relays(), &options.settings, token)?;
        let subscribe = Arc::new(Relays::connect(options.address.relays(), &options.settings, token)?);
        let relays = subscribe.clone();
        let (event_sender, events) = mpsc::channel(MAX_EVENTS);
        let (state_sender, state) = watch::channel(NodeState {
            phase: Phase::Joining,
            peers: Vec::new(),
            flows: 0,
            exclusive: Vec::new(),
            shared: Vec::new(),
            refused: 0,
        });
        let (leave, left) = oneshot::channel();
        let agent =
            Agent::new(engine.clone(), options, key.clone(), paths, publish, subscribe, event_sender, state_sender)?;
        let task = tokio::spawn(agent.run(left));
        Ok(Self { key, events, state, relays, leave: Some(leave), task })
    }

    /// Returns the key of the node.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// Waits for the next event. `None` once the node has left.
    pub async fn next_event(&mut self) -> Option<NodeEvent> {
        self.events.recv().await
    }

    /// Returns the next event, if there is one now.
    pub fn try_next_event(&mut self) -> Option<NodeEvent> {
        self.events.try_recv().ok()
    }

    /// Returns the state, at most 100 ms old.
    pub fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// Returns the links over which the node receives, one for each relay.
    pub fn links(&self) -> &[RelayLink] {
        self.relays.links()
    }

    /// Leaves the region: stops all outputs, and tells the other nodes, which take over at once.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(()); // the agent may have ended
        }
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, &mut self.task).await; // dropped below if it is late
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a random number, which names a process.
pub(crate) fn random_number() -> Result<u64, Error> {
    use crypto_box::aead::{OsRng, rand_core::RngCore};
    let mut bytes = [0; 8];
    OsRng.try_fill_bytes(&mut bytes).map_err(|_| Error::Settings("the system has no random numbers".into()))?;
    Ok(u64::from_be_bytes(bytes))
}
