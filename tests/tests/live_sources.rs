//! Sources of every protocol are added, replaced, removed and switched to while a flow runs, by a host in Rust and by one
//! in C: the player stays connected, and no time goes back. Every source is fed by a real program, with a clock of its own.

use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Instant,
};
use streamlink_core::{Engine, Flow, FlowHandle, Output, Packet, Source};
use streamlink_tests::{
    clip, eventually, media,
    nginx::Nginx,
    peer::{self, Peer, built, target},
    rig::{Rig, free_port, text},
    root,
};

/// Number of packets that each source hands on before the next change.
const PACKETS: u64 = 60;

/// Maximum step between two times of a stream, in seconds. Nothing is lost but what passes between two key frames.
const MAX_STEP: f64 = 5.0;

/// Kind of a source, with the program that feeds it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    SrtListener,
    SrtCaller,
    App,
    Rtmp,
    RtmpPull,
    Rtp,
    Udp,
    Rist,
    RtspListener,
    RtspCaller,
}

/// A host of a flow, in one of the languages.
trait Host {
    fn start(&mut self, json: &Value);
    fn add(&mut self, name: &str, url: &str);
    fn replace(&mut self, name: &str, new: &str, url: &str);
    fn remove(&mut self, name: &str);
    fn switch_to(&mut self, name: &str);
    fn address(&mut self, source: &str) -> String;
    fn playback(&mut self) -> String;
    fn stats(&mut self) -> Value;
    /// Pushes the datagrams that come to a port into an app source.
    fn feed(&mut self, source: &str, port: u16);
}

struct RustHost {
    engine: Engine,
    flow: Option<FlowHandle>,
}

impl RustHost {
    fn new() -> Self {
        Self { engine: Engine::builder().workers(2).build().unwrap(), flow: None }
    }

    fn flow(&self) -> &FlowHandle {
        self.flow.as_ref().unwrap()
    }
}

impl Host for RustHost {
    fn start(&mut self, json: &Value) {
        let flow = Flow::from_json(&json.to_string()).unwrap();
        self.flow = Some(self.engine.block_on(self.engine.start(flow)).unwrap());
    }

    fn add(&mut self, name: &str, url: &str) {
        self.engine.block_on(self.flow().add_source(Source::from_url(name, url))).unwrap();
    }

    fn replace(&mut self, name: &str, new: &str, url: &str) {
        self.engine.block_on(self.flow().replace_source(name, Source::from_url(new, url))).unwrap();
    }

    fn remove(&mut self, name: &str) {
        self.engine.block_on(self.flow().remove_source(name)).unwrap();
    }

    fn switch_to(&mut self, name: &str) {
        self.flow().switch_to(name).unwrap();
    }

    fn address(&mut self, source: &str) -> String {
        let stats = self.flow().stats();
        let url = stats.sources.iter().find(|found| found.name == source).and_then(|found| found.url.clone());
        url.unwrap().as_str().to_owned()
    }

    fn playback(&mut self) -> String {
        self.flow().playback_urls()[0].1.clone()
    }

    fn stats(&mut self) -> Value {
        serde_json::to_value(self.flow().stats()).unwrap()
    }

    fn feed(&mut self, source: &str, port: u16) {
        let source = self.flow().app_source(source).unwrap();
        let socket = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok(size) = socket.recv(&mut buffer) {
                // A source that has been removed takes nothing more, and a full one loses the packet.
                let _ = source.push(Packet::datagram(buffer[..size].to_vec(), Instant::now()));
            }
        });
    }
}

/// The program in `tests/c`, which is told what to do line by line.
struct CHost {
    peer: Peer,
    answers: usize,
    _folder: tempfile::TempDir,
}

impl CHost {
    fn new() -> Self {
        built(&["-p", "streamlink-ffi"]);
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("live_sources");
        let include = format!("-I{}", root().join("include").display());
        let library = target().join("libstreamlink.so");
        let path = format!("-Wl,-rpath,{}", target().display());
        let source = root().join("tests/c/live_sources.c");
        let warnings = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_POSIX_C_SOURCE=200809L"];
        let files = [&include, text(&source), text(&library), &path, "-lpthread", "-o", text(&program)];
        peer::run("gcc", &[&warnings[..], &files].concat());
        Self { peer: Peer::start(&program, &[]), answers: 0, _folder: folder }
    }

    fn ask(&mut self, command: &[&str]) -> String {
        self.peer.tell(&command.join("\t"));
        self.answers += 1;
        let at = self.answers - 1;
        let what = format!("an answer to {command:?}");
        eventually(&what, || {
            let said = self.peer.output();
            // The last line may not be whole yet.
            let whole = said.rsplit_once('\n')?.0;
            assert!(whole.lines().all(|line| line.starts_with('=')), "{command:?}: {said}");
            whole.lines().nth(at).map(|line| line.trim_start_matches('=').trim().to_owned())
        })
    }
}

impl Host for CHost {
    fn start(&mut self, json: &Value) {
        self.ask(&["start", &json.to_string()]);
    }

    fn add(&mut self, name: &str, url: &str) {
        self.ask(&["add", name, url]);
    }

    fn replace(&mut self, name: &str, new: &str, url: &str) {
        self.ask(&["replace", name, new, url]);
    }

    fn remove(&mut self, name: &str) {
        self.ask(&["remove", name]);
    }

    fn switch_to(&mut self, name: &str) {
        self.ask(&["switch", name]);
    }

    fn address(&mut self, source: &str) -> String {
        self.ask(&["address", source])
    }

    fn playback(&mut self) -> String {
        self.ask(&["play", "out"])
    }

    fn stats(&mut self) -> Value {
        serde_json::from_str(&self.ask(&["stats"])).unwrap()
    }

    fn feed(&mut self, source: &str, port: u16) {
        self.ask(&["feed", source, &port.to_string()]);
    }
}

/// A minute with a key frame a second, of which no picture waits for a later one, in a container that has the headers of
/// its codecs, as RTSP needs them.
static MINUTE: LazyLock<PathBuf> = LazyLock::new(|| {
    let file = target().join("live-sources.mkv");
    let folder = tempfile::tempdir_in(target()).unwrap();
    let new = folder.path().join("new.mkv");
    let video = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0", "-c:a", "aac", "-t", "60"];
    let input = ["-v", "error", "-nostdin", "-y", "-stream_loop", "11", "-i"];
    let clip = clip();
    peer::run("ffmpeg", &[&input[..], &[text(&clip)], &video, &[text(&new)]].concat());
    // As a whole, whoever else reads or makes it.
    std::fs::rename(&new, &file).unwrap();
    file
});

/// Clocks at which the senders begin, one after the other, in seconds.
const CLOCKS: [&str; 4] = ["100", "20", "300", "5"];

/// An even port that is free together with the next one, which nobody else is given.
fn even_port() -> u16 {
    loop {
        let (port, next) = (free_port(), free_port());
        if port.is_multiple_of(2) && next == port + 1 {
            return port;
        }
        free_port(); // the other parity comes first
    }
}

/// A source of the flow: its URL, and what its sender needs.
struct Feed {
    kind: Kind,
    url: String,
    /// Address of the sender, where it does not come from the source.
    target: String,
    /// Server from which the source pulls.
    _server: Option<Server>,
}

enum Server {
    Nginx(#[expect(dead_code, reason = "kept while it serves")] Nginx),
    Flow(#[expect(dead_code, reason = "kept while it serves")] Rig),
}

impl Feed {
    fn new(kind: Kind) -> Self {
        let port = free_port();
        let (url, target, server) = match kind {
            Kind::SrtListener => ("srt://127.0.0.1:0?mode=listener".into(), String::new(), None),
            Kind::SrtCaller => (
                format!("srt://127.0.0.1:{port}?mode=caller"),
                format!("srt://127.0.0.1:{port}?mode=listener&pkt_size=1316"),
                None,
            ),
            Kind::App => ("app://datagrams".into(), format!("udp://127.0.0.1:{port}?pkt_size=1316"), None),
            Kind::Rtmp => (format!("rtmp://127.0.0.1:0/live/K{port}?mode=listener"), String::new(), None),
            Kind::RtmpPull => {
                let nginx = Nginx::start();
                let url = nginx.url();
                (format!("{url}?key=K"), format!("{url}/K"), Some(Server::Nginx(nginx)))
            }
            Kind::Rtp => ("rtp://127.0.0.1:0".into(), String::new(), None),
            Kind::Udp => ("udp://127.0.0.1:0".into(), String::new(), None),
            Kind::Rist => (format!("rist://127.0.0.1:{}", even_port()), String::new(), None),
            Kind::RtspListener => (format!("rtsp://127.0.0.1:0/in{port}?mode=listener"), String::new(), None),
            Kind::RtspCaller => {
                let source = Source::rtsp_listener("in", "127.0.0.1:0", "in");
                let server = Rig::start(source, vec![Output::rtsp_listener("out", "127.0.0.1:0", "cam").into()]);
                (server.playback(), server.input(), Some(Server::Flow(server)))
            }
        };
        Self { kind, url, target, _server: server }
    }

    /// Starts the sender.
    fn send(&self, host: &mut dyn Host, name: &str, clock: &str) -> Peer {
        let address = match self.kind {
            Kind::App => {
                let port = self.target.split([':', '?']).nth(2).unwrap().parse().unwrap();
                host.feed(name, port);
                self.target.clone()
            }
            _ if !self.target.is_empty() => self.target.clone(),
            Kind::SrtListener => format!("{}?pkt_size=1316", host.address(name)),
            Kind::Udp => format!("{}?pkt_size=1316", host.address(name)),
            _ => host.address(name),
        };
        let format: &[&str] = match self.kind {
            Kind::Rtmp | Kind::RtmpPull => &["-f", "flv"],
            Kind::Rtp => &["-f", "rtp_mpegts"],
            Kind::Rist => &["-f", "mpegts", "-rist_profile", "simple"],
            Kind::RtspListener | Kind::RtspCaller => &["-f", "rtsp", "-rtsp_transport", "tcp"],
            _ => &["-f", "mpegts"],
        };
        let arguments = [&["-map", "0", "-c", "copy", "-output_ts_offset", clock][..], format, &[&address]].concat();
        media::play(&MINUTE, &arguments)
    }
}

/// Starts the player of the output of a family; returns it with the file that it writes.
fn play(kind: Kind, url: &str, folder: &Path) -> (Peer, PathBuf) {
    let (before, format): (&[&str], &str) = match kind {
        Kind::Rtmp | Kind::RtmpPull => (&[], "flv"),
        Kind::RtspListener | Kind::RtspCaller => (&["-rtsp_transport", "tcp"], "mpegts"),
        _ => (&[], "mpegts"),
    };
    let file = folder.join(format!("played.{format}"));
    // Times stay as they come: ffmpeg would mend those that leap.
    let options = ["-v", "warning", "-nostdin", "-y", "-copyts"];
    let output = ["-map", "0:v", "-map", "0:a", "-c", "copy", "-muxdelay", "0", "-f", format, text(&file)];
    let peer = Peer::start("ffmpeg", &[&options[..], before, &["-i", url], &output].concat());
    (peer, file)
}

fn output_url(kind: Kind) -> String {
    match kind {
        Kind::SrtListener | Kind::SrtCaller | Kind::App => "srt://127.0.0.1:0?mode=listener".into(),
        Kind::Rtmp | Kind::RtmpPull => "rtmp://127.0.0.1:0/play/KEY?mode=listener".into(),
        Kind::Rtp | Kind::Udp | Kind::Rist => format!("udp://127.0.0.1:{}", free_port()),
        Kind::RtspListener | Kind::RtspCaller => "rtsp://127.0.0.1:0/play?mode=listener".into(),
    }
}

fn named<'a>(stats: &'a Value, list: &str, name: &str) -> &'a Value {
    stats[list].as_array().unwrap().iter().find(|endpoint| endpoint["name"] == name).unwrap_or(&Value::Null)
}

/// Waits until a source feeds the flow, and the output has handed on some packets more.
#[track_caller]
fn fed_by(host: &mut dyn Host, name: &str, senders: &[Peer]) {
    let said = || senders.iter().map(Peer::output).collect::<String>();
    eventually(&format!("media of {name}: {}", said()), || {
        (named(&host.stats(), "sources", name)["active"] == true).then_some(())
    });
    let before = named(&host.stats(), "outputs", "out")["packets"].as_u64().unwrap();
    eventually(&format!("more packets of {name}: {}", said()), || {
        let now = named(&host.stats(), "outputs", "out")["packets"].as_u64()?;
        (now > before + PACKETS).then_some(())
    });
}

#[track_caller]
fn connected(host: &mut dyn Host, name: &str, sender: &Peer) {
    eventually(&format!("{name} connects: {}", sender.output()), || {
        (named(&host.stats(), "sources", name)["state"] == "connected").then_some(())
    });
}

fn has_ended(peer: &Peer) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", peer.id())).unwrap_or_default();
    status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Four sources, one after the other: added and switched to, added in the place of another one and switched to, left by
/// the removal of the one that feeds the flow, and put in the place of the one that feeds the flow.
fn sources_change_live(host: &mut dyn Host, kinds: [Kind; 4]) {
    let feeds = kinds.map(Feed::new);
    let output = output_url(kinds[0]);
    host.start(&json!({
        "name": "live", "max_bandwidth": "20M",
        "sources": [{ "name": "one", "url": feeds[0].url }],
        "outputs": [{ "name": "out", "url": output }]
    }));
    let folder = tempfile::tempdir().unwrap();
    let listens = !output.starts_with("udp:");
    let url = if listens { host.playback() } else { output };
    let mut senders = vec![feeds[0].send(host, "one", CLOCKS[0])];
    // Reports of an RTSP sender that come over UDP may come behind its first packets, which ffmpeg holds against its times.
    eventually(&format!("the first source: {}", senders[0].output()), || {
        (named(&host.stats(), "sources", "one")["packets"].as_u64() > Some(3 * PACKETS)).then_some(())
    });
    let (mut player, file) = play(kinds[0], &url, folder.path());
    eventually(&format!("a recording: {}", player.output()), || {
        file.metadata().is_ok_and(|file| file.len() > 100_000).then_some(())
    });
    let peer = |host: &mut dyn Host| named(&host.stats(), "outputs", "out")["players"][0]["peer"].clone();
    let at_first = peer(host);
    assert_eq!(at_first.is_string(), listens, "{at_first}");
    fed_by(host, "one", &senders);

    host.add("two", &feeds[1].url);
    senders.push(feeds[1].send(host, "two", CLOCKS[1]));
    connected(host, "two", &senders[1]);
    host.switch_to("two");
    fed_by(host, "two", &senders);

    host.replace("one", "three", &feeds[2].url);
    senders.push(feeds[2].send(host, "three", CLOCKS[2]));
    connected(host, "three", &senders[2]);
    host.switch_to("three");
    fed_by(host, "three", &senders);

    host.remove("three");
    fed_by(host, "two", &senders);

    host.replace("two", "four", &feeds[3].url);
    senders.push(feeds[3].send(host, "four", CLOCKS[3]));
    fed_by(host, "four", &senders);

    let stats = host.stats();
    assert_eq!(stats["sources"].as_array().unwrap().len(), 1, "{stats}");
    assert_eq!((peer(host), &named(&stats, "outputs", "out")["reconnections"]), (at_first, &json!(0)));
    assert!(!has_ended(&player), "{}", player.output());
    player.signal(libc::SIGINT); // it writes the end of its file
    player.finish();
    let said = player.output();
    assert!(!said.to_lowercase().contains("non-monoton") && !said.contains("non monoton"), "{said}");
    for stream in ["v:0", "a:0"] {
        let times = media::check_times(&file, stream);
        let greatest = times.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
        let length = times[times.len() - 1].0 - times[0].0;
        println!("{kinds:?} {stream}: {} packets, {length:.2} s, greatest step {greatest:.2} s", times.len());
        assert!(times.len() > 100 && greatest < MAX_STEP, "{stream}: {} packets, {greatest} s\n{said}", times.len());
    }
}

macro_rules! live {
    ($($rust:ident, $c:ident: $($kind:ident),+;)+) => {
        $(
            #[test]
            fn $rust() {
                sources_change_live(&mut RustHost::new(), [$(Kind::$kind),+]);
            }

            #[test]
            fn $c() {
                sources_change_live(&mut CHost::new(), [$(Kind::$kind),+]);
            }
        )+
    };
}

live! {
    srt_listener_sources_change_live_in_rust, srt_listener_sources_change_live_in_c:
        SrtListener, SrtListener, SrtCaller, SrtListener;
    srt_caller_sources_change_live_in_rust, srt_caller_sources_change_live_in_c:
        SrtCaller, SrtCaller, SrtListener, SrtCaller;
    app_sources_change_live_in_rust, app_sources_change_live_in_c: App, App, SrtListener, App;
    rtmp_sources_change_live_in_rust, rtmp_sources_change_live_in_c: Rtmp, Rtmp, RtmpPull, Rtmp;
    rtmp_pull_sources_change_live_in_rust, rtmp_pull_sources_change_live_in_c: RtmpPull, RtmpPull, Rtmp, RtmpPull;
    rtp_sources_change_live_in_rust, rtp_sources_change_live_in_c: Rtp, Rtp, Udp, Rtp;
    udp_sources_change_live_in_rust, udp_sources_change_live_in_c: Udp, Udp, Rist, Udp;
    rist_sources_change_live_in_rust, rist_sources_change_live_in_c: Rist, Rist, Rtp, Rist;
    rtsp_push_sources_change_live_in_rust, rtsp_push_sources_change_live_in_c:
        RtspListener, RtspListener, RtspCaller, RtspListener;
    rtsp_pull_sources_change_live_in_rust, rtsp_pull_sources_change_live_in_c:
        RtspCaller, RtspCaller, RtspListener, RtspCaller;
}
