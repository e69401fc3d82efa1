//! The one who looks at the sockets of a group, and when.
//!
//! While little comes, each arrival wakes the task, as that of any socket would; while much comes, the task looks every
//! [`PAUSE`] for all that has come. Not so where most peers write a little, then more, and their kernels hold the latter
//! back until the former is acknowledged (Nagle's algorithm, RFC 9293 section 3.7.4): each of them is to be read twice all
//! the same, and sooner, which costs less while the socket is warm.

use super::EpollGroup;
use crate::net::{tcp::with_memory, timer_fd};
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
const BUSY_ARRIVALS_PER_SPAN: usize = 30;
/// Most: so many of three. To wait saves twice as much with others as it costs with those that hold back.
const MAX_HELD_BACK_THIRDS: usize = 2;
/// Arrivals that are taken note of at once.
const AT_ONCE: usize = 256;

/// The one who looks. The task that polls it must be the one that reads the sockets: what a socket is known to
/// hold is then never out of date.
#[derive(Debug)]
pub(crate) struct GroupPoller {
    poll: mio::Poll,
    events: Events,
    group: Arc<EpollGroup>,
    /// Tells that something has come; while to wait is of use: a clock that is_periodic every [`PAUSE`].
    wake_source: AsyncFd<OwnedFd>,
    pub(super) is_periodic: bool,
    /// The last look has not seen all that there was.
    has_more: bool,
    /// Arrivals since a time, and those of which part was held back.
    count: usize,
    held_back: usize,
    since: Instant,
}

impl GroupPoller {
    /// An empty group. Must be called within the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let group = Arc::new(EpollGroup { registry: poll.registry().try_clone()?, slots: Mutex::default() });
        Ok(Self {
            wake_source: readiness_source(&poll)?,
            is_periodic: false,
            has_more: false,
            poll,
            events: Events::with_capacity(AT_ONCE),
            group,
            count: 0,
            held_back: 0,
            since: Instant::now(),
        })
    }

    pub(crate) fn group(&self) -> &Arc<EpollGroup> {
        &self.group
    }

    /// Looks, if it is time: what has come is handed on, or those who read the sockets are woken. Once only: if there is
    /// more, the task is woken, and looks again when they have read.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        match self.wake_source.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                if self.is_periodic {
                    let _ = timer_fd::read(self.wake_source.get_ref()); // which lets it go on
                }
            }
            Poll::Pending if self.has_more => {}
            // Not yet; or the runtime ends.
            _ => return,
        }
        let found = self.dispatch_events();
        self.count += found;
        self.has_more = found >= AT_ONCE;
        self.update_mode(Instant::now());
        // From here on the wake_source wakes the task, unless it has rung again already.
        if self.has_more || matches!(self.wake_source.poll_read_ready(cx), Poll::Ready(Ok(_))) {
            cx.waker().wake_by_ref();
        }
    }

    /// Once in a while, by what has come since.
    fn update_mode(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) < SPAN {
            return;
        }
        let is_busy = self.count >= BUSY_ARRIVALS_PER_SPAN && 3 * self.held_back < MAX_HELD_BACK_THIRDS * self.count;
        (self.count, self.held_back, self.since) = (0, 0, now);
        if is_busy != self.is_periodic {
            // Each of them does for both, if the system has no descriptor for the other.
            if let Ok(wake_source) = if is_busy { periodic_timer() } else { readiness_source(&self.poll) } {
                (self.wake_source, self.is_periodic) = (wake_source, is_busy);
            }
        }
    }

    /// Returns how many sockets there were.
    fn dispatch_events(&mut self) -> usize {
        // An error: there is nothing to be seen, now or ever.
        if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_err() {
            return 0;
        }
        let slots = self.group.slots();
        with_memory(|memory| {
            for event in &self.events {
                let Some(Some(slot)) = slots.get(event.token().0) else { continue };
                if event.is_read_closed() || event.is_write_closed() || event.is_error() {
                    slot.closed.store(true, Relaxed);
                }
                self.held_back += usize::from(slot.on_ready(memory));
            }
        });
        self.events.iter().count()
    }
}

/// Rings when there is something to be seen in a set.
#[allow(unsafe_code)]
fn readiness_source(poll: &mio::Poll) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: mio's descriptor is that of the set, and open for as long as `poll` is.
    let set = unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) };
    register(set.try_clone_to_owned()?)
}

/// Rings every [`PAUSE`].
fn periodic_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timer_fd::timer()?;
    timer_fd::set(&timer, PAUSE, PAUSE)?;
    register(timer)
}

#[allow(unsafe_code)]
fn register(wake_source: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(wake_source, tokio::io::Interest::READABLE) }?)
}
