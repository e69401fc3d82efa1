//! Contents of files, as ffmpeg and ffprobe report them.

use crate::{peer, rig::text};
use std::path::Path;

/// Checksums of the decoded pictures of a file, in presentation order.
#[track_caller]
pub fn pictures(file: &Path) -> Vec<String> {
    let said = peer::run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-i",
            text(file),
            "-map",
            "0:v:0",
            "-fps_mode",
            "passthrough",
            "-f",
            "framemd5",
            "-",
        ],
    );
    let rows = said.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.rsplit(',').next()).map(|sum| sum.trim().to_owned()).collect()
}

/// Decoding and presentation times of the packets of a stream (`v:0`, `a:0`), in seconds.
#[track_caller]
pub fn times(file: &Path, stream: &str) -> Vec<(f64, f64)> {
    let said = peer::run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-select_streams",
            stream,
            "-show_entries",
            "packet=dts_time,pts_time",
            "-of",
            "csv=p=0",
            text(file),
        ],
    );
    let mut rows = Vec::new();
    for line in said.lines() {
        let mut numbers = line.split(',').filter_map(|n| n.trim().parse::<f64>().ok());
        // ffprobe writes the fields in its own order: pts, then dts.
        if let (Some(pts), Some(dts)) = (numbers.next(), numbers.next()) {
            rows.push((dts, pts));
        }
    }
    rows
}

/// The codecs of a file, in the order of its streams.
#[track_caller]
pub fn codecs(file: &Path) -> Vec<String> {
    let said =
        peer::run("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", text(file)]);
    said.lines().map(|line| line.trim().trim_end_matches(',').to_owned()).filter(|l| !l.is_empty()).collect()
}

/// Makes a file from the clip with ffmpeg.
#[track_caller]
pub fn make(from: &Path, arguments: &[&str], to: &Path) {
    let mut all = vec!["-v", "error", "-nostdin", "-y", "-i", text(from)];
    all.extend(arguments);
    all.push(text(to));
    peer::run("ffmpeg", &all);
}

/// Starts ffmpeg, playing a file in real time.
#[track_caller]
pub fn play(file: &Path, arguments: &[&str]) -> peer::Peer {
    let mut all = vec!["-v", "error", "-nostdin", "-re", "-i", text(file)];
    all.extend(arguments);
    peer::Peer::start("ffmpeg", &all)
}

/// Starts ffmpeg, playing a file in real time, and from the beginning again until it is ended.
#[track_caller]
pub fn play_in_a_loop(file: &Path, arguments: &[&str]) -> peer::Peer {
    let mut all = vec!["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", text(file)];
    all.extend(arguments);
    peer::Peer::start("ffmpeg", &all)
}

/// The times of a stream of a recording, which never go back.
///
/// # Panics
/// When they do, or there are none.
#[track_caller]
pub fn check_times(file: &Path, stream: &str) -> Vec<(f64, f64)> {
    let times = times(file, stream);
    assert!(
        !times.is_empty() && times.windows(2).all(|w| w[0].0 <= w[1].0),
        "{stream} of {}: {times:?}",
        file.display()
    );
    times
}

/// Arguments with which ffmpeg encodes a video as HEVC, with a key frame a second.
pub const HEVC: [&str; 8] = ["-c:v", "libx265", "-x265-params", "log-level=none", "-preset", "ultrafast", "-g", "25"];
