//! Targets for datagrams of media: RTP with its merge and its FEC, RIST, and MPEG-TS over UDP.

use super::{datagrams, pieces};
use crate::{
    media::{MediaFamily, Packet as MediaPacket, TsMonitor, rtp::Header},
    proto::{
        rist::{RistReceiver, RistSender},
        rtp::{FecDecoder, FecEncoder, Pacer, Placed, Receiver, Wrapper, unwrap},
    },
    router::{FailoverConfig, Limits, MediaBatch, Ring, SourceGroup, SwitchPolicy},
    test_rng::TestRng,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) fn feed_rtp(input: &[u8], rng: &mut TestRng) {
    let start = Instant::now();
    let merge = rng.below(2) == 0;
    let turns = if merge { SwitchPolicy::Merge(Duration::from_millis(200)) } else { SwitchPolicy::Stay };
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
    let terms = FailoverConfig { turns, loss_threshold: Duration::from_millis(100) };
    let group = SourceGroup::new(ring, Arc::default(), terms, MediaFamily::Rtp, 2);
    let mut receivers = [50, 0].map(|ms| Receiver::new(Duration::from_millis(ms)));
    let mut delivery = MediaBatch::default();
    let mut monitor = TsMonitor::new();
    let mut now = start;
    let packets = datagrams(input);
    // The packets are repeated so that sequence numbers wrap around.
    for _ in 0..4 {
        for data in &packets {
            now += Duration::from_millis(rng.below(30) as u64);
            let Ok(header) = Header::parse(data) else { continue };
            let mut altered = data.to_vec();
            altered[3] = altered[3].wrapping_add(rng.below(3) as u8);
            let source = rng.below(2);
            let packet = MediaPacket::rtp(altered, now);
            let header = Header::parse(packet.data()).unwrap_or(header);
            monitor.observe(&packet.data()[header.payload_start.min(packet.data().len())..], now);
            receivers[source].handle(&header, packet, &mut delivery.packets);
            receivers[source].handle_timeout(now, &mut delivery.packets);
            group.offer(source, &mut delivery, now);
            group.handle_timeout(now);
        }
        group.lose(rng.below(2), now);
    }
    group.finish(now);
}

/// Feeds FEC packets of the packets of an input, and the packets themselves, altered, to the decoder.
pub(super) fn feed_fec(input: &[u8], rng: &mut TestRng) {
    let now = Instant::now();
    let columns = 1 + rng.below(20) as u8;
    let rows = 1 + rng.below(20) as u8;
    let mut encoder = FecEncoder::new(columns, rows, rng.below(2) == 0, [0, 0]);
    let mut decoder = FecDecoder::new();
    let mut fec = Vec::new();
    let mut out = Vec::new();
    let packets = datagrams(input);
    for number in 0..80u16 {
        for data in packets.iter().take(20) {
            let mut altered = data.to_vec();
            if let Some((header, payload)) = altered.split_first_chunk_mut::<12>() {
                header[2..4].copy_from_slice(&number.wrapping_mul(rng.below(3) as u16).to_be_bytes());
                encoder.push(header, payload, &mut fec);
            }
            if let Ok(header) = Header::parse(&altered)
                && rng.below(8) > 0
            {
                decoder.media(&header, &MediaPacket::rtp(altered, now), &mut out);
            }
            // Anything may come to the port of the FEC packets.
            decoder.fec(data, now, &mut out);
        }
        for mut packet in fec.drain(..) {
            if let Some(byte) = packet.bytes.get_mut(12 + rng.below(64)).filter(|_| rng.below(3) == 0) {
                *byte ^= 1 << rng.below(8);
            }
            decoder.fec(&packet.bytes, now, &mut out);
        }
        let _ = decoder.wait(now);
        out.clear();
    }
}

/// Feeds an input to both ends of RIST as media and as RTCP, which is given the look of RIST's packets.
pub(super) fn feed_rist(input: &[u8], rng: &mut TestRng) {
    let start = Instant::now();
    let latency = Duration::from_millis(100);
    let mut sender = RistSender::new(latency, 0, start);
    let mut receiver = RistReceiver::new(9, latency, start);
    let mut now = start;
    let packets = datagrams(input);
    for number in 0..100u16 {
        for data in packets.iter().take(40) {
            now += Duration::from_millis(rng.below(20) as u64);
            let mut altered = data.to_vec();
            if let Some(header) = altered.first_chunk_mut::<12>() {
                header[2..4].copy_from_slice(&number.wrapping_mul(rng.below(5) as u16).to_be_bytes());
                header[11] ^= rng.below(2) as u8;
            }
            let packet = MediaPacket::rtp(altered.clone(), now);
            sender.sent(&packet, now);
            if let Ok(header) = Header::parse(packet.data()) {
                let _ = receiver.media(&header, now);
            }
            if let Some(header) = altered.first_chunk_mut::<12>() {
                header[0] = 0x80 | header[0] & 0x1f;
                header[1] = 200 + header[1] % 8;
                header[2] = 0;
                header[3] %= 64;
                if rng.below(2) == 0 {
                    header[8..12].copy_from_slice(b"RIST");
                }
            }
            assert!(sender.rtcp(&altered, now).repeats.len() <= 1024);
            receiver.rtcp(&altered, now);
            for compound in sender.poll(now) {
                receiver.rtcp(&compound, now);
            }
            for compound in receiver.poll(now) {
                let _ = sender.rtcp(&compound, now);
            }
            let _ = (sender.next_timeout(), receiver.next_timeout());
        }
    }
}

/// Feeds datagrams of all sizes to a source of MPEG-TS without RTP, and its packets to an output that is paced.
pub(super) fn feed_udp(input: &[u8], rng: &mut TestRng) {
    let start = Instant::now();
    let mut now = start;
    let mut wrapper = Wrapper::new(7, 0, 0);
    let mut pacer = Pacer::default();
    let mut place = 0;
    for piece in pieces(input, rng) {
        now += Duration::from_millis(rng.below(50) as u64);
        let mut out = Vec::new();
        let _ = wrapper.contents(piece);
        wrapper.push(piece, now, &mut out);
        for packet in out {
            let payload = unwrap(packet.data()).unwrap_or_default();
            pacer.push(Placed { packet: packet.clone(), place }, payload, now);
            place += 1;
        }
        while pacer.pop(now).is_some() {}
        let _ = pacer.next_timeout();
    }
    pacer.flush(now);
}
