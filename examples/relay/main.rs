//! A relay on the command line: one source, with or without backups, to any number of outputs.
//!
//!     relay --source rtp://:5004 --output studio=rtp://192.0.2.1:5004 --max-bandwidth 20M
//!     relay --source srt://:9000?latency=200 --output partner=srt://:9001?max_players=4
//!     relay --config flow.json --stats json
//!
//! While it runs it reads commands from standard input: `add NAME=URL`, `remove NAME`, `allow SOURCE LIST`,
//! `bandwidth RATE`, `quit`. Ctrl-C ends it with a summary.
//!
//! Input addresses and playback URLs are printed once, at the start; those of RTMP hold the stream key, which encoders and
//! players need. Nothing else that is printed holds a secret: commands and arguments are never repeated as they were given.

use clap::{
    CommandFactory, Parser, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{error::Error, io::BufRead, path::PathBuf, process::ExitCode, thread, time::Duration};
use streamlink_core::{
    Bitrate, Engine, Flow, FlowHandle, FlowStats, Output, PeerLimits, PeerText, PeerUrl, Source, SourceEdit, shown_url,
};
use streamlink_examples::{Table, json};
use tokio::sync::mpsc;

type Failure = Box<dyn Error + Send + Sync>;

/// Relays live video from one source to any number of outputs.
#[derive(Parser)]
#[command(name = "relay")]
struct Arguments {
    /// URL of the source, as in rtp://:5004 or srt://:9000?mode=listener&latency=200
    #[arg(long, value_name = "URL", required_unless_present = "config")]
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
    /// Form of the statistics, once a second
    #[arg(long, value_name = "FORM", default_value = "table")]
    stats: Form,
    /// Host name or address in the printed addresses of sources and outputs that listen on every address
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// Connections that one peer address may have at each listening port (1 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 1000)]
    peer_connections: u32,
    /// Connections of one peer address that may not have said yet what they want (1 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 128)]
    peer_pending: u32,
    /// Attempts of one peer address that may be refused per second, such as wrong passwords
    #[arg(long, value_name = "N", default_value_t = 20)]
    peer_refusals: u32,
    /// File with a flow in JSON, instead of --source, --backup, --output and --max-bandwidth
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "backup", "output"])]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A live table on standard error
    Table,
    /// One JSON object a second on standard output
    Json,
    /// None
    None,
}

#[tokio::main]
async fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    match relay(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Reports an error in the arguments without quoting them, as a URL may contain a secret.
fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        error.exit();
    }
    let known = |name: &String| {
        let long = name.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
        Arguments::command().get_arguments().any(|argument| argument.get_long() == Some(long))
    };
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => Some(name).filter(|name| known(name)).cloned(),
        Some(ContextValue::Strings(names)) => {
            Some(names.iter().filter(|name| known(name)).cloned().collect::<Vec<_>>())
                .filter(|names| !names.is_empty())
                .map(|names| names.join(", "))
        }
        _ => None,
    };
    let about = about.map(|name| format!(": {name}")).unwrap_or_default();
    eprintln!("{}{about}\n\n{}", error.kind(), Arguments::command().render_usage());
    ExitCode::from(2)
}

async fn relay(arguments: &Arguments) -> Result<(), Failure> {
    let flow = flow(arguments)?;
    let limits = PeerLimits::new()
        .connections(arguments.peer_connections)
        .pending(arguments.peer_pending)
        .refusals_per_second(arguments.peer_refusals);
    let mut builder = Engine::builder().peer_limits(limits);
    if let Some(host) = &arguments.public_host {
        builder = builder.public_host(host);
    }
    let engine = builder.on(tokio::runtime::Handle::current())?;
    let running = engine.start(flow).await?;
    for address in running.input_addresses() {
        eprintln!("input address: {address}");
        if let Some((server, key)) = PeerUrl::from(address).server_and_key() {
            eprintln!("input address, as server and stream key: {server} {key}");
        }
    }
    for (output, url) in running.playback_urls() {
        eprintln!("playback URL of {output}: {url}");
    }
    let mut events = running.events();
    let mut commands = commands();
    let mut table = Table::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut end = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            _ = tick.tick() => match arguments.stats {
                Form::Table => table.draw(&running.stats()),
                Form::Json => println!("{}", json(&running.stats())),
                Form::None => {}
            },
            event = events.next() => match event {
                Some(event) => eprintln!("{event}"),
                None => break,
            },
            command = commands.recv() => match command.as_deref().map(str::trim) {
                Some("quit") => break,
                Some("") | None => {}
                Some(command) => match obey(&running, command).await {
                    Ok(()) => eprintln!("done: {}", without_secrets(command)),
                    Err(error) => eprintln!("{}: {error}", without_secrets(command)),
                },
            },
            result = &mut end => {
                result?;
                break;
            }
        }
    }
    let last = running.stats();
    running.stop().await;
    summary(&last);
    Ok(())
}

/// Waits for Ctrl-C, or for the signal that ends services (SIGTERM).
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

fn flow(arguments: &Arguments) -> Result<Flow, Failure> {
    if let Some(file) = &arguments.config {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        return Ok(Flow::from_json(&text)?);
    }
    let source = |name: &str, url: &str| {
        let source = Source::from_url(name, url);
        match &arguments.allow {
            Some(list) => source.set("allow", list),
            None => source,
        }
    };
    let first = source("source", arguments.source.as_deref().unwrap_or_default());
    let mut builder = Flow::builder("relay", arguments.max_bandwidth).source(first);
    for (i, url) in arguments.backup.iter().enumerate() {
        builder = builder.backup(source(&format!("backup-{}", i + 1), url));
    }
    for text in &arguments.output {
        builder = builder.output(output(text)?);
    }
    Ok(builder.build()?)
}

fn output(text: &str) -> Result<Output, Failure> {
    // A URL without a name has its first `=` in its query.
    let parts = text.split_once('=').filter(|(name, _)| !name.contains("://"));
    let (name, url) = parts.ok_or("an output is of the form NAME=URL")?;
    Ok(Output::from_url(name, url))
}

/// Returns the lines of standard input; no more once it has ended.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // Reading standard input cannot be interrupted, so a thread of its own does it, and ends with the program.
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        // Keep the channel open: a relay without a terminal runs on.
        loop {
            thread::park();
        }
    });
    receiver
}

/// Returns a command as it may be shown: the verb, the name, and the URL without its secrets.
fn without_secrets(command: &str) -> String {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "add" => match rest.split_once('=') {
            Some((name, url)) if !name.contains("://") => format!("add {}={}", shown(name), shown_url(url)),
            _ => "add …".into(),
        },
        "allow" | "bandwidth" | "remove" => format!("{verb} {}", shown(rest)),
        _ => "unknown command".into(),
    }
}

/// Returns a name or number that was typed; a URL in its place is not shown.
fn shown(text: &str) -> String {
    let is_plain = !text.contains("://") && !text.contains(['@', '=', '?']);
    if is_plain { PeerText::new(text).to_string() } else { "…".into() }
}

async fn obey(running: &FlowHandle, command: &str) -> Result<(), Failure> {
    match command.split_once(' ') {
        Some(("add", text)) => running.add_output(output(text)?).await?,
        Some(("remove", name)) => running.remove_output(name).await?,
        Some(("bandwidth", rate)) => running.set_max_bandwidth(rate.parse()?)?,
        Some(("allow", rest)) => {
            let (source, list) = rest.split_once(' ').unwrap_or((rest, ""));
            running.edit_source(source, SourceEdit::new().allow(list.parse()?))?;
        }
        _ => return Err("commands: add NAME=URL, remove NAME, allow SOURCE LIST, bandwidth RATE, quit".into()),
    }
    Ok(())
}

fn summary(stats: &FlowStats) {
    eprintln!("\nsummary of `{}`", stats.name);
    for (role, endpoint) in
        stats.sources.iter().map(|s| ("source", s)).chain(stats.outputs.iter().map(|o| ("output", o)))
    {
        eprintln!(
            "{role} `{}`: {} packets, {} bytes, {} lost, {} dropped, {} refused, {} malformed",
            endpoint.name,
            endpoint.packets,
            endpoint.bytes,
            endpoint.lost,
            endpoint.dropped,
            endpoint.refused,
            endpoint.malformed
        );
    }
}
