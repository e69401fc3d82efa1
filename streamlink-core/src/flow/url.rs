//! The URL grammar of the Rust API, C and JSON: `scheme://[user:password@][host]:port[/path][?key=value&…]`.

use super::{
    address::{Call, HostPort, Listen, quotable},
    builder::Common,
    output::{Output, OutputKind, TapOutput},
    parsed_url::{Pair, ParsedUrl},
    rist::{RistInput, RistOutput},
    rtmp::{
        RTMP_PORT, RTMPS_PORT, RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPush, RtmpRelay, check_app,
    },
    rtp::{RtpInput, RtpOutput},
    rtsp::{RTSP_PORT, RTSPS_PORT, RtspCaller, RtspListener, RtspOptions, check_path},
    secret::StreamKey,
    setting::{SettingScope, find},
    setting_table::Fields,
    settings::boolean,
    shown_url::{is_public, is_secret},
    source::{Source, SourceKind},
    srt::{GroupNode, SrtCaller, SrtListener, SrtOptions},
    udp::{UdpInput, UdpOutput},
};
use crate::{error::ConfigErrorKind, media::MediaFamily, secret::Secret};
use percent_encoding::percent_decode_str;

/// Names and values; any value may be a secret.
pub(crate) type Pairs = Vec<(String, Secret)>;

/// Removes a setting from the URL and from the members beside it, and returns its value.
fn take(url: &mut ParsedUrl, more: &mut Pairs, name: &str) -> Result<Option<Secret>, ConfigErrorKind> {
    let beside = more.iter().position(|(key, _)| key == name).map(|at| more.remove(at).1);
    Ok(url.take(name)?.or(beside))
}

/// Returns whether an endpoint listens: as `mode` says, otherwise if the host is missing or a wildcard.
fn is_listener(url: &mut ParsedUrl, more: &mut Pairs) -> Result<bool, ConfigErrorKind> {
    let wildcard = url.host_is_wildcard();
    match take(url, more, "mode")?.as_ref().map(Secret::reveal) {
        Some("listener") => Ok(true),
        Some("caller") if wildcard => {
            let problem = "`mode=caller` needs a host to call; an address without one, or with a wildcard, listens";
            Err(ConfigErrorKind::Conflict(problem.into()))
        }
        Some("caller") => Ok(false),
        Some(other) => {
            let expected = match url.scheme.as_str() {
                "rtsp" | "rtsps" | "rtmp" | "rtmps" => "listener or caller; a `mode` for the server goes into `query`",
                "srt" => "listener, caller or rendezvous",
                _ => "listener or caller",
            };
            Err(ConfigErrorKind::malformed(format_args!("mode {other}"), expected))
        }
        None => Ok(wildcard),
    }
}

/// Removes `mode=rendezvous`, and returns whether it was there.
fn take_rendezvous(url: &mut ParsedUrl, more: &mut Pairs) -> Result<bool, ConfigErrorKind> {
    let is_it = |value: &Secret| value.reveal() == "rendezvous";
    let in_url = url.pairs().find(|pair| pair.name() == "mode").map(|pair| pair.value()).transpose()?;
    let found = in_url.as_ref().is_some_and(is_it) || more.iter().any(|(name, value)| name == "mode" && is_it(value));
    if found {
        take(url, more, "mode")?;
    }
    Ok(found)
}

/// Returns an SRT caller with its address. Of a group whose address is a wildcard, as libsrt's programs write it
/// (`srt://*?type=broadcast&nodes=a:9000,b:9000`), that is the first node. `None`: the endpoint listens.
fn srt_caller(url: &mut ParsedUrl, more: &mut Pairs) -> Result<Option<SrtCaller>, ConfigErrorKind> {
    let caller = |remote| SrtCaller { call: Call::new(remote), srt: SrtOptions::default() };
    let in_url = url.pairs().find(|pair| pair.name() == "nodes").map(|pair| pair.value()).transpose()?;
    let beside = || more.iter().find(|(name, _)| name == "nodes").map(|(_, value)| value.clone());
    if let Some(nodes) = in_url.or_else(beside).filter(|_| url.host_is_wildcard()) {
        check_mode(url, more, "caller", "the address is a group of nodes to call")?;
        let first: GroupNode = nodes.reveal().split(',').next().unwrap_or_default().parse()?;
        return Ok(Some(caller(first.host)));
    }
    if take_rendezvous(url, more)? {
        if url.host_is_wildcard() {
            let problem = "`mode=rendezvous` needs the host that calls at the same time";
            return Err(ConfigErrorKind::Conflict(problem.into()));
        }
        let mut caller = caller(url.remote(None)?);
        caller.srt.rendezvous = true;
        return Ok(Some(caller));
    }
    if is_listener(url, more)? { Ok(None) } else { url.remote(None).map(|remote| Some(caller(remote))) }
}

/// Checks the `mode` of an endpoint that can have only this one.
fn check_mode(url: &mut ParsedUrl, more: &mut Pairs, only: &str, why: &str) -> Result<(), ConfigErrorKind> {
    match take(url, more, "mode")? {
        Some(mode) if mode.reveal() != only => {
            Err(ConfigErrorKind::Conflict(format!("`mode` can only be `{only}`: {why}")))
        }
        _ => Ok(()),
    }
}

/// Returns true if the stream key is set elsewhere than in the path.
fn has_key(url: &ParsedUrl, more: &Pairs) -> bool {
    url.has("key") || more.iter().any(|(name, _)| name == "key")
}

/// Returns the application and key of a listener's `app/key`. The last part of the path is the key, unless the query has
/// one.
fn app_and_key(url: &ParsedUrl, has_key: bool) -> Result<(String, Option<StreamKey>), ConfigErrorKind> {
    let path = url.path()?;
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((app, key)) if !has_key => Ok((check_app(app)?, Some(StreamKey::new(key)?))),
        _ => Ok((check_app(path)?, None)),
    }
}

/// Returns the address of an RTMP caller and its key. The last part of the path is the key, unless `key` is set
/// elsewhere; it is sent as it was written, with the part of the query that holds no setting of ours (`KEY?token=…`).
///
/// Without a key in the path, a query with a slash belongs to the application, up to its last slash:
/// `rtmp://host/live?vhost=studio/KEY`.
fn rtmp_caller_parts(url: &ParsedUrl, has_key: bool) -> Result<(RtmpAddress, Option<StreamKey>), ConfigErrorKind> {
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
fn rtmp_bind(url: &ParsedUrl) -> Result<(Listen, bool), ConfigErrorKind> {
    let tls = url.scheme == "rtmps";
    let port = if tls { RTMPS_PORT } else { RTMP_PORT };
    if url.credentials()?.is_some() {
        let expected = "absent: the stream key lets peers into an RTMP listener";
        return Err(ConfigErrorKind::malformed("a user name or password", expected));
    }
    Ok((url.bind(Some(port))?, tls))
}

fn rtsp_listener(url: &ParsedUrl) -> Result<RtspListener, ConfigErrorKind> {
    let tls = url.scheme == "rtsps";
    let mut rtsp = RtspOptions::new(tls, check_path(&url.path()?, 1)?);
    rtsp.credentials = url.credentials()?;
    Ok(RtspListener { listen: url.bind(Some(if tls { RTSPS_PORT } else { RTSP_PORT }))?, rtsp })
}

/// Returns a source of datagrams. As in VLC, an `@` may stand before the address, and the only sender of a multicast group
/// before it: `udp://@239.1.1.1:1234`, `udp://192.0.2.1@232.1.1.1:1234`.
fn udp_input(url: &mut ParsedUrl) -> Result<UdpInput, ConfigErrorKind> {
    let sender = url.take_user_address();
    url.no_user()?;
    url.no_path()?;
    let mut input = UdpInput::new(url.bind(None)?);
    input.multicast_source = sender;
    Ok(input)
}

/// Returns the address that an output of datagrams sends to. As in VLC, an `@` may stand before it.
fn datagram_destination(url: &mut ParsedUrl) -> Result<HostPort, ConfigErrorKind> {
    url.take_empty_user();
    url.no_user()?;
    url.no_path()?;
    url.remote(None)
}

fn unknown_scheme<T>() -> Result<T, ConfigErrorKind> {
    Err(ConfigErrorKind::malformed(
        "the scheme of the URL",
        "one of rtp, udp, rist, srt, rtmp, rtmps, rtsp, rtsps, app, tap",
    ))
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

/// Removes the settings of ours from the query of a caller's URL. Everything else is the server's.
pub(crate) fn take_settings(url: &mut ParsedUrl, scope: SettingScope) -> Vec<Pair> {
    url.take_if(|pair| {
        let name = pair.name();
        // These two stand beside a URL, never in it.
        !matches!(&*name, "name" | "url") && find(scope, &name).is_some()
    })
}

fn read_rtsp_caller(url: &mut ParsedUrl, scope: SettingScope) -> Result<Read<RtspCaller>, ConfigErrorKind> {
    let mut caller = RtspCaller::from_parts(url)?;
    let settings = take_settings(url, scope);
    caller.rtsp.set_query(url)?;
    Ok(Read { kind: caller, settings, query: None })
}

fn read_rtmp_caller<T>(
    url: &mut ParsedUrl,
    more: &Pairs,
    scope: SettingScope,
    make: impl FnOnce(RtmpAddress, Option<StreamKey>) -> T,
) -> Result<Read<T>, ConfigErrorKind> {
    let has_key = has_key(url, more);
    let settings = take_settings(url, scope);
    let (address, key) = rtmp_caller_parts(url, has_key)?;
    let query = if key.is_none() { url.raw_query().map(Secret::from) } else { None };
    Ok(Read { kind: make(address, key), settings, query })
}

fn source_kind(url: &mut ParsedUrl, more: &mut Pairs) -> Result<Read<SourceKind>, ConfigErrorKind> {
    let kind = match url.scheme.as_str() {
        "rtp" => {
            check_mode(url, more, "listener", "an RTP source receives at a local address or from a group")?;
            SourceKind::Rtp(RtpInput::new(udp_input(url)?))
        }
        "udp" => {
            check_mode(url, more, "listener", "a UDP source receives at a local address or from a group")?;
            SourceKind::Udp(udp_input(url)?)
        }
        "rist" => {
            check_mode(url, more, "listener", "a RIST source receives at a local address")?;
            url.take_empty_user();
            url.no_user()?;
            url.no_path()?;
            SourceKind::Rist(RistInput::new(UdpInput::new(url.bind(None)?)))
        }
        "srt" => {
            url.no_user()?;
            url.no_path()?;
            match srt_caller(url, more)? {
                None => SourceKind::SrtListener(SrtListener { listen: url.bind(None)?, srt: SrtOptions::default() }),
                Some(caller) => SourceKind::SrtCaller(caller),
            }
        }
        "rtmp" | "rtmps" => {
            if !is_listener(url, more)? {
                let make = |address, key| RtmpPull { key, ..RtmpPull::new(address) };
                let scope = SettingScope::RtmpPullSource;
                return Ok(read_rtmp_caller(url, more, scope, make)?.map(SourceKind::RtmpPull));
            }
            let (app, key) = app_and_key(url, has_key(url, more))?;
            let (listen, tls) = rtmp_bind(url)?;
            SourceKind::Rtmp(RtmpPublishServer { key, tls, ..RtmpPublishServer::new(listen, app) })
        }
        "rtsp" | "rtsps" => {
            if !is_listener(url, more)? {
                return Ok(read_rtsp_caller(url, SettingScope::RtspCallerSource)?.map(SourceKind::RtspCaller));
            }
            SourceKind::RtspListener(rtsp_listener(url)?)
        }
        "app" => {
            let text = url.authority();
            let expected = "one of the families datagrams, rtp, rtmp, rtsp";
            let family = text.parse::<MediaFamily>();
            SourceKind::App(family.map_err(|_| ConfigErrorKind::malformed(quotable(text), expected))?)
        }
        _ => return unknown_scheme(),
    };
    Ok(Read::new(kind, url))
}

fn output_kind(url: &mut ParsedUrl, more: &mut Pairs) -> Result<Read<OutputKind>, ConfigErrorKind> {
    let kind = match url.scheme.as_str() {
        "rtp" => {
            check_mode(url, more, "caller", "an RTP output sends to an address")?;
            OutputKind::Rtp(RtpOutput::new(datagram_destination(url)?))
        }
        "udp" => {
            check_mode(url, more, "caller", "a UDP output sends to an address")?;
            OutputKind::Udp(UdpOutput::new(datagram_destination(url)?))
        }
        "rist" => {
            check_mode(url, more, "caller", "a RIST output sends to an address")?;
            OutputKind::Rist(RistOutput::new(datagram_destination(url)?))
        }
        "srt" => {
            url.no_user()?;
            url.no_path()?;
            match srt_caller(url, more)? {
                None => OutputKind::SrtListener(SrtListener { listen: url.bind(None)?, srt: SrtOptions::default() }),
                Some(caller) => OutputKind::SrtCaller(caller),
            }
        }
        "rtmp" | "rtmps" => {
            if !is_listener(url, more)? {
                return read_rtmp_push(url, more);
            }
            let (app, key) = app_and_key(url, has_key(url, more))?;
            let (listen, tls) = rtmp_bind(url)?;
            let mut server = RtmpPlayServer::new(listen, app);
            server.key = key;
            server.tls = tls;
            OutputKind::RtmpPlay(server)
        }
        "rtsp" | "rtsps" => {
            if !is_listener(url, more)? {
                return Ok(read_rtsp_caller(url, SettingScope::RtspCallerOutput)?.map(OutputKind::RtspCaller));
            }
            OutputKind::RtspListener(rtsp_listener(url)?)
        }
        "tap" => OutputKind::Tap(TapOutput::new()),
        _ => return unknown_scheme(),
    };
    Ok(Read::new(kind, url))
}

/// Reads an RTMP_PUSH output, or the relay if the URL asks for one.
fn read_rtmp_push(url: &mut ParsedUrl, more: &mut Pairs) -> Result<Read<OutputKind>, ConfigErrorKind> {
    let relay = take(url, more, "relay")?.map(|value| boolean(value.reveal())).transpose()?.unwrap_or(false);
    let push = |address, key| RtmpPush { key, ..RtmpPush::new(address) };
    let second = url.has("second") || more.iter().any(|(name, _)| name == "second");
    if relay || second {
        let make = |address, key| RtmpRelay { first: push(address, key), second: None };
        return Ok(read_rtmp_caller(url, more, SettingScope::RtmpOutput, make)?.map(OutputKind::RtmpRelay));
    }
    Ok(read_rtmp_caller(url, more, SettingScope::RtmpPushOutput, push)?.map(OutputKind::RtmpPush))
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
        let is_secret = is_secret(name);
        if after_secret && !is_secret && !is_public(name) && name != "description" {
            *name = "… (behind a secret, where `&` is to be written as `%26`)".into();
        } else {
            after_secret = is_secret;
        }
    }
}

/// Returns the kind of endpoint of a URL, and the settings to apply to it; none if the kind is unknown.
fn read<K: Fields>(
    common: &mut Common,
    url: &str,
    mut more: Pairs,
    kind: impl FnOnce(&mut ParsedUrl, &mut Pairs) -> Result<Read<K>, ConfigErrorKind>,
) -> (Option<K>, Pairs) {
    let parsed = ParsedUrl::parse(url);
    let has_mode = more.iter().any(|(name, _)| name == "mode") || parsed.as_ref().is_ok_and(|url| url.has("mode"));
    if let Ok(url) = &parsed {
        for (name, value) in &more {
            if let Some(conflict) = conflict_with_url(url, name, value) {
                common.record_error(name, Err::<(), _>(conflict));
            }
        }
        more.retain(|(name, _)| !url.has(name));
    }
    let result = parsed.and_then(|mut url| {
        let read = kind(&mut url, &mut more)?;
        let mut settings = Pairs::new();
        for pair in read.settings {
            settings.push((pair.name().into_owned(), pair.value()?));
        }
        hide_rests_of_secrets(&mut settings);
        settings.extend(more);
        // The query for the server goes behind the stream key, in the order in which it was written.
        let (queries, mut settings): (Pairs, Pairs) = settings.into_iter().partition(|(name, _)| name == "query");
        let twice = remove_repetitions(read.kind.scope(), &mut settings);
        settings.extend(read.query.map(|query| ("query".to_owned(), query)));
        settings.extend(queries);
        Ok((read.kind, settings, twice))
    });
    let Some((mut kind, settings, twice)) = common.record_error("url", result) else { return (None, Vec::new()) };
    common.mode_is_implied = !has_mode && kind.call().is_some();
    common.mode_is_caller = has_mode && kind.call().is_some();
    for name in twice {
        let problem = ConfigErrorKind::Conflict("is set twice, to different values".into());
        common.record_error(&name, Err::<(), _>(problem));
    }
    (Some(kind), settings)
}

/// Returns the problem of a member that the URL sets to another value.
fn conflict_with_url(url: &ParsedUrl, name: &str, value: &Secret) -> Option<ConfigErrorKind> {
    let mut values = url.pairs().filter(|pair| pair.name() == name).map(Pair::value);
    let differs = values.any(|found| found.is_ok_and(|found| found != *value));
    differs.then(|| ConfigErrorKind::Conflict("is also set in the URL, to another value".into()))
}

/// Leaves one of each setting, and returns the names of those that have different values.
fn remove_repetitions(scope: SettingScope, settings: &mut Pairs) -> Vec<String> {
    let mut seen: Vec<(&'static str, Secret)> = Vec::new();
    let mut twice = Vec::new();
    settings.retain(|(name, value)| {
        let Some(setting) = find(scope, name) else { return true };
        match seen.iter().find(|(known, _)| *known == setting.name) {
            None => {
                seen.push((setting.name, value.clone()));
                true
            }
            Some((_, known)) => {
                if known != value {
                    twice.push(setting.name.to_owned());
                }
                false
            }
        }
    });
    twice
}

#[cfg(test)]
mod tests;
