use super::{
    rtcp::{Message, messages, request, requested},
    *,
};
use crate::{
    media::{Packet, rtp::Header},
    test_rng::TestRng,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

const SSRC: u32 = 0x1234_5678;

fn media(number: u16, ssrc: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 96];
    bytes.extend(number.to_be_bytes());
    bytes.extend((u32::from(number) * 90).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(vec![number as u8; 1000]);
    bytes
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn rist_requests_are_written_as_runs_or_bitmasks_and_read_back() {
    for (missing, kind) in [
        (vec![5], 205),
        (vec![65_535, 0, 1, 17], 205),
        ((0..40).collect(), 204),
        ((10..20).chain(30..80).collect(), 204),
        ((0..300).step_by(2).collect::<Vec<u16>>(), 205),
    ] {
        let bytes = request(9, SSRC, &missing);
        assert_eq!(bytes[1], kind, "{missing:?}");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) * 4 + 4, bytes.len());
        let found: Vec<u16> = messages(&bytes).flat_map(|message| requested(message, 1024)).collect();
        assert_eq!(found, missing);
    }
    // As librist writes them: RFC 4585, and the application packet of TR-06-1.
    let nack = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 100, 0x80, 0x01];
    assert_eq!(messages(&nack).flat_map(|m| requested(m, 1024)).collect::<Vec<_>>(), [100, 101, 116]);
    let range = [&[0x80, 204, 0, 3, 0, 0, 0, 2][..], b"RIST", &[0, 100, 0, 2]].concat();
    assert_eq!(messages(&range).flat_map(|m| requested(m, 1024)).collect::<Vec<_>>(), [100, 101, 102]);
    let huge = [&[0x80, 204, 0, 3, 0, 0, 0, 2][..], b"RIST", &[0, 100, 0xff, 0xff]].concat();
    assert_eq!(messages(&huge).flat_map(|m| requested(m, 1024)).count(), 1024, "bounded");
}

#[test]
fn rist_echoes_give_the_round_trip() {
    let start = Instant::now();
    let mut sender = RistSender::new(ms(1000), 0, start);
    let mut receiver = RistReceiver::new(9, ms(1000), start);
    let packet = Packet::rtp(media(1, SSRC), start);
    sender.sent(&packet, start);
    receiver.media(&Header::parse(packet.data()).unwrap(), start);
    for i in 0..20u64 {
        let now = start + ms(100 * i);
        for compound in sender.poll(now) {
            assert_eq!(compound[1], 200, "a compound begins with a report");
            receiver.rtcp(&compound, now + ms(20));
        }
        for compound in receiver.poll(now + ms(20)) {
            assert_eq!(compound[1], 201, "a compound begins with a report");
            sender.rtcp(&compound, now + ms(40));
        }
        for compound in sender.poll(now + ms(40)) {
            receiver.rtcp(&compound, now + ms(60));
        }
    }
    assert_eq!((sender.round_trip(), receiver.round_trip()), (Some(ms(40)), Some(ms(40))));
}

/// A stream over a network that loses packets in both directions, in virtual time.
struct Link {
    rng: TestRng,
    percent: u64,
    now: Instant,
    sender: RistSender,
    receiver: RistReceiver,
    /// Datagrams on their way: the time of arrival, whether to the receiver, whether media, and the bytes.
    flight: VecDeque<(Instant, bool, bool, Vec<u8>)>,
    arrived: BTreeMap<u16, u32>,
    repeats: u64,
}

impl Link {
    fn new(percent: u64, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            rng: TestRng(seed),
            percent,
            now,
            sender: RistSender::new(ms(1000), 0, now),
            receiver: RistReceiver::new(9, ms(1000), now),
            flight: VecDeque::new(),
            arrived: BTreeMap::new(),
            repeats: 0,
        }
    }

    fn send(&mut self, to_receiver: bool, is_media: bool, bytes: Vec<u8>) {
        if self.rng.next_u64() % 100 >= self.percent {
            self.flight.push_back((self.now + ms(25), to_receiver, is_media, bytes));
        }
    }

    fn step(&mut self) {
        self.now += ms(1);
        while self.flight.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to_receiver, is_media, bytes) = self.flight.pop_front().unwrap();
            match (to_receiver, is_media) {
                (true, true) => {
                    let header = Header::parse(&bytes).unwrap();
                    let repeat = self.receiver.media(&header, self.now);
                    assert_eq!(repeat.unwrap_or(header.ssrc), SSRC);
                    *self.arrived.entry(header.sequence).or_default() += 1;
                }
                (true, false) => self.receiver.rtcp(&bytes, self.now),
                _ => {
                    let feedback = self.sender.rtcp(&bytes, self.now);
                    self.repeats += feedback.repeats.len() as u64;
                    for bytes in feedback.repeats {
                        self.send(true, true, bytes);
                    }
                }
            }
        }
        if self.sender.next_timeout() <= self.now {
            for compound in self.sender.poll(self.now) {
                self.send(true, false, compound);
            }
        }
        if self.receiver.next_timeout().is_some_and(|at| at <= self.now) {
            for compound in self.receiver.poll(self.now) {
                self.send(false, false, compound);
            }
        }
    }
}

#[test]
fn rist_recovers_ten_percent_of_loss_at_a_bounded_cost() {
    for seed in [1, 2, 3, 0x5eed] {
        let mut link = Link::new(10, seed);
        for i in 0..4000u32 {
            let number = (i as u16).wrapping_add(u16::MAX - 1000);
            let bytes = media(number, SSRC);
            link.sender.sent(&Packet::rtp(bytes.clone(), link.now), link.now);
            link.send(true, true, bytes);
            link.step();
        }
        for _ in 0..1000 {
            link.step();
        }
        // The last packet may be lost, and nothing tells of it.
        assert!(link.arrived.len() >= 3995, "{seed}: {}", link.arrived.len());
        let loss = 4000 / 10;
        assert!(link.repeats < loss * 14 / 10, "{seed}: {} retransmissions", link.repeats);
    }
}

#[test]
fn rist_sender_does_not_amplify_requests() {
    let start = Instant::now();
    let mut sender = RistSender::new(ms(1000), 0, start);
    for number in 0..1000 {
        sender.sent(&Packet::rtp(media(number, SSRC), start), start);
    }
    let all: Vec<u16> = (0..256).collect();
    let mut repeats = 0;
    for i in 0..1000u64 {
        let feedback = sender.rtcp(&request(9, SSRC, &all), start + Duration::from_micros(100 * i));
        repeats += feedback.repeats.len();
    }
    // In 100 ms each packet is sent again every 25 ms at most.
    assert!(repeats <= 256 * 4, "{repeats}");
    // A flood over a long time is bounded by what was sent, and the savings.
    let mut bytes = 0;
    for i in 0..10_000u64 {
        let now = start + ms(100) + Duration::from_micros(50 * i);
        bytes += sender.rtcp(&request(9, SSRC, &all), now).repeats.iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes <= 6 << 20, "{bytes}");
    // What is too old is asked for in vain.
    let late = start + ms(5000);
    sender.sent(&Packet::rtp(media(1000, SSRC), late), late);
    let feedback = sender.rtcp(&request(9, SSRC, &[3, 1000]), late);
    assert_eq!((feedback.asked, feedback.denied), (2, 1));
}

#[test]
fn rist_receiver_asks_for_what_is_missing_until_it_is_late() {
    let start = Instant::now();
    let mut receiver = RistReceiver::new(9, ms(300), start);
    let push = |receiver: &mut RistReceiver, number, ssrc, now| {
        receiver.media(&Header::parse(&media(number, ssrc)).unwrap(), now)
    };
    assert_eq!(push(&mut receiver, 10, SSRC, start), None);
    push(&mut receiver, 14, SSRC, start);
    assert_eq!(receiver.poll(start + ms(20)).len(), 0, "the sender's port is not known yet");
    receiver.rtcp(&[0x80, 200, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], start);
    let asked = |compounds: Vec<Vec<u8>>| -> Vec<u16> {
        compounds.iter().flat_map(|c| messages(c).flat_map(|m| requested(m, 99)).collect::<Vec<_>>()).collect()
    };
    assert_eq!(asked(receiver.poll(start + ms(30))), [11, 12, 13]);
    assert_eq!(asked(receiver.poll(start + ms(40))), [0u16; 0], "not again before an answer can be there");
    assert_eq!(push(&mut receiver, 12, SSRC | 1, start + ms(80)), Some(SSRC));
    assert_eq!(receiver.retransmitted(), 1);
    assert_eq!(asked(receiver.poll(start + ms(100))), [11, 13]);
    assert_eq!(asked(receiver.poll(start + ms(301))), [0u16; 0], "they are late");
    receiver.reset();
    assert_eq!(receiver.next_timeout(), None);
}

#[test]
fn rist_receiver_asks_for_little_after_forged_packets() {
    let start = Instant::now();
    let mut receiver = RistReceiver::new(9, ms(1000), start);
    for number in [0, 2999] {
        receiver.media(&Header::parse(&media(number, SSRC)).unwrap(), start);
    }
    let report = [0x80, 200, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut asked = 0;
    let mut compounds = 0;
    for i in 0..10_000u64 {
        receiver.rtcp(&report, start + ms(i));
        for compound in receiver.poll(start + ms(i)) {
            asked += messages(&compound).flat_map(|message| requested(message, 1024)).count();
            compounds += 1;
        }
    }
    assert!(asked <= 80 && compounds <= 70, "{asked} packets in {compounds}");
}

proptest! {
    #[test]
    fn rist_survives_any_rtcp(compounds in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..30)) {
        let start = Instant::now();
        let mut sender = RistSender::new(ms(100), 0, start);
        let mut receiver = RistReceiver::new(9, ms(100), start);
        for (i, mut compound) in (0u64..).zip(compounds) {
            let now = start + ms(7 * i);
            let packet = Packet::rtp(media(i as u16 * 3, SSRC), now);
            sender.sent(&packet, now);
            receiver.media(&Header::parse(packet.data()).unwrap(), now);
            if compound.len() > 12 {
                compound[0] = 0x80 | compound[0] & 0x1f;
                compound[1] = 200 + compound[1] % 8;
                compound[2] = 0;
                compound[8..12].copy_from_slice(b"RIST");
            }
            let feedback = sender.rtcp(&compound, now);
            prop_assert!(feedback.repeats.len() <= 1024);
            receiver.rtcp(&compound, now);
            for _ in 0..3 {
                let _ = (sender.poll(now), receiver.poll(now));
            }
        }
    }

    #[test]
    fn rist_requests_of_any_numbers_round_trip(numbers in proptest::collection::btree_set(0u16..2000, 1..200)) {
        let numbers: Vec<u16> = numbers.into_iter().collect();
        let bytes = request(9, SSRC, &numbers);
        let found: Vec<u16> = messages(&bytes).flat_map(|message| requested(message, 1024)).collect();
        prop_assert_eq!(found, numbers);
        prop_assert!(matches!(messages(&bytes).next(), Some(Message::Bitmask(_) | Message::Ranges(_))));
    }
}
