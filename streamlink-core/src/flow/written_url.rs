//! URLs that are written: the one that an endpoint reads back to itself, with its secrets.

use super::{
    address::Listen,
    builder::Common,
    output::{Output, OutputKind},
    parsed_url::ParsedUrl,
    printed_url::{QUERY, rtmp_url, rtsp_url, srt_url},
    rtmp::RtmpAddress,
    rtsp::{RtspCaller, RtspListener, RtspOptions},
    secret::{Credentials, StreamKey},
    setting_table::Fields,
    settings::{Entries, list},
    shown_url::{PeerUrl, is_authority},
    source::SourceKind,
    srt::SrtCaller,
    url::take_settings,
};
use percent_encoding::{AsciiSet, utf8_percent_encode};

/// A URL to write: everything before the settings, and the settings that differ from their defaults.
pub(crate) struct UrlParts {
    pub(crate) base: String,
    pub(crate) query: Entries,
}

impl UrlParts {
    /// Returns the URL with `mode=caller` if the endpoint was configured with it.
    pub(crate) fn of(mut self, common: &Common) -> Self {
        if common.mode_is_caller && self.query.0.iter().all(|(name, _)| *name != "mode") {
            self.query.0.insert(0, ("mode", "caller".into()));
        }
        self
    }
}

/// Characters that are percent-encoded in a path.
const PATH: &AsciiSet = &QUERY.add(b'?').add(b'@').add(b':').add(b'[').add(b']');

/// Characters that are percent-encoded in one part of a path, in a user name and in a password.
const PART: &AsciiSet = &PATH.add(b'/');

/// Returns a user name, a password or a key, encoded.
fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// Returns the part of a URL before the host: the user name and the password, if there are any.
pub(crate) fn user_part(credentials: Option<&Credentials>) -> String {
    credentials.map(|c| format!("{}:{}@", part(&c.user), part(c.password.reveal()))).unwrap_or_default()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Returns a URL with its settings in the query.
pub(crate) fn write(url: &UrlParts) -> String {
    let mut text = url.base.clone();
    for (i, (key, value)) in url.query.0.iter().enumerate() {
        // The base may have a query for the server.
        text.push(if i == 0 && !url.base.contains('?') { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.extend(utf8_percent_encode(value, QUERY));
    }
    text
}

/// Returns the URL of a source.
pub(crate) fn source_parts(kind: &SourceKind) -> UrlParts {
    let fields = &mut kind.clone();
    match kind {
        SourceKind::Rtp(s) => parts(format!("rtp://{}", s.udp.listen.bind), None, fields),
        SourceKind::Udp(s) => parts(format!("udp://{}", s.listen.bind), None, fields),
        SourceKind::Rist(s) => parts(format!("rist://{}", s.udp.listen.bind), None, fields),
        SourceKind::SrtListener(s) => parts(format!("srt://{}", s.listen.bind), mode_of_listener(&s.listen), fields),
        SourceKind::SrtCaller(s) => parts(format!("srt://{}", s.call.remote), mode_of_caller(s), fields),
        SourceKind::Rtmp(s) => {
            parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), mode_of_listener(&s.listen), fields)
        }
        SourceKind::RtmpPull(s) => parts(rtmp_caller(&s.address), None, fields),
        SourceKind::RtspListener(s) => parts(rtsp_listener(s), mode_of_listener(&s.listen), fields),
        SourceKind::RtspCaller(s) => rtsp_caller(s, fields),
        SourceKind::App(family) => parts(format!("app://{}", family.to_string().to_ascii_lowercase()), None, fields),
    }
}

/// Returns the URL of an output.
pub(crate) fn output_parts(kind: &OutputKind) -> UrlParts {
    let fields = &mut kind.clone();
    match kind {
        OutputKind::Rtp(s) => parts(format!("rtp://{}", s.udp.destination), None, fields),
        OutputKind::Udp(s) => parts(format!("udp://{}", s.destination), None, fields),
        OutputKind::Rist(s) => parts(format!("rist://{}", s.udp.destination), None, fields),
        OutputKind::SrtListener(s) => parts(format!("srt://{}", s.listen.bind), mode_of_listener(&s.listen), fields),
        OutputKind::SrtCaller(s) => parts(format!("srt://{}", s.call.remote), mode_of_caller(s), fields),
        OutputKind::RtmpPlay(s) => {
            parts(rtmp_listener(&s.listen, &s.app, &s.key, s.tls), mode_of_listener(&s.listen), fields)
        }
        OutputKind::RtmpPush(s) => parts(rtmp_caller(&s.address), None, fields),
        OutputKind::RtmpRelay(s) => {
            let mut url = parts(rtmp_caller(&s.first.address), None, fields);
            if s.second.is_none() {
                url.query.push("relay", true);
            }
            url
        }
        OutputKind::RtspListener(s) => parts(rtsp_listener(s), mode_of_listener(&s.listen), fields),
        OutputKind::RtspCaller(s) => rtsp_caller(s, fields),
        OutputKind::Tap(_) => UrlParts { base: "tap:".into(), query: Entries::default() },
    }
}

impl Output {
    /// Returns the URL from which players fetch this output, which listens at another machine. `reported`: the URL there,
    /// without the secrets. `None` for an output that does not listen.
    pub(crate) fn playback_url(&self, reported: &str) -> Option<PeerUrl> {
        let (_, rest) = reported.split_once("://")?;
        let (place, _) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if place.is_empty() || !is_authority(place) {
            return None;
        }
        let url = match &self.kind {
            OutputKind::SrtListener(s) => srt_url(place, s.srt.stream_id.as_deref()),
            OutputKind::RtmpPlay(s) => rtmp_url(s.tls, place, &s.app, s.key.as_ref().map_or("", StreamKey::reveal)),
            OutputKind::RtspListener(s) => rtsp_url(s.rtsp.tls, place, &s.rtsp.path),
            _ => return None,
        };
        Some(url.into())
    }
}

/// Returns the parts of a URL, with `mode` if the host alone does not imply it.
fn parts(base: String, mode: Option<&str>, fields: &mut dyn Fields) -> UrlParts {
    let mut query = Entries::default();
    if let Some(mode) = mode {
        query.push("mode", mode);
    }
    query.0.extend(list(fields).0);
    UrlParts { base, query }
}

fn mode_of_listener(listen: &Listen) -> Option<&'static str> {
    (!listen.bind.ip().is_unspecified()).then_some("listener")
}

fn mode_of_caller(caller: &SrtCaller) -> Option<&'static str> {
    caller.srt.rendezvous.then_some("rendezvous")
}

fn rtsp_base(rtsp: &RtspOptions, authority: &str) -> String {
    let scheme = if rtsp.tls { "rtsps" } else { "rtsp" };
    format!("{scheme}://{}{authority}/", user_part(rtsp.credentials.as_ref()))
}

fn rtsp_listener(listener: &RtspListener) -> String {
    rtsp_base(&listener.rtsp, &listener.listen.bind.to_string()) + &encoded(&listener.rtsp.path)
}

/// Returns the URL of an RTSP caller. The query for the server is written as it is sent, or as the value of `query` if
/// parts of it would be read as settings of ours.
fn rtsp_caller(caller: &RtspCaller, fields: &mut dyn Fields) -> UrlParts {
    let base = rtsp_base(&caller.rtsp, &caller.call.remote.to_string()) + &caller.rtsp.path;
    let scope = fields.scope();
    let mut url = parts(base, None, fields);
    if let Some(query) = &caller.rtsp.query {
        let written = format!("{}?{}", url.base, query.reveal());
        if ParsedUrl::parse(&written).is_ok_and(|mut url| take_settings(&mut url, scope).is_empty()) {
            url.base = written;
        } else {
            url.query.push("query", query.reveal());
        }
    }
    url
}

fn rtmp_listener(listen: &Listen, app: &str, key: &Option<StreamKey>, tls: bool) -> String {
    let scheme = if tls { "rtmps" } else { "rtmp" };
    let key = key.as_ref().map(|k| format!("/{}", part(k.reveal()))).unwrap_or_default();
    format!("{scheme}://{}/{}{key}", listen.bind, encoded(app))
}

fn rtmp_caller(address: &RtmpAddress) -> String {
    let scheme = if address.tls { "rtmps" } else { "rtmp" };
    format!("{scheme}://{}{}/{}", user_part(address.credentials.as_ref()), address.remote, encoded(&address.app))
}
