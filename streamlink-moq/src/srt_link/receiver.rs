//! Receiving end of a link over SRT, at a node: a group of callers for each publisher of the flow, whose packets are
//! joined and pushed into an app source.

use super::{SrtTarget, link_bandwidth, link_name, packets::Unpacker};
use crate::{
    event::Throttle,
    merge::{LegObject, MAX_LEGS, Merger, Output as Merged},
    subscribe::sink::Sink,
    wire::{DecodedObject, MediaPacket},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, BandwidthPolicy, Bitrate, CryptoMode, Engine, Event, Flow, FlowHandle, KeyLength, MediaFamily, Output,
    PacketBatch, PeerText, Source,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Name of the source that calls.
const SOURCE: &str = "ingest engine";
/// Name of the tap that takes the packets.
const TAP: &str = "packets";
/// Number of batches of objects that may wait to be joined.
const QUEUE: usize = 64;
/// Time without media of the publisher in use after which another one's is used.
const SILENCE: Duration = Duration::from_secs(1);
/// Time that packets of family RTP that one publisher lacks are waited for from another one.
const WAIT: Duration = Duration::from_secs(1);
/// Time without any packet after which a link counts as lost. The sender sends one each second.
const IDLE: Duration = Duration::from_secs(5);
/// Time for which one path may be silent. The other goes on.
const PEER_IDLE: Duration = Duration::from_secs(3);
/// Name of the fault that packets are lost. Other faults begin with the stream id of a link.
const LOST: &str = "lost";
/// Maximum number of faults that are reported at a time.
const MAX_FAULTS: usize = 16;
/// Pause before a link that could not be started is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Media of a flow as its publishers send it over SRT.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SrtMedia {
    /// Publishers, by their numbers.
    pub(crate) targets: BTreeMap<u64, SrtTarget>,
    /// SDP of a flow of family RTSP.
    pub(crate) sdp: Option<String>,
    /// Maximum bandwidth of the flow.
    pub(crate) max_bandwidth: Bitrate,
}

/// Present faults of the links, by the part that has them.
type Faults = Arc<Mutex<BTreeMap<String, PeerText>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flow that is received over SRT. Dropping it ends its connections.
pub(crate) struct SrtIncoming {
    media: watch::Sender<SrtMedia>,
    faults: Faults,
    task: JoinHandle<()>,
}

impl SrtIncoming {
    /// Receives a flow into a source, as far as `is_open` lets it pass.
    pub(crate) fn start(
        engine: &Engine,
        flow: &str,
        source: AppSource,
        media: SrtMedia,
        is_open: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let faults = Faults::default();
        let (media, receiver) = watch::channel(media);
        let (sender, received) = mpsc::channel(QUEUE);
        let joiner = Joiner {
            engine: engine.clone(),
            flow: flow.to_owned(),
            links: BTreeMap::new(),
            sender,
            join: Join::new(source.family()),
            source,
            sink: Sink::default(),
            is_open: Box::new(is_open),
            faults: faults.clone(),
            lost: 0,
            losses: Throttle::default(),
        };
        let task = tokio::spawn(joiner.run(receiver, received));
        Self { media, faults, task }
    }

    /// Follows the publishers of the flow.
    pub(crate) fn follow(&self, media: &SrtMedia) {
        self.media.send_if_modified(|known| {
            let is_other = known != media;
            if is_other {
                known.clone_from(media);
            }
            is_other
        });
    }

    /// Returns the present faults.
    pub(crate) fn faults(&self) -> Vec<PeerText> {
        lock(&self.faults).values().cloned().collect()
    }
}

impl Drop for SrtIncoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Message of a link to the joiner.
struct Received {
    publisher: u64,
    /// Objects in their order; empty: the link is lost.
    objects: Vec<DecodedObject>,
}

/// Links of a flow, and what joins their packets.
struct Joiner {
    engine: Engine,
    flow: String,
    links: BTreeMap<u64, (SrtTarget, LinkTask)>,
    sender: mpsc::Sender<Received>,
    join: Join,
    source: AppSource,
    sink: Sink,
    is_open: Box<dyn Fn() -> bool + Send>,
    faults: Faults,
    /// RTP packets that no publisher brought.
    lost: u64,
    losses: Throttle,
}

impl Joiner {
    async fn run(mut self, mut media: watch::Receiver<SrtMedia>, mut received: mpsc::Receiver<Received>) {
        self.follow(&media);
        loop {
            let deadline = self.join.deadline();
            let overdue = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let mut out = Merged::default();
            tokio::select! {
                changed = media.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow(&media);
                }
                Some(message) = received.recv() => self.join.take(message, Instant::now(), &mut out),
                () = overdue => {}
            }
            let now = Instant::now();
            self.join.poll(now, &mut out);
            if !self.pass_on(out, now) {
                return;
            }
        }
    }

    /// Starts and ends links.
    fn follow(&mut self, media: &watch::Receiver<SrtMedia>) {
        let wanted = media.borrow().clone();
        if let Some(sdp) = &wanted.sdp {
            self.sink.set_sdp(sdp);
        }
        let gone = |publisher: &u64, target: &SrtTarget| wanted.targets.get(publisher) != Some(target);
        for (publisher, (target, _)) in self.links.extract_if(.., |publisher, (target, _)| gone(publisher, target)) {
            self.join.set_link(publisher, false, Instant::now());
            lock(&self.faults).retain(|part, _| !part.starts_with(&target.stream_id));
        }
        for (publisher, target) in wanted.targets {
            if self.links.contains_key(&publisher) {
                continue;
            }
            let link = Link {
                publisher,
                engine: self.engine.clone(),
                name: link_name(&self.flow, &target.stream_id),
                target: target.clone(),
                family: self.source.family(),
                media: media.clone(),
                sender: self.sender.clone(),
                faults: self.faults.clone(),
            };
            let task = LinkTask(tokio::spawn(link.run()));
            self.links.insert(publisher, (target, task));
        }
    }

    /// Passes packets to the source. `false` when it takes no more.
    fn pass_on(&mut self, mut out: Merged, now: Instant) -> bool {
        if !out.packets.is_empty() && !(self.is_open)() {
            out.packets.clear();
        }
        self.lost += out.lost;
        if out.lost > 0 && self.losses.count(now).is_some() {
            let text = PeerText::new(format!("media over SRT: {} packets that no publisher has brought", self.lost));
            log::warn!("flow `{}`: {text}", PeerText::new(&self.flow));
            lock(&self.faults).insert(LOST.to_owned(), text);
        }
        self.sink.push(Some(&self.source), out.packets, now)
    }
}

/// Task of a link. Dropping it ends the link.
struct LinkTask(JoinHandle<()>);

impl Drop for LinkTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Rule by which the packets of several publishers are joined.
enum Join {
    /// Publishers of one RTP stream (ST 2022-7): what either has passes, in the order of its numbers.
    Merge { merger: Box<Merger>, legs: BTreeMap<u64, usize> },
    /// One publisher at a time.
    One { in_use: Option<(u64, Instant)> },
}

impl Join {
    fn new(family: MediaFamily) -> Self {
        if family == MediaFamily::Rtp {
            return Self::Merge { merger: Box::new(Merger::new(family, WAIT)), legs: BTreeMap::new() };
        }
        Self::One { in_use: None }
    }

    fn take(&mut self, message: Received, now: Instant, out: &mut Merged) {
        let Received { publisher, objects } = message;
        self.set_link(publisher, !objects.is_empty(), now);
        match self {
            Self::Merge { merger, legs } => {
                let Some(leg) = legs.get(&publisher).copied() else { return };
                for object in objects {
                    merger.insert(LegObject { leg, group: 0, index: 0, object }, now, out);
                }
            }
            Self::One { in_use } => {
                if !in_use.is_some_and(|(used, _)| used == publisher) || objects.is_empty() {
                    return;
                }
                *in_use = Some((publisher, now));
                let packets = objects.into_iter().flat_map(|object| object.packets);
                out.packets.extend(packets.collect::<Vec<MediaPacket>>());
            }
        }
    }

    /// Notes that a link brings media, or that it is lost.
    fn set_link(&mut self, publisher: u64, is_up: bool, now: Instant) {
        match self {
            Self::Merge { merger, legs } => {
                if is_up && !legs.contains_key(&publisher) {
                    let free = (0..MAX_LEGS).find(|leg| legs.values().all(|used| used != leg));
                    let Some(leg) = free else { return };
                    legs.insert(publisher, leg);
                    merger.set_leg(leg, true, now);
                } else if !is_up && let Some(leg) = legs.remove(&publisher) {
                    merger.set_leg(leg, false, now);
                }
            }
            Self::One { in_use } => {
                let is_silent = |last: Instant| now.saturating_duration_since(last) >= SILENCE;
                match in_use {
                    Some((used, _)) if *used == publisher && !is_up => *in_use = None,
                    Some((used, last)) if *used == publisher || !is_silent(*last) => {}
                    _ if is_up => *in_use = Some((publisher, now)),
                    _ => {}
                }
            }
        }
    }

    fn poll(&mut self, now: Instant, out: &mut Merged) {
        if let Self::Merge { merger, .. } = self {
            merger.poll(now, out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Merge { merger, .. } => merger.deadline(),
            Self::One { .. } => None,
        }
    }
}

/// Link to one publisher: a flow on the node's engine, whose source calls the publisher.
struct Link {
    publisher: u64,
    engine: Engine,
    name: String,
    target: SrtTarget,
    family: MediaFamily,
    media: watch::Receiver<SrtMedia>,
    sender: mpsc::Sender<Received>,
    faults: Faults,
}

impl Link {
    /// Receives until the task is aborted.
    async fn run(mut self) {
        loop {
            let reason = match self.start().await {
                Ok(handle) => match self.receive(&handle).await {
                    Some(reason) => reason,
                    None => return,
                },
                Err(reason) => reason,
            };
            self.fault("", &reason);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Starts the flow that calls.
    async fn start(&mut self) -> Result<FlowHandle, String> {
        let target = &self.target;
        let bandwidth = link_bandwidth(self.media.borrow_and_update().max_bandwidth);
        let mut addresses = target.addresses.iter().map(ToString::to_string);
        let first = addresses.next().unwrap_or_default();
        let mut source = Source::srt_caller(SOURCE, &first)
            .stream_id(&target.stream_id)
            .encryption(target.passphrase.clone(), KeyLength::Aes256)
            .crypto_mode(CryptoMode::AesGcm)
            .latency(target.latency)
            .peer_idle_timeout(PEER_IDLE)
            .idle_timeout(IDLE);
        if addresses.len() > 0 {
            source = source.nodes(addresses);
        }
        let flow = Flow::builder(self.name.as_str(), bandwidth)
            .bandwidth_policy(BandwidthPolicy::Warn)
            .source(source)
            .output(Output::tap(TAP))
            .build()
            .map_err(|errors| errors.to_string())?;
        self.engine.start(flow).await.map_err(|error| error.to_string())
    }

    /// Receives from a flow until it ends. Returns the reason; `None` if nobody takes the packets any more.
    async fn receive(&mut self, handle: &FlowHandle) -> Option<String> {
        let mut events = handle.events();
        let mut tap = match handle.tap(TAP) {
            Ok(tap) => tap,
            Err(error) => return Some(error.to_string()),
        };
        let mut unpacker = Unpacker::new(self.family);
        let mut damage = Throttle::default();
        loop {
            tokio::select! {
                batch = tap.next_batch() => {
                    let Some(batch) = batch else { return Some("the flow that receives it has stopped".to_owned()) };
                    let objects = self.unpack(&mut unpacker, &batch, &mut damage);
                    let message = Received { publisher: self.publisher, objects };
                    if !message.objects.is_empty() && self.sender.send(message).await.is_err() {
                        return None;
                    }
                }
                event = events.next() => {
                    let is_lost = matches!(event, Some(Event::SourceLost { .. }));
                    if let Some(event) = event {
                        self.note(&event);
                    }
                    let lost = Received { publisher: self.publisher, objects: Vec::new() };
                    if is_lost && self.sender.send(lost).await.is_err() {
                        return None;
                    }
                }
                Ok(()) = self.media.changed() => {
                    let bandwidth = link_bandwidth(self.media.borrow_and_update().max_bandwidth);
                    let _ = handle.set_max_bandwidth(bandwidth); // fails only when it has ended
                }
            }
        }
    }

    fn unpack(&self, unpacker: &mut Unpacker, batch: &PacketBatch, damage: &mut Throttle) -> Vec<DecodedObject> {
        let before = unpacker.counts;
        let objects = batch.iter().filter_map(|packet| unpacker.take(packet.data())).collect();
        let counts = unpacker.counts;
        if counts != before && damage.count(Instant::now()).is_some() {
            let reason = format!("{} packets lost and {} malformed so far", counts.lost, counts.malformed);
            self.fault(" packets", &reason);
        }
        objects
    }

    /// Notes what an event says about the link.
    fn note(&self, event: &Event) {
        match event {
            Event::SourceLost { reason, .. } => self.fault("", &reason.to_string()),
            Event::SourceRetrying { reason, .. } => {
                // The loss of a member has told the same before.
                let reason = reason.to_string();
                if !lock(&self.faults).values().any(|fault| fault.ends_with(&reason)) {
                    self.fault("", &reason);
                }
            }
            // Paths that go on failing are told again when their reason changes.
            Event::SourceConnected { .. } | Event::MemberConnected { .. } => self.clear_faults(),
            Event::MemberLost { peer, reason, .. } => {
                self.fault(&format!(" {peer}"), &format!("{peer}: {reason}"));
            }
            _ => {}
        }
    }

    /// Notes the present fault of a part of the link.
    fn fault(&self, part: &str, reason: &str) {
        let key = format!("{}{part}", self.target.stream_id);
        let text = PeerText::new(format!("media over SRT from {}: {reason}", self.target.shown()));
        log::warn!("{}: {text}", PeerText::new(&self.name));
        let mut faults = lock(&self.faults);
        // Where there are too many, those that are known say enough.
        if faults.len() < MAX_FAULTS || faults.contains_key(&key) {
            faults.insert(key, text);
        }
    }

    fn clear_faults(&self) {
        lock(&self.faults).retain(|part, _| !part.starts_with(&self.target.stream_id));
    }
}
