//! The sources of one flow: which of them feeds it, and when another takes over.
//!
//! The first source that brings media is the active one. The others are followed: of RTMP and RTSP the last group of
//! pictures is kept, so that a switch has a key frame to begin with. What the active source brings, and what the next
//! one does after a switch, is made one stream by the [`Continuity`], and enters the flow's ring.

use super::{CurrentPresentation, MediaBatch, Merge, PathCounts, Ring, continuity::Continuity, ring::most_packets};
use crate::{
    lock::lock,
    media::{MediaFamily, rtsp::Presentation},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Bytes of the last group of pictures that are kept of each source that is not active, and the packets that go with
/// them ([`most_packets`]).
const BACKLOG: u64 = 16 << 20;

/// How the sources take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turns {
    /// After a switch it stays as it is.
    Stay,
    /// Back to the first source when it has delivered for so long.
    Prefer(Duration),
    /// All at once, packet by packet, within a window.
    Merge(Duration),
}

/// When the active source is lost, and what then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupTerms {
    pub(crate) turns: Turns,
    /// For how long the active source may bring nothing.
    pub(crate) loss_threshold: Duration,
}

/// The flow has gone from one source to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The time in which no media came.
    pub(crate) gap: Duration,
}

/// The sources of one flow. In this order, here and below: where there are many flows, each is found cold, and what every
/// packet of a lone source touches lies together.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Group {
    ring: Arc<Ring>,
    family: MediaFamily,
    inner: Mutex<Inner>,
    stage: Arc<CurrentPresentation>,
    terms: GroupTerms,
}

#[derive(Debug)]
#[repr(C)]
struct Inner {
    active: Option<usize>,
    paths: Vec<Path>,
    /// When the last packet came that was handed on.
    last: Option<Instant>,
    continuity: Continuity,
    merge: Option<Merge>,
    /// The presentation of what was handed on last.
    known: Option<Arc<Presentation>>,
}

/// One source, as the group sees it.
#[derive(Debug, Default)]
struct Path {
    /// When media last came; `None`: it is not connected.
    last: Option<Instant>,
    /// Since when it comes without interruption.
    since: Option<Instant>,
    presentation: Option<Arc<Presentation>>,
    /// Of a source that is not active: the last group of pictures, from its start on.
    backlog: MediaBatch,
    /// Its bytes.
    backlog_bytes: u64,
    /// Since when it could take over, and waits for a place to start.
    due_since: Option<Instant>,
    /// It has places to start.
    has_starts: bool,
}

impl Group {
    pub(crate) fn new(
        ring: Arc<Ring>,
        stage: Arc<CurrentPresentation>,
        terms: GroupTerms,
        family: MediaFamily,
        sources: usize,
    ) -> Arc<Self> {
        let merge = match terms.turns {
            Turns::Merge(window) if sources > 1 => Some(Merge::new(window, sources)),
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Invariant: nothing panics while the lock is held; if it did, the next packet finds a group that is whole.
        lock(&self.inner)
    }

    /// Where what it hands on goes.
    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Whether there is more than one source.
    pub(crate) fn has_backup(&self) -> bool {
        self.lock().paths.len() > 1
    }

    /// Whether the flow is fed by this source.
    pub(crate) fn is_active(&self, source: usize) -> bool {
        let inner = self.lock();
        match inner.merge {
            Some(_) => inner.paths.get(source).is_some_and(|path| path.last.is_some()),
            None => inner.active == Some(source),
        }
    }

    /// What a merge has counted of one source; and the packets that none has brought.
    pub(crate) fn merged(&self, source: usize) -> Option<(PathCounts, u64)> {
        self.lock().merge.as_ref().map(|merge| (merge.counts(source), merge.lost()))
    }

    /// Whether a source that is connected only when it is needed should be.
    pub(crate) fn is_needed(&self, source: usize, now: Instant, started: Instant) -> bool {
        let inner = self.lock();
        let silent = |since: Instant| now.saturating_duration_since(since) > self.terms.loss_threshold;
        match inner.active {
            Some(active) if active == source => true,
            Some(active) => inner.paths.get(active).is_none_or(|path| path.last.is_none_or(silent)),
            None => silent(started),
        }
    }

    /// A connection of a source begins, with its presentation if it is one of RTSP.
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

    /// What a source has brought; the delivery comes back empty.
    pub(crate) fn offer(&self, source: usize, delivery: &mut MediaBatch, now: Instant) -> Option<Switch> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        // There is no other source to which it could be compared: nothing of what follows is for it.
        if inner.paths.len() == 1 && inner.active == Some(source) {
            self.hand_on(inner, delivery);
            return None;
        }
        let path = inner.paths.get_mut(source)?;
        let interrupted = |last: Instant| now.saturating_duration_since(last) > self.terms.loss_threshold;
        if path.last.is_none_or(interrupted) {
            path.since = Some(now);
        }
        path.last = Some(now);
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

    /// Time has passed. Only a merge has something to do then.
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

    /// A source is lost. Another takes over at once, if it has something to begin with; otherwise with what it brings
    /// next.
    pub(crate) fn lose(&self, source: usize, now: Instant) -> Option<Switch> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let path = inner.paths.get_mut(source)?;
        (path.last, path.since, path.due_since) = (None, None, None);
        path.backlog.clear();
        if inner.active != Some(source) || inner.merge.is_some() {
            return None;
        }
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

    /// The flow stops: what waits passes.
    pub(crate) fn finish(&self, now: Instant) {
        let mut inner = self.lock();
        if let Some(merge) = &mut inner.merge {
            let mut out = MediaBatch::default();
            merge.finish(now, &mut out.packets);
            self.hand_on(&mut inner, &mut out);
        }
    }

    /// Whether a source takes the place of the active one now; the delivery is then what the flow gets first.
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
            Turns::Prefer(hold) if source == 0 => {
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
            // From its last key frame on: that of what has come just now, if there is one.
            if delivery.starts.is_empty() {
                path.backlog.append(delivery);
                std::mem::swap(&mut path.backlog, delivery);
            } else {
                delivery.skip_to_start(true);
            }
        } else if !delivery.starts.is_empty() {
            delivery.skip_to_start(false);
        } else if whole_groups || (path.has_starts && !silent(due_since)) {
            return false;
        }
        path.backlog.clear();
        path.due_since = None;
        true
    }

    /// Follows a source that is not active.
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
                path.backlog.clear(); // until the next start
            }
        }
        delivery.clear();
    }

    fn switch(&self, inner: &mut Inner, from: usize, to: usize, delivery: &MediaBatch) -> Switch {
        inner.active = Some(to);
        self.present(inner, to, true);
        let first = delivery.packets.first().map(crate::media::Packet::arrival);
        let gap = first.zip(inner.last).map(|(first, last)| first.saturating_duration_since(last));
        Switch { from, to, gap: gap.unwrap_or_default() }
    }

    /// The presentation of the source that feeds the flow now is what players are told of.
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

    /// What players are told of from now on.
    fn show(&self, known: &mut Option<Arc<Presentation>>, shown: Option<Arc<Presentation>>) {
        if let Some(shown) = shown {
            self.stage.set(&shown);
            *known = Some(shown);
        }
    }

    fn hand_on(&self, inner: &mut Inner, delivery: &mut MediaBatch) {
        inner.continuity.apply(delivery);
        if let Some(last) = delivery.packets.last() {
            inner.last = Some(last.arrival());
        }
        if matches!(self.family, MediaFamily::Rtp | MediaFamily::Datagrams) {
            delivery.starts.clear(); // they are for switches only
        }
        self.ring.deliver(delivery);
    }
}

#[cfg(test)]
mod tests;
