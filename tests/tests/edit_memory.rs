//! Memory over many changes: outputs and players come and go for a long time in a flow that runs on, as many at the end of
//! each round as at its beginning. What the allocator has handed out stays what it was.
//!
//! `STREAMLINK_ROUNDS=20000 cargo test -p streamlink-tests --test edit_memory -- --nocapture` looks more closely.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Flow, FlowHandle, Output, OutputEdit, Packet, PeerLimits, RtmpKind, Source, StreamKey,
};

/// The bytes that the allocator has handed out.
#[allow(unsafe_code)]
fn heap() -> i64 {
    // SAFETY: it may be called at any time, from any thread.
    let heap = unsafe { libc::mallinfo2() };
    (heap.uordblks + heap.hblkhd) as i64
}

/// The resident memory of the process, in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn key() -> StreamKey {
    StreamKey::new("key").unwrap()
}

/// A flow of one family, whose outputs come and go.
struct Stage {
    flow: FlowHandle,
    is_rtmp: bool,
}

impl Stage {
    fn start(engine: &Engine, is_rtmp: bool) -> Self {
        let source: Source = if is_rtmp { Source::app_rtmp("in").into() } else { Source::app_datagrams("in").into() };
        let flow = Flow::builder(if is_rtmp { "rtmp" } else { "srt" }, Bitrate::mbps(50)).source(source);
        let flow = flow.output(Output::tap("steady")).build().unwrap();
        Self { flow: engine.block_on(engine.start(flow)).unwrap(), is_rtmp }
    }

    fn push(&self, number: usize) {
        let now = Instant::now();
        let packet = if self.is_rtmp {
            Packet::rtmp(RtmpKind::Audio, number as u32, vec![0xaf, 1, 2, 3], now)
        } else {
            Packet::datagram(vec![0x47; 1316], now)
        };
        self.flow.app_source("in").unwrap().push(packet).unwrap();
    }

    fn listener(&self, name: &str) -> Output {
        if self.is_rtmp {
            Output::rtmp_pull(name, "127.0.0.1:0", "live").key(key()).into()
        } else {
            Output::srt_listener(name, "127.0.0.1:0").into()
        }
    }

    fn caller(&self, name: &str) -> Output {
        if self.is_rtmp {
            Output::rtmp_push(name, "rtmp://127.0.0.1:9/live", key()).into()
        } else {
            Output::srt_caller(name, "127.0.0.1:9").into()
        }
    }

    /// Adds, changes and removes outputs of each kind, one of them with a player and a peer that says nonsense.
    fn round(&self, engine: &Engine, number: usize) {
        let [listens, calls, renamed] = ["listens", "calls", "renamed"].map(|what| format!("{what}-{number}"));
        engine.block_on(self.flow.add_output(self.listener(&listens))).unwrap();
        engine.block_on(self.flow.add_output(self.caller(&calls))).unwrap();
        let url = self.flow.playback_urls().pop().unwrap().1;
        let address = url.split("://").nth(1).unwrap().split(['/', '?']).next().unwrap().to_owned();
        if let Ok(mut stream) = TcpStream::connect(&address) {
            let _ = std::io::Write::write_all(&mut stream, &[0x47; 4000]);
        }
        let separator = if url.contains('?') { '&' } else { '?' };
        let source = Source::from_url("in", &format!("{url}{separator}mode=caller"));
        let player = Flow::builder(format!("player-{number}"), Bitrate::mbps(50)).source(source);
        let player = player.output(Output::from_url("tap", "tap:")).build().unwrap();
        let player = engine.block_on(engine.start(player)).unwrap();
        self.wait_for_player(engine, &listens);
        self.push(number);
        self.flow.edit_output(&calls, OutputEdit::new().rename(&renamed).description("renamed")).unwrap();
        engine.block_on(self.flow.replace_output(&renamed, Output::tap(&calls))).unwrap();
        self.flow.set_max_bandwidth(Bitrate::mbps(40 + number as u64 % 20)).unwrap();
        engine.block_on(player.stop());
        for name in [listens, calls] {
            engine.block_on(self.flow.remove_output(&name)).unwrap();
        }
    }

    fn wait_for_player(&self, engine: &Engine, wanted: &str) {
        let connected = async {
            while let Some(event) = self.flow.next_event().await {
                if matches!(&event, Event::OutputConnected { output, peer: Some(_) } if &**output == wanted) {
                    return;
                }
            }
        };
        engine.block_on(async { tokio::time::timeout(Duration::from_secs(20), connected).await }).unwrap();
    }
}

#[test]
fn edits_and_players_leave_no_memory_behind() {
    let rounds = std::env::var("STREAMLINK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(900);
    let limits = PeerLimits::new().connections(10_000).pending(1000).refusals_per_second(10_000);
    let engine = Engine::builder().workers(2).peer_limits(limits).build().unwrap();
    let stages = [true, false].map(|is_rtmp| Stage::start(&engine, is_rtmp));
    let mut samples = Vec::new();
    for round in 0..rounds {
        for stage in &stages {
            stage.round(&engine, round);
        }
        if (round + 1) % (rounds / 30).max(1) == 0 {
            std::thread::sleep(Duration::from_millis(100)); // what ends in the background has ended
            samples.push((heap(), resident()));
        }
    }
    println!("heap in KiB: {:?}", samples.iter().map(|(heap, _)| heap / 1024).collect::<Vec<_>>());
    println!("resident in KiB: {:?}", samples.iter().map(|(_, resident)| resident).collect::<Vec<_>>());
    // The least of each third: what is on its way at the moment of a look does not count.
    let least = |part: &[(i64, i64)]| part.iter().map(|(heap, _)| *heap).min().unwrap();
    let third = samples.len() / 3;
    let before = least(&samples[third..2 * third]);
    let after = least(&samples[2 * third..]);
    let each = (after - before) as f64 / (rounds as f64 / 3.0);
    println!("{each:.1} bytes a round");
    assert!(each < 64.0, "{before} -> {after} bytes, {each:.1} a round");
    for stage in &stages {
        engine.block_on(stage.flow.stop());
    }
}
