//! Fan-out of paced datagrams: each packet leaves at the time of its clock references, to all outputs that are paced. A task
//! paces the media once for many outputs, and wakes up once for a packet that leaves, and not once for each of them.
//!
//! A sink never waits. What a full socket does not take has had its time, and is dropped.

use super::{EventSink, Status, Tasks, lagging::LagReport};
use crate::{
    lock::lock,
    media::Packet,
    net::TimerFd,
    proto::rtp::{Pacer, Placed, unwrap},
    router::{Batch, BatchLayout, LayoutInterest, Reader, Ring},
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Packets that are due within this time leave together: less than a packet's time below 50 Mb/s.
const SLACK: Duration = Duration::from_micros(200);
/// Longest time for which media stays unread because a packet leaves soon, at which it is read.
const MAX_UNREAD: Duration = Duration::from_millis(10);
/// Number of outputs that one task sends to, before another one is started. At 2 to 3 µs each it is done before the next
/// packet of most streams.
const OUTPUTS_PER_SHARD: usize = 64;

/// One destination of paced datagrams.
pub(crate) trait PacedSink: Send {
    /// Sends packets, the first of which is the flow's packet number `first`. Returns the number of packets sent or given
    /// up.
    fn send_packets(&mut self, packets: &[Packet], first: u64, now: Instant) -> usize;
}

enum Command {
    Add(Entry),
    Remove { number: u64, done: oneshot::Sender<()> },
}

/// Output with its destinations, which are sent the same packets.
struct Entry {
    number: u64,
    sinks: Vec<Box<dyn PacedSink>>,
    status: Arc<Status>,
    lag: LagReport,
    /// Media that comes together costs less. It is held anyway.
    _interest: LayoutInterest,
}

/// Paced outputs of one flow.
#[derive(Clone, Debug)]
pub(crate) struct PacedFanout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Arc<Ring>,
    events: EventSink,
    tasks: Tasks,
    shards: Mutex<Shards>,
}

#[derive(Debug, Default)]
struct Shards {
    list: Vec<ShardHandle>,
    last_number: u64,
}

/// Command channel of a shard, and the number of its outputs. A shard ends when it has none.
#[derive(Debug)]
struct ShardHandle {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    outputs: usize,
}

/// Place of an output in the fan-out.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: u64,
    number: u64,
}

impl PacedFanout {
    pub(crate) fn new(ring: Arc<Ring>, events: EventSink, tasks: Tasks) -> Self {
        Self(Arc::new(Inner { ring, events, tasks, shards: Mutex::default() }))
    }

    /// Adds an output, which is sent what leaves from now on. Returns a task that removes it when `stop` is cancelled, and
    /// ends when its sockets are closed. `timer` is that of another shard, should one be needed.
    pub(crate) fn add(
        &self,
        sinks: Vec<Box<dyn PacedSink>>,
        status: Arc<Status>,
        timer: TimerFd,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let place = self.0.add(sinks, status, timer);
        let inner = self.0.clone();
        async move {
            stop.cancelled().await;
            inner.remove(place).await;
        }
    }
}

impl Inner {
    fn add(&self, sinks: Vec<Box<dyn PacedSink>>, status: Arc<Status>, timer: TimerFd) -> Place {
        let mut shards = lock(&self.shards);
        shards.last_number += 1;
        let number = shards.last_number;
        let interest = self.ring.layout_interest(BatchLayout::Separate);
        let mut entry = Entry { number, sinks, status, lag: LagReport::new(), _interest: interest };
        for shard in shards.list.iter_mut().filter(|shard| shard.outputs < OUTPUTS_PER_SHARD) {
            match shard.commands.send(Command::Add(entry)) {
                Ok(()) => {
                    shard.outputs += 1;
                    return Place { shard: shard.id, number };
                }
                // The shard has ended with its flow; the output gets nothing from another one, either.
                Err(mpsc::error::SendError(Command::Add(back))) => entry = back,
                Err(_) => return Place { shard: shard.id, number },
            }
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let shard = Shard {
            pacer: Pacer::default(),
            timer,
            reader: self.ring.reader(),
            entries: vec![entry],
            window: Vec::new(),
            due: Vec::new(),
            events: self.events.clone(),
            told: 0,
        };
        self.tasks.spawn(shard.run(commands));
        shards.list.push(ShardHandle { id: number, commands: sender, outputs: 1 });
        Place { shard: number, number }
    }

    /// Removes an output, and waits until its sockets are closed.
    async fn remove(&self, place: Place) {
        let (done, wait) = oneshot::channel();
        {
            let mut shards = lock(&self.shards);
            let Some(at) = shards.list.iter().position(|shard| shard.id == place.shard) else { return };
            let Some(shard) = shards.list.get_mut(at) else { return };
            shard.outputs = shard.outputs.saturating_sub(1);
            let _ = shard.commands.send(Command::Remove { number: place.number, done }); // fails if the shard has ended
            if shard.outputs == 0 {
                shards.list.remove(at);
            }
        }
        let _ = wait.await; // a shard that has ended has closed its sockets
    }
}

/// Some of the outputs, and the pacer of their media.
struct Shard {
    pacer: Pacer,
    timer: TimerFd,
    reader: Reader,
    entries: Vec<Entry>,
    window: Vec<Arc<Batch>>,
    /// Packets that leave now.
    due: Vec<Packet>,
    events: EventSink,
    /// Number of restarts of the pacer that were logged.
    told: u64,
}

impl Shard {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let wait = self.pacer.next_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            let is_soon = wait.is_some_and(|wait| wait <= MAX_UNREAD);
            let mut command = None;
            tokio::select! {
                biased;
                // Media that comes while a packet waits is read when that one leaves, without a wake-up of its own.
                _ = self.reader.ready(), if !is_soon => {}
                next = commands.recv() => match next {
                    Some(next) => command = Some(next),
                    None => return,
                },
                () = expired(&mut self.timer, wait) => {}
            }
            let removals = self.apply_additions(command, &mut commands);
            if self.reader.has_more() {
                self.read();
            }
            // The rest of a flow that ends is sent before its outputs are removed.
            if self.reader.is_closed() && !self.reader.has_more() {
                self.pacer.flush(Instant::now());
                self.send_due(Instant::now());
                self.entries.clear(); // closes the sockets before those who wait for it are told
                return;
            }
            self.send_due(Instant::now());
            for (number, done) in removals {
                self.entries.retain(|entry| entry.number != number);
                let _ = done.send(()); // nobody waits if this fails
            }
        }
    }

    /// Adds the outputs that were there before the media that is read next. Returns those that are to be removed.
    fn apply_additions(
        &mut self,
        first: Option<Command>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Vec<(u64, oneshot::Sender<()>)> {
        let mut removals = Vec::new();
        let mut next = first.or_else(|| commands.try_recv().ok());
        while let Some(command) = next {
            match command {
                Command::Add(entry) => {
                    self.send_due(Instant::now()); // it is not sent what has left before
                    self.entries.push(entry);
                }
                Command::Remove { number, done } => removals.push((number, done)),
            }
            next = commands.try_recv().ok();
        }
        removals
    }

    /// Hands new packets to the pacer.
    fn read(&mut self) {
        let lost = self.reader.read(&mut self.window);
        let now = Instant::now();
        for entry in &mut self.entries {
            entry.dropped(lost.packets, now, &self.events);
        }
        for batch in self.window.drain(..) {
            for (place, packet) in (batch.first_packet()..).zip(batch.packets()) {
                let payload = unwrap(packet.data()).unwrap_or_default();
                self.pacer.push(Placed { packet: packet.clone(), place }, payload, now);
            }
        }
    }

    fn send_due(&mut self, now: Instant) {
        self.pacer.handle_timeout(now);
        let until = now.checked_add(SLACK).unwrap_or(now);
        let mut first = 0;
        while let Some(Placed { packet, place }) = self.pacer.pop(until) {
            // Numbers follow from places, which are consecutive unless the flow has lost packets.
            if place != first + self.due.len() as u64 {
                self.send(first, now);
                first = place;
            }
            self.due.push(packet);
        }
        self.send(first, now);
        if self.pacer.restarts() > self.told {
            self.told = self.pacer.restarts();
            let names: Vec<String> = self.entries.iter().map(|entry| entry.status.name()).collect();
            log::debug!("outputs `{}`: paced anew ({} times)", names.join("`, `"), self.told);
        }
    }

    fn send(&mut self, first: u64, now: Instant) {
        if self.due.is_empty() {
            return;
        }
        for entry in &mut self.entries {
            let mut least = self.due.len();
            for sink in &mut entry.sinks {
                least = least.min(sink.send_packets(&self.due, first, now));
            }
            // A full socket buffer: the packets have had their time.
            entry.dropped((self.due.len() - least) as u64, now, &self.events);
        }
        self.due.clear();
    }
}

impl Entry {
    fn dropped(&mut self, packets: u64, now: Instant, events: &EventSink) {
        self.status.counters.dropped.add(packets);
        self.lag.note(packets, &self.status, events, now);
    }
}

/// Waits for a time; without one, for ever.
async fn expired(timer: &mut TimerFd, wait: Option<Duration>) {
    match wait {
        Some(wait) => timer.wait(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Limits;
    use tokio::runtime::Handle;
    use tokio_util::task::TaskTracker;

    /// Numbers of the packets that a sink was sent.
    type Got = Arc<Mutex<Vec<u64>>>;

    struct FakeSink(Got);

    impl PacedSink for FakeSink {
        fn send_packets(&mut self, packets: &[Packet], first: u64, _: Instant) -> usize {
            self.0.lock().unwrap().extend((first..).take(packets.len()));
            packets.len()
        }
    }

    struct Rig {
        ring: Arc<Ring>,
        fanout: PacedFanout,
        tasks: Tasks,
    }

    impl Rig {
        fn new() -> Self {
            let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(3600) });
            let tasks = Tasks { runtime: Handle::current(), tracker: TaskTracker::new() };
            let fanout = PacedFanout::new(ring.clone(), EventSink::alone("test"), tasks.clone());
            Self { ring, fanout, tasks }
        }

        fn add(&self) -> (Got, CancellationToken) {
            let got = Got::default();
            let stop = CancellationToken::new();
            let sinks: Vec<Box<dyn PacedSink>> = vec![Box::new(FakeSink(got.clone()))];
            let timer = TimerFd::new().unwrap();
            self.tasks.spawn(self.fanout.add(sinks, Status::new("out", None), timer, stop.clone()));
            (got, stop)
        }

        fn publish(&self, payloads: impl IntoIterator<Item = Vec<u8>>) {
            let wrapped = payloads.into_iter().map(|payload| [vec![0x80, 33], vec![0; 10], payload].concat());
            self.ring.publish(&mut wrapped.map(|packet| Packet::rtp(packet, Instant::now())).collect());
        }

        fn shards(&self) -> Vec<usize> {
            lock(&self.fanout.0.shards).list.iter().map(|shard| shard.outputs).collect()
        }

        async fn end(self) {
            self.tasks.tracker.close();
            self.tasks.tracker.wait().await;
        }
    }

    async fn wait_for(got: &Got, count: usize) {
        while got.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A transport packet, with a clock reference in units of 90 kHz if there is one.
    fn packet(clock: Option<u32>) -> Vec<u8> {
        let mut packet = vec![0x47, 1, 0, 0x10];
        if let Some(clock) = clock {
            packet[3] = 0x30;
            packet.extend([7, 0x10]);
            packet.extend((clock >> 1).to_be_bytes());
            packet.extend([(clock as u8 & 1) << 7, 0]);
        }
        packet.resize(188, 0xff);
        packet
    }

    #[tokio::test]
    async fn paced_fanout_paces_once_for_many_outputs() {
        let rig = Rig::new();
        let outputs: Vec<_> = (0..130).map(|_| rig.add()).collect();
        assert_eq!(rig.shards(), [64, 64, 2]);
        rig.publish((0..50).map(|_| packet(None)));
        for (got, _) in &outputs {
            wait_for(got, 50).await;
            assert_eq!(*got.lock().unwrap(), (0..50).collect::<Vec<u64>>());
        }
        // The places of those that go are taken by those that come.
        for (_, stop) in &outputs[..10] {
            stop.cancel();
        }
        while rig.shards() != [54, 64, 2] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (late, stop) = rig.add();
        assert_eq!(rig.shards(), [55, 64, 2]);
        rig.publish((0..10).map(|_| packet(None)));
        wait_for(&late, 10).await;
        for (at, (got, _)) in outputs.iter().enumerate() {
            wait_for(got, if at < 10 { 50 } else { 60 }).await;
        }
        assert_eq!(*late.lock().unwrap(), (50..60).collect::<Vec<u64>>());
        assert!(outputs[..10].iter().all(|(got, _)| got.lock().unwrap().len() == 50), "they get nothing more");
        // A shard without outputs ends.
        for stop in outputs.iter().map(|(_, stop)| stop).chain([&stop]) {
            stop.cancel();
        }
        let fanout = rig.fanout.clone();
        rig.end().await;
        assert!(lock(&fanout.0.shards).list.is_empty());
    }

    #[tokio::test]
    async fn paced_fanout_sends_what_is_held_when_the_flow_ends() {
        let rig = Rig::new();
        let outputs: Vec<_> = (0..3).map(|_| rig.add()).collect();
        let start = Instant::now();
        rig.publish([packet(Some(90_000)), packet(None), packet(None)]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let is_early = outputs.iter().any(|(got, _)| !got.lock().unwrap().is_empty());
        // They wait for a tenth of a second; a busy machine may have stood still for longer.
        assert!(!is_early || start.elapsed() > Duration::from_millis(50));
        rig.publish([packet(None)]);
        rig.ring.close();
        for (_, stop) in &outputs {
            stop.cancel();
        }
        rig.end().await;
        for (got, _) in outputs {
            assert_eq!(*got.lock().unwrap(), [0, 1, 2, 3]);
        }
    }
}
