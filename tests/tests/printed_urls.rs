//! Printed input addresses and playback URLs, given as they are to the programs that people paste them into.

use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Source};
use streamlink_tests::{clip, eventually, peer::Peer, rig::text};

/// Stream ids that someone may choose.
const STREAM_IDS: &[&str] = &["cam-1", "live/cam_1.main~x", "#!::r=live/cam,m=publish", "a b&c=d%e+f"];

/// Starts flows and returns them with their engine.
fn start(source: Source, outputs: Vec<Output>) -> (Engine, FlowHandle) {
    let engine = Engine::builder().workers(2).build().unwrap();
    let mut flow = Flow::builder("printed", Bitrate::mbps(20)).source(source);
    for output in outputs {
        flow = flow.output(output);
    }
    let running = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    (engine, running)
}

fn ffmpeg_sends(format: &[&str], url: &str) -> Peer {
    let from = clip();
    // Of MPEG-TS, ffmpeg sends the sound over RTSP only after a conversion; the picture is enough here.
    let streams = if format.contains(&"rtsp") { "0:v" } else { "0" };
    let mut arguments = vec!["-v", "error", "-nostdin", "-re", "-i", text(&from), "-map", streams, "-c", "copy", "-f"];
    arguments.extend(format);
    arguments.push(url);
    Peer::start("ffmpeg", &arguments)
}

fn media_arrives(running: &FlowHandle, what: &str, sender: &Peer) {
    let sent = || format!("media of {what}: {}", sender.output());
    eventually(&sent(), || (running.stats().sources[0].bytes > 20_000).then_some(()));
}

#[test]
fn printed_srt_addresses_work_in_ffmpeg() {
    for id in STREAM_IDS {
        let source = Source::srt_listener("in", "127.0.0.1:0").stream_id(id);
        let (engine, running) = start(source.into(), vec![]);
        let url = running.input_addresses()[0].to_string();
        let sender = ffmpeg_sends(&["mpegts"], &url);
        media_arrives(&running, &url, &sender);
        drop(sender);
        engine.block_on(running.stop());
    }
}

#[test]
fn printed_srt_addresses_work_in_srt_live_transmit() {
    // It decodes nothing, so only a listener that does can find the last one.
    for id in ["cam-1", "live/cam_1.main~x", "#!::r=live/cam,m=request"] {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let output = Output::srt_listener("out", bind).stream_id(id);
            let (engine, running) = start(Source::app_datagrams("in").into(), vec![output.into()]);
            let url = running.playback_urls()[0].1.to_string();
            let player = Peer::start("srt-live-transmit", &["-q", "-a", "no", &url, "file://con"]);
            eventually(&format!("a player of {url}: {}", player.output()), || {
                (!running.stats().outputs[0].players.is_empty()).then_some(())
            });
            drop(player);
            engine.block_on(running.stop());
        }
    }
}

#[test]
fn printed_srt_addresses_work_in_gstreamer() {
    for id in ["cam-1", "#!::r=live/cam,m=publish"] {
        let (engine, running) = start(Source::srt_listener("in", "127.0.0.1:0").stream_id(id).into(), vec![]);
        let url = running.input_addresses()[0].to_string();
        let from = format!("location={}", text(&clip()));
        let to = format!("uri={url}");
        let sender = Peer::start("gst-launch-1.0", &["-q", "filesrc", &from, "!", "tsparse", "!", "srtsink", &to]);
        media_arrives(&running, &url, &sender);
        drop(sender);
        engine.block_on(running.stop());
    }
}

#[test]
fn printed_rtmp_and_rtsp_addresses_work_in_ffmpeg() {
    for (source, format) in [
        (Source::from(Source::rtmp("in", "[::1]:0", "live")), vec!["flv"]),
        (Source::from_url("in", "rtmp://127.0.0.1:0/live/KEY-1?mode=listener"), vec!["flv"]),
        (
            Source::from(Source::rtsp_listener("in", "127.0.0.1:0", "cam/main-1")),
            vec!["rtsp", "-rtsp_transport", "tcp"],
        ),
        (Source::from(Source::rtsp_listener("in", "[::1]:0", "cam")), vec!["rtsp", "-rtsp_transport", "tcp"]),
    ] {
        let (engine, running) = start(source, vec![]);
        let url = running.input_addresses()[0].to_string();
        let sender = ffmpeg_sends(&format, &url);
        media_arrives(&running, &url, &sender);
        drop(sender);
        engine.block_on(running.stop());
    }
}
