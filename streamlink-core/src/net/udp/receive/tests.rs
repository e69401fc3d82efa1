//! The memory of a receiver, whatever is kept of what it has received.

use super::*;
use crate::net::{UdpOptions, UdpSocket};
use std::net::UdpSocket as Plain;

/// A socket with its receiver, and one that sends to it.
struct Rig {
    socket: UdpSocket,
    sender: Plain,
    memory: Receiver,
}

impl Rig {
    fn new(rate: u64) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::receiving(local, &UdpOptions::default()).unwrap();
        let sender = Plain::bind(local).unwrap();
        sender.connect(socket.local_addr()).unwrap();
        Self { socket, sender, memory: Receiver::new(rate) }
    }

    /// Sends a datagram, and receives it.
    fn pass(&mut self, datagram: &[u8]) -> Bytes {
        self.sender.send(datagram).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let mut received = None;
        while received.is_none() {
            assert!(Instant::now() < end, "a datagram did not come");
            let result = self.memory.receive(self.socket.as_raw_fd(), |datagram| received = Some(datagram.data));
            assert!(result.is_ok() || result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        }
        received.unwrap()
    }

    /// Lanes whose memory it knows of, those included that packets hold.
    fn lanes(&self) -> usize {
        self.memory.lanes.len() + self.memory.resting.lanes.len()
    }

    fn most(&self) -> usize {
        (RESTING_PER_LANE + 2) * self.memory.lanes.len()
    }
}

/// Returns whether the bytes lie in a lane that the receiver still counts.
fn lies_in(lane: &BytesMut, bytes: &Bytes) -> bool {
    // A used-up lane is at its end: what was split off lies before it.
    let end = lane.as_ptr() as usize + lane.capacity();
    (end.saturating_sub(LANE)..end).contains(&(bytes.as_ptr() as usize))
}

#[tokio::test]
async fn udp_receiver_memory_is_bounded_whatever_is_kept() {
    let mut rig = Rig::new(1_000_000);
    let garbage = vec![0; 60_000];
    let mut kept = Vec::new();
    for number in 0..400u32 {
        rig.pass(&garbage);
        let datagram: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(188).collect();
        kept.push((rig.pass(&datagram), datagram));
        assert!(rig.lanes() <= rig.most(), "{} lanes after {number} packets", rig.lanes());
    }
    assert!(kept.iter().all(|(got, sent)| got == sent));
    // Every packet is in a lane that is counted, or in memory of its own: none holds a lane that nobody counts.
    let memory = &rig.memory;
    let counted = |bytes: &Bytes| {
        let in_use = memory.lanes.iter().map(|lane| &lane.memory);
        in_use.chain(&memory.resting.lanes).any(|lane| lies_in(lane, bytes))
    };
    let in_lanes = kept.iter().filter(|(bytes, _)| counted(bytes)).count();
    assert!(in_lanes <= 2 * rig.most(), "{in_lanes} of 400 packets hold lanes");
    assert!(in_lanes > 0, "nothing was handed out without copying");
}

#[tokio::test]
async fn udp_receiver_copies_no_more_once_what_was_kept_is_gone() {
    let mut rig = Rig::new(1_000_000);
    let garbage = vec![0; 60_000];
    let mut kept = Vec::new();
    while !rig.memory.lanes[0].copies {
        rig.pass(&garbage);
        kept.push(rig.pass(&[1; 188]));
        assert!(kept.len() < 1000, "it never copies");
    }
    // One packet is kept for ever: the others' lanes are found all the same.
    kept.truncate(1);
    for _ in 0..100 {
        rig.pass(&[2; 188]);
    }
    assert!(rig.memory.lanes.iter().all(|lane| !lane.copies || lane.memory.is_empty()));
    assert!(!rig.memory.lanes[0].copies);
    drop(kept);
    rig.memory.release_idle();
    assert!(rig.memory.resting.lanes.is_empty());
}

#[tokio::test]
async fn udp_receiver_at_rest_still_counts_what_is_kept() {
    let mut rig = Rig::new(1_000_000);
    let kept = rig.pass(&[3; 188]);
    for _ in 0..4 {
        rig.pass(&[0; 60_000]);
    }
    rig.memory.release_idle();
    assert_eq!(rig.memory.resting.lanes.len(), 1);
    drop(kept);
    rig.memory.release_idle();
    assert!(rig.memory.resting.lanes.is_empty());
}

#[test]
fn udp_receiver_in_ordinary_traffic_never_copies_and_allocates_no_more() {
    // 1316 bytes at a time, held for 500 packets: as much as one lane and a half.
    let mut lane = Lane { memory: BytesMut::with_capacity(LANE), copies: false };
    let mut resting = Resting { lanes: VecDeque::new(), most: RESTING_PER_LANE, probe: 0 };
    let mut held = VecDeque::new();
    for _ in 0..100_000 {
        lane.refill(&mut resting);
        assert!(!lane.copies);
        lane.memory.extend_from_slice(&[7; 1332]);
        lane.split(None, false, |bytes| held.push_back(bytes));
        if held.len() > 200 {
            held.pop_front();
        }
    }
    assert!(resting.lanes.len() <= SURPLUS + 5, "{} lanes", resting.lanes.len());
}
