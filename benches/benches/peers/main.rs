//! The library beside its peers: the same work, in turn, on the same machine, in one run. Ratios are what counts.
//!
//!     cargo bench -p streamlink-benches --bench peers [-- ROW] [--runs N] [--seconds N] [--strict]
//!
//! With `--strict` it fails when a target does not hold; else it only says so.

#![allow(missing_docs)]

use std::{
    error::Error,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};
use streamlink_benches::{
    feed,
    process::{Subject, Usage},
    receive::{Received, Receivers},
    report::{self, Figure, Row, median},
};

mod rtmp;
mod rtsp;
mod srt;

type Failure = Box<dyn Error>;

struct Plan {
    runs: usize,
    seconds: u64,
    only: Option<String>,
    strict: bool,
    folder: tempfile::TempDir,
}

fn main() -> Result<(), Failure> {
    let mut plan = Plan { runs: 3, seconds: 8, only: None, strict: false, folder: tempfile::tempdir()? };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => plan.runs = arguments.next().ok_or("--runs needs a number")?.parse()?,
            "--seconds" => plan.seconds = arguments.next().ok_or("--seconds needs a number")?.parse()?,
            "--strict" => plan.strict = true,
            "--bench" => {} // passed by cargo
            row => plan.only = Some(row.to_owned()),
        }
    }
    type Work = fn(&Plan) -> Result<Row, Failure>;
    let works: [(&str, Work); 16] = [
        ("rtp-fanout", rtp_fanout),
        ("rtp-fanout-runs", rtp_fanout_runs),
        ("idle-outputs", idle_outputs),
        ("srt-fanout", srt::fanout),
        ("srt-fanout-aes", srt::fanout_aes),
        ("srt-fanout-paced", srt::fanout_paced),
        ("srt-fanout-paced-aes", srt::fanout_paced_aes),
        ("srt-relay", srt::relay),
        ("srt-ceiling", srt::ceiling),
        ("srt-idle", srt::idle),
        ("rtmp-fanout", rtmp::fanout),
        ("rtmp-publishers", rtmp::publishers),
        ("rtmp-remux", rtmp::remux),
        ("rtsp-tcp", rtsp::tcp),
        ("rtsp-udp", rtsp::udp),
        ("rtsp-udp-runs", rtsp::udp_runs),
    ];
    let mut rows = Vec::new();
    for (name, work) in works {
        if plan.only.as_deref().is_none_or(|only| only == name) {
            let row = work(&plan)?;
            print!("{}", row.table());
            rows.push(row);
        }
    }
    if plan.only.is_none() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        report::write(&rows, &folder)?;
        println!("\nwritten to {}", folder.display());
    }
    if plan.strict && !rows.iter().all(Row::holds) { Err("a target does not hold".into()) } else { Ok(()) }
}

/// A port that is free now, over UDP and TCP.
fn free_port() -> Result<u16, Failure> {
    loop {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// Starts a program that relays RTP from a port to receivers.
type Start = fn(port: u16, receivers: &[String]) -> std::io::Result<Subject>;

fn ours(port: u16, receivers: &[String], coalesce_ms: u32) -> std::io::Result<Subject> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
    command.args([coalesce_ms.to_string(), format!("rtp://127.0.0.1:{port}")]);
    command.args(receivers.iter().map(|address| format!("rtp://{address}")));
    Subject::start(&mut command, true)
}

fn floor(port: u16, receivers: &[String]) -> std::io::Result<Subject> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor"));
    command.arg(format!("127.0.0.1:{port}")).args(receivers);
    Subject::start(&mut command, true)
}

fn gstreamer(port: u16, receivers: &[String]) -> std::io::Result<Subject> {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "udpsrc", "address=127.0.0.1", &format!("port={port}"), "buffer-size=4194304", "!"]);
    command.args(["multiudpsink", "sync=false", "async=false", &format!("clients={}", receivers.join(","))]);
    Subject::start(&mut command, false)
}

/// RTP from one sender to fifty receivers that take each datagram by itself.
fn rtp_fanout(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, "which take each datagram by itself", false)
}

/// RTP from one sender to fifty receivers that take runs of datagrams.
fn rtp_fanout_runs(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, "which take runs (UDP_GRO)", true)
}

fn fanout_row(plan: &Plan, receivers: &str, take_runs: bool) -> Result<Row, Failure> {
    const RECEIVERS: usize = 50;
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let programs: [(&str, Start); 4] = [
        ("streamlink", |port, to| ours(port, to, 1)),
        ("streamlink, no coalescing", |port, to| ours(port, to, 0)),
        ("floor: recvfrom + sendto", floor),
        ("gst udpsrc ! multiudpsink", gstreamer),
    ];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
    for run in 0..plan.runs {
        for (i, (name, start)) in programs.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(fanout_run(*start, RECEIVERS, take_runs, &media)?);
        }
    }
    let figures: Vec<Figure> = programs.iter().zip(&runs).map(|((name, _), runs)| figure(name, runs)).collect();
    let ratio = |peer: usize| {
        // Each run's own ratio, so that a disturbance affects both programs.
        median(runs[0].iter().zip(&runs[peer]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect())
    };
    // The targets are the same for both kinds of receivers. On the loopback, the kernel delivers to the receivers on
    // the sender's account: taking runs apart for those that want single datagrams is the larger part of that row.
    let targets = vec![
        ("CPU, ratio to the floor".into(), ratio(2), 0.4),
        ("CPU, ratio to GStreamer".into(), ratio(3), 0.25),
        ("packets lost".into(), figures[0].lost as f64, 0.0),
        ("added latency p99, ms".into(), figures[0].latency.1, 3.0),
    ];
    let title = format!("RTP, 6 Mb/s MPEG-TS from ffmpeg to {RECEIVERS} receivers, {receivers}");
    Ok(Row { title, figures, targets })
}

#[derive(Clone)]
struct Run {
    cpu_per_gb: f64,
    lost: u64,
    latency: (f64, f64),
    usage: Usage,
}

fn figure(name: &str, runs: &[Run]) -> Figure {
    let middle = |f: fn(&Run) -> f64| median(runs.iter().map(f).collect());
    Figure {
        name: name.to_owned(),
        cpu_per_gb: middle(|r| r.cpu_per_gb),
        lost: runs.iter().map(|r| r.lost).sum(),
        latency: (middle(|r| r.latency.0), middle(|r| r.latency.1)),
        memory: middle(|r| r.usage.memory as f64) as u64,
        threads: runs.iter().map(|r| r.usage.threads).max().unwrap_or(0),
    }
}

/// One program, once: its CPU with ffmpeg as sender, then its latency with stamped packets.
fn fanout_run(start: Start, count: usize, take_runs: bool, media: &Path) -> Result<Run, Failure> {
    let receivers = Receivers::start(count, false, take_runs)?;
    let (usage, cpu, received) = with_subject(start, receivers, |port| feed::play_with_ffmpeg(media, port))?;
    let most = received.packets.iter().max().copied().unwrap_or(0);
    let short: u64 = received.packets.iter().map(|n| most - n).sum();
    let seconds = Duration::from_secs(4);
    let receivers = Receivers::start(count, true, take_runs)?;
    let (_, _, stamped) = with_subject(start, receivers, |port| feed::play_stamped(port, seconds).map(drop))?;
    if received.bytes == 0 || stamped.latency.is_empty() {
        return Err("nothing arrived".into());
    }
    Ok(Run {
        cpu_per_gb: cpu.as_secs_f64() / (received.bytes as f64 / 1e9),
        lost: received.missing + short + stamped.missing,
        latency: (stamped.percentile(0.5), stamped.percentile(0.99)),
        usage,
    })
}

/// Runs a program while `play` feeds it; returns its usage, the CPU time of the run, and what the receivers got.
fn with_subject(
    start: Start,
    receivers: Receivers,
    play: impl FnOnce(u16) -> std::io::Result<()>,
) -> Result<(Usage, Duration, Received), Failure> {
    let port = free_port()?;
    let subject = start(port, &receivers.addresses)?;
    subject.wait_for_udp(port)?;
    std::thread::sleep(Duration::from_millis(300)); // the program has started
    let before = subject.usage();
    play(port)?;
    std::thread::sleep(Duration::from_millis(200)); // the last packets leave
    let after = subject.usage();
    drop(subject);
    Ok((after, after.cpu.saturating_sub(before.cpu), receivers.finish()?))
}

/// A thousand outputs without media.
fn idle_outputs(_: &Plan) -> Result<Row, Failure> {
    const OUTPUTS: usize = 1000;
    let usage = |count: usize| -> Result<Usage, Failure> {
        let receivers: Vec<String> = (0..count).map(|i| format!("127.0.0.1:{}", 20_000 + i)).collect();
        let subject = ours(free_port()?, &receivers, 1)?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(subject.usage())
    };
    let one = usage(1)?;
    let many = usage(OUTPUTS)?;
    let each = many.memory.saturating_sub(one.memory) as f64 / (OUTPUTS - 1) as f64;
    let figure = |name: &str, usage: Usage| Figure {
        name: name.to_owned(),
        cpu_per_gb: 0.0,
        lost: 0,
        latency: (0.0, 0.0),
        memory: usage.memory,
        threads: usage.threads,
    };
    let targets = vec![
        ("memory of an idle output, KiB".into(), each / 1024.0, 64.0),
        ("threads of a thousand outputs".into(), (many.threads - one.threads) as f64, 0.0),
    ];
    let title = "1000 idle outputs".to_owned();
    Ok(Row {
        title,
        figures: vec![figure("streamlink, 1 output", one), figure("streamlink, 1000 outputs", many)],
        targets,
    })
}
