//! A timeline of milliseconds from 33-bit timestamps that wrap, jump and start anywhere.

/// The timestamps of MPEG-TS count modulo 2^33 (ISO/IEC 13818-1 section 2.4.3.7).
const MODULUS: i64 = 1 << 33;
/// The step in either direction from which on a timestamp belongs to another timeline: 10 s in units of 90 kHz.
const JUMP: i64 = 900_000;

/// The timeline that all tracks share.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The timestamp that others are unwrapped against.
    reference: Option<i64>,
    /// Added to timestamps of the newest timeline.
    offset: i64,
}

/// The state of one track on the clock.
#[derive(Debug, Default)]
pub(super) struct TrackClock {
    last: Option<i64>,
    /// The offset of the last timestamp, and the last result.
    placed: Option<(i64, i64)>,
}

impl Clock {
    /// Unwraps a timestamp.
    pub(super) fn unwrap(&mut self, track: &mut TrackClock, raw: u64) -> i64 {
        let raw = (raw % MODULUS as u64) as i64;
        let near = *track.last.get_or_insert(*self.reference.get_or_insert(raw));
        let difference = (raw - near).rem_euclid(MODULUS);
        let signed = if difference >= MODULUS / 2 { difference - MODULUS } else { difference };
        let unwrapped = near + signed;
        track.last = Some(unwrapped);
        unwrapped
    }

    /// Begins the output's timeline at a timestamp.
    pub(super) fn start(&mut self, unwrapped: i64) {
        self.offset = -unwrapped;
    }

    /// Returns the position of a timestamp on the timeline, in units of 90 kHz, never before an earlier one of its
    /// track. `step` is the time since the timestamp before, as far as it is known.
    pub(super) fn place(&mut self, track: &mut TrackClock, unwrapped: i64, step: i64) -> i64 {
        let Some((offset, last)) = track.placed else {
            let placed = unwrapped + self.offset;
            track.placed = Some((self.offset, placed));
            return placed;
        };
        let near = |placed: i64| (placed - last).abs() <= JUMP;
        let offset = if near(unwrapped + offset) {
            offset
        } else if near(unwrapped + self.offset) {
            self.offset // another track has found this timeline already
        } else {
            self.offset = last + step - unwrapped;
            self.offset
        };
        let placed = (unwrapped + offset).max(last);
        track.placed = Some((offset, placed));
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remux_clock_continues_over_wraps_and_jumps() {
        let mut clock = Clock::default();
        let mut video = TrackClock::default();
        let mut audio = TrackClock::default();
        let near_end = (1u64 << 33) - 3600;
        let first = clock.unwrap(&mut video, near_end);
        clock.start(first);
        assert_eq!(clock.place(&mut video, first, 0), 0);
        let unwrapped = clock.unwrap(&mut audio, near_end + 1800);
        assert_eq!(clock.place(&mut audio, unwrapped, 0), 1800);
        for (raw, at) in [(0, 3600), (3600, 7200), (7200, 10_800)] {
            let unwrapped = clock.unwrap(&mut video, raw);
            assert_eq!(clock.place(&mut video, unwrapped, 3600), at);
        }
        // Another timeline, an hour on: both tracks move to it together, and keep their distance.
        let unwrapped = clock.unwrap(&mut video, 324_000_000);
        assert_eq!(clock.place(&mut video, unwrapped, 3600), 14_400);
        let unwrapped = clock.unwrap(&mut audio, 324_000_900);
        assert_eq!(clock.place(&mut audio, unwrapped, 1920), 15_300);
        // A small step back is no jump, but nothing goes back.
        let unwrapped = clock.unwrap(&mut video, 323_999_000);
        assert_eq!(clock.place(&mut video, unwrapped, 3600), 14_400);
    }
}
