//! The RTP, UDP or RIST source: a task that reads datagrams in batches, and publishes their packets to the flow.

use super::{fec, gathering::Gathering, reception::Reception, side::SideSockets};
use crate::{
    endpoint::{Bandwidth, SourceContext},
    flow::{PayloadTypes, UdpInput},
    net::{Multicast, Receiver as SocketReceiver, TimerFd, UdpOptions, UdpSocket},
};
use futures_util::FutureExt;
use std::{
    io,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

/// Number of datagrams after which a batch is published and the task yields.
const MAX_BATCH: usize = 512;
/// Interval at which a socket is read that the system cannot watch.
const UNWATCHED_INTERVAL: Duration = Duration::from_millis(1);
/// Maximum number of reads of FEC packets, or RTCP, after media was read.
const SIDE_READS: usize = 4;

/// Protocol of the datagrams, with its settings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// RTP packets. `fec`: with forward error correction.
    Rtp { reorder_window: Duration, payload_types: PayloadTypes, fec: bool },
    /// MPEG-TS without RTP.
    Udp,
    /// RIST. `is_merged`: the merge puts packets in order.
    Rist { latency: Duration, is_merged: bool },
}

/// A source with an open socket.
pub(super) struct UdpSource {
    settings: UdpInput,
    protocol: Protocol,
    socket: UdpSocket,
    side: Option<SideSockets>,
    memory: SocketReceiver,
    alarm: TimerFd,
}

impl UdpSource {
    /// Opens the socket. `bandwidth` sets the initial size of its buffers.
    pub(super) fn open(settings: &UdpInput, protocol: Protocol, bandwidth: Bandwidth) -> io::Result<Self> {
        let bind = settings.listen.bind;
        let multicast = bind.ip().is_multicast().then(|| Multicast {
            source: settings.multicast_source,
            interface: settings.interface.as_ref().map(ToString::to_string),
        });
        let receive_buffer = Some(bandwidth.rtp_receive_buffer());
        let options = UdpOptions { multicast, receive_buffer, ..UdpOptions::default() };
        let (socket, side) = match protocol {
            Protocol::Rtp { fec: true, .. } => {
                let (socket, side) = SideSockets::open(bind, &fec::PORTS, false, &options)?;
                (socket, Some(side))
            }
            Protocol::Rist { .. } => {
                let (socket, side) = SideSockets::open(bind, &[1], true, &options)?;
                (socket, Some(side))
            }
            _ => (UdpSocket::receiving(bind, &options)?, None),
        };
        let memory = SocketReceiver::new(bandwidth.bytes_per_second());
        Ok(Self { settings: settings.clone(), protocol, socket, side, memory, alarm: TimerFd::new()? })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Returns the scheme of its address.
    pub(super) fn scheme(&self) -> &'static str {
        match self.protocol {
            Protocol::Rtp { .. } => "rtp",
            Protocol::Udp => "udp",
            Protocol::Rist { .. } => "rist",
        }
    }

    /// Receives until the source is stopped.
    pub(super) async fn run(self, context: SourceContext) {
        let Self { settings, protocol, mut socket, mut side, mut memory, mut alarm } = self;
        let mut gathering = match protocol {
            // What is lost is asked for when the packet behind it is read.
            Protocol::Rist { .. } => Gathering::short(context.coalesce),
            Protocol::Rtp { .. } | Protocol::Udp => Gathering::new(context.coalesce),
        };
        let ring = context.group.ring().clone();
        let stop = context.stop.clone();
        let mut live = context.live.clone();
        let mut applied = live.borrow().bandwidth;
        let mut reception = Reception::new(settings, protocol, context);
        let mut side_packets = Vec::new();
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        // The time that the timer is set to, at or before the next timeout. Nearly always the timeout moves away while the
        // timer runs, which is seen when it expires: to set it for each read would wake the runtime.
        let mut set_to: Option<Instant> = None;
        loop {
            if let Some(deadline) = reception.next_timeout()
                && set_to.is_none_or(|set_to| deadline < set_to)
            {
                timer.as_mut().reset(deadline.into());
                set_to = Some(deadline);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return reception.stop(),
                _ = live.changed() => {
                    reception.refresh();
                    let bandwidth = reception.ingest.live().bandwidth;
                    if std::mem::replace(&mut applied, bandwidth) != bandwidth {
                        socket.set_receive_buffer(bandwidth.rtp_receive_buffer());
                        memory.set_rate(bandwidth.bytes_per_second());
                    }
                }
                () = arrivals(&socket, &alarm) => {
                    let mut count = 0;
                    let result = socket.drain(&mut memory, MAX_BATCH, |datagram| {
                        count += 1;
                        reception.datagram(datagram);
                    });
                    if let Err(error) = result.await {
                        log::warn!("source `{}`: {error}", reception.ingest.context.status.name());
                    }
                    reception.overflows(memory.take_overflows());
                    // FEC packets of all the media that was read, before any of it is given up.
                    for _ in 0..SIDE_READS {
                        if receive_side(&side, &mut side_packets).now_or_never().is_none() {
                            break;
                        }
                        reception.side(&mut side_packets, Instant::now());
                    }
                    let now = Instant::now();
                    reception.publish(now);
                    gathering.read(count, ring.interested_outputs(), now);
                    follow(gathering, &mut socket, &mut alarm, count >= MAX_BATCH);
                }
                () = receive_side(&side, &mut side_packets) => {
                    reception.side(&mut side_packets, Instant::now());
                    reception.publish(Instant::now());
                }
                () = timer.as_mut(), if set_to.is_some() => {
                    set_to = None;
                    let now = Instant::now();
                    if reception.next_timeout().is_some_and(|deadline| deadline <= now) {
                        reception.timeout(now);
                    }
                }
            }
            if let Some(side) = &mut side {
                reception.send_rtcp(side, Instant::now());
            }
            if reception.ingest.last_media().is_none() {
                memory.release_idle();
            }
        }
    }
}

/// Waits until datagrams have arrived, or, while the media is steady, until they are to be read.
async fn arrivals(socket: &UdpSocket, alarm: &TimerFd) {
    if socket.is_watched() {
        // An error is met again by the read that follows.
        let _ = socket.readable().await;
    } else {
        alarm.expired().await;
    }
}

/// Sets the time of the next read while the media is steady, and watches the socket otherwise. `more`: datagrams were left
/// behind, and are read at once.
fn follow(gathering: Gathering, socket: &mut UdpSocket, alarm: &mut TimerFd, more: bool) {
    if gathering.interval().is_none() && socket.watch().is_ok() {
        return;
    }
    // Where the system cannot watch the socket, it is read at intervals, too.
    let interval = gathering.interval().unwrap_or(UNWATCHED_INTERVAL);
    if alarm.set(if more { Duration::ZERO } else { interval }).is_ok() {
        socket.unwatch();
    }
}

/// Waits for FEC packets or RTCP; for ever if there are no sockets for them.
async fn receive_side(sockets: &Option<SideSockets>, out: &mut Vec<(Vec<u8>, SocketAddr)>) {
    match sockets {
        Some(sockets) => sockets.receive(out).await,
        None => std::future::pending().await,
    }
}
