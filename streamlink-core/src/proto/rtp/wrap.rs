//! MPEG-TS without RTP: datagrams are wrapped into RTP packets of payload type 33 (RFC 2250), and unwrapped again.
//!
//! A datagram of whole transport packets becomes one RTP packet with the same bytes. Where datagrams end within transport
//! packets, or these have parity bytes or times beside them, the whole packets of 188 bytes are sent on, and the problem
//! is returned.

use super::timestamps::Timestamps;
use crate::media::{
    Packet, PayloadProblem,
    rtp::Header,
    ts::{Framing, sync::PacketSync},
};
use bytes::{BufMut, Bytes, BytesMut};
use std::time::Instant;

/// Payload type of MPEG-TS (RFC 3551 section 6).
const MPEG_TS: u8 = 33;
/// Length of a transport packet, in bytes.
const PACKET: usize = 188;
/// Maximum number of transport packets of one RTP packet that is put together.
const GROUP: usize = 7;
/// Length of the header of RTP packets.
pub(crate) const HEADER: usize = 12;
/// Memory that is allocated at once for wrapped packets, in bytes.
const BLOCK: usize = 64 << 10;
/// Number of datagrams without whole transport packets after which a stream counts as lost.
const MAX_DAMAGED: u8 = 3;

/// Contents of a datagram at a source of MPEG-TS without RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Transport packets, or parts of them.
    TransportPackets,
    /// An RTP packet with MPEG-TS.
    Rtp(Header),
    /// Something else.
    Foreign(PayloadProblem),
}

impl Contents {
    /// Returns the contents of a datagram by its bytes. A transport packet, which begins with 0x47, is never RTP; the
    /// middle of one may look like it, also before other transport packets.
    fn of(datagram: &[u8]) -> Self {
        let Ok(header) = Header::parse(datagram) else { return Self::TransportPackets };
        let payload = datagram.get(header.payload_start..header.payload_end).unwrap_or_default();
        let begins_whole = Framing::detect(payload).is_some_and(|framing| framing.offset <= 4) || is_whole(payload);
        if header.is_mpeg_ts() && begins_whole {
            Self::Rtp(header)
        } else if Framing::detect(datagram).is_none() {
            Self::Foreign(PayloadProblem::PayloadType(header.payload_type))
        } else {
            Self::TransportPackets
        }
    }
}

/// Returns the MPEG-TS of an RTP packet; empty if it carries none, as a keep-alive.
///
/// # Errors
/// When the packet carries something else.
pub(crate) fn unwrap(packet: &[u8]) -> Result<&[u8], PayloadProblem> {
    let header = Header::parse(packet).map_err(|_| PayloadProblem::NotTransportStream)?;
    payload_of(packet, &header)
}

fn payload_of<'a>(packet: &'a [u8], header: &Header) -> Result<&'a [u8], PayloadProblem> {
    if !header.is_mpeg_ts() {
        return Err(PayloadProblem::PayloadType(header.payload_type));
    }
    let payload = packet.get(header.payload_start..header.payload_end).unwrap_or_default();
    if payload.is_empty() || is_whole(payload) || Framing::detect(payload).is_some() {
        Ok(payload)
    } else {
        Err(PayloadProblem::NotTransportStream)
    }
}

/// Returns whether a datagram consists of whole transport packets of 188 bytes. A damaged sync byte in between does not
/// count.
fn is_whole(datagram: &[u8]) -> bool {
    let count = datagram.len() / PACKET;
    let synced = datagram.iter().step_by(PACKET).filter(|byte| **byte == 0x47).count();
    count > 0 && datagram.len().is_multiple_of(PACKET) && 2 * synced > count
}

/// Wraps the datagrams of one source.
#[derive(Debug)]
pub(crate) struct Wrapper {
    ssrc: u32,
    sequence: u16,
    timestamps: Timestamps,
    /// Cutter of streams whose datagrams do not consist of whole packets.
    cutter: PacketSync,
    /// Set while such a stream goes on.
    is_cut: bool,
    damaged: u8,
    memory: BytesMut,
}

impl Wrapper {
    /// Creates a wrapper whose packets begin with these numbers.
    pub(crate) fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        Self {
            ssrc,
            sequence,
            timestamps: Timestamps::new(timestamp),
            cutter: PacketSync::default(),
            is_cut: false,
            damaged: 0,
            memory: BytesMut::new(),
        }
    }

    /// Returns the contents of a datagram. Amid a stream whose datagrams are cut, all are taken for parts of it.
    pub(crate) fn contents(&self, datagram: &[u8]) -> Contents {
        if self.is_cut { Contents::TransportPackets } else { Contents::of(datagram) }
    }

    /// Forgets the rest of a stream that has ended. The numbers go on.
    pub(crate) fn reset(&mut self) {
        self.cutter = PacketSync::default();
        self.is_cut = false;
        self.damaged = 0;
    }

    /// Wraps a datagram with transport packets, and appends the packets to `out`. Returns the problem of the datagram, if
    /// it has one.
    pub(crate) fn push(&mut self, datagram: &[u8], arrival: Instant, out: &mut Vec<Packet>) -> Option<PayloadProblem> {
        if is_whole(datagram) {
            if self.is_cut {
                self.reset();
            }
            let timestamp = self.timestamps.of(datagram.chunks_exact(PACKET), datagram.len(), PACKET, arrival);
            let packet = self.packet(datagram, timestamp);
            out.push(Packet::rtp(packet, arrival));
            return None;
        }
        self.push_cut(datagram, arrival, out)
    }

    fn push_cut(&mut self, datagram: &[u8], arrival: Instant, out: &mut Vec<Packet>) -> Option<PayloadProblem> {
        // Without two sync bytes at their distance, only the place in the stream tells that these are transport packets.
        if Framing::detect(datagram).is_some() {
            self.damaged = 0;
        } else {
            self.damaged = self.damaged.saturating_add(1);
            if !self.is_cut || self.damaged > MAX_DAMAGED {
                self.reset();
                return Some(PayloadProblem::NotTransportStream);
            }
        }
        self.is_cut = true;
        let mut whole = Vec::with_capacity(datagram.len() + PACKET);
        self.cutter.feed(datagram, |packet, _| whole.extend_from_slice(packet));
        for group in whole.chunks(GROUP * PACKET) {
            let timestamp = self.timestamps.of(group.chunks_exact(PACKET), group.len(), PACKET, arrival);
            let packet = self.packet(group, timestamp);
            out.push(Packet::rtp(packet, arrival));
        }
        match self.cutter.stride() {
            Some(stride) if stride != PACKET => Some(PayloadProblem::PacketSize(stride as u16)), // 192 or 204
            _ => Some(PayloadProblem::Unaligned),
        }
    }

    /// Returns the RTP packet of a payload. Packets share blocks of memory, so that few are allocated.
    fn packet(&mut self, payload: &[u8], timestamp: u32) -> Bytes {
        let length = HEADER + payload.len();
        if self.memory.capacity() < length {
            self.memory.reserve(BLOCK.max(length));
        }
        self.memory.put_u8(0x80);
        self.memory.put_u8(MPEG_TS);
        self.memory.put_u16(self.sequence);
        self.memory.put_u32(timestamp);
        self.memory.put_u32(self.ssrc);
        self.memory.put_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.memory.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packets(count: u8) -> Vec<Vec<u8>> {
        let packet = |n: u8| {
            let mut bytes = vec![0x47, 1, n, 0x10];
            bytes.resize(PACKET, n);
            bytes
        };
        (0..count).map(packet).collect()
    }

    fn wrap(datagrams: &[Vec<u8>]) -> (Vec<u8>, Vec<Option<PayloadProblem>>, Vec<Packet>) {
        let mut wrapper = Wrapper::new(7, u16::MAX, 0);
        let mut out = Vec::new();
        let found = datagrams.iter().map(|datagram| wrapper.push(datagram, Instant::now(), &mut out)).collect();
        let stream = out.iter().flat_map(|packet| unwrap(packet.data()).unwrap().to_vec()).collect();
        (stream, found, out)
    }

    #[test]
    fn ts_datagrams_are_wrapped_and_unwrapped_byte_for_byte() {
        let datagrams: Vec<Vec<u8>> = packets(60).chunks(7).map(<[_]>::concat).collect();
        let (stream, found, wrapped) = wrap(&datagrams);
        assert_eq!(stream, datagrams.concat());
        assert!(found.iter().all(Option::is_none));
        let numbers: Vec<(u16, u32, u8)> = wrapped
            .iter()
            .map(|packet| Header::parse(packet.data()).unwrap())
            .map(|header| (header.sequence, header.ssrc, header.payload_type))
            .collect();
        assert_eq!(numbers[..3], [(u16::MAX, 7, 33), (0, 7, 33), (1, 7, 33)]);
        let payloads: Vec<Vec<u8>> = wrapped.iter().map(|packet| unwrap(packet.data()).unwrap().to_vec()).collect();
        assert_eq!(payloads, datagrams, "one packet a datagram");
    }

    #[test]
    fn ts_damaged_sync_bytes_pass() {
        let mut datagram = packets(7).concat();
        datagram[188] = 0;
        let (stream, found, _) = wrap(std::slice::from_ref(&datagram));
        assert_eq!((stream, found), (datagram, vec![None]));
    }

    #[test]
    fn ts_cut_datagrams_are_put_together() {
        let stream = packets(60).concat();
        for size in [1400, 1000, 4096, 1317] {
            let datagrams: Vec<Vec<u8>> = stream.chunks(size).map(<[_]>::to_vec).collect();
            let (whole, found, wrapped) = wrap(&datagrams);
            assert_eq!(whole, stream, "{size}");
            assert!(found.contains(&Some(PayloadProblem::Unaligned)), "{size}: {found:?}");
            assert!(wrapped.iter().all(|packet| packet.data().len() <= HEADER + GROUP * PACKET));
        }
    }

    #[test]
    fn ts_cut_datagrams_that_look_like_rtp_are_no_rtp() {
        // The end of a packet reads as an RTP header of payload type 33, before whole packets and before a cut one.
        let header = [0x80, 33, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
        for behind in [0, 60] {
            let mut stream = packets(40).concat();
            let cut = 188 * 10 - 12 - behind;
            stream[cut..cut + 12].copy_from_slice(&header);
            let datagrams = [stream[..cut].to_vec(), stream[cut..cut + 1400].to_vec(), stream[cut + 1400..].to_vec()];
            assert_eq!(behind == 0, matches!(Contents::of(&datagrams[1]), Contents::Rtp(_)));
            let mut wrapper = Wrapper::new(7, 0, 0);
            let mut out = Vec::new();
            for datagram in &datagrams {
                assert_eq!(wrapper.contents(datagram), Contents::TransportPackets);
                wrapper.push(datagram, Instant::now(), &mut out);
            }
            let whole: Vec<u8> = out.iter().flat_map(|packet| unwrap(packet.data()).unwrap().to_vec()).collect();
            assert!(whole == stream, "{behind}");
        }
    }

    #[test]
    fn ts_packets_with_parity_and_times_are_bared() {
        let packets = packets(60);
        let parity: Vec<Vec<u8>> =
            packets.chunks(5).map(|p| p.iter().flat_map(|p| [&p[..], &[9; 16]].concat()).collect()).collect();
        let timed: Vec<Vec<u8>> =
            packets.chunks(7).map(|p| p.iter().flat_map(|p| [&[9, 8, 7, 6][..], p].concat()).collect()).collect();
        for (size, datagrams) in [(204, parity), (192, timed)] {
            let (whole, found, _) = wrap(&datagrams);
            assert_eq!(whole, packets.concat(), "{size}");
            assert!(found.iter().all(|found| *found == Some(PayloadProblem::PacketSize(size))), "{found:?}");
        }
    }

    #[test]
    fn ts_of_other_contents_is_left_out() {
        let (stream, found, _) = wrap(&[vec![1; 1316], vec![], b"hello".to_vec(), packets(7).concat(), vec![2; 1400]]);
        assert_eq!(stream, packets(7).concat());
        let foreign = Some(PayloadProblem::NotTransportStream);
        assert_eq!(found, [foreign, foreign, foreign, None, foreign]);
        // A stream of cut packets does not turn garbage into packets for long.
        let mut datagrams: Vec<Vec<u8>> = packets(60).concat().chunks(1400).map(<[_]>::to_vec).collect();
        datagrams.extend(vec![vec![3; 1400]; 5]);
        assert_eq!(wrap(&datagrams).1.last(), Some(&foreign));
    }

    #[test]
    fn rtp_among_ts_datagrams_is_told_by_its_payload() {
        let whole = packets(7).concat();
        let rtp = |payload_type: u8, payload: &[u8]| {
            [&[0x80, payload_type, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], payload].concat()
        };
        assert_eq!(Contents::of(&whole), Contents::TransportPackets);
        assert!(matches!(Contents::of(&rtp(33, &whole)), Contents::Rtp(header) if header.sequence == 1));
        assert_eq!(Contents::of(&rtp(96, &[5; 500])), Contents::Foreign(PayloadProblem::PayloadType(96)));
        assert_eq!(Contents::of(&[0x80]), Contents::TransportPackets, "left to the wrapper, which refuses it");
        assert_eq!(unwrap(&rtp(96, &whole)), Err(PayloadProblem::PayloadType(96)));
        assert_eq!(unwrap(&rtp(33, &[5; 500])), Err(PayloadProblem::NotTransportStream));
        assert_eq!(unwrap(&rtp(33, &[])), Ok(&[][..]));
        let parity: Vec<u8> = packets(5).iter().flat_map(|p| [&p[..], &[9; 16]].concat()).collect();
        assert_eq!(unwrap(&rtp(33, &parity)), Ok(&parity[..]));
    }

    proptest! {
        #[test]
        fn ts_wrapper_survives_any_datagrams(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20),
            sync in any::<bool>(),
        ) {
            let mut wrapper = Wrapper::new(7, 0, 0);
            let mut out = Vec::new();
            for mut datagram in datagrams {
                for at in (0..datagram.len()).step_by(PACKET).filter(|_| sync) {
                    datagram[at] = 0x47;
                }
                let _ = Contents::of(&datagram);
                wrapper.push(&datagram, Instant::now(), &mut out);
            }
            for packet in out {
                // A single packet with a damaged sync byte is told from nothing.
                prop_assert!(unwrap(packet.data()).is_ok() || packet.data().len() < HEADER + 3 * PACKET);
            }
        }
    }
}
