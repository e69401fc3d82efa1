//! Configuration: flows, sources and outputs with all their settings. This module is pure data: it opens no sockets and
//! reads no clock.
//!
//! The types of settings only hold valid values ([`Latency`], [`Passphrase`], [`Allowlist`], …), and a [`Flow`] only
//! exists if it is valid as a whole.

mod address;
mod allowlist;
mod bandwidth_policy;
mod bitrate;
mod build;
mod builder;
mod claim;
mod configuration;
mod failover;
mod fingerprint;
mod group;
#[cfg(feature = "serde")]
mod json;
mod name;
mod output;
mod pairing;
mod parsed_url;
mod peer_limits;
mod printed_url;
mod program;
mod rist;
mod rtmp;
mod rtp;
mod rtsp;
mod secret;
mod setting;
mod setting_table;
mod settings;
mod shown_url;
mod silence;
mod source;
mod srt;
mod stream_id;
mod udp;
mod url;
mod written_url;

pub use address::{HostPort, Interface};
pub use allowlist::Allowlist;
pub use bandwidth_policy::BandwidthPolicy;
pub use bitrate::Bitrate;
pub use build::{Flow, FlowBuilder, NeedsSource, NoSource};
pub use builder::role;
pub use configuration::{EndpointConfiguration, FlowConfiguration};
pub use failover::{Failover, FailoverPolicy};
pub use name::Name;
pub use output::{IntoOutput, Output, TapBuilder};
pub use pairing::{FedBy, InputProtocol, OutputProtocol, family};
pub use peer_limits::PeerLimits;
pub use rist::{RistOutputBuilder, RistSourceBuilder};
pub use rtmp::{
    RtmpAddress, RtmpPullOutputBuilder, RtmpPullSourceBuilder, RtmpPushBuilder, RtmpRelayBuilder, RtmpSourceBuilder,
};
pub use rtp::{Fec, PayloadTypes, Rewrite, RtpOutputBuilder, RtpSourceBuilder};
pub use rtsp::{RtspCallerBuilder, RtspListenerBuilder, RtspTransport};
pub use secret::{Credentials, CryptoMode, KeyLength, Passphrase, StreamKey};
pub use setting::{Setting, SettingScope, SettingValue, settings};
pub use shown_url::{PeerUrl, shown_url};
pub use silence::Takeover;
pub use source::{AppSourceBuilder, IntoSource, Source};
pub(crate) use srt::GroupNode;
pub use srt::{GroupType, Latency, SrtCallerBuilder, SrtListenerBuilder};
pub use udp::{Pace, UdpOutputBuilder, UdpSourceBuilder};

pub(crate) use address::{Call, Listen, LocalEnd, Reconnect};
pub(crate) use build::{MAX_PATHS, check_description, check_failover, check_output, check_source};
pub(crate) use claim::Claim;
pub(crate) use fingerprint::Fingerprints;
pub(crate) use group::MemberEdit;
pub(crate) use output::{OutputKind, TapOutput};
pub(crate) use printed_url::{rtmp_url, rtsp_url, srt_url};
pub(crate) use rist::{RistInput, RistOutput};
pub(crate) use rtmp::{DEFAULT_GOP_CACHE, RtmpPlayServer, RtmpPublishServer, RtmpPull, RtmpPush, RtmpRelay};
pub(crate) use rtp::{RtpInput, RtpOutput};
pub(crate) use rtsp::{RTSP_PORT, RTSPS_PORT, RtspCaller, RtspListener, RtspOptions};
pub(crate) use source::SourceKind;
pub(crate) use srt::{SrtCaller, SrtListener, SrtOptions};
pub(crate) use stream_id::{StreamId, StreamIdError};
pub(crate) use udp::{UdpInput, UdpOutput};
