//! Hostile traffic at RTP and SRT ports: it is counted, other flows and peers are unaffected, and memory stays bounded.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Source};
use streamlink_tests::{
    eventually,
    lossy::Lossy,
    peer::{self, Peer},
    rig::{Rig, free_port},
    rtp::{Sender, Sink, packet, payload, sequence},
    test_rng::TestRng,
};

fn start(engine: &Engine, sink: &Sink) -> FlowHandle {
    let flow = Flow::builder("f", Bitrate::mbps(500))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &sink.address()))
        .build()
        .unwrap();
    engine.block_on(engine.start(flow)).unwrap()
}

#[test]
fn rtp_source_counts_garbage_and_keeps_the_stream() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let sink = Sink::new();
    let running = start(&engine, &sink);
    let sender = Sender::to(&running.input_addresses()[0]);
    let attacker = Sender::to(&running.input_addresses()[0]);
    let mut random = TestRng(0x5eed);
    let mut malformed = 0;
    let mut foreign = 0;
    let total = 1000u16;
    for i in 0..total {
        // After the second packet, the stream is known: all else is counted against.
        sender.stream([i]);
        if i < 2 {
            continue;
        }
        match i % 5 {
            0 => {
                // Truncated: fewer bytes than the header says.
                let whole = packet(96, i, 0, 7, &[]);
                attacker.send(&whole[..random.next_u64() as usize % 12]);
                malformed += 1;
            }
            1 => {
                // Not version 2.
                let mut bytes: Vec<u8> = (0..random.next_u64() % 1400).map(|_| random.next_u64() as u8).collect();
                bytes.insert(0, 0x3f);
                attacker.send(&bytes);
                malformed += 1;
            }
            2 => {
                // An extension or CSRCs that reach beyond the end; padding longer than the packet.
                let mut bytes = packet(96, i, 0, 7, &[0, 0, 0xff, 0xff]);
                bytes[0] |= [0x10, 0x0f, 0x20][random.next_u64() as usize % 3];
                attacker.send(&bytes);
                malformed += 1;
            }
            3 => {
                // Well made, but of another stream.
                attacker.send(&packet(
                    96,
                    random.next_u64() as u16,
                    0,
                    random.next_u64() as u32 | 0x8000_0000,
                    &payload(i),
                ));
                foreign += 1;
            }
            _ => attacker.send(&[]),
        }
        malformed += u64::from(i % 5 == 4);
        if i % 16 == 0 {
            streamlink_tests::rtp::pause();
        }
    }
    let got: Vec<u16> = sink.take(total.into()).iter().map(|p| sequence(p)).collect();
    assert_eq!(got, (0..total).collect::<Vec<u16>>());
    let stats = eventually("all is counted", || {
        let source = running.stats().sources[0].clone();
        (source.malformed == malformed && source.dropped == foreign).then_some(source)
    });
    assert_eq!((stats.packets, stats.lost), (total.into(), 0));
    assert!(sink.within(Duration::from_millis(200)).is_none(), "nothing of the garbage came through");
    engine.block_on(running.stop());
}

/// The memory of a process in KiB.
fn memory(peer: &Peer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", peer.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Many senders at full speed, with all kinds of packets, at a real process: its memory does not grow, another
/// flow in the same process loses nothing, and when it is over the port works as before.
#[test]
fn rtp_flood_leaves_memory_bounded_and_other_flows_intact() {
    let sink = Sink::new();
    let calm_sink = Sink::new();
    let mut relay = Peer::start(
        peer::example("relay"),
        &[
            "--source",
            "rtp://127.0.0.1:0?reorder=1000",
            "--output",
            &format!("out=rtp://{}", sink.address()),
            "--stats",
            "none",
        ],
    );
    let address = relay.wait_for_word("input address: rtp://");
    let engine = Engine::builder().workers(2).build().unwrap();
    let calm = start(&engine, &calm_sink);
    let calm_sender = Sender::to(&calm.input_addresses()[0]);

    Sender::to(&address).stream(0..100);
    let before = memory(&relay);
    let end = Instant::now() + Duration::from_secs(5);
    let floods: Vec<_> = (0..3u64)
        .map(|seed| {
            let address = address.clone();
            let mut random = TestRng(seed + 1);
            std::thread::spawn(move || {
                let sender = Sender::to(&address);
                while Instant::now() < end {
                    let a = random.next_u64();
                    let b = random.next_u64();
                    let size = [0, 20, 1316, 1400, 9000, 60_000][a as usize % 6];
                    // Sequence numbers all over the place, a few SSRCs, any flags.
                    let mut bytes =
                        packet(b as u8, (a >> 8) as u16, b as u32, (a >> 32) as u32 % 3, &vec![a as u8; size]);
                    if a.is_multiple_of(4) {
                        bytes[0] = (b >> 32) as u8;
                    }
                    bytes.truncate(65_000);
                    let _ = sender.socket.send_to(&bytes, &address); // a full socket is the point of it
                }
            })
        })
        .collect();
    let mut most = 0;
    let mut sent = 0u16;
    let mut got: Vec<u16> = Vec::new();
    while Instant::now() < end {
        calm_sender.stream(sent..sent + 20);
        sent += 20;
        got.extend(calm_sink.take(20).iter().map(|p| sequence(p)));
        most = most.max(memory(&relay));
        std::thread::sleep(Duration::from_millis(20));
    }
    for f in floods {
        f.join().unwrap();
    }
    // A second of 20 Mb/s in the ring, a window of held packets, and the receiver's lanes.
    assert!(most < before + 64 * 1024, "{before} KiB before, {most} KiB at most");
    assert_eq!(got, (0..sent).collect::<Vec<u16>>(), "the calm flow lost nothing");

    // The port is as good as before: a new stream gets through.
    sink.drain(Duration::from_millis(300));
    let sender = Sender::to(&address);
    let mut next = 0u16;
    eventually("the new stream", || {
        next += 10;
        for i in next - 10..next {
            sender.send(&packet(96, i, 0, 0xabcd, &payload(i)));
        }
        sink.within(Duration::from_millis(200)).filter(|p| streamlink_tests::rtp::ssrc(p) == 0xabcd)
    });
    relay.tell("quit");
    assert!(relay.finish().success());
    engine.block_on(calm.stop());
}

/// A stranger knows all about a live connection: its id, its clock and where it is. What it says in the name of the
/// other end comes to nothing, as it does not come from there.
#[test]
fn srt_connection_ignores_packets_from_other_addresses() {
    let rig = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![Output::tap("tap").into()]);
    let listener = SocketAddr::from(([127, 0, 0, 1], rig.input_port()));
    // The last header that the caller has sent.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let look = seen.clone();
    let network = Lossy::watched(listener, 0, move |forward, _, packet| {
        if forward && packet.len() >= 16 && !packet.starts_with(&[0x80, 0]) {
            *look.lock().unwrap() = packet[..16].to_vec();
        }
    });
    let sending = Flow::builder("sending", Bitrate::mbps(20))
        .source(Source::app_datagrams("app"))
        .output(Output::srt_caller("out", &network.address.to_string()))
        .build()
        .unwrap();
    let sending = rig.engine.block_on(rig.engine.start(sending)).unwrap();
    eventually("the connection", || {
        (sending.stats().outputs[0].state == streamlink_core::State::Connected).then_some(())
    });
    let app = sending.app_source("app").unwrap();
    let mut tap = rig.running.tap("tap").unwrap();
    let stranger = Sink::new().0;
    let mut random = TestRng(11);
    let before = rig.running.stats().sources[0].clone();
    let mut got = 0u32;
    let mut forged = 0u32;
    for pushed in 0..2000u32 {
        let mut payload = vec![0; 1316];
        payload[..4].copy_from_slice(&pushed.to_be_bytes());
        app.push(streamlink_core::Packet::datagram(payload, Instant::now())).unwrap();
        let header = seen.lock().unwrap().clone();
        if header.len() == 16 {
            // A kind of control packet, with the time and the id of a real one; or data, further on.
            let kind = [2u8, 3, 5, 6, 7, 8, 1][pushed as usize % 7];
            let mut bytes = vec![0x80, kind, 0, 0, 0, 0, 0, 1];
            bytes.extend(&header[8..16]);
            bytes.extend((0..4 * (random.next_u64() % 8)).map(|_| random.next_u64() as u8));
            if pushed % 3 == 0 {
                bytes.splice(..8, header[..8].iter().copied());
                bytes[3] = bytes[3].wrapping_add(1 + pushed as u8 % 50);
                bytes.resize(if pushed % 2 == 0 { 16 + 1316 } else { 16 + 4000 }, 0xee);
            }
            if pushed % 5 == 0 {
                bytes.truncate(random.next_u64() as usize % 16);
            }
            stranger.send_to(&bytes, listener).unwrap();
            forged += 1;
        }
        streamlink_tests::rtp::pause();
        while let Some(packet) = tap.try_next() {
            assert_eq!(packet.data()[..4], got.to_be_bytes(), "in order, and none missing");
            got += 1;
        }
    }
    eventually("all that was pushed", || {
        while let Some(packet) = tap.try_next() {
            assert_eq!(packet.data()[..4], got.to_be_bytes(), "in order, and none missing");
            got += 1;
        }
        (got == 2000).then_some(())
    });
    let source = rig.running.stats().sources[0].clone();
    assert!(forged > 1000, "{forged}");
    assert_eq!((source.lost, source.reconnections), (0, before.reconnections), "{source:?}");
    assert_eq!(source.bytes - before.bytes, 2000 * 1316);
    rig.engine.block_on(sending.stop());
    rig.stop();
}

/// A listener under fire: handshakes from many ports, conclusions with forged cookies, garbage, and packets for a
/// live connection from a stranger. Memory stays where it was, and the live connection loses nothing.
#[test]
fn srt_listener_withstands_garbage_and_forged_handshakes() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let out_port = free_port();
    let mut relay = Peer::start(
        peer::example("relay"),
        &[
            "--source",
            "srt://127.0.0.1:0?mode=listener",
            "--output",
            &format!("out=srt://127.0.0.1:{out_port}?mode=listener"),
            "--stats",
            "none",
        ],
    );
    let address = relay.wait_for_word("input address: srt://");
    // A live connection through it: our own flows on both sides.
    let sending = Flow::builder("sending", Bitrate::mbps(20))
        .source(Source::app_datagrams("app"))
        .output(Output::srt_caller("out", &address))
        .build()
        .unwrap();
    let receiving = Flow::builder("receiving", Bitrate::mbps(20))
        .source(Source::srt_caller("in", &format!("127.0.0.1:{out_port}")))
        .output(Output::tap("tap"))
        .build()
        .unwrap();
    let (sending, receiving) =
        (engine.block_on(engine.start(sending)).unwrap(), engine.block_on(engine.start(receiving)).unwrap());
    relay.wait_for("output `out` connected");
    eventually("the sender is connected", || {
        (sending.stats().outputs[0].state == streamlink_core::State::Connected).then_some(())
    });
    let app = sending.app_source("app").unwrap();
    let mut tap = receiving.tap("tap").unwrap();

    let before = memory(&relay);
    let end = Instant::now() + Duration::from_secs(4);
    let target = address.clone();
    let flood = std::thread::spawn(move || {
        let mut random = TestRng(7);
        let sockets: Vec<_> = (0..50).map(|_| Sink::new()).collect();
        let mut sent = 0u64;
        while Instant::now() < end {
            let socket = &sockets[random.next_u64() as usize % sockets.len()].0;
            let mut bytes: Vec<u8> = (0..16 + random.next_u64() % 120).map(|_| random.next_u64() as u8).collect();
            match random.next_u64() % 4 {
                // Inductions, and conclusions with cookies made up.
                0 | 1 => {
                    bytes.resize(64 + 28, 0);
                    bytes[..16].fill(0);
                    bytes[0] = 0x80;
                    bytes[16..20].copy_from_slice(&[0, 0, 0, 4 + (random.next_u64() % 2) as u8]);
                    let kind = if random.next_u64().is_multiple_of(2) { 1u32 } else { u32::MAX };
                    bytes[36..40].copy_from_slice(&kind.to_be_bytes());
                }
                // Control packets and data for whoever may be there.
                2 => bytes[0] = 0x80,
                _ => bytes[0] &= 0x7f,
            }
            let _ = socket.send_to(&bytes, &target); // a full socket is no failure
            sent += 1;
            // Many, but not more than two cores can look at beside everything else that goes on here.
            if sent.is_multiple_of(16) {
                streamlink_tests::rtp::pause();
            }
        }
        sent
    });
    let mut pushed = 0u32;
    let mut got = 0u32;
    let mut most = 0;
    let mut take = |got: &mut u32| {
        while let Some(packet) = tap.try_next() {
            assert_eq!(packet.data()[..4], got.to_be_bytes(), "in order, and none missing");
            *got += 1;
        }
    };
    while Instant::now() < end {
        let mut payload = vec![0; 1316];
        payload[..4].copy_from_slice(&pushed.to_be_bytes());
        app.push(streamlink_core::Packet::datagram(payload, Instant::now())).unwrap();
        pushed += 1;
        take(&mut got);
        if pushed.is_multiple_of(100) {
            most = most.max(memory(&relay));
        }
        for _ in 0..3 {
            streamlink_tests::rtp::pause();
        }
    }
    assert!(flood.join().unwrap() > 1000);
    eventually("all that was pushed", || {
        take(&mut got);
        (got == pushed).then_some(())
    });
    assert!(most < before + 16 * 1024, "{before} KiB before, {most} KiB at most");
    engine.block_on(sending.stop());
    engine.block_on(receiving.stop());
    relay.tell("quit");
    assert!(relay.finish().success());
}
