//! Target for MPEG-TS: the monitor, and the remux to FLV messages.

use crate::{
    media::{
        Remuxer, TsMonitor,
        flv::{FlvRandomAccessTracker, Tag},
    },
    test_rng::TestRng,
};
use std::time::{Duration, Instant};

pub(super) fn feed_transport_stream(input: &[u8], rng: &mut TestRng) {
    let mut monitor = TsMonitor::new();
    let mut remuxer = Remuxer::new();
    let mut messages = Vec::new();
    let mut points = FlvRandomAccessTracker::default();
    let start = Instant::now();
    for (i, payload) in input.chunks([1316, 188, 1000, 65_000][rng.below(4)]).enumerate() {
        monitor.observe(payload, start + Duration::from_millis(i as u64));
        remuxer.push(payload, start + Duration::from_millis(i as u64), &mut messages);
        let _ = (monitor.description(), monitor.pids(), remuxer.selection());
    }
    remuxer.finish(Instant::now(), &mut messages);
    for message in &messages {
        points.observe(message);
        let (kind, _) = message.rtmp_message().unwrap();
        let _ = Tag::parse(kind, message.data());
    }
}
