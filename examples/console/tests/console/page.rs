//! The page in a browser, as a person uses it.

use crate::{
    browser::Browser,
    support::{Console, feed, srt_flow},
};
use serde_json::{Value, json};
use std::path::PathBuf;
use streamlink_tests::{eventually, nginx::Nginx, rig::free_port};

/// Writes a picture of the page where `STREAMLINK_CONSOLE_PICTURES` says, for people to look at.
fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("STREAMLINK_CONSOLE_PICTURES") {
        browser.picture(&PathBuf::from(folder).join(format!("{name}.png")));
    }
}

/// Checks the rules of accessibility by axe-core, which `tests/run` fetches.
#[track_caller]
pub(crate) fn check_accessibility(browser: &Browser, place: &str) {
    let file = streamlink_tests::root().join("target/axe-core/package/axe.min.js");
    let axe = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; tests/run fetches it", file.display()));
    // By way of the driver, which the policy of the page does not bind.
    browser.script(&format!("{axe}; window.axe = axe;"), &[]);
    let found = browser.script(
        "return axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map((rule) =>
            rule.id + ': ' + rule.nodes.map((node) => node.target.join(' ') + ' ' + node.failureSummary).join(' | ')))",
        &[],
    );
    assert_eq!(found, json!([]), "{place}");
}

/// Checks that nothing is wider than the window.
#[track_caller]
pub(crate) fn check_width(browser: &Browser, place: &str) {
    let width = browser.script("return [document.documentElement.scrollWidth, innerWidth]", &[]);
    assert!(width[0].as_u64() <= width[1].as_u64(), "{place} is wider than the window: {width}");
}

#[test]
fn page_creates_watches_edits_and_deletes_as_a_person_does() {
    let mut console = Console::start();
    let nginx = Nginx::start();
    let browser = Browser::start(1200, 900);
    browser.open(&console.url("/"));
    browser.wait_for("There is no flow yet.");
    check_accessibility(&browser, "an empty list");
    browser.click("//a[normalize-space()='Create flow']");
    // What is wrong is told at its field, in the words of the library.
    browser.fill("Flow name", "match-day");
    browser.fill("Maximum bandwidth", "fast");
    browser.fill("Latency", "99999");
    let port = free_port();
    browser.fill("Port", &port.to_string());
    check_accessibility(&browser, "the form of a flow");
    browser.press("Create flow");
    browser.wait_for("`fast` is not a bit rate");
    browser.wait_for("is not a number of milliseconds from 0 to 10000");
    let marked =
        browser.script("return [...document.querySelectorAll('[aria-invalid=true]')].map((field) => field.value)", &[]);
    assert_eq!(marked, json!(["fast", "99999"]));
    assert_eq!(browser.script("return document.activeElement.value", &[]), "fast", "the first one has the focus");
    picture(&browser, "create-wrong");
    browser.fill("Maximum bandwidth", "20M");
    browser.fill("Latency", "60");
    browser.press("Create flow");
    browser.wait_for("Waits for media.");
    let address = browser.value("Input address");
    assert_eq!(address, format!("srt://127.0.0.1:{port}"));
    let _sender = feed(&address);
    browser.wait_for("feeds the flow");
    eventually("a rate", || browser.text().contains("kb/s in,").then_some(()));
    browser.wait_for("H.264");
    check_accessibility(&browser, "the source of a flow");
    picture(&browser, "source");
    // An output to a platform; the list has what SRT can feed.
    browser.click("//a[normalize-space()='Output']");
    browser.press("Create output");
    let kinds =
        browser.script("return [...document.querySelectorAll('dialog select')[0].options].map((o) => o.value)", &[]);
    assert_eq!(kinds, json!(["RTMP_PUSH output", "SRT listener output", "SRT caller output"]));
    browser.fill("Output name", "platform");
    browser.choose("Protocol", "RTMP_PUSH");
    browser.fill("Server URL", &nginx.url());
    browser.fill("Stream key", "hunter2");
    browser.fill("Chunk size", "17");
    picture(&browser, "create-output");
    check_accessibility(&browser, "the form of an output");
    browser.press_in_dialog("Create output");
    browser.wait_for("17 is outside 4096 to 40960 bytes");
    browser.fill("Chunk size", "8192");
    browser.press_in_dialog("Create output");
    browser.wait_for_none("//dialog");
    let rate = "//section[.//h2='platform']//dt[.='Rate']/following-sibling::dd[contains(.,'b/s') and not(starts-with(.,'0 '))]";
    browser.find(rate);
    nginx.wait_for_bytes("hunter2", 50_000);
    assert!(!browser.text().contains("hunter2"), "a key is not shown");
    picture(&browser, "output");
    check_accessibility(&browser, "the outputs of a flow");
    // An edit keeps what was not changed: the key.
    browser.press("Edit output platform");
    assert_eq!(browser.value("Chunk size"), "8192");
    browser.fill("Output name", "stage");
    browser.fill("Description", "to the platform");
    browser.press("Save");
    browser.wait_for("Changed; connections go on.");
    browser.find(&rate.replace("platform", "stage"));
    browser.wait_for("to the platform");
    let secrets = console.get("/api/v1/flows/match-day/secrets").of(200);
    assert_eq!(secrets["configuration"]["outputs"][0]["key"], "hunter2");
    // All pages, for people to look at.
    browser.click("//a[normalize-space()='Statistics']");
    browser.wait_for("Who is connected");
    browser.find("//figure[.//*[contains(.,'Output stage: rate')]]");
    std::thread::sleep(std::time::Duration::from_secs(3));
    picture(&browser, "statistics");
    check_accessibility(&browser, "statistics");
    browser.click("//nav[contains(@class,'tabs')]//a[normalize-space()='Events']");
    browser.wait_for("source `main` connected");
    picture(&browser, "events");
    check_accessibility(&browser, "events");
    browser.click("//a[normalize-space()='Settings']");
    browser.fill("Maximum bandwidth", "12M");
    browser.press("Save");
    browser.wait_for("Changed; connections go on.");
    eventually("the form with the new value", || (browser.value("Maximum bandwidth") == "12M").then_some(()));
    check_accessibility(&browser, "the settings of a flow");
    // The sudden end of the console: the page says so, and everything comes back.
    browser.click("//a[normalize-space()='Source']");
    browser.wait_for("feeds the flow");
    console.kill();
    browser.wait_for("The console does not answer.");
    console.restart();
    let _sender = feed(&address);
    browser.wait_for_none("//*[@id='offline'][not(@hidden)]");
    browser.wait_for("feeds the flow");
    assert_eq!(browser.value("Input address"), address);
    browser.click("//a[normalize-space()='Output']");
    browser.find(&rate.replace("platform", "stage"));
    // Events that happen now are shown without being asked for.
    browser.click("//nav[contains(@class,'tabs')]//a[normalize-space()='Events']");
    browser.wait_for("the flow has started");
    console.patch("/api/v1/flows/match-day/outputs/stage", &json!({ "description": "now" })).of(200);
    browser.wait_for("output `stage` changed: description (operator)");
    browser.click("//a[normalize-space()='Output']");
    browser.find("//section[.//h2='stage']");
    // Deleting asks first; the keyboard is enough.
    browser.press("Delete output stage");
    browser.wait_for("Its peers are disconnected.");
    browser.keys("\u{e00c}");
    browser.wait_for_none("//dialog");
    browser.find("//section[.//h2='stage']");
    browser.press("Delete output stage");
    browser.press_in_dialog("Delete");
    browser.wait_for("No output yet");
    browser.click("//a[normalize-space()='StreamLink']");
    browser.find("//a[@class='name'][.='match-day']");
    picture(&browser, "flows");
    check_accessibility(&browser, "the list of flows");
    let complaints = browser.complaints();
    let own: Vec<&String> = complaints
        .iter()
        // Refused requests, and those while the console was dead, are what was tested.
        .filter(|line| !line.contains("Failed to load resource"))
        .collect();
    assert!(own.is_empty(), "{own:#?}");
}

#[test]
fn page_switches_to_the_backup_and_shows_text_of_peers_as_text() {
    let console = Console::start();
    let browser = Browser::start(360, 740);
    browser.prefer("dark");
    let name = "<img src=x onerror=alert(1)>";
    let mut body = srt_flow(name);
    let backup = json!({ "name": "backup", "url": format!("srt://127.0.0.1:{}?mode=listener", free_port()) });
    body["sources"].as_array_mut().unwrap().push(backup);
    let flow = console.post("/api/v1/flows", &body).of(201);
    let address = |at: usize| flow["source_list"][at]["address"].as_str().unwrap().to_owned();
    let _senders = (feed(&address(0)), feed(&address(1)));
    browser.open(&console.url("/"));
    browser.wait_for(name);
    check_width(&browser, "the list");
    check_accessibility(&browser, "the list, dark");
    picture(&browser, "flows-narrow-dark");
    browser.click("//a[@class='name']");
    browser.wait_for("feeds the flow");
    check_width(&browser, "a flow");
    picture(&browser, "source-narrow-dark");
    check_accessibility(&browser, "a flow, dark");
    let active = |console: &Console| -> Value {
        let flows = console.get("/api/v1/stats").of(200);
        let sources = flows["flows"][0]["sources"].as_array().unwrap().clone();
        sources.iter().find(|source| source["active"] == true).map(|source| source["name"].clone()).unwrap_or_default()
    };
    eventually("both sources", || {
        let flow = console.get("/api/v1/stats").of(200)["flows"][0].clone();
        flow["sources"].as_array()?.iter().all(|source| source["state"] == "connected").then_some(())
    });
    let before = active(&console);
    browser.press("Switch to this source");
    eventually("the switch", || (active(&console) != before).then_some(()));
    for tab in ["Output", "Events", "Statistics", "Settings"] {
        browser.click(&format!("//nav[contains(@class,'tabs')]//a[normalize-space()='{tab}']"));
        browser.find(&format!("//nav[contains(@class,'tabs')]//a[@aria-current][normalize-space()='{tab}']"));
        check_width(&browser, tab);
        check_accessibility(&browser, tab);
    }
    browser.click("//nav[contains(@class,'tabs')]//a[normalize-space()='Output']");
    browser.press("Create output");
    browser.fill("Output name", "o");
    check_width(&browser, "the form of an output");
    picture(&browser, "create-output-narrow-dark");
    assert_eq!(browser.script("return document.querySelectorAll('main img').length", &[]), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn page_shows_an_rtmp_key_to_operators_who_ask() {
    let console = Console::start();
    let browser = Browser::start(900, 700);
    browser.open(&console.url("/#/create"));
    browser.fill("Flow name", "obs");
    browser.choose("Protocol", "RTMP:");
    browser.fill("Listen on address", "127.0.0.1");
    browser.fill("Port", &free_port().to_string());
    browser.click("//label[contains(.,'second input address')]");
    browser.fill("Name of the second source", "spare");
    picture(&browser, "create-failover");
    check_accessibility(&browser, "the form with a backup");
    browser.press("Create flow");
    browser.wait_for("Waits for media.");
    let secrets = console.get("/api/v1/flows/obs/secrets").of(200);
    let addresses = secrets["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 2);
    let key = addresses[0]["key"].as_str().unwrap();
    assert!(!browser.script("return document.documentElement.outerHTML", &[]).as_str().unwrap().contains(key));
    browser.press("Show the stream key");
    eventually("the key", || (browser.value("Stream key") == key).then_some(()));
    assert_eq!(browser.value("Server"), addresses[0]["server"].as_str().unwrap());
    picture(&browser, "rtmp-key");
}

/// Every kind of endpoint of the library has a form, whose address the library accepts, and which reads back to itself.
#[test]
fn page_forms_fit_every_kind_of_endpoint() {
    let console = Console::start();
    let browser = Browser::start(900, 700);
    browser.open(&console.url("/"));
    browser.wait_for("There is no flow yet.");
    let composed = |scope: &str, values: &Value| {
        browser.script(
            "return import('/kinds.js').then((kinds) => kinds.composed(arguments[0], arguments[1]))",
            &[scope.into(), values.clone()],
        )
    };
    let parsed = |scope: &str, configuration: &Value| {
        browser.script(
            "return import('/kinds.js').then((kinds) => kinds.parsed(arguments[0], arguments[1]))",
            &[scope.into(), configuration.clone()],
        )
    };
    let settings = console.get("/api/v1/settings").of(200);
    let scopes: Vec<&str> =
        settings["scopes"].as_array().unwrap().iter().map(|scope| scope["name"].as_str().unwrap()).collect();
    let family = |scope: &str| match scope {
        scope if scope.starts_with("RTMP") => "rtmp://127.0.0.1:0/live?mode=listener",
        scope if scope.starts_with("RTSP") => "rtsp://127.0.0.1:0/in?mode=listener",
        scope if ["RTP", "UDP", "RIST"].iter().any(|name| scope.starts_with(name)) => "rtp://127.0.0.1:0",
        _ => "srt://127.0.0.1:0?mode=listener",
    };
    let mut seen = 0;
    for scope in scopes.iter().filter(|scope| scope.ends_with("source") || scope.ends_with("output")) {
        let scheme = if scope.starts_with("RTSP") { "rtsp" } else { "rtmp" };
        let port = std::iter::repeat_with(free_port).find(|port| port % 2 == 0).unwrap(); // as RIST wants it
        let values = json!({
            "host": "127.0.0.1", "port": port.to_string(), "app": "live", "key": "a-key", "path": "cam/1",
            "server": format!("{scheme}://127.0.0.1:9/live"), "user": "me", "password": "p:a/s@s w%rd"
        });
        let mut endpoint = composed(scope, &values);
        endpoint["name"] = "e".into();
        let mut flow = json!({ "name": "f", "max_bandwidth": "5M" });
        if scope.ends_with("source") {
            flow["sources"] = json!([endpoint]);
        } else {
            flow["sources"] = json!([{ "name": "in", "url": family(scope) }]);
            flow["outputs"] = json!([endpoint]);
        }
        let created = console.post("/api/v1/flows", &flow);
        assert_eq!(created.status, 201, "{scope}: {endpoint} {}", created.text);
        let list = if scope.ends_with("source") { "sources" } else { "outputs" };
        assert_eq!(created.json()[format!("{}_list", list.trim_end_matches('s'))][0]["scope"], **scope);
        let secrets = console.get("/api/v1/flows/f/secrets").of(200);
        let configuration = &secrets["configuration"][list][0];
        // What the form of this endpoint shows makes the same endpoint again.
        let again = composed(scope, &parsed(scope, configuration));
        let changed = console.patch(&format!("/api/v1/flows/f/{list}/e"), &again);
        assert_eq!(changed.of(200)["applied"], "in_place", "{scope}: {configuration} {again}");
        assert_eq!(console.get("/api/v1/flows/f/secrets").of(200), secrets, "{scope}");
        console.delete("/api/v1/flows/f").of(204);
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn page_edits_of_listeners_keep_tls_and_replace_the_stream_key() {
    let console = Console::start();
    let flow = |name: &str, url: &str| {
        let source = json!({ "name": "in", "url": url });
        json!({ "name": name, "max_bandwidth": "5M", "enabled": false, "sources": [source] })
    };
    console.post("/api/v1/flows", &flow("rtmp", "rtmps://127.0.0.1:1936/live/OLD?mode=listener")).of(201);
    console.post("/api/v1/flows", &flow("rtsp", "rtsps://127.0.0.1:8322/cam?mode=listener")).of(201);
    let browser = Browser::start(900, 700);
    let edit = |flow: &str, field: &str, text: &str| {
        browser.open(&console.url(&format!("/#/flow/{flow}")));
        browser.press("Edit source in");
        browser.fill(field, text);
        browser.press("Save");
        browser.wait_for_none("//dialog");
        let secrets = console.get(&format!("/api/v1/flows/{flow}/secrets")).of(200);
        secrets["configuration"]["sources"][0]["url"].as_str().unwrap().to_owned()
    };
    assert_eq!(edit("rtmp", "Stream key", "NEW"), "rtmps://127.0.0.1:1936/live/NEW");
    assert_eq!(edit("rtmp", "Port", "1937"), "rtmps://127.0.0.1:1937/live/NEW");
    assert_eq!(edit("rtmp", "Application", "studio"), "rtmps://127.0.0.1:1937/studio/NEW");
    assert_eq!(edit("rtsp", "Port", "8323"), "rtsps://127.0.0.1:8323/cam");
}

#[test]
fn page_asks_for_the_password_and_lets_viewers_look() {
    let file = crate::access::passwords();
    let mut console = Console::with(&["--password-file", file.path().to_str().unwrap()]);
    console.headers = vec![("authorization".into(), "Bearer operate".into())];
    let rtmp = json!({ "name": "obs", "max_bandwidth": "5M", "sources": [{ "name": "in", "url": "rtmp://127.0.0.1:0/live?mode=listener" }] });
    console.post("/api/v1/flows", &rtmp).of(201);
    let browser = Browser::start(900, 700);
    browser.open(&console.url("/"));
    browser.fill("Password", "guess");
    check_accessibility(&browser, "the form of the password");
    browser.press("Log in");
    browser.wait_for("The password is wrong.");
    browser.fill("Password", "watch");
    browser.press("Log in");
    browser.wait_for("obs");
    browser.wait_for("Viewer");
    picture(&browser, "viewer");
    assert!(!browser.text().contains("Create flow"));
    browser.click("//a[@class='name']");
    browser.wait_for("Waits for media.");
    let buttons = browser.script("return [...document.querySelectorAll('main button')].map((b) => b.textContent)", &[]);
    assert_eq!(buttons, json!(["Copy"]), "nothing to change, and nothing to reveal");
    assert!(browser.value("Input address").ends_with("/live/…"));
    browser.press("Log out");
    browser.field("Password");
    browser.fill("Password", "operate");
    browser.press("Log in");
    browser.wait_for("Show the stream key");
}
