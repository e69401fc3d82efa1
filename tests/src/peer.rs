//! Real programs, started and ended by the tests.

use crate::{eventually, root};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// A running program. Killed when it goes out of scope.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Peer {
    /// Starts a program; its output goes to a file.
    ///
    /// # Panics
    /// When it cannot be started: a missing program is a failure.
    #[track_caller]
    pub fn start(program: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let program = program.as_ref();
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let out = File::create(&log).expect("a log");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .unwrap_or_else(|e| panic!("{} is needed: {e}", program.display()));
        Self { child, log, _folder: folder }
    }

    /// Starts an srt-live-transmit that sends what comes to a UDP port over SRT. The port's buffer holds what comes
    /// while the program waits for a processor: a loss there is not one of SRT.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn sends_srt(port: u16, url: &str) -> Self {
        let from = format!("udp://127.0.0.1:{port}?rcvbuf=4000000");
        Self::start("srt-live-transmit", &["-q", "-loglevel:fatal", &from, url])
    }

    /// Returns its output so far, on both streams.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Process id of the program.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory of the process, in KiB.
    ///
    /// # Panics
    /// If it has ended.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When it was closed.
    pub fn tell(&mut self, line: &str) {
        use std::io::Write;
        writeln!(self.child.stdin.as_mut().expect("open"), "{line}").expect("written");
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let what = format!("`{text}` from a peer");
        eventually(&what, || self.output().contains(text).then_some(()));
    }

    /// Waits until it has said something and a word behind it, which is returned: the rest of the line may come later.
    #[track_caller]
    pub fn wait_for_word(&self, after: &str) -> String {
        let what = format!("a word after `{after}` from a peer");
        eventually(&what, || {
            let said = self.output();
            let rest = said.split_once(after)?.1;
            rest.split_once(char::is_whitespace).map(|(word, _)| word.to_owned())
        })
    }

    /// Waits until it listens on a UDP port.
    #[track_caller]
    pub fn wait_for_udp(&self, port: u16) {
        let wanted = format!(":{port:04X} ");
        eventually(&format!("a listener on port {port}: {}", self.output()), || {
            ["/proc/net/udp", "/proc/net/udp6"].iter().find_map(|file| {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let mut rows = text.lines().filter_map(|line| line.split_once(": "));
                rows.any(|(_, rest)| rest.split_once(' ').is_some_and(|(a, _)| format!("{a} ").ends_with(&wanted)))
                    .then_some(())
            })
        });
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn finish(&mut self) -> ExitStatus {
        eventually(&format!("the end of a peer, which said {}", self.output()), || {
            self.child.try_wait().expect("it is a child")
        })
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    #[allow(unsafe_code)]
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: no memory is involved, and the child was not waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, and returns its output.
///
/// # Panics
/// When it is missing or fails.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let mut peer = Peer::start(program, arguments);
    let status = peer.finish();
    assert!(status.success(), "{program} {arguments:?}: {status}\n{}", peer.output());
    peer.output()
}

/// Starts ffmpeg, playing a file in real time as MPEG-TS over RTP to some addresses (`127.0.0.1:5004`).
///
/// Through its tee muxer: alone, its RTP muxer keeps the last transport packets to itself when a file ends.
#[track_caller]
pub fn ffmpeg_plays(file: &Path, targets: &[&str]) -> Peer {
    let targets: Vec<String> = targets.iter().map(|t| format!("[f=rtp_mpegts]rtp://{t}?pkt_size=1328")).collect();
    let file = file.to_str().expect("UTF-8");
    let targets = targets.join("|");
    Peer::start(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-re", "-i", file, "-map", "0", "-c", "copy", "-f", "tee", &targets],
    )
}

/// Starts GStreamer, which sends a transport stream to an SRT URL at its own pace.
#[track_caller]
pub fn gstreamer_sends_srt(file: &Path, url: &str) -> Peer {
    let from = format!("location={}", file.display());
    let to = format!("uri={url}");
    let read = ["-q", "filesrc", &from, "blocksize=1316", "!", "tsparse", "set-timestamps=true", "alignment=7", "!"];
    Peer::start("gst-launch-1.0", &[&read[..], &["srtsink", "wait-for-connection=true", &to]].concat())
}

/// Starts GStreamer, which writes what it receives from an SRT URL to a file as it comes.
#[track_caller]
pub fn gstreamer_receives_srt(url: &str, file: &Path) -> Peer {
    let from = format!("uri={url}");
    let to = format!("location={}", file.display());
    Peer::start("gst-launch-1.0", &["-e", "srtsrc", &from, "!", "filesink", "buffer-mode=unbuffered", &to])
}

/// Decodes a file with ffmpeg, and fails on any warning. Returns the number of video frames.
#[track_caller]
pub fn decode(file: &Path) -> usize {
    let path = file.to_str().expect("UTF-8");
    // By the file's own clock: by that of the pictures, two of them may seem to be one.
    let output = ["-map", "0", "-enc_time_base", "-1", "-f", "null", "-"];
    let said = run("ffmpeg", &[&["-v", "error", "-nostdin", "-i", path][..], &output].concat());
    assert_eq!(said, "", "ffmpeg complains about {path}");
    let counted = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-count_frames",
            "-select_streams",
            "v:0",
            "-show_entries",
            "stream=nb_read_frames",
            "-of",
            "csv=p=0",
            path,
        ],
    );
    counted.lines().find_map(|line| line.trim().trim_end_matches(',').parse().ok()).expect("a number of frames")
}

/// Builds an example program of this workspace, as the tests are built; returns its path.
///
/// # Panics
/// When it does not build.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    built(&["-p", "streamlink-examples", "--example", name]);
    target().join("examples").join(name)
}

/// Builds something of this workspace, as the tests are built.
///
/// # Panics
/// When it does not build.
#[track_caller]
pub fn built(what: &[&str]) {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.arg("build").args(what).current_dir(root());
    if target().ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The folder of this build's programs: `target/debug` or `target/release`.
///
/// # Panics
/// When the test does not lie in a target folder.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    own.parent().and_then(Path::parent).expect("target/…/deps/test").to_owned()
}
