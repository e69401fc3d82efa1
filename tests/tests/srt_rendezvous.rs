//! SRT rendezvous: with libsrt's program in both directions and both orders of start, and between two flows.

use std::{
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Event, KeyLength, Latency, Output, Packet, Passphrase, Source};
use streamlink_tests::{
    eventually,
    peer::Peer,
    rig::{Recording, Rig, free_port, text},
};

/// Size of a datagram in bytes.
const DATAGRAM: usize = 1316;
/// First number that is judged.
const FIRST: u32 = 1_000_000;
/// libsrt's program takes a passphrase as it is written.
const SECRET: &str = "correct-horse";

/// Returns a datagram with a number, which is no MPEG-TS, of which not every packet is media.
fn datagram(number: u32) -> Vec<u8> {
    let mut datagram = vec![0x11; DATAGRAM];
    datagram[4..8].copy_from_slice(&number.to_be_bytes());
    datagram
}

fn feed(source: &AppSource, count: u32) {
    for number in 0..count {
        source.push(Packet::datagram(datagram(number), Instant::now())).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the numbers of recorded datagrams.
fn numbers(recorded: &[u8]) -> Vec<u32> {
    let number = |datagram: &[u8]| u32::from_be_bytes(datagram[4..8].try_into().unwrap());
    recorded.chunks_exact(DATAGRAM).map(number).collect()
}

/// Checks that numbered datagrams follow each other without a gap. Returns their count.
fn check(recorded: &[u8]) -> usize {
    let numbers = numbers(recorded);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    numbers.len()
}

/// URL of libsrt's program, which calls our port from its own.
fn url_of_theirs(ours: u16, theirs: u16, is_encrypted: bool) -> String {
    let secret = if is_encrypted { "&passphrase=correct-horse&pbkeylen=32" } else { "" };
    format!("srt://127.0.0.1:{ours}?mode=rendezvous&port={theirs}&latency=300{secret}")
}

/// URL of ours.
fn url_of_ours(ours: u16, theirs: u16, is_encrypted: bool) -> String {
    let secret = if is_encrypted { "&passphrase=correct-horse&pbkeylen=16" } else { "" };
    format!("srt://127.0.0.1:{theirs}?mode=rendezvous&local_port={ours}&latency=300{secret}")
}

fn receive_from_libsrt(is_encrypted: bool, ours_is_first: bool) {
    let ours = free_port();
    let theirs = free_port();
    let input = free_port();
    let start_theirs = || {
        let peer = Peer::sends_srt(input, &url_of_theirs(ours, theirs, is_encrypted));
        peer.wait_for_udp(theirs);
        peer
    };
    let start_ours = || {
        let source = Source::from_url("in", &url_of_ours(ours, theirs, is_encrypted));
        Rig::start(source, vec![Output::tap("tap").into()])
    };
    let (receiver, peer) = if ours_is_first {
        let receiver = start_ours();
        std::thread::sleep(Duration::from_millis(700)); // some packets meet a closed port
        (receiver, start_theirs())
    } else {
        let peer = start_theirs();
        (start_ours(), peer)
    };
    let tap = Recording::start(&receiver);
    peer.wait_for_udp(input);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |number| socket.send_to(&datagram(number), ("127.0.0.1", input)).unwrap();
    // What it is given before it has connected is lost in part.
    eventually("a connection", || {
        send(0);
        (receiver.running.stats().sources[0].packets > 0).then_some(())
    });
    for number in FIRST..FIRST + 1500 {
        send(number);
        std::thread::sleep(Duration::from_millis(1));
    }
    eventually("what libsrt sends", || (receiver.running.stats().sources[0].packets >= 1000).then_some(()));
    let stats = receiver.running.stats().sources[0].clone();
    assert_eq!((stats.lost, stats.encrypted), (0, is_encrypted), "{stats:?}");
    drop(peer);
    // On a busy machine the program loses some of the datagrams that it is fed with.
    let recorded = tap.finish(&receiver);
    let numbers = numbers(&recorded).into_iter().filter(|number| *number >= FIRST);
    assert!(numbers.count() >= 1000, "{stats:?}");
    receiver.stop();
}

fn send_to_libsrt(is_encrypted: bool, ours_is_first: bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let ours = free_port();
    let theirs = free_port();
    let start_theirs = || {
        let url = url_of_theirs(ours, theirs, is_encrypted);
        let command = format!("exec srt-live-transmit -q '{url}' file://con >'{}'", text(&file));
        let peer = Peer::start("sh", &["-c", &command]);
        peer.wait_for_udp(theirs);
        peer
    };
    let start_ours = || {
        let output = Output::from_url("out", &url_of_ours(ours, theirs, is_encrypted));
        Rig::start(Source::app_datagrams("app"), vec![output])
    };
    let (sender, peer) = if ours_is_first {
        let sender = start_ours();
        std::thread::sleep(Duration::from_millis(700)); // some packets meet a closed port
        (sender, start_theirs())
    } else {
        let peer = start_theirs();
        (start_ours(), peer)
    };
    sender.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    feed(&sender.running.app_source("app").unwrap(), 1500);
    // The last few datagrams stay in the buffer of its standard output.
    eventually("what libsrt has written", || {
        (fs::metadata(&file).unwrap().len() >= 1496 * DATAGRAM as u64).then_some(())
    });
    assert!(check(&fs::read(&file).unwrap()) >= 1496);
    sender.stop();
    drop(peer);
}

#[test]
fn srt_rendezvous_receives_from_libsrt() {
    for (is_encrypted, ours_is_first) in [(false, true), (false, false), (true, true), (true, false)] {
        receive_from_libsrt(is_encrypted, ours_is_first);
    }
}

#[test]
fn srt_rendezvous_sends_to_libsrt() {
    for (is_encrypted, ours_is_first) in [(false, true), (false, false), (true, true), (true, false)] {
        send_to_libsrt(is_encrypted, ours_is_first);
    }
}

#[test]
fn srt_rendezvous_between_two_flows_survives_the_restart_of_one() {
    let a = free_port();
    let b = free_port();
    let latency = Latency::from_millis(200).unwrap();
    let source = || {
        Source::srt_caller("in", &format!("127.0.0.1:{b}"))
            .rendezvous()
            .bind(format!(":{a}"))
            .latency(latency)
            .encryption(Passphrase::new(SECRET).unwrap(), KeyLength::Aes256)
    };
    let output = Output::srt_caller("out", &format!("127.0.0.1:{a}"))
        .rendezvous()
        .bind(format!(":{b}"))
        .latency(latency)
        .peer_idle_timeout(Duration::from_millis(3000))
        .encryption(Passphrase::new(SECRET).unwrap(), KeyLength::Aes256);
    let sender = Rig::start(Source::app_datagrams("app"), vec![output.into()]);
    for _ in 0..2 {
        let receiver = Rig::start(source(), vec![Output::tap("tap").into()]);
        let tap = Recording::start(&receiver);
        sender.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        feed(&sender.running.app_source("app").unwrap(), 500);
        eventually("everything", || (receiver.running.stats().sources[0].packets >= 499).then_some(()));
        let recorded: Vec<u8> = tap.packets().iter().flat_map(|packet| packet.data().to_vec()).collect();
        assert!(check(&recorded) >= 499);
        receiver.stop();
        sender.event(|e| matches!(e, Event::OutputLost { .. }).then_some(()));
    }
    sender.stop();
}

#[test]
fn srt_rendezvous_tells_of_a_wrong_passphrase() {
    let a = free_port();
    let b = free_port();
    let caller = |remote: u16, local: u16, secret: &str| {
        Source::srt_caller("in", &format!("127.0.0.1:{remote}"))
            .rendezvous()
            .bind(format!(":{local}"))
            .encryption(Passphrase::new(secret).unwrap(), KeyLength::Aes128)
    };
    let one = Rig::start(caller(b, a, SECRET), vec![]);
    let other = Rig::start(caller(a, b, "battery staple"), vec![]);
    for rig in [&one, &other] {
        let reason = rig.event(|e| match e {
            Event::SourceRetrying { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        assert!(reason.contains("(BADSECRET, code 10)"), "{reason}");
    }
    one.stop();
    other.stop();
}
