//! The tasks that the connections of a port share once they have said what they want.
//!
//! Media that comes wakes all players of a flow at once. Were each of them a task, the runtime would be told of every
//! one, and would wake its other threads to take some over, which costs more than what the players do. So they are
//! members of a few tasks, each of which runs those that were woken, one after the other.
//!
//! A member that panics ends alone. None can hold up the others: [`Stream`] gives way after a few reads in a row, and
//! whoever takes much from elsewhere calls [`give_way`].
//!
//! [`Stream`]: crate::net::Stream

use super::lock;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Members of one task before another one is started: what they are sent at once is on its way within a few
/// milliseconds.
const MEMBERS: usize = 128;

type Member = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks of one port.
#[derive(Debug)]
pub(super) struct Crew {
    watches: Mutex<Vec<Watch>>,
    most: usize,
    /// Ends all of them, and their members.
    stop: CancellationToken,
}

/// One of them.
#[derive(Debug)]
struct Watch {
    joining: mpsc::UnboundedSender<Member>,
    members: Arc<AtomicUsize>,
}

impl Crew {
    /// Of as many tasks as the runtime has threads, at most. Must be called within the runtime.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let most = tokio::runtime::Handle::current().metrics().num_workers().max(1);
        Self { watches: Mutex::default(), most, stop }
    }

    /// Runs a connection to its end, or until the port closes.
    pub(super) fn take_on(&self, member: impl Future<Output = ()> + Send + 'static) {
        let mut watches = lock(&self.watches);
        let least = watches.iter().enumerate().map(|(at, watch)| (watch.members.load(Relaxed), at)).min();
        let at = match least {
            Some((members, at)) if members < MEMBERS || watches.len() >= self.most => at,
            _ => {
                watches.push(self.watch());
                watches.len() - 1
            }
        };
        let watch = &watches[at];
        watch.members.fetch_add(1, Relaxed);
        // A task that has ended was stopped, as the member would be.
        let _ = watch.joining.send(Box::pin(member));
    }

    fn watch(&self) -> Watch {
        let (joining, joins) = mpsc::unbounded_channel();
        let members = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (self.stop.clone(), members.clone());
        // Tokio's budget is one for all members, so that the first few would leave nothing to the others.
        tokio::spawn(tokio::task::unconstrained(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run(joins, &count) => {}
            }
        }));
        Watch { joining, members }
    }
}

async fn run(mut joins: mpsc::UnboundedReceiver<Member>, count: &AtomicUsize) {
    let mut members = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            member = joins.recv() => match member {
                // What a panic leaves behind is dropped with the member; what others share is behind locks.
                Some(member) => members.push(AssertUnwindSafe(member).catch_unwind()),
                None => return, // the port is gone
            },
            Some(_) = members.next(), if !members.is_empty() => {
                count.fetch_sub(1, Relaxed);
            }
        }
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
    use super::*;
    use tokio::sync::Notify;

    fn sizes(crew: &Crew) -> Vec<usize> {
        lock(&crew.watches).iter().map(|watch| watch.members.load(Relaxed)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn members_run_end_and_panic_alone_and_stop_together() {
        let stop = CancellationToken::new();
        let (crew, go) = (Crew::new(stop.clone()), Arc::new(Notify::new()));
        let alive = Arc::new(());
        for number in 0..2 * MEMBERS + 10 {
            let (go, held) = (go.clone(), alive.clone());
            crew.take_on(async move {
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
        wait_for(2 * MEMBERS + 9).await;
        assert_eq!(sizes(&crew).len(), 2);
        go.notify_one();
        wait_for(2 * MEMBERS + 8).await;
        stop.cancel();
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
