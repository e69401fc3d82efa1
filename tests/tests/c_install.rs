//! The installed library for C and C++ programs: headers, libraries, pkg-config, CMake; and the examples, built against
//! it and run with real media.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use streamlink_tests::{
    clip, eventually,
    media::play,
    peer::{self, Peer, run, target},
    rig::{free_port, text},
    root,
    rtp::Sink,
};

/// Folder in which the library is installed, once for all tests.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // It stays until the next run: other builds of the examples lie beside it.
        let prefix = target().join("c-install");
        let _ = fs::remove_dir_all(&prefix);
        let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        build.args(["cinstall", "--debug", "-p", "streamlink-ffi", "--libdir=lib"]).current_dir(root());
        // It is a build, and takes as long as that takes.
        let output = build.arg(format!("--prefix={}", text(&prefix))).output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        prefix
    })
}

#[test]
fn c_abi_exports_exactly_the_committed_symbols() {
    let library = installed().join("lib/libstreamlink.so");
    let mut symbols: Vec<String> = run("nm", &["-D", "--defined-only", text(&library)])
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect();
    symbols.sort();
    let committed = fs::read_to_string(root().join("streamlink-ffi/symbols.txt")).unwrap();
    assert_eq!(symbols, committed.lines().collect::<Vec<_>>(), "streamlink-ffi/symbols.txt");
    assert!(symbols.iter().all(|name| name.starts_with("streamlink_")));
    assert!(run("readelf", &["-d", text(&library)]).contains("soname: [libstreamlink.so.0.1]"));
    for version in ["lib/libstreamlink.so.0.1", concat!("lib/libstreamlink.so.", env!("CARGO_PKG_VERSION"))] {
        assert!(installed().join(version).exists(), "{version}");
    }
    // The versions of the packages are that of the crate.
    let read = |file: &str| fs::read_to_string(installed().join(file)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let cmake = read("share/cmake/streamlink/streamlink-config-version.cmake");
    assert!(cmake.contains(&format!("set(PACKAGE_VERSION {version})")));
    assert!(read("lib/pkgconfig/streamlink.pc").contains(&format!("Version: {version}")));
}

/// The flags of pkg-config.
fn flags(kind: &[&str]) -> Vec<String> {
    let path = format!("PKG_CONFIG_PATH={}", text(&installed().join("lib/pkgconfig")));
    let said = run("env", &[&[&path, "pkg-config"][..], kind, &["streamlink"]].concat());
    said.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn pkg_config_builds_static_and_dynamic_programs() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = text(installed()).to_owned();
    let source = root().join("tests/c/lifecycle.c");
    for is_static in [false, true] {
        let program = folder.path().join(if is_static { "static" } else { "dynamic" });
        let mut libraries = flags(if is_static { &["--static", "--libs"] } else { &["--libs"] });
        if is_static {
            // Of this library the archive; of the system's the shared ones.
            for flag in &mut libraries {
                *flag = flag.replace("-lstreamlink", "-l:libstreamlink.a");
            }
        } else {
            libraries.push(format!("-Wl,-rpath,{prefix}/lib"));
        }
        let mut arguments: Vec<String> =
            ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Werror"].map(String::from).into();
        arguments.extend(flags(&["--cflags"]));
        arguments.extend([text(&source).to_owned(), "-o".into(), text(&program).to_owned()]);
        arguments.extend(libraries);
        run("gcc", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(run(text(&program), &[]), "ok\n");
        let needs = run("readelf", &["-d", text(&program)]).contains("libstreamlink.so.0.1");
        assert_eq!(needs, !is_static);
    }
}

/// The examples, built with CMake; the first time they are asked for.
fn examples(is_static: bool) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    BUILT[usize::from(is_static)].get_or_init(|| {
        let build = installed().join(if is_static { "examples-static" } else { "examples" });
        let source = root().join("examples");
        let prefix = format!("-DCMAKE_PREFIX_PATH={}", text(installed()));
        let linkage = format!("-DSTREAMLINK_STATIC={}", if is_static { "ON" } else { "OFF" });
        run("cmake", &["-S", text(&source), "-B", text(&build), &prefix, &linkage]);
        run("cmake", &["--build", text(&build)]);
        build
    })
}

/// Returns the text behind some words in a program's output, on the same line.
fn said_after(peer: &Peer, words: &str) -> String {
    eventually(&format!("`{words}`: {}", peer.output()), || {
        let output = peer.output();
        let line = output.lines().find_map(|line| line.strip_prefix(words).map(|rest| rest.trim().to_owned()));
        line.filter(|_| output.ends_with('\n'))
    })
}

#[test]
fn c_relay_example_relays_ffmpeg() {
    for is_static in [false, true] {
        let sink = Sink::new();
        let output = format!("studio=rtp://{}", sink.address());
        let mut relay = Peer::start(examples(is_static).join("relay"), &["rtp://127.0.0.1:0", &output]);
        let address = said_after(&relay, "send to rtp://");
        let mut sender = peer::ffmpeg_plays(&clip(), &[&address]);
        assert!(sender.finish().success());
        relay.wait_for("source `source` carries MPEG-TS: H.264");
        relay.signal(libc::SIGINT);
        assert!(relay.finish().success(), "{}", relay.output());
        let received = sink.drain(std::time::Duration::from_millis(200));
        let bytes: usize = received.iter().map(|packet| packet.len() - 12).sum();
        assert!(bytes > 500_000 && relay.output().contains("Mb/s"), "{bytes} {}", relay.output());
    }
}

#[test]
fn c_relay_example_shows_the_public_host_and_the_key_apart() {
    let relay = examples(false).join("relay");
    let source = "rtmp://:0/live/KEY";
    let mut relay = Peer::start("env", &["PUBLIC_HOST=media.example.com", text(&relay), source]);
    let address = said_after(&relay, "send to ");
    let server = address.strip_suffix("/KEY").unwrap();
    assert!(server.starts_with("rtmp://media.example.com:") && server.ends_with("/live"), "{address}");
    relay.wait_for(&format!("server {server}, stream key KEY"));
    relay.signal(libc::SIGINT);
    assert!(relay.finish().success(), "{}", relay.output());
}

#[test]
fn c_host_example_pushes_and_taps() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("played.ts");
    let port = free_port();
    let url = format!("srt://127.0.0.1:{port}?mode=listener");
    let feed = format!("ffmpeg -v error -nostdin -re -i '{}' -map 0 -c copy -f mpegts -", text(&clip()));
    let command = format!("{feed} | '{}' - '{url}'", text(&examples(false).join("host")));
    let mut host = Peer::start("sh", &["-c", &command]);
    host.wait_for("play srt://");
    let command = format!("exec srt-live-transmit -q 'srt://127.0.0.1:{port}' file://con >'{}'", text(&file));
    let mut player = Peer::start("sh", &["-c", &command]);
    assert!(host.finish().success(), "{}", host.output());
    let said = host.output();
    let (seen, all) = said.split(" packets, ").nth(1).and_then(|rest| rest.trim().split_once(" bytes of ")).unwrap();
    assert!(seen == all && seen.parse::<usize>().unwrap() > 500_000, "{said}");
    player.signal(libc::SIGINT); // it would call again
    player.finish();
    // It came while ffmpeg was sending: it has whole transport packets from then on.
    let played = fs::read(&file).unwrap();
    assert!(
        played.len() > 188 * 100
            && played.len().is_multiple_of(188)
            && played.chunks(188).all(|packet| packet[0] == 0x47)
    );
    // A file is pushed as it is.
    let mut host = Peer::start(examples(true).join("host"), &[text(&clip()), "srt://127.0.0.1:0?mode=listener"]);
    assert!(host.finish().success(), "{}", host.output());
    let length = fs::metadata(clip()).unwrap().len();
    assert!(host.output().contains(&format!("{length} bytes of {length}")), "{}", host.output());
}

#[test]
fn cpp_failover_example_survives_encoder_loss() {
    let mut flow = Peer::start(examples(false).join("failover"), &["1"]);
    let main = said_after(&flow, "main   ");
    let backup = said_after(&flow, "backup ");
    let encoder = |url: &str| {
        let url = format!("{url}?mode=caller&pkt_size=1316");
        play(&clip(), &["-map", "0", "-c", "copy", "-f", "mpegts", &url])
    };
    let first = encoder(&main);
    flow.wait_for("source `main` connected");
    let _second = encoder(&backup);
    flow.wait_for("source `backup` connected");
    first.signal(libc::SIGKILL);
    assert!(flow.finish().success(), "{}", flow.output());
    assert!(flow.output().contains("main -> backup, gap "), "{}", flow.output());
    assert!(flow.output().contains("packets, active"), "{}", flow.output());
}
