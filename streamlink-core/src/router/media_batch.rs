//! A batch of media, as a source hands it over.

use super::ring::Preamble;
use crate::media::Packet;

/// Packets in order, and the entry points among them. It is filled, handed over, and filled again.
#[derive(Debug, Default)]
pub(crate) struct MediaBatch {
    pub(crate) packets: Vec<Packet>,
    /// Entry points: the index of each packet that a reader may start with, in order, and the preamble it needs.
    pub(crate) starts: Vec<(usize, Preamble)>,
    /// Places to start with for want of an entry point, in the same form: decoding begins with errors there.
    pub(crate) fallbacks: Vec<(usize, Preamble)>,
    /// There are packets, and none of them is media: tables and null packets of MPEG-TS.
    pub(crate) lacks_media: bool,
}

impl MediaBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.packets.clear();
        self.starts.clear();
        self.fallbacks.clear();
        self.lacks_media = false;
    }

    /// Number of bytes of all packets.
    pub(crate) fn bytes(&self) -> u64 {
        self.packets.iter().map(|packet| packet.data().len() as u64).sum()
    }

    /// Marks the next packet as one that a reader may start with.
    pub(crate) fn mark_entry_point(&mut self, preamble: Preamble) {
        self.starts.push((self.packets.len(), preamble));
    }

    /// Marks the next packet as one that a reader may start with for want of an entry point.
    pub(crate) fn mark_fallback(&mut self, preamble: Preamble) {
        self.fallbacks.push((self.packets.len(), preamble));
    }

    /// Makes an entry point of the first fallback, and drops the packets before it. Returns whether there is one.
    pub(crate) fn skip_to_fallback(&mut self) -> bool {
        let Some(fallback) = self.fallbacks.first().cloned() else { return false };
        self.starts.insert(0, fallback);
        self.skip_to_start(false)
    }

    /// Drops the packets before the first entry point, or before the last one; all of them if there is none. Returns
    /// whether there is one.
    pub(crate) fn skip_to_start(&mut self, last: bool) -> bool {
        let found = if last { self.starts.pop() } else { self.starts.first().cloned() };
        let Some((at, preamble)) = found else {
            self.clear();
            return false;
        };
        self.packets.drain(..at);
        self.fallbacks.retain_mut(|(place, _)| {
            let stays = *place > at;
            *place = place.saturating_sub(at);
            stays
        });
        if last {
            self.starts.clear();
            self.starts.push((0, preamble));
        } else {
            for (place, _) in &mut self.starts {
                *place -= at; // in order: no other is before the first
            }
        }
        true
    }

    /// Moves all packets of another batch to the end of this one.
    pub(crate) fn append(&mut self, more: &mut Self) {
        let behind = self.packets.len();
        self.packets.append(&mut more.packets);
        self.starts.extend(more.starts.drain(..).map(|(at, preamble)| (behind + at, preamble)));
        self.fallbacks.extend(more.fallbacks.drain(..).map(|(at, preamble)| (behind + at, preamble)));
    }

    /// Inserts packets at an index; an entry point there begins with them.
    pub(crate) fn insert(&mut self, at: usize, packets: impl IntoIterator<Item = Packet>) {
        let before = self.packets.len();
        self.packets.splice(at..at, packets);
        let more = self.packets.len() - before;
        for (place, _) in self.starts.iter_mut().chain(&mut self.fallbacks).filter(|(place, _)| *place > at) {
            *place += more;
        }
    }

    /// Removes the packet at an index; an entry point there moves to the next one.
    pub(crate) fn remove(&mut self, at: usize) {
        self.packets.remove(at);
        for (place, _) in self.starts.iter_mut().chain(&mut self.fallbacks).filter(|(place, _)| *place > at) {
            *place -= 1;
        }
    }
}
