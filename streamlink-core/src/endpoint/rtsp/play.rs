//! Media for a player: interleaved with the connection, over UDP, or by multicast.

use super::{
    client_connection::ClientConnection, key_frame_gate::KeyFrameGate, multicast::MulticastMembership, service::Rtsp,
    wire::Interleaved,
};
use crate::{
    endpoint::{
        LossReason,
        tcp::{
            End, HANDSHAKE_TIMEOUT, OpenRoute, Player, PlayerLimits, SendQueue, SubWaker, WritePacing, close_with, send,
        },
    },
    media::{rtp::Header, rtsp::Presentation},
    router::{Batch, BatchLayout, Reader, Ring},
};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// Maximum time without a request or a report from a player over UDP. Exceeds the timeout announced to clients.
const SESSION_TIMEOUT: Duration = Duration::from_secs(70);
/// Approximate size of the first read from the ring for a new player, in bytes.
const FIRST_WINDOW: u64 = 256 << 10;
/// Maximum number of reads from the ring in a row for a player over UDP.
const MAX_READS: usize = 8;

impl ClientConnection {
    /// Accepts a player and sends it the media of the flow. `known`: the presentation described to the player.
    pub(super) async fn play(
        &mut self,
        ring: &Arc<Ring>,
        limits: PlayerLimits,
        known: Option<Arc<Presentation>>,
        player: &Player,
        route: &Arc<OpenRoute<Rtsp>>,
    ) -> End {
        let ended = async {
            tokio::select! {
                biased;
                end = player.ended(&route.stop) => end,
                // The player knows an outdated presentation and has to reconnect.
                () = route.mount.presentation.changed_from(known.as_ref()) => End::Lost(LossReason::Closed),
            }
        };
        if self.is_multicast() {
            return self.play_multicast(route, ring, ended).await;
        }
        limits.apply_egress(&self.stream, player.peer);
        let mut reader = ring.reader_from_start(limits.gop_cache);
        let mut window = Vec::new();
        let lost = reader.read_some(FIRST_WINDOW, &mut window).packets;
        self.session.accept(&first_packets(&window, self.session.tracks().len()));
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.answer()).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Lost(LossReason::TooSlow),
        }
        let first = FirstWindow { window, lost };
        let end = if self.udp.is_empty() {
            self.play_interleaved(ring, &mut reader, first, limits, player, ended).await
        } else {
            self.play_udp(ring, reader, first, player, ended).await
        };
        close_with(&mut self.stream, &[]).await;
        end
    }

    /// Sends the media of the flow to the multicast group, for as long as a player is a member, and serves the session of
    /// this one.
    async fn play_multicast(
        &mut self,
        route: &Arc<OpenRoute<Rtsp>>,
        ring: &Arc<Ring>,
        ended: impl Future<Output = End>,
    ) -> End {
        let tracks = self.session.tracks().len();
        match route.mount.multicast.as_ref().map(|multicast| multicast.join(route, ring, tracks)) {
            Some(Ok(membership)) => self.serve_member(membership, ended).await,
            Some(Err(error)) => error.into(),
            None => End::Lost(LossReason::Closed),
        }
    }

    /// Serves the session of a member of the multicast group until it ends.
    async fn serve_member(&mut self, membership: Arc<MulticastMembership>, ended: impl Future<Output = End>) -> End {
        self.session.accept(&[]);
        let mut ended = pin!(ended);
        let timer = pin!(tokio::time::sleep(SESSION_TIMEOUT));
        let mut idle = IdleTimer { heard: Instant::now(), timer };
        let mut heard = Ok(());
        let end = loop {
            if let Err(end) = self.answer_requests(heard).await {
                break end;
            }
            heard = poll_fn(|cx| {
                if let Poll::Ready(end) = ended.as_mut().poll(cx) {
                    return Poll::Ready(Err(end));
                }
                let now = Instant::now();
                match self.poll_requests(cx, now, &mut idle) {
                    Poll::Pending => idle.poll_expired(cx, now).map(Err),
                    ready => ready,
                }
            })
            .await;
        };
        drop(membership);
        close_with(&mut self.stream, &[]).await;
        end
    }

    /// Sends media in interleaved frames.
    async fn play_interleaved(
        &mut self,
        ring: &Arc<Ring>,
        reader: &mut Reader,
        mut first: FirstWindow,
        limits: PlayerLimits,
        player: &Player,
        ended: impl Future<Output = End>,
    ) -> End {
        let wire = Interleaved::new(self.session.tracks());
        let _interest = wire.layout().map(|layout| ring.layout_interest(layout));
        let mut queue = SendQueue::new(wire);
        queue.push_media(first.lost, &mut first.window);
        let pacing = WritePacing { coalesce: limits.coalesce, slow: limits.slow, bandwidth: limits.bandwidth };
        send(&mut self.stream, &mut self.session, reader, queue, player, pacing, ended).await
    }

    /// Sends media over UDP, and serves the session meanwhile.
    async fn play_udp(
        &mut self,
        ring: &Arc<Ring>,
        reader: Reader,
        first: FirstWindow,
        player: &Player,
        ended: impl Future<Output = End>,
    ) -> End {
        let _interest = ring.layout_interest(BatchLayout::Contiguous);
        let FirstWindow { mut window, lost } = first;
        let mut gate = KeyFrameGate::default();
        gate.give(&mut self.udp, lost, &mut window, player);
        let timer = pin!(tokio::time::sleep(SESSION_TIMEOUT));
        let idle = IdleTimer { heard: Instant::now(), timer };
        let mut udp_player = UdpPlayer { reader, window, gate, player, idle, sub_waker: SubWaker::new() };
        let mut ended = pin!(ended);
        loop {
            let heard = poll_fn(|cx| udp_player.poll(self, ended.as_mut(), cx)).await;
            if let Err(end) = self.answer_requests(heard).await {
                return end;
            }
        }
    }

    /// Reads requests. Ready when there are some, or with the end of the connection.
    fn poll_requests(&mut self, cx: &mut Context<'_>, now: Instant, idle: &mut IdleTimer<'_>) -> Poll<Result<(), End>> {
        let Self { stream, session, .. } = self;
        Poll::Ready(match ready!(stream.poll_read(cx, |bytes| session.push(bytes))) {
            Ok(0) => Err(End::Lost(LossReason::Closed)),
            Ok(_) => {
                idle.heard = now;
                Ok(())
            }
            Err(error) => Err(error.into()),
        })
    }
}

/// Packets that were read before the player was answered, and the number of those that it has missed.
struct FirstWindow {
    window: Vec<Arc<Batch>>,
    lost: u64,
}

/// Player that is sent media over UDP.
struct UdpPlayer<'a> {
    reader: Reader,
    window: Vec<Arc<Batch>>,
    gate: KeyFrameGate,
    player: &'a Player,
    idle: IdleTimer<'a>,
    /// Polls the end of the session, requests and reports, which are rare beside media.
    sub_waker: SubWaker,
}

impl UdpPlayer<'_> {
    /// Sends media. Ready when requests have arrived, or with the end of the session.
    fn poll(
        &mut self,
        client: &mut ClientConnection,
        ended: Pin<&mut impl Future<Output = End>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        let Self { player, idle, .. } = self;
        let heard = self.sub_waker.poll_if_woken(cx, |cx| {
            let now = Instant::now();
            if let Poll::Ready(end) = ended.poll(cx) {
                return Poll::Ready(Err(end));
            }
            if let Poll::Ready(heard) = client.poll_requests(cx, now, idle) {
                return Poll::Ready(heard);
            }
            let ClientConnection { session, udp, peer, .. } = &mut *client;
            // Receiver reports, and packets that open a path through address translation.
            udp.poll_reports(cx, peer.ip(), |bytes| {
                idle.heard = now;
                session.report(bytes);
            });
            player.reported(session.reported_lost());
            idle.poll_expired(cx, now).map(Err)
        });
        if heard.is_ready() {
            return heard;
        }
        // Limited, so that a flow with constant traffic lets other tasks run.
        for _ in 0..MAX_READS {
            if ready!(self.reader.poll_ready(cx)).is_err() {
                return Poll::Ready(Err(End::Stopped));
            }
            let lost = self.reader.read_some(u64::MAX, &mut self.window).packets;
            if client.session.is_paused() {
                self.window.clear();
                self.gate.wait();
            }
            self.gate.give(&mut client.udp, lost, &mut self.window, self.player);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Timer of a client that has not been heard of.
struct IdleTimer<'a> {
    heard: Instant,
    timer: Pin<&'a mut Sleep>,
}

impl IdleTimer<'_> {
    fn poll_expired(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if now.saturating_duration_since(self.heard) >= SESSION_TIMEOUT {
                return Poll::Ready(End::Lost(LossReason::Idle));
            }
            self.timer.as_mut().reset((self.heard + SESSION_TIMEOUT).into());
        }
        Poll::Pending
    }
}

/// Returns the sequence number and timestamp of the first packet of each track, from the first random access point.
fn first_packets(window: &[Arc<Batch>], tracks: usize) -> Vec<Option<(u16, u32)>> {
    let mut first = vec![None; tracks];
    let from_start = window.iter().skip_while(|batch| batch.start().is_none());
    for packet in from_start.flat_map(|batch| batch.packets()) {
        let place = packet.rtsp_track().and_then(|track| first.get_mut(usize::from(track)));
        if let (Some(place @ None), Ok(header)) = (place, Header::parse(packet.data())) {
            *place = Some((header.sequence, header.timestamp));
        }
    }
    first
}
