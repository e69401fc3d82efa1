//! Ends of connections: dead peers, peers that acknowledge nothing, faults of the protocol.

use super::*;

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
fn srt_bounds_hostile_packets_within_a_connection() {
    let mut world = World::new(FAIR, Terms::default(), Terms::default(), 3);
    world.connect().send(50, ms(2));
    let now = world.now;
    let mut dice = TestRng(99);
    for round in 0..20_000u32 {
        let mut bytes = vec![0u8; 16 + dice.next_u64() as usize % 64];
        for b in &mut bytes {
            *b = dice.next_u64() as u8;
        }
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
