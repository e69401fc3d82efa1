//! The cost of the C ABI: packets pushed and tapped through it and through Rust, in turn, and a snapshot of statistics.
//! One thread does everything, and its CPU time is measured, which a busy machine does not add to.

#![allow(unsafe_code)]
// A bench that cannot run fails.
#![allow(clippy::expect_used)]
#![allow(missing_docs)]

use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use std::{
    ffi::{CString, c_char},
    ptr::{null, null_mut},
    time::{Duration, Instant},
};
use streamlink::{
    app::{streamlink_app_source_give, streamlink_flow_app_source},
    endpoint_stats::StreamlinkEndpointStats,
    engine::{streamlink_engine_create, streamlink_engine_destroy},
    flow::{StreamlinkFlow, streamlink_flow_destroy, streamlink_flow_start_json, streamlink_flow_stats},
    packet::{StreamlinkPacket, streamlink_packet_copy, streamlink_packet_free},
    stats::{streamlink_stats_count, streamlink_stats_endpoint, streamlink_stats_free},
    status::Status,
    tap::{streamlink_flow_tap, streamlink_tap_destroy, streamlink_tap_next},
};
use streamlink_core::{Bitrate, Engine, Flow, Output, Packet, Source};

/// Payload of a datagram of MPEG-TS, in bytes.
const PAYLOAD: usize = 1316;
const BATCH: usize = 16;
/// Batches in one measurement, and pairs of measurements. Other programs disturb the caches at times: a short measurement
/// of each kind beside one of the other is disturbed with it, or not at all.
const BATCHES: usize = 100;
const RUNS: usize = 1001;
/// Number of snapshots that are timed.
const SNAPSHOTS: usize = 5000;
/// The targets.
const MOST_NS: f64 = 30.0;
const MOST_SNAPSHOT: Duration = Duration::from_micros(10);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the CPU time that this thread has used, in nanoseconds.
fn cpu_nanos() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    Duration::from(time).as_nanos() as f64
}

/// Returns the CPU time that something takes, in nanoseconds.
fn time(work: impl FnOnce()) -> f64 {
    let start = cpu_nanos();
    work();
    cpu_nanos() - start
}

fn check(status: Status) {
    assert_eq!(status, Status::Ok);
}

fn start_c(engine: *const streamlink::engine::StreamlinkEngine, json: &str) -> *mut StreamlinkFlow {
    let json = CString::new(json).expect("no NUL");
    let mut flow = null_mut();
    // SAFETY: live objects, and a place for the result.
    check(unsafe { streamlink_flow_start_json(engine, json.as_ptr(), &raw mut flow, null_mut()) });
    flow
}

fn main() {
    // `cargo test --benches` only checks that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let payload = [0x47u8; PAYLOAD];

    // Through Rust.
    let engine = Engine::builder().workers(1).build().expect("an engine");
    let flow = Flow::builder("rust", Bitrate::bps(u64::MAX / 1_000_000))
        .source(Source::app_datagrams("in"))
        .output(Output::tap("tap"))
        .build()
        .expect("valid");
    let running = engine.block_on(engine.start(flow)).expect("starts");
    let source = running.app_source("in").expect("there");
    let mut tap = running.tap("tap").expect("there");
    let mut rust = || {
        for _ in 0..BATCHES {
            let packets = (0..BATCH).map(|_| Packet::datagram(Bytes::copy_from_slice(&payload), Instant::now()));
            source.push_all(packets).expect("room");
            let batch = tap.try_next_batch().expect("a batch");
            let taken: Vec<Packet> = batch.iter().cloned().collect();
            assert_eq!(taken.len(), BATCH);
        }
    };

    // Through C.
    let mut c_engine = null_mut();
    // SAFETY: NULL stands for the defaults, and there is a place for the result.
    check(unsafe { streamlink_engine_create(null(), &raw mut c_engine, null_mut()) });
    let json = r#"{"name": "c", "max_bandwidth": 18446744073709, "sources": [{"name": "in", "url": "app://datagrams"}],
        "outputs": [{"name": "tap", "url": "tap:"}]}"#;
    let c_flow = start_c(c_engine, json);
    let mut c_source = null_mut();
    let mut c_tap = null_mut();
    let name = |name: &'static std::ffi::CStr| -> *const c_char { name.as_ptr() };
    // SAFETY: live objects, texts, and places for the results.
    unsafe {
        check(streamlink_flow_app_source(c_flow, name(c"in"), &raw mut c_source, null_mut()));
        check(streamlink_flow_tap(c_flow, name(c"tap"), &raw mut c_tap, null_mut()));
    }
    let c = || {
        let mut packets: [*mut StreamlinkPacket; BATCH] = [null_mut(); BATCH];
        for _ in 0..BATCHES {
            // SAFETY: live objects, and as many places as are said; every packet is freed once.
            unsafe {
                for packet in &mut packets {
                    check(streamlink_packet_copy(1, 0, payload.as_ptr(), PAYLOAD, packet, null_mut()));
                }
                check(streamlink_app_source_give(c_source, packets.as_ptr(), BATCH));
                let mut count = 0;
                let taken = packets.as_mut_ptr();
                check(streamlink_tap_next(c_tap, 0, taken, BATCH, &raw mut count, null_mut()));
                assert_eq!(count, BATCH);
                for packet in &packets {
                    streamlink_packet_free(*packet);
                }
            }
        }
    };

    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for run in 0..RUNS {
        // Neither always runs with the caches that the other has left.
        let (rust, c) = if run.is_multiple_of(2) {
            let rust = time(&mut rust);
            (rust, time(c))
        } else {
            let c = time(c);
            (time(&mut rust), c)
        };
        for (times, time) in times.iter_mut().zip([rust, c, c - rust]) {
            times.push(time / (BATCHES * BATCH) as f64);
        }
    }
    let [rust, c, above] = times.map(median);
    let verdict = |holds: bool| if holds { "holds" } else { "DOES NOT HOLD" };
    println!("push and tap of {PAYLOAD} bytes, batches of {BATCH}: Rust {rust:.0} ns a packet, C {c:.0} ns");
    println!("  C above Rust, ns: {above:.0}, at most {MOST_NS}: {}", verdict(above <= MOST_NS));

    // A snapshot of a hundred outputs.
    let outputs: Vec<String> =
        (0..100).map(|i| format!(r#"{{"name": "out-{i}", "url": "rtp://127.0.0.1:{}"}}"#, 40_000 + i)).collect();
    let json = format!(
        r#"{{"name": "many", "max_bandwidth": "20M", "sources": [{{"name": "in", "url": "rtp://127.0.0.1:0"}}],
            "outputs": [{}]}}"#,
        outputs.join(",")
    );
    let many = start_c(c_engine, &json);
    let mut snapshots = Vec::new();
    let mut readings = Vec::new();
    for _ in 0..SNAPSHOTS {
        let start = cpu_nanos();
        let mut stats = null_mut();
        // SAFETY: live objects, and places for the results; the size is set.
        unsafe {
            check(streamlink_flow_stats(many, &raw mut stats, null_mut()));
            snapshots.push(cpu_nanos() - start);
            let mut endpoint =
                StreamlinkEndpointStats { size: size_of::<StreamlinkEndpointStats>(), ..std::mem::zeroed() };
            for index in 0..streamlink_stats_count(stats) {
                check(streamlink_stats_endpoint(stats, index, &raw mut endpoint, null_mut()));
            }
            streamlink_stats_free(stats);
        }
        readings.push(cpu_nanos() - start);
    }
    let snapshot = median(snapshots) / 1e3;
    let all = median(readings) / 1e3;
    println!("a snapshot of a flow with 100 outputs: {snapshot:.1} µs; with reading all of it {all:.1} µs");
    let most = MOST_SNAPSHOT.as_micros() as f64;
    println!("  a snapshot, µs: {snapshot:.1}, at most {most}: {}", verdict(snapshot <= most));
    // SAFETY: objects that are destroyed once.
    unsafe {
        streamlink_tap_destroy(c_tap);
        streamlink_flow_destroy(many);
        streamlink_flow_destroy(c_flow);
        streamlink_engine_destroy(c_engine);
    }
    engine.block_on(running.stop());
}
