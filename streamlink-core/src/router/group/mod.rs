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

/// Sources of one flow.
#[derive(Debug)]
pub(crate) struct SourceGroup {
    ring: Arc<Ring>,
    family: MediaFamily,
    inner: Mutex<Inner>,
    stage: Arc<CurrentPresentation>,
}

#[derive(Debug)]
struct Inner {
    /// Number of the source that feeds the flow, or did so last.
    active: Option<usize>,
    /// State of each source, in the order of preference.
    paths: Vec<Path>,
    terms: FailoverConfig,
    /// Source that the host has chosen by hand, until it is lost.
    chosen: Option<usize>,
    /// Number of the next source that is added.
    next_number: usize,
    /// Arrival of the last packet that was passed on.
    last: Option<Instant>,
    continuity: Continuity,
    merge: Option<Merge>,
    /// Time that a source needs to get its packets again, which the window of a merge is not below.
    recovery: Duration,
    /// Presentation that was announced last.
    known: Option<Arc<Presentation>>,
}

/// State of one source.
#[derive(Debug, Default)]
struct Path {
    /// Number of the source, which no other source of the flow ever has.
    number: usize,
    /// Index of the path in the merge, if there is one.
    merge_path: usize,
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

impl Inner {
    fn path(&self, source: usize) -> Option<&Path> {
        self.paths.iter().find(|path| path.number == source)
    }
}

/// Returns the state of a source. There are few, so that a search is cheap.
fn find(paths: &mut [Path], source: usize) -> Option<&mut Path> {
    paths.iter_mut().find(|path| path.number == source)
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
        let path = |number| Path { number, merge_path: number, ..Path::default() };
        let inner = Inner {
            active: None,
            paths: (0..sources).map(path).collect(),
            terms,
            chosen: None,
            next_number: sources,
            last: None,
            continuity: Continuity::new(family, sources <= 1, matches!(terms.turns, SwitchPolicy::Merge(_))),
            merge,
            recovery: Duration::ZERO,
            known: None,
        };
        Arc::new(Self { ring, stage, family, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> Guard<'_, Inner> {
        // Invariant: no code panics while it holds the lock. If it did, the group would still be consistent.
        lock(&self.inner)
    }

    /// Returns the ring into which the group publishes.
    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Adds a source at a position in the order of preference, and returns its number. `None` if a merge has as many
    /// paths as it may have.
    pub(crate) fn add(&self, position: usize) -> Option<usize> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let SwitchPolicy::Merge(window) = inner.terms.turns
            && inner.merge.is_none()
            && !inner.paths.is_empty()
        {
            let mut merge = Merge::new(window, inner.paths.len());
            merge.widen(inner.recovery);
            inner.merge = Some(merge);
            inner.active = None; // all feed the flow
            for (at, path) in inner.paths.iter_mut().enumerate() {
                path.merge_path = at;
            }
        }
        let merge_path = match &mut inner.merge {
            Some(merge) => merge.add_path()?,
            None => 0,
        };
        // The time of a single source's media is kept with what was passed on.
        if let [path] = inner.paths.as_mut_slice()
            && inner.active == Some(path.number)
            && path.last.is_some()
        {
            path.last = inner.last.or(path.last);
        }
        // The first source of a flow that had none yet is alone.
        if !inner.paths.is_empty() || inner.active.is_some() {
            inner.continuity.expect_others();
        }
        let number = inner.next_number;
        inner.next_number += 1;
        let path = Path { number, merge_path, ..Path::default() };
        inner.paths.insert(position.min(inner.paths.len()), path);
        Some(number)
    }

    /// Removes a source. If it fed the flow, another one takes over as when it is lost.
    pub(crate) fn remove(&self, source: usize, now: Instant) -> Option<Switch> {
        let switch = self.lose(source, now);
        let mut inner = self.lock();
        let inner = &mut *inner;
        let at = inner.paths.iter().position(|path| path.number == source)?;
        let path = inner.paths.remove(at);
        if inner.chosen == Some(source) {
            inner.chosen = None;
        }
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            merge.remove_path(path.merge_path, now, &mut out.packets);
            self.hand_on(inner, &mut out);
        }
        switch
    }

    /// Lets the flow switch to a source as soon as it delivers media to begin with, and stay with it until it is lost.
    /// Returns false if there is no such source, or all sources are merged.
    pub(crate) fn switch_to(&self, source: usize) -> bool {
        let mut inner = self.lock();
        let is_known = inner.merge.is_none() && inner.paths.iter().any(|path| path.number == source);
        if is_known {
            inner.chosen = Some(source);
        }
        is_known
    }

    /// Changes the policy and the loss threshold. A merge stays one, and no other policy becomes one.
    pub(crate) fn set_terms(&self, terms: FailoverConfig) {
        let mut inner = self.lock();
        inner.terms = terms;
        if let (Some(merge), SwitchPolicy::Merge(window)) = (&mut inner.merge, terms.turns) {
            merge.set_window(window);
        }
    }

    /// Lets a merge wait at least as long for a packet that is missing on all paths, because a source gets it again in that
    /// time.
    pub(crate) fn allow_recovery(&self, time: Duration) {
        let mut inner = self.lock();
        inner.recovery = inner.recovery.max(time);
        if let Some(merge) = &mut inner.merge {
            merge.widen(time);
        }
    }

    /// Returns the silence of the active source after which it counts as lost.
    pub(crate) fn loss_threshold(&self) -> Duration {
        self.lock().terms.loss_threshold
    }

    /// Returns true if there is more than one source.
    pub(crate) fn has_backup(&self) -> bool {
        self.lock().paths.len() > 1
    }

    /// Returns true if this source feeds the flow.
    pub(crate) fn is_active(&self, source: usize) -> bool {
        let inner = self.lock();
        match inner.merge {
            Some(_) => inner.path(source).is_some_and(|path| path.last.is_some()),
            None => inner.active == Some(source),
        }
    }

    /// Returns the merge counters of one source, and the number of packets that no source delivered; `None` without a
    /// merge.
    pub(crate) fn merged(&self, source: usize) -> Option<(PathCounts, u64)> {
        let inner = self.lock();
        let merge = inner.merge.as_ref()?;
        let counts = inner.path(source).map(|path| merge.counts(path.merge_path)).unwrap_or_default();
        Some((counts, merge.lost()))
    }

    /// Returns the number of packets of a source that came after the window of the merge, and the window; `None` without
    /// a merge.
    pub(crate) fn late(&self, source: usize) -> Option<(u64, Duration)> {
        let inner = self.lock();
        let merge = inner.merge.as_ref()?;
        Some((merge.counts(inner.path(source)?.merge_path).late, merge.window()))
    }

    /// Returns true if a cold source, which connects on demand, should be connected now.
    pub(crate) fn is_needed(&self, source: usize, now: Instant, started: Instant) -> bool {
        let inner = self.lock();
        let silent = |since: Instant| now.saturating_duration_since(since) > inner.terms.loss_threshold;
        match inner.active {
            _ if inner.chosen == Some(source) => true,
            Some(active) if active == source => true,
            Some(active) => inner.path(active).is_none_or(|path| path.last.is_none_or(silent)),
            None => silent(started),
        }
    }

    /// Begins a connection of a source, with its presentation if it is an RTSP source.
    pub(crate) fn begin(&self, source: usize, presentation: Option<&Arc<Presentation>>) {
        let mut inner = self.lock();
        let feeds = inner.active.is_none_or(|active| active == source);
        let Inner { paths, continuity, known, .. } = &mut *inner;
        let Some(path) = find(paths, source) else { return };
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
        if let [path] = inner.paths.as_slice()
            && inner.active == Some(source)
            && path.last.is_some()
        {
            self.hand_on(inner, delivery);
            return None;
        }
        let threshold = inner.terms.loss_threshold;
        let Some(path) = find(&mut inner.paths, source) else {
            delivery.clear(); // of a source that was removed meanwhile
            return None;
        };
        let interrupted = |last: Instant| now.saturating_duration_since(last) > threshold;
        if !delivery.lacks_media {
            if path.last.is_none_or(interrupted) {
                path.since = Some(now);
            }
            path.last = Some(now);
        }
        path.has_starts |= !delivery.starts.is_empty();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            for packet in delivery.packets.drain(..) {
                merge.handle(path.merge_path, packet, now, &mut out.packets);
            }
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
        let threshold = inner.terms.loss_threshold;
        let path = find(&mut inner.paths, source)?;
        path.last = None;
        path.since = None;
        path.due_since = None;
        path.backlog.clear();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            merge.lose(path.merge_path, now, &mut out.packets);
            self.hand_on(inner, &mut out);
            return None;
        }
        if inner.active != Some(source) {
            return None;
        }
        let alive = |path: &Path| {
            let recent = |last| now.saturating_duration_since(last) <= threshold;
            path.last.is_some_and(recent) && !path.backlog.is_empty()
        };
        if inner.chosen == Some(source) {
            inner.chosen = None;
        }
        let Some(next) = inner.paths.iter_mut().find(|path| alive(path)) else {
            // What players would start with belongs to a source that is gone.
            self.ring.end_gop();
            return None;
        };
        let mut delivery = std::mem::take(&mut next.backlog);
        let next = next.number;
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
        let FailoverConfig { turns, loss_threshold } = inner.terms;
        let silent = |last: Instant| now.saturating_duration_since(last) > loss_threshold;
        let lost = inner.path(active).is_none_or(|path| path.last.is_none_or(silent));
        let is_first = inner.paths.first().is_some_and(|path| path.number == source);
        let chosen = inner.chosen;
        let Some(path) = find(&mut inner.paths, source) else { return false };
        let preferred = match turns {
            _ if chosen == Some(source) => path.last.is_some(),
            // The host's choice holds until that source is lost.
            _ if chosen == Some(active) => false,
            SwitchPolicy::Prefer(hold) if is_first => {
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
        let Some(path) = find(&mut inner.paths, source) else { return };
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
        if inner.chosen == Some(from) {
            inner.chosen = None;
        }
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
        let presentation = find(paths, source).and_then(|path| path.presentation.as_ref());
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
