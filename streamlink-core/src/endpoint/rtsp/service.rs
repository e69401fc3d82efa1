//! The RTSP service of a port: the route of a client, and its session while it records or plays.

use super::{
    client_connection::ClientConnection,
    inbound::SourceSession,
    multicast::MulticastSender,
    reserved_place::{PublisherPlace, ReservedPlace},
    udp::UdpTracks,
};
use crate::{
    endpoint::{
        AccessRequest, LossReason, RefusalReason, SourceContext,
        tcp::{End, HANDSHAKE_TIMEOUT, OpenMedia, PendingConnection, PortState, Service},
    },
    flow::RtspTransport,
    proto::rtsp::{Request, ServerSession, SetUp, Status, User},
    router::CurrentPresentation,
};
use std::{sync::Arc, time::Instant};

/// Protocol marker for RTSP ports.
#[derive(Debug)]
pub(crate) enum Rtsp {}

/// Path of a route, with its credentials, transports and presentation.
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) user: Option<User>,
    pub(crate) transport: RtspTransport,
    /// Over UDP, uses the ports that clients send from instead of those that they name.
    pub(crate) symmetric: bool,
    /// Differentiated services code point (RFC 2474) of the packets to clients over UDP.
    pub(crate) dscp: Option<u8>,
    pub(crate) presentation: Arc<CurrentPresentation>,
    /// Multicast sender, if the output offers multicast.
    pub(crate) multicast: Option<MulticastSender>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Service for Rtsp {
    type Mount = Mount;
    type SourceSession = SourceSession;
    const NAME: &'static str = "RTSP";

    fn inbound(context: SourceContext, now: Instant) -> SourceSession {
        SourceSession::new(context, now)
    }

    async fn connection(port: Arc<PortState<Self>>, pending: PendingConnection) {
        let PendingConnection { stream, peer, connection, pending } = pending;
        let greeting = async {
            let local = stream.local_addr()?.ip();
            let stream = port.secure(stream, peer).await?;
            let session = ServerSession::new(&port.random);
            let udp = UdpTracks::default();
            // Boxed to keep the enclosing futures small.
            let mut client = Box::new(ClientConnection { stream, session, udp, place: None, peer, local });
            let request = client.ask(&port).await?;
            Ok::<_, End>((client, request))
        };
        let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(greeting)).await;
        drop(pending);
        match asked {
            Ok(Ok((client, request))) => port.clone().run_connection(async move {
                serve(&port, client, request).await;
                drop(connection);
            }),
            Ok(Err(end)) => {
                log::debug!("RTSP peer {peer}: {end:?}");
                port.refuse_unasked(peer, Some(&end));
            }
            Err(_) => {
                log::debug!("RTSP peer {peer} did not say what it wants");
                port.refuse_unasked(peer, None);
            }
        }
    }
}

/// Returns the RTSP status of a refusal.
pub(super) fn status_of(reason: RefusalReason) -> Status {
    match reason {
        RefusalReason::TooManyAttempts => Status::SERVICE_UNAVAILABLE,
        RefusalReason::TooManyPeers | RefusalReason::OutOfDescriptors => Status::NOT_ENOUGH_BANDWIDTH,
        RefusalReason::NoSuchStream => Status::NOT_FOUND,
        _ => Status::FORBIDDEN,
    }
}

/// Returns the RTSP status of a rejection by the host, whose code is an HTTP status plus 1000.
fn status_of_code(code: u32) -> Status {
    match code {
        1401 => Status::UNAUTHORIZED,
        1404 => Status::NOT_FOUND,
        1453 => Status::NOT_ENOUGH_BANDWIDTH,
        1500..=1599 => Status::SERVICE_UNAVAILABLE,
        _ => Status::FORBIDDEN,
    }
}

/// Finds the route of a request and serves the client, or refuses it.
async fn serve(port: &PortState<Rtsp>, mut client: Box<ClientConnection>, request: Request) {
    let (path, presentation) = match request {
        Request::Publish { path, presentation } => (path, Some(presentation)),
        Request::Play { path } => (path, None),
        Request::Frame { .. } | Request::End => return, // impossible before the session is accepted
    };
    let now = Instant::now();
    let peer = client.peer;
    let publish = presentation.is_some();
    let tcp = client.session.tracks().iter().any(|t| matches!(t, Some(SetUp::Tcp { .. })));
    let ways = [tcp, !client.udp.is_empty(), client.is_multicast()];
    let mixed = ways.iter().filter(|way| **way).count() > 1;
    let found = port.routes().into_iter().find(|r| r.is_source() == publish && r.mount.path == path);
    let Some(route) = found else { return client.turn_away(Status::NOT_FOUND).await };
    if mixed {
        return client.turn_away(Status::UNSUPPORTED_TRANSPORT).await;
    }
    let counted = route.connections.token();
    let user = route.mount.user.as_ref().map(|user| user.name.clone());
    let with_path = |request: AccessRequest| AccessRequest { path: Some(path), user, ..request };
    if let Err(code) = port.authorize(&route, with_path, peer).await {
        return client.turn_away(status_of_code(code)).await;
    }
    let place = client.place.take().filter(|place| Arc::ptr_eq(place.route(), &route));
    match (&route.media, presentation) {
        (OpenMedia::Source(_), Some(presentation)) => {
            let place = match place {
                Some(ReservedPlace::Publisher(place)) => Some(place),
                _ => PublisherPlace::take(&route),
            };
            let Some(mut place) = place else {
                route.admission.refuse(peer, RefusalReason::InUse, "", now);
                return client.turn_away(Status::FORBIDDEN).await;
            };
            // A change of the allowlist since ANNOUNCE takes effect with the first packet.
            if let Some(inbound) = &mut place.inbound {
                let end = client.receive(inbound, &presentation, &place.stop).await;
                let end = route.publisher_end(end);
                let now = Instant::now();
                let was_live = inbound.is_live();
                inbound.end(&end, now);
                if !was_live && let End::Lost(reason) = &end {
                    route.admission.report_silent_publisher(reason, peer, now);
                }
            }
        }
        (OpenMedia::Output(ring, terms), None) => {
            let known = route.mount.presentation.current();
            let entered = match place {
                Some(ReservedPlace::Player(_, place)) => Some(route.enter_reserved(place, peer, now)),
                _ => route.enter(peer, now),
            };
            let Some((id, player)) = entered else {
                route.admission.refuse(peer, RefusalReason::TooManyPeers, "", now);
                return client.turn_away(Status::NOT_ENOUGH_BANDWIDTH).await;
            };
            let end = client.play(ring, terms.clone(), known, &player, &route).await;
            let reason = match end {
                End::Stopped => LossReason::Closed,
                End::Lost(reason) => reason,
            };
            route.leave(id, reason, Instant::now());
        }
        _ => {}
    }
    drop(counted);
}
