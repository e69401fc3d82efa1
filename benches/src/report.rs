//! The report: a table on the terminal, the figures as JSON, and a chart.

use serde_json::{Value, json};
use std::{fmt::Write, fs, path::Path};

/// One program at one piece of work: medians of several runs.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The program.
    pub name: String,
    /// CPU seconds, user and system, per gigabyte delivered.
    pub cpu_per_gb: f64,
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

/// The median of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// The row as a table.
    pub fn table(&self) -> String {
        let ours = self.figures.first().map_or(f64::NAN, |f| f.cpu_per_gb);
        let mut text = format!(
            "\n{}\n{:<34} {:>9} {:>7} {:>6} {:>9} {:>9} {:>9} {:>8}\n",
            self.title, "program", "CPU s/GB", "ours/it", "lost", "p50 ms", "p99 ms", "MiB", "threads"
        );
        for f in &self.figures {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:<34} {:>9.3} {:>7.2} {:>6} {:>9.2} {:>9.2} {:>9.1} {:>8}",
                f.name,
                f.cpu_per_gb,
                ours / f.cpu_per_gb,
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
                "program": f.name, "cpu_seconds_per_gigabyte": f.cpu_per_gb, "lost": f.lost,
                "latency_p50_ms": f.latency.0, "latency_p99_ms": f.latency.1,
                "memory_bytes": f.memory, "threads": f.threads,
            })).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(|(what, value, most)| json!({
                "what": what, "value": value, "at_most": most, "holds": value <= most,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Writes the rows as `peers.json` and `peers.svg` into a folder.
///
/// # Errors
/// When the files cannot be written.
pub fn write(rows: &[Row], folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let all = json!({ "rows": rows.iter().map(Row::json).collect::<Vec<_>>() });
    fs::write(folder.join("peers.json"), format!("{all:#}\n"))?;
    fs::write(folder.join("peers.svg"), svg(rows))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws a bar for each program: CPU seconds per gigabyte, less is better.
fn svg(rows: &[Row]) -> String {
    let width = 760.0;
    let left = 250.0;
    let bar = 22.0;
    let mut body = String::new();
    let mut y = 28.0;
    for row in rows.iter().filter(|row| row.figures.iter().any(|f| f.cpu_per_gb > 0.0)) {
        let _ = writeln!(body, r#"<text x="10" y="{y}" class="title">{}</text>"#, escape(&row.title));
        y += 18.0;
        let most = row.figures.iter().map(|f| f.cpu_per_gb).fold(0.0, f64::max);
        for f in &row.figures {
            let length = (f.cpu_per_gb / most * (width - left - 70.0)).max(1.0);
            let class = if f.name.starts_with("streamlink") { "ours" } else { "theirs" };
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{}" class="name">{}</text><rect x="{left}" y="{y}" width="{length:.1}" height="{}" class="{class}"/><text x="{:.1}" y="{}" class="value">{:.2}</text>"#,
                left - 8.0,
                y + 15.0,
                escape(&f.name),
                bar - 4.0,
                left + length + 6.0,
                y + 15.0,
                f.cpu_per_gb
            );
            y += bar;
        }
        y += 24.0;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" role="img">
<title>CPU seconds per gigabyte delivered; less is better</title>
<style>text{{font:13px sans-serif;fill:#333}}.title{{font-weight:bold}}.name{{text-anchor:end}}.ours{{fill:#1a7f37}}.theirs{{fill:#9aa4ae}}rect.bg{{fill:#fff}}</style>
<rect class="bg" width="{width}" height="{y}"/>
{body}</svg>
"##
    )
}
