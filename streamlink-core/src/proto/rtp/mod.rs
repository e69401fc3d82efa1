//! RTP (RFC 3550): the receiver with its statistics and reordering, reports, and the rewriting of headers.

mod receiver;
mod report;
mod rewrite;

pub(crate) use receiver::Receiver;
pub(crate) use report::{Reception, Reports};
pub(crate) use rewrite::{REWRITTEN, Rewriter};
