//! Peers of an RTMP or RTSP port that are not let in: connections that say nothing, or as much as they may, and guessed
//! passwords. The real relay holds no more memory for them than SECURITY.md says, and a live player loses nothing.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use streamlink_tests::{
    PATIENCE, eventually, more_descriptors,
    peer::{self, Peer},
    rig::free_port,
    rtmp, rtsp,
    wire::connect_from,
};

/// Connections of one address.
const FLOOD: usize = 1100;
/// Connections of one address that may be open and have not said yet what they want.
const PENDING: u64 = 128;
/// Memory of such a connection, in KiB, beside what it has sent.
const CONNECTION_KIB: u64 = 16;
/// Maximum size of the data that is kept of an RTSP connection, in KiB.
const RTSP_KIB: u64 = 16 + 64;
/// Memory for refused attempts and connections, in KiB.
const REFUSED_KIB: u64 = 2 << 10;
/// Header of the requests of user `me` with password `secret`.
const LOGIN: &str = "Authorization: Basic bWU6c2VjcmV0\r\n";
/// A video message that begins a picture.
const KEY_FRAME: &[u8] = b"\x17\x01\0\0\0a picture that begins";

/// Live publisher and player at a relay.
trait Live {
    /// Sends a packet from one to the other, of which neither may be lost.
    fn pass(&mut self);
}

struct Rtmp(rtmp::Bare, rtmp::Bare, u32);

impl Live for Rtmp {
    fn pass(&mut self) {
        self.2 += 40;
        self.0.message(6, 9, self.2, b"\x17\0\0\0\0\x01\x64\0\x1f").unwrap();
        self.0.message(6, 9, self.2, KEY_FRAME).unwrap();
        self.1.read_until(KEY_FRAME).unwrap();
    }
}

struct Rtsp(rtsp::Bare, rtsp::Bare, u16);

impl Live for Rtsp {
    fn pass(&mut self) {
        self.2 += 1;
        self.0.send(self.2);
        assert_eq!(self.1.receive(), self.2);
    }
}

struct Relay {
    process: Peer,
    ports: [u16; 2],
    live: Box<dyn Live>,
}

fn port(url: &str) -> u16 {
    url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok()).expect("a port")
}

fn start(source: &str, output: &str) -> (Peer, [String; 2]) {
    let relay = Peer::start(peer::example("relay"), &["--source", source, "--output", output, "--stats", "none"]);
    let urls = [relay.wait_for_word("input address: "), relay.wait_for_word("playback URL of out: ")];
    (relay, urls)
}

impl Relay {
    fn rtmp() -> Self {
        let ports = [free_port(), free_port()];
        let source = format!("rtmp://127.0.0.1:{}/live/KEY?mode=listener", ports[0]);
        let (process, _) = start(&source, &format!("out=rtmp://127.0.0.1:{}/play/PLAY?mode=listener", ports[1]));
        let client = |port, app, what, key, answer| {
            let mut client = rtmp::Bare::connect("127.0.0.2", port, app).unwrap();
            client.ask(what, key, answer).unwrap();
            client
        };
        let publisher = client(ports[0], "live", "publish", "KEY", "NetStream.Publish.Start");
        let player = client(ports[1], "play", "play", "PLAY", "NetStream.Play.Start");
        Self { process, ports, live: Box::new(Rtmp(publisher, player, 0)) }
    }

    /// The output has a password.
    fn rtsp() -> Self {
        let (source, output) =
            ("rtsp://127.0.0.1:0/cam?mode=listener", "rtsp://me:secret@127.0.0.1:0/live?mode=listener");
        let (process, urls) = start(source, &format!("out={output}"));
        let ports = urls.each_ref().map(|url| port(url));
        let mut publisher = rtsp::Bare::connect_from("127.0.0.2", ports[0]);
        publisher.record(&urls[0], "");
        publisher.send(0);
        process.wait_for("source `source` connected");
        let mut player = rtsp::Bare::connect_from("127.0.0.2", ports[1]);
        player.watch(&format!("rtsp://127.0.0.1:{}/live", ports[1]), LOGIN);
        let first = player.receive();
        Self { process, ports, live: Box::new(Rtsp(publisher, player, first)) }
    }

    /// Lets the live peers go on for some time, and returns the most memory meanwhile, in KiB.
    fn most_memory(&mut self, time: Duration) -> u64 {
        let end = Instant::now() + time;
        let mut most = 0;
        while Instant::now() < end {
            self.live.pass();
            most = most.max(self.process.memory());
            thread::sleep(Duration::from_millis(5)); // their pace
        }
        most
    }

    /// Opens connections of one address to both ports, which say something or nothing, and checks the memory.
    fn assert_survives_flood(mut self, says: &[u8], kib: u64) {
        more_descriptors(8000);
        let before = self.most_memory(Duration::from_millis(500));
        let mut flood: Vec<TcpStream> = Vec::new();
        for port in self.ports {
            for _ in 0..FLOOD {
                let mut stream = connect_from("127.0.0.1", port).unwrap();
                stream.set_nonblocking(true).unwrap();
                let mut rest = says;
                let end = Instant::now() + Duration::from_secs(1);
                while !rest.is_empty() && Instant::now() < end {
                    match stream.write(rest) {
                        Ok(length) => rest = &rest[length..],
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::yield_now(),
                        Err(_) => break, // it is refused
                    }
                }
                flood.push(stream);
            }
            self.live.pass();
        }
        self.process.wait_for("too many connections of");
        let most = self.most_memory(Duration::from_secs(1));
        let grown = most.saturating_sub(before);
        println!("{} connections with {} bytes each: {before} KiB, then {most} KiB", 2 * FLOOD, says.len());
        let bound = 2 * PENDING * (CONNECTION_KIB + kib) + REFUSED_KIB;
        assert!(grown < bound, "{grown} KiB more, of {bound} at most");
        assert!(kib == 0 || grown > PENDING * kib / 2, "{grown} KiB: nothing was kept, which tells nothing");
        drop(flood);
        self.process.tell("quit");
        assert!(self.process.finish().success());
    }
}

#[test]
fn rtmp_port_holds_little_for_connections_that_say_nothing() {
    Relay::rtmp().assert_survives_flood(&[], 0);
}

#[test]
fn rtsp_port_holds_little_for_connections_that_say_nothing() {
    Relay::rtsp().assert_survives_flood(&[], 0);
}

#[test]
fn rtsp_port_bounds_what_it_keeps_of_connections_before_their_request() {
    // A request whose body of 60 000 bytes lacks one.
    let mut says = b"OPTIONS rtsp://127.0.0.1/cam RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 60000\r\nX: ".to_vec();
    says.extend([b'a'; 15_000]);
    says.extend(b"\r\n\r\n");
    says.extend([b'b'; 59_999]);
    Relay::rtsp().assert_survives_flood(&says, RTSP_KIB);
}

#[test]
fn rtsp_port_holds_little_for_password_guesses() {
    let mut relay = Relay::rtsp();
    let before = relay.most_memory(Duration::from_millis(500));
    let stop = AtomicBool::new(false);
    let tried = AtomicU64::new(0);
    let output = relay.ports[1];
    let guess = || {
        let wrong = "DESCRIBE rtsp://127.0.0.1/live RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic bWU6Z3Vlc3M=\r\n\r\n";
        while !stop.load(Relaxed) {
            tried.fetch_add(1, Relaxed);
            let mut stream = connect_from("127.0.0.1", output).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let sent = stream.write_all(wrong.as_bytes());
            let _ = sent.and_then(|()| stream.read(&mut [0; 1024])); // it may be closed unanswered
            thread::sleep(Duration::from_micros(500)); // the pace of the flood
        }
    };
    let most = thread::scope(|scope| {
        for _ in 0..2 {
            drop(scope.spawn(guess));
        }
        // Over, too, when the guesses have ended in vain.
        let end = Instant::now() + PATIENCE;
        let mut most = relay.most_memory(Duration::from_secs(3));
        while tried.load(Relaxed) <= 500 && Instant::now() < end {
            most = most.max(relay.most_memory(Duration::from_secs(1)));
        }
        stop.store(true, Relaxed);
        most
    });
    relay.process.wait_for("wrong password");
    relay.process.wait_for("too many attempts");
    println!("{} guesses: {before} KiB, then {most} KiB", tried.load(Relaxed));
    assert!(tried.load(Relaxed) > 500, "{tried:?} guesses are no flood");
    assert!(most < before + REFUSED_KIB, "{before} KiB, then {most} KiB");
    eventually("a player with the password comes in", || {
        let mut late = rtsp::Bare::connect_from("127.0.0.3", output);
        late.ask(&format!("DESCRIBE rtsp://127.0.0.1:{output}/live"), LOGIN, "").contains("200 OK").then_some(())
    });
    relay.process.tell("quit");
    assert!(relay.process.finish().success());
}
