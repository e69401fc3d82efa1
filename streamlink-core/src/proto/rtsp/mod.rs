//! RTSP 1.0 (RFC 2326).
//!
//! From the bottom up: [`Reader`], which splits bytes into requests, responses and interleaved frames; URLs; the
//! `Transport` header; Basic and Digest authentication; [`ServerSession`] and [`ClientSession`].

mod auth;
mod client;
#[cfg(test)]
mod client_tests;
mod message;
mod reader;
mod server;
#[cfg(test)]
mod tests;
mod transport;
mod url;

pub(crate) use auth::{Challenges, User};
pub(crate) use client::{CarriedAnswer, ClientEvent, ClientRole, ClientSession};
pub(crate) use server::{Request, ResolvedStream, ServerSession, SetUp, StreamDirectory};
pub(crate) use url::split_scheme;

use reader::{Item, Reader};

/// Violation of the protocol by a peer, which ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("{0}")]
    Malformed(&'static str),
    /// The SDP cannot be used, for the reason given.
    #[error("we refuse its SDP: {0}")]
    Description(String),
    #[error("too many requests without a result")]
    TooManyRequests,
    /// Too many attempts of the client were refused. The last one was answered, and the connection is to be closed.
    #[error("too many refused attempts")]
    TooManyAttempts,
}

/// Status code and reason phrase (RFC 2326 section 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16, pub(crate) &'static str);

impl Status {
    pub(crate) const OK: Self = Self(200, "OK");
    pub(crate) const BAD_REQUEST: Self = Self(400, "Bad Request");
    pub(crate) const UNAUTHORIZED: Self = Self(401, "Unauthorized");
    pub(crate) const FORBIDDEN: Self = Self(403, "Forbidden");
    pub(crate) const NOT_FOUND: Self = Self(404, "Not Found");
    pub(crate) const NOT_ENOUGH_BANDWIDTH: Self = Self(453, "Not Enough Bandwidth");
    pub(crate) const SESSION_NOT_FOUND: Self = Self(454, "Session Not Found");
    pub(crate) const NOT_VALID_IN_THIS_STATE: Self = Self(455, "Method Not Valid in This State");
    pub(crate) const ONLY_AGGREGATE_OPERATION: Self = Self(460, "Only Aggregate Operation Allowed");
    pub(crate) const UNSUPPORTED_TRANSPORT: Self = Self(461, "Unsupported Transport");
    pub(crate) const NOT_IMPLEMENTED: Self = Self(501, "Not Implemented");
    /// Too many attempts were refused. No further request is handled, and the connection ends.
    pub(crate) const SERVICE_UNAVAILABLE: Self = Self(503, "Service Unavailable");
}
