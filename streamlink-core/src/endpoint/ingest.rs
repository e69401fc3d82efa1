//! Common path of the packets of every source into the flow: bandwidth limit, state and events, MPEG-TS monitor,
//! counters, and the group of the flow's sources.

use super::{Event, LossReason, SourceContext, SourceTunables, transport_reports::TransportReports};
use crate::{
    flow::BandwidthPolicy,
    media::{
        MediaFamily, Packet, RtmpKind, TsMonitor,
        flv::MessageRole,
        rtp::Header,
        rtsp::{Presentation, is_rtcp},
    },
    router::{GopSegmenter, Limiter, MediaBatch, Preamble, RateCheck, Ring, State, Totals},
    time::Throttle,
};
use bytes::Bytes;
use std::{
    net::SocketAddr,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

/// Interval at which the statistics of the transport stream are updated.
const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum delay until changed settings are applied.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// Decision about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Drop the packet, which is above the bandwidth. It is counted already.
    Drop,
    /// Drop the packet and disconnect the source, which is above the bandwidth. The packet is counted already.
    Disconnect,
}

/// Path of a source's packets into the flow.
#[derive(Debug)]
pub(super) struct Ingest {
    limiter: Limiter,
    /// Packets above the bandwidth that no event has reported yet.
    above_untold: u64,
    last_media: Option<Instant>,
    /// Time at which the sender has connected and media was due, while there is none.
    awaited_since: Option<Instant>,
    monitored: Instant,
    refreshed: Instant,
    /// Packets that wait to be published.
    pub(super) out: MediaBatch,
    /// Number of bytes of waiting packets that are headers which the source has added. They do not count.
    pub(super) added_headers: u64,
    /// Packets that have come in addition, and were only counted because nobody reads.
    unheard: Totals,
    frames: Frames,
    /// Set if the flow has other sources.
    has_backup: bool,
    /// Ring of the flow, which knows whether anybody reads.
    ring: Arc<Ring>,
    gops: GopSegmenter,
    pub(super) context: SourceContext,
    live: SourceTunables,
    above: Throttle,
    /// Number of packets that came after the window of a merge, and the report of them.
    late: (u64, Throttle),
    monitor: TsMonitor,
    reports: TransportReports,
    /// Number of times that media has started to arrive.
    connections: u64,
}

impl Ingest {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        let live = context.live.borrow().clone();
        Self {
            limiter: Limiter::new(live.bandwidth.max.as_bps(), now),
            above_untold: 0,
            last_media: None,
            awaited_since: None,
            monitored: now,
            refreshed: now,
            out: MediaBatch::default(),
            added_headers: 0,
            unheard: Totals::default(),
            frames: Frames::default(),
            has_backup: context.group.has_backup(),
            ring: context.group.ring().clone(),
            gops: GopSegmenter::new(context.group.ring().entry_wait()),
            context,
            live,
            above: Throttle::new(Duration::from_secs(1)),
            late: (0, Throttle::new(Duration::from_secs(10))),
            monitor: TsMonitor::new(),
            reports: TransportReports::default(),
            connections: 0,
        }
    }

    /// Returns the current settings that can change at run time.
    pub(super) fn live(&self) -> &SourceTunables {
        &self.live
    }

    /// Applies changed settings. Returns whether there were any.
    pub(super) fn refresh(&mut self) -> bool {
        let changed = self.context.live.has_changed().unwrap_or(false);
        if changed {
            self.live = self.context.live.borrow_and_update().clone();
            self.limiter.set_rate(self.live.bandwidth.max.as_bps());
            // Sources come and go while the flow runs.
            self.has_backup = self.context.group.has_backup();
        }
        changed
    }

    /// Does the same as [`Ingest::refresh`] at most once in [`REFRESH_INTERVAL`], for frequent callers.
    pub(super) fn refresh_at_times(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.refreshed) >= REFRESH_INTERVAL;
        if due {
            self.refreshed = now;
        }
        due && self.refresh()
    }

    /// Returns the arrival time of the last media, while the source is connected.
    pub(super) fn last_media(&self) -> Option<Instant> {
        self.last_media
    }

    /// Begins to wait for the media of a sender that has connected. It is due from `due` on: later than now if packets
    /// are held for a latency.
    pub(super) fn await_media(&mut self, due: Instant) {
        self.awaited_since = Some(due);
        self.context.status.counters.heard(due);
    }

    /// Returns the time at which the source is lost if no media comes until then. `None` while nobody is connected.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        self.last_media.or(self.awaited_since)?.checked_add(self.context.idle_timeout)
    }

    /// Returns whether the source has brought no media for the idle timeout.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.idle_deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Decides about a packet of this size by the bandwidth limit.
    pub(super) fn admit(&mut self, now: Instant, bytes: usize) -> Verdict {
        if self.limiter.admit(now, bytes) == RateCheck::Within {
            return Verdict::Pass;
        }
        self.above_untold += 1;
        if self.live.bandwidth.policy == BandwidthPolicy::Warn {
            return Verdict::Pass;
        }
        self.context.status.counters.dropped.add(1);
        match self.live.bandwidth.policy {
            BandwidthPolicy::Disconnect => Verdict::Disconnect,
            _ => Verdict::Drop,
        }
    }

    /// Begins a stream of FLV messages.
    pub(super) fn begin_messages(&mut self) {
        self.gops.begin();
        self.context.group.begin(self.context.number, None);
    }

    /// Begins an RTSP presentation.
    pub(super) fn begin_presentation(&mut self, presentation: &Arc<Presentation>) {
        self.gops.begin_presentation(presentation);
        self.context.group.begin(self.context.number, Some(presentation));
    }

    /// Queues an FLV message or a packet of an RTSP track for publishing, or drops it. Above the bandwidth whole frames
    /// are dropped, up to the next key frame.
    pub(super) fn message(&mut self, now: Instant, packet: Packet) -> Verdict {
        let observed = self.gops.observe(&packet);
        match self.judge(now, observed, packet.data().len()) {
            Ok(role) => {
                if let Some((kind, _)) = packet.rtmp_message() {
                    self.frames.count(kind, role);
                }
                self.gops.push(&mut self.out, packet, role);
                Verdict::Pass
            }
            Err(verdict) => verdict,
        }
    }

    /// Does the same as [`Ingest::message`] for an FLV message that is still in the read buffer. It is only counted,
    /// not copied, while nobody reads the flow's only source.
    pub(super) fn flv(
        &mut self,
        now: Instant,
        kind: RtmpKind,
        timestamp: u32,
        body: impl Deref<Target = [u8]> + Into<Bytes>,
    ) -> Verdict {
        if self.has_backup || self.last_media.is_none() || self.ring.has_readers() {
            return self.message(now, Packet::rtmp(kind, timestamp, body, now));
        }
        let packet = || Packet::rtmp(kind, timestamp, Bytes::copy_from_slice(&body), now);
        let observed = self.gops.observe_body((kind, timestamp), &body, now, packet);
        match self.judge(now, observed, body.len()) {
            Ok(role) => {
                self.frames.count(kind, role);
                self.gops.skip(role);
                self.frames.unheard_media |= kind != RtmpKind::Data || !self.frames.has_frames;
                self.unheard.packets += 1;
                self.unheard.bytes += body.len() as u64;
                Verdict::Pass
            }
            Err(verdict) => verdict,
        }
    }

    /// Decides about a message of this role. `None` stands for a message of no use, which is dropped.
    fn judge(&mut self, now: Instant, observed: Option<MessageRole>, bytes: usize) -> Result<MessageRole, Verdict> {
        let Some(role) = observed else {
            self.context.status.counters.dropped.add(1);
            return Err(Verdict::Drop);
        };
        let verdict = self.admit(now, bytes);
        if verdict == Verdict::Pass {
            return Ok(role);
        }
        if !matches!(role, MessageRole::Sample { video: false }) {
            self.gops.wait_for_start();
        }
        Err(verdict)
    }

    /// Publishes the waiting packets, and emits the events that are due.
    pub(super) fn publish(&mut self, now: Instant, peer: Option<SocketAddr>) {
        let status = &self.context.status;
        if self.above_untold > 0
            && let Some(packets) = self.above.admit(now, std::mem::take(&mut self.above_untold))
        {
            self.context.events.emit(Event::BandwidthExceeded { source: status.name(), packets });
        }
        if self.out.is_empty() && self.unheard == Totals::default() {
            return;
        }
        let (is_transport_stream, has_media) = self.count(now);
        if has_media {
            let status = &self.context.status;
            status.counters.heard(now);
            if self.last_media.replace(now).is_none() {
                status.counters.set_state(State::Connected, now);
                status.counters.reconnections.set(self.connections);
                self.connections += 1;
                status.set_peer(peer);
                self.context.events.emit(Event::SourceConnected { source: status.name(), peer });
            }
        }
        let context = &self.context;
        if !self.out.is_empty() {
            let switch = context.group.offer(context.number, &mut self.out, now);
            context.switched(switch);
        }
        let description = if is_transport_stream { self.monitor.description() } else { self.gops.description() };
        if let Some(description) = description {
            context.describe(description);
        }
        let since = now.saturating_duration_since(self.monitored);
        if since >= MONITOR_INTERVAL {
            self.monitored = now;
            context.status.set_transport(&self.monitor);
            let tracks = if is_transport_stream { self.monitor.tracks(since) } else { self.gops.tracks(since) };
            context.status.set_tracks(tracks);
            for (check, count) in self.reports.due(&self.monitor.errors(), now) {
                let source = context.status.name();
                context.events.emit(Event::TransportError { source, check, count });
            }
            self.frames.publish(context, since);
            self.report_late(now);
        }
    }

    /// Reports the packets that came after the window of the merge.
    fn report_late(&mut self, now: Instant) {
        let context = &self.context;
        let Some((late, window)) = context.group.late(context.number) else { return };
        let more = late.saturating_sub(std::mem::replace(&mut self.late.0, late));
        if let Some(packets) = self.late.1.admit(now, more) {
            context.events.emit(Event::MergeWindowMissed { source: context.status.name(), packets, window });
        }
    }

    /// Counts the packets that are about to be published, and passes them to the MPEG-TS monitor. Returns whether they
    /// may be MPEG-TS, and whether any of them holds media: MPEG-TS with nothing but tables and null packets, RTCP, and
    /// data messages of an RTMP stream with pictures or sound do not.
    fn count(&mut self, now: Instant) -> (bool, bool) {
        let last = self.out.packets.last().map_or(now, Packet::arrival);
        let unheard = std::mem::take(&mut self.unheard);
        let mut is_transport_stream = false;
        let mut has_media = std::mem::take(&mut self.frames.unheard_media);
        for (at, packet) in self.out.packets.iter().enumerate() {
            let Some(payload) = transport_stream(packet) else {
                has_media = has_media || self.frames.is_media(packet);
                continue;
            };
            is_transport_stream = true;
            let observed = self.monitor.observe(payload, packet.arrival());
            has_media |= observed.media;
            if observed.random_access && self.has_backup {
                self.out.starts.push((at, Preamble::from([])));
            }
        }
        self.out.lacks_media = is_transport_stream && !has_media;
        let packets = unheard.packets + self.out.packets.len() as u64;
        let bytes = self.out.bytes().saturating_sub(std::mem::take(&mut self.added_headers));
        self.context.status.counters.passed(last, packets, unheard.bytes + bytes);
        (is_transport_stream, has_media)
    }

    /// Ends the media of this source, for the given reason.
    pub(super) fn lose(&mut self, now: Instant, reason: LossReason) {
        self.publish(now, None);
        self.monitor.begin();
        self.awaited_since = None;
        self.frames.has_frames = false;
        let status = &self.context.status;
        let peer = status.peer();
        if self.last_media.take().is_some() {
            status.counters.set_state(State::Waiting, now);
            status.record_loss(&reason, peer, now);
            self.context.events.emit(Event::SourceLost { source: status.name(), peer, reason });
        }
        status.set_peer(None);
        self.context.lose(now);
    }
}

/// FLV frames since the last update of the statistics.
#[derive(Debug, Default)]
struct Frames {
    video: u64,
    audio: u64,
    /// Set once the connection has brought a picture or sound.
    has_frames: bool,
    /// Set if messages that were only counted were media.
    unheard_media: bool,
}

impl Frames {
    fn count(&mut self, kind: RtmpKind, role: MessageRole) {
        match kind {
            RtmpKind::Video if role != MessageRole::Header => self.video += 1,
            RtmpKind::Audio if role != MessageRole::Header => self.audio += 1,
            _ => return,
        }
        self.has_frames = true;
    }

    /// Returns whether a packet that is not MPEG-TS is media. Data messages are, as long as nothing else has come.
    fn is_media(&self, packet: &Packet) -> bool {
        match packet.rtmp_message() {
            Some((RtmpKind::Data, _)) => !self.has_frames,
            Some(_) => true,
            None => packet.rtsp_track().is_none() || !is_rtcp(packet.data()),
        }
    }

    fn publish(&mut self, context: &SourceContext, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let video = std::mem::take(&mut self.video);
        let audio = std::mem::take(&mut self.audio);
        // The unit is a thousandth of a frame per second.
        context.status.counters.video_rate.set(video.saturating_mul(1_000_000) / millis);
        context.status.counters.audio_rate.set(audio.saturating_mul(1_000_000) / millis);
    }
}

/// Returns the part of a packet that may hold MPEG-TS.
fn transport_stream(packet: &Packet) -> Option<&[u8]> {
    match packet.family() {
        MediaFamily::Datagrams => Some(packet.data()),
        MediaFamily::Rtp => {
            let header = Header::parse(packet.data()).ok().filter(Header::is_mpeg_ts)?;
            packet.data().get(header.payload_start..header.payload_end)
        }
        _ => None,
    }
}
