//! RTP over UDP: the task of a source, and the fan-out sinks of an output.

mod output;
mod source;

pub(crate) use output::{OpenOutput, open_output};
pub(crate) use source::RtpSource;
