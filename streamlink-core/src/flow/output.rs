//! Outputs, which send media.

use super::{
    address::{Call, HostPort, Listen, LocalEnd},
    builder::{Common, endpoint_builder, output_setters, role},
    pairing::{FedBy, OutputProtocol, family},
    rist::{RistOutput, RistOutputBuilder},
    rtmp::{
        RtmpAddress, RtmpPlayServer, RtmpPublishServer, RtmpPullOutputBuilder, RtmpPush, RtmpPushBuilder, RtmpRelay,
        RtmpRelayBuilder, check_app,
    },
    rtp::{RtpInput, RtpOutput, RtpOutputBuilder},
    rtsp::{RtspCaller, RtspCallerBuilder, RtspListener, RtspListenerBuilder, RtspOptions, check_path},
    secret::StreamKey,
    setting::SettingScope,
    setting_table::Fields,
    silence::Silence,
    source::{bind_or_placeholder, remote_or_placeholder},
    srt::{SrtCaller, SrtCallerBuilder, SrtListener, SrtListenerBuilder, SrtOptions},
    udp::{UdpInput, UdpOutput, UdpOutputBuilder},
    written_url,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// An output, which sends media.
///
/// The constructors return a typed builder; [`Output::from_url`] reads the URL grammar instead.
#[derive(Clone, Debug)]
#[must_use]
pub struct Output {
    pub(crate) common: Common,
    pub(crate) kind: OutputKind,
}

/// Settings of an output, one variant per protocol and role.
#[derive(Clone, Debug)]
pub(crate) enum OutputKind {
    RtmpRelay(RtmpRelay),
    RtmpPush(RtmpPush),
    RtmpPlay(RtmpPlayServer),
    SrtListener(SrtListener),
    SrtCaller(SrtCaller),
    Rtp(RtpOutput),
    Udp(UdpOutput),
    Rist(RistOutput),
    RtspListener(RtspListener),
    RtspCaller(RtspCaller),
    Tap(TapOutput),
}

/// Settings of a tap, which passes every packet to the host; none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TapOutput(());

impl TapOutput {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

endpoint_builder! {
    /// Builder of a tap, which passes every packet to the host. Made by [`Output::tap`](crate::Output::tap).
    TapBuilder: TapOutput
}
output_setters!(TapBuilder);

impl Output {
    /// Returns the builder of an RTMP output, the redundant relay to one destination, or to two with `.second(…)`: `url`
    /// as in `rtmp://example.com/live`.
    pub fn rtmp(name: impl Into<String>, url: &str, key: StreamKey) -> RtmpRelayBuilder {
        let push = Self::rtmp_push(name, url, key);
        RtmpRelayBuilder::new(push.draft.common, RtmpRelay { first: push.draft.settings, second: None })
    }

    /// Returns the builder of an RTMP_PUSH output, which publishes to a server: `url` as in `rtmp://example.com/live`.
    pub fn rtmp_push(name: impl Into<String>, url: &str, key: StreamKey) -> RtmpPushBuilder {
        let mut common = Common::new(name);
        let address = common.record_error("url", url.parse()).unwrap_or_else(RtmpAddress::placeholder);
        let mut settings = RtmpPush::new(address);
        settings.key = Some(key);
        RtmpPushBuilder::new(common, settings)
    }

    /// Returns the builder of an RTMP_PULL output, which serves players: `bind` as in `0.0.0.0:1935`, `app` as in `live`.
    pub fn rtmp_pull(name: impl Into<String>, bind: &str, app: &str) -> RtmpPullOutputBuilder {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let app = common.record_error("app", check_app(app)).unwrap_or_default();
        RtmpPullOutputBuilder::new(common, RtmpPlayServer::new(listen, app))
    }

    /// Returns the builder of an SRT output that listens and sends to callers: `bind` as in `0.0.0.0:9001`.
    pub fn srt_listener(name: impl Into<String>, bind: &str) -> SrtListenerBuilder<role::Output> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        SrtListenerBuilder::new(common, SrtListener { listen, srt: SrtOptions::default() })
    }

    /// Returns the builder of an SRT output that calls a listener and sends: `remote` as in `example.com:9000`.
    pub fn srt_caller(name: impl Into<String>, remote: &str) -> SrtCallerBuilder<role::Output> {
        let mut common = Common::new(name);
        let remote = remote_or_placeholder(&mut common, remote);
        SrtCallerBuilder::new(common, SrtCaller { call: Call::new(remote), srt: SrtOptions::default() })
    }

    /// Returns the builder of an RTP output: `destination` as in `example.com:5004`, `239.1.1.1:5004`,
    /// `[ff3e::1]:5004`.
    pub fn rtp(name: impl Into<String>, destination: &str) -> RtpOutputBuilder {
        let mut common = Common::new(name);
        let destination = common.record_error("destination", destination.parse()).unwrap_or_else(HostPort::placeholder);
        RtpOutputBuilder::new(common, RtpOutput::new(destination))
    }

    /// Returns the builder of a UDP output, which sends MPEG-TS in plain datagrams: `destination` as in
    /// `example.com:1234`, `239.1.1.1:1234`, `[ff3e::1]:1234`.
    ///
    /// It sends the payload of RTP packets of payload type 33. Packets with anything else are left out and told in an
    /// event.
    pub fn udp(name: impl Into<String>, destination: &str) -> UdpOutputBuilder {
        let mut common = Common::new(name);
        let destination = common.record_error("destination", destination.parse()).unwrap_or_else(HostPort::placeholder);
        UdpOutputBuilder::new(common, UdpOutput::new(destination))
    }

    /// Returns the builder of a RIST output (VSF TR-06-1, simple profile), which sends to a receiver with an even port:
    /// `destination` as in `example.com:5000`. RTCP goes to the next port.
    pub fn rist(name: impl Into<String>, destination: &str) -> RistOutputBuilder {
        let mut common = Common::new(name);
        let destination = common.record_error("destination", destination.parse()).unwrap_or_else(HostPort::placeholder);
        RistOutputBuilder::new(common, RistOutput::new(destination))
    }

    /// Returns the builder of an RTSP output that serves players: `bind` as in `0.0.0.0:554`, `path` as in `cam/1`.
    pub fn rtsp_listener(name: impl Into<String>, bind: &str, path: &str) -> RtspListenerBuilder<role::Output> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let path = common.record_error("path", check_path(path, 1)).unwrap_or_default();
        RtspListenerBuilder::new(common, RtspListener { listen, rtsp: RtspOptions::new(false, path) })
    }

    /// Returns the builder of an RTSP output that records to a server: `url` as in
    /// `rtsp://user:password@example.com/path`.
    pub fn rtsp_caller(name: impl Into<String>, url: &str) -> RtspCallerBuilder<role::Output> {
        let mut common = Common::new(name);
        let settings = common.record_error("url", RtspCaller::parse(url)).unwrap_or_else(|| RtspCaller {
            call: Call::new(HostPort::placeholder()),
            rtsp: RtspOptions::new(false, String::new()),
        });
        RtspCallerBuilder::new(common, settings)
    }

    /// Returns the builder of a tap, which passes every packet to the host without copying; see
    /// [`FlowHandle::tap`](crate::FlowHandle::tap).
    pub fn tap(name: impl Into<String>) -> TapBuilder {
        TapBuilder::new(Common::new(name), TapOutput::new())
    }

    /// Returns the output of a URL, with its settings in the query:
    ///
    /// - `rtp://192.0.2.1:5004?second=198.51.100.1:5004`, `rtp://239.1.1.1:5004?iface=eth1&ttl=8`
    /// - `udp://192.0.2.1:1234`, `udp://239.1.1.1:1234?iface=eth1&ttl=8&pace=pcr` (MPEG-TS without RTP)
    /// - `rist://example.com:5000`
    /// - `srt://:9001?mode=listener&max_players=4`, `srt://example.com:9000?passphrase=…&pbkeylen=32`
    /// - `rtmp://0.0.0.0:1935/live/KEY` (players pull from it), `rtmp://example.com/live?key=KEY` (pushes),
    ///   and with `relay=true` or `second=…` the redundant relay
    /// - `rtsp://0.0.0.0:554/cam/1`, `rtsp://user:pw@host/path?transport=tcp`
    /// - `tap:`
    ///
    /// `build()` reports errors in the URL.
    ///
    /// ```
    /// use streamlink_core::{Output, OutputProtocol};
    ///
    /// let output = Output::from_url("partner", "srt://:9001?max_players=4");
    /// assert_eq!(output.protocol(), OutputProtocol::Srt);
    /// assert_eq!(output.to_url(), "srt://0.0.0.0:9001?max_players=4");
    /// ```
    pub fn from_url(name: impl Into<String>, url: &str) -> Self {
        super::url::output(Common::new(name), url, Vec::new())
    }

    /// Sets a description for people; at most 1024 bytes without control characters.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.common.description = Some(text.into());
        self
    }

    /// Sets the region that this output leaves from: a name that the engine maps to a local address or interface, or to other
    /// machines that run it (see [`RegionLink`](crate::RegionLink)).
    pub fn region(mut self, name: impl Into<String>) -> Self {
        self.common.region = Some(name.into());
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

    /// Returns the protocol of this output.
    pub fn protocol(&self) -> OutputProtocol {
        match &self.kind {
            OutputKind::RtmpRelay(_) => OutputProtocol::Rtmp,
            OutputKind::RtmpPush(_) => OutputProtocol::RtmpPush,
            OutputKind::RtmpPlay(_) => OutputProtocol::RtmpPull,
            OutputKind::SrtListener(_) | OutputKind::SrtCaller(_) => OutputProtocol::Srt,
            OutputKind::Rtp(_) => OutputProtocol::Rtp,
            OutputKind::Udp(_) => OutputProtocol::Udp,
            OutputKind::Rist(_) => OutputProtocol::Rist,
            OutputKind::RtspListener(_) | OutputKind::RtspCaller(_) => OutputProtocol::Rtsp,
            OutputKind::Tap(_) => OutputProtocol::Tap,
        }
    }

    /// Returns true if this output hands packets to the host.
    pub(crate) fn is_tap(&self) -> bool {
        matches!(self.kind, OutputKind::Tap(_))
    }

    /// Returns this output without its region, as a node of the region runs it.
    pub(crate) fn without_region(mut self) -> Self {
        self.common.region = None;
        self
    }

    /// Returns the congestion control that this output asks the kernel for.
    pub(crate) fn congestion(&self) -> Option<String> {
        let mut kind = self.kind.clone();
        let served = kind.listen().and_then(|listen| listen.congestion.clone());
        served.or_else(|| kind.local()?.congestion.clone())
    }

    /// Returns the address that this output calls, if it is one of this machine and the URL does not say that it calls.
    pub(crate) fn called_own_address(&self, is_local: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        self.common.called_own_address(&mut self.kind.clone(), is_local)
    }

    /// Returns the owner of its settings: protocol, direction and role, as in `SRT listener output`.
    ///
    /// ```
    /// use streamlink_core::{Output, SettingScope};
    /// assert_eq!(Output::from_url("a", "srt://example.com:9000").scope(), SettingScope::SrtCallerOutput);
    /// ```
    pub fn scope(&self) -> SettingScope {
        self.kind.scope()
    }

    /// Returns the URL that [`Output::from_url`] reads back to the same output. It contains the secrets.
    pub fn to_url(&self) -> String {
        written_url::write(&written_url::output_parts(&self.kind).of(&self.common))
    }
}

/// Returns the reference of the variants that have the group.
macro_rules! group {
    ($self:ident, $($kind:ident($settings:ident) => $field:expr),+ $(,)?) => {
        match $self {
            $(OutputKind::$kind($settings) => Some($field),)+
            #[allow(unreachable_patterns)]
            _ => None,
        }
    };
}

impl Fields for OutputKind {
    fn scope(&self) -> SettingScope {
        match self {
            Self::RtmpRelay(_) => SettingScope::RtmpOutput,
            Self::RtmpPush(_) => SettingScope::RtmpPushOutput,
            Self::RtmpPlay(_) => SettingScope::RtmpPullOutput,
            Self::SrtListener(_) => SettingScope::SrtListenerOutput,
            Self::SrtCaller(_) => SettingScope::SrtCallerOutput,
            Self::Rtp(_) => SettingScope::RtpOutput,
            Self::Udp(_) => SettingScope::UdpOutput,
            Self::Rist(_) => SettingScope::RistOutput,
            Self::RtspListener(_) => SettingScope::RtspListenerOutput,
            Self::RtspCaller(_) => SettingScope::RtspCallerOutput,
            Self::Tap(_) => SettingScope::TapOutput,
        }
    }

    fn listen(&mut self) -> Option<&mut Listen> {
        group!(self, SrtListener(s) => &mut s.listen, RtmpPlay(s) => &mut s.listen, RtspListener(s) => &mut s.listen)
    }

    fn call(&mut self) -> Option<&mut Call> {
        group!(
            self,
            RtmpRelay(s) => &mut s.first.call,
            RtmpPush(s) => &mut s.call,
            SrtCaller(s) => &mut s.call,
            RtspCaller(s) => &mut s.call,
        )
    }

    fn local(&mut self) -> Option<&mut LocalEnd> {
        match self {
            Self::Rtp(s) => Some(&mut s.udp.local),
            Self::Udp(s) => Some(&mut s.local),
            Self::Rist(s) => Some(&mut s.udp.local),
            _ => self.call().map(|call| &mut call.local),
        }
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
        None
    }

    fn key(&mut self) -> Option<&mut Option<StreamKey>> {
        group!(self, RtmpRelay(s) => &mut s.first.key, RtmpPush(s) => &mut s.key, RtmpPlay(s) => &mut s.key)
    }

    fn chunk_size(&mut self) -> Option<&mut u32> {
        group!(self, RtmpRelay(s) => &mut s.first.chunk_size, RtmpPush(s) => &mut s.chunk_size)
    }

    fn relay(&mut self) -> Option<&mut RtmpRelay> {
        group!(self, RtmpRelay(s) => s)
    }

    fn publish(&mut self) -> Option<&mut RtmpPublishServer> {
        None
    }

    fn play(&mut self) -> Option<&mut RtmpPlayServer> {
        group!(self, RtmpPlay(s) => s)
    }

    fn rtp_input(&mut self) -> Option<&mut RtpInput> {
        None
    }

    fn rtp_output(&mut self) -> Option<&mut RtpOutput> {
        group!(self, Rtp(s) => s)
    }

    fn udp_input(&mut self) -> Option<&mut UdpInput> {
        None
    }

    fn udp_output(&mut self) -> Option<&mut UdpOutput> {
        group!(self, Rtp(s) => &mut s.udp, Udp(s) => s, Rist(s) => &mut s.udp)
    }

    fn rist_latency(&mut self) -> Option<&mut Duration> {
        group!(self, Rist(s) => &mut s.latency)
    }
}

/// A type that can be an output of a flow: the builders of [`Output`], and `Output` itself. The compiler's check of the
/// pairing is [`FedBy`](super::FedBy).
pub trait IntoOutput {
    /// Returns the output, with the errors that its builder found.
    fn into_output(self) -> Output;
}

impl IntoOutput for Output {
    fn into_output(self) -> Output {
        self
    }
}

macro_rules! into_output {
    ($($builder:ty => $kind:ident;)*) => {$(
        impl IntoOutput for $builder {
            fn into_output(self) -> Output {
                Output { common: self.draft.common, kind: OutputKind::$kind(self.draft.settings) }
            }
        }
        impl From<$builder> for Output {
            fn from(builder: $builder) -> Output {
                builder.into_output()
            }
        }
        // Behind a source that is known at run time only, `build()` checks the pairing.
        impl FedBy<family::Unchecked> for $builder {}
    )*};
}

into_output! {
    RtmpRelayBuilder => RtmpRelay;
    RtmpPushBuilder => RtmpPush;
    RtmpPullOutputBuilder => RtmpPlay;
    SrtListenerBuilder<role::Output> => SrtListener;
    SrtCallerBuilder<role::Output> => SrtCaller;
    RtpOutputBuilder => Rtp;
    UdpOutputBuilder => Udp;
    RistOutputBuilder => Rist;
    RtspListenerBuilder<role::Output> => RtspListener;
    RtspCallerBuilder<role::Output> => RtspCaller;
    TapBuilder => Tap;
}
