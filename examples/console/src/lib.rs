//! The console: the host that people run. Many flows in one process, kept over restarts; an HTTP API, a web page, metrics.
//!
//! ```text
//! cargo run --release -p streamlink-console        # then open http://127.0.0.1:8080
//! ```

mod access;
mod api;
mod apply;
mod document;
mod flows;
mod history;
mod https;
mod options;
mod page;
mod problem;
mod samples;
mod server;
mod store;

use access::Access;
use api::Console;
use clap::Parser;
use flows::Flows;
use history::History;
use https::Https;
use options::{Failure, Options, read};
use samples::Samples;
use std::{
    io::Read,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use store::Store;
use streamlink_core::{Engine, Flow};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

/// Threads that answer requests. Media has threads of its own.
const THREADS: usize = 2;

/// Runs the console as its command line says.
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let options = Options::parse();
    let result = if options.hash_password { print_hash() } else { run(options) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamlink-console: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the hash of the password on standard input.
fn print_hash() -> Result<(), Failure> {
    let mut password = zeroize::Zeroizing::new(String::new());
    std::io::stdin().take(4096).read_to_string(&mut password)?;
    println!("{}", access::hash(password.trim_end_matches(['\r', '\n']))?);
    Ok(())
}

fn run(options: Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(console(options))
}

async fn console(options: Options) -> Result<(), Failure> {
    let https = Https::load(&options)?;
    let is_https = options.behind_https || https.is_some();
    let access = Access::load(options.password_file.as_deref(), options.host.clone(), is_https)?;
    if let Some(address) = options.listen.iter().find(|address| !address.ip().is_loopback() && !access.has_operator()) {
        return Err(format!(
            "{address} is reached by other machines, so a password of the operator is needed: see --password-file"
        )
        .into());
    }
    let mut listeners = Vec::new();
    for address in &options.listen {
        listeners.push(TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?);
    }
    let store = Arc::new(Store::open(&options.data())?);
    let engine = options.engine()?;
    let history = History::load(store.clone())?;
    let events = tokio::spawn(history.clone().collect(engine.events()));
    let flows = Flows::load(engine.clone(), store, history, options.max_flows)?;
    let console = Console {
        flows: flows.clone(),
        samples: Samples::default(),
        access,
        streams: Arc::new(Semaphore::new(usize::try_from(options.max_streams)?)),
        is_ready: Arc::new(AtomicBool::new(false)),
    };
    let routes = api::router(&console);
    let connections = server::connections();
    for listener in listeners {
        let scheme = if https.is_some() { "https" } else { "http" };
        println!("StreamLink console: {scheme}://{}", listener.local_addr()?);
        tokio::spawn(server::serve(listener, routes.clone(), connections.clone(), https.clone()));
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let start = async {
        flows.start_all().await;
        if let Some(file) = &options.import {
            import(&flows, file).await;
        }
    };
    tokio::select! {
        () = start => {}
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    }
    console.is_ready.store(true, Ordering::Release);
    tokio::spawn(console.samples.clone().collect(engine.clone()));
    tokio::spawn(flows.retry());
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => renew(&options, https.as_ref(), &engine),
        }
    }
    engine.shutdown().await;
    // The last events are stored; the task ends with the engine.
    Ok(events.await?)
}

/// Reads the certificates again. Those that cannot be read stay as they were.
fn renew(options: &Options, https: Option<&Https>, engine: &Engine) {
    let page = https.map_or(Ok(()), |https| https.renew(options));
    for result in [page, options.renew_tls_identity(engine)] {
        if let Err(error) = result {
            log::error!("a certificate stays as it was: {error}");
        }
    }
    log::info!("the certificates were read again");
}

/// Creates the flows of a file whose names are not taken. An error is told, and the flows that run go on.
async fn import(flows: &Flows, file: &Path) {
    let list = match read_flows(file) {
        Ok(list) => list,
        Err(error) => return log::error!("nothing is imported: {error}"),
    };
    for flow in list.into_iter().filter(|flow| flows.get(flow.name()).is_err()) {
        let name = flow.name().to_owned();
        if let Err(problem) = flows.create(flow, true, "import").await {
            log::error!("{}: flow `{name}` is not imported: {}", file.display(), problem.detail());
        }
    }
}

fn read_flows(file: &Path) -> Result<Vec<Flow>, Failure> {
    let text = String::from_utf8(read(file)?).map_err(|_| format!("{}: the file is not UTF-8 text", file.display()))?;
    Ok(Flow::list_from_json(&text).map_err(|errors| format!("{}:\n{errors}", file.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_flows_are_valid() {
        let flows = Flow::list_from_json(include_str!("../flows.json")).unwrap();
        assert_eq!(flows.len(), 2);
    }
}
