//! SRT with libsrt's programs: access control and passphrases, several flows on a port, the bandwidth limit, and packet
//! loss.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};
use streamlink_core::{
    Access, BandwidthPolicy, Bitrate, Engine, Event, Flow, KeyLength, Latency, LossReason, Output, OutputEdit,
    Passphrase, RefusalReason, Source,
};
use streamlink_tests::{
    clip, eventually,
    lossy::{Lossy, watched_srt},
    peer::{self, Peer},
    rig::{Recording, Rig, free_port, text},
    rtp::Sink,
};

const SECRET: &str = "correct-horse";

fn ffmpeg_sends(url: &str) -> Peer {
    let from = clip();
    Peer::start(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-re", "-i", text(&from), "-map", "0", "-c", "copy", "-f", "mpegts", url],
    )
}

/// Waits for the end of a sender. libsrt, within ffmpeg, at times corrupts its heap when it shuts down after all
/// was sent (`corrupted double-linked list`, no fault in valgrind): how it ends is not what is tested, and what
/// arrived is compared byte for byte.
fn sent(sender: &mut Peer) {
    let status = sender.finish();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGABRT);
    assert!(status.success() || aborted, "{status}: {}", sender.output());
}

#[test]
fn srt_gstreamer_sends_and_receives() {
    let rig = Rig::start(
        Source::srt_listener("in", "127.0.0.1:0").stream_id("cam1"),
        vec![Output::srt_listener("out", "127.0.0.1:0").into(), Output::tap("tap").into()],
    );
    let tap = Recording::start(&rig);
    let (_, url) = rig.running.playback_urls()[0].clone();
    let file = rig.file("played.ts");
    let receiver = peer::gstreamer_receives_srt(&format!("{url}?mode=caller"), &file);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let port = rig.input_port();
    let mut sender = peer::gstreamer_sends_srt(&clip(), &format!("srt://127.0.0.1:{port}?mode=caller&streamid=cam1"));
    assert!(sender.finish().success(), "{}", sender.output());
    let received = tap.finish(&rig);
    // GStreamer fills datagrams up with null packets (PID 8191), and leaves before its last ones are out.
    let content = |bytes: &[u8]| -> Vec<u8> {
        bytes.chunks(188).filter(|p| p[1] & 0x1f != 0x1f || p[2] != 0xff).flatten().copied().collect()
    };
    let original = content(&fs::read(clip()).unwrap());
    let carried = content(&received);
    assert!(original.starts_with(&carried) && carried.len() > original.len() * 9 / 10, "{}", carried.len());
    eventually("all of it", || (fs::metadata(&file).ok()?.len() as usize >= received.len()).then_some(()));
    assert!(fs::read(&file).unwrap() == received, "what GStreamer received is not what the flow carried");
    drop(receiver);
    rig.stop();
}

#[test]
fn srt_listener_rejects_wrong_passphrase() {
    let secret = |s: &str| Some(Passphrase::new(s).unwrap());
    for (ours, theirs, reason) in [
        (secret(SECRET), "&passphrase=wrong-horse-1", RefusalReason::WrongPassphrase),
        (secret(SECRET), "", RefusalReason::EncryptionMismatch),
        (None, "&passphrase=wrong-horse-1", RefusalReason::EncryptionMismatch),
    ] {
        let mut source = Source::srt_listener("in", "127.0.0.1:0");
        if let Some(secret) = ours {
            source = source.encryption(secret, KeyLength::Aes128);
        }
        let rig = Rig::start(source, vec![]);
        let mut caller = ffmpeg_sends(&format!("srt://127.0.0.1:{}?mode=caller{theirs}", rig.input_port()));
        let found = rig.event(|e| match e {
            Event::PeerRefused { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(found, reason);
        assert!(!caller.finish().success());
        assert_eq!(rig.running.stats().sources[0].refused, 1);
        rig.stop();
    }
    // And the other way round: libsrt refuses us.
    for (ours, theirs) in [(Some("wrong-horse-1"), SECRET), (None, SECRET)] {
        let port = free_port();
        let listener = Peer::start(
            "srt-live-transmit",
            &["-q", &format!("srt://127.0.0.1:{port}?mode=listener&passphrase={theirs}"), "file://con"],
        );
        listener.wait_for_udp(port);
        let mut output = Output::srt_caller("out", &format!("127.0.0.1:{port}"));
        if let Some(secret) = ours {
            output = output.encryption(Passphrase::new(secret).unwrap(), KeyLength::Aes128);
        }
        let rig = Rig::start(Source::app_datagrams("in"), vec![output.into()]);
        let reason = rig.event(|e| match e {
            Event::OutputLost { reason, .. } => Some(reason),
            _ => None,
        });
        let is_password = matches!(reason, LossReason::Unauthorized(_));
        let is_encryption = matches!(reason, LossReason::Rejected(_));
        assert!(if ours.is_some() { is_password } else { is_encryption }, "{reason:?}");
        rig.event(|e| matches!(e, Event::OutputRetrying { .. }).then_some(()));
        rig.stop();
    }
}

#[test]
fn srt_players_are_limited_listed_and_disconnected() {
    let rig =
        Rig::start(Source::app_datagrams("in"), vec![Output::srt_listener("out", "127.0.0.1:0").max_players(1).into()]);
    let (name, url) = rig.running.playback_urls()[0].clone();
    assert_eq!(name, "out");
    let play = || Peer::start("srt-live-transmit", &["-q", "-a", "no", &format!("{url}?mode=caller"), "file://con"]);
    let _first = play();
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let _second = play();
    let reason = rig.event(|e| match e {
        Event::PeerRefused { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, RefusalReason::TooManyPeers);
    eventually("the player is listed", || (rig.running.stats().outputs[0].players.len() == 1).then_some(()));
    rig.running.edit_output("out", OutputEdit::new().allow("10.0.0.0/8".parse().unwrap())).unwrap();
    let reason = rig.event(|e| match e {
        Event::OutputLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::NoLongerAllowed);
    let _third = play();
    let reason = rig.event(|e| match e {
        Event::PeerRefused { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, RefusalReason::NotAllowed);
    rig.stop();
}

#[test]
fn srt_port_serves_several_flows_by_stream_id() {
    let port = free_port();
    let bind = format!("127.0.0.1:{port}");
    let engine = Engine::builder().workers(2).build().unwrap();
    let start = |name: &str| {
        let flow = Flow::builder(name, Bitrate::mbps(20))
            .source(Source::srt_listener("in", &bind).stream_id(name))
            .output(Output::tap("tap"))
            .build()
            .unwrap();
        engine.block_on(engine.start(flow)).unwrap()
    };
    let one = start("one");
    let two = start("two");
    let mut tap_one = one.tap("tap").unwrap();
    let mut tap_two = two.tap("tap").unwrap();
    let url = |id: &str| format!("srt://{bind}?mode=caller&pkt_size=1316&streamid={id}");
    let mut senders = [ffmpeg_sends(&url("one")), ffmpeg_sends(&url("#!::r=two,m=publish"))];
    for tap in [&mut tap_one, &mut tap_two] {
        eventually("media in both flows", || tap.try_next());
    }
    let mut lost = ffmpeg_sends(&url("three"));
    assert!(!lost.finish().success());
    // One flow goes; the other goes on, and the port stays.
    engine.block_on(one.stop());
    for sender in &mut senders {
        sender.finish();
    }
    eventually("the whole clip in the other", || (two.stats().sources[0].packets > 380).then_some(()));
    assert_eq!(two.stats().sources[0].lost, 0);
    engine.block_on(two.stop());
    UdpSocket::bind(&bind).expect("the port is free again");
}

#[test]
fn srt_repairs_five_percent_loss_in_both_directions() {
    let rig = Rig::start(
        Source::srt_listener("in", "127.0.0.1:0").latency(Latency::from_millis(1000).unwrap()),
        vec![
            Output::srt_listener("out", "127.0.0.1:0").latency(Latency::from_millis(1000).unwrap()).into(),
            Output::tap("tap").into(),
        ],
    );
    let tap = Recording::start(&rig);
    let (_, url) = rig.running.playback_urls()[0].clone();
    let (network_in, way_in) = watched_srt(SocketAddr::from(([127, 0, 0, 1], rig.input_port())), 5, true);
    let network_out = Lossy::to(url.trim_start_matches("srt://").parse().unwrap(), 5);
    let sink = Sink::new();
    let from_us = format!("srt://{}?mode=caller&latency=1000", network_out.address);
    let receiver = Peer::start("srt-live-transmit", &["-q", &from_us, &format!("udp://{}", sink.address())]);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let mut sender = ffmpeg_sends(&format!("srt://{}?mode=caller&pkt_size=1316&latency=1000000", network_in.address));
    sent(&mut sender);
    let received = tap.finish(&rig);
    let played: Vec<u8> = sink.drain(Duration::from_secs(2)).concat();
    let ((_, lost_in), (_, lost_out)) = (network_in.finish(), network_out.finish());
    assert!(lost_in > 0 && lost_out > 0, "the network lost nothing");
    let source = rig.running.stats().sources[0].clone();
    // ffmpeg says goodbye without waiting: what was lost just before cannot be repeated. Nothing else is missing.
    let way_in = way_in.lock().unwrap();
    let missing = way_in.missing();
    let last = *way_in.sent.keys().last().unwrap();
    assert!(missing.iter().all(|number| number + 40 > last), "{missing:?} of {last}");
    assert_eq!(source.packets, way_in.arrived.len() as u64, "{missing:?} {source:?}");
    assert!(source.lost <= missing.len() as u64, "{missing:?} {source:?}");
    assert!(source.recovered > 0 && source.round_trip >= Duration::from_millis(39), "{source:?}");
    let file = rig.file("received.ts");
    fs::write(&file, &received).unwrap();
    assert!(
        received.starts_with(&played) && played.len() + 20 * 1316 > received.len(),
        "{} {}",
        played.len(),
        received.len()
    );
    drop(receiver);
    rig.stop();
}

#[test]
fn srt_access_hook_admits_sets_passphrase_and_refuses_with_code() {
    let engine = Engine::builder()
        .workers(2)
        .access(|request| {
            assert_eq!((request.flow.as_str(), request.endpoint.as_str(), request.publishes), ("f", "in", true));
            match request.stream_id.as_deref() {
                Some("open") => Access::Accept,
                Some("guarded") => Access::AcceptWith(Passphrase::new(SECRET).unwrap()),
                // A bug of the host; to write down where it is may take longer than the caller waits.
                Some("fragile") => std::panic::resume_unwind(Box::new("a bug")),
                _ => Access::Reject(2042),
            }
        })
        .build()
        .unwrap();
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(Source::srt_listener("in", "127.0.0.1:0"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let port: u16 = running.input_addresses()[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let bytes = || running.stats().sources[0].bytes;
    for (id, more) in [("open", ""), ("guarded", "&passphrase=correct-horse&pbkeylen=16")] {
        let before = bytes();
        let sender = ffmpeg_sends(&format!("srt://127.0.0.1:{port}?mode=caller&streamid={id}{more}"));
        eventually(&format!("{id} is let in: {}", sender.output()), || (bytes() > before + 50_000).then_some(()));
        drop(sender);
        eventually("it is gone", || {
            (running.stats().sources[0].state == streamlink_core::State::Waiting).then_some(())
        });
    }
    for (id, code) in [("other", "code 2042"), ("fragile", "code 1500")] {
        let caller = Source::srt_caller("call", &format!("127.0.0.1:{port}")).stream_id(id);
        let rig = Rig::start(caller, vec![]);
        let reason = rig.event(|e| match e {
            Event::SourceLost { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        assert!(reason.contains(code), "{reason}");
        rig.stop();
    }
    assert!(running.stats().sources[0].refused >= 2);
    engine.block_on(running.stop());
}

#[test]
fn srt_bandwidth_limit_drops_datagrams_or_disconnects() {
    let rig = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![Output::tap("tap").into()]);
    rig.running.set_max_bandwidth(Bitrate::kbps(300)).unwrap();
    let url = format!("srt://127.0.0.1:{}?mode=caller&pkt_size=1316", rig.input_port());
    let mut sender = ffmpeg_sends(&url);
    rig.event(|e| matches!(e, Event::BandwidthExceeded { .. }).then_some(()));
    sent(&mut sender);
    rig.source_lost();
    let stats = rig.running.stats();
    let source = &stats.sources[0];
    let tap = &stats.outputs[0];
    // A second of burst, and five at the rate: less than half of what came.
    assert!(source.dropped > 100 && source.packets < 250, "{source:?}");
    assert!(tap.packets + tap.dropped <= source.packets);
    rig.running.set_bandwidth_policy(BandwidthPolicy::Disconnect).unwrap();
    let mut sender = ffmpeg_sends(&url);
    let reason = rig.event(|e| match e {
        Event::SourceLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::BandwidthExceeded);
    sender.finish(); // it was told
    rig.stop();
}
