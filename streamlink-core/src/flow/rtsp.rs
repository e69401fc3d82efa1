//! RTSP 1.0 (RFC 2326): the settings of sources and outputs.

use super::{
    address::{Call, HostPort, Listen},
    endpoint::{Calling, EndpointBuilder, Listening},
    name::check_text,
    secret::Credentials,
    settings::{Entries, Settings, boolean, store},
};
use crate::error::Problem;
use std::{fmt, str::FromStr};

/// How the media of an RTSP session travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtspTransport {
    /// A caller tries UDP, then TCP when no packet comes in time; a listener offers both.
    #[default]
    Auto,
    /// RTP and RTCP over UDP.
    Udp,
    /// Interleaved in the RTSP connection (RFC 2326 section 10.12).
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

/// What listener and caller share.
#[derive(Clone, Debug)]
pub(crate) struct RtspOptions {
    pub(crate) tls: bool,
    /// Without the leading slash; may be empty for a caller.
    pub(crate) path: String,
    pub(crate) transport: RtspTransport,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) gop_cache: bool,
}

/// The port of `rtsp`.
pub(crate) const RTSP_PORT: u16 = 554;
/// The port of `rtsps`.
pub(crate) const RTSPS_PORT: u16 = 322;

/// A path: at most 512 bytes of printable ASCII; the leading slash is optional.
pub(crate) fn check_path(path: &str, min: usize) -> Result<String, Problem> {
    let path = path.trim_start_matches('/');
    check_text(path, min, 512)?;
    match path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#') {
        true => Ok(path.to_owned()),
        false => Err(Problem::malformed(path, "a path such as `cam/1`")),
    }
}

impl RtspOptions {
    pub(crate) fn new(tls: bool, path: String) -> Self {
        Self { tls, path, transport: RtspTransport::Auto, credentials: None, gop_cache: true }
    }
}

impl Settings for RtspOptions {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        match key {
            "transport" => store(&mut self.transport, value.parse()),
            "gop_cache" => store(&mut self.gop_cache, boolean(value)),
            _ => None,
        }
    }
    fn list(&self, out: &mut Entries) {
        out.push_unless("transport", self.transport, RtspTransport::Auto);
        out.push_unless("gop_cache", self.gop_cache, true);
    }
}

/// The settings of an RTSP listener: a source that is recorded to, or an output that serves players.
#[derive(Clone, Debug)]
pub struct RtspListener {
    pub(crate) listen: Listen,
    pub(crate) rtsp: RtspOptions,
}

/// The settings of an RTSP caller: a source that plays from a server, or an output that records to one.
#[derive(Clone, Debug)]
pub struct RtspCaller {
    pub(crate) call: Call,
    pub(crate) rtsp: RtspOptions,
}

impl RtspCaller {
    /// Reads `rtsp://[user:password@]host[:port]/path`.
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

/// Settings of an RTSP endpoint. Sealed.
pub trait Rtsp {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn rtsp_mut(&mut self) -> &mut RtspOptions;
}

macro_rules! rtsp_endpoint {
    ($settings:ident, $base:ident) => {
        impl Rtsp for $settings {
            #[allow(private_interfaces)]
            fn rtsp_mut(&mut self) -> &mut RtspOptions {
                &mut self.rtsp
            }
        }
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
rtsp_endpoint!(RtspListener, listen);
rtsp_endpoint!(RtspCaller, call);

impl Listening for RtspListener {
    #[allow(private_interfaces)]
    fn listen_mut(&mut self) -> &mut Listen {
        &mut self.listen
    }
}

impl Calling for RtspCaller {
    #[allow(private_interfaces)]
    fn call_mut(&mut self) -> &mut Call {
        &mut self.call
    }
}

impl<R, S: Rtsp> EndpointBuilder<R, S> {
    /// How the media travels (`Auto`).
    pub fn transport(self, transport: RtspTransport) -> Self {
        self.with(|s| s.rtsp_mut().transport = transport)
    }

    /// What a peer must present (listener), or what we present (caller); nothing by default.
    pub fn credentials(self, credentials: Credentials) -> Self {
        self.with(|s| s.rtsp_mut().credentials = Some(credentials))
    }

    /// Whether a late player starts at the last key frame (it does).
    pub fn gop_cache(self, on: bool) -> Self {
        self.with(|s| s.rtsp_mut().gop_cache = on)
    }
}
