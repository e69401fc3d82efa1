//! SRT settings of sources and outputs (draft-sharabayko-srt-01; option names and ranges as in libsrt's
//! `API-socket-options.md`).

use super::{
    address::{Call, HostPort, Listen},
    bitrate::Bitrate,
    builder::{caller_setters, endpoint_builder, listener_setters, output_setters, player_setters, role},
    name::check_text,
    program::check_program,
    secret::{CryptoMode, KeyLength, Passphrase},
    settings::{check_millis, number},
    silence::{Silence, idle_setters, takeover_setters},
};
use crate::{error::ConfigErrorKind, media::ProgramChoice, packet_filter::PacketFilter};
use std::{fmt, str::FromStr, time::Duration};

/// SRT latency, for which the receiver holds packets back so that lost ones can be retransmitted.
///
/// 0–10 000 ms, 120 ms by default. A usual value is four round-trip times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Latency(u16);

impl Latency {
    /// 120 ms, for both ends in one country.
    pub const SAME_COUNTRY: Self = Self(120);
    /// 200 ms, for both ends on one continent.
    pub const SAME_CONTINENT: Self = Self(200);
    /// 1000 ms, between continents.
    pub const INTERCONTINENTAL: Self = Self(1000);
    /// Maximum latency, in milliseconds.
    pub const MAX_MILLIS: u16 = 10_000;

    /// Returns a latency in milliseconds.
    ///
    /// # Errors
    /// When it is above [`Latency::MAX_MILLIS`].
    pub fn from_millis(millis: u16) -> Result<Self, ConfigErrorKind> {
        if millis > Self::MAX_MILLIS {
            return Err(ConfigErrorKind::out_of_range(format!("{millis} ms"), "0 to 10000 milliseconds"));
        }
        Ok(Self(millis))
    }

    /// Returns the milliseconds.
    pub const fn as_millis(self) -> u16 {
        self.0
    }

    /// Returns the latency as a duration.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::SAME_COUNTRY
    }
}

impl FromStr for Latency {
    type Err = ConfigErrorKind;
    /// Reads milliseconds, or one of `SameCountry`, `SameContinent`, `Intercontinental`.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "SameCountry" => Ok(Self::SAME_COUNTRY),
            "SameContinent" => Ok(Self::SAME_CONTINENT),
            "Intercontinental" => Ok(Self::INTERCONTINENTAL),
            _ => number(s, 0..=Self::MAX_MILLIS, "milliseconds").map(Self),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Settings that SRT listeners and callers share.
#[derive(Clone, Debug)]
pub(crate) struct SrtOptions {
    pub(crate) receive_latency: Latency,
    pub(crate) peer_latency: Latency,
    pub(crate) passphrase: Option<Passphrase>,
    pub(crate) key_length: KeyLength,
    pub(crate) crypto_mode: CryptoMode,
    pub(crate) stream_id: Option<String>,
    pub(crate) peer_idle_timeout: Duration,
    pub(crate) payload_size: u16,
    /// Maximum rate of a connection; `None` for the flow's maximum bandwidth plus the overhead.
    pub(crate) max_bandwidth: Option<Bitrate>,
    pub(crate) overhead_percent: u8,
    pub(crate) packet_drop: bool,
    pub(crate) packet_filter: Option<PacketFilter>,
    /// Of a caller: further addresses of the peer, which make it a group of connections.
    pub(crate) nodes: Vec<GroupNode>,
    /// Of a caller: type of the group. `None`: broadcast, which is not written out.
    pub(crate) group_type: Option<GroupType>,
    /// Of a caller: weight of the address itself in a main/backup group.
    pub(crate) weight: u16,
    /// Of a caller: whether the peer calls, too, instead of listening.
    pub(crate) rendezvous: bool,
    /// Of a listener: whether groups of connections are admitted.
    pub(crate) group_connect: bool,
    /// Set for sources only.
    pub(crate) silence: Silence,
    /// Program that is remultiplexed to RTMP, of a source.
    pub(crate) program: ProgramChoice,
}

pub(crate) const IDLE_TIMEOUT: std::ops::RangeInclusive<u64> = 1_000..=60_000;
const PAYLOAD: std::ops::RangeInclusive<u16> = 188..=1456;
const OVERHEAD: std::ops::RangeInclusive<u8> = 5..=100;
const STREAM_ID_MAX: usize = 512;

impl Default for SrtOptions {
    fn default() -> Self {
        Self {
            receive_latency: Latency::default(),
            peer_latency: Latency::default(),
            passphrase: None,
            key_length: KeyLength::default(),
            crypto_mode: CryptoMode::default(),
            stream_id: None,
            peer_idle_timeout: Duration::from_millis(5000),
            payload_size: *PAYLOAD.end(),
            max_bandwidth: None,
            overhead_percent: 25,
            packet_drop: true,
            packet_filter: None,
            nodes: Vec::new(),
            group_type: None,
            weight: 0,
            rendezvous: false,
            group_connect: true,
            silence: Silence::default(),
            program: ProgramChoice::default(),
        }
    }
}

/// Maximum number of members of a group.
pub(super) const MAX_NODES: usize = 8;

/// Type of a group of connections (bonding), as libsrt names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GroupType {
    /// Every packet is sent over all connections.
    #[default]
    Broadcast,
    /// Packets are sent over the heaviest connection. When it shows signs of trouble, they are sent over the next one, with
    /// all that may have been lost; when it is stable again, over it alone.
    Backup,
}

impl fmt::Display for GroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Backup => "backup",
        })
    }
}

impl FromStr for GroupType {
    type Err = ConfigErrorKind;
    /// Reads `broadcast` or `backup`.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "broadcast" => Ok(Self::Broadcast),
            "backup" => Ok(Self::Backup),
            _ => Err(ConfigErrorKind::malformed(s, "broadcast or backup")),
        }
    }
}

/// Address of a member of a group, with its weight in a main/backup group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupNode {
    pub(crate) host: HostPort,
    pub(crate) weight: u16,
}

impl FromStr for GroupNode {
    type Err = ConfigErrorKind;
    /// Reads `host:port` or `host:port?weight=50`, as libsrt's programs write it.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let Some((host, query)) = s.split_once('?') else { return Ok(Self { host: s.parse()?, weight: 0 }) };
        let malformed = || ConfigErrorKind::malformed(query, "`weight` behind the address of a node");
        let weight = query.strip_prefix("weight=").ok_or_else(malformed)?;
        Ok(Self { host: host.parse()?, weight: number(weight, 0..=u16::MAX, "")? })
    }
}

impl fmt::Display for GroupNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            0 => self.host.fmt(f),
            weight => write!(f, "{}?weight={weight}", self.host),
        }
    }
}

/// Reads the addresses of the members of a group, separated by commas.
pub(crate) fn nodes(text: &str) -> Result<Vec<GroupNode>, ConfigErrorKind> {
    let nodes = text.split(',').map(str::parse).collect::<Result<Vec<GroupNode>, _>>()?;
    check_nodes(nodes)
}

fn check_nodes(nodes: Vec<GroupNode>) -> Result<Vec<GroupNode>, ConfigErrorKind> {
    if (1..=MAX_NODES).contains(&nodes.len()) {
        Ok(nodes)
    } else {
        Err(ConfigErrorKind::out_of_range(format!("{} nodes", nodes.len()), "1 to 8 nodes"))
    }
}

/// Writes the addresses of the members of a group; `None` if there are none.
pub(crate) fn nodes_text(nodes: &[GroupNode]) -> Option<String> {
    let texts: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// Checks a stream id.
pub(crate) fn stream_id(text: &str) -> Result<String, ConfigErrorKind> {
    // Hosts let callers in by it: an error does not repeat it.
    let problem = |_| ConfigErrorKind::malformed("the stream id", "1 to 512 bytes without control characters");
    check_text(text, 1, STREAM_ID_MAX).map_err(problem).map(|()| text.to_owned())
}

/// Settings of an SRT listener, as source or output.
#[derive(Clone, Debug)]
pub(crate) struct SrtListener {
    pub(crate) listen: Listen,
    pub(crate) srt: SrtOptions,
}

/// Settings of an SRT caller, as source or output.
#[derive(Clone, Debug)]
pub(crate) struct SrtCaller {
    pub(crate) call: Call,
    pub(crate) srt: SrtOptions,
}

impl SrtCaller {
    /// Returns the members of the group that the caller is: its own address first. Empty if it is no group.
    pub(crate) fn group(&self) -> Vec<GroupNode> {
        let SrtOptions { nodes, weight, .. } = &self.srt;
        if nodes.is_empty() {
            return Vec::new();
        }
        // The address itself may be one of the nodes, as in `srt://*?nodes=...`.
        let itself = nodes.iter().find(|node| node.host == self.call.remote);
        let weight = itself.map_or(*weight, |node| node.weight);
        let mut members = vec![GroupNode { host: self.call.remote.clone(), weight }];
        members.extend(nodes.iter().filter(|node| node.host != self.call.remote).cloned());
        members
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        if !self.srt.rendezvous {
            return None;
        }
        let conflict = |text: &str| Some(ConfigErrorKind::Conflict(text.into()));
        let of_group = conflict("a rendezvous has one connection, and no group").filter(|_| !self.srt.nodes.is_empty());
        let of_id = conflict("a rendezvous carries no stream id").filter(|_| self.srt.stream_id.is_some());
        of_group.map(|problem| ("nodes", problem)).or(of_id.map(|problem| ("streamid", problem)))
    }
}

endpoint_builder! {
    /// Builder of an SRT listener: a source that callers send to, or an output that serves callers. Made by
    /// [`Source::srt_listener`](crate::Source::srt_listener) and [`Output::srt_listener`](crate::Output::srt_listener).
    SrtListenerBuilder<R>: SrtListener
}
listener_setters!(<R> SrtListenerBuilder<R>, listen);
player_setters!(SrtListenerBuilder<role::Output>, listen);

impl<R> SrtCallerBuilder<R> {
    /// Adds further addresses of the peer (`host:port`, or `host:port?weight=50`), up to 8. The caller becomes a group
    /// (bonding): it connects to each address, sends every packet over the connections that the type of the group says, and
    /// receives every packet from whichever connection brings it first. The peer must admit groups, as this library does
    /// and libsrt with `SRTO_GROUPCONNECT`.
    pub fn nodes(mut self, addresses: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let parsed: Result<Vec<GroupNode>, _> = addresses.into_iter().map(|address| address.as_ref().parse()).collect();
        self.draft.try_set("nodes", parsed.and_then(check_nodes), |settings, nodes| settings.srt.nodes = nodes);
        self
    }

    /// Sets the type of the group ([`GroupType::Broadcast`]), which [`SrtCallerBuilder::nodes`] makes.
    pub fn group_type(mut self, group_type: GroupType) -> Self {
        self.draft.settings.srt.group_type = Some(group_type);
        self
    }

    /// Sets the weight of the address itself in a group of the type [`GroupType::Backup`] (0; 0-65 535). The heaviest
    /// address that is connected and stable is used; of several, the first.
    pub fn weight(mut self, weight: u16) -> Self {
        self.draft.settings.srt.weight = weight;
        self
    }

    /// Connects by rendezvous: the peer does so, too, and neither listens, so that both may be behind NAT routers or
    /// firewalls. Both call each other from fixed ports: the local port is that of the remote address unless it is set. An
    /// attempt takes ten times the connect timeout. There is no stream id.
    pub fn rendezvous(mut self) -> Self {
        self.draft.settings.srt.rendezvous = true;
        self
    }
}

impl<R> SrtListenerBuilder<R> {
    /// Sets whether groups of connections are admitted (bonding; on): several connections of one peer that carry the same
    /// packets. A group counts as one publisher, and each of its members as a player. libsrt's types broadcast and backup
    /// are admitted.
    pub fn group_connect(mut self, on: bool) -> Self {
        self.draft.settings.srt.group_connect = on;
        self
    }
}

idle_setters!(SrtListenerBuilder<role::Source>, "5000 ms", srt.silence);
takeover_setters!(SrtListenerBuilder<role::Source>, srt.silence);
output_setters!(SrtListenerBuilder<role::Output>);

endpoint_builder! {
    /// Builder of an SRT caller: a source that fetches from a listener, or an output that sends to one. Made by
    /// [`Source::srt_caller`](crate::Source::srt_caller) and [`Output::srt_caller`](crate::Output::srt_caller).
    SrtCallerBuilder<R>: SrtCaller
}
caller_setters!(<R> SrtCallerBuilder<R>, call);
idle_setters!(SrtCallerBuilder<role::Source>, "5000 ms", srt.silence);
output_setters!(SrtCallerBuilder<role::Output>);

fn check_payload_size(bytes: u16) -> Result<u16, ConfigErrorKind> {
    if PAYLOAD.contains(&bytes) { Ok(bytes) } else { Err(ConfigErrorKind::out_of_range(bytes, "188 to 1456 bytes")) }
}

fn check_overhead(percent: u8) -> Result<u8, ConfigErrorKind> {
    if OVERHEAD.contains(&percent) {
        Ok(percent)
    } else {
        Err(ConfigErrorKind::out_of_range(percent, "5 to 100 percent"))
    }
}

/// Defines the setters of SRT listeners and callers.
macro_rules! srt_setters {
    ($builder:ident) => {
        impl $builder<role::Source> {
            /// Sets the program of the transport stream that is remultiplexed to RTMP (the first with a picture).
            pub fn program(mut self, program: ProgramChoice) -> Self {
                let program = check_program(program);
                self.draft.try_set("program", program, |settings, program| settings.srt.program = program);
                self
            }
        }

        impl<R> $builder<R> {
            /// Sets the latency in both directions (120 ms).
            pub fn latency(self, latency: Latency) -> Self {
                self.receive_latency(latency).peer_latency(latency)
            }

            /// Sets the latency of received packets (120 ms). The larger of both ends' values is used.
            pub fn receive_latency(mut self, latency: Latency) -> Self {
                self.draft.settings.srt.receive_latency = latency;
                self
            }

            /// Sets the minimum latency of packets that the peer receives (120 ms).
            pub fn peer_latency(mut self, latency: Latency) -> Self {
                self.draft.settings.srt.peer_latency = latency;
                self
            }

            /// Sets AES encryption. A peer with another passphrase, or without one, is refused.
            pub fn encryption(mut self, passphrase: Passphrase, length: KeyLength) -> Self {
                self.draft.settings.srt.passphrase = Some(passphrase);
                self.draft.settings.srt.key_length = length;
                self
            }

            /// Sets the mode of the encryption ([`CryptoMode::Auto`]). A peer that uses another is refused.
            pub fn crypto_mode(mut self, mode: CryptoMode) -> Self {
                self.draft.settings.srt.crypto_mode = mode;
                self
            }

            /// Sets the stream id (1–512 bytes), which a caller sends, and by which listeners that share a port are told
            /// apart. A listener reads all usual forms of it (`cam1`, `#!::r=cam1,m=publish`, `publish:cam1`), in one
            /// normal form. A listener without one takes the callers that no other listener of the port wants.
            pub fn stream_id(mut self, id: impl AsRef<str>) -> Self {
                self.draft.try_set("streamid", stream_id(id.as_ref()), |s, id| s.srt.stream_id = Some(id));
                self
            }

            /// Sets the time that the peer may be silent before the connection is lost (5000 ms; 1000–60 000). A peer without
            /// media says once a second that it is alive: values below 2000 ms are for media that never pauses.
            pub fn peer_idle_timeout(mut self, timeout: Duration) -> Self {
                let timeout = check_millis(timeout, IDLE_TIMEOUT);
                self.draft.try_set("peeridletimeo", timeout, |s, v| s.srt.peer_idle_timeout = v);
                self
            }

            /// Sets the largest payload of one packet (1456 bytes; 188–1456). An output leaves out what is larger, and
            /// says so ([`Event::OutputOversized`](crate::Event::OutputOversized)).
            pub fn payload_size(mut self, bytes: u16) -> Self {
                self.draft.try_set("payloadsize", check_payload_size(bytes), |s, v| s.srt.payload_size = v);
                self
            }

            /// Sets the maximum rate of a connection, retransmissions included (by default the flow's maximum bandwidth
            /// plus the overhead, or the input rate plus the overhead where that is more and
            /// [`BandwidthPolicy::Warn`](crate::BandwidthPolicy::Warn) lets it pass). It stays when the bandwidth of the
            /// running flow is changed; packets above it are dropped, with
            /// [`Event::OutputLagging`](crate::Event::OutputLagging).
            pub fn max_bandwidth(mut self, rate: Bitrate) -> Self {
                self.draft.settings.srt.max_bandwidth = Some(rate);
                self
            }

            /// Sets the share of the input rate that retransmissions may take beside it (25 %; 5–100).
            pub fn overhead(mut self, percent: u8) -> Self {
                self.draft.try_set("oheadbw", check_overhead(percent), |s, v| s.srt.overhead_percent = v);
                self
            }

            /// Sets forward error correction. A listener without it uses what its caller asks for, and a caller that does
            /// not ask for it gets none. Ends that do not agree are refused. The largest payload is 4 bytes smaller.
            pub fn packet_filter(mut self, filter: PacketFilter) -> Self {
                self.draft.settings.srt.packet_filter = Some(filter);
                self
            }

            /// Sets whether packets that are too late are dropped (on), or waited for (off).
            pub fn packet_drop(mut self, on: bool) -> Self {
                self.draft.settings.srt.packet_drop = on;
                self
            }
        }
    };
}
srt_setters!(SrtListenerBuilder);
srt_setters!(SrtCallerBuilder);
