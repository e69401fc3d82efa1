//! Reasons for the loss of an endpoint and for the refusal of a peer.

use crate::text::PeerText;
use std::fmt;

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
    /// The peer refused the connection, in its own words.
    Rejected(PeerText),
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

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Idle => f.write_str("no media for the idle timeout"),
            LossReason::BandwidthExceeded => f.write_str("maximum bandwidth exceeded"),
            LossReason::NoLongerAllowed => f.write_str("no longer on the allowlist"),
            LossReason::Kicked => f.write_str("cut off by the host"),
            LossReason::Closed => f.write_str("closed by the peer"),
            LossReason::Rejected(what) => write!(f, "refused by the peer: {what}"),
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
