//! The RTP header (RFC 3550 section 5.1), validated in full.

/// Length of the fixed part of the header.
const FIXED: usize = 12;
/// Number of bytes at both ends of the payload that a fingerprint covers.
const FINGERPRINTED: usize = 32;

/// The header of an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_type: u8,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    /// Start of the payload: behind CSRCs and extension.
    pub(crate) payload_start: usize,
    /// End of the payload: before the padding.
    pub(crate) payload_end: usize,
}

/// The reason why a datagram is not an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRtp {
    /// Shorter than its header announces, or not version 2.
    Malformed,
    /// An RTCP packet on the same port (RFC 5761 section 4).
    Rtcp,
}

impl Header {
    /// Parses the header of a datagram.
    pub(crate) fn parse(datagram: &[u8]) -> Result<Self, NotRtp> {
        let Some((fixed, _)) = datagram.split_first_chunk::<FIXED>() else { return Err(NotRtp::Malformed) };
        if fixed[0] >> 6 != 2 {
            return Err(NotRtp::Malformed);
        }
        // The RTCP types in use: SR to XR. As RTP, these would be payload types 72-79 with the marker set.
        if (200..=207).contains(&fixed[1]) {
            return Err(NotRtp::Rtcp);
        }
        let padding = fixed[0] & 0x20 != 0;
        let extension = fixed[0] & 0x10 != 0;
        let csrcs = usize::from(fixed[0] & 0x0f);
        let mut start = FIXED + 4 * csrcs;
        if extension {
            let Some(&[_, _, high, low]) = datagram.get(start..start + 4) else { return Err(NotRtp::Malformed) };
            start += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        }
        let mut end = datagram.len();
        if padding {
            let pad = usize::from(*datagram.last().ok_or(NotRtp::Malformed)?);
            if pad == 0 {
                return Err(NotRtp::Malformed);
            }
            end = end.checked_sub(pad).ok_or(NotRtp::Malformed)?;
        }
        if start > end {
            return Err(NotRtp::Malformed);
        }
        Ok(Self {
            payload_type: fixed[1] & 0x7f,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            payload_start: start,
            payload_end: end,
        })
    }

    /// Returns a fingerprint of the packet: copies of one packet have the same, and other packets hardly ever do.
    pub(crate) fn fingerprint(&self, packet: &[u8]) -> u32 {
        let payload = packet.get(self.payload_start..self.payload_end).unwrap_or_default();
        let first = payload.get(..FINGERPRINTED).unwrap_or(payload);
        let last = payload.get(payload.len().saturating_sub(FINGERPRINTED)..).unwrap_or_default();
        let mut hash = u64::from(self.timestamp) << 32 | payload.len() as u64;
        for word in first.chunks(8).chain(last.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            hash = (hash.rotate_left(5) ^ u64::from_ne_bytes(bytes)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        (hash >> 32) as u32 | 1 // never 0
    }

    /// Returns whether the payload is MPEG-TS (RFC 3551 section 6).
    pub(crate) fn is_mpeg_ts(&self) -> bool {
        self.payload_type == 33
    }

    /// Returns the clock rate of static payload types (RFC 3551 section 6), in Hz; 90 kHz for video and all others.
    pub(crate) fn clock_rate(&self) -> u32 {
        match self.payload_type {
            0 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 13 | 15 | 18 => 8_000,
            6 => 16_000,
            10 | 11 => 44_100,
            16 => 11_025,
            17 => 22_050,
            _ => 90_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rtp_header_with_all_fields_parses() {
        let mut packet = vec![0xb2, 0xa1, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 2]; // padding, extension, 2 CSRCs, marker
        packet.extend([0; 8]);
        packet.extend([0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
        packet.extend(b"media");
        packet.extend([0, 0, 3]);
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.payload_type, header.sequence, header.timestamp, header.ssrc), (33, 0x1234, 1, 2));
        assert_eq!(&packet[header.payload_start..header.payload_end], b"media");
        for cut in 0..28 {
            assert!(Header::parse(&packet[..cut]).is_err(), "{cut}");
        }
        assert_eq!(Header::parse(&[0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(NotRtp::Rtcp));
    }

    proptest! {
        #[test]
        fn rtp_payload_range_is_always_within_packet(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = Header::parse(&packet) {
                prop_assert!(FIXED <= header.payload_start);
                prop_assert!(packet.get(header.payload_start..header.payload_end).is_some());
            }
        }
    }
}
