//! Peers that take more than their share of an RTMP or RTSP port: connections, passwords, file descriptors. They are
//! refused, counted and told of, and peers at other addresses do not notice.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use streamlink_core::{
    Credentials, Engine, Event, Failover, Output, PeerLimits, RefusalReason, Source, StreamKey, Takeover,
};
use streamlink_tests::{
    eventually, more_descriptors,
    peer::{self, Peer},
    rig::Rig,
    rtmp, rtsp,
    wire::connect_from,
};

/// Of user `me` and password `secret`.
const LOGIN: &str = "Authorization: Basic bWU6c2VjcmV0\r\n";
const FLOOD: usize = 1100;
/// An RTMP message of a key frame's beginning: what players look for.
const KEY_FRAME: &[u8] = b"\x17\x01\0\0\0a picture that begins";

fn credentials() -> Credentials {
    Credentials::new("me", "secret").unwrap()
}

/// The port of an address such as `rtmp://127.0.0.1:1935/live`.
fn port(url: &str) -> u16 {
    url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok()).expect("a port")
}

/// Opens connections from an address that say nothing.
fn silent(from: &str, port: u16, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect_from(from, port).unwrap()).collect()
}

/// Waits until an endpoint has told of a reason.
fn told(rig: &Rig, wanted: RefusalReason) {
    rig.event(|event| matches!(event, Event::PeerRefused { reason, .. } if reason == wanted).then_some(()));
}

fn picture(publisher: &mut rtmp::Bare, time: u32) {
    publisher.message(6, 9, time, b"\x17\0\0\0\0\x01\x64\0\x1f").unwrap();
    publisher.message(6, 9, time, KEY_FRAME).unwrap();
}

fn rtmp_client(port: u16, app: &str, what: &str, key: &str, answer: &str) -> rtmp::Bare {
    let mut client = rtmp::Bare::connect("127.0.0.2", port, app).unwrap();
    client.ask(what, key, answer).unwrap();
    client
}

#[test]
fn rtmp_port_lets_others_in_while_one_address_holds_silent_connections() {
    more_descriptors(8000);
    let key = |key: &str| StreamKey::new(key).unwrap();
    let rig = Rig::start(
        Source::rtmp("in", "127.0.0.1:0", "live").key(key("KEY")),
        vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").key(key("PLAY")).into()],
    );
    let input = rig.input_port();
    let output = port(&rig.playback());
    let mut publisher = rtmp_client(input, "live", "publish", "KEY", "NetStream.Publish.Start");
    let mut player = rtmp_client(output, "play", "play", "PLAY", "NetStream.Play.Start");
    picture(&mut publisher, 0);
    player.read_until(KEY_FRAME).unwrap();

    let flood = [silent("127.0.0.1", input, FLOOD), silent("127.0.0.1", output, FLOOD)];
    told(&rig, RefusalReason::TooManyFromAddress);
    eventually("all above the share are refused", || {
        let stats = rig.running.stats();
        let refused = [stats.sources[0].refused, stats.outputs[0].refused];
        refused.iter().all(|refused| *refused >= FLOOD as u64 - 128).then_some(())
    });
    let mut late = rtmp_client(output, "play", "play", "PLAY", "NetStream.Play.Start");
    picture(&mut publisher, 40);
    player.read_until(KEY_FRAME).unwrap();
    late.read_until(KEY_FRAME).unwrap();
    drop(publisher);
    rig.source_lost();
    let _next = rtmp_client(input, "live", "publish", "KEY", "NetStream.Publish.Start");
    drop(flood);
    rig.stop();
}

#[test]
fn rtsp_port_lets_others_in_while_one_address_holds_silent_connections() {
    more_descriptors(8000);
    let rig = Rig::start(
        Source::rtsp_listener("in", "127.0.0.1:0", "cam"),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").into()],
    );
    let url = rig.input();
    let play = rig.playback();
    let client = |port| rtsp::Bare::connect_from("127.0.0.2", port);
    let mut publisher = client(rig.input_port());
    publisher.record(&url, "");
    let mut player = client(port(&play));
    player.watch(&play, "");
    publisher.send(0);
    assert_eq!(player.receive(), 0);

    let flood = [silent("127.0.0.1", rig.input_port(), FLOOD), silent("127.0.0.1", port(&play), FLOOD)];
    told(&rig, RefusalReason::TooManyFromAddress);
    let mut late = client(port(&play));
    late.watch(&play, "");
    publisher.send(1);
    assert_eq!(player.receive(), 1);
    while late.receive() != 1 {}
    drop(publisher);
    rig.source_lost();
    client(rig.input_port()).record(&url, "");
    drop(flood);
    rig.stop();
}

/// Guesses passwords on connections of three at most, one after the other; returns how many were answered as wrong.
fn guess(port: u16, stop: &AtomicBool, tried: &AtomicU64) -> u64 {
    let mut answered = 0;
    let wrong = "DESCRIBE rtsp://127.0.0.1/live RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic bWU6Z3Vlc3M=\r\n\r\n";
    while !stop.load(Relaxed) {
        let mut stream = connect_from("127.0.0.1", port).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for _ in 0..3 {
            tried.fetch_add(1, Relaxed);
            let mut answer = [0; 4096];
            let sent = stream.write_all(wrong.as_bytes());
            match sent.and_then(|()| stream.read(&mut answer)) {
                Ok(length) if answer[..length].starts_with(b"RTSP/1.0 401") => answered += 1,
                _ => break,
            }
        }
        thread::sleep(Duration::from_micros(500)); // some 1000 a second and more, with both
    }
    answered
}

#[test]
fn rtsp_password_guesses_are_counted_told_and_slowed_down() {
    let rig = Rig::start(
        Source::rtsp_listener("in", "127.0.0.1:0", "cam"),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "live").credentials(credentials()).into()],
    );
    let url = rig.input();
    let play = rig.playback();
    let mut publisher = rtsp::Bare::connect_from("127.0.0.2", rig.input_port());
    publisher.record(&url, "");
    publisher.send(0);
    rig.event(|event| matches!(event, Event::SourceConnected { .. }).then_some(()));
    let mut player = rtsp::Bare::connect_from("127.0.0.2", port(&play));
    // A first request without a password is no attempt.
    assert!(player.ask(&format!("DESCRIBE {play}"), "", "").contains("401"));
    assert_eq!(rig.running.stats().outputs[0].refused, 0);
    player.watch(&play, LOGIN);
    assert_eq!(player.receive(), 0);

    let stop = AtomicBool::new(false);
    let tried = AtomicU64::new(0);
    let started = Instant::now();
    let answered = thread::scope(|scope| {
        let guessers: Vec<_> = (0..2).map(|_| scope.spawn(|| guess(port(&play), &stop, &tried))).collect();
        told(&rig, RefusalReason::WrongPassword);
        told(&rig, RefusalReason::TooManyAttempts);
        // The unrelated player loses nothing meanwhile, and a new one comes in.
        for sequence in 1..=600 {
            publisher.send(sequence);
            assert_eq!(player.receive(), sequence);
            thread::sleep(Duration::from_millis(5)); // three seconds of guesses
        }
        rtsp::Bare::connect_from("127.0.0.3", port(&play)).watch(&play, LOGIN);
        stop.store(true, Relaxed);
        guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum::<u64>()
    });
    // 20 at once, 20 a second, and what two threads of the engine look at together at the end.
    let most = 20 + 20 * u64::try_from(started.elapsed().as_millis()).unwrap() / 1000 + 2;
    println!("{} tried, {answered} answered in {:?}", tried.load(Relaxed), started.elapsed());
    assert!((20..=most).contains(&answered), "{answered} of {} were looked at", tried.load(Relaxed));
    assert!(tried.load(Relaxed) > 3 * most, "{} guesses are no flood", tried.load(Relaxed));
    let counted = eventually("all refusals are counted", || {
        let refused = rig.running.stats().outputs[0].refused;
        (refused >= answered && refused * 3 >= tried.load(Relaxed)).then_some(refused)
    });
    assert!(counted <= tried.load(Relaxed) + 10);
    rig.stop();
}

#[test]
fn rtmp_wrong_keys_use_up_the_attempts_of_their_address() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(StreamKey::new("KEY").unwrap());
    let rig = Rig::start(source, vec![Output::tap("tap").into()]);
    let ask = |from: &str, app: &str, key: &str, answer: &str| {
        rtmp::Bare::connect(from, rig.input_port(), app).and_then(|mut client| client.ask("publish", key, answer))
    };
    // A wrong key and a wrong application count alike.
    let looked_at = (0..200u32)
        .filter(|number| {
            let (app, key) = if number % 2 == 0 { ("live", "GUESS") } else { ("lives", "KEY") };
            ask("127.0.0.1", app, key, "NetStream.Publish.BadName").is_ok()
        })
        .count();
    assert!((20..=120).contains(&looked_at), "{looked_at}");
    told(&rig, RefusalReason::TooManyAttempts);
    assert_eq!(rig.running.stats().sources[0].refused, 200);
    // It is not let in with the right one either for a moment; others are.
    assert!(ask("127.0.0.2", "live", "KEY", "NetStream.Publish.Start").is_ok());
    rig.stop();
}

/// UDP sockets of this process.
fn udp_sockets() -> usize {
    let mut inodes = HashSet::new();
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        inodes.extend(table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned));
    }
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names = files.filter_map(|file| std::fs::read_link(file.path()).ok()?.to_str().map(str::to_owned));
    names
        .filter_map(|name| Some(name.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .filter(|inode| inodes.contains(inode))
        .count()
}

/// An SDP with as many tracks as may be.
fn many_tracks() -> String {
    let tracks: String = (0..16).map(|n| format!("m=audio 0 RTP/AVP 0\r\na=control:track{n}\r\n")).collect();
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{tracks}")
}

/// Asks for ports of all tracks, as a publisher and as a player; returns the connections.
fn set_up_everything(rig: &Rig) -> Vec<rtsp::Bare> {
    let url = rig.input();
    let play = rig.playback();
    let ports = |n: usize| format!("Transport: RTP/AVP;unicast;client_port={0}-{1}\r\n", 5000 + 2 * n, 5001 + 2 * n);
    let one = |_| {
        let mut publisher = rtsp::Bare::connect(rig);
        let mut player = rtsp::Bare::play(rig);
        publisher.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", &many_tracks());
        for n in 0..16 {
            publisher.ask(&format!("SETUP {url}/track{n}"), &ports(n), "");
            player.ask(&format!("SETUP {play}/trackID={n}"), &ports(n), "");
        }
        [publisher, player]
    };
    (0..5).flat_map(one).collect()
}

#[test]
fn rtsp_setup_opens_ports_only_for_a_client_that_is_admitted() {
    let outputs = |login: bool| {
        let output = Output::rtsp_listener("out", "127.0.0.1:0", "live").max_players(1);
        vec![if login { output.credentials(credentials()) } else { output }.into()]
    };
    // Without the password, while nobody publishes and while somebody does.
    let source = Source::rtsp_listener("in", "127.0.0.1:0", "cam").credentials(credentials()).takeover(Takeover::Never);
    // Each refused request would count against the one address otherwise, and end its connection.
    let engine = || Engine::builder().peer_limits(PeerLimits::new().refusals_per_second(10_000));
    let start = |source: Source, outputs| Rig::start_on(engine(), vec![source], Failover::default(), outputs);
    let rig = start(source.into(), outputs(true));
    let before = udp_sockets();
    let first = set_up_everything(&rig);
    assert_eq!(udp_sockets(), before);
    let mut publisher = rtsp::Bare::connect_from("127.0.0.2", rig.input_port());
    publisher.record(&rig.input(), LOGIN);
    publisher.send(0);
    rig.event(|event| matches!(event, Event::SourceConnected { .. }).then_some(()));
    let second = set_up_everything(&rig);
    assert_eq!(udp_sockets(), before);
    drop((first, second));
    rig.stop();

    // Where everybody may, ports are there for one publisher and for as many players as may be, not for each who asks.
    let source = Source::rtsp_listener("in", "127.0.0.1:0", "cam").takeover(Takeover::Never);
    let rig = start(source.into(), outputs(false));
    let clients = set_up_everything(&rig);
    assert_eq!(udp_sockets(), before + 32, "one publisher of 16 tracks");
    drop(clients);
    eventually("the ports are closed", || (udp_sockets() == before).then_some(()));
    // A second publisher is refused when it announces.
    let mut publisher = rtsp::Bare::connect_from("127.0.0.2", rig.input_port());
    publisher.record(&rig.input(), "");
    publisher.send(0);
    rig.event(|event| matches!(event, Event::SourceConnected { .. }).then_some(()));
    let mut late = rtsp::Bare::connect(&rig);
    let content = "Content-Type: application/sdp\r\n";
    assert!(late.ask(&format!("ANNOUNCE {}", rig.input()), content, rtsp::SDP).contains("403"));
    told(&rig, RefusalReason::InUse);
    let clients = set_up_everything(&rig);
    assert_eq!(udp_sockets(), before + 2, "one player of one track");
    drop(clients);
    eventually("the ports are closed", || (udp_sockets() == before).then_some(()));
    drop(publisher);
    rig.stop();
}

/// A process that may have few files open, with a live publisher and a live player.
struct Small {
    relay: Peer,
    output: String,
    publisher: rtsp::Bare,
    player: rtsp::Bare,
    sequence: u16,
}

impl Small {
    fn start(descriptors: u32) -> Self {
        let relay = peer::example("relay");
        let relay = relay.to_str().unwrap();
        let source = "rtsp://127.0.0.1:0/cam?mode=listener";
        let output = "out=rtsp://127.0.0.1:0/live?mode=listener";
        let limit = format!("--nofile={descriptors}:{descriptors}");
        let relay = Peer::start("prlimit", &[&limit, relay, "--source", source, "--output", output, "--stats", "none"]);
        let input = relay.wait_for_word("input address: ");
        let output = relay.wait_for_word("playback URL of out: ");
        let mut publisher = rtsp::Bare::connect_from("127.0.0.2", port(&input));
        publisher.record(&input, "");
        publisher.send(0);
        relay.wait_for("source `source` connected");
        let mut player = rtsp::Bare::connect_from("127.0.0.2", port(&output));
        player.watch(&output, "");
        let first = player.receive();
        Self { relay, output, publisher, player, sequence: first }
    }

    /// The live peers go on for some time.
    fn goes_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.sequence += 1;
            self.publisher.send(self.sequence);
            assert_eq!(self.player.receive(), self.sequence);
            thread::sleep(Duration::from_millis(5)); // their pace
        }
    }

    fn count(&self, text: &str) -> usize {
        self.relay.output().matches(text).count()
    }

    /// Checks that the shortage was reported: in events, of which an endpoint has one a second, and in one line of the log.
    fn has_told(&self, since: Instant) {
        self.relay.wait_for("no file descriptors or ports left");
        let events = self.count("no file descriptors or ports left");
        let most = usize::try_from(since.elapsed().as_secs()).unwrap() + 2;
        assert!(events <= most, "{events} events: {}", self.relay.output());
        assert_eq!(self.count("peers are refused"), 1, "{}", self.relay.output());
    }

    /// A new player comes in once there are descriptors again.
    fn recovers(mut self) {
        let mut late = eventually("a player is let in again", || {
            let mut late = connect_from("127.0.0.4", port(&self.output)).ok()?;
            late.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            write!(late, "OPTIONS {} RTSP/1.0\r\nCSeq: 1\r\n\r\n", self.output).ok()?;
            let mut answer = [0; 12];
            late.read_exact(&mut answer).ok().filter(|()| &answer == b"RTSP/1.0 200")?;
            Some(late)
        });
        let _ = late.write_all(b""); // it is there until here
        self.goes_on(Duration::from_millis(100));
        self.relay.tell("quit");
        assert!(self.relay.finish().success());
    }
}

#[test]
fn descriptors_that_peers_use_up_are_told_once_and_given_back() {
    let mut small = Small::start(128);
    let before = small.relay.memory();
    let started = Instant::now();
    // Connections that say nothing, from two addresses, over and over.
    let mut flood = Vec::new();
    for _ in 0..3 {
        for from in ["127.0.0.1", "127.0.0.3"] {
            flood.extend(silent(from, port(&small.output), 80));
        }
        small.goes_on(Duration::from_millis(700));
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", small.relay.id())).unwrap().count();
    assert!(files <= 125, "{files} of 128: nothing is left to the host");
    small.has_told(started);
    let grown = small.relay.memory().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more");
    drop(flood);
    small.recovers();
}

#[test]
fn descriptors_that_the_system_refuses_are_told_once_and_peers_are_closed() {
    let mut small = Small::start(1024);
    let started = Instant::now();
    let limit = |descriptors: usize| {
        let pid = small.relay.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={descriptors}:")]).status();
        assert!(status.unwrap().success());
    };
    // As if the host had taken all there are: the lowest free number is above the limit.
    let files = std::fs::read_dir(format!("/proc/{}/fd", small.relay.id())).unwrap();
    let mut numbers: Vec<usize> = files.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    let free = numbers.iter().enumerate().find(|(at, number)| at != *number).map_or(numbers.len(), |(at, _)| at);
    limit(free);
    let mut flood = silent("127.0.0.1", port(&small.output), 50);
    for stream in &mut flood {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let closed = stream.read(&mut [0; 16]);
        let waits = closed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waits, "{closed:?}: it is closed, not left to wait");
    }
    small.has_told(started);
    limit(1024);
    drop(flood);
    small.goes_on(Duration::from_millis(100));
    small.recovers();
}
