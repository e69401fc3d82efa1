//! StreamLink moves live video: a **flow** takes one **source**, with or without a backup, and hands its packets
//! to any number of **outputs**, without copying them and without ever letting one bad peer hurt another.
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
//! # What can feed what
//!
//! Checked by the compiler where the types are known, and by `build()` where they are not; see [`FedBy`] and
//! [`InputProtocol::allowed_outputs`].
//!
//! | source | outputs |
//! |---|---|
//! | RTMP, RTMP_PULL | RTMP, RTMP_PUSH, RTMP_PULL |
//! | SRT (listener, caller) | SRT (listener, caller), RTMP_PUSH |
//! | RTP | RTP |
//! | RTSP (push in, pull) | RTSP (serve, push) |
//! | any | tap, into the host's process |
//!
//! A source may have backups, of the same family: listeners and callers in any mix. See [`Failover`].
//!
//! # How a packet travels
//!
//! ```text
//! net ──► endpoint ──► proto ──► router ──► endpoint ──► net
//! recvmmsg  RTP source   header,    ring of     shards of      GSO runs
//! GRO       task         order      batches     the fan-out    gathered
//! ```
//!
//! A source's task reads a socket in batches, without copying. Its protocol's state machine checks and orders the
//! packets. The group of the flow's sources lets those of the active one pass, or merges all, and makes what comes from
//! one after the other a single stream. They enter the flow's ring once, whatever the number of outputs. Each output
//! reads the ring at its own pace: one that does not keep up loses the oldest packets, which are counted, and nobody
//! else notices.
//!
//! No output has a thread, and few have a task: RTP outputs are driven by a few shards; all SRT callers of a port share
//! its socket and its task; the publishers and players of an RTMP or RTSP port share as many tasks as the engine has
//! threads, at most. A whole batch leaves in one system call an output: a run of datagrams, or a vectored write that
//! names the protocol's headers and the bytes that came in. Where four outputs and more send over UDP, or over RTSP in
//! TCP, packets are copied once as they enter the ring, so that what each output names to the kernel is one piece.
//!
//! Batches of RTMP and RTSP begin at key frames, and the ring keeps the last group of pictures, so that a late player
//! starts at once. SRT that leaves as RTMP goes through a remux, which publishes into a ring of its own.
//!
//! # Map of the modules
//!
//! | module | what it is |
//! |---|---|
//! | `flow` | the vocabulary: flows, sources and outputs with their settings; always valid, pure data |
//! | `engine` | runs flows: [`Engine`], [`FlowHandle`], statistics, OpenMetrics |
//! | `endpoint` | the drivers that join sockets, protocol and router; events; app sources and taps |
//! | `router` | the group of sources (failover, ST 2022-7), the ring, the bandwidth limiter, counters; no sockets, no clock |
//! | `proto` | RTP, SRT, RTMP and RTSP as state machines, given bytes and time |
//! | `media` | packets, what can be read in MPEG-TS, FLV and RTP, and the remux of MPEG-TS to FLV |
//! | `net` | UDP in batches, vectored TCP, TLS; the only module with `unsafe` |
//!
//! # Features
//!
//! - `tls` (on by default): RTMPS and RTSPS, for listeners and callers (rustls with ring).
//! - `serde`: flows to and from JSON (`Flow::from_json`, `Flow::to_json`) and any other serde format.
//!
//! # Platforms
//!
//! Linux; GSO (4.18) and GRO (5.0) are used where the kernel has them.

mod endpoint;
mod engine;
mod error;
mod flow;
#[cfg(test)]
mod fuzz;
mod lock;
mod media;
mod net;
mod proto;
mod random;
mod router;
mod secret;
#[cfg(test)]
mod test_rng;
mod text;
mod time;

pub use endpoint::{
    AppSource, Event, LossReason, PacketBatch, PlayerStats, PushError, RefusalReason, SrtAccess, SrtRequest, Tap,
    TapCallback,
};
pub use engine::{
    EndpointStats, Engine, EngineBuilder, Events, FlowHandle, FlowStats, OutputEdit, RegionEgress, SourceEdit,
};
pub use error::{ConfigError, ConfigErrors, Error, ErrorKind, Problem};
pub use flow::{
    Allowlist, AppSourceBuilder, BandwidthPolicy, Bitrate, Credentials, Failover, FailoverPolicy, FedBy, Flow,
    FlowBuilder, HostPort, InputProtocol, Interface, IntoOutput, IntoSource, KeyLength, Latency, Name, NeedsSource,
    NoSource, Output, OutputProtocol, Passphrase, PayloadTypes, PeerLimits, PeerUrl, Rewrite, RtmpAddress,
    RtmpPullOutputBuilder, RtmpPullSourceBuilder, RtmpPushBuilder, RtmpRelayBuilder, RtmpSourceBuilder,
    RtpOutputBuilder, RtpSourceBuilder, RtspCallerBuilder, RtspListenerBuilder, RtspTransport, Source,
    SrtCallerBuilder, SrtListenerBuilder, StreamKey, TapBuilder, family, role, shown_url,
};
pub use media::{MediaFamily, Packet, PidStats, RtmpKind, TransportCheck, TransportErrors};
pub use router::State;
pub use text::PeerText;

/// The Rust of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
