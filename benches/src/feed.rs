//! Media in real time: from ffmpeg, and from a sender that stamps every packet so that latency can be measured.

use nix::time::{ClockId, clock_gettime};
use std::{
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The rate of the media: a contribution feed in HD.
pub const BITS_PER_SECOND: u64 = 6_000_000;

/// Nanoseconds of the wall clock, which is what the kernel stamps received packets with.
pub fn wall_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// Makes some seconds of H.264 and AAC in MPEG-TS of about 6 Mb/s.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn make_media(folder: &Path, seconds: u64) -> std::io::Result<PathBuf> {
    let file = folder.join("feed.ts");
    let rate = (BITS_PER_SECOND - 400_000).to_string();
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", &seconds.to_string()])
        .args(["-vf", "noise=alls=30:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"])
        .args(["-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", "1M", "-g", "25"])
        .args(["-c:a", "aac", "-b:a", "128k", "-f", "mpegts"])
        .arg(&file)
        .status()?;
    if status.success() { Ok(file) } else { Err(std::io::Error::other("ffmpeg could not make the media")) }
}

/// Plays a file over RTP in real time with ffmpeg, to its end.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn play_with_ffmpeg(file: &Path, port: u16) -> std::io::Result<()> {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-re", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "rtp_mpegts", &format!("rtp://127.0.0.1:{port}?pkt_size=1328")])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("ffmpeg could not play")) }
}

/// Plays a file over SRT in real time with ffmpeg, which calls, to its end.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn play_srt_with_ffmpeg(file: &Path, port: u16) -> std::io::Result<()> {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-re", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "mpegts", &format!("srt://127.0.0.1:{port}?mode=caller&pkt_size=1316")])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("ffmpeg could not play")) }
}

/// Sends RTP packets with the time in their payload, in bursts of a frame, 25 frames a second at 6 Mb/s: as an
/// encoder does. Returns how many.
///
/// # Errors
/// When the socket fails.
pub fn play_stamped(port: u16, time: Duration) -> std::io::Result<u64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    let per_frame = BITS_PER_SECOND / 25 / 8 / 1316;
    let start = Instant::now();
    let frame = Duration::from_millis(40);
    let mut sent = 0u64;
    let mut frames = 0u32;
    while start.elapsed() < time {
        for _ in 0..per_frame {
            let mut packet = vec![0u8; 12 + 1316];
            packet[..2].copy_from_slice(&[0x80, 96]);
            packet[2..4].copy_from_slice(&(sent as u16).to_be_bytes());
            packet[4..8].copy_from_slice(&(frames.wrapping_mul(3600)).to_be_bytes());
            packet[12..20].copy_from_slice(&wall_nanos().to_be_bytes());
            socket.send(&packet)?;
            sent += 1;
        }
        frames += 1;
        std::thread::sleep((frame * frames).saturating_sub(start.elapsed()));
    }
    Ok(sent)
}
