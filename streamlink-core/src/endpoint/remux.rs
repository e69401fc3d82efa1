//! Remuxing from SRT to RTMP. A task reads a flow's datagrams and publishes the FLV messages found in their MPEG-TS
//! into a separate ring. RTMP outputs read it like the ring of an RTMP flow.

use super::{Event, EventSink};
use crate::{
    media::Remuxer,
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

/// Status of a remux.
#[derive(Debug, Default)]
pub(crate) struct RemuxStatus {
    /// Set if RTMP can carry none of the elementary streams.
    nothing: AtomicBool,
    /// Description of the streams that are carried and of those that are left out.
    selection: ArcSwapOption<String>,
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
}

/// Runs the remux until the flow ends.
pub(crate) async fn run(mut reader: Reader, ring: Arc<Ring>, events: EventSink, status: Arc<RemuxStatus>) {
    let (mut remuxer, mut cutter) = (Remuxer::new(), GopSegmenter::default());
    let (mut window, mut messages, mut out) = (Vec::new(), Vec::new(), MediaBatch::default());
    let mut waits = false;
    loop {
        let ready = tokio::select! {
            ready = reader.ready() => Some(ready),
            () = tokio::time::sleep(PATIENCE), if waits => None,
        };
        match ready {
            Some(Ok(())) => {
                reader.read(&mut window);
                for packet in window.drain(..).flat_map(|batch| batch.packets().to_vec()) {
                    remuxer.push(packet.data(), packet.arrival(), &mut messages);
                }
                waits = true;
            }
            Some(Err(_)) | None => {
                remuxer.finish(Instant::now(), &mut messages);
                waits = false;
            }
        }
        for message in messages.drain(..) {
            if let Some(moment) = cutter.observe(&message) {
                cutter.push(&mut out, message, moment);
            }
        }
        ring.deliver(&mut out);
        if let Some(selection) = remuxer.selection() {
            let (carried, left_out) = (selection.carried.join(", "), selection.left_out.join(", "));
            status.nothing.store(carried.is_empty(), Relaxed);
            let event = Event::Remuxed { carried: carried.into(), left_out: left_out.into() };
            status.selection.store(Some(Arc::new(event.to_string())));
            events.emit(event);
        }
        if matches!(ready, Some(Err(_))) {
            return ring.close();
        }
    }
}
