//! A relay on the command line: one source, with or without backups, to any number of outputs; or several such flows.
//!
//!     relay --source rtp://:5004 --output studio=rtp://192.0.2.1:5004 --max-bandwidth 20M
//!     relay --source srt://:9000?latency=200 --output partner=srt://:9001?max_players=4
//!     relay --config flows.json --stats json
//!
//! While it runs it reads commands from standard input (`relay --help` lists them), and SIGHUP reads the file again.
//! Ctrl-C ends it with a summary.
//!
//! Input addresses and playback URLs are printed once, when the flow starts; those of RTMP hold the stream key, which
//! encoders and players need. Nothing else that is printed holds a secret: commands and arguments are never repeated.

mod arguments;
mod flows;
mod screen;

use arguments::{Arguments, Form, explain, settings_table};
use clap::Parser;
use env_logger::Target;
use flows::Flows;
use screen::Screen;
use std::{
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    thread,
    time::Duration,
};
use streamlink_core::FlowStats;
use streamlink_examples::{json, rates, rows};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let screen = Screen::default();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .filter_module("streamlink_core::event", log::LevelFilter::Off) // they are printed by the relay
        .target(Target::Pipe(Box::new(screen.clone())))
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    if arguments.settings {
        // It fails where the reader has seen enough.
        let _ = io::stdout().write_all(settings_table().as_bytes());
        return ExitCode::SUCCESS;
    }
    match relay(&arguments, &screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.plain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Signals that this program heeds.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Waits for Ctrl-C, or for the signal that ends services (SIGTERM).
async fn ended(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn relay(arguments: &Arguments, screen: &Screen) -> Result<(), Failure> {
    let Signals { mut interrupt, mut terminate, hang_up } = Signals::new()?;
    let wanted = arguments.flows()?;
    let mut flows = Flows::new(arguments.engine()?, screen.clone(), arguments.config.clone());
    let starting = async {
        let mut failures = Vec::new();
        for flow in wanted {
            let name = flow.flow.name().to_owned();
            if let Err(error) = flows.start(flow).await {
                failures.push(format!("flow `{name}`: {error}"));
            }
        }
        failures
    };
    let failures = tokio::select! {
        failures = starting => failures,
        () = ended(&mut interrupt, &mut terminate) => return Ok(()),
    };
    if !failures.is_empty() {
        flows.stop().await;
        return Err(failures.join("\n").into());
    }
    let mut report = Report::new(arguments.stats, screen.clone());
    tokio::select! {
        () = run(&mut flows, hang_up, screen, &mut report, arguments.interval) => {}
        () = ended(&mut interrupt, &mut terminate) => {}
    }
    let last = flows.stats();
    screen.draw(Vec::new());
    tokio::select! {
        () = flows.stop() => {}
        () = ended(&mut interrupt, &mut terminate) => return Err("stopped before all flows had ended".into()),
    }
    for stats in &last {
        summary(stats, screen);
    }
    Ok(())
}

/// Carries out commands and reports statistics, until it is told to quit.
async fn run(flows: &mut Flows, mut hang_up: Signal, screen: &Screen, report: &mut Report, interval: u32) {
    let mut commands = commands(screen.clone());
    let mut tick = tokio::time::interval(Duration::from_secs(interval.into()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => report.show(&flows.stats()),
            command = commands.recv() => match command.as_deref().map(str::from_utf8) {
                Some(Ok(command)) => match command.trim() {
                    "quit" => {
                        screen.plain("ok");
                        return;
                    }
                    "" => {}
                    command => screen.plain(&answer(&flows.obey(command).await)),
                },
                Some(Err(_)) => screen.plain(&answer(&Err("the command is not UTF-8 text".into()))),
                None => {}
            },
            _ = hang_up.recv() => {
                let result = flows.reload().await;
                screen.line(&format!("reload: {}", answer(&result)));
            }
        }
    }
}

/// Returns the answer to a command, in one line.
fn answer(result: &Result<(), Failure>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => format!("error: {}", error.to_string().replace('\n', "; ")),
    }
}

/// Statistics in the form that was asked for.
struct Report {
    form: Form,
    screen: Screen,
}

impl Report {
    fn new(form: Form, screen: Screen) -> Self {
        let form = match (form, screen.is_terminal()) {
            (Form::Auto, true) => Form::Table,
            (Form::Auto, false) => Form::None,
            (Form::Table, false) => Form::Lines,
            (form, _) => form,
        };
        Self { form, screen }
    }

    fn show(&mut self, flows: &[FlowStats]) {
        match self.form {
            Form::Table => {
                let (columns, lines) = self.screen.size();
                self.screen.draw(rows(flows, columns, lines.saturating_sub(2)));
            }
            Form::Lines => flows.iter().for_each(|stats| self.screen.line(&rates(stats))),
            Form::Json => self.write_json(flows),
            Form::None | Form::Auto => {}
        }
    }

    /// Writes a JSON object a line. The media goes on if nobody reads them any more.
    fn write_json(&mut self, flows: &[FlowStats]) {
        let now = screen::now();
        let mut text = String::new();
        for stats in flows {
            let mut object = json(stats);
            if let Some(map) = object.as_object_mut() {
                map.insert("time".into(), now.clone().into());
            }
            text += &format!("{object}\n");
        }
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.form = Form::None;
            self.screen.line(&format!("standard output is closed, no more statistics are written: {error}"));
        }
    }
}

/// Returns the lines of standard input, which may be no text; no more once it has ended.
fn commands(screen: Screen) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(64);
    // Reading standard input cannot be interrupted, so a thread of its own does it, and ends with the program.
    thread::spawn(move || {
        let is_typed = io::stdin().is_terminal() && screen.is_terminal();
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            if is_typed {
                screen.typed();
            }
            if sender.blocking_send(line).is_err() {
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

fn summary(stats: &FlowStats, screen: &Screen) {
    screen.line(&format!("summary of `{}`", stats.name));
    let sources = stats.sources.iter().map(|source| ("source", source));
    for (role, endpoint) in sources.chain(stats.outputs.iter().map(|output| ("output", output))) {
        screen.line(&format!(
            "{role} `{}`: {} packets, {} bytes, {} lost, {} dropped, {} refused, {} malformed",
            endpoint.name,
            endpoint.packets,
            endpoint.bytes,
            endpoint.lost,
            endpoint.dropped,
            endpoint.refused,
            endpoint.malformed
        ));
    }
}
