use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_millis(50);

/// Receiver under test. Packets are fed with their arrival in milliseconds.
struct Bench {
    receiver: Receiver,
    start: Instant,
    out: Vec<Packet>,
}

impl Bench {
    fn new(window: Duration) -> Self {
        Self { receiver: Receiver::new(window), start: Instant::now(), out: Vec::new() }
    }

    fn feed(&mut self, ms: u64, ssrc: u32, sequence: u16) {
        let now = self.start + Duration::from_millis(ms);
        self.receiver.handle_timeout(now, &mut self.out);
        let mut bytes = vec![0x80, 33];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend((ms as u32).wrapping_mul(90).to_be_bytes());
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
}

#[test]
fn rtp_receiver_accepts_restart_and_rejects_stranger() {
    let mut bench = Bench::new(WINDOW);
    for sequence in 100..110 {
        bench.feed(sequence.into(), 1, sequence);
    }
    bench.feed(110, 2, 7); // another SSRC while the stream is alive
    bench.feed(110, 2, 8);
    bench.feed(111, 1, 40_000); // a jump: held until a second packet confirms it
    bench.feed(112, 1, 110);
    assert_eq!(bench.sequences(), (100..=110).collect::<Vec<u16>>());
    assert_eq!(bench.receiver.quality().foreign, 3);
    bench.feed(120, 1, 30_000); // a restart with the same SSRC
    bench.feed(121, 1, 30_001);
    bench.feed(400, 9, 5); // another sender, after a silence
    bench.feed(401, 9, 6);
    bench.feed(402, 9, 7);
    assert_eq!(bench.sequences(), [30_000, 30_001, 5, 6, 7]);
    assert_eq!((bench.receiver.quality().restarts, bench.receiver.quality().lost), (2, 0));
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
