//! Source group of one flow: selects the active source, and switches to another one when it is lost.
//!
//! The first source that delivers media becomes the active one. The others are followed: for RTMP and RTSP the last
//! group of pictures is retained, so that a switch can begin at a key frame. The [`Continuity`] makes the media of the
//! active source, and that of the next one after a switch, one continuous stream, which enters the ring of the flow.

use super::{CurrentPresentation, MediaBatch, Merge, PathCounts, Ring, continuity::Continuity, ring::most_packets};
use crate::{
    lock::{Guard, lock},
    media::{MediaFamily, rtsp::Presentation},
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Maximum number of bytes of the last group of pictures retained for each inactive source. The packet bound of
/// [`most_packets`] goes with it.
const BACKLOG: u64 = 16 << 20;

/// Switching policy of a source group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SwitchPolicy {
    /// Stays with a source until it is lost.
    Stay,
    /// Returns to the first source once it has delivered without interruption for this time.
    Prefer(Duration),
    /// Merges all sources packet by packet, within this window.
    Merge(Duration),
}

/// Failover settings of a source group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailoverConfig {
    pub(crate) turns: SwitchPolicy,
    /// Silence of the active source after which it counts as lost.
    pub(crate) loss_threshold: Duration,
}

/// Switch of a flow from one source to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Time without media.
    pub(crate) gap: Duration,
}

/// Sources of one flow. The fields here and below are in order of use, so that each packet of a single source touches
/// few cache lines: with many flows, the group is not in the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct SourceGroup {
    ring: Arc<Ring>,
    family: MediaFamily,
    inner: Mutex<Inner>,
    stage: Arc<CurrentPresentation>,
    terms: FailoverConfig,
}

#[derive(Debug)]
#[repr(C)]
struct Inner {
    active: Option<usize>,
    paths: Vec<Path>,
    /// Arrival of the last packet that was passed on.
    last: Option<Instant>,
    continuity: Continuity,
    merge: Option<Merge>,
    /// Presentation that was announced last.
    known: Option<Arc<Presentation>>,
}

/// State of one source.
#[derive(Debug, Default)]
struct Path {
    /// Time of the last media; `None` if the source is not connected.
    last: Option<Instant>,
    /// Start of uninterrupted media.
    since: Option<Instant>,
    presentation: Option<Arc<Presentation>>,
    /// Last group of pictures of an inactive source, from its key frame on.
    backlog: MediaBatch,
    /// Number of bytes of the backlog.
    backlog_bytes: u64,
    /// Time since which the source is due to take over and waits for a random access point.
    due_since: Option<Instant>,
    /// True if the source has delivered random access points.
    has_starts: bool,
}

impl SourceGroup {
    pub(crate) fn new(
        ring: Arc<Ring>,
        stage: Arc<CurrentPresentation>,
        terms: FailoverConfig,
        family: MediaFamily,
        sources: usize,
    ) -> Arc<Self> {
        let merge = match terms.turns {
            SwitchPolicy::Merge(window) if sources > 1 => Some(Merge::new(window, sources)),
            _ => None,
        };
        let inner = Inner {
            active: None,
            paths: (0..sources).map(|_| Path::default()).collect(),
            last: None,
            continuity: Continuity::new(family, sources == 1 || merge.is_some()),
            merge,
            known: None,
        };
        Arc::new(Self { ring, stage, terms, family, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> Guard<'_, Inner> {
        // Invariant: no code panics while it holds the lock. If it did, the group would still be consistent.
        lock(&self.inner)
    }

    /// Returns the ring into which the group publishes.
    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Returns true if there is more than one source.
    pub(crate) fn has_backup(&self) -> bool {
        self.lock().paths.len() > 1
    }

    /// Returns true if this source feeds the flow.
    pub(crate) fn is_active(&self, source: usize) -> bool {
        let inner = self.lock();
        match inner.merge {
            Some(_) => inner.paths.get(source).is_some_and(|path| path.last.is_some()),
            None => inner.active == Some(source),
        }
    }

    /// Returns the merge counters of one source, and the number of packets that no source delivered; `None` without a
    /// merge.
    pub(crate) fn merged(&self, source: usize) -> Option<(PathCounts, u64)> {
        self.lock().merge.as_ref().map(|merge| (merge.counts(source), merge.lost()))
    }

    /// Returns true if a cold source, which connects on demand, should be connected now.
    pub(crate) fn is_needed(&self, source: usize, now: Instant, started: Instant) -> bool {
        let inner = self.lock();
        let silent = |since: Instant| now.saturating_duration_since(since) > self.terms.loss_threshold;
        match inner.active {
            Some(active) if active == source => true,
            Some(active) => inner.paths.get(active).is_none_or(|path| path.last.is_none_or(silent)),
            None => silent(started),
        }
    }

    /// Begins a connection of a source, with its presentation if it is an RTSP source.
    pub(crate) fn begin(&self, source: usize, presentation: Option<&Arc<Presentation>>) {
        let mut inner = self.lock();
        let feeds = inner.active.is_none_or(|active| active == source);
        let Inner { paths, continuity, known, .. } = &mut *inner;
        let Some(path) = paths.get_mut(source) else { return };
        path.backlog.clear();
        path.presentation = presentation.cloned();
        if feeds {
            let shown = presentation.map(|presentation| presentation.as_continued_from(known.as_deref()));
            continuity.reconnect(known.as_deref(), shown.as_deref());
            self.show(known, shown);
        }
    }

    /// Takes the media of a source, and leaves `delivery` empty. Returns the switch that it caused, if any.
    pub(crate) fn offer(&self, source: usize, delivery: &mut MediaBatch, now: Instant) -> Option<Switch> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        // Fast path: a single source is never compared with another one.
        if inner.paths.len() == 1 && inner.active == Some(source) {
            self.hand_on(inner, delivery);
            return None;
        }
        let path = inner.paths.get_mut(source)?;
        let interrupted = |last: Instant| now.saturating_duration_since(last) > self.terms.loss_threshold;
        if !delivery.lacks_media {
            if path.last.is_none_or(interrupted) {
                path.since = Some(now);
            }
            path.last = Some(now);
        }
        path.has_starts |= !delivery.starts.is_empty();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            delivery.packets.drain(..).for_each(|packet| merge.handle(source, packet, now, &mut out.packets));
            merge.handle_timeout(now, &mut out.packets);
            delivery.starts.clear();
            self.hand_on(inner, &mut out);
            return None;
        }
        let switch = match inner.active {
            Some(active) if active == source => None,
            // Tables and null packets alone are no reason to feed the flow from a source.
            _ if delivery.lacks_media && inner.paths.len() > 1 => {
                delivery.clear();
                return None;
            }
            None => {
                inner.active = Some(source);
                self.present(inner, source, false);
                None
            }
            Some(active) => {
                if !self.takes_over(inner, active, source, delivery, now) {
                    self.keep(inner, source, delivery);
                    return None;
                }
                Some(self.switch(inner, active, source, delivery))
            }
        };
        self.hand_on(inner, delivery);
        switch
    }

    /// Handles the passage of time, which only affects a merge.
    pub(crate) fn handle_timeout(&self, now: Instant) {
        let mut inner = self.lock();
        if let Some(merge) = &mut inner.merge
            && merge.next_timeout().is_some_and(|at| at <= now)
        {
            let mut out = MediaBatch::default();
            merge.handle_timeout(now, &mut out.packets);
            self.hand_on(&mut inner, &mut out);
        }
    }

    /// Records the loss of a source. Another one takes over at once if it has a backlog to begin with, and otherwise
    /// with its next media.
    pub(crate) fn lose(&self, source: usize, now: Instant) -> Option<Switch> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let path = inner.paths.get_mut(source)?;
        (path.last, path.since, path.due_since) = (None, None, None);
        path.backlog.clear();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            merge.lose(source, now, &mut out.packets);
            self.hand_on(inner, &mut out);
            return None;
        }
        if inner.active != Some(source) {
            return None;
        }
        // What players would start with belongs to a source that is gone.
        self.ring.end_gop();
        let alive = |path: &Path| {
            let recent = |last| now.saturating_duration_since(last) <= self.terms.loss_threshold;
            path.last.is_some_and(recent) && !path.backlog.is_empty()
        };
        let next = inner.paths.iter().position(alive)?;
        let mut delivery = std::mem::take(&mut inner.paths.get_mut(next)?.backlog);
        let switch = self.switch(inner, source, next, &delivery);
        self.hand_on(inner, &mut delivery);
        Some(switch)
    }

    /// Passes on all waiting packets, when the flow stops.
    pub(crate) fn finish(&self, now: Instant) {
        let mut inner = self.lock();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            merge.finish(now, &mut out.packets);
            self.hand_on(&mut inner, &mut out);
        }
    }

    /// Returns true if a source replaces the active one now. `delivery` then holds the first media after the switch.
    fn takes_over(
        &self,
        inner: &mut Inner,
        active: usize,
        source: usize,
        delivery: &mut MediaBatch,
        now: Instant,
    ) -> bool {
        let silent = |last: Instant| now.saturating_duration_since(last) > self.terms.loss_threshold;
        let lost = inner.paths.get(active).is_none_or(|path| path.last.is_none_or(silent));
        let Some(path) = inner.paths.get_mut(source) else { return false };
        let preferred = match self.terms.turns {
            SwitchPolicy::Prefer(hold) if source == 0 => {
                path.since.is_some_and(|since| now.saturating_duration_since(since) >= hold)
            }
            _ => false,
        };
        if !lost && !preferred {
            path.due_since = None;
            return false;
        }
        let due_since = *path.due_since.get_or_insert(now);
        let whole_groups = matches!(self.family, MediaFamily::Rtmp | MediaFamily::Rtsp);
        if whole_groups && lost && !path.backlog.is_empty() {
            // Begins at the last key frame of the source: the one in this delivery, or else the one in the backlog.
            if delivery.starts.is_empty() {
                path.backlog.append(delivery);
                std::mem::swap(&mut path.backlog, delivery);
            } else {
                delivery.skip_to_start(true);
            }
        } else if !delivery.starts.is_empty() {
            delivery.skip_to_start(false);
        } else if whole_groups {
            let waited = now.saturating_duration_since(due_since);
            if waited < self.ring.entry_wait() || !delivery.skip_to_fallback() {
                return false;
            }
        } else if path.has_starts && !silent(due_since) {
            return false;
        }
        path.backlog.clear();
        path.due_since = None;
        true
    }

    /// Updates the backlog of an inactive source.
    fn keep(&self, inner: &mut Inner, source: usize, delivery: &mut MediaBatch) {
        let Some(path) = inner.paths.get_mut(source) else { return };
        if matches!(self.family, MediaFamily::Rtmp | MediaFamily::Rtsp) {
            if !delivery.starts.is_empty() {
                path.backlog.clear();
                delivery.skip_to_start(true);
            }
            if path.backlog.is_empty() {
                path.backlog_bytes = 0;
            }
            if !delivery.starts.is_empty() || !path.backlog.is_empty() {
                path.backlog_bytes = path.backlog_bytes.saturating_add(delivery.bytes());
                path.backlog.append(delivery);
            }
            if path.backlog_bytes > BACKLOG || path.backlog.packets.len() as u64 > most_packets(BACKLOG) {
                path.backlog.clear(); // until the next random access point
            }
        }
        delivery.clear();
    }

    fn switch(&self, inner: &mut Inner, from: usize, to: usize, delivery: &MediaBatch) -> Switch {
        // What players would start with belongs to the other source.
        self.ring.end_gop();
        inner.active = Some(to);
        self.present(inner, to, true);
        let first = delivery.packets.first().map(crate::media::Packet::arrival);
        let gap = first.zip(inner.last).map(|(first, last)| first.saturating_duration_since(last));
        Switch { from, to, gap: gap.unwrap_or_default() }
    }

    /// Announces to players the presentation of the source that feeds the flow now.
    fn present(&self, inner: &mut Inner, source: usize, switched: bool) {
        let Inner { paths, continuity, known, .. } = inner;
        let presentation = paths.get(source).and_then(|path| path.presentation.as_ref());
        let shown = presentation.map(|presentation| presentation.as_continued_from(known.as_deref()));
        if switched {
            continuity.switch(known.as_deref(), shown.as_deref());
        } else if shown.is_some() && shown != *known {
            continuity.reconnect(known.as_deref(), shown.as_deref());
        }
        self.show(known, shown);
    }

    /// Sets the presentation that is announced to players.
    fn show(&self, known: &mut Option<Arc<Presentation>>, shown: Option<Arc<Presentation>>) {
        if let Some(shown) = shown {
            self.stage.set(&shown);
            *known = Some(shown);
        }
    }

    fn hand_on(&self, inner: &mut Inner, delivery: &mut MediaBatch) {
        inner.continuity.apply(delivery);
        if !delivery.lacks_media
            && let Some(last) = delivery.packets.last()
        {
            inner.last = Some(last.arrival());
        }
        if matches!(self.family, MediaFamily::Rtp | MediaFamily::Datagrams) {
            delivery.starts.clear();
            delivery.fallbacks.clear(); // entry points only matter for switches here
        }
        self.ring.deliver(delivery);
    }
}

#[cfg(test)]
mod tests;
