//! Receiving: what a publisher, or a server that we play from, brings on one connection.

use super::{
    super::tcp::{Door, End, FAREWELL, answer, farewell, write_all},
    inbound::{Entrance, Inbound},
};
use crate::{
    endpoint::LossReason,
    lock::lock,
    net::{Fed, Next, Stream, Take},
    proto::rtmp::{ClientSession, Fault, Outcome, Request, ServerSession},
};
use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long whoever brings media may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The side of a session that brings media.
pub(super) trait Bring {
    /// Takes what has come.
    fn bring(&mut self, bytes: &[u8], inbound: &mut Inbound, now: Instant) -> Result<(), End>;
    /// Whether what has come ends within a message.
    fn is_within_message(&mut self) -> bool;
    /// What is to be answered.
    fn answers(&mut self) -> Vec<u8>;
    /// Says goodbye.
    fn end(&mut self);
}

impl Bring for ServerSession {
    fn bring(&mut self, mut bytes: &[u8], inbound: &mut Inbound, now: Instant) -> Result<(), End> {
        self.link().received(bytes.len());
        while let Some(request) = self.read(&mut bytes)? {
            match request {
                Request::Media(message) => inbound.take(message, now)?,
                Request::End => return Err(End::Lost(LossReason::Closed)),
                Request::Publish { .. } | Request::Play { .. } => {
                    return Err(Fault::Unexpected("publish or play").into());
                }
            }
        }
        Ok(())
    }

    fn is_within_message(&mut self) -> bool {
        self.link().is_within_message()
    }

    fn answers(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {}
}

impl Bring for ClientSession {
    fn bring(&mut self, mut bytes: &[u8], inbound: &mut Inbound, now: Instant) -> Result<(), End> {
        self.link().received(bytes.len());
        while let Some(outcome) = self.read(&mut bytes)? {
            match outcome {
                Outcome::Media(message) => inbound.take(message, now)?,
                Outcome::End => return Err(End::Lost(LossReason::Closed)),
                Outcome::Rejected(what) => return Err(End::Lost(LossReason::Rejected(what.into()))),
                Outcome::Ready => {}
            }
        }
        Ok(())
    }

    fn is_within_message(&mut self) -> bool {
        self.link().is_within_message()
    }

    fn answers(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        ClientSession::end(self);
    }
}

/// After its goodbye a peer closes the connection itself; one that does not is not waited for.
pub(super) async fn linger(stream: &mut Stream) {
    let closed = async { while poll_fn(|cx| stream.poll_read(cx, |_| {})).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(FAREWELL, closed).await;
}

/// What takes what comes on one connection. In this order: what every read touches lies together.
#[repr(C)]
struct Taker<B> {
    inbound: Arc<Entrance>,
    heard: Instant,
    peer: SocketAddr,
    /// What is to be answered.
    answers: Vec<u8>,
    session: B,
    /// What came was the last.
    end: Option<End>,
}

impl<B: Bring + Send> Take for Taker<B> {
    fn take(&mut self, bytes: &[u8]) -> Next {
        let mut inbound = self.inbound.lock();
        self.heard = Instant::now();
        let taken = self.session.bring(bytes, &mut inbound, self.heard);
        if let Err(end) = inbound.publish(self.peer, self.heard).and(taken) {
            self.end = Some(end);
            return Next::Tell;
        }
        self.answers = self.session.answers();
        match self.session.is_within_message() {
            _ if !self.answers.is_empty() => Next::Tell,
            true => Next::Ask,
            false => Next::GoOn,
        }
    }
}

/// Receives until the flow or the peer ends it. What had come before is in `inbound` already.
pub(super) async fn receive<B: Bring + Send + 'static>(
    stream: &mut Stream,
    mut session: B,
    inbound: Arc<Entrance>,
    peer: SocketAddr,
    stop: &CancellationToken,
) -> End {
    let (heard, answers) = (Instant::now(), session.answers());
    let taker = Arc::new(Mutex::new(Taker { inbound, heard, peer, answers, session, end: None }));
    let end = listen(stream, &taker, stop).await;
    stream.end_feed();
    let answers = {
        let mut taker = lock(&taker);
        if matches!(end, End::Stopped) {
            taker.session.end();
        }
        // The answer to its goodbye, or ours.
        taker.session.answers()
    };
    match end {
        // It closes the connection itself; some take it for an error when we do.
        End::Lost(LossReason::Closed) => {
            let _ = tokio::time::timeout(FAREWELL, write_all(stream, &answers)).await; // it may be gone
        }
        _ => farewell(stream, &answers).await,
    }
    end
}

/// Has what comes taken, and answers, until one of them or the flow has an end.
async fn listen<B: Bring + Send + 'static>(
    stream: &mut Stream,
    taker: &Arc<Mutex<Taker<B>>>,
    stop: &CancellationToken,
) -> End {
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(tokio::time::sleep(IDLE_TIMEOUT));
    // Behind it are these two, of which nothing is heard for a long time.
    let mut door = Door::new();
    loop {
        let answers = std::mem::take(&mut lock(taker).answers);
        if let Err(end) = answer(stream, &answers, stop).await {
            return end;
        }
        let fed = poll_fn(|cx| {
            if door.has_rung(cx) {
                let cx = &mut Context::from_waker(door.waker());
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(End::Stopped));
                }
                while timer.as_mut().poll(cx).is_ready() {
                    let heard = lock(taker).heard;
                    if heard.elapsed() >= IDLE_TIMEOUT {
                        return Poll::Ready(Err(End::Lost(LossReason::Idle)));
                    }
                    timer.as_mut().reset((heard + IDLE_TIMEOUT).into());
                }
            }
            stream.poll_feed(cx, taker).map_err(End::from)
        });
        match fed.await {
            Ok(Fed::Closed) => return End::Lost(LossReason::Closed),
            Ok(Fed::Told) => {}
            Err(end) => return end,
        }
        if let Some(end) = lock(taker).end.take() {
            return end;
        }
    }
}
