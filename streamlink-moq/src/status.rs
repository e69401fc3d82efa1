//! Reports of a region's node about the outputs of a flow: statistics and events, as JSON.
//!
//! A node publishes the whole state each second, and at once after an event; the newest message replaces the one before.
//! Events are numbered and repeated for some seconds, so that none is lost with a message, and none is told twice.

use crate::{MAX_RELAYS, membership::NodeKey};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use streamlink_core::{EndpointStats, Event, PeerText};

/// Version of the message.
const VERSION: u32 = 1;
/// Maximum length of a message, in bytes.
pub const MAX_STATUS: usize = 512 * 1024;
/// Maximum number of outputs in a message.
const MAX_OUTPUTS: usize = crate::outputs::MAX_OUTPUTS;
/// Maximum number of events in a message. A node that has more leaves the oldest out.
const MAX_EVENTS: usize = 64;
/// Maximum number of publishers of one flow.
pub const MAX_PUBLISHERS: usize = 8;
/// Maximum number of remarks in a message.
const MAX_NOTICES: usize = 16;
/// Time for which an event is repeated.
const REPEATED: Duration = Duration::from_secs(5);
/// Interval of messages without news.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval of messages.
const URGENT: Duration = Duration::from_millis(100);
/// Time after which a reader forgets a node.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Maximum number of nodes of which a reader remembers the last message.
const MAX_NODES: usize = crate::membership::MAX_NODES;

/// Output as its publisher numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedId {
    /// Publisher of the flow.
    pub publisher: u64,
    /// Number that the publisher gave the output.
    pub id: u64,
}

/// Message of a node about one flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusMessage {
    version: u32,
    /// Name of the region.
    pub region: String,
    /// Name of the flow.
    pub flow: String,
    /// Sender.
    pub node: NodeKey,
    /// Number of the sender's run of the flow: messages and events of a later run are numbered anew.
    pub run: u64,
    /// Number of the message within the run, from 1.
    pub sequence: u64,
    /// Newest revision of each publisher's description that is in effect.
    pub seen: Vec<SeenRevision>,
    /// Outputs that run at the node.
    pub outputs: Vec<OutputStatus>,
    /// Events of the last seconds, in their order.
    pub events: Vec<NumberedEvent>,
    /// Present faults of the flow at the node.
    pub notices: Vec<PeerText>,
    /// Relays from which the node receives too little of the flow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<LegLoss>,
}

/// Measured loss of a leg from a relay to a node, above what QUIC makes up for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegLoss {
    /// Address of the relay.
    pub leg: PeerText,
    /// Number of the measurement, from 1. Each one is told once.
    pub number: u64,
    /// Share of the objects that the leg has not brought, in hundredths of a percent.
    pub basis_points: u32,
    /// Round trip time to the relay, in milliseconds; 0 if it is not known.
    pub round_trip_ms: u32,
}

/// Revision of a description that a node has put into effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRevision {
    /// Publisher of the description.
    pub publisher: u64,
    /// Number of the revision.
    pub revision: u64,
}

/// Statistics of an output at a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputStatus {
    /// Numbers of the output.
    pub ids: Vec<PublishedId>,
    /// False if the node runs the output as the standby of another node.
    pub is_primary: bool,
    /// Statistics of the output.
    pub stats: EndpointStats,
}

/// Event of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// Number of the event, from 1.
    pub number: u64,
    /// Numbers of the output.
    pub ids: Vec<PublishedId>,
    /// The event.
    pub event: Event,
}

/// Reason why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// More bytes than [`MAX_STATUS`].
    #[error("a report of {0} bytes; at most {MAX_STATUS} are read")]
    TooLong(usize),
    /// Not JSON of the expected form.
    #[error("not a report: {0}")]
    Malformed(PeerText),
    /// Version of another release.
    #[error("a report of version {0}; version {VERSION} is read")]
    Version(u32),
    /// A report about another flow or region, or of another node, than that under whose name it came.
    #[error("a report under the name of another flow, region or node")]
    Misplaced,
    /// A list is longer than its bound.
    #[error("a report with more {0} than are read")]
    TooMany(&'static str),
}

impl StatusMessage {
    /// Writes the message. If it is too long, players, tracks and PIDs are left out, and then events.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Numbers that are not finite are the only values that JSON does not have; none of a node's statistics is one.
        let write = |message: &Self| serde_json::to_vec(message).unwrap_or_default();
        let bytes = write(self);
        if bytes.len() <= MAX_STATUS {
            return bytes;
        }
        let mut message = self.clone();
        for output in &mut message.outputs {
            output.stats.players.clear();
            output.stats.tracks.clear();
            output.stats.pids.clear();
        }
        let bytes = write(&message);
        if bytes.len() <= MAX_STATUS {
            return bytes;
        }
        message.events.clear();
        write(&message)
    }

    /// Reads a message that came under the names of a region, a flow and a node.
    ///
    /// # Errors
    /// When it is not a report of this version about them, or not within the bounds.
    pub fn from_bytes(bytes: &[u8], region: &str, flow: &str, node: &NodeKey) -> Result<Self, StatusError> {
        if bytes.len() > MAX_STATUS {
            return Err(StatusError::TooLong(bytes.len()));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |error: serde_json::Error| StatusError::Malformed(PeerText::new(error.to_string()));
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(StatusError::Version(version));
        }
        let message: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        if message.region != region || message.flow != flow || message.node != *node {
            return Err(StatusError::Misplaced);
        }
        let ids = message.outputs.iter().map(|output| &output.ids);
        let mut ids = ids.chain(message.events.iter().map(|event| &event.ids));
        if ids.any(|ids| ids.len() > MAX_PUBLISHERS) || message.seen.len() > MAX_PUBLISHERS {
            return Err(StatusError::TooMany("publishers"));
        }
        if message.outputs.len() > MAX_OUTPUTS {
            return Err(StatusError::TooMany("outputs"));
        }
        if message.events.len() > MAX_EVENTS {
            return Err(StatusError::TooMany("events"));
        }
        if message.notices.len() > MAX_NOTICES {
            return Err(StatusError::TooMany("remarks"));
        }
        if message.losses.len() > MAX_RELAYS {
            return Err(StatusError::TooMany("lossy legs"));
        }
        Ok(message)
    }
}

/// Writer of a node's messages about one flow.
#[derive(Debug)]
pub struct StatusWriter {
    region: String,
    flow: String,
    node: NodeKey,
    run: u64,
    sequence: u64,
    next_event: u64,
    events: VecDeque<(Instant, NumberedEvent)>,
    last: Option<Instant>,
    has_news: bool,
    losses: Vec<LegLoss>,
}

impl StatusWriter {
    /// Returns a writer. `run` grows each time that the node begins with the flow.
    pub fn new(region: &str, flow: &str, node: &NodeKey, run: u64) -> Self {
        Self {
            region: region.to_owned(),
            flow: flow.to_owned(),
            node: node.clone(),
            run,
            sequence: 0,
            next_event: 1,
            events: VecDeque::new(),
            last: None,
            has_news: false,
            losses: Vec::new(),
        }
    }

    /// Adds an event of an output. Of more events than a message holds, the oldest are lost, and the reader notices.
    pub fn event(&mut self, now: Instant, ids: Vec<PublishedId>, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((now, NumberedEvent { number: self.next_event, ids, event }));
        self.next_event += 1;
        self.has_news = true;
    }

    /// Reports that the outputs or the revisions have changed, so that a message is due soon.
    pub fn changed(&mut self) {
        self.has_news = true;
    }

    /// Sets the present losses, of which messages hold those of the first 8 legs.
    pub fn losses(&mut self, mut losses: Vec<LegLoss>) {
        losses.truncate(MAX_RELAYS);
        self.has_news |= losses != self.losses;
        self.losses = losses;
    }

    /// Returns `true` if a message is due.
    pub fn is_due(&self, now: Instant) -> bool {
        let interval = if self.has_news { URGENT } else { INTERVAL };
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= interval)
    }

    /// Returns the next message.
    pub fn message(
        &mut self,
        now: Instant,
        seen: Vec<SeenRevision>,
        outputs: Vec<OutputStatus>,
        notices: impl IntoIterator<Item = PeerText>,
    ) -> StatusMessage {
        self.events.retain(|(at, _)| now.saturating_duration_since(*at) < REPEATED);
        self.sequence += 1;
        self.last = Some(now);
        self.has_news = false;
        StatusMessage {
            version: VERSION,
            region: self.region.clone(),
            flow: self.flow.clone(),
            node: self.node.clone(),
            run: self.run,
            sequence: self.sequence,
            seen,
            outputs,
            events: self.events.iter().map(|(_, event)| event.clone()).collect(),
            notices: notices.into_iter().take(MAX_NOTICES).collect(),
            losses: self.losses.clone(),
        }
    }
}

/// News of a message for one publisher.
#[derive(Debug, Default)]
pub struct StatusNews {
    /// Statistics of outputs, by the publisher's number.
    pub outputs: Vec<(u64, EndpointStats)>,
    /// Events that were not told before, by the publisher's number.
    pub events: Vec<(u64, Event)>,
    /// Number of events that are lost.
    pub missed_events: u64,
    /// Remarks that were not told in the message before.
    pub notices: Vec<PeerText>,
    /// Losses that were not told in the message before.
    pub losses: Vec<LegLoss>,
}

/// Last message of a node, as a publisher keeps it.
#[derive(Debug)]
struct LastMessage {
    at: Instant,
    run: u64,
    sequence: u64,
    last_event: u64,
    revision: u64,
    ids: BTreeSet<u64>,
    notices: Vec<PeerText>,
    losses: Vec<LegLoss>,
}

/// Reader of the messages of all nodes of a region about one flow, for one publisher.
#[derive(Debug)]
pub struct StatusReader {
    publisher: u64,
    nodes: BTreeMap<NodeKey, LastMessage>,
}

impl StatusReader {
    /// Returns a reader for a publisher.
    pub fn new(publisher: u64) -> Self {
        Self { publisher, nodes: BTreeMap::new() }
    }

    /// Takes a message. `None` if it is an older one than the last, or of more nodes than a region has.
    pub fn take(&mut self, now: Instant, message: StatusMessage) -> Option<StatusNews> {
        // Each process of a node is another one: those that have ended make room.
        self.nodes.retain(|_, last| now.saturating_duration_since(last.at) < FORGOTTEN);
        let last = self.nodes.get(&message.node);
        if last.is_some_and(|last| (message.run, message.sequence) <= (last.run, last.sequence)) {
            return None;
        }
        if last.is_none() && self.nodes.len() >= MAX_NODES {
            return None;
        }
        // Events from before this reader knew the node are told as well: they are a few seconds old at most.
        let same_run = last.filter(|last| last.run == message.run);
        let last_event = same_run.map_or(0, |last| last.last_event);
        let is_first = same_run.is_none();
        let mut news = StatusNews::default();
        let mut next = last_event + 1;
        for numbered in &message.events {
            if numbered.number < next {
                continue;
            }
            if !is_first || next > 1 {
                news.missed_events = news.missed_events.saturating_add(numbered.number - next);
            }
            next = numbered.number.saturating_add(1);
            if let Some(id) = self.own(&numbered.ids) {
                news.events.push((id, numbered.event.clone()));
            }
        }
        let told = last.map(|last| last.notices.as_slice()).unwrap_or_default();
        news.notices = message.notices.iter().filter(|notice| !told.contains(notice)).cloned().collect();
        let measured = last.map(|last| last.losses.as_slice()).unwrap_or_default();
        let is_new =
            |loss: &&LegLoss| !measured.iter().any(|known| known.leg == loss.leg && known.number == loss.number);
        news.losses = message.losses.iter().filter(is_new).cloned().collect();
        let mut ids = BTreeSet::new();
        for output in message.outputs {
            let Some(id) = self.own(&output.ids) else { continue };
            ids.insert(id);
            if output.is_primary {
                news.outputs.push((id, output.stats));
            }
        }
        let seen = message.seen.iter().find(|seen| seen.publisher == self.publisher);
        let last = LastMessage {
            at: now,
            run: message.run,
            sequence: message.sequence,
            last_event: next - 1,
            revision: seen.map_or(0, |seen| seen.revision),
            ids,
            notices: message.notices,
            losses: message.losses,
        };
        self.nodes.insert(message.node, last);
        Some(news)
    }

    fn own(&self, ids: &[PublishedId]) -> Option<u64> {
        ids.iter().find(|id| id.publisher == self.publisher).map(|id| id.id)
    }

    /// Returns `true` if an output has ended at all nodes that are heard, after its removal in a revision.
    pub fn has_ended(&self, now: Instant, id: u64, revision: u64) -> bool {
        let heard = |last: &&LastMessage| now.saturating_duration_since(last.at) < 3 * INTERVAL;
        self.nodes.values().filter(heard).all(|last| last.revision >= revision && !last.ids.contains(&id))
    }

    /// Returns the number of nodes from which a message has come within the last seconds.
    pub fn heard(&self, now: Instant) -> usize {
        self.nodes.values().filter(|last| now.saturating_duration_since(last.at) < 3 * INTERVAL).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamlink_core::LossReason;

    fn key() -> NodeKey {
        NodeKey { id: "n1".into(), instance: 1 }
    }

    fn ids(id: u64) -> Vec<PublishedId> {
        vec![PublishedId { publisher: 9, id }, PublishedId { publisher: 8, id: id + 100 }]
    }

    fn output(id: u64, packets: u64) -> OutputStatus {
        let mut stats = EndpointStats::default();
        stats.packets = packets;
        OutputStatus { ids: ids(id), is_primary: true, stats }
    }

    fn lost(name: &str) -> Event {
        Event::OutputLost { output: name.into(), peer: None, reason: LossReason::TooSlow }
    }

    fn read(message: &StatusMessage) -> Result<StatusMessage, StatusError> {
        StatusMessage::from_bytes(&message.to_bytes(), "eu", "f", &key())
    }

    #[test]
    fn status_tells_each_measured_loss_once() {
        let start = Instant::now();
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        let mut reader = StatusReader::new(8);
        let loss = |number| LegLoss { leg: "relay-a:443".into(), number, basis_points: 250, round_trip_ms: 150 };
        let mut told = |losses: Vec<LegLoss>| {
            writer.losses(losses);
            let message = read(&writer.message(start, vec![], vec![], [])).expect("read");
            reader.take(start, message).expect("news").losses
        };
        assert_eq!(told(vec![]), []);
        assert_eq!(told(vec![loss(1)]), [loss(1)]);
        assert_eq!(told(vec![loss(1)]), []);
        assert_eq!(told(vec![loss(2)]), [loss(2)]);
        assert_eq!(told(vec![]), []);
        let mut message = writer.message(start, vec![], vec![], []);
        message.losses = (0..9).map(loss).collect();
        assert_eq!(read(&message).err(), Some(StatusError::TooMany("lossy legs")));
        // Nodes of the release before have no such list.
        let text = String::from_utf8(writer.message(start, vec![], vec![], []).to_bytes()).expect("text");
        assert!(!text.contains("losses"), "{text}");
    }

    #[test]
    fn status_tells_each_event_once_though_messages_are_lost() {
        let start = Instant::now();
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        let mut reader = StatusReader::new(8);
        writer.event(start, ids(1), lost("a"));
        let first = read(&writer.message(start, vec![], vec![output(1, 5)], [])).expect("read");
        let news = reader.take(start, first.clone()).expect("news");
        assert_eq!(news.events, [(101, lost("a"))]);
        assert_eq!(news.outputs.iter().map(|(id, stats)| (*id, stats.packets)).collect::<Vec<_>>(), [(101, 5)]);
        assert!(reader.take(start, first).is_none(), "the same message again");
        writer.event(start, ids(1), lost("b"));
        let _lost = writer.message(start, vec![], vec![], []);
        writer.event(start, ids(2), lost("c"));
        let third = read(&writer.message(start, vec![], vec![], [])).expect("read");
        let news = reader.take(start, third).expect("news");
        assert_eq!(news.events, [(101, lost("b")), (102, lost("c"))]);
        assert_eq!(news.missed_events, 0);
        for _ in 0..70 {
            writer.event(start, ids(1), lost("d"));
        }
        let news = reader.take(start, writer.message(start, vec![], vec![], [])).expect("news");
        assert_eq!((news.events.len(), news.missed_events), (64, 6));
        let later = start + REPEATED;
        let quiet = reader.take(later, writer.message(later, vec![], vec![], [])).expect("news");
        assert!(quiet.events.is_empty());
        assert_eq!(quiet.missed_events, 0);
    }

    #[test]
    fn status_of_a_later_run_is_numbered_anew() {
        let now = Instant::now();
        let mut reader = StatusReader::new(8);
        let mut first = StatusWriter::new("eu", "f", &key(), 1);
        for _ in 0..5 {
            first.event(now, ids(1), lost("a"));
            assert!(reader.take(now, first.message(now, vec![], vec![], [])).is_some());
        }
        let mut second = StatusWriter::new("eu", "f", &key(), 2);
        second.event(now, ids(1), lost("b"));
        let news = reader.take(now, second.message(now, vec![], vec![], [])).expect("news");
        assert_eq!((news.events, news.missed_events), (vec![(101, lost("b"))], 0));
        assert!(reader.take(now, first.message(now, vec![], vec![], [])).is_none(), "a late message of the first run");
    }

    #[test]
    fn status_reader_makes_room_for_nodes_that_are_started_again() {
        let mut now = Instant::now();
        let mut reader = StatusReader::new(8);
        for instance in 0..300 {
            now += Duration::from_secs(2);
            let node = NodeKey { id: "n1".into(), instance };
            let message = StatusWriter::new("eu", "f", &node, 1).message(now, vec![], vec![], []);
            assert!(reader.take(now, message).is_some(), "process {instance}");
        }
    }

    #[test]
    fn status_is_throttled() {
        let start = Instant::now();
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        assert!(writer.is_due(start));
        writer.message(start, vec![], vec![], []);
        assert!(!writer.is_due(start + URGENT));
        writer.event(start, ids(1), lost("a"));
        assert!(!writer.is_due(start + URGENT / 2));
        assert!(writer.is_due(start + URGENT));
        writer.message(start + URGENT, vec![], vec![], []);
        assert!(!writer.is_due(start + INTERVAL));
        assert!(writer.is_due(start + URGENT + INTERVAL));
    }

    #[test]
    fn status_says_when_an_output_has_ended_at_all_nodes() {
        let now = Instant::now();
        let mut reader = StatusReader::new(8);
        assert!(reader.has_ended(now, 101, 2), "no node runs anything");
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        let seen = |revision| vec![SeenRevision { publisher: 8, revision }];
        reader.take(now, writer.message(now, seen(1), vec![output(1, 0)], []));
        assert!(!reader.has_ended(now, 101, 2));
        reader.take(now, writer.message(now, seen(2), vec![output(1, 0)], []));
        assert!(!reader.has_ended(now, 101, 2));
        reader.take(now, writer.message(now, seen(2), vec![], []));
        assert!(reader.has_ended(now, 101, 2));
    }

    #[test]
    fn status_of_a_standby_does_not_hide_that_of_the_primary() {
        let now = Instant::now();
        let mut reader = StatusReader::new(8);
        let mut standby = output(1, 7);
        standby.is_primary = false;
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        let news = reader.take(now, writer.message(now, vec![], vec![standby], [])).expect("news");
        assert!(news.outputs.is_empty());
    }

    #[test]
    fn status_refuses_hostile_input() {
        let now = Instant::now();
        let good = StatusWriter::new("eu", "f", &key(), 1).message(now, vec![], vec![output(1, 1)], []);
        assert!(read(&good).is_ok());
        let from = |bytes: &[u8]| StatusMessage::from_bytes(bytes, "eu", "f", &key()).expect_err("refused");
        assert!(matches!(from(&vec![b' '; MAX_STATUS + 1]), StatusError::TooLong(_)));
        assert!(matches!(from(b"{}"), StatusError::Malformed(_)));
        assert!(matches!(from("[".repeat(10_000).as_bytes()), StatusError::Malformed(_)));
        assert!(matches!(from(br#"{"version":7}"#), StatusError::Version(7)));
        let refused = |change: fn(&mut StatusMessage)| {
            let mut message = good.clone();
            change(&mut message);
            StatusMessage::from_bytes(&serde_json::to_vec(&message).expect("JSON"), "eu", "f", &key())
                .expect_err("refused")
        };
        assert_eq!(refused(|m| m.flow = "g".into()), StatusError::Misplaced);
        assert_eq!(refused(|m| m.node.instance = 2), StatusError::Misplaced);
        assert_eq!(
            refused(|m| m.outputs = vec![m.outputs[0].clone(); MAX_OUTPUTS + 1]),
            StatusError::TooMany("outputs")
        );
        assert_eq!(refused(|m| m.outputs[0].ids = vec![m.outputs[0].ids[0]; 9]), StatusError::TooMany("publishers"));
        let mut reader = StatusReader::new(8);
        let mut jump = good.clone();
        jump.events.push(NumberedEvent { number: u64::MAX, ids: vec![], event: lost("x") });
        assert!(reader.take(now, jump.clone()).is_some());
        jump.sequence = u64::MAX;
        assert!(reader.take(now, jump.clone()).is_some());
        assert!(reader.take(now, jump).is_none());
    }

    #[test]
    fn status_that_is_too_long_is_shortened() {
        let now = Instant::now();
        let mut writer = StatusWriter::new("eu", "f", &key(), 1);
        for _ in 0..MAX_EVENTS {
            writer.event(now, ids(1), lost(&"x".repeat(10_000)));
        }
        let message = writer.message(now, vec![], vec![output(1, 3)], []);
        let short = read(&message).expect("read");
        assert_eq!((short.outputs.len(), short.events.len()), (1, 0));
    }
}
