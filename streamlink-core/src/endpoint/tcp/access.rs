//! Questions to the host about the peers of a TCP port, after their request and before they are served.
//!
//! Bounds: the number of undecided peers ([`MAX_UNDECIDED`]), the number of concurrent questions (that of the hook) and
//! the time ([`DECISION_TIME`]). The task of the connection waits; the hook runs elsewhere.

use super::{OpenRoute, Service, Shared};
use crate::{
    endpoint::{
        RefusalReason,
        access::{AccessHook, AccessRequest, Answer, DECISION_TIME, UNANSWERED},
    },
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
    undecided: Semaphore,
    calls: Arc<Semaphore>,
    /// Limits the log messages about answers that took too long.
    unanswered: Mutex<Throttle>,
}

impl AccessGate {
    pub(in crate::endpoint) fn new(hook: AccessHook) -> Self {
        let calls = Arc::new(Semaphore::new(hook.concurrency()));
        let unanswered = Mutex::new(Throttle::new(Duration::from_secs(1)));
        Self { hook, undecided: Semaphore::new(MAX_UNDECIDED), calls, unanswered }
    }

    /// Asks the host. `None` without an answer in time. `held` is dropped when no code of the host runs any more.
    async fn ask(&self, request: AccessRequest, held: impl Send + 'static) -> Option<Answer> {
        let answer = async {
            let permit = self.calls.clone().acquire_owned().await.ok()?;
            Some(self.hook.ask(request, (held, permit)).await)
        };
        tokio::time::timeout(DECISION_TIME, answer).await.ok().flatten()
    }
}

impl<S: Service> Shared<S> {
    /// Returns whether the host admits a peer to a route, if it wants to be asked. Fails with the code of the rejection,
    /// which is counted.
    pub(in crate::endpoint) async fn authorize(
        &self,
        route: &OpenRoute<S>,
        request: impl FnOnce(AccessRequest) -> AccessRequest,
        peer: SocketAddr,
    ) -> Result<(), u32> {
        let Some(gate) = &self.access else { return Ok(()) };
        let Ok(_undecided) = gate.undecided.try_acquire() else {
            route.refuse(peer, RefusalReason::TooManyAttempts, Instant::now());
            return Err(UNANSWERED);
        };
        let question = AccessRequest::new(route.events.flow(), route.status.name(), S::NAME, peer, route.is_source());
        // The token holds back the removal of the route until the host's code has returned.
        let answer = gate.ask(request(question), route.connections.token()).await;
        let now = Instant::now();
        let code = match answer {
            Some(Ok(_)) => return Ok(()),
            Some(Err(code)) => code,
            None => {
                if let Some(count) = lock(&gate.unanswered).admit(now, 1) {
                    log::warn!("{} port: the host did not say in time whether {count} peers may come in", S::NAME);
                }
                UNANSWERED
            }
        };
        self.peers.refused(peer.ip(), now);
        route.refuse(peer, RefusalReason::ByHost, now);
        Err(code)
    }
}
