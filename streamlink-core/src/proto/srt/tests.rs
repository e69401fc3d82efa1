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

mod delivery;
mod encryption;
mod filter;
mod group;
mod handshakes;
mod liveness;
mod rendezvous;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn random(bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = 17 + i as u8;
    }
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
        for (to_listener, bytes) in out {
            self.put(to_listener, bytes);
        }
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
    std::iter::from_fn(|| connection.poll_transmit(now)).collect()
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
