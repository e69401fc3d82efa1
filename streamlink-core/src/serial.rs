//! Forms that statistics, events and configurations share when they are serialized: durations are numbers of
//! milliseconds, with a fraction down to the microsecond.

use crate::text::PeerText;
use serde::{Deserialize, Deserializer, Serializer, de};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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

    /// # Errors
    /// As [`millis::deserialize`].
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Millis(#[serde(with = "millis")] Duration);
        let duration = Option::<Millis>::deserialize(deserializer)?;
        Ok(duration.map(|Millis(duration)| duration))
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

/// Maximum number of different names that are read back. Names are those of protocols, codecs and reasons: some dozens.
const MAX_NAMES: usize = 512;
/// Maximum length of a name, in bytes.
const MAX_NAME: usize = 48;
/// Name that stands for those above the bounds.
const OTHER: &str = "other";

/// Names that were read back. They live for as long as the process.
static NAMES: Names = Names(Mutex::new(BTreeSet::new()));

struct Names(Mutex<BTreeSet<&'static str>>);

impl Names {
    /// Returns a name that lives for ever. A peer that sends ever new names gets `other` for those above the bound.
    fn known(&self, name: &str) -> &'static str {
        let name = PeerText::new(name);
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name.as_str()) {
            return known;
        }
        if name.len() > MAX_NAME || names.len() >= MAX_NAMES {
            return OTHER;
        }
        let name: &'static str = String::from(name).leak();
        names.insert(name);
        name
    }
}

/// Reads a name that is one of few, as of a protocol.
pub(crate) fn known_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(NAMES.known(&name))
}

/// Reads a name that may be missing.
pub(crate) fn optional_known_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'static str>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.map(|name| NAMES.known(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_read_back_are_bounded() {
        let names = Names(Mutex::default());
        assert_eq!(names.known("srt"), "srt");
        assert!(std::ptr::eq(names.known("srt"), names.known("srt")));
        assert_eq!(names.known(&"x".repeat(MAX_NAME + 1)), OTHER);
        for i in 0..2 * MAX_NAMES {
            assert!(names.known(&format!("name-{i}")).len() <= MAX_NAME);
        }
        assert_eq!(names.known(&format!("name-{}", 2 * MAX_NAMES)), OTHER);
        assert_eq!(names.known("name-0"), "name-0");
        assert!(names.0.lock().unwrap().len() <= MAX_NAMES);
    }
}
