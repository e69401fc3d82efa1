//! RTSP beside gst-rtsp-server.

use super::{Failure, Plan, Run, figure, free_port, rtmp};
use std::{
    path::Path,
    process::{Child, Command},
    time::Duration,
};
use streamlink_benches::{
    feed,
    process::Subject,
    receive::{Receivers, Timing},
    report::{Figure, Row, median},
    rtmp::tags,
    rtsp::{self, Players},
};

const PLAYERS: usize = 100;
/// The path of the relay's flow.
const PATH: &str = "live";
/// Time after which a feed, or all players, are settled.
const SETTLED: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy)]
enum Server {
    Ours,
    Gstreamer,
    Floor,
}

/// Transport of the media to the players.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Tcp,
    Datagrams,
    Runs,
}

/// One publisher, 100 players over TCP.
pub(crate) fn tcp(plan: &Plan) -> Result<Row, Failure> {
    let programs = [
        ("streamlink", Server::Ours),
        ("gst-rtsp-server, shared media", Server::Gstreamer),
        ("floor: only the writes", Server::Floor),
    ];
    let (figures, runs, memory) = measure(plan, &programs, Way::Tcp)?;
    let ratio =
        |peer: usize| median(runs[0].iter().zip(&runs[peer]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![
        ("CPU, ratio to gst-rtsp-server".into(), ratio(1), 0.6),
        ("CPU, ratio to the floor".into(), ratio(2), 1.4),
        ("players that got less than the others".into(), figures[0].lost as f64, 0.0),
        ("memory of a player, KiB".into(), memory, 16.0),
    ];
    Ok(Row { title: format!("RTSP over TCP, 6 Mb/s H.264 to {PLAYERS} players"), figures, targets })
}

/// One publisher, 100 players over UDP that take each datagram by itself.
pub(crate) fn udp(plan: &Plan) -> Result<Row, Failure> {
    udp_row(plan, Way::Datagrams)
}

/// One publisher, 100 players over UDP that take runs of datagrams.
pub(crate) fn udp_runs(plan: &Plan) -> Result<Row, Failure> {
    udp_row(plan, Way::Runs)
}

/// Measures the latency of the library, from a publisher over TCP to 100 players over UDP, with the default coalescing:
/// median and 99th percentile, in milliseconds.
fn latency(plan: &Plan) -> Result<(f64, f64), Failure> {
    let port = free_port()?;
    let url = format!("rtsp://127.0.0.1:{port}/live");
    let _subject = rtmp::relay(&[vec![format!("{url}?mode=listener"), format!("{url}?mode=listener")]])?;
    let to = url.clone();
    let time = Duration::from_secs(plan.seconds + 3);
    let feeder = std::thread::spawn(move || rtsp::record_stamped(&to, port, time));
    std::thread::sleep(Duration::from_millis(500)); // the feed has begun
    let receivers = Receivers::start(PLAYERS, Timing::Payload, true)?;
    let ports: Vec<u16> =
        receivers.addresses.iter().filter_map(|address| address.rsplit_once(':')?.1.parse().ok()).collect();
    let players = Players::start(PLAYERS, port, "live", Some(&ports))?;
    feeder.join().map_err(|_| "the feeder failed")??;
    let received = receivers.finish()?;
    players.stop();
    Ok((received.percentile(0.5), received.percentile(0.99)))
}

fn udp_row(plan: &Plan, players: Way) -> Result<Row, Failure> {
    let programs = [("streamlink", Server::Ours), ("gst-rtsp-server, shared media", Server::Gstreamer)];
    let (mut figures, runs, memory) = measure(plan, &programs, players)?;
    figures[0].latency = latency(plan)?;
    let ratio = median(runs[0].iter().zip(&runs[1]).map(|(a, b)| a.cpu_per_gb / b.cpu_per_gb).collect());
    let targets = vec![
        ("CPU, ratio to gst-rtsp-server".into(), ratio, if players == Way::Runs { 0.4 } else { 0.33 }),
        ("packets lost".into(), figures[0].lost as f64, 0.0),
        ("memory of a player, KiB".into(), memory, 16.0),
        ("added latency p99, ms".into(), figures[0].latency.1, 5.0),
    ];
    let how = if players == Way::Runs { "take runs (UDP_GRO)" } else { "take each datagram by itself" };
    Ok(Row { title: format!("RTSP over UDP, 6 Mb/s H.264 to {PLAYERS} players, which {how}"), figures, targets })
}

type Measured = (Vec<Figure>, Vec<Vec<Run>>, f64);

fn measure(plan: &Plan, programs: &[(&str, Server)], players: Way) -> Result<Measured, Failure> {
    let media = feed::make_media(plan.folder.path(), plan.seconds)?;
    let video = rtsp::video(&media)?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
    let mut memory = Vec::new();
    for run in 0..plan.runs {
        for (i, (name, server)) in programs.iter().enumerate() {
            eprintln!("run {} of {}: {name}", run + 1, plan.runs);
            runs[i].push(one_run(plan, *server, &video, players)?);
        }
        eprintln!("run {} of {}: streamlink, without players", run + 1, plan.runs);
        let more = runs[0][run].usage.memory.saturating_sub(memory_without_players(plan, &video)?);
        memory.push(more as f64 / PLAYERS as f64 / 1024.0);
    }
    let figures = programs.iter().zip(&runs).map(|((name, _), runs)| figure(name, runs)).collect();
    Ok((figures, runs, median(memory)))
}

/// Starts the relay at a port, and a program that records to it.
fn recorded(port: u16, video: &Path) -> Result<(Subject, Child), Failure> {
    let url = format!("rtsp://127.0.0.1:{port}/{PATH}");
    let subject = rtmp::relay(&[vec![format!("{url}?mode=listener"), format!("{url}?mode=listener")]])?;
    let feeder = rtsp::record_with_ffmpeg(video, &url)?;
    Ok((subject, feeder))
}

/// Measures the relay's memory for the flow alone, after the same time as with players: the last group of pictures, in
/// the heap of each thread that has handled some of it.
fn memory_without_players(plan: &Plan, video: &Path) -> Result<u64, Failure> {
    let (subject, mut feeder) = recorded(free_port()?, video)?;
    std::thread::sleep(2 * SETTLED + Duration::from_secs(plan.seconds));
    let memory = subject.usage().memory;
    feeder.kill()?;
    feeder.wait()?;
    Ok(memory)
}

fn one_run(plan: &Plan, server: Server, video: &Path, kind: Way) -> Result<Run, Failure> {
    let port = free_port()?;
    let input = free_port()?;
    if matches!(server, Server::Floor) {
        return floor(plan, port, video);
    }
    let (subject, mut feeder) = match server {
        Server::Ours => recorded(port, video)?,
        _ => {
            let subject = Subject::start(&mut rtsp::gst_rtsp_server(port, input, plan.folder.path())?, true)?;
            (subject, rtsp::send_rtp_with_ffmpeg(video, input)?)
        }
    };
    std::thread::sleep(SETTLED); // the feed has begun
    let alone = subject.usage();
    let receivers = match kind {
        Way::Tcp => None,
        Way::Datagrams | Way::Runs => Some(Receivers::start(PLAYERS, Timing::None, kind == Way::Runs)?),
    };
    let ports: Option<Vec<u16>> = receivers
        .as_ref()
        .map(|receivers| receivers.addresses.iter().filter_map(|a| a.rsplit_once(':')?.1.parse().ok()).collect());
    let players = Players::start(PLAYERS, port, PATH, ports.as_deref());
    let players = players.inspect_err(|_| drop(feeder.kill()))?;
    std::thread::sleep(SETTLED); // all play, and their first burst is over
    let before = subject.usage();
    let got_before = players.bytes();
    let seconds = Duration::from_secs(plan.seconds);
    std::thread::sleep(seconds);
    let after = subject.usage();
    let got_after = players.bytes();
    let _ = feeder.kill();
    let _ = feeder.wait();
    std::thread::sleep(Duration::from_millis(300));
    let total = subject.usage();
    drop(subject);
    players.stop();
    let each: Vec<u64> = got_after.iter().zip(&got_before).map(|(a, b)| a - b).collect();
    let most = each.iter().max().copied().unwrap_or(0);
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    Ok(match receivers {
        None => Run {
            cpu_per_gb: cpu / (each.iter().sum::<u64>() as f64 / 1e9),
            lost: each.iter().filter(|bytes| **bytes * 100 < most * 95).count() as u64,
            latency: (0.0, 0.0),
            usage: after,
        },
        Some(receivers) => {
            // All bytes are counted against the whole time.
            let received = receivers.finish()?;
            let cpu = total.cpu.saturating_sub(alone.cpu).as_secs_f64();
            Run {
                cpu_per_gb: cpu / (received.bytes as f64 / 1e9),
                lost: received.missing,
                latency: (0.0, 0.0),
                usage: after,
            }
        }
    })
}

/// Runs a program that only writes the same bytes at their time.
fn floor(plan: &Plan, port: u16, video: &Path) -> Result<Run, Failure> {
    let (file, messages) = tags(video, &["-c", "copy"])?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor-writes"));
    command.args([port.to_string(), PLAYERS.to_string(), "0".to_owned()]).arg(file);
    let subject = Subject::start(&mut command, true)?;
    let players = streamlink_benches::rtmp::Watchers::start(PLAYERS, port, "KEY")?;
    let before = subject.usage();
    std::thread::sleep(Duration::from_secs(plan.seconds + 3));
    let after = subject.usage();
    let each = players.bytes();
    drop(subject);
    players.stop();
    let whole: u64 = messages.iter().map(|tag| tag.body.len() as u64).sum();
    Ok(Run {
        cpu_per_gb: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (each.iter().sum::<u64>() as f64 / 1e9),
        lost: each.iter().filter(|bytes| **bytes * 100 < whole * 99).count() as u64,
        latency: (0.0, 0.0),
        usage: after,
    })
}
