//! Media in real time: from ffmpeg, and from a sender of our own, whose timing is exact and known.

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::{
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
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

/// Number of bytes of a datagram's payload: seven packets of MPEG-TS.
pub const PAYLOAD: usize = 1316;

/// Times at which the packets of a feed were sent, by flow and sequence number: nanoseconds of the wall clock. A feed
/// brings fewer packets than there are sequence numbers.
#[derive(Debug)]
pub struct SendTimes(Vec<AtomicU64>);

impl SendTimes {
    /// Makes room for the packets of some flows.
    pub fn new(flows: usize) -> Arc<Self> {
        Arc::new(Self((0..flows << 16).map(|_| AtomicU64::new(0)).collect()))
    }

    fn set(&self, flow: usize, sequence: u16, nanos: u64) {
        if let Some(place) = self.0.get(flow << 16 | usize::from(sequence)) {
            place.store(nanos, Relaxed);
        }
    }

    /// Returns the time at which a packet was sent; `None` if it was not.
    pub fn of(&self, flow: usize, sequence: u16) -> Option<u64> {
        self.0.get(flow << 16 | usize::from(sequence)).map(|place| place.load(Relaxed)).filter(|nanos| *nanos != 0)
    }
}

/// Timing of the datagrams of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One at a time, evenly spread, as hardware encoders and multiplexers send: every 1.75 ms at 6 Mb/s.
    Paced,
    /// All of a picture at once, 25 pictures a second, as ffmpeg does.
    Bursty,
}

/// Sends a file of MPEG-TS over RTP to some ports, a flow each, for `time`, from a thread that sleeps to the time of each
/// datagram. The flows take turns: their datagrams, or bursts, are spread over the interval. Returns the number of packets
/// of a flow.
///
/// # Errors
/// When the file or a socket fails.
pub fn play(file: &Path, ports: &[u16], shape: Shape, time: Duration, times: &SendTimes) -> std::io::Result<u64> {
    play_at(BITS_PER_SECOND, file, ports, shape, time, times)
}

/// Does what [`play`] does, at another rate.
///
/// # Errors
/// When the file or a socket fails.
pub fn play_at(
    bits_per_second: u64,
    file: &Path,
    ports: &[u16],
    shape: Shape,
    time: Duration,
    times: &SendTimes,
) -> std::io::Result<u64> {
    let media = std::fs::read(file)?;
    let media: Vec<&[u8]> = media.chunks_exact(PAYLOAD).collect();
    let sockets = ports.iter().map(|port| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", *port))?;
        Ok(socket)
    });
    let sockets = sockets.collect::<std::io::Result<Vec<_>>>()?;
    let datagram = PAYLOAD as u64 * 8 * 1_000_000_000 / bits_per_second;
    let picture = 1_000_000_000 / 25;
    let (interval, at_once) = match shape {
        Shape::Paced => (datagram, 1),
        Shape::Bursty => (picture, picture / datagram),
    };
    let start = monotonic_nanos();
    let mut sent = 0u64;
    let mut packet = [0u8; 12 + PAYLOAD];
    packet[..2].copy_from_slice(&[0x80, 33]);
    for round in 0..time.as_nanos() as u64 / interval {
        for (flow, socket) in sockets.iter().enumerate() {
            sleep_until(start + round * interval + interval * flow as u64 / sockets.len() as u64);
            for number in sent..sent + at_once {
                packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                packet[4..8].copy_from_slice(&((number * datagram * 9 / 100_000) as u32).to_be_bytes());
                let Some(payload) = media.get(number as usize % media.len().max(1)) else { continue };
                packet[12..].copy_from_slice(payload);
                times.set(flow, number as u16, wall_nanos());
                socket.send(&packet)?;
            }
        }
        sent += at_once;
    }
    Ok(sent)
}

/// Number of datagrams from a clock reference of [`play_clocked`] to the next: 35 ms.
const DATAGRAMS_PER_CLOCK: u64 = 20;
/// Ticks of the clock (27 MHz) that a datagram takes at the rate of the media.
const TICKS: u64 = PAYLOAD as u64 * 8 * 27_000_000 / BITS_PER_SECOND;

/// Returns the departure of a datagram of constant rate, in nanoseconds from the first.
pub fn departure(number: u64) -> u64 {
    number * TICKS * 1000 / 27
}

/// Returns the number of datagrams that [`play_clocked`] sends in a time: the last has a clock reference.
pub fn clocked_datagrams(time: Duration) -> u64 {
    let clocks = time.as_nanos() as u64 / departure(DATAGRAMS_PER_CLOCK);
    clocks * DATAGRAMS_PER_CLOCK + 1
}

/// Sends MPEG-TS of constant rate in datagrams to a port, each at its time. Its clock references are exact.
///
/// # Errors
/// When a socket fails.
pub fn play_clocked(port: u16, datagrams: u64) -> std::io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    let clock = Clock::start();
    for number in 0..datagrams {
        let datagram = clocked_datagram(number);
        clock.sleep_until(departure(number));
        socket.send(&datagram)?;
    }
    Ok(())
}

/// Returns seven transport packets of one PID; the first has a clock reference if it is the turn of the datagram.
fn clocked_datagram(number: u64) -> [u8; PAYLOAD] {
    let mut datagram = [0xff; PAYLOAD];
    for (at, packet) in datagram.chunks_exact_mut(188).enumerate() {
        let counter = (number * 7 + at as u64) as u8 & 15;
        packet[..4].copy_from_slice(&[0x47, 1, 0, 0x10 | counter]);
        if at == 0 && number.is_multiple_of(DATAGRAMS_PER_CLOCK) {
            let (base, extension) = (number * TICKS / 300, (number * TICKS % 300) as u16);
            packet[3] |= 0x20;
            packet[4..6].copy_from_slice(&[7, 0x10]);
            packet[6..10].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
            packet[10] = (base as u8 & 1) << 7 | 0x7e | (extension >> 8) as u8;
            packet[11] = extension as u8;
        }
    }
    datagram
}

/// Clock of a sender that sleeps to the time of each datagram. One that is late does not drift.
#[derive(Clone, Copy, Debug)]
pub struct Clock(u64);

impl Clock {
    /// Starts the clock at 0.
    pub fn start() -> Self {
        Self(monotonic_nanos())
    }

    /// Sleeps to a time in nanoseconds.
    pub fn sleep_until(self, nanos: u64) {
        sleep_until(self.0 + nanos);
    }
}

/// Nanoseconds of the clock that `sleep_until` takes.
fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// Sleeps to a time; a feed that is late does not drift.
fn sleep_until(nanos: u64) {
    let until = nix::sys::time::TimeSpec::new((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as i64);
    // Interrupted: the datagram leaves early.
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
}
