//! Fingerprints of certificates that a caller trusts.

use crate::{error::ConfigErrorKind, text::colon_hex};
use std::{fmt, str::FromStr, sync::Arc};

/// Maximum number of fingerprints of one caller.
const MAX: usize = 16;

/// SHA-256 fingerprints of certificates, separated by commas. Empty: the roots decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprints(Arc<[[u8; 32]]>);

impl Fingerprints {
    pub(crate) fn as_slice(&self) -> &[[u8; 32]] {
        &self.0
    }
}

/// Reads 64 hexadecimal digits in any case, with or without colons or spaces, as `openssl x509 -fingerprint` writes them,
/// with what it writes before.
fn parse(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let digits = match text.rsplit_once('=') {
        Some((label, digits)) if label.to_ascii_lowercase().starts_with("sha256") => digits,
        Some(_) => return None,
        None => text.strip_prefix("sha256:").or_else(|| text.strip_prefix("SHA256:")).unwrap_or(text),
    };
    let mut values = digits.chars().filter(|c| !c.is_whitespace() && *c != ':').map(|c| c.to_digit(16));
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        let high = values.next()??;
        let low = values.next()??;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    values.next().is_none().then_some(bytes)
}

impl FromStr for Fingerprints {
    type Err = ConfigErrorKind;
    fn from_str(text: &str) -> Result<Self, ConfigErrorKind> {
        let bad =
            || ConfigErrorKind::malformed(text, "a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons");
        let each = text.split([',', ';']).filter(|part| !part.trim().is_empty());
        let found: Vec<[u8; 32]> = each.map(|part| parse(part).ok_or_else(bad)).collect::<Result<_, _>>()?;
        match found.len() {
            0 => Err(bad()),
            1..=MAX => Ok(Self(found.into())),
            many => Err(ConfigErrorKind::out_of_range(format!("{many} fingerprints"), format!("1 to {MAX}"))),
        }
    }
}

impl fmt::Display for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(|print| colon_hex(print)).collect();
        f.write_str(&each.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let bytes: Vec<u8> = (0xa0..0xc0).collect();
        let colons = colon_hex(&bytes);
        let plain = colons.replace(':', "").to_lowercase();
        let spaced = format!("sha256 Fingerprint={colons}");
        for text in
            [&colons, &plain, &spaced, &format!(" {colons} , "), &format!("sha256:{plain}"), &plain.to_uppercase()]
        {
            let read: Fingerprints = text.parse().unwrap();
            assert_eq!(read.to_string(), colons, "{text}");
            assert_eq!(read.as_slice().concat(), bytes);
        }
        let two: Fingerprints = format!("{colons},{plain}").parse().unwrap();
        assert_eq!(two.as_slice().len(), 2);
        let many = vec![plain.clone(); MAX + 1].join(",");
        for bad in ["", ",", "aa", &plain[1..], &format!("{plain}a"), &format!("sha1={plain}"), "é", &many] {
            assert!(bad.parse::<Fingerprints>().is_err(), "{bad}");
        }
    }
}
