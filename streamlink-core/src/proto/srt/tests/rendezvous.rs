//! Rendezvous over a simulated network: both ends call, in either order, over losses, encrypted or not.

use super::*;
use crate::proto::srt::Rendezvous;

/// One end of a rendezvous.
enum Meeting {
    Later(Instant),
    Calling(Box<Rendezvous>),
    Up(Box<Connection>, Option<Vec<u8>>),
    Refused(Rejection),
    TimedOut,
}

/// Two ends, and the network between them.
struct Meet {
    start: Instant,
    now: Instant,
    terms: [Terms; 2],
    fill: [u8; 2],
    ends: [Meeting; 2],
    wires: BTreeMap<(Instant, u64), (usize, Bytes)>,
    loss: u64,
    dice: TestRng,
    count: u64,
    delivered: [Vec<Bytes>; 2],
}

/// Randomness of an end, by which it becomes the initiator or the responder.
fn filled(byte: u8) -> Random {
    if byte == 1 { Random::of(|bytes| bytes.fill(1)) } else { Random::of(|bytes| bytes.fill(2)) }
}

impl Meet {
    /// `delays`: times at which the ends begin, in milliseconds. `fill`: randomness of the ends, 1 or 2.
    fn new(terms: [Terms; 2], delays: [u64; 2], fill: [u8; 2], loss: u64, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            terms,
            fill,
            ends: delays.map(|delay| Meeting::Later(start + ms(delay))),
            wires: BTreeMap::new(),
            loss,
            dice: TestRng(seed | 1),
            count: 0,
            delivered: [Vec::new(), Vec::new()],
        }
    }

    fn put(&mut self, from: usize, bytes: Bytes) {
        let to = 1 - from;
        if !self.dice.percent(self.loss) {
            self.count += 1;
            self.wires.insert((self.now + ms(20), self.count), (to, bytes));
        }
    }

    fn step(&mut self) {
        self.now += ms(1);
        let now = self.now;
        for at in 0..2 {
            let end = std::mem::replace(&mut self.ends[at], Meeting::TimedOut);
            self.ends[at] = match end {
                Meeting::Later(begin) if begin <= now => {
                    let id = 100 + at as u32;
                    let local = Local { id, start: now, random: filled(self.fill[at]) };
                    Meeting::Calling(Box::new(Rendezvous::new(self.terms[at].clone(), local, ms(30_000))))
                }
                end => end,
            };
            let mut out: Vec<Bytes> = Vec::new();
            match &mut self.ends[at] {
                Meeting::Calling(calling) => {
                    out.extend(calling.poll_transmit(now).map(Bytes::from));
                    if matches!(calling.handle_timeout(now), Progress::TimedOut) {
                        self.ends[at] = Meeting::TimedOut;
                    }
                }
                Meeting::Up(connection, _) => {
                    connection.handle_timeout(now);
                    out.extend(drain(connection, now));
                    while let Some(payload) = connection.poll_payload(now) {
                        self.delivered[at].push(payload);
                    }
                }
                _ => {}
            }
            for bytes in out {
                self.put(at, bytes);
            }
        }
        while self.wires.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            let Some((_, (to, bytes))) = self.wires.pop_first() else { break };
            self.arrive(to, &bytes);
        }
    }

    fn arrive(&mut self, to: usize, bytes: &Bytes) {
        let now = self.now;
        let packet = Packet::parse(bytes).unwrap();
        let mut answer = None;
        match &mut self.ends[to] {
            Meeting::Calling(calling) => {
                let progress = match packet {
                    Packet::Control { control: Control::Handshake(body), timestamp, .. } => {
                        calling.handle(body, timestamp, now)
                    }
                    _ => calling.handle_other(now),
                };
                let parting = calling.take_parting();
                answer = parting.clone();
                match progress {
                    Progress::Connected(connection) => self.ends[to] = Meeting::Up(connection, parting),
                    Progress::Rejected(rejection) => self.ends[to] = Meeting::Refused(rejection),
                    _ => {}
                }
            }
            Meeting::Up(connection, parting) => {
                if matches!(packet, Packet::Control { control: Control::Handshake(_), .. }) {
                    answer = parting.clone();
                }
                connection.handle(&packet, bytes, now);
            }
            _ => {}
        }
        if let Some(answer) = answer {
            self.put(to, answer.into());
        }
    }

    fn is_up(&self) -> bool {
        self.ends.iter().all(|end| matches!(end, Meeting::Up(..)))
    }

    /// Runs until both ends are connected.
    fn connect(&mut self) {
        for _ in 0..29_000 {
            if self.is_up() {
                return;
            }
            self.step();
        }
        panic!("no connection after {:?}", self.now - self.start);
    }

    /// Sends packets from both ends, and checks that all of them arrive in order.
    fn exchange(&mut self) {
        for i in 0..300 {
            for at in 0..2 {
                let now = self.now;
                let Meeting::Up(connection, _) = &mut self.ends[at] else { panic!("not connected") };
                assert!(connection.push(&payload(i * 2 + at as u32), now));
            }
            self.step();
        }
        for _ in 0..3000 {
            self.step();
        }
        for at in 0..2 {
            let numbers: Vec<u32> = self.delivered[at].iter().map(number).collect();
            assert_eq!(numbers, (0..300).map(|i| i * 2 + 1 - at as u32).collect::<Vec<_>>());
        }
    }
}

#[test]
fn srt_rendezvous_connects_in_both_orders_over_losses() {
    let secret = Terms { passphrase: Some("correct horse".into()), ..latency(600) };
    let gcm = Terms { cipher: Some(CipherMode::Gcm), ..secret.clone() };
    let filter = Terms { filter: "fec,cols:5,rows:5".parse().ok(), ..latency(600) };
    for terms in [latency(600), secret, gcm, filter] {
        for delays in [[0, 0], [0, 900], [900, 0]] {
            for fill in [[1, 2], [2, 1]] {
                for (loss, seed) in [(0, 1), (20, 2), (20, 3), (40, 4)] {
                    let mut meet = Meet::new([terms.clone(), terms.clone()], delays, fill, loss, seed);
                    meet.connect();
                    meet.loss = 0;
                    meet.exchange();
                    let Meeting::Up(connection, _) = &meet.ends[0] else { panic!("not connected") };
                    assert_eq!(connection.stats().encrypted, terms.passphrase.is_some());
                }
            }
        }
    }
}

#[test]
fn srt_rendezvous_connects_to_a_peer_that_begins_again() {
    let mut meet = Meet::new([latency(120), latency(120)], [0, 0], [1, 2], 0, 5);
    // The first attempt of the second end is over before it has heard anything, and its packets still arrive.
    for _ in 0..30 {
        meet.step();
    }
    meet.ends[1] = Meeting::Later(meet.now);
    meet.fill[1] = 2;
    meet.connect();
    meet.exchange();
}

#[test]
fn srt_rendezvous_tells_why_it_fails() {
    let with = |secret: Option<&str>| Terms { passphrase: secret.map(Into::into), ..latency(120) };
    for (ours, theirs, rejection) in [
        (Some("correct horse"), Some("battery staple"), Rejection::BAD_SECRET),
        (Some("correct horse"), None, Rejection::UNSECURE),
        (None, Some("battery staple"), Rejection::UNSECURE),
    ] {
        for fill in [[1, 2], [2, 1]] {
            let mut meet = Meet::new([with(ours), with(theirs)], [0, 100], fill, 0, 1);
            for _ in 0..2000 {
                meet.step();
            }
            for end in &meet.ends {
                assert!(matches!(end, Meeting::Refused(reason) if *reason == rejection), "{ours:?}, {theirs:?}");
            }
        }
    }
    // The same cookies decide nothing.
    let mut meet = Meet::new([latency(120), latency(120)], [0, 0], [1, 1], 0, 1);
    for _ in 0..2000 {
        meet.step();
    }
    assert!(meet.ends.iter().any(|end| matches!(end, Meeting::Refused(Rejection::COOKIES))));
}

#[test]
fn srt_rendezvous_takes_no_part_in_other_handshakes_and_survives_any_bytes() {
    let now = Instant::now();
    let local = Local { id: 7, start: now, random: filled(1) };
    let mut rendezvous = Rendezvous::new(secret_terms(), local.clone(), ms(3000));
    let wave = rendezvous.poll_transmit(now).unwrap();
    // A listener does not answer, and a caller's packets are none of a rendezvous.
    let listener = Listener::new([3; 32], now);
    assert!(matches!(listener.greet(&wave[HEADER..], PEER.parse().unwrap(), now), Greeting::Ignore));
    let induction = Caller::new(secret_terms(), local.clone(), None, ms(3000)).poll_transmit(now).unwrap();
    assert!(matches!(rendezvous.handle(&induction[HEADER..], 0, now), Progress::Calling));
    assert!(rendezvous.peer_is_unknown());
    // Each change of the peer's terms costs a derivation, so that they are few.
    let other = Local { id: 9, start: now, random: filled(2) };
    let mut request = conclusion(secret_terms());
    let their_wave = Rendezvous::new(secret_terms(), other, ms(3000)).poll_transmit(now).unwrap();
    request.cookie = Handshake::parse(&their_wave[HEADER..]).unwrap().cookie;
    request.extensions.stream_id = None;
    let mut refused = false;
    for id in 1..1000 {
        request.socket_id = id;
        refused |= matches!(rendezvous.handle(&request.write(), 0, now), Progress::Rejected(Rejection::ROGUE));
    }
    assert!(refused);
    let mut dice = TestRng(77);
    let body = request.write();
    for _ in 0..5000 {
        let mut bytes = body.clone();
        for _ in 0..1 + dice.below(4) {
            let at = dice.below(bytes.len());
            bytes[at] = dice.next_u64() as u8;
        }
        bytes.truncate(dice.below(bytes.len() + 1));
        let mut rendezvous = Rendezvous::new(latency(120), local.clone(), ms(3000));
        let _ = rendezvous.handle(&bytes, 0, now);
        let _ = rendezvous.poll_transmit(now);
    }
}
