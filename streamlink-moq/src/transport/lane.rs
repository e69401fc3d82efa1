//! Order of the groups of a track on the way to one relay.
//!
//! The streams of a connection carry the newest group first. While a connection carries less than the media need, as it does
//! for some seconds at a time on a long way that loses packets, the rest of a group waits behind all that is newer, and comes
//! more than a second late. So what follows is held back while a group is not delivered in time: the connection then sends
//! the rest, and what was held back follows in its order. Groups, not objects, are looked at: within a group, a connection
//! keeps the order.
//!
//! No sockets, no clock.

use crate::Error;
use bytes::Bytes;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Longest time for which a relay is sent nothing new. After it, the rest of the old groups comes too late anyway.
const MAX_HOLD: Duration = Duration::from_secs(1);
/// Longest time for which a part is held back, which bounds the memory for a relay that acknowledges nothing.
const MAX_HELD: Duration = Duration::from_secs(2);
/// Media from which whole groups that were held back go alone. What is left follows when they are delivered, or it would
/// overtake them.
const STEP: Duration = Duration::from_millis(250);
/// Interval at which it is looked whether a group is delivered.
const LOOK: Duration = Duration::from_millis(10);

/// Groups of one track to one relay.
pub(super) trait Groups {
    /// A group.
    type Group;

    /// Begins the group of a number.
    fn begin(&mut self, number: u64) -> Result<Self::Group, Error>;

    /// Writes an object, with its time.
    fn write(&mut self, group: &mut Self::Group, time: u64, object: Bytes) -> Result<(), Error>;

    /// Ends a group.
    fn end(&mut self, group: &mut Self::Group);

    /// Returns whether the relay has all of a group that has ended, or wants no more of it.
    fn is_delivered(&self, group: &Self::Group) -> bool;
}

/// Part of a track, in the order in which it is published.
#[derive(Debug)]
pub(super) enum Part {
    /// Begin of the group of a number. The one before has ended.
    Begin(u64),
    /// Object of the present group, with its time.
    Object(u64, Bytes),
    /// End of the present group.
    End,
}

/// Way of a track to one relay.
pub(super) struct Lane<G: Groups> {
    groups: G,
    present: Option<G::Group>,
    /// Groups that have ended and are not known to be delivered, with the times of their ends.
    undelivered: VecDeque<(G::Group, Instant)>,
    /// Parts that are held back, with the times at which they came.
    held: VecDeque<(Part, Instant)>,
    held_since: Option<Instant>,
    /// Set while a part of what was held back has followed.
    is_behind: bool,
    looked: Option<Instant>,
}

impl<G: Groups> Lane<G> {
    pub(super) fn new(groups: G) -> Self {
        Self {
            groups,
            present: None,
            undelivered: VecDeque::new(),
            held: VecDeque::new(),
            held_since: None,
            is_behind: false,
            looked: None,
        }
    }

    /// Takes in a part. What follows a group that is not delivered after `patience` is held back.
    ///
    /// # Errors
    /// As of [`Groups`], of parts that are not held back.
    pub(super) fn push(&mut self, part: Part, patience: Duration, now: Instant) -> Result<(), Error> {
        self.look(patience, now);
        if self.held_since.is_some() {
            self.held.push_back((part, now));
            while self.held.front().is_some_and(|(_, came)| now.saturating_duration_since(*came) > MAX_HELD) {
                self.undelivered.clear();
                self.follow(now);
            }
            return Ok(());
        }
        self.pass(part, now)
    }

    /// Looks whether what is held back may follow now.
    pub(super) fn look(&mut self, patience: Duration, now: Instant) {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return;
        }
        self.looked = Some(now);
        while self.undelivered.front().is_some_and(|(group, _)| self.groups.is_delivered(group)) {
            self.undelivered.pop_front();
        }
        let is_late = |(_, ended): &(G::Group, Instant)| now.saturating_duration_since(*ended) >= patience;
        let waits = self.undelivered.front().is_some_and(|oldest| self.is_behind || is_late(oldest));
        if !waits {
            self.follow(now);
        } else if now.saturating_duration_since(*self.held_since.get_or_insert(now)) >= MAX_HOLD {
            self.undelivered.clear();
            self.follow(now);
        }
    }

    /// Passes on all that is held back.
    pub(super) fn release(&mut self, now: Instant) {
        while self.held_since.is_some() {
            self.follow(now);
        }
    }

    /// Passes on the next step of what is held back: whole groups, or all if that is little.
    fn follow(&mut self, now: Instant) {
        self.held_since = None;
        self.is_behind = false;
        let mut begin = None;
        let mut newest = 0;
        while let Some((part, _)) = self.held.pop_front() {
            let is_end = matches!(part, Part::End);
            if let Part::Object(time, _) = &part {
                newest = *time;
                begin.get_or_insert(newest);
            }
            let _ = self.pass(part, now); // a track that has ended says so to the parts that follow
            let step = Duration::from_micros(newest.saturating_sub(begin.unwrap_or(newest)));
            if is_end && step >= STEP && !self.held.is_empty() {
                self.held_since = Some(now);
                self.is_behind = true;
                return;
            }
        }
    }

    fn pass(&mut self, part: Part, now: Instant) -> Result<(), Error> {
        match part {
            Part::Begin(number) => {
                self.present = None; // of a number that there is already: its objects have no place
                self.present = Some(self.groups.begin(number)?);
            }
            Part::Object(time, object) => {
                if let Some(group) = &mut self.present {
                    self.groups.write(group, time, object)?;
                }
            }
            Part::End => {
                if let Some(mut group) = self.present.take() {
                    self.groups.end(&mut group);
                    self.undelivered.push_back((group, now));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

    const PATIENCE: Duration = Duration::from_millis(400);

    /// Parts that have gone to the relay, and which groups it has acknowledged.
    #[derive(Default)]
    struct Relay {
        sent: Vec<String>,
        delivered: BTreeSet<u64>,
    }

    struct ToRelay(Rc<RefCell<Relay>>);

    impl Groups for ToRelay {
        type Group = u64;

        fn begin(&mut self, number: u64) -> Result<u64, Error> {
            self.0.borrow_mut().sent.push(format!("({number}"));
            Ok(number)
        }

        fn write(&mut self, group: &mut u64, time: u64, _: Bytes) -> Result<(), Error> {
            self.0.borrow_mut().sent.push(format!("{group}.{time}"));
            Ok(())
        }

        fn end(&mut self, group: &mut u64) {
            self.0.borrow_mut().sent.push(format!("{group})"));
        }

        fn is_delivered(&self, group: &u64) -> bool {
            self.0.borrow().delivered.contains(group)
        }
    }

    struct Rig {
        relay: Rc<RefCell<Relay>>,
        lane: Lane<ToRelay>,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let relay = Rc::<RefCell<Relay>>::default();
            Self { lane: Lane::new(ToRelay(relay.clone())), relay, now: Instant::now() }
        }

        fn push(&mut self, part: Part) {
            self.lane.push(part, PATIENCE, self.now).unwrap();
        }

        /// Publishes a group of five objects, one each 100 ms.
        fn group(&mut self, number: u64) {
            self.group_with(number, |index| index);
        }

        fn group_with(&mut self, number: u64, time: impl Fn(u64) -> u64) {
            self.push(Part::Begin(number));
            for index in 0..5 {
                self.push(Part::Object(time(index), Bytes::new()));
                self.now += Duration::from_millis(100);
            }
            self.push(Part::End);
        }

        fn deliver(&mut self, group: u64) {
            self.relay.borrow_mut().delivered.insert(group);
        }

        fn sent(&self) -> String {
            self.relay.borrow().sent.join(" ")
        }
    }

    #[test]
    fn lane_passes_all_at_once_while_groups_are_delivered_in_time() {
        let mut rig = Rig::new();
        for number in 1..4 {
            rig.group(number);
            let end = format!("{number}.3 {number}.4 {number})");
            assert!(rig.sent().ends_with(&end), "{}", rig.sent());
            // The acknowledgement takes a moment.
            rig.push(Part::Begin(10 * number));
            rig.now += PATIENCE - Duration::from_millis(1);
            rig.push(Part::Object(7, Bytes::new()));
            assert!(rig.sent().ends_with(&format!("{}.7", 10 * number)), "{}", rig.sent());
            rig.push(Part::End);
            rig.deliver(number);
            rig.deliver(10 * number);
        }
        assert!(rig.lane.held.is_empty());
    }

    #[test]
    fn lane_holds_back_what_follows_a_group_that_is_late() {
        let mut rig = Rig::new();
        rig.group(1);
        rig.group(2);
        // 400 ms after its end, the first group is not there: the last object of the second one waits, and all of the next.
        assert!(rig.sent().ends_with("(2 2.0 2.1 2.2 2.3"), "{}", rig.sent());
        rig.push(Part::Begin(3));
        rig.push(Part::Object(0, Bytes::new()));
        assert!(rig.sent().ends_with("2.3"), "{}", rig.sent());
        rig.deliver(1);
        rig.now += LOOK;
        rig.push(Part::Object(1, Bytes::new()));
        assert!(rig.sent().ends_with("2.3 2.4 2) (3 3.0 3.1"), "{}", rig.sent());
        // The end of the second group counts from the moment at which it went out.
        rig.now += PATIENCE - LOOK;
        rig.push(Part::Object(2, Bytes::new()));
        assert!(rig.sent().ends_with("3.2"), "{}", rig.sent());
        rig.now += LOOK;
        rig.push(Part::Object(3, Bytes::new()));
        assert!(rig.sent().ends_with("3.2"), "{}", rig.sent());
    }

    #[test]
    fn lane_holds_back_for_a_bounded_time() {
        let mut rig = Rig::new();
        rig.group(1);
        rig.group(2);
        rig.group(3);
        assert!(rig.sent().ends_with("2.3"), "{}", rig.sent());
        rig.now += MAX_HOLD;
        rig.lane.look(PATIENCE, rig.now);
        assert!(rig.sent().ends_with("2.4 2) (3 3.0 3.1 3.2 3.3 3.4 3)"), "{}", rig.sent());
        assert!(rig.lane.held.is_empty());
        // The end of the track lets all go.
        rig.now += PATIENCE;
        rig.push(Part::Begin(4));
        rig.lane.release(rig.now);
        assert!(rig.sent().ends_with("(4"), "{}", rig.sent());
    }

    #[test]
    fn lane_to_a_relay_that_acknowledges_nothing_holds_a_bounded_time() {
        let mut rig = Rig::new();
        let start = rig.now;
        for number in 1..200u64 {
            // Groups of 600 ms in real time.
            rig.push(Part::Begin(number));
            for index in 0..5 {
                let elapsed = Duration::from_millis(600 * number + 120 * index);
                rig.now = start + elapsed;
                rig.push(Part::Object(elapsed.as_micros() as u64, Bytes::new()));
            }
            rig.push(Part::End);
            let oldest = rig.lane.held.front().map_or(Duration::ZERO, |(_, came)| rig.now - *came);
            assert!(oldest <= MAX_HELD && rig.lane.held.len() < 50, "{oldest:?}, {}", rig.lane.held.len());
        }
    }

    #[test]
    fn lane_that_is_behind_follows_in_steps() {
        let mut rig = Rig::new();
        rig.group(1);
        for number in [2, 3] {
            rig.group_with(number, |index| 600_000 * number + 120_000 * index);
        }
        rig.push(Part::Begin(4));
        let mut follows = |delivered: u64, end: &str| {
            rig.deliver(delivered);
            rig.now += LOOK;
            rig.lane.look(PATIENCE, rig.now);
            assert!(rig.sent().ends_with(end), "after {delivered}: {}", rig.sent());
        };
        // The fourth group does not overtake the third one.
        follows(1, "2) (3 3.1800000 3.1920000 3.2040000 3.2160000 3.2280000 3)");
        follows(2, "3)");
        follows(3, "3) (4");
        assert!(rig.lane.held.is_empty() && !rig.lane.is_behind);
    }
}
