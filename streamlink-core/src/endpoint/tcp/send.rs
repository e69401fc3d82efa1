//! Sending: what comes into the ring goes to one connection, and what the peer says in between is answered.

use super::{Door, End, FAREWELL, Outbox, Player, Wire};
use crate::{
    endpoint::{FlowBandwidth, LossReason},
    net::Stream,
    router::{Batch, Reader},
};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// Bytes that are taken from the ring at once: what a peer that stops reading holds.
const AT_ONCE: u64 = 256 << 10;
/// Windows that a peer is sent in a row, before others of the same task have a turn.
const ROUNDS: usize = 8;
/// Bytes of answers that may wait for a peer that does not read.
const MAX_CONTROL: usize = 64 << 10;

/// The side of a session that is sent media.
pub(in crate::endpoint) trait Talk {
    /// Takes what the peer says; true: it has ended the stream.
    fn listen(&mut self, bytes: &[u8]) -> Result<bool, End>;
    /// What is to be answered.
    fn answers(&mut self) -> Vec<u8>;
    /// Says goodbye.
    fn end(&mut self);
    /// Whether the peer wants nothing for now.
    fn is_paused(&self) -> bool {
        false
    }
    /// Packets that the peer has reported lost.
    fn reported_lost(&self) -> u64 {
        0
    }
    /// Time has passed; there may be something to say.
    fn tick(&mut self, _now: Instant) {}
}

/// How media is sent.
#[derive(Clone, Debug)]
pub(in crate::endpoint) struct Pace {
    /// How long messages may wait for more.
    pub(in crate::endpoint) coalesce: Duration,
    /// How long the peer may be behind.
    pub(in crate::endpoint) slow: Duration,
    /// Sizes what the kernel may hold for the peer.
    pub(in crate::endpoint) bandwidth: FlowBandwidth,
}

struct Sending<'a, T, W> {
    stream: &'a mut Stream,
    session: &'a mut T,
    reader: &'a mut Reader,
    outbox: Outbox<W>,
    player: &'a Player,
    pace: Pace,
    /// Behind it are what the peer says, and the end.
    door: Door,
    window: Vec<Arc<Batch>>,
    /// Since when the peer is behind.
    behind: Option<Instant>,
    /// When more may be written.
    next: Instant,
    ending: bool,
}

/// Sends until the flow or the peer ends it, or `ended` does, for which nothing is lost on the way to the peer when it is
/// [`End::Stopped`].
pub(in crate::endpoint) async fn send<T: Talk, W: Wire>(
    stream: &mut Stream,
    session: &mut T,
    reader: &mut Reader,
    outbox: Outbox<W>,
    player: &Player,
    pace: Pace,
    ended: impl Future<Output = End>,
) -> End {
    let now = Instant::now();
    stream.limit_send_buffer(pace.bandwidth.now().tcp_send_buffer());
    let mut ended = pin!(ended);
    let mut timer = pin!(tokio::time::sleep_until((now + pace.slow).into()));
    let mut sending = Sending {
        stream,
        session,
        reader,
        outbox,
        player,
        pace,
        door: Door::new(),
        window: Vec::new(),
        behind: None,
        next: now,
        ending: false,
    };
    let end = poll_fn(|cx| sending.poll(ended.as_mut(), timer.as_mut(), cx)).await;
    if matches!(end, End::Stopped) {
        sending.farewell().await;
    }
    sending.count();
    end
}

impl<T: Talk, W: Wire> Sending<'_, T, W> {
    fn poll(
        &mut self,
        ended: Pin<&mut impl Future<Output = End>>,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if self.door.has_rung(cx) {
            let waker = self.door.waker().clone();
            let cx = &mut Context::from_waker(&waker);
            if let Poll::Ready(end) = ended.poll(cx) {
                return Poll::Ready(end);
            }
            if let Some(end) = self.poll_input(cx) {
                return Poll::Ready(end);
            }
        }
        for _ in 0..ROUNDS {
            match self.outbox.poll_write(self.stream, cx) {
                Poll::Ready(Ok(())) => self.behind = None,
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    self.count();
                    let now = Instant::now();
                    let since = *self.behind.get_or_insert(now);
                    if now.saturating_duration_since(since) >= self.pace.slow {
                        return Poll::Ready(End::Lost(LossReason::TooSlow));
                    }
                    return wake_at(timer, since + self.pace.slow, cx);
                }
            }
            self.count();
            if self.ending {
                return Poll::Ready(End::Stopped);
            }
            if !self.pace.coalesce.is_zero() {
                let now = Instant::now();
                if now < self.next {
                    // Not a word of the ring until then.
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
                    // The flow has ended, and all of it was sent.
                    self.ending = true;
                    self.session.end();
                    self.outbox.push_control(self.session.answers());
                }
                Poll::Ready(Ok(())) => {
                    if let Some(bandwidth) = self.pace.bandwidth.changed() {
                        self.stream.limit_send_buffer(bandwidth.tcp_send_buffer());
                    }
                    let lost = self.reader.read_some(AT_ONCE, &mut self.window);
                    let now = self.window.first().and_then(|batch| batch.arrival());
                    if self.session.is_paused() {
                        self.window.clear();
                        self.outbox.wait_for_start();
                    }
                    self.outbox.push_media(lost.packets, &mut self.window);
                    if let Some(now) = now {
                        self.session.tick(now);
                        let answers = self.session.answers();
                        if !answers.is_empty() {
                            self.outbox.push_control(answers);
                        }
                    }
                    // What was too much to be taken at once follows without a pause.
                    if !self.pace.coalesce.is_zero() && !self.reader.has_more() {
                        self.next = Instant::now() + self.pace.coalesce;
                    }
                }
            }
        }
        cx.waker().wake_by_ref(); // there may be more
        Poll::Pending
    }

    /// Hears the peer; `Some` when it has left.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Option<End> {
        loop {
            let mut heard = Ok(false);
            let Self { stream, session, .. } = self;
            match stream.poll_read(cx, |bytes| heard = session.listen(bytes)) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Some(error.into()),
                Poll::Ready(Ok(0)) => return Some(End::Lost(LossReason::Closed)),
                Poll::Ready(Ok(_)) => match heard {
                    Err(end) => return Some(end),
                    Ok(true) => return Some(End::Lost(LossReason::Closed)),
                    Ok(false) => {}
                },
            }
            let answers = self.session.answers();
            if !answers.is_empty() {
                self.outbox.push_control(answers);
            }
            if self.outbox.control_len() > MAX_CONTROL {
                return Some(End::Lost(LossReason::Protocol("it does not read our answers".into())));
            }
        }
        None
    }

    fn count(&mut self) {
        let (sent, dropped) = self.outbox.take_counts();
        self.player.count(sent, dropped);
        self.player.reported(self.session.reported_lost());
    }

    /// What is in the ring, and a goodbye, for as long as is reasonable.
    async fn farewell(&mut self) {
        if !self.ending {
            let lost = self.reader.read(&mut self.window);
            self.outbox.push_media(lost.packets, &mut self.window);
        }
        let Self { outbox, stream, session, .. } = self;
        let rest = async {
            poll_fn(|cx| outbox.poll_write(stream, cx)).await?;
            session.end(); // behind all media
            outbox.push_control(session.answers());
            poll_fn(|cx| outbox.poll_write(stream, cx)).await
        };
        let _ = tokio::time::timeout(FAREWELL, rest).await; // a peer that does not read misses it
    }
}

/// Sets the timer; pending, unless the time has come already, when the task runs again at once.
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
        router::{Delivery, Limits, Ring},
    };
    use std::io;
    use tokio::sync::Notify;

    /// A peer that is sent bare packets, and says nothing.
    struct Bare;

    impl Talk for Bare {
        fn listen(&mut self, _: &[u8]) -> Result<bool, End> {
            Ok(false)
        }

        fn answers(&mut self) -> Vec<u8> {
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

    /// Reads so many bytes.
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

    /// However long messages wait for more: what is there is not held back because it is more than is taken at once.
    #[tokio::test]
    async fn what_waits_together_leaves_together() -> io::Result<()> {
        const PACKET: usize = 50_000;
        let listener = listen(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?;
        let mut stream = Stream::connect(address, &Egress::default()).await?;
        let mut peer = Stream::accepted(listener.accept().await?.0);
        let ring = Ring::new(Limits { bytes: 64 << 20, time: Duration::from_secs(3600) });
        let mut reader = ring.reader();
        let publish = |count: usize| {
            for _ in 0..count {
                let mut delivery = Delivery::default();
                delivery.mark_start(Arc::from([]));
                delivery.packets.push(Packet::datagram(vec![7; PACKET], Instant::now()));
                ring.deliver(&mut delivery);
            }
        };
        publish(100);
        let (stop, player, mut session) = (Notify::new(), Player::new(address, Instant::now()), Bare);
        let pace = Pace {
            coalesce: Duration::from_secs(3600),
            slow: Duration::from_secs(60),
            bandwidth: FlowBandwidth::fixed(Bitrate::mbps(20)),
        };
        let ended = async {
            stop.notified().await;
            End::Stopped
        };
        let sent = send(&mut stream, &mut session, &mut reader, Outbox::new(Bare), &player, pace, ended);
        let received = async {
            take(&mut peer, 100 * PACKET).await?;
            // The next window has begun.
            publish(1);
            let early = tokio::time::timeout(Duration::from_millis(100), take(&mut peer, 1)).await;
            assert!(early.is_err(), "it did not wait for more");
            stop.notify_one();
            // What waits leaves before the end.
            take(&mut peer, PACKET).await
        };
        let (end, received) = tokio::join!(sent, received);
        assert!(matches!(end, End::Stopped), "{end:?}");
        received
    }
}
