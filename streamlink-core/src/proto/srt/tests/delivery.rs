//! Delivery over the simulated network: on time, in order, and repaired at the cost of the loss.

use super::*;

#[test]
fn srt_delivers_everything_on_time_over_a_clean_network() {
    let mut world = World::new(FAIR, latency(120), latency(200), 1);
    let sent = world.connect().send(1000, ms(2));
    assert_eq!(world.check(), (0..1000).collect::<Vec<u32>>());
    // The larger latency of both ends applies, beside the delay of the path at the handshake.
    for (at, (due, _)) in sent.iter().zip(&world.delivered) {
        let held = *due - *at;
        assert!((ms(200)..ms(212)).contains(&held), "{held:?}");
    }
    let stats = world.receiver().stats();
    assert_eq!((stats.received.lost, stats.received.missed, stats.latency), (0, 0, ms(200)));
    assert!((ms(19)..ms(22)).contains(&stats.rtt), "{:?}", stats.rtt);
    assert_eq!(world.sender().stats().sent.retransmitted, 0);
}

#[test]
fn srt_holds_packets_for_the_latency_however_long_it_runs() {
    for delay in [10, 150] {
        let mut world = World::new(Weather { delay: ms(delay), ..FAIR }, latency(600), latency(600), 1);
        let sent = world.connect().send(20_000, ms(2));
        assert_eq!(world.check().len(), 20_000);
        for (at, (due, _)) in sent.iter().zip(&world.delivered) {
            let held = *due - *at;
            assert!((ms(600 + delay)..ms(603 + delay)).contains(&held), "{held:?} at {at:?}, with {delay} ms");
        }
    }
}

#[test]
fn srt_repairs_ten_percent_loss_within_eight_round_trips() {
    for seed in 0..8 {
        for encrypted in [false, true] {
            let secret = encrypted.then(|| "correct horse".to_owned());
            let weather = Weather { loss: 10, delay: ms(100), jitter: ms(5), ..FAIR };
            let terms = Terms { passphrase: secret.map(Into::into), ..latency(1600) };
            let mut world = World::new(weather, terms.clone(), terms, 1000 + seed);
            world.connect().send(2000, ms(2));
            assert_eq!(world.check().len(), 2000, "seed {seed}: {:?}", world.receiver().stats());
            let stats = world.receiver().stats();
            assert!(stats.received.lost == 0 && stats.received.recovered > 100, "{stats:?}");
        }
    }
}

/// Checks that a packet is sent again about as often as the network loses it, and that what is sent again is enough.
#[test]
fn srt_retransmissions_cost_what_the_loss_costs() {
    // Round-trip time in milliseconds, loss in percent, and the latency in round-trip times that suffices for it. Losses
    // are reported every 20 ms at most, so that the shortest latency is longer than that rule gives.
    for rtt in [10, 80, 300] {
        for (loss, latencies) in [(1, 4), (2, 4), (5, 8), (10, 8), (20, 12)] {
            let weather = Weather { loss, delay: ms(rtt / 2), ..FAIR };
            let held = latency((rtt * latencies).max(240));
            let mut world = World::new(weather, held.clone(), held, rtt * 100 + loss);
            world.connect().send(10_000, ms(2));
            world.run_until(world.now + ms(4000));
            let lost = world.lost;
            let repeats = world.sender().stats().sent.retransmitted;
            assert_eq!(world.check().len(), 10_000, "rtt {rtt} ms, loss {loss} %");
            assert!(repeats * 100 <= lost * 115, "rtt {rtt} ms, loss {loss} %: {lost} lost, {repeats} sent again");
        }
    }
}

#[test]
fn srt_retransmissions_of_bursts_cost_what_the_loss_costs() {
    for rtt in [10, 80, 300] {
        // The bursts are rare, so that not every retransmission of a burst falls into the next.
        let weather = Weather { bursts: 1, burst: 20, delay: ms(rtt / 2), ..FAIR };
        let held = latency((rtt * 12).max(240));
        let mut world = World::new(weather, held.clone(), held, rtt + 7);
        world.connect().send(10_000, ms(2));
        world.run_until(world.now + ms(4000));
        let lost = world.lost;
        let repeats = world.sender().stats().sent.retransmitted;
        assert_eq!(world.check().len(), 10_000, "rtt {rtt} ms");
        assert!(repeats * 100 <= lost * 115, "rtt {rtt} ms: {lost} lost, {repeats} sent again");
    }
}

#[test]
fn srt_retransmissions_over_a_path_that_reorders_cost_what_the_loss_costs() {
    for rtt in [10, 80, 300] {
        for (loss, latencies) in [(0, 4), (1, 4), (2, 4), (5, 8), (10, 8), (20, 12)] {
            // Packets overtake each other by up to 50 ms.
            let weather = Weather { loss, delay: ms(rtt / 2), jitter: ms(50), ..FAIR };
            let held = latency((rtt + 100) * latencies);
            let mut world = World::new(weather, held.clone(), held, rtt * 100 + loss);
            world.connect().send(10_000, ms(2));
            world.run_until(world.now + ms(6000));
            let lost = world.lost;
            let repeats = world.sender().stats().sent.retransmitted;
            println!("rtt {rtt} ms, loss {loss} %, reordering 50 ms: {lost} lost, {repeats} sent again");
            assert_eq!(world.check().len(), 10_000, "rtt {rtt} ms, loss {loss} %");
            // A few are sent again until the receiver knows the path.
            assert!(repeats * 100 <= lost * 115 + 1_000, "rtt {rtt} ms, loss {loss} %: {lost}, {repeats}");
        }
    }
}

#[test]
fn srt_reports_losses_at_once_again_when_the_path_keeps_the_order() {
    let mut world = World::new(Weather { jitter: ms(50), ..FAIR }, latency(800), latency(800), 7);
    world.connect().send(2000, ms(2));
    assert!(!world.receiver().receiver.reports_without_delay());
    world.weather.jitter = Duration::ZERO;
    world.send(15_000, ms(2));
    assert!(world.receiver().receiver.reports_without_delay());
}

#[test]
fn srt_never_duplicates_reorders_or_alters() {
    for seed in 0..40 {
        let mut dice = TestRng(seed * 77 + 5);
        let weather = Weather {
            loss: dice.next_u64() % 31,
            bursts: dice.next_u64() % 3,
            burst: 10,
            duplicates: dice.next_u64() % 20,
            delay: ms(dice.next_u64() % 100),
            jitter: ms(dice.next_u64() % 40),
            blackout: dice.percent(50).then(|| (ms(2000), ms(2000 + dice.next_u64() % 1500))),
        };
        let terms = Terms { passphrase: Some("correct horse".into()), ..latency(120 + dice.next_u64() % 500) };
        let mut world = World::new(weather, terms.clone(), terms, seed);
        for _ in 0..20 {
            if matches!(world.caller, End::Up(_)) {
                break;
            }
            world.run_until(world.now + ms(100));
        }
        if !matches!(world.caller, End::Up(_)) {
            continue; // with 30 % loss both ways not every call gets through
        }
        world.send(1500, ms(2));
        let numbers = world.check();
        let stats = world.receiver().stats().received;
        assert_eq!(stats.packets, numbers.len() as u64, "seed {seed}");
    }
}

#[test]
fn srt_sequence_numbers_and_timestamps_wrap() {
    // In two and a half hours the timestamps wrap twice. The first sequence number lies just before its own wrap.
    fn high(bytes: &mut [u8]) {
        bytes.fill(0xff);
    }
    let weather = Weather { loss: 2, delay: ms(20), jitter: ms(3), ..FAIR };
    let mut world = World::new(weather, latency(300), latency(300), 9);
    let local = Local { id: 100, start: world.start, random: Random::of(high) };
    world.caller = End::Calling(Box::new(Caller::new(latency(300), local, Some("cam1".into()), ms(3000))));
    let sent = world.connect().send(90_000, ms(100));
    assert_eq!(world.check().len(), 90_000);
    for (at, (due, _)) in sent.iter().zip(&world.delivered) {
        let held = *due - *at;
        assert!((ms(290)..ms(330)).contains(&held), "{held:?} at {at:?}");
    }
    assert!(world.now - world.start > Duration::from_secs(9000));
}
