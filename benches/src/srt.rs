//! SRT players and senders for the harness: the library's own, in the harness's process, so that every program
//! under test has the same ones.

use std::{
    io::{Error, Result},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Bitrate, Engine, Event, Flow, FlowHandle, Output, Packet, Source, TapCallback};

/// SRT callers that fetch and count.
pub struct Players {
    engine: Engine,
    players: Vec<(FlowHandle, TapCallback)>,
    bytes: Arc<Vec<AtomicU64>>,
}

/// The result of all players together.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// Bytes of payload.
    pub bytes: u64,
    /// Packets dropped by a player, or that one got fewer of than another.
    pub lost: u64,
}

/// Payloads of MPEG-TS that follow one another, the first after the last again: seven packets of one elementary stream
/// each. Without an elementary stream, a source that takes them is lost after its idle timeout.
fn payloads() -> Vec<bytes::Bytes> {
    let payload = |number: u8| {
        let mut payload = vec![0xff; 1316];
        for (at, packet) in payload.chunks_exact_mut(188).enumerate() {
            let counter = number.wrapping_mul(7).wrapping_add(at as u8) & 15;
            packet[..4].copy_from_slice(&[0x47, 1, 0, 0x10 | counter]);
        }
        bytes::Bytes::from(payload)
    };
    (0..16).map(payload).collect()
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::other(error.to_string())
}

impl Players {
    /// Starts `count` callers of a URL, and waits until the system under test has accepted them all (which shows when
    /// media arrives; here, when none is still calling).
    ///
    /// # Errors
    /// When a flow cannot be started.
    pub fn start(count: usize, url: &str) -> Result<Self> {
        let engine = Engine::new().map_err(failed)?;
        let bytes: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let mut players = Vec::new();
        for i in 0..count {
            let source = Source::from_url("in", url).set("reconnect_min", "100").set("reconnect_max", "1000");
            let flow = Flow::builder(format!("player-{i}"), Bitrate::mbps(10_000)).source(source);
            let flow = flow.output(Output::from_url("tap", "tap:")).build().map_err(failed)?;
            let running = engine.block_on(engine.start(flow)).map_err(failed)?;
            let counts = bytes.clone();
            let tap = running.tap("tap").map_err(failed)?;
            let calls = tap.for_each(move |packet| {
                counts[i].fetch_add(packet.data().len() as u64, Relaxed);
            });
            players.push((running, calls));
        }
        Ok(Self { engine, players, bytes })
    }

    /// Number of players that have received something.
    pub fn playing(&self) -> usize {
        self.bytes.iter().filter(|bytes| bytes.load(Relaxed) > 0).count()
    }

    /// Returns the result so far.
    pub fn played(&self) -> Played {
        let each: Vec<u64> = self.bytes.iter().map(|b| b.load(Relaxed)).collect();
        let most = each.iter().max().copied().unwrap_or(0);
        // A player that had joined as late as the others has as much, but for what is under way.
        let short = each.iter().map(|b| (most - b) / 1316).filter(|packets| *packets > 100).sum::<u64>();
        let given_up: u64 = self.players.iter().map(|(running, _)| running.stats().sources[0].lost).sum();
        Played { bytes: each.iter().sum(), lost: short + given_up }
    }

    /// Ends them.
    pub fn stop(self) {
        let Self { engine, players, .. } = self;
        for (running, _calls) in players {
            engine.block_on(running.stop());
        }
    }
}

/// A caller that pushes at a steady rate.
pub struct Pusher {
    engine: Engine,
    running: FlowHandle,
    source: AppSource,
    /// Bytes pushed.
    pushed: Mutex<u64>,
}

impl Pusher {
    /// Calls a URL, and waits until it is connected.
    ///
    /// # Errors
    /// When the flow cannot be started.
    pub fn connect(url: &str) -> Result<Self> {
        let engine = Engine::new().map_err(failed)?;
        let output = Output::from_url("out", url).set("reconnect_min", "100").set("reconnect_max", "1000");
        let flow = Flow::builder("pusher", Bitrate::mbps(10_000)).source(Source::from_url("in", "app://datagrams"));
        let running = engine.block_on(engine.start(flow.output(output).build().map_err(failed)?)).map_err(failed)?;
        engine.block_on(async {
            while let Some(event) = running.next_event().await {
                if matches!(event, Event::OutputConnected { .. }) {
                    break;
                }
            }
        });
        let source = running.app_source("in").map_err(failed)?;
        Ok(Self { engine, running, source, pushed: Mutex::new(0) })
    }

    /// Pushes at a rate for some time, a millisecond's worth at once.
    ///
    /// # Errors
    /// When the flow refuses.
    pub fn push(&self, bits_per_second: u64, time: Duration) -> Result<()> {
        let payloads = payloads();
        let mut next = payloads.iter().cycle();
        let start = Instant::now();
        let mut sent = 0u64;
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * bits_per_second as f64 / 8.0) as u64;
            let count = due.saturating_sub(sent) / 1316;
            let now = Instant::now();
            let due = next.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.push_all(due.map(|payload| Packet::datagram(payload.clone(), now))).map_err(failed)?;
            sent += count * 1316;
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Ok(mut pushed) = self.pushed.lock() {
            *pushed += sent;
        }
        Ok(())
    }

    /// Pushes media at a rate, in datagrams of seven transport packets, to its end; everything of a picture at 25 a
    /// second comes at once, as encoders send it.
    pub fn play(&self, media: &[u8], bits_per_second: u64) {
        let start = Instant::now();
        let mut sent = 0u64;
        for payload in media.chunks(1316) {
            let picture = sent * 8 * 25 / bits_per_second;
            std::thread::sleep(Duration::from_millis(40 * picture).saturating_sub(start.elapsed()));
            // A failure shows in what arrives.
            let _ = self.source.push(Packet::datagram(payload.to_vec(), Instant::now()));
            sent += payload.len() as u64;
        }
    }

    /// Pushes media at a rate, in datagrams of seven transport packets, to its end; one at a time and evenly, as hardware
    /// encoders and multiplexers send it.
    pub fn play_evenly(&self, media: &[u8], bits_per_second: u64) {
        let start = Instant::now();
        let mut sent = 0u64;
        for payload in media.chunks(1316) {
            let due = Duration::from_nanos(sent * 8_000_000_000 / bits_per_second);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            // A failure shows in what arrives.
            let _ = self.source.push(Packet::datagram(payload.to_vec(), Instant::now()));
            sent += payload.len() as u64;
        }
    }

    /// Number of bytes pushed.
    pub fn pushed(&self) -> u64 {
        self.pushed.lock().map_or(0, |pushed| *pushed)
    }

    /// Ends it.
    pub fn stop(self) {
        self.engine.block_on(self.running.stop());
    }
}
