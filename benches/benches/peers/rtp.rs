//! RTP fan-out beside GStreamer and two floors: paced and bursty media, receivers of datagrams and of runs, and growth with
//! outputs and flows.

use super::{Failure, Plan, Run, figure, free_port};
use std::{process::Command, time::Duration};
use streamlink_benches::{
    feed::{self, SendTimes, Shape},
    process::{Subject, Usage},
    receive::{Received, Receivers, Timing},
    report::{Figure, Growth, Point, Row, median, ratio},
};

/// Receivers of the fan-out rows.
const RECEIVERS: usize = 50;
/// Maximum bandwidth of our flows, in Mb/s: what an operator allows a stream of 6 Mb/s.
const MAX_MBPS: &str = "20";
/// Time for which the library holds what comes one at a time, by default; the floor holds as long.
const HOLD_PACED: Duration = Duration::from_millis(5);
/// Time for which the library holds a burst, by default.
const HOLD_BURST: Duration = Duration::from_millis(1);
/// Duration of a feed that measures the latency alone.
const LATENCY_FEED: Duration = Duration::from_secs(2);
/// Outputs of each flow in the row of growth with flows.
const OUTPUTS_OF_FLOW: usize = 2;
/// Runs of each program at each point of a chart.
const RUNS_OF_POINT: usize = 3;
/// Duration of each.
const POINT: Duration = Duration::from_secs(3);

/// A program that relays RTP from a port to receivers, for each of its flows.
#[derive(Clone, Copy)]
pub(crate) enum Program {
    /// The library; `None`: with its default.
    Ours {
        coalesce_ms: Option<u32>,
        observed: bool,
    },
    /// One `recvfrom` and a `sendto` a receiver for each datagram.
    Floor,
    /// Runs of what has come within a time.
    FloorOfRuns(Duration),
    Gstreamer,
}

const OURS: Program = Program::Ours { coalesce_ms: None, observed: false };

/// A flow: a port, and the addresses of its receivers.
type Wanted<'a> = (u16, &'a [String]);

impl Program {
    pub(crate) fn start(self, flows: &[Wanted<'_>]) -> std::io::Result<Subject> {
        let mut command = match self {
            Self::Ours { coalesce_ms, observed } => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
                if observed {
                    command.arg("--observed");
                }
                command.args(["--mbps", MAX_MBPS]);
                command.arg(coalesce_ms.map_or_else(|| "default".to_owned(), |ms| ms.to_string()));
                for (number, (port, receivers)) in flows.iter().enumerate() {
                    command.args((number > 0).then_some("--")).arg(format!("rtp://127.0.0.1:{port}"));
                    command.args(receivers.iter().map(|address| format!("rtp://{address}")));
                }
                command
            }
            Self::Floor | Self::FloorOfRuns(_) => {
                let mut command = match self {
                    Self::FloorOfRuns(hold) => {
                        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor-runs"));
                        command.arg(hold.as_micros().to_string());
                        command
                    }
                    _ => Command::new(env!("CARGO_BIN_EXE_bench-floor")),
                };
                for (port, receivers) in flows {
                    command.arg(format!("127.0.0.1:{port}")).args(*receivers);
                }
                command
            }
            Self::Gstreamer => {
                let mut command = Command::new("gst-launch-1.0");
                command.arg("-q");
                for (port, receivers) in flows {
                    command.args(["udpsrc", "address=127.0.0.1", &format!("port={port}"), "buffer-size=4194304"]);
                    command.args(["!", "multiudpsink", "sync=false", "async=false"]);
                    command.arg(format!("clients={}", receivers.join(",")));
                }
                command
            }
        };
        Subject::start(&mut command, !matches!(self, Self::Gstreamer))
    }
}

pub(crate) fn bursty(plan: &Plan) -> Result<Row, Failure> {
    fanout(plan, Shape::Bursty, false)
}

pub(crate) fn bursty_runs(plan: &Plan) -> Result<Row, Failure> {
    fanout(plan, Shape::Bursty, true)
}

pub(crate) fn paced(plan: &Plan) -> Result<Row, Failure> {
    fanout(plan, Shape::Paced, false)
}

pub(crate) fn paced_runs(plan: &Plan) -> Result<Row, Failure> {
    fanout(plan, Shape::Paced, true)
}

/// One sender to fifty receivers.
fn fanout(plan: &Plan, shape: Shape, take_runs: bool) -> Result<Row, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let hold = if shape == Shape::Paced { HOLD_PACED } else { HOLD_BURST };
    let programs = [
        ("streamlink", OURS),
        ("streamlink, no coalescing", Program::Ours { coalesce_ms: Some(0), observed: false }),
        ("floor: sends runs", Program::FloorOfRuns(hold)),
        ("floor: recvfrom + sendto", Program::Floor),
        ("gst udpsrc ! multiudpsink", Program::Gstreamer),
    ];
    let runs = plan.in_turn(&programs, |program| fanout_run(plan, *program, shape, take_runs, &media))?;
    let figures = figures(&programs, &runs);
    let [runs_floor, gstreamer] = [2, 4].map(|peer: usize| figures[peer].ratio.map_or(f64::NAN, |[median, ..]| median));
    let (most_of_runs, most_of_gstreamer) = match (shape, take_runs) {
        (Shape::Paced, _) => (1.2, 0.6),
        (Shape::Bursty, true) => (1.15, 0.25),
        (Shape::Bursty, false) => (1.2, 0.28),
    };
    // On the loopback, the kernel delivers to the receivers on the sender's account: taking runs apart for those that
    // want single datagrams is the larger part of those rows.
    let targets = vec![
        ("CPU, ratio to the floor of runs".into(), runs_floor, most_of_runs),
        ("CPU, ratio to GStreamer".into(), gstreamer, most_of_gstreamer),
        ("packets lost".into(), (figures[0].lost + figures[1].lost) as f64, 0.0),
        ("added latency p99, ms".into(), figures[0].latency.1, 6.0),
        ("added latency p99 without coalescing, ms".into(), figures[1].latency.1, 2.0),
    ];
    let source = if shape == Shape::Paced { "one datagram every 1.75 ms" } else { "in bursts from ffmpeg" };
    let receivers = if take_runs { "take runs (UDP_GRO)" } else { "take each datagram by itself" };
    let title = format!("RTP, 6 Mb/s MPEG-TS, {source}, to {RECEIVERS} receivers, which {receivers}");
    Ok(Row { title, figures, targets })
}

/// Returns the figures of some programs, the first of which is ours.
fn figures(programs: &[(&str, Program)], runs: &[Vec<Run>]) -> Vec<Figure> {
    let cpu = |runs: &[Run]| runs.iter().map(|run| run.cpu_per_gb).collect::<Vec<f64>>();
    let figures = programs
        .iter()
        .zip(runs)
        .map(|((name, _), theirs)| Figure { ratio: Some(ratio(&cpu(&runs[0]), &cpu(theirs))), ..figure(name, theirs) });
    figures.collect()
}

/// One program, once. Bursts are those of ffmpeg, and the latency is that of bursts of our own sender, whose times are
/// known.
fn fanout_run(
    plan: &Plan,
    program: Program,
    shape: Shape,
    take_runs: bool,
    media: &std::path::Path,
) -> Result<Run, Failure> {
    let time = Duration::from_secs(plan.seconds);
    let fed = |time: Duration| {
        let times = SendTimes::new(1);
        let timing = Timing::Feed { times: times.clone(), outputs: RECEIVERS };
        let receivers = Receivers::start(RECEIVERS, timing, take_runs)?;
        with_subject(program, receivers, 1, |ports| feed::play(media, ports, shape, time, &times).map(drop))
    };
    if shape == Shape::Paced {
        let (usage, cpu, received) = fed(time)?;
        return result(usage, cpu, &received, &received);
    }
    let receivers = Receivers::start(RECEIVERS, Timing::None, take_runs)?;
    let (usage, cpu, received) = with_subject(program, receivers, 1, |ports| feed::play_with_ffmpeg(media, ports[0]))?;
    let (_, _, timed) = fed(LATENCY_FEED)?;
    let mut run = result(usage, cpu, &received, &timed)?;
    run.lost += timed.missing;
    Ok(run)
}

fn result(usage: Usage, cpu: Duration, received: &Received, timed: &Received) -> Result<Run, Failure> {
    if received.bytes == 0 || timed.latency.is_none() {
        return Err("nothing arrived".into());
    }
    let most = received.packets.iter().max().copied().unwrap_or(0);
    let short: u64 = received.packets.iter().map(|n| most - n).sum();
    Ok(Run {
        cpu_per_gb: cpu.as_secs_f64() / (received.bytes as f64 / 1e9),
        lost: received.missing + short,
        latency: (timed.percentile(0.5), timed.percentile(0.99)),
        usage,
    })
}

/// Runs a program with some flows while `play` feeds them; returns its usage, the CPU time of the run, and what the
/// receivers, shared evenly by the flows, got.
fn with_subject(
    program: Program,
    receivers: Receivers,
    flows: usize,
    play: impl FnOnce(&[u16]) -> std::io::Result<()>,
) -> Result<(Usage, Duration, Received), Failure> {
    let ports = (0..flows).map(|_| free_port()).collect::<Result<Vec<_>, _>>()?;
    let shares = receivers.addresses.chunks(receivers.addresses.len() / flows);
    let wanted: Vec<Wanted<'_>> = ports.iter().copied().zip(shares).collect();
    let subject = program.start(&wanted)?;
    for port in &ports {
        subject.wait_for_udp(*port)?;
    }
    std::thread::sleep(Duration::from_millis(300)); // the program has started
    let before = subject.usage();
    play(&ports)?;
    std::thread::sleep(Duration::from_millis(200)); // the last packets leave
    let after = subject.usage();
    drop(subject);
    Ok((after, after.cpu.saturating_sub(before.cpu), receivers.finish()?))
}

/// The library with everything on that observes, beside itself.
pub(crate) fn observed(plan: &Plan) -> Result<Row, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let programs =
        [("streamlink, observed", Program::Ours { coalesce_ms: None, observed: true }), ("streamlink, plain", OURS)];
    let runs = plan.in_turn(&programs, |program| fanout_run(plan, *program, Shape::Paced, true, &media))?;
    let figures = figures(&programs, &runs);
    let targets = vec![
        ("CPU, ratio to not observed".into(), figures[1].ratio.map_or(f64::NAN, |[median, ..]| median), 1.1),
        ("packets lost".into(), figures[0].lost as f64, 0.0),
        ("added latency p99, ms".into(), figures[0].latency.1, 6.0),
    ];
    let title = format!(
        "RTP, 6 Mb/s MPEG-TS, one datagram every 1.75 ms, to {RECEIVERS} receivers, which take runs; statistics and \
         OpenMetrics read every second, events read, TR 101 290"
    );
    Ok(Row { title, figures, targets })
}

/// Growth with the number of outputs, paced.
pub(crate) fn outputs_paced(plan: &Plan) -> Result<Growth, Failure> {
    let title = "RTP, one flow of 6 Mb/s, one datagram every 1.75 ms, receivers take each datagram";
    growth(plan, title, "outputs", &[1, 10, 50, 200], Shape::Paced, |outputs| (1, outputs))
}

/// Growth with the number of outputs, in bursts.
pub(crate) fn outputs_bursty(plan: &Plan) -> Result<Growth, Failure> {
    let title = "RTP, one flow of 6 Mb/s in bursts of a picture, receivers take each datagram";
    growth(plan, title, "outputs", &[1, 10, 50, 200], Shape::Bursty, |outputs| (1, outputs))
}

/// Growth with the number of flows.
pub(crate) fn flows(plan: &Plan) -> Result<Growth, Failure> {
    let title = "RTP, flows of 6 Mb/s with two outputs each, one datagram every 1.75 ms";
    growth(plan, title, "flows", &[1, 10, 100], Shape::Paced, |flows| (flows, flows * OUTPUTS_OF_FLOW))
}

/// `numbers`: flows and receivers at a point.
fn growth(
    plan: &Plan,
    title: &str,
    axis: &'static str,
    at: &[usize],
    shape: Shape,
    numbers: fn(usize) -> (usize, usize),
) -> Result<Growth, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let programs = [("streamlink", OURS), ("gst udpsrc ! multiudpsink", Program::Gstreamer)];
    let mut points = Vec::new();
    for at in at {
        let (flows, count) = numbers(*at);
        let mut runs = vec![Vec::new(); programs.len()];
        for run in 0..plan.runs.min(RUNS_OF_POINT) {
            for (runs, (name, program)) in runs.iter_mut().zip(&programs) {
                eprintln!("{at} {axis}, run {}: {name}", run + 1);
                let times = SendTimes::new(flows);
                let timing = Timing::Feed { times: times.clone(), outputs: count / flows };
                let receivers = Receivers::start(count, timing, false)?;
                let play = |ports: &[u16]| feed::play(&media, ports, shape, POINT, &times).map(drop);
                let (usage, cpu, received) = with_subject(*program, receivers, flows, play)?;
                runs.push(result(usage, cpu, &received, &received)?);
            }
        }
        for ((name, _), runs) in programs.iter().zip(&runs) {
            let middle = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
            points.push(Point {
                program: (*name).to_owned(),
                at: *at,
                cpu_per_gb: middle(|run| run.cpu_per_gb),
                memory: middle(|run| run.usage.memory as f64) as u64,
                latency: (middle(|run| run.latency.0), middle(|run| run.latency.1)),
                lost: runs.iter().map(|run| run.lost).sum(),
            });
        }
    }
    Ok(Growth { title: title.to_owned(), axis: axis.to_owned(), points })
}

/// A thousand outputs without media.
pub(crate) fn idle(_: &Plan) -> Result<Row, Failure> {
    const OUTPUTS: usize = 1000;
    let usage = |count: usize| -> Result<Usage, Failure> {
        let receivers: Vec<String> = (0..count).map(|i| format!("127.0.0.1:{}", 20_000 + i)).collect();
        let subject = OURS.start(&[(free_port()?, &receivers)])?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(subject.usage())
    };
    let one = usage(1)?;
    let many = usage(OUTPUTS)?;
    let each = many.memory.saturating_sub(one.memory) as f64 / (OUTPUTS - 1) as f64;
    let figure = |name: &str, usage: Usage| Figure {
        name: name.to_owned(),
        memory: usage.memory,
        threads: usage.threads,
        ..Figure::default()
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
