//! Groups over simulated networks: one path for each member.

use super::*;
use crate::proto::srt::{BackupLeg, BackupMember, BackupSender, GroupId, GroupInput, GroupNumbers};

mod changes;

/// One member: both ends, and the packets between them.
struct Leg {
    weather: Weather,
    near: Connection,
    far: Connection,
    wires: BTreeMap<(Instant, u64), (bool, Bytes)>,
    /// Delay of the way to the far end, beside that of both ways.
    detour: Duration,
    /// Set when the path is cut.
    is_dead: bool,
    /// Set once the connection exists.
    is_up: bool,
    /// The sender pushes packets into it.
    is_fed: bool,
    since: Instant,
    backup: BackupMember,
}

/// A group that sends over several paths to another group: a broadcast group, unless it has a sender of main/backup.
struct Bond {
    start: Instant,
    now: Instant,
    legs: Vec<Leg>,
    numbers: GroupNumbers,
    input: GroupInput,
    dice: TestRng,
    count: u64,
    delivered: Vec<Bytes>,
    backup: Option<BackupSender>,
}

fn group_id(byte: u8) -> GroupId {
    GroupId::new([byte; 4])
}

/// Connects a member. The packets of the handshake need no network here.
fn connect(terms: &Terms, start: Instant, now: Instant, next: Sequence) -> (Connection, Connection) {
    let peer: SocketAddr = PEER.parse().unwrap();
    let listener = Listener::new([3; 32], start);
    let local = |id| Local { id, start, random: Random::of(random) };
    let mut caller = Caller::new(terms.clone(), Local { start: now, ..local(100) }, None, ms(3000));
    caller = caller.in_group(group_id(1).broadcast(), next, start);
    let induction = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
    let welcome = listener.welcome(&induction, peer, now);
    assert!(matches!(caller.handle(&welcome[HEADER..], 0, now), Progress::Calling));
    let conclusion = caller.poll_transmit(now).unwrap();
    let Greeting::Request(request) = listener.greet(&conclusion[HEADER..], peer, now) else { panic!("no request") };
    assert_eq!(request.extensions.group, Some(group_id(1).broadcast()));
    let listening = Terms { groups: Groups::All, ..terms.clone() };
    let (agreement, mut answer) = listening.accept_here(&request, 0, &local(200)).unwrap();
    answer.extensions.group = Some(group_id(2).broadcast());
    let far = Connection::new(agreement, now);
    let Progress::Connected(near) = caller.handle(&answer.write(), 0, now) else { panic!("not connected") };
    assert_ne!((near.peer_group(), far.peer_group()), (None, None));
    (*near, far)
}

impl Bond {
    fn new(terms: &Terms, weathers: &[Weather], seed: u64) -> Self {
        let start = Instant::now();
        let numbers = GroupNumbers::starting_at(Sequence::new(0x7fff_ff80));
        let mut bond = Self {
            start,
            now: start,
            legs: Vec::new(),
            numbers,
            input: GroupInput::default(),
            dice: TestRng(seed | 1),
            count: 0,
            delivered: Vec::new(),
            backup: None,
        };
        for weather in weathers {
            bond.add(terms, *weather);
        }
        bond
    }

    fn add(&mut self, terms: &Terms, weather: Weather) {
        self.add_from(terms, weather, self.numbers.next());
    }

    /// Adds a member that has announced this number as its first.
    fn add_from(&mut self, terms: &Terms, weather: Weather, first: Sequence) {
        let (mut near, mut far) = connect(terms, self.start, self.now, first);
        near.send_only();
        self.input.join(&mut far, self.legs.iter().find(|leg| leg.is_up).map(|leg| &leg.far));
        // The first path is the heaviest.
        let backup = BackupMember::new(100 - self.legs.len() as u16);
        let leg = Leg {
            weather,
            near,
            far,
            wires: BTreeMap::new(),
            detour: Duration::ZERO,
            is_dead: false,
            is_up: true,
            is_fed: true,
            since: self.now,
            backup,
        };
        self.legs.push(leg);
    }

    fn push(&mut self, payload: &Bytes) {
        let next = self.numbers.next();
        let now = self.now;
        let is_backup = self.backup.is_some();
        let is_used =
            |leg: &&mut Leg| leg.is_fed && leg.near.closed().is_none() && (!is_backup || leg.backup.is_active());
        for leg in self.legs.iter_mut().filter(is_used) {
            leg.near.push_numbered(payload, next, now);
        }
        if let Some(backup) = &mut self.backup {
            backup.keep(payload, next, now);
        }
        self.numbers.advance(1);
    }

    fn step(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_micros(500);
            let now = self.now;
            for leg in &mut self.legs {
                leg.near.handle_timeout(now);
                leg.far.handle_timeout(now);
                while leg.near.poll_delivery(now).is_some() {} // only detects the end
            }
            if let Some(backup) = &mut self.backup {
                let alive = self.legs.iter_mut().filter(|leg| leg.near.closed().is_none());
                let mut legs: Vec<BackupLeg<'_>> =
                    alive.map(|leg| BackupLeg { member: &mut leg.backup, connection: &mut leg.near }).collect();
                backup.attend(&mut legs, now);
            }
            for leg in &mut self.legs {
                for (to_far, bytes) in drain(&mut leg.near, now)
                    .into_iter()
                    .map(|b| (true, b))
                    .chain(drain(&mut leg.far, now).into_iter().map(|b| (false, b)))
                {
                    if leg.is_dead || self.dice.percent(leg.weather.loss) {
                        continue;
                    }
                    let jitter = leg.weather.jitter.as_micros() as u64;
                    let extra = if jitter > 0 { self.dice.next_u64() % jitter } else { 0 };
                    self.count += 1;
                    let detour = if to_far { leg.detour } else { Duration::ZERO };
                    let at = now + leg.weather.delay + detour + Duration::from_micros(extra);
                    leg.wires.insert((at, self.count), (to_far, bytes));
                }
                while leg.wires.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                    let Some((_, (to_far, bytes))) = leg.wires.pop_first() else { break };
                    let end = if to_far { &mut leg.far } else { &mut leg.near };
                    end.handle(&Packet::parse(&bytes).unwrap(), &bytes, now);
                }
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        loop {
            let heads = self.legs.iter().enumerate().filter_map(|(at, leg)| Some((at, leg.far.head(now)?)));
            let Some(at) = self.input.choose(heads) else { break };
            let Some(head) = self.legs[at].far.head(now) else { break };
            self.delivered.extend(self.input.take(head, &mut self.legs[at].far).map(|(payload, _)| payload));
            let mut clock = None;
            for leg in &mut self.legs {
                self.input.skip(&mut leg.far, &mut clock);
            }
        }
    }

    /// Checks that all packets were delivered once, in order and unaltered.
    fn check(&self, count: u32) {
        let numbers: Vec<u32> = self.delivered.iter().map(number).collect();
        let missing: Vec<u32> = (0..count).filter(|i| !numbers.contains(i)).collect();
        assert_eq!(missing, [0u32; 0], "{} delivered", numbers.len());
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        assert!(self.delivered.iter().all(|p| *p == payload(number(p))));
        assert_eq!(self.input.lost, 0);
    }
}

const FAST: Weather = Weather { delay: Duration::from_millis(10), ..FAIR };

/// Sends packets over a bond, with something that happens in the middle.
fn bonded(terms: &Terms, weathers: &[Weather], seed: u64, mut event: impl FnMut(&mut Bond, u32)) -> Bond {
    let mut bond = Bond::new(terms, weathers, seed);
    for i in 0..2000 {
        event(&mut bond, i);
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    bond
}

#[test]
fn srt_group_loses_nothing_when_a_path_dies() {
    for dying in [0, 1] {
        let bond = bonded(&latency(300), &[FAST, FAST], 3, |bond, i| bond.legs[dying].is_dead |= i == 700);
        bond.check(2000);
        assert_eq!(bond.legs[dying].near.closed(), Some(CloseReason::Idle));
        assert_eq!(bond.legs[1 - dying].near.closed(), None);
    }
}

#[test]
fn srt_group_loses_nothing_when_one_way_of_a_path_becomes_slow() {
    // The second path has time for one retransmission. What that loses, too, the first one brings, whose packets take
    // 200 ms longer than half of its round trip.
    for detour in [0, 1] {
        let mut weathers = [Weather { delay: ms(150), loss: 30, ..FAST }; 2];
        weathers[detour] = FAST;
        let mut bond = Bond::new(&latency(450), &weathers, 5);
        for i in 0..15_000 {
            bond.legs[detour].detour = ms(if i < 500 { 0 } else { 200 });
            bond.push(&payload(i));
            bond.step(ms(2));
        }
        bond.step(ms(3000));
        bond.check(15_000);
    }
}

#[test]
fn srt_group_loses_nothing_when_a_path_loses_or_delays() {
    let lossy = Weather { loss: 20, ..FAST };
    let slow = Weather { delay: ms(210), jitter: ms(5), ..FAST };
    for weathers in [[FAST, lossy], [lossy, FAST], [FAST, slow], [slow, FAST], [lossy, slow], [lossy, lossy]] {
        for secret in [None, Some("correct horse")] {
            let terms = Terms { passphrase: secret.map(Into::into), ..latency(800) };
            let bond = bonded(&terms, &weathers, 11, |_, _| {});
            bond.check(2000);
            for leg in &bond.legs {
                let sent = leg.near.stats().sent;
                let received = leg.far.stats().received;
                assert_eq!((leg.near.closed(), leg.far.closed(), sent.packets), (None, None, 2000));
                assert!(received.packets + received.redundant > 1900, "{received:?}");
            }
        }
    }
}

#[test]
fn srt_group_takes_a_member_that_comes_later_or_again() {
    let terms = latency(300);
    let bond = bonded(&terms, &[FAST], 5, |bond, i| match i {
        500 => bond.add(&terms, Weather { delay: ms(60), ..FAST }),
        900 => bond.legs[0].is_dead = true,
        1400 => bond.add(&terms, FAST),
        1700 => bond.legs[1].is_dead = true,
        _ => {}
    });
    bond.check(2000);
    assert_eq!(bond.legs[2].near.stats().sent.packets, 600);
    assert_eq!(bond.legs[2].far.stats().received.lost, 0);
}

/// A caller that receives announces the number with which its group has begun.
#[test]
fn srt_group_takes_a_member_whose_first_number_is_old() {
    let terms = Terms { buffer: 500, ..latency(300) };
    let mut bond = Bond::new(&terms, &[FAST], 9);
    let first = bond.numbers.next();
    for i in 0..3000 {
        match i {
            1500 => bond.add_from(&terms, FAST, first),
            2000 => bond.legs[0].is_dead = true,
            2500 => bond.add_from(&terms, FAST, first),
            2700 => bond.legs[1].is_dead = true,
            _ => {}
        }
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    bond.check(3000);
    assert_eq!((bond.legs[2].near.closed(), bond.legs[2].far.closed()), (None, None));
    // A sender is admitted near the group's numbers only.
    let next = bond.numbers.next();
    assert!(bond.input.admits(next.after(300)) && bond.input.admits(next.before(300)));
    assert!(!bond.input.admits(next.after(1 << 20)) && !bond.input.admits(next.before(1 << 20)));
}

#[test]
fn srt_group_counts_what_no_member_has_brought() {
    let awful = Weather { loss: 55, ..FAST };
    let bond = bonded(&latency(60), &[awful, awful], 5, |_, _| {});
    assert_eq!(bond.delivered.len() as u64 + bond.input.lost, 2000);
    assert!((10..1000).contains(&bond.input.lost), "{}", bond.input.lost);
}

#[test]
fn srt_group_member_that_does_not_keep_up_holds_nobody_back() {
    let terms = latency(300);
    // The second path carries less than a third of the media.
    let narrow = Terms { bytes_per_second: 200_000, buffer: 300, ..latency(300) };
    let bond = bonded(&terms, &[FAST], 5, |bond, i| {
        if i == 100 {
            bond.add(&narrow, FAST);
        }
    });
    bond.check(2000);
    assert!(bond.legs[1].near.stats().sent.dropped > 500, "{:?}", bond.legs[1].near.stats());
    assert_eq!((bond.legs[1].near.closed(), bond.legs[1].far.closed()), (None, None));
}

#[test]
fn srt_caller_of_a_group_needs_a_listener_with_groups() {
    let now = Instant::now();
    let local = Local { id: 9, start: now, random: Random::of(random) };
    for (kind, rejected) in [(None, true), (Some(1), false), (Some(2), true)] {
        let mut caller = Caller::new(latency(120), local.clone(), None, ms(3000)).in_group(
            group_id(1).broadcast(),
            Sequence::new(5),
            now,
        );
        let listener = Listener::new([3; 32], now);
        let induction = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let welcome = listener.welcome(&induction, PEER.parse().unwrap(), now);
        let _ = caller.handle(&welcome[HEADER..], 0, now);
        let request = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let terms = Terms { groups: Groups::All, ..latency(120) };
        let (_, mut answer) = terms.accept_here(&request, 0, &local).unwrap();
        answer.extensions.group = kind.map(|kind| group_id(2).extension(kind));
        let progress = caller.handle(&answer.write(), 0, now);
        assert_eq!(matches!(progress, Progress::Rejected(Rejection::GROUP)), rejected, "{progress:?}");
    }
}

/// Conclusion of a member of a main/backup group of libsrt 1.5.5, and the answer of its listener to a member of a
/// broadcast group.
const BACKUP_REQUEST: &str = "00000005000000052275da92000005dc00002000ffffffff0393c1c5d974b8b40100007f000000000000000000000000\
                              0001000300010505000000bf02580258000800024393c1c602000000";
const BROADCAST_ANSWER: &str = "00000005000000050d0534dd000005dc00002000ffffffff0a9ac70b2f37f8c50100007f000000000000000000000000\
                                0002000300010505000000bf02580258000800024a9ac70c01000000";

fn handshake_of(hex: &str) -> Handshake {
    let digits: Vec<u8> = hex.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|n| n as u8).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    Handshake::parse(&bytes).unwrap()
}

#[test]
fn srt_group_handshakes_of_libsrt_are_understood() {
    use crate::proto::srt::handshake::{BACKUP, BROADCAST, GroupExtension};
    let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
    let request = handshake_of(BACKUP_REQUEST);
    assert_eq!(request.extensions.group, Some(GroupExtension { id: 0x4393_c1c6, kind: BACKUP, weight: 0 }));
    for (groups, result) in [(Groups::All, None), (Groups::None, Some(Rejection::GROUP))] {
        assert_eq!(Terms { groups, ..latency(120) }.accept_here(&request, 0, &local).err(), result, "{groups:?}");
    }
    let answer = handshake_of(BROADCAST_ANSWER);
    assert_eq!(answer.extensions.group, Some(GroupExtension { id: 0x4a9a_c70c, kind: BROADCAST, weight: 0 }));
    let agreement = latency(120).conclude(&answer, 0, &local, None, Sequence::new(1)).unwrap();
    assert_eq!((agreement.peer_group, agreement.receive_latency), (Some(0x4a9a_c70c), ms(600)));
}

/// Sends packets over a main/backup group, with something that happens before each.
fn backed_up(
    terms: &Terms,
    weathers: &[Weather],
    count: u32,
    seed: u64,
    mut event: impl FnMut(&mut Bond, u32),
) -> Bond {
    let mut bond = Bond::new(terms, weathers, seed);
    bond.backup = Some(BackupSender::default());
    for i in 0..count {
        event(&mut bond, i);
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    bond
}

fn sent(bond: &Bond, leg: usize) -> u64 {
    bond.legs[leg].near.stats().sent.packets
}

#[test]
fn srt_backup_group_sends_over_the_heaviest_member_alone() {
    let bond = backed_up(&latency(300), &[FAST, FAST, FAST], 2000, 1, |_, _| {});
    bond.check(2000);
    assert_eq!((sent(&bond, 0), sent(&bond, 1), sent(&bond, 2)), (2000, 0, 0));
    assert!(bond.legs.iter().all(|leg| leg.near.closed().is_none() && leg.far.closed().is_none()));
}

#[test]
fn srt_backup_group_switches_and_comes_back_without_loss() {
    // Each time for longer than a buffer holds packets.
    for secret in [None, Some("correct horse")] {
        let terms = Terms { passphrase: secret.map(Into::into), buffer: 500, ..latency(300) };
        let terms = Terms { peer_idle: ms(20_000), ..terms };
        let bond = backed_up(&terms, &[FAST, FAST], 8000, 2, |bond, i| match i {
            2000 => bond.legs[0].is_dead = true,
            4000 => bond.legs[0].is_dead = false,
            6000 => bond.legs[0].is_dead = true,
            _ => {}
        });
        bond.check(8000);
        // While the main path lives, and a second after it has come back, the other one stands by.
        let over_other = sent(&bond, 1);
        assert!((4000..5000).contains(&over_other), "{over_other}");
    }
}

#[test]
fn srt_backup_group_loses_nothing_over_paths_that_lose() {
    let lossy = Weather { loss: 5, ..FAST };
    let bursts = Weather { loss: 20, ..FAST };
    let slow = Weather { delay: ms(210), jitter: ms(5), ..FAST };
    for weathers in [[FAST, lossy], [lossy, FAST], [lossy, lossy], [bursts, lossy], [slow, FAST], [FAST, slow]] {
        let bond = backed_up(&latency(1000), &weathers, 2000, 11, |bond, i| bond.legs[0].is_dead |= i == 1200);
        bond.check(2000);
    }
}

#[test]
fn srt_backup_group_takes_a_heavier_member_that_comes_later() {
    let terms = latency(300);
    let bond = backed_up(&terms, &[FAST], 3000, 3, |bond, i| {
        if i == 1000 {
            bond.add(&terms, FAST);
            bond.legs[1].backup = BackupMember::new(1000);
        }
    });
    bond.check(3000);
    assert!((1000..1700).contains(&sent(&bond, 0)), "{}", sent(&bond, 0));
    assert_eq!(sent(&bond, 1), 2000); // none from before it
}
