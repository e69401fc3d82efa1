//! RTP packets of a link over SRT: the objects of a flow in packets of bounded size, and back.
//!
//! Each SRT message is one RTP packet (RFC 3550) with a sequence number of its own, so that a receiver sees what is
//! missing whatever came between. Datagrams of whole MPEG-TS packets go as payloads of RFC 2250, everything else as the
//! objects of `docs/moq-wire.md`, in as many packets as it takes.
//!
//! Payloads are masked: an SRT source looks for MPEG-TS in whatever comes, and would take the transport packets within RTP
//! for a damaged stream, and one of tables and null packets for silence.

use crate::wire::{
    Carriage, Cut, Cutter, DecodedObject, FrameError, Headers, MAX_OBJECT, ObjectBuilder, decode, is_transport_stream,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::time::{Duration, Instant};
use streamlink_core::{MediaFamily, Packet, PacketBatch};

/// Largest RTP packet, in bytes. With the tag of AES-GCM and the headers of SRT, UDP and IPv6 it fits into 1500 bytes.
pub(super) const MAX_PACKET: usize = 1400;
/// Length of the RTP header: no CSRC, no extension.
const HEADER: usize = 12;
/// Maximum payload of a packet, in bytes.
const MAX_PAYLOAD: usize = MAX_PACKET - HEADER;
/// First byte of the header: version 2.
const VERSION_2: u8 = 0x80;
/// Marker bit: the last packet of an object.
const MARKER: u8 = 0x80;
/// Payload type of MPEG-TS (RFC 3551).
const TRANSPORT_STREAM: u8 = 33;
/// Payload type of a packet that begins an object.
const BEGIN: u8 = 96;
/// Payload type of a packet that goes on with an object.
const CONTINUE: u8 = 97;
/// Payload type of a packet without media, which says that the link lives.
const ALIVE: u8 = 98;
/// Size of the buffers out of which packets are cut, in bytes.
const CHUNK: usize = 64 << 10;

/// Makes the RTP packets of a flow.
pub(super) struct Packer {
    ssrc: u32,
    sequence: u16,
    /// Time at which the RTP timestamps begin.
    began: Instant,
    /// Finds the key frames of RTMP, and the sequence numbers of RTP.
    cutter: Option<Cutter>,
    headers: Headers,
    builder: ObjectBuilder,
    builder_time: u32,
    buffer: BytesMut,
    /// Packets of a kind or a size that cannot be carried, so far.
    pub(super) left_out: u64,
}

impl Packer {
    pub(super) fn new(family: MediaFamily, ssrc: u32, began: Instant) -> Self {
        Self {
            ssrc,
            sequence: 0,
            began,
            cutter: matches!(family, MediaFamily::Rtmp | MediaFamily::Rtp).then(|| Cutter::new(family, 0)),
            headers: Headers::default(),
            builder: ObjectBuilder::default(),
            builder_time: 0,
            buffer: BytesMut::new(),
            left_out: 0,
        }
    }

    /// Packs a batch of the flow.
    pub(super) fn pack(&mut self, batch: &PacketBatch, out: &mut Vec<Bytes>) {
        let preamble = batch.preamble();
        for header in preamble.unwrap_or_default() {
            self.headers.observe(header);
        }
        for (index, packet) in batch.iter().enumerate() {
            self.push(packet, index == 0 && preamble.is_some(), out);
        }
        self.flush(out);
    }

    fn push(&mut self, packet: &Packet, is_entry_point: bool, out: &mut Vec<Bytes>) {
        let age = packet.arrival().saturating_duration_since(self.began);
        let time = timestamp(age);
        let size = packet.data().len();
        let mut follows = None;
        let mut begins = false;
        if let Some(cutter) = &mut self.cutter {
            follows = cutter.last_sequence();
            let micros = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
            begins = matches!(cutter.next(packet, micros, is_entry_point), Cut::Begin(_));
            cutter.published(size);
        }
        if begins && packet.family() == MediaFamily::Rtmp {
            // Whoever joins here has not seen the headers that came before.
            self.flush(out);
            self.builder_time = time;
            for header in self.headers.iter() {
                self.builder.push(header, true, None);
            }
        }
        self.headers.observe(packet);
        if Carriage::of(packet) == Carriage::TransportStream && size <= MAX_PAYLOAD {
            self.flush(out);
            self.write(TRANSPORT_STREAM, time, packet.data(), out);
            return;
        }
        if self.builder.len_with(size) > MAX_PAYLOAD {
            self.flush(out);
        }
        if self.builder.is_empty() {
            self.builder_time = time;
        }
        if !self.builder.push(packet, false, follows) {
            self.left_out += 1;
        }
    }

    /// Makes a packet that says that the link lives.
    pub(super) fn alive(&mut self, now: Instant, out: &mut Vec<Bytes>) {
        let time = timestamp(now.saturating_duration_since(self.began));
        self.write(ALIVE, time, &[], out);
    }

    /// Writes the object that is being built.
    fn flush(&mut self, out: &mut Vec<Bytes>) {
        if self.builder.is_empty() {
            return;
        }
        let object = self.builder.take();
        let mut kind = BEGIN;
        let mut pieces = object.chunks(MAX_PAYLOAD).peekable();
        while let Some(piece) = pieces.next() {
            let marker = if pieces.peek().is_none() { MARKER } else { 0 };
            self.write(kind | marker, self.builder_time, piece, out);
            kind = CONTINUE;
        }
    }

    fn write(&mut self, kind: u8, time: u32, payload: &[u8], out: &mut Vec<Bytes>) {
        let size = HEADER + payload.len();
        if self.buffer.capacity() < size {
            self.buffer.reserve(CHUNK.max(size));
        }
        self.buffer.put_u8(VERSION_2);
        self.buffer.put_u8(kind);
        self.buffer.put_u16(self.sequence);
        self.buffer.put_u32(time);
        self.buffer.put_u32(self.ssrc);
        self.buffer.put_slice(payload);
        if let Some(masked) = self.buffer.get_mut(HEADER..) {
            mask(masked, self.sequence);
        }
        self.sequence = self.sequence.wrapping_add(1);
        out.push(self.buffer.split().freeze());
    }
}

/// Masks a payload, or takes the mask away. No byte stays the same at any distance at which transport packets lie.
fn mask(payload: &mut [u8], sequence: u16) {
    let [_, low] = sequence.wrapping_mul(53).to_be_bytes();
    let mut key = low;
    for byte in payload {
        *byte ^= key;
        key = key.wrapping_add(157);
    }
}

/// Returns an RTP timestamp, in units of 1/90000 s.
fn timestamp(age: Duration) -> u32 {
    let ticks = age.as_micros() * 9 / 100;
    u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or_default()
}

/// Counts of what came over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnpackerCounts {
    /// Packets that did not come.
    pub(super) lost: u64,
    /// Packets, or objects, that are none of a link.
    pub(super) malformed: u64,
}

/// Makes objects of the RTP packets of a link, which come in their order. What misses a packet is left out.
#[derive(Debug)]
pub(super) struct Unpacker {
    family: MediaFamily,
    /// Sender and the sequence number of its next packet.
    expected: Option<(u32, u16)>,
    /// Object that is not whole yet.
    partial: Option<BytesMut>,
    pub(super) counts: UnpackerCounts,
}

impl Unpacker {
    pub(super) fn new(family: MediaFamily) -> Self {
        Self { family, expected: None, partial: None, counts: UnpackerCounts::default() }
    }

    /// Takes a packet. Returns an object that is whole with it.
    pub(super) fn take(&mut self, packet: &Bytes) -> Option<DecodedObject> {
        let taken = self.read(packet);
        if taken.is_err() {
            self.counts.malformed += 1;
            self.partial = None;
        }
        taken.ok().flatten()
    }

    fn read(&mut self, packet: &Bytes) -> Result<Option<DecodedObject>, FrameError> {
        if packet.len() < HEADER || packet.first() != Some(&VERSION_2) {
            return Err(FrameError::Rtp);
        }
        let mut payload = BytesMut::from(&packet[..]);
        payload.advance(1);
        let kind = payload.get_u8();
        let sequence = payload.get_u16();
        payload.advance(4); // the timestamp is for people
        let ssrc = payload.get_u32();
        self.follow(ssrc, sequence);
        mask(&mut payload, sequence);
        let payload = payload.freeze();
        let is_last = kind & MARKER != 0;
        match kind & !MARKER {
            TRANSPORT_STREAM => {
                self.partial = None;
                if !is_transport_stream(&payload) {
                    return Err(FrameError::TransportStream);
                }
                decode(&payload, self.family).map(Some)
            }
            BEGIN if is_last => {
                self.partial = None;
                decode(&payload, self.family).map(Some)
            }
            BEGIN => {
                self.partial = Some(BytesMut::from(&payload[..]));
                Ok(None)
            }
            CONTINUE => {
                // The beginning is missing, or came before this receiver.
                let Some(mut object) = self.partial.take() else { return Ok(None) };
                if object.len() + payload.len() > MAX_OBJECT {
                    return Err(FrameError::TooLarge);
                }
                object.put_slice(&payload);
                if is_last {
                    return decode(&object.freeze(), self.family).map(Some);
                }
                self.partial = Some(object);
                Ok(None)
            }
            ALIVE => Ok(None),
            other => Err(FrameError::Kind(other)),
        }
    }

    /// Notes a packet's number, and what is missing before it.
    fn follow(&mut self, ssrc: u32, sequence: u16) {
        let expected = self.expected.replace((ssrc, sequence.wrapping_add(1)));
        match expected {
            Some((sender, next)) if sender == ssrc => {
                let missing = sequence.wrapping_sub(next);
                if missing != 0 {
                    self.partial = None;
                }
                // Beyond half of the range the numbers went back, of which nothing is known.
                if missing < 0x8000 {
                    self.counts.lost += u64::from(missing);
                }
            }
            _ => self.partial = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MediaPacket;
    use proptest::prelude::*;
    use streamlink_core::RtmpKind;

    fn pack(family: MediaFamily, packets: &[Packet]) -> Vec<Bytes> {
        let mut packer = Packer::new(family, 7, Instant::now());
        let mut out = Vec::new();
        for packet in packets {
            packer.push(packet, false, &mut out);
        }
        packer.flush(&mut out);
        assert_eq!(packer.left_out, 0);
        out
    }

    fn unpack(unpacker: &mut Unpacker, packets: &[Bytes]) -> Vec<MediaPacket> {
        packets.iter().filter_map(|packet| unpacker.take(packet)).flat_map(|object| object.packets).collect()
    }

    fn transport_stream(packets: usize) -> Packet {
        let mut data = vec![0xaa; packets * 188];
        for packet in data.chunks_mut(188) {
            packet[0] = 0x47;
        }
        Packet::datagram(data, Instant::now())
    }

    fn rtp(sequence: u16, size: usize) -> Packet {
        let mut data = vec![0x80, 96];
        data.extend(sequence.to_be_bytes());
        data.resize(12 + size, 5);
        Packet::rtp(data, Instant::now())
    }

    #[test]
    fn srt_link_carries_packets_of_all_families_and_sizes_byte_for_byte() {
        let now = Instant::now();
        let datagrams: Vec<Packet> = [1, 10, 1316, 1400, 5000]
            .map(|size| Packet::datagram(vec![3; size], now))
            .into_iter()
            .chain([transport_stream(7), transport_stream(1), transport_stream(20)])
            .collect();
        let rtp: Vec<Packet> = (0..4).flat_map(|n| [rtp(2 * n, 1316), rtp(2 * n + 1, 60)]).collect();
        let rtmp = [
            Packet::rtmp(RtmpKind::Video, 1, vec![0x27; 300_000], now),
            Packet::rtmp(RtmpKind::Audio, u32::MAX, vec![], now),
        ];
        let rtsp: Vec<Packet> = (0..3).map(|track| Packet::rtsp(track, rtp[0].data().clone(), now)).collect();
        for packets in [&datagrams[..], &rtp, &rtmp, &rtsp] {
            let family = packets[0].family();
            let sent = pack(family, packets);
            assert!(sent.iter().all(|packet| packet.len() <= MAX_PACKET), "{family}");
            let mut unpacker = Unpacker::new(family);
            let got: Vec<Packet> =
                unpack(&mut unpacker, &sent).into_iter().map(|packet| packet.into_packet(now)).collect();
            assert_eq!(got.len(), packets.len(), "{family}");
            for (got, sent) in got.iter().zip(packets) {
                assert_eq!((got.data(), got.rtmp_message()), (sent.data(), sent.rtmp_message()), "{family}");
                assert_eq!(got.rtsp_track(), sent.rtsp_track());
            }
            assert_eq!(unpacker.counts, UnpackerCounts::default(), "{family}");
        }
    }

    #[test]
    fn srt_link_packets_of_mpeg_ts_are_those_of_rfc_2250() {
        let packet = transport_stream(7);
        let sent = pack(MediaFamily::Datagrams, std::slice::from_ref(&packet));
        assert_eq!(sent[0][..4], [0x80, 33, 0, 0]);
        let mut payload = sent[0][12..].to_vec();
        mask(&mut payload, 0);
        assert_eq!(payload, packet.data()[..]);
    }

    #[test]
    fn srt_link_packets_do_not_look_like_mpeg_ts() {
        let packets = [transport_stream(7), Packet::datagram(vec![0x47; 1300], Instant::now()), transport_stream(40)];
        for packet in pack(MediaFamily::Datagrams, &packets) {
            for stride in [188, 192, 204] {
                for start in 0..stride {
                    let bytes = packet.iter().skip(start).step_by(stride);
                    let in_sync = bytes.clone().zip(bytes.skip(1)).filter(|pair| *pair == (&0x47, &0x47)).count();
                    assert_eq!(in_sync, 0, "from {start} on, {stride} bytes apart");
                }
            }
        }
    }

    #[test]
    fn srt_link_leaves_out_objects_of_which_a_packet_is_missing() {
        let packets = [rtp(1, 5000), rtp(2, 100), rtp(3, 5000)];
        let sent = pack(MediaFamily::Rtp, &packets);
        for missing in 0..sent.len() {
            let mut unpacker = Unpacker::new(MediaFamily::Rtp);
            let some: Vec<Bytes> =
                sent.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, packet)| packet.clone()).collect();
            let got = unpack(&mut unpacker, &some);
            assert_eq!(got.len(), 2, "without packet {missing}");
            assert!(got.iter().all(|got| packets.iter().any(|packet| *packet.data() == got.data)));
            // Nobody knows of the first and the last packet that they are missing.
            let is_seen = missing != 0 && missing + 1 != sent.len();
            assert_eq!(unpacker.counts, UnpackerCounts { lost: u64::from(is_seen), malformed: 0 });
        }
    }

    #[test]
    fn srt_link_begins_anew_with_another_sender() {
        let first = pack(MediaFamily::Rtp, &[rtp(1, 5000)]);
        let mut packer = Packer::new(MediaFamily::Rtp, 8, Instant::now());
        let mut second = Vec::new();
        packer.alive(Instant::now(), &mut second);
        packer.push(&rtp(2, 10), false, &mut second);
        packer.flush(&mut second);
        let mut unpacker = Unpacker::new(MediaFamily::Rtp);
        assert!(unpack(&mut unpacker, &first[..2]).is_empty());
        assert_eq!(unpack(&mut unpacker, &second).len(), 1);
        assert_eq!(unpacker.counts, UnpackerCounts::default());
    }

    #[test]
    fn srt_link_repeats_the_headers_of_rtmp_at_key_frames() {
        let now = Instant::now();
        let config = Packet::rtmp(RtmpKind::Video, 0, vec![0x17, 0, 0, 0, 0, 1], now);
        let key = Packet::rtmp(RtmpKind::Video, 40, vec![0x17, 1, 0, 0, 0, 2], now);
        let frame = Packet::rtmp(RtmpKind::Video, 80, vec![0x27, 1, 0, 0, 0, 3], now);
        let sent = pack(MediaFamily::Rtmp, &[config.clone(), frame.clone(), key.clone(), frame]);
        let got = unpack(&mut Unpacker::new(MediaFamily::Rtmp), &sent);
        let kept: Vec<_> = got.iter().map(|packet| (packet.is_repeated, packet.data.clone())).collect();
        let place = kept.iter().position(|(_, data)| data == key.data()).expect("the key frame");
        assert_eq!(kept[place - 1], (true, config.data().clone()));
    }

    proptest! {
        #[test]
        fn srt_link_reads_hostile_packets(packets in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..64), 0..50)) {
            for family in [MediaFamily::Datagrams, MediaFamily::Rtmp] {
                let mut unpacker = Unpacker::new(family);
                for packet in &packets {
                    let mut packet = packet.clone();
                    if let Some(first) = packet.first_mut() {
                        *first = VERSION_2;
                    }
                    if let Some(kind) = packet.get_mut(1) {
                        *kind = [33, 96, 97, 224, 225, 98][usize::from(*kind) % 6];
                    }
                    unpacker.take(&packet.into());
                }
            }
        }
    }
}
