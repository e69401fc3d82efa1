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
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|e| e == "rs") => vec![path],
            false => Vec::new(),
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

#[test]
fn layering_modules_import_only_downwards() {
    let allowed: &[(&str, &[&str])] = &[
        ("text", &[]),
        ("secret", &[]),
        ("error", &["text"]),
        ("time", &[]),
        ("lock", &[]),
        ("random", &["lock"]),
        ("test_rng", &[]), // for tests only
        ("media", &["lock"]),
        ("event", &["media", "error", "text", "lock"]), // `lock` for the queues
        ("net", &["lock"]),
        ("flow", &["media", "error", "random", "secret", "text"]),
        ("proto", &["media", "time", "error", "test_rng", "random", "secret", "text"]),
        ("router", &["media", "lock", "time", "error"]),
        ("fuzz", &["proto", "router", "flow", "media", "test_rng", "random"]), // for tests only
        (
            "endpoint",
            &["proto", "router", "net", "flow", "event", "media", "lock", "time", "error", "random", "secret", "text"],
        ),
        (
            "engine",
            &[
                "endpoint", "flow", "event", "router", "net", "media", "lock", "time", "error", "random", "secret",
                "text",
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
