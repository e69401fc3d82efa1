//! The library beside its peers: the same work, in turn, on the same machine, in one run. Ratios are what counts.
//!
//!     cargo bench -p streamlink-benches --bench peers [-- ROW…] [--runs N] [--seconds N] [--strict]
//!
//! A row is named in full, or by the beginning of its name. With `--strict` it fails when a target does not hold; else it
//! only says so. All rows with five runs take about an hour.

#![allow(missing_docs)]

use std::{
    error::Error,
    net::{TcpListener, UdpSocket},
    path::Path,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};
use streamlink_benches::{
    process::Usage,
    report::{self, Figure, Growth, Row, median, spread},
};

mod pacing;
mod rtmp;
mod rtp;
mod rtsp;
mod srt;

type Failure = Box<dyn Error>;

struct Plan {
    runs: usize,
    seconds: u64,
    only: Vec<String>,
    strict: bool,
    folder: tempfile::TempDir,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        let is_named = |only: &str| WORKS.iter().any(|(name, _)| *name == only);
        let matches = |only: &str| name == only || (!is_named(only) && name.starts_with(only));
        self.only.is_empty() || self.only.iter().any(|only| matches(only))
    }

    /// Runs the programs in turn, as often as planned, so that a disturbance affects all.
    fn in_turn<P>(
        &self,
        programs: &[(&str, P)],
        mut work: impl FnMut(&P) -> Result<Run, Failure>,
    ) -> Result<Vec<Vec<Run>>, Failure> {
        let mut runs: Vec<Vec<Run>> = programs.iter().map(|_| Vec::new()).collect();
        for run in 0..self.runs {
            for (runs, (name, program)) in runs.iter_mut().zip(programs) {
                eprintln!("run {} of {}: {name}", run + 1, self.runs);
                runs.push(work(program)?);
            }
        }
        Ok(runs)
    }
}

/// A piece of work.
#[derive(Clone, Copy)]
enum Work {
    Row(fn(&Plan) -> Result<Row, Failure>),
    Growth(fn(&Plan) -> Result<Growth, Failure>),
}

const WORKS: [(&str, Work); 24] = [
    ("rtp-bursty", Work::Row(rtp::bursty)),
    ("rtp-bursty-runs", Work::Row(rtp::bursty_runs)),
    ("rtp-paced", Work::Row(rtp::paced)),
    ("rtp-paced-runs", Work::Row(rtp::paced_runs)),
    ("rtp-observed", Work::Row(rtp::observed)),
    ("growth-outputs-paced", Work::Growth(rtp::outputs_paced)),
    ("growth-outputs-bursty", Work::Growth(rtp::outputs_bursty)),
    ("growth-flows", Work::Growth(rtp::flows)),
    ("idle-outputs", Work::Row(rtp::idle)),
    ("udp-pacing", Work::Row(pacing::outputs)),
    ("srt-fanout", Work::Row(srt::fanout)),
    ("srt-fanout-aes", Work::Row(srt::fanout_aes)),
    ("srt-fanout-paced", Work::Row(srt::fanout_paced)),
    ("srt-fanout-paced-aes", Work::Row(srt::fanout_paced_aes)),
    ("srt-relay", Work::Row(srt::relay)),
    ("srt-ceiling", Work::Row(srt::ceiling)),
    ("srt-idle", Work::Row(srt::idle)),
    ("srt-calls", Work::Row(srt::calls)),
    ("rtmp-fanout", Work::Row(rtmp::fanout)),
    ("rtmp-publishers", Work::Row(rtmp::publishers)),
    ("rtmp-remux", Work::Row(rtmp::remux)),
    ("rtsp-tcp", Work::Row(rtsp::tcp)),
    ("rtsp-udp", Work::Row(rtsp::udp)),
    ("rtsp-udp-runs", Work::Row(rtsp::udp_runs)),
];

fn main() -> Result<(), Failure> {
    let mut plan = Plan { runs: 5, seconds: 6, only: Vec::new(), strict: false, folder: tempfile::tempdir()? };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => plan.runs = arguments.next().ok_or("--runs needs a number")?.parse()?,
            "--seconds" => plan.seconds = arguments.next().ok_or("--seconds needs a number")?.parse()?,
            "--strict" => plan.strict = true,
            "--bench" => {} // passed by cargo
            row => plan.only.push(row.to_owned()),
        }
    }
    let mut rows = Vec::new();
    let mut growths = Vec::new();
    for (name, work) in WORKS {
        if plan.wants(name) {
            match work {
                Work::Row(work) => {
                    let row = work(&plan)?;
                    print!("{}", row.table());
                    rows.push(row);
                }
                Work::Growth(work) => {
                    let growth = work(&plan)?;
                    print!("{}", growth.table());
                    growths.push(growth);
                }
            }
        }
    }
    if rows.is_empty() && growths.is_empty() {
        return Err(format!("no such row; there are {}", WORKS.map(|(name, _)| name).join(", ")).into());
    }
    if plan.only.is_empty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        report::write(&rows, &growths, &folder)?;
        println!("\nwritten to {}", folder.display());
    }
    if plan.strict && !rows.iter().all(Row::holds) { Err("a target does not hold".into()) } else { Ok(()) }
}

/// Returns a port that is free now, over UDP and TCP; another one each time, below those that the system gives to sockets.
fn free_port() -> Result<u16, Failure> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Relaxed);
        if port >= 32_000 {
            return Err("no port is free".into());
        }
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
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
        spread: spread(&runs.iter().map(|r| r.cpu_per_gb).collect::<Vec<f64>>()),
        ratio: None,
        lost: runs.iter().map(|r| r.lost).sum(),
        latency: (middle(|r| r.latency.0), middle(|r| r.latency.1)),
        memory: middle(|r| r.usage.memory as f64) as u64,
        threads: runs.iter().map(|r| r.usage.threads).max().unwrap_or(0),
    }
}
