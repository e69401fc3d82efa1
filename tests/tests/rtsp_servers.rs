//! RTSP callers against scripted servers: redirections, UDP from unexpected places, requests of the server.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use streamlink_core::{Event, Output, Source};
use streamlink_tests::{
    eventually,
    rig::{Recording, Rig},
    rtsp::{SDP, rtp},
};

/// One connection of a scripted server.
struct Conversation {
    stream: TcpStream,
    /// Socket and destination of media over UDP.
    udp: Option<(UdpSocket, SocketAddr)>,
}

impl Conversation {
    /// Answers a request.
    fn reply(&mut self, request: &str, status: &str, headers: &str, body: &str) {
        let cseq = header(request, "CSeq").unwrap_or("0");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let answer = format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\nSession: 1\r\n{headers}{length}\r\n{body}");
        self.say(answer.as_bytes());
    }

    fn say(&mut self, bytes: &[u8]) {
        // The peer may have left, which the next read tells.
        let _ = self.stream.write_all(bytes);
    }

    /// Answers as a server does that has one track of G.711, and sends media after PLAY.
    fn answer(&mut self, request: &str) {
        match request.split(' ').next().unwrap_or_default() {
            "DESCRIBE" => self.reply(request, "200 OK", "Content-Type: application/sdp\r\n", SDP),
            "SETUP" => {
                let transport = header(request, "Transport").unwrap_or_default().to_owned();
                self.reply(request, "200 OK", &format!("Transport: {transport}\r\n"), "");
            }
            "PLAY" => {
                self.reply(request, "200 OK", "", "");
                self.send_media();
            }
            _ => self.reply(request, "200 OK", "", ""),
        }
    }

    /// Sends media from a thread until the connection is closed.
    fn send_media(&mut self) {
        let mut stream = self.stream.try_clone().unwrap();
        let udp = self.udp.take();
        std::thread::spawn(move || {
            for sequence in 0..3000 {
                let packet = rtp(sequence);
                let frame = [&[b'$', 0, 0, packet.len() as u8][..], &packet].concat();
                let sent = match &udp {
                    Some((socket, to)) => socket.send_to(&packet, to).map(|_| ()),
                    None => stream.write_all(&frame),
                };
                if sent.is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }

    /// Opens a socket at an address for media over UDP, and returns its port.
    fn open_udp(&mut self, request: &str, at: &str) -> u16 {
        let ports = header(request, "Transport").and_then(|transport| transport.split("client_port=").nth(1));
        let port: u16 = ports.unwrap().split('-').next().unwrap().parse().unwrap();
        let socket = UdpSocket::bind((at, 0)).unwrap();
        let own = socket.local_addr().unwrap().port();
        self.udp = Some((socket, SocketAddr::from(([127, 0, 0, 1], port))));
        own
    }
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Starts a server that hands each request to `handle`, and returns its port. It ends with the process.
fn serve(handle: impl Fn(&mut Conversation, &str) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for stream in listener.incoming().take(100) {
            let stream = stream.unwrap();
            let handle = handle.clone();
            std::thread::spawn(move || {
                let mut conversation = Conversation { stream, udp: None };
                let mut request = Vec::new();
                let mut byte = [0];
                while conversation.stream.read_exact(&mut byte).is_ok() {
                    request.push(byte[0]);
                    if request.ends_with(b"\r\n\r\n") {
                        handle(&mut conversation, &String::from_utf8(std::mem::take(&mut request)).unwrap());
                    }
                }
            });
        }
    });
    port
}

fn start(url: &str) -> (Rig, Recording) {
    let source = Source::from_url("in", url);
    let rig = Rig::start(source, vec![Output::tap("tap").into()]);
    let tap = Recording::start(&rig);
    (rig, tap)
}

fn packets(tap: &Recording, count: usize) {
    eventually("packets", || (tap.packets().len() >= count).then_some(()));
}

/// Returns the text of the next event about a loss of the source.
fn lost(rig: &Rig) -> String {
    rig.event(|event| matches!(event, Event::SourceLost { .. }).then(|| event.to_string()))
}

#[test]
fn rtsp_caller_plays_udp_from_the_source_that_the_server_names() {
    let port = serve(|server, request| {
        if !request.starts_with("SETUP") {
            return server.answer(request);
        }
        let own = server.open_udp(request, "127.0.0.2");
        let transport =
            format!("Transport: RTP/AVP;unicast;source=127.0.0.2;server_port={own}-{}\r\n", own.wrapping_add(1));
        server.reply(request, "200 OK", &transport, "");
    });
    let (rig, tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=udp"));
    packets(&tap, 10);
    assert_eq!(rig.running.stats().sources[0].refused, 0);
    rig.stop();
}

#[test]
fn rtsp_caller_tries_tcp_when_udp_is_refused_or_comes_from_elsewhere() {
    for status in ["400 Bad Request", "403 Forbidden", "500 Internal Server Error", ""] {
        let port = serve(move |server, request| {
            if !request.starts_with("SETUP") || request.contains("TCP") {
                return server.answer(request);
            }
            if !status.is_empty() {
                return server.reply(request, status, "", "");
            }
            // Media comes from another port than the one named.
            server.open_udp(request, "127.0.0.1");
            server.reply(request, "200 OK", "Transport: RTP/AVP;unicast;server_port=9-10\r\n", "");
        });
        let (rig, tap) = start(&format!("rtsp://127.0.0.1:{port}/cam"));
        packets(&tap, 10);
        let stats = rig.running.stats().sources[0].clone();
        assert_eq!(stats.refused > 0, status.is_empty(), "{status}: {}", stats.refused);
        rig.stop();
    }
}

#[test]
fn rtsp_caller_asks_the_configured_address_again_after_a_loss() {
    let is_first_gone = Arc::new(AtomicBool::new(false));
    let gone = is_first_gone.clone();
    let first = serve(move |server, request| {
        if request.starts_with("PLAY") {
            server.reply(request, "200 OK", "", "");
            let packet = rtp(1);
            server.say(&[&[b'$', 0, 0, packet.len() as u8][..], &packet].concat());
            gone.store(true, Relaxed);
            let _ = server.stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        server.answer(request);
    });
    let second = serve(|server, request| {
        // `user:hunter2` in Base64.
        if request.contains("Authorization: Basic dXNlcjpodW50ZXIy\r\n") {
            return server.answer(request);
        }
        server.reply(request, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"R\"\r\n", "");
    });
    let front = serve(move |server, request| {
        let to = if is_first_gone.load(Relaxed) {
            format!("RTSP://user:hunter2@localhost:{second}/b?token=hunter2")
        } else {
            format!("rtsp://127.0.0.1:{first}/a")
        };
        server.reply(request, "302 Found", &format!("location: {to}\r\n"), "");
    });
    let (rig, tap) = start(&format!("rtsp://127.0.0.1:{front}/cam?transport=tcp"));
    assert!(!lost(&rig).contains("hunter2"));
    packets(&tap, 10);
    rig.stop();
}

#[test]
fn rtsp_caller_bounds_redirections_and_hides_their_secrets() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = serve(move |server, request| {
        count.fetch_add(1, Relaxed);
        let own = server.stream.local_addr().unwrap().port();
        let to = format!("Location: rtsp://user:hunter2@127.0.0.1:{own}/again?token=hunter2\r\n");
        server.reply(request, "307 Temporary Redirect", &to, "");
    });
    let (rig, _tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp&reconnect_min=5000"));
    let text = lost(&rig);
    assert!(text.contains("moved to") && text.contains("more than 5") && !text.contains("hunter2"), "{text}");
    assert_eq!(asked.load(Relaxed), 6);
    rig.stop();
}

#[test]
fn rtsp_caller_follows_a_redirect_request_and_tells_of_a_teardown() {
    let target = serve(|server, request| server.answer(request));
    let port = serve(move |server, request| {
        server.answer(request);
        if request.starts_with("PLAY") {
            std::thread::sleep(Duration::from_millis(200));
            let redirect =
                format!("REDIRECT rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\nLocation: rtsp://127.0.0.1:{target}/\r\n\r\n");
            server.say(redirect.as_bytes());
        }
    });
    let (rig, tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp&reconnect_min=30000"));
    assert!(lost(&rig).contains("moved to rtsp://127.0.0.1"));
    let before = tap.packets().len();
    packets(&tap, before + 10);
    rig.stop();

    let answered = Arc::new(AtomicBool::new(false));
    let is_answered = answered.clone();
    let port = serve(move |server, request| {
        if request.starts_with("RTSP/1.0 200") {
            is_answered.store(true, Relaxed);
            return;
        }
        server.answer(request);
        if request.starts_with("PLAY") {
            std::thread::sleep(Duration::from_millis(200));
            server.say(b"TEARDOWN rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\n\r\n");
        }
    });
    let (rig, _tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp&reconnect_min=30000"));
    let text = lost(&rig);
    assert!(text.contains("TEARDOWN"), "{text}");
    eventually("an answer to TEARDOWN", || answered.load(Relaxed).then_some(()));
    rig.stop();
}

#[test]
fn rtsp_caller_counts_stray_bytes_between_frames() {
    let port = serve(|server, request| {
        if !request.starts_with("PLAY") {
            return server.answer(request);
        }
        server.reply(request, "200 OK", "", "");
        for sequence in 0..20 {
            let packet = rtp(sequence);
            server.say(&[&[b'$', 0, 0, packet.len() as u8][..], &packet, b"\x01stray"].concat());
        }
        server.send_media();
    });
    let (rig, tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp"));
    packets(&tap, 30);
    assert_eq!(rig.running.stats().sources[0].malformed, 20);
    rig.stop();
}

#[test]
fn rtsp_caller_authenticates_on_the_next_connection_of_a_server_that_closes_after_401() {
    let challenges = Arc::new(AtomicUsize::new(0));
    let count = challenges.clone();
    let port = serve(move |conversation, request| {
        if header(request, "Authorization") == Some("Basic bWU6c2VjcmV0") {
            return conversation.answer(request);
        }
        count.fetch_add(1, Relaxed);
        let headers = "WWW-Authenticate: Basic realm=\"cam\"\r\nConnection: close\r\n";
        conversation.reply(request, "401 Unauthorized", headers, "");
        let _ = conversation.stream.shutdown(std::net::Shutdown::Both); // the client may have closed it
    });
    let (_rig, tap) = start(&format!("rtsp://me:secret@127.0.0.1:{port}/cam?transport=tcp"));
    packets(&tap, 10);
    assert_eq!(challenges.load(Relaxed), 1);
    // A wrong password is told as such, and not as a lost connection.
    let (rig, _) = start(&format!("rtsp://me:hunter2@127.0.0.1:{port}/cam?transport=tcp"));
    let text = lost(&rig);
    assert!(text.contains("401 Unauthorized (to OPTIONS)") && !text.contains("hunter2"), "{text}");
}

#[test]
fn rtsp_caller_takes_frames_on_the_channels_that_it_asked_for() {
    let port = serve(|conversation, request| {
        if request.starts_with("SETUP") {
            return conversation.reply(request, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=8-9\r\n", "");
        }
        conversation.answer(request);
    });
    let (_rig, tap) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp"));
    packets(&tap, 10);
}

#[test]
fn rtsp_caller_tells_of_frames_on_a_channel_without_a_track() {
    let port = serve(|conversation, request| {
        if request.starts_with("PLAY") {
            conversation.reply(request, "200 OK", "", "");
            let packet = rtp(1);
            let frame = [&[b'$', 7, 0, packet.len() as u8][..], &packet].concat();
            return conversation.say(&frame);
        }
        conversation.answer(request);
    });
    let (rig, _) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp"));
    let text = rig.event(|event| matches!(event, Event::PeerRefused { .. }).then(|| event.to_string()));
    assert!(text.contains("frames on channel 7, on which no track was set up"), "{text}");
}

#[test]
fn rtsp_caller_stays_away_from_a_busy_server_as_long_as_it_asks() {
    let port = serve(|conversation, request| {
        if request.starts_with("DESCRIBE") {
            return conversation.reply(request, "503 Service Unavailable", "Retry-After: 40\r\n", "");
        }
        conversation.answer(request);
    });
    let (rig, _) = start(&format!("rtsp://127.0.0.1:{port}/cam?transport=tcp"));
    let delay = rig.event(|event| match event {
        Event::SourceRetrying { delay, .. } => Some(delay),
        _ => None,
    });
    assert!(delay >= Duration::from_secs(40), "{delay:?}");
}
