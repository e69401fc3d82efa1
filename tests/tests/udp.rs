//! MPEG-TS over UDP without RTP, over plain sockets: it arrives byte for byte, and what is no MPEG-TS is told.

use std::{
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};
use streamlink_core::{Event, Failover, LossReason, Output, Pace, PayloadProblem, RefusalReason, Source, State};
use streamlink_tests::{
    clip, eventually,
    rig::{Rig, free_port},
    rtp::{self, Sender, Sink, packet, sequence, ssrc},
};

/// The clip in datagrams of seven transport packets.
fn datagrams() -> Vec<Vec<u8>> {
    fs::read(clip()).unwrap().chunks(1316).map(<[u8]>::to_vec).collect()
}

/// Sends datagrams, not faster than a receiver can read.
fn send_all(sender: &Sender, datagrams: &[Vec<u8>]) {
    for (i, datagram) in datagrams.iter().enumerate() {
        sender.send(datagram);
        if i % 16 == 15 {
            rtp::pause();
        }
    }
}

fn udp_out(sink: &Sink) -> Output {
    Output::udp(format!("udp {}", sink.address()), &sink.address()).into()
}

#[test]
fn udp_ts_arrives_byte_for_byte_over_ipv4_and_ipv6() {
    let sent = datagrams();
    for (bind, plain, wrapped) in
        [("127.0.0.1:0", Sink::new(), Sink::new()), ("[::1]:0", Sink::on("[::1]:0"), Sink::on("[::1]:0"))]
    {
        let outputs = vec![udp_out(&plain), Output::rtp("rtp", &wrapped.address()).into()];
        let rig = Rig::start(Source::udp("in", bind), outputs);
        assert!(rig.input().starts_with("udp://"), "{}", rig.input());
        let count = sent.len();
        let url = rig.input();
        let sender = std::thread::spawn({
            let sent = sent.clone();
            move || send_all(&Sender::to(&url), &sent)
        });
        assert!(plain.take(count) == sent, "{bind}");
        let in_rtp = wrapped.take(count);
        sender.join().unwrap();
        for (i, (packet, datagram)) in in_rtp.iter().zip(&sent).enumerate() {
            assert_eq!(packet[..2], [0x80, 33]);
            assert_eq!(sequence(packet), sequence(&in_rtp[0]).wrapping_add(i as u16));
            assert_eq!(ssrc(packet), ssrc(&in_rtp[0]));
            assert!(packet[12..] == datagram[..]);
        }
        // Timestamps follow the clock of the clip, however fast it was sent: five seconds in units of 90 kHz.
        let stamp = |packet: &[u8]| u32::from_be_bytes(packet[4..8].try_into().unwrap());
        let length = stamp(&in_rtp[count - 1]).wrapping_sub(stamp(&in_rtp[0]));
        assert!((4 * 90_000..6 * 90_000).contains(&length), "{length}");
        let bytes: u64 = sent.iter().map(|datagram| datagram.len() as u64).sum();
        let stats = eventually("the counters", || {
            let stats = rig.running.stats();
            (stats.outputs[0].packets == count as u64).then_some(stats)
        });
        let source = &stats.sources[0];
        assert_eq!((source.protocol, source.packets, source.bytes), ("UDP", count as u64, bytes));
        assert_eq!((source.malformed, source.dropped, source.transport.continuity), (0, 0, 0));
        assert_eq!((stats.outputs[0].protocol, stats.outputs[0].bytes), ("UDP", bytes));
        assert!(source.media.as_deref().unwrap().starts_with("MPEG-TS: H.264"));
        rig.stop();
    }
}

#[test]
fn udp_multicast_is_received_and_sent() {
    let sent = &datagrams()[..100];
    for (group, url) in [
        ("239.255.78.1", "udp://@239.255.78.1:PORT?iface=127.0.0.1"),
        ("232.1.78.1", "udp://127.0.0.1@232.1.78.1:PORT?iface=127.0.0.1"),
        ("232.1.78.2", "udp://232.1.78.2:PORT?iface=127.0.0.1&source=127.0.0.1"),
    ] {
        let port = free_port();
        let sink = Sink::new();
        let receiving =
            Rig::start(Source::from_url("group", &url.replace("PORT", &port.to_string())), vec![udp_out(&sink)]);
        assert_eq!(receiving.input(), format!("udp://{group}:{port}"));
        let output = Output::udp("group", &format!("{group}:{port}")).interface("lo").ttl(1);
        let sending = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
        assert_eq!(sending.playback(), format!("udp://@{group}:{port}"));
        send_all(&Sender::to(&sending.input()), sent);
        assert!(sink.take(sent.len()) == sent, "{group}");
        sending.stop();
        receiving.stop();
    }
}

fn problem(rig: &Rig, wanted: PayloadProblem) -> u64 {
    rig.event(|event| match event {
        Event::UnexpectedPayload { problem, packets, .. } if problem == wanted => Some(packets),
        _ => None,
    })
}

#[test]
fn udp_source_puts_cut_transport_packets_together_and_tells() {
    let stream = fs::read(clip()).unwrap();
    let stream = &stream[..1472 * 47 * 5]; // whole packets, and whole datagrams
    for size in [1472, 1024, 188 * 7 + 1] {
        let sink = Sink::new();
        let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![udp_out(&sink)]);
        let cut: Vec<Vec<u8>> = stream.chunks(size).map(<[u8]>::to_vec).collect();
        send_all(&Sender::to(&rig.input()), &cut);
        let mut received = Vec::new();
        while received.len() < stream.len() {
            let datagram = sink.next();
            assert!(datagram.len().is_multiple_of(188) && datagram.len() <= 1316, "{}", datagram.len());
            received.extend(datagram);
        }
        assert!(received == stream, "{size}");
        assert!(problem(&rig, PayloadProblem::Unaligned) >= 1);
        assert_eq!(rig.running.stats().sources[0].transport.continuity, 0);
        rig.stop();
    }
}

#[test]
fn udp_source_bares_packets_with_parity_and_times_and_tells() {
    let stream = fs::read(clip()).unwrap();
    let stream = &stream[..188 * 7 * 50];
    for (size, before, behind) in [(204, 0, 16), (192, 4, 0)] {
        let sink = Sink::new();
        let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![udp_out(&sink)]);
        let dressed = stream.chunks(188).map(|packet| [&vec![1; before], packet, &vec![2; behind]].concat());
        let dressed: Vec<Vec<u8>> = dressed.collect::<Vec<_>>().chunks(7).map(<[_]>::concat).collect();
        send_all(&Sender::to(&rig.input()), &dressed);
        let received = sink.take(50).concat();
        assert!(received == stream, "{size}");
        assert!(problem(&rig, PayloadProblem::PacketSize(size)) >= 1);
        rig.stop();
    }
}

#[test]
fn udp_source_takes_rtp_with_ts_and_refuses_other_payload() {
    let sent = &datagrams()[..40];
    let sink = Sink::new();
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![udp_out(&sink)]);
    let sender = Sender::to(&rig.input());
    sender.send(b"hello");
    assert_eq!(problem(&rig, PayloadProblem::NotTransportStream), 1);
    sender.send(&packet(96, 1, 0, 7, &[1; 1000]));
    assert_eq!(problem(&rig, PayloadProblem::PayloadType(96)), 1);
    let stats = &rig.running.stats().sources[0];
    assert_eq!((stats.malformed, stats.state, stats.packets), (2, State::Waiting, 0));
    // RTP packets out of order are put in order.
    let mut in_rtp: Vec<Vec<u8>> = (0u16..).zip(sent).map(|(i, ts)| packet(33, i, 0, 9, ts)).collect();
    in_rtp.swap(10, 12);
    send_all(&sender, &in_rtp);
    assert!(sink.take(sent.len()) == sent);
    assert!(problem(&rig, PayloadProblem::Rtp) >= 1);
    rig.stop();
}

#[test]
fn udp_output_leaves_out_what_is_no_ts() {
    let ts = &datagrams()[..10];
    let sink = Sink::new();
    let rig = Rig::start(Source::rtp("in", "127.0.0.1:0"), vec![udp_out(&sink)]);
    let sender = Sender::to(&rig.input());
    for (i, payload) in (0u16..).zip(ts) {
        sender.send(&packet(33, 3 * i, 0, 7, payload));
        sender.send(&packet(96, 3 * i + 1, 0, 7, &[5; 900]));
        sender.send(&packet(33, 3 * i + 2, 0, 7, &[])); // a keep-alive
    }
    assert!(sink.take(10) == ts);
    assert!(problem(&rig, PayloadProblem::PayloadType(96)) >= 1);
    eventually("the counters", || {
        let stats = &rig.running.stats().outputs[0];
        (stats.dropped == 10 && stats.packets == 10).then_some(())
    });
    assert_eq!(sink.within(Duration::from_millis(50)), None);
    rig.stop();
}

#[test]
fn udp_source_keeps_to_its_sender_while_it_lives() {
    let sent = &datagrams()[..20];
    let sink = Sink::new();
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![udp_out(&sink)]);
    let first = Sender::to(&rig.input());
    let second = Sender::to(&rig.input());
    first.send(&sent[0]);
    assert!(sink.next() == sent[0]);
    for datagram in &sent[1..] {
        first.send(datagram);
        second.send(&[0x47; 188]);
        assert!(sink.next() == *datagram);
    }
    let peer = second.socket.local_addr().unwrap();
    let refused = rig.event(|event| match event {
        Event::PeerRefused { peer, reason, .. } => Some((peer, reason)),
        _ => None,
    });
    assert_eq!(refused, (peer, RefusalReason::InUse));
    // Once it is silent, the second takes its place.
    eventually("the second sender", || {
        second.send(&sent[3]);
        (sink.within(Duration::from_millis(20))? == sent[3]).then_some(())
    });
    rig.stop();
}

#[test]
fn udp_source_reports_each_reason_of_refusals_with_its_count() {
    let sent = &datagrams()[..20];
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0").allow("127.0.0.1".parse().unwrap()), vec![]);
    let first = Sender::to(&rig.input());
    let second = Sender::to(&rig.input());
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    for _ in 0..3 {
        first.send(&sent[0]);
        second.send(&sent[0]);
        for _ in 0..2 {
            stranger.send_to(&sent[0], ("127.0.0.1", rig.input_port())).unwrap();
        }
    }
    // Nothing arrives any more: what was held back is reported all the same.
    let wanted = [(RefusalReason::InUse, 3), (RefusalReason::NotAllowed, 6)];
    let mut told = wanted.map(|(reason, _)| (reason, 0));
    while told != wanted {
        let (reason, count) = rig.event(|event| match event {
            Event::PeerRefused { reason, count, .. } => Some((reason, count)),
            _ => None,
        });
        told.iter_mut().find(|(known, _)| *known == reason).expect("a reason of these").1 += count;
    }
    let refusals: Vec<_> = rig.running.stats().sources[0].refusals.iter().map(|r| (r.reason, r.count)).collect();
    assert_eq!(refusals, wanted);
    rig.stop();
}

#[test]
fn udp_source_is_lost_after_silence_and_heeds_its_allowlist() {
    let sent = &datagrams()[..20];
    let source =
        Source::udp("in", "127.0.0.1:0").idle_timeout(Duration::from_secs(1)).allow("127.0.0.1".parse().unwrap());
    let rig = Rig::start(source, vec![]);
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.send_to(&sent[0], ("127.0.0.1", rig.input_port())).unwrap();
    rig.event(|event| matches!(event, Event::PeerRefused { reason: RefusalReason::NotAllowed, .. }).then_some(()));
    send_all(&Sender::to(&rig.input()), sent);
    rig.event(|event| matches!(event, Event::SourceConnected { .. }).then_some(()));
    rig.event(|event| matches!(event, Event::SourceLost { reason: LossReason::Idle, .. }).then_some(()));
    assert_eq!(rig.running.stats().sources[0].refused, 1);
    rig.stop();
}

#[test]
fn udp_flow_fails_over_between_udp_and_rtp() {
    let sent = datagrams();
    let sink = Sink::new();
    let sources = vec![Source::udp("main", "127.0.0.1:0").into(), Source::rtp("spare", "127.0.0.1:0").into()];
    let failover = Failover::default().loss_threshold(Duration::from_millis(200));
    let rig = Rig::start_with(sources, failover, vec![udp_out(&sink)]);
    let inputs = rig.running.input_addresses();
    let main = Sender::to(&inputs[0]);
    let spare = Sender::to(&inputs[1]);
    for (i, datagram) in (0u16..).zip(&sent[..100]) {
        main.send(datagram);
        spare.send(&packet(33, i, 0, 7, datagram));
        std::thread::sleep(Duration::from_millis(2)); // the pace of a stream
    }
    let before = sink.drain(Duration::from_millis(10));
    assert!(before[..] == sent[..before.len()]);
    let mut number = 100u16;
    let switched = eventually("the switch", || {
        spare.send(&packet(33, number, 0, 7, &sent[usize::from(number) % sent.len()]));
        number += 1;
        sink.within(Duration::from_millis(2))
    });
    assert_eq!(switched.len() % 188, 0);
    rig.event(|event| matches!(event, Event::Switched { to, .. } if to == "spare").then_some(()));
    rig.stop();
}

/// Datagrams with clock references that are `step` units of 90 kHz apart, `per` datagrams each.
fn clocked(count: usize, per: usize, step: u64) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for i in 0..count {
        let mut datagram = Vec::new();
        for at in 0..7u8 {
            let mut packet = vec![0x47, 0x41, 0, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, i as u8, at];
            if at == 0 && i.is_multiple_of(per) {
                let clock = (i / per) as u64 * step;
                packet = vec![0x47, 0x41, 0, 0x30, 7, 0x10];
                packet.extend(((clock >> 1) as u32).to_be_bytes());
                packet.extend([(clock as u8 & 1) << 7, 0, 0, 0, 1, 0xe0]);
            }
            packet.resize(188, 0xff);
            datagram.extend(packet);
        }
        all.push(datagram);
    }
    all
}

#[test]
fn paced_output_sends_bursts_at_the_times_of_their_clock() {
    let sent = clocked(400, 20, 3600); // 20 datagrams in 40 ms, one each 2 ms
    let plain = Sink::new();
    let wrapped = Sink::new();
    let outputs = vec![
        Output::udp("plain", &plain.address()).pace(Pace::Pcr).into(),
        Output::from_url("wrapped", &format!("rtp://{}?pace=pcr&ssrc=5", wrapped.address())),
    ];
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), outputs);
    let url = rig.input();
    let sender = std::thread::spawn({
        let sent = sent.clone();
        move || {
            let sender = Sender::to(&url);
            let start = Instant::now();
            for (i, burst) in (0u32..).zip(sent.chunks(20)) {
                let due = start + Duration::from_millis(40) * i;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                for datagram in burst {
                    sender.send(datagram);
                }
            }
        }
    });
    let times: Vec<Instant> = (0..380)
        .map(|i| {
            assert!(plain.next() == sent[i], "datagram {i}");
            Instant::now()
        })
        .collect();
    sender.join().unwrap();
    // Late on a busy machine, never early: no more of them within a time than its clock allows, and some for the delays.
    let bursts = times.windows(20).filter(|w| w[19] - w[0] < Duration::from_millis(20)).count();
    assert!(bursts < 40, "{bursts} bursts");
    let length = times[379] - times[0];
    assert!(length >= Duration::from_millis(740), "{length:?}");
    let got = wrapped.take(380);
    assert!(got.iter().zip(&sent).all(|(packet, datagram)| packet[12..] == datagram[..] && ssrc(packet) == 5));
    assert!(got.windows(2).all(|pair| sequence(&pair[1]) == sequence(&pair[0]).wrapping_add(1)));
    // The end of the stream follows without another reference.
    assert_eq!(plain.take(20).len() + wrapped.take(20).len(), 40);
    let stats = rig.running.stats();
    assert!(stats.outputs.iter().all(|output| (output.packets, output.dropped) == (400, 0)), "{stats:?}");
    rig.stop();
}
