//! Tests of client and server sessions against each other, recorded clients and hostile peers.

use super::*;
use crate::{media::rtsp::Presentation, random::Random};
use proptest::prelude::*;
use reader::{Item, Reader};
use std::sync::Arc;

fn random(bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = i as u8;
    }
}

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=No Name\r\nt=0 0\r\n\
    m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:streamid=0\r\n\
    m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/2\r\na=control:streamid=1\r\n";

fn presentation() -> Arc<Presentation> {
    Arc::new(Presentation::parse(SDP.as_bytes()).unwrap())
}

struct Streams {
    user: Option<User>,
    presentation: Option<Arc<Presentation>>,
    tcp: bool,
    udp: bool,
    groups: Vec<(std::net::IpAddr, (u16, u16), u8)>,
    opened: Vec<(usize, (u16, u16))>,
    /// Tracks whose ports were closed.
    closed: Vec<usize>,
    /// Number of refusals of tracks over another transport than the others.
    mixed: u32,
    wrong_passwords: u32,
    /// Paths without a publisher that were asked for.
    not_published: Vec<String>,
    /// The path has a publisher.
    is_live: bool,
    /// Too many attempts were refused.
    is_exhausted: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            user: None,
            presentation: Some(presentation()),
            tcp: true,
            udp: true,
            groups: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            mixed: 0,
            wrong_passwords: 0,
            not_published: Vec::new(),
            is_live: false,
            is_exhausted: false,
        }
    }
}

impl StreamDirectory for Streams {
    fn find(&mut self, _: bool, path: &str) -> Result<ResolvedStream, Status> {
        if self.is_exhausted {
            return Err(Status::SERVICE_UNAVAILABLE);
        }
        match path {
            "cam" | "cam/1" => Ok(ResolvedStream {
                user: self.user.clone(),
                presentation: self.presentation.clone(),
                tcp: self.tcp,
                udp: self.udp,
                groups: self.groups.clone(),
            }),
            _ => Err(Status::NOT_FOUND),
        }
    }

    fn not_published(&mut self, path: &str) {
        self.not_published.push(path.to_owned());
    }

    fn wrong_password(&mut self, _: bool, _: &str) {
        self.wrong_passwords += 1;
    }

    fn may_announce(&mut self, _: &str) -> Result<(), Status> {
        if self.is_live { Err(Status::FORBIDDEN) } else { Ok(()) }
    }

    fn open_udp(&mut self, _: bool, _: &str, track: usize, client: (u16, u16)) -> Result<(u16, u16), Status> {
        self.opened.push((track, client));
        Ok((8000 + 2 * track as u16, 8001 + 2 * track as u16))
    }

    fn close_udp(&mut self, track: usize) {
        self.closed.push(track);
    }

    fn mixed_transports(&mut self, _: bool, _: &str) {
        self.mixed += 1;
    }
}

/// Exchanges bytes between the sessions in pieces of `step`, until neither has output.
fn run(
    server: &mut ServerSession,
    client: &mut ClientSession,
    house: &mut Streams,
    step: usize,
) -> (Vec<Request>, Vec<ClientEvent>) {
    let mut requests = Vec::new();
    let mut outcomes = Vec::new();
    loop {
        let up = client.take_output();
        for piece in up.chunks(step) {
            server.push(piece);
            while let Some(request) = server.next(house).unwrap() {
                if matches!(request, Request::Publish { .. } | Request::Play { .. }) {
                    server.accept(&[]);
                }
                requests.push(request);
            }
        }
        let down = server.take_output();
        for piece in down.chunks(step) {
            client.push(piece);
            while let Some(outcome) = client.next().unwrap() {
                outcomes.push(outcome);
            }
            if let Some(track) = client.wants_ports() {
                client.offer_ports(track, (5000, 5001));
            }
        }
        if up.is_empty() && down.is_empty() {
            return (requests, outcomes);
        }
    }
}

const URL: &str = "rtsp://127.0.0.1:8554/cam/1";

#[test]
fn rtsp_clients_play_and_record_at_every_split() {
    for (udp, step) in [(false, 1), (false, 100_000), (true, 7), (true, 100_000)] {
        let mut server = ServerSession::new(&Random::of(random));
        let mut house = Streams::default();
        let mut client = ClientSession::new(ClientRole::Play, URL, None, udp, &Random::of(random));
        let (requests, outcomes) = run(&mut server, &mut client, &mut house, step);
        assert_eq!(requests, [Request::Play { path: "cam/1".into() }]);
        assert_eq!(outcomes.last(), Some(&ClientEvent::Ready), "{outcomes:?}");
        assert_eq!(server.tracks(), client.tracks());
        assert_eq!(house.opened.len(), if udp { 2 } else { 0 });
        assert!(client.presentation().unwrap().tracks()[1].control == "trackID=1");
        client.keep_alive();
        assert_eq!(run(&mut server, &mut client, &mut house, step), (vec![], vec![]));
        client.end();
        assert_eq!(run(&mut server, &mut client, &mut house, step).0, [Request::End]);

        let mut server = ServerSession::new(&Random::of(random));
        let mut house = Streams::default();
        let mut client = ClientSession::new(ClientRole::Record(presentation()), URL, None, udp, &Random::of(random));
        let (requests, outcomes) = run(&mut server, &mut client, &mut house, step);
        assert!(matches!(&requests[..], [Request::Publish { path, .. }] if path == "cam/1"), "{requests:?}");
        assert_eq!(outcomes.last(), Some(&ClientEvent::Ready));
        assert!(server.tracks().iter().all(Option::is_some));
        if !udp {
            let frame = [b'$', 2, 0, 3, 1, 2, 3];
            server.push(&frame);
            let got = server.next(&mut house).unwrap();
            assert_eq!(got, Some(Request::Frame { channel: 2, data: vec![1, 2, 3].into() }));
        }
    }
}

/// Requests of real clients, recorded from the network. Only the session identifier is replaced.
#[test]
fn rtsp_server_understands_recorded_clients() -> Result<(), Box<dyn std::error::Error>> {
    let recorded = |name: &str| -> std::io::Result<Vec<u8>> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/rtsp_server");
        let mut said = std::fs::read(folder.join(name))?;
        let field = b"\r\nSession: ";
        for at in (0..said.len() - field.len()).filter(|at| said[*at..].starts_with(field)).collect::<Vec<_>>() {
            said[at + field.len()..][..16].copy_from_slice(b"0001020304050607");
        }
        Ok(said)
    };
    for (name, tracks) in [("ffmpeg-play", 0), ("ffmpeg-record", 2), ("gst-record", 1)] {
        let said = recorded(name)?;
        for step in [1, 13, 100_000] {
            let mut server = ServerSession::new(&Random::of(random));
            let mut house = Streams::default();
            let mut asked = None;
            let mut frames = 0;
            let mut ended = false;
            for piece in said.chunks(step) {
                server.push(piece);
                while let Some(request) = server.next(&mut house)? {
                    match request {
                        Request::Play { path } => {
                            asked = Some((path, 0));
                            server.accept(&[]);
                        }
                        Request::Publish { path, presentation } => {
                            asked = Some((path, presentation.tracks().len()));
                            server.accept(&[]);
                        }
                        Request::Frame { data, .. } => {
                            assert_eq!(data[0] >> 6, 2, "{name}: the version of RTP");
                            frames += 1;
                        }
                        Request::End => ended = true,
                    }
                }
            }
            assert_eq!(asked, Some(("cam".to_owned(), tracks)), "{name}");
            // The recordings of publishing clients end within the media.
            assert_eq!((frames > 0, ended), (tracks > 0, tracks == 0), "{name}");
            let answers = server.take_output();
            let answers = String::from_utf8_lossy(&answers);
            assert_eq!(
                answers.matches("RTSP/1.0 ").count(),
                answers.matches("RTSP/1.0 200 OK\r\n").count(),
                "{answers}"
            );
        }
    }
    Ok(())
}

#[test]
fn rtsp_authentication_is_requested_and_given() {
    let user = |password: &str| Some(User { name: "me".into(), password: password.into() });
    let mut house = Streams { user: user("secret"), ..Streams::default() };
    for (given, good) in [(user("secret"), true), (user("guess"), false), (None, false)] {
        let mut server = ServerSession::new(&Random::of(random));
        let mut client = ClientSession::new(ClientRole::Play, URL, given, false, &Random::of(random));
        let (requests, outcomes) = run(&mut server, &mut client, &mut house, 1000);
        assert_eq!(requests.len(), usize::from(good));
        match outcomes.last() {
            Some(ClientEvent::Ready) => assert!(good),
            Some(ClientEvent::Rejected(what)) => assert!(!good && what.starts_with("401"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rtsp_server_refuses_unknown_path_and_transport() {
    let mut house = Streams { udp: false, ..Streams::default() };
    let mut server = ServerSession::new(&Random::of(random));
    let mut client = ClientSession::new(ClientRole::Play, URL, None, true, &Random::of(random));
    let (_, outcomes) = run(&mut server, &mut client, &mut house, 1000);
    assert_eq!(outcomes, [ClientEvent::NoUdp("461 Unsupported Transport (to SETUP)".into())]);
    let mut client = ClientSession::new(ClientRole::Play, "rtsp://127.0.0.1/other", None, false, &Random::of(random));
    let (_, outcomes) = run(&mut ServerSession::new(&Random::of(random)), &mut client, &mut house, 1000);
    assert_eq!(outcomes, [ClientEvent::Rejected("404 Not Found (to DESCRIBE)".into())]);
    house.presentation = None;
    let mut client = ClientSession::new(ClientRole::Play, URL, None, false, &Random::of(random));
    let (_, outcomes) = run(&mut ServerSession::new(&Random::of(random)), &mut client, &mut house, 1000);
    assert_eq!(outcomes, [ClientEvent::Rejected("404 Not Found (to DESCRIBE)".into())]);
}

fn say(text: &str) -> (ServerSession, Result<Option<Request>, ProtocolError>, String) {
    let mut server = ServerSession::new(&Random::of(random));
    server.push(text.as_bytes());
    let result = server.next(&mut Streams::default());
    let said = String::from_utf8(server.take_output()).unwrap();
    (server, result, said)
}

#[test]
fn rtsp_server_refuses_requests_out_of_state_and_oversized() {
    let (_, result, said) = say("PLAY rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 3\r\n\r\n");
    assert!(result == Ok(None) && said.starts_with("RTSP/1.0 455 ") && said.contains("CSeq: 3\r\n"), "{said}");
    let (_, result, said) = say("SETUP rtsp://h/cam/1/trackID=9 RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP/TCP\r\n\r\n");
    assert!(result == Ok(None) && said.starts_with("RTSP/1.0 404 "), "{said}");
    let (_, result, said) =
        say("SETUP rtsp://h/cam/1/trackID=0 RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP;multicast\r\n\r\n");
    assert!(result == Ok(None) && said.starts_with("RTSP/1.0 461 "), "{said}");
    let (server, result, said) = say("PAUSE rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    assert!(result == Ok(None) && said.starts_with("RTSP/1.0 455 ") && !server.is_paused(), "{said}");
    let (_, result, said) = say("REDIRECT rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    assert!(result == Ok(None) && said.starts_with("RTSP/1.0 501 "), "{said}");
    assert_eq!(say(&"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(200)).1, Err(ProtocolError::TooManyRequests));
    let endless = format!("OPTIONS * RTSP/1.0\r\nX: {}", "y".repeat(20_000));
    assert_eq!(say(&endless).1, Err(ProtocolError::Malformed("a header that is too long")));
    let long = format!(
        "ANNOUNCE rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 4000000000\r\n\r\n{}",
        "z".repeat(90_000)
    );
    assert_eq!(say(&long).1, Err(ProtocolError::Malformed("a body that is too long")));
    for (bytes, named) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP"),
        ("\x16\x03\x01\x02\0\x01", "TLS"),
        ("\x03\0\0\0\0\0\0\0\0", "RTMP"),
        ("hello\r\n", "not an RTSP message"),
    ] {
        let Err(ProtocolError::Malformed(why)) = say(bytes).1 else { panic!("{bytes:?}") };
        assert!(why.starts_with(named), "{bytes:?}: {why}");
    }
    // Text from a peer is not echoed, so that it cannot inject headers.
    let (_, _, said) = say("OPTIONS * RTSP/1.0\r\nCSeq: 7\u{b}Evil: x\r\n\r\n");
    assert!(!said.contains("Evil"), "{said}");
}

proptest! {
    #[test]
    fn rtsp_reader_gives_same_messages_at_any_split(mut splits in prop::collection::vec(0usize..700, 0..30), frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5)) {
        let mut bytes = b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n\r\n".to_vec();
        for frame in &frames {
            bytes.extend([b'$', 1, 0, frame.len() as u8]);
            bytes.extend(frame);
        }
        bytes.extend(format!("ANNOUNCE rtsp://h/p RTSP/1.0\r\nCSeq: 2\r\nContent-Length: {}\r\n\r\n{SDP}", SDP.len()).into_bytes());
        let read = |splits: &[usize]| {
            let mut reader = Reader::default();
            let mut items = Vec::<Item>::new();
            let mut from = 0;
            for to in splits.iter().copied().filter(|s| *s < bytes.len()).chain([bytes.len()]) {
                reader.push(&bytes[from..to]);
                from = to;
                while let Some(item) = reader.next().unwrap() {
                    items.push(item);
                }
            }
            items
        };
        splits.sort_unstable();
        let whole = read(&[]);
        prop_assert_eq!(whole.len(), 2 + frames.len());
        prop_assert_eq!(read(&splits), whole);
    }

    #[test]
    fn rtsp_reader_accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..500), text in "(OPTIONS|SETUP|PLAY|ANNOUNCE|\\$|RTSP/1.0 [0-9]{3} OK| |rtsp://h/cam/1|CSeq: [0-9]|Transport: .{0,30}|\r\n|\r\n\r\n|.){0,60}") {
        for input in [&bytes[..], text.as_bytes()] {
            let mut server = ServerSession::new(&Random::of(random));
            server.push(input);
            while let Ok(Some(_)) = server.next(&mut Streams::default()) {}
            let mut client = ClientSession::new(ClientRole::Play, URL, None, false, &Random::of(random));
            client.push(input);
            while let Ok(Some(_)) = client.next() {}
        }
    }
}

/// A client may send one short frame of its track in each read, and fill the rest with frames on unused channels.
#[test]
fn rtsp_frame_that_is_small_against_what_came_with_it_is_copied() {
    let frame = |channel: u8, length: usize| {
        let mut frame = vec![b'$', channel];
        frame.extend_from_slice(&(length as u16).to_be_bytes());
        frame.resize(4 + length, channel);
        frame
    };
    let mut reader = Reader::default();
    let mut next = |bytes: &[u8]| {
        reader.push(bytes);
        let mut frames = Vec::new();
        while let Some(Item::Frame { data, .. }) = reader.next().unwrap() {
            frames.push(data);
        }
        frames
    };
    // Unique bytes share no memory with other frames.
    let is_alone = |frames: Vec<bytes::Bytes>, at: usize| frames[at].is_unique();
    let mixed = [frame(0, 188), frame(9, 60_000)].concat();
    assert!(is_alone(next(&mixed), 0));
    let two_pieces = [next(&mixed[..30_000]), next(&mixed[30_000..])];
    assert_eq!([two_pieces[0].len(), two_pieces[1].len()], [1, 1]);
    assert!(two_pieces[0][0].is_unique());
    // The packets of a picture share the buffer of one read.
    let picture: Vec<u8> = (0..7).flat_map(|_| frame(0, 1400)).collect();
    assert!(!is_alone(next(&picture), 0));
}

const DESCRIBE: &str = "DESCRIBE rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\n";

fn locked() -> Streams {
    let user = User { name: "me".into(), password: "secret".into() };
    Streams { user: Some(user), ..Streams::default() }
}

#[test]
fn rtsp_server_counts_wrong_passwords_and_ends_the_connection() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = locked();
    // A first request without credentials is challenged, and not counted as a wrong password.
    server.push(format!("{DESCRIBE}\r\n").as_bytes());
    assert_eq!(server.next(&mut house), Ok(None));
    assert_eq!(house.wrong_passwords, 0);
    let wrong = format!("{DESCRIBE}Authorization: Basic bWU6Z3Vlc3M=\r\n\r\n");
    for number in 1..4 {
        server.push(wrong.as_bytes());
        assert_eq!(server.next(&mut house), Ok(None));
        assert_eq!(house.wrong_passwords, number);
    }
    // The last wrong password is answered, and the requests after it are ignored.
    server.take_output();
    server.push(wrong.repeat(3).as_bytes());
    assert_eq!(server.next(&mut house), Err(ProtocolError::TooManyAttempts));
    assert_eq!(house.wrong_passwords, 4);
    let answers = String::from_utf8(server.take_output()).unwrap();
    assert_eq!(answers.matches("RTSP/1.0 401").count(), 1, "{answers}");
}

#[test]
fn rtsp_server_does_not_count_a_stale_nonce_as_a_wrong_password() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = locked();
    let challenge = "Digest realm=\"StreamLink\", nonce=\"of another connection\", algorithm=MD5";
    let answer = auth::Answer::choose([challenge].into_iter()).unwrap();
    let request = auth::Authorizing { method: "DESCRIBE", uri: "rtsp://h/cam", body: b"", count: 1, cnonce: "" };
    let header = answer.header(house.user.as_ref().unwrap(), &request);
    server.push(format!("{DESCRIBE}{}\r\n", header.as_str()).as_bytes());
    assert_eq!(server.next(&mut house), Ok(None));
    assert_eq!(house.wrong_passwords, 0);
    assert!(String::from_utf8(server.take_output()).unwrap().contains("stale=true"));
}

#[test]
fn rtsp_server_checks_no_password_of_an_exhausted_address() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = Streams { is_exhausted: true, ..locked() };
    server.push(format!("{DESCRIBE}Authorization: Basic bWU6c2VjcmV0\r\n\r\n").as_bytes());
    assert_eq!(server.next(&mut house), Err(ProtocolError::TooManyAttempts));
    assert!(String::from_utf8(server.take_output()).unwrap().starts_with("RTSP/1.0 503"));
}

#[test]
fn rtsp_server_opens_no_ports_before_a_client_is_admitted() {
    let set_up =
        "SETUP rtsp://h/cam/streamid=0 RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP;client_port=5000-5001\r\n\r\n";
    let announce = format!(
        "ANNOUNCE rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
        SDP.len()
    );
    for mut house in [locked(), Streams { is_live: true, ..Streams::default() }] {
        let mut server = ServerSession::new(&Random::of(random));
        server.push(announce.as_bytes());
        server.push(set_up.as_bytes());
        assert_eq!(server.next(&mut house), Ok(None));
        assert_eq!(house.opened, []);
        let answers = String::from_utf8(server.take_output()).unwrap();
        let refused = if house.is_live { "RTSP/1.0 403" } else { "RTSP/1.0 401" };
        assert!(answers.starts_with(refused) && !answers.contains("server_port"), "{answers}");
    }
    let mut house = Streams::default();
    let mut server = ServerSession::new(&Random::of(random));
    server.push(set_up.replace("streamid=0", "trackID=2").as_bytes());
    assert_eq!(server.next(&mut house), Ok(None));
    assert_eq!(house.opened, [], "a track that is not there");
}

#[test]
fn rtsp_server_bounds_the_answers_that_wait() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = Streams::default();
    let long = SDP.replace("s=No Name", &format!("s={}", "x".repeat(40_000)));
    house.presentation = Some(Arc::new(Presentation::parse(long.as_bytes()).unwrap()));
    server.push(format!("{DESCRIBE}\r\n").repeat(100).as_bytes());
    assert!(matches!(server.next(&mut house), Err(ProtocolError::Malformed(_))));
    assert!(server.take_output().len() < 200_000);
}

#[test]
fn rtsp_server_counts_players_of_a_path_without_a_publisher() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut streams = Streams { presentation: None, ..Streams::default() };
    server.push(format!("{DESCRIBE}\r\n").as_bytes());
    assert_eq!(server.next(&mut streams), Ok(None));
    assert!(server.take_output().starts_with(b"RTSP/1.0 404"));
    assert_eq!(streams.not_published, ["cam"]);
}

/// Returns the answers of a server to requests, without their number.
fn answers(server: &mut ServerSession, house: &mut Streams, requests: &str) -> (Vec<u16>, Vec<Request>, String) {
    server.push(requests.as_bytes());
    let mut asked = Vec::new();
    while let Some(request) = server.next(house).unwrap() {
        server.accept(&[]);
        asked.push(request);
    }
    let text = String::from_utf8(server.take_output()).unwrap();
    let status = text.lines().filter_map(|line| line.strip_prefix("RTSP/1.0 ")?.get(..3)?.parse().ok());
    (status.collect(), asked, text)
}

#[test]
fn rtsp_players_with_queries_are_served() {
    for (base, names) in [
        ("rtsp://h/cam", ["rtsp://h/cam/trackID=0", "rtsp://h/cam/trackID=1"]),
        ("rtsp://h/cam?x=1", ["rtsp://h/cam?x=1/trackID=0", "rtsp://h/cam?x=1/trackID=1"]),
        ("rtsp://h/cam?x=a/b&y", ["rtsp://h/cam/?x=a/b&y/trackID=0", "rtsp://h/cam/?x=a/b&y/trackID=1/"]),
        ("rtsp://h/cam/?x=a/b", ["rtsp://h/cam/trackID=0?x=a/b", "rtsp://h/cam/trackID=1?x=a/b"]),
        ("/cam", ["/cam/trackID=0", "/cam/trackID=1"]),
    ] {
        for first in [format!("DESCRIBE {base} RTSP/1.0\r\nCSeq: 1\r\n\r\n"), String::new()] {
            let mut requests = first.clone();
            for name in names {
                requests += &format!("SETUP {name} RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP;unicast\r\n\r\n");
            }
            requests += &format!("GET_PARAMETER {base} RTSP/1.0\r\nCSeq: 3\r\n\r\n");
            requests += &format!("play {base} rtsp/1.0\ncseq: 4\nRange: clock=19961108T143720.25Z-\n\n");
            requests += &format!("PAUSE {base} RTSP/1.0\r\nCSeq: 5\r\n\r\nPLAY {base} RTSP/1.0\r\nCSeq: 6\r\n\r\n");
            let mut server = ServerSession::new(&Random::of(random));
            let mut house = Streams::default();
            let (status, asked, text) = answers(&mut server, &mut house, &requests);
            assert!(status.iter().all(|status| *status == 200), "{requests}{text}");
            assert_eq!(asked, [Request::Play { path: "cam".into() }]);
            assert!(server.tracks().iter().all(Option::is_some) && !server.is_paused());
        }
    }
}

#[test]
fn rtsp_publishers_with_queries_and_odd_transports_are_served() {
    let tcp = "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record";
    for (base, names, control, transport) in [
        ("rtsp://h/cam", ["rtsp://h/cam/streamid=0", "rtsp://h/cam/streamid=1"], "streamid=", tcp),
        // FFmpeg, and GStreamer's rtspclientsink.
        ("rtsp://h/cam?x=y", ["rtsp://h/cam?x=y/streamid=0", "rtsp://h/cam?x=y/streamid=1"], "streamid=", tcp),
        ("rtsp://h/cam?x=y", ["rtsp://h/cam/stream=0?x=y", "rtsp://h/cam/stream=1?x=y"], "stream=", tcp),
        ("rtsp://h/cam/", ["rtsp://h:554/cam/stream=0", "rtsp://h:554/cam/stream=1"], "rtsp://i/cam/stream=", tcp),
        ("rtsp://h/cam?x", ["rtsp://h/cam?x", "rtsp://h/cam?x"], "none", "rtp/avp/tcp;Mode=\"RECORD\""),
        (
            "rtsp://h/cam",
            ["rtsp://h/cam/s0", "rtsp://h/cam/s1"],
            "s",
            "RTP/SAVP;unicast,RTP/AVP;interleaved=0-1;mode=RECORD",
        ),
        ("rtsp://h/cam", ["rtsp://h/cam/s0", "rtsp://h/cam/s1"], "s", "RTP/AVP/UDP;unicast;mode=receive, RTP/AVP/TCP"),
        ("rtsp://h/cam", ["rtsp://h/cam/s0", "rtsp://h/cam/s1"], "s", "RTP/AVPF;unicast;client_port=5000;mode=record"),
    ] {
        let sdp = SDP.replace("streamid=", control);
        let mut requests = format!("ANNOUNCE {base} RTSP/1.0\r\nCSeq: 1\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
        for name in names {
            requests += &format!("SETUP {name} RTSP/1.0\r\nCSeq: 2\r\nTransport: {transport}\r\n\r\n");
        }
        requests += &format!("RECORD {base} RTSP/1.0\r\nCSeq: 3\r\n\r\n");
        let mut server = ServerSession::new(&Random::of(random));
        let mut house = Streams::default();
        let (status, asked, text) = answers(&mut server, &mut house, &requests);
        assert_eq!(status, [200; 4], "{requests}{text}");
        assert!(matches!(&asked[..], [Request::Publish { path, .. }] if path == "cam"), "{asked:?}");
        let channels: Vec<_> = server.tracks().iter().flatten().collect();
        // Channels that are taken are replaced.
        assert!(channels.len() == 2 && (*channels[0] == SetUp::Udp || channels[0] != channels[1]), "{channels:?}");
    }
}

#[test]
fn rtsp_server_says_why_it_refuses_a_description() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = Streams::default();
    let announce = "ANNOUNCE rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 10\r\n\r\nv=0\r\ns=-\r\n";
    let (status, _, text) = answers(&mut server, &mut house, announce);
    assert!(status == [400] && text.contains("SDP refused: no media section (`m=`) in 2 lines"), "{text}");
}

const OVER_TCP: &str = "Transport: RTP/AVP/TCP;unicast\r\n";
const OVER_UDP: &str = "Transport: RTP/AVP;unicast;client_port=5000-5001\r\n";

/// Returns a SETUP of a track.
fn set_up(track: usize, transport: &str) -> String {
    format!("SETUP rtsp://h/cam/trackID={track} RTSP/1.0\r\n{transport}\r\n")
}

#[test]
fn rtsp_player_may_set_up_a_track_again_over_another_transport() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = Streams::default();
    let requests = [set_up(0, OVER_UDP), set_up(0, OVER_TCP)].concat();
    assert_eq!(answers(&mut server, &mut house, &requests).0, [200, 200]);
    assert_eq!((house.opened.len(), &house.closed[..]), (1, &[0][..]));
    assert_eq!(server.tracks()[0], Some(SetUp::Tcp { rtp: 0, rtcp: 1 }));
    assert_eq!(answers(&mut server, &mut house, &set_up(0, OVER_UDP)).0, [200]);
    assert_eq!(server.tracks()[0], Some(SetUp::Udp));
    let (_, requests, _) = answers(&mut server, &mut house, "PLAY rtsp://h/cam RTSP/1.0\r\n\r\n");
    assert_eq!(requests, [Request::Play { path: "cam".into() }]);
}

#[test]
fn rtsp_server_refuses_a_second_transport_of_one_session_at_setup() {
    let both = format!("{}, {}", OVER_UDP.trim_end(), OVER_TCP.trim_start_matches("Transport: "));
    for (first, second, third) in [(OVER_TCP, OVER_UDP, both.as_str()), (OVER_UDP, OVER_TCP, both.as_str())] {
        let mut server = ServerSession::new(&Random::of(random));
        let mut house = Streams::default();
        let requests = [set_up(0, first), set_up(1, second)].concat();
        assert_eq!(answers(&mut server, &mut house, &requests).0, [200, 461]);
        assert_eq!(house.mixed, 1);
        // Of several, the one of the other track is taken.
        assert_eq!(answers(&mut server, &mut house, &set_up(1, third)).0, [200]);
        let kinds: Vec<bool> = server.tracks().iter().map(|track| *track == Some(SetUp::Udp)).collect();
        assert_eq!(kinds, [first == OVER_UDP; 2]);
        assert_eq!(house.mixed, 1);
    }
}

#[test]
fn rtsp_teardown_of_one_track_does_not_end_the_others() {
    let mut server = ServerSession::new(&Random::of(random));
    let mut house = Streams::default();
    let requests = [set_up(0, OVER_TCP), set_up(1, OVER_TCP)].concat();
    answers(&mut server, &mut house, &format!("{requests}PLAY rtsp://h/cam RTSP/1.0\r\n\r\n"));
    let of_track = "TEARDOWN rtsp://h/cam/trackID=1 RTSP/1.0\r\n\r\n";
    let (statuses, requests, _) = answers(&mut server, &mut house, of_track);
    assert_eq!((statuses, requests), (vec![460], vec![]));
    let (statuses, requests, _) = answers(&mut server, &mut house, "TEARDOWN rtsp://h/cam RTSP/1.0\r\n\r\n");
    assert_eq!((statuses, requests), (vec![200], vec![Request::End]));
    // The only track is the session.
    let mut server = ServerSession::new(&Random::of(random));
    answers(&mut server, &mut house, &set_up(1, OVER_TCP));
    assert_eq!(answers(&mut server, &mut house, of_track).1, [Request::End]);
}

#[test]
fn rtsp_rtp_info_names_tracks_whatever_url_play_has() {
    for url in ["rtsp://h/cam", "rtsp://h/cam/", "rtsp://h/cam/trackID=1", "rtsp://h/cam/trackID=1/"] {
        let mut server = ServerSession::new(&Random::of(random));
        let mut house = Streams::default();
        let requests = [set_up(0, OVER_TCP), set_up(1, OVER_TCP)].concat();
        answers(&mut server, &mut house, &requests);
        server.push(format!("PLAY {url} RTSP/1.0\r\n\r\n").as_bytes());
        assert_eq!(server.next(&mut house), Ok(Some(Request::Play { path: "cam".into() })));
        server.accept(&[Some((7, 90)), None]);
        let said = String::from_utf8(server.take_output()).unwrap();
        let info = said.lines().find_map(|line| line.strip_prefix("RTP-Info: ")).unwrap();
        assert_eq!(info, "url=rtsp://h/cam/trackID=0;seq=7;rtptime=90,url=rtsp://h/cam/trackID=1", "{url}");
    }
}
