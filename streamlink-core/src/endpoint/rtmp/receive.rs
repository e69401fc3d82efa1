//! Reception of media on one connection, from a publisher or from a server that a caller plays from.

use super::{
    super::tcp::{CLOSE_TIMEOUT, End, SubWaker, answer, close_with, write_all},
    inbound::{SourceSession, SourceSlot},
    send_session::after_consent,
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

/// A session that receives media.
pub(super) trait ReceiveSession {
    /// Reads received bytes and adds their media messages to `inbound`.
    fn bring(&mut self, bytes: &[u8], inbound: &mut SourceSession, now: Instant) -> Result<(), End>;
    /// Returns whether the bytes read so far end within a message.
    fn is_within_message(&mut self) -> bool;
    /// Responses to be sent to the peer.
    fn answers(&mut self) -> Vec<u8>;
    /// Ends the stream towards the peer.
    fn end(&mut self);
}

impl ReceiveSession for ServerSession {
    fn bring(&mut self, mut bytes: &[u8], inbound: &mut SourceSession, now: Instant) -> Result<(), End> {
        self.link().received(bytes.len());
        while let Some(request) = self.read(&mut bytes)? {
            match request {
                Request::Media(message) => inbound.take(message, now)?,
                Request::End => {
                    self.keep_rest(bytes);
                    return Err(End::Lost(LossReason::Closed));
                }
                Request::Publish(_) | Request::Play(_) => {
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

impl ReceiveSession for ClientSession {
    fn bring(&mut self, mut bytes: &[u8], inbound: &mut SourceSession, now: Instant) -> Result<(), End> {
        self.link().received(bytes.len());
        while let Some(outcome) = self.read(&mut bytes)? {
            match outcome {
                ClientEvent::Media(message) => inbound.take(message, now)?,
                ClientEvent::End => return Err(End::Lost(LossReason::Closed)),
                other => after_consent(other)?,
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
        Self::end(self);
    }
}

/// Waits until the peer closes the connection after its farewell, for [`CLOSE_TIMEOUT`] at most.
pub(super) async fn drain_until_closed(stream: &mut Stream) {
    let closed = async { while poll_fn(|cx| stream.poll_read(cx, |_| {})).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
}

/// Feeds the bytes of one connection into its session.
struct RtmpReadSink<B> {
    inbound: Arc<SourceSlot>,
    peer: SocketAddr,
    /// Responses to be sent to the peer.
    answers: Vec<u8>,
    /// `None` after the connection's end.
    session: Option<B>,
    /// Reason to end the connection, set by the last read.
    end: Option<End>,
}

impl<B: ReceiveSession + Send> ReadSink for RtmpReadSink<B> {
    fn on_read(&mut self, bytes: &[u8]) -> ReadAction {
        let Some(session) = &mut self.session else { return ReadAction::Notify };
        let mut inbound = self.inbound.lock();
        let now = Instant::now();
        let taken = session.bring(bytes, &mut inbound, now);
        if let Err(end) = inbound.publish(self.peer, now).and(taken) {
            self.end = Some(end);
            return ReadAction::Notify;
        }
        self.answers = session.answers();
        if !self.answers.is_empty() {
            ReadAction::Notify
        } else if session.is_within_message() {
            ReadAction::RequestMore
        } else {
            ReadAction::Continue
        }
    }
}

/// Receives media until the flow or the peer ends the stream. Media read before this call is in `inbound` already.
/// Returns the session, with which the peer may have another stream on the same connection.
pub(super) async fn receive<B: ReceiveSession + Send + 'static>(
    stream: &mut Stream,
    mut session: B,
    inbound: Arc<SourceSlot>,
    peer: SocketAddr,
    stop: &CancellationToken,
) -> (End, Option<B>) {
    let answers = session.answers();
    let sink = RtmpReadSink { inbound: inbound.clone(), peer, answers, session: Some(session), end: None };
    let taker = Arc::new(Mutex::new(sink));
    let end = listen(stream, &taker, &inbound, stop).await;
    stream.detach_sink();
    let mut session = lock(&taker).session.take();
    let mut answers = Vec::new();
    if let Some(session) = &mut session {
        if matches!(end, End::Stopped) {
            session.end();
        }
        // The response to the peer's farewell, or our own farewell.
        answers = session.answers();
    }
    match end {
        // The peer closes the connection itself. Some peers report an error if we close it first.
        End::Lost(LossReason::Closed) => {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, write_all(stream, &answers)).await; // may be closed already
        }
        _ => close_with(stream, &answers).await,
    }
    (end, session)
}

/// Reads the connection and sends the responses, until the flow, the peer or a timeout ends it.
async fn listen<B: ReceiveSession + Send + 'static>(
    stream: &mut Stream,
    taker: &Arc<Mutex<RtmpReadSink<B>>>,
    inbound: &SourceSlot,
    stop: &CancellationToken,
) -> End {
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    // Polls `stopped` and `timer`, which are rarely ready.
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
                    let Some(deadline) = inbound.lock().idle_deadline() else { break };
                    if Instant::now() >= deadline {
                        return Poll::Ready(End::Lost(LossReason::Idle));
                    }
                    timer.as_mut().reset(deadline.into());
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
