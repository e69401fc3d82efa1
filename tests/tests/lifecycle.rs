//! Start and stop of flows and engines: a wrong flow is refused as a whole, and nothing is left behind.

use std::{
    net::UdpSocket,
    sync::{Mutex, MutexGuard, PoisonError},
};
use streamlink_core::{Bitrate, Engine, ErrorKind, Event, Flow, Output, RegionEgress, Source};
use streamlink_tests::{
    eventually,
    peer::{self, Peer},
    rtp::{Sender, Sink},
};

/// Lock of the tests that count the descriptors of the process: one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The descriptors of the process, once those of earlier tests, which close in the background, are gone.
fn settled() -> usize {
    let mut last = 0;
    eventually("a steady number of descriptors", || {
        let before = std::mem::replace(&mut last, descriptors());
        std::thread::sleep(std::time::Duration::from_millis(100)); // between two looks
        (before == last && last == descriptors()).then_some(last)
    })
}

fn flow(name: &str, bind: &str, sinks: &[&Sink]) -> Flow {
    let mut flow = Flow::builder(name, Bitrate::mbps(20)).source(Source::rtp("in", bind));
    for (i, sink) in sinks.iter().enumerate() {
        flow = flow.output(Output::rtp(format!("out-{i}"), &sink.address()));
    }
    flow.output(Output::tap("tap")).build().unwrap()
}

#[test]
fn flow_stop_leaves_no_task_or_socket() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = Engine::on(runtime.handle().clone()).unwrap();
    let sinks: Vec<Sink> = (0..100).map(|_| Sink::new()).collect();
    let before = (settled(), runtime.metrics().num_alive_tasks());
    for _ in 0..5 {
        let running =
            runtime.block_on(engine.start(flow("f", "127.0.0.1:0", &sinks.iter().collect::<Vec<_>>()))).unwrap();
        let mut events = running.events();
        assert!(descriptors() > before.0 + 100);
        Sender::to(&running.input_addresses()[0]).stream(0..10);
        sinks[99].take(10);
        let calls = running.tap("tap").unwrap().for_each(drop);
        runtime.block_on(running.stop());
        drop(calls);
        assert_eq!(descriptors(), before.0, "after stop, all sockets are closed");
        eventually("no task is left", || (runtime.metrics().num_alive_tasks() == before.1).then_some(()));
        let mut last = None;
        while let Some(event) = runtime.block_on(events.next()) {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::FlowStopped));
        for s in &sinks {
            drop(s.drain(std::time::Duration::from_millis(1)));
        }
    }
    // Dropping the handle, and dropping the engine, end flows too.
    drop(runtime.block_on(engine.start(flow("f", "127.0.0.1:0", &[&sinks[0]]))).unwrap());
    eventually("sockets close", || (descriptors() == before.0).then_some(()));
    let running = runtime.block_on(engine.start(flow("f", "127.0.0.1:0", &[&sinks[0]]))).unwrap();
    drop(engine);
    eventually("sockets close", || (descriptors() == before.0).then_some(()));
    assert_eq!(runtime.block_on(running.add_output(Output::tap("x"))).unwrap_err().kind(), ErrorKind::Stopped);
}

#[test]
fn engine_shutdown_leaves_no_descriptor() {
    let _alone = alone();
    // The first runtime of a process opens descriptors that all later ones share.
    drop(Engine::new().unwrap());
    let before = settled();
    let sink = Sink::new();
    let engine = Engine::new().unwrap();
    let running = engine.block_on(engine.start(flow("f", "127.0.0.1:0", &[&sink]))).unwrap();
    engine.block_on(engine.shutdown());
    drop((running, engine, sink));
    eventually("descriptors close", || (descriptors() == before).then_some(()));
}

#[test]
fn flow_start_is_all_or_nothing() {
    let _alone = alone();
    let engine =
        Engine::builder().workers(1).region("here", RegionEgress::Address([127, 0, 0, 1].into())).build().unwrap();
    let start = |flow| engine.block_on(engine.start(flow));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let before = settled();

    let error = start(flow("f", &address, &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressInUse);
    let text = error.to_string();
    assert!(text.contains("flow `f`") && text.contains("source `in`") && text.contains(&address), "{text}");

    let error = start(flow("f", "192.0.2.1:5004", &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");

    // The second output cannot be resolved: the first, and the source, are closed again.
    let broken = Flow::builder("f", Bitrate::mbps(1))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("good", "127.0.0.1:5004"))
        .output(Output::rtp("bad", "no.such.host.invalid:5004"));
    let error = start(broken.build().unwrap()).unwrap_err().to_string();
    assert!(error.contains("output `bad`") && error.contains("no.such.host.invalid"), "{error}");

    let lost = Flow::builder("f", Bitrate::mbps(1))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", "127.0.0.1:5004").region("moon"));
    let error = start(lost.build().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "outputs[0].region: there is no region `moon`; known: here");

    assert_eq!(descriptors(), before);

    // Two flows: one name, one address.
    drop(taken);
    let first = start(flow("f", &address, &[])).unwrap();
    assert_eq!(start(flow("f", "127.0.0.1:0", &[])).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let error = start(flow("g", &address, &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("flow `f` already listens"), "{error}");
    engine.block_on(first.stop());
    engine.block_on(start(flow("g", &address, &[])).unwrap().stop());
}

#[test]
fn region_binds_output_to_its_address() {
    let _alone = alone();
    let engine =
        Engine::builder().workers(1).region("here", RegionEgress::Address([127, 0, 0, 9].into())).build().unwrap();
    let sink = Sink::new();
    let flow = Flow::builder("region", Bitrate::mbps(1))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &sink.address()).region("here"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    Sender::to(&running.input_addresses()[0]).stream(0..2);
    let mut buffer = [0; 2048];
    let (_, from) = sink.0.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip().to_string(), "127.0.0.9");
    engine.block_on(running.stop());
}

/// A process without privileges, and a port that needs some.
#[test]
fn flow_start_reports_permission_denied_port() {
    let _alone = alone();
    let relay = peer::example("relay");
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let copy = folder.path().join("relay");
    std::fs::copy(relay, &copy).unwrap();
    for path in [folder.path(), &copy] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let copy = copy.to_str().unwrap();
    let relayed = ["--source", "rtp://127.0.0.1:80", "--output", "a=rtp://127.0.0.1:5004"];
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", copy];
    let mut peer = Peer::start("setpriv", &[&as_nobody[..], &relayed[..]].concat());
    assert!(!peer.finish().success());
    let said = peer.output();
    assert!(said.contains("127.0.0.1:80") && said.contains("ermission denied"), "{said}");
}

#[test]
fn metrics_are_open_metrics_text() {
    let _alone = alone();
    let engine = Engine::builder().workers(1).build().unwrap();
    let sink = Sink::new();
    let flow = Flow::builder("a \"quoted\" flow", Bitrate::mbps(20))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &sink.address()));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    Sender::to(&running.input_addresses()[0]).stream(0..10);
    sink.take(10);
    let line = r#"streamlink_packets_total{flow="a \"quoted\" flow",role="output",endpoint="out",protocol="RTP"} 10"#;
    let text = eventually("the metric", || Some(engine.metrics()).filter(|text| text.contains(line)));
    assert!(text.contains("# TYPE streamlink_packets counter") && text.ends_with("# EOF\n"), "{text}");
    engine.block_on(running.stop());
}

#[test]
fn add_output_rejects_duplicate_address_and_key() {
    let _alone = alone();
    let engine = Engine::builder().workers(1).build().unwrap();
    let bind = Sink::new().address();
    let srt = |name: &str, id: &str| Output::srt_listener(name, &bind).stream_id(id);
    let flow = Flow::builder("f", Bitrate::mbps(1)).source(Source::app_datagrams("in")).output(srt("a", "one"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let error = engine.block_on(running.add_output(srt("b", "one"))).unwrap_err();
    assert!(error.to_string().contains("output.bind: flow `f` already listens"), "{error}");
    engine.block_on(running.add_output(srt("b", "two"))).unwrap();
    // In its own place it may have what it had; what fails leaves the old one where it was.
    engine.block_on(running.replace_output("a", srt("a", "one"))).unwrap();
    assert!(engine.block_on(running.replace_output("a", srt("a", "two"))).is_err());
    assert!(engine.block_on(running.add_output(srt("c", "one"))).is_err());
    engine.block_on(running.remove_output("a")).unwrap();
    engine.block_on(running.add_output(srt("c", "one"))).unwrap();
    assert_eq!(running.playback_urls().len(), 2);
    engine.block_on(running.stop());
    UdpSocket::bind(&bind).expect("the port is free again");
}
