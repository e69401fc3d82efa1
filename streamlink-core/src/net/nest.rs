//! Sockets of one task that are read together.
//!
//! The runtime wakes a thread for every socket in which something has come. Where many peers bring a little each, all
//! the time, that costs more than to read it. So a task that has many of them holds them in an epoll set of its own,
//! which lies in the runtime's. While little comes, each arrival wakes the task, as that of any socket would; while
//! much comes, the task looks every [`PAUSE`] for all that has come. Not so where most peers write a little, then more,
//! and their kernels hold the latter back until the former is acknowledged (Nagle's algorithm, RFC 9293 section 3.7.4):
//! each of them is to be read twice all the same, and sooner, which costs less while the socket is warm.
//!
//! What comes is read then and there, if whoever brought the socket has left somebody who takes it ([`Take`]): to find
//! its task first, cold as that is, would cost as much again.
//!
//! Memory: two or three descriptors, and some 100 bytes for each socket.

use super::{
    Fed, Next, Take,
    tcp::{READS, acknowledge, with_memory},
};
use crate::lock::lock;
use mio::{Events, Interest, Registry, Token, unix::SourceFd};
use socket2::SockRef;
use std::{
    fmt,
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    net::Shutdown,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard,
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
/// Most: so many of three. To wait saves twice as much with others as it costs with them.
const HELD_BACK: usize = 2;
/// Arrivals that are taken note of at once.
const AT_ONCE: usize = 256;

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
    fn slots(&self) -> MutexGuard<'_, Vec<Option<Arc<Slot>>>> {
        lock(&self.slots)
    }
}

/// The one who looks at them. The task that polls it must be the one that reads the sockets: what a socket is known to
/// hold is then never out of date.
#[derive(Debug)]
pub(crate) struct Keeper {
    poll: mio::Poll,
    events: Events,
    nest: Arc<Nest>,
    /// Tells that something has come; while to wait is of use: a clock that strikes every [`PAUSE`].
    bell: AsyncFd<OwnedFd>,
    strikes: bool,
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
                    let _ = super::alarm::read(self.bell.get_ref()); // which lets it go on
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
        let much = self.count >= MUCH && 3 * self.held_back < HELD_BACK * self.count;
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
        let slots = self.nest.slots();
        with_memory(|memory| {
            for event in &self.events {
                let Some(Some(slot)) = slots.get(event.token().0) else { continue };
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
mod tests {
    use crate::{
        lock::lock,
        net::{Fed, Keeper, Next, Stream, Take, listen},
    };
    use std::{
        future::poll_fn,
        io::{self, IoSlice},
        sync::{Arc, Mutex},
        task::Poll,
    };
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

    /// Keeps what it is given, knows that more follows a `:`, and has something to tell of each `!`; a `?` it does not
    /// survive.
    #[derive(Default)]
    struct Ear(Vec<u8>);

    impl Take for Ear {
        fn take(&mut self, bytes: &[u8]) -> Next {
            assert!(!bytes.contains(&b'?'), "a bug");
            self.0.extend_from_slice(bytes);
            match bytes.last() {
                Some(b':') => Next::Ask,
                _ if bytes.contains(&b'!') => Next::Tell,
                _ => Next::GoOn,
            }
        }
    }

    /// Looks, once, and asks what has come of it.
    async fn look(keeper: &mut Keeper, stream: &mut Stream, ear: &Arc<Mutex<Ear>>) -> Poll<io::Result<Fed>> {
        tokio::task::yield_now().await;
        poll_fn(|cx| {
            keeper.look(cx);
            Poll::Ready(stream.poll_feed(cx, ear))
        })
        .await
    }

    #[tokio::test]
    async fn what_comes_is_handed_on_until_there_is_something_to_tell() -> io::Result<()> {
        let mut keeper = Keeper::new()?;
        let (mut peer, mut stream) = pair(&keeper).await?;
        let ear = Arc::new(Mutex::new(Ear::default()));
        let mut sent = Vec::new();
        for (words, told) in [("some", false), ("thing", false), ("!", true), ("and on", false), ("!", true)] {
            assert!(look(&mut keeper, &mut stream, &ear).await.is_pending());
            write(&mut peer, words.as_bytes()).await?;
            sent.extend_from_slice(words.as_bytes());
            let fed = loop {
                let fed = look(&mut keeper, &mut stream, &ear).await;
                if lock(&ear).0 == sent {
                    break fed;
                }
                assert!(fed.is_pending());
            };
            assert_eq!(matches!(fed, Poll::Ready(Ok(Fed::Told))), told, "{fed:?}");
        }
        assert!(look(&mut keeper, &mut stream, &ear).await.is_pending());
        stream.end_feed();
        write(&mut peer, b"later").await?;
        peer.shut_down().await;
        // It is not lost, and read when it is asked for.
        while !matches!(look(&mut keeper, &mut stream, &ear).await, Poll::Ready(Ok(Fed::Closed))) {}
        sent.extend_from_slice(b"later");
        assert_eq!(lock(&ear).0, sent);
        Ok(())
    }

    #[tokio::test]
    async fn much_is_handed_on_in_turns_and_a_panic_is_that_of_one() -> io::Result<()> {
        const BYTES: usize = 8 << 20;
        let mut keeper = Keeper::new()?;
        let (mut loud, mut heard) = pair(&keeper).await?;
        let (mut bad, mut deaf) = pair(&keeper).await?;
        let ears: [Arc<Mutex<Ear>>; 2] = Default::default();
        assert!(look(&mut keeper, &mut heard, &ears[0]).await.is_pending());
        assert!(look(&mut keeper, &mut deaf, &ears[1]).await.is_pending());
        write(&mut bad, b"?").await?;
        tokio::spawn(async move {
            let mut sent = 0;
            while sent < BYTES {
                sent += write(&mut loud, &vec![7; BYTES - sent]).await?;
            }
            loud.shut_down().await;
            io::Result::Ok(())
        });
        while !matches!(look(&mut keeper, &mut heard, &ears[0]).await, Poll::Ready(Ok(Fed::Closed))) {}
        assert_eq!(lock(&ears[0]).0, vec![7; BYTES]);
        while !matches!(look(&mut keeper, &mut deaf, &ears[1]).await, Poll::Ready(Err(_))) {}
        Ok(())
    }

    #[tokio::test]
    async fn peers_that_hold_back_are_not_made_to_wait() -> io::Result<()> {
        for parts in [&["head:body"][..], &["head:", "body"]] {
            let mut keeper = Keeper::new()?;
            let listener = listen(([127, 0, 0, 1], 0).into())?;
            // It has Nagle's algorithm, as any has that is not told otherwise.
            let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
            let (peer, mut stream) = (peer?, Stream::accepted(accepted?.0).nested(keeper.nest())?);
            let ear = Arc::new(Mutex::new(Ear::default()));
            let (mut rounds, mut waits) = (0_usize, false);
            // The others are made to wait sooner or later.
            while if parts.len() == 1 { !waits } else { rounds < 3000 } {
                for part in parts {
                    assert_eq!(peer.try_write(part.as_bytes())?, part.len());
                }
                rounds += 1;
                while lock(&ear).0.len() < 9 * rounds {
                    assert!(look(&mut keeper, &mut stream, &ear).await.is_pending());
                    waits |= keeper.strikes;
                }
            }
            assert_eq!(waits, parts.len() == 1);
        }
        Ok(())
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
