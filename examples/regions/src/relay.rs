//! Relays: stock moq-relay, each in a process of its own, so that it can be killed.

use sha2::{Digest, Sha256};
use std::{
    error::Error,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use streamlink_moq::{LinkSettings, RelayAddress};

/// Certificate that both relays present, and that everybody else trusts by its fingerprint.
pub(crate) struct Certificate {
    folder: tempfile::TempDir,
    fingerprint: String,
}

impl Certificate {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let key = rcgen::KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
        std::fs::write(folder.path().join("cert.pem"), certificate.pem())?;
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem())?;
        let digest = Sha256::digest(certificate.der());
        Ok(Self { folder, fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    pub(crate) fn settings(&self) -> LinkSettings {
        LinkSettings::new().fingerprint(&self.fingerprint)
    }
}

/// Relay in a process of its own, on a port that it keeps.
pub(crate) struct Relay {
    port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl Relay {
    pub(crate) fn start(certificate: &Certificate) -> Result<Self, Box<dyn Error>> {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut relay = Self { port, folder: certificate.folder.path().to_owned(), child: None };
        relay.restart()?;
        Ok(relay)
    }

    pub(crate) fn address(&self) -> Result<RelayAddress, Box<dyn Error>> {
        Ok(format!("127.0.0.1:{}", self.port).parse()?)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Kills the relay with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
        }
    }

    pub(crate) fn restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.kill();
        let relay = ["--relay", &self.port.to_string()].map(str::to_owned);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(relay).arg("--relay-certificate").arg(&self.folder);
        self.child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs this process as a relay, until its standard input is closed: when the process that started it has ended.
pub(crate) async fn run(port: u16, certificate: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = moq_relay::Config::default();
    config.listen.bind = Some(format!("127.0.0.1:{port}").parse()?);
    config.listen.tls.cert = vec![certificate.join("cert.pem")];
    config.listen.tls.key = vec![certificate.join("key.pem")];
    // One machine, one owner. Rules by region are described in docs/regions.md.
    config.auth.public = vec![moq_auth::Pattern::all()];
    config.drain_timeout = Duration::from_secs(1);
    let relay = moq_relay::Relay::load(config).await?;
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // ends with the parent
        std::process::exit(0);
    });
    relay.run().await?;
    Ok(())
}
