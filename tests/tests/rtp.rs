//! RTP end to end over plain sockets: packets arrive bit for bit, and every packet is accounted for.

use std::time::{Duration, Instant};
use streamlink_core::{
    BandwidthPolicy, Bitrate, Engine, Event, Flow, FlowHandle, LossReason, MediaFamily, Output, OutputEdit, Packet,
    PayloadTypes, PushError, RefusalReason, Rewrite, Source, SourceEdit, State, TransportCheck,
};
use streamlink_tests::{
    eventually,
    rig::free_port,
    rtp::{Sender, Sink, packet, payload, sequence, ssrc},
};

fn engine() -> Engine {
    Engine::builder().workers(2).build().unwrap()
}

fn input(running: &FlowHandle) -> Sender {
    Sender::to(&running.input_addresses()[0])
}

/// The next event of a kind; others are passed over.
fn event<T>(engine: &Engine, running: &FlowHandle, wanted: impl Fn(Event) -> Option<T>) -> T {
    engine.block_on(async {
        tokio::time::timeout(streamlink_tests::PATIENCE, async {
            while let Some(event) = running.next_event().await {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
            panic!("the flow has ended");
        })
        .await
        .expect("an event in time")
    })
}

#[test]
fn rtp_packets_arrive_bit_for_bit_over_ipv4_and_ipv6() {
    let engine = engine();
    for (bind, sink) in [("127.0.0.1:0", Sink::new()), ("[::1]:0", Sink::on("[::1]:0"))] {
        let flow = Flow::builder("f", Bitrate::mbps(20))
            .source(Source::rtp("in", bind))
            .output(Output::rtp("out", &sink.address()))
            .build()
            .unwrap();
        let running = engine.block_on(engine.start(flow)).unwrap();
        let sender = input(&running);
        let mut sent = Vec::new();
        for i in 0..200u16 {
            let size = [0, 1, 7, 188, 1316, 1460, 5000][usize::from(i) % 7];
            let mut bytes = packet((i % 72) as u8, i, i.into(), 7, &vec![i as u8; size]);
            if i % 5 == 0 {
                bytes[1] |= 0x80; // marker
            }
            if i % 11 == 0 {
                bytes[0] |= 0x10; // extension
                bytes.splice(12..12, [0xbe, 0xde, 0, 1, 1, 2, 3, 4]);
            }
            sender.send(&bytes);
            sent.push(bytes);
            if i % 16 == 15 {
                streamlink_tests::rtp::pause();
            }
        }
        assert_eq!(sink.take(sent.len()), sent, "{bind}");
        let stats = eventually("the counters", || {
            let stats = running.stats();
            (stats.outputs[0].packets == 200).then_some(stats)
        });
        let bytes: u64 = sent.iter().map(|p| p.len() as u64).sum();
        assert_eq!((stats.sources[0].packets, stats.sources[0].bytes), (200, bytes));
        assert_eq!((stats.outputs[0].packets, stats.outputs[0].bytes), (200, bytes));
        assert_eq!((stats.sources[0].lost, stats.sources[0].dropped, stats.outputs[0].dropped), (0, 0, 0));
        engine.block_on(running.stop());
    }
}

/// Datagrams that come one at a time are held for many outputs, and read at intervals. After a pause they are read as they
/// come again.
#[test]
fn rtp_paced_media_reaches_many_outputs_in_order_and_after_pauses() {
    const OUTPUTS: usize = 10;
    let engine = engine();
    let sinks: Vec<Sink> = (0..OUTPUTS).map(|_| Sink::new()).collect();
    let mut flow = Flow::builder("f", Bitrate::mbps(20)).source(Source::rtp("in", "127.0.0.1:0"));
    for (i, sink) in sinks.iter().enumerate() {
        flow = flow.output(Output::rtp(format!("out-{i}"), &sink.address()));
    }
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let sender = input(&running);
    let mut next = 0u16;
    for round in 0..3 {
        let first = next;
        for _ in 0..150 {
            sender.send(&packet(33, next, u32::from(next), 7, &[round; 1316]));
            next += 1;
            std::thread::sleep(Duration::from_micros(1200));
        }
        for sink in &sinks {
            let got: Vec<u16> = sink.take(150).iter().map(|p| sequence(p)).collect();
            assert_eq!(got, (first..next).collect::<Vec<u16>>(), "round {round}");
        }
        // Nothing comes for longer than any interval, then one packet by itself.
        std::thread::sleep(Duration::from_millis(60));
        sender.send(&packet(33, next, u32::from(next), 7, &[round; 1316]));
        for sink in &sinks {
            assert_eq!(sequence(&sink.take(1)[0]), next);
        }
        next += 1;
    }
    let stats = eventually("the counters", || {
        let stats = running.stats();
        stats.outputs.iter().all(|output| output.packets == u64::from(next)).then_some(stats)
    });
    assert_eq!((stats.sources[0].packets, stats.sources[0].lost, stats.sources[0].dropped), (next.into(), 0, 0));
    assert!(stats.outputs.iter().all(|output| output.dropped == 0));
    engine.block_on(running.stop());
}

#[test]
fn rtp_multicast_is_received_and_sent() {
    let engine = engine();
    for (group, source) in [("239.255.77.1", None), ("232.1.77.1", Some("127.0.0.1"))] {
        let port = free_port();
        // Out: to the group, over the loopback interface. In: from the group there, as another flow's source.
        let mut input = Source::rtp("group", &format!("{group}:{port}")).interface("127.0.0.1");
        if let Some(source) = source {
            input = input.multicast_source(source.parse().unwrap());
        }
        let sink = Sink::new();
        let receiving = Flow::builder("receive", Bitrate::mbps(20))
            .source(input)
            .output(Output::rtp("out", &sink.address()))
            .build()
            .unwrap();
        let receiving = engine.block_on(engine.start(receiving)).unwrap();
        let sending = Flow::builder("send", Bitrate::mbps(20))
            .source(Source::rtp("in", "127.0.0.1:0"))
            .output(Output::rtp("group", &format!("{group}:{port}")).interface("lo").ttl(1))
            .build()
            .unwrap();
        let sending = engine.block_on(engine.start(sending)).unwrap();
        Sender::to(&sending.input_addresses()[0]).stream(0..50);
        let got: Vec<u16> = sink.take(50).iter().map(|p| sequence(p)).collect();
        assert_eq!(got, (0..50).collect::<Vec<u16>>(), "{group}");
        engine.block_on(sending.stop());
        engine.block_on(receiving.stop());
    }
}

#[test]
fn rtp_output_feeds_two_destinations_and_rewrites() {
    let engine = engine();
    let a = Sink::new();
    let b = Sink::new();
    let kept = Sink::new();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::rtp("in", "127.0.0.1:0").reorder_window(Duration::ZERO))
        .output(Output::rtp("pair", &a.address()).second(b.address()).rewrite(Rewrite::Ssrc(42)))
        .output(Output::rtp("kept", &kept.address()))
        .build()
        .unwrap();
    let running = engine.block_on(engine.start(flow)).unwrap();
    input(&running).stream((0..100).filter(|i| i % 10 != 5));
    let from_a = a.take(90);
    let from_b = b.take(90);
    let from_kept = kept.take(90);
    assert_eq!(from_a, from_b);
    for (i, p) in from_a.iter().enumerate() {
        assert_eq!(ssrc(p), 42);
        assert_eq!(sequence(p), sequence(&from_a[0]).wrapping_add(i as u16));
        assert_eq!(p[12..], from_kept[i][12..]);
        assert_eq!(p[..2], from_kept[i][..2]);
    }
    assert_eq!((ssrc(&from_kept[0]), running.stats().sources[0].lost), (7, 10));
    let pair = running.stats().outputs[0].clone();
    assert_eq!(pair.packets, 90, "the same media on two paths is counted once");
    engine.block_on(running.stop());
}

#[test]
fn rtp_source_reorders_packets() {
    let engine = engine();
    let sink = Sink::new();
    let source = Source::rtp("in", "127.0.0.1:0").reorder_window(Duration::from_millis(1000));
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(source).output(Output::rtp("out", &sink.address()));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    input(&running).stream([0, 1, 2, 5, 4, 3, 6, 8, 7, 8, 9, 11, 12]);
    let got: Vec<u16> = sink.take(12).iter().map(|p| sequence(p)).collect();
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]);
    let stats = running.stats().sources[0].clone();
    assert_eq!((stats.lost, stats.recovered, stats.dropped, stats.duplicates), (1, 3, 0, 1));
    engine.block_on(running.stop());
}

#[test]
fn rtp_source_filters_peers_and_payload_types() {
    let engine = engine();
    let sink = Sink::new();
    let source = Source::rtp("in", "0.0.0.0:0")
        .allow("10.0.0.0/8".parse().unwrap())
        .payload_types(PayloadTypes::ALL.with(96).unwrap());
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(source).output(Output::rtp("out", &sink.address()));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let port = running.input_addresses()[0].rsplit_once(':').unwrap().1.to_owned();
    let sender = Sender::to(&format!("127.0.0.1:{port}"));
    sender.stream(0..10);
    let refused = event(&engine, &running, |e| match e {
        Event::PeerRefused { endpoint, peer, reason, .. } => Some((endpoint, peer, reason)),
        _ => None,
    });
    assert_eq!(refused, ("in".into(), sender.socket.local_addr().unwrap(), RefusalReason::NotAllowed));
    eventually("ten refusals", || (running.stats().sources[0].refused == 10).then_some(()));

    // The list is edited: now it gets in.
    running.edit_source("in", SourceEdit::new().allow("127.0.0.0/8".parse().unwrap()).rename("venue")).unwrap();
    // The edit reaches the source's task before the packets that follow, or they are refused: they are sent again.
    let mut next = 10;
    eventually("media", || {
        next += 2;
        sender.stream(next..next + 2);
        sink.within(Duration::from_millis(100))
    });
    sink.drain(Duration::from_millis(200));
    sender.send(&packet(97, next + 2, 0, 7, b"filtered"));
    sender.stream(next + 2..next + 4);
    assert_eq!(sink.take(2).iter().map(|p| sequence(p)).collect::<Vec<_>>(), [next + 2, next + 3]);
    let stats = running.stats().sources[0].clone();
    assert_eq!((stats.name.as_str(), stats.dropped), ("venue", 1));

    // And closed again: the sender is cut off, with an event.
    running.edit_source("venue", SourceEdit::new().allow("10.0.0.0/8".parse().unwrap())).unwrap();
    let reason = event(&engine, &running, |e| match e {
        Event::SourceLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::NoLongerAllowed);
    assert_eq!(running.stats().sources[0].state, State::Waiting);
    engine.block_on(running.stop());
}

#[test]
fn rtp_source_tells_once_of_mpeg_ts_without_rtp_headers() {
    let engine = engine();
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(Source::rtp("in", "127.0.0.1:0"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let mut events = running.events();
    let sender = input(&running);
    // Whole packets, packets with parity, and packets that datagrams of another size cut.
    let plain = [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; 184]].concat().repeat(7);
    let parity = [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; 200]].concat().repeat(5);
    let cut = plain[100..1100].to_vec();
    for datagram in [&plain, &parity, &cut].repeat(20) {
        sender.send(datagram);
    }
    eventually("refused datagrams", || (running.stats().sources[0].refused == 60).then_some(()));
    let source = running.stats().sources[0].clone();
    assert_eq!((source.state, source.packets, source.malformed), (State::Waiting, 0, 0));
    let refusals: Vec<_> = source.refusals.iter().map(|refusal| (refusal.reason, refusal.count)).collect();
    assert_eq!(refusals, [(RefusalReason::RawTransportStream, 60)], "as the event tells them");
    let error = source.last_error.unwrap();
    assert_eq!(error.kind, "refused_raw_transport_stream");
    assert!(error.text.contains("udp://"), "{error:?}");
    // Other rubbish is only counted; RTP passes.
    sender.send(&[0x22; 1316]);
    eventually("a malformed datagram", || (running.stats().sources[0].malformed == 1).then_some(()));
    sender.stream(0..10);
    eventually("media", || (running.stats().sources[0].state == State::Connected).then_some(()));
    engine.block_on(running.stop());
    let mut told = Vec::new();
    while let Some(event) = engine.block_on(events.next()) {
        if let Event::PeerRefused { reason, peer, .. } = event {
            told.push((reason, peer));
        }
    }
    assert_eq!(told, [(RefusalReason::RawTransportStream, sender.socket.local_addr().unwrap())]);
}

#[test]
fn rtp_source_is_lost_on_silence_and_returns() {
    let engine = engine();
    let sink = Sink::new();
    let source = Source::rtp("in", "127.0.0.1:0").idle_timeout(Duration::from_millis(1000));
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(source).output(Output::rtp("out", &sink.address()));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    assert_eq!(running.stats().sources[0].state, State::Waiting);
    let sender = input(&running);
    sender.stream(0..5);
    let connected = |e| matches!(e, Event::SourceConnected { .. }).then_some(());
    event(&engine, &running, connected);
    assert_eq!(running.stats().sources[0].state, State::Connected);
    let reason = event(&engine, &running, |e| match e {
        Event::SourceLost { source, reason, .. } => Some((source, reason)),
        _ => None,
    });
    assert_eq!(reason, ("in".into(), LossReason::Idle));
    assert_eq!(running.stats().sources[0].state, State::Waiting);
    sender.stream(40_000..40_005);
    event(&engine, &running, connected);
    assert_eq!(running.stats().sources[0].reconnections, 1);
    assert_eq!(sink.take(10).len(), 10);
    engine.block_on(running.stop());
}

#[test]
fn rtp_outputs_are_added_and_removed_without_disturbing_others() {
    let engine = engine();
    let steady = Sink::new();
    let late = Sink::new();
    let flow = Flow::builder("f", Bitrate::mbps(100))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("steady", &steady.address()))
        .build()
        .unwrap();
    let running = engine.block_on(engine.start(flow)).unwrap();
    let sender = input(&running);
    let total = 2000u16;
    let traffic = std::thread::spawn(move || {
        for i in 0..total {
            sender.stream([i]);
            streamlink_tests::rtp::pause();
        }
    });
    for round in 0..20 {
        let name = format!("late-{round}");
        engine.block_on(running.add_output(Output::rtp(&name, &late.address()))).unwrap();
        late.next();
        running.edit_output(&name, OutputEdit::new().rename("renamed").description("for a while")).unwrap();
        engine.block_on(running.replace_output("renamed", Output::rtp("renamed", &late.address()))).unwrap();
        late.next();
        engine.block_on(running.remove_output("renamed")).unwrap();
    }
    let got: Vec<u16> = steady.take(total.into()).iter().map(|p| sequence(p)).collect();
    assert_eq!(got, (0..total).collect::<Vec<u16>>());
    traffic.join().unwrap();
    assert_eq!(running.stats().outputs.len(), 1);
    late.drain(Duration::from_millis(100));
    assert_eq!(late.within(Duration::from_millis(100)), None, "a removed output is silent");
    // What cannot be added is not added.
    let add = |output: Output| engine.block_on(running.add_output(output)).unwrap_err().to_string();
    assert!(add(Output::rtp("steady", "127.0.0.1:1").into()).contains("already"));
    assert!(add(Output::from_url("x", "srt://:9000")).contains("cannot feed SRT outputs"));
    assert!(add(Output::rtp("x", "no.such.host.invalid:1").into()).contains("cannot resolve"));
    assert!(add(Output::rtp("x", "127.0.0.1:1").region("moon").into()).contains("no region `moon`; known: none"));
    assert!(engine.block_on(running.remove_output("x")).is_err());
    assert_eq!(running.stats().outputs.len(), 1);
    engine.block_on(running.stop());
}

#[test]
fn rtp_bandwidth_policies_are_enforced() {
    let engine = engine();
    let run = |policy: BandwidthPolicy| {
        let sink = Sink::new();
        let flow = Flow::builder("f", Bitrate::kbps(400)) // a burst of 50 000 bytes: 49 packets
            .source(Source::rtp("in", "127.0.0.1:0").reorder_window(Duration::ZERO))
            .bandwidth_policy(policy)
            .output(Output::rtp("out", &sink.address()));
        let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
        input(&running).stream(0..200);
        event(&engine, &running, |e| matches!(e, Event::BandwidthExceeded { .. }).then_some(()));
        (running, sink)
    };
    let (warned, sink) = run(BandwidthPolicy::Warn);
    assert_eq!(sink.take(200).len(), 200);
    engine.block_on(warned.stop());

    let (dropping, sink) = run(BandwidthPolicy::Drop);
    let stats = eventually("all are counted", || {
        let source = dropping.stats().sources[0].clone();
        (source.packets + source.dropped == 200).then_some(source)
    });
    assert!((49..80).contains(&stats.packets), "{stats:?}");
    assert_eq!(sink.take(stats.packets as usize).len() as u64, stats.packets);
    // More is allowed now.
    dropping.set_max_bandwidth(Bitrate::mbps(100)).unwrap();
    assert!(dropping.set_max_bandwidth(Bitrate::bps(0)).is_err());
    engine.block_on(dropping.stop());

    let (disconnected, _) = run(BandwidthPolicy::Disconnect);
    let reason = event(&engine, &disconnected, |e| match e {
        Event::SourceLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::BandwidthExceeded);
    engine.block_on(disconnected.stop());
}

#[test]
fn app_source_and_tap_carry_every_family() {
    let engine = engine();
    let now = std::time::Instant::now();
    let make = |family: &str, i: u16| match family {
        "datagrams" => Packet::datagram(payload(i), now),
        "rtp" => Packet::rtp(packet(96, i, 0, 1, &payload(i)), now),
        "rtmp" => Packet::rtmp(streamlink_core::RtmpKind::Video, i.into(), payload(i), now),
        _ => Packet::rtsp(1, packet(96, i, 0, 1, &payload(i)), now),
    };
    for family in ["datagrams", "rtp", "rtmp", "rtsp"] {
        let flow = Flow::builder("f", Bitrate::mbps(100))
            .source(Source::from_url("in", &format!("app://{family}")))
            .output(Output::from_url("pulled", "tap:"))
            .output(Output::from_url("called", "tap:"));
        let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
        let source = running.app_source("in").unwrap();
        let mut pulled = running.tap("pulled").unwrap();
        let (sender, called) = std::sync::mpsc::channel();
        let calls = running.tap("called").unwrap().for_each(move |p| sender.send(p).unwrap());
        assert!(running.tap("called").is_err(), "a tap is taken once");
        assert_eq!(pulled.try_next().map(|_| ()), None);
        for i in 0..50 {
            source.push(make(family, i)).unwrap();
        }
        source.push_all((50..100).map(|i| make(family, i))).unwrap();
        for i in 0..100 {
            let wanted = make(family, i);
            let got = if i % 2 == 0 { pulled.try_next().unwrap() } else { engine.block_on(pulled.next()).unwrap() };
            assert_eq!((got.data(), got.family()), (wanted.data(), wanted.family()));
            assert_eq!((got.rtmp_message(), got.rtsp_track()), (wanted.rtmp_message(), wanted.rtsp_track()));
            let got = called.recv_timeout(streamlink_tests::PATIENCE).unwrap();
            assert_eq!(got.data(), wanted.data());
        }
        // The wrong family and broken packets are refused; the flow goes on.
        let wrong = if family == "rtp" { make("rtmp", 0) } else { make("rtp", 0) };
        assert!(matches!(source.push(wrong), Err(PushError::Family { .. })));
        if source.family() == MediaFamily::Rtp {
            assert_eq!(source.push(Packet::rtp(&b"garbage"[..], now)), Err(PushError::Malformed));
        }
        assert_eq!(running.stats().outputs[0].packets, 100);
        engine.block_on(running.stop());
        assert_eq!(source.push(make(family, 0)), Err(PushError::Closed));
        assert_eq!(engine.block_on(pulled.next()).map(|_| ()), None);
        engine.block_on(calls.stop());
    }
}

#[test]
fn app_source_reports_full_flow_and_slow_tap_drops_oldest() {
    let engine = engine();
    let flow = Flow::builder("f", Bitrate::mbps(8)) // a second of it: a million bytes
        .source(Source::app_datagrams("in"))
        .output(Output::tap("slow"))
        .build()
        .unwrap();
    let running = engine.block_on(engine.start(flow)).unwrap();
    let source = running.app_source("in").unwrap();
    let mut tap = running.tap("slow").unwrap();
    let results: Vec<_> =
        (0..1500).map(|_| source.push(Packet::datagram(vec![0; 1000], std::time::Instant::now()))).collect();
    assert!(results[..1000].iter().all(Result::is_ok));
    assert_eq!(results.last(), Some(&Err(PushError::Full)));
    running.set_max_bandwidth(Bitrate::mbps(1)).unwrap(); // the bound of the queue shrinks with it
    running.set_bandwidth_policy(BandwidthPolicy::Warn).unwrap();
    source.push(Packet::datagram(vec![1; 1000], std::time::Instant::now())).unwrap();
    let got = std::iter::from_fn(|| tap.try_next()).count() as u64;
    let stats = running.stats();
    let pushed = stats.sources[0].packets;
    assert_eq!(got + stats.outputs[0].dropped, pushed);
    assert!(got <= 256 * 1024 / 1000 + 1, "{got}");
    engine.block_on(running.stop());
}

#[test]
fn ts_monitor_counts_errors_and_passes_broken_mpeg_ts() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let sink = Sink::new();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &sink.address()))
        .build()
        .unwrap();
    let running = engine.block_on(engine.start(flow)).unwrap();
    let sender = Sender::to(&running.input_addresses()[0]);
    let clip = std::fs::read(streamlink_tests::clip()).unwrap();
    let mut sent = 0u16;
    let start = Instant::now();
    // Every fiftieth datagram is missing in the stream, and one has lost its sync bytes. The tables come, so nothing else
    // is wrong.
    for (i, chunk) in clip.chunks(1316).enumerate().filter(|(i, _)| i % 50 != 49) {
        let mut payload = chunk.to_vec();
        if i == 120 {
            for packet in payload.chunks_mut(188) {
                packet[0] = 0;
            }
        }
        sender.send(&packet(33, sent, u32::from(sent) * 90, 7, &payload));
        sent += 1;
        std::thread::sleep((Duration::from_millis(4) * i as u32).saturating_sub(start.elapsed())); // the pace of the clip
    }
    let errors = eventually("all is counted", || {
        let stats = running.stats();
        (stats.outputs[0].packets == u64::from(sent)).then_some(())?;
        // A second old at most.
        sender.send(&packet(33, sent, u32::from(sent) * 90, 7, &clip[..188]));
        sent += 1;
        Some(stats.sources[0].transport).filter(|errors| errors.sync_losses > 0)
    });
    assert!(errors.continuity >= 9 && (errors.sync_byte, errors.sync_losses) == (7, 1), "{errors:?}");
    assert_eq!((errors.pmt, errors.pid), (0, 0), "{errors:?}");
    let mut told = Vec::new();
    engine.block_on(async {
        while !told.contains(&TransportCheck::SyncLoss) || !told.contains(&TransportCheck::Continuity) {
            match tokio::time::timeout(streamlink_tests::PATIENCE, running.next_event()).await {
                Ok(Some(Event::TransportError { source, check, count })) => {
                    assert!(source == "in" && count > 0);
                    told.push(check);
                }
                Ok(Some(_)) => {}
                other => panic!("{told:?} {other:?}"),
            }
        }
    });
    assert!(engine.metrics().contains("streamlink_sync_losses_total{"), "{}", engine.metrics());
    engine.block_on(running.stop());
}
