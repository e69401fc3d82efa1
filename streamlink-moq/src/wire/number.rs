//! Group numbers of RTP, which two ingest nodes that see the same stream (ST 2022-7) derive alike.
//!
//! A group is a run of 64 sequence numbers. Its number is the timestamp of its first packet, extended by the wall clock
//! to 62 bits, and the run's place in the cycle of sequence numbers.

/// Bits of a sequence number within a group: 64 packets.
const RUN_BITS: u32 = 6;
/// Bits of a run's place in the cycle of 65536 sequence numbers.
const PLACE_BITS: u32 = 16 - RUN_BITS;
/// Clock rate by which the wall clock extends timestamps. That of video; other rates only make steps of other sizes.
const CLOCK_RATE: u128 = 90_000;
/// Number of timestamps of one cycle.
const CYCLE: u64 = 1 << 32;
/// Largest extended timestamp, so that a group number has 62 bits.
const MAX_TIME: u64 = (1 << (62 - PLACE_BITS)) - 1;

/// Returns whether the bytes have a header of RTP version 2 (RFC 3550 section 5.1).
pub(super) fn is_rtp(packet: &[u8]) -> bool {
    packet.len() >= 12 && packet.first().is_some_and(|byte| byte >> 6 == 2)
}

/// Returns the sequence number of an RTP packet.
pub(crate) fn sequence(packet: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]))
}

/// Returns the timestamp of an RTP packet.
fn timestamp(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

/// Numbers the groups of an RTP stream.
#[derive(Debug, Default)]
pub(crate) struct RtpNumbers {
    /// Run of the present group, and the sequence number before.
    run: Option<(u16, u16)>,
    /// Last extended timestamp.
    time: Option<u64>,
}

impl RtpNumbers {
    /// Takes in a packet, with the wall clock in microseconds. Returns the number of the group that it begins, if it
    /// begins one.
    pub(crate) fn next(&mut self, packet: &[u8], unix_micros: u64) -> Option<u64> {
        let sequence = sequence(packet)?;
        let timestamp = timestamp(packet)?;
        let run = sequence >> RUN_BITS;
        if let Some((present, last)) = self.run {
            // A packet that comes late is carried by the present group.
            let is_late = sequence.wrapping_sub(last) >= 0x8000;
            if !is_late {
                self.run = Some((run, sequence));
            }
            if run == present || is_late && last.wrapping_sub(sequence) < 1 << (RUN_BITS + 1) {
                return None;
            }
        }
        self.run = Some((run, sequence));
        let time = self.extend(timestamp, unix_micros);
        self.time = Some(time);
        Some((time << PLACE_BITS) | u64::from(run))
    }

    /// Returns the sequence number of the packet before the next one.
    pub(crate) fn last(&self) -> Option<u16> {
        self.run.map(|(_, last)| last)
    }

    /// Extends a timestamp: near the last one, or near the wall clock where there is none. After a jump back, the
    /// numbers go on in the next cycle.
    fn extend(&self, timestamp: u32, unix_micros: u64) -> u64 {
        /// Step back that is no jump, as pictures that are not sent in the order of their times make: 10 s of video.
        const MAX_STEP_BACK: u64 = 900_000;
        let near = self.time.unwrap_or_else(|| {
            let ticks = u128::from(unix_micros) * CLOCK_RATE / 1_000_000;
            u64::try_from(ticks).unwrap_or(MAX_TIME)
        });
        let base = near & !(CYCLE - 1);
        let candidates = [base.saturating_sub(CYCLE), base, base.saturating_add(CYCLE)];
        let extended = candidates.map(|cycle| cycle | u64::from(timestamp));
        let nearest = extended.into_iter().min_by_key(|time| time.abs_diff(near)).unwrap_or(near);
        let is_jump_back = self.time.is_some_and(|last| nearest < last.saturating_sub(MAX_STEP_BACK));
        let time = if is_jump_back { nearest.saturating_add(CYCLE) } else { nearest };
        time.min(MAX_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_000_000;

    fn packet(seq: u16, time: u32) -> Vec<u8> {
        [&[0x80, 33][..], &seq.to_be_bytes(), &time.to_be_bytes(), &[0; 4]].concat()
    }

    fn numbers(from: u16, count: u16, start: u32, lost: &[u16], skew: u64) -> Vec<(u64, u16)> {
        let mut numbers = RtpNumbers::default();
        let seqs = (0..count).map(|i| (i, from.wrapping_add(i))).filter(|(_, seq)| !lost.contains(seq));
        let group = |(i, seq): (u16, u16)| {
            let time = start.wrapping_add(u32::from(i / 4) * 3000);
            numbers.next(&packet(seq, time), NOW + skew).map(|number| (number, seq))
        };
        seqs.filter_map(group).collect()
    }

    #[test]
    fn rtp_groups_of_two_nodes_are_numbered_alike() {
        let one = numbers(65_000, 2000, u32::MAX - 9000, &[], 0);
        // Another node begins later, by another clock, and has lost other packets.
        let start = (u32::MAX - 9000).wrapping_add(25 * 3000);
        let two = numbers(65_100, 1900, start, &[65_150, 500], 7_000_000);
        let shared: Vec<_> = one.iter().filter(|group| two.contains(group)).collect();
        assert!(shared.len() >= two.len() - 2, "{one:?} {two:?}");
        assert!(one.windows(2).all(|pair| pair[0].0 < pair[1].0), "{one:?}");
        assert!(one.iter().all(|(number, _)| *number < 1 << 62));
    }

    #[test]
    fn rtp_group_numbers_only_grow_when_times_jump_back() {
        let mut numbers = RtpNumbers::default();
        let first = numbers.next(&packet(0, 4_000_000_000), NOW).unwrap();
        let second = numbers.next(&packet(64, 1_000_000_000), NOW).unwrap();
        let third = numbers.next(&packet(9000, 17), NOW).unwrap();
        assert!(first < second && second < third, "{first} {second} {third}");
    }

    #[test]
    fn rtp_packet_out_of_order_stays_in_the_present_group() {
        let mut numbers = RtpNumbers::default();
        assert!(numbers.next(&packet(64, 10), NOW).is_some());
        assert_eq!(numbers.next(&packet(63, 9), NOW), None);
        assert_eq!(numbers.last(), Some(64));
        assert_eq!(numbers.next(&packet(65, 9), NOW), None);
        assert!(numbers.next(&packet(128, 20), NOW).is_some());
    }
}
