//! Batches of packets that were published together.

use crate::media::Packet;
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Packets that a reader must send before the batch where it starts, such as codec headers.
pub(crate) type Preamble = Arc<[Packet]>;

/// Number of packets and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { packets: self.packets.saturating_sub(earlier.packets), bytes: self.bytes.saturating_sub(earlier.bytes) }
    }
}

/// Packets that were published together. Never empty.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(super) packets: Vec<Packet>,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    /// Arrival of the newest packet that was published with it. `None`: nothing was published.
    pub(super) published: Option<Instant>,
    /// Published with media of more than [`super::BURST`], as by a backup that takes over.
    pub(super) in_burst: bool,
    /// Totals of the ring before this batch.
    pub(super) before: Totals,
    /// Preamble, if a reader may start at this batch.
    pub(super) start: Option<Preamble>,
    /// Preamble and maximum wait, if a reader that has found no entry point for that time may start at this batch.
    pub(super) fallback: Option<(Preamble, Duration)>,
    /// All packets in one buffer, framed for a connection.
    pub(super) framed_bytes: Option<Bytes>,
}

impl Batch {
    /// Returns the totals of several batches.
    pub(crate) fn totals(batches: &[Arc<Self>]) -> Totals {
        batches.iter().fold(Totals::default(), |sum, batch| Totals {
            packets: sum.packets + batch.packets.len() as u64,
            bytes: sum.bytes + batch.bytes,
        })
    }

    pub(crate) fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Returns all packets in one buffer, framed for a connection, if enough outputs are interested in that layout.
    pub(crate) fn framed_bytes(&self) -> Option<&Bytes> {
        self.framed_bytes.as_ref()
    }

    /// Returns the totals of this batch.
    pub(crate) fn total(&self) -> Totals {
        Totals { packets: self.packets.len() as u64, bytes: self.bytes }
    }

    /// Returns the preamble of a reader that starts at this batch, or `None` if no reader can start here.
    pub(crate) fn start(&self) -> Option<&Preamble> {
        self.start.as_ref()
    }

    /// Returns the preamble of a reader that starts at this batch: one that has waited for an entry point since
    /// `waits_since`.
    pub(crate) fn start_after(&self, waits_since: Option<Instant>) -> Option<&Preamble> {
        self.start.as_ref().or_else(|| {
            let (preamble, wait) = self.fallback.as_ref()?;
            let waited = self.arrival()?.saturating_duration_since(waits_since?);
            (waited >= *wait).then_some(preamble)
        })
    }

    /// Returns the arrival time of the last packet. Readers use it as the current time, which saves a clock read.
    pub(crate) fn arrival(&self) -> Option<Instant> {
        self.packets.last().map(Packet::arrival)
    }

    /// Returns the sequence number of this batch in its ring.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the sequence number of the first packet in its ring.
    pub(crate) fn first_packet(&self) -> u64 {
        self.before.packets
    }
}
