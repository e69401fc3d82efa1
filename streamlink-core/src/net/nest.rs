//! Sockets of one task that are read together.
//!
//! The runtime wakes a thread for every socket in which something has come. Where many peers bring a little each, all
//! the time, that costs more than to read it. So a task that has many of them holds them in an epoll set of its own,
//! which lies in the runtime's. While little comes, each arrival wakes the task, as that of any socket would; while
//! much comes, the task looks every [`PAUSE`] for all that has come.
//!
//! Memory: two or three descriptors, and some 100 bytes for each socket.

use mio::{Events, Interest, Registry, Token};
use socket2::SockRef;
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::{
    io::{ReadBuf, unix::AsyncFd},
    net::TcpStream,
};

/// How long what comes may wait for more, while much comes.
const PAUSE: Duration = Duration::from_millis(8);
/// For how long arrivals are counted, to tell whether much comes.
const SPAN: Duration = Duration::from_millis(40);
/// Much: so many in that time, which is six in a pause.
const MUCH: usize = 30;
/// Arrivals that are taken note of at once.
const AT_ONCE: usize = 256;

/// The sockets, as those see it who bring them.
#[derive(Debug)]
pub(crate) struct Nest {
    registry: Registry,
    slots: Mutex<Vec<Option<Arc<Slot>>>>,
}

/// What is known of one socket.
#[derive(Debug, Default)]
struct Slot {
    /// Something may have come, or gone.
    ready: AtomicBool,
    /// The peer has closed: there is always something to read.
    closed: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Slot {
    fn reader(&self) -> MutexGuard<'_, Option<Waker>> {
        // Invariant: nothing panics while the lock is held, but a waker of whoever reads.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader is the same as the last time, nearly always: then nothing is to be done.
    fn register(&self, cx: &Context<'_>) {
        let mut reader = self.reader();
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
    }
}

impl Nest {
    fn slots(&self) -> MutexGuard<'_, Vec<Option<Arc<Slot>>>> {
        // Invariant: nothing panics while the lock is held.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who looks at them. The task that polls it must be the one that reads the sockets: what a socket is known to
/// hold is then never out of date.
#[derive(Debug)]
pub(crate) struct Keeper {
    poll: mio::Poll,
    events: Events,
    nest: Arc<Nest>,
    /// While little comes: tells that something has. While much comes: a clock that strikes every [`PAUSE`].
    bell: AsyncFd<OwnedFd>,
    strikes: bool,
    /// The last look has not seen all that there was.
    is_more: bool,
    /// Arrivals since a time.
    count: usize,
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
            since: Instant::now(),
        })
    }

    pub(crate) fn nest(&self) -> &Arc<Nest> {
        &self.nest
    }

    /// Looks, if it is time, and wakes those who read the sockets in which something has come. Once only: if there is
    /// more, the task is woken, and looks again when they have read.
    pub(crate) fn look(&mut self, cx: &mut Context<'_>) {
        match self.bell.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                if self.strikes {
                    let _ = super::alarm::read(self.bell.get_ref()); // which lets it go on
                }
            }
            Poll::Pending if self.is_more => {}
            // Not yet; or the runtime ends.
            _ => return,
        }
        let found = self.wake_readers();
        self.count += found;
        self.is_more = found >= AT_ONCE;
        self.choose_bell(Instant::now());
        // From here on the bell wakes the task, unless it has rung again already.
        if self.is_more || matches!(self.bell.poll_read_ready(cx), Poll::Ready(Ok(_))) {
            cx.waker().wake_by_ref();
        }
    }

    /// Once in a while.
    fn choose_bell(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) < SPAN {
            return;
        }
        let much = self.count >= MUCH;
        (self.count, self.since) = (0, now);
        if much != self.strikes {
            // Each of them does for both, if the system has no descriptor for the other.
            if let Ok(bell) = if much { clock() } else { announcer(&self.poll) } {
                (self.bell, self.strikes) = (bell, much);
            }
        }
    }

    /// Returns how many sockets there were.
    fn wake_readers(&mut self) -> usize {
        // An error: there is nothing to be seen, now or ever.
        if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_err() {
            return 0;
        }
        let slots = self.nest.slots();
        for event in &self.events {
            let Some(Some(slot)) = slots.get(event.token().0) else { continue };
            if event.is_read_closed() || event.is_write_closed() || event.is_error() {
                slot.closed.store(true, Relaxed);
            }
            slot.ready.store(true, Relaxed);
            slot.reader().iter().for_each(Waker::wake_by_ref);
        }
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
    let timer = super::alarm::timer()?;
    super::alarm::set(&timer, PAUSE, PAUSE)?;
    register(timer)
}

#[allow(unsafe_code)]
fn register(bell: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(bell, tokio::io::Interest::READABLE) }?)
}

/// A socket in a nest.
#[derive(Debug)]
pub(crate) struct Nested {
    socket: mio::net::TcpStream,
    /// It is told of room, too: the kernel had none once. (Who is always told is also told when all was read before.)
    wants_room: bool,
    /// What was read last is to go on.
    wants_more: bool,
    place: usize,
    slot: Arc<Slot>,
    nest: Arc<Nest>,
}

impl Nested {
    /// Takes a socket from the runtime's set into another.
    pub(crate) fn new(socket: TcpStream, nest: &Arc<Nest>) -> io::Result<Self> {
        let mut socket = mio::net::TcpStream::from_std(socket.into_std()?);
        let slot = Arc::new(Slot { ready: AtomicBool::new(true), ..Slot::default() });
        let mut slots = nest.slots();
        let place = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        nest.registry.register(&mut socket, Token(place), Interest::READABLE)?;
        if place == slots.len() {
            slots.push(None);
        }
        slots[place] = Some(slot.clone());
        drop(slots);
        Ok(Self { socket, wants_room: false, wants_more: false, place, slot, nest: nest.clone() })
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
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
    pub(crate) fn ask_for_more(&mut self) {
        self.wants_more = true;
        self.slot.ready.store(true, Relaxed);
    }

    /// Reads what is there, if [`Nested::may_read`] says so; nothing: the peer has closed.
    #[allow(unsafe_code)]
    pub(crate) fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let blocked = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        // SAFETY: nothing in it is made uninitialized: `recv` only writes to it.
        let memory = unsafe { buffer.unfilled_mut() };
        let mut result = self.socket().recv(memory);
        if std::mem::take(&mut self.wants_more) && result.as_ref().is_err_and(blocked) {
            super::tcp::acknowledge(&self.socket());
            result = self.socket().recv(memory);
        }
        let empty = result.as_ref().map_or_else(blocked, |length| *length < room);
        // What comes from here on is news, but of a peer that has closed nothing comes.
        self.slot.ready.store(!empty || self.slot.closed.load(Relaxed), Relaxed);
        match result {
            Ok(length) => {
                // SAFETY: so many bytes were written.
                unsafe { buffer.assume_init(length) };
                buffer.advance(length);
                Poll::Ready(Ok(()))
            }
            Err(error) if blocked(&error) => {
                self.slot.register(cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes what the kernel takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.socket().send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.slot.register(cx);
                if !self.wants_room {
                    // Tells of room that there is by now, too.
                    let both = Interest::READABLE | Interest::WRITABLE;
                    self.nest.registry.reregister(&mut self.socket, Token(self.place), both)?;
                    self.wants_room = true;
                }
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    /// Ends our side.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        // Closing it does the same.
        let _ = self.nest.registry.deregister(&mut self.socket);
        if let Some(place) = self.nest.slots().get_mut(self.place) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::net::{Keeper, Stream, listen};
    use std::{future::poll_fn, io, io::IoSlice, task::Poll};
    use tokio::net::TcpStream;

    /// A connection whose other side is read with others.
    async fn pair(keeper: &Keeper) -> io::Result<(Stream, Stream)> {
        let listener = listen(([127, 0, 0, 1], 0).into())?;
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        Ok((Stream::accepted(peer?), Stream::accepted(accepted?.0).nested(keeper.nest())?))
    }

    async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await
    }

    /// What is read now, if anything.
    async fn read(stream: &mut Stream) -> io::Result<usize> {
        match poll_fn(|cx| Poll::Ready(stream.poll_read(cx, |_| {}))).await {
            Poll::Ready(read) => read,
            Poll::Pending => Ok(0),
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_is_found_before_anyone_looks() -> io::Result<()> {
        let keeper = Keeper::new()?;
        let (mut peer, mut stream) = pair(&keeper).await?;
        write(&mut peer, b"head").await?;
        while read(&mut stream).await? == 0 {
            stream.ask_for_more();
            tokio::task::yield_now().await;
        }
        write(&mut peer, b"body").await?;
        assert_eq!(read(&mut stream).await?, 0, "nobody has looked");
        loop {
            stream.ask_for_more();
            match read(&mut stream).await? {
                0 => tokio::task::yield_now().await,
                length => {
                    assert_eq!(length, 4);
                    return Ok(());
                }
            }
        }
    }

    #[tokio::test]
    async fn who_finds_no_room_is_told_of_it() -> io::Result<()> {
        const BYTES: usize = 32 << 20;
        let mut keeper = Keeper::new()?;
        let (mut peer, mut stream) = pair(&keeper).await?;
        let mut sent = 0;
        let send = poll_fn(|cx| {
            keeper.look(cx);
            while sent < BYTES {
                match stream.poll_write(cx, &[IoSlice::new(&[7; 1 << 16])]) {
                    Poll::Ready(written) => sent += written?,
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(sent))
        });
        // A task of its own, so that what wakes it does not wake the sender.
        let receive = tokio::spawn(async move {
            let mut received = 0;
            while received < BYTES {
                received += poll_fn(|cx| peer.poll_read(cx, |_| {})).await?;
            }
            io::Result::Ok(received)
        });
        let sent: io::Result<usize> = send.await;
        assert!(sent? >= BYTES && receive.await?? >= BYTES);
        Ok(())
    }
}
