//! The merge by group and object number, for broadcasts of one publisher.

use super::{
    LegObject, MAX_LATE, MAX_WAITING, MAX_WAITING_BYTES, Output,
    history::{History, bit},
    overdue::Arrivals,
};
use crate::wire::DecodedObject;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Number of missing groups from which they are not lost: the publisher has begun again.
const RESTART: u64 = 1000;
/// Time without an object in its place, beside the wait, after which late ones are those of another publisher. Over a slow
/// leg, objects that were given up come late for a while.
const SETTLE: Duration = Duration::from_secs(2);
/// Maximum number of groups ahead whose end is remembered.
const MAX_ENDS: usize = 1024;

type Key = (u64, u64);

#[derive(Debug)]
struct Waiting {
    object: DecodedObject,
    legs: u32,
    size: usize,
}

/// Merge by group and object number.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(super) history: History,
    wait: Duration,
    /// Group and object that come next.
    next: Option<Key>,
    waiting: BTreeMap<Key, Waiting>,
    waiting_bytes: usize,
    /// Numbers of objects of the groups whose end is known.
    ends: BTreeMap<u64, u64>,
    arrivals: Arrivals<Key>,
    /// Objects that came too late since the last that came in time, and when that was.
    late: u64,
    in_time: Option<Instant>,
}

impl Ordered {
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            history: History::default(),
            wait,
            next: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            ends: BTreeMap::new(),
            arrivals: Arrivals::default(),
            late: 0,
            in_time: None,
        }
    }

    pub(super) fn insert(&mut self, object: LegObject, now: Instant, out: &mut Output) {
        let LegObject { leg, group, index, object } = object;
        let key = (group, index);
        let next = *self.next.get_or_insert(key);
        if key < next {
            if self.history.count_old(leg, key) {
                self.late = 0;
                return;
            }
            self.late += 1;
            let is_settled = self.in_time.is_none_or(|at| now.saturating_duration_since(at) >= self.wait + SETTLE);
            if self.late < MAX_LATE || !self.waiting.is_empty() || !is_settled {
                return;
            }
            // All that comes lies behind: a publisher with smaller numbers has taken over.
            self.begin_again(key, out);
        }
        self.late = 0;
        self.in_time = Some(now);
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.legs |= bit(leg);
            self.history.count_duplicate(leg);
            return;
        }
        self.history.count_first(leg);
        let size = object.packets.iter().map(|packet| packet.data.len()).sum();
        self.waiting_bytes += size;
        self.waiting.insert(key, Waiting { object, legs: bit(leg), size });
        self.arrivals.push(key, now);
        self.drain(now, out);
        while self.waiting_bytes > MAX_WAITING_BYTES || self.waiting.len() > MAX_WAITING {
            self.skip(out);
            self.drain(now, out);
        }
    }

    pub(super) fn end_group(&mut self, group: u64, objects: u64, now: Instant, out: &mut Output) {
        let Some((present, _)) = self.next else { return };
        if group >= present && (self.ends.len() < MAX_ENDS || group == present) {
            let end = self.ends.entry(group).or_insert(objects);
            *end = (*end).max(objects);
            self.drain(now, out);
        }
    }

    pub(super) fn poll(&mut self, now: Instant, out: &mut Output) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.skip(out);
            self.drain(now, out);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = self.arrivals.oldest()? + self.wait;
        Some(self.history.catching_up().map_or(deadline, |until| until.max(deadline)))
    }

    pub(super) fn resume_from(&self) -> Option<u64> {
        self.next.map(|(group, _)| group)
    }

    /// Passes on all that is in order.
    fn drain(&mut self, now: Instant, out: &mut Output) {
        let Some(mut next) = self.next else { return };
        loop {
            if let Some(waiting) = self.waiting.remove(&next) {
                self.waiting_bytes -= waiting.size;
                out.packets.extend(waiting.object.packets);
                self.history.passed(next, waiting.legs, now);
                next.1 += 1;
            } else if self.ends.get(&next.0).is_some_and(|end| *end <= next.1) {
                self.ends.remove(&next.0);
                next = (next.0.saturating_add(1), 0);
                // Objects behind the end of their group have no place.
                while let Some(behind) = self.waiting.first_entry().filter(|entry| *entry.key() < next) {
                    self.waiting_bytes -= behind.remove().size;
                }
            } else {
                break;
            }
        }
        self.next = Some(next);
        self.arrivals.settle(|key| self.waiting.contains_key(key));
    }

    /// Goes on with the first object that is there.
    fn skip(&mut self, out: &mut Output) {
        let (Some(next), Some((first, _))) = (self.next, self.waiting.first_key_value()) else { return };
        let first = *first;
        if first.0 == next.0 {
            out.lost += first.1 - next.1;
        } else if first.0 - next.0 >= RESTART {
            out.restarts += 1;
        } else {
            let rest = self.ends.get(&next.0).map_or(0, |end| end.saturating_sub(next.1));
            out.lost += rest + first.1;
            // A group of which nothing came, or whose end is not known, is a group of which something is missing.
            let is_cut = next.1 == 0 || !self.ends.contains_key(&next.0);
            out.lost_groups += first.0 - next.0 - u64::from(!is_cut);
        }
        self.next = Some(first);
        self.ends.retain(|group, _| *group >= first.0);
    }

    fn begin_again(&mut self, key: Key, out: &mut Output) {
        out.restarts += 1;
        self.history.clear();
        self.ends.clear();
        self.next = Some(key);
    }
}
