//! RTP with ffmpeg and GStreamer, as senders and as receivers. Their packets arrive byte for byte, and the library's
//! output decodes without errors.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Source};
use streamlink_tests::{
    clip, eventually,
    peer::{self, Peer},
    rig::free_port,
    rtp::Sink,
};

/// Ports for programs that bind them themselves. Even, as RTP wants them, and the next ones are theirs as well.
fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| {
        loop {
            let port = free_port();
            let next = free_port();
            if port.is_multiple_of(2) && next == port + 1 {
                return port;
            }
            free_port(); // the other parity comes first
        }
    })
}

struct Rig {
    engine: Engine,
    running: FlowHandle,
    input: u16,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new(outputs: &[String]) -> Self {
        let engine = Engine::builder().workers(2).build().unwrap();
        let mut flow = Flow::builder("interop", Bitrate::mbps(20)).source(Source::rtp("in", "127.0.0.1:0"));
        for (i, address) in outputs.iter().enumerate() {
            flow = flow.output(Output::rtp(format!("out-{i}"), address));
        }
        let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
        let input = running.input_addresses()[0].rsplit_once(':').unwrap().1.parse().unwrap();
        Self { engine, running, input, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Nothing was lost, refused or broken on the way.
    fn stop_clean(self) {
        let stats = self.running.stats();
        let source = &stats.sources[0];
        assert!(source.packets > 0);
        assert_eq!((source.lost, source.dropped, source.malformed, source.refused), (0, 0, 0, 0), "{source:?}");
        for output in &stats.outputs {
            assert_eq!((output.packets, output.bytes, output.dropped), (source.packets, source.bytes, 0), "{output:?}");
        }
        self.engine.block_on(self.running.stop());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The transport stream in RTP packets of payload type 33.
fn transport_stream(packets: &[Vec<u8>]) -> Vec<u8> {
    for packet in packets {
        assert_eq!((packet[0], packet[1] & 0x7f), (0x80, 33));
    }
    packets.iter().flat_map(|p| p[12..].to_vec()).collect()
}

/// Receives until the sender has ended and no more comes.
fn collect(sink: Sink) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let first = sink.next();
        let mut all = vec![first];
        all.extend(sink.drain(Duration::from_secs(2)));
        all
    })
}

#[test]
fn rtp_mpeg_ts_from_ffmpeg_arrives_byte_for_byte() {
    let direct = Sink::new();
    let relayed = Sink::new();
    let rig = Rig::new(&[relayed.address()]);
    // ffmpeg sends the same to us and to a receiver beside us.
    let input = format!("127.0.0.1:{}", rig.input);
    let beside = direct.address();
    let direct = collect(direct);
    let relayed = collect(relayed);
    let mut sender = peer::ffmpeg_plays(&clip(), &[&input, &beside]);
    assert!(sender.finish().success(), "{}", sender.output());
    let direct = direct.join().unwrap();
    let relayed = relayed.join().unwrap();
    let received = transport_stream(&relayed);
    assert_eq!(received, transport_stream(&direct));
    let file = rig.file("received.ts");
    fs::write(&file, &received).unwrap();
    assert_eq!(peer::decode(&file), 125);
    let source = rig.running.stats().sources[0].clone();
    assert_eq!(source.transport.continuity, 0);
    assert_eq!(source.media.as_deref(), Some("MPEG-TS: H.264 (PID 256), AAC (PID 257)"));
    rig.stop_clean();
}

#[test]
fn rtp_mpeg_ts_from_gstreamer_to_gstreamer_arrives_byte_for_byte() {
    let [port] = free_ports();
    let rig = Rig::new(&[format!("127.0.0.1:{port}")]);
    let file = rig.file("received.ts");
    let caps = "application/x-rtp,media=video,encoding-name=MP2T,clock-rate=90000,payload=33";
    let receiver = Peer::start(
        "gst-launch-1.0",
        &[
            "-e",
            "udpsrc",
            "address=127.0.0.1",
            &format!("port={port}"),
            &format!("caps={caps}"),
            "!",
            "rtpjitterbuffer",
            "!",
            "rtpmp2tdepay",
            "!",
            "filesink",
            "buffer-mode=unbuffered",
            &format!("location={}", text(&file)),
        ],
    );
    receiver.wait_for_udp(port);
    let from = clip();
    peer::run(
        "gst-launch-1.0",
        &[
            "-q",
            "filesrc",
            &format!("location={}", text(&from)),
            "!",
            "tsparse",
            "set-timestamps=true",
            "!",
            "rtpmp2tpay",
            "!",
            "udpsink",
            "host=127.0.0.1",
            &format!("port={}", rig.input),
        ],
    );
    let original = fs::read(&from).unwrap();
    // The payloader keeps the last packets back when they do not fill a datagram.
    let whole = original.len() / 1316 * 1316;
    eventually("the whole clip", || (fs::metadata(&file).ok()?.len() as usize >= whole).then_some(()));
    let received = fs::read(&file).unwrap();
    assert_eq!(received[..], original[..received.len()]);
    rig.stop_clean();
}

#[test]
fn rtp_mpeg_ts_is_decoded_between_gstreamer_and_ffmpeg() {
    let [to_ffmpeg, to_gstreamer] = free_ports();
    // GStreamer sends, ffmpeg receives and decodes.
    let rig = Rig::new(&[format!("127.0.0.1:{to_ffmpeg}")]);
    let file = rig.file("from-gstreamer.ts");
    let url = format!("rtp://127.0.0.1:{to_ffmpeg}");
    let mut receiver = Peer::start(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-i", &url, "-map", "0", "-c", "copy", "-t", "4", "-y", text(&file)],
    );
    receiver.wait_for_udp(to_ffmpeg);
    let from = clip();
    peer::run(
        "gst-launch-1.0",
        &[
            "-q",
            "filesrc",
            &format!("location={}", text(&from)),
            "!",
            "tsparse",
            "set-timestamps=true",
            "!",
            "rtpmp2tpay",
            "!",
            "udpsink",
            "host=127.0.0.1",
            &format!("port={}", rig.input),
        ],
    );
    assert!(receiver.finish().success(), "{}", receiver.output());
    let frames = peer::decode(&file);
    // ffmpeg takes the first packet to learn what comes, opens its socket anew, and starts at the next key frame.
    assert!(frames >= 50, "{frames} frames");
    rig.stop_clean();

    // ffmpeg sends, GStreamer receives.
    let rig = Rig::new(&[format!("127.0.0.1:{to_gstreamer}")]);
    let file = rig.file("from-ffmpeg.ts");
    let caps = "application/x-rtp,media=video,encoding-name=MP2T,clock-rate=90000,payload=33";
    let receiver = Peer::start(
        "gst-launch-1.0",
        &[
            "-e",
            "udpsrc",
            "address=127.0.0.1",
            &format!("port={to_gstreamer}"),
            &format!("caps={caps}"),
            "!",
            "rtpjitterbuffer",
            "!",
            "rtpmp2tdepay",
            "!",
            "filesink",
            "buffer-mode=unbuffered",
            &format!("location={}", text(&file)),
        ],
    );
    receiver.wait_for_udp(to_gstreamer);
    let mut sender = peer::ffmpeg_plays(&from, &[&format!("127.0.0.1:{}", rig.input)]);
    assert!(sender.finish().success(), "{}", sender.output());
    let bytes = rig.running.stats().outputs[0].bytes - 12 * rig.running.stats().outputs[0].packets;
    eventually("all of it", || (fs::metadata(&file).ok()?.len() == bytes).then_some(()));
    assert_eq!(peer::decode(&file), 125);
    rig.stop_clean();
}

#[test]
fn rtp_h264_is_decoded_by_ffmpeg_and_gstreamer() {
    let [to_ffmpeg, to_gstreamer] = free_ports();
    let rig = Rig::new(&[format!("127.0.0.1:{to_ffmpeg}"), format!("127.0.0.1:{to_gstreamer}")]);
    let from = clip();
    // What ffmpeg would announce, for the receivers.
    let sdp = rig.file("stream.sdp");
    let null = rig.file("null");
    let announced = format!("rtp://127.0.0.1:{to_ffmpeg}");
    peer::run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-i",
            text(&from),
            "-an",
            "-c:v",
            "copy",
            "-t",
            "0.1",
            "-f",
            "rtp",
            "-sdp_file",
            text(&sdp),
            &announced,
        ],
    );
    let frames = rig.file("frames");
    let mut receiver = Peer::start(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-protocol_whitelist",
            "file,udp,rtp",
            "-i",
            text(&sdp),
            "-frames:v",
            "100",
            "-fps_mode",
            "passthrough",
            "-f",
            "framemd5",
            "-y",
            text(&frames),
        ],
    );
    receiver.wait_for_udp(to_ffmpeg);
    let caps = "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96";
    let gstreamer = Peer::start(
        "gst-launch-1.0",
        &[
            "-e",
            "udpsrc",
            "address=127.0.0.1",
            &format!("port={to_gstreamer}"),
            &format!("caps={caps}"),
            "!",
            "rtpjitterbuffer",
            "!",
            "rtph264depay",
            "!",
            "h264parse",
            "!",
            "video/x-h264,stream-format=byte-stream,alignment=au",
            "!",
            "filesink",
            "buffer-mode=unbuffered",
            &format!("location={}", text(&null)),
        ],
    );
    gstreamer.wait_for_udp(to_gstreamer);
    // The parameter sets go out with every key frame, so that the receivers need nothing but the packets.
    let target = format!("rtp://127.0.0.1:{}?pkt_size=1400", rig.input);
    peer::run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-re",
            "-i",
            text(&from),
            "-an",
            "-c:v",
            "copy",
            "-bsf:v",
            "dump_extra",
            "-f",
            "rtp",
            &target,
        ],
    );
    assert!(receiver.finish().success(), "{}", receiver.output());
    assert_eq!(receiver.output(), "");
    let received = fs::read_to_string(&frames).unwrap();
    let sums = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.starts_with("0,")).map(|l| l.rsplit(',').next().unwrap().trim().to_owned()).collect()
    };
    let reference = peer::run(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-i", text(&from), "-an", "-fps_mode", "passthrough", "-f", "framemd5", "-"],
    );
    assert!(sums(&received) == sums(&reference)[..100], "the frames are not those of the source");
    eventually("GStreamer's file", || (fs::metadata(&null).ok()?.len() > 300_000).then_some(()));
    drop(gstreamer);
    rig.stop_clean();
}
