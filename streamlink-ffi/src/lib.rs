//! The C ABI of StreamLink. What a caller reads is `include/streamlink.h`, which is generated from this crate.

pub mod engine;
pub mod error;
mod guard;
pub mod status;
pub mod version;
