//! RTSP with a hand-written client: its mistakes, and the less usual requests.

use std::{
    io::{Read, Write},
    net::UdpSocket,
};
use streamlink_core::{Event, Output, Packet, RefusalReason, Source};
use streamlink_tests::{
    eventually,
    rig::{Recording, Rig},
    rtsp::{Bare, SDP, rtp},
};

fn recorded() -> Source {
    Source::rtsp_listener("in", "127.0.0.1:0", "cam/1").into()
}

#[test]
fn rtsp_ignores_strangers_and_reorders_udp() {
    let rig = Rig::start(recorded(), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let url = rig.input();
    let media = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = media.local_addr().unwrap().port();
    let mut client = Bare::connect(&rig);
    assert!(client.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", SDP).contains("200"));
    let transport = format!("Transport: RTP/AVP;unicast;client_port={port}-{};mode=record\r\n", port.wrapping_add(1));
    let answer = client.ask(&format!("SETUP {url}/track"), &transport, "");
    let ports = answer.split("server_port=").nth(1).expect("ports").split(['-', ';', '\r']).next().unwrap();
    let server: u16 = ports.parse().unwrap();
    assert!(client.ask(&format!("RECORD {url}"), "", "").contains("200"));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for i in 0..1000u16 {
        for _ in 0..3 {
            stranger.send_to(&rtp(60_000 + i % 100), ("127.0.0.1", server)).unwrap();
        }
        // Pairs arrive in the wrong order, but for the first.
        media.send_to(&rtp(if i < 2 { i } else { i ^ 1 }), ("127.0.0.1", server)).unwrap();
        if i % 50 == 0 {
            media.send_to(b"garbage", ("127.0.0.1", server)).unwrap();
        }
        streamlink_tests::rtp::pause();
    }
    eventually("all packets", || (tap.packets().len() >= 1000).then_some(()));
    let got: Vec<u16> = tap.packets().iter().map(|p| u16::from_be_bytes([p.data()[2], p.data()[3]])).collect();
    assert_eq!(got, (0..1000).collect::<Vec<u16>>());
    let stats = rig.running.stats().sources[0].clone();
    assert_eq!((stats.lost, stats.malformed), (0, 20));
    assert!(stats.refused > 100, "{}", stats.refused);
    // Frames of a channel that was not agreed on are passed over; then the session ends in order.
    client.0.write_all(&[b'$', 77, 0, 4, 1, 2, 3, 4]).unwrap();
    assert!(client.ask(&format!("TEARDOWN {url}"), "", "").contains("200"));
    rig.source_lost();
    rig.stop();
}

#[test]
fn rtsp_source_returns_with_continuous_numbers_and_players_stay() {
    let rig = Rig::start(
        recorded(),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into(), Output::tap("tap").into()],
    );
    let tap = Recording::start(&rig);
    let url = rig.input();
    let session = |from: u16| {
        let mut client = Bare::connect(&rig);
        client.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", SDP);
        client.ask(&format!("SETUP {url}/track"), "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n", "");
        assert!(client.ask(&format!("RECORD {url}"), "", "").contains("200"));
        for i in from..from + 10 {
            let packet = rtp(i);
            client.0.write_all(&[&[b'$', 0, 0, packet.len() as u8][..], &packet].concat()).unwrap();
        }
        client
    };
    let first = session(100);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    eventually("ten packets", || (tap.packets().len() >= 10).then_some(()));
    let mut player = Bare::play(&rig);
    let play = rig.playback();
    assert!(player.ask(&format!("DESCRIBE {play}"), "", "").contains("application/sdp"));
    drop(first);
    rig.source_lost();
    let second = session(5000);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    eventually("ten more", || (tap.packets().len() >= 20).then_some(()));
    let numbers = |p: &Packet| (u16::from_be_bytes([p.data()[2], p.data()[3]]), p.data()[12..].to_vec());
    let got: Vec<u16> = tap.packets().iter().map(|p| numbers(p).0).collect();
    assert_eq!(got, (100..120).collect::<Vec<u16>>());
    assert!(tap.packets()[15].data()[12..] == rtp(5005)[12..], "the payload is as it was");
    drop(second);
    rig.stop();
}

#[test]
fn rtsp_player_resumes_live_after_pause() {
    let output = Output::rtsp_listener("out", "127.0.0.1:0", "live");
    let rig = Rig::start(recorded(), vec![output.into(), Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let url = rig.input();
    let mut client = Bare::connect(&rig);
    assert!(client.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", SDP).contains("200"));
    let interleaved = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n";
    assert!(client.ask(&format!("SETUP {url}/track"), interleaved, "").contains("200"));
    assert!(client.ask(&format!("RECORD {url}"), "", "").contains("200"));
    let mut send = |sequence: u16| {
        let packet = rtp(sequence);
        client.0.write_all(&[&[b'$', 0, 0, packet.len() as u8][..], &packet].concat()).unwrap();
        eventually("the packet", || (tap.packets().len() > usize::from(sequence)).then_some(()));
    };
    send(0);
    let play = rig.playback();
    let mut player = Bare::play(&rig);
    assert!(player.ask(&format!("OPTIONS {play}"), "", "").contains("PAUSE"));
    let described = player.ask(&format!("DESCRIBE {play}"), "", "");
    let length = described.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    let mut sdp = vec![0; length.parse().unwrap()];
    player.0.read_exact(&mut sdp).unwrap();
    let interleaved = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    assert!(player.ask(&format!("SETUP {play}/trackID=0"), interleaved, "").contains("200"));
    // Not before it plays.
    assert!(player.ask(&format!("PAUSE {play}"), "", "").contains("455"));
    let answer = player.ask(&format!("PLAY {play}"), "", "");
    assert!(answer.contains("200"));
    // What is there to begin with is named (RFC 2326 section 12.33).
    let info = answer.lines().find_map(|line| line.strip_prefix("RTP-Info: ")).unwrap();
    assert_eq!(info, format!("url={play}/trackID=0;seq=0;rtptime=0"));
    let frame = |player: &mut Bare| {
        let mut frame = [0; 4 + 172];
        player.0.read_exact(&mut frame).unwrap();
        assert_eq!(frame[0], b'$');
        u16::from_be_bytes([frame[6], frame[7]])
    };
    send(1);
    // The last group of pictures, which is one packet here, comes first.
    assert_eq!((frame(&mut player), frame(&mut player)), (0, 1));
    // What it reports as lost is counted: 5 packets of the stream of SSRC 7.
    let report = [&[0x81, 201, 0, 7, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 5][..], &[0; 16]].concat();
    player.0.write_all(&[&[b'$', 1, 0, 32][..], &report].concat()).unwrap();
    assert!(player.ask(&format!("PAUSE {play}"), "", "").contains("200"));
    (2..20).for_each(&mut send);
    // An answer, and no frame before it.
    assert!(player.ask(&format!("GET_PARAMETER {play}"), "", "").starts_with("RTSP/1.0 200"));
    assert!(player.ask(&format!("PLAY {play}"), "", "").starts_with("RTSP/1.0 200"));
    send(20);
    assert_eq!(frame(&mut player), 20);
    eventually("what it has reported", || {
        let output = rig.running.stats().outputs[0].clone();
        (output.lost == 5 && output.players[0].lost == 5).then_some(())
    });
    rig.stop();
}

#[test]
fn rtsp_port_tells_of_requests_that_it_cannot_serve() {
    let rig = Rig::start(recorded(), vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into()]);
    let announce = |sdp: &str| {
        let headers = format!("CSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n", sdp.len());
        format!("ANNOUNCE rtsp://h/PATH RTSP/1.0\r\n{headers}\r\n{sdp}")
    };
    let describe = "DESCRIBE rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n".to_owned();
    for (to_source, request, status, told) in [
        (true, announce("v=0\r\ns=x\r\n").replace("PATH", "cam/1"), "400", "we refuse its SDP: no media section"),
        (true, describe, "404", "cam/1 was asked for to play, and this port has no output"),
        (
            false,
            announce(SDP).replace("PATH", "live"),
            "404",
            "live was asked for to publish, and this port has no source",
        ),
    ] {
        let mut client = if to_source { Bare::connect(&rig) } else { Bare::play(&rig) };
        client.0.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        client.0.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[9..], status.as_bytes());
        let detail = rig.event(|event| match event {
            Event::PeerRefused { detail, .. } => Some(detail.to_string()),
            _ => None,
        });
        assert!(detail.starts_with(told), "{detail}");
    }
    rig.stop();
}

/// The ports that the server has named in an answer to SETUP.
#[test]
fn rtsp_player_is_answered_when_it_ends_the_session() {
    let rig = Rig::start(recorded(), vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into()]);
    let mut publisher = Bare::connect(&rig);
    publisher.record(&rig.input(), "");
    publisher.send(1);
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
    let mut player = Bare::play(&rig);
    player.watch(&rig.playback(), "");
    player.0.write_all(b"TEARDOWN rtsp://h/live RTSP/1.0\r\nCSeq: 9\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    player.0.read_to_end(&mut rest).unwrap();
    let answer = b"RTSP/1.0 200 OK\r\nCSeq: 9\r\n";
    assert!(rest.windows(answer.len()).any(|window| window == answer), "{}", String::from_utf8_lossy(&rest));
    rig.stop();
}

fn server_ports(answer: &str) -> (u16, u16) {
    let ports = answer.split("server_port=").nth(1).expect("ports").split([';', '\r']).next().unwrap();
    let (rtp, rtcp) = ports.split_once('-').unwrap();
    (rtp.parse().unwrap(), rtcp.parse().unwrap())
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(streamlink_tests::PATIENCE)).unwrap();
    socket
}

/// Behind address translation the ports are others than what a peer believes and says.
#[test]
fn rtsp_symmetric_uses_the_ports_peers_send_from() {
    let source = Source::rtsp_listener("in", "127.0.0.1:0", "cam/1").symmetric(true);
    let output = Output::rtsp_listener("out", "127.0.0.1:0", "live").symmetric(true);
    let rig = Rig::start(source, vec![output.into(), Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    let url = rig.input();
    let mut client = Bare::connect(&rig);
    assert!(client.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", SDP).contains("200"));
    let wrong = "Transport: RTP/AVP;unicast;client_port=9-10;mode=record\r\n";
    let (to, to_rtcp) = server_ports(&client.ask(&format!("SETUP {url}/track"), wrong, ""));
    assert!(client.ask(&format!("RECORD {url}"), "", "").contains("200"));
    let media = socket();
    let reports = socket();
    // Two that follow each other make a stream.
    for number in 0..2 {
        media.send_to(&rtp(number), ("127.0.0.1", to)).unwrap();
    }
    eventually("the packets", || (tap.packets().len() == 2).then_some(()));
    // A second one from that address is not believed. All of its datagrams are reported, though no more follow.
    let stranger = socket();
    for count in 1..=3 {
        stranger.send_to(&rtp(2), ("127.0.0.1", to)).unwrap();
        eventually("the stranger", || (rig.running.stats().sources[0].refused == count).then_some(()));
    }
    let mut told = 0;
    while told < 3 {
        told += rig.event(|event| match event {
            Event::PeerRefused { reason: RefusalReason::OtherAddress, count, .. } => Some(count),
            _ => None,
        });
    }
    assert_eq!(told, 3);

    let play = rig.playback();
    let mut player = Bare::play(&rig);
    player.ask(&format!("OPTIONS {play}"), "", "");
    let wrong = "Transport: RTP/AVP;unicast;client_port=9-10\r\n";
    let (from, from_rtcp) = server_ports(&player.ask(&format!("SETUP {play}/trackID=0"), wrong, ""));
    assert!(player.ask(&format!("PLAY {play}"), "", "").contains("200"));
    // Frames in the connection are nothing to a player over UDP: what comes behind them is heard, and none is kept.
    player.0.write_all(&[b'$', 0, 0, 4, 1, 2, 3, 4].repeat(100)).unwrap();
    assert!(player.ask(&format!("GET_PARAMETER {play}"), "", "").contains("200"));
    let here = socket();
    let here_rtcp = socket();
    here.send_to(&[0x80, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ("127.0.0.1", from)).unwrap();
    here_rtcp.send_to(&[0x80, 201, 0, 1, 0, 0, 0, 9], ("127.0.0.1", from_rtcp)).unwrap();
    // A sender report goes the same way, to the other port.
    reports.send_to(&[&[0x80, 200, 0, 6, 0, 0, 0, 7][..], &[1; 20]].concat(), ("127.0.0.1", to_rtcp)).unwrap();
    let mut buffer = [0; 2000];
    let mut number = 2;
    here.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let length = eventually("media", || {
        media.send_to(&rtp(number), ("127.0.0.1", to)).unwrap();
        number += 1;
        here.recv(&mut buffer).ok()
    });
    assert_eq!((length, buffer[1]), (172, 0));
    let length = here_rtcp.recv(&mut buffer).unwrap();
    assert_eq!((length, buffer[1]), (28, 200));
    // The sender is told what has come (RFC 3550 section 6.4.2): of SSRC 7, at the port that it sends reports from.
    let told = eventually("a report about the stream", || {
        let length = reports.recv(&mut buffer).ok()?;
        (length > 40 && buffer[8..12] == [0, 0, 0, 7]).then_some(buffer[1])
    });
    assert_eq!(told, 201);
    rig.stop();
}
