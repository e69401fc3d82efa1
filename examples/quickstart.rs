//! Three flows in one process: a clip leaves over SRT and as RTMP, which a second flow takes in and serves; a third flow
//! serves it over RTSP.
//!
//!     cargo run --release --example quickstart

use std::error::Error;
use streamlink_core::{Bitrate, Engine, Flow, Output, Source};
use streamlink_examples::{play_clip, split_key};

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new()?;
    let rate = Bitrate::mbps(20);

    // Takes RTMP from an encoder, and serves it to players.
    let studio = Flow::builder("studio", rate)
        .source(Source::rtmp("encoder", "127.0.0.1:0", "live"))
        .output(Output::rtmp_pull("players", "127.0.0.1:0", "play"));
    let studio = engine.block_on(engine.start(studio.build()?))?;

    // Takes MPEG-TS from this program; serves it over SRT, and publishes it to the studio.
    let (address, key) = split_key(&studio.input_addresses()[0])?;
    let venue = Flow::builder("venue", rate)
        .source(Source::app_datagrams("clip"))
        .output(Output::srt_listener("partners", "127.0.0.1:0"))
        .output(Output::rtmp_push("to the studio", &address, key));
    let venue = engine.block_on(engine.start(venue.build()?))?;

    // Takes RTP packets from this program, and serves them over RTSP.
    let gallery = Flow::builder("gallery", rate).source(Source::app_rtsp("clip")).output(Output::rtsp_listener(
        "monitors",
        "127.0.0.1:0",
        "clip",
    ));
    let gallery = engine.block_on(engine.start(gallery.build()?))?;

    for flow in [&venue, &studio, &gallery] {
        for (_, url) in flow.playback_urls() {
            println!("play {url}");
        }
    }
    play_clip(&[&venue, &studio, &gallery])
}
