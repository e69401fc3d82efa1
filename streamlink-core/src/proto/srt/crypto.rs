//! Encryption (draft-sharabayko-srt-01, section 6) with AES in counter mode. Stream keys are random, wrapped with a key
//! derived from the passphrase, exchanged as key material, and changed during the connection.

use super::{packet::KeyFlag, sequence::Sequence};
use aes::{Aes128, Aes192, Aes256};
use ctr::{
    CtrCore,
    cipher::{InnerIvInit, KeyInit, StreamCipher},
};
use std::fmt;
use zeroize::Zeroizing;

/// Iterations of PBKDF2 (section 6.1.4).
const ITERATIONS: u32 = 2048;
const SALT: usize = 16;
/// Length of key material before the salt, in bytes (section 3.2.2).
const FIXED: usize = 16;
const WRAP_OVERHEAD: usize = 8;
/// Length of the longest key, in bytes.
const MAX_KEY: usize = 32;
/// Identifier of AES in counter mode.
const CIPHER_CTR: u8 = 2;

/// Status word of a key response for a missing passphrase (section 3.2.1.2).
pub(crate) const STATUS_NO_SECRET: u32 = 3;
/// Status word of a key response for a wrong passphrase.
pub(crate) const STATUS_BAD_SECRET: u32 = 4;
/// Status word of a key response for a cipher that the peer does not support or want.
pub(crate) const STATUS_BAD_CIPHER: u32 = 5;

/// Reason why key material cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    Malformed,
    /// Of an unsupported cipher, such as AES-GCM.
    Cipher,
    /// Wrapped with another passphrase.
    BadSecret,
}

/// Stream key of 16, 24 or 32 bytes, with its expanded cipher, which is used for every packet.
#[derive(Clone)]
struct Key {
    bytes: Zeroizing<Vec<u8>>,
    cipher: Cipher,
}

/// AES in counter mode that borrows an expanded key.
type Counter<'a, Aes> = ctr::Ctr128BE<&'a Aes>;

#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
}

impl Key {
    /// Expands a key. Returns `None` if its length is not 16, 24 or 32.
    fn new(bytes: &[u8]) -> Option<Self> {
        let cipher = match bytes.len() {
            16 => Cipher::Aes128(Box::new(Aes128::new_from_slice(bytes).ok()?)),
            24 => Cipher::Aes192(Box::new(Aes192::new_from_slice(bytes).ok()?)),
            32 => Cipher::Aes256(Box::new(Aes256::new_from_slice(bytes).ok()?)),
            _ => return None,
        };
        Some(Self { bytes: Zeroizing::new(bytes.to_vec()), cipher })
    }
}

/// Key that wraps stream keys. It is derived from the passphrase and a salt, which takes time.
#[derive(Clone)]
pub(crate) struct WrappingKey {
    salt: [u8; SALT],
    /// 16, 24 or 32 bytes, as the stream keys.
    length: usize,
    bytes: Zeroizing<[u8; MAX_KEY]>,
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(hidden)")
    }
}

impl WrappingKey {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Pending derivation of a wrapping key. It takes about half a millisecond of CPU time, so derivations for
/// unauthenticated callers run on threads that carry no media.
#[derive(Clone)]
pub(crate) struct KeyDerivation {
    passphrase: Zeroizing<String>,
    salt: [u8; SALT],
    length: usize,
}

impl fmt::Debug for KeyDerivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDerivation(hidden)")
    }
}

impl KeyDerivation {
    /// Returns the derivation that opens a key material message.
    pub(crate) fn of_material(bytes: &[u8], passphrase: &str) -> Result<Self, KeyError> {
        let material = Material::parse(bytes)?;
        Ok(Self { passphrase: Zeroizing::new(passphrase.to_owned()), salt: *material.salt, length: material.length })
    }

    /// Returns whether a wrapping key is the result of this derivation, given that the passphrase is the same.
    pub(crate) fn is_done_by(&self, key: &WrappingKey) -> bool {
        self.salt == key.salt && self.length == key.length
    }

    pub(crate) fn run(&self) -> WrappingKey {
        #[cfg(test)]
        super::held_derivations::pass(&self.passphrase);
        let mut bytes = Zeroizing::new([0; MAX_KEY]);
        let key = bytes.get_mut(..self.length).unwrap_or_default();
        // The salt of PBKDF2 is the lower half of the salt.
        pbkdf2::pbkdf2_hmac::<sha1::Sha1>(self.passphrase.as_bytes(), &self.salt[8..], ITERATIONS, key);
        WrappingKey { salt: self.salt, length: self.length, bytes }
    }
}

/// Key material message (section 3.2.2), parsed but not unwrapped.
struct Material<'a> {
    flags: u8,
    salt: &'a [u8; SALT],
    length: usize,
    wrapped: &'a [u8],
}

impl<'a> Material<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let fixed = bytes.first_chunk::<FIXED>().ok_or(KeyError::Malformed)?;
        let flags = fixed[3] & 3;
        let (salt_length, length) = (usize::from(fixed[14]) * 4, usize::from(fixed[15]) * 4);
        let good = fixed[0] == 0x12 && fixed[1..3] == [0x20, 0x29] && flags != 0;
        if good && fixed[8] != CIPHER_CTR {
            return Err(KeyError::Cipher);
        }
        if !good || salt_length != SALT || ![16, 24, 32].contains(&length) {
            return Err(KeyError::Malformed);
        }
        let count = flags.count_ones() as usize;
        let rest = bytes.get(FIXED..).unwrap_or_default();
        let (salt, wrapped) = rest.split_first_chunk::<SALT>().ok_or(KeyError::Malformed)?;
        let wrapped = wrapped.get(..WRAP_OVERHEAD + count * length).ok_or(KeyError::Malformed)?;
        Ok(Self { flags, salt, length, wrapped })
    }
}

/// Keys of one direction, and the key that wraps them when they are announced.
#[derive(Clone)]
pub(crate) struct Keys {
    wrapping: WrappingKey,
    even: Option<Key>,
    odd: Option<Key>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(hidden)")
    }
}

fn wrap(key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    match key.len() {
        16 => aes_kw::KekAes128::try_from(key).ok()?.wrap_vec(data).ok(),
        24 => aes_kw::KekAes192::try_from(key).ok()?.wrap_vec(data).ok(),
        32 => aes_kw::KekAes256::try_from(key).ok()?.wrap_vec(data).ok(),
        _ => None,
    }
}

fn unwrap(key: &[u8], data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let keys = match key.len() {
        16 => aes_kw::KekAes128::try_from(key).ok()?.unwrap_vec(data).ok(),
        24 => aes_kw::KekAes192::try_from(key).ok()?.unwrap_vec(data).ok(),
        32 => aes_kw::KekAes256::try_from(key).ok()?.unwrap_vec(data).ok(),
        _ => None,
    };
    keys.map(Zeroizing::new)
}

impl Keys {
    /// Generates a first, even key, and derives the key that wraps it. `random` has room for the salt and a key;
    /// `length` is 16, 24 or 32.
    pub(crate) fn generate(length: usize, random: &[u8; 48], passphrase: &str) -> Self {
        let (salt, key) = random.split_at(SALT);
        let salt = salt.first_chunk().copied().unwrap_or_default();
        let wrapping = KeyDerivation { passphrase: Zeroizing::new(passphrase.to_owned()), salt, length }.run();
        Self { wrapping, even: key.get(..length).and_then(Key::new), odd: None }
    }

    /// Replaces the key that is not in use by a new one.
    pub(crate) fn refresh(&mut self, next: KeyFlag, random: &[u8; 32]) {
        let key = random.get(..self.wrapping.length).and_then(Key::new);
        match next {
            KeyFlag::Odd => self.odd = key,
            _ => self.even = key,
        }
    }

    /// Forgets the previous key.
    pub(crate) fn retire(&mut self, old: KeyFlag) {
        match old {
            KeyFlag::Odd => self.odd = None,
            _ => self.even = None,
        }
    }

    /// Returns the key material message (section 3.2.2) with all present keys.
    pub(crate) fn material(&self) -> Option<Vec<u8>> {
        let flags = u8::from(self.even.is_some()) | u8::from(self.odd.is_some()) << 1;
        // The capacity is enough for both keys, so that growing leaves no copy in freed memory.
        let mut keys = Zeroizing::new(Vec::with_capacity(2 * self.wrapping.length));
        for key in [&self.even, &self.odd].into_iter().flatten() {
            keys.extend_from_slice(&key.bytes);
        }
        let wrapped = wrap(self.wrapping.bytes(), &keys)?;
        let mut bytes = vec![0x12, 0x20, 0x29, flags, 0, 0, 0, 0, CIPHER_CTR, 0, 2, 0, 0, 0];
        bytes.extend([(SALT / 4) as u8, (self.wrapping.length / 4) as u8]);
        bytes.extend(self.wrapping.salt);
        bytes.extend(wrapped);
        Some(bytes)
    }

    /// Unwraps a key material message with the key of its derivation.
    pub(crate) fn from_material(bytes: &[u8], wrapping: WrappingKey) -> Result<Self, KeyError> {
        let Material { flags, salt, length, wrapped } = Material::parse(bytes)?;
        if *salt != wrapping.salt || length != wrapping.length {
            return Err(KeyError::Malformed);
        }
        let keys = unwrap(wrapping.bytes(), wrapped).ok_or(KeyError::BadSecret)?;
        let mut keys = keys.chunks(length).filter_map(Key::new);
        let even = if flags & 1 != 0 { keys.next() } else { None };
        let odd = if flags & 2 != 0 { keys.next() } else { None };
        Ok(Self { wrapping, even, odd })
    }

    /// Adds keys that the peer has announced during the connection. A key that it no longer names stays as it is.
    pub(crate) fn update(&mut self, newer: Keys) {
        self.wrapping = newer.wrapping;
        self.even = newer.even.or(self.even.take());
        self.odd = newer.odd.or(self.odd.take());
    }

    /// Returns the length of the keys in bytes.
    pub(crate) fn length(&self) -> usize {
        self.wrapping.length
    }

    /// Returns the key that wraps them.
    pub(crate) fn wrapping(&self) -> &WrappingKey {
        &self.wrapping
    }

    /// Encrypts or decrypts a payload in place, which is the same in counter mode. Returns `false` if there is no such
    /// key.
    pub(crate) fn apply(&self, key: KeyFlag, sequence: Sequence, payload: &mut [u8]) -> bool {
        let key = match key {
            KeyFlag::Clear => return true,
            KeyFlag::Even => &self.even,
            KeyFlag::Odd => &self.odd,
        };
        let Some(key) = key else { return false };
        // The counter block has the packet's sequence number above a counter of 16 bits, mixed with the salt (section
        // 6.2.2).
        let mut iv = [0u8; 16];
        iv[10..14].copy_from_slice(&sequence.number().to_be_bytes());
        iv.iter_mut().zip(&self.wrapping.salt).take(14).for_each(|(a, b)| *a ^= b);
        let iv = (&iv).into();
        match &key.cipher {
            Cipher::Aes128(aes) => Counter::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(payload),
            Cipher::Aes192(aes) => Counter::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(payload),
            Cipher::Aes256(aes) => Counter::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(payload),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(material: &[u8], passphrase: &str) -> Result<Keys, KeyError> {
        Keys::from_material(material, KeyDerivation::of_material(material, passphrase)?.run())
    }

    #[test]
    fn srt_key_material_round_trips() {
        for length in [16, 24, 32] {
            let mut ours = Keys::generate(length, &[7; 48], "correct horse");
            ours.refresh(KeyFlag::Odd, &[9; 32]);
            let material = ours.material().unwrap();
            let theirs = open(&material, "correct horse").unwrap();
            assert_eq!(open(&material, "wrong horse!").unwrap_err(), KeyError::BadSecret);
            for flag in [KeyFlag::Even, KeyFlag::Odd] {
                let mut payload = *b"some payload that is longer than a block";
                assert!(ours.apply(flag, Sequence::new(5), &mut payload));
                assert_ne!(&payload, b"some payload that is longer than a block");
                assert!(theirs.apply(flag, Sequence::new(5), &mut payload));
                assert_eq!(&payload, b"some payload that is longer than a block");
            }
            for cut in 0..material.len() {
                assert!(open(&material[..cut], "correct horse").is_err());
            }
        }
    }

    #[test]
    fn wrapping_key_opens_only_material_of_its_salt_and_length() {
        let material = Keys::generate(16, &[7; 48], "correct horse").material().unwrap();
        for (length, byte) in [(16, 8), (32, 7)] {
            let other = Keys::generate(length, &[byte; 48], "correct horse");
            let derivation = KeyDerivation::of_material(&material, "correct horse").unwrap();
            assert!(!derivation.is_done_by(other.wrapping()));
            assert!(derivation.is_done_by(&derivation.run()));
            assert!(Keys::from_material(&material, other.wrapping().clone()).is_err());
        }
    }
}
