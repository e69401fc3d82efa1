//! Negotiation of a connection: the terms of one end, the agreement of both, and the reasons for a rejection.

use super::{
    connection::Agreement,
    crypto::{KeyDerivation, KeyError, Keys, WrappingKey},
    handshake::{Extensions, FLAG_DROP, FLAG_STREAM, FLAGS, Handshake, SRT_VERSION, SrtExtension},
    sequence::Sequence,
};
use crate::{random::Random, secret::Secret};
use std::time::{Duration, Instant};

/// Oldest supported version of a peer: libsrt 1.3.0, the first with this handshake.
const OLDEST: u32 = 0x01_03_00;
/// Number of packets after which the key changes (`SRTO_KMREFRESHRATE`).
const KEY_REFRESH: u64 = 1 << 24;
/// Number of packets before the change of a key at which the next one is announced (`SRTO_KMPREANNOUNCE`).
const KEY_ANNOUNCE: u64 = 1 << 12;

/// Code of a rejection, as numbered by libsrt (`SRT_REJECT_REASON`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection(pub(crate) u32);

impl Rejection {
    pub(crate) const RESOURCE: Self = Self(3);
    pub(crate) const ROGUE: Self = Self(4);
    pub(crate) const BACKLOG: Self = Self(5);
    pub(crate) const VERSION: Self = Self(8);
    pub(crate) const BAD_SECRET: Self = Self(10);
    pub(crate) const UNSECURE: Self = Self(11);
    pub(crate) const MESSAGE_API: Self = Self(12);
    pub(crate) const CONGESTION: Self = Self(13);
    pub(crate) const FILTER: Self = Self(14);
    pub(crate) const GROUP: Self = Self(15);
    /// `SRT_REJX_FORBIDDEN` of the access-control codes.
    pub(crate) const FORBIDDEN: Self = Self(1403);
    /// `SRT_REJX_NOTFOUND`.
    pub(crate) const NOT_FOUND: Self = Self(1404);
    /// `SRT_REJX_ISE`: internal error of the host.
    pub(crate) const INTERNAL: Self = Self(1500);
    /// `SRT_REJX_CONFLICT`: the resource is in use.
    pub(crate) const CONFLICT: Self = Self(1409);
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match *self {
            Self::RESOURCE => "out of resources",
            Self::ROGUE => "the handshake is malformed",
            Self::BACKLOG => "too many connections",
            Self::VERSION => "the version is too old",
            Self::BAD_SECRET => "the passphrases differ",
            Self::UNSECURE => "one end is encrypted and the other is not",
            Self::MESSAGE_API => "stream mode is not live transmission",
            Self::CONGESTION => "the congestion controllers differ",
            Self::FILTER => "packet filters are not supported",
            Self::GROUP => "groups are not supported",
            Self::FORBIDDEN => "forbidden",
            Self::NOT_FOUND => "there is no such stream",
            Self::CONFLICT => "the stream is in use",
            Self(code) => return write!(f, "code {code}"),
        };
        f.write_str(text)
    }
}

/// Terms of one end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) receive_latency: Duration,
    pub(crate) peer_latency: Duration,
    pub(crate) passphrase: Option<Secret>,
    /// Key length in bytes: 16, 24 or 32. That of the caller is used.
    pub(crate) key_length: usize,
    pub(crate) packet_drop: bool,
    pub(crate) peer_idle: Duration,
    /// Packets that a buffer holds.
    pub(crate) buffer: usize,
    pub(crate) bytes_per_second: u64,
    pub(crate) key_refresh: u64,
    pub(crate) key_announce: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            receive_latency: Duration::from_millis(120),
            peer_latency: Duration::from_millis(120),
            passphrase: None,
            key_length: 16,
            packet_drop: true,
            peer_idle: Duration::from_secs(5),
            buffer: 8192,
            bytes_per_second: 125_000_000,
            key_refresh: KEY_REFRESH,
            key_announce: KEY_ANNOUNCE,
        }
    }
}

/// Identity of our end of a connection that is being set up.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) id: u32,
    /// Start of our timestamps.
    pub(crate) start: Instant,
    pub(crate) random: Random,
}

fn millis(latency: Duration) -> u16 {
    u16::try_from(latency.as_millis()).unwrap_or(u16::MAX)
}

impl Terms {
    /// Returns our terms as an HSREQ extension.
    pub(crate) fn extension(&self) -> SrtExtension {
        SrtExtension {
            version: SRT_VERSION,
            flags: if self.packet_drop { FLAGS } else { FLAGS & !FLAG_DROP },
            receive_delay: millis(self.receive_latency),
            send_delay: millis(self.peer_latency),
        }
    }

    /// Returns the latencies of both directions. Each is the larger one that the two ends ask for.
    fn settle(&self, theirs: &SrtExtension) -> (Duration, Duration) {
        let wish = |ms: u16| Duration::from_millis(ms.into());
        (self.receive_latency.max(wish(theirs.send_delay)), self.peer_latency.max(wish(theirs.receive_delay)))
    }

    /// Checks a conclusion on the side of the listener, as far as it costs nothing: whether both ends can agree, apart
    /// from their passphrases. Returns the derivation whose result [`Terms::accept`] needs, if there is encryption.
    pub(crate) fn prepare(&self, request: &Handshake) -> Result<Option<KeyDerivation>, Rejection> {
        acceptable(request)?;
        match (&self.passphrase, request.extensions.key_material.as_deref()) {
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Rejection::UNSECURE),
            (Some(passphrase), Some(material)) => {
                KeyDerivation::of_material(material, passphrase.reveal()).map(Some).map_err(|_| Rejection::ROGUE)
            }
        }
    }

    /// Returns the keys from a caller's key material, or the rejection if the ends do not agree about encryption.
    fn keys(&self, material: Option<&[u8]>, wrapping: Option<WrappingKey>) -> Result<Option<Keys>, Rejection> {
        match (&self.passphrase, material, wrapping) {
            (None, None, None) => Ok(None),
            (Some(_), Some(material), Some(wrapping)) => match Keys::from_material(material, wrapping) {
                Ok(keys) => Ok(Some(keys)),
                Err(KeyError::BadSecret) => Err(Rejection::BAD_SECRET),
                Err(KeyError::Malformed) => Err(Rejection::ROGUE),
            },
            _ => Err(Rejection::UNSECURE),
        }
    }

    /// Accepts a conclusion on the side of the listener. Returns the agreement and the answer that confirms it.
    /// `wrapping` is the result of the derivation returned by [`Terms::prepare`].
    pub(crate) fn accept(
        &self,
        request: &Handshake,
        timestamp: u32,
        local: &Local,
        wrapping: Option<WrappingKey>,
    ) -> Result<(Agreement, Handshake), Rejection> {
        let theirs = acceptable(request)?;
        let keys = self.keys(request.extensions.key_material.as_deref(), wrapping)?;
        let (receive_latency, send_latency) = self.settle(&theirs);
        let answer = Handshake {
            version: 5,
            encryption: keys.as_ref().map_or(0, |k| (k.length() / 8) as u16),
            extension_field: 0,
            initial_sequence: request.initial_sequence,
            mtu: 1500,
            window: self.buffer as u32,
            kind: super::handshake::Kind::Conclusion,
            socket_id: local.id,
            cookie: request.cookie,
            extensions: Extensions {
                srt: Some(SrtExtension {
                    receive_delay: millis(receive_latency),
                    send_delay: millis(send_latency),
                    ..self.extension()
                }),
                key_material: request.extensions.key_material.clone(),
                response: true,
                ..Extensions::default()
            },
        };
        let drop = theirs.flags & FLAG_DROP != 0;
        let agreement = self.agreement(
            request,
            (receive_latency, send_latency),
            drop,
            keys,
            timestamp,
            local,
            request.initial_sequence,
        );
        Ok((agreement, answer))
    }

    /// Does the same as [`Terms::accept`], and runs the derivation at once.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn accept_here(
        &self,
        request: &Handshake,
        timestamp: u32,
        local: &Local,
    ) -> Result<(Agreement, Handshake), Rejection> {
        let wrapping = self.prepare(request)?.map(|derivation| derivation.run());
        self.accept(request, timestamp, local, wrapping)
    }

    /// Checks the listener's answer to a conclusion on the side of the caller. `keys` are those that the caller has
    /// announced.
    pub(crate) fn conclude(
        &self,
        answer: &Handshake,
        timestamp: u32,
        local: &Local,
        keys: Option<Keys>,
        initial_sequence: Sequence,
    ) -> Result<Agreement, Rejection> {
        let theirs = answer.extensions.srt.ok_or(Rejection::ROGUE)?;
        check(&theirs, &answer.extensions)?;
        // Key material comes back as it was sent, or as a status word.
        match (&keys, answer.extensions.key_material.as_deref()) {
            (None, None) => {}
            (Some(_), Some(material)) if material.len() > 4 => {}
            (Some(_), Some([.., status])) if u32::from(*status) == super::crypto::STATUS_BAD_SECRET => {
                return Err(Rejection::BAD_SECRET);
            }
            _ => return Err(Rejection::UNSECURE),
        }
        let drop = theirs.flags & FLAG_DROP != 0;
        Ok(self.agreement(answer, self.settle(&theirs), drop, keys, timestamp, local, initial_sequence))
    }

    #[allow(clippy::too_many_arguments)]
    fn agreement(
        &self,
        peer: &Handshake,
        (receive_latency, send_latency): (Duration, Duration),
        peer_drops: bool,
        keys: Option<Keys>,
        peer_timestamp: u32,
        local: &Local,
        initial_sequence: Sequence,
    ) -> Agreement {
        Agreement {
            local_id: local.id,
            peer_id: peer.socket_id,
            initial_sequence,
            receive_latency,
            send_latency,
            drop_late: self.packet_drop && peer_drops,
            peer_timestamp,
            start: local.start,
            keys,
            passphrase: self.passphrase.clone(),
            buffer: self.buffer,
            peer_window: (peer.window as usize).clamp(1, 1 << 20),
            bytes_per_second: self.bytes_per_second,
            peer_idle: self.peer_idle,
            key_refresh: self.key_refresh,
            key_announce: self.key_announce,
            random: local.random.clone(),
        }
    }
}

/// Returns the extension of a conclusion that can be accepted, apart from encryption.
pub(crate) fn acceptable(request: &Handshake) -> Result<SrtExtension, Rejection> {
    if request.version != 5 {
        return Err(Rejection::VERSION);
    }
    let theirs = request.extensions.srt.ok_or(Rejection::ROGUE)?;
    check(&theirs, &request.extensions)?;
    Ok(theirs)
}

/// Checks the requirements that hold for both ends.
fn check(theirs: &SrtExtension, extensions: &Extensions) -> Result<(), Rejection> {
    if theirs.version < OLDEST {
        return Err(Rejection::VERSION);
    }
    if theirs.flags & FLAG_STREAM != 0 {
        return Err(Rejection::MESSAGE_API);
    }
    if extensions.congestion.as_deref().is_some_and(|name| name != "live") {
        return Err(Rejection::CONGESTION);
    }
    if extensions.filter {
        return Err(Rejection::FILTER);
    }
    if extensions.group {
        return Err(Rejection::GROUP);
    }
    Ok(())
}
