//! The C ABI from C and C++: compiled with every warning an error, linked statically and dynamically, run under Valgrind
//! and sanitizers.

use std::path::{Path, PathBuf};
use streamlink_tests::{
    clip, media,
    peer::{Peer, built, run, target},
    rig::text,
    root,
};

const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_POSIX_C_SOURCE=200809L"];

/// The programs in `tests/c`.
const PROGRAMS: [&str; 6] = ["lifecycle.c", "misuse.c", "callbacks.c", "reentry.c", "engine_view.c", "live.c"];

fn compile(compiler: &str, source: &Path, program: &Path, is_static: bool, more: &[&str]) {
    let include = format!("-I{}", root().join("include").display());
    let is_cpp = compiler.ends_with("++");
    let library = target().join(if is_static { "libstreamlink.a" } else { "libstreamlink.so" });
    let rpath = format!("-Wl,-rpath,{}", target().display());
    let (standard, language) = if is_cpp { ("-std=c++17", "c++") } else { ("-std=c99", "c") };
    let mut arguments = vec![standard, "-x", language, "-g", &include];
    arguments.extend(WARNINGS);
    arguments.extend(more);
    arguments.extend([text(source), "-x", "none", text(&library), &rpath]);
    arguments.extend(["-lpthread", "-ldl", "-lm", "-o", text(program)]);
    run(compiler, &arguments);
}

fn c(name: &str) -> PathBuf {
    root().join("tests/c").join(name)
}

#[test]
fn c_programs_use_and_misuse_the_library_in_every_linkage() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    let wrapper = root().join("tests/cpp/wrapper.cpp");
    let mut runs: Vec<(&str, PathBuf)> = Vec::new();
    for compiler in ["gcc", "clang", "g++", "clang++"] {
        runs.extend(PROGRAMS.map(|name| (compiler, c(name))));
    }
    runs.extend([("g++", wrapper.clone()), ("clang++", wrapper)]);
    let program = folder.path().join("program");
    for (compiler, source) in runs {
        for is_static in [false, true] {
            // What is linked how makes a difference once a compiler, not once a program.
            if is_static && !source.ends_with("lifecycle.c") {
                continue;
            }
            compile(compiler, &source, &program, is_static, &[]);
            assert_eq!(run(text(&program), &[]), "ok\n", "{compiler} {}", source.display());
        }
    }
}

#[test]
fn c_abi_has_no_leak_or_invalid_access_under_valgrind() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let wrapper = root().join("tests/cpp/wrapper.cpp");
    let programs = PROGRAMS.map(|name| ("gcc", c(name)));
    for (compiler, source) in programs.into_iter().chain([("g++", wrapper)]) {
        compile(compiler, &source, &program, false, &[]);
        let leaks = ["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"];
        let said = run("valgrind", &[&["-q", "--error-exitcode=9"], &leaks[..], &[text(&program)]].concat());
        assert!(said.contains("ok\n"), "{said}");
    }
}

#[test]
fn c_abi_passes_sanitizers() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let suppressions = folder.path().join("suppressions");
    // The library is not instrumented: its own locks are not seen, nor are its accesses to be judged.
    std::fs::write(&suppressions, "called_from_lib:libstreamlink.so\n").unwrap();
    let options = format!("TSAN_OPTIONS=suppressions={} ignore_noninstrumented_modules=1", text(&suppressions));
    for name in PROGRAMS {
        compile("gcc", &c(name), &program, false, &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        assert_eq!(run(text(&program), &[]), "ok\n", "{name}");
        compile("gcc", &c(name), &program, false, &["-fsanitize=thread"]);
        // Without address randomisation, which some kernels have too much of for it.
        assert_eq!(run("env", &[&options, "setarch", "-R", text(&program)]), "ok\n", "{name}");
    }
}

/// The order in which a compiler reads arguments is its own affair: an error must reach the user with each of them.
#[test]
fn c_examples_print_errors_with_every_compiler_and_leak_nothing() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let media = folder.path().join("media");
    std::fs::write(&media, [0x47; 188]).unwrap();
    let cases = [
        (
            "relay.c",
            ["wrong://x", "out=srt://127.0.0.1:9"],
            "error 2: sources[0].url: `the scheme of the URL` is not one of rtp, udp, rist, srt,",
        ),
        (
            "host.c",
            [text(&media), "wrong://x"],
            "error 2: outputs[0].url: `the scheme of the URL` is not one of rtp, udp, rist, srt,",
        ),
    ];
    for compiler in ["gcc", "clang"] {
        for (name, arguments, error) in &cases {
            // Not every system has the sanitizers of clang.
            let last: &[&str] = if compiler == "gcc" { &["-fsanitize=address"] } else { &["-O3"] };
            for more in [&[][..], &["-O2"], last] {
                compile(compiler, &root().join("examples/c").join(name), &program, false, more);
                let mut example = Peer::start(&program, arguments);
                let status = example.finish();
                let said = example.output();
                assert_eq!(status.code(), Some(1), "{compiler} {more:?} {name}: {said}");
                assert!(said.contains(error), "{compiler} {more:?} {name}: {said}");
                assert!(!said.contains("LeakSanitizer"), "{said}");
            }
        }
    }
}

#[test]
fn c_abi_layout_matches_the_committed_list() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("layout");
    let include = format!("-I{}", root().join("include").display());
    let source = c("layout.c");
    run("gcc", &[&["-std=c99", &include], &WARNINGS[..], &[text(&source), "-o", text(&program)]].concat());
    let committed = std::fs::read_to_string(root().join("streamlink-ffi/layout.txt")).unwrap();
    assert_eq!(run(text(&program), &[]), committed, "the layout of the ABI has changed");
    // Nothing of the header is missing in that program.
    let header = std::fs::read_to_string(root().join("include/streamlink.h")).unwrap();
    let numbers = header.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(name, _)| name);
    for name in numbers.filter(|name| name.starts_with("STREAMLINK_")) {
        assert!(committed.contains(&format!("{name} ")), "{name}");
    }
    let structs = header.lines().filter_map(|line| line.strip_prefix("} ")?.strip_suffix(';'));
    for name in structs {
        assert!(committed.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
    }
}

#[test]
fn readme_c_code_compiles_and_runs() {
    built(&["-p", "streamlink-ffi"]);
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let code = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("readme.c");
    let program = folder.path().join("readme");
    std::fs::write(&source, code).unwrap();
    compile("gcc", &source, &program, false, &[]);
    assert!(run(text(&program), &[]).contains("send to rtp://"));
}

/// A host in C switches between two publishers, each with an address that the failover switch has made, while ffmpeg
/// records: its connection stays, and no time goes back.
#[test]
fn c_host_switches_sources_and_the_player_stays() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("switcher");
    let recorded = folder.path().join("played.flv");
    compile("gcc", &c("switcher.c"), &program, false, &[]);
    let mut host = Peer::start(&program, &["3"]);
    let address = |name: &str| host.wait_for_word(&format!("{name} "));
    // Key frames come once a second, so that no switch waits long. The times of the two publishers differ.
    let looped = folder.path().join("looped.flv");
    let video = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0", "-c:a", "aac", "-t", "40"];
    run(
        "ffmpeg",
        &[&["-v", "error", "-nostdin", "-stream_loop", "20", "-i", text(&clip())], &video[..], &[text(&looped)]]
            .concat(),
    );
    let publish = |url: &str, offset: &str| {
        let copy = ["-map", "0", "-c", "copy", "-output_ts_offset", offset, "-f", "flv", url];
        media::play(&looped, &copy)
    };
    let _first = publish(&address("venue"), "0");
    let _second = publish(&address("venue-backup"), "40");
    let url = address("play");
    let mut all = vec!["-v", "error", "-nostdin", "-y", "-i", &url];
    all.extend(["-map", "0:v", "-map", "0:a", "-c", "copy", "-f", "flv", text(&recorded)]);
    let mut player = Peer::start("ffmpeg", &all);
    host.wait_for("switched 3");
    assert!(host.finish().success(), "{}", host.output());
    player.finish();
    for stream in ["v:0", "a:0"] {
        let times = media::check_times(&recorded, stream);
        let greatest = times.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
        assert!(times.len() > 100 && greatest < 5.0, "{stream}: {} packets, {greatest} s", times.len());
    }
}
