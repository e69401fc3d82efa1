//! VLC plays what outputs send, from their printed URLs.

use streamlink_core::{Output, Source};
use streamlink_tests::{
    clip, eventually,
    media::pictures,
    peer::Peer,
    rig::{Rig, text},
    vlc::{ENOUGH_TO_PROBE, vlc_records},
};

/// Number of pictures by which VLC has shown that it plays.
const PICTURES: usize = 50;

/// Publishes a clip in a loop, in real time.
fn publish(format: &str, url: &str) -> Peer {
    let from = clip();
    let arguments = ["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", text(&from), "-c", "copy", "-f"];
    Peer::start("ffmpeg", &[&arguments[..], &[format, url]].concat())
}

fn vlc_plays(source: Source, output: Output, format: &str) {
    let rig = Rig::start(source, vec![output]);
    let publisher = publish(format, &rig.input());
    let file = rig.file("played.ts");
    let player = vlc_records(&rig.playback(), &file);
    eventually(&format!("pictures in VLC: {}", player.output()), || {
        let written = file.metadata().map_or(0, |file| file.len());
        (written > ENOUGH_TO_PROBE && pictures(&file).len() > PICTURES).then_some(())
    });
    drop((player, publisher));
    rig.stop();
}

#[test]
fn vlc_plays_srt_from_its_printed_url() {
    let output = Output::srt_listener("out", "127.0.0.1:0").stream_id("live/cam-1");
    vlc_plays(Source::srt_listener("in", "127.0.0.1:0").into(), output.into(), "mpegts");
}

#[test]
fn vlc_plays_rtmp_from_its_printed_url() {
    let output = Output::rtmp_pull("out", "127.0.0.1:0", "live");
    vlc_plays(Source::rtmp("in", "127.0.0.1:0", "live").into(), output.into(), "flv");
}
