//! Encryption (draft-sharabayko-srt-01, section 6) with AES in counter mode, or in Galois/counter mode as libsrt has it
//! from 1.5.4 on. Stream keys are random, wrapped with a key derived from the passphrase, exchanged as key material, and
//! changed during the connection.

use super::{
    packet::{HEADER, KeyFlag, set_retransmitted},
    sequence::Sequence,
};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{AeadInPlace, AesGcm, Nonce, Tag, aead::consts::U12};
use bytes::BytesMut;
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
/// Length of the tag that follows a payload in Galois/counter mode, in bytes.
pub(crate) const TAG: usize = 16;
/// Last version of libsrt whose AES-GCM repeats its nonces, because it leaves the lower half of the packet number out.
pub(super) const LAST_WEAK_GCM: u32 = 0x01_05_03;

/// Status word of a key response for a missing passphrase (section 3.2.1.2).
pub(crate) const STATUS_NO_SECRET: u32 = 3;
/// Status word of a key response for a wrong passphrase.
pub(crate) const STATUS_BAD_SECRET: u32 = 4;
/// Status word of a key response for a cipher that the peer does not support or want.
pub(crate) const STATUS_BAD_CIPHER: u32 = 5;

/// Mode of AES in which payloads are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CipherMode {
    /// Counter mode.
    Ctr,
    /// Galois/counter mode, which also authenticates packets.
    Gcm,
}

impl CipherMode {
    /// Returns the bytes that each payload grows by.
    pub(crate) fn overhead(self) -> usize {
        match self {
            Self::Ctr => 0,
            Self::Gcm => TAG,
        }
    }

    /// Returns the numbers of the cipher and of the authentication in key material.
    fn numbers(self) -> [u8; 2] {
        match self {
            Self::Ctr => [2, 0],
            Self::Gcm => [4, 1],
        }
    }
}

/// Reason why key material cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    Malformed,
    /// Of an unsupported or unwanted cipher.
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
type CtrCipher<'a, Aes> = ctr::Ctr128BE<&'a Aes>;

/// AES in Galois/counter mode, with a tag of 16 bytes.
type Galois<Aes> = AesGcm<Aes, U12>;

#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
    Gcm128(Box<Galois<Aes128>>),
    Gcm192(Box<Galois<Aes192>>),
    Gcm256(Box<Galois<Aes256>>),
}

impl Key {
    /// Expands a key. Returns `None` if its length is not 16, 24 or 32.
    fn new(bytes: &[u8], mode: CipherMode) -> Option<Self> {
        let cipher = match (bytes.len(), mode) {
            (16, CipherMode::Ctr) => Cipher::Aes128(Box::new(Aes128::new_from_slice(bytes).ok()?)),
            (24, CipherMode::Ctr) => Cipher::Aes192(Box::new(Aes192::new_from_slice(bytes).ok()?)),
            (32, CipherMode::Ctr) => Cipher::Aes256(Box::new(Aes256::new_from_slice(bytes).ok()?)),
            (16, CipherMode::Gcm) => Cipher::Gcm128(Box::new(Galois::new_from_slice(bytes).ok()?)),
            (24, CipherMode::Gcm) => Cipher::Gcm192(Box::new(Galois::new_from_slice(bytes).ok()?)),
            (32, CipherMode::Gcm) => Cipher::Gcm256(Box::new(Galois::new_from_slice(bytes).ok()?)),
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

/// Returns the mode of AES that a key material message asks for.
pub(super) fn mode_of_material(bytes: &[u8]) -> Result<CipherMode, KeyError> {
    Material::parse(bytes).map(|material| material.mode)
}

/// Key material message (section 3.2.2), parsed but not unwrapped.
struct Material<'a> {
    mode: CipherMode,
    flags: u8,
    salt: &'a [u8; SALT],
    length: usize,
    wrapped: &'a [u8],
}

impl<'a> Material<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let fixed = bytes.first_chunk::<FIXED>().ok_or(KeyError::Malformed)?;
        let flags = fixed[3] & 3;
        let salt_length = usize::from(fixed[14]) * 4;
        let length = usize::from(fixed[15]) * 4;
        let good = fixed[0] == 0x12 && fixed[1..3] == [0x20, 0x29] && flags != 0;
        let mode = match (fixed[8], fixed[9]) {
            (2, _) => CipherMode::Ctr,
            (4, 1) => CipherMode::Gcm,
            _ if good => return Err(KeyError::Cipher),
            _ => return Err(KeyError::Malformed),
        };
        if !good || salt_length != SALT || ![16, 24, 32].contains(&length) {
            return Err(KeyError::Malformed);
        }
        let count = flags.count_ones() as usize;
        let rest = bytes.get(FIXED..).unwrap_or_default();
        let (salt, wrapped) = rest.split_first_chunk::<SALT>().ok_or(KeyError::Malformed)?;
        let wrapped = wrapped.get(..WRAP_OVERHEAD + count * length).ok_or(KeyError::Malformed)?;
        Ok(Self { mode, flags, salt, length, wrapped })
    }
}

/// Keys of one direction, and the key that wraps them when they are announced.
#[derive(Clone)]
pub(crate) struct Keys {
    mode: CipherMode,
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
    pub(crate) fn generate(length: usize, mode: CipherMode, random: &[u8; 48], passphrase: &str) -> Self {
        let (salt, key) = random.split_at(SALT);
        let salt = salt.first_chunk().copied().unwrap_or_default();
        let wrapping = KeyDerivation { passphrase: Zeroizing::new(passphrase.to_owned()), salt, length }.run();
        Self { mode, wrapping, even: key.get(..length).and_then(|key| Key::new(key, mode)), odd: None }
    }

    /// Replaces the key that is not in use by a new one.
    pub(crate) fn refresh(&mut self, next: KeyFlag, random: &[u8; 32]) {
        let key = random.get(..self.wrapping.length).and_then(|key| Key::new(key, self.mode));
        match next {
            KeyFlag::Odd => self.odd = key,
            _ => self.even = key,
        }
    }

    /// Returns whether there is such a key.
    pub(crate) fn has(&self, flag: KeyFlag) -> bool {
        self.key(flag).is_some()
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
        let [cipher, authentication] = self.mode.numbers();
        let mut bytes = vec![0x12, 0x20, 0x29, flags, 0, 0, 0, 0, cipher, authentication, 2, 0, 0, 0];
        bytes.extend([(SALT / 4) as u8, (self.wrapping.length / 4) as u8]);
        bytes.extend(self.wrapping.salt);
        bytes.extend(wrapped);
        Some(bytes)
    }

    /// Unwraps a key material message with the key of its derivation.
    pub(crate) fn from_material(bytes: &[u8], wrapping: WrappingKey) -> Result<Self, KeyError> {
        let Material { mode, flags, salt, length, wrapped } = Material::parse(bytes)?;
        if *salt != wrapping.salt || length != wrapping.length {
            return Err(KeyError::Malformed);
        }
        let keys = unwrap(wrapping.bytes(), wrapped).ok_or(KeyError::BadSecret)?;
        let mut keys = keys.chunks(length).filter_map(|key| Key::new(key, mode));
        let even = if flags & 1 != 0 { keys.next() } else { None };
        let odd = if flags & 2 != 0 { keys.next() } else { None };
        Ok(Self { mode, wrapping, even, odd })
    }

    /// Adds keys that the peer has announced during the connection. A key that it no longer names stays as it is. The mode
    /// cannot change.
    pub(crate) fn update(&mut self, newer: Self) -> Result<(), KeyError> {
        if newer.mode != self.mode {
            return Err(KeyError::Cipher);
        }
        self.wrapping = newer.wrapping;
        self.even = newer.even.or(self.even.take());
        self.odd = newer.odd.or(self.odd.take());
        Ok(())
    }

    pub(crate) fn mode(&self) -> CipherMode {
        self.mode
    }

    /// Returns the length of the keys in bytes.
    pub(crate) fn length(&self) -> usize {
        self.wrapping.length
    }

    /// Returns the key that wraps them.
    pub(crate) fn wrapping(&self) -> &WrappingKey {
        &self.wrapping
    }

    fn key(&self, flag: KeyFlag) -> Option<&Key> {
        match flag {
            KeyFlag::Clear => None,
            KeyFlag::Even => self.even.as_ref(),
            KeyFlag::Odd => self.odd.as_ref(),
        }
    }

    /// Returns the packet's sequence number, mixed with the first bytes of the salt, whose last four are the number's.
    fn mixed<const N: usize>(&self, sequence: Sequence, blank: usize) -> [u8; N] {
        let mut mixed = [0; N];
        if let Some(place) = mixed.get_mut(blank..blank + 4) {
            place.copy_from_slice(&sequence.number().to_be_bytes());
        }
        for (byte, salt) in mixed.iter_mut().zip(&self.wrapping.salt).take(blank + 4) {
            *byte ^= salt;
        }
        mixed
    }

    /// Encrypts a payload, with its tag if the mode has one, and appends it to `out`. `header` is the one of the packet.
    /// Returns `false` if there is no such key.
    pub(crate) fn seal(
        &self,
        flag: KeyFlag,
        sequence: Sequence,
        header: [u8; HEADER],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(key) = self.key(flag) else { return false };
        let start = out.len();
        out.extend_from_slice(payload);
        let Some(text) = out.get_mut(start..) else { return false };
        let nonce = self.nonce(sequence);
        let header = authenticated(header);
        let tag = match &key.cipher {
            Cipher::Gcm128(aes) => aes.encrypt_in_place_detached(&nonce, &header, text),
            Cipher::Gcm192(aes) => aes.encrypt_in_place_detached(&nonce, &header, text),
            Cipher::Gcm256(aes) => aes.encrypt_in_place_detached(&nonce, &header, text),
            counter => {
                self.count(counter, sequence, text);
                return true;
            }
        };
        let Ok(tag) = tag else {
            out.truncate(start); // no text in the clear
            return false;
        };
        out.extend_from_slice(&tag);
        true
    }

    /// Decrypts a payload in place, and cuts its tag off. `header` is the one of the packet, as it arrived. Returns `false`
    /// if there is no such key, or the packet was altered.
    pub(crate) fn open(&self, flag: KeyFlag, sequence: Sequence, header: [u8; HEADER], payload: &mut BytesMut) -> bool {
        let Some(key) = self.key(flag) else { return false };
        // A payload that is nothing but a tag would be empty.
        let Some(length) = payload.len().checked_sub(self.mode.overhead()).filter(|n| *n > 0) else { return false };
        let (text, tag) = payload.split_at_mut(length);
        let nonce = self.nonce(sequence);
        let header = authenticated(header);
        let opened = match &key.cipher {
            Cipher::Gcm128(aes) => aes.decrypt_in_place_detached(&nonce, &header, text, Tag::from_slice(tag)),
            Cipher::Gcm192(aes) => aes.decrypt_in_place_detached(&nonce, &header, text, Tag::from_slice(tag)),
            Cipher::Gcm256(aes) => aes.decrypt_in_place_detached(&nonce, &header, text, Tag::from_slice(tag)),
            counter => {
                self.count(counter, sequence, text);
                Ok(())
            }
        };
        payload.truncate(length);
        opened.is_ok()
    }

    /// Returns the nonce of a packet in Galois/counter mode.
    fn nonce(&self, sequence: Sequence) -> Nonce<U12> {
        self.mixed::<12>(sequence, 8).into()
    }

    /// Encrypts or decrypts in counter mode, which is the same.
    fn count(&self, cipher: &Cipher, sequence: Sequence, text: &mut [u8]) {
        // The counter block has the number above a counter of 16 bits (section 6.2.2).
        let iv = self.mixed::<16>(sequence, 10);
        let iv = (&iv).into();
        match cipher {
            Cipher::Aes128(aes) => CtrCipher::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(text),
            Cipher::Aes192(aes) => CtrCipher::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(text),
            Cipher::Aes256(aes) => CtrCipher::from_core(CtrCore::inner_iv_init(&**aes, iv)).apply_keystream(text),
            Cipher::Gcm128(_) | Cipher::Gcm192(_) | Cipher::Gcm256(_) => {} // not used in counter mode
        }
    }
}

/// Returns the authenticated form of a header: that of the first transmission.
fn authenticated(mut header: [u8; HEADER]) -> [u8; HEADER] {
    set_retransmitted(&mut header, false);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(material: &[u8], passphrase: &str) -> Result<Keys, KeyError> {
        Keys::from_material(material, KeyDerivation::of_material(material, passphrase)?.run())
    }

    const TEXT: &[u8] = b"some payload that is longer than a block";

    fn sealed(keys: &Keys, flag: KeyFlag, header: [u8; HEADER]) -> BytesMut {
        let mut sealed = b"before".to_vec();
        assert!(keys.seal(flag, Sequence::new(5), header, TEXT, &mut sealed));
        let payload = sealed.split_off(6);
        assert_eq!((&sealed[..], payload.len()), (&b"before"[..], TEXT.len() + keys.mode().overhead()));
        assert_ne!(&payload[..TEXT.len()], TEXT);
        BytesMut::from(&payload[..])
    }

    #[test]
    fn srt_key_material_round_trips() {
        for (length, mode) in [16, 24, 32].into_iter().flat_map(|n| [(n, CipherMode::Ctr), (n, CipherMode::Gcm)]) {
            let mut ours = Keys::generate(length, mode, &[7; 48], "correct horse");
            ours.refresh(KeyFlag::Odd, &[9; 32]);
            let material = ours.material().unwrap();
            let theirs = open(&material, "correct horse").unwrap();
            assert_eq!((theirs.mode(), mode_of_material(&material)), (mode, Ok(mode)));
            assert_eq!(open(&material, "wrong horse!").unwrap_err(), KeyError::BadSecret);
            for flag in [KeyFlag::Even, KeyFlag::Odd] {
                let mut payload = sealed(&ours, flag, [1; HEADER]);
                assert!(theirs.open(flag, Sequence::new(5), [1; HEADER], &mut payload));
                assert_eq!(&payload[..], TEXT);
            }
            for cut in 0..material.len() {
                assert!(open(&material[..cut], "correct horse").is_err());
            }
        }
    }

    #[test]
    fn srt_gcm_opens_only_what_was_sealed() {
        let keys = Keys::generate(32, CipherMode::Gcm, &[7; 48], "correct horse");
        let header = [3; HEADER];
        let good = sealed(&keys, KeyFlag::Even, header);
        let opens = |number: u32, header: [u8; HEADER], payload: &[u8]| {
            keys.open(KeyFlag::Even, Sequence::new(number), header, &mut BytesMut::from(payload))
        };
        assert!(opens(5, header, &good));
        // The mark of a retransmission is the only bit that may differ.
        for bit in 0..HEADER * 8 {
            let mut altered = header;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opens(5, altered, &good), bit == 4 * 8 + 2, "bit {bit} of the header");
        }
        for bit in 0..good.len() * 8 {
            let mut altered = good.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(5, header, &altered), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(!opens(5, header, &good[..cut]));
        }
        assert!(!opens(6, header, &good));
    }

    #[test]
    fn wrapping_key_opens_only_material_of_its_salt_and_length() {
        let material = Keys::generate(16, CipherMode::Ctr, &[7; 48], "correct horse").material().unwrap();
        for (length, byte) in [(16, 8), (32, 7)] {
            let other = Keys::generate(length, CipherMode::Ctr, &[byte; 48], "correct horse");
            let derivation = KeyDerivation::of_material(&material, "correct horse").unwrap();
            assert!(!derivation.is_done_by(other.wrapping()));
            assert!(derivation.is_done_by(&derivation.run()));
            assert!(Keys::from_material(&material, other.wrapping().clone()).is_err());
        }
    }
}
