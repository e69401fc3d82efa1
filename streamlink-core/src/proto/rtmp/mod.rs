//! RTMP (Adobe's specification 1.0, and Enhanced RTMP v2 where stated).
//!
//! From the bottom up: [`Handshake`]; [`ChunkReader`] and [`Framing`], which turn bytes into messages and back; AMF0
//! values; [`Link`], one side of a connection up to commands; [`ServerSession`] and [`ClientSession`], which speak the
//! commands of publishing and playing.

mod auth;
mod chunk;
mod client;
mod handshake;
mod link;
pub(crate) mod message;
mod path;
#[cfg(test)]
mod recorded_tests;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use auth::Authentication;
pub(crate) use chunk::{Body, ChunkHeads, Framing, Message};
pub(crate) use client::{ClientEvent, ClientRole, ClientSession, ClientTarget, Redirect};
pub(crate) use link::Link;
pub(crate) use path::StreamPath;
pub(crate) use server::{Refusal, Request, ServerSession};

use crate::media::flv::amf0::AmfError;
use chunk::ChunkReader;
use handshake::Handshake;

/// A violation of the protocol by the peer, which ends its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("invalid RTMP handshake")]
    Handshake,
    #[error("invalid chunk size {0}")]
    ChunkSize(u32),
    #[error("message of type {kind} too long ({length} bytes)")]
    TooLong { kind: u8, length: usize },
    #[error("{0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Amf(#[from] AmfError),
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
}
