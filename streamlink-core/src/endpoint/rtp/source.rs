//! The RTP, UDP or RIST source: a task that reads datagrams in batches, and publishes their packets to the flow.

use super::{fec, reception::Reception, side::SideSockets};
use crate::{
    endpoint::{Bandwidth, SourceContext, sleep_until},
    flow::{PayloadTypes, UdpInput},
    net::{Multicast, Receiver as SocketReceiver, TimerFd, UdpOptions, UdpSocket},
};
use futures_util::FutureExt;
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Number of datagrams after which a batch is published and the task yields.
const MAX_BATCH: usize = 512;
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
        let Self { settings, protocol, socket, mut side, mut memory, alarm } = self;
        let coalesce = context.coalesce;
        let (stop, mut live) = (context.stop.clone(), context.live.clone());
        let mut applied = live.borrow().bandwidth;
        let mut reception = Reception::new(settings, protocol, context);
        let mut side_packets = Vec::new();
        loop {
            let deadline = reception.next_timeout();
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
                ready = socket.readable() => {
                    if ready.is_ok() && !coalesce.is_zero() {
                        // Datagrams that arrive during this pause leave in the same batch.
                        tokio::select! {
                            () = stop.cancelled() => return reception.stop(),
                            () = alarm.wait(coalesce) => {}
                        }
                    }
                    let result = socket.drain(&mut memory, MAX_BATCH, |datagram| reception.datagram(datagram)).await;
                    if let Err(error) = result {
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
                    reception.publish(Instant::now());
                }
                () = receive_side(&side, &mut side_packets) => {
                    reception.side(&mut side_packets, Instant::now());
                    reception.publish(Instant::now());
                }
                () = sleep_until(deadline) => reception.timeout(Instant::now()),
            }
            if let Some(side) = &mut side {
                reception.send_rtcp(side, Instant::now());
            }
            if reception.ingest.last_media().is_none() {
                memory.rest();
            }
        }
    }
}

/// Waits for FEC packets or RTCP; for ever if there are no sockets for them.
async fn receive_side(sockets: &Option<SideSockets>, out: &mut Vec<(Vec<u8>, SocketAddr)>) {
    match sockets {
        Some(sockets) => sockets.receive(out).await,
        None => std::future::pending().await,
    }
}
