//! Sending in batches: runs of equal-sized datagrams leave in one call (GSO), with headers and payloads gathered from
//! where they are.
//!
//! Where the kernel refuses a run, the same datagrams are sent one by one, so that none is lost. So are the next runs
//! for a while, as GSO may be possible on a later route.

use super::socket::UdpSocket;
use socket2::SockAddr;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
};

/// Maximum number of segments of one run (`UDP_MAX_SEGMENTS` of kernels since 4.18).
const MAX_SEGMENTS: usize = 64;
/// Number of datagrams of a run up to which a call has room for no more: clearing the rest would take longer than filling it.
const SMALL_RUN: usize = 4;
/// Maximum number of bytes of one run: the largest UDP payload over IPv4, less room for IP options.
const MAX_BYTES: usize = 65_000;
/// Number of runs sent without GSO after the kernel has refused one; doubles up to the second number.
const SKIP: (u32, u32) = (16, 4096);

/// One datagram, gathered from two slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    /// The first slice; may be empty.
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Datagram<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The address of a peer in the kernel's format.
#[derive(Clone, Debug)]
pub(crate) struct Peer(SockAddr);

impl Peer {
    /// Converts `peer`, as a socket with the local address `local` reaches it.
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        match (peer.ip(), local) {
            (IpAddr::V4(v4), SocketAddr::V6(_)) => {
                Self(SocketAddr::new(v4.to_ipv6_mapped().into(), peer.port()).into())
            }
            _ => Self(peer.into()),
        }
    }

    pub(super) fn address(&self) -> &SockAddr {
        &self.0
    }
}

/// The result of sending a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Number of datagrams sent or refused. The rest is to be offered again when the socket is writable.
    pub(crate) done: usize,
    /// Number of these that the system refused for good: too long, no route, not permitted.
    pub(crate) refused: usize,
    /// The socket's buffer is full.
    pub(crate) blocked: bool,
}

/// Sends to one peer, and remembers whether the kernel accepts GSO for it.
#[derive(Debug)]
pub(crate) struct Sender {
    supported: bool,
    /// Number of runs still to be sent without GSO.
    skip: u32,
    penalty: u32,
    marking: Option<Marking>,
}

/// Traffic class of datagrams, for a socket that other senders share.
#[derive(Clone, Copy, Debug)]
struct Marking {
    level: libc::c_int,
    kind: libc::c_int,
    class: libc::c_int,
}

impl Sender {
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        Self { supported: supports_gso(socket.as_raw_fd()), skip: 0, penalty: SKIP.0, marking: None }
    }

    /// Sets the differentiated services code point (RFC 2474) of what is sent to a peer; `None` leaves that of the
    /// socket.
    pub(crate) fn mark(&mut self, dscp: Option<u8>, peer: IpAddr) {
        let (level, kind) = if peer.to_canonical().is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        self.marking = dscp.map(|dscp| Marking { level, kind, class: libc::c_int::from(dscp) << 2 });
    }

    /// A sender that never uses GSO.
    #[cfg(test)]
    fn plain() -> Self {
        Self { supported: false, skip: 0, penalty: SKIP.0, marking: None }
    }

    /// Sends as much as the socket takes.
    pub(crate) fn send(&mut self, socket: &UdpSocket, datagrams: &[Datagram<'_>]) -> Sent {
        self.send_to(socket, None, datagrams)
    }

    /// Sends to a peer on a socket that is not connected.
    pub(crate) fn send_to(&mut self, socket: &UdpSocket, to: Option<&Peer>, datagrams: &[Datagram<'_>]) -> Sent {
        let mut sent = Sent::default();
        while let Some(rest) = datagrams.get(sent.done..).filter(|rest| !rest.is_empty()) {
            let run = run_length(rest);
            if run > 1 && self.may_use_gso() {
                match self.transmit(socket, to, &rest[..run], Some(rest[0].len())) {
                    Ok(()) => {
                        self.penalty = SKIP.0;
                        sent.done += run;
                        continue;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        sent.blocked = true;
                        return sent;
                    }
                    Err(e) => {
                        log::debug!("a run of {run} datagrams was refused, sending them one by one: {e}");
                        self.skip = self.penalty;
                        self.penalty = (self.penalty * 2).min(SKIP.1);
                    }
                }
            }
            for datagram in &rest[..run] {
                match self.transmit(socket, to, std::slice::from_ref(datagram), None) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        sent.blocked = true;
                        return sent;
                    }
                    Err(_) => sent.refused += 1,
                }
                sent.done += 1;
            }
        }
        sent
    }

    fn may_use_gso(&mut self) -> bool {
        let may = self.supported && self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        may
    }

    /// Calls `sendmsg` once. A pending error of an earlier datagram (from a peer that does not listen) is cleared, and
    /// the call repeated.
    fn transmit(
        &self,
        socket: &UdpSocket,
        to: Option<&Peer>,
        run: &[Datagram<'_>],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..3 {
            result = if run.len() <= SMALL_RUN {
                send_message::<{ 2 * SMALL_RUN }>(socket.as_raw_fd(), to, run, segment, self.marking)
            } else {
                send_message::<{ 2 * MAX_SEGMENTS }>(socket.as_raw_fd(), to, run, segment, self.marking)
            };
            match &result {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNREFUSED | libc::EINTR)) => {}
                _ => break,
            }
        }
        result
    }
}

/// Number of datagrams that can leave in one call: all as long as the first, and a shorter last one.
fn run_length(datagrams: &[Datagram<'_>]) -> usize {
    let size = datagrams[0].len();
    if size == 0 {
        return 1;
    }
    let limit = (MAX_BYTES / size).clamp(1, MAX_SEGMENTS);
    let mut run = 1;
    for datagram in datagrams.iter().take(limit).skip(1) {
        let length = datagram.len();
        if length > size || length == 0 {
            break;
        }
        run += 1;
        if length < size {
            break;
        }
    }
    run
}

/// Calls `sendmsg` with at most `PARTS` slices, two for each datagram.
#[allow(unsafe_code)]
fn send_message<const PARTS: usize>(
    fd: RawFd,
    to: Option<&Peer>,
    run: &[Datagram<'_>],
    segment: Option<usize>,
    marking: Option<Marking>,
) -> io::Result<()> {
    /// Room for one control message with a `u16`, and one with a `c_int`.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut vectors = [empty; PARTS];
    let mut count = 0usize;
    for datagram in run.iter().take(PARTS / 2) {
        for part in [datagram.head, datagram.body] {
            // Slices that are adjacent in memory become one.
            if let Some(last) = count.checked_sub(1).and_then(|last| vectors.get_mut(last))
                && last.iov_base.cast_const().wrapping_byte_add(last.iov_len) == part.as_ptr().cast()
            {
                last.iov_len += part.len();
            } else if !part.is_empty() {
                vectors[count] = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
                count += 1;
            }
        }
    }
    let mut control = Control([0; 64]);
    // SAFETY: msghdr is plain data, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = count;
    if let Some(Peer(address)) = to {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
    }
    let segment = segment.and_then(|s| u16::try_from(s).ok());
    if segment.is_some() || marking.is_some() {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let mut length = 0;
        // SAFETY: the buffer has room for CMSG_SPACE(2) + CMSG_SPACE(4) = 48 bytes, is zeroed and aligned for a cmsghdr,
        // and its length is set before the macros look at it.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            if let Some(segment) = segment {
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = libc::UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
                length += libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
            if let Some(Marking { level, kind, class }) = marking {
                (*header).cmsg_level = level;
                (*header).cmsg_type = kind;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as usize;
                libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(class);
                length += libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) as usize;
            }
        }
        message.msg_controllen = length;
    }
    // SAFETY: the header points to an address, vectors and control data that outlive the call; the vectors point to
    // borrowed slices; the kernel only reads all of them.
    let result = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)]
fn supports_gso(fd: RawFd) -> bool {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value` and `length`, which outlive the call.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, std::ptr::from_mut(&mut value).cast(), &raw mut length)
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::super::{receive::Receiver, socket::UdpOptions};
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let options = UdpOptions { receive_buffer: Some(4 << 20), ..UdpOptions::default() };
        let receiver = UdpSocket::receiving("127.0.0.1:0".parse::<SocketAddr>().unwrap(), &options).unwrap();
        let sender = UdpSocket::sending(receiver.local_addr(), &options).unwrap();
        (sender, receiver)
    }

    async fn receive_all(socket: &UdpSocket, wanted: usize) -> Vec<Vec<u8>> {
        let mut receiver = Receiver::new(1_000_000);
        let mut got = Vec::new();
        while got.len() < wanted {
            socket.drain(&mut receiver, usize::MAX, |r| got.push(r.data.to_vec())).await.unwrap();
        }
        got
    }

    /// Datagrams of mixed lengths: runs, a short end, an empty one, longer ones.
    fn mixture() -> Vec<Vec<u8>> {
        let lengths = [1328usize, 1328, 1328, 700, 1328, 0, 1328, 1328, 40, 40, 40, 1400, 1400, 20_000, 20_000, 20_000];
        let many = std::iter::repeat_n(1328, 150);
        lengths.into_iter().chain(many).enumerate().map(|(i, n)| vec![i as u8; n]).collect()
    }

    #[tokio::test]
    async fn udp_batch_arrives_in_order_with_and_without_gso() {
        for plain in [false, true] {
            let (socket, peer) = pair();
            let mut sender = if plain { Sender::plain() } else { Sender::new(&socket) };
            let wanted = mixture();
            for chunk in wanted.chunks(50) {
                let split: Vec<Datagram<'_>> = chunk
                    .iter()
                    .map(|d| {
                        let (head, body) = d.split_at(d.len().min(12));
                        Datagram { head, body }
                    })
                    .collect();
                let sent = sender.send(&socket, &split);
                assert_eq!(sent, Sent { done: split.len(), refused: 0, blocked: false });
                assert_eq!(receive_all(&peer, chunk.len()).await, chunk);
            }
        }
    }

    #[tokio::test]
    async fn udp_oversized_datagram_is_refused_alone() {
        let (socket, peer) = pair();
        let mut sender = Sender::new(&socket);
        let long = vec![1u8; 70_000];
        let good = vec![2u8; 1000];
        let d = |body| Datagram { head: &[], body };
        let sent = sender.send(&socket, &[d(&good), d(&good), d(&long), d(&good)]);
        assert_eq!(sent, Sent { done: 4, refused: 1, blocked: false });
        assert_eq!(receive_all(&peer, 3).await.len(), 3);
        sender.skip = 1;
        assert!(!sender.may_use_gso());
        assert_eq!(sender.may_use_gso(), sender.supported);
    }

    /// A socket without UDP checksums cannot segment: the kernel refuses the run, which then leaves one by one.
    #[tokio::test]
    #[allow(unsafe_code)]
    async fn udp_refused_gso_run_is_sent_one_by_one() {
        let (socket, peer) = pair();
        let mut sender = Sender::new(&socket);
        if !sender.supported {
            return;
        }
        let no_check = |value: libc::c_int| {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the pointer and the length describe `value`.
            let result = unsafe {
                let pointer = std::ptr::from_ref(&value).cast();
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, pointer, length)
            };
            assert_eq!(result, 0);
        };
        let body = vec![7u8; 1000];
        let run = [Datagram { head: &[], body: &body }; 4];
        no_check(1);
        assert!(sender.transmit(&socket, None, &run, Some(1000)).is_err());
        assert_eq!(sender.send(&socket, &run), Sent { done: 4, refused: 0, blocked: false });
        assert_eq!(receive_all(&peer, 4).await.len(), 4);
        assert_eq!((sender.skip, sender.penalty), (SKIP.0, 2 * SKIP.0));
        no_check(0);
        for _ in 0..=SKIP.0 {
            assert_eq!(sender.send(&socket, &run).done, 4);
            assert_eq!(receive_all(&peer, 4).await.len(), 4);
        }
        assert_eq!((sender.skip, sender.penalty), (0, SKIP.0), "GSO is back in use");
    }

    #[tokio::test]
    async fn udp_unreachable_peer_loses_no_later_datagram() {
        let (socket, peer) = pair();
        drop(peer);
        let mut sender = Sender::new(&socket);
        for _ in 0..10 {
            let sent = sender.send(&socket, &[Datagram { head: &[], body: b"hello" }; 3]);
            assert_eq!((sent.done, sent.blocked), (3, false));
        }
    }
}
