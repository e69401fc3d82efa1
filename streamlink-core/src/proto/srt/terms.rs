//! What one end wants of a connection, and what both ends agree on; and why a connection is refused.

use super::{
    connection::Agreement,
    crypto::{KeyError, Keys},
    handshake::{Extensions, FLAG_DROP, FLAG_STREAM, FLAGS, Handshake, SRT_VERSION, SrtExtension},
    sequence::Sequence,
};
use crate::{random::Random, secret::Secret};
use std::time::{Duration, Instant};

/// The oldest peer that is served: libsrt 1.3.0, the first with this handshake.
const OLDEST: u32 = 0x01_03_00;
/// Packets after which a key is changed, and how many before that the next is announced (`SRTO_KMREFRESHRATE`,
/// `SRTO_KMPREANNOUNCE`).
const KEY_REFRESH: u64 = 1 << 24;
const KEY_ANNOUNCE: u64 = 1 << 12;

/// A code with which a connection is refused, as libsrt numbers them (`SRT_REJECT_REASON`).
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
    /// `SRT_REJX_ISE`: something is wrong with the host.
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

/// What one end wants.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) receive_latency: Duration,
    pub(crate) peer_latency: Duration,
    pub(crate) passphrase: Option<Secret>,
    /// 16, 24 or 32; the caller's counts.
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

/// What identifies our end of a connection that is being set up.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) id: u32,
    /// When our timestamps started.
    pub(crate) start: Instant,
    pub(crate) random: Random,
}

fn millis(latency: Duration) -> u16 {
    u16::try_from(latency.as_millis()).unwrap_or(u16::MAX)
}

impl Terms {
    /// Our wishes, as HSREQ has them.
    pub(crate) fn extension(&self) -> SrtExtension {
        SrtExtension {
            version: SRT_VERSION,
            flags: if self.packet_drop { FLAGS } else { FLAGS & !FLAG_DROP },
            receive_delay: millis(self.receive_latency),
            send_delay: millis(self.peer_latency),
        }
    }

    /// The wishes of both ends: each direction has the larger one.
    fn settle(&self, theirs: &SrtExtension) -> (Duration, Duration) {
        let wish = |ms: u16| Duration::from_millis(ms.into());
        (self.receive_latency.max(wish(theirs.send_delay)), self.peer_latency.max(wish(theirs.receive_delay)))
    }

    /// The keys that a caller's material brings, or why there is no agreement about encryption.
    fn keys(&self, material: Option<&[u8]>) -> Result<Option<Keys>, Rejection> {
        match (&self.passphrase, material) {
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Rejection::UNSECURE),
            (Some(passphrase), Some(material)) => match Keys::from_material(material, passphrase.reveal()) {
                Ok(keys) => Ok(Some(keys)),
                Err(KeyError::BadSecret) => Err(Rejection::BAD_SECRET),
                Err(KeyError::Malformed) => Err(Rejection::ROGUE),
            },
        }
    }

    /// A listener's answer to a conclusion: what is agreed, and the packet that says so.
    pub(crate) fn accept(
        &self,
        request: &Handshake,
        timestamp: u32,
        local: &Local,
    ) -> Result<(Agreement, Handshake), Rejection> {
        let theirs = request.extensions.srt.ok_or(Rejection::ROGUE)?;
        check(&theirs, &request.extensions)?;
        let keys = self.keys(request.extensions.key_material.as_deref())?;
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

    /// A caller's reading of the answer to its conclusion. `keys` are those that it has announced.
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

/// What neither end can do without.
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
