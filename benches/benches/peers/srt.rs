//! SRT beside libsrt's programs.

use super::{Failure, Plan, Run, figure, free_port};
use std::{path::Path, process::Command, time::Duration};
use streamlink_benches::{
    feed,
    process::{Subject, Usage},
    report::{Figure, Row, median},
    srt::{Players, Pusher},
    srt_calls,
};

/// Starts a program that relays SRT from a listening port to another. `encrypted`: AES-128 on the way out.
type Start = fn(input: u16, output: u16, encrypted: bool) -> std::io::Result<Subject>;

const SECRET: &str = "passphrase=correct-horse&pbkeylen=16";

fn ours(input: u16, output: u16, encrypted: bool) -> std::io::Result<Subject> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
    let query = if encrypted { format!("&{SECRET}") } else { String::new() };
    command.args(["1", &format!("srt://127.0.0.1:{input}?mode=listener")]);
    command.arg(format!("srt://127.0.0.1:{output}?mode=listener{query}"));
    Subject::start(&mut command, true)
}

fn gstreamer(input: u16, output: u16, encrypted: bool) -> std::io::Result<Subject> {
    let mut command = Command::new("gst-launch-1.0");
    command.args([
        "-q",
        "srtsrc",
        "keep-listening=true",
        &format!("uri=srt://127.0.0.1:{input}?mode=listener"),
        "!",
        "srtsink",
    ]);
    command.args(["sync=false", "wait-for-connection=false", &format!("uri=srt://127.0.0.1:{output}?mode=listener")]);
    if encrypted {
        command.args(["passphrase=correct-horse", "pbkeylen=16"]);
    }
    Subject::start(&mut command, false)
}

fn live_transmit(input: u16, output: u16, _: bool) -> std::io::Result<Subject> {
    let mut command = Command::new("srt-live-transmit");
    command.args(["-q", "-loglevel:fatal", &format!("srt://127.0.0.1:{input}?mode=listener")]);
    command.arg(format!("srt://127.0.0.1:{output}?mode=listener"));
    Subject::start(&mut command, false)
}

/// Timing of the sender.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// ffmpeg in real time, whose packets come in bursts of a picture.
    Bursty,
    /// One packet at a time, every 1.75 ms.
    Paced,
}

/// One sender in bursts, fifty callers of one listener.
pub(crate) fn fanout(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, Sender::Bursty, false, 0.15)
}

/// The same, encrypted.
pub(crate) fn fanout_aes(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, Sender::Bursty, true, 0.17)
}

/// One sender with even pacing, fifty callers of one listener.
pub(crate) fn fanout_paced(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, Sender::Paced, false, 0.2)
}

/// The same, encrypted.
pub(crate) fn fanout_paced_aes(plan: &Plan) -> Result<Row, Failure> {
    fanout_row(plan, Sender::Paced, true, 0.2)
}

/// SRT from one sender to fifty callers of one listener. `most`: the highest ratio of CPU to GStreamer.
fn fanout_row(plan: &Plan, sender: Sender, encrypted: bool, most: f64) -> Result<Row, Failure> {
    const PLAYERS: usize = 50;
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let programs: [(&str, Start); 2] = [("streamlink", ours), ("gst srtsrc ! srtsink", gstreamer)];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
    for run in 0..plan.runs {
        for (i, (name, start)) in programs.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(fanout_run(*start, PLAYERS, sender, encrypted, &media)?);
        }
    }
    let figures: Vec<Figure> = programs.iter().zip(&runs).map(|((name, _), runs)| figure(name, runs)).collect();
    let ratio = median(runs[0].iter().zip(&runs[1]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let how = if encrypted { ", AES-128" } else { "" };
    let from = match sender {
        Sender::Bursty => "from ffmpeg",
        Sender::Paced => "evenly paced",
    };
    let targets =
        vec![("CPU, ratio to GStreamer".into(), ratio, most), ("packets lost".into(), figures[0].lost as f64, 0.0)];
    let title = format!("SRT, 6 Mb/s MPEG-TS {from} to {PLAYERS} callers of one listener{how}");
    Ok(Row { title, figures, targets })
}

fn fanout_run(start: Start, count: usize, sender: Sender, encrypted: bool, media: &Path) -> Result<Run, Failure> {
    let input = free_port()?;
    let output = free_port()?;
    let subject = start(input, output, encrypted)?;
    subject.wait_for_udp(input)?;
    // A program may open its output only when its input has begun: then the players call until it does.
    let query = if encrypted { SECRET } else { "" };
    let players = Players::start(count, &format!("srt://127.0.0.1:{output}?mode=caller&{query}"))?;
    std::thread::sleep(Duration::from_millis(1500)); // they have connected, or nearly
    let before = subject.usage();
    match sender {
        Sender::Bursty => feed::play_srt_with_ffmpeg(media, input)?,
        Sender::Paced => {
            let bytes = std::fs::read(media)?;
            let pusher = Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller"))?;
            pusher.play_evenly(&bytes, feed::BITS_PER_SECOND);
            pusher.stop();
        }
    }
    std::thread::sleep(Duration::from_millis(500)); // the last packets leave
    let after = subject.usage();
    let playing = players.playing();
    let played = players.played();
    drop(subject);
    players.stop();
    if playing < count {
        return Err(format!("only {playing} of {count} players got anything").into());
    }
    Ok(Run {
        cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (played.bytes as f64 / 1e9),
        lost: played.lost,
        latency: (0.0, 0.0),
        usage: after,
    })
}

/// One connection in, one out, at a high rate.
pub(crate) fn relay(plan: &Plan) -> Result<Row, Failure> {
    const RATE: u64 = 300_000_000;
    let programs: [(&str, Start); 2] = [("streamlink", ours), ("srt-live-transmit", live_transmit)];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
    for run in 0..plan.runs {
        for (i, (name, start)) in programs.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(relay_run(*start, RATE, Duration::from_secs(plan.seconds.min(5)))?);
        }
    }
    let figures: Vec<Figure> = programs.iter().zip(&runs).map(|((name, _), runs)| figure(name, runs)).collect();
    let ratio = median(runs[0].iter().zip(&runs[1]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![
        ("CPU, ratio to srt-live-transmit".into(), ratio, 0.5),
        ("packets lost".into(), figures[0].lost as f64, 0.0),
    ];
    Ok(Row { title: "SRT to SRT, one connection at 300 Mb/s".into(), figures, targets })
}

fn relay_run(start: Start, rate: u64, time: Duration) -> Result<Run, Failure> {
    let input = free_port()?;
    let output = free_port()?;
    let subject = start(input, output, false)?;
    subject.wait_for_udp(input)?;
    let pusher = Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller"))?;
    let players = Players::start(1, &format!("srt://127.0.0.1:{output}?mode=caller"))?;
    // Until the player plays: packets pushed before are not counted.
    let mut warm = 0;
    while players.playing() < 1 {
        pusher.push(10_000_000, Duration::from_millis(100))?;
        warm += 1;
        if warm > 100 {
            return Err("the player gets nothing".into());
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let before = subject.usage();
    let pushed = pusher.pushed();
    let played = players.played();
    pusher.push(rate, time)?;
    std::thread::sleep(Duration::from_millis(700)); // the last packets leave, after both latencies
    let after = subject.usage();
    let got = players.played();
    let pushed = pusher.pushed() - pushed;
    let bytes = got.bytes - played.bytes;
    drop(subject);
    pusher.stop();
    players.stop();
    Ok(Run {
        cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (bytes as f64 / 1e9),
        lost: pushed.saturating_sub(bytes) / 1316,
        latency: (0.0, 0.0),
        usage: after,
    })
}

/// Measures the highest rate at which a program loses nothing, in steps of a fifth. The senders and players use a share
/// of the machine: the faster program's true ceiling is not below what is found.
pub(crate) fn ceiling(plan: &Plan) -> Result<Row, Failure> {
    const FIRST: u64 = 300_000_000;
    let programs: [(&str, Start); 2] = [("streamlink", ours), ("srt-live-transmit", live_transmit)];
    let mut found = [Vec::new(), Vec::new()];
    let mut figures = Vec::new();
    for run in 0..plan.runs {
        for (i, (name, start)) in programs.iter().enumerate() {
            let mut rate = FIRST;
            let mut best = None;
            loop {
                eprintln!("run {} of {}: {name} at {} Mb/s", run + 1, plan.runs, rate / 1_000_000);
                // One try may be disturbed by something else.
                let tries = (0..2).map(|_| relay_run(*start, rate, Duration::from_secs(2)));
                let Some(carried) = tries.filter_map(Result::ok).find(|run| run.lost == 0) else { break };
                best = Some((rate, carried));
                rate += rate / 5;
            }
            found[i].push(best.ok_or("not even the first rate was carried")?);
        }
    }
    for ((name, _), found) in programs.iter().zip(&found) {
        let rate = median(found.iter().map(|(rate, _)| *rate as f64 / 1e6).collect());
        let runs: Vec<Run> = found.iter().map(|(_, run)| run.clone()).collect();
        figures.push(figure(&format!("{name}: {rate:.0} Mb/s"), &runs));
    }
    let ratio = median(found[0].iter().zip(&found[1]).map(|(a, b)| b.0 as f64 / a.0 as f64).collect());
    // Five times as much, or more.
    let targets = vec![("rate of srt-live-transmit, ratio to ours".into(), ratio, 1.0 / 5.0)];
    Ok(Row { title: "SRT to SRT, one connection, the highest rate without loss".into(), figures, targets })
}

/// A thousand callers at once, while ten others play.
pub(crate) fn calls(plan: &Plan) -> Result<Row, Failure> {
    const CALLERS: u32 = 1000;
    const PLAYERS: usize = 10;
    let media = std::fs::read(feed::make_media(plan.folder.path(), plan.seconds)?)?;
    let mut runs = Vec::new();
    let mut times = Vec::new();
    for run in 0..plan.runs {
        eprintln!("run {} of {}", run + 1, plan.runs);
        let input = free_port()?;
        let output = free_port()?;
        let subject = ours(input, output, false)?;
        subject.wait_for_udp(input)?;
        let players = Players::start(PLAYERS, &format!("srt://127.0.0.1:{output}?mode=caller"))?;
        let pusher = Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller"))?;
        let time = std::thread::scope(|scope| {
            scope.spawn(|| pusher.play_evenly(&media, feed::BITS_PER_SECOND));
            std::thread::sleep(Duration::from_secs(2)); // all of them play
            srt_calls::call(output, CALLERS)
        })?;
        std::thread::sleep(Duration::from_millis(500)); // the last packets leave
        let usage = subject.usage();
        let playing = players.playing();
        let played = players.played();
        drop(subject);
        pusher.stop();
        players.stop();
        if playing < PLAYERS {
            return Err(format!("only {playing} of {PLAYERS} players got anything").into());
        }
        times.push(time.as_secs_f64());
        runs.push(Run { cpu_per_gb: 0.0, lost: played.lost, latency: (0.0, 0.0), usage });
    }
    let figures = vec![figure("streamlink", &runs)];
    let targets = vec![
        ("seconds until all are connected".into(), median(times), 1.0),
        ("packets lost by the others".into(), figures[0].lost as f64, 0.0),
    ];
    Ok(Row { title: format!("{CALLERS} SRT callers at once, while {PLAYERS} others play 6 Mb/s"), figures, targets })
}

/// A thousand connected callers without media.
pub(crate) fn idle(_: &Plan) -> Result<Row, Failure> {
    const CALLERS: usize = 1000;
    let input = free_port()?;
    let output = free_port()?;
    let subject = ours(input, output, false)?;
    let before = subject.usage();
    let players = Players::start(CALLERS, &format!("srt://127.0.0.1:{output}?mode=caller"))?;
    std::thread::sleep(Duration::from_secs(4)); // all have connected
    let after = subject.usage();
    // All of them are connected: each receives the first packet.
    let pusher = Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller"))?;
    pusher.push(1_000_000, Duration::from_millis(500))?;
    std::thread::sleep(Duration::from_secs(2));
    let playing = players.playing();
    drop(subject);
    pusher.stop();
    players.stop();
    let each = after.memory.saturating_sub(before.memory) as f64 / CALLERS as f64;
    let figure = |name: &str, usage: Usage| Figure {
        name: name.to_owned(),
        memory: usage.memory,
        threads: usage.threads,
        ..Figure::default()
    };
    let targets = vec![
        ("callers that are not there".into(), (CALLERS - playing) as f64, 0.0),
        ("memory of a caller, KiB".into(), each / 1024.0, 100.0),
        ("threads of a thousand callers".into(), after.threads as f64 - before.threads as f64, 0.0),
    ];
    let title = "1000 connected SRT callers".to_owned();
    Ok(Row {
        title,
        figures: vec![figure("streamlink, no caller", before), figure("streamlink, 1000 callers", after)],
        targets,
    })
}
