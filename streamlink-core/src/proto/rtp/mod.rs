//! RTP (RFC 3550): the header, the receiver with its statistics and reordering, and the rewriting of headers.

mod header;
mod receiver;
mod rewrite;

pub(crate) use header::{Header, NotRtp};
pub(crate) use receiver::Receiver;
pub(crate) use rewrite::{REWRITTEN, Rewriter};
