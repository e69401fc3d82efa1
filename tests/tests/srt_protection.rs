//! SRT's AES-GCM and packet filter on real sockets, with libsrt's program where it has them.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use streamlink_core::{
    CryptoMode, EndpointStats, Event, FilterArq, KeyLength, Latency, Output, Packet, PacketFilter, Passphrase, Source,
};
use streamlink_tests::{
    eventually,
    lossy::Lossy,
    peer::Peer,
    rig::{Recording, Rig, free_port, text},
};

/// Size of a datagram in bytes.
const DATAGRAM: usize = 1316;
const DATAGRAMS: u32 = 2000;

/// Sends numbered datagrams at equal intervals.
fn feed(mut send: impl FnMut(Vec<u8>)) {
    for number in 0..DATAGRAMS {
        let mut datagram = vec![0x11; DATAGRAM]; // no MPEG-TS, of which not every packet is media
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        send(datagram);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn feed_app(rig: &Rig) {
    let app = rig.running.app_source("app").unwrap();
    feed(|datagram| app.push(Packet::datagram(datagram, Instant::now())).unwrap());
}

fn latency() -> Latency {
    Latency::from_millis(500).unwrap()
}

fn source(rig: &Rig) -> EndpointStats {
    rig.running.stats().sources[0].clone()
}

fn passphrase() -> Passphrase {
    Passphrase::new("correct-horse").unwrap()
}

#[test]
fn srt_gcm_and_filter_carry_everything_between_both_roles() {
    let listener =
        Source::srt_listener("in", "127.0.0.1:0").latency(latency()).encryption(passphrase(), KeyLength::Aes128);
    let receiver = Rig::start(listener, vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    let network = Lossy::to(SocketAddr::from(([127, 0, 0, 1], receiver.input_port())), 2);
    let caller = Output::srt_caller("out", &network.address.to_string())
        .latency(latency())
        .encryption(passphrase(), KeyLength::Aes256)
        .crypto_mode(CryptoMode::AesGcm)
        .packet_filter(PacketFilter::new(8, 4).unwrap());
    let sender = Rig::start(Source::app_datagrams("app"), vec![caller.into()]);
    sender.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    feed_app(&sender);
    eventually("everything", || (source(&receiver).packets >= u64::from(DATAGRAMS)).then_some(()));
    std::thread::sleep(Duration::from_millis(1100)); // statistics are a second old
    let input = source(&receiver);
    let output = sender.running.stats().outputs[0].clone();
    assert_eq!((input.lost, input.undecrypted, input.encrypted), (0, 0, true), "{input:?}");
    assert!(input.rebuilt > 10 && input.repairs > 500, "{input:?}");
    assert!(output.repairs >= input.repairs && output.retransmitted * 4 < input.rebuilt, "{output:?} {input:?}");
    let recorded = tap.finish(&receiver);
    assert_eq!(recorded.len(), DATAGRAMS as usize * DATAGRAM);
    sender.stop();
    receiver.stop();
}

#[test]
fn srt_cipher_and_filter_that_differ_are_refused_with_the_reason() {
    let listener = Source::srt_listener("in", "127.0.0.1:0")
        .encryption(passphrase(), KeyLength::Aes128)
        .crypto_mode(CryptoMode::AesCtr)
        .packet_filter(PacketFilter::new(8, 4).unwrap());
    let receiver = Rig::start(listener, vec![]);
    let address = format!("127.0.0.1:{}", receiver.input_port());
    let caller = || Output::srt_caller("out", &address).encryption(passphrase(), KeyLength::Aes128);
    for (caller, code) in [
        (caller().crypto_mode(CryptoMode::AesGcm), "(CRYPTO, code 17)"),
        (caller().packet_filter(PacketFilter::new(9, 4).unwrap()), "(FILTER, code 14)"),
    ] {
        let sender = Rig::start(Source::app_datagrams("app"), vec![caller.into()]);
        let reason = sender.event(|e| match e {
            Event::OutputLost { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        assert!(reason.contains(code), "{reason}");
        receiver.event(|e| match e {
            Event::PeerRefused { detail, .. } if detail.contains(code) => Some(()),
            _ => None,
        });
        sender.stop();
    }
    receiver.stop();
}

#[test]
fn srt_filter_of_libsrt_repairs_what_arrives() {
    for filter in ["fec,cols:10,rows:5", "fec,cols:5,arq:never", "fec,cols:4,rows:-4,layout:even,arq:never"] {
        let receiver = Rig::start(Source::srt_listener("in", "127.0.0.1:0").latency(latency()), vec![]);
        let network = Lossy::to(SocketAddr::from(([127, 0, 0, 1], receiver.input_port())), 2);
        let port = free_port();
        let to = format!("srt://{}?mode=caller&latency=500&packetfilter={filter}", network.address);
        let caller = Peer::sends_srt(port, &to);
        caller.wait_for_udp(port);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        feed(|datagram| {
            socket.send_to(&datagram, ("127.0.0.1", port)).unwrap();
        });
        let mut last = 0;
        eventually("the end", || {
            std::thread::sleep(Duration::from_millis(1200));
            let now = source(&receiver).packets;
            (std::mem::replace(&mut last, now) == now && now > 0).then_some(())
        });
        let stats = source(&receiver);
        assert!(stats.packets > u64::from(DATAGRAMS) * 9 / 10, "{filter}: {stats:?}");
        assert!(stats.rebuilt > 10 && stats.repairs > 200 && stats.malformed == 0, "{filter}: {stats:?}");
        if filter.contains("never") {
            assert_eq!(stats.lost, stats.unrepaired, "{filter}: {stats:?}");
        } else {
            assert_eq!(stats.lost, 0, "{filter}: {stats:?}");
        }
        drop(caller);
        receiver.stop();
    }
}

#[test]
fn srt_filter_of_ours_is_repaired_by_libsrt() {
    let rows = PacketFilter::new(5, 1).unwrap().arq(FilterArq::Never);
    for filter in [PacketFilter::new(10, 5).unwrap(), rows] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("received");
        let port = free_port();
        let command = format!(
            "exec srt-live-transmit -q -loglevel:fatal 'srt://127.0.0.1:{port}?mode=listener&latency=500' file://con >'{}'",
            text(&file)
        );
        let receiver = Peer::start("sh", &["-c", &command]);
        receiver.wait_for_udp(port);
        let network = Lossy::to(SocketAddr::from(([127, 0, 0, 1], port)), 2);
        let caller = Output::srt_caller("out", &network.address.to_string()).latency(latency()).packet_filter(filter);
        let sender = Rig::start(Source::app_datagrams("app"), vec![caller.into()]);
        sender.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        feed_app(&sender);
        std::thread::sleep(Duration::from_millis(1500)); // the latency, and statistics that are a second old
        let stats = sender.running.stats().outputs[0].clone();
        let written = fs::metadata(&file).unwrap().len() / DATAGRAM as u64;
        let (_, lost) = network.finish();
        assert!(lost > 20, "the network lost {lost}");
        // Of rows alone, two lost packets in a row are not repaired. The last packets may wait in the program's buffer.
        let least = u64::from(DATAGRAMS) - if filter == rows { 25 } else { 10 };
        assert!(written >= least, "{filter}: {written} written, {stats:?}");
        assert!(stats.retransmitted * 4 < lost && stats.repairs > 300, "{filter}: {lost} lost, {stats:?}");
        sender.stop();
        drop(receiver);
    }
}
