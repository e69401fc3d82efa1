use super::*;
use crate::media::ts::SYNC;
use dvb_conformance::{ConformanceMonitor, Indicator};
use mpeg2ts_reader::mpegts_crc::sum32;

/// Number of transport packets in one datagram of the tests.
const TOGETHER: usize = 7;

fn packet(pid: u16, counter: u8, starts: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = pid.to_be_bytes();
    let mut bytes = vec![SYNC, high | if starts { 0x40 } else { 0 }, low, 0x10 | counter & 0x0f];
    bytes.extend_from_slice(payload);
    bytes.resize(PACKET, 0xff);
    bytes
}

fn section(table: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![table, 0xb0, (5 + body.len() + 4) as u8, 0, 1, 0xc1, 0, 0];
    bytes.extend_from_slice(body);
    bytes.extend(sum32(&bytes).to_be_bytes());
    bytes.insert(0, 0);
    bytes
}

/// Makes a stream of one program: a PAT and a PMT each 100 ms, a PCR each 40 ms, pictures and sound. Each entry is a
/// packet and its time in milliseconds.
fn program(seconds: u64) -> Vec<(u64, Vec<u8>)> {
    let mut counters = [0u8; 0x200];
    let mut next = |pid: u16| {
        let counter = counters[usize::from(pid)];
        counters[usize::from(pid)] = counter.wrapping_add(1) & 0x0f;
        counter
    };
    let mut out = Vec::new();
    let pes = [0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1];
    for ms in (0..seconds * 1000).step_by(10) {
        if ms % 100 == 0 {
            out.push((ms, packet(0, next(0), true, &section(0, &[0, 1, 0xe1, 0x80]))));
            let streams = [0xe1, 0, 0xf0, 0, 0x1b, 0xe1, 0, 0xf0, 0, 0x0f, 0xe1, 1, 0xf0, 0];
            out.push((ms, packet(0x180, next(0x180), true, &section(2, &streams))));
        }
        if ms % 40 == 0 {
            let base = ms * 90;
            let mut video = vec![SYNC, 0x41, 0, 0x30 | next(0x100), 7, 0x10];
            video.extend(((base >> 1) as u32).to_be_bytes());
            video.extend([(base as u8) << 7 | 0x7e, 0]);
            video.extend(pes);
            video.resize(PACKET, ms as u8);
            out.push((ms, video));
            out.push((ms, packet(0x101, next(0x101), true, &pes)));
        }
        out.push((ms, packet(0x100, next(0x100), false, &ms.to_be_bytes())));
        out.push((ms, packet(NULL_PID, 0, false, &[])));
    }
    out
}

fn counts(checker: &TransportChecker) -> [u64; 12] {
    TransportCheck::ALL.map(|check| checker.errors().of(check))
}

/// Returns the counters of the reference for the same packets.
fn reference(stream: &[(u64, Vec<u8>)]) -> [u64; 12] {
    let mut monitor = ConformanceMonitor::new();
    let mut counts = [0; 12];
    for (ms, packet) in stream {
        for event in monitor.feed(packet, Duration::from_millis(*ms)) {
            let check = match event.indicator {
                Indicator::TsSyncLoss => TransportCheck::SyncLoss,
                Indicator::SyncByteError => TransportCheck::SyncByte,
                Indicator::PatError2 => TransportCheck::Pat,
                Indicator::ContinuityCountError => TransportCheck::Continuity,
                Indicator::PmtError2 => TransportCheck::Pmt,
                Indicator::PidError => TransportCheck::Pid,
                Indicator::TransportError => TransportCheck::Transport,
                Indicator::CrcError => TransportCheck::Crc,
                Indicator::PcrRepetitionError => TransportCheck::PcrRepetition,
                Indicator::PcrDiscontinuityError => TransportCheck::PcrDiscontinuity,
                Indicator::PtsError => TransportCheck::Pts,
                Indicator::CatError => TransportCheck::Cat,
                _ => continue,
            };
            let at = TransportCheck::ALL.iter().position(|other| *other == check).unwrap();
            counts[at] += 1;
        }
    }
    counts
}

fn check(stream: &[(u64, Vec<u8>)]) -> [u64; 12] {
    let mut checker = TransportChecker::default();
    let start = Instant::now();
    for (ms, packet) in stream {
        checker.observe(packet, start + Duration::from_millis(*ms), |_| ());
    }
    counts(&checker)
}

#[test]
fn transport_checker_finds_nothing_in_good_stream_however_it_is_cut() {
    let stream = program(8);
    assert_eq!((check(&stream), reference(&stream)), ([0; 12], [0; 12]));
    let bytes: Vec<u8> = stream.iter().flat_map(|(_, packet)| packet.clone()).collect();
    for size in [100, 188, 1000, 1316, 1400] {
        let mut checker = TransportChecker::default();
        let start = Instant::now();
        for (number, datagram) in bytes[77..].chunks(size).enumerate() {
            let sent = 8000 * (number * size) as u64 / bytes.len() as u64;
            checker.observe(datagram, start + Duration::from_millis(sent), |_| ());
        }
        assert_eq!(counts(&checker), [0; 12], "{size}");
    }
}

#[test]
fn transport_checker_counts_absences_as_the_reference() {
    let without = |pids: &[u16], from: u64, to: u64| -> Vec<(u64, Vec<u8>)> {
        let pid = |packet: &[u8]| u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        let gone = |ms: u64, packet: &[u8]| (from..to).contains(&ms) && pids.contains(&pid(packet));
        program(20).into_iter().filter(|(ms, packet)| !gone(*ms, packet)).collect()
    };
    for (pids, from, to, expected) in [
        (&[0][..], 3000, 3400, 0),
        (&[0], 3000, 9000, 2),
        (&[0x180], 3000, 9000, 2),
        (&[0x101], 3000, 12_000, 2),
        (&[0x100], 3000, 12_000, 4),
        (&[0, 0x180, 0x100, 0x101], 3000, 12_000, 7),
    ] {
        let stream = without(pids, from, to);
        assert_eq!(check(&stream), reference(&stream), "{pids:?}");
        assert!(check(&stream).iter().sum::<u64>() >= expected.min(1), "{pids:?} {:?}", check(&stream));
    }
}

#[test]
fn transport_checker_ignores_programs_that_have_ended() {
    let mut stream = program(2);
    for ms in (2000..9000).step_by(100) {
        let counter = (ms / 100) as u8;
        stream.push((ms, packet(0, counter, true, &section(0, &[0, 2, 0xe1, 0x90]))));
        stream.push((ms, packet(0x190, counter, true, &section(2, &[0xff, 0xff, 0xf0, 0]))));
    }
    assert_eq!(check(&stream)[5], 0, "the streams of a program that has ended are not missing");
    assert_eq!(check(&stream)[4], 0);
}

#[test]
fn transport_checker_misses_nothing_over_reconnections() {
    let mut checker = TransportChecker::default();
    let start = Instant::now();
    for (ms, packet) in program(2) {
        checker.observe(&packet, start + Duration::from_millis(ms), |_| ());
    }
    checker.begin();
    for (ms, packet) in program(2) {
        checker.observe(&packet, start + Duration::from_millis(60_000 + ms), |_| ());
    }
    let errors = checker.errors();
    assert_eq!((errors.pat, errors.pmt, errors.pid, errors.pcr_repetition, errors.pts), (0, 0, 0, 0, 0));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// Damage of all kinds: lost, repeated and swapped packets, wrong bytes in any place, wrong sync bytes.
    #[test]
    fn transport_checker_counts_damage_as_the_reference(
        damage in proptest::collection::vec((0usize..4000, 0u8..7, 0usize..PACKET, 1u8..=255), 0..60),
    ) {
        let mut stream = program(12);
        for (at, kind, place, value) in damage {
            let at = TOGETHER + at % (stream.len() - 2 * TOGETHER);
            match kind {
                0 => drop(stream.remove(at)),
                1 => {
                    let again = stream[at].clone();
                    stream.insert(at, again);
                }
                2 => {
                    let a = stream[at].1.clone();
                    let b = stream[at + 1].1.clone();
                    stream[at].1 = b;
                    stream[at + 1].1 = a;
                }
                3 => stream[at].1[0] ^= value,
                4 => stream[at].1[3] ^= value & 0xcf,
                5 => stream[at].1[1] |= 0x80,
                _ => {
                    // Tables are damaged behind their header, so that both see the same table.
                    let is_table = matches!(u16::from_be_bytes([stream[at].1[1] & 0x1f, stream[at].1[2]]), 0 | 0x180);
                    let place = if is_table { PACKET - 1 } else { 12.max(place) };
                    stream[at].1[place] ^= value;
                }
            }
        }
        proptest::prop_assert_eq!(check(&stream), reference(&stream));
    }

    #[test]
    fn transport_checker_survives_any_bytes_in_bounded_memory(
        mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..3000),
    ) {
        let mut checker = TransportChecker::default();
        for chunk in bytes.chunks_mut(PACKET) {
            chunk[0] = SYNC;
        }
        for _ in 0..4 {
            checker.observe(&bytes, Instant::now(), |_| ());
        }
        bytes.rotate_left(1);
        checker.observe(&bytes, Instant::now(), |_| ());
        proptest::prop_assert!(checker.checks.pids.len() <= MAX_PIDS && checker.checks.tables.len() <= MAX_PROGRAMS + 8);
    }
}
