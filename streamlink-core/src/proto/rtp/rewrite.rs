//! Rewriting of sequence number and SSRC, which hides the source's gaps and restarts from receivers.

/// Length of the rewritten part of a packet, the fixed header (RFC 3550 section 5.1), in bytes.
pub(crate) const REWRITTEN: usize = 12;

/// Numbers packets by their place in the flow, so that both destinations of one output get the same numbers, and a
/// packet lost on the way to one of them is a gap there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewriter {
    ssrc: u32,
    first: u16,
}

impl Rewriter {
    pub(crate) fn new(ssrc: u32, first: u16) -> Self {
        Self { ssrc, first }
    }

    /// Returns the new fixed header of the flow's packet number `place`. A packet shorter than a header keeps its
    /// bytes.
    pub(crate) fn header(&self, packet: &[u8], place: u64) -> [u8; REWRITTEN] {
        let mut header = packet.first_chunk::<REWRITTEN>().copied().unwrap_or_default();
        let sequence = self.first.wrapping_add(place as u16); // sequence numbers count modulo 2^16
        header[2..4].copy_from_slice(&sequence.to_be_bytes());
        header[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtp_rewrite_numbers_follow_place_over_wrap() {
        let packet = [0x80, 0xa1, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0xff];
        let rewriter = Rewriter::new(0xdead_beef, 0xffff);
        assert_eq!(rewriter.header(&packet, 0), [0x80, 0xa1, 0xff, 0xff, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(rewriter.header(&packet, 1)[2..4], [0, 0]);
        assert_eq!(rewriter.header(&packet, 65_540)[2..4], [0, 3]);
    }
}
