//! Encoder of statistics as OpenMetrics text.

use super::stats::{EndpointStats, FlowStats, RegionStats};
use crate::{
    endpoint::{LastError, MemberStats, PlayerStats},
    event::RefusalCount,
    flow::Bitrate,
    media::PidStats,
    router::State,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, time::Duration};

/// Returns the statistics of flows as OpenMetrics text.
pub(super) fn text(flows: &[FlowStats]) -> String {
    let mut registry = Registry::with_prefix("streamlink");
    registry.register_collector(Box::new(Snapshot(flows.to_vec())));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => String::new(), // writing to a String does not fail
    }
}

/// Table of metrics, each with its name, its help text and the function that reads it.
type Table<T, V> = [(&'static str, &'static str, fn(&T) -> V)];
type Labels = Vec<(&'static str, String)>;

const FLOW_COUNTERS: &Table<FlowStats, u64> =
    &[("merge_lost_packets", "Packets that no source of a merge delivered", |f| f.merge_lost)];

const FLOW_GAUGES: &Table<FlowStats, f64> =
    &[("max_bandwidth_bytes_per_second", "Maximum bandwidth of the flow", |f| bytes(f.max_bandwidth))];

const ENDPOINT_COUNTERS: &Table<EndpointStats, u64> = &[
    ("bytes", "Bytes passed on", |s| s.bytes),
    ("packets", "Packets passed on", |s| s.packets),
    ("lost_packets", "Packets that never arrived, or too late", |s| s.lost),
    ("unique_packets", "Packets that no other source of a merge delivered", |s| s.unique_packets),
    ("late_packets", "Packets that arrived after the window of a merge", |s| s.late),
    ("recovered_packets", "Packets that were missing and arrived in time", |s| s.recovered),
    ("retransmitted_packets", "Packets sent again", |s| s.retransmitted),
    ("dropped_packets", "Packets that arrived and were not passed on", |s| s.dropped),
    ("duplicate_packets", "Packets that arrived again after they had arrived", |s| s.duplicates),
    ("malformed_datagrams", "Datagrams that could not be parsed", |s| s.malformed),
    ("repair_packets", "Repair packets of forward error correction, received or sent", |s| s.repairs),
    ("rebuilt_packets", "Packets that were rebuilt from repair packets", |s| s.rebuilt),
    ("unrepaired_packets", "Missing packets that could not be rebuilt from repair packets", |s| s.unrepaired),
    ("undecrypted_packets", "Packets that could not be decrypted, or were altered", |s| s.undecrypted),
    ("refused_peers", "Connections or datagrams refused", |s| s.refused),
    ("reconnections", "Reconnections", |s| s.reconnections),
    ("sync_losses", "MPEG-TS losses of sync (TR 101 290, 1.1)", |s| s.transport.sync_losses),
    ("sync_errors", "MPEG-TS sync byte errors (TR 101 290, 1.2)", |s| s.transport.sync_byte),
    ("pat_errors", "MPEG-TS PAT errors (TR 101 290, 1.3)", |s| s.transport.pat),
    ("continuity_errors", "MPEG-TS continuity count errors (TR 101 290, 1.4)", |s| s.transport.continuity),
    ("pmt_errors", "MPEG-TS PMT errors (TR 101 290, 1.5)", |s| s.transport.pmt),
    ("pid_errors", "MPEG-TS PID errors (TR 101 290, 1.6)", |s| s.transport.pid),
    ("transport_errors", "MPEG-TS transport errors (TR 101 290, 2.1)", |s| s.transport.transport),
    ("crc_errors", "MPEG-TS CRC errors (TR 101 290, 2.2)", |s| s.transport.crc),
    ("pcr_repetition_errors", "MPEG-TS PCR repetition errors (TR 101 290, 2.3a)", |s| s.transport.pcr_repetition),
    ("pcr_discontinuities", "MPEG-TS PCR discontinuity errors (TR 101 290, 2.3b)", |s| s.transport.pcr_discontinuity),
    ("pts_errors", "MPEG-TS PTS errors (TR 101 290, 2.5)", |s| s.transport.pts),
    ("cat_errors", "MPEG-TS CAT errors (TR 101 290, 2.6)", |s| s.transport.cat),
];

const ENDPOINT_GAUGES: &Table<EndpointStats, f64> = &[
    ("rate_bytes_per_second", "Rate over the last second", |s| bytes(s.bit_rate)),
    ("connected", "Whether the endpoint is connected", |s| flag(s.state == State::Connected)),
    ("connected_seconds", "Seconds since the endpoint connected", |s| seconds(s.connected_for.unwrap_or_default())),
    ("active", "Whether the source feeds the flow", |s| flag(s.active)),
    ("jitter_seconds", "Interarrival jitter (RFC 3550)", |s| seconds(s.jitter)),
    ("round_trip_seconds", "Round trip time, where the protocol measures it", |s| seconds(s.round_trip)),
    ("latency_seconds", "Latency agreed on by both ends of the connection", |s| seconds(s.latency)),
    ("buffered_seconds", "Duration of media in the receive buffer", |s| seconds(s.buffered)),
    ("encrypted", "Whether the connection is encrypted", |s| flag(s.encrypted)),
    ("video_frame_rate", "Video frames per second of a source", |s| s.video_frame_rate),
    ("audio_frame_rate", "Audio frames per second of a source", |s| s.audio_frame_rate),
    ("players", "Connected players of an output", |s| s.players.len() as f64),
];

const REGION_COUNTERS: &Table<RegionStats, u64> = &[
    ("region_bytes", "Bytes that the link to a region has taken from the flow", |r| r.bytes),
    ("region_packets", "Packets that the link to a region has taken from the flow", |r| r.packets),
    ("region_dropped_packets", "Packets that the link to a region has lost", |r| r.dropped),
    ("region_restarts", "Failures of the link to a region", |r| r.restarts),
];

const REGION_GAUGES: &Table<RegionStats, f64> = &[
    ("region_bytes_per_second", "Bytes to a region over the last second", |r| bytes(r.bit_rate)),
    ("region_connected", "Whether a region is reached", |r| flag(r.state == State::Connected)),
    ("region_outputs", "Outputs of the flow in a region", |r| f64::from(r.outputs)),
];

const LEG_COUNTERS: &Table<MemberStats, u64> = &[
    ("region_leg_bytes", "Bytes over a leg to a region", |m| m.bytes),
    ("region_leg_packets", "Packets over a leg to a region", |m| m.packets),
    ("region_leg_redundant_packets", "Packets that another leg brought before", |m| m.redundant),
    ("region_leg_lost_packets", "Packets that were missing on a leg at first", |m| m.lost),
    ("region_leg_retransmitted_packets", "Packets sent again over a leg", |m| m.retransmitted),
    ("region_leg_dropped_packets", "Packets dropped for a leg", |m| m.dropped),
];

const LEG_GAUGES: &Table<MemberStats, f64> = &[
    ("region_leg_connected", "Whether a leg is connected", |m| flag(m.connected_for.is_some())),
    ("region_leg_round_trip_seconds", "Round trip time of a leg", |m| seconds(m.round_trip)),
    ("region_leg_loss_ratio", "Share of the packets of a leg that were lost over the last seconds", |m| {
        f64::from(m.recent_loss) / 10_000.0
    }),
];

const ERROR_GAUGES: &Table<LastError, f64> = &[(
    "last_error_age_seconds",
    "Seconds since the last error of the endpoint, with the class of its reason",
    |error| seconds(error.age),
)];

const PID_COUNTERS: &Table<PidStats, u64> = &[
    ("pid_packets", "MPEG-TS packets of a PID", |p| p.packets),
    ("pid_continuity_errors", "Continuity count errors of a PID", |p| p.continuity_errors),
];

const PLAYER_COUNTERS: &Table<PlayerStats, u64> = &[
    ("player_bytes", "Bytes sent to a player, without retransmissions", |p| p.bytes),
    ("player_packets", "Packets sent to a player, without retransmissions", |p| p.packets),
    ("player_retransmitted_packets", "Packets sent to a player again", |p| p.retransmitted),
    ("player_lost_packets", "Packets that a player reported lost", |p| p.lost),
    ("player_dropped_packets", "Packets dropped for a player", |p| p.dropped),
];

const PLAYER_GAUGES: &Table<PlayerStats, f64> = &[
    ("player_connected_seconds", "Seconds since the player connected", |p| seconds(p.connected_for)),
    ("player_round_trip_seconds", "Round trip time to a player", |p| seconds(p.round_trip)),
];

const REFUSAL_COUNTERS: &Table<RefusalCount, u64> =
    &[("refused_peers_by_reason", "Connections or datagrams refused for one reason", |r| r.count)];

const MEMBER_COUNTERS: &Table<MemberStats, u64> = &[
    ("member_packets", "Packets of a member of a group of connections", |m| m.packets),
    ("member_redundant_packets", "Packets that another member of the group brought before", |m| m.redundant),
    ("member_lost_packets", "Packets that were missing on a member of a group at first", |m| m.lost),
    ("member_retransmitted_packets", "Packets sent again over a member of a group", |m| m.retransmitted),
    ("member_dropped_packets", "Packets dropped for a member of a group", |m| m.dropped),
];

const MEMBER_GAUGES: &Table<MemberStats, f64> = &[
    ("member_connected", "Whether a member of a group is connected", |m| flag(m.connected_for.is_some())),
    ("member_active", "Whether a member of a group carries the media, and does not stand by", |m| flag(m.is_active)),
    ("member_round_trip_seconds", "Round trip time of a member of a group", |m| seconds(m.round_trip)),
];

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn bytes(rate: Bitrate) -> f64 {
    rate.as_bps() as f64 / 8.0
}

#[derive(Debug)]
struct Snapshot(Vec<FlowStats>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let flows: Vec<_> = self.0.iter().map(|flow| (vec![("flow", flow.name.clone())], flow)).collect();
        families(&mut encoder, FLOW_COUNTERS, &flows, ConstCounter::new)?;
        families(&mut encoder, FLOW_GAUGES, &flows, ConstGauge::new)?;
        let regions = self.regions();
        families(&mut encoder, REGION_COUNTERS, &regions, ConstCounter::new)?;
        families(&mut encoder, REGION_GAUGES, &regions, ConstGauge::new)?;
        let mut legs = parts(&regions, "leg", |region| &region.legs, |leg| leg.address.clone());
        unique(&mut legs);
        families(&mut encoder, LEG_COUNTERS, &legs, ConstCounter::new)?;
        families(&mut encoder, LEG_GAUGES, &legs, ConstGauge::new)?;
        let endpoints = self.endpoints();
        families(&mut encoder, ENDPOINT_COUNTERS, &endpoints, ConstCounter::new)?;
        families(&mut encoder, ENDPOINT_GAUGES, &endpoints, ConstGauge::new)?;
        // One sample an endpoint: the label holds the class of the last reason, not its text.
        let with_error = endpoints.iter().filter_map(|(labels, endpoint)| {
            let error = endpoint.last_error.as_ref()?;
            Some((labels.iter().cloned().chain([("reason", error.kind.to_owned())]).collect(), error))
        });
        let errors: Vec<(Labels, &LastError)> = with_error.collect();
        families(&mut encoder, ERROR_GAUGES, &errors, ConstGauge::new)?;
        let refusals = parts(&endpoints, "reason", |endpoint| &endpoint.refusals, |r| r.reason.kind().to_owned());
        families(&mut encoder, REFUSAL_COUNTERS, &refusals, ConstCounter::new)?;
        let members = parts(&endpoints, "member", |endpoint| &endpoint.members, |member| member.address.clone());
        families(&mut encoder, MEMBER_COUNTERS, &members, ConstCounter::new)?;
        families(&mut encoder, MEMBER_GAUGES, &members, ConstGauge::new)?;
        let pids = parts(&endpoints, "pid", |endpoint| &endpoint.pids, |pid| pid.pid.to_string());
        families(&mut encoder, PID_COUNTERS, &pids, ConstCounter::new)?;
        let mut players = parts(&endpoints, "peer", |endpoint| &endpoint.players, |player| player.peer.to_string());
        unique(&mut players);
        families(&mut encoder, PLAYER_COUNTERS, &players, ConstCounter::new)?;
        families(&mut encoder, PLAYER_GAUGES, &players, ConstGauge::new)
    }
}

impl Snapshot {
    fn regions(&self) -> Vec<(Labels, &RegionStats)> {
        let labels =
            |flow: &FlowStats, region: &RegionStats| vec![("flow", flow.name.clone()), ("region", region.name.clone())];
        let each = self.0.iter().flat_map(|flow| flow.regions.iter().map(move |region| (flow, region)));
        each.map(|(flow, region)| (labels(flow, region), region)).collect()
    }

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

/// Leaves out rows whose labels another row has. Two connections may share an address, as connections that share a
/// datagram socket do. Only the first is reported, because one set of labels can only have one value.
fn unique<T>(rows: &mut Vec<(Labels, &T)>) {
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows.dedup_by(|(a, _), (b, _)| a == b);
}

/// Returns the parts (PIDs, players) of all endpoints, or the legs of all regions, each with one more label.
fn parts<'a, W, T>(
    wholes: &[(Labels, &'a W)],
    label: &'static str,
    of: fn(&W) -> &Vec<T>,
    value: fn(&T) -> String,
) -> Vec<(Labels, &'a T)> {
    let with = |labels: &Labels, part: &T| labels.iter().cloned().chain([(label, value(part))]).collect();
    let each = wholes.iter().map(|(labels, whole)| (labels, *whole));
    each.flat_map(|(labels, whole)| of(whole).iter().map(move |part| (with(labels, part), part))).collect()
}

/// Encodes all metrics of a table, each with one sample for every row.
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
