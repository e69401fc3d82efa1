//! Chaos and soak test: flows of all protocols run in this process, while at random peers are killed and frozen, links
//! interrupted, and settings changed. Afterwards the flows run, the outputs that were left alone have lost nothing, and
//! file descriptors and memory are as before.
//!
//! `STREAMLINK_CHAOS_SECONDS=36000 cargo test -p streamlink-tests --test chaos -- --nocapture` is a soak of ten hours.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Failover, Flow, FlowHandle, Output, OutputEdit, PeerLimits, Source, SourceEdit, State,
    StreamKey, TapCallback,
};
use streamlink_tests::{
    clip, eventually,
    lossy::Lossy,
    media::{make, play},
    peer::Peer,
    rig::text,
    rtp::{Sender, Sink, packet, payload, sequence},
    test_rng::TestRng,
};

/// Of the files of this process, how many are open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The memory of this process, in KiB: what it has, and what of it the allocator has handed out. The former grows until
/// every page of the receive buffers, which are there from the start, was written to once.
#[allow(unsafe_code)]
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    // SAFETY: it may be called at any time, from any thread.
    let heap = unsafe { libc::mallinfo2() };
    (line.trim().trim_end_matches(" kB").parse().unwrap(), (heap.uordblks + heap.hblkhd) as u64 / 1024)
}

/// Maximum number of outputs of a flow that have come and not yet gone. Without it their number grows with the square root
/// of the time, and with it the memory that they need: each SRT listener has buffers of 2 MiB.
const MAX_ADDED: usize = 4;

fn key(text: &str) -> StreamKey {
    StreamKey::new(text).unwrap()
}

fn start(engine: &Engine, name: &str, sources: [Source; 2], outputs: Vec<Output>) -> FlowHandle {
    let [first, backup] = sources;
    let mut flow = Flow::builder(name, Bitrate::mbps(50)).source(first).backup(backup).failover(Failover::default());
    for output in outputs {
        flow = flow.output(output);
    }
    engine.block_on(engine.start(flow.build().unwrap())).unwrap()
}

/// A flow with its two encoders, a tap that nobody touches, and players that come and go.
struct Stage {
    family: &'static str,
    flow: FlowHandle,
    inputs: Vec<String>,
    encoders: Vec<Option<Peer>>,
    players: Vec<Peer>,
    /// Gets all that comes, and is never touched.
    _steady: TapCallback,
    steady_packets: Arc<AtomicU64>,
    added: Vec<String>,
}

impl Stage {
    fn encoder(&self, number: usize, clips: &BTreeMap<&str, &Path>) -> Peer {
        let url = &self.inputs[number];
        let (format, url): (&[&str], String) = match self.family {
            "rtmp" => (&["-f", "flv"], url.clone()),
            "srt" => (&["-f", "mpegts"], format!("{url}?mode=caller&pkt_size=1316")),
            _ => (&["-f", "rtsp", "-rtsp_transport", "tcp"], url.clone()),
        };
        play(clips[self.family], &[&["-map", "0", "-c", "copy"], format, &[&url]].concat())
    }

    /// A player of one of the outputs that listen.
    fn player(&self, dice: &mut TestRng, dark: &Lossy) -> Peer {
        let urls = self.flow.playback_urls();
        let url = &urls[dice.below(urls.len())].1;
        match self.family {
            "rtmp" => Peer::start("rtmpdump", &["-q", "--live", "-r", url, "-o", "/dev/null"]),
            "srt" if dice.below(3) == 0 => {
                Peer::start("srt-live-transmit", &["-q", &format!("srt://{}", dark.address), "file://con"])
            }
            "srt" => Peer::start("srt-live-transmit", &["-q", url, "file://con"]),
            _ => Peer::start(
                "ffmpeg",
                &[
                    "-v",
                    "quiet",
                    "-nostdin",
                    "-rtsp_transport",
                    "tcp",
                    "-i",
                    url,
                    "-c",
                    "copy",
                    "-map",
                    "0",
                    "-f",
                    "null",
                    "-",
                ],
            ),
        }
    }

    /// An output that comes and goes, of a kind that the family allows.
    fn extra(&self, name: &str, dice: &mut TestRng, sink: &Sink) -> Output {
        let nowhere = "127.0.0.1:9";
        match (self.family, dice.below(3)) {
            ("rtmp", 0) => Output::rtmp_pull(name, "127.0.0.1:0", "extra").into(),
            ("rtmp", 1) => Output::rtmp_push(name, &format!("rtmp://{nowhere}/live"), key("K")).into(),
            ("srt", 0) => Output::srt_listener(name, "127.0.0.1:0").into(),
            ("srt", 1) => Output::srt_caller(name, &sink.address()).into(),
            ("rtsp", 0) => Output::rtsp_listener(name, "127.0.0.1:0", "extra").into(),
            ("rtsp", 1) => Output::rtsp_caller(name, &format!("rtsp://{nowhere}/cam")).into(),
            _ => Output::tap(name).into(),
        }
    }

    /// Changes something by dice; returns how many changes that were.
    fn edit(&mut self, engine: &Engine, dice: &mut TestRng, sink: &Sink, count: usize) -> usize {
        let name = format!("extra-{count}");
        match dice.below(8) {
            0 | 1 if self.added.len() < MAX_ADDED => {
                let output = self.extra(&name, dice, sink);
                engine.block_on(self.flow.add_output(output)).unwrap();
                self.added.push(name);
            }
            0..=3 if !self.added.is_empty() => {
                let gone = self.added.swap_remove(dice.below(self.added.len()));
                engine.block_on(self.flow.remove_output(&gone)).unwrap();
            }
            4 if !self.added.is_empty() => {
                let at = dice.below(self.added.len());
                let output = self.extra(&name, dice, sink);
                engine.block_on(self.flow.replace_output(&self.added[at], output)).unwrap();
                self.added[at] = name;
            }
            5 if !self.added.is_empty() => {
                let at = dice.below(self.added.len());
                let edit = OutputEdit::new().rename(&name).description("renamed");
                self.flow.edit_output(&self.added[at], edit).unwrap();
                self.added[at] = name;
            }
            6 => {
                // Players are put out, and may come again.
                let out = OutputEdit::new().allow("192.0.2.0/24".parse().unwrap()).max_players(7);
                let back = OutputEdit::new().allow("127.0.0.0/8;::1".parse().unwrap());
                self.flow.edit_output("players", out).unwrap();
                self.flow.edit_output("players", back).unwrap();
                return 2;
            }
            _ => {
                let rate = Bitrate::mbps(40 + dice.below(20) as u64);
                self.flow.set_max_bandwidth(rate).unwrap();
                let edit = SourceEdit::new().description(&name).allow("127.0.0.0/8".parse().unwrap());
                self.flow.edit_source(["one", "two"][dice.below(2)], edit).unwrap();
                return 2;
            }
        }
        1
    }

    /// Both encoders run for a while, and nobody plays: so what the flow keeps for players that are still to come is
    /// the same each time.
    fn settle(&mut self, engine: &Engine, clips: &BTreeMap<&str, &Path>) {
        for name in std::mem::take(&mut self.added) {
            engine.block_on(self.flow.remove_output(&name)).unwrap();
        }
        self.players.clear();
        for number in 0..2 {
            self.encoders[number] = None;
            eventually("a source without its encoder", || {
                (self.flow.stats().sources[number].state == State::Waiting).then_some(())
            });
            self.encoders[number] = Some(self.encoder(number, clips));
        }
        let before = self.flow.stats();
        eventually("media from both", || {
            let now = self.flow.stats();
            let more = now.sources.iter().zip(&before.sources).all(|(now, then)| now.packets > then.packets + 300);
            more.then_some(())
        });
        for encoder in &mut self.encoders {
            *encoder = None;
        }
        eventually("all peers are gone", || {
            let stats = self.flow.stats();
            let quiet = stats.sources.iter().all(|s| s.state == State::Waiting)
                && stats.outputs.iter().all(|o| o.players.is_empty());
            quiet.then_some(())
        });
    }

    /// Checks that the endpoints that were never touched have lost nothing, and are connected.
    fn check(&self) {
        let stats = self.flow.stats();
        let steady = stats.outputs.iter().find(|o| o.name == "steady").unwrap();
        assert_eq!((steady.dropped, steady.state), (0, State::Connected), "{}: {steady:?}", self.family);
        let players = stats.outputs.iter().find(|o| o.name == "players").unwrap();
        assert_ne!(players.state, State::Failed, "{}", self.family);
    }
}

/// A flow of RTP that nobody touches: what goes in comes out, every packet, in order.
struct Calm {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Calm {
    fn start(input: &str, sink: Sink) -> Self {
        let (stop, received, sent) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let sender = Sender::to(input);
        let threads = vec![
            std::thread::spawn({
                let stop = stop.clone();
                let sent = sent.clone();
                move || {
                    while !stop.load(Relaxed) {
                        let number = sent.load(Relaxed) as u16;
                        sender.send(&packet(96, number, u32::from(number) * 90, 7, &payload(number)));
                        sent.fetch_add(1, Relaxed);
                        std::thread::sleep(Duration::from_millis(2)); // the pace of a feed
                    }
                }
            }),
            std::thread::spawn({
                let stop = stop.clone();
                let received = received.clone();
                move || {
                    loop {
                        match sink.within(Duration::from_millis(500)) {
                            Some(datagram) => {
                                let expected = received.fetch_add(1, Relaxed) as u16;
                                assert_eq!(sequence(&datagram), expected, "the calm flow has lost a packet");
                            }
                            None if stop.load(Relaxed) => return,
                            None => {}
                        }
                    }
                }
            }),
        ];
        Self { stop, threads, received, sent }
    }

    fn finish(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("nothing is lost");
        }
        assert_eq!(self.received.load(Relaxed), self.sent.load(Relaxed));
        assert!(self.received.load(Relaxed) > 1000);
    }
}

#[test]
fn chaos_leaves_untouched_outputs_and_resources_intact() {
    let seconds = std::env::var("STREAMLINK_CHAOS_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().unwrap();
    let mp4 = folder.path().join("clip.mp4");
    let ts = folder.path().join("clip.ts");
    // Long enough that encoders are killed before they end.
    let long = ["-map", "0", "-c:v", "copy", "-c:a", "aac", "-af", "aresample=async=1"];
    streamlink_tests::peer::run(
        "ffmpeg",
        &[&["-v", "error", "-nostdin", "-stream_loop", "23", "-i", text(&clip())], &long[..], &[text(&ts)]].concat(),
    );
    make(&ts, &["-map", "0", "-c", "copy", "-bsf:a", "aac_adtstoasc"], &mp4);
    let clips = BTreeMap::from([("rtmp", ts.as_path()), ("srt", ts.as_path()), ("rtsp", mp4.as_path())]);

    // All peers are at one address, those that say nonsense and those that are meant to come through.
    let limits = PeerLimits::new().connections(10_000).pending(1000).refusals_per_second(10_000);
    let engine = Engine::builder().workers(2).peer_limits(limits).build().unwrap();
    let calm_sink = Sink::new();
    let calm_flow = Flow::builder("calm", Bitrate::mbps(50))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &calm_sink.address()))
        .build()
        .unwrap();
    let calm_flow = engine.block_on(engine.start(calm_flow)).unwrap();
    let calm = Calm::start(&calm_flow.input_addresses()[0], calm_sink);
    let any = "127.0.0.1:0";
    let steady = || -> Output { Output::tap("steady").into() };
    let flows = [
        start(
            &engine,
            "rtmp",
            ["one", "two"].map(|name| Source::rtmp(name, any, "live").key(key(name)).into()),
            vec![steady(), Output::rtmp_pull("players", any, "play").into()],
        ),
        start(
            &engine,
            "srt",
            ["one", "two"].map(|name| Source::srt_listener(name, any).into()),
            vec![steady(), Output::srt_listener("players", any).into()],
        ),
        start(
            &engine,
            "rtsp",
            ["one", "two"].map(|name| Source::rtsp_listener(name, any, name).into()),
            vec![steady(), Output::rtsp_listener("players", any, "play").into()],
        ),
    ];
    let mut stages: Vec<Stage> = flows
        .into_iter()
        .zip(["rtmp", "srt", "rtsp"])
        .map(|(flow, family)| {
            let inputs = flow.input_addresses();
            let steady_packets = Arc::new(AtomicU64::new(0));
            let counter = steady_packets.clone();
            let _steady = flow.tap("steady").unwrap().for_each(move |_| {
                counter.fetch_add(1, Relaxed);
            });
            let encoders = vec![None, None];
            Stage { family, flow, inputs, encoders, players: Vec::new(), _steady, steady_packets, added: Vec::new() }
        })
        .collect();
    // SRT players may come over a link that goes dark.
    let srt_url = stages[1].flow.playback_urls()[0].1.clone();
    let dark = Lossy::to(srt_url.trim_start_matches("srt://").parse().unwrap(), 1);
    let sink = Sink::new();

    let mut dice = TestRng(0x0c4a_05ed);
    let mut edits = 0;
    let mut killed = 0;
    let mut frozen = 0;
    let mut switches = 0;
    let mut kicked = 0;
    let mut turns = 0u64;
    let mut begun = Instant::now();
    let warm = Duration::from_secs(seconds / 4);
    let whole = Duration::from_secs(seconds);
    let mut idle: Vec<TcpStream> = Vec::new();
    let mut before: Option<(usize, (u64, u64))> = None;
    // Time, heap, and the outputs that have come and not yet gone.
    let mut samples: Vec<(f64, u64)> = Vec::new();
    let mut added: Vec<usize> = Vec::new();
    loop {
        // A busy machine may take longer to do as much.
        let enough = (edits >= 200 && killed >= 100) || seconds < 60 || begun.elapsed() >= 2 * whole;
        let over = begun.elapsed() >= whole && enough;
        if over || (before.is_none() && begun.elapsed() >= warm) {
            // All is calm for a moment: what is in use now is what the flows need.
            idle.clear();
            dark.black_out(false);
            let settling = Instant::now();
            for stage in &mut stages {
                stage.settle(&engine, &clips);
            }
            begun += settling.elapsed(); // that was no chaos
            let now = (descriptors(), memory());
            match before {
                Some((files, (rss, heap))) => {
                    println!(
                        "{turns} turns: {edits} edits, {killed} killed, {frozen} frozen or woken, {kicked} kicked, {switches} switches"
                    );
                    println!(
                        "heap in KiB, every 50 turns: {:?}",
                        samples.iter().map(|(_, kib)| *kib).collect::<Vec<_>>()
                    );
                    println!("outputs that have come and not yet gone: {added:?}");
                    println!(
                        "slope after the first quarter: {:.1} KiB a minute",
                        slope(&samples[samples.len() / 4..]) * 60.0
                    );
                    let (files_now, (rss_now, heap_now)) = now;
                    println!(
                        "descriptors {files} -> {files_now}, memory {rss} -> {rss_now} KiB, of it heap {heap} -> {heap_now}"
                    );
                    assert!(files_now <= files, "{files} -> {files_now} descriptors");
                    assert!(heap_now <= heap + heap / 20, "{heap} -> {heap_now} KiB");
                }
                None => before = Some(now),
            }
            if over {
                break;
            }
        }
        turns += 1;
        let at = dice.below(stages.len());
        match dice.below(13) {
            // Encoders: both run most of the time.
            0..=2 => {
                let number = dice.below(2);
                let stage = &mut stages[at];
                match &stage.encoders[number] {
                    Some(encoder) if dice.below(3) == 0 => {
                        encoder.signal(libc::SIGKILL);
                        stage.encoders[number] = None;
                        killed += 1;
                    }
                    Some(encoder) if dice.below(3) == 0 => {
                        encoder.signal(libc::SIGSTOP);
                        frozen += 1;
                    }
                    Some(encoder) => encoder.signal(libc::SIGCONT),
                    None => stage.encoders[number] = Some(stage.encoder(number, &clips)),
                }
            }
            // Players.
            3..=6 => {
                let stage = &mut stages[at];
                if stage.players.len() < 3 {
                    let player = stage.player(&mut dice, &dark);
                    stage.players.push(player);
                } else {
                    let player = stage.players.swap_remove(dice.below(3));
                    player.signal(libc::SIGKILL);
                    killed += 1;
                }
            }
            7 => {
                let stage = &stages[at];
                if let Some(player) = stage.players.first() {
                    player.signal([libc::SIGSTOP, libc::SIGCONT][dice.below(2)]);
                    frozen += 1;
                }
                let stats = stage.flow.stats();
                let output = stats.outputs.iter().find(|o| o.name == "players").unwrap();
                if let Some(player) = output.players.first() {
                    // It may be gone by now.
                    kicked += usize::from(engine.block_on(stage.flow.kick_player("players", player.peer)).is_ok());
                }
            }
            // Connections that say nothing, or nonsense.
            8 => {
                let url = &stages[[0, 2][dice.below(2)]].inputs[0];
                let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
                let address: SocketAddr = address.parse().unwrap();
                if let Ok(mut stream) = TcpStream::connect(address) {
                    if dice.below(2) == 0 {
                        let _ = std::io::Write::write_all(&mut stream, &[0x47; 4000]);
                    }
                    idle.push(stream);
                }
                if idle.len() > 8 {
                    idle.clear();
                }
            }
            9 => dark.black_out(dice.below(2) == 0),
            _ => edits += stages[at].edit(&engine, &mut dice, &sink, turns as usize),
        }
        for stage in &mut stages {
            stage.check();
            let next = || async { tokio::time::timeout(Duration::ZERO, stage.flow.next_event()).await };
            while let Ok(Some(event)) = engine.block_on(async { next().await }) {
                match event {
                    Event::Switched { .. } => switches += 1,
                    Event::OutputLost { output, .. } => assert_ne!(output, "steady"),
                    _ => {}
                }
            }
        }
        if turns.is_multiple_of(50) {
            samples.push((begun.elapsed().as_secs_f64(), memory().1));
            added.push(stages.iter().map(|stage| stage.added.len()).sum());
        }
        std::thread::sleep(Duration::from_millis(40 + dice.below(60) as u64)); // the pace of chaos
    }

    if seconds >= 60 {
        assert!(edits >= 200 && killed >= 100 && switches > 0 && kicked > 0, "{edits} {killed} {switches} {kicked}");
    }
    // All counters add up: what the taps were handed is what was counted, and everything still works.
    for stage in &mut stages {
        stage.encoders[0] = Some(stage.encoder(0, &clips));
        let before = stage.steady_packets.load(Relaxed);
        eventually("media again", || (stage.steady_packets.load(Relaxed) > before + 50).then_some(()));
        stage.encoders.clear();
        engine.block_on(stage.flow.stop());
        let stats = stage.flow.stats();
        let steady = stats.outputs.iter().find(|o| o.name == "steady").unwrap();
        assert_eq!((steady.packets, steady.dropped), (stage.steady_packets.load(Relaxed), 0), "{}", stage.family);
        assert!(stats.sources.iter().map(|source| source.packets).sum::<u64>() >= steady.packets);
    }
    calm.finish();
    let stats = calm_flow.stats();
    assert_eq!((stats.sources[0].lost, stats.outputs[0].dropped), (0, 0));
    assert_eq!(stats.sources[0].packets, stats.outputs[0].packets);
    engine.block_on(calm_flow.stop());
    drop(dark);
}

/// The slope of a line through points (least squares).
fn slope(points: &[(f64, u64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 as f64 / count));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 as f64 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}
