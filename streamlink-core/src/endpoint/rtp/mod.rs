//! RTP over UDP, and MPEG-TS over UDP without RTP: the task of a source, and the fan-out sinks or the task of an output.

mod driver;
mod fec;
mod output;
mod pacing;
mod payload_report;
mod source;
