//! RTP timestamps of MPEG-TS (RFC 2250 section 2): from the program clock references, interpolated between them by the
//! number of bytes, and from the time of arrival where there are none.

use crate::media::ts::transport::TransportPacket;
use std::time::{Duration, Instant};

/// Clock rate of the timestamps, in Hz.
const RATE: u64 = 90_000;
/// Modulus of program clock references in units of 90 kHz.
const MODULUS: u64 = 1 << 33;
/// Largest step from one reference to the next that is no jump, in units of 90 kHz: one second.
const MAX_STEP: u64 = RATE;
/// Time without a reference after which the time of arrival counts.
const STALE: Duration = Duration::from_secs(1);

/// Timestamps of one stream. They never go back, also where the references jump.
#[derive(Debug)]
pub(crate) struct Timestamps {
    /// Timestamp and arrival of the last datagram.
    last: Option<(u32, Instant)>,
    /// First timestamp of the stream.
    first: u32,
    reference: Option<Reference>,
}

/// The last program clock reference.
#[derive(Clone, Copy, Debug)]
struct Reference {
    /// PID that carries the references. Those of other programs do not count.
    pid: u16,
    clock: u64,
    timestamp: u32,
    arrival: Instant,
    /// Number of bytes since the packet that carries it.
    bytes: u64,
    /// Units of time, and the number of bytes in them, from the reference before.
    rate: Option<(u64, u64)>,
}

impl Timestamps {
    /// Creates the timestamps of a stream that begins with `first`.
    pub(crate) fn new(first: u32) -> Self {
        Self { last: None, first, reference: None }
    }

    /// Returns the timestamp of a datagram. `packets`: its transport packets, which are `stride` bytes apart.
    pub(crate) fn of<'a>(
        &mut self,
        packets: impl Iterator<Item = &'a [u8]>,
        length: usize,
        stride: usize,
        arrival: Instant,
    ) -> u32 {
        if self.reference.is_some_and(|r| arrival.saturating_duration_since(r.arrival) > STALE) {
            self.reference = None;
        }
        let pid = self.reference.map(|reference| reference.pid);
        let found = packets.enumerate().find_map(|(at, packet)| {
            let packet = TransportPacket::parse(packet)?;
            let clock = packet.clock.filter(|_| pid.is_none_or(|pid| pid == packet.pid))?;
            Some((at.saturating_mul(stride) as u64, packet.pid, clock))
        });
        let timestamp = match found {
            Some((before, pid, clock)) => self.refer(before, pid, clock, length as u64, arrival),
            None => self.interpolate(length as u64, arrival),
        };
        let timestamp = match self.last {
            // Modulo 2^32: a negative step would go back.
            Some((last, _)) if (timestamp.wrapping_sub(last) as i32) < 0 => last,
            _ => timestamp,
        };
        self.last = Some((timestamp, arrival));
        timestamp
    }

    /// Returns the timestamp of a datagram that carries a reference, `before` bytes behind its beginning.
    fn refer(&mut self, before: u64, pid: u16, clock: u64, length: u64, arrival: Instant) -> u32 {
        let step = self.reference.and_then(|last| {
            let ticks = clock.wrapping_sub(last.clock) % MODULUS;
            let bytes = last.bytes.saturating_add(before);
            ((1..=MAX_STEP).contains(&ticks) && bytes > 0).then_some((last, ticks, bytes))
        });
        let (at_reference, rate) = match step {
            Some((last, ticks, bytes)) => (last.timestamp.wrapping_add(ticks as u32), Some((ticks, bytes))),
            // The first reference, or a jump: the timestamps go on by the time of arrival.
            None => {
                let rate = self.reference.and_then(|reference| reference.rate);
                (self.by_arrival(arrival), rate)
            }
        };
        let bytes = length.saturating_sub(before);
        self.reference = Some(Reference { pid, clock, timestamp: at_reference, arrival, bytes, rate });
        let back = rate.map_or(0, |rate| ticks_in(before, rate));
        at_reference.wrapping_sub(back as u32)
    }

    /// Returns the timestamp of a datagram without a reference.
    fn interpolate(&mut self, length: u64, arrival: Instant) -> u32 {
        let Some(reference) = &mut self.reference else { return self.by_arrival(arrival) };
        let passed = match reference.rate {
            // A stream of variable rate may bring many bytes before the next reference.
            Some((ticks, bytes)) => ticks_in(reference.bytes, (ticks, bytes)).min(ticks),
            None => ticks(arrival.saturating_duration_since(reference.arrival)).min(MAX_STEP),
        };
        reference.bytes = reference.bytes.saturating_add(length);
        reference.timestamp.wrapping_add(passed as u32)
    }

    fn by_arrival(&self, arrival: Instant) -> u32 {
        match self.last {
            None => self.first,
            Some((last, at)) => last.wrapping_add(ticks(arrival.saturating_duration_since(at)) as u32),
        }
    }
}

/// Returns a time in units of 90 kHz, modulo 2^32 where it is cut.
fn ticks(time: Duration) -> u64 {
    (time.as_micros() as u64).saturating_mul(9) / 100
}

/// Returns the time of a number of bytes at a rate.
fn ticks_in(bytes: u64, (ticks, per): (u64, u64)) -> u64 {
    bytes.saturating_mul(ticks) / per.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transport packet, with a clock reference if there is one.
    fn packet(pid: u16, clock: Option<u64>) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut bytes = vec![0x47, high, low, 0x10];
        if let Some(clock) = clock {
            bytes[3] = 0x30;
            bytes.extend([7, 0x10]);
            bytes.extend(((clock >> 1) as u32).to_be_bytes());
            bytes.extend([(clock as u8 & 1) << 7, 0]);
        }
        bytes.resize(188, 0xff);
        bytes
    }

    struct Bench {
        timestamps: Timestamps,
        start: Instant,
    }

    impl Bench {
        fn new(first: u32) -> Self {
            Self { timestamps: Timestamps::new(first), start: Instant::now() }
        }

        fn at(&mut self, ms: u64, packets: &[Vec<u8>]) -> u32 {
            let packets = packets.iter().map(Vec::as_slice);
            let length = packets.len() * 188;
            self.timestamps.of(packets, length, 188, self.start + Duration::from_millis(ms))
        }
    }

    #[test]
    fn ts_timestamps_follow_the_clock_and_are_interpolated_by_bytes() {
        let mut bench = Bench::new(1000);
        let plain = || vec![packet(0x100, None); 7];
        let clock = |clock| [vec![packet(0x100, Some(clock))], vec![packet(0x100, None); 6]].concat();
        assert_eq!(bench.at(0, &clock(5000)), 1000);
        // The arrival of a burst counts until the rate is known.
        assert_eq!(bench.at(0, &plain()), 1000);
        assert_eq!(bench.at(1, &plain()), 1090);
        assert_eq!(bench.at(1, &clock(5000 + 2700)), 3700, "three datagrams of 900 units");
        assert_eq!(bench.at(1, &plain()), 4600);
        assert_eq!(bench.at(1, &plain()), 5500);
        assert_eq!(bench.at(2, &plain()), 6400, "no further than one interval");
        assert_eq!(bench.at(2, &plain()), 6400);
        assert_eq!(bench.at(60, &clock(5000 + 5400)), 6400);
        // A reference in the middle of a datagram, whose beginning is earlier.
        let middle = [vec![packet(0x100, None); 3], vec![packet(0x100, Some(10_400 + 1000))], plain()[3..].to_vec()];
        assert_eq!(bench.at(80, &middle.concat()[..7]), 7400 - 300);
    }

    #[test]
    fn ts_timestamps_go_on_over_jumps_wraps_and_missing_clocks() {
        let mut bench = Bench::new(u32::MAX - 100);
        assert_eq!(bench.at(0, &[packet(0x100, None)]), u32::MAX - 100);
        assert_eq!(bench.at(10, &[packet(0x100, None)]), 799, "by arrival, over the wrap");
        assert_eq!(bench.at(10, &[packet(0x100, Some((1 << 33) - 900))]), 799);
        assert_eq!(bench.at(20, &[packet(0x100, Some(900))]), 2599, "over the wrap of the clock");
        // References of another program do not count.
        assert_eq!(bench.at(20, &[packet(0x200, Some(77))]), 2599 + 1800);
        assert_eq!(bench.at(40, &[packet(0x100, Some(1800))]), 4399, "never back");
        // A jump, forward and back: the time of arrival counts.
        assert_eq!(bench.at(50, &[packet(0x100, Some(9_000_000))]), 4399 + 900);
        assert_eq!(bench.at(60, &[packet(0x100, Some(5))]), 4399 + 1800);
        // Another program once the clock has stopped.
        assert_eq!(bench.at(2060, &[packet(0x200, Some(77))]), 4399 + 1800 + 180_000);
        assert_eq!(bench.at(2070, &[packet(0x200, Some(977))]), 4399 + 1800 + 180_900);
    }
}
