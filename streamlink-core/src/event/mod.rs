//! Events of a running flow with their reasons, and the bounded queues that deliver them to the host.

mod queue;
mod reader;
mod reason;

pub(crate) use queue::{EngineEventSink, EventSink, Mailbox};
pub use reader::{EngineEvents, Events};
pub use reason::{LossReason, RefusalCount, RefusalReason};

use crate::{
    media::{PayloadProblem, TransportCheck},
    text::PeerText,
};
use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// Something that happened in a flow. [`std::fmt::Display`] gives a sentence for a log.
///
/// With the feature `serde`, an event is an object whose member `event` names it, as in
/// `{"event":"source_lost","source":"venue","peer":"192.0.2.1:5000","reason":{"kind":"idle"}}`. Durations are numbers of
/// milliseconds (`delay_ms`, `gap_ms`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "event", rename_all = "snake_case"))]
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
        #[cfg_attr(feature = "serde", serde(rename = "delay_ms", with = "crate::serial::millis"))]
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
        #[cfg_attr(feature = "serde", serde(rename = "gap_ms", with = "crate::serial::millis"))]
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
        #[cfg_attr(feature = "serde", serde(rename = "delay_ms", with = "crate::serial::millis"))]
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
        /// Details: what the peer asked for, or the exact rejection. Empty if there are none.
        detail: PeerText,
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
    /// Packets are larger than the payload size of an SRT output (`payloadsize`, and the packet size of its peer), and
    /// were not sent. At most one event a second for each output.
    OutputOversized {
        /// The output's name.
        output: String,
        /// Packets since the last such event.
        packets: u64,
        /// Largest payload that the output sends, in bytes.
        limit: usize,
    },
    /// Description of the media, when it is first known and when it changes.
    MediaDescribed {
        /// The source's name.
        source: String,
        /// The codecs, as in `MPEG-TS: H.264 (PID 256), AAC (PID 257)`.
        description: PeerText,
    },
    /// The MPEG-TS of a source has failed a check of ETSI TR 101 290. While a check goes on failing, the time between two
    /// events about it doubles, from one second up to a minute.
    TransportError {
        /// The source's name.
        source: String,
        /// The check that failed.
        check: TransportCheck,
        /// Number of failures since the last such event.
        count: u64,
    },
    /// Two senders use the same SSRC on the port of an RTP source. The packets of the one that was there first pass. One
    /// event for each connection of the source.
    SendersCollide {
        /// The source's name.
        source: String,
        /// Address of the sender that was heard last.
        peer: Option<SocketAddr>,
    },
    /// A source has given up missing packets before their time was over, because it may hold no more of those behind them.
    /// At most one event a second.
    GapGivenUp {
        /// The source's name.
        source: String,
        /// Packets since the last such event.
        packets: u64,
    },
    /// Packets of a source in a merge came after the merge window, and repair nothing: its path is longer than that of
    /// another source by more than the window. At most one event in ten seconds.
    MergeWindowMissed {
        /// The source's name.
        source: String,
        /// Packets since the last such event.
        packets: u64,
        /// The merge window.
        #[cfg_attr(feature = "serde", serde(rename = "window_ms", with = "crate::serial::millis"))]
        window: Duration,
    },
    /// A group of connections that an SRT source receives from has one more member.
    MemberConnected {
        /// The source's name.
        source: String,
        /// Address of the member.
        peer: SocketAddr,
    },
    /// A group of connections that an SRT source receives from has lost a member. The others go on.
    MemberLost {
        /// The source's name.
        source: String,
        /// Address of the member.
        peer: SocketAddr,
        /// Reason of the loss.
        reason: LossReason,
    },
    /// A member was added to the group of connections that a caller is, and is called now. [`Event::OutputConnected`] or
    /// [`Event::MemberConnected`] tells when it is connected.
    MemberAdded {
        /// The name of the source or output.
        endpoint: String,
        /// Address of the member, as configured.
        address: String,
    },
    /// A removed member has left the group of connections that a caller is. The others go on.
    MemberRemoved {
        /// The name of the source or output.
        endpoint: String,
        /// Address of the member, as configured.
        address: String,
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
    /// MPEG-TS is turned into RTMP messages: which streams pass, and which do not, for what reason. When RTMP can carry
    /// none, the RTMP outputs have failed. Video that lacks a key frame for a second is named among those that do not
    /// pass, until one comes.
    Remuxed {
        /// The streams that pass, as in `H.264 (PID 256), AAC (PID 257)`.
        carried: PeerText,
        /// The streams that do not.
        left_out: PeerText,
    },
    /// Datagrams of a UDP source, or packets for a UDP output, do not hold whole transport packets of 188 bytes. At most one
    /// event of a kind of problem a minute.
    UnexpectedPayload {
        /// The name of the source or output.
        endpoint: String,
        /// The problem, which says whether the payload is left out.
        problem: PayloadProblem,
        /// Packets since the last such event.
        packets: u64,
    },
    /// A source or output calls out to an address of this machine, and its URL does not say `mode=caller`: it may have
    /// been meant to listen there. Told when it starts.
    CallsOwnAddress {
        /// The name of the source or output.
        endpoint: String,
        /// The address that it calls.
        address: SocketAddr,
    },
    /// Outputs in a region on other machines do not run, or nothing is heard of them.
    RegionWaiting {
        /// The region's name.
        region: String,
        /// Number of outputs of the flow that wait.
        outputs: u32,
        /// Reason.
        reason: LossReason,
    },
    /// The link of the flow to a region has failed, and will be tried again. Failures for the same reason as the one before
    /// are not reported again.
    RegionRetrying {
        /// The region's name.
        region: String,
        /// Number of failures.
        attempt: u32,
        /// Delay before the next attempt.
        #[cfg_attr(feature = "serde", serde(rename = "delay_ms", with = "crate::serial::millis"))]
        delay: Duration,
        /// Reason.
        reason: LossReason,
    },
    /// The link to a region does not keep up with the flow and has lost packets. At most one event a second for each
    /// region.
    RegionLagging {
        /// The region's name.
        region: String,
        /// Packets that it has lost in all.
        dropped: u64,
    },
    /// A leg of the link to a region is connected.
    RegionLegConnected {
        /// The region's name.
        region: String,
        /// Address of the leg.
        leg: PeerText,
    },
    /// A leg of the link to a region is lost, or an attempt to connect it has failed.
    RegionLegLost {
        /// The region's name.
        region: String,
        /// Address of the leg.
        leg: PeerText,
        /// Reason.
        reason: LossReason,
    },
    /// A leg of the link to a region loses more packets than QUIC makes up for in time, about 1 %: the region's media is
    /// better carried over SRT. Told when that begins, and once a minute while it lasts, each time with what was measured.
    RegionLegLossy {
        /// The region's name.
        region: String,
        /// Address of the leg.
        leg: PeerText,
        /// Loss of the last seconds, in hundredths of a percent.
        basis_points: u32,
        /// Round trip time; 0 if it is not known.
        #[cfg_attr(feature = "serde", serde(rename = "round_trip_ms", with = "crate::serial::millis"))]
        round_trip: Duration,
    },
    /// Remark of the link to a region.
    RegionNotice {
        /// The region's name.
        region: String,
        /// The remark.
        text: PeerText,
    },
    /// Events before this one were lost, as the reader was too slow.
    Missed {
        /// Number of lost events.
        count: u64,
    },
}

/// Event of one of the flows of an engine, with its time. [`std::fmt::Display`] gives a sentence with the flow's name.
///
/// With the feature `serde`, the members of the event follow those named here; `at_ms` is the number of milliseconds
/// since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FlowEvent {
    /// Name of the flow. Empty with [`Event::Missed`], which concerns all flows.
    pub flow: String,
    /// Time of the event, by the system's clock.
    #[cfg_attr(feature = "serde", serde(rename = "at_ms", with = "crate::serial::unix_millis"))]
    pub at: SystemTime,
    /// The event.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub event: Event,
}

impl fmt::Display for FlowEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flow.is_empty() {
            return self.event.fmt(f);
        }
        write!(f, "flow `{}`: {}", self.flow, self.event)
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

/// Returns when the next attempt follows, and after how many.
fn when(delay: Duration, attempts: u32) -> String {
    if delay.is_zero() {
        return "at once".into();
    }
    format!("in {} ms, after {}", delay.as_millis(), counted(attempts, "attempt"))
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlowStarted => f.write_str("the flow has started"),
            Self::FlowStopped => f.write_str("the flow has stopped"),
            Self::SourceConnected { source, peer } => write!(f, "source `{source}` connected{}", at(peer)),
            Self::SourceLost { source, peer, reason } => write!(f, "source `{source}`{} lost: {reason}", at(peer)),
            Self::SourceRetrying { source, attempt, delay, reason } => {
                write!(f, "source `{source}` retries {}: {reason}", when(*delay, *attempt))
            }
            Self::Switched { from, to, gap } => {
                write!(f, "switched from source `{from}` to `{to}`, gap {} ms", gap.as_millis())
            }
            Self::OutputConnected { output, peer } => write!(f, "output `{output}` connected{}", at(peer)),
            Self::OutputLost { output, peer, reason } => write!(f, "output `{output}`{} lost: {reason}", at(peer)),
            Self::OutputRetrying { output, attempt, delay, reason } => {
                write!(f, "output `{output}` retries {}: {reason}", when(*delay, *attempt))
            }
            Self::PeerRefused { endpoint, peer, reason, detail, count } => {
                let detail = if detail.is_empty() { String::new() } else { format!(", {detail}") };
                write!(f, "`{endpoint}` refused {peer}: {reason}{detail} ({})", counted(*count, "time"))
            }
            Self::BandwidthExceeded { source, packets } => {
                write!(f, "source `{source}` exceeds the maximum bandwidth: {}", counted(*packets, "packet"))
            }
            Self::OutputLagging { output, dropped } => {
                write!(f, "output `{output}` does not keep up: {} dropped so far", counted(*dropped, "packet"))
            }
            Self::OutputOversized { output, packets, limit } => {
                let packets = counted(*packets, "packet");
                write!(f, "output `{output}` left out {packets} larger than its payload size of {limit} bytes")
            }
            Self::MediaDescribed { source, description } => write!(f, "source `{source}` carries {description}"),
            Self::TransportError { source, check, count } => {
                write!(f, "source `{source}`: MPEG-TS {check} ({})", counted(*count, "time"))
            }
            Self::SendersCollide { source, peer } => {
                write!(f, "source `{source}`: two senders with the same SSRC")?;
                peer.map_or(Ok(()), |peer| write!(f, " (the last packet is from {peer})"))
            }
            Self::GapGivenUp { source, packets } => {
                write!(f, "source `{source}`: {} given up early, as too many follow", counted(*packets, "packet"))
            }
            Self::MergeWindowMissed { source, packets, window } => {
                let packets = counted(*packets, "packet");
                write!(f, "source `{source}`: {packets} came after the merge window of {} ms", window.as_millis())
            }
            Self::MemberConnected { source, peer } => write!(f, "source `{source}`: group member {peer} connected"),
            Self::MemberLost { source, peer, reason } => {
                write!(f, "source `{source}`: group member {peer} lost: {reason}")
            }
            Self::MemberAdded { endpoint, address } => write!(f, "`{endpoint}`: group member {address} added"),
            Self::MemberRemoved { endpoint, address } => write!(f, "`{endpoint}`: group member {address} removed"),
            Self::TimestampsAhead { source, packets } => {
                write!(f, "source `{source}`: timestamps of {} far ahead of its clock", counted(*packets, "packet"))
            }
            Self::Remuxed { carried, left_out } if carried.is_empty() => {
                write!(f, "no elementary stream can be carried over RTMP: {left_out}")
            }
            Self::Remuxed { carried, left_out } if left_out.is_empty() => write!(f, "RTMP carries {carried}"),
            Self::Remuxed { carried, left_out } => write!(f, "RTMP carries {carried}; left out: {left_out}"),
            Self::UnexpectedPayload { endpoint, problem, packets } => {
                write!(f, "`{endpoint}`: payload is {problem} ({})", counted(*packets, "packet"))
            }
            Self::CallsOwnAddress { endpoint, address } => write!(
                f,
                "`{endpoint}` calls out to {address}, an address of this machine, and does not listen there; add \
                 `mode=listener` to its URL to listen, or `mode=caller` if it is to call"
            ),
            Self::RegionWaiting { region, outputs, reason } => {
                let wait = if *outputs == 1 { "waits" } else { "wait" };
                let reason = reason.text_within_region(region);
                write!(f, "{} {wait} for region `{region}`: {reason}", counted(*outputs, "output"))
            }
            Self::RegionRetrying { region, attempt, delay, reason } => {
                let reason = reason.text_within_region(region);
                write!(f, "the link to region `{region}` retries {}: {reason}", when(*delay, *attempt))
            }
            Self::RegionLagging { region, dropped } => {
                let dropped = counted(*dropped, "packet");
                write!(f, "the link to region `{region}` does not keep up: {dropped} dropped so far")
            }
            Self::RegionLegConnected { region, leg } => write!(f, "leg {leg} to region `{region}` connected"),
            Self::RegionLegLost { region, leg, reason } => write!(f, "leg {leg} to region `{region}` lost: {reason}"),
            Self::RegionLegLossy { region, leg, basis_points, round_trip } => {
                let percent = f64::from(*basis_points) / 100.0;
                write!(f, "leg {leg} to region `{region}` loses {percent:.2} % of its packets")?;
                if !round_trip.is_zero() {
                    write!(f, " at a round trip of {} ms", round_trip.as_millis())?;
                }
                f.write_str(", more than QUIC makes up for: its media is better carried over SRT")
            }
            Self::RegionNotice { region, text } => write!(f, "region `{region}`: {text}"),
            Self::Missed { count } => write!(f, "{} missed", counted(*count, "event")),
        }
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn event_json_has_stable_names_and_reads_back() {
        let address: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let peer = Some(address);
        let delay = Duration::from_micros(1_500_250);
        for (event, json) in [
            (Event::FlowStarted, r#"{"event":"flow_started"}"#),
            (
                Event::SourceLost { source: "a".into(), peer, reason: LossReason::Idle },
                r#"{"event":"source_lost","source":"a","peer":"192.0.2.1:5000","reason":{"kind":"idle"}}"#,
            ),
            (
                Event::OutputRetrying {
                    output: "o".into(),
                    attempt: 2,
                    delay,
                    reason: LossReason::Io("no\u{202e}".into()),
                },
                r#"{"event":"output_retrying","output":"o","attempt":2,"delay_ms":1500.25,"reason":{"kind":"io","detail":"no\\u{202e}"}}"#,
            ),
            (
                Event::PeerRefused {
                    endpoint: "e".into(),
                    peer: address,
                    reason: RefusalReason::NotAllowed,
                    detail: "".into(),
                    count: 3,
                },
                r#"{"event":"peer_refused","endpoint":"e","peer":"192.0.2.1:5000","reason":"refused_not_allowed","detail":"","count":3}"#,
            ),
            (
                Event::TransportError { source: "a".into(), check: TransportCheck::PcrRepetition, count: 1 },
                r#"{"event":"transport_error","source":"a","check":"pcr_repetition","count":1}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), json);
            assert_eq!(serde_json::from_str::<Event>(json).unwrap(), event);
        }
        for bad in ["-1", "1e300", "\"x\""] {
            let json = format!(r#"{{"event":"switched","from":"a","to":"b","gap_ms":{bad}}}"#);
            assert!(serde_json::from_str::<Event>(&json).is_err(), "{bad}");
        }
    }

    #[test]
    fn reason_json_uses_the_names_of_metrics() {
        for reason in [
            LossReason::Idle,
            LossReason::BandwidthExceeded,
            LossReason::NoLongerAllowed,
            LossReason::Rejected("x".into()),
            LossReason::TimedOut,
            LossReason::Internal("x".into()),
        ] {
            assert_eq!(serde_json::to_value(&reason).unwrap()["kind"], reason.kind());
        }
        for reason in [RefusalReason::TooManyFromAddress, RefusalReason::ByHost, RefusalReason::OutOfDescriptors] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.kind());
        }
    }
}
