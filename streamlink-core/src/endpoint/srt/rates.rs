//! Send rates and buffer sizes of SRT connections, which follow from the bandwidth of the flow.
//!
//! Without a configured rate, a connection sends at the flow's maximum bandwidth plus the overhead for retransmissions.
//! If the policy lets more pass, the rate follows the actual input, as libsrt does with `SRTO_MAXBW` 0. Pacing smooths
//! the output and is never the limit of the flow.

use super::super::{Bandwidth, FlowBandwidth};
use crate::{
    flow::{BandwidthPolicy, Bitrate, SrtOptions},
    proto::srt::{Pacing, Terms},
};
use std::time::Duration;

/// Range of the size of a connection's buffers, in packets.
const BUFFER: std::ops::RangeInclusive<u64> = 8192..=131_072;
/// Usual payload of a packet, in bytes: seven TS packets.
const USUAL_PAYLOAD: f64 = 1316.0;

/// Rates and buffer sizes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Packets that each side's buffer holds.
    pub(super) buffer: usize,
    pub(super) pacing: Pacing,
}

impl Rates {
    fn of(settings: &Settings, bandwidth: Bandwidth) -> Self {
        // Covers all packets in flight: the latency and one second for retransmissions, in packets of the usual size.
        let seconds = settings.latency.as_secs_f64() + 1.0;
        let packets = (bandwidth.bytes_per_second() as f64 * seconds / USUAL_PAYLOAD) as u64;
        let overhead = u64::from(settings.overhead_percent);
        let (bytes_per_second, over_input) = match settings.max_bandwidth {
            Some(rate) => (rate.as_bps() / 8, None),
            None => {
                let rate = bandwidth.bytes_per_second().saturating_mul(100 + overhead) / 100;
                (rate, (bandwidth.policy == BandwidthPolicy::Warn).then_some(overhead))
            }
        };
        Self {
            buffer: usize::try_from(packets.clamp(*BUFFER.start(), *BUFFER.end())).unwrap_or(8192),
            pacing: Pacing {
                bytes_per_second: bytes_per_second.max(1),
                over_input,
                is_limit: settings.max_bandwidth.is_some(),
            },
        }
    }

    /// Applies these rates to the terms of connections that are set up later.
    pub(super) fn apply(&self, terms: &mut Terms) {
        terms.buffer = self.buffer;
        terms.bytes_per_second = self.pacing.bytes_per_second;
    }
}

/// Settings of an endpoint from which its rates follow.
#[derive(Clone, Debug)]
struct Settings {
    latency: Duration,
    max_bandwidth: Option<Bitrate>,
    overhead_percent: u8,
}

/// Rates of an endpoint's connections, which follow the bandwidth of its flow.
#[derive(Clone, Debug)]
pub(crate) struct FlowRates {
    settings: Settings,
    bandwidth: FlowBandwidth,
}

impl FlowRates {
    pub(crate) fn new(options: &SrtOptions, bandwidth: FlowBandwidth) -> Self {
        let settings = Settings {
            latency: options.receive_latency.max(options.peer_latency).as_duration(),
            max_bandwidth: options.max_bandwidth,
            overhead_percent: options.overhead_percent,
        };
        Self { settings, bandwidth }
    }

    pub(super) fn now(&self) -> Rates {
        Rates::of(&self.settings, self.bandwidth.now())
    }

    pub(super) fn has_changed(&self) -> bool {
        self.bandwidth.has_changed()
    }

    /// Returns the rates if the bandwidth has changed since the last call.
    pub(super) fn changed(&mut self) -> Option<Rates> {
        self.bandwidth.changed().map(|bandwidth| Rates::of(&self.settings, bandwidth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(max_bandwidth: Option<Bitrate>) -> Settings {
        Settings { latency: Duration::from_secs(1), max_bandwidth, overhead_percent: 25 }
    }

    #[test]
    fn srt_rates_follow_the_flow_and_its_policy() {
        let at = |max, policy| Rates::of(&settings(None), Bandwidth { max, policy });
        let low = at(Bitrate::mbps(2), BandwidthPolicy::Drop);
        assert_eq!(
            low,
            Rates { buffer: 8192, pacing: Pacing { bytes_per_second: 312_500, over_input: None, is_limit: false } }
        );
        let high = at(Bitrate::mbps(400), BandwidthPolicy::Disconnect);
        assert_eq!(high.pacing, Pacing { bytes_per_second: 62_500_000, over_input: None, is_limit: false });
        assert_eq!(high.buffer, 75_987);
        let warn = at(Bitrate::mbps(2), BandwidthPolicy::Warn);
        assert_eq!(warn.pacing, Pacing { bytes_per_second: 312_500, over_input: Some(25), is_limit: false });
    }

    #[test]
    fn srt_rates_of_an_own_limit_stay_as_the_host_has_set_them() {
        for policy in [BandwidthPolicy::Drop, BandwidthPolicy::Warn] {
            for max in [Bitrate::mbps(2), Bitrate::mbps(400)] {
                let rates = Rates::of(&settings(Some(Bitrate::mbps(8))), Bandwidth { max, policy });
                assert_eq!(rates.pacing, Pacing { bytes_per_second: 1_000_000, over_input: None, is_limit: true });
            }
        }
    }
}
