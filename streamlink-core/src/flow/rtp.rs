//! RTP settings of sources and outputs (RTP over UDP: RFC 3550; MPEG-TS over RTP: RFC 2250).

use super::{
    address::{HostPort, Interface, Listen, LocalEnd},
    builder::{endpoint_builder, listener_setters, local_end_setters, output_setters},
    settings::{check_millis, number},
    silence::IDLE_TIMEOUT,
};
use crate::error::ConfigErrorKind;
use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

/// A set of RTP payload types (0–127). The empty set admits all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadTypes(u128);

impl PayloadTypes {
    /// All payload types.
    pub const ALL: Self = Self(0);
    /// MPEG-TS (payload type 33).
    pub const MPEG_TS: Self = Self(1 << 33);

    /// Returns the set with one more payload type.
    ///
    /// # Errors
    /// When the payload type is above 127.
    pub fn with(self, payload_type: u8) -> Result<Self, ConfigErrorKind> {
        match payload_type {
            0..=127 => Ok(Self(self.0 | 1 << payload_type)),
            n => Err(ConfigErrorKind::out_of_range(n, "0 to 127")),
        }
    }

    /// Returns whether packets of this type pass.
    pub const fn admits(self, payload_type: u8) -> bool {
        self.0 == 0 || (payload_type < 128 && self.0 >> payload_type & 1 == 1)
    }
}

impl FromStr for PayloadTypes {
    type Err = ConfigErrorKind;
    /// Reads numbers separated by commas: `33,96`.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let bad = |_| ConfigErrorKind::malformed(s, "payload types such as `33,96`");
        let mut set = Self::ALL;
        for payload_type in s.split(',') {
            set = set.with(payload_type.trim().parse().map_err(bad)?)?;
        }
        Ok(set)
    }
}

impl fmt::Display for PayloadTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = (0..128).filter(|pt| self.0 >> pt & 1 == 1).map(|pt| pt.to_string()).collect();
        f.write_str(&members.join(","))
    }
}

/// Settings of an RTP source.
#[derive(Clone, Debug)]
pub(crate) struct RtpInput {
    /// Local address; a multicast address is joined. There is no limit of peers, as RTP has no connections.
    pub(crate) listen: Listen,
    pub(crate) interface: Option<Interface>,
    /// The only sender of the multicast group that is received (source-specific multicast, RFC 4607).
    pub(crate) multicast_source: Option<IpAddr>,
    pub(crate) payload_types: PayloadTypes,
    pub(crate) reorder_window: Duration,
    pub(crate) idle_timeout: Duration,
}

pub(crate) const REORDER: std::ops::RangeInclusive<u64> = 0..=1_000;
const DEFAULT_REORDER: Duration = Duration::from_millis(50);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_millis(5000);

impl RtpInput {
    pub(crate) fn new(listen: Listen) -> Self {
        Self {
            listen,
            interface: None,
            multicast_source: None,
            payload_types: PayloadTypes::ALL,
            reorder_window: DEFAULT_REORDER,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
        }
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        let group = self.listen.bind.ip();
        match self.multicast_source {
            Some(source) if !group.is_multicast() => Some((
                "source",
                ConfigErrorKind::Conflict(format!("a multicast sender ({source}) needs a multicast group")),
            )),
            Some(source) if source.is_ipv4() != group.is_ipv4() => Some((
                "source",
                ConfigErrorKind::Conflict(format!("{source} and the group {group} are of different families")),
            )),
            _ => None,
        }
    }
}

endpoint_builder! {
    /// Builder of an RTP source. Made by [`Source::rtp`](crate::Source::rtp).
    RtpSourceBuilder: RtpInput
}
listener_setters!(RtpSourceBuilder, listen);

impl RtpSourceBuilder {
    /// Sets the interface that receives a multicast group: a name or an address (by default the system's choice).
    pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
        self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s.interface = Some(v));
        self
    }

    /// Sets the only sender of the group to receive from (source-specific multicast, RFC 4607).
    pub fn multicast_source(mut self, sender: IpAddr) -> Self {
        self.draft.settings.multicast_source = Some(sender);
        self
    }

    /// Sets the payload types that pass (all); packets of others are dropped and counted.
    pub fn payload_types(mut self, types: PayloadTypes) -> Self {
        self.draft.settings.payload_types = types;
        self
    }

    /// Sets the time that a gap in the sequence is held open for packets that arrive out of order (50 ms; 0–1000).
    /// Packets that arrive in order are never delayed; 0 switches reordering off.
    pub fn reorder_window(mut self, window: Duration) -> Self {
        self.draft.try_set("reorder", check_millis(window, REORDER), |s, v| s.reorder_window = v);
        self
    }

    /// Sets the time that the sender may be silent before the source counts as lost (5000 ms; 1000–60 000).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.draft.try_set("idle_timeout", check_millis(timeout, IDLE_TIMEOUT), |s, v| s.idle_timeout = v);
        self
    }
}

/// Treatment of the source's sequence numbers and SSRC by an RTP output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rewrite {
    /// Sends every packet unaltered, as SMPTE ST 2022-7 receivers need.
    #[default]
    Preserve,
    /// Sets a random SSRC, and sequence numbers without the source's gaps and restarts.
    Random,
    /// Sets this SSRC, and sequence numbers without the source's gaps and restarts.
    Ssrc(u32),
}

impl FromStr for Rewrite {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "preserve" => Ok(Rewrite::Preserve),
            "random" => Ok(Rewrite::Random),
            _ => number(s, 0..=u32::MAX, "an SSRC").map(Rewrite::Ssrc),
        }
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rewrite::Preserve => f.write_str("preserve"),
            Rewrite::Random => f.write_str("random"),
            Rewrite::Ssrc(ssrc) => ssrc.fmt(f),
        }
    }
}

/// Settings of an RTP output.
#[derive(Clone, Debug)]
pub(crate) struct RtpOutput {
    pub(crate) destination: HostPort,
    pub(crate) second: Option<HostPort>,
    pub(crate) local: LocalEnd,
    pub(crate) interface: Option<Interface>,
    pub(crate) ttl: u8,
    pub(crate) rewrite: Rewrite,
}

const DEFAULT_TTL: u8 = 64;

impl RtpOutput {
    pub(crate) fn new(destination: HostPort) -> Self {
        Self {
            destination,
            second: None,
            local: LocalEnd::default(),
            interface: None,
            ttl: DEFAULT_TTL,
            rewrite: Rewrite::Preserve,
        }
    }

    pub(crate) fn destinations(&self) -> impl Iterator<Item = &HostPort> {
        std::iter::once(&self.destination).chain(&self.second)
    }
}

endpoint_builder! {
    /// Builder of an RTP output. Made by [`Output::rtp`](crate::Output::rtp).
    RtpOutputBuilder: RtpOutput
}
output_setters!(RtpOutputBuilder);

/// Checks a time to live, or hop limit.
pub(crate) fn check_ttl(hops: u8) -> Result<u8, ConfigErrorKind> {
    if hops == 0 { Err(ConfigErrorKind::out_of_range(0, "1 to 255 hops")) } else { Ok(hops) }
}

local_end_setters!(RtpOutputBuilder, local);

impl RtpOutputBuilder {
    /// Adds a second destination that is sent the same packets, for receivers with SMPTE ST 2022-7.
    pub fn second(mut self, destination: impl AsRef<str>) -> Self {
        self.draft.try_set("second", destination.as_ref().parse(), |s, v| s.second = Some(v));
        self
    }

    /// Sets the interface that a multicast group is sent on: a name or an address (by default the system's choice).
    pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
        self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s.interface = Some(v));
        self
    }

    /// Sets the time to live, or hop limit, of the packets (64; 1–255), unicast and multicast.
    pub fn ttl(mut self, hops: u8) -> Self {
        self.draft.try_set("ttl", check_ttl(hops), |s, v| s.ttl = v);
        self
    }

    /// Sets whether sequence numbers and SSRC are kept (the default) or rewritten.
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.draft.settings.rewrite = rewrite;
        self
    }
}
