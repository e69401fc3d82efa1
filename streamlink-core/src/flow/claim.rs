//! Local addresses that an endpoint claims, and what tells endpoints apart that share one.

use super::{
    address::Listen,
    allowlist::Allowlist,
    output::{Output, OutputKind},
    secret::StreamKey,
    setting_table::Fields,
    source::{Source, SourceKind},
    srt::SrtOptions,
    stream_id::StreamId,
};
use crate::secret::Secret;
use std::{fmt, net::SocketAddr};

/// A local address, and the application and key, stream id or path that tells endpoints apart that share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    transport: &'static str,
    address: SocketAddr,
    key: Secret,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.address)
    }
}

impl Source {
    /// Returns the address that no other endpoint may use; `None` for callers, for a port that the system picks, and
    /// while the endpoint is disabled.
    pub(crate) fn claim(&self) -> Option<Claim> {
        if !self.common.enabled {
            return None;
        }
        let (transport, listen, key) = match &self.kind {
            SourceKind::Rtp(s) => ("udp", &s.udp.listen, s.udp.claim_key()),
            SourceKind::Udp(s) => ("udp", &s.listen, s.claim_key()),
            SourceKind::Rist(s) => ("udp", &s.udp.listen, s.udp.claim_key()),
            SourceKind::SrtListener(s) => ("srt", &s.listen, stream_id_claim(&s.srt)),
            SourceKind::Rtmp(s) => ("rtmp", &s.listen, app_key("publish", &s.app, &s.key)),
            SourceKind::RtspListener(s) => ("rtsp", &s.listen, format!("record {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key: key.into() })
    }

    /// Returns the allowlist of a listener.
    pub(crate) fn allow_mut(&mut self) -> Option<&mut Allowlist> {
        self.kind.listen().map(|listen| &mut listen.allow)
    }
}

impl Output {
    /// Returns the settings of an output that listens.
    pub(crate) fn listen_mut(&mut self) -> Option<&mut Listen> {
        self.kind.listen()
    }

    /// Returns the address that no other endpoint may use; `None` for callers, for a port that the system picks, and
    /// while the endpoint is disabled.
    pub(crate) fn claim(&self) -> Option<Claim> {
        if !self.common.enabled {
            return None;
        }
        let (transport, listen, key) = match &self.kind {
            OutputKind::SrtListener(s) => ("srt", &s.listen, stream_id_claim(&s.srt)),
            OutputKind::RtmpPlay(s) => ("rtmp", &s.listen, app_key("play", &s.app, &s.key)),
            OutputKind::RtspListener(s) => ("rtsp", &s.listen, format!("play {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key: key.into() })
    }
}

/// Returns the stream id as part of a claim: the same for ids that ask for the same stream.
fn stream_id_claim(options: &SrtOptions) -> String {
    let id = options.stream_id.as_deref();
    id.map(|id| StreamId::parse(id).unwrap_or_else(|_| StreamId::plain(id)).claim()).unwrap_or_default()
}

/// Returns the application and key as part of a claim. The role is part of it, because a publisher and players may use
/// the same ones.
fn app_key(role: &str, app: &str, key: &Option<StreamKey>) -> String {
    format!("{role} {app}/{}", key.as_ref().map_or("", StreamKey::reveal))
}
