//! The cost of SRT's retransmissions beside libsrt's, over the same loss on a real network path.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use streamlink_core::{Latency, Output, Packet, Source};
use streamlink_tests::{
    lossy::{Lossy, SeededLoss},
    peer::Peer,
    rig::{Rig, free_port, text},
    test_rng::TestRng,
};

/// Size of a datagram in bytes.
const DATAGRAM: usize = 1316;
/// Number of datagrams that each sender sends, and their interval: 10.5 Mb/s.
const DATAGRAMS: u32 = 5000;
const INTERVAL: Duration = Duration::from_millis(1);

/// Path of a sender: round-trip time in milliseconds, loss in percent, and latency in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Path {
    round_trip: u64,
    loss: u64,
    /// Length of the bursts in which packets are lost.
    burst: u32,
    /// Time in milliseconds by which packets overtake each other.
    reordering: u64,
    latency: u16,
}

impl Path {
    const fn new(round_trip: u64, loss: u64, latency: u16) -> Self {
        Self { round_trip, loss, burst: 1, reordering: 0, latency }
    }
}

/// Cost of a transfer.
#[derive(Debug)]
struct Cost {
    /// Packets that were sent, each counted once.
    sent: u64,
    /// Packets that were sent again.
    repeats: u64,
    /// Packets that the network has lost, repeats as well.
    lost: u64,
    /// Packets that the receiver has written.
    written: u64,
}

/// Sends numbered datagrams at equal intervals.
fn feed(mut send: impl FnMut(Vec<u8>)) {
    let start = Instant::now();
    for i in 0..DATAGRAMS {
        let due = start + INTERVAL * i;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut datagram = vec![0x47; DATAGRAM];
        datagram[..4].copy_from_slice(&i.to_be_bytes());
        send(datagram);
    }
}

/// Runs a transfer to srt-live-transmit over a path. `send` gets the address to call, and sends all datagrams.
fn transfer(path: Path, send: impl FnOnce(SocketAddr)) -> Cost {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let port = free_port();
    let command = format!(
        "exec srt-live-transmit -q -loglevel:fatal 'srt://127.0.0.1:{port}?mode=listener&latency={}' file://con >'{}'",
        path.latency,
        text(&file)
    );
    let mut receiver = Peer::start("sh", &["-c", &command]);
    receiver.wait_for_udp(port);
    let loss = Arc::new(Mutex::new(SeededLoss::in_bursts(path.loss, path.burst)));
    let seen = loss.clone();
    let delay = Duration::from_millis(path.round_trip / 2);
    let mut dice = TestRng(0x5eed);
    let network = Lossy::delaying(SocketAddr::from(([127, 0, 0, 1], port)), move |_, datagram| {
        let extra = if path.reordering > 0 { dice.next_u64() % (path.reordering * 1000) } else { 0 };
        seen.lock().unwrap().passes(datagram).then(|| delay + Duration::from_micros(extra))
    });
    send(network.address);
    // What is late is given up after the latency; the file is complete then.
    let mut last = (0, Instant::now());
    let settled = Duration::from_millis(u64::from(path.latency) + 500);
    while last.1.elapsed() < settled {
        let length = fs::metadata(&file).unwrap().len();
        if length != last.0 {
            last = (length, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    network.finish();
    // It writes what is left in its buffer when it ends.
    receiver.signal(2);
    receiver.finish();
    let written = fs::metadata(&file).unwrap().len() / DATAGRAM as u64;
    let (sent, repeats, lost) = loss.lock().unwrap().counts();
    Cost { sent, repeats, lost, written }
}

fn cost_of_ours(path: Path) -> Cost {
    let mut rig = None;
    let cost = transfer(path, |address| {
        let latency = Latency::from_millis(path.latency).unwrap();
        let output = Output::srt_caller("out", &address.to_string()).latency(latency);
        let running = Rig::start(Source::app_datagrams("in"), vec![output.into()]);
        running.event(|e| matches!(e, streamlink_core::Event::OutputConnected { .. }).then_some(()));
        let source = running.running.app_source("in").unwrap();
        feed(|datagram| source.push(Packet::datagram(datagram, Instant::now())).unwrap());
        rig = Some(running);
    });
    if let Some(rig) = rig {
        rig.stop();
    }
    cost
}

fn cost_of_libsrt(path: Path) -> Cost {
    let mut sender = None;
    let cost = transfer(path, |address| {
        let port = free_port();
        let to = format!("srt://{address}?mode=caller&latency={}", path.latency);
        let peer = Peer::sends_srt(port, &to);
        peer.wait_for_udp(port);
        // It opens its UDP port after it has connected.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        feed(|datagram| {
            socket.send_to(&datagram, ("127.0.0.1", port)).unwrap();
        });
        sender = Some(peer);
    });
    drop(sender);
    cost
}

/// Runs both senders at the same time over the same path. Returns the problem if ours costs more, or loses more.
fn compare(path: Path) -> Option<String> {
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| cost_of_ours(path));
        let theirs = cost_of_libsrt(path);
        (ours.join().unwrap(), theirs)
    });
    println!("{path:?}: ours {ours:?}, libsrt's {theirs:?}");
    assert_eq!(ours.sent, u64::from(DATAGRAMS));
    // On a busy machine libsrt's program loses some of the datagrams that it is fed with.
    assert!(theirs.sent > u64::from(DATAGRAMS) / 2, "{theirs:?}");
    // For as many lost packets: what libsrt's program has lost before it sent anything was never on the path, and with it
    // some of the bursts.
    let scale = ours.lost as f64 / theirs.lost.max(1) as f64;
    let allowed = theirs.repeats as f64 * scale * 1.15 + ours.sent as f64 * 0.002;
    let missing = |cost: &Cost| cost.sent.saturating_sub(cost.written);
    let is_as_good = ours.repeats as f64 <= allowed && missing(&ours) <= missing(&theirs) + 2;
    (!is_as_good).then(|| format!("{path:?}: ours {ours:?}, libsrt's {theirs:?}"))
}

#[test]
fn srt_retransmissions_cost_at_most_what_libsrt_spends() {
    let reordering = Path { reordering: 50, ..Path::new(80, 2, 600) };
    for path in [Path::new(10, 5, 240), Path::new(80, 10, 800), reordering] {
        assert_eq!(compare(path), None);
    }
}

/// Prints the comparison for every round trip and loss. Run by hand, as it takes minutes.
#[test]
#[ignore = "takes minutes; the two points of the other test are enough for every run"]
fn srt_retransmission_table_beside_libsrt() {
    let mut worse = Vec::new();
    for (round_trip, latencies) in
        [(10, [240; 5]), (80, [400, 400, 800, 800, 1200]), (300, [1200, 1200, 2400, 2400, 3600])]
    {
        for (loss, latency) in [1, 2, 5, 10, 20].into_iter().zip(latencies) {
            worse.extend(compare(Path::new(round_trip, loss, latency)));
        }
        worse.extend(compare(Path { burst: 20, ..Path::new(round_trip, 5, latencies[3]) }));
        worse.extend(compare(Path { reordering: 50, ..Path::new(round_trip, 2, latencies[3] + 400) }));
    }
    assert!(worse.is_empty(), "{worse:#?}");
}
