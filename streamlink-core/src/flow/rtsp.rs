//! RTSP 1.0 (RFC 2326) settings of sources and outputs.

use super::{
    address::{Call, HostPort, Interface, Listen},
    builder::{caller_setters, endpoint_builder, listener_setters, output_setters, player_setters, role},
    name::check_text,
    rtp::check_ttl,
    secret::Credentials,
    settings::{Entries, Settings, boolean, number, store},
};
use crate::error::{ConfigError, Problem};
use std::{fmt, net::SocketAddr, str::FromStr};

/// Transport of the media of an RTSP session. As text: `auto`, `udp` or `tcp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RtspTransport {
    /// UDP or TCP: a caller tries UDP, then TCP if no packet arrives in time; a listener offers both.
    #[default]
    Auto,
    /// RTP and RTCP over UDP.
    Udp,
    /// RTP and RTCP interleaved in the RTSP connection (RFC 2326 section 10.12).
    Tcp,
}

impl FromStr for RtspTransport {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        match s {
            "auto" => Ok(RtspTransport::Auto),
            "udp" => Ok(RtspTransport::Udp),
            "tcp" => Ok(RtspTransport::Tcp),
            _ => Err(Problem::malformed(s, "auto, udp or tcp")),
        }
    }
}

impl fmt::Display for RtspTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RtspTransport::Auto => "auto",
            RtspTransport::Udp => "udp",
            RtspTransport::Tcp => "tcp",
        })
    }
}

/// Settings that RTSP listeners and callers share.
#[derive(Clone, Debug)]
pub(crate) struct RtspOptions {
    pub(crate) tls: bool,
    /// Path without the leading slash; may be empty for a caller.
    pub(crate) path: String,
    pub(crate) transport: RtspTransport,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) gop_cache: bool,
    pub(crate) symmetric: bool,
    /// A caller sets up tracks that the server is to receive, too.
    pub(crate) back_channel: bool,
    /// Multicast group that players may ask for, with the port of the first track.
    pub(crate) multicast: Option<SocketAddr>,
    pub(crate) interface: Option<Interface>,
    pub(crate) ttl: u8,
}

/// Default time to live, a usual number of routers within one organisation (RFC 2365 leaves it to scopes).
const DEFAULT_TTL: u8 = 16;
/// Range of the first port of a group, which leaves room for the ports of the other tracks.
const MULTICAST_PORTS: std::ops::RangeInclusive<u16> = 1024..=65_500;

fn check_group(text: &str) -> Result<SocketAddr, Problem> {
    match text.parse::<SocketAddr>() {
        Ok(group) if group.ip().is_multicast() && group.port().is_multiple_of(2) => {
            if !MULTICAST_PORTS.contains(&group.port()) {
                return Err(Problem::out_of_range(group.port(), "1024 to 65500"));
            }
            Ok(group)
        }
        _ => Err(Problem::malformed(text, "a multicast group with an even port, such as `239.1.1.1:5000`")),
    }
}

/// Default port of `rtsp`.
pub(crate) const RTSP_PORT: u16 = 554;
/// Default port of `rtsps`.
pub(crate) const RTSPS_PORT: u16 = 322;

/// Checks a path: at most 512 bytes of printable ASCII; the leading slash is optional.
pub(crate) fn check_path(path: &str, min: usize) -> Result<String, Problem> {
    let path = path.trim_start_matches('/');
    if check_text(path, min, 512).is_err() {
        return Err(Problem::malformed("the path", format!("{min} to 512 bytes without control characters")));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#') {
        return Err(Problem::malformed("the path", "a path such as `cam/1`, without a query"));
    }
    Ok(path.to_owned())
}

impl RtspOptions {
    /// Returns an error if multicast settings are present, which only an output that listens can have.
    pub(crate) fn check_no_group(&self) -> Option<ConfigError> {
        let set = [
            ("multicast", self.multicast.is_some()),
            ("iface", self.interface.is_some()),
            ("ttl", self.ttl != DEFAULT_TTL),
        ];
        let found = set.iter().find(|(_, is_set)| *is_set);
        found.map(|(field, _)| ConfigError::new(*field, Problem::UnknownField))
    }

    pub(crate) fn new(tls: bool, path: String) -> Self {
        Self {
            tls,
            path,
            transport: RtspTransport::Auto,
            credentials: None,
            gop_cache: true,
            symmetric: false,
            back_channel: false,
            multicast: None,
            interface: None,
            ttl: DEFAULT_TTL,
        }
    }
}

impl Settings for RtspOptions {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        match key {
            "transport" => store(&mut self.transport, value.parse()),
            "gop_cache" => store(&mut self.gop_cache, boolean(value)),
            "multicast" => store(&mut self.multicast, check_group(value).map(Some)),
            "iface" => store(&mut self.interface, value.parse().map(Some)),
            "ttl" => store(&mut self.ttl, number(value, 1..=255, "hops")),
            "symmetric" => store(&mut self.symmetric, boolean(value)),
            _ => None,
        }
    }
    fn list(&self, out: &mut Entries) {
        out.push_unless("transport", self.transport, RtspTransport::Auto);
        out.push_unless("gop_cache", self.gop_cache, true);
        out.push_unless("symmetric", self.symmetric, false);
        out.push_some("multicast", self.multicast.as_ref());
        out.push_some("iface", self.interface.as_ref());
        out.push_unless("ttl", self.ttl, DEFAULT_TTL);
    }
}

/// Settings of an RTSP listener: a source that is recorded to, or an output that serves players.
#[derive(Clone, Debug)]
pub(crate) struct RtspListener {
    pub(crate) listen: Listen,
    pub(crate) rtsp: RtspOptions,
}

/// Settings of an RTSP caller: a source that plays from a server, or an output that records to one.
#[derive(Clone, Debug)]
pub(crate) struct RtspCaller {
    pub(crate) call: Call,
    pub(crate) rtsp: RtspOptions,
}

impl RtspCaller {
    /// Parses `rtsp://[user:password@]host[:port]/path`.
    pub(crate) fn parse(url: &str) -> Result<Self, Problem> {
        let bad = || Problem::malformed("the URL", "an address such as `rtsp://user:password@example.com/path`");
        let (tls, rest) = match url.split_once("://") {
            Some(("rtsp", rest)) => (false, rest),
            Some(("rtsps", rest)) => (true, rest),
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, host)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                (Some(Credentials::new(user, password)?), host)
            }
        };
        let remote = HostPort::parse(host, Some(if tls { RTSPS_PORT } else { RTSP_PORT }))?;
        let mut rtsp = RtspOptions::new(tls, check_path(path, 0)?);
        rtsp.credentials = credentials;
        Ok(Self { call: Call::new(remote), rtsp })
    }
}

macro_rules! rtsp_settings {
    ($settings:ident, $base:ident) => {
        impl Settings for $settings {
            fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
                self.rtsp.set(key, value).or_else(|| self.$base.set(key, value))
            }
            fn list(&self, out: &mut Entries) {
                self.rtsp.list(out);
                self.$base.list(out);
            }
        }
    };
}
rtsp_settings!(RtspListener, listen);
rtsp_settings!(RtspCaller, call);

endpoint_builder! {
    /// Builder of an RTSP listener: a source that clients record to, or an output that serves players. Made by
    /// [`Source::rtsp_listener`](crate::Source::rtsp_listener) and
    /// [`Output::rtsp_listener`](crate::Output::rtsp_listener).
    RtspListenerBuilder<R>: RtspListener
}
listener_setters!(<R> RtspListenerBuilder<R>, listen);
player_setters!(RtspListenerBuilder<role::Output>, listen);
output_setters!(RtspListenerBuilder<role::Output>);

endpoint_builder! {
    /// Builder of an RTSP caller: a source that plays from a server, or an output that records to one. Made by
    /// [`Source::rtsp_caller`](crate::Source::rtsp_caller) and [`Output::rtsp_caller`](crate::Output::rtsp_caller).
    RtspCallerBuilder<R>: RtspCaller
}
caller_setters!(<R> RtspCallerBuilder<R>, call);
output_setters!(RtspCallerBuilder<role::Output>);

impl RtspListenerBuilder<role::Output> {
    /// Sets a multicast group that players may ask for, such as `239.1.1.1:5000` (none). Media is sent to it once for all
    /// of them, while there is at least one. The first track uses this port, which must be even, and the next; the second
    /// track the two after them, and so on.
    pub fn multicast(mut self, group: impl AsRef<str>) -> Self {
        self.draft.try_set("multicast", check_group(group.as_ref()), |s, v| s.rtsp.multicast = Some(v));
        self
    }

    /// Sets the interface that the group is sent on: a name or an address (by default the system's choice).
    pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
        self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s.rtsp.interface = Some(v));
        self
    }

    /// Sets the time to live, or hop limit, of packets to the group (16; 1–255).
    pub fn ttl(mut self, hops: u8) -> Self {
        self.draft.try_set("ttl", check_ttl(hops), |s, v| s.rtsp.ttl = v);
        self
    }
}

/// Defines the setters of RTSP listeners and callers.
macro_rules! rtsp_setters {
    ($builder:ident) => {
        impl<R> $builder<R> {
            /// Sets the transport of the media (`Auto`).
            pub fn transport(mut self, transport: RtspTransport) -> Self {
                self.draft.settings.rtsp.transport = transport;
                self
            }

            /// Sets the credentials that a listener requires of its peers, or that a caller presents (none).
            pub fn credentials(mut self, credentials: Credentials) -> Self {
                self.draft.settings.rtsp.credentials = Some(credentials);
                self
            }

            /// Sets whether the peer's UDP ports are those that its first datagrams come from, instead of those that it
            /// announced (off). Peers behind network address translation need it (symmetric RTP, RFC 4961).
            /// Only the address of the RTSP connection is accepted.
            pub fn symmetric(mut self, on: bool) -> Self {
                self.draft.settings.rtsp.symmetric = on;
                self
            }

            /// Sets whether a late player starts at the last key frame (on).
            pub fn gop_cache(mut self, on: bool) -> Self {
                self.draft.settings.rtsp.gop_cache = on;
                self
            }
        }
    };
}
rtsp_setters!(RtspListenerBuilder);
rtsp_setters!(RtspCallerBuilder);
