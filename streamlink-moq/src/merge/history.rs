//! Record of what each leg brought of the last seconds of media.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of legs.
pub(crate) const MAX_LEGS: usize = 32;
/// Time after which an object that a leg has not brought is lost to that leg.
const WINDOW: Duration = Duration::from_secs(3);
/// Time that a new subscription has to bring what was missed before it. Relays send the newest groups first.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Time for which a leg has to be up before an object counts as one that it should have brought.
const GRACE: Duration = Duration::from_secs(1);
/// Maximum number of objects that are remembered.
const MAX_ENTRIES: usize = 65_536;

/// Counts of a leg since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LegCounts {
    /// Objects that this leg brought first.
    pub(crate) first: u64,
    /// Objects that another leg had brought before.
    pub(crate) duplicates: u64,
    /// Objects that came when they had been given up, or that nobody remembers.
    pub(crate) late: u64,
    /// Objects that the leg should have brought.
    pub(crate) expected: u64,
    /// Those of them that it did not bring within 3 s.
    pub(crate) lost: u64,
}

#[derive(Debug)]
struct Entry {
    key: (u64, u64),
    at: Instant,
    legs: u32,
}

#[derive(Debug, Default)]
struct Leg {
    counts: LegCounts,
    up_since: Option<Instant>,
}

/// The objects that went on during the last seconds, with the legs that brought them.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    legs: Vec<Leg>,
}

impl History {
    fn leg(&mut self, leg: usize) -> Option<&mut Leg> {
        if leg >= MAX_LEGS {
            return None;
        }
        if self.legs.len() <= leg {
            self.legs.resize_with(leg + 1, Leg::default);
        }
        self.legs.get_mut(leg)
    }

    pub(super) fn set_leg(&mut self, leg: usize, is_up: bool, now: Instant) {
        if let Some(leg) = self.leg(leg) {
            leg.up_since = is_up.then_some(now);
        }
    }

    /// Returns the legs that are subscribed, as bits.
    pub(super) fn live(&self) -> u32 {
        let up = self.legs.iter().enumerate().filter(|(_, leg)| leg.up_since.is_some());
        up.fold(0, |bits, (index, _)| bits | bit(index))
    }

    /// Returns until when legs that were subscribed last may still bring what was missed before.
    pub(super) fn catching_up(&self) -> Option<Instant> {
        let newest = self.legs.iter().filter_map(|leg| leg.up_since).max()?;
        Some(newest + CATCH_UP)
    }

    pub(super) fn counts(&self, leg: usize) -> LegCounts {
        self.legs.get(leg).map(|leg| leg.counts).unwrap_or_default()
    }

    pub(super) fn count_first(&mut self, leg: usize) {
        if let Some(leg) = self.leg(leg) {
            leg.counts.first += 1;
        }
    }

    pub(super) fn count_duplicate(&mut self, leg: usize) {
        if let Some(leg) = self.leg(leg) {
            leg.counts.duplicates += 1;
        }
    }

    /// Notes an object that goes on. Keys grow.
    pub(super) fn passed(&mut self, key: (u64, u64), legs: u32, now: Instant) {
        self.expire(now);
        self.entries.push_back(Entry { key, at: now, legs });
    }

    /// Counts an object of a leg that lies behind what has gone on. Returns whether it is a duplicate.
    pub(super) fn count_old(&mut self, leg: usize, key: (u64, u64)) -> bool {
        let at = self.entries.partition_point(|entry| entry.key < key);
        let found = self.entries.get_mut(at).filter(|entry| entry.key == key);
        let is_duplicate = found.is_some();
        if let Some(entry) = found {
            entry.legs |= bit(leg);
        }
        if let Some(leg) = self.leg(leg) {
            if is_duplicate {
                leg.counts.duplicates += 1;
            } else {
                leg.counts.late += 1;
            }
        }
        is_duplicate
    }

    /// Forgets what has gone on, as the numbers begin again.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.entries.front() {
            let is_old = now.saturating_duration_since(oldest.at) >= WINDOW;
            if !is_old && self.entries.len() < MAX_ENTRIES {
                return;
            }
            for (index, leg) in self.legs.iter_mut().enumerate() {
                let was_up = leg.up_since.is_some_and(|since| since + GRACE <= oldest.at);
                if was_up {
                    leg.counts.expected += 1;
                    leg.counts.lost += u64::from(oldest.legs & bit(index) == 0);
                }
            }
            self.entries.pop_front();
        }
    }
}

/// Returns the bit of a leg.
pub(super) fn bit(leg: usize) -> u32 {
    u32::try_from(leg).ok().and_then(|leg| 1_u32.checked_shl(leg)).unwrap_or(0)
}
