//! Access decisions of the host for the callers of an SRT listener.

use crate::{flow::Passphrase, proto::srt::Rejection};
use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Connection request of a caller to an SRT listener. The caller's address is on the allowlist and has been proved by
/// the handshake cookie.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SrtRequest<'a> {
    /// Name of the requested source or output.
    pub endpoint: &'a str,
    /// Address of the caller.
    pub peer: SocketAddr,
    /// Stream id as received: plain, or of the form `#!::r=RESOURCE,m=publish|request,u=USER`.
    pub stream_id: Option<&'a str>,
    /// Direction of the media: `true` if the caller sends to a source, `false` if it receives from an output.
    pub publishes: bool,
}

/// Decision of the host about a caller.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SrtAccess {
    /// Accepts the caller, with the passphrase of the source or output if that has one.
    Accept,
    /// Accepts the caller with this passphrase.
    AcceptWith(Passphrase),
    /// Rejects the caller with this code, which libsrt shows to its user. 1000–1999 stand for HTTP statuses plus 1000
    /// (1401: unauthorized), 2000 and above are the host's own. Other numbers are sent as 1403.
    Reject(u32),
}

/// Access hook of the host.
#[derive(Clone)]
pub(crate) struct AccessHook(pub(crate) Arc<dyn Fn(&SrtRequest<'_>) -> SrtAccess + Send + Sync>);

impl fmt::Debug for AccessHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessHook")
    }
}

impl AccessHook {
    /// Returns the passphrase that the host has chosen, if any. Fails with the code to send to a rejected caller.
    pub(super) fn authorize(&self, request: &SrtRequest<'_>) -> Result<Option<Passphrase>, Rejection> {
        // A panic in the host's hook rejects this caller only; the port goes on.
        match catch_unwind(AssertUnwindSafe(|| (self.0)(request))) {
            Ok(SrtAccess::Accept) => Ok(None),
            Ok(SrtAccess::AcceptWith(passphrase)) => Ok(Some(passphrase)),
            Ok(SrtAccess::Reject(code @ 1000..)) => Err(Rejection(code)),
            Ok(SrtAccess::Reject(_)) => Err(Rejection::FORBIDDEN),
            Err(_) => Err(Rejection::INTERNAL),
        }
    }
}
