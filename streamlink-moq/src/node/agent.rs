//! The task of a node: heartbeats and membership, the flows of the region, and what is to run of them.

use super::{
    NodeEvent, NodeOptions, NodeState,
    desired::{Desired, PublishedFlow},
    runner::{Report, Runner, Shared},
};
use crate::{
    Broadcast, Error, Relays, TrackOptions, TrackWriter,
    media::Fence,
    membership::{FENCE, Heartbeat, MAX_NODES, Membership, MembershipEvent, NodeKey, Phase},
    outputs::{FlowOutputs, REPETITION},
    paths::Paths,
    placement::OutputId,
    status::StatusWriter,
    track_watch::{News, Watch, Watched},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{Engine, PeerText};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

/// Maximum number of messages that wait for the agent; readers wait then, and skip to the newest.
const QUEUE: usize = 1024;
/// Time after which a node that has heard of no flow counts as prepared.
const PREPARATION: Duration = Duration::from_millis(500);
/// Minimum interval between two events about refused messages of one path.
const REFUSALS: Duration = Duration::from_secs(10);
/// Maximum number of paths whose refusals are remembered.
const MAX_REFUSALS: usize = 256;
/// Time for which a node that leaves goes on to say so.
const FAREWELL: Duration = Duration::from_millis(400);

/// Message of a reader to the agent.
#[derive(Debug)]
enum Message {
    Node(Watched),
    Outputs(Watched),
    Link { relay: String, lost: Option<PeerText> },
}

/// Flow of the region, with the runner of its outputs here.
struct KnownFlow {
    published: PublishedFlow,
    desired: watch::Sender<Desired>,
    /// Newest generation in which all outputs have stopped that were not to run.
    stopped: u64,
    /// Newest round of decisions for which that holds.
    stopped_round: u64,
}

pub(super) struct Agent {
    options: NodeOptions,
    key: NodeKey,
    paths: Paths,
    membership: Membership,
    shared: Arc<Shared>,
    reports: mpsc::Receiver<Report>,
    messages: mpsc::Receiver<Message>,
    /// Readers, runners and watches, which end with the agent.
    readers: JoinSet<()>,
    runners: JoinSet<()>,
    flows: BTreeMap<String, KnownFlow>,
    events: mpsc::Sender<NodeEvent>,
    state: watch::Sender<NodeState>,
    missed: u64,
    refused: u64,
    refusals: HashMap<String, Instant>,
    /// Generation for which flows were last told what to run.
    decided: Option<u64>,
    is_dirty: bool,
    /// Leases of the host that this node asks for.
    leases: BTreeSet<OutputId>,
    /// Leases to be given back, each when its flow has done what was decided in a round.
    returned: Vec<(u64, OutputId)>,
    /// Number of decisions.
    round: u64,
    /// Number of runners started so far.
    runs: u64,
    began: Instant,
    heartbeat: TrackWriter,
    _broadcast: Broadcast,
}

impl Agent {
    #[allow(clippy::too_many_arguments)] // the parts of a node, used once
    pub(super) fn new(
        engine: Engine,
        options: NodeOptions,
        key: NodeKey,
        paths: Paths,
        publish: Relays,
        subscribe: Arc<Relays>,
        events: mpsc::Sender<NodeEvent>,
        state: watch::Sender<NodeState>,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        let broadcast = publish.publish(&paths.node(&options.region, &key))?;
        let heartbeat = broadcast.track("heartbeat", TrackOptions { priority: 255, ..TrackOptions::default() })?;
        broadcast.announce()?;
        let (message_sender, messages) = mpsc::channel(QUEUE);
        let mut readers = JoinSet::new();
        for (relay, link) in subscribe.links().iter().enumerate() {
            let nodes = Watch {
                link: link.clone(),
                relay,
                prefix: paths.all_nodes(&options.region),
                track: "heartbeat",
                limit: 2 * MAX_NODES,
                patience: FENCE,
            };
            readers.spawn(nodes.run(Message::Node, message_sender.clone()));
            let outputs = Watch {
                link: link.clone(),
                relay,
                prefix: paths.all_outputs(&options.region),
                track: "outputs",
                limit: options.max_flows,
                patience: 3 * REPETITION,
            };
            readers.spawn(outputs.run(Message::Outputs, message_sender.clone()));
            let mut link = link.clone();
            let sender = message_sender.clone();
            readers.spawn(async move {
                let relay = link.address().to_string();
                let mut told = None;
                while let Some(status) = link.status_changed().await {
                    let lost = status.last_error.clone().filter(|_| !status.is_connected());
                    // Attempts that fail for the same reason as the one before are not told again.
                    if (!status.is_connected() && lost.is_none()) || told.as_ref() == Some(&lost) {
                        continue;
                    }
                    told = Some(lost.clone());
                    if sender.send(Message::Link { relay: relay.clone(), lost }).await.is_err() {
                        return;
                    }
                }
            });
        }
        let names = subscribe.links().iter().map(|link| link.address().to_string());
        let membership = Membership::new(key.clone(), names, options.lease.is_some(), now);
        let (report_sender, reports) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            engine,
            subscribe,
            publish: Arc::new(publish),
            fence: Arc::new(Fence::new(&key.id)),
            reports: report_sender,
        });
        Ok(Self {
            options,
            key,
            paths,
            membership,
            shared,
            reports,
            messages,
            readers,
            runners: JoinSet::new(),
            flows: BTreeMap::new(),
            events,
            state,
            missed: 0,
            refused: 0,
            refusals: HashMap::new(),
            decided: None,
            is_dirty: true,
            leases: BTreeSet::new(),
            returned: Vec::new(),
            round: 0,
            runs: 0,
            began: now,
            heartbeat,
            _broadcast: broadcast,
        })
    }

    /// Runs until the node has left, or is dropped.
    pub(super) async fn run(mut self, mut leave: oneshot::Receiver<()>) {
        let mut left: Option<Instant> = None;
        let mut is_leaving = false;
        loop {
            self.drive();
            if self.membership.phase() == Phase::Left {
                let since = *left.get_or_insert_with(Instant::now);
                if since.elapsed() >= FAREWELL {
                    break;
                }
            }
            let timeout = self.membership.next_timeout();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(timeout.into()) => {}
                Some(report) = self.reports.recv() => self.take_report(report),
                Some(message) = self.messages.recv() => self.take_message(message),
                Some(_) = self.runners.join_next() => {}
                asked = &mut leave, if !is_leaving => {
                    // A handle that is dropped ends the task; an error means that nobody will ask.
                    is_leaving = true;
                    if asked.is_ok() {
                        self.membership.leave(Instant::now());
                    }
                }
            }
        }
        self.readers.abort_all();
        self.flows.clear();
        while self.runners.join_next().await.is_some() {}
    }

    /// Does what is due, after time has passed or something was received.
    fn drive(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.began) >= PREPARATION {
            self.membership.prepare(now);
        }
        if let Some(heartbeat) = self.membership.poll_heartbeat(now) {
            if let Err(error) = self.heartbeat.write_object(heartbeat.to_bytes()) {
                log::debug!("heartbeat not published: {error}");
            }
            // At the pace of heartbeats, which is that of leases of the host, too.
            self.is_dirty |= self.options.lease.is_some();
            self.expire(now);
            self.publish_state();
        }
        self.shared.fence.set(self.membership.fence());
        while let Some(event) = self.membership.poll_event() {
            if let MembershipEvent::LeaseLost | MembershipEvent::Unresolved { .. } = event {
                log::warn!("node {}: {event}", self.key);
            }
            self.tell(NodeEvent::Membership(event));
        }
        let generation = self.membership.generation();
        if self.is_dirty || self.decided != Some(generation) {
            self.decide(generation, now);
        }
        let stopped = self.flows.values().map(|flow| flow.stopped).min().unwrap_or(generation);
        self.membership.confirm(now, stopped.min(generation));
        if let Some(lease) = &self.options.lease {
            let flows = &self.flows;
            let has_stopped = |round: u64, flow: &str| flows.get(flow).is_none_or(|flow| flow.stopped_round >= round);
            for (_, output) in self.returned.extract_if(.., |(round, output)| has_stopped(*round, &output.flow)) {
                lease.release(&output);
            }
        }
    }

    /// Tells the runners what is to run.
    fn decide(&mut self, generation: u64, now: Instant) {
        self.decided = Some(generation);
        self.is_dirty = false;
        self.round += 1;
        let round = self.round;
        let lease = self.options.lease.clone();
        let mut asked = BTreeSet::new();
        for (name, flow) in &mut self.flows {
            let mut may_run = |output: &OutputId| {
                let Some(lease) = &lease else { return true };
                lease.request(output);
                asked.insert(output.clone());
                lease.held_until(output).is_some_and(|until| until > now)
            };
            let mut desired = flow.published.desired(name, &self.membership, &mut may_run);
            desired.round = round;
            flow.desired.send_if_modified(|known| {
                let is_other = !known.is_same(&desired);
                if is_other {
                    *known = desired;
                }
                is_other
            });
        }
        self.returned.retain(|(_, output)| !asked.contains(output));
        self.returned.extend(self.leases.difference(&asked).map(|output| (round, output.clone())));
        self.leases = asked;
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Stopped { flow, generation, round } => {
                if let Some(flow) = self.flows.get_mut(&flow) {
                    flow.stopped = flow.stopped.max(generation);
                    flow.stopped_round = flow.stopped_round.max(round);
                }
            }
            Report::Event(event) => self.tell(event),
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Node(Watched { relay, path, news: News::Object(bytes) }) => {
                self.take_heartbeat(relay, &path, &bytes)
            }
            // Silence says it; a withdrawal only says that a relay is gone.
            Message::Node(Watched { news: News::Withdrawn, .. }) => {}
            Message::Node(Watched { path, .. }) | Message::Outputs(Watched { path, news: News::TooMany, .. }) => {
                self.refuse(&path, "more broadcasts than this node takes notice of");
            }
            Message::Outputs(Watched { relay, path, news: News::Object(bytes) }) => {
                self.take_outputs(relay, &path, &bytes);
            }
            Message::Outputs(Watched { relay, path, news: News::Withdrawn }) => {
                let Some((name, publisher)) = self.paths.read_outputs(&self.options.region, &path) else { return };
                if let Some(flow) = self.flows.get_mut(&name) {
                    flow.published.withdraw(relay, publisher, Instant::now());
                }
            }
            Message::Link { relay, lost: None } => self.tell(NodeEvent::RelayConnected(relay)),
            Message::Link { relay, lost: Some(reason) } => self.tell(NodeEvent::RelayLost { relay, reason }),
        }
    }

    fn take_heartbeat(&mut self, relay: usize, path: &str, bytes: &Bytes) {
        let Some(link) = self.shared.subscribe.links().get(relay) else { return };
        let name = link.address().to_string();
        match Heartbeat::from_bytes(bytes) {
            Ok(heartbeat) if self.paths.read_node(&self.options.region, path).as_ref() == Some(&heartbeat.node) => {
                self.membership.receive(Instant::now(), &name, &heartbeat);
            }
            Ok(_) => self.refuse(path, "the heartbeat of another node"),
            Err(error) => self.refuse(path, &error.to_string()),
        }
    }

    fn take_outputs(&mut self, relay: usize, path: &str, bytes: &Bytes) {
        let region = &self.options.region;
        let Some((name, publisher)) = self.paths.read_outputs(region, path) else {
            return self.refuse(path, "not the path of a flow");
        };
        let outputs = match FlowOutputs::open(bytes, &self.options.keys, region, &name) {
            Ok(outputs) if outputs.publisher == publisher => outputs,
            Ok(_) => return self.refuse(path, "the outputs of another publisher"),
            Err(error) => return self.refuse(path, &error.to_string()),
        };
        if !self.flows.contains_key(&name) {
            if self.flows.len() >= self.options.max_flows {
                return self.refuse(path, "more flows than this node takes notice of");
            }
            let flow = self.start_runner(&name);
            self.flows.insert(name.clone(), flow);
            self.tell(NodeEvent::FlowFound(name.clone()));
        }
        let Some(flow) = self.flows.get_mut(&name) else { return };
        if flow.published.is_full_for(publisher) {
            return self.refuse(path, "more publishers of the flow than this node takes notice of");
        }
        self.is_dirty |= flow.published.take(relay, outputs);
    }

    fn start_runner(&mut self, name: &str) -> KnownFlow {
        let published = PublishedFlow::default();
        let generation = self.membership.generation();
        let desired = published.desired(name, &self.membership, |_| false);
        let (sender, receiver) = watch::channel(desired);
        self.runs += 1;
        let region = &self.options.region;
        let runner = Runner {
            shared: self.shared.clone(),
            flow: name.to_owned(),
            media_path: self.paths.media(name),
            status_path: self.paths.status(region, name, &self.key),
            desired: receiver,
            status: StatusWriter::new(region, name, &self.key, self.runs),
            media_faults: Vec::new(),
            kicked: BTreeMap::new(),
        };
        self.runners.spawn(runner.run());
        KnownFlow { published, desired: sender, stopped: generation, stopped_round: 0 }
    }

    /// Drops flows whose publishers are gone.
    fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        // A node that is cut off knows nothing of its publishers.
        let is_cut_off = !self.shared.subscribe.links().iter().any(|link| link.status().is_connected());
        for (name, flow) in &mut self.flows {
            if is_cut_off {
                flow.published.hold(now);
            }
            self.is_dirty |= flow.published.expire(now);
            if flow.published.is_empty() {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.flows.remove(&name);
            self.tell(NodeEvent::FlowGone(name));
        }
    }

    fn publish_state(&self) {
        let mut state = NodeState {
            phase: self.membership.phase(),
            peers: self.membership.peers().map(|(key, phase)| (key.clone(), phase)).collect(),
            flows: self.flows.len(),
            exclusive: Vec::new(),
            shared: Vec::new(),
            refused: self.refused,
        };
        for (flow, known) in &self.flows {
            for (name, output) in &known.desired.borrow().outputs {
                let list = if output.is_exclusive { &mut state.exclusive } else { &mut state.shared };
                list.push(OutputId::new(flow, name).to_string());
            }
        }
        self.state.send_if_modified(|known| {
            let is_other = *known != state;
            if is_other {
                *known = state;
            }
            is_other
        });
    }

    /// Counts a message that is refused, and tells it, at most once in a while for each path.
    fn refuse(&mut self, path: &str, reason: &str) {
        self.refused = self.refused.saturating_add(1);
        let now = Instant::now();
        self.refusals.retain(|_, at| now.saturating_duration_since(*at) < REFUSALS);
        if self.refusals.len() >= MAX_REFUSALS || self.refusals.contains_key(path) {
            return;
        }
        self.refusals.insert(path.to_owned(), now);
        let event = NodeEvent::Refused { path: PeerText::new(path), reason: PeerText::new(reason) };
        log::warn!("node {}: {event}", self.key);
        self.tell(event);
    }

    /// Tells an event. A host that does not read loses it, and is told how many.
    fn tell(&mut self, event: NodeEvent) {
        if self.missed > 0 && self.events.try_send(NodeEvent::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.missed > 0 || self.events.try_send(event).is_err() {
            self.missed = self.missed.saturating_add(1);
        }
    }
}
