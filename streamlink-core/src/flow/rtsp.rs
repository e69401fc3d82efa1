//! RTSP 1.0 (RFC 2326) settings of sources and outputs.

use super::{
    address::{Call, Interface, Listen},
    builder::{
        caller_setters, congestion_setter, endpoint_builder, listener_setters, output_setters,
        player_congestion_setter, player_setters, role,
    },
    name::check_text,
    parsed_url::{ParsedUrl, sendable},
    secret::Credentials,
    silence::{Silence, idle_setters, takeover_setters},
    udp::check_ttl,
};
use crate::{error::ConfigErrorKind, secret::Secret};
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
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "auto" => Ok(Self::Auto),
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            _ => Err(ConfigErrorKind::malformed(s, "auto, udp or tcp")),
        }
    }
}

impl fmt::Display for RtspTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// Settings that RTSP listeners and callers share.
#[derive(Clone, Debug)]
pub(crate) struct RtspOptions {
    pub(crate) tls: bool,
    /// Path without the leading slash. Of a caller it may be empty, and is percent-encoded as it is sent.
    pub(crate) path: String,
    /// Query that a caller sends to the server; settings of ours are not in it.
    pub(crate) query: Option<Secret>,
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
    /// Set for sources only.
    pub(crate) silence: Silence,
}

/// Default time to live, a usual number of routers within one organisation (RFC 2365 leaves it to scopes).
const DEFAULT_TTL: u8 = 16;
/// Range of the first port of a group, which leaves room for the ports of the other tracks.
const MULTICAST_PORTS: std::ops::RangeInclusive<u16> = 1024..=65_500;

/// Checks a multicast group and its port.
pub(crate) fn check_group(text: &str) -> Result<SocketAddr, ConfigErrorKind> {
    match text.parse::<SocketAddr>() {
        Ok(group) if group.ip().is_multicast() && group.port().is_multiple_of(2) => {
            if !MULTICAST_PORTS.contains(&group.port()) {
                return Err(ConfigErrorKind::out_of_range(group.port(), "1024 to 65500"));
            }
            Ok(group)
        }
        _ => Err(ConfigErrorKind::malformed(text, "a multicast group with an even port, such as `239.1.1.1:5000`")),
    }
}

/// Default port of `rtsp`.
pub(crate) const RTSP_PORT: u16 = 554;
/// Default port of `rtsps`.
pub(crate) const RTSPS_PORT: u16 = 322;

/// Checks a path: at most 512 bytes of printable ASCII; the leading slash is optional.
pub(crate) fn check_path(path: &str, min: usize) -> Result<String, ConfigErrorKind> {
    let path = path.trim_start_matches('/');
    if check_text(path, min, 512).is_err() {
        return Err(ConfigErrorKind::malformed("the path", format!("{min} to 512 bytes without control characters")));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#') {
        return Err(ConfigErrorKind::malformed("the path", "a path such as `cam/1`, without a query"));
    }
    Ok(path.to_owned())
}

impl RtspOptions {
    /// Sets the query that is sent to the server to that of a URL. An empty one stays: some cameras want the `?`.
    pub(crate) fn set_query(&mut self, url: &ParsedUrl) -> Result<(), ConfigErrorKind> {
        self.query = url.raw_query().map(|_| "".into());
        self.add_query(&url.raw_query().unwrap_or_default())
    }

    /// Appends to the query that is sent to the server. An empty text changes nothing.
    pub(crate) fn add_query(&mut self, more: &str) -> Result<(), ConfigErrorKind> {
        if more.is_empty() {
            return Ok(());
        }
        let query = match &self.query {
            Some(query) if !query.reveal().is_empty() => format!("{}&{more}", query.reveal()),
            _ => more.to_owned(),
        };
        if query.len() > MAX_QUERY {
            let found = format!("a query of {} bytes", query.len());
            return Err(ConfigErrorKind::out_of_range(found, format!("at most {MAX_QUERY} bytes")));
        }
        self.query = Some(sendable(&query).into());
        Ok(())
    }

    pub(crate) fn new(tls: bool, path: String) -> Self {
        Self {
            tls,
            path,
            query: None,
            transport: RtspTransport::Auto,
            credentials: None,
            gop_cache: true,
            symmetric: false,
            back_channel: false,
            multicast: None,
            interface: None,
            ttl: DEFAULT_TTL,
            silence: Silence::default(),
        }
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

/// Maximum length of the query that a caller sends, in bytes.
const MAX_QUERY: usize = 4096;

impl RtspCaller {
    /// Reads `rtsp://[user:password@]host[:port][/path][?query]`. The query goes to the server.
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigErrorKind> {
        let url = ParsedUrl::parse(url)?;
        let mut caller = Self::from_parts(&url)?;
        caller.rtsp.set_query(&url)?;
        Ok(caller)
    }

    /// Returns the settings of a URL without its query.
    pub(crate) fn from_parts(url: &ParsedUrl) -> Result<Self, ConfigErrorKind> {
        let tls = match url.scheme.as_str() {
            "rtsp" => false,
            "rtsps" => true,
            _ => {
                let expected = "an address such as `rtsp://user:password@example.com/path`";
                return Err(ConfigErrorKind::malformed("the URL", expected));
            }
        };
        let remote = url.remote(Some(if tls { RTSPS_PORT } else { RTSP_PORT }))?;
        let mut rtsp = RtspOptions::new(tls, check_caller_path(&url.raw_path())?);
        rtsp.credentials = url.credentials()?;
        Ok(Self { call: Call::new(remote), rtsp })
    }

    /// Returns the URL that is sent to the server, without user name and password.
    pub(crate) fn request_url(&self) -> String {
        let scheme = if self.rtsp.tls { "rtsps" } else { "rtsp" };
        let query = self.rtsp.query.as_ref().map(|query| format!("?{}", query.reveal())).unwrap_or_default();
        format!("{scheme}://{}/{}{query}", self.call.remote.without_zone(), self.rtsp.path)
    }
}

/// Checks the path of a caller, which is sent as it is.
fn check_caller_path(path: &str) -> Result<String, ConfigErrorKind> {
    let path = path.trim_start_matches('/');
    if path.len() > 512 || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ConfigErrorKind::malformed("the path", "at most 512 bytes without control characters"));
    }
    Ok(path.to_owned())
}

endpoint_builder! {
    /// Builder of an RTSP listener: a source that clients record to, or an output that serves players. Made by
    /// [`Source::rtsp_listener`](crate::Source::rtsp_listener) and
    /// [`Output::rtsp_listener`](crate::Output::rtsp_listener).
    RtspListenerBuilder<R>: RtspListener
}
listener_setters!(<R> RtspListenerBuilder<R>, listen);
player_setters!(RtspListenerBuilder<role::Output>, listen);
player_congestion_setter!(RtspListenerBuilder<role::Output>, listen);
idle_setters!(RtspListenerBuilder<role::Source>, "10 000 ms", rtsp.silence);
takeover_setters!(RtspListenerBuilder<role::Source>, rtsp.silence);
output_setters!(RtspListenerBuilder<role::Output>);

endpoint_builder! {
    /// Builder of an RTSP caller: a source that plays from a server, or an output that records to one. Made by
    /// [`Source::rtsp_caller`](crate::Source::rtsp_caller) and [`Output::rtsp_caller`](crate::Output::rtsp_caller).
    RtspCallerBuilder<R>: RtspCaller
}
caller_setters!(<R> RtspCallerBuilder<R>, call);
idle_setters!(RtspCallerBuilder<role::Source>, "10 000 ms", rtsp.silence);
congestion_setter!(<R> RtspCallerBuilder<R>, call);
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
impl<R> RtspCallerBuilder<R> {
    /// Appends to the query of the URL, which is sent to the server, as in `channel=1&subtype=0`: percent-encoded, and
    /// without the question mark. At most 4096 bytes.
    pub fn query(mut self, query: impl AsRef<str>) -> Self {
        let result = self.draft.settings.rtsp.add_query(query.as_ref());
        self.draft.common.record_error("query", result);
        self
    }
}

impl RtspCallerBuilder<role::Source> {
    /// Sets whether tracks that the server is to receive (`a=sendonly`, the loudspeaker of a camera) are asked for and set
    /// up, too (off). Nothing is sent on them. Otherwise they are left out of the presentation.
    pub fn back_channel(mut self, on: bool) -> Self {
        self.draft.settings.rtsp.back_channel = on;
        self
    }
}

rtsp_setters!(RtspListenerBuilder);
rtsp_setters!(RtspCallerBuilder);
