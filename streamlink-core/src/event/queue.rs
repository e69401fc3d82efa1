//! Delivery of events from a flow to its host. Each reader has its own queue, which takes no memory while it is empty
//! and holds at most [`CAPACITY`] events.

use super::Event;
use crate::lock::{self, lock};
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, Weak},
    task::{Poll, Waker},
};

/// Maximum number of events that wait for a reader. A slower reader loses the oldest.
const CAPACITY: usize = 1024;

/// Receives the events of the drivers, for the host's readers and the log.
#[derive(Clone, Debug)]
pub(crate) struct EventSink(Arc<Sink>);

#[derive(Debug)]
struct Sink {
    flow: String,
    readers: Mutex<Vec<Weak<Mutex<Waiting>>>>,
}

/// Queue of one reader.
#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    missed: u64,
    /// Set when the sink is gone and no more events come.
    closed: bool,
    reader: Option<Waker>,
}

impl Waiting {
    fn next(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.missed) {
            0 => self.events.pop_front(),
            count => Some(Event::Missed { count }),
        }
    }
}

impl EventSink {
    pub(crate) fn new(flow: &str) -> Self {
        Self(Arc::new(Sink { flow: flow.to_owned(), readers: Mutex::default() }))
    }

    pub(crate) fn emit(&self, event: Event) {
        if log::max_level() >= log::Level::Info {
            let (sink, event) = (self.0.clone(), event.clone());
            lock::log_unlocked(move || log::info!("flow `{}`: {event}", sink.flow));
        }
        self.0.tell(|waiting| {
            if waiting.events.len() >= CAPACITY {
                waiting.events.pop_front();
                waiting.missed += 1;
            }
            waiting.events.push_back(event.clone());
        });
    }

    /// Returns a reader of the events from now on.
    pub(crate) fn subscribe(&self) -> Mailbox {
        let waiting = Arc::default();
        lock(&self.0.readers).push(Arc::downgrade(&waiting));
        Mailbox(waiting)
    }
}

impl Sink {
    fn tell(&self, mut change: impl FnMut(&mut Waiting)) {
        // Dropped readers are removed from the list on the way.
        lock(&self.readers).retain(|reader| {
            let Some(waiting) = reader.upgrade() else { return false };
            let mut waiting = lock(&waiting);
            change(&mut waiting);
            if let Some(waker) = waiting.reader.take() {
                lock::wake(waker);
            }
            true
        });
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.tell(|waiting| waiting.closed = true);
    }
}

/// Reading end of the queue of one reader.
#[derive(Debug)]
pub(crate) struct Mailbox(Arc<Mutex<Waiting>>);

impl Mailbox {
    /// Returns the next event, or `None` when no more come.
    pub(crate) async fn receive(&mut self) -> Option<Event> {
        poll_fn(|cx| {
            if let Poll::Ready(next) = self.poll_next() {
                return Poll::Ready(next);
            }
            // A waker may be the host's code, so it is cloned and dropped outside the lock.
            let waker = cx.waker().clone();
            let old = lock(&self.0).reader.replace(waker);
            drop(old);
            self.poll_next() // finds events that came before the waker was set
        })
        .await
    }

    fn poll_next(&self) -> Poll<Option<Event>> {
        let mut waiting = lock(&self.0);
        match waiting.next() {
            None if !waiting.closed => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    /// Returns the next event, if there is one now.
    pub(crate) fn try_receive(&mut self) -> Option<Event> {
        lock(&self.0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        Event::SourceConnected { source: number.to_string(), peer: None }
    }

    #[tokio::test]
    async fn mailbox_delivers_all_and_reports_missed() {
        let sink = EventSink::new("test");
        sink.emit(event(0));
        let (mut quick, mut slow) = (sink.subscribe(), sink.subscribe());
        let gone = sink.subscribe();
        drop(gone);
        for number in 1..=CAPACITY + 5 {
            sink.emit(event(number));
            assert_eq!(quick.receive().await, Some(event(number)));
        }
        assert_eq!(lock(&sink.0.readers).len(), 2);
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
}
