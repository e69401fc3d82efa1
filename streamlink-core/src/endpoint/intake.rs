//! What every source does with its packets on their way into the flow: the bandwidth limit, the state and its
//! events, the look into MPEG-TS, the counters, and the group of the flow's sources.

use super::{Event, Live, LossReason, SourceContext};
use crate::{
    flow::BandwidthPolicy,
    media::{
        MediaFamily, Packet, RtmpKind, TransportCheck, TransportErrors, TsMonitor, flv::MessageRole, rtp::Header,
        rtsp::Presentation,
    },
    router::{Admission, GopSegmenter, Limiter, MediaBatch, Preamble, Ring, State, Totals},
    time::Throttle,
};
use bytes::Bytes;
use std::{
    net::SocketAddr,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the statistics of the transport stream are replaced.
const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// How long changed settings may wait for being taken over.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// It is above the bandwidth; counted already.
    Drop,
    /// It is above the bandwidth, and the source is to be disconnected; counted already.
    Disconnect,
}

/// The way of a source's packets into the flow. In this order: where there are many sources, each is found cold, and what
/// every packet touches lies together.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Intake {
    limiter: Limiter,
    /// Packets above the bandwidth that no event has told of yet.
    above_untold: u64,
    last_media: Option<Instant>,
    monitored: Instant,
    refreshed: Instant,
    /// What waits to be published.
    pub(super) out: MediaBatch,
    /// What has come beside it, and was of use to nobody.
    unheard: Totals,
    frames: Frames,
    /// There are other sources.
    has_backup: bool,
    /// The flow's; it knows whether anybody reads.
    ring: Arc<Ring>,
    gops: GopSegmenter,
    pub(super) context: SourceContext,
    live: Live,
    above: Throttle,
    monitor: TsMonitor,
    /// Failed checks of the transport stream that were told of.
    told: TransportErrors,
    /// How often media has begun to come.
    connections: u64,
}

impl Intake {
    pub(super) fn new(context: SourceContext, now: Instant) -> Self {
        let live = context.live.borrow().clone();
        Self {
            limiter: Limiter::new(live.bandwidth.max.as_bps(), now),
            above_untold: 0,
            last_media: None,
            monitored: now,
            refreshed: now,
            out: MediaBatch::default(),
            unheard: Totals::default(),
            frames: Frames::default(),
            has_backup: context.group.has_backup(),
            ring: context.group.ring().clone(),
            gops: GopSegmenter::default(),
            context,
            live,
            above: Throttle::new(Duration::from_secs(1)),
            monitor: TsMonitor::new(),
            told: TransportErrors::default(),
            connections: 0,
        }
    }

    /// The settings that can change, as they are now.
    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    /// Takes over settings that have changed; returns whether some have.
    pub(super) fn refresh(&mut self) -> bool {
        let changed = self.context.live.has_changed().unwrap_or(false);
        if changed {
            self.live = self.context.live.borrow_and_update().clone();
            self.limiter.set_rate(self.live.bandwidth.max.as_bps());
        }
        changed
    }

    /// The same for one who asks all the time: looks every [`REFRESH_INTERVAL`].
    pub(super) fn refresh_at_times(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.refreshed) >= REFRESH_INTERVAL;
        if due {
            self.refreshed = now;
        }
        due && self.refresh()
    }

    /// When media last came, while the source is connected.
    pub(super) fn last_media(&self) -> Option<Instant> {
        self.last_media
    }

    /// Whether a packet of so many bytes may pass.
    pub(super) fn admit(&mut self, now: Instant, bytes: usize) -> Verdict {
        if self.limiter.admit(now, bytes) == Admission::Within {
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

    /// A stream of FLV messages begins.
    pub(super) fn begin_messages(&mut self) {
        self.gops.begin();
        self.context.group.begin(self.context.number, None);
    }

    /// A presentation of RTSP begins.
    pub(super) fn begin_presentation(&mut self, presentation: &Arc<Presentation>) {
        self.gops.begin_presentation(presentation);
        self.context.group.begin(self.context.number, Some(presentation));
    }

    /// An FLV message, or a packet of an RTSP track: it waits to be published, or is dropped. Above the bandwidth whole
    /// frames go, up to the next key frame.
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

    /// The same for an FLV message that lies where it was read to. While nobody reads what the flow's only source brings,
    /// it stays there, and is counted.
    pub(super) fn flv(
        &mut self,
        now: Instant,
        kind: RtmpKind,
        timestamp: u32,
        body: impl Deref<Target = [u8]> + Into<Bytes>,
    ) -> Verdict {
        if self.has_backup || self.last_media.is_none() || self.ring.is_heard() {
            return self.message(now, Packet::rtmp(kind, timestamp, body, now));
        }
        let packet = || Packet::rtmp(kind, timestamp, Bytes::copy_from_slice(&body), now);
        let observed = self.gops.observe_body(kind, &body, packet);
        match self.judge(now, observed, body.len()) {
            Ok(role) => {
                self.frames.count(kind, role);
                self.gops.pass_over(role);
                self.unheard.packets += 1;
                self.unheard.bytes += body.len() as u64;
                Verdict::Pass
            }
            Err(verdict) => verdict,
        }
    }

    /// Whether a message may pass that was observed to be this; `None`: to be of no use.
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

    /// Hands over what waits, and tells what is to be told.
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
        if self.last_media.replace(now).is_none() {
            status.counters.set_state(State::Connected, now);
            status.counters.reconnections.set(self.connections);
            self.connections += 1;
            self.context.events.emit(Event::SourceConnected { source: status.name(), peer });
        }
        let is_transport_stream = self.count(now);
        let context = &self.context;
        if !self.out.is_empty() {
            let switch = context.group.offer(context.number, &mut self.out, now);
            context.switched(switch);
        }
        let description = if is_transport_stream { self.monitor.description() } else { self.gops.description() };
        description.into_iter().for_each(|description| context.describe(description));
        let since = now.saturating_duration_since(self.monitored);
        if since >= MONITOR_INTERVAL {
            self.monitored = now;
            context.status.set_transport(&self.monitor);
            let errors = self.monitor.errors();
            for check in TransportCheck::ALL {
                let count = errors.of(check).saturating_sub(self.told.of(check));
                if count > 0 {
                    let source = context.status.name();
                    context.events.emit(Event::TransportError { source, check, count });
                }
            }
            self.told = errors;
            self.frames.publish(context, since);
        }
    }

    /// Looks at what is about to be handed over, and counts it; returns whether it may be MPEG-TS.
    fn count(&mut self, now: Instant) -> bool {
        let last = self.out.packets.last().map_or(now, Packet::arrival);
        let unheard = std::mem::take(&mut self.unheard);
        let mut is_transport_stream = false;
        for (at, packet) in self.out.packets.iter().enumerate() {
            let Some(payload) = transport_stream(packet) else { continue };
            is_transport_stream = true;
            if self.monitor.observe(payload, packet.arrival()) && self.has_backup {
                self.out.starts.push((at, Preamble::from([])));
            }
        }
        let packets = unheard.packets + self.out.packets.len() as u64;
        self.context.status.counters.passed(last, packets, unheard.bytes + self.out.bytes());
        is_transport_stream
    }

    /// No more media comes.
    pub(super) fn lose(&mut self, now: Instant, reason: LossReason) {
        self.publish(now, None);
        self.monitor.begin();
        if self.last_media.take().is_some() {
            let status = &self.context.status;
            status.counters.set_state(State::Waiting, now);
            self.context.events.emit(Event::SourceLost { source: status.name(), reason });
        }
        self.context.lose(now);
    }
}

/// FLV frames since the last look.
#[derive(Debug, Default)]
struct Frames {
    video: u64,
    audio: u64,
}

impl Frames {
    fn count(&mut self, kind: RtmpKind, role: MessageRole) {
        match kind {
            RtmpKind::Video if role != MessageRole::Header => self.video += 1,
            RtmpKind::Audio if role != MessageRole::Header => self.audio += 1,
            _ => {}
        }
    }

    fn publish(&mut self, context: &SourceContext, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let Self { video, audio } = std::mem::take(self);
        // In thousandths of a frame per second.
        context.status.counters.video_rate.set(video.saturating_mul(1_000_000) / millis);
        context.status.counters.audio_rate.set(audio.saturating_mul(1_000_000) / millis);
    }
}

/// Where a packet may hold MPEG-TS.
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
