//! Receiving: what a publisher, or a server that we play from, brings on one connection.

use super::{
    super::tcp::{Door, End, FAREWELL, answer, farewell, write_all},
    inbound::Inbound,
};
use crate::{
    endpoint::LossReason,
    net::Stream,
    proto::rtmp::{ClientSession, Fault, Outcome, Request, ServerSession},
};
use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, ready},
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
                Outcome::Rejected(what) => return Err(End::Lost(LossReason::Rejected(what))),
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

/// Receives until the flow or the peer ends it. What had come before is in `inbound` already.
pub(super) async fn receive(
    stream: &mut Stream,
    session: &mut impl Bring,
    inbound: &mut Inbound,
    peer: SocketAddr,
    stop: &CancellationToken,
) -> End {
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(tokio::time::sleep(IDLE_TIMEOUT));
    // Behind it are these two, of which nothing is heard for a long time.
    let mut door = Door::new();
    let mut heard = Instant::now();
    let mut answers = session.answers();
    let end = loop {
        if let Err(end) = answer(stream, &answers, stop).await {
            break end;
        }
        // Reads until there is something to answer.
        let result = poll_fn(|cx| {
            if door.has_rung(cx) {
                let cx = &mut Context::from_waker(door.waker());
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(End::Stopped));
                }
                while timer.as_mut().poll(cx).is_ready() {
                    if heard.elapsed() >= IDLE_TIMEOUT {
                        return Poll::Ready(Err(End::Lost(LossReason::Idle)));
                    }
                    timer.as_mut().reset((heard + IDLE_TIMEOUT).into());
                }
            }
            loop {
                let mut taken = Ok(());
                let read = stream.poll_read(cx, |bytes| {
                    heard = Instant::now();
                    taken = session.bring(bytes, inbound, heard);
                });
                match ready!(read) {
                    Ok(0) => return Poll::Ready(Err(End::Lost(LossReason::Closed))),
                    Ok(_) => {
                        inbound.publish(peer, heard).and(taken)?;
                        if session.is_within_message() {
                            stream.ask_for_more();
                        }
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
                let answers = session.answers();
                if !answers.is_empty() {
                    return Poll::Ready(Ok(answers));
                }
            }
        })
        .await;
        match result {
            Ok(more) => answers = more,
            Err(end) => break end,
        }
    };
    if matches!(end, End::Stopped) {
        session.end();
    }
    // The answer to its goodbye, or ours.
    let answers = session.answers();
    match end {
        // It closes the connection itself; some take it for an error when we do.
        End::Lost(LossReason::Closed) => {
            let _ = tokio::time::timeout(FAREWELL, write_all(stream, &answers)).await; // it may be gone
        }
        _ => farewell(stream, &answers).await,
    }
    end
}
