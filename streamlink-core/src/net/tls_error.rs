//! Reasons why a TLS handshake has failed, in words.

use std::{error, fmt, io};

/// Reason for the failure of a TLS handshake, within an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsError {
    pub(crate) kind: TlsErrorKind,
    pub(crate) words: String,
}

/// Class of a [`TlsError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))] // without TLS there is no handshake
pub(crate) enum TlsErrorKind {
    /// We do not trust the certificate of the peer.
    Untrusted,
    /// The peer does not speak TLS.
    Plain,
    /// Anything else.
    Handshake,
}

impl TlsError {
    /// Returns the reason that an error holds, if it is one of a TLS handshake.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}
