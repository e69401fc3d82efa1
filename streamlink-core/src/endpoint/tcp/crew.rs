//! The tasks that the connections of a port share once they have said what they want.
//!
//! Media that comes wakes all players of a flow at once. Were each of them a task, the runtime would be told of every
//! one, and would wake its other threads to take some over, which costs more than what the players do. So they are
//! members of a few tasks, each of which runs those that were woken, one after the other.
//!
//! The publishers of RTMP have tasks of their own, each of which reads them together when much comes ([`EpollGroup`]).
//!
//! A member that panics ends alone. None can hold up the others: [`Stream`] gives way after a few reads in a row, and
//! whoever takes much from elsewhere calls [`give_way`].
//!
//! [`Stream`]: crate::net::Stream

use crate::{
    lock::lock,
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

/// How often the members of a task that call while they run are run again before other tasks have a turn. (To call the
/// runtime from within the task would wake another thread.)
const TURNS: u8 = 4;

type Member = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks of the players, or of the publishers, of one port.
#[derive(Debug)]
pub(super) struct Crew {
    watches: Mutex<Vec<Watch>>,
    kind: Kind,
    most: usize,
    /// Ends all of them, and their members.
    stop: CancellationToken,
}

/// What the members do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// And publishers that are read one by one.
    Players,
    /// Those that are read together.
    Publishers,
}

impl Kind {
    /// Members of one task before another one is started.
    const fn members(self) -> usize {
        match self {
            // What they are sent at once is on its way within a few milliseconds.
            Self::Players => 128,
            // The more of them bring something, the less each of them costs.
            Self::Publishers => 512,
        }
    }
}

/// One of the tasks.
#[derive(Debug)]
struct Watch {
    joining: mpsc::UnboundedSender<Member>,
    members: Arc<AtomicUsize>,
    /// For the sockets of publishers.
    epoll_group: Option<Arc<EpollGroup>>,
}

impl Crew {
    /// Of as many tasks as the runtime has threads, at most. Must be called within the runtime.
    pub(super) fn new(kind: Kind, stop: CancellationToken) -> Self {
        let most = tokio::runtime::Handle::current().metrics().num_workers().max(1);
        Self { watches: Mutex::default(), kind, most, stop }
    }

    /// Runs a connection to its end, or until the port closes. It is given the group of its task, if that has one: a
    /// task of publishers does, unless the system had no descriptors left.
    pub(super) fn take_on<F>(&self, member: impl FnOnce(Option<Arc<EpollGroup>>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut watches = lock(&self.watches);
        let least = watches.iter().enumerate().map(|(at, watch)| (watch.members.load(Relaxed), at)).min();
        let at = match least {
            Some((members, at)) if members < self.kind.members() || watches.len() >= self.most => at,
            _ => {
                watches.push(self.watch());
                watches.len() - 1
            }
        };
        let watch = &watches[at];
        watch.members.fetch_add(1, Relaxed);
        // A task that has ended was stopped, as the member would be.
        let _ = watch.joining.send(Box::pin(member(watch.epoll_group.clone())));
    }

    fn watch(&self) -> Watch {
        let (joining, joins) = mpsc::unbounded_channel();
        let keeper = (self.kind == Kind::Publishers).then(|| GroupPoller::new().ok()).flatten();
        let epoll_group = keeper.as_ref().map(|keeper| keeper.group().clone());
        let mut round = Round::new(joins, keeper);
        let members = round.count.clone();
        let stop = self.stop.clone();
        // Tokio's budget is one for all members, so that the first few would leave nothing to the others.
        tokio::spawn(tokio::task::unconstrained(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = poll_fn(|cx| round.poll(cx)) => {}
            }
        }));
        Watch { joining, members, epoll_group }
    }
}

/// What one task does.
struct Round {
    joins: mpsc::UnboundedReceiver<Member>,
    keeper: Option<GroupPoller>,
    members: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Member>>>,
    count: Arc<AtomicUsize>,
    call: Arc<Call>,
    /// What members call.
    waker: Waker,
}

/// A call to the task. While the task is running already the runtime need not be told, which would wake another thread.
#[derive(Debug, Default)]
struct Call {
    called: AtomicBool,
    running: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, SeqCst);
        if !self.running.load(SeqCst) {
            self.task.wake();
        }
    }
}

impl Round {
    fn new(joins: mpsc::UnboundedReceiver<Member>, keeper: Option<GroupPoller>) -> Self {
        let call = Arc::new(Call::default());
        let (members, count) = (FuturesUnordered::new(), Arc::default());
        Self { joins, keeper, members, count, waker: call.clone().into(), call }
    }

    /// Ready when the port is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(member) = self.joins.poll_recv(cx) {
            let Some(member) = member else { return Poll::Ready(()) };
            // What a panic leaves behind is dropped with the member; what others share is behind locks.
            self.members.push(AssertUnwindSafe(member).catch_unwind());
        }
        self.call.task.register(cx.waker());
        self.call.running.store(true, SeqCst);
        if let Some(keeper) = &mut self.keeper {
            keeper.poll(cx);
        }
        for _ in 0..TURNS {
            // Who has called until now is heard now.
            self.call.called.store(false, SeqCst);
            while let Poll::Ready(Some(_)) = self.members.poll_next_unpin(&mut Context::from_waker(&self.waker)) {
                self.count.fetch_sub(1, Relaxed);
            }
            // The set calls, too, when it has run as many as it has, if there are more or not.
            if !self.call.called.load(SeqCst) {
                break;
            }
        }
        self.call.running.store(false, SeqCst);
        if self.call.called.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Lets the other members go on, every few times that it is called.
pub(in crate::endpoint) async fn give_way(times: &mut u8) {
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

    fn sizes(crew: &Crew) -> Vec<usize> {
        lock(&crew.watches).iter().map(|watch| watch.members.load(Relaxed)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn members_run_end_and_panic_alone_and_stop_together() {
        let stop = CancellationToken::new();
        let (crew, go) = (Crew::new(Kind::Players, stop.clone()), Arc::new(Notify::new()));
        let alive = Arc::new(());
        for number in 0..2 * Kind::Players.members() + 10 {
            let (go, held) = (go.clone(), alive.clone());
            crew.take_on(|_| async move {
                let _held = held;
                match number {
                    3 => panic!("a bug"),
                    4 => go.notified().await,
                    _ => std::future::pending().await,
                }
            });
        }
        let wait_for = async |count: usize| {
            while sizes(&crew).iter().sum::<usize>() != count {
                tokio::task::yield_now().await;
            }
        };
        // The one that has panicked is gone, and no other.
        wait_for(2 * Kind::Players.members() + 9).await;
        assert_eq!(sizes(&crew).len(), 2);
        go.notify_one();
        wait_for(2 * Kind::Players.members() + 8).await;
        stop.cancel();
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// Publishers that bring a little, then much, then little again, each of which ends by closing. How often they bring
    /// something is what is tested, with the kernel's clock: whatever time it takes, all of it must come.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn publishers_are_read_together_and_none_is_forgotten() {
        const PUBLISHERS: usize = 60;
        let stop = CancellationToken::new();
        let crew = Crew::new(Kind::Publishers, stop.clone());
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Vec<AtomicUsize>> = Arc::new((0..PUBLISHERS).map(|_| AtomicUsize::new(0)).collect());
        let mut ends = Vec::new();
        for number in 0..PUBLISHERS {
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            ends.push(Stream::accepted(client.unwrap()));
            let (stream, got) = (Stream::accepted(accepted.unwrap().0), got.clone());
            crew.take_on(|epoll_group| async move {
                let mut stream = stream.grouped(&epoll_group.unwrap()).unwrap();
                while let Ok(length @ 1..) = poll_fn(|cx| stream.poll_read(cx, |_| {})).await {
                    got[number].fetch_add(length, Relaxed);
                }
                got[number].fetch_add(1_000_000, Relaxed); // the end
            });
        }
        assert_eq!(sizes(&crew), [PUBLISHERS]);
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
        // Some say a last word.
        for end in ends.iter_mut().step_by(2) {
            write_all(end, &[7; 100]).await.unwrap();
        }
        drop(ends);
        while !sizes(&crew).iter().all(|size| *size == 0) {
            tokio::task::yield_now().await;
        }
        for (number, count) in got.iter().enumerate() {
            assert_eq!(count.load(Relaxed), 1_000_000 + sent + if number % 2 == 0 { 100 } else { 0 });
        }
        stop.cancel();
    }
}
