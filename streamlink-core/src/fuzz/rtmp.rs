//! Targets for RTMP: both ends of a connection, and AMF0.

use super::{pieces, random};
use crate::{
    media::{
        Packet as MediaPacket, RtmpKind,
        flv::{self, FlvRandomAccessTracker, Tag, amf0},
    },
    proto::rtmp,
    random::Random,
    test_rng::TestRng,
};
use bytes::Bytes;
use std::time::Instant;

/// Feeds the body of a media message to the FLV parsers.
fn look_at(kind: RtmpKind, body: Bytes, points: &mut FlvRandomAccessTracker) {
    let _ = Tag::parse(kind, &body);
    points.observe(&MediaPacket::rtmp(kind, 0, body, Instant::now()));
    let _ = (points.preamble(), points.description());
}

pub(super) fn feed_rtmp_server(input: &[u8], rng: &mut TestRng) {
    let mut session = rtmp::ServerSession::new(&Random::of(random));
    let mut points = FlvRandomAccessTracker::default();
    for mut piece in pieces(input, rng) {
        session.link().received(piece.len());
        loop {
            match session.read(&mut piece) {
                Ok(Some(rtmp::Request::Publish { .. } | rtmp::Request::Play { .. })) => match rng.below(8) {
                    0 => session.refuse(rtmp::Refusal::InUse),
                    _ => session.accept(),
                },
                Ok(Some(rtmp::Request::Media(message))) => {
                    if let Some(kind) = message.media() {
                        let before = flv::set_data_frame(&message.body);
                        look_at(kind, message.body.without(before).into(), &mut points);
                    }
                }
                Ok(Some(rtmp::Request::End)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(session.link().take_output().len() < 1 << 20);
    }
}

pub(super) fn feed_rtmp_client(input: &[u8], rng: &mut TestRng) {
    let purpose =
        if rng.below(2) == 0 { rtmp::ClientRole::Play } else { rtmp::ClientRole::Publish { chunk_size: 4096 } };
    let target = rtmp::ClientTarget {
        app: "live".into(),
        url: "rtmp://127.0.0.1/live".into(),
        key: "KEY".into(),
        ..rtmp::ClientTarget::default()
    };
    let mut session = rtmp::ClientSession::new(purpose, target, &Random::of(random));
    let mut points = FlvRandomAccessTracker::default();
    for mut piece in pieces(input, rng) {
        session.link().received(piece.len());
        loop {
            match session.read(&mut piece) {
                Ok(Some(rtmp::ClientEvent::Media(message))) => {
                    if let Some(kind) = message.media() {
                        look_at(kind, message.body.into(), &mut points);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(session.link().take_output().len() < 1 << 20);
    }
}

pub(super) fn feed_amf(input: &[u8], rng: &mut TestRng) {
    // Commands are at arbitrary offsets in the conversations.
    let from = rng.below(input.len());
    if let Ok(values) = amf0::read_all(&input[from..]) {
        assert!(values.len() <= input.len());
    }
}
