//! Reasons for the loss of an endpoint and for the refusal of a peer.

use crate::text::PeerText;
use std::fmt;

/// Reason for the loss of a source or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "kind", content = "detail", rename_all = "snake_case"))]
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
    /// The certificate of the peer is not trusted: the reason, and its SHA-256 fingerprint.
    Untrusted(PeerText),
    /// A way to the peer that was tried has not led to media, and another is tried at once: both of them, and the reason.
    OtherWay(PeerText),
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
    /// The peer has sent signs of life, but has acknowledged no media for the idle timeout.
    Unacknowledged,
    /// The region on other machines where the output runs is not available: its name, and the reason. A link gives the reason
    /// alone.
    WaitingForRegion(PeerText),
    /// A fault within the library: it is given up.
    Internal(String),
    /// An error of the operating system.
    Io(PeerText),
}

impl LossReason {
    /// Returns a wait for a region, by the region's name and the reason.
    pub(crate) fn waiting_for_region(region: &str, reason: impl fmt::Display) -> Self {
        Self::WaitingForRegion(PeerText::new(format!("`{region}`: {reason}")))
    }

    /// Returns the text of this reason for a sentence that has named the region: it does not name it again.
    pub(crate) fn text_within_region(&self, region: &str) -> String {
        match self {
            Self::WaitingForRegion(text) => text_after_region(text, region).to_owned(),
            reason => reason.to_string(),
        }
    }

    /// Returns a reason that the link of a region gives. A wait names the region once, whether the link names it or not.
    pub(crate) fn of_region_link(self, region: &str) -> Self {
        match &self {
            Self::WaitingForRegion(_) => Self::waiting_for_region(region, self.text_within_region(region)),
            _ => self,
        }
    }

    /// Returns the stable name of the class of this reason, for metrics: lower case, with underscores.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::BandwidthExceeded => "bandwidth_exceeded",
            Self::NoLongerAllowed => "no_longer_allowed",
            Self::Kicked => "kicked",
            Self::Closed => "closed",
            Self::Rejected(_) => "rejected",
            Self::Unauthorized(_) => "unauthorized",
            Self::Untrusted(_) => "untrusted",
            Self::OtherWay(_) => "other_way",
            Self::TakenOver => "taken_over",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Protocol(_) => "protocol",
            Self::TooSlow => "too_slow",
            Self::Unacknowledged => "unacknowledged",
            Self::WaitingForRegion(_) => "waiting_for_region",
            Self::Internal(_) => "internal",
            Self::Io(_) => "io",
        }
    }
}

/// Returns the part of the text of a wait behind the region's name.
fn text_after_region<'a>(text: &'a str, region: &str) -> &'a str {
    let text = text.strip_prefix("waiting for region ").unwrap_or(text);
    let named = [format!("`{region}`: "), format!("{region}: ")];
    named.iter().find_map(|name| text.strip_prefix(name.as_str())).unwrap_or(text)
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("no media for the idle timeout"),
            Self::BandwidthExceeded => f.write_str("maximum bandwidth exceeded"),
            Self::NoLongerAllowed => f.write_str("no longer on the allowlist"),
            Self::Kicked => f.write_str("cut off by the host"),
            Self::Closed => f.write_str("closed by the peer"),
            Self::Rejected(what) => write!(f, "refused by the peer: {what}"),
            Self::Unauthorized(what) => write!(f, "user, password or passphrase refused by the peer: {what}"),
            Self::Untrusted(what) => write!(f, "the peer is not trusted: {what}"),
            Self::OtherWay(what) => what.fmt(f),
            Self::TakenOver => f.write_str("another publisher has taken over"),
            Self::Unreachable(tried) => write!(f, "cannot connect to {tried}"),
            Self::TimedOut => f.write_str("no answer from the peer in time"),
            Self::Protocol(what) => write!(f, "protocol error of the peer: {what}"),
            Self::TooSlow => f.write_str("the peer does not keep up"),
            Self::Unacknowledged => f.write_str("nothing acknowledged for the idle timeout"),
            Self::WaitingForRegion(what) => write!(f, "waiting for region {what}"),
            Self::Internal(what) => write!(f, "internal error: {what}"),
            Self::Io(text) => text.fmt(f),
        }
    }
}

/// Reason for the refusal of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum RefusalReason {
    /// Not on the allowlist.
    #[cfg_attr(feature = "serde", serde(rename = "refused_not_allowed"))]
    NotAllowed,
    /// The endpoint, its port or the peer's address has as many peers as it may have.
    #[cfg_attr(feature = "serde", serde(rename = "refused_too_many_peers"))]
    TooManyPeers,
    /// The peer's address has as many connections, or connections that have not said yet what they want, as one address may
    /// have (`PeerLimits`).
    #[cfg_attr(feature = "serde", serde(rename = "refused_too_many_from_address"))]
    TooManyFromAddress,
    /// Too many attempts of the peer's address were refused, so that this one was not looked at, or too many are being decided
    /// (`PeerLimits`).
    #[cfg_attr(feature = "serde", serde(rename = "refused_too_many_attempts"))]
    TooManyAttempts,
    /// There are no file descriptors left for peers, or no UDP ports.
    #[cfg_attr(feature = "serde", serde(rename = "refused_out_of_descriptors"))]
    OutOfDescriptors,
    /// Wrong passphrase.
    #[cfg_attr(feature = "serde", serde(rename = "refused_wrong_passphrase"))]
    WrongPassphrase,
    /// Wrong user name or password.
    #[cfg_attr(feature = "serde", serde(rename = "refused_wrong_password"))]
    WrongPassword,
    /// One end is encrypted and the other is not.
    #[cfg_attr(feature = "serde", serde(rename = "refused_encryption_mismatch"))]
    EncryptionMismatch,
    /// No such stream.
    #[cfg_attr(feature = "serde", serde(rename = "refused_no_such_stream"))]
    NoSuchStream,
    /// The stream has no publisher yet.
    #[cfg_attr(feature = "serde", serde(rename = "refused_not_published"))]
    NotPublished,
    /// Another publisher is connected.
    #[cfg_attr(feature = "serde", serde(rename = "refused_in_use"))]
    InUse,
    /// An unsupported version or feature.
    #[cfg_attr(feature = "serde", serde(rename = "refused_incompatible"))]
    Incompatible,
    /// Datagrams from another address or port than the peer of the session has named, or interleaved frames on a channel
    /// on which no track was set up.
    #[cfg_attr(feature = "serde", serde(rename = "refused_other_address"))]
    OtherAddress,
    /// MPEG-TS without RTP headers on the port of an RTP source.
    #[cfg_attr(feature = "serde", serde(rename = "refused_raw_transport_stream"))]
    RawTransportStream,
    /// RIST of the main or advanced profile, whose packets are in a tunnel (VSF TR-06-2), on the port of an RTP or RIST
    /// source.
    #[cfg_attr(feature = "serde", serde(rename = "refused_rist_profile"))]
    RistProfile,
    /// The peer has not sent its request in time.
    #[cfg_attr(feature = "serde", serde(rename = "refused_timed_out"))]
    TimedOut,
    /// Refused by the host.
    #[cfg_attr(feature = "serde", serde(rename = "refused_by_host"))]
    ByHost,
}

/// Number of refusals of peers for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RefusalCount {
    /// The reason.
    pub reason: RefusalReason,
    /// Number of datagrams or connections that were refused for it.
    pub count: u64,
}

impl RefusalCount {
    pub(crate) fn new(reason: RefusalReason, count: u64) -> Self {
        Self { reason, count }
    }

    /// Adds refusals for a reason to a list, which has one entry for each reason that has occurred.
    pub(crate) fn add(list: &mut Vec<Self>, reason: RefusalReason, count: u64) {
        match list.iter_mut().find(|known| known.reason == reason) {
            Some(known) => known.count = known.count.saturating_add(count),
            None => list.push(Self::new(reason, count)),
        }
    }
}

impl RefusalReason {
    /// Returns the stable name of the class of this reason, for metrics: `refused_`, then lower case with underscores.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAllowed => "refused_not_allowed",
            Self::TooManyPeers => "refused_too_many_peers",
            Self::TooManyFromAddress => "refused_too_many_from_address",
            Self::TooManyAttempts => "refused_too_many_attempts",
            Self::OutOfDescriptors => "refused_out_of_descriptors",
            Self::WrongPassphrase => "refused_wrong_passphrase",
            Self::WrongPassword => "refused_wrong_password",
            Self::EncryptionMismatch => "refused_encryption_mismatch",
            Self::NoSuchStream => "refused_no_such_stream",
            Self::NotPublished => "refused_not_published",
            Self::InUse => "refused_in_use",
            Self::Incompatible => "refused_incompatible",
            Self::OtherAddress => "refused_other_address",
            Self::RawTransportStream => "refused_raw_transport_stream",
            Self::RistProfile => "refused_rist_profile",
            Self::TimedOut => "refused_timed_out",
            Self::ByHost => "refused_by_host",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowed => "not on the allowlist",
            Self::TooManyPeers => "too many peers",
            Self::TooManyFromAddress => "too many connections of its address",
            Self::TooManyAttempts => "too many attempts of its address",
            Self::OutOfDescriptors => "no file descriptors or ports left",
            Self::WrongPassphrase => "wrong passphrase",
            Self::WrongPassword => "wrong password",
            Self::EncryptionMismatch => "one end is encrypted and the other is not",
            Self::NoSuchStream => "no such stream",
            Self::NotPublished => "no publisher yet",
            Self::InUse => "another publisher is connected",
            Self::Incompatible => "incompatible",
            Self::OtherAddress => "media from another address, port or channel than was agreed on",
            Self::RawTransportStream => {
                "MPEG-TS without RTP headers; the sender has to wrap it into RTP, or the source's URL to begin with `udp://`"
            }
            Self::RistProfile => {
                "RIST of the main or advanced profile; the sender has to use the simple profile, without encryption"
            }
            Self::TimedOut => "no request in time",
            Self::ByHost => "refused by the host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use std::time::Duration;

    #[test]
    fn region_waiting_text_names_region_once() {
        for given in [
            "no relay answers",
            "`eu`: no relay answers",
            "eu: no relay answers",
            "waiting for region `eu`: no relay answers",
        ] {
            let reason = LossReason::WaitingForRegion(given.into()).of_region_link("eu");
            assert_eq!(reason.to_string(), "waiting for region `eu`: no relay answers", "{given}");
            assert_eq!(reason.text_within_region("eu"), "no relay answers", "{given}");
            // A text of the host's making reads no worse.
            for reason in [reason, LossReason::WaitingForRegion(given.into())] {
                let told = Event::RegionWaiting { region: "eu".into(), outputs: 2, reason: reason.clone() };
                assert_eq!(told.to_string(), "2 outputs wait for region `eu`: no relay answers", "{given}");
                let told = Event::RegionRetrying { region: "eu".into(), attempt: 1, delay: Duration::ZERO, reason };
                assert_eq!(told.to_string().matches("region").count(), 1, "{told}");
                assert!(told.to_string().ends_with(": no relay answers"), "{told}");
            }
        }
        let other = LossReason::TimedOut;
        assert_eq!(other.clone().of_region_link("eu"), other);
        assert_eq!(other.text_within_region("eu"), other.to_string());
    }
}
