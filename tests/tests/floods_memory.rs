//! Packets that wait, with much that does not wait between them: what is held costs about its own size.

use bytes::Bytes;
use std::{
    net::UdpSocket,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, Engine, Event, Flow, FlowHandle, Output, Packet, RtmpKind, Source, StreamKey};
use streamlink_tests::{
    eventually,
    rig::free_port,
    rtp::{Sender, Sink, packet},
};

/// Longer than anything that is kept: it takes the place of what would otherwise share memory with it.
const GARBAGE: usize = 60_000;
/// Between two datagrams, so that each is read by itself: what is read together does not lie in one piece of memory.
const APART: Duration = Duration::from_millis(2);
/// The memory that the lanes of a UDP port may take, in KiB (SECURITY.md), and as much again for all else.
const PORT_KIB: u64 = 20 << 10;

/// The memory of this process is looked at: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory of this process in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn run(engine: &Engine, flow: Flow) -> FlowHandle {
    engine.block_on(engine.start(flow)).unwrap()
}

const RATE: Bitrate = Bitrate::mbps(20);

/// The `host:port` of a URL.
fn authority(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    rest.split(['/', '?']).next().unwrap().to_owned()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// An SRT caller that is made by hand, and says of its packets what it likes.
struct Caller {
    socket: UdpSocket,
    listener: u32,
    sequence: u32,
}

impl Caller {
    const FIRST: u32 = 1000;

    fn call(address: &str, stream_id: &str, latency: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let own = 0x1234_5678;
        let shake = |version: u32, field: u32, kind: u32, cookie: u32, extensions: &[u8]| {
            let fixed = [1 << 31, 0, 0, 0, version, field, Self::FIRST, 1500, 8192, kind, own, cookie, 0, 0, 0, 0];
            [&words(&fixed), extensions].concat()
        };
        let ask = |request: &[u8]| {
            eventually("an answer of the listener", || {
                socket.send(request).unwrap();
                let mut answer = vec![0; 2048];
                let length = socket.recv(&mut answer).ok()?;
                answer.truncate(length);
                (length >= 64 && word(&answer, 0) == 1 << 31).then_some(answer)
            })
        };
        let cookie = word(&ask(&shake(4, 2, 1, 0, &[])), 44);
        let mut name = stream_id.as_bytes().to_vec();
        name.resize(name.len().next_multiple_of(4), 0);
        name.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        let latency = (u32::from(latency) << 16) | u32::from(latency);
        let mut extensions = words(&[(1 << 16) | 3, 0x01_05_01, 0xbf, latency, (5 << 16) | (name.len() as u32 / 4)]);
        extensions.extend(name);
        let answer = ask(&shake(5, 5, 0xffff_ffff, cookie, &extensions));
        assert_eq!(word(&answer, 36), 0xffff_ffff, "it was not let in");
        Self { socket, listener: word(&answer, 40), sequence: Self::FIRST }
    }

    fn send(&mut self, microseconds: u32, payload: &[u8]) {
        let header = words(&[self.sequence, 0xe000_0001, microseconds, self.listener]);
        self.socket.send(&[&header, payload].concat()).unwrap();
        self.sequence += 1;
    }
}

/// Ends a thread, also when the test fails: it would be waited for.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn srt_packets_that_wait_between_garbage_hold_about_their_size() {
    let _alone = alone();
    let engine = Engine::builder().workers(2).build().unwrap();
    let port = format!("127.0.0.1:{}", free_port());
    let hit = Source::srt_listener("in", &port).stream_id("hit");
    let hit = run(&engine, Flow::builder("hit", RATE).source(hit).output(Output::tap("tap")).build().unwrap());
    // Another flow has a player at the same port.
    let live = Flow::builder("live", RATE).source(Source::app_datagrams("app"));
    let live = run(&engine, live.output(Output::srt_listener("out", &port).stream_id("live")).build().unwrap());
    let plays = Flow::builder("plays", RATE).source(Source::srt_caller("in", &port).stream_id("live"));
    let plays = run(&engine, plays.output(Output::tap("tap")).build().unwrap());
    let app = live.app_source("app").unwrap();
    let mut tap = plays.tap("tap").unwrap();
    let over = AtomicBool::new(false);
    let numbers = std::thread::scope(|scope| {
        let pushes = scope.spawn(|| {
            let mut number = 0u32;
            while !over.load(Ordering::Relaxed) {
                let payload: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(1316).collect();
                app.push(Packet::datagram(payload, Instant::now())).unwrap();
                number += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            number
        });
        let ends = Ends(&over);
        let first = eventually("the player plays", || tap.try_next());
        let mut numbers = vec![word(first.data(), 0)];

        let mut attacker = Caller::call(&port, "hit", 10_000);
        let garbage = UdpSocket::bind("127.0.0.1:0").unwrap();
        garbage.connect(&port).unwrap();
        let before = memory();
        for number in 0..2000 {
            garbage.send(&[0; GARBAGE]).unwrap();
            std::thread::sleep(APART);
            attacker.send(4_000_000 + number * 1000, &[0x47; 188]);
            std::thread::sleep(APART);
            numbers.extend(std::iter::from_fn(|| tap.try_next()).map(|packet| word(packet.data(), 0)));
        }
        let held = eventually("the packets are held", || {
            let stats = &hit.stats().sources[0];
            (stats.buffered >= Duration::from_millis(1990)).then_some(stats.packets)
        });
        let grown = memory().saturating_sub(before);
        assert_eq!(held, 0, "packets are held, not handed over");
        println!("2000 packets of 188 bytes hold {grown} KiB");
        assert!(grown < 2 * PORT_KIB, "2000 packets of 188 bytes hold {grown} KiB");
        drop(ends);
        let pushed = pushes.join().unwrap();
        eventually("the player has all", || {
            numbers.extend(std::iter::from_fn(|| tap.try_next()).map(|packet| word(packet.data(), 0)));
            (numbers.last() == Some(&(pushed - 1))).then_some(())
        });
        numbers
    });
    let whole: Vec<u32> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, whole, "the player of another flow has lost something");
    for running in [hit, plays, live] {
        engine.block_on(running.stop());
    }
}

#[test]
fn srt_packets_with_times_far_ahead_pass_and_are_told_of() {
    let _alone = alone();
    let engine = Engine::builder().workers(1).build().unwrap();
    let running = Source::srt_listener("in", "127.0.0.1:0").stream_id("hit");
    let running = run(&engine, Flow::builder("f", RATE).source(running).output(Output::tap("tap")).build().unwrap());
    let mut tap = running.tap("tap").unwrap();
    let mut caller = Caller::call(&authority(&running.input_addresses()[0]), "hit", 120);
    for number in 0..10 {
        caller.send(1_700_000_000 + number * 1000, &[0x47; 188]);
    }
    for _ in 0..10 {
        eventually("a packet passes", || tap.try_next());
    }
    let told = engine.block_on(async {
        loop {
            match tokio::time::timeout(streamlink_tests::PATIENCE, running.next_event()).await {
                Ok(Some(Event::TimestampsAhead { packets, .. })) => break packets,
                Ok(Some(_)) => {}
                _ => panic!("nobody was told"),
            }
        }
    });
    assert!((1..=10).contains(&told));
    engine.block_on(running.stop());
}

#[test]
fn rtp_packets_that_wait_for_one_before_them_hold_about_their_size() {
    let _alone = alone();
    let engine = Engine::builder().workers(1).build().unwrap();
    let sink = Sink::new();
    let source = Source::rtp("in", "127.0.0.1:0").reorder_window(Duration::from_secs(1));
    let running = run(
        &engine,
        Flow::builder("f", RATE)
            .source(source)
            .coalesce(Duration::ZERO)
            .output(Output::rtp("out", &sink.address()))
            .build()
            .unwrap(),
    );
    let address = authority(&running.input_addresses()[0]);
    let sender = Sender::to(&address);
    let garbage = UdpSocket::bind("127.0.0.1:0").unwrap();
    garbage.connect(&address).unwrap();
    sender.stream(0..10);
    sink.take(10);
    let before = memory();
    let start = Instant::now();
    let mut grown = 0;
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(800) {
        garbage.send(&[0; GARBAGE]).unwrap();
        std::thread::sleep(APART / 4);
        sender.send(&packet(96, 11 + sent, 0, 7, &[5; 176]));
        sent += 1;
        std::thread::sleep(APART / 4);
        grown = grown.max(memory().saturating_sub(before));
    }
    assert!(sent > 200, "the machine is too slow to tell: {sent}");
    println!("{sent} packets of 188 bytes hold {grown} KiB");
    assert!(grown < PORT_KIB, "{sent} packets of 188 bytes hold {grown} KiB");
    engine.block_on(running.stop());
}

#[test]
fn rtmp_group_of_pictures_of_empty_messages_is_let_go() {
    let _alone = alone();
    let engine = Engine::builder().workers(1).build().unwrap();
    let output = Output::rtmp_pull("out", "127.0.0.1:0", "live").key(StreamKey::new("key").unwrap());
    let running =
        run(&engine, Flow::builder("f", RATE).source(Source::app_rtmp("app")).output(output).build().unwrap());
    let app = running.app_source("app").unwrap();
    let message = |kind, body: &'static [u8]| Packet::rtmp(kind, 0, Bytes::from_static(body), Instant::now());
    app.push(message(RtmpKind::Video, &[0x17, 0, 0, 0, 0])).unwrap();
    app.push(message(RtmpKind::Video, &[0x17, 1, 0, 0, 0])).unwrap();
    let before = memory();
    let now = Instant::now();
    for _ in 0..2000 {
        let empty = || Packet::rtmp(RtmpKind::Audio, 0, Bytes::new(), now);
        app.push_all(std::iter::repeat_with(empty).take(1000)).unwrap();
    }
    let grown = memory().saturating_sub(before);
    println!("two million messages of no bytes hold {grown} KiB");
    assert!(grown < 64 << 10, "two million messages of no bytes hold {grown} KiB");
    engine.block_on(running.stop());
}
