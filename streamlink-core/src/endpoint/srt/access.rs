//! The host's word on who may connect to an SRT listener.

use crate::{flow::Passphrase, proto::srt::Rejection};
use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// A caller that asks to be let in by an SRT listener; its address is on the allowlist, and has been proved.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SrtRequest<'a> {
    /// The name of the source or output that it would be for.
    pub endpoint: &'a str,
    /// Where it calls from.
    pub peer: SocketAddr,
    /// The stream id as it came: plain, or of the form `#!::r=RESOURCE,m=publish|request,u=USER`.
    pub stream_id: Option<&'a str>,
    /// Whether it would send (to a source), or receive (from an output).
    pub publishes: bool,
}

/// What the host says of a caller.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SrtAccess {
    /// It may come in, with the passphrase of the source or output if that has one.
    Accept,
    /// It may come in with this passphrase.
    AcceptWith(Passphrase),
    /// It is refused with this code, which libsrt shows to its user: 1000–1999 stand for HTTP statuses plus 1000
    /// (1401: unauthorized), 2000 and above are the host's own. Other numbers are sent as 1403.
    Reject(u32),
}

/// Asks the host.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<dyn Fn(&SrtRequest<'_>) -> SrtAccess + Send + Sync>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// The passphrase that the host has chosen, if it has; or why the caller is refused.
    pub(super) fn ask(&self, request: &SrtRequest<'_>) -> Result<Option<Passphrase>, Rejection> {
        // A host that panics lets nobody in, and ends nothing.
        match catch_unwind(AssertUnwindSafe(|| (self.0)(request))) {
            Ok(SrtAccess::Accept) => Ok(None),
            Ok(SrtAccess::AcceptWith(passphrase)) => Ok(Some(passphrase)),
            Ok(SrtAccess::Reject(code @ 1000..)) => Err(Rejection(code)),
            Ok(SrtAccess::Reject(_)) => Err(Rejection::FORBIDDEN),
            Err(_) => Err(Rejection::INTERNAL),
        }
    }
}
