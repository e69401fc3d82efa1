//! Events of a running flow, and their reasons.

use crate::{media::TransportCheck, text::PeerText};
use std::{fmt, net::SocketAddr, time::Duration};

/// Something that happened in a flow. [`std::fmt::Display`] gives a sentence for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The flow has started.
    FlowStarted,
    /// The flow has stopped; no more events follow.
    FlowStopped,
    /// A source connected: its first media arrived.
    SourceConnected {
        /// The source's name.
        source: String,
        /// Address of the sender; `None` for a source in the host's process.
        peer: Option<SocketAddr>,
    },
    /// A source was lost.
    SourceLost {
        /// The source's name.
        source: String,
        /// Address of the sender, if it was connected; `None` for a source in the host's process.
        peer: Option<SocketAddr>,
        /// Reason.
        reason: LossReason,
    },
    /// A source that calls will try to connect again. Attempts that fail for the same reason as the one before are not
    /// reported again.
    SourceRetrying {
        /// The source's name.
        source: String,
        /// Number of failed attempts.
        attempt: u32,
        /// Delay before the next attempt.
        delay: Duration,
        /// Reason for which the connection was lost, or the attempt has failed.
        reason: LossReason,
    },
    /// The flow has switched from one source to another.
    Switched {
        /// The name of the source that was active.
        from: String,
        /// The name of the source that is active now.
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
        /// Reason.
        reason: LossReason,
    },
    /// An output will try to connect again. Attempts that fail for the same reason as the one before are not reported
    /// again.
    OutputRetrying {
        /// The output's name.
        output: String,
        /// Number of failed attempts.
        attempt: u32,
        /// Delay before the next attempt.
        delay: Duration,
        /// Reason for which the connection was lost, or the attempt has failed.
        reason: LossReason,
    },
    /// A peer was turned away. At most one event a second for each endpoint.
    PeerRefused {
        /// The name of the source or output.
        endpoint: String,
        /// The last such peer.
        peer: SocketAddr,
        /// Reason.
        reason: RefusalReason,
        /// Number of refusals since the last such event.
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
    /// Description of the media, when it is first known and when it changes.
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
        /// The check that failed.
        check: TransportCheck,
        /// Number of failures since the last such event.
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
    /// Events before this one were lost, as the reader was too slow.
    Missed {
        /// Number of lost events.
        count: u64,
    },
}

/// Reason for the loss of a source or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// No media arrived for the idle timeout.
    Idle,
    /// The bandwidth policy is `Disconnect`, and the source was above it.
    BandwidthExceeded,
    /// The edited allowlist no longer admits the peer.
    NoLongerAllowed,
    /// The host has cut the peer off.
    Kicked,
    /// The peer closed the connection.
    Closed,
    /// The peer refused the connection: what it was asked for, and the reason in its own words.
    Rejected(PeerText),
    /// The peer refused the user name, the password or the passphrase: what it was asked for, and the reason in its own
    /// words. The next attempt follows after 30 s at the earliest.
    Unauthorized(PeerText),
    /// Another publisher has taken the place of the peer (`takeover`).
    TakenOver,
    /// No address of the peer could be reached: each address that was tried, with its error.
    Unreachable(PeerText),
    /// The peer did not answer in time.
    TimedOut,
    /// The peer broke the protocol, in the way described.
    Protocol(PeerText),
    /// The peer did not keep up for too long.
    TooSlow,
    /// The peer says that it is there, but of what was sent to it nothing was acknowledged for the idle timeout.
    Unacknowledged,
    /// A fault within the library: it is given up.
    Internal(String),
    /// An error of the operating system.
    Io(PeerText),
}

impl LossReason {
    /// Returns the stable name of the class of this reason, for metrics: lower case, with underscores.
    pub fn kind(&self) -> &'static str {
        match self {
            LossReason::Idle => "idle",
            LossReason::BandwidthExceeded => "bandwidth_exceeded",
            LossReason::NoLongerAllowed => "no_longer_allowed",
            LossReason::Kicked => "kicked",
            LossReason::Closed => "closed",
            LossReason::Rejected(_) => "rejected",
            LossReason::Unauthorized(_) => "unauthorized",
            LossReason::TakenOver => "taken_over",
            LossReason::Unreachable(_) => "unreachable",
            LossReason::TimedOut => "timed_out",
            LossReason::Protocol(_) => "protocol",
            LossReason::TooSlow => "too_slow",
            LossReason::Unacknowledged => "unacknowledged",
            LossReason::Internal(_) => "internal",
            LossReason::Io(_) => "io",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Idle => f.write_str("no media for the idle timeout"),
            LossReason::BandwidthExceeded => f.write_str("maximum bandwidth exceeded"),
            LossReason::NoLongerAllowed => f.write_str("no longer on the allowlist"),
            LossReason::Kicked => f.write_str("cut off by the host"),
            LossReason::Closed => f.write_str("closed by the peer"),
            LossReason::Rejected(what) => write!(f, "refused by the peer: {what}"),
            LossReason::Unauthorized(what) => write!(f, "user, password or passphrase refused by the peer: {what}"),
            LossReason::TakenOver => f.write_str("another publisher has taken over"),
            LossReason::Unreachable(tried) => write!(f, "cannot connect to {tried}"),
            LossReason::TimedOut => f.write_str("no answer from the peer in time"),
            LossReason::Protocol(what) => write!(f, "protocol error of the peer: {what}"),
            LossReason::TooSlow => f.write_str("the peer does not keep up"),
            LossReason::Unacknowledged => f.write_str("nothing acknowledged for the idle timeout"),
            LossReason::Internal(what) => write!(f, "internal error: {what}"),
            LossReason::Io(text) => text.fmt(f),
        }
    }
}

/// Reason for the refusal of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Not on the allowlist.
    NotAllowed,
    /// The endpoint, its port or the peer's address has as many peers as it may have.
    TooManyPeers,
    /// Its address has as many connections, or connections that have not said yet what they want, as one address may
    /// have (`PeerLimits`).
    TooManyFromAddress,
    /// So many attempts of its address were refused that this one was not looked at, or too many are being decided
    /// (`PeerLimits`).
    TooManyAttempts,
    /// There are no file descriptors left for peers, or no UDP ports.
    OutOfDescriptors,
    /// Wrong passphrase.
    WrongPassphrase,
    /// Wrong user name or password.
    WrongPassword,
    /// One end is encrypted and the other is not.
    EncryptionMismatch,
    /// No such stream.
    NoSuchStream,
    /// The stream has no publisher yet.
    NotPublished,
    /// Another publisher is connected.
    InUse,
    /// An unsupported version or feature.
    Incompatible,
    /// It has not said in time what it wants.
    TimedOut,
    /// Refused by the host.
    ByHost,
}

impl RefusalReason {
    /// Returns the stable name of the class of this reason, for metrics: `refused_`, then lower case with underscores.
    pub fn kind(&self) -> &'static str {
        match self {
            RefusalReason::NotAllowed => "refused_not_allowed",
            RefusalReason::TooManyPeers => "refused_too_many_peers",
            RefusalReason::TooManyFromAddress => "refused_too_many_from_address",
            RefusalReason::TooManyAttempts => "refused_too_many_attempts",
            RefusalReason::OutOfDescriptors => "refused_out_of_descriptors",
            RefusalReason::WrongPassphrase => "refused_wrong_passphrase",
            RefusalReason::WrongPassword => "refused_wrong_password",
            RefusalReason::EncryptionMismatch => "refused_encryption_mismatch",
            RefusalReason::NoSuchStream => "refused_no_such_stream",
            RefusalReason::NotPublished => "refused_not_published",
            RefusalReason::InUse => "refused_in_use",
            RefusalReason::Incompatible => "refused_incompatible",
            RefusalReason::TimedOut => "refused_timed_out",
            RefusalReason::ByHost => "refused_by_host",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalReason::NotAllowed => "not on the allowlist",
            RefusalReason::TooManyPeers => "too many peers",
            RefusalReason::TooManyFromAddress => "too many connections of its address",
            RefusalReason::TooManyAttempts => "too many attempts of its address",
            RefusalReason::OutOfDescriptors => "no file descriptors or ports left",
            RefusalReason::WrongPassphrase => "wrong passphrase",
            RefusalReason::WrongPassword => "wrong password",
            RefusalReason::EncryptionMismatch => "one end is encrypted and the other is not",
            RefusalReason::NoSuchStream => "no such stream",
            RefusalReason::NotPublished => "no publisher yet",
            RefusalReason::InUse => "another publisher is connected",
            RefusalReason::Incompatible => "incompatible",
            RefusalReason::TimedOut => "it did not say in time what it wants",
            RefusalReason::ByHost => "refused by the host",
        })
    }
}

/// Returns a number with its noun: `1 packet`, `2 packets`.
fn counted(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
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
            Event::SourceConnected { source, peer } => write!(f, "source `{source}` connected{}", at(peer)),
            Event::SourceLost { source, peer, reason } => write!(f, "source `{source}`{} lost: {reason}", at(peer)),
            Event::SourceRetrying { source, attempt, delay, reason } => {
                let (millis, attempts) = (delay.as_millis(), counted(*attempt, "attempt"));
                write!(f, "source `{source}` retries in {millis} ms, after {attempts}: {reason}")
            }
            Event::Switched { from, to, gap } => {
                write!(f, "switched from source `{from}` to `{to}`, gap {} ms", gap.as_millis())
            }
            Event::OutputConnected { output, peer } => write!(f, "output `{output}` connected{}", at(peer)),
            Event::OutputLost { output, peer, reason } => write!(f, "output `{output}`{} lost: {reason}", at(peer)),
            Event::OutputRetrying { output, attempt, delay, reason } => {
                let (millis, attempts) = (delay.as_millis(), counted(*attempt, "attempt"));
                write!(f, "output `{output}` retries in {millis} ms, after {attempts}: {reason}")
            }
            Event::PeerRefused { endpoint, peer, reason, count } => {
                write!(f, "`{endpoint}` refused {peer}: {reason} ({})", counted(*count, "time"))
            }
            Event::BandwidthExceeded { source, packets } => {
                write!(f, "source `{source}` exceeds the maximum bandwidth: {}", counted(*packets, "packet"))
            }
            Event::OutputLagging { output, dropped } => {
                write!(f, "output `{output}` does not keep up: {} dropped so far", counted(*dropped, "packet"))
            }
            Event::MediaDescribed { source, description } => write!(f, "source `{source}` carries {description}"),
            Event::TransportError { source, check, count } => {
                write!(f, "source `{source}`: MPEG-TS {check} ({})", counted(*count, "time"))
            }
            Event::TimestampsAhead { source, packets } => {
                write!(f, "source `{source}`: timestamps of {} far ahead of its clock", counted(*packets, "packet"))
            }
            Event::Remuxed { carried, left_out } if carried.is_empty() => {
                write!(f, "no elementary stream can be carried over RTMP: {left_out}")
            }
            Event::Remuxed { carried, left_out } if left_out.is_empty() => write!(f, "RTMP carries {carried}"),
            Event::Remuxed { carried, left_out } => write!(f, "RTMP carries {carried}; left out: {left_out}"),
            Event::Missed { count } => write!(f, "{} missed", counted(*count, "event")),
        }
    }
}
