//! RTMP settings of sources and outputs, Enhanced RTMP included.

use super::{
    address::{Call, HostPort, Listen},
    builder::{
        caller_setters, congestion_setter, endpoint_builder, listener_setters, output_setters,
        player_congestion_setter, player_setters,
    },
    parsed_url::{ParsedUrl, sendable},
    secret::{Credentials, StreamKey},
    settings::check_millis,
    shown_url::shown_url,
    silence::{Silence, idle_setters, takeover_setters},
    written_url::user_part,
};
use crate::error::ConfigErrorKind;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Address of an RTMP application, `rtmp://[user:password@]host[:port]/app` or `rtmps://…`, without the stream key.
/// `Display` writes it without user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RtmpAddress {
    pub(crate) tls: bool,
    pub(crate) remote: HostPort,
    pub(crate) app: String,
    /// User name and password for servers that ask for them.
    pub(crate) credentials: Option<Credentials>,
}

/// Default port of `rtmp`.
pub(crate) const RTMP_PORT: u16 = 1935;
/// Default port of `rtmps`.
pub(crate) const RTMPS_PORT: u16 = 443;

/// Checks an application name: 1–256 bytes of printable ASCII, with `/` only between other characters.
pub(crate) fn check_app(app: &str) -> Result<String, ConfigErrorKind> {
    if !(1..=256).contains(&app.len()) {
        return Err(ConfigErrorKind::out_of_range(
            format!("an application name of {} bytes", app.len()),
            "1 to 256 bytes",
        ));
    }
    if !app.bytes().all(|b| b.is_ascii_graphic()) || app.starts_with('/') || app.ends_with('/') {
        let expected = "a name such as `live`, printable, without `/` at its ends";
        return Err(ConfigErrorKind::malformed("the application name", expected));
    }
    Ok(app.to_owned())
}

impl RtmpAddress {
    pub(crate) fn new(tls: bool, remote: HostPort, app: &str) -> Result<Self, ConfigErrorKind> {
        Ok(Self { tls, remote, app: check_app(app)?, credentials: None })
    }

    /// Returns the address of an application at the host of a URL.
    pub(crate) fn from_parts(url: &ParsedUrl, app: &str) -> Result<Self, ConfigErrorKind> {
        let (tls, port) = match url.scheme.as_str() {
            "rtmp" => (false, RTMP_PORT),
            "rtmps" => (true, RTMPS_PORT),
            _ => return Err(ConfigErrorKind::malformed("the URL", "an address such as `rtmp://example.com/live`")),
        };
        let address = Self::new(tls, url.remote(Some(port))?, app)?;
        Ok(Self { credentials: url.credentials()?, ..address })
    }

    pub(crate) fn placeholder() -> Self {
        Self { tls: false, remote: HostPort::placeholder(), app: "invalid".into(), credentials: None }
    }
}

impl std::str::FromStr for RtmpAddress {
    type Err = ConfigErrorKind;
    /// Reads the address of an application. Everything behind the host is its name, with a query if there is one, as
    /// `rtmp://example.com/live?vhost=studio`.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let url = ParsedUrl::parse(s)?;
        let path = url.raw_path();
        let app = match url.raw_query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        Self::from_parts(&url, app.trim_end_matches('/'))
    }
}

// The application may hold a token, or a key that was put there.
impl fmt::Debug for RtmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RtmpAddress({})", shown_url(&self.to_string()))
    }
}

impl fmt::Display for RtmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", if self.tls { "rtmps" } else { "rtmp" }, self.remote.without_zone(), self.app)
    }
}

/// Settings of an RTMP source that publishers push to.
#[derive(Clone, Debug)]
pub(crate) struct RtmpPublishServer {
    pub(crate) listen: Listen,
    pub(crate) app: String,
    /// `None` until `build()`, which generates one.
    pub(crate) key: Option<StreamKey>,
    pub(crate) tls: bool,
    pub(crate) silence: Silence,
    /// Set until `build()`, which adds the backup with the second input address.
    pub(crate) failover: bool,
    /// Number that sources have in common which share one port that the system picks; see [`share_picked_ports`].
    pub(crate) port_group: Option<u64>,
}

/// Settings of an RTMP_PULL source, which plays from a server.
#[derive(Clone, Debug)]
pub(crate) struct RtmpPull {
    pub(crate) call: Call,
    pub(crate) address: RtmpAddress,
    pub(crate) key: Option<StreamKey>,
    pub(crate) silence: Silence,
}

/// Settings of an RTMP_PUSH output.
#[derive(Clone, Debug)]
pub(crate) struct RtmpPush {
    pub(crate) call: Call,
    pub(crate) address: RtmpAddress,
    pub(crate) key: Option<StreamKey>,
    pub(crate) chunk_size: u32,
}

/// Settings of an RTMP output, the relay to one or two destinations that are fed at the same time.
#[derive(Clone, Debug)]
pub(crate) struct RtmpRelay {
    pub(crate) first: RtmpPush,
    pub(crate) second: Option<(RtmpAddress, StreamKey)>,
}

/// Settings of an RTMP_PULL output, which serves players.
#[derive(Clone, Debug)]
pub(crate) struct RtmpPlayServer {
    pub(crate) listen: Listen,
    pub(crate) app: String,
    pub(crate) key: Option<StreamKey>,
    pub(crate) gop_cache: u32,
    pub(crate) coalesce: Duration,
    pub(crate) slow_timeout: Duration,
    pub(crate) tls: bool,
}

const CHUNK_SIZE: std::ops::RangeInclusive<u32> = 4096..=40_960;
const DEFAULT_CHUNK_SIZE: u32 = 4096;
pub(crate) const GOP_CACHE: std::ops::RangeInclusive<u32> = 0..=256 * 1024 * 1024;
pub(crate) const DEFAULT_GOP_CACHE: u32 = 16 * 1024 * 1024;
/// In milliseconds.
pub(crate) const COALESCE: std::ops::RangeInclusive<u64> = 0..=1000;
const DEFAULT_COALESCE: Duration = Duration::ZERO;
/// In milliseconds.
pub(crate) const SLOW_TIMEOUT: std::ops::RangeInclusive<u64> = 1_000..=300_000;
const DEFAULT_SLOW_TIMEOUT: Duration = Duration::from_secs(10);

impl RtmpPublishServer {
    pub(crate) fn new(listen: Listen, app: String) -> Self {
        let silence = Silence::default();
        Self { listen, app, key: None, tls: false, silence, failover: false, port_group: None }
    }

    /// Divides a source with failover into two, which share a port and differ in their keys. Returns the settings of the
    /// second, or `None` if there is no failover.
    pub(crate) fn divide(&mut self) -> Option<Self> {
        std::mem::take(&mut self.failover).then(|| Self { key: None, ..self.clone() })
    }
}

/// Lets the sources of a flow that ask for a port of the system's choice at one address share it, as those do that ask for
/// the same port. Sources with the same application and key get ports of their own.
pub(crate) fn share_picked_ports<'a>(sources: impl Iterator<Item = &'a mut RtmpPublishServer>) {
    static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);
    let mut groups = HashMap::new();
    for source in sources.filter(|source| source.listen.bind.port() == 0) {
        let new_group = || (NEXT_GROUP.fetch_add(1, Ordering::Relaxed), HashSet::new());
        let (group, streams) = groups.entry((source.listen.bind, source.tls)).or_insert_with(new_group);
        // A key that is generated is that of no other source.
        let is_new = source.key.clone().is_none_or(|key| streams.insert((source.app.clone(), key)));
        source.port_group = is_new.then_some(*group);
    }
}

impl RtmpPull {
    pub(crate) fn new(address: RtmpAddress) -> Self {
        Self { call: Call::new(address.remote.clone()), address, key: None, silence: Silence::default() }
    }
}

impl RtmpPush {
    pub(crate) fn new(address: RtmpAddress) -> Self {
        Self { call: Call::new(address.remote.clone()), address, key: None, chunk_size: DEFAULT_CHUNK_SIZE }
    }
}

impl RtmpPlayServer {
    pub(crate) fn new(listen: Listen, app: String) -> Self {
        Self {
            listen,
            app,
            key: None,
            gop_cache: DEFAULT_GOP_CACHE,
            coalesce: DEFAULT_COALESCE,
            slow_timeout: DEFAULT_SLOW_TIMEOUT,
            tls: false,
        }
    }
}

/// Appends a query to the key of a caller: `KEY` becomes `KEY?token=…`, as encoders send it.
pub(crate) fn add_query(slot: &mut Option<StreamKey>, query: &str) -> Result<(), ConfigErrorKind> {
    if query.is_empty() {
        return Ok(());
    }
    let Some(key) = slot else {
        return Err(ConfigErrorKind::Conflict("a query is sent behind the stream key, and there is none yet".into()));
    };
    let separator = if key.reveal().contains('?') { '&' } else { '?' };
    *key = StreamKey::new(format!("{}{separator}{}", key.reveal(), sendable(query)))?;
    Ok(())
}

/// Returns a second destination as text: its address, a space, and the key.
pub(crate) fn second_as_text((address, key): &(RtmpAddress, StreamKey)) -> String {
    let scheme = if address.tls { "rtmps" } else { "rtmp" };
    let user = user_part(address.credentials.as_ref());
    format!("{scheme}://{user}{}/{} {}", address.remote, address.app, key.reveal())
}

/// Reads a second destination: its address, a space, and the key.
pub(crate) fn parse_second(text: &str) -> Result<(RtmpAddress, StreamKey), ConfigErrorKind> {
    let bad = || ConfigErrorKind::malformed("the second destination", "an address, a space and a stream key");
    let (address, key) = text.split_once(' ').ok_or_else(bad)?;
    Ok((address.parse()?, StreamKey::new(key)?))
}

endpoint_builder! {
    /// Builder of an RTMP source that publishers push to. Made by [`Source::rtmp`](crate::Source::rtmp).
    RtmpSourceBuilder: RtmpPublishServer
}
listener_setters!(RtmpSourceBuilder, listen);
idle_setters!(RtmpSourceBuilder, "10 000 ms", silence);
takeover_setters!(RtmpSourceBuilder, silence);

endpoint_builder! {
    /// Builder of an RTMP_PULL source, which plays from a server. Made by
    /// [`Source::rtmp_pull`](crate::Source::rtmp_pull).
    RtmpPullSourceBuilder: RtmpPull
}
caller_setters!(RtmpPullSourceBuilder, call);
idle_setters!(RtmpPullSourceBuilder, "10 000 ms", silence);
congestion_setter!(RtmpPullSourceBuilder, call);

endpoint_builder! {
    /// Builder of an RTMP_PUSH output, which publishes to one server. Made by
    /// [`Output::rtmp_push`](crate::Output::rtmp_push).
    RtmpPushBuilder: RtmpPush
}
caller_setters!(RtmpPushBuilder, call);
congestion_setter!(RtmpPushBuilder, call);
output_setters!(RtmpPushBuilder);

endpoint_builder! {
    /// Builder of an RTMP output, the redundant relay to one or two destinations. Made by
    /// [`Output::rtmp`](crate::Output::rtmp).
    RtmpRelayBuilder: RtmpRelay
}
caller_setters!(RtmpRelayBuilder, first.call);
congestion_setter!(RtmpRelayBuilder, first.call);
output_setters!(RtmpRelayBuilder);

endpoint_builder! {
    /// Builder of an RTMP_PULL output, which serves players. Made by [`Output::rtmp_pull`](crate::Output::rtmp_pull).
    RtmpPullOutputBuilder: RtmpPlayServer
}
listener_setters!(RtmpPullOutputBuilder, listen);
player_setters!(RtmpPullOutputBuilder, listen);
player_congestion_setter!(RtmpPullOutputBuilder, listen);
output_setters!(RtmpPullOutputBuilder);

/// Defines the setters of RTMP callers.
macro_rules! rtmp_caller_setters {
    ($builder:ident, $($address:ident).+) => {
        impl $builder {
            /// Sets the user name and password for servers that ask for them, as Adobe's and Limelight's methods do
            /// (none). They may stand in the address as well: `rtmp://user:password@host/app`.
            pub fn credentials(mut self, credentials: Credentials) -> Self {
                self.draft.settings.$($address).+.credentials = Some(credentials);
                self
            }
        }
    };
}
rtmp_caller_setters!(RtmpPullSourceBuilder, address);
rtmp_caller_setters!(RtmpPushBuilder, address);
rtmp_caller_setters!(RtmpRelayBuilder, first.address);

/// Defines the setters of both kinds of RTMP listeners.
macro_rules! rtmp_listener_setters {
    ($builder:ident) => {
        impl $builder {
            /// Uses RTMPS, that is TLS with every peer. The engine must have a certificate
            /// ([`EngineBuilder::tls_identity`](crate::EngineBuilder::tls_identity)).
            pub fn tls(mut self) -> Self {
                self.draft.settings.tls = true;
                self
            }

            /// Sets the stream key; a random one of 160 bits is generated when none is set.
            pub fn key(mut self, key: StreamKey) -> Self {
                self.draft.settings.key = Some(key);
                self
            }
        }
    };
}
rtmp_listener_setters!(RtmpSourceBuilder);
rtmp_listener_setters!(RtmpPullOutputBuilder);

impl RtmpSourceBuilder {
    /// Sets whether the source has two input addresses instead of one (false): `build()` adds a backup that listens on
    /// the same port, with the same settings and a generated stream key of its own. It is the last source of the flow,
    /// and has the name of this one with `-backup` behind it.
    ///
    /// The stream that arrives first feeds the flow; see [`Failover`](crate::Failover) for the change between them.
    ///
    /// ```
    /// use streamlink_core::{Bitrate, Flow, Source};
    ///
    /// let source = Source::rtmp("venue", "0.0.0.0:1935", "live").failover(true);
    /// let flow = Flow::builder("match-day", Bitrate::mbps(20)).source(source).build()?;
    /// assert_eq!(flow.sources()[1].name(), "venue-backup");
    /// # Ok::<(), streamlink_core::ConfigErrors>(())
    /// ```
    pub fn failover(mut self, enabled: bool) -> Self {
        self.draft.settings.failover = enabled;
        self
    }
}

fn check_chunk_size(bytes: u32) -> Result<u32, ConfigErrorKind> {
    if CHUNK_SIZE.contains(&bytes) {
        Ok(bytes)
    } else {
        Err(ConfigErrorKind::out_of_range(bytes, "4096 to 40960 bytes"))
    }
}

fn check_gop_cache(bytes: u32) -> Result<u32, ConfigErrorKind> {
    if GOP_CACHE.contains(&bytes) {
        Ok(bytes)
    } else {
        Err(ConfigErrorKind::out_of_range(bytes, "0 to 268435456 bytes"))
    }
}

/// Defines the setter of RTMP callers for the query behind the key.
macro_rules! query_setter {
    ($builder:ident, $($path:ident).+) => {
        impl $builder {
            /// Appends a query to the stream key, as in `token=…`: percent-encoded, and without the question mark.
            pub fn query(mut self, query: impl AsRef<str>) -> Self {
                let result = add_query(&mut self.draft.settings.$($path).+, query.as_ref());
                self.draft.common.record_error("query", result);
                self
            }
        }
    };
}
query_setter!(RtmpPullSourceBuilder, key);
query_setter!(RtmpPushBuilder, key);
query_setter!(RtmpRelayBuilder, first.key);

impl RtmpPushBuilder {
    /// Sets the size of the chunks that are sent (4096 bytes; 4096–40 960).
    pub fn chunk_size(mut self, bytes: u32) -> Self {
        self.draft.try_set("chunk_size", check_chunk_size(bytes), |s, v| s.chunk_size = v);
        self
    }
}

impl RtmpRelayBuilder {
    /// Adds a second destination that receives the same media at the same time.
    pub fn second(mut self, address: impl AsRef<str>, key: StreamKey) -> Self {
        self.draft.try_set("second", address.as_ref().parse(), |s, address| s.second = Some((address, key)));
        self
    }

    /// Sets the size of the chunks that are sent (4096 bytes; 4096–40 960).
    pub fn chunk_size(mut self, bytes: u32) -> Self {
        self.draft.try_set("chunk_size", check_chunk_size(bytes), |s, v| s.first.chunk_size = v);
        self
    }
}

impl RtmpPullOutputBuilder {
    /// Sets the maximum size of the last group of pictures, which is kept so that late players start with a key frame
    /// (16 MiB; 0–256 MiB; 0: off).
    pub fn gop_cache(mut self, bytes: u32) -> Self {
        self.draft.try_set("gop_cache", check_gop_cache(bytes), |s, v| s.gop_cache = v);
        self
    }

    /// Sets the time that messages may wait for more, so that they are written together (0; 0–1000 ms).
    ///
    /// Writing a third of a second at once costs a fraction of writing each message by itself, and delays the
    /// picture by that time. 0 passes each message on as it arrives.
    pub fn coalesce(mut self, window: Duration) -> Self {
        self.draft.try_set("coalesce", check_millis(window, COALESCE), |s, v| s.coalesce = v);
        self
    }

    /// Sets the time that a player may lag behind before it is disconnected (10 s; 1–300). Until then it skips to key
    /// frames.
    pub fn slow_timeout(mut self, timeout: Duration) -> Self {
        self.draft.try_set("slow_timeout", check_millis(timeout, SLOW_TIMEOUT), |s, v| s.slow_timeout = v);
        self
    }
}
