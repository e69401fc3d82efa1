//! Transport packets of a byte stream, or of datagrams that need not hold whole ones (ISO/IEC 13818-1 section 2.4.3.2):
//! alignment, packets of 188, 192 and 204 bytes, and loss and recovery of synchronisation as in ETSI TR 101 290 (checks
//! 1.1 and 1.2).

use super::framing::Framing;

/// Length of a transport packet, in bytes.
pub(crate) const PACKET: usize = 188;
/// First byte of a transport packet.
pub(crate) const SYNC: u8 = 0x47;
/// Number of wrong sync bytes in a row that are a loss of synchronisation, and of right ones that end it.
const SYNC_LOST: u8 = 2;
const SYNC_FOUND: u8 = 5;
/// Number of bytes that are needed to find a new alignment. As many are kept for the next datagram, at most.
const SEARCHED: usize = 4 * PACKET;

/// Cuts a byte stream into transport packets.
#[derive(Debug, Default)]
pub(crate) struct PacketSync {
    /// Distance of the packets, once known.
    stride: Option<usize>,
    /// Beginning of a packet whose end has not arrived, or bytes among which no packet has been found.
    rest: Vec<u8>,
    /// Number of bytes before the next packet: parity, or its time.
    between: usize,
    /// Number of places that were counted as wrong ahead of the search for a new alignment.
    counted: u8,
    in_sync: bool,
    /// True once the stream has been in synchronisation. Before, it may be no transport stream at all.
    found: bool,
    /// Number of sync bytes in a row that were wrong while in sync, or right while out of sync.
    run: u8,
    /// Wrong sync bytes before the stream was found, which count only if it is one.
    doubtful: u64,
    /// Number of wrong sync bytes.
    sync_byte: u64,
    /// Number of losses of synchronisation.
    losses: u64,
    /// Number of bytes among which no packet was found.
    skipped: u64,
}

impl PacketSync {
    /// Returns true while the stream is in synchronisation.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Returns true if the place of the packets is known.
    pub(crate) fn is_aligned(&self) -> bool {
        self.stride.is_some()
    }

    /// Returns the distance of the packets in bytes, once known: 188, 192 or 204.
    pub(crate) fn stride(&self) -> Option<usize> {
        self.stride
    }

    /// Returns the number of bytes among which no packet was found.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns the number of wrong sync bytes.
    pub(crate) fn wrong_sync_bytes(&self) -> u64 {
        self.sync_byte
    }

    /// Returns the number of losses of synchronisation.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// Begins another byte stream.
    pub(crate) fn begin(&mut self) {
        let Self { sync_byte, losses, skipped, .. } = *self;
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        *self = Self { rest, sync_byte, losses, skipped, ..Self::default() };
    }

    /// Takes the bytes of a datagram. Hands each packet of 188 bytes with a right sync byte to `each`, and whether the
    /// stream is in synchronisation.
    pub(crate) fn feed(&mut self, payload: &[u8], mut each: impl FnMut(&[u8; PACKET], bool)) {
        match self.whole_packets(payload) {
            Some(packets) => {
                self.run = 0;
                for packet in packets {
                    each(packet, true);
                }
            }
            None => self.feed_bytes(payload, each),
        }
    }

    /// Returns the packets of a payload that holds whole ones of 188 bytes, in a stream that goes on as it was: nearly all
    /// payloads of nearly all streams do. They need no search, and change nothing but the run of wrong sync bytes.
    fn whole_packets<'a>(&self, payload: &'a [u8]) -> Option<&'a [[u8; PACKET]]> {
        let is_even = self.in_sync && self.stride == Some(PACKET) && self.rest.is_empty() && self.between == 0;
        let (packets, rest) = payload.as_chunks::<PACKET>();
        let is_whole = is_even && rest.is_empty() && !packets.is_empty();
        (is_whole && packets.iter().all(|packet| packet[0] == SYNC)).then_some(packets)
    }

    /// Takes the bytes of a datagram as [`PacketSync::feed`] does, wherever its packets may lie.
    fn feed_bytes(&mut self, payload: &[u8], mut each: impl FnMut(&[u8; PACKET], bool)) {
        if self.rest.is_empty() && self.between == 0 {
            return self.take(payload, &mut each);
        }
        if let Some(framing) = Framing::of_whole_packets(payload)
            && payload.get(self.next_sync()) != Some(&SYNC)
        {
            // The packet in progress was truncated: datagrams begin with packets in this stream.
            self.rest.clear();
            self.between = framing.offset;
            self.stride = Some(framing.stride);
            self.wrong();
        }
        if self.rest.is_empty() {
            return self.take(payload, &mut each);
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(payload);
        let used = self.cut(&all, &mut each);
        all.drain(..used);
        self.rest = all;
    }

    fn take(&mut self, payload: &[u8], each: &mut impl FnMut(&[u8; PACKET], bool)) {
        let used = self.cut(payload, each);
        self.rest.extend_from_slice(payload.get(used..).unwrap_or_default());
    }

    /// Returns the place of the first sync byte in the bytes that come next, if the packets go on as before.
    fn next_sync(&self) -> usize {
        let stride = self.stride.unwrap_or(PACKET);
        if self.rest.is_empty() {
            return self.between;
        }
        (stride - self.rest.len() % stride) % stride
    }

    /// Hands on the packets in `bytes`. Returns the number of bytes used; fewer than [`SEARCHED`] are left.
    fn cut(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8; PACKET], bool)) -> usize {
        let mut at = 0;
        while let Some(ahead) = bytes.get(at..).filter(|ahead| !ahead.is_empty()) {
            if self.between > 0 {
                let count = self.between.min(ahead.len());
                self.between -= count;
                at += count;
                continue;
            }
            let Some(stride) = self.stride else {
                let Some(framing) = Framing::search(ahead) else {
                    if ahead.len() < SEARCHED {
                        break;
                    }
                    match self.counted.checked_sub(1) {
                        Some(left) => self.counted = left,
                        None => self.wrong(),
                    }
                    self.skip(PACKET);
                    at += PACKET;
                    continue;
                };
                self.stride = Some(framing.stride);
                self.counted = 0;
                self.skip(framing.offset);
                self.doubtful = 0;
                at += framing.offset;
                continue;
            };
            if ahead[0] == SYNC {
                let Some(packet) = ahead.first_chunk::<PACKET>() else { break };
                self.right();
                each(packet, self.in_sync);
                at += PACKET;
                self.between = stride - PACKET;
                continue;
            }
            // One or two wrong sync bytes are damage, and the place is kept. More are another place.
            match (ahead.get(stride), ahead.get(2 * stride)) {
                (None, _) => break,
                (Some(&SYNC), _) => {
                    self.wrong();
                    at += stride;
                }
                (_, None) => break,
                (_, Some(&SYNC)) => {
                    self.wrong();
                    self.wrong();
                    at += 2 * stride;
                }
                _ => {
                    self.wrong();
                    self.wrong();
                    self.counted = 2;
                    self.stride = None;
                }
            }
        }
        at
    }

    fn skip(&mut self, bytes: usize) {
        self.skipped = self.skipped.saturating_add(bytes as u64);
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

    fn packets(count: u8) -> Vec<Vec<u8>> {
        let packet = |n: u8| {
            let mut bytes = vec![SYNC, 1, n, 0x10];
            bytes.resize(PACKET, n);
            bytes
        };
        (0..count).map(packet).collect()
    }

    fn extract(stream: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut sync = PacketSync::default();
        let mut out = Vec::new();
        for chunk in stream.chunks(size) {
            sync.feed(chunk, |packet, _| out.push(packet.to_vec()));
        }
        out
    }

    #[test]
    fn transport_packets_of_each_size_are_extracted_from_any_chunks() {
        let packets = packets(60);
        let plain = packets.concat();
        let parity: Vec<u8> = packets.iter().flat_map(|p| [&p[..], &[9; 16]].concat()).collect();
        let timed: Vec<u8> = packets.iter().flat_map(|p| [&[9, 8, 7, 6][..], p].concat()).collect();
        for (name, stream) in [("plain", plain), ("parity", parity), ("timed", timed)] {
            for size in [188, 204, 192, 1316, 1000, 7, 5000] {
                let got = extract(&stream, size);
                assert!(got.iter().all(|packet| packets.contains(packet)), "{name} {size}");
                assert!(got.len() >= 59, "{name} {size}: {}", got.len());
            }
        }
        assert_eq!(extract(&[0x22; 100_000], 1316).len(), 0);
    }

    #[test]
    fn ts_sync_counts_each_wrong_byte_of_damaged_datagrams() {
        for wrong in 1..=14 {
            let mut bytes = stream(70);
            for packet in 14..14 + wrong {
                bytes[packet * PACKET] = 0x11;
            }
            let mut sync = PacketSync::default();
            let datagrams: Vec<&[u8]> = bytes.chunks(7 * PACKET).collect();
            assert_eq!(numbers(&mut sync, &datagrams).len(), 70 - wrong);
            assert_eq!((sync.sync_byte, sync.losses), (wrong as u64, u64::from(wrong > 1)), "{wrong}");
        }
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
        /// Datagrams of whole packets have a way of their own, which must make no difference.
        #[test]
        fn ts_sync_of_whole_packets_is_that_of_any_bytes(
            steps in proptest::collection::vec((0u8..16, 0usize..9, proptest::num::usize::ANY), 0..80),
        ) {
            let mut ours = PacketSync::default();
            let mut reference = PacketSync::default();
            let mut number = 0u8;
            for (kind, packets, place) in steps {
                let mut payload = Vec::new();
                for _ in 0..packets {
                    number = number.wrapping_add(1);
                    payload.extend([SYNC, number]);
                    payload.resize(payload.len() + PACKET - 2, number ^ 0x55);
                }
                let length = payload.len().max(1);
                match kind {
                    0 => payload.truncate(place % length),
                    1 => payload.drain(..place % length).for_each(drop),
                    2 => payload.iter_mut().step_by(PACKET).nth(place % packets.max(1)).into_iter().for_each(|byte| *byte = 0),
                    3 => payload.get_mut(place % length).into_iter().for_each(|byte| *byte ^= 0x10),
                    4 => payload.iter_mut().step_by(PACKET).for_each(|byte| *byte = 1),
                    _ => {}
                }
                let mut got = Vec::new();
                let mut wanted = Vec::new();
                ours.feed(&payload, |packet, in_sync| got.push((*packet, in_sync)));
                reference.feed_bytes(&payload, |packet, in_sync| wanted.push((*packet, in_sync)));
                assert_eq!(got, wanted);
                assert_eq!(format!("{ours:?}"), format!("{reference:?}"));
            }
        }

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
