//! Durability: all that was answered is kept, whatever ends the console.

use crate::support::{Console, feed, srt_flow};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use streamlink_tests::{eventually, rig::free_port};

#[test]
fn flows_and_keys_survive_a_sudden_end_at_the_same_addresses() {
    let mut console = Console::start();
    let mut body = srt_flow("srt");
    body["sources"][0]["url"] = "srt://127.0.0.1:0?mode=listener".into();
    body["outputs"] = json!([{ "name": "off", "url": "srt://127.0.0.1:0?mode=listener", "enabled": false }]);
    let flow = console.post("/api/v1/flows", &body).of(201);
    let rtmp = json!({ "name": "rtmp", "max_bandwidth": "5M",
        "sources": [{ "name": "a", "url": "rtmp://127.0.0.1:0/live?mode=listener" }, { "name": "b", "url": "rtmp://127.0.0.1:0/live?mode=listener" }] });
    console.post("/api/v1/flows", &rtmp).of(201);
    console.post("/api/v1/flows", &srt_flow("stopped")).of(201);
    console.patch("/api/v1/flows/stopped", &json!({ "enabled": false })).of(200);
    console.post("/api/v1/flows", &srt_flow("gone")).of(201);
    console.delete("/api/v1/flows/gone").of(204);
    let secrets = || ["srt", "rtmp", "stopped"].map(|name| format!("/api/v1/flows/{name}/secrets"));
    let before: Vec<Value> = secrets().iter().map(|path| console.get(path).of(200)).collect();
    let id = console.get("/api/v1/events?limit=1").of(200)["events"][0]["id"].as_u64().unwrap();
    // Events are stored twice a second, beside the changes.
    std::thread::sleep(Duration::from_millis(1500));
    console.kill_and_restart();
    let after: Vec<Value> = secrets().iter().map(|path| console.get(path).of(200)).collect();
    assert_eq!(before, after);
    let address = flow["source_list"][0]["address"].as_str().unwrap();
    let _sender = feed(address);
    let expected: BTreeMap<String, String> = [("rtmp", "waiting"), ("srt", "connected"), ("stopped", "stopped")]
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .into();
    eventually("media at the same address", || {
        let flows = console.get("/api/v1/flows").of(200);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let states = flows["flows"].as_array()?.iter().map(|flow| (text(&flow["name"]), text(&flow["state"])));
        (states.collect::<BTreeMap<_, _>>() == expected).then_some(())
    });
    assert_eq!(console.get("/api/v1/flows/srt").of(200)["output_list"][0]["enabled"], false);
    let events = console.get(&format!("/api/v1/events?before={}", id + 1)).of(200);
    let is_kept = |text: &str| events["events"].as_array().unwrap().iter().any(|event| event["text"] == text);
    assert!(is_kept("flow created") && is_kept("flow deleted"), "{events}");
    assert!(console.end(15), "{}", console.output());
}

#[test]
fn flow_that_cannot_start_again_is_shown_with_its_reason_and_tried_again() {
    let mut console = Console::start();
    let body = srt_flow("f");
    console.post("/api/v1/flows", &body).of(201);
    console.kill();
    let url = body["sources"][0]["url"].as_str().unwrap();
    let address = url.trim_start_matches("srt://").split('?').next().unwrap();
    let taken = std::net::UdpSocket::bind(address).unwrap();
    console.restart();
    let flow = console.get("/api/v1/flows/f").of(200);
    assert_eq!(flow["state"], "failed");
    assert!(flow["reason"].as_str().unwrap().contains("cannot use address"), "{flow}");
    assert_eq!(console.get("/readyz").status, 200);
    assert!(console.get("/metrics").text.contains("streamlink_console_failed_flows 1"));
    console.patch("/api/v1/flows/f", &json!({ "max_bandwidth": "7M" })).of(409);
    // Another address makes it start.
    let url = format!("srt://127.0.0.1:{}", free_port());
    let changed = console.patch("/api/v1/flows/f/sources/venue", &json!({ "url": url })).of(200);
    assert_eq!((&changed["applied"], &changed["flow"]["state"]), (&json!("started"), &json!("waiting")));
    // And so does the old one, once it is free.
    let flow = json!({ "url": body["sources"][0]["url"] });
    console.patch("/api/v1/flows/f/sources/venue", &flow).of(409);
    drop(taken);
    console.patch("/api/v1/flows/f/sources/venue", &flow).of(200);
    console.kill();
    let taken = std::net::UdpSocket::bind(address).unwrap();
    console.restart();
    assert_eq!(console.get("/api/v1/flows/f").of(200)["state"], "failed");
    drop(taken);
    eventually("another attempt", || (console.get("/api/v1/flows/f").of(200)["state"] == "waiting").then_some(()));
}

/// A disk that takes nothing for a while, as a full one: changes are refused and undone, which is told, and all goes on
/// once there is room again, without a new start.
#[test]
fn full_disk_refuses_changes_until_there_is_room() {
    let mut console = Console::start_through("trap '' XFSZ");
    console.post("/api/v1/flows", &srt_flow("kept")).of(201);
    let failing = |value: u8| {
        let line = format!("streamlink_console_store_failing {value}\n");
        eventually(&line, || console.get("/metrics").text.contains(&line).then_some(()));
    };
    failing(0);
    console.limit_files("4096");
    for at in 0..3 {
        let refused = console.post("/api/v1/flows", &srt_flow(&format!("refused{at}"))).of(500);
        assert!(refused["detail"].as_str().unwrap().contains("cannot be stored"), "{refused}");
        console.patch("/api/v1/flows/kept", &json!({ "max_bandwidth": format!("{}M", 3 + at) })).of(500);
    }
    failing(1);
    let is_told = |text: &str| {
        eventually(text, || {
            let events = console.get("/api/v1/events").of(200);
            let found =
                events["events"].as_array()?.iter().find(|event| event["text"].as_str().unwrap().contains(text));
            found.is_some().then_some(())
        });
    };
    is_told("nothing can be stored");
    console.limit_files("unlimited");
    is_told("the store works again");
    failing(0);
    console.post("/api/v1/flows", &srt_flow("new")).of(201);
    console.kill_and_restart();
    let flows = console.get("/api/v1/flows").of(200);
    let shown =
        |flow: &Value| format!("{} {}", flow["name"].as_str().unwrap(), flow["max_bandwidth"].as_str().unwrap());
    let names: Vec<String> = flows["flows"].as_array().unwrap().iter().map(shown).collect();
    assert_eq!(names, ["kept 20M", "new 20M"]);
}

/// Changes by several clients, and a kill in the middle of them: what was answered is there.
#[test]
fn sudden_end_amid_changes_loses_nothing_that_was_answered() {
    let mut console = Console::start();
    for round in 0..3u32 {
        let answered: Mutex<BTreeMap<String, Option<String>>> = Mutex::default();
        let is_over = AtomicBool::new(false);
        let changes = |client: u32| {
            for step in 0..100 {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let name = format!("r{round}c{client}s{}", step / 3);
                let path = format!("/api/v1/flows/{name}");
                let body = srt_flow(&name).to_string();
                let rate = format!("{}M", 1 + step);
                let (method, place, body, expected) = match step % 3 {
                    0 => ("POST", "/api/v1/flows", Some(body), Some("20M".to_owned())),
                    1 => ("PATCH", path.as_str(), Some(json!({ "max_bandwidth": rate }).to_string()), Some(rate)),
                    _ if step % 2 == 0 => ("DELETE", path.as_str(), None, None),
                    _ => continue,
                };
                match console.try_request(method, place, &[], body.as_deref()) {
                    Ok(answer) if answer.status < 300 => {
                        answered.lock().unwrap().insert(name, expected);
                    }
                    Ok(answer) => panic!("{method} {place}: {}", answer.text),
                    Err(_) => {
                        // What was not answered may be there or not.
                        answered.lock().unwrap().remove(&name);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for client in 0..4 {
                let changes = &changes;
                scope.spawn(move || changes(client));
            }
            eventually("changes", || (answered.lock().unwrap().len() > 25).then_some(()));
            console.signal(9);
            is_over.store(true, Ordering::SeqCst);
        });
        console.kill_and_restart();
        let answered = answered.into_inner().unwrap();
        assert!(answered.len() > 20);
        for (name, expected) in answered {
            let answer = console.get(&format!("/api/v1/flows/{name}"));
            match expected {
                Some(rate) => {
                    let flow = answer.of(200);
                    assert_eq!(
                        (&flow["configuration"]["max_bandwidth"], &flow["state"]),
                        (&json!(rate), &json!("waiting")),
                        "{name}"
                    );
                }
                None => assert_eq!(answer.status, 404, "{name}"),
            }
        }
    }
}

#[test]
fn flows_of_a_file_are_imported_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |flows: &[Value]| std::fs::write(file.path(), Value::from(flows).to_string()).unwrap();
    write(&[srt_flow("a"), srt_flow("b")]);
    let mut console = Console::with(&["--import", file.path().to_str().unwrap()]);
    assert_eq!(console.get("/api/v1/flows").of(200)["flows"].as_array().unwrap().len(), 2);
    console.patch("/api/v1/flows/a", &json!({ "max_bandwidth": "3M" })).of(200);
    // What cannot be imported is told, and keeps nothing from running.
    let mut same_address = srt_flow("c");
    same_address["sources"] = console.get("/api/v1/flows/a/secrets").of(200)["configuration"]["sources"].clone();
    write(&[srt_flow("a"), same_address, srt_flow("d")]);
    console.kill_and_restart();
    assert_eq!(console.get("/api/v1/flows/a").of(200)["configuration"]["max_bandwidth"], "3M");
    assert_eq!(console.get("/api/v1/flows/d").of(200)["state"], "waiting");
    assert_eq!(console.get("/api/v1/flows/c").status, 404);
    assert!(console.output().contains("flow `c` is not imported"), "{}", console.output());
    std::fs::write(file.path(), "[").unwrap();
    console.kill_and_restart();
    assert!(console.output().contains("nothing is imported"), "{}", console.output());
}
