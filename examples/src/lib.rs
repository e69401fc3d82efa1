//! Shared parts of the examples: statistics as a live table and as JSON, and a clip to play.

mod clip;

pub use clip::{play_clip, split_key};

use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use streamlink_core::{EndpointStats, FlowStats, MediaTrack, PlayerStats};

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
        let mut lines = vec![format!(
            "{:<22} {:<9} {:<10} {:>9} {:>9} {:>6} {:>8} {:>6}",
            "endpoint", "speaks", "state", "Mb/s", "packets", "lost", "dropped", "CC err"
        )];
        let rows = flows.iter().flat_map(|stats| {
            let outputs = stats.outputs.iter().map(|o| ("   -> ", o));
            stats.sources.iter().map(|s| ("-> ", s)).chain(outputs)
        });
        for (arrow, row) in rows {
            let name: String = format!("{arrow}{}", row.name).chars().take(22).collect();
            lines.push(format!(
                "{name:<22} {:<9} {:<10} {:>9.3} {:>9} {:>6} {:>8} {:>6}",
                row.protocol,
                format!("{:?}", row.state),
                row.bit_rate.as_bps() as f64 / 1e6,
                row.packets,
                row.lost,
                row.dropped,
                row.transport.continuity,
            ));
        }
        let mut out = std::io::stderr().lock();
        let up =
            if out.is_terminal() && self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        // A relay goes on without its terminal, so a failure to write is ignored.
        let _ = writeln!(out, "{up}{}", lines.join("\n"));
    }
}

/// Returns the statistics as one JSON object.
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
    let track = |t: &MediaTrack| {
        json!({
            "pid": t.pid,
            "program": t.program,
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
    let endpoint = |s: &EndpointStats| {
        json!({
            "name": s.name,
            "protocol": s.protocol,
            "state": format!("{:?}", s.state),
            "active": s.active,
            "connected_ms": s.connected_for.map(|d| d.as_millis() as u64),
            "reconnections": s.reconnections,
            "bytes": s.bytes,
            "packets": s.packets,
            "bit_rate": s.bit_rate.as_bps(),
            "lost": s.lost,
            "only_here": s.only_here,
            "late": s.late,
            "recovered": s.recovered,
            "retransmitted": s.retransmitted,
            "dropped": s.dropped,
            "malformed": s.malformed,
            "refused": s.refused,
            "jitter_us": s.jitter.as_micros() as u64,
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
            "tracks": s.tracks.iter().map(track).collect::<Vec<_>>(),
            "players": s.players.iter().map(player).collect::<Vec<_>>(),
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
