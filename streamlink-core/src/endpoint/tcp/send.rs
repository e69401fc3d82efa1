//! Sending: what comes into the ring goes to one connection, and what the peer says in between is answered.

use super::{Door, End, FAREWELL, Outbox, Player, Wire};
use crate::{
    endpoint::LossReason,
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
use tokio_util::sync::CancellationToken;

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
#[derive(Clone, Copy, Debug)]
pub(in crate::endpoint) struct Pace {
    /// How long messages may wait for more.
    pub(in crate::endpoint) coalesce: Duration,
    /// How long the peer may be behind.
    pub(in crate::endpoint) slow: Duration,
}

struct Sending<'a, T, W> {
    stream: &'a mut Stream,
    session: &'a mut T,
    reader: &'a mut Reader,
    outbox: Outbox<W>,
    player: &'a Player,
    pace: Pace,
    /// Behind it is what the peer says.
    door: Door,
    window: Vec<Arc<Batch>>,
    /// Since when the peer is behind.
    behind: Option<Instant>,
    /// When more may be written.
    next: Instant,
    ending: bool,
}

/// Sends until the flow, the peer or the endpoint ends it.
pub(in crate::endpoint) async fn send<T: Talk, W: Wire>(
    stream: &mut Stream,
    session: &mut T,
    reader: &mut Reader,
    outbox: Outbox<W>,
    player: &Player,
    pace: Pace,
    stop: &CancellationToken,
) -> End {
    let now = Instant::now();
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
    let end = {
        let mut ended = player.ended(stop);
        poll_fn(|cx| match Pin::new(&mut ended).poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => sending.poll(timer.as_mut(), cx),
        })
        .await
    };
    if matches!(end, End::Stopped) {
        sending.farewell().await;
    }
    sending.count();
    end
}

impl<T: Talk, W: Wire> Sending<'_, T, W> {
    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(end) = self.poll_input(cx) {
            return Poll::Ready(end);
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
                    if !self.pace.coalesce.is_zero() {
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
        if !self.door.has_rung(cx) {
            return None;
        }
        loop {
            let mut heard = Ok(false);
            let Self { stream, session, door, .. } = self;
            match stream.poll_read(&mut Context::from_waker(door.waker()), |bytes| heard = session.listen(bytes)) {
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
