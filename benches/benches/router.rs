//! The router by itself: packets are pushed into a flow in batches, and each of its outputs reads all of them.
//! One thread does both, so the time is CPU time. Reported per packet per output; heap allocations are counted.
//!
//! The second group pushes one packet into each of many flows in turn, whose state is not in the cache: it shows what the
//! layout of that state costs.

// The counting allocator is the only way to see allocations.
#![allow(unsafe_code)]
// A bench that cannot run fails.
#![allow(clippy::expect_used)]
#![allow(missing_docs)]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Bitrate, Engine, Flow, FlowHandle, Output, Packet, RtmpKind, Source, Tap};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Payload of a datagram of MPEG-TS, in bytes.
const PAYLOAD: usize = 1316;

struct Rig {
    running: FlowHandle,
    taps: Vec<Tap>,
    payload: Bytes,
}

impl Rig {
    fn new(engine: &Engine, outputs: usize) -> Self {
        let source = Source::from_url("in", "app://rtp");
        let mut flow = Flow::builder("bench", Bitrate::bps(u64::MAX / 1_000_000)).source(source);
        for i in 0..outputs {
            flow = flow.output(Output::from_url(format!("out-{i}"), "tap:"));
        }
        let running = engine.block_on(engine.start(flow.build().expect("valid"))).expect("starts");
        let taps = (0..outputs).map(|i| running.tap(&format!("out-{i}")).expect("there")).collect();
        let mut packet = vec![0u8; 12 + PAYLOAD];
        packet[..2].copy_from_slice(&[0x80, 96]);
        Self { running, taps, payload: packet.into() }
    }

    /// Pushes `packets` in batches of `size`; every output reads every packet.
    fn run(&mut self, packets: u64, size: usize) -> Duration {
        let source = self.running.app_source("in").expect("there");
        let start = Instant::now();
        for _ in 0..packets.div_ceil(size as u64) {
            let batch = std::iter::repeat_with(|| Packet::rtp(self.payload.clone(), start)).take(size);
            source.push_all(batch).expect("there is room");
            for tap in &mut self.taps {
                while let Some(batch) = tap.try_next_batch() {
                    for packet in batch.iter() {
                        black_box(packet.data().len());
                    }
                }
            }
        }
        start.elapsed()
    }
}

fn router(criterion: &mut Criterion) {
    let engine = Engine::builder().workers(1).build().expect("a runtime");
    let mut group = criterion.benchmark_group("router, per packet per output");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let mut lines = Vec::new();
    for outputs in [1usize, 10, 100, 1000] {
        for size in [1usize, 16] {
            let mut rig = Rig::new(&engine, outputs);
            rig.run(10_000, size); // memory settles
            let before = ALLOCATIONS.load(Relaxed);
            let packets = 20_000;
            let time = rig.run(packets, size);
            let allocations = ALLOCATIONS.load(Relaxed) - before;
            let deliveries = packets as f64 * outputs as f64;
            lines.push(format!(
                "{outputs:>5} outputs, batches of {size:>2}: {:>6.1} ns per packet per output, {:.6} allocations per packet per output ({allocations} in all)",
                time.as_nanos() as f64 / deliveries,
                allocations as f64 / deliveries,
            ));
            group.throughput(Throughput::Elements(outputs as u64));
            group.bench_function(BenchmarkId::new(format!("{outputs} outputs"), format!("batch {size}")), |bencher| {
                bencher.iter_custom(|iterations| rig.run(iterations, size));
            });
            engine.block_on(rig.running.stop());
        }
    }
    group.finish();
    println!("\nrouter alone, {PAYLOAD}-byte packets, one thread pushes and reads:\n{}", lines.join("\n"));
}

/// A flow with one output, which reads what is pushed.
struct SmallFlow {
    running: FlowHandle,
    source: AppSource,
    tap: Tap,
}

/// Number of flows that take turns.
const FLOWS: usize = 1000;

fn many_flows(criterion: &mut Criterion) {
    let engine = Engine::builder().workers(1).build().expect("a runtime");
    let mut group = criterion.benchmark_group(format!("router, {FLOWS} flows in turn, per packet"));
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1));
    let mut datagram = vec![0u8; 12 + PAYLOAD];
    datagram[..2].copy_from_slice(&[0x80, 96]);
    // A part of a picture in H.264, as an FLV video tag has it.
    let mut picture = vec![0x27, 1, 0, 0, 0, 0, 0, 4, 0];
    picture.resize(PAYLOAD, 0x41);
    for (name, url, payload) in [("rtp", "app://rtp", datagram), ("rtmp", "app://rtmp", picture)] {
        let payload = Bytes::from(payload);
        let mut flows: Vec<SmallFlow> = (0..FLOWS)
            .map(|i| {
                let flow = Flow::builder(format!("{name}-{i}"), Bitrate::bps(u64::MAX / 1_000_000))
                    .source(Source::from_url("in", url))
                    .output(Output::from_url("out", "tap:"));
                let running = engine.block_on(engine.start(flow.build().expect("valid"))).expect("starts");
                let source = running.app_source("in").expect("there");
                let tap = running.tap("out").expect("there");
                SmallFlow { running, source, tap }
            })
            .collect();
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    let flow = &mut flows[next % FLOWS];
                    let packet = if name == "rtmp" {
                        Packet::rtmp(RtmpKind::Video, (next / FLOWS) as u32, payload.clone(), start)
                    } else {
                        Packet::rtp(payload.clone(), start)
                    };
                    next += 1;
                    flow.source.push_all(std::iter::once(packet)).expect("there is room");
                    while let Some(batch) = flow.tap.try_next_batch() {
                        black_box(batch.iter().map(|packet| packet.data().len()).sum::<usize>());
                    }
                }
                start.elapsed()
            });
        });
        for flow in &flows {
            engine.block_on(flow.running.stop());
        }
    }
    group.finish();
}

criterion_group!(benches, router, many_flows);
criterion_main!(benches);
