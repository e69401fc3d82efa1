//! Settings by name. Every endpoint reads and writes its settings as `key=value`, the form that the query of a URL, the
//! members of a JSON endpoint and the options of the C ABI share.

use super::{
    setting::{Given, unknown},
    setting_table::{Fields, TABLE},
};
use crate::error::ConfigErrorKind;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

/// Sets one setting of an endpoint from text.
pub(crate) fn set(fields: &mut dyn Fields, name: &str, value: &str) -> Result<(), ConfigErrorKind> {
    let scope = fields.scope();
    let row = TABLE.iter().find(|row| row.setting.scopes.contains(&scope) && row.setting.is_named(name));
    match row {
        None => Err(unknown(scope, name)),
        Some(row) => match &row.access {
            Some(access) => (access.set)(fields, Given { setting: &row.setting, text: value }),
            None => Err(ConfigErrorKind::Conflict("is set where the endpoint is made, and not afterwards".into())),
        },
    }
}

/// Returns the settings of an endpoint that differ from their defaults, in the order of the table.
pub(crate) fn list(fields: &mut dyn Fields) -> Entries {
    let scope = fields.scope();
    let mut entries = Entries::default();
    for row in TABLE.iter().filter(|row| row.setting.scopes.contains(&scope)) {
        let value = row.access.as_ref().and_then(|access| (access.get)(fields));
        if let Some(value) = value.filter(|value| value != row.setting.default) {
            entries.push(row.setting.name, value);
        }
    }
    entries
}

/// A list of settings with their values as text, in the order of declaration.
#[derive(Default)]
pub(crate) struct Entries(pub(crate) Vec<(&'static str, String)>);

impl Entries {
    pub(crate) fn push(&mut self, key: &'static str, value: impl Display) {
        self.0.push((key, value.to_string()));
    }
}

/// Parses a number in a range.
pub(crate) fn number<T>(value: &str, range: RangeInclusive<T>, unit: &str) -> Result<T, ConfigErrorKind>
where
    T: FromStr + PartialOrd + Display,
{
    match value.parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        Ok(n) => Err(ConfigErrorKind::out_of_range(n, format!("{} to {} {unit}", range.start(), range.end()))),
        Err(_) => Err(ConfigErrorKind::malformed(
            value,
            format!("a number of {unit} from {} to {}", range.start(), range.end()),
        )),
    }
}

/// Parses a number of milliseconds in a range.
pub(crate) fn millis(value: &str, range: RangeInclusive<u64>) -> Result<Duration, ConfigErrorKind> {
    number(value, range, "milliseconds").map(Duration::from_millis)
}

/// Checks that a duration lies in a range of milliseconds.
pub(crate) fn check_millis(value: Duration, range: RangeInclusive<u64>) -> Result<Duration, ConfigErrorKind> {
    let bounds = Duration::from_millis(*range.start())..=Duration::from_millis(*range.end());
    if !bounds.contains(&value) {
        let range = format!("{} to {} milliseconds", range.start(), range.end());
        return Err(ConfigErrorKind::out_of_range(format!("{} ms", value.as_millis()), range));
    }
    Ok(value)
}

/// Parses `true`, `false`, `1`, `0`, `yes`, `no`, `on` or `off`.
pub(crate) fn boolean(value: &str) -> Result<bool, ConfigErrorKind> {
    match value {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(ConfigErrorKind::malformed(value, "true or false")),
    }
}
