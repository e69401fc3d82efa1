//! Path from the sources of a flow to its outputs: source selection, the ring that outputs read, the bandwidth limiter,
//! and the counters. This module opens no sockets and reads no clock: callers pass in the time.

mod continuity;
mod counters;
mod current_presentation;
mod gop;
mod group;
mod layout;
mod limiter;
mod media_batch;
mod merge;
mod ring;

pub use counters::State;
pub(crate) use counters::{Counter, Counters};
pub(crate) use current_presentation::CurrentPresentation;
pub(crate) use gop::GopSegmenter;
pub(crate) use group::{FailoverConfig, SourceGroup, Switch, SwitchPolicy};
pub(crate) use layout::{BatchLayout, WriteOutcome};
pub(crate) use limiter::{Limiter, RateCheck};
pub(crate) use media_batch::MediaBatch;
use merge::PathCounts;
pub(crate) use merge::{MAX_PATHS, Merge};
pub(crate) use ring::{
    Batch, Closed, DEFAULT_ENTRY_WAIT, LayoutInterest, Limits, Preamble, Reader, ReaderCloser, Ring, Totals,
};
