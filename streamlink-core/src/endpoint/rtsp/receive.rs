//! Reception of media in one session over TCP or UDP, from a client that records or a server that a caller plays from.

use super::{
    super::tcp::{End, SubWaker, answer, close_with, yield_periodically},
    end_of,
    inbound::SourceSession,
    send_session::EmptyDirectory,
    udp::UdpTracks,
    wire::Interleaved,
};
use crate::{
    endpoint::LossReason,
    media::rtsp::is_rtcp,
    net::{Stream, TimerFd},
    proto::rtsp::{ClientEvent, ClientSession, Request, ServerSession},
};
use bytes::Bytes;
use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Maximum number of reads collected into one batch.
const MAX_READS: u32 = 16;
/// Interval between receiver reports over UDP.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// A session that receives media.
pub(super) trait ReceiveSession {
    /// Reads bytes received on the connection and passes interleaved frames to `take`.
    fn bring(&mut self, bytes: &[u8], take: &mut dyn FnMut(u8, Bytes) -> Result<(), End>) -> Result<(), End>;
    /// Returns the number of runs of bytes and of frames that belonged to nothing, since the last call.
    fn dropped(&mut self) -> u64;
    /// Returns the messages to be sent to the peer.
    fn answers(&mut self) -> Vec<u8>;
    /// Queues a keep-alive request. Returns the time until the next one, or `None` if the session needs none.
    fn sign_of_life(&mut self) -> Option<Duration>;
    /// Ends the session towards the peer.
    fn end(&mut self);
}

impl ReceiveSession for ServerSession {
    fn bring(&mut self, bytes: &[u8], take: &mut dyn FnMut(u8, Bytes) -> Result<(), End>) -> Result<(), End> {
        self.push(bytes);
        while let Some(request) = self.next(&mut EmptyDirectory)? {
            match request {
                Request::Frame { channel, data } => take(channel, data)?,
                _ => return Err(End::Lost(LossReason::Closed)),
            }
        }
        Ok(())
    }

    fn dropped(&mut self) -> u64 {
        self.take_dropped()
    }

    fn answers(&mut self) -> Vec<u8> {
        self.take_output()
    }

    fn sign_of_life(&mut self) -> Option<Duration> {
        None
    }

    fn end(&mut self) {}
}

impl ReceiveSession for ClientSession {
    fn bring(&mut self, bytes: &[u8], take: &mut dyn FnMut(u8, Bytes) -> Result<(), End>) -> Result<(), End> {
        self.push(bytes);
        while let Some(outcome) = self.next()? {
            if let Some(reason) = end_of(&outcome) {
                return Err(End::Lost(reason));
            }
            if let ClientEvent::Frame { channel, data } = outcome {
                take(channel, data)?;
            }
        }
        Ok(())
    }

    fn dropped(&mut self) -> u64 {
        self.take_dropped()
    }

    fn answers(&mut self) -> Vec<u8> {
        self.take_output()
    }

    fn sign_of_life(&mut self) -> Option<Duration> {
        self.keep_alive();
        Some(self.keep_alive_interval())
    }

    fn end(&mut self) {
        Self::end(self);
    }
}

/// Everything that one session needs to receive media.
pub(super) struct Receiving<'a, T> {
    pub(super) stream: &'a mut Stream,
    pub(super) session: &'a mut T,
    pub(super) wire: Interleaved,
    pub(super) udp: &'a mut UdpTracks,
    pub(super) inbound: &'a mut SourceSession,
    pub(super) peer: SocketAddr,
    /// Maximum time until the first media, instead of the idle timeout.
    pub(super) first: Option<Duration>,
}

impl<T: ReceiveSession> Receiving<'_, T> {
    /// Receives media until the flow, the peer or a timeout ends the session.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> End {
        let start = Instant::now();
        let mut next_keep_alive = self.session.sign_of_life().map(|interval| start + interval);
        let mut next_report = start;
        let mut heard_any = false;
        let mut stopped = pin!(stop.cancelled());
        // Polls `stopped`.
        let mut sub_waker = SubWaker::new();
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        // The packets of a picture arrive in many reads. Collecting them lets the picture leave in one batch.
        let coalesce = self.inbound.coalesce();
        let mut alarm = if coalesce.is_zero() { None } else { TimerFd::new().ok() };
        let mut gathered = 0;
        let mut turns = 0;
        let end = loop {
            let now = Instant::now();
            if next_keep_alive.is_some_and(|at| now >= at) {
                next_keep_alive = self.session.sign_of_life().map(|interval| now + interval);
            }
            if !self.udp.is_empty() && now >= next_report {
                let Self { udp, inbound, .. } = &mut self;
                udp.greet(|track| inbound.report(track, now), !heard_any);
                next_report = now + if heard_any { REPORT_INTERVAL } else { Duration::from_millis(500) };
            }
            if let Err(end) = self.answer(stop).await {
                break end;
            }
            let first = self.first.filter(|_| !self.inbound.is_live()).map(|patience| start + patience);
            let idle = first.into_iter().chain(self.inbound.idle_deadline()).min();
            if idle.is_some_and(|at| now >= at) {
                break End::Lost(LossReason::Idle);
            }
            let report = (!self.udp.is_empty()).then_some(next_report);
            let due = [next_keep_alive, report, self.inbound.next_timeout(), idle];
            let due = due.into_iter().flatten().min().unwrap_or(now);
            timer.as_mut().reset(due.into());
            let result = poll_fn(|cx| {
                if sub_waker.poll_if_woken(cx, |cx| stopped.as_mut().poll(cx)).is_ready() {
                    return Poll::Ready(Err(End::Stopped));
                }
                let Self { stream, session, wire, udp, inbound, peer, .. } = &mut self;
                let now = Instant::now();
                let mut taken = Ok(());
                let mut some = false;
                // Only media counts as heard: not responses, reports, or datagrams that were refused.
                let mut has_media = false;
                let mut unknown = (0, 0);
                let read = stream.poll_read(cx, |bytes| {
                    taken = session.bring(bytes, &mut |channel, data| match wire.track(channel) {
                        Some(track) => {
                            has_media |= !is_rtcp(&data);
                            inbound.take(track, data, now, now)
                        }
                        None => {
                            unknown = (unknown.0 + 1, channel); // no track was set up on this channel
                            Ok(())
                        }
                    });
                    inbound.malformed(session.dropped());
                });
                inbound.unknown_channel(unknown, *peer, now);
                match read {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Lost(LossReason::Closed))),
                    Poll::Ready(Ok(_)) => some = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => {}
                }
                if !udp.is_empty() {
                    let mut udp_taken = Ok(());
                    let received = udp.poll_receive(cx, peer.ip(), now, |track, datagram| {
                        has_media |= !is_rtcp(&datagram.data);
                        if udp_taken.is_ok() {
                            udp_taken = inbound.take(track, datagram.data, datagram.arrival, now);
                        }
                    });
                    some |= received.is_ready();
                    taken = taken.and(udp_taken);
                    let (count, sender) = std::mem::take(&mut udp.strangers);
                    inbound.strangers(count, sender, now);
                }
                heard_any |= has_media;
                if let Some(alarm) = &mut alarm {
                    if some && taken.is_ok() && (gathered > 0 || alarm.set(coalesce).is_ok()) {
                        gathered += 1;
                    }
                    if gathered > 0 && taken.is_ok() {
                        if gathered > MAX_READS || alarm.poll_expired(cx).is_ready() {
                            gathered = 0;
                            return Poll::Ready(inbound.publish(*peer, now));
                        }
                        // Read what else has arrived before the timer expires. Responses can wait until then.
                        if some {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                }
                if some || timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(inbound.publish(*peer, now).and(taken));
                }
                Poll::Pending
            })
            .await;
            if let Err(end) = result {
                break end;
            }
            yield_periodically(&mut turns).await;
        };
        if !matches!(end, End::Lost(LossReason::Closed)) {
            self.session.end();
        }
        // The response to the peer's TEARDOWN, or our own TEARDOWN.
        let answers = self.session.answers();
        close_with(self.stream, &answers).await;
        end
    }

    async fn answer(&mut self, stop: &CancellationToken) -> Result<(), End> {
        let answers = self.session.answers();
        answer(self.stream, &answers, stop).await
    }
}
