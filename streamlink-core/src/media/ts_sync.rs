//! Transport packets of a byte stream that need not be cut at datagrams (ISO/IEC 13818-1 section 2.4.3.2): alignment,
//! and loss and recovery of synchronisation as in ETSI TR 101 290 (checks 1.1 and 1.2).

use super::ts::{Framing, transport::PacketExtractor};
use memchr::memchr;

/// Length of a transport packet, in bytes.
pub(crate) const PACKET: usize = 188;
/// First byte of a transport packet.
pub(crate) const SYNC: u8 = 0x47;
/// Number of wrong sync bytes in a row that are a loss of synchronisation, and of right ones that end it.
const SYNC_LOST: u8 = 2;
const SYNC_FOUND: u8 = 5;
/// Number of packets whose sync bytes must be right for a new alignment.
const CONFIRMED: usize = 3;
/// Number of bytes that are needed to find a new alignment. As many are kept for the next datagram, at most.
const SEARCHED: usize = (CONFIRMED + 1) * PACKET;

/// Minimum length of a datagram that tells packets with parity or times between them, in bytes.
const MIN_WIDE: usize = 3 * 204;

/// Cuts a byte stream into transport packets.
#[derive(Debug, Default)]
pub(crate) struct PacketSync {
    /// Beginning of a packet whose end has not arrived.
    rest: Vec<u8>,
    /// Extractor of packets with parity or times between them, once they are found to be such.
    wide: Option<PacketExtractor>,
    in_sync: bool,
    /// True once the stream has been in synchronisation. Before, it may be no transport stream at all.
    found: bool,
    /// Number of sync bytes in a row that were wrong while in sync, or right while out of sync.
    run: u8,
    /// Wrong sync bytes before the stream was found, which count only if it is one.
    doubtful: u64,
    /// Number of wrong sync bytes.
    pub(crate) sync_byte: u64,
    /// Number of losses of synchronisation.
    pub(crate) losses: u64,
}

impl PacketSync {
    /// Returns true while the stream is in synchronisation.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Begins another byte stream.
    pub(crate) fn begin(&mut self) {
        self.rest.clear();
        self.wide = None;
        self.in_sync = false;
        self.found = false;
        self.run = 0;
        self.doubtful = 0;
    }

    /// Takes the bytes of a datagram. Hands each packet with a right sync byte to `each`, and whether the stream is in
    /// synchronisation.
    pub(crate) fn feed(&mut self, payload: &[u8], mut each: impl FnMut(&[u8], bool)) {
        if self.wide.is_none() && !self.in_sync && payload.len() >= MIN_WIDE {
            let is_wide = Framing::detect(payload).is_some_and(|framing| framing.stride != PACKET);
            self.wide = is_wide.then(PacketExtractor::default);
        }
        if let Some(mut extractor) = self.wide.take() {
            self.rest.clear();
            extractor.push(payload, |packet| {
                self.right();
                each(packet, self.in_sync);
            });
            self.wide = Some(extractor).filter(|extractor| extractor.stride().is_some_and(|stride| stride != PACKET));
            return;
        }
        if self.rest.is_empty() {
            let used = self.cut(payload, &mut each);
            self.rest.extend_from_slice(payload.get(used..).unwrap_or_default());
            return;
        }
        let next = (PACKET - self.rest.len() % PACKET) % PACKET;
        let is_whole = payload.len().is_multiple_of(PACKET) && payload.chunks(PACKET).all(|slot| slot[0] == SYNC);
        if is_whole && payload.get(next) != Some(&SYNC) {
            // The packet in progress was truncated: datagrams begin with packets in this stream.
            self.rest.clear();
            self.wrong();
            return self.feed(payload, each);
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(payload);
        let used = self.cut(&all, &mut each);
        all.drain(..used);
        self.rest = all;
    }

    /// Hands on the packets in `bytes`. Returns the number of bytes used; fewer than [`SEARCHED`] are left.
    fn cut(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8], bool)) -> usize {
        let mut at = 0;
        while let Some(slot) = bytes.get(at..at + PACKET) {
            if slot[0] == SYNC {
                self.right();
                each(slot, self.in_sync);
                at += PACKET;
                continue;
            }
            if self.in_sync {
                self.wrong();
                at += PACKET;
                continue;
            }
            // The alignment may have changed, if the present one does not come back by itself.
            let ahead = bytes.get(at..).unwrap_or_default();
            if ahead.get(PACKET).is_none_or(|byte| *byte != SYNC) {
                if ahead.len() < SEARCHED {
                    return at;
                }
                if let Some(step) = aligned(ahead) {
                    self.doubtful = 0;
                    at += step;
                    continue;
                }
            }
            self.wrong();
            at += PACKET;
        }
        at
    }

    fn right(&mut self) {
        if self.in_sync {
            self.run = 0;
            return;
        }
        self.run += 1; // at most SYNC_FOUND
        if self.run >= SYNC_FOUND {
            self.run = 0;
            self.in_sync = true;
            self.found = true;
            self.sync_byte = self.sync_byte.saturating_add(std::mem::take(&mut self.doubtful));
        }
    }

    fn wrong(&mut self) {
        if !self.found {
            self.doubtful = self.doubtful.saturating_add(1);
            self.run = 0;
            return;
        }
        self.sync_byte = self.sync_byte.saturating_add(1);
        if !self.in_sync {
            self.run = 0;
            return;
        }
        self.run += 1; // at most SYNC_LOST
        if self.run >= SYNC_LOST {
            self.run = 0;
            self.in_sync = false;
            self.losses = self.losses.saturating_add(1);
        }
    }
}

/// Returns the first place within a packet's length at which several packets begin in a row.
fn aligned(bytes: &[u8]) -> Option<usize> {
    let mut from = 1;
    while from < PACKET {
        let at = from + memchr(SYNC, bytes.get(from..PACKET)?)?;
        if (1..CONFIRMED).all(|number| bytes.get(at + number * PACKET) == Some(&SYNC)) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(packets: u8) -> Vec<u8> {
        (0..packets).flat_map(|number| [&[SYNC, number], &[0; PACKET - 2][..]].concat()).collect()
    }

    fn numbers(sync: &mut PacketSync, datagrams: &[&[u8]]) -> Vec<u8> {
        let mut numbers = Vec::new();
        for datagram in datagrams {
            sync.feed(datagram, |packet, _| numbers.push(packet[1]));
            assert!(sync.rest.len() < SEARCHED);
        }
        numbers
    }

    #[test]
    fn ts_sync_follows_packets_split_over_datagrams() {
        let bytes = stream(60);
        for size in [1, 7, 100, 187, 188, 189, 1000, 1316, 1400, 65_000] {
            let mut sync = PacketSync::default();
            let datagrams: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(numbers(&mut sync, &datagrams), (0..60).collect::<Vec<_>>(), "{size}");
            assert_eq!((sync.sync_byte, sync.losses, sync.found), (0, 0, true));
        }
    }

    #[test]
    fn ts_sync_begins_in_the_middle_of_a_packet() {
        let bytes = stream(30);
        let mut sync = PacketSync::default();
        let datagrams: Vec<&[u8]> = bytes[100..].chunks(500).collect();
        assert_eq!(numbers(&mut sync, &datagrams), (1..30).collect::<Vec<_>>());
        assert_eq!((sync.sync_byte, sync.losses), (0, 0));
    }

    #[test]
    fn ts_sync_is_found_again_after_missing_bytes() {
        let mut bytes = stream(100);
        bytes.drain(50 * PACKET + 20..50 * PACKET + 40);
        let mut sync = PacketSync::default();
        let datagrams: Vec<&[u8]> = bytes.chunks(1000).collect();
        let seen = numbers(&mut sync, &datagrams);
        assert!(seen.len() >= 96 && *seen.last().unwrap() == 99, "{seen:?}");
        assert_eq!((sync.sync_byte, sync.losses), (2, 1));
    }

    #[test]
    fn ts_sync_survives_truncated_datagram() {
        let bytes = stream(70);
        let mut sync = PacketSync::default();
        let mut datagrams: Vec<&[u8]> = bytes.chunks(1316).collect();
        datagrams[4] = &datagrams[4][..1300];
        assert_eq!(numbers(&mut sync, &datagrams).len(), 69);
        assert_eq!((sync.sync_byte, sync.losses), (1, 0));
    }

    #[test]
    fn ts_sync_reads_packets_with_parity() {
        let bytes: Vec<u8> = stream(70).chunks(PACKET).flat_map(|packet| [packet, &[9; 16]].concat()).collect();
        let mut sync = PacketSync::default();
        let datagrams: Vec<&[u8]> = bytes.chunks(7 * 204).collect();
        assert_eq!(numbers(&mut sync, &datagrams), (0..70).collect::<Vec<_>>());
        assert_eq!((sync.sync_byte, sync.losses), (0, 0));
    }

    #[test]
    fn ts_sync_counts_nothing_in_other_streams() {
        let mut sync = PacketSync::default();
        for number in 0..100u32 {
            let datagram: Vec<u8> = (0..1316u32).map(|i| (i.wrapping_mul(number + 7) >> 3) as u8 & 0x3f).collect();
            sync.feed(&datagram, |_, in_sync| assert!(!in_sync));
        }
        assert_eq!((sync.sync_byte, sync.losses, sync.found), (0, 0, false));
    }

    proptest::proptest! {
        #[test]
        fn ts_sync_survives_any_bytes(payloads in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..2000), 0..8)) {
            let mut sync = PacketSync::default();
            for payload in &payloads {
                sync.feed(payload, |packet, _| assert_eq!((packet.len(), packet[0]), (PACKET, SYNC)));
                assert!(sync.rest.len() < SEARCHED);
            }
        }
    }
}
