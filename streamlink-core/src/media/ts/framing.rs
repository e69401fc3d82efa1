//! Framing of transport packets in a datagram: packets of 188 bytes, of 204 with parity bytes behind them (ETSI EN 300
//! 744, as satellite modems hand them out), and of 192 with a time before them (M2TS, as discs and cameras use it).

use super::{PACKET, SYNC};

/// The place of transport packets in a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Position of the first whole or truncated packet's sync byte.
    pub(crate) offset: usize,
    /// Distance from one sync byte to the next: 188, 192 or 204.
    pub(crate) stride: usize,
}

/// The distances that occur: plain, with 16 bytes of parity, with four bytes of time.
const STRIDES: [usize; 3] = [PACKET, 204, 192];
/// Number of packets in a row that prove an alignment among bytes that are not all packets.
const CONFIRMED: usize = 3;

impl Framing {
    /// Returns the framing of a datagram that holds whole packets from its beginning, or of a part of a byte stream
    /// that holds at least two sync bytes at one of the distances; `None` if the bytes are no MPEG-TS.
    pub(crate) fn detect(bytes: &[u8]) -> Option<Self> {
        Self::of_whole_packets(bytes).or_else(|| {
            Self::first(bytes, |framing| framing.offset + framing.stride < bytes.len() && framing.fits(bytes))
        })
    }

    /// Returns the framing of a datagram that holds whole packets from its beginning: two of the longer ones at least, as
    /// any 204 bytes that begin with a packet look like one.
    pub(crate) fn of_whole_packets(bytes: &[u8]) -> Option<Self> {
        let framings = STRIDES.map(|stride| Self { offset: if stride == 192 { 4 } else { 0 }, stride });
        let is_whole = |framing: &Self| bytes.len().is_multiple_of(framing.stride) && framing.fits(bytes);
        let is_enough = |framing: &Self| bytes.len() > if framing.stride == PACKET { 0 } else { framing.stride };
        framings.into_iter().find(|framing| is_enough(framing) && is_whole(framing))
    }

    /// Returns the framing of a part of a byte stream as [`Framing::detect`] does, or that of the first packets in a row,
    /// behind which there may be anything.
    pub(crate) fn search(bytes: &[u8]) -> Option<Self> {
        let is_confirmed = |framing: Self| {
            let at = |number| framing.offset + number * framing.stride;
            (1..CONFIRMED).all(|number| bytes.get(at(number)) == Some(&SYNC))
        };
        Self::detect(bytes).or_else(|| Self::first(bytes, is_confirmed))
    }

    /// Returns the first framing whose first sync byte is there, and that is right.
    fn first(bytes: &[u8], is_right: impl Fn(Self) -> bool) -> Option<Self> {
        for stride in STRIDES {
            let framings = memchr::memchr_iter(SYNC, bytes.get(..bytes.len().min(stride))?);
            if let Some(framing) = framings.map(|offset| Self { offset, stride }).find(|framing| is_right(*framing)) {
                return Some(framing);
            }
        }
        None
    }

    /// Returns whether there is a sync byte wherever there has to be one.
    pub(crate) fn fits(self, bytes: &[u8]) -> bool {
        bytes.get(self.offset..).is_some_and(|rest| rest.iter().step_by(self.stride).all(|byte| *byte == SYNC))
    }

    /// Returns the packets of 188 bytes; the last may be truncated.
    pub(crate) fn packets(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let rest = bytes.get(self.offset..).unwrap_or_default();
        rest.chunks(self.stride).map(|chunk| chunk.get(..PACKET).unwrap_or(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stride: usize, offset: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0x11; offset];
        for _ in 0..count {
            bytes.push(SYNC);
            bytes.extend(vec![0x22; stride - 1]);
        }
        bytes
    }

    #[test]
    fn framing_of_each_packet_size_is_detected() {
        for (stride, offset) in [(188, 0), (204, 0), (192, 4)] {
            let mut bytes = stream(stride, offset, 7);
            bytes.truncate(7 * stride);
            assert_eq!(Framing::detect(&bytes), Some(Framing { offset, stride }));
            assert!(Framing::detect(&bytes).unwrap().packets(&bytes).all(|packet| packet.len() == 188));
        }
        assert_eq!(Framing::detect(&stream(188, 0, 1)), Some(Framing { offset: 0, stride: 188 }));
    }

    #[test]
    fn framing_of_cut_packets_is_detected() {
        assert_eq!(Framing::detect(&stream(188, 100, 7)[..1400]), Some(Framing { offset: 100, stride: 188 }));
        assert_eq!(Framing::detect(&stream(204, 50, 5)), Some(Framing { offset: 50, stride: 204 }));
        assert_eq!(Framing::detect(&[0x22; 1316]), None);
        assert_eq!(Framing::detect(&[]), None);
    }
}
