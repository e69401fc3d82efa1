//! Charts of the report, as SVG.

use crate::report::{Growth, Point, Row};
use std::fmt::Write;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws a bar for each program: CPU seconds per gigabyte, less is better.
pub(crate) fn bars(rows: &[Row]) -> String {
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

/// Width of one panel, and its room for lines.
const PANEL: f64 = 380.0;
const PLOT: (f64, f64) = (270.0, 150.0);

/// Draws two panels for each growth: CPU seconds per gigabyte, and memory. Both axes are logarithmic.
pub(crate) fn lines(growths: &[Growth]) -> String {
    let mut body = String::new();
    let mut y = 28.0;
    for growth in growths {
        let _ = writeln!(body, r#"<text x="10" y="{y}" class="title">{}</text>"#, escape(&growth.title));
        panel(&mut body, (0.0, y + 14.0), growth, "CPU s/GB", |p| p.cpu_per_gb);
        panel(&mut body, (PANEL, y + 14.0), growth, "MiB", |p| p.memory as f64 / f64::from(1 << 20));
        y += PLOT.1 + 88.0;
    }
    let width = 2.0 * PANEL;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" role="img">
<title>CPU and memory as outputs and flows grow; less is better</title>
<style>text{{font:12px sans-serif;fill:#333}}.title{{font-weight:bold}}.end{{text-anchor:end}}.mid{{text-anchor:middle}}path,line{{fill:none;stroke-width:2}}line{{stroke:#ddd;stroke-width:1}}.ours{{stroke:#1a7f37}}.theirs{{stroke:#9aa4ae}}circle.ours{{fill:#1a7f37}}circle.theirs{{fill:#9aa4ae}}rect.bg{{fill:#fff}}</style>
<rect class="bg" width="{width}" height="{y}"/>
{body}</svg>
"##
    )
}

fn panel(body: &mut String, (left, top): (f64, f64), growth: &Growth, unit: &str, value: fn(&Point) -> f64) {
    let x0 = left + 60.0;
    let y0 = top + 14.0;
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (least, most) = values.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), v| (a.min(v), b.max(v)));
        (least.max(1e-6).ln(), (most * 1.001).max(1e-6).ln())
    };
    let (xa, xb) = range(&mut growth.points.iter().map(|p| p.at as f64));
    let (ya, yb) = range(&mut growth.points.iter().map(value));
    let across = |at: f64| x0 + (at.ln() - xa) / (xb - xa).max(1e-6) * PLOT.0;
    let down = |value: f64| y0 + (1.0 - (value.max(1e-6).ln() - ya) / (yb - ya).max(1e-6)) * PLOT.1;
    let _ = writeln!(body, r#"<text x="{}" y="{}" class="end">{unit}</text>"#, x0 - 8.0, y0 - 2.0);
    for end in [ya, yb] {
        let y = down(end.exp());
        let _ = writeln!(
            body,
            r#"<line x1="{x0}" y1="{y:.1}" x2="{}" y2="{y:.1}"/><text x="{}" y="{:.1}" class="end">{:.2}</text>"#,
            x0 + PLOT.0,
            x0 - 8.0,
            y + 14.0,
            end.exp()
        );
    }
    let mut programs: Vec<&str> = growth.points.iter().map(|p| p.program.as_str()).collect();
    programs.sort_unstable();
    programs.dedup();
    for program in programs {
        let class = if program.starts_with("streamlink") { "ours" } else { "theirs" };
        let mut path = String::new();
        for p in growth.points.iter().filter(|p| p.program == program) {
            let x = across(p.at as f64);
            let y = down(value(p));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
            let _ = writeln!(body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="{class}"/>"#);
        }
        let _ = writeln!(body, r#"<path d="{path}" class="{class}"/>"#);
    }
    let mut at: Vec<usize> = growth.points.iter().map(|p| p.at).collect();
    at.dedup();
    for at in at {
        let _ =
            writeln!(body, r#"<text x="{:.1}" y="{}" class="mid">{at}</text>"#, across(at as f64), y0 + PLOT.1 + 18.0);
    }
    let below = y0 + PLOT.1 + 34.0;
    let _ = writeln!(body, r#"<text x="{}" y="{below}" class="mid">{}</text>"#, x0 + PLOT.0 / 2.0, growth.axis);
}
