//! RTP (RFC 3550): the receiver with its statistics and reordering, reports, the rewriting of headers, and MPEG-TS in RTP:
//! wrapping, pacing by its clock, and forward error correction.

mod fec;
mod pace;
mod receiver;
mod report;
mod rewrite;
mod timestamps;
mod wrap;

pub(crate) use fec::{FecDecoder, FecEncoder, FecPacket};
pub(crate) use pace::{Pacer, Placed};
pub(crate) use receiver::Receiver;
pub(in crate::proto) use report::packets as rtcp_packets;
pub(crate) use report::{Reception, Reports};
pub(crate) use rewrite::{REWRITTEN, Rewriter};
pub(crate) use wrap::{Contents, HEADER, Wrapper, unwrap};
