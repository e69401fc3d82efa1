use super::*;

/// Transport packets of one datagram; the first carries a clock reference, in units of 90 kHz, if there is one.
fn datagram(clock: Option<u64>) -> Vec<u8> {
    datagram_at(clock.map(|clock| clock * 300))
}

/// Does the same with a clock reference in units of 27 MHz.
fn datagram_at(reference: Option<u64>) -> Vec<u8> {
    let clock = reference.map(|reference| reference / 300);
    let extension = (reference.unwrap_or(0) % 300) as u16;
    let mut bytes = Vec::new();
    for at in 0..7 {
        let mut packet = vec![0x47, 1, 0, 0x10];
        if let Some(clock) = clock.filter(|_| at == 0) {
            packet[3] = 0x30;
            packet.extend([7, 0x10]);
            packet.extend(((clock >> 1) as u32).to_be_bytes());
            packet.extend([(clock as u8 & 1) << 7 | (extension >> 8) as u8, extension as u8]);
        }
        packet.resize(188, 0xff);
        bytes.extend(packet);
    }
    bytes
}

/// A pacer in virtual time, and the departures of its packets.
struct Bench {
    pacer: Pacer,
    start: Instant,
    now: Instant,
    sent: Vec<(u64, Duration)>,
    place: u64,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self { pacer: Pacer::default(), start, now: start, sent: Vec::new(), place: 0 }
    }

    /// Advances the clock, and sends what is due at its time.
    fn run_to(&mut self, time: Duration) {
        let end = self.start + time;
        while let Some(at) = self.pacer.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.pacer.handle_timeout(self.now);
            while let Some(packet) = self.pacer.pop(self.now) {
                self.sent.push((packet.place, self.now - self.start));
            }
        }
        self.now = self.now.max(end);
    }

    fn push(&mut self, time: Duration, payload: &[u8]) {
        self.run_to(time);
        let packet = Packet::rtp(payload.to_vec(), self.now);
        self.pacer.push(Placed { packet, place: self.place }, payload, self.now);
        self.place += 1;
    }

    /// Pushes bursts of datagrams, the first with a reference every 40 ms; `sizes`: number of each burst.
    fn bursts(&mut self, from: Duration, clock: u64, sizes: &[usize]) -> Duration {
        let mut at = from;
        for (i, size) in sizes.iter().enumerate() {
            for n in 0..*size {
                let clock = clock + 3600 * i as u64;
                self.push(at, &datagram((n == 0).then_some(clock)));
            }
            at += Duration::from_millis(40);
        }
        at
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn pacer_spreads_bursts_to_the_times_of_the_clock() {
    let mut bench = Bench::new();
    let sizes: Vec<usize> = (0..50).map(|i| 4 + 7 * (i % 5)).collect();
    let end = bench.bursts(Duration::ZERO, 1_000_000, &sizes);
    bench.run_to(end + millis(2000));
    assert_eq!(bench.sent.len(), sizes.iter().sum::<usize>());
    assert!(bench.sent.iter().map(|(place, _)| *place).eq(0..bench.place), "in order");
    let mut sent = bench.sent.iter();
    for (i, size) in sizes.iter().enumerate().take(sizes.len() - 1) {
        for n in 0..*size {
            let wanted = millis(100 + 40 * i as u64) + millis(40) * n as u32 / *size as u32;
            let (_, found) = sent.next().unwrap();
            let off = found.abs_diff(wanted);
            assert!(off < Duration::from_micros(40), "burst {i}, {n}: {found:?} and not {wanted:?}");
        }
    }
    assert_eq!(bench.pacer.restarts(), 1, "the last burst waited for a reference in vain");
}

/// References that are no multiples of 90 kHz, as all multiplexers write them: each byte leaves at the time of its place.
#[test]
fn pacer_times_bytes_within_500_ns_of_the_clock() {
    let mut bench = Bench::new();
    // 10 Mb/s: seven transport packets take 1.0528 ms, and every 30th datagram has a reference.
    let ticks = |datagrams: u64| datagrams * 1316 * 8 * 27 / 10;
    let first = 123_456_789_017;
    for n in 0..3000u64 {
        let reference = n.is_multiple_of(30).then(|| first + ticks(n));
        bench.push(Duration::from_nanos(ticks(n) * 1000 / 27), &datagram_at(reference));
    }
    bench.run_to(Duration::from_secs(5));
    let begin = bench.sent[0].1;
    let mut worst = Duration::ZERO;
    for (place, at) in &bench.sent[..2900] {
        let wanted = Duration::from_nanos(ticks(*place) * 1000 / 27);
        worst = worst.max((*at - begin).abs_diff(wanted));
    }
    assert!(worst <= Duration::from_nanos(500), "{worst:?}");
}

#[test]
fn pacer_passes_media_without_a_clock_at_once() {
    let mut bench = Bench::new();
    for i in 0..10 {
        bench.push(millis(i * 10), &datagram(None));
        bench.push(millis(i * 10), &[]);
        bench.run_to(millis(i * 10));
    }
    let times: Vec<Duration> = bench.sent.iter().map(|(_, at)| *at).collect();
    assert_eq!(times, (0..10).flat_map(|i| [millis(i * 10); 2]).collect::<Vec<_>>());
    assert_eq!(bench.pacer.next_timeout(), None);
}

#[test]
fn pacer_goes_on_over_jumps_and_the_wrap_of_the_clock() {
    let mut bench = Bench::new();
    let at = bench.bursts(Duration::ZERO, (1 << 33) - 9000, &[10; 10]); // wraps within
    let at = bench.bursts(at, 5, &[10; 10]); // jumps
    bench.run_to(at + millis(1000));
    assert!(bench.sent.iter().map(|(place, _)| *place).eq(0..200), "in order, none is lost");
    // Over the jump the rate before holds: nothing is held for long, and nothing leaves in a burst.
    for pair in bench.sent[..190].windows(2) {
        let gap = pair[1].1 - pair[0].1;
        assert!(gap <= millis(5) && gap >= millis(3), "{gap:?} before {}", pair[1].0);
    }
}

#[test]
fn pacer_follows_a_clock_that_drifts_without_restarts() {
    for ppm in [-80i64, 80] {
        let mut bench = Bench::new();
        let step = Duration::from_nanos((40_000_000 + 40 * ppm) as u64);
        for i in 0..25 * 600u32 {
            for n in 0..4 {
                bench.push(step * i, &datagram((n == 0).then_some(3600 * u64::from(i))));
            }
            if i == 25 * 300 {
                bench.sent.clear();
            }
        }
        assert_eq!(bench.pacer.restarts(), 0, "{ppm}");
        let last = bench.sent.last().unwrap();
        let came = step * (last.0 / 4) as u32;
        let delay = last.1 - came;
        assert!((millis(20)..millis(160)).contains(&delay), "{ppm}: {delay:?}");
    }
}

#[test]
fn pacer_starts_anew_after_a_stall_and_keeps_its_bounds() {
    let mut bench = Bench::new();
    bench.bursts(Duration::ZERO, 0, &[5; 10]);
    // The stream stalls for 300 ms, and goes on where it was.
    let at = bench.bursts(millis(660), 36_000, &[5; 10]);
    bench.run_to(at + millis(600));
    assert!(bench.sent.iter().map(|(place, _)| *place).eq(0..100));
    assert!(bench.pacer.restarts() >= 1);
    // A stream that comes at once is held for a second at most, and no more than so many packets of it.
    let mut bench = Bench::new();
    for i in 0..2000 {
        for n in 0..50 {
            bench.push(Duration::ZERO, &datagram((n == 0).then_some(3600 * i)));
        }
        assert!(
            bench.pacer.due.len() + bench.pacer.segment.len() <= MAX_HELD + 51 || bench.pacer.due[0].0 <= bench.now
        );
    }
    bench.run_to(millis(3000));
    assert_eq!(bench.sent.len(), 100_000, "nothing is lost");
}

proptest::proptest! {
    #[test]
    fn pacer_sends_any_stream_in_order_and_in_time(
        steps in proptest::collection::vec((0u64..700, proptest::option::of(proptest::num::u64::ANY), 0u64..9000), 0..60),
    ) {
        let mut bench = Bench::new();
        let mut at = 0;
        let mut clock = 0;
        for (wait, jump, step) in steps {
            at += wait;
            clock = jump.filter(|jump| jump % 4 == 0).unwrap_or(clock + step) % MODULUS;
            bench.push(millis(at), &datagram((step % 3 == 0).then_some(clock)));
        }
        bench.run_to(millis(at + 3000));
        proptest::prop_assert!(bench.sent.iter().map(|(place, _)| *place).eq(0..bench.place));
    }
}
