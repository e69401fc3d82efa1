//! Relays for tests: stock moq-relay in this process, or as a process of its own that can be killed.

#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panics")]

pub(crate) mod hop;
pub(crate) mod impair;

use moq_relay::{Config, Relay};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use streamlink_moq::{LinkSettings, RelayAddress};
pub(crate) use streamlink_tests::rig::free_port;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

/// Variable that makes the test `relay_process` a relay: `port cert.pem key.pem`.
const RELAY: &str = "STREAMLINK_TEST_RELAY";

/// Time after which a test that waits has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, for as long as a test has patience.
pub(crate) async fn soon<T>(name: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{name} did not happen within {PATIENCE:?}"),
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(name: &str, mut condition: impl FnMut() -> bool) {
    soon(name, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A self-signed certificate for 127.0.0.1, in files.
pub(crate) struct Certificate {
    _dir: tempfile::TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) fingerprint: String,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let key = rcgen::KeyPair::generate().expect("key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("parameters");
        let certificate = certificate.self_signed(&key).expect("certificate");
        let files = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&files.0, certificate.pem()).expect("certificate file");
        std::fs::write(&files.1, key.serialize_pem()).expect("key file");
        let digest = Sha256::digest(certificate.der());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { _dir: dir, certificate: files.0, key: files.1, fingerprint }
    }

    /// Settings of links to relays with this certificate.
    pub(crate) fn settings(&self) -> LinkSettings {
        LinkSettings::new().fingerprint(&self.fingerprint)
    }
}

pub(crate) fn address(port: u16) -> RelayAddress {
    format!("127.0.0.1:{port}").parse().expect("address")
}

fn config(port: u16, certificate: PathBuf, key: PathBuf) -> Config {
    let mut config = Config::default();
    config.listen.bind = Some(format!("127.0.0.1:{port}").parse().expect("bind"));
    config.listen.tls.cert = vec![certificate];
    config.listen.tls.key = vec![key];
    config.auth.public = vec![moq_net::Pattern::all()];
    config.drain_timeout = Duration::from_millis(100);
    config
}

/// A relay in this process.
pub(crate) struct InProcessRelay {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    trigger: moq_relay::shutdown::Trigger,
    running: JoinHandle<()>,
}

impl InProcessRelay {
    /// Starts a relay on a free port.
    pub(crate) async fn start(certificate: &Certificate) -> Self {
        Self::start_with(certificate, |_| {}).await
    }

    /// Starts a relay with a configuration of its own.
    pub(crate) async fn start_with(certificate: &Certificate, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(0, certificate.certificate.clone(), certificate.key.clone());
        change(&mut config);
        Self::run(Relay::load(config).await.expect("relay")).await
    }

    /// Starts a relay that counts what passes it.
    pub(crate) async fn start_counting(certificate: &Certificate) -> Self {
        Self::start_with(certificate, |config| {
            config.stats.enabled = true;
            config.internal.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        })
        .await
    }

    /// Starts a relay that asks for client certificates of an authority, and whose sessions the test admits.
    pub(crate) async fn start_admitting(
        certificate: &Certificate,
        authority: PathBuf,
    ) -> (Self, moq_relay::auth::Admissions) {
        let mut config = config(0, certificate.certificate.clone(), certificate.key.clone());
        config.listen.tls.root = vec![authority];
        config.auth.public.clear();
        let mut relay = Relay::load(config).await.expect("relay");
        let admissions = relay.admissions().expect("admissions");
        (Self::run(relay).await, admissions)
    }

    async fn run(relay: Relay) -> Self {
        let relay = relay.with_signals(false);
        let address = relay.quic_addr().expect("address");
        let metrics = relay.internal().addr();
        let trigger = relay.shutdown_trigger().clone();
        let ready = relay.ready();
        let running = tokio::spawn(async move {
            let _ = relay.run().await; // stopped by its trigger
        });
        ready.wait().await.expect("relay");
        Self { address, metrics, trigger, running }
    }

    /// Returns the bytes of objects that have come in and gone out, by the counters of a relay that
    /// [counts](Self::start_counting).
    pub(crate) async fn traffic(&self) -> (u64, u64) {
        let text = http_get(self.metrics.expect("a relay that counts"), "/metrics").await;
        let bytes = |role: &str| -> u64 {
            let label = format!("role=\"{role}\"");
            let of_role = |line: &&str| line.starts_with("moq_relay_bytes_total{") && line.contains(&label);
            text.lines().filter(of_role).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        (bytes("subscriber"), bytes("publisher"))
    }

    pub(crate) fn address(&self) -> RelayAddress {
        address(self.address.port())
    }

    /// Shuts the relay down as for an upgrade: sessions are told to leave.
    pub(crate) async fn shut_down(self) {
        self.trigger.start();
        let _ = self.running.await; // has ended
    }
}

/// Fetches a page over HTTP.
async fn http_get(server: SocketAddr, path: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(server).await.expect("HTTP server");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("request");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// A relay as a process of its own.
pub(crate) struct RelayProcess {
    port: u16,
    files: (PathBuf, PathBuf),
    child: Option<Child>,
}

impl RelayProcess {
    /// Starts a relay. The test binary must have a test `relay_process` that calls [`run_as_relay`].
    pub(crate) fn start(certificate: &Certificate) -> Self {
        let files = (certificate.certificate.clone(), certificate.key.clone());
        let mut relay = Self { port: free_port(), files, child: None };
        relay.restart();
        relay
    }

    pub(crate) fn address(&self) -> RelayAddress {
        address(self.port)
    }

    /// Kills the relay with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }

    /// Starts the relay again, on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let setting = format!("{} {} {}", self.port, self.files.0.display(), self.files.1.display());
        let child = Command::new(std::env::current_exe().expect("test binary"))
            .args(["--exact", "relay_process", "--nocapture"])
            .env(RELAY, setting)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("relay process");
        self.child = Some(child);
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs as a relay, if the process was started as one by [`RelayProcess`]. Does not return then.
pub(crate) fn run_as_relay() {
    let Ok(setting) = std::env::var(RELAY) else { return };
    let mut parts = setting.split(' ');
    let mut part = || parts.next().expect("setting").to_owned();
    let port = part().parse().expect("port");
    let certificate = part().into();
    let key = part().into();
    // The parent is watched, so that no relay outlives the tests.
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(200));
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(async {
        let relay = Relay::load(config(port, certificate, key)).await.expect("relay");
        let _ = relay.run().await; // runs until the process is killed
    });
    std::process::exit(0);
}
