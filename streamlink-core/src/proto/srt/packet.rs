//! Parsing and serialization of packets (draft-sharabayko-srt-01, section 3), with all bounds checked.

use super::sequence::Sequence;

/// Length of the header of every packet, in bytes.
pub(crate) const HEADER: usize = 16;
/// Maximum length of a payload, in bytes: an Ethernet frame less IPv4, UDP and SRT headers.
pub(crate) const MAX_PAYLOAD: usize = 1456;
/// Maximum length of the body of a repair packet, in bytes. libsrt fills it up to its largest payload, which it may extend
/// by a header of 4 bytes and a tag of 16.
const MAX_REPAIR: usize = MAX_PAYLOAD + 20;
/// Highest message number. The lowest is 1, and repair packets of a packet filter have 0.
pub(crate) const MAX_MESSAGE: u32 = 0x03ff_ffff;
/// Maximum number of ranges read from one loss report; more than fit into a packet of 1500 bytes.
const MAX_RANGES: usize = 364;

/// Key with which a payload is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFlag {
    /// Not encrypted.
    Clear,
    Even,
    Odd,
}

impl KeyFlag {
    /// Returns the two bits of the header.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Even => 1,
            Self::Odd => 2,
        }
    }

    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Clear),
            1 => Some(Self::Even),
            2 => Some(Self::Odd),
            _ => None,
        }
    }
}

/// Header of a data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataHeader {
    pub(crate) sequence: Sequence,
    pub(crate) key: KeyFlag,
    pub(crate) retransmitted: bool,
    /// Message number of 26 bits.
    pub(crate) message: u32,
    /// Microseconds since the sender's start; wraps.
    pub(crate) timestamp: u32,
    pub(crate) destination: u32,
}

/// Control packet. The contents of a handshake are parsed by `handshake`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control<'a> {
    Handshake(&'a [u8]),
    KeepAlive,
    Ack(Ack),
    Nak(Vec<(Sequence, Sequence)>),
    Shutdown,
    AckAck(u32),
    DropRequest {
        first: Sequence,
        last: Sequence,
    },
    PeerError,
    /// Key material outside the handshake: `UMSG_EXT` 3 and 4.
    KeyRequest(&'a [u8]),
    KeyResponse(&'a [u8]),
    /// Well-formed packet without meaning to us.
    Other,
}

/// Acknowledgement. A light one has only the sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Number of a full acknowledgement; 0 for a light one.
    pub(crate) number: u32,
    /// First sequence number that is missing. All earlier packets have been received or given up.
    pub(crate) next: u32,
    /// Round-trip time in microseconds.
    pub(crate) rtt: u32,
    /// Variance of the round-trip time in microseconds.
    pub(crate) rtt_variance: u32,
    /// Free buffer space, in packets.
    pub(crate) window: u32,
    pub(crate) packets_per_second: u32,
    /// Estimated link capacity, in packets per second.
    pub(crate) capacity: u32,
    pub(crate) bytes_per_second: u32,
    pub(crate) full: bool,
}

/// Parsed packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Data(DataHeader),
    Control { timestamp: u32, destination: u32, control: Control<'a> },
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    bytes.get(at..at.checked_add(4)?)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Returns the destination socket id of a packet; 0 for the first packets of a handshake.
pub(crate) fn destination(bytes: &[u8]) -> Option<u32> {
    word(bytes, 3)
}

impl<'a> Packet<'a> {
    /// Parses a datagram. Returns `None` if it is not an SRT packet. The payload of a data packet starts at [`HEADER`].
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (first, second, timestamp, destination) =
            (word(bytes, 0)?, word(bytes, 1)?, word(bytes, 2)?, word(bytes, 3)?);
        let body = bytes.get(HEADER..)?;
        if first >> 31 == 0 {
            let key = KeyFlag::from_bits((second >> 27 & 3) as u8)?; // two bits
            let message = second & MAX_MESSAGE;
            let most = if message == 0 { MAX_REPAIR } else { MAX_PAYLOAD };
            if body.is_empty() || body.len() > most {
                return None;
            }
            return Some(Packet::Data(DataHeader {
                sequence: Sequence::new(first),
                key,
                retransmitted: second >> 26 & 1 == 1,
                message,
                timestamp,
                destination,
            }));
        }
        let kind = first >> 16 & 0x7fff;
        let subtype = first & 0xffff;
        let control = match (kind, subtype) {
            (0, _) => Control::Handshake(body),
            (1, _) => Control::KeepAlive,
            (2, _) => Control::Ack(Ack {
                number: second,
                next: word(body, 0)? & 0x7fff_ffff,
                rtt: word(body, 1).unwrap_or(0),
                rtt_variance: word(body, 2).unwrap_or(0),
                window: word(body, 3).unwrap_or(0),
                packets_per_second: word(body, 4).unwrap_or(0),
                capacity: word(body, 5).unwrap_or(0),
                bytes_per_second: word(body, 6).unwrap_or(0),
                full: body.len() >= 16,
            }),
            (3, _) => Control::Nak(parse_losses(body)?),
            (5, _) => Control::Shutdown,
            (6, _) => Control::AckAck(second),
            (7, _) => {
                Control::DropRequest { first: Sequence::new(word(body, 0)?), last: Sequence::new(word(body, 1)?) }
            }
            (8, _) => Control::PeerError,
            (0x7fff, 3) => Control::KeyRequest(body),
            (0x7fff, 4) => Control::KeyResponse(body),
            _ => Control::Other,
        };
        Some(Packet::Control { timestamp, destination, control })
    }
}

/// Parses a list of losses (appendix A): single numbers, and ranges whose first number has its highest bit set.
fn parse_losses(body: &[u8]) -> Option<Vec<(Sequence, Sequence)>> {
    let mut ranges = Vec::new();
    let mut index = 0;
    while let Some(first) = word(body, index) {
        if ranges.len() == MAX_RANGES {
            return None;
        }
        let last = if first >> 31 == 1 {
            index += 1;
            word(body, index)?
        } else {
            first
        };
        let first = Sequence::new(first);
        let last = Sequence::new(last);
        if first.distance(last) < 0 {
            return None;
        }
        ranges.push((first, last));
        index += 1;
    }
    Some(ranges)
}

/// Sets or clears the mark of a retransmission in the header of a data packet.
pub(crate) fn set_retransmitted(header: &mut [u8; HEADER], retransmitted: bool) {
    const MARK: u8 = 0x04;
    if retransmitted {
        header[4] |= MARK;
    } else {
        header[4] &= !MARK;
    }
}

impl DataHeader {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let key = u32::from(self.key.bits());
        // The packet is a whole message (both PP bits set), to be delivered in order.
        let second =
            0xc000_0000 | 1 << 29 | key << 27 | u32::from(self.retransmitted) << 26 | self.message & MAX_MESSAGE;
        header(self.sequence.number(), second, self.timestamp, self.destination)
    }
}

/// Returns the header of a repair packet, which is a data packet with the message number 0.
pub(crate) fn filter_header(sequence: Sequence, key: KeyFlag, timestamp: u32, destination: u32) -> [u8; HEADER] {
    header(sequence.number(), 0xc000_0000 | u32::from(key.bits()) << 27, timestamp, destination)
}

fn header(first: u32, second: u32, timestamp: u32, destination: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    for (place, value) in bytes.chunks_exact_mut(4).zip([first, second, timestamp, destination]) {
        place.copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Serializes a control packet.
pub(crate) fn write_control(control: &Control<'_>, timestamp: u32, destination: u32) -> Vec<u8> {
    let (kind, subtype, second) = match control {
        Control::Handshake(_) => (0, 0, 0),
        Control::KeepAlive => (1, 0, 0),
        Control::Ack(ack) => (2, 0, ack.number),
        Control::Nak(_) => (3, 0, 0),
        Control::Shutdown => (5, 0, 0),
        Control::AckAck(number) => (6, 0, *number),
        Control::DropRequest { .. } => (7, 0, 0),
        Control::PeerError | Control::Other => (8, 0, 0),
        Control::KeyRequest(_) => (0x7fff, 3, 0),
        Control::KeyResponse(_) => (0x7fff, 4, 0),
    };
    let mut bytes = header(0x8000_0000 | kind << 16 | subtype, second, timestamp, destination).to_vec();
    let mut put = |value: u32| bytes.extend(value.to_be_bytes());
    match control {
        Control::Handshake(body) | Control::KeyRequest(body) | Control::KeyResponse(body) => bytes.extend(*body),
        Control::Ack(ack) if ack.full => {
            let fields = [ack.next, ack.rtt, ack.rtt_variance, ack.window, ack.packets_per_second, ack.capacity];
            for field in fields {
                put(field);
            }
            put(ack.bytes_per_second);
        }
        Control::Ack(ack) => put(ack.next),
        Control::Nak(ranges) => {
            for (first, last) in ranges {
                if first == last {
                    put(first.number());
                } else {
                    put(first.number() | 0x8000_0000);
                    put(last.number());
                }
            }
        }
        Control::DropRequest { first, last } => {
            put(first.number());
            put(last.number());
        }
        // libsrt sends four bytes where there are no contents, and older versions expect them.
        _ => put(0),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn srt_packets_round_trip() {
        let data = DataHeader {
            sequence: Sequence::new(0x7fff_ffff),
            key: KeyFlag::Odd,
            retransmitted: true,
            message: 0x03ff_ffff,
            timestamp: 5,
            destination: 6,
        };
        let mut bytes = data.to_bytes().to_vec();
        assert_eq!(Packet::parse(&bytes), None, "no payload");
        bytes.push(1);
        assert_eq!(Packet::parse(&bytes), Some(Packet::Data(data)));
        let ack = Ack { number: 3, next: 9, rtt: 1, rtt_variance: 2, window: 4, full: true, ..Ack::default() };
        let s = Sequence::new;
        for control in [
            Control::KeepAlive,
            Control::Ack(ack),
            Control::Ack(Ack { next: 7, ..Ack::default() }),
            Control::Nak(vec![(s(1), s(1)), (s(0x7fff_fffe), s(3))]),
            Control::Shutdown,
            Control::AckAck(77),
            Control::DropRequest { first: s(3), last: s(5) },
            Control::KeyRequest(&[1, 2, 3, 4]),
        ] {
            let bytes = write_control(&control, 11, 22);
            assert_eq!(Packet::parse(&bytes), Some(Packet::Control { timestamp: 11, destination: 22, control }));
        }
    }

    proptest! {
        #[test]
        fn srt_packet_parser_accepts_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..9) {
            let _ = Packet::parse(&bytes);
            if let [first, second, ..] = &mut bytes[..] {
                *first = 0x80;
                *second = kind;
                let _ = Packet::parse(&bytes);
            }
        }
    }
}
