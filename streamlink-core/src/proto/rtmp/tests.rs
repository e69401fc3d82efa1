//! Tests of client and server sessions against each other and against hostile peers.

use super::*;
use crate::{
    media::flv::amf0::{self, Value},
    random::Random,
};
use proptest::prelude::*;

fn random(bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = (i * 7 % 253) as u8;
    }
}

fn target() -> ClientTarget {
    ClientTarget { app: "live".into(), url: "rtmp://host/live".into(), key: "key".into(), ..ClientTarget::default() }
}

/// Pair of sessions that exchange bytes in pieces of `step`.
struct Pair {
    server: ServerSession,
    client: ClientSession,
    requests: Vec<Request<'static>>,
    outcomes: Vec<ClientEvent<'static>>,
    step: usize,
}

impl Pair {
    fn new(purpose: ClientRole, step: usize) -> Self {
        let client = ClientSession::new(purpose, target(), &Random::of(random));
        Self {
            server: ServerSession::new(&Random::of(random)),
            client,
            requests: Vec::new(),
            outcomes: Vec::new(),
            step,
        }
    }

    fn run(&mut self) {
        loop {
            let up = self.client.link().take_output();
            let down = self.server.link().take_output();
            if up.is_empty() && down.is_empty() {
                return;
            }
            for mut piece in up.chunks(self.step) {
                while let Some(request) = self.server.read(&mut piece).unwrap() {
                    self.requests.push(request.into_owned());
                }
            }
            for mut piece in down.chunks(self.step) {
                while let Some(outcome) = self.client.read(&mut piece).unwrap() {
                    self.outcomes.push(owned(outcome));
                }
            }
        }
    }
}

fn owned(outcome: ClientEvent<'_>) -> ClientEvent<'static> {
    match outcome {
        ClientEvent::Ready => ClientEvent::Ready,
        ClientEvent::Rejected(what) => ClientEvent::Rejected(what),
        ClientEvent::Media(message) => ClientEvent::Media(message.into_owned()),
        ClientEvent::Challenged(what) => ClientEvent::Challenged(what),
        ClientEvent::Redirected(to) => ClientEvent::Redirected(to),
        ClientEvent::Told(what) => ClientEvent::Told(what),
        ClientEvent::End => ClientEvent::End,
    }
}

fn send(link: &mut Link, kind: u8, timestamp: u32, body: &[u8]) -> Vec<u8> {
    let framing = link.framing();
    let mut bytes = Vec::new();
    framing.write(kind, timestamp, framing.stream, body, &mut bytes);
    bytes
}

#[test]
fn rtmp_client_publishes_at_every_split() {
    for step in [1, 13, 100_000] {
        let mut pair = Pair::new(ClientRole::Publish { chunk_size: 4096 }, step);
        pair.run();
        assert_eq!(pair.requests, [Request::Publish(StreamPath::new("live", "key"))]);
        assert_eq!(pair.outcomes, []);
        pair.server.accept();
        pair.run();
        assert_eq!(pair.outcomes, [ClientEvent::Ready]);
        let body = vec![5; 10_000];
        let bytes = send(pair.client.link(), message::VIDEO, 40, &body);
        for mut piece in bytes.chunks(step) {
            pair.requests.extend(pair.server.read(&mut piece).unwrap().map(Request::into_owned));
        }
        let media = Message { kind: message::VIDEO, timestamp: 40, stream: 1, body: Body::Gathered(body.into()) };
        assert_eq!(pair.requests[1], Request::Media(media));
        pair.client.end();
        pair.run();
        assert_eq!(pair.requests.last(), Some(&Request::End));
    }
}

#[test]
fn rtmp_client_plays_until_end_of_stream() {
    let mut pair = Pair::new(ClientRole::Play, 1000);
    pair.run();
    assert_eq!(pair.requests, [Request::Play(StreamPath::new("live", "key"))]);
    pair.server.accept();
    pair.run();
    assert!(pair.outcomes.contains(&ClientEvent::Ready));
    let bytes = send(pair.server.link(), message::AUDIO, 7, &[1, 2, 3]);
    let outcome = pair.client.read(&mut &bytes[..]).unwrap();
    let media = Message { kind: message::AUDIO, timestamp: 7, stream: 1, body: Body::Read(&[1, 2, 3]) };
    assert_eq!(outcome, Some(ClientEvent::Media(media)));
    pair.server.end();
    pair.run();
    assert_eq!(pair.outcomes.last(), Some(&ClientEvent::End));
}

#[test]
fn rtmp_rejection_reaches_client_without_key() {
    for (purpose, refusal, code) in [
        (ClientRole::Publish { chunk_size: 4096 }, Refusal::InUse, "NetStream.Publish.BadName"),
        (ClientRole::Publish { chunk_size: 4096 }, Refusal::Denied, "NetStream.Publish.Denied"),
        (ClientRole::Play, Refusal::NotFound, "NetStream.Play.StreamNotFound"),
        (ClientRole::Play, Refusal::Denied, "NetStream.Play.Failed"),
    ] {
        let mut pair = Pair::new(purpose, 500);
        pair.run();
        pair.server.refuse(refusal);
        pair.run();
        let Some(ClientEvent::Rejected(text)) = pair.outcomes.last() else { panic!("{:?}", pair.outcomes) };
        assert!(text.starts_with(code) && !text.contains("key"), "{text}");
        let asked =
            if purpose == ClientRole::Play { "(asked to play live/…)" } else { "(asked to publish to live/…)" };
        assert!(text.ends_with(asked), "{text}");
    }
}

/// Returns the events of a client that is told `values` in answer to `connect`, or to `publish` if `later`.
fn events_of_answer(later: bool, values: &[Value]) -> Vec<ClientEvent<'static>> {
    let mut client = ClientSession::new(ClientRole::Publish { chunk_size: 4096 }, target(), &Random::of(random));
    client.hide("hunter2".into());
    let mut server = ServerSession::new(&Random::of(random));
    let mut asked = false;
    for _ in 0..4 {
        let bytes = client.link().take_output();
        let mut input = &bytes[..];
        while let Ok(Some(_)) = server.read(&mut input) {
            asked = true;
        }
        let mut down = server.link().take_output();
        if !later && server.link().is_open() && down.len() < 3000 {
            down.clear(); // the answer to `connect` is replaced
        }
        let _ = client.read(&mut &down[..]);
        if !later && server.link().is_open() {
            break;
        }
    }
    assert_eq!(asked, later);
    let chunk_size = if later { server.link().framing().chunk_size } else { 128 };
    let mut bytes = Vec::new();
    Framing { chunk_size, stream: 0 }.write(message::COMMAND, 0, 0, &amf0::write_all(values), &mut bytes);
    let mut input = &bytes[..];
    let mut events = Vec::new();
    while let Ok(Some(event)) = client.read(&mut input) {
        events.push(owned(event));
    }
    events
}

fn error(fields: &[(&str, Value)]) -> Value {
    Value::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

#[test]
fn rtmp_client_tells_refusals_in_odd_forms() {
    let status = |level: &str, code: &str| {
        let fields = [("level", Value::text(level)), ("code", Value::text(code))];
        [Value::text("onStatus"), Value::Number(0.0), Value::Null, error(&fields)]
    };
    for values in [
        status("warning", "NetStream.Publish.BadName"),
        status("status", "NetStream.Publish.Denied"),
        status("", "NetStream.Publish.Failed"),
        status("error", "Something.Else"),
        [
            Value::text("onStatus"),
            Value::Number(0.0),
            Value::Null,
            error(&[("code", Value::text("NetConnection.Connect.Closed"))]),
        ],
        [Value::text("_error"), Value::Number(5.0), Value::Null, error(&[])],
        [Value::text("_error"), Value::Number(5.0), Value::Null, Value::text("no such application")],
    ] {
        let events = events_of_answer(true, &values);
        let [ClientEvent::Rejected(text)] = &events[..] else { panic!("{values:?}: {events:?}") };
        assert!(text.contains("asked to publish to live/…"), "{text}");
        let words = [&values[3]].into_iter().filter_map(|v| v.field("code").or(Some(v)).and_then(Value::as_text));
        assert!(words.into_iter().all(|words| text.contains(words)), "{text}");
    }
    let events = events_of_answer(true, &status("warning", "NetStream.Publish.Slow"));
    assert_eq!(events, [ClientEvent::Told("NetStream.Publish.Slow".into())]);
    assert_eq!(events_of_answer(true, &status("status", "NetStream.Publish.Reset")), []);
    let fields = [("level", Value::text("error")), ("description", Value::text("user hunter2 and key"))];
    let events = events_of_answer(false, &[Value::text("_error"), Value::Number(1.0), Value::Null, error(&fields)]);
    assert_eq!(events, [ClientEvent::Rejected("user … and … (asked to connect to live)".into())]);
}

#[test]
fn rtmp_client_takes_answers_to_connect_in_odd_forms() {
    let result = |transaction: f64, level: &str, code: &str| {
        let information = error(&[("level", Value::text(level)), ("code", Value::text(code))]);
        [Value::text("_result"), Value::Number(transaction), Value::Null, information]
    };
    for (level, code) in [("error", "NetConnection.Connect.Rejected"), ("", "NetConnection.Connect.InvalidApp")] {
        let events = events_of_answer(false, &result(1.0, level, code));
        assert_eq!(events, [ClientEvent::Rejected(format!("{code} (asked to connect to live)"))]);
    }
    for transaction in [0.0, 1.0, 2.0] {
        let mut client = ClientSession::new(ClientRole::Play, target(), &Random::of(random));
        let mut handshake = Handshake::server(&Random::of(random));
        let mut down = Vec::new();
        let first = client.link().take_output();
        handshake.read(&mut &first[..], &mut down).unwrap();
        assert_eq!(client.closed(), "closed during the handshake");
        assert_eq!(client.read(&mut &down[..]), Ok(None));
        client.link().take_output();
        assert_eq!(client.closed(), "closed without a response to connect");
        let mut bytes = Vec::new();
        let values = amf0::write_all(&result(transaction, "status", "NetConnection.Connect.Success"));
        Framing { chunk_size: 128, stream: 0 }.write(message::COMMAND, 0, 0, &values, &mut bytes);
        assert_eq!(client.read(&mut &bytes[..]), Ok(None));
        let asked = client.link().take_output();
        assert!(asked.windows(12).any(|bytes| bytes == b"createStream"), "transaction {transaction}");
    }
}

#[test]
fn rtmp_client_reports_challenges_and_redirects() {
    let fields = |description: &str, more: Value| {
        error(&[
            ("level", Value::text("error")),
            ("code", Value::text("NetConnection.Connect.Rejected")),
            ("description", Value::text(description)),
            ("ex", more),
        ])
    };
    let refusal = |name: &str, information| [Value::text(name), Value::Number(1.0), Value::Null, information];
    let asks = "[ code=403 need auth; authmod=adobe ]";
    let events = events_of_answer(false, &refusal("_error", fields(asks, Value::Null)));
    assert_eq!(events, [ClientEvent::Challenged(asks.into())]);
    let to = |code: f64, url: &str| Value::object([("code", Value::Number(code)), ("redirect", Value::text(url))]);
    for (later, name) in [(false, "_error"), (false, "onStatus"), (true, "onStatus")] {
        let events = events_of_answer(later, &refusal(name, fields("elsewhere", to(302.0, "rtmp://b/live"))));
        let redirect = Redirect { url: "rtmp://b/live".into(), stream_url: None };
        assert_eq!(events, [ClientEvent::Redirected(redirect)], "{name}");
    }
    for bad in [to(404.0, "rtmp://b/live"), to(302.0, ""), to(302.0, &"x".repeat(2049))] {
        let events = events_of_answer(false, &refusal("_error", fields("elsewhere", bad)));
        assert!(matches!(&events[..], [ClientEvent::Rejected(_)]), "{events:?}");
    }
}

/// Commands of a peer after `connect`, each on a message stream.
fn say(server: &mut ServerSession, client: &mut Link, stream: u32, values: &[Value]) -> Vec<Request<'static>> {
    client.amf(message::COMMAND, stream, values);
    let bytes = client.take_output();
    let mut input = &bytes[..];
    let mut requests = Vec::new();
    while let Some(request) = server.read(&mut input).unwrap() {
        requests.push(request.into_owned());
    }
    requests
}

/// Returns the commands that a server session has sent: name, code and message stream.
fn answers(server: &mut ServerSession, client: &mut Link) -> Vec<(String, String, u32)> {
    let bytes = server.link().take_output();
    let mut input = &bytes[..];
    let mut found = Vec::new();
    while let Some(message) = client.read(&mut input).unwrap() {
        let values = amf0::read_all(&message.body).unwrap();
        let text = |value: Option<&Value>| value.and_then(Value::as_text).unwrap_or_default().to_owned();
        let code = values.iter().find_map(|value| value.field("code"));
        found.push((text(values.first()), text(code), message.stream));
    }
    found
}

fn connected_server() -> (ServerSession, Link) {
    let (mut server, mut client) = open_server();
    let connect = [Value::text("connect"), Value::Number(1.0), Value::object([("app", Value::text("live"))])];
    assert_eq!(say(&mut server, &mut client, 0, &connect), []);
    answers(&mut server, &mut client);
    (server, client)
}

#[test]
fn rtmp_server_serves_one_stream_after_another() {
    let ask = |name: &str, key: &str| [Value::text(name), Value::Number(4.0), Value::Null, Value::text(key)];
    let number = |name: &str, n: f64| [Value::text(name), Value::Number(4.0), Value::Null, Value::Number(n)];
    let publish = |key: &str| Request::Publish(StreamPath::new("live", key));
    let (mut server, mut client) = connected_server();
    // FCPublish and releaseStream in any order, and behind createStream.
    for name in ["FCPublish", "createStream", "releaseStream"] {
        assert_eq!(say(&mut server, &mut client, 0, &ask(name, "a")), []);
    }
    assert_eq!(say(&mut server, &mut client, 1, &ask("publish", "a")), [publish("a")]);
    server.accept();
    assert!(!server.is_between_streams());
    assert_eq!(say(&mut server, &mut client, 0, &ask("FCUnpublish", "a")), [Request::End]);
    assert!(server.is_between_streams());
    assert_eq!(say(&mut server, &mut client, 0, &number("deleteStream", 1.0)), []);
    answers(&mut server, &mut client);
    // The next one is on another message stream.
    assert_eq!(say(&mut server, &mut client, 0, &[Value::text("createStream"), Value::Number(7.0), Value::Null]), []);
    assert_eq!(say(&mut server, &mut client, 2, &ask("publish", "b")), [publish("b")]);
    server.accept();
    assert!(answers(&mut server, &mut client).contains(&("onStatus".into(), "NetStream.Publish.Start".into(), 2)));
    // Media of the stream before is left out.
    for (stream, count) in [(1, 0), (2, 1)] {
        let framing = Framing { stream, ..client.framing() };
        let mut bytes = Vec::new();
        framing.write(message::AUDIO, 0, stream, &[1, 2], &mut bytes);
        let found = server.read(&mut &bytes[..]).unwrap();
        assert_eq!(found.into_iter().count(), count, "stream {stream}");
    }
    // Ending a stream that is not in use changes nothing.
    assert_eq!(say(&mut server, &mut client, 0, &number("deleteStream", 1.0)), []);
    // A third without an end of the second.
    assert_eq!(say(&mut server, &mut client, 2, &ask("publish", "c")), [Request::End, publish("c")]);
    server.accept();
    assert_eq!(say(&mut server, &mut client, 2, &[Value::text("closeStream"), Value::Number(0.0)]), [Request::End]);
    assert_eq!(say(&mut server, &mut client, 2, &ask("play", "c")), [Request::Play(StreamPath::new("live", "c"))]);
    server.accept();
    let stop = [Value::text("play"), Value::Number(0.0), Value::Null, Value::Boolean(false)];
    assert_eq!(say(&mut server, &mut client, 2, &stop), [Request::End]);
}

#[test]
fn rtmp_server_pauses_and_answers_seek() {
    let (mut server, mut client) = connected_server();
    let play = [Value::text("play"), Value::Number(0.0), Value::Null, Value::text("a")];
    say(&mut server, &mut client, 1, &play);
    server.accept();
    answers(&mut server, &mut client);
    let pause = |on| [Value::text("pause"), Value::Number(0.0), Value::Null, Value::Boolean(on), Value::Number(40.0)];
    for (on, code) in [(true, "NetStream.Pause.Notify"), (false, "NetStream.Unpause.Notify")] {
        assert_eq!(say(&mut server, &mut client, 1, &pause(on)), []);
        assert_eq!(server.is_paused(), on);
        assert_eq!(answers(&mut server, &mut client), [("onStatus".into(), code.into(), 1)]);
    }
    let seek = [Value::text("seek"), Value::Number(0.0), Value::Null, Value::Number(1000.0)];
    assert_eq!(say(&mut server, &mut client, 1, &seek), []);
    assert_eq!(answers(&mut server, &mut client), [("onStatus".into(), "NetStream.Seek.Failed".into(), 1)]);
    let length = [Value::text("getStreamLength"), Value::Number(9.0), Value::Null, Value::text("a")];
    assert_eq!(say(&mut server, &mut client, 0, &length), []);
    assert_eq!(answers(&mut server, &mut client), [("_result".into(), String::new(), 0)]);
}

/// Returns a server session after the handshake, and the link to send it messages.
fn open_server() -> (ServerSession, Link) {
    let mut server = ServerSession::new(&Random::of(random));
    let mut client = Link::client(&Random::of(random));
    for _ in 0..3 {
        server.read(&mut &client.take_output()[..]).unwrap();
        client.read(&mut &server.link().take_output()[..]).unwrap();
    }
    assert!(server.link().is_open() && client.is_open());
    (server, client)
}

fn command(link: &mut Link, values: &[Value]) -> Vec<u8> {
    link.amf(message::COMMAND, 0, values);
    link.take_output()
}

#[test]
fn rtmp_server_refuses_unexpected_commands() {
    let (mut server, mut client) = open_server();
    let publish = [Value::text("publish"), Value::Number(1.0), Value::Null, Value::text("key")];
    let bytes = command(&mut client, &publish);
    assert_eq!(server.read(&mut &bytes[..]), Err(ProtocolError::Unexpected("a command before connect")));

    let (mut server, mut client) = open_server();
    let connect = [Value::text("connect"), Value::Number(1.0), Value::object([("app", Value::text("live/"))])];
    let bytes = command(&mut client, &connect);
    assert_eq!(server.read(&mut &bytes[..]), Ok(None));
    assert_eq!(server.read(&mut &bytes[..]), Err(ProtocolError::Unexpected("connect")));
    let bytes = command(&mut client, &publish);
    assert_eq!(server.read(&mut &bytes[..]), Ok(Some(Request::Publish(StreamPath::new("live/", "key")))));
    assert_eq!(server.read(&mut &bytes[..]), Err(ProtocolError::Unexpected("publish or play")));
}

#[test]
fn rtmp_server_bounds_commands_and_unread_responses() {
    let (mut server, mut client) = open_server();
    let connect = [Value::text("connect"), Value::Number(1.0), Value::object([("app", Value::text("live"))])];
    let bytes = command(&mut client, &connect);
    server.read(&mut &bytes[..]).unwrap();
    let create = command(&mut client, &[Value::text("createStream"), Value::Number(2.0)]);
    let many = create.repeat(100);
    assert_eq!(server.read(&mut &many[..]), Err(ProtocolError::Malformed("too many commands")));

    let (mut server, mut client) = open_server();
    client.event(message::event::PING_REQUEST, &[1]);
    let pings = client.take_output().repeat(10_000);
    assert_eq!(
        server.read(&mut &pings[..]),
        Err(ProtocolError::Malformed("control responses not read (64 KiB pending)"))
    );
}

#[test]
fn rtmp_acknowledges_by_peer_window() {
    let (mut server, mut client) = open_server();
    client.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, 1000);
    server.read(&mut &client.take_output()[..]).unwrap();
    server.link().take_output();
    server.link().received(999);
    assert!(server.link().take_output().is_empty());
    server.link().received(1);
    assert_eq!(server.link().take_output(), [2, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0x03, 0xe8]);
}

#[test]
fn rtmp_aggregate_message_is_split() {
    let mut pair = Pair::new(ClientRole::Publish { chunk_size: 4096 }, 5000);
    pair.run();
    pair.server.accept();
    pair.run();
    let tag = |kind: u8, time: u8, body: u8| [kind, 0, 0, 1, 0, 0, time, 0, 0, 0, 0, body, 0, 0, 0, 12];
    let body = [tag(8, 100, 1), tag(9, 120, 2), tag(8, 121, 3)].concat();
    let bytes = send(pair.client.link(), message::AGGREGATE, 5000, &body);
    let mut input = &bytes[..];
    let mut seen = Vec::new();
    while let Some(Request::Media(m)) = pair.server.read(&mut input).unwrap() {
        seen.push((m.kind, m.timestamp, m.body[0]));
    }
    assert_eq!(seen, [(8, 5000, 1), (9, 5020, 2), (8, 5021, 3)]);
    let bytes = send(pair.client.link(), message::AGGREGATE, 0, &body[..27]);
    assert!(pair.server.read(&mut &bytes[..]).is_err());
}

proptest! {
    /// Random bytes after the handshake are handled or refused, and pending responses stay bounded.
    #[test]
    fn rtmp_server_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (mut server, _) = open_server();
        let mut input = &bytes[..];
        while let Ok(Some(_)) = server.read(&mut input) {}
        prop_assert!(server.link().take_output().len() < 200_000);
    }
}
