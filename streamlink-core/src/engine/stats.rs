//! Statistics: a snapshot of the counters.

use crate::{
    endpoint::{PlayerStats, Status, StatusSnapshot},
    flow::{Bitrate, PeerUrl},
    media::{PidStats, TransportErrors},
    router::State,
    text::PeerText,
};
use std::time::{Duration, Instant};

/// A flow at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlowStats {
    /// The flow's name.
    pub name: String,
    /// The most that the source may bring.
    pub max_bandwidth: Bitrate,
    /// Of a merge (SMPTE ST 2022-7): packets that no source has brought in time.
    pub merge_lost: u64,
    /// The sources.
    pub sources: Vec<EndpointStats>,
    /// The outputs.
    pub outputs: Vec<EndpointStats>,
}

/// A source or an output at one moment. Counters count from the endpoint's start and never go back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointStats {
    /// The endpoint's name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// What it speaks, as in `RTP`.
    pub protocol: &'static str,
    /// Its state.
    pub state: State,
    /// Of a source: whether the flow is fed by it. Of several only one is, but for a merge.
    pub active: bool,
    /// The URL that an encoder sends to, of a source that listens; the one that a player fetches from, of an output
    /// that listens.
    pub url: Option<PeerUrl>,
    /// For how long it has been connected.
    pub connected_for: Option<Duration>,
    /// How often it has come back after a loss.
    pub reconnections: u64,
    /// Bytes handed on: RTP packets with their header, without UDP and IP.
    pub bytes: u64,
    /// Packets handed on.
    pub packets: u64,
    /// The bit rate over the last second.
    pub bit_rate: Bitrate,
    /// Packets that never came, or came after their time; of an output, those that its players have reported as such.
    pub lost: u64,
    /// Of a source in a merge: packets that no other source has brought.
    pub only_here: u64,
    /// Of a source in a merge: packets that came after the window was over.
    pub late: u64,
    /// Packets that came out of order and were put in their place.
    pub recovered: u64,
    /// Packets that were sent again.
    pub retransmitted: u64,
    /// Packets that came and were not handed on. A source: above the bandwidth, filtered by payload type, double,
    /// late, of a foreign stream, lost in a full socket. An output: it did not keep up, or the system refused them.
    pub dropped: u64,
    /// Datagrams that could not be read.
    pub malformed: u64,
    /// Datagrams or connections of peers that are not on the allowlist.
    pub refused: u64,
    /// The interarrival jitter (RFC 3550 section 6.4.1), of RTP sources.
    pub jitter: Duration,
    /// The first-priority checks of ETSI TR 101 290, of MPEG-TS sources, about a second old.
    pub transport: TransportErrors,
    /// Video frames per second, of RTMP sources, about a second old.
    pub video_frame_rate: f64,
    /// Audio frames per second, of RTMP sources, about a second old.
    pub audio_frame_rate: f64,
    /// The round trip, of protocols that measure it.
    pub round_trip: Duration,
    /// The latency that both ends agreed on, of SRT.
    pub latency: Duration,
    /// The time between the oldest and the newest packet that are held for their moment, of SRT sources.
    pub buffered: Duration,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The players of an output that listens, about a second old.
    pub players: Vec<PlayerStats>,
    /// What the media consists of, once known.
    pub media: Option<PeerText>,
    /// The PIDs of an MPEG-TS source, about a second old.
    pub pids: Vec<PidStats>,
}

impl EndpointStats {
    pub(super) fn new(status: &Status, protocol: &'static str, url: Option<PeerUrl>, now: Instant) -> Self {
        let c = &status.counters;
        let StatusSnapshot { name, description, pids, transport, players, media } = status.snapshot();
        Self {
            name,
            description,
            protocol,
            state: c.state(),
            active: false,
            url,
            connected_for: c.connected_for(now),
            reconnections: c.reconnections.get(),
            bytes: c.bytes.get(),
            packets: c.packets.get(),
            bit_rate: Bitrate::bps(c.bits_per_second(now)),
            lost: c.lost.get(),
            only_here: 0,
            late: 0,
            recovered: c.recovered.get(),
            retransmitted: c.retransmitted.get(),
            dropped: c.dropped.get(),
            malformed: c.malformed.get(),
            refused: c.refused.get(),
            jitter: Duration::from_micros(c.jitter_us.get()),
            transport,
            video_frame_rate: c.video_rate.get() as f64 / 1000.0,
            audio_frame_rate: c.audio_rate.get() as f64 / 1000.0,
            round_trip: Duration::from_micros(c.rtt_us.get()),
            latency: Duration::from_micros(c.latency_us.get()),
            buffered: Duration::from_micros(c.buffered_us.get()),
            encrypted: c.encrypted.get() != 0,
            players,
            media,
            pids,
        }
    }
}
