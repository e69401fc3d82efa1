//! Tests of the client session against scripted servers, with the answers of cameras and relays that players know.

use super::*;
use crate::random::Random;

const URL: &str = "rtsp://h:8554/cam?x=1";
const VIDEO: &str = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n";
const SOUND: &str = "m=audio 0 RTP/AVP 0\r\na=control:track2\r\n";
const TALK: &str = "m=audio 0 RTP/AVP 8\r\na=control:talk\r\na=sendonly\r\n";
const METADATA: &str =
    "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:meta\r\na=recvonly\r\n";

/// A client session, and the answers of a server.
struct Talk {
    client: ClientSession,
    /// Number of answers.
    answers: u32,
}

impl Talk {
    fn new(user: Option<User>, udp: bool) -> Self {
        let random = |bytes: &mut [u8]| bytes.fill(7);
        let client = ClientSession::new(ClientRole::Play, URL, user, udp, &Random::of(random));
        Self { client, answers: 0 }
    }

    /// Returns what the client has sent.
    fn sent(&mut self) -> String {
        if let Some(track) = self.client.wants_ports() {
            self.client.offer_ports(track, (5000, 5001));
        }
        String::from_utf8(self.client.take_output()).unwrap()
    }

    /// Returns the method and the URL of the request that the client has sent.
    fn request(&mut self) -> String {
        let sent = self.sent();
        sent.lines().next().unwrap_or_default().trim_end_matches(" RTSP/1.0").to_owned()
    }

    fn push(&mut self, bytes: impl AsRef<[u8]>) -> Vec<ClientEvent> {
        self.client.push(bytes.as_ref());
        std::iter::from_fn(|| self.client.next().unwrap()).collect()
    }

    fn answer(&mut self, status: &str, headers: &str, body: &str) -> Vec<ClientEvent> {
        self.answers += 1;
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.push(format!("RTSP/1.0 {status}\r\nCSeq: {}\r\n{headers}{length}\r\n{body}", self.answers))
    }

    /// Answers OPTIONS, and DESCRIBE with these media sections.
    fn describe(&mut self, headers: &str, sections: &[&str]) -> Vec<ClientEvent> {
        assert!(self.sent().starts_with("OPTIONS "));
        self.answer("200 OK", "Public: DESCRIBE, get_parameter\r\n", "");
        assert!(self.sent().starts_with("DESCRIBE "));
        self.answer("200 OK", headers, &sections.concat())
    }

    /// Agrees to SETUP and PLAY until the session runs.
    fn play(&mut self) {
        for _ in 0..20 {
            let sent = self.sent();
            let events = self.answer("200 OK", "Session: 1;timeout=60\r\n", "");
            if sent.starts_with("PLAY ") {
                assert_eq!(events, [ClientEvent::Ready]);
                return;
            }
        }
        panic!("it does not play");
    }
}

fn user() -> Option<User> {
    Some(User { name: "u".into(), password: "hunter2".into() })
}

fn challenge(nonce: &str, more: &str) -> String {
    format!("WWW-Authenticate: Digest realm=\"R\", nonce=\"{nonce}\"{more}\r\n")
}

#[test]
fn rtsp_client_renews_a_nonce_that_goes_stale_in_mid_session() {
    for more in ["", ", stale=true", ", stale=\"TRUE\", qop=\"auth\"", ", algorithm=SHA-256"] {
        let mut talk = Talk::new(user(), false);
        talk.sent();
        talk.answer("401 Unauthorized", &challenge("first", more), "");
        talk.describe("", &[VIDEO]);
        talk.play();
        for round in 0..3 {
            talk.client.keep_alive();
            assert!(talk.sent().starts_with("GET_PARAMETER "));
            let nonce = format!("nonce{round}");
            assert_eq!(talk.answer("401 Unauthorized", &challenge(&nonce, more), ""), []);
            let again = talk.sent();
            assert!(again.starts_with("GET_PARAMETER ") && again.contains(&nonce), "{again}");
            assert_eq!(talk.answer("200 OK", "", ""), []);
        }
        // A server that is never content is not asked without end, and the session stays.
        talk.client.keep_alive();
        let mut requests = 0;
        for round in 0..10 {
            requests += usize::from(!talk.sent().is_empty());
            assert_eq!(talk.answer("401 Unauthorized", &challenge(&format!("never{round}"), more), ""), []);
        }
        assert_eq!(requests, 3, "{more}");
    }
}

#[test]
fn rtsp_client_renews_a_nonce_between_requests_of_the_set_up() {
    let mut talk = Talk::new(user(), false);
    talk.sent();
    talk.answer("401 Unauthorized", &challenge("a", ""), "");
    talk.describe("", &[VIDEO]);
    for (number, method) in ["SETUP", "PLAY"].into_iter().enumerate() {
        assert!(talk.sent().starts_with(method));
        assert_eq!(talk.answer("401 Unauthorized", &challenge(&format!("b{number}"), ""), ""), []);
        assert!(talk.sent().starts_with(method));
        talk.answer("200 OK", "Session: 1\r\nAuthentication-Info: nextnonce=\"next\"\r\n", "");
    }
    talk.client.keep_alive();
    assert!(talk.sent().contains("nonce=\"next\""));
}

#[test]
fn rtsp_client_does_not_repeat_a_refused_password() {
    for (more, tries) in [("", 2), (", stale=true", 3)] {
        let mut talk = Talk::new(user(), false);
        let mut requests = 0;
        let mut last = Vec::new();
        for round in 0..10 {
            requests += usize::from(!talk.sent().is_empty());
            last.extend(talk.answer("401 hunter2 is wrong", &challenge(&format!("n{round}"), more), ""));
        }
        assert_eq!((requests, last.len()), (tries, 1), "{more}");
        assert!(
            matches!(&last[0], ClientEvent::Rejected(what) if what.starts_with("401 ") && !what.contains("hunter2"))
        );
    }
}

#[test]
fn rtsp_client_reports_redirections_at_every_request() {
    for status in ["300", "301 Moved", "302 Found", "303 See Other", "305 Use Proxy", "307 x", "308 Permanent"] {
        for stage in 0..4 {
            let mut talk = Talk::new(None, false);
            if stage > 0 {
                talk.sent();
                talk.answer("200 OK", "", "");
            }
            if stage > 1 {
                talk.sent();
                talk.answer("200 OK", "", VIDEO);
            }
            if stage > 2 {
                talk.sent();
                talk.answer("200 OK", "", "");
            }
            let asked = talk.request();
            let events = talk.answer(status, "location: /other?y=2\r\n", "");
            assert_eq!(events, [ClientEvent::Redirect("rtsp://h:8554/other?y=2".into())], "{status} to {asked}");
            assert_eq!(talk.client.take_moved().unwrap().reveal(), "rtsp://h:8554/other?y=2");
        }
    }
    let mut talk = Talk::new(None, false);
    talk.sent();
    assert!(
        matches!(&talk.answer("302 Found", "", "")[..], [ClientEvent::Rejected(what)] if what.starts_with("302 Found"))
    );
}

#[test]
fn rtsp_client_answers_requests_of_the_server() {
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO]);
    talk.play();
    for (request, status) in [
        ("OPTIONS * RTSP/1.0\r\nCSeq: 41\r\nSession: 1\r\n\r\n", "200 OK"),
        ("GET_PARAMETER rtsp://h/cam RTSP/1.0\r\nCSeq: 42\r\n\r\n", "200 OK"),
        ("SET_PARAMETER rtsp://h/cam RTSP/1.0\r\nCSeq: 43\r\nContent-Length: 5\r\n\r\nhello", "200 OK"),
        ("ANNOUNCE rtsp://h/cam RTSP/1.0\nCSeq: 44\nContent-Length: 3\n\nv=0", "200 OK"),
        ("PLAY rtsp://h/cam RTSP/1.0\r\nCSeq: 45\r\n\r\n", "501 Not Implemented"),
    ] {
        assert_eq!(talk.push(request), [], "{request}");
        let answer = talk.sent();
        assert!(answer.starts_with(&format!("RTSP/1.0 {status}\r\nCSeq: 4")), "{request}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"));
    }
    let moved = talk.push("REDIRECT rtsp://h/cam RTSP/1.0\r\nCSeq: 6\r\nLocation: RTSP://u:p@other/cam\r\n\r\n");
    assert_eq!(moved, [ClientEvent::Redirect("RTSP://u:p@other/cam".into())]);
    assert!(talk.sent().starts_with("RTSP/1.0 200 OK\r\nCSeq: 6"));
    let ended = talk.push("TEARDOWN rtsp://h/cam RTSP/1.0\r\nCSeq: 7\r\n\r\n");
    assert!(matches!(&ended[..], [ClientEvent::Rejected(what)] if what.contains("TEARDOWN")), "{ended:?}");
    assert!(talk.sent().starts_with("RTSP/1.0 200 OK\r\nCSeq: 7"));
    // A server that reads no answers is not answered without end.
    let mut talk = Talk::new(None, false);
    talk.client.push("OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(3000).as_bytes());
    assert!(matches!(talk.client.next(), Err(ProtocolError::Malformed(_))));
}

#[test]
fn rtsp_client_keeps_frames_that_come_before_the_answer_to_play() {
    let frame = |number: u8| vec![b'$', 0, 0, 12, 0x80, 96, 0, number, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO]);
    talk.sent();
    assert_eq!(talk.push(frame(0)), [], "before SETUP");
    talk.answer("200 OK", "", "");
    talk.sent();
    for number in 1..4 {
        assert_eq!(talk.push(frame(number)), []);
    }
    let events = talk.answer("200 OK", "", "");
    let numbers: Vec<u8> = events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Frame { channel: 0, data } => Some(data[3]),
            _ => None,
        })
        .collect();
    assert_eq!((&events[0], numbers), (&ClientEvent::Ready, vec![1, 2, 3]));
    assert_eq!(talk.push(frame(4)).len(), 1);
    assert_eq!(talk.client.take_dropped(), 1);
    // Bounded: what comes beyond is dropped and counted.
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO]);
    talk.sent();
    talk.answer("200 OK", "", "");
    let large = [vec![b'$', 0, 0xff, 0xff], vec![0x80; 0xffff]].concat();
    for _ in 0..40 {
        talk.push(&large);
    }
    assert_eq!(talk.client.take_dropped(), 40 - (1 << 20) / 0xffff);
}

#[test]
fn rtsp_client_takes_any_refusal_of_udp_for_one() {
    for status in ["400 Bad Request", "403 Forbidden", "404 Not Found", "406 Not Acceptable", "461", "500 x", "503"] {
        for at_play in [false, true] {
            let mut talk = Talk::new(None, true);
            talk.describe("", &[VIDEO]);
            assert!(talk.sent().contains("client_port=5000-5001"));
            if at_play {
                let ports = talk.answer("200 OK", "Transport: RTP/AVP;server_port=6000-6001;source=192.0.2.9\r\n", "");
                let source = "192.0.2.9".parse().ok();
                assert_eq!(ports, [ClientEvent::ServerPorts { track: 0, ports: (6000, 6001), source }]);
                talk.sent();
            }
            let events = talk.answer(status, "", "");
            assert!(matches!(&events[..], [ClientEvent::NoUdp(words)] if words.starts_with(status)), "{events:?}");
        }
    }
    for (transport, ports) in [
        ("", Some((0, 0))),
        ("Transport: RTP/AVP;server_port=0-1;source=0.0.0.0\r\n", Some((0, 0))),
        ("Transport: RTP/AVP/UDP;unicast;client_port=5000-5001\r\n", Some((0, 0))),
        ("Transport: RTP/AVP/TCP;interleaved=0-1\r\n", None),
    ] {
        let mut talk = Talk::new(None, true);
        talk.describe("", &[VIDEO]);
        talk.sent();
        match (&talk.answer("200 OK", transport, "")[..], ports) {
            ([ClientEvent::ServerPorts { ports: seen, source: None, .. }], Some(ports)) => assert_eq!(*seen, ports),
            ([ClientEvent::NoUdp(_)], None) => {}
            (other, _) => panic!("{transport}: {other:?}"),
        }
    }
}

#[test]
fn rtsp_client_leaves_out_tracks_that_are_refused() {
    for (sections, udp, answers, seen) in [
        (
            &[VIDEO, METADATA][..],
            false,
            &["200", "461"][..],
            "H.264; left out: ONVIF metadata (refused: 461 (to SETUP))",
        ),
        (&[METADATA, VIDEO], true, &["400", "200"], "H.264; left out: ONVIF metadata (refused: 400 (to SETUP))"),
        (&[VIDEO, SOUND], false, &["500", "200"], "G.711 µ-law; left out: H.264 (refused: 500 (to SETUP))"),
        (&[VIDEO, SOUND], true, &["200", "404"], "H.264; left out: G.711 µ-law (refused: 404 (to SETUP))"),
        (
            &[VIDEO, TALK, SOUND],
            true,
            &["200", "200"],
            "H.264, G.711 µ-law; left out: G.711 A-law (back channel, a=sendonly)",
        ),
        (&[VIDEO, METADATA], false, &["200", "200"], "H.264, ONVIF metadata"),
        // A server that marks everything means its own direction.
        (&[TALK], false, &["200"], "G.711 A-law"),
    ] {
        let mut talk = Talk::new(None, udp);
        talk.describe("", sections);
        for answer in answers {
            assert!(talk.sent().starts_with("SETUP "));
            talk.answer(answer, "", "");
        }
        assert!(talk.sent().starts_with("PLAY "), "{sections:?}");
        assert!(talk.answer("200 OK", "", "").ends_with(&[ClientEvent::Ready]));
        let presentation = talk.client.presentation().unwrap();
        assert_eq!(presentation.description(), seen);
        assert_eq!(presentation.tracks().len(), talk.client.tracks().len());
        assert!(talk.client.tracks().iter().all(Option::is_some));
    }
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO, SOUND]);
    talk.sent();
    assert_eq!(talk.answer("454 No", "", ""), []);
    talk.sent();
    assert_eq!(talk.answer("455 No", "", ""), [ClientEvent::Rejected("455 No (to SETUP)".into())]);
}

#[test]
fn rtsp_client_asks_for_back_channels_if_it_is_to() {
    let mut talk = Talk::new(None, false);
    talk.client.set_back_channel(true);
    talk.sent();
    talk.answer("200 OK", "", "");
    assert!(talk.sent().contains("Require: www.onvif.org/ver20/backchannel\r\n"));
    talk.answer("551 Option not supported", "", "");
    assert!(!talk.sent().contains("Require:"));
    let mut talk = Talk::new(None, false);
    talk.client.set_back_channel(true);
    talk.describe("", &[VIDEO, TALK]);
    talk.play();
    assert_eq!(talk.client.tracks().len(), 2);
}

#[test]
fn rtsp_client_names_tracks_and_session_as_servers_want_it() {
    let at = |headers: &str, session: &str, track: &str| {
        let mut talk = Talk::new(None, false);
        let section = VIDEO.replace("track1", track);
        talk.describe(headers, &["v=0\r\n", session, &section]);
        let set_up = talk.request();
        talk.answer("200 OK", "", "");
        (set_up, talk.request())
    };
    for (headers, session, track, set_up, play) in [
        ("", "", "track1", "rtsp://h:8554/cam?x=1/track1", "rtsp://h:8554/cam?x=1"),
        ("", "a=control:*\r\n", "t?y=1", "rtsp://h:8554/cam?x=1/t?y=1", "rtsp://h:8554/cam?x=1"),
        ("Content-Base: rtsp://i/b/\r\n", "", "track1", "rtsp://i/b/track1", "rtsp://i/b/"),
        ("content-location:rtsp://i/b\r\n", "", "*", "rtsp://i/b", "rtsp://i/b"),
        ("Content-Base: *\r\nContent-Location: /l/\r\n", "", "t", "rtsp://h:8554/l/t", "rtsp://h:8554/l/"),
        ("", "a=control:rtsp://h/session/7\r\n", "t1", "rtsp://h/session/7/t1", "rtsp://h/session/7"),
        ("Content-Base: rtsp://i/b/\r\n", "", "RTSP://h/x", "RTSP://h/x", "rtsp://i/b/"),
        ("Content-Base: rtsp://i/b/\r\n", "a=control:all\r\n", "t", "rtsp://i/b/t", "rtsp://i/b/all"),
    ] {
        let (first, second) = at(headers, session, track);
        assert_eq!((first, second), (format!("SETUP {set_up}"), format!("PLAY {play}")), "{headers}{session}{track}");
    }
    // Players send PLAY to the base where a relative name of the session is wrong.
    let mut talk = Talk::new(None, false);
    talk.describe("Content-Base: rtsp://i/b/\r\n", &["a=control:all\r\n", VIDEO]);
    talk.sent();
    talk.answer("200 OK", "", "");
    assert_eq!(talk.request(), "PLAY rtsp://i/b/all");
    assert_eq!(talk.answer("404 Not Found", "", ""), []);
    assert_eq!(talk.request(), "PLAY rtsp://i/b/");
    assert_eq!(talk.answer("200 OK", "", ""), [ClientEvent::Ready]);
}

#[test]
fn rtsp_client_takes_channels_and_sessions_in_odd_forms() {
    let long = "x".repeat(900);
    for (value, id, interval) in [
        ("ab cd; timeout = 20", "ab cd", 10),
        (long.as_str(), long.as_str(), 30),
        ("1;Timeout=\"8\"", "1", 4),
        ("1;timeout=0", "1", 30),
        ("1;timeout=6 s", "1", 3),
    ] {
        let mut talk = Talk::new(None, false);
        talk.describe("", &[VIDEO, SOUND]);
        talk.sent();
        // The channels of the first track for both: those that were asked for are used.
        talk.answer("200 OK", &format!("session:{value}\r\nTransport: rtp/avp/tcp; Interleaved = 10-11\r\n"), "");
        assert!(talk.sent().contains(&format!("\r\nSession: {id}\r\n")));
        talk.answer("200 OK", "Transport: RTP/AVP/TCP;interleaved=10-11\r\n", "");
        let seen = talk.client.tracks();
        assert_eq!(seen, [Some(SetUp::Tcp { rtp: 10, rtcp: 11 }), Some(SetUp::Tcp { rtp: 2, rtcp: 3 })]);
        assert_eq!(talk.client.keep_alive_interval().as_secs(), interval, "{value}");
    }
    // A keep-alive request that is refused, with a wrong number, is made in another way.
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO]);
    talk.play();
    for (method, status) in [("GET_PARAMETER", "405 No"), ("OPTIONS", "200 OK"), ("OPTIONS", "200 OK")] {
        talk.client.keep_alive();
        assert!(talk.sent().starts_with(method), "{method}");
        talk.answers = 100;
        assert_eq!(talk.answer(status, "", ""), []);
    }
}

#[test]
fn rtsp_client_says_that_it_refuses_a_description() {
    let mut talk = Talk::new(None, false);
    talk.sent();
    talk.answer("200 OK", "", "");
    talk.sent();
    talk.client.push(b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 14\r\n\r\n<html></html>\n");
    let error = talk.client.next().unwrap_err();
    assert_eq!(error.to_string(), "we refuse its SDP: no media section (`m=`) in 0 lines");
}

#[test]
fn rtsp_client_carries_credentials_to_the_next_connection_of_a_server_that_closes_after_401() {
    for more in ["", ", qop=\"auth\"", ", algorithm=SHA-256"] {
        let mut talk = Talk::new(user(), false);
        talk.sent();
        talk.answer("200 OK", "", "");
        assert!(talk.sent().starts_with("DESCRIBE "));
        assert_eq!(talk.answer("401 Unauthorized", &challenge("first", more), ""), []);
        let Ok(carried) = talk.client.closed() else { panic!("the answer is lost") };
        let mut next = Talk::new(user(), false);
        next.client.carry(carried.clone());
        let first = next.sent();
        assert!(first.starts_with("OPTIONS ") && first.contains("CSeq: 1\r\n"), "{first}");
        assert_eq!((first.matches("OPTIONS ").count(), first.matches("nonce=\"first\"").count()), (1, 1), "{first}");
        next.answer("200 OK", "", "");
        assert!(next.sent().contains("nonce=\"first\""));
        // A nonce of the connection is answered once, and a password that is wrong is not repeated without end.
        let mut bound = Talk::new(user(), false);
        bound.client.carry(carried);
        bound.sent();
        assert_eq!(bound.answer("401 Unauthorized", &challenge("second", more), ""), []);
        assert!(bound.sent().contains("nonce=\"second\""));
        let Err(why) = bound.client.closed() else { panic!("it would go on without end") };
        assert_eq!(why, "401 Unauthorized (to OPTIONS), then closed");
    }
}

#[test]
fn rtsp_client_names_the_request_to_which_a_server_has_not_responded() {
    let mut talk = Talk::new(user(), false);
    assert_eq!(talk.client.closed().map(|_| ()), Err("closed without a response to OPTIONS".into()));
    let mut talk = Talk::new(user(), false);
    talk.describe("", &[VIDEO]);
    assert_eq!(talk.client.closed().map(|_| ()), Err("closed without a response to SETUP".into()));
}

#[test]
fn rtsp_client_plays_without_a_range_if_the_server_refuses_it() {
    let mut talk = Talk::new(None, false);
    talk.describe("", &[VIDEO]);
    talk.sent();
    talk.answer("200 OK", "Session: 1\r\n", "");
    let first = talk.sent();
    assert!(first.starts_with("PLAY ") && first.contains("Range: "), "{first}");
    assert_eq!(talk.answer("457 Invalid Range", "", ""), []);
    let second = talk.sent();
    assert!(second.starts_with("PLAY ") && !second.contains("Range: "), "{second}");
    let events = talk.answer("457 Invalid Range", "", "");
    assert!(matches!(&events[..], [ClientEvent::Rejected(why)] if why.starts_with("457")), "{events:?}");
}

#[test]
fn rtsp_client_learns_how_long_a_busy_server_asks_to_stay_away() {
    for (header, wait) in [
        ("Retry-After: 30\r\n", Some(30)),
        ("retry-after:  0 \r\n", Some(0)),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", None),
        ("Retry-After: -1\r\n", None),
        ("", None),
    ] {
        let mut talk = Talk::new(None, false);
        talk.sent();
        talk.answer("200 OK", "", "");
        talk.sent();
        let events = talk.answer("503 Service Unavailable", header, "");
        assert!(matches!(&events[..], [ClientEvent::Rejected(_)]), "{events:?}");
        assert_eq!(talk.client.retry_after(), wait.map(std::time::Duration::from_secs), "{header}");
    }
}
