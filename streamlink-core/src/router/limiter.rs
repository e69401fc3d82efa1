//! The flow's maximum bandwidth, enforced on the source: a token bucket with one second of burst.

use std::time::{Duration, Instant};

/// Time that the full bucket lasts at the maximum rate.
const BURST: Duration = Duration::from_secs(1);

/// Result of checking a packet against the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateCheck {
    /// The packet fits, and its bytes are taken off.
    Within,
    /// The packet does not fit; nothing was taken off.
    Above,
}

/// A token bucket. Time may stand still or go back between calls: the bucket then gains nothing.
#[derive(Debug)]
pub(crate) struct Limiter {
    bits_per_second: u64,
    /// Bits times 10^6, so that microseconds are not rounded.
    tokens: u128,
    last: Instant,
}

impl Limiter {
    pub(crate) fn new(bits_per_second: u64, now: Instant) -> Self {
        let mut limiter = Self { bits_per_second, tokens: 0, last: now };
        limiter.tokens = limiter.full();
        limiter
    }

    fn full(&self) -> u128 {
        u128::from(self.bits_per_second) * BURST.as_micros()
    }

    /// Changes the rate; the bucket keeps its content, up to the new burst.
    pub(crate) fn set_rate(&mut self, bits_per_second: u64) {
        self.bits_per_second = bits_per_second;
        self.tokens = self.tokens.min(self.full());
    }

    /// Judges a packet of `bytes` bytes at `now`.
    pub(crate) fn admit(&mut self, now: Instant, bytes: usize) -> RateCheck {
        if now > self.last {
            let gained = now.duration_since(self.last).min(BURST).as_micros() * u128::from(self.bits_per_second);
            self.last = now;
            self.tokens = (self.tokens + gained).min(self.full());
        }
        match self.tokens.checked_sub(bytes as u128 * 8 * 1_000_000) {
            Some(rest) => {
                self.tokens = rest;
                RateCheck::Within
            }
            None => RateCheck::Above,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiter_allows_burst_then_rate() {
        let start = Instant::now();
        let mut limiter = Limiter::new(8_000_000, start); // one megabyte a second
        let mut passed = 0;
        for _ in 0..2000 {
            passed += usize::from(limiter.admit(start, 1000) == RateCheck::Within);
        }
        assert_eq!(passed, 1000);
        // Twice the rate for ten seconds: half of it passes.
        for i in 1..=20_000u64 {
            passed += usize::from(limiter.admit(start + Duration::from_micros(500 * i), 1000) == RateCheck::Within);
        }
        assert_eq!(passed, 1000 + 10_000);
        assert_eq!(limiter.admit(start, 1000), RateCheck::Above, "time that goes back gains nothing");
        limiter.set_rate(8_000);
        assert_eq!(limiter.admit(start + Duration::from_secs(3600), 1001), RateCheck::Above);
        assert_eq!(limiter.admit(start + Duration::from_secs(3600), 1000), RateCheck::Within);
    }
}
