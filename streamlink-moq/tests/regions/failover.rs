//! Nodes that die or leave: what players and servers see.

use crate::{
    common::{soon, until},
    rig::{Rig, runner_of},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, Engine, Flow, Output, Source, StreamKey};
use streamlink_moq::{Lease, placement::OutputId};
use streamlink_tests::{media, nginx::Nginx, peer::Peer};
use tokio::runtime::Handle;

/// Longest silence at a destination when the node dies that serves it.
const TAKEOVER: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_srt_push_returns_within_three_seconds_after_its_node_died() {
    let rig = Rig::start().await;
    let studio = Engine::on(Handle::current()).unwrap();
    let flow = Flow::builder("studio", Bitrate::mbps(20))
        .source(Source::srt_listener("in", "127.0.0.1:0"))
        .output(Output::tap("out"));
    let studio_flow = studio.start(flow.build().unwrap()).await.unwrap();
    let port = studio_flow.input_addresses()[0].rsplit(':').next().unwrap().split('?').next().unwrap().to_owned();
    let mut tap = studio_flow.tap("out").unwrap();
    let mut nodes = rig.nodes(["n1", "n2", "n3"]).await;
    let output = Output::from(Output::srt_caller("studio", &format!("127.0.0.1:{port}")));
    let (flow, _generator) = rig.generated("match-day", vec![output.region("eu")]).await;
    soon("media at the destination", tap.next()).await.unwrap();
    let stats = || flow.stats().outputs[0].clone();
    until("statistics at the flow's handle", || stats().node.is_some() && stats().packets > 0).await;

    let runner = runner_of(&nodes, "match-day/studio").await;
    let name = nodes[runner].key().id.clone();
    assert_eq!(stats().node.unwrap(), name.as_str());
    while tap.try_next().is_some() {}
    drop(nodes.remove(runner));
    let killed = Instant::now();
    // What was in flight comes first; then there is silence, and then the next node.
    let mut last = killed;
    let silence = soon("media from another node", async {
        loop {
            tap.next().await.unwrap();
            let now = Instant::now();
            if now - last > Duration::from_millis(800) {
                return now - killed;
            }
            last = now;
        }
    })
    .await;
    println!("SRT push back after {silence:?}");
    assert!(silence <= TAKEOVER, "{silence:?}");
    let next = runner_of(&nodes, "match-day/studio").await;
    let other = nodes[next].key().id.clone();
    assert_ne!(other, name);
    until("reports of the next node", || stats().node.is_some_and(|node| *node == *other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_rtmp_server_never_sees_two_publishers() {
    let rig = Rig::start().await;
    let nginx = Nginx::on(streamlink_tests::rig::free_port(), "record_unique on;");
    let nodes = rig.nodes(["n1", "n2"]).await;
    let flow = Flow::builder("show", Bitrate::mbps(20))
        .source(Source::rtmp("encoder", "127.0.0.1:0", "live"))
        .output(Output::from(Output::rtmp_push("platform", &nginx.url(), StreamKey::new("cam").unwrap())).region("eu"));
    let flow = rig.ingest.start(flow.build().unwrap()).await.unwrap();
    let input = flow.input_addresses()[0].clone();
    let clip = streamlink_tests::clip();
    let read = ["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", clip.to_str().unwrap()];
    let _encoder = Peer::start("ffmpeg", &[&read[..], &["-c", "copy", "-f", "flv", &input]].concat());
    let folder = nginx.recording("cam").parent().unwrap().to_owned();
    let recordings = || {
        let files = std::fs::read_dir(&folder).unwrap().filter_map(Result::ok).map(|file| file.path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "flv")).collect();
        files.sort();
        files
    };
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    until("a recording", || recordings().first().is_some_and(|file| size(file) > 100_000)).await;

    let mut nodes = nodes;
    let runner = runner_of(&nodes, "show/platform").await;
    drop(nodes.remove(runner));
    let killed = Instant::now();
    until("a recording of the other node", || {
        recordings().last().is_some_and(|file| size(file) > 20_000) && recordings().len() == 2
    })
    .await;
    let silence = killed.elapsed();
    println!("RTMP push back after {silence:?}");
    assert!(silence <= TAKEOVER, "{silence:?}");

    // A node that starts takes over what is due to it, and one that leaves hands over, without a second publisher.
    nodes.push(rig.node("n1"));
    nodes.push(rig.node("n4"));
    let runs = |node: &streamlink_moq::Node| !node.state().exclusive.is_empty();
    until("one runner", || nodes.iter().filter(|node| runs(node)).count() == 1).await;
    let runner = runner_of(&nodes, "show/platform").await;
    let left = Instant::now();
    nodes.remove(runner).leave().await;
    until("another runner", || nodes.iter().filter(|node| runs(node)).count() == 1).await;
    println!("handed over after {:?}", left.elapsed());
    // One that has just begun has no picture yet.
    for file in recordings().iter().filter(|file| size(file) > 20_000) {
        media::check_times(file, "v");
    }
    let log = nginx.output();
    assert!(!log.contains("already publishing"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_listener_runs_on_primary_and_standby() {
    let rig = Rig::start().await;
    let nodes = rig.nodes(["n1", "n2", "n3"]).await;
    // All nodes of this test are on one machine: each takes a port of its own.
    let output = Output::from(Output::srt_listener("players", "127.0.0.1:0")).region("eu");
    let (flow, _generator) = rig.generated("match-day", vec![output]).await;
    let runs = |node: &streamlink_moq::Node| node.state().shared == ["match-day/players"];
    until("two nodes that listen", || nodes.iter().filter(|node| runs(node)).count() == 2).await;
    flow.stop().await;
    until("no node that listens", || nodes.iter().all(|node| node.state().flows == 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_loses_nothing_when_one_of_two_ingest_engines_dies() {
    let rig = Rig::start().await;
    let second = rig.another_ingest();
    lose_an_ingest_engine(&rig, [&rig.ingest, &second]).await;
}

/// Takes one RTP stream in at two engines, of which the first one dies.
pub(crate) async fn lose_an_ingest_engine(rig: &Rig, engines: [&Engine; 2]) {
    let nodes = rig.nodes(["n1"]).await;
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let destination = receiver.local_addr().unwrap().to_string();
    let mut flows = Vec::new();
    for engine in engines {
        let output = Output::from(Output::rtp("studio", &destination)).region("eu");
        let flow = Flow::builder("match-day", Bitrate::mbps(20)).source(Source::app_rtp("in")).output(output);
        flows.push(engine.start(flow.build().unwrap()).await.unwrap());
    }
    let mut sources: Vec<_> = flows.iter().map(|flow| flow.app_source("in").unwrap()).collect();
    let sender = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        for number in 0_u16..1600 {
            ticks.tick().await;
            let mut packet = vec![0x80, 33];
            packet.extend(number.to_be_bytes());
            packet.extend((u32::from(number) * 450).to_be_bytes());
            packet.extend([1, 2, 3, 4]);
            packet.resize(12 + 1316, 0x47);
            let now = Instant::now();
            // The first engine dies in the middle, and refuses packets from then on.
            sources.retain(|source| source.push(streamlink_core::Packet::rtp(packet.clone(), now)).is_ok());
        }
    });
    runner_of(&nodes, "match-day/studio").await;
    let mut numbers = Vec::new();
    let mut buffer = vec![0; 2048];
    let mut first = Some(flows.remove(0));
    while let Ok(Ok(length)) = tokio::time::timeout(Duration::from_secs(3), receiver.recv(&mut buffer)).await {
        assert_eq!(length, 12 + 1316);
        numbers.push(u16::from_be_bytes([buffer[2], buffer[3]]));
        // Dropping the handle ends the flow, as the end of its process does.
        if numbers.len() == 300 {
            drop(first.take());
        }
    }
    sender.await.unwrap();
    assert!(numbers.len() > 500, "{}", numbers.len());
    let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0].wrapping_add(1)).collect();
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(numbers.last(), Some(&1599));
}

/// Store of leases that the test fills.
#[derive(Default)]
struct Store {
    until: Mutex<Option<Instant>>,
    requested: AtomicBool,
    released: AtomicBool,
}

impl Lease for Store {
    fn request(&self, output: &OutputId) {
        assert_eq!(output.to_string(), "match-day/studio");
        self.requested.store(true, Ordering::Relaxed);
    }

    fn held_until(&self, _: &OutputId) -> Option<Instant> {
        *self.until.lock().unwrap()
    }

    fn release(&self, _: &OutputId) {
        self.released.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_push_runs_only_while_the_lease_of_the_host_is_held() {
    let rig = Rig::start().await;
    let store = Arc::new(Store::default());
    let node = rig.node_with("n1", |options| options.lease(store.clone()));
    let output = Output::from(Output::srt_caller("studio", "127.0.0.1:9")).region("eu");
    let (flow, _generator) = rig.generated("match-day", vec![output]).await;
    let runs = || !node.state().exclusive.is_empty();
    until("a request", || store.requested.load(Ordering::Relaxed)).await;
    assert!(!runs());
    *store.until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(3600));
    until("the output", runs).await;
    // The store says that the lease is over: it is asked for again, and the output stops meanwhile.
    *store.until.lock().unwrap() = Some(Instant::now());
    until("the end of the output", || !runs()).await;
    *store.until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(3600));
    until("the output", runs).await;
    assert!(!store.released.load(Ordering::Relaxed));
    flow.remove_output("studio").await.unwrap();
    until("the release", || store.released.load(Ordering::Relaxed)).await;
}
