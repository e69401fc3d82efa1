//! MPEG-TS: after a switch, decoders are told that the continuity counters start anew, and timestamps continue.
//!
//! The transport packets of the source are altered only where their timestamps would go back or leap. Before the first
//! one of each PID an empty packet is inserted: an adaptation field with the discontinuity indicator (ISO/IEC 13818-1
//! section 2.4.3.5), and the continuity counter that precedes the first packet's.

use super::clock::Clock;
use crate::{media::Packet, router::MediaBatch};
use bytes::Bytes;
use std::time::{Duration, Instant};

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const NULL_PID: u16 = 0x1fff;
const PIDS: usize = 8192;
/// Time after a switch in which new PIDs are marked: tables come every second or so.
const WATCH: Duration = Duration::from_secs(10);
/// Maximum number of discontinuity packets before one datagram.
const MAX_MARKS: usize = 7;

/// Continues one transport stream with another.
#[derive(Debug, Default)]
pub(super) struct TsContinuity {
    joined: bool,
    /// The PIDs seen since the switch, and the end of the search for others.
    watch: Option<(Box<[u64]>, Instant)>,
    clock: Clock,
}

impl TsContinuity {
    pub(super) fn join(&mut self) {
        self.joined = true;
        self.clock.join();
    }

    /// Follows a payload that passes unaltered, see [`Clock::watch`].
    pub(super) fn watch(&mut self, payload: &[u8], now: Instant) {
        self.clock.watch(payload, now);
    }

    /// Cancels a switch that was none.
    pub(super) fn forget(&mut self) {
        self.joined = false;
        self.watch = None;
        self.clock.settle();
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        if !self.joined && self.watch.is_none() {
            for packet in &mut delivery.packets {
                if let Some(altered) = self.retime(packet.data(), packet.arrival()) {
                    *packet = packet.with_data(altered);
                }
            }
            return;
        }
        let mut out = Vec::with_capacity(delivery.packets.len() + 1);
        for packet in delivery.packets.drain(..) {
            if let Some(marks) = self.marks(packet.data(), packet.arrival()) {
                out.push(Packet::datagram(marks, packet.arrival()));
            }
            out.push(match self.retime(packet.data(), packet.arrival()) {
                Some(altered) => packet.with_data(altered),
                None => packet,
            });
        }
        delivery.packets = out;
    }

    /// Returns the payload with continued timestamps, if its own do not continue.
    pub(super) fn retime(&mut self, payload: &[u8], now: Instant) -> Option<Bytes> {
        self.clock.pass(payload, now)
    }

    /// Returns the discontinuity packets to be sent before a payload.
    pub(super) fn marks(&mut self, payload: &[u8], now: Instant) -> Option<Bytes> {
        if std::mem::take(&mut self.joined) {
            self.watch = Some((vec![0; PIDS / 64].into(), now.checked_add(WATCH)?));
        }
        let (seen, until) = self.watch.as_mut()?;
        if now >= *until {
            self.watch = None;
            return None;
        }
        let mut marks = Vec::new();
        for packet in payload.chunks_exact(PACKET).filter(|packet| packet[0] == SYNC) {
            let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
            let word = seen.get_mut(usize::from(pid) / 64)?; // in range: a PID has 13 bits
            let bit = 1 << (pid % 64);
            if pid == NULL_PID || *word & bit != 0 || marks.len() >= MAX_MARKS * PACKET {
                continue;
            }
            *word |= bit;
            let has_payload = packet[3] & 0x10 != 0;
            // A packet without payload does not count.
            let counter = packet[3].wrapping_sub(u8::from(has_payload)) & 0x0f;
            let [high, low] = pid.to_be_bytes();
            marks.extend([SYNC, high, low, 0x20 | counter, (PACKET - 5) as u8, 0x80]);
            marks.resize(marks.len() + PACKET - 6, 0xff);
        }
        (!marks.is_empty()).then(|| marks.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TsMonitor;

    fn ts(pid: u16, counter: u8) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![SYNC, high, low, 0x10 | counter];
        packet.resize(PACKET, 1);
        packet
    }

    #[test]
    fn ts_continuity_marks_discontinuity_at_switch() {
        let mut continuity = TsContinuity::default();
        let mut monitor = TsMonitor::new();
        let now = Instant::now();
        let pass = |continuity: &mut TsContinuity, monitor: &mut TsMonitor, packets: &[Vec<u8>], at| {
            let packets = vec![Packet::datagram(packets.concat(), at)];
            let mut delivery = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
            continuity.apply(&mut delivery);
            for packet in &delivery.packets {
                monitor.observe(packet.data(), now);
            }
            delivery.packets.len()
        };
        assert_eq!(pass(&mut continuity, &mut monitor, &[ts(256, 3), ts(257, 9)], now), 1);
        continuity.join();
        assert_eq!(pass(&mut continuity, &mut monitor, &[ts(256, 12), ts(256, 13)], now), 2);
        assert_eq!(pass(&mut continuity, &mut monitor, &[ts(256, 14), ts(257, 1)], now), 2);
        assert_eq!(pass(&mut continuity, &mut monitor, &[ts(256, 15), ts(257, 2)], now), 1);
        assert_eq!(monitor.pids().iter().map(|pid| pid.continuity_errors).sum::<u64>(), 0);
        assert_eq!(pass(&mut continuity, &mut monitor, &[ts(300, 2)], now + 2 * WATCH), 1);
        assert!(continuity.watch.is_none());
    }
}
