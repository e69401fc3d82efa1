//! RIST simple profile (VSF TR-06-1) over sockets that lose packets: between flows, and with librist's programs.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use streamlink_core::{Event, Failover, FailoverPolicy, Output, RefusalReason, Source, State};
use streamlink_tests::{
    clip, eventually,
    peer::Peer,
    rig::{Rig, even_port, free_port},
    rtp::{Sender, Sink, packet},
    test_rng::TestRng,
};

/// A network to a receiver that loses packets in both directions, with a seed, and delays them by ten milliseconds.
struct Network {
    port: u16,
    /// Number of packets of the media lost, and of those sent again.
    counts: Arc<Mutex<(u64, u64)>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn to(target: u16, percent: u64) -> Self {
        let port = even_port();
        let front = [0, 1].map(|more| UdpSocket::bind(("127.0.0.1", port + more)).unwrap());
        // RTP and RTCP leave from a port of their own each.
        let back = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for socket in front.iter().chain(&back) {
            socket.set_nonblocking(true).unwrap();
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).unwrap();
        }
        let (counts, stop) = <(Arc<Mutex<(u64, u64)>>, Arc<AtomicBool>)>::default();
        let thread = std::thread::spawn({
            let counts = counts.clone();
            let stop = stop.clone();
            move || {
                let mut rng = TestRng(0x5eed);
                let mut clients: [Option<SocketAddr>; 2] = [None; 2];
                let mut queue = std::collections::VecDeque::new();
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    for kind in [0, 1] {
                        for (socket, forward) in [(&front[kind], true), (&back[kind], false)] {
                            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                                if forward {
                                    clients[kind] = Some(from);
                                }
                                let is_lost = rng.next_u64() % 100 < percent;
                                if forward && kind == 0 {
                                    let mut counts = counts.lock().unwrap();
                                    counts.0 += u64::from(is_lost);
                                    counts.1 += u64::from(buffer[11] & 1);
                                }
                                if !is_lost {
                                    let at = Instant::now() + Duration::from_millis(10);
                                    queue.push_back((at, kind, forward, buffer[..length].to_vec()));
                                }
                            }
                        }
                    }
                    while queue.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
                        let Some((_, kind, forward, bytes)) = queue.pop_front() else { break };
                        let _ = match (forward, clients[kind]) {
                            (true, _) => back[kind].send_to(&bytes, ("127.0.0.1", target + kind as u16)),
                            (false, Some(client)) => front[kind].send_to(&bytes, client),
                            _ => Ok(0),
                        };
                    }
                    std::thread::sleep(Duration::from_micros(500)); // a turn of the network, not a wait
                }
            }
        });
        Self { port, counts, stop, thread: Some(thread) }
    }

    fn counts(&self) -> (u64, u64) {
        *self.counts.lock().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The clip in datagrams of seven transport packets.
fn datagrams() -> Vec<Vec<u8>> {
    fs::read(clip()).unwrap().chunks(1316).map(<[u8]>::to_vec).collect()
}

/// Sends the clip at its own pace.
fn send_clip(sender: &Sender) {
    for datagram in datagrams() {
        sender.send(&datagram);
        std::thread::sleep(Duration::from_millis(8)); // the pace of the clip
    }
}

/// Asserts that the clip arrived, from its first datagram on. Its end may be lost: nothing follows that would tell.
fn check(received: &[Vec<u8>]) {
    let sent = datagrams();
    assert!(received.len() + 5 >= sent.len(), "{} of {} datagrams", received.len(), sent.len());
    for (at, (received, sent)) in received.iter().zip(&sent).enumerate() {
        assert!(received == sent, "datagram {at} of {}", sent.len());
    }
}

#[test]
fn rist_recovers_lost_packets_between_flows() {
    let sink = Sink::new();
    let receiving = Rig::start(Source::rist("in", "127.0.0.1:0"), vec![Output::udp("out", &sink.address()).into()]);
    assert!(receiving.input().starts_with("rist://") && receiving.input_port().is_multiple_of(2));
    let network = Network::to(receiving.input_port(), 10);
    let output = Output::rist("out", &format!("127.0.0.1:{}", network.port));
    let sending = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
    assert_eq!(sending.running.stats().outputs[0].state, State::Waiting, "nobody has answered");
    let url = sending.input();
    let sender = std::thread::spawn(move || send_clip(&Sender::to(&url)));
    let received: Vec<Vec<u8>> = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect();
    sender.join().unwrap();
    check(&received);
    let source = receiving.running.stats().sources[0].clone();
    let output = sending.running.stats().outputs[0].clone();
    let (lost, again) = network.counts();
    assert!(lost > 20 && source.lost <= 1, "{lost} {source:?}");
    assert_eq!(output.retransmitted, again);
    assert!(source.retransmitted > 10 && source.retransmitted <= again, "{source:?}");
    assert!(again <= lost * 2, "{again} retransmissions of {lost} losses");
    assert_eq!((source.protocol, output.protocol), ("RIST", "RIST"));
    let trip = Duration::from_millis(15)..Duration::from_millis(300);
    assert!(trip.contains(&source.round_trip) && trip.contains(&output.round_trip), "{source:?} {output:?}");
    assert_eq!(source.latency, Duration::from_secs(1));
    sending.event(|event| matches!(event, Event::OutputConnected { .. }).then_some(()));
    // The receiver goes, which the sender notices.
    receiving.stop();
    sending.event(|event| matches!(event, Event::OutputLost { .. }).then_some(()));
    assert_eq!(sending.running.stats().outputs[0].state, State::Waiting);
    sending.stop();
}

/// Two paths of one stream are merged as SMPTE ST 2022-7 has it: either may lose what the other brings.
#[test]
fn rist_paths_are_merged() {
    let sink = Sink::new();
    let receiving = Rig::start_with(
        vec![Source::rist("a", "127.0.0.1:0").into(), Source::rist("b", "127.0.0.1:0").into()],
        Failover::new(FailoverPolicy::Merge(Duration::from_millis(500))),
        vec![Output::udp("out", &sink.address()).into()],
    );
    let networks: Vec<Network> = receiving
        .running
        .input_addresses()
        .iter()
        .map(|url| Network::to(url.rsplit_once(':').unwrap().1.parse().unwrap(), 20))
        .collect();
    let output = |i: usize| Output::rist(format!("path {i}"), &format!("127.0.0.1:{}", networks[i].port)).into();
    let sending = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output(0), output(1)]);
    let url = sending.input();
    let sender = std::thread::spawn(move || send_clip(&Sender::to(&url)));
    let received: Vec<Vec<u8>> = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect();
    sender.join().unwrap();
    check(&received);
    let stats = receiving.running.stats();
    assert!(stats.sources.iter().all(|source| source.packets > 400), "{stats:?}");
    sending.stop();
    receiving.stop();
}

#[test]
fn rist_is_received_from_ristsender() {
    let sink = Sink::new();
    let receiving = Rig::start(Source::rist("in", "127.0.0.1:0"), vec![Output::udp("out", &sink.address()).into()]);
    let network = Network::to(receiving.input_port(), 5);
    let port = free_port();
    let input = format!("udp://@127.0.0.1:{port}");
    let output = format!("rist://127.0.0.1:{}", network.port);
    let peer = Peer::start("ristsender", &["-p", "0", "-i", &input, "-o", &output]);
    peer.wait_for_udp(port);
    let sender = std::thread::spawn(move || send_clip(&Sender::to(&format!("udp://127.0.0.1:{port}"))));
    let received: Vec<Vec<u8>> = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect();
    sender.join().unwrap();
    assert!(!received.is_empty(), "{}", peer.output());
    check(&received);
    let source = receiving.running.stats().sources[0].clone();
    assert!(network.counts().0 > 10 && source.retransmitted > 5 && source.lost <= 1, "{source:?}\n{}", peer.output());
    assert!(source.round_trip > Duration::ZERO, "{source:?}");
    receiving.stop();
}

#[test]
fn rist_is_received_by_ristreceiver() {
    let target = even_port();
    let sink = Sink::new();
    let input = format!("rist://@127.0.0.1:{target}");
    let output = format!("udp://{}", sink.address());
    let peer = Peer::start("ristreceiver", &["-p", "0", "-i", &input, "-o", &output]);
    peer.wait_for_udp(target);
    let network = Network::to(target, 5);
    let output = Output::rist("out", &format!("127.0.0.1:{}", network.port));
    let sending = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
    // librist admits a sender once it has heard its reports.
    eventually(&format!("the reports of ristreceiver: {}", peer.output()), || {
        (sending.running.stats().outputs[0].state == State::Connected).then_some(())
    });
    let url = sending.input();
    let sender = std::thread::spawn(move || send_clip(&Sender::to(&url)));
    let received: Vec<Vec<u8>> = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect();
    sender.join().unwrap();
    // librist holds the first packets back until it knows the sender, and may not ask for what is lost just before the end.
    let received: Vec<Vec<u8>> = received.concat().chunks(1316).map(<[u8]>::to_vec).collect();
    let sent = datagrams();
    let begin = sent.iter().position(|datagram| *datagram == received[0]).expect("a datagram of the clip");
    assert!(received.len() > 463 && begin < 30, "{} from {begin} on\n{}", received.len(), peer.output());
    for (at, (received, sent)) in received.iter().zip(&sent[begin..sent.len() - 60]).enumerate() {
        assert!(received == sent, "datagram {at} behind {begin}\n{}", peer.output());
    }
    let stats = sending.running.stats().outputs[0].clone();
    assert!(network.counts().0 > 10 && stats.retransmitted > 5, "{stats:?}\n{}", peer.output());
    sending.stop();
}

#[test]
fn rist_source_tells_once_of_another_profile() {
    let rig = Rig::start(Source::rist("in", "127.0.0.1:0"), vec![]);
    let mut events = rig.running.events();
    let sender = Sender::to(&rig.input());
    // GRE headers of librist: a keep-alive packet, media with a sequence number, and encrypted media with a key beside it.
    let media = packet(33, 7, 7, 7, &[0x47; 1316]);
    let media = [&[0x10, 0, 0x88, 0xb6, 0, 0, 0, 7, 0x07, 0xb2, 0x07, 0xb3][..], &media[..]].concat();
    let encrypted = [&[0x30, 0x48, 0x88, 0xb6, 9, 8, 7, 6, 0, 0, 0, 8][..], &[0x5a; 1328][..]].concat();
    for datagram in [&[0, 0, 0x88, 0xb5, 1, 2, 3, 4][..], &media, &encrypted].repeat(10) {
        sender.send(datagram);
    }
    eventually("refused datagrams", || (rig.running.stats().sources[0].refused == 30).then_some(()));
    let source = rig.running.stats().sources[0].clone();
    assert_eq!((source.state, source.packets, source.malformed), (State::Waiting, 0, 0));
    let error = source.last_error.unwrap();
    assert_eq!(error.kind, "refused_rist_profile");
    assert!(error.text.contains("simple profile"), "{error:?}");
    rig.engine.block_on(rig.running.stop());
    let mut told = 0;
    while let Some(event) = rig.engine.block_on(events.next()) {
        told += u64::from(matches!(event, Event::PeerRefused { reason: RefusalReason::RistProfile, .. }));
    }
    assert_eq!(told, 1);
}
