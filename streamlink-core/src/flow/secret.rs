//! Secrets: passphrases, stream keys and passwords. `Debug` never prints them, they are never logged, and their memory
//! is wiped when they are dropped.

use super::name::check_text;
use crate::{error::ConfigErrorKind, random, secret::Secret};
use std::{fmt, io};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Passphrase of an encrypted SRT connection: 10–79 bytes (draft-sharabayko-srt-01, section 6.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Secret);

impl Passphrase {
    /// Creates a passphrase after checking its length.
    ///
    /// # Errors
    /// When it is shorter than 10 or longer than 79 bytes.
    pub fn new(secret: impl Into<String>) -> Result<Self, ConfigErrorKind> {
        let secret = Secret::from(secret.into());
        match secret.reveal().len() {
            10..=79 => Ok(Self(secret)),
            n => Err(ConfigErrorKind::out_of_range(format!("a length of {n}"), "10 to 79 bytes")),
        }
    }

    /// Returns the passphrase in clear text.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

/// Length of the AES key of an encrypted SRT connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyLength {
    /// 16 bytes.
    #[default]
    Aes128,
    /// 24 bytes.
    Aes192,
    /// 32 bytes.
    Aes256,
}

impl KeyLength {
    /// Returns the length in bytes: 16, 24 or 32.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

impl fmt::Display for KeyLength {
    /// Writes the length in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

impl std::str::FromStr for KeyLength {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "16" => Ok(Self::Aes128),
            "24" => Ok(Self::Aes192),
            "32" => Ok(Self::Aes256),
            _ => Err(ConfigErrorKind::malformed(s, "16, 24 or 32 (bytes)")),
        }
    }
}

/// Mode of AES in which SRT payloads are encrypted (`SRTO_CRYPTOMODE` of libsrt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CryptoMode {
    /// Mode of the caller, for a listener; counter mode, for a caller.
    #[default]
    Auto,
    /// Counter mode (AES-CTR).
    AesCtr,
    /// Galois/counter mode (AES-GCM), which also detects altered packets. Peers are libsrt from 1.5.4 on; the largest
    /// payload is 16 bytes smaller.
    AesGcm,
}

impl fmt::Display for CryptoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::AesCtr => "aes-ctr",
            Self::AesGcm => "aes-gcm",
        })
    }
}

impl std::str::FromStr for CryptoMode {
    type Err = ConfigErrorKind;
    /// Reads a name, or the number that libsrt's programs take.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s.to_ascii_lowercase().as_str() {
            "auto" | "0" => Ok(Self::Auto),
            "aes-ctr" | "1" => Ok(Self::AesCtr),
            "aes-gcm" | "2" => Ok(Self::AesGcm),
            _ => Err(ConfigErrorKind::malformed(s, "auto, aes-ctr or aes-gcm (0, 1 or 2)")),
        }
    }
}

/// Key that names a stream of an RTMP application: 1–1024 bytes of printable ASCII without `/`, except in a query such as
/// `KEY?token=a/b`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StreamKey(Secret);

impl StreamKey {
    /// Maximum length of a key with its query, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Creates a stream key after checking its length and characters.
    ///
    /// # Errors
    /// When it is empty or too long, or holds white space, a slash, or anything outside printable ASCII.
    pub fn new(key: impl Into<String>) -> Result<Self, ConfigErrorKind> {
        let key = Secret::from(key.into());
        let length = key.reveal().len();
        if !(1..=Self::MAX_LEN).contains(&length) {
            return Err(ConfigErrorKind::out_of_range(
                format!("a length of {length}"),
                format!("1 to {} bytes", Self::MAX_LEN),
            ));
        }
        let name = key.reveal().split('?').next().unwrap_or_default();
        if name.contains('/') || !key.reveal().bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigErrorKind::malformed("the key", "printable ASCII without white space and `/`"));
        }
        Ok(Self(key))
    }

    /// Generates a key of 160 random bits from the operating system, as 40 hexadecimal digits.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, ConfigErrorKind> {
        Self::generate_from(random::system)
    }

    fn generate_from(entropy: impl FnOnce(&mut [u8]) -> io::Result<()>) -> Result<Self, ConfigErrorKind> {
        let mut bits = Zeroizing::new([0u8; 20]);
        entropy(&mut *bits).map_err(|e| ConfigErrorKind::Conflict(format!("no randomness for a stream key: {e}")))?;
        Ok(Self(hex::encode(*bits).into()))
    }

    /// Returns the key in clear text.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

/// User name and password for RTSP (Basic and Digest) and callers of RTMP (Adobe's and Limelight's methods). Each is at
/// most 128 bytes; the name holds no `:`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

impl Credentials {
    /// Creates credentials after checking the user name and the password.
    ///
    /// # Errors
    /// When the name is empty or holds a colon (RFC 7617 section 2), or either is too long or holds control
    /// characters.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Result<Self, ConfigErrorKind> {
        let user = user.into();
        let password = Secret::from(password.into());
        if check_text(&user, 1, 128).is_err() {
            return Err(ConfigErrorKind::malformed("the user name", "1 to 128 bytes without control characters"));
        }
        if check_text(password.reveal(), 0, 128).is_err() {
            return Err(ConfigErrorKind::malformed("the password", "at most 128 bytes without control characters"));
        }
        if user.contains(':') {
            return Err(ConfigErrorKind::malformed("the user name", "a name without a colon"));
        }
        Ok(Self { user, password })
    }

    /// Returns the user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the password in clear text.
    pub fn reveal_password(&self) -> &str {
        self.password.reveal()
    }
}

macro_rules! hidden {
    ($($ty:ident),*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($ty), "(hidden)"))
            }
        }
    )*};
}
hidden!(Passphrase, StreamKey, Credentials);

// Both wrap a [`Secret`], which is wiped when it is dropped.
impl ZeroizeOnDrop for Passphrase {}
impl ZeroizeOnDrop for StreamKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_checked_and_never_printed() {
        assert!(Passphrase::new("123456789").is_err());
        assert!(Passphrase::new("x".repeat(80)).is_err());
        let secret = Passphrase::new("correct horse").unwrap();
        assert_eq!(format!("{secret:?}"), "Passphrase(hidden)");
        for bad in ["", "a b", "a/b", "é"] {
            let error = StreamKey::new(bad).unwrap_err().to_string();
            assert!(!error.contains("a b"), "{error}");
        }
        let a = StreamKey::generate().unwrap();
        let b = StreamKey::generate().unwrap();
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), 40);
        assert!(Credentials::new("a:b", "c").is_err());
        let error = StreamKey::generate_from(|_| Err(io::Error::other("none"))).unwrap_err();
        assert!(error.to_string().contains("no randomness"), "{error}");
    }
}
