//! Helpers of the tests: media, a lossy network, RTP senders and receivers, real programs, and waiting for conditions.

pub mod lossy;
pub mod media;
pub mod nginx;
pub mod paff;
pub mod peer;
pub mod rig;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;
pub mod test_rng;
pub mod ts;
pub mod vlc;
pub mod wire;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Maximum time that a test waits for a condition: long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` returns a value.
///
/// # Panics
/// When it does not in time.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Raises the limit of open files to `count`.
///
/// # Panics
/// When the system does not allow it.
#[allow(unsafe_code)]
pub fn more_descriptors(count: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a struct of our own, which the call fills.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    if limit.rlim_cur < count {
        limit.rlim_cur = count;
        // SAFETY: a struct of our own, which the call reads.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(set, 0, "{count} open files are needed, and {} allowed", limit.rlim_max);
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie within the workspace").to_owned()
}

/// The clip of the examples: five seconds of H.264 and AAC in MPEG-TS, 125 video frames.
pub fn clip() -> PathBuf {
    root().join("examples/media/clip.ts")
}
