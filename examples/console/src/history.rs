//! The latest events of all flows: in memory for those who ask, in the store for the next start, and live for streams.

use crate::{
    options::Failure,
    store::{Store, blocking},
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use streamlink_core::{EngineEvents, FlowEvent};
use tokio::sync::broadcast;

/// Maximum number of events that are kept for one flow.
const PER_FLOW: usize = 400;
/// Maximum number of events that are kept for all flows.
const IN_ALL: usize = 50_000;
/// Maximum number of events that wait for the reader of a stream. A slower one is told how many it has missed.
const STREAM: usize = 1024;
/// Time for which events that repeat are counted, and told as one.
const REPEAT: Duration = Duration::from_secs(60);
/// Kinds of events that may come every second for as long as their cause lasts.
const REPEATING: &[&str] = &[
    "bandwidth_exceeded",
    "output_lagging",
    "output_oversized",
    "peer_refused",
    "timestamps_ahead",
    "transport_error",
];
/// Members of events that tell one such cause from another.
const CAUSES: &[&str] = &["event", "source", "output", "endpoint", "check", "reason"];
/// Time between two writes of new events.
const FLUSH: Duration = Duration::from_millis(500);
/// Time between two writes of new events while the store fails.
const FLUSH_AGAIN: Duration = Duration::from_secs(5);

/// Event with its number, which grows from event to event, also over restarts.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) id: u64,
    pub(crate) flow: String,
    /// The event as JSON: the members of the library's event, `id`, and the sentence as `text`.
    pub(crate) value: Value,
}

/// The latest events.
#[derive(Clone, Debug)]
pub(crate) struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    live: broadcast::Sender<Arc<Recorded>>,
    store: Arc<Store>,
}

#[derive(Debug, Default)]
struct Kept {
    events: BTreeMap<u64, Arc<Recorded>>,
    by_flow: HashMap<String, VecDeque<u64>>,
    next: u64,
    /// Numbers of events that the store does not hold yet.
    new: Vec<u64>,
    /// Numbers of events that the store still holds.
    old: Vec<u64>,
    /// Events that repeat, by their flows and causes.
    repeats: HashMap<(String, String), Repeat>,
}

/// Event that repeats.
#[derive(Debug)]
struct Repeat {
    since: Instant,
    count: u64,
    /// The last one, which was not recorded.
    last: Option<(Map<String, Value>, String)>,
}

impl Kept {
    fn insert(&mut self, event: Arc<Recorded>) {
        let ids = self.by_flow.entry(event.flow.clone()).or_default();
        ids.push_back(event.id);
        let surplus = if ids.len() > PER_FLOW { ids.pop_front() } else { None };
        self.events.insert(event.id, event);
        if let Some(id) = surplus {
            self.events.remove(&id);
            self.old.push(id);
        }
        let oldest = if self.events.len() > IN_ALL { self.events.pop_first() } else { None };
        let Some((id, event)) = oldest else { return };
        self.old.push(id);
        // The oldest event of all is the oldest of its flow.
        if let Some(ids) = self.by_flow.get_mut(&event.flow) {
            ids.pop_front();
            if ids.is_empty() {
                self.by_flow.remove(&event.flow);
            }
        }
    }
}

impl History {
    /// Reads the stored events.
    pub(crate) fn load(store: Arc<Store>) -> Result<Self, Failure> {
        let mut kept = Kept { next: 1, ..Kept::default() };
        for (id, bytes) in store.events()? {
            kept.next = kept.next.max(id.saturating_add(1));
            // What cannot be read is of another version, and of no use.
            let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
                kept.old.push(id);
                continue;
            };
            let flow = value.get("flow").and_then(Value::as_str).unwrap_or_default().to_owned();
            kept.insert(Arc::new(Recorded { id, flow, value }));
        }
        let (live, _) = broadcast::channel(STREAM);
        Ok(Self(Arc::new(Shared { kept: Mutex::new(kept), live, store })))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, flow: &str, mut members: Map<String, Value>, text: String) {
        let mut kept = self.kept();
        let id = kept.next;
        kept.next += 1;
        members.insert("id".into(), id.into());
        members.insert("text".into(), text.into());
        let event = Arc::new(Recorded { id, flow: flow.to_owned(), value: Value::Object(members) });
        kept.insert(event.clone());
        kept.new.push(id);
        // Under the lock, so that a stream that begins gets each event once. Fails if nobody listens.
        let _ = self.0.live.send(event);
    }

    /// Records a change by a person, or by the console itself.
    pub(crate) fn note(&self, flow: &str, by: &str, text: impl Into<String>) {
        let text = text.into();
        log::info!("flow `{flow}`: {text}, by {by}");
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let members = json!({ "flow": flow, "at_ms": at, "event": "console", "by": by });
        let Value::Object(members) = members else { return };
        self.record(flow, members, text);
    }

    fn take(&self, event: &FlowEvent) {
        let Ok(Value::Object(members)) = serde_json::to_value(event) else { return };
        let text = event.event.to_string();
        if !members.get("event").and_then(Value::as_str).is_some_and(|kind| REPEATING.contains(&kind)) {
            return self.record(&event.flow, members, text);
        }
        let cause = CAUSES.iter().filter_map(|name| members.get(*name)).map(Value::to_string).collect();
        let key = (event.flow.clone(), cause);
        {
            let mut kept = self.kept();
            if let Some(repeat) = kept.repeats.get_mut(&key) {
                repeat.count += 1;
                repeat.last = Some((members, text));
                return;
            }
            kept.repeats.insert(key, Repeat { since: Instant::now(), count: 0, last: None });
        }
        self.record(&event.flow, members, text);
    }

    /// Records what has repeated, as one event for each cause and minute; all of it at the end.
    fn tell_repeats(&self, is_end: bool) {
        let mut due = Vec::new();
        self.kept().repeats.retain(|(flow, _), repeat| {
            if !is_end && repeat.since.elapsed() < REPEAT {
                return true;
            }
            let Some((mut members, text)) = repeat.last.take() else { return false };
            members.insert("repeated".into(), repeat.count.into());
            due.push((flow.clone(), members, format!("{text}; {} such events in a minute", repeat.count)));
            repeat.since = Instant::now();
            repeat.count = 0;
            true
        });
        for (flow, members, text) in due {
            self.record(&flow, members, text);
        }
    }

    /// Returns the latest events of one flow or of all, the latest first, below the number `before`.
    pub(crate) fn latest(&self, flow: Option<&str>, before: u64, limit: usize) -> Vec<Arc<Recorded>> {
        let kept = self.kept();
        match flow {
            None => kept.events.range(..before).rev().take(limit).map(|(_, event)| event.clone()).collect(),
            Some(flow) => {
                let ids = kept.by_flow.get(flow).into_iter().flatten().rev().filter(|id| **id < before);
                ids.take(limit).filter_map(|id| kept.events.get(id).cloned()).collect()
            }
        }
    }

    /// Returns the events after a number that are still kept, and those that follow.
    pub(crate) fn follow(&self, after: u64) -> (Vec<Arc<Recorded>>, broadcast::Receiver<Arc<Recorded>>) {
        let kept = self.kept();
        let past = kept.events.range(after.saturating_add(1)..).map(|(_, event)| event.clone()).collect();
        (past, self.0.live.subscribe())
    }

    /// Returns the number of the latest event.
    pub(crate) fn last(&self) -> u64 {
        self.kept().next.saturating_sub(1)
    }

    /// Records the events of the engine, and stores them, until the engine ends.
    pub(crate) async fn collect(self, mut events: EngineEvents) {
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_failing = false;
        let mut next = Instant::now();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(&event),
                    None => break,
                },
                _ = flush.tick() => {
                    self.tell_repeats(false);
                    let failure = self.0.store.failure();
                    if failure.is_some() != is_failing {
                        is_failing = failure.is_some();
                        self.tell_store(failure);
                    }
                    if !is_failing || Instant::now() >= next {
                        self.flush().await;
                        next = Instant::now() + FLUSH_AGAIN;
                    }
                }
            }
        }
        self.tell_repeats(true);
        self.flush().await;
    }

    /// Tells once that nothing can be stored, and once that it can again.
    fn tell_store(&self, failure: Option<String>) {
        let text = match failure {
            Some(error) => {
                log::error!("nothing can be stored: {error}");
                format!("nothing can be stored, so that changes are refused: {error}")
            }
            None => {
                log::warn!("the store works again");
                "the store works again".to_owned()
            }
        };
        self.note("", "console", text);
    }

    /// Stores the new events. What cannot be stored is tried again with those that follow.
    async fn flush(&self) {
        let (new, old) = {
            let mut kept = self.kept();
            (std::mem::take(&mut kept.new), std::mem::take(&mut kept.old))
        };
        if new.is_empty() && old.is_empty() {
            return;
        }
        let rows: Vec<(u64, Vec<u8>)> = {
            let kept = self.kept();
            let events = new.iter().filter_map(|id| kept.events.get(id));
            events.filter_map(|event| Some((event.id, serde_json::to_vec(&event.value).ok()?))).collect()
        };
        let store = self.0.store.clone();
        let gone = old.clone();
        // The store keeps the error, which is told once.
        if blocking(move || store.change_events(&rows, &gone)).await.is_err() {
            let mut kept = self.kept();
            kept.new.extend(new.into_iter().take(IN_ALL));
            kept.old.extend(old.into_iter().take(IN_ALL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_that_repeat_are_told_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::load(Arc::new(Store::open(folder.path()).unwrap())).unwrap();
        let event = |source: &str| -> FlowEvent {
            let event =
                json!({ "flow": "f", "at_ms": 1, "event": "bandwidth_exceeded", "source": source, "packets": 2 });
            serde_json::from_value(event).unwrap()
        };
        for _ in 0..10 {
            history.take(&event("a"));
            history.take(&event("b"));
        }
        history.tell_repeats(false);
        assert_eq!(history.latest(Some("f"), u64::MAX, 100).len(), 2, "one for each source");
        history.tell_repeats(true);
        let events = history.latest(Some("f"), u64::MAX, 100);
        assert_eq!(events.len(), 4);
        assert_eq!(events[0].value["repeated"], 9);
        assert!(
            events[0].value["text"].as_str().unwrap().ends_with("2 packets; 9 such events in a minute"),
            "{events:?}"
        );
    }

    #[tokio::test]
    async fn history_is_bounded_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let history = History::load(store.clone()).unwrap();
        for number in 0..PER_FLOW + 50 {
            history.note("loud", "test", format!("event {number}"));
        }
        history.note("quiet", "test", "once");
        history.flush().await;
        history.note("loud", "test", "last");
        let (past, mut live) = history.follow(history.last() - 2);
        assert_eq!(past.len(), 2);
        history.note("quiet", "test", "twice");
        assert_eq!(live.recv().await.unwrap().value["text"], "twice");
        history.flush().await;
        drop(history);
        let again = History::load(store).unwrap();
        assert_eq!(again.latest(Some("loud"), u64::MAX, 1000).len(), PER_FLOW);
        assert_eq!(again.latest(Some("loud"), u64::MAX, 1)[0].value["text"], "last");
        assert_eq!(again.latest(Some("quiet"), u64::MAX, 10).len(), 2);
        let all = again.latest(None, u64::MAX, 2);
        assert_eq!((all[0].value["text"].as_str(), all[1].value["text"].as_str()), (Some("twice"), Some("last")));
        assert_eq!(again.latest(None, all[1].id, 1)[0].value["text"], "once");
        assert_eq!(again.last(), all[0].id);
    }
}
