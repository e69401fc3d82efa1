//! Sockets of one task that are read together.
//!
//! The runtime wakes a thread for every socket in which something has come. Where many peers bring a little each, all
//! the time, that costs more than to read it. So a task that has many of them holds them in an epoll set of its own,
//! which lies in the runtime's, and looks at all of them now and then ([`Keeper`]).
//!
//! What comes is read then and there, if whoever brought the socket has left somebody who takes it ([`Take`]): to find
//! its task first, cold as that is, would cost as much again.
//!
//! Memory: two or three descriptors, and some 100 bytes for each socket.

mod keeper;

pub(crate) use keeper::Keeper;

use super::{
    Fed, Next, Take,
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

/// The sockets, as those see it who bring them.
#[derive(Debug)]
pub(crate) struct Nest {
    registry: Registry,
    slots: Mutex<Vec<Option<Arc<Slot>>>>,
}

/// One socket. In this order: it is found cold, and what every read touches lies together.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot {
    socket: std::net::TcpStream,
    /// Something may have come, or gone.
    ready: AtomicBool,
    /// The peer has closed: there is always something to read.
    closed: AtomicBool,
    /// What was read last is to go on.
    wants_more: AtomicBool,
    reader: Mutex<Reader>,
}

/// Who reads a socket. Invariant: nothing panics while its lock is held, but a waker.
#[derive(Default)]
#[repr(C)]
struct Reader {
    /// Takes what comes, until there is something to tell.
    taker: Option<Arc<Mutex<dyn Take>>>,
    /// Is told what comes of that, or else that something has come.
    waker: Option<Waker>,
    fed: Option<io::Result<Fed>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("fed", &self.fed).finish_non_exhaustive()
    }
}

impl Reader {
    /// It is the same as the last time, nearly always: then nothing is to be done.
    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl Slot {
    fn register(&self, cx: &Context<'_>) {
        lock(&self.reader).register(cx);
    }

    /// There may be more in it already than was read; if not, the peer is asked for it.
    fn ask_for_more(&self) {
        self.wants_more.store(true, Relaxed);
        self.ready.store(true, Relaxed);
    }

    /// Reads what is there; nothing: the peer has closed.
    #[allow(unsafe_code)]
    fn read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let (room, socket) = (buffer.remaining(), SockRef::from(&self.socket));
        // SAFETY: nothing in it is made uninitialized: `recv` only writes to it.
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
        // What comes from here on is news, but of a peer that has closed nothing comes.
        self.ready.store(!empty || self.closed.load(Relaxed), Relaxed);
        let length = result?;
        // SAFETY: so many bytes were written.
        unsafe { buffer.assume_init(length) };
        buffer.advance(length);
        Ok(length)
    }

    /// Something may have come: it is handed on, or the reader is told. Returns whether part of it was held back.
    fn look(&self, memory: &mut [MaybeUninit<u8>]) -> bool {
        self.ready.store(true, Relaxed);
        let (mut reader, mut held_back) = (lock(&self.reader), false);
        if let Some(taker) = &reader.taker {
            let fed = catch_unwind(AssertUnwindSafe(|| self.hand_on(taker, memory, &mut held_back)));
            match fed.unwrap_or_else(|_| Some(Err(io::Error::other("it panicked")))) {
                None => return held_back,
                fed => (reader.taker, reader.fed) = (None, fed),
            }
        }
        reader.waker.iter().for_each(Waker::wake_by_ref);
        held_back
    }

    /// Hands on what has come; `None`: all of it, and more may come. Part of it was held back if there was nothing left
    /// to read, and then there was.
    fn hand_on(
        &self,
        taker: &Mutex<dyn Take>,
        memory: &mut [MaybeUninit<u8>],
        held_back: &mut bool,
    ) -> Option<io::Result<Fed>> {
        let (mut taker, mut is_asked) = (lock(taker), false);
        for _ in 0..READS {
            let mut buffer = ReadBuf::uninit(memory);
            match self.read(&mut buffer) {
                Ok(0) => return Some(Ok(Fed::Closed)),
                Ok(_) => *held_back |= mem::take(&mut is_asked),
                Err(error) if is_blocked(&error) => return None,
                Err(error) => return Some(Err(error)),
            }
            match taker.take(buffer.filled()) {
                Next::GoOn => {}
                Next::Ask => {
                    is_asked = !self.ready.load(Relaxed);
                    self.ask_for_more();
                }
                Next::Tell => return Some(Ok(Fed::Told)),
            }
            if !self.ready.load(Relaxed) {
                return None;
            }
        }
        Some(Ok(Fed::Told)) // others have a turn first
    }
}

impl Nest {
    /// Invariant: nothing panics while the lock is held.
    fn slots(&self) -> Guard<'_, Vec<Option<Arc<Slot>>>> {
        lock(&self.slots)
    }
}

/// A socket in a nest.
#[derive(Debug)]
pub(crate) struct Nested {
    /// It is told of room, too: the kernel had none once. (Who is always told is also told when all was read before.)
    wants_room: bool,
    place: usize,
    slot: Arc<Slot>,
    nest: Arc<Nest>,
}

impl Nested {
    /// Takes a socket from the runtime's set into another.
    pub(crate) fn new(socket: TcpStream, nest: &Arc<Nest>) -> io::Result<Self> {
        let slot = Arc::new(Slot {
            socket: socket.into_std()?,
            ready: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            wants_more: AtomicBool::new(false),
            reader: Mutex::default(),
        });
        let mut slots = nest.slots();
        let place = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        nest.registry.register(&mut SourceFd(&slot.socket.as_raw_fd()), Token(place), Interest::READABLE)?;
        if place == slots.len() {
            slots.push(None);
        }
        slots[place] = Some(slot.clone());
        drop(slots);
        Ok(Self { wants_room: false, place, slot, nest: nest.clone() })
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.slot.socket)
    }

    /// Whether something may have come; the reader is told otherwise when it does.
    pub(crate) fn may_read(&self, cx: &Context<'_>) -> bool {
        let ready = self.slot.ready.load(Relaxed);
        if !ready {
            self.slot.register(cx);
        }
        ready
    }

    /// There may be more in it already than was read; if not, the peer is asked for it.
    pub(crate) fn ask_for_more(&self) {
        self.slot.ask_for_more();
    }

    /// Has what comes from here on handed on, if all that has come was read.
    pub(crate) fn feed(&self, taker: Arc<Mutex<dyn Take>>) {
        if !self.slot.ready.load(Relaxed) {
            lock(&self.slot.reader).taker = Some(taker);
        }
    }

    /// What has come of that; `None`: nothing is handed on.
    pub(crate) fn poll_fed(&self, cx: &Context<'_>) -> Option<Poll<io::Result<Fed>>> {
        let mut reader = lock(&self.slot.reader);
        if let Some(fed) = reader.fed.take() {
            return Some(Poll::Ready(fed));
        }
        reader.register(cx);
        reader.taker.is_some().then_some(Poll::Pending)
    }

    pub(crate) fn end_feed(&self) {
        let mut reader = lock(&self.slot.reader);
        (reader.taker, reader.fed) = (None, None);
    }

    /// Reads what is there, if [`Nested::may_read`] says so; nothing: the peer has closed.
    pub(crate) fn read(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.slot.read(buffer) {
            Err(error) if is_blocked(&error) => {
                self.slot.register(cx);
                Poll::Pending
            }
            result => Poll::Ready(result.map(|_| ())),
        }
    }

    /// Writes what the kernel takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.socket().send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
            Err(error) if is_blocked(&error) => {
                self.slot.register(cx);
                if !self.wants_room {
                    // Tells of room that there is by now, too.
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let fd = self.slot.socket.as_raw_fd();
                    self.nest.registry.reregister(&mut SourceFd(&fd), Token(self.place), both)?;
                    self.wants_room = true;
                }
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    /// Ends our side.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.slot.socket.shutdown(Shutdown::Write)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        // Closing it does the same.
        let _ = self.nest.registry.deregister(&mut SourceFd(&self.slot.socket.as_raw_fd()));
        if let Some(place) = self.nest.slots().get_mut(self.place) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests;
