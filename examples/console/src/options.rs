//! The command line of the console, and the engine that it describes.

use clap::Parser;
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};
use streamlink_core::{Engine, PeerLimits, RegionEgress};

/// Error that ends the program.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const AFTER_HELP: &str = "\
Passwords: lines `operator:HASH` and `viewer:HASH` in --password-file, with argon2 hashes as --hash-password prints them;
or the variables STREAMLINK_CONSOLE_OPERATOR and STREAMLINK_CONSOLE_VIEWER, with a password or a hash. Without any, the
console listens on loopback addresses only, and everyone who reaches it is an operator. RUST_LOG=info logs what happens.";

/// Runs live video flows, with an HTTP API and a web page.
#[derive(Parser)]
#[command(name = "streamlink-console", version, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Address of the page and the API; may be given several times
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STREAMLINK_CONSOLE_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: Vec<SocketAddr>,
    /// Folder of the store, which holds stream keys and passwords of flows
    #[arg(long, value_name = "FOLDER", env = "STREAMLINK_CONSOLE_DATA")]
    data: Option<PathBuf>,
    /// File with flows in JSON that are created at the start, unless flows of these names exist
    #[arg(long, value_name = "FILE")]
    pub(crate) import: Option<PathBuf>,
    /// File with the hashes of the passwords
    #[arg(long, value_name = "FILE", env = "STREAMLINK_CONSOLE_PASSWORD_FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Host name under which the page is reached, beside those of loopback; may be given several times
    #[arg(long, value_name = "NAME", env = "STREAMLINK_CONSOLE_HOST", value_delimiter = ',')]
    pub(crate) host: Vec<String>,
    /// File with the certificate chain, in PEM, of the page and the API, which then speak HTTPS; SIGHUP reads it again
    #[arg(long, value_name = "FILE", env = "STREAMLINK_CONSOLE_HTTPS_CERT", requires = "https_key")]
    pub(crate) https_cert: Option<PathBuf>,
    /// File with the private key, in PEM, of --https-cert
    #[arg(long, value_name = "FILE", env = "STREAMLINK_CONSOLE_HTTPS_KEY", requires = "https_cert")]
    pub(crate) https_key: Option<PathBuf>,
    /// The page is reached over HTTPS, through a proxy: cookies are sent over HTTPS only
    #[arg(long, env = "STREAMLINK_CONSOLE_BEHIND_HTTPS")]
    pub(crate) behind_https: bool,
    /// Maximum number of flows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_flows: u32,
    /// Maximum number of event streams at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_streams: u32,
    /// Host name or address in the addresses of sources and outputs that listen on every address
    #[arg(long, value_name = "HOST", env = "STREAMLINK_CONSOLE_PUBLIC_HOST")]
    public_host: Option<String>,
    /// Region from which outputs can send: a local address, or an interface; may be given several times
    #[arg(long, value_name = "NAME=ADDRESS|IFACE", value_parser = region)]
    region: Vec<(String, RegionEgress)>,
    /// File with the certificate chain, in PEM, of sources and outputs that listen with TLS; SIGHUP reads it again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File with the private key, in PEM, of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File with certificates, in PEM, that callers trust beside those of the system; may be given several times
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Connections that one peer address may have at each listening port (1 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 1000)]
    peer_connections: u32,
    /// Read a password from standard input, and print its hash
    #[arg(long, exclusive = true)]
    pub(crate) hash_password: bool,
}

/// Certificate chain and private key, in PEM.
struct Pem {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

fn region(text: &str) -> Result<(String, RegionEgress), String> {
    let parts = text.split_once('=').filter(|(name, egress)| !name.is_empty() && !egress.is_empty());
    let (name, egress) = parts.ok_or("a region is of the form NAME=ADDRESS or NAME=INTERFACE")?;
    let address = egress.parse::<IpAddr>().map(RegionEgress::Address);
    Ok((name.to_owned(), address.unwrap_or_else(|_| RegionEgress::Interface(egress.to_owned()))))
}

/// Reads a file, and names it in the error.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?)
}

impl Options {
    /// Returns the folder of the store: that of the command line, that of systemd, or one in the home folder.
    pub(crate) fn data(&self) -> PathBuf {
        if let Some(folder) = &self.data {
            return folder.clone();
        }
        if let Some(folder) = std::env::var_os("STATE_DIRECTORY") {
            return folder.into();
        }
        match std::env::var_os("HOME") {
            Some(home) => Path::new(&home).join(".local/state/streamlink-console"),
            None => "streamlink-console".into(),
        }
    }

    /// Reads the certificate chain and the key of sources and outputs that listen with TLS.
    fn tls_identity(&self) -> Result<Option<Pem>, Failure> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => Ok(Some(Pem { certificates: read(certificates)?, key: read(key)? })),
            _ => Ok(None),
        }
    }

    /// Gives the engine the certificate chain and the key as they are in their files now.
    pub(crate) fn renew_tls_identity(&self, engine: &Engine) -> Result<(), Failure> {
        if let Some(identity) = self.tls_identity()? {
            engine.set_tls_identity(&identity.certificates, &identity.key)?;
        }
        Ok(())
    }

    /// Creates the engine, with a runtime of its own: what the page asks for does not take threads from the media.
    pub(crate) fn engine(&self) -> Result<Engine, Failure> {
        let mut builder = Engine::builder().peer_limits(PeerLimits::new().connections(self.peer_connections));
        if let Some(host) = &self.public_host {
            builder = builder.public_host(host);
        }
        for (name, egress) in &self.region {
            builder = builder.region(name, egress.clone());
        }
        if let Some(identity) = self.tls_identity()? {
            builder = builder.tls_identity(&identity.certificates, &identity.key)?;
        }
        let mut roots = Vec::new();
        for file in &self.trust {
            roots.extend(read(file)?);
            roots.push(b'\n');
        }
        if !roots.is_empty() {
            builder = builder.tls_roots(&roots)?;
        }
        Ok(builder.build()?)
    }
}
