//! Failover with real programs: two encoders feed a flow, the active one is killed or stopped, and the recordings of
//! players are checked afterwards.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use streamlink_core::{
    Event, Failover, FailoverPolicy, FlowStats, Latency, Output, RtspTransport, Source, State, StreamKey,
};
use streamlink_tests::{
    clip, eventually,
    lossy::Lossy,
    media::{self, times},
    peer::{self, Peer},
    rig::{Rig, free_port, text},
    root,
    rtp::{Sender, Sink, packet, pause, payload, sequence, ssrc},
};

/// A minute of the clip, over and over, without a seam: with a key frame a second.
fn minute(rig: &Rig, name: &str) -> PathBuf {
    let clip = clip();
    let file = rig.file(name);
    let input = ["-v", "error", "-nostdin", "-stream_loop", "11", "-i", text(&clip), "-map", "0"];
    let video = ["-vf", "setpts=N/(25*TB)", "-c:v", "libx264", "-preset", "superfast", "-g", "25", "-bf", "2"];
    let regular = ["-keyint_min", "25", "-sc_threshold", "0", "-fps_mode", "passthrough"];
    let audio = ["-af", "asetpts=N/SR/TB", "-c:a", "aac"];
    peer::run("ffmpeg", &[&input[..], &video, &regular, &audio, &[text(&file)]].concat());
    file
}

/// The clocks of encoders that feed the same flow in MPEG-TS, in seconds: neither goes on where the other one is.
const CLOCKS: [&str; 2] = ["100", "20"];

/// An encoder: a file in real time.
fn encoder(file: &Path, arguments: &[&str]) -> Peer {
    media::play(file, &[&["-map", "0", "-c", "copy"][..], arguments].concat())
}

fn player(url: &str, file: &Path, before: &[&str], format: &str) -> Peer {
    let mut all = vec!["-v", "error", "-nostdin", "-y"];
    all.extend(before);
    all.extend(["-i", url, "-map", "0:v", "-map", "0:a", "-c", "copy", "-f", format, text(file)]);
    Peer::start("ffmpeg", &all)
}

/// Waits until a source, and then the first output, has handed on so many more packets.
#[track_caller]
fn more_packets(rig: &Rig, count: u64) {
    let before = rig.running.stats();
    let packets = |stats: &FlowStats| stats.sources.iter().chain(&stats.outputs).map(|e| e.packets).collect::<Vec<_>>();
    let what = format!("more packets than {:?}", packets(&before));
    eventually(&what, || {
        let now = rig.running.stats();
        let more = |a: &[streamlink_core::EndpointStats], b: &[streamlink_core::EndpointStats]| {
            a[0].packets >= b[0].packets + count || a.iter().zip(b).all(|(a, b)| a.packets >= b.packets + count)
        };
        (more(&now.sources[1..], &before.sources[1..]) && more(&now.outputs, &before.outputs)).then_some(())
    });
}

fn switched(rig: &Rig) -> (String, String, Duration) {
    rig.event(|event| match event {
        Event::Switched { from, to, gap } => Some((from, to, gap)),
        Event::OutputLost { output, reason, .. } => panic!("`{output}` is lost: {reason}"),
        _ => None,
    })
}

fn both_connected(rig: &Rig) {
    eventually("both sources", || {
        rig.running.stats().sources.iter().all(|s| s.state == State::Connected).then_some(())
    });
}

/// The greatest step between two decoding times, in seconds; they never go back.
fn greatest_step(file: &Path, stream: &str) -> f64 {
    let times = times(file, stream);
    let steps = times.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(steps.clone().all(|step| step >= 0.0), "{stream} of {} goes back", file.display());
    assert!(times.len() > 50, "{stream} of {}: {} packets", file.display(), times.len());
    steps.fold(0.0, f64::max)
}

/// The interval of key frames, in seconds.
const KEY_INTERVAL: f64 = 1.0;

/// The loss threshold by default, and one within which a random access point comes in any case: MPEG-TS waits no
/// longer for it, and a decoder complains of what begins elsewhere. In seconds.
const THRESHOLD: f64 = 0.5;
const TS_THRESHOLD: f64 = 1.5;

fn ts_failover() -> Failover {
    Failover::default().loss_threshold(Duration::from_secs_f64(TS_THRESHOLD))
}

/// The packets that a source has handed on.
fn handed_on(rig: &Rig, number: usize) -> u64 {
    rig.running.stats().sources[number].packets
}

/// Waits until an encoder, of which somebody counts what it has sent, is between two pictures: the last one is whole. On
/// a busy machine an encoder may rest within a picture too, but hardly for long.
fn between_pictures(sent: impl Fn() -> u64) {
    let mut before = 0;
    let mut quiet = 0;
    eventually("a moment between two pictures", || {
        let now = sent();
        quiet = if std::mem::replace(&mut before, now) == now && now > 0 { quiet + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(7));
        (quiet >= 1 && sent() == now).then_some(())
    });
}

/// Kills the active encoder of two, then freezes the other one. The player is connected all the time, and the switches
/// come when they should.
fn kill_and_freeze(
    rig: &Rig,
    mut encoders: [Peer; 2],
    start: impl Fn(usize) -> Peer,
    sent: impl Fn(usize) -> u64,
    player: &mut Peer,
    threshold: f64,
) {
    both_connected(rig);
    more_packets(rig, 100);
    // The active source of two goes away.
    between_pictures(|| sent(0));
    encoders[0].signal(libc::SIGKILL);
    let (from, to, _) = switched(rig);
    assert_eq!((from.as_str(), to.as_str()), ("one", "two"));
    let stats = rig.running.stats();
    assert!(!stats.sources[0].active && stats.sources[1].active);
    more_packets(rig, 100);
    // It comes back, when it is known to be gone, and nothing changes until the other one is silent.
    eventually("the loss of the first", || (rig.running.stats().sources[0].state == State::Waiting).then_some(()));
    encoders[0] = start(0);
    both_connected(rig);
    more_packets(rig, 100);
    between_pictures(|| sent(1));
    encoders[1].signal(libc::SIGSTOP);
    let (from, to, gap) = switched(rig);
    assert_eq!((from.as_str(), to.as_str()), ("two", "one"));
    // Only what a busy machine adds is more than the threshold and the wait for a key frame.
    assert!(gap < Duration::from_secs_f64(threshold + KEY_INTERVAL + 1.0), "{gap:?}");
    let before = rig.running.stats().outputs[0].packets;
    eventually("more packets", || (rig.running.stats().outputs[0].packets > before + 150).then_some(()));
    encoders[1].signal(libc::SIGCONT);
    player.signal(libc::SIGINT); // it writes the end of its file
    player.finish();
}

/// Checks that a recording can be decoded without a complaint, and that its times go on.
fn check_recording(file: &Path, threshold: f64) {
    let frames = peer::decode(file);
    assert!(frames > 50, "{frames}");
    check_steps(greatest_step(file, "v:0"), threshold);
    greatest_step(file, "a:0");
}

/// Checks a recording of MPEG-TS in the same way, and that its continuity counters go on. The recording was ended
/// somewhere: the last picture, or the last piece of sound, is not looked at.
fn check_transport_stream(file: &Path) {
    let stream = fs::read(file).unwrap();
    check_continuity(&stream);
    let begins = |packet: &&[u8]| packet[1] & 0x40 != 0 && packet[1] & 0x1f == 1; // a PES packet of PID 256 or 257
    let last = stream.chunks_exact(188).rposition(|packet| begins(&packet)).unwrap();
    fs::write(file, &stream[..last * 188]).unwrap();
    check_recording(file, TS_THRESHOLD);
}

/// Continuity counters follow each other, unless a discontinuity is announced (ISO/IEC 13818-1 section 2.4.3.3).
fn check_continuity(stream: &[u8]) {
    let mut counters = HashMap::new();
    assert!(stream.len() > 100 * 188 && stream.len().is_multiple_of(188));
    for packet in stream.chunks_exact(188) {
        assert_eq!(packet[0], 0x47);
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        let counter = packet[3] & 15;
        let payload = packet[3] & 0x10 != 0;
        let announced = packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x80 != 0;
        if let Some(last) = counters.insert(pid, counter).filter(|_| pid != 0x1fff && !announced) {
            assert_eq!(counter, if payload { (last + 1) & 15 } else { last }, "PID {pid}");
        }
    }
}

/// No more is missing than passes until a silent source counts as lost, and the other one has a key frame.
fn check_steps(greatest: f64, threshold: f64) {
    println!("the greatest step between pictures: {greatest:.3} s");
    assert!(greatest <= threshold + KEY_INTERVAL, "{greatest}");
}

/// The greatest step between the times of decoded pictures, in seconds; they never go back.
fn greatest_shown_step(sums: &Path) -> f64 {
    let said = fs::read_to_string(sums).unwrap();
    let base = said.lines().find_map(|line| line.strip_prefix("#tb 0: ")).expect("a time base");
    let (a, b) = base.split_once('/').expect("a fraction");
    let unit = a.parse::<f64>().unwrap() / b.parse::<f64>().unwrap();
    let rows = said.lines().filter(|line| !line.starts_with('#'));
    let times: Vec<i64> = rows.filter_map(|line| line.split(',').nth(2)?.trim().parse().ok()).collect();
    assert!(times.len() > 50, "{}", times.len());
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 * unit).fold(0.0, f64::max)
}

#[test]
fn failover_rtmp_continues_with_the_other_publisher() {
    let source = |name: &str, key: &str| -> Source {
        Source::rtmp(name, "127.0.0.1:0", "live").key(StreamKey::new(key).unwrap()).into()
    };
    let output = Output::rtmp_pull("out", "127.0.0.1:0", "play");
    let rig = Rig::start_with(vec![source("one", "K1"), source("two", "K2")], Failover::default(), vec![output.into()]);
    let urls = rig.running.input_addresses();
    let minute = minute(&rig, "minute.ts");
    let start = |number: usize| encoder(&minute, &["-f", "flv", &urls[number]]);
    let first = start(0);
    eventually("the first source", || (rig.running.stats().sources[0].packets > 0).then_some(()));
    let file = rig.file("rtmp.flv");
    let mut player = player(&rig.playback(), &file, &[], "flv");
    kill_and_freeze(&rig, [first, start(1)], start, |number| handed_on(&rig, number), &mut player, THRESHOLD);
    check_recording(&file, THRESHOLD);
    rig.stop();
}

/// The switch of the RTMP source makes two input addresses on one port, also on one that the system picks.
#[test]
fn failover_rtmp_switch_generates_the_second_address() {
    let source = Source::rtmp("venue", "127.0.0.1:0", "live").failover(true);
    let output = Output::rtmp_pull("out", "127.0.0.1:0", "play");
    let rig = Rig::start_with(vec![source.into()], Failover::default(), vec![output.into()]);
    let urls = rig.running.input_addresses();
    let server = |url: &str| url.rsplit_once('/').map(|(server, _)| server.to_owned()).unwrap();
    assert!(urls.len() == 2 && server(&urls[0]) == server(&urls[1]) && urls[0] != urls[1], "{urls:?}");
    let minute = minute(&rig, "minute.ts");
    let start = |number: usize| encoder(&minute, &["-f", "flv", &urls[number]]);
    // The stream that arrives first feeds the flow: here that of the second address.
    let second = start(1);
    eventually("the second source", || (rig.running.stats().sources[1].packets > 0).then_some(()));
    assert!(rig.running.stats().sources[1].active);
    let file = rig.file("rtmp.flv");
    let mut player = player(&rig.playback(), &file, &[], "flv");
    let first = start(0);
    both_connected(&rig);
    more_packets(&rig, 100);
    second.signal(libc::SIGKILL);
    let (from, to, _) = switched(&rig);
    assert_eq!((from.as_str(), to.as_str()), ("venue-backup", "venue"));
    let before = rig.running.stats().outputs[0].packets;
    eventually("media of the first source", || (rig.running.stats().outputs[0].packets > before + 100).then_some(()));
    player.signal(libc::SIGINT); // while media flows: it looks for signals between packets
    player.finish();
    drop(first);
    greatest_step(&file, "v:0");
    rig.stop();
}

#[test]
fn failover_rtsp_continues_between_publisher_and_server() {
    let port = free_port();
    let publisher = Source::rtsp_listener("one", "127.0.0.1:0", "a");
    let server = Source::rtsp_caller("two", &format!("rtsp://127.0.0.1:{port}/play")).transport(RtspTransport::Tcp);
    let output = Output::rtsp_listener("out", "127.0.0.1:0", "play");
    let sources = vec![publisher.into(), server.into()];
    let rig = Rig::start_with(sources, Failover::default(), vec![output.into()]);
    let minute = minute(&rig, "minute.mp4");
    let script = root().join("tests/peers/rtsp_server.py");
    let port = port.to_string();
    let input = rig.input();
    let start = |number: usize| match number {
        0 => encoder(&minute, &["-f", "rtsp", "-rtsp_transport", "tcp", &input]),
        _ => Peer::start("/usr/bin/python3", &[text(&script), &port, text(&minute), "/dev/null"]),
    };
    let first = start(0);
    eventually("the first source", || (rig.running.stats().sources[0].packets > 0).then_some(()));
    let sums = rig.file("sums");
    let arguments = ["-v", "error", "-nostdin", "-y", "-rtsp_transport", "tcp", "-i", &rig.playback(), "-map", "0:v"];
    let rest =
        ["-fps_mode", "passthrough", "-enc_time_base", "-1", "-flush_packets", "1", "-f", "framemd5", text(&sums)];
    let mut player = Peer::start("ffmpeg", &[&arguments[..], &rest].concat());
    kill_and_freeze(&rig, [first, start(1)], start, |number| handed_on(&rig, number), &mut player, THRESHOLD);
    assert_eq!(player.output(), "", "not a word of complaint");
    check_steps(greatest_shown_step(&sums), THRESHOLD);
    rig.stop();
}

#[test]
fn failover_srt_continues_between_caller_and_listener() {
    // On a busy machine nobody is heard in time for less.
    let latency = Latency::from_millis(800).unwrap();
    let port = free_port();
    // The encoders are watched from outside: the flow gets what they have sent a while later.
    let sent = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let network = |target: SocketAddr, number: usize| {
        let count = sent[number].clone();
        Lossy::watched(target, 0, move |forward, _, packet| {
            let is_media = packet.first().is_some_and(|first| first & 0x80 == 0);
            count.fetch_add(u64::from(forward == (number == 0) && is_media), Relaxed);
        })
    };
    let way_two = network(SocketAddr::from(([127, 0, 0, 1], port)), 1);
    let sources = vec![
        Source::srt_listener("one", "127.0.0.1:0").latency(latency).into(),
        Source::srt_caller("two", &way_two.address.to_string()).latency(latency).into(),
    ];
    let output = Output::srt_listener("out", "127.0.0.1:0").latency(latency);
    let rig = Rig::start_with(sources, ts_failover(), vec![output.into()]);
    let way_one = network(SocketAddr::from(([127, 0, 0, 1], rig.input_port())), 0);
    let minute = minute(&rig, "minute.ts");
    let urls = [
        format!("srt://{}?mode=caller&pkt_size=1316&latency=800000", way_one.address),
        format!("srt://127.0.0.1:{port}?mode=listener&pkt_size=1316&latency=800000"),
    ];
    // Each picture leaves when it is made, not when it fills its last datagram.
    let start = |number: usize| {
        let clock = ["-output_ts_offset", CLOCKS[number]];
        encoder(&minute, &[&clock[..], &["-f", "mpegts", "-flush_packets", "1", &urls[number]]].concat())
    };
    let file = rig.file("srt.ts");
    // As it comes, and from the beginning: what the library has sent is to be looked at, not what ffmpeg makes of it.
    let command =
        format!("exec srt-live-transmit -q '{}?mode=caller&latency=800' file://con >'{}'", rig.playback(), text(&file));
    let mut player = Peer::start("sh", &["-c", &command]);
    eventually("the player", || (rig.running.stats().outputs[0].players.len() == 1).then_some(()));
    let first = start(0);
    eventually("the first source", || (rig.running.stats().sources[0].packets > 0).then_some(()));
    kill_and_freeze(&rig, [first, start(1)], start, |number| sent[number].load(Relaxed), &mut player, TS_THRESHOLD);
    check_transport_stream(&file);
    rig.stop();
}

#[test]
fn failover_rtp_continues_with_the_other_sender() {
    let source = |name: &str| -> Source { Source::rtp(name, "127.0.0.1:0").into() };
    let sink = Sink::new();
    let output = Output::rtp("out", &sink.address());
    let rig = Rig::start_with(vec![source("one"), source("two")], ts_failover(), vec![output.into()]);
    let urls = rig.running.input_addresses();
    let minute = minute(&rig, "minute.ts");
    // A transport packet a datagram: otherwise ffmpeg keeps the end of a picture until the next one fills its datagram.
    let start = |number: usize| {
        let clock = ["-output_ts_offset", CLOCKS[number]];
        let url = format!("{}?pkt_size=200", urls[number]);
        encoder(&minute, &[&clock[..], &["-f", "rtp_mpegts", &url]].concat())
    };
    let one = start(0);
    let two = start(1);
    both_connected(&rig);
    more_packets(&rig, 100);
    let active = usize::from(rig.running.stats().sources[1].active);
    between_pictures(|| handed_on(&rig, active));
    [&one, &two][active].signal(libc::SIGKILL);
    let (_, _, gap) = switched(&rig);
    assert!(gap < Duration::from_secs_f64(TS_THRESHOLD + KEY_INTERVAL + 1.0), "{gap:?}");
    // However long the switch took: some pictures of the other sender.
    let before = handed_on(&rig, 1 - active);
    eventually("more packets", || (handed_on(&rig, 1 - active) > before + 3000).then_some(()));
    rig.engine.block_on(rig.running.remove_output("out")).unwrap();
    let received = sink.drain(Duration::from_millis(300));
    assert!(received.windows(2).all(|pair| sequence(&pair[1]) == sequence(&pair[0]).wrapping_add(1)));
    assert!(received.windows(2).all(|pair| ssrc(&pair[1]) == ssrc(&pair[0])));
    let file = rig.file("rtp.ts");
    fs::write(&file, received.iter().flat_map(|packet| packet[12..].to_vec()).collect::<Vec<u8>>()).unwrap();
    check_transport_stream(&file);
    rig.stop();
}

/// Sources that ask for a port of the system's choice share it, as the two addresses of the failover switch do.
#[test]
fn failover_rtmp_addresses_without_a_port_share_one() {
    let engine = streamlink_core::Engine::builder().workers(2).build().unwrap();
    let addresses = |name: &str, keys: [&str; 2]| {
        let source = |name: &str, key: &str| {
            let key = if key.is_empty() { String::new() } else { format!(r#", "key": "{key}""#) };
            format!(r#"{{ "name": "{name}", "url": "rtmp://127.0.0.1:0/live?mode=listener"{key} }}"#)
        };
        let [a, b] = [source("a", keys[0]), source("b", keys[1])];
        let json = format!(r#"{{ "name": "{name}", "max_bandwidth": "5M", "sources": [ {a}, {b} ] }}"#);
        let flow = engine.block_on(engine.start(streamlink_core::Flow::from_json(&json).unwrap())).unwrap();
        let urls = flow.input_addresses();
        let server = |url: &str| url.rsplit_once('/').map(|(server, _)| server.to_owned()).unwrap();
        ((server(&urls[0]), server(&urls[1])), flow)
    };
    for keys in [["", ""], ["one", "two"], ["one", ""]] {
        let ((a, b), _flow) = addresses(&format!("with {}", keys.join(" and ")), keys);
        assert_eq!(a, b, "{keys:?}");
    }
    let ((a, b), _one) = addresses("same", ["one", "one"]);
    assert_ne!(a, b, "nothing else tells them apart");
    let ((other, _), _two) = addresses("other", ["", ""]);
    assert!(other != a && other != b, "flows do not share a port that they did not ask for");
}

#[test]
fn failover_cold_backup_connects_on_loss_and_preferred_source_returns() {
    let key = |text: &str| StreamKey::new(text).unwrap();
    let served = Output::rtmp_pull("out", "127.0.0.1:0", "live").key(key("SPARE"));
    let remote = Rig::start(Source::rtmp("in", "127.0.0.1:0", "live").key(key("K")), vec![served.into()]);
    let minute = minute(&remote, "minute.ts");
    let _spare = encoder(&minute, &["-f", "flv", &remote.input()]);
    let server = remote.playback().replace("/SPARE", "");
    let sources = vec![
        Source::rtmp("one", "127.0.0.1:0", "live").key(key("K1")).into(),
        Source::rtmp_pull("two", &server, key("SPARE")).into(),
    ];
    let failover = Failover::new(FailoverPolicy::Prefer(Duration::from_secs(1))).cold();
    let rig = Rig::start_with(sources, failover, vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").into()]);
    eventually("the backup feeds the flow", || rig.running.stats().sources[1].active.then_some(()));
    let idle = || {
        eventually("the backup is at rest", || {
            let idle = rig.running.stats().sources[1].state == State::Idle;
            (idle && remote.running.stats().outputs[0].players.is_empty()).then_some(())
        });
    };
    let file = rig.file("cold.flv");
    let mut player = player(&rig.playback(), &file, &[], "flv");
    for _ in 0..2 {
        let publisher = encoder(&minute, &["-f", "flv", &rig.input()]);
        let (from, to, _) = switched(&rig);
        assert_eq!((from.as_str(), to.as_str()), ("two", "one"));
        idle();
        publisher.signal(libc::SIGKILL);
        let (from, to, _) = switched(&rig);
        assert_eq!((from.as_str(), to.as_str()), ("one", "two"));
        let before = rig.running.stats().outputs[0].packets;
        eventually("more packets", || (rig.running.stats().outputs[0].packets > before + 100).then_some(()));
    }
    player.signal(libc::SIGINT);
    player.finish();
    check_recording(&file, THRESHOLD);
    rig.stop();
    remote.stop();
}

#[test]
fn merge_of_two_lossy_rtp_paths_is_lossless() {
    let source = |name: &str| -> Source { Source::rtp(name, "127.0.0.1:0").into() };
    let sink = Sink::new();
    let failover = Failover::new(FailoverPolicy::Merge(Duration::from_millis(200)));
    let rig =
        Rig::start_with(vec![source("one"), source("two")], failover, vec![Output::rtp("out", &sink.address()).into()]);
    let senders: Vec<Sender> = rig.running.input_addresses().iter().map(|url| Sender::to(url)).collect();
    // Each path loses every tenth packet or so, by dice of its own; the second one is dead for a while, and it is 30
    // packets behind.
    let first = 65_000u16;
    let count = 4000u32;
    let skew = 30;
    let mut dice = [1u32, 2];
    let mut lost = [HashSet::new(), HashSet::new()];
    let mut send = |path: usize, number: u32| {
        dice[path] = dice[path].wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let dead = path == 1 && (2000..2400).contains(&number);
        // The receiver takes a stream for one when two packets follow each other.
        let unlucky = number > 2 && (dice[path] >> 16).is_multiple_of(10);
        if unlucky || dead {
            lost[path].insert(number);
            return;
        }
        let sequence = first.wrapping_add(number as u16);
        senders[path].send(&packet(33, sequence, number * 90, 7, &payload(sequence)));
    };
    for number in 0..count + skew {
        if number < count {
            send(0, number);
        }
        if let Some(number) = number.checked_sub(skew) {
            send(1, number);
        }
        if number % 4 == 0 {
            pause();
        }
    }
    let both: HashSet<u32> = &lost[0] & &lost[1];
    let wanted: Vec<u16> = (0..count).filter(|n| !both.contains(n)).map(|n| first.wrapping_add(n as u16)).collect();
    let received: Vec<u16> = sink.drain(Duration::from_secs(1)).iter().map(|packet| sequence(packet)).collect();
    assert!(both.len() > 20);
    assert!(received == wanted, "{} of {}, {} lost on both", received.len(), wanted.len(), both.len());
    let stats = rig.running.stats();
    let trailing = (0..).take_while(|n| both.contains(&(count - 1 - n))).count() as u64;
    assert_eq!(stats.merge_lost + trailing, both.len() as u64);
    for path in 0..2 {
        let unique_packets = &lost[1 - path] - &both;
        // The last of them are not settled yet: no packet has come since.
        assert!(stats.sources[path].unique_packets <= unique_packets.len() as u64);
        assert!(stats.sources[path].unique_packets + 100 > unique_packets.len() as u64, "{:?}", stats.sources[path]);
        assert!(stats.sources[path].active);
    }
    rig.stop();
}

/// A path that is longer than the window repairs nothing, and the operator is told.
#[test]
fn merge_tells_of_a_path_that_is_longer_than_its_window() {
    let source = |name: &str| -> Source { Source::rtp(name, "127.0.0.1:0").into() };
    let window = Duration::from_millis(200);
    let sink = Sink::new();
    let rig = Rig::start_with(
        vec![source("short"), source("long")],
        Failover::new(FailoverPolicy::Merge(window)),
        vec![Output::rtp("out", &sink.address()).into()],
    );
    let senders: Vec<Sender> = rig.running.input_addresses().iter().map(|url| Sender::to(url)).collect();
    let send = |path: usize, number: u16| {
        senders[path].send(&packet(33, number, u32::from(number) * 90, 7, &payload(number)));
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // 300 packets of 2 ms and more behind; every tenth is lost on the short path.
            for number in 0..15_000u16 {
                if !number.is_multiple_of(10) {
                    send(0, number);
                }
                if let Some(number) = number.checked_sub(300) {
                    send(1, number);
                }
                if stop.load(Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let (name, packets, told) = rig.event(|event| match event {
            Event::MergeWindowMissed { source, packets, window } => Some((source, packets, window)),
            _ => None,
        });
        assert_eq!((name.as_str(), told), ("long", window));
        assert!(packets > 0);
        stop.store(true, Relaxed);
    });
    let stats = rig.running.stats();
    assert!(stats.sources[1].late > 0 && stats.sources[0].late == 0);
    rig.stop();
}

/// RTP packets over SRT, by way of a real program each; one path takes 20 ms longer and loses a few packets, and the
/// programs are killed in turn. The latency leaves the path that is alone time for many retransmissions.
#[test]
fn merge_of_two_srt_paths_is_lossless() {
    let source = |name: &str| -> Source { Source::srt_listener(name, "127.0.0.1:0").into() };
    let failover = Failover::new(FailoverPolicy::Merge(Duration::from_millis(300)));
    let out = Output::srt_listener("out", "127.0.0.1:0");
    let rig = Rig::start_with(vec![source("one"), source("two")], failover, vec![out.into()]);
    let sink = Sink::new();
    let playback = format!("{}?mode=caller&latency=1000", rig.playback());
    let _player = Peer::start("srt-live-transmit", &["-q", &playback, &format!("udp://{}", sink.address())]);
    eventually("the player", || (rig.running.stats().outputs[0].players.len() == 1).then_some(()));
    let urls = rig.running.input_addresses();
    let slow = Lossy::to(urls[1].trim_start_matches("srt://").parse().unwrap(), 2);
    let targets = [urls[0].clone(), format!("srt://{}", slow.address)].map(|url| format!("{url}?latency=1000"));
    let ports = [free_port(), free_port()];
    let start = |path: usize| {
        let peer = Peer::sends_srt(ports[path], &targets[path]);
        peer.wait_for_udp(ports[path]);
        peer
    };
    let mut paths = [Some(start(0)), Some(start(1))];
    let senders = ports.map(|port| Sender::to(&format!("rtp://127.0.0.1:{port}")));
    let mut next = 0u32;
    let mut received = Vec::new();
    let mut send_until = |ready: &mut dyn FnMut() -> bool| {
        let since = next;
        // Not before a window and more has passed, so that each path is alone for a while.
        eventually("what is waited for, with packets going", || {
            for _ in 0..4 {
                let sequence = 65_000u16.wrapping_add(next as u16);
                for sender in &senders {
                    sender.send(&packet(33, sequence, next * 90, 7, &payload(sequence)));
                }
                next += 1;
                received.extend(sink.within(Duration::from_millis(1))); // the pace of a feed
            }
            (next > since + 500 && ready()).then_some(())
        });
    };
    let state = |path: usize| rig.running.stats().sources[path].state;
    send_until(&mut || (0..2).all(|path| state(path) == State::Connected && handed_on(&rig, path) > 200));
    for path in [1, 0] {
        paths[path] = None;
        send_until(&mut || state(path) == State::Waiting);
        paths[path] = Some(start(path));
        let before = handed_on(&rig, path);
        send_until(&mut || handed_on(&rig, path) > before + 500);
    }
    received.extend(sink.drain(Duration::from_secs(2)));
    let received: Vec<u16> = received.iter().map(|packet| sequence(packet)).collect();
    // The programs may have missed what was sent before they had called.
    let first = received[0].wrapping_sub(65_000);
    let wanted: Vec<u16> = (u32::from(first)..next).map(|n| 65_000u16.wrapping_add(n as u16)).collect();
    let stats = rig.running.stats();
    assert!(first < 500 && received == wanted, "{} of {next} from {first}: {stats:?}", received.len());
    assert_eq!((stats.merge_lost, stats.outputs[0].dropped), (0, 0));
    assert!(stats.sources.iter().all(|source| source.unique_packets > 500), "{stats:?}");
    drop(paths);
    rig.stop();
}

#[test]
fn failover_example_measures_the_gaps() {
    let said = peer::run(text(&peer::example("failover")), &["--seconds", "1", "rtmp", "srt"]);
    for protocol in ["rtmp", "srt"] {
        let row = said.lines().find(|line| line.starts_with(protocol) && line.ends_with(" ms"));
        let row = row.unwrap_or_else(|| panic!("no row in {said}"));
        let silence: u64 = row.split_whitespace().nth(1).and_then(|ms| ms.parse().ok()).unwrap();
        assert!(silence < 3000, "{said}");
    }
}
