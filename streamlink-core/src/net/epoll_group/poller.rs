//! Polls the sockets of a group, and decides when.
//!
//! While few arrivals are counted, each of them wakes the task, as with any socket; while many are, the task polls
//! every [`PAUSE`] for all of them. It does not where most peers write a message in two parts and their kernels hold
//! the second back until the first is acknowledged (Nagle's algorithm, RFC 9293 section 3.7.4): each of these is read
//! twice all the same, and the second read is cheaper soon after the first.

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

/// Time between two polls while the group is busy.
const PAUSE: Duration = Duration::from_millis(8);
/// Time over which arrivals are counted to decide whether the group is busy.
const SPAN: Duration = Duration::from_millis(40);
/// Number of arrivals in [`SPAN`] from which on the group is busy: six in a pause.
const BUSY_ARRIVALS_PER_SPAN: usize = 30;
/// Periodic polling is off when at least two thirds of the reads were held back. Waiting saves twice as much on other
/// reads as it costs on these.
const MAX_HELD_BACK_THIRDS: usize = 2;
/// Maximum number of events of one poll.
const AT_ONCE: usize = 256;

/// Polls a group. The task that owns it must be the one that reads the sockets, so that their readiness flags are never
/// out of date.
#[derive(Debug)]
pub(crate) struct GroupPoller {
    poll: mio::Poll,
    events: Events,
    group: Arc<EpollGroup>,
    /// Wakes the task: the group's epoll descriptor, or a timer of period [`PAUSE`] while that is of use.
    wake_source: AsyncFd<OwnedFd>,
    pub(super) is_periodic: bool,
    /// The last poll may not have returned all events.
    has_more: bool,
    /// Arrivals since `since`, and those of which a part was held back.
    count: usize,
    held_back: usize,
    since: Instant,
}

impl GroupPoller {
    /// Creates an empty group. Must be called within the runtime.
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

    /// Polls the sockets if the wake source is ready, reads into their sinks or wakes their readers. Once only: if
    /// there are more events, the task is woken, and polls again after its readers.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        match self.wake_source.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                if self.is_periodic {
                    let _ = timer_fd::read(self.wake_source.get_ref()); // which rearms it
                }
            }
            Poll::Pending if self.has_more => {}
            // Not due yet; or the runtime ends.
            _ => return,
        }
        let found = self.dispatch_events();
        self.count += found;
        self.has_more = found >= AT_ONCE;
        self.update_mode(Instant::now());
        // From here on the wake source wakes the task, unless it is ready again already.
        if self.has_more || matches!(self.wake_source.poll_read_ready(cx), Poll::Ready(Ok(_))) {
            cx.waker().wake_by_ref();
        }
    }

    /// Decides once in [`SPAN`] between polling periodically and at each arrival.
    fn update_mode(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) < SPAN {
            return;
        }
        let is_busy = self.count >= BUSY_ARRIVALS_PER_SPAN && 3 * self.held_back < MAX_HELD_BACK_THIRDS * self.count;
        self.count = 0;
        self.held_back = 0;
        self.since = now;
        if is_busy != self.is_periodic {
            // Without a descriptor for the other, the current source serves both modes.
            if let Ok(wake_source) = if is_busy { periodic_timer() } else { readiness_source(&self.poll) } {
                self.wake_source = wake_source;
                self.is_periodic = is_busy;
            }
        }
    }

    /// Handles the events of one poll; returns their number.
    fn dispatch_events(&mut self) -> usize {
        // Epoll fails only for reasons that do not pass, such as a bad descriptor.
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

/// Registers the group's epoll descriptor, which is readable when the group has events.
#[allow(unsafe_code)]
fn readiness_source(poll: &mio::Poll) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: mio's descriptor is that of the epoll set, and open for as long as `poll` is.
    let set = unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) };
    register(set.try_clone_to_owned()?)
}

/// Registers a timer of period [`PAUSE`].
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
