//! Receiving in batches: one `recvmmsg` takes up to a datagram a lane, each possibly a run that the kernel has
//! put together (GRO). The bytes are split, never copied.
//!
//! A lane is a piece of memory in which datagrams lie one behind the other. When it is used up it is put aside,
//! and taken back into use when the last packet in it is gone; so a steady stream allocates nothing. When the stream
//! ends, what was put aside is given back.
//!
//! A packet that is kept holds its whole lane, however short it is and whatever else lay there: packets that wait for
//! their time, for others, or in the hands of the host, with garbage between them, would hold a lane each. So a
//! receiver has a bounded number of lanes: 20 MiB at most, those included that packets hold. When all of them are held,
//! datagrams are copied to memory of their own, of their size, until a lane is free again. Then a packet that is kept
//! costs what it is long, and about 100 bytes, whoever keeps it. Traffic that is handed on soon never gets there.

use bytes::{Bytes, BytesMut};
use socket2::Socket;
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The most that one receive can bring: a GRO run is at most 64 KiB.
const MAX_RUN: usize = 65_536;
/// The size of a lane's memory.
const LANE: usize = 2 * MAX_RUN;
/// Lanes of one receiver at most, and so datagrams of one `recvmmsg`.
const MAX_LANES: usize = 16;
/// Used-up lanes for each lane in use that may be held at a time. Of 16 lanes, 8 to 16 MiB: 120 ms of 560 Mb/s at least.
const RESTING_PER_LANE: usize = 8;
/// Used-up lanes that are looked at, beside the oldest, to find a free one among those that are held.
const PROBES: usize = 3;
/// When so many of them, the oldest ones, are free at the same time, there are more than are needed.
const SURPLUS: usize = 4;
/// Room for three control messages: GRO size, time stamp, overflow counter.
const CONTROL: usize = 128;

/// One datagram.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) data: Bytes,
    pub(crate) peer: SocketAddr,
    /// When the kernel received it.
    pub(crate) arrival: Instant,
}

/// The memory into which a socket receives: at most [`RESTING_PER_LANE`] and 2 times its lanes of [`LANE`] bytes, those
/// included that packets hold.
#[derive(Debug)]
pub(crate) struct Receiver {
    lanes: Vec<Lane>,
    resting: Resting,
    /// Datagrams that the socket has dropped because its buffer was full, as the kernel counts them.
    overflows: u32,
    overflows_seen: u64,
}

/// A lane in use.
#[derive(Debug)]
struct Lane {
    memory: BytesMut,
    /// What comes is copied out of it: too many others are held.
    copies: bool,
}

/// Used-up lanes, the oldest first.
#[derive(Debug)]
struct Resting {
    lanes: VecDeque<BytesMut>,
    most: usize,
    /// Where a free one was looked for last, beside the oldest.
    probe: usize,
}

impl Receiver {
    /// Memory for a stream of so many bytes per second.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let lanes = match bytes_per_second {
            0..6_000_000 => 4,
            6_000_000..25_000_000 => 8,
            _ => MAX_LANES,
        };
        Self {
            lanes: (0..lanes).map(|_| Lane { memory: BytesMut::with_capacity(LANE), copies: false }).collect(),
            resting: Resting { lanes: VecDeque::new(), most: lanes * RESTING_PER_LANE, probe: 0 },
            overflows: 0,
            overflows_seen: 0,
        }
    }

    /// Datagrams that were lost in the socket's full buffer since the last call.
    pub(crate) fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows_seen)
    }

    /// Nobody sends any more: lanes that were put aside are given back. Those that packets hold still count.
    pub(crate) fn rest(&mut self) {
        self.resting.lanes.retain_mut(|lane| !lane.try_reclaim(LANE));
    }

    /// One `recvmmsg`. Hands every datagram to `each`, in order; returns whether there may be more to read.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, and whatever else the socket says.
    #[allow(unsafe_code)]
    pub(crate) fn receive(&mut self, fd: RawFd, mut each: impl FnMut(Received)) -> io::Result<bool> {
        for lane in &mut self.lanes {
            lane.refill(&mut self.resting);
        }
        let lanes = self.lanes.len();
        // SAFETY: all four are plain data, for which all zeroes is a value.
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
    /// Hands out what lies in it, in pieces of `segment` bytes. An empty datagram is one piece of no bytes.
    fn split(&mut self, segment: Option<usize>, truncated: bool, mut each: impl FnMut(Bytes)) {
        if truncated {
            self.memory.clear(); // longer than any UDP datagram: nothing of it can be trusted
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

    /// Makes sure that there is room for the longest run.
    fn refill(&mut self, resting: &mut Resting) {
        if self.copies {
            // Nobody holds anything of it, so it can be what it was as soon as another could take its place.
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
    /// A lane that nobody holds anything of any more.
    fn take_free(&mut self) -> Option<BytesMut> {
        let at = self.find_free()?;
        let free = self.lanes.remove(at);
        // One more: what a burst has needed is given back in the course of some lanes.
        if self.lanes.get_mut(SURPLUS - 1).is_some_and(|lane| lane.try_reclaim(LANE)) {
            self.lanes.remove(SURPLUS - 1);
        }
        free
    }

    /// Whether another lane may be put aside; gives one back that is free, if it is found soon.
    fn has_room(&mut self) -> bool {
        if self.lanes.len() >= self.most
            && let Some(at) = self.find_free()
        {
            self.lanes.remove(at);
        }
        self.lanes.len() < self.most
    }

    /// The oldest, nearly always. Where someone keeps a packet of it, a few of the others are looked at each time.
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

/// A buffer for control messages, aligned as `cmsghdr` wants it.
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
                    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
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
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Puts the kernel's wall-clock stamps on the monotonic clock.
struct Clock {
    instant: Instant,
    wall: Option<Duration>,
}

impl Clock {
    fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now().duration_since(UNIX_EPOCH).ok() }
    }

    /// A stamp from the future, or from more than ten seconds ago, means that the wall clock was set: it is
    /// not believed.
    fn at(&self, stamp: Option<Duration>) -> Instant {
        let age = self.wall.zip(stamp).and_then(|(wall, stamp)| wall.checked_sub(stamp));
        let age = age.filter(|age| *age < Duration::from_secs(10)).unwrap_or_default();
        self.instant.checked_sub(age).unwrap_or(self.instant)
    }
}

/// Asks for GRO, time stamps and the overflow counter. All three are optional: without them, packets come one
/// by one and are stamped when they are read.
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
            log::debug!("socket option {level}/{option}: {}", io::Error::last_os_error());
        }
    }
}

#[cfg(test)]
mod tests;
