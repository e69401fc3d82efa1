//! Targets for RTSP: both ends of a connection with the packets of its tracks, and SDP.

use super::{pieces, random};
use crate::{
    media::{
        MediaFamily, Packet as MediaPacket,
        rtp::Header,
        rtsp::{Presentation, RtspRandomAccessTracker, is_rtcp},
    },
    proto::rtsp::{self, ResolvedStream, Status, StreamDirectory},
    random::Random,
    router::{FailoverConfig, GopSegmenter, Limits, MediaBatch, Ring, SourceGroup, SwitchPolicy},
    test_rng::TestRng,
};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// StreamDirectory in which every stream can be published and played.
struct Open(Arc<Presentation>);

impl StreamDirectory for Open {
    fn find(&mut self, publish: bool, _: &str) -> Result<ResolvedStream, Status> {
        let presentation = if publish { None } else { Some(self.0.clone()) };
        Ok(ResolvedStream { user: None, presentation, tcp: true, udp: true, groups: Vec::new() })
    }

    fn open_udp(&mut self, _: bool, _: &str, track: usize, _: (u16, u16)) -> Result<(u16, u16), Status> {
        if track < 2 { Ok((6970, 6971)) } else { Err(Status::NOT_ENOUGH_BANDWIDTH) }
    }
}

fn presentation() -> Arc<Presentation> {
    let sdp = include_bytes!("../../corpus/sdp/ffmpeg");
    Arc::new(Presentation::parse(sdp).unwrap())
}

/// Passes packets of RTSP tracks through the parsers and a source group.
fn tracks(frames: Vec<(u8, Bytes)>, presentation: &Arc<Presentation>) {
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
    let terms = FailoverConfig { turns: SwitchPolicy::Stay, loss_threshold: Duration::from_millis(500) };
    let group = SourceGroup::new(ring, Arc::default(), terms, MediaFamily::Rtsp, 2);
    let mut starts = RtspRandomAccessTracker::default();
    starts.begin(presentation);
    let mut cutter = GopSegmenter::default();
    cutter.begin_presentation(presentation);
    group.begin(0, Some(presentation));
    group.begin(1, Some(presentation));
    let mut delivery = MediaBatch::default();
    let start = Instant::now();
    for (i, (channel, data)) in frames.into_iter().enumerate() {
        let at = start + Duration::from_millis(20 * i as u64);
        let packet = MediaPacket::rtsp(channel / 2, data, at);
        let valid = is_rtcp(packet.data()) || Header::parse(packet.data()).is_ok();
        if let Some(moment) = cutter.observe(&packet).filter(|_| valid) {
            cutter.push(&mut delivery, packet, moment);
        }
        group.offer((i / 40) % 2, &mut delivery, at);
        if i % 40 == 39 {
            group.lose((i / 40) % 2, at);
        }
    }
}

pub(super) fn feed_rtsp_server(input: &[u8], rng: &mut TestRng) {
    let mut session = rtsp::ServerSession::new(&Random::of(random));
    let mut directory = Open(presentation());
    let mut frames = Vec::new();
    for piece in pieces(input, rng) {
        session.push(piece);
        loop {
            match session.next(&mut directory) {
                Ok(Some(rtsp::Request::Publish { presentation, .. })) => {
                    presentation.to_sdp();
                    session.accept(&[]);
                }
                Ok(Some(rtsp::Request::Play { .. })) => session.accept(&[]),
                Ok(Some(rtsp::Request::Frame { channel, data })) => frames.push((channel, data)),
                Ok(Some(rtsp::Request::End)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(session.take_output().len() < 1 << 20);
    }
    tracks(frames, &presentation());
}

pub(super) fn feed_rtsp_client(input: &[u8], rng: &mut TestRng) {
    let record = rng.below(2) == 0;
    let purpose = if record { rtsp::ClientRole::Record(presentation()) } else { rtsp::ClientRole::Play };
    let mut session =
        rtsp::ClientSession::new(purpose, "rtsp://127.0.0.1/cam", None, rng.below(4) == 0, &Random::of(random));
    let mut frames = Vec::new();
    for piece in pieces(input, rng) {
        session.push(piece);
        loop {
            match session.next() {
                Ok(Some(rtsp::ClientEvent::Frame { channel, data })) => frames.push((channel, data)),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(session.take_output().len() < 1 << 20);
    }
    tracks(frames, &presentation());
}

pub(super) fn feed_sdp(input: &[u8], _: &mut TestRng) {
    if let Ok(presentation) = Presentation::parse(input) {
        let written = presentation.to_sdp();
        let again = Presentation::parse(written.as_bytes());
        assert!(again.is_err() || again.is_ok_and(|again| again.tracks().len() == presentation.tracks().len()));
        presentation.description();
        assert!(presentation.is_compatible_with(&presentation));
    }
}
