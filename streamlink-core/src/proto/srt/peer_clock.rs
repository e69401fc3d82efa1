//! Clock of the peer, as its timestamps show it (draft-sharabayko-srt-01, sections 4.5 and 4.7). Timestamps count
//! microseconds modulo 2^32.
//!
//! The clock is that of the handshake packet at its arrival, so that it is behind that of the peer by the delay of the path,
//! which a packet may take beside the latency. A change of the delay shows in the round trip, and is no drift.

use std::time::{Duration, Instant};

/// Number of averaged samples of the drift between the clocks. The clock is adjusted if the average exceeds
/// [`MAX_DRIFT_US`].
const DRIFT_SAMPLES: i64 = 1000;
/// Drift from which the clock is adjusted, in microseconds.
const MAX_DRIFT_US: i64 = 5000;
/// Maximum lead of a packet's timestamp over the peer's clock, as known from the handshake. The lead is the time by
/// which the handshake took longer than the packet, so the limit is far above that of any network. It also covers
/// senders whose clock starts a little after their handshake.
pub(super) const MAX_LEAD: Duration = Duration::from_secs(5);
/// Number of consecutive packets with a larger lead after which the clock is reset by them.
pub(super) const LEAPS: u32 = 64;

/// Clock of the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerClock {
    /// Local time at which the clock, in microseconds, showed `origin`.
    epoch: Instant,
    origin: u32,
    /// Consecutive packets whose timestamp was too far ahead.
    leaps: u32,
    drift_sum: i64,
    drift_count: i64,
    /// Shortest round trip of the first average, in microseconds: nearly that of the handshake.
    first_round_trip: Option<i64>,
    /// Set once [`PeerClock::first_round_trip`] is settled.
    is_settled: bool,
    /// Average that shows no drift, in microseconds: `None` before it is known, of a clock that was taken over from another
    /// path with another delay.
    reference: Option<i64>,
    /// Adjustment of the clock, in microseconds.
    adjustment: i64,
}

impl PeerClock {
    /// Creates the clock of a peer whose handshake packet, with this timestamp, arrived at `now`.
    pub(super) fn new(timestamp: u32, now: Instant) -> Self {
        Self {
            epoch: now,
            origin: timestamp,
            leaps: 0,
            drift_sum: 0,
            drift_count: 0,
            first_round_trip: None,
            is_settled: false,
            reference: Some(0),
            adjustment: 0,
        }
    }

    /// Takes over the time of another clock of the same peer, which was observed on another path.
    pub(super) fn follow(&mut self, other: &Self) {
        let leaps = self.leaps;
        *self = Self { leaps, reference: None, adjustment: other.adjustment, ..Self::new(other.origin, other.epoch) };
    }

    /// Returns the time at which a packet was sent that arrived at `now`. `None` if its timestamp is too far ahead; when
    /// that goes on, the clock is reset.
    pub(super) fn sent_at(&mut self, timestamp: u32, now: Instant) -> Option<Instant> {
        let lead = self.lead(timestamp, now);
        if lead > MAX_LEAD.as_micros() as i64 {
            self.leaps += 1;
            if self.leaps >= LEAPS {
                *self = Self::new(timestamp, now);
            }
            return None;
        }
        self.leaps = 0;
        let away = Duration::from_micros(lead.unsigned_abs());
        let sent = if lead < 0 { now.checked_sub(away) } else { now.checked_add(away) };
        Some(sent.unwrap_or(now))
    }

    /// Averages the drift of the clock against ours. The delay of the packet is taken to have changed by half of what the
    /// round trip has. The clock is adjusted in steps of a few milliseconds.
    pub(super) fn observe(&mut self, timestamp: u32, now: Instant, round_trip: Duration) {
        let round_trip = i64::try_from(round_trip.as_micros()).unwrap_or(i64::MAX);
        let first = self.first_round_trip.filter(|first| self.is_settled || *first <= round_trip).unwrap_or(round_trip);
        self.first_round_trip = Some(first);
        let slower = round_trip.saturating_sub(first) / 2;
        let late = self.lead(timestamp, now).saturating_add(slower).saturating_neg();
        self.drift_sum = self.drift_sum.saturating_add(late.clamp(-1_000_000, 1_000_000));
        self.drift_count += 1;
        if self.drift_count >= DRIFT_SAMPLES {
            let average = self.drift_sum / self.drift_count;
            self.drift_sum = 0;
            self.drift_count = 0;
            self.is_settled = true;
            let drift = average - *self.reference.get_or_insert(average);
            if drift.abs() > MAX_DRIFT_US {
                self.adjustment = self.adjustment.saturating_add(drift);
            }
        }
    }

    /// Returns the lead of a packet's timestamp over the clock at `now`, in microseconds. It is nearly always negative, by
    /// the time the packet was under way. Timestamps wrap every 71 minutes; the nearest reading is taken, however long the
    /// peer was silent.
    fn lead(&self, timestamp: u32, now: Instant) -> i64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_micros() as u32; // modulo 2^32
        let clock = self.origin.wrapping_add(elapsed).wrapping_sub(self.adjustment as u32); // modulo 2^32
        i64::from(timestamp.wrapping_sub(clock) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has the clock observe packets of a peer whose clock runs faster by a number of microseconds a second, for a minute.
    /// `trip`: round trip and delay of the way here, at a time in milliseconds, in microseconds. Returns by how much the
    /// clock is behind that of the peer then, without the delay at first.
    fn observed(clock: &mut PeerClock, start: Instant, ppm: u64, trip: impl Fn(u64) -> (u64, u64)) -> i64 {
        let (_, first) = trip(0);
        let at = |time: u64| start + Duration::from_micros(time);
        let stamp = |time: u64| (time + time * ppm / 1_000_000) as u32; // modulo 2^32
        for time in (0..60_000).step_by(10).map(|millis| millis * 1000) {
            let (round_trip, delay) = trip(time / 1000);
            clock.observe(stamp(time), at(time + delay), Duration::from_micros(round_trip));
        }
        clock.lead(stamp(60_000_000), at(60_000_000 + first))
    }

    #[test]
    fn srt_clock_takes_no_delay_for_a_drift() {
        let start = Instant::now();
        let clock = || PeerClock::new(0, start + Duration::from_micros(50_000));
        // A path that goes on as it is, that becomes slower in both ways, and one whose first round trip was slow.
        assert_eq!(observed(&mut clock(), start, 0, |_| (100_000, 50_000)), 0);
        let slower = |millis| if millis < 5000 { (100_000, 50_000) } else { (500_000, 250_000) };
        assert_eq!(observed(&mut clock(), start, 0, slower), 0);
        let late = observed(&mut clock(), start, 0, |millis| (if millis == 0 { 400_000 } else { 100_000 }, 50_000));
        assert_eq!(late, 0);
        // The clock of a peer that runs faster is followed to within its adjustments.
        assert!(observed(&mut clock(), start, 1000, |_| (100_000, 50_000)) < 20_000);
    }

    #[test]
    fn srt_clock_of_another_path_keeps_its_time() {
        let start = Instant::now();
        let first = PeerClock::new(0, start + Duration::from_micros(10_000));
        let mut second = PeerClock::new(0, start + Duration::from_micros(200_000));
        second.follow(&first);
        // When the first path is gone, packets of the second one are as late as before.
        assert_eq!(observed(&mut second, start, 0, |_| (400_000, 200_000)), -190_000);
    }
}
