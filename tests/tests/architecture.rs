//! Rules of the architecture: the layers of modules, where `unsafe` is allowed, and that the compiler explains a wrong
//! pairing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use streamlink_tests::root;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else if path.extension().is_some_and(|e| e == "rs") {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}

/// The modules at the top of the crate that a module imports, from its `use crate::` lines and paths.
fn imports(text: &str, all: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            // `use crate::{a::B, c::{D, E}}`: what stands at the first level.
            Some(group) => {
                let mut depth = 0;
                group
                    .split_inclusive([',', '{', '}'])
                    .scan(false, |ended, piece| {
                        let level = depth;
                        depth += piece.matches('{').count() as i32 - piece.matches('}').count() as i32;
                        let out = (!*ended).then_some((level, piece));
                        *ended |= depth < 0;
                        out
                    })
                    .filter(|(level, _)| *level == 0)
                    .map(|(_, piece)| piece.trim())
                    .collect()
            }
            None => vec![rest],
        };
        for name in names {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if all.contains(&name) {
                found.insert(name);
            }
        }
    }
    found
}

/// Host code that runs within a task must not wait for that task, so every task carries the mark.
#[test]
fn tasks_of_the_library_are_marked() {
    let folder = root().join("streamlink-core/src");
    let files = ["engine", "endpoint"].into_iter().flat_map(|name| sources(&folder.join(name)));
    for file in files.filter(|file| !file.to_string_lossy().ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let spawns = code.lines().filter(|line| line.contains("spawn(") || line.contains("spawn_on("));
        // `Tasks::spawn` marks what it is given.
        for line in spawns.filter(|line| !line.contains("fn spawn(") && !line.contains("tasks.spawn(")) {
            assert!(line.contains("lock::task("), "{}: {line}", file.display());
        }
        assert_eq!(
            code.matches("spawn_blocking(").count(),
            code.matches("lock::on_task(").count(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn layering_modules_import_only_downwards() {
    let allowed: &[(&str, &[&str])] = &[
        ("text", &[]),
        ("secret", &[]),
        ("serial", &["text"]),
        ("error", &["text"]),
        ("packet_filter", &["error"]),
        ("time", &[]),
        ("lock", &[]),
        ("random", &["lock"]),
        ("test_rng", &[]), // for tests only
        ("media", &["lock", "serial"]),
        ("event", &["media", "error", "text", "lock", "serial"]), // `lock` for the queues
        ("net", &["lock", "text"]),
        ("flow", &["media", "error", "packet_filter", "random", "secret", "text"]),
        ("proto", &["media", "time", "error", "packet_filter", "test_rng", "random", "secret", "text"]),
        ("router", &["media", "lock", "time", "error"]),
        ("loss_table", &["proto", "router", "media", "test_rng", "random", "packet_filter"]), // for tests only
        ("fuzz", &["proto", "router", "flow", "media", "test_rng", "random"]),                // for tests only
        (
            "endpoint",
            &[
                "proto", "router", "net", "flow", "event", "media", "lock", "time", "error", "random", "secret",
                "serial", "text",
            ],
        ),
        (
            "engine",
            &[
                "endpoint", "flow", "event", "router", "net", "media", "lock", "time", "error", "random", "secret",
                "serial", "text",
            ],
        ),
    ];
    let base = root().join("streamlink-core/src");
    let all: BTreeSet<String> = allowed.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut seen = BTreeSet::new();
    for file in sources(&base) {
        let relative = file.strip_prefix(&base).unwrap().to_str().unwrap().trim_end_matches(".rs");
        let module = relative.split('/').next().unwrap();
        if module == "lib" {
            continue;
        }
        let (_, may) =
            allowed.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("where does {module} belong?"));
        seen.insert(module.to_owned());
        let text = fs::read_to_string(&file).unwrap();
        for import in imports(&text, &all) {
            assert!(import == module || may.contains(&import.as_str()), "{relative} must not import {import}");
        }
    }
    assert_eq!(seen, all, "every module is there, and was looked at");
    let sample = "use crate::{\n    flow::{Flow, x::Y},\n    net,\n};\nlet a = crate::time::B;";
    assert_eq!(imports(sample, &all), ["flow", "net", "time"].map(String::from).into());
}

/// The code of a file without its test modules, with the number of each line.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Tests stand at the end of a file, or in files of their own.
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().enumerate().map(|(number, line)| (number + 1, line))
}

fn is_test_file(file: &Path) -> bool {
    file.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("tests"))
}

/// The names of protocols in a line, in any case, also within an identifier.
fn protocol_names(line: &str) -> Vec<&'static str> {
    let line = line.to_ascii_lowercase();
    ["srt", "rtmp", "rtsp", "rtp"].into_iter().filter(|name| line.contains(name)).collect()
}

#[test]
fn engine_names_no_protocol() {
    let mut files = 0;
    for file in sources(&root().join("streamlink-core/src/engine")).into_iter().filter(|file| !is_test_file(file)) {
        let text = fs::read_to_string(&file).unwrap();
        // An example in the documentation is code of a host, which chooses a protocol.
        let mut is_example = false;
        for (number, line) in production_lines(&text) {
            is_example ^= line.trim_start().starts_with("/// ```");
            if is_example {
                continue;
            }
            assert_eq!(protocol_names(line), Vec::<&str>::new(), "{}:{number}: {line}", file.display());
        }
        files += 1;
    }
    assert!(files >= 8, "the engine was looked at");
    assert_eq!(protocol_names("use crate::SrtOptions; // over RTMPS"), ["srt", "rtmp"]);
}

/// Files that tell the kinds of sources and outputs apart: the settings, and the table of drivers.
const KINDS: &[&str] = &[
    "flow/build.rs",
    "flow/claim.rs",
    "flow/output.rs",
    "flow/source.rs",
    "flow/url.rs",
    "flow/written_url.rs",
    "endpoint/kinds.rs",
];

#[test]
fn kinds_of_endpoints_are_told_apart_in_few_places() {
    let base = root().join("streamlink-core/src");
    let mut found = BTreeSet::new();
    for file in sources(&base).into_iter().filter(|file| !is_test_file(file)) {
        let text = fs::read_to_string(&file).unwrap();
        let variants = ["SourceKind::", "OutputKind::"];
        if production_lines(&text).any(|(_, line)| variants.iter().any(|variant| line.contains(variant))) {
            found.insert(file.strip_prefix(&base).unwrap().to_str().unwrap().to_owned());
        }
    }
    assert_eq!(found, KINDS.iter().map(|file| (*file).to_owned()).collect());
}

/// The folder of a protocol is reached by its drivers only: the compiler keeps other modules out, this test the other
/// endpoints.
#[test]
fn protocols_are_private_to_their_folders() {
    let endpoint = root().join("streamlink-core/src/endpoint");
    let module = fs::read_to_string(endpoint.join("mod.rs")).unwrap();
    for protocol in ["srt", "rtmp", "rtsp", "rtp"] {
        assert!(module.lines().any(|line| line == format!("mod {protocol};")), "{protocol} is private");
        for file in sources(&endpoint).into_iter().filter(|file| !file.starts_with(endpoint.join(protocol))) {
            let text = fs::read_to_string(&file).unwrap();
            for path in [format!("super::{protocol}::"), format!("endpoint::{protocol}::")] {
                assert!(!text.contains(&path), "{} uses {path}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_confined_to_net_and_ffi() {
    for (folder, exempt) in [("streamlink-core/src", "streamlink-core/src/net"), ("examples", "-")] {
        for file in sources(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            if !file.starts_with(root().join(exempt)) {
                assert!(!text.contains("unsafe {") && !text.contains("unsafe_code"), "{}", file.display());
            }
        }
    }
}

#[test]
fn randomness_of_the_system_is_asked_for_in_one_place() {
    for file in sources(&root().join("streamlink-core/src")) {
        let asks = fs::read_to_string(&file).unwrap().contains("getrandom");
        assert_eq!(asks, file.ends_with("src/random.rs"), "{}", file.display());
    }
}

#[test]
fn c_header_matches_the_code() {
    let ffi = root().join("streamlink-ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(&ffi).with_config(config).generate().unwrap();
    let mut fresh = Vec::new();
    bindings.write(&mut fresh);
    let path = root().join("include/streamlink.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let committed = fs::read(&path).unwrap();
    assert!(
        committed == fresh,
        "include/streamlink.h is not fresh: UPDATE_HEADER=1 cargo test -p streamlink-tests --test architecture"
    );
}

/// A crate of its own that pairs an SRT source with an RTP output: the compiler refuses it, and says what would be right.
#[test]
fn pairing_error_names_the_allowed_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let core = root().join("streamlink-core");
    let manifest = format!(
        "[package]\nname = \"pairing\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[dependencies]\nstreamlink-core = {{ path = {core:?} }}\n[workspace]\n"
    );
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::copy(root().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    let check = |output: &str| {
        let code = format!(
            "use streamlink_core::*;\npub fn f() {{ let _ = Flow::builder(\"f\", Bitrate::mbps(1)).source(Source::srt_listener(\"s\", \":9000\")).output({output}); }}\n"
        );
        fs::write(folder.path().join("src/lib.rs"), code).unwrap();
        let target = streamlink_tests::peer::target();
        let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(["check", "--quiet", "--offline"])
            .current_dir(folder.path())
            .env("CARGO_TARGET_DIR", target.join("pairing"))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, said) = check("Output::srt_listener(\"o\", \":9001\")");
    assert!(good, "{said}");
    let (good, said) = check("Output::rtp(\"o\", \"h:5004\")");
    assert!(!good);
    assert!(
        said.contains("cannot be fed by a source of family") && said.contains("SRT sources feed SRT, RTMP_PUSH, tap"),
        "{said}"
    );
}

/// The table of peers claims only what a test holds.
#[test]
fn interop_page_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/interop.md")).unwrap();
    let folders =
        ["tests/tests", "streamlink-core/src", "examples/console/tests"].map(|folder| sources(&root().join(folder)));
    let code: String = folders.iter().flatten().map(|file| fs::read_to_string(file).unwrap()).collect();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(!rows.is_empty());
    for row in rows {
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test is named: {row}");
        for name in names {
            let forms = ["#[test]\nfn ", "#[test]\n    fn ", "#[tokio::test]\n    async fn "];
            let is_test = forms.iter().any(|form| code.contains(&format!("{form}{name}()")));
            assert!(is_test, "there is no test `{name}`");
        }
    }
}

/// The map of the code names files that exist.
#[test]
fn map_names_files_that_exist() {
    let mut named = 0;
    for page in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        for path in quoted.filter(|path| path.contains('/') && (path.ends_with(".rs") || path.ends_with('/'))) {
            // The folder of a new protocol, as in `proto/NAME/`.
            let folders = ["", "streamlink-core/src", "streamlink-moq/src", "examples/console/src"];
            let exists = folders.iter().any(|folder| root().join(folder).join(path).exists());
            assert!(exists || path.contains("NAME"), "{page} names {path}");
            named += 1;
        }
    }
    assert!(named > 50, "the pages were read: {named}");
}

/// The map of the code names functions that stand in the file before them, as in "`a/b.rs` (`function`)".
#[test]
fn map_names_functions_that_exist() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut named = 0;
    for (at, _) in text.match_indices(".rs` (`") {
        let file = text[..at].rsplit('`').next().unwrap();
        let list = text[at + ".rs` (".len()..].split(')').next().unwrap();
        let code = fs::read_to_string(root().join("streamlink-core/src").join(format!("{file}.rs"))).unwrap();
        for function in list.split('`').skip(1).step_by(2) {
            let is_there = code.contains(&format!("fn {function}(")) || code.contains(&format!("fn {function}<"));
            assert!(is_there, "{file}.rs has no function {function}");
            named += 1;
        }
    }
    assert!(named > 10, "the page was read: {named}");
}
