//! Access: hosts, origins, passwords, roles, and the secrets that a viewer does not see.

use crate::support::{Console, srt_flow};
use serde_json::json;
use std::io::Write;
use streamlink_tests::peer::Peer;

/// Returns a file with the hashes of the passwords `operate` and `watch`.
pub(crate) fn passwords() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (role, password) in [("operator", "operate"), ("viewer", "watch")] {
        let hash = std::process::Command::new("sh")
            .args([
                "-c",
                "printf %s \"$2\" | \"$1\" --hash-password",
                "sh",
                env!("CARGO_BIN_EXE_streamlink-console"),
                password,
            ])
            .output()
            .unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        write!(file, "{role}:{hash}").unwrap();
    }
    file
}

#[test]
fn console_without_password_is_refused_beyond_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut console = Peer::start(env!("CARGO_BIN_EXE_streamlink-console"), &["--listen", "0.0.0.0:0", "--data", data]);
    assert!(!console.finish().success());
    assert!(console.output().contains("a password of the operator is needed"), "{}", console.output());
}

#[test]
fn console_on_loopback_refuses_other_hosts_and_origins() {
    let console = Console::start();
    let get = |headers: &[(&str, &str)]| console.request("GET", "/api/v1/flows", headers, None).status;
    assert_eq!(get(&[]), 200);
    assert_eq!(get(&[("host", "evil.example")]), 403, "a name that leads here");
    assert_eq!(get(&[("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(console.request("GET", "/", &[("host", "evil.example")], None).status, 403);
    assert_eq!(console.request("GET", "/healthz", &[("host", "10.0.0.1")], None).status, 200, "of a load balancer");
    let body = srt_flow("f").to_string();
    for origin in ["http://evil.example", "null"] {
        let answer = console.request("POST", "/api/v1/flows", &[("origin", origin)], Some(&body));
        assert_eq!(answer.of(403)["type"], "urn:streamlink:problem:forbidden");
    }
    assert_eq!(console.request("DELETE", "/api/v1/flows/f", &[("sec-fetch-site", "same-site")], None).status, 403);
    let own = console.url("");
    assert_eq!(console.request("POST", "/api/v1/flows", &[("origin", &own)], Some(&body)).status, 201);
    let page = console.get("/");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
    assert!(!page.text.contains("<script>") && !page.text.contains(" style="), "nothing inline");
    let tag = page.header("etag");
    assert_eq!(console.request("GET", "/", &[("if-none-match", tag)], None).status, 304);
    assert_eq!(console.get("/../etc/passwd").status, 404);
}

/// Returns what the stream of events brings from the first one on, until a text has come.
fn stream_until(console: &Console, text: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", console.port())).unwrap();
    stream.set_read_timeout(Some(streamlink_tests::PATIENCE)).unwrap();
    let cookie = &console.headers[0].1;
    let port = console.port();
    let head =
        format!("GET /api/v1/events/stream?after=0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut got = String::new();
    let mut buffer = [0; 4096];
    while !got.contains(text) {
        let size = stream.read(&mut buffer).unwrap();
        assert!(size > 0, "the stream has ended: {got}");
        got.push_str(&String::from_utf8_lossy(&buffer[..size]));
    }
    got
}

#[test]
fn viewer_sees_no_secret_and_changes_nothing() {
    let file = passwords();
    let mut console = Console::with(&["--password-file", file.path().to_str().unwrap()]);
    for path in [
        "/api/v1/flows",
        "/api/v1/stats",
        "/api/v1/events",
        "/api/v1/events/stream",
        "/metrics",
        "/api/v1/openapi.json",
    ] {
        assert_eq!(console.get(path).of(401)["type"], "urn:streamlink:problem:unauthorized", "{path}");
    }
    assert_eq!(console.get("/").status, 200, "the page asks for the password");
    assert_eq!(console.get("/api/v1/session").of(200), json!({ "role": null, "needs_password": true }));
    assert_eq!(console.post("/api/v1/session", &json!({ "password": "guess" })).status, 401);
    let log_in = |console: &Console, password: &str| {
        let answer = console.post("/api/v1/session", &json!({ "password": password }));
        assert_eq!(answer.status, 200, "{}", answer.text);
        let cookie = answer.header("set-cookie").to_owned();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    };
    let operator = log_in(&console, "operate");
    let viewer = log_in(&console, "watch");
    console.headers = vec![("cookie".into(), operator)];
    let mut body = srt_flow("f");
    body["sources"][0]["passphrase"] = "hunter2-hunter2".into();
    body["outputs"] = json!([
        { "name": "platform", "url": "rtmp://127.0.0.1:9/live", "key": "hunter2" },
        { "name": "studio", "url": "srt://127.0.0.1:9?mode=caller", "streamid": "hunter2", "passphrase": "hunter2-hunter2" }
    ]);
    console.post("/api/v1/flows", &body).of(201);
    let rtmp = json!({ "name": "r", "max_bandwidth": "5M", "sources": [{ "name": "obs", "url": "rtmp://127.0.0.1:0/live?mode=listener" }] });
    console.post("/api/v1/flows", &rtmp).of(201);
    let secrets = console.get("/api/v1/flows/r/secrets").of(200);
    let (server, key) =
        (secrets["addresses"][0]["server"].as_str().unwrap(), secrets["addresses"][0]["key"].as_str().unwrap());
    assert!(server.starts_with("rtmp://127.0.0.1:") && server.ends_with("/live") && key.len() == 40, "{secrets}");
    let key = key.to_owned();
    let refused =
        console.post("/api/v1/flows/f/outputs", &json!({ "name": "o", "url": "srt://h:1?passphrase=hunter2" }));
    assert!(refused.status == 422 && !refused.text.contains("hunter2"), "{}", refused.text);
    console.headers = vec![("cookie".into(), viewer)];
    for path in [
        "/api/v1/flows",
        "/api/v1/flows/f",
        "/api/v1/flows/r",
        "/api/v1/flows/f/outputs",
        "/api/v1/flows/f/outputs/studio",
        "/api/v1/flows/r/sources",
        "/api/v1/stats",
        "/api/v1/flows/f/stats",
        "/api/v1/flows/r/stats",
        "/api/v1/events",
        "/api/v1/flows/f/events",
        "/api/v1/flows/f/samples",
        "/metrics",
    ] {
        let text = console.get(path).text;
        assert!(!text.contains("hunter2") && !text.contains(&key), "{path}: {text}");
    }
    // And whatever else the document of the API has to be read.
    let document = console.get("/api/v1/openapi.json").of(200);
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let readable = paths.iter().filter(|path| document["paths"][path.as_str()]["get"].is_object());
    let mut seen = 0;
    for path in readable.filter(|path| !path.ends_with("/secrets") && !path.ends_with("/stream")) {
        for (flow, source, output) in [("f", "venue", "studio"), ("f", "venue", "platform"), ("r", "obs", "none")] {
            let path = path.replace("{flow}", flow).replace("{source}", source).replace("{output}", output);
            let answer = console.get(&path);
            assert!([200, 404].contains(&answer.status), "{path}: {}", answer.text);
            assert!(!answer.text.contains("hunter2") && !answer.text.contains(&key), "{path}: {}", answer.text);
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
    let streamed = stream_until(&console, "flow created");
    assert!(!streamed.contains("hunter2") && !streamed.contains(&key), "{streamed}");
    for path in ["/api/v1/flows/f/secrets", "/api/v1/flows/r/secrets"] {
        console.get(path).of(403);
    }
    console.post("/api/v1/flows", &srt_flow("g")).of(403);
    console.patch("/api/v1/flows/f", &json!({ "enabled": false })).of(403);
    console.delete("/api/v1/flows/f").of(403);
    console.post("/api/v1/flows/f/sources/venue/switch", &json!({})).of(403);
    console.delete("/api/v1/session").of(204);
    console.get("/api/v1/flows").of(401);
    // A program sends the password itself.
    console.headers = vec![("authorization".into(), "Bearer watch".into())];
    assert_eq!(console.get("/metrics").status, 200);
    console.headers = vec![("authorization".into(), "Bearer guess".into())];
    console.get("/metrics").of(401);
    assert!(!console.output().contains("hunter2") && !console.output().contains(&key), "{}", console.output());
}

#[test]
fn logins_that_fail_have_to_wait() {
    let file = passwords();
    let console = Console::with(&["--password-file", file.path().to_str().unwrap()]);
    let statuses: Vec<u16> =
        (0..7).map(|_| console.post("/api/v1/session", &json!({ "password": "guess" })).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    let answer = console.post("/api/v1/session", &json!({ "password": "operate" }));
    assert_eq!((answer.status, answer.header("retry-after")), (429, "60"));
}

/// Asks over TLS, and returns the certificate of the console and its answer.
fn ask_over_tls(port: u16, certificate: &std::path::Path) -> Result<String, String> {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "20", "--cacert", certificate.to_str().unwrap()]);
    curl.args(["-H", "Authorization: Bearer operate", &format!("https://localhost:{port}/api/v1/flows")]);
    let output = curl.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn console_speaks_https_and_renews_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |copy: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for name in ["certificate.pem", copy] {
            std::fs::write(file(name), made.cert.pem()).unwrap();
        }
        std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    };
    write("first.pem");
    let passwords = passwords();
    let port = streamlink_tests::rig::free_port();
    let listen = format!("127.0.0.1:{port}");
    let store = file("store");
    let console = Peer::start(
        env!("CARGO_BIN_EXE_streamlink-console"),
        &[
            "--listen",
            &listen,
            "--data",
            store.to_str().unwrap(),
            "--password-file",
            passwords.path().to_str().unwrap(),
            "--https-cert",
            file("certificate.pem").to_str().unwrap(),
            "--https-key",
            file("key.pem").to_str().unwrap(),
        ],
    );
    console.wait_for("StreamLink console: https://127.0.0.1:");
    let answer = streamlink_tests::eventually("an answer", || ask_over_tls(port, &file("first.pem")).ok());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    write("second.pem");
    console.signal(1);
    streamlink_tests::eventually("the new certificate", || ask_over_tls(port, &file("second.pem")).ok());
    assert!(ask_over_tls(port, &file("first.pem")).unwrap_err().contains("certificate"));
    // A key that belongs to another certificate changes nothing.
    std::fs::copy(file("first.pem"), file("certificate.pem")).unwrap();
    console.signal(1);
    console.wait_for("a certificate stays as it was");
    ask_over_tls(port, &file("second.pem")).unwrap();
}
