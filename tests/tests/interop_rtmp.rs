//! RTMP with real programs: ffmpeg, GStreamer, rtmpdump and nginx-rtmp, as publishers, players and servers.

use std::{fs, path::Path, time::Duration};
use streamlink_core::{
    BandwidthPolicy, Bitrate, Engine, Event, Flow, LossReason, Output, OutputEdit, Packet, PlayerStats, RefusalReason,
    RtmpKind, Source, SourceEdit, State, StreamKey, Takeover,
};
use streamlink_tests::{
    clip, eventually,
    media::{self, check_times, codecs, pictures},
    nginx::Nginx,
    peer::{self, Peer},
    rig::{Recording, Rig, free_port, text},
};

fn key(text: &str) -> StreamKey {
    StreamKey::new(text).unwrap()
}

fn publishing(name: &str) -> Source {
    Source::rtmp(name, "127.0.0.1:0", "live").key(key("KEY")).into()
}

fn ffmpeg_publishes(file: &Path, url: &str) -> Peer {
    media::play(file, &["-map", "0", "-c", "copy", "-f", "flv", url])
}

/// FLV messages, as a file.
fn flv(packets: &[Packet]) -> Vec<u8> {
    let mut file = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
    for packet in packets {
        let (kind, time) = packet.rtmp_message().unwrap();
        let number = match kind {
            RtmpKind::Audio => 8,
            RtmpKind::Video => 9,
            _ => 18,
        };
        let length = packet.data().len() as u32;
        file.push(number);
        file.extend(&length.to_be_bytes()[1..]);
        file.extend(&time.to_be_bytes()[1..]);
        file.push(time.to_be_bytes()[0]);
        file.extend([0; 3]);
        file.extend_from_slice(packet.data());
        file.extend((length + 11).to_be_bytes());
    }
    file
}

/// ffmpeg as a player that keeps what it gets.
fn ffmpeg_records(url: &str, file: &Path) -> Peer {
    Peer::start(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-y", "-i", url, "-map", "0", "-c", "copy", "-f", "flv", text(file)],
    )
}

/// Six of them, so that messages are chunked once for all; half of them with merged writes.
#[test]
fn rtmp_ffmpeg_publishes_and_players_get_every_picture() {
    let merged = Output::rtmp_pull("merged", "127.0.0.1:0", "play").coalesce(Duration::from_millis(350));
    let rig = Rig::start(
        publishing("in"),
        vec![Output::tap("tap").into(), Output::rtmp_pull("out", "127.0.0.1:0", "play").into(), merged.into()],
    );
    let tap = Recording::start(&rig);
    let names = ["rtmpdump", "gst", "ffmpeg", "merged-1", "merged-2", "merged-3"];
    let files = names.map(|name| rig.file(&format!("{name}.flv")));
    let urls = rig.running.playback_urls();
    let [(_, url), (_, merged)] = &urls[..] else { panic!("two outputs listen: {urls:?}") };
    let source = format!("location={url}");
    let location = format!("location={}", text(&files[1]));
    let mut players = vec![
        Peer::start("rtmpdump", &["-q", "--live", "-r", url, "-o", text(&files[0])]),
        Peer::start(
            "gst-launch-1.0",
            &["-e", "rtmp2src", &source, "!", "filesink", &location, "buffer-mode=unbuffered"],
        ),
        ffmpeg_records(url, &files[2]),
    ];
    players.extend(files[3..].iter().map(|file| ffmpeg_records(merged, file)));
    let each = |check: &dyn Fn(&[PlayerStats]) -> bool| {
        rig.running.stats().outputs[1..].iter().all(|output| check(&output.players))
    };
    eventually("six players", || each(&|players| players.len() == 3).then_some(()));
    let mut publisher = ffmpeg_publishes(&clip(), &rig.input());
    assert!(publisher.finish().success(), "{}", publisher.output());
    let packets = tap.finish_packets(&rig);
    let stats = rig.running.stats();
    let source = &stats.sources[0];
    assert_eq!((source.dropped, source.media.as_deref()), (0, Some("H.264, AAC")));
    eventually("the players have everything", || {
        each(&|players| players.iter().all(|player| player.packets >= packets.len() as u64)).then_some(())
    });
    for name in ["out", "merged"] {
        rig.engine.block_on(rig.running.remove_output(name)).unwrap(); // tells them that the stream has ended
    }
    for mut player in players {
        player.finish();
    }
    let original = pictures(&clip());
    assert_eq!(original.len(), 125);
    for file in &files {
        assert_eq!(
            codecs(file).iter().filter(|c| ["h264", "aac"].contains(&c.as_str())).count(),
            2,
            "{}",
            file.display()
        );
        let played = pictures(file);
        assert!(played == original, "{}: {} of {}", file.display(), played.len(), original.len());
        check_times(file, "v:0");
        check_times(file, "a:0");
    }
    rig.stop();
}

#[test]
fn rtmp_gstreamer_publishes() {
    let rig = Rig::start(publishing("in"), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let from = format!("location={}", text(&clip()));
    let to = format!("location={}", rig.input());
    let mut publisher = Peer::start(
        "gst-launch-1.0",
        &[
            "-q",
            "filesrc",
            &from,
            "!",
            "tsdemux",
            "name=d",
            "d.",
            "!",
            "queue",
            "!",
            "h264parse",
            "!",
            "flvmux",
            "name=m",
            "streamable=true",
            "!",
            "rtmp2sink",
            &to,
            "d.",
            "!",
            "queue",
            "!",
            "aacparse",
            "!",
            "m.",
        ],
    );
    assert!(publisher.finish().success(), "{}", publisher.output());
    let file = rig.file("got.flv");
    fs::write(&file, flv(&tap.finish_packets(&rig))).unwrap();
    assert!(pictures(&file) == pictures(&clip()));
    rig.stop();
}

#[test]
fn rtmp_pushes_to_nginx_and_pulls_from_it() {
    let nginx = Nginx::start();
    // A relay to two destinations, and a push that comes back by a pull.
    let relay = Output::rtmp("relay", &nginx.url(), key("first")).second(nginx.url(), key("second")).chunk_size(10_000);
    let rig =
        Rig::start(publishing("in"), vec![relay.into(), Output::rtmp_push("push", &nginx.url(), key("third")).into()]);
    let connected = || rig.running.stats().outputs.iter().map(|o| o.players.len()).sum::<usize>() == 3;
    eventually("three connections", || connected().then_some(()));
    let pull = Source::rtmp_pull("in", &nginx.url(), key("third"))
        .reconnect(Duration::from_millis(100), Duration::from_millis(1000));
    let pulled = Rig::start(pull, vec![Output::tap("tap").into()]);
    let tap = Recording::start(&pulled);
    let mut publisher = ffmpeg_publishes(&clip(), &rig.input());
    assert!(publisher.finish().success(), "{}", publisher.output());
    rig.source_lost();
    let total = rig.running.stats().sources[0].packets;
    eventually("all of it is out", || {
        let out = rig.running.stats().outputs;
        (out[0].packets >= 2 * total && out[1].packets >= total).then_some(())
    });
    assert_eq!(rig.running.stats().outputs[0].players.len(), 2);
    rig.stop(); // ends the streams, and nginx its recordings
    let original = pictures(&clip());
    for name in ["first", "second", "third"] {
        let file = nginx.recording(name);
        eventually(name, || (pictures(&file).len() == original.len()).then_some(()));
        assert!(pictures(&file) == original, "{name}");
        check_times(&file, "v:0");
        check_times(&file, "a:0");
    }
    // nginx does not tell players of the end.
    let total = pulled.running.stats().sources[0].packets as usize;
    eventually("the tap has everything", || (tap.packets().len() >= total).then_some(()));
    let packets = tap.packets();
    let file = pulled.file("pulled.flv");
    fs::write(&file, flv(&packets)).unwrap();
    let got = pictures(&file);
    assert!(original.ends_with(&got) && got.len() > 90, "{}", got.len());
    pulled.stop();
}

#[test]
fn rtmp_late_player_starts_at_the_last_key_frame() {
    let rig = Rig::start(publishing("in"), vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").into()]);
    let url = rig.playback();
    let publisher = ffmpeg_publishes(&clip(), &rig.input());
    eventually("two seconds", || (rig.running.stats().sources[0].packets > 160).then_some(()));
    let file = rig.file("late.flv");
    let mut player = ffmpeg_records(&url, &file);
    rig.source_lost();
    let seen = rig.running.stats().sources[0].packets;
    eventually("the player has the rest", || {
        rig.running.stats().outputs[0].players.first().is_some_and(|p| p.packets * 5 > seen).then_some(())
    });
    rig.engine.block_on(rig.running.remove_output("out")).unwrap();
    player.finish();
    let got = pictures(&file);
    let original = pictures(&clip());
    assert!(
        original.ends_with(&got) && got.len() < 100 && got.len().is_multiple_of(25),
        "whole groups of pictures: {}",
        got.len()
    );
    drop(publisher);
    rig.stop();
}

#[test]
fn rtmp_listener_refuses_peers_with_a_reason() {
    let rig = Rig::start(
        Source::rtmp("in", "127.0.0.1:0", "live").key(key("KEY")).takeover(Takeover::Never),
        vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").key(key("PLAY")).max_players(1).into()],
    );
    let input = rig.input();
    let playback = rig.playback();
    assert!(playback.ends_with("/play/PLAY"));
    let publisher = media::play_in_a_loop(&clip(), &["-map", "0", "-c", "copy", "-f", "flv", &input]);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let refused = |wanted: RefusalReason| {
        rig.event(|e| match e {
            Event::PeerRefused { reason, .. } if reason == wanted => Some(()),
            _ => None,
        })
    };
    let mut second = ffmpeg_publishes(&clip(), &input);
    refused(RefusalReason::InUse);
    assert!(!second.finish().success() && second.output().contains("Somebody publishes there"), "{}", second.output());
    let mut wrong = ffmpeg_publishes(&clip(), &input.replace("KEY", "GUESS"));
    refused(RefusalReason::NoSuchStream);
    assert!(!wrong.finish().success());
    let play = |url: &str| Peer::start("ffmpeg", &["-v", "error", "-nostdin", "-i", url, "-f", "null", "-"]);
    let mut player = play(&playback);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let mut third = play(&playback);
    refused(RefusalReason::TooManyPeers);
    assert!(!third.finish().success());
    // Edits put out those who are no longer admitted.
    rig.running.edit_output("out", OutputEdit::new().allow("192.0.2.0/24".parse().unwrap())).unwrap();
    rig.event(|e| matches!(e, Event::OutputLost { reason: LossReason::NoLongerAllowed, .. }).then_some(()));
    player.finish();
    rig.running.edit_source("in", SourceEdit::new().allow("192.0.2.0/24".parse().unwrap())).unwrap();
    rig.event(|e| matches!(e, Event::SourceLost { reason: LossReason::NoLongerAllowed, .. }).then_some(()));
    // Now nobody is admitted anywhere: closed before a byte is exchanged.
    assert!(!play(&playback).finish().success());
    refused(RefusalReason::NotAllowed);
    drop(publisher);
    // An edit lets in those who were not admitted before.
    rig.running.edit_source("in", SourceEdit::new().allow("127.0.0.0/8".parse().unwrap())).unwrap();
    let _publisher = media::play(&clip(), &["-map", "0", "-c", "copy", "-f", "flv", &input]);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    rig.stop();
}

#[test]
fn rtmp_push_reconnects_and_starts_at_key_frame() {
    let port = free_port();
    let nginx = Nginx::on(port, "");
    let push = Output::rtmp_push("push", &nginx.url(), key("KEY"))
        .reconnect(Duration::from_millis(100), Duration::from_millis(1000));
    let rig = Rig::start(publishing("in"), vec![push.into()]);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let publisher = media::play(&clip(), &["-map", "0", "-c", "copy", "-f", "flv", &rig.input()]);
    nginx.wait_for_bytes("KEY", 50_000);
    drop(nginx); // killed
    rig.event(|e| matches!(e, Event::OutputLost { .. }).then_some(()));
    let nginx = Nginx::on(port, "");
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    rig.source_lost();
    let out = rig.running.stats().outputs[0].clone();
    assert_eq!(out.reconnections, 1);
    rig.stop();
    let file = nginx.recording("KEY");
    let original = pictures(&clip());
    let got = eventually("whole groups of pictures", || {
        let got = pictures(&file);
        (!got.is_empty() && got.len().is_multiple_of(25)).then_some(got)
    });
    assert!(original.ends_with(&got));
    check_times(&file, "v:0");
    drop(publisher);
}

#[test]
fn rtmp_examples_relay_a_publisher_to_a_player() {
    let port = free_port();
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("played.flv");
    let url = format!("rtmp://127.0.0.1:{port}/live/KEY");
    let mut relay = Peer::start(
        peer::example("relay"),
        &[
            "--source",
            &format!("{url}?mode=listener"),
            "--output",
            &format!("play={url}?mode=listener"),
            "--max-bandwidth",
            "20M",
            "--stats",
            "json",
        ],
    );
    relay.wait_for(&url);
    let mut player =
        Peer::start("ffmpeg", &["-v", "error", "-nostdin", "-y", "-i", &url, "-c", "copy", "-f", "flv", text(&path)]);
    let mut publisher = ffmpeg_publishes(&clip(), &url);
    assert!(publisher.finish().success(), "{}", publisher.output());
    eventually("something was played", || fs::metadata(&path).ok().filter(|m| m.len() > 100_000));
    relay.signal(libc::SIGINT);
    assert!(relay.finish().success(), "{}", relay.output());
    player.finish();
    assert!(relay.output().contains("RTMP_PULL"));
}

#[test]
fn rtmps_from_ffmpeg_through_a_push_to_a_player() {
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
    let flow = |name: &str, source: Source, output: Output| {
        let flow = Flow::builder(name, Bitrate::mbps(20)).source(source).output(output).output(Output::tap("tap"));
        engine.block_on(engine.start(flow.build().unwrap())).unwrap()
    };
    let port = free_port();
    let other = free_port();
    let bind = |port: u16| format!("127.0.0.1:{port}");
    // ffmpeg pushes to the first flow, which pushes to the second, where ffmpeg plays; all of it within TLS.
    let second = flow(
        "second",
        Source::rtmp("in", &bind(other), "live").key(key("KEY")).tls().into(),
        Output::rtmp_pull("out", &bind(other), "live").key(key("KEY")).tls().into(),
    );
    let push = Output::rtmp_push("push", &format!("rtmps://localhost:{other}/live"), key("KEY"));
    let first = flow("first", Source::rtmp("in", &bind(port), "live").key(key("KEY")).tls().into(), push.into());
    assert_eq!(first.input_addresses(), [format!("rtmps://127.0.0.1:{port}/live/KEY")]);
    eventually("the push", || (first.stats().outputs[0].state == State::Connected).then_some(()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("played.flv");
    let url = second.playback_urls()[0].1.clone();
    let arguments = ["-v", "error", "-nostdin", "-y", "-i", &url, "-map", "0", "-c", "copy", "-f", "flv", text(&file)];
    let mut player = Peer::start("ffmpeg", &arguments);
    eventually("the player", || (second.stats().outputs[0].players.len() == 1).then_some(()));
    let mut publisher = ffmpeg_publishes(&clip(), &first.input_addresses()[0]);
    assert!(publisher.finish().success(), "{}", publisher.output());
    let total = first.stats().sources[0].packets;
    assert!(total > 300);
    eventually("all of it", || {
        let out = second.stats().outputs[0].clone();
        (out.packets >= total).then_some(())
    });
    engine.block_on(async {
        second.remove_output("out").await.unwrap();
        first.stop().await;
        second.stop().await;
    });
    player.finish();
    assert!(pictures(&file) == pictures(&clip()));
    // Whoever is not trusted is not talked to.
    let stranger = Engine::builder().workers(1).build().unwrap();
    let target = flow(
        "third",
        Source::rtmp("in", &bind(port), "live").tls().into(),
        Output::rtmp_push("x", "rtmp://127.0.0.1:1/a", key("K")).into(),
    );
    let doubtful = Flow::builder("f", Bitrate::mbps(1)).source(Source::app_rtmp("in")).output(Output::rtmp_push(
        "out",
        &format!("rtmps://localhost:{port}/live"),
        key("KEY"),
    ));
    let running = stranger.block_on(stranger.start(doubtful.build().unwrap())).unwrap();
    let reason = stranger.block_on(async {
        while let Some(event) = running.next_event().await {
            if let Event::OutputLost { reason, .. } = event {
                return reason.to_string();
            }
        }
        String::new()
    });
    assert!(reason.contains("certificate"), "{reason}");
    // Without a certificate nothing starts.
    let bare = Flow::builder("g", Bitrate::mbps(1)).source(Source::rtmp("in", "127.0.0.1:0", "live").tls());
    let error = stranger.block_on(stranger.start(bare.build().unwrap())).unwrap_err().to_string();
    assert!(error.contains("tls_identity"), "{error}");
    stranger.block_on(running.stop());
    engine.block_on(target.stop());
}

#[test]
fn rtmp_bandwidth_limit_drops_whole_gops_or_disconnects() {
    // The clip has some 700 kb/s, in groups of pictures of a second.
    let rig = Rig::start(publishing("in"), vec![Output::tap("tap").into()]);
    rig.running.set_max_bandwidth(Bitrate::kbps(300)).unwrap();
    let tap = Recording::start(&rig);
    let mut publisher = ffmpeg_publishes(&clip(), &rig.input());
    rig.event(|e| matches!(e, Event::BandwidthExceeded { .. }).then_some(()));
    assert!(publisher.finish().success(), "{}", publisher.output());
    let packets = tap.finish_packets(&rig);
    let stats = rig.running.stats();
    assert!(stats.sources[0].dropped > 20, "{:?}", stats.sources[0]);
    // What is left decodes without a complaint: no picture refers to one that is missing.
    let file = rig.file("left.flv");
    fs::write(&file, flv(&packets)).unwrap();
    let left = pictures(&file);
    let original = pictures(&clip());
    assert!(left.len() >= 20 && left.len() < original.len() && left.iter().all(|sum| original.contains(sum)));

    rig.running.set_bandwidth_policy(BandwidthPolicy::Disconnect).unwrap();
    let mut publisher = ffmpeg_publishes(&clip(), &rig.input());
    let reason = rig.event(|e| match e {
        Event::SourceLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::BandwidthExceeded);
    publisher.finish();
    rig.running.set_bandwidth_policy(BandwidthPolicy::Warn).unwrap();
    let before = rig.running.stats().sources[0].dropped;
    let mut publisher = ffmpeg_publishes(&clip(), &rig.input());
    rig.event(|e| matches!(e, Event::BandwidthExceeded { .. }).then_some(()));
    assert!(publisher.finish().success(), "{}", publisher.output());
    rig.source_lost();
    assert_eq!(rig.running.stats().sources[0].dropped, before, "everything passes");
    rig.stop();
}
