//! Failover with two encoders: the active one is killed, and players keep their picture.
//!
//! For each protocol the program starts a flow with two sources, and two encoders (ffmpeg must be installed). When both
//! deliver, it kills the encoder that feeds the flow, as a power cut would, and measures the time without output. Any
//! player can watch it: the URL is printed, and the player stays connected.
//!
//! ```text
//! cargo run --release --example failover -- --seconds 5 rtmp srt
//! ```

use clap::Parser;
use std::{
    error::Error,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, Engine, Event, Failover, Flow, FlowHandle, Output, Source, State};

/// Maximum time to wait for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
#[command(about = "Kills the active one of two encoders, and measures the gap")]
struct Arguments {
    /// Protocols to measure: rtmp, srt, rtp, rtsp; all if none is named
    protocols: Vec<String>,
    /// Seconds that both encoders run before one is killed, and the other one afterwards
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// An encoder process that is killed when this is dropped.
struct Encoder(Child);

impl Encoder {
    /// Starts an encoder with a key frame per second, 25 pictures per second, and sound.
    fn start(picture: &str, url: &str, format: &[&str]) -> Result<Self, Box<dyn Error>> {
        let picture = format!("{picture}=size=640x360:rate=25");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", &picture]);
        command.args(["-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        command.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]);
        command.args(["-g", "25", "-c:a", "aac"]).args(format).arg(url).stdin(Stdio::null());
        let child = command.spawn().map_err(|e| format!("ffmpeg is needed: {e}"))?;
        Ok(Self(child))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Both fail if the process has already ended, which is no fault here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Result of one measurement: the longest time without output, and the gap that the flow reports.
struct Measured {
    silence: Duration,
    reported: Duration,
}

fn flow(protocol: &str) -> Result<Flow, Box<dyn Error>> {
    let any = "127.0.0.1:0";
    let flow = |source: fn(&str) -> Source, output: Output| {
        let builder = Flow::builder(format!("failover-{protocol}"), Bitrate::mbps(20)).source(source("main"));
        builder.backup(source("backup")).failover(Failover::default()).output(output).output(Output::tap("tap")).build()
    };
    Ok(match protocol {
        "rtmp" => flow(
            |name| Source::rtmp(name, "127.0.0.1:0", "live").into(),
            Output::rtmp_pull("players", any, "play").into(),
        ),
        "srt" => {
            flow(|name| Source::srt_listener(name, "127.0.0.1:0").into(), Output::srt_listener("players", any).into())
        }
        "rtsp" => flow(
            |name| Source::rtsp_listener(name, "127.0.0.1:0", name).into(),
            Output::rtsp_listener("players", any, "play").into(),
        ),
        "rtp" => flow(|name| Source::rtp(name, "127.0.0.1:0").into(), Output::rtp("players", "127.0.0.1:5004").into()),
        other => return Err(format!("unknown protocol `{other}`; known are rtmp, srt, rtp, rtsp").into()),
    }?)
}

fn encoder(protocol: &str, picture: &str, url: &str) -> Result<Encoder, Box<dyn Error>> {
    match protocol {
        "rtmp" => Encoder::start(picture, url, &["-f", "flv"]),
        "srt" => Encoder::start(picture, &format!("{url}?mode=caller&pkt_size=1316"), &["-f", "mpegts"]),
        "rtsp" => Encoder::start(picture, url, &["-f", "rtsp", "-rtsp_transport", "tcp"]),
        _ => Encoder::start(picture, &format!("{url}?pkt_size=1328"), &["-f", "rtp_mpegts"]),
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return Err(format!("timed out waiting for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn measure(engine: &Engine, protocol: &str, seconds: u64) -> Result<Measured, Box<dyn Error>> {
    let flow = engine.block_on(engine.start(flow(protocol)?))?;
    let url = flow.playback_urls().first().map_or("rtp://127.0.0.1:5004".to_owned(), |(_, url)| url.clone());
    println!("{protocol}: watch {url}");
    let (sender, arrivals) = mpsc::channel();
    let tap = flow.tap("tap")?.for_each(move |_| {
        let _ = sender.send(Instant::now()); // read until the flow stops
    });
    let urls = flow.input_addresses();
    let mut encoders = vec![encoder(protocol, "testsrc2", &urls[0])?];
    wait_until("the first source", || flow.stats().sources[0].state == State::Connected)?;
    encoders.push(encoder(protocol, "smptehdbars", &urls[1])?);
    wait_until("the second source", || flow.stats().sources[1].state == State::Connected)?;
    std::thread::sleep(Duration::from_secs(seconds));
    drop(encoders.remove(0)); // with SIGKILL
    let reported = switched(engine, &flow)?;
    std::thread::sleep(Duration::from_secs(seconds));
    engine.block_on(flow.stop());
    drop(tap);
    let mut last = None;
    let mut silence = Duration::ZERO;
    loop {
        match arrivals.recv_timeout(Duration::ZERO) {
            Ok(at) => {
                let before = last.replace(at).unwrap_or(at);
                silence = silence.max(at.saturating_duration_since(before));
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Ok(Measured { silence, reported });
            }
        }
    }
}

/// Waits until the backup feeds the flow, and returns the gap that the event reports.
fn switched(engine: &Engine, flow: &FlowHandle) -> Result<Duration, Box<dyn Error>> {
    engine.block_on(async {
        let events = async {
            while let Some(event) = flow.next_event().await {
                println!("  {event}");
                if let Event::Switched { gap, .. } = event {
                    return Ok(gap);
                }
            }
            Err("the flow has stopped".into())
        };
        tokio::time::timeout(PATIENCE, events).await.map_err(|_| "no switch")?
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::parse();
    if arguments.protocols.is_empty() {
        arguments.protocols = ["rtmp", "srt", "rtp", "rtsp"].map(str::to_owned).to_vec();
    }
    let engine = Engine::new()?;
    let mut rows = Vec::new();
    for protocol in &arguments.protocols {
        rows.push((protocol, measure(&engine, protocol, arguments.seconds)?));
    }
    println!("\n{:<9} {:>18} {:>18}", "protocol", "nothing came out", "gap as reported");
    for (protocol, Measured { silence, reported }) in rows {
        println!("{protocol:<9} {:>15} ms {:>15} ms", silence.as_millis(), reported.as_millis());
    }
    Ok(())
}
