//! The timeline of a program: from 33-bit timestamps that wrap, jump and start anywhere to one that goes on evenly.
//!
//! All tracks share one mapping, so that sound and picture stay together. Where the timestamps of a track leave what
//! is possible, they belong to another timeline, which follows the old one. Until the other tracks get there, they are
//! still on the old one. By chance the new timestamps of a track may be possible on the old timeline, too: a track that has
//! stayed there for long is taken over to that of the pictures.

use std::time::{Duration, Instant};

/// The timestamps of MPEG-TS count modulo 2^33 (ISO/IEC 13818-1 section 2.4.3.7).
const MODULUS: i64 = 1 << 33;
/// One second.
pub(super) const SECOND: i64 = 90_000;
/// Maximum gap that counts as time that has passed.
const LONGEST_GAP: i64 = 10 * SECOND;
/// Time after a break for which a track may still be on the old timeline: sound is not farther behind pictures.
const LONGEST_LAG: i64 = 2 * SECOND;
/// Number of timestamps after a break of the program clock that are looked at more closely.
const SUSPECTS: u16 = 200;

/// Returns how much later one timestamp is than another, over wraps.
pub(super) fn difference(later: u64, earlier: u64) -> i64 {
    let apart = ((later as i64).wrapping_sub(earlier as i64)).rem_euclid(MODULUS);
    if apart >= MODULUS / 2 { apart - MODULUS } else { apart }
}

/// A mapping of timestamps to times of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    raw: u64,
    placed: i64,
}

impl Anchor {
    fn place(self, raw: u64) -> i64 {
        self.placed + difference(raw, self.raw)
    }
}

/// The mapping that all tracks share.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    anchor: Option<Anchor>,
    /// Number of breaks so far.
    epoch: u32,
    /// The time of the last break.
    broke_at: i64,
    /// The latest time that any track has reached.
    front: i64,
}

/// The place of one track on the timeline. Times are in units of 90 kHz.
#[derive(Debug, Default)]
pub(super) struct TrackTime {
    anchor: Option<Anchor>,
    epoch: u32,
    last: Option<i64>,
    arrived: Option<Instant>,
    /// Number of timestamps that are to be looked at closely.
    suspects: u16,
}

/// The steps that are no break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// The usual duration of a frame.
    pub(super) step: i64,
    /// The farthest step back.
    pub(super) back: i64,
    /// The same while the program clock has just broken.
    pub(super) suspect_back: i64,
}

impl Timeline {
    /// Returns whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.anchor.is_some()
    }

    /// Returns the latest time that any track has reached.
    pub(super) fn front(&self) -> i64 {
        self.front
    }

    /// Begins with this timestamp, at time 0.
    pub(super) fn begin(&mut self, raw: u64) {
        self.anchor = Some(Anchor { raw, placed: 0 });
    }

    /// Returns the time of a timestamp of a track; `None` if it is on no timeline that is known.
    pub(super) fn locate(
        &mut self,
        track: &mut TrackTime,
        raw: u64,
        arrival: Instant,
        tolerance: Tolerance,
    ) -> Option<i64> {
        let newest = self.anchor?;
        let Some(last) = track.last else {
            let placed = newest.place(raw);
            let near = (placed - self.front).abs() <= LONGEST_GAP;
            if near {
                track.anchor = Some(newest);
                track.epoch = self.epoch;
            }
            return near.then_some(placed);
        };
        let expected = last + tolerance.step;
        let own = track.anchor.unwrap_or(newest).place(raw);
        let mut best = own;
        let mut moves = false;
        if track.epoch != self.epoch {
            let other = newest.place(raw);
            // After the break of another track, a step back is one to its timeline, even if the gap there is longer.
            let goes_back = own < last - tolerance.suspect_back && other >= last && other - expected <= LONGEST_LAG;
            if goes_back || (other - expected).abs() < (own - expected).abs() {
                best = other;
                moves = true;
            }
        }
        let elapsed = track.arrived.map_or(Duration::ZERO, |arrived| arrival.saturating_duration_since(arrived));
        let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX / 1000).min(10_000) * 90;
        let longest = SECOND.max(elapsed + SECOND / 2).min(LONGEST_GAP);
        let (back, forward) = if track.suspects > 0 && !moves {
            // Where another track is already, there was a gap in both.
            let reached = (self.front - expected).min(longest);
            (tolerance.suspect_back, reached.max(tolerance.step + tolerance.step / 2))
        } else {
            (tolerance.back, longest)
        };
        if best < last - back || best > expected + forward {
            return None;
        }
        if moves {
            track.anchor = Some(newest);
            track.epoch = self.epoch;
            track.suspects = 0;
        }
        track.suspects = track.suspects.saturating_sub(1);
        Some(best)
    }

    /// Begins another timeline with a timestamp of a track, at this time.
    pub(super) fn break_at(&mut self, track: &mut TrackTime, raw: u64, placed: i64) {
        self.anchor = Some(Anchor { raw, placed });
        self.epoch = self.epoch.wrapping_add(1);
        self.broke_at = placed;
        track.anchor = self.anchor;
        track.epoch = self.epoch;
        track.suspects = 0;
    }

    /// Returns whether a track is still on a timeline that ended long ago.
    fn is_left_behind(&self, track: &TrackTime) -> bool {
        let since = track.last.map_or(0, |last| last - self.broke_at);
        track.anchor.is_some() && track.epoch != self.epoch && since > LONGEST_LAG
    }

    /// Makes the timeline of a track that was left behind, which has this time, that of all tracks: the others follow.
    pub(super) fn lead(&mut self, track: &mut TrackTime, placed: i64) {
        if self.is_left_behind(track) {
            self.anchor = track.anchor;
            self.epoch = self.epoch.wrapping_add(1);
            self.broke_at = placed;
            track.epoch = self.epoch;
        }
    }

    /// Takes a track that was left behind over to the newest timeline, if a timestamp of it is near `beside` there, the
    /// time of another track. Returns the time of the timestamp.
    pub(super) fn follow(&self, track: &mut TrackTime, raw: u64, beside: i64, step: i64) -> Option<i64> {
        if !self.is_left_behind(track) {
            return None;
        }
        let placed = self.anchor?.place(raw);
        if (placed - beside).abs() > LONGEST_LAG {
            return None;
        }
        track.anchor = self.anchor;
        track.epoch = self.epoch;
        track.last = Some(placed - step);
        track.suspects = 0;
        Some(placed)
    }

    /// Records the time of a frame; `raw` is its timestamp, with the time that it stands for.
    pub(super) fn record(&mut self, track: &mut TrackTime, placed: i64, raw: Option<(u64, i64)>, arrival: Instant) {
        track.last = Some(placed);
        track.arrived = Some(arrival);
        self.front = self.front.max(placed);
        // The mapping moves along, as timestamps that are half a wrap away are ambiguous.
        if let Some((raw, at)) = raw
            && let Some(anchor) = track.anchor
            && difference(raw, anchor.raw).abs() > MODULUS / 16
        {
            track.anchor = Some(Anchor { raw, placed: at });
            if track.epoch == self.epoch {
                self.anchor = track.anchor;
            }
        }
    }
}

impl TrackTime {
    /// Returns the time of the last frame.
    pub(super) fn last(&self) -> Option<i64> {
        self.last
    }

    /// Returns the arrival of the last frame.
    pub(super) fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Returns the number of breaks before its timeline.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the time of a timestamp on the track's timeline, whether it is possible or not.
    pub(super) fn place(&self, raw: u64) -> Option<i64> {
        Some(self.anchor?.place(raw))
    }

    /// Moves this track alone to another mapping.
    pub(super) fn move_alone(&mut self, raw: u64, placed: i64) {
        self.anchor = Some(Anchor { raw, placed });
        self.suspects = 0;
    }

    /// Notes that the program clock has broken: the timestamps break soon.
    pub(super) fn suspect(&mut self) {
        self.suspects = SUSPECTS;
    }
}

/// Follows the program clock references, which tell of a break before the timestamps do.
#[derive(Debug, Default)]
pub(super) struct ProgramClock {
    last: Option<(u64, Instant)>,
    /// The longest of the last distances, which decays.
    usual: i64,
}

impl ProgramClock {
    /// Observes a reference. Returns whether the clock has broken.
    pub(super) fn observe(&mut self, clock: u64, announced: bool, arrival: Instant) -> bool {
        let Some((last, before)) = self.last.replace((clock, arrival)) else { return announced };
        let step = difference(clock, last);
        let elapsed = arrival.saturating_duration_since(before);
        let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX / 1000).saturating_mul(90);
        let usual = self.usual.max(SECOND / 10);
        let broken = announced || step < 0 || step > elapsed.saturating_add(2 * usual) && step > 2 * usual;
        if !broken {
            self.usual = (self.usual - self.usual / 16).max(step.min(SECOND));
        }
        broken
    }

    /// Forgets the clock of another program or PID.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: i64 = 3600;
    const VIDEO: Tolerance = Tolerance { step: FRAME, back: FRAME * 3 / 4, suspect_back: FRAME / 2 };
    const AUDIO: Tolerance = Tolerance { step: 1920, back: 9000, suspect_back: 1920 };

    fn next(timeline: &mut Timeline, track: &mut TrackTime, raw: u64, tolerance: Tolerance) -> Option<i64> {
        let now = Instant::now();
        let placed = timeline.locate(track, raw, now, tolerance)?;
        timeline.record(track, placed, Some((raw, placed)), now);
        Some(placed)
    }

    #[test]
    fn timeline_continues_over_wraps() {
        let mut timeline = Timeline::default();
        let mut video = TrackTime::default();
        let mut audio = TrackTime::default();
        let start = (1u64 << 33) - 7200;
        timeline.begin(start);
        for i in 0..5_000i64 {
            let raw = (start + (i * FRAME) as u64) & ((1 << 33) - 1);
            assert_eq!(next(&mut timeline, &mut video, raw, VIDEO), Some(i * FRAME));
            let raw = (start + 900 + (i * FRAME) as u64) & ((1 << 33) - 1);
            assert_eq!(next(&mut timeline, &mut audio, raw, AUDIO), Some(i * FRAME + 900));
        }
        // Over three days, in steps of half a second.
        let start = 5_000 * FRAME;
        for i in 0..600_000i64 {
            let raw = ((1u64 << 33) - 7200 + (start + i * 45_000) as u64) & ((1 << 33) - 1);
            let tolerance = Tolerance { step: 45_000, ..VIDEO };
            assert_eq!(next(&mut timeline, &mut video, raw, tolerance), Some(start + i * 45_000));
        }
    }

    /// Returns a timeline with two tracks, of which ten pictures' time has been placed from this timestamp on.
    fn running(start: u64) -> (Timeline, TrackTime, TrackTime) {
        let mut timeline = Timeline::default();
        let mut video = TrackTime::default();
        let mut audio = TrackTime::default();
        timeline.begin(start);
        for i in 0..10u64 {
            next(&mut timeline, &mut video, start + i * 3600, VIDEO).unwrap();
            next(&mut timeline, &mut audio, start + i * 3600, AUDIO).unwrap();
        }
        (timeline, video, audio)
    }

    #[test]
    fn timeline_break_moves_tracks_one_after_the_other() {
        let (mut timeline, mut video, mut audio) = running(1_000_000);
        // Steps back by three seconds, and by 150 ms; steps forward by an hour.
        let mut at = 9 * FRAME;
        let mut raw = 1_000_000 + 9 * 3600;
        for step in [-3 * SECOND, -13_500, 3600 * SECOND] {
            let other = (raw as i64 + FRAME + step) as u64;
            assert_eq!(next(&mut timeline, &mut video, other, VIDEO), None, "{step}");
            timeline.break_at(&mut video, other, at + FRAME);
            timeline.record(&mut video, at + FRAME, None, Instant::now());
            // The sound is still on the old timeline, then on the new one.
            assert_eq!(next(&mut timeline, &mut audio, raw + 1920, AUDIO), Some(at + 1920), "{step}");
            assert_eq!(next(&mut timeline, &mut audio, other + 240, AUDIO), Some(at + FRAME + 240), "{step}");
            at += FRAME;
            raw = other;
        }
    }

    #[test]
    fn timeline_break_with_a_gap_moves_sound_that_steps_back_by_less() {
        for step in [-60i64, -80, -100, -120, -150] {
            let (mut timeline, mut video, mut audio) = running(1_000_000);
            // The pictures go on 120 ms later, as some of those before are yet to be shown.
            let at = 9 * FRAME;
            let raw = (1_000_000 + at + FRAME + step * 90) as u64;
            timeline.break_at(&mut video, raw, at + FRAME + 10_800);
            timeline.record(&mut video, at + FRAME + 10_800, None, Instant::now());
            let sound = (1_000_000 + at + 1920 + step * 90) as u64;
            assert_eq!(next(&mut timeline, &mut audio, sound, AUDIO), Some(at + 1920 + 10_800), "{step}");
        }
    }

    #[test]
    fn timeline_gap_of_sound_is_one_of_suspected_pictures() {
        let (mut timeline, mut video, mut audio) = running(0);
        // The clock steps forward by 400 ms. The sound comes before the program clock, which tells of it.
        assert_eq!(next(&mut timeline, &mut audio, 10 * 3600 + 36_000, AUDIO), Some(10 * FRAME + 36_000));
        video.suspect();
        assert_eq!(next(&mut timeline, &mut video, 10 * 3600 + 36_000, VIDEO), Some(10 * FRAME + 36_000));
        // Farther than the sound is a break.
        video.suspect();
        assert_eq!(next(&mut timeline, &mut video, 11 * 3600 + 72_000, VIDEO), None);
    }

    #[test]
    fn program_clock_breaks_are_found() {
        let mut clock = ProgramClock::default();
        let now = Instant::now();
        for i in 0..50u64 {
            assert!(!clock.observe(i * 3600, false, now));
        }
        assert!(clock.observe(50 * 3600 - 7200, false, now), "back");
        for i in 49..60u64 {
            assert!(!clock.observe(i * 3600, false, now));
        }
        assert!(clock.observe(60 * 3600 + 45_000, false, now), "half a second forward");
        assert!(!clock.observe(61 * 3600 + 45_000 + 90_000, false, now + Duration::from_secs(1)), "a gap");
        assert!(clock.observe(62 * 3600 + 45_000 + 90_000, true, now + Duration::from_secs(1)), "announced");
    }
}
