//! Tests of client and server sessions against each other and against hostile peers.

use super::*;
use crate::{media::flv::amf0::Value, random::Random};
use proptest::prelude::*;

fn random(bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = (i * 7 % 253) as u8;
    }
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
        let client = ClientSession::new(purpose, "live", "rtmp://host/live", "key".into(), &Random::of(random));
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
        assert_eq!(pair.requests, [Request::Publish { app: "live".into(), key: "key".into() }]);
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
    assert_eq!(pair.requests, [Request::Play { app: "live".into(), key: "key".into() }]);
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
    }
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
    assert_eq!(server.read(&mut &bytes[..]), Ok(Some(Request::Publish { app: "live".into(), key: "key".into() })));
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
