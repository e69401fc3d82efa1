//! Bandwidth of a running flow, and the sizes derived from it: socket buffers, queues and receive memory.
//!
//! The engine holds one [`BandwidthSetting`] for each flow. Endpoints hold a [`FlowBandwidth`], check it when they send
//! or receive, and apply changes to what is already open. A change thus costs the endpoints one atomic load, wakes no
//! task, and also reaches connections that are set up later.

use crate::{
    flow::{BandwidthPolicy, Bitrate},
    router::Limits,
};
use std::time::Duration;
use tokio::sync::watch;

/// Maximum time for which the ring holds packets for outputs that lag.
const QUEUE_TIME: Duration = Duration::from_secs(1);
/// Minimum size of the ring in bytes, enough for some datagrams of any size.
const MIN_QUEUE: u64 = 256 << 10;
/// Range of the kernel's send buffer for a peer that receives media over TCP, in bytes.
const TCP_SEND_BUFFER: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;
/// Range of the send buffer of an RTP output, in bytes. The minimum holds several GSO sends.
const RTP_SEND_BUFFER: std::ops::RangeInclusive<u64> = 512 << 10..=16 << 20;
/// Range of the receive buffer of an RTP source, in bytes.
const RTP_RECEIVE_BUFFER: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;

/// Maximum bandwidth of a flow and its policy at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) max: Bitrate,
    pub(crate) policy: BandwidthPolicy,
}

impl Bandwidth {
    /// Returns the maximum number of bytes in one second.
    pub(crate) fn bytes_per_second(self) -> u64 {
        self.max.bytes_in(Duration::from_secs(1))
    }

    /// Returns the bounds of a ring: one second of the flow.
    pub(crate) fn queue_limits(self) -> Limits {
        Limits { bytes: self.max.bytes_in(QUEUE_TIME).max(MIN_QUEUE), time: QUEUE_TIME }
    }

    /// Returns the size of the kernel's send buffer for a peer that receives media over TCP: one second of the flow.
    pub(crate) fn tcp_send_buffer(self) -> usize {
        clamp(self.max.bytes_in(QUEUE_TIME), TCP_SEND_BUFFER)
    }

    /// Returns the send buffer size of an RTP output: a quarter of a second.
    pub(crate) fn rtp_send_buffer(self) -> usize {
        clamp(self.bytes_per_second() / 4, RTP_SEND_BUFFER)
    }

    /// Returns the receive buffer size of an RTP source: half a second.
    pub(crate) fn rtp_receive_buffer(self) -> usize {
        clamp(self.bytes_per_second() / 2, RTP_RECEIVE_BUFFER)
    }
}

fn clamp(bytes: u64, range: std::ops::RangeInclusive<u64>) -> usize {
    usize::try_from(bytes.clamp(*range.start(), *range.end())).unwrap_or(usize::MAX)
}

/// Bandwidth of a flow as held by the engine, which can change it.
#[derive(Debug)]
pub(crate) struct BandwidthSetting(watch::Sender<Bandwidth>);

impl BandwidthSetting {
    pub(crate) fn new(bandwidth: Bandwidth) -> Self {
        Self(watch::channel(bandwidth).0)
    }

    pub(crate) fn now(&self) -> Bandwidth {
        *self.0.borrow()
    }

    /// Changes the bandwidth. `apply` is called with the new value before the next change can be made, so that it never
    /// applies an outdated one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Bandwidth), apply: impl FnOnce(Bandwidth)) {
        self.0.send_modify(|bandwidth| {
            change(bandwidth);
            apply(*bandwidth);
        });
    }

    /// Returns a view for an endpoint.
    pub(crate) fn view(&self) -> FlowBandwidth {
        FlowBandwidth(self.0.subscribe())
    }
}

/// Bandwidth of a running flow, as seen by an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct FlowBandwidth(watch::Receiver<Bandwidth>);

impl FlowBandwidth {
    pub(crate) fn now(&self) -> Bandwidth {
        *self.0.borrow()
    }

    /// Returns whether [`FlowBandwidth::changed`] would return a value.
    pub(crate) fn has_changed(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }

    /// Returns the bandwidth if it has changed since the last call, or since this view was made.
    pub(crate) fn changed(&mut self) -> Option<Bandwidth> {
        if self.has_changed() { Some(*self.0.borrow_and_update()) } else { None }
    }
}

#[cfg(test)]
impl FlowBandwidth {
    /// Creates a view whose bandwidth never changes.
    pub(crate) fn fixed(max: Bitrate) -> Self {
        BandwidthSetting::new(Bandwidth { max, policy: BandwidthPolicy::Drop }).view()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_view_sees_each_change_once_and_a_clone_misses_none() {
        let setting = BandwidthSetting::new(Bandwidth { max: Bitrate::mbps(2), policy: BandwidthPolicy::Drop });
        let mut view = setting.view();
        assert_eq!(view.changed(), None);
        let mut early = view.clone();
        setting.change(|b| b.max = Bitrate::mbps(40), |b| assert_eq!(b.tcp_send_buffer(), 4 << 20));
        assert_eq!(view.changed().map(|b| b.max), Some(Bitrate::mbps(40)));
        assert_eq!(view.changed(), None);
        assert_eq!(early.changed().map(|b| b.max), Some(Bitrate::mbps(40)));
        setting.change(|b| b.policy = BandwidthPolicy::Warn, |_| {});
        assert_eq!(view.clone().changed().map(|b| b.policy), Some(BandwidthPolicy::Warn));
        drop(setting);
        assert_eq!(view.now().policy, BandwidthPolicy::Warn);
    }

    #[test]
    fn bandwidth_sizes_follow_the_rate_within_their_bounds() {
        let at = |max| Bandwidth { max, policy: BandwidthPolicy::Drop };
        let low = at(Bitrate::bps(1));
        let high = at(Bitrate::mbps(40));
        let huge = at(Bitrate::mbps(100_000));
        assert_eq!(low.queue_limits().bytes, 256 << 10);
        assert_eq!(high.queue_limits().bytes, 5_000_000);
        assert_eq!((low.tcp_send_buffer(), high.tcp_send_buffer()), (64 << 10, 4 << 20));
        assert_eq!((low.rtp_send_buffer(), high.rtp_send_buffer()), (512 << 10, 1_250_000));
        assert_eq!((low.rtp_receive_buffer(), high.rtp_receive_buffer()), (1 << 20, 2_500_000));
        assert_eq!((huge.rtp_send_buffer(), huge.rtp_receive_buffer()), (16 << 20, 16 << 20));
    }
}
