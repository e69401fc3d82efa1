//! Outputs that are paced by the clock of their MPEG-TS, beside a program that only sleeps and sends.

use super::{Failure, Plan, Run, figure, free_port};
use std::{cell::RefCell, process::Command, time::Duration};
use streamlink_benches::{
    feed,
    process::Subject,
    receive::{Receivers, Timing},
    report::{Figure, Row, ratio},
};

/// Paced outputs of one flow.
const OUTPUTS: usize = 20;

#[derive(Clone, Copy)]
enum Program {
    Ours,
    Floor,
}

impl Program {
    fn start(self, port: u16, datagrams: u64, receivers: &[String]) -> std::io::Result<Subject> {
        let mut command = match self {
            Self::Ours => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bench-relay"));
                command.arg("default").arg(format!("udp://127.0.0.1:{port}"));
                command.args(receivers.iter().map(|address| format!("udp://{address}?pace=pcr")));
                command
            }
            Self::Floor => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bench-floor-sleeps"));
                command.arg(format!("127.0.0.1:{port}")).arg(datagrams.to_string()).args(receivers);
                command
            }
        };
        Subject::start(&mut command, true)
    }
}

/// Twenty paced outputs of a flow of constant rate.
pub(crate) fn outputs(plan: &Plan) -> Result<Row, Failure> {
    let programs = [("streamlink, pace=pcr", Program::Ours), ("floor: sleeps and sends", Program::Floor)];
    let errors: [RefCell<Vec<f64>>; 2] = Default::default();
    let runs = plan.in_turn(&programs, |program| {
        let (run, error) = paced_run(plan, *program)?;
        errors[*program as usize].borrow_mut().push(error);
        Ok(run)
    })?;
    let cpu = |runs: &[Run]| runs.iter().map(|run| run.cpu_per_gb).collect::<Vec<f64>>();
    let figures: Vec<Figure> = programs
        .iter()
        .zip(&runs)
        .map(|((name, _), theirs)| Figure { ratio: Some(ratio(&cpu(&runs[0]), &cpu(theirs))), ..figure(name, theirs) })
        .collect();
    let [error, ..] = ratio(&errors[0].borrow(), &errors[1].borrow());
    let targets = vec![
        ("inter-arrival error p99.9, ratio to the floor".into(), error, 2.0),
        ("CPU, ratio to the floor".into(), figures[1].ratio.map_or(f64::NAN, |[median, ..]| median), 1.2),
        ("packets lost".into(), figures[0].lost as f64, 0.0),
    ];
    let title = format!(
        "UDP, MPEG-TS of 6 Mb/s with clock references, paced to {OUTPUTS} receivers; p50 and p99 of the inter-arrival error"
    );
    Ok(Row { title, figures, targets })
}

/// One program, once. Returns the 99.9th percentile of the inter-arrival error, too, in milliseconds.
fn paced_run(plan: &Plan, program: Program) -> Result<(Run, f64), Failure> {
    let datagrams = feed::clocked_datagrams(Duration::from_secs(plan.seconds));
    let receivers = Receivers::start(OUTPUTS, Timing::Interval, false)?;
    let port = free_port()?;
    let subject = program.start(port, datagrams, &receivers.addresses)?;
    subject.wait_for_udp(port)?;
    std::thread::sleep(Duration::from_millis(300)); // the program has started
    let before = subject.usage();
    feed::play_clocked(port, datagrams)?;
    std::thread::sleep(Duration::from_millis(400)); // the last packets leave
    let usage = subject.usage();
    drop(subject);
    let received = receivers.finish()?;
    if received.bytes == 0 || received.latency.is_none() {
        return Err("nothing arrived".into());
    }
    let cpu = usage.cpu.saturating_sub(before.cpu);
    let run = Run {
        cpu_per_gb: cpu.as_secs_f64() / (received.bytes as f64 / 1e9),
        lost: received.packets.iter().map(|packets| datagrams.saturating_sub(*packets)).sum(),
        latency: (received.percentile(0.5), received.percentile(0.99)),
        usage,
    };
    Ok((run, received.percentile(0.999)))
}
