//! SRT in the table: one connection or a group, with and without the packet filter.

use super::{
    JUDGED, Mechanism,
    network::{Arrival, Channel, Network},
};
use crate::{
    packet_filter::{FilterArq, PacketFilter},
    proto::srt::{
        BackupLeg, BackupMember, BackupSender, Caller, Connection, Greeting, GroupId, GroupInput, GroupNumbers, Groups,
        Handshake, Listener, Local, Packet, Progress, Sequence, Terms,
    },
    random::Random,
};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Latency of the connections: some round trips of the slow path.
const LATENCY: Duration = Duration::from_millis(2500);
const HEADER: usize = 16;

fn terms(filter: Option<PacketFilter>) -> Terms {
    let peer_idle = Duration::from_secs(1);
    let groups = Groups::All;
    Terms { receive_latency: LATENCY, peer_latency: LATENCY, filter, groups, peer_idle, ..Terms::default() }
}

fn payload(number: u32) -> Bytes {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(1316, number as u8);
    bytes.into()
}

fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().copied().map_or(u32::MAX, u32::from_be_bytes)
}

/// Connects both ends. The handshake needs no network here.
fn connect(terms: &Terms, start: Instant, group: Option<(Sequence, u8)>) -> (Connection, Connection) {
    let peer = "192.0.2.1:5000".parse().expect("an address");
    let random = Random::of(|bytes| bytes.fill(17));
    let local = |id| Local { id, start, random: random.clone() };
    let ours = GroupId::new([1; 4]).extension(group.map_or(0, |(_, kind)| kind));
    let mut caller = Caller::new(terms.clone(), local(100), None, Duration::from_secs(3));
    if let Some((first, _)) = group {
        caller = caller.in_group(ours, first, start);
    }
    let listener = Listener::new([3; 32], start);
    let induction = caller.poll_transmit(start).expect("an induction");
    let induction = Handshake::parse(&induction[HEADER..]).expect("a handshake");
    let welcome = listener.welcome(&induction, peer, start);
    let _ = caller.handle(&welcome[HEADER..], 0, start);
    let conclusion = caller.poll_transmit(start).expect("a conclusion");
    let Greeting::Request(request) = listener.greet(&conclusion[HEADER..], peer, start) else { panic!("no request") };
    let (agreement, mut answer) = terms.accept_here(&request, 0, &local(200)).expect("an agreement");
    answer.extensions.group = group.map(|(_, kind)| GroupId::new([2; 4]).extension(kind));
    let far = Connection::new(agreement, start);
    let Progress::Connected(near) = caller.handle(&answer.write(), 0, start) else { panic!("not connected") };
    (*near, far)
}

/// Distribution of the packets over the connections.
enum Spread {
    Single,
    Broadcast,
    Backup(BackupSender),
}

struct Leg {
    near: Connection,
    far: Connection,
    backup: BackupMember,
}

struct Srt {
    filter: Option<PacketFilter>,
    spread: Spread,
    legs: Vec<Leg>,
    numbers: GroupNumbers,
    input: GroupInput,
    delivered: Vec<u32>,
}

impl Srt {
    fn new(spread: Spread, filter: Option<PacketFilter>) -> Self {
        Self {
            filter,
            spread,
            legs: Vec::new(),
            numbers: GroupNumbers::starting_at(Sequence::new(0x7fff_ff00)),
            input: GroupInput::default(),
            delivered: Vec::new(),
        }
    }

    /// Connects, once the network is known.
    fn begin(&mut self, network: &Network) {
        if !self.legs.is_empty() {
            return;
        }
        let kind = match self.spread {
            Spread::Single => None,
            Spread::Broadcast => Some(1),
            Spread::Backup(_) => Some(2),
        };
        for path in 0..network.paths() {
            let group = kind.map(|kind| (self.numbers.next(), kind));
            let (mut near, mut far) = connect(&terms(self.filter), network.start, group);
            near.send_only();
            if kind.is_some() {
                self.input.join(&mut far, self.legs.first().map(|leg| &leg.far));
            }
            // The first path is the main one.
            self.legs.push(Leg { near, far, backup: BackupMember::new(10 - path as u16) });
        }
    }

    fn deliver(&mut self, now: Instant) {
        if matches!(self.spread, Spread::Single) {
            while let Some(payload) = self.legs[0].far.poll_payload(now) {
                self.delivered.push(number(&payload));
            }
            return;
        }
        loop {
            let heads = self.legs.iter().enumerate().filter_map(|(at, leg)| Some((at, leg.far.head(now)?)));
            let Some(at) = self.input.choose(heads) else { break };
            let Some(head) = self.legs[at].far.head(now) else { break };
            let payload = self.input.take(head, &mut self.legs[at].far).map(|(payload, _)| payload);
            self.delivered.extend(payload.as_deref().map(number));
            let mut clock = None;
            for leg in &mut self.legs {
                self.input.skip(&mut leg.far, &mut clock);
            }
        }
    }
}

impl Mechanism for Srt {
    fn send(&mut self, number: u32, network: &mut Network) {
        self.begin(network);
        let payload = payload(number);
        let now = network.now;
        let next = self.numbers.next();
        match &mut self.spread {
            Spread::Single => {
                self.legs[0].near.push(&payload, now);
            }
            Spread::Broadcast => {
                for leg in &mut self.legs {
                    leg.near.push_numbered(&payload, next, now);
                }
            }
            Spread::Backup(sender) => {
                for leg in self.legs.iter_mut().filter(|leg| leg.backup.is_active()) {
                    leg.near.push_numbered(&payload, next, now);
                }
                sender.keep(&payload, next, now);
            }
        }
        self.numbers.advance(1);
    }

    fn turn(&mut self, network: &mut Network) {
        let now = network.now;
        while let Some(Arrival { path, forward, bytes, .. }) = network.receive() {
            let leg = &mut self.legs[path];
            let end = if forward { &mut leg.far } else { &mut leg.near };
            end.handle(&Packet::parse(&bytes).expect("a packet of ours"), &bytes, now);
        }
        for leg in &mut self.legs {
            leg.near.handle_timeout(now);
            leg.far.handle_timeout(now);
        }
        if let Spread::Backup(sender) = &mut self.spread {
            let alive = self.legs.iter_mut().filter(|leg| leg.near.closed().is_none());
            let mut legs: Vec<BackupLeg<'_>> =
                alive.map(|leg| BackupLeg { member: &mut leg.backup, connection: &mut leg.near }).collect();
            sender.attend(&mut legs, now);
        }
        for (path, leg) in self.legs.iter_mut().enumerate() {
            for (forward, end) in [(true, &mut leg.near), (false, &mut leg.far)] {
                while let Some(bytes) = end.poll_transmit(now) {
                    let (head, body) = bytes.split_at(HEADER);
                    let is_media = head[0] & 0x80 == 0;
                    // A repair packet has no message number.
                    let is_repair = is_media && head[5..8] == [0; 3];
                    let is_repeat = is_media && head[4] & 0x04 != 0;
                    let media = if is_media { number(body) } else { 0 };
                    let channel = if is_media { Channel::Media } else { Channel::Side };
                    if network.send(path, forward, channel, bytes) && is_media && !is_repair && !is_repeat {
                        network.passed[path].insert(media);
                    }
                }
            }
        }
        self.deliver(now);
    }

    fn delivered(&self) -> &[u32] {
        &self.delivered
    }

    fn check_counted(&self, lost: u64, _: u64, cell: &str) {
        let counted = match self.spread {
            Spread::Single => self.legs[0].far.stats().received.lost,
            _ => self.input.lost,
        };
        assert_eq!(counted, lost, "{cell}: lost packets are counted");
    }

    fn possible(&self, network: &Network) -> Option<BTreeSet<u32>> {
        // What the matrix rebuilds, its own tests compare with a solver. Here nothing may be lost that has arrived.
        Some(network.passed.iter().flatten().copied().filter(|number| *number < JUDGED).collect())
    }

    fn notices_silence(&self) -> Option<bool> {
        Some(self.legs[0].far.closed().is_some() && self.legs[0].near.closed().is_some())
    }
}

pub(super) fn single() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Single, None))
}

pub(super) fn broadcast() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Broadcast, None))
}

pub(super) fn backup() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Backup(BackupSender::default()), None))
}

fn filter(arq: FilterArq) -> Option<PacketFilter> {
    PacketFilter::new(10, 5).ok().map(|filter| filter.arq(arq))
}

pub(super) fn fec_alone() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Single, filter(FilterArq::Never)))
}

pub(super) fn fec_and_retransmission() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Single, filter(FilterArq::OnRequest)))
}

pub(super) fn fec_in_group() -> Box<dyn Mechanism> {
    Box::new(Srt::new(Spread::Broadcast, filter(FilterArq::OnRequest)))
}
