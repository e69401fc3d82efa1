//! Media of each family arrive as they were sent.

use crate::common::{
    Certificate, InProcessRelay, PATIENCE,
    hop::{Edge, Hop, Ingest, Ts, flow, push_paced},
    soon, until,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{Engine, MediaFamily, Output, Packet, RtmpKind};
use streamlink_moq::{Publication, PublishSettings, Relays};

/// Sends packets over one relay, and returns what came out.
async fn carry(family: MediaFamily, packets: Vec<Packet>, sdp: Option<&str>) -> Vec<Packet> {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let ingest = Ingest::start(&relays, &certificate, "live/cam", family, PublishSettings::new()).await;
    if let Some(sdp) = sdp {
        ingest.source.set_sdp(sdp).unwrap();
    }
    let mut edge = Edge::start(&relays, &certificate, "live/cam", family).await;
    let out = edge.collect();
    let count = u64::try_from(packets.len()).unwrap();
    // The first packet describes the flow, so that the leg subscribes; it is kept for the leg.
    let mut packets = packets.into_iter();
    ingest.source.push(packets.next().unwrap()).unwrap();
    edge.legs(1).await;
    for packet in packets {
        ingest.source.push(packet).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let out = out.finish_after(&edge, count).await;
    assert_eq!(edge.incoming.stats().refusals, 0);
    out.into_iter().map(|(_, packet)| packet).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mpeg_ts_goes_over_a_relay_byte_for_byte() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let hop = Hop::start(&[relay.address()], &certificate).await;
    let mut told = None;
    let run = hop
        .carry(Duration::from_secs(3), async |ingest, edge| {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let catalog = edge.incoming.catalog().await.unwrap();
            assert!(catalog.media.is_transport_stream && !catalog.media.has_several_programs);
            assert_eq!(catalog.media.input, ingest.flow.input());
            told = Some(ingest.publication.stats());
        })
        .await;
    run.assert_whole();
    assert!(run.out.iter().all(|(_, packet)| packet.data().len() == 1316));
    // Groups begin at random access points, about every half second, and are then never cut in between.
    let stats = told.unwrap();
    assert!((4..=12).contains(&stats.groups), "{stats:?}");
    assert_eq!(stats.objects, stats.packets);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_no_mpeg_ts_keep_their_boundaries() {
    let packet = |i: usize| Packet::datagram(vec![i.to_be_bytes()[7]; 1 + i * 7 % 1456], Instant::now());
    let sent: Vec<Packet> = (0..300).map(packet).collect();
    let out = carry(MediaFamily::Datagrams, sent.clone(), None).await;
    assert!(out.iter().map(Packet::data).eq(sent.iter().map(Packet::data)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtmp_messages_keep_their_kinds_times_and_boundaries() {
    let now = Instant::now();
    let mut sent = vec![
        Packet::rtmp(RtmpKind::Data, 0, &b"\x02\0\x0aonMetaData\x03\0\0\x09"[..], now),
        Packet::rtmp(RtmpKind::Video, 0, &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f][..], now),
        Packet::rtmp(RtmpKind::Audio, 0, &[0xaf, 0, 0x12, 0x10][..], now),
    ];
    for frame in 0..200_u32 {
        let first = if frame % 50 == 0 { 0x17 } else { 0x27 };
        let size = if frame % 50 == 0 { 90_000 } else { 1000 + usize::try_from(frame).unwrap() };
        let mut body = vec![frame.to_be_bytes()[3]; size];
        body[..5].copy_from_slice(&[first, 1, 0, 0, 40]);
        sent.push(Packet::rtmp(RtmpKind::Video, frame * 40, body, now));
        sent.push(Packet::rtmp(RtmpKind::Audio, frame * 40 + 7, vec![0xaf, 1, frame.to_be_bytes()[3]], now));
    }
    let out = carry(MediaFamily::Rtmp, sent.clone(), None).await;
    let shown = |packet: &Packet| (packet.rtmp_message(), packet.data().clone());
    assert!(out.iter().map(shown).eq(sent.iter().map(shown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtmp_player_that_joins_late_gets_the_headers() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let ingest = Ingest::start(&relays, &certificate, "live/cam", MediaFamily::Rtmp, PublishSettings::new()).await;
    let push = |time: u32, body: Vec<u8>| {
        ingest.source.push(Packet::rtmp(RtmpKind::Video, time, body, Instant::now())).unwrap();
    };
    push(0, vec![0x17, 0, 0, 0, 0, 1]);
    push(0, vec![0x17, 1, 0, 0, 0, 9]);
    until("publication", || ingest.publication.stats().groups == 2).await;
    for frame in 1..40 {
        push(frame * 40, vec![if frame == 30 { 0x17 } else { 0x27 }, 1, 0, 0, 0, frame.to_be_bytes()[3]]);
    }
    until("publication", || ingest.publication.stats().packets == 41).await;
    let mut edge = Edge::start(&relays, &certificate, "live/cam", MediaFamily::Rtmp).await;
    let mut tap = edge.tap.take().unwrap();
    let header = soon("header", tap.next()).await.unwrap();
    assert_eq!(header.data()[..], [0x17, 0, 0, 0, 0, 1]);
    let frame = soon("key frame", tap.next()).await.unwrap();
    assert_eq!((frame.rtmp_message(), frame.data()[5]), (Some((RtmpKind::Video, 1200)), 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtsp_packets_keep_their_tracks_and_sdp() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n\
               m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
               m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\n";
    let packet = |i: u16| {
        let track = u8::try_from(i % 2).unwrap();
        let header =
            [&[0x80, 96 + track][..], &(i / 2).to_be_bytes(), &(u32::from(i) * 90).to_be_bytes(), &[0, 0, 0, 7]];
        let payload = vec![i.to_be_bytes()[1]; 100 + usize::from(i)];
        Packet::rtsp(track, [&header.concat()[..], &payload].concat(), Instant::now())
    };
    let sent: Vec<Packet> = (0..200).map(packet).collect();
    let out = carry(MediaFamily::Rtsp, sent.clone(), Some(sdp)).await;
    let shown = |packet: &Packet| (packet.rtsp_track(), packet.data().clone());
    assert!(out.iter().map(shown).eq(sent.iter().map(shown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtmp_headers_from_before_the_publication_are_sent() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let engine = Engine::on(tokio::runtime::Handle::current()).unwrap();
    let origin = flow(&engine, "origin", MediaFamily::Rtmp).await;
    let source = origin.app_source("in").unwrap();
    let push = |time: u32, body: Vec<u8>| {
        source.push(Packet::rtmp(RtmpKind::Video, time, body, Instant::now())).unwrap();
    };
    push(0, vec![0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f]);
    push(0, vec![0x17, 1, 0, 0, 0, 9]);
    // The region comes later, as an output that is added to a running flow.
    origin.add_output(Output::tap("late")).await.unwrap();
    let links = Arc::new(Relays::connect(&relays, &certificate.settings(), None).unwrap());
    let publication = Publication::of_flow(&links, "live/cam", &origin, "late", &PublishSettings::new()).unwrap();
    let mut edge = Edge::start(&relays, &certificate, "live/cam", MediaFamily::Rtmp).await;
    let mut tap = edge.tap.take().unwrap();
    push(40, vec![0x27, 1, 0, 0, 0, 10]);
    push(80, vec![0x17, 1, 0, 0, 0, 11]);
    push(120, vec![0x27, 1, 0, 0, 0, 12]);
    until("publication", || publication.stats().packets >= 3).await;
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|body: &bytes::Bytes| body[5] != 12) {
        bodies.push(soon("packet", tap.next()).await.unwrap().data().clone());
    }
    let key = bodies.iter().position(|body| body[5] == 11).unwrap();
    assert_eq!(bodies[key - 1][..2], [0x17, 0], "the configuration stands before the key frame: {bodies:?}");
}

pub(crate) fn rtp(sequence: u16) -> Packet {
    let time = u32::from(sequence / 4) * 3600;
    let header = [&[0x80, 96][..], &sequence.to_be_bytes(), &time.to_be_bytes(), &[0, 0, 0, 7]].concat();
    let payload = vec![sequence.to_be_bytes()[1]; 20 + usize::from(sequence % 1300)];
    Packet::rtp([header, payload].concat(), Instant::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtp_packets_keep_headers_and_boundaries_over_the_end_of_their_numbers() {
    // 65530 is lost before: nothing waits for it.
    let sent: Vec<Packet> = (65_400..66_000_u32).filter(|i| *i != 65_530).map(|i| rtp((i % 65_536) as u16)).collect();
    let start = Instant::now();
    let out = carry(MediaFamily::Rtp, sent.clone(), None).await;
    assert!(out.iter().map(Packet::data).eq(sent.iter().map(Packet::data)));
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_leaves_the_publisher_however_many_subscribe() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let family = MediaFamily::Datagrams;
    let ingest = Ingest::start(&relays, &certificate, "live/cam", family, PublishSettings::new()).await;
    let mut ts = Ts::new();
    ingest.source.push(ts.datagram()).unwrap();
    let mut edges = Vec::new();
    for _ in 0..3 {
        edges.push(Edge::start(&relays, &certificate, "live/cam", family).await);
    }
    for edge in &edges {
        edge.legs(1).await;
    }
    let before = ingest.relays.links()[0].stats().unwrap().bytes_sent;
    let sent = push_paced(&ingest.source, || ts.datagram(), Duration::from_millis(1), Duration::from_secs(2)).await;
    let bytes: u64 = sent.iter().map(|packet| u64::try_from(packet.data().len()).unwrap()).sum();
    for edge in &edges {
        until("all packets", || edge.incoming.stats().packets > u64::try_from(sent.len()).unwrap()).await;
    }
    let uplink = ingest.relays.links()[0].stats().unwrap().bytes_sent - before;
    assert!(uplink < bytes + bytes / 3, "{uplink} bytes left for {bytes} bytes of media");
    // Nobody subscribes any more: nothing leaves.
    drop(edges);
    let idle: Relays = Relays::connect(&relays, &certificate.settings(), None).unwrap();
    assert!(soon("connection", idle.links()[0].connected()).await);
}
