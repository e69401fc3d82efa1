//! Floods of SRT handshakes: the real relay and engines of this process stay bounded, and a player on the same port
//! loses nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};
use streamlink_core::{
    Access, AppSource, Bitrate, Engine, Event, Flow, FlowHandle, KeyLength, Latency, Output, Passphrase, PeerLimits,
    RefusalReason, Source, State, Tap,
};
use streamlink_tests::{
    PATIENCE, eventually,
    peer::{self, Peer},
    rig::free_port,
    rtp::pause,
};

const INDUCTION: u32 = 1;
const CONCLUSION: u32 = u32::MAX;
const SECRET: &str = "correct-horse";
/// Memory for the refused attempts at an SRT port beside its reception, and for the reception, in KiB (SECURITY.md).
const ATTEMPTS_KIB: u64 = (2 << 10) + (20 << 10);

/// A handshake packet for nobody in particular.
fn handshake(version: u32, field: u16, kind: u32, id: u32, cookie: u32, extensions: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = 0x80;
    bytes[16..20].copy_from_slice(&version.to_be_bytes());
    bytes[22..24].copy_from_slice(&field.to_be_bytes());
    bytes[24..28].copy_from_slice(&1000u32.to_be_bytes());
    bytes[28..32].copy_from_slice(&1500u32.to_be_bytes());
    bytes[32..36].copy_from_slice(&8192u32.to_be_bytes());
    bytes[36..40].copy_from_slice(&kind.to_be_bytes());
    bytes[40..44].copy_from_slice(&id.to_be_bytes());
    bytes[44..48].copy_from_slice(&cookie.to_be_bytes());
    bytes.extend(extensions);
    bytes
}

/// HSREQ (1) or HSRSP (2), of version 1.5.1 with a latency of 120 ms.
fn wishes(kind: u8) -> Vec<u8> {
    vec![0, kind, 0, 3, 0, 1, 5, 1, 0, 0, 0, 0xbf, 0, 120, 0, 120]
}

/// HSREQ and a stream id of a multiple of four letters.
fn named(stream_id: &str) -> Vec<u8> {
    let mut bytes = wishes(1);
    bytes.extend([0, 5, 0, (stream_id.len() / 4) as u8]);
    for word in stream_id.as_bytes().chunks(4) {
        bytes.extend(word.iter().rev());
    }
    bytes
}

/// HSREQ and key material that no passphrase opens, each with a salt of its own.
fn wrong_key(salt: u32) -> Vec<u8> {
    let mut bytes = wishes(1);
    bytes.extend([0, 3, 0, 14, 0x12, 0x20, 0x29, 1, 0, 0, 0, 0, 2, 0, 2, 0, 0, 0, 4, 4]);
    bytes.extend([salt.to_be_bytes(); 4].concat());
    bytes.extend([0xaa; 24]);
    bytes
}

/// A caller made by hand at an address of its own.
struct Caller {
    socket: UdpSocket,
    cookie: u32,
}

impl Caller {
    /// Has been given its cookie.
    fn new(from: &str, target: SocketAddr) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(target).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let answer = eventually("a cookie", || {
            socket.send(&handshake(4, 2, INDUCTION, 7, 0, &[])).unwrap();
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        });
        Self { socket, cookie: u32::from_be_bytes(answer[44..48].try_into().unwrap()) }
    }

    fn conclude(&self, id: u32, extensions: &[u8]) {
        let _ = self.socket.send(&handshake(5, 5, CONCLUSION, id, self.cookie, extensions)); // a full socket is no failure
    }

    /// Asks until it is answered: the id of its connection, or the code of its rejection.
    fn connect(&self, id: u32, extensions: &[u8]) -> Result<u32, u32> {
        let answer = eventually("an answer", || {
            self.conclude(id, extensions);
            let mut buffer = [0; 2048];
            loop {
                let length = self.socket.recv(&mut buffer).ok()?;
                let is_answer = length >= 64 && buffer[..2] == [0x80, 0] && buffer[12..16] == id.to_be_bytes();
                if is_answer && buffer[36..40] != INDUCTION.to_be_bytes() {
                    return Some(buffer[..length].to_vec());
                }
            }
        });
        let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
        if word(36) == CONCLUSION { Ok(word(40)) } else { Err(word(36)) }
    }
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("srt://").split('?').next().unwrap().parse().unwrap()
}

/// A stream of numbered packets that goes in at one end and comes out at the other.
struct Stream {
    app: AppSource,
    tap: Tap,
    pushed: u32,
    got: u32,
}

impl Stream {
    fn take(&mut self) {
        while let Some(packet) = self.tap.try_next() {
            assert_eq!(packet.data()[..4], self.got.to_be_bytes(), "in order, and none missing");
            self.got += 1;
        }
    }

    /// Sends about 4 Mb/s until a condition holds, and a hundred packets at least.
    fn run(&mut self, mut until: impl FnMut() -> bool) {
        let enough = self.pushed + 100;
        while !until() || self.pushed <= enough {
            let mut payload = vec![0; 1316];
            payload[..4].copy_from_slice(&self.pushed.to_be_bytes());
            self.app.push(streamlink_core::Packet::datagram(payload, Instant::now())).unwrap();
            self.pushed += 1;
            self.take();
            for _ in 0..3 {
                pause();
            }
        }
    }

    fn finish(mut self) {
        eventually("all that was pushed", || {
            self.take();
            (self.got == self.pushed).then_some(())
        });
        assert!(self.got > 100, "{}", self.got);
    }
}

/// Sets a flag when it goes out of scope.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A relay process, a sender to it and a player of it, which are flows of this process.
struct Relayed {
    relay: Peer,
    input: SocketAddr,
    output: SocketAddr,
    sending: FlowHandle,
    playing: FlowHandle,
    engine: Engine,
}

impl Relayed {
    /// `parameters`: of the output's URL.
    fn start(parameters: &str) -> (Self, Stream) {
        let engine = Engine::builder().workers(2).build().unwrap();
        let output = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let out = format!("out=srt://{output}?mode=listener{parameters}");
        let arguments = ["--source", "srt://127.0.0.1:0?mode=listener", "--output", &out, "--stats", "none"];
        let relay = Peer::start(peer::example("relay"), &arguments);
        let input = address(&relay.wait_for_word("input address: srt://"));
        // The tests are about floods, not about a machine that is late.
        let latency = Latency::from_millis(1000).unwrap();
        let sending = Flow::builder("sending", Bitrate::mbps(20))
            .source(Source::app_datagrams("app"))
            .output(Output::srt_caller("out", &input.to_string()).latency(latency))
            .build()
            .unwrap();
        let mut player = Source::srt_caller("in", &output.to_string()).latency(latency);
        if !parameters.is_empty() {
            player = player.encryption(Passphrase::new(SECRET).unwrap(), KeyLength::Aes128);
        }
        let playing =
            Flow::builder("playing", Bitrate::mbps(20)).source(player).output(Output::tap("tap")).build().unwrap();
        let sending = engine.block_on(engine.start(sending)).unwrap();
        let playing = engine.block_on(engine.start(playing)).unwrap();
        relay.wait_for("output `out` connected");
        eventually("the sender is connected", || (sending.stats().outputs[0].state == State::Connected).then_some(()));
        let app = sending.app_source("app").unwrap();
        let tap = playing.tap("tap").unwrap();
        (Self { relay, input, output, sending, playing, engine }, Stream { app, tap, pushed: 0, got: 0 })
    }

    fn stop(mut self) {
        self.engine.block_on(self.sending.stop());
        self.engine.block_on(self.playing.stop());
        self.relay.tell("quit");
        assert!(self.relay.finish().success());
    }
}

/// Passes on to each of two listeners what the other one sends, as if it came from there: as it is when somebody forges
/// the address of the first packet. The two may be one and the same.
fn reflect(ends: [SocketAddr; 2], first: &[Vec<u8>], passed: &AtomicUsize, until: Instant) {
    let sockets = ends.map(|end| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(end).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    for packet in first {
        for socket in &sockets {
            assert_eq!(socket.send(packet).unwrap(), packet.len());
        }
    }
    let mut buffer = [0; 2048];
    while Instant::now() < until {
        for (from, to) in [(0, 1), (1, 0)] {
            while let Ok(length) = sockets[from].recv(&mut buffer) {
                passed.fetch_add(1, Relaxed);
                let _ = sockets[to].send(&buffer[..length]); // a full socket is no failure
            }
        }
        std::thread::sleep(Duration::from_micros(200)); // a turn of the network, not a wait
    }
}

#[test]
fn srt_listeners_do_not_answer_each_other_for_ever() {
    let (live, mut stream) = Relayed::start("");
    // A relay that admits nobody from here answers with rejections.
    let source = "srt://127.0.0.1:0?mode=listener";
    let out = format!("o=srt://127.0.0.1:{}?mode=listener", free_port());
    let source = ["--source", source, "--output", &out, "--stats", "none"];
    let closed = Peer::start(peer::example("relay"), &[&source[..], &["--allow", "10.0.0.0/8"]].concat());
    let closed_at = address(&closed.wait_for_word("input address: srt://"));
    let before = live.relay.memory();
    let mut first = Vec::new();
    for _ in 0..10 {
        for id in [0, 7] {
            first.push(handshake(4, 2, INDUCTION, id, 0, &[]));
            first.push(handshake(5, 0x4a17, INDUCTION, id, 9, &[]));
            first.push(handshake(5, 5, CONCLUSION, id, 9, &wishes(1)));
            first.push(handshake(5, 5, CONCLUSION, id, 9, &wishes(2)));
            first.push(handshake(5, 0, 1010, id, 9, &[]));
        }
    }
    let requests = 10; // those of them that ask for something and can be answered
    for (ends, most) in [
        ([live.input, live.output], 2 * requests),
        ([live.input, live.input], 2 * requests),
        ([closed_at, closed_at], 2 * 2 * requests), // also the conclusions are turned away, if they are
        ([live.output, closed_at], 2 * 2 * requests),
    ] {
        let passed = AtomicUsize::new(0);
        let end = Instant::now() + Duration::from_millis(1500);
        std::thread::scope(|scope| {
            scope.spawn(|| reflect(ends, &first, &passed, end));
            stream.run(|| Instant::now() >= end);
        });
        let passed = passed.into_inner();
        assert!((1..=most).contains(&passed), "{passed} datagrams between {ends:?}");
    }
    let after = live.relay.memory();
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB after");
    stream.finish();
    live.stop();
}

/// Each wrong key takes half a millisecond of a processor to be found out.
#[test]
fn srt_flood_of_wrong_keys_costs_a_player_nothing() {
    /// Minimum number of requests.
    const FLOOD: u32 = 3000;
    let (live, mut stream) = Relayed::start(&format!("&passphrase={SECRET}&pbkeylen=16"));
    let before = live.relay.memory();
    let late_is_over = AtomicBool::new(false);
    let caller = Caller::new("127.0.0.2", live.output);
    let end = Instant::now() + Duration::from_secs(3);
    let sent = AtomicUsize::new(0);
    let mut most = before;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            for id in 1u32.. {
                caller.conclude(id, &wrong_key(id));
                sent.store(id as usize, Relaxed);
                while Instant::now() < begin + Duration::from_micros(400) * id && Instant::now() < end {
                    std::thread::sleep(Duration::from_micros(200)); // the pace of the flood
                }
                if Instant::now() >= end && id > FLOOD {
                    break;
                }
            }
        });
        // Who has an address of its own gets in meanwhile.
        scope.spawn(|| {
            let engine = Engine::builder().workers(1).build().unwrap();
            let player = Source::srt_caller("in", &live.output.to_string());
            let player = player.encryption(Passphrase::new(SECRET).unwrap(), KeyLength::Aes128);
            let flow = Flow::builder("late", Bitrate::mbps(20)).source(player).output(Output::tap("tap")).build();
            let late = engine.block_on(engine.start(flow.unwrap())).unwrap();
            // Over, too, when it has waited in vain.
            let _over = Over(&late_is_over);
            eventually("the late player", || (late.stats().sources[0].packets > 0).then_some(()));
            engine.block_on(late.stop());
        });
        stream.run(|| {
            most = most.max(live.relay.memory());
            let is_over = late_is_over.load(Relaxed) && sent.load(Relaxed) > FLOOD as usize;
            Instant::now() >= end && (is_over || Instant::now() >= end + PATIENCE)
        });
    });
    assert!(sent.into_inner() > FLOOD as usize);
    println!("wrong keys: {before} KiB before, {most} KiB at most");
    assert!(most < before + ATTEMPTS_KIB, "{before} KiB before, {most} KiB at most");
    live.relay.wait_for("wrong passphrase");
    live.relay.wait_for("too many attempts");
    stream.finish();
    live.stop();
}

#[test]
fn srt_connections_of_one_address_are_bounded() {
    let engine = Engine::builder().workers(2).peer_limits(PeerLimits::new().connections(10)).build().unwrap();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::app_datagrams("app"))
        .output(Output::srt_listener("out", "127.0.0.1:0"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let target = address(&running.playback_urls()[0].1);
    let caller = Caller::new("127.0.0.2", target);
    let connected: Vec<u32> = (1..=10).map(|id| caller.connect(id, &wishes(1)).expect("there is room")).collect();
    for id in 11..=20 {
        assert_eq!(caller.connect(id, &wishes(1)), Err(1005), "libsrt's code for a full backlog");
    }
    eventually("the refusals are told", || {
        let event = engine.block_on(running.next_event())?;
        matches!(event, Event::PeerRefused { reason: RefusalReason::TooManyFromAddress, .. }).then_some(())
    });
    assert!(running.stats().outputs[0].refused >= 10);
    // Another address has a share of its own, and one that leaves makes room.
    Caller::new("127.0.0.3", target).connect(1, &wishes(1)).expect("its own share");
    let mut goodbye = vec![0; 20];
    goodbye[..2].copy_from_slice(&[0x80, 5]);
    goodbye[12..16].copy_from_slice(&connected[0].to_be_bytes());
    caller.socket.send(&goodbye).unwrap();
    eventually("room again", || caller.connect(21, &wishes(1)).ok());
    engine.block_on(running.stop());
}

#[test]
fn srt_hook_that_is_slow_costs_no_media_and_refuses() {
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let engine = Engine::builder()
        .workers(2)
        .access(move |request| {
            if request.stream_id.as_deref().is_some_and(|id| id.starts_with("slow")) {
                count.fetch_add(1, Relaxed);
                std::thread::sleep(Duration::from_secs(4)); // what a hook should not do
            }
            Access::Accept
        })
        .build()
        .unwrap();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::app_datagrams("app"))
        .output(Output::srt_listener("out", "127.0.0.1:0"));
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let target = address(&running.playback_urls()[0].1);
    let player = Source::srt_caller("in", &target.to_string());
    let playing = Flow::builder("playing", Bitrate::mbps(20)).source(player).output(Output::tap("tap"));
    let playing = engine.block_on(engine.start(playing.build().unwrap())).unwrap();
    eventually("the player", || (running.stats().outputs[0].state == State::Connected).then_some(()));
    let app = running.app_source("app").unwrap();
    let tap = playing.tap("tap").unwrap();
    let mut stream = Stream { app, tap, pushed: 0, got: 0 };
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for i in 0..4u8 {
            scope.spawn(move || {
                let caller = Caller::new(&format!("127.0.0.{}", 2 + i), target);
                let begin = Instant::now();
                assert_eq!(caller.connect(1, &named("slow")), Err(2500), "the host said nothing");
                assert!(begin.elapsed() < Duration::from_secs(4), "before the hook has returned");
            });
        }
        stream.run(|| Instant::now() >= end);
    });
    // A caller that repeats its request is asked about once.
    assert!((4..=8).contains(&asked.load(Relaxed)), "{asked:?}");
    stream.finish();
    engine.block_on(playing.stop());
    engine.block_on(running.stop());
}
