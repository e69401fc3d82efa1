//! Conversion of endpoint settings into the routes and calls of the drivers, and into the URLs that are given to peers.

use super::Shared;
use crate::{
    endpoint::{
        EventSink, FlowBandwidth, Resolver, Status,
        rtmp::{self, Rtmp},
        rtsp::{self, Rtsp, User},
        srt,
        tcp::Port,
    },
    flow::{RtmpAddress, RtspCaller, RtspOptions, SrtCaller, SrtListener, StreamKey},
    net::{Egress, TlsClient, advertised_ip},
    random::Random,
    router::CurrentPresentation,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
};
use tokio_util::sync::CancellationToken;

/// Returns the address at which peers reach a listener.
pub(super) fn advertise(shared: &Shared, bound: SocketAddr) -> String {
    match &shared.public_host {
        Some(host) if bound.ip().is_unspecified() => match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
            Err(_) => format!("{host}:{}", bound.port()),
        },
        _ => SocketAddr::new(advertised_ip(bound.ip()), bound.port()).to_string(),
    }
}

/// Returns the key of a listener. Invariant: `build()` has generated one if none was set.
pub(super) fn route_key(key: Option<StreamKey>) -> StreamKey {
    key.unwrap_or_else(StreamKey::unguessed)
}

/// Returns the URL of an RTMP listener for encoders or players. It holds the stream key, which grants access.
pub(super) fn rtmp_url(shared: &Shared, port: &Port<Rtmp>, app: &str, key: Option<&StreamKey>) -> String {
    let scheme = if port.is_secure() { "rtmps" } else { "rtmp" };
    format!("{scheme}://{}/{app}/{}", advertise(shared, port.local_addr()), key.map_or("", StreamKey::reveal))
}

/// Returns a function that creates the call from the status, events and stop token of a running endpoint.
pub(super) fn rtmp_call(
    address: &RtmpAddress,
    key: Option<&StreamKey>,
    tls: Option<TlsClient>,
    call: &crate::flow::Call,
    random: Random,
    (resolver, egress): (Resolver, Egress),
    direction: rtmp::Direction,
) -> impl FnOnce(Arc<Status>, EventSink, CancellationToken) -> rtmp::RtmpClient {
    let (remote, app, url) = (address.remote.clone(), address.app.clone(), address.to_string());
    let (key, reconnect, connect_timeout) = (key.cloned(), call.reconnect, call.connect_timeout);
    move |status, events, stop| rtmp::RtmpClient {
        remote,
        resolver,
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

/// Returns the URL of an RTSP listener. It holds no password.
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
        rtsp::MulticastSender::new(rtsp::MulticastGroup { address, ttl: options.ttl, interface })
    });
    rtsp::Place { path, user, transport: options.transport, symmetric: options.symmetric, stage, cast }
}

/// Returns a function that creates the call from the status, events and stop token of a running endpoint.
pub(super) fn rtsp_call(
    settings: &RtspCaller,
    tls: Option<TlsClient>,
    shared: &Weak<Shared>,
    random: Random,
    (resolver, egress): (Resolver, Egress),
    direction: rtsp::Direction,
) -> impl FnOnce(Arc<Status>, EventSink, CancellationToken) -> rtsp::RtspClient + use<> {
    let (call, options) = (settings.call.clone(), settings.rtsp.clone());
    let url = settings.request_url();
    let shared = shared.clone();
    let tls_of_redirects: rtsp::TlsOfRedirects =
        Arc::new(move || shared.upgrade().ok_or_else(|| "the engine has ended".to_owned())?.tls_client());
    move |status, events, stop| rtsp::RtspClient {
        remote: call.remote,
        resolver,
        tls,
        url,
        user: rtsp_user(&options),
        transport: options.transport,
        symmetric: options.symmetric,
        back_channel: options.back_channel,
        tls_of_redirects,
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

/// Returns the URL of an SRT listener for callers. It holds no secret.
pub(super) fn srt_url(shared: &Shared, bound: SocketAddr, stream_id: Option<&str>) -> String {
    let encoded = |id| utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
    let id = stream_id.map(|id| format!("?streamid={}", encoded(id))).unwrap_or_default();
    format!("srt://{}{id}", advertise(shared, bound))
}

pub(super) fn srt_route(
    settings: &SrtListener,
    status: &Arc<Status>,
    events: &EventSink,
    bandwidth: FlowBandwidth,
    end: srt::RouteEnd,
) -> srt::Route {
    let rates = srt::FlowRates::new(&settings.srt, bandwidth);
    srt::Route {
        stream_id: settings.srt.stream_id.clone(),
        allow: settings.listen.allow.clone(),
        max_peers: settings.listen.max_peers,
        terms: srt::terms(&settings.srt, &rates),
        rates,
        status: status.clone(),
        events: events.clone(),
        end,
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn srt_call(
    settings: &SrtCaller,
    random: Random,
    (resolver, egress): (Resolver, Egress),
    status: &Arc<Status>,
    events: &EventSink,
    bandwidth: FlowBandwidth,
    stop: CancellationToken,
    direction: srt::Direction,
) -> srt::SrtCaller {
    let rates = srt::FlowRates::new(&settings.srt, bandwidth);
    srt::SrtCaller {
        remote: settings.call.remote.clone(),
        resolver,
        reconnect: settings.call.reconnect,
        random,
        connect_timeout: settings.call.connect_timeout,
        stream_id: settings.srt.stream_id.clone(),
        terms: srt::terms(&settings.srt, &rates),
        rates,
        egress,
        status: status.clone(),
        events: events.clone(),
        stop,
        direction,
    }
}
