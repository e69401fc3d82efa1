//! Names of flows, sources and outputs.

use crate::error::ConfigErrorKind;
use std::fmt;

/// The name of a flow, a source or an output: 1–128 bytes of UTF-8 without control characters.
///
/// Identifies the flow or endpoint in logs, events, statistics and calls. The names of the sources and outputs of one
/// flow are unique within it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Maximum length of a name, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Returns a name after checking it.
    ///
    /// # Errors
    /// When the name is empty, longer than [`Name::MAX_LEN`], or holds a control character.
    pub fn new(name: impl Into<String>) -> Result<Self, ConfigErrorKind> {
        let name = name.into();
        check_text(&name, 1, Self::MAX_LEN)?;
        Ok(Self(name))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a free-form field: `min..=max` bytes without control characters.
pub(crate) fn check_text(text: &str, min: usize, max: usize) -> Result<(), ConfigErrorKind> {
    if text.len() < min || text.len() > max {
        return Err(ConfigErrorKind::out_of_range(
            format!("a length of {}", text.len()),
            format!("{min} to {max} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(ConfigErrorKind::malformed(text, "text without control characters"));
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        Self::new(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_bounded_and_printable() {
        assert!(Name::new("match-day").is_ok());
        assert!(Name::new("é".repeat(64)).is_ok());
        for bad in [String::new(), "a\nb".into(), "é".repeat(65), "\u{7f}".into()] {
            assert!(Name::new(bad).is_err());
        }
    }
}
