//! MPEG-TS over UDP with ffmpeg and GStreamer, as senders and as receivers, at the addresses that the library prints.

use std::{fs, path::Path, time::Duration};
use streamlink_core::{Output, Source};
use streamlink_tests::{
    clip, eventually,
    peer::{self, Peer},
    rig::{Rig, free_port, text},
    rtp::Sink,
};

/// Receives until the sender has ended and no more comes.
fn collect(sink: Sink) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let first = sink.next();
        let mut all = vec![first];
        all.extend(sink.drain(Duration::from_secs(2)));
        all
    })
}

fn size(file: &Path) -> usize {
    fs::metadata(file).map_or(0, |found| found.len() as usize)
}

/// A transport stream without its null packets, with which the parser of GStreamer fills the last datagram.
fn without_nulls(stream: &[u8]) -> Vec<u8> {
    let packets = stream.chunks(188).filter(|packet| packet[1] & 0x1f != 0x1f || packet[2] != 0xff);
    packets.flatten().copied().collect()
}

/// Nothing was lost, refused or broken on the way.
fn stop_clean(rig: Rig) {
    let stats = rig.running.stats();
    let source = &stats.sources[0];
    assert_eq!((source.lost, source.dropped, source.malformed, source.refused), (0, 0, 0, 0), "{source:?}");
    assert_eq!(source.transport.continuity, 0);
    for output in &stats.outputs {
        assert_eq!((output.packets, output.dropped), (source.packets, 0), "{output:?}");
    }
    rig.stop();
}

#[test]
fn udp_ts_from_ffmpeg_arrives_byte_for_byte() {
    // 1472 bytes are what ffmpeg sends if it is not told otherwise: transport packets are cut.
    for size in ["?pkt_size=1316", ""] {
        let direct = Sink::new();
        let relayed = Sink::new();
        let output = Output::udp("out", &relayed.address());
        let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
        // ffmpeg sends the same to us and to a receiver beside us.
        let targets = format!("[f=mpegts]{}{size}|[f=mpegts]udp://{}{size}", rig.input(), direct.address());
        let direct = collect(direct);
        let relayed = collect(relayed);
        let from = clip();
        let mut sender = Peer::start(
            "ffmpeg",
            &["-v", "error", "-nostdin", "-re", "-i", text(&from), "-map", "0", "-c", "copy", "-f", "tee", &targets],
        );
        assert!(sender.finish().success(), "{}", sender.output());
        let direct = direct.join().unwrap();
        let relayed = relayed.join().unwrap();
        let received = relayed.concat();
        assert!(received == direct.concat(), "{size}: {} and {} bytes", received.len(), direct.concat().len());
        assert!(size.is_empty() || relayed == direct, "the datagrams are the same");
        assert!(relayed.iter().all(|datagram| datagram.len().is_multiple_of(188) && datagram.len() <= 1316));
        let file = rig.file("received.ts");
        fs::write(&file, &received).unwrap();
        assert_eq!(peer::decode(&file), 125);
        stop_clean(rig);
    }
}

#[test]
fn udp_ts_from_gstreamer_to_gstreamer_arrives_byte_for_byte() {
    for pace in ["none", "pcr"] {
        let output = format!("udp://127.0.0.1:{}?pace={pace}", free_port());
        let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![Output::from_url("out", &output)]);
        let file = rig.file("received.ts");
        let from = format!("uri={}", rig.playback());
        let to = format!("location={}", text(&file));
        let receiver =
            Peer::start("gst-launch-1.0", &["-e", "udpsrc", &from, "!", "filesink", "buffer-mode=unbuffered", &to]);
        receiver.wait_for_udp(output.split([':', '?']).nth(2).unwrap().parse().unwrap());
        let original = clip();
        let from = format!("location={}", text(&original));
        let port = format!("port={}", rig.input_port());
        let read = ["-q", "filesrc", &from, "!", "tsparse", "set-timestamps=true", "alignment=7", "!"];
        peer::run("gst-launch-1.0", &[&read[..], &["udpsink", "host=127.0.0.1", &port]].concat());
        let original = fs::read(original).unwrap();
        eventually(&format!("the whole clip, {pace}"), || (size(&file) >= original.len()).then_some(()));
        let received = fs::read(&file).unwrap();
        assert!(without_nulls(&received) == without_nulls(&original), "{pace}");
        stop_clean(rig);
    }
}

#[test]
fn udp_ts_is_decoded_between_gstreamer_and_ffmpeg_at_printed_addresses() {
    // GStreamer sends, ffmpeg receives and decodes.
    let port = free_port();
    let output = Output::udp("out", &format!("127.0.0.1:{port}"));
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
    let file = rig.file("from-gstreamer.ts");
    let url = rig.playback();
    assert_eq!(url, format!("udp://@127.0.0.1:{port}"));
    // By default ffmpeg looks at five seconds before it begins, which the clip does not have.
    let mut receiver = Peer::start(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-analyzeduration",
            "500000",
            "-i",
            &url,
            "-map",
            "0",
            "-c",
            "copy",
            "-t",
            "4",
            "-y",
            text(&file),
        ],
    );
    receiver.wait_for_udp(port);
    let from = clip();
    let location = format!("location={}", text(&from));
    let to = format!("port={}", rig.input_port());
    let read = ["-q", "filesrc", &location, "!", "tsparse", "set-timestamps=true", "alignment=7", "!"];
    peer::run("gst-launch-1.0", &[&read[..], &["udpsink", "host=127.0.0.1", &to]].concat());
    assert!(receiver.finish().success(), "{}", receiver.output());
    let frames = peer::decode(&file);
    assert!(frames >= 75, "{frames} frames");
    stop_clean(rig);

    // ffmpeg sends, GStreamer receives, from a multicast group.
    let port = free_port();
    let output = Output::udp("out", &format!("239.255.79.1:{port}")).interface("lo").ttl(1);
    let rig = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
    let file = rig.file("from-ffmpeg.ts");
    let uri = format!("uri={}", rig.playback());
    let to = format!("location={}", text(&file));
    let receiver = Peer::start(
        "gst-launch-1.0",
        &["-e", "udpsrc", &uri, "multicast-iface=lo", "!", "filesink", "buffer-mode=unbuffered", &to],
    );
    receiver.wait_for_udp(port);
    let input = format!("{}?pkt_size=1316", rig.input());
    peer::run(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-re", "-i", text(&from), "-map", "0", "-c", "copy", "-f", "mpegts", &input],
    );
    let bytes = usize::try_from(rig.running.stats().outputs[0].bytes).unwrap();
    eventually("all of it", || (size(&file) == bytes).then_some(()));
    assert_eq!(peer::decode(&file), 125);
    stop_clean(rig);
}
