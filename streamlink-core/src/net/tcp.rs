//! TCP: listening, calling from a chosen local address, and vectored writes.

use super::{Egress, interface};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Connections that the kernel may hold for us before we take them.
const BACKLOG: i32 = 1024;
/// What is read at once, in bytes. On the stack: a connection that is quiet has no buffer.
const READ: usize = 64 << 10;

/// Opens a listening socket. Must be called within the runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
}

impl Stream {
    /// Takes a connection that was accepted.
    pub(crate) fn accepted(socket: TcpStream) -> Self {
        // Media does not wait for more of it; if the option is refused, it is only later.
        let _ = socket.set_nodelay(true);
        Self { socket }
    }

    /// Calls a peer.
    pub(crate) async fn connect(peer: SocketAddr, egress: &Egress) -> io::Result<Self> {
        let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(address) = egress.address {
            socket.bind(SocketAddr::new(address, 0))?;
        }
        if let Some(name) = &egress.interface {
            let interface = interface::find(name)?;
            SockRef::from(&socket).bind_device(Some(interface.name.as_bytes()))?;
        }
        socket.connect(peer).await.map(Self::accepted)
    }

    /// Bounds what the kernel holds of what a peer has not taken, in bytes.
    pub(crate) fn limit_send_buffer(&self, bytes: usize) {
        // Only a limit on delay: without it, all works.
        let _ = SockRef::from(&self.socket).set_send_buffer_size(bytes);
    }

    /// Reads what is there, and hands it to `take`; 0 bytes: the peer has closed.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
        let mut memory = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut memory);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what the kernel takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    /// Ends our side, after all that was written.
    pub(crate) async fn shut_down(&mut self) {
        // The peer may be gone already.
        let _ = poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await;
    }
}
