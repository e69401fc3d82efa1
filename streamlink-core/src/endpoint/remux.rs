//! Remuxing from SRT to RTMP. A task reads a flow's datagrams and publishes the FLV messages found in their MPEG-TS
//! into a separate ring. RTMP outputs read it like the ring of an RTMP flow.

use super::{Event, EventSink, WantedPrograms};
use crate::{
    media::{MediaTrack, Packet, Remuxer},
    router::{GopSegmenter, MediaBatch, Reader, Ring},
};
use arc_swap::ArcSwapOption;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Silence after which the last picture is sent without waiting for the next one.
const PATIENCE: Duration = Duration::from_millis(200);
/// Interval at which the end of a silent source is looked for, while players could start with its media.
const END_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two descriptions of the tracks for the statistics.
const DESCRIBE_INTERVAL: Duration = Duration::from_secs(1);

/// Status of a remux.
#[derive(Debug, Default)]
pub(crate) struct RemuxStatus {
    /// Set if RTMP can carry none of the elementary streams.
    nothing: AtomicBool,
    /// Description of the streams that are carried and of those that are left out.
    selection: ArcSwapOption<String>,
    tracks: ArcSwapOption<Vec<MediaTrack>>,
}

impl RemuxStatus {
    /// Returns whether RTMP can carry none of the elementary streams.
    pub(crate) fn has_nothing(&self) -> bool {
        self.nothing.load(Relaxed)
    }

    /// Returns a description of the streams that are carried and of those that are left out, once known.
    pub(crate) fn selection(&self) -> Option<String> {
        self.selection.load_full().map(|text| text.as_ref().clone())
    }

    /// Returns the streams that the transport stream names, about a second old.
    pub(crate) fn tracks(&self) -> Vec<MediaTrack> {
        self.tracks.load_full().map(|tracks| tracks.as_ref().clone()).unwrap_or_default()
    }
}

/// Runs the remux until the flow ends.
pub(crate) async fn run(
    mut reader: Reader,
    ring: Arc<Ring>,
    events: EventSink,
    status: Arc<RemuxStatus>,
    wanted: WantedPrograms,
) {
    let mut remuxer = Remuxer::new();
    let mut cutter = GopSegmenter::default();
    let mut window = Vec::new();
    let mut messages = Vec::new();
    let mut out = MediaBatch::default();
    let mut waits = false;
    let mut described: Option<Instant> = None;
    let mut damaged = 0;
    // The first batch of the stream that is being read, and whether players could start with its media.
    let mut stream_start = 0;
    let mut retains = false;
    loop {
        let patience = if waits { PATIENCE } else { END_INTERVAL };
        let ready = tokio::select! {
            ready = reader.ready() => Some(ready),
            () = tokio::time::sleep(patience), if waits || retains => None,
        };
        let mut publish = |messages: &mut Vec<Packet>| {
            for message in messages.drain(..) {
                if let Some(moment) = cutter.observe(&message) {
                    cutter.push(&mut out, message, moment);
                }
            }
            let has_media = !out.is_empty();
            ring.deliver(&mut out);
            has_media
        };
        match ready {
            Some(Ok(())) => {
                reader.read(&mut window);
                remuxer.want(&wanted.now(), Instant::now(), &mut messages);
                let start = reader.stream_start();
                for batch in window.drain(..) {
                    if stream_start < start && batch.sequence() >= start {
                        stream_start = start;
                        remuxer.cut(Instant::now(), &mut messages);
                        publish(&mut messages);
                        ring.end_gop();
                    }
                    for packet in batch.packets() {
                        remuxer.push(packet.data(), packet.arrival(), &mut messages);
                    }
                }
                waits = true;
            }
            Some(Err(_)) => remuxer.finish(Instant::now(), &mut messages),
            None => {
                remuxer.pause(Instant::now(), &mut messages);
                waits = false;
                let start = reader.stream_start();
                if stream_start < start && reader.position() >= start {
                    stream_start = start;
                    remuxer.cut(Instant::now(), &mut messages);
                    publish(&mut messages);
                    ring.end_gop();
                    retains = false;
                }
            }
        }
        retains |= publish(&mut messages);
        let selection = remuxer.selection();
        let now = Instant::now();
        let is_due = described.is_none_or(|last| now.saturating_duration_since(last) >= DESCRIBE_INTERVAL);
        if is_due || selection.is_some() || !waits {
            described = Some(now);
            status.tracks.store(Some(Arc::new(remuxer.tracks(now))));
            let count = remuxer.damaged_sections();
            if count != damaged {
                log::warn!("{} sections of program tables were damaged (wrong CRC), and ignored", count - damaged);
                damaged = count;
            }
        }
        if let Some(selection) = selection {
            let carried = selection.carried.join(", ");
            let left_out = selection.left_out.join(", ");
            status.nothing.store(carried.is_empty() && !selection.waits, Relaxed);
            let event = Event::Remuxed { carried: carried.into(), left_out: left_out.into() };
            status.selection.store(Some(Arc::new(event.to_string())));
            events.emit(event);
        }
        if matches!(ready, Some(Err(_))) {
            return ring.close();
        }
    }
}
