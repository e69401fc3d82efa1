//! The report: a table on the terminal, the figures as JSON, and a chart.

use crate::chart;
use serde_json::{Value, json};
use std::{fmt::Write, fs, path::Path};

/// One program at one piece of work: medians of several runs.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// The program.
    pub name: String,
    /// CPU seconds, user and system, per gigabyte delivered.
    pub cpu_per_gb: f64,
    /// Least and most of the runs.
    pub spread: (f64, f64),
    /// CPU of our program by that of this one, each run's own: median, least and most.
    pub ratio: Option<[f64; 3]>,
    /// Packets that did not arrive, of all runs.
    pub lost: u64,
    /// Added latency in milliseconds, median and 99th percentile.
    pub latency: (f64, f64),
    /// Resident memory in bytes.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
}

/// One piece of work, done by several programs in turn in one run.
#[derive(Clone, Debug)]
pub struct Row {
    /// Title of the work.
    pub title: String,
    /// The programs; the first is ours, all others are compared with it.
    pub figures: Vec<Figure>,
    /// Targets: a sentence, the value, and its maximum.
    pub targets: Vec<(String, f64, f64)>,
}

/// One program at one point of a chart: medians of several runs.
#[derive(Clone, Debug)]
pub struct Point {
    /// The program.
    pub program: String,
    /// The number on the axis.
    pub at: usize,
    /// CPU seconds, user and system, per gigabyte delivered.
    pub cpu_per_gb: f64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Added latency in milliseconds, median and 99th percentile.
    pub latency: (f64, f64),
    /// Packets that did not arrive, of all runs.
    pub lost: u64,
}

/// Cost as a number grows, such as that of outputs.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Title of the work.
    pub title: String,
    /// Name of the number that grows.
    pub axis: String,
    /// The points, in order of the number; our program comes first.
    pub points: Vec<Point>,
}

impl Growth {
    /// The points as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{}\n{:>8} {:<34} {:>9} {:>7} {:>7} {:>7} {:>7}\n",
            self.title, self.axis, "program", "CPU s/GB", "lost", "p50 ms", "p99 ms", "MiB"
        );
        for p in &self.points {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:>8} {:<34} {:>9.3} {:>7} {:>7.2} {:>7.2} {:>7.1}",
                p.at,
                p.program,
                p.cpu_per_gb,
                p.lost,
                p.latency.0,
                p.latency.1,
                p.memory as f64 / f64::from(1 << 20)
            );
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "title": self.title,
            "axis": self.axis,
            "points": self.points.iter().map(|p| json!({
                "program": p.program, "at": p.at, "cpu_seconds_per_gigabyte": p.cpu_per_gb, "memory_bytes": p.memory,
                "latency_p50_ms": p.latency.0, "latency_p99_ms": p.latency.1, "lost": p.lost,
            })).collect::<Vec<_>>(),
        })
    }
}

/// The median of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the median, least and most of the ratios of our runs to those of a program, each to the one beside it, so
/// that a disturbance affects both.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> [f64; 3] {
    let each: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    let (least, most) = spread(&each);
    [median(each), least, most]
}

/// Returns the least and the most of some values.
pub fn spread(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn range(least: f64, most: f64, digits: usize) -> String {
    if least.is_finite() && most > 0.0 { format!("{least:.digits$}-{most:.digits$}") } else { String::new() }
}

impl Row {
    /// The row as a table.
    pub fn table(&self) -> String {
        let ours = self.figures.first().map_or(f64::NAN, |f| f.cpu_per_gb);
        let mut text = format!(
            "\n{}\n{:<34} {:>9} {:>13} {:>7} {:>11} {:>6} {:>7} {:>7} {:>7} {:>7}\n",
            self.title,
            "program",
            "CPU s/GB",
            "spread",
            "ours/it",
            "spread",
            "lost",
            "p50 ms",
            "p99 ms",
            "MiB",
            "threads"
        );
        for f in &self.figures {
            let [ratio, least, most] = f.ratio.unwrap_or([ours / f.cpu_per_gb, f64::NAN, f64::NAN]);
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:<34} {:>9.3} {:>13} {:>7.2} {:>11} {:>6} {:>7.2} {:>7.2} {:>7.1} {:>7}",
                f.name,
                f.cpu_per_gb,
                range(f.spread.0, f.spread.1, 3),
                ratio,
                range(least, most, 2),
                f.lost,
                f.latency.0,
                f.latency.1,
                f.memory as f64 / f64::from(1 << 20),
                f.threads
            );
        }
        for (what, value, most) in &self.targets {
            let verdict = if value <= most { "holds" } else { "DOES NOT HOLD" };
            let most = (most * 100.0).round() / 100.0;
            let _ = writeln!(text, "  {what}: {value:.2}, at most {most}: {verdict}");
        }
        text
    }

    /// Returns whether all targets hold.
    pub fn holds(&self) -> bool {
        self.targets.iter().all(|(_, value, most)| value <= most)
    }

    fn json(&self) -> Value {
        json!({
            "title": self.title,
            "figures": self.figures.iter().map(|f| json!({
                "program": f.name, "cpu_seconds_per_gigabyte": f.cpu_per_gb, "spread": [f.spread.0, f.spread.1],
                "ours_by_it": f.ratio, "lost": f.lost,
                "latency_p50_ms": f.latency.0, "latency_p99_ms": f.latency.1,
                "memory_bytes": f.memory, "threads": f.threads,
            })).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(|(what, value, most)| json!({
                "what": what, "value": value, "at_most": most, "holds": value <= most,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Writes the rows as `peers.json` and `peers.svg`, and what grows as `growth.svg`, into a folder.
///
/// # Errors
/// When the files cannot be written.
pub fn write(rows: &[Row], growths: &[Growth], folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let all = json!({
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "growth": growths.iter().map(Growth::json).collect::<Vec<_>>(),
    });
    fs::write(folder.join("peers.json"), format!("{all:#}\n"))?;
    fs::write(folder.join("peers.svg"), chart::bars(rows))?;
    fs::write(folder.join("growth.svg"), chart::lines(growths))
}
