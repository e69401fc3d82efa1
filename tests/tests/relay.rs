//! The examples as an operator uses them, with ffmpeg on both sides of the relay.

use std::{fs, path::Path, time::Duration};
use streamlink_tests::{
    clip, eventually,
    peer::{self, Peer},
    rig::free_port,
    rtp::{Sender, Sink},
};

fn input_port(relay: &Peer) -> u16 {
    let address = relay.wait_for_word("input address: rtp://");
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Waits until a relay has answered so many commands with `ok`.
fn wait_for_answers(relay: &Peer, count: usize) {
    let answered = || relay.output().lines().filter(|line| *line == "ok").count();
    eventually(&format!("answer {count}: {}", relay.output()), || (answered() >= count).then_some(()));
}

fn record(sink: Sink) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut stream = sink.next()[12..].to_vec();
        for p in sink.drain(Duration::from_secs(2)).iter() {
            stream.extend(&p[12..]);
        }
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
    for o in &outputs {
        arguments.extend(["--output", o]);
    }
    arguments.extend(["--stats", "json"]);
    let mut relay = Peer::start(peer::example("relay"), &arguments);
    let port = input_port(&relay);
    let recordings: Vec<_> = sinks.into_iter().map(record).collect();
    let mut sender = peer::ffmpeg_plays(&clip(), &[&format!("127.0.0.1:{port}")]);
    relay.wait_for("source `source` connected");
    for round in 0..3 {
        relay.tell(&format!("add extra-{round}=rtp://{}", extra.address()));
        wait_for_answers(&relay, 2 * round + 1);
        extra.next();
        relay.tell(&format!("remove extra-{round}"));
        wait_for_answers(&relay, 2 * round + 2);
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

/// Writes a file of two flows that listen with generated keys, and returns it with its folder.
fn two_flows(more: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    fs::write(&path, flows_text(more)).unwrap();
    (folder, path)
}

fn flows_text(outputs_of_first: &str) -> String {
    format!(
        r#"[
        {{ "name": "one", "max_bandwidth": "5M",
          "sources": [ {{ "name": "in", "url": "rtmp://127.0.0.1:0/live?mode=listener", "failover": true }} ],
          "outputs": [ {{ "name": "a", "url": "rtmp://127.0.0.1:0/a?mode=listener", "max_players": 4 }}{outputs_of_first} ] }},
        {{ "name": "two", "max_bandwidth": "5M",
          "sources": [ {{ "name": "in", "url": "srt://127.0.0.1:0?mode=listener" }} ],
          "outputs": [ {{ "name": "b", "url": "srt://127.0.0.1:0?mode=listener" }} ] }} ]"#
    )
}

#[test]
fn relay_runs_the_flows_of_a_list() {
    let (_folder, path) = two_flows("");
    let mut relay = Peer::start(peer::example("relay"), &["--config", path.to_str().unwrap(), "--stats", "json"]);
    relay.wait_for("one: input address: rtmp://127.0.0.1:");
    relay.wait_for("two: playback URL of b: srt://127.0.0.1:");
    relay.wait_for(r#""flow":"two""#);
    relay.tell("remove b");
    relay.wait_for("error: several flows run");
    relay.tell("two/b");
    relay.wait_for("error: commands: ");
    relay.tell("remove two/b");
    wait_for_answers(&relay, 1);
    relay.tell("bandwidth one 7M");
    wait_for_answers(&relay, 2);
    relay.wait_for(r#""max_bandwidth":7000000"#);
    relay.tell("allow one/in 10.0.0.0/8");
    wait_for_answers(&relay, 3);
    relay.tell("quit");
    assert!(relay.finish().success());
    let said = relay.output();
    assert!(said.contains("summary of `one`") && said.contains("summary of `two`"), "{said}");
    let objects = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    for member in ["time", "flow"] {
        assert!(objects.clone().all(|object| object[member].is_string()), "{said}");
    }
    let source = objects.clone().next().unwrap()["sources"][0].clone();
    for member in ["last_error", "tracks", "pids", "peer", "transport", "url", "encrypted", "latency_us", "players"] {
        assert!(source.get(member).is_some(), "{member} is missing in {source}");
    }
}

#[test]
fn relay_reports_errors_of_all_flows_with_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    fs::write(&path, "[ { \"name\": \"a\" },\n { \"name\": \"b\", \"max_bandwidth\": \"5M\",\n \"sources\": [ { \"name\": \"in\", \"url\": \"srt://:1\", \"latency\": -1 } ] } ]").unwrap();
    let mut relay = Peer::start(peer::example("relay"), &["--config", path.to_str().unwrap()]);
    assert!(!relay.finish().success());
    let said = relay.output();
    assert!(said.contains("line 1, column 3: [0].max_bandwidth: "), "{said}");
    assert!(said.contains("line 3, ") && said.contains("[1].sources[0].latency: "), "{said}");
}

#[test]
fn relay_reload_applies_only_differences() {
    let (_folder, path) = two_flows("");
    let relay = Peer::start(peer::example("relay"), &["--config", path.to_str().unwrap()]);
    relay.wait_for("two: playback URL of b: ");
    let started = relay.output();
    // A new output, a changed limit, and another flow in the place of the second one.
    let text = flows_text(r#", { "name": "more", "url": "rtmp://127.0.0.1:0/more?mode=listener" }"#);
    fs::write(&path, text.replace("\"two\"", "\"three\"").replace("\"max_players\": 4", "\"max_players\": 5")).unwrap();
    relay.signal(libc::SIGHUP);
    relay.wait_for("reload: ok");
    let said = relay.output()[started.len()..].to_owned();
    for expected in [
        "two: is not in the file any more",
        "two: the flow has stopped",
        "one: output `a` changed",
        "one: output `more` added",
        "one: playback URL of more: ",
        "three: input address: srt://",
    ] {
        assert!(said.contains(expected), "{expected} is missing in {said}");
    }
    assert!(!said.contains("one: the flow has stopped"), "{said}");
    // What cannot change in place restarts its flow, and the stream keys that were generated stay.
    fs::write(
        &path,
        flows_text("").replace("live?mode", "live?idle_timeout=9000&mode").replace("\"two\"", "\"three\""),
    )
    .unwrap();
    relay.signal(libc::SIGHUP);
    relay.wait_for("one: restarts, because `sources` cannot change while it runs");
    eventually("the end of the reload", || (relay.output().matches("reload: ok").count() == 2).then_some(()));
    let said = relay.output();
    let keys: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("playback URL of a: ")?.1.rsplit('/').next()).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{said}");
    // A wrong file changes nothing.
    fs::write(&path, "[ { ").unwrap();
    relay.signal(libc::SIGHUP);
    relay.wait_for("reload: error: ");
    assert!(!relay.output().contains("three: the flow has stopped"), "{}", relay.output());
    relay.signal(libc::SIGTERM);
    relay.wait_for("summary of `three`");
}

#[test]
fn relay_goes_on_when_its_standard_output_is_closed() {
    use std::process::{Command, Stdio};
    let program = peer::example("relay");
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut relay = Command::new(program)
        .args(["--source", "rtp://127.0.0.1:0", "--stats", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    drop(relay.stdout.take());
    let said = || fs::read_to_string(&log).unwrap();
    eventually("the end of the statistics", || said().contains("standard output is closed").then_some(()));
    use std::io::Write;
    writeln!(relay.stdin.as_mut().unwrap(), "quit").unwrap();
    assert!(relay.wait().unwrap().success());
    assert!(said().contains("summary of `relay`") && !said().contains("panic"), "{}", said());
}

#[test]
fn relay_explains_itself() {
    let said = |arguments: &[&str]| {
        let mut relay = Peer::start(peer::example("relay"), arguments);
        let status = relay.finish();
        (status.code().unwrap(), relay.output())
    };
    assert_eq!(said(&["--version"]), (0, format!("relay {}\n", env!("CARGO_PKG_VERSION"))));
    let (_, help) = said(&["--help"]);
    for text in ["add NAME=URL", "remove NAME", "quit", "reload", "--settings", "SIGHUP", "--region", "--tls-cert"] {
        assert!(help.contains(text), "{text} is missing in {help}");
    }
    let (code, table) = said(&["--settings"]);
    let names = ["SRT listener source", "peeridletimeo", "passphrase", "max_players"];
    assert!(code == 0 && names.iter().all(|name| table.contains(name)), "{table}");
    for arguments in [
        &["--config", "f.json", "--source", "rtp://:5004"][..],
        &["--config", "f.json", "--max-bandwidth", "5M"],
        &["--config", "f.json", "--allow", "10.0.0.0/8"],
        &["--source", "rtp://:5004", "--tls-cert", "cert.pem"],
        &["--source", "rtp://:5004", "--region", "nowhere"],
        &["--source", "rtp://:5004", "--interval", "0"],
    ] {
        assert_eq!(said(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn relay_prints_the_public_host_and_a_time_in_every_line() {
    let output = "play=srt://0.0.0.0:0";
    let arguments = ["--source", "srt://:0", "--output", output, "--public-host", "relay.example", "--stats", "lines"];
    let mut relay = Peer::start(peer::example("relay"), &arguments);
    relay.wait_for("input address: srt://relay.example:");
    relay.wait_for("playback URL of play: srt://relay.example:");
    relay.wait_for("relay: in `source` 0.000 Mb/s; out `play` 0.000 Mb/s");
    relay.signal(libc::SIGTERM);
    assert!(relay.finish().success());
    for line in relay.output().lines() {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(time.len() == 20 && time.starts_with("20") && time.ends_with('Z'), "{line}");
        assert!(!line.contains("endpoint"), "no table without a terminal: {line}");
    }
}

/// On a terminal, a table is drawn below the events, which stay, within the width; the source that feeds the flow is marked.
#[test]
fn relay_draws_a_table_below_the_events_and_marks_the_active_source() {
    let ports = [free_port(), free_port()];
    let [source, backup] = ports.map(|port| format!("rtp://127.0.0.1:{port}"));
    let relay = peer::example("relay");
    let command = format!("stty cols 44 rows 12; exec {} --source {source} --backup {backup}", relay.display());
    let mut terminal = Peer::start("script", &["-qfec", &command, "/dev/null"]);
    // As the table is drawn over itself, each of them begins anew.
    let tables = || terminal.output().split("endpoint").skip(1).map(str::to_owned).collect::<Vec<_>>();
    eventually("a table", || (!tables().is_empty()).then_some(()));
    let sender = Sender::to(&backup);
    let mut next = 0u16;
    eventually(&format!("the mark: {}", terminal.output()), || {
        sender.stream(next..next + 10);
        next += 10;
        let marked = |table: &String| table.contains("- source") && table.contains("* backup");
        tables().iter().any(marked).then_some(())
    });
    let said = terminal.output();
    for event in ["the flow has started", "input address: rtp://"] {
        assert!(said.contains(event), "{said}");
    }
    let rows: Vec<String> = said.lines().map(without_escapes).collect();
    let rows: Vec<&String> =
        rows.iter().filter(|row| row.starts_with(['*', '-']) || row.contains("endpoint")).collect();
    assert!(rows.len() > 3, "{said}");
    for row in rows {
        assert!(row.trim_end().chars().count() <= 44, "{row:?}");
    }
    // Without its terminal the relay would go on, as a daemon that was told to read its file again.
    let id = terminal.id();
    let relay = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    peer::run("kill", &["-TERM", relay.trim()]);
    assert!(terminal.finish().success());
}

/// Returns a line without what moves the cursor and sets modes of the terminal (ECMA-48 section 5.4).
fn without_escapes(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest =
        parts.map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default());
    first + &rest.collect::<String>().replace('\r', "")
}

#[test]
fn relay_logs_what_a_peer_asks_and_is_answered() {
    let source = format!("srt://127.0.0.1:{}?mode=listener&streamid=cam", free_port());
    let relay = peer::example("relay");
    let log = "RUST_LOG=streamlink_core::handshake=debug";
    let relay = Peer::start("env", &[log, relay.to_str().unwrap(), "--source", &source, "--stats", "none"]);
    relay.wait_for("the flow has started");
    let clip = clip();
    let publish = |id: &str| {
        let url = source.replace("mode=listener&streamid=cam", &format!("streamid={id}"));
        let input = ["-v", "error", "-nostdin", "-re", "-i", clip.to_str().unwrap(), "-c", "copy", "-f", "mpegts"];
        Peer::start("ffmpeg", &[&input[..], &[&url]].concat())
    };
    let _other = publish("other");
    relay.wait_for("asks for a connection, version 5: stream id `other`, not encrypted");
    relay.wait_for("is answered there is no such stream (NOTFOUND, code 1404)\n");
    let _right = publish("cam");
    relay.wait_for("is connected to `source`, not encrypted");
}

#[test]
fn relay_tells_of_callers_of_its_own_addresses() {
    let relay = Peer::start(peer::example("relay"), &["--source", "srt://127.0.0.1:9"]);
    relay.wait_for("`source` calls out to 127.0.0.1:9, an address of this machine");
    relay.wait_for("`mode=listener`");
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

#[test]
fn relay_reload_exchanges_addresses_of_outputs_and_flows() {
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let flow = |name: &str, source: u16, outputs: &[(&str, u16)]| {
        let url = |port: &u16| format!("srt://127.0.0.1:{port}?mode=listener");
        let outputs = outputs.iter().map(|(name, port)| serde_json::json!({ "name": name, "url": url(port) }));
        let source = serde_json::json!({ "name": "in", "url": url(&source) });
        serde_json::json!({ "name": name, "max_bandwidth": "5M", "sources": [source],
            "outputs": outputs.collect::<Vec<_>>() })
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let write = |flows: &[serde_json::Value]| fs::write(&path, serde_json::Value::from(flows).to_string()).unwrap();
    write(&[flow("a", ports[0], &[("x", ports[1]), ("y", ports[2])]), flow("b", ports[3], &[("z", ports[4])])]);
    let relay = Peer::start(peer::example("relay"), &["--config", path.to_str().unwrap()]);
    relay.wait_for("b: playback URL of z: ");
    let reload = |flows: &[serde_json::Value], answer: &str, count: usize| {
        write(flows);
        relay.signal(libc::SIGHUP);
        let count_of = |text: &str| relay.output().matches(text).count();
        eventually(&format!("the answer {count} to a reload"), || (count_of("reload: ") == count).then_some(()));
        let said = relay.output();
        assert!(said.lines().rfind(|line| line.contains("reload: ")).unwrap().contains(answer), "{said}");
    };
    // Two outputs exchange their addresses, in one flow and between two; one takes that which another one leaves.
    reload(
        &[flow("a", ports[0], &[("x", ports[2]), ("y", ports[1])]), flow("b", ports[3], &[("z", ports[4])])],
        "reload: ok",
        1,
    );
    reload(
        &[flow("a", ports[0], &[("x", ports[4]), ("y", ports[1])]), flow("b", ports[3], &[("z", ports[2])])],
        "reload: ok",
        2,
    );
    reload(
        &[flow("a", ports[0], &[("x", ports[2]), ("y", ports[1])]), flow("b", ports[3], &[("z", ports[5])])],
        "reload: ok",
        3,
    );
    // A source takes the address that an output of a later flow leaves.
    reload(
        &[flow("a", ports[5], &[("x", ports[2]), ("y", ports[1])]), flow("b", ports[3], &[("z", ports[4])])],
        "reload: ok",
        4,
    );
    // An address that stays taken is refused, and all outputs go on as they were.
    let taken = std::net::UdpSocket::bind(("127.0.0.1", ports[0])).unwrap();
    reload(
        &[flow("a", ports[5], &[("x", ports[1]), ("y", ports[0])]), flow("b", ports[3], &[("z", ports[4])])],
        "reload: error: a: output `x`: ",
        5,
    );
    drop(taken);
    for port in [ports[1], ports[2], ports[4]] {
        assert!(std::net::UdpSocket::bind(("127.0.0.1", port)).is_err(), "{port} is listened at: {}", relay.output());
    }
    relay.signal(libc::SIGTERM);
    relay.wait_for("summary of `b`");
}

#[test]
fn relay_refuses_a_command_that_is_no_text_and_obeys_the_next() {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let url = format!("srt://127.0.0.1:{}?mode=listener", free_port());
    let mut relay = Command::new(peer::example("relay"))
        .args(["--source", &url, "--max-bandwidth", "5M"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    relay.stdin.as_mut().unwrap().write_all(b"remove caf\xe9\nbandwidth 6M\nquit\n").unwrap();
    let output = relay.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("error: the command is not UTF-8 text\nok\nok\n"), "{said}");
}

#[test]
fn relay_obeys_and_ends_while_nobody_reads_its_statistics() {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };
    let url = || format!("srt://127.0.0.1:{}?mode=listener", free_port());
    let mut arguments =
        ["--source", &url(), "--max-bandwidth", "5M", "--stats", "json", "--interval", "1"].map(str::to_owned).to_vec();
    // Many outputs, so that the pipe is full within a few seconds.
    for at in 0..60 {
        arguments.extend(["--output".to_owned(), format!("o{at}={}", url())]);
    }
    let mut relay = Command::new(peer::example("relay"))
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(relay.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("standard output is not read")));
    relay.stdin.as_mut().unwrap().write_all(b"bandwidth 6M\n").unwrap();
    assert!(said.any(|line| line == "ok"), "a command is obeyed");
    // A reader who comes back gets whole lines.
    let mut stats = BufReader::new(relay.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&stats.next().unwrap().unwrap()).unwrap();
    for _ in 0..8 {
        assert_eq!(next()["outputs"].as_array().unwrap().len(), 60);
    }
    assert!(said.any(|line| line.contains("standard output is read again")));
    assert!(said.any(|line| line.contains("standard output is not read")));
    peer::run("kill", &["-TERM", &relay.id().to_string()]);
    assert!(said.any(|line| line.contains("summary of `relay`")));
    eventually("the end of the relay", || relay.try_wait().unwrap().map(|status| assert!(status.success())));
}

#[test]
fn relay_ends_while_nobody_reads_its_standard_error() {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let url = format!("srt://127.0.0.1:{}?mode=listener", free_port());
    let mut relay = Command::new(peer::example("relay"))
        .args(["--source", &url, "--max-bandwidth", "5M"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The answers are more than a pipe holds. All commands are taken nevertheless.
    relay.stdin.as_mut().unwrap().write_all("nonsense\n".repeat(20_000).as_bytes()).unwrap();
    peer::run("kill", &["-TERM", &relay.id().to_string()]);
    eventually("the end of the relay", || relay.try_wait().unwrap().map(|status| assert!(status.success())));
}
