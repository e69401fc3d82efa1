//! The status of a running endpoint: its name, its counters, and its media.

use super::{Bandwidth, LossReason, RefusalCount, RefusalReason};
use crate::{
    flow::{Allowlist, GroupNode},
    lock::{Guard, lock},
    media::{MediaTrack, PidStats, TransportErrors, TsMonitor},
    router::Counters,
    text::PeerText,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The status of a running endpoint, shared by the engine, the statistics and the endpoint's driver.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) counters: Counters,
    /// The parts that change once a second or less.
    snapshot: Mutex<StatusSnapshot>,
}

/// The status of an endpoint beside its counters, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusSnapshot {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// PIDs of an MPEG-TS source, updated about once a second.
    pub(crate) pids: Vec<PidStats>,
    /// Transport errors of an MPEG-TS source, updated about once a second.
    pub(crate) transport: TransportErrors,
    /// Tracks of a source, updated about once a second.
    pub(crate) tracks: Vec<MediaTrack>,
    /// Players of a listener, updated about once a second.
    pub(crate) players: Vec<PlayerStats>,
    pub(crate) members: Vec<MemberStats>,
    /// Description of the media.
    pub(crate) media: Option<PeerText>,
    /// Sender of a source that is connected, or server that a caller is connected to.
    pub(crate) peer: Option<SocketAddr>,
    last_error: Option<RecordedError>,
    /// Number of refusals for each reason, in the order in which the reasons occurred first.
    pub(crate) refusals: Vec<RefusalCount>,
}

/// Last error of an endpoint, with its time.
#[derive(Clone, Debug)]
struct RecordedError {
    kind: &'static str,
    text: PeerText,
    peer: Option<SocketAddr>,
    at: Instant,
}

impl StatusSnapshot {
    pub(crate) fn last_error(&self, now: Instant) -> Option<LastError> {
        let RecordedError { kind, text, peer, at } = self.last_error.clone()?;
        Some(LastError { kind, text, peer, age: now.saturating_duration_since(at) })
    }
}

impl Status {
    pub(crate) fn new(name: &str, description: Option<String>) -> Arc<Self> {
        let snapshot = StatusSnapshot { name: name.to_owned(), description, ..StatusSnapshot::default() };
        Arc::new(Self { counters: Counters::new(Instant::now()), snapshot: Mutex::new(snapshot) })
    }

    fn lock(&self) -> Guard<'_, StatusSnapshot> {
        // Invariant: nothing panics while the lock is held; if it did, each field is still whole.
        lock(&self.snapshot)
    }

    /// Returns a copy of the status.
    pub(crate) fn snapshot(&self) -> StatusSnapshot {
        self.lock().clone()
    }

    /// Reads the status without copying all of it. `read` runs under the lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&StatusSnapshot) -> T) -> T {
        read(&self.lock())
    }

    /// Updates the PIDs and transport errors.
    pub(super) fn set_transport(&self, monitor: &TsMonitor) {
        let mut snapshot = self.lock();
        snapshot.pids = monitor.pids();
        snapshot.transport = monitor.errors();
    }

    /// Updates the tracks.
    pub(super) fn set_tracks(&self, tracks: Vec<MediaTrack>) {
        self.lock().tracks = tracks;
    }

    /// Updates the list of members of a group.
    pub(super) fn set_members(&self, members: Vec<MemberStats>) {
        self.lock().members = members;
    }

    /// Updates the list of players.
    pub(super) fn set_players(&self, players: Vec<PlayerStats>) {
        self.lock().players = players;
    }

    /// Sets the description of the media.
    pub(super) fn set_media(&self, media: PeerText) {
        self.lock().media = Some(media);
    }

    /// Sets the peer that the endpoint is connected to, or `None` if there is none.
    pub(super) fn set_peer(&self, peer: Option<SocketAddr>) {
        self.lock().peer = peer;
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.lock().peer
    }

    /// Records the loss of a connection, or a failed attempt at one.
    pub(crate) fn record_loss(&self, reason: &LossReason, peer: Option<SocketAddr>, now: Instant) {
        let kind = reason.kind();
        let text = reason.to_string().into();
        self.lock().last_error = Some(RecordedError { kind, text, peer, at: now });
    }

    /// Counts refusals of peers for one reason.
    pub(super) fn count_refusals(&self, reason: RefusalReason, count: u64) {
        self.counters.refused.add(count);
        RefusalCount::add(&mut self.lock().refusals, reason, count);
    }

    /// Adds refusals to the list, which their counter holds already.
    pub(crate) fn add_refusals(&self, refusals: &[RefusalCount]) {
        let mut snapshot = self.lock();
        for refusal in refusals {
            RefusalCount::add(&mut snapshot.refusals, refusal.reason, refusal.count);
        }
    }

    /// Records the refusal of a peer.
    pub(super) fn record_refusal(&self, reason: RefusalReason, peer: SocketAddr, now: Instant) {
        let kind = reason.kind();
        let text = format!("refused: {reason}").into();
        self.lock().last_error = Some(RecordedError { kind, text, peer: Some(peer), at: now });
    }

    pub(crate) fn name(&self) -> String {
        self.lock().name.clone()
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.lock().name == name
    }

    /// Changes the name, the description, or both at once.
    pub(crate) fn edit(&self, name: Option<&str>, description: Option<String>) {
        let mut shown = self.lock();
        if let Some(name) = name {
            name.clone_into(&mut shown.name);
        }
        if description.is_some() {
            shown.description = description;
        }
    }
}

/// Name that lives for ever. A field of this type is not borrowed when it is deserialized, as one of `&str` would be.
type StaticText = &'static str;

/// Last error of a source or an output: the loss of a connection, a failed attempt at one, or the refusal of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LastError {
    /// Stable name of the class of the reason: [`LossReason::kind`] or [`RefusalReason::kind`].
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::serial::known_text"))]
    pub kind: StaticText,
    /// The reason, as the event about it shows it.
    pub text: PeerText,
    /// Address of the peer, if there was one.
    pub peer: Option<SocketAddr>,
    /// Time since the error.
    #[cfg_attr(feature = "serde", serde(rename = "age_ms", with = "crate::serial::millis"))]
    pub age: Duration,
}

/// One player of an output, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PlayerStats {
    /// Address of the player.
    pub peer: SocketAddr,
    /// Duration of the connection.
    #[cfg_attr(feature = "serde", serde(rename = "connected_ms", with = "crate::serial::millis"))]
    pub connected_for: Duration,
    /// Bytes sent, without retransmissions.
    pub bytes: u64,
    /// Packets sent, without retransmissions.
    pub packets: u64,
    /// Packets retransmitted.
    pub retransmitted: u64,
    /// Packets that the player has reported lost.
    pub lost: u64,
    /// Packets dropped because the player was too slow.
    pub dropped: u64,
    /// Round trip time.
    #[cfg_attr(feature = "serde", serde(rename = "round_trip_ms", with = "crate::serial::millis"))]
    pub round_trip: Duration,
}

/// One member of a group of connections (bonding), at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct MemberStats {
    /// Address of the peer: as it was configured for a caller, or that of a caller of ours.
    pub address: String,
    /// Duration of the connection, if there is one.
    #[cfg_attr(feature = "serde", serde(rename = "connected_ms", with = "crate::serial::optional_millis"))]
    pub connected_for: Option<Duration>,
    /// Set while the member carries the media, and does not stand by as in a main/backup group.
    #[cfg_attr(feature = "serde", serde(rename = "active"))]
    pub is_active: bool,
    /// Packets received or sent over this member, without retransmissions.
    pub packets: u64,
    /// Bytes that were delivered from this member, or sent over it.
    pub bytes: u64,
    /// Received packets that another member had brought before.
    pub redundant: u64,
    /// Packets that were missing on this member at first, or that the peer has reported lost.
    pub lost: u64,
    /// Packets retransmitted.
    pub retransmitted: u64,
    /// Packets dropped because the member was too slow.
    pub dropped: u64,
    /// Round trip time.
    #[cfg_attr(feature = "serde", serde(rename = "round_trip_ms", with = "crate::serial::millis"))]
    pub round_trip: Duration,
    /// Loss over the last seconds, in hundredths of a percent, of a leg of a region whose link measures it; otherwise 0.
    pub recent_loss: u32,
}

impl MemberStats {
    /// Returns the statistics of a member or leg that has carried nothing yet, with its address.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }
}

/// Settings of a source that can change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct SourceTunables {
    pub(crate) allow: Allowlist,
    pub(crate) bandwidth: Bandwidth,
    /// Members of the group of connections that a caller is. Empty if it is none.
    pub(crate) members: Vec<GroupNode>,
}
