//! Settings of sources that receive datagrams and of outputs that send them, without a connection: the whole of raw
//! MPEG-TS over UDP, and a part of RTP.

use super::{
    address::{HostPort, Interface, Listen, LocalEnd},
    builder::{endpoint_builder, listener_setters, local_end_setters, output_setters},
};
use crate::error::ConfigErrorKind;
use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

/// Settings of a source of datagrams.
#[derive(Clone, Debug)]
pub(crate) struct UdpInput {
    /// Local address; a multicast address is joined. There is no limit of peers, as there are no connections.
    pub(crate) listen: Listen,
    pub(crate) interface: Option<Interface>,
    /// The only sender of the multicast group that is received (source-specific multicast, RFC 4607).
    pub(crate) multicast_source: Option<IpAddr>,
    pub(crate) idle_timeout: Duration,
}

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_millis(5000);

impl UdpInput {
    pub(crate) fn new(listen: Listen) -> Self {
        Self { listen, interface: None, multicast_source: None, idle_timeout: DEFAULT_IDLE_TIMEOUT }
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

    /// Returns the part of a claim that tells endpoints apart that share an address.
    pub(crate) fn claim_key(&self) -> String {
        format!("{:?} {:?}", self.multicast_source, self.interface)
    }
}

/// Defines the setters of sources of datagrams. The path leads from the settings to [`UdpInput`].
macro_rules! udp_input_setters {
    ($builder:ty $(, $path:ident)*) => {
        impl $builder {
            /// Sets the interface that receives a multicast group: a name or an address (by default the system's choice).
            pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
                self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s$(.$path)*.interface = Some(v));
                self
            }

            /// Sets the only sender of the group to receive from (source-specific multicast, RFC 4607).
            pub fn multicast_source(mut self, sender: std::net::IpAddr) -> Self {
                self.draft.settings$(.$path)*.multicast_source = Some(sender);
                self
            }

            /// Sets the time that the sender may be silent before the source counts as lost (5000 ms; 1000–60 000).
            pub fn idle_timeout(mut self, timeout: std::time::Duration) -> Self {
                let timeout = crate::flow::settings::check_millis(timeout, crate::flow::silence::IDLE_TIMEOUT);
                self.draft.try_set("idle_timeout", timeout, |s, v| s$(.$path)*.idle_timeout = v);
                self
            }
        }
    };
}

endpoint_builder! {
    /// Builder of a UDP source. Made by [`Source::udp`](crate::Source::udp).
    UdpSourceBuilder: UdpInput
}
listener_setters!(UdpSourceBuilder, listen);
udp_input_setters!(UdpSourceBuilder);

/// Departure times of the datagrams of an RTP or UDP output. As text: `none` or `pcr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pace {
    /// Sends packets as they come from the source.
    #[default]
    None,
    /// Sends MPEG-TS at the times of its program clock references (ISO/IEC 13818-1 section 2.4.2), with an even rate
    /// between them, about 100 ms later than it came. Media without clock references is sent as it comes.
    Pcr,
}

impl Pace {
    /// All values.
    pub const ALL: &'static [Self] = &[Self::None, Self::Pcr];

    /// Returns the name, as in `pcr`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pcr => "pcr",
        }
    }
}

impl FromStr for Pace {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|pace| pace.name() == s);
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, "none or pcr"))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Settings of an output of datagrams.
#[derive(Clone, Debug)]
pub(crate) struct UdpOutput {
    pub(crate) destination: HostPort,
    pub(crate) second: Option<HostPort>,
    pub(crate) local: LocalEnd,
    pub(crate) interface: Option<Interface>,
    pub(crate) ttl: u8,
    pub(crate) pace: Pace,
}

const DEFAULT_TTL: u8 = 64;

impl UdpOutput {
    pub(crate) fn new(destination: HostPort) -> Self {
        Self {
            destination,
            second: None,
            local: LocalEnd::default(),
            interface: None,
            ttl: DEFAULT_TTL,
            pace: Pace::None,
        }
    }

    pub(crate) fn destinations(&self) -> impl Iterator<Item = &HostPort> {
        std::iter::once(&self.destination).chain(&self.second)
    }
}

/// Checks a time to live, or hop limit.
pub(crate) fn check_ttl(hops: u8) -> Result<u8, ConfigErrorKind> {
    if hops == 0 { Err(ConfigErrorKind::out_of_range(0, "1 to 255 hops")) } else { Ok(hops) }
}

/// Defines the setters of outputs of datagrams. The path leads from the settings to [`UdpOutput`].
macro_rules! udp_output_setters {
    ($builder:ty $(, $path:ident)*) => {
        impl $builder {
            /// Adds a second destination that is sent the same packets.
            pub fn second(mut self, destination: impl AsRef<str>) -> Self {
                self.draft.try_set("second", destination.as_ref().parse(), |s, v| s$(.$path)*.second = Some(v));
                self
            }

            /// Sets the interface that a multicast group is sent on: a name or an address (by default the system's
            /// choice).
            pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
                self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s$(.$path)*.interface = Some(v));
                self
            }

            /// Sets the time to live, or hop limit, of the packets (64; 1–255), unicast and multicast.
            pub fn ttl(mut self, hops: u8) -> Self {
                self.draft.try_set("ttl", crate::flow::udp::check_ttl(hops), |s, v| s$(.$path)*.ttl = v);
                self
            }

            /// Sets the departure times of the packets (`None`).
            pub fn pace(mut self, pace: crate::flow::Pace) -> Self {
                self.draft.settings$(.$path)*.pace = pace;
                self
            }
        }
    };
}

endpoint_builder! {
    /// Builder of a UDP output. Made by [`Output::udp`](crate::Output::udp).
    UdpOutputBuilder: UdpOutput
}
output_setters!(UdpOutputBuilder);
local_end_setters!(UdpOutputBuilder, local);
udp_output_setters!(UdpOutputBuilder);

pub(crate) use {udp_input_setters, udp_output_setters};
