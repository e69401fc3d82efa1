//! Every place of the page, as it looks.

use crate::{
    browser::Browser,
    page::{check_accessibility, check_width},
    support::{Console, feed, srt_flow},
};
use serde_json::json;
use std::path::PathBuf;
use streamlink_tests::{eventually, peer::Peer, rig::free_port};

/// Checks the place that is shown: its width, its accessibility, and no text that is cut off; and takes its picture.
#[track_caller]
fn check_place(browser: &Browser, name: &str) {
    check_width(browser, name);
    check_accessibility(browser, name);
    let cut = browser.script(
        "return [...document.querySelectorAll('button, .button, label, legend, th, h1, h2, dd, .badge')]
            .filter((node) => node.offsetParent && node.scrollWidth > node.clientWidth + 1
                && getComputedStyle(node).display !== 'inline').map((node) => node.textContent)",
        &[],
    );
    assert_eq!(cut, json!([]), "{name} has text that is cut off");
    if let Some(folder) = std::env::var_os("STREAMLINK_CONSOLE_PICTURES") {
        browser.whole_picture(&PathBuf::from(folder).join(format!("{name}.png")));
    }
}

/// Every place of the page, in both colours, on a screen and on a telephone.
#[test]
fn page_fits_both_colours_and_every_width() {
    let console = Console::start();
    let mut body = srt_flow("match-day");
    body["sources"].as_array_mut().unwrap().push(json!({
        "name": "a source with a name that is longer than others", "description": "from the van",
        "url": format!("srt://127.0.0.1:{}?mode=listener", free_port()), "passphrase": "secret-secret"
    }));
    body["outputs"] = json!([
        { "name": "partner", "url": "srt://127.0.0.1:0?mode=listener", "allow": "203.3.3.3/28;198.51.100.7;127.0.0.0/8" },
        { "name": "platform", "url": "rtmp://127.0.0.1:9/live/a-rather-long-application-name", "key": "hunter2" },
        { "name": "off", "url": "srt://127.0.0.1:9?mode=caller", "enabled": false }
    ]);
    let flow = console.post("/api/v1/flows", &body).of(201);
    let _sender = feed(flow["source_list"][0]["address"].as_str().unwrap());
    let url = flow["output_list"][0]["address"].as_str().unwrap();
    let _player = Peer::start("ffmpeg", &["-v", "error", "-nostdin", "-i", url, "-c", "copy", "-f", "null", "-"]);
    let rtmp = json!({ "name": "studio-b", "max_bandwidth": "5M",
        "sources": [{ "name": "obs", "url": "rtmp://127.0.0.1:0/live?mode=listener", "failover": true }],
        "outputs": [{ "name": "players", "url": "rtmp://127.0.0.1:0/live?mode=listener" }] });
    console.post("/api/v1/flows", &rtmp).of(201);
    console.post("/api/v1/flows", &srt_flow("stopped")).of(201);
    console.patch("/api/v1/flows/stopped", &json!({ "enabled": false })).of(200);
    eventually("a failing and a playing output", || {
        let flow = console.get("/api/v1/flows/match-day").of(200);
        (flow["outputs_failing"] == 1 && flow["players"] == 1).then_some(())
    });
    let kinds = console.get("/api/v1/settings").of(200);
    let sources: Vec<String> = kinds["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|scope| scope["direction"] == "source")
        .map(|scope| scope["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(sources.len() >= 8, "{sources:?}");
    for (colour, width) in [("light", 1200), ("dark", 1200), ("light", 360), ("dark", 360)] {
        let browser = Browser::start(width, 900);
        browser.prefer(colour);
        let name = |place: &str| format!("{place}-{width}-{colour}");
        browser.open(&console.url("/"));
        browser.find("//a[@class='name'][.='studio-b']");
        browser.wait_for("1 failing");
        check_place(&browser, &name("list"));
        browser.click("//a[normalize-space()='Create flow']");
        for source in &sources {
            browser.find(&format!("//select[option[@value='{source}']]"));
            browser.script(
                "const kind = [...document.querySelectorAll('select')].find((list) =>
                    [...list.options].some((option) => option.value === arguments[0]));
                kind.value = arguments[0];
                kind.dispatchEvent(new Event('change'));",
                &[source.as_str().into()],
            );
            check_place(&browser, &name(&format!("create-{}", source.replace(' ', "-"))));
        }
        for tab in ["source", "output", "events", "statistics", "settings"] {
            browser.open(&console.url(&format!("/#/flow/match-day/{tab}")));
            let settled = match tab {
                "source" => "feeds the flow",
                "output" => "ago)",
                "events" => "cannot connect",
                "statistics" => "Disconnect",
                _ => "Loss threshold",
            };
            browser.wait_for(settled);
            check_place(&browser, &name(tab));
        }
        browser.open(&console.url("/#/flow/studio-b/output"));
        browser.wait_for("Stream key (for OBS)");
        check_place(&browser, &name("output-rtmp"));
        browser.open(&console.url("/#/events"));
        browser.wait_for("studio-b");
        check_place(&browser, &name("all-events"));
        assert_eq!(browser.complaints(), Vec::<String>::new());
    }
    let file = crate::access::passwords();
    let console = Console::with(&["--password-file", file.path().to_str().unwrap()]);
    for (colour, width) in [("light", 1200), ("dark", 360)] {
        let browser = Browser::start(width, 900);
        browser.prefer(colour);
        browser.open(&console.url("/"));
        browser.field("Password");
        check_place(&browser, &format!("login-{width}-{colour}"));
    }
}
