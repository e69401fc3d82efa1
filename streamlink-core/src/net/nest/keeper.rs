//! The one who looks at the sockets of a nest, and when.
//!
//! While little comes, each arrival wakes the task, as that of any socket would; while much comes, the task looks every
//! [`PAUSE`] for all that has come. Not so where most peers write a little, then more, and their kernels hold the latter
//! back until the former is acknowledged (Nagle's algorithm, RFC 9293 section 3.7.4): each of them is to be read twice all
//! the same, and sooner, which costs less while the socket is warm.

use super::Nest;
use crate::net::{alarm, tcp::with_memory};
use mio::Events;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::unix::AsyncFd;

/// How long what comes may wait for more, while much comes.
const PAUSE: Duration = Duration::from_millis(8);
/// For how long arrivals are counted, to tell whether much comes.
const SPAN: Duration = Duration::from_millis(40);
/// Much: so many in that time, which is six in a pause.
const MUCH: usize = 30;
/// Most: so many of three. To wait saves twice as much with others as it costs with those that hold back.
const MOST: usize = 2;
/// Arrivals that are taken note of at once.
const AT_ONCE: usize = 256;

/// The one who looks. The task that polls it must be the one that reads the sockets: what a socket is known to
/// hold is then never out of date.
#[derive(Debug)]
pub(crate) struct Keeper {
    poll: mio::Poll,
    events: Events,
    nest: Arc<Nest>,
    /// Tells that something has come; while to wait is of use: a clock that strikes every [`PAUSE`].
    bell: AsyncFd<OwnedFd>,
    pub(super) strikes: bool,
    /// The last look has not seen all that there was.
    is_more: bool,
    /// Arrivals since a time, and those of which part was held back.
    count: usize,
    held_back: usize,
    since: Instant,
}

impl Keeper {
    /// An empty nest. Must be called within the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let nest = Arc::new(Nest { registry: poll.registry().try_clone()?, slots: Mutex::default() });
        Ok(Self {
            bell: announcer(&poll)?,
            strikes: false,
            is_more: false,
            poll,
            events: Events::with_capacity(AT_ONCE),
            nest,
            count: 0,
            held_back: 0,
            since: Instant::now(),
        })
    }

    pub(crate) fn nest(&self) -> &Arc<Nest> {
        &self.nest
    }

    /// Looks, if it is time: what has come is handed on, or those who read the sockets are woken. Once only: if there is
    /// more, the task is woken, and looks again when they have read.
    pub(crate) fn look(&mut self, cx: &mut Context<'_>) {
        match self.bell.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                if self.strikes {
                    let _ = alarm::read(self.bell.get_ref()); // which lets it go on
                }
            }
            Poll::Pending if self.is_more => {}
            // Not yet; or the runtime ends.
            _ => return,
        }
        let found = self.look_at_sockets();
        self.count += found;
        self.is_more = found >= AT_ONCE;
        self.choose_bell(Instant::now());
        // From here on the bell wakes the task, unless it has rung again already.
        if self.is_more || matches!(self.bell.poll_read_ready(cx), Poll::Ready(Ok(_))) {
            cx.waker().wake_by_ref();
        }
    }

    /// Once in a while, by what has come since.
    fn choose_bell(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) < SPAN {
            return;
        }
        let much = self.count >= MUCH && 3 * self.held_back < MOST * self.count;
        (self.count, self.held_back, self.since) = (0, 0, now);
        if much != self.strikes {
            // Each of them does for both, if the system has no descriptor for the other.
            if let Ok(bell) = if much { clock() } else { announcer(&self.poll) } {
                (self.bell, self.strikes) = (bell, much);
            }
        }
    }

    /// Returns how many sockets there were.
    fn look_at_sockets(&mut self) -> usize {
        // An error: there is nothing to be seen, now or ever.
        if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_err() {
            return 0;
        }
        with_memory(|memory| {
            for event in &self.events {
                // Not held while it is looked at: what the host's code waits for is to run between two sockets.
                let slot = self.nest.slots().get(event.token().0).cloned().flatten();
                let Some(slot) = slot else { continue };
                if event.is_read_closed() || event.is_write_closed() || event.is_error() {
                    slot.closed.store(true, Relaxed);
                }
                self.held_back += usize::from(slot.look(memory));
            }
        });
        self.events.iter().count()
    }
}

/// Rings when there is something to be seen in a set.
#[allow(unsafe_code)]
fn announcer(poll: &mio::Poll) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: mio's descriptor is that of the set, and open for as long as `poll` is.
    let set = unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) };
    register(set.try_clone_to_owned()?)
}

/// Rings every [`PAUSE`].
fn clock() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = alarm::timer()?;
    alarm::set(&timer, PAUSE, PAUSE)?;
    register(timer)
}

#[allow(unsafe_code)]
fn register(bell: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(bell, tokio::io::Interest::READABLE) }?)
}
