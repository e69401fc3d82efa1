//! Negotiation of a connection: the terms of one end, the agreement of both, and the reasons for a rejection.

use super::{
    agreement::Agreement,
    crypto::{
        CipherMode, KeyDerivation, KeyError, Keys, LAST_WEAK_GCM, STATUS_BAD_CIPHER, STATUS_BAD_SECRET, WrappingKey,
        mode_of_material,
    },
    fec::FEC_HEADER,
    handshake::{
        BACKUP, BROADCAST, ExtensionFault, Extensions, FLAG_DROP, FLAG_STREAM, FLAGS, GroupExtension, Handshake,
        SRT_VERSION, SrtExtension,
    },
    packet::MAX_PAYLOAD,
    sequence::Sequence,
};
use crate::{
    packet_filter::{FilterMatrix, PacketFilter},
    random::Random,
    secret::Secret,
};
use std::time::{Duration, Instant};

/// Oldest supported version of a peer: libsrt 1.3.0, the first with this handshake.
const OLDEST: u32 = 0x01_03_00;
/// Number of packets after which the key changes (`SRTO_KMREFRESHRATE`).
const KEY_REFRESH: u64 = 1 << 24;
/// Number of packets before the change of a key at which the next one is announced (`SRTO_KMPREANNOUNCE`).
const KEY_ANNOUNCE: u64 = 1 << 12;

/// Largest packet that we send or receive, in bytes: the payload of an Ethernet frame.
const MTU: u32 = 1500;
/// Smallest largest packet that a peer may ask for, in bytes: one packet of MPEG-TS in it.
const MIN_MTU: u32 = PACKET_OVERHEAD + 188;
/// Payload of live streams by default, in bytes: seven packets of MPEG-TS.
const LIVE_PAYLOAD: u32 = 1316;
/// Bytes of a packet that are no payload: the headers of IPv4, UDP and SRT.
const PACKET_OVERHEAD: u32 = 20 + 8 + 16;

/// Code of a rejection, as numbered by libsrt (`SRT_REJECT_REASON`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection(pub(crate) u32);

impl Rejection {
    pub(crate) const RESOURCE: Self = Self(3);
    pub(crate) const ROGUE: Self = Self(4);
    pub(crate) const BACKLOG: Self = Self(5);
    pub(crate) const VERSION: Self = Self(8);
    /// The cookies of a rendezvous collide.
    pub(crate) const COOKIES: Self = Self(9);
    pub(crate) const BAD_SECRET: Self = Self(10);
    pub(crate) const UNSECURE: Self = Self(11);
    pub(crate) const MESSAGE_API: Self = Self(12);
    pub(crate) const CONGESTION: Self = Self(13);
    pub(crate) const FILTER: Self = Self(14);
    pub(crate) const GROUP: Self = Self(15);
    pub(crate) const CRYPTO: Self = Self(17);
    /// `SRT_REJX_BAD_REQUEST` of the access-control codes: the stream id cannot be read.
    pub(crate) const BAD_REQUEST: Self = Self(1400);
    /// `SRT_REJX_FORBIDDEN`.
    pub(crate) const FORBIDDEN: Self = Self(1403);
    /// `SRT_REJX_NOTFOUND`.
    pub(crate) const NOT_FOUND: Self = Self(1404);
    /// `SRT_REJX_BAD_MODE`: neither to publish nor to play.
    pub(crate) const BAD_MODE: Self = Self(1405);
    /// `SRT_REJX_ISE`: internal error of the host.
    pub(crate) const INTERNAL: Self = Self(1500);
    /// `SRT_REJX_CONFLICT`: the resource is in use.
    pub(crate) const CONFLICT: Self = Self(1409);

    /// Returns whether the reason is the stream that was asked for.
    pub(crate) fn is_about_stream(self) -> bool {
        matches!(self.0, 1001..1500 | 2000..)
    }

    /// Returns a description and the name of libsrt's constant (`SRT_REJ_…`, `SRT_REJX_…`).
    fn texts(self) -> (&'static str, &'static str) {
        match self.0 {
            0 => ("no reason given", "UNKNOWN"),
            1 => ("system error of the peer", "SYSTEM"),
            2 => ("rejected by the peer's application", "PEER"),
            3 => ("out of resources", "RESOURCE"),
            4 => ("the handshake is malformed", "ROGUE"),
            5 => ("too many connections", "BACKLOG"),
            6 => ("internal error of the peer", "IPE"),
            7 => ("the listener is closing", "CLOSE"),
            8 => ("the version of the handshake is too old", "VERSION"),
            9 => ("the cookies of the rendezvous collide", "RDVCOOKIE"),
            10 => ("the passphrases differ", "BADSECRET"),
            11 => ("one end is encrypted and the other is not", "UNSECURE"),
            12 => ("stream mode, as of transtype=file, is not live transmission", "MESSAGEAPI"),
            13 => ("the congestion controllers differ, as with transtype=file", "CONGESTION"),
            14 => ("the packet filters differ, or are not supported", "FILTER"),
            15 => ("groups, or this type of group, are not supported", "GROUP"),
            16 => ("the handshake took too long", "TIMEOUT"),
            17 => ("the ciphers differ, as AES-GCM and AES-CTR, or AES-GCM is that of libsrt before 1.5.4", "CRYPTO"),
            1000 => ("rejected", "FALLBACK"),
            1001 => ("a key of the stream id is not supported", "KEY_NOTSUP"),
            1002 => ("the file path is not accepted", "FILEPATH"),
            1003 => ("there is no such host", "HOSTNOTFOUND"),
            1400 => ("the stream id cannot be read", "BAD_REQUEST"),
            1401 => ("not authorized", "UNAUTHORIZED"),
            1402 => ("the server is overloaded, or the credit is used up", "OVERLOAD"),
            1403 => ("forbidden", "FORBIDDEN"),
            1404 => ("there is no such stream", "NOTFOUND"),
            1405 => ("the mode of the stream id is not supported", "BAD_MODE"),
            1406 => ("the parameters of the stream id are not acceptable", "UNACCEPTABLE"),
            1409 => ("the stream is in use", "CONFLICT"),
            1415 => ("the media is not supported", "NOTSUP_MEDIA"),
            1423 => ("the stream is locked", "LOCKED"),
            1424 => ("something that the stream depends on has failed", "FAILED_DEPEND"),
            1500 => ("internal error of the server", "ISE"),
            1501 => ("not implemented", "UNIMPLEMENTED"),
            1502 => ("the gateway failed", "GW"),
            1503 => ("the service is down", "DOWN"),
            1505 => ("the version is not supported", "VERSION"),
            1507 => ("there is no room left", "NOROOM"),
            code if code < 1000 => ("rejected", ""),
            code if code < 2000 => ("rejected by the server", ""),
            _ => ("rejected by the server for a reason of its own", ""),
        }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.texts() {
            (text, "") => write!(f, "{text} (code {})", self.0),
            (text, name) => write!(f, "{text} ({name}, code {})", self.0),
        }
    }
}

impl From<KeyError> for Rejection {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::BadSecret => Self::BAD_SECRET,
            KeyError::Cipher => Self::CRYPTO,
            KeyError::Malformed => Self::ROGUE,
        }
    }
}

/// Types of groups that are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    None,
    /// All known types.
    All,
}

impl Groups {
    /// Checks that a caller asks for no group, or for one that is admitted.
    fn check(self, asked: Option<&GroupExtension>) -> Result<(), Rejection> {
        match (self, asked.map(|group| group.kind)) {
            (_, None) | (Self::All, Some(BROADCAST | BACKUP)) => Ok(()),
            _ => Err(Rejection::GROUP),
        }
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
    /// Mode of the encryption. `None`: that of the caller, which is the counter mode unless the caller sets it.
    pub(crate) cipher: Option<CipherMode>,
    /// Packet filter. `None`: that of the caller, if it asks for one.
    pub(crate) filter: Option<PacketFilter>,
    /// Groups of connections that a listener admits.
    pub(crate) groups: Groups,
    pub(crate) packet_drop: bool,
    /// Largest payload that is sent in one packet, in bytes.
    pub(crate) payload_size: usize,
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
            cipher: None,
            filter: None,
            groups: Groups::None,
            packet_drop: true,
            payload_size: MAX_PAYLOAD,
            peer_idle: Duration::from_secs(5),
            buffer: 8192,
            bytes_per_second: 125_000_000,
            key_refresh: KEY_REFRESH,
            key_announce: KEY_ANNOUNCE,
        }
    }
}

/// Returns the largest payload that fits into the packets of a peer with this maximum packet size, and into ours.
fn peer_payload(mtu: u32) -> usize {
    // `srt-tokio` announces its payload size there, which is no packet size of any path.
    if mtu == LIVE_PAYLOAD {
        return LIVE_PAYLOAD as usize;
    }
    mtu.min(MTU).saturating_sub(PACKET_OVERHEAD) as usize
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
        let theirs = acceptable(request)?;
        self.filter_of_request(&request.extensions)?;
        self.groups.check(request.extensions.group.as_ref())?;
        match (&self.passphrase, request.extensions.key_material.as_deref()) {
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Rejection::UNSECURE),
            (Some(passphrase), Some(material)) => {
                let mode = mode_of_material(material)?;
                if self.cipher.is_some_and(|ours| ours != mode) {
                    return Err(Rejection::CRYPTO);
                }
                check_cipher(mode, &theirs)?;
                Ok(Some(KeyDerivation::of_material(material, passphrase.reveal())?))
            }
        }
    }

    /// Returns the packet filter on which a listener agrees with the caller. There is none if the caller asks for none.
    fn filter_of_request(&self, theirs: &Extensions) -> Result<Option<(PacketFilter, FilterMatrix)>, Rejection> {
        let Some(theirs) = &theirs.filter else { return Ok(None) };
        let theirs: PacketFilter = theirs.parse().map_err(|_| Rejection::FILTER)?;
        let merged = self.filter.unwrap_or_default().merged(theirs).ok_or(Rejection::FILTER)?;
        Ok(Some((merged.complete(), merged.matrix().ok_or(Rejection::FILTER)?)))
    }

    /// Returns the packet filter on which a caller agrees with the listener, which must want one if the caller does.
    fn filter_of_answer(&self, theirs: &Extensions) -> Result<Option<FilterMatrix>, Rejection> {
        let Some(theirs) = &theirs.filter else {
            return if self.filter.is_some() { Err(Rejection::FILTER) } else { Ok(None) };
        };
        let theirs: PacketFilter = theirs.parse().map_err(|_| Rejection::FILTER)?;
        let answered = self.filter.unwrap_or_default().answered(theirs);
        answered.matrix().map(Some).ok_or(Rejection::FILTER)
    }

    /// Returns the keys from a caller's key material, or the rejection if the ends do not agree about encryption.
    fn keys(&self, material: Option<&[u8]>, wrapping: Option<WrappingKey>) -> Result<Option<Keys>, Rejection> {
        match (&self.passphrase, material, wrapping) {
            (None, None, None) => Ok(None),
            (Some(_), Some(material), Some(wrapping)) => Ok(Some(Keys::from_material(material, wrapping)?)),
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
        let filter = self.filter_of_request(&request.extensions)?;
        let (receive_latency, send_latency) = self.settle(&theirs);
        let answer = Handshake {
            version: 5,
            encryption: keys.as_ref().map_or(0, |k| (k.length() / 8) as u16),
            extension_field: 0,
            initial_sequence: request.initial_sequence,
            mtu: request.mtu.min(MTU),
            window: self.buffer as u32,
            kind: super::handshake::HandshakeType::Conclusion,
            socket_id: local.id,
            cookie: request.cookie,
            extensions: Extensions {
                srt: Some(SrtExtension {
                    receive_delay: millis(receive_latency),
                    send_delay: millis(send_latency),
                    ..self.extension()
                }),
                key_material: request.extensions.key_material.clone(),
                filter: filter.as_ref().map(|(filter, _)| filter.to_string()),
                response: true,
                ..Extensions::default()
            },
        };
        let drop = theirs.flags & FLAG_DROP != 0;
        let agreement = self.agreement(
            request,
            (receive_latency, send_latency),
            drop,
            (keys, filter.map(|(_, matrix)| matrix)),
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
        let theirs = acceptable(answer)?;
        // Key material comes back as it was sent, or as a status word.
        match (&keys, answer.extensions.key_material.as_deref()) {
            (None, None) => {}
            (Some(_), Some(material)) if material.len() > 4 => {}
            (Some(_), Some(status)) => return Err(rejection_of_status(status)),
            (None, Some(_)) | (Some(_), None) => return Err(Rejection::UNSECURE),
        }
        if let Some(keys) = &keys {
            check_cipher(keys.mode(), &theirs)?;
        }
        let drop = theirs.flags & FLAG_DROP != 0;
        let filter = self.filter_of_answer(&answer.extensions)?;
        let latencies = self.settle(&theirs);
        Ok(self.agreement(answer, latencies, drop, (keys, filter), timestamp, local, initial_sequence))
    }

    #[allow(clippy::too_many_arguments)]
    fn agreement(
        &self,
        peer: &Handshake,
        (receive_latency, send_latency): (Duration, Duration),
        peer_drops: bool,
        (keys, filter): (Option<Keys>, Option<FilterMatrix>),
        peer_timestamp: u32,
        local: &Local,
        initial_sequence: Sequence,
    ) -> Agreement {
        // A repair packet is as long as the longest packet of its group, with a header.
        let overhead =
            keys.as_ref().map_or(0, |keys| keys.mode().overhead()) + if filter.is_some() { FEC_HEADER } else { 0 };
        Agreement {
            local_id: local.id,
            peer_id: peer.socket_id,
            initial_sequence,
            peer_sequence: initial_sequence,
            receive_latency,
            send_latency,
            drop_late: self.packet_drop && peer_drops,
            peer_timestamp,
            start: local.start,
            keys,
            filter,
            peer_group: peer.extensions.group.map(|group| group.id),
            passphrase: self.passphrase.clone(),
            buffer: self.buffer,
            max_payload: self.payload_size.min(peer_payload(peer.mtu).saturating_sub(overhead)),
            peer_window: (peer.window as usize).clamp(1, 1 << 20),
            bytes_per_second: self.bytes_per_second,
            peer_idle: self.peer_idle,
            key_refresh: self.key_refresh,
            key_announce: self.key_announce,
            random: local.random.clone(),
        }
    }
}

/// Checks that a peer uses a mode of encryption safely.
fn check_cipher(mode: CipherMode, theirs: &SrtExtension) -> Result<(), Rejection> {
    if mode == CipherMode::Gcm && theirs.version <= LAST_WEAK_GCM { Err(Rejection::CRYPTO) } else { Ok(()) }
}

/// Returns the extension of a conclusion, or of the answer to one, that can be accepted apart from encryption.
pub(crate) fn acceptable(request: &Handshake) -> Result<SrtExtension, Rejection> {
    if request.version != 5 {
        return Err(Rejection::VERSION);
    }
    match request.extensions.fault {
        Some(ExtensionFault::Malformed) => return Err(Rejection::ROGUE),
        Some(ExtensionFault::Filter) => return Err(Rejection::FILTER),
        Some(ExtensionFault::StreamId) => return Err(Rejection::BAD_REQUEST),
        None if request.mtu < MIN_MTU => return Err(Rejection::ROGUE),
        None => {}
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
    Ok(())
}

/// Returns the rejection that a status word in the place of key material stands for: libsrt writes it in the byte order of
/// its machine.
fn rejection_of_status(status: &[u8]) -> Rejection {
    let status = status.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
    match status.min(status.swap_bytes()) {
        STATUS_BAD_SECRET => Rejection::BAD_SECRET,
        STATUS_BAD_CIPHER => Rejection::CRYPTO,
        _ => Rejection::UNSECURE,
    }
}
