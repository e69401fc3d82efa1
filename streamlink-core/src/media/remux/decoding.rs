//! Times of decoding of pictures whose encoder tells only when they are shown, though these are out of order.

use super::timeline::{SECOND, difference};
use std::collections::VecDeque;

/// Number of pictures, in the order of decoding, among which they are put in order.
const WINDOW: usize = 8;
/// Maximum number of pictures that are decoded before one that is shown before them.
const MAX_DEPTH: usize = 4;
/// Number of steps back that are no jitter of the clock.
const CERTAIN: u8 = 3;
/// Number of pictures without a step back after which those before are forgotten.
const IN_ORDER: u8 = 100;

/// Derives times of decoding. All times are timestamps of 33 bits.
#[derive(Debug, Default)]
pub(super) struct DecodingTimes {
    /// Times of the last pictures.
    recent: VecDeque<u64>,
    /// Greatest number of pictures that were decoded before one that is shown before them.
    deepest: usize,
    /// Number of steps back, and of pictures since.
    backs: u8,
    since: u8,
}

impl DecodingTimes {
    /// Returns the time at which a picture is decoded that is shown at `shown`; `None` while all are shown in order.
    pub(super) fn derive(&mut self, shown: u64) -> Option<u64> {
        if self.recent.back().is_some_and(|last| difference(shown, *last).abs() > SECOND) {
            self.recent.clear(); // the clock has stepped
        }
        let later = self.recent.iter().filter(|other| difference(**other, shown) > 0).count();
        let is_certain = self.backs >= CERTAIN;
        if later > 0 {
            self.deepest = self.deepest.max(later.min(MAX_DEPTH));
            self.backs = self.backs.saturating_add(1);
            self.since = 0;
        } else if !is_certain {
            self.since += 1; // at most the limit
            if self.since >= IN_ORDER {
                *self = Self { recent: std::mem::take(&mut self.recent), ..Self::default() };
            }
        }
        if self.recent.len() >= WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(shown);
        if !is_certain {
            return None;
        }
        // Pictures are decoded at the times at which they are shown, in order, that many pictures earlier.
        let mut apart: Vec<i64> = self.recent.iter().map(|other| difference(*other, shown)).collect();
        apart.sort_unstable();
        let at = apart.len().saturating_sub(1 + self.deepest);
        let before = apart.get(at).copied().unwrap_or(0).min(0);
        Some(shown.wrapping_add_signed(before) & ((1 << 33) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_times_of_reordered_pictures_are_even() {
        // Over the wrap of the timestamps: I P B B P B B …
        let start = (1u64 << 33) - 90_000;
        let time = |number: u64| (start + number * 3600) & ((1 << 33) - 1);
        let mut times = DecodingTimes::default();
        let mut derived = Vec::new();
        for group in 0..30 {
            for number in [3, 1, 2] {
                let shown = time(group * 3 + number);
                let decoded = times.derive(shown);
                assert!(decoded.is_none_or(|decoded| difference(shown, decoded) >= 0));
                derived.extend(decoded);
            }
        }
        assert!(derived.len() > 80);
        let steps: Vec<i64> = derived.windows(2).map(|pair| difference(pair[1], pair[0])).collect();
        assert!(steps[5..].iter().all(|step| *step == 3600), "{steps:?}");
    }

    #[test]
    fn decoding_times_are_those_of_showing_where_pictures_are_in_order() {
        let mut times = DecodingTimes::default();
        for number in 0..1000u64 {
            let jitter = if number % 300 == 0 { 4000 } else { 0 };
            assert_eq!(times.derive(number * 3600 - jitter * u64::from(number > 0)), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn decoding_times_survive_any_times(shown in proptest::collection::vec(0u64..1 << 33, 0..100)) {
            let mut times = DecodingTimes::default();
            for shown in shown {
                let decoded = times.derive(shown).unwrap_or(shown);
                proptest::prop_assert!(decoded < 1 << 33 && difference(shown, decoded) >= 0);
            }
        }
    }
}
