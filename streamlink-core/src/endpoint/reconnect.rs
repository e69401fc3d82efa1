//! The loop of every caller, of all protocols and both directions: connect, run, back off, connect again.
//!
//! A protocol implements [`Caller`]: one connection from the first packet to its end. The loop owns everything around
//! it: the state of the endpoint, the delays, the counters of reconnections, and the events about losses and attempts.

use super::{Event, EventSink, LossReason, Status, backoff::Backoff, tcp::End};
use crate::{flow::Reconnect, lock::log_handshake, random::Random, router::State};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Maximum number of attempts in a row that follow one another without a delay.
const MAX_IMMEDIATE: u32 = 8;

/// Maximum delay of the next attempt that a peer may ask for.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(300);

/// End of a connection, or of an attempt at one.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The caller was stopped.
    Stopped,
    /// The connection was lost. The next attempt is made after a delay.
    Lost(LossReason),
    /// The peer has refused, and asks not to come back before this time has passed.
    Busy(LossReason, Duration),
    /// The next attempt is a different one (another transport, the target of a redirection) and is made at once. The
    /// reason, if there is one, is reported.
    TryNext(Option<LossReason>),
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        match end {
            End::Stopped => Self::Stopped,
            End::Lost(reason) => Self::Lost(reason),
        }
    }
}

/// A protocol's caller, with the state that it keeps from one connection to the next.
pub(super) trait Caller: Send {
    /// Makes one attempt to connect, calls [`ConnectionAttempt::up`] when the peer has agreed, and runs the connection to its
    /// end. Returns soon after the caller is stopped.
    fn connect_and_run(&mut self, connection: &mut ConnectionAttempt<'_>) -> impl Future<Output = Outcome> + Send;

    /// Waits until the configuration has changed in a way that makes another attempt worth while at once.
    fn reconfigured(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Ends the media of the connection. `reason` is `None` if the caller was stopped. Returns whether a source was
    /// connected, in which case its loss was reported.
    fn end(&mut self, reason: Option<&LossReason>, now: Instant) -> bool;
}

/// Number of connections of one output, shared by its callers.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionCount(Arc<AtomicUsize>);

/// Settings of the loop.
#[derive(Debug)]
pub(super) struct ReconnectLoop {
    pub(super) is_source: bool,
    pub(super) reconnect: Reconnect,
    pub(super) random: Random,
    pub(super) status: Arc<Status>,
    pub(super) events: EventSink,
    pub(super) stop: CancellationToken,
    /// Connections of the endpoint. An output is connected while there is at least one.
    pub(super) connections: ConnectionCount,
}

/// Connection that a caller makes, or tries to make.
#[derive(Debug)]
pub(super) struct ConnectionAttempt<'a> {
    context: &'a ReconnectLoop,
    /// Address of the peer that was reached.
    reached: Option<SocketAddr>,
    /// Address that was reached last and has led to nothing, so that the others are tried first.
    pub(super) avoid: Option<SocketAddr>,
    /// Peer, and the time at which it has agreed.
    up: Option<(SocketAddr, Instant)>,
    /// Set if the caller was connected before.
    connected_before: bool,
}

impl ConnectionAttempt<'_> {
    /// Records the address of the peer, once the transport is connected.
    pub(super) fn reached(&mut self, peer: SocketAddr) {
        log_handshake(|| format!("`{}` has reached {peer}", self.context.status.name()));
        self.reached = Some(peer);
    }

    /// Records that the peer has agreed to send or receive media. An output is connected from here on; a source is when
    /// its first media arrives.
    pub(super) fn up(&mut self, peer: SocketAddr) {
        let now = now();
        log_handshake(|| format!("`{}`: {peer} has agreed", self.context.status.name()));
        self.reached = Some(peer);
        self.up = Some((peer, now));
        self.context.status.set_peer(Some(peer));
        let ReconnectLoop { is_source, status, events, connections, .. } = self.context;
        if *is_source {
            return;
        }
        if connections.0.fetch_add(1, Relaxed) == 0 {
            status.counters.set_state(State::Connected, now);
        }
        status.counters.reconnections.add(u64::from(self.connected_before));
        events.emit(Event::OutputConnected { output: status.name(), peer: Some(peer) });
    }
}

/// Returns the time by the clock of the runtime, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl ReconnectLoop {
    /// Runs a caller until it is stopped.
    pub(super) async fn run(self, mut caller: impl Caller) {
        let mut backoff = Backoff::new(self.reconnect, self.random.clone());
        let mut report = LossReports { context: &self, told: None };
        let mut connected_before = false;
        let mut immediate = 0;
        let mut avoid = None;
        if self.is_source || self.connections.0.load(Relaxed) == 0 {
            self.status.counters.set_state(State::Waiting, now());
        }
        loop {
            let started = now();
            let mut connection = ConnectionAttempt { context: &self, reached: None, avoid, up: None, connected_before };
            let outcome = caller.connect_and_run(&mut connection).await;
            let ConnectionAttempt { up, reached, .. } = connection;
            let now = now();
            let mut at_least = Duration::ZERO;
            let (reason, is_other) = match outcome {
                Outcome::Stopped => {
                    caller.end(None, now);
                    self.down(up, now, State::Idle);
                    return;
                }
                Outcome::Lost(reason) => (Some(reason), false),
                Outcome::Busy(reason, wait) => {
                    at_least = wait.min(MAX_ASKED_WAIT);
                    (Some(reason), false)
                }
                Outcome::TryNext(reason) => (reason, true),
            };
            log_handshake(|| {
                let why = reason.as_ref().map_or_else(|| "another way is tried".to_owned(), ToString::to_string);
                let at = reached.map(|peer| format!(" of {peer}")).unwrap_or_default();
                format!("`{}`: end{at}: {why}", self.status.name())
            });
            let was_live = caller.end(Some(reason.as_ref().unwrap_or(&LossReason::Closed)), now);
            self.down(up, now, State::Waiting);
            let was_connected = if self.is_source { was_live } else { up.is_some() };
            avoid = if was_connected { None } else { reached };
            if was_connected {
                connected_before = true;
                immediate = 0;
                backoff.connected(now.saturating_duration_since(up.map_or(started, |(_, at)| at)));
            }
            let wait = if is_other && immediate < MAX_IMMEDIATE {
                immediate += 1;
                backoff.count();
                Duration::ZERO
            } else {
                immediate = 0;
                backoff.failed(reason.as_ref()).max(at_least)
            };
            if let Some(reason) = reason {
                self.status.record_loss(&reason, reached, now);
                report.lost(&reason, reached, was_connected, was_live || is_other);
                report.retrying(reason, backoff.attempts(), wait);
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.status.counters.set_state(State::Idle, now);
                    return;
                }
                () = caller.reconfigured() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Updates the state of the endpoint after the end of a connection, or of an attempt.
    fn down(&self, up: Option<(SocketAddr, Instant)>, now: Instant, state: State) {
        let others = if self.is_source || up.is_none() {
            self.connections.0.load(Relaxed)
        } else {
            self.connections.0.fetch_sub(1, Relaxed).saturating_sub(1)
        };
        if others == 0 {
            self.status.counters.set_state(state, now);
        }
        if up.is_some_and(|(peer, _)| self.status.peer() == Some(peer)) {
            self.status.set_peer(None);
        }
    }
}

/// Returns the event about the loss of a source or an output.
pub(super) fn lost(status: &Status, is_source: bool, peer: Option<SocketAddr>, reason: LossReason) -> Event {
    if is_source {
        Event::SourceLost { source: status.name(), peer, reason }
    } else {
        Event::OutputLost { output: status.name(), peer, reason }
    }
}

/// Reports of one caller, without those that only repeat the one before.
struct LossReports<'a> {
    context: &'a ReconnectLoop,
    /// Reason that was reported last, while there was no connection since.
    told: Option<LossReason>,
}

impl LossReports<'_> {
    /// Reports a loss: of a connection, or the first of several failed attempts in a row.
    fn lost(&mut self, reason: &LossReason, peer: Option<SocketAddr>, was_connected: bool, is_reported: bool) {
        if was_connected {
            self.told = None;
        }
        if self.told.is_some() || is_reported {
            return;
        }
        let ReconnectLoop { is_source, status, events, .. } = self.context;
        events.emit(lost(status, *is_source, peer, reason.clone()));
    }

    /// Reports the next attempt, unless the one before failed for the same reason.
    fn retrying(&mut self, reason: LossReason, attempt: u32, delay: Duration) {
        let name = self.context.status.name();
        if self.told.as_ref() == Some(&reason) {
            log::debug!("`{name}` retries in {} ms, after {attempt} attempts: {reason}", delay.as_millis());
            return;
        }
        self.told = Some(reason.clone());
        self.context.events.emit(if self.context.is_source {
            Event::SourceRetrying { source: name, attempt, delay, reason }
        } else {
            Event::OutputRetrying { output: name, attempt, delay, reason }
        });
    }
}

#[cfg(test)]
mod tests;
