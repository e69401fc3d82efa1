//! RTMP beside nginx-rtmp, and the remux beside ffmpeg.

use super::{Failure, Plan, Run, figure, free_port};
use std::{net::TcpStream, path::Path, process::Command, time::Duration};
use streamlink_benches::{
    feed,
    process::{Subject, Usage},
    report::{Figure, Row, median},
    rtmp::{self, Tag, Watchers, Writes},
    srt::Pusher,
};
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Source};

const PLAYERS: usize = 300;
const PUBLISHERS: usize = 300;
const REMUXES: usize = 20;
/// The window of merged writes, in milliseconds.
const WINDOW: u32 = 350;

fn wait_for_tcp(port: u16) -> Result<(), Failure> {
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("nothing listens on port {port}").into())
}

fn nginx(plan: &Plan, port: u16, more: &str) -> Result<Subject, Failure> {
    let subject = Subject::start(&mut rtmp::nginx(port, more, plan.folder.path())?, false)?;
    wait_for_tcp(port)?;
    Ok(subject)
}

pub(crate) fn relay(flows: &[Vec<String>]) -> Result<Subject, Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
    command.arg("1");
    for (i, urls) in flows.iter().enumerate() {
        if i > 0 {
            command.arg("--");
        }
        command.args(urls);
    }
    Ok(Subject::start(&mut command, true)?)
}

/// The server of the players.
#[derive(Clone, Copy)]
enum Server {
    Ours { window: u32 },
    Nginx { more: &'static str },
    Floor { window: u32 },
}

/// One publisher, 300 players.
pub(crate) fn fanout(plan: &Plan) -> Result<Row, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let (file, tags) = rtmp::tags(&media, &["-c", "copy"])?;
    let programs = [
        ("streamlink", Server::Ours { window: 0 }),
        ("streamlink, writes of 350 ms", Server::Ours { window: WINDOW }),
        ("nginx-rtmp, one worker", Server::Nginx { more: "" }),
        ("nginx-rtmp, chunks of 60 000", Server::Nginx { more: "chunk_size 60000;" }),
        ("floor: only the writes", Server::Floor { window: 0 }),
        ("floor: writes of 350 ms", Server::Floor { window: WINDOW }),
    ];
    let mut runs: Vec<Vec<(Run, f64)>> = vec![Vec::new(); programs.len()];
    for run in 0..plan.runs {
        for (i, (name, server)) in programs.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(fanout_run(plan, *server, &media, &file, &tags)?);
        }
    }
    let plain: Vec<Vec<Run>> = runs.iter().map(|runs| runs.iter().map(|(run, _)| run.clone()).collect()).collect();
    let figures: Vec<Figure> = programs.iter().zip(&plain).map(|((name, _), runs)| figure(name, runs)).collect();
    let ratio =
        |a: usize, b: usize| median(plain[a].iter().zip(&plain[b]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![
        ("CPU, ratio to nginx-rtmp".into(), ratio(0, 2), 0.85),
        ("CPU with writes of 350 ms, ratio to nginx-rtmp".into(), ratio(1, 2), 0.35),
        ("CPU, ratio to the floor".into(), ratio(0, 4), 1.3),
        ("CPU with writes of 350 ms, ratio to its floor".into(), ratio(1, 5), 1.3),
        ("players that got less than all of it".into(), (figures[0].lost + figures[1].lost) as f64, 0.0),
        ("memory of a player, KiB".into(), median(runs[0].iter().map(|(_, each)| *each).collect()), 16.0),
    ];
    Ok(Row { title: format!("RTMP, 6 Mb/s from ffmpeg to {PLAYERS} players"), figures, targets })
}

fn fanout_run(plan: &Plan, server: Server, media: &Path, file: &Path, tags: &[Tag]) -> Result<(Run, f64), Failure> {
    let port = free_port()?;
    let url = format!("rtmp://127.0.0.1:{port}/live/KEY");
    let subject = match server {
        Server::Ours { window } => {
            let subject =
                relay(&[vec![format!("{url}?mode=listener"), format!("{url}?mode=listener&coalesce={window}")]])?;
            wait_for_tcp(port)?;
            subject
        }
        Server::Nginx { more } => nginx(plan, port, more)?,
        Server::Floor { window } => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor-writes"));
            command.args([port.to_string(), PLAYERS.to_string(), window.to_string()]).arg(file);
            Subject::start(&mut command, true)?
        }
    };
    let alone = subject.usage();
    let players = Watchers::start(PLAYERS, port, "KEY")?;
    std::thread::sleep(Duration::from_millis(500));
    let before = subject.usage();
    match server {
        Server::Floor { .. } => std::thread::sleep(Duration::from_secs(plan.seconds + 3)),
        _ => {
            rtmp::publish_with_ffmpeg(media, &url)?;
            std::thread::sleep(Duration::from_millis(1000)); // the last messages leave
        }
    }
    let after = subject.usage();
    let each = players.bytes();
    drop(subject);
    players.stop();
    let whole: u64 = tags.iter().map(|tag| tag.body.len() as u64).sum();
    let run = Run {
        cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (each.iter().sum::<u64>() as f64 / 1e9),
        lost: each.iter().filter(|bytes| **bytes * 100 < whole * 99).count() as u64,
        latency: (0.0, 0.0),
        usage: after,
    };
    Ok((run, after.memory.saturating_sub(alone.memory) as f64 / PLAYERS as f64 / 1024.0))
}

/// The server of the publishers.
#[derive(Clone, Copy)]
enum Taker {
    Ours,
    Nginx,
    Floor,
}

/// 300 publishers into 300 flows.
pub(crate) fn publishers(plan: &Plan) -> Result<Row, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let small = ["-vf", "scale=640:-2", "-c:v", "libx264", "-preset", "ultrafast", "-b:v", "500k", "-maxrate", "500k"];
    let arguments = [&small[..], &["-bufsize", "250k", "-g", "25", "-c:a", "aac", "-b:a", "96k"]].concat();
    let (_, tags) = rtmp::tags(&media, &arguments)?;
    let programs = [
        ("streamlink", Taker::Ours, Writes::Whole),
        ("nginx-rtmp, one worker", Taker::Nginx, Writes::Whole),
        ("floor: only the reads", Taker::Floor, Writes::Whole),
        ("streamlink, written as ffmpeg does", Taker::Ours, Writes::Apart),
        ("nginx-rtmp, written as ffmpeg does", Taker::Nginx, Writes::Apart),
        ("floor, written as ffmpeg does", Taker::Floor, Writes::Apart),
    ];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
    for run in 0..plan.runs {
        for (i, (name, taker, how)) in programs.into_iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            let port = free_port()?;
            let subject = match taker {
                Taker::Ours => relay(
                    &(0..PUBLISHERS)
                        .map(|i| vec![format!("rtmp://127.0.0.1:{port}/live/k{i}?mode=listener")])
                        .collect::<Vec<_>>(),
                )?,
                Taker::Nginx => nginx(plan, port, "")?,
                Taker::Floor => {
                    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor-reads"));
                    Subject::start(command.args([port.to_string(), PUBLISHERS.to_string()]), true)?
                }
            };
            let mut before = Usage::default();
            let written = rtmp::publish_many(PUBLISHERS, port, &tags, how, || before = subject.usage())?;
            std::thread::sleep(Duration::from_millis(300));
            let after = subject.usage();
            runs[i].push(Run {
                cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (written as f64 / 1e9),
                lost: 0,
                latency: (0.0, 0.0),
                usage: after,
            });
        }
    }
    let figures: Vec<Figure> = programs.iter().zip(&runs).map(|((name, ..), runs)| figure(name, runs)).collect();
    let ratio =
        |a: usize, b: usize| median(runs[a].iter().zip(&runs[b]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![
        ("CPU, ratio to nginx-rtmp".into(), ratio(0, 1), 0.8),
        ("CPU, ratio to nginx-rtmp, written as ffmpeg does".into(), ratio(3, 4), 0.8),
    ];
    Ok(Row { title: format!("RTMP, {PUBLISHERS} publishers of 600 kb/s into as many flows"), figures, targets })
}

/// Starts servers for the remuxed streams, in this process.
fn sinks(engine: &Engine, port: u16) -> Result<Vec<FlowHandle>, Failure> {
    let flow = |i: usize| -> Result<FlowHandle, Failure> {
        let source = Source::from_url("in", &format!("rtmp://127.0.0.1:{port}/live/k{i}?mode=listener"));
        let flow = Flow::builder(format!("sink-{i}"), Bitrate::mbps(100)).source(source).build()?;
        Ok(engine.block_on(engine.start(flow))?)
    };
    (0..REMUXES).map(flow).collect()
}

/// 20 SRT streams that leave as RTMP.
pub(crate) fn remux(plan: &Plan) -> Result<Row, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let names = ["streamlink", "20 times ffmpeg -c copy"];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); names.len()];
    for run in 0..plan.runs {
        for (i, name) in names.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(remux_run(i == 0, &media)?);
        }
    }
    let figures: Vec<Figure> = names.iter().zip(&runs).map(|(name, runs)| figure(name, runs)).collect();
    let ratio = median(runs[0].iter().zip(&runs[1]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![("CPU, ratio to ffmpeg".into(), ratio, 0.25)];
    Ok(Row { title: format!("{REMUXES} SRT streams of 6 Mb/s that leave as RTMP"), figures, targets })
}

fn remux_run(ours: bool, media: &Path) -> Result<Run, Failure> {
    let engine = Engine::new()?;
    let port = free_port()?;
    let sinks = sinks(&engine, port)?;
    let inputs: Vec<u16> = (0..REMUXES).map(|_| free_port()).collect::<Result<_, _>>()?;
    let target = format!("rtmp://127.0.0.1:{port}/live");
    let subjects: Vec<Subject> = if ours {
        let flow = |(i, input): (usize, &u16)| {
            vec![format!("srt://127.0.0.1:{input}?mode=listener"), format!("{}?key=k{i}", target)]
        };
        vec![relay(&inputs.iter().enumerate().map(flow).collect::<Vec<_>>())?]
    } else {
        let start = |(i, input): (usize, &u16)| {
            let mut command = Command::new("ffmpeg");
            // By default, ffmpeg analyses for five seconds before it sends the first packet.
            command.args(["-v", "error", "-nostdin", "-f", "mpegts", "-analyzeduration", "1000000", "-i"]);
            command.args([&format!("srt://127.0.0.1:{input}?mode=listener"), "-c", "copy", "-f", "flv"]);
            Subject::start(command.arg(format!("{}/k{i}", target)), false)
        };
        inputs.iter().enumerate().map(start).collect::<Result<_, _>>()?
    };
    for (i, input) in inputs.iter().enumerate() {
        subjects[if ours { 0 } else { i }].wait_for_udp(*input)?;
    }
    let usage = || {
        subjects.iter().map(Subject::usage).fold(Usage::default(), |sum, one| Usage {
            cpu: sum.cpu + one.cpu,
            memory: sum.memory + one.memory,
            threads: sum.threads + one.threads,
        })
    };
    let pushers: Vec<Pusher> = inputs
        .iter()
        .map(|input| Pusher::connect(&format!("srt://127.0.0.1:{input}?mode=caller")))
        .collect::<Result<_, _>>()?;
    let bytes = std::fs::read(media)?;
    let before = usage();
    std::thread::scope(|scope| {
        for pusher in &pushers {
            scope.spawn(|| pusher.play(&bytes, feed::BITS_PER_SECOND));
        }
    });
    std::thread::sleep(Duration::from_secs(1)); // the last messages leave
    let after = usage();
    let got: u64 = sinks.iter().map(|sink| sink.stats().sources[0].bytes).sum();
    drop(subjects);
    for pusher in pushers {
        pusher.stop();
    }
    engine.block_on(engine.shutdown());
    if got * 10 < bytes.len() as u64 * REMUXES as u64 * 8 {
        return Err(format!("only {got} bytes arrived").into());
    }
    Ok(Run {
        cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (got as f64 / 1e9),
        lost: 0,
        latency: (0.0, 0.0),
        usage: after,
    })
}
