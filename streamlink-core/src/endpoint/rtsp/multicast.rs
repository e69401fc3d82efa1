//! Multicast (RFC 2326 section 10.4, transport `RTP/AVP;multicast`). An output sends once to a group, for all players
//! that have asked for multicast. Sending ends with the last of these players.

use super::{super::tcp::OpenRoute, key_frame_gate::KeyFrameGate, service::Rtsp, udp::UdpTracks};
use crate::{
    endpoint::LossReason,
    lock::{self, lock},
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

/// Destination of a multicast output: group address, TTL and interface.
#[derive(Clone, Debug)]
pub(crate) struct MulticastGroup {
    /// Group address with the RTP port of the first track. Each track takes two ports, for RTP and RTCP.
    pub(crate) address: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) interface: Option<String>,
}

impl MulticastGroup {
    /// Returns the RTP and RTCP ports of a track, or `None` if they exceed 65535.
    pub(super) fn ports(&self, track: usize) -> Option<(u16, u16)> {
        let rtp = self.address.port().checked_add(u16::try_from(track.checked_mul(2)?).ok()?)?;
        Some((rtp, rtp.checked_add(1)?))
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// Multicast sender of one output.
#[derive(Debug)]
pub(crate) struct MulticastSender {
    pub(super) group: MulticastGroup,
    dscp: Option<u8>,
    members: Mutex<Weak<MulticastMembership>>,
}

/// Membership shared by the players of a group. Sending ends when the last of them drops it.
#[derive(Debug)]
pub(super) struct MulticastMembership(CancellationToken);

impl Drop for MulticastMembership {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl MulticastSender {
    /// `dscp`: differentiated services code point (RFC 2474) of the packets.
    pub(crate) fn new(group: MulticastGroup, dscp: Option<u8>) -> Self {
        Self { group, dscp, members: Mutex::default() }
    }

    /// Adds a player to the group; the first one starts the sending. In the statistics, the group counts as a player.
    pub(super) fn join(
        &self,
        route: &Arc<OpenRoute<Rtsp>>,
        ring: &Arc<Ring>,
        tracks: usize,
    ) -> io::Result<Arc<MulticastMembership>> {
        let mut members = lock(&self.members);
        if let Some(membership) = members.upgrade() {
            return Ok(membership);
        }
        let egress = Egress { interface: self.group.interface.clone(), dscp: self.dscp, ..Egress::default() };
        let udp = UdpTracks::to_group(&self.group, egress, tracks)?;
        let stop = route.stop.child_token();
        let membership = Arc::new(MulticastMembership(stop.clone()));
        *members = Arc::downgrade(&membership);
        let sending = send(route.clone(), ring.clone(), udp, self.group.address, stop);
        route.connections.spawn(lock::task(sending));
        Ok(membership)
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
    let mut reader = ring.reader();
    let mut gate = KeyFrameGate::default();
    let mut window = Vec::new();
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
