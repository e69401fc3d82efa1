//! Fuzz targets: every parser of external bytes, fed with mutated recordings of real programs.
//!
//! The seeds are in `corpus/`, with one folder for each target: recorded conversations of ffmpeg and GStreamer with
//! this library, and texts. The targets have two users:
//!
//! - `fuzz/` of the repository runs them under libFuzzer, which is guided by coverage (see `fuzz/README.md`).
//! - The tests of this module are the quick check. They mutate the seeds at random, for two seconds a target or for the
//!   time that is set:
//!
//! ```text
//! STREAMLINK_FUZZ_SECONDS=3600 STREAMLINK_FUZZ_SEED=7 cargo test -p streamlink-core --all-features --lib fuzz::
//! ```
//!
//! The module is compiled for tests and for fuzzing only. It unwraps values of the corpus and of our own handshakes,
//! and fails if they are invalid.
//!
//! Each input must cause no panic (arithmetic is checked in these builds), take at most one second, and use bounded
//! memory. An input that fails is written to the system's temporary folder. Once the fault is fixed, the input is added
//! to the corpus.

// A panic is the finding.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::{
    flow::{Allowlist, Output, Source},
    media::{
        Packet as MediaPacket, Remuxer, RtmpKind, TsMonitor,
        flv::{self, FlvRandomAccessTracker, Tag, amf0},
        rtp::Header,
        rtsp::{Presentation, RtspRandomAccessTracker, is_rtcp},
    },
    proto::{
        rist::{RistReceiver, RistSender},
        rtmp,
        rtp::{FecDecoder, FecEncoder, Pacer, Placed, Receiver, Wrapper, unwrap},
        rtsp::{self, ResolvedStream, Status, StreamDirectory},
        srt::{
            Caller, CipherMode, Connection, Control, Greeting, GroupInput, Handshake, Listener, Local, Packet,
            Progress, Rendezvous, Terms, write_control,
        },
    },
    random::Random,
    router::{FailoverConfig, Limits, Ring, SourceGroup, SwitchPolicy},
    test_rng::TestRng,
};
use bytes::Bytes;
#[cfg(test)]
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Defines each target as a function for libFuzzer and as a test: its name, the folder of its seeds, and the function.
macro_rules! targets {
    ($($(#[$attribute:meta])* $name:ident, $corpus:literal, $target:ident;)*) => {
        $(
            $(#[$attribute])*
            #[cfg(fuzzing)]
            #[doc = concat!("Feeds an input to the target `", stringify!($name), "`.")]
            pub fn $name(input: &[u8]) {
                // Choices of a target follow from the last byte, so that an input alone gives the same run again.
                let seed = input.last().copied().map_or(1, |byte| u64::from(byte) + 1);
                $target(input, &mut TestRng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
            }
        )*

        #[cfg(test)]
        mod quick {
            $(
                $(#[$attribute])*
                #[test]
                fn $name() {
                    super::fuzz($corpus, super::$target);
                }
            )*
        }
    };
}

targets! {
    rtmp_server, "rtmp_server", feed_rtmp_server;
    rtmp_client, "rtmp_client", feed_rtmp_client;
    amf, "rtmp_client", feed_amf;
    rtsp_server, "rtsp_server", feed_rtsp_server;
    rtsp_client, "rtsp_client", feed_rtsp_client;
    sdp, "sdp", feed_sdp;
    srt_listener, "srt_listener", feed_srt;
    srt_caller, "srt_caller", feed_srt;
    srt_filter, "srt_filter", feed_srt;
    rtp, "rtp", feed_rtp;
    rtp_fec, "rtp", feed_fec;
    rist, "rtp", feed_rist;
    udp, "ts", feed_udp;
    transport_stream, "ts", feed_transport_stream;
    urls, "url", feed_url;
    #[cfg(feature = "serde")]
    json, "json", feed_json;
    allowlists, "allowlist", feed_allowlist;
}

/// Bytes that often cause parser faults.
#[cfg(test)]
const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b'\r', b'\n', b'$', b'%', b':', b'"'];

/// Mutates an input with one to eight random changes.
#[cfg(test)]
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut TestRng) {
    for _ in 0..1 + dice.below(8) {
        let at = dice.below(input.len());
        match dice.below(9) {
            0 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
            1 if !input.is_empty() => input[at] = ODD[dice.below(ODD.len())],
            2 if !input.is_empty() => input[at] = dice.next_u64() as u8,
            3 => {
                let end = (at + 1 + dice.below(64)).min(input.len());
                input.drain(at.min(end)..end);
            }
            4 => {
                let run = vec![ODD[dice.below(ODD.len())]; 1 + dice.below(40)];
                input.splice(at..at, run);
            }
            5 => {
                let end = (at + dice.below(200)).min(input.len());
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 => input.truncate(at),
            7 if !others.is_empty() => {
                let other = &others[dice.below(others.len())];
                let from = dice.below(other.len());
                let end = (from + dice.below(2000)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            // Overwrites one to four bytes, so that a number becomes very large or very small.
            _ => {
                let value = if dice.below(2) == 0 { 0xff } else { 0 };
                let end = (at + 1 + dice.below(4)).min(input.len());
                input[at..end].fill(value);
            }
        }
    }
    input.truncate(128 << 10);
}

/// Returns the time that this thread has computed, however busy the machine is with others.
#[cfg(test)]
fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Feeds a target with the seeds and then with mutated seeds until the time is over.
#[cfg(test)]
fn fuzz(name: &str, target: impl Fn(&[u8], &mut TestRng)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let setting = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let time = Duration::from_secs(setting("STREAMLINK_FUZZ_SECONDS", 2));
    let mut dice = TestRng(setting("STREAMLINK_FUZZ_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let run = |input: &[u8], dice: &mut TestRng| {
        let state = dice.0;
        let began = thread_time();
        let result = catch_unwind(AssertUnwindSafe(|| target(input, dice)));
        let taken = thread_time() - began;
        let slow = taken > Duration::from_secs(1);
        if result.is_err() || slow {
            let file = std::env::temp_dir().join(format!("streamlink-fuzz-{name}-{state:x}"));
            fs::write(&file, input).unwrap();
            println!("this input is in {}", file.display());
        }
        assert!(!slow, "an input took {taken:?} of computing");
        result.unwrap_or_else(|panic| resume_unwind(panic));
    };
    // Unmodified seeds first, which must pass.
    for seed in &seeds {
        run(seed, &mut dice);
    }
    let mut inputs = 0u64;
    while start.elapsed() < time {
        let mut input = seeds[dice.below(seeds.len())].clone();
        mutate(&mut input, &seeds, &mut dice);
        run(&input, &mut dice);
        inputs += 1;
    }
    println!("{name}: {inputs} inputs");
    assert!(inputs > 0);
}

fn random(bytes: &mut [u8]) {
    bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u8).wrapping_add(17));
}

/// Splits a stream into pieces, as it may arrive.
fn pieces<'a>(mut input: &'a [u8], dice: &mut TestRng) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let most = [1, 7, 200, 5000, 70_000][dice.below(5)];
    while !input.is_empty() && pieces.len() < 20_000 {
        let (piece, rest) = input.split_at(input.len().min(1 + dice.below(most)));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Returns the datagrams of an input, each of which follows its length in two bytes.
fn datagrams(mut input: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        found.push(Bytes::copy_from_slice(&rest[..length]));
        input = &rest[length..];
    }
    found
}

/// Feeds the body of a media message to the FLV parsers.
fn look_at(kind: RtmpKind, body: Bytes, points: &mut FlvRandomAccessTracker) {
    let _ = Tag::parse(kind, &body);
    points.observe(&MediaPacket::rtmp(kind, 0, body, Instant::now()));
    let _ = (points.preamble(), points.description());
}

fn feed_rtmp_server(input: &[u8], dice: &mut TestRng) {
    let mut session = rtmp::ServerSession::new(&Random::of(random));
    let mut points = FlvRandomAccessTracker::default();
    for mut piece in pieces(input, dice) {
        session.link().received(piece.len());
        loop {
            match session.read(&mut piece) {
                Ok(Some(rtmp::Request::Publish { .. } | rtmp::Request::Play { .. })) => match dice.below(8) {
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

fn feed_rtmp_client(input: &[u8], dice: &mut TestRng) {
    let purpose =
        if dice.below(2) == 0 { rtmp::ClientRole::Play } else { rtmp::ClientRole::Publish { chunk_size: 4096 } };
    let target = rtmp::ClientTarget {
        app: "live".into(),
        url: "rtmp://127.0.0.1/live".into(),
        key: "KEY".into(),
        ..rtmp::ClientTarget::default()
    };
    let mut session = rtmp::ClientSession::new(purpose, target, &Random::of(random));
    let mut points = FlvRandomAccessTracker::default();
    for mut piece in pieces(input, dice) {
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

fn feed_amf(input: &[u8], dice: &mut TestRng) {
    // Commands are at arbitrary offsets in the conversations.
    let from = dice.below(input.len());
    if let Ok(values) = amf0::read_all(&input[from..]) {
        assert!(values.len() <= input.len());
    }
}

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
    let sdp = include_bytes!("../corpus/sdp/ffmpeg");
    Arc::new(Presentation::parse(sdp).unwrap())
}

/// Passes packets of RTSP tracks through the parsers and a source group.
fn tracks(frames: Vec<(u8, Bytes)>, presentation: &Arc<Presentation>) {
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
    let terms = FailoverConfig { turns: SwitchPolicy::Stay, loss_threshold: Duration::from_millis(500) };
    let group = SourceGroup::new(ring, Arc::default(), terms, crate::media::MediaFamily::Rtsp, 2);
    let mut starts = RtspRandomAccessTracker::default();
    starts.begin(presentation);
    let mut cutter = crate::router::GopSegmenter::default();
    cutter.begin_presentation(presentation);
    group.begin(0, Some(presentation));
    group.begin(1, Some(presentation));
    let mut delivery = crate::router::MediaBatch::default();
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

fn feed_rtsp_server(input: &[u8], dice: &mut TestRng) {
    let mut session = rtsp::ServerSession::new(&Random::of(random));
    let mut directory = Open(presentation());
    let mut frames = Vec::new();
    for piece in pieces(input, dice) {
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

fn feed_rtsp_client(input: &[u8], dice: &mut TestRng) {
    let record = dice.below(2) == 0;
    let purpose = if record { rtsp::ClientRole::Record(presentation()) } else { rtsp::ClientRole::Play };
    let mut session =
        rtsp::ClientSession::new(purpose, "rtsp://127.0.0.1/cam", None, dice.below(4) == 0, &Random::of(random));
    let mut frames = Vec::new();
    for piece in pieces(input, dice) {
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

fn feed_sdp(input: &[u8], _: &mut TestRng) {
    if let Ok(presentation) = Presentation::parse(input) {
        let written = presentation.to_sdp();
        let again = Presentation::parse(written.as_bytes());
        assert!(again.is_err() || again.is_ok_and(|again| again.tracks().len() == presentation.tracks().len()));
        presentation.description();
        assert!(presentation.is_compatible_with(&presentation));
    }
}

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
fn feed_srt(input: &[u8], dice: &mut TestRng) {
    let start = Instant::now();
    let passphrase = (dice.below(2) == 0).then(|| "0123456789".into());
    let cipher = [None, Some(CipherMode::Gcm)][dice.below(2)];
    let filters =
        ["fec,cols:10,rows:5", "fec,cols:6,rows:4,layout:even,arq:always", "fec,cols:255", "fec,cols:2,rows:-9"];
    let filter = filters.get(dice.below(filters.len() * 2)).map(|text| text.parse().unwrap());
    let terms = Terms { passphrase, cipher, filter, ..Terms::default() };
    let listener = Listener::new([3; 32], start);
    let peer = "192.0.2.1:5000".parse().unwrap();
    let (mut near, mut far) = connected(&terms, start);
    let local = Local { id: 100, start, random: Random::of(random) };
    let mut caller = Caller::new(terms.clone(), local.clone(), None, Duration::from_secs(3));
    let mut rendezvous = Rendezvous::new(terms.clone(), local, Duration::from_secs(3));
    let mut group = (dice.below(2) == 0).then(GroupInput::default);
    if let Some(group) = &group {
        group.join(&mut far, None);
    }
    near.push(&Bytes::from_static(b"payload"), start);
    let mut now = start;
    for (i, datagram) in datagrams(input).into_iter().enumerate() {
        now += Duration::from_millis(dice.below(40) as u64);
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
        let connection = if dice.below(2) == 0 { &mut *near } else { &mut far };
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
            while let Some(head) = far.head(now) {
                let _ = group.take(head, &mut far);
                group.skip(&mut far);
            }
        }
        let connection = if dice.below(2) == 0 { &mut *near } else { &mut far };
        while connection.poll_payload(now).is_some() {}
        let _ = connection.stats();
    }
}

fn feed_rtp(input: &[u8], dice: &mut TestRng) {
    let start = Instant::now();
    let merge = dice.below(2) == 0;
    let turns = if merge { SwitchPolicy::Merge(Duration::from_millis(200)) } else { SwitchPolicy::Stay };
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
    let terms = FailoverConfig { turns, loss_threshold: Duration::from_millis(100) };
    let group = SourceGroup::new(ring, Arc::default(), terms, crate::media::MediaFamily::Rtp, 2);
    let mut receivers = [50, 0].map(|ms| Receiver::new(Duration::from_millis(ms)));
    let mut delivery = crate::router::MediaBatch::default();
    let mut monitor = TsMonitor::new();
    let mut now = start;
    let packets = datagrams(input);
    // The packets are repeated so that sequence numbers wrap around.
    for _ in 0..4 {
        for data in &packets {
            now += Duration::from_millis(dice.below(30) as u64);
            let Ok(header) = Header::parse(data) else { continue };
            let mut altered = data.to_vec();
            altered[3] = altered[3].wrapping_add(dice.below(3) as u8);
            let source = dice.below(2);
            let packet = MediaPacket::rtp(altered, now);
            let header = Header::parse(packet.data()).unwrap_or(header);
            monitor.observe(&packet.data()[header.payload_start.min(packet.data().len())..], now);
            receivers[source].handle(&header, packet, &mut delivery.packets);
            receivers[source].handle_timeout(now, &mut delivery.packets);
            group.offer(source, &mut delivery, now);
            group.handle_timeout(now);
        }
        group.lose(dice.below(2), now);
    }
    group.finish(now);
}

/// Feeds FEC packets of the packets of an input, and the packets themselves, altered, to the decoder.
fn feed_fec(input: &[u8], dice: &mut TestRng) {
    let now = Instant::now();
    let columns = 1 + dice.below(20) as u8;
    let rows = 1 + dice.below(20) as u8;
    let mut encoder = FecEncoder::new(columns, rows, dice.below(2) == 0, [0, 0]);
    let mut decoder = FecDecoder::new();
    let mut fec = Vec::new();
    let mut out = Vec::new();
    let packets = datagrams(input);
    for number in 0..80u16 {
        for data in packets.iter().take(20) {
            let mut altered = data.to_vec();
            if let Some((header, payload)) = altered.split_first_chunk_mut::<12>() {
                header[2..4].copy_from_slice(&number.wrapping_mul(dice.below(3) as u16).to_be_bytes());
                encoder.push(header, payload, &mut fec);
            }
            if let Ok(header) = Header::parse(&altered)
                && dice.below(8) > 0
            {
                decoder.media(&header, &MediaPacket::rtp(altered, now), &mut out);
            }
            // Anything may come to the port of the FEC packets.
            decoder.fec(data, now, &mut out);
        }
        for mut packet in fec.drain(..) {
            if let Some(byte) = packet.bytes.get_mut(12 + dice.below(64)).filter(|_| dice.below(3) == 0) {
                *byte ^= 1 << dice.below(8);
            }
            decoder.fec(&packet.bytes, now, &mut out);
        }
        let _ = decoder.wait(now);
        out.clear();
    }
}

/// Feeds an input to both ends of RIST as media and as RTCP, which is given the look of RIST's packets.
fn feed_rist(input: &[u8], dice: &mut TestRng) {
    let start = Instant::now();
    let latency = Duration::from_millis(100);
    let mut sender = RistSender::new(latency, 0, start);
    let mut receiver = RistReceiver::new(9, latency, start);
    let mut now = start;
    let packets = datagrams(input);
    for number in 0..100u16 {
        for data in packets.iter().take(40) {
            now += Duration::from_millis(dice.below(20) as u64);
            let mut altered = data.to_vec();
            if let Some(header) = altered.first_chunk_mut::<12>() {
                header[2..4].copy_from_slice(&number.wrapping_mul(dice.below(5) as u16).to_be_bytes());
                header[11] ^= dice.below(2) as u8;
            }
            let packet = MediaPacket::rtp(altered.clone(), now);
            sender.sent(&packet, now);
            if let Ok(header) = Header::parse(packet.data()) {
                let _ = receiver.media(&header, now);
            }
            if let Some(header) = altered.first_chunk_mut::<12>() {
                header[0] = 0x80 | header[0] & 0x1f;
                header[1] = 200 + header[1] % 8;
                header[2] = 0;
                header[3] %= 64;
                if dice.below(2) == 0 {
                    header[8..12].copy_from_slice(b"RIST");
                }
            }
            assert!(sender.rtcp(&altered, now).repeats.len() <= 1024);
            receiver.rtcp(&altered, now);
            for compound in sender.poll(now) {
                receiver.rtcp(&compound, now);
            }
            for compound in receiver.poll(now) {
                let _ = sender.rtcp(&compound, now);
            }
            let _ = (sender.next_timeout(), receiver.next_timeout());
        }
    }
}

/// Feeds datagrams of all sizes to a source of MPEG-TS without RTP, and its packets to an output that is paced.
fn feed_udp(input: &[u8], dice: &mut TestRng) {
    let start = Instant::now();
    let mut now = start;
    let mut wrapper = Wrapper::new(7, 0, 0);
    let mut pacer = Pacer::default();
    let mut place = 0;
    for piece in pieces(input, dice) {
        now += Duration::from_millis(dice.below(50) as u64);
        let mut out = Vec::new();
        let _ = wrapper.contents(piece);
        wrapper.push(piece, now, &mut out);
        for packet in out {
            let payload = unwrap(packet.data()).unwrap_or_default();
            pacer.push(Placed { packet: packet.clone(), place }, payload, now);
            place += 1;
        }
        while pacer.pop(now).is_some() {}
        let _ = pacer.next_timeout();
    }
    pacer.flush(now);
}

fn feed_transport_stream(input: &[u8], dice: &mut TestRng) {
    let mut monitor = TsMonitor::new();
    let mut remuxer = Remuxer::new();
    let mut messages = Vec::new();
    let mut points = FlvRandomAccessTracker::default();
    let start = Instant::now();
    for (i, payload) in input.chunks([1316, 188, 1000, 65_000][dice.below(4)]).enumerate() {
        monitor.observe(payload, start + Duration::from_millis(i as u64));
        remuxer.push(payload, start + Duration::from_millis(i as u64), &mut messages);
        let _ = (monitor.description(), monitor.pids(), remuxer.selection());
    }
    remuxer.finish(Instant::now(), &mut messages);
    for message in &messages {
        points.observe(message);
        let (kind, _) = message.rtmp_message().unwrap();
        let _ = Tag::parse(kind, message.data());
    }
}

/// Returns an input as text, with invalid UTF-8 replaced.
fn as_text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn feed_url(input: &[u8], _: &mut TestRng) {
    let text = as_text(input);
    let source = Source::from_url("a", &text);
    let output = Output::from_url("a", &text);
    // A URL that can be parsed can be written, and the result parses to the same URL.
    if source.common.errors.is_empty() {
        assert_eq!(Source::from_url("a", &source.to_url()).to_url(), source.to_url());
    }
    if output.common.errors.is_empty() {
        assert_eq!(Output::from_url("a", &output.to_url()).to_url(), output.to_url());
    }
}

#[cfg(feature = "serde")]
fn feed_json(input: &[u8], _: &mut TestRng) {
    if let Ok(flow) = crate::flow::Flow::from_json(&as_text(input)) {
        let again = crate::flow::Flow::from_json(&flow.to_json()).unwrap();
        assert_eq!(again.to_json(), flow.to_json());
    }
}

fn feed_allowlist(input: &[u8], _: &mut TestRng) {
    if let Ok(list) = as_text(input).parse::<Allowlist>() {
        let again: Allowlist = list.to_string().parse().unwrap();
        assert_eq!(again, list);
        list.admits("203.3.3.4".parse().unwrap());
    }
}
