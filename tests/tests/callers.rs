//! Silence, reasons and takeovers on real sockets: scripted servers and publishers.

use bytes::Bytes;
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use streamlink_core::{
    Credentials, Event, LossReason, Output, Packet, RtspTransport, Source, State, StreamKey, Takeover,
};
use streamlink_tests::{eventually, rig::Rig, rtmp, rtsp};

const KEY: &str = "the-key-of-the-stream";

/// Scripted RTSP server: answers every request with the lines that `answer` returns, and sends interleaved packets
/// after PLAY.
fn rtsp_server(
    packets: u16,
    answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::<AtomicUsize>::default();
    let count = connections.clone();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Relaxed);
            let answer = answer.clone();
            // Ends with the connection.
            thread::spawn(move || serve_rtsp(stream, packets, &*answer));
        }
    });
    (port, connections)
}

fn serve_rtsp(mut stream: TcpStream, packets: u16, answer: &dyn Fn(&str, &str) -> Option<String>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if lines.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
        }
        let method = request.split(' ').next().unwrap_or_default().to_owned();
        let cseq = request.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("0").to_owned();
        let transport = request.lines().find(|line| line.starts_with("Transport:")).unwrap_or_default().to_owned();
        let (status, body) = match (answer(&method, &request), method.as_str()) {
            (Some(lines), _) => (lines, ""),
            (None, "DESCRIBE") => ("200 OK\r\nContent-Type: application/sdp".into(), rtsp::SDP),
            (None, "SETUP") => (format!("200 OK\r\nSession: 1;timeout=4\r\n{transport}"), ""),
            (None, _) => ("200 OK\r\nSession: 1;timeout=4".into(), ""),
        };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut answer = format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{length}\r\n{body}").into_bytes();
        if method == "PLAY" {
            for sequence in 0..packets {
                let packet = rtsp::rtp(sequence);
                answer.extend([b'$', 0, 0, packet.len() as u8]);
                answer.extend(packet);
            }
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn rtsp_caller_loses_a_camera_that_only_answers_keep_alives() {
    let (port, connections) = rtsp_server(5, |_, _| None);
    let source = Source::rtsp_caller("in", &format!("rtsp://127.0.0.1:{port}/cam"));
    let rig = Rig::start(source.transport(RtspTransport::Tcp).idle_timeout(Duration::from_secs(1)), vec![]);
    let connected = |e: Event| match e {
        Event::SourceConnected { peer, .. } => peer,
        _ => None,
    };
    assert_eq!(rig.event(connected).port(), port);
    assert_eq!(rig.running.stats().sources[0].peer.map(|peer| peer.port()), Some(port));
    let (peer, reason) = rig.event(|e| match e {
        Event::SourceLost { peer, reason, .. } => Some((peer, reason)),
        _ => None,
    });
    assert_eq!((peer.map(|peer| peer.port()), reason), (Some(port), LossReason::Idle));
    rig.event(|e| matches!(e, Event::SourceRetrying { reason: LossReason::Idle, attempt: 1, .. }).then_some(()));
    rig.event(connected);
    let stats = rig.running.stats().sources.remove(0);
    let error = stats.last_error.unwrap();
    assert_eq!((error.kind, error.text.as_str()), ("idle", "no media for the idle timeout"));
    assert_eq!(stats.reconnections, 1);
    assert!(connections.load(Relaxed) >= 2);
    let metrics = rig.engine.metrics();
    assert!(metrics.contains("streamlink_last_error_age_seconds{"), "{metrics}");
    assert!(metrics.lines().any(|line| line.contains("reason=\"idle\"")), "{metrics}");
    rig.stop();
}

#[test]
fn rtsp_caller_sends_a_wrong_password_once_and_waits() {
    let tries = Arc::<AtomicUsize>::default();
    let seen = tries.clone();
    let (port, _) = rtsp_server(0, move |method, request| {
        if method == "OPTIONS" {
            return None;
        }
        seen.fetch_add(usize::from(request.contains("Authorization:")), Relaxed);
        Some("401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"R\", nonce=\"n1\"".into())
    });
    let source = Source::rtsp_caller("in", &format!("rtsp://127.0.0.1:{port}/cam"))
        .credentials(Credentials::new("user", "wrong").unwrap())
        .reconnect(Duration::from_millis(100), Duration::from_secs(1));
    let rig = Rig::start(source, vec![]);
    let (delay, reason) = rig.event(|e| match e {
        Event::SourceRetrying { delay, reason, .. } => Some((delay, reason)),
        _ => None,
    });
    assert!(delay >= Duration::from_secs(30), "{delay:?}");
    assert_eq!(reason, LossReason::Unauthorized("401 Unauthorized (to DESCRIBE)".into()));
    assert_eq!(tries.load(Relaxed), 1);
    assert_eq!(rig.running.stats().sources[0].state, State::Waiting);
    rig.stop();
}

#[test]
fn caller_tells_a_reason_again_when_it_changes() {
    let moods = ["404 Not Found", "404 Not Found", "503 Service Unavailable", "503 Service Unavailable"];
    let asked = AtomicUsize::new(0);
    let (port, connections) = rtsp_server(0, move |method, _| {
        if method != "DESCRIBE" {
            return None;
        }
        let mood = moods.get(asked.fetch_add(1, Relaxed)).or(moods.last());
        mood.map(|mood| (*mood).to_owned())
    });
    let source = Source::rtsp_caller("in", &format!("rtsp://127.0.0.1:{port}/cam"))
        .reconnect(Duration::from_millis(100), Duration::from_secs(1));
    let rig = Rig::start(source, vec![]);
    let retrying = |e: Event| match e {
        Event::SourceRetrying { attempt, reason, .. } => Some((attempt, reason.to_string())),
        _ => None,
    };
    let first = rig.event(retrying);
    assert_eq!(first, (1, "refused by the peer: 404 Not Found (to DESCRIBE)".into()));
    let second = rig.event(retrying);
    assert_eq!(second, (3, "refused by the peer: 503 Service Unavailable (to DESCRIBE)".into()));
    eventually("two more attempts", || (connections.load(Relaxed) >= 5).then_some(()));
    let mut later = rig.running.events();
    let all: Vec<Event> = std::iter::from_fn(|| later.try_next()).collect();
    assert!(all.contains(&Event::FlowStarted), "events since the start: {all:?}");
    assert_eq!(all.into_iter().filter_map(retrying).count(), 2);
    rig.stop();
}

/// An RTMP publisher of this rig, or the error of the request.
fn rtmp_publisher(rig: &Rig) -> std::io::Result<rtmp::Bare> {
    let mut publisher = rtmp::Bare::connect("127.0.0.1", rig.input_port(), "live")?;
    publisher.ask("publish", KEY, "NetStream.Publish.Start")?;
    Ok(publisher)
}

/// Sends a coded picture.
fn picture(publisher: &mut rtmp::Bare) {
    publisher.message(4, 9, 0, &[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65]).unwrap();
}

fn rtmp_listener(takeover: Takeover) -> Rig {
    let key = StreamKey::new(KEY).unwrap();
    Rig::start(Source::rtmp("in", "127.0.0.1:0", "live").key(key).takeover(takeover), vec![])
}

fn connected(rig: &Rig) {
    rig.event(|e| matches!(e, Event::SourceConnected { .. }).then_some(()));
}

fn taken_over(rig: &Rig) {
    rig.event(|e| matches!(e, Event::SourceLost { reason: LossReason::TakenOver, .. }).then_some(()));
}

#[test]
fn rtmp_listener_admits_another_publisher_once_the_first_is_silent() {
    let rig = rtmp_listener(Takeover::Idle);
    let mut first = rtmp_publisher(&rig).unwrap();
    picture(&mut first);
    connected(&rig);
    let mut second = eventually("a takeover", || rtmp_publisher(&rig).ok());
    taken_over(&rig);
    picture(&mut second);
    connected(&rig);
    first.read_until(b"never sent").unwrap_err();
    rig.stop();
}

#[test]
fn rtmp_listener_takes_over_at_once_or_never_as_set() {
    let rig = rtmp_listener(Takeover::Always);
    let mut first = rtmp_publisher(&rig).unwrap();
    picture(&mut first);
    connected(&rig);
    let mut second = rtmp_publisher(&rig).unwrap();
    taken_over(&rig);
    picture(&mut second);
    connected(&rig);
    rig.stop();

    let rig = rtmp_listener(Takeover::Never);
    let mut first = rtmp_publisher(&rig).unwrap();
    picture(&mut first);
    connected(&rig);
    thread::sleep(Duration::from_millis(800)); // longer than the loss threshold
    rtmp_publisher(&rig).unwrap_err();
    rig.event(|e| matches!(e, Event::PeerRefused { .. }).then_some(()));
    picture(&mut first);
    assert_eq!(rig.running.stats().sources[0].last_error.as_ref().unwrap().kind, "refused_in_use");
    rig.stop();
}

#[test]
fn rtmp_publisher_that_brings_nothing_is_lost_with_a_reason() {
    let key = StreamKey::new(KEY).unwrap();
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key).idle_timeout(Duration::from_secs(1));
    let rig = Rig::start(source, vec![]);
    let mut publisher = rtmp_publisher(&rig).unwrap();
    rig.event(|e| matches!(e, Event::SourceLost { reason: LossReason::Idle, peer: Some(_), .. }).then_some(()));
    publisher.read_until(b"never sent").unwrap_err();
    assert_eq!(rig.running.stats().sources[0].state, State::Waiting);
    rig.stop();
}

#[test]
fn rtsp_listener_admits_another_publisher_once_the_first_is_silent() {
    let rig = Rig::start(Source::rtsp_listener("in", "127.0.0.1:0", "cam"), vec![]);
    let url = rig.input();
    let mut first = rtsp::Bare::connect(&rig);
    first.record(&url, "");
    first.send(0);
    connected(&rig);
    let mut second = eventually("a takeover", || {
        let mut client = rtsp::Bare::connect(&rig);
        let headers = "Content-Type: application/sdp\r\n";
        let answer = client.ask(&format!("ANNOUNCE {url}"), headers, rtsp::SDP);
        answer.contains("200").then_some(client)
    });
    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n";
    assert!(second.ask(&format!("SETUP {url}/track"), transport, "").contains("200"));
    assert!(second.ask(&format!("RECORD {url}"), "", "").contains("200"));
    taken_over(&rig);
    second.send(1);
    connected(&rig);
    rig.stop();
}

/// A flow that sends what is pushed into it to an SRT listener.
fn srt_sender(port: u16) -> Rig {
    let output = Output::srt_caller("out", &format!("127.0.0.1:{port}"));
    Rig::start(Source::app_datagrams("in"), vec![output.into()])
}

/// An MPEG-TS packet of a PID, in which a PES packet of a video stream begins.
fn ts(pid: u16) -> Bytes {
    let mut packet = vec![0xff; 188];
    packet[..8].copy_from_slice(&[0x47, 0x40 | (pid >> 8) as u8, pid as u8, 0x10, 0, 0, 1, 0xe0]);
    packet.into()
}

/// Pushes a datagram every 20 ms until `done` is set, for a minute at most.
fn keep_pushing(rig: &Rig, datagram: Bytes, done: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let source = rig.running.app_source("in").unwrap();
    let done = done.clone();
    let end = Instant::now() + Duration::from_secs(60);
    thread::spawn(move || {
        while !done.load(Relaxed) && Instant::now() < end {
            let _ = source.push(Packet::datagram(datagram.clone(), Instant::now()));
            thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn srt_listener_admits_another_caller_once_the_first_is_silent() {
    let rig = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![]);
    let first = srt_sender(rig.input_port());
    let first_done = Arc::<AtomicBool>::default();
    let pushing = keep_pushing(&first, ts(256), &first_done);
    let peer = rig.event(|e| match e {
        Event::SourceConnected { peer, .. } => Some(peer),
        _ => None,
    });
    assert!(peer.is_some());
    first_done.store(true, Relaxed);
    pushing.join().unwrap();
    let second = srt_sender(rig.input_port());
    let done = Arc::<AtomicBool>::default();
    let pushing = keep_pushing(&second, ts(256), &done);
    taken_over(&rig);
    connected(&rig);
    done.store(true, Relaxed);
    pushing.join().unwrap();
    for rig in [first, second, rig] {
        rig.stop();
    }
}

#[test]
fn srt_source_with_null_packets_alone_is_lost_as_idle() {
    for listens in [true, false] {
        let idle = Duration::from_secs(1);
        let (source, sender) = if listens {
            let rig = Rig::start(Source::srt_listener("in", "127.0.0.1:0").idle_timeout(idle), vec![]);
            let sender = srt_sender(rig.input_port());
            (rig, sender)
        } else {
            let output = Output::srt_listener("out", "127.0.0.1:0");
            let sender = Rig::start(Source::app_datagrams("in"), vec![output.into()]);
            let address = sender.playback().trim_start_matches("srt://").to_owned();
            (Rig::start(Source::srt_caller("in", &address).idle_timeout(idle), vec![]), sender)
        };
        let done = Arc::<AtomicBool>::default();
        let pushing = keep_pushing(&sender, ts(0x1fff), &done);
        let lost = source.event(|e| match e {
            Event::SourceLost { reason, .. } => Some(reason),
            Event::SourceConnected { .. } => panic!("null packets are no media"),
            _ => None,
        });
        assert_eq!(lost, LossReason::Idle);
        assert_eq!(source.running.stats().sources[0].state, State::Waiting);
        done.store(true, Relaxed);
        pushing.join().unwrap();
        source.stop();
        sender.stop();
    }
}
