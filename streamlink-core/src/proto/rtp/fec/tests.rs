use super::*;
use crate::{
    media::{Packet, rtp::Header},
    test_rng::TestRng,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const SSRC: u32 = 0x5eed;

/// A packet whose length, marker and contents follow from its number.
fn media(number: u16) -> Vec<u8> {
    let marker = if number.is_multiple_of(7) { 0x80 } else { 0 };
    let mut bytes = vec![0x80, 96 | marker];
    bytes.extend(number.to_be_bytes());
    bytes.extend((u32::from(number) * 9).to_be_bytes());
    bytes.extend(SSRC.to_be_bytes());
    bytes.extend((0..400 + 13 * (number % 50)).map(|i| (i ^ number) as u8));
    bytes
}

/// Media and FEC packets in the order in which they are sent.
#[derive(Clone, Debug)]
enum Sent {
    Media(u16),
    Fec(FecPacket),
}

fn encode(columns: u8, rows: u8, with_rows: bool, first: u16, count: u16) -> Vec<Sent> {
    let mut encoder = FecEncoder::new(columns, rows, with_rows, [u16::MAX, 3]);
    let mut sent = Vec::new();
    for number in (0..count).map(|i| first.wrapping_add(i)) {
        sent.push(Sent::Media(number));
        let packet = media(number);
        let (header, payload) = split(&packet).unwrap();
        let mut fec = Vec::new();
        encoder.push(header, payload, &mut fec);
        sent.extend(fec.into_iter().map(Sent::Fec));
    }
    sent
}

/// Decodes what has arrived; returns the numbers of the recovered packets, which are checked byte for byte.
fn decode(arrived: &[Sent]) -> BTreeSet<u16> {
    let mut decoder = FecDecoder::new();
    let now = Instant::now();
    let mut recovered = BTreeSet::new();
    for sent in arrived {
        let mut out = Vec::new();
        match sent {
            Sent::Media(number) => {
                let packet = Packet::rtp(media(*number), now);
                decoder.media(&Header::parse(packet.data()).unwrap(), &packet, &mut out);
            }
            Sent::Fec(fec) => decoder.fec(&fec.bytes, now, &mut out),
        }
        for (header, packet) in out {
            assert_eq!(packet.data()[..], media(header.sequence)[..], "packet {}", header.sequence);
            assert!(recovered.insert(header.sequence), "once");
        }
    }
    assert_eq!(decoder.counts().malformed, 0);
    recovered
}

/// Returns the packets that FEC packets can recover: any that is the only missing one of its group, until there are none.
/// Reads the FEC packets by itself.
fn solve(arrived: &[Sent], wanted: &BTreeSet<u16>) -> BTreeSet<u16> {
    let mut known: BTreeSet<u16> =
        arrived.iter().filter_map(|s| if let Sent::Media(n) = s { Some(*n) } else { None }).collect();
    let groups: Vec<Vec<u16>> = arrived
        .iter()
        .filter_map(|sent| if let Sent::Fec(fec) = sent { Some(&fec.bytes) } else { None })
        .map(|bytes| {
            let base = u16::from_be_bytes([bytes[12], bytes[13]]);
            let offset = u16::from(bytes[25]);
            let count = u16::from(bytes[26]);
            (0..count).map(|i| base.wrapping_add(i * offset)).collect()
        })
        .collect();
    let before = known.clone();
    loop {
        let found = groups.iter().find_map(|group| {
            let missing: Vec<&u16> = group.iter().filter(|number| !known.contains(number)).collect();
            if let [one] = missing[..] { Some(*one) } else { None }
        });
        match found {
            Some(number) => known.insert(number),
            None => break,
        };
    }
    assert!(known.is_subset(wanted) || !wanted.is_superset(&before));
    known.difference(&before).copied().collect()
}

fn numbers(first: u16, count: u16) -> BTreeSet<u16> {
    (0..count).map(|i| first.wrapping_add(i)).collect()
}

#[test]
fn fec_packets_have_the_fields_of_st_2022_1() {
    let sent = encode(5, 4, true, 1000, 45);
    let fec: Vec<&FecPacket> =
        sent.iter().filter_map(|s| if let Sent::Fec(fec) = s { Some(fec) } else { None }).collect();
    let rows: Vec<_> = fec.iter().filter(|fec| fec.is_row).collect();
    let columns: Vec<_> = fec.iter().filter(|fec| !fec.is_row).collect();
    assert_eq!((rows.len(), columns.len()), (9, 6), "nine rows, the columns of one matrix, and one of the second");
    let row = &rows[1].bytes;
    assert_eq!((row[0] & 0xc0, row[1] & 0x7f), (0x80, 96));
    assert_eq!(row[8..12], [0; 4]);
    assert_eq!(row[12..14], 1005u16.to_be_bytes());
    assert_eq!((row[16] & 0x80, &row[17..20]), (0x80, &[0; 3][..]));
    assert_eq!(row[24..28], [0x40, 1, 5, 0]);
    let column = &columns[1].bytes;
    assert_eq!(column[12..14], 1001u16.to_be_bytes());
    assert_eq!(column[24..28], [0, 5, 4, 0]);
    let lengths: u16 = [1001, 1006, 1011, 1016].iter().fold(0, |sum, n| sum ^ (media(*n).len() as u16 - 12));
    assert_eq!(column[14..16], lengths.to_be_bytes());
    assert_eq!([columns[0], columns[1]].map(|fec| u16::from_be_bytes([fec.bytes[2], fec.bytes[3]])), [u16::MAX, 0]);
    // The columns are spread over the next matrix, one behind each four packets.
    let places: Vec<usize> = (0..sent.len())
        .filter(|at| matches!(&sent[*at], Sent::Fec(fec) if !fec.is_row))
        .map(|at| sent[..at].iter().filter(|s| matches!(s, Sent::Media(_))).count())
        .collect();
    assert_eq!(places, [24, 28, 32, 36, 40, 44]);
}

#[test]
fn fec_recovers_all_patterns_of_up_to_four_losses_that_can_be() {
    for with_rows in [false, true] {
        let sent = encode(4, 4, with_rows, u16::MAX - 20, 48);
        let wanted = numbers(u16::MAX - 20, 48);
        // The matrix in the middle, over the wrap of the sequence numbers.
        for pattern in (0u32..1 << 16).filter(|pattern| pattern.count_ones() <= 4) {
            let lost = |number: u16| {
                let place = number.wrapping_sub(u16::MAX - 4);
                place < 16 && pattern >> place & 1 == 1
            };
            let arrived: Vec<Sent> =
                sent.iter().filter(|s| !matches!(s, Sent::Media(n) if lost(*n))).cloned().collect();
            assert_eq!(decode(&arrived), solve(&arrived, &wanted), "{pattern:016b} {with_rows}");
        }
    }
}

proptest! {
    #[test]
    fn fec_recovers_what_a_reference_solver_does(
        columns in 1u8..=20, rows in 4u8..=20, with_rows in any::<bool>(), first in any::<u16>(),
        percent in 1u64..40, shuffle in 0usize..12, seed in 1u64..u64::MAX,
    ) {
        prop_assume!(u16::from(columns) * u16::from(rows) <= 100);
        let count = 4 * u16::from(columns) * u16::from(rows);
        let mut rng = TestRng(seed);
        let sent = encode(columns, rows, with_rows, first, count);
        let mut arrived: Vec<Sent> = sent.into_iter().filter(|_| rng.next_u64() % 100 >= percent).collect();
        // Packets overtake each other.
        for at in 0..arrived.len() {
            let other = (at + rng.below(shuffle + 1)).min(arrived.len() - 1);
            arrived.swap(at, other);
        }
        // The decoder begins with the first packet of the stream.
        let Some(begin) = arrived.iter().position(|s| matches!(s, Sent::Media(_))) else { return Ok(()) };
        arrived.rotate_left(begin);
        // A packet that was overtaken by its FEC packet and others is recovered before it comes.
        let come: BTreeSet<u16> =
            arrived.iter().filter_map(|s| if let Sent::Media(n) = s { Some(*n) } else { None }).collect();
        let found: BTreeSet<u16> = decode(&arrived).difference(&come).copied().collect();
        let mut wanted = solve(&arrived, &numbers(first, count));
        // The newest packets are not recovered before another one shows that they are missing.
        let newest = come.iter().map(|n| n.wrapping_sub(first)).max().unwrap_or(0);
        wanted.retain(|n| n.wrapping_sub(first) < newest || found.contains(n));
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn fec_decoder_survives_any_packets(
        packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..60),
        bases in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<u16>()), 0..60),
    ) {
        let mut decoder = FecDecoder::new();
        let now = Instant::now();
        let mut out = Vec::new();
        for (number, ((is_fec, bytes), (offset, count, kind, length))) in (0u16..).zip(packets.into_iter().zip(bases)) {
            let packet = Packet::rtp(media(number * 2), now);
            decoder.media(&Header::parse(packet.data()).unwrap(), &packet, &mut out);
            if is_fec {
                let mut fec = vec![0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                fec.extend((number ^ u16::from(kind & 7)).to_be_bytes());
                fec.extend((length % 90).to_be_bytes());
                fec.extend([0x80 | 96, 0, 0, 0, 0, 0, 0, 0, kind & 0x40, offset % 60, count % 60, 0]);
                fec.extend(&bytes);
                decoder.fec(&fec, now, &mut out);
            }
            decoder.fec(&bytes, now, &mut out);
            let _ = decoder.wait(now);
        }
        for (header, packet) in out {
            prop_assert_eq!((header.ssrc, header.payload_type), (SSRC, 96));
            prop_assert!(packet.data().len() <= 12 + MAX_PAYLOAD);
        }
    }
}

#[test]
fn fec_encoder_begins_anew_where_the_stream_jumps_and_skips_what_is_missing() {
    let mut encoder = FecEncoder::new(4, 4, true, [0, 0]);
    let mut fec = Vec::new();
    let mut groups = BTreeMap::new();
    let numbers = (0..16).filter(|n| *n != 5).chain(16..32).chain([20]).chain(5000..5016).chain(5016..5032);
    for number in numbers {
        let packet = media(number);
        let (header, payload) = split(&packet).unwrap();
        encoder.push(header, payload, &mut fec);
    }
    for packet in &fec {
        let (protected, _) = read(&packet.bytes).unwrap();
        groups.insert((protected.is_row, protected.base), protected.count);
    }
    let bases = |is_row| groups.keys().filter(|(row, _)| *row == is_row).map(|(_, base)| *base).collect::<Vec<_>>();
    assert_eq!(bases(true), [0, 8, 12, 16, 20, 24, 28, 5000, 5004, 5008, 5012, 5016, 5020, 5024, 5028]);
    assert_eq!(bases(false), [0, 2, 3, 16, 17, 18, 19, 5000, 5001, 5002, 5003]);
}

#[test]
fn fec_decoder_bounds_late_and_forged_packets() {
    let mut decoder = FecDecoder::new();
    let now = Instant::now();
    let mut out = Vec::new();
    let push = |decoder: &mut FecDecoder, number: u16, out: &mut Vec<(Header, Packet)>| {
        let packet = Packet::rtp(media(number), now);
        decoder.media(&Header::parse(packet.data()).unwrap(), &packet, out);
    };
    for number in (0..2000).filter(|n| n % 10 != 3) {
        push(&mut decoder, number, &mut out);
    }
    // Of a time that is long over, and of another stream.
    let group = |base, parity: &Parity| write(Protected { base, offset: 1, count: 5, is_row: true }, parity, 0, [0; 4]);
    let mut parity = Parity::default();
    for number in 0..5u16 {
        let packet = media(number);
        let (header, payload) = split(&packet).unwrap();
        parity.add(header, payload);
    }
    decoder.fec(&group(0, &parity), now, &mut out);
    decoder.fec(&group(40_000, &parity), now, &mut out);
    assert_eq!((out.len(), decoder.counts().malformed), (0, 1));
    // Parity that yields no packet of this stream: another payload type, a length beyond its bytes, a far time.
    for (flags, length, timestamp) in [(17, 0, 0), (0, 0x1000, 0), (0, 0, 0x40_00_00_00u32)] {
        let mut forged = Parity::default();
        for number in (1990..1995u16).filter(|n| *n != 1993) {
            let packet = media(number);
            let (header, payload) = split(&packet).unwrap();
            forged.add(header, payload);
        }
        let packet = media(1993);
        let (header, payload) = split(&packet).unwrap();
        forged.add(header, payload);
        forged.flags[1] ^= flags;
        forged.length ^= length;
        for (byte, other) in forged.timestamp.iter_mut().zip(timestamp.to_be_bytes()) {
            *byte ^= other;
        }
        decoder.fec(&group(1990, &forged), now, &mut out);
        assert_eq!(out.len(), 0, "{flags} {length} {timestamp}");
    }
    // Many that never become of use are not kept for ever.
    for i in 0..10_000u16 {
        decoder.fec(&group(1900 + i % 90, &Parity::default()), now, &mut out);
    }
    assert!(decoder.waiting() <= 256);
}

#[test]
fn fec_wait_covers_two_matrices() {
    let mut decoder = FecDecoder::new();
    let start = Instant::now();
    let mut out = Vec::new();
    let mut now = start;
    let first = Packet::rtp(media(0), now);
    decoder.media(&Header::parse(first.data()).unwrap(), &first, &mut out);
    assert_eq!(decoder.wait(now).unwrap().time, Duration::from_secs(2), "nothing is known yet");
    assert_eq!(decoder.wait(now + Duration::from_secs(20)), None, "there is none");
    for sent in encode(5, 5, false, 0, 200) {
        match sent {
            Sent::Media(number) => {
                now = start + Duration::from_millis(u64::from(number) * 2);
                let packet = Packet::rtp(media(number), now);
                decoder.media(&Header::parse(packet.data()).unwrap(), &packet, &mut out);
            }
            Sent::Fec(fec) => decoder.fec(&fec.bytes, now, &mut out),
        }
    }
    let wait = decoder.wait(now).unwrap();
    assert!(wait.packets >= 50 && wait.packets < 100, "{wait:?}");
    assert_eq!(wait.time, Duration::from_secs(1));
    assert!(decoder.is_active(now));
    assert!(!decoder.is_active(now + Duration::from_secs(11)));
    decoder.reset();
    assert_eq!((decoder.wait(now), decoder.is_active(now)), (None, false));
}
