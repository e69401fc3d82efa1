//! Reception of datagrams in batches. One `recvmmsg` fills each lane with up to one datagram, or with one run of
//! datagrams that the kernel has merged (GRO). The bytes are split without copying, except as described below.
//!
//! A lane is a block of memory that holds consecutive datagrams. A used-up lane is put aside, and reused when the last
//! packet in it is dropped. A steady stream therefore allocates nothing. Lanes that were put aside are freed when the
//! stream ends.
//!
//! A packet keeps its whole lane alive, however short the packet is. Packets that wait for their playout time, for
//! missing packets or in the host's code could each keep a lane, if unrelated datagrams lie between them. The number
//! of lanes of a receiver is therefore bounded, to at most 20 MiB including lanes that packets keep alive. When all
//! lanes are in use, datagrams are copied to memory of their own until a lane is free again. A packet then costs its
//! own length and about 100 bytes. Traffic that is passed on promptly never reaches this limit.

use crate::lock;
use bytes::{Bytes, BytesMut};
use socket2::Socket;
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Maximum number of bytes of one received message: the 64 KiB of a GRO run.
const MAX_RUN: usize = 65_536;
/// Size of a lane, in bytes.
const LANE: usize = 2 * MAX_RUN;
/// Maximum number of lanes in use by one receiver, and of messages per `recvmmsg`.
const MAX_LANES: usize = 16;
/// Maximum number of used-up lanes per lane in use. With 16 lanes in use, these hold 8 to 16 MiB, which is at least
/// 120 ms at 560 Mb/s.
const RESTING_PER_LANE: usize = 8;
/// Number of used-up lanes that a search for a free one examines in addition to the oldest.
const PROBES: usize = 3;
/// Position among the used-up lanes at which a free lane is surplus and is given back.
const SURPLUS: usize = 4;
/// Size of the buffer for three control messages: GRO size, time stamp and overflow counter.
const CONTROL: usize = 128;

/// A received datagram.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) data: Bytes,
    pub(crate) peer: SocketAddr,
    /// Time at which the kernel received the datagram.
    pub(crate) arrival: Instant,
}

/// Memory into which a socket receives. With n lanes in use, its size is at most n × ([`RESTING_PER_LANE`] + 2) ×
/// [`LANE`] bytes, including lanes that packets keep alive.
#[derive(Debug)]
pub(crate) struct Receiver {
    lanes: Vec<Lane>,
    resting: Resting,
    /// Kernel's counter of datagrams dropped because the socket buffer was full.
    overflows: u32,
    overflows_seen: u64,
}

/// A lane in use.
#[derive(Debug)]
struct Lane {
    memory: BytesMut,
    /// Datagrams are copied out of this lane, because too many others are kept alive.
    copies: bool,
}

/// Used-up lanes, oldest first.
#[derive(Debug)]
struct Resting {
    lanes: VecDeque<BytesMut>,
    most: usize,
    /// Position of the last examined lane other than the oldest.
    probe: usize,
}

impl Receiver {
    /// Allocates memory for a stream of this many bytes per second.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let resting = Resting { lanes: VecDeque::new(), most: 0, probe: 0 };
        let mut receiver = Self { lanes: Vec::new(), resting, overflows: 0, overflows_seen: 0 };
        receiver.set_rate(bytes_per_second);
        receiver
    }

    /// Resizes the memory for a stream of this many bytes per second.
    pub(crate) fn set_rate(&mut self, bytes_per_second: u64) {
        let lanes = match bytes_per_second {
            0..6_000_000 => 4,
            6_000_000..25_000_000 => 8,
            _ => MAX_LANES,
        };
        self.lanes.resize_with(lanes, || Lane { memory: BytesMut::with_capacity(LANE), copies: false });
        self.resting.most = lanes * RESTING_PER_LANE;
    }

    /// Returns the number of datagrams dropped since the last call because the socket buffer was full.
    pub(crate) fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows_seen)
    }

    /// Frees the used-up lanes after the end of a stream. Lanes that packets keep alive remain and still count.
    pub(crate) fn release_idle(&mut self) {
        self.resting.lanes.retain_mut(|lane| !lane.try_reclaim(LANE));
    }

    /// Calls `recvmmsg` once and passes every datagram to `each`, in order. Returns whether there may be more to read.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, and any other error of the socket.
    #[allow(unsafe_code)]
    pub(crate) fn receive(&mut self, fd: RawFd, mut each: impl FnMut(Received)) -> io::Result<bool> {
        for lane in &mut self.lanes {
            lane.refill(&mut self.resting);
        }
        let lanes = self.lanes.len();
        // SAFETY: these are plain data, for which all zeroes is a value.
        let mut names: [libc::sockaddr_storage; MAX_LANES] = unsafe { std::mem::zeroed() };
        let mut controls = [Control([0; CONTROL]); MAX_LANES];
        let mut vectors: [libc::iovec; MAX_LANES] = unsafe { std::mem::zeroed() };
        let mut messages: [libc::mmsghdr; MAX_LANES] = unsafe { std::mem::zeroed() };
        for i in 0..lanes {
            let spare = self.lanes[i].memory.spare_capacity_mut();
            vectors[i].iov_base = spare.as_mut_ptr().cast();
            vectors[i].iov_len = spare.len().min(MAX_RUN);
            let header = &mut messages[i].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every header points to memory of its own that outlives the call, with its true length; the
        // lanes' spare memory is not touched by anyone else, as they are borrowed mutably.
        let count = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), lanes as libc::c_uint, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?.min(lanes);
        let clock = Clock::now();
        for i in 0..count {
            let length = messages[i].msg_len as usize;
            // SAFETY: the kernel has written `length` bytes, at most iov_len, to the start of the spare memory.
            unsafe { self.lanes[i].memory.set_len(length.min(vectors[i].iov_len)) };
            let notes = read_control(&messages[i].msg_hdr);
            if let Some(total) = notes.overflows {
                self.overflows_seen += u64::from(total.wrapping_sub(self.overflows));
                self.overflows = total;
            }
            let Some(peer) = peer_address(&names[i]) else {
                self.lanes[i].memory.clear();
                continue;
            };
            let arrival = clock.at(notes.stamp);
            let truncated = messages[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            self.lanes[i].split(notes.segment, truncated, |data| each(Received { data, peer, arrival }));
        }
        Ok(count == lanes)
    }
}

impl Lane {
    /// Passes on the received bytes in pieces of `segment` bytes. An empty datagram is one piece of zero bytes.
    fn split(&mut self, segment: Option<usize>, truncated: bool, mut each: impl FnMut(Bytes)) {
        if truncated {
            self.memory.clear(); // longer than any UDP datagram, so the content is not reliable
            return;
        }
        let segment = segment.filter(|s| *s > 0).unwrap_or(usize::MAX);
        if self.copies {
            if self.memory.is_empty() {
                each(Bytes::new());
            }
            for piece in self.memory.chunks(segment) {
                each(Bytes::copy_from_slice(piece));
            }
            self.memory.clear();
            return;
        }
        loop {
            let length = segment.min(self.memory.len());
            each(self.memory.split_to(length).freeze());
            if self.memory.is_empty() {
                return;
            }
        }
    }

    /// Ensures room for the longest run, with a free lane, a new one, or by copying.
    fn refill(&mut self, resting: &mut Resting) {
        if self.copies {
            // No packet refers to this lane, so copying can end as soon as another lane may be put aside.
            self.copies = !resting.has_room();
            return;
        }
        if self.memory.capacity() - self.memory.len() >= MAX_RUN || self.memory.try_reclaim(LANE) {
            return;
        }
        let free = resting.take_free();
        self.copies = free.is_none() && resting.lanes.len() >= resting.most;
        let used = std::mem::replace(&mut self.memory, free.unwrap_or_else(|| BytesMut::with_capacity(LANE)));
        resting.lanes.push_back(used);
    }
}

impl Resting {
    /// Returns a used-up lane that no packet keeps alive, if one is found.
    fn take_free(&mut self) -> Option<BytesMut> {
        let at = self.find_free()?;
        let free = self.lanes.remove(at);
        // Frees one more lane, so that the memory needed for a burst is given back gradually.
        if self.lanes.get_mut(SURPLUS - 1).is_some_and(|lane| lane.try_reclaim(LANE)) {
            self.lanes.remove(SURPLUS - 1);
        }
        free
    }

    /// Returns whether another lane may be put aside. At the maximum, first frees an unused lane if one is found.
    fn has_room(&mut self) -> bool {
        if self.lanes.len() >= self.most
            && let Some(at) = self.find_free()
        {
            self.lanes.remove(at);
        }
        self.lanes.len() < self.most
    }

    /// Returns the position of a free lane, nearly always the oldest. If a packet keeps the oldest alive, examines up
    /// to [`PROBES`] others per call.
    fn find_free(&mut self) -> Option<usize> {
        let is_free = |lane: Option<&mut BytesMut>| lane.is_some_and(|lane| lane.try_reclaim(LANE));
        if is_free(self.lanes.front_mut()) {
            return Some(0);
        }
        for _ in 0..PROBES.min(self.lanes.len()) {
            self.probe = (self.probe + 1) % self.lanes.len();
            if is_free(self.lanes.get_mut(self.probe)) {
                return Some(self.probe);
            }
        }
        None
    }
}

/// Buffer for control messages, aligned as `cmsghdr` requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

#[derive(Default)]
struct Notes {
    segment: Option<usize>,
    stamp: Option<Duration>,
    overflows: Option<u32>,
}

#[allow(unsafe_code)]
fn read_control(header: &libc::msghdr) -> Notes {
    let mut notes = Notes::default();
    // SAFETY: the kernel has filled the control buffer of `header` and set its length; the macros stay within it,
    // and `read_unaligned` does not rely on the alignment of the data.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(m) = message.as_ref() {
            let data = libc::CMSG_DATA(m);
            match (m.cmsg_level, m.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    notes.segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    let seconds = u64::try_from(time.tv_sec);
                    let nanos = u32::try_from(time.tv_nsec);
                    notes.stamp = seconds.ok().zip(nanos.ok()).map(|(s, n)| Duration::new(s, n.min(999_999_999)));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    notes.overflows = Some(data.cast::<u32>().read_unaligned());
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, m);
        }
    }
    notes
}

#[allow(unsafe_code)]
fn peer_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage, which is large enough for every family, holds this one.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as for IPv4.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Converts the kernel's wall-clock time stamps to the monotonic clock.
struct Clock {
    instant: Instant,
    wall: Option<Duration>,
}

impl Clock {
    fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now().duration_since(UNIX_EPOCH).ok() }
    }

    /// Converts a time stamp. A stamp from the future, or older than ten seconds, means that the wall clock was set. It
    /// is replaced by the current time, as is a missing one.
    fn at(&self, stamp: Option<Duration>) -> Instant {
        let age = self.wall.zip(stamp).and_then(|(wall, stamp)| wall.checked_sub(stamp));
        let age = age.filter(|age| *age < Duration::from_secs(10)).unwrap_or_default();
        self.instant.checked_sub(age).unwrap_or(self.instant)
    }
}

/// Enables GRO, time stamps and the overflow counter. All three are optional. Without them, datagrams arrive one by
/// one, are stamped when they are read, and overflows are not counted.
#[allow(unsafe_code)]
pub(super) fn enable_extras(socket: &Socket) {
    let on: libc::c_int = 1;
    for (level, option) in [
        (libc::SOL_UDP, libc::UDP_GRO),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    ] {
        // SAFETY: the pointer and the length describe `on`, which outlives the call.
        let result = unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&on).cast(), length)
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            // Ports are opened under a lock, so the message is logged after it is released.
            lock::log_unlocked(move || log::debug!("socket option {level}/{option}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
