//! RTSP with real programs: ffmpeg and GStreamer as clients that record and play, and gst-rtsp-server as the server.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};
use streamlink_core::{
    BandwidthPolicy, Bitrate, Credentials, Engine, Event, Flow, LossReason, Output, OutputEdit, RefusalReason,
    RtspTransport, Source, State, Takeover,
};
use streamlink_tests::{
    clip, eventually,
    media::{self, HEVC, pictures},
    peer::{self, Peer},
    rig::{Recording, Rig, free_port, text},
    rtsp::Bare,
};

/// The clip in a container whose codecs need no headers in the stream.
fn mp4(folder: &Path) -> PathBuf {
    let file = folder.join("clip.mp4");
    media::make(&clip(), &["-map", "0", "-c", "copy", "-bsf:a", "aac_adtstoasc"], &file);
    file
}

fn publish(file: &Path, transport: &str, url: &str) -> Peer {
    media::play(file, &["-map", "0", "-c", "copy", "-f", "rtsp", "-rtsp_transport", transport, url])
}

/// Plays, and writes the checksums of the pictures into a file.
fn watch(transport: &str, url: &str, to: &Path) -> Peer {
    let arguments = ["-v", "error", "-nostdin", "-y", "-rtsp_transport", transport, "-i", url, "-map", "0:v"];
    let rest = ["-fps_mode", "passthrough", "-flush_packets", "1", "-f", "framemd5", text(to)];
    Peer::start("ffmpeg", &[&arguments[..], &rest].concat())
}

fn sums(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.rsplit(',').next()).map(|sum| sum.trim().to_owned()).collect()
}

/// A player that came while the clip ran has pictures from a key frame on, one after the other; its decoder keeps the
/// last of them to itself.
fn check_run(sums_file: &Path, original: &[String], player: &Peer) {
    let got =
        eventually(&format!("pictures: {}", player.output()), || Some(sums(sums_file)).filter(|got| got.len() > 40));
    let at = original.iter().position(|sum| *sum == got[0]).expect("a picture of the original");
    assert!(at % 25 == 0 && original[at..].starts_with(&got), "{}: {at} {}", sums_file.display(), got.len());
}

fn recorded() -> Source {
    Source::rtsp_listener("in", "127.0.0.1:0", "cam/1").into()
}

#[test]
fn rtsp_ffmpeg_records_and_plays_over_tcp_and_udp() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let original = pictures(&file);
    for transport in ["tcp", "udp"] {
        let rig = Rig::start(
            recorded(),
            vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into(), Output::tap("tap").into()],
        );
        let tap = Recording::start(&rig);
        let mut publisher = publish(&file, transport, &rig.input());
        rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
        let files = [rig.file("tcp.md5"), rig.file("udp.md5")];
        let url = rig.playback();
        let players = [watch("tcp", &url, &files[0]), watch("udp", &url, &files[1])];
        assert!(publisher.finish().success(), "{}", publisher.output());
        let packets = tap.finish_packets(&rig);
        let stats = rig.running.stats();
        assert_eq!(stats.sources[0].media.as_deref(), Some("H.264, AAC"));
        assert_eq!((stats.sources[0].lost, stats.sources[0].dropped, stats.outputs[0].dropped), (0, 0, 0));
        assert!(packets.iter().any(|p| p.data()[1] == 200), "sender reports are handed on");
        for (file, player) in files.iter().zip(players) {
            check_run(file, &original, &player);
        }
        rig.stop();
    }
}

#[test]
fn rtsp_passes_all_codecs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, description) in [
        ("hevc.mkv", &[&HEVC[..], &["-c:a", "libopus"]].concat()[..], "HEVC, Opus"),
        ("pcmu.mkv", &["-c:v", "copy", "-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1"], "H.264, G.711 µ-law"),
    ] {
        let file = folder.path().join(name);
        media::make(&clip(), &[&["-map", "0"], arguments].concat(), &file);
        let rig = Rig::start(recorded(), vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into()]);
        let publisher = publish(&file, "tcp", &rig.input());
        rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
        assert_eq!(rig.running.stats().sources[0].media.as_deref(), Some(description));
        let sums_file = rig.file("got.md5");
        let player = watch("tcp", &rig.playback(), &sums_file);
        let original = pictures(&file);
        check_run(&sums_file, &original, &player);
        drop((player, publisher));
        rig.stop();
    }
}

/// Starts GStreamer's publisher, which sends the picture and sound of a file over TCP.
fn gst_records(file: &Path, url: &str) -> Peer {
    let from = format!("location={}", text(file));
    let to = format!("location={url}");
    let sink = ["rtspclientsink", "name=s", &to, "protocols=tcp"];
    let pictures = ["d.video_0", "!", "queue", "!", "h264parse", "!", "s."];
    let sound = ["d.audio_0", "!", "queue", "!", "aacparse", "!", "s."];
    let source = ["-q", "filesrc", &from, "!", "qtdemux", "name=d"];
    Peer::start("gst-launch-1.0", &[&source[..], &sink, &pictures, &sound].concat())
}

#[test]
fn rtsp_gstreamer_records_with_a_query_behind_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    for query in ["?token=1", "?token=a/b&x=1", "/?user=me"] {
        let rig = Rig::start(recorded(), vec![Output::tap("tap").into()]);
        let publisher = gst_records(&file, &format!("{}{query}", rig.input()));
        eventually(&format!("media behind {query}: {}", publisher.output()), || {
            (rig.running.stats().sources[0].packets > 100).then_some(())
        });
        drop(publisher);
        rig.stop();
    }
}

#[test]
fn rtsp_gstreamer_records_and_plays() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let rig = Rig::start(
        recorded(),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into(), Output::tap("tap").into()],
    );
    let publisher = gst_records(&file, &rig.input());
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let got = rig.file("got.h264");
    let from = format!("location={}", rig.playback());
    let to = format!("location={}", text(&got));
    let player = Peer::start(
        "gst-launch-1.0",
        &[
            "-q",
            "rtspsrc",
            &from,
            "protocols=tcp",
            "latency=0",
            "!",
            "application/x-rtp,media=video",
            "!",
            "rtph264depay",
            "!",
            "video/x-h264,stream-format=byte-stream",
            "!",
            "filesink",
            &to,
            "buffer-mode=unbuffered",
        ],
    );
    let original = pictures(&file);
    let got = eventually("the end of the clip", || {
        let got = if fs::metadata(&got).is_ok_and(|m| m.len() > 100_000) { pictures(&got) } else { Vec::new() };
        (got.len() > 60 && original.ends_with(&got)).then_some(got)
    });
    assert_eq!(got.len() % 25, 0, "whole groups of pictures");
    // Not all versions of this client end by themselves when they have sent all.
    drop((player, publisher));
    rig.source_lost();
    rig.stop();
}

fn server(port: u16, play: &Path, record: &Path, password: Option<&str>) -> Peer {
    let script = streamlink_tests::root().join("tests/peers/rtsp_server.py");
    let port = port.to_string();
    let mut arguments = vec![text(&script), &port, text(play), text(record)];
    arguments.extend(password.into_iter().flat_map(|password| ["me", password]));
    let peer = Peer::start("/usr/bin/python3", &arguments);
    peer.wait_for("ready");
    peer
}

#[test]
fn rtsp_pulls_from_gst_rtsp_server_and_pushes_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let original = pictures(&file);
    for (transport, password) in
        [(RtspTransport::Auto, None), (RtspTransport::Tcp, Some("secret")), (RtspTransport::Udp, Some("secret"))]
    {
        let port = free_port();
        let target = folder.path().join(format!("recorded-{transport}.h264"));
        let server = server(port, &file, &target, password);
        let login = password.map(|password| format!("me:{password}@")).unwrap_or_default();
        // Out of the server, through a flow, into the server.
        let record = match transport {
            RtspTransport::Udp => RtspTransport::Udp,
            _ => RtspTransport::Tcp,
        };
        let rig = Rig::start(
            Source::rtsp_caller("in", &format!("rtsp://{login}127.0.0.1:{port}/play")).transport(transport),
            vec![
                Output::rtsp_caller("out", &format!("rtsp://{login}127.0.0.1:{port}/record")).transport(record).into(),
                Output::tap("tap").into(),
            ],
        );
        eventually("both connections", || {
            let stats = rig.running.stats();
            (stats.sources[0].state == State::Connected && stats.outputs[0].state == State::Connected).then_some(())
        });
        // The server does not always say that the file has ended; nothing more comes then.
        let mut last = 0;
        eventually("the end", || {
            std::thread::sleep(Duration::from_millis(800));
            let now = rig.running.stats().outputs[0].packets;
            (std::mem::replace(&mut last, now) == now && now > 100).then_some(())
        });
        let stats = rig.running.stats();
        assert_eq!(stats.sources[0].lost, 0, "{transport}");
        rig.stop();
        let got = eventually("what was recorded", || {
            let got =
                if fs::metadata(&target).is_ok_and(|m| m.len() > 100_000) { pictures(&target) } else { Vec::new() };
            (got.len() >= 70).then_some(got)
        });
        // The recorder begins with the first key frame that it was sent, and may lack some of the last few.
        let at = original.iter().position(|sum| *sum == got[0]).expect("a picture of the original");
        assert!(at % 25 == 0 && original[at..].starts_with(&got[..got.len() - 5]), "{transport}: {at} {}", got.len());
        drop(server);
    }
}

#[test]
fn rtsp_listener_checks_password_path_and_allowlist() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let credentials = || Credentials::new("me", "secret").unwrap();
    let rig = Rig::start(
        Source::rtsp_listener("in", "127.0.0.1:0", "cam/1").credentials(credentials()).takeover(Takeover::Never),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").credentials(credentials()).max_players(1).into()],
    );
    let with = |url: &str, login: &str| url.replace("rtsp://", &format!("rtsp://{login}@"));
    let input = rig.input();
    let playback = rig.playback();
    for wrong in [input.clone(), with(&input, "me:guess")] {
        let mut publisher = publish(&file, "tcp", &wrong);
        assert!(!publisher.finish().success() && publisher.output().contains("401"), "{}", publisher.output());
    }
    let mut publisher = publish(&file, "tcp", &with(&input.replace("cam/1", "cam/2"), "me:secret"));
    assert!(!publisher.finish().success() && publisher.output().contains("404"), "{}", publisher.output());
    let publisher = publish(&file, "tcp", &with(&input, "me:secret"));
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let refused = |wanted: RefusalReason| {
        rig.event(|e| match e {
            Event::PeerRefused { reason, .. } if reason == wanted => Some(()),
            _ => None,
        })
    };
    let mut second = publish(&file, "tcp", &with(&input, "me:secret"));
    refused(RefusalReason::InUse);
    assert!(!second.finish().success());
    let mut player = watch("tcp", &with(&playback, "me:secret"), &rig.file("a.md5"));
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let mut third = watch("tcp", &with(&playback, "me:secret"), &rig.file("b.md5"));
    refused(RefusalReason::TooManyPeers);
    assert!(!third.finish().success());
    let mut wrong = watch("tcp", &playback, &rig.file("c.md5"));
    assert!(!wrong.finish().success() && wrong.output().contains("401"), "{}", wrong.output());
    rig.running.edit_output("out", OutputEdit::new().allow("192.0.2.0/24".parse().unwrap())).unwrap();
    rig.event(|e| matches!(e, Event::OutputLost { reason: LossReason::NoLongerAllowed, .. }).then_some(()));
    player.finish();
    assert_eq!(rig.running.stats().outputs[0].state, State::Waiting);
    drop(publisher);
    rig.stop();
}

#[test]
fn rtsp_listener_refuses_hostile_clients_and_keeps_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let rig = Rig::start(recorded(), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let mut publisher = publish(&file, "tcp", &rig.input());
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let url = rig.input();
    let closed = |bytes: &[u8]| {
        let mut client = Bare::connect(&rig);
        let _ = client.0.write_all(bytes); // it may be closed before all of it is out
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).is_ok() || rest.is_empty()
    };
    assert!(closed(b"GET / HTTP/1.1\r\n\r\n"));
    assert!(closed(format!("OPTIONS * RTSP/1.0\r\nX: {}", "y".repeat(40_000)).as_bytes()));
    assert!(closed("OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(1000).as_bytes()));
    assert!(closed(
        format!("ANNOUNCE {url} RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n{}", "z".repeat(200_000))
            .as_bytes()
    ));
    // Ten thousand that say nothing, or half a request: a thousand may think it over, the others are closed.
    streamlink_tests::more_descriptors(12_000);
    let half_open: Vec<TcpStream> = (0..10_000)
        .map(|i| {
            let mut stream = TcpStream::connect(("127.0.0.1", rig.input_port())).unwrap();
            let _ = stream.write_all(&b"DESCRIBE rtsp://"[..i % 16]); // it may be closed already
            stream
        })
        .collect();
    assert!(publisher.finish().success(), "{}", publisher.output());
    let packets = tap.finish_packets(&rig);
    let media = packets.iter().filter(|p| p.data()[1] != 200 && p.rtsp_track() == Some(0));
    let mut numbers: Vec<u16> = media.map(|p| u16::from_be_bytes([p.data()[2], p.data()[3]])).collect();
    numbers.dedup();
    assert!(numbers.windows(2).all(|w| w[1] == w[0].wrapping_add(1)), "nothing is missing");
    drop(half_open);
    rig.stop();
}

#[test]
fn rtsp_relay_example_relays_a_publisher_to_a_player() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let sums_file = folder.path().join("got.md5");
    let port = free_port();
    let url = format!("rtsp://127.0.0.1:{port}/live");
    let mut relay = Peer::start(
        peer::example("relay"),
        &[
            "--source",
            &format!("{url}?mode=listener"),
            "--output",
            &format!("play={url}?mode=listener"),
            "--max-bandwidth",
            "20M",
        ],
    );
    relay.wait_for(&url);
    let mut publisher = publish(&file, "udp", &url);
    relay.wait_for("source `source` connected");
    let player = watch("tcp", &url, &sums_file);
    assert!(publisher.finish().success(), "{}", publisher.output());
    eventually("pictures", || (sums(&sums_file).len() > 40).then_some(()));
    relay.signal(libc::SIGINT);
    assert!(relay.finish().success(), "{}", relay.output());
    drop(player);
}

/// In a network of its own, whose loopback carries multicast.
#[test]
fn rtsp_multicast_players_share_one_stream() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let original = pictures(&file);
    let log = folder.path().join("relay.json");
    let one = folder.path().join("one.md5");
    let two = folder.path().join("two.md5");
    let play = "ffmpeg -v error -nostdin -y -rtsp_transport udp_multicast -i rtsp://127.0.0.1:7002/play -map 0:v \
        -fps_mode passthrough -flush_packets 1 -f framemd5";
    let script = format!(
        "ip link set lo up multicast on && ip route add 239.0.0.0/8 dev lo || exit 1
        {relay} --source 'rtsp://127.0.0.1:7001/cam?mode=listener' --stats json --output \
            'out=rtsp://127.0.0.1:7002/play?mode=listener&multicast=239.9.9.9:5000&iface=lo&ttl=1' >{log} &
        until grep -q '\"outputs\"' {log}; do sleep 0.1; done
        ffmpeg -v error -nostdin -re -stream_loop 5 -i {file} -map 0 -c copy -f rtsp -rtsp_transport tcp \
            rtsp://127.0.0.1:7001/cam &
        until grep -q 'H.264' {log}; do sleep 0.1; done
        {play} {one} & {play} {two} & wait",
        relay = text(&peer::example("relay")),
        log = text(&log),
        file = text(&file),
        one = text(&one),
        two = text(&two),
    );
    // All of it ends with the shell.
    let shell = Peer::start("unshare", &["--net", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    for sums_file in [&one, &two] {
        let got =
            eventually(&format!("pictures: {}", shell.output()), || Some(sums(sums_file)).filter(|got| got.len() > 40));
        let at = original.iter().position(|sum| *sum == got[0]).expect("a picture of the original");
        assert!(at % 25 == 0 && original[at..].iter().zip(&got).all(|(a, b)| a == b), "{at} {}", got.len());
    }
    // What both have heard was sent once: to the group, and nothing to them.
    let sent_nothing = |players: &[Value], peer: &str| {
        let of_peer = players.iter().filter(|player| player["peer"].as_str().is_some_and(|at| at.starts_with(peer)));
        of_peer.map(|player| player["bytes"] == 0).collect::<Vec<_>>()
    };
    eventually("the statistics of the group", || {
        let said = fs::read_to_string(&log).unwrap();
        let last = said.lines().rfind(|line| line.ends_with('}')).unwrap();
        let stats: Value = serde_json::from_str(last).ok()?;
        let players = stats["outputs"][0]["players"].as_array()?;
        let found = (sent_nothing(players, "239.9.9.9:5000"), sent_nothing(players, "127.0.0.1:"));
        (found == (vec![false], vec![true, true])).then_some(())
    });
    drop(shell);
}

#[test]
fn rtsps_from_gstreamer_through_a_push_to_gstreamer() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = made.cert.pem();
    let private = made.signing_key.serialize_pem();
    let engine = Engine::builder()
        .workers(2)
        .tls_identity(certificate.as_bytes(), private.as_bytes())
        .unwrap()
        .tls_roots(certificate.as_bytes())
        .unwrap()
        .build()
        .unwrap();
    let flow = |name: &str, source: &str, output: &str| {
        let flow = Flow::builder(name, Bitrate::mbps(20))
            .source(Source::from_url("in", source))
            .output(Output::from_url("out", output));
        engine.block_on(engine.start(flow.build().unwrap())).unwrap()
    };
    let port = free_port();
    let other = free_port();
    let last = free_port();
    let listener = |port: u16, path: &str| format!("rtsps://127.0.0.1:{port}/{path}?mode=listener");
    // One GStreamer records to the first flow, which records to the second, where another plays; all of it within TLS.
    let second = flow("second", &listener(other, "relay"), &listener(last, "live"));
    let push = format!("rtsps://localhost:{other}/relay?mode=caller&transport=tcp");
    let first = flow("first", &listener(port, "cam"), &push);
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let got = folder.path().join("got.h264");
    let from = format!("location={}", text(&file));
    let to = format!("location=rtsps://127.0.0.1:{port}/cam");
    let insecure = "tls-validation-flags=0"; // the certificate is its own authority
    let publisher = Peer::start(
        "gst-launch-1.0",
        &[
            &["-q", "filesrc", &from, "!", "qtdemux", "!", "h264parse", "!"],
            &["rtspclientsink", &to, insecure, "protocols=tcp"][..],
        ]
        .concat(),
    );
    eventually("media at the second flow", || (second.stats().sources[0].packets > 10).then_some(()));
    let from = format!("location=rtsps://127.0.0.1:{last}/live");
    let to = format!("location={}", text(&got));
    let player = Peer::start(
        "gst-launch-1.0",
        &[
            &["-q", "rtspsrc", &from, insecure, "protocols=tcp", "latency=0", "!", "rtph264depay", "!"][..],
            &["video/x-h264,stream-format=byte-stream", "!", "filesink", &to, "buffer-mode=unbuffered"],
        ]
        .concat(),
    );
    let original = pictures(&file);
    eventually(&format!("pictures: {} {}", publisher.output(), player.output()), || {
        let got = if fs::metadata(&got).is_ok_and(|m| m.len() > 100_000) { pictures(&got) } else { Vec::new() };
        (got.len() >= 25 && original.windows(got.len()).any(|part| part == got)).then_some(())
    });
    assert!(first.stats().outputs[0].packets > 100);
    engine.block_on(first.stop());
    engine.block_on(second.stop());
}

#[test]
fn rtsp_bandwidth_limit_drops_rest_of_gop_or_disconnects() {
    let folder = tempfile::tempdir().unwrap();
    let file = mp4(folder.path());
    let output = Output::rtsp_listener("out", "127.0.0.1:0", "live");
    let rig = Rig::start(recorded(), vec![output.into()]);
    rig.running.set_max_bandwidth(Bitrate::kbps(300)).unwrap();
    let arguments = ["-map", "0", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp"];
    let publisher = media::play_in_a_loop(&file, &[&arguments[..], &[&rig.input()]].concat());
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let sums_file = rig.file("left.md5");
    let player = watch("tcp", &rig.playback(), &sums_file);
    rig.event(|e| matches!(e, Event::BandwidthExceeded { .. }).then_some(()));
    let left = eventually("pictures", || Some(sums(&sums_file)).filter(|left| left.len() >= 15));
    drop(publisher);
    rig.source_lost();
    let source = rig.running.stats().sources[0].clone();
    assert!(source.dropped > 50, "{source:?}");
    // No picture refers to one that is missing: only the one that was cut, once a group of pictures, is not as it was.
    let original = pictures(&file);
    let altered = left.iter().filter(|sum| !original.contains(sum)).count();
    assert!(altered <= 6 && altered < left.len() / 2, "{altered} of {}: {}", left.len(), player.output());
    rig.running.set_bandwidth_policy(BandwidthPolicy::Disconnect).unwrap();
    let mut publisher = publish(&file, "tcp", &rig.input());
    let reason = rig.event(|e| match e {
        Event::SourceLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::BandwidthExceeded);
    publisher.finish();
    rig.stop();
}
