//! Merges in virtual time.

use super::*;
use crate::wire::{Kind, decode};
use bytes::Bytes;
use proptest::prelude::*;

const WAIT: Duration = Duration::from_secs(1);

struct Rig {
    merge: Merger,
    now: Instant,
    out: Output,
}

impl Rig {
    fn new(family: MediaFamily, legs: usize) -> Self {
        let mut rig = Self { merge: Merger::new(family, WAIT), now: Instant::now(), out: Output::default() };
        for leg in 0..legs {
            rig.merge.set_leg(leg, true, rig.now);
        }
        rig.now += Duration::from_secs(10); // the legs have caught up
        rig
    }

    fn datagram(&mut self, leg: usize, group: u64, index: u64) {
        let data = Bytes::from(format!("{group}.{index}"));
        let packet = MediaPacket { kind: Kind::Datagram, is_repeated: false, data };
        let object = DecodedObject { follows: None, packets: vec![packet] };
        self.merge.insert(LegObject { leg, group, index, object }, self.now, &mut self.out);
    }

    fn rtp(&mut self, leg: usize, follows: Option<u16>, sequences: &[u16]) {
        let packet = |sequence: &u16| {
            let data = [&[0x80, 33][..], &sequence.to_be_bytes(), &[0; 8]].concat();
            MediaPacket { kind: Kind::Rtp, is_repeated: false, data: data.into() }
        };
        let object = DecodedObject { follows, packets: sequences.iter().map(packet).collect() };
        self.merge.insert(LegObject { leg, group: 1, index: 0, object }, self.now, &mut self.out);
    }

    fn end(&mut self, group: u64, objects: u64) {
        self.merge.end_group(group, objects, self.now, &mut self.out);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.merge.poll(self.now, &mut self.out);
    }

    fn texts(&self) -> Vec<String> {
        self.out.packets.iter().map(|packet| String::from_utf8_lossy(&packet.data).into_owned()).collect()
    }

    fn sequences(&self) -> Vec<u16> {
        self.out.packets.iter().filter_map(|packet| crate::wire::rtp_sequence(&packet.data)).collect()
    }
}

#[test]
fn merge_passes_the_first_copy_in_order() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 2);
    rig.datagram(0, 7, 0);
    rig.datagram(1, 7, 1);
    rig.datagram(1, 7, 0);
    rig.datagram(1, 8, 0); // overtakes the end of its group
    rig.datagram(0, 7, 1);
    assert_eq!(rig.texts(), ["7.0", "7.1"]);
    rig.end(7, 2);
    assert_eq!(rig.texts(), ["7.0", "7.1", "8.0"]);
    let counts = [rig.merge.counts(0), rig.merge.counts(1)];
    assert_eq!((counts[0].first, counts[0].duplicates), (1, 1));
    assert_eq!((counts[1].first, counts[1].duplicates), (2, 1));
    assert_eq!(rig.merge.resume_from(), Some(8));
}

#[test]
fn merge_gives_up_what_no_leg_brings() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 2);
    rig.datagram(0, 1, 0);
    rig.datagram(0, 1, 3);
    rig.pass(WAIT - Duration::from_millis(1));
    assert_eq!((rig.texts().len(), rig.out.lost), (1, 0));
    rig.pass(Duration::from_millis(1));
    assert_eq!((rig.texts(), rig.out.lost), (vec!["1.0".to_owned(), "1.3".to_owned()], 2));
    assert_eq!(rig.merge.deadline(), None);
    // A copy that comes now is late, and harmless.
    rig.datagram(1, 1, 2);
    assert_eq!((rig.texts().len(), rig.merge.counts(1).late), (2, 1));
    rig.end(1, 4);
    rig.datagram(0, 3, 1);
    rig.pass(WAIT);
    assert_eq!((rig.out.lost, rig.out.lost_groups), (3, 1));
    assert_eq!(rig.merge.deadline(), None);
}

#[test]
fn merge_gives_a_leg_that_returns_time_to_catch_up() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 2);
    rig.datagram(0, 1, 0);
    rig.merge.set_leg(0, false, rig.now);
    rig.merge.set_leg(1, false, rig.now);
    rig.pass(Duration::from_secs(2));
    rig.merge.set_leg(0, true, rig.now);
    rig.datagram(0, 3, 0); // relays send the newest group first
    rig.pass(Duration::from_millis(2900));
    assert_eq!(rig.texts(), ["1.0"]);
    rig.end(1, 1);
    rig.datagram(0, 2, 0);
    rig.end(2, 1);
    assert_eq!(rig.texts(), ["1.0", "2.0", "3.0"]);
    rig.datagram(0, 5, 0);
    rig.pass(WAIT);
    assert_eq!((rig.texts().len(), rig.out.lost_groups), (4, 2));
}

#[test]
fn merge_follows_a_publisher_that_begins_again() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 1);
    rig.datagram(0, 5_000, 0);
    rig.datagram(0, 900_000, 0);
    rig.pass(WAIT);
    assert_eq!((rig.out.lost, rig.out.restarts), (0, 1));
    // Late objects of a slow leg change nothing, however many they are.
    for index in 0..10 * MAX_LATE {
        rig.datagram(0, 899_999, index);
    }
    assert_eq!(rig.out.restarts, 1);
    // Another one, with smaller numbers.
    rig.pass(Duration::from_secs(3));
    for index in 0..MAX_LATE + 2 {
        rig.datagram(0, 17, index);
    }
    assert_eq!(rig.out.restarts, 2);
    assert_eq!(rig.texts().last().unwrap(), &format!("17.{}", MAX_LATE + 1));
}

#[test]
fn merge_counts_what_one_leg_loses() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 2);
    rig.pass(Duration::from_secs(2));
    for index in 0..400 {
        rig.datagram(0, 1, index);
        if index % 20 != 0 {
            rig.datagram(1, 1, index);
        }
        rig.pass(Duration::from_millis(10));
    }
    let counts = [rig.merge.counts(0), rig.merge.counts(1)];
    assert_eq!(counts[0].lost, 0);
    assert_eq!(counts[1].lost, counts[1].expected / 20, "{counts:?}");
    assert!(counts[1].expected >= 100, "{counts:?}");
}

#[test]
fn merge_bounds_what_waits() {
    let mut rig = Rig::new(MediaFamily::Datagrams, 1);
    rig.datagram(0, 0, 0);
    for group in 1..=2 * u64::try_from(MAX_WAITING).unwrap() {
        rig.datagram(0, group * 2, 0);
    }
    assert!(rig.texts().len() > MAX_WAITING, "{}", rig.texts().len());
    for group in 0..10_000 {
        rig.end(u64::MAX - group, 1);
    }
}

#[test]
fn rtp_merge_fills_what_each_node_lost() {
    let mut rig = Rig::new(MediaFamily::Rtp, 2);
    rig.rtp(0, None, &[65_534, 65_535]);
    rig.rtp(1, None, &[65_534]);
    rig.rtp(0, Some(65_535), &[1, 2]); // 0 is lost at the first node
    assert_eq!(rig.sequences(), [65_534, 65_535]);
    rig.rtp(1, Some(65_534), &[0, 1]); // 65535 at the second
    assert_eq!(rig.sequences(), [65_534, 65_535, 0, 1, 2]);
    assert_eq!(rig.out.lost, 0);
}

#[test]
fn rtp_merge_does_not_wait_for_what_no_node_has() {
    let mut rig = Rig::new(MediaFamily::Rtp, 2);
    rig.rtp(0, None, &[10]);
    rig.rtp(0, Some(10), &[12]);
    assert_eq!(rig.sequences(), [10]);
    rig.rtp(1, Some(10), &[12]);
    assert_eq!(rig.sequences(), [10, 12]);
    // The second leg ends: the first decides alone.
    rig.merge.set_leg(1, false, rig.now);
    rig.rtp(0, Some(12), &[14]);
    assert_eq!(rig.sequences(), [10, 12, 14]);
    assert_eq!((rig.out.lost, rig.merge.deadline()), (0, None));
}

#[test]
fn rtp_merge_waits_for_a_bounded_time() {
    let mut rig = Rig::new(MediaFamily::Rtp, 2);
    rig.rtp(0, None, &[10]);
    rig.rtp(0, None, &[13]);
    rig.pass(WAIT);
    assert_eq!((rig.sequences(), rig.out.lost), (vec![10, 13], 2));
    rig.rtp(1, None, &[11]);
    assert_eq!((rig.sequences().len(), rig.merge.counts(1).late), (2, 1));
}

#[test]
fn rtp_merge_follows_an_encoder_that_begins_again() {
    let mut rig = Rig::new(MediaFamily::Rtp, 2);
    rig.rtp(0, None, &[100, 101]);
    rig.rtp(1, None, &[100]);
    rig.rtp(0, None, &[40_000, 40_001, 40_002]);
    rig.rtp(1, None, &[101, 102, 103, 104]); // the other leg is behind
    rig.rtp(1, None, &[40_000, 40_001, 40_002, 40_003]);
    rig.rtp(0, None, &[40_003, 40_004]);
    assert_eq!(rig.sequences(), [100, 101, 40_000, 40_001, 40_002, 40_003, 40_004]);
    assert_eq!(rig.out.restarts, 1);
    // One stray packet changes nothing.
    rig.rtp(0, None, &[9]);
    rig.rtp(0, None, &[40_005]);
    assert_eq!(rig.sequences().last(), Some(&40_005));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever relays send, nothing panics, and objects go on in their order and at most once.
    #[test]
    fn merge_survives_any_objects(
        objects in proptest::collection::vec((0..4_usize, any::<u8>(), 0..20_u64, any::<bool>()), 0..400),
    ) {
        let mut rig = Rig::new(MediaFamily::Datagrams, 2);
        for (leg, group, index, is_end) in objects {
            if is_end {
                rig.end(u64::from(group), index);
            } else {
                rig.datagram(leg, u64::from(group), index);
            }
            rig.pass(Duration::from_millis(50));
        }
        rig.pass(Duration::from_secs(60));
        prop_assert_eq!(rig.merge.deadline(), None);
        if rig.out.restarts == 0 {
            let mut keys: Vec<(u64, u64)> = Vec::new();
            for text in rig.texts() {
                let (group, index) = text.split_once('.').unwrap();
                keys.push((group.parse().unwrap(), index.parse().unwrap()));
            }
            prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn rtp_merge_survives_any_packets(
        objects in proptest::collection::vec(
            (0..4_usize, any::<Option<u16>>(), proptest::collection::vec(any::<u16>(), 1..5)), 0..400),
    ) {
        let mut rig = Rig::new(MediaFamily::Rtp, 2);
        for (leg, follows, sequences) in objects {
            rig.rtp(leg, follows, &sequences);
            rig.pass(Duration::from_millis(50));
        }
        rig.pass(Duration::from_secs(60));
        prop_assert_eq!(rig.merge.deadline(), None);
    }

    /// Any loss at the two nodes: all that one of them has goes on, in order.
    #[test]
    fn rtp_merge_loses_nothing_that_a_node_has(
        first in any::<u16>(), lost in proptest::collection::vec((any::<bool>(), any::<bool>()), 20..300),
    ) {
        let mut rig = Rig::new(MediaFamily::Rtp, 2);
        let mut last = [first, first];
        rig.rtp(0, None, &[first]);
        rig.rtp(1, None, &[first]);
        let mut expected = vec![first];
        for (offset, lost) in lost.iter().enumerate() {
            let sequence = first.wrapping_add(1 + u16::try_from(offset).unwrap());
            for (leg, is_lost) in [lost.0, lost.1].into_iter().enumerate() {
                if !is_lost {
                    rig.rtp(leg, Some(last[leg]), &[sequence]);
                    last[leg] = sequence;
                }
            }
            if !(lost.0 && lost.1) {
                expected.push(sequence);
            }
        }
        rig.pass(WAIT);
        prop_assert_eq!(rig.sequences(), expected);
    }

    #[test]
    fn decode_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..4_usize) {
        let family = MediaFamily::ALL[kind];
        let framed = [&[1, 1, 0, 5][..], &bytes].concat();
        let total = |object: &DecodedObject| object.packets.iter().map(|p| p.data.len()).sum::<usize>();
        for bytes in [bytes, framed] {
            let bytes = Bytes::from(bytes);
            if let Ok(object) = decode(&bytes, family) {
                prop_assert!(total(&object) <= bytes.len() && !object.packets.is_empty());
            }
        }
    }

    #[test]
    fn catalog_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,200}") {
        let _ = crate::wire::Catalog::parse(&bytes);
        let _ = crate::wire::Catalog::parse(text.as_bytes());
    }
}
