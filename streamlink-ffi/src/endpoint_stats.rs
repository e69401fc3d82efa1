//! Structs with the statistics of an endpoint and of its players, members, PIDs and tracks, filled in from those of the
//! library.

use crate::{
    guard::{Versioned, plain_name},
    text_block::{TextBlock, TextOffset},
};
use std::{
    ffi::{CStr, c_char},
    time::Duration,
};
use streamlink_core::{EndpointStats, MediaTrack, MemberStats, PidStats, PlayerStats, State};

/// The state of an endpoint.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkState {
    /// Not started, or stopped.
    Idle = 0,
    /// Listening, or between two attempts to connect.
    Waiting = 1,
    /// Media flows, or can flow.
    Connected = 2,
    /// Given up; the last event says why.
    Failed = 3,
}

/// A source or an output at one moment. Counters count from the endpoint's start and never go back. Texts end with NUL,
/// are "" where there is nothing to say, and live as long as the snapshot. Fields are only ever added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkEndpointStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The endpoint's name.
    pub name: *const c_char,
    /// Its description.
    pub description: *const c_char,
    /// Name of its protocol, such as "RTP".
    pub protocol: *const c_char,
    /// The URL that an encoder sends to, of a source that listens; the one that a player fetches from, of an output that
    /// listens.
    pub url: *const c_char,
    /// Composition of the media, once known.
    pub media: *const c_char,
    /// Not 0: a source. 0: an output.
    pub is_source: i32,
    /// A streamlink_state.
    pub state: i32,
    /// Of a source, not 0: the flow is fed by it.
    pub active: i32,
    /// Not 0: the connection is encrypted.
    pub encrypted: i32,
    /// For how long it has been connected, in milliseconds; -1: it is not.
    pub connected_ms: i64,
    /// Number of recoveries after a loss.
    pub reconnections: u64,
    /// Bytes handed on: RTP packets with their header, without UDP and IP.
    pub bytes: u64,
    /// Packets handed on.
    pub packets: u64,
    /// Bits per second, over the last second.
    pub bit_rate: u64,
    /// Packets that never came, or came after their time.
    pub lost: u64,
    /// Packets that came out of order and were put in their place.
    pub recovered: u64,
    /// Packets that were sent again.
    pub retransmitted: u64,
    /// Packets that came and were not handed on.
    pub dropped: u64,
    /// Datagrams that could not be read.
    pub malformed: u64,
    /// Datagrams or connections of peers that were refused, for any reason; see streamlink_stats_refusal().
    pub refused: u64,
    /// Of a source in a merge: packets that no other source has brought.
    pub unique_packets: u64,
    /// Of a source in a merge: packets that came after the window was over.
    pub late: u64,
    /// The interarrival jitter of RTP sources, in microseconds.
    pub jitter_us: u64,
    /// MPEG-TS, ETSI TR 101 290: losses of sync (1.1), wrong sync bytes (1.2), PAT errors (1.3), continuity count errors
    /// (1.4), PMT errors (1.5) and PID errors (1.6); about a second old.
    pub sync_losses: u64,
    /// See sync_losses.
    pub sync_errors: u64,
    /// See sync_losses.
    pub pat_errors: u64,
    /// See sync_losses.
    pub continuity_errors: u64,
    /// See sync_losses.
    pub pmt_errors: u64,
    /// See sync_losses.
    pub pid_errors: u64,
    /// The round trip, in microseconds, of protocols that measure it.
    pub round_trip_us: u64,
    /// The latency that both ends agreed on, in microseconds, of SRT.
    pub latency_us: u64,
    /// The time between the oldest and the newest packet that are held for their moment, in microseconds, of SRT sources.
    pub buffered_us: u64,
    /// Video frames per second, of RTMP sources.
    pub video_frame_rate: f64,
    /// Audio frames per second, of RTMP sources.
    pub audio_frame_rate: f64,
    /// Number of players of an output that listens; see streamlink_stats_player().
    pub player_count: usize,
    /// Number of PIDs in the MPEG-TS of a source; see streamlink_stats_pid().
    pub pid_count: usize,
    /// The address of the sender of a connected source, or of the server that a connected caller has reached.
    pub peer: *const c_char,
    /// The last error: the loss of a connection, a failed attempt at one, or the refusal of a peer. It stays when the
    /// endpoint has recovered.
    pub last_error: *const c_char,
    /// The stable name of the class of the last error, as in "timed_out".
    pub last_error_kind: *const c_char,
    /// The address of the peer that the last error is about.
    pub last_error_peer: *const c_char,
    /// Milliseconds since the last error; -1: there was none.
    pub last_error_age_ms: i64,
    /// Packets of a source that arrived again after they had arrived. They are not counted in dropped.
    pub duplicates: u64,
    /// Packets of an encrypted source that could not be decrypted, were not encrypted, or were altered on their way.
    pub undecrypted: u64,
    /// MPEG-TS, ETSI TR 101 290: transport errors (2.1), CRC errors (2.2), PCR repetition errors (2.3a), PCR discontinuity
    /// errors (2.3b), PTS errors (2.5) and CAT errors (2.6); about a second old.
    pub transport_errors: u64,
    /// See transport_errors.
    pub crc_errors: u64,
    /// See transport_errors.
    pub pcr_repetition_errors: u64,
    /// See transport_errors.
    pub pcr_discontinuity_errors: u64,
    /// See transport_errors.
    pub pts_errors: u64,
    /// See transport_errors.
    pub cat_errors: u64,
    /// Number of tracks of its media; see streamlink_stats_track().
    pub track_count: usize,
    /// Not 0: the endpoint is enabled. 0: it holds its configuration, name and counters, and no sockets.
    pub enabled: i32,
    /// Zero.
    pub reserved: i32,
    /// Repair packets of forward error correction: received by a source, or sent by an output.
    pub repairs: u64,
    /// Packets of a source that were rebuilt from repair packets.
    pub rebuilt: u64,
    /// Packets of a source that were missing and could not be rebuilt from repair packets.
    pub unrepaired: u64,
    /// Number of members of a group of connections (bonding); see streamlink_stats_member().
    pub member_count: usize,
    /// Number of reasons for which peers were refused; see streamlink_stats_refusal().
    pub refusal_count: usize,
    /// The region that an output sends from.
    pub region: *const c_char,
    /// The node of a region on other machines that runs the output, or has run it last.
    pub node: *const c_char,
    /// The URL with the IPv4 address of this machine, of a source or an output that listens on [::], which is reached over
    /// both families.
    pub url_ipv4: *const c_char,
}

/// A player of an output that listens, at one moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkPlayerStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// Its address, as in "192.0.2.1:9000"; lives as long as the snapshot.
    pub peer: *const c_char,
    /// For how long it has been connected, in milliseconds.
    pub connected_ms: u64,
    /// Bytes sent to it, repeats not counted.
    pub bytes: u64,
    /// Packets sent to it, repeats not counted.
    pub packets: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Packets that it reported lost.
    pub lost: u64,
    /// Packets given up for it.
    pub dropped: u64,
    /// The round trip, in microseconds.
    pub round_trip_us: u64,
}

/// A member of a group of connections (bonding), at one moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkMemberStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// Its address: as it was configured for a caller, or that of a caller of ours; lives as long as the snapshot.
    pub address: *const c_char,
    /// For how long it has been connected, in milliseconds; -1: it is not.
    pub connected_ms: i64,
    /// Packets received or sent over it, repeats not counted.
    pub packets: u64,
    /// Bytes that were delivered from it, or sent over it.
    pub bytes: u64,
    /// Received packets that another member had brought before.
    pub redundant: u64,
    /// Packets that were missing on it at first, or that the peer has reported lost.
    pub lost: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Packets given up for it.
    pub dropped: u64,
    /// The round trip, in microseconds.
    pub round_trip_us: u64,
    /// 1 if it carries the media; 0 if it stands by, as in a main/backup group, or is not connected.
    pub active: i32,
    /// Loss over the last seconds, in hundredths of a percent, of a leg of a region whose link measures it; otherwise 0.
    pub recent_loss: u32,
}

/// Number of refusals of peers for one reason, at one moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkRefusalStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The stable name of the reason, as in "refused_not_allowed", the same as in events; lives as long as the snapshot.
    pub reason: *const c_char,
    /// Number of datagrams or connections that were refused for it.
    pub count: u64,
}

/// One PID of an MPEG-TS source, at one moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkPidStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The packet identifier, 0 to 8191.
    pub pid: u32,
    /// The stream type from the PMT (ISO/IEC 13818-1 table 2-34); -1: it is not in a PMT.
    pub stream_type: i32,
    /// Transport packets.
    pub packets: u64,
    /// Continuity counters that did not follow the one before.
    pub continuity_errors: u64,
}

/// One track of the media of a source, or of that from which an output is remultiplexed, at one moment. What is not known,
/// or does not apply to its kind, is 0 or "". Texts live as long as the snapshot. Fields are only ever added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkTrack {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The name of the codec, as in "H.264".
    pub codec: *const c_char,
    /// The name of the profile, as in "High".
    pub profile: *const c_char,
    /// The stable name of the reason why it is left out, as in "no_carriage" or "scrambled"; "": it is carried.
    pub left_out: *const c_char,
    /// The packet identifier, 0 to 8191.
    pub pid: u32,
    /// The number of the program that names it.
    pub program: u32,
    /// The width of the picture, in pixels.
    pub width: u32,
    /// The height of the picture, in pixels.
    pub height: u32,
    /// The sample rate of the sound, in Hz.
    pub sample_rate: u32,
    /// The number of channels of the sound.
    pub channels: u32,
    /// Pictures per second.
    pub frame_rate: f64,
    /// Bits per second of its payload, over the last second or so.
    pub bit_rate: u64,
    /// The number of the track in RTMP (0 is the main one), or of its section in the SDP of RTSP; -1: it has none.
    pub track: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkEndpointStats {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkPlayerStats {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkMemberStats {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkRefusalStats {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkPidStats {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkTrack {}

/// The texts of an endpoint, which its structs point to.
pub(crate) struct Texts {
    block: TextBlock,
    name: TextOffset,
    description: TextOffset,
    protocol: TextOffset,
    url: TextOffset,
    url_ipv4: TextOffset,
    media: TextOffset,
    peer: TextOffset,
    last_error: TextOffset,
    last_error_kind: TextOffset,
    last_error_peer: TextOffset,
    region: TextOffset,
    node: TextOffset,
    pub(crate) players: Vec<TextOffset>,
    pub(crate) members: Vec<TextOffset>,
    pub(crate) refusals: Vec<TextOffset>,
    pub(crate) tracks: Vec<TrackTexts>,
}

/// The texts of a track.
pub(crate) struct TrackTexts {
    codec: TextOffset,
    profile: TextOffset,
    left_out: TextOffset,
}

/// Usual length of the texts of an endpoint, in bytes.
const USUAL_TEXTS: usize = 200;

impl From<&EndpointStats> for Texts {
    fn from(stats: &EndpointStats) -> Self {
        let mut block = TextBlock::with_capacity(USUAL_TEXTS);
        let error = stats.last_error.as_ref();
        Self {
            name: block.add(&stats.name),
            description: block.add_some(stats.description.as_ref()),
            protocol: block.add(stats.protocol),
            url: block.add_some(stats.url.as_ref()),
            url_ipv4: block.add_some(stats.url_ipv4.as_ref()),
            media: block.add_some(stats.media.as_ref()),
            peer: block.add_some(stats.peer),
            last_error: block.add_some(error.map(|error| &error.text)),
            last_error_kind: block.add_some(error.map(|error| error.kind)),
            last_error_peer: block.add_some(error.and_then(|error| error.peer)),
            region: block.add_some(stats.region.as_ref()),
            node: block.add_some(stats.node.as_ref()),
            players: stats.players.iter().map(|player| block.add(player.peer)).collect(),
            members: stats.members.iter().map(|member| block.add(&member.address)).collect(),
            refusals: stats.refusals.iter().map(|refusal| block.add(refusal.reason.kind())).collect(),
            tracks: stats.tracks.iter().map(|track| TrackTexts::new(track, &mut block)).collect(),
            block,
        }
    }
}

impl Texts {
    /// Returns one of the texts.
    pub(crate) fn at(&self, offset: TextOffset) -> &CStr {
        self.block.at(offset)
    }
}

impl TrackTexts {
    fn new(track: &MediaTrack, block: &mut TextBlock) -> Self {
        Self {
            codec: block.add(track.codec),
            profile: block.add_some(track.profile),
            left_out: block.add_some(track.left_out.as_ref().map(plain_name)),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the number of a state.
pub(crate) fn state_number(state: State) -> i32 {
    let number = match state {
        State::Waiting => StreamlinkState::Waiting,
        State::Connected => StreamlinkState::Connected,
        State::Failed => StreamlinkState::Failed,
        _ => StreamlinkState::Idle,
    };
    number as i32
}

/// Returns the struct of a member of a group of connections, or of a leg of a region.
pub(crate) fn member_stats(member: &MemberStats, address: &CStr) -> StreamlinkMemberStats {
    let connected = member.connected_for.map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    StreamlinkMemberStats {
        size: 0,
        address: address.as_ptr(),
        connected_ms: connected.unwrap_or(-1),
        packets: member.packets,
        bytes: member.bytes,
        redundant: member.redundant,
        lost: member.lost,
        retransmitted: member.retransmitted,
        dropped: member.dropped,
        round_trip_us: micros(member.round_trip),
        active: member.is_active.into(),
        recent_loss: member.recent_loss,
    }
}

/// Returns the struct of a source or an output.
pub(crate) fn endpoint_stats(s: &EndpointStats, is_source: bool, texts: &Texts) -> StreamlinkEndpointStats {
    StreamlinkEndpointStats {
        size: 0,
        name: texts.at(texts.name).as_ptr(),
        description: texts.at(texts.description).as_ptr(),
        protocol: texts.at(texts.protocol).as_ptr(),
        url: texts.at(texts.url).as_ptr(),
        media: texts.at(texts.media).as_ptr(),
        is_source: is_source.into(),
        state: state_number(s.state),
        active: s.active.into(),
        encrypted: s.encrypted.into(),
        connected_ms: s.connected_for.map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
        reconnections: s.reconnections,
        bytes: s.bytes,
        packets: s.packets,
        bit_rate: s.bit_rate.as_bps(),
        lost: s.lost,
        recovered: s.recovered,
        retransmitted: s.retransmitted,
        dropped: s.dropped,
        malformed: s.malformed,
        refused: s.refused,
        unique_packets: s.unique_packets,
        late: s.late,
        jitter_us: micros(s.jitter),
        sync_losses: s.transport.sync_losses,
        sync_errors: s.transport.sync_byte,
        pat_errors: s.transport.pat,
        continuity_errors: s.transport.continuity,
        pmt_errors: s.transport.pmt,
        pid_errors: s.transport.pid,
        round_trip_us: micros(s.round_trip),
        latency_us: micros(s.latency),
        buffered_us: micros(s.buffered),
        video_frame_rate: s.video_frame_rate,
        audio_frame_rate: s.audio_frame_rate,
        player_count: s.players.len(),
        pid_count: s.pids.len(),
        peer: texts.at(texts.peer).as_ptr(),
        last_error: texts.at(texts.last_error).as_ptr(),
        last_error_kind: texts.at(texts.last_error_kind).as_ptr(),
        last_error_peer: texts.at(texts.last_error_peer).as_ptr(),
        last_error_age_ms: s
            .last_error
            .as_ref()
            .map_or(-1, |error| i64::try_from(error.age.as_millis()).unwrap_or(i64::MAX)),
        duplicates: s.duplicates,
        undecrypted: s.undecrypted,
        transport_errors: s.transport.transport,
        crc_errors: s.transport.crc,
        pcr_repetition_errors: s.transport.pcr_repetition,
        pcr_discontinuity_errors: s.transport.pcr_discontinuity,
        pts_errors: s.transport.pts,
        cat_errors: s.transport.cat,
        track_count: s.tracks.len(),
        enabled: s.enabled.into(),
        reserved: 0,
        repairs: s.repairs,
        rebuilt: s.rebuilt,
        unrepaired: s.unrepaired,
        member_count: s.members.len(),
        refusal_count: s.refusals.len(),
        region: texts.at(texts.region).as_ptr(),
        node: texts.at(texts.node).as_ptr(),
        url_ipv4: texts.at(texts.url_ipv4).as_ptr(),
    }
}

/// Returns the struct of a player.
pub(crate) fn player_stats(player: &PlayerStats, peer: &CStr) -> StreamlinkPlayerStats {
    StreamlinkPlayerStats {
        size: 0,
        peer: peer.as_ptr(),
        connected_ms: millis(player.connected_for),
        bytes: player.bytes,
        packets: player.packets,
        retransmitted: player.retransmitted,
        lost: player.lost,
        dropped: player.dropped,
        round_trip_us: micros(player.round_trip),
    }
}

/// Returns the struct of a PID.
pub(crate) fn pid_stats(pid: &PidStats) -> StreamlinkPidStats {
    StreamlinkPidStats {
        size: 0,
        pid: pid.pid.into(),
        stream_type: pid.stream_type.map_or(-1, i32::from),
        packets: pid.packets,
        continuity_errors: pid.continuity_errors,
    }
}

/// Returns the struct of a track.
pub(crate) fn track_stats(track: &MediaTrack, offsets: &TrackTexts, texts: &Texts) -> StreamlinkTrack {
    StreamlinkTrack {
        size: 0,
        codec: texts.at(offsets.codec).as_ptr(),
        profile: texts.at(offsets.profile).as_ptr(),
        left_out: texts.at(offsets.left_out).as_ptr(),
        pid: track.pid.into(),
        program: track.program.into(),
        width: track.width,
        height: track.height,
        sample_rate: track.sample_rate,
        channels: track.channels.into(),
        frame_rate: track.frame_rate.unwrap_or_default(),
        bit_rate: track.bit_rate,
        track: track.track.map_or(-1, i32::from),
        reserved: 0,
    }
}
