//! Delivery of events from a flow to its host. Each reader has its own queue, which takes no memory while it is empty
//! and holds at most [`CAPACITY`] events. The readers of an engine get the events of all its flows.

use super::{Event, FlowEvent};
use crate::lock::{self, lock};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

/// Maximum number of events that wait for a reader. A slower reader loses the oldest.
const CAPACITY: usize = 1024;

/// Time after the start of a flow for which its first events are kept for readers that come later.
const EARLY: Duration = Duration::from_secs(5);
/// Maximum number of events kept for readers that come later.
const MAX_EARLY: usize = 256;

/// Receives the events of the drivers, for the host's readers and the log.
#[derive(Clone, Debug)]
pub(crate) struct EventSink(Arc<Sink>);

#[derive(Debug)]
struct Sink {
    flow: String,
    readers: Mutex<Readers>,
    /// Readers of all flows of the engine.
    engine: EngineEventSink,
}

/// Passes the events of all flows of an engine to the host's readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineEventSink(Arc<Mutex<EngineReaders>>);

#[derive(Debug, Default)]
struct EngineReaders {
    list: Vec<Weak<Mutex<Waiting<FlowEvent>>>>,
    /// Set when the engine has ended.
    closed: bool,
}

impl EngineEventSink {
    /// Returns a reader of the events of all flows from now on.
    pub(crate) fn subscribe(&self) -> Mailbox<FlowEvent> {
        let mut readers = lock(&self.0);
        let waiting = Arc::new(Mutex::new(Waiting { closed: readers.closed, ..Waiting::default() }));
        readers.list.push(Arc::downgrade(&waiting));
        Mailbox(waiting)
    }

    /// Ends the queues of all readers, after what waits in them.
    pub(crate) fn close(&self) {
        let mut readers = lock(&self.0);
        readers.closed = true;
        change_all(&mut readers.list, |waiting| waiting.closed = true);
    }

    fn emit(&self, flow: &str, event: &Event) {
        let mut readers = lock(&self.0);
        if readers.list.is_empty() {
            return;
        }
        let event = FlowEvent { flow: flow.to_owned(), at: SystemTime::now(), event: event.clone() };
        change_all(&mut readers.list, |waiting| waiting.push(event.clone()));
    }
}

/// Item of a queue that can stand for those that were lost.
pub(crate) trait Queued: Clone {
    /// Returns the item that tells how many were lost.
    fn missed(count: u64) -> Self;
}

impl Queued for Event {
    fn missed(count: u64) -> Self {
        Self::Missed { count }
    }
}

impl Queued for FlowEvent {
    fn missed(count: u64) -> Self {
        Self { flow: String::new(), at: SystemTime::now(), event: Event::Missed { count } }
    }
}

/// Changes the queues of all readers. Dropped readers are removed from the list on the way.
fn change_all<T>(list: &mut Vec<Weak<Mutex<Waiting<T>>>>, mut change: impl FnMut(&mut Waiting<T>)) {
    list.retain(|reader| {
        let Some(waiting) = reader.upgrade() else { return false };
        let mut waiting = lock(&waiting);
        change(&mut waiting);
        if let Some(waker) = waiting.reader.take() {
            lock::wake(waker);
        }
        true
    });
}

#[derive(Debug, Default)]
struct Readers {
    list: Vec<Weak<Mutex<Waiting<Event>>>>,
    /// Events since the sink was made, for readers that subscribe soon after the start of the flow.
    early: VecDeque<Event>,
    /// Number of events before `early` that were not kept.
    early_missed: u64,
    /// Time until which early events are kept; `None` before the flow has started.
    early_until: Option<Instant>,
}

impl Readers {
    /// Discards the early events once their time is over. Returns whether they are still kept.
    fn keeps_early(&mut self) -> bool {
        let keeps = self.early_until.is_none_or(|until| Instant::now() < until);
        if !keeps && self.early.capacity() > 0 {
            self.early = VecDeque::new();
        }
        keeps
    }

    fn keep_early(&mut self, event: &Event) {
        if !self.keeps_early() {
            return;
        }
        if self.early.len() >= MAX_EARLY {
            self.early.pop_front();
            self.early_missed += 1;
        }
        self.early.push_back(event.clone());
    }
}

/// Queue of one reader.
#[derive(Debug)]
struct Waiting<T> {
    events: VecDeque<T>,
    missed: u64,
    /// Set when the sink is gone and no more events come.
    closed: bool,
    reader: Option<Waker>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { events: VecDeque::new(), missed: 0, closed: false, reader: None }
    }
}

impl<T: Queued> Waiting<T> {
    fn push(&mut self, event: T) {
        if self.events.len() >= CAPACITY {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
    }

    fn next(&mut self) -> Option<T> {
        match std::mem::take(&mut self.missed) {
            0 => self.events.pop_front(),
            count => Some(T::missed(count)),
        }
    }
}

impl EventSink {
    /// Creates the sink of a flow. Its events also go to the readers of `engine`.
    pub(crate) fn new(flow: &str, engine: EngineEventSink) -> Self {
        Self(Arc::new(Sink { flow: flow.to_owned(), readers: Mutex::default(), engine }))
    }

    /// Creates the sink of a flow without an engine.
    #[cfg(test)]
    pub(crate) fn alone(flow: &str) -> Self {
        Self::new(flow, EngineEventSink::default())
    }

    /// Returns the name of the flow.
    pub(crate) fn flow(&self) -> &str {
        &self.0.flow
    }

    pub(crate) fn emit(&self, event: Event) {
        if log::max_level() >= log::Level::Info {
            let sink = self.0.clone();
            let event = event.clone();
            lock::log_unlocked(move || log::info!("flow `{}`: {event}", sink.flow));
        }
        self.0.tell(Some(&event), |waiting| waiting.push(event.clone()));
    }

    /// Returns a reader of the events from now on, and of those since the sink was made if the flow has started less
    /// than [`EARLY`] ago: a host cannot subscribe before it has the handle of the flow.
    pub(crate) fn subscribe(&self) -> Mailbox<Event> {
        let mut readers = lock(&self.0.readers);
        let mut waiting = Waiting::default();
        if readers.keeps_early() {
            waiting.events = readers.early.clone();
            waiting.missed = readers.early_missed;
        }
        let waiting = Arc::new(Mutex::new(waiting));
        readers.list.push(Arc::downgrade(&waiting));
        Mailbox(waiting)
    }

    /// Records that the flow has started.
    pub(crate) fn flow_started(&self) {
        lock(&self.0.readers).early_until = Instant::now().checked_add(EARLY);
    }
}

impl Sink {
    /// Changes the queues of all readers, and keeps an event for those that come later, in one step: none of them gets
    /// it twice, or not at all.
    fn tell(&self, event: Option<&Event>, change: impl FnMut(&mut Waiting<Event>)) {
        let mut readers = lock(&self.readers);
        if let Some(event) = event {
            readers.keep_early(event);
            // Under the same lock, so that all readers get the events of a flow in one order.
            self.engine.emit(&self.flow, event);
        }
        change_all(&mut readers.list, change);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.tell(None, |waiting| waiting.closed = true);
    }
}

/// Reading end of the queue of one reader.
#[derive(Debug)]
pub(crate) struct Mailbox<T>(Arc<Mutex<Waiting<T>>>);

impl<T: Queued> Mailbox<T> {
    /// Returns the next event, or `None` when no more come.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Poll::Ready(next) = self.poll_next() {
            return Poll::Ready(next);
        }
        // A waker may be the host's code, so it is cloned and dropped outside the lock.
        let waker = cx.waker().clone();
        let old = lock(&self.0).reader.replace(waker);
        drop(old);
        self.poll_next() // finds events that came before the waker was set
    }

    fn poll_next(&self) -> Poll<Option<T>> {
        let mut waiting = lock(&self.0);
        match waiting.next() {
            None if !waiting.closed => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    #[cfg(test)]
    pub(crate) async fn receive(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Returns the next event, if there is one now.
    pub(crate) fn try_receive(&mut self) -> Option<T> {
        lock(&self.0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        Event::SourceConnected { source: number.to_string(), peer: None }
    }

    #[test]
    fn mailbox_brings_the_events_since_the_start_to_early_readers() {
        let sink = EventSink::alone("test");
        for number in 0..3 {
            sink.emit(event(number));
        }
        sink.flow_started();
        let mut early = sink.subscribe();
        sink.emit(event(3));
        let all: Vec<Event> = std::iter::from_fn(|| early.try_receive()).collect();
        assert_eq!(all, (0..4).map(event).collect::<Vec<_>>());
        for number in 4..MAX_EARLY + 6 {
            sink.emit(event(number));
        }
        let mut later = sink.subscribe();
        assert_eq!(later.try_receive(), Some(Event::Missed { count: 6 }));
        assert_eq!(later.try_receive(), Some(event(6)));
        lock(&sink.0.readers).early_until = Some(Instant::now());
        assert_eq!(sink.subscribe().try_receive(), None, "the start was long ago");
        assert!(lock(&sink.0.readers).early.is_empty());
    }

    #[tokio::test]
    async fn mailbox_delivers_all_and_reports_missed() {
        let sink = EventSink::alone("test");
        sink.emit(event(0));
        lock(&sink.0.readers).early_until = Some(Instant::now());
        let mut quick = sink.subscribe();
        let mut slow = sink.subscribe();
        let gone = sink.subscribe();
        drop(gone);
        for number in 1..=CAPACITY + 5 {
            sink.emit(event(number));
            assert_eq!(quick.receive().await, Some(event(number)));
        }
        assert_eq!(lock(&sink.0.readers).list.len(), 2);
        assert_eq!(quick.try_receive(), None);
        assert_eq!(slow.receive().await, Some(Event::Missed { count: 5 }));
        assert_eq!(slow.receive().await, Some(event(6)));
        let waiting = tokio::spawn(async move { quick.receive().await });
        tokio::task::yield_now().await;
        drop(sink);
        assert_eq!(waiting.await.unwrap(), None);
        for number in 7..=CAPACITY + 5 {
            assert_eq!(slow.try_receive(), Some(event(number)));
        }
        assert_eq!(slow.receive().await, None);
    }

    #[test]
    fn engine_mailbox_brings_the_events_of_all_flows_with_names_and_times() {
        let engine = EngineEventSink::default();
        let one = EventSink::new("one", engine.clone());
        let two = EventSink::new("two", engine.clone());
        one.emit(event(0));
        let before = SystemTime::now();
        let mut reader = engine.subscribe();
        for number in 0..3 {
            one.emit(event(number));
            two.emit(event(number));
        }
        for number in 0..3 {
            for flow in ["one", "two"] {
                let item = reader.try_receive().unwrap();
                assert_eq!((item.flow.as_str(), &item.event), (flow, &event(number)));
                // The clock of the machine may be set meanwhile.
                assert!(item.at + Duration::from_secs(3600) > before);
            }
        }
        assert!(reader.try_receive().is_none());
        for number in 0..CAPACITY + 2 {
            two.emit(event(number));
        }
        assert_eq!(reader.try_receive().unwrap().event, Event::Missed { count: 2 });
        assert_eq!(lock(&reader.0).events.len(), CAPACITY);
        engine.close();
        assert!(std::iter::from_fn(|| reader.try_receive()).count() == CAPACITY);
        assert!(matches!(reader.poll_next(), Poll::Ready(None)), "the engine has ended");
        assert!(matches!(engine.subscribe().poll_next(), Poll::Ready(None)));
        drop(reader);
        one.emit(event(0));
        assert!(lock(&engine.0).list.is_empty());
    }
}
