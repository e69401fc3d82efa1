//! RTP (RFC 3550): the receiver with its statistics and reordering, and the rewriting of headers.

mod receiver;
mod rewrite;

pub(crate) use receiver::Receiver;
pub(crate) use rewrite::{REWRITTEN, Rewriter};
