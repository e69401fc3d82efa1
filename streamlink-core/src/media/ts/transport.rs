//! Fields of a transport packet (ISO/IEC 13818-1 section 2.4.3).

use super::{PACKET, SYNC};

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
    /// Rest of the program clock reference, in units of 27 MHz, below 300.
    pub(crate) clock_extension: u16,
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
                    let extension = field.get(6).map_or(0, |f| u16::from_be_bytes([e & 1, *f]));
                    parsed.clock_extension = extension % 300;
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

#[cfg(test)]
mod tests {
    use super::*;

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
