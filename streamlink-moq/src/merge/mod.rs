//! The merge of the legs of a broadcast: the first copy of each object goes on, in order, and what no leg brings is
//! given up after a bounded wait. No sockets, no clock.

mod history;
mod ordered;
mod overdue;
mod rtp;
#[cfg(test)]
mod tests;

use crate::wire::{DecodedObject, MediaPacket};
pub(crate) use history::{LegCounts, MAX_LEGS};
use ordered::Ordered;
use rtp::RtpMerge;
use std::time::{Duration, Instant};
use streamlink_core::MediaFamily;

/// Maximum of bytes that wait for what comes before them.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Maximum number of objects, or of RTP packets, that wait for what comes before them.
const MAX_WAITING: usize = 65_536;
/// Number of objects that come too late one after another, without one in time, after which the merge begins again.
const MAX_LATE: u64 = 32;

/// An object of a leg.
#[derive(Debug)]
pub(crate) struct LegObject {
    pub(crate) leg: usize,
    pub(crate) group: u64,
    pub(crate) index: u64,
    pub(crate) object: DecodedObject,
}

/// Result of the merge.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Packets in their order.
    pub(crate) packets: Vec<MediaPacket>,
    /// Objects that no leg brought; for RTP, packets that a leg could have brought.
    pub(crate) lost: u64,
    /// Whole groups that no leg brought.
    pub(crate) lost_groups: u64,
    /// Times that the publisher began again, or its numbers jumped.
    pub(crate) restarts: u64,
}

/// Merge of the legs of one broadcast.
#[derive(Debug)]
pub(crate) enum Merger {
    /// By group and object number.
    Ordered(Ordered),
    /// By RTP sequence number, so that the broadcasts of two ingest nodes merge.
    Rtp(RtpMerge),
}

impl Merger {
    /// Makes a merge for a family, which waits for so long for what is missing.
    pub(crate) fn new(family: MediaFamily, wait: Duration) -> Self {
        if family == MediaFamily::Rtp { Self::Rtp(RtpMerge::new(wait)) } else { Self::Ordered(Ordered::new(wait)) }
    }

    /// Tells that a leg is subscribed, or no longer.
    pub(crate) fn set_leg(&mut self, leg: usize, is_up: bool, now: Instant) {
        match self {
            Self::Ordered(merge) => merge.history.set_leg(leg, is_up, now),
            Self::Rtp(merge) => merge.history.set_leg(leg, is_up, now),
        }
    }

    /// Takes in an object.
    pub(crate) fn insert(&mut self, object: LegObject, now: Instant, out: &mut Output) {
        match self {
            Self::Ordered(merge) => merge.insert(object, now, out),
            Self::Rtp(merge) => merge.insert(&object, now, out),
        }
    }

    /// Takes in the end of a group, with the number of its objects.
    pub(crate) fn end_group(&mut self, group: u64, objects: u64, now: Instant, out: &mut Output) {
        if let Self::Ordered(merge) = self {
            merge.end_group(group, objects, now, out);
        }
    }

    /// Gives up what is overdue.
    pub(crate) fn poll(&mut self, now: Instant, out: &mut Output) {
        match self {
            Self::Ordered(merge) => merge.poll(now, out),
            Self::Rtp(merge) => merge.poll(now, out),
        }
    }

    /// Returns when [`poll`](Self::poll) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Ordered(merge) => merge.deadline(),
            Self::Rtp(merge) => merge.deadline(),
        }
    }

    /// Returns the group from which a new subscription is of use; `None` before the first object.
    pub(crate) fn resume_from(&self) -> Option<u64> {
        match self {
            Self::Ordered(merge) => merge.resume_from(),
            Self::Rtp(merge) => merge.resume_from(),
        }
    }

    /// Returns the counts of a leg.
    pub(crate) fn counts(&self, leg: usize) -> LegCounts {
        match self {
            Self::Ordered(merge) => merge.history.counts(leg),
            Self::Rtp(merge) => merge.history.counts(leg),
        }
    }
}
