//! Keys of a connection, and their change while it runs (draft-sharabayko-srt-01, section 6.1.6): the next key is announced
//! in time, used once the peer has confirmed it, and the old one is forgotten.

use super::{
    agreement::Agreement,
    crypto::{KeyDerivation, KeyError, Keys, STATUS_BAD_CIPHER, STATUS_BAD_SECRET, STATUS_NO_SECRET},
    packet::KeyFlag,
    send::SendHalf,
};
use crate::{random::Random, secret::Secret};
use std::{
    borrow::Cow,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Minimum interval between two derivations of the key that wraps the peer's keys, as each delays all connections. In
/// libsrt the salt, and so that key, stays the same for a connection.
const DERIVATION_INTERVAL: Duration = Duration::from_secs(10);

/// Keys of both directions.
#[derive(Debug)]
pub(super) struct KeyExchange {
    passphrase: Option<Secret>,
    random: Random,
    /// Keys of the packets of the peer.
    of_peer: Option<Keys>,
    /// Keys of the packets that we send.
    of_ours: Option<Keys>,
    /// Key in use for sending, and the number of packets sent with it.
    current: KeyFlag,
    used: u64,
    /// Number of packets after which the key changes. The next key is announced `announce` packets before that.
    refresh: u64,
    announce: u64,
    /// Set while the next key is known, and not yet in use.
    has_next: bool,
    /// Key material that the peer has not confirmed, and the time at which it was last sent.
    unconfirmed: Option<(Vec<u8>, Option<Instant>)>,
    /// Time from which the key that wraps the peer's keys may be derived again.
    next_derivation: Instant,
}

impl KeyExchange {
    /// Takes the keys of an agreement, which both directions use at first.
    pub(super) fn new(agreement: &mut Agreement, now: Instant) -> Self {
        let keys = agreement.keys.take();
        Self {
            passphrase: agreement.passphrase.take(),
            random: agreement.random.clone(),
            current: if keys.is_some() { KeyFlag::Even } else { KeyFlag::Clear },
            of_peer: keys.clone(),
            of_ours: keys,
            used: 0,
            refresh: agreement.key_refresh,
            announce: agreement.key_announce,
            has_next: false,
            unconfirmed: None,
            next_derivation: now,
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.of_peer.is_some()
    }

    /// Returns the number of bytes by which encryption makes a packet longer.
    pub(super) fn overhead(&self) -> usize {
        self.of_ours.as_ref().map_or(0, |keys| keys.mode().overhead())
    }

    /// Returns the keys of the packets of the peer, if they are encrypted.
    pub(super) fn of_peer(&self) -> Option<&Keys> {
        self.of_peer.as_ref()
    }

    /// Returns the keys of the packets that we send, if they are encrypted.
    pub(super) fn of_ours(&self) -> Option<&Keys> {
        self.of_ours.as_ref()
    }

    /// Returns the key of the next packet that is queued, and changes it when it is time. Packets are encrypted when they
    /// leave, so that a key stays until `sender` holds none that was queued with it.
    pub(super) fn next_key(&mut self, sender: &SendHalf) -> KeyFlag {
        let Some(keys) = &mut self.of_ours else { return self.current };
        self.used += 1;
        let next = if self.current == KeyFlag::Even { KeyFlag::Odd } else { KeyFlag::Even };
        let is_free = !sender.holds(next);
        if self.has_next {
            if self.used >= self.refresh && self.unconfirmed.is_none() {
                // The peer has confirmed the new key, so it is used from here on.
                self.current = next;
                self.used = 0;
                self.has_next = false;
            }
        } else if self.used >= self.refresh.saturating_sub(self.announce).max(1) && is_free {
            let random = Zeroizing::new(self.random.bytes());
            keys.refresh(next, &random);
            self.has_next = true;
            self.unconfirmed = keys.material().map(|material| (material, None));
        } else if self.used >= self.announce && is_free && keys.has(next) {
            keys.retire(next);
        }
        self.current
    }

    /// Returns whether the peer has not confirmed the key that was announced.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.is_some()
    }

    /// Returns the announcement of the next key, if the peer has not confirmed it within this time.
    pub(super) fn due_announcement(&mut self, wait: Duration, now: Instant) -> Option<Vec<u8>> {
        let (material, sent) = self.unconfirmed.as_mut()?;
        if sent.is_some_and(|at| now.saturating_duration_since(at) < wait) {
            return None;
        }
        *sent = Some(now);
        Some(material.clone())
    }

    /// Handles the confirmation of an announced key.
    pub(super) fn confirm(&mut self, material: &[u8]) {
        if self.unconfirmed.as_ref().is_some_and(|(ours, _)| ours == material) {
            self.unconfirmed = None;
        }
    }

    /// Handles the announcement of the peer's next key. Returns the answer; `None`: the peer is to announce it again.
    pub(super) fn take_announcement<'a>(&mut self, material: &'a [u8], now: Instant) -> Option<Cow<'a, [u8]>> {
        let status = |code: u32| Some(Cow::Owned(code.to_be_bytes().to_vec()));
        let (Some(keys), Some(passphrase)) = (&mut self.of_peer, &self.passphrase) else {
            return status(STATUS_NO_SECRET);
        };
        let opened = KeyDerivation::of_material(material, passphrase.reveal()).and_then(|derivation| {
            let wrapping = if derivation.is_done_by(keys.wrapping()) {
                keys.wrapping().clone()
            } else if now >= self.next_derivation {
                self.next_derivation = now + DERIVATION_INTERVAL;
                derivation.run()
            } else {
                return Ok(false);
            };
            keys.update(Keys::from_material(material, wrapping)?)?;
            Ok(true)
        });
        match opened {
            Ok(true) => Some(Cow::Borrowed(material)),
            Ok(false) => None,
            Err(KeyError::Cipher) => status(STATUS_BAD_CIPHER),
            Err(KeyError::Malformed | KeyError::BadSecret) => status(STATUS_BAD_SECRET),
        }
    }
}
