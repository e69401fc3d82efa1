//! Statistics as OpenMetrics text.

use super::stats::{EndpointStats, FlowStats};
use crate::{endpoint::PlayerStats, media::PidStats, router::State};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, time::Duration};

/// The text of a scrape.
pub(super) fn text(flows: &[FlowStats]) -> String {
    let mut registry = Registry::with_prefix("streamlink");
    registry.register_collector(Box::new(Snapshot(flows.to_vec())));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => String::new(), // writing to a String does not fail
    }
}

/// Metrics of one kind of thing: name, help, and how it is read.
type Table<T, V> = [(&'static str, &'static str, fn(&T) -> V)];
type Labels = Vec<(&'static str, String)>;

const FLOW_COUNTERS: &Table<FlowStats, u64> =
    &[("merge_lost_packets", "Packets that no source of a merge has brought", |f| f.merge_lost)];

const FLOW_GAUGES: &Table<FlowStats, f64> =
    &[("max_bandwidth", "Bits per second that the source may bring", |f| f.max_bandwidth.as_bps() as f64)];

const ENDPOINT_COUNTERS: &Table<EndpointStats, u64> = &[
    ("bytes", "Bytes handed on", |s| s.bytes),
    ("packets", "Packets handed on", |s| s.packets),
    ("lost_packets", "Packets that never came or came too late", |s| s.lost),
    ("only_here_packets", "Packets that no other source of a merge has brought", |s| s.only_here),
    ("late_packets", "Packets that came after the window of a merge was over", |s| s.late),
    ("recovered_packets", "Packets that were put in their place", |s| s.recovered),
    ("retransmitted_packets", "Packets that were sent again", |s| s.retransmitted),
    ("dropped_packets", "Packets that came and were not handed on", |s| s.dropped),
    ("malformed_datagrams", "Datagrams that could not be read", |s| s.malformed),
    ("refused_peers", "Datagrams or connections of peers that are not admitted", |s| s.refused),
    ("reconnections", "Returns after a loss", |s| s.reconnections),
    ("sync_losses", "MPEG-TS losses of sync (TR 101 290, 1.1)", |s| s.transport.sync_losses),
    ("sync_errors", "MPEG-TS sync byte errors (1.2)", |s| s.transport.sync_byte),
    ("pat_errors", "MPEG-TS PAT errors (1.3)", |s| s.transport.pat),
    ("continuity_errors", "MPEG-TS continuity count errors (1.4)", |s| s.transport.continuity),
    ("pmt_errors", "MPEG-TS PMT errors (1.5)", |s| s.transport.pmt),
    ("pid_errors", "MPEG-TS PID errors (1.6)", |s| s.transport.pid),
];

const ENDPOINT_GAUGES: &Table<EndpointStats, f64> = &[
    ("bit_rate", "Bits per second over the last second", |s| s.bit_rate.as_bps() as f64),
    ("connected", "Whether the endpoint is connected", |s| flag(s.state == State::Connected)),
    ("connected_seconds", "For how long it has been", |s| s.connected_for.unwrap_or_default().as_secs_f64()),
    ("active", "Whether the flow is fed by this source", |s| flag(s.active)),
    ("jitter_microseconds", "RFC 3550 interarrival jitter", |s| micros(s.jitter)),
    ("round_trip_microseconds", "The round trip, of protocols that measure it", |s| micros(s.round_trip)),
    ("latency_microseconds", "The latency that both ends of SRT agreed on", |s| micros(s.latency)),
    ("buffered_microseconds", "What an SRT source holds for its moment", |s| micros(s.buffered)),
    ("encrypted", "Whether the connection is encrypted", |s| flag(s.encrypted)),
    ("video_frame_rate", "Video frames per second of an RTMP source", |s| s.video_frame_rate),
    ("audio_frame_rate", "Audio frames per second of an RTMP source", |s| s.audio_frame_rate),
    ("players", "Connections of an output", |s| s.players.len() as f64),
];

const PID_COUNTERS: &Table<PidStats, u64> = &[
    ("pid_packets", "MPEG-TS packets of a PID", |p| p.packets),
    ("pid_continuity_errors", "Continuity errors of a PID", |p| p.continuity_errors),
];

const PLAYER_COUNTERS: &Table<PlayerStats, u64> = &[
    ("player_bytes", "Bytes sent to a player, repeats not counted", |p| p.bytes),
    ("player_packets", "Packets sent to a player, repeats not counted", |p| p.packets),
    ("player_retransmitted_packets", "Packets sent to a player again", |p| p.retransmitted),
    ("player_lost_packets", "Packets that a player reported lost", |p| p.lost),
    ("player_dropped_packets", "Packets given up for a player", |p| p.dropped),
];

const PLAYER_GAUGES: &Table<PlayerStats, f64> = &[
    ("player_connected_seconds", "For how long a player has been connected", |p| p.connected_for.as_secs_f64()),
    ("player_round_trip_microseconds", "The round trip to a player", |p| micros(p.round_trip)),
];

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[derive(Debug)]
struct Snapshot(Vec<FlowStats>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let flows: Vec<_> = self.0.iter().map(|flow| (vec![("flow", flow.name.clone())], flow)).collect();
        families(&mut encoder, FLOW_COUNTERS, &flows, ConstCounter::new)?;
        families(&mut encoder, FLOW_GAUGES, &flows, ConstGauge::new)?;
        let endpoints = self.endpoints();
        families(&mut encoder, ENDPOINT_COUNTERS, &endpoints, ConstCounter::new)?;
        families(&mut encoder, ENDPOINT_GAUGES, &endpoints, ConstGauge::new)?;
        let pids = parts(&endpoints, "pid", |endpoint| &endpoint.pids, |pid| pid.pid.to_string());
        families(&mut encoder, PID_COUNTERS, &pids, ConstCounter::new)?;
        let mut players = parts(&endpoints, "peer", |endpoint| &endpoint.players, |player| player.peer.to_string());
        // Two connections may share an address, as those of SRT do that share a socket: the first stands for it, as
        // one set of labels has one value.
        players.sort_by(|(a, _), (b, _)| a.cmp(b));
        players.dedup_by(|(a, _), (b, _)| a == b);
        families(&mut encoder, PLAYER_COUNTERS, &players, ConstCounter::new)?;
        families(&mut encoder, PLAYER_GAUGES, &players, ConstGauge::new)
    }
}

impl Snapshot {
    fn endpoints(&self) -> Vec<(Labels, &EndpointStats)> {
        let mut all = Vec::new();
        for flow in &self.0 {
            let sources = flow.sources.iter().map(|source| ("source", source));
            for (role, endpoint) in sources.chain(flow.outputs.iter().map(|output| ("output", output))) {
                let labels = vec![
                    ("flow", flow.name.clone()),
                    ("role", role.to_owned()),
                    ("endpoint", endpoint.name.clone()),
                    ("protocol", endpoint.protocol.to_owned()),
                ];
                all.push((labels, endpoint));
            }
        }
        all
    }
}

/// What endpoints consist of, each with one more label.
fn parts<'a, T>(
    endpoints: &[(Labels, &'a EndpointStats)],
    label: &'static str,
    of: fn(&EndpointStats) -> &Vec<T>,
    value: fn(&T) -> String,
) -> Vec<(Labels, &'a T)> {
    let with = |labels: &Labels, part: &T| labels.iter().cloned().chain([(label, value(part))]).collect();
    let each = endpoints.iter().map(|(labels, endpoint)| (labels, *endpoint));
    each.flat_map(|(labels, endpoint)| of(endpoint).iter().map(move |part| (with(labels, part), part))).collect()
}

/// All metrics of a table, each for everything that has them.
fn families<T, V: Default, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    table: &Table<T, V>,
    rows: &[(Labels, &T)],
    metric: fn(V) -> M,
) -> Result<(), fmt::Error> {
    for (name, help, read) in table {
        let mut family = encoder.encode_descriptor(name, help, None, metric(V::default()).metric_type())?;
        for (labels, row) in rows {
            metric(read(row)).encode(family.encode_family(labels)?)?;
        }
    }
    Ok(())
}
