//! Access decisions of the host about the peers of listeners.

use crate::{flow::Passphrase, lock, secret::Secret, text::PeerText};
use futures_util::future::BoxFuture;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::task::AbortOnDropHandle;

/// Time limit for the answer of a hook. A caller of libsrt waits 3 s.
pub(super) const DECISION_TIME: Duration = Duration::from_secs(2);
/// Maximum number of concurrent calls of a hook that may block, for each port.
const MAX_BLOCKING: usize = 16;
/// Maximum number of concurrent questions to a hook that answers later, for each port.
const MAX_LATER: usize = 256;

/// Request of a peer to publish to a source or to play an output that listens. The peer's address is on the allowlist,
/// and the peer has proved that it is its own.
///
/// Texts are as the peer has sent them, so they may hold anything. `Debug` shows them sanitized, and no key.
#[derive(Clone)]
#[non_exhaustive]
pub struct AccessRequest {
    /// Name of the flow.
    pub flow: String,
    /// Name of the requested source or output.
    pub endpoint: String,
    /// Name of the protocol: `SRT`, `RTMP` or `RTSP`.
    pub protocol: &'static str,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Direction of the media: `true` if the peer sends to a source, `false` if it receives from an output.
    pub publishes: bool,
    /// Stream id of an SRT caller: plain, of the form `#!::r=RESOURCE,m=publish|request,u=USER`, or of the form
    /// `publish:NAME:USER:PASSWORD`.
    pub stream_id: Option<String>,
    /// Application of an RTMP peer. It is that of the source or output, possibly with parameters that the peer has
    /// appended, as in `live?vhost=studio`.
    pub app: Option<String>,
    /// Path of an RTSP peer, without the leading slash.
    pub path: Option<String>,
    /// User name. That of an RTSP peer has been proved with its password. An SRT caller only claims it, in its
    /// stream id.
    pub user: Option<String>,
    pub(super) key: Option<Secret>,
}

impl AccessRequest {
    pub(super) fn new(flow: &str, endpoint: String, protocol: &'static str, peer: SocketAddr, publishes: bool) -> Self {
        Self {
            flow: flow.to_owned(),
            endpoint,
            protocol,
            peer,
            publishes,
            stream_id: None,
            app: None,
            path: None,
            user: None,
            key: None,
        }
    }

    /// Returns the stream key of an RTMP peer in clear text. It is that of the source or output, possibly with
    /// parameters that the peer has appended, as in `KEY?token=abc`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Secret::reveal)
    }
}

impl fmt::Debug for AccessRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &Option<String>| text.as_deref().map(PeerText::from);
        f.debug_struct("AccessRequest")
            .field("flow", &self.flow)
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("peer", &self.peer)
            .field("publishes", &self.publishes)
            .field("stream_id", &shown(&self.stream_id))
            .field("app", &shown(&self.app))
            .field("path", &shown(&self.path))
            .field("user", &shown(&self.user))
            .finish_non_exhaustive()
    }
}

/// Decision of the host about a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Access {
    /// Accepts the peer. An SRT caller needs the passphrase of the source or output, if that has one.
    Accept,
    /// Accepts the peer. An SRT caller needs this passphrase. Protocols without passphrases ignore it.
    AcceptWith(Passphrase),
    /// Rejects the peer with this code. 1000–1999 stand for HTTP statuses plus 1000 (1401: unauthorized), 2000 and above
    /// are the host's own. Other numbers stand for 1403. SRT sends the code, which libsrt shows to its user. RTSP
    /// answers with the HTTP status if that is an error of RTSP too, and with 403 otherwise. RTMP has no codes.
    Reject(u32),
}

/// Answer of a hook: accepted, with a passphrase if the host has chosen one, or the code of a rejection (1000 and
/// above).
pub(super) type HookAnswer = Result<Option<Passphrase>, u32>;

/// Code for a peer that the host rejects without a code of its own.
const FORBIDDEN: u32 = 1403;
/// Code for a peer about which the hook has panicked or has not answered.
pub(super) const UNANSWERED: u32 = 1500;

fn answer(access: Access) -> HookAnswer {
    match access {
        Access::Accept => Ok(None),
        Access::AcceptWith(passphrase) => Ok(Some(passphrase)),
        Access::Reject(code @ 1000..) => Err(code),
        Access::Reject(_) => Err(FORBIDDEN),
    }
}

/// Access hook of the host.
#[derive(Clone)]
pub(crate) enum AccessHook {
    /// Function that may block.
    Blocking(Arc<dyn Fn(&AccessRequest) -> Access + Send + Sync>),
    /// Function that answers later.
    Later(Arc<dyn Fn(AccessRequest) -> BoxFuture<'static, Access> + Send + Sync>),
}

impl fmt::Debug for AccessHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessHook")
    }
}

impl AccessHook {
    /// Maximum number of concurrent questions, for each port.
    pub(super) fn concurrency(&self) -> usize {
        match self {
            Self::Blocking(_) => MAX_BLOCKING,
            Self::Later(_) => MAX_LATER,
        }
    }

    /// Asks the host about a peer. A panic in the hook rejects this peer only. Must be called within the runtime.
    ///
    /// A function that blocks runs on a thread for blocking work, and on to its end if the future is dropped. One that
    /// answers later runs in a task of its own, for at most [`DECISION_TIME`]. `held` is dropped when no code of the host
    /// runs any more.
    pub(super) fn ask(&self, request: AccessRequest, held: impl Send + 'static) -> BoxFuture<'static, HookAnswer> {
        match self {
            Self::Blocking(hook) => {
                let hook = hook.clone();
                Box::pin(async move {
                    let call = tokio::task::spawn_blocking(move || {
                        let _held = held;
                        lock::assert_unlocked();
                        lock::on_task(|| hook(&request))
                    });
                    call.await.map_or(Err(UNANSWERED), answer)
                })
            }
            Self::Later(hook) => {
                let hook = hook.clone();
                Box::pin(async move {
                    let task = AbortOnDropHandle::new(tokio::spawn(lock::task(async move {
                        let _held = held;
                        lock::assert_unlocked();
                        tokio::time::timeout(DECISION_TIME, hook(request)).await
                    })));
                    match task.await {
                        Ok(Ok(access)) => answer(access),
                        Ok(Err(_)) | Err(_) => Err(UNANSWERED), // no answer in time, or a panic
                    }
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AccessRequest {
        let request = AccessRequest::new("f", "in".into(), "RTMP", ([127, 0, 0, 1], 9).into(), true);
        AccessRequest { key: Some("s3cret".into()), ..request }
    }

    fn later<F: Future<Output = Access> + Send + 'static>(hook: fn(AccessRequest) -> F) -> AccessHook {
        AccessHook::Later(Arc::new(move |request| Box::pin(hook(request))))
    }

    #[test]
    fn access_request_shows_no_key() {
        let request = request();
        assert_eq!(request.key(), Some("s3cret"));
        assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn access_hook_that_answers_later_is_awaited_for_a_limited_time() {
        let slow = later(|request| async move {
            tokio::time::sleep(DECISION_TIME - Duration::from_millis(1)).await;
            assert_eq!(request.endpoint, "in");
            Access::Reject(1401)
        });
        assert_eq!(slow.ask(request(), ()).await.unwrap_err(), 1401);
        let silent = later(|_| std::future::pending());
        let (held, mut released) = tokio::sync::oneshot::channel::<()>();
        assert_eq!(silent.ask(request(), held).await.unwrap_err(), UNANSWERED);
        assert!(released.try_recv().is_err(), "the host's future is gone");
        let forgotten = later(|_| std::future::pending());
        let (held, released) = tokio::sync::oneshot::channel::<()>();
        drop(tokio::time::timeout(Duration::from_millis(1), forgotten.ask(request(), held)).await);
        assert!(released.await.is_err(), "the host's future is dropped with the question");
    }

    #[tokio::test]
    async fn access_hook_that_panics_rejects() {
        let panics = later(|_| async { std::panic::resume_unwind(Box::new("a bug")) });
        assert_eq!(panics.ask(request(), ()).await.unwrap_err(), UNANSWERED);
        let panics = AccessHook::Blocking(Arc::new(|_| std::panic::resume_unwind(Box::new("a bug"))));
        assert_eq!(panics.ask(request(), ()).await.unwrap_err(), UNANSWERED);
        let short = AccessHook::Blocking(Arc::new(|_| Access::Reject(7)));
        assert_eq!(short.ask(request(), ()).await.unwrap_err(), FORBIDDEN);
    }
}
