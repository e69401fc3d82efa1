//! Opening of UDP sockets: addresses, multicast, interfaces, buffers.

use super::{
    receive::{Received, Receiver},
    send::Peer,
};
use crate::net::interface;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockRef, Socket, Type};
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    task::{Context, Poll},
};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

/// Maximum length of a datagram read by [`UdpSocket::poll_each`], in bytes.
const SHORT: usize = 2048;
/// Maximum number of datagrams of one [`UdpSocket::poll_each`], before others have a turn.
const AT_ONCE: usize = 32;

/// A multicast group to receive.
#[derive(Clone, Debug)]
pub(crate) struct Multicast {
    /// The only sender to receive from (RFC 4607).
    pub(crate) source: Option<IpAddr>,
    /// The interface, by name or address.
    pub(crate) interface: Option<String>,
}

/// Local end of a socket that connects or sends: address, port and interface, and the treatment of its packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Egress {
    pub(crate) address: Option<IpAddr>,
    /// `None`: one that the system picks.
    pub(crate) port: Option<u16>,
    pub(crate) interface: Option<String>,
    /// Differentiated services code point (RFC 2474) of the packets.
    pub(crate) dscp: Option<u8>,
    /// Congestion control of TCP, as the kernel names it.
    pub(crate) congestion: Option<String>,
}

impl Egress {
    /// Sets the code point of the packets of a socket.
    pub(crate) fn mark(&self, socket: &SockRef<'_>, peer: IpAddr) -> io::Result<()> {
        let Some(dscp) = self.dscp else { return Ok(()) };
        // The two lower bits of the field are those of explicit congestion notification.
        let field = u32::from(dscp) << 2;
        if peer.is_ipv4() {
            return socket.set_tos_v4(field);
        }
        if peer.to_canonical().is_ipv4() {
            // An IPv4 peer of an IPv6 socket: the kernel takes the class from the option of IPv4.
            socket.set_tos_v4(field)?;
        }
        socket.set_tclass_v6(field)
    }

    /// Sets the congestion control of a TCP socket.
    pub(crate) fn set_congestion(&self, socket: &SockRef<'_>) -> io::Result<()> {
        self.congestion.as_ref().map_or(Ok(()), |name| socket.set_tcp_congestion(name.as_bytes()))
    }
}

/// Options of a UDP socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct UdpOptions {
    /// The multicast group at the bound address.
    pub(crate) multicast: Option<Multicast>,
    /// In bytes; the system may grant less.
    pub(crate) receive_buffer: Option<usize>,
    /// In bytes; the system may grant less.
    pub(crate) send_buffer: Option<usize>,
    /// Time to live, or hop limit, of unicast and multicast packets.
    pub(crate) ttl: Option<u8>,
    pub(crate) egress: Egress,
    /// A sending socket that also receives much: runs of datagrams (GRO), with arrival times.
    pub(crate) bidirectional: bool,
    /// Sends only: arrivals are never read, and the system keeps none of them.
    pub(crate) send_only: bool,
}

/// A non-blocking UDP socket of the runtime.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    /// Registration with the runtime, which costs something with every datagram that arrives or leaves. For readability
    /// alone: with writability, each datagram that has left would be reported. Dropped before the socket.
    watch: Option<AsyncFd<Watched>>,
    socket: Socket,
    /// A duplicate of the descriptor while the send buffer is full, to be woken when there is room.
    room: Option<AsyncFd<OwnedFd>>,
    local: SocketAddr,
}

/// The descriptor of a socket while it is registered.
#[derive(Debug)]
struct Watched(RawFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn domain(address: IpAddr) -> Domain {
    match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

impl UdpSocket {
    /// Opens a socket that receives at `address`, or from the group that it names. Must be called within the runtime.
    pub(crate) fn receiving(address: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let socket = open(address.ip(), options)?;
        if address.ip().is_unspecified() && address.is_ipv6() {
            socket.set_only_v6(false)?; // `[::]` receives IPv4, too
        }
        if address.ip().is_multicast() {
            // Several programs may receive one group.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        if let Some(group) = &options.multicast {
            join(&socket, address.ip(), group)?;
        }
        super::receive::enable_extras(&socket);
        Self::register(socket, options)
    }

    /// Opens a socket that sends to `peer`, and receives from it alone. Must be called within the runtime.
    pub(crate) fn sending(peer: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let socket = open(peer.ip(), options)?;
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = options.egress.address.unwrap_or(any);
        let port = options.egress.port.unwrap_or(0);
        if port != 0 && options.send_only {
            socket.set_reuse_address(true)?; // both destinations of an output may leave from one port
        }
        socket.bind(&SocketAddr::new(local, port).into())?;
        options.egress.mark(&SockRef::from(&socket), peer.ip())?;
        if let Some(name) = &options.egress.interface {
            let interface = interface::find(name)?;
            match peer.ip() {
                ip if !ip.is_multicast() => socket.bind_device(Some(interface.name.as_bytes()))?,
                IpAddr::V4(_) => socket.set_multicast_if_v4(&ipv4_of(&interface)?)?,
                IpAddr::V6(_) => socket.set_multicast_if_v6(interface.index)?,
            }
        }
        socket.connect(&peer.into())?;
        if options.bidirectional {
            super::receive::enable_extras(&socket);
        }
        Self::register(socket, options)
    }

    fn register(socket: Socket, options: &UdpOptions) -> io::Result<Self> {
        let local = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        let mut socket = Self { watch: None, socket, room: None, local };
        if !options.send_only {
            socket.watch()?;
        }
        Ok(socket)
    }

    /// Has the runtime report arrivals, those that wait already among them. Must be called within the runtime.
    #[allow(unsafe_code)]
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        if self.watch.is_none() {
            let watched = Watched(self.socket.as_raw_fd());
            // SAFETY: `self.socket` owns the descriptor, is never replaced, and is dropped after the registration.
            self.watch = Some(unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?);
        }
        Ok(())
    }

    /// Ends the reports of arrivals. [`UdpSocket::drain`] reads what there is, and does not wait.
    pub(crate) fn unwatch(&mut self) {
        self.watch = None;
    }

    /// Returns whether arrivals are reported.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Connects the socket to a peer: the route is looked up once, and only this peer is received.
    pub(crate) fn connect(&self, peer: &Peer) -> io::Result<()> {
        self.socket().connect(peer.address())
    }

    fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Ready when the socket may be readable.
    fn poll_ready<'a>(&'a self, cx: &mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'a, Watched>>> {
        match &self.watch {
            Some(watch) => watch.poll_read_ready(cx),
            None => Poll::Pending,
        }
    }

    /// Changes the size of the receive buffer, in bytes; the system may grant less.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) {
        // Only room for bursts: without it, all works.
        let _ = self.socket().set_recv_buffer_size(bytes);
    }

    /// Changes the size of the send buffer, in bytes; the system may grant less.
    pub(crate) fn set_send_buffer(&self, bytes: usize) {
        // Only room for bursts: without it, all works.
        let _ = self.socket().set_send_buffer_size(bytes);
    }

    /// The address that the socket is bound to.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits until the socket may be readable, unless it is not watched, and reads what is there: nothing, if it was read
    /// before the runtime reported it. Stops after `most` datagrams, or a few more.
    pub(crate) async fn drain(
        &self,
        memory: &mut Receiver,
        most: usize,
        mut each: impl FnMut(Received),
    ) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx, memory, most, &mut each)).await
    }

    /// Reads as [`UdpSocket::drain`] does, for a task that polls several sockets.
    pub(crate) fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        memory: &mut Receiver,
        most: usize,
        mut each: impl FnMut(Received),
    ) -> Poll<io::Result<()>> {
        let mut count = 0;
        loop {
            let mut guard = match &self.watch {
                Some(watch) => Some(std::task::ready!(watch.poll_read_ready(cx))?),
                None => None,
            };
            let result = memory.receive(self.as_raw_fd(), |datagram| {
                count += 1;
                each(datagram);
            });
            if let Ok(true) = result {
                if let Some(guard) = &mut guard {
                    guard.retain_ready();
                }
                if count >= most {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // Fewer than there was room for, or none: the socket is empty, and later arrivals are reported.
            if let Some(guard) = &mut guard {
                guard.clear_ready();
            }
            return Poll::Ready(match result {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            });
        }
    }

    /// Reads what has arrived, one datagram at a time, for a socket that receives little: it needs no buffer of its
    /// own. Datagrams longer than [`SHORT`] bytes are truncated. Socket errors (such as those of a peer that does not
    /// listen) are ignored: the peer's silence is noticed instead.
    pub(crate) fn poll_each(&self, cx: &mut Context<'_>, mut each: impl FnMut(&[u8], SocketAddr)) {
        for _ in 0..AT_ONCE {
            let Poll::Ready(Ok(mut guard)) = self.poll_ready(cx) else { return };
            let mut memory = [MaybeUninit::uninit(); SHORT];
            match self.socket().recv_from(&mut memory) {
                Ok((length, sender)) => {
                    guard.retain_ready();
                    // SAFETY: `recv_from` has written so many bytes, and any value is valid for a byte.
                    #[allow(unsafe_code)]
                    let bytes = unsafe { &*(std::ptr::from_ref(&memory[..length.min(SHORT)]) as *const [u8]) };
                    if let Some(sender) = sender.as_socket() {
                        each(bytes, SocketAddr::new(sender.ip().to_canonical(), sender.port()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                // There may be datagrams behind the error.
                Err(_) => guard.retain_ready(),
            }
        }
        cx.waker().wake_by_ref(); // there may be more; others have their turn first
    }

    /// Waits until the socket is readable, without reading.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_ready(cx)).await.map(|mut guard| guard.retain_ready())
    }

    /// Ready when the socket can take more. Writes go straight to the descriptor: they nearly always succeed, and need
    /// not ask the runtime first.
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let fd = self.as_raw_fd();
        while !can_write(fd) {
            if self.room.is_none() {
                self.room = self.watch_room().ok();
            }
            match self.room.as_ref().map(|room| room.poll_write_ready(cx)) {
                // Readiness of before the buffer was full.
                Some(Poll::Ready(Ok(mut guard))) => guard.clear_ready(),
                Some(_) => return Poll::Pending,
                // No descriptor is left: poll again when others had their turn.
                None => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        self.room = None;
        Poll::Ready(())
    }

    /// Registers a duplicate of the descriptor: the runtime registers each descriptor once.
    #[allow(unsafe_code)]
    fn watch_room(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let another = self.socket().as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
        Ok(unsafe { AsyncFd::register_with_interest(another, Interest::WRITABLE) }?)
    }

    /// Returns the descriptor, for writes and socket options.
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn can_write(fd: RawFd) -> bool {
    let mut entry = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer describes one entry, which outlives the call; a timeout of 0 returns at once.
    unsafe { libc::poll(&raw mut entry, 1, 0) != 0 }
}

fn open(ip: IpAddr, options: &UdpOptions) -> io::Result<Socket> {
    let socket = Socket::new(domain(ip), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // The system caps both at net.core.[rw]mem_max; less than asked for is no error.
    let receive_buffer = if options.send_only { Some(0) } else { options.receive_buffer };
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(ttl) = options.ttl {
        match ip {
            IpAddr::V4(_) => {
                socket.set_ttl_v4(ttl.into())?;
                socket.set_multicast_ttl_v4(ttl.into())?;
            }
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(ttl.into())?;
                socket.set_multicast_hops_v6(ttl.into())?;
            }
        }
    }
    Ok(socket)
}

fn ipv4_of(interface: &interface::InterfaceId) -> io::Result<Ipv4Addr> {
    interface.ipv4.ok_or_else(|| {
        io::Error::new(io::ErrorKind::AddrNotAvailable, format!("`{}` has no IPv4 address", interface.name))
    })
}

fn join(socket: &Socket, group: IpAddr, wanted: &Multicast) -> io::Result<()> {
    let interface = wanted.interface.as_deref().map(interface::find).transpose()?;
    match (group, wanted.source) {
        (IpAddr::V4(group), None) => {
            let index = interface.map_or(0, |i| i.index);
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))
        }
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => {
            let address = interface.as_ref().map(ipv4_of).transpose()?.unwrap_or(Ipv4Addr::UNSPECIFIED);
            socket.join_ssm_v4(&source, &group, &address)
        }
        (IpAddr::V6(group), None) => socket.join_multicast_v6(&group, interface.map_or(0, |i| i.index)),
        (IpAddr::V6(_), Some(IpAddr::V6(_))) => {
            join_ssm_v6(socket, group, wanted.source, interface.map_or(0, |i| i.index))
        }
        // Invariant: a valid flow has group and sender of one family.
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the group and its sender are of different families")),
    }
}

/// `MCAST_JOIN_SOURCE_GROUP` (RFC 3678 section 5.1), which socket2 does not have.
#[allow(unsafe_code)]
fn join_ssm_v6(socket: &Socket, group: IpAddr, source: Option<IpAddr>, index: u32) -> io::Result<()> {
    /// `struct group_source_req`.
    #[repr(C)]
    struct GroupSourceReq {
        interface: u32,
        group: libc::sockaddr_storage,
        source: libc::sockaddr_storage,
    }
    const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
    let storage = |ip: IpAddr| {
        // SAFETY: sockaddr_storage is plain data, for which all zeroes is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let address = SockAddr::from(SocketAddr::new(ip, 0));
        // SAFETY: `address` is a valid socket address of `len()` bytes, never more than the storage holds.
        unsafe {
            std::ptr::copy_nonoverlapping(
                address.as_ptr().cast::<u8>(),
                std::ptr::from_mut(&mut storage).cast::<u8>(),
                address.len() as usize,
            );
        }
        storage
    };
    let Some(source) = source else { return Err(io::ErrorKind::InvalidInput.into()) };
    let request = GroupSourceReq { interface: index, group: storage(group), source: storage(source) };
    // SAFETY: the pointer and the length describe `request`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            MCAST_JOIN_SOURCE_GROUP,
            std::ptr::from_ref(&request).cast(),
            size_of::<GroupSourceReq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Uses a Unix socket pair, which holds a bounded number of datagrams: those of UDP leave the loopback at once.
    #[tokio::test]
    async fn udp_poll_writable_waits_and_releases_descriptor() -> io::Result<()> {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut socket = UdpSocket { watch: None, socket: ours, room: None, local };
        for _ in 0..3 {
            poll_fn(|cx| socket.poll_writable(cx)).await;
            while socket.socket().send(&[1]).is_ok() {}
            let full = poll_fn(|cx| Poll::Ready(socket.poll_writable(cx).is_pending())).await;
            assert!(full && socket.room.is_some());
            let reader = theirs.try_clone()?;
            tokio::spawn(async move { while reader.recv(&mut [MaybeUninit::uninit(); 16]).is_ok() {} });
            poll_fn(|cx| socket.poll_writable(cx)).await;
            assert!(socket.room.is_none());
        }
        Ok(())
    }

    /// Datagrams that arrive while a socket is not watched are read without a wait, and reported when it is watched again.
    #[tokio::test]
    async fn udp_unwatched_socket_is_read_and_watched_again() -> io::Result<()> {
        let mut socket = UdpSocket::receiving(SocketAddr::from(([127, 0, 0, 1], 0)), &UdpOptions::default())?;
        let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let mut memory = Receiver::new(1_000_000);
        let mut got = Vec::new();
        for round in 0..3u8 {
            socket.unwatch();
            assert!(!socket.is_watched());
            for wanted in [vec![round], vec![]] {
                got.clear();
                for byte in &wanted {
                    peer.send_to(&[*byte], socket.local_addr())?;
                }
                let drained = socket.drain(&mut memory, 10, |datagram| got.extend_from_slice(&datagram.data));
                tokio::time::timeout(Duration::from_secs(5), drained).await??;
                assert_eq!(got, wanted);
            }
            peer.send_to(&[round, 1], socket.local_addr())?;
            socket.watch()?;
            tokio::time::timeout(Duration::from_secs(5), socket.readable()).await??;
            got.clear();
            socket.drain(&mut memory, 10, |datagram| got.extend_from_slice(&datagram.data)).await?;
            assert_eq!(got, [round, 1]);
        }
        Ok(())
    }

    /// The runtime may report a datagram that was read together with those before it.
    #[tokio::test]
    async fn udp_drain_does_not_wait_for_read_datagrams() {
        let socket = UdpSocket::receiving(SocketAddr::from(([127, 0, 0, 1], 0)), &UdpOptions::default()).unwrap();
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[1], socket.local_addr()).unwrap();
        socket.readable().await.unwrap();
        let mut buffer = [MaybeUninit::uninit(); 16];
        socket.socket().recv(&mut buffer).unwrap();
        let mut memory = Receiver::new(1_000_000);
        let drained = socket.drain(&mut memory, 10, |_| panic!("there is nothing"));
        tokio::time::timeout(Duration::from_secs(5), drained).await.unwrap().unwrap();
    }
}
