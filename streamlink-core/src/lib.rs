//! StreamLink relays live video. A **flow** has one **source**, with or without backups, and passes its packets to any
//! number of **outputs**. Packets are not copied, and a faulty or slow peer does not affect any other.
//!
//! ```
//! use streamlink_core::{Bitrate, Engine, Flow, Output, Packet, Source};
//! use std::time::Instant;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new()?;
//! let flow = Flow::builder("match-day", Bitrate::mbps(20))
//!     .source(Source::rtp("venue", "127.0.0.1:0").allow("127.0.0.0/8".parse()?))
//!     .output(Output::rtp("studio", "127.0.0.1:5004"))
//!     .output(Output::tap("monitor"))
//!     .build()?; // every error at once, each with its field
//! engine.block_on(async {
//!     let running = engine.start(flow).await?;
//!     println!("point the encoder at {}", running.input_addresses()[0]);
//!     running.add_output(Output::rtp("partner", "127.0.0.1:5006")).await?;
//!     println!("{:?}", running.next_event().await);
//!     running.stop().await;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Supported pairings
//!
//! The compiler checks the pairing of a source and an output where their types are known, and `build()` checks it where
//! they are not. See [`FedBy`] and [`InputProtocol::allowed_outputs`].
//!
//! | source | outputs |
//! |---|---|
//! | RTMP, RTMP_PULL | RTMP, RTMP_PUSH, RTMP_PULL |
//! | SRT (listener, caller) | SRT (listener, caller), RTMP_PUSH |
//! | RTP, UDP (MPEG-TS without RTP), RIST | RTP, UDP, RIST |
//! | RTSP (push in, pull) | RTSP (serve, push) |
//! | any | tap (into the host's process) |
//!
//! A source may have backups of the same media family: listeners and callers in any mix. See [`Failover`].
//!
//! # Data path
//!
//! ```text
//! net ──► endpoint ──► proto ──► router ──► endpoint ──► net
//! recvmmsg  RTP source   header,    ring of     shards of      GSO runs
//! GRO       task         order      batches     the fan-out    gathered
//! ```
//!
//! The task of a source reads a socket in batches, without copying. The state machine of its protocol checks and orders
//! the packets. The source group of the flow passes on the packets of the active source, or merges the packets of all
//! sources, and makes the media of successive sources one continuous stream. The packets enter the ring of the flow
//! once, whatever the number of outputs. Each output reads the ring at its own pace. An output that does not keep up
//! loses the oldest packets, which are counted, and no other output is affected.
//!
//! No output has a thread of its own, and few have a task. A few shards drive the RTP outputs. All SRT callers of a
//! port share its socket and its task. The publishers and players of an RTMP or RTSP port share at most as many tasks
//! as the engine has threads. A whole batch leaves in one system call for each output: a run of datagrams, or a
//! vectored write that refers to the protocol's headers and to the received bytes. Where four or more outputs send over
//! UDP, or over RTSP in TCP, packets are copied once as they enter the ring, so that each output passes the kernel one
//! contiguous buffer.
//!
//! Batches of RTMP and RTSP begin at key frames, and the ring retains the last group of pictures, so that a late player
//! starts at once. SRT media that is sent as RTMP passes through a remultiplexer, which publishes into a ring of its
//! own.
//!
//! # Regions
//!
//! An output may name a [`region`](Output::region): a local address or interface from which it sends, or other machines
//! that run it. A [`RegionLink`] carries the packets of a flow there, once however many outputs it has in the region, and
//! reports about them: in statistics and events they look as if they were local. Flows without such outputs pay nothing.
//! The crate `streamlink-moq` has such a link.
//!
//! # Map of the modules
//!
//! | module | contents |
//! |---|---|
//! | `flow` | configuration: flows, sources and outputs with their settings; always valid, pure data |
//! | `engine` | running flows: [`Engine`], [`FlowHandle`], statistics, OpenMetrics |
//! | `endpoint` | drivers that connect sockets, protocols and the router; app sources and taps |
//! | `event` | events of a flow with their reasons, and the bounded queues that deliver them |
//! | `router` | source group (failover, ST 2022-7), ring, bandwidth limiter, counters; no sockets, no clock |
//! | `proto` | RTP, SRT, RTMP and RTSP as state machines that are given bytes and the time |
//! | `media` | packets; parsers of MPEG-TS, FLV and RTP payloads; the remultiplexer from MPEG-TS to FLV |
//! | `net` | batched UDP, vectored TCP, TLS; the only module with `unsafe` |
//!
//! # Features
//!
//! - `tls` (on by default): RTMPS and RTSPS, for listeners and callers (rustls with ring).
//! - `serde`: conversion of flows to and from JSON (`Flow::from_json`, `Flow::to_json`) and any other serde format.
//!
//! # Platforms
//!
//! Linux only. GSO (4.18) and GRO (5.0) are used where the kernel has them.

mod endpoint;
mod engine;
mod error;
mod event;
mod flow;
#[cfg(all(test, not(fuzzing)))]
mod fuzz;
#[cfg(fuzzing)]
pub mod fuzz;
mod lock;
#[cfg(test)]
mod loss_table;
mod media;
mod net;
mod packet_filter;
mod proto;
mod random;
mod router;
mod secret;
#[cfg(feature = "serde")]
mod serial;
#[cfg(any(test, fuzzing))]
mod test_rng;
mod text;
mod time;

pub use endpoint::{
    Access, AccessRequest, AppSource, LastError, MemberStats, PacketBatch, PlayerStats, PushError, Tap, TapCallback,
};
pub use engine::{
    Applied, EndpointStats, Engine, EngineBuilder, FlowHandle, FlowStats, OutputEdit, RegionEgress, RegionFlow,
    RegionKick, RegionLink, RegionOutput, RegionReporter, RegionStats, RegionTask, RegionUpdate, RegionUpdates,
    SourceEdit,
};
pub use error::{ConfigError, ConfigErrorKind, ConfigErrors, Error, ErrorKind};
pub use event::{EngineEvents, Event, Events, FlowEvent, LossReason, RefusalCount, RefusalReason};
pub use flow::{
    Allowlist, AppSourceBuilder, BandwidthPolicy, Bitrate, Credentials, CryptoMode, EndpointConfiguration, Failover,
    FailoverPolicy, Fec, FedBy, Flow, FlowBuilder, FlowConfiguration, GroupType, HostPort, InputProtocol, Interface,
    IntoOutput, IntoSource, KeyLength, Latency, Name, NeedsSource, NoSource, Output, OutputProtocol, Pace, Passphrase,
    PayloadTypes, PeerLimits, PeerUrl, Rewrite, RistOutputBuilder, RistSourceBuilder, RtmpAddress,
    RtmpPullOutputBuilder, RtmpPullSourceBuilder, RtmpPushBuilder, RtmpRelayBuilder, RtmpSourceBuilder,
    RtpOutputBuilder, RtpSourceBuilder, RtspCallerBuilder, RtspListenerBuilder, RtspTransport, Setting, SettingScope,
    SettingValue, Source, SrtCallerBuilder, SrtListenerBuilder, StreamKey, Takeover, TapBuilder, UdpOutputBuilder,
    UdpSourceBuilder, family, role, settings, shown_url,
};
pub use media::{
    LeftOut, MediaFamily, MediaTrack, Packet, PayloadProblem, PidStats, ProgramChoice, RtmpKind, TransportCheck,
    TransportErrors,
};
pub use packet_filter::{FilterArq, FilterLayout, PacketFilter};
pub use router::State;
pub use text::PeerText;

/// Doc tests of the README: its Rust examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
