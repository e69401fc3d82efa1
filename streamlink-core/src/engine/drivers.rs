//! From the settings of endpoints to what their drivers want: routes, calls, and the URLs that peers are given.

use super::{Shared, start::QUEUE_TIME};
use crate::{
    endpoint::{
        EventSink, Status,
        rtmp::{self, Rtmp},
        rtsp::{self, Rtsp, User},
        srt,
        tcp::Port,
    },
    flow::{Bitrate, RtmpAddress, RtspCaller, RtspOptions, SrtCaller, SrtListener, StreamKey},
    net::{Egress, TlsClient, advertised_ip},
    random::Random,
    router::CurrentPresentation,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// A listener's address as a peer would reach it.
pub(super) fn advertise(shared: &Shared, bound: SocketAddr) -> String {
    match &shared.public_host {
        Some(host) if bound.ip().is_unspecified() => match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
            Err(_) => format!("{host}:{}", bound.port()),
        },
        _ => SocketAddr::new(advertised_ip(bound.ip()), bound.port()).to_string(),
    }
}

/// Invariant: `build()` has generated the key of a listener that had none.
pub(super) fn route_key(key: Option<StreamKey>) -> StreamKey {
    key.unwrap_or_else(StreamKey::unguessed)
}

/// The URL of an RTMP listener, as an encoder or a player wants it. Whoever has it can come in.
pub(super) fn rtmp_url(shared: &Shared, port: &Port<Rtmp>, app: &str, key: Option<&StreamKey>) -> String {
    let scheme = if port.is_secure() { "rtmps" } else { "rtmp" };
    format!("{scheme}://{}/{app}/{}", advertise(shared, port.local_addr()), key.map_or("", StreamKey::reveal))
}

/// A call that lacks what only a running endpoint has.
pub(super) fn rtmp_call(
    address: &RtmpAddress,
    key: Option<&StreamKey>,
    tls: Option<TlsClient>,
    call: &crate::flow::Call,
    random: Random,
    egress: Egress,
    direction: rtmp::Direction,
) -> impl FnOnce(Arc<Status>, EventSink, CancellationToken) -> rtmp::Call {
    let (remote, app, url) = (address.remote.clone(), address.app.clone(), address.to_string());
    let (key, reconnect, connect_timeout) = (key.cloned(), call.reconnect, call.connect_timeout);
    move |status, events, stop| rtmp::Call {
        remote,
        tls,
        app,
        url,
        key,
        reconnect,
        random,
        connect_timeout,
        egress,
        status,
        events,
        stop,
        direction,
    }
}

/// The URL of an RTSP listener. It holds no password.
pub(super) fn rtsp_url(shared: &Shared, port: &Port<Rtsp>, path: &str) -> String {
    let scheme = if port.is_secure() { "rtsps" } else { "rtsp" };
    format!("{scheme}://{}/{path}", advertise(shared, port.local_addr()))
}

pub(super) fn rtsp_user(options: &RtspOptions) -> Option<User> {
    let credentials = options.credentials.as_ref()?;
    Some(User { name: credentials.user().to_owned(), password: credentials.password.clone() })
}

pub(super) fn rtsp_place(options: &RtspOptions, stage: &Arc<CurrentPresentation>) -> rtsp::Place {
    let path = options.path.trim_matches('/').to_owned();
    let (user, stage) = (rtsp_user(options), stage.clone());
    let cast = options.multicast.map(|address| {
        let interface = options.interface.as_ref().map(ToString::to_string);
        rtsp::Cast::new(rtsp::MulticastGroup { address, ttl: options.ttl, interface })
    });
    rtsp::Place { path, user, transport: options.transport, symmetric: options.symmetric, stage, cast }
}

/// A call that lacks what only a running endpoint has.
pub(super) fn rtsp_call(
    settings: &RtspCaller,
    tls: Option<TlsClient>,
    random: Random,
    egress: Egress,
    direction: rtsp::Direction,
) -> impl FnOnce(Arc<Status>, EventSink, CancellationToken) -> rtsp::Call + use<> {
    let (call, options) = (settings.call.clone(), settings.rtsp.clone());
    let scheme = if options.tls { "rtsps" } else { "rtsp" };
    let url = format!("{scheme}://{}/{}", call.remote, options.path);
    move |status, events, stop| rtsp::Call {
        remote: call.remote,
        tls,
        url,
        user: rtsp_user(&options),
        transport: options.transport,
        symmetric: options.symmetric,
        reconnect: call.reconnect,
        random,
        connect_timeout: call.connect_timeout,
        egress,
        status,
        events,
        stop,
        direction,
    }
}

/// What the kernel may hold for a peer that takes media over TCP: a second of the flow.
pub(super) fn send_buffer(rate: Bitrate) -> usize {
    usize::try_from(rate.bytes_in(QUEUE_TIME).clamp(64 << 10, 4 << 20)).unwrap_or(4 << 20)
}

/// The URL of an SRT listener, as a caller wants it. It holds no secret.
pub(super) fn srt_url(shared: &Shared, bound: SocketAddr, stream_id: Option<&str>) -> String {
    let encoded = |id| utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
    let id = stream_id.map(|id| format!("?streamid={}", encoded(id))).unwrap_or_default();
    format!("srt://{}{id}", advertise(shared, bound))
}

pub(super) fn srt_route(
    settings: &SrtListener,
    status: &Arc<Status>,
    events: &EventSink,
    rate: Bitrate,
    end: srt::RouteEnd,
) -> srt::Route {
    srt::Route {
        stream_id: settings.srt.stream_id.clone(),
        allow: settings.listen.allow.clone(),
        max_peers: settings.listen.max_peers,
        terms: srt::terms(&settings.srt, rate.bytes_in(Duration::from_secs(1))),
        status: status.clone(),
        events: events.clone(),
        end,
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn srt_call(
    settings: &SrtCaller,
    random: Random,
    egress: Egress,
    status: &Arc<Status>,
    events: &EventSink,
    rate: Bitrate,
    stop: CancellationToken,
    direction: srt::Direction,
) -> srt::Call {
    srt::Call {
        remote: settings.call.remote.clone(),
        reconnect: settings.call.reconnect,
        random,
        connect_timeout: settings.call.connect_timeout,
        stream_id: settings.srt.stream_id.clone(),
        terms: srt::terms(&settings.srt, rate.bytes_in(Duration::from_secs(1))),
        egress,
        status: status.clone(),
        events: events.clone(),
        stop,
        direction,
    }
}
