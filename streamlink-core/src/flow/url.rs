//! The URL grammar of the Rust API, C and JSON: `scheme://[user:password@][host]:port[/path][?key=value&…]`.

use super::{
    address::{Call, Listen, quotable},
    builder::Common,
    output::{Output, OutputKind, TapOutput},
    parsed_url::{Pair, ParsedUrl},
    rtmp::{
        RTMP_PORT, RTMPS_PORT, RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPush, RtmpRelay, check_app,
    },
    rtp::{RtpInput, RtpOutput},
    rtsp::{RTSP_PORT, RTSPS_PORT, RtspCaller, RtspListener, RtspOptions, check_path},
    secret::StreamKey,
    settings::{Entries, Settings, boolean},
    shown_url::{SECRET, is_public},
    silence::Silence,
    source::{Source, SourceKind},
    srt::{SrtCaller, SrtListener, SrtOptions},
};
use crate::{error::Problem, media::MediaFamily, secret::Secret};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::cell::RefCell;

/// Names and values; any value may be a secret.
pub(crate) type Pairs = Vec<(String, Secret)>;

/// Returns whether an endpoint listens: as `mode` says, otherwise if the host is missing or a wildcard.
fn is_listener(url: &mut ParsedUrl) -> Result<bool, Problem> {
    match url.take("mode")?.as_ref().map(Secret::reveal) {
        Some("listener") => Ok(true),
        Some("caller") => Ok(false),
        Some(other) => Err(Problem::malformed(other, "listener or caller")),
        None => Ok(url.host_is_wildcard()),
    }
}

/// Returns the application and key of a listener's `app/key`. The last part of the path is the key, unless the query has
/// one.
fn app_and_key(url: &ParsedUrl) -> Result<(String, Option<StreamKey>), Problem> {
    let path = url.path()?;
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((app, key)) if !url.has("key") => Ok((check_app(app)?, Some(StreamKey::new(key)?))),
        _ => Ok((check_app(path)?, None)),
    }
}

/// Returns the address of an RTMP caller and its key. The last part of the path is the key, unless `key` is set
/// elsewhere; it is sent as it was written, with the part of the query that holds no setting of ours (`KEY?token=…`).
///
/// Without a key in the path, a query with a slash belongs to the application, up to its last slash:
/// `rtmp://host/live?vhost=studio/KEY`.
fn rtmp_caller_parts(url: &ParsedUrl, has_key: bool) -> Result<(RtmpAddress, Option<StreamKey>), Problem> {
    let path = url.raw_path();
    let path = path.trim_end_matches('/');
    let query = url.raw_query();
    let decoded = |app: &str| percent_decode_str(app).decode_utf8_lossy().into_owned();
    if has_key {
        return Ok((RtmpAddress::from_parts(url, &decoded(path))?, None));
    }
    let (app, key) = match (path.rsplit_once('/'), query.as_deref().and_then(|query| query.rsplit_once('/'))) {
        (Some((app, key)), _) => {
            let query = query.filter(|query| !query.is_empty()).map(|query| format!("?{query}")).unwrap_or_default();
            (decoded(app), format!("{key}{query}"))
        }
        (None, Some((more, key))) => (format!("{}?{more}", decoded(path)), key.to_owned()),
        (None, None) => return Ok((RtmpAddress::from_parts(url, &decoded(path))?, None)),
    };
    Ok((RtmpAddress::from_parts(url, &app)?, Some(StreamKey::new(key)?)))
}

/// Returns the local address of an RTMP listener, and whether it uses TLS.
fn rtmp_bind(url: &ParsedUrl) -> Result<(Listen, bool), Problem> {
    let tls = url.scheme == "rtmps";
    let port = if tls { RTMPS_PORT } else { RTMP_PORT };
    Ok((url.bind(Some(port))?, tls))
}

fn rtsp_listener(url: &ParsedUrl) -> Result<RtspListener, Problem> {
    let tls = url.scheme == "rtsps";
    let mut rtsp = RtspOptions::new(tls, check_path(&url.path()?, 1)?);
    rtsp.credentials = url.credentials()?;
    Ok(RtspListener { listen: url.bind(Some(if tls { RTSPS_PORT } else { RTSP_PORT }))?, rtsp })
}

fn unknown_scheme<T>() -> Result<T, Problem> {
    Err(Problem::malformed("the scheme of the URL", "one of rtp, srt, rtmp, rtmps, rtsp, rtsps, app, tap"))
}

/// An endpoint as its URL names it, before its settings are applied.
struct Read<K> {
    kind: K,
    /// Settings of ours in the query.
    settings: Vec<Pair>,
    /// Query for the server that is behind the stream key, once that is set.
    query: Option<Secret>,
}

impl<K> Read<K> {
    /// Returns an endpoint whose query holds settings of ours only.
    fn new(kind: K, url: &mut ParsedUrl) -> Self {
        Self { kind, settings: url.take_if(|_| true), query: None }
    }

    fn map<T>(self, kind: impl FnOnce(K) -> T) -> Read<T> {
        Read { kind: kind(self.kind), settings: self.settings, query: self.query }
    }
}

/// Settings that every caller has beside those of its protocol.
const OF_CALLERS: &[&str] = &["description", "query", "region", "relay"];

/// Removes the settings of ours from the query of a caller's URL. Everything else is the server's.
fn take_settings(url: &mut ParsedUrl, settings: impl Settings) -> Vec<Pair> {
    let settings = RefCell::new(settings);
    url.take_if(|pair| {
        let name = pair.name();
        OF_CALLERS.contains(&&*name) || settings.borrow_mut().set(&name, "").is_some()
    })
}

fn read_rtsp_caller(url: &mut ParsedUrl) -> Result<Read<RtspCaller>, Problem> {
    let mut caller = RtspCaller::from_parts(url)?;
    let settings = take_settings(url, caller.clone());
    caller.rtsp.set_query(url)?;
    Ok(Read { kind: caller, settings, query: None })
}

/// Reads an RTMP caller; `probe` has its settings.
fn read_rtmp_caller<T: Settings>(
    url: &mut ParsedUrl,
    more: &Pairs,
    probe: T,
    make: impl FnOnce(RtmpAddress, Option<StreamKey>) -> T,
) -> Result<Read<T>, Problem> {
    let settings = take_settings(url, probe);
    let has_key = settings.iter().any(|pair| pair.name() == "key") || more.iter().any(|(name, _)| name == "key");
    let (address, key) = rtmp_caller_parts(url, has_key)?;
    let query = if key.is_none() { url.raw_query().map(Secret::from) } else { None };
    Ok(Read { kind: make(address, key), settings, query })
}

fn source_kind(url: &mut ParsedUrl, more: &Pairs) -> Result<Read<SourceKind>, Problem> {
    let kind = match url.scheme.as_str() {
        "rtp" => {
            url.take("mode")?;
            url.no_user()?;
            url.no_path()?;
            SourceKind::Rtp(RtpInput::new(url.bind(None)?))
        }
        "srt" => {
            url.no_user()?;
            url.no_path()?;
            let srt = SrtOptions::default();
            if is_listener(url)? {
                SourceKind::SrtListener(SrtListener { listen: url.bind(None)?, srt })
            } else {
                SourceKind::SrtCaller(SrtCaller { call: Call::new(url.remote(None)?), srt })
            }
        }
        "rtmp" | "rtmps" => {
            if !is_listener(url)? {
                let make = |address, key| RtmpPull { key, ..RtmpPull::new(address) };
                let probe = RtmpPull::new(RtmpAddress::placeholder());
                return Ok(read_rtmp_caller(url, more, probe, make)?.map(SourceKind::RtmpPull));
            }
            let (app, key) = app_and_key(url)?;
            let (listen, tls) = rtmp_bind(url)?;
            SourceKind::Rtmp(RtmpPublishServer { listen, app, key, tls, silence: Silence::default() })
        }
        "rtsp" | "rtsps" => {
            if !is_listener(url)? {
                return Ok(read_rtsp_caller(url)?.map(SourceKind::RtspCaller));
            }
            SourceKind::RtspListener(rtsp_listener(url)?)
        }
        "app" => {
            let text = url.authority();
            let expected = "one of the families datagrams, rtp, rtmp, rtsp";
            let family = text.parse::<MediaFamily>();
            SourceKind::App(family.map_err(|_| Problem::malformed(quotable(text), expected))?)
        }
        _ => return unknown_scheme(),
    };
    Ok(Read::new(kind, url))
}

fn output_kind(url: &mut ParsedUrl, more: &Pairs) -> Result<Read<OutputKind>, Problem> {
    let kind = match url.scheme.as_str() {
        "rtp" => {
            url.take("mode")?;
            url.no_user()?;
            url.no_path()?;
            OutputKind::Rtp(RtpOutput::new(url.remote(None)?))
        }
        "srt" => {
            url.no_user()?;
            url.no_path()?;
            let srt = SrtOptions::default();
            if is_listener(url)? {
                OutputKind::SrtListener(SrtListener { listen: url.bind(None)?, srt })
            } else {
                OutputKind::SrtCaller(SrtCaller { call: Call::new(url.remote(None)?), srt })
            }
        }
        "rtmp" | "rtmps" => {
            if !is_listener(url)? {
                return read_rtmp_push(url, more);
            }
            let (app, key) = app_and_key(url)?;
            let (listen, tls) = rtmp_bind(url)?;
            let mut server = RtmpPlayServer::new(listen, app);
            server.key = key;
            server.tls = tls;
            OutputKind::RtmpPlay(server)
        }
        "rtsp" | "rtsps" => {
            if !is_listener(url)? {
                return Ok(read_rtsp_caller(url)?.map(OutputKind::RtspCaller));
            }
            OutputKind::RtspListener(rtsp_listener(url)?)
        }
        "tap" => OutputKind::Tap(TapOutput::new()),
        _ => return unknown_scheme(),
    };
    Ok(Read::new(kind, url))
}

/// Reads an RTMP_PUSH output, or the relay if the URL asks for one.
fn read_rtmp_push(url: &mut ParsedUrl, more: &Pairs) -> Result<Read<OutputKind>, Problem> {
    let relay = url.take("relay")?.map(|value| boolean(value.reveal())).transpose()?;
    let relay = relay.unwrap_or_else(|| more.iter().any(|(name, value)| name == "relay" && value.reveal() == "true"));
    let push = |address, key| RtmpPush { key, ..RtmpPush::new(address) };
    let second = url.has("second") || more.iter().any(|(name, _)| name == "second");
    if relay || second {
        let probe = RtmpRelay { first: RtmpPush::new(RtmpAddress::placeholder()), second: None };
        let make = |address, key| RtmpRelay { first: push(address, key), second: None };
        return Ok(read_rtmp_caller(url, more, probe, make)?.map(OutputKind::RtmpRelay));
    }
    let probe = RtmpPush::new(RtmpAddress::placeholder());
    Ok(read_rtmp_caller(url, more, probe, push)?.map(OutputKind::RtmpPush))
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
    kind: impl FnOnce(&mut ParsedUrl, &Pairs) -> Result<Read<K>, Problem>,
) -> (Option<K>, Pairs) {
    let result = ParsedUrl::parse(url).and_then(|mut url| {
        let read = kind(&mut url, &more)?;
        let mut settings = Pairs::new();
        for pair in read.settings {
            settings.push((pair.name().into_owned(), pair.value()?));
        }
        hide_rests_of_secrets(&mut settings);
        settings.extend(more);
        // The query for the server goes behind the stream key, in the order in which it was written.
        let (queries, mut settings): (Pairs, Pairs) = settings.into_iter().partition(|(name, _)| name == "query");
        settings.extend(read.query.map(|query| ("query".to_owned(), query)));
        settings.extend(queries);
        Ok((read.kind, settings))
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
        text.push(if i == 0 && !url.base.contains('?') { '?' } else { '&' });
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
    format!("{scheme}://{user}{authority}/")
}

/// Returns the URL of an RTSP caller. The query for the server is written as it is sent, or as the value of `query` if
/// parts of it would be read as settings of ours.
fn rtsp_caller_parts(caller: &RtspCaller) -> UrlParts {
    let authority = caller.call.remote.to_string();
    let base = rtsp_base(&caller.rtsp, &authority) + &caller.rtsp.path;
    let mut url = url_parts(base, false, remote_is_wildcard(&caller.call), caller);
    if let Some(query) = &caller.rtsp.query {
        let written = format!("{}?{}", url.base, query.reveal());
        let reads_back = ParsedUrl::parse(&written)
            .is_ok_and(|mut url| take_settings(&mut url, caller.clone()).is_empty() && !url.has("mode"));
        if reads_back {
            url.base = written;
        } else {
            url.query.push("query", query.reveal());
        }
    }
    url
}

fn remote_is_wildcard(call: &Call) -> bool {
    matches!(call.remote.host(), "0.0.0.0" | "::" | "*")
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
    match kind {
        SourceKind::Rtp(s) => url_parts(format!("rtp://{}", s.listen.bind), true, true, s),
        SourceKind::SrtListener(s) => url_parts(format!("srt://{}", s.listen.bind), true, wild(&s.listen), s),
        SourceKind::SrtCaller(s) => {
            url_parts(format!("srt://{}", s.call.remote), false, remote_is_wildcard(&s.call), s)
        }
        SourceKind::Rtmp(s) => url_parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), true, wild(&s.listen), s),
        SourceKind::RtmpPull(s) => url_parts(rtmp_caller(&s.address), false, remote_is_wildcard(&s.call), s),
        SourceKind::RtspListener(s) => {
            let base = rtsp_base(&s.rtsp, &s.listen.bind.to_string()) + &encoded(&s.rtsp.path);
            url_parts(base, true, wild(&s.listen), s)
        }
        SourceKind::RtspCaller(s) => rtsp_caller_parts(s),
        SourceKind::App(family) => {
            UrlParts { base: format!("app://{}", family.to_string().to_ascii_lowercase()), query: Entries::default() }
        }
    }
}

pub(crate) fn output_parts(kind: &OutputKind) -> UrlParts {
    let wild = |l: &Listen| l.bind.ip().is_unspecified();
    match kind {
        OutputKind::Rtp(s) => url_parts(format!("rtp://{}", s.destination), false, false, s),
        OutputKind::SrtListener(s) => url_parts(format!("srt://{}", s.listen.bind), true, wild(&s.listen), s),
        OutputKind::SrtCaller(s) => {
            url_parts(format!("srt://{}", s.call.remote), false, remote_is_wildcard(&s.call), s)
        }
        OutputKind::RtmpPlay(s) => url_parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), true, wild(&s.listen), s),
        OutputKind::RtmpPush(s) => url_parts(rtmp_caller(&s.address), false, remote_is_wildcard(&s.call), s),
        OutputKind::RtmpRelay(s) => {
            let mut url = url_parts(rtmp_caller(&s.first.address), false, remote_is_wildcard(&s.first.call), s);
            if s.second.is_none() {
                url.query.push("relay", true);
            }
            url
        }
        OutputKind::RtspListener(s) => {
            let base = rtsp_base(&s.rtsp, &s.listen.bind.to_string()) + &encoded(&s.rtsp.path);
            url_parts(base, true, wild(&s.listen), s)
        }
        OutputKind::RtspCaller(s) => rtsp_caller_parts(s),
        OutputKind::Tap(_) => UrlParts { base: "tap:".into(), query: Entries::default() },
    }
}

#[cfg(test)]
mod tests;
