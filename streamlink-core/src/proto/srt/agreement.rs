//! Parameters of a connection, on which both ends have agreed in the handshake.

use super::{crypto::Keys, sequence::Sequence};
use crate::{packet_filter::FilterMatrix, random::Random, secret::Secret};
use std::time::{Duration, Instant};

/// Parameters of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    pub(crate) local_id: u32,
    pub(crate) peer_id: u32,
    /// First sequence number of the packets that we send, and of those of the peer.
    pub(crate) initial_sequence: Sequence,
    pub(crate) peer_sequence: Sequence,
    /// Time for which we hold received packets.
    pub(crate) receive_latency: Duration,
    /// Time for which the peer holds the packets that we send.
    pub(crate) send_latency: Duration,
    pub(crate) drop_late: bool,
    /// Timestamp of the peer's last handshake packet.
    pub(crate) peer_timestamp: u32,
    /// Start of our own timestamps.
    pub(crate) start: Instant,
    pub(crate) keys: Option<Keys>,
    pub(crate) filter: Option<FilterMatrix>,
    /// Group of the peer of which the connection is a member.
    pub(crate) peer_group: Option<u32>,
    pub(crate) passphrase: Option<Secret>,
    /// Packets that each side's buffer holds.
    pub(crate) buffer: usize,
    /// Largest payload that we send, in bytes. It fits into the packets of both ends.
    pub(crate) max_payload: usize,
    /// Packets that the peer's buffer holds.
    pub(crate) peer_window: usize,
    /// Maximum send rate, including retransmissions.
    pub(crate) bytes_per_second: u64,
    pub(crate) peer_idle: Duration,
    /// Number of packets after which the key changes. The next key is announced `key_announce` packets before that.
    pub(crate) key_refresh: u64,
    pub(crate) key_announce: u64,
    pub(crate) random: Random,
}
