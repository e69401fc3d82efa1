//! Shared parts of the examples: statistics as a live table and as JSON, and a clip to play.

// The statistics of an endpoint are one large JSON object.
#![recursion_limit = "256"]

mod clip;

pub use clip::{play_clip, split_key};

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
};
use streamlink_core::{EndpointStats, FlowStats, MediaTrack, MemberStats, PidStats, PlayerStats, shown_url};

/// A column of the table: its title, its width, true if it is aligned to the right, and its content.
type Column = (&'static str, usize, bool, fn(&EndpointStats) -> String);

/// Columns behind the name, the most important first.
const COLUMNS: &[Column] = &[
    ("state", 10, false, |s| format!("{:?}", s.state)),
    ("Mb/s", 9, true, |s| format!("{:.3}", s.bit_rate.as_bps() as f64 / 1e6)),
    ("speaks", 9, false, |s| s.protocol.to_owned()),
    ("lost", 7, true, |s| s.lost.to_string()),
    ("dropped", 8, true, |s| s.dropped.to_string()),
    ("packets", 11, true, |s| s.packets.to_string()),
    ("CC err", 7, true, |s| s.transport.continuity.to_string()),
];
/// Width of the names below which columns are left out instead.
const MIN_NAME: usize = 12;
/// Width of the longest name that is shown in full.
const MAX_NAME: usize = 40;

/// A table of rates that is drawn over itself on a terminal, and line after line elsewhere.
#[derive(Debug, Default)]
pub struct Table {
    drawn: usize,
}

impl Table {
    /// Draws the current statistics on standard error, which leaves standard output to the program's results.
    pub fn draw(&mut self, stats: &FlowStats) {
        self.draw_all(std::slice::from_ref(stats));
    }

    /// Draws several flows, one below the other.
    pub fn draw_all(&mut self, flows: &[FlowStats]) {
        let mut out = std::io::stderr().lock();
        let size = terminal_size::terminal_size_of(&out);
        let (width, lines) = size.map_or((80, 24), |(width, height)| (width.0.into(), usize::from(height.0)));
        let lines =
            if out.is_terminal() { rows(flows, width, lines.saturating_sub(1)) } else { rows(flows, width, 1000) };
        let up =
            if out.is_terminal() && self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        // A program goes on without its terminal, so a failure to write is ignored.
        let _ = writeln!(out, "{up}{}", lines.join("\n"));
    }
}

/// Returns a table of rates with at most so many columns of text and lines. The source that feeds its flow is marked
/// with `*`. Names that are too long end with an ellipsis.
pub fn rows(flows: &[FlowStats], width: usize, lines: usize) -> Vec<String> {
    let label = |row: &EndpointStats, mark: &str| format!("{mark} {}", row.name);
    let mut labels: Vec<(String, Option<&EndpointStats>)> = Vec::new();
    for stats in flows {
        if flows.len() > 1 {
            labels.push((stats.name.clone(), None));
        }
        for source in &stats.sources {
            labels.push((label(source, if source.active { "*" } else { "-" }), Some(source)));
        }
        labels.extend(stats.outputs.iter().map(|output| (label(output, "  ->"), Some(output))));
    }
    let longest = labels.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default();
    let wanted = longest.clamp(MIN_NAME, MAX_NAME);
    let mut columns = COLUMNS;
    let behind = |columns: &[Column]| columns.iter().map(|(_, width, ..)| width + 1).sum::<usize>();
    while let Some((_, fewer)) = columns.split_last()
        && behind(columns) + MIN_NAME > width
    {
        columns = fewer;
    }
    let name_width = wanted.min(width.saturating_sub(behind(columns)).max(1));
    let line = |name: &str, cells: &mut dyn FnMut(&Column) -> String| {
        let mut text = format!("{:<name_width$}", cut(name, name_width));
        for column in columns {
            let (_, width, is_number, _) = *column;
            let cell = cut(&cells(column), width);
            text += &if is_number { format!(" {cell:>width$}") } else { format!(" {cell:<width$}") };
        }
        text.trim_end().to_owned()
    };
    let mut table = vec![line("endpoint", &mut |(title, ..)| (*title).to_owned())];
    for (label, row) in &labels {
        table.push(match row {
            Some(row) => line(label, &mut |(.., content)| content(row)),
            None => cut(label, width),
        });
    }
    if table.len() > lines.max(2) {
        let more = table.len() - lines.max(2) + 1;
        table.truncate(lines.max(2) - 1);
        table.push(format!("… {more} more"));
    }
    table
}

/// Returns a text with at most so many characters; an ellipsis stands for what is cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let start: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{start}…")
}

/// Returns the rates of a flow in one line.
pub fn rates(stats: &FlowStats) -> String {
    let rate = |s: &EndpointStats| format!("`{}` {:.3} Mb/s", s.name, s.bit_rate.as_bps() as f64 / 1e6);
    let source = |s: &EndpointStats| format!("{}{}", rate(s), if s.active { " (active)" } else { "" });
    let sources: Vec<String> = stats.sources.iter().map(source).collect();
    let outputs: Vec<String> = stats.outputs.iter().map(rate).collect();
    format!("{}: in {}; out {}", stats.name, sources.join(", "), outputs.join(", "))
}

/// Returns all statistics as one JSON object. The secrets of URLs are hidden.
pub fn json(stats: &FlowStats) -> Value {
    let player = |p: &PlayerStats| {
        json!({
            "peer": p.peer.to_string(),
            "connected_ms": p.connected_for.as_millis() as u64,
            "bytes": p.bytes,
            "packets": p.packets,
            "retransmitted": p.retransmitted,
            "lost": p.lost,
            "dropped": p.dropped,
            "round_trip_us": p.round_trip.as_micros() as u64,
        })
    };
    let member = |m: &MemberStats| {
        json!({
            "address": m.address,
            "connected_ms": m.connected_for.map(|time| time.as_millis() as u64),
            "active": m.is_active,
            "packets": m.packets,
            "bytes": m.bytes,
            "redundant": m.redundant,
            "lost": m.lost,
            "retransmitted": m.retransmitted,
            "dropped": m.dropped,
            "round_trip_us": m.round_trip.as_micros() as u64,
            "recent_loss": m.recent_loss,
        })
    };
    let track = |t: &MediaTrack| {
        json!({
            "pid": t.pid,
            "program": t.program,
            "track": t.track,
            "codec": t.codec,
            "profile": t.profile,
            "width": t.width,
            "height": t.height,
            "frame_rate": t.frame_rate,
            "sample_rate": t.sample_rate,
            "channels": t.channels,
            "bit_rate": t.bit_rate,
            "left_out": t.left_out.map(|reason| reason.to_string()),
        })
    };
    let pid = |p: &PidStats| {
        json!({
            "pid": p.pid,
            "stream_type": p.stream_type,
            "packets": p.packets,
            "continuity_errors": p.continuity_errors,
        })
    };
    let endpoint = |s: &EndpointStats| {
        json!({
            "name": s.name,
            "description": s.description,
            "url": s.url.as_ref().map(|url| shown_url(url)),
            "url_ipv4": s.url_ipv4.as_ref().map(|url| shown_url(url)),
            "protocol": s.protocol,
            "state": format!("{:?}", s.state),
            "active": s.active,
            "connected_ms": s.connected_for.map(|d| d.as_millis() as u64),
            "reconnections": s.reconnections,
            "bytes": s.bytes,
            "packets": s.packets,
            "bit_rate": s.bit_rate.as_bps(),
            "lost": s.lost,
            "unique_packets": s.unique_packets,
            "late": s.late,
            "recovered": s.recovered,
            "retransmitted": s.retransmitted,
            "dropped": s.dropped,
            "duplicates": s.duplicates,
            "malformed": s.malformed,
            "undecrypted": s.undecrypted,
            "repairs": s.repairs,
            "rebuilt": s.rebuilt,
            "unrepaired": s.unrepaired,
            "refused": s.refused,
            "refusals": s.refusals.iter().map(|refusal| (refusal.reason.kind(), refusal.count)).collect::<BTreeMap<_, _>>(),
            "jitter_us": s.jitter.as_micros() as u64,
            "round_trip_us": s.round_trip.as_micros() as u64,
            "latency_us": s.latency.as_micros() as u64,
            "buffered_us": s.buffered.as_micros() as u64,
            "encrypted": s.encrypted,
            "video_frame_rate": s.video_frame_rate,
            "audio_frame_rate": s.audio_frame_rate,
            "transport": {
                "sync_losses": s.transport.sync_losses,
                "sync_byte_errors": s.transport.sync_byte,
                "pat_errors": s.transport.pat,
                "continuity_errors": s.transport.continuity,
                "pmt_errors": s.transport.pmt,
                "pid_errors": s.transport.pid,
                "transport_errors": s.transport.transport,
                "crc_errors": s.transport.crc,
                "pcr_repetition_errors": s.transport.pcr_repetition,
                "pcr_discontinuity_errors": s.transport.pcr_discontinuity,
                "pts_errors": s.transport.pts,
                "cat_errors": s.transport.cat,
            },
            "media": s.media.as_deref(),
            "peer": s.peer.map(|peer| peer.to_string()),
            "last_error": s.last_error.as_ref().map(|error| json!({
                "kind": error.kind,
                "text": error.text.as_str(),
                "peer": error.peer.map(|peer| peer.to_string()),
                "age_ms": error.age.as_millis() as u64,
            })),
            "pids": s.pids.iter().map(pid).collect::<Vec<_>>(),
            "tracks": s.tracks.iter().map(track).collect::<Vec<_>>(),
            "players": s.players.iter().map(player).collect::<Vec<_>>(),
            "members": s.members.iter().map(member).collect::<Vec<_>>(),
        })
    };
    json!({
        "flow": stats.name,
        "max_bandwidth": stats.max_bandwidth.as_bps(),
        "merge_lost": stats.merge_lost,
        "sources": stats.sources.iter().map(endpoint).collect::<Vec<_>>(),
        "outputs": stats.outputs.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
