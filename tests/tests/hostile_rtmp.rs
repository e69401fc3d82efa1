//! Hostile traffic at an RTMP port, and players that do not keep up: they are refused or disconnected, and others are
//! unaffected.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use streamlink_core::{Engine, Event, Failover, LossReason, Output, Packet, PeerLimits, RtmpKind, Source, StreamKey};
use streamlink_tests::{
    clip, eventually, media,
    peer::Peer,
    rig::{Recording, Rig, text},
};

fn key(text: &str) -> StreamKey {
    StreamKey::new(text).unwrap()
}

fn connect(rig: &Rig) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", rig.input_port())).unwrap();
    stream.set_read_timeout(Some(streamlink_tests::PATIENCE)).unwrap();
    stream
}

/// The plain handshake of a client.
fn shake_hands(stream: &mut TcpStream) {
    let mut hello = vec![3];
    hello.extend([0; 1536]);
    stream.write_all(&hello).unwrap();
    let mut answer = vec![0; 1 + 2 * 1536];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&answer[1..1537]).unwrap();
}

/// Returns whether the server closes the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            }
        }
    }
}

fn command(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = vec![3, 0, 0, 0];
    chunk.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
    chunk.extend([20, 0, 0, 0, 0]);
    for (i, piece) in bytes.chunks(128).enumerate() {
        if i > 0 {
            chunk.push(0xc3);
        }
        chunk.extend(piece);
    }
    chunk
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn rtmp_listener_closes_hostile_peers_and_keeps_the_stream() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key("KEY"));
    let engine = Engine::builder().peer_limits(PeerLimits::new().pending(1000));
    let rig = Rig::start_on(engine, vec![source.into()], Failover::default(), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let mut publisher = media::play(&clip(), &["-map", "0", "-c", "copy", "-f", "flv", &rig.input()]);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let before = memory();

    // Not RTMP at all.
    let mut http = connect(&rig);
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(is_closed(&mut http));
    // What follows the handshake is garbage of many kinds.
    let connect_command = b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0\x03\x00\x03app\x02\x00\x04live\0\0\x09";
    let publish = b"\x02\x00\x07publish\x00\x40\x10\0\0\0\0\0\0\x05\x02\x00\x03KEY\x02\x00\x04live";
    let attacks: Vec<Vec<u8>> = vec![
        vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0], // a chunk size of 0
        vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0x80, 0, 0, 0], // of 2^31
        vec![0xc7, 1, 2, 3],                                  // a chunk that continues nothing
        vec![3, 0, 0, 0, 0xff, 0xff, 0xff, 20, 0, 0, 0, 0],   // a command of 16 MiB
        vec![6, 0, 0, 0, 0x7f, 0xff, 0xff, 9, 0, 0, 0, 0],    // media before anything else
        command(publish),                                     // publish without connect
        [command(connect_command), command(connect_command)].concat(), // twice
        command(&[0x03, 0, 1, b'a'].repeat(10_000)),          // nested 10 000 deep
        command(&[0x0a, 0xff, 0xff, 0xff, 0xff]),             // an endless array
        command(b"\x00\0\0\0\0\0\0\0\0"),                     // a command without a name
        [command(connect_command), command(b"\x02\x00\x0ccreateStream\x00\0\0\0\0\0\0\0\0").repeat(100)].concat(),
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let mut stream = connect(&rig);
        shake_hands(&mut stream);
        let _ = stream.write_all(attack); // it may be closed before all of it is out
        assert!(is_closed(&mut stream), "attack {number}");
    }
    // Many that begin and then say nothing: cut off after the handshake timeout.
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(&rig)).collect();
    for (i, stream) in slow.iter_mut().enumerate() {
        stream.write_all(&[3; 2000][..1 + i]).unwrap();
    }
    assert!(publisher.finish().success(), "{}", publisher.output());
    let packets = tap.finish_packets(&rig);
    let video = packets.iter().filter(|p| p.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Video));
    assert_eq!(video.filter(|p| p.data()[1] == 1).count(), 125, "the live stream has lost nothing");
    for mut stream in slow {
        assert!(is_closed(&mut stream));
    }
    assert!(started.elapsed() < Duration::from_secs(25));
    let grown = memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more");
    rig.stop();
}

#[test]
fn rtmp_stalled_player_is_disconnected_and_others_lose_nothing() {
    let rig = Rig::start(
        Source::app_rtmp("in"),
        vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").slow_timeout(Duration::from_secs(2)).into()],
    );
    rig.running.set_max_bandwidth(streamlink_core::Bitrate::mbps(100)).unwrap();
    let url = rig.playback();
    let file = rig.file("good.flv");
    let good = Peer::start("rtmpdump", &["-q", "--live", "-r", &url, "-o", text(&file)]);
    let stuck = Peer::start("rtmpdump", &["-q", "--live", "-r", &url, "-o", "/dev/null"]);
    eventually("two players", || (rig.running.stats().outputs[0].players.len() == 2).then_some(()));
    stuck.signal(libc::SIGSTOP);
    let app = rig.running.app_source("in").unwrap();
    let message = |kind, time, body: Vec<u8>| Packet::rtmp(kind, time, body, Instant::now());
    app.push(message(RtmpKind::Video, 0, vec![0x17, 0, 0, 0, 0, 1])).unwrap();
    // 40 Mb/s, a key frame in every ten.
    let mut number = 0u32;
    let mut lost = None;
    let mut events = rig.running.events();
    let deadline = Instant::now() + streamlink_tests::PATIENCE;
    while lost.is_none() && Instant::now() < deadline {
        let mut body = vec![number as u8; 100_000];
        body[..2].copy_from_slice(&[if number.is_multiple_of(10) { 0x17 } else { 0x27 }, 1]);
        app.push(message(RtmpKind::Video, number * 20, body)).unwrap();
        number += 1;
        std::thread::sleep(Duration::from_millis(20));
        while let Some(event) = events.try_next() {
            if let Event::OutputLost { reason, .. } = event {
                lost = Some(reason);
            }
        }
    }
    assert_eq!(lost, Some(LossReason::TooSlow));
    let total = u64::from(number) + 1;
    eventually("the other has everything", || {
        let players = rig.running.stats().outputs[0].players.clone();
        (players.len() == 1 && players[0].packets >= total && players[0].dropped == 0).then_some(())
    });
    // What it was sent is in the file, every byte of it.
    eventually("the file", || (std::fs::metadata(&file).ok()?.len() > u64::from(number - 10) * 100_000).then_some(()));
    stuck.signal(libc::SIGCONT);
    drop((good, stuck));
    rig.stop();
}
