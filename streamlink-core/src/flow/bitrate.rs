//! Bit rates.

use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr};

/// A bit rate in bits per second.
///
/// As text: a whole number of bits per second, or a decimal number with `k`, `M` or `G` (powers of 1000):
/// `20M`, `2.5M`, `600k`, `6000000`. In statistics as JSON: the number of bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Bitrate(u64);

impl Bitrate {
    /// Returns a rate in bits per second.
    pub const fn bps(bits_per_second: u64) -> Self {
        Self(bits_per_second)
    }

    /// Returns a rate in kilobits (1000 bits) per second; saturates.
    pub const fn kbps(kilobits: u64) -> Self {
        Self(kilobits.saturating_mul(1_000))
    }

    /// Returns a rate in megabits (1 000 000 bits) per second; saturates.
    pub const fn mbps(megabits: u64) -> Self {
        Self(megabits.saturating_mul(1_000_000))
    }

    /// Returns the bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes that pass in `duration` at this rate; saturates.
    pub fn bytes_in(self, duration: std::time::Duration) -> u64 {
        let bits = u128::from(self.0).saturating_mul(duration.as_micros()) / 1_000_000;
        u64::try_from(bits / 8).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Bitrate {
    /// Writes the shortest exact text that [`FromStr`] reads back to the same rate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
            if self.0 > 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{suffix}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bitrate {
    type Err = ConfigErrorKind;

    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let bad = || ConfigErrorKind::malformed(s, "a bit rate such as `20M`, `600k` or `6000000`");
        let text = s.trim();
        let (number, unit) = match text.chars().last() {
            Some('k' | 'K') => (&text[..text.len() - 1], 1_000u64),
            Some('m' | 'M') => (&text[..text.len() - 1], 1_000_000),
            Some('g' | 'G') => (&text[..text.len() - 1], 1_000_000_000),
            _ => (text, 1),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(bad());
        }
        let mut bits = whole.parse::<u64>().ok().and_then(|w| w.checked_mul(unit)).ok_or_else(bad)?;
        if !fraction.is_empty() {
            let scale = 10u64.pow(fraction.len() as u32); // at most 10^9, checked above
            let part = fraction.parse::<u64>().map_err(|_| bad())?;
            bits = bits.checked_add(part.checked_mul(unit).ok_or_else(bad)? / scale).ok_or_else(bad)?;
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitrate_text_round_trips() {
        for (text, bps) in
            [("20M", 20_000_000), ("2.5m", 2_500_000), ("600k", 600_000), ("7", 7), ("1G", 1_000_000_000)]
        {
            let rate: Bitrate = text.parse().unwrap();
            assert_eq!(rate.as_bps(), bps);
            assert_eq!(rate.to_string().parse::<Bitrate>().unwrap(), rate);
        }
        for bad in ["", "M", "-1", "1.2.3", "1e6", "99999999999999999999G", "1.0000000001M", "½"] {
            assert!(bad.parse::<Bitrate>().is_err(), "{bad}");
        }
        assert_eq!(Bitrate::mbps(8).bytes_in(std::time::Duration::from_millis(500)), 500_000);
        assert_eq!(Bitrate::bps(u64::MAX).bytes_in(std::time::Duration::MAX), u64::MAX);
    }
}
