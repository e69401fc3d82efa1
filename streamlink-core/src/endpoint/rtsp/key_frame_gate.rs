//! Start of a player over UDP or multicast at a key frame.

use super::udp::UdpTracks;
use crate::{
    endpoint::tcp::Player,
    router::{Batch, Preamble},
};
use std::{sync::Arc, time::Instant};

/// Starts a player over UDP at a key frame, and resumes at the next one after a loss.
#[derive(Default)]
pub(super) struct KeyFrameGate {
    begun: bool,
    /// Set after a loss, until the next key frame.
    lost: bool,
    /// Set by a pause, until the next key frame: what is left out is not counted.
    is_held_back: bool,
    /// Arrival of the first batch that was dropped for want of a key frame.
    waits_since: Option<Instant>,
}

impl KeyFrameGate {
    /// Holds the player back until the next key frame, as after a pause.
    pub(super) fn wait(&mut self) {
        self.lost = true;
        self.is_held_back = true;
    }

    /// Sends the batches of a window and clears it.
    pub(super) fn give(&mut self, udp: &mut UdpTracks, lost: u64, window: &mut Vec<Arc<Batch>>, player: &Player) {
        let was_held_back = self.is_held_back;
        let (preamble, skipped) = self.pass(lost, window);
        let (sent, refused) = udp.send(window, preamble.as_deref());
        let missed = if was_held_back { 0 } else { lost + skipped };
        player.count(sent, refused + missed);
        window.clear();
    }

    /// Removes batches before the next key frame from a window, if the player has to start or resume. Returns the
    /// preamble for the rest, and the number of packets removed from a player that had started before.
    fn pass(&mut self, lost: u64, window: &mut Vec<Arc<Batch>>) -> (Option<Preamble>, u64) {
        self.lost |= lost > 0;
        if self.begun && !self.lost {
            return (None, 0);
        }
        let mut preamble = None;
        let start = window.iter().position(|batch| {
            preamble = batch.start_after(self.waits_since).cloned();
            self.waits_since = self.waits_since.or(batch.arrival());
            preamble.is_some()
        });
        let skip = start.unwrap_or(window.len());
        let skipped: usize = window.drain(..skip).map(|batch| batch.packets().len()).sum();
        let counts = if self.begun { skipped as u64 } else { 0 };
        if start.is_some() {
            self.begun = true;
            self.lost = false;
            self.is_held_back = false;
            self.waits_since = None;
        }
        (preamble, counts)
    }
}
