//! The URL grammar of the Rust API, C and JSON: `scheme://[user:password@][host]:port[/path][?key=value&…]`.

use super::{
    address::{Call, HostPort, Listen, parse_bind, quotable},
    builder::Common,
    output::{Output, OutputKind, TapOutput},
    rtmp::{
        RTMP_PORT, RTMPS_PORT, RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPush, RtmpRelay, check_app,
    },
    rtp::{RtpInput, RtpOutput},
    rtsp::{RTSP_PORT, RTSPS_PORT, RtspCaller, RtspListener, RtspOptions, check_path},
    secret::{Credentials, StreamKey},
    settings::{Entries, Settings},
    shown_url::{SECRET, is_public},
    silence::Silence,
    source::{Source, SourceKind},
    srt::{SrtCaller, SrtListener, SrtOptions},
};
use crate::{error::Problem, media::MediaFamily, secret::Secret};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 8192;

/// A URL, split and percent-decoded.
pub(crate) struct ParsedUrl {
    pub(crate) scheme: String,
    pub(crate) user: Option<(String, Secret)>,
    /// `host:port`, not decoded.
    pub(crate) authority: String,
    /// Without the leading slash.
    pub(crate) path: String,
    pub(crate) query: Pairs,
}

/// Names and values; any value may be a secret.
pub(crate) type Pairs = Vec<(String, Secret)>;

fn decode(text: &str) -> Result<String, Problem> {
    let bytes = percent_decode_str(text).decode_utf8();
    bytes.map(|t| t.into_owned()).map_err(|_| Problem::malformed("the URL", "UTF-8 after percent-decoding"))
}

fn split(url: &str) -> Result<ParsedUrl, Problem> {
    let bad = || Problem::malformed("the URL", "of the form `scheme://[host]:port[/path][?key=value&…]`");
    if url.len() > MAX_URL {
        return Err(Problem::out_of_range("the URL", format!("1 to {MAX_URL} bytes")));
    }
    let (scheme, rest) = url.split_once(':').ok_or_else(bad)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, authority) = match authority.rsplit_once('@') {
        None => (None, authority),
        Some((user, host)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            (Some((decode(user)?, decode(password)?.into())), host)
        }
    };
    let mut parts = ParsedUrl {
        scheme: scheme.to_ascii_lowercase(),
        user,
        authority: authority.to_owned(),
        path: decode(path)?,
        query: Vec::new(),
    };
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parts.query.push((decode(key)?, decode(value)?.into()));
    }
    Ok(parts)
}

impl ParsedUrl {
    /// Removes a key from the query and returns its value; the last of several counts.
    fn take(&mut self, key: &str) -> Option<Secret> {
        let mut found = None;
        self.query.retain_mut(|(k, v)| {
            let hit = k == key;
            if hit {
                found = Some(std::mem::take(v));
            }
            !hit
        });
        found
    }

    /// Returns whether the endpoint listens: as `mode` says, otherwise if the host is missing or a wildcard.
    fn is_listener(&mut self) -> Result<bool, Problem> {
        match self.take("mode").as_ref().map(Secret::reveal) {
            Some("listener") => Ok(true),
            Some("caller") => Ok(false),
            Some(other) => Err(Problem::malformed(other, "listener or caller")),
            None => {
                let host = match self.authority.rsplit_once(':') {
                    Some((host, port)) if !port.ends_with(']') => host,
                    _ => &self.authority,
                };
                Ok(matches!(host, "" | "*" | "0.0.0.0" | "[::]"))
            }
        }
    }

    fn bind(&self, default_port: Option<u16>) -> Result<Listen, Problem> {
        parse_bind(&self.authority, default_port).map(Listen::new)
    }

    fn remote(&self, default_port: Option<u16>) -> Result<HostPort, Problem> {
        HostPort::parse(&self.authority, default_port)
    }

    fn no_path(&self) -> Result<(), Problem> {
        if !self.path.is_empty() {
            return Err(Problem::malformed("the path", format!("allowed: {} has no path", self.scheme)));
        }
        Ok(())
    }

    /// Returns the application and key of a listener's `app/key`. The last part of the path is the key, unless the query
    /// has one.
    fn app_and_key(&self) -> Result<(String, Option<StreamKey>), Problem> {
        let path = self.path.trim_end_matches('/');
        match path.rsplit_once('/') {
            Some((app, key)) if !self.query.iter().any(|(k, _)| k == "key") => {
                Ok((check_app(app)?, Some(StreamKey::new(key)?)))
            }
            _ => Ok((check_app(path)?, None)),
        }
    }

    fn rtmp(&self) -> Result<RtmpAddress, Problem> {
        let tls = self.scheme == "rtmps";
        let port = if tls { RTMPS_PORT } else { RTMP_PORT };
        RtmpAddress::new(tls, self.remote(Some(port))?, self.path.trim_end_matches('/'))
    }

    /// Returns the local address of an RTMP listener, and whether it uses TLS.
    fn rtmp_bind(&self) -> Result<(Listen, bool), Problem> {
        let tls = self.scheme == "rtmps";
        let port = if tls { RTMPS_PORT } else { RTMP_PORT };
        Ok((self.bind(Some(port))?, tls))
    }

    fn rtsp(&self, min_path: usize) -> Result<(RtspOptions, Option<u16>), Problem> {
        let tls = self.scheme == "rtsps";
        let mut rtsp = RtspOptions::new(tls, check_path(&self.path, min_path)?);
        if let Some((user, password)) = &self.user {
            rtsp.credentials = Some(Credentials::new(user, password.reveal())?);
        }
        let port = if tls { RTSPS_PORT } else { RTSP_PORT };
        Ok((rtsp, Some(port)))
    }

    fn unknown_scheme<T>(&self) -> Result<T, Problem> {
        Err(Problem::malformed("the scheme of the URL", "one of rtp, srt, rtmp, rtmps, rtsp, rtsps, app, tap"))
    }
}

fn source_kind(parts: &mut ParsedUrl) -> Result<SourceKind, Problem> {
    match parts.scheme.as_str() {
        "rtp" => {
            parts.take("mode");
            parts.no_path()?;
            Ok(SourceKind::Rtp(RtpInput::new(parts.bind(None)?)))
        }
        "srt" => {
            parts.no_path()?;
            let srt = SrtOptions::default();
            if parts.is_listener()? {
                Ok(SourceKind::SrtListener(SrtListener { listen: parts.bind(None)?, srt }))
            } else {
                Ok(SourceKind::SrtCaller(SrtCaller { call: Call::new(parts.remote(None)?), srt }))
            }
        }
        "rtmp" | "rtmps" => {
            if parts.is_listener()? {
                let (app, key) = parts.app_and_key()?;
                let (listen, tls) = parts.rtmp_bind()?;
                Ok(SourceKind::Rtmp(RtmpPublishServer { listen, app, key, tls, silence: Silence::default() }))
            } else {
                Ok(SourceKind::RtmpPull(RtmpPull::new(parts.rtmp()?)))
            }
        }
        "rtsp" | "rtsps" => {
            if parts.is_listener()? {
                let (rtsp, port) = parts.rtsp(1)?;
                Ok(SourceKind::RtspListener(RtspListener { listen: parts.bind(port)?, rtsp }))
            } else {
                let (rtsp, port) = parts.rtsp(0)?;
                Ok(SourceKind::RtspCaller(RtspCaller { call: Call::new(parts.remote(port)?), rtsp }))
            }
        }
        "app" => {
            let family = parts.authority.parse().map_err(|_| {
                Problem::malformed(quotable(&parts.authority), "one of the families datagrams, rtp, rtmp, rtsp")
            });
            family.map(SourceKind::App)
        }
        _ => parts.unknown_scheme(),
    }
}

fn output_kind(parts: &mut ParsedUrl) -> Result<OutputKind, Problem> {
    match parts.scheme.as_str() {
        "rtp" => {
            parts.take("mode");
            parts.no_path()?;
            Ok(OutputKind::Rtp(RtpOutput::new(parts.remote(None)?)))
        }
        "srt" => {
            parts.no_path()?;
            let srt = SrtOptions::default();
            if parts.is_listener()? {
                Ok(OutputKind::SrtListener(SrtListener { listen: parts.bind(None)?, srt }))
            } else {
                Ok(OutputKind::SrtCaller(SrtCaller { call: Call::new(parts.remote(None)?), srt }))
            }
        }
        "rtmp" | "rtmps" => {
            if parts.is_listener()? {
                let (app, key) = parts.app_and_key()?;
                let (listen, tls) = parts.rtmp_bind()?;
                let mut server = RtmpPlayServer::new(listen, app);
                server.key = key;
                server.tls = tls;
                return Ok(OutputKind::RtmpPlay(server));
            }
            let relay = parts.take("relay").is_some_and(|v| v.reveal() != "false");
            let second = parts.query.iter().any(|(k, _)| k == "second");
            let push = RtmpPush::new(parts.rtmp()?);
            if relay || second {
                Ok(OutputKind::RtmpRelay(RtmpRelay { first: push, second: None }))
            } else {
                Ok(OutputKind::RtmpPush(push))
            }
        }
        "rtsp" | "rtsps" => {
            if parts.is_listener()? {
                let (rtsp, port) = parts.rtsp(1)?;
                Ok(OutputKind::RtspListener(RtspListener { listen: parts.bind(port)?, rtsp }))
            } else {
                let (rtsp, port) = parts.rtsp(0)?;
                Ok(OutputKind::RtspCaller(RtspCaller { call: Call::new(parts.remote(port)?), rtsp }))
            }
        }
        "tap" => Ok(OutputKind::Tap(TapOutput::new())),
        _ => parts.unknown_scheme(),
    }
}

/// Returns the source of a URL, with `more` settings applied after the query. Errors are recorded in it.
pub(crate) fn source(mut common: Common, url: &str, more: Pairs) -> Source {
    let (kind, query) = read(&mut common, url, more, source_kind);
    let mut kind = kind.unwrap_or(SourceKind::App(MediaFamily::Datagrams));
    for (key, value) in &query {
        common.set(&mut kind, key, value.reveal());
    }
    Source { common, kind }
}

/// Returns the output of a URL, with `more` settings applied after the query. Errors are recorded in it.
pub(crate) fn output(mut common: Common, url: &str, more: Pairs) -> Output {
    let (kind, query) = read(&mut common, url, more, output_kind);
    let mut kind = kind.unwrap_or(OutputKind::Tap(TapOutput::new()));
    for (key, value) in &query {
        common.set(&mut kind, key, value.reveal());
    }
    Output { common, kind }
}

/// Replaces names that may be the rest of a secret which contains an `&` that was not percent-encoded, as errors quote
/// unknown names.
fn hide_rests_of_secrets(query: &mut Pairs) {
    let mut after_secret = false;
    for (name, _) in query {
        let is_secret = SECRET.contains(&name.as_str());
        if after_secret && !is_secret && !is_public(name) && name != "description" {
            *name = "… (behind a secret, where `&` is to be written as `%26`)".into();
        } else {
            after_secret = is_secret;
        }
    }
}

/// Returns the kind of endpoint of a URL, and the settings to apply to it; none if the kind is unknown.
fn read<K>(
    common: &mut Common,
    url: &str,
    more: Pairs,
    kind: impl FnOnce(&mut ParsedUrl) -> Result<K, Problem>,
) -> (Option<K>, Pairs) {
    let result = split(url).and_then(|mut parts| {
        hide_rests_of_secrets(&mut parts.query);
        parts.query.extend(more);
        kind(&mut parts).map(|kind| (kind, parts.query))
    });
    match common.record_error("url", result) {
        Some((kind, query)) => (Some(kind), query),
        None => (None, Vec::new()),
    }
}

/// A URL to write: everything before the query, and the settings that differ from their defaults.
#[derive(Default)]
pub(crate) struct UrlParts {
    pub(crate) base: String,
    pub(crate) query: Entries,
}

/// Characters that are percent-encoded in a query: those that would end the value or the URL, and those that no URL may
/// contain.
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');
/// Characters that are percent-encoded in a path or a user name.
const PATH: &AsciiSet = &QUERY.add(b'?').add(b'@').add(b':').add(b'[').add(b']');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

pub(crate) fn write(url: &UrlParts) -> String {
    let mut text = url.base.clone();
    for (i, (key, value)) in url.query.0.iter().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.extend(utf8_percent_encode(value, QUERY));
    }
    text
}

fn rtsp_base(rtsp: &RtspOptions, authority: &str) -> String {
    let scheme = if rtsp.tls { "rtsps" } else { "rtsp" };
    let user = rtsp.credentials.as_ref();
    let user = user.map(|c| format!("{}:{}@", encoded(&c.user), encoded(c.password.reveal()))).unwrap_or_default();
    format!("{scheme}://{user}{authority}/{}", encoded(&rtsp.path))
}

fn rtmp_listener(listen: &Listen, app: &str, key: &Option<StreamKey>, tls: bool) -> String {
    let scheme = if tls { "rtmps" } else { "rtmp" };
    let key = key.as_ref().map(|k| format!("/{}", encoded(k.reveal()))).unwrap_or_default();
    format!("{scheme}://{}/{}{key}", listen.bind, encoded(app))
}

fn rtmp_caller(address: &RtmpAddress) -> String {
    let scheme = if address.tls { "rtmps" } else { "rtmp" };
    format!("{scheme}://{}/{}", address.remote, encoded(&address.app))
}

/// Returns the parts of a URL, with `mode` if the host alone does not imply it.
fn url_parts(base: String, listener: bool, host_is_wildcard: bool, settings: &dyn Settings) -> UrlParts {
    let mut query = Entries::default();
    if listener != host_is_wildcard {
        query.push("mode", if listener { "listener" } else { "caller" });
    }
    settings.list(&mut query);
    UrlParts { base, query }
}

pub(crate) fn source_parts(kind: &SourceKind) -> UrlParts {
    let wild = |l: &Listen| l.bind.ip().is_unspecified();
    let remote_wild = |c: &Call| matches!(c.remote.host(), "0.0.0.0" | "::" | "*");
    match kind {
        SourceKind::Rtp(s) => url_parts(format!("rtp://{}", s.listen.bind), true, true, s),
        SourceKind::SrtListener(s) => url_parts(format!("srt://{}", s.listen.bind), true, wild(&s.listen), s),
        SourceKind::SrtCaller(s) => url_parts(format!("srt://{}", s.call.remote), false, remote_wild(&s.call), s),
        SourceKind::Rtmp(s) => url_parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), true, wild(&s.listen), s),
        SourceKind::RtmpPull(s) => url_parts(rtmp_caller(&s.address), false, remote_wild(&s.call), s),
        SourceKind::RtspListener(s) => {
            url_parts(rtsp_base(&s.rtsp, &s.listen.bind.to_string()), true, wild(&s.listen), s)
        }
        SourceKind::RtspCaller(s) => {
            url_parts(rtsp_base(&s.rtsp, &s.call.remote.to_string()), false, remote_wild(&s.call), s)
        }
        SourceKind::App(family) => {
            UrlParts { base: format!("app://{}", family.to_string().to_ascii_lowercase()), query: Entries::default() }
        }
    }
}

pub(crate) fn output_parts(kind: &OutputKind) -> UrlParts {
    let wild = |l: &Listen| l.bind.ip().is_unspecified();
    let remote_wild = |c: &Call| matches!(c.remote.host(), "0.0.0.0" | "::" | "*");
    match kind {
        OutputKind::Rtp(s) => url_parts(format!("rtp://{}", s.destination), false, false, s),
        OutputKind::SrtListener(s) => url_parts(format!("srt://{}", s.listen.bind), true, wild(&s.listen), s),
        OutputKind::SrtCaller(s) => url_parts(format!("srt://{}", s.call.remote), false, remote_wild(&s.call), s),
        OutputKind::RtmpPlay(s) => url_parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), true, wild(&s.listen), s),
        OutputKind::RtmpPush(s) => url_parts(rtmp_caller(&s.address), false, remote_wild(&s.call), s),
        OutputKind::RtmpRelay(s) => {
            let mut url = url_parts(rtmp_caller(&s.first.address), false, remote_wild(&s.first.call), s);
            if s.second.is_none() {
                url.query.push("relay", true);
            }
            url
        }
        OutputKind::RtspListener(s) => {
            url_parts(rtsp_base(&s.rtsp, &s.listen.bind.to_string()), true, wild(&s.listen), s)
        }
        OutputKind::RtspCaller(s) => {
            url_parts(rtsp_base(&s.rtsp, &s.call.remote.to_string()), false, remote_wild(&s.call), s)
        }
        OutputKind::Tap(_) => UrlParts { base: "tap:".into(), query: Entries::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{InputProtocol, OutputProtocol};

    const SOURCES: &[(&str, InputProtocol)] = &[
        (
            "srt://:9000?mode=listener&latency=120&passphrase=correct%20horse&pbkeylen=32&streamid=cam1",
            InputProtocol::Srt,
        ),
        ("srt://example.com:9000?latency=Intercontinental&tlpktdrop=no", InputProtocol::Srt),
        ("srt://127.0.0.1:9000?mode=listener", InputProtocol::Srt),
        ("rtmp://0.0.0.0:1935/live/KEY", InputProtocol::Rtmp),
        ("rtmps://0.0.0.0:443/live/KEY", InputProtocol::Rtmp),
        ("rtmp://example.com/live?key=KEY", InputProtocol::RtmpPull),
        ("rtmps://example.com/live/deep?key=KEY&reconnect_min=100", InputProtocol::RtmpPull),
        ("rtp://239.1.1.1:5004?iface=eth1", InputProtocol::Rtp),
        ("rtp://:5004?pt=33,96&reorder=0&idle_timeout=1000&allow=10.0.0.0/8;192.0.2.1", InputProtocol::Rtp),
        ("rtp://[ff3e::1]:5004?source=2001:db8::1", InputProtocol::Rtp),
        ("rtsp://user:p%40w@host/path?transport=tcp", InputProtocol::Rtsp),
        ("rtsp://:8554/cam/1", InputProtocol::Rtsp),
        ("rtsp://:8554/cam/1?takeover=always&idle_timeout=60000", InputProtocol::Rtsp),
        ("rtsp://host/cam?idle_timeout=1000", InputProtocol::Rtsp),
        ("rtmp://0.0.0.0:1935/live/KEY?takeover=never&idle_timeout=2000", InputProtocol::Rtmp),
        ("rtmp://example.com/live?key=KEY&idle_timeout=2000", InputProtocol::RtmpPull),
        ("srt://:9000?takeover=idle&idle_timeout=2000&peeridletimeo=1000", InputProtocol::Srt),
        ("app://rtp", InputProtocol::App(MediaFamily::Rtp)),
    ];

    const OUTPUTS: &[(&str, OutputProtocol)] = &[
        ("srt://:9001?mode=listener&max_players=4&allow=10.0.0.0/8", OutputProtocol::Srt),
        ("srt://[2001:db8::1]:7000?rcvlatency=20&peerlatency=400", OutputProtocol::Srt),
        ("rtmp://0.0.0.0:1935/live/KEY?gop_cache=0", OutputProtocol::RtmpPull),
        ("rtmp://example.com/live?key=KEY&chunk_size=40960", OutputProtocol::RtmpPush),
        ("rtmp://a.example/live?key=K&second=rtmp://b.example/live%20K2", OutputProtocol::Rtmp),
        ("rtmp://a.example/live?key=K&relay=true", OutputProtocol::Rtmp),
        ("rtp://192.0.2.1:5004?second=198.51.100.1:5004&ttl=8&ssrc=7", OutputProtocol::Rtp),
        ("rtsp://:8554/cam/1?gop_cache=off", OutputProtocol::Rtsp),
        ("rtsps://u:p@host:1/x", OutputProtocol::Rtsp),
        ("tap:", OutputProtocol::Tap),
    ];

    #[test]
    fn url_round_trips_sources_and_outputs() {
        for (url, protocol) in SOURCES {
            let source = Source::from_url("a", url);
            assert_eq!(source.common.errors, [], "{url}");
            assert_eq!(source.protocol(), *protocol, "{url}");
            let again = Source::from_url("a", &source.to_url());
            assert_eq!(format!("{source:?}"), format!("{again:?}"), "{url}");
            assert_eq!(source.to_url(), again.to_url());
        }
        for (url, protocol) in OUTPUTS {
            let output = Output::from_url("a", url);
            assert_eq!(output.common.errors, [], "{url}");
            assert_eq!(output.protocol(), *protocol, "{url}");
            let again = Output::from_url("a", &output.to_url());
            assert_eq!(format!("{output:?}"), format!("{again:?}"), "{url}");
            assert_eq!(output.to_url(), again.to_url());
        }
    }

    #[test]
    fn url_errors_name_fields_without_secrets() {
        let errors = |url: &str| {
            let errors = Source::from_url("a", url).common.errors;
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let found = errors("srt://:9000?latency=10001&passphrase=short&pbkeylen=20&nonsense=1");
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("latency: 10001 is outside 0 to 10000"), "{found:?}");
        assert!(found[3].starts_with("nonsense: there is no such setting"), "{found:?}");
        assert!(!found.concat().contains("short"));
        for bad in
            ["", "x", "http://a", "srt://", "srt://:x", "rtp://:5004/path", "rtmp://:1935", "app://x", "rtp://%ff"]
        {
            assert_eq!(errors(bad).len(), 1, "{bad}");
        }
        assert_eq!(errors(&format!("srt://:9000?streamid={}", "x".repeat(9000))).len(), 1);
    }
}
