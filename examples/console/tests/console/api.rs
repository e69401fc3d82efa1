//! The API beside its own document, and what its changes do.

use crate::support::{Answer, Console, feed, srt_flow};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use streamlink_tests::{eventually, nginx::Nginx, rig::free_port};

/// The document of the API, and what of it was seen.
struct Document {
    document: Value,
    seen: BTreeSet<String>,
}

impl Document {
    fn new(console: &Console) -> Self {
        let document = console.get("/api/v1/openapi.json").of(200);
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        let document = Self { document, seen: BTreeSet::new() };
        // The schemas tell right from wrong.
        let schema = json!({ "$ref": "#/components/schemas/FlowList" });
        assert!(document.validator(&schema).is_valid(&json!({ "flows": [] })));
        for wrong in [json!({}), json!({ "flows": 7 }), json!({ "flows": [{ "name": "f" }] })] {
            assert!(!document.validator(&schema).is_valid(&wrong), "{wrong}");
        }
        document
    }

    /// Returns the validator of a schema, whose references lead into the document.
    fn validator(&self, schema: &Value) -> jsonschema::Validator {
        let mut document = self.document.clone();
        document["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        for (name, part) in schema.as_object().unwrap() {
            document[name] = part.clone();
        }
        jsonschema::validator_for(&document).unwrap()
    }

    /// Checks that an answer is one that the document has, and that its body is as the document says.
    #[track_caller]
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let operation = &self.document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{method} {path}: {} is not in the document: {}", answer.status, answer.text);
        self.seen.insert(format!("{method} {path} {}", answer.status));
        let Some(content) = response["content"].as_object() else {
            assert_eq!(answer.text, "", "{method} {path}");
            return;
        };
        let kind = answer.header("content-type");
        let (_, content) = content
            .iter()
            .find(|(known, _)| kind.starts_with(known.split(';').next().unwrap()))
            .unwrap_or_else(|| panic!("{method} {path} {}: {kind} is not in the document", answer.status));
        if !kind.contains("json") {
            return;
        }
        let validator = self.validator(&content["schema"]);
        let body = answer.json();
        let errors: Vec<String> =
            validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path)).collect();
        assert!(errors.is_empty(), "{method} {path} {}: {errors:#?}\n{body:#}", answer.status);
    }
}

#[test]
fn api_answers_as_its_document_says() {
    let console = Console::start();
    let mut document = Document::new(&console);
    let mut ask = |method: &str, path: &str, place: &str, body: Option<Value>, status: u16| {
        let answer = console.request(method, place, &[], body.map(|body| body.to_string()).as_deref());
        assert_eq!(answer.status, status, "{method} {place}: {}", answer.text);
        document.check(method, path, &answer);
        answer
    };
    let v1 = |path: &str| format!("/api/v1{path}");
    let flows = v1("/flows");
    let flow = v1("/flows/{flow}");
    let one = "/api/v1/flows/one%20%2F%20%C3%A4";
    let name = "one / ä";
    let mut body = srt_flow(name);
    body["outputs"] = json!([{ "name": "partner", "url": "srt://127.0.0.1:0?mode=listener" }]);
    let created = ask("POST", &flows, &flows, Some(body.clone()), 201);
    assert_eq!(created.header("location"), one);
    ask("POST", &flows, &flows, Some(body), 409);
    ask("POST", &flows, &flows, Some(json!({ "name": "", "max_bandwidth": "x", "sources": [] })), 422);
    ask("GET", &flows, &flows, None, 200);
    ask("GET", &flow, one, None, 200);
    ask("GET", &flow, "/api/v1/flows/none", None, 404);
    ask("PATCH", &flow, one, Some(json!({ "max_bandwidth": "30M" })), 200);
    ask("PATCH", &flow, one, Some(json!({ "max_bandwidth": "fast" })), 422);
    ask("PATCH", &flow, "/api/v1/flows/none", Some(json!({})), 404);
    ask("GET", &v1("/flows/{flow}/secrets"), &format!("{one}/secrets"), None, 200);
    ask("GET", &v1("/flows/{flow}/secrets"), "/api/v1/flows/none/secrets", None, 404);
    let sources = v1("/flows/{flow}/sources");
    ask("GET", &sources, &format!("{one}/sources"), None, 200);
    let backup = json!({ "name": "backup", "url": format!("srt://127.0.0.1:{}?mode=listener", free_port()) });
    ask("POST", &sources, &format!("{one}/sources"), Some(backup.clone()), 201);
    ask("POST", &sources, &format!("{one}/sources"), Some(backup), 422);
    let source = v1("/flows/{flow}/sources/{source}");
    ask("GET", &source, &format!("{one}/sources/backup"), None, 200);
    ask("GET", &source, &format!("{one}/sources/none"), None, 404);
    ask("PATCH", &source, &format!("{one}/sources/backup"), Some(json!({ "description": "over the sea" })), 200);
    ask("PATCH", &source, &format!("{one}/sources/backup"), Some(json!({ "latency": 99999 })), 422);
    let switch = v1("/flows/{flow}/sources/{source}/switch");
    ask("POST", &switch, &format!("{one}/sources/backup/switch"), None, 200);
    ask("POST", &switch, &format!("{one}/sources/none/switch"), None, 404);
    ask("DELETE", &source, &format!("{one}/sources/backup"), None, 200);
    ask("DELETE", &source, &format!("{one}/sources/venue"), None, 409);
    ask("DELETE", &source, &format!("{one}/sources/none"), None, 404);
    let outputs = v1("/flows/{flow}/outputs");
    let output = v1("/flows/{flow}/outputs/{output}");
    ask("GET", &outputs, &format!("{one}/outputs"), None, 200);
    let studio = json!({ "name": "studio", "url": format!("srt://127.0.0.1:{}?mode=caller", free_port()) });
    ask("POST", &outputs, &format!("{one}/outputs"), Some(studio), 201);
    ask("POST", &outputs, &format!("{one}/outputs"), Some(json!({ "name": "r", "url": "rtp://h:5004" })), 422);
    ask("GET", &output, &format!("{one}/outputs/studio"), None, 200);
    ask("GET", &output, &format!("{one}/outputs/none"), None, 404);
    ask("PATCH", &output, &format!("{one}/outputs/studio"), Some(json!({ "enabled": false })), 200);
    ask("PATCH", &output, &format!("{one}/outputs/studio"), Some(json!({ "wings": 2 })), 422);
    ask("DELETE", &output, &format!("{one}/outputs/studio"), None, 200);
    ask("DELETE", &output, &format!("{one}/outputs/studio"), None, 404);
    let kick = v1("/flows/{flow}/outputs/{output}/kick");
    ask("POST", &kick, &format!("{one}/outputs/partner/kick"), Some(json!({ "peer": "127.0.0.1:9" })), 404);
    ask("POST", &kick, &format!("{one}/outputs/partner/kick"), Some(json!({ "peer": "nobody" })), 422);
    ask("GET", &v1("/events"), "/api/v1/events?limit=5", None, 200);
    ask("GET", &v1("/flows/{flow}/events"), &format!("{one}/events"), None, 200);
    ask("GET", &v1("/stats"), "/api/v1/stats", None, 200);
    ask("GET", &v1("/flows/{flow}/stats"), &format!("{one}/stats"), None, 200);
    ask("GET", &v1("/flows/{flow}/samples"), &format!("{one}/samples"), None, 200);
    ask("GET", &v1("/settings"), "/api/v1/settings", None, 200);
    ask("GET", &v1("/protocols"), "/api/v1/protocols", None, 200);
    ask("GET", &v1("/console"), "/api/v1/console", None, 200);
    ask("GET", &v1("/session"), "/api/v1/session", None, 200);
    ask("POST", &v1("/session"), "/api/v1/session", Some(json!({ "password": "x" })), 409);
    ask("DELETE", &v1("/session"), "/api/v1/session", None, 204);
    ask("GET", "/metrics", "/metrics", None, 200);
    ask("GET", "/healthz", "/healthz", None, 200);
    ask("GET", "/readyz", "/readyz", None, 200);
    // What is refused before a handler is asked is a problem as well.
    ask("GET", &v1("/events"), "/api/v1/events?limit=-1", None, 400);
    ask("GET", &v1("/flows/{flow}/events"), &format!("{one}/events?before=soon"), None, 400);
    ask("GET", &flow, "/api/v1/flows/%ff", None, 400);
    ask("POST", &flows, "/api/v1/flows", None, 400);
    ask("PATCH", &flow, one, None, 400);
    ask("PATCH", &flow, one, Some(json!({ "enabled": false })), 200);
    ask("GET", &v1("/flows/{flow}/stats"), &format!("{one}/stats"), None, 409);
    ask("DELETE", &flow, one, None, 204);
    ask("DELETE", &flow, one, None, 404);
    let other = console.request("PUT", one, &[], None);
    assert_eq!(other.of(405)["type"], "urn:streamlink:problem:method-not-allowed");
    assert!(other.header("allow").contains("PATCH"), "{}", other.header("allow"));
    // Every operation of the document was asked for; streams have a test of their own.
    for (path, operations) in document.document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let operation = format!("{} {path} ", method.to_uppercase());
            let is_seen = document.seen.iter().any(|seen| seen.starts_with(&operation));
            assert!(is_seen || path.ends_with("/stream"), "{operation}was not asked for");
        }
    }
}

#[test]
fn api_reports_every_error_with_its_path() {
    let console = Console::start();
    let body = json!({
        "name": "f", "max_bandwidth": "fast", "colour": "red",
        "sources": [{ "name": "a", "url": "srt://:9000?mode=listener", "latency": 99999, "wings": 2 }],
        "outputs": [{ "name": "o", "url": "rtp://h:5004" }]
    });
    let problem = console.post("/api/v1/flows", &body).of(422);
    let paths: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    for path in ["max_bandwidth", "colour", "sources[0].latency", "sources[0].wings"] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    console.post("/api/v1/flows", &srt_flow("f")).of(201);
    let problem = console.post("/api/v1/flows/f/outputs", &json!({ "name": "o", "url": "rtp://h:5004" })).of(422);
    assert_eq!(problem["errors"][0]["path"], "", "within the output that was sent");
    assert!(problem["errors"][0]["message"].as_str().unwrap().contains("SRT, RTMP_PUSH"), "{problem}");
    let output = json!({ "name": "o", "url": "srt://:9001", "latency": "soon" });
    let problem = console.post("/api/v1/flows/f/outputs", &output).of(422);
    assert_eq!(problem["errors"][0]["path"], "latency");
    // An address that another program uses.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("srt://{}?mode=listener", taken.local_addr().unwrap());
    let problem = console.post("/api/v1/flows/f/outputs", &json!({ "name": "o", "url": url })).of(409);
    assert_eq!(
        (problem["type"].as_str(), problem["errors"][0]["path"].as_str()),
        (Some("urn:streamlink:problem:address-in-use"), Some("url"))
    );
    assert_eq!(console.get("/api/v1/flows/f/outputs").of(200)["endpoints"], json!([]), "what failed is not there");
    for (body, kind) in
        [("{", "application/json"), ("[]", "application/json"), ("{}", "text/plain"), ("", "application/json")]
    {
        let answer = console.request("POST", "/api/v1/flows/f/outputs", &[("content-type", kind)], Some(body));
        assert_eq!(answer.of(400)["status"], 400, "{body}");
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(300 << 10));
    assert_eq!(console.request("POST", "/api/v1/flows", &[], Some(&large)).status, 400);
    for name in [".", ".."] {
        assert_eq!(console.post("/api/v1/flows", &srt_flow(name)).of(422)["errors"][0]["path"], "name");
    }
    let app = json!({ "name": "x", "max_bandwidth": "1M", "sources": [{ "name": "a", "url": "app://datagrams" }] });
    assert_eq!(console.post("/api/v1/flows", &app).of(422)["errors"][0]["path"], "sources[0].url");
}

#[test]
fn changes_apply_in_place_where_they_can() {
    let console = Console::start();
    let mut body = srt_flow("f");
    body["outputs"] = json!([{ "name": "o", "url": "srt://127.0.0.1:0?mode=listener", "passphrase": "secret-secret" }]);
    console.post("/api/v1/flows", &body).of(201);
    let output = "/api/v1/flows/f/outputs/o";
    for (path, patch, applied) in [
        ("/api/v1/flows/f", json!({ "max_bandwidth": "10M", "bandwidth_policy": "warn" }), "in_place"),
        ("/api/v1/flows/f", json!({ "failover": { "policy": "prefer", "hold": 1000 } }), "in_place"),
        ("/api/v1/flows/f", json!({ "coalesce": 3 }), "restart"),
        (output, json!({ "allow": "127.0.0.0/8", "description": "for them", "max_players": 3 }), "in_place"),
        (output, json!({ "allow": null }), "in_place"),
        (output, json!({ "max_players": null }), "reconnect"),
        (output, json!({ "latency": 200 }), "reconnect"),
        (output, json!({ "enabled": false }), "reconnect"),
        (output, json!({ "latency": 250 }), "reconnect"),
        (output, json!({ "enabled": true }), "reconnect"),
        (output, json!({}), "in_place"),
        ("/api/v1/flows/f/sources/venue", json!({ "latency": 80 }), "reconnect"),
        ("/api/v1/flows/f/sources/venue", json!({ "name": "hall", "allow": "127.0.0.1" }), "in_place"),
        ("/api/v1/flows/f", json!({ "enabled": false }), "stopped"),
        (output, json!({ "latency": 300 }), "stored"),
        ("/api/v1/flows/f", json!({ "enabled": true }), "started"),
        ("/api/v1/flows/f", json!({ "name": "g" }), "restart"),
    ] {
        let changed = console.patch(path, &patch);
        assert_eq!(changed.of(200)["applied"], applied, "{path} {patch}: {}", changed.text);
    }
    let flow = console.get("/api/v1/flows/g").of(200);
    assert_eq!(flow["configuration"]["max_bandwidth"], "10M");
    assert_eq!(flow["configuration"]["coalesce"], 3);
    let output = &flow["output_list"][0];
    assert_eq!(
        (&output["configuration"]["latency"], &output["configuration"]["passphrase"]),
        (&json!(300), &json!("…"))
    );
    assert_eq!(flow["source_list"][0]["name"], "hall");
    assert_eq!(console.get("/api/v1/flows/f").status, 404);
    // What is hidden is kept, and cannot be sent back by mistake.
    let secrets = console.get("/api/v1/flows/g/secrets").of(200);
    assert_eq!(secrets["configuration"]["outputs"][0]["passphrase"], "secret-secret");
    let hidden = console.patch("/api/v1/flows/g/outputs/o", &json!({ "passphrase": "…" })).of(422);
    assert_eq!(hidden["errors"][0]["path"], "passphrase");
    // A source of another protocol starts the flow anew, and its outputs have to suit it.
    let rtp = json!({ "url": format!("rtp://127.0.0.1:{}", free_port()), "mode": null, "latency": null });
    assert!(console.patch("/api/v1/flows/g/sources/hall", &rtp).of(422)["detail"].as_str().unwrap().contains("RTP"));
    console.delete("/api/v1/flows/g/outputs/o").of(200);
    assert_eq!(console.patch("/api/v1/flows/g/sources/hall", &rtp).of(200)["applied"], "restart");
}

#[test]
fn flow_carries_media_and_its_events_and_metrics_tell() {
    let console = Console::start();
    let nginx = Nginx::start();
    let mut body = srt_flow("f");
    body["outputs"] = json!([
        { "name": "platform", "url": nginx.url(), "key": "k" },
        { "name": "players", "url": "srt://127.0.0.1:0?mode=listener" }
    ]);
    let flow = console.post("/api/v1/flows", &body).of(201);
    let address = flow["source_list"][0]["address"].as_str().unwrap().to_owned();
    let _sender = feed(&address);
    eventually("a connected flow", || {
        let flow = console.get("/api/v1/flows/f").of(200);
        let connected = flow["state"] == "connected" && flow["outputs_connected"].as_u64() >= Some(1);
        (connected && flow["bit_rate"].as_u64() > Some(0)).then_some(())
    });
    nginx.wait_for_bytes("k", 50_000);
    // A player, who is disconnected by hand.
    let flow = console.get("/api/v1/flows/f").of(200);
    let url = flow["output_list"][1]["address"].as_str().unwrap();
    let _player = streamlink_tests::peer::Peer::start(
        "ffmpeg",
        &["-v", "error", "-nostdin", "-i", url, "-c", "copy", "-f", "mpegts", "-y", "/dev/null"],
    );
    let peer = eventually("a player", || {
        let output = console.get("/api/v1/flows/f/outputs/players").of(200);
        Some(output["statistics"]["players"][0]["peer"].as_str()?.to_owned())
    });
    console.post("/api/v1/flows/f/outputs/players/kick", &json!({ "peer": peer })).of(204);
    let events = eventually("the events", || {
        let events = console.get("/api/v1/flows/f/events").of(200)["events"].clone();
        let kinds: Vec<&str> = events.as_array()?.iter().filter_map(|event| event["event"].as_str()).collect();
        let all = ["flow_started", "source_connected", "output_connected", "output_lost", "console"];
        all.iter().all(|kind| kinds.contains(kind)).then(|| events.clone())
    });
    let lost = events.as_array().unwrap().iter().find(|event| event["event"] == "output_lost").unwrap();
    assert!(lost["text"].as_str().unwrap().contains("cut off by the host"), "{lost}");
    let metrics = console.get("/metrics");
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    assert!(metrics.text.ends_with("# EOF\n") && metrics.text.contains("streamlink_console_flows{enabled=\"true\"} 1"));
    assert!(metrics.text.contains("streamlink_bytes_total{"), "{}", metrics.text);
    // The dashboard asks for metrics that there are.
    let dashboard = std::fs::read_to_string(streamlink_tests::root().join("docs/grafana.json")).unwrap();
    let names: BTreeSet<&str> = dashboard
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("streamlink_"))
        .map(|word| word.trim_end_matches("_total"))
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(metrics.text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let samples = eventually("samples", || {
        let samples = console.get("/api/v1/flows/f/samples").of(200);
        (samples["series"][0]["bit_rate"].as_array()?.len() >= 2).then_some(samples)
    });
    assert_eq!(
        (&samples["series"][0]["direction"], samples["series"].as_array().unwrap().len()),
        (&json!("source"), 3)
    );
}

/// Clients at the same time: each change is whole, and none is lost.
#[test]
fn changes_at_the_same_time_do_not_lose_one_another() {
    let console = Console::start();
    let count = |of: &[u16], status: u16| of.iter().filter(|found| **found == status).count();
    let in_parallel = |ask: &(dyn Fn(usize) -> u16 + Sync)| -> Vec<u16> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|at| scope.spawn(move || ask(at))).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let statuses = in_parallel(&|_| console.post("/api/v1/flows", &srt_flow("f")).status);
    assert_eq!((count(&statuses, 201), count(&statuses, 409)), (1, 7), "{statuses:?}");
    let statuses = in_parallel(&|at| {
        let output = json!({ "name": format!("o{at}"), "url": "srt://127.0.0.1:0?mode=listener" });
        console.post("/api/v1/flows/f/outputs", &output).status
    });
    assert_eq!(count(&statuses, 201), 8, "{statuses:?}");
    let flow = console.get("/api/v1/flows/f").of(200);
    assert_eq!(flow["outputs"], 8);
    let ports: BTreeSet<&str> =
        flow["output_list"].as_array().unwrap().iter().map(|output| output["address"].as_str().unwrap()).collect();
    assert_eq!(ports.len(), 8, "each has a port of its own");
    // Renaming, changing and deleting at once: whatever wins, the store and the engine agree.
    let statuses = in_parallel(&|at| match at % 4 {
        0 => console.patch("/api/v1/flows/f", &json!({ "name": format!("g{at}") })).status,
        1 => console.patch("/api/v1/flows/f/outputs/o1", &json!({ "latency": 100 + at })).status,
        2 => console.delete("/api/v1/flows/f/outputs/o2").status,
        _ => console.patch("/api/v1/flows/f", &json!({ "enabled": at == 3 })).status,
    });
    assert!(statuses.iter().all(|status| [200, 404].contains(status)), "{statuses:?}");
    let flows = console.get("/api/v1/flows").of(200);
    assert_eq!(flows["flows"].as_array().unwrap().len(), 1, "{flows}");
    let name = flows["flows"][0]["name"].as_str().unwrap();
    let stats = console.get("/api/v1/stats").of(200);
    let running: Vec<&str> =
        stats["flows"].as_array().unwrap().iter().map(|flow| flow["name"].as_str().unwrap()).collect();
    let expected: Vec<&str> = if flows["flows"][0]["enabled"] == true { vec![name] } else { Vec::new() };
    assert_eq!(running, expected);
    assert!(console.get("/metrics").text.contains("streamlink_console_failed_flows 0"));
}

#[test]
fn event_stream_goes_on_where_it_was_left() {
    use std::io::{BufRead, BufReader, Write};
    let console = Console::with(&["--max-streams", "1"]);
    let follow = |after: u64| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", console.port())).unwrap();
        stream.set_read_timeout(Some(streamlink_tests::PATIENCE)).unwrap();
        let head = format!(
            "GET /api/v1/events/stream?flow=f HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nLast-Event-ID: {after}\r\n\r\n",
            console.port()
        );
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream).lines().map_while(Result::ok).filter_map(|line| {
            let data = line.strip_prefix("data: ")?;
            serde_json::from_str::<Value>(data).ok()
        })
    };
    let mut events = follow(0);
    console.post("/api/v1/flows", &srt_flow("g")).of(201);
    console.post("/api/v1/flows", &srt_flow("f")).of(201);
    let first = events.next().unwrap();
    assert_eq!((&first["flow"], &first["event"]), (&json!("f"), &json!("flow_started")));
    let second = events.next().unwrap();
    assert_eq!((&second["event"], &second["text"]), (&json!("console"), &json!("flow created")));
    assert_eq!(console.get("/api/v1/events/stream").of(503)["type"], "urn:streamlink:problem:unavailable");
    drop(events);
    let again = eventually("the permit of the stream", || {
        let next = follow(first["id"].as_u64().unwrap()).next();
        next.filter(|event| event["id"] == second["id"])
    });
    assert_eq!(again["text"], "flow created");
}

#[test]
fn protocols_and_settings_are_those_of_the_library() {
    let console = Console::start();
    let protocols = console.get("/api/v1/protocols").of(200);
    let srt = protocols["inputs"].as_array().unwrap().iter().find(|input| input["protocol"] == "SRT").unwrap();
    assert_eq!(srt["allowed_outputs"], json!(["SRT", "RTMP_PUSH"]));
    let settings = console.get("/api/v1/settings").of(200);
    let scope = settings["scopes"].as_array().unwrap().iter().find(|scope| scope["name"] == "SRT listener source");
    let latency = scope.unwrap()["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == "latency");
    let latency = latency.unwrap();
    assert_eq!((&latency["min"], &latency["max"], &latency["default"]), (&json!(0), &json!(10000), &json!("120")));
    for scope in settings["scopes"].as_array().unwrap() {
        for setting in scope["settings"].as_array().unwrap() {
            assert!(!setting["summary"].as_str().unwrap().is_empty(), "{setting}");
        }
    }
}
