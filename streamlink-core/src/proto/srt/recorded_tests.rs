//! Tests of the listening side with recorded conversations of real callers.

use super::*;
use crate::random::Random;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Returns the datagrams of a recording, each after its length.
fn datagrams(mut recording: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some((length, rest)) = recording.split_first_chunk::<2>() {
        let (datagram, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        found.push(Bytes::copy_from_slice(datagram));
        recording = rest;
    }
    found
}

/// Accepts the recorded caller, and returns the stream id that it asked for and its payloads.
fn receive(recording: &[u8], passphrase: Option<&str>) -> (Option<String>, Vec<Bytes>) {
    let start = Instant::now();
    let mut now = start;
    let terms = Terms { passphrase: passphrase.map(Into::into), ..Terms::default() };
    let mut stream_id = None;
    let mut connection: Option<Connection> = None;
    let mut payloads = Vec::new();
    for datagram in datagrams(recording) {
        let packet = Packet::parse(&datagram).unwrap();
        now += Duration::from_millis(1);
        if let Packet::Control { control: Control::Handshake(body), timestamp, .. } = &packet {
            let handshake = Handshake::parse(body).unwrap();
            if connection.is_none() && handshake.version == 5 {
                stream_id = handshake.extensions.stream_id.clone();
                let local = Local { id: 200, start, random: Random::of(|bytes| bytes.fill(7)) };
                let (agreement, _) = terms.accept_here(&handshake, *timestamp, &local).unwrap();
                connection = Some(Connection::new(agreement, now));
            }
        }
        let Some(connection) = &mut connection else { continue };
        connection.handle(&packet, &datagram, now);
        connection.handle_timeout(now);
        while connection.poll_transmit(now).is_some() {}
    }
    let mut connection = connection.unwrap();
    // All have been held for the latency by then.
    now += Duration::from_secs(5);
    connection.handle_timeout(now);
    while let Some(payload) = connection.poll_payload(now) {
        payloads.push(payload);
    }
    assert_eq!(connection.stats().undecrypted, 0);
    (stream_id, payloads)
}

/// Checks that the payloads are whole packets of MPEG-TS.
fn are_transport_packets(payloads: &[Bytes]) {
    assert!(payloads.len() > 10, "{}", payloads.len());
    for payload in payloads {
        assert!(payload.chunks(188).all(|packet| packet.len() == 188 && packet[0] == 0x47));
    }
}

#[test]
fn srt_listener_takes_the_recorded_conversation_of_obs() {
    let recording = include_bytes!("../../../corpus/srt_listener/obs-encrypted");
    let (stream_id, payloads) = receive(recording, Some("0123456789"));
    assert_eq!(stream_id.as_deref(), Some("cam-1"));
    are_transport_packets(&payloads);
}

#[test]
fn srt_listener_takes_the_recorded_conversations_of_ffmpeg() {
    let (_, payloads) = receive(include_bytes!("../../../corpus/srt_listener/ffmpeg-plain"), None);
    are_transport_packets(&payloads);
    let encrypted = include_bytes!("../../../corpus/srt_listener/ffmpeg-encrypted");
    let (_, payloads) = receive(encrypted, Some("0123456789"));
    are_transport_packets(&payloads);
}
