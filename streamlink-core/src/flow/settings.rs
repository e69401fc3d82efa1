//! Settings by name. Each protocol reads and writes its settings as `key=value`, the form that the query of a URL, the
//! members of a JSON endpoint and the options of the C ABI share.

use crate::error::Problem;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

/// Settings that can be read and written by name.
pub(crate) trait Settings {
    /// Sets one setting; `None` if there is none of that name.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>>;
    /// Appends the settings that differ from their defaults.
    fn list(&self, out: &mut Entries);
}

/// A list of settings with their values as text, in the order of declaration.
#[derive(Default)]
pub(crate) struct Entries(pub(crate) Vec<(&'static str, String)>);

impl Entries {
    pub(crate) fn push(&mut self, key: &'static str, value: impl Display) {
        self.0.push((key, value.to_string()));
    }

    pub(crate) fn push_unless<T: PartialEq + Display>(&mut self, key: &'static str, value: T, default: T) {
        if value != default {
            self.push(key, value);
        }
    }

    pub(crate) fn push_some(&mut self, key: &'static str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.push(key, value);
        }
    }
}

/// Stores a parsed value, or returns its error.
pub(crate) fn store<T>(slot: &mut T, value: Result<T, Problem>) -> Option<Result<(), Problem>> {
    Some(value.map(|value| *slot = value))
}

/// Parses a number in a range.
pub(crate) fn number<T>(value: &str, range: RangeInclusive<T>, unit: &str) -> Result<T, Problem>
where
    T: FromStr + PartialOrd + Display,
{
    match value.parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        Ok(n) => Err(Problem::out_of_range(n, format!("{} to {} {unit}", range.start(), range.end()))),
        Err(_) => {
            Err(Problem::malformed(value, format!("a number of {unit} from {} to {}", range.start(), range.end())))
        }
    }
}

/// Parses a number of milliseconds in a range.
pub(crate) fn millis(value: &str, range: RangeInclusive<u64>) -> Result<Duration, Problem> {
    number(value, range, "milliseconds").map(Duration::from_millis)
}

/// Checks that a duration lies in a range of milliseconds.
pub(crate) fn check_millis(value: Duration, range: RangeInclusive<u64>) -> Result<Duration, Problem> {
    let bounds = Duration::from_millis(*range.start())..=Duration::from_millis(*range.end());
    if !bounds.contains(&value) {
        let range = format!("{} to {} milliseconds", range.start(), range.end());
        return Err(Problem::out_of_range(format!("{} ms", value.as_millis()), range));
    }
    Ok(value)
}

/// Parses `true`, `false`, `1`, `0`, `yes`, `no`, `on` or `off`.
pub(crate) fn boolean(value: &str) -> Result<bool, Problem> {
    match value {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Problem::malformed(value, "true or false")),
    }
}
