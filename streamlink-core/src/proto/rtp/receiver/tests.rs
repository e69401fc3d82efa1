use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_millis(50);

/// Receiver under test. Packets are fed with their arrival in milliseconds.
struct Bench {
    receiver: Receiver,
    start: Instant,
    out: Vec<Packet>,
    /// Timestamp of sequence number 0; another one for each run of the sender.
    base: u32,
}

impl Bench {
    fn new(window: Duration) -> Self {
        Self { receiver: Receiver::new(window), start: Instant::now(), out: Vec::new(), base: 0 }
    }

    fn feed(&mut self, ms: u64, ssrc: u32, sequence: u16) {
        let now = self.start + Duration::from_millis(ms);
        self.receiver.handle_timeout(now, &mut self.out);
        let mut bytes = vec![0x80, 33];
        bytes.extend(sequence.to_be_bytes());
        let timestamp = self.base.wrapping_add_signed(90 * i32::from(sequence as i16));
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        let header = Header::parse(&bytes).unwrap();
        self.receiver.handle(&header, Packet::rtp(bytes, now), &mut self.out);
    }

    fn sequences(&mut self) -> Vec<u16> {
        let out = std::mem::take(&mut self.out);
        out.iter().map(|p| u16::from_be_bytes([p.data()[2], p.data()[3]])).collect()
    }
}

#[test]
fn rtp_receiver_passes_in_order_packets_over_the_wrap() {
    let mut bench = Bench::new(WINDOW);
    for i in 0..10u16 {
        bench.feed(i.into(), 1, 65_530u16.wrapping_add(i));
        assert_eq!(bench.receiver.next_timeout(), None);
    }
    assert_eq!(bench.sequences(), [65530, 65531, 65532, 65533, 65534, 65535, 0, 1, 2, 3]);
    assert_eq!(bench.receiver.quality().lost, 0);
    assert_eq!(bench.receiver.quality().jitter, Duration::ZERO);
}

#[test]
fn rtp_receiver_holds_a_gap_for_the_window_only() {
    let mut bench = Bench::new(WINDOW);
    for (ms, sequence) in [(0, 1), (1, 2), (2, 5), (3, 4), (4, 3), (5, 7), (6, 7)] {
        bench.feed(ms, 1, sequence);
    }
    assert_eq!(bench.sequences(), [1, 2, 3, 4, 5]);
    assert_eq!(bench.receiver.next_timeout(), Some(bench.start + Duration::from_millis(55)));
    bench.feed(54, 1, 8);
    assert_eq!(bench.sequences(), [0; 0]);
    bench.feed(55, 1, 9);
    bench.feed(56, 1, 6); // too late
    bench.feed(57, 1, 9); // duplicate
    assert_eq!(bench.sequences(), [7, 8, 9]);
    let q = bench.receiver.quality();
    assert_eq!((q.lost, q.recovered, q.late, q.duplicates), (1, 2, 1, 2));
}

#[test]
fn rtp_receiver_without_window_does_not_reorder() {
    let mut bench = Bench::new(Duration::ZERO);
    for (ms, sequence) in [(0, 1), (1, 2), (2, 5), (3, 4), (4, 6)] {
        bench.feed(ms, 1, sequence);
    }
    assert_eq!(bench.sequences(), [1, 2, 5, 4, 6]);
    assert_eq!((bench.receiver.quality().lost, bench.receiver.quality().recovered), (1, 1));
    // Copies do not pass again.
    for (ms, sequence) in [(5, 6), (6, 4), (7, 1), (8, 7)] {
        bench.feed(ms, 1, sequence);
    }
    assert_eq!(bench.sequences(), [7]);
    let q = bench.receiver.quality();
    assert_eq!((q.lost, q.recovered, q.duplicates), (1, 1, 3));
}

#[test]
fn rtp_receiver_accepts_restart_and_rejects_stranger() {
    let mut bench = Bench::new(WINDOW);
    for sequence in 100..110 {
        bench.feed(sequence.into(), 1, sequence);
    }
    bench.feed(110, 2, 7); // a packet of another SSRC
    bench.feed(111, 1, 40_000); // a jump: held until a second packet confirms it
    bench.feed(112, 1, 110);
    assert_eq!(bench.sequences(), (100..=110).collect::<Vec<u16>>());
    assert_eq!(bench.receiver.quality().foreign, 2);
    bench.feed(120, 1, 30_000); // a restart with the same SSRC
    bench.feed(121, 1, 30_001);
    bench.feed(400, 9, 5); // another sender, after a silence
    bench.feed(401, 9, 6);
    bench.feed(402, 9, 7);
    assert_eq!(bench.sequences(), [30_000, 30_001, 5, 6, 7]);
    assert_eq!((bench.receiver.quality().restarts, bench.receiver.quality().lost), (2, 0));
}

#[test]
fn rtp_receiver_follows_restart_behind_its_old_sequence_at_once() {
    for (pause, back, ssrc) in [(0, 700, 1), (2000, 700, 1), (0, 3000, 1), (2000, 6000, 1), (0, 30_000, 1), (0, 700, 2)]
    {
        let mut bench = Bench::new(WINDOW);
        for i in 0..700u16 {
            bench.feed(2 * u64::from(i), 1, 20_000 + i);
        }
        bench.sequences();
        bench.base = 1_000_000;
        let first = 20_700u16.wrapping_sub(back);
        for i in 0..1500u16 {
            bench.feed(1400 + pause + 2 * u64::from(i), ssrc, first.wrapping_add(i));
        }
        let expected: Vec<u16> = (0..1500).map(|i| first.wrapping_add(i)).collect();
        assert_eq!(bench.sequences(), expected, "{pause} {back} {ssrc}");
        assert_eq!((bench.receiver.quality().restarts, bench.receiver.quality().collisions), (1, 0));
    }
}

#[test]
fn rtp_receiver_tells_copies_from_a_restart() {
    let mut bench = Bench::new(WINDOW);
    // Each run of packets arrives twice, with the same timestamps.
    let feed = |bench: &mut Bench, i: u16, ms: u64| {
        let mut bytes = vec![0x80, 33];
        bytes.extend(i.to_be_bytes());
        bytes.extend((u32::from(i) * 90).to_be_bytes());
        bytes.extend([0; 4]);
        let header = Header::parse(&bytes).unwrap();
        let now = bench.start + Duration::from_millis(ms);
        bench.receiver.handle_timeout(now, &mut bench.out);
        bench.receiver.handle(&header, Packet::rtp(bytes, now), &mut bench.out);
    };
    for run in 0..100u16 {
        for copy in 0..2 {
            for i in 0..10 {
                feed(&mut bench, 10 * run + i, u64::from(10 * run + i) + 5 * copy);
            }
        }
    }
    assert_eq!(bench.sequences(), (0..1000).collect::<Vec<u16>>());
    assert_eq!((bench.receiver.quality().restarts, bench.receiver.quality().duplicates), (0, 1000));
    // Late packets, long after their gap was given up, are no restart either.
    feed(&mut bench, 1003, 1004);
    feed(&mut bench, 1004, 1100);
    for i in 1000..1003 {
        feed(&mut bench, i, 1101);
    }
    assert_eq!(bench.sequences(), [1003, 1004]);
    assert_eq!((bench.receiver.quality().restarts, bench.receiver.quality().late), (0, 3));
    // A stream that is the same over and over again.
    for i in 0..1500 {
        feed(&mut bench, 500 + i % 500, 1200 + u64::from(i));
    }
    let out = bench.sequences();
    let restarts = out.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(out.len() > 500 && restarts <= 3, "{} {restarts}", out.len());
}

#[test]
fn rtp_receiver_stays_with_first_of_two_senders() {
    for burst in [1, 2, 7] {
        let mut bench = Bench::new(WINDOW);
        for i in 0..1400u16 {
            let ms = 10 * u64::from(i / burst);
            let at = i % burst;
            bench.feed(ms, 0, i);
            if at == burst - 1 {
                for k in 0..burst {
                    bench.feed(ms + 5, 0, 30_000 + i - at + k);
                }
            }
        }
        let out = bench.sequences();
        let (own, other): (Vec<u16>, Vec<u16>) = out.iter().partition(|s| **s < 30_000);
        assert_eq!(own, (0..1400).collect::<Vec<u16>>(), "{burst}");
        assert!(other.len() <= 2 * usize::from(burst), "{burst}: {}", other.len());
        assert_eq!(bench.receiver.quality().collisions, 1, "{burst}");
        // The second one takes over once the first one is gone.
        for i in 0..100 {
            bench.feed(20_000 + i, 0, 40_000 + i as u16);
        }
        assert_eq!(bench.sequences().len(), 100);
    }
}

#[test]
fn rtp_receiver_drops_streams_of_another_payload_type_beside_it() {
    let mut bench = Bench::new(WINDOW);
    for i in 0..500u16 {
        bench.feed(2 * u64::from(i), 1, i);
        if i >= 10 && i % 10 == 0 {
            for k in 0..5 {
                let mut bytes = vec![0x80, 96];
                bytes.extend((9000 + i / 2 + k).to_be_bytes());
                bytes.extend([0; 8]);
                let now = bench.start + Duration::from_millis(2 * u64::from(i));
                bench.receiver.handle(&Header::parse(&bytes).unwrap(), Packet::rtp(bytes, now), &mut bench.out);
            }
        }
    }
    assert_eq!(bench.sequences(), (0..500).collect::<Vec<u16>>());
    assert_eq!((bench.receiver.quality().foreign, bench.receiver.quality().collisions), (245, 0));
}

#[test]
fn rtp_receiver_bounds_a_sequence_leap() {
    let mut bench = Bench::new(WINDOW);
    for (ms, sequence) in [(0, 1), (1, 2), (2, 4), (3, 2900), (4, 2901)] {
        bench.feed(ms, 1, sequence);
    }
    assert_eq!(bench.sequences(), [1, 2, 4, 2900, 2901]);
    assert_eq!(bench.receiver.quality().lost, 1 + 2895);
    let mut out = Vec::new();
    bench.receiver.reset(&mut out);
    assert!(out.is_empty());
}

#[test]
fn rtp_receiver_jitter_matches_rfc_3550() {
    let mut bench = Bench::new(WINDOW);
    // Every other packet is 16 ms late: |D| is 16 ms each time, and J tends to it.
    for i in 0..400u16 {
        let now = bench.start + Duration::from_millis(u64::from(i) * 20 + if i % 2 == 0 { 0 } else { 16 });
        let mut bytes = vec![0x80, 33];
        bytes.extend(i.to_be_bytes());
        bytes.extend((u32::from(i) * 1800).to_be_bytes());
        bytes.extend([0; 4]);
        let header = Header::parse(&bytes).unwrap();
        bench.receiver.handle(&header, Packet::rtp(bytes, now), &mut bench.out);
    }
    let jitter = bench.receiver.quality().jitter;
    assert!((15..=17).contains(&jitter.as_millis()), "{jitter:?}");
}

proptest! {
    /// Simulates a network that delays each packet by less than the window, duplicates some and loses some.
    #[test]
    fn rtp_receiver_delivers_in_order_once_and_complete(
        fates in proptest::collection::vec((0u64..45, 0u8..10), 3..300),
        first in any::<u16>(),
    ) {
        let mut events = Vec::new();
        let mut expected = 0;
        for (i, (delay, fate)) in fates.iter().enumerate() {
            let sequence = first.wrapping_add(i as u16);
            // The first two and the last arrive on time, so that the stream starts and ends where it should.
            let kept = i < 2 || i + 1 == fates.len();
            let delay = if kept { 0 } else { *delay };
            if kept || *fate > 0 {
                expected += 1;
                events.push((10 * i as u64 + delay, sequence));
                if *fate == 1 && !kept {
                    events.push((10 * i as u64 + delay + 1, sequence));
                }
            }
        }
        events.sort_by_key(|(ms, _)| *ms);
        let mut bench = Bench::new(Duration::from_millis(80));
        for (ms, sequence) in &events {
            bench.feed(*ms, 1, *sequence);
        }
        let end = bench.start + Duration::from_secs(3600);
        bench.receiver.handle_timeout(end, &mut bench.out);
        let got = bench.sequences();
        let steps: Vec<u16> = got.iter().map(|s| s.wrapping_sub(first)).collect();
        prop_assert!(steps.windows(2).all(|w| w[0] < w[1]), "{:?}", steps);
        prop_assert_eq!(got.len(), expected);
        let q = bench.receiver.quality();
        prop_assert_eq!(q.lost as usize, fates.len() - expected);
        prop_assert_eq!(q.late, 0);
        prop_assert_eq!(bench.receiver.next_timeout(), None);
    }

    /// Arbitrary packets: memory stays bounded, and no packet passes twice.
    #[test]
    fn rtp_receiver_bounds_garbage_sequences(packets in proptest::collection::vec((0u64..200, 0u32..3, any::<u16>()), 0..400)) {
        let mut bench = Bench::new(WINDOW);
        let mut now = 0;
        for (step, ssrc, sequence) in packets {
            now += step;
            bench.feed(now, ssrc, sequence % 5000);
            if let Some(stream) = &bench.receiver.stream {
                prop_assert!(stream.held.len() <= MAX_HELD && stream.given_up.len() <= MAX_GIVEN_UP);
            }
        }
    }
}

#[test]
fn rtp_receiver_holds_what_memory_allows_behind_a_gap() {
    let start = Instant::now();
    let packet = |number: u16| {
        let mut bytes = vec![0x80, 33];
        bytes.extend(number.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 7]);
        bytes.resize(1000, number as u8);
        Packet::rtp(bytes, start)
    };
    let push = |receiver: &mut Receiver, number: u16, out: &mut Vec<Packet>| {
        let packet = packet(number);
        receiver.handle(&Header::parse(packet.data()).unwrap(), packet, out);
    };
    let mut receiver = Receiver::new(Duration::from_secs(2));
    receiver.allow_held(8_000_000);
    let mut out = Vec::new();
    for number in 0..10u16 {
        push(&mut receiver, number, &mut out);
    }
    for number in 11..7000 {
        push(&mut receiver, number, &mut out);
    }
    assert_eq!(out.len(), 10, "all wait for the missing one");
    push(&mut receiver, 10, &mut out);
    assert_eq!((out.len(), receiver.quality().lost), (7000, 0));
    // Beyond the bound the gap is given up, and told.
    for number in 7001..15_100 {
        push(&mut receiver, number, &mut out);
    }
    assert_eq!((out.len(), receiver.quality().lost, receiver.quality().overflowed), (15_099, 1, 1));
}
