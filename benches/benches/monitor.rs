//! The way of datagrams into a flow that nobody reads: the monitor of MPEG-TS with its checks of TR 101 290 takes nearly
//! all of it. Datagrams of whole transport packets are compared with those that cut packets, and with such that are no
//! MPEG-TS, for which the monitor has next to nothing to do.

// A bench that cannot run fails.
#![allow(clippy::expect_used)]
#![allow(missing_docs)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use streamlink_benches::feed;
use streamlink_core::{AppSource, Bitrate, Engine, Flow, Packet, Source};

/// Payload of a datagram of MPEG-TS, in bytes.
const PAYLOAD: usize = 1316;
/// Number of datagrams that are pushed together.
const BATCH: usize = 16;

/// Pushes datagrams, from the first on again after the last.
fn push(source: &AppSource, datagrams: &[Bytes], count: u64) -> Duration {
    let mut next = datagrams.iter().cycle();
    let start = Instant::now();
    for _ in 0..count.div_ceil(BATCH as u64) {
        let batch = next.by_ref().take(BATCH).map(|payload| Packet::datagram(payload.clone(), start));
        source.push_all(batch).expect("there is room");
    }
    start.elapsed()
}

fn monitor(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = feed::make_media(folder.path(), 2).expect("ffmpeg makes the media");
    let media = Bytes::from(std::fs::read(file).expect("a file"));
    let cut = |from: usize| -> Vec<Bytes> {
        (from..media.len() - PAYLOAD).step_by(PAYLOAD).map(|at| media.slice(at..at + PAYLOAD)).collect()
    };
    let others: Vec<Bytes> = (0..100u8).map(|i| Bytes::from(vec![i % 0x40; PAYLOAD])).collect();
    let engine = Engine::builder().workers(1).build().expect("a runtime");
    let mut group = criterion.benchmark_group("datagrams into a flow");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1));
    for (name, datagrams) in [("whole packets", cut(0)), ("cut packets", cut(100)), ("no MPEG-TS", others)] {
        let flow = Flow::builder("bench", Bitrate::bps(u64::MAX / 1_000_000))
            .source(Source::from_url("in", "app://datagrams"));
        let running = engine.block_on(engine.start(flow.build().expect("valid"))).expect("starts");
        let source = running.app_source("in").expect("there");
        group.bench_function(name, |bencher| bencher.iter_custom(|count| push(&source, &datagrams, count)));
        engine.block_on(running.stop());
    }
    group.finish();
}

criterion_group!(benches, monitor);
criterion_main!(benches);
