//! Clock of the peer, as its timestamps show it (draft-sharabayko-srt-01, sections 4.5 and 4.7). Timestamps count
//! microseconds modulo 2^32.

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
#[derive(Debug)]
pub(super) struct PeerClock {
    /// Local time at which the clock, in microseconds, showed `origin`.
    epoch: Instant,
    origin: u32,
    /// Consecutive packets whose timestamp was too far ahead.
    leaps: u32,
    drift_sum: i64,
    drift_count: i64,
    /// Adjustment of the clock, in microseconds.
    adjustment: i64,
}

impl PeerClock {
    /// Creates the clock of a peer whose handshake packet, with this timestamp, arrived at `now`.
    pub(super) fn new(timestamp: u32, now: Instant) -> Self {
        Self { epoch: now, origin: timestamp, leaps: 0, drift_sum: 0, drift_count: 0, adjustment: 0 }
    }

    /// Takes over the time of another clock of the same peer.
    pub(super) fn follow(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.origin = other.origin;
        self.adjustment = other.adjustment;
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

    /// Averages the drift of the clock against ours, which a packet shows that has taken half a round trip. The clock is
    /// adjusted in steps of a few milliseconds.
    pub(super) fn observe(&mut self, timestamp: u32, now: Instant, round_trip: Duration) {
        let half = i64::try_from(round_trip.as_micros() / 2).unwrap_or(i64::MAX);
        let late = self.lead(timestamp, now).saturating_add(half).saturating_neg();
        self.drift_sum = self.drift_sum.saturating_add(late.clamp(-1_000_000, 1_000_000));
        self.drift_count += 1;
        if self.drift_count >= DRIFT_SAMPLES {
            let average = self.drift_sum / self.drift_count;
            self.drift_sum = 0;
            self.drift_count = 0;
            if average.abs() > MAX_DRIFT_US {
                self.adjustment = self.adjustment.saturating_add(average);
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
