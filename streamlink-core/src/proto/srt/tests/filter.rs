//! Packet filter over the simulated network: agreement, repairs, and retransmissions beside it.

use super::*;
use crate::packet_filter::PacketFilter;

fn filter(text: &str) -> Option<PacketFilter> {
    Some(text.parse().unwrap())
}

fn filtering(text: &str, millis: u64) -> Terms {
    Terms { filter: filter(text), ..latency(millis) }
}

/// Sends packets over a network. Returns the world at its end.
fn sent(weather: Weather, caller: Terms, listener: Terms, seed: u64, count: u32) -> World {
    let mut world = World::new(weather, caller, listener, seed);
    world.connect().send(count, ms(2));
    world
}

#[test]
fn srt_filter_repairs_without_retransmissions() {
    for (text, loss, least) in [
        ("fec,cols:10,arq:never", 1, 70),
        ("fec,cols:10,rows:5,arq:never", 2, 95),
        ("fec,cols:10,rows:5,layout:even,arq:never", 2, 95),
        ("fec,cols:5,rows:-5,arq:never", 2, 75),
    ] {
        let weather = Weather { loss, delay: ms(50), ..FAIR };
        let mut world = sent(weather, filtering(text, 500), latency(500), 7, 5000);
        let arrived = world.check().len() as u64;
        let sender = world.sender().stats().sent;
        let receiver = world.receiver().stats().received;
        assert_eq!(sender.retransmitted, 0, "{text}");
        assert_eq!((arrived + receiver.lost, receiver.lost), (5000, receiver.unrepaired), "{text}: {receiver:?}");
        let lost = receiver.rebuilt + receiver.unrepaired;
        assert!(lost > 30 && receiver.rebuilt * 100 >= lost * least, "{text}: {lost} lost, {receiver:?}");
        assert!(receiver.repairs > 0 && sender.repairs >= receiver.repairs, "{text}");
        assert_eq!((receiver.wrong_repairs, receiver.duplicates), (0, 0), "{text}");
    }
}

#[test]
fn srt_filter_retransmits_what_it_cannot_repair() {
    for (text, share) in [
        ("fec,cols:10,arq:onreq", 90),
        ("fec,cols:10,rows:5,arq:onreq", 25),
        ("fec,cols:10,rows:5,layout:even", 25),
        ("fec,cols:5,rows:-5,arq:onreq", 60),
        ("fec,cols:10,rows:5,arq:always", 115),
    ] {
        for loss in [2, 5] {
            let weather = Weather { loss, delay: ms(20), ..FAIR };
            let mut world = sent(weather, filtering(text, 1000), latency(1000), 9, 5000);
            assert_eq!(world.check().len(), 5000, "{text}, {loss} %");
            let repeats = world.sender().stats().sent.retransmitted;
            let receiver = world.receiver().stats().received;
            let lost = receiver.rebuilt + receiver.unrepaired;
            assert!(lost > 50 && repeats * 100 <= lost * share, "{text}, {loss} %: {lost} lost, {repeats} sent again");
            assert!(receiver.lost == 0 && receiver.rebuilt > 0, "{text}, {loss} %: {receiver:?}");
        }
    }
}

#[test]
fn srt_filter_retransmits_in_time_when_its_group_is_never_complete() {
    // One packet is lost, and the packets behind it are too few for a repair packet.
    let mut world = World::new(FAIR, filtering("fec,cols:100,rows:40,arq:onreq", 400), latency(400), 3);
    world.connect();
    for i in 0..5 {
        let now = world.now;
        assert!(world.sender().push(&payload(i), now));
        if i == 2 {
            drain(world.sender(), now); // lost
        }
        world.run_until(now + ms(2));
    }
    world.run_until(world.now + ms(1000));
    assert_eq!(world.check(), [0, 1, 2, 3, 4]);
    assert_eq!(world.receiver().stats().received.unrepaired, 1);
}

#[test]
fn srt_filter_repairs_encrypted_packets_over_key_refreshes() {
    for cipher in [CipherMode::Ctr, CipherMode::Gcm] {
        let terms = Terms {
            passphrase: Some("correct horse".into()),
            cipher: Some(cipher),
            key_refresh: 200,
            key_announce: 50,
            ..filtering("fec,cols:8,rows:4,arq:never", 300)
        };
        let weather = Weather { loss: 2, delay: ms(20), ..FAIR };
        let mut world = sent(weather, terms.clone(), terms, 21, 4000);
        let arrived = world.check().len() as u64;
        let stats = world.receiver().stats();
        assert_eq!((arrived + stats.received.lost, stats.undecrypted), (4000, 0), "{cipher:?}");
        assert!(stats.received.rebuilt > 50, "{cipher:?}: {stats:?}");
        let tag = if cipher == CipherMode::Gcm { 16 } else { 0 };
        assert_eq!(world.sender().max_payload(), 1456 - 4 - tag);
    }
}

#[test]
fn srt_filter_does_not_delay_media_at_the_rate_of_the_flow() {
    // The pacing leaves 1 % above the media, and the repair packets are 30 %.
    let terms = Terms { bytes_per_second: 1316 * 505, ..filtering("fec,cols:10,rows:5", 200) };
    let mut world = sent(FAIR, terms, latency(200), 5, 3000);
    assert_eq!(world.check().len(), 3000);
    assert_eq!(world.sender().stats().sent.dropped, 0);
    let late = world.receiver().stats().received.lost;
    assert_eq!(late, 0);
}

#[test]
fn srt_filters_of_both_ends_are_merged_or_rejected() {
    let agreed = |caller: Option<&str>, listener: Option<&str>| {
        let terms = |text: Option<&str>| Terms { filter: text.and_then(filter), ..latency(200) };
        let mut world = World::new(FAIR, terms(caller), terms(listener), 2);
        world.run_until(world.now + ms(500));
        if world.accepted.is_none() {
            assert_eq!(world.rejected, Some(Rejection::FILTER));
            return None;
        }
        assert_eq!(world.rejected, None);
        world.send(100, ms(2));
        assert_eq!(world.check().len(), 100);
        Some((world.sender().stats().sent.repairs, world.receiver().stats().received.repairs))
    };
    assert_eq!(agreed(None, None), Some((0, 0)));
    assert_eq!(agreed(Some("fec,cols:10"), None), Some((10, 10)), "the listener takes it");
    assert_eq!(agreed(None, Some("fec,cols:10")), Some((0, 0)), "the caller has not asked for it");
    assert_eq!(agreed(Some("fec"), Some("fec,cols:20")), Some((5, 5)));
    assert_eq!(agreed(Some("fec,cols:10"), Some("fec,rows:1,arq:always")), Some((10, 10)));
    for (caller, listener) in [
        (Some("fec"), None),
        (Some("fec"), Some("fec")),
        (Some("fec,cols:10"), Some("fec,cols:11")),
        (Some("fec,cols:10,arq:never"), Some("fec,arq:always")),
        (Some("fec,cols:255"), Some("fec,rows:200")),
    ] {
        assert_eq!(agreed(caller, listener), None, "{caller:?} and {listener:?}");
    }
}

#[test]
fn srt_caller_needs_the_listener_to_answer_its_filter() {
    let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
    let (_, answer) = latency(120).accept_here(&conclusion(latency(120)), 0, &local).unwrap();
    let concluded = |terms: &Terms, text: Option<&str>| {
        let mut answer = answer.clone();
        answer.extensions.filter = text.map(str::to_owned);
        let agreement = terms.conclude(&answer, 0, &local, None, Sequence::new(1));
        agreement.map(|agreement| agreement.filter.map(|matrix| (matrix.columns, matrix.rows)))
    };
    let caller = filtering("fec,cols:10,rows:5", 120);
    assert_eq!(concluded(&caller, None), Err(Rejection::FILTER));
    assert_eq!(concluded(&caller, Some("adaptive")), Err(Rejection::FILTER));
    // The listener has the last word.
    assert_eq!(concluded(&caller, Some("fec,cols:8,rows:2")), Ok(Some((8, 2))));
    assert_eq!(concluded(&caller, Some("fec")), Ok(Some((10, 5))));
    assert_eq!(concluded(&latency(120), Some("fec,cols:8")), Ok(Some((8, 1))));
    assert_eq!(concluded(&latency(120), None), Ok(None));
}

#[test]
fn srt_filter_stands_forged_repair_packets() {
    let mut world = World::new(FAIR, filtering("fec,cols:64,rows:64", 300), latency(300), 6);
    world.connect();
    let mut dice = TestRng(31);
    for i in 0..2000 {
        let now = world.now;
        assert!(world.sender().push(&payload(i), now));
        let mut bytes = vec![0u8; 17 + dice.next_u64() as usize % 1455];
        for b in &mut bytes {
            *b = dice.next_u64() as u8;
        }
        // A repair packet near the packets in transit, or anywhere, of a row or of any column.
        let near = world.receiver().stats().received.packets as u32 + (dice.next_u64() % 200) as u32;
        let first = Sequence::new(u32::from_be_bytes([17, 18, 19, 20]));
        let number = if dice.percent(90) { first.after(near).number() } else { dice.next_u64() as u32 & 0x7fff_ffff };
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        bytes[4..8].copy_from_slice(&[0xc0, 0, 0, 0]);
        if dice.percent(50) {
            bytes[16] = 0xff;
        }
        let bytes = Bytes::from(bytes);
        if let Some(packet) = Packet::parse(&bytes) {
            world.receiver().handle(&packet, &bytes, now);
        }
        world.run_until(now + ms(2));
    }
    world.run_until(world.now + ms(2000));
    // A forged repair packet may spoil its group, and no more: nothing was lost, so that nothing is rebuilt wrongly.
    assert_eq!(world.check().len(), 2000);
    let received = world.receiver().stats().received;
    assert!(received.wrong_repairs > 0 && received.rebuilt == 0, "{received:?}");
}

/// Conversations of libsrt 1.5.5 with itself, each datagram behind its length.
const GCM_STAIRCASE: &[u8] = include_bytes!("../../../../corpus/srt_filter/libsrt-gcm-staircase");
const PLAIN_EVEN: &[u8] = include_bytes!("../../../../corpus/srt_filter/libsrt-plain-even");

fn datagrams(mut recording: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some((length, rest)) = recording.split_first_chunk::<2>() {
        let (datagram, behind) = rest.split_at(u16::from_be_bytes(*length).into());
        found.push(Bytes::copy_from_slice(datagram));
        recording = behind;
    }
    found
}

/// Returns the conclusion of a recorded caller and the answer of its listener, with the timestamp of the conclusion.
fn handshakes(recording: &[u8]) -> (Handshake, Handshake, u32) {
    let mut found = Vec::new();
    for datagram in &datagrams(recording) {
        if let Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }) = Packet::parse(datagram)
            && let Some(handshake) = Handshake::parse(body).filter(|found| found.extensions.srt.is_some())
        {
            found.push((handshake, timestamp));
        }
    }
    let [(request, timestamp), (answer, _)] = &found[..] else { panic!("{} conclusions", found.len()) };
    assert!(request.is_request() && answer.extensions.response);
    (request.clone(), answer.clone(), *timestamp)
}

/// Plays a recorded caller to a listener of these terms. Every packet of media whose place is `lost` modulo 12 is left
/// out. Returns the payloads and the statistics.
fn replayed(recording: &[u8], terms: &Terms, lost: usize) -> (Vec<Bytes>, ConnectionStats) {
    let (request, _, timestamp) = handshakes(recording);
    let mut now = Instant::now();
    let local = Local { id: 200, start: now, random: Random::of(random) };
    let (agreement, _) = terms.accept_here(&request, timestamp, &local).unwrap();
    let mut connection = Connection::new(agreement, now);
    let mut payloads = Vec::new();
    let mut place = 0;
    for datagram in datagrams(recording) {
        let Some(packet) = Packet::parse(&datagram) else { panic!("a packet of libsrt cannot be read") };
        let Packet::Data(header) = packet else { continue };
        place += usize::from(header.message != 0);
        if header.message != 0 && place % 12 == lost {
            continue;
        }
        now += ms(1);
        connection.handle(&packet, &datagram, now);
        connection.handle_timeout(now);
        payloads.extend(std::iter::from_fn(|| connection.poll_payload(now)));
    }
    for _ in 0..600 {
        now += ms(10);
        connection.handle_timeout(now);
        payloads.extend(std::iter::from_fn(|| connection.poll_payload(now)));
    }
    (payloads, connection.stats())
}

#[test]
fn srt_gcm_and_filter_of_libsrt_are_understood() {
    let secret = Terms { passphrase: Some("correct-horse".into()), key_length: 16, ..latency(300) };
    let gcm = Terms { cipher: Some(CipherMode::Gcm), filter: filter("fec,cols:10"), ..secret.clone() };
    for (recording, terms, count) in [
        (GCM_STAIRCASE, &secret, 160),
        (GCM_STAIRCASE, &gcm, 160),
        (PLAIN_EVEN, &latency(300), 100),
        (PLAIN_EVEN, &filtering("fec,layout:even,rows:4", 300), 100),
    ] {
        let (all, stats) = replayed(recording, terms, 99);
        assert_eq!((all.len(), stats.received.rebuilt, stats.undecrypted), (count, 0, 0));
        assert!(stats.received.repairs > 20 && stats.received.wrong_repairs == 0, "{stats:?}");
        assert!(all.iter().all(|payload| payload.len() == 188 && payload[0] == 0x47));
        for lost in 0..12 {
            let (some, stats) = replayed(recording, terms, lost);
            // Packets at both ends of the recording are in no whole group.
            assert!(some.len() + 3 >= count && stats.received.rebuilt >= 5, "{lost}: {} {stats:?}", some.len());
            assert!(some.iter().all(|payload| all.contains(payload)), "altered");
            assert_eq!((stats.undecrypted, stats.received.wrong_repairs), (0, 0), "{lost}");
        }
    }
}

#[test]
fn srt_handshakes_of_libsrt_with_gcm_and_filter_are_answered_as_it_does() {
    let local = Local { id: 200, start: Instant::now(), random: Random::of(random) };
    let secret = Terms { passphrase: Some("correct-horse".into()), ..latency(300) };
    let (request, answer, timestamp) = handshakes(GCM_STAIRCASE);
    assert_eq!(request.extensions.filter.as_deref(), Some("fec,cols:10,rows:5"));
    let (agreement, ours) = secret.accept_here(&request, timestamp, &local).unwrap();
    let matrix = |handshake: &Handshake| handshake.extensions.filter.as_deref().unwrap().parse::<PacketFilter>();
    assert_eq!(matrix(&ours).unwrap().matrix(), matrix(&answer).unwrap().matrix());
    assert_eq!(ours.extensions.key_material, answer.extensions.key_material);
    assert_eq!(agreement.max_payload, 1456 - 16 - 4);
    // The answer of libsrt's listener concludes a call of ours.
    let keys = || Some(Keys::generate(32, CipherMode::Gcm, &[1; 48], "correct-horse"));
    let caller = Terms { cipher: Some(CipherMode::Gcm), filter: filter("fec,cols:10,rows:5"), ..secret.clone() };
    let concluded = caller.conclude(&answer, 0, &local, keys(), Sequence::new(1)).unwrap();
    assert_eq!(concluded.filter, matrix(&answer).unwrap().matrix());
    // Other ciphers and other matrices are rejected.
    let ctr = Terms { cipher: Some(CipherMode::Ctr), ..secret.clone() };
    assert_eq!(ctr.accept_here(&request, 0, &local).err(), Some(Rejection::CRYPTO));
    let other = Terms { filter: filter("fec,cols:9"), ..secret.clone() };
    assert_eq!(other.accept_here(&request, 0, &local).err(), Some(Rejection::FILTER));
    let wrong = Terms { passphrase: Some("wrong-horse".into()), ..secret };
    assert_eq!(wrong.accept_here(&request, 0, &local).err(), Some(Rejection::BAD_SECRET));
}
