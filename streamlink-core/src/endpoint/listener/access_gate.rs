//! Questions to the host about the peers of a port, after their request and before they are served.
//!
//! Bounds: the number of undecided peers ([`MAX_UNDECIDED`]; SRT callers hold pending places instead), the number of
//! concurrent questions, which is that of the hook, and the time ([`DECISION_TIME`]).

use super::Admission;
use crate::{
    endpoint::access::{AccessHook, AccessRequest, DECISION_TIME, HookAnswer, UNANSWERED},
    lock::lock,
    time::Throttle,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Maximum number of undecided peers of one port.
const MAX_UNDECIDED: usize = 1024;

/// Access hook of a port with its bounds.
#[derive(Debug)]
pub(in crate::endpoint) struct AccessGate {
    hook: AccessHook,
    protocol: &'static str,
    undecided: Semaphore,
    calls: Arc<Semaphore>,
    /// Limits the log messages about answers that took too long.
    unanswered: Mutex<Throttle>,
}

impl AccessGate {
    pub(in crate::endpoint) fn new(hook: AccessHook, protocol: &'static str) -> Self {
        let calls = Arc::new(Semaphore::new(hook.concurrency()));
        let unanswered = Mutex::new(Throttle::new(Duration::from_secs(1)));
        Self { hook, protocol, undecided: Semaphore::new(MAX_UNDECIDED), calls, unanswered }
    }

    /// Returns a question about a peer of a route, to which the protocol adds what the peer has asked for.
    pub(in crate::endpoint) fn question(&self, route: &Admission, peer: SocketAddr) -> AccessRequest {
        AccessRequest::new(route.events().flow(), route.status().name(), self.protocol, peer, route.is_source())
    }

    /// Asks the host, once fewer questions than allowed are open. `held` is dropped when no code of the host runs any
    /// more, which may be after the future was dropped.
    pub(in crate::endpoint) fn ask(
        &self,
        question: AccessRequest,
        held: impl Send + 'static,
    ) -> impl Future<Output = HookAnswer> + Send + 'static {
        let hook = self.hook.clone();
        let calls = self.calls.clone();
        async move {
            let Ok(permit) = calls.acquire_owned().await else { return Err(UNANSWERED) }; // it is never closed
            hook.ask(question, (held, permit)).await
        }
    }

    /// Asks the host in the same way, for at most [`DECISION_TIME`]. `None` if too many peers are undecided.
    pub(in crate::endpoint) async fn ask_in_time(
        &self,
        question: AccessRequest,
        held: impl Send + 'static,
    ) -> Option<HookAnswer> {
        let _undecided = self.undecided.try_acquire().ok()?;
        let answer = tokio::time::timeout(DECISION_TIME, self.ask(question, held)).await;
        Some(answer.unwrap_or_else(|_| {
            self.log_unanswered(Instant::now());
            Err(UNANSWERED)
        }))
    }

    /// Logs that the host has not answered in time, at most once a second.
    pub(in crate::endpoint) fn log_unanswered(&self, now: Instant) {
        if let Some(count) = lock(&self.unanswered).admit(now, 1) {
            log::warn!("{} port: the host did not say in time whether {count} peers may come in", self.protocol);
        }
    }
}
