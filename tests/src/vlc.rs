//! VLC without a screen.

use crate::{peer::Peer, rig::text};
use std::path::Path;

/// Size from which ffmpeg recognises a file that VLC still writes, in bytes.
pub const ENOUGH_TO_PROBE: u64 = 100_000;

/// Starts VLC, which plays an address and writes the media to a file (MPEG-TS). VLC refuses to run as root; in a user
/// namespace of its own, no process is root.
///
/// # Panics
/// When it is missing, or the file has no folder.
#[track_caller]
pub fn vlc_records(url: &str, file: &Path) -> Peer {
    let record = format!("#std{{access=file,mux=ts,dst={}}}", text(file));
    let home = format!("HOME={}", text(file.parent().expect("a folder")));
    let arguments = ["--user", "env", &home, "cvlc", "-I", "dummy", "--sout", &record, url, "vlc://quit"];
    Peer::start("unshare", &arguments)
}
