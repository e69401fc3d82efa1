//! A newcomer's way through the page, from an empty list to a picture in VLC, as the README describes it.

use crate::{
    browser::Browser,
    support::{Console, feed},
};
use std::time::{Duration, Instant};
use streamlink_tests::{
    eventually,
    media::pictures,
    peer::Peer,
    rig::free_port,
    vlc::{ENOUGH_TO_PROBE, vlc_records},
};

/// Number of pictures by which VLC has shown that it plays.
const PICTURES: usize = 50;
/// Time that a newcomer takes for the way from the page to a picture, at most.
const NEWCOMER: Duration = Duration::from_secs(180);

/// Publishes the clip to server and key, as OBS does.
fn publish_as_obs(server: &str, key: &str) -> Peer {
    let clip = streamlink_tests::clip();
    let input = ["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", clip.to_str().unwrap()];
    Peer::start("ffmpeg", &[&input[..], &["-c", "copy", "-f", "flv", &format!("{server}/{key}")]].concat())
}

/// The way that the README describes: a flow, its address into an encoder, an output, its address into VLC.
fn newcomer_comes_to_a_picture(source: &str, output: &str) {
    let start = Instant::now();
    let console = Console::start();
    let browser = Browser::start(1200, 900);
    browser.open(&console.url("/"));
    browser.click("//a[normalize-space()='Create flow']");
    browser.fill("Flow name", "first");
    browser.choose("Protocol", source);
    browser.fill("Listen on address", "127.0.0.1");
    browser.fill("Port", &free_port().to_string());
    browser.press("Create flow");
    browser.wait_for("Waits for media.");
    let shown = |label: &str| browser.value(label);
    let encoder = if source.starts_with("RTMP") {
        browser.press("Show the stream key");
        eventually("the stream key", || (!shown("Stream key").contains('…')).then_some(()));
        publish_as_obs(&shown("Server"), &shown("Stream key"))
    } else {
        feed(&shown("Input address"))
    };
    browser.wait_for("feeds the flow");
    browser.click("//a[normalize-space()='Output']");
    browser.press("Create output");
    browser.fill("Output name", "screen");
    browser.choose("Protocol", output);
    browser.fill("Listen on address", "127.0.0.1");
    browser.fill("Port", &free_port().to_string());
    browser.press_in_dialog("Create output");
    browser.wait_for("Waits for players.");
    if source.starts_with("RTMP") {
        browser.press("Show the stream key");
        eventually("the whole address", || (!shown("Playback URL").contains('…')).then_some(()));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("played.ts");
    let player = vlc_records(&shown("Playback URL"), &file);
    eventually(&format!("pictures in VLC: {} {}", player.output(), encoder.output()), || {
        let written = file.metadata().map_or(0, |file| file.len());
        (written > ENOUGH_TO_PROBE && pictures(&file).len() > PICTURES).then_some(())
    });
    assert!(start.elapsed() < NEWCOMER, "{:?}", start.elapsed());
    browser.find("//section[.//h2='screen']//dt[.='Players']/following-sibling::dd[.='1']");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn page_leads_a_newcomer_to_a_picture_in_vlc_over_srt() {
    newcomer_comes_to_a_picture("SRT listener", "SRT listener");
}

#[test]
fn page_leads_a_newcomer_from_obs_to_a_picture_in_vlc_over_rtmp() {
    newcomer_comes_to_a_picture("RTMP:", "RTMP_PULL");
}
