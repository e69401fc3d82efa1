//! An epoll set of its own for the sockets of one task, so that they can be read together.
//!
//! Problem: the runtime wakes a thread for every socket that becomes readable. With many peers that each send a little,
//! all the time, this costs more than reading. So a task with many sockets registers them in an epoll set of its own,
//! which is itself registered with the runtime, and polls it from time to time ([`GroupPoller`]).
//!
//! What has arrived is read at once and passed to a [`ReadSink`], if the socket's owner has attached one: to wake and
//! poll the owner's future first, whose memory is not in the cache, would cost as much again.
//!
//! Memory: two or three descriptors, and some 100 bytes for each socket.
//!
//! To turn it off: do not call [`Stream::grouped`](super::Stream::grouped); all else works the same on single sockets.

mod poller;

pub(crate) use poller::GroupPoller;

use super::{
    ReadAction, ReadOutcome, ReadSink,
    tcp::{READS, acknowledge},
};
use crate::lock::{Guard, lock};
use mio::{Interest, Registry, Token, unix::SourceFd};
use socket2::SockRef;
use std::{
    fmt,
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    net::Shutdown,
    os::fd::AsRawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};
use tokio::{io::ReadBuf, net::TcpStream};

/// The sockets of one epoll set, for their owners.
#[derive(Debug)]
pub(crate) struct EpollGroup {
    registry: Registry,
    slots: Mutex<Vec<Option<Arc<GroupedSocket>>>>,
}

/// One socket.
#[derive(Debug)]
struct GroupedSocket {
    socket: std::net::TcpStream,
    /// The socket may have become readable, writable or closed.
    ready: AtomicBool,
    /// The peer has closed, so that the socket stays readable.
    closed: AtomicBool,
    /// The last read ended within a message.
    wants_more: AtomicBool,
    reader: Mutex<ReadState>,
}

/// The reader of a socket. Invariant: nothing panics while its lock is held, but a waker.
#[derive(Default)]
struct ReadState {
    /// Takes the bytes that are read, until it asks to notify the owner.
    sink: Option<Arc<Mutex<dyn ReadSink>>>,
    /// Woken with the outcome of the sink, or when the socket is ready.
    waker: Option<Waker>,
    outcome: Option<io::Result<ReadOutcome>>,
}

impl fmt::Debug for ReadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadState").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl ReadState {
    /// Registers a waker, which is nearly always the one already there.
    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl GroupedSocket {
    fn register(&self, cx: &Context<'_>) {
        lock(&self.reader).register(cx);
    }

    /// Requests the rest of a message: the next read acknowledges what came before, if nothing more has arrived.
    fn request_more(&self) {
        self.wants_more.store(true, Relaxed);
        self.ready.store(true, Relaxed);
    }

    /// Reads from the socket; returns 0 when the peer has closed.
    #[allow(unsafe_code)]
    fn read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = buffer.remaining();
        let socket = SockRef::from(&self.socket);
        // SAFETY: no byte of it is made uninitialized: `recv` only writes to it.
        let memory = unsafe { buffer.unfilled_mut() };
        let mut result = socket.recv(memory);
        if self.wants_more.load(Relaxed) {
            self.wants_more.store(false, Relaxed);
            if result.as_ref().is_err_and(is_blocked) {
                acknowledge(&socket);
                result = socket.recv(memory);
            }
        }
        let empty = result.as_ref().map_or_else(is_blocked, |length| *length < room);
        // Later arrivals are reported by epoll, but none is when the peer has closed.
        self.ready.store(!empty || self.closed.load(Relaxed), Relaxed);
        let length = result?;
        // SAFETY: `recv` has written `length` bytes.
        unsafe { buffer.assume_init(length) };
        buffer.advance(length);
        Ok(length)
    }

    /// Handles readiness: reads into the sink, or wakes the reader. Returns whether the peer held back a part of a
    /// message until it was acknowledged.
    fn on_ready(&self, memory: &mut [MaybeUninit<u8>]) -> bool {
        self.ready.store(true, Relaxed);
        let mut reader = lock(&self.reader);
        let mut held_back = false;
        if let Some(sink) = &reader.sink {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.read_into_sink(sink, memory, &mut held_back)));
            match outcome.unwrap_or_else(|_| Some(Err(io::Error::other("internal error: the reader panicked")))) {
                None => return held_back,
                outcome => {
                    reader.sink = None;
                    reader.outcome = outcome;
                }
            }
        }
        if let Some(waker) = &reader.waker {
            waker.wake_by_ref();
        }
        held_back
    }

    /// Reads into the sink until the socket is empty; `None` when more may follow. Sets `held_back` if the socket was
    /// empty after a request for more, and then was not.
    fn read_into_sink(
        &self,
        sink: &Mutex<dyn ReadSink>,
        memory: &mut [MaybeUninit<u8>],
        held_back: &mut bool,
    ) -> Option<io::Result<ReadOutcome>> {
        let mut sink = lock(sink);
        let mut is_asked = false;
        for _ in 0..READS {
            let mut buffer = ReadBuf::uninit(memory);
            match self.read(&mut buffer) {
                Ok(0) => return Some(Ok(ReadOutcome::Closed)),
                Ok(_) => *held_back |= mem::take(&mut is_asked),
                Err(error) if is_blocked(&error) => return None,
                Err(error) => return Some(Err(error)),
            }
            match sink.on_read(buffer.filled()) {
                ReadAction::Continue => {}
                ReadAction::RequestMore => {
                    is_asked = !self.ready.load(Relaxed);
                    self.request_more();
                }
                ReadAction::Notify => return Some(Ok(ReadOutcome::Notified)),
            }
            if !self.ready.load(Relaxed) {
                return None;
            }
        }
        Some(Ok(ReadOutcome::Notified)) // others have a turn first
    }
}

impl EpollGroup {
    /// Invariant: nothing panics while the lock is held.
    fn slots(&self) -> Guard<'_, Vec<Option<Arc<GroupedSocket>>>> {
        lock(&self.slots)
    }
}

/// A socket of a group.
#[derive(Debug)]
pub(crate) struct GroupedStream {
    /// Registered for writability, too, as the kernel's buffer was full once. (A socket always registered for both is
    /// also reported when only its peer has read.)
    wants_room: bool,
    place: usize,
    slot: Arc<GroupedSocket>,
    group: Arc<EpollGroup>,
}

impl GroupedStream {
    /// Moves a socket from the runtime's epoll set to the group's.
    pub(crate) fn new(socket: TcpStream, group: &Arc<EpollGroup>) -> io::Result<Self> {
        let slot = Arc::new(GroupedSocket {
            socket: socket.into_std()?,
            ready: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            wants_more: AtomicBool::new(false),
            reader: Mutex::default(),
        });
        let mut slots = group.slots();
        let place = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        group.registry.register(&mut SourceFd(&slot.socket.as_raw_fd()), Token(place), Interest::READABLE)?;
        if place == slots.len() {
            slots.push(None);
        }
        slots[place] = Some(slot.clone());
        drop(slots);
        Ok(Self { wants_room: false, place, slot, group: group.clone() })
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.slot.socket)
    }

    /// Returns whether the socket may be readable; if not, the reader is woken when it is.
    pub(crate) fn may_read(&self, cx: &Context<'_>) -> bool {
        let ready = self.slot.ready.load(Relaxed);
        if !ready {
            self.slot.register(cx);
        }
        ready
    }

    /// Requests the rest of a message: the next read acknowledges what came before, if nothing more has arrived.
    pub(crate) fn request_more(&self) {
        self.slot.request_more();
    }

    /// Passes the bytes that arrive from here on to `sink`, if all before them were read.
    pub(crate) fn attach_sink(&self, sink: Arc<Mutex<dyn ReadSink>>) {
        if !self.slot.ready.load(Relaxed) {
            lock(&self.slot.reader).sink = Some(sink);
        }
    }

    /// Returns the outcome of the sink; `None` when no sink is attached.
    pub(crate) fn poll_sink(&self, cx: &Context<'_>) -> Option<Poll<io::Result<ReadOutcome>>> {
        let mut reader = lock(&self.slot.reader);
        if let Some(outcome) = reader.outcome.take() {
            return Some(Poll::Ready(outcome));
        }
        reader.register(cx);
        reader.sink.is_some().then_some(Poll::Pending)
    }

    pub(crate) fn detach_sink(&self) {
        let mut reader = lock(&self.slot.reader);
        reader.sink = None;
        reader.outcome = None;
    }

    /// Reads from the socket, if [`GroupedStream::may_read`] allows it; 0 bytes mean that the peer has closed.
    pub(crate) fn read(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.slot.read(buffer) {
            Err(error) if is_blocked(&error) => {
                self.slot.register(cx);
                Poll::Pending
            }
            result => Poll::Ready(result.map(|_| ())),
        }
    }

    /// Writes as much as the kernel takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.socket().send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
            Err(error) if is_blocked(&error) => {
                self.slot.register(cx);
                if !self.wants_room {
                    // Registering again also reports room that there is by now.
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let fd = self.slot.socket.as_raw_fd();
                    self.group.registry.reregister(&mut SourceFd(&fd), Token(self.place), both)?;
                    self.wants_room = true;
                }
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    /// Shuts down our side.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.slot.socket.shutdown(Shutdown::Write)
    }
}

impl Drop for GroupedStream {
    fn drop(&mut self) {
        // A failure is harmless: closing the socket deregisters it.
        let _ = self.group.registry.deregister(&mut SourceFd(&self.slot.socket.as_raw_fd()));
        if let Some(place) = self.group.slots().get_mut(self.place) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests;
