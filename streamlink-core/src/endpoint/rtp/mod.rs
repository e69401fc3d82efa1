//! RTP over UDP: the task of a source, and the fan-out sinks of an output.

mod driver;
mod output;
mod source;
