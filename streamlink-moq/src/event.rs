//! Events of publications and incoming flows, and the bounded queue that delivers them.

use crate::address::RelayAddress;
use serde::Serialize;
use std::time::{Duration, Instant};
use streamlink_core::PeerText;
use tokio::sync::broadcast;

/// Number of events that a slow reader may be behind.
const CAPACITY: usize = 256;

/// Event of a flow on its way over relays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MoqEvent {
    /// A relay answers.
    RelayConnected {
        /// Address of the relay.
        relay: String,
    },
    /// The connection to a relay was lost, or an attempt failed. Repeats with the same reason are not told.
    RelayLost {
        /// Address of the relay.
        relay: String,
        /// Reason.
        reason: PeerText,
    },
    /// A leg receives the media of a broadcast.
    LegUp {
        /// Address of the relay.
        relay: String,
        /// Path of the broadcast.
        path: PeerText,
    },
    /// A leg no longer receives.
    LegDown {
        /// Address of the relay.
        relay: String,
        /// Reason.
        reason: PeerText,
    },
    /// Media that no leg brought within the wait was given up.
    Lost {
        /// Number of objects, or of RTP packets.
        objects: u64,
        /// Number of whole groups beside them.
        groups: u64,
    },
    /// The publisher began again, or its numbers jumped; the stream goes on there.
    Restarted,
    /// Objects that are no media came over a leg. Told at most every 10 s for each leg.
    Malformed {
        /// Address of the relay.
        relay: String,
        /// Reason.
        reason: PeerText,
        /// Number of objects since the last such event.
        objects: u64,
    },
    /// The catalog of the broadcast cannot be used.
    CatalogRefused {
        /// Address of the relay.
        relay: String,
        /// Reason.
        reason: PeerText,
    },
    /// A leg loses more than QUIC makes up for: about 1 %. Such a region is better reached by SRT. Told when that begins,
    /// and once a minute while it lasts.
    LossHigh {
        /// Address of the relay.
        relay: String,
        /// Loss of the last seconds, in hundredths of a percent.
        basis_points: u64,
    },
    /// The loss of a leg is below that again.
    LossNormal {
        /// Address of the relay.
        relay: String,
    },
    /// Packets that cannot be carried were left out. Told at most every 10 s.
    LeftOut {
        /// Reason.
        reason: PeerText,
        /// Number of packets since the last such event.
        packets: u64,
    },
    /// The flow has ended, or takes no more.
    Ended {
        /// Reason.
        reason: PeerText,
    },
    /// The reader of the events was too slow, and has missed so many.
    Missed {
        /// Number of events.
        events: u64,
    },
}

/// Sending end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct EventSink(broadcast::Sender<MoqEvent>);

impl EventSink {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    pub(crate) fn send(&self, event: MoqEvent) {
        match &event {
            MoqEvent::RelayConnected { .. } | MoqEvent::LegUp { .. } | MoqEvent::LossNormal { .. } => {
                log::info!("{event:?}");
            }
            _ => log::warn!("{event:?}"),
        }
        let _ = self.0.send(event); // nobody listens
    }

    pub(crate) fn subscribe(&self) -> MoqEvents {
        MoqEvents(self.0.subscribe())
    }
}

/// Receiving end of the events. A slow reader loses the oldest, and is told how many.
#[derive(Debug)]
pub struct MoqEvents(broadcast::Receiver<MoqEvent>);

impl MoqEvents {
    /// Waits for the next event. `None` after the last.
    pub async fn next(&mut self) -> Option<MoqEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => Some(MoqEvent::Missed { events }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// Returns the next event, if there is one now.
    pub fn try_next(&mut self) -> Option<MoqEvent> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(events)) => Some(MoqEvent::Missed { events }),
            Err(_) => None,
        }
    }
}

/// Counts what is told at most every 10 s.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
    count: u64,
}

impl Throttle {
    const PAUSE: Duration = Duration::from_secs(10);

    /// Counts one. Returns the count since the last time if it is to be told now.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < Self::PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// Watches a loss ratio over windows of some seconds, and tells when it crosses 1 %, and now and then while it stays above.
#[derive(Debug, Default)]
pub(crate) struct LossWatch {
    began: Option<(Instant, u64, u64)>,
    /// Time at which a high loss was told last; `None` while it is not high.
    told: Option<Instant>,
    /// Loss of the last window, in hundredths of a percent.
    basis_points: u64,
}

impl LossWatch {
    /// Length of a window.
    const WINDOW: Duration = Duration::from_secs(5);
    /// Number of packets below which a window says nothing.
    const MIN_PACKETS: u64 = 200;
    /// Loss from which the SRT link is better, in hundredths of a percent.
    const HIGH: u64 = 100;
    /// Loss below which it is not.
    const NORMAL: u64 = 50;
    /// Interval in which a loss that stays high is told again.
    const REPEAT: Duration = Duration::from_secs(60);

    /// Takes in the totals of packets and of lost ones. Returns an event when the loss crosses the bound, and one each
    /// minute while it is high.
    pub(crate) fn observe(&mut self, now: Instant, packets: u64, lost: u64, relay: &RelayAddress) -> Option<MoqEvent> {
        let (began, packets_before, lost_before) = *self.began.get_or_insert((now, packets, lost));
        if packets < packets_before || lost < lost_before {
            self.began = Some((now, packets, lost)); // another connection
            return None;
        }
        let passed = packets - packets_before;
        if now.saturating_duration_since(began) < Self::WINDOW || passed < Self::MIN_PACKETS {
            return None;
        }
        self.began = Some((now, packets, lost));
        let basis_points = (lost - lost_before).saturating_mul(10_000) / passed;
        self.basis_points = basis_points;
        let is_due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= Self::REPEAT);
        if basis_points >= Self::HIGH && is_due {
            self.told = Some(now);
            return Some(MoqEvent::LossHigh { relay: relay.to_string(), basis_points });
        }
        if basis_points < Self::NORMAL && self.told.take().is_some() {
            return Some(MoqEvent::LossNormal { relay: relay.to_string() });
        }
        None
    }

    /// Returns whether the loss is high now.
    pub(crate) fn is_high(&self) -> bool {
        self.told.is_some()
    }

    /// Returns the loss of the last window, in hundredths of a percent.
    pub(crate) fn basis_points(&self) -> u32 {
        u32::try_from(self.basis_points).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_of_one_percent_calls_for_srt() {
        let relay: RelayAddress = "relay-a".parse().unwrap();
        let mut watch = LossWatch::default();
        let start = Instant::now();
        let mut at =
            |seconds: u64, packets, lost| watch.observe(start + Duration::from_secs(seconds), packets, lost, &relay);
        assert_eq!(at(0, 0, 0), None);
        assert_eq!(at(5, 10_000, 50), None);
        let high = MoqEvent::LossHigh { relay: "relay-a:443".to_owned(), basis_points: 150 };
        assert_eq!(at(10, 20_000, 200), Some(high));
        assert_eq!(at(15, 30_000, 400), None);
        assert_eq!(at(20, 40_000, 400), Some(MoqEvent::LossNormal { relay: "relay-a:443".to_owned() }));
        assert_eq!(at(25, 100, 0), None); // another connection
        assert!(!watch.is_high());
    }

    #[test]
    fn loss_that_stays_high_is_told_once_a_minute() {
        let relay: RelayAddress = "relay-a".parse().unwrap();
        let mut watch = LossWatch::default();
        let start = Instant::now();
        let mut told = Vec::new();
        for window in 0..30_u64 {
            let at = start + Duration::from_secs(5 * window);
            // 2 % at first, and 3 % from the tenth window on.
            let lost = 20 * window + 10 * window.saturating_sub(9);
            if let Some(event) = watch.observe(at, 1000 * window, lost, &relay) {
                told.push((5 * window, event));
            }
        }
        let high = |basis_points| MoqEvent::LossHigh { relay: "relay-a:443".to_owned(), basis_points };
        assert_eq!(told, [(5, high(200)), (65, high(300)), (125, high(300))]);
        assert_eq!(watch.basis_points(), 300);
    }

    #[test]
    fn throttle_counts_what_it_does_not_tell() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.count(start), Some(1));
        assert_eq!(throttle.count(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.count(start + Duration::from_secs(11)), Some(2));
    }
}
