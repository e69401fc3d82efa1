//! Multicast (RFC 2326 section 10.4, transport `RTP/AVP;multicast`): an output sends once to a group, for all players
//! that have asked to hear it there, for as long as there is one.

use super::{
    super::tcp::OpenRoute,
    service::{Gate, Rtsp},
    udp::UdpTracks,
};
use crate::{
    endpoint::LossReason,
    lock::lock,
    net::Egress,
    router::{BatchLayout, Ring},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Where to, and how far.
#[derive(Clone, Debug)]
pub(crate) struct MulticastGroup {
    /// The port is that of the first track; each has two, for RTP and RTCP.
    pub(crate) address: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) interface: Option<String>,
}

impl MulticastGroup {
    /// The ports of a track.
    pub(super) fn ports(&self, track: usize) -> Option<(u16, u16)> {
        let rtp = self.address.port().checked_add(u16::try_from(track.checked_mul(2)?).ok()?)?;
        Some((rtp, rtp.checked_add(1)?))
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// The group of one output.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(super) group: MulticastGroup,
    seats: Mutex<Weak<Seat>>,
}

/// A player's place. The sending ends with the last one.
#[derive(Debug)]
pub(super) struct Seat(CancellationToken);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cast {
    pub(crate) fn new(group: MulticastGroup) -> Self {
        Self { group, seats: Mutex::default() }
    }

    /// A place for a player; the first one lets the sending begin. In the statistics the group is a player.
    pub(super) fn join(&self, route: &Arc<OpenRoute<Rtsp>>, ring: &Arc<Ring>, tracks: usize) -> io::Result<Arc<Seat>> {
        let mut seats = lock(&self.seats);
        if let Some(seat) = seats.upgrade() {
            return Ok(seat);
        }
        let egress = Egress { address: None, interface: self.group.interface.clone() };
        let udp = UdpTracks::to_group(&self.group, egress, tracks)?;
        let stop = route.stop.child_token();
        let seat = Arc::new(Seat(stop.clone()));
        *seats = Arc::downgrade(&seat);
        route.connections.spawn(send(route.clone(), ring.clone(), udp, self.group.address, stop));
        Ok(seat)
    }
}

async fn send(
    route: Arc<OpenRoute<Rtsp>>,
    ring: Arc<Ring>,
    mut udp: UdpTracks,
    group: SocketAddr,
    stop: CancellationToken,
) {
    let (id, player) = route.enter_group(group, Instant::now());
    let (mut reader, mut gate, mut window) = (ring.reader(), Gate::default(), Vec::new());
    let _interest = ring.layout_interest(BatchLayout::Contiguous);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            ready = reader.ready() => {
                if ready.is_err() {
                    break;
                }
                let lost = reader.read(&mut window).packets;
                gate.give(&mut udp, lost, &mut window, &player);
            }
        }
    }
    route.leave(id, LossReason::Closed, Instant::now());
}
