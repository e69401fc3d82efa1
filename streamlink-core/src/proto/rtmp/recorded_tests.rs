//! Tests of the server session with recorded conversations of real publishers.

use super::*;
use crate::{media::RtmpKind, random::Random};

const ALL: [RtmpKind; 3] = [RtmpKind::Video, RtmpKind::Audio, RtmpKind::Data];

/// Sends the bytes of a recorded publisher, in pieces, and returns the kinds of its media messages.
fn publish(recording: &[u8], path: &str, piece: usize) -> Vec<RtmpKind> {
    let mut server = ServerSession::new(&Random::of(|bytes| bytes.fill(7)));
    let mut kinds = Vec::new();
    let mut asked = false;
    for mut piece in recording.chunks(piece) {
        server.link().received(piece.len());
        while let Some(request) = server.read(&mut piece).unwrap() {
            match request {
                Request::Publish(theirs) => {
                    assert!(theirs.is(path), "{theirs:?}");
                    asked = true;
                    server.accept();
                }
                Request::Media(message) => kinds.extend(message.media()),
                other => panic!("{other:?}"),
            }
        }
        server.link().take_output();
    }
    assert!(asked);
    kinds
}

fn brings(expected: &[RtmpKind], recording: &[u8], path: &str) {
    for piece in [1, 1000, recording.len()] {
        let kinds = publish(recording, path, piece);
        for kind in expected {
            assert!(kinds.contains(kind), "{kind:?} in pieces of {piece}: {kinds:?}");
        }
    }
}

#[test]
fn rtmp_server_takes_the_recorded_conversation_of_obs() {
    let recording = include_bytes!("../../../corpus/rtmp_server/obs-publish");
    brings(&ALL, recording, "live/obs-key");
    // The parameters behind the key are part of it, if ours has them.
    brings(&ALL, recording, "live/obs-key?a=b");
}

#[test]
fn rtmp_server_takes_the_recorded_conversation_of_ffmpeg() {
    let recording = include_bytes!("../../../corpus/rtmp_server/ffmpeg-publish");
    brings(&ALL, recording, "live/KEY");
}

#[test]
fn rtmp_server_takes_the_recorded_conversation_of_gstreamer() {
    // It has pictures only.
    let recording = include_bytes!("../../../corpus/rtmp_server/gst-publish");
    brings(&[RtmpKind::Video, RtmpKind::Data], recording, "live/KEY");
}
