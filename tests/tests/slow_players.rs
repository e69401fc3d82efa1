//! Peers that read or write slowly, or not at all, at every listener of a real process: they are disconnected, memory
//! stays bounded, and players that keep up lose nothing.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use streamlink_tests::{
    eventually,
    peer::{self, Peer},
    rig::text,
};

/// Four seconds of noise, which compresses badly: 16 Mb/s, with a key frame a second.
fn heavy_clip(folder: &Path) -> PathBuf {
    let file = folder.join("heavy.mkv");
    let noise = "testsrc2=size=640x360:rate=25,noise=alls=60:allf=t";
    let mut arguments = vec!["-v", "error", "-nostdin", "-f", "lavfi", "-i", noise, "-t", "4", "-pix_fmt", "yuv420p"];
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-b:v", "16M", "-maxrate", "16M"]);
    arguments.extend(["-bufsize", "4M", text(&file)]);
    peer::run("ffmpeg", &arguments);
    file
}

/// The memory of a process in KiB.
fn memory(peer: &Peer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", peer.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Last whole line of figures that the program has written.
fn figures(relay: &Peer) -> Value {
    let said = relay.output();
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = whole.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).unwrap_or_default()
}

/// The players of the relay's output.
fn players_of(relay: &Peer) -> Vec<Value> {
    figures(relay)["outputs"][0]["players"].as_array().cloned().unwrap_or_default()
}

fn address(url: &str) -> SocketAddr {
    url.split("://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// Clients that send a byte now and then, of a greeting that would be accepted; or nothing.
fn idlers(target: SocketAddr, scheme: &str) -> Vec<TcpStream> {
    if scheme == "srt" {
        return Vec::new(); // nothing is kept of who has not shown his address: the floods are tests of their own
    }
    (0..100).map(|_| TcpStream::connect(target).unwrap()).collect()
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// A player that writes what it gets to a file, as it comes.
fn player(scheme: &str, url: &str, to: &str) -> Peer {
    match scheme {
        "rtmp" => Peer::start("rtmpdump", &["-q", "--live", "-r", url, "-o", to]),
        "srt" => Peer::start("sh", &["-c", &format!("exec srt-live-transmit -q '{url}' file://con >'{to}'")]),
        _ => {
            let input = ["-v", "error", "-nostdin", "-y", "-rtsp_transport", "tcp", "-i", url];
            let output = ["-map", "0", "-c", "copy", "-flush_packets", "1", "-f", "h264", to];
            Peer::start("ffmpeg", &[&input[..], &output].concat())
        }
    }
}

fn slow_peers_are_cut_off(scheme: &str, urls: [&str; 2], publish: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let clip = heavy_clip(folder.path());
    let mut relay = Peer::start(
        peer::example("relay"),
        &["--source", urls[0], "--output", &format!("out={}", urls[1]), "--max-bandwidth", "40M", "--stats", "json"],
    );
    let input = relay.wait_for_word("input address: ");
    let output = relay.wait_for_word("playback URL of out: ");
    let input_with = if scheme == "srt" { format!("{input}?pkt_size=1316") } else { input.clone() };
    // The clip over and over, each time from its beginning, without a break in time.
    let arguments = [&["-map", "0", "-c", "copy"][..], publish, &[&input_with]].concat();
    let mut all = vec!["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", text(&clip)];
    all.extend(&arguments);
    let publisher = Peer::start("ffmpeg", &all);
    relay.wait_for("source `source` connected");
    let file = folder.path().join("good");
    let good = player(scheme, &output, text(&file));
    eventually("the good player", || (fs::metadata(&file).ok()?.len() > 1 << 20).then_some(()));
    let before = memory(&relay);

    let stuck: Vec<Peer> = (0..5).map(|_| player(scheme, &output, "/dev/null")).collect();
    let players = |count: usize| players_of(&relay).len() == count;
    eventually("all players", || players(6).then_some(()));
    for player in &stuck {
        player.signal(libc::SIGSTOP);
    }
    let mut idle = idlers(address(&input), scheme);
    idle.extend(idlers(address(&output), scheme));
    let started = Instant::now();
    let mut most = before;
    let mut greeting = match scheme {
        "rtmp" => vec![3; 1537],
        _ => b"OPTIONS * RTSP/1.0\r\n".repeat(50),
    }
    .into_iter();
    loop {
        // A byte at a time: always something, never enough.
        let byte = greeting.next().unwrap_or(b'x');
        idle.iter_mut().for_each(|stream| {
            let _ = stream.write_all(&[byte]); // it may be closed by now
        });
        idle.retain_mut(|stream| !is_closed(stream));
        most = most.max(memory(&relay));
        if players(1) && idle.is_empty() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{} idle: {}", idle.len(), relay.output());
        std::thread::sleep(Duration::from_millis(300)); // the pace of those who are slow
    }
    let length = fs::metadata(&file).unwrap().len();
    eventually("more for the good player", || (fs::metadata(&file).ok()?.len() > length + (4 << 20)).then_some(()));
    println!("{scheme}: {before} KiB before, at most {most} KiB; {:?}", started.elapsed());
    // What the flow keeps for all players together (four seconds of 40 Mb/s), and 64 KiB for each that has connected.
    assert!(most < before + 20 * 1024 + 206 * 64, "{before} KiB before, {most} KiB at most");
    // Nobody was dropped anything who did not ask for it.
    let left = players_of(&relay);
    assert!(left.len() == 1 && left[0]["dropped"] == 0, "{left:?}");
    relay.tell("quit");
    assert!(relay.finish().success());
    drop((publisher, good, stuck));
}

#[test]
fn slow_peers_at_rtmp_listener_are_disconnected() {
    slow_peers_are_cut_off(
        "rtmp",
        ["rtmp://127.0.0.1:0/live/KEY?mode=listener", "rtmp://127.0.0.1:0/play/LOOK?mode=listener"],
        &["-f", "flv"],
    );
}

#[test]
fn slow_peers_at_srt_listener_are_disconnected() {
    slow_peers_are_cut_off("srt", ["srt://127.0.0.1:0?mode=listener"; 2], &["-f", "mpegts"]);
}

#[test]
fn slow_peers_at_rtsp_listener_are_disconnected() {
    let urls = ["rtsp://127.0.0.1:0/cam?mode=listener", "rtsp://127.0.0.1:0/play?mode=listener"];
    slow_peers_are_cut_off("rtsp", urls, &["-f", "rtsp", "-rtsp_transport", "tcp"]);
}
