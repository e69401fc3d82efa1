//! Reuse of the memory of batches that every reader has read, so that a steady flow allocates none.

use super::Batch;
use crate::media::Packet;
use std::sync::Arc;

/// Maximum number of read batches that are retained for reuse.
const MAX_SPARE: usize = 64;
/// Maximum total capacity of the batches retained for reuse, in packets of 56 bytes.
const MAX_SPARE_ROOM: usize = 2048;

/// Read batches, empty, in whose memory new ones are made.
#[derive(Debug, Default)]
pub(super) struct SpareBatches {
    pub(super) batches: Vec<Arc<Batch>>,
    /// Total capacity of the batches, in packets.
    room: usize,
}

impl SpareBatches {
    /// Creates a batch with these packets, in the memory of a spare one if there is one. Leaves `packets` empty, with the
    /// capacity of that one.
    pub(super) fn fill(&mut self, packets: &mut Vec<Packet>, mut batch: Batch) -> Arc<Batch> {
        if let Some(mut spare) = self.batches.pop()
            && let Some(old) = Arc::get_mut(&mut spare)
        {
            self.room = self.room.saturating_sub(old.packets.capacity());
            std::mem::swap(&mut old.packets, packets);
            std::mem::swap(&mut old.packets, &mut batch.packets);
            *old = batch;
            return spare;
        }
        std::mem::swap(&mut batch.packets, packets);
        Arc::new(batch)
    }

    /// Keeps a batch for reuse. The last reader that holds one frees it, so only an unshared batch can be reused.
    pub(super) fn keep(&mut self, mut batch: Arc<Batch>) {
        let room = self.room + batch.packets.capacity();
        if self.batches.len() < MAX_SPARE
            && room <= MAX_SPARE_ROOM
            && let Some(old) = Arc::get_mut(&mut batch)
        {
            self.room = room;
            old.packets.clear();
            old.start = None;
            old.fallback = None;
            old.framed_bytes = None;
            self.batches.push(batch);
        }
    }
}
