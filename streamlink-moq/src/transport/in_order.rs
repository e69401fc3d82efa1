//! Tracks whose groups go to each relay in their order.

use super::{
    lane::{Groups, Lane, Part},
    relay::RoundTrip,
    tracks::{failure, write_object},
};
use crate::Error;
use bytes::Bytes;
use moq_net::{group, track};
use std::{
    collections::BTreeSet,
    task::{Context, Waker},
    time::{Duration, Instant},
};

/// Shortest and longest time that a relay has for a group from its end, before what follows is held back.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(800));
/// Number of the newest groups of a track whose numbers are not given again.
const MAX_KNOWN: usize = 2048;

/// The ways of a track to its relays, whose groups go in order.
pub(super) struct Lanes {
    lanes: Vec<RelayLane>,
    /// Number of the group that is being written.
    present: Option<u64>,
    /// Numbers of the newest groups: what is held back cannot be refused later.
    known: BTreeSet<u64>,
}

struct RelayLane {
    lane: Lane<track::Producer>,
    round_trip: RoundTrip,
    /// Shortest round trip time of late. It grows by a sixteenth with each group.
    shortest: Option<Duration>,
    /// Time that the relay has for a group, from its end.
    patience: Duration,
}

impl Lanes {
    /// Returns the ways to relays, for each of which there is the track and the round trip time.
    pub(super) fn new(relays: impl Iterator<Item = (track::Producer, RoundTrip)>) -> Self {
        let lane = |(track, round_trip)| RelayLane {
            lane: Lane::new(track),
            round_trip,
            shortest: None,
            patience: PATIENCE.0,
        };
        Self { lanes: relays.map(lane).collect(), present: None, known: BTreeSet::new() }
    }

    /// Begins the group of a number, and ends the one before.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if there is such a group already, or the track has ended.
    pub(super) fn begin(&mut self, number: u64) -> Result<(), Error> {
        if !self.known.insert(number) {
            return Err(Error::Interrupted("there is a group of this number".into()));
        }
        if self.known.len() > MAX_KNOWN {
            self.known.pop_first();
        }
        if let Some(before) = self.present {
            self.end(before);
        }
        for lane in &mut self.lanes {
            // A relay acknowledges the end of a group after one round trip, and after two if that was lost. Queues on the
            // way, which make the time longer, are what is looked for: the shortest time of late counts.
            if let Some(time) = lane.round_trip.now() {
                lane.shortest = Some(lane.shortest.map_or(time, |shortest| time.min(shortest + shortest / 16)));
            }
            let patience = lane.shortest.unwrap_or_default().mul_f32(1.5) + Duration::from_millis(50);
            lane.patience = patience.clamp(PATIENCE.0, PATIENCE.1);
        }
        self.present = Some(number);
        self.push(|| Part::Begin(number))
    }

    /// Writes an object of the group of a number.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the group or its track has ended.
    pub(super) fn write(&mut self, number: u64, time: u64, object: &Bytes) -> Result<(), Error> {
        if self.present != Some(number) {
            return Err(Error::Interrupted("the group has ended".into()));
        }
        self.push(|| Part::Object(time, object.clone()))
    }

    /// Ends the group of a number, unless it has ended.
    pub(super) fn end(&mut self, number: u64) {
        if self.present.take_if(|present| *present == number).is_some() {
            let _ = self.push(|| Part::End); // a group of a track that has ended is over anyway
        }
    }

    fn push(&mut self, part: impl Fn() -> Part) -> Result<(), Error> {
        let now = Instant::now();
        self.lanes.iter_mut().try_for_each(|relay| relay.lane.push(part(), relay.patience, now))
    }

    /// Looks whether what is held back may follow now.
    pub(super) fn look(&mut self, now: Instant) {
        for relay in &mut self.lanes {
            relay.lane.look(relay.patience, now);
        }
    }

    /// Passes on all that is held back.
    pub(super) fn release(&mut self, now: Instant) {
        for relay in &mut self.lanes {
            relay.lane.release(now);
        }
    }
}

impl Groups for track::Producer {
    type Group = group::Producer;

    fn begin(&mut self, number: u64) -> Result<group::Producer, Error> {
        self.create_group(group::Info::from(number)).map_err(|error| failure(&error))
    }

    fn write(&mut self, group: &mut group::Producer, time: u64, object: Bytes) -> Result<(), Error> {
        write_object(group, time, object)
    }

    fn end(&mut self, group: &mut group::Producer) {
        let _ = group.finish(); // a group of a track that has ended is over anyway
    }

    fn is_delivered(&self, group: &group::Producer) -> bool {
        // The session of the relay lets a group go when the relay has acknowledged all of it, or has left.
        let unused = std::pin::pin!(group.unused());
        unused.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}
