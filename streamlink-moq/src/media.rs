//! Media of a flow at a node: from the relays, or over SRT, into the app source, past the fence.

use crate::{
    Error, Incoming, MoqEvent, MoqEvents, Relays, SubscribeSettings,
    srt_link::{SrtIncoming, SrtMedia},
    status::LegLoss,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use streamlink_core::{AppSource, Engine, PeerText};

/// Fence of a node: while its lease is over, flows with exclusive outputs receive nothing, so that a process that was
/// suspended sends nothing before it has stopped them.
#[derive(Debug)]
pub(crate) struct Fence {
    node: String,
    state: Mutex<FenceState>,
}

#[derive(Debug)]
struct FenceState {
    until: Option<Instant>,
    /// Flows with exclusive outputs.
    exclusive: BTreeSet<String>,
}

impl Fence {
    pub(crate) fn new(node: &str) -> Self {
        let state = FenceState { until: None, exclusive: BTreeSet::new() };
        Self { node: node.to_owned(), state: Mutex::new(state) }
    }

    /// Returns the name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time until which the lease is held.
    pub(crate) fn set(&self, until: Option<Instant>) {
        self.state().until = until;
    }

    /// Notes whether a flow has exclusive outputs.
    pub(crate) fn note(&self, flow: &str, has_exclusive: bool) {
        let mut state = self.state();
        if has_exclusive {
            state.exclusive.insert(flow.to_owned());
        } else {
            state.exclusive.remove(flow);
        }
    }

    /// Returns `true` if a flow may pass media on at `now`.
    pub(crate) fn is_open(&self, flow: &str, now: Instant) -> bool {
        let state = self.state();
        state.until.is_some_and(|until| now < until) || !state.exclusive.contains(flow)
    }
}

/// Media of a flow on its way into a source. Dropping it ends the reception.
pub(crate) enum Media {
    /// Over all relays.
    Relays(FromRelays),
    /// From the publishers themselves.
    Srt(SrtIncoming),
}

/// Media from the relays, with the loss of its legs.
pub(crate) struct FromRelays {
    incoming: Incoming,
    events: MoqEvents,
    /// Legs that lose more than QUIC makes up for, by their addresses.
    lossy: BTreeMap<String, LegLoss>,
    measured: u64,
}

impl FromRelays {
    /// Returns the legs that lose more than QUIC makes up for.
    fn losses(&mut self) -> Vec<LegLoss> {
        while let Some(event) = self.events.try_next() {
            match event {
                MoqEvent::LossHigh { relay, basis_points } => self.note(relay, basis_points),
                MoqEvent::LossNormal { relay } => {
                    self.lossy.remove(&relay);
                }
                _ => {}
            }
        }
        self.lossy.values().cloned().collect()
    }

    fn note(&mut self, relay: String, basis_points: u64) {
        let legs = self.incoming.stats().legs;
        let link = legs.iter().find(|leg| leg.relay.relay == relay).and_then(|leg| leg.relay.link);
        let millis = link.and_then(|link| link.rtt_ms).filter(|rtt| rtt.is_finite()).unwrap_or_default();
        self.measured += 1;
        let loss = LegLoss {
            leg: PeerText::new(&relay),
            number: self.measured,
            basis_points: u32::try_from(basis_points).unwrap_or(u32::MAX),
            round_trip_ms: millis.clamp(0.0, 60_000.0) as u32,
        };
        self.lossy.insert(relay, loss);
    }
}

/// Parts of a node that the reception of media uses.
pub(crate) struct Receivers<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) relays: &'a Arc<Relays>,
    pub(crate) fence: &'a Arc<Fence>,
}

impl Media {
    /// Receives a flow's media into a source: over SRT if `srt` says from where, and from `path` on the relays otherwise.
    ///
    /// # Errors
    /// [`Error::Address`] for a path that cannot name a broadcast, [`Error::Family`] for media of another family.
    pub(crate) fn receive(
        node: &Receivers<'_>,
        flow: &str,
        path: &str,
        srt: Option<&SrtMedia>,
        source: AppSource,
    ) -> Result<Self, Error> {
        let fence = node.fence.clone();
        let name = flow.to_owned();
        let is_open = move || fence.is_open(&name, Instant::now());
        if let Some(media) = srt {
            return Ok(Self::Srt(SrtIncoming::start(node.engine, flow, source, media.clone(), is_open)));
        }
        let incoming = Incoming::open(node.relays, path, SubscribeSettings::new())?;
        incoming.gate(is_open);
        incoming.feed(source)?;
        let events = incoming.events();
        Ok(Self::Relays(FromRelays { incoming, events, lossy: BTreeMap::new(), measured: 0 }))
    }

    /// Follows a change of where the media comes from. `false` if it is to be received anew.
    pub(crate) fn follow(&self, srt: Option<&SrtMedia>) -> bool {
        match (self, srt) {
            (Self::Relays(_), None) => true,
            (Self::Srt(incoming), Some(media)) => {
                incoming.follow(media);
                true
            }
            _ => false,
        }
    }

    /// Returns the present faults of the reception.
    pub(crate) fn faults(&self) -> Vec<PeerText> {
        match self {
            Self::Relays(_) => Vec::new(), // told by events of the links
            Self::Srt(incoming) => incoming.faults(),
        }
    }

    /// Returns the legs over relays that lose more than QUIC makes up for.
    pub(crate) fn losses(&mut self) -> Vec<LegLoss> {
        match self {
            Self::Relays(media) => media.losses(),
            Self::Srt(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fence_closes_flows_with_exclusive_outputs_only() {
        let now = Instant::now();
        let fence = Fence::new("n1");
        fence.note("push", true);
        assert!(!fence.is_open("push", now));
        assert!(fence.is_open("listener", now));
        fence.set(Some(now + Duration::from_millis(10)));
        assert!(fence.is_open("push", now));
        assert!(!fence.is_open("push", now + Duration::from_millis(10)));
        fence.note("push", false);
        assert!(fence.is_open("push", now + Duration::from_secs(1)));
    }
}
