//! Forms that statistics, events and configurations share when they are serialized: durations are numbers of
//! milliseconds, with a fraction down to the microsecond.

use serde::{Deserialize, Deserializer, Serializer, de};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Durations as milliseconds.
pub(crate) mod millis {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(as_millis(*duration))
    }

    /// # Errors
    /// When the number is negative, not finite, or too large.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        // Whole microseconds, so that what was written is read back unchanged.
        let duration = Duration::try_from_secs_f64(millis / 1e3).map_err(de::Error::custom)?;
        Ok(Duration::from_micros(u64::try_from((duration.as_nanos() + 500) / 1000).unwrap_or(u64::MAX)))
    }
}

/// Durations that may be missing, as milliseconds or `null`.
pub(crate) mod optional_millis {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&as_millis(*duration)),
            None => serializer.serialize_none(),
        }
    }
}

/// Times as whole milliseconds since 1970-01-01 UTC.
pub(crate) mod unix_millis {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// # Errors
    /// When the time is out of the range of the system's clock.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since = Duration::from_millis(u64::deserialize(deserializer)?);
        UNIX_EPOCH.checked_add(since).ok_or_else(|| de::Error::custom("a time out of range"))
    }
}

fn as_millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
