//! Events: what a host is told while its flow runs.

use crate::{media::TransportCheck, text::PeerText};
use std::{fmt, net::SocketAddr, time::Duration};

/// Something that happened in a flow. [`std::fmt::Display`] gives a sentence for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The flow runs.
    FlowStarted,
    /// The flow has stopped; no more events follow.
    FlowStopped,
    /// A source brings media.
    SourceConnected {
        /// The source's name.
        source: String,
        /// Who sends; `None` for a source in the host's process.
        peer: Option<SocketAddr>,
    },
    /// A source brings no more media.
    SourceLost {
        /// The source's name.
        source: String,
        /// Why.
        reason: LossReason,
    },
    /// A source that calls will try to connect again.
    SourceRetrying {
        /// The source's name.
        source: String,
        /// How many attempts have failed.
        attempt: u32,
        /// How long it waits.
        delay: Duration,
    },
    /// The flow has switched from one source to another.
    Switched {
        /// The name of the source that was active.
        from: String,
        /// The name of the source that is.
        to: String,
        /// The gap in the media.
        gap: Duration,
    },
    /// An output is connected, or a player of it.
    OutputConnected {
        /// The output's name.
        output: String,
        /// The destination or the player.
        peer: Option<SocketAddr>,
    },
    /// An output, or a player of it, has lost its connection.
    OutputLost {
        /// The output's name.
        output: String,
        /// The destination or the player.
        peer: Option<SocketAddr>,
        /// Why.
        reason: LossReason,
    },
    /// An output will try to connect again.
    OutputRetrying {
        /// The output's name.
        output: String,
        /// How many attempts have failed.
        attempt: u32,
        /// How long it waits.
        delay: Duration,
    },
    /// A peer was turned away. At most one event a second for each endpoint.
    PeerRefused {
        /// The name of the source or output.
        endpoint: String,
        /// The last such peer.
        peer: SocketAddr,
        /// Why.
        reason: RefusalReason,
        /// How many times since the last such event.
        count: u64,
    },
    /// The source brings more than the flow's maximum bandwidth. At most one event a second.
    BandwidthExceeded {
        /// The source's name.
        source: String,
        /// Packets above the bandwidth since the last such event.
        packets: u64,
    },
    /// An output does not keep up and has lost packets. At most one event a second for each output.
    OutputLagging {
        /// The output's name.
        output: String,
        /// Packets that it has lost in all.
        dropped: u64,
    },
    /// What the media consists of, when it is first known and when it changes.
    MediaDescribed {
        /// The source's name.
        source: String,
        /// The codecs, as in `MPEG-TS: H.264 (PID 256), AAC (PID 257)`.
        description: PeerText,
    },
    /// The MPEG-TS of a source has failed a check of ETSI TR 101 290. At most one event a second for each check.
    TransportError {
        /// The source's name.
        source: String,
        /// Which check.
        check: TransportCheck,
        /// How often, since the last such event.
        count: u64,
    },
    /// Packets of an SRT source carry a time that is more than five seconds ahead of its clock. They pass, after the
    /// latency from their arrival on; a clock that has leapt is believed after 64 of them in a row. At most one event a
    /// second.
    TimestampsAhead {
        /// The source's name.
        source: String,
        /// Packets since the last such event.
        packets: u64,
    },
    /// MPEG-TS is turned into RTMP messages: which streams pass, and which RTMP cannot carry. When none pass, the
    /// RTMP outputs have failed.
    Remuxed {
        /// The streams that pass, as in `H.264 (PID 256), AAC (PID 257)`.
        carried: PeerText,
        /// The streams that do not.
        left_out: PeerText,
    },
    /// The reader was too slow: so many events before this one are gone.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Why a source or an output was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// Nothing came for the idle timeout.
    Idle,
    /// The bandwidth policy is `Disconnect`, and the source was above it.
    BandwidthExceeded,
    /// The edited allowlist no longer admits the peer.
    NoLongerAllowed,
    /// The host has cut the peer off.
    Kicked,
    /// The peer closed the connection.
    Closed,
    /// The peer refused the connection; what it said.
    Rejected(PeerText),
    /// The peer did not answer in time.
    TimedOut,
    /// The peer broke the protocol; how.
    Protocol(PeerText),
    /// The peer did not keep up for too long.
    TooSlow,
    /// The operating system said so.
    Io(PeerText),
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Idle => f.write_str("nothing came for the idle timeout"),
            LossReason::BandwidthExceeded => f.write_str("above the maximum bandwidth"),
            LossReason::NoLongerAllowed => f.write_str("no longer on the allowlist"),
            LossReason::Kicked => f.write_str("cut off by the host"),
            LossReason::Closed => f.write_str("closed by the peer"),
            LossReason::Rejected(what) => write!(f, "refused by the peer: {what}"),
            LossReason::TimedOut => f.write_str("the peer does not answer"),
            LossReason::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
            LossReason::TooSlow => f.write_str("the peer does not keep up"),
            LossReason::Io(text) => text.fmt(f),
        }
    }
}

/// Why a peer was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It is not on the allowlist.
    NotAllowed,
    /// The endpoint has as many peers as it may have.
    TooManyPeers,
    /// Its passphrase is another one.
    WrongPassphrase,
    /// It is encrypted and the endpoint is not, or the other way round.
    EncryptionMismatch,
    /// It asked for a stream that is not there.
    NoSuchStream,
    /// Another publisher is connected.
    InUse,
    /// It wants what we do not have, or speaks another version.
    Incompatible,
    /// The host has refused it.
    ByHost,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalReason::NotAllowed => "not on the allowlist",
            RefusalReason::TooManyPeers => "too many peers",
            RefusalReason::WrongPassphrase => "wrong passphrase",
            RefusalReason::EncryptionMismatch => "one end is encrypted and the other is not",
            RefusalReason::NoSuchStream => "no such stream",
            RefusalReason::InUse => "another publisher is connected",
            RefusalReason::Incompatible => "incompatible",
            RefusalReason::ByHost => "refused by the host",
        })
    }
}

fn at(peer: &Option<SocketAddr>) -> String {
    peer.map(|p| format!(" ({p})")).unwrap_or_default()
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::FlowStarted => f.write_str("the flow has started"),
            Event::FlowStopped => f.write_str("the flow has stopped"),
            Event::SourceConnected { source, peer } => write!(f, "source `{source}` brings media{}", at(peer)),
            Event::SourceLost { source, reason } => write!(f, "source `{source}` is lost: {reason}"),
            Event::SourceRetrying { source, attempt, delay } => {
                write!(f, "source `{source}` tries again in {} ms, after {attempt} attempts", delay.as_millis())
            }
            Event::Switched { from, to, gap } => {
                write!(f, "switched from source `{from}` to `{to}`, gap {} ms", gap.as_millis())
            }
            Event::OutputConnected { output, peer } => write!(f, "output `{output}` is connected{}", at(peer)),
            Event::OutputLost { output, peer, reason } => write!(f, "output `{output}`{} is lost: {reason}", at(peer)),
            Event::OutputRetrying { output, attempt, delay } => {
                write!(f, "output `{output}` tries again in {} ms, after {attempt} attempts", delay.as_millis())
            }
            Event::PeerRefused { endpoint, peer, reason, count } => {
                write!(f, "`{endpoint}` refused {peer}: {reason} ({count} times)")
            }
            Event::BandwidthExceeded { source, packets } => {
                write!(f, "source `{source}` is above the maximum bandwidth: {packets} packets")
            }
            Event::OutputLagging { output, dropped } => {
                write!(f, "output `{output}` does not keep up: {dropped} packets dropped so far")
            }
            Event::MediaDescribed { source, description } => write!(f, "source `{source}` carries {description}"),
            Event::TransportError { source, check, count } => {
                write!(f, "source `{source}`: {check} in its MPEG-TS ({count} times)")
            }
            Event::TimestampsAhead { source, packets } => {
                write!(f, "source `{source}`: the timestamps of {packets} packets are far ahead of its clock")
            }
            Event::Remuxed { carried, left_out } if carried.is_empty() => {
                write!(f, "RTMP can carry nothing of what there is: {left_out}")
            }
            Event::Remuxed { carried, left_out } if left_out.is_empty() => write!(f, "RTMP carries {carried}"),
            Event::Remuxed { carried, left_out } => write!(f, "RTMP carries {carried}; left out: {left_out}"),
            Event::Missed { count } => write!(f, "{count} events were missed"),
        }
    }
}
