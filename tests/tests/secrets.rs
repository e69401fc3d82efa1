//! Secrets are shown nowhere: not by the relay, however it is used and however much it logs, and not in events, errors,
//! statistics, metrics, `Debug` and logs of the library.

use std::{
    fmt::{Debug, Display, Write as _},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::PathBuf,
    sync::{Mutex, Once, OnceLock, PoisonError},
};
use streamlink_core::{
    Bitrate, Credentials, Engine, Event, Flow, FlowHandle, KeyLength, Output, Passphrase, Source, StreamKey,
};
use streamlink_tests::{
    eventually,
    peer::{self, Peer},
    rig::{Rig, free_port},
};

/// All secrets of these tests begin so; a name says which one has come out.
const MARK: &str = "hunter2-";
const USER: &str = "me";

/// Fails when a text holds a secret, or the Basic credentials made of one.
#[track_caller]
fn assert_clean(text: &str, of: &str) {
    for line in text.lines() {
        assert!(!line.contains(MARK), "a secret in {of}: {line}");
        // `me:hunter2-…` in base64, up to the first character that the name of the secret has a part in.
        assert!(!line.contains("bWU6aHVudGVyMi"), "credentials in {of}: {line}");
    }
}

/// A relay that logs all that it can.
fn relay(arguments: &[&str]) -> Peer {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| peer::example("relay"));
    Peer::start("env", &[&["RUST_LOG=trace", program.to_str().unwrap()], arguments].concat())
}

fn json_file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("flow.json");
    std::fs::write(&path, text).unwrap();
    path
}

fn port_of(url: &str) -> u16 {
    let rest = url.split_once("://").unwrap().1;
    rest.split(['/', '?']).next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Calls an SRT listener with a passphrase, until it is let in or refused.
fn call_srt(port: u16, passphrase: &str, done: impl Fn(&Event) -> bool) {
    let output = Output::srt_caller("call", &format!("127.0.0.1:{port}"))
        .encryption(Passphrase::new(passphrase).unwrap(), KeyLength::Aes128);
    let rig = Rig::start(Source::app_datagrams("in"), vec![output.into()]);
    rig.event(|event| done(&event).then_some(()));
    rig.stop();
}

#[test]
fn relay_shows_no_passphrase_whatever_it_is_told() {
    let mut relay = relay(&[
        "--source",
        "srt://127.0.0.1:0?mode=listener&passphrase=hunter2-source",
        "--output",
        "partner=srt://127.0.0.1:0?mode=listener&passphrase=hunter2-output&streamid=hunter2x",
        "--output",
        "push=rtmp://127.0.0.1:1/live?key=hunter2-push",
        "--stats",
        "json",
    ]);
    let port = port_of(&relay.wait_for_word("input address: "));
    call_srt(port, "hunter2-source", |e| matches!(e, Event::OutputConnected { .. }));
    call_srt(port, "hunter2-wrong", |e| matches!(e, Event::OutputLost { .. }));
    relay.wait_for("wrong passphrase");
    let port = port_of(&relay.wait_for_word("playback URL of partner: "));
    relay.tell(&format!("add good=srt://127.0.0.1:{port}?passphrase=hunter2-output&streamid=hunter2x"));
    relay.wait_for("\nok\n");
    relay.tell(&format!("add bad=srt://127.0.0.1:{port}?passphrase=hunter2-refused&streamid=hunter2x"));
    eventually("the second answer", || (relay.output().matches("\nok\n").count() == 2).then_some(()));
    for wrong in [
        "add a=srt://127.0.0.1:9?passphrase=hunter2-&pbkeylen=33",
        "add a=srt://127.0.0.1:9?passphrase=hunter2-1&hunter2-rest=1",
        "add a=srt://127.0.0.1:9?passphrase=hunter2-1&hunter2-rest",
        "add a=srt://127.0.0.1:9?latency=120;passphrase=hunter2-semicolon",
        "add a=srt://127.0.0.1:9/hunter2-path",
        "add a=srt:/127.0.0.1:9?passphrase=hunter2-slash",
        "add srt://127.0.0.1:9?passphrase=hunter2-unnamed",
        "add a rtmp://127.0.0.1:1/live/hunter2-unnamed",
        "add a=rtmp//127.0.0.1:1/live/hunter2-scheme",
        "add a=rtmp://127.0.0.1:1/live/hunter2-é",
        "add a=rtmp://127.0.0.1:1/live?key=hunter2-/slash",
        "add a=rtmp://127.0.0.1:x/live?key=hunter2-port",
        "add a=rtmp://me:hunter2-user@127.0.0.1:1x/live?key=k",
        "add a=rtmp://a.example/live?key=K&second=rtmp://b.example/live/hunter2-second",
        "add a=rtsp://me:hunter2-password@127.0.0.1:1/cam",
        "add a=rtsp://me:hunter2-pass/word@127.0.0.1:1/cam",
        "add a=rtsp://me:hunter2-pass?word@127.0.0.1:1/cam",
        "add a=rtsp://me:hunter2-pass",
        "ad a=srt://127.0.0.1:9?passphrase=hunter2-verb",
        "srt://127.0.0.1:9?passphrase=hunter2-alone",
        "allow source srt://127.0.0.1:9?passphrase=hunter2-list",
        "bandwidth srt://127.0.0.1:9?passphrase=hunter2-rate",
    ] {
        relay.tell(wrong);
    }
    relay.tell("remove nobody");
    relay.wait_for("there is no output named `nobody`");
    relay.tell("quit");
    assert!(relay.finish().success());
    let said = relay.output();
    assert!(said.contains("TRACE") || said.contains("DEBUG") || said.contains("INFO"), "it logs: {said}");
    assert!(said.contains("`good` connected") || said.contains("OutputConnected"), "{said}");
    assert_clean(&said, "what the relay says");
}

#[test]
fn relay_prints_stream_keys_once_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{ "name": "relay", "max_bandwidth": "20M",
        "sources": [{ "name": "in", "url": "rtmp://127.0.0.1:0/live/hunter2-input?mode=listener" }],
        "outputs": [{ "name": "play", "url": "rtmp://127.0.0.1:0/live/hunter2-play?mode=listener" },
                    { "name": "push", "url": "rtmp://127.0.0.1:1/app", "key": "hunter2-push" }] }"#;
    let file = json_file(&folder, json);
    let mut relay = relay(&["--config", file.to_str().unwrap(), "--stats", "json"]);
    let input = relay.wait_for_word("input address: ");
    let play = relay.wait_for_word("playback URL of play: ");
    assert!(input.ends_with("/live/hunter2-input") && play.ends_with("/live/hunter2-play"));
    // Publishers and players with another key, and with the right one.
    for (key, right) in [("hunter2-wrong", false), ("hunter2-input", true)] {
        let push = Output::rtmp_push(
            "out",
            &format!("rtmp://127.0.0.1:{}/live", port_of(&input)),
            StreamKey::new(key).unwrap(),
        );
        let rig = Rig::start(Source::app_rtmp("in"), vec![push.into()]);
        rig.event(|e| match e {
            Event::OutputConnected { .. } => right.then_some(()),
            Event::OutputLost { .. } => (!right).then_some(()),
            _ => None,
        });
        rig.stop();
    }
    let url = format!("rtmp://127.0.0.1:{}/live", port_of(&play));
    let rig = Rig::start(Source::rtmp_pull("in", &url, StreamKey::new("hunter2-wrong").unwrap()), vec![]);
    rig.event(|e| matches!(e, Event::SourceLost { .. }).then_some(()));
    rig.stop();
    relay.wait_for("no such stream");
    relay.tell("quit");
    assert!(relay.finish().success());
    let said = relay.output();
    // The input address is printed as one URL, and with server and key apart.
    for (key, count) in [("hunter2-input", 2), ("hunter2-play", 1)] {
        assert_eq!(said.matches(key).count(), count, "{key} in {said}");
    }
    let apart = input.replace("/hunter2-input", " hunter2-input");
    assert!(said.contains(&format!("input address, as server and stream key: {apart}")), "{said}");
    let rest = said.replace(&input, "").replace(&play, "").replace(&apart, "");
    assert_clean(&rest, "what the relay says beside its addresses");
}

#[test]
fn relay_does_not_repeat_arguments_and_documents_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let url = "srt://127.0.0.1:0?mode=listener&passphrase=hunter2-url";
    let with = |json: &str| vec!["--config".to_owned(), json_file(&folder, json).to_str().unwrap().to_owned()];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let documents = [
        r#"{ "name": "hunter2-x" "#,
        r#"{ "name": "f", "max_bandwidth": "1M", "sources": [{ "name": "a", "url": "srt://:0", "passphrase": "hunter2-" "#,
        r#"{ "name": "f", "max_bandwidth": "srt://h:1?passphrase=hunter2-rate", "sources": ["hunter2-text"],
            "outputs": [{ "name": "o", "url": { "u": "hunter2-object" }, "passphrase": ["hunter2-list"] }] }"#,
        r#"{ "name": "f", "max_bandwidth": "1M", "sources": [{ "name": "a", "url": "rtmp//h/live/hunter2-key" }] }"#,
        r#"{ "name": "f", "max_bandwidth": "1M", "sources": [{ "name": "a", "url": "rtsp://me:hunter2-a:b@h:x/cam" }] }"#,
        r#"{ "name": "f", "max_bandwidth": "1M", "sources": [{ "name": "a", "url": "srt://h:1", "passphrase": "hunter2-",
            "streamid": "hunter2-\u0007", "latency": "120&passphrase=hunter2-value" }] }"#,
    ];
    for document in documents {
        let arguments = with(document);
        let mut relay = relay(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!relay.finish().success());
        assert_clean(&relay.output(), document);
    }
    for arguments in [
        words(&[url]),
        words(&["--source", url, "rtmp://h/live/hunter2-positional"]),
        words(&["--sorce", url]),
        words(&[&format!("--sorce={url}")]),
        words(&[&format!("--{url}")]),
        words(&["--source", url, "--max-bandwidth", url]),
        words(&["--source", url, "--stats", url]),
        words(&["--source", url, "--output", url]),
        words(&["--source", url, "--source", url]),
        words(&["--source", url, "--config", "hunter2x"]),
        words(&["--source", url, "--allow", url]),
        words(&["--output", "rtmp://h/live/hunter2-output"]),
    ] {
        let mut relay = relay(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!relay.finish().success(), "{arguments:?}");
        let said = relay.output();
        assert!(!said.is_empty());
        assert_clean(&said, &arguments.join(" "));
    }
}

/// Log of the library in this process.
static LOG: Mutex<String> = Mutex::new(String::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(log, "{} {}", record.target(), record.args());
    }
    fn flush(&self) {}
}

fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Capture).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// All that was said of a flow and by it.
#[derive(Default)]
struct Said(String);

impl Said {
    fn show(&mut self, thing: &impl Debug) {
        let _ = writeln!(self.0, "{thing:?}\n{thing:#?}");
    }
    fn error(&mut self, error: &(impl Debug + Display)) {
        let _ = writeln!(self.0, "{error}\n{error:?}");
    }
    fn flow(&mut self, engine: &Engine, running: &FlowHandle) {
        self.show(engine);
        self.show(running);
        self.show(&engine.stats());
        self.0 += &engine.metrics();
    }
}

impl Said {
    /// Runs a flow until an event has come, and shows it all.
    fn run(&mut self, source: impl Into<Source>, outputs: Vec<Output>, until: impl Fn(&Event) -> bool) -> Rig {
        let source = source.into();
        self.show(&source);
        self.show(&outputs);
        let rig = Rig::start(source, outputs);
        let mut seen = Vec::new();
        rig.engine.block_on(async {
            let wait = async {
                while let Some(event) = rig.running.next_event().await {
                    let found = until(&event);
                    seen.push(event);
                    if found {
                        return;
                    }
                }
            };
            tokio::time::timeout(streamlink_tests::PATIENCE, wait).await.expect("the event comes");
        });
        for event in &seen {
            self.error(event);
        }
        self.flow(&rig.engine, &rig.running);
        rig
    }
}

/// A server that answers every RTSP request with a status and headers; `ECHO` stands for what the client has sent as
/// its authorization.
fn rtsp_server(answers: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20).map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut cseq = String::new();
            let mut echo = String::new();
            let mut count = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                if let Some(value) = line.strip_prefix("CSeq: ") {
                    cseq = value.trim().to_owned();
                } else if let Some(value) = line.strip_prefix("Authorization: ") {
                    echo = value.trim().to_owned();
                } else if line.trim().is_empty() {
                    let answer = answers[std::cmp::min(count, answers.len() - 1)].replace("ECHO", &echo);
                    let (status, headers) = answer.split_once('\n').unwrap_or((&answer, ""));
                    let said = write!(&stream, "RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}\r\n");
                    count += 1;
                    if said.is_err() {
                        break;
                    }
                }
                line.clear();
            }
        }
    });
    port
}

fn lost(event: &Event) -> bool {
    matches!(event, Event::SourceLost { .. } | Event::OutputLost { .. })
}

#[test]
fn events_logs_and_statistics_hold_no_password_of_rtsp() {
    capture();
    let mut said = Said::default();
    let right = || Credentials::new(USER, "hunter2-right").unwrap();
    let output = Output::rtsp_listener("play", "127.0.0.1:0", "cam").credentials(right());
    let input = Source::rtsp_listener("in", "127.0.0.1:0", "cam").credentials(right());
    let server = said.run(input, vec![output.into()], |e| matches!(e, Event::FlowStarted));
    let play = port_of(&server.playback());
    let input = server.input_port();
    // Digest, right and wrong; the password in the URL, and beside it.
    let url = |port: u16, password: &str| format!("rtsp://{USER}:{password}@127.0.0.1:{port}/cam?transport=tcp");
    said.run(Source::from_url("pull", &url(play, "hunter2-wrong")), vec![], lost).stop();
    said.run(Source::from_url("pull", &url(play, "hunter2-right")), vec![], lost).stop(); // nothing plays there: 404
    for password in ["hunter2-wrong", "hunter2-right"] {
        let push = Output::rtsp_caller("push", &format!("rtsp://127.0.0.1:{input}/cam"))
            .credentials(Credentials::new(USER, password).unwrap());
        let rig = said.run(Source::app_rtsp("in"), vec![push.into()], |e| matches!(e, Event::FlowStarted));
        rig.stop();
    }
    // Servers that ask for Basic and repeat what they get, and those that send elsewhere.
    const BASIC: &str = "401 Unauthorized\nWWW-Authenticate: Basic realm=\"x\"\r\n";
    for answers in [
        &[BASIC, "403 you sent ECHO, hunter2-echo"][..],
        &["302 Moved\nLocation: rtsp://admin:hunter2-moved@127.0.0.1:1/cam?token=hunter2-token\r\n"],
        &["302 Moved\nLocation: http://127.0.0.1:1/hunter2-path?token=hunter2-token\r\n"],
        // No address, and no path either.
        &["302 Moved\nLocation: me:hunter2-nothing@host/cam\r\n"],
    ] {
        let port = rtsp_server(Box::leak(answers.to_vec().into_boxed_slice()));
        let rig = said.run(Source::from_url("pull", &url(port, "hunter2-echo")), vec![], lost);
        rig.stop();
    }
    said.flow(&server.engine, &server.running);
    server.stop();
    assert_clean(&said.0, "what is said of RTSP");
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    assert_clean(&log, "the log");
    // What is hidden is still told of.
    assert!(log.contains("is redirected to rtsp://127.0.0.1:1/cam?…"), "{log}");
    assert!(said.0.contains("moved to http://127.0.0.1:1/…?…"), "{}", said.0);
}

#[test]
fn events_logs_and_statistics_hold_no_key_and_no_passphrase() {
    capture();
    let mut said = Said::default();
    let key = |name: &str| StreamKey::new(name).unwrap();
    let play = Output::rtmp_pull("play", "127.0.0.1:0", "live").key(key("hunter2-play"));
    let server = said.run(Source::rtmp("in", "127.0.0.1:0", "live").key(key("hunter2-in")), vec![play.into()], |e| {
        matches!(e, Event::FlowStarted)
    });
    let url = format!("rtmp://127.0.0.1:{}/live", port_of(&server.playback()));
    said.run(Source::rtmp_pull("pull", &url, key("hunter2-wrong")), vec![], lost).stop();
    let url = format!("rtmp://127.0.0.1:{}/live", server.input_port());
    for name in ["hunter2-wrong", "hunter2-in"] {
        let push = Output::rtmp("push", &url, key(name)).second("rtmp://127.0.0.1:1/live", key("hunter2-second"));
        let done = |e: &Event| lost(e) || matches!(e, Event::OutputConnected { .. });
        said.run(Source::app_rtmp("in"), vec![push.into()], done).stop();
    }
    said.flow(&server.engine, &server.running);
    // Two flows at one address and key.
    let address = format!("127.0.0.1:{}", free_port());
    let flow = |name: &str| {
        let source = Source::rtmp("in", &address, "live").key(key("hunter2-twice"));
        Flow::builder(name, Bitrate::mbps(1)).source(source).build().unwrap()
    };
    let first = server.engine.block_on(server.engine.start(flow("a"))).unwrap();
    said.error(&server.engine.block_on(server.engine.start(flow("b"))).unwrap_err());
    said.flow(&server.engine, &first);
    said.show(&flow("c"));
    server.engine.block_on(first.stop());
    server.stop();

    let secret = |text: &str| Passphrase::new(text).unwrap();
    let listener = Source::srt_listener("in", "127.0.0.1:0").encryption(secret("hunter2-srt"), KeyLength::Aes256);
    let rig = said.run(listener, vec![], |e| matches!(e, Event::FlowStarted));
    for (passphrase, done) in [("hunter2-wrong", false), ("hunter2-srt", true)] {
        let call = Output::srt_caller("call", &rig.input()["srt://".len()..])
            .encryption(secret(passphrase), KeyLength::Aes256);
        let until = |e: &Event| if done { matches!(e, Event::OutputConnected { .. }) } else { lost(e) };
        said.run(Source::app_datagrams("in"), vec![call.into()], until).stop();
    }
    said.flow(&rig.engine, &rig.running);
    rig.stop();
    said.show(&secret("hunter2-srt"));
    said.error(&Passphrase::new(MARK).unwrap_err());
    said.error(&StreamKey::new("hunter2- ").unwrap_err());
    said.error(&Credentials::new(USER, "hunter2-\n").unwrap_err());
    said.error(&Credentials::new("hunter2-:x", "y").unwrap_err());
    assert_clean(&said.0, "what is said of RTMP and SRT");
    assert_clean(&LOG.lock().unwrap_or_else(PoisonError::into_inner), "the log");
}

#[test]
fn errors_about_tls_hold_no_private_key() {
    let pem = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let ((certificate, key), (_, other)) = (pem("localhost"), pem("localhost"));
    let mut said = Said::default();
    let half: String = key.chars().take(key.len() / 2).collect();
    for bad in [&other, &half, &key.replace("BEGIN PRIVATE", "BEGIN STRANGE"), &key.replacen('M', "!", 1)] {
        said.error(&Engine::builder().tls_identity(certificate.as_bytes(), bad.as_bytes()).unwrap_err());
    }
    said.error(&Engine::builder().tls_identity(key.as_bytes(), key.as_bytes()).unwrap_err());
    let builder = Engine::builder().tls_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
    said.show(&builder);
    said.show(&builder.build().unwrap());
    for line in key.lines().chain(other.lines()).filter(|line| !line.starts_with('-')) {
        assert!(!said.0.contains(&line[..line.len().min(20)]), "a private key in {}", said.0);
    }
}

#[test]
fn peer_text_in_events_cannot_deceive() {
    const ANSWER: &str = "404 gone \u{202e}live\u{1b}[2J\u{2028}\u{200b}";
    let port = rtsp_server(&[ANSWER]);
    let url = format!("rtsp://127.0.0.1:{port}/cam?transport=tcp");
    let rig = Rig::start(Source::from_url("pull", &url), vec![]);
    let reason = rig.event(|e| match e {
        Event::SourceLost { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    rig.stop();
    assert!(reason.contains("gone"), "{reason}");
    for c in ['\u{202e}', '\u{1b}', '\u{2028}', '\u{200b}'] {
        assert!(!reason.contains(c), "{reason:?}");
    }
    assert!(reason.contains("\\u{202e}live\\u{1b}[2J\\u{2028}\\u{200b}"), "{reason}");
    // An SDP whose encoding has a name that turns the line around.
    let rig = Rig::start(Source::rtsp_listener("in", "127.0.0.1:0", "cam"), vec![]);
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 E\u{202e}VIL/8000\r\n\
               a=control:track\r\n";
    let mut client = streamlink_tests::rtsp::Bare::connect(&rig);
    let url = rig.input();
    client.ask(&format!("ANNOUNCE {url}"), "Content-Type: application/sdp\r\n", sdp);
    client.ask(&format!("SETUP {url}/track"), "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n", "");
    client.ask(&format!("RECORD {url}"), "Session: 1\r\n", "");
    let description = rig.event(|e| match e {
        Event::MediaDescribed { description, .. } => Some(description.to_string()),
        _ => None,
    });
    assert_eq!(description, "E\\u{202e}VIL");
    let media = eventually("a description", || rig.running.stats().sources[0].media.clone());
    assert_eq!(media, "E\\u{202e}VIL");
    rig.stop();
}
