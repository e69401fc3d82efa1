//! Tests of the merge in virtual time.

use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_millis(200);

struct Bench {
    merge: Merge,
    start: Instant,
    out: Vec<Packet>,
}

impl Bench {
    fn new() -> Self {
        Self { merge: Merge::new(WINDOW, 2), start: Instant::now(), out: Vec::new() }
    }

    fn feed_from(&mut self, path: usize, ms: u64, ssrc: u32, sequence: u16) {
        self.feed_stamped(path, ms, ssrc, sequence, 0);
    }

    fn feed_stamped(&mut self, path: usize, ms: u64, ssrc: u32, sequence: u16, timestamp: u32) {
        let now = self.start + Duration::from_millis(ms);
        let mut data = vec![0x80, 33];
        data.extend(sequence.to_be_bytes());
        data.extend(timestamp.to_be_bytes());
        data.extend(ssrc.to_be_bytes());
        self.merge.handle_timeout(now, &mut self.out);
        self.merge.handle(path, Packet::rtp(data, now), now, &mut self.out);
    }

    fn feed(&mut self, path: usize, ms: u64, sequence: u16) {
        self.feed_from(path, ms, 7, sequence);
    }

    fn sequences(&self) -> Vec<u16> {
        self.out.iter().map(|packet| Header::parse(packet.data()).unwrap().sequence).collect()
    }
}

#[test]
fn merge_fills_the_loss_of_one_path_from_the_other() {
    let mut bench = Bench::new();
    for (path, ms, sequence) in [(0, 0, 65534), (0, 1, 65535), (0, 3, 1), (1, 150, 65534), (1, 151, 65535)] {
        bench.feed(path, ms, sequence);
    }
    assert_eq!(bench.sequences(), [65534, 65535]);
    bench.feed(1, 152, 0);
    bench.feed(1, 153, 1);
    assert_eq!(bench.sequences(), [65534, 65535, 0, 1]);
    bench.feed(0, 200, 3);
    bench.merge.handle_timeout(bench.start + Duration::from_millis(401), &mut bench.out);
    assert_eq!((bench.sequences().len(), bench.merge.lost()), (5, 1));
    bench.feed(1, 402, 2);
    assert_eq!(bench.merge.counts(1), PathCounts { lost: 0, unique_packets: 1, late: 1, foreign: 0 });
    bench.feed(0, 700, 4);
    bench.feed(0, 1000, 5);
    assert_eq!(bench.merge.counts(0), PathCounts { lost: 1, unique_packets: 2, late: 0, foreign: 0 });
    assert_eq!(bench.merge.counts(1), PathCounts { lost: 2, unique_packets: 1, late: 1, foreign: 0 });
}

#[test]
fn merge_follows_a_new_stream_when_all_paths_have_it() {
    let mut bench = Bench::new();
    for sequence in 0..4 {
        bench.feed(0, u64::from(sequence), sequence);
        bench.feed(1, u64::from(sequence), sequence);
    }
    bench.feed_from(0, 10, 8, 500);
    bench.feed(1, 10, 4);
    bench.feed_from(0, 11, 8, 501);
    assert_eq!(bench.sequences(), [0, 1, 2, 3, 4], "the other path still has the old one");
    bench.feed_from(1, 12, 8, 500);
    bench.feed_from(0, 13, 8, 502);
    bench.feed_from(1, 13, 8, 501);
    bench.feed_from(1, 14, 8, 502);
    assert_eq!(bench.sequences()[5..], [500, 501, 502]);
    // One path goes silent and the other starts a new stream, which is accepted after the window.
    bench.feed_from(1, 300, 9, 40);
    bench.feed_from(1, 301, 9, 41);
    assert_eq!(bench.sequences()[8..], [40, 41]);
    assert_eq!(bench.merge.counts(1).foreign, 0);
}

#[test]
fn merge_follows_restart_of_all_paths_with_its_first_packets() {
    for (pause, first, skew, ssrc) in [
        (2000, 26_000, 0, 7),
        (0, 26_000, 0, 7),
        (0, 26_000, 150, 7),
        (2000, 29_900, 0, 7),
        (0, 29_900, 100, 7),
        (0, 100, 0, 9),
        (0, 29_000, 120, 9),
        (2000, 100, 0, 9),
    ] {
        let mut events = Vec::new();
        for i in 0..1000u64 {
            events.push((2 * i, 0, 7, 30_000 + i as u16, i as u32));
            events.push((2 * i + skew, 1, 7, 30_000 + i as u16, i as u32));
        }
        for i in 0..3000u64 {
            let at = 2000 + pause + 2 * i;
            let sequence = first + i as u16;
            events.push((at, 0, ssrc, sequence, 500_000 + i as u32));
            events.push((at + skew, 1, ssrc, sequence, 500_000 + i as u32));
        }
        events.sort_by_key(|event| event.0);
        let mut bench = Bench::new();
        for (at, path, ssrc, sequence, timestamp) in events {
            bench.feed_stamped(path, at, ssrc, sequence, timestamp);
        }
        let expected: Vec<u16> = (0..1000).map(|i| 30_000 + i).chain((0..3000).map(|i| first + i)).collect();
        assert!(bench.sequences() == expected, "{pause} {first} {skew} {ssrc}: {}", bench.out.len());
        assert_eq!(bench.merge.lost(), 0);
    }
}

#[test]
fn merge_is_not_disturbed_by_restart_of_one_path() {
    let mut bench = Bench::new();
    for i in 0..3000u64 {
        bench.feed_stamped(0, 2 * i, 7, 30_000 + i as u16, i as u32);
        let (sequence, timestamp) = if i < 500 { (30_000 + i as u16, i as u32) } else { (26_000 + i as u16, 7) };
        bench.feed_stamped(1, 2 * i + 20, 7, sequence, timestamp + if i < 500 { 0 } else { i as u32 });
    }
    assert_eq!(bench.sequences(), (0..3000).map(|i| 30_000 + i).collect::<Vec<u16>>());
    assert_eq!(bench.merge.lost(), 0);
    // The path that has restarted takes over once the other is silent.
    for i in 3000..3400u64 {
        bench.feed_stamped(1, 2 * i + 20, 7, 26_000 + i as u16, 7 + i as u32);
    }
    let rest = bench.sequences().split_off(3000);
    assert!(rest.len() >= 390 && rest.windows(2).all(|pair| pair[1] == pair[0] + 1), "{}", rest.len());
}

#[test]
fn merge_takes_path_that_lags_too_far_for_no_restart() {
    let mut bench = Bench::new();
    let mut events: Vec<(u64, usize, u64)> = Vec::new();
    for i in 0..2000u64 {
        events.extend((i % 50 >= 5).then_some((2 * i, 0, i)));
        events.extend((i % 50 < 45).then_some((2 * i + 400, 1, i)));
    }
    events.sort();
    for (at, path, i) in events {
        bench.feed_stamped(path, at, 7, 100 + i as u16, i as u32);
    }
    let out = bench.sequences();
    assert!(out.windows(2).all(|pair| pair[0] < pair[1]), "nothing is doubled");
    assert!(out.len() >= 1800, "{}", out.len());
}

#[test]
fn merge_starts_anew_when_all_paths_are_lost() {
    let mut bench = Bench::new();
    for i in 0..100u16 {
        bench.feed(0, u64::from(i), 5000 + i);
        bench.feed(1, u64::from(i), 5000 + i);
    }
    let now = bench.start + Duration::from_millis(100);
    bench.merge.lose(0, now, &mut bench.out);
    bench.merge.lose(1, now, &mut bench.out);
    bench.feed(1, 101, 5000);
    assert_eq!(bench.sequences()[100..], [5000]);
}

proptest! {
    /// Either path may lose any packet and lag by less than the window. The output is the union of the packets that
    /// the paths delivered, each once and in order.
    #[test]
    fn merge_output_is_the_union_of_the_paths(
        fates in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..400),
        skew in 0u64..190, first in any::<u16>(), gap in 1u64..3,
    ) {
        let mut bench = Bench::new();
        let mut events = Vec::new();
        for (i, (a, b)) in fates.iter().enumerate() {
            let at = i as u64 * gap;
            let sequence = first.wrapping_add(i as u16);
            events.extend(a.then_some((at, 0, sequence)));
            events.extend(b.then_some((at + skew, 1, sequence)));
        }
        events.sort_by_key(|event| event.0);
        for (at, path, sequence) in &events {
            bench.feed(*path, *at, *sequence);
        }
        let end = bench.start + Duration::from_secs(10);
        bench.merge.handle_timeout(end, &mut bench.out);
        let brought: Vec<u16> = fates.iter().enumerate().filter(|(_, (a, b))| a | b)
            .map(|(i, _)| first.wrapping_add(i as u16)).collect();
        // Packets before the first one of the earlier path, delivered only by the later path, are dropped as late.
        let out = bench.sequences();
        let skipped = brought.len() - out.len();
        prop_assert_eq!(&out[..], &brought[skipped..]);
        let from_first = fates.iter().position(|(a, _)| *a).unwrap_or(0);
        prop_assert!(skipped <= from_first);
    }
}

#[test]
fn merge_waits_as_long_as_a_path_needs_to_recover() {
    let mut bench = Bench::new();
    bench.merge.widen(Duration::from_millis(1000));
    bench.merge.set_window(WINDOW);
    bench.feed(0, 0, 0);
    bench.feed(0, 1, 2);
    bench.feed(0, 900, 3);
    assert_eq!(bench.sequences(), [0]);
    bench.feed(0, 901, 1);
    assert_eq!(bench.sequences(), [0, 1, 2, 3]);
    bench.feed(0, 902, 5);
    bench.feed(0, 1903, 6);
    assert_eq!((bench.sequences().len(), bench.merge.lost()), (6, 1));
}
