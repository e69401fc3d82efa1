//! SRT over a simulated network, in virtual time: loss, bursts, reordering, duplication, jitter, blackouts. Seeds that
//! once failed are kept here.

use super::{
    crypto::Keys,
    packet::{Ack, HEADER},
    sequence::Sequence,
    *,
};
use crate::{random::Random, test_rng::TestRng};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

mod filter;
mod group;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn random(bytes: &mut [u8]) {
    bytes.iter_mut().enumerate().for_each(|(i, b)| *b = 17 + i as u8);
}

/// Behaviour of a simulated network.
#[derive(Clone, Copy)]
struct Weather {
    /// Loss in percent of packets.
    loss: u64,
    /// Percent of packets after which a burst is lost.
    bursts: u64,
    /// Length of a burst in packets.
    burst: u32,
    duplicates: u64,
    delay: Duration,
    jitter: Duration,
    /// Period in which all packets of the caller are lost.
    blackout: Option<(Duration, Duration)>,
}

const FAIR: Weather = Weather {
    loss: 0,
    bursts: 0,
    burst: 10,
    duplicates: 0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    blackout: None,
};

enum End {
    Calling(Box<Caller>),
    Up(Box<Connection>),
    Down,
}

/// Sending caller and receiving listener, with the network between them.
struct World {
    start: Instant,
    now: Instant,
    caller: End,
    listener: Listener,
    terms: Terms,
    accepted: Option<(Connection, Vec<u8>)>,
    wires: BTreeMap<(Instant, u64), (bool, Bytes)>,
    count: u64,
    dice: TestRng,
    burst: u32,
    /// Data packets of the caller that the network has lost.
    lost: u64,
    weather: Weather,
    delivered: Vec<(Duration, Bytes)>,
    rejected: Option<Rejection>,
}

const PEER: &str = "192.0.2.1:5000";

impl World {
    fn new(weather: Weather, caller: Terms, listener: Terms, seed: u64) -> Self {
        let start = Instant::now();
        let local = Local { id: 100, start, random: Random::of(random) };
        Self {
            start,
            now: start,
            caller: End::Calling(Box::new(Caller::new(caller, local, Some("cam1".into()), ms(3000)))),
            listener: Listener::new([3; 32], start),
            terms: listener,
            accepted: None,
            wires: BTreeMap::new(),
            count: 0,
            dice: TestRng(seed | 1),
            burst: 0,
            lost: 0,
            weather,
            delivered: Vec::new(),
            rejected: None,
        }
    }

    /// Puts a packet on the wire.
    fn put(&mut self, to_listener: bool, bytes: Bytes) {
        let elapsed = self.now - self.start;
        let dark = to_listener && self.weather.blackout.is_some_and(|(from, to)| (from..to).contains(&elapsed));
        if self.burst == 0 && self.dice.percent(self.weather.bursts) {
            self.burst = self.weather.burst + 1;
        }
        if self.burst > 0 || dark || self.dice.percent(self.weather.loss) {
            self.burst = self.burst.saturating_sub(1);
            self.lost += u64::from(to_listener && bytes[0] & 0x80 == 0);
            return;
        }
        let copies = 1 + u64::from(self.dice.percent(self.weather.duplicates));
        for _ in 0..copies {
            let jitter = self.weather.jitter.as_micros() as u64;
            let extra = if jitter > 0 { self.dice.next_u64() % jitter } else { 0 };
            self.count += 1;
            let at = self.now + self.weather.delay + Duration::from_micros(extra);
            self.wires.insert((at, self.count), (to_listener, bytes.clone()));
        }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        let now = self.now;
        match &mut self.caller {
            End::Calling(caller) => out.extend(caller.poll_transmit(now).map(|b| (true, Bytes::from(b)))),
            End::Up(connection) => out.extend(drain(connection, now).into_iter().map(|b| (true, b))),
            End::Down => {}
        }
        if let Some((connection, _)) = &mut self.accepted {
            out.extend(drain(connection, now).into_iter().map(|b| (false, b)));
            while let Some(payload) = connection.poll_payload(now) {
                self.delivered.push((now - self.start, payload));
            }
        }
        out.into_iter().for_each(|(to_listener, bytes)| self.put(to_listener, bytes));
    }

    fn arrive(&mut self, to_listener: bool, bytes: &Bytes) {
        let now = self.now;
        let Some(packet) = Packet::parse(bytes) else { panic!("a packet of ours cannot be read") };
        if to_listener {
            match (&packet, &mut self.accepted) {
                (Packet::Control { control: Control::Handshake(body), timestamp, .. }, accepted) => {
                    let peer: SocketAddr = PEER.parse().unwrap();
                    match self.listener.greet(body, peer, now) {
                        Greeting::Induction(induction) => {
                            let reply = self.listener.welcome(&induction, peer, now);
                            self.put(false, reply.into());
                        }
                        Greeting::Request(request) => match accepted {
                            // A repeated conclusion gets the same answer.
                            Some((_, reply)) => {
                                let reply = reply.clone().into();
                                self.put(false, reply);
                            }
                            None => {
                                assert_eq!(request.extensions.stream_id.as_deref(), Some("cam1"));
                                let local = Local { id: 200, start: now, random: Random::of(random) };
                                match self.terms.accept_here(&request, *timestamp, &local) {
                                    Ok((agreement, answer)) => {
                                        let body = answer.write();
                                        let reply = write_control(&Control::Handshake(&body), 0, request.socket_id);
                                        self.accepted = Some((Connection::new(agreement, now), reply.clone()));
                                        self.put(false, reply.into());
                                    }
                                    Err(reason) => {
                                        let reply = self.listener.reject(&request, reason, now);
                                        self.put(false, reply.into());
                                    }
                                }
                            }
                        },
                        Greeting::Ignore => {}
                    }
                }
                (_, Some((connection, _))) => connection.handle(&packet, bytes, now),
                _ => {}
            }
            return;
        }
        match &mut self.caller {
            End::Calling(caller) => {
                if let Packet::Control { control: Control::Handshake(body), timestamp, .. } = packet {
                    match caller.handle(body, timestamp, now) {
                        Progress::Connected(connection) => self.caller = End::Up(connection),
                        Progress::Rejected(reason) => {
                            self.rejected = Some(reason);
                            self.caller = End::Down;
                        }
                        _ => {}
                    }
                }
            }
            End::Up(connection) => connection.handle(&packet, bytes, now),
            End::Down => {}
        }
    }

    /// Advances the time to `end`, and runs everything that is due.
    fn run_until(&mut self, end: Instant) {
        for step in 0.. {
            assert!(step < 50_000_000, "time stands still");
            self.flush();
            let wire = self.wires.keys().next().map(|(at, _)| *at);
            let caller = match &self.caller {
                End::Calling(caller) => Some(caller.next_timeout()),
                End::Up(connection) => connection.next_timeout(),
                End::Down => None,
            };
            let listener = self.accepted.as_ref().and_then(|(connection, _)| connection.next_timeout());
            let due = [wire, caller, listener].into_iter().flatten().min().unwrap_or(end);
            if due >= end {
                self.now = end;
                return self.flush();
            }
            // A timer that is due at once fires a little later, as in a runtime.
            self.now = due.max(self.now + Duration::from_micros(if wire == Some(due) { 0 } else { 100 }));
            while let Some((key, (to_listener, bytes))) = self.wires.pop_first() {
                if key.0 > self.now {
                    self.wires.insert(key, (to_listener, bytes));
                    break;
                }
                self.arrive(to_listener, &bytes);
            }
            let now = self.now;
            if let End::Up(connection) = &mut self.caller {
                connection.handle_timeout(now);
            }
            if let Some((connection, _)) = &mut self.accepted {
                connection.handle_timeout(now);
            }
        }
    }

    fn connect(&mut self) -> &mut Self {
        for _ in 0..300 {
            self.run_until(self.now + ms(10));
            if matches!(self.caller, End::Up(_)) && self.accepted.is_some() {
                return self;
            }
        }
        panic!("no connection");
    }

    fn sender(&mut self) -> &mut Connection {
        match &mut self.caller {
            End::Up(connection) => connection,
            _ => panic!("not connected"),
        }
    }

    fn receiver(&mut self) -> &mut Connection {
        &mut self.accepted.as_mut().unwrap().0
    }

    /// Sends numbered packets at equal intervals, and waits for their arrival. Returns the time at which each was sent.
    fn send(&mut self, count: u32, interval: Duration) -> Vec<Duration> {
        let mut sent = Vec::new();
        for i in 0..count {
            let now = self.now;
            assert!(self.sender().push(&payload(i), now), "no room");
            sent.push(now - self.start);
            self.run_until(now + interval);
        }
        self.run_until(self.now + ms(3000));
        sent
    }

    /// Checks that no packet was delivered twice, out of order or altered. Returns the delivered numbers.
    fn check(&self) -> Vec<u32> {
        let numbers: Vec<u32> = self.delivered.iter().map(|(_, p)| number(p)).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{numbers:?}");
        for (_, p) in &self.delivered {
            assert_eq!(*p, payload(number(p)));
        }
        numbers
    }
}

fn drain(connection: &mut Connection, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| connection.poll_transmit(now))
        .map(|t| match t.header {
            Some(header) => [&header[..], &t.body].concat().into(),
            None => t.body,
        })
        .collect()
}

fn payload(i: u32) -> Bytes {
    let mut bytes = i.to_be_bytes().to_vec();
    bytes.extend((0..1312u32).map(|k| (k ^ i) as u8));
    bytes.into()
}

fn number(payload: &Bytes) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

fn latency(millis: u64) -> Terms {
    Terms { receive_latency: ms(millis), peer_latency: ms(millis), ..Terms::default() }
}

#[test]
fn srt_delivers_everything_on_time_over_a_clean_network() {
    let mut world = World::new(FAIR, latency(120), latency(200), 1);
    let sent = world.connect().send(1000, ms(2));
    assert_eq!(world.check(), (0..1000).collect::<Vec<u32>>());
    // The larger latency of both ends applies. It counts from the time of sending, whatever the delay of the path.
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
fn srt_repairs_ten_percent_loss_within_four_round_trips() {
    for seed in 0..8 {
        for encrypted in [false, true] {
            let secret = encrypted.then(|| "correct horse".to_owned());
            let weather = Weather { loss: 10, delay: ms(100), jitter: ms(5), ..FAIR };
            let terms = Terms { passphrase: secret.map(Into::into), ..latency(1200) };
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
            let (lost, repeats) = (world.lost, world.sender().stats().sent.retransmitted);
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
        let (lost, repeats) = (world.lost, world.sender().stats().sent.retransmitted);
        assert_eq!(world.check().len(), 10_000, "rtt {rtt} ms");
        assert!(repeats * 100 <= lost * 115, "rtt {rtt} ms: {lost} lost, {repeats} sent again");
    }
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

#[test]
fn srt_key_refresh_leaves_no_gap() {
    let terms = Terms {
        passphrase: Some("correct horse".into()),
        key_refresh: 200,
        key_announce: 50,
        key_length: 32,
        ..latency(400)
    };
    let weather = Weather { loss: 5, delay: ms(20), ..FAIR };
    let mut world = World::new(weather, terms.clone(), terms, 4);
    world.connect().send(3000, ms(2));
    assert_eq!(world.check().len(), 3000);
    assert_eq!(world.receiver().stats().undecrypted, 0);
}

fn gcm(length: usize) -> Terms {
    Terms {
        passphrase: Some("correct horse".into()),
        cipher: Some(CipherMode::Gcm),
        key_length: length,
        ..latency(400)
    }
}

#[test]
fn srt_gcm_carries_everything_over_losses_and_key_refreshes() {
    for length in [16, 24, 32] {
        // A listener without a mode of its own takes the caller's.
        for listener in [gcm(16), Terms { cipher: None, ..gcm(16) }] {
            let caller = Terms { key_refresh: 200, key_announce: 50, ..gcm(length) };
            let weather = Weather { loss: 5, duplicates: 3, delay: ms(20), jitter: ms(2), ..FAIR };
            let mut world = World::new(weather, caller, listener, 40 + length as u64);
            world.connect().send(2000, ms(2));
            assert_eq!(world.check().len(), 2000);
            let stats = world.receiver().stats();
            assert_eq!((stats.encrypted, stats.undecrypted, stats.received.lost), (true, 0, 0));
            assert_eq!(world.sender().max_payload(), 1456 - 16);
            assert_eq!(world.receiver().max_payload(), 1456 - 16);
        }
    }
}

#[test]
fn srt_gcm_discards_altered_packets_and_gets_the_real_ones() {
    let mut world = World::new(FAIR, gcm(32), gcm(32), 8);
    world.connect();
    let mut dice = TestRng(77);
    let mut forged = 0;
    for i in 0..300 {
        let now = world.now;
        assert!(world.sender().push(&payload(i), now));
        for bytes in drain(world.sender(), now) {
            if bytes[0] & 0x80 == 0 {
                // The altered copy arrives before the real one.
                let mut altered = bytes.to_vec();
                let at = 4 + dice.next_u64() as usize % (altered.len() - 4);
                altered[at] ^= 1 << (dice.next_u64() % 8);
                let altered = Bytes::from(altered);
                let marks_repeat = at == 4 && altered[4] ^ bytes[4] == 4;
                let changes_key = at == 4 && (altered[4] ^ bytes[4]) & 0x18 != 0;
                if let Some(packet) = Packet::parse(&altered).filter(|_| !marks_repeat && !changes_key) {
                    world.receiver().handle(&packet, &altered, now);
                    forged += 1;
                }
            }
            let packet = Packet::parse(&bytes).unwrap();
            world.receiver().handle(&packet, &bytes, now);
        }
        world.run_until(now + ms(2));
    }
    world.run_until(world.now + ms(1000));
    assert_eq!(world.check().len(), 300);
    let stats = world.receiver().stats();
    assert_eq!((stats.undecrypted, stats.received.lost), (forged, 0));
    assert!(forged > 250, "{forged}");
}

#[test]
fn srt_rejects_other_cipher_in_both_roles() {
    let ctr = Terms { cipher: Some(CipherMode::Ctr), ..gcm(16) };
    let auto = Terms { cipher: None, ..gcm(16) };
    for (caller, listener, accepted) in [
        (gcm(16), ctr.clone(), false),
        (ctr.clone(), gcm(16), false),
        (auto.clone(), gcm(16), false),
        (auto.clone(), ctr.clone(), true),
        (auto.clone(), auto.clone(), true),
        (ctr, auto, true),
    ] {
        let mut world = World::new(FAIR, caller, listener, 2);
        world.run_until(world.now + ms(500));
        assert_eq!(world.rejected, (!accepted).then_some(Rejection::CRYPTO));
        assert_eq!(world.accepted.is_some(), accepted);
    }
}

#[test]
fn srt_gcm_of_libsrt_before_1_5_4_is_rejected_in_both_roles() {
    for (version, accepted) in [(0x01_05_02, false), (0x01_05_03, false), (0x01_05_04, true), (0x01_06_00, true)] {
        let mut request = conclusion(gcm(16));
        request.extensions.srt.as_mut().unwrap().version = version;
        let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
        let result = gcm(16).accept_here(&request, 0, &local);
        assert_eq!(result.as_ref().err(), (!accepted).then_some(&Rejection::CRYPTO), "{version:x}");
        let (_, mut answer) = gcm(16).accept_here(&conclusion(gcm(16)), 0, &local).unwrap();
        answer.extensions.srt.as_mut().unwrap().version = version;
        let keys = Keys::generate(16, CipherMode::Gcm, &[1; 48], "correct horse");
        let result = gcm(16).conclude(&answer, 0, &local, Some(keys), Sequence::new(1));
        assert_eq!(result.err(), (!accepted).then_some(Rejection::CRYPTO), "{version:x}");
    }
    // The counter mode of old versions is as good as that of new ones.
    let mut request = conclusion(secret_terms());
    request.extensions.srt.as_mut().unwrap().version = 0x01_03_00;
    assert!(secret_terms().prepare(&request).is_ok());
}

#[test]
fn srt_rejects_wrong_passphrase() {
    let secret = |s: &str| Terms { passphrase: Some(s.into()), ..Terms::default() };
    for (caller, listener, reason) in [
        (secret("correct horse"), secret("wrong horse!"), Rejection::BAD_SECRET),
        (secret("correct horse"), Terms::default(), Rejection::UNSECURE),
        (Terms::default(), secret("correct horse"), Rejection::UNSECURE),
    ] {
        let mut world = World::new(FAIR, caller, listener, 2);
        world.run_until(world.now + ms(500));
        assert_eq!(world.rejected, Some(reason));
        assert!(world.accepted.is_none());
    }
}

#[test]
fn srt_detects_dead_peer_and_shutdown() {
    let mut world = World::new(FAIR, Terms::default(), Terms::default(), 3);
    world.connect().send(10, ms(2));
    let count = world.delivered.len();
    // Idle connections stay open, kept alive by keep-alive packets.
    world.run_until(world.now + Duration::from_secs(60));
    assert_eq!((world.sender().closed(), world.receiver().closed()), (None, None));
    // A packet sent just before the shutdown is still delivered at its time.
    let now = world.now;
    assert!(world.sender().push(&payload(10), now));
    world.flush();
    world.sender().shut_down(now);
    world.run_until(now + ms(100));
    assert_eq!((world.receiver().closed(), world.delivered.len()), (None, count));
    world.run_until(now + ms(300));
    assert_eq!((world.receiver().closed(), world.delivered.len()), (Some(CloseReason::Shutdown), count + 1));

    let mut world = World::new(FAIR, Terms::default(), Terms::default(), 3);
    world.connect();
    world.caller = End::Down;
    world.run_until(world.now + Duration::from_secs(6));
    assert_eq!(world.receiver().closed(), Some(CloseReason::Idle));
}

#[test]
fn srt_ignores_forged_and_replayed_handshakes() {
    let now = Instant::now();
    let listener = Listener::new([3; 32], now);
    let local = Local { id: 1, start: now, random: Random::of(random) };
    let mut caller = Caller::new(Terms::default(), local, None, ms(3000));
    let (a, b): (SocketAddr, SocketAddr) = (PEER.parse().unwrap(), "192.0.2.2:5000".parse().unwrap());
    let body = |bytes: &[u8]| bytes[HEADER..].to_vec();
    let induction = caller.poll_transmit(now).unwrap();
    let Greeting::Induction(asked) = listener.greet(&body(&induction), a, now) else { panic!("not an induction") };
    let reply = listener.welcome(&asked, a, now);
    assert!(reply.len() <= induction.len(), "an answer to an unknown address must not amplify");
    assert!(matches!(caller.handle(&body(&reply), 0, now), Progress::Calling));
    let conclusion = body(&caller.poll_transmit(now).unwrap());
    assert!(matches!(listener.greet(&conclusion, a, now), Greeting::Request(_)));
    assert!(matches!(listener.greet(&conclusion, b, now), Greeting::Ignore), "the cookie is another address's");
    let later = now + Duration::from_secs(121);
    assert!(matches!(listener.greet(&conclusion, a, later), Greeting::Ignore), "the cookie is too old");
    for cut in 0..conclusion.len() {
        let _ = listener.greet(&conclusion[..cut], a, now);
    }
}

#[test]
fn srt_bounds_hostile_packets_within_a_connection() {
    let mut world = World::new(FAIR, Terms::default(), Terms::default(), 3);
    world.connect().send(50, ms(2));
    let now = world.now;
    let mut dice = TestRng(99);
    for round in 0..20_000u32 {
        let mut bytes = vec![0u8; 16 + dice.next_u64() as usize % 64];
        bytes.iter_mut().for_each(|b| *b = dice.next_u64() as u8);
        if round % 2 == 0 {
            bytes[..4].copy_from_slice(&[0x80, (round / 2 % 9) as u8, 0, 0]);
        } else {
            bytes[0] &= 0x7f;
        }
        if round % 18 == 10 {
            continue; // a valid shutdown would end the connection
        }
        let bytes = Bytes::from(bytes);
        if let Some(packet) = Packet::parse(&bytes) {
            world.receiver().handle(&packet, &bytes, now);
        }
        world.receiver().handle_timeout(now);
        while world.receiver().poll_payload(now).is_some() {}
    }
    while world.receiver().poll_transmit(now).is_some() {}
}

/// Checks that no packet sent by a listener is answered by another listener or by itself.
#[test]
fn srt_listener_answers_no_listener() {
    let now = Instant::now();
    let (one, other) = (Listener::new([3; 32], now), Listener::new([4; 32], now));
    let peer: SocketAddr = PEER.parse().unwrap();
    let local = Local { id: 7, start: now, random: Random::of(random) };
    let secret = Terms { passphrase: Some("correct horse".into()), ..Terms::default() };
    for terms in [Terms::default(), secret] {
        let mut caller = Caller::new(terms.clone(), local.clone(), None, ms(3000));
        let mut handshake = || Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let induction = handshake();
        let mut answers = vec![one.reject(&induction, Rejection::FORBIDDEN, now)];
        answers.push(one.welcome(&induction, peer, now));
        assert!(answers.iter().all(|answer| answer.len() <= HEADER + induction.write().len()));
        let _ = caller.handle(&answers[1][HEADER..], 0, now);
        let conclusion = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let Greeting::Request(request) = one.greet(&conclusion.write(), peer, now) else { panic!("no request") };
        let (_, agreed) = terms.accept_here(&request, 0, &Local { id: 9, ..local.clone() }).unwrap();
        answers.push(write_control(&Control::Handshake(&agreed.write()), 0, 7));
        answers.push(one.reject(&request, Rejection::BAD_SECRET, now));
        for answer in &answers {
            for listener in [&one, &other] {
                assert!(matches!(listener.greet(&answer[HEADER..], peer, now), Greeting::Ignore), "{answer:?}");
            }
        }
        // Without a socket id to answer to, an answer would have the destination of a handshake.
        for request in [&induction, &conclusion] {
            let forged = Handshake { socket_id: 0, ..request.clone() };
            assert!(matches!(one.greet(&forged.write(), peer, now), Greeting::Ignore));
        }
    }
}

#[test]
fn srt_peer_that_acknowledges_nothing_is_closed() {
    // The peer stays alive by sending keep-alive packets all the time.
    let keep_alive = write_control(&Control::KeepAlive, 0, 100);
    for packet_drop in [true, false] {
        let terms = Terms { packet_drop, ..latency(120) };
        let mut world = World::new(FAIR, terms.clone(), terms, 5);
        world.connect().send(100, ms(2));
        let begin = world.now;
        world.accepted = None;
        let mut closed = None;
        for step in 0..1200u64 {
            let now = begin + ms(step * 10);
            let packet = Packet::parse(&keep_alive).unwrap();
            let sender = world.sender();
            sender.handle(&packet, &Bytes::copy_from_slice(&keep_alive), now);
            sender.push(&payload(step as u32), now);
            sender.handle_timeout(now);
            drain(sender, now);
            closed = closed.or(sender.closed().map(|reason| (step, reason)));
        }
        let (step, reason) = closed.expect("closed");
        assert_eq!(reason, CloseReason::Unacknowledged);
        assert!((500..520).contains(&step), "after the idle timeout of 5 s: {step}");
    }
}

#[test]
fn srt_peer_that_reads_or_has_nothing_to_read_stays() {
    let mut world = World::new(Weather { loss: 20, ..FAIR }, latency(120), latency(120), 6);
    world.connect().send(5000, ms(2));
    world.run_until(world.now + Duration::from_secs(30));
    assert_eq!(world.sender().closed(), None);
    // Loss reports alone show that the peer reads.
    let mut world = World::new(FAIR, latency(120), latency(120), 6);
    world.connect().send(10, ms(2));
    let begin = world.now;
    for step in 0..1200u64 {
        let now = begin + ms(step * 10);
        let sender = world.sender();
        sender.push(&payload(step as u32), now);
        let report = write_control(&Control::Nak(vec![(Sequence::new(1), Sequence::new(1))]), 0, 100);
        sender.handle(&Packet::parse(&report).unwrap(), &Bytes::copy_from_slice(&report), now);
        sender.handle_timeout(now);
        drain(sender, now);
        assert_eq!(sender.closed(), None);
    }
}

#[test]
fn srt_protocol_fault_is_named() {
    let mut world = World::new(FAIR, latency(120), latency(120), 6);
    world.connect().send(10, ms(2));
    let now = world.now;
    let ack = write_control(&Control::Ack(Ack { next: 0x1234_5678, ..Ack::default() }), 0, 100);
    let sender = world.sender();
    sender.handle(&Packet::parse(&ack).unwrap(), &Bytes::copy_from_slice(&ack), now);
    assert_eq!(sender.closed(), Some(CloseReason::Protocol("it acknowledges what was never sent")));
}

/// Checks the limit on derivations, each of which takes half a millisecond of the task that serves all connections of a
/// port.
#[test]
fn srt_key_requests_with_ever_new_salts_are_derived_rarely() {
    let terms = Terms { passphrase: Some("correct horse".into()), ..latency(120) };
    let mut world = World::new(FAIR, terms.clone(), terms, 7);
    world.connect().send(10, ms(2));
    let begin = world.now;
    let answers = |connection: &mut Connection, material: &[u8], now: Instant| {
        let request = write_control(&Control::KeyRequest(material), 0, 200);
        connection.handle(&Packet::parse(&request).unwrap(), &Bytes::copy_from_slice(&request), now);
        let sent = drain(connection, now);
        let is_answer = |bytes: &Bytes| matches!(Packet::parse(bytes), Some(Packet::Control { control: Control::KeyResponse(ours), .. }) if ours == material);
        sent.iter().filter(|bytes| is_answer(bytes)).count()
    };
    let material = |byte: u8| Keys::generate(16, CipherMode::Ctr, &[byte; 48], "correct horse").material().unwrap();
    let materials: Vec<_> = (100..=255).map(material).collect();
    let flood: usize = materials.iter().map(|m| answers(world.receiver(), m, begin)).sum();
    assert_eq!(flood, 1, "one is derived, the others wait");
    // A request with the known salt costs nothing, and so is always answered.
    let again: usize = (0..100).map(|_| answers(world.receiver(), &materials[0], begin)).sum();
    assert_eq!(again, 100);
    let later = begin + Duration::from_secs(10);
    assert_eq!(
        materials.iter().map(|m| answers(world.receiver(), m, later)).sum::<usize>(),
        2,
        "one more, and the known"
    );
}

/// Returns the conclusion of a caller, as a listener reads it.
fn conclusion(terms: Terms) -> Handshake {
    let now = Instant::now();
    let listener = Listener::new([3; 32], now);
    let local = Local { id: 7, start: now, random: Random::of(random) };
    let mut caller = Caller::new(terms, local, Some("cam1".into()), ms(3000));
    let induction = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
    let welcome = listener.welcome(&induction, PEER.parse().unwrap(), now);
    assert!(matches!(caller.handle(&welcome[HEADER..], 0, now), Progress::Calling));
    Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap()
}

fn secret_terms() -> Terms {
    Terms { passphrase: Some("correct horse".into()), ..Terms::default() }
}

#[test]
fn srt_listener_rejects_with_exact_codes() {
    use super::handshake::{ExtensionFault, FLAG_STREAM};
    let request = |change: &dyn Fn(&mut Handshake)| {
        let mut request = conclusion(secret_terms());
        change(&mut request);
        secret_terms().prepare(&request).map(|_| ()).map_err(|Rejection(code)| code)
    };
    let srt = |r: &mut Handshake, change: &dyn Fn(&mut super::handshake::SrtExtension)| {
        change(r.extensions.srt.as_mut().unwrap());
    };
    assert_eq!(request(&|_| {}), Ok(()));
    assert_eq!(request(&|r| r.version = 4), Err(8));
    assert_eq!(request(&|r| srt(r, &|s| s.version = 0x01_02_00)), Err(8));
    assert_eq!(request(&|r| r.extensions.srt = None), Err(4));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::Malformed)), Err(4));
    assert_eq!(request(&|r| r.mtu = 200), Err(4));
    assert_eq!(request(&|r| srt(r, &|s| s.flags |= FLAG_STREAM)), Err(12));
    assert_eq!(request(&|r| r.extensions.congestion = Some("file".into())), Err(13));
    for filter in ["fec", "fec,cols:1", "fec,cols:255,rows:255", "adaptive", "fec,cols:8,more:1", ""] {
        assert_eq!(request(&|r| r.extensions.filter = Some(filter.into())), Err(14), "{filter}");
    }
    assert_eq!(request(&|r| r.extensions.filter = Some("fec,cols:8".into())), Ok(()));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::Filter)), Err(14));
    let group = |kind| Some(super::handshake::GroupExtension { id: 0x4000_0001, kind, weight: 0 });
    assert_eq!(request(&|r| r.extensions.group = group(1)), Err(15));
    for (groups, kind, result) in [
        (Groups::Broadcast, 1, Ok(())),
        (Groups::Broadcast, 2, Err(15)),
        (Groups::All, 1, Ok(())),
        (Groups::All, 2, Ok(())),
        (Groups::All, 0, Err(15)),
        (Groups::All, 3, Err(15)),
    ] {
        let mut request = conclusion(secret_terms());
        request.extensions.group = group(kind);
        let terms = Terms { groups, ..secret_terms() };
        assert_eq!(terms.prepare(&request).map(|_| ()).map_err(|Rejection(code)| code), result, "{groups:?}, {kind}");
    }
    assert_eq!(request(&|r| r.extensions.key_material = None), Err(11));
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[8] = 4), Err(17), "AES-GCM without its tag");
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[8] = 3), Err(17), "an unknown cipher");
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[0] = 0), Err(4));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::StreamId)), Err(1400));
    let plain = Terms::default().prepare(&conclusion(secret_terms())).map(|_| ());
    assert_eq!(plain, Err(Rejection::UNSECURE));
}

#[test]
fn srt_caller_names_rejections_exactly() {
    for (code, name) in [
        (0, "UNKNOWN"),
        (8, "VERSION"),
        (9, "RDVCOOKIE"),
        (10, "BADSECRET"),
        (11, "UNSECURE"),
        (13, "CONGESTION"),
        (14, "FILTER"),
        (15, "GROUP"),
        (17, "CRYPTO"),
        (1401, "UNAUTHORIZED"),
        (1404, "NOTFOUND"),
        (1507, "NOROOM"),
    ] {
        let text = Rejection(code).to_string();
        assert!(text.ends_with(&format!("({name}, code {code})")), "{text}");
    }
    for code in [18, 999, 1004, 1999, 2000, 2042, 0x7fff_0000] {
        let text = Rejection(code).to_string();
        assert!(text.ends_with(&format!("(code {code})")), "{text}");
    }
    // The status word of a listener that does not want the cipher.
    let now = Instant::now();
    let local = Local { id: 7, start: now, random: Random::of(random) };
    let request = conclusion(secret_terms());
    let wrapping = secret_terms().prepare(&request).unwrap().map(|derivation| derivation.run());
    let (_, answer) = secret_terms().accept(&request, 0, &Local { id: 9, ..local.clone() }, wrapping).unwrap();
    let keys = || Keys::generate(16, CipherMode::Ctr, &[1; 48], "correct horse");
    for (status, rejection) in [(3u8, Rejection::UNSECURE), (4, Rejection::BAD_SECRET), (5, Rejection::CRYPTO)] {
        let mut answer = answer.clone();
        answer.extensions.key_material = Some(vec![0, 0, 0, status]);
        let result = secret_terms().conclude(&answer, 0, &local, Some(keys()), Sequence::new(1));
        assert_eq!(result.map(|_| ()), Err(rejection), "status {status}");
    }
}

#[test]
fn srt_packet_size_is_the_smaller_of_both_ends() {
    let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
    // Some peers announce their payload size instead.
    let request = Handshake { mtu: 1316, ..conclusion(Terms::default()) };
    assert_eq!(Terms::default().accept_here(&request, 0, &local).unwrap().0.max_payload, 1316);
    for (theirs, agreed) in [(1500, 1500), (1360, 1360), (9000, 1500)] {
        let mut request = conclusion(Terms::default());
        request.mtu = theirs;
        let (agreement, answer) = Terms::default().accept_here(&request, 0, &local).unwrap();
        assert_eq!((answer.mtu, agreement.max_payload), (agreed, agreed as usize - 44));
        let mut connection = Connection::new(agreement, local.start);
        assert!(connection.push(&Bytes::from(vec![1; agreed as usize - 44]), local.start));
        assert!(!connection.push(&Bytes::from(vec![1; agreed as usize - 43]), local.start));
        assert_eq!(connection.stats().sent.oversized, 1);
        let own = Terms::default().conclude(&Handshake { mtu: theirs, ..answer }, 0, &local, None, Sequence::new(1));
        assert_eq!(own.unwrap().max_payload, agreed as usize - 44);
    }
}
