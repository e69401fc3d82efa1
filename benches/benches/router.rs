//! The router by itself: packets are pushed into a flow in batches, and each of its outputs reads all of them.
//! One thread does both, so the time is CPU time. Reported per packet per output; heap allocations are counted.

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
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Packet, Source, Tap};

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

criterion_group!(benches, router);
criterion_main!(benches);
