//! The parts of the side-by-side harness: processes and their usage, media in real time, receivers that count and
//! measure, and the report. Protocols add rows to it, not harnesses.

mod chart;
pub mod feed;
pub mod process;
pub mod receive;
pub mod report;
pub mod rtmp;
pub mod rtsp;
pub mod srt;
pub mod srt_calls;
