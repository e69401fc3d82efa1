use super::{
    super::{
        Output, Source,
        setting::{find, nearest, settings},
        settings::{list, set},
    },
    *,
};
use std::{collections::HashSet, fmt::Write, fs, path::Path};

/// An endpoint of each scope.
fn endpoints() -> Vec<Box<dyn Fields>> {
    let sources = [
        "rtmp://:1935/live",
        "rtmp://h/live/KEY",
        "srt://:9000",
        "srt://h:9000",
        "rtp://:5004",
        "udp://:1234",
        "rist://:5000",
        "rtsp://:8554/cam",
        "rtsp://h/cam",
        "app://rtp",
    ];
    let outputs = [
        "rtmp://h/live/KEY?relay=true",
        "rtmp://h/live/KEY",
        "rtmp://:1935/live",
        "srt://:9000",
        "srt://h:9000",
        "rtp://h:5004",
        "udp://h:1234",
        "rist://h:5000",
        "rtsp://:8554/cam",
        "rtsp://h/cam",
        "tap:",
    ];
    let mut all: Vec<Box<dyn Fields>> = Vec::new();
    for url in sources {
        let source = Source::from_url("a", url);
        assert_eq!(source.common.errors, [], "{url}");
        all.push(Box::new(source.kind));
    }
    for url in outputs {
        let output = Output::from_url("a", url);
        assert_eq!(output.common.errors, [], "{url}");
        all.push(Box::new(output.kind));
    }
    all
}

/// Returns a valid value of a setting.
fn sample(setting: &Setting) -> String {
    match (setting.name, setting.value) {
        ("second", _) if setting.secret => "rtmp://h:1935/live KEY".into(),
        (_, Number { min, max }) => if max.to_string() == setting.default { min } else { max }.to_string(),
        (_, Boolean) => (setting.default != "true").to_string(),
        (_, Choice(words)) => words.iter().rfind(|word| **word != setting.default).unwrap().to_string(),
        (_, Text { min, .. }) => "x".repeat(usize::try_from(min.max(1)).unwrap()),
        ("allow", _) => "10.0.0.0/8".into(),
        ("maxbw", _) => "20M".into(),
        ("nodes", _) => "a:9000,b:9001".into(),
        ("type", _) => "backup".into(),
        ("packetfilter", _) => "fec,cols:10,rows:5".into(),
        ("iface", _) => "eth1".into(),
        ("source", _) => "192.0.2.1".into(),
        ("pt", _) => "33".into(),
        ("second", _) => "h:5006".into(),
        ("fec", _) => "5,10,row".into(),
        ("program", _) => "7".into(),
        ("bind", _) => "192.0.2.5:6000".into(),
        ("congestion", _) => "bbr".into(),
        ("ssrc", _) => "random".into(),
        ("tls_fingerprint", _) => vec!["AB"; 32].join(":"),
        ("multicast", _) => "239.1.1.1:5000".into(),
        other => panic!("no sample of {other:?}"),
    }
}

#[test]
fn settings_are_set_and_read_back_as_the_table_says() {
    let mut seen = HashSet::new();
    for fields in &mut endpoints() {
        let fields = &mut **fields;
        let scope = fields.scope();
        assert!(seen.insert(scope), "{scope}");
        for row in TABLE.iter().filter(|row| row.setting.scopes.contains(&scope)) {
            let (setting, Some(access)) = (&row.setting, &row.access) else { continue };
            if let Some(value) = (access.get)(fields).filter(|_| setting.name != "key") {
                assert_eq!(value, setting.default, "default of {} of {scope}", setting.name);
            }
            if setting.name == "local_port" {
                // It is a part of the address, if there is one.
                assert_eq!(set(fields, "bind", ":0"), Ok(()));
            }
            let value = sample(setting);
            assert_eq!(set(fields, setting.name, &value), Ok(()), "{}={value} of {scope}", setting.name);
            let listed = list(fields).0;
            let is_hidden = setting.name == "query" || (setting.name == "key" && (access.get)(fields).is_none());
            let is_listed = listed.iter().any(|(name, text)| *name == setting.name && *text == value);
            assert!(is_listed || is_hidden, "{}={value} of {scope} in {listed:?}", setting.name);
            if let Number { min, max } = setting.value {
                assert!(set(fields, setting.name, &min.to_string()).is_ok(), "{}", setting.name);
                for bad in [(max + 1).to_string(), "-1".into(), String::new(), "1x".into(), "9".repeat(40)] {
                    let error = set(fields, setting.name, &bad).unwrap_err();
                    assert!(
                        !matches!(error, ConfigErrorKind::UnknownSetting { .. }),
                        "{}={bad}: {error}",
                        setting.name
                    );
                }
                assert!(min == 0 || set(fields, setting.name, &(min - 1).to_string()).is_err(), "{}", setting.name);
            }
            if !setting.default.is_empty() {
                assert_eq!(set(fields, setting.name, setting.default), Ok(()), "{} of {scope}", setting.name);
            }
        }
        // What the table does not have for it, it does not take.
        for setting in settings().filter(|setting| find(scope, setting.name).is_none()) {
            let error = set(fields, setting.name, "1").unwrap_err();
            assert!(matches!(error, ConfigErrorKind::UnknownSetting { .. }), "{} of {scope}: {error}", setting.name);
        }
    }
    assert_eq!(seen.len() + 2, SettingScope::ALL.len(), "each endpoint, beside the flow and its failover");
}

#[test]
fn settings_have_one_row_a_name_and_scope() {
    for scope in SettingScope::ALL {
        let mut names = HashSet::new();
        for setting in scope.settings() {
            assert!(names.insert(setting.name), "{} of {scope}", setting.name);
            assert!(setting.summary.ends_with('.') && !setting.summary.contains('|'), "{}", setting.name);
        }
    }
}

#[test]
fn unknown_setting_names_the_nearest() {
    let scope = SrtCallerSource;
    let near = |name| nearest(name, scope.settings().map(|setting| setting.name));
    assert_eq!(near("latencty"), ["latency"]);
    assert_eq!(near("lantecy"), ["latency"]);
    assert_eq!(near("passphrse"), ["passphrase"]);
    assert_eq!(near("LATENCY"), ["latency"]);
    assert_eq!(near("idle"), ["idle_timeout", "peeridletimeo"]);
    assert_eq!(near("stream_id"), ["streamid"]);
    assert_eq!(near("zzzzzz"), [""; 0]);
    assert_eq!(near(&"x".repeat(10_000)), [""; 0]);
    let error = |url: &str| Source::from_url("a", url).common.errors[0].to_string();
    assert_eq!(error("srt://h:1?latencty=5"), "latencty: there is no such setting; similar: latency");
    assert_eq!(
        error("srt://h:1?chunk_size=5"),
        "chunk_size: there is no such setting for this SRT caller source; it belongs to: RTMP output, RTMP_PUSH output"
    );
    assert_eq!(error("srt://h:1?zzzzzz=5"), "zzzzzz: there is no such setting");
}

/// Returns the page of all settings.
fn page() -> String {
    let mut out = String::from(
        "# Settings\n\n\
         Generated from the table in `streamlink-core/src/flow/setting_table.rs`; to refresh it:\n\
         `UPDATE_SETTINGS=1 cargo test -p streamlink-core --lib settings_page`.\n\n\
         A setting has one name in the query of a URL, as a member beside the URL in JSON, and in C\n\
         (`streamlink_source_set`, `streamlink_output_set`). The method is that of the Rust builder. In the addresses of\n\
         RTSP callers and RTMP callers, names that are not in the table of that endpoint go to the server; `query` carries\n\
         those that are.\n",
    );
    for scope in SettingScope::ALL {
        let _ = write!(out, "\n## {scope}\n\n| name | method | value | default | meaning |\n|---|---|---|---|---|\n");
        for setting in scope.settings() {
            let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
            let unit = if setting.unit.is_empty() { String::new() } else { format!(" {}", setting.unit) };
            let aliases: String = setting.aliases.iter().map(|alias| format!(", `{alias}`")).collect();
            let secret = if setting.secret { " Secret." } else { "" };
            let _ = writeln!(
                out,
                "| `{}`{aliases} | {} | {}{unit} | {} | {}{secret} |",
                setting.name,
                code(setting.method),
                setting.range(),
                code(setting.default),
                setting.summary,
            );
        }
    }
    out
}

#[test]
fn settings_page_is_fresh() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if !docs.is_dir() {
        return; // The packaged crate stands alone, without the repository's documents.
    }
    let path = docs.join("settings.md");
    let fresh = page();
    if std::env::var_os("UPDATE_SETTINGS").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "docs/settings.md is not fresh: UPDATE_SETTINGS=1 cargo test -p streamlink-core --lib settings_page"
    );
}
