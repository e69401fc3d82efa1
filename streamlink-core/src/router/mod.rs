//! From one source to all outputs: the ring that they read, the bandwidth limiter, and the counters.
//! No sockets, and no clock: whoever calls says what time it is.

mod counters;
mod gop;
mod limiter;
mod ring;

pub(crate) use counters::Counters;
pub use counters::State;
pub(crate) use gop::GopCutter;
pub(crate) use limiter::{Admission, Limiter};
pub(crate) use ring::{Batch, Closed, Closer, Limits, Preamble, Reader, Ring, Totals};
