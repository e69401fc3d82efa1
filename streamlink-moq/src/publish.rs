//! A flow's way out: from its tap to a broadcast on every relay.

use crate::{
    Error,
    event::{EventSink, LossWatch, MoqEvent, MoqEvents, Throttle},
    transport::{Broadcast, GroupWriter, LinkState, LinkStats, Relays, TrackOptions, TrackWriter, unix_micros},
    watch::RelayWatch,
    wire::{CATALOG_TRACK, Carriage, Catalog, Cut, Cutter, Headers, MEDIA_TRACK, ObjectBuilder, programs},
};
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::{FlowHandle, InputProtocol, MediaFamily, Packet, PacketBatch, PeerText, Tap};
use tokio::task::JoinHandle;

/// Time for which relays, and legs that come back, can have groups that are not the newest. The packets of that time stay
/// in memory, once for all relays.
const RETENTION: Duration = Duration::from_secs(6);
/// Interval at which the SDP of the flow, and the loss of the links, are looked at.
const CHECK: Duration = Duration::from_millis(500);

/// Settings of a publication.
#[derive(Clone, Debug, Default)]
pub struct PublishSettings {
    instance: Option<String>,
}

impl PublishSettings {
    /// Makes settings with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names this ingest node, where several publish the same RTP stream (ST 2022-7): the broadcast lies one segment
    /// below the path, and subscribers of the path merge them all. Permitted for flows of family RTP.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }
}

/// Counts of a publication.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PublicationStats {
    /// Packets of the flow.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Objects written.
    pub objects: u64,
    /// Groups begun.
    pub groups: u64,
    /// Packets that cannot be carried.
    pub left_out: u64,
    /// The relays.
    pub relays: Vec<RelayStats>,
}

/// Figures of a link to a relay.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RelayStats {
    /// Address of the relay.
    pub relay: String,
    /// State of the link.
    pub state: LinkState,
    /// Number of connections made so far.
    pub connects: u64,
    /// Reason of the last failure or loss.
    pub last_error: Option<PeerText>,
    /// Figures of the present connection.
    pub link: Option<LinkStats>,
    /// Set while more than about 1 % of the packets to the relay are lost.
    pub is_loss_high: bool,
}

/// A flow that is published to relays. Dropping it ends the broadcast.
#[derive(Debug)]
pub struct Publication {
    path: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    _watches: Vec<RelayWatch>,
}

#[derive(Debug)]
struct Shared {
    relays: Arc<Relays>,
    events: EventSink,
    counts: Mutex<PublicationStats>,
    losses: Mutex<Vec<LossWatch>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publication {
    /// Publishes the media of a flow, which it takes from one of its taps. The publication keeps a handle of the flow
    /// until it is dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the flow has no such tap, [`Error::Path`] if the path is published already or the settings
    /// name an instance of a flow that is not of family RTP, [`Error::Address`] for a path that cannot be used.
    pub fn of_flow(
        relays: &Arc<Relays>,
        path: &str,
        flow: &FlowHandle,
        tap: &str,
        settings: &PublishSettings,
    ) -> Result<Self, Error> {
        let tap = flow.tap(tap).map_err(|error| Error::NotFound(error.to_string().into()))?;
        let sdp_of = flow.clone();
        Self::of_tap(relays, path, tap, flow.input(), move || sdp_of.sdp(), settings)
    }

    /// Publishes the packets of a tap. `input` is the protocol of the flow's source; `sdp` returns the SDP of a source
    /// of family RTSP.
    ///
    /// # Errors
    /// As for [`of_flow`](Self::of_flow).
    pub fn of_tap(
        relays: &Arc<Relays>,
        path: &str,
        tap: Tap,
        input: InputProtocol,
        sdp: impl Fn() -> Option<String> + Send + 'static,
        settings: &PublishSettings,
    ) -> Result<Self, Error> {
        let path = match &settings.instance {
            None => path.to_owned(),
            Some(_) if input.family() != MediaFamily::Rtp => {
                return Err(Error::Path("several nodes can publish a flow of family RTP only".into()));
            }
            Some(name) if name.is_empty() || name.contains('/') => {
                return Err(Error::Path("the name of the instance is not one segment".into()));
            }
            Some(name) => format!("{path}/{name}"),
        };
        let broadcast = relays.publish(&path)?;
        let options = TrackOptions { max_age: RETENTION, ..TrackOptions::default() };
        let catalog = broadcast.track(CATALOG_TRACK, TrackOptions { priority: 200, ..options })?;
        let media = broadcast.track(MEDIA_TRACK, TrackOptions { in_order: true, ..options })?;
        let events = EventSink::new();
        let losses = relays.links().iter().map(|_| LossWatch::default()).collect();
        let shared = Arc::new(Shared {
            relays: relays.clone(),
            events: events.clone(),
            counts: Mutex::default(),
            losses: Mutex::new(losses),
        });
        let watches = relays.links().iter().map(|link| RelayWatch::start(link, &events)).collect();
        let path = broadcast.path().to_owned();
        let writer = Writer::new(broadcast, catalog, media, input, Box::new(sdp), shared.clone());
        let task = tokio::spawn(writer.run(tap));
        Ok(Self { path, shared, task, _watches: watches })
    }

    /// Returns the path of the broadcast.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns a receiver of the events from now on.
    pub fn events(&self) -> MoqEvents {
        self.shared.events.subscribe()
    }

    /// Returns the counts so far, and the figures of the links.
    pub fn stats(&self) -> PublicationStats {
        let mut stats = lock(&self.shared.counts).clone();
        let losses = lock(&self.shared.losses);
        let relays = self.shared.relays.links().iter().zip(losses.iter());
        stats.relays = relays.map(|(link, loss)| RelayStats::of(link, loss.is_high())).collect();
        stats
    }

    /// Waits until the flow has stopped, or its tap was removed.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await; // has ended either way
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RelayStats {
    pub(crate) fn of(link: &crate::transport::RelayLink, is_loss_high: bool) -> Self {
        let status = link.status();
        Self {
            relay: link.address().to_string(),
            state: status.state,
            connects: status.connects,
            last_error: status.last_error,
            link: link.stats(),
            is_loss_high,
        }
    }
}

/// Writes the packets of a flow into the tracks of its broadcast.
struct Writer {
    broadcast: Broadcast,
    catalog_track: TrackWriter,
    media_track: TrackWriter,
    catalog: Option<Catalog>,
    input: InputProtocol,
    sdp: Box<dyn Fn() -> Option<String> + Send>,
    shared: Arc<Shared>,
    cutter: Cutter,
    group: Option<GroupWriter>,
    builder: ObjectBuilder,
    builder_time: u64,
    headers: Headers,
    /// Wall clock at a point of the monotonic clock, by which times of arrival become times of day.
    clock: (Instant, u64),
    left_out: Throttle,
    counts: PublicationStats,
}

impl Writer {
    fn new(
        broadcast: Broadcast,
        catalog_track: TrackWriter,
        media_track: TrackWriter,
        input: InputProtocol,
        sdp: Box<dyn Fn() -> Option<String> + Send>,
        shared: Arc<Shared>,
    ) -> Self {
        let now = unix_micros();
        Self {
            broadcast,
            catalog_track,
            media_track,
            catalog: None,
            input,
            sdp,
            shared,
            cutter: Cutter::new(input.family(), now),
            group: None,
            builder: ObjectBuilder::default(),
            builder_time: 0,
            headers: Headers::default(),
            clock: (Instant::now(), now),
            left_out: Throttle::default(),
            counts: PublicationStats::default(),
        }
    }

    async fn run(mut self, mut tap: Tap) {
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // An SDP is part of the first catalog; other families describe themselves by their first packet.
        loop {
            tokio::select! {
                batch = tap.next_batch() => {
                    let Some(batch) = batch else { break };
                    if let Err(error) = self.write_batch(&batch) {
                        self.shared.events.send(MoqEvent::Ended { reason: error.to_string().into() });
                        return;
                    }
                    self.counts.packets += u64::try_from(batch.len()).unwrap_or_default();
                    *lock(&self.shared.counts) = self.counts.clone();
                }
                _ = check.tick() => self.check(),
            }
        }
        self.shared.events.send(MoqEvent::Ended { reason: "the flow has stopped".into() });
    }

    /// Renews the description, and looks at the loss of the links.
    fn check(&mut self) {
        self.media_track.look();
        if self.input.family() == MediaFamily::Rtsp
            && let Some(sdp) = (self.sdp)()
            && self.catalog.as_ref().and_then(|catalog| catalog.media.sdp.as_ref()) != Some(&sdp)
        {
            let mut catalog = self.catalog.clone().unwrap_or_else(|| Catalog::new(self.input, false));
            catalog.media.sdp = Some(sdp);
            self.describe(catalog);
        }
        let now = Instant::now();
        let mut losses = lock(&self.shared.losses);
        for (link, loss) in self.shared.relays.links().iter().zip(losses.iter_mut()) {
            if let Some(stats) = link.stats()
                && let Some(event) = loss.observe(now, stats.packets_sent, stats.packets_lost, link.address())
            {
                self.shared.events.send(event);
            }
        }
    }

    /// Publishes a catalog that is another than the last. The first one announces the broadcast.
    fn describe(&mut self, catalog: Catalog) {
        let is_first = self.catalog.is_none();
        let json = catalog.to_json(unix_micros() / 1000);
        if let Err(error) = self.catalog_track.write_object(json) {
            self.leave_out(&error.to_string());
        }
        self.catalog = Some(catalog);
        if is_first && let Err(error) = self.broadcast.announce() {
            self.leave_out(&error.to_string());
        }
    }

    fn leave_out(&mut self, reason: &str) {
        self.counts.left_out += 1;
        if let Some(packets) = self.left_out.count(Instant::now()) {
            self.shared.events.send(MoqEvent::LeftOut { reason: reason.into(), packets });
        }
    }

    /// Returns the time of day of an arrival, in microseconds since 1970.
    fn time_of(&self, arrival: Instant) -> u64 {
        let (start, time) = self.clock;
        match arrival.checked_duration_since(start) {
            Some(later) => time.saturating_add(later.as_micros().try_into().unwrap_or(u64::MAX)),
            None => time.saturating_sub((start - arrival).as_micros().try_into().unwrap_or(u64::MAX)),
        }
    }

    fn write_batch(&mut self, batch: &PacketBatch) -> Result<(), Error> {
        if self.input.family() == MediaFamily::Rtsp && self.catalog.is_none() {
            self.check();
        }
        // A tap that was added late has not seen the headers that came before.
        let preamble = batch.preamble();
        for header in preamble.unwrap_or_default() {
            self.headers.observe(header);
        }
        for (index, packet) in batch.iter().enumerate() {
            self.write(packet, index == 0 && preamble.is_some())?;
        }
        self.flush()
    }

    fn write(&mut self, packet: &Packet, is_entry_point: bool) -> Result<(), Error> {
        let carriage = Carriage::of(packet);
        self.describe_carriage(packet, carriage);
        let time = self.time_of(packet.arrival());
        let follows = self.cutter.last_sequence();
        if let Cut::Begin(number) = self.cutter.next(packet, time, is_entry_point) {
            self.begin_group(number, time)?;
        }
        self.counts.bytes += u64::try_from(packet.data().len()).unwrap_or_default();
        if packet.family() == MediaFamily::Rtmp {
            self.headers.observe(packet);
        }
        if carriage == Carriage::TransportStream {
            self.flush()?;
            return self.write_object(time, packet.data().clone());
        }
        if self.builder.is_full() {
            self.flush()?;
        }
        if self.builder.is_empty() {
            self.builder_time = time;
        }
        if !self.builder.push(packet, false, follows) {
            self.leave_out("a packet of a kind or a size that cannot be carried");
        }
        Ok(())
    }

    /// Keeps the catalog true to how packets are carried.
    fn describe_carriage(&mut self, packet: &Packet, carriage: Carriage) {
        let is_transport_stream = carriage == Carriage::TransportStream;
        let programs = if is_transport_stream { programs(packet.data()) } else { None };
        let is_known = self.catalog.as_ref().is_some_and(|catalog| {
            let media = &catalog.media;
            media.is_transport_stream == is_transport_stream
                && programs.is_none_or(|programs| (programs > 1) == media.has_several_programs)
        });
        if is_known || self.input.family() == MediaFamily::Rtsp && self.catalog.is_some() {
            return;
        }
        let mut catalog = self.catalog.clone().unwrap_or_else(|| Catalog::new(self.input, is_transport_stream));
        catalog.media.is_transport_stream = is_transport_stream;
        if let Some(programs) = programs {
            catalog.media.has_several_programs = programs > 1;
        }
        self.describe(catalog);
    }

    /// Ends the present group and begins another, which repeats the headers of RTMP.
    fn begin_group(&mut self, number: u64, time: u64) -> Result<(), Error> {
        self.flush()?;
        self.group = None;
        // Two groups of one number: the sequence numbers went back. What follows goes into the next free number.
        let mut group = self.media_track.begin_group(number);
        if group.is_err() {
            group = self.media_track.begin_group(number.saturating_add(1));
        }
        self.group = Some(group?);
        self.counts.groups += 1;
        self.builder_time = time;
        for header in self.headers.iter() {
            self.builder.push(header, true, None);
        }
        Ok(())
    }

    /// Writes the object that is being built.
    fn flush(&mut self) -> Result<(), Error> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let object = self.builder.take();
        self.write_object(self.builder_time, object)
    }

    fn write_object(&mut self, time: u64, object: bytes::Bytes) -> Result<(), Error> {
        let size = object.len();
        if let Some(group) = &mut self.group {
            group.write(time, object)?;
            self.counts.objects += 1;
            self.cutter.published(size);
        }
        Ok(())
    }
}
