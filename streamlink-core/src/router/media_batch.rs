//! What a source hands over at once.

use super::ring::Preamble;
use crate::media::Packet;

/// Packets in order, and where readers may start among them. It is filled, handed over, and filled again.
#[derive(Debug, Default)]
pub(crate) struct MediaBatch {
    pub(crate) packets: Vec<Packet>,
    /// The places of packets with which a reader may start, in order, and what it needs before.
    pub(crate) starts: Vec<(usize, Preamble)>,
}

impl MediaBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.packets.clear();
        self.starts.clear();
    }

    /// The bytes of all packets.
    pub(crate) fn bytes(&self) -> u64 {
        self.packets.iter().map(|packet| packet.data().len() as u64).sum()
    }

    /// A packet with which a reader may start comes next.
    pub(crate) fn mark_entry_point(&mut self, preamble: Preamble) {
        self.starts.push((self.packets.len(), preamble));
    }

    /// Drops what comes before the first start, or before the last one; everything if there is none. Returns whether
    /// there is one.
    pub(crate) fn skip_to_start(&mut self, last: bool) -> bool {
        let found = if last { self.starts.pop() } else { self.starts.first().cloned() };
        let Some((at, preamble)) = found else {
            self.clear();
            return false;
        };
        self.packets.drain(..at);
        if last {
            self.starts.clear();
            self.starts.push((0, preamble));
        } else {
            self.starts.iter_mut().for_each(|(place, _)| *place -= at); // in order: none is before the first
        }
        true
    }

    /// Adds all that another delivery holds, which comes back empty.
    pub(crate) fn append(&mut self, more: &mut MediaBatch) {
        let behind = self.packets.len();
        self.packets.append(&mut more.packets);
        self.starts.extend(more.starts.drain(..).map(|(at, preamble)| (behind + at, preamble)));
    }

    /// Puts packets before the one at a place; a start there begins with them.
    pub(crate) fn insert(&mut self, at: usize, packets: impl IntoIterator<Item = Packet>) {
        let before = self.packets.len();
        self.packets.splice(at..at, packets);
        let more = self.packets.len() - before;
        self.starts.iter_mut().filter(|(place, _)| *place > at).for_each(|(place, _)| *place += more);
    }

    /// Takes out the packet at a place; a start there begins with the one behind it.
    pub(crate) fn remove(&mut self, at: usize) {
        self.packets.remove(at);
        self.starts.iter_mut().filter(|(place, _)| *place > at).for_each(|(place, _)| *place -= 1);
    }
}
