//! A console of a test: started, asked, killed and started again.

use serde_json::Value;
use std::{net::TcpStream, path::Path, time::Duration};
use streamlink_tests::{eventually, peer::Peer, rig::free_port};
use ureq::Agent;

/// A running console with a store of its own.
pub(crate) struct Console {
    peer: Peer,
    folder: tempfile::TempDir,
    more: Vec<String>,
    /// Command of a shell that runs before the console.
    shell: Option<String>,
    port: u16,
    agent: Agent,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, String)>,
}

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} is not JSON: {}", self.status, self.text))
    }

    /// Returns the body as JSON, of an answer with a status.
    #[track_caller]
    pub(crate) fn of(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
    config.build().into()
}

fn start(folder: &Path, port: u16, more: &[String], shell: Option<&str>) -> Peer {
    let listen = format!("127.0.0.1:{port}");
    let data = folder.join("store");
    let mut arguments = vec!["--listen", &listen, "--data", data.to_str().unwrap(), "--public-host", "127.0.0.1"];
    arguments.extend(more.iter().map(String::as_str));
    let program = env!("CARGO_BIN_EXE_streamlink-console");
    match shell {
        None => Peer::start(program, &arguments),
        Some(command) => {
            let script = format!("{command}; exec \"$0\" \"$@\"");
            Peer::start("sh", &[&["-c", &script, program], &arguments[..]].concat())
        }
    }
}

impl Console {
    /// Starts a console, and waits until it is ready.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a console with more arguments.
    pub(crate) fn with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let more: Vec<String> = more.iter().map(|argument| (*argument).to_owned()).collect();
        let peer = start(folder.path(), port, &more, None);
        let console = Self { peer, folder, more, shell: None, port, agent: agent(), headers: Vec::new() };
        console.wait();
        console
    }

    /// Starts a console from a shell, after a command of the shell.
    pub(crate) fn start_through(command: &str) -> Self {
        let mut console = Self::start();
        console.kill();
        console.shell = Some(command.to_owned());
        console.restart();
        console
    }

    /// Sets the size up to which the console can write files, in bytes.
    pub(crate) fn limit_files(&self, limit: &str) {
        let pid = self.peer.id().to_string();
        let limit = format!("--fsize={limit}:");
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(status.success());
    }

    fn wait(&self) {
        eventually(&format!("the console: {}", self.peer.output()), || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            (self.get("/readyz").status == 200).then_some(())
        });
    }

    /// Kills the console as a failure of power would, and starts it again with the same store.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the console without a chance to end well.
    pub(crate) fn kill(&mut self) {
        self.peer.signal(9);
        self.wait_for_end();
    }

    fn wait_for_end(&mut self) {
        self.peer.finish();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        self.peer.signal(signal);
    }

    /// Starts the console again with the same store.
    pub(crate) fn restart(&mut self) {
        self.peer = start(self.folder.path(), self.port, &self.more, self.shell.as_deref());
        self.agent = agent();
        self.wait();
    }

    /// Sends a signal, and returns whether the console ended well.
    pub(crate) fn end(&mut self, signal: i32) -> bool {
        self.peer.signal(signal);
        self.peer.finish().success()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns what it has written.
    pub(crate) fn output(&self) -> String {
        self.peer.output()
    }

    /// Makes a request with an own method, headers and body.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        self.try_request(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Makes a request that may find nobody who answers.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => {
                let is_typed = headers.iter().any(|(name, _)| *name == "content-type");
                let request = if is_typed { request } else { request.header("content-type", "application/json") };
                self.agent.run(request.body(body.to_owned())?)?
            }
            None => self.agent.run(request.body(())?)?,
        };
        let text = response.body_mut().read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        match self.try_request("GET", path, &[], None) {
            Ok(answer) => answer,
            Err(error) => panic!("GET {path}: {error}\n{}", self.output()),
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[], Some(&body.to_string()))
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Answer {
        self.request("PATCH", path, &[], Some(&body.to_string()))
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], None)
    }
}

/// Returns the document of a flow with an SRT listener at a free port.
pub(crate) fn srt_flow(name: &str) -> Value {
    serde_json::json!({
        "name": name,
        "max_bandwidth": "20M",
        "sources": [{ "name": "venue", "url": format!("srt://127.0.0.1:{}?mode=listener", free_port()), "latency": 50 }]
    })
}

/// Starts ffmpeg, which plays the clip again and again to an address.
pub(crate) fn feed(url: &str) -> Peer {
    let clip = streamlink_tests::clip();
    let clip = clip.to_str().unwrap();
    let input = ["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", clip];
    Peer::start("ffmpeg", &[&input[..], &["-map", "0", "-c", "copy", "-f", "mpegts", url]].concat())
}
