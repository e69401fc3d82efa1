//! Trust in the certificates of servers, certificates that are replaced, and floods of handshakes.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Flow, FlowHandle, LossReason, Output, Packet, PeerLimits, RefusalReason, RtmpKind, Source,
    State, StreamKey,
};
use streamlink_tests::{
    eventually,
    rig::free_port,
    rtsp::{SDP, rtp},
};

struct Made {
    certificate: String,
    key: String,
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A certificate that has signed itself.
fn own(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    Made { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn listening(made: &Made) -> (Engine, FlowHandle, u16) {
    let engine = Engine::builder().workers(1).peer_limits(PeerLimits::new().pending(8));
    let engine = engine.tls_identity(made.certificate.as_bytes(), made.key.as_bytes()).unwrap().build().unwrap();
    let port = free_port();
    let source = Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(StreamKey::new("KEY").unwrap()).tls();
    let flow = Flow::builder("listener", Bitrate::mbps(20)).source(source).output(Output::tap("tap"));
    let flow = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    (engine, flow, port)
}

/// Calls a listener. Returns the reason why it is not trusted, or `None` once it is connected.
fn calls(port: u16, host: &str, roots: &str, fingerprint: &str) -> Option<String> {
    let mut engine = Engine::builder().workers(1);
    if !roots.is_empty() {
        engine = engine.tls_roots(roots.as_bytes()).unwrap();
    }
    let engine = engine.build().unwrap();
    let mut url = format!("rtmps://{host}:{port}/live/KEY");
    if !fingerprint.is_empty() {
        url += &format!("?tls_fingerprint={fingerprint}");
    }
    let flow =
        Flow::builder("caller", Bitrate::mbps(20)).source(Source::app_rtmp("in")).output(Output::from_url("out", &url));
    let flow = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let outcome = engine.block_on(async {
        loop {
            match flow.next_event().await {
                Some(Event::OutputConnected { .. }) => return None,
                Some(Event::OutputLost { reason: LossReason::Untrusted(words), .. }) => return Some(words.to_string()),
                Some(Event::OutputLost { reason, .. }) => panic!("{reason}"),
                Some(_) => {}
                None => panic!("the flow has ended"),
            }
        }
    });
    engine.block_on(flow.stop());
    outcome
}

fn fingerprint_in(words: &str) -> String {
    words.rsplit_once("fingerprint is ").unwrap().1.to_owned()
}

#[test]
fn tls_own_certificate_is_trusted_by_file_and_by_fingerprint() {
    let mut authority = params("localhost");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (made, said) in [
        (own(params("localhost")), "is signed by an unknown issuer: trust it"),
        (own(authority), "is that of an authority, which may sign others, and not that of a server: trust it"),
    ] {
        let (engine, flow, port) = listening(&made);
        let words = calls(port, "localhost", "", "").expect("not trusted");
        assert!(words.contains(said) && words.contains("tls_fingerprint"), "{words}");
        let fingerprint = fingerprint_in(&words);
        assert_eq!(fingerprint.len(), 95, "{words}");
        assert_eq!(calls(port, "localhost", &made.certificate, ""), None);
        let plain = fingerprint.replace(':', "").to_lowercase();
        for pin in [&fingerprint, &plain, &format!("{},{plain}", "00".repeat(32))] {
            assert_eq!(calls(port, "127.0.0.1", "", pin), None, "{pin}");
        }
        // Fingerprints are the only trust where there are any.
        let words = calls(port, "localhost", &made.certificate, &"00".repeat(32)).expect("another");
        assert!(words.contains("is not the one that `tls_fingerprint` names"), "{words}");
        engine.block_on(flow.stop());
    }
}

#[test]
fn tls_refused_certificate_is_explained() {
    let mut expired = params("localhost");
    expired.not_after = date_time_ymd(2024, 2, 29);
    let mut early = params("localhost");
    early.not_before = date_time_ymd(2090, 1, 1);
    early.not_after = date_time_ymd(2091, 1, 1);
    for (params, said) in [
        (expired, "has expired on 2024-02-29 00:00:00 UTC"),
        (early, "is not valid before 2090-01-01 00:00:00 UTC"),
        (params("studio.example"), "is not valid for `localhost`; it names studio.example"),
    ] {
        let made = own(params);
        let (engine, flow, port) = listening(&made);
        let words = calls(port, "localhost", &made.certificate, "").expect("refused");
        assert!(words.contains(said), "{words}");
        assert_eq!(calls(port, "localhost", "", &fingerprint_in(&words)), None, "{said}");
        engine.block_on(flow.stop());
    }
}

#[test]
fn tls_identity_is_replaced_while_listeners_run() {
    let old = own(params("localhost"));
    let new = own(params("localhost"));
    let (engine, flow, port) = listening(&old);
    assert_eq!(calls(port, "localhost", &old.certificate, ""), None);
    assert!(engine.set_tls_identity(new.certificate.as_bytes(), old.key.as_bytes()).is_err());
    assert_eq!(calls(port, "localhost", &old.certificate, ""), None, "what was set stays");
    engine.set_tls_identity(new.certificate.as_bytes(), new.key.as_bytes()).unwrap();
    assert!(calls(port, "localhost", &old.certificate, "").is_some());
    assert_eq!(calls(port, "localhost", &new.certificate, ""), None);
    engine.block_on(flow.stop());
}

#[test]
fn tls_fingerprint_without_tls_is_refused() {
    let pin = "00".repeat(32);
    for (source, output) in [
        ("rtmp://:0/a/b?mode=listener", "rtmp://localhost/live/KEY"),
        ("rtsp://:0/a?mode=listener", "rtsp://localhost/cam"),
    ] {
        let flow = Flow::builder("f", Bitrate::mbps(1))
            .source(Source::from_url("in", source))
            .output(Output::from_url("out", &format!("{output}?mode=caller&tls_fingerprint={pin}")));
        let error = flow.build().unwrap_err().to_string();
        assert!(error.contains("tls_fingerprint") && error.contains("needs TLS"), "{error}");
    }
}

#[test]
fn tls_handshake_flood_is_bounded_and_reported() {
    let made = own(params("localhost"));
    let (engine, flow, port) = listening(&made);
    // A publisher of another address, whom the flood must not disturb.
    let victim = Engine::builder().workers(1).tls_roots(made.certificate.as_bytes()).unwrap().build().unwrap();
    let url = format!("rtmps://localhost:{port}/live/KEY?bind=127.0.0.2:0");
    let publisher = Flow::builder("publisher", Bitrate::mbps(20))
        .source(Source::app_rtmp("in"))
        .output(Output::from_url("out", &url));
    let publisher = victim.block_on(victim.start(publisher.build().unwrap())).unwrap();
    let connected = || (publisher.stats().outputs[0].state == State::Connected).then_some(());
    eventually("the publisher", connected);
    let camera = publisher.app_source("in").unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let sending = thread::spawn(move || {
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let _ = camera.push(Packet::rtmp(RtmpKind::Audio, number * 20, vec![0xaf, 1, 0, 0], Instant::now()));
            thread::sleep(Duration::from_millis(20)); // the pace of sound
        }
    });
    let refusal = |wanted: RefusalReason| {
        let found = async {
            loop {
                match flow.next_event().await {
                    Some(Event::PeerRefused { reason, .. }) if reason == wanted => return,
                    Some(_) => {}
                    None => panic!("the flow has ended"),
                }
            }
        };
        let timed = async { tokio::time::timeout(Duration::from_secs(30), found).await };
        engine.block_on(timed).unwrap_or_else(|_| panic!("no event about {wanted}"));
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Whoever speaks no TLS is told apart.
    let mut garbage = TcpStream::connect(address).unwrap();
    garbage.write_all(&[3; 64]).unwrap();
    refusal(RefusalReason::EncryptionMismatch);
    // Silent ones, and slow ones.
    let mut held = vec![garbage];
    for _ in 0..64 {
        held.push(TcpStream::connect(address).unwrap());
        let mut slow = TcpStream::connect(address).unwrap();
        let _ = slow.write_all(&[0x16, 3, 1]); // may be closed already
        held.push(slow);
    }
    refusal(RefusalReason::TooManyFromAddress);
    // All of them are closed, at the latest when the time for the handshake is over.
    for mut stream in held {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(flow.stats().sources[0].refused >= 128);
    assert_eq!(connected(), Some(()));
    is_over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    assert_eq!(publisher.stats().outputs[0].reconnections, 0);
    victim.block_on(publisher.stop());
    engine.block_on(flow.stop());
}

#[test]
fn tls_rtsp_caller_follows_a_redirection_from_rtsp_to_rtsps() {
    let made = own(params("localhost"));
    let engine = Engine::builder().workers(1);
    let engine = engine.tls_identity(made.certificate.as_bytes(), made.key.as_bytes()).unwrap().build().unwrap();
    let port = free_port();
    let output = Output::from_url("out", &format!("rtsps://127.0.0.1:{port}/live?mode=listener"));
    let flow = Flow::builder("server", Bitrate::mbps(20)).source(Source::app_rtsp("in")).output(output);
    let server = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let app = server.app_source("in").unwrap();
    app.set_sdp(SDP).unwrap();

    // A plain server that only knows where the stream is now.
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let front_port = front.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in front.incoming().take(20) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut request) {
                let request = String::from_utf8_lossy(&request[..length]);
                let cseq = request.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("1");
                let location = format!("rtsps://localhost:{port}/live");
                let answer = format!("RTSP/1.0 302 Moved\r\nCSeq: {cseq}\r\nLocation: {location}\r\n\r\n");
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });

    let caller = Engine::builder().workers(1).tls_roots(made.certificate.as_bytes()).unwrap().build().unwrap();
    let source = Source::from_url("in", &format!("rtsp://localhost:{front_port}/cam"));
    let flow = Flow::builder("caller", Bitrate::mbps(20)).source(source).output(Output::tap("tap"));
    let flow = caller.block_on(caller.start(flow.build().unwrap())).unwrap();
    let mut sequence = 0;
    eventually("media over RTSPS", || {
        app.push(Packet::rtsp(0, rtp(sequence), Instant::now())).unwrap();
        sequence += 1;
        (flow.stats().sources[0].packets > 0).then_some(())
    });
    eventually("the player of the server", || (server.stats().outputs[0].players.len() == 1).then_some(()));
    caller.block_on(flow.stop());
    engine.block_on(server.stop());
}
