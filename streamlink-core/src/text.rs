//! Sanitized text of peers. Text that a peer has sent, and values that an error quotes, reach logs, events and
//! statistics only through this module.

use std::{borrow::Borrow, fmt, ops::Deref};

/// Maximum length of a displayed peer text, in bytes.
const MAX_SHOWN: usize = 512;
/// Maximum length of a value quoted in an error, in bytes.
const MAX_QUOTED: usize = 80;

/// Returns bytes as hexadecimal digits with colons, as fingerprints are written: `AA:0B`.
pub(crate) fn colon_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Text chosen by a peer, a server or the operating system, sanitized for display.
///
/// The text is at most about 512 bytes long; an ellipsis stands for the rest. Characters that are invisible, move the
/// cursor or change the direction of the text are escaped, as in `\u{202e}`.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerText(String);

impl PeerText {
    /// Sanitizes a text for display.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(shown(text.as_ref(), MAX_SHOWN))
    }

    /// Returns the sanitized text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for PeerText {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for PeerText {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PeerText {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for PeerText {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<PeerText> for String {
    fn from(text: PeerText) -> Self {
        text.0
    }
}

impl PartialEq<str> for PeerText {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for PeerText {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for PeerText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for PeerText {
    /// Sanitizes the text.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(Self::new(text))
    }
}

/// Returns a text of bounded length, with deceptive and invisible characters escaped.
pub(crate) fn shown(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let escaped = if is_deceptive(c) { Some(c.escape_unicode()) } else { None };
        let length = escaped.as_ref().map_or(c.len_utf8(), ExactSizeIterator::len);
        if out.len() + length > max {
            // Shortening a text that is already shortened changes nothing.
            out.push('…');
            break;
        }
        match escaped {
            Some(escaped) => out.extend(escaped),
            None => out.push(c),
        }
    }
    out
}

/// Returns the part of a given value that an error may quote.
///
/// A secret in the wrong place must not be repeated. Nothing is quoted of a value with an `@`, which may follow a
/// password, and nothing after an `=`, which may precede one.
pub(crate) fn quoted(value: &str) -> String {
    if value.contains('@') {
        return "…".into();
    }
    match value.split_once('=') {
        Some((name, _)) => shown(name, MAX_QUOTED) + "=…",
        None => shown(value, MAX_QUOTED),
    }
}

/// Replaces each occurrence of a secret, which a peer may have repeated, with an ellipsis.
pub(crate) fn without(text: &str, secret: &str) -> String {
    if secret.is_empty() { text.to_owned() } else { text.replace(secret, "…") }
}

/// Returns true if a character moves the cursor, changes the direction of the text, breaks the line, or is invisible.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, joiners and fillers.
            '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{3164}' | '\u{ffa0}' | '\u{2800}'
            // Directional characters: the Arabic letter mark, marks, embeddings, overrides, isolates.
            | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Line and paragraph separators.
            | '\u{2028}'..='\u{2029}'
            // Variation selectors, the byte order mark, annotations, noncharacters.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
            // Format controls of shorthand and of musical notation.
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            // Tags and more variation selectors.
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn peer_text_escapes_what_deceives() {
        for (from, to) in [
            ("H.264, 字幕 é", "H.264, 字幕 é"),
            ("a\r\nb\u{1b}[2J\u{85}", "a\\u{d}\\u{a}b\\u{1b}[2J\\u{85}"),
            ("\u{202e}evil\u{2066}\u{200f}\u{2028}", "\\u{202e}evil\\u{2066}\\u{200f}\\u{2028}"),
            ("a\u{200b}b\u{feff}\u{e0041}", "a\\u{200b}b\\u{feff}\\u{e0041}"),
        ] {
            let text = PeerText::new(from);
            assert_eq!(text, to);
            assert_eq!(format!("{text}"), to);
        }
        let long = PeerText::new("x".repeat(10_000));
        assert_eq!(long.len(), MAX_SHOWN + '…'.len_utf8());
        assert!(long.ends_with('…'));
    }

    #[test]
    fn quoted_values_hold_no_secret() {
        assert_eq!(quoted("99999"), "99999");
        assert_eq!(quoted("user:hunter2@host"), "…");
        assert_eq!(quoted("120;passphrase=hunter2hunter2"), "120;passphrase=…");
    }

    proptest! {
        #[test]
        fn peer_text_is_bounded_and_shows_nothing_that_deceives(text in any::<String>(), extra in "[\u{0}-\u{10ffff}]{0,600}") {
            let shown = PeerText::new(format!("{text}{extra}"));
            prop_assert!(shown.len() <= MAX_SHOWN + '…'.len_utf8());
            prop_assert!(!shown.chars().any(is_deceptive));
        }
    }
}
