//! Long hauls: one flow to many receivers, with the memory and the CPU time of each interval. Nothing may be lost, and
//! neither may grow.
//!
//!     cargo bench -p streamlink-benches --bench haul [-- HAUL…] [--seconds N]
//!
//! Without `--seconds` a haul takes twenty seconds, and shows little more than that it works.

#![allow(missing_docs)]

use std::{
    error::Error,
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};
use streamlink_benches::{
    feed::{self, SendTimes, Shape},
    process::{Subject, Usage},
    receive::{Receivers, Timing},
    srt::{Players, Pusher},
};

type Failure = Box<dyn Error>;

/// Number of intervals of a haul.
const INTERVALS: u32 = 20;

#[derive(Clone, Copy)]
struct Haul {
    name: &'static str,
    bits_per_second: u64,
    receivers: usize,
    play: fn(Self, Duration) -> Result<Outcome, Failure>,
}

const HAULS: [Haul; 4] = [
    Haul { name: "rtp-200", bits_per_second: 6_000_000, receivers: 200, play: rtp },
    Haul { name: "rtp-25", bits_per_second: 40_000_000, receivers: 25, play: rtp },
    Haul { name: "srt-200", bits_per_second: 6_000_000, receivers: 200, play: srt },
    Haul { name: "srt-25", bits_per_second: 40_000_000, receivers: 25, play: srt },
];

struct Outcome {
    /// Usage at the beginning, and after each interval.
    samples: Vec<Usage>,
    /// Packets that were sent to the flow.
    sent: u64,
    /// Packets that did not arrive, of all receivers.
    lost: u64,
}

fn main() -> Result<(), Failure> {
    let mut seconds = 20;
    let mut only = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => seconds = arguments.next().ok_or("--seconds needs a number")?.parse()?,
            "--bench" => {} // passed by cargo
            name => only.push(name.to_owned()),
        }
    }
    if let Some(unknown) = only.iter().find(|name| HAULS.iter().all(|haul| haul.name != name.as_str())) {
        return Err(format!("there is no haul {unknown}, but {}", HAULS.map(|haul| haul.name).join(", ")).into());
    }
    for haul in HAULS.into_iter().filter(|haul| only.is_empty() || only.iter().any(|name| name == haul.name)) {
        let time = Duration::from_secs(seconds);
        let outcome = (haul.play)(haul, time)?;
        print(haul, time, &outcome);
    }
    Ok(())
}

fn print(haul: Haul, time: Duration, outcome: &Outcome) {
    let rate = haul.bits_per_second / 1_000_000;
    println!("\n{}: {rate} Mb/s to {} receivers for {} s", haul.name, haul.receivers, time.as_secs());
    println!("{:>8} {:>10} {:>10}", "s", "CPU, %", "MiB");
    let interval = (time / INTERVALS).as_secs_f64();
    let shares: Vec<f64> = outcome
        .samples
        .windows(2)
        .map(|pair| pair[1].cpu.saturating_sub(pair[0].cpu).as_secs_f64() / interval * 100.0)
        .collect();
    let memory: Vec<f64> = outcome.samples[1..].iter().map(|usage| usage.memory as f64 / 1_048_576.0).collect();
    for (number, (share, mebibytes)) in shares.iter().zip(&memory).enumerate() {
        println!("{:>8.0} {share:>10.1} {mebibytes:>10.2}", interval * (number + 1) as f64);
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let half = shares.len() / 2;
    println!("  packets sent to the flow: {}, lost on the way to all receivers: {}", outcome.sent, outcome.lost);
    println!("  memory, second half to first: {:.4}", mean(&memory[half..]) / mean(&memory[..half]));
    println!("  memory, last interval to first: {:.4}", memory[memory.len() - 1] / memory[0]);
    println!("  CPU, second half to first: {:.3}", mean(&shares[half..]) / mean(&shares[..half]));
}

fn rtp(haul: Haul, time: Duration) -> Result<Outcome, Failure> {
    let folder = tempfile::tempdir()?;
    let media = feed::make_media(folder.path(), 6)?;
    let receivers = Receivers::start(haul.receivers, Timing::None, true)?;
    let port = free_port()?;
    let mut urls = vec![format!("rtp://127.0.0.1:{port}")];
    urls.extend(receivers.addresses.iter().map(|address| format!("rtp://{address}")));
    let subject = relay(haul, &urls)?;
    subject.wait_for_udp(port)?;
    let (samples, sent) = sampled(&subject, time, || {
        Ok(feed::play_at(haul.bits_per_second, &media, &[port], Shape::Paced, time, &SendTimes::new(1))?)
    })?;
    std::thread::sleep(Duration::from_millis(200)); // the last packets leave
    drop(subject);
    let lost = receivers.finish()?.packets.iter().map(|got| sent.saturating_sub(*got)).sum();
    Ok(Outcome { samples, sent, lost })
}

fn srt(haul: Haul, time: Duration) -> Result<Outcome, Failure> {
    let (input, output) = (free_port()?, free_port()?);
    let listener = |port| format!("srt://127.0.0.1:{port}?mode=listener");
    let subject = relay(haul, &[listener(input), listener(output)])?;
    subject.wait_for_udp(input)?;
    let pusher = Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller"))?;
    let players = Players::start(haul.receivers, &format!("srt://127.0.0.1:{output}?mode=caller"))?;
    let began = Instant::now();
    while players.playing() < haul.receivers {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("only {} of {} players get anything", players.playing(), haul.receivers).into());
        }
        pusher.push(1_000_000, Duration::from_millis(100))?;
    }
    let settled = Duration::from_secs(1); // longer than both latencies
    std::thread::sleep(settled);
    let (pushed, played) = (pusher.pushed(), players.played().bytes);
    let (samples, ()) = sampled(&subject, time, || Ok(pusher.push(haul.bits_per_second, time)?))?;
    std::thread::sleep(settled);
    let sent = pusher.pushed() - pushed;
    let wanted = sent * haul.receivers as u64;
    let lost = wanted.saturating_sub(players.played().bytes - played) / feed::PAYLOAD as u64;
    drop(subject);
    pusher.stop();
    players.stop();
    Ok(Outcome { samples, sent: sent / feed::PAYLOAD as u64, lost })
}

fn relay(haul: Haul, urls: &[String]) -> std::io::Result<Subject> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
    let mbps = (haul.bits_per_second / 1_000_000 * 3).to_string();
    Subject::start(command.args(["--mbps", &mbps, "default"]).args(urls), true)
}

/// Does `work`, which takes `time`, and takes the usage of the subject at the beginning and after each interval.
fn sampled<T>(
    subject: &Subject,
    time: Duration,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(Vec<Usage>, T), Failure> {
    let has_failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let began = Instant::now();
            let mut samples = vec![subject.usage()];
            for number in 1..=INTERVALS {
                std::thread::sleep((time / INTERVALS * number).saturating_sub(began.elapsed()));
                if has_failed.load(Relaxed) {
                    break;
                }
                samples.push(subject.usage());
                eprintln!("{number} of {INTERVALS}");
            }
            samples
        });
        let result = work();
        has_failed.store(result.is_err(), Relaxed);
        let samples = sampler.join().map_err(|_| "the usage could not be taken")?;
        Ok((samples, result?))
    })
}

/// Returns a port that is free now, over UDP.
fn free_port() -> std::io::Result<u16> {
    UdpSocket::bind("127.0.0.1:0")?.local_addr().map(|address| address.port())
}
