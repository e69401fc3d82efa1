//! The public Rust API as a list, `streamlink-core/public-api.txt`, so that a change to it is seen in a review. The list is
//! read from the pages of rustdoc, which know what macros have made, and which the stable toolchain makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
    process::Command,
};
use streamlink_tests::root;

/// Returns the text of HTML: without tags, with the white space of one line.
fn text(html: &str) -> String {
    let mut out = String::new();
    let mut in_tag = false;
    for c in html.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            c => out.push(c),
        }
    }
    let out = out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    let out = out.replace("&nbsp;", " ").replace("&amp;", "&");
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the parts of a text that lie between two marks.
fn between<'a>(html: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    html.split(begin).skip(1).filter_map(move |rest| rest.split(end).next())
}

/// Returns the lines of a declaration with its fields or variants. Those that rustdoc folds are there, without the words
/// that fold them.
fn declaration(page: &str) -> Vec<String> {
    let block = between(page, "<pre class=\"rust item-decl\">", "</pre>").next().unwrap_or_default();
    let folds: Vec<&str> = between(block, "<summary class=\"hideme\">", "</summary>").collect();
    let unfolded = folds.into_iter().fold(block.to_owned(), |block, fold| block.replacen(fold, "", 1));
    // An attribute is a block of its own.
    unfolded.replace("</div>", "\n").lines().map(text).filter(|line| !line.is_empty()).collect()
}

/// Returns the signatures of a page: methods, associated constants and types below their `impl`, and implemented traits.
fn signatures(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    // Those of the blanket implementations say nothing about the type.
    let page = page.split("id=\"blanket-implementations\"").next().unwrap_or_default();
    let (own, rest) = page.split_once("id=\"trait-implementations\"").unwrap_or((page, ""));
    let (traits, automatic) = rest.split_once("id=\"synthetic-implementations\"").unwrap_or((rest, ""));
    let headers = |html| between(html, "class=\"code-header\">", "</h").map(text).filter(|line| !line.is_empty());
    let mut lines: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut block = None;
    for line in headers(own) {
        if line.starts_with("impl") {
            lines.entry(line.clone()).or_default();
            block = Some(line);
        } else if let Some(block) = &block {
            lines.entry(block.clone()).or_default().insert(line);
        }
        // Those before the first `impl`, variants and methods of a trait, stand in the declaration.
    }
    let implemented = headers(traits).filter(|line| line.starts_with("impl"));
    let threads = headers(automatic).filter(|line| line.contains("Send for") || line.contains("Sync for"));
    for line in implemented.chain(threads) {
        lines.entry(line).or_default();
    }
    lines
}

/// Returns the first line of the list: the rustdoc whose pages it was read from.
fn rustdoc() -> String {
    let version = Command::new("rustdoc").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    // As in `rustdoc 1.95.0 (59807616e 2026-04-14)`; patch releases keep the pages as they are.
    let release = version.split(['.', ' ']).skip(1).take(2).collect::<Vec<_>>().join(".");
    format!("# From the pages of rustdoc {release}")
}

fn api(folder: &Path) -> String {
    let index = fs::read_to_string(folder.join("all.html")).unwrap();
    let list = between(&index, "<ul class=\"all-items\">", "</ul>");
    let mut items: Vec<&str> = list.flat_map(|list| between(list, "<a href=\"", "\"")).collect();
    items.sort_unstable_by_key(|path| (path.rsplit('.').nth(1).unwrap_or_default(), *path));
    let mut out = rustdoc() + "\n";
    for item in items {
        let page = fs::read_to_string(folder.join(item)).unwrap();
        let mut is_begun = false; // by its attributes
        for line in declaration(&page) {
            writeln!(out, "{}{line}", if is_begun && line != "}" { "    " } else { "" }).unwrap();
            is_begun |= line.starts_with("pub ");
        }
        for (block, lines) in signatures(&page) {
            writeln!(out, "    {block}").unwrap();
            for line in lines {
                writeln!(out, "        {line}").unwrap();
            }
        }
    }
    out
}

#[test]
fn public_api_is_the_committed_list() {
    let target = streamlink_tests::peer::target();
    let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["doc", "--quiet", "--offline", "-p", "streamlink-core", "--no-deps", "--all-features"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .unwrap();
    assert!(status.success());
    let found = api(&target.join("doc/streamlink_core"));
    for known in ["pub struct Engine(", "pub fn latency(self, latency: Latency) -> Self", "SourceLost {"] {
        assert!(found.contains(known), "the pages of rustdoc are read: {known}");
    }
    let path = root().join("streamlink-core/public-api.txt");
    if std::env::var_os("UPDATE_API").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    if listed.lines().next() != Some(&rustdoc()) {
        // The pages of another rustdoc word the same API in another way. The list is compared where it was made.
        println!("not compared: {}", listed.lines().next().unwrap_or("there is no list"));
        return;
    }
    let gone: Vec<&str> = listed.lines().filter(|line| !found.lines().any(|other| other == *line)).collect();
    let new: Vec<&str> = found.lines().filter(|line| !listed.lines().any(|other| other == *line)).collect();
    assert!(
        listed == found,
        "the public API has changed; if it is meant to: UPDATE_API=1 cargo test -p streamlink-tests --test public_api\n\
         gone: {gone:#?}\nnew: {new:#?}"
    );
}
