//! The examples as an operator uses them, with ffmpeg on both sides of the relay.

use std::{fs, path::Path, time::Duration};
use streamlink_tests::{
    clip, eventually,
    peer::{self, Peer},
    rtp::{Sender, Sink},
};

fn input_port(relay: &Peer) -> u16 {
    let address = relay.wait_for_word("input address: rtp://");
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn record(sink: Sink) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut stream = sink.next()[12..].to_vec();
        sink.drain(Duration::from_secs(2)).iter().for_each(|p| stream.extend(&p[12..]));
        stream
    })
}

#[test]
fn relay_example_feeds_three_receivers_while_outputs_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (sinks, extra): (Vec<Sink>, Sink) = ((0..3).map(|_| Sink::new()).collect(), Sink::new());
    let outputs: Vec<String> =
        sinks.iter().enumerate().map(|(i, s)| format!("out-{i}=rtp://{}", s.address())).collect();
    let mut arguments = vec!["--source", "rtp://127.0.0.1:0?pt=33", "--max-bandwidth", "20M", "--allow", "127.0.0.0/8"];
    outputs.iter().for_each(|o| arguments.extend(["--output", o]));
    arguments.extend(["--stats", "json"]);
    let mut relay = Peer::start(peer::example("relay"), &arguments);
    let port = input_port(&relay);
    let recordings: Vec<_> = sinks.into_iter().map(record).collect();
    let mut sender = peer::ffmpeg_plays(&clip(), &[&format!("127.0.0.1:{port}")]);
    relay.wait_for("source `source` connected");
    for round in 0..3 {
        relay.tell(&format!("add extra-{round}=rtp://{}", extra.address()));
        relay.wait_for(&format!("done: add extra-{round}"));
        extra.next();
        relay.tell(&format!("remove extra-{round}"));
        relay.wait_for(&format!("done: remove extra-{round}"));
        extra.drain(Duration::from_millis(50));
    }
    relay.tell("add broken=srt://:9000");
    relay.wait_for("cannot feed SRT outputs");
    assert!(sender.finish().success(), "{}", sender.output());
    let streams: Vec<Vec<u8>> = recordings.into_iter().map(|r| r.join().unwrap()).collect();
    for (i, stream) in streams.iter().enumerate() {
        assert!(*stream == streams[0], "the receivers got different streams");
        let path = file(&format!("out-{i}.ts"));
        fs::write(&path, stream).unwrap();
        assert_eq!(peer::decode(&path), 125);
    }
    // The statistics agree with what arrived.
    let packets = streams[0].len() / 1316;
    let line = eventually("a line of statistics", || {
        let said = relay.output();
        let mut lines = said.lines().rev().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        lines.next().filter(|v| v["outputs"][2]["packets"].as_u64() >= Some(packets as u64))
    });
    assert_eq!(line["sources"][0]["packets"], line["outputs"][0]["packets"]);
    assert_eq!((&line["sources"][0]["lost"], &line["outputs"][1]["dropped"]), (&0.into(), &0.into()));
    assert_eq!(line["sources"][0]["media"], "MPEG-TS: H.264 (PID 256), AAC (PID 257)");
    relay.signal(libc::SIGINT);
    assert!(relay.finish().success());
    let said = relay.output();
    assert!(said.contains("summary of `relay`") && said.contains("source `source`:"), "{said}");
}

#[test]
fn relay_example_reads_config_file_and_rejects_a_wrong_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flow.json");
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let sink = Sink::new();
    let json = serde_json::json!({
        "name": "from-a-file", "max_bandwidth": "5M",
        "sources": [{ "name": "in", "url": "rtp://127.0.0.1:0", "reorder": 0 }],
        "outputs": [{ "name": "out", "url": format!("rtp://{}", sink.address()), "ttl": 4 }],
    });
    fs::write(&path, json.to_string()).unwrap();
    let mut relay = Peer::start(peer::example("relay"), &["--config", &text(&path), "--stats", "none"]);
    Sender::to(&format!("127.0.0.1:{}", input_port(&relay))).stream(0..5);
    sink.take(5);
    relay.tell("quit");
    assert!(relay.finish().success());

    fs::write(&path, r#"{"name":"","max_bandwidth":"5M","sources":[{"name":"in","url":"rtp://:x"}],"outputs":[{"name":"o","url":"srt://h:1","latency":-1}]}"#).unwrap();
    let mut relay = Peer::start(peer::example("relay"), &["--config", &text(&path)]);
    assert!(!relay.finish().success());
    let said = relay.output();
    for field in ["name:", "sources[0].url:", "outputs[0].latency:"] {
        assert!(said.contains(field), "{field} is missing in {said}");
    }
}

#[test]
fn selftest_compares_every_byte_of_every_protocol() {
    let mut selftest = Peer::start(peer::example("selftest"), &[]);
    assert!(selftest.finish().success(), "{}", selftest.output());
    assert_eq!(selftest.output().matches("every byte as sent").count(), 6);
    assert!(selftest.output().contains("125 pictures of 125"));
}

#[test]
fn quickstart_prints_playback_urls_and_rates() {
    let mut quickstart = Peer::start(peer::example("quickstart"), &[]);
    assert!(quickstart.finish().success(), "{}", quickstart.output());
    let output = quickstart.output();
    for scheme in ["srt", "rtmp", "rtsp"] {
        assert!(output.contains(&format!("play {scheme}://127.0.0.1:")), "{output}");
    }
    assert!(output.contains("Mb/s"), "{output}");
}
