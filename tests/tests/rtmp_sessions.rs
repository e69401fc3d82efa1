//! RTMP sessions with peers that are made by hand: several streams on one connection, streams named in different ways,
//! and callers that are challenged, redirected or refused.

use std::net::{TcpListener, TcpStream};
use streamlink_core::{Event, LossReason, Output, RefusalReason, Source, StreamKey, Takeover};
use streamlink_tests::{
    eventually,
    rig::{Rig, free_port},
    rtmp::{Bare, accept_connect, object, send_command, text},
};

fn key(text: &str) -> StreamKey {
    StreamKey::new(text).unwrap()
}

const PUBLISHED: &str = "NetStream.Publish.Start";

/// Sends a little media, and waits until the source has it.
fn publish_some(rig: &Rig, client: &mut Bare) {
    let before = rig.running.stats().sources[0].packets;
    eventually("media", || {
        // AAC: a sequence header, then a frame.
        client.message(4, 8, 0, &[0xaf, 0, 0x12, 0x10]).unwrap();
        client.message(4, 8, 20, &[0xaf, 1, 1, 2, 3]).unwrap();
        (rig.running.stats().sources[0].packets > before).then_some(())
    });
}

#[test]
fn rtmp_connection_carries_one_stream_after_another() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live/room").key(key("KEY")).takeover(Takeover::Never);
    let rig = Rig::start(source, vec![]);
    let mut client = Bare::connect("127.0.0.1", rig.input_port(), "live").unwrap();
    client.ask("publish", "room/KEY", PUBLISHED).unwrap();
    publish_some(&rig, &mut client);
    // With a farewell, in two forms, and without.
    let argument = [&b"\x05"[..], &text("room/KEY")].concat();
    client.command("FCUnpublish", 6, &argument).unwrap();
    client.ask("publish", "room/KEY?token=1", PUBLISHED).unwrap();
    publish_some(&rig, &mut client);
    let one = [&b"\x05\0"[..], &1f64.to_be_bytes()].concat();
    client.command("deleteStream", 7, &one).unwrap();
    client.ask("publish", "mp4:room/KEY", PUBLISHED).unwrap();
    publish_some(&rig, &mut client);
    client.ask("publish", "room/KEY", PUBLISHED).unwrap();
    publish_some(&rig, &mut client);
    // Another publisher still finds it in use.
    let mut other = Bare::connect("127.0.0.1", rig.input_port(), "live/room").unwrap();
    other.ask("publish", "KEY", "NetStream.Publish.BadName").unwrap();
    drop(client);
    eventually("the source to be free", || {
        let mut other = Bare::connect("127.0.0.1", rig.input_port(), "live/room/?x=y").unwrap();
        other.ask("publish", "KEY", PUBLISHED).ok()
    });
}

#[test]
fn rtmp_player_stops_and_plays_again() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key("IN"));
    let port = free_port();
    let output = Output::rtmp_pull("out", &format!("127.0.0.1:{port}"), "live").key(key("OUT"));
    let rig = Rig::start(source, vec![output.into()]);
    let mut publisher = Bare::connect("127.0.0.1", rig.input_port(), "live").unwrap();
    publisher.ask("publish", "IN", PUBLISHED).unwrap();
    publish_some(&rig, &mut publisher);
    let mut player = Bare::connect("127.0.0.1", port, "live").unwrap();
    for stop in ["closeStream", "deleteStream", ""] {
        player.ask("play", "OUT", "NetStream.Play.Start").unwrap();
        publish_some(&rig, &mut publisher);
        player.read_until(&[0xaf, 1, 1, 2, 3]).unwrap();
        if !stop.is_empty() {
            player.command(stop, 8, b"\x05").unwrap();
        }
    }
    let pause = |on: u8| [&b"\x05\x01"[..], &[on, 0], &0f64.to_be_bytes()].concat();
    player.command("pause", 9, &pause(1)).unwrap();
    player.read_until(b"NetStream.Pause.Notify").unwrap();
    player.command("pause", 9, &pause(0)).unwrap();
    player.read_until(b"NetStream.Unpause.Notify").unwrap();
    publish_some(&rig, &mut publisher);
    player.read_until(&[0xaf, 1, 1, 2, 3]).unwrap();
}

#[test]
fn rtmp_refused_publisher_is_told_of_with_its_application() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key("KEY"));
    let rig = Rig::start(source, vec![]);
    let mut client = Bare::connect("127.0.0.1", rig.input_port(), "studio").unwrap();
    client.ask("publish", "MISTYPED", "NetStream.Publish.BadName").unwrap();
    let detail = rig.event(|event| match event {
        Event::PeerRefused { reason: RefusalReason::NoSuchStream, detail, .. } => Some(detail.to_string()),
        _ => None,
    });
    assert_eq!(detail, "asked to publish to studio/…");
}

#[test]
fn rtmp_port_of_an_output_tells_of_a_publisher() {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key("KEY"));
    let rig = Rig::start(source, vec![Output::rtmp_pull("out", "127.0.0.1:0", "live").key(key("KEY")).into()]);
    let url = rig.playback();
    let port = url.split(':').nth(2).and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    for (port, wanted, answer, told) in [
        (port, "publish", "NetStream.Publish.BadName", "asked to publish to live/…, and this port has no source"),
        (
            rig.input_port(),
            "play",
            "NetStream.Play.StreamNotFound",
            "asked to play live/…, and this port has no output",
        ),
    ] {
        let mut client = Bare::connect("127.0.0.1", port, "live").unwrap();
        client.ask(wanted, "KEY", answer).unwrap();
        let detail = rig.event(|event| match event {
            Event::PeerRefused { reason: RefusalReason::NoSuchStream, detail, .. } => Some(detail.to_string()),
            _ => None,
        });
        assert_eq!(detail, told);
    }
}

/// Runs an output to a server that is made by hand.
fn output_to(url: &str) -> Rig {
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(key("IN"));
    Rig::start(source, vec![Output::from_url("out", url)])
}

fn refuse(stream: &mut TcpStream, description: &str, more: &[u8]) {
    let fields = [("level", "error"), ("code", "NetConnection.Connect.Rejected"), ("description", description)];
    send_command(stream, "_error", 1, &[&b"\x05"[..], &object(&fields, more)].concat()).unwrap();
}

/// Waits for the reason of a failed attempt.
fn failure(rig: &Rig) -> String {
    rig.event(|event| match event {
        Event::OutputRetrying { reason: LossReason::Rejected(what) | LossReason::Unauthorized(what), .. } => {
            Some(what.to_string())
        }
        _ => None,
    })
}

#[test]
fn rtmp_caller_authenticates_and_tells_of_wrong_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rig = output_to(&format!("rtmp://pub:s%40cret@127.0.0.1:{port}/live/KEY"));
    let (mut stream, first) = accept_connect(&listener).unwrap();
    assert!(!first.contains("cret") && !first.contains("pub:") && !first.contains("authmod"), "{first}");
    refuse(&mut stream, "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ", &[]);
    let (mut stream, second) = accept_connect(&listener).unwrap();
    assert_eq!(second.matches("live?authmod=adobe&user=pub").count(), 2, "in `app` and `tcUrl`: {second}");
    refuse(&mut stream, "[ authmod=adobe ] : ?reason=needauth&user=pub&salt=c2E=&challenge=Y2g=&opaque=b3A=", &[]);
    let (mut stream, third) = accept_connect(&listener).unwrap();
    for part in ["live?authmod=adobe&user=pub&challenge=", "&response=", "&opaque=b3A="] {
        assert!(third.contains(part), "{third}");
    }
    refuse(&mut stream, "[ AccessManager.Reject ] : [ authmod=adobe ] : ?reason=authfailed&opaque=b3A=", &[]);
    let told = failure(&rig);
    assert!(told.contains("?reason=authfailed") && told.contains("password is wrong"), "{told}");
}

#[test]
fn rtmp_caller_without_password_tells_the_challenge() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = output_to(&format!("rtmp://127.0.0.1:{}/live/KEY", listener.local_addr().unwrap().port()));
    let (mut stream, _) = accept_connect(&listener).unwrap();
    refuse(&mut stream, "[ code=403 need auth; authmod=llnw ]", &[]);
    let told = failure(&rig);
    assert!(told.contains("authmod=llnw") && told.contains("no user name and password"), "{told}");
}

#[test]
fn rtmp_caller_follows_redirects_within_bounds() {
    let a = TcpListener::bind("127.0.0.1:0").unwrap();
    let b = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let rig = output_to(&format!("rtmp://127.0.0.1:{}/live/KEY", port(&a)));
    let redirect = |to: &str| {
        let code = [&b"\0\x04code\0"[..], &302f64.to_be_bytes()].concat();
        [&b"\0\x02ex"[..], &object(&[("redirect", to)], &code)].concat()
    };
    let to_b = format!("rtmp://127.0.0.1:{}/other/KEY", port(&b));
    let (mut stream, _) = accept_connect(&a).unwrap();
    refuse(&mut stream, "elsewhere", &redirect(&to_b));
    let (mut stream, connect) = accept_connect(&b).unwrap();
    assert!(connect.contains(&format!("rtmp://127.0.0.1:{}/other", port(&b))) && !connect.contains("KEY"), "{connect}");
    // A server that redirects to itself. The first redirect was the other server's.
    for _ in 0..4 {
        refuse(&mut stream, "elsewhere", &redirect(&to_b));
        (stream, _) = accept_connect(&b).unwrap();
    }
    refuse(&mut stream, "elsewhere", &redirect(&to_b));
    let told = failure(&rig);
    assert!(told.contains("more than 5 redirects"), "{told}");
    // The next attempt begins at the configured server.
    let (_, connect) = accept_connect(&a).unwrap();
    assert!(connect.contains("/live"), "{connect}");
}
