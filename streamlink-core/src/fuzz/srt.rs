//! Target for SRT: both ends of an established connection, and ends that are not connected.

use super::{datagrams, random};
use crate::{
    proto::srt::{
        Caller, CipherMode, Connection, Control, Greeting, GroupInput, Handshake, Listener, Local, Packet, Progress,
        Rendezvous, Terms, write_control,
    },
    random::Random,
    test_rng::TestRng,
};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Returns both ends of an established SRT connection.
fn connected(terms: &Terms, now: Instant) -> (Box<Connection>, Connection) {
    let listener = Listener::new([3; 32], now);
    let peer = "192.0.2.1:5000".parse().unwrap();
    let mut caller = Caller::new(
        terms.clone(),
        Local { id: 100, start: now, random: Random::of(random) },
        Some("cam1".into()),
        Duration::from_secs(3),
    );
    for _ in 0..2 {
        let asked = caller.poll_transmit(now).unwrap();
        let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) = Packet::parse(&asked) else {
            panic!("a handshake of ours cannot be read")
        };
        let (reply, connection) = match listener.greet(body, peer, now) {
            Greeting::Induction(induction) => (listener.welcome(&induction, peer, now), None),
            Greeting::Request(request) => {
                let local = Local { id: 200, start: now, random: Random::of(random) };
                let (agreement, answer) = terms.accept_here(&request, timestamp, &local).unwrap();
                let body = answer.write();
                let reply = write_control(&Control::Handshake(&body), 0, request.socket_id);
                (reply, Some(Connection::new(agreement, now)))
            }
            Greeting::Ignore => panic!("our own handshake is ignored"),
        };
        let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) = Packet::parse(&reply) else {
            panic!("an answer of ours cannot be read")
        };
        if let (Progress::Connected(near), Some(far)) = (caller.handle(body, timestamp, now), connection) {
            return (near, far);
        }
    }
    panic!("no connection");
}

/// Feeds the datagrams of a conversation to both ends of an established connection, and to a listener and a caller that
/// are not connected.
pub(super) fn feed_srt(input: &[u8], rng: &mut TestRng) {
    let start = Instant::now();
    let passphrase = (rng.below(2) == 0).then(|| "0123456789".into());
    let cipher = [None, Some(CipherMode::Gcm)][rng.below(2)];
    let filters =
        ["fec,cols:10,rows:5", "fec,cols:6,rows:4,layout:even,arq:always", "fec,cols:255", "fec,cols:2,rows:-9"];
    let filter = filters.get(rng.below(filters.len() * 2)).map(|text| text.parse().unwrap());
    let terms = Terms { passphrase, cipher, filter, ..Terms::default() };
    let listener = Listener::new([3; 32], start);
    let peer = "192.0.2.1:5000".parse().unwrap();
    let (mut near, mut far) = connected(&terms, start);
    let local = Local { id: 100, start, random: Random::of(random) };
    let mut caller = Caller::new(terms.clone(), local.clone(), None, Duration::from_secs(3));
    let mut rendezvous = Rendezvous::new(terms.clone(), local, Duration::from_secs(3));
    let mut group = (rng.below(2) == 0).then(GroupInput::default);
    if let Some(group) = &group {
        group.join(&mut far, None);
    }
    near.push(&Bytes::from_static(b"payload"), start);
    let mut now = start;
    for (i, datagram) in datagrams(input).into_iter().enumerate() {
        now += Duration::from_millis(rng.below(40) as u64);
        let Some(packet) = Packet::parse(&datagram) else { continue };
        if let Packet::Control { control: Control::Handshake(body), timestamp, .. } = &packet {
            if let Some(handshake) = Handshake::parse(body) {
                let local = Local { id: 200, start, random: Random::of(random) };
                let _ = terms.accept_here(&handshake, *timestamp, &local);
                let body = handshake.write();
                assert!(body.len() < 4096);
            }
            let _ = listener.greet(body, peer, now);
            let _ = caller.poll_transmit(now);
            let _ = caller.handle(body, *timestamp, now);
            let _ = rendezvous.poll_transmit(now);
            let _ = rendezvous.handle(body, *timestamp, now);
        }
        let connection = if rng.below(2) == 0 { &mut *near } else { &mut far };
        connection.handle(&packet, &datagram, now);
        connection.push(&Bytes::from(vec![i as u8; 1316]), now);
        connection.handle_timeout(now);
        let _ = connection.next_timeout();
        for _ in 0..10_000 {
            if connection.poll_transmit(now).is_none() {
                break;
            }
        }
        if let Some(group) = &mut group {
            while let Some(head) = far.head(now).filter(|head| head.is_due) {
                let _ = group.take(head, &mut far);
                group.skip(&mut far, &mut None);
            }
        }
        let connection = if rng.below(2) == 0 { &mut *near } else { &mut far };
        while connection.poll_payload(now).is_some() {}
        let _ = connection.stats();
    }
}
