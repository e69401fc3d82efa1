//! Transport packets (ISO/IEC 13818-1 section 2.4.3), and their extraction from datagrams or a byte stream.

use super::{PACKET, SYNC, framing::Framing};

/// Maximum number of bytes kept while the place of the packets is unknown.
const MAX_REST: usize = 16 << 10;

/// One transport packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TransportPacket<'a> {
    pub(crate) pid: u16,
    /// A PES packet or a section begins in it.
    pub(crate) starts: bool,
    pub(crate) scrambled: bool,
    pub(crate) counter: u8,
    pub(crate) discontinuity: bool,
    /// The program clock reference in units of 90 kHz, 33 bits.
    pub(crate) clock: Option<u64>,
    /// Empty if there is none.
    pub(crate) payload: &'a [u8],
    /// The payload is shorter than there was room for, as at the end of a PES packet.
    pub(crate) stuffed: bool,
}

impl<'a> TransportPacket<'a> {
    /// Parses a packet; `None` if it is none, or is marked as damaged.
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let &[sync, high, low, flags, ..] = packet.get(..PACKET)? else { return None };
        if sync != SYNC || high & 0x80 != 0 {
            return None;
        }
        let mut parsed = Self {
            pid: u16::from_be_bytes([high & 0x1f, low]),
            starts: high & 0x40 != 0,
            scrambled: flags & 0xc0 != 0,
            counter: flags & 0x0f,
            ..Self::default()
        };
        let mut start = 4;
        if flags & 0x20 != 0 {
            let length = usize::from(*packet.get(4)?);
            start = 5 + length;
            let field = packet.get(5..start)?;
            let mut used = usize::from(length > 0);
            if let Some(indicators) = field.first() {
                parsed.discontinuity = indicators & 0x80 != 0;
                if indicators & 0x10 != 0
                    && let Some(&[a, b, c, d, e]) = field.get(1..6)
                {
                    parsed.clock = Some(u64::from(u32::from_be_bytes([a, b, c, d])) << 1 | u64::from(e >> 7));
                    used += 6;
                }
            }
            parsed.stuffed = length > used;
        }
        if flags & 0x10 != 0 {
            parsed.payload = packet.get(start..).unwrap_or_default();
        }
        Some(parsed)
    }
}

/// Extracts transport packets of 188, 192 or 204 bytes from datagrams, which need not hold whole ones.
#[derive(Debug, Default)]
pub(crate) struct PacketExtractor {
    /// Distance of the packets, once known.
    stride: Option<usize>,
    /// Bytes of an incomplete packet.
    rest: Vec<u8>,
    /// Number of bytes before the next packet: parity, or its time.
    between: usize,
    /// Number of bytes that were no packets.
    skipped: u64,
}

impl PacketExtractor {
    /// Takes the payload of a datagram; `take` is called with each packet of 188 bytes.
    pub(crate) fn push(&mut self, payload: &[u8], mut take: impl FnMut(&[u8])) {
        let plain = Framing { offset: 0, stride: PACKET };
        if self.rest.is_empty()
            && self.between == 0
            && self.stride.is_none_or(|stride| stride == PACKET)
            && payload.len().is_multiple_of(PACKET)
            && plain.fits(payload)
        {
            self.stride = Some(PACKET);
            for packet in payload.chunks_exact(PACKET) {
                take(packet);
            }
            return;
        }
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(payload);
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.between > 0 {
                let count = self.between.min(rest.len());
                self.between -= count;
                at += count;
                continue;
            }
            let framed = self.stride.filter(|stride| {
                // One wrong sync byte is damage; the packet counts for nothing, and the place is kept.
                rest[0] == SYNC || rest.get(*stride).is_some_and(|byte| *byte == SYNC)
            });
            let Some(stride) = framed else {
                self.stride = None;
                let Some(found) = Framing::detect(rest) else { break };
                self.skipped = self.skipped.saturating_add(found.offset as u64);
                self.stride = Some(found.stride);
                at += found.offset;
                continue;
            };
            let Some(packet) = rest.get(..PACKET) else { break };
            take(packet);
            at += PACKET;
            self.between = stride - PACKET;
        }
        bytes.drain(..at.min(bytes.len()));
        if bytes.len() > MAX_REST {
            self.skipped = self.skipped.saturating_add(bytes.len() as u64);
            bytes.clear();
        }
        self.rest = bytes;
    }

    /// Returns the distance of the packets, once known.
    pub(crate) fn stride(&self) -> Option<usize> {
        self.stride
    }

    /// Returns the number of bytes that were no packets.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: u8) -> Vec<Vec<u8>> {
        let packet = |n: u8| {
            let mut bytes = vec![SYNC, 1, n, 0x10];
            bytes.resize(PACKET, n);
            bytes
        };
        (0..count).map(packet).collect()
    }

    fn extract(stream: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut extractor = PacketExtractor::default();
        let mut out = Vec::new();
        for chunk in stream.chunks(size) {
            extractor.push(chunk, |packet| out.push(packet.to_vec()));
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
    fn transport_packet_fields_parse() {
        let mut bytes = vec![SYNC, 0x41, 0x00, 0x35, 20, 0x90, 0, 0, 0, 1, 0xfe, 0];
        bytes.resize(PACKET, 0xff);
        let packet = TransportPacket::parse(&bytes).unwrap();
        assert_eq!((packet.pid, packet.starts, packet.counter), (0x100, true, 5));
        assert_eq!((packet.discontinuity, packet.clock, packet.stuffed), (true, Some(3), true));
        assert_eq!(packet.payload.len(), 188 - 25);
        bytes[1] |= 0x80;
        assert!(TransportPacket::parse(&bytes).is_none(), "damaged");
    }
}
