//! The sending side of a connection: writes media from the ring, and handles messages of the peer meanwhile.

use super::{CLOSE_TIMEOUT, End, Player, SendQueue, SubWaker, Wire};
use crate::{
    endpoint::{FlowBandwidth, LossReason},
    net::Stream,
    router::{Batch, Reader},
};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// Maximum number of bytes taken from the ring at once, which bounds the memory of a peer that stops reading.
const WINDOW: u64 = 256 << 10;
/// Maximum number of windows written in a row before other connections of the task have a turn.
const MAX_WINDOWS: usize = 8;
/// Maximum number of bytes of control messages pending for a peer that does not read.
const MAX_PENDING_CONTROL: usize = 64 << 10;

/// A protocol session whose peer is sent media.
pub(in crate::endpoint) trait SendSession {
    /// Handles bytes from the peer; returns whether it has ended the stream.
    fn on_bytes(&mut self, bytes: &[u8]) -> Result<bool, End>;
    /// Takes the pending bytes to be sent to the peer.
    fn take_output(&mut self) -> Vec<u8>;
    /// Queues the messages that end the stream.
    fn end(&mut self);
    /// Returns whether the peer, which has ended the stream, may ask for another on the same connection.
    fn goes_on(&self) -> bool {
        false
    }
    /// Returns whether the peer has paused.
    fn is_paused(&self) -> bool {
        false
    }
    /// Number of packets that the peer has reported lost.
    fn reported_lost(&self) -> u64 {
        0
    }
    /// Handles the passing of time; may queue a keep-alive.
    fn tick(&mut self, _now: Instant) {}
}

/// Timing of the writes to one connection.
#[derive(Clone, Debug)]
pub(in crate::endpoint) struct WritePacing {
    /// Time that messages wait to leave together with later ones.
    pub(in crate::endpoint) coalesce: Duration,
    /// Time that the peer may be behind before it is disconnected.
    pub(in crate::endpoint) slow: Duration,
    /// Bandwidth of the flow, from which the socket's send buffer is sized.
    pub(in crate::endpoint) bandwidth: FlowBandwidth,
}

struct Sending<'a, T, W> {
    stream: &'a mut Stream,
    session: &'a mut T,
    reader: &'a mut Reader,
    queue: SendQueue<W>,
    player: &'a Player,
    pacing: WritePacing,
    /// Polls the end of the connection, and messages of the peer.
    sub_waker: SubWaker,
    window: Vec<Arc<Batch>>,
    /// The time since when the socket is full.
    behind: Option<Instant>,
    /// The earliest time of the next read from the ring.
    next: Instant,
    ending: bool,
}

/// Sends until the flow, the peer or `ended` ends it. If that is with [`End::Stopped`], what is in the ring is sent
/// before.
pub(in crate::endpoint) async fn send<T: SendSession, W: Wire>(
    stream: &mut Stream,
    session: &mut T,
    reader: &mut Reader,
    queue: SendQueue<W>,
    player: &Player,
    pacing: WritePacing,
    ended: impl Future<Output = End>,
) -> End {
    let now = Instant::now();
    stream.limit_send_buffer(pacing.bandwidth.now().tcp_send_buffer());
    let mut ended = pin!(ended);
    let mut timer = pin!(tokio::time::sleep_until((now + pacing.slow).into()));
    let mut sending = Sending {
        stream,
        session,
        reader,
        queue,
        player,
        pacing,
        sub_waker: SubWaker::new(),
        window: Vec::new(),
        behind: None,
        next: now,
        ending: false,
    };
    let end = poll_fn(|cx| sending.poll(ended.as_mut(), timer.as_mut(), cx)).await;
    match end {
        End::Stopped => sending.finish().await,
        End::Lost(_) if sending.session.goes_on() => sending.finish_message().await,
        // The peer has ended the stream, and waits for the answer to that.
        End::Lost(ref reason) if *reason != LossReason::TooSlow && sending.queue.control_len() > 0 => {
            sending.flush().await;
        }
        End::Lost(_) => {}
    }
    sending.count();
    end
}

impl<T: SendSession, W: Wire> Sending<'_, T, W> {
    fn poll(
        &mut self,
        ended: Pin<&mut impl Future<Output = End>>,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        let Self { stream, session, queue, sub_waker, .. } = self;
        let end = sub_waker.poll_if_woken(cx, |cx| {
            if let Poll::Ready(end) = ended.poll(cx) {
                return Poll::Ready(end);
            }
            poll_input(stream, *session, queue, cx)
        });
        if end.is_ready() {
            return end;
        }
        for _ in 0..MAX_WINDOWS {
            match self.queue.poll_write(self.stream, cx) {
                Poll::Ready(Ok(())) => self.behind = None,
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    self.count();
                    let now = Instant::now();
                    let since = *self.behind.get_or_insert(now);
                    if now.saturating_duration_since(since) >= self.pacing.slow {
                        return Poll::Ready(End::Lost(LossReason::TooSlow));
                    }
                    return wake_at(timer, since + self.pacing.slow, cx);
                }
            }
            self.count();
            if self.ending {
                return Poll::Ready(End::Stopped);
            }
            if !self.pacing.coalesce.is_zero() {
                let now = Instant::now();
                if now < self.next {
                    // The ring is not polled before that time.
                    if timer.deadline().into_std() != self.next {
                        timer.as_mut().reset(self.next.into());
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
            match self.reader.poll_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => {
                    // The flow has ended, and all of its media was sent.
                    self.ending = true;
                    self.session.end();
                    self.queue.push_control(self.session.take_output());
                }
                Poll::Ready(Ok(())) => {
                    if let Some(bandwidth) = self.pacing.bandwidth.changed() {
                        self.stream.limit_send_buffer(bandwidth.tcp_send_buffer());
                    }
                    let lost = self.reader.read_some(WINDOW, &mut self.window);
                    let now = self.window.first().and_then(|batch| batch.arrival());
                    if self.session.is_paused() {
                        self.window.clear();
                        self.queue.wait_for_start();
                    }
                    self.queue.push_media(lost.packets, &mut self.window);
                    if let Some(now) = now {
                        self.session.tick(now);
                        let output = self.session.take_output();
                        if !output.is_empty() {
                            self.queue.push_control(output);
                        }
                    }
                    // What exceeded the window follows without a pause.
                    if !self.pacing.coalesce.is_zero() && !self.reader.has_more() {
                        self.next = Instant::now() + self.pacing.coalesce;
                    }
                }
            }
        }
        cx.waker().wake_by_ref(); // there may be more
        Poll::Pending
    }

    fn count(&mut self) {
        let (sent, dropped) = self.queue.take_counts();
        self.player.count(sent, dropped);
        self.player.reported(self.session.reported_lost());
    }

    /// Sends the rest of a message that was begun, and the session's answers, so that another stream may follow.
    async fn finish_message(&mut self) {
        let Self { queue, stream, session, .. } = self;
        queue.drop_unbegun();
        queue.push_control(session.take_output());
        // A peer that does not read in time finds a message cut short, and its connection is closed.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, poll_fn(|cx| queue.poll_write(stream, cx))).await;
    }

    /// Sends the media that is left in the ring, then the end of the stream, within [`CLOSE_TIMEOUT`].
    async fn finish(&mut self) {
        if !self.ending {
            let lost = self.reader.read(&mut self.window);
            self.queue.push_media(lost.packets, &mut self.window);
        }
        let Self { queue, stream, session, .. } = self;
        let rest = async {
            poll_fn(|cx| queue.poll_write(stream, cx)).await?;
            session.end(); // after all media
            queue.push_control(session.take_output());
            poll_fn(|cx| queue.poll_write(stream, cx)).await
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await; // a peer that does not read is not waited for
    }

    /// Sends the queued messages.
    async fn flush(&mut self) {
        let Self { queue, stream, .. } = self;
        let rest = poll_fn(|cx| queue.poll_write(stream, cx));
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await; // a peer that does not read is not waited for
    }
}

/// Reads messages of the peer, and queues the session's answers; ready when the peer has left.
fn poll_input<T: SendSession, W: Wire>(
    stream: &mut Stream,
    session: &mut T,
    queue: &mut SendQueue<W>,
    cx: &mut Context<'_>,
) -> Poll<End> {
    loop {
        let mut is_over = Ok(false);
        match ready!(stream.poll_read(cx, |bytes| is_over = session.on_bytes(bytes))) {
            Err(error) => return Poll::Ready(error.into()),
            Ok(0) => return Poll::Ready(End::Lost(LossReason::Closed)),
            Ok(_) => {}
        }
        let output = session.take_output();
        if !output.is_empty() {
            queue.push_control(output);
        }
        match is_over {
            Err(end) => return Poll::Ready(end),
            Ok(true) => return Poll::Ready(End::Lost(LossReason::Closed)),
            Ok(false) => {}
        }
        if queue.control_len() > MAX_PENDING_CONTROL {
            let reason = "control responses not read (64 KiB pending)";
            return Poll::Ready(End::Lost(LossReason::Protocol(reason.into())));
        }
    }
}

/// Resets the timer, and returns pending; if `at` is past, the task is woken at once.
fn wake_at(mut timer: Pin<&mut Sleep>, at: Instant, cx: &mut Context<'_>) -> Poll<End> {
    if timer.deadline().into_std() != at {
        timer.as_mut().reset(at.into());
    }
    if timer.as_mut().poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::Bitrate,
        media::Packet,
        net::{Egress, listen},
        router::{Limits, MediaBatch, Ring},
    };
    use std::io;
    use tokio::sync::Notify;

    /// A peer that is sent the packets without headers, and sends nothing.
    struct Bare;

    impl SendSession for Bare {
        fn on_bytes(&mut self, _: &[u8]) -> Result<bool, End> {
            Ok(false)
        }

        fn take_output(&mut self) -> Vec<u8> {
            Vec::new()
        }

        fn end(&mut self) {}
    }

    impl Wire for Bare {
        type Head = usize;
        const EMPTY: usize = 0;

        fn head(&self, packet: &Packet, _: Option<u32>) -> usize {
            packet.data().len()
        }

        fn total(head: &usize) -> usize {
            *head
        }

        fn slices<'a>(_: &'a usize, body: &'a [u8], from: usize, mut take: impl FnMut(&'a [u8]) -> bool) -> bool {
            take(body.get(from..).unwrap_or_default())
        }

        fn altered(&self, _: &[Packet]) -> Option<Arc<[Packet]>> {
            None
        }
    }

    /// Reads `bytes` bytes.
    async fn take(peer: &mut Stream, bytes: usize) -> io::Result<()> {
        let mut taken = 0;
        while taken < bytes {
            match poll_fn(|cx| peer.poll_read(cx, |_| {})).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => taken += length,
            }
        }
        Ok(())
    }

    #[test]
    fn send_queue_counts_what_a_player_misses_but_not_its_pause() {
        let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(3600) });
        let mut reader = ring.reader();
        let mut window = Vec::new();
        let mut publish = |is_entry_point: bool| {
            let mut delivery = MediaBatch::default();
            if is_entry_point {
                delivery.mark_entry_point(Arc::from([]));
            }
            delivery.packets.push(Packet::datagram(vec![7; 100], Instant::now()));
            ring.deliver(&mut delivery);
            reader.read(&mut window);
            std::mem::take(&mut window)
        };
        let mut queue = SendQueue::new(Bare);
        queue.push_media(0, &mut publish(true));
        queue.push_media(0, &mut publish(false));
        // A pause: neither what the ring has dropped meanwhile nor the rest of the group of pictures is missed.
        queue.wait_for_start();
        queue.push_media(5, &mut publish(false));
        queue.push_media(0, &mut publish(false));
        assert_eq!(queue.take_counts().1, 0);
        queue.push_media(0, &mut publish(true));
        queue.push_media(0, &mut publish(false));
        assert_eq!(queue.take_counts().1, 0);
        // A player that does not keep up.
        queue.push_media(3, &mut publish(false));
        assert_eq!(queue.take_counts().1, 4);
    }

    /// A coalescing time of an hour does not hold back what exceeded the first window.
    #[tokio::test]
    async fn send_coalesces_but_does_not_delay_a_full_window() -> io::Result<()> {
        const PACKET: usize = 50_000;
        let listener = listen(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?;
        let mut stream = Stream::connect(address, &Egress::default()).await?;
        let mut peer = Stream::accepted(listener.accept().await?.0);
        let ring = Ring::new(Limits { bytes: 64 << 20, time: Duration::from_secs(3600) });
        let mut reader = ring.reader();
        let publish = |count: usize| {
            for _ in 0..count {
                let mut delivery = MediaBatch::default();
                delivery.mark_entry_point(Arc::from([]));
                delivery.packets.push(Packet::datagram(vec![7; PACKET], Instant::now()));
                ring.deliver(&mut delivery);
            }
        };
        publish(100);
        let stop = Notify::new();
        let player = Player::new(address, Instant::now());
        let mut session = Bare;
        let pacing = WritePacing {
            coalesce: Duration::from_secs(3600),
            slow: Duration::from_secs(60),
            bandwidth: FlowBandwidth::fixed(Bitrate::mbps(20)),
        };
        let ended = async {
            stop.notified().await;
            End::Stopped
        };
        let sent = send(&mut stream, &mut session, &mut reader, SendQueue::new(Bare), &player, pacing, ended);
        let received = async {
            take(&mut peer, 100 * PACKET).await?;
            // The next window has begun.
            publish(1);
            let early = tokio::time::timeout(Duration::from_millis(100), take(&mut peer, 1)).await;
            assert!(early.is_err(), "it did not wait for more");
            stop.notify_one();
            // Waiting messages are sent before the end.
            take(&mut peer, PACKET).await
        };
        let (end, received) = tokio::join!(sent, received);
        assert!(matches!(end, End::Stopped), "{end:?}");
        received
    }
}
