//! A small executor: the tasks that the connections of one port share after their handshake.
//!
//! Arriving media wakes all players of a flow at once. With one task a player, the runtime would schedule each of them
//! and wake its other threads to steal some, which costs more than the players' own work. So the players are futures of
//! a few tasks, each of which polls those that were woken, one after the other.
//!
//! RTMP publishers have tasks of their own, each of which reads its sockets together when many of them are busy
//! ([`EpollGroup`]).
//!
//! A connection that panics ends alone. None can starve the others: [`Stream`] yields after a few reads in a row, and a
//! connection that receives much from elsewhere calls [`yield_periodically`].
//!
//! [`Stream`]: crate::net::Stream

use crate::{
    lock::{self, lock},
    net::{EpollGroup, GroupPoller},
};
use futures_util::{FutureExt, StreamExt, future::CatchUnwind, stream::FuturesUnordered, task::AtomicWaker};
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Wake, Waker},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Maximum number of passes over the woken connections before other tasks have a turn. (Waking the runtime from within
/// the task would wake another thread.)
const MAX_PASSES: u8 = 4;

type ConnectionFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks of the players, or of the publishers, of one port.
#[derive(Debug)]
pub(super) struct ConnectionExecutor {
    workers: Mutex<Vec<Worker>>,
    role: PeerRole,
    max_workers: usize,
    /// Ends all tasks with their connections.
    stop: CancellationToken,
}

/// The role of an executor's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerRole {
    /// Players, and publishers that are read one by one.
    Players,
    /// Publishers that are read together.
    Publishers,
}

impl PeerRole {
    /// Number of connections of one task before another task is started.
    const fn max_connections(self) -> usize {
        match self {
            // A batch for so many players is written within a few milliseconds.
            Self::Players => 128,
            // The more publishers are busy, the less each of them costs.
            Self::Publishers => 512,
        }
    }
}

/// The executor's handle of one task.
#[derive(Debug)]
struct Worker {
    sender: mpsc::UnboundedSender<ConnectionFuture>,
    load: Arc<AtomicUsize>,
    /// The sockets of publishers; `None` for players, or without descriptors.
    epoll_group: Option<Arc<EpollGroup>>,
}

impl ConnectionExecutor {
    /// Creates an executor of at most as many tasks as the runtime has threads. Must be called within the runtime.
    pub(super) fn new(role: PeerRole, stop: CancellationToken) -> Self {
        let max_workers = tokio::runtime::Handle::current().metrics().num_workers().max(1);
        Self { workers: Mutex::default(), role, max_workers, stop }
    }

    /// Runs a connection to its end, or until the port closes. `connection` is given the epoll group of its task:
    /// publishers have one, unless the system had no descriptors left.
    pub(super) fn run<F>(&self, connection: impl FnOnce(Option<Arc<EpollGroup>>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut workers = lock(&self.workers);
        let least = workers.iter().enumerate().map(|(at, worker)| (worker.load.load(Relaxed), at)).min();
        let at = match least {
            Some((connections, at))
                if connections < self.role.max_connections() || workers.len() >= self.max_workers =>
            {
                at
            }
            _ => {
                workers.push(self.worker());
                workers.len() - 1
            }
        };
        let worker = &workers[at];
        worker.load.fetch_add(1, Relaxed);
        // Fails only when the task was stopped, which would have stopped the connection, too.
        let _ = worker.sender.send(Box::pin(connection(worker.epoll_group.clone())));
    }

    fn worker(&self) -> Worker {
        let (sender, incoming) = mpsc::unbounded_channel();
        let poller = (self.role == PeerRole::Publishers).then(|| GroupPoller::new().ok()).flatten();
        let epoll_group = poller.as_ref().map(|poller| poller.group().clone());
        let mut task = WorkerTask::new(incoming, poller);
        let load = task.load.clone();
        let stop = self.stop.clone();
        // Tokio's cooperative budget is per task: the first few connections would use it up for all.
        tokio::spawn(tokio::task::unconstrained(lock::task(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = poll_fn(|cx| task.poll(cx)) => {}
            }
        })));
        Worker { sender, load, epoll_group }
    }
}

/// The future of one task.
struct WorkerTask {
    incoming: mpsc::UnboundedReceiver<ConnectionFuture>,
    poller: Option<GroupPoller>,
    connections: FuturesUnordered<CatchUnwind<AssertUnwindSafe<ConnectionFuture>>>,
    load: Arc<AtomicUsize>,
    wake_state: Arc<WakeState>,
    /// The waker of the connections.
    waker: Waker,
}

/// The wake-ups of a task. While the task is running they set a flag only: telling the runtime would wake another
/// thread.
#[derive(Debug, Default)]
struct WakeState {
    woken: AtomicBool,
    running: AtomicBool,
    task: AtomicWaker,
}

impl Wake for WakeState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        if !self.running.load(SeqCst) {
            self.task.wake();
        }
    }
}

impl WorkerTask {
    fn new(incoming: mpsc::UnboundedReceiver<ConnectionFuture>, poller: Option<GroupPoller>) -> Self {
        let wake_state = Arc::new(WakeState::default());
        let connections = FuturesUnordered::new();
        let load = Arc::default();
        Self { incoming, poller, connections, load, waker: wake_state.clone().into(), wake_state }
    }

    /// Polls the woken connections; ready when the port is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(connection) = self.incoming.poll_recv(cx) {
            let Some(connection) = connection else { return Poll::Ready(()) };
            // Unwind safe: the connection's own state is dropped with it, and shared state is behind locks.
            self.connections.push(AssertUnwindSafe(connection).catch_unwind());
        }
        self.wake_state.task.register(cx.waker());
        self.wake_state.running.store(true, SeqCst);
        if let Some(poller) = &mut self.poller {
            poller.poll(cx);
        }
        for _ in 0..MAX_PASSES {
            // Wake-ups up to here are served by this pass.
            self.wake_state.woken.store(false, SeqCst);
            while let Poll::Ready(Some(_)) = self.connections.poll_next_unpin(&mut Context::from_waker(&self.waker)) {
                self.load.fetch_sub(1, Relaxed);
            }
            // `FuturesUnordered` also wakes when it yields after polling all its futures.
            if !self.wake_state.woken.load(SeqCst) {
                break;
            }
        }
        self.wake_state.running.store(false, SeqCst);
        if self.wake_state.woken.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Yields to the other connections, once in 16 calls. `times`: the caller's count of them.
pub(in crate::endpoint) async fn yield_periodically(times: &mut u8) {
    *times += 1;
    if *times == 16 {
        *times = 0;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::write_all, *};
    use crate::net::Stream;
    use std::time::Duration;
    use tokio::{net::TcpStream, sync::Notify};

    fn sizes(executor: &ConnectionExecutor) -> Vec<usize> {
        lock(&executor.workers).iter().map(|worker| worker.load.load(Relaxed)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn executor_isolates_panics_and_stops_all_connections() {
        let stop = CancellationToken::new();
        let executor = ConnectionExecutor::new(PeerRole::Players, stop.clone());
        let go = Arc::new(Notify::new());
        let alive = Arc::new(());
        for number in 0..2 * PeerRole::Players.max_connections() + 10 {
            let go = go.clone();
            let held = alive.clone();
            executor.run(|_| async move {
                let _held = held;
                match number {
                    3 => panic!("a bug"),
                    4 => go.notified().await,
                    _ => std::future::pending().await,
                }
            });
        }
        let wait_for = async |count: usize| {
            while sizes(&executor).iter().sum::<usize>() != count {
                tokio::task::yield_now().await;
            }
        };
        // The connection that has panicked is gone, and no other.
        wait_for(2 * PeerRole::Players.max_connections() + 9).await;
        assert_eq!(sizes(&executor).len(), 2);
        go.notify_one();
        wait_for(2 * PeerRole::Players.max_connections() + 8).await;
        stop.cancel();
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// Publishers bring a little, then much, then little again, and end by closing. The pauses choose the mode of
    /// reading; every byte must arrive however long it takes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn executor_reads_publishers_together_without_loss() {
        const PUBLISHERS: usize = 60;
        let stop = CancellationToken::new();
        let executor = ConnectionExecutor::new(PeerRole::Publishers, stop.clone());
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Vec<AtomicUsize>> = Arc::new((0..PUBLISHERS).map(|_| AtomicUsize::new(0)).collect());
        let mut ends = Vec::new();
        for number in 0..PUBLISHERS {
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            ends.push(Stream::accepted(client.unwrap()));
            let stream = Stream::accepted(accepted.unwrap().0);
            let got = got.clone();
            executor.run(|epoll_group| async move {
                let mut stream = stream.grouped(&epoll_group.unwrap()).unwrap();
                while let Ok(length @ 1..) = poll_fn(|cx| stream.poll_read(cx, |_| {})).await {
                    got[number].fetch_add(length, Relaxed);
                }
                got[number].fetch_add(1_000_000, Relaxed); // the end
            });
        }
        assert_eq!(sizes(&executor), [PUBLISHERS]);
        let have = async |wanted: usize| {
            while got.iter().any(|count| count.load(Relaxed) != wanted) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut sent = 0;
        for (rounds, pause) in [(3, 100), (200, 1), (3, 100)] {
            for _ in 0..rounds {
                for end in &mut ends {
                    write_all(end, &[7; 100]).await.unwrap();
                }
                sent += 100;
                tokio::time::sleep(Duration::from_millis(pause)).await; // their pace
            }
            have(sent).await;
        }
        // Half of them send once more before they close.
        for end in ends.iter_mut().step_by(2) {
            write_all(end, &[7; 100]).await.unwrap();
        }
        drop(ends);
        while !sizes(&executor).iter().all(|size| *size == 0) {
            tokio::task::yield_now().await;
        }
        for (number, count) in got.iter().enumerate() {
            assert_eq!(count.load(Relaxed), 1_000_000 + sent + if number % 2 == 0 { 100 } else { 0 });
        }
        stop.cancel();
    }
}
