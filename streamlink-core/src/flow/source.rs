//! Sources: where media comes in.

use super::{
    address::{Call, HostPort, Listen, parse_bind},
    endpoint::{Common, SourceBuilder},
    pairing::{InputProtocol, family},
    rtmp::{RtmpAddress, RtmpPublishServer, RtmpPull, check_app},
    rtp::RtpInput,
    rtsp::{RtspCaller, RtspListener, RtspOptions, check_path},
    secret::StreamKey,
    settings::{Entries, Settings},
    srt::{SrtCaller, SrtListener, SrtOptions},
};
use crate::{error::Problem, media::MediaFamily};
use std::marker::PhantomData;

/// A source: where media comes in.
///
/// The constructors return a typed builder that offers the settings of its protocol and lets the compiler check
/// the pairing with outputs. [`Source::from_url`] reads the URL grammar instead; its pairing is checked by
/// `build()`.
#[derive(Clone, Debug)]
pub struct Source {
    pub(crate) common: Common,
    pub(crate) kind: SourceKind,
}

/// The settings of a source, one variant a protocol and role.
#[derive(Clone, Debug)]
pub(crate) enum SourceKind {
    Rtmp(RtmpPublishServer),
    RtmpPull(RtmpPull),
    SrtListener(SrtListener),
    SrtCaller(SrtCaller),
    Rtp(RtpInput),
    RtspListener(RtspListener),
    RtspCaller(RtspCaller),
    App(MediaFamily),
}

/// The settings of a source that the host pushes packets into: none beside the family.
#[derive(Clone, Copy, Debug)]
pub struct AppInput<F>(PhantomData<F>);

impl Source {
    /// RTMP publishers push to us: `bind` as in `0.0.0.0:1935`, `app` as in `live`.
    ///
    /// While much comes in at one port (750 writes of its publishers a second, or more), it is read every 8 ms, of all
    /// of them together; else at once, and so where most publishers wait for an acknowledgement within each message
    /// (Nagle's algorithm, RFC 9293 section 3.7.4).
    pub fn rtmp(name: impl Into<String>, bind: &str, app: &str) -> SourceBuilder<RtmpPublishServer> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let app = common.keep("app", check_app(app)).unwrap_or_default();
        SourceBuilder::new(common, RtmpPublishServer { listen, app, key: None, tls: false })
    }

    /// We play from an RTMP server: `url` as in `rtmp://example.com/live`.
    pub fn rtmp_pull(name: impl Into<String>, url: &str, key: StreamKey) -> SourceBuilder<RtmpPull> {
        let mut common = Common::new(name);
        let address = common.keep("url", url.parse()).unwrap_or_else(RtmpAddress::placeholder);
        let mut settings = RtmpPull::new(address);
        settings.key = Some(key);
        SourceBuilder::new(common, settings)
    }

    /// SRT callers push to us: `bind` as in `0.0.0.0:9000`.
    pub fn srt_listener(name: impl Into<String>, bind: &str) -> SourceBuilder<SrtListener> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        SourceBuilder::new(common, SrtListener { listen, srt: SrtOptions::default() })
    }

    /// We call an SRT listener and receive: `remote` as in `example.com:9000`.
    pub fn srt_caller(name: impl Into<String>, remote: &str) -> SourceBuilder<SrtCaller> {
        let mut common = Common::new(name);
        let remote = remote_or_placeholder(&mut common, remote);
        SourceBuilder::new(common, SrtCaller { call: Call::new(remote), srt: SrtOptions::default() })
    }

    /// RTP packets arrive at a local address, or from the multicast group `bind`: `0.0.0.0:5004`,
    /// `239.1.1.1:5004`, `[ff3e::1]:5004`.
    pub fn rtp(name: impl Into<String>, bind: &str) -> SourceBuilder<RtpInput> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        SourceBuilder::new(common, RtpInput::new(listen))
    }

    /// RTSP clients record to us: `bind` as in `0.0.0.0:554`, `path` as in `cam/1`.
    pub fn rtsp_listener(name: impl Into<String>, bind: &str, path: &str) -> SourceBuilder<RtspListener> {
        let mut common = Common::new(name);
        let listen = bind_or_placeholder(&mut common, bind);
        let path = common.keep("path", check_path(path, 1)).unwrap_or_default();
        SourceBuilder::new(common, RtspListener { listen, rtsp: RtspOptions::new(false, path) })
    }

    /// We play from an RTSP server: `url` as in `rtsp://user:password@example.com/path`.
    pub fn rtsp_caller(name: impl Into<String>, url: &str) -> SourceBuilder<RtspCaller> {
        let mut common = Common::new(name);
        let settings = common.keep("url", RtspCaller::parse(url)).unwrap_or_else(|| RtspCaller {
            call: Call::new(HostPort::placeholder()),
            rtsp: RtspOptions::new(false, String::new()),
        });
        SourceBuilder::new(common, settings)
    }

    /// The host pushes datagrams with any payload, most often MPEG-TS.
    pub fn app_datagrams(name: impl Into<String>) -> SourceBuilder<AppInput<family::Datagrams>> {
        SourceBuilder::new(Common::new(name), AppInput(PhantomData))
    }

    /// The host pushes RTP packets.
    pub fn app_rtp(name: impl Into<String>) -> SourceBuilder<AppInput<family::Rtp>> {
        SourceBuilder::new(Common::new(name), AppInput(PhantomData))
    }

    /// The host pushes FLV messages.
    pub fn app_rtmp(name: impl Into<String>) -> SourceBuilder<AppInput<family::Rtmp>> {
        SourceBuilder::new(Common::new(name), AppInput(PhantomData))
    }

    /// The host pushes the RTP packets of RTSP tracks.
    pub fn app_rtsp(name: impl Into<String>) -> SourceBuilder<AppInput<family::Rtsp>> {
        SourceBuilder::new(Common::new(name), AppInput(PhantomData))
    }

    /// A source from a URL, with its settings in the query:
    ///
    /// - `rtp://:5004`, `rtp://239.1.1.1:5004?iface=eth1&pt=33`
    /// - `srt://:9000?mode=listener&latency=120`, `srt://example.com:9000?streamid=cam1`
    /// - `rtmp://0.0.0.0:1935/live/KEY` (publishers push to us), `rtmp://example.com/live?key=KEY` (we pull)
    /// - `rtsp://0.0.0.0:554/cam/1`, `rtsp://user:pw@host/path?transport=tcp`
    /// - `app://datagrams`, `app://rtp`, `app://rtmp`, `app://rtsp`
    ///
    /// `mode=listener|caller` decides where the host does not (no host or a wildcard: listener). What is wrong
    /// with the URL is reported by `build()`, with everything else.
    pub fn from_url(name: impl Into<String>, url: &str) -> Source {
        super::url::source(Common::new(name), url, Vec::new())
    }

    /// A description for people; at most 1024 bytes without control characters.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.common.description = Some(text.into());
        self
    }

    /// Sets one setting by its name in the URL grammar, as in `latency`, `200`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.common.set(&mut self.kind, key, value);
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.common.name
    }

    /// What this source speaks.
    pub fn protocol(&self) -> InputProtocol {
        match &self.kind {
            SourceKind::Rtmp(_) => InputProtocol::Rtmp,
            SourceKind::RtmpPull(_) => InputProtocol::RtmpPull,
            SourceKind::SrtListener(_) | SourceKind::SrtCaller(_) => InputProtocol::Srt,
            SourceKind::Rtp(_) => InputProtocol::Rtp,
            SourceKind::RtspListener(_) | SourceKind::RtspCaller(_) => InputProtocol::Rtsp,
            SourceKind::App(family) => InputProtocol::App(*family),
        }
    }

    /// The media family that this source carries.
    pub fn family(&self) -> MediaFamily {
        self.protocol().family()
    }

    /// The URL that [`Source::from_url`] reads back to the same source. It holds the secrets.
    pub fn to_url(&self) -> String {
        super::url::write(&super::url::source_parts(&self.kind))
    }

    /// Whether this source goes and fetches, instead of waiting for a push.
    pub fn is_caller(&self) -> bool {
        matches!(self.kind, SourceKind::RtmpPull(_) | SourceKind::SrtCaller(_) | SourceKind::RtspCaller(_))
    }
}

impl SourceKind {
    pub(crate) fn settings(&mut self) -> Option<&mut dyn Settings> {
        Some(match self {
            SourceKind::Rtmp(s) => s,
            SourceKind::RtmpPull(s) => s,
            SourceKind::SrtListener(s) => s,
            SourceKind::SrtCaller(s) => s,
            SourceKind::Rtp(s) => s,
            SourceKind::RtspListener(s) => s,
            SourceKind::RtspCaller(s) => s,
            SourceKind::App(_) => return None,
        })
    }
}

impl Settings for SourceKind {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        self.settings()?.set(key, value)
    }

    fn list(&self, out: &mut Entries) {
        // The settings are only read; the mutable access saves a second table of variants.
        if let Some(settings) = self.clone().settings() {
            settings.list(out);
        }
    }
}

/// Anything that can be the source of a flow: the builders of [`Source`], and `Source` itself.
pub trait IntoSource {
    /// The family, for the compiler's check of the pairing.
    type Family: family::Family;
    /// The source, with the errors that its builder found.
    fn into_source(self) -> Source;
}

impl IntoSource for Source {
    type Family = family::Unchecked;
    fn into_source(self) -> Source {
        self
    }
}

macro_rules! into_source {
    ($($settings:ident: $family:ident => $kind:expr;)*) => {$(
        impl IntoSource for SourceBuilder<$settings> {
            type Family = family::$family;
            fn into_source(self) -> Source {
                Source { common: self.common, kind: $kind(self.settings) }
            }
        }
        impl From<SourceBuilder<$settings>> for Source {
            fn from(builder: SourceBuilder<$settings>) -> Source {
                builder.into_source()
            }
        }
    )*};
}

into_source! {
    RtmpPublishServer: Rtmp => SourceKind::Rtmp;
    RtmpPull: Rtmp => SourceKind::RtmpPull;
    SrtListener: Datagrams => SourceKind::SrtListener;
    SrtCaller: Datagrams => SourceKind::SrtCaller;
    RtpInput: Rtp => SourceKind::Rtp;
    RtspListener: Rtsp => SourceKind::RtspListener;
    RtspCaller: Rtsp => SourceKind::RtspCaller;
}

macro_rules! into_app_source {
    ($($family:ident),*) => {$(
        impl IntoSource for SourceBuilder<AppInput<family::$family>> {
            type Family = family::$family;
            fn into_source(self) -> Source {
                Source { common: self.common, kind: SourceKind::App(MediaFamily::$family) }
            }
        }
        impl From<SourceBuilder<AppInput<family::$family>>> for Source {
            fn from(builder: SourceBuilder<AppInput<family::$family>>) -> Source {
                builder.into_source()
            }
        }
    )*};
}
into_app_source!(Datagrams, Rtp, Rtmp, Rtsp);

pub(crate) fn bind_or_placeholder(common: &mut Common, bind: &str) -> Listen {
    common.keep("bind", parse_bind(bind, None)).map_or_else(Listen::placeholder, Listen::new)
}

pub(crate) fn remote_or_placeholder(common: &mut Common, remote: &str) -> HostPort {
    common.keep("remote", remote.parse()).unwrap_or_else(HostPort::placeholder)
}
