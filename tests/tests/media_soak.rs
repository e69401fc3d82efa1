//! Media soak: encoders restart, loop, change their PIDs and codecs, fall silent and fail over at random, while flows of
//! SRT (remultiplexed to RTMP), RTMP and RTSP run in this process. The outputs stay decodable, their times never go
//! back, sound stays with the pictures, and each second without media is explained by an event.
//!
//! `STREAMLINK_SOAK_SECONDS=3600 cargo test -p streamlink-tests --test media_soak -- --nocapture` is a soak of an hour.
//! `STREAMLINK_SOAK_SEED` sets the seed, which is printed.

use bytes::Bytes;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Failover, Flow, FlowHandle, Output, Packet, RtmpKind, Source, StreamKey, TapCallback,
};
use streamlink_tests::{
    eventually,
    media::{make, play},
    peer,
    rig::text,
    test_rng::TestRng,
};

/// Seconds without media that need an explanation.
const GAP: Duration = Duration::from_secs(1);
/// Maximum time from the first media of an encoder, while nothing disturbs it, to media at the outputs: a wait for a
/// random access point, after a failover.
const RECOVERY: Duration = Duration::from_secs(6);
/// Maximum time between a gap and an event that explains it.
const NEARNESS: Duration = Duration::from_secs(2);
/// Distance in milliseconds of a picture from the sound before it that is more than clips are interleaved by.
const FAR_APART: u32 = 1000;
/// Time in milliseconds for which pictures may be so far from the sound, as before the first of either after a failover.
const LONG_APART: u32 = 5000;

/// Period in which an encoder sent media without a change.
#[derive(Clone, Copy, Debug)]
struct Period {
    from: Instant,
    to: Instant,
}

type Periods = Arc<Mutex<Vec<Period>>>;

/// Clips of twenty seconds that differ in what an encoder may change, for MPEG-TS and for RTMP and RTSP.
fn clips(folder: &Path) -> Vec<PathBuf> {
    let variants: [&[&str]; 6] = [
        &["-c:v", "libx264", "-g", "25", "-bf", "2", "-c:a", "aac"],
        &["-c:v", "libx264", "-g", "50", "-bf", "0", "-c:a", "aac", "-mpegts_start_pid", "0x180"],
        &["-c:v", "libx264", "-g", "25", "-c:a", "aac", "-ar", "44100", "-mpegts_pmt_start_pid", "0x200"],
        &["-c:v", "libx264", "-g", "25", "-s", "320x240", "-c:a", "aac", "-ac", "1", "-mpegts_service_id", "7"],
        &["-c:v", "libx264", "-g", "25", "-c:a", "aac", "-output_ts_offset", "95430"],
        &["-c:v", "libx264", "-g", "25", "-c:a", "aac", "-output_ts_offset", "7", "-streamid", "0:80"],
    ];
    let mut made = Vec::new();
    for (number, arguments) in variants.iter().enumerate() {
        let to = folder.join(format!("variant-{number}.ts"));
        let common =
            ["-t", "20", "-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "400k", "-pix_fmt", "yuv420p"];
        // A PES packet for each frame of sound; else ffmpeg collects it for 0.7 s, so that sound between two clips is
        // missing for longer than a second, by no fault of the flow.
        let sound = ["-pes_payload_size", "0"];
        // Generated without a break: a clip that is looped has a second without media at each end of it.
        let mut all = vec!["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25"];
        all.extend(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        let to_text = to.clone();
        all.extend(common);
        all.extend(*arguments);
        all.extend(sound);
        all.push(text(&to_text));
        peer::run("ffmpeg", &all);
        made.push(to);
    }
    made
}

/// Notes the periods in which this process stood still, as on a machine that has more to do than it can.
fn watch_stalls(stop: &AtomicBool) -> Vec<Period> {
    const STEP: Duration = Duration::from_millis(20);
    let mut stalls = Vec::new();
    while !stop.load(Relaxed) {
        let from = Instant::now();
        thread::sleep(STEP); // as often as the machine is asked for a turn
        let to = Instant::now();
        if to - from > STEP + Duration::from_millis(100) {
            stalls.push(Period { from, to });
        }
    }
    stalls
}

/// Returns for how long the process stood still in a period.
fn stalled(stalls: &[Period], period: &Period) -> Duration {
    stalls.iter().map(|stall| stall.to.min(period.to).saturating_duration_since(stall.from.max(period.from))).sum()
}

/// Returns the program clock reference of a TS packet, in microseconds.
fn pcr(packet: &[u8]) -> Option<u64> {
    let has_pcr = packet[3] & 0x20 != 0 && packet[4] >= 7 && packet[5] & 0x10 != 0;
    let base = packet[6..11].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)) >> 7;
    has_pcr.then_some(base * 100 / 9)
}

/// An SRT encoder: sends clips in real time, and does by dice what encoders do.
fn encode_srt(
    url: &str,
    clips: &[Vec<u8>],
    mut dice: TestRng,
    stop: &AtomicBool,
    sent: &Mutex<Vec<Period>>,
    log: &Mutex<Vec<String>>,
) {
    let engine = Engine::builder().workers(1).build().unwrap();
    let begun = Instant::now();
    let mut session: Option<FlowHandle> = None;
    while !stop.load(Relaxed) {
        let flow = session.take().unwrap_or_else(|| {
            let remote = url.trim_start_matches("srt://");
            let flow = Flow::builder("encoder", Bitrate::mbps(20))
                .source(Source::app_datagrams("camera"))
                .output(Output::srt_caller("out", remote))
                .build()
                .unwrap();
            engine.block_on(engine.start(flow)).unwrap()
        });
        let camera = flow.app_source("camera").unwrap();
        let number = dice.below(clips.len());
        let length = Duration::from_millis(1500 + dice.below(14_000) as u64);
        log.lock().unwrap().push(format!("{:?} {url}: clip {number} for {length:?}", begun.elapsed()));
        let from = Instant::now();
        let mut first = None;
        let mut due = from;
        for run in clips[number].chunks(7 * 188) {
            if stop.load(Relaxed) || from.elapsed() >= length {
                break;
            }
            if let Some(clock) = run.chunks(188).find_map(pcr) {
                let first = *first.get_or_insert(clock);
                due = from + Duration::from_micros(clock.saturating_sub(first));
            }
            thread::sleep(due.saturating_duration_since(Instant::now())); // the pace of the clip
            let _ = camera.push(Packet::datagram(Bytes::copy_from_slice(run), Instant::now()));
        }
        sent.lock().unwrap().push(Period { from, to: Instant::now() });
        let pause = Duration::from_millis(match dice.below(4) {
            0 | 1 => 0,
            2 => 200,
            _ => dice.below(7000) as u64,
        });
        if dice.below(2) == 0 {
            // The encoder is started again: a new connection.
            engine.block_on(flow.stop());
        } else {
            session = Some(flow);
        }
        log.lock().unwrap().push(format!("{:?} {url}: pause {pause:?}, again {}", begun.elapsed(), session.is_none()));
        thread::sleep(pause); // of the encoder, not of the test
    }
}

/// An RTMP or RTSP encoder: ffmpeg, killed and started again by dice.
fn encode_with_ffmpeg(url: &str, files: &[PathBuf], mut dice: TestRng, stop: &AtomicBool, sent: &Mutex<Vec<Period>>) {
    let format: &[&str] =
        if url.starts_with("rtmp") { &["-f", "flv"] } else { &["-f", "rtsp", "-rtsp_transport", "tcp"] };
    while !stop.load(Relaxed) {
        let file = &files[dice.below(files.len())];
        let encoder = play(file, &[&["-map", "0", "-c", "copy"], format, &[url]].concat());
        let from = Instant::now();
        let length = Duration::from_millis(3000 + dice.below(12_000) as u64);
        while from.elapsed() < length && !stop.load(Relaxed) {
            thread::sleep(Duration::from_millis(50)); // the length of a programme
        }
        encoder.signal(libc::SIGKILL);
        sent.lock().unwrap().push(Period { from, to: Instant::now() });
        thread::sleep(Duration::from_millis([0, 300, dice.below(6000) as u64][dice.below(3)]));
    }
}

/// Messages at the end of a chain: their times, and a recording of them.
#[derive(Default)]
struct Judge {
    /// Arrival and timestamp in milliseconds of each coded picture.
    pictures: Vec<(Instant, u32)>,
    sounds: Vec<(Instant, u32)>,
    /// Descriptions of times that went back.
    backward: Vec<String>,
    /// Time of the first of the last pictures that are far from the sound.
    apart_since: Option<u32>,
    /// Descriptions of pictures that stayed far from the sound.
    apart: Vec<String>,
}

impl Judge {
    fn note(&mut self, kind: RtmpKind, time: u32, at: Instant) {
        let (name, row) = match kind {
            RtmpKind::Video => ("picture", &mut self.pictures),
            _ => ("sound", &mut self.sounds),
        };
        if let Some((_, last)) = row.last()
            && (time.wrapping_sub(*last) as i32) < 0
        {
            self.backward.push(format!("{name} {}: {last} -> {time} ms", row.len()));
        }
        row.push((at, time));
        if kind == RtmpKind::Video {
            self.judge_distance(time);
        }
    }

    /// Judges how far a picture is from the last sound.
    fn judge_distance(&mut self, picture: u32) {
        let Some((_, sound)) = self.sounds.last() else { return };
        let apart = picture.wrapping_sub(*sound) as i32;
        if apart.unsigned_abs() < FAR_APART {
            self.apart_since = None;
            return;
        }
        let since = *self.apart_since.get_or_insert(picture);
        if picture.wrapping_sub(since) > LONG_APART {
            self.apart.push(format!("from {since} to {picture} ms: sound at {sound} ms"));
            self.apart_since = Some(picture);
        }
    }
}

/// Returns whether an FLV message holds coded media, not a configuration.
fn is_coded(kind: RtmpKind, body: &[u8]) -> bool {
    match kind {
        RtmpKind::Video => body.first().is_some_and(|byte| byte & 0x80 == 0) && body.get(1) == Some(&1),
        RtmpKind::Audio => body.get(1) == Some(&1),
        _ => false,
    }
}

/// Records the messages of a tap as FLV, and judges their times.
fn record(flow: &FlowHandle, tap: &str, file: &Path) -> (TapCallback, Arc<Mutex<Judge>>) {
    let judge: Arc<Mutex<Judge>> = Arc::default();
    let mut out = BufWriter::new(File::create(file).unwrap());
    out.write_all(b"FLV\x01\x05\0\0\0\x09\0\0\0\0").unwrap();
    let noted = judge.clone();
    let callback = flow.tap(tap).unwrap().for_each(move |packet| {
        let Some((kind, time)) = packet.rtmp_message() else { return };
        let number = match kind {
            RtmpKind::Audio => 8u8,
            RtmpKind::Video => 9,
            _ => 18,
        };
        let size = (packet.data().len() as u32).to_be_bytes();
        let time_bytes = time.to_be_bytes();
        let mut tag = vec![number];
        tag.extend(&size[1..]);
        tag.extend(&time_bytes[1..]);
        tag.extend([time_bytes[0], 0, 0, 0]);
        tag.extend(&packet.data()[..]);
        tag.extend((packet.data().len() as u32 + 11).to_be_bytes());
        out.write_all(&tag).unwrap();
        if is_coded(kind, packet.data()) {
            noted.lock().unwrap().note(kind, time, packet.arrival());
        }
    });
    (callback, judge)
}

/// Texts of events, with the times at which they came.
type Told = Vec<(Instant, String)>;

/// Events of a flow with their times, collected by a thread.
fn watch(flow: &FlowHandle, engine: &Arc<Engine>) -> (JoinHandle<()>, Arc<Mutex<Told>>) {
    let mut events = flow.events();
    let seen: Arc<Mutex<Told>> = Arc::default();
    let engine = engine.clone();
    let list = seen.clone();
    let thread = thread::spawn(move || {
        while let Some(event) = engine.block_on(events.next()) {
            list.lock().unwrap().push((Instant::now(), event.to_string()));
            if event == Event::FlowStopped {
                return;
            }
        }
    });
    (thread, seen)
}

/// Returns the gaps in a row of arrivals, from `begun` to `ended`.
fn gaps(row: &[(Instant, u32)], begun: Instant, ended: Instant) -> Vec<Period> {
    let times: Vec<Instant> = [begun].into_iter().chain(row.iter().map(|(at, _)| *at)).chain([ended]).collect();
    let pairs = times.windows(2).map(|pair| Period { from: pair[0], to: pair[1] });
    pairs.filter(|gap| gap.to.saturating_duration_since(gap.from) > GAP).collect()
}

/// Checks that each gap has an event near it, and that none goes on while an encoder sends undisturbed.
fn judge_gaps(
    name: &str,
    gaps: &[Period],
    stalls: &[Period],
    events: &[(Instant, String)],
    encoders: &[Periods],
    begun: Instant,
    faults: &mut Vec<String>,
) {
    for gap in gaps {
        let stalled = stalled(stalls, gap);
        if gap.to - gap.from <= GAP + stalled {
            println!("{name}: {:?} without media, {stalled:?} of which the machine stood still", gap.to - gap.from);
            continue;
        }
        let near = |at: &Instant| *at + NEARNESS >= gap.from && *at <= gap.to + NEARNESS;
        let shown = format!("{:?}..{:?}", gap.from - begun, gap.to.saturating_duration_since(begun));
        if !events.iter().any(|(at, _)| near(at)) {
            faults.push(format!("{name}: no event explains the gap {shown}"));
        }
        for periods in encoders {
            for period in periods.lock().unwrap().iter() {
                let from = period.from.max(gap.from);
                let to = period.to.min(gap.to);
                if to.saturating_duration_since(from) > RECOVERY {
                    let told: Vec<_> = events
                        .iter()
                        .filter(|(at, _)| near(at))
                        .map(|(at, e)| format!("{:?} {e}", *at - begun))
                        .collect();
                    faults.push(format!(
                        "{name}: nothing comes out in {shown}, while an encoder sends from {:?} to {:?}; {told:?}",
                        period.from.saturating_duration_since(begun),
                        period.to.saturating_duration_since(begun)
                    ));
                }
            }
        }
    }
}

/// Decodes a recording, and returns the number of pictures and of lines of complaint.
fn decode(file: &Path) -> (usize, Vec<String>) {
    let output = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", text(file), "-map", "0:v:0", "-fps_mode", "passthrough"])
        .args(["-f", "framemd5", "-"])
        .output()
        .unwrap();
    let pictures = String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with('#')).count();
    let said = String::from_utf8_lossy(&output.stderr);
    (pictures, said.lines().map(str::to_owned).collect())
}

#[test]
fn outputs_stay_decodable_while_encoders_do_as_they_like() {
    let setting = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let seconds = setting("STREAMLINK_SOAK_SECONDS", 40);
    let seed = setting("STREAMLINK_SOAK_SEED", 0x50a7);
    println!("{seconds} s, seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let files = clips(folder.path());
    let contents: Arc<Vec<Vec<u8>>> = Arc::new(files.iter().map(|file| std::fs::read(file).unwrap()).collect());
    // RTMP and RTSP of ffmpeg take AAC without ADTS headers.
    let mp4: Vec<PathBuf> = files
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let to = folder.path().join(format!("variant-{number}.mp4"));
            make(file, &["-map", "0", "-c", "copy", "-bsf:a", "aac_adtstoasc"], &to);
            to
        })
        .collect();

    let engine = Arc::new(Engine::builder().workers(2).build().unwrap());
    let any = "127.0.0.1:0";
    let start = |flow: Flow| engine.block_on(engine.start(flow)).unwrap();
    let key = |text: &str| StreamKey::new(text).unwrap();
    // The platform to which the SRT flow is pushed.
    let platform = start(
        Flow::builder("platform", Bitrate::mbps(20))
            .source(Source::rtmp("in", any, "live").key(key("K")))
            .output(Output::tap("tap"))
            .build()
            .unwrap(),
    );
    let pushed_to = platform.input_addresses()[0].trim_end_matches("/K").to_owned();
    let srt = start(
        Flow::builder("srt", Bitrate::mbps(20))
            .source(Source::srt_listener("main", any))
            .backup(Source::srt_listener("backup", any))
            .failover(Failover::default())
            .output(Output::rtmp_push("push", &pushed_to, key("K")))
            .build()
            .unwrap(),
    );
    let rtmp = start(
        Flow::builder("rtmp", Bitrate::mbps(20))
            .source(Source::rtmp("main", any, "live").key(key("A")))
            .backup(Source::rtmp("backup", any, "live").key(key("B")))
            .failover(Failover::default())
            .output(Output::tap("tap"))
            .build()
            .unwrap(),
    );
    let rtsp = start(
        Flow::builder("rtsp", Bitrate::mbps(20))
            .source(Source::rtsp_listener("main", any, "a"))
            .backup(Source::rtsp_listener("backup", any, "b"))
            .failover(Failover::default())
            .output(Output::tap("tap"))
            .build()
            .unwrap(),
    );
    let platform_file = folder.path().join("platform.flv");
    let rtmp_file = folder.path().join("rtmp.flv");
    let (platform_tap, platform_judge) = record(&platform, "tap", &platform_file);
    let (rtmp_tap, rtmp_judge) = record(&rtmp, "tap", &rtmp_file);
    let rtsp_packets: Arc<Mutex<Vec<(Instant, u32)>>> = Arc::default();
    let noted = rtsp_packets.clone();
    let rtsp_tap = rtsp.tap("tap").unwrap().for_each(move |packet| {
        noted.lock().unwrap().push((packet.arrival(), 0));
    });
    let watches = [&srt, &rtmp, &rtsp].map(|flow| watch(flow, &engine));

    let stop = Arc::new(AtomicBool::new(false));
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let begun = Instant::now();
    let mut threads = Vec::new();
    let mut sent: Vec<[Periods; 2]> = Vec::new();
    for (flow, at) in [&srt, &rtmp, &rtsp].into_iter().zip(0..) {
        let periods: [Periods; 2] = Default::default();
        for (url, number) in flow.input_addresses().into_iter().zip(0..2) {
            let dice = TestRng((seed + at * 2 + number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let stop = stop.clone();
            let sent = periods[number].clone();
            let log = log.clone();
            let contents = contents.clone();
            let mp4 = mp4.clone();
            threads.push(thread::spawn(move || {
                if url.starts_with("srt") {
                    encode_srt(&url, &contents, dice, &stop, &sent, &log);
                } else {
                    encode_with_ffmpeg(&url, &mp4, dice, &stop, &sent);
                }
            }));
        }
        sent.push(periods);
    }
    let watcher = stop.clone();
    let stalls = thread::spawn(move || watch_stalls(&watcher));
    eventually("media at each end", || {
        let all = !platform_judge.lock().unwrap().pictures.is_empty()
            && !rtmp_judge.lock().unwrap().pictures.is_empty()
            && !rtsp_packets.lock().unwrap().is_empty();
        all.then_some(())
    });
    thread::sleep(Duration::from_secs(seconds)); // the soak itself
    let ended = Instant::now();
    stop.store(true, Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    let stalls = stalls.join().unwrap();
    for flow in [&srt, &rtmp, &rtsp, &platform] {
        engine.block_on(flow.stop());
    }
    let events = watches.map(|(thread, seen)| {
        thread.join().unwrap();
        Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
    });
    engine.block_on(async {
        platform_tap.stop().await;
        rtmp_tap.stop().await;
        rtsp_tap.stop().await;
    });

    let mut faults = Vec::new();
    for (name, judge, file, at) in [("srt", platform_judge, &platform_file, 0), ("rtmp", rtmp_judge, &rtmp_file, 1)] {
        let judge = judge.lock().unwrap();
        faults.extend(judge.backward.iter().map(|text| format!("{name}: {text}")));
        faults.extend(judge.apart.iter().map(|text| format!("{name}, picture and sound apart: {text}")));
        for (row, of) in [(&judge.pictures, "pictures"), (&judge.sounds, "sound")] {
            judge_gaps(
                &format!("{name}, {of}"),
                &gaps(row, begun, ended),
                &stalls,
                &events[at],
                &sent[at],
                begun,
                &mut faults,
            );
        }
        let (decoded, complaints) = decode(file);
        let pictures = judge.pictures.len();
        println!(
            "{name}: {pictures} pictures, {} of sound, {decoded} decoded, {} complaints, {} events",
            judge.sounds.len(),
            complaints.len(),
            events[at].len()
        );
        for line in complaints.iter().take(20) {
            println!("  ffmpeg: {line}");
        }
        if decoded * 100 < pictures * 99 {
            faults.push(format!("{name}: of {pictures} pictures {decoded} can be decoded"));
        }
        if !complaints.is_empty() {
            faults.push(format!("{name}: {} complaints of the decoder", complaints.len()));
        }
    }
    let row = rtsp_packets.lock().unwrap();
    println!("rtsp: {} packets, {} events", row.len(), events[2].len());
    judge_gaps("rtsp", &gaps(&row, begun, ended), &stalls, &events[2], &sent[2], begun, &mut faults);
    if !faults.is_empty() {
        for line in log.lock().unwrap().iter() {
            println!("{line}");
        }
        for (events, name) in events.iter().zip(["srt", "rtmp", "rtsp"]) {
            for (at, event) in events {
                println!("{name} {:?} {event}", at.saturating_duration_since(begun));
            }
        }
        let kept = std::env::temp_dir().join(format!("streamlink-soak-{seed}"));
        let _ = std::fs::create_dir_all(&kept);
        for file in [&platform_file, &rtmp_file] {
            let _ = std::fs::copy(file, kept.join(file.file_name().unwrap()));
        }
        panic!("{} faults, recordings in {}:\n{}", faults.len(), kept.display(), faults.join("\n"));
    }
}
