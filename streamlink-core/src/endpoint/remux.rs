//! SRT to RTMP: a task that reads a flow's datagrams, and publishes the FLV messages that it finds in their MPEG-TS
//! into a ring of their own, which RTMP outputs read as they would read that of an RTMP flow.

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

/// When nothing has come for so long, the last picture waits no longer for the one after it.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is known of a remux.
#[derive(Debug, Default)]
pub(crate) struct RemuxStatus {
    /// There is nothing in the stream that RTMP can carry.
    nothing: AtomicBool,
    /// What is carried, and what is left out.
    selection: ArcSwapOption<String>,
}

impl RemuxStatus {
    /// Whether there is nothing in the stream that RTMP can carry.
    pub(crate) fn has_nothing(&self) -> bool {
        self.nothing.load(Relaxed)
    }

    /// What is carried, and what is left out, once known.
    pub(crate) fn selection(&self) -> Option<String> {
        self.selection.load_full().map(|text| text.as_ref().clone())
    }
}

/// Runs until the flow ends.
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
