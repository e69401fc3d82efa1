//! RTP over UDP, MPEG-TS over UDP without RTP, and RIST: the task of a source, and the fan-out sinks or the task of an output.

mod driver;
mod fec;
mod gathering;
mod output;
mod payload_report;
mod reception;
mod rist;
mod side;
mod source;
