//! Receivers: many UDP sockets read by one thread, which counts, checks the sequence, and takes the latency from the
//! kernel's own timestamps, so that the time of reading does not matter.

use crate::feed::{SendTimes, departure};
use hdrhistogram::Histogram;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};
use std::{
    io::IoSliceMut,
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// The result of all receivers together.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Bytes of UDP payload.
    pub bytes: u64,
    /// Packets of each receiver.
    pub packets: Vec<u64>,
    /// Packets that are missing in the sequence.
    pub missing: u64,
    /// Microseconds from the sending of a packet to the kernel's stamp of its reception; of [`Timing::Interval`] the
    /// error of the interval between two packets.
    pub latency: Option<Histogram<u32>>,
}

impl Received {
    /// The latency in milliseconds below which this share of the packets lies.
    pub fn percentile(&self, share: f64) -> f64 {
        self.latency.as_ref().map_or(f64::NAN, |latency| latency.value_at_quantile(share) as f64 / 1e3)
    }
}

/// Source of the time at which a packet was sent.
#[derive(Clone, Debug)]
pub enum Timing {
    /// Nowhere.
    None,
    /// From the payload: nanoseconds of the wall clock.
    Payload,
    /// From the feed, by the sequence number.
    Feed {
        /// The feed's own record.
        times: Arc<SendTimes>,
        /// Number of receivers of each flow; receivers are in the order of flows.
        outputs: usize,
    },
    /// Nowhere: datagrams of MPEG-TS follow one another at the interval of a constant rate.
    Interval,
}

/// Number of packets of a receiver from the beginning on whose intervals do not count: a second, in which a program that
/// paces finds the rate.
const SETTLING: u64 = 570;

impl Timing {
    fn sent(&self, receiver: usize, sequence: u16, packet: &[u8]) -> Option<u64> {
        match self {
            Self::None | Self::Interval => None,
            Self::Payload => Some(u64::from_be_bytes(packet.get(12..20)?.try_into().ok()?)),
            Self::Feed { times, outputs } => times.of(receiver / outputs.max(&1), sequence),
        }
    }
}

/// Receivers at work.
#[derive(Debug)]
pub struct Receivers {
    /// Addresses of the sockets.
    pub addresses: Vec<String>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Received>,
}

impl Receivers {
    /// Opens `count` receivers. `runs`: they take runs of datagrams as the sender made them (UDP_GRO), as receivers written for high rates do; otherwise the kernel splits runs for
    /// them, and on the loopback charges that to the sender.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn start(count: usize, timing: Timing, runs: bool) -> std::io::Result<Self> {
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            if runs {
                setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
            }
            sockets.push(socket);
        }
        let addresses = sockets.iter().map(|s| s.local_addr().map(|a| a.to_string())).collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || receive(&sockets, &timing, &stop)
        });
        Ok(Self { addresses, stop, thread })
    }

    /// Ends them when nothing more arrives, and returns the result.
    ///
    /// # Errors
    /// When the thread failed.
    pub fn finish(self) -> std::io::Result<Received> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| std::io::Error::other("the receivers failed"))
    }
}

fn receive(sockets: &[UdpSocket], timing: &Timing, stop: &AtomicBool) -> Received {
    // From a microsecond to ten seconds, to three digits.
    let mut latency = Histogram::<u32>::new_with_bounds(1, 10_000_000, 3).ok();
    let mut got = Received { packets: vec![0; sockets.len()], ..Received::default() };
    let mut last: Vec<Option<u16>> = vec![None; sockets.len()];
    let mut arrivals: Vec<Option<u64>> = vec![None; sockets.len()];
    let mut buffer = vec![0u8; 65_536];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, i32);
    loop {
        // One look in a few milliseconds: reading must cost little beside what is measured.
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mut polled: Vec<PollFd<'_>> = sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut polled, PollTimeout::from(100u16)).unwrap_or(0);
        if ready == 0 && stop.load(Ordering::Relaxed) {
            got.latency = latency.filter(|latency| !latency.is_empty());
            return got;
        }
        let readable = |p: &PollFd<'_>| p.revents().is_some_and(|e| e.contains(PollFlags::POLLIN));
        for i in (0..sockets.len()).filter(|i| readable(&polled[*i])) {
            loop {
                let (length, at, segment) = {
                    let mut slices = [IoSliceMut::new(&mut buffer)];
                    let fd = sockets[i].as_raw_fd();
                    let flags = MsgFlags::MSG_DONTWAIT;
                    let Ok(message) = recvmsg::<()>(fd, &mut slices, Some(&mut control), flags) else { break };
                    let mut stamp = None;
                    let mut segment = usize::MAX;
                    for note in message.cmsgs().into_iter().flatten() {
                        match note {
                            ControlMessageOwned::ScmTimestampns(t) => {
                                stamp = Some(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64);
                            }
                            ControlMessageOwned::UdpGroSegments(size) => segment = usize::try_from(size).unwrap_or(1),
                            _ => {}
                        }
                    }
                    (message.bytes, stamp, segment.max(1))
                };
                got.bytes += length as u64;
                if matches!(timing, Timing::Interval) {
                    got.packets[i] += 1;
                    let before = std::mem::replace(&mut arrivals[i], at);
                    if let (Some(at), Some(before), Some(errors)) = (at, before, &mut latency)
                        && got.packets[i] > SETTLING
                    {
                        errors.saturating_record(at.saturating_sub(before).abs_diff(departure(1)) / 1000);
                    }
                    continue;
                }
                for packet in buffer[..length].chunks(segment) {
                    if packet.get(1).is_some_and(|kind| (200..=207).contains(kind)) {
                        continue; // RTCP for a neighbour
                    }
                    got.packets[i] += 1;
                    let Some(sequence) = packet.get(2..4) else { continue };
                    let sequence = u16::from_be_bytes([sequence[0], sequence[1]]);
                    if let Some(before) = last[i].replace(sequence) {
                        got.missing += u64::from(sequence.wrapping_sub(before).wrapping_sub(1));
                    }
                    if let (Some(at), Some(sent)) = (at, timing.sent(i, sequence, packet))
                        && let Some(latency) = &mut latency
                    {
                        latency.saturating_record(at.saturating_sub(sent) / 1000);
                    }
                }
            }
        }
    }
}
