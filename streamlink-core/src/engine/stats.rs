//! Statistics: snapshots of the counters.

use crate::{
    endpoint::{LastError, MemberStats, PlayerStats, Status, StatusSnapshot},
    event::RefusalCount,
    flow::{Bitrate, PeerUrl},
    media::{MediaTrack, PidStats, TransportErrors},
    router::State,
    text::PeerText,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Name that lives for ever. A field of this type is not borrowed when it is deserialized, as one of `&str` would be.
type StaticText = &'static str;

/// Statistics of a flow at one moment.
///
/// With the feature `serde`, statistics are `Serialize`: members have the names of the fields, durations are numbers of
/// milliseconds (`jitter_ms`, `connected_ms`), bit rates are numbers of bits per second, and addresses are text.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FlowStats {
    /// Name of the flow.
    pub name: String,
    /// Maximum bandwidth of the flow.
    pub max_bandwidth: Bitrate,
    /// Packets that no source of a merge (SMPTE ST 2022-7) delivered in time.
    pub merge_lost: u64,
    /// Statistics of the sources.
    pub sources: Vec<EndpointStats>,
    /// Statistics of the outputs.
    pub outputs: Vec<EndpointStats>,
    /// Statistics of the links to the regions on other machines where the flow has outputs.
    #[cfg_attr(feature = "serde", serde(default))]
    pub regions: Vec<RegionStats>,
}

/// Statistics of the link of a flow to a region on other machines, at one moment.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct RegionStats {
    /// Name of the region.
    pub name: String,
    /// `Connected` while a leg is connected or an output is reported, and `Waiting` otherwise.
    pub state: State,
    /// Reason for which outputs wait, if the link has given one or has failed.
    pub waiting: Option<PeerText>,
    /// Number of outputs of the flow in the region.
    pub outputs: u32,
    /// Number of times that the link has failed for this flow.
    pub restarts: u64,
    /// Bytes that the link has taken from the flow, once for all outputs.
    pub bytes: u64,
    /// Packets that the link has taken from the flow.
    pub packets: u64,
    /// Bit rate over the last second.
    pub bit_rate: Bitrate,
    /// Packets that the link has lost, because it did not keep up with the flow.
    pub dropped: u64,
    /// Connections that carry the flow, as the link reports them.
    pub legs: Vec<MemberStats>,
}

/// Statistics of a source or an output at one moment. Counters start with the endpoint and never decrease.
///
/// With the feature `serde`, they read back, as a node of a region sends them: members that are missing have their
/// default, and a URL has no key.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct EndpointStats {
    /// Name of the endpoint.
    pub name: String,
    /// Description of the endpoint.
    pub description: Option<String>,
    /// Name of the protocol, see [`InputProtocol::name`](crate::InputProtocol::name) and
    /// [`OutputProtocol::name`](crate::OutputProtocol::name).
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::serial::known_text"))]
    pub protocol: StaticText,
    /// Region from which an output sends.
    pub region: Option<String>,
    /// Node of a region on other machines that runs the output, or has run it last.
    pub node: Option<PeerText>,
    /// State of the endpoint.
    pub state: State,
    /// False if the endpoint is disabled: it holds its configuration and name only, and no sockets.
    pub enabled: bool,
    /// True if this source feeds the flow. At most one source does, except in a merge.
    pub active: bool,
    /// URL to which encoders send to a listening source, or from which players fetch a listening output.
    ///
    /// It may hold a stream key. Serialized statistics, which are often stored and passed on, hide the key;
    /// [`FlowHandle::input_addresses`](crate::FlowHandle::input_addresses) and
    /// [`FlowHandle::playback_urls`](crate::FlowHandle::playback_urls) return the whole URLs.
    pub url: Option<PeerUrl>,
    /// Time since the endpoint connected, if it is connected.
    #[cfg_attr(feature = "serde", serde(rename = "connected_ms", with = "crate::serial::optional_millis"))]
    pub connected_for: Option<Duration>,
    /// Number of reconnections after a loss.
    pub reconnections: u64,
    /// Bytes passed on: the media as it passes through the flow, without the headers of the transport. Packets with a
    /// media header of their own (RFC 3550) count with it.
    pub bytes: u64,
    /// Packets passed on.
    pub packets: u64,
    /// Bit rate over the last second.
    pub bit_rate: Bitrate,
    /// Packets that never arrived, or arrived too late. For an output, the packets that its players reported lost.
    pub lost: u64,
    /// Packets of a source in a merge that no other source delivered.
    pub unique_packets: u64,
    /// Packets of a source in a merge that arrived after the window.
    pub late: u64,
    /// Packets that arrived out of order and were put in order.
    pub recovered: u64,
    /// Retransmitted packets.
    pub retransmitted: u64,
    /// Packets that arrived and were not passed on. For a source: above the bandwidth, filtered by payload type,
    /// late, of a foreign stream, or lost in a full socket buffer. For an output: it did not keep up, or the
    /// system refused them. Duplicates count as `duplicates` only.
    pub dropped: u64,
    /// Packets of a source that arrived again after they had arrived: retransmissions of packets that were only late, or
    /// copies made by the network.
    pub duplicates: u64,
    /// Datagrams that could not be parsed.
    pub malformed: u64,
    /// Repair packets of forward error correction: received by a source, or sent by an output.
    pub repairs: u64,
    /// Packets of a source that were rebuilt from repair packets. They also count as `recovered` where a later packet had
    /// arrived before.
    pub rebuilt: u64,
    /// Packets of a source that were missing and could not be rebuilt from repair packets. Retransmissions may have
    /// brought them.
    pub unrepaired: u64,
    /// Packets of an encrypted source that could not be decrypted, were not encrypted, or were altered on their way.
    pub undecrypted: u64,
    /// Datagrams or connections of peers that were refused.
    pub refused: u64,
    /// Number of these for each reason, in the order in which the reasons occurred first.
    pub refusals: Vec<RefusalCount>,
    /// Interarrival jitter of a source whose packets carry media timestamps (RFC 3550 section 6.4.1).
    #[cfg_attr(feature = "serde", serde(rename = "jitter_ms", with = "crate::serial::millis"))]
    pub jitter: Duration,
    /// First-priority errors of ETSI TR 101 290 of an MPEG-TS source, about a second old.
    pub transport: TransportErrors,
    /// Video frames per second of a source whose media comes in frames, about a second old.
    pub video_frame_rate: f64,
    /// Audio frames per second of such a source, about a second old.
    pub audio_frame_rate: f64,
    /// Round-trip time, for protocols that measure it.
    #[cfg_attr(feature = "serde", serde(rename = "round_trip_ms", with = "crate::serial::millis"))]
    pub round_trip: Duration,
    /// Latency that both ends of the connection agreed on, for protocols that agree on one.
    #[cfg_attr(feature = "serde", serde(rename = "latency_ms", with = "crate::serial::millis"))]
    pub latency: Duration,
    /// Duration of the media in the receive buffer of a source whose protocol holds packets until their time, from the
    /// oldest to the newest packet.
    #[cfg_attr(feature = "serde", serde(rename = "buffered_ms", with = "crate::serial::millis"))]
    pub buffered: Duration,
    /// True if the connection is encrypted.
    pub encrypted: bool,
    /// Players of an output that listens, about a second old.
    pub players: Vec<PlayerStats>,
    /// Members of a group of connections (bonding), about a second old.
    pub members: Vec<MemberStats>,
    /// Description of the media, once known.
    pub media: Option<PeerText>,
    /// PIDs of an MPEG-TS source, about a second old.
    pub pids: Vec<PidStats>,
    /// Address of the sender of a connected source, or of the server that a connected caller has reached.
    pub peer: Option<SocketAddr>,
    /// Last error of the endpoint. It stays when the endpoint has recovered.
    pub last_error: Option<LastError>,
    /// Tracks of a source, or of an output that is remultiplexed from MPEG-TS, about a second old: those that are carried,
    /// then those that are left out, with the reason. Of the MPEG-TS of a source, the codecs and bit rates alone are known.
    pub tracks: Vec<MediaTrack>,
}

impl EndpointStats {
    pub(super) fn new(status: &Status, protocol: &'static str, url: Option<PeerUrl>, now: Instant) -> Self {
        let c = &status.counters;
        let snapshot = status.snapshot();
        let last_error = snapshot.last_error(now);
        let StatusSnapshot {
            name,
            description,
            pids,
            transport,
            mut tracks,
            players,
            members,
            media,
            peer,
            refusals,
            ..
        } = snapshot;
        let bit_rate = c.bits_per_second(now);
        if bit_rate == 0 {
            // Tracks are measured while something comes.
            for track in &mut tracks {
                track.bit_rate = 0;
            }
        }
        Self {
            name,
            description,
            protocol,
            region: None,
            node: None,
            state: c.state(),
            enabled: true,
            active: false,
            url,
            connected_for: c.connected_for(now),
            reconnections: c.reconnections.get(),
            bytes: c.bytes.get(),
            packets: c.packets.get(),
            bit_rate: Bitrate::bps(bit_rate),
            lost: c.lost.get(),
            unique_packets: 0,
            late: 0,
            recovered: c.recovered.get(),
            retransmitted: c.retransmitted.get(),
            dropped: c.dropped.get(),
            duplicates: c.duplicates.get(),
            malformed: c.malformed.get(),
            repairs: c.repairs.get(),
            rebuilt: c.rebuilt.get(),
            unrepaired: c.unrepaired.get(),
            undecrypted: c.undecrypted.get(),
            refused: c.refused.get(),
            refusals,
            jitter: Duration::from_micros(c.jitter_us.get()),
            transport,
            video_frame_rate: c.video_rate.get() as f64 / 1000.0,
            audio_frame_rate: c.audio_rate.get() as f64 / 1000.0,
            round_trip: Duration::from_micros(c.rtt_us.get()),
            latency: Duration::from_micros(c.latency_us.get()),
            buffered: Duration::from_micros(c.buffered_us.get()),
            encrypted: c.encrypted.get() != 0,
            players,
            members,
            media,
            pids,
            peer,
            last_error,
            tracks,
        }
    }
}
