//! Whatever comes to an RTP port: it is counted, nobody else is hurt, and memory stays bounded.

use std::time::{Duration, Instant};
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Source};
use streamlink_tests::{
    eventually,
    peer::{self, Peer},
    rtp::{Sender, Sink, packet, payload, sequence},
};

/// Pseudo-random numbers with a seed, so that a failure can be repeated (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn start(engine: &Engine, sink: &Sink) -> FlowHandle {
    let flow = Flow::builder("f", Bitrate::mbps(500))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &sink.address()))
        .build()
        .unwrap();
    engine.block_on(engine.start(flow)).unwrap()
}

#[test]
fn garbage_is_counted_and_the_stream_goes_on() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let sink = Sink::new();
    let running = start(&engine, &sink);
    let (sender, attacker) = (Sender::to(&running.input_addresses()[0]), Sender::to(&running.input_addresses()[0]));
    let mut random = Random(0x5eed);
    let (mut malformed, mut foreign) = (0, 0);
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
                attacker.send(&whole[..random.next() as usize % 12]);
                malformed += 1;
            }
            1 => {
                // Not version 2.
                let mut bytes: Vec<u8> = (0..random.next() % 1400).map(|_| random.next() as u8).collect();
                bytes.insert(0, 0x3f);
                attacker.send(&bytes);
                malformed += 1;
            }
            2 => {
                // An extension or CSRCs that reach beyond the end; padding longer than the packet.
                let mut bytes = packet(96, i, 0, 7, &[0, 0, 0xff, 0xff]);
                bytes[0] |= [0x10, 0x0f, 0x20][random.next() as usize % 3];
                attacker.send(&bytes);
                malformed += 1;
            }
            3 => {
                // Well made, but of another stream.
                attacker.send(&packet(96, random.next() as u16, 0, random.next() as u32 | 0x8000_0000, &payload(i)));
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
fn a_flood_leaves_memory_bounded_and_other_flows_alone() {
    let (sink, calm_sink) = (Sink::new(), Sink::new());
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
    relay.wait_for("input address: rtp://");
    let address = relay.output().split("rtp://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let engine = Engine::builder().workers(2).build().unwrap();
    let calm = start(&engine, &calm_sink);
    let calm_sender = Sender::to(&calm.input_addresses()[0]);

    Sender::to(&address).stream(0..100);
    let before = memory(&relay);
    let end = Instant::now() + Duration::from_secs(5);
    let floods: Vec<_> = (0..3u64)
        .map(|seed| {
            let (address, mut random) = (address.clone(), Random(seed + 1));
            std::thread::spawn(move || {
                let sender = Sender::to(&address);
                while Instant::now() < end {
                    let (a, b) = (random.next(), random.next());
                    let size = [0, 20, 1316, 1400, 9000, 60_000][a as usize % 6];
                    // Sequence numbers all over the place, a few SSRCs, any flags.
                    let mut bytes =
                        packet(b as u8, (a >> 8) as u16, b as u32, (a >> 32) as u32 % 3, &vec![a as u8; size]);
                    if a % 4 == 0 {
                        bytes[0] = (b >> 32) as u8;
                    }
                    bytes.truncate(65_000);
                    let _ = sender.socket.send_to(&bytes, &address); // a full socket is the point of it
                }
            })
        })
        .collect();
    let (mut most, mut sent) = (0, 0u16);
    let mut got: Vec<u16> = Vec::new();
    while Instant::now() < end {
        calm_sender.stream(sent..sent + 20);
        sent += 20;
        got.extend(calm_sink.take(20).iter().map(|p| sequence(p)));
        most = most.max(memory(&relay));
        std::thread::sleep(Duration::from_millis(20));
    }
    floods.into_iter().for_each(|f| f.join().unwrap());
    // A second of 20 Mb/s in the ring, a window of held packets, and the receiver's lanes.
    assert!(most < before + 64 * 1024, "{before} KiB before, {most} KiB at most");
    assert_eq!(got, (0..sent).collect::<Vec<u16>>(), "the calm flow lost nothing");

    // The port is as good as before: a new stream gets through.
    sink.drain(Duration::from_millis(300));
    let sender = Sender::to(&address);
    let mut next = 0u16;
    eventually("the new stream", || {
        next += 10;
        (next - 10..next).for_each(|i| sender.send(&packet(96, i, 0, 0xabcd, &payload(i))));
        sink.within(Duration::from_millis(200)).filter(|p| streamlink_tests::rtp::ssrc(p) == 0xabcd)
    });
    relay.tell("quit");
    assert!(relay.finish().success());
    engine.block_on(calm.stop());
}
