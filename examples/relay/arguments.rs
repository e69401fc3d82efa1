//! The command line, and the flows and the engine that it describes.

use crate::Failure;
use clap::{
    CommandFactory, Parser, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};
use serde_json::Value;
use std::{fs, net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};
use streamlink_core::{Bitrate, Engine, Flow, Output, PeerLimits, RegionEgress, RegionLink, SettingScope, Source};

/// Commands, for `--help` and for an unknown one.
pub(crate) const COMMANDS: &str = "\
Commands, read from standard input; each is answered on standard error with one line, `ok` or `error: …`.
With several flows, NAME is FLOW/NAME:
  add NAME=URL            adds an output
  replace NAME=URL        replaces an output
  remove NAME             removes an output
  kick NAME ADDRESS       disconnects a player of an output
  allow NAME LIST         changes the allowlist of a source or output; an empty one admits everyone
  bandwidth [FLOW] RATE   changes the maximum bandwidth
  reload                  reads --config again, as SIGHUP does
  quit                    stops, as SIGINT (Ctrl-C) and SIGTERM do

`relay --settings` prints the table of all settings of URLs and of JSON. RUST_LOG=debug logs what each peer asks and is
answered.";

/// Relays live video from one source to any number of outputs.
#[derive(Parser)]
#[command(name = "relay", version, after_help = COMMANDS)]
pub(crate) struct Arguments {
    /// URL of the source, as in rtp://:5004 or srt://:9000?mode=listener&latency=200
    #[arg(long, value_name = "URL", required_unless_present_any = ["config", "settings"])]
    source: Option<String>,
    /// URL of a backup source of the same family; may be given several times
    #[arg(long, value_name = "URL")]
    backup: Vec<String>,
    /// Name and URL of an output, as in studio=rtp://192.0.2.1:5004; may be given several times
    #[arg(long, value_name = "NAME=URL")]
    output: Vec<String>,
    /// Maximum source bit rate
    #[arg(long, value_name = "RATE", default_value = "20M")]
    max_bandwidth: Bitrate,
    /// Addresses that may send to the sources, as in 203.3.3.3/28;198.51.100.7
    #[arg(long, value_name = "LIST")]
    allow: Option<String>,
    /// File with a flow, or a list of flows, in JSON; SIGHUP reads it again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "backup", "output", "max_bandwidth", "allow"])]
    pub(crate) config: Option<PathBuf>,
    /// Form of the statistics
    #[arg(long, value_name = "FORM", default_value = "auto")]
    pub(crate) stats: Form,
    /// Seconds between two statistics
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) interval: u32,
    /// Host name or address in the printed addresses of sources and outputs that listen on every address
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// Region from which outputs can send: a local address, or an interface; may be given several times
    #[arg(long, value_name = "NAME=ADDRESS|IFACE", value_parser = region)]
    region: Vec<(String, RegionEgress)>,
    /// Region on other machines, and a file with its link: a JSON object with `url`, as in
    /// moq://relay-a,relay-b/studio, `key`, the public key of the region, and settings (`srt`: its media goes over SRT);
    /// may be given several times. Needs a program that was built with `--features moq`
    #[arg(long, value_name = "NAME=FILE", value_parser = remote_region)]
    remote_region: Vec<(String, PathBuf)>,
    /// File with the certificate chain, in PEM, of sources and outputs that listen with TLS
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
    /// Connections of one peer address that may not have said yet what they want (1 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 128)]
    peer_pending: u32,
    /// Attempts of one peer address that may be refused per second, such as wrong passwords
    #[arg(long, value_name = "N", default_value_t = 20)]
    peer_refusals: u32,
    /// Print the table of all settings
    #[arg(long, exclusive = true)]
    pub(crate) settings: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table if standard error is a terminal, else none
    Auto,
    /// A live table on standard error; lines if that is no terminal
    Table,
    /// A line of rates for each flow on standard error
    Lines,
    /// A JSON object a line for each flow on standard output
    Json,
    /// None
    None,
}

/// A flow with its JSON as it was written, which tells what has changed when the file is read again.
#[derive(Clone)]
pub(crate) struct Configured {
    pub(crate) flow: Flow,
    pub(crate) written: Value,
}

fn region(text: &str) -> Result<(String, RegionEgress), String> {
    let (name, egress) =
        text.split_once('=').filter(|(name, egress)| !name.is_empty() && !egress.is_empty()).ok_or("")?;
    let address = egress.parse::<IpAddr>().map(RegionEgress::Address);
    Ok((name.to_owned(), address.unwrap_or_else(|_| RegionEgress::Interface(egress.to_owned()))))
}

fn remote_region(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty()).ok_or("")?;
    Ok((name.to_owned(), file.into()))
}

/// Returns the link of a region that a file describes.
#[cfg(feature = "moq")]
fn remote_link(json: &str) -> Result<Arc<dyn RegionLink>, Failure> {
    let no_object = |_| "it is no JSON object with a member `url`"; // the error might quote a token
    let mut members: serde_json::Map<String, Value> = serde_json::from_str(json).map_err(no_object)?;
    let Some(Value::String(url)) = members.remove("url") else {
        return Err("it is no JSON object with a member `url`".into());
    };
    let options = streamlink_moq::RegionLinkOptions::from_json(&Value::Object(members).to_string())?;
    Ok(streamlink_moq::region_link(&url, options)?)
}

#[cfg(not(feature = "moq"))]
fn remote_link(_: &str) -> Result<Arc<dyn RegionLink>, Failure> {
    Err("this program was built without regions on other machines (`--features moq`)".into())
}

/// Reports an error in the arguments without quoting them, as a URL may contain a secret.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        error.exit();
    }
    let known = |name: &String| {
        let long = name.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
        Arguments::command().get_arguments().any(|argument| argument.get_long() == Some(long))
    };
    let mut about = Vec::new();
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        match error.get(kind) {
            Some(ContextValue::String(name)) => about.push(name.clone()),
            Some(ContextValue::Strings(names)) => about.extend(names.iter().cloned()),
            _ => {}
        }
    }
    about.retain(known);
    let about = if about.is_empty() { String::new() } else { format!(": {}", about.join(", ")) };
    eprintln!("{}{about}\n\n{}", error.kind(), Arguments::command().render_usage());
    ExitCode::from(2)
}

/// Reads a file, and names it in the error.
fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// Reads the flows of a file.
pub(crate) fn read_config(file: &PathBuf) -> Result<Vec<Configured>, Failure> {
    let text = String::from_utf8(read(file)?).map_err(|_| format!("{}: the file is not UTF-8 text", file.display()))?;
    let flows = Flow::list_from_json(&text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
        lines.join("\n")
    })?;
    let written = match serde_json::from_str(&text)? {
        Value::Array(list) => list,
        one => vec![one],
    };
    Ok(flows.into_iter().zip(written).map(|(flow, written)| Configured { flow, written }).collect())
}

/// Reads an output of the form `NAME=URL`.
pub(crate) fn split_output(text: &str) -> Result<(&str, &str), Failure> {
    // A URL without a name has its first `=` in its query.
    let parts = text.split_once('=').filter(|(name, _)| !name.contains("://"));
    Ok(parts.ok_or("an output is of the form NAME=URL")?)
}

impl Arguments {
    /// Returns the flows that are to run.
    pub(crate) fn flows(&self) -> Result<Vec<Configured>, Failure> {
        match &self.config {
            Some(file) => read_config(file),
            None => Ok(vec![Configured { flow: self.flow()?, written: Value::Null }]),
        }
    }

    fn flow(&self) -> Result<Flow, Failure> {
        let source = |name: &str, url: &str| {
            let source = Source::from_url(name, url);
            match &self.allow {
                Some(list) => source.set("allow", list),
                None => source,
            }
        };
        let first = source("source", self.source.as_deref().unwrap_or_default());
        let mut builder = Flow::builder("relay", self.max_bandwidth).source(first);
        for (i, url) in self.backup.iter().enumerate() {
            builder = builder.backup(source(&format!("backup-{}", i + 1), url));
        }
        for text in &self.output {
            let (name, url) = split_output(text)?;
            builder = builder.output(Output::from_url(name, url));
        }
        Ok(builder.build()?)
    }

    /// Creates the engine on the runtime of this program.
    pub(crate) fn engine(&self) -> Result<Engine, Failure> {
        let limits = PeerLimits::new()
            .connections(self.peer_connections)
            .pending(self.peer_pending)
            .refusals_per_second(self.peer_refusals);
        let mut builder = Engine::builder().peer_limits(limits);
        if let Some(host) = &self.public_host {
            builder = builder.public_host(host);
        }
        for (name, egress) in &self.region {
            builder = builder.region(name, egress.clone());
        }
        for (name, file) in &self.remote_region {
            let json = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let link = remote_link(&json).map_err(|error| format!("{}: {error}", file.display()))?;
            builder = builder.remote_region(name, link);
        }
        if let (Some(certificates), Some(key)) = (&self.tls_cert, &self.tls_key) {
            builder = builder.tls_identity(&read(certificates)?, &read(key)?)?;
        }
        let mut roots = Vec::new();
        for file in &self.trust {
            roots.extend(read(file)?);
            roots.push(b'\n');
        }
        if !roots.is_empty() {
            builder = builder.tls_roots(&roots)?;
        }
        Ok(builder.on(tokio::runtime::Handle::current())?)
    }
}

/// Returns the table of all settings, by their owners.
pub(crate) fn settings_table() -> String {
    let mut text = String::new();
    for scope in SettingScope::ALL {
        text += &format!("{scope}\n");
        for setting in scope.settings() {
            let unit = if setting.unit.is_empty() { String::new() } else { format!(" {}", setting.unit) };
            let default = if setting.default.is_empty() { String::new() } else { format!(" [{}]", setting.default) };
            text += &format!(
                "  {:<20} {}{unit}{default}\n  {:<20} {}\n",
                setting.name,
                setting.range(),
                "",
                setting.summary
            );
        }
        text.push('\n');
    }
    text
}
