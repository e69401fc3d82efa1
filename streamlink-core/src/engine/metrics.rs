//! Statistics as OpenMetrics text.

use super::stats::{EndpointStats, FlowStats};
use crate::router::State;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;

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

#[derive(Debug)]
struct Snapshot(Vec<FlowStats>);

type Read = fn(&EndpointStats) -> u64;

const COUNTERS: &[(&str, &str, Read)] = &[
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

const GAUGES: &[(&str, &str, Read)] = &[
    ("bit_rate", "Bits per second over the last second", |s| s.bit_rate.as_bps()),
    ("connected", "Whether the endpoint is connected", |s| u64::from(s.state == State::Connected)),
    ("active", "Whether the flow is fed by this source", |s| u64::from(s.active)),
    ("jitter_microseconds", "RFC 3550 interarrival jitter", |s| {
        u64::try_from(s.jitter.as_micros()).unwrap_or(u64::MAX)
    }),
];

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, read) in COUNTERS {
            let metric = |value| ConstCounter::new(value);
            self.family(&mut encoder, name, help, *read, metric)?;
        }
        for (name, help, read) in GAUGES {
            // Gauges are signed; no rate or jitter comes near the limit.
            let metric = |value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            self.family(&mut encoder, name, help, *read, metric)?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// One metric of every endpoint.
    fn family<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        read: Read,
        metric: impl Fn(u64) -> M,
    ) -> Result<(), fmt::Error> {
        let mut encoder = encoder.encode_descriptor(name, help, None, metric(0).metric_type())?;
        for flow in &self.0 {
            let sources = flow.sources.iter().map(|s| ("source", s));
            for (role, endpoint) in sources.chain(flow.outputs.iter().map(|o| ("output", o))) {
                let labels = [
                    ("flow", flow.name.as_str()),
                    ("role", role),
                    ("endpoint", endpoint.name.as_str()),
                    ("protocol", endpoint.protocol),
                ];
                metric(read(endpoint)).encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
