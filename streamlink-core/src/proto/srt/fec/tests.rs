use super::{
    super::{
        packet::{DataHeader, KeyFlag, Packet},
        sequence::Sequence,
    },
    *,
};
use crate::{packet_filter::PacketFilter, test_rng::TestRng};
use bytes::Bytes;

fn matrix(text: &str) -> FilterMatrix {
    text.parse::<PacketFilter>().unwrap().matrix().unwrap()
}

const FIRST: u32 = 0x7fff_fff0;

fn packet(number: u64) -> (DataHeader, Bytes) {
    let header = DataHeader {
        sequence: Sequence::new(FIRST).after(number as u32),
        key: if number % 7 < 3 { KeyFlag::Even } else { KeyFlag::Odd },
        retransmitted: false,
        message: ((0x03ff_fff0 + number - 1) % 0x03ff_ffff + 1) as u32,
        timestamp: (number as u32).wrapping_mul(0x0101_0107),
        destination: 9,
    };
    let length = 1 + number as usize * 31 % 1316;
    (header, (0..length).map(|i| (i as u64 * 7 + number) as u8 | 1).collect())
}

/// Packets on the wire: media, or repair packets.
fn encoded(matrix: FilterMatrix, count: u64) -> Vec<(DataHeader, Bytes)> {
    let mut encoder = FecEncoder::new(matrix, Sequence::new(FIRST));
    let mut all = Vec::new();
    for number in 0..count {
        let (header, payload) = packet(number);
        encoder.add(&header, &payload);
        all.push((header, payload));
        while let Some((header, body)) = encoder.pop() {
            let bytes = [&header[..], &body].concat();
            let Some(Packet::Data(header)) = Packet::parse(&bytes) else { panic!("no packet of data") };
            assert_eq!(header.message, 0);
            all.push((header, body));
        }
    }
    all
}

/// Passes packets to a decoder, without those that `lose` names. Returns the rebuilt packets by number, and the number of
/// wrong repair packets.
fn decoded(
    matrix: FilterMatrix,
    packets: &[(DataHeader, Bytes)],
    lose: impl FnMut(&DataHeader) -> bool,
) -> (Vec<u64>, u64) {
    decoded_from(Sequence::new(FIRST), matrix, packets, lose)
}

/// Does the same with a decoder whose matrix begins with this number.
fn decoded_from(
    first: Sequence,
    matrix: FilterMatrix,
    packets: &[(DataHeader, Bytes)],
    mut lose: impl FnMut(&DataHeader) -> bool,
) -> (Vec<u64>, u64) {
    let mut decoder = FecDecoder::new(matrix, first);
    if first != Sequence::new(FIRST) {
        decoder.find_matrix();
    }
    let mut rebuilt = Vec::new();
    let mut wrong = 0;
    for (header, payload) in packets {
        if lose(header) {
            continue;
        }
        wrong += match header.message {
            0 => decoder.add_repair(header, payload, &mut rebuilt),
            _ => decoder.add(header, true, payload, &mut rebuilt),
        };
    }
    let mut numbers = Vec::new();
    for Rebuilt { header, raw, payload } in rebuilt {
        let number = Sequence::new(FIRST).distance(header.sequence) as u64;
        let (original, text) = packet(number);
        assert_eq!((header, &payload), (original, &text), "packet {number}");
        assert_eq!(raw, original.to_bytes());
        numbers.push(number);
    }
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]), "rebuilt twice: {numbers:?}");
    (numbers, wrong)
}

/// Returns a loss of these packets of media.
fn of(numbers: &[u64]) -> impl FnMut(&DataHeader) -> bool + use<'_> {
    |header| {
        let number = Sequence::new(FIRST).distance(header.sequence) as u64;
        header.message != 0 && numbers.contains(&number)
    }
}

#[test]
fn srt_fec_columns_begin_as_libsrt_begins_them() {
    // The figures of `packet-filtering-and-fec.md`: 10 columns of 5 packets.
    let even = matrix("fec,cols:10,rows:5,layout:even");
    let starts = |matrix: FilterMatrix| (0..10).map(|column| matrix.start_of_column(column)).collect::<Vec<_>>();
    assert_eq!(starts(even), (0..10).collect::<Vec<_>>());
    let stairs = matrix("fec,cols:10,rows:5,layout:staircase");
    assert_eq!(starts(stairs), [0, 11, 22, 33, 44, 5, 16, 27, 38, 49]);
    assert_eq!(stairs.in_column(1), None, "above the staircase");
    assert_eq!(stairs.in_column(11), Some(Place { series: 0, position: 0 }));
    assert_eq!(stairs.in_column(51), Some(Place { series: 0, position: 4 }));
    assert_eq!(stairs.in_column(61), Some(Place { series: 1, position: 0 }));
}

#[test]
fn srt_fec_repair_packets_leave_where_libsrt_sends_them() {
    let order = |text: &str, count: u64| -> Vec<String> {
        let name = |(header, body): &(DataHeader, Bytes)| {
            let number = Sequence::new(FIRST).distance(header.sequence);
            match header.message {
                0 if body[0] == ROW => format!("H{number}"),
                0 => format!("V{number}/{}", body[0]),
                _ => number.to_string(),
            }
        };
        encoded(matrix(text), count).iter().map(name).collect()
    };
    assert_eq!(order("fec,cols:3", 6), ["0", "1", "2", "H2", "3", "4", "5", "H5"]);
    let even = ["0", "1", "H1", "2", "V2/0", "3", "V3/1", "H3"];
    assert_eq!(order("fec,cols:2,rows:2,layout:even", 4), even);
    assert_eq!(order("fec,cols:2,rows:-2,layout:even", 4), ["0", "1", "2", "V2/0", "3", "V3/1"]);
    let stairs = ["0", "1", "2", "V2/0", "3", "4", "5", "V5/1", "6", "V6/0"];
    assert_eq!(order("fec,cols:2,rows:-2,layout:staircase", 7), stairs);
}

#[test]
fn srt_fec_decoder_finds_where_the_matrix_begins() {
    for text in ["fec,cols:5", "fec,cols:10,rows:5,layout:even", "fec,cols:10,rows:5", "fec,cols:6,rows:-4"] {
        let matrix = matrix(text);
        let packets = encoded(matrix, 600);
        for early in [0, 1, 7, 10, 23, 50, 77] {
            let first = Sequence::new(FIRST).before(early);
            // Losses far from each other, after the first repair packets.
            let lost: Vec<u64> = (200..500).step_by(61).collect();
            let (mut rebuilt, wrong) = decoded_from(first, matrix, &packets, of(&lost));
            // What came before the matrix was found is rebuilt once more, which does no harm.
            rebuilt.retain(|number| *number >= 200);
            assert_eq!((rebuilt, wrong), (lost, 0), "{text}, {early} too early");
        }
    }
}

#[test]
fn srt_fec_rebuilds_every_single_loss() {
    for text in [
        "fec,cols:5",
        "fec,cols:255",
        "fec,cols:2",
        "fec,cols:10,rows:5,layout:even",
        "fec,cols:10,rows:5",
        "fec,cols:4,rows:-4,layout:even",
        "fec,cols:4,rows:-7",
        "fec,cols:2,rows:255",
        "fec,cols:64,rows:64",
    ] {
        let matrix = matrix(text);
        let size = u64::from(matrix.columns) * u64::from(matrix.rows);
        let packets = encoded(matrix, size * 3);
        // In the second matrix each packet is in a row and a column.
        let samples = if size > 500 { 7 } else { 97 };
        for lost in (size..size * 2).step_by(1 + size as usize / samples) {
            assert_eq!(decoded(matrix, &packets, of(&[lost])), (vec![lost], 0), "{text}: {lost}");
        }
    }
}

#[test]
fn srt_fec_rebuilds_bursts_and_patterns() {
    // A burst of a whole row is rebuilt by the columns.
    let m = matrix("fec,cols:10,rows:5,layout:even");
    let burst: Vec<u64> = (110..120).collect();
    assert_eq!(decoded(m, &encoded(m, 300), of(&burst)).0, burst);
    // A staircase rebuilds a burst that begins anywhere.
    let m = matrix("fec,cols:10,rows:5");
    for start in 100..150 {
        let burst: Vec<u64> = (start..start + 10).collect();
        assert_eq!(decoded(m, &encoded(m, 300), of(&burst)).0, burst, "from {start}");
    }
    // Three corners of a square: one row and one column repair one each, and then the third.
    let m = matrix("fec,cols:10,rows:5,layout:even");
    let corners = [102, 104, 122];
    assert_eq!(decoded(m, &encoded(m, 300), of(&corners)).0, corners);
    // All four corners cannot be repaired.
    let corners = [102, 104, 122, 124];
    assert_eq!(decoded(m, &encoded(m, 300), of(&corners)).0, [0; 0]);
    // Rows alone rebuild one packet of each.
    let m = matrix("fec,cols:5");
    assert_eq!(decoded(m, &encoded(m, 50), of(&[3, 7, 12, 13, 24])).0, [3, 7, 24]);
}

#[test]
fn srt_fec_stands_reordered_and_repeated_packets() {
    for text in ["fec,cols:8", "fec,cols:8,rows:4", "fec,cols:8,rows:-4,layout:even"] {
        let m = matrix(text);
        let mut packets = encoded(m, 400);
        let mut dice = TestRng(5);
        for at in 1..packets.len() {
            if dice.percent(20) {
                packets.swap(at - 1, at);
            }
            if dice.percent(10) {
                packets.push(packets[at].clone()); // much later, too
                let again = packets[at].clone();
                packets.insert(at, again);
            }
        }
        let lost: Vec<u64> = (40..360).step_by(41).collect();
        let (rebuilt, wrong) = decoded(m, &packets, of(&lost));
        // Some packets that are only late are rebuilt, too.
        assert!(lost.iter().all(|number| rebuilt.contains(number)) && wrong == 0, "{text}: {rebuilt:?}");
        assert!(rebuilt.len() < lost.len() * 4, "{text}: {rebuilt:?}");
    }
}

#[test]
fn srt_fec_random_losses_rebuild_what_the_pattern_allows() {
    for text in ["fec,cols:6", "fec,cols:6,rows:4", "fec,cols:6,rows:4,layout:even", "fec,cols:6,rows:-4"] {
        let m = matrix(text);
        let packets = encoded(m, 2400);
        for (seed, loss) in [(1, 1), (2, 5), (3, 10), (4, 20)] {
            let mut dice = TestRng(seed);
            let mut lost = Vec::new();
            let gone: Vec<bool> = packets.iter().map(|_| dice.percent(loss)).collect();
            for ((header, _), gone) in packets.iter().zip(&gone) {
                if *gone && header.message != 0 {
                    lost.push(Sequence::new(FIRST).distance(header.sequence) as u64);
                }
            }
            let mut at = gone.iter();
            let (rebuilt, wrong) = decoded(m, &packets, |_| *at.next().unwrap());
            assert_eq!(wrong, 0);
            assert!(rebuilt.iter().all(|number| lost.contains(number)));
            assert_eq!(rebuilt, possible(m, &packets, &gone), "{text}, {loss} %");
        }
    }
}

/// Returns the packets that can be rebuilt, found the slow way: by looking at all groups again and again.
fn possible(m: FilterMatrix, packets: &[(DataHeader, Bytes)], gone: &[bool]) -> Vec<u64> {
    let number = |header: &DataHeader| Sequence::new(FIRST).distance(header.sequence) as u64;
    let mut here: Vec<u64> = Vec::new();
    let mut repairs = Vec::new();
    for ((header, body), _) in packets.iter().zip(gone).filter(|(_, gone)| !**gone) {
        match header.message {
            0 => repairs.push((number(header), body[0] == ROW)),
            _ => here.push(number(header)),
        }
    }
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (last, is_row) in &repairs {
            let (size, step) = if *is_row { (m.columns, 1) } else { (m.rows, m.width()) };
            let members: Vec<u64> = (0..u64::from(size)).map(|i| last - i * step).collect();
            let missing: Vec<u64> = members.into_iter().filter(|number| !here.contains(number)).collect();
            if let [one] = missing[..] {
                here.push(one);
                found.push(one);
            }
        }
        if found.len() == before {
            found.sort_unstable();
            return found;
        }
    }
}

#[test]
fn srt_fec_rejects_forged_repair_packets() {
    let m = matrix("fec,cols:4,rows:4,layout:even");
    let packets = encoded(m, 64);
    let (row, body) = packets.iter().find(|(header, body)| header.message == 0 && body[0] == ROW).cloned().unwrap();
    let mut rebuilt = Vec::new();
    let mut wrong = |change: &dyn Fn(&mut DataHeader, &mut Vec<u8>)| {
        let mut decoder = FecDecoder::new(m, Sequence::new(FIRST));
        for (header, payload) in packets.iter().take(3) {
            decoder.add(header, true, payload, &mut rebuilt);
        }
        let mut header = row;
        let mut body = body.to_vec();
        change(&mut header, &mut body);
        rebuilt.clear();
        (decoder.add_repair(&header, &body, &mut rebuilt), rebuilt.len())
    };
    assert_eq!(wrong(&|_, _| {}), (0, 1));
    assert_eq!(wrong(&|_, body| body.truncate(3)), (1, 0), "cut short");
    assert_eq!(wrong(&|_, body| body.truncate(5)), (1, 0), "shorter than the packet");
    assert_eq!(wrong(&|_, body| body[2] ^= 0x40), (1, 0), "a length beyond every packet");
    assert_eq!(wrong(&|_, body| body[1] ^= 1), (1, 0), "no such key");
    assert_eq!(wrong(&|_, body| body.extend([0, 0, 1])), (0, 1), "filled up, as libsrt does it");
    assert_eq!(wrong(&|header, _| header.sequence = header.sequence.after(1)), (1, 0), "not the last of its row");
    assert_eq!(wrong(&|_, body| body[0] = 2), (1, 0), "not the last of its column");
    assert_eq!(wrong(&|_, body| body[0] = 77), (1, 0), "no such column");
    assert_eq!(wrong(&|header, _| header.sequence = header.sequence.before(400)), (1, 0), "before the start");
}

#[test]
fn srt_fec_decoder_is_bounded_under_hostile_packets() {
    let mut dice = TestRng(11);
    for text in ["fec,cols:255", "fec,cols:64,rows:64", "fec,cols:2,rows:-255", "fec,cols:3,rows:2"] {
        let m = matrix(text);
        let mut decoder = FecDecoder::new(m, Sequence::new(FIRST));
        let mut rebuilt = Vec::new();
        for _ in 0..20_000 {
            let (mut header, _) = packet(dice.next_u64() % 50_000);
            if dice.percent(1) {
                header.sequence = Sequence::new(dice.next_u64() as u32);
            }
            let length = dice.next_u64() as usize % 40;
            let body: Bytes = (0..length).map(|_| dice.next_u64() as u8 & dice.next_u64() as u8).collect();
            if dice.percent(50) {
                decoder.add_repair(&header, &body, &mut rebuilt);
            } else if !body.is_empty() {
                decoder.add(&header, dice.percent(50), &body, &mut rebuilt);
            }
            let _ = decoder.horizon();
            rebuilt.clear();
        }
    }
}
