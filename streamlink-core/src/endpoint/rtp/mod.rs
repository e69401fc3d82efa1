//! RTP over UDP: the source's task, and the sinks of the outputs.

mod output;
mod source;

pub(crate) use output::{OpenOutput, open_output};
pub(crate) use source::RtpSource;
