//! Receiving: what a publisher, or a server that we play from, brings on one connection.

use super::{
    super::tcp::{CLOSE_TIMEOUT, End, SubWaker, answer, close_with, write_all},
    inbound::{Entrance, Inbound},
};
use crate::{
    endpoint::LossReason,
    lock::lock,
    net::{ReadAction, ReadOutcome, ReadSink, Stream},
    proto::rtmp::{ClientEvent, ClientSession, ProtocolError, Request, ServerSession},
};
use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
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
                    return Err(ProtocolError::Unexpected("publish or play").into());
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
                ClientEvent::Media(message) => inbound.take(message, now)?,
                ClientEvent::End => return Err(End::Lost(LossReason::Closed)),
                ClientEvent::Rejected(what) => return Err(End::Lost(LossReason::Rejected(what.into()))),
                ClientEvent::Ready => {}
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
pub(super) async fn drain_until_closed(stream: &mut Stream) {
    let closed = async { while poll_fn(|cx| stream.poll_read(cx, |_| {})).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
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

impl<B: Bring + Send> ReadSink for Taker<B> {
    fn on_read(&mut self, bytes: &[u8]) -> ReadAction {
        let mut inbound = self.inbound.lock();
        self.heard = Instant::now();
        let taken = self.session.bring(bytes, &mut inbound, self.heard);
        if let Err(end) = inbound.publish(self.peer, self.heard).and(taken) {
            self.end = Some(end);
            return ReadAction::Notify;
        }
        self.answers = self.session.answers();
        match self.session.is_within_message() {
            _ if !self.answers.is_empty() => ReadAction::Notify,
            true => ReadAction::RequestMore,
            false => ReadAction::Continue,
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
    stream.detach_sink();
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
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, write_all(stream, &answers)).await; // it may be gone
        }
        _ => close_with(stream, &answers).await,
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
    // Polls these two, which are rarely ready.
    let mut sub_waker = SubWaker::new();
    loop {
        let answers = std::mem::take(&mut lock(taker).answers);
        if let Err(end) = answer(stream, &answers, stop).await {
            return end;
        }
        let fed = poll_fn(|cx| {
            let rare = sub_waker.poll_if_woken(cx, |cx| {
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Stopped);
                }
                while timer.as_mut().poll(cx).is_ready() {
                    let heard = lock(taker).heard;
                    if heard.elapsed() >= IDLE_TIMEOUT {
                        return Poll::Ready(End::Lost(LossReason::Idle));
                    }
                    timer.as_mut().reset((heard + IDLE_TIMEOUT).into());
                }
                Poll::Pending
            });
            if let Poll::Ready(end) = rare {
                return Poll::Ready(Err(end));
            }
            stream.poll_read_to_sink(cx, taker).map_err(End::from)
        });
        match fed.await {
            Ok(ReadOutcome::Closed) => return End::Lost(LossReason::Closed),
            Ok(ReadOutcome::Notified) => {}
            Err(end) => return end,
        }
        if let Some(end) = lock(taker).end.take() {
            return end;
        }
    }
}
