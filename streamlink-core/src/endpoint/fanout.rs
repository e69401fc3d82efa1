//! The fan-out of datagrams: shards, each a task that reads the ring once and hands every batch to all of its sinks. A
//! batch wakes a shard once instead of every output, and a large fan-out uses every worker.
//!
//! A sink never waits. One whose socket is full gets a reader of its own from where it stopped, and rejoins the others
//! when it has caught up, or has lost what the ring no longer holds.

use super::{EventSink, Status, Tasks, lagging::LagReport};
use crate::{
    lock::lock,
    router::{Batch, BatchLayout, LayoutInterest, Reader, Ring},
};
use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// Number of sinks of one shard before another shard is started: for a small fan-out, waking a second thread costs more
/// than it saves.
const SINKS_PER_SHARD: usize = 64;

/// One destination of datagrams.
pub(crate) trait Sink: Send {
    /// Sends the packets of `batch` from index `from` on; returns the number of packets sent or given up. Fewer than
    /// all means that the sink is full.
    fn send(&mut self, batch: &Batch, from: usize, now: Instant) -> usize;

    /// Ready when the sink can take more.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Identifies a sink within its fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SinkId {
    shard: usize,
    number: u64,
}

enum Command {
    Add { number: u64, sink: Box<dyn Sink>, status: Arc<Status> },
    Remove { number: u64, done: oneshot::Sender<()> },
}

/// The shards of one flow.
#[derive(Debug)]
pub(crate) struct Fanout {
    ring: Arc<Ring>,
    events: EventSink,
    tasks: Tasks,
    max_shards: usize,
    shards: Mutex<Shards>,
}

#[derive(Debug, Default)]
struct Shards {
    /// The command channel and the number of sinks of each shard.
    list: Vec<(mpsc::UnboundedSender<Command>, usize)>,
    last_number: u64,
}

impl Fanout {
    pub(crate) fn new(ring: Arc<Ring>, events: EventSink, tasks: Tasks, max_shards: usize) -> Self {
        Self { ring, events, tasks, max_shards: max_shards.max(1), shards: Mutex::default() }
    }

    /// Adds a sink, which is sent the media that is published from now on.
    pub(crate) fn add(&self, sink: Box<dyn Sink>, status: Arc<Status>) -> SinkId {
        let mut shards = lock(&self.shards);
        let least = shards.list.iter().enumerate().min_by_key(|(_, (_, sinks))| *sinks).map(|(i, (_, n))| (i, *n));
        let shard = match least {
            Some((shard, sinks)) if sinks < SINKS_PER_SHARD || shards.list.len() >= self.max_shards => shard,
            _ => {
                let (sender, commands) = mpsc::unbounded_channel();
                let shard = Shard::new(self.ring.reader(), self.events.clone());
                self.tasks.spawn(shard.run(commands));
                shards.list.push((sender, 0));
                shards.list.len() - 1
            }
        };
        shards.last_number += 1;
        let number = shards.last_number;
        let (sender, sinks) = &mut shards.list[shard];
        *sinks += 1;
        // Fails only when the shard was closed with its flow; the sink is dropped here.
        let _ = sender.send(Command::Add { number, sink, status });
        SinkId { shard, number }
    }

    /// Removes a sink, and waits until its socket is closed.
    pub(crate) async fn remove(&self, id: SinkId) {
        let (done, wait) = oneshot::channel();
        {
            let mut shards = lock(&self.shards);
            if let Some((sender, sinks)) = shards.list.get_mut(id.shard) {
                *sinks = sinks.saturating_sub(1);
                let _ = sender.send(Command::Remove { number: id.number, done });
            }
        }
        let _ = wait.await; // a shard that has ended has closed its sockets
    }
}

/// One sink and its position.
struct Entry {
    number: u64,
    sink: Box<dyn Sink>,
    status: Arc<Status>,
    /// Sequence number of the next batch to send.
    next: u64,
    /// Set while the sink is full.
    behind: Option<Behind>,
    lag: LagReport,
    /// Sinks send runs of datagrams.
    _interest: LayoutInterest,
}

/// The backlog of a full sink.
struct Behind {
    reader: Reader,
    /// The batch in progress, and the number of its packets sent. Only one, as the ring bounds the others.
    current: Option<Arc<Batch>>,
    done: usize,
}

struct Shard {
    reader: Reader,
    events: EventSink,
    entries: Vec<Entry>,
    window: Vec<Arc<Batch>>,
}

impl Shard {
    fn new(reader: Reader, events: EventSink) -> Self {
        Self { reader, events, entries: Vec::new(), window: Vec::new() }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let closed = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => {
                        self.apply(command);
                        continue;
                    }
                    None => true,
                },
                ready = self.reader.ready() => ready.is_err(),
                () = Self::catch_up(&mut self.entries, &self.events) => continue,
            };
            if closed {
                return;
            }
            self.deliver();
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Add { number, sink, status } => {
                // The new sink does not get what was published before.
                self.deliver();
                let next = self.reader.position();
                self.entries.push(Entry {
                    number,
                    sink,
                    status,
                    next,
                    behind: None,
                    lag: LagReport::new(),
                    _interest: self.reader.layout_interest(BatchLayout::Contiguous),
                });
            }
            Command::Remove { number, done } => {
                self.entries.retain(|entry| entry.number != number);
                let _ = done.send(());
            }
        }
    }

    /// Sends new batches to all sinks that are not behind.
    fn deliver(&mut self) {
        let lost = self.reader.read(&mut self.window);
        let now = Instant::now();
        for entry in &mut self.entries {
            if entry.behind.is_some() {
                continue; // it is read by the sink's own reader
            }
            entry.dropped(lost.packets, now, &self.events);
            for batch in self.window.iter().filter(|batch| batch.sequence() >= entry.next) {
                let done = entry.sink.send(batch, 0, now);
                if done < batch.packets().len() {
                    let mut reader = self.reader.fork(batch);
                    reader.read_one();
                    entry.behind = Some(Behind { reader, current: Some(batch.clone()), done });
                    break;
                }
            }
            entry.next = entry.next.max(self.reader.position());
        }
        self.window.clear();
    }

    /// Sends to the sinks that are behind; ends when one of them has made progress, and never while none is behind.
    async fn catch_up(entries: &mut [Entry], events: &EventSink) {
        poll_fn(|cx| {
            let mut moved = false;
            for entry in entries.iter_mut().filter(|entry| entry.behind.is_some()) {
                while entry.behind.is_some() && entry.sink.poll_writable(cx).is_ready() {
                    entry.resume(events);
                    moved = true;
                }
            }
            if moved { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Entry {
    /// Sends from the backlog of a full sink.
    fn resume(&mut self, events: &EventSink) {
        let Some(behind) = &mut self.behind else { return };
        let mut lost = 0;
        let now = Instant::now();
        while let Some(batch) = &behind.current {
            behind.done += self.sink.send(batch, behind.done, now);
            if behind.done < batch.packets().len() {
                return self.dropped(lost, now, events);
            }
            let (next, missed) = behind.reader.read_one();
            lost += missed.packets;
            behind.current = next;
            behind.done = 0;
        }
        // The sink may be ahead of the shard, which must not send the same again.
        self.next = behind.reader.position();
        self.behind = None;
        self.dropped(lost, now, events);
    }

    fn dropped(&mut self, packets: u64, now: Instant, events: &EventSink) {
        self.status.counters.dropped.add(packets);
        self.lag.note(packets, &self.status, events, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{endpoint::Event, media::Packet, router::Limits};
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
        time::Duration,
    };
    use tokio::runtime::Handle;
    use tokio_util::task::TaskTracker;

    /// The packets that a sink was sent, and the number that it still accepts.
    #[derive(Default)]
    struct Pipe {
        room: AtomicUsize,
        got: Mutex<Vec<u8>>,
        waker: Mutex<Option<Waker>>,
    }

    impl Pipe {
        fn with_room(room: usize) -> Arc<Self> {
            Arc::new(Self { room: AtomicUsize::new(room), ..Self::default() })
        }

        fn give(&self, room: usize) {
            self.room.fetch_add(room, Ordering::SeqCst);
            if let Some(waker) = self.waker.lock().unwrap().take() {
                waker.wake();
            }
        }

        async fn wait_for(&self, count: usize) -> Vec<u8> {
            for _ in 0..10_000 {
                if self.got.lock().unwrap().len() >= count {
                    break;
                }
                tokio::task::yield_now().await;
            }
            self.got.lock().unwrap().clone()
        }
    }

    struct FakeSink(Arc<Pipe>);

    impl Sink for FakeSink {
        fn send(&mut self, batch: &Batch, from: usize, _: Instant) -> usize {
            let packets = &batch.packets()[from..];
            let take = packets.len().min(self.0.room.load(Ordering::SeqCst));
            self.0.room.fetch_sub(take, Ordering::SeqCst);
            self.0.got.lock().unwrap().extend(packets[..take].iter().map(|p| p.data()[0]));
            take
        }

        fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            *self.0.waker.lock().unwrap() = Some(cx.waker().clone());
            if self.0.room.load(Ordering::SeqCst) > 0 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    fn rig(bytes: u64) -> (Arc<Ring>, Fanout, EventSink) {
        let ring = Ring::new(Limits { bytes, time: Duration::from_secs(3600) });
        let events = EventSink::alone("test");
        let tasks = Tasks { runtime: Handle::current(), tracker: TaskTracker::new() };
        (ring.clone(), Fanout::new(ring, events.clone(), tasks, 4), events)
    }

    fn publish(ring: &Ring, numbers: std::ops::Range<u8>) {
        let numbers: Vec<u8> = numbers.collect();
        for pair in numbers.chunks(2) {
            ring.publish(&mut pair.iter().map(|n| Packet::datagram(vec![*n; 10], Instant::now())).collect());
        }
    }

    #[tokio::test]
    async fn fanout_full_sink_catches_up_without_loss() {
        let (ring, fanout, _) = rig(1 << 20);
        let free = Pipe::with_room(1000);
        let full = Pipe::with_room(3);
        let status = Status::new("free", None);
        let other = Status::new("full", None);
        fanout.add(Box::new(FakeSink(free.clone())), status.clone());
        fanout.add(Box::new(FakeSink(full.clone())), other.clone());
        tokio::task::yield_now().await;
        publish(&ring, 0..100);
        free.wait_for(100).await;
        assert_eq!(*full.got.lock().unwrap(), [0, 1, 2]);
        full.give(4);
        full.wait_for(7).await;
        publish(&ring, 100..110);
        free.wait_for(110).await;
        full.give(200);
        publish(&ring, 110..120);
        assert_eq!(full.wait_for(120).await, (0..120).collect::<Vec<u8>>());
        publish(&ring, 120..130);
        assert_eq!(full.wait_for(130).await, (0..130).collect::<Vec<u8>>());
        assert_eq!(free.wait_for(130).await, (0..130).collect::<Vec<u8>>());
        assert_eq!((status.counters.dropped.get(), other.counters.dropped.get()), (0, 0));
    }

    #[tokio::test]
    async fn fanout_counts_packets_a_full_sink_missed() {
        let (ring, fanout, events) = rig(100); // ten packets
        let mut seen = events.subscribe();
        let full = Pipe::with_room(1);
        let status = Status::new("full", None);
        let id = fanout.add(Box::new(FakeSink(full.clone())), status.clone());
        tokio::task::yield_now().await;
        publish(&ring, 0..2);
        full.wait_for(1).await;
        publish(&ring, 2..100);
        full.give(1000);
        let got = full.wait_for(12).await;
        // The batch in hand is finished, then what the ring still holds follows.
        assert_eq!(got, [&[0, 1][..], &(90..100).collect::<Vec<u8>>()].concat());
        assert_eq!(status.counters.dropped.get(), 88);
        assert_eq!(seen.receive().await.unwrap(), Event::OutputLagging { output: "full".into(), dropped: 88 });
        // A removed sink gets nothing more, and is gone when `remove` returns.
        fanout.remove(id).await;
        assert_eq!(Arc::strong_count(&full), 1);
        publish(&ring, 100..110);
        tokio::task::yield_now().await;
        assert_eq!(full.got.lock().unwrap().len(), 12);
    }

    #[tokio::test]
    async fn fanout_spreads_sinks_over_shards_and_ends_with_ring() {
        let (ring, fanout, _) = rig(1 << 20);
        let pipes: Vec<_> = (0..300).map(|_| Pipe::with_room(1000)).collect();
        for pipe in &pipes {
            fanout.add(Box::new(FakeSink(pipe.clone())), Status::new("x", None));
        }
        let loads: Vec<usize> = fanout.shards.lock().unwrap().list.iter().map(|(_, sinks)| *sinks).collect();
        assert_eq!(loads, [75, 75, 75, 75]);
        tokio::task::yield_now().await;
        publish(&ring, 0..50);
        ring.close();
        fanout.tasks.tracker.close();
        fanout.tasks.tracker.wait().await;
        for pipe in pipes {
            assert_eq!(pipe.got.lock().unwrap().len(), 50, "what was published before the end is sent");
        }
    }
}
