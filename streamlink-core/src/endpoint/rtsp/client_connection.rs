//! Connection of a client: its requests until it records or plays, and the media of a publisher.

use super::{
    directory::PortDirectory, inbound::SourceSession, receive::Receiving, reserved_place::ReservedPlace,
    send_session::EmptyDirectory, service::Rtsp, start_lines, udp::UdpTracks, wire::Interleaved,
};
use crate::{
    endpoint::{
        LossReason,
        tcp::{CLOSE_TIMEOUT, End, PortState, close_with, write_all},
    },
    lock::log_handshake,
    media::rtsp::Presentation,
    net::Stream,
    proto::rtsp::{Request, ServerSession, SetUp, Status},
};
use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Connection of a client, with its session and its tracks over UDP.
pub(super) struct ClientConnection {
    pub(super) stream: Stream,
    pub(super) session: ServerSession,
    pub(super) udp: UdpTracks,
    /// Reserved once UDP ports are open.
    pub(super) place: Option<ReservedPlace>,
    pub(super) peer: SocketAddr,
    pub(super) local: IpAddr,
}

impl ClientConnection {
    /// Exchanges messages until the client asks to play or record.
    pub(super) async fn ask(&mut self, port: &PortState<Rtsp>) -> Result<Request, End> {
        loop {
            let peer = self.peer;
            let Self { stream, session, udp, place, .. } = self;
            // UDP ports must not outlive the route for which they were opened.
            let stop = place.as_ref().map(|place| place.stop().clone()).unwrap_or_default();
            let count = tokio::select! {
                () = stop.cancelled() => return Err(End::Stopped),
                count = poll_fn(|cx| stream.poll_read(cx, |bytes| {
                    log_handshake(|| format!("RTSP {peer} says {}", start_lines(bytes)));
                    session.push(bytes);
                })) => count?,
            };
            if count == 0 {
                return Err(End::Lost(LossReason::Closed));
            }
            let peer = self.peer;
            let local = self.local;
            let mut directory = PortDirectory { port, udp, place, taken_over: None, peer, local };
            let request = self.session.next(&mut directory);
            if let Some(route) = directory.taken_over {
                // The response to ANNOUNCE waits until the publisher before has left.
                route.wait_until_source_is_free().await;
            }
            match request {
                Ok(Some(Request::End)) => {
                    self.answer().await?;
                    return Err(End::Lost(LossReason::Closed));
                }
                Ok(Some(request)) => return Ok(request),
                Ok(None) => self.answer().await?,
                Err(fault) => {
                    let _ = self.answer().await; // sends the responses to earlier requests
                    return Err(fault.into());
                }
            }
        }
    }

    pub(super) async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.take_output();
        log_handshake(|| format!("RTSP {} is answered {}", self.peer, start_lines(&bytes)));
        Ok(write_all(&mut self.stream, &bytes).await?)
    }

    /// Refuses the request and closes the connection.
    pub(super) async fn turn_away(&mut self, status: Status) {
        self.session.refuse(status);
        let answer = self.session.take_output();
        log_handshake(|| format!("RTSP {} is answered {}", self.peer, start_lines(&answer)));
        close_with(&mut self.stream, &answer).await;
    }

    /// Accepts a publisher and receives its media.
    pub(super) async fn receive(
        &mut self,
        inbound: &mut SourceSession,
        presentation: &Arc<Presentation>,
        stop: &CancellationToken,
    ) -> End {
        inbound.begin(presentation, !self.udp.is_empty());
        self.session.accept(&[]);
        let wire = Interleaved::new(self.session.tracks());
        let Self { stream, session, udp, peer, .. } = self;
        Receiving { stream, session, wire, udp, inbound, peer: *peer, first: None }.run(stop).await
    }

    /// Handles and answers the client's requests after a read. Returns an error when the session ends.
    pub(super) async fn answer_requests(&mut self, heard: Result<(), End>) -> Result<(), End> {
        let said = heard.and_then(|()| {
            // Discard interleaved frames, which have no meaning here and must not accumulate.
            while let Some(request) = self.session.next(&mut EmptyDirectory)? {
                if request == Request::End {
                    return Err(End::Lost(LossReason::Closed));
                }
            }
            Ok(())
        });
        let answered = tokio::time::timeout(CLOSE_TIMEOUT, self.answer()).await;
        said?;
        answered.unwrap_or(Err(End::Lost(LossReason::TooSlow)))
    }

    /// Returns whether the client has asked for multicast.
    pub(super) fn is_multicast(&self) -> bool {
        self.session.tracks().contains(&Some(SetUp::Multicast))
    }
}
