//! Sealed messages for a region: encrypted with the public key of the region, so that only its nodes read them. Relays and
//! nodes of other regions see ciphertext.
//!
//! The box is NaCl's sealed box (X25519, XSalsa20-Poly1305, from the `crypto_box` crate) in an envelope that names its
//! version and the key. A sealed box does not say who has sealed it: who may publish is a matter of the relay's rules.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use crypto_box::{KEY_SIZE, PublicKey, SecretKey, aead::OsRng};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// Maximum length of a message before it is sealed, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Version of the envelope.
const VERSION: u8 = 1;
/// Length of the name of a key, in bytes.
const KEY_NAME: usize = 8;
/// Length of the envelope before the sealed box.
const HEADER: usize = 1 + KEY_NAME;
/// Length that a sealed box adds: an ephemeral public key and an authentication tag.
const OVERHEAD: usize = KEY_SIZE + 16;
const SECRET_PREFIX: &str = "streamlink-region-secret:";
const PUBLIC_PREFIX: &str = "streamlink-region-public:";

/// Reason why a message cannot be sealed or opened, or a key is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The message is longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes; at most {MAX_MESSAGE} are sealed")]
    TooLong(usize),
    /// The message is shorter than an envelope.
    #[error("a sealed message that is cut off after {0} bytes")]
    Truncated(usize),
    /// Envelope of another release.
    #[error("a sealed message of version {0}; version {VERSION} is opened")]
    Version(u8),
    /// The message is sealed for another key.
    #[error("sealed for key {sealed_for}, and the keys here are {keys}")]
    WrongKey {
        /// Name of the key for which it is sealed.
        sealed_for: KeyName,
        /// Names of the keys at hand.
        keys: String,
    },
    /// The message was altered, or is no sealed box.
    #[error("a sealed message that was altered")]
    Altered,
    /// The system has no random numbers.
    #[error("no random numbers: the message cannot be sealed")]
    NoRandomness,
    /// Text that is no key. It is not quoted, as it may be a secret.
    #[error("not a key of a region: `{expected}` and 43 characters of base64url are expected")]
    MalformedKey {
        /// Beginning of the text that is expected.
        expected: &'static str,
    },
}

/// Name of a key: the first 8 bytes of its hash, which says nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyName([u8; KEY_NAME]);

impl KeyName {
    fn of(key: &PublicKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut name = [0; KEY_NAME];
        for (byte, digit) in name.iter_mut().zip(digest) {
            *byte = digit;
        }
        Self(name)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Public key of a region, with which descriptions of outputs are sealed for it.
///
/// As text: `streamlink-region-public:` and 43 characters of base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionPublicKey(PublicKey);

impl RegionPublicKey {
    /// Returns the name of the key.
    pub fn name(&self) -> KeyName {
        KeyName::of(&self.0)
    }

    /// Seals a message.
    ///
    /// # Errors
    /// When it is too long, or the system has no random numbers.
    pub fn seal(&self, message: &[u8]) -> Result<Vec<u8>, SealError> {
        if message.len() > MAX_MESSAGE {
            return Err(SealError::TooLong(message.len()));
        }
        let sealed = self.0.seal(&mut OsRng, message).map_err(|_| SealError::NoRandomness)?;
        let mut envelope = Vec::with_capacity(HEADER + sealed.len());
        envelope.push(VERSION);
        envelope.extend_from_slice(&self.name().0);
        envelope.extend_from_slice(&sealed);
        Ok(envelope)
    }
}

impl fmt::Display for RegionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for RegionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionPublicKey({})", self.name())
    }
}

impl FromStr for RegionPublicKey {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        read_key(text, PUBLIC_PREFIX).map(|bytes| Self(PublicKey::from(*bytes)))
    }
}

/// Secret key of a region, which its nodes hold. It is wiped from memory when it is dropped, and is never printed.
#[derive(Clone)]
pub struct RegionSecretKey(SecretKey);

impl RegionSecretKey {
    /// Makes a key from the randomness of the operating system.
    pub fn generate() -> Self {
        Self(SecretKey::generate(&mut OsRng))
    }

    /// Returns the public key that belongs to it.
    pub fn public_key(&self) -> RegionPublicKey {
        RegionPublicKey(self.0.public_key())
    }

    /// Returns the key as text, which is read back by `parse`. Do not log it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.0.to_bytes());
        let digits = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        Zeroizing::new(format!("{SECRET_PREFIX}{}", *digits))
    }
}

impl fmt::Debug for RegionSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionSecretKey({}, hidden)", self.public_key().name())
    }
}

impl FromStr for RegionSecretKey {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        read_key(text, SECRET_PREFIX).map(|bytes| Self(SecretKey::from(*bytes)))
    }
}

fn read_key(text: &str, expected: &'static str) -> Result<Zeroizing<[u8; KEY_SIZE]>, SealError> {
    let malformed = || SealError::MalformedKey { expected };
    let digits = text.trim().strip_prefix(expected).ok_or_else(malformed)?;
    // The length is checked first, so that nothing but a key is decoded.
    if digits.len() != 43 {
        return Err(malformed());
    }
    let mut key = Zeroizing::new([0; KEY_SIZE]);
    let length = URL_SAFE_NO_PAD.decode_slice(digits, key.as_mut_slice()).map_err(|_| malformed())?;
    if length == KEY_SIZE { Ok(key) } else { Err(malformed()) }
}

/// Secret keys of a region's node: the present one, and earlier ones while keys are changed.
#[derive(Clone, Debug)]
pub struct RegionKeys(Vec<RegionSecretKey>);

impl RegionKeys {
    /// Returns the keys of a region that has one.
    pub fn new(key: RegionSecretKey) -> Self {
        Self(vec![key])
    }

    /// Adds a key by which messages are opened as well.
    #[must_use]
    pub fn with(mut self, key: RegionSecretKey) -> Self {
        self.0.push(key);
        self
    }

    /// Opens a sealed message. It is wiped from memory when it is dropped.
    ///
    /// # Errors
    /// When it is sealed for another key, of another version, too long, cut off, or altered.
    pub fn open(&self, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if envelope.len() > HEADER + OVERHEAD + MAX_MESSAGE {
            return Err(SealError::TooLong(envelope.len()));
        }
        let (version, rest) = envelope.split_first().ok_or(SealError::Truncated(0))?;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let truncated = || SealError::Truncated(envelope.len());
        let (name, sealed) = rest.split_first_chunk::<KEY_NAME>().ok_or_else(truncated)?;
        if sealed.len() < OVERHEAD {
            return Err(truncated());
        }
        let key = self.0.iter().find(|key| key.public_key().name().0 == *name);
        let key = key.ok_or_else(|| SealError::WrongKey {
            sealed_for: KeyName(*name),
            keys: self.0.iter().map(|key| key.public_key().name().to_string()).collect::<Vec<_>>().join(", "),
        })?;
        key.0.unseal(sealed).map(Zeroizing::new).map_err(|_| SealError::Altered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seal_is_opened_by_its_region_alone() {
        let eu = RegionSecretKey::generate();
        let us = RegionSecretKey::generate();
        let sealed = eu.public_key().seal(b"rtmp://example.com/live?key=hunter2").expect("sealed");
        assert!(!sealed.windows(7).any(|bytes| bytes == b"hunter2"));
        let opened = RegionKeys::new(eu.clone()).open(&sealed).expect("opened");
        assert_eq!(opened.as_slice(), b"rtmp://example.com/live?key=hunter2");
        let error = RegionKeys::new(us.clone()).open(&sealed).expect_err("another region's");
        assert!(matches!(error, SealError::WrongKey { .. }), "{error}");
        assert!(error.to_string().contains(&eu.public_key().name().to_string()), "{error}");
        // While keys are changed, a node holds both.
        assert!(RegionKeys::new(us).with(eu).open(&sealed).is_ok());
    }

    #[test]
    fn seal_refuses_other_versions_lengths_and_alterations() {
        let key = RegionSecretKey::generate();
        let keys = RegionKeys::new(key.clone());
        let public = key.public_key();
        let sealed = public.seal(b"message").expect("sealed");
        assert_eq!(keys.open(&[]), Err(SealError::Truncated(0)));
        for length in 1..HEADER + OVERHEAD {
            assert_eq!(keys.open(&sealed[..length]), Err(SealError::Truncated(length)));
        }
        let mut other = sealed.clone();
        other[0] = 2;
        assert_eq!(keys.open(&other), Err(SealError::Version(2)));
        for at in HEADER..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 0x10;
            assert_eq!(keys.open(&altered), Err(SealError::Altered), "byte {at}");
        }
        assert_eq!(public.seal(&vec![0; MAX_MESSAGE + 1]), Err(SealError::TooLong(MAX_MESSAGE + 1)));
        assert!(matches!(keys.open(&vec![VERSION; 2 * MAX_MESSAGE]), Err(SealError::TooLong(_))));
        assert!(keys.open(&public.seal(&vec![7; MAX_MESSAGE]).expect("sealed")).is_ok());
    }

    #[test]
    fn seal_keys_are_read_back_and_hidden() {
        let key = RegionSecretKey::generate();
        let text = key.reveal();
        let again: RegionSecretKey = text.parse().expect("a key");
        assert_eq!(again.reveal(), text);
        let public = key.public_key();
        assert_eq!(public.to_string().parse::<RegionPublicKey>().expect("a key"), public);
        let secret = text.strip_prefix(SECRET_PREFIX).expect("the prefix");
        for shown in [format!("{key:?}"), format!("{:?}", RegionKeys::new(key.clone()))] {
            assert!(!shown.contains(secret) && shown.contains("hidden"), "{shown}");
        }
        for wrong in ["", secret, &public.to_string(), &text[..text.len() - 1], &format!("{}A", *text)] {
            let error = wrong.parse::<RegionSecretKey>().expect_err("not a secret key").to_string();
            assert!(!error.contains(secret), "{error}");
        }
        assert!(text.parse::<RegionPublicKey>().is_err());
    }

    #[test]
    fn seal_keys_and_messages_are_wiped() {
        fn is_wiped<T: zeroize::Zeroize>(_: &Zeroizing<T>) {}
        let key = RegionSecretKey::generate();
        is_wiped(&key.reveal());
        is_wiped(&RegionKeys::new(key.clone()).open(&key.public_key().seal(b"m").expect("sealed")).expect("opened"));
    }

    proptest! {
        #[test]
        fn seal_opens_nothing_that_is_random(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(RegionKeys::new(RegionSecretKey::generate()).open(&bytes).is_err());
        }
    }
}
