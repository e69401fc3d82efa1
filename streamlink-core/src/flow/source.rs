//! Sources, which receive media.

use super::{
    address::{Call, HostPort, Listen, LocalEnd, parse_bind},
    builder::{Common, endpoint_builder, role},
    pairing::{InputProtocol, family},
    rist::{RistInput, RistSourceBuilder},
    rtmp::{
        RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPullSourceBuilder, RtmpRelay, RtmpSourceBuilder,
        check_app,
    },
    rtp::{RtpInput, RtpOutput, RtpSourceBuilder},
    rtsp::{RtspCaller, RtspCallerBuilder, RtspListener, RtspListenerBuilder, RtspOptions, check_path},
    secret::StreamKey,
    setting::SettingScope,
    setting_table::Fields,
    silence::{Silence, Takeover},
    srt::{SrtCaller, SrtCallerBuilder, SrtListener, SrtListenerBuilder, SrtOptions},
    udp::{UdpInput, UdpOutput, UdpSourceBuilder},
    written_url,
};
use crate::media::{MediaFamily, ProgramChoice};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A source, which receives media.
///
/// The constructors return a typed builder that offers the settings of its protocol and lets the compiler check
/// the pairing with outputs. [`Source::from_url`] reads the URL grammar instead; its pairing is checked by
/// `build()`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Source {
    pub(crate) common: Common,
    pub(crate) kind: SourceKind,
}

/// Settings of a source, one variant per protocol and role.
#[derive(Clone, Debug)]
pub(crate) enum SourceKind {
    Rtmp(RtmpPublishServer),
    RtmpPull(RtmpPull),
    SrtListener(SrtListener),
    SrtCaller(SrtCaller),
    Rtp(RtpInput),
    Udp(UdpInput),
    Rist(RistInput),
    RtspListener(RtspListener),
    RtspCaller(RtspCaller),
    App(MediaFamily),
}

/// Settings of a source that the host pushes packets into; none beside the family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppInput;

endpoint_builder! {
    /// Builder of a source that the host pushes packets into. Made by
    /// [`Source::app_datagrams`](crate::Source::app_datagrams) and its kin, one for each media family `F`.
    AppSourceBuilder<F>: AppInput
}

impl Source {
    /// Returns the builder of an RTMP source, which publishers push to: `bind` as in `0.0.0.0:1935`, `app` as in `live`.
    pub fn rtmp(name: impl Into<String>, bind: &str, app: &str) -> RtmpSourceBuilder {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let app = common.record_error("app", check_app(app)).unwrap_or_default();
        RtmpSourceBuilder::new(common, RtmpPublishServer::new(listen, app))
    }

    /// Returns the builder of an RTMP_PULL source, which plays from a server: `url` as in `rtmp://example.com/live`.
    pub fn rtmp_pull(name: impl Into<String>, url: &str, key: StreamKey) -> RtmpPullSourceBuilder {
        let mut common = Common::new(name);
        let address = common.record_error("url", url.parse()).unwrap_or_else(RtmpAddress::placeholder);
        let mut settings = RtmpPull::new(address);
        settings.key = Some(key);
        RtmpPullSourceBuilder::new(common, settings)
    }

    /// Returns the builder of an SRT source that listens, and callers send to: `bind` as in `0.0.0.0:9000`.
    pub fn srt_listener(name: impl Into<String>, bind: &str) -> SrtListenerBuilder<role::Source> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        SrtListenerBuilder::new(common, SrtListener { listen, srt: SrtOptions::default() })
    }

    /// Returns the builder of an SRT source that calls a listener and receives: `remote` as in `example.com:9000`.
    pub fn srt_caller(name: impl Into<String>, remote: &str) -> SrtCallerBuilder<role::Source> {
        let mut common = Common::new(name);
        let remote = remote_or_placeholder(&mut common, remote);
        SrtCallerBuilder::new(common, SrtCaller { call: Call::new(remote), srt: SrtOptions::default() })
    }

    /// Returns the builder of an RTP source, which receives at a local address or from a multicast group: `bind` as in
    /// `0.0.0.0:5004`, `239.1.1.1:5004`, `[ff3e::1]:5004`.
    pub fn rtp(name: impl Into<String>, bind: &str) -> RtpSourceBuilder {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        RtpSourceBuilder::new(common, RtpInput::new(UdpInput::new(listen)))
    }

    /// Returns the builder of a UDP source, which receives MPEG-TS in plain datagrams at a local address or from a
    /// multicast group: `bind` as in `0.0.0.0:1234`, `239.1.1.1:1234`, `[ff3e::1]:1234`.
    pub fn udp(name: impl Into<String>, bind: &str) -> UdpSourceBuilder {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        UdpSourceBuilder::new(common, UdpInput::new(listen))
    }

    /// Returns the builder of a RIST source (VSF TR-06-1, simple profile), which receives at a local address with an even
    /// port: `bind` as in `0.0.0.0:5000`. RTCP has the next port.
    pub fn rist(name: impl Into<String>, bind: &str) -> RistSourceBuilder {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        RistSourceBuilder::new(common, RistInput::new(UdpInput::new(listen)))
    }

    /// Returns the builder of an RTSP source that listens, and clients record to: `bind` as in `0.0.0.0:554`, `path` as
    /// in `cam/1`.
    pub fn rtsp_listener(name: impl Into<String>, bind: &str, path: &str) -> RtspListenerBuilder<role::Source> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let path = common.record_error("path", check_path(path, 1)).unwrap_or_default();
        RtspListenerBuilder::new(common, RtspListener { listen, rtsp: RtspOptions::new(false, path) })
    }

    /// Returns the builder of an RTSP source that plays from a server: `url` as in
    /// `rtsp://user:password@example.com/path`.
    pub fn rtsp_caller(name: impl Into<String>, url: &str) -> RtspCallerBuilder<role::Source> {
        let mut common = Common::new(name);
        let settings = common.record_error("url", RtspCaller::parse(url)).unwrap_or_else(|| RtspCaller {
            call: Call::new(HostPort::placeholder()),
            rtsp: RtspOptions::new(false, String::new()),
        });
        RtspCallerBuilder::new(common, settings)
    }

    /// Returns the builder of a source that the host pushes datagrams into, with any payload, most often MPEG-TS.
    pub fn app_datagrams(name: impl Into<String>) -> AppSourceBuilder<family::Datagrams> {
        AppSourceBuilder::new(Common::new(name), AppInput)
    }

    /// Returns the builder of a source that the host pushes RTP packets into.
    pub fn app_rtp(name: impl Into<String>) -> AppSourceBuilder<family::Rtp> {
        AppSourceBuilder::new(Common::new(name), AppInput)
    }

    /// Returns the builder of a source that the host pushes FLV messages into.
    pub fn app_rtmp(name: impl Into<String>) -> AppSourceBuilder<family::Rtmp> {
        AppSourceBuilder::new(Common::new(name), AppInput)
    }

    /// Returns the builder of a source that the host pushes the RTP packets of RTSP tracks into.
    pub fn app_rtsp(name: impl Into<String>) -> AppSourceBuilder<family::Rtsp> {
        AppSourceBuilder::new(Common::new(name), AppInput)
    }

    /// Returns the source of a URL, with its settings in the query:
    ///
    /// - `rtp://:5004`, `rtp://239.1.1.1:5004?iface=eth1&pt=33`
    /// - `udp://:1234`, `udp://@239.1.1.1:1234?iface=eth1&source=192.0.2.1` (MPEG-TS without RTP)
    /// - `rist://:5000?latency=1000`
    /// - `srt://:9000?mode=listener&latency=120`, `srt://example.com:9000?streamid=cam1`
    /// - `rtmp://0.0.0.0:1935/live/KEY` (publishers push to it), `rtmp://example.com/live?key=KEY` (pulls)
    /// - `rtsp://0.0.0.0:554/cam/1`, `rtsp://user:pw@host/path?transport=tcp`
    /// - `app://datagrams`, `app://rtp`, `app://rtmp`, `app://rtsp`
    ///
    /// `mode=listener|caller` sets the role; by default an endpoint listens if the host is missing or a wildcard, and
    /// calls otherwise. `build()` reports errors in the URL.
    ///
    /// ```
    /// use streamlink_core::{Bitrate, Flow, InputProtocol, Source};
    ///
    /// let source = Source::from_url("venue", "srt://:9000?latency=200");
    /// assert_eq!(source.protocol(), InputProtocol::Srt);
    /// assert!(!source.is_caller());
    ///
    /// let wrong = Source::from_url("venue", "srt://:9000?latency=99999");
    /// let errors = Flow::builder("f", Bitrate::mbps(20)).source(wrong).build().unwrap_err();
    /// assert_eq!(errors.iter().next().map(|e| e.path()), Some("sources[0].latency"));
    /// ```
    pub fn from_url(name: impl Into<String>, url: &str) -> Self {
        super::url::source(Common::new(name), url, Vec::new())
    }

    /// Sets a description for people; at most 1024 bytes without control characters.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.common.description = Some(text.into());
        self
    }

    /// Sets one setting by its name in the URL grammar, as in `latency`, `200`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.common.set(&mut self.kind, key, value);
        self
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.common.name
    }

    /// Returns the protocol of this source.
    pub fn protocol(&self) -> InputProtocol {
        match &self.kind {
            SourceKind::Rtmp(_) => InputProtocol::Rtmp,
            SourceKind::RtmpPull(_) => InputProtocol::RtmpPull,
            SourceKind::SrtListener(_) | SourceKind::SrtCaller(_) => InputProtocol::Srt,
            SourceKind::Rtp(_) => InputProtocol::Rtp,
            SourceKind::Udp(_) => InputProtocol::Udp,
            SourceKind::Rist(_) => InputProtocol::Rist,
            SourceKind::RtspListener(_) | SourceKind::RtspCaller(_) => InputProtocol::Rtsp,
            SourceKind::App(family) => InputProtocol::App(*family),
        }
    }

    /// Returns the media family that this source carries.
    pub fn family(&self) -> MediaFamily {
        self.protocol().family()
    }

    /// Returns the program of the transport stream that is remultiplexed to RTMP.
    pub(crate) fn program(&self) -> ProgramChoice {
        match &self.kind {
            SourceKind::SrtListener(SrtListener { srt, .. }) | SourceKind::SrtCaller(SrtCaller { srt, .. }) => {
                srt.program.clone()
            }
            _ => ProgramChoice::Best,
        }
    }

    /// Returns the URL that [`Source::from_url`] reads back to the same source. It contains the secrets.
    pub fn to_url(&self) -> String {
        written_url::write(&written_url::source_parts(&self.kind).of(&self.common))
    }

    /// Returns the congestion control that this source asks the kernel for.
    pub(crate) fn congestion(&self) -> Option<String> {
        self.kind.clone().local()?.congestion.clone()
    }

    /// Returns the address that this source calls, if it is one of this machine and the URL does not say that it calls.
    pub(crate) fn called_own_address(&self, is_local: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        self.common.called_own_address(&mut self.kind.clone(), is_local)
    }

    /// Returns the time without media after which this source is lost. A source in the host's process has none.
    pub(crate) fn idle_timeout(&self) -> Duration {
        let (silence, default) = match &self.kind {
            SourceKind::Rtp(s) => return s.udp.idle_timeout,
            SourceKind::Udp(s) => return s.idle_timeout,
            SourceKind::Rist(s) => return s.udp.idle_timeout,
            SourceKind::Rtmp(s) => (s.silence, 10),
            SourceKind::RtmpPull(s) => (s.silence, 10),
            SourceKind::RtspListener(s) => (s.rtsp.silence, 10),
            SourceKind::RtspCaller(s) => (s.rtsp.silence, 10),
            SourceKind::SrtListener(s) => (s.srt.silence, 5),
            SourceKind::SrtCaller(s) => (s.srt.silence, 5),
            SourceKind::App(_) => return Duration::MAX,
        };
        silence.idle_timeout.unwrap_or(Duration::from_secs(default))
    }

    /// Returns the takeover policy of this source, if it listens.
    pub(crate) fn takeover(&self) -> Takeover {
        let silence = match &self.kind {
            SourceKind::Rtmp(s) => s.silence,
            SourceKind::RtspListener(s) => s.rtsp.silence,
            SourceKind::SrtListener(s) => s.srt.silence,
            _ => return Takeover::default(),
        };
        silence.takeover.unwrap_or_default()
    }

    /// Returns the owner of its settings: protocol, direction and role, as in `SRT listener source`.
    ///
    /// ```
    /// use streamlink_core::{SettingScope, Source};
    /// assert_eq!(Source::from_url("a", "srt://:9000").scope(), SettingScope::SrtListenerSource);
    /// ```
    pub fn scope(&self) -> SettingScope {
        self.kind.scope()
    }

    /// Returns whether this source connects to its peer, instead of waiting for a connection or packets.
    pub fn is_caller(&self) -> bool {
        matches!(self.kind, SourceKind::RtmpPull(_) | SourceKind::SrtCaller(_) | SourceKind::RtspCaller(_))
    }
}

/// Returns the reference of the variants that have the group.
macro_rules! group {
    ($self:ident, $($kind:ident($settings:ident) => $field:expr),+ $(,)?) => {
        match $self {
            $(SourceKind::$kind($settings) => Some($field),)+
            _ => None,
        }
    };
}

impl Fields for SourceKind {
    fn scope(&self) -> SettingScope {
        match self {
            Self::Rtmp(_) => SettingScope::RtmpSource,
            Self::RtmpPull(_) => SettingScope::RtmpPullSource,
            Self::SrtListener(_) => SettingScope::SrtListenerSource,
            Self::SrtCaller(_) => SettingScope::SrtCallerSource,
            Self::Rtp(_) => SettingScope::RtpSource,
            Self::Udp(_) => SettingScope::UdpSource,
            Self::Rist(_) => SettingScope::RistSource,
            Self::RtspListener(_) => SettingScope::RtspListenerSource,
            Self::RtspCaller(_) => SettingScope::RtspCallerSource,
            Self::App(_) => SettingScope::AppSource,
        }
    }

    fn listen(&mut self) -> Option<&mut Listen> {
        group!(
            self,
            Rtmp(s) => &mut s.listen,
            SrtListener(s) => &mut s.listen,
            Rtp(s) => &mut s.udp.listen,
            Udp(s) => &mut s.listen,
            Rist(s) => &mut s.udp.listen,
            RtspListener(s) => &mut s.listen,
        )
    }

    fn call(&mut self) -> Option<&mut Call> {
        group!(self, RtmpPull(s) => &mut s.call, SrtCaller(s) => &mut s.call, RtspCaller(s) => &mut s.call)
    }

    fn local(&mut self) -> Option<&mut LocalEnd> {
        self.call().map(|call| &mut call.local)
    }

    fn srt(&mut self) -> Option<&mut SrtOptions> {
        group!(self, SrtListener(s) => &mut s.srt, SrtCaller(s) => &mut s.srt)
    }

    fn group_caller(&mut self) -> Option<&mut SrtCaller> {
        group!(self, SrtCaller(s) => s)
    }

    fn rtsp(&mut self) -> Option<&mut RtspOptions> {
        group!(self, RtspListener(s) => &mut s.rtsp, RtspCaller(s) => &mut s.rtsp)
    }

    fn silence(&mut self) -> Option<&mut Silence> {
        group!(
            self,
            Rtmp(s) => &mut s.silence,
            RtmpPull(s) => &mut s.silence,
            SrtListener(s) => &mut s.srt.silence,
            SrtCaller(s) => &mut s.srt.silence,
            RtspListener(s) => &mut s.rtsp.silence,
            RtspCaller(s) => &mut s.rtsp.silence,
        )
    }

    fn key(&mut self) -> Option<&mut Option<StreamKey>> {
        group!(self, Rtmp(s) => &mut s.key, RtmpPull(s) => &mut s.key)
    }

    fn chunk_size(&mut self) -> Option<&mut u32> {
        None
    }

    fn relay(&mut self) -> Option<&mut RtmpRelay> {
        None
    }

    fn publish(&mut self) -> Option<&mut RtmpPublishServer> {
        group!(self, Rtmp(s) => s)
    }

    fn play(&mut self) -> Option<&mut RtmpPlayServer> {
        None
    }

    fn rtp_input(&mut self) -> Option<&mut RtpInput> {
        group!(self, Rtp(s) => s)
    }

    fn rtp_output(&mut self) -> Option<&mut RtpOutput> {
        None
    }

    fn udp_input(&mut self) -> Option<&mut UdpInput> {
        group!(self, Rtp(s) => &mut s.udp, Udp(s) => s, Rist(s) => &mut s.udp)
    }

    fn rist_latency(&mut self) -> Option<&mut Duration> {
        group!(self, Rist(s) => &mut s.latency)
    }

    fn udp_output(&mut self) -> Option<&mut UdpOutput> {
        None
    }
}

/// A type that can be the source of a flow: the builders of [`Source`], and `Source` itself.
pub trait IntoSource {
    /// Media family, for the compiler's check of the pairing.
    type Family: family::Family;
    /// Returns the source, with the errors that its builder recorded.
    fn into_source(self) -> Source;
}

impl IntoSource for Source {
    type Family = family::Unchecked;
    fn into_source(self) -> Source {
        self
    }
}

macro_rules! into_source {
    ($($builder:ty: $family:ident => |$settings:pat_param| $kind:expr;)*) => {$(
        impl IntoSource for $builder {
            type Family = family::$family;
            fn into_source(self) -> Source {
                let $settings = self.draft.settings;
                Source { common: self.draft.common, kind: $kind }
            }
        }
        impl From<$builder> for Source {
            fn from(builder: $builder) -> Source {
                builder.into_source()
            }
        }
    )*};
}

into_source! {
    RtmpSourceBuilder: Rtmp => |settings| SourceKind::Rtmp(settings);
    RtmpPullSourceBuilder: Rtmp => |settings| SourceKind::RtmpPull(settings);
    SrtListenerBuilder<role::Source>: Datagrams => |settings| SourceKind::SrtListener(settings);
    SrtCallerBuilder<role::Source>: Datagrams => |settings| SourceKind::SrtCaller(settings);
    RtpSourceBuilder: Rtp => |settings| SourceKind::Rtp(settings);
    UdpSourceBuilder: Rtp => |settings| SourceKind::Udp(settings);
    RistSourceBuilder: Rtp => |settings| SourceKind::Rist(settings);
    RtspListenerBuilder<role::Source>: Rtsp => |settings| SourceKind::RtspListener(settings);
    RtspCallerBuilder<role::Source>: Rtsp => |settings| SourceKind::RtspCaller(settings);
    AppSourceBuilder<family::Datagrams>: Datagrams => |AppInput| SourceKind::App(MediaFamily::Datagrams);
    AppSourceBuilder<family::Rtp>: Rtp => |AppInput| SourceKind::App(MediaFamily::Rtp);
    AppSourceBuilder<family::Rtmp>: Rtmp => |AppInput| SourceKind::App(MediaFamily::Rtmp);
    AppSourceBuilder<family::Rtsp>: Rtsp => |AppInput| SourceKind::App(MediaFamily::Rtsp);
}

pub(crate) fn bind_or_placeholder(common: &mut Common, bind: &str) -> Listen {
    common.record_error("bind", parse_bind(bind, None)).map_or_else(Listen::placeholder, Listen::new)
}

pub(crate) fn remote_or_placeholder(common: &mut Common, remote: &str) -> HostPort {
    common.record_error("remote", remote.parse()).unwrap_or_else(HostPort::placeholder)
}
