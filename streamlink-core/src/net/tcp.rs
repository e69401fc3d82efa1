//! TCP, with TLS or without: listening, connecting from a chosen local address, and vectored writes.

use super::{
    Egress, ReadAction, ReadOutcome, ReadSink, TlsClient, TlsServer,
    epoll_group::{EpollGroup, GroupedStream},
    interface,
};
use crate::lock::lock;
use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Maximum number of connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 1024;
/// Time until the next address of a peer is tried while the one before has not answered (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Maximum number of bytes of one read.
const READ: usize = 64 << 10;

thread_local! {
    /// The read buffer of a thread, shared by all its connections, so that idle ones have none. (A buffer of this size
    /// on the stack would have its pages touched at each read.)
    static BUFFER: Cell<Option<Box<[MaybeUninit<u8>]>>> = const { Cell::new(None) };
}

/// Acknowledges the bytes read from a connection, unless the kernel has done so.
pub(super) fn acknowledge(socket: &SockRef<'_>) {
    // On failure, the rest of the message arrives later, not never.
    let _ = socket.set_tcp_quickack(true);
}

/// Lends the read buffer of this thread.
pub(super) fn with_memory<R>(read: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    let mut memory = BUFFER.take().unwrap_or_else(|| Box::new_uninit_slice(READ));
    let result = read(&mut memory);
    BUFFER.set(Some(memory));
    result
}

/// Opens a listening socket. Must be called within the runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Maximum number of reads in a row before other connections have a turn.
pub(super) const READS: u8 = 16;

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Stream {
    kind: SocketKind,
    /// Number of reads in a row.
    reads: u8,
}

#[derive(Debug)]
enum SocketKind {
    Plain(TcpStream),
    Grouped(GroupedStream),
    Secured(Box<dyn Secured>),
}

impl From<SocketKind> for Stream {
    fn from(kind: SocketKind) -> Self {
        Self { kind, reads: 0 }
    }
}

/// A connection within TLS.
pub(crate) trait Secured: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {
    /// The socket that carries it.
    fn socket(&self) -> &TcpStream;
}

impl Stream {
    /// Takes an accepted connection.
    pub(crate) fn accepted(socket: TcpStream) -> Self {
        // Media must not wait for more of it (Nagle's algorithm); if the option is refused, it is only later.
        let _ = socket.set_nodelay(true);
        SocketKind::Plain(socket).into()
    }

    /// Takes a connection within TLS.
    #[cfg(test)]
    pub(crate) fn secured(connection: Box<dyn Secured>) -> Self {
        SocketKind::Secured(connection).into()
    }

    /// Performs the TLS handshake with a caller, if the listener has TLS.
    pub(crate) async fn secure_accepted(self, tls: Option<&TlsServer>) -> io::Result<Self> {
        match (self.kind, tls) {
            (SocketKind::Plain(socket), Some(tls)) => Ok(SocketKind::Secured(tls.accept(socket).await?).into()),
            (kind, _) => Ok(kind.into()),
        }
    }

    /// Performs the TLS handshake with a listener whose certificate must be valid for `host`, if the caller has TLS.
    pub(crate) async fn secure_connected(self, host: &str, tls: Option<&TlsClient>) -> io::Result<Self> {
        match (self.kind, tls) {
            (SocketKind::Plain(socket), Some(tls)) => Ok(SocketKind::Secured(tls.connect(host, socket).await?).into()),
            (kind, _) => Ok(kind.into()),
        }
    }

    /// Moves the connection to a group, which must be that of its task. One with TLS stays as it is.
    pub(crate) fn grouped(self, group: &Arc<EpollGroup>) -> io::Result<Self> {
        match self.kind {
            SocketKind::Plain(socket) => Ok(SocketKind::Grouped(GroupedStream::new(socket, group)?).into()),
            kind => Ok(kind.into()),
        }
    }

    /// Returns our address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        match &self.kind {
            SocketKind::Plain(socket) => SockRef::from(socket),
            SocketKind::Grouped(grouped) => grouped.socket(),
            SocketKind::Secured(secured) => SockRef::from(secured.socket()),
        }
    }

    /// Connects to the first of several addresses that answers (RFC 8305 section 5): each attempt starts 250 ms after the
    /// one before, or as soon as that has failed.
    ///
    /// # Errors
    /// When none has answered by the deadline: each address that was tried, with its error.
    pub(crate) async fn connect_first(
        peers: &[SocketAddr],
        egress: &Egress,
        deadline: Instant,
    ) -> Result<(Self, SocketAddr), Vec<(SocketAddr, io::Error)>> {
        let mut waiting = peers.iter().copied();
        let mut attempts = FuturesUnordered::new();
        let mut pending: Vec<SocketAddr> = Vec::new();
        let mut failures = Vec::new();
        let mut deadline = pin!(tokio::time::sleep_until(deadline.into()));
        let mut next_start = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            // Each turn of the loop is due to start an attempt.
            if let Some(peer) = waiting.next() {
                pending.push(peer);
                attempts.push(async move { (peer, Self::connect(peer, egress).await) });
                next_start.as_mut().reset(tokio::time::Instant::now() + STAGGER);
            }
            if attempts.is_empty() {
                return Err(failures);
            }
            tokio::select! {
                biased;
                Some((peer, result)) = attempts.next() => match result {
                    Ok(stream) => return Ok((stream, peer)),
                    Err(error) => {
                        pending.retain(|address| *address != peer);
                        failures.push((peer, error));
                    }
                },
                () = &mut deadline => {
                    let unanswered = |peer| (peer, io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                    failures.extend(pending.into_iter().map(unanswered));
                    return Err(failures);
                }
                () = &mut next_start, if waiting.len() > 0 => {}
            }
        }
    }

    /// Connects to a peer.
    pub(crate) async fn connect(peer: SocketAddr, egress: &Egress) -> io::Result<Self> {
        let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if egress.address.is_some() || egress.port.is_some() {
            let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            // Another connection may follow while the last one of the same port still lingers.
            socket.set_reuseaddr(egress.port.is_some())?;
            socket.bind(SocketAddr::new(egress.address.unwrap_or(any), egress.port.unwrap_or(0)))?;
        }
        egress.mark(&SockRef::from(&socket), peer.ip())?;
        egress.set_congestion(&SockRef::from(&socket))?;
        if let Some(name) = &egress.interface {
            let interface = interface::find(name)?;
            SockRef::from(&socket).bind_device(Some(interface.name.as_bytes()))?;
        }
        socket.connect(peer).await.map(Self::accepted)
    }

    /// Applies code point and congestion control to an accepted connection.
    pub(crate) fn apply(&self, egress: &Egress, peer: IpAddr) -> io::Result<()> {
        egress.mark(&self.socket(), peer)?;
        egress.set_congestion(&self.socket())
    }

    /// Limits the kernel's send buffer, in bytes.
    pub(crate) fn limit_send_buffer(&self, bytes: usize) {
        // A failure only costs delay.
        let _ = self.socket().set_send_buffer_size(bytes);
    }

    /// Reads the bytes that have arrived, and passes them to `take`; 0 bytes mean that the peer has closed. After [`READS`] reads in
    /// a row it is pending once and wakes the task, so that others have a turn.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
        if self.reads == READS {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let SocketKind::Grouped(grouped) = &self.kind
            && !grouped.may_read(cx)
        {
            self.reads = 0;
            return Poll::Pending;
        }
        with_memory(|memory| {
            let mut buffer = ReadBuf::uninit(memory);
            let result = match &mut self.kind {
                SocketKind::Plain(socket) => Pin::new(socket).poll_read(cx, &mut buffer),
                SocketKind::Grouped(grouped) => grouped.read(cx, &mut buffer),
                SocketKind::Secured(secured) => Pin::new(secured).poll_read(cx, &mut buffer),
            };
            self.reads = if result.is_ready() { self.reads + 1 } else { 0 };
            result.map_ok(|()| {
                take(buffer.filled());
                buffer.filled().len()
            })
        })
    }

    /// Reads into a sink until the sink asks to notify, or the peer closes. For a connection in a group, the group's
    /// poller reads while this is pending; [`Stream::detach_sink`] ends that.
    pub(crate) fn poll_read_to_sink<T: ReadSink + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &Arc<Mutex<T>>,
    ) -> Poll<io::Result<ReadOutcome>> {
        if let SocketKind::Grouped(grouped) = &self.kind
            && let Some(outcome) = grouped.poll_sink(cx)
        {
            return outcome;
        }
        loop {
            let mut next = ReadAction::Continue;
            let read = self.poll_read(cx, |bytes| {
                if !bytes.is_empty() {
                    next = lock(sink).on_read(bytes);
                }
            });
            if read.is_pending()
                && let SocketKind::Grouped(grouped) = &self.kind
            {
                grouped.attach_sink(sink.clone());
            }
            match (ready!(read)?, next) {
                (0, _) => return Poll::Ready(Ok(ReadOutcome::Closed)),
                (_, ReadAction::Continue) => {}
                (_, ReadAction::RequestMore) => self.request_more(),
                (_, ReadAction::Notify) => return Poll::Ready(Ok(ReadOutcome::Notified)),
            }
        }
    }

    /// Detaches the sink: nothing is passed to it any more.
    pub(crate) fn detach_sink(&self) {
        if let SocketKind::Grouped(grouped) = &self.kind {
            grouped.detach_sink();
        }
    }

    /// Requests the rest of a message that the last read ended in. A peer with Nagle's algorithm holds the rest back
    /// until the first part is acknowledged (ffmpeg writes a header, then what follows it), and the kernel delays the
    /// acknowledgement by some 40 ms. From a peer nearby the rest has arrived when this returns.
    pub(crate) fn request_more(&mut self) {
        match &mut self.kind {
            SocketKind::Grouped(grouped) => grouped.request_more(),
            SocketKind::Plain(_) | SocketKind::Secured(_) => acknowledge(&self.socket()),
        }
    }

    /// Writes as much as the kernel takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            SocketKind::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            SocketKind::Grouped(grouped) => grouped.poll_write(cx, slices),
            SocketKind::Secured(secured) => Pin::new(secured).poll_write_vectored(cx, slices),
        }
    }

    /// Flushes the bytes that TLS holds back. Ready at once without TLS.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            SocketKind::Plain(_) | SocketKind::Grouped(_) => Poll::Ready(Ok(())),
            SocketKind::Secured(secured) => Pin::new(secured).poll_flush(cx),
        }
    }

    /// Shuts down our side, after all that was written.
    pub(crate) async fn shut_down(&mut self) {
        // Fails if the peer is gone.
        let _ = poll_fn(|cx| match &mut self.kind {
            SocketKind::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            SocketKind::Grouped(grouped) => Poll::Ready(grouped.shut_down()),
            SocketKind::Secured(secured) => Pin::new(secured).poll_shutdown(cx),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// Address at which a connection is neither accepted nor refused, with the sockets that keep it so.
    fn unresponsive() -> (SocketAddr, Vec<Socket>) {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut kept = vec![listener];
        // The queue of connections to be accepted is full: the kernel drops further requests.
        for _ in 0..4 {
            let caller = socket();
            caller.set_nonblocking(true).unwrap();
            let _ = caller.connect(&address); // in progress
            kept.push(caller);
        }
        (address.as_socket().unwrap(), kept)
    }

    /// Address at which nobody listens.
    fn closed() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn tcp_connects_to_the_first_address_that_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let (silent, _kept) = unresponsive();
        for addresses in [[closed(), good], [silent, good], [good, silent]] {
            let (_, peer) = Stream::connect_first(&addresses, &Egress::default(), soon()).await.unwrap();
            assert_eq!(peer, good, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn tcp_error_names_all_addresses_that_were_tried() {
        let (silent, _kept) = unresponsive();
        let closed = closed();
        let deadline = Instant::now() + Duration::from_millis(700);
        let failures = Stream::connect_first(&[silent, closed], &Egress::default(), deadline).await.unwrap_err();
        let kinds: Vec<_> = failures.iter().map(|(address, error)| (*address, error.kind())).collect();
        assert_eq!(kinds, [(closed, io::ErrorKind::ConnectionRefused), (silent, io::ErrorKind::TimedOut)]);
    }
}
