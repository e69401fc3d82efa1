//! Forward error correction of RTP (SMPTE ST 2022-1, after RFC 2733 and Pro-MPEG CoP #3).
//!
//! The packets of a stream form matrices of L columns and D rows, row by row. The parity of each column, and of each row,
//! is sent in an FEC packet on a port of its own. Any packet that is the only missing one of its column or row is
//! recovered, which may make it possible to recover another.

mod decoder;
mod encoder;
#[cfg(test)]
mod tests;

pub(crate) use decoder::FecDecoder;
pub(crate) use encoder::{FecEncoder, FecPacket};

/// Length of the RTP header of media and FEC packets without their optional parts.
const RTP: usize = 12;
/// Length of the FEC header (ST 2022-1 section 8.2), behind the RTP header.
const FEC: usize = 16;
/// Payload type of FEC packets.
const PAYLOAD_TYPE: u8 = 96;
/// Maximum number of bytes behind the RTP header of a protected packet.
const MAX_PAYLOAD: usize = 2048;
/// Maximum number of columns, and of rows. ST 2022-1 allows 20 of each.
const MAX_SIDE: u8 = 50;
/// Maximum number of packets of a matrix. ST 2022-1 allows 100.
const MAX_MATRIX: u64 = 256;

/// Exclusive-or of packets: of the fields of their headers that can be recovered, and of what follows the headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parity {
    /// Padding, extension and CSRC count; marker and payload type.
    flags: [u8; 2],
    timestamp: [u8; 4],
    /// Number of bytes behind the fixed header.
    length: u16,
    payload: Vec<u8>,
}

impl Parity {
    /// Adds a packet, or removes it. Returns whether it is short enough.
    fn add(&mut self, header: &[u8; RTP], payload: &[u8]) -> bool {
        let length = u16::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
        let Some(length) = length else { return false };
        self.flags[0] ^= header[0] & 0x3f;
        self.flags[1] ^= header[1];
        for (byte, other) in self.timestamp.iter_mut().zip(&header[4..8]) {
            *byte ^= other;
        }
        self.length ^= length;
        if self.payload.len() < payload.len() {
            self.payload.resize(payload.len(), 0);
        }
        for (byte, other) in self.payload.iter_mut().zip(payload) {
            *byte ^= other;
        }
        true
    }

    fn clear(&mut self) {
        self.flags = [0; 2];
        self.timestamp = [0; 4];
        self.length = 0;
        self.payload.clear();
    }
}

/// Splits a packet behind the fixed header.
fn split(packet: &[u8]) -> Option<(&[u8; RTP], &[u8])> {
    packet.split_first_chunk::<RTP>()
}

/// Protected packets of an FEC packet: `count` of them, `offset` apart, from `base` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protected {
    base: u16,
    offset: u8,
    count: u8,
    is_row: bool,
}

/// Writes an FEC packet (ST 2022-1 sections 8.1 and 8.2).
fn write(protected: Protected, parity: &Parity, sequence: u16, timestamp: [u8; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(RTP + FEC + parity.payload.len());
    // The RTP header holds the parity of padding, extension, CSRC count and marker; the SSRC is not used.
    out.extend([0x80 | parity.flags[0], (parity.flags[1] & 0x80) | PAYLOAD_TYPE]);
    out.extend(sequence.to_be_bytes());
    out.extend(timestamp);
    out.extend([0; 4]);
    out.extend(protected.base.to_be_bytes());
    out.extend(parity.length.to_be_bytes());
    out.extend([0x80 | parity.flags[1], 0, 0, 0]);
    out.extend(parity.timestamp);
    out.extend([u8::from(protected.is_row) << 6, protected.offset, protected.count, 0]);
    out.extend(&parity.payload);
    out
}

/// Reads an FEC packet; `None` if it is none, or protects more than a matrix can hold.
fn read(datagram: &[u8]) -> Option<(Protected, Parity)> {
    let (rtp, rest) = split(datagram)?;
    let (fec, payload) = rest.split_first_chunk::<FEC>()?;
    let &[a, b, c, d, flags, _, _, _, t0, t1, t2, t3, kind, offset, count, _] = fec;
    let is_row = kind & 0x40 != 0;
    // Of the types there is the exclusive-or alone.
    let is_known = rtp[0] >> 6 == 2 && kind & 0xbf == 0;
    let fits = (1..=MAX_SIDE).contains(&count)
        && (1..=MAX_SIDE).contains(&offset)
        && u64::from(count) * u64::from(offset) <= MAX_MATRIX
        && (!is_row || offset == 1)
        && payload.len() <= MAX_PAYLOAD;
    let protected = Protected { base: u16::from_be_bytes([a, b]), offset, count, is_row };
    let parity = Parity {
        flags: [rtp[0] & 0x3f, (rtp[1] & 0x80) | (flags & 0x7f)],
        timestamp: [t0, t1, t2, t3],
        length: u16::from_be_bytes([c, d]),
        payload: payload.to_vec(),
    };
    (is_known && fits).then_some((protected, parity))
}
