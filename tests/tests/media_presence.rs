//! Presence of media: an encoder that has lost its camera goes on with tables, clock references and null packets, at
//! the same rate as before. Over real sockets of SRT and RTP.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Failover, Flow, FlowHandle, LeftOut, LossReason, Output, Packet, Source, StreamKey,
};
use streamlink_tests::{
    clip, eventually,
    rig::{Recording, Rig, free_port},
    rtp::{Sender, packet},
    ts::table,
};

const PACKET: usize = 188;
/// Number of transport packets in one datagram.
const TOGETHER: usize = 7;

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

fn is_table(packet: &[u8]) -> bool {
    matches!(pid(packet), 0 | 0x11 | 0x1000)
}

fn null() -> Vec<u8> {
    [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; PACKET - 4]].concat()
}

/// Packets that an encoder without a camera sends in place of pictures and sound.
#[derive(Clone, Copy, Debug)]
enum Remainder {
    Nulls,
    /// Clock references without a payload.
    Clocks,
    /// Splice information (SCTE 35), which comes in sections.
    Splices,
    /// Nothing at all but the tables.
    Tables,
}

/// Returns the stream with all its pictures and sound replaced.
fn without_media(stream: &[u8], by: Remainder) -> Vec<u8> {
    let mut out = Vec::new();
    let mut counter = 0u8;
    for packet in stream.chunks_exact(PACKET) {
        match by {
            _ if is_table(packet) => out.extend_from_slice(packet),
            Remainder::Nulls => out.extend(null()),
            Remainder::Clocks => {
                let mut clock = vec![0x47, 0x01, 0x00, 0x20, 183, 0x10];
                clock.extend((counter as u32 * 1800).to_be_bytes());
                clock.extend([0x7e, 0]);
                clock.resize(PACKET, 0xff);
                out.extend(clock);
                counter = counter.wrapping_add(1);
            }
            Remainder::Splices => {
                out.extend(table(0x1f0, counter, &[0xfc, 0x30, 17, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, 0, 0, 0, 0]));
                counter = counter.wrapping_add(1);
            }
            Remainder::Tables => {}
        }
    }
    out
}

/// A way to send datagrams to an input address.
trait Feed: Send {
    fn send(&mut self, datagram: &[u8]);
}

struct SrtFeed {
    engine: Engine,
    flow: FlowHandle,
}

impl SrtFeed {
    fn to(address: &str) -> Self {
        let engine = Engine::builder().workers(1).build().unwrap();
        let flow = Flow::builder("encoder", Bitrate::mbps(20))
            .source(Source::app_datagrams("camera"))
            .output(Output::srt_caller("out", address.trim_start_matches("srt://")))
            .build()
            .unwrap();
        let flow = engine.block_on(engine.start(flow)).unwrap();
        Self { engine, flow }
    }
}

impl Feed for SrtFeed {
    fn send(&mut self, datagram: &[u8]) {
        let camera = self.flow.app_source("camera").unwrap();
        camera.push(Packet::datagram(datagram.to_vec(), Instant::now())).unwrap();
    }
}

impl Drop for SrtFeed {
    fn drop(&mut self) {
        self.engine.block_on(self.flow.stop());
    }
}

struct RtpFeed(Sender, u16);

impl Feed for RtpFeed {
    fn send(&mut self, datagram: &[u8]) {
        self.0.send(&packet(
            33,
            self.1,
            u32::from(self.1) * 90,
            u32::from(self.0.socket.local_addr().unwrap().port()),
            datagram,
        ));
        self.1 = self.1.wrapping_add(1);
    }
}

/// Sends a stream over and over, until told to stop; after `healthy`, the other one.
fn encode(
    mut feed: Box<dyn Feed>,
    stream: Vec<u8>,
    (healthy, then): (Duration, Vec<u8>),
    stop: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let stop = stop.clone();
    thread::spawn(move || {
        let begun = Instant::now();
        let mut at = 0;
        while !stop.load(Relaxed) {
            let now = if begun.elapsed() < healthy { &stream } else { &then };
            let datagrams = now.len() / (TOGETHER * PACKET);
            let from = at % datagrams * TOGETHER * PACKET;
            feed.send(&now[from..from + TOGETHER * PACKET]);
            at += 1;
            thread::sleep(Duration::from_millis(5)); // the pace of the encoder
        }
    })
}

/// Checks that the backup takes over from an encoder that has lost its camera, and that this one is lost.
fn check_failover(sources: Vec<Source>, feed: impl Fn(&str) -> Box<dyn Feed>, by: Remainder) {
    let rig = Rig::start_with(sources, Failover::default(), vec![Output::tap("tap").into()]);
    let clip = fs::read(clip()).unwrap();
    let addresses = rig.running.input_addresses();
    let stop = Arc::new(AtomicBool::new(false));
    let main =
        encode(feed(&addresses[0]), clip.clone(), (Duration::from_millis(1500), without_media(&clip, by)), &stop);
    rig.event(|e| matches!(&e, Event::SourceConnected { source, .. } if source == "main").then_some(()));
    let backup = encode(feed(&addresses[1]), clip.clone(), (Duration::MAX, Vec::new()), &stop);
    let names = rig.event(|e| match e {
        Event::Switched { from, to, .. } => Some((from, to)),
        _ => None,
    });
    assert_eq!(names, ("main".to_owned(), "backup".to_owned()), "{by:?}");
    let (source, reason) = rig.event(|e| match e {
        Event::SourceLost { source, reason, .. } => Some((source, reason)),
        _ => None,
    });
    assert_eq!((source.as_str(), reason), ("main", LossReason::Idle), "{by:?}");
    stop.store(true, Relaxed);
    main.join().unwrap();
    backup.join().unwrap();
    rig.stop();
}

#[test]
fn media_presence_switches_srt_from_what_is_no_media() {
    let idle = Duration::from_secs(2);
    let source = |name: &str| Source::srt_listener(name, "127.0.0.1:0").idle_timeout(idle).into();
    for by in [Remainder::Nulls, Remainder::Clocks, Remainder::Splices, Remainder::Tables] {
        check_failover(vec![source("main"), source("backup")], |address| Box::new(SrtFeed::to(address)), by);
    }
}

#[test]
fn media_presence_switches_rtp_from_what_is_no_media() {
    let idle = Duration::from_secs(2);
    let source = |name: &str| Source::rtp(name, "127.0.0.1:0").idle_timeout(idle).into();
    for by in [Remainder::Nulls, Remainder::Splices] {
        let feed = |address: &str| -> Box<dyn Feed> { Box::new(RtpFeed(Sender::to(address), 0)) };
        check_failover(vec![source("main"), source("backup")], feed, by);
    }
}

/// Returns the clip with more streams in its program: their type, descriptors and packets.
fn with_streams(stream: &[u8], more: &[(u8, &[u8], bool)]) -> Vec<u8> {
    let mut body = vec![2, 0xb0, 0, 0, 1, 0xc1, 0, 0, 0xe1, 0, 0xf0, 0];
    body.extend([0x1b, 0xe1, 0, 0xf0, 0, 0x0f, 0xe1, 1, 0xf0, 0]);
    for (number, (stream_type, descriptors, _)) in more.iter().enumerate() {
        body.extend([*stream_type, 0xe2, number as u8, 0xf0, descriptors.len() as u8]);
        body.extend_from_slice(descriptors);
    }
    body[2] = (body.len() - 3 + 4) as u8;
    let mut out = Vec::new();
    let mut counter = 0u8;
    for packet in stream.chunks_exact(PACKET) {
        if pid(packet) != 0x1000 {
            out.extend_from_slice(packet);
            continue;
        }
        out.extend(table(0x1000, counter, &body));
        for (number, (_, _, is_pes)) in more.iter().enumerate() {
            let at = 0x200 + number as u16;
            if *is_pes {
                let mut pes = vec![0x47, 0x40 | (at >> 8) as u8, at as u8, 0x10 | counter & 15];
                pes.extend([0, 0, 1, 0xbd, 0, 178, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1]);
                pes.resize(PACKET, 0x5a);
                out.extend(pes);
            } else {
                out.extend(table(at, counter, &[0xfc, 0x30, 17, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, 0, 0, 0, 0]));
            }
        }
        counter = counter.wrapping_add(1);
    }
    out
}

#[test]
fn media_presence_names_private_data_beside_pictures() {
    let port = free_port();
    let key = || StreamKey::new("KEY").unwrap();
    let target = Rig::start(
        Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(key()),
        vec![Output::tap("tap").into()],
    );
    let tap = Recording::start(&target);
    let push = Output::rtmp_push("push", &format!("rtmp://127.0.0.1:{port}/live"), key());
    let rig = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![push.into()]);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let stream = with_streams(
        &fs::read(clip()).unwrap(),
        &[
            (0x06, &[0x05, 4, b'K', b'L', b'V', b'A'], true),
            (0x15, &[0x05, 4, b'K', b'L', b'V', b'A'], true),
            (0x06, &[0x56, 5, b'e', b'n', b'g', 9, 0], true),
            (0x06, &[0x59, 8, b'e', b'n', b'g', 0x10, 0, 1, 0, 1], true),
            (0x86, &[], false),
            (0x06, &[], true),
        ],
    );
    let mut feed = SrtFeed::to(&rig.input());
    for datagram in stream.chunks(TOGETHER * PACKET) {
        feed.send(datagram);
        thread::sleep(Duration::from_millis(2)); // the pace of the encoder
    }
    let (carried, left_out) = rig.event(|e| match e {
        Event::Remuxed { carried, left_out } => Some((carried.to_string(), left_out.to_string())),
        _ => None,
    });
    assert_eq!(carried, "H.264 (PID 256), AAC (PID 257)");
    assert_eq!(
        left_out,
        "KLV metadata (PID 512), KLV metadata (PID 513), teletext (PID 514), DVB subtitles (PID 515), SCTE 35 (PID 516), \
         private data (PID 517)"
    );
    eventually("tracks", || {
        let tracks = rig.running.stats().outputs[0].tracks.clone();
        (tracks.iter().filter(|track| track.left_out == Some(LeftOut::NoCarriage)).count() == 6).then_some(())
    });
    drop(feed);
    rig.stop();
    let packets = tap.finish_packets(&target);
    assert!(packets.len() > 250, "{}", packets.len());
    target.stop();
}
